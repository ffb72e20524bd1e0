//! From the query tree to tantivy's queries, against one snapshot's mapping and statistics.
//!
//! Boosts are multiplied down to the leaves, so that a union or intersection of terms stays one
//! that block-max WAND can prune. Invariant: a compiled query matches what Elasticsearch's would,
//! and every hit has that query's score; an unmapped field matches nothing.

use std::cell::{Cell, RefCell};
use std::fmt;

use rustc_hash::FxHashMap;
use tantivy::Term;
use tantivy::query::{
    AllQuery, BooleanQuery, ConstScoreQuery, EmptyQuery, EnableScoring, Occur,
    Query as TantivyQuery, Weight,
};
use tantivy::schema::Field;

use super::QueryLimits;
use super::ast::Query;
use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::{FieldStatistics, Snapshot};

/// A query that is ready to run over a snapshot's segments.
#[derive(Debug)]
pub struct Compiled {
    /// The query.
    pub query: Box<dyn TantivyQuery>,
    /// What is known about its hits and scores.
    pub shape: Shape,
}

/// What is known about a query's hits and scores before it runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Shape {
    /// It matches nothing.
    Nothing,
    /// It matches everything, scored alike.
    Everything(f32),
    /// All hits score alike.
    Constant(f32),
    /// A union or intersection of terms: low scores can be skipped.
    Terms {
        /// By how much a block's best score may exceed what the index says it is.
        slack: f32,
        /// At least so many documents match, deleted ones included.
        at_least: u64,
        /// Whether there is one term, which `at_least` documents have exactly.
        single: bool,
        /// Whether all terms must match, where there are several.
        all: bool,
    },
    /// Documents with any of some terms, most of them only one: low scores can be skipped.
    Similar {
        /// As of [`Shape::Terms`].
        slack: f32,
        /// At least so many documents match, deleted ones included.
        at_least: u64,
    },
    /// Nothing.
    Other,
}

/// Compiles a query whose scores are wanted.
pub fn compile(snapshot: &Snapshot, query: &Query, limits: &QueryLimits) -> Result<Compiled> {
    Compiler::new(snapshot, limits, true).compile(query, 1.0)
}

/// Compiles a query of which only the matches are wanted.
pub fn compile_filter(
    snapshot: &Snapshot,
    query: &Query,
    limits: &QueryLimits,
) -> Result<Compiled> {
    Compiler::new(snapshot, limits, false).compile(query, 1.0)
}

impl Compiled {
    /// A query that matches nothing.
    pub(super) fn nothing() -> Self {
        Self { query: Box::new(EmptyQuery), shape: Shape::Nothing }
    }

    /// A query about which nothing is known.
    pub(super) fn other(query: impl TantivyQuery) -> Self {
        Self { query: Box::new(query), shape: Shape::Other }
    }

    /// Whether it is known to match nothing.
    pub(super) fn is_nothing(&self) -> bool {
        self.shape == Shape::Nothing
    }

    /// The terms of [`Shape::Terms`].
    pub fn terms(&self) -> Vec<Term> {
        let mut terms = Vec::new();
        self.query.query_terms(&mut |term, _| terms.push(term.clone()));
        terms
    }

    /// The weight to run it with.
    pub fn weight(&self, snapshot: &Snapshot, scored: bool) -> Result<Box<dyn Weight>> {
        let scoring = if scored {
            EnableScoring::enabled_from_searcher(snapshot.searcher())
        } else {
            EnableScoring::disabled_from_schema(snapshot.schema())
        };
        Ok(self.query.weight(scoring)?)
    }
}

/// What compiling one query needs to know.
pub(super) struct Compiler<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) limits: &'a QueryLimits,
    /// Whether scores are wanted.
    pub(super) scored: bool,
    clause_count: Cell<usize>,
    statistics: RefCell<FxHashMap<Field, Scale>>,
}

/// A field's statistics, and how far its segments' own are from them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scale {
    pub(super) statistics: FieldStatistics,
    pub(super) slack: f32,
}

impl fmt::Debug for Compiler<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compiler").field("scored", &self.scored).finish_non_exhaustive()
    }
}

