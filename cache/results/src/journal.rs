//! Persistence: what the store does is written down in a log, so that a restart finds the cache
//! warm. A log that fails never stops the cache: it goes on in memory, says why, and tries again.
//!
//! One thread owns the log. The store tells it under a shard's lock what was stored, through a
//! bounded queue that is never waited for: where the thread lags behind, entries are not written
//! down and counted as skipped. That loses warmth alone. What may be served after a restart is
//! decided when the log is read, by the generations that the indexes have then.
//!
//! ```text
//! kind 1  stored  a block, as block.rs draws it
//! kind 2  purged  the UUID of an index, 16 bytes
//! ```
//!
//! The folder also holds `secret`: the 192 bytes that requests are hashed with, and their CRC32C.

mod folder;
mod scribe;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;

use bytes::Bytes;
use egret_aof::disk::Disk;
use parking_lot::Mutex;
use uuid::Uuid;

use self::folder::Folder;
pub use self::folder::check;
use self::scribe::Scribe;
use crate::clock::Clock;
use crate::key::Version;
use crate::options::Options;
use crate::store::{Journal, Store};

/// How many notes may wait for the thread, beside the limit on their bytes.
const MAX_QUEUED: usize = 65_536;

/// How the log of a cache is doing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum LogState {
    /// There is none: the cache is in memory alone.
    #[default]
    None,
    /// It is being written.
    Writing,
    /// It cannot be written: the cache is in memory alone until another attempt succeeds.
    Failed {
        /// Why.
        reason: String,
    },
}

/// What the log of a cache says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogStats {
    /// How it is doing.
    pub state: LogState,
    /// The length of its files.
    pub bytes: u64,
    /// Entries and purges that were not written down because the log failed or lagged behind.
    pub skipped: u64,
    /// How often it was rewritten from memory.
    pub rewrites: u64,
    /// How often it failed.
    pub failures: u64,
    /// Entries that were read and kept at opening.
    pub restored: u64,
    /// Entries that were read and not kept at opening: outdated, expired or damaged.
    pub not_restored: u64,
}

/// What the store tells the thread.
#[derive(Debug)]
enum Note {
    Stored(Bytes),
    Purged(Uuid),
    /// The sender is dropped when everything before is synced, or cannot be.
    Flush(Sender<()>),
    Stop,
}

/// The store's end of the queue.
#[derive(Debug)]
struct Queue {
    sender: SyncSender<Note>,
    /// The bytes of the notes that wait, at most `max_bytes`.
    bytes: AtomicUsize,
    max_bytes: usize,
    skipped: AtomicU64,
}

impl Queue {
    fn push(&self, note: Note, bytes: usize) {
        let queued = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if queued + bytes > self.max_bytes || self.sender.try_send(note).is_err() {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.skip();
        }
    }

    /// A note has left the queue.
    fn taken(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// A note is not written down.
    fn skip(&self) {
        self.skipped.fetch_add(1, Ordering::Relaxed);
    }
}

impl Journal for Queue {
    fn stored(&self, block: &Bytes) {
        self.push(Note::Stored(block.clone()), block.len());
    }

    fn purged(&self, index: Uuid) {
        self.push(Note::Purged(index), 0);
    }
}

/// The log's thread. Dropping this writes and syncs what is left, and ends it.
#[derive(Debug)]
pub(crate) struct Keeper {
    queue: Arc<Queue>,
    /// Guards figures alone.
    stats: Arc<Mutex<LogStats>>,
    thread: Option<JoinHandle<()>>,
}

/// Opens the store in a folder with what may still be served of its log: entries all of whose
/// versions are current. Fails never: what cannot be read is not restored, and what cannot be
/// written is said in the statistics.
pub(crate) fn open(
    disk: Arc<dyn Disk>,
    folder: &Path,
    options: &Options,
    clock: Arc<dyn Clock>,
    is_current: &dyn Fn(&[Version]) -> bool,
) -> (Arc<Store>, Keeper) {
    let mut folder = Folder::new(disk, folder, options);
    let mut stats = LogStats::default();
    let mut store = Store::new(options, folder.secret(), clock);
    let log = folder.open_log(|record| scribe::replay(&store, record, is_current, &mut stats));
    let (sender, receiver) = sync_channel(MAX_QUEUED);
    let (bytes, max_bytes) = (AtomicUsize::default(), options.max_queued_bytes);
    let queue = Arc::new(Queue { sender, bytes, max_bytes, skipped: AtomicU64::default() });
    store.set_journal(Arc::clone(&queue) as _);
    let (store, stats) = (Arc::new(store), Arc::new(Mutex::new(stats)));
    let (scribe_queue, scribe_stats) = (Arc::clone(&queue), Arc::clone(&stats));
    let mut scribe = Scribe::new(folder, Arc::clone(&store), scribe_queue, scribe_stats, options);
    scribe.begin(log);
    let spawned = std::thread::Builder::new()
        .name("egret-results".to_owned())
        .spawn(move || scribe.run(&receiver));
    let thread = match spawned {
        Ok(thread) => Some(thread),
        Err(error) => {
            stats.lock().state = LogState::Failed { reason: error.to_string() };
            None
        }
    };
    (store, Keeper { queue, stats, thread })
}

impl Keeper {
    /// What the log says about itself.
    pub(crate) fn stats(&self) -> LogStats {
        let skipped = self.queue.skipped.load(Ordering::Relaxed);
        LogStats { skipped, ..self.stats.lock().clone() }
    }

    /// Waits until everything stored so far is synced, or cannot be. Blocks.
    pub(crate) fn flush(&self) {
        let (sender, receiver) = channel();
        if self.queue.sender.send(Note::Flush(sender)).is_ok() {
            // Nothing is ever sent: this ends when the thread drops its end.
            let _ = receiver.recv();
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let _ = self.queue.sender.send(Note::Stop);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of the result cache's log panicked");
        }
    }
}

#[cfg(test)]
mod tests;
