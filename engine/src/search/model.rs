//! A naive model of search, and random indexes and queries on which the engine must agree with it:
//! the same documents match, in the same order, with scores by the formula.

use std::cell::RefCell;
use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use rand::prelude::*;
use serde_json::{Value, json};
use tantivy::fieldnorm::FieldNormReader;

use super::fixture;
use super::request::{Missing, SearchRequest, Sort, SortBy, SortMode, SortValue, TrackTotalHits};
use super::{count, search};
use crate::query::ast::{
    Bool, Fuzziness, Match, MatchPhrase, MinimumShouldMatch, MultiMatch, MultiMatchKind, Operator,
    Query, Range, Scalar, ZeroTerms,
};
use crate::snapshot::Snapshot;

const WORDS: [&str; 8] = ["apple", "apply", "ample", "banana", "bandana", "cherry", "date", "fig"];
const TAGS: [&str; 5] = ["red", "green", "blue", "Redder", "x y"];

fn mapping() -> Value {
    json!({"dynamic": "strict", "properties": {
        "title": {"type": "text"},
        "body": {"type": "text"},
        "tag": {"type": "keyword"},
        "n": {"type": "long"},
        "price": {"type": "double"},
        "on": {"type": "boolean"},
        "at": {"type": "date"},
    }})
}

/// A document as the model sees it.
#[derive(Debug, Clone)]
pub(super) struct Document {
    pub(super) id: String,
    source: Value,
}

impl Document {
    pub(super) fn values(&self, field: &str) -> Vec<&Value> {
        match self.source.get(field) {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(values)) => values.iter().collect(),
            Some(value) => vec![value],
        }
    }

    /// The words of a text field; each value's positions begin where the last one's end.
    fn words(&self, field: &str) -> Vec<String> {
        let texts = self.values(field).into_iter().filter_map(Value::as_str);
        texts.flat_map(str::split_whitespace).map(str::to_lowercase).collect()
    }

    fn texts(&self, field: &str) -> Vec<String> {
        self.values(field).into_iter().filter_map(Value::as_str).map(str::to_owned).collect()
    }
}

/// All documents of an index, and which of them live.
pub(super) struct Model {
    pub(super) documents: Vec<(Document, bool)>,
    statistics: RefCell<HashMap<String, (f32, f32)>>,
    doc_freqs: RefCell<HashMap<(String, String), f32>>,
}

/// A match has a score.
pub(super) type Scored = Option<f32>;

impl Model {
    fn is_text(field: &str) -> bool {
        ["title", "body"].contains(&field)
    }

    /// How many documents have a field, and its whole length.
    fn statistics(&self, field: &str) -> (f32, f32) {
        let known = self.statistics.borrow().get(field).copied();
        known.unwrap_or_else(|| {
            let counted = self.count_statistics(field);
            self.statistics.borrow_mut().insert(field.to_owned(), counted);
            counted
        })
    }

    fn count_statistics(&self, field: &str) -> (f32, f32) {
        let lengths = self.documents.iter().map(|(document, _)| {
            if Self::is_text(field) {
                document.words(field).len()
            } else {
                document.values(field).len()
            }
        });
        let lengths: Vec<usize> = lengths.filter(|length| *length > 0).collect();
        #[expect(clippy::cast_precision_loss, reason = "small")]
        (lengths.len() as f32, lengths.iter().sum::<usize>() as f32)
    }

    fn terms(&self, document: &Document, field: &str) -> Vec<String> {
        if Self::is_text(field) { document.words(field) } else { document.texts(field) }
    }

    fn doc_freq(&self, field: &str, term: &str) -> f32 {
        let key = (field.to_owned(), term.to_owned());
        let known = self.doc_freqs.borrow().get(&key).copied();
        known.unwrap_or_else(|| {
            let counted = self.count_documents(field, term);
            self.doc_freqs.borrow_mut().insert(key, counted);
            counted
        })
    }

    #[expect(clippy::cast_precision_loss, reason = "small")]
    fn count_documents(&self, field: &str, term: &str) -> f32 {
        let having = self
            .documents
            .iter()
            .filter(|(document, _)| self.terms(document, field).iter().any(|found| found == term));
        having.count() as f32
    }

    fn idf(&self, field: &str, doc_freq: f32) -> f32 {
        let (all, _) = self.statistics(field);
        (1.0 + (all - doc_freq + 0.5) / (doc_freq + 0.5)).ln()
    }

