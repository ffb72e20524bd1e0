//! Tables of query JSON, what it becomes, and what is said where it is wrong.

use egret_engine::query::ast::{
    Bool, Fuzziness, Match, MatchPhrase, MinimumShouldMatch, MultiMatch, MultiMatchKind, Operator,
    Query, Range, Relation, Scalar, ZeroTerms,
};
use serde_json::{Value, json};

use super::full_text::default_match;
use super::*;

/// `title`, `body` are text, `tag` a keyword, `age` a number.
struct Sample;

impl Fields for Sample {
    fn matching(&self, pattern: &str) -> Vec<(String, FieldKind)> {
        let all = [
            ("title", FieldKind::Text),
            ("body", FieldKind::Text),
            ("tag", FieldKind::Keyword),
            ("age", FieldKind::Other),
        ];
        let fits = |name: &str| egret_engine::catalog::pattern::matches(pattern, name);
        all.into_iter()
            .filter(|(name, _)| fits(name))
            .map(|(name, kind)| (name.to_owned(), kind))
            .collect()
    }
}

fn read(json: &Value) -> Result<Query> {
    QueryReader::new(&Sample).query(json)
}

fn text(text: &str) -> Scalar {
    Scalar::Text(text.into())
}

fn matching(field: &str, value: &str) -> Match {
    Match { field: field.into(), value: text(value), ..default_match() }
}

fn term(field: &str, value: Scalar) -> Query {
    Query::Term { field: field.into(), value, case_insensitive: false, boost: 1.0 }
}

fn any() -> Query {
    Query::MatchAll { boost: 1.0 }
}

#[track_caller]
#[expect(clippy::needless_pass_by_value, reason = "tables read better without references")]
fn check(json: Value, expected: Query) {
    assert_eq!(read(&json).unwrap(), expected, "{json}");
}

#[track_caller]
#[expect(clippy::needless_pass_by_value, reason = "tables read better without references")]
fn refused(json: Value, reason: &str) {
    assert_eq!(read(&json).unwrap_err().reason(), reason, "{json}");
}

#[test]
fn full_text_clauses() {
    check(json!({"match": {"f": "x"}}), Query::Match(matching("f", "x")));
    check(
        json!({"match": {"f": {"query": 5, "operator": "AND", "fuzziness": "AUTO:4,8",
            "minimum_should_match": "2<75%", "lenient": "true", "boost": 2, "analyzer": "simple",
            "zero_terms_query": "all", "max_expansions": 9, "prefix_length": 1}}}),
        Query::Match(Match {
            field: "f".into(),
            value: Scalar::I64(5),
            operator: Operator::And,
            minimum_should_match: Some(MinimumShouldMatch::Above(vec![(
                2,
                MinimumShouldMatch::Percent(75),
            )])),
            fuzziness: Some(Fuzziness::Auto { low: 4, high: 8 }),
            prefix_length: 1,
            max_expansions: 9,
            analyzer: Some("simple".into()),
            zero_terms: ZeroTerms::All,
            lenient: true,
            prefix_last: false,
            boost: 2.0,
        }),
    );
    let phrase = |prefix_last, slop| {
        Query::MatchPhrase(MatchPhrase {
            field: "f".into(),
            value: text("a b"),
            slop,
            analyzer: None,
            zero_terms: ZeroTerms::None,
            prefix_last,
            max_expansions: 50,
            boost: 1.0,
        })
    };
    check(json!({"match_phrase": {"f": {"query": "a b", "slop": 2}}}), phrase(false, 2));
    check(json!({"match_phrase_prefix": {"f": "a b"}}), phrase(true, 0));
    check(
        json!({"match_bool_prefix": {"f": "a b"}}),
        Query::Match(Match { prefix_last: true, ..matching("f", "a b") }),
    );
    check(
        json!({"multi_match": {"query": "x", "fields": ["a^2.5", "b*"], "type": "most_fields",
            "tie_breaker": 0.3}}),
        Query::MultiMatch(MultiMatch {
            fields: vec![("a".into(), 2.5), ("b*".into(), 1.0)],
            kind: MultiMatchKind::MostFields,
            tie_breaker: Some(0.3),
            options: matching("", "x"),
            slop: 0,
        }),
    );
}

