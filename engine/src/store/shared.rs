//! What an index's handle and its writer share: the queue between them, and what the writer shows.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use parking_lot::{Condvar, Mutex};
use serde_json::Value;
use tantivy::SegmentReader;
use tokio::sync::{oneshot, watch};

use super::background::Background;
use super::budget::Budget;
use super::directory::SegmentFiles;
use super::forced::ForceMerge;
use super::merge_counts::MergeCounts;
use super::mirror::Mirroring;
use super::plan::ReadBefore;
use super::pressure::Pressure;
use super::recent::Recent;
use super::settings::IndexSettings;
use super::state::FinishedMerge;
use super::writer::{FinishedFlush, Recovered, Slot};
use super::writers::Presence;
use crate::activity::Activity;
use crate::batch::{Batch, BatchOutcome, WriteOp};
use crate::error::{Error, ErrorKind, Result};
use crate::index::{IndexStats, Positions};
use crate::mapping::{Mapping, Outstanding};
use crate::position::Checkpoint;
use crate::snapshot::Snapshot;

/// Batches that wait for a writer.
const QUEUE_BATCHES: usize = 256;
/// Bytes of batches, and of changes that another index hands on, that wait for a writer; a single larger
/// one is let in alone.
pub(super) const QUEUE_BYTES: usize = 64 << 20;

/// Who an index is; nothing but the settings ever changes, and what is counted of it.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) name: String,
    pub(crate) uuid: String,
    pub(crate) pipeline: Option<String>,
    pub(crate) created_ms: i64,
    pub(crate) settings: Arc<ArcSwap<IndexSettings>>,
    pub(crate) activity: Arc<Activity>,
}

/// What an index's handle and its writer share.
pub(crate) struct Shared {
    pub(crate) identity: Identity,
    /// What searches see.
    pub(crate) snapshot: ArcSwap<Snapshot>,
    /// What reads by id see where [`Self::recent`] knows nothing: later than `snapshot` where what is
    /// written is held back from searches.
    pub(crate) newest: ArcSwap<Snapshot>,
    pub(crate) positions: watch::Sender<Positions>,
    /// Guards what the writer shows besides; held for copies only.
    pub(crate) view: Mutex<View>,
    /// Documents written since the newest snapshot. Guards them; held for look-ups.
    pub(crate) recent: Mutex<Recent>,
    pub(crate) queue: Queue,
    pub(crate) merges: MergeCounts,
    pub(crate) pressure: Pressure,
    pub(super) budget: Arc<Budget>,
    pub(super) presence: Presence,
    /// Where the writer is. Guards its starting and parking; nothing slow is done under it.
    pub(super) slot: Mutex<Slot>,
    pub(crate) background: Arc<Background>,
}

impl Shared {
    pub(crate) fn new(
        identity: Identity,
        recovered: Recovered,
        background: Arc<Background>,
    ) -> Arc<Self> {
        let Recovered { mut writer, snapshot, view, positions } = recovered;
        let snapshot = Arc::new(snapshot);
        let shared = Arc::new(Self {
            identity,
            snapshot: ArcSwap::new(Arc::clone(&snapshot)),
            newest: ArcSwap::new(snapshot),
            positions: watch::Sender::new(positions),
            view: Mutex::new(view),
            recent: Mutex::default(),
            queue: Queue::new(),
            merges: MergeCounts::default(),
            pressure: Pressure::new(background.limits()),
            budget: Arc::clone(writer.budget()),
            presence: Presence::default(),
            slot: Mutex::new(Slot::Closed),
            background,
        });
        writer.belongs_to(&shared);
        writer.show(&shared);
        *shared.slot.lock() = Slot::Parked(writer);
        shared
    }

    /// Shows a state to searches and reads by id; it holds everything that either has seen.
    pub(super) fn show(&self, snapshot: Arc<Snapshot>) {
        self.snapshot.store(Arc::clone(&snapshot));
        self.newest.store(snapshot);
    }

    /// The newest snapshot knows everything.
    pub(super) fn forget_recent(&self) {
        let published = std::mem::take(&mut *self.recent.lock());
        // Not under the lock: it may be much.
        drop(published);
    }
}

/// What the writer shows besides snapshot and positions.
#[derive(Clone)]
pub(crate) struct View {
    pub(crate) mapping: Arc<Mapping>,
    pub(crate) outstanding: Option<Arc<Outstanding>>,
    pub(crate) copy_progress: Option<String>,
    pub(crate) stats: IndexStats,
    /// The segments of the published snapshot.
    pub(crate) segments: Arc<[ShownSegment]>,
    /// Why no writes are taken now.
    pub(crate) refusal: Option<Arc<str>>,
}

/// A published segment, with its files.
pub(crate) struct ShownSegment {
    pub(crate) number: u64,
    pub(crate) reader: Arc<SegmentReader>,
    /// How many rows are among those of its documents that the reader takes for deleted.
    pub(crate) row_count: u64,
    pub(crate) files: Arc<SegmentFiles>,
}

/// A batch on its way.
pub(crate) struct Write {
    pub(super) batch: Batch,
    pub(super) read: ReadBefore,
    /// What the queue counts for it.
    pub(super) bytes: usize,
    pub(super) reply: oneshot::Sender<Result<BatchOutcome>>,
}

