//! What an index remembers of its copy, committed with its documents: how far it got, from where in
//! the log, and the columns that its documents were made from.

use egret_engine::Lsn;
use serde::{Deserialize, Serialize};

use crate::catalog::Table;

/// How far a copy got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CopyState {
    /// Begun: after a crash it begins again.
    Copying,
    /// Everything is in.
    Done,
}

/// What is remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Progress {
    pub(crate) state: CopyState,
    /// The snapshot's position.
    pub(crate) lsn: Lsn,
    /// The table's OID: one dropped and made anew is another table.
    pub(crate) table: u32,
    /// Names and types of the columns.
    pub(crate) columns: Vec<(String, u32)>,
    /// The key's columns.
    pub(crate) key: Vec<String>,
}

/// What a table's columns now mean for an index that was filled from earlier ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Drift {
    /// Nothing changed.
    None,
    /// Columns were added that are NULL in every older row.
    Grown,
    /// Rows may have changed without being streamed: they must be copied again.
    Changed(String),
}

impl Progress {
    pub(crate) fn copying(table: &Table, lsn: Lsn) -> Self {
        Self::new(CopyState::Copying, table, lsn)
    }

    pub(crate) fn done(table: &Table, lsn: Lsn) -> Self {
        Self::new(CopyState::Done, table, lsn)
    }

    fn new(state: CopyState, table: &Table, lsn: Lsn) -> Self {
        let column = |column: &crate::catalog::Column| (column.name.clone(), column.type_oid);
        Self {
            state,
            lsn,
            table: table.oid,
            columns: table.columns.iter().map(column).collect(),
            key: table.key.clone().unwrap_or_default(),
        }
    }

    /// As the engine keeps it.
    pub(crate) fn to_text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// From what the engine kept; `None` where it is of another format.
    pub(crate) fn from_text(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// What became of the table since.
    pub(crate) fn drift(&self, table: &Table) -> Drift {
        if self.table != table.oid {
            return Drift::Changed("the table was dropped and made anew".to_owned());
        }
        if Ok(&self.key) != table.key.as_ref() {
            return Drift::Changed("its key changed".to_owned());
        }
        for (name, type_oid) in &self.columns {
            let now = table.columns.iter().find(|column| column.name == *name);
            match now {
                None => return Drift::Changed(format!("column [{name}] was dropped or renamed")),
                Some(now) if now.type_oid != *type_oid => {
                    return Drift::Changed(format!("column [{name}] changed its type"));
                }
                Some(_) => {}
            }
        }
        let is_new = |name: &str| !self.columns.iter().any(|(known, _)| known == name);
        let mut added = table.columns.iter().filter(|column| is_new(&column.name)).peekable();
        if added.peek().is_none() {
            return Drift::None;
        }
        match added.find(|column| column.has_default) {
            Some(column) => {
                Drift::Changed(format!("column [{}] was added with a default", column.name))
            }
            None => Drift::Grown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Column;
    use crate::types::Kind;

    fn table(oid: u32, columns: &[(&str, u32, bool)], key: &str) -> Table {
        let column = |&(name, type_oid, has_default): &(&str, u32, bool)| Column {
            name: name.to_owned(),
            type_oid,
            kind: Kind::Text,
            has_default,
        };
        Table {
            oid,
            schema: "public".to_owned(),
            name: "t".to_owned(),
            partitioned: false,
            owned: true,
            rows_estimated: 0,
            columns: columns.iter().map(column).collect(),
            key: Ok(vec![key.to_owned()]),
        }
    }

    #[test]
    fn drift() {
        let progress = Progress::done(&table(1, &[("a", 23, false), ("b", 25, true)], "a"), Lsn(5));
        assert_eq!(Progress::from_text(&progress.to_text()), Some(progress.clone()));
        let check = |now: Table, expected: &str| {
            let shown = match progress.drift(&now) {
                Drift::None => "none".to_owned(),
                Drift::Grown => "grown".to_owned(),
                Drift::Changed(reason) => reason,
            };
            assert_eq!(shown, expected);
        };
        let (a, b) = (("a", 23, false), ("b", 25, true));
        check(table(1, &[a, b], "a"), "none");
        check(table(1, &[b, a], "a"), "none");
        check(table(1, &[a, b, ("c", 25, false)], "a"), "grown");
        check(table(1, &[a, b, ("c", 25, true)], "a"), "column [c] was added with a default");
        check(table(1, &[a], "a"), "column [b] was dropped or renamed");
        check(table(1, &[a, ("b", 20, false)], "a"), "column [b] changed its type");
        check(table(1, &[a, b], "b"), "its key changed");
        check(table(2, &[a, b], "a"), "the table was dropped and made anew");
    }
}
