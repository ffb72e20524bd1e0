//! What a pipeline says of itself: the answer of `GET /_cdc`, and the counters behind it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use egret_engine::Lsn;
use parking_lot::Mutex;
use serde::Serialize;

/// Commits remembered to tell how old what is not visible is, and the least time between two.
const MAX_COMMITS: usize = 1024;
const COMMIT_SPACING_MS: u64 = 10;

/// What a pipeline is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PipelineState {
    /// Reaching for the database.
    Connecting,
    /// Reading tables as they stand; none is followed yet.
    Copying,
    /// Following the log. Tables may be copied meanwhile.
    Streaming,
    /// Waiting before another attempt; `reason` says what failed.
    Retrying,
    /// The slot lost changes or held back too much of the log: the tables are about to be copied
    /// again; `reason` says why.
    Resnapshot,
    /// Stopped by itself, because going on could skip or mix changes; `reason` says what to do.
    Refused,
    /// Standing still on request, until it is resumed. Its slot keeps the log, up to
    /// `max_retained_wal_bytes`.
    Paused,
    /// Stopped on request.
    Stopped,
}

/// What is being done with one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TableState {
    /// Its turn has not come.
    Waiting,
    /// Its rows are being read, beside the stream of the others; searches see its older index, where
    /// there is one.
    Copying,
    /// Its rows are read, and the changes since then are being applied.
    CatchingUp,
    /// Its changes are followed.
    Streaming,
    /// Its index failed, as `reason` says, and holds nothing newer than `stale_since`. It is tried
    /// again; the other tables are followed.
    Stale,
    /// It is not followed; `reason` says why.
    Skipped,
}

/// One table of a pipeline.
#[derive(Debug, Clone, Serialize)]
pub struct TableStatus {
    /// The table, as `schema.table`.
    pub table: String,
    /// The index that follows it.
    pub index: String,
    /// What is being done with it.
    pub state: TableState,
    /// Why it is not followed, or is copied, or follows an earlier declaration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Until when, in milliseconds since 1970, it can go back to the index from before its last copy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept_until_in_millis: Option<i64>,
    /// Why it cannot go back to that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_way_back: Option<String>,
    /// What its index holds, where it holds nothing newer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stale_since: Option<Lsn>,
    /// Rows that the running copy reads a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows_per_second: Option<u64>,
    /// Seconds that the running copy may still take, as far as the planner's guess is right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds_left: Option<u64>,
    /// Rows that the planner expects in it, and in the tables that its documents are made of besides; a
    /// guide for progress, not a count.
    pub rows_estimated: u64,
    /// Rows of all these read by the copy.
    pub rows_copied: u64,
    /// Of these, the ones that it had read before it was interrupted.
    pub rows_resumed: u64,
    /// Changes applied from the stream.
    pub rows_streamed: u64,
    /// Rows that could not be indexed.
    pub rows_rejected: u64,
}

/// Positions in the database's log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct PipelineLsns {
    /// Everything up to here was received.
    pub received: Option<Lsn>,
    /// Everything up to here was applied by every index.
    pub applied: Option<Lsn>,
    /// Everything up to here is seen by searches of every index.
    pub visible: Option<Lsn>,
    /// Everything up to here is durable in every index, and was acknowledged to the database.
    pub confirmed: Option<Lsn>,
    /// Where the database's log stood when last asked.
    pub server: Option<Lsn>,
}

/// How far the pipeline is behind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Lag {
    /// Bytes of log between the server's end and what is visible.
    pub bytes: Option<u64>,
    /// Seconds since what is visible was everything there was; 0 when it is.
    pub seconds: Option<f64>,
}

