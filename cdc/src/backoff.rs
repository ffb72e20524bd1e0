//! Pauses between attempts: exponential, with jitter, so that a database that comes back is not met
//! by everyone at once.

use std::time::Duration;

use rand::Rng;

/// The pauses of one series of failures.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    first: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    /// Pauses from a hundredth of `max` up to `max`.
    pub(crate) fn new(max: Duration) -> Self {
        let first = (max / 100).max(Duration::from_millis(1));
        Self { first, max, next: first }
    }

    /// After a success the next pause is short again.
    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }

    /// The next pause: between a half and the whole of a time that doubles.
    pub(crate) fn pause(&mut self) -> Duration {
        let pause = self.next.mul_f64(rand::rng().random_range(0.5..=1.0));
        self.next = self.next.saturating_mul(2).min(self.max);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_its_limit() {
        let mut backoff = Backoff::new(Duration::from_secs(1));
        let mut expected = Duration::from_millis(10);
        for _ in 0..12 {
            let pause = backoff.pause();
            assert!(pause >= expected / 2 && pause <= expected, "{pause:?} {expected:?}");
            expected = (expected * 2).min(Duration::from_secs(1));
        }
        backoff.reset();
        assert!(backoff.pause() <= Duration::from_millis(10));
    }
}