impl<'a> Compiler<'a> {
    pub(super) fn new(snapshot: &'a Snapshot, limits: &'a QueryLimits, scored: bool) -> Self {
        Self {
            snapshot,
            limits,
            scored,
            clause_count: Cell::new(0),
            statistics: RefCell::default(),
        }
    }

    /// Compiles a clause, its scores multiplied by `boost`.
    pub(super) fn compile(&self, query: &Query, boost: f32) -> Result<Compiled> {
        self.count_clauses(1)?;
        match query {
            Query::MatchAll { boost: own } => Ok(self.everything(boost * own)),
            Query::MatchNone => Ok(Compiled::nothing()),
            Query::Match(clause) => self.match_text(clause, boost),
            Query::MatchPhrase(clause) => self.match_phrase(clause, boost),
            Query::MultiMatch(clause) => self.multi_match(clause, boost),
            Query::Term { field, value, case_insensitive, boost: own } => {
                self.term(field, value, *case_insensitive, boost * own)
            }
            Query::Terms { field, values, boost: own } => self.terms(field, values, boost * own),
            Query::Range(clause) => self.range(clause, boost * clause.boost),
            Query::Prefix { field, value, case_insensitive, boost: own } => {
                self.prefix(field, value, *case_insensitive, boost * own)
            }
            Query::Wildcard { field, value, case_insensitive, boost: own } => {
                self.wildcard(field, value, *case_insensitive, boost * own)
            }
            Query::Fuzzy { .. } => self.fuzzy_clause(query, boost),
            Query::Exists { field, boost: own } => Ok(self.exists(field, boost * own)),
            Query::WithinArea { field, area, ignore_unmapped, boost: own } => {
                self.within_area(field, area, *ignore_unmapped, boost * own)
            }
            Query::Ids { values, boost: own } => self.ids(values, boost * own),
            Query::Bool(clause) => self.bool(clause, boost * clause.boost),
            Query::ConstantScore { filter, boost: own } => {
                let filter = self.filter(filter)?;
                Ok(self.constant(filter, boost * own))
            }
            Query::DisMax { queries, tie_breaker, boost: own } => {
                self.dis_max_clause(queries, *tie_breaker, boost * own)
            }
            Query::Boost { query, boost: own } => self.compile(query, boost * own),
        }
    }

    /// Compiles a clause of which only the matches are wanted.
    pub(super) fn filter(&self, query: &Query) -> Result<Compiled> {
        let compiler = Compiler {
            snapshot: self.snapshot,
            limits: self.limits,
            scored: false,
            clause_count: self.clause_count.clone(),
            statistics: RefCell::default(),
        };
        let compiled = compiler.compile(query, 1.0)?;
        self.clause_count.set(compiler.clause_count.get());
        Ok(compiled)
    }

    /// Every document, scored alike.
    pub(super) fn everything(&self, score: f32) -> Compiled {
        if self.scored {
            let query = Box::new(ConstScoreQuery::new(Box::new(AllQuery), score));
            return Compiled { query, shape: Shape::Everything(score) };
        }
        Compiled { query: Box::new(AllQuery), shape: Shape::Everything(0.0) }
    }

    /// The same documents, scored alike.
    pub(super) fn constant(&self, compiled: Compiled, score: f32) -> Compiled {
        let shape = match compiled.shape {
            Shape::Nothing => return compiled,
            Shape::Everything(_) => return self.everything(score),
            _ => Shape::Constant(if self.scored { score } else { 0.0 }),
        };
        if self.scored {
            Compiled { query: Box::new(ConstScoreQuery::new(compiled.query, score)), shape }
        } else {
            Compiled { query: compiled.query, shape }
        }
    }

    /// As [`Self::constant`], for a query that is not scored by itself.
    pub(super) fn constant_query(&self, query: impl TantivyQuery, score: f32) -> Compiled {
        self.constant(Compiled { query: Box::new(query), shape: Shape::Constant(0.0) }, score)
    }

    /// Counts clauses against the limit.
    pub(super) fn count_clauses(&self, count: usize) -> Result<()> {
        let total = self.clause_count.get().saturating_add(count);
        self.clause_count.set(total);
        let limit = self.limits.max_clause_count;
        if total > limit {
            return Err(invalid(format!(
                "failed to create query: maxClauseCount is set to {limit} \
                 [indices.query.bool.max_clause_count]"
            )));
        }
        Ok(())
    }

