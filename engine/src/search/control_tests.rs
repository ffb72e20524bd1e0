//! A search that is cancelled, late or takes too much memory.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::request::{
    Aggregation, AggregationKind, MetricField, Missing, SearchRequest, Sort, SortBy,
    TermsAggregation, TrackTotalHits,
};
use super::{count, fixture, search};
use crate::control::{Breaker, Control};
use crate::error::ErrorKind;
use crate::query::ast::{Fuzziness, Query, Scalar};
use crate::snapshot::Snapshot;

const DOCUMENTS: usize = 3000;

fn index() -> Arc<Snapshot> {
    let mapping = json!({"properties": {
        "title": {"type": "text"}, "tag": {"type": "keyword"}, "n": {"type": "long"}}});
    let document =
        |n: usize| json!({"title": format!("bird word{n}"), "tag": format!("tag{n}"), "n": n});
    let documents: Vec<Value> = (0..DOCUMENTS).map(document).collect();
    fixture::one_segment(&mapping, &documents)
}

fn control(request_bytes: u64) -> Arc<Control> {
    Breaker::new(1 << 30, request_bytes).control()
}

fn fuzzy() -> Query {
    Query::Fuzzy {
        field: "title".into(),
        value: "word".into(),
        fuzziness: Fuzziness::Edits(2),
        prefix_length: 0,
        max_expansions: 50,
        transpositions: true,
        boost: 1.0,
    }
}

fn wildcard() -> Query {
    let value = "*9".into();
    Query::Wildcard { field: "tag".into(), value, case_insensitive: false, boost: 1.0 }
}

fn aggregated(kind: AggregationKind) -> SearchRequest {
    let aggregations = vec![("a".to_owned(), Aggregation { kind, sub: Vec::new() })];
    SearchRequest { size: 0, aggregations, ..SearchRequest::default() }
}

fn terms(field: &str) -> AggregationKind {
    AggregationKind::Terms(TermsAggregation {
        field: field.into(),
        size: 10,
        min_doc_count: 1,
        order: Vec::new(),
        missing: None,
        include: None,
        exclude: None,
    })
}

fn cardinality(field: &str) -> AggregationKind {
    AggregationKind::Cardinality(MetricField { field: field.into(), missing: None })
}

fn histogram() -> AggregationKind {
    let field = "n".into();
    AggregationKind::Histogram { field, interval: 1.0, offset: 0.0, min_doc_count: 1 }
}

fn by_number() -> Sort {
    Sort {
        by: SortBy::Field("n".into()),
        descending: true,
        missing: Missing::Last,
        mode: None,
        unmapped_type: None,
    }
}

#[test]
fn memory_past_the_limit_fails_the_search_and_is_given_back() {
    let snapshot = [index()];
    let hits = SearchRequest { size: 1000, ..SearchRequest::default() };
    let skipped = SearchRequest { from: 2_900, size: 1, ..SearchRequest::default() };
    let bird = Scalar::Text("bird".into());
    let query =
        Query::Term { field: "title".into(), value: bird, case_insensitive: false, boost: 1.0 };
    let table = [
        ("hits", hits),
        ("skipped hits of a word", SearchRequest { query, ..skipped.clone() }),
        ("skipped hits in order", SearchRequest { sort: vec![by_number()], ..skipped.clone() }),
        ("skipped hits", skipped),
        ("keywords", aggregated(terms("tag"))),
        ("numbers", aggregated(terms("n"))),
        ("buckets", aggregated(histogram())),
        ("different keywords", aggregated(cardinality("tag"))),
        ("different numbers", aggregated(cardinality("n"))),
    ];
    for (name, request) in table {
        let breaker = Breaker::new(1 << 30, 10_000);
        let error = breaker.control().run(|| search(&snapshot, &request)).unwrap_err();
        let ErrorKind::CircuitBreaking { wanted, limit: 10_000, transient: false } = error.kind()
        else {
            panic!("{name}: {error:?}")
        };
        assert!(wanted > 10_000, "{name}: {wanted}");
        assert!(error.message().contains("search.max_request_memory_bytes"), "{name}: {error}");
        assert_eq!((breaker.taken_bytes(), breaker.tripped()), (0, 1), "{name}");
        // Within its limit it finds what it finds without one.
        let found = control(1 << 30).run(|| search(&snapshot, &request)).unwrap();
        assert_eq!(found, search(&snapshot, &request).unwrap(), "{name}");
    }
}

#[test]
fn a_cancelled_search_fails_whatever_it_is_at() {
    let snapshot = [index()];
    let table = [
        SearchRequest::default(),
        SearchRequest { sort: vec![by_number()], ..SearchRequest::default() },
        SearchRequest { query: wildcard(), ..SearchRequest::default() },
        SearchRequest { query: fuzzy(), ..SearchRequest::default() },
        aggregated(terms("tag")),
    ];
    let control = control(1 << 30);
    control.cancel();
    for request in table {
        let error = control.run(|| search(&snapshot, &request)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled, "{request:?}");
        let error = control.run(|| count(&snapshot, &request.query)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled, "{request:?}");
    }
}

#[test]
fn a_search_that_is_late_while_it_looks_for_terms_says_so() {
    let snapshot = [index()];
    for query in [wildcard(), fuzzy()] {
        let timeout = Some(Duration::ZERO);
        let track_total_hits = TrackTotalHits::Exact;
        let late = SearchRequest { query, track_total_hits, timeout, ..SearchRequest::default() };
        let found = search(&snapshot, &late).unwrap();
        assert!(found.timed_out, "{late:?}");
        assert!(found.total.is_some_and(|total| !total.exact), "{late:?}");
        // The time of one search is not that of the next.
        assert!(!search(&snapshot, &SearchRequest { timeout: None, ..late }).unwrap().timed_out);
    }
}
