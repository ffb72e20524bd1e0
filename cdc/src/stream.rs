//! What a session of the log brings: whole transactions, handed over to the tables' indexes.
//!
//! Transactions are handed over without waiting for the one before; what waits for an answer is
//! bounded. An index that fails takes its table out of the stream, and no other. Who listens, and
//! what becomes of positions and failures, is the business of [`follower`](crate::follower) and of
//! [`sync`](crate::sync).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use egret_aof::failpoint;
use egret_engine::batch::{Batch, Compose, OpSpool, Spooled};
use egret_engine::{Checkpoint, Lsn};
use pgwire_replication::{ReplicationClient, ReplicationEvent};
use rustc_hash::FxHashMap;
use tokio::time::timeout;

use crate::catalog::{self, Table};
use crate::connect::Control;
use crate::decode::{Message, Relation, Tuple, decode};
use crate::document::{RowColumn, RowFormat};
use crate::error::{Error, ErrorKind, Result};
use crate::feed::Feed;
use crate::held::HeldTransaction;
use crate::receipts::{Failed, Handover, Outstanding};
use crate::shape;
use crate::transaction::{Changes, Gathering, Transaction};

/// How long the end of a session may take before it is merely dropped.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// Microseconds between 1970 and 2000, where PostgreSQL's time begins.
const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;

/// A transaction's end and time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Committed {
    /// Where it ends.
    pub(crate) end: Lsn,
    /// Milliseconds since 1970.
    pub(crate) at_ms: u64,
    /// Whether it was too large for memory.
    pub(crate) was_spooled: bool,
}

/// One session that follows the log.
pub(crate) struct Stream {
    /// Where events come from.
    pub(crate) client: ReplicationClient,
    /// To ask the catalog with.
    control: Arc<Control>,
    /// The publication that is streamed.
    publication: String,
    /// The tables by their place; none where a table is not written to now.
    pub(crate) feeds: Vec<Option<Feed>>,
    /// The system and timeline, and everything up to which is handed over.
    pub(crate) position: Checkpoint,
    /// What is underway.
    pub(crate) outstanding: Outstanding,
    /// Relations of this session as they were described.
    described: FxHashMap<u32, Relation>,
    /// The places of the feeds that a relation's rows go to, with their format there.
    relations: FxHashMap<u32, Vec<(usize, RowFormat)>>,
    /// Where large transactions are gathered.
    gathering: Arc<Gathering>,
    /// The transaction that is being received.
    transaction: Option<Transaction>,
    /// How far indexes have been told.
    advanced: Lsn,
    failures: Vec<Failure>,
}

/// A table that has left the stream: its place, what was its feed, and why.
pub(crate) type Failure = (usize, Option<Feed>, Error);

impl Stream {
    /// A session that has been started.
    pub(crate) fn new(
        client: ReplicationClient,
        control: Arc<Control>,
        publication: String,
        position: Checkpoint,
        outstanding: Outstanding,
        gathering: Arc<Gathering>,
    ) -> Self {
        Self {
            client,
            control,
            publication,
            feeds: Vec::new(),
            position,
            outstanding,
            described: FxHashMap::default(),
            relations: FxHashMap::default(),
            gathering,
            transaction: None,
            advanced: Lsn::default(),
            failures: Vec::new(),
        }
    }

    /// Ends the session once everything handed over is answered.
    pub(crate) async fn close(mut self) -> Result<()> {
        let settled = self.outstanding.settle_all().await;
        let _ = timeout(SHUTDOWN_TIMEOUT, self.client.shutdown()).await;
        settled
    }

    /// Whether no transaction is half received.
    pub(crate) fn is_between_transactions(&self) -> bool {
        self.transaction.is_none()
    }

    /// Begins to write to a table's index, which holds everything that this session has passed. Must
    /// be called between transactions.
    pub(crate) async fn join(&mut self, place: usize, feed: Feed) -> Result<()> {
        if self.feeds.len() <= place {
            self.feeds.resize_with(place + 1, || None);
        }
        let parts = feed.table.parts();
        if let Some(slot) = self.feeds.get_mut(place) {
            *slot = Some(feed);
        }
        let named = |relation: &&Relation| parts.iter().any(|part| is_of(relation, part));
        let described: Vec<Relation> = self.described.values().filter(named).cloned().collect();
        for relation in described {
            self.relation(relation).await?;
        }
        // It is told where the stream is with the next look.
        self.advanced = Lsn::default();
        Ok(())
    }

