//! How much of a pool the work for one index may have. One that is held back by its merges or by the
//! disk would otherwise hold every thread and fill the queue, and all others would wait with it.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{Error, Kind, Result};

/// One index may have one in so many of a pool's threads and of its places to wait.
pub(super) const SHARE: usize = 4;

/// What one index may have of a pool.
#[derive(Debug, Clone, Copy)]
pub(super) struct Allowance {
    /// At work at once.
    pub(super) threads: usize,
    /// Waiting for that.
    pub(super) queue: usize,
    /// What those that wait may hold; a single one may hold more.
    pub(super) bytes: usize,
}

/// The lanes of a pool, one for each index that has work in it.
pub(super) struct Lanes {
    pool: &'static str,
    allowance: Allowance,
    /// Guards them; nothing is waited for under it.
    by_index: Mutex<HashMap<String, Lane>>,
    pub(super) waiting: AtomicUsize,
    pub(super) rejected: AtomicUsize,
}

struct Lane {
    permits: Arc<Semaphore>,
    /// Those at work and those that wait.
    members: usize,
    waiting: usize,
    waiting_bytes: usize,
}

impl Lanes {
    pub(super) fn new(pool: &'static str, allowance: Allowance) -> Arc<Self> {
        let (by_index, waiting, rejected) = Default::default();
        Arc::new(Self { pool, allowance, by_index, waiting, rejected })
    }

    /// Waits until less than its share of the pool is at work for an index, unless too much waits
    /// for that already. Meanwhile so many bytes are held.
    pub(super) async fn enter(self: &Arc<Self>, index: &str, bytes: usize) -> Result<Place> {
        let (mut place, permits) = self.join(index, bytes)?;
        if place.permit.is_none() {
            let permit = permits.acquire_owned().await;
            place.stop_waiting();
            place.permit = Some(permit.map_err(|_| {
                Error::new(Kind::Unavailable, format!("pool [{}] is closed", self.pool))
            })?);
        }
        Ok(place)
    }

    /// Takes a place in the lane of an index: at work where there is room, otherwise waiting.
    fn join(self: &Arc<Self>, index: &str, bytes: usize) -> Result<(Place, Arc<Semaphore>)> {
        let Allowance { threads, queue, bytes: most_bytes } = self.allowance;
        let mut lanes = self.by_index.lock();
        let lane = lanes.entry(index.to_owned()).or_insert_with(|| Lane {
            permits: Arc::new(Semaphore::new(threads)),
            members: 0,
            waiting: 0,
            waiting_bytes: 0,
        });
        let permits = Arc::clone(&lane.permits);
        let permit = Arc::clone(&permits).try_acquire_owned().ok();
        let waits = permit.is_none();
        if waits {
            let held = lane.waiting_bytes.saturating_add(bytes);
            if lane.waiting >= queue || (lane.waiting > 0 && held > most_bytes) {
                let (waiting, held) = (lane.waiting, lane.waiting_bytes);
                drop(lanes);
                return Err(self.full(index, waiting, held));
            }
            lane.waiting += 1;
            lane.waiting_bytes = held;
            self.waiting.fetch_add(1, Ordering::Relaxed);
        }
        lane.members += 1;
        drop(lanes);
        let (lanes, index) = (Arc::clone(self), index.to_owned());
        Ok((Place { lanes, index, waits: waits.then_some(bytes), permit }, permits))
    }

    fn full(&self, index: &str, waiting: usize, held: usize) -> Error {
        self.rejected.fetch_add(1, Ordering::Relaxed);
        let Allowance { threads, queue, bytes } = self.allowance;
        let pool = self.pool;
        let reason = format!(
            "rejected execution: pool [{pool}] has [{threads}] at work for index [{index}] and \
             [{waiting}] of [{held}] bytes waiting, one index may have [{queue}] of [{bytes}] bytes"
        );
        Error::new(Kind::Rejected, reason).with_index(index)
    }
}

/// A place in the lane of an index, left when dropped.
pub(super) struct Place {
    lanes: Arc<Lanes>,
    index: String,
    /// What it holds, while it waits.
    waits: Option<usize>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Place {
    fn stop_waiting(&mut self) {
        let Some(bytes) = self.waits.take() else { return };
        self.lanes.waiting.fetch_sub(1, Ordering::Relaxed);
        if let Some(lane) = self.lanes.by_index.lock().get_mut(&self.index) {
            lane.waiting -= 1;
            lane.waiting_bytes -= bytes;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.stop_waiting();
        drop(self.permit.take());
        let mut lanes = self.lanes.by_index.lock();
        if let Some(lane) = lanes.get_mut(&self.index) {
            lane.members -= 1;
            if lane.members == 0 {
                lanes.remove(&self.index);
            }
        }
    }
}

impl fmt::Debug for Lanes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lanes").field("allowance", &self.allowance).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(lanes: &Arc<Lanes>, bytes: usize) -> tokio::task::JoinHandle<Result<()>> {
        let lanes = Arc::clone(lanes);
        tokio::spawn(async move { lanes.enter("a", bytes).await.map(drop) })
    }

    async fn until_so_many_wait(lanes: &Lanes, expected: usize) {
        while lanes.waiting.load(Ordering::Relaxed) != expected {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn one_index_has_its_share_and_no_more() {
        let lanes = Lanes::new("test", Allowance { threads: 1, queue: 2, bytes: 10 });
        let first = lanes.enter("a", 100).await.unwrap();
        // A single one may hold more than those that wait together.
        let second = wait(&lanes, 11);
        until_so_many_wait(&lanes, 1).await;
        let refused = lanes.enter("a", 1).await.map(drop).unwrap_err();
        assert_eq!((refused.kind(), refused.index()), (Kind::Rejected, Some("a")));
        assert!(refused.reason().contains("one index may have [2] of [10] bytes"), "{refused}");
        // Others have shares of their own.
        drop(lanes.enter("b", 100).await.unwrap());
        // Who no longer waits holds nothing.
        second.abort();
        until_so_many_wait(&lanes, 0).await;
        let (second, third) = (wait(&lanes, 5), wait(&lanes, 5));
        until_so_many_wait(&lanes, 2).await;
        assert!(lanes.enter("a", 0).await.is_err());
        drop(first);
        second.await.unwrap().unwrap();
        third.await.unwrap().unwrap();
        assert_eq!(lanes.rejected.load(Ordering::Relaxed), 2);
        assert!(lanes.by_index.lock().is_empty());
    }
}
