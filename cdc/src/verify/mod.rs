//! Proof of no drift: every row of every followed table is held against what the index has of it, and
//! every document against the rows, range by range, while the stream goes on.
//!
//! The rows of a range are read first, and the log's end asked for afterwards; once the index has
//! passed it, each row must be in it, or have been changed since. What differs is read a second time.
//! What then still differs, and was not changed since by what its `_version` says, is asked of the one
//! that follows the log: it looks once more, at a position that PostgreSQL names for what it reads, and
//! knows what of it the stream has changed (`follower/checks.rs`). Only that is drift, and there it is
//! repaired, in the log's order. Nothing is ever said by counts.
//!
//! Of an index whose documents are composed from several tables, the rows are held against those that
//! it keeps, table by table; and each document against what these rows make, within one published
//! state, which needs no waiting. So a difference is told of the row that it comes from, and a repair
//! of one row mends every document that it is part of.
//!
//! [`Verifier`] decides when a round begins, [`pass`] goes through one table.

mod checksum;
mod compare;
mod keys;
mod pass;
mod reader;
pub(crate) mod remembered;
mod report;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use egret_engine::Lsn;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

pub(crate) use self::checksum::Checksum;
pub use self::compare::DriftKind;
pub(crate) use self::compare::{Expected, Shown};
use self::pass::Round;
pub(crate) use self::report::Board;
pub use self::report::{
    Difference, Proven, RoundReport, RoundState, TableReport, Unproven, VerifyReport,
};
use crate::error::{Error, ErrorKind, Result};
use crate::orders::Followed;
use crate::pipeline::Shared;
use crate::status::{PipelineState, StatusBoard, TableState};

/// How soon a round that is due is tried again while nothing is followed.
const IDLE: Duration = Duration::from_secs(1);

/// What a verification that is asked for looks at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VerifyOptions {
    /// One table alone, `schema.table`; or one whose rows belong to documents of others.
    pub table: Option<String>,
    /// Whether what has drifted is repaired.
    pub repair: bool,
    /// Rows and documents a second, 0 for as many as it can, where not as configured.
    pub rows_per_second: Option<u64>,
}

/// A round that was asked for.
pub(crate) struct Wanted {
    pub(crate) number: u64,
    pub(crate) options: VerifyOptions,
}

/// Verifies the tables of one pipeline.
pub(crate) struct Verifier {
    pub(crate) shared: Arc<Shared>,
    /// What the pipeline says of its tables.
    pub(crate) status: Arc<StatusBoard>,
    /// The position that a reader waits for.
    pub(crate) demand: watch::Sender<Lsn>,
    pub(crate) stop: CancellationToken,
}

impl Verifier {
    /// Runs rounds until stopped. Must run on a thread that may block.
    pub(crate) async fn run(self, mut wanted: mpsc::Receiver<Wanted>) {
        let stop = self.stop.clone();
        tokio::select! {
            () = stop.cancelled() => {}
            () = Box::pin(self.go_round(&mut wanted)) => {}
        }
        self.board().close_for_good();
    }

    fn board(&self) -> &Board {
        &self.shared.verification
    }

    async fn go_round(&self, wanted: &mut mpsc::Receiver<Wanted>) {
        let Shared { disk, folder, config, .. } = &*self.shared;
        let known = remembered::load(&**disk, folder);
        // A pause that began before a restart of the program goes on.
        let oldest = known.iter().filter_map(|table| table.proven_ms).min();
        let since = now_ms().saturating_sub(oldest.unwrap_or_else(now_ms));
        self.board().remember(known);
        let pause = config.verify.pause().saturating_sub(Duration::from_millis(since));
        let mut due = self.set_due(pause);
        loop {
            let asked = tokio::select! {
                biased;
                asked = wanted.recv() => asked,
                () = sleep_until(due), if config.verify.enabled => None,
            };
            let is_own = asked.is_none();
            if is_own && self.status.state() != PipelineState::Streaming {
                due = Instant::now() + IDLE;
                continue;
            }
            let asked = if is_own { self.own_round(wanted).await } else { asked };
            let was_interrupted = is_own && asked.is_some();
            let is_whole = asked.as_ref().is_none_or(|asked| asked.options.table.is_none());
            self.asked_round(asked).await;
            if was_interrupted {
                due = Instant::now() + IDLE;
            } else if is_whole {
                due = self.set_due(config.verify.pause());
            }
        }
    }

    /// A round that nobody asked for; one that somebody asks for meanwhile goes first.
    async fn own_round(&self, wanted: &mut mpsc::Receiver<Wanted>) -> Option<Wanted> {
        let repair = self.shared.config.verify.repair;
        let options = VerifyOptions { repair, ..VerifyOptions::default() };
        let number = self.board().own_round();
        self.board().begin(number, false, &options);
        let (failure, asked) = tokio::select! {
            biased;
            asked = wanted.recv() => (Some("another round was asked for".to_owned()), asked),
            ended = self.round(&options) => (ended.err().map(|error| error.to_string()), None),
        };
        self.board().end(failure);
        asked
    }

    async fn asked_round(&self, asked: Option<Wanted>) {
        let Some(Wanted { number, options }) = asked else { return };
        self.board().begin(number, true, &options);
        let ended = self.round(&options).await;
        self.board().end(ended.err().map(|error| error.to_string()));
    }

    /// When the next round begins by itself.
    fn set_due(&self, pause: Duration) -> Instant {
        let millis = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        let enabled = self.shared.config.verify.enabled;
        self.board().set_next(enabled.then(|| now_ms().saturating_add(millis)));
        // Past what a clock can say it never comes.
        let farthest = Duration::from_secs(100 * 365 * 24 * 3600);
        Instant::now() + pause.min(farthest)
    }

    /// Goes through the tables once.
    async fn round(&self, options: &VerifyOptions) -> Result<()> {
        let mut followed = self.shared.followed(&self.status).await?;
        if let Some(table) = &options.table {
            followed.retain(|it| it.has(table));
            if followed.is_empty() {
                let message = format!("table [{table}] is not followed now");
                return Err(Error::new(ErrorKind::NotFound, message));
            }
        }
        self.board().set_total(followed.iter().map(|it| it.table.parts().len()).sum());
        let mut round = Box::pin(Round::begin(self, options)).await?;
        for followed in &followed {
            Box::pin(round.table(followed)).await;
        }
        if options.table.is_none() {
            self.note_absent(&followed);
            let is_there = |table: &TableReport| {
                followed.iter().any(|it| it.index == table.index && it.has(&table.table))
            };
            self.board().keep(is_there);
        }
        let tables = self.board().report().tables;
        remembered::store(&*self.shared.disk, &self.shared.folder, &tables)
    }

    /// Tables that should be followed, and were not when the round began.
    fn note_absent(&self, followed: &[Followed]) {
        for (table, state) in self.status.tables() {
            let is_followed = followed.iter().any(|it| it.table.title() == table);
            if !is_followed && state != TableState::Skipped {
                let state = format!("it was not followed yet, but {state:?}").to_lowercase();
                self.board().unproven(table, state);
            }
        }
    }

    async fn rest(&self, pause: Duration) {
        sleep(pause).await;
    }
}

impl Followed {
    /// Whether it is a table, or its documents are composed from it.
    pub(crate) fn has(&self, title: &str) -> bool {
        self.table.parts().iter().any(|part| part.title() == title)
    }
}

/// Milliseconds since 1970.
fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
