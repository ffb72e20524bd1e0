//! Aggregations, computed from columns in the one pass over the matching documents.
//!
//! Each aggregation keeps its state for every bucket of the one that it lies in, by the bucket's
//! number; at the top there is one bucket, 0. Numbers hold across segments and indexes, so counts
//! are exact and nothing has to be merged but the ordinals of keywords, segment by segment.
//!
//! Invariant: within a segment, documents are collected in rising order (equal ones may repeat for
//! several buckets), whatever the depth.

mod bucket;
mod cardinality;
mod histogram;
mod hyper_log_log;
mod metric;
#[cfg(test)]
mod option_tests;
mod range;
mod terms;
#[cfg(test)]
mod tests;
mod value_counts;

use tantivy::DocId;

use self::metric::MetricKind;
use super::collect::Sink;
use super::column::require_column;
use super::request::{Aggregation, AggregationKind, SortValue};
use super::response::{AggregationResult, Bucket};
use super::{SearchLimits, column};
use crate::control;
use crate::error::{Error, ErrorKind, Result};
use crate::mapping::field::FieldMapping;
use crate::query::ast::Scalar;
use crate::snapshot::{Segment, Snapshot};

/// A bucket's number.
pub(super) type BucketId = u32;

/// About what a bucket takes while documents are collected: its count and its place in a table and
/// in a list of the bucket above.
pub(super) const BUCKET_BYTES: usize = 96;

/// About what a bucket takes in a result, with a short key and the names of what is within.
const RESULT_BYTES: usize = size_of::<Bucket>() + 64;

/// A bucket that has no documents.
pub(super) const EMPTY: BucketId = BucketId::MAX;

/// A number that buckets can be ordered by; `None` over no values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct MetricValue(pub(super) Option<f64>);

/// One aggregation at work.
pub(super) trait Aggregator {
    /// An index begins: what is asked must fit its mapping, even if nothing matches.
    fn begin(&mut self, snapshot: &Snapshot) -> Result<()>;
    /// A segment begins.
    fn open(&mut self, segment: &SegmentContext<'_>) -> Result<()>;
    /// Rising documents of the segment that fall into a bucket of the aggregation above.
    fn collect(&mut self, parent: BucketId, docs: &[DocId]) -> Result<()>;
    /// The segment ends.
    fn close(&mut self) -> Result<()>;
    /// What was found in a bucket of the aggregation above.
    fn result(&self, parent: BucketId, budget: &mut Budget) -> Result<AggregationResult>;
    /// A number that buckets can be ordered by; `None` where there is no such number.
    fn metric(&self, parent: BucketId, name: Option<&str>) -> Option<MetricValue> {
        let _ = (parent, name);
        None
    }
}

/// A segment that is gone through.
pub(super) struct SegmentContext<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) segment: &'a Segment,
}

/// How many buckets there may still be.
#[derive(Debug)]
pub(super) struct Budget {
    taken: usize,
    limit: usize,
}

impl Budget {
    /// Takes the buckets of one result.
    pub(super) fn take(&mut self, count: usize) -> Result<()> {
        control::go_on()?;
        self.taken = self.taken.saturating_add(count);
        if self.taken <= self.limit {
            return control::take(count * RESULT_BYTES);
        }
        Err(Error::new(
            ErrorKind::Full,
            format!(
                "Trying to create too many buckets. Must be less than or equal to: [{}] but was \
                 [{}]. This limit can be set by changing the [search.max_buckets] cluster level \
                 setting.",
                self.limit, self.taken
            ),
        ))
    }
}

/// A new bucket's number; an error past what may be collected before the best are chosen.
pub(super) fn next_bucket(count: usize, limits: &SearchLimits) -> Result<BucketId> {
    bucket_number(count as u64, limits)
}

/// The number of one of the same few buckets in every bucket of the aggregation above.
pub(super) fn child_bucket(
    parent: BucketId,
    count: usize,
    place: usize,
    limits: &SearchLimits,
) -> Result<BucketId> {
    if parent == EMPTY {
        return Ok(EMPTY);
    }
    bucket_number(u64::from(parent) * count as u64 + place as u64, limits)
}

