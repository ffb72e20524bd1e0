//! Transactions that an index held when its pipeline came back, and whose dead letters were not durable
//! yet.
//!
//! An index becomes durable by itself, whenever it has enough. Of a row that did not fit it keeps
//! nothing; that is listed once the batch is answered, and durable before the transaction is
//! acknowledged. A crash between the two leaves an index without the row and no letter, and the
//! index skips the transaction when it comes again. So the last transactions before a crash are looked at
//! once more: a row that they wrote and that is not there is listed, and read again, which tells
//! whether it fits.
//!
//! Nor is a row there that a later one of these transactions removed. So what is not there is listed
//! once the stream has passed all that the index held, and nothing of it is acknowledged before. A row
//! of a related table that is there may have made a document impossible: what it is part of is composed
//! once more then.
//!
//! The same is so of an index that failed with batches that it had not answered, and of one that was
//! being brought to the stream: the [synchronization](crate::sync) that brings it back looks at these.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use egret_engine::Lsn;
use egret_engine::batch::{Compose, SpooledOps, WriteOp};
use egret_engine::composition::row_table;
use egret_engine::snapshot::Fit;
use serde_json::{Map, Value};

use crate::dead_letters::{DeadLetters, Letter};
use crate::error::{Error, ErrorKind, Result};
use crate::feed::Titles;
use crate::receipts::LetterBox;
use crate::sink::Sink;
use crate::status::TableCounters;
use crate::transaction::RefusedRow;
use crate::written::{parts, previous_id, values, written_id};

/// How many operations are looked up at a time.
const AT_ONCE: usize = 1000;

/// How many bytes the values of rows that are not there may take; of further rows none are kept.
const MAX_VALUE_BYTES: usize = 16 << 20;

/// How many bytes the rows may take without their values. An index that misses more fails, and fails
/// again when it comes back, which has its table copied anew.
const MAX_ROW_BYTES: usize = 32 << 20;

/// About what a row takes beside its id and its values.
const EACH_ROW: usize = 100;

/// As of a row whose older document is missing, which is read again, too.
const REASON: &str = "its transaction was applied before a crash without this row, and why it did \
                      not fit was not written down: it is read again";

/// A transaction that its index holds.
#[derive(Debug)]
pub(crate) struct HeldTransaction {
    /// What it wrote that is on disk,
    pub(crate) spooled: Option<SpooledOps>,
    /// and what came after that.
    pub(crate) ops: Vec<WriteOp>,
    /// Rows of it that could not become documents.
    pub(crate) refused: Vec<RefusedRow>,
    /// Rows that are gone and had no documents.
    pub(crate) gone: Vec<String>,
    /// Where it ends.
    pub(crate) end: Lsn,
}

/// What is to be listed of the transactions that one index held.
pub(crate) struct Unlisted {
    /// Where the first one's commit record begins: nothing from here on may be acknowledged.
    pub(crate) begin: Lsn,
    /// Where the last one ends.
    pub(crate) until: Lsn,
    /// The index.
    pub(crate) sink: Arc<dyn Sink>,
    /// The table, and those that its documents are composed from.
    pub(crate) titles: Titles,
    /// Who counts.
    pub(crate) counters: Arc<TableCounters>,
    /// What was written and is not there.
    pub(crate) rows: MissingRows,
    /// Rows of related tables that were written and are there.
    pub(crate) related: RelatedRows,
}

/// Rows of the tables that documents are composed from, each of which may have made one impossible.
#[derive(Debug, Default)]
pub(crate) struct RelatedRows {
    ids: BTreeSet<String>,
    bytes: usize,
    /// There were more than are remembered.
    many: bool,
}

/// Rows that are not there, by their ids, as they were last written.
#[derive(Debug, Default)]
pub(crate) struct MissingRows {
    rows: BTreeMap<String, MissingRow>,
    row_bytes: usize,
    value_bytes: usize,
}

#[derive(Debug)]
struct MissingRow {
    end: Lsn,
    source: Option<Bytes>,
}

/// Why a transaction could not be looked at.
#[derive(Debug)]
pub(crate) enum NotLooked {
    /// The index failed, or misses too much.
    Index(Error),
    /// The list of dead letters did.
    List(Error),
}

impl From<egret_engine::Error> for NotLooked {
    fn from(error: egret_engine::Error) -> Self {
        Self::Index(error.into())
    }
}

impl From<Error> for NotLooked {
    fn from(error: Error) -> Self {
        Self::List(error)
    }
}

impl Unlisted {
    /// Looks at the next transaction: what it wrote and is not there is kept, what it mended or removed
    /// is not, and its letters are closed. Blocking.
    pub(crate) fn look_at(
        &mut self,
        held: HeldTransaction,
        letters: &LetterBox,
    ) -> Result<(), NotLooked> {
        self.sink.refresh()?;
        let (mut spooled, mut ops) = (held.spooled, held.ops.into_iter());
        loop {
            let some = next_ops(spooled.as_mut(), &mut ops)?;
            if some.is_empty() {
                break;
            }
            let are_there = are_there(&*self.sink, &some)?;
            let mut all = some.iter().zip(are_there);
            letters.work(|letters| {
                all.try_for_each(|(op, is_there)| self.take(op, is_there, held.end, letters))
            })?;
            if self.rows.row_bytes > MAX_ROW_BYTES {
                return Err(NotLooked::Index(misses_too_much()));
            }
        }
        letters.work(|letters| {
            for id in held.gone {
                letters.close(self.titles.find(&id), held.end)?;
            }
            for RefusedRow { id, reason, raw } in held.refused {
                self.rows.remove(&id);
                letters.add(self.letter(&id, held.end, reason, raw))?;
            }
            letters.check_limit()
        })?;
        Ok(())
    }

