//! What the answer to a batch says of dead letters.

use std::collections::BTreeMap;

use bytes::Bytes;
use egret_engine::batch::SpooledOutcome;
use egret_engine::composition::row_table;
use egret_engine::{ErrorKind, Lsn};
use serde_json::{Map, Value};

use crate::dead_letters::{DeadLetters, Letter};
use crate::error::Result;
use crate::feed::Titles;
use crate::written::{parts, previous_id, values};

/// The letters of one batch, by its operations in their order.
pub(super) struct Listing<'a> {
    titles: Titles,
    lsn: Lsn,
    letters: &'a mut DeadLetters,
    /// Rows that were rejected, and not mended or removed later in the batch.
    rejected: BTreeMap<String, RejectedRow>,
}

struct RejectedRow {
    reason: String,
    values: Map<String, Value>,
    read_again: bool,
}

impl<'a> Listing<'a> {
    /// For a batch of a table's transaction that ends here.
    pub(super) fn new(titles: Titles, lsn: Lsn, letters: &'a mut DeadLetters) -> Self {
        Self { titles, lsn, letters, rejected: BTreeMap::new() }
    }

    /// Reads once more what was on disk: only a batch with letters needs it.
    pub(super) fn spooled(
        &mut self,
        SpooledOutcome { mut ops, rejected }: SpooledOutcome,
    ) -> Result<()> {
        let mut rejected = rejected.into_iter().peekable();
        let mut place = 0;
        while let Some(op) = ops.next_op()? {
            let error = rejected.next_if(|it| it.place == place).map(|it| it.error);
            let (id, source) = parts(&op);
            previous_id(&op).map_or(Ok(()), |id| self.moved(id))?;
            self.one(id.as_deref(), source, error)?;
            place += 1;
        }
        Ok(())
    }

    /// A row that has this id no more.
    pub(super) fn moved(&mut self, id: &str) -> Result<()> {
        self.rejected.remove(id);
        self.letters.close(self.titles.find(id), self.lsn)
    }

    /// An operation on a row, or on all where there is no id.
    pub(super) fn one(
        &mut self,
        id: Option<&str>,
        source: Option<&Bytes>,
        error: Option<egret_engine::Error>,
    ) -> Result<()> {
        match (error, id) {
            (Some(error), id) => {
                // It came without the values that did not change.
                let read_again = error.kind() == ErrorKind::DocumentMissing;
                let (reason, values) = (error.to_string(), values(source));
                let row = RejectedRow { reason, values, read_again };
                self.rejected.insert(id.unwrap_or_default().to_owned(), row);
                Ok(())
            }
            (None, Some(id)) => {
                let row = self.titles.find(id);
                if !row.id.is_empty() {
                    self.rejected.remove(id);
                    return self.letters.close(row, self.lsn);
                }
                let cleared = row_table(id);
                self.rejected.retain(|id, _| row_table(id) != cleared);
                self.letters.clear(row.index, Some(row.table), self.lsn)
            }
            (None, None) => {
                self.rejected.clear();
                let own = self.titles.own("");
                self.letters.clear(own.index, Some(own.table), self.lsn)
            }
        }
    }

    /// Lists a row, where nothing mends or removes it later in the batch.
    pub(super) fn reject(&mut self, id: String, reason: String, values: Map<String, Value>) {
        self.rejected.insert(id, RejectedRow { reason, values, read_again: false });
    }

    /// Writes the letters; how many.
    pub(super) fn end(self) -> Result<u64> {
        let count = self.rejected.len() as u64;
        for (id, RejectedRow { reason, values, read_again }) in self.rejected {
            let letter = self.titles.find(&id).letter(self.lsn, reason, values);
            self.letters.add(Letter { read_again, ..letter })?;
        }
        Ok(count)
    }
}
