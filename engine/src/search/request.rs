//! What a search asks for.

use std::net::Ipv6Addr;
use std::time::Duration;

use crate::mapping::geo::Point;
use crate::query::ast::{Query, Scalar};

/// A search. `Default` is Elasticsearch's: all documents, ten hits by score.
#[derive(Debug, Clone, PartialEq)]
pub struct SearchRequest {
    /// Which documents, and their scores.
    pub query: Query,
    /// Narrows the hits but not the aggregations.
    pub post_filter: Option<Query>,
    /// How many of the first hits to leave out.
    pub from: usize,
    /// How many hits to return.
    pub size: usize,
    /// The order; empty: by score.
    pub sort: Vec<Sort>,
    /// Whether hits carry a score even though they are sorted otherwise.
    pub track_scores: bool,
    /// Only hits that come after one with these sort values.
    pub search_after: Option<Vec<SortValue>>,
    /// How exactly to count.
    pub track_total_hits: TrackTotalHits,
    /// Only hits that score at least this.
    pub min_score: Option<f32>,
    /// Which of `_source` to return.
    pub source: SourceFilter,
    /// Fields whose values each hit lists beside its source, read from columns.
    pub docvalue_fields: Vec<String>,
    /// Whether hits carry `_version`.
    pub version: bool,
    /// Whether hits carry `_seq_no` and `_primary_term`.
    pub seq_no_primary_term: bool,
    /// Named aggregations.
    pub aggregations: Vec<(String, Aggregation)>,
    /// Fragments with the matches marked.
    pub highlight: Option<Highlight>,
    /// Stop after this time and return what there is, marked as timed out.
    pub timeout: Option<Duration>,
    /// Stop after this many documents, marked as terminated early.
    pub terminate_after: Option<u64>,
}

impl Default for SearchRequest {
    fn default() -> Self {
        Self {
            query: Query::MatchAll { boost: 1.0 },
            post_filter: None,
            from: 0,
            size: 10,
            sort: Vec::new(),
            track_scores: false,
            search_after: None,
            track_total_hits: TrackTotalHits::UpTo(10_000),
            min_score: None,
            source: SourceFilter::All,
            docvalue_fields: Vec::new(),
            version: false,
            seq_no_primary_term: false,
            aggregations: Vec::new(),
            highlight: None,
            timeout: None,
            terminate_after: None,
        }
    }
}

/// How exactly hits are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrackTotalHits {
    /// Exactly.
    Exact,
    /// Exactly up to this many, beyond that "at least".
    UpTo(u64),
    /// Not at all.
    Off,
}

/// Which of `_source` a hit returns. Names are dotted paths and may contain `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceFilter {
    /// All of it, verbatim.
    All,
    /// None of it.
    None,
    /// Only some.
    Paths {
        /// What to keep; empty: everything.
        includes: Vec<String>,
        /// What to leave out of that.
        excludes: Vec<String>,
    },
}

/// One key of the order.
#[derive(Debug, Clone, PartialEq)]
pub struct Sort {
    /// What to sort by.
    pub by: SortBy,
    /// Whether large comes first.
    pub descending: bool,
    /// Where documents without a value come.
    pub missing: Missing,
    /// Which value counts where a document has several; `None`: the least when ascending, the
    /// greatest when descending.
    pub mode: Option<SortMode>,
    /// The type to assume where an index does not map the field; without it that is an error.
    pub unmapped_type: Option<String>,
}

/// What to sort by.
#[derive(Debug, Clone, PartialEq)]
pub enum SortBy {
    /// `_score`.
    Score,
    /// `_doc`: the order of the index.
    Doc,
    /// `_shard_doc`: the order of the indexes, then that of each. No two hits are equal, and a
    /// search that goes on after one of them does not look at those before it.
    ShardDoc,
    /// A field's value.
    Field(String),
    /// How far a field's point is from the nearest of some.
    Distance(Distance),
}

/// `_geo_distance`.
#[derive(Debug, Clone, PartialEq)]
pub struct Distance {
    /// The field.
    pub field: String,
    /// From where; the nearest counts.
    pub from: Vec<Point>,
    /// The unit that distances are told in, in metres.
    pub unit_metres: f64,
    /// Whether documents of an index without the field have no distance, instead of a refusal.
    pub ignore_unmapped: bool,
}

/// Where documents without a value come.
#[derive(Debug, Clone, PartialEq)]
pub enum Missing {
    /// After all others.
    Last,
    /// Before all others.
    First,
    /// As if they had this value.
    Value(Scalar),
}

/// Which of several values counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SortMode {
    /// The least.
    Min,
    /// The greatest.
    Max,
    /// Their sum.
    Sum,
    /// Their mean.
    Avg,
    /// Their median.
    Median,
}

