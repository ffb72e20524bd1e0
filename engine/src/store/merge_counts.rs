//! What the merges of an index do and have done, since it was opened.

use std::time::Duration;

use parking_lot::Mutex;

/// Counts of merges, of those that run and those that have ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MergeStats {
    /// Merges that run.
    pub current: u64,
    /// Documents in their inputs.
    pub current_docs: u64,
    /// Bytes of their inputs.
    pub current_bytes: u64,
    /// Merges that have ended, successful or not.
    pub total: u64,
    /// Documents in their inputs.
    pub total_docs: u64,
    /// Bytes of their inputs.
    pub total_bytes: u64,
    /// How long they took, in milliseconds.
    pub total_ms: u64,
    /// Of that, how long they waited to keep to `max_merge_bytes_per_second`.
    pub throttled_ms: u64,
}

/// The counts, shared between the writer and merges.
#[derive(Debug, Default)]
pub(crate) struct MergeCounts {
    /// Held to add or copy.
    stats: Mutex<MergeStats>,
}

/// A merge's inputs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Inputs {
    pub(super) docs: u64,
    pub(super) bytes: u64,
}

impl MergeCounts {
    pub(crate) fn stats(&self) -> MergeStats {
        *self.stats.lock()
    }

    pub(super) fn began(&self, inputs: Inputs) {
        let mut stats = self.stats.lock();
        stats.current += 1;
        stats.current_docs += inputs.docs;
        stats.current_bytes += inputs.bytes;
    }

    /// A merge that never ran.
    pub(super) fn withdrew(&self, inputs: Inputs) {
        let mut stats = self.stats.lock();
        stats.current -= 1;
        stats.current_docs -= inputs.docs;
        stats.current_bytes -= inputs.bytes;
    }

    pub(super) fn ended(&self, inputs: Inputs, took: Duration, throttled: Duration) {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.withdrew(inputs);
        let mut stats = self.stats.lock();
        stats.total += 1;
        stats.total_docs += inputs.docs;
        stats.total_bytes += inputs.bytes;
        stats.total_ms += ms(took);
        stats.throttled_ms += ms(throttled);
    }
}
