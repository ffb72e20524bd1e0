//! A pipeline: the task that copies and follows one database, and the handle to it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use egret_aof::disk::Disk;
use egret_engine::{Engine, Index, Lsn};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::PipelineConfig;
use crate::connect::Source;
use crate::error::Result;
use crate::sink::Indexes;
use crate::status::{PipelineState, PipelineStatus, StatusBoard};
use crate::wait::{LsnToken, WaitOutcome, wait_for_positions};

/// How often a waiting reader says what it waits for.
const DEMAND_INTERVAL: Duration = Duration::from_millis(50);

/// What a pipeline is made from.
#[derive(Debug)]
pub struct Pipeline {
    pub(crate) config: PipelineConfig,
    pub(crate) source: Source,
    pub(crate) indexes: Arc<dyn Indexes>,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) folder: PathBuf,
    pub(crate) board: Arc<StatusBoard>,
    /// Threads that a copy started.
    pub(crate) threads: TaskTracker,
    /// The position that a reader last waited for.
    pub(crate) demand: watch::Sender<Lsn>,
    stop: CancellationToken,
}

/// A running pipeline. Dropping the handle stops it.
#[derive(Debug)]
pub struct PipelineHandle {
    name: String,
    engine: Arc<Engine>,
    board: Arc<StatusBoard>,
    demand: watch::Sender<Lsn>,
    stop: CancellationToken,
    ended: watch::Receiver<bool>,
}

impl Pipeline {
    /// Starts a pipeline on the current tokio runtime, with a thread of its own for what blocks.
    /// Its files are kept in `folder`. Fails only where the configuration is wrong in itself: an
    /// unreachable database is retried, and the status says so.
    pub fn start(
        config: PipelineConfig,
        engine: Arc<Engine>,
        disk: Arc<dyn Disk>,
        folder: PathBuf,
    ) -> Result<PipelineHandle> {
        config.validate()?;
        let source = Source::parse(&config)?;
        let board =
            Arc::new(StatusBoard::new(&config.name, config.slot_name(), config.publication_name()));
        let stop = CancellationToken::new();
        let (ending, ended) = watch::channel(false);
        let demand = watch::Sender::new(Lsn::default());
        let handle = PipelineHandle {
            name: config.name.clone(),
            engine: Arc::clone(&engine),
            board: Arc::clone(&board),
            demand: demand.clone(),
            stop: stop.clone(),
            ended,
        };
        let name = format!("cdc-{}", config.name);
        let threads = TaskTracker::new();
        let pipeline =
            Self { config, source, indexes: engine, disk, folder, board, threads, demand, stop };
        let runtime = tokio::runtime::Handle::current();
        // A thread of its own, since handing batches to the engine may block.
        std::thread::Builder::new().name(name).spawn(move || {
            runtime.block_on(pipeline.run());
            let _ = ending.send(true);
        })?;
        Ok(handle)
    }

    async fn run(self) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = Box::pin(self.follow()) => {}
        }
        // A copy that was given up may still be handing over its last batch.
        self.threads.close();
        self.threads.wait().await;
        if self.board.state() != PipelineState::Refused {
            self.board.set_state(PipelineState::Stopped, None);
        }
    }
}

impl PipelineHandle {
    /// The pipeline's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it stands now.
    pub fn status(&self) -> PipelineStatus {
        let mut applied: Option<Lsn> = None;
        let mut visible: Option<Lsn> = None;
        // What is being copied or is stale is told by table, and an index whose table has left the
        // pipeline stands still.
        let followed = self.board.indexes_followed();
        let indexes = self.indexes();
        let is_followed = |index: &&Arc<Index>| {
            followed.as_ref().is_none_or(|names| names.iter().any(|name| name == index.name()))
        };
        for index in indexes.iter().filter(is_followed) {
            let positions = *index.positions().borrow();
            applied = smallest(applied, positions.applied.map(|at| at.lsn));
            visible = smallest(visible, positions.visible.map(|at| at.lsn));
        }
        self.board.status(applied, visible)
    }

    /// Waits until all of `indexes` show everything up to the token's position. An index that is
    /// replaced meanwhile is waited for under its name: look it up again afterwards.
    pub async fn wait_for_lsn(
        &self,
        indexes: &[Arc<Index>],
        token: LsnToken,
        timeout: Duration,
    ) -> WaitOutcome {
        if indexes.iter().any(|index| index.pipeline() != Some(&self.name)) {
            return WaitOutcome::NoPipeline;
        }
        if let (Some(system), Some(followed)) = (token.system, self.board.system())
            && system != followed
        {
            return WaitOutcome::Mismatch { followed };
        }
        let deadline = Instant::now() + timeout;
        let mut indexes = indexes.to_vec();
        loop {
            let positions = indexes.iter().map(|index| index.positions()).collect();
            let left = deadline.saturating_duration_since(Instant::now());
            tokio::select! {
                biased;
                outcome = wait_for_positions(positions, token, left) => return outcome,
                () = self.wait_for_replacement(&mut indexes, token.lsn) => {}
            }
        }
    }

    /// Says that a reader waits, until an index has been replaced.
    async fn wait_for_replacement(&self, indexes: &mut [Arc<Index>], lsn: Lsn) {
        while !self.renew(indexes) {
            tokio::time::sleep(DEMAND_INTERVAL).await;
            self.demand.send_replace(lsn);
        }
    }

    /// Puts indexes that have been replaced since in the place of the older ones; says whether there
    /// were any.
    fn renew(&self, indexes: &mut [Arc<Index>]) -> bool {
        let mut renewed = false;
        for index in indexes {
            let now = self.engine.index(index.name()).ok();
            if let Some(now) = now.filter(|now| now.uuid() != index.uuid()) {
                *index = now;
                renewed = true;
            }
        }
        renewed
    }

    /// Stops it, and waits until it has: nothing is written by it afterwards.
    pub async fn stop(&self) {
        self.stop.cancel();
        let mut ended = self.ended.clone();
        // An error means that the thread is gone, which is what is waited for.
        let _ = ended.wait_for(|ended| *ended).await;
    }

    fn indexes(&self) -> Vec<Arc<Index>> {
        let followed = |index: &Arc<Index>| index.pipeline() == Some(self.name.as_str());
        self.engine.indexes().into_iter().filter(followed).collect()
    }
}

impl Drop for PipelineHandle {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// The smaller of two positions, where both are known.
fn smallest(known: Option<Lsn>, next: Option<Lsn>) -> Option<Lsn> {
    match (known, next) {
        (Some(known), Some(next)) => Some(known.min(next)),
        (known, next) => known.or(next),
    }
}
