//! Clauses that combine others: `bool` and `dis_max`.

use tantivy::query::{AllQuery, BooleanQuery, ConstScoreQuery, DisjunctionMaxQuery, Occur};

use super::ast::{Bool, Query};
use super::compile::{Compiled, Compiler, Shape, at_least, intersection, union};
use super::excluded::Excluded;
use super::keyword_filter::{Keyword, KeywordFilter};
use super::minimum_should_match::required;
use crate::error::Result;

/// Single terms go without the wrapper: tantivy has a faster path for them.
fn excluded(query: Compiled) -> Box<dyn tantivy::query::Query> {
    match query.shape {
        Shape::Terms { single: true, .. } => query.query,
        _ => Box::new(Excluded(query.query)),
    }
}

impl Compiler<'_> {
    pub(super) fn bool(&self, clause: &Bool, boost: f32) -> Result<Compiled> {
        let must = self.all(&clause.must, boost)?;
        let filter = self.filters(&clause.filter)?;
        let should = self.all(&clause.should, boost)?;
        let must_not = self.filters(&clause.must_not)?;
        let positive = must.len() + filter.len();
        let needed = match &clause.minimum_should_match {
            Some(specification) => required(specification, should.len()),
            None => usize::from(positive == 0 && !should.is_empty()),
        };
        if must.is_empty() && filter.is_empty() && should.is_empty() && must_not.is_empty() {
            // An empty `bool` matches everything.
            return Ok(self.everything(boost));
        }
        if needed > should.len()
            || must.iter().chain(&filter).any(Compiled::is_nothing)
            || must_not.iter().any(|query| matches!(query.shape, Shape::Everything(_)))
        {
            return Ok(Compiled::nothing());
        }
        let must_not: Vec<_> = must_not.into_iter().filter(|query| !query.is_nothing()).collect();
        if filter.is_empty() && must_not.is_empty() {
            if should.is_empty() && !must.is_empty() {
                return Ok(intersection(must));
            }
            if must.is_empty() && needed > 0 {
                return Ok(at_least(should, needed));
            }
        }
        Ok(self.mixed(must, filter, should, must_not, needed))
    }

    fn mixed(
        &self,
        must: Vec<Compiled>,
        mut filter: Vec<Compiled>,
        should: Vec<Compiled>,
        must_not: Vec<Compiled>,
        needed: usize,
    ) -> Compiled {
        let only_filters = must.is_empty() && should.is_empty();
        let none_required = must.is_empty() && filter.is_empty() && needed == 0;
        let keywords = self.set_apart_keywords(&must, &mut filter);
        let mut clauses: Vec<(Occur, Box<dyn tantivy::query::Query>)> = Vec::new();
        clauses.extend(must.into_iter().map(|query| (Occur::Must, query.query)));
        for filter in filter {
            // A filter that lets everything through is no clause, unless it is the only one.
            if matches!(filter.shape, Shape::Everything(_)) && !clauses.is_empty() {
                continue;
            }
            clauses.push((Occur::Must, self.unscored(filter)));
        }
        if none_required {
            let everything = Compiled { query: Box::new(AllQuery), shape: Shape::Everything(0.0) };
            clauses.push((Occur::Must, self.unscored(everything)));
        }
        clauses.extend(should.into_iter().map(|query| (Occur::Should, query.query)));
        clauses.extend(must_not.into_iter().map(|query| (Occur::MustNot, excluded(query))));
        let query = Box::new(BooleanQuery::with_minimum_required_clauses(clauses, needed));
        let shape = if only_filters { Shape::Constant(0.0) } else { Shape::Other };
        if keywords.is_empty() {
            return Compiled { query, shape };
        }
        let segments = self.snapshot.segments().to_vec();
        Compiled { query: Box::new(KeywordFilter { query, keywords, segments }), shape }
    }

    /// Takes the filters away that are keywords, where scores are not wanted and documents are found
    /// by something else.
    fn set_apart_keywords(&self, must: &[Compiled], filter: &mut Vec<Compiled>) -> Vec<Keyword> {
        let keyword = |query: &Compiled| Keyword::of(query, self.snapshot.schema());
        let leads = |query: &Compiled| {
            !matches!(query.shape, Shape::Everything(_)) && keyword(query).is_none()
        };
        if self.scored || !must.iter().chain(&*filter).any(leads) {
            return Vec::new();
        }
        let keywords = filter.iter().filter_map(keyword).collect();
        filter.retain(|query| keyword(query).is_none());
        keywords
    }

    /// A clause that decides what matches but adds nothing to the score. Tantivy drops a bare
    /// `AllQuery` from intersections with its score, so that one is wrapped too.
    fn unscored(&self, filter: Compiled) -> Box<dyn tantivy::query::Query> {
        if self.scored { Box::new(ConstScoreQuery::new(filter.query, 0.0)) } else { filter.query }
    }

    pub(super) fn dis_max_clause(
        &self,
        queries: &[Query],
        tie_breaker: f32,
        boost: f32,
    ) -> Result<Compiled> {
        Ok(self.dis_max(self.all(queries, boost)?, tie_breaker))
    }

    /// Documents that match any of the queries, scored by the best of them and a part of the
    /// others.
    pub(super) fn dis_max(&self, mut queries: Vec<Compiled>, tie_breaker: f32) -> Compiled {
        queries.retain(|query| !query.is_nothing());
        if queries.len() < 2 {
            return queries.pop().unwrap_or_else(Compiled::nothing);
        }
        if !self.scored {
            return union(queries);
        }
        let queries = queries.into_iter().map(|query| query.query).collect();
        Compiled::other(DisjunctionMaxQuery::with_tie_breaker(queries, tie_breaker))
    }

    fn all(&self, queries: &[Query], boost: f32) -> Result<Vec<Compiled>> {
        queries.iter().map(|query| self.compile(query, boost)).collect()
    }

    fn filters(&self, queries: &[Query]) -> Result<Vec<Compiled>> {
        queries.iter().map(|query| self.filter(query)).collect()
    }
}
