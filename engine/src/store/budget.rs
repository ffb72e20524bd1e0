//! The memory that the segments under construction of all indexes share.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Past the budget, segments smaller than this are not worth finishing.
const SMALLEST_BYTES: usize = 1 << 20;

/// The budget of an engine.
#[derive(Debug)]
pub(crate) struct Budget {
    bytes: usize,
    used: AtomicUsize,
}

impl Budget {
    pub(crate) fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self { bytes, used: AtomicUsize::new(0) })
    }
}

/// What one writer uses of it.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Share {
    pub(crate) fn of(budget: &Arc<Budget>) -> Self {
        Self { budget: Arc::clone(budget), bytes: 0 }
    }

    pub(super) fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    pub(super) fn set(&mut self, bytes: usize) {
        self.budget.used.fetch_add(bytes, Ordering::Relaxed);
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
        self.bytes = bytes;
    }

    /// What the writer uses.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether the segment under construction must be finished now.
    pub(super) fn is_exceeded(&self) -> bool {
        self.is_tight() && self.bytes > SMALLEST_BYTES
    }

    /// Whether all writers together use more than there is.
    pub(super) fn is_tight(&self) -> bool {
        self.budget.used.load(Ordering::Relaxed) > self.budget.bytes
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0);
    }
}
