//! What an index remembers of its copy, committed with its documents: how far it got, from where in
//! the log, and the columns that its documents were made from.

use std::sync::Arc;

use egret_engine::{Checkpoint, Lsn};
use serde::{Deserialize, Serialize};

use crate::catalog::Table;
use crate::copied::Copied;
use crate::storage::Storage;

/// How far a copy got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CopyState {
    /// Begun: after a crash it goes on, where that can be.
    Copying,
    /// Everything is in.
    Done,
}

/// What is remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Progress {
    pub(crate) state: CopyState,
    /// The snapshot's position; of a copy that goes on, the position of the rows so far.
    pub(crate) lsn: Lsn,
    /// The table's OID: one dropped and made anew is another table.
    pub(crate) table: u32,
    /// Names and types of the columns.
    pub(crate) columns: Vec<(String, u32)>,
    /// Generated columns that the log lacked: a plain one of this name has values without being streamed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) unpublished: Vec<String>,
    /// The key's columns.
    pub(crate) key: Vec<String>,
    /// What lay behind the table's rows; not known where an earlier version filled the index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) storage: Option<Storage>,
    /// The table's place in the publication; likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) membership: Option<String>,
    /// Since which version of Egret the columns' values are [written](Kind::written_since) as they are.
    #[serde(default, skip_serializing_if = "is_first")]
    pub(crate) written_since: u32,
    /// What a copy that has not ended has read of the table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) copied: Option<Copied>,
    /// Rows, by their `_id`, that the log has changed and that were not in, while such a copy was brought
    /// to a new snapshot: each must come with its block, or be read by its key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) missing: Vec<String>,
    /// Whether there may be more of these, or rows that are not listed yet. A copy that is interrupted so
    /// begins again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) unsettled: bool,
    /// The declaration that its documents are made by; none where there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) declared: Option<String>,
    /// What its documents are composed of, and the tables that takes; none where of its rows alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) composed: Option<String>,
    /// The same of each table that they are composed from besides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) related: Vec<Self>,
    /// What was gone back from to this index. As long as that is what is declared, the index is
    /// followed by its own declaration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) returned: Option<ReturnedFrom>,
}

/// What was gone back from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReturnedFrom {
    /// The declaration; none where there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) declared: Option<String>,
}

/// What a table's columns now mean for an index that was filled from earlier ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Drift {
    /// Nothing changed.
    None,
    /// Columns were added that are NULL in every older row, or rows were moved and not changed: it
    /// is to be taken note of.
    Grown,
    /// Rows may have changed without being streamed: they must be copied again.
    Changed(String),
}

impl Progress {
    pub(crate) fn copying(table: &Table, at: Checkpoint) -> Self {
        let begun = |part: Self| Self { copied: Some(Copied::new(at)), ..part };
        let progress = begun(Self::new(CopyState::Copying, table, at.lsn));
        let related = progress.related.iter().cloned().map(begun).collect();
        Self { related, ..progress }
    }

    /// The same, of rows as they are at another position.
    pub(crate) fn at(&self, lsn: Lsn) -> Self {
        let mut progress = Self { lsn, ..self.clone() };
        progress.related.iter_mut().for_each(|part| part.lsn = lsn);
        progress
    }

    /// Whether a copy can go on from here under a snapshot of this position: the tables are what they
    /// were, and the log since then, which is kept from `floor` on, tells of all changes.
    pub(crate) fn goes_on(&self, table: &Table, floor: Lsn, snapshot: Checkpoint) -> bool {
        let is_of = |copied: &Copied| copied.is_of(snapshot);
        self.state == CopyState::Copying
            && !self.unsettled
            && self.of_nothing() == Self::new(self.state, table, self.lsn)
            && self.parts().all(|part| part.copied.as_ref().is_some_and(is_of))
            && self.has_read_any()
            && (floor..=snapshot.lsn).contains(&self.lsn)
    }

    /// Whether it is of a copy that has not ended and has read something.
    pub(crate) fn has_read_any(&self) -> bool {
        self.parts().filter_map(|part| part.copied.as_ref()).any(|copied| !copied.is_empty())
    }

