//! What a composed document is made of, as its index keeps it: tables, and relations between them.
//!
//! Knows nothing of where the rows come from. A definition is checked when it becomes a
//! [`Composition`](super::Composition).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Rows of related tables that one document may hold, unless a definition says otherwise.
pub const MAX_NESTED_ROWS: usize = 10_000;

/// Bytes that one document may have, unless a definition says otherwise.
pub const MAX_DOCUMENT_BYTES: usize = 32 << 20;

/// How documents are composed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    /// The tables' names, for people. A table is known by its place here.
    pub tables: Vec<String>,
    /// Rows of related tables that one document may hold. A document with more is rejected.
    #[serde(default = "max_nested_rows")]
    pub max_nested_rows: usize,
    /// The largest document. A larger one is rejected.
    #[serde(default = "max_document_bytes")]
    pub max_document_bytes: usize,
    /// The documents themselves: one for each row of this table, under the row's key.
    pub root: Shape,
}

/// How rows of a table become objects.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    /// The table's place.
    pub table: usize,
    /// Which of its columns are shown.
    #[serde(default)]
    pub columns: Columns,
    /// What belongs to each row.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub relations: Vec<Relation>,
}

/// Which columns of a row are shown, and under which names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Columns {
    /// Only these; all where it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only: Option<Vec<String>>,
    /// Not these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<String>,
    /// Fields' names by their columns'.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rename: BTreeMap<String, String>,
    /// Fields that every object has, with their values.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub constants: Map<String, Value>,
}

/// Rows of another table that belong to a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Relation {
    /// The field that shows them; none where only aggregates are wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// How many there may be.
    pub kind: RelationKind,
    /// Which rows belong to a row.
    pub join: Join,
    /// Their order: by these columns, then by their key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub order_by: Vec<Order>,
    /// Fields that are worked out from them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aggregates: Vec<Aggregate>,
    /// How they are shown.
    pub shape: Shape,
}

/// How many rows a relation leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RelationKind {
    /// At most one: an object, or null. Of several the first.
    One,
    /// Any number: an array of objects.
    Many,
}

/// Rows belong together where these columns are equal, in their order, and none is null.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Join {
    /// Of the row that others belong to.
    pub parent: Vec<String>,
    /// Of those that belong to it.
    pub child: Vec<String>,
    /// A table between the two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub through: Option<Through>,
}

/// A table whose rows pair two others'.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Through {
    /// The table's place.
    pub table: usize,
    /// Its columns that equal [`Join::parent`].
    pub parent: Vec<String>,
    /// Its columns that equal [`Join::child`].
    pub child: Vec<String>,
}

/// One column of an order. Nulls are above all values; texts are compared by their bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// The column.
    pub column: String,
    /// Whether the largest comes first.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub descending: bool,
}

/// A field that is worked out from the rows of a relation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Aggregate {
    /// The field, beside the relation's own.
    pub field: String,
    /// What it is.
    pub function: Function,
}

/// What is worked out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Function {
    /// How many rows there are.
    Count,
    /// The sum of a column's numbers, exact where they are decimals; null without any.
    Sum(String),
}

fn max_document_bytes() -> usize {
    MAX_DOCUMENT_BYTES
}

fn max_nested_rows() -> usize {
    MAX_NESTED_ROWS
}
