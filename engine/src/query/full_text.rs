//! Clauses that analyze their text: `match`, `match_bool_prefix`, `match_phrase`,
//! `match_phrase_prefix`.

use std::ops::ControlFlow;

use tantivy::Term;
use tantivy::schema::{Field, IndexRecordOption};
use tantivy::tokenizer::TokenStream as _;

use super::ast::{Match, MatchPhrase, Operator, Scalar, ZeroTerms};
use super::compile::{Compiled, Compiler, as_f32, at_least, intersection, invalid, union};
use super::fuzzy::FuzzyTerm;
use super::matcher::Matcher;
use super::minimum_should_match::required;
use super::phrase_match::{PhraseMatch, Slot};
use super::scored_term::{ScoredPhrase, TermStatistics};
use super::term_level::Target;
use super::texts::Texts;
use super::value::text;
use crate::error::{ErrorKind, Result};
use crate::mapping::field::{FieldKind, FieldMapping, Storage};

/// The terms of a text by position, with the position.
pub(super) type Positions = Vec<(usize, Vec<String>)>;

impl Compiler<'_> {
    pub(super) fn match_text(&self, clause: &Match, boost: f32) -> Result<Compiled> {
        let boost = boost * clause.boost;
        let compiled = match self.target(&clause.field) {
            Target::Unmapped => Ok(Compiled::nothing()),
            Target::Id(_) | Target::Index => self.term(&clause.field, &clause.value, false, boost),
            Target::Mapped(field, mapping) if mapping.kind.storage() == Storage::Text => {
                self.match_terms(field, mapping, clause, boost)
            }
            Target::Mapped(field, mapping) => {
                if clause.fuzziness.is_some() {
                    return Err(not_fuzzy(mapping));
                }
                self.exact(field, mapping, &clause.value, boost)
            }
        };
        match compiled {
            Err(error) if clause.lenient && error.kind() == ErrorKind::InvalidQuery => {
                Ok(Compiled::nothing())
            }
            other => other,
        }
    }

    fn match_terms(
        &self,
        field: Field,
        mapping: &FieldMapping,
        clause: &Match,
        boost: f32,
    ) -> Result<Compiled> {
        if !mapping.index {
            return self.exact(field, mapping, &clause.value, boost);
        }
        let positions = self.analyze(mapping, clause.analyzer.as_deref(), &text(&clause.value))?;
        if positions.is_empty() {
            return Ok(self.no_terms(clause.zero_terms, boost));
        }
        let last = positions.len() - 1;
        let mut queries = Vec::with_capacity(positions.len());
        for (place, (_, terms)) in positions.iter().enumerate() {
            let alternatives: Result<Vec<_>> = terms
                .iter()
                .map(|term| {
                    let is_prefix = clause.prefix_last && place == last;
                    self.match_term(field, mapping, clause, term, is_prefix, boost)
                })
                .collect();
            queries.push(union(alternatives?));
        }
        Ok(combine(queries, clause))
    }

    fn match_term(
        &self,
        field: Field,
        mapping: &FieldMapping,
        clause: &Match,
        term: &str,
        is_prefix: bool,
        boost: f32,
    ) -> Result<Compiled> {
        if is_prefix {
            self.count_clauses(1)?;
            let prefix = Matcher::Prefix { prefix: term.to_owned(), case_insensitive: false };
            return self.matching(field, mapping, prefix, boost);
        }
        match clause.fuzziness {
            None => self.scored_term(field, mapping, self.snapshot.text_term(field, term), boost),
            Some(fuzziness) => {
                let fuzzy = FuzzyTerm {
                    term,
                    fuzziness,
                    prefix_length: clause.prefix_length,
                    max_expansions: clause.max_expansions,
                    transpositions: true,
                };
                self.fuzzy(field, mapping, &fuzzy, boost)
            }
        }
    }

    pub(super) fn no_terms(&self, zero_terms: ZeroTerms, boost: f32) -> Compiled {
        match zero_terms {
            ZeroTerms::None => Compiled::nothing(),
            ZeroTerms::All => self.everything(boost),
        }
    }

    /// The terms of a text under an analyzer, or the field's own for queries.
    pub(super) fn analyze(
        &self,
        mapping: &FieldMapping,
        analyzer: Option<&str>,
        text: &str,
    ) -> Result<Positions> {
        if analyzer.is_none() && mapping.kind != FieldKind::Text {
            return Ok(vec![(0, vec![text.to_owned()])]);
        }
        let name = analyzer.unwrap_or(&mapping.search_analyzer);
        let mut analyzer = self.snapshot.tokenizers().get(name).ok_or_else(|| {
            invalid(format!("failed to create query: analyzer [{name}] not found"))
        })?;
        let mut positions: Positions = Vec::new();
        let mut tokens = analyzer.token_stream(text);
        while tokens.advance() {
            let token = tokens.token();
            match positions.last_mut() {
                Some((position, terms)) if *position == token.position => {
                    terms.push(token.text.clone());
                }
                _ => positions.push((token.position, vec![token.text.clone()])),
            }
            if positions.len() > self.limits.max_clause_count {
                self.count_clauses(positions.len())?;
            }
        }
        Ok(positions)
    }

    pub(super) fn match_phrase(&self, clause: &MatchPhrase, boost: f32) -> Result<Compiled> {
        let boost = boost * clause.boost;
        let (field, mapping) = match self.target(&clause.field) {
            Target::Unmapped => return Ok(Compiled::nothing()),
            Target::Id(_) | Target::Index => {
                return self.term(&clause.field, &clause.value, false, boost);
            }
            Target::Mapped(field, mapping) => (field, mapping),
        };
        if mapping.kind != FieldKind::Text {
            return self.whole_value_phrase(field, mapping, clause, boost);
        }
        let text = text(&clause.value);
        let mut positions = self.analyze(mapping, clause.analyzer.as_deref(), &text)?;
        if clause.prefix_last {
            self.expand_last(field, &mut positions, clause.max_expansions)?;
        }
        if positions.is_empty() {
            return Ok(self.no_terms(clause.zero_terms, boost));
        }
        self.phrase(field, mapping, &positions, clause.slop, boost)
    }

    /// A phrase on a field whose values are single terms.
    fn whole_value_phrase(
        &self,
        field: Field,
        mapping: &FieldMapping,
        clause: &MatchPhrase,
        boost: f32,
    ) -> Result<Compiled> {
        if clause.prefix_last {
            let Scalar::Text(prefix) = &clause.value else {
                return self.exact(field, mapping, &clause.value, boost);
            };
            return self.prefix(&mapping.path, prefix, false, boost);
        }
        self.exact(field, mapping, &clause.value, boost)
    }

    /// Puts the terms that begin as the last one does in its place.
    fn expand_last(
        &self,
        field: Field,
        positions: &mut Positions,
        max_expansions: usize,
    ) -> Result<()> {
        let Some((_, terms)) = positions.last_mut() else { return Ok(()) };
        let limit = max_expansions.min(self.limits.max_expansions);
        let mut expanded = std::collections::BTreeSet::new();
        for term in terms.iter() {
            let matcher = Matcher::Prefix { prefix: term.clone(), case_insensitive: false };
            for segment in self.snapshot.segments() {
                let texts = Texts::open(segment.reader(), field)?;
                // The first terms of each segment hold the first of all.
                expanded.extend(first_matches(&texts, &matcher, limit)?);
            }
        }
        *terms = expanded.into_iter().take(limit).collect();
        self.count_clauses(terms.len())
    }

    pub(super) fn phrase(
        &self,
        field: Field,
        mapping: &FieldMapping,
        positions: &Positions,
        slop: u32,
        boost: f32,
    ) -> Result<Compiled> {
        if !mapping.index {
            return Err(super::range::not_searchable(mapping));
        }
        if let [(_, terms)] = positions.as_slice() {
            let queries: Result<Vec<_>> = terms
                .iter()
                .map(|term| {
                    self.scored_term(field, mapping, Term::from_field_text(field, term), boost)
                })
                .collect();
            return Ok(union(queries?));
        }
        self.require_positions(field, mapping)?;
        let mut slots = Vec::with_capacity(positions.len());
        let mut statistics = Vec::new();
        let scale = self.scale(field)?;
        for (position, terms) in positions {
            self.count_clauses(terms.len())?;
            let before = statistics.len();
            for term in terms {
                let term = Term::from_field_text(field, term);
                let doc_freq = self.snapshot.doc_freq(&term)?;
                let doc_count = scale.statistics.doc_count.max(doc_freq);
                let token_count = scale.statistics.token_count;
                statistics.push((term, TermStatistics { doc_count, token_count, doc_freq }));
            }
            statistics.retain(|(_, own)| own.doc_freq > 0);
            let known = statistics.iter().skip(before).map(|(term, _)| term.clone());
            let known: Vec<Term> = known.collect();
            if known.is_empty() {
                return Ok(Compiled::nothing());
            }
            slots.push(Slot { position: *position, terms: known });
        }
        if slop == 0 && slots.iter().all(|slot| slot.terms.len() == 1) {
            let terms = slots.into_iter().filter_map(Slot::into_single).collect();
            return Ok(Compiled::other(ScoredPhrase { terms, statistics, boost }));
        }
        let idf = statistics.iter().map(|(_, statistics)| statistics.idf()).sum::<f32>();
        let average =
            as_f32(scale.statistics.token_count) / as_f32(scale.statistics.doc_count.max(1));
        Ok(Compiled::other(PhraseMatch { field, slots, slop, idf: idf * boost, average }))
    }

    fn require_positions(&self, field: Field, mapping: &FieldMapping) -> Result<()> {
        let entry = self.snapshot.schema().get_field_entry(field);
        let option = entry.field_type().get_index_record_option();
        if option.is_some_and(IndexRecordOption::has_positions) {
            return Ok(());
        }
        Err(invalid(format!(
            "failed to create query: field [{}] was indexed without position data; cannot run \
             PhraseQuery",
            mapping.path
        )))
    }
}

/// All or some of the queries, as the clause says.
pub(super) fn combine(queries: Vec<Compiled>, clause: &Match) -> Compiled {
    if queries.len() == 1 {
        return union(queries);
    }
    match (clause.operator, &clause.minimum_should_match) {
        (Operator::And, _) => intersection(queries),
        (Operator::Or, None) => union(queries),
        (Operator::Or, Some(specification)) => {
            let needed = required(specification, queries.len());
            at_least(queries, needed)
        }
    }
}

/// The first terms of a segment that fit.
pub(super) fn first_matches(texts: &Texts, matcher: &Matcher, limit: usize) -> Result<Vec<String>> {
    let mut found = Vec::new();
    texts.for_each_match(matcher, &mut |term, _| {
        if found.len() == limit {
            return Ok(ControlFlow::Break(()));
        }
        found.push(term.to_owned());
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}

/// A field whose type has no misspellings.
pub(super) fn not_fuzzy(mapping: &FieldMapping) -> crate::error::Error {
    invalid(format!(
        "failed to create query: Can only use fuzzy queries on keyword and text fields - not on \
         [{}] which is of type [{}]",
        mapping.path,
        mapping.kind.name()
    ))
}
