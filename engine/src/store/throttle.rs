//! How fast large merges may write to disk, all indexes together: what reads and the translog need
//! of the disk must not wait behind them.
//!
//! Only outputs that go straight to disk are held back. Merges of young segments write to memory,
//! and flushes what a crash would lose: neither may wait.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// Shorter waits are saved up: threads do not sleep so precisely.
const SHORTEST_WAIT: Duration = Duration::from_millis(10);
/// A disk that was idle for longer gives no more credit than this.
const MOST_CREDIT: Duration = Duration::from_millis(100);

/// A rate that all merges share.
pub(crate) struct Throttle {
    /// 0: none.
    bytes_per_second: u64,
    /// Until when what has been written takes at this rate, `None` once nothing is held back any
    /// more. Guards only that; writers sleep on `ended`.
    paid_until: Mutex<Option<Instant>>,
    ended: Condvar,
}

impl Throttle {
    pub(crate) fn new(bytes_per_second: u64) -> Arc<Self> {
        let paid_until = Mutex::new((bytes_per_second > 0).then(Instant::now));
        Arc::new(Self { bytes_per_second, paid_until, ended: Condvar::new() })
    }

    /// Lets go of whoever waits: the engine ends.
    pub(crate) fn end(&self) {
        *self.paid_until.lock() = None;
        self.ended.notify_all();
    }

    /// Takes note of bytes that have been written, and waits until they keep to the rate. Says how
    /// long it waited.
    fn wrote(&self, bytes: usize) -> Duration {
        let mut paid_until = self.paid_until.lock();
        let began = Instant::now();
        let Some(paid) = &mut *paid_until else { return Duration::ZERO };
        let Some(wait) = charge(paid, bytes, self.bytes_per_second, began) else {
            return Duration::ZERO;
        };
        let until = began + wait;
        while paid_until.is_some() && !self.ended.wait_until(&mut paid_until, until).timed_out() {}
        began.elapsed()
    }
}

/// Moves on the time until which is paid; how long to wait, if that is worth it.
fn charge(paid: &mut Instant, bytes: usize, rate: u64, now: Instant) -> Option<Duration> {
    let nanos = (bytes as u128 * 1_000_000_000).checked_div(u128::from(rate))?;
    let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
    if let Some(earliest) = now.checked_sub(MOST_CREDIT) {
        *paid = (*paid).max(earliest);
    }
    *paid += cost;
    let wait = paid.saturating_duration_since(now);
    (wait >= SHORTEST_WAIT).then_some(wait)
}

/// The pace of one merge.
#[derive(Debug)]
pub(crate) struct Pace {
    throttle: Arc<Throttle>,
    waited_ns: AtomicU64,
}

impl Pace {
    pub(crate) fn new(throttle: &Arc<Throttle>) -> Arc<Self> {
        Arc::new(Self { throttle: Arc::clone(throttle), waited_ns: AtomicU64::new(0) })
    }

    /// Waits after bytes were written, where that is too fast.
    pub(super) fn wrote(&self, bytes: usize) {
        let waited = self.throttle.wrote(bytes);
        let nanos = u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX);
        self.waited_ns.fetch_add(nanos, Ordering::Relaxed);
    }

    /// How long it has waited.
    pub(super) fn waited(&self) -> Duration {
        Duration::from_nanos(self.waited_ns.load(Ordering::Relaxed))
    }
}

impl fmt::Debug for Throttle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Throttle({} bytes a second)", self.bytes_per_second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_keep_to_the_rate() {
        let start = Instant::now() + Duration::from_secs(3_600);
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut paid = start;
        let mut check = |bytes: usize, now: u64, expected: Option<u64>| {
            let wait = charge(&mut paid, bytes, 1_000_000, at(now));
            assert_eq!(wait, expected.map(Duration::from_millis), "{bytes} bytes at {now}");
        };
        // Small writes save up to a wait that is worth it.
        check(9_000, 0, None);
        check(2_000, 0, Some(11));
        check(1_000_000, 11, Some(1_000));
        check(0, 1_005, None);
        // A disk that was idle has a tenth of a second of credit and no more.
        check(90_000, 60_000, None);
        check(30_000, 60_000, Some(20));
    }

    #[test]
    fn nothing_waits_without_a_rate_or_after_the_end() {
        let free = Throttle::new(0);
        assert_eq!(free.wrote(usize::MAX), Duration::ZERO);
        let slow = Throttle::new(1);
        let pace = Pace::new(&slow);
        let writing = std::thread::spawn(move || {
            pace.wrote(1 << 40);
            pace.waited()
        });
        // Whether the other thread waits already or comes later: it ends.
        slow.end();
        writing.join().unwrap();
        assert_eq!(slow.wrote(1 << 40), Duration::ZERO);
    }
}