    /// A field's statistics in the whole snapshot.
    pub(super) fn scale(&self, field: Field) -> Result<Scale> {
        if let Some(known) = self.statistics.borrow().get(&field) {
            return Ok(*known);
        }
        let statistics = self.snapshot.field_statistics(field)?;
        let slack = slack(self.snapshot, field, statistics)?;
        let scale = Scale { statistics, slack };
        self.statistics.borrow_mut().insert(field, scale);
        Ok(scale)
    }
}

/// Documents that match any of the queries, scored by the sum.
pub(super) fn union(queries: Vec<Compiled>) -> Compiled {
    at_least(queries, 1)
}

/// Documents that match so many of the queries, at least one, scored by the sum.
pub(super) fn at_least(mut queries: Vec<Compiled>, count: usize) -> Compiled {
    queries.retain(|query| !query.is_nothing());
    if queries.len() < count.max(1) {
        return Compiled::nothing();
    }
    if queries.len() == 1 {
        return queries.pop().unwrap_or_else(Compiled::nothing);
    }
    let shape = match count {
        0 | 1 => union_shape(&queries),
        all if all == queries.len() => intersection_shape(&queries),
        _ => Shape::Other,
    };
    let clauses = queries.into_iter().map(|query| (Occur::Should, query.query)).collect();
    let query = BooleanQuery::with_minimum_required_clauses(clauses, count.max(1));
    Compiled { query: Box::new(query), shape }
}

/// Documents that match all the queries, scored by the sum.
pub(super) fn intersection(mut queries: Vec<Compiled>) -> Compiled {
    if queries.is_empty() || queries.iter().any(Compiled::is_nothing) {
        return Compiled::nothing();
    }
    if queries.len() == 1 {
        return queries.pop().unwrap_or_else(Compiled::nothing);
    }
    let shape = intersection_shape(&queries);
    let clauses = queries.into_iter().map(|query| (Occur::Must, query.query)).collect();
    let query = BooleanQuery::with_minimum_required_clauses(clauses, 0);
    Compiled { query: Box::new(query), shape }
}

/// The best (frequency, length) pair of a block was chosen by the segment's own average length,
/// which counts documents without the field. Under an average that differs by a factor, no score
/// in the block exceeds that pair's by more than this factor.
fn slack(snapshot: &Snapshot, field: Field, statistics: FieldStatistics) -> Result<f32> {
    if statistics.doc_count == 0 || statistics.token_count == 0 {
        return Ok(1.0);
    }
    let average = as_f32(statistics.token_count) / as_f32(statistics.doc_count);
    let mut slack = 1.0_f32;
    for segment in snapshot.segments() {
        let tokens = segment.reader().inverted_index(field)?.total_num_tokens();
        if tokens > 0 {
            let own = as_f32(tokens) / as_f32(u64::from(segment.reader().max_doc()));
            slack = slack.max(average / own).max(own / average);
        }
    }
    Ok(slack)
}

fn union_shape(queries: &[Compiled]) -> Shape {
    let mut slack = 1.0_f32;
    let mut at_least = 0;
    for query in queries {
        match query.shape {
            Shape::Terms { slack: own, at_least: count, all: false, .. } => {
                slack = slack.max(own);
                at_least = at_least.max(count);
            }
            _ => return Shape::Other,
        }
    }
    Shape::Terms { slack, at_least, single: false, all: false }
}

fn intersection_shape(queries: &[Compiled]) -> Shape {
    let mut slack = 1.0_f32;
    for query in queries {
        match query.shape {
            Shape::Terms { slack: own, single: true, .. } => slack = slack.max(own),
            _ => return Shape::Other,
        }
    }
    Shape::Terms { slack, at_least: 0, single: false, all: true }
}

/// A query that cannot be run.
pub(super) fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidQuery, message)
}

/// A count as tantivy takes it into scores.
#[expect(clippy::cast_precision_loss, reason = "scores are single precision, as in Lucene")]
pub(super) fn as_f32(count: u64) -> f32 {
    count as f32
}
