//! One transaction, gathered until its commit: what it does to each table's index. In memory as long
//! as it is small; the operations of a large one wait in temporary files, one for each table that
//! needs it. They go with the transaction: a broken connection leaves nothing.

mod changes;

use std::path::PathBuf;
use std::sync::Arc;

use egret_aof::disk::Disk;
use egret_engine::Lsn;
use egret_engine::batch::OpSpool;
use serde_json::Map;

pub(crate) use self::changes::{Changes, RefusedRow};
use crate::config::PipelineConfig;
use crate::error::{Error, ErrorKind, Result};

/// Where large transactions wait for their commit, and the limits.
#[derive(Debug)]
pub(crate) struct Gathering {
    pub(crate) disk: Arc<dyn Disk>,
    /// The folder of temporary files.
    pub(crate) folder: PathBuf,
    /// Bytes in memory.
    pub(crate) buffer_bytes: usize,
    /// Bytes in all.
    pub(crate) max_bytes: u64,
    /// Rows that may be refused, or rejected by the engine.
    pub(crate) max_refused: usize,
    /// The largest document.
    pub(crate) max_document_bytes: usize,
}

/// A transaction in progress.
#[derive(Debug)]
pub(crate) struct Transaction {
    /// Where its commit record begins.
    pub(crate) final_lsn: Lsn,
    gathering: Arc<Gathering>,
    /// Changes by table, in the order in which tables were first touched.
    changes: Vec<(usize, Changes)>,
    /// What all of them take in memory.
    bytes: usize,
    refused_bytes: usize,
}

impl Gathering {
    /// As a pipeline's configuration says, in its folder.
    pub(crate) fn new(disk: Arc<dyn Disk>, folder: PathBuf, config: &PipelineConfig) -> Self {
        Self {
            disk,
            folder,
            buffer_bytes: config.transaction_buffer_bytes,
            max_bytes: config.max_transaction_bytes,
            max_refused: config.max_dead_letters,
            max_document_bytes: config.max_document_bytes,
        }
    }
}

impl Transaction {
    /// A transaction whose commit record begins at `final_lsn`.
    pub(crate) fn new(final_lsn: Lsn, gathering: Arc<Gathering>) -> Self {
        Self { final_lsn, gathering, changes: Vec::new(), bytes: 0, refused_bytes: 0 }
    }

    /// Takes a change of one table, by its place in the pipeline. Writes to disk where memory is
    /// full. After an error the transaction cannot be used any more.
    pub(crate) fn change(&mut self, table: usize, work: impl FnOnce(&mut Changes)) -> Result<()> {
        let changes = self.changes(table);
        let (bytes, refused_bytes) = (changes.bytes, changes.refused_bytes);
        work(changes);
        let (now, refused_now, refused) =
            (changes.bytes, changes.refused_bytes, changes.refused.len());
        self.bytes = self.bytes - bytes + now;
        self.refused_bytes = self.refused_bytes - refused_bytes + refused_now;
        if refused > self.gathering.max_refused {
            let message = format!(
                "more than {} rows of one transaction cannot be indexed, the limit \
                 max_dead_letters; mend the rows, or raise it",
                self.gathering.max_refused
            );
            return Err(Error::new(ErrorKind::Refused, message));
        }
        if self.refused_bytes > self.gathering.buffer_bytes {
            self.forget_values();
        }
        if self.bytes > self.gathering.buffer_bytes { self.spill() } else { Ok(()) }
    }

    /// Forgets the changes of one table.
    pub(crate) fn forget(&mut self, table: usize) {
        self.changes.retain(|(known, _)| *known != table);
        self.bytes = self.changes.iter().map(|(_, changes)| changes.bytes).sum();
        self.refused_bytes = self.changes.iter().map(|(_, changes)| changes.refused_bytes).sum();
    }

    fn changes(&mut self, table: usize) -> &mut Changes {
        // Transactions touch few tables; the one touched last is usually touched next.
        let known = self.changes.iter().rposition(|(known, _)| *known == table);
        let at = known.unwrap_or_else(|| {
            self.changes.push((table, Changes::default()));
            self.changes.len() - 1
        });
        &mut self.changes[at].1
    }

    /// Writes operations to disk, those of the largest tables first, until half of the memory is
    /// free again.
    fn spill(&mut self) -> Result<()> {
        let spooled = self.changes.iter().filter_map(|(_, changes)| changes.spool.as_ref());
        let spooled: u64 = spooled.map(OpSpool::bytes).sum();
        if spooled + self.bytes as u64 > self.gathering.max_bytes {
            let message = format!(
                "the transaction before {} has more than max_transaction_bytes [{}]",
                self.final_lsn, self.gathering.max_bytes
            );
            return Err(Error::new(ErrorKind::ChangesLost, message));
        }
        let mut largest: Vec<&mut Changes> =
            self.changes.iter_mut().map(|(_, changes)| changes).collect();
        largest.sort_unstable_by_key(|changes| std::cmp::Reverse(changes.bytes));
        for changes in largest {
            if self.bytes <= self.gathering.buffer_bytes / 2 {
                break;
            }
            self.bytes -= changes.bytes;
            changes.spill(&self.gathering)?;
        }
        Ok(())
    }

    /// Keeps of the refused rows no more than what is wrong with them.
    fn forget_values(&mut self) {
        for (_, changes) in &mut self.changes {
            changes.refused.values_mut().for_each(|row| row.raw = Map::new());
            changes.refused_bytes = 0;
        }
        self.refused_bytes = 0;
    }

