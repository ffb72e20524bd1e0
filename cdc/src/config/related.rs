//! Related tables of a declared document, as a configuration names them:
//! `[[pipelines.documents.related]]`.
//!
//! What is wrong in a declaration by itself is refused here; what the catalog must know is found out in
//! [`compound`](crate::compound).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::selection::Selection;

/// Rows of another table in every document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RelatedConfig {
    /// The field that shows them; none where only `aggregates` are wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// The table: `schema.table`, or `table` of `public`.
    pub table: String,
    /// `many`: an array of objects; `one`: an object, or null.
    pub kind: RelatedKind,
    /// For `many`, the columns of this table that name the row that it belongs to; for `one`, the
    /// columns of that row that name one of this table. By its primary key; the only foreign key
    /// between the two where not given.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub foreign_key: Vec<String>,
    /// A table whose rows pair rows of the two.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub through: Option<ThroughConfig>,
    /// The columns to take; a star stands for any characters.
    pub include: Vec<String>,
    /// Of these, the columns to leave out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// Columns whose fields are named otherwise: `column = "field"`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub rename: BTreeMap<String, String>,
    /// The order of `many`: `column` or `column desc`, and last the primary key.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub order_by: Vec<String>,
    /// Fields beside it: `count`, or `sum(column)`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub aggregates: BTreeMap<String, String>,
    /// What belongs to each of its rows.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub related: Vec<RelatedConfig>,
}

/// How many rows belong to one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RelatedKind {
    /// At most one.
    One,
    /// Any number.
    #[default]
    Many,
}

/// A table between two.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ThroughConfig {
    /// The table.
    pub table: String,
    /// Its columns that name the row that others belong to; the only foreign key where not given.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parent_key: Vec<String>,
    /// Its columns that name the row that belongs to it; the only foreign key where not given.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub child_key: Vec<String>,
}

impl Default for RelatedConfig {
    fn default() -> Self {
        Self {
            field: None,
            table: String::new(),
            kind: RelatedKind::default(),
            foreign_key: Vec::new(),
            through: None,
            include: vec!["*".to_owned()],
            exclude: Vec::new(),
            rename: BTreeMap::new(),
            order_by: Vec::new(),
            aggregates: BTreeMap::new(),
            related: Vec::new(),
        }
    }
}

impl RelatedConfig {
    /// The tables that it names, also below.
    pub(crate) fn tables(&self) -> Vec<&String> {
        let mut tables = vec![&self.table];
        tables.extend(self.through.as_ref().map(|through| &through.table));
        tables.extend(self.related.iter().flat_map(Self::tables));
        tables
    }

    /// What is wrong in itself.
    pub(super) fn check(&self) -> std::result::Result<(), String> {
        let title = &self.table;
        let refuse = |reason: &str| Err(format!("related [{title}]: {reason}"));
        for table in self.tables() {
            if exact(table).is_err() {
                return refuse(&format!("[{table}] must name one table, without stars"));
            }
        }
        if self.field.is_none() && self.aggregates.is_empty() {
            return refuse("it has neither a field nor aggregates");
        }
        if self.field.is_none() && !self.related.is_empty() {
            return refuse("without a field nothing can belong to its rows");
        }
        if self.through.is_some() && !self.foreign_key.is_empty() {
            return refuse("foreign_key stands in through, as parent_key and child_key");
        }
        let names = self.field.iter().chain(self.aggregates.keys()).chain(self.rename.values());
        for name in names {
            if name.is_empty() || name.starts_with('_') || name.contains('.') {
                return refuse(&format!("[{name}] is no name for a field"));
            }
        }
        if self.include.is_empty() {
            return refuse("include is empty: name columns, or leave it out for all");
        }
        self.related.iter().try_for_each(Self::check)
    }
}

/// The schema and name that a table's name stands for.
pub(crate) fn exact(table: &str) -> Result<(String, String)> {
    let selection = Selection::parse(&[table.to_owned()])?;
    selection.exact().ok_or_else(|| {
        let message = format!("[{table}] must name one table, without stars");
        crate::error::Error::new(crate::error::ErrorKind::Invalid, message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_is_wrong_in_itself() {
        let check = |text: &str, expected: &str| {
            let config: RelatedConfig = serde_json::from_str(text).unwrap();
            let found = config.check().err().unwrap_or_default();
            assert!(found.contains(expected) && found.is_empty() == expected.is_empty(), "{found}");
        };
        check(r#"{"table": "t", "field": "f"}"#, "");
        check(r#"{"table": "t", "aggregates": {"n": "count"}}"#, "");
        check(r#"{"table": "t.*", "field": "f"}"#, "without stars");
        check(r#"{"table": "t"}"#, "neither a field");
        check(r#"{"table": "t", "field": "_id"}"#, "[_id]");
        check(r#"{"table": "t", "field": "f", "include": []}"#, "include");
        let through =
            r#"{"table": "t", "field": "f", "through": {"table": "u"}, "foreign_key": ["a"]}"#;
        check(through, "stands in through");
        check(
            r#"{"table": "t", "field": "f", "related": [{"table": "u"}]}"#,
            "related [u]: it has neither",
        );
        let nothing = r#"{"table": "t", "aggregates": {"n": "count"}, "related": [{"table": "u", "field": "f"}]}"#;
        check(nothing, "without a field");
        let error = serde_json::from_str::<RelatedConfig>(r#"{"tabel": "x"}"#).unwrap_err();
        assert!(error.to_string().contains("tabel"), "{error}");
    }
}
