//! Flush: makes the published state durable in `commit.json`, in the background, together with what is
//! held back from searches under `refresh_interval: -1`.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use egret_aof::failpoint;
use egret_aof::log::Increment;
use rustc_hash::FxHashMap;

use super::{Failed, Writer, tell};
use crate::error::{Error, ErrorKind, Result};
use crate::position::{Checkpoint, SeqNo};
use crate::store::background::Lane;
use crate::store::builder::guarded;
use crate::store::commit::{Commit, CommittedFile};
use crate::store::directory::{SegmentFiles, StoreDirectory, write_synced};
use crate::store::segment::alive_bytes;
use crate::store::shared::{Event, Shared};
use crate::store::state::deletes_name;
use crate::store::translog::Translog;

/// After a failed flush.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// What is durable, and what makes it so.
pub(super) struct Flushing {
    /// The writer's count of changes as of the last commit.
    pub(super) flushed_changes: u64,
    /// The number of the next operation as of then.
    flushed_seq_no: SeqNo,
    /// What the last commit holds of the source.
    pub(super) durable: Option<Checkpoint>,
    running: bool,
    /// When the first change that is not flushed was made.
    since: Option<Instant>,
    /// Segments that a `commit.json` on disk names, or may name.
    committed: Vec<Arc<SegmentFiles>>,
    /// Files of deletes that it names.
    deletes: Vec<CommittedFile>,
    /// Who waits for the flush that runs, and for the one after it.
    waiting: Vec<Sender<Result<()>>>,
    next_waiting: Vec<Sender<Result<()>>>,
    retry: Option<(Instant, Duration)>,
    /// Whether the next one is wanted at once.
    hurried: bool,
}

/// A flush: everything that a background thread needs for it.
struct FlushJob {
    directory: StoreDirectory,
    segments: Vec<Arc<SegmentFiles>>,
    /// Deletes to write, and those that are on disk already.
    new_deletes: Vec<(String, Vec<u8>)>,
    kept_deletes: Vec<CommittedFile>,
    commit: Commit,
}

/// What came of a flush.
pub(in crate::store) struct FinishedFlush {
    changes: u64,
    next_seq_no: SeqNo,
    checkpoint: Option<Checkpoint>,
    /// What the translog no longer needs.
    log_mark: Option<Increment>,
    segments: Vec<Arc<SegmentFiles>>,
    took: Duration,
    /// The files of deletes that the commit names.
    result: Result<Vec<CommittedFile>>,
}

impl Flushing {
    /// Everything before this operation is in a commit that names these.
    pub(super) fn new(
        flushed_seq_no: SeqNo,
        durable: Option<Checkpoint>,
        committed: Vec<Arc<SegmentFiles>>,
        deletes: Vec<CommittedFile>,
    ) -> Self {
        Self {
            flushed_changes: 0,
            flushed_seq_no,
            durable,
            running: false,
            since: None,
            committed,
            deletes,
            waiting: Vec::new(),
            next_waiting: Vec::new(),
            retry: None,
            hurried: false,
        }
    }

    pub(super) fn is_running(&self) -> bool {
        self.running
    }

    /// What is not on disk is wanted there at once.
    pub(super) fn hurry(&mut self) {
        self.hurried = self.since.is_some();
    }

    pub(super) fn note_change(&mut self) {
        self.since.get_or_insert_with(Instant::now);
    }

    /// Takes note of the end of a flush whose writer is about to begin anew.
    pub(super) fn abandon(&mut self, finished: FinishedFlush) {
        self.running = false;
        // Whether or not the commit was replaced: opening it again finds out.
        self.committed.extend(finished.segments);
    }

    /// Merges have ended: their inputs' files can go after the next flush.
    pub(super) fn note_layout(&mut self) {
        self.since.get_or_insert_with(Instant::now);
    }
}