/// The state of one pipeline.
#[derive(Debug, Clone, Serialize)]
pub struct PipelineStatus {
    /// Its name.
    pub name: String,
    /// What it is doing.
    pub state: PipelineState,
    /// Why, where the state needs a reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Milliseconds since 1970 when this state began.
    pub state_since_ms: u64,
    /// Its slot.
    pub slot: String,
    /// Its publication.
    pub publication: String,
    /// The database cluster's system identifier.
    pub system_identifier: Option<u64>,
    /// The timeline.
    pub timeline: Option<u32>,
    /// Positions.
    pub lsn: PipelineLsns,
    /// How far it is behind.
    pub lag: Lag,
    /// Its tables.
    pub tables: Vec<TableStatus>,
    /// Transactions applied since the start.
    pub transactions: u64,
    /// Of these, the ones that did not fit into memory.
    pub spooled_transactions: u64,
    /// Rows read by copies since the start.
    pub rows_copied: u64,
    /// Changes applied from the stream since the start.
    pub rows_streamed: u64,
    /// Copies begun since the start.
    pub copies: u64,
    /// Connections that failed or broke since the start.
    pub connection_failures: u64,
    /// The last failure, also when it has since been overcome.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// Rows that could not be indexed and are listed as dead letters.
    pub dead_letters: u64,
    /// Bytes of log that the slot makes the database keep.
    pub retained_wal_bytes: Option<u64>,
    /// What the database says of that log (`reserved`, `extended`, `unreserved`, `lost`).
    pub wal_status: Option<String>,
}

/// Counters of one table, kept by whoever copies or streams it.
#[derive(Debug, Default)]
pub(crate) struct TableCounters {
    pub(crate) copied: AtomicU64,
    /// Of these, the ones that an interrupted copy had read.
    pub(crate) resumed: AtomicU64,
    pub(crate) streamed: AtomicU64,
    pub(crate) rejected: AtomicU64,
}

/// One table as the status knows it.
#[derive(Debug, Clone)]
pub(crate) struct TableEntry {
    pub(crate) table: String,
    pub(crate) index: String,
    pub(crate) state: TableState,
    pub(crate) reason: Option<String>,
    pub(crate) kept_until_in_millis: Option<i64>,
    pub(crate) no_way_back: Option<String>,
    pub(crate) stale_since: Option<Lsn>,
    /// When its copy began.
    pub(crate) copying_since: Option<Instant>,
    pub(crate) rows_estimated: u64,
    pub(crate) counters: Arc<TableCounters>,
}

/// What changes rarely.
#[derive(Debug)]
struct Facts {
    state: PipelineState,
    reason: Option<String>,
    state_since_ms: u64,
    system_identifier: Option<u64>,
    timeline: Option<u32>,
    tables: Vec<TableEntry>,
    /// By table; a table may be counted for before it is shown.
    counters: BTreeMap<String, Arc<TableCounters>>,
    last_error: Option<String>,
    wal_status: Option<String>,
}

impl Facts {
    fn counters(&mut self, table: &str) -> Arc<TableCounters> {
        Arc::clone(self.counters.entry(table.to_owned()).or_default())
    }
}

/// The living state behind [`PipelineStatus`], shared by the pipeline's parts.
#[derive(Debug)]
pub(crate) struct StatusBoard {
    name: String,
    slot: String,
    publication: String,
    /// Held for the time of a copy in or out; nothing is called under it.
    facts: Mutex<Facts>,
    pub(crate) received: AtomicU64,
    pub(crate) confirmed: AtomicU64,
    pub(crate) server: AtomicU64,
    pub(crate) transactions: AtomicU64,
    pub(crate) spooled_transactions: AtomicU64,
    pub(crate) copies: AtomicU64,
    pub(crate) connection_failures: AtomicU64,
    pub(crate) dead_letters: AtomicU64,
    pub(crate) retained_wal_bytes: AtomicU64,
    /// Milliseconds since 1970 when the server was last heard.
    heard_ms: AtomicU64,
    /// Ends and times of commits that may not be visible yet, oldest first; thinned, so that it
    /// stays within [`MAX_COMMITS`].
    commits: Mutex<VecDeque<(Lsn, u64)>>,
}

impl StatusBoard {
    pub(crate) fn new(name: &str, slot: String, publication: String) -> Self {
        Self {
            name: name.to_owned(),
            slot,
            publication,
            facts: Mutex::new(Facts {
                state: PipelineState::Connecting,
                reason: None,
                state_since_ms: now_ms(),
                system_identifier: None,
                timeline: None,
                tables: Vec::new(),
                counters: BTreeMap::new(),
                last_error: None,
                wal_status: None,
            }),
            received: AtomicU64::new(0),
            confirmed: AtomicU64::new(0),
            server: AtomicU64::new(0),
            transactions: AtomicU64::new(0),
            spooled_transactions: AtomicU64::new(0),
            copies: AtomicU64::new(0),
            connection_failures: AtomicU64::new(0),
            dead_letters: AtomicU64::new(0),
            retained_wal_bytes: AtomicU64::new(u64::MAX),
            heard_ms: AtomicU64::new(0),
            commits: Mutex::new(VecDeque::new()),
        }
    }