fn bucket_number(number: u64, limits: &SearchLimits) -> Result<BucketId> {
    let limit = limits.max_collected_buckets;
    match BucketId::try_from(number) {
        Ok(id) if number < limit as u64 => Ok(id),
        _ => Err(Error::new(
            ErrorKind::Full,
            format!(
                "an aggregation collects more than [{limit}] buckets \
                 [search.max_collected_buckets]"
            ),
        )),
    }
}

/// The aggregations of a request.
pub(super) struct Aggregations(Subs);

impl Aggregations {
    pub(super) fn new(
        aggregations: &[(String, Aggregation)],
        limits: &SearchLimits,
    ) -> Result<Self> {
        Ok(Self(Subs::new(aggregations, limits, 0)?))
    }

    pub(super) fn results(
        &self,
        limits: &SearchLimits,
    ) -> Result<Vec<(String, AggregationResult)>> {
        let mut budget = Budget { taken: 0, limit: limits.max_buckets };
        self.0.results(0, &mut budget)
    }
}

impl Sink for Aggregations {
    fn begin(&mut self, snapshot: &Snapshot) -> Result<()> {
        self.0.begin(snapshot)
    }

    fn open(&mut self, snapshot: &Snapshot, segment: &Segment) -> Result<()> {
        self.0.open(&SegmentContext { snapshot, segment })
    }

    fn collect(&mut self, docs: &[DocId]) -> Result<()> {
        self.0.collect(0, docs)
    }

    fn close(&mut self) -> Result<()> {
        self.0.close()
    }
}

/// Named aggregations within the buckets of another.
pub(super) struct Subs(Vec<(String, Box<dyn Aggregator>)>);

impl Subs {
    fn new(
        aggregations: &[(String, Aggregation)],
        limits: &SearchLimits,
        depth: usize,
    ) -> Result<Self> {
        if depth > limits.max_aggregation_depth {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!(
                    "aggregations are nested deeper than [{}] [search.max_aggregation_depth]",
                    limits.max_aggregation_depth
                ),
            ));
        }
        let build = |(name, aggregation): &(String, Aggregation)| {
            Ok((name.clone(), aggregator(name, aggregation, limits, depth)?))
        };
        aggregations.iter().map(build).collect::<Result<_>>().map(Self)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn begin(&mut self, snapshot: &Snapshot) -> Result<()> {
        self.0.iter_mut().try_for_each(|(_, aggregator)| aggregator.begin(snapshot))
    }

    pub(super) fn open(&mut self, segment: &SegmentContext<'_>) -> Result<()> {
        self.0.iter_mut().try_for_each(|(_, aggregator)| aggregator.open(segment))
    }

    pub(super) fn collect(&mut self, parent: BucketId, docs: &[DocId]) -> Result<()> {
        self.0.iter_mut().try_for_each(|(_, aggregator)| aggregator.collect(parent, docs))
    }

    pub(super) fn close(&mut self) -> Result<()> {
        self.0.iter_mut().try_for_each(|(_, aggregator)| aggregator.close())
    }

    pub(super) fn results(
        &self,
        parent: BucketId,
        budget: &mut Budget,
    ) -> Result<Vec<(String, AggregationResult)>> {
        let results = self
            .0
            .iter()
            .map(|(name, aggregator)| Ok((name.clone(), aggregator.result(parent, budget)?)));
        results.collect()
    }

    /// The number that a path names: `name`, or `name.property`.
    pub(super) fn metric(&self, parent: BucketId, path: &str) -> Option<MetricValue> {
        let named = |wanted: &str| self.0.iter().find(|(name, _)| name == wanted);
        if let Some((_, aggregator)) = named(path) {
            return aggregator.metric(parent, None);
        }
        let (name, property) = path.rsplit_once('.')?;
        named(name)?.1.metric(parent, Some(property))
    }
}

