//! Counters of what the server does, cheap to add to and read at any time.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use egret_metrics::Histogram;

/// The server's counters.
#[derive(Debug, Default)]
pub(crate) struct Statistics {
    /// How long searches took, in microseconds.
    pub(crate) search_us: Histogram,
    /// Searches that failed.
    pub(crate) search_failures: AtomicU64,
    /// Operations that document writes asked for.
    pub(crate) write_operations: AtomicU64,
    /// Of these, those that failed.
    pub(crate) write_failures: AtomicU64,
    /// Answers that came from the result cache.
    pub(crate) cache_hits: AtomicU64,
    /// Answers that the engine computed for the cache.
    pub(crate) cache_misses: AtomicU64,
}

impl Statistics {
    /// Counts a search.
    pub(crate) fn searched(&self, took: Duration) {
        self.search_us.record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }
}

/// Microseconds in seconds.
#[expect(clippy::cast_precision_loss, reason = "statistics for people")]
pub(crate) fn seconds(microseconds: u64) -> f64 {
    microseconds as f64 / 1e6
}
