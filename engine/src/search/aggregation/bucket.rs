//! Aggregations whose buckets are known beforehand: `filter`, `filters`, `missing`.

use tantivy::DocId;
use tantivy::query::{Scorer, Weight};

use super::{
    Aggregator, BucketId, Budget, SegmentContext, Subs, child_bucket, field_of, plain_bucket,
};
use crate::control;
use crate::error::Result;
use crate::query::ast::Query;
use crate::query::compile::compile_filter;
use crate::search::SearchLimits;
use crate::search::collect::contains;
use crate::search::column::FieldColumn;
use crate::search::request::SortValue;
use crate::search::response::AggregationResult;
use crate::snapshot::Snapshot;

/// A bucket for each query; without a name there is only one.
pub(super) struct Filters {
    queries: Vec<(Option<String>, Query)>,
    subs: Subs,
    limits: SearchLimits,
    counts: Vec<u64>,
    /// The snapshot that the weights are for.
    compiled_for: *const Snapshot,
    weights: Vec<Box<dyn Weight>>,
    scorers: Vec<Box<dyn Scorer>>,
}

impl Filters {
    pub(super) fn new(
        queries: Vec<(Option<String>, Query)>,
        subs: Subs,
        limits: SearchLimits,
    ) -> Self {
        Self {
            queries,
            subs,
            limits,
            counts: Vec::new(),
            compiled_for: std::ptr::null(),
            weights: Vec::new(),
            scorers: Vec::new(),
        }
    }

    fn bucket(&self, parent: BucketId, place: usize) -> Result<BucketId> {
        child_bucket(parent, self.queries.len(), place, &self.limits)
    }

    fn add(&mut self, bucket: BucketId, doc: DocId) -> Result<()> {
        if let Some(count) = self.counts.get_mut(bucket as usize) {
            *count += 1;
        }
        if self.subs.is_empty() { Ok(()) } else { self.subs.collect(bucket, &[doc]) }
    }

    fn doc_count(&self, bucket: BucketId) -> u64 {
        self.counts.get(bucket as usize).copied().unwrap_or(0)
    }
}

impl Aggregator for Filters {
    fn begin(&mut self, snapshot: &Snapshot) -> Result<()> {
        for (_, query) in &self.queries {
            compile_filter(snapshot, query, &self.limits.query)?;
        }
        self.subs.begin(snapshot)
    }

    fn open(&mut self, segment: &SegmentContext<'_>) -> Result<()> {
        let snapshot = segment.snapshot;
        if !std::ptr::eq(self.compiled_for, snapshot) {
            let weights = self.queries.iter().map(|(_, query)| {
                compile_filter(snapshot, query, &self.limits.query)?.weight(snapshot, false)
            });
            self.weights = weights.collect::<Result<_>>()?;
            self.compiled_for = snapshot;
        }
        let reader = segment.segment.reader();
        self.scorers.clear();
        for weight in &self.weights {
            self.scorers.push(weight.scorer(reader, 1.0)?);
        }
        self.subs.open(segment)
    }

    fn collect(&mut self, parent: BucketId, docs: &[DocId]) -> Result<()> {
        let mut scorers = std::mem::take(&mut self.scorers);
        let end = self.bucket(parent, scorers.len())? as usize;
        control::reach(&mut self.counts, end.saturating_sub(1), || 0)?;
        let mut inside: Vec<bool> = Vec::with_capacity(scorers.len());
        // Document by document: what is within must see them in order.
        for &doc in docs {
            control::go_on()?;
            let has = |scorer: &mut Box<dyn Scorer>| contains(scorer.as_mut(), doc);
            inside.clear();
            inside.extend(scorers.iter_mut().map(has));
            for (place, _) in inside.iter().enumerate().filter(|(_, inside)| **inside) {
                self.add(self.bucket(parent, place)?, doc)?;
            }
        }
        self.scorers = scorers;
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        self.scorers.clear();
        self.subs.close()
    }

    fn result(&self, parent: BucketId, budget: &mut Budget) -> Result<AggregationResult> {
        budget.take(self.queries.len())?;
        let mut buckets = Vec::with_capacity(self.queries.len());
        let mut keyed = true;
        for (place, (name, _)) in self.queries.iter().enumerate() {
            let bucket = self.bucket(parent, place)?;
            let sub = self.subs.results(bucket, budget)?;
            keyed &= name.is_some();
            let key = name.clone().map_or(SortValue::Null, SortValue::Text);
            buckets.push(plain_bucket(key, self.doc_count(bucket), sub));
        }
        if !keyed && let Some(bucket) = buckets.pop() {
            return Ok(AggregationResult::Single(bucket));
        }
        Ok(AggregationResult::Buckets { buckets, keyed })
    }
}

/// One bucket: the documents without a value.
pub(super) struct Missing {
    field: String,
    subs: Subs,
    counts: Vec<u64>,
    column: Option<FieldColumn>,
}

impl Missing {
    pub(super) fn new(field: &str, subs: Subs) -> Self {
        Self { field: field.to_owned(), subs, counts: Vec::new(), column: None }
    }
}

impl Aggregator for Missing {
    fn begin(&mut self, snapshot: &Snapshot) -> Result<()> {
        field_of(snapshot, &self.field, "missing", |_| true)?;
        self.subs.begin(snapshot)
    }

    fn open(&mut self, segment: &SegmentContext<'_>) -> Result<()> {
        self.column = match field_of(segment.snapshot, &self.field, "missing", |_| true)? {
            Some(mapping) => FieldColumn::open(segment.segment, mapping)?,
            None => None,
        };
        self.subs.open(segment)
    }

    fn collect(&mut self, parent: BucketId, docs: &[DocId]) -> Result<()> {
        control::reach(&mut self.counts, parent as usize, || 0)?;
        for &doc in docs {
            if self.column.as_ref().is_some_and(|column| column.has_value(doc)) {
                continue;
            }
            if let Some(count) = self.counts.get_mut(parent as usize) {
                *count += 1;
            }
            if !self.subs.is_empty() {
                self.subs.collect(parent, &[doc])?;
            }
        }
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        self.column = None;
        self.subs.close()
    }

    fn result(&self, parent: BucketId, budget: &mut Budget) -> Result<AggregationResult> {
        budget.take(1)?;
        let sub = self.subs.results(parent, budget)?;
        let doc_count = self.counts.get(parent as usize).copied().unwrap_or(0);
        Ok(AggregationResult::Single(plain_bucket(SortValue::Null, doc_count, sub)))
    }
}
