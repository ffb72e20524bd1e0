//! The one writer of an index: a thread that alone numbers operations, appends to the translog,
//! indexes, publishes and starts flushes.
//!
//! The thread begins at the first message and ends when it has been idle for a while with nothing
//! unpublished or unflushed; its [`Writer`] is then parked in the index's slot. So hundreds of
//! indexes cost no threads while nobody writes to them.

mod comeback;
mod composing;
mod flush;
mod merges;
mod mirror;
mod publish;
mod recover;
mod spooled;
mod thread;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::Sender;
use rustc_hash::FxHashMap;
use serde_json::Value;
use tantivy::index::SegmentId;
use tokio::sync::oneshot;

use self::comeback::Failed;
use self::composing::Composing;
pub(super) use self::flush::FinishedFlush;
use self::flush::Flushing;
use self::publish::Publishing;
pub(super) use self::recover::TRANSLOG;
pub(crate) use self::recover::{Home, Recovered, committed_mapping, create, open};
pub(crate) use self::thread::Slot;
use self::thread::Then;
use super::budget::{Budget, Share};
use super::builder::guarded;
use super::forced::Forced;
use super::mirror::Mirror;
use super::plan::{AppliedBatch, Change, Circumstances, ReadBefore};
use super::shared::{Event, Message, Shared, Write};
use super::state::Store;
use super::translog::Translog;
use crate::batch::{Batch, BatchOutcome, Refresh};
use crate::error::{Error, ErrorKind, Result};
use crate::mapping::ignored::Origin;
use crate::position::{Checkpoint, SeqNo};

/// So many batches at most share one fsync and one publication.
const GROUP_BATCHES: usize = 64;
/// And so many bytes: while a large batch is written, whoever sent another can prepare the next.
const GROUP_BYTES: usize = 1 << 20;

/// Who waits for a batch.
type Reply = oneshot::Sender<Result<BatchOutcome>>;

/// The writer of an index.
pub(crate) struct Writer {
    home: Home,
    store: Store,
    /// `None` for a followed index.
    log: Option<Translog>,
    term: u64,
    /// Rises when the writer goes back to its last commit: merges begun before are void.
    epoch: u64,
    next_seq_no: SeqNo,
    next_delete_stamp: u64,
    /// The stamps of the deletes that a commit may name, with the living documents they leave.
    delete_stamps: FxHashMap<SegmentId, (u64, u32)>,
    /// Where the source stands after the last batch.
    applied: Option<Checkpoint>,
    copy_progress: Option<String>,
    /// Counts what flushes must make durable.
    changes: u64,
    publishing: Publishing,
    flushing: Flushing,
    share: Share,
    /// When to look again for merges that wait.
    merges_due: Option<Instant>,
    /// Merges that were asked for; one request at a time is done.
    forced: VecDeque<Forced>,
    /// When documents last changed, until merges have been looked for that wait for idleness.
    changed_at: Option<Instant>,
    /// Another index that gets every change.
    mirror: Option<Mirror>,
    /// Why that ended of itself.
    mirror_lost: Option<String>,
    /// Why it takes no writes, and until when.
    failed: Option<Failed>,
    /// Whether it flushes and gives its thread back as soon as it can.
    leaving: bool,
}

impl Writer {
    pub(in crate::store) fn budget(&self) -> &Arc<Budget> {
        self.share.budget()
    }

    /// Says whose writer it is.
    pub(in crate::store) fn belongs_to(&self, shared: &Arc<Shared>) {
        self.share.belongs_to(shared);
    }

    fn handle(&mut self, shared: &Arc<Shared>, message: Message) -> Then {
        match message {
            Message::Write(write) => return self.handle_writes(shared, write),
            Message::Advance(checkpoint) => self.advance(shared, checkpoint),
            Message::PutMapping(addition, reply) => self.put_mapping(shared, &addition, reply),
            Message::Settings(reply) => {
                let durability = shared.identity.settings.load().durability;
                if let Some(log) = &mut self.log {
                    log.set_durability(durability);
                }
                tell(&reply, Ok(()));
            }
            Message::Refresh(reply) => {
                let result = self.refresh(shared);
                tell(&reply, result);
            }
            Message::Flush(reply) => self.flush_for(shared, reply),
            Message::ForceMerge(how, reply) => self.force_merge(shared, how, reply),
            Message::Mirroring(asked) => self.handle_mirroring(shared, asked),
            Message::Resume(reply) => {
                let result = if self.failed.is_some() { self.reset(shared) } else { Ok(()) };
                tell(&reply, result);
            }
            Message::Close { flush, reply } => {
                let result = if flush { self.flush_and_wait(shared) } else { Ok(()) };
                self.wait_for_flush(shared);
                return Then::End(reply, result);
            }
        }
        Then::Continue
    }

