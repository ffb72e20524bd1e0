//! The store: shards by slot, the checks on every read, the gate before every fill.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64;

use crate::block::{self, Block, Content, Times};
use crate::clock::{Clock, milliseconds};
use crate::generations::{Generations, Standing};
use crate::key::{Canonical, Key, Secret, Version, sorted_versions};
use crate::options::Options;
use crate::shard::{Budget, Entry, Shard};
use crate::slot::{SLOT_COUNT, Slot};
use crate::stats::{ShardStats, SlotStats};

/// How many entries a purge or a clean-up removes before it lets others at the shard.
const REMOVED_AT_ONCE: usize = 256;

/// A request as the cache knows it: what is asked, of which generation of which indexes, for whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    key: Key,
    canonical: Canonical,
    versions: Arc<[Version]>,
    tenant: u64,
}

impl Hash for Request {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // The key is a hash of the rest already.
        self.key.as_str().hash(state);
    }
}

impl Request {
    /// Counts its answer against the quota of this tenant. The tenant must be a part of the
    /// canonical request too; this alone separates nobody from anybody.
    #[must_use]
    pub fn with_tenant(mut self, tenant: &str) -> Self {
        self.tenant = xxh3_64(tenant.as_bytes()).max(1);
        self
    }

    /// The key of its answer.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// The indexes and generations that it is asked of, sorted.
    pub fn versions(&self) -> &[Version] {
        &self.versions
    }
}

/// What became of an answer that was to be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    /// It is stored.
    Stored,
    /// It is larger than an entry may be.
    Oversized,
    /// An index has a newer generation by now, or is deleted.
    Outdated,
}

/// Where what is stored is written down too. Called under a shard's lock, so it must not wait.
pub(crate) trait Journal: Send + Sync + std::fmt::Debug {
    fn stored(&self, block: &Bytes);
    fn purged(&self, index: Uuid);
}

#[derive(Debug, Default)]
pub(crate) struct StoreCounters {
    pub(crate) stored: AtomicU64,
    pub(crate) oversized: AtomicU64,
    pub(crate) refused_outdated: AtomicU64,
    pub(crate) corrupt: AtomicU64,
    pub(crate) collisions: AtomicU64,
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// The stored answers.
#[derive(Debug)]
pub(crate) struct Store {
    secret: Secret,
    /// A shard's lock guards that shard. Under it: no waiting, no files; the generations may be read
    /// and the journal told, so that its order is the order of what happened.
    shards: Box<[Mutex<Shard>]>,
    slots_per_shard: u16,
    max_entry_bytes: u64,
    ttl: Option<Duration>,
    ttl_jitter_percent: u8,
    generations: Generations,
    clock: Arc<dyn Clock>,
    journal: Option<Arc<dyn Journal>>,
    pub(crate) counters: StoreCounters,
}

impl Store {
    /// An empty store. The options are checked.
    pub(crate) fn new(options: &Options, secret: Secret, clock: Arc<dyn Clock>) -> Self {
        let share = |bytes: u64| bytes / u64::from(options.shards);
        let budget = Budget {
            bytes: share(options.budget_bytes),
            tenant_bytes: options.tenant_quota_bytes.map(share),
        };
        let slots = SLOT_COUNT / options.shards;
        let shard = |number: u16| Mutex::new(Shard::new(budget, number * slots, slots));
        let fitting = (budget.bytes / 4).min(budget.tenant_bytes.unwrap_or(u64::MAX));
        Self {
            secret,
            shards: (0..options.shards).map(shard).collect(),
            slots_per_shard: slots,
            max_entry_bytes: options.max_entry_bytes.min(fitting),
            ttl: options.ttl,
            ttl_jitter_percent: options.ttl_jitter_percent,
            generations: Generations::default(),
            clock,
            journal: None,
            counters: StoreCounters::default(),
        }
    }

    /// Writes down what happens from now on.
    pub(crate) fn set_journal(&mut self, journal: Arc<dyn Journal>) {
        self.journal = Some(journal);
    }

