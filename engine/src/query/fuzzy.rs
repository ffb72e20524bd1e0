//! Misspelled terms. As in Lucene, the terms within the distance are looked up first, the best
//! kept, and scored as if each occurred as often as the most frequent of them, so that a rare
//! misspelling does not outrank the word itself.

use std::collections::{BTreeMap, BTreeSet};

use tantivy::Term;
use tantivy::index::InvertedIndexReader;
use tantivy::query::{DfaWrapper, FuzzyTermQuery};
use tantivy::schema::Field;

use super::ast::{Fuzziness, Query};
use super::compile::{Compiled, Compiler, invalid, union};
use super::full_text::{first_matches, not_fuzzy};
use super::matcher::{FuzzyMatcher, Matcher};
use super::range::not_searchable;
use super::term_level::Target;
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
            .map(|(term, distance)| (similarity(distance, &term, fuzzy.term), term))
            .collect();
        ranked.sort_by(|left, right| right.0.total_cmp(&left.0).then_with(|| left.1.cmp(&right.1)));
        ranked.truncate(limit);
        let mut most_frequent = 0;
        let mut found = Vec::with_capacity(ranked.len());
        for (similarity, term) in ranked {
            let term = Term::from_field_text(field, &term);
            let doc_freq = self.snapshot.doc_freq(&term)?;
            most_frequent = most_frequent.max(doc_freq);
            found.push((similarity, (term, doc_freq)));
        }
        let queries: Result<Vec<_>> = found
            .into_iter()
            .map(|(similarity, term)| {
                self.scored_term_as(field, mapping, term, most_frequent, boost * similarity)
            })
            .collect();
        Ok(union(queries?))
    }

    /// The terms within the distance in any segment, with their distance.
    fn similar_terms(&self, field: Field, fuzzy: &FuzzyTerm<'_>) -> Result<BTreeMap<String, u8>> {
        let matcher = FuzzyMatcher {
            term: fuzzy.term.to_owned(),
            edits: edits(fuzzy.fuzziness, fuzzy.term),
            prefix_length: fuzzy.prefix_length,
            transpositions: fuzzy.transpositions,
        };
        let mut found = BTreeMap::new();
        if matcher.edits == 0 {
            found.insert(matcher.term, 0);
            return Ok(found);
        }
        let mut similar = BTreeSet::new();
        if fuzzy.term.chars().nth(AUTOMATON_CHARACTERS).is_some() {
            let matcher = Matcher::Fuzzy(matcher.clone());
            for segment in self.snapshot.segments() {
                let index = segment.reader().inverted_index(field)?;
                similar.extend(first_matches(&index, &matcher, usize::MAX)?);
            }
        } else {
            let term = Term::from_field_text(field, fuzzy.term);
            let query = FuzzyTermQuery::new(term, matcher.edits, matcher.transpositions);
            let automaton = query.automaton()?;
            for segment in self.snapshot.segments() {
                let index = segment.reader().inverted_index(field)?;
                similar.extend(accepted_terms(&index, &automaton)?);
            }
        }
        let near = similar.into_iter().filter_map(|term| Some((matcher.distance(&term)?, term)));
        found.extend(near.map(|(distance, term)| (term, distance)));
        Ok(found)
    }
}

fn accepted_terms(index: &InvertedIndexReader, automaton: &DfaWrapper) -> Result<Vec<String>> {
    let mut accepted = Vec::new();
    let mut terms = index.terms().search(automaton).into_stream()?;
    while terms.advance() {
        accepted.extend(std::str::from_utf8(terms.key()).map(str::to_owned));
    }
    Ok(accepted)
}

/// 1 for the term itself, less for every edit, the more the shorter the terms are.
fn similarity(distance: u8, found: &str, wanted: &str) -> f32 {
    let shorter = found.chars().count().min(wanted.chars().count()).max(1);
    let shorter = super::compile::as_f32(shorter as u64);
    if distance == 0 { 1.0 } else { 1.0 - f32::from(distance) / shorter }
}
