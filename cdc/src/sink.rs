//! What a pipeline writes to: indexes, as far as change capture knows them. Traits, so that the
//! protocols can be tested without an engine.

use std::fmt::Debug;
use std::sync::Arc;

use egret_engine::batch::Batch;
use egret_engine::index::{Positions, Receipt};
use egret_engine::{Checkpoint, Index, Result};
use tokio::sync::watch;

use crate::catalog::Table;
use crate::slot::Server;

/// An index as its pipeline sees it.
pub(crate) trait Sink: Send + Sync + 'static {
    /// Hands over a batch; may block while the writer's queue is full.
    fn submit(&self, batch: Batch) -> Result<Receipt>;
    /// Says that nothing is for this index up to here.
    fn advance(&self, checkpoint: Checkpoint) -> Result<()>;
    /// Makes durable what was applied. Blocking.
    fn flush(&self) -> Result<()>;
    /// Where it stands.
    fn positions(&self) -> watch::Receiver<Positions>;
}

/// A table's index, ready to be written.
#[derive(Clone)]
pub(crate) struct Opened {
    /// The index.
    pub(crate) sink: Arc<dyn Sink>,
    /// Whether it must be filled first.
    pub(crate) needs_copy: bool,
}

/// Where a pipeline's indexes are.
pub(crate) trait Indexes: Send + Sync + Debug + 'static {
    /// Opens the index of a table, or makes it. Blocking. An index that cannot be used is a reason
    /// to skip the table, not a failure.
    fn open(
        &self,
        pipeline: &str,
        name: &str,
        table: &Table,
        server: Server,
    ) -> crate::Result<std::result::Result<Opened, String>>;
}

impl Sink for Index {
    fn submit(&self, batch: Batch) -> Result<Receipt> {
        Self::submit(self, batch)
    }

    fn advance(&self, checkpoint: Checkpoint) -> Result<()> {
        Self::advance(self, checkpoint)
    }

    fn flush(&self) -> Result<()> {
        Self::flush(self)
    }

    fn positions(&self) -> watch::Receiver<Positions> {
        Self::positions(self)
    }
}
