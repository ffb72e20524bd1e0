//! What a search found, as Elasticsearch's JSON. Documents are written verbatim.

use std::fmt::Display;
use std::io::Write;

use egret_engine::mapping::date::DateFormat;
use egret_engine::mapping::ip;
use egret_engine::search::request::{Aggregation, AggregationKind, SearchRequest, SortValue};
use egret_engine::search::response::{AggregationResult, Bucket, Hit, SearchResponse};
use serde::Serialize;

/// How an answer is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Aggregations are named with their type: `sterms#name`.
    pub(crate) typed_keys: bool,
    /// `hits.total` is a plain number.
    pub(crate) total_as_int: bool,
}

/// How an answer begins that is partial.
pub(crate) const TIMED_OUT: &[u8] = b"\"timed_out\":true";

/// Writes an answer without its `took`: `"timed_out":…` up to the closing brace.
pub(crate) fn write(
    request: &SearchRequest,
    response: &SearchResponse,
    index_count: usize,
    shape: Shape,
) -> Vec<u8> {
    let mut out = Out(Vec::with_capacity(1_024 + 512 * response.hits.len()));
    out.raw("\"timed_out\":");
    out.raw(response.timed_out);
    if request.terminate_after.is_some() {
        out.raw(",\"terminated_early\":");
        out.raw(response.terminated_early);
    }
    let shards = format_args!(
        ",\"_shards\":{{\"total\":{index_count},\"successful\":{index_count},\"skipped\":0,\
         \"failed\":0}}"
    )
    .to_string();
    out.raw(shards);
    out.raw(",\"hits\":{");
    if let Some(total) = response.total {
        if shape.total_as_int {
            out.raw(format_args!("\"total\":{},", total.value));
        } else {
            let relation = if total.exact { "eq" } else { "gte" };
            let value = total.value;
            out.raw(format_args!("\"total\":{{\"value\":{value},\"relation\":\"{relation}\"}},"));
        }
    } else if shape.total_as_int {
        out.raw("\"total\":-1,");
    }
    out.raw("\"max_score\":");
    out.json(&response.max_score);
    out.raw(",\"hits\":[");
    out.list(&response.hits, Out::hit);
    out.raw("]}");
    if !request.aggregations.is_empty() {
        out.raw(",\"aggregations\":{");
        out.aggregations(&request.aggregations, &response.aggregations, shape);
        out.raw("}");
    }
    out.raw("}");
    out.0
}

/// JSON that is being written.
struct Out(Vec<u8>);

impl Out {
    fn raw(&mut self, text: impl Display) {
        // Writing to memory cannot fail.
        let _ = write!(self.0, "{text}");
    }

    fn json(&mut self, value: &(impl Serialize + ?Sized)) {
        if serde_json::to_writer(&mut self.0, value).is_err() {
            self.raw("null");
        }
    }

    fn key(&mut self, key: &str) {
        self.json(key);
        self.raw(":");
    }

    fn list<T>(&mut self, items: &[T], mut write: impl FnMut(&mut Self, &T)) {
        for (at, item) in items.iter().enumerate() {
            if at > 0 {
                self.raw(",");
            }
            write(self, item);
        }
    }

    fn hit(&mut self, hit: &Hit) {
        self.raw("{\"_index\":");
        self.json(&hit.index);
        self.raw(",\"_id\":");
        self.json(&hit.id);
        if let Some(version) = hit.version {
            self.raw(format_args!(",\"_version\":{version}"));
        }
        if let Some((seq_no, term)) = hit.seq_no {
            self.raw(format_args!(",\"_seq_no\":{},\"_primary_term\":{term}", seq_no.0));
        }
        self.raw(",\"_score\":");
        self.json(&hit.score);
        if let Some(source) = &hit.source {
            self.raw(",\"_source\":");
            self.0.extend_from_slice(source);
        }
        if !hit.fields.is_empty() {
            self.raw(",\"fields\":{");
            self.list(&hit.fields, |out, (name, values)| {
                out.key(name);
                out.raw("[");
                out.list(values, Self::sort_value);
                out.raw("]");
            });
            self.raw("}");
        }
        if !hit.highlight.is_empty() {
            self.raw(",\"highlight\":{");
            self.list(&hit.highlight, |out, (name, fragments)| {
                out.key(name);
                out.json(fragments);
            });
            self.raw("}");
        }
        if !hit.sort.is_empty() {
            self.raw(",\"sort\":[");
            self.list(&hit.sort, Self::sort_value);
            self.raw("]");
        }
        self.raw("}");
    }

