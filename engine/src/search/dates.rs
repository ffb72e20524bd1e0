//! Dates: as far as they reach, and exact to the microsecond.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::fixture;
use super::request::{
    Aggregation, AggregationKind, DateInterval, MetricField, Missing, SearchRequest, Sort, SortBy,
    SortValue, TermsAggregation,
};
use super::response::AggregationResult;
use super::search;
use crate::document::Draft;
use crate::mapping::Mapping;
use crate::mapping::date::{DateFormat, MICROS};
use crate::query::ast::{Query, Range, Relation, Scalar};
use crate::snapshot::Snapshot;

/// By date, the ids 1 to 8.
const FAR: [&str; 8] = [
    "-290308-12-21T19:59:05.225",
    "-4712-01-01",
    "-0043-03-15",
    "0001-01-01",
    "2024-02-29T12:00:00.123456",
    "2024-02-29T12:00:00.123457",
    "9999-12-31T23:59:59.999999",
    "+294246-12-31T23:59:59.999999",
];

/// The same dates in a field of each kind that answers in its own way, in two segments.
fn index(dates: &[String]) -> Arc<Snapshot> {
    let mapping = json!({"properties": {
        "at": {"type": "date"},
        "column": {"type": "date", "index": false},
        "terms": {"type": "date", "doc_values": false},
    }});
    let mut segments = vec![Vec::new(), Vec::new()];
    for (place, date) in dates.iter().enumerate() {
        let source = json!({"at": date, "column": [date], "terms": date});
        segments[place % 2].push(((place + 1).to_string(), source));
    }
    fixture::snapshot("dates", &mapping, &segments, &[])
}

fn far() -> Arc<Snapshot> {
    index(&FAR.map(str::to_owned))
}

fn by_date(query: Query, descending: bool) -> SearchRequest {
    let by = SortBy::Field("at".into());
    let sort = Sort { by, descending, missing: Missing::Last, mode: None, unmapped_type: None };
    SearchRequest { query, sort: vec![sort], size: 1000, ..SearchRequest::default() }
}

fn everything() -> Query {
    Query::MatchAll { boost: 1.0 }
}

fn ids(snapshot: &Arc<Snapshot>, request: &SearchRequest) -> Vec<String> {
    let response = search(std::slice::from_ref(snapshot), request).unwrap();
    response.hits.into_iter().map(|hit| hit.id).collect()
}

fn range(field: &str, lower: Option<(&str, bool)>, upper: Option<(&str, bool)>) -> Query {
    let end =
        |end: Option<(&str, bool)>| end.map(|(text, in_it)| (Scalar::Text(text.into()), in_it));
    let (lower, upper) = (end(lower), end(upper));
    let field = field.into();
    Query::Range(Range {
        field,
        lower,
        upper,
        format: None,
        time_zone: None,
        relation: Relation::Intersects,
        boost: 1.0,
    })
}

#[test]
fn ranges_and_terms() {
    let snapshot = far();
    let check = |query: &dyn Fn(&str) -> Query, expected: &str| {
        for field in ["at", "column", "terms"] {
            let found = ids(&snapshot, &by_date(query(field), false)).concat();
            assert_eq!(found, expected, "{:?}", query(field));
        }
    };
    let between = |lower: &'static str, lower_in, upper: &'static str, upper_in| {
        move |field: &str| range(field, Some((lower, lower_in)), Some((upper, upper_in)))
    };
    check(&|field| range(field, None, Some(("0001", false))), "123");
    check(&|field| range(field, Some(("9999-12-31", true)), None), "78");
    check(&|field| range(field, Some(("9999-12", false)), None), "78");
    check(&|field| range(field, Some(("9999-12-31||+1d", true)), None), "8");
    check(&between("-0043-03-15", true, "0001-01-01", true), "34");
    check(&between("+300000-01-01", true, "+300001-01-01", true), "");
    check(&between("-300000-01-01", true, "+300001-01-01", true), "12345678");
    let neighbours = ("2024-02-29T12:00:00.123456", "2024-02-29T12:00:00.123457");
    check(&between(neighbours.0, true, neighbours.1, true), "56");
    check(&between(neighbours.0, false, neighbours.1, true), "6");
    check(&between(neighbours.0, true, neighbours.1, false), "5");
    check(&between(neighbours.0, false, neighbours.1, false), "");
    let term = |text: &'static str| {
        move |field: &str| {
            let value = Scalar::Text(text.into());
            Query::Term { field: field.into(), value, case_insensitive: false, boost: 1.0 }
        }
    };
    check(&term("9999-12-31"), "7");
    check(&term("-4712"), "");
    check(&term("-4712-01"), "2");
    check(&term(neighbours.1), "6");
    check(&term("2024-02-29T12:00:00.123"), "56");
    check(&term("2024-02-29T12:00:00.123000"), "");
    check(&term("+300000-01-01"), "");
    let terms = |field: &str| {
        let values = ["0001-01-01", "+294246-12-31"].map(|text| Scalar::Text(text.into())).to_vec();
        Query::Terms { field: field.into(), values, boost: 1.0 }
    };
    check(&terms, "48");
    check(&|field| Query::Exists { field: field.into(), boost: 1.0 }, "12345678");
}