    /// Lucene's formula under the quantised length.
    #[expect(clippy::cast_precision_loss, reason = "small")]
    fn bm25(&self, document: &Document, field: &str, idf: f32, frequency: f32) -> f32 {
        let (having, tokens) = self.statistics(field);
        let length = if Self::is_text(field) { document.words(field).len() } else { 1 };
        let id = FieldNormReader::fieldnorm_to_id(u32::try_from(length).unwrap());
        let length = FieldNormReader::id_to_fieldnorm(id) as f32;
        let norm = 1.2 * (1.0 - 0.75 + 0.75 * length / (tokens / having));
        idf * 2.2 * frequency / (frequency + norm)
    }

    #[expect(clippy::cast_precision_loss, reason = "small")]
    fn term(&self, document: &Document, field: &str, term: &str, doc_freq: Option<f32>) -> Scored {
        let found = self.terms(document, field);
        let count = found.iter().filter(|found| *found == term).count();
        let frequency = if Self::is_text(field) { count as f32 } else { 1.0 };
        let doc_freq = doc_freq.unwrap_or_else(|| self.doc_freq(field, term));
        (count > 0).then(|| self.bm25(document, field, self.idf(field, doc_freq), frequency))
    }

    pub(super) fn matches(&self, document: &Document, query: &Query) -> Scored {
        let constant = |matches: bool, score: f32| matches.then_some(score);
        match query {
            Query::MatchAll { boost } => Some(*boost),
            Query::MatchNone => None,
            Query::Match(clause) => self.match_clause(document, clause),
            Query::MatchPhrase(clause) => self.phrase(document, clause),
            Query::MultiMatch(clause) => self.multi_match(document, clause),
            Query::Term { field, value, case_insensitive, boost } => {
                if *case_insensitive {
                    let Scalar::Text(wanted) = value else { unreachable!() };
                    let terms = self.terms(document, field);
                    let fits = terms.iter().any(|term| term.eq_ignore_ascii_case(wanted));
                    return constant(fits, *boost);
                }
                self.exact(document, field, value).map(|score| score * boost)
            }
            Query::Terms { field, values, boost } => {
                let fits = |value| self.exact(document, field, value).is_some();
                constant(values.iter().any(fits), *boost)
            }
            Query::Range(clause) => constant(Self::in_range(document, clause), clause.boost),
            Query::Prefix { field, value, boost, .. } => {
                let terms = self.terms(document, field);
                constant(terms.iter().any(|term| term.starts_with(value.as_str())), *boost)
            }
            Query::Wildcard { field, value, boost, .. } => {
                // Only patterns of the form `a*b` are drawn.
                let (start, end) = value.split_once('*').unwrap();
                let fits = |term: &String| {
                    term.len() >= start.len() + end.len()
                        && term.starts_with(start)
                        && term.ends_with(end)
                };
                constant(self.terms(document, field).iter().any(fits), *boost)
            }
            Query::Fuzzy { field, value, boost, .. } => {
                self.fuzzy(document, field, value).map(|score| score * boost)
            }
            Query::Exists { field, boost } => constant(!document.values(field).is_empty(), *boost),
            Query::Ids { values, boost } => constant(values.contains(&document.id), *boost),
            Query::Bool(clause) => self.bool(document, clause),
            Query::ConstantScore { filter, boost } => {
                constant(self.matches(document, filter).is_some(), *boost)
            }
            Query::DisMax { queries, tie_breaker, boost } => {
                let scores = queries.iter().filter_map(|query| self.matches(document, query));
                best(scores, *tie_breaker).map(|score| score * boost)
            }
            Query::Boost { query, boost } => {
                self.matches(document, query).map(|score| score * boost)
            }
        }
    }

    fn exact(&self, document: &Document, field: &str, value: &Scalar) -> Scored {
        let values = document.values(field);
        match (field, value) {
            ("n", Scalar::I64(wanted)) => {
                values.iter().any(|value| value.as_i64() == Some(*wanted)).then_some(1.0)
            }
            ("n", Scalar::F64(_)) => None,
            ("on", Scalar::Bool(wanted)) => {
                let having = |wanted: bool| {
                    let documents = self.documents.iter().filter(|(document, _)| {
                        document.values("on").iter().any(|value| value.as_bool() == Some(wanted))
                    });
                    #[expect(clippy::cast_precision_loss, reason = "small")]
                    let count = documents.count() as f32;
                    count
                };
                let found = values.iter().any(|value| value.as_bool() == Some(*wanted));
                let idf = self.idf("on", having(*wanted));
                found.then(|| self.bm25(document, "on", idf, 1.0))
            }
            (_, Scalar::Text(wanted)) => self.term(document, field, wanted, None),
            other => unreachable!("{other:?}"),
        }
    }

