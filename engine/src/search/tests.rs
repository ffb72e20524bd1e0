//! The options of a search, by tables.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::request::{
    Missing, SearchRequest, Sort, SortBy, SortValue, SourceFilter, TrackTotalHits,
};
use super::response::{SearchResponse, Total};
use super::{fixture, search};
use crate::error::ErrorKind;
use crate::position::{Lsn, SeqNo};
use crate::query::ast::{Query, Range, Relation, Scalar};
use crate::snapshot::{DocumentVersion, Snapshot};

fn mapping() -> Value {
    json!({"properties": {
        "title": {"type": "text"}, "tag": {"type": "keyword"}, "n": {"type": "long"},
        "plain": {"type": "long", "doc_values": false}, "at": {"type": "date"}}})
}

/// 250 documents in three segments, `n` from 0, every fifth of them deleted: 200 live.
fn index() -> Arc<Snapshot> {
    let document = |number: usize| {
        let title = if number.is_multiple_of(2) { "even number" } else { "odd number" };
        let source = json!({"title": title, "n": number, "tag": [format!("t{}", number % 10), "all"],
            "at": 1_700_000_000_000_u64 + number as u64});
        (number.to_string(), source)
    };
    let segments: Vec<Vec<(String, Value)>> = [0..100, 100..150, 150..250]
        .into_iter()
        .map(|numbers| numbers.map(document).collect())
        .collect();
    let deleted: Vec<String> = (0..250).step_by(5).map(|number| number.to_string()).collect();
    fixture::snapshot("test", &mapping(), &segments, &deleted)
}

fn run(request: &SearchRequest) -> SearchResponse {
    search(&[index()], request).unwrap()
}

fn ids(response: &SearchResponse) -> Vec<&str> {
    response.hits.iter().map(|hit| hit.id.as_str()).collect()
}

fn all() -> SearchRequest {
    SearchRequest::default()
}

fn term(field: &str, value: &str) -> Query {
    let value = Scalar::Text(value.into());
    Query::Term { field: field.into(), value, case_insensitive: false, boost: 1.0 }
}

fn by(field: SortBy, descending: bool) -> Sort {
    Sort { by: field, descending, missing: Missing::Last, mode: None, unmapped_type: None }
}

fn by_field(field: &str, descending: bool) -> Sort {
    by(SortBy::Field(field.into()), descending)
}

#[test]
fn windows_and_ties() {
    // Equal scores come in the order of segments and documents; what is deleted never comes.
    assert_eq!(ids(&run(&SearchRequest { size: 5, ..all() })), ["1", "2", "3", "4", "6"]);
    let window = SearchRequest { from: 79, size: 3, ..all() };
    assert_eq!(ids(&run(&window)), ["99", "101", "102"]);
    assert!(ids(&run(&SearchRequest { from: 500, size: 3, ..all() })).is_empty());
    let none = run(&SearchRequest { size: 0, query: term("title", "odd"), ..all() });
    assert!(none.hits.is_empty());
    assert_eq!((none.max_score, none.total.unwrap().value), (None, 100));
}

#[test]
fn totals() {
    let odd = || term("title", "odd");
    let check = |query: Query, track_total_hits, expected: Option<(u64, bool)>| {
        for size in [0, 3] {
            let request = SearchRequest { query: query.clone(), size, track_total_hits, ..all() };
            let expected = expected.map(|(value, exact)| Total { value, exact });
            assert_eq!(run(&request).total, expected, "{request:?}");
        }
    };
    check(odd(), TrackTotalHits::Exact, Some((100, true)));
    check(odd(), TrackTotalHits::UpTo(100), Some((100, true)));
    check(odd(), TrackTotalHits::UpTo(99), Some((99, false)));
    check(odd(), TrackTotalHits::Off, None);
    check(term("tag", "all"), TrackTotalHits::UpTo(20), Some((20, false)));
    check(all().query, TrackTotalHits::UpTo(1000), Some((200, true)));
    check(all().query, TrackTotalHits::UpTo(10), Some((10, false)));
    check(term("tag", "none"), TrackTotalHits::UpTo(10), Some((0, true)));
}

