//! Counts of a segment's documents by value, where values are ordinals or numbers that lie close
//! together: an array in place of a hash table, and values read a block of documents at a time.

use tantivy::DocId;

use crate::mapping::field::Storage;
use crate::search::column::FieldColumn;

/// How many different numbers a segment may span.
const SPAN_LIMIT: u64 = 1 << 16;

/// Counts by value.
pub(super) struct ValueCounts {
    least: u64,
    counts: Vec<u32>,
    missing: u64,
    values: Vec<Option<u64>>,
}

impl ValueCounts {
    /// For a segment's column; `None` where its numbers lie too far apart.
    pub(super) fn of(column: &FieldColumn) -> Option<Self> {
        let (least, span) = match column.storage() {
            Storage::Text | Storage::Ip => (0, column.text_count() as u64),
            // Dates are counted by the millisecond, but lie in microseconds.
            Storage::Date => return None,
            _ => {
                let (least, greatest) = column.range();
                let span = greatest.checked_sub(least)?.checked_add(1)?;
                (span <= SPAN_LIMIT).then_some((least, span))?
            }
        };
        let counts = vec![0; usize::try_from(span).ok()?];
        Some(Self { least, counts, missing: 0, values: Vec::new() })
    }

    /// Counts documents; each once for every different value that it has.
    pub(super) fn count(&mut self, column: &FieldColumn, docs: &[DocId]) {
        if column.is_multivalued() {
            for doc in docs {
                self.count_several(column, *doc);
            }
            return;
        }
        let mut values = std::mem::take(&mut self.values);
        column.first_values(docs, &mut values);
        for value in &values {
            match value {
                Some(value) => self.add(*value),
                None => self.missing += 1,
            }
        }
        self.values = values;
    }

    fn count_several(&mut self, column: &FieldColumn, doc: DocId) {
        let mut values: Vec<u64> = column.values(doc).collect();
        values.sort_unstable();
        values.dedup();
        self.missing += u64::from(values.is_empty());
        for value in values {
            self.add(value);
        }
    }

    fn add(&mut self, value: u64) {
        let place = usize::try_from(value.wrapping_sub(self.least)).unwrap_or(usize::MAX);
        if let Some(count) = self.counts.get_mut(place) {
            *count += 1;
        }
    }

    /// The values that were met, rising, with their counts.
    pub(super) fn found(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let values = self.least..;
        let counts = self.counts.iter().map(|count| u64::from(*count));
        values.zip(counts).filter(|(_, count)| *count > 0)
    }

    /// How many documents have no value.
    pub(super) fn missing(&self) -> u64 {
        self.missing
    }
}
