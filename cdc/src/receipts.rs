//! Batches that are with the engine: what was handed over and not yet answered, bounded in number
//! and bytes, and what the answers say.

mod listing;

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use egret_engine::Lsn;
use egret_engine::batch::{Batch, BatchOutcome, Compose, Rejected, SpooledOps};
use egret_engine::index::Receipt;
use parking_lot::Mutex;
use tokio::sync::oneshot::error::TryRecvError;

use self::listing::Listing;
use crate::dead_letters::DeadLetters;
use crate::error::{Error, ErrorKind, Result};
use crate::feed::Titles;
use crate::held::{HeldTransaction, NotLooked, Unlisted};
use crate::sink::Sink;
use crate::status::{StatusBoard, TableCounters};
use crate::tables::given_up;
use crate::transaction::RefusedRow;
use crate::written::{Written, parts};

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
        let titles = titles.clone();
        self.work(|letters| {
            let mut listing = Listing::new(titles, lsn, letters);
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
    /// Rows that are gone and had no documents.
    pub(crate) gone: Vec<String>,
    /// About how many bytes it holds.
    pub(crate) bytes: usize,
    /// Who counts.
    pub(crate) counters: Arc<TableCounters>,
    /// Whether rows that it changes may not be there yet.
    pub(crate) may_miss: bool,
    /// Whether all of its rows must fit: nothing is listed then, and the index fails where one does not.
    pub(crate) must_fit: bool,
}

/// An index that failed.
#[derive(Debug)]
pub(crate) struct Failed {
    /// Its place.
    pub(crate) place: usize,
    /// Where the oldest transaction begins whose dead letters are not known.
    pub(crate) unanswered: Option<Lsn>,
    /// Why.
    pub(crate) error: Error,
}

/// Batches handed over and not answered, in the order in which they were.
pub(crate) struct Outstanding {
    waiting: VecDeque<Waiting>,
    bytes: usize,
    max_batches: usize,
    max_bytes: usize,
    letters: LetterBox,
    /// Indexes that failed, and were not asked for yet.
    failures: Vec<Failed>,
    /// Rows that were changed and not there, by the place of their table.
    missing: Vec<(usize, Option<String>)>,
    /// What transactions wrote that indexes held, by their place, and is to be listed.
    unlisted: BTreeMap<usize, Unlisted>,
}

#[derive(Debug)]
struct Waiting {
    place: usize,
    receipt: Receipt,
    titles: Titles,
    begin: Lsn,
    end: Lsn,
    refused: Vec<RefusedRow>,
    gone: Vec<String>,
    bytes: usize,
    counters: Arc<TableCounters>,
    written: Written,
    may_miss: bool,
    must_fit: bool,
    /// Whether operations of it are on disk.
    spooled: bool,
}

impl Outstanding {
    pub(crate) fn new(max_batches: usize, max_bytes: usize, letters: LetterBox) -> Self {
        Self {
            waiting: VecDeque::new(),
            bytes: 0,
            max_batches,
            max_bytes,
            letters,
            failures: Vec::new(),
            missing: Vec::new(),
            unlisted: BTreeMap::new(),
        }
    }

    /// The position of the oldest batch that is not answered, or transaction that is not listed.
    pub(crate) fn oldest(&self) -> Option<Lsn> {
        let waiting = self.waiting.iter().map(|waiting| waiting.begin);
        self.unlisted.values().map(|unlisted| unlisted.begin).chain(waiting).min()
    }

    /// The indexes that failed since this was last asked.
    pub(crate) fn take_failures(&mut self) -> Vec<Failed> {
        std::mem::take(&mut self.failures)
    }

    /// Rows that were changed and not there, where that may be, by the place of their table; of those
    /// without an id no more is known.
    pub(crate) fn take_missing(&mut self) -> Vec<(usize, Option<String>)> {
        std::mem::take(&mut self.missing)
    }

    /// Leaves the answers of an index to themselves, and lists nothing more for it. Gives where the
    /// oldest transaction begins whose dead letters are not known.
    pub(crate) fn forget(&mut self, place: usize) -> Option<Lsn> {
        let mut unanswered = self.unlisted.remove(&place).map(|unlisted| unlisted.begin);
        let oldest = self.waiting.iter().find(|waiting| waiting.place == place);
        unanswered = unanswered.into_iter().chain(oldest.map(|waiting| waiting.begin)).min();
        self.waiting.retain(|waiting| waiting.place != place);
        self.bytes = self.waiting.iter().map(|waiting| waiting.bytes).sum();
        unanswered
    }

    /// Nothing more is expected of an index: what it was given since its last commit is lost, and with
    /// it the transaction that begins here.
    fn fail(&mut self, place: usize, begin: Lsn, error: Error) {
        let unanswered = self.forget(place).map_or(begin, |oldest| oldest.min(begin));
        self.failures.push(Failed { place, unanswered: Some(unanswered), error });
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
            Err(error) => self.fail(place, handover.begin, error.into()),
        }
        Ok(())
    }

    /// Looks at a transaction that the index at this place holds already. What is not there of it is
    /// listed once the stream [has passed](Self::list_passed) all that the index held.
    pub(crate) async fn look_at_held(
        &mut self,
        place: usize,
        held: HeldTransaction,
        first: impl FnOnce() -> Unlisted,
    ) -> Result<()> {
        let mut unlisted = self.unlisted.remove(&place).unwrap_or_else(first);
        let letters = self.letters.clone();
        let looking = tokio::task::spawn_blocking(move || {
            let looked = unlisted.look_at(held, &letters);
            (unlisted, looked)
        });
        let (unlisted, looked) = looking.await.map_err(given_up)?;
        let begin = unlisted.begin;
        self.unlisted.insert(place, unlisted);
        match looked {
            Ok(()) => {}
            Err(NotLooked::Index(error)) => self.fail(place, begin, error),
            Err(NotLooked::List(error)) => return Err(error),
        }
        Ok(())
    }

    /// Lists what is missing of transactions that indexes held, where a stream that is at this position
    /// has passed the last of them.
    pub(crate) async fn list_passed(&mut self, position: Lsn) -> Result<()> {
        if self.unlisted.is_empty() {
            return Ok(());
        }
        let is_due = |unlisted: &Unlisted| unlisted.is_due(position);
        let all = std::mem::take(&mut self.unlisted).into_iter();
        let (due, rest): (BTreeMap<_, _>, _) = all.partition(|(_, unlisted)| is_due(unlisted));
        self.unlisted = rest;
        // What one of them fails with must not keep the others from the list: the log is past them.
        let mut result = Ok(());
        for (place, mut unlisted) in due {
            if let Some(compose) = unlisted.take_compose() {
                result = result.and(self.compose_again(place, &unlisted, compose).await);
            }
            result = result.and(unlisted.list(&self.letters));
        }
        result
    }

    /// Has documents composed once more. What is wrong with them comes with the answer.
    async fn compose_again(&mut self, place: usize, of: &Unlisted, compose: Compose) -> Result<()> {
        let batch = Batch { row_lsn: Some(of.until), compose, ..Batch::default() };
        let handover = Handover {
            place,
            batch,
            titles: of.titles.clone(),
            begin: of.begin,
            end: of.until,
            refused: Vec::new(),
            gone: Vec::new(),
            bytes: 0,
            counters: Arc::clone(&of.counters),
            may_miss: false,
            must_fit: false,
        };
        self.submit(&*of.sink, handover).await
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
            gone: handover.gone,
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
                self.fail(done.place, done.begin, error.into());
                return Ok(());
            }
            None => {
                self.fail(done.place, done.begin, no_answer());
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
        let none_open = || !self.letters.letters.lock().has_any_of(done.titles.index());
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
        let mut listing = Listing::new(self.titles.clone(), self.end, letters);
        if let Some(spooled) = outcome.spooled {
            listing.spooled(spooled)?;
        }
        for (at, result) in outcome.ops.into_iter().enumerate() {
            let missing = |error: &egret_engine::Error| {
                self.may_miss && error.kind() == egret_engine::ErrorKind::DocumentMissing
            };
            self.written.previous_id(at).map_or(Ok(()), |id| listing.moved(id))?;
            if result.as_ref().is_err_and(missing) {
                continue;
            }
            let (id, source) = self.written.get(at);
            listing.one(id, source, result.err())?;
        }
        for id in &self.gone {
            listing.moved(id)?;
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

/// More rejected rows than there may be dead letters: somebody must look.
fn refused(error: egret_engine::Error) -> Error {
    let message = format!("{error}, the limit max_dead_letters; mend the rows, or raise it");
    Error::new(ErrorKind::Refused, message).with_source(error)
}

fn no_answer() -> Error {
    Error::new(ErrorKind::Engine, "the index closed without an answer to a batch")
}
