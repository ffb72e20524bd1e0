//! Bounded pools for what blocks: searches, writes, reads by id and changes of indexes each have
//! their own threads and queue, so that none can starve another. Past its queue, work is refused.

mod lanes;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::lanes::{Allowance, Lanes, SHARE};
use crate::config::Config;
use crate::error::{Error, Kind, Result};

/// The pools.
#[derive(Debug)]
pub(crate) struct Pools {
    /// Searches and counts.
    pub(crate) search: Pool,
    /// Document writes.
    pub(crate) write: Pool,
    /// Reads of documents by id.
    pub(crate) read: Pool,
    /// Changes of indexes.
    pub(crate) manage: Pool,
    /// Merges that are asked for, and copies of whole indexes: one at a time, for as long as they take.
    pub(crate) merge: Pool,
}

impl Pools {
    /// Pools of the sizes that the configuration gives.
    pub(crate) fn new(config: &Config) -> Self {
        let (bodies, config) = (config.http.max_bodies_bytes, &config.pools);
        let processors = std::thread::available_parallelism().map_or(2, usize::from);
        let searches = if config.search_threads == 0 { processors } else { config.search_threads };
        let pool = |name, threads, queue| Pool::new(name, threads, queue, bodies);
        Self {
            search: pool("search", searches, config.search_queue),
            write: pool("write", config.write_threads, config.write_queue),
            read: pool("get", config.read_threads, config.read_queue),
            manage: pool("management", config.manage_threads, config.manage_queue),
            merge: pool("force_merge", 1, config.manage_queue),
        }
    }
}

/// A pool: so many at once, so many waiting.
#[derive(Debug)]
pub(crate) struct Pool {
    name: &'static str,
    threads: usize,
    queue: usize,
    permits: Arc<Semaphore>,
    waiting: AtomicUsize,
    rejected: AtomicUsize,
    lanes: Arc<Lanes>,
}

impl Pool {
    fn new(name: &'static str, threads: usize, queue: usize, bodies_bytes: usize) -> Self {
        let permits = Arc::new(Semaphore::new(threads));
        let (waiting, rejected) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let share = |all: usize| (all / SHARE).max(1);
        let allowance =
            Allowance { threads: share(threads), queue: share(queue), bytes: share(bodies_bytes) };
        let lanes = Lanes::new(name, allowance);
        Self { name, threads, queue, permits, waiting, rejected, lanes }
    }

    /// Waits for the right to work, unless too many wait already.
    async fn enter(&self) -> Result<OwnedSemaphorePermit> {
        if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            return Ok(permit);
        }
        let waiting = Waiting::join(self)?;
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        drop(waiting);
        permit.map_err(|_| Error::new(Kind::Unavailable, format!("pool [{}] is closed", self.name)))
    }

    /// Runs work that blocks, on a thread that may.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let permit = self.enter().await?;
        let work = move || {
            // Moved into the thread: who stops waiting does not free it early.
            let _permit = permit;
            work()
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(Error::new(Kind::Unavailable, "Egret is stopping")),
            },
        }
    }

    /// As [`Self::run`], for an index: it has only its share of the pool. `bytes` are held while the
    /// work waits. Work that is under way for an index must not wait for other work for it here.
    pub(crate) async fn run_for<T: Send + 'static>(
        &self,
        index: &str,
        bytes: usize,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let place = self.lanes.enter(index, bytes).await?;
        let work = move || {
            let _place = place;
            work()
        };
        self.run(work).await
    }

    /// Its name, how many work, wait, and were refused.
    pub(crate) fn statistics(&self) -> (&'static str, usize, usize, usize) {
        let active = self.threads - self.permits.available_permits().min(self.threads);
        let both = |own: &AtomicUsize, lanes: &AtomicUsize| {
            own.load(Ordering::Relaxed) + lanes.load(Ordering::Relaxed)
        };
        let waiting = both(&self.waiting, &self.lanes.waiting);
        (self.name, active, waiting, both(&self.rejected, &self.lanes.rejected))
    }
}

/// A place in a queue, left when dropped.
struct Waiting<'p>(&'p Pool);

impl<'p> Waiting<'p> {
    fn join(pool: &'p Pool) -> Result<Self> {
        let before = pool.waiting.fetch_add(1, Ordering::Relaxed);
        let place = Self(pool);
        if before < pool.queue {
            return Ok(place);
        }
        pool.rejected.fetch_add(1, Ordering::Relaxed);
        let Pool { name, threads, queue, .. } = pool;
        Err(Error::new(
            Kind::Rejected,
            format!(
                "rejected execution: pool [{name}] has [{threads}] at work and its queue of \
                 [{queue}] is full"
            ),
        ))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn past_its_queue_work_is_refused_and_places_are_given_back() {
        let pool = Arc::new(Pool::new("test", 1, 1, 1));
        let working = pool.enter().await.unwrap();
        let same = Arc::clone(&pool);
        let second = tokio::spawn(async move { same.run(|| Ok(5)).await });
        while pool.statistics().2 == 0 {
            tokio::task::yield_now().await;
        }
        let refused = pool.run(|| Ok(6)).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::Rejected);
        drop(working);
        assert_eq!(second.await.unwrap().unwrap(), 5);
        assert_eq!(pool.statistics(), ("test", 0, 0, 1));
    }
}
