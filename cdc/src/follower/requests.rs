//! What is asked of a pipeline that follows its log: to copy a table again, to read rows again.
//!
//! Rows are read again beside the stream, at a position that it has not reached yet when they are
//! asked for. Once it is past it they are written, but for those that it changed from there on: these
//! it has brought itself. A letter is closed only when its document is durable, since nothing brings
//! the row once more.

use std::sync::Arc;
use std::time::{Duration, Instant};

use egret_aof::failpoint;
use egret_engine::Lsn;
use egret_engine::batch::{Batch, BatchOutcome, Condition, WriteOp};
use egret_engine::composition::{parse_row_id, row_id};
use egret_engine::index::Receipt;
use rustc_hash::FxHashMap;
use serde_json::{Map, Value};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::Follower;
use super::checks::Step;
use crate::dead_letters::{DeadLetters, Letter, LetterKey, RowName};
use crate::error::{Error, ErrorKind, Result};
use crate::feed::Titles;
use crate::members::Phase;
use crate::orders::{Request, Retried, RetryOutcome};
use crate::receipts::LetterBox;
use crate::repair::{self, Found, Read, ReadRow, Reading};
use crate::sink::Sink;
use crate::sync::temporary_slot;
use crate::tables::given_up;
use crate::transaction::RefusedRow;
use crate::written::values;

/// How many rows are read again by themselves at a time.
const ROWS_TO_READ: usize = 500;

/// How long until rows are asked for once more of which nothing is known then: they changed
/// meanwhile, or could not be read.
const READ_INTERVAL: Duration = Duration::from_secs(60);

/// Rows that are being read again: one round at a time.
#[derive(Default)]
pub(super) struct Repairs {
    pub(super) reading: JoinSet<Result<Read>>,
    /// What was read at a position that the stream has not reached.
    ready: Option<Read>,
    pub(super) writing: JoinSet<Vec<Retried>>,
    done: Vec<Retried>,
    reply: Option<oneshot::Sender<Result<Vec<Retried>>>>,
    /// When all rows were asked for of which nothing is known; in this connection, at its beginning.
    recalled: Option<Instant>,
}