impl FlushJob {
    fn run(mut self) -> Result<Vec<CommittedFile>> {
        let (disk, folder) = (self.directory.disk(), self.directory.folder());
        for segment in &self.segments {
            segment.persist()?;
        }
        failpoint::reach("flush-segments-written");
        let mut deletes = self.kept_deletes;
        for (name, bytes) in &self.new_deletes {
            write_synced(disk, &folder.join(name), bytes)?;
            let (length, crc32c) = (bytes.len() as u64, crc32c::crc32c(bytes));
            deletes.push(CommittedFile { name: name.clone(), length, crc32c });
        }
        disk.sync_folder(folder)?;
        let mut files = deletes.clone();
        for segment in &self.segments {
            let named = segment.files().into_iter().map(|(name, file)| {
                let length = file.bytes.len() as u64;
                CommittedFile { name, length, crc32c: file.crc32c }
            });
            files.extend(named);
            // From here on the commit on disk may name it, whatever the next call returns.
            segment.set_committed(true);
        }
        self.commit.files = files;
        failpoint::reach("flush-files-durable");
        self.commit.write(disk, folder)?;
        failpoint::reach("flush-committed");
        Ok(deletes)
    }
}

impl Writer {
    /// When the next flush is due.
    pub(super) fn flush_due(&self, shared: &Shared) -> Option<Instant> {
        if self.flushing.running || self.failed.is_some() {
            return None;
        }
        if let Some((at, _)) = self.flushing.retry {
            return Some(at);
        }
        let since = self.flushing.since?;
        let poisoned = self.log.as_ref().is_some_and(|log| log.poisoned().is_some());
        let limits = shared.background.limits();
        let log_bytes = self.log.as_ref().map_or(0, Translog::bytes);
        let operations = self.next_seq_no.0.saturating_sub(self.flushing.flushed_seq_no.0);
        let full = self.sizes().1 > limits.flush_young_bytes
            || log_bytes > shared.identity.settings.load().flush_threshold_bytes
            || operations > limits.flush_operations;
        if full || poisoned || self.leaving || self.flushing.hurried {
            return Some(since);
        }
        let followed = shared.identity.pipeline.is_some();
        Some(since + if followed { limits.followed_flush_age } else { limits.flush_age })
    }

    /// Flushes, and answers when what has been applied until now is durable.
    pub(super) fn flush_for(&mut self, shared: &Arc<Shared>, reply: Sender<Result<()>>) {
        self.come_back(shared);
        if let Some(Failed { why, .. }) = &self.failed {
            let message = format!("the index cannot be flushed: {why}");
            tell(&reply, Err(Error::new(ErrorKind::Internal, message)));
        } else if self.flushing.running {
            self.flushing.next_waiting.push(reply);
        } else if self.changes == self.flushing.flushed_changes
            && self.applied == self.flushing.durable
            // What merges have made, published or not, is to be durable, too.
            && self.flushing.since.is_none()
            && !self.publishing.has_layout()
            && self.log.as_ref().is_none_or(|log| log.poisoned().is_none())
        {
            tell(&reply, Ok(()));
        } else {
            self.flushing.waiting.push(reply);
            self.start_flush(shared);
        }
    }

    /// Flushes on the way to the end.
    pub(super) fn flush_and_wait(&mut self, shared: &Arc<Shared>) -> Result<()> {
        self.come_back(shared);
        if self.failed.is_some() {
            // What counts is in the last commit and the translog.
            return Ok(());
        }
        let (reply, answer) = crossbeam_channel::bounded(1);
        self.flush_for(shared, reply);
        loop {
            match answer.try_recv() {
                Ok(result) => return result,
                Err(crossbeam_channel::TryRecvError::Disconnected) => {
                    return Err(Error::new(ErrorKind::Internal, "a flush gave no answer"));
                }
                Err(crossbeam_channel::TryRecvError::Empty) => {}
            }
            match shared.queue.events.1.recv() {
                Ok(event) => self.handle_event(shared, event),
                Err(_) => return Err(Error::new(ErrorKind::Internal, "the background is gone")),
            }
        }
    }

