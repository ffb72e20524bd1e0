//! What has been done with an index since it was opened, counted where it happens: cheap enough for
//! every operation, and read at any time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::batch::{Applied, OpResult};
use crate::error::Result;

/// How often something was done, and how long it took in all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timed {
    /// How often.
    pub count: u64,
    /// How long, in nanoseconds.
    pub nanos: u64,
}

/// Counts since an index was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ActivityStats {
    /// Operations that put a document, or a row that documents are composed from, and the time for
    /// all operations: a batch's are applied together.
    pub indexed: Timed,
    /// Operations that removed one, or found none to remove.
    pub deleted: u64,
    /// Operations that changed nothing.
    pub unchanged: u64,
    /// Operations that were rejected.
    pub rejected: u64,
    /// Publications.
    pub published: Timed,
    /// Flushes that succeeded.
    pub flushed: Timed,
    /// Queries of searches; an answer from a cache needs none.
    pub queried: Timed,
    /// Searches whose hits were read; over several indexes their time is shared out by hits.
    pub fetched: Timed,
    /// Reads by id that found a document,
    pub found: Timed,
    /// and that found none.
    pub missing: Timed,
}

/// The counters of an index.
#[derive(Debug, Default)]
pub struct Activity {
    indexed: Timer,
    deleted: AtomicU64,
    unchanged: AtomicU64,
    rejected: AtomicU64,
    pub(crate) published: Timer,
    pub(crate) flushed: Timer,
    pub(crate) queried: Timer,
    pub(crate) fetched: Timer,
    pub(crate) found: Timer,
    pub(crate) missing: Timer,
}

/// Counts what takes time.
#[derive(Debug, Default)]
pub(crate) struct Timer {
    count: AtomicU64,
    nanos: AtomicU64,
}

impl Timer {
    /// It was done once more.
    pub(crate) fn add(&self, took: Duration) {
        self.add_all(1, took);
    }

    fn add_all(&self, count: u64, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.count.fetch_add(count, Ordering::Relaxed);
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    fn read(&self) -> Timed {
        let (count, nanos) = (&self.count, &self.nanos);
        Timed { count: count.load(Ordering::Relaxed), nanos: nanos.load(Ordering::Relaxed) }
    }
}

impl Activity {
    /// What came of operations that were applied together.
    pub(crate) fn applied(&self, results: &[Result<Applied>], took: Duration) {
        let (mut indexed, mut deleted, mut unchanged, mut rejected) = (0, 0, 0, 0);
        for result in results {
            let counter = match result.as_ref().map(|applied| applied.result) {
                Ok(OpResult::Created | OpResult::Updated) => &mut indexed,
                Ok(OpResult::Deleted | OpResult::NotFound) => &mut deleted,
                Ok(OpResult::Noop) => &mut unchanged,
                Err(_) => &mut rejected,
            };
            *counter += 1;
        }
        self.indexed.add_all(indexed, took);
        self.deleted.fetch_add(deleted, Ordering::Relaxed);
        self.unchanged.fetch_add(unchanged, Ordering::Relaxed);
        self.rejected.fetch_add(rejected, Ordering::Relaxed);
    }

    pub(crate) fn stats(&self) -> ActivityStats {
        ActivityStats {
            indexed: self.indexed.read(),
            deleted: self.deleted.load(Ordering::Relaxed),
            unchanged: self.unchanged.load(Ordering::Relaxed),
            rejected: self.rejected.load(Ordering::Relaxed),
            published: self.published.read(),
            flushed: self.flushed.read(),
            queried: self.queried.read(),
            fetched: self.fetched.read(),
            found: self.found.read(),
            missing: self.missing.read(),
        }
    }
}
