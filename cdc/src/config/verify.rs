//! How a pipeline proves that its indexes are what their tables say: `[pipelines.verify]`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The verifier of a pipeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VerifyConfig {
    /// Whether it goes round by itself. On request it does either way.
    pub enabled: bool,
    /// Whether a round that it begins by itself repairs what has drifted.
    pub repair: bool,
    /// Rows and documents that it looks at a second; 0 for as many as it can.
    pub rows_per_second: u64,
    /// Bytes of rows that it reads a second; 0 for as many as it can.
    pub bytes_per_second: u64,
    /// Rows that one statement reads at most. Of large rows it reads fewer.
    pub range_rows: usize,
    /// The pause after a round, before it begins another by itself, in milliseconds.
    pub pause_ms: u64,
    /// How long an index may take to show what a range was read with, in milliseconds. Past it the
    /// range is read again later.
    pub wait_ms: u64,
    /// How long one of its statements may take, in milliseconds; a smaller `statement_timeout` of the
    /// role or the database counts too.
    pub statement_timeout_ms: u64,
    /// Differences that are listed; of more, the older ones are only counted.
    pub max_differences: usize,
    /// Ranges of a table that are told apart; of more, neighbours are told of together.
    pub max_ranges: usize,
}

impl Default for VerifyConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            repair: true,
            rows_per_second: 2_000,
            bytes_per_second: 4 << 20,
            range_rows: 1_000,
            pause_ms: 3_600_000,
            wait_ms: 60_000,
            statement_timeout_ms: 30_000,
            max_differences: 1_000,
            max_ranges: 128,
        }
    }
}

impl VerifyConfig {
    /// Options that must be above 0.
    pub(super) fn positive(&self) -> [(&'static str, u64); 6] {
        [
            ("verify.range_rows", self.range_rows as u64),
            ("verify.pause_ms", self.pause_ms),
            ("verify.wait_ms", self.wait_ms),
            ("verify.statement_timeout_ms", self.statement_timeout_ms),
            ("verify.max_differences", self.max_differences as u64),
            ("verify.max_ranges", self.max_ranges as u64),
        ]
    }

    pub(crate) fn pause(&self) -> Duration {
        Duration::from_millis(self.pause_ms)
    }

    pub(crate) fn wait(&self) -> Duration {
        Duration::from_millis(self.wait_ms)
    }

    pub(crate) fn statement_timeout(&self) -> Duration {
        Duration::from_millis(self.statement_timeout_ms)
    }
}
