//! From rows down to a document. Values are copied as they are written.

use super::aggregate::Fold;
use super::order::sort;
use super::{Columns, Composition, Relation, RelationKind, Row, Rows, Shape, row_id, utf8};
use crate::document::patch::{Member, members};
use crate::error::{Error, ErrorKind, Result};

/// What a document is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Composed {
    /// There is none: its row is gone.
    Gone,
    /// Its JSON.
    Document(Vec<u8>),
}

/// Composes the document of a key. More related rows than the definition allows are an error that is
/// the document's own.
pub(crate) fn compose<R: Rows>(
    composition: &Composition,
    rows: &R,
    key: &str,
) -> Result<Result<Composed>> {
    let root = &composition.definition.root;
    let Some(source) = rows.row(&row_id(root.table, key))? else { return Ok(Ok(Composed::Gone)) };
    let limit = composition.definition.max_nested_rows;
    let mut composer = Composer { composition, rows, left: limit };
    let mut text = Vec::with_capacity(source.len() * 2);
    match composer.object(root, &source, &mut text) {
        Ok(()) if text.len() > composition.definition.max_document_bytes => {
            let limit = composition.definition.max_document_bytes;
            Ok(Err(Error::new(
                ErrorKind::DocumentParsing,
                format!("document [{key}] has more than max_document_bytes [{limit}]"),
            )))
        }
        Ok(()) => Ok(Ok(Composed::Document(text))),
        Err(Stop::Failed(error)) => Err(error),
        Err(Stop::TooMany) => Ok(Err(Error::new(
            ErrorKind::DocumentParsing,
            format!("document [{key}] has more related rows than max_nested_rows [{limit}]"),
        ))),
    }
}

struct Composer<'a, R> {
    composition: &'a Composition,
    rows: &'a R,
    /// Related rows that may still come.
    left: usize,
}

enum Stop {
    TooMany,
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

type Step = std::result::Result<(), Stop>;

impl<R: Rows> Composer<'_, R> {
    fn object(&mut self, shape: &Shape, source: &[u8], text: &mut Vec<u8>) -> Step {
        let fields = members(utf8(source)?)?;
        text.push(b'{');
        let mut is_first = true;
        for field in &fields {
            let Some(name) = shown(&shape.columns, field) else { continue };
            begin_field(&name, &mut is_first, text);
            text.extend_from_slice(field.value.as_bytes());
        }
        for (name, value) in &shape.columns.constants {
            begin_field(&quoted(name), &mut is_first, text);
            text.extend_from_slice(value.to_string().as_bytes());
        }
        for relation in &shape.relations {
            self.relation(relation, &fields, &mut is_first, text)?;
        }
        text.push(b'}');
        Ok(())
    }

    fn relation(
        &mut self,
        relation: &Relation,
        fields: &[Member<'_>],
        is_first: &mut bool,
        text: &mut Vec<u8>,
    ) -> Step {
        let mut folds: Vec<Fold<'_>> =
            relation.aggregates.iter().map(|aggregate| Fold::new(&aggregate.function)).collect();
        let mut found = Vec::new();
        let mut too_many = false;
        let (left, is_shown) = (self.left, relation.field.is_some());
        self.children(relation, fields, &mut |row| {
            fold_row(&mut folds, &row)?;
            too_many = is_shown && found.len() >= left;
            if is_shown && !too_many {
                found.push(row);
            }
            Ok(!too_many)
        })?;
        if too_many {
            return Err(Stop::TooMany);
        }
        for (aggregate, fold) in relation.aggregates.iter().zip(&folds) {
            begin_field(&quoted(&aggregate.field), is_first, text);
            text.extend_from_slice(fold.result().as_bytes());
        }
        let Some(field) = &relation.field else { return Ok(()) };
        self.left -= found.len();
        begin_field(&quoted(field), is_first, text);
        let found = sort(found, &relation.order_by)?;
        match relation.kind {
            RelationKind::One => match found.first() {
                Some(row) => self.object(&relation.shape, &row.source, text)?,
                None => text.extend_from_slice(b"null"),
            },
            RelationKind::Many => self.array(&relation.shape, &found, text)?,
        }
        Ok(())
    }

    fn array(&mut self, shape: &Shape, rows: &[Row], text: &mut Vec<u8>) -> Step {
        text.push(b'[');
        for (place, row) in rows.iter().enumerate() {
            if place > 0 {
                text.push(b',');
            }
            self.object(shape, &row.source, text)?;
        }
        text.push(b']');
        Ok(())
    }

    /// Calls `found` with every row that belongs to one with these fields, until it says `false`.
    fn children(
        &self,
        relation: &Relation,
        fields: &[Member<'_>],
        found: &mut dyn FnMut(Row) -> Result<bool>,
    ) -> Result<()> {
        let (composition, join) = (self.composition, &relation.join);
        let (table, columns) = (relation.shape.table, &join.child);
        let Some(through) = &join.through else {
            let term = composition.term_of(table, columns, fields, &join.parent);
            return term.map_or(Ok(()), |term| self.rows.each(&term, found));
        };
        let term = composition.term_of(through.table, &through.parent, fields, &join.parent);
        let Some(term) = term else { return Ok(()) };
        self.rows.each(&term, &mut |pair| {
            let fields = members(utf8(&pair.source)?)?;
            let term = composition.term_of(table, columns, &fields, &through.child);
            let Some(term) = term else { return Ok(true) };
            let mut goes_on = true;
            self.rows.each(&term, &mut |row| {
                goes_on = found(row)?;
                Ok(goes_on)
            })?;
            Ok(goes_on)
        })
    }
}

fn fold_row(folds: &mut [Fold<'_>], row: &Row) -> Result<()> {
    if !folds.is_empty() {
        let fields = members(utf8(&row.source)?)?;
        for fold in folds {
            fold.add(&fields);
        }
    }
    Ok(())
}

/// The name that a column is shown under, with its quotes.
fn shown(columns: &Columns, field: &Member<'_>) -> Option<String> {
    let key = &*field.key;
    let named = |names: &Vec<String>| names.iter().any(|name| name == key);
    if columns.except.iter().any(|name| name == key) || !columns.only.as_ref().is_none_or(named) {
        return None;
    }
    Some(columns.rename.get(key).map_or_else(|| field.raw_key.to_owned(), |name| quoted(name)))
}

fn quoted(name: &str) -> String {
    serde_json::Value::from(name).to_string()
}

fn begin_field(name: &str, is_first: &mut bool, text: &mut Vec<u8>) {
    if !std::mem::replace(is_first, false) {
        text.push(b',');
    }
    text.extend_from_slice(name.as_bytes());
    text.push(b':');
}
