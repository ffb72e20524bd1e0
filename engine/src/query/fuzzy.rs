//! Misspelled terms. As in Lucene, the terms within the distance are looked up first, the best
//! kept, and scored as if each occurred as often as the most frequent of them, so that a rare
//! misspelling does not outrank the word itself.

use std::ops::ControlFlow;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use tantivy::Term;
use tantivy::index::{InvertedIndexReader, SegmentId};
use tantivy::postings::TermInfo;
use tantivy::query::{Bm25Weight, DfaWrapper, FuzzyTermQuery};
use tantivy::schema::Field;
use tantivy::termdict::TermStreamer;

use super::ast::{Fuzziness, Query};
use super::compile::{Compiled, Compiler, Shape, as_f32, invalid, union};
use super::full_text::not_fuzzy;
use super::matcher::{FuzzyMatcher, Matcher};
use super::range::not_searchable;
use super::similar_terms::SimilarTerms;
use super::term_level::Target;
use super::texts::{Texts, end_of_prefix};
use crate::control::Ticks;
use crate::error::Result;
use crate::mapping::field::{FieldKind, FieldMapping, Storage};
use crate::snapshot::{FieldStatistics, Segment};

/// Longer terms are compared one by one: an automaton takes about 70 KB a character.
const AUTOMATON_CHARACTERS: usize = 64;

