//! What each clause matches, by tables; scores and combinations are checked against a model with
//! the search.

use std::sync::Arc;

use serde_json::{Value, json};

use super::QueryLimits;
use super::ast::{
    Bool, Fuzziness, Match, MatchPhrase, MinimumShouldMatch, MultiMatch, MultiMatchKind, Operator,
    Query, Range, Relation, Scalar, ZeroTerms,
};
use super::compile::compile;
use crate::search::fixture;
use crate::search::request::SearchRequest;
use crate::search::search;
use crate::snapshot::Snapshot;

fn index() -> Arc<Snapshot> {
    let mapping = json!({"properties": {
        "title": {"type": "text", "fields": {"raw": {"type": "keyword"}}},
        "body": {"type": "text", "analyzer": "english"},
        "hidden": {"type": "text", "index": false},
        "tag": {"type": "keyword"},
        "n": {"type": "long"},
        "plain": {"type": "integer", "index": false},
        "big": {"type": "unsigned_long"},
        "price": {"type": "double"},
        "on": {"type": "boolean"},
        "at": {"type": "date"},
        "day": {"type": "date", "format": "yyyy/MM/dd"},
        "by": {"properties": {"name": {"type": "text"}, "age": {"type": "short"}}},
    }});
    let documents = [
        json!({"title": "The quick brown fox", "body": "running foxes", "tag": ["Red", "blue"],
            "n": [1, 20], "big": u64::MAX, "on": true, "at": "2024-01-15", "by": {"age": 7}}),
        json!({"title": "quick fox brown", "tag": "green", "n": -3, "plain": 5, "price": 2.5,
            "on": false, "at": "2024-01-31T23:59:59.999Z", "day": "2024/02/01"}),
        json!({"title": "brown bread", "body": "a fox ran", "tag": "blue-green", "n": 5,
            "price": 7.0, "at": "2024-02-01T00:00:00Z", "by": {"name": "Ann Brown"}}),
        json!({"title": "foxtrot and foxglove", "hidden": "fox", "tag": "x", "plain": 9}),
        json!({"by": {"name": "Quick Bob"}}),
    ];
    fixture::one_segment(&mapping, &documents)
}

fn text(text: &str) -> Scalar {
    Scalar::Text(text.into())
}

fn found(snapshot: &Arc<Snapshot>, query: Query) -> crate::Result<String> {
    let request = SearchRequest { query, ..SearchRequest::default() };
    let response = search(std::slice::from_ref(snapshot), &request)?;
    let mut ids: Vec<String> = response.hits.into_iter().map(|hit| hit.id).collect();
    ids.sort();
    Ok(ids.join(" "))
}

/// The ids of what each query matches.
fn check(cases: Vec<(Query, &str)>) {
    let snapshot = index();
    for (query, expected) in cases {
        let shown = format!("{query:?}");
        assert_eq!(found(&snapshot, query).unwrap(), expected, "{shown}");
    }
}

/// What each query is refused with.
fn refused(cases: Vec<(Query, &str)>) {
    let snapshot = index();
    for (query, expected) in cases {
        let shown = format!("{query:?}");
        let error = found(&snapshot, query).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::InvalidQuery, "{shown}");
        assert_eq!(error.message(), expected, "{shown}");
    }
}

fn term(field: &str, value: Scalar) -> Query {
    Query::Term { field: field.into(), value, case_insensitive: false, boost: 1.0 }
}

fn terms(field: &str, values: Vec<Scalar>) -> Query {
    Query::Terms { field: field.into(), values, boost: 1.0 }
}

fn exists(field: &str) -> Query {
    Query::Exists { field: field.into(), boost: 1.0 }
}

