//! `range`: a bucket for each of the given intervals of a number.

use tantivy::DocId;

use super::{Aggregator, BucketId, Budget, SegmentContext, Subs, child_bucket, field_of};
use crate::control;
use crate::error::Result;
use crate::mapping::field::FieldMapping;
use crate::search::SearchLimits;
use crate::search::column::{FieldColumn, to_f64};
use crate::search::request::SortValue;
use crate::search::response::{AggregationResult, Bucket};
use crate::snapshot::Snapshot;

/// Buckets by interval, `from` included and `to` not.
pub(super) struct Ranges {
    field: String,
    intervals: Vec<Interval>,
    keyed: bool,
    subs: Subs,
    limits: SearchLimits,
    counts: Vec<u64>,
    column: Option<FieldColumn>,
}

#[derive(Debug, Clone)]
struct Interval {
    key: String,
    from: Option<f64>,
    to: Option<f64>,
}

impl Interval {
    fn has(&self, value: f64) -> bool {
        self.from.is_none_or(|from| value >= from) && self.to.is_none_or(|to| value < to)
    }
}

impl Ranges {
    pub(super) fn new(
        field: &str,
        ranges: &[(Option<String>, Option<f64>, Option<f64>)],
        keyed: bool,
        subs: Subs,
        limits: SearchLimits,
    ) -> Self {
        let end = |end: Option<f64>| end.map_or_else(|| "*".to_owned(), |end| format!("{end:?}"));
        let mut intervals: Vec<Interval> = ranges
            .iter()
            .map(|(key, from, to)| Interval {
                key: key.clone().unwrap_or_else(|| format!("{}-{}", end(*from), end(*to))),
                from: *from,
                to: *to,
            })
            .collect();
        let least = |interval: &Interval| interval.from.unwrap_or(f64::NEG_INFINITY);
        let greatest = |interval: &Interval| interval.to.unwrap_or(f64::INFINITY);
        intervals.sort_by(|left, right| {
            let from = least(left).total_cmp(&least(right));
            from.then_with(|| greatest(left).total_cmp(&greatest(right)))
        });
        Self {
            field: field.to_owned(),
            intervals,
            keyed,
            subs,
            limits,
            counts: Vec::new(),
            column: None,
        }
    }

    fn mapping<'a>(&self, snapshot: &'a Snapshot) -> Result<Option<&'a FieldMapping>> {
        field_of(snapshot, &self.field, "range", |field| field.kind.storage().has_numbers())
    }

    fn add(&mut self, bucket: BucketId, doc: DocId) -> Result<()> {
        control::reach(&mut self.counts, bucket as usize, || 0)?;
        if let Some(count) = self.counts.get_mut(bucket as usize) {
            *count += 1;
        }
        if self.subs.is_empty() { Ok(()) } else { self.subs.collect(bucket, &[doc]) }
    }

    fn bucket(&self, parent: BucketId, place: usize) -> Result<BucketId> {
        child_bucket(parent, self.intervals.len(), place, &self.limits)
    }
}

impl Aggregator for Ranges {
    fn begin(&mut self, snapshot: &Snapshot) -> Result<()> {
        self.mapping(snapshot)?;
        self.subs.begin(snapshot)
    }

    fn open(&mut self, segment: &SegmentContext<'_>) -> Result<()> {
        self.column = match self.mapping(segment.snapshot)? {
            Some(mapping) => FieldColumn::open(segment.segment, mapping)?,
            None => None,
        };
        self.subs.open(segment)
    }

    fn collect(&mut self, parent: BucketId, docs: &[DocId]) -> Result<()> {
        let Some(column) = self.column.take() else { return Ok(()) };
        let storage = column.storage();
        let mut values: Vec<f64> = Vec::new();
        let mut inside: Vec<bool> = Vec::new();
        for &doc in docs {
            control::go_on()?;
            values.clear();
            values.extend(column.values(doc).map(|raw| to_f64(storage, raw)));
            inside.clear();
            let has = |range: &Interval| values.iter().any(|value| range.has(*value));
            inside.extend(self.intervals.iter().map(has));
            for (place, _) in inside.iter().enumerate().filter(|(_, inside)| **inside) {
                self.add(self.bucket(parent, place)?, doc)?;
            }
        }
        self.column = Some(column);
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        self.column = None;
        self.subs.close()
    }

    fn result(&self, parent: BucketId, budget: &mut Budget) -> Result<AggregationResult> {
        budget.take(self.intervals.len())?;
        let mut buckets = Vec::with_capacity(self.intervals.len());
        for (place, range) in self.intervals.iter().enumerate() {
            let bucket = self.bucket(parent, place)?;
            buckets.push(Bucket {
                key: SortValue::Text(range.key.clone()),
                key_as_string: None,
                from: range.from,
                to: range.to,
                doc_count: self.counts.get(bucket as usize).copied().unwrap_or(0),
                sub: self.subs.results(bucket, budget)?,
            });
        }
        Ok(AggregationResult::Buckets { buckets, keyed: self.keyed })
    }
}
