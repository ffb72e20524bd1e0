//! Bounded pools for what blocks: searches, writes, reads by id and changes of indexes each have
//! their own threads and queue, so that none can starve another. Past its queue, work is refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::PoolsConfig;
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
    pub(crate) fn new(config: &PoolsConfig) -> Self {
        let processors = std::thread::available_parallelism().map_or(2, usize::from);
        let searches = if config.search_threads == 0 { processors } else { config.search_threads };
        Self {
            search: Pool::new("search", searches, config.search_queue),
            write: Pool::new("write", config.write_threads, config.write_queue),
            read: Pool::new("get", config.read_threads, config.read_queue),
            manage: Pool::new("management", config.manage_threads, config.manage_queue),
            merge: Pool::new("force_merge", 1, config.manage_queue),
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
}

impl Pool {
    fn new(name: &'static str, threads: usize, queue: usize) -> Self {
        let permits = Arc::new(Semaphore::new(threads));
        let (waiting, rejected) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self { name, threads, queue, permits, waiting, rejected }
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

    /// Its name, how many work, wait, and were refused.
    pub(crate) fn statistics(&self) -> (&'static str, usize, usize, usize) {
        let active = self.threads - self.permits.available_permits().min(self.threads);
        let waiting = self.waiting.load(Ordering::Relaxed);
        (self.name, active, waiting, self.rejected.load(Ordering::Relaxed))
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
        let pool = Arc::new(Pool::new("test", 1, 1));
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