fn aggregator(
    name: &str,
    aggregation: &Aggregation,
    limits: &SearchLimits,
    depth: usize,
) -> Result<Box<dyn Aggregator>> {
    let subs = Subs::new(&aggregation.sub, limits, depth + 1)?;
    let metric = |kind, field| metric::Metric::boxed(kind, field);
    let metric_name = match &aggregation.kind {
        AggregationKind::Stats(_) => "stats",
        AggregationKind::Min(_) => "min",
        AggregationKind::Max(_) => "max",
        AggregationKind::Sum(_) => "sum",
        AggregationKind::Avg(_) => "avg",
        AggregationKind::ValueCount(_) => "value_count",
        AggregationKind::Cardinality(_) => "cardinality",
        _ => "",
    };
    if !metric_name.is_empty() && !subs.is_empty() {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            format!("Aggregator [{name}] of type [{metric_name}] cannot accept sub-aggregations"),
        ));
    }
    let limits = *limits;
    Ok(match &aggregation.kind {
        AggregationKind::Terms(options) => {
            Box::new(terms::Terms::new(name, options.clone(), subs, limits)?)
        }
        AggregationKind::Stats(field) => metric(MetricKind::Stats, field),
        AggregationKind::Min(field) => metric(MetricKind::Min, field),
        AggregationKind::Max(field) => metric(MetricKind::Max, field),
        AggregationKind::Sum(field) => metric(MetricKind::Sum, field),
        AggregationKind::Avg(field) => metric(MetricKind::Avg, field),
        AggregationKind::ValueCount(field) => metric(MetricKind::ValueCount, field),
        AggregationKind::Cardinality(field) => {
            Box::new(cardinality::Cardinality::new(field.clone()))
        }
        AggregationKind::Histogram { field, interval, offset, min_doc_count } => {
            let scale = histogram::Scale::number(*interval, *offset)?;
            Box::new(histogram::Histogram::new(field, scale, *min_doc_count, subs, limits))
        }
        AggregationKind::DateHistogram { field, interval, min_doc_count } => {
            let scale = histogram::Scale::date(*interval)?;
            Box::new(histogram::Histogram::new(field, scale, *min_doc_count, subs, limits))
        }
        AggregationKind::Range { field, ranges, keyed } => {
            Box::new(range::Ranges::new(field, ranges, *keyed, subs, limits))
        }
        AggregationKind::Filter(query) => {
            Box::new(bucket::Filters::new(vec![(None, query.clone())], subs, limits))
        }
        AggregationKind::Filters(queries) => {
            let named = queries.iter().map(|(name, query)| (Some(name.clone()), query.clone()));
            Box::new(bucket::Filters::new(named.collect(), subs, limits))
        }
        AggregationKind::Missing { field } => Box::new(bucket::Missing::new(field, subs)),
    })
}

/// A field to aggregate over: mapped, with a column, and of a type that the aggregation knows.
fn field_of<'a>(
    snapshot: &'a Snapshot,
    path: &str,
    aggregation: &str,
    allowed: impl Fn(&FieldMapping) -> bool,
) -> Result<Option<&'a FieldMapping>> {
    let Some(mapping) = snapshot.mapping().field(path) else { return Ok(None) };
    let index = snapshot.index_name();
    require_column(mapping, index)?;
    if !allowed(mapping) {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            format!(
                "Field [{path}] of type [{}] is not supported for aggregation [{aggregation}]",
                mapping.kind.name()
            ),
        )
        .with_index(index));
    }
    Ok(Some(mapping))
}

/// The value that documents without one count as.
fn missing_value(
    mapping: Option<&FieldMapping>,
    missing: Option<&Scalar>,
) -> Result<Option<SortValue>> {
    match (mapping, missing) {
        (Some(mapping), Some(scalar)) => Ok(Some(match column::scalar_value(mapping, scalar)? {
            SortValue::Micros(micros) => SortValue::I64(micros.div_euclid(1000)),
            value => value,
        })),
        (None, Some(scalar)) => Ok(Some(match scalar {
            Scalar::Bool(value) => SortValue::Bool(*value),
            Scalar::I64(value) => SortValue::I64(*value),
            Scalar::U64(value) => SortValue::U64(*value),
            Scalar::F64(value) => SortValue::F64(*value),
            Scalar::Text(value) => SortValue::Text(value.clone()),
        })),
        (_, None) => Ok(None),
    }
}

/// A bucket that has nothing but a key, a count and what is within it.
fn plain_bucket(key: SortValue, doc_count: u64, sub: Vec<(String, AggregationResult)>) -> Bucket {
    Bucket { key, key_as_string: None, from: None, to: None, doc_count, sub }
}