    fn sort_value(&mut self, value: &SortValue) {
        match value {
            SortValue::Null => self.raw("null"),
            SortValue::Bool(value) => self.json(value),
            SortValue::I64(value) => self.json(value),
            SortValue::Micros(value) => self.raw(millis(*value)),
            SortValue::U64(value) => self.json(value),
            // As Java writes what JSON has no number for.
            SortValue::F64(value) if value.is_infinite() => self.json("Infinity"),
            SortValue::F64(value) => self.json(value),
            SortValue::Text(value) => self.json(value),
            SortValue::Ip(address) => self.json(&ip::print(*address)),
            SortValue::Point(point) => self.json(&point.to_string()),
        }
    }

    fn aggregations(
        &mut self,
        requests: &[(String, Aggregation)],
        results: &[(String, AggregationResult)],
        shape: Shape,
    ) {
        self.list(results, |out, (name, result)| {
            let request = requests.iter().find(|(requested, _)| requested == name);
            let Some((_, request)) = request else {
                return out.raw("");
            };
            if shape.typed_keys {
                out.key(&format!("{}#{name}", type_name(request, result)));
            } else {
                out.key(name);
            }
            out.aggregation(request, result, shape);
        });
    }

    fn aggregation(&mut self, request: &Aggregation, result: &AggregationResult, shape: Shape) {
        self.raw("{");
        match result {
            AggregationResult::Value { value, is_date } => {
                self.raw("\"value\":");
                let counts = matches!(
                    request.kind,
                    AggregationKind::ValueCount(_) | AggregationKind::Cardinality(_)
                );
                match value {
                    Some(value) if counts => self.raw(format_args!("{value:.0}")),
                    other => self.json(other),
                }
                if let (Some(value), true) = (value, *is_date) {
                    self.raw(",\"value_as_string\":");
                    self.json(&date(*value));
                }
            }
            AggregationResult::Stats { count, min, max, avg, sum } => {
                self.raw(format_args!("\"count\":{count}"));
                for (name, value) in [("min", min), ("max", max), ("avg", avg)] {
                    self.raw(format_args!(",\"{name}\":"));
                    self.json(value);
                }
                self.raw(",\"sum\":");
                self.json(sum);
            }
            AggregationResult::Terms {
                buckets,
                sum_other_doc_count,
                doc_count_error_upper_bound,
            } => {
                self.raw(format_args!(
                    "\"doc_count_error_upper_bound\":{doc_count_error_upper_bound},\
                     \"sum_other_doc_count\":{sum_other_doc_count},\"buckets\":["
                ));
                self.list(buckets, |out, bucket| out.bucket(request, bucket, Key::Shown, shape));
                self.raw("]");
            }
            AggregationResult::Buckets { buckets, keyed: false } => {
                self.raw("\"buckets\":[");
                self.list(buckets, |out, bucket| out.bucket(request, bucket, Key::Shown, shape));
                self.raw("]");
            }
            AggregationResult::Buckets { buckets, keyed: true } => {
                self.raw("\"buckets\":{");
                self.list(buckets, |out, bucket| {
                    out.key(&key_text(bucket));
                    out.bucket(request, bucket, Key::Hidden, shape);
                });
                self.raw("}");
            }
            AggregationResult::Single(bucket) => self.bucket_body(request, bucket, shape),
        }
        self.raw("}");
    }

    fn bucket(&mut self, request: &Aggregation, bucket: &Bucket, key: Key, shape: Shape) {
        self.raw("{");
        let is_range = matches!(request.kind, AggregationKind::Range { .. });
        if key == Key::Shown {
            if let Some(text) = bucket.key_as_string.as_ref().filter(|_| leads_with_text(request)) {
                self.raw("\"key_as_string\":");
                self.json(text);
                self.raw(",");
            }
            self.raw("\"key\":");
            match &bucket.key {
                SortValue::Null if is_range => self.json(&key_text(bucket)),
                SortValue::Bool(value) => self.raw(u8::from(*value)),
                other => self.sort_value(other),
            }
            self.raw(",");
            if let Some(text) = bucket.key_as_string.as_ref().filter(|_| !leads_with_text(request))
            {
                self.raw("\"key_as_string\":");
                self.json(text);
                self.raw(",");
            }
        }
        for (name, end) in [("from", bucket.from), ("to", bucket.to)] {
            if let Some(end) = end {
                self.raw(format_args!("\"{name}\":"));
                self.json(&end);
                self.raw(",");
            }
        }
        self.bucket_body(request, bucket, shape);
        self.raw("}");
    }

