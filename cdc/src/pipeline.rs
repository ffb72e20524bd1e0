//! A pipeline: the task that copies and follows one database, and the handle to it.

mod operations;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use egret_aof::disk::Disk;
use egret_engine::{Engine, Index, Lsn};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::operations::RetrySummary;
pub(crate) use self::operations::answered;
use crate::config::PipelineConfig;
use crate::connect::Source;
use crate::error::Result;
use crate::kept::Kept;
use crate::log_end::LogEnd;
use crate::orders::{Order, Request};
use crate::position::Position;
use crate::receipts::LetterBox;
use crate::sink::Indexes;
use crate::status::{PipelineState, PipelineStatus, StatusBoard};
use crate::verify::{self, Verifier, Wanted};
use crate::wait::{LsnToken, WaitOutcome, wait_for_positions};

/// How often a waiting reader says what it waits for.
const DEMAND_INTERVAL: Duration = Duration::from_millis(50);

/// Requests that may wait to be taken note of.
const MAX_REQUESTS: usize = 16;

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
    /// What the handle says.
    pub(crate) shared: Arc<Shared>,
    requests: tokio::sync::Mutex<mpsc::Receiver<Request>>,
    stop: CancellationToken,
}

/// What a pipeline and its handle share.
pub(crate) struct Shared {
    pub(crate) config: PipelineConfig,
    pub(crate) source: Source,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) folder: PathBuf,
    pub(crate) orders: watch::Sender<Order>,
    /// The number of the order that is being followed.
    pub(crate) obeyed: watch::Sender<u64>,
    /// Open once the pipeline has begun. Held to copy the handle out.
    pub(crate) letters: Mutex<Option<LetterBox>>,
    pub(crate) requests: mpsc::Sender<Request>,
    /// What was proven, and what has drifted.
    pub(crate) verification: verify::Board,
    /// Rounds that are asked for.
    pub(crate) wanted: mpsc::Sender<Wanted>,
}

/// A running pipeline. Dropping the handle stops it.
#[derive(Debug)]
pub struct PipelineHandle {
    name: String,
    engine: Arc<Engine>,
    board: Arc<StatusBoard>,
    demand: watch::Sender<Lsn>,
    log_end: LogEnd,
    shared: Arc<Shared>,
    stop: CancellationToken,
    ended: watch::Receiver<bool>,
}

impl Pipeline {
    /// Whether a configuration is right in itself.
    pub fn check(config: &PipelineConfig) -> Result<()> {
        config.validate()?;
        Source::parse(config).map(drop)
    }

    /// The slot that a pipeline's folder speaks of, whether it is there or not.
    pub fn slot_of(disk: &dyn Disk, folder: &Path) -> Option<String> {
        Position::load(disk, folder).ok().flatten().map(|position| position.slot)
    }

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
        let (send_request, requests) = mpsc::channel(MAX_REQUESTS);
        let (send_wanted, wanted) = mpsc::channel(1);
        let paused = Kept::load(&*disk, &folder)?.paused;
        let shared = Arc::new(Shared {
            config: config.clone(),
            source: source.clone(),
            disk: Arc::clone(&disk),
            folder: folder.clone(),
            orders: watch::Sender::new(Order { paused, number: 1 }),
            obeyed: watch::Sender::new(0),
            letters: Mutex::new(None),
            requests: send_request,
            verification: verify::Board::new(&config.verify),
            wanted: send_wanted,
        });
        let handle = PipelineHandle {
            name: config.name.clone(),
            engine: Arc::clone(&engine),
            board: Arc::clone(&board),
            demand: demand.clone(),
            log_end: LogEnd::of(source.clone()),
            shared: Arc::clone(&shared),
            stop: stop.clone(),
            ended,
        };
        let name = format!("cdc-{}", config.name);
        let verifier = Verifier {
            shared: Arc::clone(&shared),
            status: Arc::clone(&board),
            demand: demand.clone(),
            stop: stop.clone(),
        };
        let threads = TaskTracker::new();
        let requests = tokio::sync::Mutex::new(requests);
        let indexes = engine;
        let pipeline = Self {
            config,
            source,
            indexes,
            disk,
            folder,
            board,
            threads,
            demand,
            shared,
            requests,
            stop,
        };
        let runtime = tokio::runtime::Handle::current();
        let verifying = start_verifier(verifier, wanted)?;
        // A thread of its own, since handing batches to the engine may block.
        std::thread::Builder::new().name(name).spawn(move || {
            runtime.block_on(pipeline.run(verifying));
            let _ = ending.send(true);
        })?;
        Ok(handle)
    }

    async fn run(self, verifying: watch::Receiver<bool>) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = Box::pin(self.obey()) => {}
        }
        // A copy that was given up may still be handing over its last batch.
        self.threads.close();
        self.threads.wait().await;
        // An error means that the thread is gone, which is what is waited for.
        let _ = verifying.clone().wait_for(|ended| *ended).await;
        if self.board.state() != PipelineState::Refused {
            self.board.set_state(PipelineState::Stopped, None);
        }
    }
}

/// Starts the verifier on a thread of its own: comparing blocks. Says when it has ended.
fn start_verifier(
    verifier: Verifier,
    wanted: mpsc::Receiver<Wanted>,
) -> Result<watch::Receiver<bool>> {
    let (ending, ended) = watch::channel(false);
    let name = format!("verify-{}", verifier.shared.config.name);
    let runtime = tokio::runtime::Handle::current();
    std::thread::Builder::new().name(name).spawn(move || {
        runtime.block_on(verifier.run(wanted));
        let _ = ending.send(true);
    })?;
    Ok(ended)
}

impl Pipeline {
    /// Does what it is told, one order after the other.
    async fn obey(&self) {
        loop {
            // What was given up may still be handing over its last batch.
            self.threads.close();
            self.threads.wait().await;
            self.threads.reopen();
            let order = *self.shared.orders.borrow();
            if order.paused {
                self.board.set_state(PipelineState::Paused, None);
            }
            self.shared.obeyed.send_replace(order.number);
            if order.paused {
                self.stand_still().await;
            } else {
                self.follow().await;
            }
            self.interrupted().await;
        }
    }

    async fn stand_still(&self) {
        if let Err(error) = self.open_letters() {
            tracing::warn!(%error, pipeline = self.config.name, "the dead letters cannot be read");
        }
        tokio::select! {
            () = self.interrupted() => {}
            () = self.guard_source(PipelineState::Paused, "it is paused") => {}
        }
    }

    /// Waits for another order than the one that is being followed.
    pub(crate) async fn interrupted(&self) {
        let mut orders = self.shared.orders.subscribe();
        let obeyed = *self.shared.obeyed.borrow();
        // The sender lives as long as this.
        let _ = orders.wait_for(|order| order.number != obeyed).await;
    }

    /// Whether there is another order.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.shared.orders.borrow().number != *self.shared.obeyed.borrow()
    }

    /// Waits for a request; for ever where nobody asks any more.
    pub(crate) async fn next_request(&self) -> Request {
        let mut requests = self.requests.lock().await;
        match requests.recv().await {
            Some(request) => request,
            None => std::future::pending().await,
        }
    }

    /// A request that waits, if there is one.
    pub(crate) fn try_next_request(&self) -> Option<Request> {
        self.requests.try_lock().ok()?.try_recv().ok()
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("folder", &self.folder).finish_non_exhaustive()
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

    /// Where the database's log ends, asked for after this was called: everything committed before
    /// lies below it. One question serves all who wait for an answer.
    pub async fn end_of_log(&self) -> Result<Lsn> {
        self.log_end.ask().await
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
