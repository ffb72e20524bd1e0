//! `terms`: a bucket for each value of a field, counted exactly.
//!
//! Numbers are counted under their bits. Keywords are counted by ordinal while a segment is gone
//! through; when it ends its ordinals' texts are read in one pass, and only then, since buckets
//! have no numbers before, the segment's documents are given to the aggregations within. At the top
//! and with nothing within, counting each value of the segment is enough.

use std::cmp::Ordering;
use std::net::Ipv6Addr;

use rustc_hash::{FxHashMap, FxHashSet};
use tantivy::DocId;

use super::value_counts::ValueCounts;
use super::{
    Aggregator, BUCKET_BYTES, BucketId, Budget, EMPTY, MetricValue, SegmentContext, Subs, field_of,
    missing_value, next_bucket,
};
use crate::control::{self, Ticks};
use crate::error::{Error, ErrorKind, Result};
use crate::mapping::date::DateFormat;
use crate::mapping::field::{FieldMapping, Storage};
use crate::mapping::ip;
use crate::search::SearchLimits;
use crate::search::column::{FieldColumn, decode, read_term};
use crate::search::request::{BucketOrder, SortValue, TermsAggregation};
use crate::search::response::{AggregationResult, Bucket};
use crate::search::sort_key::compare_values;
use crate::snapshot::Snapshot;

/// Buckets by value.
pub(super) struct Terms {
    options: TermsAggregation,
    subs: Subs,
    limits: SearchLimits,
    known: Values,
    buckets: FxHashMap<(BucketId, ValueId), BucketId>,
    counts: Vec<u64>,
    /// By bucket of the aggregation above.
    children: Vec<Vec<(ValueId, BucketId)>>,
    column: Option<FieldColumn>,
    missing: Option<SortValue>,
    is_date: bool,
    format: DateFormat,
    /// What was collected in this segment: ordinals that wait for their texts.
    waiting: Vec<Waiting>,
    /// With nothing within: counts of this segment's values.
    value_counts: Option<ValueCounts>,
}

/// About what a value takes in the lists and tables of those met.
const VALUE_BYTES: usize = 160;

/// What an ordinal of a segment takes while its text is read.
const ORDINAL_BYTES: usize = 13;

/// A document that has an ordinal, in a bucket of the aggregation above.
struct Waiting {
    parent: BucketId,
    doc: DocId,
    ordinal: u64,
}

/// A value's number, the same in all segments and indexes.
type ValueId = u32;

/// The values met so far.
#[derive(Default)]
struct Values {
    all: Vec<SortValue>,
    texts: FxHashMap<String, ValueId>,
    addresses: FxHashMap<Ipv6Addr, ValueId>,
    numbers: FxHashMap<(Storage, u64), ValueId>,
    /// All values of the index, where buckets without documents are wanted.
    everything: FxHashSet<ValueId>,
}

impl Values {
    fn text(&mut self, text: &str, limits: &SearchLimits) -> Result<ValueId> {
        if let Some(id) = self.texts.get(text) {
            return Ok(*id);
        }
        let id = next_bucket(self.all.len(), limits)?;
        control::take(VALUE_BYTES + 2 * text.len())?;
        self.all.push(SortValue::Text(text.to_owned()));
        self.texts.insert(text.to_owned(), id);
        Ok(id)
    }

    fn address(&mut self, address: Ipv6Addr, limits: &SearchLimits) -> Result<ValueId> {
        if let Some(id) = self.addresses.get(&address) {
            return Ok(*id);
        }
        let id = next_bucket(self.all.len(), limits)?;
        control::take(VALUE_BYTES)?;
        self.all.push(SortValue::Ip(address));
        self.addresses.insert(address, id);
        Ok(id)
    }

    /// Of a text that a column's dictionary has.
    fn of_column(
        &mut self,
        storage: Storage,
        text: &str,
        limits: &SearchLimits,
    ) -> Result<ValueId> {
        match storage {
            Storage::Ip => self.address(read_term(text)?, limits),
            _ => self.text(text, limits),
        }
    }

    fn number(&mut self, storage: Storage, raw: u64, limits: &SearchLimits) -> Result<ValueId> {
        if let Some(id) = self.numbers.get(&(storage, raw)) {
            return Ok(*id);
        }
        let id = next_bucket(self.all.len(), limits)?;
        control::take(VALUE_BYTES)?;
        self.all.push(decode(storage, raw));
        self.numbers.insert((storage, raw), id);
        Ok(id)
    }