    /// Publishes, unless that is held back, captures the state and hands it to the background.
    pub(super) fn start_flush(&mut self, shared: &Arc<Shared>) {
        if self.flushing.running || self.failed.is_some() {
            return;
        }
        // A committed state that is published has its name back after a restart.
        if self.finish_or_recover(shared).is_err() || self.failed.is_some() {
            self.fail_flush_waiters();
            return;
        }
        match guarded(|| self.capture(shared)) {
            Ok((job, finished)) => {
                self.flushing.running = true;
                (self.flushing.since, self.flushing.hurried) = (None, false);
                let owner = Arc::clone(shared);
                let started = shared.background.run(Lane::Flush, move || {
                    let began = Instant::now();
                    let result = guarded(|| job.run());
                    let (index, took) = (&owner.identity.name, began.elapsed());
                    tracing::debug!(%index, ?took, "flushed");
                    owner.tell(Event::Flushed(FinishedFlush { took, result, ..finished }));
                });
                if let Err(error) = started {
                    self.flushing.running = false;
                    tracing::error!(%error, "no flush could be started");
                    self.fail_flush_waiters();
                }
            }
            Err(error) => {
                self.fail(shared, &format!("a flush could not begin: {error}"));
                self.fail_flush_waiters();
            }
        }
    }

    pub(super) fn fail_flush_waiters(&mut self) {
        let flushing = &mut self.flushing;
        for reply in flushing.waiting.drain(..).chain(flushing.next_waiting.drain(..)) {
            tell(&reply, Err(Error::new(ErrorKind::Internal, "the flush could not begin")));
        }
    }

    fn capture(&mut self, shared: &Shared) -> Result<(FlushJob, FinishedFlush)> {
        let mut stamps = FxHashMap::default();
        let (mut new_deletes, mut kept_deletes) = (Vec::new(), Vec::new());
        let segments = self.store.segments.iter();
        for segment in segments.filter(|segment| segment.alive_count() < segment.max_doc) {
            let alive = segment.alive_count();
            // Documents only ever die: as many are alive as before, so the same ones are. A stamp
            // of a flush that failed is not used again: its commit may be the one on disk, and
            // its files must stay as they are.
            let known = self.delete_stamps.get(&segment.id).filter(|(stamp, then)| {
                let name = deletes_name(&segment.id.uuid_string(), *stamp);
                *then == alive && self.flushing.deletes.iter().any(|file| file.name == name)
            });
            let stamp = known.map_or(self.next_delete_stamp, |&(stamp, _)| stamp);
            self.next_delete_stamp = self.next_delete_stamp.max(stamp + 1);
            let name = deletes_name(&segment.id.uuid_string(), stamp);
            match self.flushing.deletes.iter().find(|file| file.name == name) {
                Some(file) => kept_deletes.push(file.clone()),
                None => new_deletes.push((name, alive_bytes(segment.alive())?)),
            }
            stamps.insert(segment.id, stamp);
            self.delete_stamps.insert(segment.id, (stamp, alive));
        }
        self.delete_stamps.retain(|segment, _| stamps.contains_key(segment));
        let published = shared.snapshot.load().generation();
        let generation = self.publishing.held_back().unwrap_or(published);
        let log_mark = self.log.as_mut().and_then(|log| log.roll(&self.store.tombstones));
        let commit = Commit {
            index_uuid: shared.identity.uuid.clone(),
            term: self.term,
            generation,
            next_seq_no: self.next_seq_no,
            next_delete_stamp: self.next_delete_stamp,
            checkpoint: self.applied,
            copy_progress: self.copy_progress.clone(),
            mapping: self.store.mapping.to_json(),
            mapping_number: self.store.mapping_number,
            ignored: Some(self.store.ignored.clone()),
            outstanding: self.store.outstanding.as_deref().cloned(),
            meta: raw(self.store.meta(&stamps)?)?,
            files: Vec::new(),
        };
        let segments: Vec<_> =
            self.store.segments.iter().map(|segment| Arc::clone(&segment.files)).collect();
        let finished = FinishedFlush {
            changes: self.changes,
            next_seq_no: self.next_seq_no,
            checkpoint: self.applied,
            log_mark,
            segments: segments.clone(),
            took: Duration::ZERO,
            result: Ok(Vec::new()),
        };
        let directory = self.store.directory.clone();
        Ok((FlushJob { directory, segments, new_deletes, kept_deletes, commit }, finished))
    }