    /// Rows that a copy that has not ended has read, of all tables.
    pub(crate) fn rows_copied(&self) -> u64 {
        self.parts().filter_map(|part| part.copied.as_ref()).map(|copied| copied.rows).sum()
    }

    /// What a copy that has not ended has read of one of the tables, by its place among
    /// [`Table::parts`].
    pub(crate) fn copied(&self, part: usize) -> Option<&Copied> {
        self.parts().nth(part)?.copied.as_ref()
    }

    /// The same, to be added to.
    pub(crate) fn copied_mut(&mut self, part: usize) -> Option<&mut Copied> {
        let part = match part.checked_sub(1) {
            None => self,
            Some(related) => self.related.get_mut(related)?,
        };
        part.copied.as_mut()
    }

    /// What is remembered of each of the tables.
    fn parts(&self) -> impl Iterator<Item = &Self> {
        std::iter::once(self).chain(&self.related)
    }

    /// The same, without what a copy has read.
    fn of_nothing(&self) -> Self {
        let mut progress = Self { copied: None, missing: Vec::new(), ..self.clone() };
        progress.related.iter_mut().for_each(|part| part.copied = None);
        progress
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
            unpublished: table.unpublished.clone(),
            key: table.key.clone().unwrap_or_default(),
            storage: Some(table.storage.remembered()),
            membership: Some(table.membership.clone()),
            written_since: written_since(table, |_| true),
            copied: None,
            missing: Vec::new(),
            unsettled: false,
            declared: table.shape.as_ref().map(|shape| shape.to_text()),
            composed: table.compound.as_ref().map(|compound| compound.to_text()),
            related: related(table).iter().map(|part| Self::new(state, part, lsn)).collect(),
            returned: None,
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
        if self.declared != table.shape.as_ref().map(|shape| shape.to_text()) {
            return Drift::Changed("its declaration changed".to_owned());
        }
        if self.composed != table.compound.as_ref().map(|compound| compound.to_text()) {
            return Drift::Changed("its related tables changed".to_owned());
        }
        if Ok(&self.key) != table.key.as_ref() {
            return Drift::Changed("its key changed".to_owned());
        }
        if self.membership.as_ref().is_some_and(|before| *before != table.membership) {
            return Drift::Changed("it was out of the publication for a while".to_owned());
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
        if self.written_since != written_since(table, |name| !is_new(name)) {
            return Drift::Changed("values of its types are written otherwise by now".to_owned());
        }
        let is_plain_now = |name: &&String| is_new(name) && table.has_column(name);
        if let Some(name) = self.unpublished.iter().find(is_plain_now) {
            return Drift::Changed(format!("column [{name}] was generated, and not in the log"));
        }
        let mut added = table.columns.iter().filter(|column| is_new(&column.name)).peekable();
        let grows = added.peek().is_some();
        if let Some(column) = added.find(|column| column.has_default) {
            return Drift::Changed(format!("column [{}] was added with a default", column.name));
        }
        // One that the publication did not name was not streamed until now.
        let lists = table.shape.as_ref().is_some_and(|shape| shape.listed(table).is_some());
        if grows && (lists || table.compound.is_some()) {
            return Drift::Changed("a column was added".to_owned());
        }
        if let Some(reason) = self.storage.as_ref().and_then(|before| before.drift(&table.storage))
        {
            return Drift::Changed(reason);
        }
        let moved = self.storage.as_ref() != Some(&table.storage.remembered())
            || self.unpublished != table.unpublished;
        match self.drift_of_related(related(table)) {
            Drift::None if grows || moved || self.membership.is_none() => Drift::Grown,
            drift => drift,
        }
    }

    /// What became of the tables that the documents are composed from besides.
    fn drift_of_related(&self, tables: &[Arc<Table>]) -> Drift {
        if self.related.len() != tables.len() {
            return Drift::Changed("its related tables changed".to_owned());
        }
        let mut drift = Drift::None;
        for (before, table) in self.related.iter().zip(tables) {
            match before.drift(table) {
                Drift::Changed(reason) => {
                    let reason = format!("related table [{}]: {reason}", table.title());
                    return Drift::Changed(reason);
                }
                Drift::Grown => drift = Drift::Grown,
                Drift::None => {}
            }
        }
        drift
    }
}

/// Since when the values of a table's columns are written as they are.
fn written_since(table: &Table, counts: impl Fn(&str) -> bool) -> u32 {
    let columns = table.columns.iter().filter(|column| counts(&column.name));
    columns.map(|column| column.kind.written_since()).max().unwrap_or(0)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "so serde wants it")]
