//! Search: a [`request::SearchRequest`] over published snapshots gives a
//! [`response::SearchResponse`].

pub mod request;
pub mod response;

use std::sync::Arc;

use crate::error::Result;
use crate::snapshot::Snapshot;

/// Answers a request over the snapshots of one or several indexes (each scored by its own
/// statistics, as Elasticsearch scores shards). Blocking: call it from a thread that may block.
pub fn search(
    snapshots: &[Arc<Snapshot>],
    request: &request::SearchRequest,
) -> Result<response::SearchResponse> {
    let _ = (snapshots, request);
    todo!()
}

/// How many documents match.
pub fn count(snapshots: &[Arc<Snapshot>], query: &crate::query::ast::Query) -> Result<u64> {
    let _ = (snapshots, query);
    todo!()
}