    /// All changes, by table. Operations of which some are on disk all are.
    pub(crate) fn into_changes(mut self) -> Result<Vec<(usize, Changes)>> {
        for (_, changes) in &mut self.changes {
            if changes.spool.is_some() {
                changes.spill(&self.gathering)?;
            }
        }
        Ok(self.changes)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use egret_aof::disk::sim::{Fault, SimDisk};

    use super::changes::tests::{format, row, shown};
    use super::*;
    use crate::decode::OldTuple;

    fn gathering(disk: &SimDisk, buffer_bytes: usize, max_bytes: u64) -> Arc<Gathering> {
        let (disk, folder) = (Arc::new(disk.clone()), PathBuf::from("/"));
        let (max_refused, max_document_bytes) = (3, usize::MAX);
        Arc::new(Gathering {
            disk,
            folder,
            buffer_bytes,
            max_bytes,
            max_refused,
            max_document_bytes,
        })
    }

    #[test]
    fn tables_keep_apart() {
        let mut transaction = Transaction::new(Lsn(5), gathering(&SimDisk::new(), 9999, 9999));
        for (table, words) in [(1, "a 1 -"), (0, "b 1 -"), (1, "c 1 -")] {
            transaction.change(table, |changes| changes.insert(&format(), &row(words))).unwrap();
        }
        let changes = transaction.into_changes().unwrap();
        let counts: Vec<(usize, usize)> =
            changes.iter().map(|(table, changes)| (*table, changes.ops.len())).collect();
        assert_eq!(counts, [(1, 2), (0, 1)]);
    }

    /// The operations of each table, wherever they are.
    fn all_ops(transaction: Transaction) -> Vec<(usize, String)> {
        let all = transaction.into_changes().unwrap().into_iter().map(|(table, mut changes)| {
            let after = std::mem::take(&mut changes.ops);
            if let Some(spool) = changes.spool.take() {
                assert!(after.is_empty(), "all are on disk, or all in memory");
                let mut spool = spool.finish().unwrap();
                changes.ops.extend(std::iter::from_fn(|| spool.next_op().unwrap()));
            }
            changes.ops.extend(after);
            (table, shown(&changes))
        });
        all.collect()
    }

    fn work(number: i32, changes: &mut Changes) {
        if number == 500 {
            changes.truncate(&format());
        } else if number % 7 == 0 {
            changes.delete(&format(), &OldTuple::Key(row(&format!("{number} - -"))));
        } else {
            changes.insert(&format(), &row(&format!("{number} {number} x")));
        }
    }

    fn check_spilling(buffer_bytes: usize, on_disk: bool) {
        let disk = SimDisk::new();
        let mut transaction = Transaction::new(Lsn(5), gathering(&disk, buffer_bytes, 1 << 30));
        let mut memory = [Changes::default(), Changes::default()];
        for number in 0..1000 {
            let table = usize::from(number % 3 == 0);
            work(number, &mut memory[table]);
            transaction.change(table, |changes| work(number, changes)).unwrap();
            assert!(transaction.bytes <= buffer_bytes);
            let sum: usize = transaction.changes.iter().map(|(_, it)| it.bytes).sum();
            assert_eq!(transaction.bytes, sum);
        }
        let spooled = transaction.changes.iter().any(|(_, changes)| changes.spool.is_some());
        assert_eq!(spooled, on_disk);
        let expected = [(1, shown(&memory[1])), (0, shown(&memory[0]))];
        assert_eq!(all_ops(transaction), expected, "{buffer_bytes} bytes");
        assert_eq!(disk.list(Path::new("/")).unwrap(), [""; 0]);
    }

    #[test]
    fn what_does_not_fit_into_memory_comes_back_from_disk() {
        check_spilling(1 << 20, false);
        check_spilling(20_000, true);
        check_spilling(0, true);
    }

    #[test]
    fn limits() {
        let disk = SimDisk::new();
        let fill = |buffer_bytes, max_bytes, words: &str| {
            let mut transaction =
                Transaction::new(Lsn(5), gathering(&disk, buffer_bytes, max_bytes));
            let mut insert = |number| {
                let row = row(&format!("{number} {words}"));
                transaction.change(0, |changes| changes.insert(&format(), &row))
            };
            (0..100).find_map(|number| insert(number).err())
        };
        assert!(fill(1000, 1 << 20, "1 -").is_none());
        let error = fill(1000, 4000, "1 -").unwrap();
        assert_eq!(error.kind(), ErrorKind::ChangesLost);
        assert!(error.to_string().contains("max_transaction_bytes [4000]"), "{error}");
        let error = fill(1000, 1 << 20, "bad -").unwrap();
        assert_eq!(error.kind(), ErrorKind::Refused);
        assert!(error.to_string().contains("max_dead_letters"), "{error}");
        disk.fail_from(disk.operations(), Fault::NoSpace);
        assert_eq!(fill(1000, 1 << 20, "1 -").unwrap().kind(), ErrorKind::Engine);
    }

    #[test]
    fn values_of_refused_rows_are_bounded() {
        let mut transaction = Transaction::new(Lsn(5), gathering(&SimDisk::new(), 300, 1 << 20));
        for id in ["a", "b", "c"] {
            let row = row(&format!("{id} bad {}", "x".repeat(120)));
            transaction.change(0, |changes| changes.insert(&format(), &row)).unwrap();
        }
        let changes = transaction.into_changes().unwrap().remove(0).1;
        let values: Vec<usize> = changes.refused.values().map(|row| row.raw.len()).collect();
        assert_eq!(values, [0, 0, 0]);
    }
}
