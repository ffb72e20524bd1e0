//! Which writers have a thread: a bounded number at once, however many indexes there are.
//!
//! A batch for an index whose writer has none waits here for its turn, first come, first served,
//! before it is in any queue. Meanwhile those writers leave that have been idle longest: they flush
//! and give their threads back. What others wait for does not wait: what one writer hands on to
//! another, what flushes and merges tell, what is asked of an index by hand. Such a message begins a
//! thread at once, past the limit where need be, and that writer leaves as soon as it is done.
//!
//! Invariant: nobody waits here who has a thread of a writer, or on whom one waits.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::limits::Limits;
use super::shared::{Event, Shared};
use crate::error::{Error, ErrorKind, Result};

/// One in so many leaves ahead of need, while batches wait.
const AHEAD: usize = 8;
/// Where none has left within this time, a further one is asked to.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The threads of all writers of an engine.
pub(crate) struct Writers {
    most: usize,
    max_wait: Duration,
    since: Instant,
    /// Guards who has a thread and who waits for one; those sleep on `freed`. Nobody is told anything
    /// under it.
    state: Mutex<State>,
    freed: Condvar,
}

#[derive(Default)]
struct State {
    open: Vec<Open>,
    /// Turns that were given and not yet used.
    turns: usize,
    line: VecDeque<u64>,
    /// Of those in line and of threads.
    next_key: u64,
    most_open: usize,
    asked: u64,
    refused: u64,
    waited: Duration,
}

struct Open {
    key: u64,
    writer: Weak<Shared>,
    /// Whether it has been asked to leave.
    leaves: bool,
}

/// A writer's thread as others see it.
#[derive(Default)]
pub(super) struct Presence {
    running: AtomicBool,
    /// When it was last given something to do, in milliseconds.
    used_ms: AtomicU64,
}

/// The writers of an engine that have threads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WriterStats {
    /// How many there may be.
    pub max_open: usize,
    /// How many there are.
    pub open: usize,
    /// The most that there have been at once.
    pub most_open: usize,
    /// Batches that wait for their turn.
    pub waiting: usize,
    /// How long batches have waited in all, in milliseconds.
    pub waited_ms: u64,
    /// Writers that were asked to leave for others.
    pub asked: u64,
    /// Batches that were refused.
    pub refused: u64,
}

/// A batch may go to its writer, which may begin its thread for it. Dropped once it has; empty where it
/// need not, or could not wait any longer.
pub(super) struct Turn(Option<Arc<Writers>>);

/// A writer has its thread. Dropped when that ends.
pub(super) struct Thread {
    writers: Arc<Writers>,
    key: u64,
    /// Whether there are more than there may be.
    pub(super) is_surplus: bool,
}

impl Presence {
    pub(super) fn is_running(&self) -> bool {
        self.running.load(Ordering::Acquire)
    }

    pub(super) fn set_running(&self, running: bool) {
        self.running.store(running, Ordering::Release);
    }
}

impl State {
    fn key(&mut self) -> u64 {
        self.next_key += 1;
        self.next_key
    }

    /// So many of those that have been idle longest, marked as asked to leave.
    fn idlest(&mut self, count: usize) -> Vec<Arc<Shared>> {
        let idle = self.open.iter_mut().filter(|open| !open.leaves);
        let idle = idle.filter_map(|open| Some((open.writer.upgrade()?, open)));
        let mut idle: Vec<_> = idle.filter(|(writer, _)| writer.queue.is_empty()).collect();
        idle.sort_by_key(|(writer, _)| writer.presence.used_ms.load(Ordering::Relaxed));
        let chosen = idle.into_iter().take(count).map(|(writer, open)| {
            open.leaves = true;
            writer
        });
        let chosen: Vec<_> = chosen.collect();
        self.asked += chosen.len() as u64;
        chosen
    }
}

