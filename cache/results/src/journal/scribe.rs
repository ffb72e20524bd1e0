//! The thread that owns the log: writes, syncs, rewrites, and gets over failures. It also lets the
//! store clean up once a second.

use std::error::Error as _;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use egret_aof::Error;
use egret_aof::log::{Log, Record};
use parking_lot::Mutex;
use uuid::Uuid;

use super::folder::Folder;
use super::{LogState, LogStats, Note, Queue};
use crate::key::Version;
use crate::options::Options;
use crate::store::Store;

const KIND_STORED: u8 = 1;
const KIND_PURGED: u8 = 2;

/// How many notes are written before they are handed to the system together.
const BATCH: usize = 1024;
/// How often the thread looks after the log and the store.
const TICK: Duration = Duration::from_secs(1);
/// The wait between attempts to write a log that failed doubles up to this.
const MAX_RETRY: Duration = Duration::from_secs(60);

/// Takes one record of the log into the store.
pub(super) fn replay(
    store: &Store,
    record: Record<'_>,
    is_current: &dyn Fn(&[Version]) -> bool,
    stats: &mut LogStats,
) {
    match (record.kind, Uuid::from_slice(record.payload)) {
        (KIND_STORED, _) => {
            if store.restore(Bytes::copy_from_slice(record.payload), is_current) {
                stats.restored += 1;
            } else {
                stats.not_restored += 1;
            }
        }
        (KIND_PURGED, Ok(index)) => store.purge(index),
        (kind, _) => tracing::warn!(kind, "unknown record in the result cache's log"),
    }
}

/// The thread's state.
#[derive(Debug)]
pub(super) struct Scribe {
    folder: Folder,
    store: Arc<Store>,
    queue: Arc<Queue>,
    stats: Arc<Mutex<LogStats>>,
    log: Option<Log>,
    /// When to try again, while the log cannot be written.
    retry: Option<Retry>,
    first_retry: Duration,
    rewrite_slack_bytes: u64,
}

#[derive(Debug, Clone, Copy)]
struct Retry {
    at: Instant,
    wait: Duration,
}

impl Scribe {
    pub(super) fn new(
        folder: Folder,
        store: Arc<Store>,
        queue: Arc<Queue>,
        stats: Arc<Mutex<LogStats>>,
        options: &Options,
    ) -> Self {
        let (first_retry, rewrite_slack_bytes) = (options.log_retry, options.rewrite_slack_bytes);
        let (log, retry) = (None, None);
        Self { folder, store, queue, stats, log, retry, first_retry, rewrite_slack_bytes }
    }

    /// Takes the log as it was opened.
    pub(super) fn begin(&mut self, log: Result<Log, Error>) {
        match log {
            Ok(log) => {
                self.log = Some(log);
                self.stats.lock().state = LogState::Writing;
                self.note_size();
            }
            Err(error) => self.fail(&error),
        }
    }

    /// Works until told to stop.
    pub(super) fn run(mut self, receiver: &Receiver<Note>) {
        let mut next_tick = Instant::now() + TICK.min(self.first_retry);
        loop {
            let wait = next_tick.saturating_duration_since(Instant::now());
            let goes_on = match receiver.recv_timeout(wait) {
                Ok(note) => self.take(note, receiver),
                Err(RecvTimeoutError::Timeout) => true,
                Err(RecvTimeoutError::Disconnected) => false,
            };
            if !goes_on {
                self.try_log(Log::sync);
                return;
            }
            if Instant::now() >= next_tick {
                self.tick();
                next_tick = Instant::now() + TICK.min(self.first_retry);
            }
        }
    }

