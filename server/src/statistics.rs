//! Counters of what the server does, cheap to add to and read at any time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper ends of the latency buckets, in microseconds; each about half as much again as the last.
const BOUNDS_US: [u64; 32] = [
    50, 75, 100, 150, 200, 300, 400, 600, 800, 1_200, 1_600, 2_400, 3_200, 4_800, 6_400, 9_600,
    12_800, 19_200, 25_600, 38_400, 51_200, 76_800, 102_400, 153_600, 204_800, 307_200, 409_600,
    819_200, 1_638_400, 3_276_800, 6_553_600, 13_107_200,
];

/// How often latencies fell into each bucket, and their sum.
#[derive(Debug)]
pub(crate) struct Latencies {
    buckets: [AtomicU64; BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

/// What [`Latencies`] held at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LatencyCounts {
    counts: [u64; BOUNDS_US.len() + 1],
    sum_us: u64,
}

impl Default for Latencies {
    fn default() -> Self {
        Self { buckets: std::array::from_fn(|_| AtomicU64::new(0)), sum_us: AtomicU64::new(0) }
    }
}

impl Latencies {
    pub(crate) fn record(&self, latency: Duration) {
        let microseconds = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_US.partition_point(|bound| *bound < microseconds);
        if let Some(bucket) = self.buckets.get(bucket) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.sum_us.fetch_add(microseconds, Ordering::Relaxed);
    }

    pub(crate) fn counts(&self) -> LatencyCounts {
        LatencyCounts {
            counts: std::array::from_fn(|at| {
                self.buckets.get(at).map_or(0, |bucket| bucket.load(Ordering::Relaxed))
            }),
            sum_us: self.sum_us.load(Ordering::Relaxed),
        }
    }
}

impl LatencyCounts {
    /// How many there are.
    pub(crate) fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Their sum.
    pub(crate) fn sum_seconds(&self) -> f64 {
        seconds(self.sum_us)
    }

    /// What has been added since an earlier moment.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let difference = |now: u64, then: u64| now.saturating_sub(then);
        Self {
            counts: std::array::from_fn(|at| {
                let (now, then) = (self.counts.get(at), earlier.counts.get(at));
                difference(now.copied().unwrap_or(0), then.copied().unwrap_or(0))
            }),
            sum_us: difference(self.sum_us, earlier.sum_us),
        }
    }

    /// The upper end of the bucket that a quantile falls into, in seconds.
    pub(crate) fn quantile(&self, quantile: f64) -> Option<f64> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rank within a count"
        )]
        let rank = ((count as f64 * quantile).ceil() as u64).max(1);
        let mut seen = 0;
        for (bound, count) in BOUNDS_US.iter().zip(&self.counts) {
            seen += count;
            if seen >= rank {
                return Some(seconds(*bound));
            }
        }
        BOUNDS_US.last().map(|bound| seconds(*bound))
    }

    /// Cumulative counts with their upper ends in seconds, as Prometheus counts.
    pub(crate) fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        BOUNDS_US.iter().zip(&self.counts).scan(0, |sum, (bound, count)| {
            *sum += count;
            Some((seconds(*bound), *sum))
        })
    }
}

#[expect(clippy::cast_precision_loss, reason = "microseconds stay far below 2^53")]
fn seconds(microseconds: u64) -> f64 {
    microseconds as f64 / 1e6
}

/// The server's counters.
#[derive(Debug, Default)]
pub(crate) struct Statistics {
    /// Searches and how long they took.
    pub(crate) searches: Latencies,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_buckets() {
        let latencies = Latencies::default();
        assert_eq!(latencies.counts().quantile(0.5), None);
        for _ in 0..90 {
            latencies.record(Duration::from_micros(60));
        }
        let earlier = latencies.counts();
        for _ in 0..10 {
            latencies.record(Duration::from_millis(100));
        }
        let counts = latencies.counts();
        assert_eq!(
            (counts.count(), counts.quantile(0.5), counts.quantile(0.99)),
            (100, Some(75e-6), Some(0.1024))
        );
        assert_eq!(counts.since(&earlier).quantile(0.5), Some(0.1024));
        latencies.record(Duration::from_secs(1_000));
        assert_eq!(latencies.counts().quantile(1.0), Some(13.1072));
        assert_eq!(counts.cumulative().last(), Some((13.1072, 100)));
    }
}
