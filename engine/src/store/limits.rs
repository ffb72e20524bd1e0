//! The engine's limits, each with a name in the configuration.

use std::time::Duration;

/// What bounds the work on all indexes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Merges of young segments at once.
    pub max_small_merges: usize,
    /// Merges of large segments at once.
    pub max_large_merges: usize,
    /// Bytes a second that large merges may write, all together; 0: as fast as they can.
    pub max_merge_bytes_per_second: u64,
    /// An index's segments that wait to be merged; past it writes to it wait,
    pub segments_before_wait: usize,
    /// and past this are refused.
    pub segments_before_refusal: usize,
    /// Writers that have a thread at once.
    pub max_open_writers: usize,
    /// An index is flushed so long after its first change that is not,
    pub flush_age: Duration,
    /// one that follows a pipeline after this: until then PostgreSQL keeps its log.
    pub followed_flush_age: Duration,
    /// It is flushed earlier with more operations than this that are not: they are what a start after a
    /// crash has to replay. For bytes there is `index.translog.flush_threshold_size`.
    pub flush_operations: u64,
    /// And with more bytes of finished segments than this in memory alone.
    pub flush_young_bytes: u64,
    /// How long a write waits at most, for merges, for memory, or for its writer to have a thread.
    pub max_write_wait: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_small_merges: 1,
            max_large_merges: 1,
            max_merge_bytes_per_second: 200 << 20,
            segments_before_wait: 100,
            segments_before_refusal: 300,
            max_open_writers: 32,
            flush_age: Duration::from_secs(30),
            followed_flush_age: Duration::from_secs(5),
            flush_operations: 1_000_000,
            flush_young_bytes: 64 << 20,
            max_write_wait: Duration::from_secs(30),
        }
    }
}