    /// Writes a note and those that wait behind it, and hands them to the system. Whether to go on.
    fn take(&mut self, first: Note, receiver: &Receiver<Note>) -> bool {
        let waiting = std::iter::from_fn(|| receiver.try_recv().ok());
        for note in std::iter::once(first).chain(waiting).take(BATCH) {
            match note {
                Note::Stored(block) => {
                    self.queue.taken(block.len());
                    self.write(KIND_STORED, &block);
                }
                Note::Purged(index) => self.write(KIND_PURGED, index.as_bytes()),
                Note::Flush(_answered_by_dropping) => self.try_log(Log::sync),
                Note::Stop => return false,
            }
        }
        self.try_log(Log::commit);
        self.note_size();
        true
    }

    fn write(&mut self, kind: u8, payload: &[u8]) {
        if self.retry.is_some() {
            return self.queue.skip();
        }
        self.try_log(|log| log.append(kind, payload).map(drop));
    }

    fn tick(&mut self) {
        self.store.clean();
        match self.retry {
            Some(retry) if retry.at <= Instant::now() => self.recover(),
            Some(_) => {}
            None => {
                self.try_log(|log| log.sync_if_due(Instant::now()));
                let log_bytes = self.log.as_ref().map_or(0, Log::bytes);
                if log_bytes > 2 * self.store.bytes() + self.rewrite_slack_bytes {
                    self.rewrite();
                }
            }
        }
        self.note_size();
    }

    /// Does something with the log, unless it cannot be written. An error stops the writing.
    fn try_log(&mut self, work: impl FnOnce(&Log) -> Result<(), Error>) {
        if self.retry.is_none()
            && let Some(log) = &self.log
            && let Err(error) = work(log)
        {
            self.fail(&error);
        }
    }

    /// Notes a failure, after which nothing is written until an attempt to recover succeeds.
    fn fail(&mut self, error: &Error) {
        let wait = self.retry.map_or(self.first_retry, |retry| (retry.wait * 2).min(MAX_RETRY));
        self.retry = Some(Retry { at: Instant::now() + wait, wait });
        let mut reason = error.to_string();
        let mut cause = error.source();
        while let Some(deeper) = cause {
            reason.push_str(": ");
            reason.push_str(&deeper.to_string());
            cause = deeper.source();
        }
        tracing::warn!(reason, "the result cache goes on in memory, its log failed");
        let mut stats = self.stats.lock();
        stats.failures += 1;
        stats.state = LogState::Failed { reason };
    }

    /// Makes the log what memory is, in new files.
    fn recover(&mut self) {
        let recovered = self.reopen().and_then(|()| self.rewrite_log());
        match recovered {
            Ok(()) => {
                self.retry = None;
                self.stats.lock().state = LogState::Writing;
                tracing::info!("the result cache's log is written again");
            }
            Err(error) => self.fail(&error),
        }
    }

    fn reopen(&mut self) -> Result<(), Error> {
        if self.log.is_none() {
            // What it holds is replaced at once by what memory holds.
            self.log = Some(self.folder.open_log(|_| {})?);
        }
        match &self.log {
            Some(log) if log.is_poisoned() => log.reopen_after_failure().map(drop),
            _ => Ok(()),
        }
    }

    fn rewrite(&mut self) {
        match self.rewrite_log() {
            // A rewrite that fails leaves the log as it was; it is tried again by and by.
            Ok(()) | Err(Error::BackingOff { .. }) => {}
            Err(error) if self.log.as_ref().is_some_and(Log::is_poisoned) => self.fail(&error),
            Err(error) => {
                tracing::warn!(%error, "cannot rewrite the result cache's log");
                self.stats.lock().failures += 1;
            }
        }
    }

    fn rewrite_log(&mut self) -> Result<(), Error> {
        let Some(log) = &self.log else { return Ok(()) };
        let shards = 0..self.store.shard_count();
        // One shard's at a time, and its lock is free while they are written.
        let mut blocks = shards.flat_map(|shard| self.store.blocks(shard));
        log.rewrite(|base| Ok(blocks.try_for_each(|block| base.append(KIND_STORED, &block))?))?;
        self.stats.lock().rewrites += 1;
        Ok(())
    }

    fn note_size(&self) {
        self.stats.lock().bytes = self.log.as_ref().map_or(0, Log::bytes);
    }
}
