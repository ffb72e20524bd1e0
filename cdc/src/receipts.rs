//! Batches that are with the engine: what was handed over and not yet answered, bounded in number
//! and bytes, and what the answers say.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use egret_engine::Lsn;
use egret_engine::batch::{
    Batch, BatchOutcome, Patch, Rejected, SpooledOps, SpooledOutcome, WriteOp,
};
use egret_engine::composition::{parse_row_id, row_id};
use egret_engine::index::Receipt;
use parking_lot::Mutex;
use serde_json::{Map, Value};
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use crate::dead_letters::{DeadLetters, Letter};
use crate::document::MAX_RAW_BYTES;
use crate::error::{Error, ErrorKind, Result};
use crate::feed::Titles;
use crate::held;
use crate::sink::Sink;
use crate::status::{StatusBoard, TableCounters};
use crate::tables::given_up;
use crate::transaction::RefusedRow;

/// Where letters go, and who counts them.
#[derive(Debug, Clone)]
pub(crate) struct LetterBox {
    /// Held while lines are written; nothing else is called under it.
    pub(crate) letters: Arc<Mutex<DeadLetters>>,
    pub(crate) board: Arc<StatusBoard>,
}

impl LetterBox {
    /// Makes durable what was written.
    pub(crate) fn sync(&self) -> Result<()> {
        self.letters.lock().sync()
    }

    /// Lists documents that could not be composed at the end of a copy.
    pub(crate) fn list_composed(
        &self,
        titles: &Titles,
        lsn: Lsn,
        composed: Vec<(String, egret_engine::Result<()>)>,
        counters: &TableCounters,
    ) -> Result<()> {
        if composed.is_empty() {
            return Ok(());
        }
        let (titles, rejected) = (titles.clone(), BTreeMap::new());
        self.work(|letters| {
            let mut listing = Listing { titles, lsn, letters, rejected };
            for (id, result) in composed {
                listing.one(Some(&id), None, result.err())?;
            }
            counters.rejected.fetch_add(listing.end()?, Ordering::Relaxed);
            letters.sync()?;
            letters.check_limit()
        })
    }

    /// Works on the letters, and counts them.
    pub(crate) fn work<T>(&self, work: impl FnOnce(&mut DeadLetters) -> Result<T>) -> Result<T> {
        let mut letters = self.letters.lock();
        let result = work(&mut letters);
        self.board.dead_letters.store(letters.count() as u64, Ordering::Relaxed);
        result
    }
}

/// A batch to hand over, and what to remember of it.
#[derive(Debug)]
pub(crate) struct Handover {
    /// Whose it is, by which failures are told apart.
    pub(crate) place: usize,
    /// The batch.
    pub(crate) batch: Batch,
    /// The table, and those that its documents are composed from.
    pub(crate) titles: Titles,
    /// Where its transaction's commit record begins: nothing from here on may be acknowledged
    /// before the answer.
    pub(crate) begin: Lsn,
    /// Where it ends, by which dead letters are known.
    pub(crate) end: Lsn,
    /// Rows that could not become documents.
    pub(crate) refused: Vec<RefusedRow>,
    /// About how many bytes it holds.
    pub(crate) bytes: usize,
    /// Who counts.
    pub(crate) counters: Arc<TableCounters>,
    /// Whether rows that it changes may not be there yet.
    pub(crate) may_miss: bool,
    /// Whether all of its rows must fit: nothing is listed then, and the index fails where one does not.
    pub(crate) must_fit: bool,
}

/// Batches handed over and not answered, oldest first.
#[derive(Debug)]
pub(crate) struct Outstanding {
    waiting: VecDeque<Waiting>,
    bytes: usize,
    max_batches: usize,
    max_bytes: usize,
    letters: LetterBox,
    /// Indexes that failed, by their place, and were not asked for yet.
    failures: Vec<(usize, Error)>,
    /// Rows that were changed and not there, by the place of their table.
    missing: Vec<(usize, Option<String>)>,
}

#[derive(Debug)]
struct Waiting {
    place: usize,
    receipt: Receipt,
    titles: Titles,
    begin: Lsn,
    end: Lsn,
    refused: Vec<RefusedRow>,
    bytes: usize,
    counters: Arc<TableCounters>,
    written: Written,
    may_miss: bool,
    must_fit: bool,
    /// Whether operations of it are on disk.
    spooled: bool,
}

/// What was written, for those operations that the engine may refuse: their ids in one text, and
/// their documents.
#[derive(Debug, Default)]
struct Written {
    ids: String,
    ends: Vec<usize>,
    sources: Vec<Option<Bytes>>,
}

impl Outstanding {
    pub(crate) fn new(max_batches: usize, max_bytes: usize, letters: LetterBox) -> Self {
        let (waiting, failures) = (VecDeque::new(), Vec::new());
        Self { waiting, bytes: 0, max_batches, max_bytes, letters, failures, missing: Vec::new() }
    }

