//! Search: a [`request::SearchRequest`] over published snapshots gives a
//! [`response::SearchResponse`].
//!
//! [`collect`] goes over the matching documents once, for counts, the best hits ([`top`]) and
//! aggregations; [`fetch`] reads what the hits that are returned consist of.

pub mod request;
pub mod response;

mod aggregation;
mod collect;
mod column;
mod count;
mod distance;
mod fetch;
mod highlight;
mod sort_key;
mod source_filter;
mod top;

#[cfg(test)]
mod control_tests;
#[cfg(test)]
mod dates;
#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use self::aggregation::Aggregations;
use self::collect::Sink;
use self::request::{SearchRequest, SortBy};
use crate::error::{Error, ErrorKind, Result};
use crate::query::QueryLimits;
use crate::query::ast::Query;
use crate::snapshot::Snapshot;

/// How much a search may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SearchLimits {
    /// The greatest `from + size` (`index.max_result_window`).
    pub max_result_window: usize,
    /// How many buckets an answer may have (`search.max_buckets`).
    pub max_buckets: usize,
    /// How many buckets an aggregation may collect before the best are chosen
    /// (`search.max_collected_buckets`).
    pub max_collected_buckets: usize,
    /// How deep aggregations may be nested (`search.max_aggregation_depth`).
    pub max_aggregation_depth: usize,
    /// How many `docvalue_fields` (`index.max_docvalue_fields_search`).
    pub max_docvalue_fields: usize,
    /// Of queries.
    pub query: QueryLimits,
}

impl Default for SearchLimits {
    fn default() -> Self {
        Self {
            max_result_window: 10_000,
            max_buckets: 65_536,
            max_collected_buckets: 1_000_000,
            max_aggregation_depth: 16,
            max_docvalue_fields: 100,
            query: QueryLimits::default(),
        }
    }
}

/// Answers a request over the snapshots of one or several indexes (each scored by its own
/// statistics, as Elasticsearch scores shards). Blocking: call it from a thread that may block, and
/// through [`crate::Control::run`] where it may have to stop early or is to be held to a limit of
/// memory.
pub fn search(
    snapshots: &[Arc<Snapshot>],
    request: &SearchRequest,
) -> Result<response::SearchResponse> {
    search_within(snapshots, request, &SearchLimits::default())
}

/// As [`search`], under limits of one's own.
pub fn search_within(
    snapshots: &[Arc<Snapshot>],
    request: &SearchRequest,
    limits: &SearchLimits,
) -> Result<response::SearchResponse> {
    check(request, limits)?;
    let wanted = if request.size == 0 { 0 } else { request.from.saturating_add(request.size) };
    if wanted > 0 {
        sort_key::check_types(snapshots, &request.sort)?;
    }
    let mut aggregations = Aggregations::new(&request.aggregations, limits)?;
    let sink = (!request.aggregations.is_empty()).then_some(&mut aggregations as &mut dyn Sink);
    let mut found = collect::collect(snapshots, request, wanted, &limits.query, sink)?;
    let hits = found.hits.split_off(request.from.min(found.hits.len()));
    let began = Instant::now();
    let hits = fetch::fetch(snapshots, request, hits, &limits.query)?;
    count_fetched(snapshots, &hits, began.elapsed());
    Ok(response::SearchResponse {
        total: found.total,
        max_score: found.max_score,
        hits,
        aggregations: aggregations.results(limits)?,
        timed_out: found.timed_out,
        terminated_early: found.terminated_early,
    })
}

/// Shares out the time that the reading of hits took.
fn count_fetched(snapshots: &[Arc<Snapshot>], hits: &[response::Hit], took: Duration) {
    let all = u32::try_from(hits.len()).unwrap_or(u32::MAX).max(1);
    for snapshot in snapshots {
        let own = hits.iter().filter(|hit| hit.index == snapshot.index_name()).count();
        if own > 0 {
            let own = u32::try_from(own).unwrap_or(u32::MAX);
            snapshot.activity().fetched.add((took / all).saturating_mul(own));
        }
    }
}

/// How many documents match.
pub fn count(snapshots: &[Arc<Snapshot>], query: &Query) -> Result<u64> {
    let limits = QueryLimits::default();
    let mut total = 0;
    for snapshot in snapshots {
        let compiled = crate::query::compile::compile_filter(snapshot, query, &limits)?;
        let weight = compiled.weight(snapshot, false)?;
        for segment in snapshot.segments() {
            total += count::matches(weight.as_ref(), compiled.shape, segment.reader())?;
        }
    }
    Ok(total)
}

fn check(request: &SearchRequest, limits: &SearchLimits) -> Result<()> {
    let invalid = |message: String| Err(Error::new(ErrorKind::InvalidArgument, message));
    let window = request.from.saturating_add(request.size);
    let limit = limits.max_result_window;
    if window > limit {
        return invalid(format!(
            "Result window is too large, from + size must be less than or equal to: [{limit}] but \
             was [{window}]. See the scroll api for a more efficient way to request large data \
             sets. This limit can be set by changing the [index.max_result_window] index level \
             setting."
        ));
    }
    let fields = request.docvalue_fields.len();
    let limit = limits.max_docvalue_fields;
    if fields > limit {
        return invalid(format!(
            "Trying to retrieve too many docvalue_fields. Must be less than or equal to: [{limit}] \
             but was [{fields}]. This limit can be set by changing the \
             [index.max_docvalue_fields_search] index level setting."
        ));
    }
    let Some(after) = &request.search_after else { return Ok(()) };
    if request.from > 0 {
        return invalid(
            "`from` parameter must be set to 0 when `search_after` is used.".to_owned(),
        );
    }
    let keys = request.sort.len();
    if keys == 0 {
        return invalid("Sort must contain at least one field.".to_owned());
    }
    if keys != after.len() {
        return invalid(format!("search_after has {} value(s) but sort has {keys}.", after.len()));
    }
    let score_only = request.sort.iter().all(|sort| sort.by == SortBy::Score);
    if score_only && after.iter().any(|value| matches!(value, request::SortValue::Text(_))) {
        return invalid("search_after on [_score] needs a number".to_owned());
    }
    Ok(())
}