#[test]
fn sorts_and_fields() {
    let snapshot = far();
    let mut request = by_date(everything(), false);
    request.docvalue_fields = vec!["at".into()];
    let response = search(std::slice::from_ref(&snapshot), &request).unwrap();
    let sort: Vec<_> = response.hits.iter().map(|hit| hit.sort[0].clone()).collect();
    let year_1 = SortValue::I64(-62_135_596_800_000);
    assert_eq!(sort[3], year_1);
    assert_eq!(sort[4], SortValue::Micros(1_709_208_000_123_456));
    assert_eq!(sort[6], SortValue::Micros(253_402_300_799_999_999));
    let shown: Vec<_> = response.hits.iter().map(|hit| hit.fields[0].1[0].clone()).collect();
    let text = |text: &str| SortValue::Text(text.into());
    assert_eq!(shown[2], text("-0043-03-15T00:00:00.000Z"));
    assert_eq!(shown[5], text("2024-02-29T12:00:00.123Z"));
    assert_eq!(shown[7], text("+294246-12-31T23:59:59.999Z"));
    let check = |value: SortValue, expected: &str| {
        let request = SearchRequest { search_after: Some(vec![value]), ..request.clone() };
        assert_eq!(ids(&snapshot, &request).concat(), expected);
    };
    check(year_1, "5678");
    check(SortValue::I64(1_709_208_000_123), "5678");
    check(SortValue::F64(1_709_208_000_123.456), "678");
    check(text("253402300799999.999"), "8");
    check(text("253402300799999.998"), "78");
    check(text("0001-01-01"), "5678");
    check(SortValue::F64(1e300), "");
    check(SortValue::I64(i64::MIN), "12345678");
}

#[test]
fn missing_dates_have_their_place() {
    let mapping = json!({"properties": {"at": {"type": "date"}}});
    let documents =
        [json!({"at": "9999-12-31"}), json!({}), json!({"at": "2024-01-01T00:00:00.000001"})];
    let snapshot = fixture::one_segment(&mapping, &documents);
    let check = |missing: &str, expected: &str| {
        let mut request = by_date(everything(), false);
        request.sort[0].missing = Missing::Value(Scalar::Text(missing.into()));
        assert_eq!(ids(&snapshot, &request).concat(), expected, "{missing}");
    };
    check("2024-01-01", "231");
    check("2024-01-01T00:00:00.000002", "321");
    check("+10000-01-01", "312");
}

