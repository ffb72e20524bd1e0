//! Back-pressure: writers of an index wait while its segments pile up, and are refused past a
//! second limit. Merges that fall behind must slow writes down before they slow down searches.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::limits::Limits;
use crate::error::{Error, ErrorKind, Result};

/// The pressure on one index's writers.
pub(crate) struct Pressure {
    before_wait: usize,
    before_refusal: usize,
    max_wait: Duration,
    /// Guards the counts; writers sleep on `relieved`.
    state: Mutex<State>,
    relieved: Condvar,
}

#[derive(Default)]
struct State {
    /// Segments that merges could still join.
    segments: usize,
    waiting: usize,
    waited: Duration,
    refused: u64,
    closed: bool,
}

/// What back-pressure has done to an index's writers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PressureStats {
    /// Whether writes wait now.
    pub is_throttled: bool,
    /// Writes that wait.
    pub waiting: u64,
    /// How long writes have waited in all, in milliseconds.
    pub throttled_ms: u64,
    /// Writes that were refused.
    pub refused: u64,
}

impl Pressure {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            before_wait: limits.segments_before_wait,
            before_refusal: limits.segments_before_refusal,
            max_wait: limits.max_write_wait,
            state: Mutex::default(),
            relieved: Condvar::new(),
        }
    }

    /// Waits until there are few enough segments. A write of a client is refused where there are
    /// far too many, or it has waited too long; a pipeline, which cannot go on without it, is
    /// only slowed down.
    pub(super) fn admit(&self, refusable: bool) -> Result<()> {
        let mut state = self.state.lock();
        if state.segments <= self.before_wait || state.closed {
            return Ok(());
        }
        let limit = self.before_refusal;
        if refusable && state.segments > limit {
            state.refused += 1;
            let segments = state.segments;
            return Err(Error::new(
                ErrorKind::Full,
                format!(
                    "rejected execution: [{segments}] segments wait to be merged, more than \
                     [engine.segments_before_refusal] of [{limit}]"
                ),
            ));
        }
        let began = Instant::now();
        let mut late = false;
        state.waiting += 1;
        while state.segments > self.before_wait && !state.closed && !late {
            late = self.relieved.wait_until(&mut state, began + self.max_wait).timed_out();
        }
        state.waiting -= 1;
        state.waited += began.elapsed();
        if !late || !refusable || state.segments <= self.before_wait {
            return Ok(());
        }
        state.refused += 1;
        let (segments, ms) = (state.segments, self.max_wait.as_millis());
        Err(Error::new(
            ErrorKind::Full,
            format!(
                "rejected execution: [{segments}] segments have waited to be merged for \
                 [engine.max_write_wait_ms] of [{ms}]"
            ),
        ))
    }

    /// So many segments there are now.
    pub(super) fn set(&self, segments: usize) {
        let mut state = self.state.lock();
        state.segments = segments;
        if segments <= self.before_wait && state.waiting > 0 {
            self.relieved.notify_all();
        }
    }

    /// Nobody waits any more.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.relieved.notify_all();
    }

    pub(crate) fn stats(&self) -> PressureStats {
        let state = self.state.lock();
        PressureStats {
            is_throttled: state.segments > self.before_wait,
            waiting: state.waiting as u64,
            throttled_ms: u64::try_from(state.waited.as_millis()).unwrap_or(u64::MAX),
            refused: state.refused,
        }
    }
}