#[test]
fn wrong_full_text_clauses() {
    refused(
        json!({"match": {"f": {"query": "x", "bar": 1}}}),
        "[match] query does not support [bar]",
    );
    refused(
        json!({"match": {"a": "x", "b": "y"}}),
        "[match] query doesn't support multiple fields, found [a] and [b]",
    );
    refused(json!({"match": {"f": ["x"]}}), "[match] unknown token [START_ARRAY] after [f]");
    refused(json!({"match": {"f": {}}}), "No text specified for text query");
    refused(json!({"match": {"f": null}}), "No text specified for text query");
    refused(json!({"match": "x"}), "[match] query malformed, no start_object after query name");
    refused(
        json!({"match": {"f": {"query": "x", "operator": "xor"}}}),
        "[match] operator needs to be either [or] or [and], but not [xor]",
    );
    refused(json!({"match": {"f": {"query": "x", "fuzziness": 3}}}), "Invalid fuzziness value: 3");
    refused(
        json!({"match": {"f": {"query": "x", "boost": -1}}}),
        "negative [boost] are not allowed in [match], found [-1]",
    );
    refused(
        json!({"match_phrase": {"f": {"query": "x", "fuzziness": 1}}}),
        "[match_phrase] query does not support [fuzziness]",
    );
    refused(
        json!({"multi_match": {"query": "x", "type": "cross_field"}}),
        "failed to parse [multi_match] query type [cross_field]. unknown type. did you mean \
         [cross_fields]?",
    );
    refused(
        json!({"multi_match": {"query": "x", "type": "phrase", "fuzziness": 1}}),
        "Fuzziness not allowed for type [phrase]",
    );
}

#[test]
fn term_level_clauses() {
    check(json!({"term": {"f": "x"}}), term("f", text("x")));
    check(json!({"term": {"f": {"value": 1.5}}}), term("f", Scalar::F64(1.5)));
    check(
        json!({"terms": {"f": [1, "a", true], "boost": 3}}),
        Query::Terms {
            field: "f".into(),
            values: vec![Scalar::I64(1), text("a"), Scalar::Bool(true)],
            boost: 3.0,
        },
    );
    let range = |lower, upper| {
        Query::Range(Range {
            field: "f".into(),
            lower,
            upper,
            format: None,
            time_zone: None,
            relation: Relation::Intersects,
            boost: 1.0,
        })
    };
    check(
        json!({"range": {"f": {"gte": 1, "lt": "x"}}}),
        range(Some((Scalar::I64(1), true)), Some((text("x"), false))),
    );
    check(
        json!({"range": {"f": {"from": 1, "to": null, "include_lower": false}}}),
        range(Some((Scalar::I64(1), false)), None),
    );
    check(
        json!({"prefix": {"f": {"value": "x", "case_insensitive": true}}}),
        Query::Prefix { field: "f".into(), value: "x".into(), case_insensitive: true, boost: 1.0 },
    );
    check(
        json!({"wildcard": {"f": "x*?"}}),
        Query::Wildcard {
            field: "f".into(),
            value: "x*?".into(),
            case_insensitive: false,
            boost: 1.0,
        },
    );
    check(json!({"exists": {"field": "f"}}), Query::Exists { field: "f".into(), boost: 1.0 });
    check(
        json!({"ids": {"values": ["a", 1]}}),
        Query::Ids { values: vec!["a".into(), "1".into()], boost: 1.0 },
    );
    check(
        json!({"fuzzy": {"f": {"value": "x", "fuzziness": "1"}}}),
        Query::Fuzzy {
            field: "f".into(),
            value: "x".into(),
            fuzziness: Fuzziness::Edits(1),
            prefix_length: 0,
            max_expansions: 50,
            transpositions: true,
            boost: 1.0,
        },
    );
}

#[test]
fn wrong_term_level_clauses() {
    refused(json!({"term": {"f": ["x"]}}), "[term] query does not support array of values");
    refused(json!({"term": {"f": {"valu": 1}}}), "[term] query does not support [valu]");
    refused(json!({"term": {"f": null}}), "value cannot be null");
    refused(
        json!({"terms": {}}),
        "[terms] query requires a field name, followed by array of terms or a document lookup \
         specification",
    );
    refused(
        json!({"terms": {"a": [1], "b": [2]}}),
        "[terms] query does not support multiple fields, found [a] and [b]",
    );
    refused(
        json!({"terms": {"a": {"index": "x"}}}),
        "[terms] query does not support a lookup of terms, found one for [a]",
    );
    refused(json!({"range": {"f": {"gtr": 1}}}), "[range] query does not support [gtr]");
    refused(json!({"range": {"f": 5}}), "[range] query malformed, no start_object after field [f]");
    refused(json!({"exists": {}}), "[exists] must be provided with a [field]");
    refused(
        json!({"prefix": {"f": {"value": "x", "rewrite": "scoring_boolean"}}}),
        "[prefix] [rewrite] supports only [constant_score, constant_score_blended], but not \
         [scoring_boolean]",
    );
}

