//! Reads a table by ranges of its key, and single rows of it, each with the document that the pipeline
//! makes of it: by the same statements' texts and the same code as a copy.
//!
//! Every statement is one short transaction of its own: nothing on the source is held back.

use std::sync::Arc;
use std::time::Duration;

use egret_engine::composition::{parse_row_id, row_id};
use futures_util::{StreamExt, pin_mut};
use rustc_hash::{FxHashMap, FxHashSet};
use tokio_postgres::error::SqlState;

use super::checksum::Checksum;
use super::compare::Expected;
use super::keys::{Key, Keys};
use crate::catalog::Table;
use crate::connect::{Control, quote_identifier, within};
use crate::copy::text::{CopyRow, Lines};
use crate::document::{Row, RowColumn, RowFormat, Value};
use crate::error::{Error, ErrorKind, Result};

/// Added to a statement's own limit before the connection is taken for dead.
const GRACE: Duration = Duration::from_secs(10);

/// A table of an index: the one that its documents are named by, or one that they are composed from.
pub(super) struct Part {
    pub(super) table: Arc<Table>,
    pub(super) title: String,
    format: RowFormat,
    keys: Keys,
}

/// Which columns of rows are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Columns {
    All,
    /// Those that tell which row it is, and whether it counts.
    Telling,
}

/// The rows between two keys.
pub(super) struct Read {
    /// By the id that the index has them under.
    pub(super) rows: Vec<(String, Expected)>,
    pub(super) bytes: usize,
}

/// Reads tables on a session of its own.
pub(super) struct Reader {
    pub(super) control: Control,
    /// How long one statement may take.
    pub(super) longest: Duration,
}

impl Part {
    /// The table in the place of its composition that this is, where there is one.
    pub(super) fn place(&self) -> Option<usize> {
        self.format.rows_of()
    }

    /// The id that the index has a row under whose document has this one.
    pub(super) fn row_of(&self, document: &str) -> String {
        self.place().map_or_else(|| document.to_owned(), |place| row_id(place, document))
    }

    /// The `_id` of a row's document, as people know it.
    pub(super) fn key<'a>(&self, id: &'a str) -> &'a str {
        self.place().and_then(|_| parse_row_id(id)).map_or(id, |(_, key)| key)
    }

    fn key_of(&self, id: &str) -> Option<Key> {
        let key = if self.place().is_some() { parse_row_id(id)?.1 } else { id };
        self.keys.ordered(&self.format.key_parts(key)?)
    }

    /// A row as an index should have it; nothing for one that does not count.
    fn expected(&self, row: &CopyRow) -> Option<(String, Expected)> {
        // A row without an id is among the dead letters, and in no index.
        let id = self.format.id(row).ok()?;
        if self.format.is_deleted(row) {
            return Some((id, Expected::Nothing));
        }
        let expected = match self.format.document(row) {
            Ok(document) => Expected::Document(Checksum::of(&document.source)),
            Err(_) => Expected::Unfit,
        };
        Some((id, expected))
    }

    fn filter(&self) -> Option<String> {
        let filter = self.table.shape.as_ref().and_then(|shape| shape.filter())?;
        Some(format!("({filter})"))
    }

    /// A statement that reads the rows of some conditions.
    fn statement(
        &self,
        columns: Columns,
        conditions: impl IntoIterator<Item = String>,
        end: &str,
    ) -> String {
        let is_read = |at: usize| columns == Columns::All || self.format.tells_of_rows(at);
        let column = |(at, column): (usize, &RowColumn)| {
            if is_read(at) { quote_identifier(&column.name) } else { "NULL".to_owned() }
        };
        let columns: Vec<String> = self.format.columns().iter().enumerate().map(column).collect();
        let conditions: Vec<String> = conditions.into_iter().chain(self.filter()).collect();
        let filter = if conditions.is_empty() { "" } else { " WHERE " };
        let (columns, table) = (columns.join(", "), self.table.rows());
        let conditions = conditions.join(" AND ");
        format!("COPY (SELECT {columns} FROM {table}{filter}{conditions}{end}) TO STDOUT")
    }
}

impl Reader {
    /// What is needed to read a table.
    pub(super) async fn part(&self, table: Arc<Table>, max_bytes: usize) -> Result<Part> {
        let keys = Keys::read(&self.control, &table).await?;
        let format = table.row_format().ok_or_else(|| {
            let message = format!("table [{}] has no key", table.title());
            Error::new(ErrorKind::TableChanged, message)
        })?;
        Ok(Part { title: table.title(), format: format.with_max_bytes(max_bytes), keys, table })
    }

    /// The key of the last of so many rows after a key; `None` where there are fewer.
    pub(super) async fn bound(
        &self,
        part: &Part,
        after: Option<&Key>,
        rows: usize,
    ) -> Result<Option<Key>> {
        let keys = &part.keys;
        let condition = after.map(|after| format!(" WHERE {}", keys.after(after)));
        let statement = format!(
            "COPY (SELECT {list} FROM {table}{} ORDER BY {list} OFFSET {} LIMIT 1) TO STDOUT",
            condition.unwrap_or_default(),
            rows.saturating_sub(1),
            list = keys.list(),
            table = part.table.rows(),
        );
        let mut bound = None;
        self.read(&statement, keys.len(), |row| {
            let text = |column| match row.value(column) {
                Value::Text(text) => String::from_utf8_lossy(text).into_owned(),
                Value::Null | Value::Unchanged => String::new(),
            };
            bound = Some((0..keys.len()).map(text).collect());
        })
        .await?;
        Ok(bound)
    }