impl Follower<'_> {
    /// Takes note of requests and of what they have come to, also while the stream never pauses.
    pub(super) async fn look_at_requests(&mut self) -> Result<()> {
        while let Some(request) = self.pipeline.try_next_request() {
            self.request(request).await?;
        }
        self.read_listed();
        while let Some(read) = self.repairs.reading.try_join_next() {
            self.read_again(read.map_err(given_up).and_then(|read| read));
        }
        while let Some(written) = self.repairs.writing.try_join_next() {
            self.written_again(written.unwrap_or_default());
        }
        while let Some(step) = self.checks.steps.try_join_next() {
            self.checked(step.unwrap_or_else(|error| Step::Read(Err(given_up(error)))));
        }
        Ok(())
    }

    /// Reads listed rows of which it is not known what is wrong. What a crash left out is one kind.
    /// A row that comes back, from a soft delete or from outside of its filter, may come without the
    /// values that did not change and are stored out of line. No document has them: it is read again.
    fn read_listed(&mut self) {
        if self.repairs.reply.is_some() {
            return;
        }
        let Self { members, letters, repairs, .. } = self;
        let is_followed = |index: &str| members.iter().any(|it| it.is_joined() && it.name == index);
        let mut letters = letters.letters.lock();
        if repairs.recalled.is_none_or(|recalled| recalled.elapsed() >= READ_INTERVAL) {
            repairs.recalled = Some(Instant::now());
            letters.recall();
        }
        let rows = letters.take_to_read(ROWS_TO_READ, is_followed);
        drop(letters);
        if !rows.is_empty() {
            self.retry(rows, oneshot::channel().0);
        }
    }

    pub(super) async fn request(&mut self, request: Request) -> Result<()> {
        match request {
            Request::Copy { table, reply } => {
                // What is not answered could not be told of the index that is left.
                self.stream.outstanding.settle_all().await?;
                for (place, feed, error) in self.stream.take_failures() {
                    self.left(place, feed, &error);
                }
                let copied = self.copy_again(&table).await;
                // Who asked may be gone.
                let _ = reply.send(copied);
                self.members.show(&self.pipeline.board);
                self.begin_to_sync()
            }
            Request::RollBack { index, reply } => self.roll_back(&index, reply),
            Request::Retry { letters, reply } => {
                self.retry(letters, reply);
                Ok(())
            }
            Request::Followed { reply } => {
                // Who asked may be gone.
                let _ = reply.send(self.followed());
                Ok(())
            }
            Request::Check(check) => {
                self.check(check);
                Ok(())
            }
        }
    }

    async fn copy_again(&mut self, title: &str) -> Result<()> {
        let conflict = |message: String| Err(Error::new(ErrorKind::Conflict, message));
        let Some((place, member)) = self.members.iter_mut().find(|(_, it)| it.title == title)
        else {
            let message = format!("table [{title}] is not followed by this pipeline");
            return Err(Error::new(ErrorKind::NotFound, message));
        };
        let reason = member.reason.as_deref().unwrap_or("it waits for its turn");
        match member.phase {
            Phase::Streaming => {}
            Phase::Swapping | Phase::Syncing { .. } => {
                return conflict(format!("table [{title}] is being copied already"));
            }
            Phase::Refused => {
                return conflict(format!("table [{title}] is not followed: {reason}"));
            }
            Phase::Waiting(_) | Phase::Stale(_) | Phase::Judging => {
                return conflict(format!("table [{title}] is about to be copied: {reason}"));
            }
        }
        let returning = member.back.as_ref().is_some_and(|back| back.returning.is_some());
        if returning {
            return conflict(format!("table [{title}] is going back"));
        }
        let reason = "a copy was asked for".to_owned();
        if member.returned.is_some_and(|returned| returned.differs) {
            // It is copied as it is declared now, once that counts again.
            let (indexes, name) = (Arc::clone(&self.pipeline.indexes), member.name.clone());
            let forgetting = tokio::task::spawn_blocking(move || indexes.forget_return(&name));
            forgetting.await.map_err(given_up)??;
            let feed = self.stream.leave(place);
            self.left(place, feed, &Error::new(ErrorKind::TableChanged, reason));
            return Ok(());
        }
        (member.phase, member.held) = (Phase::Waiting(None), None);
        member.reason = Some(reason);
        if let Some(feed) = self.stream.leave(place) {
            self.keep_back(place, &feed);
        }
        Ok(())
    }

    fn retry(&mut self, letters: Vec<LetterKey>, reply: oneshot::Sender<Result<Vec<Retried>>>) {
        if self.repairs.reply.is_some() {
            let message = "rows are being read again already";
            let _ = reply.send(Err(Error::new(ErrorKind::Conflict, message)));
            return;
        }
        let mut by_table: FxHashMap<(String, String), Vec<String>> = FxHashMap::default();
        for LetterKey { index, table, id } in letters {
            by_table.entry((index, table)).or_default().push(id);
        }
        let mut readings = Vec::new();
        for ((index, table), ids) in by_table {
            match self.reading(&index, &table, &ids) {
                Ok(reading) => readings.push(reading),
                Err(reason) => self.repairs.done.extend(ids.iter().map(|id| {
                    let row = RowName { index: &index, table: &table, id };
                    retried(row, RetryOutcome::Failed, Some(reason))
                })),
            }
        }
        self.repairs.reply = Some(reply);
        if !readings.is_empty() {
            let slot = temporary_slot(&self.pipeline.config, "again");
            let (source, server) = (self.pipeline.source.clone(), self.discovery.server.clone());
            self.repairs.reading.spawn(repair::read(source, slot, server, readings));
        }
        self.answer_retry();
    }

    /// Rows of a table to read for an index; from now on it is noted which of them are changed.
    fn reading(
        &mut self,
        index: &str,
        title: &str,
        keys: &[String],
    ) -> Result<Reading, &'static str> {
        let (place, member) = self
            .members
            .iter_mut()
            .find(|(_, member)| member.name == index)
            .ok_or("its index is not followed any more")?;
        let mut parts = member.table.parts().into_iter();
        let table = parts
            .find(|part| part.title() == title)
            .ok_or("its table is no part of the index any more")?;
        let joined = if member.is_joined() { self.stream.feeds.get_mut(place) } else { None };
        let feed = joined.and_then(Option::as_mut).ok_or("its table is not followed now")?;
        let format = table.row_format().ok_or("its table has no key")?;
        let format = format.with_max_bytes(self.pipeline.config.max_document_bytes);
        let id = |key: &String| format.rows_of().map_or_else(|| key.clone(), |of| row_id(of, key));
        let ids: Vec<String> = keys.iter().map(id).collect();
        let watched = feed.watched.retried.get_or_insert_default();
        watched.extend(ids.iter().map(|id| (id.clone(), Lsn::default())));
        Ok(Reading { place, table, format, ids })
    }

    pub(super) fn read_again(&mut self, read: Result<Read>) {
        match read {
            Ok(read) => self.repairs.ready = Some(read),
            Err(error) => {
                let feeds = self.stream.feeds.iter_mut().flatten();
                feeds.for_each(|feed| feed.watched.retried = None);
                self.repairs.done.clear();
                if let Some(reply) = self.repairs.reply.take() {
                    let _ = reply.send(Err(error.context("reading rows again")));
                }
            }
        }
        self.write_again();
    }

    /// Writes what was read, once the stream has passed its position.
    pub(super) fn write_again(&mut self) {
        let reached = |read: &mut Read| read.lsn <= self.stream.position.lsn;
        if !self.stream.is_between_transactions() {
            return;
        }
        let Some(Read { lsn, rows }) = self.repairs.ready.take_if(reached) else { return };
        let mut by_place: FxHashMap<usize, Vec<ReadRow>> = FxHashMap::default();
        for row in rows {
            by_place.entry(row.place).or_default().push(row);
        }
        for (place, rows) in by_place {
            let titles = self.members.get_mut(place).map(|member| member.titles());
            let feed = self.stream.feeds.get_mut(place).and_then(Option::as_mut);
            let watched =
                feed.and_then(|feed| Some((feed.watched.retried.take()?, Arc::clone(&feed.sink))));
            let (Some(titles), Some((watched, sink))) = (titles, watched) else {
                self.repairs.done.extend(rows.iter().map(left));
                continue;
            };
            let mut writing = Writing::new(titles, lsn);
            for row in rows {
                let changed = watched.get(&row.id).is_none_or(|last| *last >= lsn);
                writing.take(row, changed);
            }
            let batch = Batch {
                ops: std::mem::take(&mut writing.ops),
                row_lsn: Some(lsn),
                ..Batch::default()
            };
            // Before anything that the stream brings from here on.
            let receipt = sink.submit(batch).map_err(|error| error.to_string());
            let letters = self.letters.clone();
            self.repairs.writing.spawn(writing.finish(sink, receipt, letters));
        }
        self.answer_retry();
    }

    pub(super) fn written_again(&mut self, retried: Vec<Retried>) {
        self.repairs.done.extend(retried);
        self.answer_retry();
    }

    /// Answers once everything is done.
    fn answer_retry(&mut self) {
        let Repairs { reading, ready, writing, done, reply, .. } = &mut self.repairs;
        if !reading.is_empty() || ready.is_some() || !writing.is_empty() {
            return;
        }
        if let Some(reply) = reply.take() {
            let _ = reply.send(Ok(std::mem::take(done)));
        }
    }
}

