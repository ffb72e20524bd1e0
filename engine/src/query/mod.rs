//! Queries: a typed tree ([`ast`]) that knows neither JSON nor tantivy, and what compiles it
//! against a snapshot.
//!
//! [`compile::compile`] is the way in. There is one file for each family of clauses; `scored_term`,
//! `term_selection`, `exists` and `phrase_match` are tantivy queries of our own where tantivy's
//! differ from Elasticsearch's in what matches or in scores; `similar_terms` and `keyword_filter` are
//! faster.

pub mod ast;
pub mod compile;
pub(crate) mod matcher;

mod compound;
pub(crate) mod date_math;
mod excluded;
mod exists;
mod full_text;
mod fuzzy;
mod geo;
mod keyword_filter;
pub(crate) mod marks;
mod minimum_should_match;
mod multi_match;
mod phrase_match;
mod range;
mod scored_term;
mod similar_terms;
mod sloppy;
mod term_level;
mod term_selection;
mod texts;
mod union;
mod value;

#[cfg(test)]
mod tests;

/// How much a query may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueryLimits {
    /// How many clauses a query may have once texts are analyzed
    /// (`indices.query.bool.max_clause_count`).
    pub max_clause_count: usize,
    /// How many values `terms` may list (`index.max_terms_count`).
    pub max_terms_count: usize,
    /// How many terms a fuzzy term or a phrase's last prefix may stand for, whatever the query says
    /// (`search.max_expansions`).
    pub max_expansions: usize,
    /// How many characters a pattern may have (`index.max_regex_length`).
    pub max_pattern_length: usize,
}

impl Default for QueryLimits {
    fn default() -> Self {
        Self {
            max_clause_count: 4096,
            max_terms_count: 65_536,
            max_expansions: 1024,
            max_pattern_length: 1000,
        }
    }
}
