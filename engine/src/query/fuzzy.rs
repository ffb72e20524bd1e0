//! Misspelled terms. As in Lucene, the terms within the distance are looked up first, the best
//! kept, and scored as if each occurred as often as the most frequent of them, so that a rare
//! misspelling does not outrank the word itself.

use std::ops::ControlFlow;

use rustc_hash::FxHashMap;
use tantivy::Term;
use tantivy::index::InvertedIndexReader;
use tantivy::postings::TermInfo;
use tantivy::query::{DfaWrapper, FuzzyTermQuery};
use tantivy::schema::Field;

use super::ast::{Fuzziness, Query};
use super::compile::{Compiled, Compiler, invalid, union};
use super::full_text::not_fuzzy;
use super::matcher::{FuzzyMatcher, Matcher};
use super::range::not_searchable;
use super::term_level::Target;
use super::term_selection::for_each_match;
use crate::error::Result;
use crate::mapping::field::{FieldMapping, Storage};

/// Longer terms are compared one by one: an automaton takes about 70 KB a character.
const AUTOMATON_CHARACTERS: usize = 64;

/// A term with its options.
pub(super) struct FuzzyTerm<'a> {
    pub(super) term: &'a str,
    pub(super) fuzziness: Fuzziness,
    pub(super) prefix_length: usize,
    pub(super) max_expansions: usize,
    pub(super) transpositions: bool,
}

/// How many edits a term of so many characters may have.
pub(crate) fn edits(fuzziness: Fuzziness, term: &str) -> u8 {
    match fuzziness {
        Fuzziness::Edits(edits) => edits.min(2),
        Fuzziness::Auto { low, high } => {
            let length = term.chars().count();
            u8::from(length >= low) + u8::from(length >= high)
        }
    }
}

impl Compiler<'_> {
    pub(super) fn fuzzy_clause(&self, query: &Query, boost: f32) -> Result<Compiled> {
        let Query::Fuzzy {
            field,
            value,
            fuzziness,
            prefix_length,
            max_expansions,
            transpositions,
            boost: own,
        } = query
        else {
            return Ok(Compiled::nothing());
        };
        let term = FuzzyTerm {
            term: value,
            fuzziness: *fuzziness,
            prefix_length: *prefix_length,
            max_expansions: *max_expansions,
            transpositions: *transpositions,
        };
        match self.target(field) {
            Target::Unmapped => Ok(Compiled::nothing()),
            Target::Mapped(field, mapping) if mapping.kind.storage() == Storage::Text => {
                self.fuzzy(field, mapping, &term, boost * own)
            }
            Target::Mapped(_, mapping) => Err(not_fuzzy(mapping)),
            Target::Id(_) | Target::Index => Err(invalid(format!(
                "failed to create query: Can only use fuzzy queries on keyword and text fields - \
                 not on [{field}] which is of type [{field}]"
            ))),
        }
    }

    pub(super) fn fuzzy(
        &self,
        field: Field,
        mapping: &FieldMapping,
        fuzzy: &FuzzyTerm<'_>,
        boost: f32,
    ) -> Result<Compiled> {
        if !mapping.index {
            return Err(not_searchable(mapping));
        }
        let limit = self.limits.max_expansions.min(fuzzy.max_expansions);
        let terms = self.similar_terms(field, fuzzy)?;
        // The best first: what is most alike, then in the terms' order.
        let mut ranked: Vec<_> = terms
            .into_iter()
            .map(|found| (similarity(found.distance, &found.term, fuzzy.term), found))
            .collect();
        ranked.sort_by(|left, right| {
            right.0.total_cmp(&left.0).then_with(|| left.1.term.cmp(&right.1.term))
        });
        ranked.truncate(limit);
        let most_frequent = ranked.iter().map(|(_, found)| found.doc_freq).max().unwrap_or(0);
        let found = ranked.into_iter().map(|(similarity, found)| {
            (similarity, (Term::from_field_text(field, &found.term), found.doc_freq))
        });
        let queries: Result<Vec<_>> = found
            .map(|(similarity, term)| {
                self.scored_term_as(field, mapping, term, most_frequent, boost * similarity)
            })
            .collect();
        Ok(union(queries?))
    }

    /// The terms within the distance in any segment.
    fn similar_terms(&self, field: Field, fuzzy: &FuzzyTerm<'_>) -> Result<Vec<Similar>> {
        let matcher = FuzzyMatcher {
            term: fuzzy.term.to_owned(),
            edits: edits(fuzzy.fuzziness, fuzzy.term),
            prefix_length: fuzzy.prefix_length,
            transpositions: fuzzy.transpositions,
        };
        let term = Term::from_field_text(field, fuzzy.term);
        if matcher.edits == 0 {
            let doc_freq = self.snapshot.doc_freq(&term)?;
            return Ok(vec![Similar { term: matcher.term, distance: 0, doc_freq }]);
        }
        let mut found = Found::default();
        if fuzzy.term.chars().nth(AUTOMATON_CHARACTERS).is_some() {
            let matcher = Matcher::Fuzzy(matcher.clone());
            for segment in self.snapshot.segments() {
                found.compare(segment.reader().inverted_index(field)?.as_ref(), &matcher)?;
            }
        } else {
            let query = FuzzyTermQuery::new(term, matcher.edits, matcher.transpositions);
            let automaton = query.automaton()?;
            for segment in self.snapshot.segments() {
                found.walk(segment.reader().inverted_index(field)?.as_ref(), &automaton)?;
            }
        }
        let near = found.0.into_iter().filter_map(|(term, doc_freq)| {
            Some(Similar { distance: matcher.distance(&term)?, term, doc_freq })
        });
        Ok(near.collect())
    }
}

/// A term that may be meant.
struct Similar {
    term: String,
    distance: u8,
    /// How many documents have it.
    doc_freq: u64,
}

/// Terms with how many documents have them.
#[derive(Default)]
struct Found(FxHashMap<String, u64>);

impl Found {
    fn add(&mut self, term: &str, info: &TermInfo) {
        if let Some(doc_freq) = self.0.get_mut(term) {
            *doc_freq += u64::from(info.doc_freq);
        } else {
            self.0.insert(term.to_owned(), info.doc_freq.into());
        }
    }

    /// Adds the terms that fit, of all.
    fn compare(&mut self, index: &InvertedIndexReader, matcher: &Matcher) -> Result<()> {
        let mut add = |term: &str, info: &TermInfo| {
            self.add(term, info);
            Ok(ControlFlow::Continue(()))
        };
        Ok(for_each_match(index, matcher, &mut add)?)
    }

    /// Adds the terms that an automaton accepts.
    fn walk(&mut self, index: &InvertedIndexReader, automaton: &DfaWrapper) -> Result<()> {
        let mut terms = index.terms().search(automaton).into_stream()?;
        while terms.advance() {
            if let Ok(term) = std::str::from_utf8(terms.key()) {
                self.add(term, terms.value());
            }
        }
        Ok(())
    }
}

/// 1 for the term itself, less for every edit, the more the shorter the terms are.
fn similarity(distance: u8, found: &str, wanted: &str) -> f32 {
    let shorter = found.chars().count().min(wanted.chars().count()).max(1);
    let shorter = super::compile::as_f32(shorter as u64);
    if distance == 0 { 1.0 } else { 1.0 - f32::from(distance) / shorter }
}
