//! The front of the crate: look up, else compute once for all who ask, else say why not.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use egret_aof::disk::Disk;
use uuid::Uuid;

use crate::clock::Clock;
use crate::error::{Error, Failure, NoAnswer};
use crate::flight::{Flights, Gate, Landing, Seat, Turn};
use crate::journal::{self, Keeper};
use crate::key::{Canonical, Generation, Key, Secret, Version};
use crate::options::Options;
use crate::slot::Slot;
use crate::stats::Stats;
use crate::store::{Fill, Request, Store, count};

/// How often a caller waits for others before it gives up.
const MAX_WAITS: u32 = 3;
/// How many of the fullest slots the statistics name.
const SLOTS_SHOWN: usize = 10;

/// What a computation gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Computed {
    /// The answer, to be served as it is.
    pub bytes: Bytes,
    /// Whether it may be stored: it is whole, on time, and depends on nothing but the request and
    /// the generations. One that may not is still given to those who wait for it.
    pub storable: bool,
    /// What it takes to compute it again.
    pub cost: Duration,
}

/// Where an answer came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The store.
    Hit,
    /// This caller's computation.
    Miss,
    /// The computation of another who asked the same.
    Joined,
    /// This caller's computation, outside of the cache: too many others were under way.
    Bypass,
}

/// The result cache. `E` is the error of its computations.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// use std::{convert::Infallible, sync::Arc, time::Duration};
/// use egret_results::{Canonical, Computed, Failure, Options, Outcome, ResultCache, SystemClock};
///
/// let cache = ResultCache::<Infallible>::in_memory(&Options::default(), Arc::<SystemClock>::default())?;
/// let request = cache.request(Canonical::new([("query", b"egret".as_slice())]), []);
/// for expected in [Outcome::Miss, Outcome::Hit] {
///     let compute = || async {
///         let (bytes, cost) = ("a white heron".into(), Duration::from_millis(3));
///         Ok::<_, Failure<Infallible>>(Computed { bytes, storable: true, cost })
///     };
///     let (answer, outcome) = cache.get_or_compute(&request, compute).await?;
///     assert_eq!((&answer[..], outcome), (&b"a white heron"[..], expected));
/// }
/// # Ok::<_, Box<dyn std::error::Error>>(()) }).unwrap();
/// ```
#[derive(Debug)]
pub struct ResultCache<E> {
    store: Arc<Store>,
    keeper: Option<Keeper>,
    flights: Flights<E>,
    budget_bytes: u64,
    max_wait: Duration,
    hits: AtomicU64,
    misses: AtomicU64,
    joined: AtomicU64,
    bypassed: AtomicU64,
}

impl<E: Clone> ResultCache<E> {
    /// An empty cache that is lost when it is dropped.
    pub fn in_memory(options: &Options, clock: Arc<dyn Clock>) -> Result<Self, Error> {
        options.check()?;
        let store = Arc::new(Store::new(options, Secret::random(), clock));
        Ok(Self::over(store, None, options))
    }

    /// The cache that is kept in this folder, warm with what may still be served: answers made from
    /// the generations that their indexes have now, as `current` tells. Blocks while it reads.
    ///
    /// A folder that cannot be read or written is no error: the cache then works in memory, says
    /// why in its statistics, and tries again. Dropping the cache writes what is left, and blocks.
    pub fn open(
        disk: Arc<dyn Disk>,
        folder: &Path,
        options: &Options,
        clock: Arc<dyn Clock>,
        current: impl Fn(Uuid) -> Option<Generation>,
    ) -> Result<Self, Error> {
        options.check()?;
        let is_current = |versions: &[Version]| {
            versions.iter().all(|version| current(version.index) == Some(version.generation))
        };
        let (store, keeper) = journal::open(disk, folder, options, clock, &is_current);
        Ok(Self::over(store, Some(keeper), options))
    }

    fn over(store: Arc<Store>, keeper: Option<Keeper>, options: &Options) -> Self {
        Self {
            store,
            keeper,
            flights: Flights::new(options.max_flights, options.max_waiters),
            budget_bytes: options.budget_bytes,
            max_wait: options.max_wait,
            hits: AtomicU64::default(),
            misses: AtomicU64::default(),
            joined: AtomicU64::default(),
            bypassed: AtomicU64::default(),
        }
    }

    /// A request of these indexes at these generations, which must all come from the snapshots that
    /// the computation will search.
    pub fn request(
        &self,
        canonical: Canonical,
        versions: impl IntoIterator<Item = Version>,
    ) -> Request {
        self.store.request(canonical, versions)
    }

