//! What a search found.

use bytes::Bytes;

use super::request::SortValue;
use crate::position::SeqNo;

/// What a search found.
#[derive(Debug, Clone, PartialEq)]
pub struct SearchResponse {
    /// How many documents match; `None` where it was not counted.
    pub total: Option<Total>,
    /// The best score; `None` where nothing was scored.
    pub max_score: Option<f32>,
    /// The hits asked for.
    pub hits: Vec<Hit>,
    /// The aggregations, in the request's order.
    pub aggregations: Vec<(String, AggregationResult)>,
    /// Whether the timeout struck: the answer is partial.
    pub timed_out: bool,
    /// Whether `terminate_after` struck: the answer is partial.
    pub terminated_early: bool,
}

/// A count of hits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Total {
    /// So many.
    pub value: u64,
    /// Whether there are exactly so many, rather than at least.
    pub exact: bool,
}

/// One hit.
#[derive(Debug, Clone, PartialEq)]
pub struct Hit {
    /// The index that it is in.
    pub index: String,
    /// The document's id.
    pub id: String,
    /// Its score, where one was computed.
    pub score: Option<f32>,
    /// The document, filtered as asked; `None` where none of it was asked for.
    pub source: Option<Bytes>,
    /// What it was sorted by, where a sort was given.
    pub sort: Vec<SortValue>,
    /// Values from columns, by field.
    pub fields: Vec<(String, Vec<SortValue>)>,
    /// Highlighted fragments, by field.
    pub highlight: Vec<(String, Vec<String>)>,
    /// Its version, where asked for.
    pub version: Option<u64>,
    /// Its last change and that change's term, where asked for.
    pub seq_no: Option<(SeqNo, u64)>,
}

/// The result of one aggregation.
#[derive(Debug, Clone, PartialEq)]
pub enum AggregationResult {
    /// One number; `None` over no values.
    Value {
        /// The number.
        value: Option<f64>,
        /// Whether it is a date in milliseconds, to be shown as one too.
        is_date: bool,
    },
    /// Stats.
    Stats {
        /// How many values.
        count: u64,
        /// The least.
        min: Option<f64>,
        /// The greatest.
        max: Option<f64>,
        /// The mean.
        avg: Option<f64>,
        /// The sum.
        sum: f64,
    },
    /// Terms.
    Terms {
        /// The buckets.
        buckets: Vec<Bucket>,
        /// How many documents fall into buckets that were left out.
        sum_other_doc_count: u64,
        /// How far a bucket's count may be off.
        doc_count_error_upper_bound: u64,
    },
    /// Histograms and ranges.
    Buckets {
        /// The buckets.
        buckets: Vec<Bucket>,
        /// Whether they come as an object by key.
        keyed: bool,
    },
    /// One bucket: filter and missing.
    Single(Bucket),
}

/// One bucket.
#[derive(Debug, Clone, PartialEq)]
pub struct Bucket {
    /// Its key; `Null` for a single bucket.
    pub key: SortValue,
    /// The key as text, for dates and booleans.
    pub key_as_string: Option<String>,
    /// A range's lower end.
    pub from: Option<f64>,
    /// A range's upper end.
    pub to: Option<f64>,
    /// How many documents.
    pub doc_count: u64,
    /// Aggregations within it.
    pub sub: Vec<(String, AggregationResult)>,
}
