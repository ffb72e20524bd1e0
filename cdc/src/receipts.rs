//! Batches that are with the engine: what was handed over and not yet answered, bounded in number
//! and bytes, and what the answers say.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use egret_engine::Lsn;
use egret_engine::batch::{Batch, BatchOutcome, Patch, WriteOp};
use egret_engine::index::Receipt;
use parking_lot::Mutex;
use serde_json::{Map, Value};
use tokio::sync::oneshot::error::TryRecvError;

use crate::dead_letters::{DeadLetters, Letter};
use crate::error::{Error, ErrorKind, Result};
use crate::sink::Sink;
use crate::status::{StatusBoard, TableCounters};
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

    fn work(&self, work: impl FnOnce(&mut DeadLetters) -> Result<()>) -> Result<()> {
        let mut letters = self.letters.lock();
        let result = work(&mut letters);
        self.board.dead_letters.store(letters.count() as u64, Ordering::Relaxed);
        result
    }
}

/// A batch to hand over, and what to remember of it.
#[derive(Debug)]
pub(crate) struct Handover {
    /// The batch.
    pub(crate) batch: Batch,
    /// The table, as `schema.table`.
    pub(crate) table: Arc<str>,
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
}

/// Batches handed over and not answered, oldest first.
#[derive(Debug)]
pub(crate) struct Outstanding {
    waiting: VecDeque<Waiting>,
    bytes: usize,
    max_batches: usize,
    max_bytes: usize,
    letters: LetterBox,
}

#[derive(Debug)]
struct Waiting {
    receipt: Receipt,
    table: Arc<str>,
    begin: Lsn,
    end: Lsn,
    refused: Vec<RefusedRow>,
    bytes: usize,
    counters: Arc<TableCounters>,
    written: Written,
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
        Self { waiting: VecDeque::new(), bytes: 0, max_batches, max_bytes, letters }
    }

    /// The position of the oldest batch that is not answered.
    pub(crate) fn oldest(&self) -> Option<Lsn> {
        self.waiting.front().map(|waiting| waiting.begin)
    }

    /// Hands a batch over, after waiting for older ones where too much is underway.
    pub(crate) async fn submit(&mut self, sink: &dyn Sink, handover: Handover) -> Result<()> {
        while self.waiting.len() >= self.max_batches
            || (self.bytes + handover.bytes > self.max_bytes && !self.waiting.is_empty())
        {
            self.settle_oldest().await?;
        }
        let written = Written::of(&handover.batch.ops);
        let receipt = sink.submit(handover.batch)?;
        self.bytes += handover.bytes;
        self.waiting.push_back(Waiting {
            receipt,
            table: handover.table,
            begin: handover.begin,
            end: handover.end,
            refused: handover.refused,
            bytes: handover.bytes,
            counters: handover.counters,
            written,
        });
        Ok(())
    }

    /// Takes the answers that are there.
    pub(crate) fn settle_ready(&mut self) -> Result<()> {
        while let Some(front) = self.waiting.front_mut() {
            let outcome = match front.receipt.try_recv() {
                Ok(outcome) => outcome?,
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Closed) => return Err(no_answer()),
            };
            self.settle(&outcome)?;
        }
        Ok(())
    }

    /// Waits for every answer.
    pub(crate) async fn settle_all(&mut self) -> Result<()> {
        while !self.waiting.is_empty() {
            self.settle_oldest().await?;
        }
        Ok(())
    }

    async fn settle_oldest(&mut self) -> Result<()> {
        let Some(front) = self.waiting.front_mut() else { return Ok(()) };
        let outcome = (&mut front.receipt).await.map_err(|_| no_answer())??;
        self.settle(&outcome)
    }

    /// Lists the rows that the oldest batch could not write, and closes the letters of those that
    /// it could.
    fn settle(&mut self, outcome: &BatchOutcome) -> Result<()> {
        let Some(done) = self.waiting.pop_front() else { return Ok(()) };
        self.bytes = self.bytes.saturating_sub(done.bytes);
        let any_rejected = outcome.ops.iter().any(std::result::Result::is_err);
        if done.refused.is_empty() && !any_rejected && self.letters.letters.lock().count() == 0 {
            return Ok(());
        }
        let letters = LetterBox::clone(&self.letters);
        letters.work(|letters| done.list(outcome, letters))
    }
}

impl Waiting {
    fn list(self, outcome: &BatchOutcome, letters: &mut DeadLetters) -> Result<()> {
        let letter = |id: &str, reason, values| {
            self.counters.rejected.fetch_add(1, Ordering::Relaxed);
            let (table, id) = (self.table.to_string(), id.to_owned());
            Letter { table, id, lsn: self.end, reason, values }
        };
        for (at, result) in outcome.ops.iter().enumerate() {
            let (id, source) = self.written.get(at);
            match (result, id) {
                (Ok(_), Some(id)) => letters.close(&self.table, id, self.end)?,
                (Ok(_), None) => letters.clear(&self.table, self.end)?,
                (Err(error), id) => letters.add(letter(
                    id.unwrap_or_default(),
                    error.to_string(),
                    values(source),
                ))?,
            }
        }
        for row in &self.refused {
            letters.add(letter(&row.id, row.reason.clone(), row.raw.clone()))?;
        }
        Ok(())
    }
}

impl Written {
    fn of(ops: &[WriteOp]) -> Self {
        let mut written = Self::default();
        for op in ops {
            let source = match op {
                WriteOp::Upsert { id, source, .. }
                | WriteOp::Patch { id, patch: Patch::Keep { source, .. }, .. }
                | WriteOp::Patch { id, patch: Patch::Merge { source, .. }, .. } => {
                    written.ids.push_str(id);
                    Some(source.clone())
                }
                WriteOp::Delete { id, .. } => {
                    written.ids.push_str(id);
                    None
                }
                WriteOp::Clear => None,
            };
            written.ends.push(written.ids.len());
            written.sources.push(source);
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

fn values(source: Option<&Bytes>) -> Map<String, Value> {
    source.and_then(|source| serde_json::from_slice(source).ok()).unwrap_or_default()
}

fn no_answer() -> Error {
    Error::new(ErrorKind::Engine, "the index closed without an answer to a batch")
}
