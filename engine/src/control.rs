//! What a search is held to while it runs: whether it is to stop, and how much memory it may take.
//!
//! A search runs on one thread, and its [`Control`] is known to that thread rather than handed down:
//! part of the work lies below tantivy, whose calls carry nothing of ours. Work without a control,
//! as in tests, is never cancelled and takes what it wants.
//!
//! It counts what grows with a request (buckets, hits, their sources), not what a query needs per
//! segment, which the size of the segment bounds.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use tantivy::TantivyError;

use crate::error::{Error, ErrorKind, Result};

/// A search takes from what all share in steps of so much, so that they seldom meet there.
const STEP_BYTES: u64 = 64 << 10;

/// Between looks at whether to stop, so many terms or values are gone through.
const TICKS: u32 = 1024;

/// The memory that all searches share, and how much of it one may take.
#[derive(Debug)]
pub struct Breaker {
    limit_bytes: u64,
    request_limit_bytes: u64,
    taken: AtomicU64,
    tripped: AtomicU64,
}

impl Breaker {
    /// Nothing is taken yet.
    pub fn new(limit_bytes: u64, request_limit_bytes: u64) -> Arc<Self> {
        let (taken, tripped) = (AtomicU64::new(0), AtomicU64::new(0));
        Arc::new(Self { limit_bytes, request_limit_bytes, taken, tripped })
    }

    /// The control of one more search.
    pub fn control(self: &Arc<Self>) -> Arc<Control> {
        let breaker = Arc::clone(self);
        let (taken, reserved) = (AtomicU64::new(0), AtomicU64::new(0));
        Arc::new(Control { breaker, cancelled: AtomicBool::new(false), taken, reserved })
    }

    /// Bytes that running searches have taken.
    pub fn taken_bytes(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// How many searches were refused memory.
    pub fn tripped(&self) -> u64 {
        self.tripped.load(Ordering::Relaxed)
    }

    fn refuse(&self, wanted: u64, limit: u64, transient: bool) -> Error {
        self.tripped.fetch_add(1, Ordering::Relaxed);
        let (breaker, setting) = if transient {
            ("parent", "search.max_memory_bytes")
        } else {
            ("request", "search.max_request_memory_bytes")
        };
        Error::new(
            ErrorKind::CircuitBreaking { wanted, limit, transient },
            format!(
                "[{breaker}] Data too large, data for [search] would be [{wanted}b], which is \
                 larger than the limit of [{limit}b]. This limit can be set by changing the \
                 [{setting}] setting."
            ),
        )
    }
}

/// The control of one search. What it has taken is given back when it is dropped.
#[derive(Debug)]
pub struct Control {
    breaker: Arc<Breaker>,
    cancelled: AtomicBool,
    /// By this search.
    taken: AtomicU64,
    /// From what all share.
    reserved: AtomicU64,
}

impl Control {
    /// Asks the search to stop; it ends with [`ErrorKind::Cancelled`] within milliseconds.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// Whether it was asked to stop.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Runs a search on this thread under this control.
    pub fn run<T>(self: &Arc<Self>, search: impl FnOnce() -> T) -> T {
        let before = CURRENT.with(|current| current.control.replace(Some(Arc::clone(self))));
        let _restore = Restore(before);
        search()
    }

    /// Takes memory; an error where that is too much.
    pub fn take(&self, bytes: u64) -> Result<()> {
        let breaker = &self.breaker;
        let taken = self.taken.load(Ordering::Relaxed).saturating_add(bytes);
        if taken > breaker.request_limit_bytes {
            return Err(breaker.refuse(taken, breaker.request_limit_bytes, false));
        }
        let reserved = self.reserved.load(Ordering::Relaxed);
        if taken > reserved {
            let more = (taken - reserved).max(STEP_BYTES);
            let all = breaker.taken.fetch_add(more, Ordering::Relaxed).saturating_add(more);
            if all > breaker.limit_bytes {
                breaker.taken.fetch_sub(more, Ordering::Relaxed);
                return Err(breaker.refuse(all, breaker.limit_bytes, true));
            }
            self.reserved.store(reserved + more, Ordering::Relaxed);
        }
        self.taken.store(taken, Ordering::Relaxed);
        Ok(())
    }

    fn give_back(&self, bytes: u64) {
        let taken = self.taken.load(Ordering::Relaxed);
        self.taken.store(taken.saturating_sub(bytes), Ordering::Relaxed);
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.breaker.taken.fetch_sub(*self.reserved.get_mut(), Ordering::Relaxed);
    }
}

/// What a thread is at.
struct Current {
    control: RefCell<Option<Arc<Control>>>,
    deadline: Cell<Option<Instant>>,
}

thread_local! {
    static CURRENT: Current =
        const { Current { control: RefCell::new(None), deadline: Cell::new(None) } };
}

/// Puts back what a thread was at before.
struct Restore(Option<Arc<Control>>);

impl Drop for Restore {
    fn drop(&mut self) {
        CURRENT.with(|current| current.control.replace(self.0.take()));
    }
}

/// Why a search is to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// It was asked to.
    Cancelled,
    /// Its time is over.
    Late,
}

impl std::fmt::Display for Stop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Cancelled => "task cancelled",
            Self::Late => "the search's time is over",
        })
    }
}

impl std::error::Error for Stop {}

