//! One index: takes batches, publishes snapshots.

use std::sync::Arc;

use serde_json::Value;
use tokio::sync::{oneshot, watch};

use crate::batch::{Batch, BatchOutcome};
use crate::error::Result;
use crate::mapping::Mapping;
use crate::position::{Checkpoint, Generation};
use crate::snapshot::{Snapshot, StoredDocument};

/// What an index is made from.
#[derive(Debug, Clone, Default)]
pub struct IndexDefinition {
    /// Its mapping in Elasticsearch's format; `Value::Null` for an empty dynamic one.
    pub mappings: Value,
    /// Its settings in Elasticsearch's format (nested or dotted); `Value::Null` for defaults.
    pub settings: Value,
    /// The pipeline that it follows, where it follows one.
    pub pipeline: Option<String>,
}

/// A handle to an index. Cheap to clone through its `Arc`.
#[derive(Debug)]
pub struct Index {}

/// What a writer says of a batch: awaited, or waited for with `blocking_recv`.
pub type Receipt = oneshot::Receiver<Result<BatchOutcome>>;

/// Where an index stands. LSNs are those of a followed index.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Positions {
    /// The published generation.
    pub generation: Generation,
    /// Everything up to here has been given to the writer and applied.
    pub applied: Option<Checkpoint>,
    /// Everything up to here is published.
    pub visible: Option<Checkpoint>,
    /// Everything up to here survives a power cut (in `commit.json`).
    pub durable: Option<Checkpoint>,
    /// Whether anything is applied that is not yet durable.
    pub unflushed: bool,
}

/// Sizes and counts, for `_stats` and `_cat`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IndexStats {
    /// Live documents.
    pub doc_count: u64,
    /// Deleted documents that merges have not removed yet.
    pub deleted_count: u64,
    /// Segments of the published snapshot.
    pub segment_count: u64,
    /// Bytes of its segments, in memory and on disk.
    pub size_bytes: u64,
    /// Of these, bytes that are only in memory.
    pub memory_bytes: u64,
    /// Bytes in the translog.
    pub translog_bytes: u64,
    /// Operations in the translog.
    pub translog_ops: u64,
}

impl Index {
    /// Its name.
    pub fn name(&self) -> &str {
        todo!()
    }

    /// Its UUID in 22 characters of URL-safe base64, never used again.
    pub fn uuid(&self) -> &str {
        todo!()
    }

    /// The pipeline that it follows.
    pub fn pipeline(&self) -> Option<&str> {
        todo!()
    }

    /// Milliseconds since 1970 when it was made.
    pub fn created_ms(&self) -> i64 {
        todo!()
    }

    /// Its settings, nested, in Elasticsearch's format.
    pub fn settings(&self) -> Value {
        todo!()
    }

    /// Its mapping now.
    pub fn mapping(&self) -> Arc<Mapping> {
        todo!()
    }

    /// Adds fields and multi-fields. What would change an existing field's type is refused.
    pub fn put_mapping(&self, addition: &Value) -> Result<()> {
        let _ = addition;
        todo!()
    }

    /// Hands a batch to the writer, which applies batches in the order of these calls. Waits while
    /// the writer's queue is full; the receipt comes when the batch is applied and, where the index
    /// has a translog, durable in it.
    pub fn submit(&self, batch: Batch) -> Result<Receipt> {
        let _ = batch;
        todo!()
    }

    /// As `submit`, and waits for the receipt. Blocking.
    pub fn write(&self, batch: Batch) -> Result<BatchOutcome> {
        let _ = batch;
        todo!()
    }

    /// For a followed index: nothing for it between its last batch and here. In order with
    /// `submit`; never blocks on disk.
    pub fn advance(&self, checkpoint: Checkpoint) -> Result<()> {
        let _ = checkpoint;
        todo!()
    }

    /// Publishes what was applied before this call. Blocking.
    pub fn refresh(&self) -> Result<()> {
        todo!()
    }

    /// Makes durable what was applied before this call. Blocking.
    pub fn flush(&self) -> Result<()> {
        todo!()
    }

    /// The published state.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        todo!()
    }

    /// A document by id: the newest, published or not, where the index has a translog; the
    /// published one where it is followed. Blocking.
    pub fn document(&self, id: &str) -> Result<Option<StoredDocument>> {
        let _ = id;
        todo!()
    }

    /// Where the index stands; the receiver is told of every change.
    pub fn positions(&self) -> watch::Receiver<Positions> {
        todo!()
    }

    /// The copy's progress as last given in a batch that was applied.
    pub fn copy_progress(&self) -> Option<String> {
        todo!()
    }

    /// Sizes and counts of the published state.
    pub fn stats(&self) -> IndexStats {
        todo!()
    }
}
