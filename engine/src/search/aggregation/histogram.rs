//! `histogram` and `date_histogram`: a bucket for each interval that has documents, and for those
//! between where `min_doc_count` is 0.

use std::collections::BTreeMap;
use std::ops::Range;

use rustc_hash::FxHashMap;
use tantivy::DocId;

use super::{
    Aggregator, BUCKET_BYTES, BucketId, Budget, EMPTY, SegmentContext, Subs, field_of, next_bucket,
};
use crate::control;
use crate::error::{Error, ErrorKind, Result};
use crate::mapping::date::DateFormat;
use crate::mapping::date::calendar::Day;
use crate::mapping::field::{FieldMapping, Storage};
use crate::search::SearchLimits;
use crate::search::column::{FieldColumn, decode, to_f64};
use crate::search::request::{DateInterval, SortValue};
use crate::search::response::{AggregationResult, Bucket};
use crate::snapshot::Snapshot;

const DAY_MS: i64 = 86_400_000;

/// How values fall into numbered intervals.
#[derive(Debug, Clone, Copy)]
pub(super) enum Scale {
    Number { interval: f64, offset: f64 },
    Date(DateInterval),
}

impl Scale {
    pub(super) fn number(interval: f64, offset: f64) -> Result<Self> {
        if interval.is_finite() && interval > 0.0 && offset.is_finite() {
            return Ok(Self::Number { interval, offset });
        }
        Err(Error::new(
            ErrorKind::InvalidArgument,
            format!("[interval] must be >0 for histogram aggregation, but was [{interval}]"),
        ))
    }

    pub(super) fn date(interval: DateInterval) -> Result<Self> {
        match interval {
            DateInterval::Fixed(millis) if millis <= 0 => Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("[fixed_interval] must be >0, but was [{millis}] milliseconds"),
            )),
            other => Ok(Self::Date(other)),
        }
    }

    /// The interval that a value falls into.
    #[expect(clippy::cast_possible_truncation, reason = "casts of floats saturate")]
    fn place(&self, storage: Storage, raw: u64) -> i64 {
        let interval = match self {
            Self::Number { interval, offset } => {
                let value = to_f64(storage, raw);
                return ((value - offset) / interval).floor() as i64;
            }
            Self::Date(interval) => interval,
        };
        let SortValue::I64(millis) = decode(storage, raw) else { return 0 };
        let months = || {
            let day = Day::of(millis.div_euclid(DAY_MS));
            day.year * 12 + day.month - 1
        };
        match interval {
            DateInterval::Fixed(width) => millis.div_euclid(*width),
            // The first day of 1970 was a Thursday.
            DateInterval::Week => (millis.div_euclid(DAY_MS) + 3).div_euclid(7),
            DateInterval::Month => months(),
            DateInterval::Quarter => months().div_euclid(3),
            DateInterval::Year => months().div_euclid(12),
        }
    }

    /// Where an interval begins.
    #[expect(clippy::cast_precision_loss, reason = "keys are doubles")]
    fn key(&self, place: i64) -> SortValue {
        let interval = match self {
            Self::Number { interval, offset } => {
                return SortValue::F64(place as f64 * interval + offset);
            }
            Self::Date(interval) => interval,
        };
        SortValue::I64(match interval {
            DateInterval::Fixed(width) => place.saturating_mul(*width),
            DateInterval::Week => (place * 7 - 3) * DAY_MS,
            DateInterval::Month => millis_of(place),
            DateInterval::Quarter => millis_of(place * 3),
            DateInterval::Year => millis_of(place * 12),
        })
    }

    fn is_date(&self) -> bool {
        matches!(self, Self::Date(_))
    }
}

/// The beginning of a month, counted from year 0.
fn millis_of(month: i64) -> i64 {
    let (year, month) = (month.div_euclid(12), month.rem_euclid(12) + 1);
    Day { year, month, day_of_month: 1 }.days() * DAY_MS
}

/// Buckets by interval.
pub(super) struct Histogram {
    field: String,
    scale: Scale,
    min_doc_count: u64,
    subs: Subs,
    limits: SearchLimits,
    buckets: FxHashMap<(BucketId, i64), BucketId>,
    counts: Vec<u64>,
    /// By bucket of the aggregation above.
    children: Vec<BTreeMap<i64, BucketId>>,
    column: Option<FieldColumn>,
    format: DateFormat,
}