    /// The position of the oldest batch that is not answered.
    pub(crate) fn oldest(&self) -> Option<Lsn> {
        self.waiting.front().map(|waiting| waiting.begin)
    }

    /// The indexes that failed since this was last asked.
    pub(crate) fn take_failures(&mut self) -> Vec<(usize, Error)> {
        std::mem::take(&mut self.failures)
    }

    /// Rows that were changed and not there, where that may be, by the place of their table; of those
    /// without an id no more is known.
    pub(crate) fn take_missing(&mut self) -> Vec<(usize, Option<String>)> {
        std::mem::take(&mut self.missing)
    }

    /// Leaves the answers of an index to themselves.
    pub(crate) fn forget(&mut self, place: usize) {
        self.waiting.retain(|waiting| waiting.place != place);
        self.bytes = self.waiting.iter().map(|waiting| waiting.bytes).sum();
    }

    /// Nothing more is expected of an index: what it was given since its last commit is lost.
    fn fail(&mut self, place: usize, error: Error) {
        self.forget(place);
        self.failures.push((place, error));
    }

    /// Hands a batch over, after waiting for older ones where too much is underway. An index that
    /// refuses it is among the failures.
    pub(crate) async fn submit(&mut self, sink: &dyn Sink, mut handover: Handover) -> Result<()> {
        while !self.waiting.is_empty() && self.is_full_for(&handover) {
            self.settle_oldest().await?;
        }
        let spooled = handover.batch.spooled.is_some();
        let written = Written::of(&handover.batch.ops);
        let place = handover.place;
        let batch = std::mem::take(&mut handover.batch);
        match sink.submit(batch) {
            Ok(receipt) => self.wait_for(receipt, handover, written, spooled),
            Err(error) => self.fail(place, error.into()),
        }
        Ok(())
    }

    /// Takes a batch that its index holds already, and lists what is not there of it.
    pub(crate) async fn submit_held(
        &mut self,
        sink: Arc<dyn Sink>,
        mut handover: Handover,
    ) -> Result<()> {
        self.settle_all().await?;
        let batch = std::mem::take(&mut handover.batch);
        let written = Written::of(&batch.ops);
        let end = handover.end;
        let looking = tokio::task::spawn_blocking(move || held::outcome(&*sink, batch, end));
        let (send, receipt) = oneshot::channel();
        // The answer is taken at once.
        let _ = send.send(looking.await.map_err(given_up)?);
        self.wait_for(receipt, handover, written, false);
        self.settle_all().await
    }

    fn wait_for(&mut self, receipt: Receipt, handover: Handover, written: Written, spooled: bool) {
        self.bytes += handover.bytes;
        self.waiting.push_back(Waiting {
            place: handover.place,
            receipt,
            titles: handover.titles,
            begin: handover.begin,
            end: handover.end,
            refused: handover.refused,
            bytes: handover.bytes,
            counters: handover.counters,
            written,
            may_miss: handover.may_miss,
            must_fit: handover.must_fit,
            spooled,
        });
    }

    /// Whether older batches must be answered first. Of the transactions that are on disk one at a
    /// time is with the engine, so that no more than two are there at once.
    fn is_full_for(&self, handover: &Handover) -> bool {
        let other = |waiting: &Waiting| waiting.spooled && waiting.begin != handover.begin;
        self.waiting.len() >= self.max_batches
            || self.bytes + handover.bytes > self.max_bytes
            || (handover.batch.spooled.is_some() && self.waiting.iter().any(other))
    }