#[test]
fn narrowing() {
    let post_filter = Some(term("tag", "t7"));
    let filtered = run(&SearchRequest { post_filter, ..all() });
    assert_eq!(filtered.total.unwrap().value, 25);
    assert!(ids(&filtered).iter().all(|id| id.ends_with('7')));
    let query = Query::DisMax {
        queries: vec![
            Query::ConstantScore { filter: Box::new(term("tag", "t7")), boost: 3.0 },
            Query::ConstantScore { filter: Box::new(term("tag", "t8")), boost: 2.0 },
        ],
        tie_breaker: 0.0,
        boost: 1.0,
    };
    let request = SearchRequest { query, min_score: Some(2.5), ..all() };
    assert_eq!(run(&request).total.unwrap().value, 25);
    let sorted = SearchRequest { sort: vec![by_field("n", true)], size: 2, ..request };
    assert_eq!(ids(&run(&sorted)), ["247", "237"]);
}

#[test]
fn orders() {
    let check = |sort: Vec<Sort>, expected: [&str; 3]| {
        let request = SearchRequest { sort, size: 3, ..all() };
        assert_eq!(ids(&run(&request)), expected, "{request:?}");
    };
    check(vec![by_field("n", true)], ["249", "248", "247"]);
    check(vec![by_field("tag", true), by_field("n", false)], ["9", "19", "29"]);
    check(vec![by(SortBy::Doc, false)], ["1", "2", "3"]);
    check(vec![by(SortBy::Doc, true)], ["249", "248", "247"]);
    let missing = Sort { unmapped_type: Some("long".into()), ..by_field("no", true) };
    check(vec![missing, by_field("n", false)], ["1", "2", "3"]);
    let request = SearchRequest {
        query: term("title", "odd"),
        sort: vec![by(SortBy::Score, true), by_field("n", true)],
        size: 1,
        ..all()
    };
    let response = run(&request);
    let hit = &response.hits[0];
    assert_eq!((hit.id.as_str(), hit.sort.len()), ("249", 2));
    let SortValue::F64(score) = hit.sort[0] else { panic!("{:?}", hit.sort) };
    assert!((score - f64::from(hit.score.unwrap())).abs() < 1e-9);
    let unscored = SearchRequest { sort: vec![by_field("n", true)], size: 1, ..all() };
    assert_eq!((run(&unscored).hits[0].score, run(&unscored).max_score), (None, None));
    let tracked = run(&SearchRequest { track_scores: true, ..unscored });
    assert_eq!((tracked.hits[0].score, tracked.max_score), (Some(1.0), Some(1.0)));
}

#[test]
fn early_ends() {
    let request = SearchRequest { terminate_after: Some(7), size: 100, ..all() };
    let response = run(&request);
    assert_eq!((response.hits.len(), response.terminated_early), (7, true));
    assert!(!run(&SearchRequest { terminate_after: Some(1000), ..all() }).terminated_early);
    let late = SearchRequest {
        timeout: Some(Duration::ZERO),
        query: Query::Range(Range {
            field: "n".into(),
            lower: Some((Scalar::I64(0), true)),
            upper: None,
            format: None,
            time_zone: None,
            relation: Relation::Intersects,
            boost: 1.0,
        }),
        track_total_hits: TrackTotalHits::Exact,
        ..all()
    };
    let documents: Vec<Value> = (0..5000).map(|number| json!({"n": number})).collect();
    let many = fixture::one_segment(&mapping(), &documents);
    let response = search(&[many], &late).unwrap();
    assert!(response.timed_out && response.total.is_some_and(|total| !total.exact));
}

#[test]
fn what_hits_consist_of() {
    let request = SearchRequest {
        query: term("tag", "t7"),
        size: 1,
        source: SourceFilter::Paths { includes: vec!["n".into()], excludes: Vec::new() },
        docvalue_fields: vec!["tag".into(), "a*".into(), "nowhere".into()],
        version: true,
        seq_no_primary_term: true,
        ..all()
    };
    let response = run(&request);
    let hit = &response.hits[0];
    assert_eq!((hit.index.as_str(), hit.id.as_str()), ("test", "7"));
    assert_eq!(hit.source.as_deref(), Some(&b"{\"n\":7}"[..]));
    let texts = vec![SortValue::Text("all".into()), SortValue::Text("t7".into())];
    let at = vec![SortValue::Text("2023-11-14T22:13:20.007Z".into())];
    assert_eq!(hit.fields, [("tag".to_owned(), texts), ("at".to_owned(), at)]);
    assert_eq!((hit.version, hit.seq_no), (Some(8), Some((SeqNo(7), 1))));
    let bare = run(&SearchRequest { source: SourceFilter::None, size: 1, ..all() });
    let hit = &bare.hits[0];
    assert_eq!((&hit.source, hit.version, hit.seq_no), (&None, None, None));
}

