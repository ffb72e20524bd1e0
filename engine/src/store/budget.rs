//! The memory that the young segments of all indexes share: those under construction, and those that
//! are finished but not on disk yet.
//!
//! Past the budget the index that holds most of it is told to flush, and the next ones until what is
//! asked for covers what is too much. Past twice the budget writes wait, so that hundreds of indexes
//! take no more than that, and what the batches on their way bring.

use std::cmp::Reverse;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustc_hash::FxHashMap;

use super::shared::{Event, Shared};
use crate::error::{Error, ErrorKind, Result};

/// Past the budget, segments under construction smaller than this are not worth finishing.
const SMALLEST_BYTES: usize = 1 << 20;
/// Writes wait past so many times the budget.
const TIMES_BEFORE_WAIT: usize = 2;
/// A write that waits looks again after this time: a flush that was asked for may have failed.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// The budget of an engine.
pub(crate) struct Budget {
    bytes: usize,
    /// Guards who holds what; writes sleep on `relieved`.
    state: Mutex<State>,
    relieved: Condvar,
}

#[derive(Default)]
struct State {
    /// Of all segments under construction.
    building: usize,
    /// Of all that are finished.
    young: usize,
    most: usize,
    waiting: usize,
    next_key: u64,
    holders: FxHashMap<u64, Holder>,
}

struct Holder {
    /// Whom to ask; nobody yet while the index is opened.
    owner: Weak<Shared>,
    building: usize,
    young: usize,
    /// When it was asked to flush, until it has.
    asked: Option<Instant>,
}

/// What young segments take of an engine's budget.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BudgetStats {
    /// The budget, in bytes.
    pub budget_bytes: usize,
    /// What all indexes use.
    pub used_bytes: usize,
    /// The most that they have used.
    pub most_bytes: usize,
    /// Writes that wait for memory.
    pub waiting: usize,
}

impl Holder {
    fn bytes(&self) -> usize {
        self.building + self.young
    }
}

impl State {
    fn used(&self) -> usize {
        self.building + self.young
    }

    /// Who should flush for what is used to come down to so many bytes; marks them as asked.
    fn ask(&mut self, bytes: usize, now: Instant) -> Vec<Arc<Shared>> {
        let Some(mut excess) = self.used().checked_sub(bytes + 1) else { return Vec::new() };
        let mut others = Vec::new();
        for holder in self.holders.values_mut().filter(|holder| holder.bytes() > 0) {
            match holder.asked {
                Some(asked) if now.duration_since(asked) < LOOK_AGAIN => {
                    excess = excess.saturating_sub(holder.bytes());
                }
                _ => others.push(holder),
            }
        }
        others.sort_by_key(|holder| Reverse(holder.bytes()));
        let mut asked = Vec::new();
        for holder in others {
            if excess == 0 {
                break;
            }
            let Some(owner) = holder.owner.upgrade() else { continue };
            excess = excess.saturating_sub(holder.bytes());
            holder.asked = Some(now);
            asked.push(owner);
        }
        asked
    }
}

impl Budget {
    pub(crate) fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self { bytes, state: Mutex::default(), relieved: Condvar::new() })
    }

    pub(crate) fn stats(&self) -> BudgetStats {
        let state = self.state.lock();
        BudgetStats {
            budget_bytes: self.bytes,
            used_bytes: state.used(),
            most_bytes: state.most,
            waiting: state.waiting,
        }
    }

    /// Asks for flushes where more is used than there is. Whoever calls it holds no lock.
    pub(super) fn relieve(&self) {
        let asked = self.state.lock().ask(self.bytes, Instant::now());
        for owner in asked {
            owner.tell(Event::Flush);
        }
    }

    /// Waits until there is room for a write. One of a client is refused in the end; a pipeline, which
    /// cannot go on without it, is only slowed down.
    pub(super) fn admit(&self, max_wait: Duration, refusable: bool) -> Result<()> {
        let limit = self.bytes.saturating_mul(TIMES_BEFORE_WAIT);
        if self.state.lock().used() <= limit {
            return Ok(());
        }
        let deadline = Instant::now() + max_wait;
        self.state.lock().waiting += 1;
        let mut now = Instant::now();
        let used = loop {
            self.relieve();
            let mut state = self.state.lock();
            if state.used() > limit && now < deadline {
                self.relieved.wait_until(&mut state, deadline.min(now + LOOK_AGAIN));
            }
            now = Instant::now();
            if state.used() <= limit || now >= deadline {
                state.waiting -= 1;
                break state.used();
            }
        };
        if used <= limit || !refusable {
            return Ok(());
        }
        let message = format!(
            "rejected execution: young segments take [{used}] bytes, more than \
             [{TIMES_BEFORE_WAIT}] times [engine.indexing_budget_bytes] of [{}]",
            self.bytes
        );
        Err(Error::new(ErrorKind::Full, message))
    }
}

/// What one writer uses of it.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Arc<Budget>,
    key: u64,
    building: usize,
    young: usize,
}

impl Share {
    pub(crate) fn of(budget: &Arc<Budget>) -> Self {
        let mut state = budget.state.lock();
        let key = state.next_key;
        state.next_key += 1;
        let holder = Holder { owner: Weak::new(), building: 0, young: 0, asked: None };
        state.holders.insert(key, holder);
        drop(state);
        Self { budget: Arc::clone(budget), key, building: 0, young: 0 }
    }

    /// Says who can be asked to give it back.
    pub(super) fn belongs_to(&self, owner: &Arc<Shared>) {
        if let Some(holder) = self.budget.state.lock().holders.get_mut(&self.key) {
            holder.owner = Arc::downgrade(owner);
        }
    }

    pub(super) fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// So much the segments under construction take.
    pub(super) fn set(&mut self, building: usize) {
        self.set_both(building, self.young);
    }

    /// So much the finished segments take that are not on disk.
    pub(super) fn set_young(&mut self, young: usize) {
        self.set_both(self.building, young);
    }

    fn set_both(&mut self, building: usize, young: usize) {
        if (building, young) == (self.building, self.young) {
            return;
        }
        let mut state = self.budget.state.lock();
        state.building = state.building + building - self.building;
        state.young = state.young + young - self.young;
        state.most = state.most.max(state.used());
        if let Some(holder) = state.holders.get_mut(&self.key) {
            (holder.building, holder.young) = (building, young);
            // Less is young after a flush, or after a merge to disk.
            holder.asked = holder.asked.filter(|_| young >= self.young);
        }
        let wakes = state.waiting > 0 && building + young < self.building + self.young;
        drop(state);
        (self.building, self.young) = (building, young);
        if wakes {
            self.budget.relieved.notify_all();
        }
    }

    /// What the segments under construction take.
    pub(super) fn bytes(&self) -> usize {
        self.building
    }

    /// Whether the segment under construction must be finished now.
    pub(super) fn is_exceeded(&self) -> bool {
        self.building > SMALLEST_BYTES && self.budget.state.lock().building > self.budget.bytes
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set_both(0, 0);
        self.budget.state.lock().holders.remove(&self.key);
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.stats().fmt(f)
    }
}
