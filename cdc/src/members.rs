//! The tables of a pipeline, each with what is being done with it.
//!
//! ```text
//!             copied, caught up                 swapped in, where it replaces another
//! Waiting ──> Syncing ─────────────> Swapping ───────────────────────────> Streaming
//!    ^           │ failed                │ failed                             │ failed, changed
//!    │           v                       v                                    │
//!    └──────── Stale <────────────────────────────────────────────────────────┘
//!    looked at again, once due
//! ```

use std::sync::Arc;

use egret_engine::Lsn;
use tokio::sync::oneshot;
use tokio::time::{Duration, Instant};

use crate::acknowledge::Held;
use crate::catalog::Table;
use crate::discovery::{Found, Returned};
use crate::error::{Error, ErrorKind, Result};
use crate::feed::Titles;
use crate::position::Holds;
use crate::sink::Sink;
use crate::status::{StatusBoard, TableEntry, TableState};
use crate::tables::Skipped;
use crate::way_back::WayBack;

/// The pause before a table that changed is looked at: changes rarely come alone.
const PAUSE_AFTER_CHANGE: Duration = Duration::from_millis(20);

/// What is being done with a table.
pub(crate) enum Phase {
    /// The stream writes to its index.
    Streaming,
    /// So it does, and the index is about to take another's place.
    Swapping,
    /// The next synchronization takes it: from where its index is, which may take another's place,
    /// or with a copy.
    Waiting(Option<(Arc<dyn Sink>, bool)>),
    /// The synchronization of this number brings it to where the stream is.
    Syncing {
        /// Which one.
        number: usize,
        /// Whether its rows are still being read.
        copying: bool,
    },
    /// It failed, and is looked at again from then on.
    Stale(Instant),
    /// It is being looked at.
    Judging,
    /// It cannot be followed.
    Refused,
}

/// A table of the pipeline.
pub(crate) struct Member {
    /// Its index's name.
    pub(crate) name: String,
    pub(crate) table: Arc<Table>,
    pub(crate) title: String,
    pub(crate) phase: Phase,
    /// Why it is not followed, or copied.
    pub(crate) reason: Option<String>,
    /// What its index holds, where it failed.
    pub(crate) stale_since: Option<Lsn>,
    /// The log that is kept for it while it is out of the stream.
    pub(crate) held: Option<Held>,
    /// What it can go back to, or could once it is copied.
    pub(crate) back: Option<WayBack>,
    /// Why it cannot.
    pub(crate) no_way_back: Option<String>,
    /// Whether a later declaration was gone back from.
    pub(crate) returned: Option<Returned>,
    /// Who waits for it to have gone back.
    pub(crate) returned_reply: Option<oneshot::Sender<Result<()>>>,
    /// Failures in a row, and when the stream last took it over.
    failures: u32,
    joined: Option<Instant>,
}

impl Member {
    fn new(found: &Found) -> Self {
        Self {
            name: found.name.clone(),
            table: Arc::clone(&found.table),
            title: found.table.title(),
            phase: Phase::Judging,
            reason: None,
            stale_since: None,
            held: None,
            back: None,
            no_way_back: None,
            returned: None,
            returned_reply: None,
            failures: 0,
            joined: None,
        }
    }

    /// What dead letters call its rows.
    pub(crate) fn titles(&self) -> Titles {
        Titles::of(&self.name, &self.table)
    }

    /// Whether its index is being written to.
    pub(crate) fn is_written(&self) -> bool {
        matches!(self.phase, Phase::Streaming | Phase::Swapping | Phase::Syncing { .. })
    }

    /// Whether the stream writes to its index.
    pub(crate) fn is_joined(&self) -> bool {
        matches!(self.phase, Phase::Streaming | Phase::Swapping)
    }

    /// The stream has taken it over.
    pub(crate) fn join(&mut self, swaps: bool) {
        self.phase = if swaps { Phase::Swapping } else { Phase::Streaming };
        (self.held, self.stale_since, self.reason) = (None, None, None);
        self.joined = Some(Instant::now());
    }

    /// Whoever waits for it to have gone back waits in vain.
    pub(crate) fn refuse_return(&mut self, reason: &str) {
        if let Some(reply) = self.returned_reply.take() {
            // Who asked may be gone.
            let message = format!("going back: {reason}");
            let _ = reply.send(Err(Error::new(ErrorKind::Conflict, message)));
        }
    }

    /// It failed. The log is kept for it only until the next attempt has failed too.
    pub(crate) fn fail(&mut self, reason: String, held: Option<Held>, longest_pause: Duration) {
        if self.joined.take().is_some_and(|joined| joined.elapsed() > longest_pause) {
            self.failures = 0;
        }
        let pause = match self.failures {
            0 => Duration::ZERO,
            failures => longest_pause
                .saturating_mul(1 << failures.min(7))
                .checked_div(128)
                .unwrap_or(longest_pause),
        };
        self.failures = self.failures.saturating_add(1);
        self.phase = Phase::Stale(Instant::now() + pause);
        self.reason = Some(reason);
        self.held = held;
    }

    /// The log that an interrupted synchronization needs to go on: kept for one more attempt.
    pub(crate) fn keep_once(&mut self) -> Option<Held> {
        self.held.take().filter(|_| self.failures == 0)
    }

    /// It is not what it was, and is looked at again. The log is kept for it.
    pub(crate) fn change(&mut self, reason: String, held: Option<Held>) {
        self.phase = Phase::Stale(Instant::now() + PAUSE_AFTER_CHANGE);
        (self.reason, self.held) = (Some(reason), held);
    }