/// With more first characters in a dictionary than this, the automaton goes through it as it is.
const FIRST_CHARACTERS: usize = 512;

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
        if self.scored && mapping.kind == FieldKind::Text && ranked.len() > 1 {
            return self.summed(field, ranked, boost);
        }
        let most_frequent = most_frequent(&ranked);
        let found = ranked.into_iter().map(|(similarity, found)| {
            (similarity, (self.snapshot.text_term(field, &found.term), found.doc_freq))
        });
        let queries: Result<Vec<_>> = found
            .map(|(similarity, term)| {
                self.scored_term_as(field, mapping, term, most_frequent, boost * similarity)
            })
            .collect();
        Ok(union(queries?))
    }

    /// The documents with any of some terms of a text field, the best terms first.
    fn summed(&self, field: Field, ranked: Vec<(f32, Similar)>, boost: f32) -> Result<Compiled> {
        self.count_clauses(ranked.len())?;
        let doc_freq = most_frequent(&ranked);
        let scale = self.scale(field)?;
        let FieldStatistics { doc_count, token_count } = scale.statistics;
        let doc_count = doc_count.max(doc_freq);
        let average = as_f32(token_count) / as_f32(doc_count);
        let scores = Bm25Weight::for_one_term_without_explain(doc_freq, doc_count, average);
        let mut lists: FxHashMap<_, Vec<_>> = FxHashMap::default();
        for (similarity, found) in ranked {
            for (segment, info) in found.places {
                lists.entry(segment).or_default().push((info, boost * similarity));
            }
        }
        let query = SimilarTerms { field, lists: Arc::new(lists), scores };
        let shape = Shape::Similar { slack: scale.slack, at_least: doc_freq };
        Ok(Compiled { query: Box::new(query), shape })
    }

    /// The terms within the distance in any segment.
    fn similar_terms(&self, field: Field, fuzzy: &FuzzyTerm<'_>) -> Result<Vec<Similar>> {
        let matcher = FuzzyMatcher {
            term: fuzzy.term.to_owned(),
            edits: edits(fuzzy.fuzziness, fuzzy.term),
            prefix_length: fuzzy.prefix_length,
            transpositions: fuzzy.transpositions,
        };
        if matcher.edits == 0 {
            let doc_freq = self.snapshot.doc_freq(&self.snapshot.text_term(field, fuzzy.term))?;
            let places = Vec::new();
            return Ok(vec![Similar { term: matcher.term, distance: 0, doc_freq, places }]);
        }
        let mut found = Found::default();
        if fuzzy.term.chars().nth(AUTOMATON_CHARACTERS).is_some() {
            let matcher = Matcher::Fuzzy(matcher.clone());
            for segment in self.snapshot.segments() {
                found.segment = Some(segment.id());
                let texts = Texts::open(segment.reader(), field)?;
                texts.for_each_match(&matcher, &mut found.adding())?;
            }
        } else {
            let term = Term::from_field_text(field, fuzzy.term);
            let query = FuzzyTermQuery::new(term, matcher.edits, matcher.transpositions);
            let automaton = query.automaton()?;
            for segment in self.snapshot.segments() {
                found.accept(segment, field, &automaton, &matcher)?;
            }
        }
        let near = found.terms.into_iter().filter_map(|(term, (doc_freq, places))| {
            Some(Similar { distance: matcher.distance(&term)?, term, doc_freq, places })
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
    /// What it is in the segments that have it; empty for the wanted term alone.
    places: Places,
}

/// What a term is in the segments that have it.
type Places = Vec<(SegmentId, TermInfo)>;

fn most_frequent(ranked: &[(f32, Similar)]) -> u64 {
    ranked.iter().map(|(_, found)| found.doc_freq).max().unwrap_or(0)
}

/// Terms with how many documents have them.
#[derive(Default)]
struct Found {
    terms: FxHashMap<String, (u64, Places)>,
    /// The segment that is looked at.
    segment: Option<SegmentId>,
}

impl Found {
    fn add(&mut self, term: &str, info: &TermInfo) {
        let Some(segment) = self.segment else { return };
        let place = (segment, info.clone());
        if let Some((doc_freq, places)) = self.terms.get_mut(term) {
            *doc_freq += u64::from(info.doc_freq);
            places.push(place);
        } else {
            self.terms.insert(term.to_owned(), (info.doc_freq.into(), vec![place]));
        }
    }

    /// What a visit to a text does.
    fn adding(&mut self) -> impl FnMut(&str, &TermInfo) -> tantivy::Result<ControlFlow<()>> {
        |text, info| {
            self.add(text, info);
            Ok(ControlFlow::Continue(()))
        }
    }

    /// Adds what a walk through a dictionary finds.
    fn walk(&mut self, mut terms: TermStreamer<'_, &DfaWrapper>) -> Result<()> {
        let mut ticks = Ticks::default();
        while terms.advance() {
            ticks.tick()?;
            if let Ok(term) = std::str::from_utf8(terms.key()) {
                self.add(term, terms.value());
            }
        }
        Ok(())
    }

    /// Adds the terms of a segment that an automaton accepts, and perhaps others.
    fn accept(
        &mut self,
        segment: &Segment,
        field: Field,
        automaton: &DfaWrapper,
        matcher: &FuzzyMatcher,
    ) -> Result<()> {
        self.segment = Some(segment.id());
        let texts = Texts::open(segment.reader(), field)?;
        let Some(terms) = texts.terms() else {
            return Ok(texts.for_each_accepted(automaton, &mut self.adding())?);
        };
        let firsts = match matcher.edits {
            1 => segment.first_characters(field)?,
            _ => Arc::default(),
        };
        self.accept_terms(terms, automaton, &matcher.term, &firsts)
    }

    /// As [`Found::accept`], of a dictionary of terms.
    ///
    /// One that may yet change the first character goes into the terms of all first characters.
    /// Where these are given only one edit is left to make: of the terms whose first character is
    /// another it is known what must follow, and they are looked up.
    fn accept_terms(
        &mut self,
        index: &InvertedIndexReader,
        automaton: &DfaWrapper,
        wanted: &str,
        firsts: &[char],
    ) -> Result<()> {
        let mut characters = wanted.chars();
        let few = (1..=FIRST_CHARACTERS).contains(&firsts.len());
        let Some(first) = characters.next().filter(|_| few) else {
            return self.walk(index.terms().search(automaton).into_stream()?);
        };
        let rest = characters.as_str();
        let beginning = first.to_string();
        let mut same = index.terms().search(automaton).ge(&beginning);
        if let Some(end) = end_of_prefix(beginning.as_bytes()) {
            same = same.lt(end);
        }
        self.walk(same.into_stream()?)?;
        let mut candidates = vec![rest.to_owned()];
        if let Some(second) = characters.next() {
            candidates.push(format!("{second}{first}{}", characters.as_str()));
        }
        let others = firsts.iter().filter(|other| **other != first);
        candidates.extend(others.flat_map(|c| [format!("{c}{rest}"), format!("{c}{wanted}")]));
        candidates.sort_unstable();
        candidates.dedup();
        for candidate in candidates.iter().filter(|candidate| !candidate.starts_with(first)) {
            if let Some(info) = index.terms().get(candidate)? {
                self.add(candidate, &info);
            }
        }
        Ok(())
    }
}

/// 1 for the term itself, less for every edit, the more the shorter the terms are.
fn similarity(distance: u8, found: &str, wanted: &str) -> f32 {
    let shorter = found.chars().count().min(wanted.chars().count()).max(1);
    let shorter = as_f32(shorter as u64);
    if distance == 0 { 1.0 } else { 1.0 - f32::from(distance) / shorter }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::query::QueryLimits;
    use crate::search::fixture;

    /// The terms within a distance, with how many documents have them.
    fn similar(
        mapping: &serde_json::Value,
        segments: &[Vec<String>],
        wanted: &str,
        edits: u8,
        swaps: bool,
    ) -> Vec<(String, u64)> {
        let mut id = 0;
        let mut documents = |words: &Vec<String>| {
            let document = |word: &String| {
                id += 1;
                (id.to_string(), json!({"word": word}))
            };
            words.iter().map(document).collect::<Vec<_>>()
        };
        let segments: Vec<_> = segments.iter().map(&mut documents).collect();
        let mapping = json!({"properties": {"word": mapping}});
        let snapshot = fixture::snapshot("words", &mapping, &segments, &[]);
        let limits = QueryLimits::default();
        let compiler = Compiler::new(&snapshot, &limits, true);
        let fuzzy = FuzzyTerm {
            term: wanted,
            fuzziness: Fuzziness::Edits(edits),
            prefix_length: 0,
            max_expansions: 50,
            transpositions: swaps,
        };
        let (field, _) = snapshot.field("word").unwrap();
        let found = compiler.similar_terms(field, &fuzzy).unwrap().into_iter();
        let mut found: Vec<_> = found.map(|found| (found.term, found.doc_freq)).collect();
        found.sort_unstable();
        found
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_term_within_the_distance_is_found(
            segments in prop::collection::vec(prop::collection::vec("[abéж]{1,4}", 1..30), 1..3),
            wanted in "[abéж]{1,4}",
            edits in 1..=2_u8,
            transpositions: bool,
        ) {
            let matcher =
                FuzzyMatcher { term: wanted.clone(), edits, prefix_length: 0, transpositions };
            let mut expected = BTreeMap::new();
            for word in segments.iter().flatten().filter(|word| matcher.distance(word).is_some()) {
                *expected.entry(word.clone()).or_insert(0) += 1;
            }
            let expected: Vec<(String, u64)> = expected.into_iter().collect();
            // Their dictionaries are of terms and of a column.
            let mappings = [
                json!({"type": "text", "analyzer": "keyword"}), json!({"type": "keyword"}),
            ];
            for mapping in &mappings {
                let found = similar(mapping, &segments, &wanted, edits, transpositions);
                prop_assert_eq!(found, expected.clone());
            }
        }
    }
}