    fn refresh(&mut self, shared: &Arc<Shared>) -> Result<()> {
        self.come_back(shared);
        if self.comeback_due().is_some() {
            return self.refusal().map_or(Ok(()), Err);
        }
        let pending = self.publishing.is_pending();
        if pending { self.publish_or_recover(shared) } else { Ok(()) }
    }

    fn handle_event(&mut self, shared: &Arc<Shared>, event: Event) {
        match event {
            Event::Flushed(finished) => self.finish_flush(shared, finished),
            Event::Merged(finished) => self.finish_merge(shared, finished),
            Event::Flush => self.flushing.hurry(),
            Event::Leave => self.leaving = true,
        }
    }

    /// Handles a batch together with those that wait behind it: one fsync for all.
    fn handle_writes(&mut self, shared: &Arc<Shared>, write: Box<Write>) -> Then {
        let mut bytes = write.bytes;
        let mut group = vec![*write];
        let mut other = None;
        while group.len() < GROUP_BATCHES && bytes < GROUP_BYTES {
            match shared.queue.receiver.try_recv() {
                Ok(Message::Write(write)) => {
                    bytes += write.bytes;
                    group.push(*write);
                }
                Ok(message) => {
                    other = Some(message);
                    break;
                }
                Err(_) => break,
            }
        }
        self.write_group(shared, group);
        shared.queue.release(bytes);
        match other {
            Some(message) => self.handle(shared, message),
            None => Then::Continue,
        }
    }

    fn write_group(&mut self, shared: &Arc<Shared>, group: Vec<Write>) {
        let mut done = Vec::with_capacity(group.len());
        for Write { batch, read, reply, .. } in group {
            if let Some(error) = self.refusal() {
                answer(reply, Err(error));
                continue;
            }
            let refresh = batch.refresh;
            match guarded(|| self.write(shared, batch, read)) {
                Ok(applied) => done.push((refresh, applied, reply)),
                Err(error) => {
                    self.acknowledge(shared, std::mem::take(&mut done));
                    let text = error.to_string();
                    answer(reply, Err(error));
                    self.fail(shared, &text);
                }
            }
        }
        self.share.set(self.store.building_bytes());
        self.acknowledge(shared, done);
        self.share.budget().relieve();
    }

    /// Why no write is taken now.
    fn refusal(&self) -> Option<Error> {
        if let Some(Failed { why, .. }) = &self.failed {
            let message = format!("the index takes no writes: {why}");
            return Some(Error::new(ErrorKind::Internal, message));
        }
        let log = self.log.as_ref()?;
        let why = log.poisoned()?;
        let message = format!("the index is read-only until a flush has succeeded: {why}");
        Some(Error::new(ErrorKind::ReadOnly, message))
    }

    /// Applies one batch and appends it to the translog, unsynced.
    fn write(&mut self, shared: &Shared, batch: Batch, read: ReadBefore) -> Result<AppliedBatch> {
        let followed = shared.identity.pipeline.is_some();
        let lsn = batch.row_lsn.or(batch.checkpoint.map(|checkpoint| checkpoint.lsn));
        let lsn = lsn.map(|lsn| lsn.0);
        let first = self.next_seq_no;
        let tell_patched = batch.tell_patched;
        let circumstances = Circumstances { followed, term: self.term, lsn, first, tell_patched };
        self.store.tombstones.keep_for(shared.identity.settings.load().gc_deletes);
        let mut composing = Composing::new(&self.store, batch.compose, circumstances);
        let must_fit = batch.must_fit && followed;
        let spooled = batch
            .spooled
            .map(|spooled| self.write_spooled(spooled, circumstances, composing.as_mut()));
        let spooled = spooled.transpose()?;
        let mut applied = self.apply_ops(&batch.ops, read, circumstances, composing.as_mut())?;
        let visible = |change: &Change| !matches!(change, Change::Tombstone { .. });
        let mut wrote = applied.changes.iter().any(visible);
        if let Some(spooled) = spooled {
            applied.grew |= spooled.grew;
            wrote |= spooled.wrote;
            applied.spooled = Some(spooled.outcome);
        }
        if let Some(mut composing) = composing {
            self.compose(&mut composing)?;
            applied.grew |= composing.grew;
            wrote |= composing.wrote;
            applied.composed = composing.outcome;
        }
        if must_fit && let Some(error) = applied.first_rejected() {
            return Err(error);
        }
        if applied.grew {
            shared.view.lock().mapping = Arc::clone(&self.store.mapping);
        }
        if applied.grew {
            self.log_mapping(Origin::Document);
        }
        if let Some(log) = self.log.as_mut().filter(|_| self.next_seq_no > first) {
            log.append(&applied.changes, self.next_seq_no);
        }
        if batch.checkpoint.is_some() {
            self.applied = batch.checkpoint;
        }
        let progressed = batch.copy_progress.is_some() && batch.copy_progress != self.copy_progress;
        if progressed {
            self.copy_progress.clone_from(&batch.copy_progress);
            shared.view.lock().copy_progress.clone_from(&batch.copy_progress);
        }
        let changed = progressed || applied.grew || wrote;
        // Numbers that were given away stay given away, also where nothing has changed.
        let numbered = self.log.is_some() && self.next_seq_no > first;
        if changed || numbered {
            self.changes += 1;
            self.flushing.note_change();
        }
        if changed {
            self.publishing.note_written();
            self.changed_at = Some(Instant::now());
        }
        Ok(applied)
    }

