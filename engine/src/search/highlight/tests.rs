//! Highlighting by tables: what is marked, and how texts are cut.

use serde_json::{Value, json};

use crate::query::ast::{
    Bool, Fuzziness, Match, MatchPhrase, MultiMatch, MultiMatchKind, Operator, Query, Scalar,
    ZeroTerms,
};
use crate::search::request::{Highlight, HighlightOptions, SearchRequest};
use crate::search::{fixture, search};

fn mapping() -> Value {
    json!({"properties": {
        "title": {"type": "text", "fields": {"raw": {"type": "keyword"}}},
        "body": {"type": "text", "analyzer": "english"},
        "tag": {"type": "keyword"},
        "by": {"properties": {"name": {"type": "text"}}},
    }})
}

fn matching(field: &str, text: &str) -> Match {
    Match {
        field: field.into(),
        value: Scalar::Text(text.into()),
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

fn phrase(field: &str, text: &str, slop: u32, prefix_last: bool) -> Query {
    Query::MatchPhrase(MatchPhrase {
        field: field.into(),
        value: Scalar::Text(text.into()),
        slop,
        analyzer: None,
        zero_terms: ZeroTerms::None,
        prefix_last,
        max_expansions: 50,
        boost: 1.0,
    })
}

/// The fragments of one document, whatever the query matches.
fn highlight(
    document: &Value,
    query: Query,
    fields: Vec<(String, HighlightOptions)>,
) -> Vec<(String, Vec<String>)> {
    let snapshot = fixture::one_segment(&mapping(), std::slice::from_ref(document));
    let everything = Query::MatchAll { boost: 1.0 };
    let query = Query::Bool(Bool {
        must: vec![everything],
        filter: Vec::new(),
        should: vec![query],
        must_not: Vec::new(),
        minimum_should_match: None,
        boost: 1.0,
    });
    let highlight = Some(Highlight { fields });
    let request = SearchRequest { query, highlight, ..SearchRequest::default() };
    search(&[snapshot], &request).unwrap().hits.remove(0).highlight
}

fn short() -> HighlightOptions {
    HighlightOptions { pre_tag: "[".into(), post_tag: "]".into(), ..HighlightOptions::default() }
}

#[test]
fn what_the_query_looks_for_is_marked() {
    let document = json!({
        "title": "The Quick Brown fox, a fox of quick wit",
        "body": "Foxes running and jumped",
        "tag": ["red fox", "blue"],
        "by": [{"name": "Ann Fox"}, {"name": "Bob"}],
    });
    let check = |query: Query, field: &str, expected: &[&str]| {
        let found = highlight(&document, query.clone(), vec![(field.into(), short())]);
        let fragments: Vec<&str> =
            found.iter().flat_map(|(_, fragments)| fragments).map(String::as_str).collect();
        assert_eq!(fragments, expected, "{query:?}");
    };
    let matched = |field: &str, text: &str| Query::Match(matching(field, text));
    check(
        matched("title", "QUICK wit"),
        "title",
        &["The [Quick] Brown fox, a fox of [quick] [wit]"],
    );
    check(
        phrase("title", "quick brown", 0, false),
        "title",
        &["The [Quick] [Brown] fox, a fox of quick wit"],
    );
    check(
        phrase("title", "brown quick", 2, false),
        "title",
        &["The [Quick] [Brown] fox, a fox of quick wit"],
    );
    check(
        phrase("title", "quick bro", 0, true),
        "title",
        &["The [Quick] [Brown] fox, a fox of quick wit"],
    );
    check(phrase("title", "brown quick", 0, false), "title", &[]);
    check(matched("body", "fox runs"), "body", &["[Foxes] [running] and jumped"]);
    check(matched("by.name", "fox"), "by.name", &["Ann [Fox]"]);
    check(matched("by.name", "fox"), "*.name", &["Ann [Fox]"]);
    let fuzzy = Match { fuzziness: Some(Fuzziness::Edits(1)), ..matching("title", "quack") };
    check(Query::Match(fuzzy), "title", &["The [Quick] Brown fox, a fox of [quick] wit"]);
    let prefix = Query::Prefix {
        field: "title".into(),
        value: "br".into(),
        case_insensitive: false,
        boost: 1.0,
    };
    check(prefix, "title", &["The Quick [Brown] fox, a fox of quick wit"]);
    let term = Query::Term {
        field: "tag".into(),
        value: Scalar::Text("red fox".into()),
        case_insensitive: false,
        boost: 1.0,
    };
    check(term.clone(), "tag", &["[red fox]"]);
    let not = Query::Bool(Bool {
        must: Vec::new(),
        filter: vec![matched("title", "fox")],
        should: Vec::new(),
        must_not: vec![matched("title", "nothing"), term],
        minimum_should_match: None,
        boost: 1.0,
    });
    check(not, "title", &["The Quick Brown [fox], a [fox] of quick wit"]);
    let multi = Query::MultiMatch(MultiMatch {
        fields: vec![("title".into(), 1.0), ("by.*".into(), 2.0)],
        kind: MultiMatchKind::BestFields,
        tie_breaker: None,
        options: matching("", "ann wit"),
        slop: 0,
    });
    check(multi, "*", &["The Quick Brown fox, a fox of quick [wit]", "[Ann] Fox"]);
}

#[test]
fn texts_are_cut_at_sentences_and_words() {
    let text = "One sentence here. Second has the word. Third is longer and again has a word in \
                it, as one may see. Last.";
    let check = |options: HighlightOptions, expected: &[&str]| {
        let query = Query::Match(matching("title", "word"));
        let found =
            highlight(&json!({"title": text}), query, vec![("title".into(), options.clone())]);
        let fragments: Vec<&str> =
            found.iter().flat_map(|(_, fragments)| fragments).map(String::as_str).collect();
        assert_eq!(fragments, expected, "{options:?}");
    };
    check(
        HighlightOptions { fragment_size: 30, ..short() },
        &["Second has the [word].", "again has a [word] in it, as"],
    );
    check(
        HighlightOptions { fragment_size: 30, number_of_fragments: 1, ..short() },
        &["Second has the [word]."],
    );
    check(
        HighlightOptions { fragment_size: 70, ..short() },
        &[
            "Second has the [word].",
            "Third is longer and again has a [word] in it, as one may see. Last.",
        ],
    );
    let whole = text.replace("word", "[word]");
    check(HighlightOptions { number_of_fragments: 0, ..short() }, &[whole.as_str()]);
    check(
        HighlightOptions { fragment_size: 1000, ..short() },
        &[
            "Second has the [word]. Third is longer and again has a [word] in it, as one may see. Last.",
        ],
    );
}

#[test]
fn options() {
    let document = json!({"title": "a <b> & 'c'", "tag": "a", "body": "nothing of it at all"});
    let check = |fields: Vec<(&str, HighlightOptions)>, expected: &[(&str, &str)]| {
        let fields = fields.into_iter().map(|(name, options)| (name.to_owned(), options));
        let query = Query::Match(matching("title", "a"));
        let found = highlight(&document, query, fields.collect());
        let found: Vec<(&str, &str)> =
            found.iter().map(|(name, fragments)| (name.as_str(), fragments[0].as_str())).collect();
        assert_eq!(found, expected);
    };
    check(
        vec![("title", HighlightOptions { encode_html: true, ..short() })],
        &[("title", "[a] &lt;b&gt; &amp; &#x27;c&#x27;")],
    );
    check(vec![("tag", short())], &[]);
    check(
        vec![("tag", HighlightOptions { require_field_match: false, ..short() })],
        &[("tag", "[a]")],
    );
    check(
        vec![("body", HighlightOptions { no_match_size: 12, ..short() })],
        &[("body", "nothing of")],
    );
    let other = Query::Match(matching("title", "c"));
    check(
        vec![("title", HighlightOptions { query: Some(other), ..short() })],
        &[("title", "a <b> & '[c]'")],
    );
}
