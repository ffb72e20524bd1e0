//! Following the log: whole transactions from the server into the tables' indexes, and positions
//! back once they are durable.
//!
//! Transactions are handed over without waiting for the one before; what waits for an answer is
//! bounded. Indexes that a transaction does not touch are told of its end as soon as the stream
//! pauses, and at least every [`EVENTS_BETWEEN_ADVANCES`] events.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use egret_engine::batch::{Batch, OpSpool, Spooled};
use egret_engine::index::Positions;
use egret_engine::{Checkpoint, Lsn};
use futures_util::FutureExt;
use pgwire_replication::{ReplicationClient, ReplicationEvent};
use rustc_hash::FxHashMap;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::acknowledge::Acknowledgements;
use crate::catalog::{self, Table};
use crate::connect::Control;
use crate::decode::{Message, Relation, decode};
use crate::document::{RowColumn, RowFormat};
use crate::error::{Error, ErrorKind, Result};
use crate::receipts::{Handover, Outstanding};
use crate::sink::Sink;
use crate::status::{StatusBoard, TableCounters};
use crate::transaction::{Changes, Gathering, Transaction};
use crate::watcher::Report;

/// Events after which indexes are told how far the stream is, even while it never pauses.
const EVENTS_BETWEEN_ADVANCES: u32 = 256;

/// Looks in a row that may find the slot without a session, as just after its beginning.
const LOOKS_UNTIL_DEAD: u32 = 1;

/// How long the end of a session may take before it is merely dropped.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// Microseconds between 1970 and 2000, where PostgreSQL's time begins.
const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;

/// A table that is followed, and its index.
pub(crate) struct Feed {
    /// The table as the catalog had it when the stream began.
    pub(crate) table: Arc<Table>,
    /// The same, as `schema.table`.
    pub(crate) title: Arc<str>,
    /// Its index.
    pub(crate) sink: Arc<dyn Sink>,
    /// Where the index stands.
    pub(crate) positions: watch::Receiver<Positions>,
    /// Who counts.
    pub(crate) counters: Arc<TableCounters>,
    /// Everything that ends at or below this is in the index: what it was opened with, and since
    /// then the last batch or advance.
    pub(crate) reached: Lsn,
    /// The end of the last transaction that was handed over.
    pub(crate) submitted: Option<Lsn>,
}

impl Feed {
    /// A feed that goes on from where its index is.
    pub(crate) fn new(
        table: Arc<Table>,
        sink: Arc<dyn Sink>,
        counters: Arc<TableCounters>,
    ) -> Self {
        let positions = sink.positions();
        let Positions { applied, durable, .. } = *positions.borrow();
        let reached = applied.map(|at| at.lsn).unwrap_or_default();
        // What an earlier connection handed over may not be durable yet.
        let submitted = applied.map(|at| at.lsn).filter(|_| applied != durable);
        let title = table.title().into();
        Self { table, title, sink, positions, counters, reached, submitted }
    }
}

/// Whether to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// With the next event.
    Event,
    /// Tables came, went or changed: the catalog must be looked at again first.
    TablesChanged,
}

/// The state of one connection that follows the log.
pub(crate) struct Stream<'a> {
    /// Where events come from.
    pub(crate) client: ReplicationClient,
    /// To ask the catalog with.
    pub(crate) control: &'a Control,
    /// What the watcher finds.
    pub(crate) reports: tokio::sync::mpsc::Receiver<Result<Report>>,
    /// The tables.
    pub(crate) feeds: Vec<Feed>,
    /// The system and timeline, and everything up to which is handed over.
    pub(crate) position: Checkpoint,
    /// What is underway.
    pub(crate) outstanding: Outstanding,
    /// What becomes of durable positions.
    pub(crate) acknowledgements: Acknowledgements,
    /// Who shows it.
    pub(crate) board: Arc<StatusBoard>,
    /// Relations of this connection: the feed and its rows' format, or none for others.
    pub(crate) relations: FxHashMap<u32, Option<(usize, RowFormat)>>,
    /// Where large transactions are gathered.
    pub(crate) gathering: Arc<Gathering>,
    /// The transaction that is being received.
    pub(crate) transaction: Option<Transaction>,
    /// How far indexes have been told.
    pub(crate) advanced: Lsn,
    /// Looks in a row that found the slot without a session.
    pub(crate) looks_inactive: u32,
}

