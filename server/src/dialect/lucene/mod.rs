//! The text syntaxes of `query_string` and `q=` (Lucene's classic one) and of
//! `simple_query_string`, into the query tree.
//!
//! [`lexer`] and [`parser`] read the classic syntax, [`simple`] the forgiving one; both make their
//! leaves through [`Leaves`], which knows which fields a bare word is looked for in.

mod lexer;
mod parser;
mod simple;

use egret_engine::query::ast::{
    Bool, Fuzziness, Match, MatchPhrase, MinimumShouldMatch, MultiMatch, MultiMatchKind, Operator,
    Query, Range, Relation, Scalar, ZeroTerms,
};

pub(crate) use parser::parse;
pub(crate) use simple::{Flags, parse_simple};

use super::query::{FieldKind, QueryReader};
use crate::error::Result;

/// What both syntaxes can be told.
#[derive(Debug, Clone)]
pub(crate) struct TextOptions {
    /// Fields of bare words, with boosts; empty: every text and keyword field.
    pub(crate) fields: Vec<(String, f32)>,
    /// What stands between words without an operator.
    pub(crate) operator: Operator,
    pub(crate) analyzer: Option<String>,
    pub(crate) lenient: bool,
    pub(crate) kind: MultiMatchKind,
    pub(crate) tie_breaker: Option<f32>,
    pub(crate) phrase_slop: u32,
    /// The distance of `~` without a number.
    pub(crate) fuzziness: Fuzziness,
    pub(crate) fuzzy_prefix_length: usize,
    pub(crate) fuzzy_max_expansions: usize,
    pub(crate) allow_leading_wildcard: bool,
    pub(crate) minimum_should_match: Option<MinimumShouldMatch>,
    pub(crate) time_zone: Option<String>,
    pub(crate) boost: f32,
}

impl Default for TextOptions {
    fn default() -> Self {
        Self {
            fields: Vec::new(),
            operator: Operator::Or,
            analyzer: None,
            lenient: false,
            kind: MultiMatchKind::BestFields,
            tie_breaker: None,
            phrase_slop: 0,
            fuzziness: Fuzziness::Auto { low: 3, high: 6 },
            fuzzy_prefix_length: 0,
            fuzzy_max_expansions: 50,
            allow_leading_wildcard: true,
            minimum_should_match: None,
            time_zone: None,
            boost: 1.0,
        }
    }
}

/// Makes the leaves of a text query.
struct Leaves<'r, 'f> {
    reader: &'r mut QueryReader<'f>,
    options: &'r TextOptions,
}

/// One end of a range: the text and whether it belongs.
type End = Option<(String, bool)>;

impl Leaves<'_, '_> {
    /// Words, looked for together.
    fn words(&mut self, field: Option<&str>, text: String, boost: f32) -> Result<Query> {
        let operator = self.options.operator;
        self.analyzed(field, self.options.kind, Match { operator, boost, ..self.base(text) }, 0)
    }

    fn phrase(
        &mut self,
        field: Option<&str>,
        text: String,
        slop: Option<u32>,
        boost: f32,
    ) -> Result<Query> {
        let slop = slop.unwrap_or(self.options.phrase_slop);
        let options = Match { boost, ..self.base(text) };
        self.analyzed(field, MultiMatchKind::Phrase, options, slop)
    }

    fn fuzzy(
        &mut self,
        field: Option<&str>,
        text: String,
        fuzziness: Option<Fuzziness>,
        boost: f32,
    ) -> Result<Query> {
        let options = Match {
            fuzziness: Some(fuzziness.unwrap_or(self.options.fuzziness)),
            prefix_length: self.options.fuzzy_prefix_length,
            max_expansions: self.options.fuzzy_max_expansions,
            operator: self.options.operator,
            boost,
            ..self.base(text)
        };
        self.analyzed(field, MultiMatchKind::BestFields, options, 0)
    }

    fn base(&self, text: String) -> Match {
        Match {
            field: String::new(),
            value: Scalar::Text(text),
            operator: Operator::Or,
            minimum_should_match: None,
            fuzziness: None,
            prefix_length: 0,
            max_expansions: self.options.fuzzy_max_expansions,
            analyzer: self.options.analyzer.clone(),
            zero_terms: ZeroTerms::None,
            lenient: self.options.lenient,
            prefix_last: false,
            boost: 1.0,
        }
    }

