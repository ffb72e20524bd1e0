//! Following the log: the stream into the indexes of all tables that are up to date, positions back
//! once they are durable, and beside it the synchronizations that bring the other tables there.
//!
//! Nothing here waits for a single table: what takes long runs beside the stream and is taken note
//! of when it ends.

mod checks;
mod requests;
mod returns;
mod swaps;
mod syncs;
mod tables;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use egret_aof::failpoint;
use egret_engine::{Checkpoint, Lsn};
use futures_util::FutureExt;
use pgwire_replication::ReplicationEvent;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinSet, unconstrained};
use tokio::time::{Instant, sleep_until};

use self::checks::{Checks, Step};
use self::requests::Repairs;
use self::swaps::{Swapped, Swaps};
use self::syncs::Patience;
use crate::acknowledge::{Acknowledgements, Ended};
use crate::catalog::Fingerprint;
use crate::copy::throttle::Throttle;
use crate::discovery::{Discovered, Discovery};
use crate::error::{Error, ErrorKind, Result};
use crate::members::{Members, Phase};
use crate::orders::Request;
use crate::pipeline::Pipeline;
use crate::receipts::LetterBox;
use crate::repair::Read;
use crate::status::PipelineState;
use crate::stream::Stream;
use crate::sync::{Handle, News};
use crate::tables::given_up;
use crate::transaction::Gathering;
use crate::watcher::Report;

/// Events after which indexes are told how far the stream is, even while it never pauses.
const EVENTS_BETWEEN_LOOKS: u32 = 256;

/// A burst has ended where nothing has come for so long.
const QUIET: Duration = Duration::from_millis(20);
/// What is flushed at the end of a burst is flushed this part of the interval after the last time, or
/// later.
const PART_OF_INTERVAL: u32 = 5;

/// Looks in a row that may find the slot without a session, as just after its beginning.
const LOOKS_UNTIL_DEAD: u32 = 1;

/// The state of one connection that follows the log.
pub(crate) struct Follower<'a> {
    pub(crate) pipeline: &'a Pipeline,
    discovery: Discovery,
    stream: Stream,
    acknowledgements: Acknowledgements,
    letters: LetterBox,
    gathering: Arc<Gathering>,
    /// What the watcher finds.
    reports: mpsc::Receiver<Result<Report>>,
    /// What it compares with.
    fingerprints: watch::Sender<Vec<Fingerprint>>,
    members: Members,
    syncs: Vec<(usize, Handle)>,
    patience: Patience,
    throttle: Arc<Throttle>,
    send_news: mpsc::Sender<(usize, News)>,
    news: mpsc::Receiver<(usize, News)>,
    /// At most one look at what there is, which may have been asked for again meanwhile.
    looking: JoinSet<Result<Discovered>>,
    wants_look: bool,
    /// Indexes that are put in the place of others.
    swaps: Swaps,
    /// Rows that are read again.
    repairs: Repairs,
    /// Rows that are held against their documents.
    checks: Checks,
    looks_inactive: u32,
    next_acknowledgement: Instant,
    /// When the end of a burst may be acknowledged.
    next_burst: Instant,
}

/// What it is made from.
pub(crate) struct FollowerParts {
    pub(crate) discovery: Discovery,
    pub(crate) stream: Stream,
    pub(crate) acknowledgements: Acknowledgements,
    pub(crate) letters: LetterBox,
    pub(crate) gathering: Arc<Gathering>,
    /// What the watcher finds.
    pub(crate) reports: mpsc::Receiver<Result<Report>>,
    /// What it compares with.
    pub(crate) fingerprints: watch::Sender<Vec<Fingerprint>>,
}

/// What there is to do next.
enum Wake {
    Event(Option<ReplicationEvent>),
    Report(Option<Result<Report>>),
    Acknowledged(Ended),
    News(Option<(usize, News)>),
    Looked(Result<Discovered>),
    Swapped(Swapped),
    Request(Request),
    Read(Result<Read>),
    Written(Vec<crate::orders::Retried>),
    Checked(Step),
    BurstEnded,
    Due,
}

impl<'a> Follower<'a> {
    pub(crate) fn new(pipeline: &'a Pipeline, parts: FollowerParts) -> Self {
        let FollowerParts {
            discovery,
            stream,
            acknowledgements,
            letters,
            gathering,
            reports,
            fingerprints,
        } = parts;
        let (send_news, news) = mpsc::channel(256);
        Self {
            pipeline,
            discovery,
            stream,
            acknowledgements,
            letters,
            gathering,
            reports,
            fingerprints,
            members: Members::default(),
            syncs: Vec::new(),
            patience: Patience::new(),
            throttle: Arc::new(Throttle::new(pipeline.config.copy_max_bytes_per_second)),
            send_news,
            news,
            looking: JoinSet::new(),
            wants_look: false,
            swaps: Swaps::default(),
            repairs: Repairs::default(),
            checks: Checks::default(),
            looks_inactive: 0,
            next_acknowledgement: Instant::now(),
            next_burst: Instant::now(),
        }
    }

