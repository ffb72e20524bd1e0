//! Random documents, indexes and queries, the same for the same seed.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;

use rand::prelude::*;
use serde_json::{Value, json};

use super::{Document, KINDS, Model, TAGS, WORDS};
use crate::query::ast::{
    Bool, Fuzziness, Match, MatchPhrase, MinimumShouldMatch, MultiMatch, MultiMatchKind, Operator,
    Query, Range, Relation, Scalar, ZeroTerms,
};
use crate::search::fixture;
use crate::snapshot::Snapshot;

fn mapping() -> Value {
    json!({"dynamic": "strict", "properties": {
        "title": {"type": "text"},
        "body": {"type": "text"},
        "tag": {"type": "keyword"},
        "kind": {"type": "keyword"},
        "n": {"type": "long"},
        "price": {"type": "double"},
        "on": {"type": "boolean"},
        "at": {"type": "date"},
    }})
}

/// Draws.
pub(in crate::search) struct Draw {
    pub(in crate::search) random: StdRng,
}

impl Draw {
    pub(in crate::search) fn chance(&mut self, percent: u32) -> bool {
        self.random.random_ratio(percent, 100)
    }

    pub(in crate::search) fn below(&mut self, bound: usize) -> usize {
        self.random.random_range(0..bound)
    }

    fn word(&mut self) -> String {
        // The first words are the frequent ones.
        let place = self.below(WORDS.len()).min(self.below(WORDS.len()));
        WORDS[place].to_owned()
    }

    fn words(&mut self, most: usize) -> String {
        let count = 1 + self.below(most);
        (0..count).map(|_| self.word()).collect::<Vec<_>>().join(" ")
    }

    fn document(&mut self) -> Value {
        let mut source = serde_json::Map::new();
        if self.chance(80) {
            source.insert("title".into(), self.words(4).into());
        }
        if self.chance(60) {
            source.insert("body".into(), self.words(12).into());
        }
        if self.chance(80) {
            let tags: BTreeSet<&str> =
                (0..=self.below(2)).map(|_| TAGS[self.below(TAGS.len())]).collect();
            source.insert("tag".into(), tags.into_iter().collect::<Vec<_>>().into());
        }
        if self.chance(80) {
            let values: Vec<i64> =
                (0..=self.below(3) / 2).map(|_| self.random.random_range(-5..15)).collect();
            source.insert("n".into(), values.into());
        }
        if self.chance(70) {
            source.insert(
                "price".into(),
                (f64::from(self.random.random_range(0_u8..40)) / 4.0).into(),
            );
        }
        if self.chance(70) {
            source.insert("on".into(), self.chance(50).into());
        }
        if self.chance(70) {
            let (month, day) = (1 + self.below(12), 1 + self.below(28));
            source.insert("at".into(), format!("2024-{month:02}-{day:02}").into());
        }
        Value::Object(source)
    }