    fn in_range(document: &Document, clause: &Range) -> bool {
        let order = |value: &Value, bound: &Scalar| -> Ordering {
            match bound {
                Scalar::I64(bound) => value.as_f64().unwrap().total_cmp(&(*bound as f64)),
                Scalar::F64(bound) => value.as_f64().unwrap().total_cmp(bound),
                Scalar::Text(bound) => value.as_str().unwrap().cmp(bound.as_str()),
                other => unreachable!("{other:?}"),
            }
        };
        document.values(&clause.field).into_iter().any(|value| {
            clause.lower.as_ref().is_none_or(|(bound, included)| {
                let order = order(value, bound);
                order.is_gt() || *included && order.is_eq()
            }) && clause.upper.as_ref().is_none_or(|(bound, included)| {
                let order = order(value, bound);
                order.is_lt() || *included && order.is_eq()
            })
        })
    }

    fn fuzzy(&self, document: &Document, field: &str, value: &str) -> Scored {
        // Only one edit is drawn, and fewer words than expansions.
        let near: Vec<&str> = WORDS.iter().copied().filter(|word| one_edit(word, value)).collect();
        let most = near.iter().map(|word| self.doc_freq(field, word)).fold(0.0, f32::max);
        let scores = near.iter().filter_map(|word| {
            let score = self.term(document, field, word, Some(most))?;
            let shorter = u16::try_from(word.len().min(value.len())).unwrap();
            let alike = if *word == value { 1.0 } else { 1.0 - 1.0 / f32::from(shorter) };
            Some(score * alike)
        });
        sum(scores)
    }

    fn match_clause(&self, document: &Document, clause: &Match) -> Scored {
        let Scalar::Text(text) = &clause.value else { unreachable!() };
        let words: Vec<&str> = text.split_whitespace().collect();
        let scores: Vec<Scored> = words
            .iter()
            .enumerate()
            .map(|(place, word)| {
                if clause.prefix_last && place + 1 == words.len() {
                    let found = document.words(&clause.field);
                    return found.iter().any(|found| found.starts_with(word)).then_some(1.0);
                }
                if clause.fuzziness.is_some() {
                    return self.fuzzy(document, &clause.field, word);
                }
                self.term(document, &clause.field, word, None)
            })
            .collect();
        let matched = scores.iter().flatten().count();
        let needed = match (&clause.operator, &clause.minimum_should_match) {
            (Operator::And, _) => scores.len(),
            (Operator::Or, Some(MinimumShouldMatch::Count(count))) if scores.len() > 1 => {
                usize::try_from(*count).unwrap().max(1)
            }
            _ => 1,
        };
        let total = sum(scores.into_iter().flatten())? * clause.boost;
        (matched >= needed).then_some(total)
    }

    fn phrase(&self, document: &Document, clause: &MatchPhrase) -> Scored {
        let Scalar::Text(text) = &clause.value else { unreachable!() };
        let words: Vec<&str> = text.split_whitespace().collect();
        if let [word] = words.as_slice() {
            return self
                .term(document, &clause.field, word, None)
                .map(|score| score * clause.boost);
        }
        let found = document.words(&clause.field);
        let count = found.windows(words.len()).filter(|window| *window == words.as_slice()).count();
        let idf =
            words.iter().map(|word| self.idf(&clause.field, self.doc_freq(&clause.field, word)));
        let idf = idf.sum::<f32>();
        #[expect(clippy::cast_precision_loss, reason = "small")]
        let frequency = count as f32;
        (count > 0).then(|| self.bm25(document, &clause.field, idf, frequency) * clause.boost)
    }

    fn multi_match(&self, document: &Document, clause: &MultiMatch) -> Scored {
        let scores: Vec<f32> = clause
            .fields
            .iter()
            .filter_map(|(field, boost)| {
                let own = Match { field: field.clone(), boost: 1.0, ..clause.options.clone() };
                Some(self.match_clause(document, &own)? * boost)
            })
            .collect();
        let total = match clause.kind {
            MultiMatchKind::MostFields => sum(scores.into_iter()),
            _ => best(scores.into_iter(), clause.tie_breaker.unwrap_or(0.0)),
        };
        total.map(|score| score * clause.options.boost)
    }