    /// Follows what was found at first, until something fails that concerns all tables. Must run on
    /// a thread that may block.
    pub(crate) async fn run(mut self, found: Discovered) -> Result<()> {
        let result = match self.discovered(found, true).await {
            Ok(()) => Box::pin(self.follow()).await,
            failed => failed,
        };
        // A table that has just joined is not brought up again because the connection ended.
        let written = self.acknowledgements.settle().await;
        let noted = self.acknowledge();
        let stored = self.acknowledgements.settle().await;
        self.begin_swaps();
        // What was handed over is answered before the next connection looks where indexes stand.
        let Self { stream, mut swaps, .. } = self;
        while swaps.next().await.is_some() {}
        let settled = stream.close().await;
        result.and(written).and(noted).and(settled).and(stored)
    }

    async fn follow(&mut self) -> Result<()> {
        let mut since_look = 0;
        loop {
            let ready = self.stream.client.recv().now_or_never();
            since_look += 1;
            if ready.is_none() || since_look >= EVENTS_BETWEEN_LOOKS {
                since_look = 0;
                self.look().await?;
                self.acknowledge_if_due()?;
                self.write_again();
                self.go_on_checking();
            }
            if !self.syncs.is_empty() && self.stream.is_between_transactions() {
                self.take_over().await?;
            }
            let wake = match ready {
                Some(event) => Wake::Event(event?),
                None => self.wake().await?,
            };
            match wake {
                Wake::Event(event) => self.event(event).await?,
                Wake::Report(report) => self.report(report)?,
                Wake::Acknowledged(ended) => self.acknowledged(ended)?,
                Wake::News(Some((number, news))) => self.news(number, news),
                Wake::Looked(found) => self.discovered(found?, false).await?,
                Wake::Swapped((place, swapped)) => self.swapped(place, swapped),
                Wake::Request(request) => self.request(request).await?,
                Wake::Read(read) => self.read_again(read),
                Wake::Written(retried) => self.written_again(retried),
                Wake::Checked(step) => self.checked(step),
                Wake::BurstEnded => self.burst_ended()?,
                Wake::News(None) | Wake::Due => {}
            }
        }
    }

    /// Waits for something to do.
    async fn wake(&mut self) -> Result<Wake> {
        let next_acknowledgement = self.next_acknowledgement;
        let due =
            self.members.due().map_or(next_acknowledgement, |due| due.min(next_acknowledgement));
        let has_burst = self.acknowledgements.has_burst(&self.stream.feeds);
        let burst_ended = self.next_burst.max(Instant::now() + QUIET);
        Ok(tokio::select! {
            biased;
            () = self.pipeline.interrupted() => return Err(stopped()),
            event = self.stream.client.recv() => Wake::Event(event?),
            report = self.reports.recv() => Wake::Report(report),
            ended = self.acknowledgements.ended() => Wake::Acknowledged(ended?),
            news = self.news.recv() => Wake::News(news),
            Some(looked) = self.looking.join_next() => Wake::Looked(looked.map_err(given_up)?),
            Some(swapped) = self.swaps.next() => Wake::Swapped(swapped.map_err(given_up)?),
            request = self.pipeline.next_request() => Wake::Request(request),
            Some(read) = self.repairs.reading.join_next() => {
                Wake::Read(read.map_err(given_up).and_then(|read| read))
            }
            Some(written) = self.repairs.writing.join_next() => {
                Wake::Written(written.unwrap_or_default())
            }
            Some(step) = self.checks.steps.join_next() => {
                Wake::Checked(step.unwrap_or_else(|error| Step::Read(Err(given_up(error)))))
            }
            () = sleep_until(due) => Wake::Due,
            () = sleep_until(burst_ended), if has_burst => Wake::BurstEnded,
        })
    }

    async fn event(&mut self, event: Option<ReplicationEvent>) -> Result<()> {
        let event = event
            .ok_or_else(|| Error::new(ErrorKind::Unavailable, "the server ended the stream"))?;
        let committed = self.stream.handle(event).await?;
        let board = &self.pipeline.board;
        board.received.store(self.stream.position.lsn.0, Ordering::Relaxed);
        if let Some(committed) = committed {
            board.transactions.fetch_add(1, Ordering::Relaxed);
            board
                .spooled_transactions
                .fetch_add(u64::from(committed.was_spooled), Ordering::Relaxed);
            board.note_commit(committed.end, committed.at_ms);
        }
        Ok(())
    }