impl Writers {
    pub(crate) fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            most: limits.max_open_writers.max(1),
            max_wait: limits.max_write_wait,
            since: Instant::now(),
            state: Mutex::default(),
            freed: Condvar::new(),
        })
    }

    pub(crate) fn stats(&self) -> WriterStats {
        let state = self.state.lock();
        WriterStats {
            max_open: self.most,
            open: state.open.len(),
            most_open: state.most_open,
            waiting: state.line.len(),
            waited_ms: u64::try_from(state.waited.as_millis()).unwrap_or(u64::MAX),
            asked: state.asked,
            refused: state.refused,
        }
    }

    /// Takes note that a writer has something to do.
    pub(super) fn note_use(&self, writer: &Shared) {
        let now = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        writer.presence.used_ms.store(now, Ordering::Relaxed);
    }

    /// Waits for the turn of a batch. In the end a batch of a client is refused, and that of a
    /// pipeline let through.
    pub(super) fn turn(self: &Arc<Self>, writer: &Shared, refusable: bool) -> Result<Turn> {
        if writer.presence.is_running() {
            return Ok(Turn(None));
        }
        let began = Instant::now();
        let mut state = self.state.lock();
        let ticket = state.key();
        state.line.push_back(ticket);
        let turn = loop {
            if let Some(turn) = self.turn_now(&mut state, writer, ticket) {
                break Ok(turn);
            }
            if began.elapsed() >= self.max_wait {
                break self.turn_at_last(&mut state, refusable);
            }
            self.ask_and_wait(&mut state, began + self.max_wait);
        };
        state.line.retain(|other| *other != ticket);
        state.waited += began.elapsed();
        drop(state);
        self.freed.notify_all();
        turn
    }

    fn turn_now(self: &Arc<Self>, state: &mut State, writer: &Shared, ticket: u64) -> Option<Turn> {
        if writer.presence.is_running() {
            return Some(Turn(None));
        }
        let is_first = state.line.front() == Some(&ticket);
        let has_room = state.open.len() + state.turns < self.most;
        (is_first && has_room).then(|| {
            state.turns += 1;
            Turn(Some(Arc::clone(self)))
        })
    }

    /// After a batch has waited as long as it may.
    fn turn_at_last(&self, state: &mut State, refusable: bool) -> Result<Turn> {
        if !refusable {
            return Ok(Turn(None));
        }
        state.refused += 1;
        let message = format!(
            "rejected execution: [{}] writers of other indexes are busy, and no more than \
             [engine.max_open_writers] of [{}] may be open",
            state.open.len(),
            self.most
        );
        Err(Error::new(ErrorKind::Full, message))
    }

    /// Asks as many writers to leave as there are in line and a few more, but for those that do
    /// already, and waits for the next one that has.
    fn ask_and_wait(&self, state: &mut MutexGuard<'_, State>, deadline: Instant) {
        let leaving = state.open.iter().filter(|open| open.leaves).count();
        let wanted = state.line.len() + self.most / AHEAD;
        let asked = state.idlest(wanted.saturating_sub(leaving));
        if asked.is_empty() {
            let until = deadline.min(Instant::now() + LOOK_AGAIN);
            let late = self.freed.wait_until(state, until).timed_out();
            if !late {
                return;
            }
        }
        let further = if asked.is_empty() { state.idlest(1) } else { asked };
        MutexGuard::unlocked(state, || {
            for writer in further {
                writer.nudge(Event::Leave);
            }
        });
    }

    /// A writer begins its thread.
    pub(super) fn begin(self: &Arc<Self>, writer: &Arc<Shared>) -> Thread {
        self.note_use(writer);
        let mut state = self.state.lock();
        let key = state.key();
        let is_surplus = state.open.len() >= self.most;
        state.open.push(Open { key, writer: Arc::downgrade(writer), leaves: is_surplus });
        state.most_open = state.most_open.max(state.open.len());
        Thread { writers: Arc::clone(self), key, is_surplus }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(writers) = &self.0 {
            writers.state.lock().turns -= 1;
            writers.freed.notify_all();
        }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.writers.state.lock().open.retain(|open| open.key != self.key);
        self.writers.freed.notify_all();
    }
}

impl fmt::Debug for Writers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.stats().fmt(f)
    }
}
