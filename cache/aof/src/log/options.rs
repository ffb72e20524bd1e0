//! How a log behaves.

use std::time::Duration;

/// When appended records are made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FsyncPolicy {
    /// [`Log::commit`](super::Log::commit) returns after a sync.
    #[default]
    Always,
    /// The owner's timer calls [`Log::sync_if_due`](super::Log::sync_if_due), which syncs once a
    /// second: a power cut loses about that much, a killed process nothing that was committed.
    EverySecond,
    /// The system writes when it likes; only whole files are synced, when they are finished.
    No,
}

/// What to do about damage that no crash can have caused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Recovery {
    /// Refuse to open, naming file, offset and record.
    #[default]
    Strict,
    /// Skip it, write repaired files in place of the damaged ones, and report what was lost.
    Repair,
}

/// How a log behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogOptions {
    /// When appended records are made durable.
    pub fsync: FsyncPolicy,
    /// What to do about damage.
    pub recovery: Recovery,
    /// The largest payload that [`Log::append`](super::Log::append) takes. Larger records that are
    /// in the log already are still read.
    pub max_record_bytes: usize,
    /// How many bytes may wait in memory. An append that would go past it first hands them to the
    /// system. One record may be larger than this.
    pub max_buffer_bytes: usize,
    /// How long to wait after a failed rewrite; doubled for each further failure, up to 64 times.
    pub rewrite_backoff: Duration,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            fsync: FsyncPolicy::default(),
            recovery: Recovery::default(),
            max_record_bytes: 128 << 20,
            max_buffer_bytes: 4 << 20,
            rewrite_backoff: Duration::from_secs(1),
        }
    }
}