    /// The stored answer, or that of `compute`, which is called by one of all those who ask the same
    /// at the same time. Whoever asks at another generation asks something else.
    pub async fn get_or_compute<F: Future<Output = Result<Computed, Failure<E>>>>(
        &self,
        request: &Request,
        compute: impl FnOnce() -> F,
    ) -> Result<(Bytes, Outcome), NoAnswer<E>> {
        self.store.observe(request.versions());
        for _ in 0..MAX_WAITS {
            if let Some(bytes) = self.store.look_up(request) {
                count(&self.hits);
                return Ok((bytes, Outcome::Hit));
            }
            let seat = match self.flights.board(request) {
                Gate::Open(seat) => seat,
                Gate::Full { seats } => return Err(NoAnswer::Full { waiters: seats }),
                Gate::NoFlight => return self.compute_alone(request, compute).await,
            };
            match seat.wait(self.max_wait).await {
                Turn::Late => {}
                Turn::Landed(Landing::Failed(error)) => return Err(NoAnswer::Failed(error)),
                Turn::Landed(Landing::Answer(bytes)) => {
                    count(&self.joined);
                    return Ok((bytes, Outcome::Joined));
                }
                Turn::Lead(_permit) => return self.lead(&seat, request, compute).await,
            }
        }
        Err(NoAnswer::TimedOut(self.max_wait * MAX_WAITS))
    }

    async fn lead<F: Future<Output = Result<Computed, Failure<E>>>>(
        &self,
        seat: &Seat<'_, E>,
        request: &Request,
        compute: impl FnOnce() -> F,
    ) -> Result<(Bytes, Outcome), NoAnswer<E>> {
        // Another may have landed between the look-up and the boarding.
        if let Some(bytes) = self.store.look_up(request) {
            count(&self.hits);
            seat.land(Landing::Answer(bytes.clone()));
            return Ok((bytes, Outcome::Hit));
        }
        count(&self.misses);
        match self.compute(request, compute).await {
            Ok(bytes) => {
                seat.land(Landing::Answer(bytes.clone()));
                Ok((bytes, Outcome::Miss))
            }
            Err(Failure::Shared(error)) => {
                seat.land(Landing::Failed(error.clone()));
                Err(NoAnswer::Failed(error))
            }
            // Dropping the permit hands over to another who waits.
            Err(Failure::Own(error)) => Err(NoAnswer::Failed(error)),
        }
    }

    async fn compute_alone<F: Future<Output = Result<Computed, Failure<E>>>>(
        &self,
        request: &Request,
        compute: impl FnOnce() -> F,
    ) -> Result<(Bytes, Outcome), NoAnswer<E>> {
        self.note_bypass();
        match self.compute(request, compute).await {
            Ok(bytes) => Ok((bytes, Outcome::Bypass)),
            Err(Failure::Own(error) | Failure::Shared(error)) => Err(NoAnswer::Failed(error)),
        }
    }

    async fn compute<F: Future<Output = Result<Computed, Failure<E>>>>(
        &self,
        request: &Request,
        compute: impl FnOnce() -> F,
    ) -> Result<Bytes, Failure<E>> {
        let computed = compute().await?;
        if computed.storable {
            self.store.insert(request, &computed.bytes, computed.cost);
        }
        Ok(computed.bytes)
    }

    /// The stored answer, without computing or counting.
    pub fn peek(&self, request: &Request) -> Option<Bytes> {
        self.store.look_up(request)
    }

    /// Stores an answer that was computed elsewhere.
    pub fn fill(&self, request: &Request, value: &[u8], cost: Duration) -> Fill {
        self.store.insert(request, value, cost)
    }

    /// Counts an answer that was computed without asking the cache, as one that must not be stored.
    pub fn note_bypass(&self) {
        count(&self.bypassed);
    }

    /// Notes that an index was published at this generation: answers of older ones are not stored
    /// any more, and those that are stored go little by little.
    pub fn advance(&self, version: Version) {
        self.store.observe(&[version]);
    }

    /// Removes all answers that an index has a part in, and stores none ever again.
    pub fn purge(&self, index: Uuid) {
        self.store.purge(index);
    }

    /// Removes some of what is expired or outdated. To be called now and then; a cache that is kept
    /// in a folder does it by itself.
    pub fn clean(&self) {
        self.store.clean();
    }

    /// Waits until everything stored so far is durable, or cannot be. Blocks; does nothing for a
    /// cache in memory.
    pub fn flush(&self) {
        if let Some(keeper) = &self.keeper {
            keeper.flush();
        }
    }

    /// The keys stored in a slot, oldest first.
    pub fn slot_keys(&self, slot: Slot, most: usize) -> Vec<Key> {
        self.store.slot_keys(slot, most)
    }

    /// What has happened and what there is.
    pub fn stats(&self) -> Stats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let shards = self.store.shard_stats();
        let counters = &self.store.counters;
        Stats {
            hits: read(&self.hits),
            misses: read(&self.misses),
            joined: read(&self.joined),
            bypassed: read(&self.bypassed),
            stored: read(&counters.stored),
            oversized: read(&counters.oversized),
            refused_outdated: read(&counters.refused_outdated),
            corrupt: read(&counters.corrupt),
            collisions: read(&counters.collisions),
            evicted: shards.iter().map(|shard| shard.evicted).sum(),
            expired: shards.iter().map(|shard| shard.expired).sum(),
            outdated: shards.iter().map(|shard| shard.outdated).sum(),
            entries: shards.iter().map(|shard| shard.entries).sum(),
            bytes: shards.iter().map(|shard| shard.bytes).sum(),
            budget_bytes: self.budget_bytes,
            flights: self.flights.len() as u64,
            log: self.keeper.as_ref().map(Keeper::stats).unwrap_or_default(),
            fullest_slots: self.store.fullest_slots(SLOTS_SHOWN),
            shards,
        }
    }
}

#[cfg(test)]
mod tests;