/// What is asked of a writer, in order.
pub(crate) enum Message {
    Write(Box<Write>),
    Advance(Checkpoint),
    PutMapping(Value, Sender<Result<()>>),
    /// The settings have changed.
    Settings(Sender<Result<()>>),
    Refresh(Sender<Result<()>>),
    Flush(Sender<Result<()>>),
    ForceMerge(ForceMerge, Sender<Result<()>>),
    Mirroring(Mirroring),
    /// After a failure in a followed index: go on from the last commit.
    Resume(Sender<Result<()>>),
    /// End; with a flush or without one.
    Close {
        flush: bool,
        reply: Sender<Result<()>>,
    },
}

/// What others tell a writer.
pub(super) enum Event {
    Flushed(FinishedFlush),
    Merged(FinishedMerge),
    /// Memory is short: flush.
    Flush,
    /// Others wait for a thread: flush, and give it back.
    Leave,
}

/// The way to a writer.
pub(crate) struct Queue {
    sender: Sender<Message>,
    pub(super) receiver: Receiver<Message>,
    /// Bounded by what may be under way: one flush, two merges, and what is asked for once each.
    pub(super) events: (Sender<Event>, Receiver<Event>),
    /// What batches must pass. Guards only that; waiters sleep on `passable`.
    gate: Mutex<Gate>,
    passable: Condvar,
}

/// Where batches go that are handed to an index.
struct Gate {
    door: Door,
    /// Bytes of batches and of changes in the queue.
    bytes: usize,
    /// Batches that have passed and are not in the queue yet.
    passing: usize,
}

enum Door {
    Open,
    /// They wait: another index may be about to take this one's place.
    Shut,
    /// To the index that has taken its place.
    Moved(Arc<Shared>),
    Closed,
}

impl Queue {
    pub(super) fn new() -> Self {
        let (sender, receiver) = bounded(QUEUE_BATCHES);
        let gate = Mutex::new(Gate { door: Door::Open, bytes: 0, passing: 0 });
        Self { sender, receiver, events: unbounded(), gate, passable: Condvar::new() }
    }

    /// Waits for room for a batch's bytes; [`Queue::passed`] must follow. An index is returned that
    /// has taken this one's place: the batch belongs there.
    pub(super) fn reserve(&self, bytes: usize) -> Result<Option<Arc<Shared>>> {
        let mut gate = self.gate.lock();
        loop {
            match &gate.door {
                Door::Closed => return Err(closed()),
                Door::Moved(to) => return Ok(Some(Arc::clone(to))),
                Door::Open if gate.bytes == 0 || gate.bytes + bytes <= QUEUE_BYTES => {
                    gate.bytes += bytes;
                    gate.passing += 1;
                    return Ok(None);
                }
                Door::Open | Door::Shut => self.passable.wait(&mut gate),
            }
        }
    }

    /// Waits for room for changes that another index hands on, whatever the door is for batches.
    pub(super) fn reserve_for_changes(&self, bytes: usize) -> Result<()> {
        let mut gate = self.gate.lock();
        while gate.bytes > 0 && gate.bytes + bytes > QUEUE_BYTES {
            if matches!(gate.door, Door::Closed) {
                return Err(closed());
            }
            self.passable.wait(&mut gate);
        }
        gate.bytes += bytes;
        Ok(())
    }

    /// Bytes of batches and of changes in the queue.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.gate.lock().bytes
    }

    /// A batch that was reserved for is in the queue, or will not be.
    pub(super) fn passed(&self) {
        self.gate.lock().passing -= 1;
        self.passable.notify_all();
    }

    pub(super) fn release(&self, bytes: usize) {
        let mut gate = self.gate.lock();
        gate.bytes = gate.bytes.saturating_sub(bytes);
        drop(gate);
        self.passable.notify_all();
    }

    /// Lets no more batches pass; afterwards all that have are in the queue.
    pub(crate) fn shut(&self) {
        let mut gate = self.gate.lock();
        if matches!(gate.door, Door::Open) {
            gate.door = Door::Shut;
        }
        while gate.passing > 0 {
            self.passable.wait(&mut gate);
        }
    }

    /// Lets batches pass again.
    pub(crate) fn open(&self) {
        let mut gate = self.gate.lock();
        if !matches!(gate.door, Door::Closed) {
            gate.door = Door::Open;
        }
        drop(gate);
        self.passable.notify_all();
    }

    /// Sends batches to another index from here on.
    pub(crate) fn move_to(&self, other: &Arc<Shared>) {
        self.gate.lock().door = Door::Moved(Arc::clone(other));
        self.passable.notify_all();
    }

    /// Where batches go by now, if another index has taken this one's place.
    pub(crate) fn moved(&self) -> Option<Arc<Shared>> {
        match &self.gate.lock().door {
            Door::Moved(to) => Some(Arc::clone(to)),
            _ => None,
        }
    }

    /// Nobody waits any more.
    pub(super) fn close(&self) {
        let mut gate = self.gate.lock();
        if !matches!(gate.door, Door::Moved(_)) {
            gate.door = Door::Closed;
        }
        drop(gate);
        self.passable.notify_all();
    }

    pub(super) fn send(&self, message: Message) -> Result<()> {
        self.sender.send(message).map_err(|_| closed())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.receiver.is_empty() && self.events.1.is_empty()
    }
}

/// About what a batch holds in memory: its sources, and as much again for what is read from them.
pub(super) fn held_bytes(batch: &Batch) -> usize {
    2 * batch.ops.iter().map(WriteOp::source_bytes).sum::<usize>()
}

pub(crate) fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the index is closed")
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Index")
            .field("name", &self.identity.name)
            .field("uuid", &self.identity.uuid)
            .field("positions", &*self.positions.borrow())
            .finish_non_exhaustive()
    }
}
