//! `cardinality`: how many different values.

use rustc_hash::FxHashSet;
use tantivy::DocId;
use xxhash_rust::xxh3::xxh3_64;

use super::hyper_log_log::HashCounter;
use super::terms::can_be_keys;
use super::{Aggregator, BucketId, Budget, MetricValue, SegmentContext, field_of, missing_value};
use crate::control;
use crate::error::Result;
use crate::mapping::ip;
use crate::search::column::{FieldColumn, decode};
use crate::search::request::{MetricField, SortValue};
use crate::search::response::AggregationResult;
use crate::snapshot::Snapshot;

/// About what an ordinal takes in the set of those seen, and in a list when the segment ends.
const SEEN_BYTES: usize = 48;

/// How many different values of a field.
pub(super) struct Cardinality {
    field: MetricField,
    counters: Vec<HashCounter>,
    column: Option<FieldColumn>,
    missing: Option<u64>,
    /// Ordinals of this segment by bucket; their texts are looked up when it ends.
    seen: FxHashSet<(BucketId, u64)>,
}

impl Cardinality {
    pub(super) fn new(field: MetricField) -> Self {
        Self {
            field,
            counters: Vec::new(),
            column: None,
            missing: None,
            seen: FxHashSet::default(),
        }
    }

    fn insert(&mut self, bucket: BucketId, hash: u64) -> Result<()> {
        let place = bucket as usize;
        control::reach(&mut self.counters, place, HashCounter::default)?;
        let Some(counter) = self.counters.get_mut(place) else { return Ok(()) };
        let before = counter.bytes();
        counter.insert(hash);
        match counter.bytes().checked_sub(before) {
            Some(0) => Ok(()),
            Some(more) => control::take(more),
            None => {
                control::give_back(before - counter.bytes());
                Ok(())
            }
        }
    }

    fn count(&self, bucket: BucketId) -> u64 {
        self.counters.get(bucket as usize).map_or(0, HashCounter::count)
    }
}

/// A value's hash, the same for equal values of all indexes.
fn hash(value: &SortValue) -> u64 {
    match value {
        SortValue::Null => 0,
        SortValue::Text(text) => xxh3_64(text.as_bytes()),
        SortValue::Ip(address) => xxh3_64(ip::term(*address).as_bytes()),
        SortValue::Bool(value) => xxh3_64(&[u8::from(*value)]),
        SortValue::I64(value) => xxh3_64(&i128::from(*value).to_le_bytes()),
        SortValue::Micros(value) => xxh3_64(&i128::from(value.div_euclid(1000)).to_le_bytes()),
        SortValue::U64(value) => xxh3_64(&i128::from(*value).to_le_bytes()),
        SortValue::Point(point) => xxh3_64(&point.to_bits().to_le_bytes()),
        SortValue::F64(value) => xxh3_64(&value.to_bits().to_le_bytes()),
    }
}

impl Aggregator for Cardinality {
    fn begin(&mut self, snapshot: &Snapshot) -> Result<()> {
        field_of(snapshot, &self.field.field, "cardinality", can_be_keys).map(|_| ())
    }

    fn open(&mut self, segment: &SegmentContext<'_>) -> Result<()> {
        let mapping = field_of(segment.snapshot, &self.field.field, "cardinality", can_be_keys)?;
        self.column = match mapping {
            Some(mapping) => FieldColumn::open(segment.segment, mapping)?,
            None => None,
        };
        let missing = missing_value(mapping, self.field.missing.as_ref())?;
        self.missing = missing.as_ref().map(hash);
        Ok(())
    }

    fn collect(&mut self, parent: BucketId, docs: &[DocId]) -> Result<()> {
        let Some(column) = self.column.take() else {
            if let (Some(missing), false) = (self.missing, docs.is_empty()) {
                self.insert(parent, missing)?;
            }
            return Ok(());
        };
        let storage = column.storage();
        for &doc in docs {
            if storage.has_dictionary() {
                let before = self.seen.capacity();
                self.seen.extend(column.values(doc).map(|raw| (parent, raw)));
                control::take((self.seen.capacity() - before) * SEEN_BYTES)?;
            } else {
                let mut hashes = column.values(doc).map(|raw| hash(&decode(storage, raw)));
                hashes.try_for_each(|hash| self.insert(parent, hash))?;
            }
            if let (Some(missing), false) = (self.missing, column.has_value(doc)) {
                self.insert(parent, missing)?;
            }
        }
        self.column = Some(column);
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        let mut seen: Vec<(u64, BucketId)> =
            self.seen.drain().map(|(bucket, ordinal)| (ordinal, bucket)).collect();
        seen.sort_unstable();
        let Some(column) = self.column.take() else { return Ok(()) };
        if seen.is_empty() {
            return Ok(());
        }
        // An ordinal that several buckets have seen is visited as often.
        let ordinals: Vec<u64> = seen.iter().map(|(ordinal, _)| *ordinal).collect();
        let mut buckets = seen.iter().map(|(_, bucket)| *bucket);
        let mut result = Ok(());
        column.texts(&ordinals, |text| {
            if let (Some(bucket), Ok(())) = (buckets.next(), &result) {
                result = self.insert(bucket, xxh3_64(text.as_bytes()));
            }
        })?;
        result
    }

    fn result(&self, parent: BucketId, _: &mut Budget) -> Result<AggregationResult> {
        #[expect(clippy::cast_precision_loss, reason = "metrics are doubles")]
        let value = Some(self.count(parent) as f64);
        Ok(AggregationResult::Value { value, is_date: false })
    }

    fn metric(&self, parent: BucketId, name: Option<&str>) -> Option<MetricValue> {
        #[expect(clippy::cast_precision_loss, reason = "metrics are doubles")]
        matches!(name, None | Some("value")).then(|| MetricValue(Some(self.count(parent) as f64)))
    }
}