    pub(crate) fn request(
        &self,
        canonical: Canonical,
        versions: impl IntoIterator<Item = Version>,
    ) -> Request {
        let versions = sorted_versions(versions);
        let key = Key::new(&self.secret, canonical.as_bytes(), &versions);
        Request { key, canonical, versions, tenant: 0 }
    }

    pub(crate) fn observe(&self, versions: &[Version]) {
        self.generations.observe(versions);
    }

    /// The answer to this very request, if it is stored whole.
    pub(crate) fn look_up(&self, request: &Request) -> Option<Bytes> {
        let shard = self.shard(request.key.slot());
        let now_ms = milliseconds(self.clock.elapsed());
        let block = shard.lock().look_up(&request.key, now_ms)?;
        // Checked outside of the lock: others need not wait for it.
        let Some(read) = Block::read(&block).filter(|read| read.key == request.key.as_str()) else {
            count(&self.counters.corrupt);
            tracing::warn!(key = %request.key, "stored answer is damaged, computing it again");
            shard.lock().remove_block(&request.key, &block);
            return None;
        };
        if read.canonical != request.canonical.as_bytes()
            || !read.versions().eq(request.versions.iter().copied())
        {
            count(&self.counters.collisions);
            return None;
        }
        Some(block.slice(read.value_range()))
    }

    /// Stores an answer unless it is too large or outdated.
    pub(crate) fn insert(&self, request: &Request, value: &[u8], cost: Duration) -> Fill {
        let kept_ms = self.ttl.map(|ttl| self.jittered_ms(ttl, &request.key));
        let stored_at_ms = milliseconds(self.clock.since_epoch());
        let content = Content {
            key: request.key.as_str(),
            versions: &request.versions,
            canonical: request.canonical.as_bytes(),
            value,
            times: Times { stored_at_ms, kept_ms },
            cost_us: u64::try_from(cost.as_micros()).unwrap_or(u64::MAX),
            tenant: request.tenant,
        };
        let fits = |len: &usize| *len as u64 <= self.max_entry_bytes;
        let Some(block) =
            block::block_len(&content).filter(fits).and_then(|_| block::write(&content))
        else {
            count(&self.counters.oversized);
            return Fill::Oversized;
        };
        let mut entry = Entry::new(request.key.clone(), Arc::clone(&request.versions), block);
        entry.tenant = content.tenant;
        entry.cost_us = content.cost_us;
        self.put(entry, kept_ms, self.journal.as_deref())
    }

    /// Stores a block again that was written down. Whether it was: it is whole, made with this
    /// secret, of current versions, and has not expired.
    pub(crate) fn restore(&self, block: Bytes, is_current: &dyn Fn(&[Version]) -> bool) -> bool {
        let Some(read) = Block::read(&block) else {
            count(&self.counters.corrupt);
            return false;
        };
        let versions = sorted_versions(read.versions());
        let key = Key::new(&self.secret, read.canonical, &versions);
        let left_ms = read.times.left_ms(milliseconds(self.clock.since_epoch()));
        if left_ms == Some(0) || key.as_str() != read.key || !is_current(&versions) {
            return false;
        }
        self.observe(&versions);
        let (tenant, cost_us) = (read.tenant, read.cost_us);
        let mut entry = Entry::new(key, versions, block);
        entry.tenant = tenant;
        entry.cost_us = cost_us;
        self.put(entry, left_ms, None) == Fill::Stored
    }

    fn put(&self, mut entry: Entry, left_ms: Option<u64>, journal: Option<&dyn Journal>) -> Fill {
        if entry.weight() > self.max_entry_bytes {
            count(&self.counters.oversized);
            return Fill::Oversized;
        }
        let now_ms = milliseconds(self.clock.elapsed());
        entry.deadline_ms = left_ms.map(|left| now_ms.saturating_add(left));
        let mut shard = self.shard(entry.slot).lock();
        // Under the lock, so that a purge that passes this shard later finds the entry.
        if self.generations.standing(&entry.versions) == Standing::Outdated {
            count(&self.counters.refused_outdated);
            return Fill::Outdated;
        }
        if let Some(journal) = journal {
            journal.stored(&entry.block);
        }
        shard.insert(entry, &self.generations, now_ms);
        count(&self.counters.stored);
        Fill::Stored
    }

