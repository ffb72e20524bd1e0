//! A histogram of whole numbers, as of latencies in microseconds: log-linear buckets, as `HdrHistogram`
//! has them. Recording is one atomic addition; snapshots can be merged and subtracted without losing
//! anything, so a quantile of a minute or of several machines is as exact as that of a second.
//!
//! Below 32 each number has a bucket. Above, every power of two is divided into 32 buckets of equal
//! width, so the middle of a bucket is within 1/64 of any number in it.

use std::sync::atomic::{AtomicU64, Ordering};

/// The logarithm of the number of buckets in a power of two.
const PRECISION: u32 = 5;
const PER_POWER: usize = 1 << PRECISION;
/// Enough for every `u64`.
const BUCKETS: usize = (64 - PRECISION as usize + 1) * PER_POWER;

/// A histogram that many threads record into.
///
/// ```
/// let latencies = egret_metrics::Histogram::default();
/// for latency_us in 1..=1000 {
///     latencies.record(latency_us);
/// }
/// let p99 = latencies.snapshot().quantile(0.99).unwrap();
/// assert!(p99.abs_diff(990) <= 990 / 64);
/// ```
#[derive(Debug)]
pub struct Histogram {
    buckets: Box<[AtomicU64]>,
    sum: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(), sum: AtomicU64::new(0) }
    }
}

impl Histogram {
    /// Counts a number.
    pub fn record(&self, value: u64) {
        if let Some(bucket) = self.buckets.get(bucket_of(value)) {
            bucket.fetch_add(1, Ordering::Relaxed);
            self.sum.fetch_add(value, Ordering::Relaxed);
        }
    }

    /// What was recorded so far. A number that is recorded meanwhile may be in it or not.
    pub fn snapshot(&self) -> Snapshot {
        let buckets = self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect();
        Snapshot { buckets, sum: self.sum.load(Ordering::Relaxed) }
    }
}

/// What a histogram held at a moment, or gained between two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    buckets: Vec<u64>,
    /// Wraps around, as the histogram's does.
    sum: u64,
}

impl Default for Snapshot {
    fn default() -> Self {
        Self { buckets: vec![0; BUCKETS], sum: 0 }
    }
}

impl Snapshot {
    /// How many numbers.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Their sum, exactly, up to 2^64.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// The number that this part of them, from 0 to 1, is not above; within 1/64 of it. `None` where
    /// there are no numbers.
    pub fn quantile(&self, part: f64) -> Option<u64> {
        let rank = rank(self.count(), part);
        let mut seen = 0;
        let reaches = |&(_, bucket): &(usize, &u64)| {
            seen += bucket;
            seen >= rank
        };
        self.buckets.iter().enumerate().find(reaches).map(|(bucket, _)| middle_of(bucket))
    }

    /// Adds what another has.
    pub fn merge(&mut self, other: &Self) {
        for (bucket, more) in self.buckets.iter_mut().zip(&other.buckets) {
            *bucket += more;
        }
        self.sum = self.sum.wrapping_add(other.sum);
    }

    /// What was recorded after an earlier snapshot of the same histogram.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let pairs = self.buckets.iter().zip(&earlier.buckets);
        Self {
            buckets: pairs.map(|(now, then)| now.saturating_sub(*then)).collect(),
            sum: self.sum.wrapping_sub(earlier.sum),
        }
    }
}

/// Which of `count` sorted numbers, counted from 1, is the first that this part of them is not above.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rank is rounded anyway, and a float that does not fit is clamped"
)]
fn rank(count: u64, part: f64) -> u64 {
    let exact = count as f64 * part.clamp(0.0, 1.0);
    // 0.07 of 100 is a hair above 7, since no float is 0.07, but the seventh is meant.
    let is_whole = (exact - exact.round()).abs() <= exact * f64::EPSILON * 4.0;
    let rank = if is_whole { exact.round() } else { exact.ceil() };
    (rank as u64).clamp(1, count.max(1))
}

fn bucket_of(value: u64) -> usize {
    let shift = (u64::BITS - value.leading_zeros()).saturating_sub(PRECISION + 1);
    let within = usize::try_from(value >> shift).unwrap_or_default();
    shift as usize * PER_POWER + within
}

fn middle_of(bucket: usize) -> u64 {
    let shift = (bucket / PER_POWER).saturating_sub(1);
    let within = (bucket - shift * PER_POWER) as u64;
    (within << shift) + ((1 << shift) >> 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn buckets_follow_each_other_and_hold_their_middle() {
        for bucket in 0..BUCKETS {
            assert_eq!(bucket_of(middle_of(bucket)), bucket);
        }
        let check = |value, bucket| assert_eq!(bucket_of(value), bucket, "{value}");
        check(0, 0);
        check(31, 31);
        check(32, 32);
        check(63, 63);
        check(64, 64);
        check(65, 64);
        check(66, 65);
        check(u64::MAX, BUCKETS - 1);
    }

    #[test]
    fn nothing_recorded_has_no_quantile() {
        assert_eq!(Histogram::default().snapshot().quantile(0.5), None);
        assert_eq!(Snapshot::default(), Histogram::default().snapshot());
    }

    #[test]
    fn threads_lose_nothing() {
        let histogram = Histogram::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|value| histogram.record(value)));
            }
        });
        let snapshot = histogram.snapshot();
        assert_eq!((snapshot.count(), snapshot.sum()), (40_000, 4 * 49_995_000));
    }

    #[test]
    fn a_part_that_no_float_is_has_the_rank_that_is_meant() {
        let check =
            |count, part, expected| assert_eq!(rank(count, part), expected, "{part} of {count}");
        check(100, 0.07, 7);
        check(100, 0.29, 29);
        check(100, 0.071, 8);
        check(10, 0.99, 10);
        check(1, 0.5, 1);
        check(0, 0.5, 1);
        check(10, f64::NAN, 1);
        check(10, 2.0, 10);
        check(u64::MAX, 1.0, u64::MAX);
        for percent in 0..=100_u32 {
            for count in 1..300_u64 {
                let exact = (count * u64::from(percent)).div_ceil(100).max(1);
                check(count, f64::from(percent) / 100.0, exact);
            }
        }
    }

    fn values() -> impl Strategy<Value = Vec<u64>> {
        let value = (0..64_u32, any::<u64>()).prop_map(|(shift, value)| value >> shift);
        prop::collection::vec(value, 1..100)
    }

    fn snapshot_of(values: &[u64]) -> Snapshot {
        let histogram = Histogram::default();
        for &value in values {
            histogram.record(value);
        }
        histogram.snapshot()
    }

    proptest! {
        #[test]
        fn a_quantile_is_near_the_sorted_one(mut values in values(), percent in 0..=100_u32) {
            let found = snapshot_of(&values).quantile(f64::from(percent) / 100.0).unwrap();
            values.sort_unstable();
            let rank = (values.len() * percent as usize).div_ceil(100).max(1);
            let exact = values[rank - 1];
            prop_assert!(found.abs_diff(exact) <= exact / 64, "{found} for {exact}");
        }

        #[test]
        fn merging_and_subtracting_are_exact(one in values(), other in values()) {
            let both = snapshot_of(&[one.clone(), other.clone()].concat());
            let mut merged = snapshot_of(&one);
            merged.merge(&snapshot_of(&other));
            prop_assert_eq!(&merged, &both);
            prop_assert_eq!(both.since(&snapshot_of(&one)), snapshot_of(&other));
        }
    }
}
