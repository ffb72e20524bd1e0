//! What a copy reads, cut into ranges of blocks that several readers can share.

use std::collections::VecDeque;

use egret_engine::Lsn;

use crate::catalog::Table;
use crate::connect::{Control, quote_identifier};
use crate::copied::{Blocks, Copied};
use crate::error::{Error, ErrorKind, Result};
use crate::slot;

/// Some blocks of one table, or of one partition of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Range {
    /// The table, by its place among the copy's jobs.
    pub(super) job: usize,
    holder: Holder,
    first_block: u32,
    /// The block after the last; none for the last range, which has no end.
    end_block: Option<u32>,
    /// The holder was truncated or rewritten since the snapshot: it is read as a whole, as far as
    /// the snapshot still shows it.
    rewritten: bool,
}

/// What holds rows of a table: itself, or a partition of it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Holder {
    oid: u32,
    /// `"schema"."table"`.
    name: String,
    /// The number of its file, which changes when it is truncated or rewritten.
    file: u32,
    /// Its size.
    blocks: u32,
}

/// The ranges that nobody has taken yet.
pub(super) type Ranges = RangeQueue;

/// Ranges in the order in which they are read.
#[derive(Debug, Default)]
pub(super) struct RangeQueue(VecDeque<Range>);

impl RangeQueue {
    pub(super) fn next(&mut self) -> Option<Range> {
        self.0.pop_front()
    }

    /// Takes out what is left of the holder of this range.
    pub(super) fn drop_rest(&mut self, of: &Range) {
        self.0.retain(|range| (range.job, range.holder.oid) != (of.job, of.holder.oid));
    }