    fn value(&mut self, value: &SortValue, limits: &SearchLimits) -> Result<ValueId> {
        match value {
            SortValue::Text(text) => return self.text(text, limits),
            SortValue::Ip(address) => return self.address(*address, limits),
            _ => {}
        }
        let known = self.all.iter().position(|known| known == value);
        if let Some(place) = known {
            return next_bucket(place, limits);
        }
        let id = next_bucket(self.all.len(), limits)?;
        self.all.push(value.clone());
        for storage in [Storage::I64, Storage::U64, Storage::F64, Storage::Bool, Storage::Date] {
            if let Some((raw, Ordering::Equal)) = crate::search::column::encode(storage, value)
                && decode(storage, raw) == *value
            {
                self.numbers.insert((storage, raw), id);
            }
        }
        Ok(id)
    }

    fn get(&self, id: ValueId) -> &SortValue {
        self.all.get(id as usize).unwrap_or(&SortValue::Null)
    }
}

/// A bucket that may be returned.
struct Candidate {
    value: ValueId,
    bucket: BucketId,
    doc_count: u64,
    metrics: Vec<Option<f64>>,
}

impl Terms {
    pub(super) fn new(
        name: &str,
        options: TermsAggregation,
        subs: Subs,
        limits: SearchLimits,
    ) -> Result<Self> {
        for (order, _) in &options.order {
            if let BucketOrder::Metric(path) = order
                && subs.metric(EMPTY, path).is_none()
            {
                return Err(Error::new(
                    ErrorKind::InvalidArgument,
                    format!(
                        "Invalid aggregation order path [{path}] of [{name}]: it names no metric \
                         of the buckets"
                    ),
                ));
            }
        }
        if options.size == 0 {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("[size] must be greater than 0. Found [0] in [{name}]"),
            ));
        }
        Ok(Self {
            options,
            subs,
            limits,
            known: Values::default(),
            buckets: FxHashMap::default(),
            counts: Vec::new(),
            children: Vec::new(),
            column: None,
            missing: None,
            is_date: false,
            format: DateFormat::default(),
            waiting: Vec::new(),
            value_counts: None,
        })
    }

    fn add(&mut self, parent: BucketId, value: ValueId, doc: DocId) -> Result<()> {
        let bucket = self.count(parent, value, 1)?;
        if self.subs.is_empty() { Ok(()) } else { self.subs.collect(bucket, &[doc]) }
    }

    fn new_bucket(&mut self, parent: BucketId, value: ValueId) -> Result<BucketId> {
        let bucket = next_bucket(self.counts.len(), &self.limits)?;
        control::take(BUCKET_BYTES)?;
        self.counts.push(0);
        self.buckets.insert((parent, value), bucket);
        control::reach(&mut self.children, parent as usize, Vec::new)?;
        if let Some(children) = self.children.get_mut(parent as usize) {
            children.push((value, bucket));
        }
        Ok(bucket)
    }

    fn count(&mut self, parent: BucketId, value: ValueId, docs: u64) -> Result<BucketId> {
        let known = self.buckets.get(&(parent, value)).copied();
        let bucket = known.map_or_else(|| self.new_bucket(parent, value), Ok)?;
        if let Some(count) = self.counts.get_mut(bucket as usize) {
            *count += docs;
        }
        Ok(bucket)
    }

    fn add_numbers(
        &mut self,
        parent: BucketId,
        storage: Storage,
        raws: &[u64],
        doc: DocId,
    ) -> Result<()> {
        for &raw in raws {
            let value = self.known.number(storage, raw, &self.limits)?;
            self.add(parent, value, doc)?;
        }
        Ok(())
    }

    fn add_missing(&mut self, parent: BucketId, doc: DocId) -> Result<()> {
        let Some(missing) = self.missing.clone() else { return Ok(()) };
        let value = self.known.value(&missing, &self.limits)?;
        self.add(parent, value, doc)
    }

    /// Gives what waits its place, once the texts of its ordinals are read.
    fn settle(&mut self, column: &FieldColumn) -> Result<()> {
        let waiting = std::mem::take(&mut self.waiting);
        let transient = waiting.len() * size_of::<Waiting>() + column.text_count() * ORDINAL_BYTES;
        control::take(column.text_count() * ORDINAL_BYTES)?;
        let mut ticks = Ticks::default();
        let counts: Vec<(u64, u64)> =
            self.value_counts.iter().flat_map(ValueCounts::found).collect();
        let everything = self.options.min_doc_count == 0;
        let mut wanted: Vec<bool> = vec![everything; column.text_count()];
        let counted = counts.iter().map(|(ordinal, _)| *ordinal);
        for ordinal in counted.chain(waiting.iter().map(|waiting| waiting.ordinal)) {
            if let Some(wanted) = wanted.get_mut(place(ordinal)) {
                *wanted = true;
            }
        }
        let values = self.values_of(column, &wanted)?;
        if everything {
            self.known.everything.extend(values.iter().copied());
        }
        for (ordinal, count) in counts {
            if let Some(value) = values.get(place(ordinal)) {
                self.count(0, *value, count)?;
            }
        }
        for waiting in waiting {
            ticks.go_on()?;
            match values.get(place(waiting.ordinal)) {
                Some(value) => self.add(waiting.parent, *value, waiting.doc)?,
                None => self.add_missing(waiting.parent, waiting.doc)?,
            }
        }
        control::give_back(transient);
        Ok(())
    }

    /// Takes over what was counted by value.
    fn settle_counts(&mut self, column: &FieldColumn) -> Result<()> {
        let Some(counts) = self.value_counts.take() else { return Ok(()) };
        if !column.storage().has_dictionary() {
            for (raw, count) in counts.found() {
                let value = self.known.number(column.storage(), raw, &self.limits)?;
                self.count(0, value, count)?;
            }
        }
        match self.missing.clone() {
            Some(missing) if counts.missing() > 0 => {
                let value = self.known.value(&missing, &self.limits)?;
                self.count(0, value, counts.missing()).map(drop)
            }
            _ => Ok(()),
        }
    }

    /// The values of the ordinals that are wanted, by ordinal.
    fn values_of(&mut self, column: &FieldColumn, wanted: &[bool]) -> Result<Vec<ValueId>> {
        let ordinals: Vec<u64> = wanted
            .iter()
            .enumerate()
            .filter(|(_, wanted)| **wanted)
            .map(|(ordinal, _)| ordinal as u64)
            .collect();
        let mut values = vec![ValueId::MAX; wanted.len()];
        let mut next = ordinals.iter();
        let mut result = Ok(());
        column.texts(&ordinals, |text| {
            if result.is_err() {
                return;
            }
            let slot = next.next().and_then(|ordinal| values.get_mut(place(*ordinal)));
            match (self.known.of_column(column.storage(), text, &self.limits), slot) {
                (Ok(value), Some(slot)) => *slot = value,
                (Ok(_), None) => {}
                (Err(error), _) => result = Err(error),
            }
        })?;
        result.map(|()| values)
    }

    fn wanted(&self, value: ValueId) -> bool {
        if self.options.include.is_none() && self.options.exclude.is_none() {
            return true;
        }
        let key = self.key_text(self.known.get(value));
        let listed = |list: &Option<Vec<String>>| list.as_ref().map(|list| list.contains(&key));
        listed(&self.options.include).unwrap_or(true)
            && !listed(&self.options.exclude).unwrap_or(false)
    }

    fn key_text(&self, key: &SortValue) -> String {
        match key {
            SortValue::Null => String::new(),
            SortValue::Bool(value) => value.to_string(),
            SortValue::I64(millis) if self.is_date => self.format.print_millis(*millis),
            SortValue::I64(value) | SortValue::Micros(value) => value.to_string(),
            SortValue::U64(value) => value.to_string(),
            SortValue::F64(value) => format!("{value:?}"),
            SortValue::Text(value) => value.clone(),
            SortValue::Ip(address) => ip::print(*address),
            SortValue::Point(point) => point.to_string(),
        }
    }

    fn candidates(&self, parent: BucketId) -> Vec<Candidate> {
        let found = self.children.get(parent as usize).map(Vec::as_slice).unwrap_or_default();
        let mut candidates: Vec<Candidate> = found
            .iter()
            .filter(|(value, _)| self.wanted(*value))
            .map(|(value, bucket)| Candidate {
                value: *value,
                bucket: *bucket,
                doc_count: self.counts.get(*bucket as usize).copied().unwrap_or(0),
                metrics: Vec::new(),
            })
            .filter(|candidate| candidate.doc_count >= self.options.min_doc_count)
            .collect();
        if self.options.min_doc_count == 0 {
            let found: FxHashSet<ValueId> = found.iter().map(|(value, _)| *value).collect();
            let others = self.known.everything.difference(&found);
            candidates.extend(others.filter(|value| self.wanted(**value)).map(|value| Candidate {
                value: *value,
                bucket: EMPTY,
                doc_count: 0,
                metrics: Vec::new(),
            }));
        }
        let orders = self.options.order.iter().filter_map(|(order, _)| match order {
            BucketOrder::Metric(path) => Some(path),
            BucketOrder::Count | BucketOrder::Key => None,
        });
        for path in orders {
            for candidate in &mut candidates {
                let metric = self.subs.metric(candidate.bucket, path);
                candidate.metrics.push(metric.and_then(|MetricValue(value)| value));
            }
        }
        candidates
    }

    fn compare(&self, left: &Candidate, right: &Candidate) -> Ordering {
        let keys = || compare_values(self.known.get(left.value), self.known.get(right.value));
        let directed =
            |order: Ordering, descending| if descending { order.reverse() } else { order };
        if self.options.order.is_empty() {
            return right.doc_count.cmp(&left.doc_count).then_with(keys);
        }
        let mut metrics = left.metrics.iter().zip(&right.metrics);
        for (order, descending) in &self.options.order {
            let order = match order {
                BucketOrder::Count => directed(left.doc_count.cmp(&right.doc_count), *descending),
                BucketOrder::Key => directed(keys(), *descending),
                BucketOrder::Metric(_) => match metrics.next() {
                    Some((Some(left), Some(right))) => directed(left.total_cmp(right), *descending),
                    // What has no number comes last either way.
                    Some((left, right)) => right.is_some().cmp(&left.is_some()),
                    None => Ordering::Equal,
                },
            };
            if order.is_ne() {
                return order;
            }
        }
        keys()
    }
}

