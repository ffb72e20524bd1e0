//! What a transaction does to one index: operations, rows that cannot become documents, counts.

use std::collections::BTreeMap;

use egret_engine::Lsn;
use egret_engine::batch::{Condition, OpSpool, Patch, WriteOp};
use egret_engine::composition::row_table;
use rustc_hash::FxHashMap;
use serde_json::{Map, Value};

use super::Gathering;
use crate::decode::{Datum, OldTuple, Tuple};
use crate::document::{Document, RowError, RowFormat};
use crate::error::Result;

/// What an operation takes in memory beside its id and document: itself, and what the allocator
/// rounds up.
const OP_BYTES: usize = size_of::<WriteOp>() + 64;

/// What a transaction does to one index.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// The first operations, where they do not fit into memory.
    pub(crate) spool: Option<OpSpool>,
    /// The operations after these, in the transaction's order.
    pub(crate) ops: Vec<WriteOp>,
    /// Rows that could not become documents, by what letters know them by; those without a key share a
    /// place.
    pub(crate) refused: BTreeMap<String, RefusedRow>,
    /// The same of rows that are gone and cannot have had documents: only their letters are to be closed.
    pub(crate) gone: Vec<String>,
    /// Rows of the stream, which is not the number of operations.
    pub(crate) rows: u64,
    /// About how many bytes the operations in memory take.
    pub(crate) bytes: usize,
    /// The same of the refused rows.
    pub(super) refused_bytes: usize,
    /// Whether the table was truncated.
    pub(crate) truncated: bool,
}

/// A row that could not become a document.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RefusedRow {
    /// Its `_id`, or what there is of it.
    pub(crate) id: String,
    /// Why.
    pub(crate) reason: String,
    /// Its values as they came.
    pub(crate) raw: Map<String, Value>,
}

impl Changes {
    /// A new row.
    pub(crate) fn insert(&mut self, format: &RowFormat, new: &Tuple) {
        self.rows += 1;
        match format.id(&new[..]) {
            Ok(id) if format.is_deleted(&new[..]) => self.vanish(id, None),
            Ok(id) => self.put(format, id, None, new),
            Err(error) => self.refuse(format, format.letter_id(&new[..]), new, &error),
        }
    }

    /// A changed row.
    pub(crate) fn update(&mut self, format: &RowFormat, old: &OldTuple, mut new: Tuple) {
        self.rows += 1;
        let before = match old {
            OldTuple::None => None,
            OldTuple::Key(tuple) => {
                fill(&mut new, tuple, format.key());
                Some(tuple)
            }
            OldTuple::Full(tuple) => {
                let all: Vec<usize> = (0..new.len()).collect();
                fill(&mut new, tuple, &all);
                Some(tuple)
            }
        };
        let old_id = before.and_then(|tuple| format.id(&tuple[..]).ok());
        if old_id.is_none() {
            self.forget(before.and_then(|tuple| format.letter_id(&tuple[..])));
        }
        match format.id(&new[..]) {
            Ok(id) => {
                let moved = old_id.filter(|old| *old != id);
                if format.is_deleted(&new[..]) {
                    return self.vanish(id, moved);
                }
                self.put(format, id, moved, &new);
            }
            Err(error) => {
                self.remove(old_id);
                self.refuse(format, format.letter_id(&new[..]), &new, &error);
            }
        }
    }

    /// A removed row.
    pub(crate) fn delete(&mut self, format: &RowFormat, old: &OldTuple) {
        self.rows += 1;
        let (OldTuple::Key(tuple) | OldTuple::Full(tuple)) = old else { return };
        match format.id(&tuple[..]) {
            Ok(id) => self.remove(Some(id)),
            Err(_) => self.forget(format.letter_id(&tuple[..])),
        }
    }

    /// A row whose key makes no `_id` is gone: it never had a document.
    fn forget(&mut self, letter: Option<String>) {
        if let Some(letter) = letter {
            self.forgive(&letter);
            self.bytes += letter.len();
            self.gone.push(letter);
        }
    }

    /// A row that counts as deleted.
    fn vanish(&mut self, id: String, moved: Option<String>) {
        self.remove(moved);
        self.remove(Some(id));
    }

    /// All rows removed: what the transaction did to the table before no longer matters.
    pub(crate) fn truncate(&mut self, format: &RowFormat) {
        self.rows += 1;
        if let Some(table) = format.rows_of() {
            // Rows of other tables go on.
            self.refused.retain(|id, _| row_table(id) != Some(table));
            return self.push(WriteOp::ClearRows { table }, 0);
        }
        *self = Self { rows: self.rows, truncated: true, ..Self::default() };
        self.push(WriteOp::Clear, 0);
    }