    pub(crate) fn state(&self) -> PipelineState {
        self.facts.lock().state
    }

    pub(crate) fn set_state(&self, state: PipelineState, reason: Option<String>) {
        let mut facts = self.facts.lock();
        if facts.state != state {
            facts.state_since_ms = now_ms();
        }
        facts.state = state;
        if let Some(reason) = &reason {
            facts.last_error = Some(reason.clone());
        }
        facts.reason = reason;
    }

    pub(crate) fn set_system(&self, system_identifier: u64, timeline: u32) {
        let mut facts = self.facts.lock();
        facts.system_identifier = Some(system_identifier);
        facts.timeline = Some(timeline);
    }

    /// The system and timeline that the pipeline follows, once known.
    pub(crate) fn system(&self) -> Option<(u64, u32)> {
        let facts = self.facts.lock();
        facts.system_identifier.zip(facts.timeline)
    }

    pub(crate) fn set_wal_status(&self, wal_status: Option<String>, retained: Option<u64>) {
        self.facts.lock().wal_status = wal_status;
        self.retained_wal_bytes.store(retained.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Puts the tables in place of those known, keeping the counters of those that stay.
    pub(crate) fn set_tables(&self, mut tables: Vec<TableEntry>) {
        let mut facts = self.facts.lock();
        for entry in &mut tables {
            if let Some(known) = facts.tables.iter().find(|known| known.table == entry.table) {
                entry.copying_since = known.copying_since;
            }
            entry.counters = facts.counters(&entry.table);
        }
        facts.counters.retain(|table, _| tables.iter().any(|entry| entry.table == *table));
        facts.tables = tables;
    }

    /// Who counts for a table, which may be shown only later.
    pub(crate) fn counters(&self, table: &str) -> Arc<TableCounters> {
        self.facts.lock().counters(table)
    }

    /// Changes what is said of a table.
    pub(crate) fn set_table(&self, now: TableEntry) {
        let mut facts = self.facts.lock();
        if let Some(entry) = facts.tables.iter_mut().find(|entry| entry.table == now.table) {
            let begun = (now.state == TableState::Copying).then(Instant::now);
            let copying_since = begun.map(|now| entry.copying_since.unwrap_or(now));
            let (rows_estimated, counters) = (entry.rows_estimated, Arc::clone(&entry.counters));
            *entry = TableEntry { copying_since, rows_estimated, counters, ..now };
        }
    }

    /// The tables, and what is being done with each.
    pub(crate) fn tables(&self) -> Vec<(String, TableState)> {
        let facts = self.facts.lock();
        facts.tables.iter().map(|entry| (entry.table.clone(), entry.state)).collect()
    }

    /// The names of the indexes that the stream writes to now; not known before the tables are.
    pub(crate) fn indexes_followed(&self) -> Option<Vec<String>> {
        let facts = self.facts.lock();
        let followed = facts.tables.iter().filter(|entry| entry.state == TableState::Streaming);
        (!facts.tables.is_empty()).then(|| followed.map(|entry| entry.index.clone()).collect())
    }

    /// The status, with the positions that the indexes themselves report.
    pub(crate) fn status(&self, applied: Option<Lsn>, visible: Option<Lsn>) -> PipelineStatus {
        let facts = self.facts.lock();
        let load =
            |value: &AtomicU64| Some(value.load(Ordering::Relaxed)).filter(|&lsn| lsn > 0).map(Lsn);
        let lsn = PipelineLsns {
            received: load(&self.received),
            applied,
            visible,
            confirmed: load(&self.confirmed),
            server: load(&self.server),
        };
        let tables: Vec<TableStatus> = facts.tables.iter().map(table_status).collect();
        let retained = self.retained_wal_bytes.load(Ordering::Relaxed);
        PipelineStatus {
            name: self.name.clone(),
            state: facts.state,
            reason: facts.reason.clone(),
            state_since_ms: facts.state_since_ms,
            slot: self.slot.clone(),
            publication: self.publication.clone(),
            system_identifier: facts.system_identifier,
            timeline: facts.timeline,
            lag: self.lag(facts.state, &lsn),
            lsn,
            transactions: self.transactions.load(Ordering::Relaxed),
            spooled_transactions: self.spooled_transactions.load(Ordering::Relaxed),
            rows_copied: tables.iter().map(|table| table.rows_copied).sum(),
            rows_streamed: tables.iter().map(|table| table.rows_streamed).sum(),
            tables,
            copies: self.copies.load(Ordering::Relaxed),
            connection_failures: self.connection_failures.load(Ordering::Relaxed),
            last_error: facts.last_error.clone(),
            dead_letters: self.dead_letters.load(Ordering::Relaxed),
            retained_wal_bytes: (retained != u64::MAX).then_some(retained),
            wal_status: facts.wal_status.clone(),
        }
    }

    /// The server has been heard.
    pub(crate) fn note_heard(&self) {
        self.heard_ms.store(now_ms(), Ordering::Relaxed);
    }

    /// Remembers when a transaction was committed.
    pub(crate) fn note_commit(&self, end: Lsn, commit_ms: u64) {
        self.note_heard();
        let mut commits = self.commits.lock();
        let is_new = commits.back().is_none_or(|(_, last)| commit_ms > last + COMMIT_SPACING_MS);
        if is_new && commits.len() < MAX_COMMITS {
            commits.push_back((end, commit_ms));
        }
    }

    fn lag(&self, state: PipelineState, lsn: &PipelineLsns) -> Lag {
        // What was received may be newer than the server's end, which is only asked now and then.
        let end = lsn.server.max(lsn.received);
        let bytes = end.zip(lsn.visible).map(|(end, visible)| end.0.saturating_sub(visible.0));
        let mut commits = self.commits.lock();
        while commits.front().is_some_and(|(end, _)| Some(*end) <= lsn.visible) {
            commits.pop_front();
        }
        // Not seen yet: as old as the oldest. Not connected: nobody knows what happened since.
        let oldest = commits.front().map(|(_, commit_ms)| *commit_ms);
        let heard = self.heard_ms.load(Ordering::Relaxed);
        let silent = (state != PipelineState::Streaming && heard > 0).then_some(heard);
        let since = oldest.into_iter().chain(silent).min();
        #[allow(clippy::cast_precision_loss, reason = "milliseconds stay far below 2^52")]
        let seconds = since.map(|since| now_ms().saturating_sub(since) as f64 / 1000.0);
        Lag { bytes, seconds: seconds.or_else(|| lsn.visible.map(|_| 0.0)) }
    }
}

fn table_status(entry: &TableEntry) -> TableStatus {
    let rows_copied = entry.counters.copied.load(Ordering::Relaxed);
    let copying = entry.copying_since.filter(|_| entry.state == TableState::Copying);
    let millis =
        copying.map(|since| u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX));
    let rows_resumed = entry.counters.resumed.load(Ordering::Relaxed);
    let now = rows_copied.saturating_sub(rows_resumed);
    let rate = millis.map(|millis| now.saturating_mul(1000) / millis.max(1));
    let left = entry.rows_estimated.saturating_sub(rows_copied);
    TableStatus {
        table: entry.table.clone(),
        index: entry.index.clone(),
        state: entry.state,
        reason: entry.reason.clone(),
        kept_until_in_millis: entry.kept_until_in_millis,
        no_way_back: entry.no_way_back.clone(),
        stale_since: entry.stale_since,
        rows_per_second: rate,
        seconds_left: rate.filter(|&rate| rate > 0).map(|rate| left / rate),
        rows_estimated: entry.rows_estimated,
        rows_copied,
        rows_resumed,
        rows_streamed: entry.counters.streamed.load(Ordering::Relaxed),
        rows_rejected: entry.counters.rejected.load(Ordering::Relaxed),
    }
}

/// Milliseconds since 1970.
fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