impl Stream<'_> {
    /// Follows until tables change or something fails. Must run on a thread that may block.
    pub(crate) async fn run(mut self) -> Result<()> {
        let result = self.follow().await;
        // What was handed over is answered before the next connection looks where indexes stand.
        let settled = self.outstanding.settle_all().await;
        let stored = self.acknowledgements.settle().await;
        let _ = timeout(SHUTDOWN_TIMEOUT, self.client.shutdown()).await;
        result.and(settled).and(stored)
    }

    async fn follow(&mut self) -> Result<()> {
        let mut since_advance = 0;
        let mut next_acknowledgement = Instant::now() + self.acknowledgements.interval();
        loop {
            let ready = self.client.recv().now_or_never();
            since_advance += 1;
            if ready.is_none() || since_advance >= EVENTS_BETWEEN_ADVANCES {
                since_advance = 0;
                self.advance_all()?;
                self.outstanding.settle_ready()?;
            }
            if since_advance == 0 && Instant::now() >= next_acknowledgement {
                self.acknowledgements.ask_for_flushes(&self.feeds);
                self.acknowledge()?;
                next_acknowledgement = Instant::now() + self.acknowledgements.interval();
            }
            let event = if let Some(event) = ready {
                event?
            } else {
                tokio::select! {
                    biased;
                    event = self.client.recv() => event?,
                    report = self.reports.recv() => {
                        if self.report(report)? == Next::TablesChanged {
                            return Ok(());
                        }
                        continue;
                    }
                    ended = self.acknowledgements.ended() => {
                        if let Some(lsn) = ended? {
                            self.confirm(lsn);
                        }
                        self.acknowledge()?;
                        continue;
                    }
                    () = tokio::time::sleep_until(next_acknowledgement) => continue,
                }
            };
            let Some(event) = event else {
                let message = "the server ended the stream";
                return Err(Error::new(ErrorKind::Unavailable, message));
            };
            if self.handle(event).await? == Next::TablesChanged {
                return Ok(());
            }
        }
    }

    async fn handle(&mut self, event: ReplicationEvent) -> Result<Next> {
        match event {
            ReplicationEvent::Begin { final_lsn, .. } => {
                let gathering = Arc::clone(&self.gathering);
                self.transaction = Some(Transaction::new(Lsn(final_lsn.0), gathering));
            }
            ReplicationEvent::XLogData { data, .. } => return self.data(&data).await,
            ReplicationEvent::Commit { end_lsn, commit_time_micros, .. } => {
                self.commit(Lsn(end_lsn.0)).await?;
                let micros = commit_time_micros.saturating_add(POSTGRES_EPOCH_MICROS);
                self.board.note_commit(Lsn(end_lsn.0), u64::try_from(micros / 1000).unwrap_or(0));
            }
            ReplicationEvent::KeepAlive { wal_end, .. } => {
                // Within a transaction the server may already be past its beginning.
                if self.transaction.is_none() {
                    self.position.lsn = self.position.lsn.max(Lsn(wal_end.0));
                    self.board.received.store(self.position.lsn.0, Ordering::Relaxed);
                }
            }
            ReplicationEvent::Message { .. } | ReplicationEvent::StoppedAt { .. } => {}
        }
        Ok(Next::Event)
    }

    async fn data(&mut self, data: &Bytes) -> Result<Next> {
        let message = decode(data).map_err(|error| {
            Error::new(ErrorKind::Protocol, format!("decoding the stream: {error}"))
                .with_source(error)
        })?;
        match message {
            Message::Relation(relation) => return self.relation(relation).await,
            Message::Insert { relation, new } => {
                self.change(relation, |format, changes| changes.insert(format, &new))?;
            }
            Message::Update { relation, old, new } => {
                self.change(relation, |format, changes| changes.update(format, &old, new))?;
            }
            Message::Delete { relation, old } => {
                self.change(relation, |format, changes| changes.delete(format, &old))?;
            }
            Message::Truncate { relations } => {
                for relation in relations {
                    self.change(relation, |_, changes| changes.truncate())?;
                }
            }
            Message::Begin { .. }
            | Message::Commit { .. }
            | Message::Origin
            | Message::Type
            | Message::Logical => {}
        }
        Ok(Next::Event)
    }

    /// Takes a relation's change into the transaction; leaves out those of tables that are not
    /// followed, and of indexes that already hold the whole transaction.
    fn change(&mut self, relation: u32, work: impl FnOnce(&RowFormat, &mut Changes)) -> Result<()> {
        let protocol = |message: String| Error::new(ErrorKind::Protocol, message);
        let known = self.relations.get(&relation).ok_or_else(|| {
            protocol(format!("a change of relation [{relation}], which was not described"))
        })?;
        let transaction = self
            .transaction
            .as_mut()
            .ok_or_else(|| protocol("a change outside of a transaction".to_owned()))?;
        let Some((place, format)) = known else { return Ok(()) };
        let Some(feed) = self.feeds.get(*place) else { return Ok(()) };
        // A commit record that begins where the index's last transaction ended is the next one.
        if transaction.final_lsn < feed.reached {
            return Ok(());
        }
        transaction.change(*place, |changes| work(format, changes))
    }

    /// A table's description, before its first row on this connection and after every change.
    async fn relation(&mut self, relation: Relation) -> Result<Next> {
        let named =
            |feed: &Feed| feed.table.schema == relation.schema && feed.table.name == relation.table;
        let Some(place) = self.feeds.iter().position(named) else {
            self.relations.insert(relation.id, None);
            return Ok(Next::Event);
        };
        let Some(feed) = self.feeds.get(place) else { return Ok(Next::Event) };
        let known = |column: &crate::decode::RelationColumn| {
            let same = |known: &&catalog::Column| {
                known.name == column.name && known.type_oid == column.type_oid
            };
            feed.table.columns.iter().find(same).map(|known| known.kind.clone())
        };
        let described: Vec<_> = relation.columns.iter().map(known).collect();
        let same = described.len() == feed.table.columns.len()
            && described.iter().all(Option::is_some)
            && feed.table.oid == relation.id;
        // An older description may be sent again after a reconnect: only the catalog can tell.
        if !same && catalog_changed(self.control, &feed.table).await? {
            return Ok(Next::TablesChanged);
        }
        let oids: Vec<u32> = relation.columns.iter().map(|column| column.type_oid).collect();
        let kinds = if described.iter().all(Option::is_some) {
            FxHashMap::default()
        } else {
            catalog::kinds(self.control, &oids).await?
        };
        let mut columns = Vec::with_capacity(described.len());
        for (column, known) in relation.columns.into_iter().zip(described) {
            let looked_up = || kinds.get(&column.type_oid).cloned();
            let kind = known.or_else(looked_up).unwrap_or(crate::types::Kind::Keyword);
            columns.push(RowColumn { name: column.name, kind });
        }
        let key = feed.table.key.clone().unwrap_or_default();
        let format = RowFormat::new(columns, &key).ok_or_else(|| {
            let message = format!("table [{}] was streamed without its key", feed.title);
            Error::new(ErrorKind::Protocol, message)
        })?;
        let format = format.with_max_bytes(self.gathering.max_document_bytes);
        self.relations.insert(relation.id, Some((place, format)));
        Ok(Next::Event)
    }

    /// Hands a whole transaction over.
    async fn commit(&mut self, end: Lsn) -> Result<()> {
        let transaction = self
            .transaction
            .take()
            .ok_or_else(|| Error::new(ErrorKind::Protocol, "a commit outside of a transaction"))?;
        let begin = transaction.final_lsn;
        let checkpoint = Checkpoint { lsn: end, ..self.position };
        let changes = transaction.into_changes()?;
        if changes.iter().any(|(_, changes)| changes.spool.is_some()) {
            self.board.spooled_transactions.fetch_add(1, Ordering::Relaxed);
        }
        for (place, changes) in changes {
            let Some(feed) = self.feeds.get_mut(place) else { continue };
            let max_rejected = self.gathering.max_refused;
            let spooled = changes.spool.map(OpSpool::finish).transpose()?;
            let spooled = spooled.map(|ops| Spooled { ops, max_rejected });
            let checkpoint = Some(checkpoint);
            let batch = Batch { ops: changes.ops, spooled, checkpoint, ..Batch::default() };
            let handover = Handover {
                batch,
                table: Arc::clone(&feed.title),
                begin,
                end,
                refused: changes.refused.into_values().collect(),
                bytes: changes.bytes,
                counters: Arc::clone(&feed.counters),
            };
            self.outstanding.submit(&*feed.sink, handover).await?;
            feed.reached = end;
            feed.submitted = Some(end);
            feed.counters.streamed.fetch_add(changes.rows, Ordering::Relaxed);
        }
        self.position.lsn = self.position.lsn.max(end);
        self.board.received.store(self.position.lsn.0, Ordering::Relaxed);
        self.board.transactions.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Tells every index how far the stream is.
    fn advance_all(&mut self) -> Result<()> {
        let lsn = self.position.lsn;
        if lsn <= self.advanced {
            return Ok(());
        }
        for feed in &mut self.feeds {
            if feed.reached < lsn {
                feed.sink.advance(self.position)?;
                feed.reached = lsn;
            }
        }
        self.advanced = lsn;
        Ok(())
    }

    fn acknowledge(&mut self) -> Result<()> {
        self.outstanding.settle_ready()?;
        let oldest = self.outstanding.oldest();
        self.acknowledgements.step(&self.feeds, self.position, oldest);
        Ok(())
    }

    /// Tells the database what it may forget.
    fn confirm(&mut self, lsn: Lsn) {
        self.client.update_applied_lsn(pgwire_replication::Lsn(lsn.0));
        self.board.confirmed.store(lsn.0, Ordering::Relaxed);
    }

    /// What the watcher found: a failure, changed tables, or a slot that the server thinks nobody
    /// follows. Silence alone proves nothing: the server may be reading log that is not for us.
    fn report(&mut self, report: Option<Result<Report>>) -> Result<Next> {
        let ended = || Error::new(ErrorKind::Unavailable, "the control connection ended");
        let report = report.ok_or_else(ended)??;
        if report.tables_changed {
            return Ok(Next::TablesChanged);
        }
        self.looks_inactive = if report.slot_active { 0 } else { self.looks_inactive + 1 };
        if self.looks_inactive > LOOKS_UNTIL_DEAD {
            let message = "the server holds no session for the slot: the connection is half open";
            return Err(Error::new(ErrorKind::Unavailable, message));
        }
        Ok(Next::Event)
    }
}

/// Whether the catalog now has another table, or other columns, than the stream began with.
async fn catalog_changed(control: &Control, table: &Table) -> Result<bool> {
    let wanted = |schema: &str, name: &str| schema == table.schema && name == table.name;
    let tables = catalog::tables(control, wanted).await?;
    let Some(now) = tables.first() else { return Ok(true) };
    let shape = |table: &Table| -> Vec<(String, u32)> {
        let column = |column: &catalog::Column| (column.name.clone(), column.type_oid);
        table.columns.iter().map(column).collect()
    };
    Ok(now.oid != table.oid || shape(now) != shape(table) || now.key != table.key)
}