    /// Notes which of some rows are changed, by a commit that begins at `begin`. Of what is on disk
    /// nothing is known: it may be any.
    pub(crate) fn note(&self, rows: &mut FxHashMap<String, Lsn>, begin: Lsn) {
        if self.spool.is_some() || self.truncated {
            for last in rows.values_mut() {
                *last = begin;
            }
        }
        let touch = |rows: &mut FxHashMap<String, Lsn>, id: &str| {
            if let Some(last) = rows.get_mut(id) {
                *last = begin;
            }
        };
        for id in self.refused.keys() {
            touch(rows, id);
        }
        for op in &self.ops {
            let (id, before) = match op {
                WriteOp::Upsert { id, .. } | WriteOp::Delete { id, .. } => (id, None),
                WriteOp::Patch { id, previous_id, .. } => (id, previous_id.as_ref()),
                WriteOp::Clear => continue,
                WriteOp::ClearRows { table } => {
                    let of_it = rows.iter_mut().filter(|(id, _)| row_table(id) == Some(*table));
                    of_it.for_each(|(_, last)| *last = begin);
                    continue;
                }
            };
            touch(rows, id);
            if let Some(id) = before {
                touch(rows, id);
            }
        }
    }

    /// Whether more may come of it than rows that are written and removed: some may not be there to be
    /// changed, or the index may refuse them, so that they are to be listed. Of what is on disk nothing
    /// is known.
    pub(crate) fn unsettles(&self) -> bool {
        let writes = |op: &WriteOp| matches!(op, WriteOp::Upsert { .. } | WriteOp::Patch { .. });
        self.spool.is_some() || !self.refused.is_empty() || self.ops.iter().any(writes)
    }

    /// Writes the operations in memory to disk.
    pub(super) fn spill(&mut self, gathering: &Gathering) -> Result<()> {
        let spool = if let Some(spool) = &mut self.spool {
            spool
        } else {
            let Gathering { disk, folder, max_bytes, .. } = gathering;
            // The framing comes on top of what the limit counts.
            let limit = max_bytes.saturating_mul(2);
            self.spool.insert(OpSpool::create(&**disk, folder, limit)?)
        };
        for op in self.ops.drain(..) {
            spool.push(&op)?;
        }
        self.bytes = 0;
        Ok(())
    }

    fn push(&mut self, op: WriteOp, bytes: usize) {
        self.bytes += bytes + OP_BYTES;
        self.ops.push(op);
    }

    fn remove(&mut self, id: Option<String>) {
        if let Some(id) = id {
            self.forgive(&id);
            let bytes = id.len();
            self.push(WriteOp::Delete { id, condition: Condition::None }, bytes);
        }
    }

    fn put(&mut self, format: &RowFormat, id: String, moved: Option<String>, row: &Tuple) {
        let Document { source, keep } = match format.document(&row[..]) {
            Ok(document) => document,
            Err(error) => {
                // The older document misleads; the letter lists what is missing.
                self.remove(moved);
                return self.refuse(format, Some(id), row, &error);
            }
        };
        self.forgive(&id);
        let (bytes, condition) = (id.len() + source.len(), Condition::None);
        if keep.is_empty() {
            self.remove(moved);
            self.push(WriteOp::Upsert { id, source, condition }, bytes);
        } else {
            if let Some(old) = &moved {
                self.forgive(old);
            }
            let patch = Patch::Keep { source, keep };
            self.push(WriteOp::Patch { id, previous_id: moved, patch, condition }, bytes);
        }
    }

    /// A row that was refused earlier in the transaction has been mended or removed.
    fn forgive(&mut self, id: &str) {
        if !self.refused.is_empty() {
            self.refused.remove(id);
        }
    }

    fn refuse(&mut self, format: &RowFormat, id: Option<String>, row: &Tuple, error: &RowError) {
        let raw = format.raw(&row[..]);
        self.refused_bytes +=
            raw.values().map(|value| value.as_str().map_or(0, str::len)).sum::<usize>();
        if !matches!(error, RowError::KeyLength(_)) {
            self.remove(id.clone());
        }
        let id = id.unwrap_or_default();
        self.refused.insert(id.clone(), RefusedRow { id, reason: error.to_string(), raw });
    }
}