/// Points are no keys of buckets, nor counted.
pub(super) fn can_be_keys(mapping: &FieldMapping) -> bool {
    mapping.kind.storage() != Storage::Point
}

/// Stands for the value of documents that have none, among the ordinals that wait.
const MISSING: u64 = u64::MAX;

fn place(ordinal: u64) -> usize {
    usize::try_from(ordinal).unwrap_or(usize::MAX)
}

impl Aggregator for Terms {
    fn begin(&mut self, snapshot: &Snapshot) -> Result<()> {
        if let Some(mapping) = field_of(snapshot, &self.options.field, "terms", can_be_keys)? {
            self.is_date |= mapping.kind.storage() == Storage::Date;
            self.format = mapping.format.clone();
        }
        self.subs.begin(snapshot)
    }

    fn open(&mut self, segment: &SegmentContext<'_>) -> Result<()> {
        let mapping = field_of(segment.snapshot, &self.options.field, "terms", can_be_keys)?;
        self.column = match mapping {
            Some(mapping) => FieldColumn::open(segment.segment, mapping)?,
            None => None,
        };
        self.missing = missing_value(mapping, self.options.missing.as_ref())?;
        let countable = self.column.as_ref().filter(|_| self.subs.is_empty());
        self.value_counts = countable.and_then(ValueCounts::of);
        if self.options.min_doc_count == 0
            && let Some(column) = &self.column
            && !column.storage().has_dictionary()
        {
            let docs = 0..segment.segment.reader().max_doc();
            let mut ticks = Ticks::default();
            for raw in docs.flat_map(|doc| column.values(doc)) {
                ticks.go_on()?;
                let id = self.known.number(column.storage(), raw, &self.limits)?;
                self.known.everything.insert(id);
            }
        }
        self.subs.open(segment)
    }