    /// Writes no more to a table's index, and expects nothing more of it.
    pub(crate) fn leave(&mut self, place: usize) -> Option<Feed> {
        let unanswered = self.outstanding.forget(place);
        let position = self.position.lsn;
        for known in self.relations.values_mut() {
            known.retain(|(of, _)| *of != place);
        }
        if let Some(transaction) = &mut self.transaction {
            transaction.forget(place);
        }
        let feed = self.feeds.get_mut(place).and_then(Option::take);
        feed.map(|feed| {
            let not_looked_at = (position < feed.unlisted.end).then_some(position);
            let unanswered = unanswered.into_iter().chain(not_looked_at).chain(feed.unanswered);
            Feed { unanswered: unanswered.min(), ..feed }
        })
    }

    /// Tables that have left since this was last asked, and why. A table that changed is there with
    /// [`ErrorKind::TableChanged`].
    pub(crate) fn take_failures(&mut self) -> Vec<Failure> {
        for Failed { place, unanswered, error } in self.outstanding.take_failures() {
            // One that had more to answer fails once.
            let Some(Some(feed)) = self.feeds.get_mut(place) else { continue };
            feed.unanswered = unanswered;
            self.fail(place, error);
        }
        std::mem::take(&mut self.failures)
    }

    pub(crate) fn fail(&mut self, place: usize, error: Error) {
        let feed = self.leave(place);
        self.failures.push((place, feed, error));
    }

    /// Takes an event, and says what it committed.
    pub(crate) async fn handle(&mut self, event: ReplicationEvent) -> Result<Option<Committed>> {
        match event {
            ReplicationEvent::Begin { final_lsn, .. } => {
                let gathering = Arc::clone(&self.gathering);
                self.transaction = Some(Transaction::new(Lsn(final_lsn.0), gathering));
            }
            ReplicationEvent::XLogData { data, .. } => self.data(&data).await?,
            ReplicationEvent::Commit { end_lsn, commit_time_micros, .. } => {
                let was_spooled = self.commit(Lsn(end_lsn.0)).await?;
                let micros = commit_time_micros.saturating_add(POSTGRES_EPOCH_MICROS);
                let at_ms = u64::try_from(micros / 1000).unwrap_or(0);
                return Ok(Some(Committed { end: Lsn(end_lsn.0), at_ms, was_spooled }));
            }
            ReplicationEvent::KeepAlive { wal_end, .. } => {
                // Within a transaction the server may already be past its beginning.
                if self.transaction.is_none() {
                    self.position.lsn = self.position.lsn.max(Lsn(wal_end.0));
                    self.outstanding.list_passed(self.position.lsn).await?;
                }
            }
            ReplicationEvent::Message { .. } | ReplicationEvent::StoppedAt { .. } => {}
        }
        Ok(None)
    }

    async fn data(&mut self, data: &Bytes) -> Result<()> {
        let message = decode(data).map_err(|error| {
            Error::new(ErrorKind::Protocol, format!("decoding the stream: {error}"))
                .with_source(error)
        })?;
        match message {
            Message::Relation(relation) => return self.relation(relation).await,
            Message::Insert { relation, new } => {
                self.change(relation, |format, changes, _| changes.insert(format, &new))?;
            }
            Message::Update { relation, old, new } => {
                let mut new = Some(new);
                self.change(relation, |format, changes, is_last| {
                    let row = taken(&mut new, is_last);
                    changes.update(format, &old, row.unwrap_or_default());
                })?;
            }
            Message::Delete { relation, old } => {
                self.change(relation, |format, changes, _| changes.delete(format, &old))?;
            }
            Message::Truncate { relations } => {
                for relation in relations {
                    self.change(relation, |format, changes, _| changes.truncate(format))?;
                }
            }
            Message::Begin { .. }
            | Message::Commit { .. }
            | Message::Origin
            | Message::Type
            | Message::Logical => {}
        }
        Ok(())
    }

    /// Takes a relation's change into the transaction; leaves out those of tables that are not
    /// followed, and of indexes that already hold the whole transaction.
    fn change(
        &mut self,
        relation: u32,
        mut work: impl FnMut(&RowFormat, &mut Changes, bool),
    ) -> Result<()> {
        let protocol = |message: String| Error::new(ErrorKind::Protocol, message);
        let known = self.relations.get(&relation).ok_or_else(|| {
            protocol(format!("a change of relation [{relation}], which was not described"))
        })?;
        let transaction = self
            .transaction
            .as_mut()
            .ok_or_else(|| protocol("a change outside of a transaction".to_owned()))?;
        for (at, (place, format)) in known.iter().enumerate() {
            let Some(Some(feed)) = self.feeds.get(*place) else { continue };
            // A commit record that begins where the index's last transaction ended is the next one.
            let is_unsure = feed.unlisted.contains(&transaction.final_lsn);
            if transaction.final_lsn < feed.reached && !is_unsure {
                continue;
            }
            let is_last = at + 1 == known.len();
            transaction.change(*place, |changes| work(format, changes, is_last))?;
        }
        Ok(())
    }