    /// The rows after a key, up to another.
    pub(super) async fn range(
        &self,
        part: &Part,
        after: Option<&Key>,
        to: Option<&Key>,
    ) -> Result<Read> {
        let after = after.map(|key| part.keys.after(key));
        let to = to.map(|key| part.keys.up_to(key));
        let statement = part.statement(Columns::All, after.into_iter().chain(to), "");
        let mut rows = Vec::new();
        // Rows that count as deleted are met from their documents' side.
        let counts = |(_, expected): &(String, Expected)| *expected != Expected::Nothing;
        let each = |row: &CopyRow| rows.extend(part.expected(row).filter(counts));
        let bytes = self.read(&statement, part.format.columns().len(), each).await?;
        Ok(Read { rows, bytes })
    }

    /// What an index should have under these ids, and the bytes that were read for it.
    pub(super) async fn of(
        &self,
        part: &Part,
        ids: &[String],
    ) -> Result<(Vec<(String, Expected)>, usize)> {
        let mut found = FxHashMap::default();
        let bytes =
            self.look_up(part, ids, Columns::All, |row| found.extend(part.expected(row))).await?;
        let expected = |id: &String| (id.clone(), found.remove(id).unwrap_or(Expected::Nothing));
        Ok((ids.iter().map(expected).collect(), bytes))
    }

    /// Which of these ids have rows that count, and the bytes that were read for it.
    pub(super) async fn present(
        &self,
        part: &Part,
        ids: &[String],
    ) -> Result<(FxHashSet<String>, usize)> {
        let mut found = FxHashSet::default();
        let format = &part.format;
        let each = |row: &CopyRow| {
            found.extend(format.id(row).ok().filter(|_| !format.is_deleted(row)));
        };
        let bytes = self.look_up(part, ids, Columns::Telling, each).await?;
        Ok((found, bytes))
    }

    /// Reads the rows of ids; how many bytes they had.
    async fn look_up(
        &self,
        part: &Part,
        ids: &[String],
        columns: Columns,
        mut each: impl FnMut(&CopyRow),
    ) -> Result<usize> {
        let keys: Vec<Key> = ids.iter().filter_map(|id| part.key_of(id)).collect();
        let mut wanted: Vec<Vec<Key>> =
            keys.chunks(part.keys.most_among()).map(<[Key]>::to_vec).collect();
        let mut bytes = 0;
        while let Some(mut keys) = wanted.pop() {
            let statement = part.statement(columns, [part.keys.among(&keys)], "");
            match self.read(&statement, part.format.columns().len(), &mut each).await {
                Ok(read) => bytes += read,
                // Among them is an id that is no key of this table: half of them at a time.
                Err(error) if error.is_bad_value() && keys.len() > 1 => {
                    let rest = keys.split_off(keys.len() / 2);
                    wanted.extend([rest, keys]);
                }
                Err(error) if error.is_bad_value() && self.is_no_key(part, &keys).await => {}
                Err(error) => return Err(error),
            }
        }
        Ok(bytes)
    }

    /// Whether it is the key alone that a statement fails with, and not a row.
    async fn is_no_key(&self, part: &Part, keys: &[Key]) -> bool {
        let statement = part.statement(Columns::Telling, [part.keys.among(keys)], " LIMIT 0");
        self.read(&statement, part.format.columns().len(), |_| ())
            .await
            .is_err_and(|error| error.is_bad_value())
    }

    /// Reads rows of so many columns; how many bytes they had.
    async fn read(
        &self,
        statement: &str,
        columns: usize,
        each: impl FnMut(&CopyRow),
    ) -> Result<usize> {
        let limit = self.longest.saturating_add(GRACE);
        within(limit, "reading a range", self.read_on(statement, columns, each)).await
    }

    async fn read_on(
        &self,
        statement: &str,
        columns: usize,
        mut each: impl FnMut(&CopyRow),
    ) -> Result<usize> {
        let control = &self.control;
        let pieces = control.ask("reading a range", control.client().copy_out(statement)).await?;
        pin_mut!(pieces);
        let (mut lines, mut row) = (Lines::default(), CopyRow::default());
        let mut take = |line: &[u8]| {
            if row.parse(line) != columns {
                return Err(not_as_asked());
            }
            each(&row);
            Ok(())
        };
        let mut bytes = 0;
        while let Some(piece) = pieces.next().await {
            let piece = piece?;
            bytes += piece.len();
            lines.feed(piece, &mut take)?;
        }
        Ok(bytes)
    }
}

fn not_as_asked() -> Error {
    Error::new(ErrorKind::Protocol, "a row has not the columns that were asked for")
}

/// Whether a statement took too long.
pub(super) fn is_too_long(error: &Error) -> bool {
    error.sql_state() == Some(&SqlState::QUERY_CANCELED)
}
