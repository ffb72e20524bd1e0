//! What is asked: queries of eight classes over `summary`, as Egret takes them.

use std::fmt;
use std::path::Path;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::corpus::{Corpus, lines};

/// A class of queries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    Term,
    And,
    Or,
    Phrase,
    Prefix,
    Fuzzy,
    FilterSort,
    Aggregation,
}

impl Class {
    /// All of them.
    pub(crate) const ALL: [Self; 8] = [
        Self::Term,
        Self::And,
        Self::Or,
        Self::Phrase,
        Self::Prefix,
        Self::Fuzzy,
        Self::FilterSort,
        Self::Aggregation,
    ];
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Term => "term",
            Self::And => "and",
            Self::Or => "or",
            Self::Phrase => "phrase",
            Self::Prefix => "prefix",
            Self::Fuzzy => "fuzzy",
            Self::FilterSort => "filtersort",
            Self::Aggregation => "agg",
        })
    }
}

/// One query.
#[derive(Debug, Clone)]
pub(crate) struct Query {
    pub(crate) class: Class,
    pub(crate) words: Vec<String>,
    /// For `FilterSort`: the value of `source`.
    pub(crate) source: String,
}

impl Query {
    /// The body of Egret's search.
    pub(crate) fn body(&self) -> Value {
        let text = self.words.join(" ");
        let first = &self.words[0];
        match self.class {
            Class::Term | Class::Or => json!({"query": {"match": {"summary": text}}}),
            Class::And => {
                json!({"query": {"match": {"summary": {"query": text, "operator": "and"}}}})
            }
            Class::Phrase => json!({"query": {"match_phrase": {"summary": text}}}),
            Class::Prefix => json!({"query": {"prefix": {"summary": first}}}),
            Class::Fuzzy => {
                json!({"query": {"fuzzy": {"summary": {"value": first, "fuzziness": 1}}}})
            }
            Class::FilterSort => json!({
                "query": {"bool": {"must": [{"match": {"summary": text}}],
                                   "filter": [{"term": {"source": self.source}}]}},
                "sort": [{"downloads": "desc"}]
            }),
            Class::Aggregation => json!({
                "size": 0,
                "query": {"match": {"summary": text}},
                "aggs": {"years": {"terms": {"field": "year", "size": 10}}}
            }),
        }
    }
}

/// Reads queries from a file, or draws forty of each class from the corpus's words.
pub(crate) fn load(path: Option<&Path>, corpus: &Corpus, seed: u64) -> Vec<Query> {
    match path {
        Some(path) => lines(path).map(|line| parse(&line)).collect(),
        None => draw(corpus, seed),
    }
}

fn parse(line: &str) -> Query {
    let json: Value = serde_json::from_str(line).expect("a query in JSON");
    let class = Class::ALL
        .into_iter()
        .find(|class| json["type"] == class.to_string())
        .unwrap_or_else(|| panic!("unknown query type in {line}"));
    let words = json["q"].as_array().expect("words").iter();
    let words = words.map(|word| word.as_str().expect("a word").to_owned()).collect();
    Query { class, words, source: json["source"].as_str().unwrap_or("pypi").to_owned() }
}

fn draw(corpus: &Corpus, seed: u64) -> Vec<Query> {
    const EACH: usize = 40;
    let mut random = StdRng::seed_from_u64(seed);
    let mut queries = Vec::new();
    for class in Class::ALL {
        for _ in 0..EACH {
            let doc = &corpus.docs[random.random_range(0..corpus.docs.len())];
            let doc: Value = serde_json::from_str(doc).expect("a document in JSON");
            let summary = doc["summary"].as_str().unwrap_or_default().to_lowercase();
            let words: Vec<&str> = summary
                .split(|c: char| !c.is_ascii_alphanumeric())
                .filter(|word| word.len() > 2)
                .collect();
            let Some(at) = words.len().checked_sub(2).map(|last| random.random_range(0..=last))
            else {
                continue;
            };
            let words = match class {
                Class::And | Class::Or | Class::Phrase => vec![words[at], words[at + 1]],
                Class::Prefix => vec![&words[at][..3]],
                _ => vec![words[at]],
            };
            queries.push(Query {
                class,
                words: words.into_iter().map(str::to_owned).collect(),
                source: doc["source"].as_str().unwrap_or_default().to_owned(),
            });
        }
    }
    queries
}
