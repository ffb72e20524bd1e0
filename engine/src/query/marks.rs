//! What a query looks for in each field's text: for highlighting, which has only the text.
//!
//! It follows the clauses as the compiler does: the same fields, analyzers and expansions, but
//! without looking at the index. What a query excludes is not looked for.

use super::QueryLimits;
use super::ast::{Match, MatchPhrase, MultiMatch, MultiMatchKind, Query, Scalar};
use super::compile::Compiler;
use super::fuzzy::edits;
use super::matcher::{FuzzyMatcher, Matcher};
use super::term_level::Target;
use super::value::text;
use crate::error::Result;
use crate::mapping::field::{FieldMapping, Storage};
use crate::snapshot::Snapshot;

/// Something to mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Mark {
    /// Any term that fits.
    Term(Matcher),
    /// Terms one after another.
    Phrase {
        /// What stands at each place, with the place.
        places: Vec<(usize, Vec<Matcher>)>,
        /// How many positions they may be moved in all.
        slop: u32,
    },
}

/// Everything that a query looks for, by field.
pub(crate) fn marks(
    snapshot: &Snapshot,
    query: &Query,
    limits: &QueryLimits,
) -> Result<Vec<(String, Mark)>> {
    let mut walk = Walk { compiler: Compiler::new(snapshot, limits, false), marks: Vec::new() };
    walk.query(query)?;
    Ok(walk.marks)
}

struct Walk<'a> {
    compiler: Compiler<'a>,
    marks: Vec<(String, Mark)>,
}

impl Walk<'_> {
    fn query(&mut self, query: &Query) -> Result<()> {
        match query {
            Query::Match(clause) => self.match_text(&clause.field, clause),
            Query::MatchPhrase(clause) => self.phrase(&clause.field, clause),
            Query::MultiMatch(clause) => self.multi_match(clause),
            Query::Term { field, value, case_insensitive, .. } => {
                let case_insensitive = *case_insensitive;
                self.term(field, Matcher::Exact { term: text(value), case_insensitive });
                Ok(())
            }
            Query::Terms { field, values, .. } => {
                for value in values {
                    let exact = Matcher::Exact { term: text(value), case_insensitive: false };
                    self.term(field, exact);
                }
                Ok(())
            }
            Query::Prefix { field, value, case_insensitive, .. } => {
                let (prefix, case_insensitive) = (value.clone(), *case_insensitive);
                self.term(field, Matcher::Prefix { prefix, case_insensitive });
                Ok(())
            }
            Query::Wildcard { field, value, case_insensitive, .. } => {
                self.term(field, Matcher::wildcard(value, *case_insensitive));
                Ok(())
            }
            Query::Fuzzy { field, value, fuzziness, prefix_length, transpositions, .. } => {
                let fuzzy = FuzzyMatcher {
                    term: value.clone(),
                    edits: edits(*fuzziness, value),
                    prefix_length: *prefix_length,
                    transpositions: *transpositions,
                };
                self.term(field, Matcher::Fuzzy(fuzzy));
                Ok(())
            }
            Query::Bool(clause) => {
                let positive = clause.must.iter().chain(&clause.filter).chain(&clause.should);
                self.queries(positive)
            }
            Query::DisMax { queries, .. } => self.queries(queries),
            Query::ConstantScore { filter: query, .. } | Query::Boost { query, .. } => {
                self.query(query)
            }
            Query::MatchAll { .. }
            | Query::MatchNone
            | Query::Range(_)
            | Query::Exists { .. }
            | Query::WithinArea { .. }
            | Query::Ids { .. } => Ok(()),
        }
    }

    fn queries<'q>(&mut self, queries: impl IntoIterator<Item = &'q Query>) -> Result<()> {
        queries.into_iter().try_for_each(|query| self.query(query))
    }

    fn term(&mut self, field: &str, matcher: Matcher) {
        self.marks.push((field.to_owned(), Mark::Term(matcher)));
    }

    fn match_text(&mut self, field: &str, clause: &Match) -> Result<()> {
        let Some(mapping) = self.text_field(field) else { return Ok(()) };
        let value = text(&clause.value);
        let positions = self.compiler.analyze(mapping, clause.analyzer.as_deref(), &value)?;
        let last = positions.len().saturating_sub(1);
        let terms = positions.into_iter().enumerate().flat_map(|(place, (_, terms))| {
            terms.into_iter().map(move |term| (clause.prefix_last && place == last, term))
        });
        for (is_prefix, term) in terms {
            let matcher = if is_prefix { prefix(term) } else { fuzzy_or_exact(term, clause) };
            self.term(field, matcher);
        }
        Ok(())
    }

    fn phrase(&mut self, field: &str, clause: &MatchPhrase) -> Result<()> {
        let Some(mapping) = self.text_field(field) else { return Ok(()) };
        let value = text(&clause.value);
        let positions = self.compiler.analyze(mapping, clause.analyzer.as_deref(), &value)?;
        let last = positions.len().saturating_sub(1);
        let mut places: Vec<(usize, Vec<Matcher>)> = Vec::with_capacity(positions.len());
        for (place, (position, terms)) in positions.into_iter().enumerate() {
            let is_prefix = clause.prefix_last && place == last;
            let matchers = terms.into_iter().map(if is_prefix { prefix } else { exact });
            places.push((position, matchers.collect()));
        }
        if places.len() == 1 {
            for matcher in places.into_iter().flat_map(|(_, matchers)| matchers) {
                self.term(field, matcher);
            }
        } else if !places.is_empty() {
            self.marks.push((field.to_owned(), Mark::Phrase { places, slop: clause.slop }));
        }
        Ok(())
    }

    fn multi_match(&mut self, clause: &MultiMatch) -> Result<()> {
        for (path, _) in self.compiler.paths(clause) {
            match clause.kind {
                MultiMatchKind::Phrase | MultiMatchKind::PhrasePrefix => {
                    let phrase = MatchPhrase {
                        field: path.clone(),
                        value: Scalar::Text(text(&clause.options.value)),
                        slop: clause.slop,
                        analyzer: clause.options.analyzer.clone(),
                        zero_terms: clause.options.zero_terms,
                        prefix_last: clause.kind == MultiMatchKind::PhrasePrefix,
                        max_expansions: clause.options.max_expansions,
                        boost: 1.0,
                    };
                    self.phrase(&path, &phrase)?;
                }
                kind => {
                    let prefix_last = kind == MultiMatchKind::BoolPrefix;
                    let options = Match { prefix_last, ..clause.options.clone() };
                    self.match_text(&path, &options)?;
                }
            }
        }
        Ok(())
    }

    fn text_field(&self, path: &str) -> Option<&FieldMapping> {
        match self.compiler.target(path) {
            Target::Mapped(_, mapping) if mapping.kind.storage() == Storage::Text => Some(mapping),
            _ => None,
        }
    }
}

fn prefix(prefix: String) -> Matcher {
    Matcher::Prefix { prefix, case_insensitive: false }
}

fn exact(term: String) -> Matcher {
    Matcher::Exact { term, case_insensitive: false }
}

fn fuzzy_or_exact(term: String, clause: &Match) -> Matcher {
    match clause.fuzziness {
        None => exact(term),
        Some(fuzziness) => Matcher::Fuzzy(FuzzyMatcher {
            edits: edits(fuzziness, &term),
            prefix_length: clause.prefix_length,
            transpositions: true,
            term,
        }),
    }
}
