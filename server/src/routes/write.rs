//! What all document writes have in common: the index, the batch, the answer's shape.

use std::sync::Arc;

use egret_engine::batch::{Applied, Batch, BatchOutcome, OpResult, Refresh, WriteOp};
use egret_engine::index::Receipt;
use egret_engine::{ErrorKind, Index};
use serde::Serialize;
use serde_json::value::RawValue;

use super::targets::{self, WriteTo};
use crate::app::App;
use crate::error::{Error, Kind, Result};
use crate::http::Params;

/// Parameters of every write. One node always has its one shard active, and writes never wait for
/// longer than a queue's turn.
pub(super) const PARAMS: &[&str] =
    &["refresh", "timeout", "wait_for_active_shards", "require_alias"];

/// As [`refresh_of_many`], for one write alone.
pub(super) fn refresh(params: &Params) -> Result<Refresh> {
    if params.is_true("require_alias")? {
        return Err(Error::argument("[require_alias] is not supported but in [_bulk]"));
    }
    refresh_of_many(params)
}

/// Reads `refresh` and checks the parameters that one node always fulfils.
pub(super) fn refresh_of_many(params: &Params) -> Result<Refresh> {
    params.duration("timeout")?;
    match params.filled("wait_for_active_shards") {
        None | Some("0" | "1" | "all") => {}
        Some(other) => {
            return Err(Error::argument(format!(
                "[wait_for_active_shards] of [{other}] cannot be fulfilled by one node"
            )));
        }
    }
    match params.text("refresh") {
        None | Some("false") => Ok(Refresh::Scheduled),
        Some("" | "true") => Ok(Refresh::Now),
        Some("wait_for") => Ok(Refresh::WaitFor),
        Some(other) => Err(Error::argument(format!("Unknown value for refresh: [{other}]."))),
    }
}

/// A batch of one operation.
pub(super) fn alone(op: WriteOp, refresh: Refresh) -> Batch {
    Batch { ops: vec![op], refresh, ..Batch::default() }
}

/// Writes a batch of one operation to an index, which is made where there is none.
pub(super) async fn one(app: &App, name: &str, batch: Batch) -> Result<(Arc<Index>, Applied)> {
    let create = !matches!(batch.ops.as_slice(), [WriteOp::Delete { .. }]);
    let to = WriteTo { create, ..WriteTo::default() };
    let name = targets::behind(&app.engine.catalog(), name, to)?.into_owned();
    let bytes = batch.ops.iter().map(WriteOp::source_bytes).sum();
    let (index, receipt) = submit(app, &name, to, batch, bytes).await?;
    let outcome = said(receipt).await;
    let statistics = &app.statistics;
    count(
        statistics,
        1,
        u64::from(!matches!(&outcome, Ok(done) if done.ops.iter().all(Result::is_ok))),
    );
    let applied = outcome?.ops.pop().unwrap_or_else(|| {
        Err(egret_engine::Error::new(ErrorKind::Internal, "the writer lost an operation"))
    });
    match applied {
        Ok(applied) => Ok((index, applied)),
        Err(error) => Err(Error::from(error.with_index(index.name()))),
    }
}

/// Hands a batch to the index of this name. What waits for that holds so many bytes.
pub(super) async fn submit(
    app: &App,
    name: &str,
    to: WriteTo,
    batch: Batch,
    bytes: usize,
) -> Result<(Arc<Index>, Receipt)> {
    let (engine, target) = (Arc::clone(&app.engine), name.to_owned());
    let submit = move || {
        let index = targets::written(&engine, &target, to)?;
        let receipt = index.submit(batch)?;
        Ok((index, receipt))
    };
    app.pools.write.run_for(name, bytes, submit).await
}

/// Waits for what the writer says. No thread waits with it: what is in the writer's hands is bounded
/// by its queue.
pub(super) async fn said(receipt: Receipt) -> Result<BatchOutcome> {
    let closed = |_| egret_engine::Error::new(ErrorKind::Closed, "the index was closed");
    Ok(receipt.await.map_err(closed).flatten()?)
}

/// Counts operations.
pub(super) fn count(statistics: &crate::statistics::Statistics, all: u64, failed: u64) {
    use std::sync::atomic::Ordering::Relaxed;
    statistics.write_operations.fetch_add(all, Relaxed);
    statistics.write_failures.fetch_add(failed, Relaxed);
}

/// What Elasticsearch calls a result, and the status that belongs to it.
pub(super) fn result_name(result: OpResult) -> (&'static str, u16) {
    match result {
        OpResult::Created => ("created", 201),
        OpResult::Updated => ("updated", 200),
        OpResult::Deleted => ("deleted", 200),
        OpResult::NotFound => ("not_found", 404),
        OpResult::Noop => ("noop", 200),
    }
}

/// The answer to one operation.
#[derive(Debug, Serialize)]
pub(super) struct Answer<'a> {
    #[serde(rename = "_index")]
    index: &'a str,
    #[serde(rename = "_id")]
    id: &'a str,
    #[serde(rename = "_version")]
    version: u64,
    result: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    forced_refresh: Option<bool>,
    #[serde(rename = "_shards")]
    shards: Shards,
    #[serde(rename = "_seq_no")]
    seq_no: u64,
    #[serde(rename = "_primary_term")]
    primary_term: u64,
    /// Among the items of a bulk request.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    /// After an update that asks for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    get: Option<Updated>,
}

/// The document as an update has left it.
#[derive(Debug, Serialize)]
struct Updated {
    #[serde(rename = "_seq_no")]
    seq_no: u64,
    #[serde(rename = "_primary_term")]
    primary_term: u64,
    found: bool,
    #[serde(rename = "_source")]
    source: Box<RawValue>,
}

#[derive(Debug, Serialize)]
struct Shards {
    total: u8,
    successful: u8,
    failed: u8,
}

impl<'a> Answer<'a> {
    pub(super) fn new(index: &'a str, applied: &'a Applied, refresh: Refresh) -> Self {
        let (result, _) = result_name(applied.result);
        let shards = u8::from(applied.result != OpResult::Noop);
        Self {
            index,
            id: &applied.id,
            version: applied.version,
            result,
            forced_refresh: (refresh == Refresh::Now).then_some(true),
            shards: Shards { total: shards, successful: shards, failed: 0 },
            seq_no: applied.seq_no.0,
            primary_term: applied.term,
            status: None,
            get: None,
        }
    }

    /// With as much of the document as was asked for.
    pub(super) fn with_source(mut self, source: &[u8]) -> Result<Self> {
        let unreadable =
            |error| Error::new(Kind::Internal, "a document is no JSON").with_source(error);
        let source = serde_json::from_slice(source).map_err(unreadable)?;
        let (seq_no, primary_term) = (self.seq_no, self.primary_term);
        self.get = Some(Updated { seq_no, primary_term, found: true, source });
        Ok(self)
    }

    /// As an item of a bulk request.
    pub(super) fn item(index: &'a str, applied: &'a Applied, refresh: Refresh) -> Self {
        let (_, status) = result_name(applied.result);
        Self { status: Some(status), ..Self::new(index, applied, refresh) }
    }
}
