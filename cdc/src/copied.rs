//! What a copy that has not ended has read of one table: blocks of files. An index remembers it with
//! the rows, for each table that its documents are made from, so that after a crash the copy goes on
//! with what is left.

use egret_engine::{Checkpoint, Lsn};
use serde::{Deserialize, Serialize};

/// The part of a table's copy that is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Copied {
    /// The cluster and timeline that its positions belong to.
    system_identifier: u64,
    timeline: u32,
    /// The snapshot's position when it first began: dead letters from here on are its own.
    pub(crate) began: Lsn,
    /// Rows that were read.
    pub(crate) rows: u64,
    files: Vec<File>,
}

/// Blocks of one file that were read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// The table, or the partition of it.
    holder: u32,
    /// The file's number.
    number: u32,
    /// In order, apart from each other.
    blocks: Vec<Blocks>,
}

/// The first block, and the one after the last; none where it has no end.
pub(crate) type Blocks = (u32, Option<u32>);

impl Copied {
    /// Nothing yet, of a copy that begins here.
    pub(crate) fn new(at: Checkpoint) -> Self {
        let Checkpoint { system_identifier, timeline, lsn } = at;
        Self { system_identifier, timeline, began: lsn, rows: 0, files: Vec::new() }
    }

    /// Whether its positions are of this history.
    pub(crate) fn is_of(&self, at: Checkpoint) -> bool {
        (self.system_identifier, self.timeline) == (at.system_identifier, at.timeline)
    }

    /// Whether nothing was read.
    pub(crate) fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Takes note of blocks that were read.
    pub(crate) fn add(&mut self, holder: u32, file: u32, blocks: Blocks, rows: u64) {
        self.rows += rows;
        let known = self.files.iter().position(|it| (it.holder, it.number) == (holder, file));
        let known = known.unwrap_or_else(|| {
            self.files.push(File { holder, number: file, blocks: Vec::new() });
            self.files.len() - 1
        });
        let Some(known) = self.files.get_mut(known) else { return };
        known.blocks.push(blocks);
        known.blocks.sort_unstable_by_key(|&(first, _)| first);
        let mut merged: Vec<Blocks> = Vec::with_capacity(known.blocks.len());
        for (first, end) in known.blocks.drain(..) {
            match merged.last_mut() {
                Some((_, None)) => {}
                Some((_, last)) if last.is_some_and(|last| first <= last) => {
                    *last = last.zip(end).map(|(last, end)| last.max(end));
                }
                _ => merged.push((first, end)),
            }
        }
        known.blocks = merged;
    }

    /// The blocks of a file that are left, in order; `None` where another file of this holder was
    /// read, whose rows may lie anywhere by now.
    pub(crate) fn left(&self, holder: u32, file: u32) -> Option<Vec<Blocks>> {
        let mut of_holder = self.files.iter().filter(|it| it.holder == holder).peekable();
        if of_holder.peek().is_none() {
            return Some(vec![(0, None)]);
        }
        let read = of_holder.find(|it| it.number == file)?;
        let (mut left, mut next) = (Vec::new(), Some(0));
        for &(first, end) in &read.blocks {
            let Some(from) = next else { break };
            if first > from {
                left.push((from, Some(first)));
            }
            next = end;
        }
        left.extend(next.map(|from| (from, None)));
        Some(left)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn copied(blocks: &[Blocks]) -> Copied {
        let mut copied = Copied::new(Checkpoint { system_identifier: 7, timeline: 1, lsn: Lsn(5) });
        for &blocks in blocks {
            copied.add(1, 10, blocks, 2);
        }
        copied
    }

    #[test]
    fn what_is_left() {
        let check = |read: &[Blocks], expected: &[Blocks]| {
            let copied = copied(read);
            assert_eq!(copied.left(1, 10).unwrap(), expected, "{read:?}");
            assert_eq!(copied.rows, 2 * read.len() as u64);
        };
        check(&[], &[(0, None)]);
        check(&[(0, Some(8))], &[(8, None)]);
        check(&[(8, Some(16)), (0, Some(8))], &[(16, None)]);
        check(&[(8, Some(16)), (24, None)], &[(0, Some(8)), (16, Some(24))]);
        check(&[(0, None)], &[]);
        let one = copied(&[(0, Some(8))]);
        assert_eq!(one.left(1, 11), None, "another file of the table");
        assert_eq!(one.left(2, 11), Some(vec![(0, None)]), "another partition");
    }

    proptest! {
        #[test]
        fn nothing_is_left_out_or_read_twice(
            read in prop::collection::vec((0u32..40, 1u32..10), 0..8), open in 0u32..60,
        ) {
            let mut blocks: Vec<Blocks> =
                read.iter().map(|&(first, count)| (first, Some(first + count))).collect();
            if open < 45 {
                blocks.push((open, None));
            }
            let within = |&(first, end): &Blocks, block| {
                first <= block && end.is_none_or(|end| block < end)
            };
            let left = copied(&blocks).left(1, 10);
            let left = left.unwrap_or_else(|| vec![(0, None)]);
            for block in 0..70 {
                let is_read = blocks.iter().any(|it| within(it, block));
                let is_left = left.iter().filter(|it| within(it, block)).count();
                prop_assert_eq!(is_left, usize::from(!is_read), "block {}", block);
            }
        }
    }
}