#[test]
fn exact_values() {
    check(vec![
        (term("tag", text("blue")), "1"),
        (term("tag", text("red")), ""),
        (term("title", text("quick")), "1 2"),
        (term("title", text("Quick")), ""),
        (term("title.raw", text("brown bread")), "3"),
        (term("n", Scalar::I64(20)), "1"),
        (term("n", text("5")), "3"),
        (term("n", Scalar::F64(5.0)), "3"),
        (term("n", Scalar::F64(5.5)), ""),
        (term("n", Scalar::U64(u64::MAX)), ""),
        (term("big", Scalar::U64(u64::MAX)), "1"),
        (term("big", Scalar::I64(-1)), ""),
        (term("plain", Scalar::I64(5)), "2"),
        (term("price", text("2.5")), "2"),
        (term("price", Scalar::I64(7)), "3"),
        (term("on", Scalar::Bool(true)), "1"),
        (term("on", text("false")), "2"),
        (term("at", text("2024-01-15")), "1"),
        (term("at", text("2024-01")), ""),
        (term("day", text("2024/02/01")), "2"),
        (term("nowhere", text("x")), ""),
        (term("_id", text("3")), "3"),
        (term("_index", text("test")), "1 2 3 4 5"),
        (term("_index", text("other")), ""),
        (terms("tag", vec![text("x"), text("green"), text("no"), text("x")]), "2 4"),
        (terms("n", vec![Scalar::I64(1), Scalar::F64(0.5), Scalar::I64(5)]), "1 3"),
        (terms("at", vec![text("2024-02"), text("2023")]), "3"),
        (terms("plain", vec![Scalar::I64(5), Scalar::I64(9)]), "2 4"),
        (terms("_id", vec![text("1"), text("9")]), "1"),
        (terms("tag", Vec::new()), ""),
        (Query::Ids { values: vec!["2".into(), "5".into(), "no".into()], boost: 1.0 }, "2 5"),
        (exists("title"), "1 2 3 4"),
        (exists("by"), "1 3 5"),
        (exists("by.name"), "3 5"),
        (exists("on"), "1 2"),
        (exists("hidden"), ""),
        (exists("nowhere"), ""),
        (exists("_id"), "1 2 3 4 5"),
    ]);
    refused(vec![
        (term("n", text("foo")), "failed to create query: For input string: \"foo\""),
        (
            term("on", text("foo")),
            "failed to create query: Can't parse boolean value [foo], expected [true] or [false]",
        ),
        (
            term("at", text("foo")),
            "failed to parse date field [foo] with format \
             [strict_date_optional_time||epoch_millis]",
        ),
        (
            term("hidden", text("fox")),
            "failed to create query: Cannot search on field [hidden] since it is not indexed.",
        ),
    ]);
}

fn range(field: &str, lower: Option<(Scalar, bool)>, upper: Option<(Scalar, bool)>) -> Range {
    let (format, time_zone) = (None, None);
    Range {
        field: field.into(),
        lower,
        upper,
        format,
        time_zone,
        relation: Relation::Intersects,
        boost: 1.0,
    }
}

#[test]
fn intervals() {
    let gte = |value| Some((value, true));
    let gt = |value| Some((value, false));
    let (lte, lt) = (gte, gt);
    let between = |field, lower, upper| Query::Range(range(field, lower, upper));
    let zoned =
        |query: Range, zone: &str| Query::Range(Range { time_zone: Some(zone.into()), ..query });
    check(vec![
        (between("n", gte(Scalar::I64(5)), None), "1 3"),
        (between("n", gt(Scalar::I64(5)), None), "1"),
        (between("n", gt(Scalar::F64(4.5)), lt(Scalar::F64(5.5))), "3"),
        (between("n", gte(text("4.5")), lte(text("5"))), "3"),
        (between("n", None, lt(Scalar::I64(1))), "2"),
        (between("n", gte(Scalar::U64(u64::MAX)), None), ""),
        (between("big", gte(Scalar::I64(-5)), None), "1"),
        (between("plain", gt(Scalar::I64(5)), None), "4"),
        (between("price", gt(Scalar::F64(2.5)), None), "3"),
        (between("tag", gte(text("blue")), lt(text("h"))), "1 2 3"),
        (between("title", gte(text("foxa")), lte(text("foxz"))), "4"),
        (between("on", gt(Scalar::Bool(false)), None), "1"),
        // A month stands for its first day, and ends with it.
        (between("at", None, lte(text("2024-01"))), ""),
        (between("at", None, lte(text("2024-02"))), "1 2 3"),
        (between("at", gt(text("2024-01")), None), "1 2 3"),
        (between("at", gt(text("2024-02")), None), ""),
        (between("at", None, lt(text("2024-01"))), ""),
        (between("at", gte(text("2024-01-16")), lt(text("2024-02-01"))), "2"),
        (between("at", gte(text("2024-01-15||/M")), lte(text("2024-01-15||/M"))), "1 2"),
        (between("at", gte(Scalar::I64(1_706_745_600_000)), None), "3"),
        (between("day", gte(text("2024/01/31")), None), "2"),
        (zoned(range("at", gte(text("2024-02-01")), None), "+01:00"), "2 3"),
        (zoned(range("at", gte(text("2024-02-01")), None), "America/New_York"), ""),
        (
            Query::Range(Range {
                format: Some("dd.MM.yyyy".into()),
                ..range("at", gte(text("01.02.2024")), None)
            }),
            "3",
        ),
        (between("n", None, None), "1 2 3"),
        (between("nowhere", gte(Scalar::I64(5)), None), ""),
    ]);
    refused(vec![
        (between("n", gte(text("foo")), None), "failed to create query: For input string: \"foo\""),
        (
            zoned(range("n", gte(text("1")), None), "+01:00"),
            "Field [n] of type [long] does not support range queries with [time_zone]",
        ),
        (zoned(range("at", gte(text("2024")), None), "Mars"), "Unknown time-zone ID: Mars"),
    ]);
}

