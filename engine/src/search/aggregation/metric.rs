//! Aggregations that come to one or a few numbers.

use tantivy::DocId;

use super::{Aggregator, BucketId, Budget, MetricValue, SegmentContext, field_of, missing_value};
use crate::control;
use crate::error::Result;
use crate::mapping::field::{FieldMapping, Storage};
use crate::search::column::{FieldColumn, to_f64};
use crate::search::request::{MetricField, SortValue};
use crate::search::response::AggregationResult;
use crate::search::sort_key::double;
use crate::snapshot::Snapshot;

/// Which number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MetricKind {
    Stats,
    Min,
    Max,
    Sum,
    Avg,
    ValueCount,
}

/// A metric of one field.
pub(super) struct Metric {
    kind: MetricKind,
    field: MetricField,
    states: Vec<State>,
    column: Option<FieldColumn>,
    missing: Option<f64>,
    is_date: bool,
}

/// What is known of the values of one bucket. Sums are Kahan's, as in Elasticsearch.
#[derive(Debug, Clone, Copy)]
struct State {
    count: u64,
    min: f64,
    max: f64,
    sum: f64,
    lost: f64,
}

impl State {
    const EMPTY: Self =
        Self { count: 0, min: f64::INFINITY, max: f64::NEG_INFINITY, sum: 0.0, lost: 0.0 };

    fn add(&mut self, value: f64) {
        self.count += 1;
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        let corrected = value - self.lost;
        let sum = self.sum + corrected;
        self.lost = (sum - self.sum) - corrected;
        self.sum = sum;
    }

    #[expect(clippy::cast_precision_loss, reason = "a mean is a double")]
    fn avg(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }

    fn value(&self, kind: MetricKind) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "metrics are doubles")]
        match kind {
            MetricKind::Min => (self.count > 0).then_some(self.min),
            MetricKind::Max => (self.count > 0).then_some(self.max),
            MetricKind::Sum => Some(self.sum),
            MetricKind::Avg => self.avg(),
            MetricKind::ValueCount => Some(self.count as f64),
            MetricKind::Stats => None,
        }
    }
}

impl Metric {
    pub(super) fn boxed(kind: MetricKind, field: &MetricField) -> Box<dyn Aggregator> {
        Box::new(Self {
            kind,
            field: field.clone(),
            states: Vec::new(),
            column: None,
            missing: None,
            is_date: false,
        })
    }

    fn name(&self) -> &'static str {
        match self.kind {
            MetricKind::Stats => "stats",
            MetricKind::Min => "min",
            MetricKind::Max => "max",
            MetricKind::Sum => "sum",
            MetricKind::Avg => "avg",
            MetricKind::ValueCount => "value_count",
        }
    }

    fn mapping<'a>(&self, snapshot: &'a Snapshot) -> Result<Option<&'a FieldMapping>> {
        let counts = self.kind == MetricKind::ValueCount;
        field_of(snapshot, &self.field.field, self.name(), |mapping| {
            counts || mapping.kind.storage().has_numbers()
        })
    }

    fn state(&self, bucket: BucketId) -> State {
        self.states.get(bucket as usize).copied().unwrap_or(State::EMPTY)
    }
}

impl Aggregator for Metric {
    fn begin(&mut self, snapshot: &Snapshot) -> Result<()> {
        let is_date =
            self.mapping(snapshot)?.is_some_and(|mapping| mapping.kind.storage() == Storage::Date);
        self.is_date |= is_date && self.kind != MetricKind::ValueCount;
        Ok(())
    }

    fn open(&mut self, segment: &SegmentContext<'_>) -> Result<()> {
        let mapping = self.mapping(segment.snapshot)?;
        self.column = match mapping {
            Some(mapping) => FieldColumn::open(segment.segment, mapping)?,
            None => None,
        };
        let missing = missing_value(mapping, self.field.missing.as_ref())?;
        self.missing = missing.map(|value| match value {
            SortValue::Text(_) | SortValue::Ip(_) | SortValue::Point(_) | SortValue::Null => 0.0,
            number => double(&number),
        });
        Ok(())
    }

    fn collect(&mut self, parent: BucketId, docs: &[DocId]) -> Result<()> {
        let place = parent as usize;
        control::reach(&mut self.states, place, || State::EMPTY)?;
        let Some(state) = self.states.get_mut(place) else { return Ok(()) };
        let Some(column) = &self.column else {
            let missing = docs.iter().filter_map(|_| self.missing);
            missing.for_each(|missing| state.add(missing));
            return Ok(());
        };
        let storage = column.storage();
        for &doc in docs {
            let before = state.count;
            column.values(doc).for_each(|raw| state.add(to_f64(storage, raw)));
            if let (Some(missing), true) = (self.missing, state.count == before) {
                state.add(missing);
            }
        }
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        self.column = None;
        Ok(())
    }

    fn result(&self, parent: BucketId, _: &mut Budget) -> Result<AggregationResult> {
        let state = self.state(parent);
        if self.kind == MetricKind::Stats {
            return Ok(AggregationResult::Stats {
                count: state.count,
                min: state.value(MetricKind::Min),
                max: state.value(MetricKind::Max),
                avg: state.avg(),
                sum: state.sum,
            });
        }
        Ok(AggregationResult::Value { value: state.value(self.kind), is_date: self.is_date })
    }

    fn metric(&self, parent: BucketId, name: Option<&str>) -> Option<MetricValue> {
        let state = self.state(parent);
        let kind = match (self.kind, name) {
            (MetricKind::Stats, Some("min")) => MetricKind::Min,
            (MetricKind::Stats, Some("max")) => MetricKind::Max,
            (MetricKind::Stats, Some("sum")) => MetricKind::Sum,
            (MetricKind::Stats, Some("avg")) => MetricKind::Avg,
            (MetricKind::Stats, Some("count")) => MetricKind::ValueCount,
            (MetricKind::Stats, _) => return None,
            (kind, None | Some("value")) => kind,
            _ => return None,
        };
        Some(MetricValue(state.value(kind)))
    }
}
