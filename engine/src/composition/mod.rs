//! Composed documents: one document from the rows of several tables.
//!
//! The rows are kept in the index as hidden documents ("rows"), which no search finds; a write
//! changes rows, and the documents that they belong to are composed again before anything of it is
//! published. Where to begin: a [`Definition`] becomes a [`Composition`], which is part of the
//! index's mapping; rows are written under the ids that [`row_id`] gives.
//!
//! Each row is indexed under one term for every set of columns that some relation looks rows up by
//! ("link"). Both directions use the same links: down, from a row to those that belong to it, when a
//! document is composed; up, from a changed row to the documents that it is part of.
//!
//! Invariant: a document changes only if a row on one of its joins did. Looking up from every changed
//! row, as it was and as it is, through rows as they are now, finds every such document: on a join
//! that was or is, the changed row nearest to the document has only unchanged rows above it.

mod aggregate;
mod compose;
mod definition;
mod order;
mod walk;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;

pub(crate) use self::compose::{Composed, compose};
pub use self::definition::{
    Aggregate, Columns, Definition, Function, Join, MAX_DOCUMENT_BYTES, MAX_NESTED_ROWS, Order,
    Relation, RelationKind, Shape, Through,
};
pub(crate) use self::walk::Affected;
use crate::document::patch::{Member, members};
use crate::error::{Error, ErrorKind, Result};

/// Tables that a definition may name.
pub const MAX_TABLES: usize = 64;
/// Relations that it may have, at all levels.
pub const MAX_RELATIONS: usize = 64;
/// How deep relations may lie.
pub const MAX_DEPTH: usize = 8;

/// The term of every row.
pub(crate) const ANY_ROW: &str = "r";
/// Links whose values are longer are not followed: no key is as long.
const MAX_LINK_BYTES: usize = 8 << 10;
/// What sets a row's id apart: PostgreSQL has no texts with it.
const MARK: char = '\0';

/// A checked definition, with what is worked out from it once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Composition {
    definition: Definition,
    links: Vec<Link>,
    /// Where a table's rows take part; the first is the root.
    places: Vec<Place>,
}

/// Columns of a table by which its rows are looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Link {
    table: usize,
    columns: Vec<String>,
}

/// One place in the tree of relations.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    table: usize,
    /// The way up; none from the root.
    up: Option<Up>,
}

/// Rows at `to` whose link has the values of these columns are one step nearer to the root.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Up {
    columns: Vec<String>,
    link: usize,
    to: usize,
}

/// A row of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    /// Its id, as [`row_id`] gives it.
    pub(crate) id: String,
    /// A JSON object with its columns.
    pub(crate) source: Bytes,
}

/// Where rows are looked up.
pub(crate) trait Rows {
    /// The row of this id.
    fn row(&self, id: &str) -> Result<Option<Bytes>>;

    /// Calls `found` with every row that has a term, in no order, until it says `false`.
    fn each(&self, term: &str, found: &mut dyn FnMut(Row) -> Result<bool>) -> Result<()>;
}

/// The id of the row that has this key in the table at this place.
pub fn row_id(table: usize, key: &str) -> String {
    format!("{MARK}{table}{MARK}{key}")
}

/// The table and key that a row's id stands for; `None` for any other id.
pub fn parse_row_id(id: &str) -> Option<(usize, &str)> {
    let (table, key) = id.strip_prefix(MARK)?.split_once(MARK)?;
    Some((table.parse().ok()?, key))
}

/// The table that a row's id is of; `None` for any other id.
pub fn row_table(id: &str) -> Option<usize> {
    parse_row_id(id).map(|(table, _)| table)
}

/// The term of every row of a table.
pub(crate) fn table_term(table: usize) -> String {
    format!("t{table}")
}

impl Composition {
    /// Checks a definition.
    pub fn new(definition: Definition) -> Result<Self> {
        let (links, places) = (Vec::new(), Vec::new());
        let mut composition = Self { definition, links, places };
        let definition = composition.definition.clone();
        if definition.tables.is_empty() || definition.tables.len() > MAX_TABLES {
            return Err(invalid(format!("it must name 1 to {MAX_TABLES} tables")));
        }
        if definition.max_nested_rows == 0 {
            return Err(invalid("[max_nested_rows] must be above 0"));
        }
        composition.add_shape(&definition.root, None, 0)?;
        Ok(composition)
    }

    /// Reads what [`Composition::to_json`] wrote.
    pub(crate) fn from_json(json: &Value) -> Result<Self> {
        let definition =
            Definition::deserialize(json).map_err(|error| invalid(&error).with_source(error))?;
        Self::new(definition)
    }

    /// As a mapping shows it.
    pub(crate) fn to_json(&self) -> Value {
        serde_json::to_value(&self.definition).unwrap_or_default()
    }

    /// What it was made from.
    pub fn definition(&self) -> &Definition {
        &self.definition
    }

    /// The place of the table whose rows are the documents.
    pub(crate) fn root_table(&self) -> usize {
        self.definition.root.table
    }

