//! The columns of a new segment: the values of its documents, field by field.
//!
//! Tantivy's writer looks a column up by its name for every value, keeps operations in chains of
//! small blocks, which it reads again when the segment is finished, and begins with megabytes of
//! tables. Here a field has plain lists of its own ([`field`]): numbers, or numbers of texts, and
//! their documents ([`rows`]) only where these don't have one value each. They are packed
//! ([`packed`]) when the segment is finished, the texts in a dictionary ([`dictionary`]).
//!
//! The file is tantivy's, and what reads or merges it is, too. All numbers are little-endian:
//!
//! ```text
//! for every column, by name:
//!     of texts only: the dictionary
//!     rows, values
//!     u32  length of the rows
//!     of texts only: u32  length of the dictionary
//! list of the columns, as a dictionary: name, a zero byte and the type's code
//! u64  length of the list
//! u32  number of documents
//! u32  version: 2
//! u32  02 71 77 42
//! ```
//!
//! Invariant: a file says the same as if tantivy had written it, and mostly with the same bytes. What
//! may differ is the index of a dictionary with many blocks, in which keys may share other nodes, and
//! a text that is longer than the 65,535 bytes to which tantivy cuts it (`tests` compare all this).

mod block_index;
mod dictionary;
mod field;
mod packed;
mod rows;

#[cfg(test)]
mod tests;

use std::io::{self, Write};

use tantivy::columnar::ColumnType;
use tantivy::schema::document::{Document, ReferenceValue, Value as _};
use tantivy::schema::{FieldEntry, FieldType, Schema};

use self::dictionary::BlockCompressor;
use self::field::ColumnWriter;
use super::inverted::unknown_field;
use crate::error::{Error, ErrorKind, Result};
use crate::mapping::tokenize::RAW;

/// Tantivy ends a column's name with it, and writes no columns that have it in their names.
const END_OF_NAME: u8 = 0;

/// The file's last bytes: the version, and what says that it is such a file.
const FOOTER: [u8; 8] = [2, 0, 0, 0, 2, 113, 119, 66];

/// Collects the columns of a new segment, and writes them.
pub(super) struct ColumnsWriter {
    schema: Schema,
    /// By the fields' numbers; `None` for those that have no column.
    columns: Vec<Option<ColumnWriter>>,
}

impl ColumnsWriter {
    /// For the columns of a schema. A type that no mapping makes is an error.
    pub(super) fn new(schema: &Schema) -> Result<Self> {
        let column = |entry: &FieldEntry| -> Result<Option<ColumnWriter>> {
            let Some(column_type) = column_type(entry)? else { return Ok(None) };
            Ok(Some(ColumnWriter::new(column_type, entry.name())))
        };
        let columns: Result<_> = schema.fields().map(|(_, entry)| column(entry)).collect();
        Ok(Self { schema: schema.clone(), columns: columns? })
    }

    /// Adds a document's values; document numbers rise. After an error nothing else may be asked of
    /// this.
    pub(super) fn add<D: Document>(&mut self, doc: u32, document: &D) -> Result<()> {
        for (field, value) in document.iter_fields_and_values() {
            let column =
                self.columns.get_mut(field.field_id() as usize).ok_or_else(unknown_field)?;
            let Some(column) = column else { continue };
            let ReferenceValue::Leaf(value) = value.as_value() else {
                return Err(Error::new(ErrorKind::Internal, "a value of a field is no leaf"));
            };
            column.add(doc, value)?;
        }
        Ok(())
    }

    /// The memory that it holds.
    pub(super) fn memory_bytes(&self) -> usize {
        self.columns.iter().flatten().map(ColumnWriter::memory_bytes).sum()
    }

    /// Writes the columns of so many documents.
    pub(super) fn write(self, docs: u32, out: &mut dyn Write) -> Result<()> {
        let entries = self.schema.fields().map(|(_, entry)| entry);
        let mut columns: Vec<_> = entries
            .zip(self.columns)
            .filter_map(|(entry, column)| Some((entry.name(), column?)))
            .filter(|(name, _)| !name.contains(char::from(END_OF_NAME)))
            .collect();
        columns.sort_unstable_by_key(|(name, _)| *name);

        let (mut list, mut end) = (Vec::with_capacity(columns.len()), 0);
        let mut compressor = BlockCompressor::default();
        let mut bytes = Vec::new();
        for (name, column) in columns {
            let mut key = str::as_bytes(name).to_vec();
            key.extend([END_OF_NAME, column.column_type().to_code()]);
            bytes.clear();
            column.write(docs, &mut compressor, &mut bytes)?;
            out.write_all(&bytes)?;
            end += bytes.len() as u64;
            list.push((key, end));
        }
        bytes.clear();
        dictionary::write_list(&list, &mut compressor, &mut bytes)?;
        out.write_all(&bytes)?;
        out.write_all(&(bytes.len() as u64).to_le_bytes())?;
        out.write_all(&docs.to_le_bytes())?;
        Ok(out.write_all(&FOOTER)?)
    }
}

/// The columns that a segment of this schema has, with or without values.
pub(super) fn of(schema: &Schema) -> Result<Vec<(String, ColumnType)>> {
    let columns = schema.fields().map(|(_, entry)| {
        Ok(column_type(entry)?.map(|column_type| (entry.name().to_owned(), column_type)))
    });
    columns.filter_map(Result::transpose).collect()
}

/// The type of a field's column, if it has any.
fn column_type(entry: &FieldEntry) -> Result<Option<ColumnType>> {
    if !entry.is_fast() {
        return Ok(None);
    }
    Ok(Some(match entry.field_type() {
        FieldType::Str(options) if options.get_fast_field_tokenizer_name() == Some(RAW) => {
            ColumnType::Str
        }
        FieldType::U64(_) => ColumnType::U64,
        FieldType::I64(_) => ColumnType::I64,
        FieldType::F64(_) => ColumnType::F64,
        FieldType::Bool(_) => ColumnType::Bool,
        _ => {
            let message = format!("field [{}] has a column that is not written here", entry.name());
            return Err(Error::new(ErrorKind::Internal, message));
        }
    }))
}

/// A length or count as it is written.
fn length(length: usize) -> io::Result<u32> {
    u32::try_from(length).map_err(|_| io::Error::other("a column cannot have 2^32 values or bytes"))
}

/// Puts seven bits into each byte, the lowest first; the last has the highest bit set.
fn push_vint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 128 {
        out.push(low_bits(number));
        number >>= 7;
    }
    out.push(low_bits(number) | 128);
}

/// How many bytes [`push_vint`] takes.
fn vint_bytes(number: u64) -> u64 {
    u64::from((64 - (number | 1).leading_zeros()).div_ceil(7))
}

/// The lowest seven bits.
fn low_bits(number: u64) -> u8 {
    (number & 127) as u8
}