/// A row that nothing can be written of.
fn left(row: &ReadRow) -> Retried {
    let id = parse_row_id(&row.id).map_or(&*row.id, |(_, key)| key);
    let row = RowName { index: "", table: "", id };
    retried(row, RetryOutcome::Failed, Some("its table left the stream meanwhile"))
}

fn retried(row: RowName<'_>, outcome: RetryOutcome, reason: Option<&str>) -> Retried {
    let LetterKey { index, table, id } = row.to_key();
    Retried { index, table, id, outcome, reason: reason.map(str::to_owned) }
}

/// Rows on their way into an index.
pub(super) struct Writing {
    titles: Titles,
    lsn: Lsn,
    /// Whether what cannot be written is listed, where it was not before.
    lists: bool,
    pub(super) ops: Vec<WriteOp>,
    /// Of each operation its id, its document, and what it comes to.
    written: Vec<(String, Option<bytes::Bytes>, RetryOutcome)>,
    refused: Vec<RefusedRow>,
    done: Vec<Retried>,
}

impl Writing {
    fn new(titles: Titles, lsn: Lsn) -> Self {
        let (ops, written, refused) = (Vec::new(), Vec::new(), Vec::new());
        Self { titles, lsn, lists: false, ops, written, refused, done: Vec::new() }
    }

    /// Those that were not listed as dead letters.
    pub(super) fn listing(titles: Titles, lsn: Lsn) -> Self {
        Self { lists: true, ..Self::new(titles, lsn) }
    }