    /// Every term that a row is found by.
    pub(crate) fn terms(&self, table: usize, source: &[u8]) -> Result<Vec<String>> {
        let fields = members(utf8(source)?)?;
        let mut terms = vec![ANY_ROW.to_owned(), table_term(table)];
        let own = self.links.iter().enumerate().filter(|(_, link)| link.table == table);
        terms.extend(own.filter_map(|(at, link)| link_term(at, &fields, &link.columns)));
        Ok(terms)
    }

    /// The term of rows of a table whose columns have the values of others.
    fn term_of(
        &self,
        table: usize,
        columns: &[String],
        fields: &[Member<'_>],
        values: &[String],
    ) -> Option<String> {
        let same = |link: &Link| link.table == table && link.columns == columns;
        link_term(self.links.iter().position(same)?, fields, values)
    }

    fn add_shape(&mut self, shape: &Shape, up: Option<Up>, depth: usize) -> Result<()> {
        self.check_table(shape.table)?;
        if depth > MAX_DEPTH {
            return Err(invalid(format!("relations lie more than {MAX_DEPTH} deep")));
        }
        let place = self.places.len();
        if place > 2 * MAX_RELATIONS {
            return Err(invalid(format!("it has more than {MAX_RELATIONS} relations")));
        }
        self.places.push(Place { table: shape.table, up });
        check_fields(shape)?;
        for relation in &shape.relations {
            let Join { parent, child, through } = &relation.join;
            let table = relation.shape.table;
            let pairs = match through {
                None => vec![(parent, child)],
                Some(through) => vec![(parent, &through.parent), (&through.child, child)],
            };
            if pairs.iter().any(|(one, other)| one.is_empty() || one.len() != other.len()) {
                let name = self.definition.tables.get(table).map_or("", String::as_str);
                return Err(invalid(format!(
                    "the relation with [{name}] does not pair columns one by one"
                )));
            }
            let above = self.link(shape.table, parent);
            self.link(table, child);
            let mut up = Up { columns: child.clone(), link: above, to: place };
            if let Some(through) = through {
                self.check_table(through.table)?;
                self.link(through.table, &through.parent);
                let between = self.places.len();
                let columns = through.parent.clone();
                let step = Up { columns, link: above, to: place };
                self.places.push(Place { table: through.table, up: Some(step) });
                up.link = self.link(through.table, &through.child);
                up.to = between;
            }
            self.add_shape(&relation.shape, Some(up), depth + 1)?;
        }
        Ok(())
    }

    fn check_table(&self, table: usize) -> Result<()> {
        match self.definition.tables.get(table) {
            Some(_) => Ok(()),
            None => Err(invalid(format!("it has no table [{table}]"))),
        }
    }

    fn link(&mut self, table: usize, columns: &[String]) -> usize {
        let same = |link: &Link| link.table == table && link.columns == columns;
        self.links.iter().position(same).unwrap_or_else(|| {
            self.links.push(Link { table, columns: columns.to_vec() });
            self.links.len() - 1
        })
    }
}

/// A field is given once.
fn check_fields(shape: &Shape) -> Result<()> {
    let renamed = shape.columns.rename.values().chain(shape.columns.constants.keys());
    let mut fields: Vec<&str> = renamed.map(String::as_str).collect();
    for relation in &shape.relations {
        if relation.field.is_none() && relation.aggregates.is_empty() {
            return Err(invalid("a relation has neither a field nor aggregates"));
        }
        fields.extend(relation.field.as_deref());
        fields.extend(relation.aggregates.iter().map(|aggregate| aggregate.field.as_str()));
    }
    fields.sort_unstable();
    let twice = fields.windows(2).find(|pair| pair.first() == pair.last());
    match twice.and_then(|pair| pair.first()) {
        Some(field) => Err(invalid(format!("field [{field}] is given twice"))),
        None => Ok(()),
    }
}

/// The term of a link's rows with these values; `None` where one is null, and nothing belongs.
fn link_term(link: usize, fields: &[Member<'_>], columns: &[String]) -> Option<String> {
    let mut term = format!("l{link}");
    for column in columns {
        let field = fields.iter().find(|field| field.key == column.as_str())?;
        term.push(MARK);
        push_value(field.value, &mut term)?;
    }
    (term.len() <= MAX_LINK_BYTES).then_some(term)
}

/// A value as it is compared: whether a number is a long or a decimal makes no difference.
fn push_value(value: &str, into: &mut String) -> Option<()> {
    match value.as_bytes().first()? {
        b'n' => return None,
        b'"' if value.contains('\\') => into.push_str(&serde_json::from_str::<String>(value).ok()?),
        b'"' => into.push_str(value.get(1..value.len().checked_sub(1)?)?),
        b'-' | b'0'..=b'9' if value.contains('.') && !value.contains(['e', 'E']) => {
            into.push_str(value.trim_end_matches('0').trim_end_matches('.'));
        }
        _ => into.push_str(value),
    }
    Some(())
}

fn utf8(source: &[u8]) -> Result<&str> {
    std::str::from_utf8(source).map_err(|error| {
        Error::new(ErrorKind::DocumentParsing, "failed to parse: invalid UTF-8").with_source(error)
    })
}

fn invalid(message: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::MappingParsing, format!("the composition of documents: {message}"))
}

#[cfg(test)]
pub(crate) mod tests;
