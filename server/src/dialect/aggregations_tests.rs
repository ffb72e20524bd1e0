//! Tests of reading aggregations.

use egret_engine::query::ast::Query;
use serde_json::json;

use super::*;
use crate::dialect::query::{FieldKind, Fields};

struct NoFields;

impl Fields for NoFields {
    fn matching(&self, _: &str) -> Vec<(String, FieldKind)> {
        Vec::new()
    }
}

fn read_one(json: &Value) -> Result<Aggregation> {
    let all = json!({ "a": json });
    read(&mut QueryReader::new(&NoFields), &all).map(|mut read| read.remove(0).1)
}

fn plain(kind: AggregationKind) -> Aggregation {
    Aggregation { kind, sub: Vec::new() }
}

fn metric_field(field: &str) -> MetricField {
    MetricField { field: field.into(), missing: None }
}

#[test]
fn aggregations_are_read() {
    let check = |json: Value, expected: Aggregation| {
        assert_eq!(read_one(&json).unwrap(), expected, "{json}");
    };
    let terms = TermsAggregation {
        field: "f".into(),
        size: 10,
        min_doc_count: 1,
        order: vec![(BucketOrder::Count, true)],
        missing: None,
        include: None,
        exclude: None,
    };
    check(json!({"terms": {"field": "f"}}), plain(AggregationKind::Terms(terms.clone())));
    check(
        json!({"terms": {"field": "f", "size": 3, "order": [{"x.avg": "asc"}, {"_key": "desc"}],
            "include": ["a"], "shard_size": 7}, "aggs": {"x": {"stats": {"field": "n"}}}}),
        Aggregation {
            kind: AggregationKind::Terms(TermsAggregation {
                size: 3,
                order: vec![(BucketOrder::Metric("x.avg".into()), false), (BucketOrder::Key, true)],
                include: Some(vec!["a".into()]),
                ..terms
            }),
            sub: vec![("x".into(), plain(AggregationKind::Stats(metric_field("n"))))],
        },
    );
    check(
        json!({"date_histogram": {"field": "d", "calendar_interval": "month"}}),
        plain(AggregationKind::DateHistogram {
            field: "d".into(),
            interval: DateInterval::Month,
            min_doc_count: 0,
        }),
    );
    check(
        json!({"range": {"field": "n", "ranges": [{"to": 5}, {"key": "x", "from": "5"}]}}),
        plain(AggregationKind::Range {
            field: "n".into(),
            ranges: vec![(None, None, Some(5.0)), (Some("x".into()), Some(5.0), None)],
            keyed: false,
        }),
    );
    check(
        json!({"filters": {"filters": {"all": {"match_all": {}}}}}),
        plain(AggregationKind::Filters(vec![("all".into(), Query::MatchAll { boost: 1.0 })])),
    );
    check(
        json!({"value_count": {"field": "f"}}),
        plain(AggregationKind::ValueCount(metric_field("f"))),
    );
}

#[test]
fn wrong_aggregations_are_refused_by_name() {
    let check = |json: Value, reason: &str| {
        assert_eq!(read_one(&json).unwrap_err().reason(), reason, "{json}");
    };
    check(json!({"term": {}}), "Unknown aggregation type [term] did you mean [terms]?");
    check(
        json!({"avg": {"field": "x"}, "sum": {"field": "x"}}),
        "Found two aggregation type definitions in [a]: [avg] and [sum]",
    );
    check(json!({}), "Missing definition for aggregation [a]");
    check(
        json!({"terms": {"field": "f", "size": 0}}),
        "[size] must be greater than 0. Found [0] in [a]",
    );
    check(json!({"avg": {"field": "f", "script": "x"}}), "[avg] unknown field [script]");
    check(
        json!({"avg": {"field": "f"}, "aggs": {"b": {"avg": {"field": "f"}}}}),
        "Aggregator [a] of type [avg] cannot accept sub-aggregations",
    );
    check(
        json!({"terms": {"field": "f", "order": {"_count": "up"}}}),
        "Unknown order direction [\"up\"]",
    );
    check(
        json!({"terms": {"field": "f", "include": "a.*"}}),
        "[terms] [include] takes an array of exact values, found [VALUE_STRING]",
    );
    check(
        json!({"histogram": {"field": "f", "interval": 0}}),
        "[interval] must be >0 for histogram aggregation",
    );
    let named = json!({"x[0]": {"avg": {"field": "f"}}});
    let error = read(&mut QueryReader::new(&NoFields), &named).unwrap_err();
    assert!(error.reason().starts_with("Invalid aggregation name [x[0]]"));
}