#[test]
fn compound_clauses() {
    check(
        json!({"bool": {"must": {"match_all": {}}, "filter": [{"term": {"f": 1}}],
            "minimum_should_match": -1}}),
        Query::Bool(Bool {
            must: vec![any()],
            filter: vec![term("f", Scalar::I64(1))],
            minimum_should_match: Some(MinimumShouldMatch::Count(-1)),
            ..empty_bool()
        }),
    );
    check(json!({"bool": {}}), any());
    check(
        json!({"constant_score": {"filter": {"match_none": {}}, "boost": 2}}),
        Query::ConstantScore { filter: Box::new(Query::MatchNone), boost: 2.0 },
    );
    check(
        json!({"dis_max": {"queries": [{"match_all": {}}], "tie_breaker": 0.5}}),
        Query::DisMax { queries: vec![any()], tie_breaker: 0.5, boost: 1.0 },
    );
}

#[test]
fn wrong_compound_clauses() {
    refused(json!({"bool": {"musts": []}}), "[bool] unknown field [musts] did you mean [must]?");
    refused(json!({"mach": {}}), "unknown query [mach] did you mean [match]?");
    refused(json!({"foo": {}}), "unknown query [foo]");
    refused(json!({}), "query malformed, empty clause found");
    refused(json!([]), "[_na] query malformed, must start with start_object");
    refused(
        json!({"match_all": {}, "term": {}}),
        "[match_all] malformed query, expected [END_OBJECT] but found [FIELD_NAME] [term]",
    );
    refused(json!({"constant_score": {}}), "[constant_score] requires a 'filter' element");
    refused(
        json!({"dis_max": {"queries": []}}),
        "[dis_max] requires 'queries' field with at least one clause",
    );
    refused(json!({"bool": {"must": "x"}}), "[bool] unknown token [VALUE_STRING] after [must]");
    let mut deep = json!({"match_all": {}});
    for _ in 0..MAX_QUERY_DEPTH {
        deep = json!({"bool": {"must": deep}});
    }
    assert!(read(&deep).unwrap_err().reason().contains("max_nested_depth"));
    let many = vec![json!({"match_all": {}}); MAX_QUERY_CLAUSES];
    assert!(
        read(&json!({"bool": {"must": many}})).unwrap_err().reason().contains("maxClauseCount")
    );
}

#[test]
fn query_strings() {
    let check = |written: &str, expected: Query| {
        let json = json!({"query_string": {"query": written, "default_field": "title"}});
        assert_eq!(read(&json).unwrap(), expected, "{written}");
    };
    let title = |value: &str| Query::Match(matching("title", value));
    let group = |must: Vec<Query>, should: Vec<Query>, must_not: Vec<Query>| {
        Query::Bool(Bool { must, should, must_not, ..empty_bool() })
    };
    let range = |field: &str, lower, upper| {
        let (format, time_zone, relation, boost) = (None, None, Relation::Intersects, 1.0);
        Query::Range(Range {
            field: field.into(),
            lower,
            upper,
            format,
            time_zone,
            relation,
            boost,
        })
    };
    check("a b", title("a b"));
    check("a AND b", group(vec![title("a"), title("b")], vec![], vec![]));
    check("a OR b", group(vec![], vec![title("a"), title("b")], vec![]));
    check("+a -b c", group(vec![title("a")], vec![title("c")], vec![title("b")]));
    check("a NOT b", group(vec![], vec![title("a")], vec![title("b")]));
    check("tag:x", Query::Match(matching("tag", "x")));
    check("(a b)^2", Query::Boost { query: Box::new(title("a b")), boost: 2.0 });
    check("a^2", Query::Match(Match { boost: 2.0, ..matching("title", "a") }));
    check("*:*", any());
    check("_exists_:tag", Query::Exists { field: "tag".into(), boost: 1.0 });
    check("tag:*", Query::Exists { field: "tag".into(), boost: 1.0 });
    check("age:>=5", range("age", Some((text("5"), true)), None));
    check("age:[1 TO 5}", range("age", Some((text("1"), true)), Some((text("5"), false))));
    check("age:{* TO 5]", range("age", None, Some((text("5"), true))));
    check(r"a\:b", title("a:b"));
    check(
        "tag:Ab*",
        Query::Prefix {
            field: "tag".into(),
            value: "Ab".into(),
            case_insensitive: false,
            boost: 1.0,
        },
    );
    check(
        "Ab?c",
        Query::Wildcard {
            field: "title".into(),
            value: "Ab?c".into(),
            case_insensitive: true,
            boost: 1.0,
        },
    );
    check(
        "x~1",
        Query::Match(Match { fuzziness: Some(Fuzziness::Edits(1)), ..matching("title", "x") }),
    );
    check(
        "tag:(a OR b)",
        group(
            vec![],
            vec![Query::Match(matching("tag", "a")), Query::Match(matching("tag", "b"))],
            vec![],
        ),
    );
    check("", Query::MatchNone);
}