    /// Mostly one keyword, and in a few of the segments that are large two in some document.
    fn kinds(&mut self, having: u32) -> Vec<&'static str> {
        let several = usize::from(self.chance(1) && self.chance(10));
        let count = usize::from(self.chance(having)) + several;
        (0..count).map(|_| KINDS[self.below(3).min(self.below(4))]).collect()
    }

    pub(in crate::search) fn index(&mut self, name: &str) -> (Arc<Snapshot>, Model) {
        self.index_of(name, 40)
    }

    /// Of segments that have at most so many documents.
    pub(super) fn index_of(&mut self, name: &str, most: usize) -> (Arc<Snapshot>, Model) {
        let mut documents = Vec::new();
        let mut segments = Vec::new();
        for _ in 0..=self.below(4) {
            let count = 1 + self.below(most);
            let having = [90, 100][self.below(2)];
            let segment: Vec<(String, Value)> = (0..count)
                .map(|_| {
                    let id = format!("{name}{}", documents.len());
                    let mut source = self.document();
                    source["kind"] = self.kinds(having).into();
                    documents.push(Document { id: id.clone(), source: source.clone() });
                    (id, source)
                })
                .collect();
            segments.push(segment);
        }
        let share = if self.chance(50) { 0 } else { 20 };
        let documents: Vec<(Document, bool)> = documents
            .into_iter()
            .map(|document| {
                let alive = !self.chance(share);
                (document, alive)
            })
            .collect();
        let deleted: Vec<String> = documents
            .iter()
            .filter(|(_, alive)| !alive)
            .map(|(document, _)| document.id.clone())
            .collect();
        let model =
            Model { documents, statistics: RefCell::default(), doc_freqs: RefCell::default() };
        (fixture::snapshot(name, &mapping(), &segments, &deleted), model)
    }

    /// A word of a title.
    pub(super) fn word_query(&mut self) -> Query {
        let (field, value) = ("title".into(), Scalar::Text(self.word()));
        Query::Term { field, value, case_insensitive: false, boost: 1.0 }
    }

    /// A keyword that documents must have.
    pub(super) fn keyword(&mut self) -> Query {
        let (field, value) = if self.chance(70) {
            ("kind", KINDS[self.below(KINDS.len())])
        } else {
            ("tag", TAGS[self.below(TAGS.len())])
        };
        Query::Term {
            field: field.into(),
            value: Scalar::Text(value.into()),
            case_insensitive: false,
            boost: 1.0,
        }
    }

    fn boost(&mut self) -> f32 {
        *[1.0, 1.0, 2.0, 0.5].choose(&mut self.random).unwrap()
    }

    fn text_field(&mut self) -> String {
        if self.chance(50) { "title".into() } else { "body".into() }
    }

    fn match_clause(&mut self) -> Match {
        let text = self.words(3);
        let minimum_should_match =
            self.chance(20).then_some(MinimumShouldMatch::Count(1 + i32::from(self.chance(50))));
        Match {
            field: self.text_field(),
            value: Scalar::Text(text),
            operator: if self.chance(30) { Operator::And } else { Operator::Or },
            minimum_should_match,
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

    fn text_query(&mut self) -> Query {
        let clause = self.match_clause();
        match self.below(5) {
            0 => Query::Match(Match { fuzziness: Some(Fuzziness::Edits(1)), ..clause }),
            1 => Query::MatchPhrase(MatchPhrase {
                field: clause.field,
                value: clause.value,
                slop: 0,
                analyzer: None,
                zero_terms: ZeroTerms::None,
                prefix_last: false,
                max_expansions: 50,
                boost: self.boost(),
            }),
            2 => Query::MultiMatch(MultiMatch {
                fields: vec![("title".into(), self.boost()), ("body".into(), self.boost())],
                kind: if self.chance(50) {
                    MultiMatchKind::BestFields
                } else {
                    MultiMatchKind::MostFields
                },
                tie_breaker: None,
                options: clause,
                slop: 0,
            }),
            3 => Query::Match(Match {
                prefix_last: true,
                value: Scalar::Text(format!("{} ba", self.word())),
                minimum_should_match: None,
                ..clause
            }),
            _ => Query::Match(Match { boost: self.boost(), ..clause }),
        }
    }

    pub(in crate::search) fn leaf(&mut self) -> Query {
        let boost = self.boost();
        match self.below(12) {
            0 => Query::MatchAll { boost },
            1..=3 => self.tag(boost),
            4 => self.range(),
            5 => Query::Prefix {
                field: self.text_field(),
                value: "ba".into(),
                case_insensitive: false,
                boost,
            },
            6 => Query::Wildcard {
                field: "title".into(),
                value: ["a*e", "*y", "r*"][self.below(3)].into(),
                case_insensitive: false,
                boost,
            },
            7 => {
                let value = ["appel", "apple", "bananas", "fi"][self.below(4)];
                fuzzy(self.text_field(), value, boost)
            }
            8 => {
                let field = ["title", "tag", "n", "on", "at"][self.below(5)].into();
                Query::Exists { field, boost }
            }
            9 if self.chance(50) => Query::Terms {
                field: "n".into(),
                values: vec![Scalar::I64(3), Scalar::F64(2.5), Scalar::I64(-1)],
                boost,
            },
            9 => Query::Term {
                field: "on".into(),
                value: Scalar::Bool(self.chance(50)),
                case_insensitive: false,
                boost,
            },
            10 => Query::Ids { values: vec!["a1".into(), "a7".into(), "no".into()], boost },
            _ => Query::Term {
                field: self.text_field(),
                value: Scalar::Text(self.word()),
                case_insensitive: false,
                boost,
            },
        }
    }

    /// A clause on keywords, short and long.
    fn tag(&mut self, boost: f32) -> Query {
        let field = "tag".to_owned();
        let place = self.below(TAGS.len());
        match self.below(6) {
            0 => Query::Term { field, value: text(TAGS[place]), case_insensitive: false, boost },
            1 => {
                let value = text(["rEd", "RED admirals over the Marshes"][place % 2]);
                Query::Term { field, value, case_insensitive: true, boost }
            }
            2 => {
                let values = TAGS[place..].iter().copied().map(text).collect();
                Query::Terms { field, values, boost }
            }
            3 => {
                let values =
                    ["re", "red a", "red admirals over the m", "red admirals over the mea"];
                let value = values[place % 4].into();
                Query::Prefix { field, value, case_insensitive: false, boost }
            }
            4 => {
                let value = ["a*e", "r*", "red ad*s", "*e marshes"][place % 4].into();
                Query::Wildcard { field, value, case_insensitive: false, boost }
            }
            _ => {
                let values =
                    ["rad", "red admirals over the marsh", "red admirals over teh meadows"];
                fuzzy(field, values[place % 3], boost)
            }
        }
    }

    fn range(&mut self) -> Query {
        let bound = |draw: &mut Self, scalar: Scalar| {
            let included = draw.chance(50);
            draw.chance(75).then_some((scalar, included))
        };
        let (field, low, high) = match self.below(5) {
            0 => ("n", Scalar::I64(1), Scalar::F64(7.5)),
            1 => ("price", Scalar::F64(2.25), Scalar::I64(8)),
            2 => ("tag", text("blue"), text("rec")),
            3 => ("tag", text("red admirals"), text(TAGS[TAGS.len() - 1])),
            // Days compare as their texts do.
            _ => ("at", Scalar::Text("2024-03-05".into()), Scalar::Text("2024-09-20".into())),
        };
        Query::Range(Range {
            field: field.into(),
            lower: bound(self, low),
            upper: bound(self, high),
            format: None,
            time_zone: None,
            relation: Relation::Intersects,
            boost: self.boost(),
        })
    }

    pub(in crate::search) fn query(&mut self, depth: usize) -> Query {
        if depth == 0 || self.chance(30) {
            return if self.chance(50) { self.leaf() } else { self.text_query() };
        }
        match self.below(6) {
            0 => Query::ConstantScore {
                filter: Box::new(self.query(depth - 1)),
                boost: self.boost(),
            },
            1 => Query::DisMax {
                queries: (0..=self.below(3)).map(|_| self.query(depth - 1)).collect(),
                tie_breaker: if self.chance(50) { 0.0 } else { 0.3 },
                boost: self.boost(),
            },
            2 => Query::Boost { query: Box::new(self.query(depth - 1)), boost: self.boost() },
            _ => {
                let mut some = |percent| -> Vec<Query> {
                    let count = usize::from(self.chance(percent)) * (1 + self.below(3));
                    (0..count).map(|_| self.query(depth - 1)).collect()
                };
                let (must, filter, should, must_not) = (some(50), some(40), some(50), some(20));
                let minimum_should_match = self
                    .chance(25)
                    .then(|| MinimumShouldMatch::Count(i32::try_from(self.below(4)).unwrap()));
                let boost = self.boost();
                Query::Bool(Bool { must, filter, should, must_not, minimum_should_match, boost })
            }
        }
    }
}

fn text(text: &str) -> Scalar {
    Scalar::Text(text.into())
}

fn fuzzy(field: String, value: &str, boost: f32) -> Query {
    Query::Fuzzy {
        field,
        value: value.into(),
        fuzziness: Fuzziness::Edits(1),
        prefix_length: 0,
        max_expansions: 50,
        transpositions: true,
        boost,
    }
}