    /// Takes note of what became of a row.
    fn note(&mut self, id: &str, outcome: RetryOutcome, reason: Option<&str>) {
        self.done.push(retried(self.titles.find(id), outcome, reason));
    }

    fn letter(&self, id: &str, reason: String, values: Map<String, Value>) -> Letter {
        self.titles.find(id).letter(self.lsn, reason, values)
    }

    pub(super) fn take(&mut self, row: ReadRow, changed: bool) {
        let ReadRow { id, found, .. } = row;
        if changed {
            self.note(&id, RetryOutcome::Changed, None);
            return;
        }
        let condition = Condition::None;
        match found {
            Found::Document(source) => {
                self.written.push((id.clone(), Some(source.clone()), RetryOutcome::Indexed));
                self.ops.push(WriteOp::Upsert { id, source, condition });
            }
            Found::Nothing => {
                self.written.push((id.clone(), None, RetryOutcome::Gone));
                self.ops.push(WriteOp::Delete { id, condition });
            }
            Found::Refused(row) => {
                if self.lists {
                    // What is there is not what it could make.
                    self.written.push((id.clone(), None, RetryOutcome::Gone));
                    self.ops.push(WriteOp::Delete { id, condition });
                } else {
                    self.note(&id, RetryOutcome::Failed, Some(&row.reason));
                }
                self.refused.push(row);
            }
            Found::Unreadable(reason) => {
                self.note(&id, RetryOutcome::Failed, Some(&reason));
            }
        }
    }

    /// Waits for the index, makes it durable, and only then settles the letters.
    pub(super) async fn finish(
        mut self,
        sink: Arc<dyn Sink>,
        receipt: Result<Receipt, String>,
        letters: LetterBox,
    ) -> Vec<Retried> {
        let answer = match receipt {
            Ok(receipt) => match receipt.await {
                Ok(answer) => answer.map_err(|error| error.to_string()),
                Err(_) => Err("the index closed without an answer".to_owned()),
            },
            Err(error) => Err(error),
        };
        let settle = move || {
            let settled = answer.and_then(|outcome| {
                sink.flush().map_err(|error| error.to_string())?;
                failpoint::reach("retried-rows-durable");
                letters
                    .work(|letters| self.settle(outcome, letters))
                    .map_err(|error| error.to_string())
            });
            let reason = settled.err();
            for (id, ..) in std::mem::take(&mut self.written) {
                self.note(&id, RetryOutcome::Failed, reason.as_deref());
            }
            self.done
        };
        // Only a stopping program does not run it: nobody waits for the answer then.
        tokio::task::spawn_blocking(settle).await.unwrap_or_default()
    }

    /// Closes the letters of what was written, and renews those of what still cannot be. Of several
    /// tables the documents count too that were composed anew.
    fn settle(&mut self, outcome: BatchOutcome, letters: &mut DeadLetters) -> Result<()> {
        let lsn = self.lsn;
        let mut uncomposed: FxHashMap<String, String> = FxHashMap::default();
        for (key, result) in outcome.composed {
            match result {
                Ok(()) => letters.close(self.titles.own(&key), lsn)?,
                Err(error) => {
                    let reason = error.to_string();
                    letters.add(self.letter(&key, reason.clone(), Map::new()))?;
                    uncomposed.insert(key, reason);
                }
            }
        }
        let written = std::mem::take(&mut self.written);
        for (result, (id, source, good)) in outcome.ops.into_iter().zip(written) {
            let reason = result.err().map(|error| error.to_string());
            let document = parse_row_id(&id).filter(|(table, _)| *table == 0);
            let reason = reason.or_else(|| document.and_then(|(_, key)| uncomposed.remove(key)));
            let outcome = if reason.is_none() { good } else { RetryOutcome::Failed };
            self.note(&id, outcome, reason.as_deref());
            match reason {
                None => {
                    letters.close(self.titles.find(&id), lsn)?;
                }
                Some(reason) => {
                    self.list(letters, self.letter(&id, reason, values(source.as_ref())))?;
                }
            }
        }
        for RefusedRow { id, reason, raw } in std::mem::take(&mut self.refused) {
            self.list(letters, self.letter(&id, reason, raw))?;
        }
        letters.sync()
    }

    fn list(&self, letters: &mut DeadLetters, letter: Letter) -> Result<()> {
        if self.lists { letters.add(letter) } else { letters.renew(letter) }
    }
}
