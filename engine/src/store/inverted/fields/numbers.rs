//! Numbers, whose terms are eight bytes in their order.

use std::io;

use tantivy::schema::Type;
use tantivy::schema::document::ReferenceValueLeaf;
use tantivy::{f64_to_u64, i64_to_u64};

use super::super::postings::{Occurrences, PostingsWriter};
use super::wrong_type;
use crate::error::Result;

/// Collects numbers of one type.
#[derive(Debug)]
pub(super) struct Numbers {
    kind: Type,
    /// In tantivy's order-preserving form, with the document.
    values: Vec<(u64, u32)>,
}

impl Numbers {
    pub(super) fn new(kind: Type) -> Self {
        Self { kind, values: Vec::new() }
    }

    pub(super) fn term_count(&self) -> usize {
        if self.kind == Type::Bool { 2 } else { self.values.len() }
    }

    /// Adds a value, and says how many terms it has.
    pub(super) fn add(&mut self, doc: u32, value: ReferenceValueLeaf<'_>) -> Result<u32> {
        let value = match (self.kind, value) {
            (Type::U64, ReferenceValueLeaf::U64(value)) => value,
            (Type::I64, ReferenceValueLeaf::I64(value)) => i64_to_u64(value),
            (Type::F64, ReferenceValueLeaf::F64(value)) => f64_to_u64(value),
            (Type::Bool, ReferenceValueLeaf::Bool(value)) => u64::from(value),
            _ => return Err(wrong_type()),
        };
        self.values.push((value, doc));
        Ok(1)
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.values.capacity() * size_of::<(u64, u32)>()
    }

    /// Writes every number with its documents.
    pub(super) fn write(mut self, sink: &mut PostingsWriter<'_>) -> io::Result<()> {
        self.values.sort_unstable();
        let mut found = Occurrences::default();
        for same in self.values.chunk_by(|left, right| left.0 == right.0) {
            found.clear();
            found.docs.extend(same.iter().map(|(_, doc)| *doc));
            found.docs.dedup();
            if let Some((value, _)) = same.first() {
                sink.term(&value.to_be_bytes(), &found)?;
            }
        }
        Ok(())
    }
}
