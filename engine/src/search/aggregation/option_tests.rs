//! Options and limits of aggregations, by tables.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::json;

use crate::error::ErrorKind;
use crate::query::ast::{Query, Scalar};
use crate::search::request::{
    Aggregation, AggregationKind, BucketOrder, MetricField, SearchRequest, TermsAggregation,
};
use crate::search::response::{AggregationResult, Bucket};
use crate::search::{SearchLimits, fixture, search_within};

fn metric_field(field: &str) -> MetricField {
    MetricField { field: field.into(), missing: None }
}

fn terms_of(field: &str, change: impl FnOnce(&mut TermsAggregation)) -> Aggregation {
    let mut options = TermsAggregation {
        field: field.into(),
        size: 10,
        min_doc_count: 1,
        order: Vec::new(),
        missing: None,
        include: None,
        exclude: None,
    };
    change(&mut options);
    Aggregation { kind: AggregationKind::Terms(options), sub: Vec::new() }
}

fn run(aggregation: Aggregation, limits: &SearchLimits) -> crate::Result<AggregationResult> {
    let mapping = json!({"properties": {
        "tag": {"type": "keyword"}, "n": {"type": "long"}, "title": {"type": "text"}}});
    let documents = [
        json!({"tag": ["a", "b"], "n": 1, "title": "x"}),
        json!({"tag": "a", "n": 2}),
        json!({"tag": "c", "n": 1_000_000}),
        json!({"n": 3}),
    ];
    let snapshot = fixture::one_segment(&mapping, &documents);
    let query = Query::Ids { values: vec!["1".into(), "2".into(), "4".into()], boost: 1.0 };
    let aggregations = vec![("t".to_owned(), aggregation)];
    let request = SearchRequest { query, size: 0, aggregations, ..SearchRequest::default() };
    let snapshots = [Arc::clone(&snapshot)];
    Ok(search_within(&snapshots, &request, limits)?.aggregations.pop().unwrap().1)
}

fn counts(result: AggregationResult) -> BTreeMap<String, u64> {
    let (AggregationResult::Terms { buckets, .. } | AggregationResult::Buckets { buckets, .. }) =
        result
    else {
        unreachable!()
    };
    let count = |bucket: Bucket| (format!("{:?}", bucket.key), bucket.doc_count);
    buckets.into_iter().map(count).collect()
}

#[test]
fn options_of_terms() {
    let check = |aggregation: Aggregation, expected: &[(&str, u64)]| {
        let counts = counts(run(aggregation, &SearchLimits::default()).unwrap());
        let expected: BTreeMap<String, u64> =
            expected.iter().map(|(key, count)| (format!("Text({key:?})"), *count)).collect();
        assert_eq!(counts, expected);
    };
    check(terms_of("tag", |_| ()), &[("a", 2), ("b", 1)]);
    check(terms_of("tag", |options| options.min_doc_count = 0), &[("a", 2), ("b", 1), ("c", 0)]);
    check(terms_of("tag", |options| options.include = Some(vec!["b".into()])), &[("b", 1)]);
    check(terms_of("tag", |options| options.exclude = Some(vec!["b".into()])), &[("a", 2)]);
    check(
        terms_of("tag", |options| options.missing = Some(Scalar::Text("none".into()))),
        &[("a", 2), ("b", 1), ("none", 1)],
    );
    check(terms_of("nowhere", |_| ()), &[]);
}

#[test]
fn what_cannot_be_aggregated_is_refused() {
    let check = |aggregation: Aggregation, kind: ErrorKind, part: &str| {
        let limits = SearchLimits { max_buckets: 1000, ..SearchLimits::default() };
        let error = run(aggregation, &limits).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.message().contains(part), "{error}");
    };
    let alone = |kind| Aggregation { kind, sub: Vec::new() };
    let wide = AggregationKind::Histogram {
        field: "n".into(),
        interval: 0.001,
        offset: 0.0,
        min_doc_count: 0,
    };
    check(alone(wide), ErrorKind::Full, "[search.max_buckets]");
    check(
        terms_of("title", |_| ()),
        ErrorKind::InvalidArgument,
        "Fielddata is disabled on [title]",
    );
    check(
        alone(AggregationKind::Avg(metric_field("tag"))),
        ErrorKind::InvalidArgument,
        "Field [tag] of type [keyword] is not supported for aggregation [avg]",
    );
    let order = BucketOrder::Metric("nothing".into());
    check(
        terms_of("tag", |options| options.order = vec![(order, true)]),
        ErrorKind::InvalidArgument,
        "Invalid aggregation order path [nothing]",
    );
    let mut nested = alone(AggregationKind::Missing { field: "tag".into() });
    for _ in 0..20 {
        let kind = AggregationKind::Missing { field: "tag".into() };
        nested = Aggregation { kind, sub: vec![("deeper".into(), nested)] };
    }
    check(nested, ErrorKind::InvalidArgument, "[search.max_aggregation_depth]");
}