fn is_first(version: &u32) -> bool {
    *version == 0
}

/// The tables that a table's documents are composed from besides.
fn related(table: &Table) -> &[Arc<Table>] {
    table.compound.as_ref().map_or(&[], |compound| &compound.related)
}

#[cfg(test)]
mod tests {
    use egret_engine::composition::{Columns, Definition, Shape};

    use super::*;
    use crate::compound::Compound;
    use crate::types::Kind;

    fn table(oid: u32, columns: &[(&str, u32, bool)], key: &str) -> Table {
        let (key, membership) = (Ok(vec![key.to_owned()]), "1".to_owned());
        Table { oid, key, membership, ..Table::example(columns) }
    }

    #[test]
    fn copies_go_on_where_the_table_is_what_it_was() {
        let at = |timeline, lsn| Checkpoint { system_identifier: 7, timeline, lsn: Lsn(lsn) };
        let now = table(1, &[("a", 23, false)], "a");
        let mut progress = Progress::copying(&now, at(1, 50));
        assert!(!progress.goes_on(&now, Lsn(50), at(1, 60)), "nothing was read");
        if let Some(copied) = &mut progress.copied {
            copied.add(1, 1, (0, Some(8)), 100);
        }
        let progress = Progress::from_text(&progress.to_text()).unwrap();
        let check = |table: &Table, floor, snapshot, expected: bool| {
            assert_eq!(progress.goes_on(table, Lsn(floor), snapshot), expected);
        };
        check(&now, 50, at(1, 60), true);
        check(&now, 10, at(1, 50), true);
        check(&now, 51, at(1, 60), false);
        check(&now, 50, at(1, 49), false);
        check(&now, 50, at(2, 60), false);
        check(&table(2, &[("a", 23, false)], "a"), 50, at(1, 60), false);
        check(&table(1, &[("a", 20, false)], "a"), 50, at(1, 60), false);
        let storage = Storage { file: 9, ..Storage::default() };
        check(&Table { storage, ..now.clone() }, 50, at(1, 60), false);
        check(&Table { membership: "2".to_owned(), ..now.clone() }, 50, at(1, 60), false);
        assert!(progress.at(Lsn(55)).goes_on(&now, Lsn(51), at(1, 60)));
        let unsettled = Progress { unsettled: true, ..progress.clone() };
        let unsettled = Progress::from_text(&unsettled.to_text()).unwrap();
        assert!(!unsettled.goes_on(&now, Lsn(50), at(1, 60)));
        let missing = Progress { missing: vec!["9".to_owned()], ..progress };
        assert_eq!(Progress::from_text(&missing.to_text()), Some(missing.clone()));
        assert!(missing.goes_on(&now, Lsn(50), at(1, 60)));
    }

    /// A table whose documents are composed from others too.
    fn composed(related: Vec<Table>) -> Table {
        let shape = Shape { table: 0, columns: Columns::default(), relations: Vec::new() };
        let (max_nested_rows, max_document_bytes) = (10, 1000);
        let tables = vec!["public.t".to_owned(); 1 + related.len()];
        let root = Definition { tables, max_nested_rows, max_document_bytes, root: shape };
        let related = related.into_iter().map(Arc::new).collect();
        let compound = Compound { definition: root, related, properties: serde_json::Map::new() };
        let compound = Some(Arc::new(compound));
        Table { compound, ..table(1, &[("a", 23, false)], "a") }
    }