#[test]
fn patterns() {
    let prefix = |field: &str, value: &str, case_insensitive| Query::Prefix {
        field: field.into(),
        value: value.into(),
        case_insensitive,
        boost: 1.0,
    };
    let wildcard = |field: &str, value: &str, case_insensitive| Query::Wildcard {
        field: field.into(),
        value: value.into(),
        case_insensitive,
        boost: 1.0,
    };
    let either_case =
        Query::Term { field: "tag".into(), value: text("rED"), case_insensitive: true, boost: 1.0 };
    check(vec![
        (prefix("title", "fox", false), "1 2 4"),
        (prefix("title", "foxt", false), "4"),
        (prefix("tag", "r", false), ""),
        (prefix("tag", "r", true), "1"),
        (prefix("tag", "", false), "1 2 3 4"),
        (prefix("nowhere", "r", false), ""),
        (wildcard("tag", "*green", false), "2 3"),
        (wildcard("tag", "b?ue", false), "1"),
        (wildcard("tag", "B*", true), "1 3"),
        (wildcard("title.raw", "*brown*", false), "1 2 3"),
        (wildcard("_index", "te*", false), "1 2 3 4 5"),
        (either_case, "1"),
    ]);
    let long = "x".repeat(1001);
    refused(vec![
        (
            prefix("n", "1", false),
            "failed to create query: Can only use prefix queries on keyword, text and wildcard \
             fields - not on [n] which is of type [long]",
        ),
        (
            wildcard("_id", "1*", false),
            "failed to create query: Can only use wildcard queries on keyword, text and wildcard \
             fields - not on [_id] which is of type [_id]",
        ),
        (
            wildcard("tag", &long, false),
            "failed to create query: the pattern of [wildcard] on [tag] is longer than [1000] \
             characters [index.max_regex_length]",
        ),
    ]);
}

fn matching(field: &str, value: &str) -> Match {
    Match {
        field: field.into(),
        value: text(value),
        operator: Operator::Or,
        minimum_should_match: None,
        fuzziness: None,
        prefix_length: 0,
        max_expansions: 50,
        analyzer: None,
        zero_terms: ZeroTerms::None,
        lenient: false,
        prefix_last: false,
        boost: 1.0,
    }
}

fn phrase(field: &str, value: &str, slop: u32, prefix_last: bool) -> MatchPhrase {
    MatchPhrase {
        field: field.into(),
        value: text(value),
        slop,
        analyzer: None,
        zero_terms: ZeroTerms::None,
        prefix_last,
        max_expansions: 50,
        boost: 1.0,
    }
}

