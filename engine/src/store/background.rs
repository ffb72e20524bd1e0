//! Threads for work that no writer should wait for: flushes and merges of all indexes.
//!
//! Each index has at most one flush, one small and one large merge under way, so the queues are
//! bounded by the number of indexes.

use std::fmt;
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, unbounded};
use parking_lot::Mutex;

use super::limits::Limits;
use super::scheduling::Schedule;
use super::throttle::Throttle;
use super::writers::Writers;
use crate::error::{Error, ErrorKind, Result};

/// A piece of work.
type Job = Box<dyn FnOnce() + Send>;

/// Kinds of work that do not wait for each other.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Lane {
    /// Writing commits.
    Flush,
    /// Merges of young segments, a few milliseconds each.
    SmallMerge,
    /// Merges that take seconds or minutes.
    LargeMerge,
}

/// The threads of each lane. Dropping it lets them finish what is queued.
pub(crate) struct Background {
    limits: Limits,
    throttle: Arc<Throttle>,
    writers: Arc<Writers>,
    lanes: Vec<Sender<Job>>,
    /// Taken when they are joined.
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Background {
    /// Starts the threads, as many as the limits say.
    pub(crate) fn start(limits: Limits) -> Result<Self> {
        let mut lanes = Vec::new();
        let mut threads = Vec::new();
        for lane in [Lane::Flush, Lane::SmallMerge, Lane::LargeMerge] {
            let (sender, receiver) = unbounded::<Job>();
            let (name, count) = match lane {
                Lane::Flush => ("egret-flush", 1),
                Lane::SmallMerge => ("egret-merge", limits.max_small_merges),
                Lane::LargeMerge => ("egret-merge-big", limits.max_large_merges),
            };
            for _ in 0..count.max(1) {
                let receiver = receiver.clone();
                let thread = std::thread::Builder::new().name(name.to_owned());
                threads.push(thread.spawn(move || work(lane, &receiver))?);
            }
            lanes.push(sender);
        }
        let throttle = Throttle::new(limits.max_merge_bytes_per_second);
        let writers = Writers::new(&limits);
        Ok(Self { limits, throttle, writers, lanes, threads: Mutex::new(threads) })
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// How fast large merges may write.
    pub(super) fn throttle(&self) -> &Arc<Throttle> {
        &self.throttle
    }

    /// The writers that have threads.
    pub(crate) fn writers(&self) -> &Arc<Writers> {
        &self.writers
    }

    /// Lets merges go on as fast as they can: nothing waits for searches any more.
    pub(crate) fn hurry(&self) {
        self.throttle.end();
    }

    /// Queues a job. It must not panic.
    pub(crate) fn run(&self, lane: Lane, job: impl FnOnce() + Send + 'static) -> Result<()> {
        let sent = self.lanes.get(lane as usize).map(|sender| sender.send(Box::new(job)));
        match sent {
            Some(Ok(())) => Ok(()),
            _ => Err(Error::new(ErrorKind::Closed, "the background threads have ended")),
        }
    }
}

/// Does the jobs of one lane until no more can come.
fn work(lane: Lane, jobs: &Receiver<Job>) {
    match lane {
        Lane::Flush | Lane::SmallMerge => Schedule::LongSlices.take(),
        Lane::LargeMerge => Schedule::Leftovers.take(),
    }
    for job in jobs {
        job();
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.lanes.clear();
        let current = std::thread::current().id();
        for thread in self.threads.get_mut().drain(..) {
            // The last holder can be a job itself; a thread cannot wait for its own end.
            if thread.thread().id() != current && thread.join().is_err() {
                tracing::error!("a background thread of the engine has panicked");
            }
        }
    }
}

impl fmt::Debug for Background {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Background")
    }
}
