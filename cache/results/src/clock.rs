//! Time, so that tests can hold it still.

use std::fmt::Debug;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Two readings of time, since the calendar's clock can be stepped.
pub trait Clock: Send + Sync + Debug + 'static {
    /// Time since an arbitrary start, never going back: what expiry is measured by.
    fn elapsed(&self) -> Duration;
    /// Time since 1970: what expiry is written down by, to hold over a restart.
    fn since_epoch(&self) -> Duration;
}

/// The machine's clocks.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    fn since_epoch(&self) -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }
}

/// Whole milliseconds; as many as fit.
pub(crate) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A clock that tests move.
#[cfg(test)]
#[derive(Debug, Default)]
pub(crate) struct HeldClock(parking_lot::Mutex<(Duration, Duration)>);

#[cfg(test)]
impl HeldClock {
    /// Lets time pass, on both clocks.
    pub(crate) fn advance(&self, duration: Duration) {
        let mut now = self.0.lock();
        now.0 += duration;
        now.1 += duration;
    }

    /// Steps the calendar's clock alone.
    pub(crate) fn step_to(&self, since_epoch: Duration) {
        self.0.lock().1 = since_epoch;
    }
}

#[cfg(test)]
impl Clock for HeldClock {
    fn elapsed(&self) -> Duration {
        self.0.lock().0
    }

    fn since_epoch(&self) -> Duration {
        self.0.lock().1
    }
}
