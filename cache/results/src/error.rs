//! What can go wrong: hardly anything, since a cache that fails is a cache that misses.

use std::time::Duration;

/// Why a cache cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An option makes no sense.
    #[error("{name} is {value}, expected {expected}")]
    Option {
        /// Its name.
        name: &'static str,
        /// What it was set to.
        value: u64,
        /// What it may be set to.
        expected: &'static str,
    },
}

/// Why a computation failed, told by the computation itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure<E> {
    /// Whoever asks this now fails alike: those who wait get the same error.
    Shared(E),
    /// It concerns this caller alone, as its own deadline does: another who waits takes over.
    Own(E),
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoAnswer<E> {
    /// The computation failed. Nothing of it is stored.
    #[error("{0}")]
    Failed(E),
    /// Too many wait for this request already.
    #[error("{waiters} callers wait for the same request already")]
    Full {
        /// How many.
        waiters: usize,
    },
    /// Others went on computing it for too long.
    #[error("waited {0:?} for others to compute the same request")]
    TimedOut(Duration),
}