#[test]
fn aggregations() {
    let snapshot = far();
    let run = |kind: AggregationKind| {
        let aggregations = vec![("a".into(), Aggregation { kind, sub: Vec::new() })];
        let request = SearchRequest { aggregations, ..by_date(everything(), false) };
        search(std::slice::from_ref(&snapshot), &request).unwrap().aggregations.remove(0).1
    };
    let shown = |kind: AggregationKind| -> Vec<(String, u64)> {
        let (AggregationResult::Buckets { buckets, .. } | AggregationResult::Terms { buckets, .. }) =
            run(kind)
        else {
            unreachable!()
        };
        let key = |text: Option<String>, key| text.unwrap_or_else(|| format!("{key:?}"));
        let shown = buckets.into_iter();
        shown.map(|bucket| (key(bucket.key_as_string, bucket.key), bucket.doc_count)).collect()
    };
    let at = || MetricField { field: "at".into(), missing: None };
    let date = |millis| AggregationResult::Value { value: Some(millis), is_date: true };
    assert_eq!(run(AggregationKind::Min(at())), date(-9_223_372_036_854_775.0));
    // The next double: past the year 287396 they are two milliseconds apart.
    assert_eq!(run(AggregationKind::Max(at())), date(9_223_371_244_800_000.0));
    let AggregationResult::Stats { count: 8, .. } = run(AggregationKind::Stats(at())) else {
        panic!("eight dates");
    };
    let every = |interval| {
        let kind =
            AggregationKind::DateHistogram { field: "at".into(), interval, min_doc_count: 1 };
        let keys: Vec<String> = shown(kind).into_iter().map(|(key, _)| key).collect();
        let days = keys.iter().map(|key| key.strip_suffix("T00:00:00.000Z").unwrap());
        days.map(str::to_owned).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(
        every(DateInterval::Year),
        "-290308-01-01 -4712-01-01 -0043-01-01 0001-01-01 2024-01-01 9999-01-01 +294246-01-01"
    );
    assert_eq!(
        every(DateInterval::Quarter),
        "-290308-10-01 -4712-01-01 -0043-01-01 0001-01-01 2024-01-01 9999-10-01 +294246-10-01"
    );
    assert_eq!(
        every(DateInterval::Month),
        "-290308-12-01 -4712-01-01 -0043-03-01 0001-01-01 2024-02-01 9999-12-01 +294246-12-01"
    );
    assert_eq!(
        every(DateInterval::Week),
        "-290308-12-15 -4713-12-29 -0043-03-11 0001-01-01 2024-02-26 9999-12-27 +294246-12-28"
    );
    assert_eq!(
        every(DateInterval::Fixed(86_400_000)),
        "-290308-12-21 -4712-01-01 -0043-03-15 0001-01-01 2024-02-29 9999-12-31 +294246-12-31"
    );
    let terms = TermsAggregation {
        field: "at".into(),
        size: 2,
        min_doc_count: 1,
        order: Vec::new(),
        missing: None,
        include: None,
        exclude: None,
    };
    let expected = [("2024-02-29T12:00:00.123Z", 2), ("-290308-12-21T19:59:05.225Z", 1)];
    let expected = expected.map(|(key, count)| (key.to_owned(), count));
    assert_eq!(shown(AggregationKind::Terms(terms)), expected);
    let ranges = vec![(None, None, Some(0.0)), (None, Some(253_402_300_799_999.0), None)];
    let kind = AggregationKind::Range { field: "at".into(), ranges, keyed: false };
    let counts: Vec<u64> = shown(kind).into_iter().map(|(_, count)| count).collect();
    assert_eq!(counts, [4, 2]);
}

#[test]
fn what_lies_beyond_is_refused() {
    let mapping = Mapping::from_json(&json!({"properties": {"at": {"type": "date"}}})).unwrap();
    let check = |date: &Value, fits: bool| {
        let mut draft = Draft::new(Arc::new(mapping.clone()));
        let parsed = draft.parse("1", json!({"at": date}).to_string().as_bytes());
        match parsed {
            Ok(_) => assert!(fits, "{date}"),
            Err(error) => {
                let named = error.message().contains(date.to_string().trim_matches('"'));
                assert!(!fits && named, "{error}");
            }
        }
    };
    check(&json!("+294247-01-10T04:00:54.775807"), true);
    check(&json!("+294247-01-10T04:00:54.775808"), false);
    check(&json!("-290308-12-21T19:59:05.225"), true);
    check(&json!("-290308-12-21T19:59:05.224999"), false);
    check(&json!("+999999999-01-01"), false);
    check(&json!(9_223_372_036_854_775_i64), true);
    check(&json!(9_223_372_036_854_776_i64), false);
    check(&json!(-9_223_372_036_854_775_i64), true);
    check(&json!(-9_223_372_036_854_776_i64), false);
}

fn instants() -> impl Strategy<Value = Vec<i64>> {
    let near = (prop_oneof![Just(0), Just(253_402_300_799_999_999), Just(-62_135_596_800_000_000)])
        .prop_flat_map(|middle: i64| middle - 3000..middle + 3000);
    prop::collection::vec(prop_oneof![near, MICROS], 1..20)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn ranges_and_sorts_are_exact(
        instants in instants(),
        ends in (any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<[bool; 2]>()),
        descending in any::<bool>(),
    ) {
        let format = DateFormat::default();
        let texts: Vec<String> = instants.iter().map(|micros| {
            // All six decimals, so that none is missing.
            let text = format.print(*micros);
            text.strip_suffix('Z').map_or(text.clone(), |text| match text.rsplit_once('.') {
                Some((_, digits)) if digits.len() == 3 => format!("{text}000Z"),
                _ => format!("{text}Z"),
            })
        }).collect();
        let snapshot = index(&texts);
        let (lower, upper) = (ends.0.index(instants.len()), ends.1.index(instants.len()));
        let [lower_in, upper_in] = ends.2;
        let mut expected: Vec<usize> = (0..instants.len()).filter(|&place| {
            let micros = instants[place];
            (micros > instants[lower] || lower_in && micros == instants[lower])
                && (micros < instants[upper] || upper_in && micros == instants[upper])
        }).collect();
        // Ties come in the order of the index: the first segment has the odd ids.
        expected.sort_by_key(|&place| {
            let micros = i128::from(instants[place]);
            (if descending { -micros } else { micros }, place % 2, place)
        });
        let names = |places: &[usize]| -> Vec<String> {
            places.iter().map(|place| (place + 1).to_string()).collect()
        };
        for field in ["at", "column", "terms"] {
            let ends = ((texts[lower].as_str(), lower_in), (texts[upper].as_str(), upper_in));
            let mut request = by_date(range(field, Some(ends.0), Some(ends.1)), descending);
            prop_assert_eq!(ids(&snapshot, &request), names(&expected));
            let response = search(std::slice::from_ref(&snapshot), &request).unwrap();
            for hit in response.hits {
                let place = hit.id.parse::<usize>().unwrap() - 1;
                let after = expected.iter().copied().filter(|&other| {
                    if descending {
                        instants[other] < instants[place]
                    } else {
                        instants[other] > instants[place]
                    }
                });
                request.search_after = Some(hit.sort);
                prop_assert_eq!(ids(&snapshot, &request), names(&after.collect::<Vec<_>>()));
            }
        }
    }
}