    fn bucket_body(&mut self, request: &Aggregation, bucket: &Bucket, shape: Shape) {
        self.raw(format_args!("\"doc_count\":{}", bucket.doc_count));
        if !bucket.sub.is_empty() {
            self.raw(",");
            self.aggregations(&request.sub, &bucket.sub, shape);
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Key {
    Shown,
    Hidden,
}

/// Histograms of dates put the text before the number, `terms` after it.
fn leads_with_text(request: &Aggregation) -> bool {
    matches!(request.kind, AggregationKind::DateHistogram { .. })
}

/// A bucket's key as text; a range without a key is named by its ends.
fn key_text(bucket: &Bucket) -> String {
    let end = |end: Option<f64>| end.map_or_else(|| "*".to_owned(), |end| format!("{end:?}"));
    match &bucket.key {
        _ if bucket.key_as_string.is_some() => bucket.key_as_string.clone().unwrap_or_default(),
        SortValue::Text(text) => text.clone(),
        SortValue::Ip(address) => ip::print(*address),
        SortValue::Point(point) => point.to_string(),
        SortValue::I64(value) => value.to_string(),
        SortValue::Micros(value) => millis(*value),
        SortValue::U64(value) => value.to_string(),
        SortValue::F64(value) => format!("{value:?}"),
        SortValue::Bool(value) => value.to_string(),
        SortValue::Null => format!("{}-{}", end(bucket.from), end(bucket.to)),
    }
}

/// A date in milliseconds as Elasticsearch shows it.
fn date(milliseconds: f64) -> String {
    #[expect(clippy::cast_possible_truncation, reason = "the engine's dates are whole i64")]
    DateFormat::default().print_millis(milliseconds as i64)
}

/// Microseconds as milliseconds, in digits that are read back exactly: as a JSON number while a
/// double can tell them apart, else as a text.
fn millis(micros: i64) -> String {
    const EXACT_IN_DOUBLES: u64 = 1 << 53;
    let sign = if micros < 0 { "-" } else { "" };
    let (whole, part) = (micros.unsigned_abs() / 1000, micros.unsigned_abs() % 1000);
    let quote = if micros.unsigned_abs() < EXACT_IN_DOUBLES { "" } else { "\"" };
    format!("{quote}{sign}{whole}.{part:03}{quote}")
}

/// The type that `typed_keys` puts before a name.
fn type_name(request: &Aggregation, result: &AggregationResult) -> &'static str {
    match (&request.kind, result) {
        (AggregationKind::Terms(_), AggregationResult::Terms { buckets, .. }) => {
            match buckets.first().map(|bucket| &bucket.key) {
                Some(SortValue::I64(_) | SortValue::U64(_) | SortValue::Bool(_)) => "lterms",
                Some(SortValue::F64(_)) => "dterms",
                _ => "sterms",
            }
        }
        (AggregationKind::Terms(_), _) => "sterms",
        (AggregationKind::Stats(_), _) => "stats",
        (AggregationKind::Min(_), _) => "min",
        (AggregationKind::Max(_), _) => "max",
        (AggregationKind::Sum(_), _) => "sum",
        (AggregationKind::Avg(_), _) => "avg",
        (AggregationKind::ValueCount(_), _) => "value_count",
        (AggregationKind::Cardinality(_), _) => "cardinality",
        (AggregationKind::Histogram { .. }, _) => "histogram",
        (AggregationKind::DateHistogram { .. }, _) => "date_histogram",
        (AggregationKind::Range { .. }, _) => "range",
        (AggregationKind::Filter(_), _) => "filter",
        (AggregationKind::Filters(_), _) => "filters",
        (AggregationKind::Missing { .. }, _) => "missing",
    }
}

#[cfg(test)]
#[path = "response_tests.rs"]
mod tests;