    fn analyzed(
        &mut self,
        field: Option<&str>,
        kind: MultiMatchKind,
        mut options: Match,
        slop: u32,
    ) -> Result<Query> {
        let fields = match field {
            Some(name) => vec![(name.to_owned(), 1.0)],
            None => self.options.fields.clone(),
        };
        self.reader.count_clauses(fields.len().max(1))?;
        let one = match fields.as_slice() {
            [(name, boost)] if !name.contains('*') => Some((name, *boost)),
            _ => None,
        };
        let (Some((name, boost)), MultiMatchKind::BestFields | MultiMatchKind::Phrase) =
            (one, kind)
        else {
            let tie_breaker = self.options.tie_breaker;
            return Ok(Query::MultiMatch(MultiMatch { fields, kind, tie_breaker, options, slop }));
        };
        options.boost *= boost;
        name.clone_into(&mut options.field);
        if kind == MultiMatchKind::BestFields {
            return Ok(Query::Match(options));
        }
        Ok(Query::MatchPhrase(MatchPhrase {
            field: options.field,
            value: options.value,
            slop,
            analyzer: options.analyzer,
            zero_terms: ZeroTerms::None,
            prefix_last: false,
            max_expansions: options.max_expansions,
            boost: options.boost,
        }))
    }

    fn prefix(&mut self, field: Option<&str>, value: &str, boost: f32) -> Result<Query> {
        self.unanalyzed(field, boost, |field, kind, boost| Query::Prefix {
            field,
            value: value.to_owned(),
            case_insensitive: kind == FieldKind::Text,
            boost,
        })
    }

    fn wildcard(&mut self, field: Option<&str>, pattern: &str, boost: f32) -> Result<Query> {
        self.unanalyzed(field, boost, |field, kind, boost| Query::Wildcard {
            field,
            value: pattern.to_owned(),
            case_insensitive: kind == FieldKind::Text,
            boost,
        })
    }

    fn range(
        &mut self,
        field: Option<&str>,
        lower: &End,
        upper: &End,
        boost: f32,
    ) -> Result<Query> {
        let time_zone = self.options.time_zone.clone();
        let scalar = |end: &End| {
            let (text, included) = end.as_ref()?;
            Some((Scalar::Text(text.clone()), *included))
        };
        self.unanalyzed(field, boost, |field, _, boost| {
            Query::Range(Range {
                field,
                lower: scalar(lower),
                upper: scalar(upper),
                format: None,
                time_zone: time_zone.clone(),
                relation: Relation::Intersects,
                boost,
            })
        })
    }

    fn exists(&mut self, field: Option<&str>, boost: f32) -> Result<Query> {
        match field {
            Some("*") => return Ok(Query::MatchAll { boost }),
            None if self.options.fields.is_empty() => return Ok(Query::MatchAll { boost }),
            _ => {}
        }
        self.unanalyzed(field, boost, |field, _, boost| Query::Exists { field, boost })
    }

    /// A leaf for each field that the name or pattern stands for, the best of them counting.
    fn unanalyzed(
        &mut self,
        field: Option<&str>,
        boost: f32,
        leaf: impl Fn(String, FieldKind, f32) -> Query,
    ) -> Result<Query> {
        let all = [("*".to_owned(), 1.0)];
        let one;
        let wanted: &[(String, f32)] = match field {
            Some(name) => {
                one = [(name.to_owned(), 1.0)];
                &one
            }
            None if self.options.fields.is_empty() => &all,
            None => &self.options.fields,
        };
        let mut queries = Vec::new();
        for (name, factor) in wanted {
            let found = self.reader.fields.matching(name);
            if name.contains('*') {
                let searched = found.into_iter().filter(|(_, kind)| *kind != FieldKind::Other);
                queries.extend(searched.map(|(name, kind)| leaf(name, kind, boost * factor)));
            } else {
                let kind = found.first().map_or(FieldKind::Other, |(_, kind)| *kind);
                queries.push(leaf(name.clone(), kind, boost * factor));
            }
        }
        self.reader.count_clauses(queries.len().max(1))?;
        let tie_breaker = self.options.tie_breaker.unwrap_or(0.0);
        Ok(match queries.len() {
            0 => Query::MatchNone,
            1 => queries.swap_remove(0),
            _ => Query::DisMax { queries, tie_breaker, boost: 1.0 },
        })
    }
}

/// Multiplies a query's score.
fn boosted(query: Query, boost: f32) -> Query {
    #[expect(clippy::float_cmp, reason = "the default, written out")]
    let plain = boost == 1.0;
    if plain { query } else { Query::Boost { query: Box::new(query), boost } }
}

/// Applies what was asked of the query as a whole.
fn finish(mut query: Query, options: &TextOptions) -> Query {
    if let Some(minimum) = &options.minimum_should_match {
        match &mut query {
            Query::Bool(Bool { should, minimum_should_match, .. }) if !should.is_empty() => {
                *minimum_should_match = Some(minimum.clone());
            }
            Query::Match(words) | Query::MultiMatch(MultiMatch { options: words, .. }) => {
                words.minimum_should_match = Some(minimum.clone());
            }
            _ => {}
        }
    }
    boosted(query, options.boost)
}
