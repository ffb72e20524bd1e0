//! What is collected of one column until its segment is written.

use tantivy::columnar::ColumnType;
use tantivy::schema::document::ReferenceValueLeaf;
use tantivy::{f64_to_u64, i64_to_u64};

use super::dictionary::{self, BlockCompressor};
use super::rows::Rows;
use super::{length, packed};
use crate::error::{Error, ErrorKind, Result};
use crate::mapping::schema::ID;
use crate::store::inverted::terms::TermTable;

/// Collects one column.
pub(super) struct ColumnWriter {
    column_type: ColumnType,
    rows: Rows,
    values: Values,
}

enum Values {
    /// In tantivy's order-preserving form.
    Numbers(Vec<u64>),
    Texts(Box<Texts>),
}

/// Texts, by the numbers of their terms.
struct Texts {
    /// Whether hardly a value is there twice, so that looking for it is in vain.
    are_unique: bool,
    table: TermTable,
    /// The term of each value.
    terms: Vec<u32>,
}

impl ColumnWriter {
    /// For the column of this name.
    pub(super) fn new(column_type: ColumnType, name: &str) -> Self {
        let values = if column_type == ColumnType::Str {
            let (table, terms) = (TermTable::new(), Vec::new());
            Values::Texts(Box::new(Texts { are_unique: name == ID, table, terms }))
        } else {
            Values::Numbers(Vec::new())
        };
        Self { column_type, rows: Rows::default(), values }
    }

    /// What its values are.
    pub(super) fn column_type(&self) -> ColumnType {
        self.column_type
    }

    /// Adds a value of a document; documents rise.
    pub(super) fn add(&mut self, doc: u32, value: ReferenceValueLeaf<'_>) -> Result<()> {
        match &mut self.values {
            Values::Numbers(numbers) => numbers.push(number(self.column_type, value)?),
            Values::Texts(texts) => {
                let ReferenceValueLeaf::Str(text) = value else { return Err(wrong_type()) };
                texts.add(text)?;
            }
        }
        self.rows.push(doc)
    }

    /// The memory that it holds.
    pub(super) fn memory_bytes(&self) -> usize {
        let values = match &self.values {
            Values::Numbers(numbers) => numbers.capacity() * size_of::<u64>(),
            Values::Texts(texts) => {
                texts.table.memory_bytes() + texts.terms.capacity() * size_of::<u32>()
            }
        };
        self.rows.memory_bytes() + values
    }

    /// Writes the column of so many documents.
    pub(super) fn write(
        self,
        docs: u32,
        compressor: &mut BlockCompressor,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let begin = out.len();
        let (numbers, dictionary_bytes) = match self.values {
            Values::Numbers(numbers) => (numbers, None),
            Values::Texts(texts) => {
                let numbers = texts.write(compressor, out)?;
                (numbers, Some(length(out.len() - begin)?))
            }
        };
        let begin = out.len();
        self.rows.write(docs, out)?;
        let rows_bytes = length(out.len() - begin)?;
        packed::write(&numbers, out)?;
        out.extend_from_slice(&rows_bytes.to_le_bytes());
        if let Some(bytes) = dictionary_bytes {
            out.extend_from_slice(&bytes.to_le_bytes());
        }
        Ok(())
    }
}

impl Texts {
    fn add(&mut self, text: &str) -> Result<()> {
        let Self { are_unique, table, terms } = self;
        let text = text.as_bytes();
        terms.push(if *are_unique { table.append(text)? } else { table.intern(text)? });
        Ok(())
    }

    /// Writes the dictionary, and gives each value's place in it.
    fn write(&self, compressor: &mut BlockCompressor, out: &mut Vec<u8>) -> Result<Vec<u64>> {
        let ordinals = dictionary::write(&self.table, compressor, out)?;
        let ordinal = |term: &u32| u64::from(ordinals[*term as usize]);
        Ok(self.terms.iter().map(ordinal).collect())
    }
}

fn number(column_type: ColumnType, value: ReferenceValueLeaf<'_>) -> Result<u64> {
    Ok(match (column_type, value) {
        (ColumnType::U64, ReferenceValueLeaf::U64(value)) => value,
        (ColumnType::I64, ReferenceValueLeaf::I64(value)) => i64_to_u64(value),
        (ColumnType::F64, ReferenceValueLeaf::F64(value)) => f64_to_u64(value),
        (ColumnType::Bool, ReferenceValueLeaf::Bool(value)) => u64::from(value),
        _ => return Err(wrong_type()),
    })
}

fn wrong_type() -> Error {
    Error::new(ErrorKind::Internal, "a value has another type than its column")
}