    /// Whether it failed since it was last well.
    pub(crate) fn has_failed(&self) -> bool {
        self.failures > 0
    }

    /// Whether its index failed again soon after it had come back.
    pub(crate) fn fails_again(&self) -> bool {
        self.failures > 1
    }

    /// Why it is what it is, as it is shown.
    fn shown_reason(&self) -> Option<String> {
        let returned = || match (&self.phase, self.returned) {
            (Phase::Streaming, Some(Returned { differs: true })) => Some(
                "it went back to an earlier declaration, until that changes or a copy is asked for",
            ),
            (Phase::Streaming, Some(_)) => Some("it went back to the index from before a copy"),
            _ => None,
        };
        self.reason.clone().or_else(|| returned().map(str::to_owned))
    }

    fn entry(&self) -> TableEntry {
        let parts = self.table.parts();
        TableEntry {
            table: self.title.clone(),
            index: self.name.clone(),
            state: self.state(),
            reason: self.shown_reason(),
            kept_until_in_millis: self.back.as_ref().and_then(|back| back.kept_until_ms),
            no_way_back: self.no_way_back.clone(),
            stale_since: self.stale_since,
            copying_since: None,
            rows_estimated: parts.iter().map(|part| part.rows_estimated).sum(),
            counters: Arc::default(),
        }
    }

    fn state(&self) -> TableState {
        match self.phase {
            Phase::Streaming => TableState::Streaming,
            Phase::Swapping | Phase::Syncing { copying: false, .. } => TableState::CatchingUp,
            Phase::Syncing { copying: true, .. } => TableState::Copying,
            Phase::Stale(_) | Phase::Waiting(_) | Phase::Judging if self.failures == 0 => {
                TableState::Waiting
            }
            Phase::Stale(_) | Phase::Waiting(_) | Phase::Judging => TableState::Stale,
            Phase::Refused => TableState::Skipped,
        }
    }
}

/// The tables of a pipeline, by their place, which they keep while it is connected.
#[derive(Default)]
pub(crate) struct Members {
    places: Vec<Option<Member>>,
    skipped: Vec<Skipped>,
    /// When to look again, though no table is due.
    pub(crate) look_again: Option<Instant>,
}

impl Members {
    /// The table of a place, where it is still there.
    pub(crate) fn get_mut(&mut self, place: usize) -> Option<&mut Member> {
        self.places.get_mut(place)?.as_mut()
    }

    /// All tables with their places.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (usize, &mut Member)> {
        let there = |(place, member): (usize, _)| Option::as_mut(member).map(|it| (place, it));
        self.places.iter_mut().enumerate().filter_map(there)
    }

    /// All tables.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Member> {
        self.places.iter().flatten()
    }

    /// The log that is kept for tables out of the stream.
    pub(crate) fn held(&self) -> Vec<Held> {
        self.iter().filter_map(|member| member.held.clone()).collect()
    }

    /// The log that is kept for indexes that can be gone back to, or could once they are replaced.
    pub(crate) fn replaced(&self) -> Vec<Held> {
        self.iter().filter_map(|member| Some(member.back.as_ref()?.held.clone())).collect()
    }

    /// The indexes that the log is kept for, beside those that the stream writes to.
    pub(crate) fn holds(&self, joined: Vec<String>) -> Holds {
        let held = self.iter().filter_map(|member| member.held.as_ref()?.uuid.clone()).collect();
        let replaced = self.iter().filter_map(|member| member.back.as_ref());
        let replaced = replaced.map(|back| back.sink.uuid().to_owned()).collect();
        Holds { joined: Some(joined), held, replaced }
    }

    /// When tables are to be looked at again.
    pub(crate) fn due(&self) -> Option<Instant> {
        let due = |member: &Member| match member.phase {
            Phase::Stale(due) => Some(due),
            _ => None,
        };
        self.iter().filter_map(due).chain(self.look_again).min()
    }

    /// The place of a table by its index's name, made where it is new.
    pub(crate) fn place_of(&mut self, found: &Found) -> usize {
        let same = |member: &Option<Member>| {
            member.as_ref().is_some_and(|member| member.name == found.name)
        };
        self.places.iter().position(same).unwrap_or_else(|| {
            self.places.push(Some(Member::new(found)));
            self.places.len() - 1
        })
    }

    /// Forgets tables that are not there any more, and gives their places.
    pub(crate) fn keep(&mut self, found: &[Found], skipped: Vec<Skipped>) -> Vec<usize> {
        self.skipped = skipped;
        let mut gone = Vec::new();
        for (place, slot) in self.places.iter_mut().enumerate() {
            let is_there =
                |member: &mut Member| found.iter().any(|found| found.name == member.name);
            if slot.take_if(|member| !is_there(member)).is_some() {
                gone.push(place);
            }
        }
        gone
    }

    /// Shows what is being done with every table.
    pub(crate) fn show(&self, board: &StatusBoard) {
        for member in self.iter() {
            board.set_table(member.entry());
        }
    }

    /// Shows which tables there are.
    pub(crate) fn show_all(&self, board: &StatusBoard) {
        let left_out = |skipped: &Skipped| TableEntry {
            table: skipped.title.clone(),
            index: skipped.index.clone().unwrap_or_default(),
            state: TableState::Skipped,
            reason: Some(skipped.reason.clone()),
            kept_until_in_millis: None,
            no_way_back: None,
            stale_since: None,
            copying_since: None,
            rows_estimated: 0,
            counters: Arc::default(),
        };
        let skipped = self.skipped.iter().map(left_out);
        board.set_tables(self.iter().map(Member::entry).chain(skipped).collect());
    }
}