    fn bool(&self, document: &Document, clause: &Bool) -> Scored {
        let scores = |queries: &[Query]| -> Vec<Scored> {
            queries.iter().map(|query| self.matches(document, query)).collect()
        };
        let (must, filter) = (scores(&clause.must), scores(&clause.filter));
        let (should, must_not) = (scores(&clause.should), scores(&clause.must_not));
        let needed = match &clause.minimum_should_match {
            Some(MinimumShouldMatch::Count(count)) => usize::try_from(*count).unwrap(),
            Some(_) => unreachable!("not drawn"),
            None => usize::from(must.is_empty() && filter.is_empty() && !should.is_empty()),
        };
        let fits = must.iter().chain(&filter).all(Option::is_some)
            && must_not.iter().all(Option::is_none)
            && should.iter().flatten().count() >= needed;
        let all_empty =
            must.is_empty() && filter.is_empty() && should.is_empty() && must_not.is_empty();
        let total: f32 = must.iter().chain(&should).flatten().sum();
        // An empty one matches everything, whatever it requires.
        if all_empty { Some(clause.boost) } else { fits.then_some(total * clause.boost) }
    }

    /// The living documents that match, best first.
    fn search(&self, query: &Query) -> Vec<(usize, f32)> {
        let living = self.documents.iter().enumerate().filter(|(_, (_, alive))| *alive);
        let mut hits: Vec<(usize, f32)> = living
            .filter_map(|(place, (document, _))| Some((place, self.matches(document, query)?)))
            .collect();
        hits.sort_by(|left, right| right.1.total_cmp(&left.1).then(left.0.cmp(&right.0)));
        hits
    }
}

fn sum(scores: impl Iterator<Item = f32>) -> Scored {
    scores.fold(None, |total, score| Some(total.unwrap_or(0.0) + score))
}

fn best(scores: impl Iterator<Item = f32>, tie_breaker: f32) -> Scored {
    let scores: Vec<f32> = scores.collect();
    let greatest = scores.iter().copied().reduce(f32::max)?;
    Some(greatest + tie_breaker * (scores.iter().sum::<f32>() - greatest))
}

/// Whether words of one length or neighbours in length are at most one edit apart.
fn one_edit(left: &str, right: &str) -> bool {
    let (left, right) = (left.as_bytes(), right.as_bytes());
    let start = left.iter().zip(right).take_while(|(left, right)| left == right).count();
    let (left, right) = (&left[start..], &right[start..]);
    let same = |skip_left: usize, skip_right: usize| {
        left.get(skip_left..).is_some() && left.get(skip_left..) == right.get(skip_right..)
    };
    let swapped = left.len() > 1
        && right.len() > 1
        && left[0] == right[1]
        && left[1] == right[0]
        && same(2, 2);
    left == right || same(1, 1) || same(1, 0) || same(0, 1) || swapped
}

pub(super) struct Draw {
    pub(super) random: StdRng,
}

