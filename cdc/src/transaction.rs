//! One transaction, gathered until its commit: what it does to each table's index.

use egret_engine::Lsn;
use egret_engine::batch::{Condition, Patch, WriteOp};
use serde_json::{Map, Value};

use crate::decode::{Datum, OldTuple, Tuple};
use crate::document::{Document, RowError, RowFormat};

/// What a transaction does to one index.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// The operations, in the transaction's order.
    pub(crate) ops: Vec<WriteOp>,
    /// Rows that could not become documents.
    pub(crate) refused: Vec<RefusedRow>,
    /// Rows of the stream, which is not the number of operations.
    pub(crate) rows: u64,
    /// About how many bytes the operations hold.
    pub(crate) bytes: usize,
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

/// A transaction in progress.
#[derive(Debug)]
pub(crate) struct Transaction {
    /// Where its commit record begins.
    pub(crate) final_lsn: Lsn,
    /// Changes by table, in the order in which tables were first touched.
    changes: Vec<(usize, Changes)>,
}

impl Transaction {
    /// A transaction whose commit record begins at `final_lsn`.
    pub(crate) fn new(final_lsn: Lsn) -> Self {
        Self { final_lsn, changes: Vec::new() }
    }

    /// The changes of one table, by its place in the pipeline.
    pub(crate) fn changes(&mut self, table: usize) -> &mut Changes {
        // Transactions touch few tables; the one touched last is usually touched next.
        let known = self.changes.iter().rposition(|(known, _)| *known == table);
        let at = known.unwrap_or_else(|| {
            self.changes.push((table, Changes::default()));
            self.changes.len() - 1
        });
        &mut self.changes[at].1
    }

    /// All changes, by table.
    pub(crate) fn into_changes(self) -> Vec<(usize, Changes)> {
        self.changes
    }
}

impl Changes {
    /// A new row.
    pub(crate) fn insert(&mut self, format: &RowFormat, new: &Tuple) {
        self.rows += 1;
        match format.id(&new[..]) {
            Ok(id) => self.put(format, id, None, new),
            Err(error) => self.refuse(format, None, new, &error),
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
        match format.id(&new[..]) {
            Ok(id) => {
                let moved = old_id.filter(|old| *old != id);
                self.put(format, id, moved, &new);
            }
            Err(error) => {
                self.ops.extend(old_id.map(delete));
                self.refuse(format, None, &new, &error);
            }
        }
    }

    /// A removed row.
    pub(crate) fn delete(&mut self, format: &RowFormat, old: &OldTuple) {
        self.rows += 1;
        let (OldTuple::Key(tuple) | OldTuple::Full(tuple)) = old else { return };
        // A key that makes no `_id` never had a document.
        if let Ok(id) = format.id(&tuple[..]) {
            self.bytes += id.len() + size_of::<WriteOp>();
            self.forgive(&id);
            self.ops.push(delete(id));
        }
    }

    /// All rows removed: what the transaction did to the table before no longer matters.
    pub(crate) fn truncate(&mut self) {
        self.rows += 1;
        self.ops.clear();
        self.refused.clear();
        self.bytes = 0;
        self.ops.push(WriteOp::Clear);
    }

    fn put(&mut self, format: &RowFormat, id: String, moved: Option<String>, row: &Tuple) {
        let Document { source, keep } = match format.document(&row[..]) {
            Ok(document) => document,
            Err(error) => {
                // The older document misleads; the letter lists what is missing.
                self.ops.extend(moved.map(delete));
                return self.refuse(format, Some(id), row, &error);
            }
        };
        self.bytes += id.len() + source.len() + size_of::<WriteOp>();
        self.forgive(&id);
        let condition = Condition::None;
        if keep.is_empty() {
            self.ops.extend(moved.map(delete));
            self.ops.push(WriteOp::Upsert { id, source, condition });
        } else {
            let patch = Patch::Keep { source, keep };
            self.ops.push(WriteOp::Patch { id, previous_id: moved, patch, condition });
        }
    }

    /// A row that was refused earlier in the transaction has been mended or removed.
    fn forgive(&mut self, id: &str) {
        if !self.refused.is_empty() {
            self.refused.retain(|row| row.id != id);
        }
    }

    fn refuse(&mut self, format: &RowFormat, id: Option<String>, row: &Tuple, error: &RowError) {
        let raw = format.raw(&row[..]);
        self.bytes += raw.values().map(|value| value.as_str().map_or(0, str::len)).sum::<usize>();
        self.ops.extend(id.clone().map(delete));
        self.refused.push(RefusedRow {
            id: id.unwrap_or_default(),
            reason: error.to_string(),
            raw,
        });
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

fn delete(id: String) -> WriteOp {
    WriteOp::Delete { id, condition: Condition::None }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::document::RowColumn;
    use crate::types::Kind;

    fn format() -> RowFormat {
        let column = |name: &str, kind| RowColumn { name: name.to_owned(), kind };
        let columns =
            vec![column("k", Kind::Text), column("n", Kind::Long), column("big", Kind::Text)];
        RowFormat::new(columns, &["k".to_owned()]).unwrap()
    }

    /// A row from words: `-` is NULL, `=` unchanged.
    fn row(words: &str) -> Tuple {
        let datum = |word: &str| match word {
            "-" => Datum::Null,
            "=" => Datum::Unchanged,
            word => Datum::Text(Bytes::copy_from_slice(word.as_bytes())),
        };
        words.split(' ').map(datum).collect()
    }

    fn shown(changes: &Changes) -> String {
        let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        let show = |op: &WriteOp| match op {
            WriteOp::Upsert { id, source, .. } => format!("put {id} {}", text(source)),
            WriteOp::Delete { id, .. } => format!("delete {id}"),
            WriteOp::Clear => "clear".to_owned(),
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
        let reasons: Vec<&str> = changes.refused.iter().map(|row| row.reason.as_str()).collect();
        assert_eq!(reasons, refused);
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
            changes.truncate();
            changes.insert(&format, &row("c 1 -"));
        };
        check(all, r#"clear; put c {"k":"c","n":1,"big":null}"#, &[]);
    }

    #[test]
    fn tables_keep_apart() {
        let mut transaction = Transaction::new(Lsn(5));
        for (table, words) in [(1, "a 1 -"), (0, "b 1 -"), (1, "c 1 -")] {
            transaction.changes(table).insert(&format(), &row(words));
        }
        let changes = transaction.into_changes();
        let counts: Vec<(usize, usize)> =
            changes.iter().map(|(table, changes)| (*table, changes.ops.len())).collect();
        assert_eq!(counts, [(1, 2), (0, 1)]);
    }
}
