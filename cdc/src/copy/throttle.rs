//! How fast copies may read, all of a pipeline together.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

/// Less is let stand, and paid with what comes next: a row takes microseconds, and the shortest sleep
/// a millisecond. So much later than asked for a sleep may end without its time being lost.
const SLICE: Duration = Duration::from_millis(10);

/// Shares out bytes over time.
#[derive(Debug)]
pub(crate) struct Throttle {
    /// None: as fast as it goes.
    bytes_per_second: Option<u64>,
    /// When what was read so far is paid for. Held for a look and a note.
    paid: Mutex<Option<Instant>>,
}

impl Throttle {
    /// So many bytes a second; 0 for any number.
    pub(crate) fn new(bytes_per_second: u64) -> Self {
        let bytes_per_second = Some(bytes_per_second).filter(|&bytes| bytes > 0);
        Self { bytes_per_second, paid: Mutex::new(None) }
    }

    /// Waits until what was read before is paid for, but for a slice, and then owes for these bytes.
    /// Time that nobody used is not saved up.
    pub(crate) async fn pay(&self, bytes: usize) {
        let Some(rate) = self.bytes_per_second else { return };
        let until = {
            let mut paid = self.paid.lock();
            let now = Instant::now();
            let until = paid.filter(|&paid| paid + SLICE >= now).unwrap_or(now);
            let nanos = u128::from(bytes as u64) * 1_000_000_000 / u128::from(rate);
            *paid = Some(until + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)));
            (until > now + SLICE).then_some(until)
        };
        if let Some(until) = until {
            sleep_until(until).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bytes_take_their_time() {
        let (throttle, begun) = (Throttle::new(1000), Instant::now());
        for _ in 0..5 {
            throttle.pay(500).await;
        }
        assert_eq!(begun.elapsed(), Duration::from_secs(2), "the last is owed");
        tokio::time::sleep(Duration::from_secs(60)).await;
        let begun = Instant::now();
        throttle.pay(500).await;
        throttle.pay(500).await;
        assert!(begun.elapsed() >= Duration::from_millis(500), "unused time is not saved up");
    }

    #[tokio::test(start_paused = true)]
    async fn rows_that_take_less_than_a_sleep_keep_to_the_rate() {
        let (throttle, begun) = (Throttle::new(1_000_000), Instant::now());
        for _ in 0..10_000 {
            throttle.pay(200).await;
        }
        let took = begun.elapsed();
        let expected = Duration::from_secs(2);
        assert!(took.abs_diff(expected) <= SLICE * 2, "it took {took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn no_rate_is_no_wait() {
        let (free, begun) = (Throttle::new(0), Instant::now());
        free.pay(usize::MAX).await;
        free.pay(usize::MAX).await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}
