//! A naive model of search, and random indexes and queries on which the engine must agree with it:
//! the same documents match, in the same order, with scores by the formula.

mod checks;
mod draw;
mod filters;
mod pruning;

use std::cell::RefCell;
use std::cmp::Ordering;
use std::collections::HashMap;

use serde_json::Value;
use tantivy::fieldnorm::FieldNormReader;

pub(super) use self::draw::Draw;
use crate::query::ast::{
    Bool, Match, MatchPhrase, MinimumShouldMatch, MultiMatch, MultiMatchKind, Operator, Query,
    Range, Scalar,
};

const WORDS: [&str; 8] = ["apple", "apply", "ample", "banana", "bandana", "cherry", "date", "fig"];
/// Long ones have digests for terms.
const TAGS: [&str; 7] = [
    "red",
    "green",
    "blue",
    "Redder",
    "x y",
    "red admirals over the marshes",
    "red admirals over the meadows",
];
/// The first ones are the frequent ones, one of which has a digest for its term; the last is in no
/// document.
const KINDS: [&str; 4] = ["common", "others that are not common", "rare", "none"];

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

    fn terms(document: &Document, field: &str) -> Vec<String> {
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
            .filter(|(document, _)| Self::terms(document, field).iter().any(|found| found == term));
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
        let found = Self::terms(document, field);
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
                if let (true, Scalar::Text(wanted)) = (*case_insensitive, value) {
                    let terms = Self::terms(document, field);
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
                let terms = Self::terms(document, field);
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
                constant(Self::terms(document, field).iter().any(fits), *boost)
            }
            Query::Fuzzy { field, value, boost, .. } => {
                self.fuzzy(document, field, value).map(|score| score * boost)
            }
            Query::Exists { field, boost } => constant(!document.values(field).is_empty(), *boost),
            // Held against a model of their own.
            Query::WithinArea { .. } => unreachable!("not drawn"),
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
                let found = values.iter().any(|value| value.as_bool() == Some(*wanted));
                let idf = self.idf("on", self.having(*wanted));
                found.then(|| self.bm25(document, "on", idf, 1.0))
            }
            (_, Scalar::Text(wanted)) => self.term(document, field, wanted, None),
            other => unreachable!("{other:?}"),
        }
    }

    /// How many documents are on, or off.
    #[expect(clippy::cast_precision_loss, reason = "small")]
    fn having(&self, wanted: bool) -> f32 {
        let has = |document: &Document| {
            document.values("on").iter().any(|value| value.as_bool() == Some(wanted))
        };
        self.documents.iter().filter(|(document, _)| has(document)).count() as f32
    }

    fn in_range(document: &Document, clause: &Range) -> bool {
        let order = |value: &Value, bound: &Scalar| -> Ordering {
            match bound {
                Scalar::I64(bound) => {
                    value.as_f64().unwrap().total_cmp(&f64::from(i32::try_from(*bound).unwrap()))
                }
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
        let all = WORDS.iter().chain(&TAGS).copied();
        let near: Vec<&str> = all.filter(|word| one_edit(word, value)).collect();
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
