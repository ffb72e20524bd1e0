//! What the store may take, and for how long.

use std::time::Duration;

use egret_aof::log::FsyncPolicy;

use crate::error::Error;
use crate::gorilla::CHUNK_SECONDS;

/// The limits of a [`Metrics`](crate::Metrics) store. Each has a sensible default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// How long samples are kept. They go two hours at a time, when the last of these is so old.
    pub retention: Duration,
    /// How many series may have samples within the same two hours; those beyond are refused.
    pub max_series: usize,
    /// The most points that a query makes of one series.
    pub max_points: u64,
    /// The most series that a query reads.
    pub max_query_series: usize,
    /// When samples are made durable.
    pub fsync: FsyncPolicy,
    /// The log is rewritten when it is longer than twice the samples in it and this.
    pub rewrite_slack_bytes: u64,
    /// How soon a disk that failed is tried again; each time twice as late, up to a minute.
    pub retry: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            retention: Duration::from_secs(7 * 86_400),
            max_series: 10_000,
            max_points: 11_000,
            max_query_series: 1_000,
            fsync: FsyncPolicy::EverySecond,
            rewrite_slack_bytes: 64 << 20,
            retry: Duration::from_secs(1),
        }
    }
}

impl Options {
    /// Refuses what makes no sense.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.retention_seconds() < CHUNK_SECONDS {
            let message = format!("retention is {:?}, expected at least two hours", self.retention);
            return Err(Error::invalid(message));
        }
        Ok(())
    }

    pub(crate) fn retention_seconds(&self) -> i64 {
        i64::try_from(self.retention.as_secs()).unwrap_or(i64::MAX)
    }
}