    /// Takes note of everything that has happened, and begins what is due.
    async fn look(&mut self) -> Result<()> {
        if self.pipeline.is_interrupted() {
            return Err(stopped());
        }
        self.stream.advance_all();
        self.stream.outstanding.settle_ready()?;
        while let Ok((number, news)) = self.news.try_recv() {
            self.news(number, news);
        }
        // While events never pause, nobody waits for what has ended; and whoever has had many of them
        // in a row would be told, without asking, that nothing has.
        while let Some(ended) = unconstrained(self.acknowledgements.ended()).now_or_never() {
            self.acknowledged(ended?)?;
        }
        while let Some(swapped) = self.swaps.try_next() {
            let (place, swapped) = swapped.map_err(given_up)?;
            self.swapped(place, swapped);
        }
        if let Some(found) = self.looking.try_join_next() {
            self.discovered(found.map_err(given_up)??, false).await?;
        }
        for (place, feed, error) in self.stream.take_failures() {
            self.left(place, feed, &error);
        }
        self.end_failed_syncs()?;
        self.look_at_requests().await?;
        if self.members.due().is_some_and(|due| due <= Instant::now()) {
            self.wants_look = true;
        }
        if self.wants_look && self.looking.is_empty() {
            self.begin_to_look();
        }
        self.begin_to_sync()
    }

    fn acknowledge(&mut self) -> Result<()> {
        self.stream.outstanding.settle_ready()?;
        for (place, feed, error) in self.stream.take_failures() {
            self.left(place, feed, &error);
        }
        let oldest = self.stream.outstanding.oldest();
        let (held, replaced) = (self.members.held(), self.members.replaced());
        let (feeds, position) = (&self.stream.feeds, self.stream.position);
        self.acknowledgements.step(feeds, (&held, &replaced), position, oldest);
        Ok(())
    }

    fn acknowledge_if_due(&mut self) -> Result<()> {
        if Instant::now() < self.next_acknowledgement {
            return Ok(());
        }
        self.next_acknowledgement = Instant::now() + self.acknowledgements.interval();
        self.next_burst = Instant::now() + self.acknowledgements.interval() / PART_OF_INTERVAL;
        self.acknowledgements.ask_for_flushes(&mut self.stream.feeds, false);
        self.acknowledge()
    }

    /// Has flushed what came in a burst.
    fn burst_ended(&mut self) -> Result<()> {
        self.next_burst = Instant::now() + self.acknowledgements.interval() / PART_OF_INTERVAL;
        self.acknowledgements.ask_for_flushes(&mut self.stream.feeds, true);
        self.acknowledge()
    }

    /// Tells the database what it may forget, and sees whether there is more.
    fn acknowledged(&mut self, ended: Ended) -> Result<()> {
        match ended {
            Ended::Flushed => {}
            Ended::Failed(place, uuid, error) => self.flush_failed(place, &uuid, &error),
            Ended::Stored(lsn) => {
                self.stream.client.update_applied_lsn(pgwire_replication::Lsn(lsn.0));
                self.pipeline.board.confirmed.store(lsn.0, Ordering::Relaxed);
                failpoint::reach("position-confirmed");
                self.begin_swaps();
            }
        }
        self.acknowledge()
    }

    /// What the watcher found: a failure, changed tables, too much log kept for copies, or a slot
    /// that the server thinks nobody follows. Silence alone proves nothing: the server may be reading
    /// log that is not for us.
    fn report(&mut self, report: Option<Result<Report>>) -> Result<()> {
        let ended = || Error::new(ErrorKind::Unavailable, "the control connection ended");
        let report = report.ok_or_else(ended)??;
        self.wants_look |= report.tables_changed;
        self.look_at_ways_back();
        let limit = self.pipeline.config.max_copy_wal_bytes;
        let kept = self.acknowledgements.kept_for(&self.members.held());
        if kept > limit && !self.syncs.is_empty() {
            let message = format!(
                "copying makes the database keep {kept} bytes of log, more than \
                 max_copy_wal_bytes [{limit}]"
            );
            self.give_up_syncs(&message)?;
            // Nothing more is kept: that is the point.
            for (_, member) in self.members.iter_mut().filter(|(_, member)| !member.is_written()) {
                member.held = None;
            }
        }
        self.looks_inactive = if report.slot_active { 0 } else { self.looks_inactive + 1 };
        if self.looks_inactive > LOOKS_UNTIL_DEAD {
            let message = "the server holds no session for the slot: the connection is half open";
            return Err(Error::new(ErrorKind::Unavailable, message));
        }
        Ok(())
    }

    /// Copying is what a pipeline does while it follows nothing yet.
    fn show_state(&self) {
        let copies = |phase: &Phase| {
            matches!(phase, Phase::Waiting(_) | Phase::Syncing { .. } | Phase::Swapping)
        };
        let first = self.members.iter().any(|member| copies(&member.phase))
            && !self.members.iter().any(|member| matches!(member.phase, Phase::Streaming));
        let state = if first { PipelineState::Copying } else { PipelineState::Streaming };
        if self.pipeline.board.state() != state {
            self.pipeline.board.set_state(state, None);
        }
    }
}

fn stopped() -> Error {
    Error::new(ErrorKind::Stopped, "the pipeline was told to stand still or to begin anew")
}

/// Where a stream begins: behind everything that the joined indexes hold.
pub(crate) fn beginning(server: &crate::slot::Server, streamed: Lsn) -> Checkpoint {
    let crate::slot::Server { system_identifier, timeline, .. } = *server;
    Checkpoint { system_identifier, timeline, lsn: streamed }
}