    fn collect(&mut self, parent: BucketId, docs: &[DocId]) -> Result<()> {
        let Some(column) = self.column.take() else {
            return docs.iter().try_for_each(|doc| self.add_missing(parent, *doc));
        };
        if let (0, Some(counts)) = (parent, &mut self.value_counts) {
            counts.count(&column, docs);
            self.column = Some(column);
            return Ok(());
        }
        let storage = column.storage();
        let is_text = storage.has_dictionary();
        let mut raws: Vec<u64> = Vec::new();
        for &doc in docs {
            raws.clear();
            raws.extend(column.values(doc));
            if raws.len() > 1 {
                raws.sort_unstable();
                raws.dedup();
            }
            if raws.is_empty() && self.missing.is_some() {
                raws.push(MISSING);
            }
            if is_text {
                let waiting = raws.iter().map(|&ordinal| Waiting { parent, doc, ordinal });
                control::take(raws.len() * size_of::<Waiting>())?;
                self.waiting.extend(waiting);
            } else if raws == [MISSING] && !column.has_value(doc) {
                self.add_missing(parent, doc)?;
            } else {
                self.add_numbers(parent, storage, &raws, doc)?;
            }
        }
        self.column = Some(column);
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        if let Some(column) = self.column.take() {
            if column.storage().has_dictionary() {
                self.settle(&column)?;
            }
            self.settle_counts(&column)?;
        }
        self.subs.close()
    }

    fn result(&self, parent: BucketId, budget: &mut Budget) -> Result<AggregationResult> {
        let mut candidates = self.candidates(parent);
        candidates.sort_by(|left, right| self.compare(left, right));
        let others = candidates.split_off(self.options.size.min(candidates.len()));
        let sum_other_doc_count = others.iter().map(|other| other.doc_count).sum();
        budget.take(candidates.len())?;
        let mut buckets = Vec::with_capacity(candidates.len());
        for candidate in candidates {
            let key = self.known.get(candidate.value).clone();
            let shown = matches!(key, SortValue::Bool(_)) || self.is_date;
            buckets.push(Bucket {
                key_as_string: shown.then(|| self.key_text(&key)),
                key,
                from: None,
                to: None,
                doc_count: candidate.doc_count,
                sub: self.subs.results(candidate.bucket, budget)?,
            });
        }
        Ok(AggregationResult::Terms {
            buckets,
            sum_other_doc_count,
            doc_count_error_upper_bound: 0,
        })
    }
}