    /// Takes the answers that are there.
    pub(crate) fn settle_ready(&mut self) -> Result<()> {
        while let Some(front) = self.waiting.front_mut() {
            match front.receipt.try_recv() {
                Ok(answer) => self.settle(Some(answer))?,
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Closed) => self.settle(None)?,
            }
        }
        Ok(())
    }

    /// Waits for every answer, also after one that is a failure; the first counts.
    pub(crate) async fn settle_all(&mut self) -> Result<()> {
        let mut result = Ok(());
        while !self.waiting.is_empty() {
            result = result.and(self.settle_oldest().await);
        }
        result
    }

    async fn settle_oldest(&mut self) -> Result<()> {
        let Some(front) = self.waiting.front_mut() else { return Ok(()) };
        let answer = (&mut front.receipt).await.ok();
        self.settle(answer)
    }

    /// Lists the rows that the oldest batch could not write, and closes the letters of those that
    /// it could. Its answer is never asked for again, whatever it is.
    fn settle(&mut self, answer: Option<egret_engine::Result<BatchOutcome>>) -> Result<()> {
        let Some(done) = self.waiting.pop_front() else { return Ok(()) };
        self.bytes = self.bytes.saturating_sub(done.bytes);
        let mut outcome = match answer {
            Some(Ok(outcome)) => outcome,
            // So many were not there that the batch was not applied.
            Some(Err(error)) if error.kind() == egret_engine::ErrorKind::Full && done.may_miss => {
                self.missing.push((done.place, None));
                return Ok(());
            }
            Some(Err(error)) if error.kind() == egret_engine::ErrorKind::Full && !done.must_fit => {
                return Err(refused(error));
            }
            Some(Err(error)) => {
                self.fail(done.place, error.into());
                return Ok(());
            }
            None => {
                self.fail(done.place, no_answer());
                return Ok(());
            }
        };
        if done.must_fit {
            // The letters are about the index that is searched meanwhile.
            return Ok(());
        }
        if done.may_miss {
            self.take_note_of_missing(&done, &mut outcome)?;
        }
        let any_rejected = outcome.ops.iter().any(std::result::Result::is_err)
            || outcome.composed.iter().any(|(_, result)| result.is_err())
            || outcome.spooled.as_ref().is_some_and(|spooled| !spooled.rejected.is_empty());
        let none_open = || {
            let letters = self.letters.letters.lock();
            !done.titles.all().any(|title| letters.has_any_of(title))
        };
        if done.refused.is_empty() && !any_rejected && none_open() {
            return Ok(());
        }
        let letters = LetterBox::clone(&self.letters);
        letters.work(|letters| {
            done.list(outcome, letters)?;
            letters.check_limit()
        })
    }
}

impl Outstanding {
    /// Takes rows that were not there out of an answer: they are no dead letters.
    fn take_note_of_missing(&mut self, done: &Waiting, outcome: &mut BatchOutcome) -> Result<()> {
        let is_missing =
            |error: &egret_engine::Error| error.kind() == egret_engine::ErrorKind::DocumentMissing;
        for (at, result) in outcome.ops.iter_mut().enumerate() {
            if result.as_ref().is_err_and(is_missing) {
                let (id, _) = done.written.get(at);
                self.missing.push((done.place, id.map(str::to_owned)));
            }
        }
        if let Some(spooled) = &mut outcome.spooled {
            let all = std::mem::take(&mut spooled.rejected);
            let (missing, rejected): (Vec<_>, Vec<_>) =
                all.into_iter().partition(|it| is_missing(&it.error));
            spooled.rejected = rejected;
            if !missing.is_empty() {
                let ids = ids_of(&mut spooled.ops, &missing)?;
                self.missing.extend(ids.into_iter().map(|id| (done.place, id)));
            }
        }
        Ok(())
    }
}

/// The ids of some spooled operations. Reads all of them once more.
fn ids_of(ops: &mut SpooledOps, of: &[Rejected]) -> Result<Vec<Option<String>>> {
    let (mut ids, mut next, mut place) = (Vec::with_capacity(of.len()), of.iter().peekable(), 0);
    ops.rewind()?;
    while next.peek().is_some()
        && let Some(op) = ops.next_op()?
    {
        if next.next_if(|it| it.place == place).is_some() {
            ids.push(parts(&op).0.map(Cow::into_owned));
        }
        place += 1;
    }
    ops.rewind()?;
    Ok(ids)
}

impl Waiting {
    fn list(self, outcome: BatchOutcome, letters: &mut DeadLetters) -> Result<()> {
        let (titles, lsn) = (self.titles.clone(), self.end);
        let mut listing = Listing { titles, lsn, letters, rejected: BTreeMap::new() };
        if let Some(spooled) = outcome.spooled {
            listing.spooled(spooled)?;
        }
        for (at, result) in outcome.ops.into_iter().enumerate() {
            let missing = |error: &egret_engine::Error| {
                self.may_miss && error.kind() == egret_engine::ErrorKind::DocumentMissing
            };
            if result.as_ref().is_err_and(missing) {
                continue;
            }
            let (id, source) = self.written.get(at);
            listing.one(id, source, result.err())?;
        }
        for RefusedRow { id, reason, raw } in self.refused {
            listing.reject(id, reason, raw);
        }
        // A row may be good and its document not.
        for (id, result) in outcome.composed {
            listing.one(Some(&id), None, result.err())?;
        }
        let listed = listing.end()?;
        self.counters.rejected.fetch_add(listed, Ordering::Relaxed);
        Ok(())
    }
}

/// The letters of one batch, by its operations in their order.
struct Listing<'a> {
    titles: Titles,
    lsn: Lsn,
    letters: &'a mut DeadLetters,
    /// Rows that were rejected, and not mended or removed later in the batch.
    rejected: BTreeMap<String, (String, Map<String, Value>)>,
}