    /// A table's description, before its first row on this session and after every change.
    async fn relation(&mut self, relation: Relation) -> Result<()> {
        self.described.insert(relation.id, relation.clone());
        self.relations.insert(relation.id, Vec::new());
        let mut followed = Vec::new();
        for (place, feed) in self.feeds.iter().enumerate() {
            let parts = feed.as_ref().map(|feed| feed.table.parts()).unwrap_or_default();
            followed.extend(parts.into_iter().map(|part| (place, part)));
        }
        followed.retain(|(_, part)| is_of(&relation, part));
        for (place, table) in followed {
            self.describe(&relation, place, table).await?;
        }
        Ok(())
    }

    /// How the rows of a relation become documents of one index.
    async fn describe(
        &mut self,
        relation: &Relation,
        place: usize,
        table: Arc<Table>,
    ) -> Result<()> {
        let known = |column: &crate::decode::RelationColumn| {
            let same = |known: &&catalog::Column| {
                known.name == column.name && known.type_oid == column.type_oid
            };
            table.columns.iter().find(same).map(|known| known.kind.clone())
        };
        let described: Vec<_> = relation.columns.iter().map(known).collect();
        let shape = table.shape.clone();
        let left_out = |name: &str| shape.as_ref().is_some_and(|shape| shape.leaves_out(name));
        let is_known = |(column, known): (&crate::decode::RelationColumn, &Option<_>)| {
            known.is_some() || left_out(&column.name)
        };
        let same = described.iter().flatten().count() == table.columns.len()
            && relation.columns.iter().zip(&described).all(is_known)
            && table.oid == relation.id;
        // An older description may be sent again after a reconnect: only the catalog can tell.
        if !same && catalog_changed(&self.control, &self.publication, &table).await? {
            let message = format!("table [{}] is not what it was", table.title());
            return self.changed(place, message).await;
        }
        let oids: Vec<u32> = relation.columns.iter().map(|column| column.type_oid).collect();
        let kinds = if described.iter().all(Option::is_some) {
            FxHashMap::default()
        } else {
            catalog::kinds(&self.control, &oids).await?
        };
        let mut columns = Vec::with_capacity(described.len());
        for (column, known) in relation.columns.iter().zip(described) {
            let looked_up = || kinds.get(&column.type_oid).cloned();
            let kind = known.or_else(looked_up).unwrap_or(crate::types::Kind::Keyword);
            columns.push(RowColumn { name: column.name.clone(), kind });
        }
        let Some(format) = table.format_of(columns) else {
            let message = format!("table [{}] was streamed without its key", table.title());
            return self.changed(place, message).await;
        };
        let format = format.with_max_bytes(self.gathering.max_document_bytes);
        self.relations.entry(relation.id).or_default().push((place, format));
        Ok(())
    }

    /// A table leaves the stream since it changed, once all that its index was given is answered.
    async fn changed(&mut self, place: usize, message: String) -> Result<()> {
        self.outstanding.settle_all().await?;
        self.fail(place, Error::new(ErrorKind::TableChanged, message));
        Ok(())
    }

