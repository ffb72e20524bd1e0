//! Synchronizations beside the stream: when they begin, what they say, and when the stream takes their
//! tables over.

use std::sync::Arc;
use std::time::Duration;

use egret_engine::Lsn;
use rustc_hash::FxHashSet;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::time::{Instant, timeout_at};

use super::Follower;
use crate::acknowledge::Held;
use crate::error::{Error, ErrorKind, Result};
use crate::members::Phase;
use crate::sync::{Handle, News, Sync, Synced, Task};
use crate::way_back::declared;

/// Synchronizations that copy at the same time: a small table need not wait for a large one.
const MAX_COPIES: usize = 2;

/// Synchronizations at the same time. Each takes a slot of the server, two while it copies.
const MAX_SYNCS: usize = 3;

/// Under steady load a synchronization may stay behind the stream for ever: both read the same log,
/// and the stream has less to do with it. The stream then stands still for it, as PostgreSQL's
/// subscribers do: at first for so long, and for so many times as long each time that this was not
/// enough, up to so long. In between it goes on for a quarter of that time.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const WAIT_GROWTH: u32 = 4;
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// One that is further behind than this is left alone as long as it comes nearer by itself, which is
/// looked at so often.
const SMALL_GAP_BYTES: u64 = 1 << 20;
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How long the stream waits for a synchronization, and when it may again.
pub(super) struct Patience {
    wait: Duration,
    next: Instant,
    /// How far behind it was.
    gap_bytes: u64,
}

impl Patience {
    pub(super) fn new() -> Self {
        Self { wait: FIRST_WAIT, next: Instant::now() + FIRST_WAIT, gap_bytes: u64::MAX }
    }

    /// Whether one that is so far behind comes nearer by itself.
    fn comes_nearer(&mut self, gap_bytes: u64) -> bool {
        let before = std::mem::replace(&mut self.gap_bytes, gap_bytes);
        let comes_nearer = gap_bytes > SMALL_GAP_BYTES && gap_bytes < before / 4 * 3;
        if comes_nearer {
            self.next = Instant::now() + LOOK_INTERVAL;
        }
        comes_nearer
    }

    /// It was waited in vain.
    fn lengthen(&mut self) {
        self.next = Instant::now() + self.wait / 4;
        self.wait = (self.wait * WAIT_GROWTH).min(LONGEST_WAIT);
    }
}