impl Listing<'_> {
    /// Reads once more what was on disk: only a batch with letters needs it.
    fn spooled(&mut self, SpooledOutcome { mut ops, rejected }: SpooledOutcome) -> Result<()> {
        let mut rejected = rejected.into_iter().peekable();
        let mut place = 0;
        while let Some(op) = ops.next_op()? {
            let error = rejected.next_if(|it| it.place == place).map(|it| it.error);
            let (id, source) = parts(&op);
            self.one(id.as_deref(), source, error)?;
            place += 1;
        }
        Ok(())
    }

    /// An operation on a row, or on all where there is no id.
    fn one(
        &mut self,
        id: Option<&str>,
        source: Option<&Bytes>,
        error: Option<egret_engine::Error>,
    ) -> Result<()> {
        match (error, id) {
            (Some(error), id) => {
                if let (egret_engine::ErrorKind::DocumentMissing, Some(id)) = (error.kind(), id) {
                    let (table, key) = self.titles.find(id);
                    self.letters.miss(table, key);
                }
                self.reject(id.unwrap_or_default().to_owned(), error.to_string(), values(source));
                Ok(())
            }
            (None, Some(id)) => {
                let (table, key) = self.titles.find(id);
                if !key.is_empty() {
                    self.rejected.remove(id);
                    return self.letters.close(table, key, self.lsn);
                }
                let cleared = parse_row_id(id).map(|(table, _)| table);
                let is_of = |id: &String| parse_row_id(id).map(|(table, _)| table) == cleared;
                self.rejected.retain(|id, _| !is_of(id));
                self.letters.clear(table, self.lsn)
            }
            (None, None) => {
                self.rejected.clear();
                self.letters.clear(self.titles.own(), self.lsn)
            }
        }
    }

    fn reject(&mut self, id: String, reason: String, values: Map<String, Value>) {
        self.rejected.insert(id, (reason, values));
    }

    /// Writes the letters; how many.
    fn end(self) -> Result<u64> {
        let count = self.rejected.len() as u64;
        for (id, (reason, values)) in self.rejected {
            let (table, key) = self.titles.find(&id);
            let (table, id, lsn) = (table.to_owned(), key.to_owned(), self.lsn);
            self.letters.add(Letter { table, id, lsn, reason, values })?;
        }
        Ok(count)
    }
}

/// The id of what an operation writes or removes; none where that is all there is.
pub(crate) fn written_id(op: &WriteOp) -> Option<&str> {
    match op {
        WriteOp::Upsert { id, .. } | WriteOp::Patch { id, .. } | WriteOp::Delete { id, .. } => {
            Some(id)
        }
        WriteOp::ClearRows { .. } | WriteOp::Clear => None,
    }
}

/// The id of an operation, none for all rows, and its document. All rows of one of several tables have
/// the id of a row without a key, which no row has.
fn parts(op: &WriteOp) -> (Option<Cow<'_, str>>, Option<&Bytes>) {
    match op {
        WriteOp::Upsert { id, source, .. }
        | WriteOp::Patch { id, patch: Patch::Keep { source, .. }, .. }
        | WriteOp::Patch { id, patch: Patch::Merge { source, .. }, .. } => {
            (Some(id.into()), Some(source))
        }
        WriteOp::Delete { id, .. } => (Some(id.into()), None),
        WriteOp::ClearRows { table } => (Some(row_id(*table, "").into()), None),
        WriteOp::Clear => (None, None),
    }
}

impl Written {
    fn of(ops: &[WriteOp]) -> Self {
        let mut written = Self::default();
        for op in ops {
            let (id, source) = parts(op);
            written.ids.push_str(id.as_deref().unwrap_or_default());
            written.ends.push(written.ids.len());
            written.sources.push(source.cloned());
        }
        written
    }

    /// An operation's id, which is never empty but for `Clear`, and its document.
    fn get(&self, at: usize) -> (Option<&str>, Option<&Bytes>) {
        let start = at.checked_sub(1).and_then(|before| self.ends.get(before)).copied();
        let end = self.ends.get(at).copied().unwrap_or_default();
        let id = self.ids.get(start.unwrap_or(0)..end).filter(|id| !id.is_empty());
        (id, self.sources.get(at).and_then(Option::as_ref))
    }
}

/// The values that a letter keeps; none where they are too many.
pub(crate) fn values(source: Option<&Bytes>) -> Map<String, Value> {
    let fits = |source: &&Bytes| source.len() <= MAX_RAW_BYTES;
    let read = |source: &Bytes| serde_json::from_slice(source).ok();
    source.filter(fits).and_then(read).unwrap_or_default()
}

/// More rejected rows than there may be dead letters: somebody must look.
fn refused(error: egret_engine::Error) -> Error {
    let message = format!("{error}, the limit max_dead_letters; mend the rows, or raise it");
    Error::new(ErrorKind::Refused, message).with_source(error)
}

fn no_answer() -> Error {
    Error::new(ErrorKind::Engine, "the index closed without an answer to a batch")
}
