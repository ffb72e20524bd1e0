//! What a pipeline writes to: indexes, as far as change capture knows them. Traits, so that the
//! protocols can be tested without an engine.

use std::fmt::Debug;
use std::sync::Arc;

use egret_engine::batch::Batch;
use egret_engine::composition::parse_row_id;
use egret_engine::index::{Positions, Receipt};
use egret_engine::snapshot::Listed;
use egret_engine::{Checkpoint, Index, Lsn, Result};
use tokio::sync::watch;

use crate::catalog::Table;
use crate::position::Holds;
use crate::progress::{Progress, ReturnedFrom};
use crate::slot::Server;
use crate::verify::{Checksum, Shown};
use crate::way_back::{Back, Before, Earlier};

/// An index as its pipeline sees it.
pub(crate) trait Sink: Send + Sync + 'static {
    /// Its UUID.
    fn uuid(&self) -> &str;
    /// Hands over a batch; may block while the writer's queue is full.
    fn submit(&self, batch: Batch) -> Result<Receipt>;
    /// Says that nothing is for this index up to here.
    fn advance(&self, checkpoint: Checkpoint) -> Result<()>;
    /// Publishes what was applied. Blocking.
    fn refresh(&self) -> Result<()>;
    /// Makes durable what was applied. Blocking.
    fn flush(&self) -> Result<()>;
    /// Where it stands.
    fn positions(&self) -> watch::Receiver<Positions>;
    /// What it shows under ids. Blocking.
    fn shown(&self, ids: &[String]) -> Result<Vec<Shown>>;
    /// Ids that it shows, in their order: at most so many after this one. Blocking.
    fn listed(&self, listed: Listed, after: Option<&str>, most: usize) -> Result<Vec<String>>;
}

/// How the index of a table can go on.
#[derive(Clone)]
pub(crate) enum Standing {
    /// From where it is. The log from there on is kept.
    Current {
        /// The index, or what is about to replace it.
        sink: Arc<dyn Sink>,
        /// Whether it takes another index's place first.
        replaces: bool,
        /// Whether it holds everything that the stream has passed.
        joined: bool,
    },
    /// It must be filled first, for this reason.
    Copy(String),
    /// Not at all, for this reason.
    Refused(String),
}

/// The index that a copy fills.
#[derive(Clone)]
pub(crate) struct Target {
    /// The index: new, or emptied.
    pub(crate) sink: Arc<dyn Sink>,
    /// Whether it takes another's place once it is filled.
    pub(crate) replaces: bool,
    /// What it holds of a copy that was interrupted, and that goes on.
    pub(crate) resumes: Option<Progress>,
}

/// Where a pipeline's indexes are.
pub(crate) trait Indexes: Send + Sync + Debug + 'static {
    /// Judges the index of a table, and takes note of columns that it can take. `resumes` lets it take
    /// writes again after a failure, from what it holds durably. Blocking. Fails where another
    /// attempt may succeed.
    fn judge(
        &self,
        pipeline: &str,
        name: &str,
        table: &Table,
        server: &Server,
        holds: &Holds,
        resumes: bool,
    ) -> crate::Result<Standing>;

    /// Makes or empties the index that a copy of the table fills: beside the one that serves, where
    /// one does. One that an interrupted copy has filled in part is kept where the copy can go on,
    /// under a snapshot of this position, with the log from `floor` on. Blocking.
    fn begin_copy(
        &self,
        pipeline: &str,
        name: &str,
        table: &Table,
        floor: Lsn,
        snapshot: Checkpoint,
    ) -> crate::Result<Target>;

    /// Puts a filled replacement in the place of its index, which is kept until then (milliseconds
    /// since 1970) where it is to be kept. Blocking.
    fn swap_in(&self, name: &str, keep_until_ms: Option<i64>) -> crate::Result<()>;

    /// By what else than what is declared now a table may have to be followed.
    fn earlier(&self, name: &str) -> Earlier;

    /// Judges what a table could go back to: the index that a copy replaces, or else the one that is kept
    /// from before. `standing` is how its index can go on. Blocking.
    fn judge_back(
        &self,
        pipeline: &str,
        name: &str,
        before: &Before,
        server: &Server,
        holds: &Holds,
        standing: &Standing,
    ) -> Option<Back>;

    /// Until when (milliseconds since 1970) the index of this UUID is kept; `None` where it is not.
    fn kept_until_ms(&self, name: &str, uuid: &str) -> Option<i64>;

    /// Readies the kept index of this UUID to be brought up to date, and has it remember what is gone
    /// back from. Blocking.
    fn begin_return(&self, name: &str, uuid: &str, from: ReturnedFrom) -> crate::Result<()>;

    /// Makes the kept index of this UUID, which is up to date, the one that is swapped in next.
    /// Blocking.
    fn take_back(&self, name: &str, uuid: &str) -> crate::Result<()>;

    /// Removes the kept index of this UUID, where it is still there. Blocking.
    fn drop_kept(&self, name: &str, uuid: &str) -> crate::Result<()>;

    /// Has the index that serves forget what was gone back from. Blocking.
    fn forget_return(&self, name: &str) -> crate::Result<()>;
}

impl Sink for Index {
    fn uuid(&self) -> &str {
        Self::uuid(self)
    }

    fn submit(&self, batch: Batch) -> Result<Receipt> {
        Self::submit(self, batch)
    }

    fn advance(&self, checkpoint: Checkpoint) -> Result<()> {
        Self::advance(self, checkpoint)
    }

    fn refresh(&self) -> Result<()> {
        Self::refresh(self)
    }

    fn flush(&self) -> Result<()> {
        Self::flush(self)
    }

    fn positions(&self) -> watch::Receiver<Positions> {
        Self::positions(self)
    }

    fn shown(&self, ids: &[String]) -> Result<Vec<Shown>> {
        let snapshot = self.snapshot();
        let one = |id: &String| {
            let document = snapshot.stored(id)?;
            let document = document.map(|it| (Lsn(it.version), Checksum::of(&it.source)));
            // Documents are named by the rows of a composition's first table.
            let composed = match parse_row_id(id) {
                Some((0, key)) => snapshot.fit(key)?,
                _ => None,
            };
            Ok(Shown { document, composed })
        };
        ids.iter().map(one).collect()
    }

    fn listed(&self, listed: Listed, after: Option<&str>, most: usize) -> Result<Vec<String>> {
        self.snapshot().ids_after(listed, after, most)
    }
}
