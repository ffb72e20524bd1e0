//! What the cache may take, and for how long.

use std::time::Duration;

use egret_aof::log::FsyncPolicy;

use crate::error::Error;

/// The limits of a [`ResultCache`](crate::ResultCache). Each has a sensible default.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// The most that all entries weigh together, their overhead included. 0 stores nothing.
    pub budget_bytes: u64,
    /// How many shards the slots are divided among: a power of two from 16 to 64. Each has an equal
    /// part of the budget.
    pub shards: u16,
    /// The largest entry that is stored: answer, request and overhead. One larger than a quarter of
    /// a shard's budget is refused in any case.
    pub max_entry_bytes: u64,
    /// How long an answer is kept. The generation in its key keeps it right for ever; this only
    /// frees memory. `None` keeps it until it is evicted.
    pub ttl: Option<Duration>,
    /// How much shorter than `ttl` an answer may be kept, in percent, so that answers which were
    /// stored together do not expire together; at most 100.
    pub ttl_jitter_percent: u8,
    /// The most that the entries of one tenant weigh. Each shard grants an equal part of it.
    pub tenant_quota_bytes: Option<u64>,
    /// How many different requests are computed once for all who ask; those beyond are computed for
    /// each who asks.
    pub max_flights: usize,
    /// How many may wait for one request; those beyond are refused.
    pub max_waiters: usize,
    /// How long one who waits for another's computation waits before going on without it.
    pub max_wait: Duration,
    /// When what is written to the log is made durable. Losing some of it loses warmth alone.
    pub fsync: FsyncPolicy,
    /// How many bytes may wait to be written to the log; entries beyond are not written.
    pub max_queued_bytes: usize,
    /// The log is rewritten when it is longer than twice the entries and this.
    pub rewrite_slack_bytes: u64,
    /// How soon a log that failed is tried again; each time twice as late, up to a minute.
    pub log_retry: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            budget_bytes: 256 << 20,
            shards: 16,
            max_entry_bytes: 4 << 20,
            ttl: Some(Duration::from_secs(3600)),
            ttl_jitter_percent: 10,
            tenant_quota_bytes: None,
            max_flights: 4096,
            max_waiters: 10_000,
            max_wait: Duration::from_secs(10),
            fsync: FsyncPolicy::EverySecond,
            max_queued_bytes: 64 << 20,
            rewrite_slack_bytes: 64 << 20,
            log_retry: Duration::from_secs(1),
        }
    }
}

impl Options {
    /// Refuses what makes no sense.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let invalid = |name, value: u64, expected| Err(Error::Option { name, value, expected });
        if !(16..=64).contains(&self.shards) || !self.shards.is_power_of_two() {
            return invalid("shards", self.shards.into(), "16, 32 or 64");
        }
        if self.ttl_jitter_percent > 100 {
            return invalid("ttl_jitter_percent", self.ttl_jitter_percent.into(), "at most 100");
        }
        if self.max_waiters == 0 {
            return invalid("max_waiters", 0, "at least 1");
        }
        Ok(())
    }
}