    fn take(
        &mut self,
        op: &WriteOp,
        is_there: bool,
        end: Lsn,
        letters: &mut DeadLetters,
    ) -> Result<()> {
        let (id, source) = parts(op);
        let Some(id) = id else {
            self.rows = MissingRows::default();
            let own = self.titles.own("");
            return letters.clear(own.index, Some(own.table), end);
        };
        if let Some(previous) = previous_id(op) {
            self.rows.remove(previous);
            letters.close(self.titles.find(previous), end)?;
        }
        if !is_there {
            self.rows.insert(&id, end, source);
            return Ok(());
        }
        let row = self.titles.find(&id);
        if row.id.is_empty() {
            self.rows.remove_all_of(&id);
            return letters.clear(row.index, Some(row.table), end);
        }
        self.rows.remove(&id);
        if source.is_some() && row_table(&id).is_some() {
            self.related.insert(&id);
        }
        letters.close(row, end)
    }

    /// Whether it can be listed, for a stream that is at this position: it has passed the last of the
    /// transactions.
    pub(crate) fn is_due(&self, position: Lsn) -> bool {
        position >= self.until
    }

    /// The documents that are to be composed once more, for the sake of what is said of them.
    pub(crate) fn take_compose(&mut self) -> Option<Compose> {
        let RelatedRows { ids, many, .. } = std::mem::take(&mut self.related);
        if many {
            return Some(Compose::All);
        }
        (!ids.is_empty()).then(|| Compose::PartOf(ids.into_iter().collect()))
    }

    /// Lists what is not there, to be read again.
    pub(crate) fn list(mut self, letters: &LetterBox) -> Result<()> {
        letters.work(|letters| {
            for (id, row) in std::mem::take(&mut self.rows.rows) {
                let values = values(row.source.as_ref());
                let letter = self.letter(&id, row.end, REASON.to_owned(), values);
                letters.add(Letter { read_again: true, ..letter })?;
            }
            letters.check_limit()
        })
    }

    fn letter(&self, id: &str, lsn: Lsn, reason: String, values: Map<String, Value>) -> Letter {
        self.counters.rejected.fetch_add(1, Ordering::Relaxed);
        self.titles.find(id).letter(lsn, reason, values)
    }
}

impl RelatedRows {
    fn insert(&mut self, id: &str) {
        if self.many || self.ids.contains(id) {
            return;
        }
        self.bytes += id.len() + EACH_ROW;
        self.many = self.bytes > MAX_ROW_BYTES;
        if self.many {
            self.ids.clear();
        } else {
            self.ids.insert(id.to_owned());
        }
    }
}

impl MissingRows {
    fn insert(&mut self, id: &str, end: Lsn, source: Option<&Bytes>) {
        self.remove(id);
        let fits = |source: &&Bytes| self.value_bytes + source.len() <= MAX_VALUE_BYTES;
        let source = source.filter(fits).cloned();
        self.row_bytes += id.len() + EACH_ROW;
        self.value_bytes += source.as_ref().map_or(0, Bytes::len);
        self.rows.insert(id.to_owned(), MissingRow { end, source });
    }

    fn remove(&mut self, id: &str) {
        if let Some(row) = self.rows.remove(id) {
            self.row_bytes -= id.len() + EACH_ROW;
            self.value_bytes -= row.source.map_or(0, |source| source.len());
        }
    }

    /// Removes all rows of the table that a row's id is of.
    fn remove_all_of(&mut self, id: &str) {
        let of_it = |row: &&String| row_table(row) == row_table(id);
        for id in self.rows.keys().filter(of_it).cloned().collect::<Vec<_>>() {
            self.remove(&id);
        }
    }
}

fn misses_too_much() -> Error {
    let message = "too much of what its last transactions before a crash wrote is not there";
    Error::new(ErrorKind::Engine, message)
}

/// The next operations of a transaction, those on disk first; none after the last.
fn next_ops(
    mut spooled: Option<&mut SpooledOps>,
    others: &mut impl Iterator<Item = WriteOp>,
) -> egret_engine::Result<Vec<WriteOp>> {
    let mut some = Vec::with_capacity(AT_ONCE);
    while some.len() < AT_ONCE
        && let Some(spooled) = spooled.as_mut()
        && let Some(op) = spooled.next_op()?
    {
        some.push(op);
    }
    some.extend(others.take(AT_ONCE - some.len()));
    Ok(some)
}

/// Whether what operations wrote is there; nothing is missing of one that removed.
fn are_there(sink: &dyn Sink, ops: &[WriteOp]) -> egret_engine::Result<Vec<bool>> {
    let writes = |op: &WriteOp| matches!(op, WriteOp::Upsert { .. } | WriteOp::Patch { .. });
    let id = |op: &WriteOp| written_id(op).unwrap_or_default().to_owned();
    let ids: Vec<String> = ops.iter().filter(|op| writes(op)).map(id).collect();
    let mut shown = sink.shown(&ids)?.into_iter();
    let is_there = |op| {
        let Some(shown) = writes(op).then(|| shown.next()).flatten() else { return true };
        let composed = !matches!(shown.composed, Some(Fit::Missing | Fit::Impossible(_)));
        shown.document.is_some() && composed
    };
    Ok(ops.iter().map(is_there).collect())
}