    /// Makes applied batches durable in the translog and answers them.
    fn acknowledge(&mut self, shared: &Arc<Shared>, mut done: Vec<(Refresh, AppliedBatch, Reply)>) {
        if done.is_empty() {
            return;
        }
        if let Some(log) = &mut self.log {
            log.commit();
        }
        let changed: Vec<&AppliedBatch> = done.iter().map(|(_, applied, _)| applied).collect();
        self.hand_on(shared, &changed);
        if self.log.is_some() {
            let mut recent = shared.recent.lock();
            for (_, applied, _) in &mut done {
                recent.push(std::mem::take(&mut applied.changes));
            }
        }
        self.advanced(shared);
        // Whoever has an answer finds it in the positions.
        self.show(shared);
        let poisoned = self.log.as_ref().and_then(Translog::poisoned).map(str::to_owned);
        for (refresh, applied, reply) in done {
            if let Some(why) = &poisoned {
                let message = format!("the write may not survive a crash: {why}");
                answer(reply, Err(Error::new(ErrorKind::ReadOnly, message)));
                continue;
            }
            let waits = refresh != Refresh::Scheduled && self.publishing.is_pending();
            let published = waits || !self.publishing.is_pending();
            let (ops, spooled) = (applied.results, applied.spooled);
            let outcome = BatchOutcome { ops, spooled, composed: applied.composed, published };
            if waits {
                self.publishing.wait(refresh == Refresh::Now, outcome, reply);
            } else {
                answer(reply, Ok(outcome));
            }
        }
        if poisoned.is_some() {
            self.start_flush(shared);
        }
        if shared.recent.lock().bytes() <= RECENT_BYTES {
            return;
        }
        if self.is_held_back(shared) {
            // A failure has been told, and the writer has begun anew.
            drop(self.finish_or_recover(shared));
        } else {
            self.publishing.hurry();
        }
    }

    /// For a followed index: nothing up to here.
    fn advance(&mut self, shared: &Shared, checkpoint: Checkpoint) {
        if self.failed.is_none() {
            self.applied = Some(checkpoint);
            self.advanced(shared);
            self.show(shared);
        }
    }

    fn put_mapping(&mut self, shared: &Arc<Shared>, addition: &Value, reply: Sender<Result<()>>) {
        let result = match self.refusal() {
            Some(error) => Err(error),
            None => guarded(|| self.merge_mapping(shared, addition)),
        };
        match result {
            // Without a translog, what an earlier call has added may still not be durable.
            Ok(grew) if grew || self.log.is_none() => self.flush_for(shared, reply),
            Ok(_) => tell(&reply, Ok(())),
            Err(error) => tell(&reply, Err(error)),
        }
    }

    /// Whether the mapping changed.
    fn merge_mapping(&mut self, shared: &Shared, addition: &Value) -> Result<bool> {
        let merged = self.store.mapping.merged(addition)?;
        if merged == *self.store.mapping {
            return Ok(false);
        }
        self.hand_on_mapping(addition)?;
        let origin = if self.log.is_some() { Origin::Request } else { Origin::Document };
        self.store.grow(merged, origin)?;
        {
            let mut view = shared.view.lock();
            view.mapping = Arc::clone(&self.store.mapping);
            view.outstanding.clone_from(&self.store.outstanding);
        }
        self.log_mapping(origin);
        if let Some(log) = &mut self.log {
            log.commit();
        }
        self.changes += 1;
        self.flushing.note_change();
        self.publishing.note_mapping();
        Ok(true)
    }

    /// Appends a mapping that has changed to the translog.
    fn log_mapping(&mut self, origin: Origin) {
        if let Some(log) = &mut self.log {
            self.store.mapping_number += 1;
            log.append_mapping(self.store.mapping_number, &self.store.mapping, origin);
        }
    }
}

/// Sources of documents that are in no finished segment and are kept for reads by id; past it, segments
/// are finished.
const RECENT_BYTES: usize = if cfg!(test) { 1 << 20 } else { 64 << 20 };

/// Answers; whoever asked may have gone.
fn answer(reply: Reply, outcome: Result<BatchOutcome>) {
    if reply.send(outcome).is_err() {
        tracing::trace!("nobody waits for this batch any more");
    }
}

fn tell(reply: &Sender<Result<()>>, result: Result<()>) {
    if reply.send(result).is_err() {
        tracing::trace!("nobody waits for this answer any more");
    }
}

/// A batch whose answer waits for a publication.
type Waiting = (BatchOutcome, Reply);