impl Draw {
    pub(super) fn chance(&mut self, percent: u32) -> bool {
        self.random.random_ratio(percent, 100)
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
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

    pub(super) fn index(&mut self, name: &str) -> (Arc<Snapshot>, Model) {
        let mut documents = Vec::new();
        let mut segments = Vec::new();
        for _ in 0..1 + self.below(4) {
            let count = 1 + self.below(40);
            let segment: Vec<(String, Value)> = (0..count)
                .map(|_| {
                    let id = format!("{name}{}", documents.len());
                    let source = self.document();
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

    pub(super) fn leaf(&mut self) -> Query {
        let boost = self.boost();
        match self.below(12) {
            0 => Query::MatchAll { boost },
            1 => Query::Term {
                field: "tag".into(),
                value: Scalar::Text(TAGS[self.below(TAGS.len())].into()),
                case_insensitive: false,
                boost,
            },
            2 => Query::Term {
                field: "tag".into(),
                value: Scalar::Text("rEd".into()),
                case_insensitive: true,
                boost,
            },
            3 => Query::Terms {
                field: "n".into(),
                values: vec![Scalar::I64(3), Scalar::F64(2.5), Scalar::I64(-1)],
                boost,
            },
            4 => self.range(),
            5 => Query::Prefix {
                field: self.text_field(),
                value: "ba".into(),
                case_insensitive: false,
                boost,
            },
            6 => Query::Wildcard {
                field: if self.chance(50) { "tag".into() } else { "title".into() },
                value: ["a*e", "*y", "r*", "b*an*a"][self.below(3)].into(),
                case_insensitive: false,
                boost,
            },
            7 => Query::Fuzzy {
                field: self.text_field(),
                value: ["appel", "apple", "bananas", "fi"][self.below(4)].into(),
                fuzziness: Fuzziness::Edits(1),
                prefix_length: 0,
                max_expansions: 50,
                transpositions: true,
                boost,
            },
            8 => {
                let field = ["title", "tag", "n", "on", "at"][self.below(5)].into();
                Query::Exists { field, boost }
            }
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

    fn range(&mut self) -> Query {
        let bound = |draw: &mut Self, scalar: Scalar| {
            let included = draw.chance(50);
            draw.chance(75).then_some((scalar, included))
        };
        let (field, low, high) = match self.below(4) {
            0 => ("n", Scalar::I64(1), Scalar::F64(7.5)),
            1 => ("price", Scalar::F64(2.25), Scalar::I64(8)),
            2 => ("tag", Scalar::Text("blue".into()), Scalar::Text("rec".into())),
            // Days compare as their texts do.
            _ => ("at", Scalar::Text("2024-03-05".into()), Scalar::Text("2024-09-20".into())),
        };
        Query::Range(Range {
            field: field.into(),
            lower: bound(self, low),
            upper: bound(self, high),
            format: None,
            time_zone: None,
            boost: self.boost(),
        })
    }

    pub(super) fn query(&mut self, depth: usize) -> Query {
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
                    if !self.chance(percent) {
                        return Vec::new();
                    }
                    (0..=self.below(3)).map(|_| self.query(depth - 1)).collect()
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

fn close(left: f32, right: f32) -> bool {
    (left - right).abs() <= 1e-5 * left.abs().max(right.abs()).max(1.0)
}

fn place(model: &Model, id: &str) -> usize {
    model.documents.iter().position(|(document, _)| document.id == id).unwrap()
}

fn check_query(snapshot: &Arc<Snapshot>, model: &Model, query: &Query, size: usize) {
    let snapshots = [Arc::clone(snapshot)];
    let expected = model.search(query);
    let all = SearchRequest {
        query: query.clone(),
        size: 1000,
        track_total_hits: TrackTotalHits::Exact,
        ..SearchRequest::default()
    };
    let response = search(&snapshots, &all).unwrap();
    let ids = |hits: &[super::response::Hit]| -> BTreeSet<usize> {
        hits.iter().map(|hit| place(model, &hit.id)).collect()
    };
    let expected_ids: BTreeSet<usize> = expected.iter().map(|(place, _)| *place).collect();
    assert_eq!(ids(&response.hits), expected_ids, "{query:?}");
    assert_eq!(response.total.unwrap().value, expected.len() as u64, "{query:?}");
    assert_eq!(count(&snapshots, query).unwrap(), expected.len() as u64, "{query:?}");
    for hit in &response.hits {
        let place = place(model, &hit.id);
        let (_, score) = expected.iter().find(|(other, _)| *other == place).unwrap();
        let actual = hit.score.unwrap();
        assert!(close(actual, *score), "{} of {query:?}: {actual} not {score}", hit.id);
    }
    // The best few, which may be pruned, are a prefix of the whole.
    for track_total_hits in [TrackTotalHits::Off, TrackTotalHits::UpTo(3), TrackTotalHits::Exact] {
        let few = SearchRequest { size, track_total_hits, ..all.clone() };
        let few = search(&snapshots, &few).unwrap();
        let head = response.hits.iter().take(size);
        for (actual, expected) in few.hits.iter().zip(head) {
            assert!(close(actual.score.unwrap(), expected.score.unwrap()), "{query:?}");
        }
        assert_eq!(few.hits.len(), response.hits.len().min(size), "{query:?}");
        let limit = match track_total_hits {
            TrackTotalHits::UpTo(limit) => limit,
            _ => u64::MAX,
        };
        if let Some(total) = few.total {
            assert_eq!(total.value, (expected.len() as u64).min(limit), "{query:?}");
            assert_eq!(total.exact, expected.len() as u64 <= limit, "{query:?}");
        }
    }
}

#[test]
fn random_queries_match_and_score_as_the_model_says() {
    for seed in 0..40 {
        let mut draw = Draw { random: StdRng::seed_from_u64(seed) };
        let (snapshot, model) = draw.index("a");
        for _ in 0..25 {
            let query = draw.query(3);
            check_query(&snapshot, &model, &query, 1 + draw.below(5));
        }
    }
}

/// What a document is sorted by, in the model.
fn sort_value(document: &Document, sort: &Sort) -> SortValue {
    let SortBy::Field(field) = &sort.by else { return SortValue::Null };
    let mode = sort.mode.unwrap_or(if sort.descending { SortMode::Max } else { SortMode::Min });
    let values = document.values(field);
    let numbers = || values.iter().filter_map(|value| value.as_f64()).map(SortValue::F64);
    let mut values: Vec<SortValue> = match field.as_str() {
        "tag" => document.texts("tag").into_iter().map(SortValue::Text).collect(),
        "n" => values.iter().filter_map(|value| value.as_i64()).map(SortValue::I64).collect(),
        "on" => values.iter().filter_map(|value| value.as_bool()).map(SortValue::Bool).collect(),
        "at" => document
            .texts("at")
            .iter()
            .map(|text| {
                let date: jiff::civil::Date = text.parse().unwrap();
                let midnight = date.to_zoned(jiff::tz::TimeZone::UTC).unwrap();
                SortValue::I64(midnight.timestamp().as_millisecond())
            })
            .collect(),
        _ => numbers().collect(),
    };
    values.sort_by(super::sort_key::compare_values);
    let chosen = if mode == SortMode::Max { values.pop() } else { values.first().cloned() };
    match (chosen, &sort.missing) {
        (Some(value), _) => value,
        (None, Missing::Value(Scalar::I64(value))) => SortValue::I64(*value),
        (None, Missing::Value(Scalar::Text(value))) => SortValue::Text(value.clone()),
        (None, _) => SortValue::Null,
    }
}

#[test]
fn random_sorts_page_through_what_the_model_orders() {
    for seed in 0..60 {
        let mut draw = Draw { random: StdRng::seed_from_u64(1000 + seed) };
        let (first, first_model) = draw.index("a");
        let (second, second_model) = draw.index("b");
        let query = draw.query(1);
        let sort: Vec<Sort> = (0..=draw.below(2))
            .map(|_| {
                let field = ["tag", "n", "price", "on", "at"][draw.below(5)];
                let missing = match (draw.below(3), field) {
                    (0, _) => Missing::First,
                    (1, "n") => Missing::Value(Scalar::I64(4)),
                    (1, "tag") => Missing::Value(Scalar::Text("m".into())),
                    _ => Missing::Last,
                };
                Sort {
                    by: SortBy::Field(field.into()),
                    descending: draw.chance(50),
                    missing,
                    mode: draw.chance(30).then_some(SortMode::Max),
                    unmapped_type: None,
                }
            })
            .collect();
        let mut expected: Vec<(String, Vec<SortValue>)> = Vec::new();
        for model in [&first_model, &second_model] {
            for (document, alive) in &model.documents {
                if *alive && model.matches(document, &query).is_some() {
                    let values = sort.iter().map(|sort| sort_value(document, sort)).collect();
                    expected.push((document.id.clone(), values));
                }
            }
        }
        expected.sort_by(|left, right| {
            let keys = sort.iter().zip(left.1.iter().zip(&right.1));
            keys.map(|(sort, (left, right))| super::sort_key::compare(sort, left, right))
                .find(|order| order.is_ne())
                .unwrap_or(Ordering::Equal)
        });
        let snapshots = [first, second];
        let size = 1 + draw.below(7);
        let mut request = SearchRequest { query, sort, size, ..SearchRequest::default() };
        let window: Vec<_> = expected.iter().take(size).cloned().collect();
        let hits = |request: &SearchRequest| -> Vec<(String, Vec<SortValue>)> {
            let response = search(&snapshots, request).unwrap();
            response.hits.into_iter().map(|hit| (hit.id, hit.sort)).collect()
        };
        assert_eq!(hits(&request), window, "{seed}: {request:?}");
        request.from = size;
        let window: Vec<_> = expected.iter().skip(size).take(size).cloned().collect();
        assert_eq!(hits(&request), window, "{seed}: {request:?}");
        // After the values of a hit come all hits with later values.
        request.from = 0;
        request.size = 1000;
        if let Some((_, after)) = expected.get(draw.below(expected.len().max(1))) {
            request.search_after = Some(after.clone());
            let later: Vec<_> = expected
                .iter()
                .skip_while(|(_, values)| values != after)
                .filter(|(_, values)| values != after)
                .cloned()
                .collect();
            assert_eq!(hits(&request), later, "{seed}: {request:?}");
        }
    }
}
