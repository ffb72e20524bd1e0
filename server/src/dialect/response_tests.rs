//! Tests of writing answers.

use bytes::Bytes;
use egret_engine::position::SeqNo;
use egret_engine::search::request::{MetricField, TermsAggregation};
use egret_engine::search::response::Total;
use serde_json::{Value, json};

use super::*;

fn empty() -> SearchResponse {
    SearchResponse {
        total: Some(Total { value: 0, exact: true }),
        max_score: None,
        hits: Vec::new(),
        aggregations: Vec::new(),
        timed_out: false,
        terminated_early: false,
    }
}

fn written(request: &SearchRequest, response: &SearchResponse, shape: Shape) -> Value {
    let rest = write(request, response, 1, shape);
    serde_json::from_slice(&[b"{".as_slice(), &rest].concat()).unwrap()
}

#[test]
fn hits_are_written_with_their_source_verbatim() {
    let hit = Hit {
        index: "i".into(),
        id: "1\"".into(),
        score: Some(1.0),
        source: Some(Bytes::from_static(b"{ \"a\" :  1.50 }")),
        sort: vec![SortValue::I64(5), SortValue::Null, SortValue::Text("x".into())],
        fields: vec![("f".into(), vec![SortValue::F64(1.5)])],
        highlight: vec![("a".into(), vec!["<em>b</em>".into()])],
        version: Some(3),
        seq_no: Some((SeqNo(7), 2)),
    };
    let response = SearchResponse {
        total: Some(Total { value: 10_000, exact: false }),
        max_score: Some(1.0),
        hits: vec![hit],
        ..empty()
    };
    let request = SearchRequest::default();
    let rest = write(&request, &response, 2, Shape::default());
    let text = String::from_utf8(rest).unwrap();
    assert!(text.contains(r#""_source":{ "a" :  1.50 }"#), "{text}");
    let expected = json!({
        "timed_out": false,
        "_shards": {"total": 1, "successful": 1, "skipped": 0, "failed": 0},
        "hits": {"total": {"value": 10_000, "relation": "gte"}, "max_score": 1.0, "hits": [{
            "_index": "i", "_id": "1\"", "_version": 3, "_seq_no": 7, "_primary_term": 2,
            "_score": 1.0, "_source": {"a": 1.5}, "fields": {"f": [1.5]},
            "highlight": {"a": ["<em>b</em>"]}, "sort": [5, null, "x"],
        }]},
    });
    assert_eq!(written(&request, &response, Shape::default()), expected);
}

#[test]
fn totals_have_their_shapes() {
    let check = |total: Option<Total>, total_as_int: bool, expected: Value| {
        let shape = Shape { total_as_int, ..Shape::default() };
        let response = SearchResponse { total, ..empty() };
        assert_eq!(written(&SearchRequest::default(), &response, shape)["hits"]["total"], expected);
    };
    check(Some(Total { value: 3, exact: true }), true, json!(3));
    check(None, true, json!(-1));
    check(None, false, Value::Null);
}

fn bucket(key: SortValue, text: Option<&str>, doc_count: u64) -> Bucket {
    Bucket {
        key,
        key_as_string: text.map(str::to_owned),
        from: None,
        to: None,
        doc_count,
        sub: Vec::new(),
    }
}

/// How an aggregation's result is written, with its type in its name.
fn check_aggregation(
    kind: AggregationKind,
    result: AggregationResult,
    name: &str,
    expected: &Value,
) {
    let request = SearchRequest {
        aggregations: vec![("a".into(), Aggregation { kind, sub: Vec::new() })],
        ..SearchRequest::default()
    };
    let response = SearchResponse { aggregations: vec![("a".into(), result)], ..empty() };
    let shape = Shape { typed_keys: true, ..Shape::default() };
    let found = written(&request, &response, shape);
    assert_eq!(found["aggregations"], json!({ name: expected }));
}

#[test]
fn single_values_have_their_shapes() {
    let field = |field: &str| MetricField { field: field.into(), missing: None };
    let check = |kind, value, is_date, name: &str, expected: Value| {
        check_aggregation(kind, AggregationResult::Value { value, is_date }, name, &expected);
    };
    let count = AggregationKind::ValueCount(field("f"));
    check(count, Some(5.0), false, "value_count#a", json!({"value": 5}));
    check(
        AggregationKind::Max(field("d")),
        Some(86_400_000.0),
        true,
        "max#a",
        json!({"value": 86_400_000.0, "value_as_string": "1970-01-02T00:00:00.000Z"}),
    );
    check(
        AggregationKind::Max(field("d")),
        Some(253_402_300_800_000.0),
        true,
        "max#a",
        json!({
            "value": 253_402_300_800_000.0,
            "value_as_string": "+10000-01-01T00:00:00.000Z",
        }),
    );
    check(
        AggregationKind::Min(field("d")),
        Some(-1e300),
        true,
        "min#a",
        json!({"value": -1e300, "value_as_string": "-292275055-05-16T16:47:04.192Z"}),
    );
}

#[test]
fn buckets_have_their_shapes() {
    let check = |kind, result, name: &str, expected: Value| {
        check_aggregation(kind, result, name, &expected);
    };
    let terms = || {
        AggregationKind::Terms(TermsAggregation {
            field: "f".into(),
            size: 10,
            min_doc_count: 1,
            order: Vec::new(),
            missing: None,
            include: None,
            exclude: None,
        })
    };
    let terms_result = |buckets| AggregationResult::Terms {
        buckets,
        sum_other_doc_count: 4,
        doc_count_error_upper_bound: 0,
    };
    check(
        terms(),
        terms_result(vec![bucket(SortValue::Bool(true), Some("true"), 2)]),
        "lterms#a",
        json!({"doc_count_error_upper_bound": 0, "sum_other_doc_count": 4,
            "buckets": [{"key": 1, "key_as_string": "true", "doc_count": 2}]}),
    );
    let range = |keyed| AggregationKind::Range { field: "n".into(), ranges: Vec::new(), keyed };
    let open = Bucket { to: Some(5.0), ..bucket(SortValue::Null, None, 1) };
    check(
        range(false),
        AggregationResult::Buckets { buckets: vec![open.clone()], keyed: false },
        "range#a",
        json!({"buckets": [{"key": "*-5.0", "to": 5.0, "doc_count": 1}]}),
    );
    check(
        range(true),
        AggregationResult::Buckets { buckets: vec![open], keyed: true },
        "range#a",
        json!({"buckets": {"*-5.0": {"to": 5.0, "doc_count": 1}}}),
    );
}

/// Search after a sort value begins where it ends, so no digit may be lost.
#[test]
fn microseconds_are_kept_in_sort_values() {
    let check = |micros: i64, expected: &str| assert_eq!(millis(micros), expected);
    check(1_709_208_000_123_456, "1709208000123.456");
    check(-1, "-0.001");
    check(-1_001_000, "-1001.000");
    check(253_402_300_799_999_999, "\"253402300799999.999\"");
    check(i64::MIN, "\"-9223372036854775.808\"");
}