    /// Hands a whole transaction over; says whether it was too large for memory.
    async fn commit(&mut self, end: Lsn) -> Result<bool> {
        let transaction = self
            .transaction
            .take()
            .ok_or_else(|| Error::new(ErrorKind::Protocol, "a commit outside of a transaction"))?;
        failpoint::reach("transaction-gathered");
        let begin = transaction.final_lsn;
        let checkpoint = Checkpoint { lsn: end, ..self.position };
        let changes = transaction.into_changes()?;
        // What this transaction removes or mends is closed with its answer.
        self.outstanding.list_passed(begin).await?;
        let was_spooled = changes.iter().any(|(_, changes)| changes.spool.is_some());
        for (place, changes) in changes {
            let Some(Some(feed)) = self.feeds.get_mut(place) else { continue };
            if begin < feed.reached && feed.resumes.is_some() {
                // Its copy would have begun again had anything of this been left to be listed.
                continue;
            }
            if begin < feed.reached {
                let (held, first) = (held(changes, end)?, || feed.unlisted(begin));
                self.outstanding.look_at_held(place, held, first).await?;
                continue;
            }
            if let Some(unfit) = changes.refused.values().next().filter(|_| feed.returns) {
                let message = format!("row [{}] does not fit: {}", unfit.id, unfit.reason);
                self.fail(place, Error::new(ErrorKind::Engine, message));
                continue;
            }
            for watched in feed.watched.all_mut() {
                changes.note(watched, begin);
            }
            let truncation = feed.truncation.take_if(|_| changes.truncated);
            feed.ended_unflushed |= truncation.is_some();
            let unsettles = changes.unsettles();
            let max_rejected = self.gathering.max_refused;
            let spooled = changes.spool.map(OpSpool::finish).transpose()?;
            let (resumes, progress) = (feed.resumes.is_some(), feed.brought_to(end, unsettles));
            let batch = Batch {
                ops: changes.ops,
                spooled: spooled.map(|ops| Spooled { ops, max_rejected }),
                // An index that is not whole shows no position.
                checkpoint: (!resumes).then_some(checkpoint),
                row_lsn: Some(end),
                copy_progress: progress.or(truncation.map(|truncation| truncation.progress)),
                must_fit: feed.returns,
                // Documents are composed when such a copy ends.
                compose: if resumes { Compose::Later } else { Compose::Affected },
                ..Batch::default()
            };
            let handover = Handover {
                place,
                batch,
                titles: feed.titles.clone(),
                begin,
                end,
                refused: changes.refused.into_values().collect(),
                gone: changes.gone,
                bytes: changes.bytes,
                counters: Arc::clone(&feed.counters),
                may_miss: resumes,
                must_fit: feed.returns,
            };
            feed.reached = end;
            feed.submitted = Some(end);
            feed.unflushed_rows += changes.rows;
            feed.counters.streamed.fetch_add(changes.rows, Ordering::Relaxed);
            self.outstanding.submit(&*feed.sink, handover).await?;
            failpoint::reach("transaction-handed-over");
        }
        self.position.lsn = self.position.lsn.max(end);
        self.outstanding.list_passed(end).await?;
        Ok(was_spooled)
    }

    /// Tells every index how far the stream is.
    pub(crate) fn advance_all(&mut self) {
        let lsn = self.position.lsn;
        if lsn <= self.advanced {
            return;
        }
        let mut failures = Vec::new();
        for (place, feed) in self.feeds.iter_mut().enumerate() {
            let behind = |feed: &&mut Feed| feed.reached < lsn && feed.resumes.is_none();
            let Some(feed) = feed.as_mut().filter(behind) else { continue };
            match feed.sink.advance(self.position) {
                Ok(()) => feed.reached = lsn,
                Err(error) => failures.push((place, error)),
            }
        }
        for (place, error) in failures {
            self.fail(place, error.into());
        }
        self.advanced = lsn;
    }
}

/// A transaction that its index holds.
fn held(changes: Changes, end: Lsn) -> Result<HeldTransaction> {
    let spooled = changes.spool.map(OpSpool::finish).transpose()?;
    let refused = changes.refused.into_values().collect();
    Ok(HeldTransaction { spooled, ops: changes.ops, refused, gone: changes.gone, end })
}

/// A row for one of the places that it goes to; the last takes it.
fn taken(row: &mut Option<Tuple>, is_last: bool) -> Option<Tuple> {
    if is_last { row.take() } else { row.clone() }
}

fn is_of(relation: &Relation, table: &Table) -> bool {
    (&relation.schema, &relation.table) == (&table.schema, &table.name)
}

/// Whether the catalog now has another table, or other columns, than the stream began with.
async fn catalog_changed(control: &Control, publication: &str, table: &Table) -> Result<bool> {
    let wanted = |schema: &str, name: &str| schema == table.schema && name == table.name;
    let mut tables = catalog::tables(control, publication, wanted).await?;
    shape::redeclare(control, &mut tables, table).await?;
    let Some(now) = tables.first() else { return Ok(true) };
    let shape = |table: &Table| -> Vec<(String, u32)> {
        let column = |column: &catalog::Column| (column.name.clone(), column.type_oid);
        table.columns.iter().map(column).collect()
    };
    Ok(now.oid != table.oid || shape(now) != shape(table) || now.key != table.key)
}