#[test]
fn several_indexes() {
    let first = fixture::one_segment(&mapping(), &[json!({"n": 1}), json!({"n": 3})]);
    let other = json!({"properties": {"n": {"type": "double"}}});
    let second = fixture::one_segment(&other, &[json!({"n": 2.5}), json!({"n": 0})]);
    let request = SearchRequest { sort: vec![by_field("n", false)], ..all() };
    let response = search(&[first, second], &request).unwrap();
    assert_eq!(ids(&response), ["2", "1", "1", "2"]);
    assert_eq!(response.total, Some(Total { value: 4, exact: true }));
    let empty = search(&[], &request).unwrap();
    assert_eq!(empty.total, Some(Total { value: 0, exact: true }));
}

#[test]
fn refusals() {
    let check = |request: SearchRequest, kind: ErrorKind, part: &str| {
        let error = search(&[index()], &request).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.message().contains(part), "{error}");
    };
    let argument = ErrorKind::InvalidArgument;
    check(
        SearchRequest { from: 9_995, size: 10, ..all() },
        argument,
        "Result window is too large, from + size must be less than or equal to: [10000] but was \
         [10005]",
    );
    let after =
        |sort, from, values| SearchRequest { sort, from, search_after: Some(values), ..all() };
    let one = || vec![SortValue::I64(1)];
    check(
        after(vec![by_field("n", true)], 1, one()),
        argument,
        "`from` parameter must be set to 0",
    );
    check(after(vec![], 0, one()), argument, "Sort must contain at least one field.");
    check(
        after(vec![by_field("n", true)], 0, vec![]),
        argument,
        "search_after has 0 value(s) but sort has 1.",
    );
    let text = vec![SortValue::Text("x".into())];
    check(after(vec![by_field("n", true)], 0, text), argument, "does not fit the field's type");
    let sorted = |field| SearchRequest { sort: vec![by_field(field, true)], ..all() };
    check(
        sorted("nowhere"),
        ErrorKind::InvalidQuery,
        "No mapping found for [nowhere] in order to sort on",
    );
    check(sorted("title"), argument, "Fielddata is disabled on [title] in [test]");
    check(sorted("plain"), argument, "Can't load fielddata on [plain]");
}

#[test]
fn documents_by_id() {
    let snapshot = index();
    let document = snapshot.document("7").unwrap().unwrap();
    assert_eq!((document.version, document.seq_no, document.term), (8, SeqNo(7), 1));
    assert!(document.source.starts_with(b"{\"title\":\"odd number\",\"n\":7"));
    assert_eq!(snapshot.document("5").unwrap(), None);
    assert_eq!(snapshot.document("no").unwrap(), None);
    let version = |number: u64| {
        let (seq_no, version) = (SeqNo(number), number + 1);
        Some(DocumentVersion { seq_no, term: 1, version, lsn: Lsn(0) })
    };
    assert_eq!(snapshot.version_of("249").unwrap(), version(249));
    let versions = snapshot.versions_of(&["1", "5", "no", "121"]).unwrap();
    assert_eq!(versions, [version(1), None, None, version(121)]);
    assert_eq!((snapshot.doc_count(), snapshot.deleted_count()), (200, 50));
}

fn places_of_all_pages(
    snapshots: &[Arc<Snapshot>],
    mut request: SearchRequest,
) -> Vec<Vec<SortValue>> {
    let mut found = Vec::new();
    loop {
        let response = search(snapshots, &request).unwrap();
        let Some(last) = response.hits.last() else { return found };
        request.search_after = Some(last.sort.clone());
        found.extend(response.hits.into_iter().map(|hit| hit.sort));
    }
}

/// Page by page over two indexes, every hit comes once, and no page looks at more than it needs.
#[test]
fn pages_in_the_order_of_documents_are_whole() {
    let snapshots = [index(), index()];
    for (query, total) in [(Query::MatchAll { boost: 1.0 }, 400), (term("tag", "t1"), 50)] {
        for (size, counts) in
            [(1, TrackTotalHits::Off), (7, TrackTotalHits::Exact), (130, TrackTotalHits::Off)]
        {
            let query = query.clone();
            let sort = vec![by(SortBy::ShardDoc, false)];
            let request = SearchRequest { query, size, sort, track_total_hits: counts, ..all() };
            let found = places_of_all_pages(&snapshots, request);
            assert_eq!(found.len(), total, "{size}");
            let rises = |pair: &[Vec<SortValue>]| match (&pair[0][0], &pair[1][0]) {
                (SortValue::I64(left), SortValue::I64(right)) => left < right,
                _ => false,
            };
            assert!(found.windows(2).all(rises), "{size}");
        }
    }
}