    /// Removes everything that an index has a part in, and refuses it from now on.
    pub(crate) fn purge(&self, index: Uuid) {
        self.generations.delete(index);
        for shard in &self.shards {
            while !shard.lock().purge(index, REMOVED_AT_ONCE) {}
        }
        // After every shard was passed: no entry of this index can be written down later.
        if let Some(journal) = &self.journal {
            journal.purged(index);
        }
    }

    /// Removes some of what is expired or outdated from every shard.
    pub(crate) fn clean(&self) {
        let now_ms = milliseconds(self.clock.elapsed());
        for shard in &self.shards {
            let mut shard = shard.lock();
            shard.expire(now_ms, REMOVED_AT_ONCE);
            shard.drop_outdated(&self.generations, REMOVED_AT_ONCE);
        }
    }

    /// The blocks of one shard, those that have lasted longest first.
    pub(crate) fn blocks(&self, shard: usize) -> Vec<Bytes> {
        let now_ms = milliseconds(self.clock.elapsed());
        self.shards.get(shard).map(|shard| shard.lock().blocks(now_ms)).unwrap_or_default()
    }

    /// How many shards there are.
    pub(crate) fn shard_count(&self) -> usize {
        self.shards.len()
    }

    /// What everything in it weighs.
    pub(crate) fn bytes(&self) -> u64 {
        self.shards.iter().map(|shard| shard.lock().bytes()).sum()
    }

    pub(crate) fn shard_stats(&self) -> Vec<ShardStats> {
        let slots = self.slots_per_shard;
        let stats = |(number, shard): (u16, &Mutex<Shard>)| {
            let shard = shard.lock();
            let (first_slot, counters) = (number * slots, shard.counters());
            ShardStats {
                first_slot,
                last_slot: first_slot + (slots - 1),
                entries: shard.len() as u64,
                bytes: shard.bytes(),
                evicted: counters.evicted,
                expired: counters.expired,
                outdated: counters.outdated,
            }
        };
        (0..).zip(&self.shards).map(stats).collect()
    }

    /// The slots that hold the most bytes, fullest first.
    pub(crate) fn fullest_slots(&self, most: usize) -> Vec<SlotStats> {
        let mut all = Vec::new();
        for shard in &self.shards {
            let stats =
                |(slot, entries, bytes)| SlotStats { slot, entries: u64::from(entries), bytes };
            all.extend(shard.lock().slots().map(stats));
            all.sort_unstable_by(|a, b| b.bytes.cmp(&a.bytes).then(a.slot.cmp(&b.slot)));
            all.truncate(most);
        }
        all
    }

    /// The keys in a slot, oldest first.
    pub(crate) fn slot_keys(&self, slot: Slot, most: usize) -> Vec<Key> {
        let shard = self.shard(slot).lock();
        shard.slot_entries(slot).take(most).map(|entry| entry.key.clone()).collect()
    }

    fn shard(&self, slot: Slot) -> &Mutex<Shard> {
        &self.shards[usize::from(slot.number() / self.slots_per_shard)]
    }

    /// A time to live, shortened by a part that depends on the key alone.
    fn jittered_ms(&self, ttl: Duration, key: &Key) -> u64 {
        let most = u128::from(milliseconds(ttl)) * u128::from(self.ttl_jitter_percent) / 100;
        let shorter = (most * u128::from(key.hash())) >> 64;
        milliseconds(ttl).saturating_sub(u64::try_from(shorter).unwrap_or_default()).max(1)
    }
}

#[cfg(test)]
mod tests;