    /// Takes note of a flush that has ended.
    pub(super) fn finish_flush(&mut self, shared: &Arc<Shared>, finished: FinishedFlush) {
        self.flushing.running = false;
        match finished.result {
            Ok(deletes) => {
                shared.identity.activity.flushed.add(finished.took);
                self.flushing.retry = None;
                self.flushing.flushed_changes = finished.changes;
                self.flushing.flushed_seq_no = finished.next_seq_no;
                self.flushing.durable = finished.checkpoint;
                self.forget_older_files(finished.segments, deletes);
                self.trim_log(shared, finished.log_mark);
                self.let_go_of_memory(shared);
                // Whoever has an answer finds it in the positions.
                self.show(shared);
                for reply in std::mem::take(&mut self.flushing.waiting) {
                    tell(&reply, Ok(()));
                }
            }
            Err(error) => {
                tracing::error!(index = %shared.identity.name, %error, "a flush failed");
                // The commit may have been replaced all the same.
                self.flushing.committed.extend(finished.segments);
                let delay = self.flushing.retry.map_or(FIRST_RETRY, |(_, delay)| delay * 2);
                let delay = delay.min(LAST_RETRY);
                self.flushing.retry = Some((Instant::now() + delay, delay));
                let message = format!("the flush failed: {error}");
                for reply in std::mem::take(&mut self.flushing.waiting) {
                    tell(&reply, Err(Error::new(error.kind(), message.clone())));
                }
            }
        }
        self.show(shared);
        if !self.flushing.next_waiting.is_empty() {
            self.flushing.waiting = std::mem::take(&mut self.flushing.next_waiting);
            self.start_flush(shared);
        }
    }

    fn trim_log(&mut self, shared: &Shared, mark: Option<Increment>) {
        let Some(log) = self.log.as_mut() else { return };
        let trimmed = log.trim(mark, &self.store.tombstones);
        if log.poisoned().is_some() {
            // Writes are refused until a flush of everything and this have succeeded.
            let delay = if trimmed.is_ok() { Duration::ZERO } else { FIRST_RETRY };
            self.flushing.retry = Some((Instant::now() + delay, FIRST_RETRY));
        }
        if let Err(error) = trimmed {
            tracing::warn!(index = %shared.identity.name, %error, "the translog cannot be trimmed");
        }
    }

    /// Files that the new commit does not name may go, segments when nobody reads them any more.
    fn forget_older_files(
        &mut self,
        segments: Vec<Arc<SegmentFiles>>,
        deletes: Vec<CommittedFile>,
    ) {
        for older in std::mem::take(&mut self.flushing.committed) {
            if !segments.iter().any(|segment| Arc::ptr_eq(segment, &older)) {
                older.set_committed(false);
            }
        }
        self.flushing.committed = segments;
        let named: HashSet<&str> = deletes.iter().map(|file| file.name.as_str()).collect();
        for older in &self.flushing.deletes {
            if !named.contains(older.name.as_str()) {
                self.store.directory.remove_soon(&older.name);
            }
        }
        self.flushing.deletes = deletes;
    }

    /// Reads from now on what has gone to disk from there.
    fn let_go_of_memory(&mut self, shared: &Arc<Shared>) {
        let mut outlived = false;
        for segment in &mut self.store.segments {
            if segment.is_outlived() {
                segment.mark_stale();
                outlived = true;
            }
        }
        if outlived && self.is_held_back(shared) {
            // A failure has been told, and the writer has begun anew.
            return drop(self.finish_or_recover(shared));
        }
        if self.publishing.is_pending() || self.publishing.has_layout() {
            return;
        }
        if let Err(error) = guarded(|| self.renew_published(shared)) {
            self.fail(shared, &format!("reading a flushed segment failed: {error}"));
        }
    }
}

pub(super) fn raw(json: String) -> Result<Box<serde_json::value::RawValue>> {
    serde_json::value::RawValue::from_string(json).map_err(|source| {
        Error::new(ErrorKind::Internal, format!("the list of segments is no JSON: {source}"))
            .with_source(source)
    })
}