    /// Puts what is small first: it is the small tables that are truncated and filled anew.
    pub(super) fn sort(&mut self) {
        self.0.make_contiguous().sort_by_key(|range| range.holder.blocks);
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

impl Range {
    /// The statement that reads it.
    pub(super) fn statement(&self, table: &Table) -> String {
        let columns: Vec<String> =
            table.columns.iter().map(|column| quote_identifier(&column.name)).collect();
        let (columns, holder, first) = (columns.join(", "), &self.holder.name, self.first_block);
        let end = self.end_block.map(|end| format!(" AND ctid < '({end},0)'")).unwrap_or_default();
        let blocks = match (first, end.as_str()) {
            (0, "") => None,
            _ => Some(format!("ctid >= '({first},0)'{end}")),
        };
        let rows = table.shape.as_ref().and_then(|shape| shape.filter());
        let both: Vec<String> =
            blocks.into_iter().chain(rows.map(|rows| format!("({rows})"))).collect();
        let filter = if both.is_empty() { String::new() } else { " WHERE ".to_owned() };
        let filter = filter + &both.join(" AND ");
        format!("COPY (SELECT {columns} FROM ONLY {holder}{filter}) TO STDOUT")
    }

    /// Locks what holds the rows against being rewritten, until [`Range::unlock`]. Where it was since
    /// the ranges were cut, rows have moved between them or are gone: the range is then all of it,
    /// and this gives the end of the log, before which the rewriting lies.
    pub(super) async fn lock(&mut self, control: &Control) -> Result<Option<Lsn>> {
        let Holder { oid, name, file, .. } = &self.holder;
        // As LOCK does it, which asks for more than the privilege to read some columns.
        let lock = format!("SAVEPOINT range; SELECT FROM ONLY {name} LIMIT 0");
        control.execute("locking the table against rewrites", &lock).await?;
        let row = control.row("looking at the table's file", FILE, &[oid]).await?;
        if !self.rewritten && row.try_get::<_, Option<u32>>(0)? == Some(*file) {
            return Ok(None);
        }
        (self.rewritten, self.first_block, self.end_block) = (true, 0, None);
        Ok(Some(slot::lsn(row.try_get(1)?)?))
    }

    /// Takes note that it was read, unless its rows have moved since.
    pub(super) fn note(&self, copied: &mut Copied, rows: u64) {
        if !self.rewritten {
            let Holder { oid, file, .. } = self.holder;
            copied.add(oid, file, (self.first_block, self.end_block), rows);
        }
    }

    /// Lets whoever waits to truncate or alter the table go on. The snapshot stays.
    pub(super) async fn unlock(control: &Control) -> Result<()> {
        let unlock = "ROLLBACK TO SAVEPOINT range; RELEASE SAVEPOINT range";
        control.execute("unlocking the table", unlock).await
    }
}

/// Relations that hold rows of a table: itself, or its partitions.
const HOLDERS: &str = "
    SELECT t.relid, n.nspname::text, c.relname::text
    FROM (SELECT $1::oid AS relid UNION SELECT relid FROM pg_catalog.pg_partition_tree($1::oid)) t
    JOIN pg_catalog.pg_class c ON c.oid = t.relid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind = 'r' ORDER BY 2, 3";

/// Blocks of a relation, the number of its file, and whether that is the one that the snapshot
/// knows: the row is the snapshot's, the function looks at what is there now.
const MEASURE: &str = "
    SELECT pg_catalog.pg_relation_size(c.oid) / current_setting('block_size')::int8,
           pg_catalog.pg_relation_filenode(c.oid),
           pg_catalog.pg_relation_filenode(c.oid) = c.relfilenode,
           pg_catalog.has_table_privilege(c.oid, 'SELECT')
    FROM pg_catalog.pg_class c WHERE c.oid = $1";

const FILE: &str = "
    SELECT pg_catalog.pg_relation_filenode($1::oid), pg_catalog.pg_current_wal_insert_lsn()::text";

/// Adds the ranges of a table. Asked on a session that reads in the snapshot: rows that it shows lie
/// in blocks that exist by now, and the last range has no end besides. Nothing stays locked: a
/// second session's lock would queue behind whoever waits for the first one's.
pub(super) async fn plan(
    control: &Control,
    table: &Table,
    job: usize,
    blocks: u32,
    copied: Option<&Copied>,
    ranges: &mut RangeQueue,
) -> Result<()> {
    for row in control.rows("listing partitions", HOLDERS, &[&table.oid]).await? {
        let oid: u32 = row.try_get(0)?;
        let (schema, name): (String, String) = (row.try_get(1)?, row.try_get(2)?);
        let name = format!("{}.{}", quote_identifier(&schema), quote_identifier(&name));
        let row = control.row("measuring the table", MEASURE, &[&oid]).await?;
        let (file, same): (Option<u32>, Option<bool>) = (row.try_get(1)?, row.try_get(2)?);
        // Without a file the table is gone, which reading it will say.
        let (file, rewritten) = (file.unwrap_or(0), same != Some(true));
        let size = u32::try_from(row.try_get::<_, i64>(0)?).unwrap_or(u32::MAX);
        let size = if rewritten { 0 } else { size };
        let left = copied.map_or_else(|| Some(vec![(0, None)]), |copied| copied.left(oid, file));
        let left = left.ok_or_else(|| {
            let message = format!("[{name}] was rewritten while its copy was interrupted");
            Error::new(ErrorKind::TableChanged, message)
        })?;
        // Where rows lie is told to those alone who may read all of them.
        let by_blocks: Option<bool> = row.try_get(3)?;
        let (left, blocks) = match by_blocks {
            Some(false) if !left.is_empty() => (vec![(0, None)], u32::MAX),
            _ => (left, blocks),
        };
        let holder = Holder { oid, name, file, blocks: size };
        let pieces = left.into_iter().flat_map(|left| cut(size, blocks, left));
        ranges.0.extend(pieces.map(|(first_block, end_block)| Range {
            job,
            holder: holder.clone(),
            first_block,
            end_block,
            rewritten,
        }));
    }
    Ok(())
}

/// Cuts what is left of `size` blocks into pieces of `blocks`; the last has no end where that has none.
fn cut(size: u32, blocks: u32, (from, to): Blocks) -> impl Iterator<Item = Blocks> {
    let count = to.unwrap_or(size).saturating_sub(from);
    let pieces = count.div_ceil(blocks.max(1)).max(1);
    (0..pieces).map(move |piece| {
        let first = from.saturating_add(piece.saturating_mul(blocks));
        (first, if piece + 1 < pieces { Some(first.saturating_add(blocks)) } else { to })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_all() {
        let check = |size, expected: &[(u32, Option<u32>)]| {
            assert_eq!(cut(size, 10, (0, None)).collect::<Vec<_>>(), expected, "{size}");
        };
        check(0, &[(0, None)]);
        check(10, &[(0, None)]);
        check(11, &[(0, Some(10)), (10, None)]);
        check(25, &[(0, Some(10)), (10, Some(20)), (20, None)]);
        let all = cut(u32::MAX, u32::MAX, (0, None)).collect::<Vec<_>>();
        assert_eq!(all, [(0, None)]);
        let check = |left, expected: &[Blocks]| {
            assert_eq!(cut(35, 10, left).collect::<Vec<_>>(), expected, "{left:?}");
        };
        check((5, Some(20)), &[(5, Some(15)), (15, Some(20))]);
        check((20, None), &[(20, Some(30)), (30, None)]);
        check((50, None), &[(50, None)]);
    }
}