/// A value that a hit was sorted by. Dates count milliseconds since 1970.
#[derive(Debug, Clone, PartialEq)]
pub enum SortValue {
    /// No value.
    Null,
    /// A boolean, as Elasticsearch sorts it: 0 or 1 in comparisons.
    Bool(bool),
    /// A whole number, or a date of a whole millisecond.
    I64(i64),
    /// Any other date, in microseconds since 1970.
    Micros(i64),
    /// A whole number past `i64`.
    U64(u64),
    /// A number, or a score.
    F64(f64),
    /// A keyword.
    Text(String),
    /// An IP address.
    Ip(Ipv6Addr),
    /// A point on the earth.
    Point(Point),
}

/// `highlight`: fragments of fields with the matches marked.
#[derive(Debug, Clone, PartialEq)]
pub struct Highlight {
    /// Fields with their own options; a name may contain `*`.
    pub fields: Vec<(String, HighlightOptions)>,
}

/// How one field is highlighted.
#[derive(Debug, Clone, PartialEq)]
pub struct HighlightOptions {
    /// What comes before a match.
    pub pre_tag: String,
    /// What comes after a match.
    pub post_tag: String,
    /// About how many characters a fragment has.
    pub fragment_size: usize,
    /// How many fragments at most; 0: the whole field.
    pub number_of_fragments: usize,
    /// How many characters of the beginning to return where nothing matches.
    pub no_match_size: usize,
    /// Whether only a field that the query names is highlighted.
    pub require_field_match: bool,
    /// Whether the text is HTML-escaped before tags are put in.
    pub encode_html: bool,
    /// What to highlight in place of the search's own query.
    pub query: Option<Query>,
}

impl Default for HighlightOptions {
    fn default() -> Self {
        Self {
            pre_tag: "<em>".into(),
            post_tag: "</em>".into(),
            fragment_size: 100,
            number_of_fragments: 5,
            no_match_size: 0,
            require_field_match: true,
            encode_html: false,
            query: None,
        }
    }
}

/// One aggregation and those inside it.
#[derive(Debug, Clone, PartialEq)]
pub struct Aggregation {
    /// What it computes.
    pub kind: AggregationKind,
    /// Aggregations within each of its buckets.
    pub sub: Vec<(String, Aggregation)>,
}

/// What an aggregation computes.
#[derive(Debug, Clone, PartialEq)]
pub enum AggregationKind {
    /// A bucket for each value of a field.
    Terms(TermsAggregation),
    /// Count, least, greatest, mean and sum.
    Stats(MetricField),
    /// The least.
    Min(MetricField),
    /// The greatest.
    Max(MetricField),
    /// The sum.
    Sum(MetricField),
    /// The mean.
    Avg(MetricField),
    /// How many values.
    ValueCount(MetricField),
    /// How many different values (approximate past a few thousand).
    Cardinality(MetricField),
    /// A bucket for each interval of a number.
    Histogram {
        /// The field.
        field: String,
        /// The width.
        interval: f64,
        /// Where the first begins, modulo the width.
        offset: f64,
        /// Leaves out buckets with fewer documents.
        min_doc_count: u64,
    },
    /// A bucket for each interval of a date.
    DateHistogram {
        /// The field.
        field: String,
        /// The width.
        interval: DateInterval,
        /// Leaves out buckets with fewer documents.
        min_doc_count: u64,
    },
    /// A bucket for each of the given ranges, `from` included and `to` not.
    Range {
        /// The field.
        field: String,
        /// The ranges: key, from, to.
        ranges: Vec<(Option<String>, Option<f64>, Option<f64>)>,
        /// Whether the buckets come as an object by key.
        keyed: bool,
    },
    /// One bucket: the documents that match.
    Filter(Query),
    /// A bucket for each named query.
    Filters(Vec<(String, Query)>),
    /// One bucket: the documents without a value.
    Missing {
        /// The field.
        field: String,
    },
}

/// The width of a date bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DateInterval {
    /// So many milliseconds.
    Fixed(i64),
    /// Weeks from Monday, UTC.
    Week,
    /// Calendar months, UTC.
    Month,
    /// Calendar quarters, UTC.
    Quarter,
    /// Calendar years, UTC.
    Year,
}

/// A metric's field, and the value of documents that have none.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricField {
    /// The field.
    pub field: String,
    /// What documents without a value count as.
    pub missing: Option<Scalar>,
}

/// `terms`.
#[derive(Debug, Clone, PartialEq)]
pub struct TermsAggregation {
    /// The field.
    pub field: String,
    /// How many buckets to return.
    pub size: usize,
    /// Leaves out buckets with fewer documents.
    pub min_doc_count: u64,
    /// The order of the buckets, ties by key.
    pub order: Vec<(BucketOrder, /* descending */ bool)>,
    /// The value of documents that have none; without it they are left out.
    pub missing: Option<Scalar>,
    /// Only these values.
    pub include: Option<Vec<String>>,
    /// Not these values.
    pub exclude: Option<Vec<String>>,
}

/// What buckets are ordered by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BucketOrder {
    /// The number of documents.
    Count,
    /// The key.
    Key,
    /// A metric within the bucket: `name`, or `name.avg` of a stats aggregation.
    Metric(String),
}