/// Takes values that were not sent from the row before.
fn fill(new: &mut Tuple, old: &Tuple, columns: &[usize]) {
    for &column in columns {
        if let (Some(value @ Datum::Unchanged), Some(before)) =
            (new.get_mut(column), old.get(column))
        {
            *value = before.clone();
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::document::RowColumn;
    use crate::types::Kind;

    pub(in crate::transaction) fn format() -> RowFormat {
        let column = |name: &str, kind| RowColumn { name: name.to_owned(), kind };
        let columns =
            vec![column("k", Kind::Text), column("n", Kind::Long), column("big", Kind::Text)];
        RowFormat::new(columns, &["k".to_owned()]).unwrap()
    }

    /// A row from words: `-` is NULL, `=` unchanged.
    pub(in crate::transaction) fn row(words: &str) -> Tuple {
        let datum = |word: &str| match word {
            "-" => Datum::Null,
            "=" => Datum::Unchanged,
            word => Datum::Text(Bytes::copy_from_slice(word.as_bytes())),
        };
        words.split(' ').map(datum).collect()
    }

    pub(in crate::transaction) fn shown(changes: &Changes) -> String {
        let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        let show = |op: &WriteOp| match op {
            WriteOp::Upsert { id, source, .. } => format!("put {id} {}", text(source)),
            WriteOp::Delete { id, .. } => format!("delete {id}"),
            WriteOp::Clear => "clear".to_owned(),
            WriteOp::ClearRows { table } => format!("clear {table}"),
            WriteOp::Patch { id, previous_id, patch: Patch::Keep { source, keep }, .. } => {
                let from = previous_id.as_deref().unwrap_or("itself");
                format!("patch {id} from {from} {} keep {}", text(source), keep.join(","))
            }
            WriteOp::Patch { .. } => "merge".to_owned(),
        };
        changes.ops.iter().map(show).collect::<Vec<_>>().join("; ")
    }

    fn check(change: impl FnOnce(&mut Changes), expected: &str, refused: &[&str]) {
        let mut changes = Changes::default();
        change(&mut changes);
        assert_eq!(shown(&changes), expected);
        let reasons: Vec<&str> = changes.refused.values().map(|row| row.reason.as_str()).collect();
        assert_eq!(reasons, refused);
    }

    #[test]
    fn a_refused_row_that_is_given_another_key_is_forgiven() {
        for words in ["b 1 -", "b 1 ="] {
            let moves = |changes: &mut Changes| {
                changes.insert(&format(), &row("a bad -"));
                changes.update(&format(), &OldTuple::Key(row("a - -")), row(words));
            };
            let mut changes = Changes::default();
            moves(&mut changes);
            assert!(changes.refused.is_empty(), "{words}: {:?}", changes.refused);
        }
    }

    #[test]
    fn inserts_and_deletes() {
        let format = format();
        check(
            |changes| changes.insert(&format, &row("a 1 -")),
            r#"put a {"k":"a","n":1,"big":null}"#,
            &[],
        );
        check(
            |changes| changes.insert(&format, &row("a x -")),
            "delete a",
            &["column [n]: [x] is not an integer"],
        );
        check(
            |changes| changes.insert(&format, &row("- 1 -")),
            "",
            &["key column [k] has no value"],
        );
        check(|changes| changes.delete(&format, &OldTuple::Key(row("a - -"))), "delete a", &[]);
        let mended = |changes: &mut Changes| {
            changes.insert(&format, &row("a x -"));
            changes.insert(&format, &row("b x -"));
            changes.insert(&format, &row("a 1 -"));
            changes.delete(&format, &OldTuple::Key(row("b - -")));
        };
        check(mended, r#"delete a; delete b; put a {"k":"a","n":1,"big":null}; delete b"#, &[]);
        check(|changes| changes.delete(&format, &OldTuple::Full(row("a 1 2"))), "delete a", &[]);
    }

    #[test]
    fn updates() {
        let format = format();
        let update = |old: OldTuple, new: &str, expected: &str, refused: &[&str]| {
            let new = row(new);
            check(|changes| changes.update(&format, &old, new), expected, refused);
        };
        update(OldTuple::None, "a 1 b", r#"put a {"k":"a","n":1,"big":"b"}"#, &[]);
        update(OldTuple::None, "a 1 =", r#"patch a from itself {"k":"a","n":1} keep big"#, &[]);
        update(
            OldTuple::Key(row("z - -")),
            "a 1 b",
            r#"delete z; put a {"k":"a","n":1,"big":"b"}"#,
            &[],
        );
        update(
            OldTuple::Key(row("z - -")),
            "a 1 =",
            r#"patch a from z {"k":"a","n":1} keep big"#,
            &[],
        );
        // The whole old row is known: nothing need be kept.
        update(
            OldTuple::Full(row("a 0 old")),
            "a 1 =",
            r#"put a {"k":"a","n":1,"big":"old"}"#,
            &[],
        );
        // A key stored out of line is sent with the old row only.
        update(OldTuple::Key(row("a - -")), "= 1 b", r#"put a {"k":"a","n":1,"big":"b"}"#, &[]);
        let refused = &["column [n]: [x] is not an integer"];
        update(OldTuple::Key(row("z - -")), "a x =", "delete z; delete a", refused);
        update(OldTuple::Key(row("z - -")), "- 1 b", "delete z", &["key column [k] has no value"]);
    }

    #[test]
    fn a_truncate_forgets_what_came_before_in_its_transaction() {
        let format = format();
        let all = |changes: &mut Changes| {
            changes.insert(&format, &row("a x -"));
            changes.insert(&format, &row("b 1 -"));
            changes.truncate(&format);
            changes.insert(&format, &row("c 1 -"));
        };
        check(all, r#"clear; put c {"k":"c","n":1,"big":null}"#, &[]);
    }
}