    #[test]
    fn copies_of_several_tables_go_on_where_all_are_what_they_were() {
        let at = |lsn| Checkpoint { system_identifier: 7, timeline: 1, lsn: Lsn(lsn) };
        let part = |oid, file| {
            let storage = Storage { file, ..Storage::default() };
            Table { storage, ..table(oid, &[("b", 23, false)], "b") }
        };
        let now = composed(vec![part(2, 5), part(3, 6)]);
        let mut progress = Progress::copying(&now, at(50));
        assert!(!progress.goes_on(&now, Lsn(50), at(60)), "nothing was read");
        progress.copied_mut(1).unwrap().add(2, 5, (0, None), 100);
        progress.copied_mut(2).unwrap().add(3, 6, (0, Some(8)), 10);
        assert!(progress.copied_mut(3).is_none());
        let progress = Progress::from_text(&progress.to_text()).unwrap();
        assert_eq!((progress.rows_copied(), progress.has_read_any()), (110, true));
        let left = |part, holder, file| progress.copied(part).unwrap().left(holder, file);
        assert_eq!(left(0, 1, 0), Some(vec![(0, None)]));
        assert_eq!(left(1, 2, 5), Some(vec![]), "it was read as a whole");
        assert_eq!(left(2, 3, 6), Some(vec![(8, None)]));
        let check = |tables, expected: bool| {
            assert_eq!(progress.goes_on(&composed(tables), Lsn(50), at(60)), expected);
        };
        check(vec![part(2, 5), part(3, 6)], true);
        check(vec![part(2, 5), part(3, 7)], false);
        check(vec![part(9, 5), part(3, 6)], false);
        check(vec![part(2, 5)], false);
        check(vec![part(3, 6), part(2, 5)], false);
        assert!(progress.at(Lsn(55)).goes_on(&now, Lsn(51), at(60)));
        assert!(!progress.goes_on(&now, Lsn(51), at(60)));
        // An earlier version remembered nothing of what it had read of related tables.
        let mut older = progress;
        older.related.iter_mut().for_each(|part| part.copied = None);
        assert!(!older.goes_on(&now, Lsn(50), at(60)));
    }

    /// As it was written before copies of several tables went on.
    #[test]
    fn a_copy_of_an_earlier_version_goes_on() {
        let now = table(1, &[("a", 23, false)], "a");
        let text = r#"{"state":"copying","lsn":"0/32","table":1,"columns":[["a",23]],"key":["a"],
            "storage":{"file":0,"columns":"","types":"","parts":[]},"membership":"1",
            "copied":{"system_identifier":7,"timeline":1,"began":"0/32","rows":100,
                      "files":[{"holder":1,"number":1,"blocks":[[0,8]]}]}}"#;
        let progress = Progress::from_text(text).unwrap();
        let at = Checkpoint { system_identifier: 7, timeline: 1, lsn: Lsn(60) };
        assert!(progress.goes_on(&now, Lsn(50), at));
        assert_eq!(progress.copied(0).unwrap().left(1, 1), Some(vec![(8, None)]));
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
        let left = Table { membership: "2".to_owned(), ..table(1, &[a, b], "a") };
        check(left, "it was out of the publication for a while");
        let storage = |file, columns: &str| {
            let storage = Storage { file, columns: columns.to_owned(), ..Storage::default() };
            Table { storage, ..table(1, &[a, b], "a") }
        };
        check(storage(1, ""), "grown");
        check(storage(1, "new"), "it was rewritten by an ALTER TABLE");
        // An earlier version had texts for some types.
        let mut typed = table(1, &[a, b], "a");
        typed.columns[1].kind = Kind::Address;
        check(typed.clone(), "values of its types are written otherwise by now");
        assert_eq!(Progress::done(&typed, Lsn(5)).drift(&typed), Drift::None);
        let mut grown = table(1, &[a, b, ("c", 869, false)], "a");
        grown.columns[2].kind = Kind::Address;
        check(grown, "grown");
        // What an earlier version remembered says nothing of either.
        let older = Progress { storage: None, membership: None, ..progress.clone() };
        let older = Progress::from_text(&older.to_text()).unwrap();
        assert_eq!(older.drift(&storage(1, "new")), Drift::Grown);
    }
}