impl Follower<'_> {
    /// Starts synchronizations for the tables that wait for one: those that need no copy first.
    pub(super) fn begin_to_sync(&mut self) -> Result<()> {
        let copying = |phase: &Phase| matches!(phase, Phase::Syncing { copying: true, .. });
        for copies in [false, true] {
            let running: FxHashSet<usize> = self
                .members
                .iter()
                .filter(|member| copying(&member.phase))
                .filter_map(|member| match member.phase {
                    Phase::Syncing { number, .. } => Some(number),
                    _ => None,
                })
                .collect();
            let Some(number) = self.free_number() else { return Ok(()) };
            if copies && running.len() >= MAX_COPIES {
                continue;
            }
            let tasks = self.tasks(number, copies);
            if tasks.is_empty() {
                continue;
            }
            self.start_sync(number, tasks)?;
            self.members.show(&self.pipeline.board);
            self.show_state();
        }
        Ok(())
    }

    /// A number for another synchronization, where there may be one.
    pub(super) fn free_number(&self) -> Option<usize> {
        let taken = |number: &usize| self.syncs.iter().any(|(known, _)| known == number);
        (0..MAX_SYNCS).find(|number| !taken(number))
    }

    pub(super) fn start_sync(&mut self, number: usize, tasks: Vec<Task>) -> Result<()> {
        let sync = Sync {
            source: self.pipeline.source.clone(),
            config: self.pipeline.config.clone(),
            indexes: Arc::clone(&self.pipeline.indexes),
            board: Arc::clone(&self.pipeline.board),
            letters: self.letters.clone(),
            threads: self.pipeline.threads.clone(),
            gathering: Arc::clone(&self.gathering),
            server: self.discovery.server.clone(),
            throttle: Arc::clone(&self.throttle),
            number,
        };
        let handle = sync.start(tasks, self.send_news.clone())?;
        for (_, member) in self.members.iter_mut() {
            if matches!(member.phase, Phase::Syncing { number: own, .. } if own == number)
                && let Some(held) = &mut member.held
            {
                *held =
                    Held { floor: held.lsn(), synced: Some(handle.synced.clone()), ..held.clone() };
            }
        }
        self.syncs.push((number, handle));
        Ok(())
    }

    /// The tables that the synchronization of this number takes.
    pub(super) fn tasks(&mut self, number: usize, copies: bool) -> Vec<Task> {
        let confirmed = self.acknowledgements.confirmed();
        let mut tasks = Vec::new();
        for (place, member) in self.members.iter_mut() {
            let Phase::Waiting(sink) = &member.phase else { continue };
            if sink.is_none() != copies {
                continue;
            }
            let sink = sink.clone();
            // From now on the log is kept: the copy's snapshot will not be older.
            let nothing_yet =
                Held { uuid: None, floor: confirmed, synced: None, is_unlisted: false };
            let held = member.held.get_or_insert(nothing_yet);
            let (floor, table) = (held.lsn(), Arc::clone(&member.table));
            let name = member.name.clone();
            tasks.push(Task { place, name, table, sink, floor, returns: None });
            member.phase = Phase::Syncing { number, copying: copies };
        }
        tasks
    }

    pub(super) fn news(&mut self, number: usize, news: News) {
        let place = match &news {
            News::Target { place, .. } | News::Copied { place } | News::Failed { place, .. } => {
                *place
            }
            News::Caught => return,
        };
        if let Some((returning, _)) = self.returning(number) {
            if let News::Failed { error, .. } = &news
                && returning == place
            {
                self.end_return(number, &error.to_string());
            }
            return;
        }
        let pause = self.pipeline.config.reconnect_max();
        let Some(member) = self.members.get_mut(place) else { return };
        let Phase::Syncing { number: own, copying } = &mut member.phase else { return };
        if *own != number {
            return;
        }
        match news {
            News::Target { uuid, floor, .. } => {
                let synced = member.held.take().and_then(|held| held.synced);
                member.held = Some(Held { uuid: Some(uuid), floor, synced, is_unlisted: false });
            }
            News::Copied { .. } => *copying = false,
            News::Failed { error, .. } if error.kind() == ErrorKind::TableChanged => {
                tracing::info!(%error, table = member.title, "a table is looked at again");
                member.change(error.to_string(), None);
            }
            News::Failed { error, .. } => {
                tracing::warn!(%error, table = member.title, "a table is not brought to the stream");
                let held = member.keep_once();
                member.fail(error.to_string(), held, pause);
            }
            News::Caught => {}
        }
        self.members.show(&self.pipeline.board);
    }

    /// Takes over tables that are as far as the stream is, or further: the stream then skips what
    /// they hold.
    pub(super) async fn take_over(&mut self) -> Result<()> {
        let Some(at) = self.reached().await else { return Ok(()) };
        self.patience = Patience::new();
        let (number, mut sync) = self.syncs.swap_remove(at);
        sync.stop.cancel();
        let ended = loop {
            // What it said before it ended counts first.
            tokio::select! {
                biased;
                Some((number, news)) = self.news.recv() => self.news(number, news),
                ended = &mut sync.done => break ended.unwrap_or_else(|_| Err(ended_silently())),
            }
        };
        match ended {
            Ok(synced) => {
                for synced in synced {
                    self.take_one_over(number, synced).await?;
                }
            }
            Err(error) => self.sync_failed(number, error)?,
        }
        self.members.show(&self.pipeline.board);
        self.show_state();
        Ok(())
    }

    /// The place of a synchronization that is as far as the stream, which now and then stands still
    /// for one that is nearly there.
    async fn reached(&mut self) -> Option<usize> {
        let position = self.stream.position.lsn;
        let is_there = |at: &Option<Lsn>| at.is_some_and(|at| at >= position);
        let there = |(_, sync): &(usize, Handle)| is_there(&sync.reached.borrow());
        if let Some(at) = self.syncs.iter().position(there) {
            return Some(at);
        }
        if Instant::now() < self.patience.next {
            return None;
        }
        let behind = |(at, (_, sync)): (usize, &(usize, Handle))| {
            Some((position.0.saturating_sub((*sync.reached.borrow())?.0), at))
        };
        let (gap_bytes, at) = self.syncs.iter().enumerate().filter_map(behind).min()?;
        if self.patience.comes_nearer(gap_bytes) {
            return None;
        }
        let (number, sync) = self.syncs.get(at)?;
        let (number, mut reached) = (*number, sync.reached.clone());
        let until = Instant::now() + self.patience.wait;
        loop {
            // What it has to say meanwhile must not hold it up.
            let waited = tokio::select! {
                biased;
                Some((number, news)) = self.news.recv() => {
                    self.news(number, news);
                    continue;
                }
                waited = timeout_at(until, reached.wait_for(is_there)) => waited,
            };
            if matches!(waited, Ok(Ok(_))) {
                // What was said meanwhile may have ended it.
                return self.syncs.iter().position(|(known, _)| *known == number);
            }
            self.patience.lengthen();
            return None;
        }
    }

    pub(super) async fn take_one_over(&mut self, number: usize, mut synced: Synced) -> Result<()> {
        if self.returning(number).is_some() {
            return self.take_back(number, synced).await;
        }
        let Some(member) = self.members.get_mut(synced.place) else { return Ok(()) };
        if !matches!(member.phase, Phase::Syncing { number: own, .. } if own == number) {
            return Ok(());
        }
        if declared(&member.table) != declared(&synced.feed.table) {
            member.change("its declaration changed".to_owned(), None);
            return Ok(());
        }
        // Whether it is still what was copied is looked at with the newest description.
        if !Arc::ptr_eq(&member.table, &synced.feed.table) {
            synced.feed.table = Arc::clone(&member.table);
            self.wants_look = true;
        }
        self.join(synced).await
    }

    /// Synchronizations that ended by themselves have failed.
    pub(super) fn end_failed_syncs(&mut self) -> Result<()> {
        let mut failed = Vec::new();
        self.syncs.retain_mut(|(number, sync)| {
            let error = match sync.done.try_recv() {
                Err(TryRecvError::Empty) => return true,
                Ok(Err(error)) => error,
                Ok(Ok(_)) | Err(TryRecvError::Closed) => ended_silently(),
            };
            failed.push((*number, error));
            false
        });
        failed.into_iter().try_for_each(|(number, error)| self.sync_failed(number, error))
    }

    /// Ends all of them, for a reason.
    pub(super) fn give_up_syncs(&mut self, reason: &str) -> Result<()> {
        for (number, _ended) in std::mem::take(&mut self.syncs) {
            if !self.end_return(number, reason) {
                self.sync_failed(number, Error::new(ErrorKind::Server, reason))?;
            }
        }
        Ok(())
    }

    /// Its tables are tried again, unless it is the pipeline that cannot go on.
    pub(super) fn sync_failed(&mut self, number: usize, error: Error) -> Result<()> {
        if self.returning(number).is_some() {
            self.return_failed(number, error);
            return Ok(());
        }
        if matches!(error.kind(), ErrorKind::Refused | ErrorKind::Io | ErrorKind::Corrupt) {
            return Err(error);
        }
        let pause = self.pipeline.config.reconnect_max();
        for (_, member) in self.members.iter_mut() {
            if matches!(member.phase, Phase::Syncing { number: own, .. } if own == number) {
                tracing::warn!(%error, table = member.title, "a table is not brought to the stream");
                let held = member.keep_once();
                member.fail(error.to_string(), held, pause);
            }
        }
        self.members.show(&self.pipeline.board);
        self.show_state();
        Ok(())
    }
}

fn ended_silently() -> Error {
    Error::new(ErrorKind::Unavailable, "the synchronization ended without saying why")
}