#[test]
fn analyzed_texts() {
    let all = |clause| Query::Match(Match { operator: Operator::And, ..clause });
    let some = |clause, specification| {
        Query::Match(Match { minimum_should_match: Some(specification), ..clause })
    };
    let fuzzy = |clause, fuzziness| Query::Match(Match { fuzziness: Some(fuzziness), ..clause });
    let auto = Fuzziness::Auto { low: 3, high: 6 };
    let three = || matching("title", "QUICK Brown bread");
    let above = MinimumShouldMatch::Above(vec![(2, MinimumShouldMatch::Percent(70))]);
    check(vec![
        (Query::Match(three()), "1 2 3"),
        (all(three()), ""),
        (all(matching("title", "brown fox")), "1 2"),
        (some(three(), MinimumShouldMatch::Count(2)), "1 2 3"),
        (some(three(), MinimumShouldMatch::Count(-1)), "1 2 3"),
        (some(three(), MinimumShouldMatch::Percent(100)), ""),
        (some(three(), MinimumShouldMatch::Count(4)), ""),
        (some(three(), above), "1 2 3"),
        (Query::Match(matching("body", "runs")), "1"),
        (Query::Match(matching("tag", "blue-green")), "3"),
        (Query::Match(matching("n", "5")), "3"),
        (Query::Match(Match { lenient: true, ..matching("n", "foo") }), ""),
        (Query::Match(matching("title", "...")), ""),
        (
            Query::Match(Match { zero_terms: ZeroTerms::All, ..matching("title", "...") }),
            "1 2 3 4 5",
        ),
        (
            Query::Match(Match {
                analyzer: Some("keyword".into()),
                ..matching("title", "quick fox")
            }),
            "",
        ),
        (fuzzy(matching("title", "quik"), auto), "1 2"),
        (fuzzy(matching("title", "quikc"), auto), "1 2"),
        (fuzzy(matching("title", "qu"), auto), ""),
        (fuzzy(matching("title", "foxglobe"), Fuzziness::Edits(1)), "4"),
        (fuzzy(matching("title", "ouick"), Fuzziness::Edits(0)), ""),
        (
            Query::Match(Match {
                fuzziness: Some(Fuzziness::Edits(1)),
                prefix_length: 1,
                ..matching("title", "ouick")
            }),
            "",
        ),
        (Query::Match(Match { prefix_last: true, ..matching("title", "bread foxt") }), "3 4"),
    ]);
    refused(vec![
        (Query::Match(matching("n", "foo")), "failed to create query: For input string: \"foo\""),
        (
            Query::Match(Match { analyzer: Some("no".into()), ..matching("title", "x") }),
            "failed to create query: analyzer [no] not found",
        ),
        (
            fuzzy(matching("n", "5"), auto),
            "failed to create query: Can only use fuzzy queries on keyword and text fields - not \
             on [n] which is of type [long]",
        ),
    ]);
}

#[test]
fn phrases() {
    let phrase =
        |value, slop, prefix_last| Query::MatchPhrase(phrase("title", value, slop, prefix_last));
    let few = MatchPhrase { max_expansions: 1, ..self::phrase("title", "and fox", 0, true) };
    check(vec![
        (phrase("quick brown", 0, false), "1"),
        (phrase("brown fox", 0, false), "1"),
        (phrase("quick brown", 1, false), "1 2"),
        (phrase("brown quick", 0, false), ""),
        (phrase("brown quick", 2, false), "1"),
        (phrase("brown quick", 3, false), "1 2"),
        (phrase("quick brown", 0, true), "1"),
        (phrase("quick f", 0, true), "2"),
        (phrase("the quick br", 0, true), "1"),
        (phrase("fox", 0, true), "1 2 4"),
        (phrase("quick nothing", 5, false), ""),
        (Query::MatchPhrase(few), ""),
        (Query::MatchPhrase(self::phrase("tag", "blue", 0, false)), "1"),
        (Query::MatchPhrase(self::phrase("tag", "blue", 0, true)), "1 3"),
        (Query::MatchPhrase(self::phrase("n", "5", 0, false)), "3"),
        // A stop word leaves a gap that any word fills.
        (Query::MatchPhrase(self::phrase("body", "the fox ran", 0, false)), "3"),
    ]);
}

#[test]
fn several_fields() {
    let multi = |fields: &[&str], kind, options: Match| {
        let fields = fields.iter().map(|field| ((*field).to_owned(), 1.0)).collect();
        Query::MultiMatch(MultiMatch { fields, kind, tie_breaker: None, options, slop: 0 })
    };
    let all = |value| Match { operator: Operator::And, ..matching("", value) };
    check(vec![
        (multi(&["title", "by.*"], MultiMatchKind::BestFields, matching("", "quick")), "1 2 5"),
        (multi(&["title", "by.name"], MultiMatchKind::BestFields, all("bread ann")), ""),
        (multi(&["title", "by.name"], MultiMatchKind::CrossFields, all("bread ann")), "3"),
        (multi(&["title", "by.name"], MultiMatchKind::CrossFields, matching("", "ann")), "3"),
        (multi(&["title", "by.name"], MultiMatchKind::Phrase, matching("", "quick bob")), "5"),
        (multi(&["title"], MultiMatchKind::PhrasePrefix, matching("", "quick f")), "2"),
        (multi(&["title"], MultiMatchKind::BoolPrefix, matching("", "bread foxg")), "3 4"),
        (multi(&["title", "n"], MultiMatchKind::MostFields, matching("", "5")), "3"),
        (multi(&[], MultiMatchKind::BestFields, matching("", "green")), "2"),
        (multi(&["nowhere"], MultiMatchKind::BestFields, matching("", "green")), ""),
    ]);
}