impl Histogram {
    pub(super) fn new(
        field: &str,
        scale: Scale,
        min_doc_count: u64,
        subs: Subs,
        limits: SearchLimits,
    ) -> Self {
        Self {
            field: field.to_owned(),
            scale,
            min_doc_count,
            subs,
            limits,
            buckets: FxHashMap::default(),
            counts: Vec::new(),
            children: Vec::new(),
            column: None,
            format: DateFormat::default(),
        }
    }

    fn mapping<'a>(&self, snapshot: &'a Snapshot) -> Result<Option<&'a FieldMapping>> {
        let dates = self.scale.is_date();
        let name = if dates { "date_histogram" } else { "histogram" };
        field_of(snapshot, &self.field, name, |field| match field.kind.storage() {
            Storage::Date => true,
            _ if !field.kind.storage().has_numbers() => false,
            _ => !dates,
        })
    }

    fn add(&mut self, parent: BucketId, place: i64, doc: DocId) -> Result<()> {
        let known = self.buckets.get(&(parent, place)).copied();
        let bucket = known.map_or_else(|| self.new_bucket(parent, place), Ok)?;
        if let Some(count) = self.counts.get_mut(bucket as usize) {
            *count += 1;
        }
        if self.subs.is_empty() { Ok(()) } else { self.subs.collect(bucket, &[doc]) }
    }

    fn new_bucket(&mut self, parent: BucketId, place: i64) -> Result<BucketId> {
        let bucket = next_bucket(self.counts.len(), &self.limits)?;
        control::take(BUCKET_BYTES)?;
        self.counts.push(0);
        self.buckets.insert((parent, place), bucket);
        control::reach(&mut self.children, parent as usize, BTreeMap::new)?;
        if let Some(children) = self.children.get_mut(parent as usize) {
            children.insert(place, bucket);
        }
        Ok(bucket)
    }

    fn bucket(&self, place: i64, doc_count: u64) -> Bucket {
        let key = self.scale.key(place);
        let key_as_string = match &key {
            SortValue::I64(millis) => Some(self.format.print_millis(*millis)),
            _ => None,
        };
        Bucket { key, key_as_string, from: None, to: None, doc_count, sub: Vec::new() }
    }
}

impl Histogram {
    /// The buckets between two that have documents.
    fn fill(
        &self,
        places: Range<i64>,
        buckets: &mut Vec<Bucket>,
        budget: &mut Budget,
    ) -> Result<()> {
        let count = places.end.saturating_sub(places.start);
        budget.take(usize::try_from(count).unwrap_or(usize::MAX))?;
        for place in places {
            let mut between = self.bucket(place, 0);
            between.sub = self.subs.results(EMPTY, budget)?;
            buckets.push(between);
        }
        Ok(())
    }
}

impl Aggregator for Histogram {
    fn begin(&mut self, snapshot: &Snapshot) -> Result<()> {
        if let Some(mapping) = self.mapping(snapshot)? {
            self.format = mapping.format.clone();
        }
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
        let mut places: Vec<i64> = Vec::new();
        for &doc in docs {
            places.clear();
            places.extend(column.values(doc).map(|raw| self.scale.place(storage, raw)));
            if places.len() > 1 {
                places.sort_unstable();
                places.dedup();
            }
            for &place in &places {
                self.add(parent, place, doc)?;
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
        let mut buckets = Vec::new();
        let mut next = None;
        for (&place, &bucket) in self.children.get(parent as usize).into_iter().flatten() {
            let count = self.counts.get(bucket as usize).copied().unwrap_or(0);
            if count < self.min_doc_count {
                continue;
            }
            if self.min_doc_count == 0
                && let Some(next) = next
            {
                self.fill(next..place, &mut buckets, budget)?;
            }
            budget.take(1)?;
            let mut full = self.bucket(place, count);
            full.sub = self.subs.results(bucket, budget)?;
            buckets.push(full);
            next = place.checked_add(1);
        }
        Ok(AggregationResult::Buckets { buckets, keyed: false })
    }
}