#[test]
fn query_strings_over_every_field() {
    let json = json!({"query_string": {"query": "x", "default_operator": "and"}});
    let options = Match { operator: Operator::And, lenient: true, ..matching("", "x") };
    check(
        json,
        Query::MultiMatch(MultiMatch {
            fields: Vec::new(),
            kind: MultiMatchKind::BestFields,
            tie_breaker: None,
            options,
            slop: 0,
        }),
    );
    let prefix = |field: &str, case_insensitive| Query::Prefix {
        field: field.into(),
        value: "x".into(),
        case_insensitive,
        boost: 1.0,
    };
    check(
        json!({"query_string": {"query": "x*"}}),
        Query::DisMax {
            queries: vec![prefix("title", true), prefix("body", true), prefix("tag", false)],
            tie_breaker: 0.0,
            boost: 1.0,
        },
    );
}

#[test]
fn wrong_query_strings() {
    let check = |written: &str| {
        let json = json!({"query_string": {"query": written}});
        let error = read(&json).unwrap_err();
        assert_eq!(error.reason(), format!("Failed to parse query [{written}]"));
    };
    for written in ["a AND", "AND a", "(a", "a)", "f:", "\"a", "[1 TO", "a:[1 2]", "/x/", "a^^"] {
        check(written);
    }
    refused(json!({"query_string": {}}), "[query_string] must be provided with a [query]");
    refused(
        json!({"query_string": {"query": "x", "bar": 1}}),
        "[query_string] query does not support [bar]",
    );
}

#[test]
fn simple_query_strings() {
    let check = |written: &str, expected: Query| {
        let json = json!({"simple_query_string": {"query": written, "fields": ["title"]}});
        assert_eq!(read(&json).unwrap(), expected, "{written}");
    };
    let title = |value: &str| Query::Match(matching("title", value));
    let and = |must| Query::Bool(Bool { must, ..empty_bool() });
    let or = |should| Query::Bool(Bool { should, ..empty_bool() });
    check("a", title("a"));
    check("a b", or(vec![title("a"), title("b")]));
    check("a + b", and(vec![title("a"), title("b")]));
    check("a + b | c", or(vec![and(vec![title("a"), title("b")]), title("c")]));
    check("(a | b) + c", and(vec![or(vec![title("a"), title("b")]), title("c")]));
    check(
        "a -b",
        or(vec![
            title("a"),
            Query::Bool(Bool { filter: vec![any()], must_not: vec![title("b")], ..empty_bool() }),
        ]),
    );
    check(
        "x*",
        Query::Prefix {
            field: "title".into(),
            value: "x".into(),
            case_insensitive: true,
            boost: 1.0,
        },
    );
    check(
        "x~2",
        Query::Match(Match {
            fuzziness: Some(Fuzziness::Edits(2)),
            max_expansions: 50,
            ..matching("title", "x")
        }),
    );
    check(r"a\+b", title("a+b"));
    for senseless in ["", "+", "|", ")", "\"\""] {
        check(senseless, Query::MatchNone);
    }
    check("(a", title("a"));
    check("\"a", title("a"));
}

proptest::proptest! {
    #[test]
    fn no_text_panics(written in "[a-c*?~^:()\\[\\]{}\"+|! \\\\-]{0,24}|.{0,12}") {
        let json = json!({"query_string": {"query": written}});
        let _ = read(&json);
        let json = json!({"simple_query_string": {"query": written}});
        assert!(read(&json).is_ok(), "{written}");
    }
}