impl From<Stop> for Error {
    fn from(stop: Stop) -> Self {
        let kind = match stop {
            Stop::Cancelled => ErrorKind::Cancelled,
            Stop::Late => ErrorKind::Timeout,
        };
        Self::new(kind, stop.to_string())
    }
}

/// Out of calls that tantivy makes; comes back as what it was.
impl From<Stop> for TantivyError {
    fn from(stop: Stop) -> Self {
        Self::IoError(Arc::new(std::io::Error::other(stop)))
    }
}

/// The stop that came through tantivy.
pub(crate) fn stop_in(error: &TantivyError) -> Option<Stop> {
    let TantivyError::IoError(error) = error else { return None };
    error.get_ref()?.downcast_ref().copied()
}

/// An error where the search was asked to stop.
pub(crate) fn go_on() -> Result<(), Stop> {
    let cancelled = CURRENT.with(|current| {
        current.control.borrow().as_ref().is_some_and(|control| control.is_cancelled())
    });
    if cancelled { Err(Stop::Cancelled) } else { Ok(()) }
}

/// An error where the search was asked to stop, or its time is over.
pub(crate) fn in_time() -> Result<(), Stop> {
    go_on()?;
    let deadline = CURRENT.with(|current| current.deadline.get());
    if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
        return Err(Stop::Late);
    }
    Ok(())
}

/// Takes memory for the search of this thread.
pub(crate) fn take(bytes: usize) -> Result<()> {
    CURRENT.with(|current| match current.control.borrow().as_ref() {
        Some(control) => control.take(bytes as u64),
        None => Ok(()),
    })
}

/// Gives back what was taken for a while.
pub(crate) fn give_back(bytes: usize) {
    CURRENT.with(|current| {
        if let Some(control) = current.control.borrow().as_ref() {
            control.give_back(bytes as u64);
        }
    });
}

/// Makes room for a list's element at `place`, with what stands there until it is set.
pub(crate) fn reach<T>(list: &mut Vec<T>, place: usize, empty: impl FnMut() -> T) -> Result<()> {
    if let Some(more) = (place + 1).checked_sub(list.len()).filter(|more| *more > 0) {
        take(more * size_of::<T>())?;
        list.resize_with(place + 1, empty);
    }
    Ok(())
}

/// A deadline of this thread's work, until it is dropped.
#[derive(Debug)]
pub(crate) struct Deadline(Option<Instant>);

impl Deadline {
    /// From now on [`in_time`] looks at it.
    pub(crate) fn set(deadline: Option<Instant>) -> Self {
        Self(CURRENT.with(|current| current.deadline.replace(deadline)))
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        CURRENT.with(|current| current.deadline.set(self.0));
    }
}

/// A look at whether to stop now and then, for loops whose steps are short.
#[derive(Debug, Default)]
pub(crate) struct Ticks(u32);

impl Ticks {
    /// One step.
    pub(crate) fn tick(&mut self) -> Result<(), Stop> {
        self.0 = self.0.wrapping_add(1);
        if self.0.is_multiple_of(TICKS) { in_time() } else { Ok(()) }
    }

    /// One step of work that is done to its end also when the time is over.
    pub(crate) fn go_on(&mut self) -> Result<(), Stop> {
        self.0 = self.0.wrapping_add(1);
        if self.0.is_multiple_of(TICKS) { go_on() } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded_for_one_and_over_all_and_given_back() {
        let breaker = Breaker::new(3 * STEP_BYTES, 2 * STEP_BYTES);
        let (one, two) = (breaker.control(), breaker.control());
        one.run(|| take(10)).unwrap();
        assert_eq!(breaker.taken_bytes(), STEP_BYTES);
        one.take(2 * STEP_BYTES - 10).unwrap();
        let refused = |error: Error| error.kind();
        let (wanted, limit) = (2 * STEP_BYTES + 1, 2 * STEP_BYTES);
        let kind = ErrorKind::CircuitBreaking { wanted, limit, transient: false };
        assert_eq!(refused(one.take(1).unwrap_err()), kind);
        two.take(STEP_BYTES - 5).unwrap();
        let (wanted, limit) = (4 * STEP_BYTES, 3 * STEP_BYTES);
        let kind = ErrorKind::CircuitBreaking { wanted, limit, transient: true };
        assert_eq!(refused(two.take(6).unwrap_err()), kind);
        two.run(|| give_back(10));
        two.take(15).unwrap();
        assert_eq!(breaker.tripped(), 2);
        drop((one, two));
        assert_eq!(breaker.taken_bytes(), 0);
        // Without a control there is no limit.
        take(usize::MAX).unwrap();
    }

    #[test]
    fn who_is_to_stop_is_told_also_through_tantivy() {
        let control = Breaker::new(0, 0).control();
        control.run(|| {
            assert_eq!(go_on(), Ok(()));
            control.cancel();
            assert_eq!(go_on(), Err(Stop::Cancelled));
            let error = Error::from(TantivyError::from(Stop::Cancelled));
            assert_eq!(error.kind(), ErrorKind::Cancelled);
        });
        assert_eq!(go_on(), Ok(()));
        {
            let _deadline = Deadline::set(Some(Instant::now()));
            assert_eq!(in_time(), Err(Stop::Late));
            let mut ticks = Ticks::default();
            let stopped = (0..TICKS).find_map(|_| ticks.tick().err());
            assert_eq!(stopped, Some(Stop::Late));
        }
        assert_eq!(in_time(), Ok(()));
    }
}