#[test]
fn combinations() {
    let quick = || term("title", text("quick"));
    let brown = || term("title", text("brown"));
    let bread = || term("title", text("bread"));
    let bool = |must: Vec<Query>, should: Vec<Query>, must_not: Vec<Query>, needed: Option<i32>| {
        Query::Bool(Bool {
            must,
            filter: Vec::new(),
            should,
            must_not,
            minimum_should_match: needed.map(MinimumShouldMatch::Count),
            boost: 1.0,
        })
    };
    check(vec![
        (bool(vec![], vec![], vec![], None), "1 2 3 4 5"),
        (bool(vec![], vec![], vec![brown()], None), "4 5"),
        (bool(vec![], vec![], vec![Query::MatchAll { boost: 1.0 }], None), ""),
        (bool(vec![brown()], vec![bread()], vec![], None), "1 2 3"),
        (bool(vec![brown()], vec![bread()], vec![], Some(1)), "3"),
        (bool(vec![brown()], vec![quick(), bread()], vec![], Some(2)), ""),
        (bool(vec![], vec![quick(), bread()], vec![], None), "1 2 3"),
        (bool(vec![], vec![quick(), brown(), bread()], vec![], Some(2)), "1 2 3"),
        (bool(vec![Query::MatchNone], vec![quick()], vec![], None), ""),
        (bool(vec![quick()], vec![], vec![Query::MatchNone], None), "1 2"),
    ]);
    let many = (0..5000).map(|number| term("n", Scalar::I64(number))).collect();
    refused(vec![(
        bool(vec![], many, vec![], None),
        "failed to create query: maxClauseCount is set to 4096 \
         [indices.query.bool.max_clause_count]",
    )]);
}

/// A query's hits with their scores.
fn scores(query: &Query) -> Vec<(String, f32)> {
    let request = SearchRequest { query: query.clone(), ..SearchRequest::default() };
    let hits = search(&[index()], &request).unwrap().hits;
    hits.into_iter().map(|hit| (hit.id, hit.score.unwrap())).collect()
}

#[test]
fn scores_of_what_is_not_a_plain_term() {
    let snapshot = index();
    let close = |actual: f32, expected: f32, of: &Query| {
        assert!((actual - expected).abs() < 1e-5, "{of:?}: {actual} not {expected}");
    };
    // Numbers, patterns and filters are not scored; match_all scores its boost.
    let constant: Vec<Query> = vec![
        term("n", Scalar::I64(5)),
        term("at", text("2024-01-15")),
        Query::Prefix {
            field: "title".into(),
            value: "fo".into(),
            case_insensitive: false,
            boost: 1.0,
        },
        Query::MatchAll { boost: 1.0 },
    ];
    for query in &constant {
        for (_, score) in scores(query) {
            close(score, 1.0, query);
        }
    }
    // A sloppy phrase counts less the farther its words are apart.
    let exact = Query::MatchPhrase(phrase("title", "quick brown", 0, false));
    let sloppy = Query::MatchPhrase(phrase("title", "quick brown", 1, false));
    let (exact, sloppy) = (scores(&exact), scores(&sloppy));
    assert_eq!(sloppy[0].0, "1");
    assert!((exact[0].1 - sloppy[0].1).abs() < 1e-6);
    assert!(sloppy[1].1 < sloppy[0].1);
    // Nothing is read for a query that cannot match.
    let nothing = compile(&snapshot, &term("tag", text("no")), &QueryLimits::default()).unwrap();
    assert_eq!(nothing.shape, super::compile::Shape::Nothing);
}

#[test]
fn long_terms_may_be_misspelled() {
    let long = "abcdefghij".repeat(30);
    let mapping = json!({"properties": {"tag": {"type": "keyword"}}});
    let snapshot = fixture::one_segment(&mapping, &[json!({"tag": long}), json!({"tag": "x"})]);
    let wrong = long.replacen('j', "J", 2);
    let fuzzy = |edits| {
        Query::Match(Match { fuzziness: Some(Fuzziness::Edits(edits)), ..matching("tag", &wrong) })
    };
    assert_eq!(found(&snapshot, fuzzy(2)).unwrap(), "1");
    assert_eq!(found(&snapshot, fuzzy(1)).unwrap(), "");
}

#[test]
fn prefixes_have_no_cap() {
    let documents: Vec<Value> =
        (0..3000).map(|number| json!({"tag": format!("word{number}")})).collect();
    let mapping = json!({"properties": {"tag": {"type": "keyword"}}});
    let snapshot = fixture::one_segment(&mapping, &documents);
    let query = Query::Prefix {
        field: "tag".into(),
        value: "word".into(),
        case_insensitive: false,
        boost: 1.0,
    };
    assert_eq!(crate::search::count(&[snapshot], &query).unwrap(), 3000);
}
