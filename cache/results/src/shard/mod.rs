//! One shard: a contiguous range of slots with its own table, queues and budget. The caller holds
//! its lock; nothing here waits, reads files or checks checksums.
//!
//! Eviction is S3-FIFO (Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023),
//! counted in bytes: new answers enter a small queue, those asked for again move to the main queue,
//! and requests whose answers were evicted are remembered in a ghost queue and enter the main queue
//! at once when they return. So a flood of one-off requests passes through the small queue alone. An
//! answer that is dear to compute for its size gets one more round in the main queue.

mod ghost;
mod slab;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use hashbrown::{HashMap, HashTable};
use uuid::Uuid;

use self::ghost::Ghost;
use self::slab::{Chain, List, NodeId, Slab};
use crate::generations::{Generations, Standing};
use crate::key::{Key, Version};
use crate::slot::Slot;

/// What an entry takes beside its block, as it is accounted.
pub(crate) const ENTRY_OVERHEAD_BYTES: u64 =
    (Slab::<Entry>::PLACE_BYTES + Ghost::GHOST_BYTES + TABLE_BYTES + SHARED_BYTES) as u64;
/// A place in the table, at its usual load.
const TABLE_BYTES: usize = 8;
/// The counters of a shared block and of a key, and the key's text.
const SHARED_BYTES: usize = 160;

/// The small queue's part of the budget, in percent.
const SMALL_PERCENT: u64 = 10;
/// How many rounds an entry can earn.
const MAX_FREQUENCY: u8 = 3;
/// How many times dearer than the mean, for its size, an answer must be to earn a round by that.
const DEAR: u128 = 4;
/// How many buckets the timer wheel has, and how much time each spans: 68 minutes a turn.
const WHEEL_BUCKETS: usize = 1024;
const WHEEL_TICK_MS: u64 = 4000;
/// How many dead entries one insertion removes at most beside what it must evict.
const CLEANED_BY_INSERTION: usize = 16;

/// A stored answer.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) key: Key,
    pub(crate) slot: Slot,
    pub(crate) block: Bytes,
    pub(crate) versions: Arc<[Version]>,
    /// 0 for none.
    pub(crate) tenant: u64,
    pub(crate) cost_us: u64,
    /// Milliseconds of [`crate::clock::Clock::elapsed`].
    pub(crate) deadline_ms: Option<u64>,
    frequency: u8,
    in_main: bool,
}

impl Entry {
    pub(crate) fn new(key: Key, versions: Arc<[Version]>, block: Bytes) -> Self {
        let slot = key.slot();
        let (tenant, cost_us, deadline_ms) = (0, 0, None);
        let (frequency, in_main) = (0, false);
        Self { key, slot, block, versions, tenant, cost_us, deadline_ms, frequency, in_main }
    }

    /// What it weighs in budgets.
    pub(crate) fn weight(&self) -> u64 {
        self.block.len() as u64 + ENTRY_OVERHEAD_BYTES
    }

    fn is_expired(&self, now_ms: u64) -> bool {
        self.deadline_ms.is_some_and(|deadline| deadline <= now_ms)
    }
}

/// What has happened in a shard.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counters {
    pub(crate) evicted: u64,
    pub(crate) expired: u64,
    pub(crate) outdated: u64,
}

/// What one shard may hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    pub(crate) bytes: u64,
    /// For each tenant.
    pub(crate) tenant_bytes: Option<u64>,
}

/// A shard.
#[derive(Debug)]
pub(crate) struct Shard {
    budget: Budget,
    first_slot: u16,
    table: HashTable<NodeId>,
    slab: Slab<Entry>,
    small: List,
    main: List,
    ghost: Ghost,
    slots: Box<[List]>,
    wheel: Box<[List]>,
    /// The tick up to which the wheel has turned.
    turned: u64,
    groups: HashMap<Arc<[Version]>, List>,
    /// The groups in turn, to find those that are outdated. Each is in it once.
    group_turns: VecDeque<Arc<[Version]>>,
    tenants: HashMap<u64, List>,
    cost_us: u128,
    counters: Counters,
}

impl Shard {
    /// An empty shard for `slot_count` slots from `first_slot`.
    pub(crate) fn new(budget: Budget, first_slot: u16, slot_count: u16) -> Self {
        Self {
            budget,
            first_slot,
            table: HashTable::new(),
            slab: Slab::new(),
            small: List::default(),
            main: List::default(),
            ghost: Ghost::default(),
            slots: vec![List::default(); slot_count.into()].into(),
            wheel: vec![List::default(); WHEEL_BUCKETS].into(),
            turned: 0,
            groups: HashMap::new(),
            group_turns: VecDeque::new(),
            tenants: HashMap::new(),
            cost_us: 0,
            counters: Counters::default(),
        }
    }

    /// The block under a key, which counts as used.
    pub(crate) fn look_up(&mut self, key: &Key, now_ms: u64) -> Option<Bytes> {
        let id = self.find(key)?;
        let entry = self.slab.get_mut(id)?;
        if entry.is_expired(now_ms) {
            self.counters.expired += 1;
            self.remove(id);
            return None;
        }
        entry.frequency = (entry.frequency + 1).min(MAX_FREQUENCY);
        Some(entry.block.clone())
    }

    /// Stores an entry in the place of one with its key, after evicting what must go for it. The
    /// caller has seen to it that it fits the budget and the tenant's. Removes some dead entries too.
    pub(crate) fn insert(&mut self, entry: Entry, generations: &Generations, now_ms: u64) {
        if let Some(id) = self.find(&entry.key) {
            self.remove(id);
        }
        self.expire(now_ms, CLEANED_BY_INSERTION);
        self.drop_outdated(generations, CLEANED_BY_INSERTION);
        self.make_room(entry.tenant, entry.weight());
        self.link(entry);
    }

    /// Removes the entry under this key if its block is this very one.
    pub(crate) fn remove_block(&mut self, key: &Key, block: &Bytes) {
        if let Some(id) = self.find(key)
            && self.slab.get(id).is_some_and(|entry| entry.block.as_ptr() == block.as_ptr())
        {
            self.remove(id);
        }
    }

    /// Turns the timer wheel to now and removes what has expired, at most `most` entries.
    pub(crate) fn expire(&mut self, now_ms: u64, most: usize) {
        let now = now_ms / WHEEL_TICK_MS;
        let mut left = most;
        // After a whole turn every bucket has been seen.
        self.turned = self.turned.max(now.saturating_sub(WHEEL_BUCKETS as u64));
        while self.turned < now && left > 0 {
            let bucket = &self.wheel[Self::bucket(self.turned)];
            let expired: Vec<_> = self
                .slab
                .ids(Chain::Wheel, bucket)
                .filter(|&id| self.slab.get(id).is_some_and(|entry| entry.is_expired(now_ms)))
                .take(left)
                .collect();
            left -= expired.len();
            self.counters.expired += expired.len() as u64;
            for id in expired {
                self.remove(id);
            }
            // A bucket that used up the allowance may hold more.
            self.turned += u64::from(left > 0);
        }
    }

    /// Looks at groups in turn and removes entries of outdated ones: at most `most` steps in all.
    pub(crate) fn drop_outdated(&mut self, generations: &Generations, most: usize) {
        let mut left = most;
        for _ in 0..self.group_turns.len() {
            let Some(group) = self.group_turns.front().cloned() else { return };
            if generations.standing(&group) == Standing::Outdated {
                left -= self.drain(&group, left);
            }
            if left == 0 {
                return;
            }
            left -= 1;
            self.group_turns.pop_front();
            if self.groups.get(&group).is_some_and(|list| list.len() == 0) {
                self.groups.remove(&group);
            } else {
                self.group_turns.push_back(group);
            }
            if left == 0 {
                return;
            }
        }
    }

    /// Removes entries that were made from this index, at most `most`. Whether none is left.
    pub(crate) fn purge(&mut self, index: Uuid, most: usize) -> bool {
        let of_index = |group: &&Arc<[Version]>| group.iter().any(|version| version.index == index);
        let groups: Vec<_> = self.group_turns.iter().filter(of_index).cloned().collect();
        let mut left = most;
        for group in groups {
            left -= self.drain(&group, left);
            if left == 0 {
                return false;
            }
        }
        true
    }

    /// Removes entries of one group, at most `most`; how many.
    fn drain(&mut self, group: &Arc<[Version]>, most: usize) -> usize {
        let mut removed = 0;
        while removed < most
            && let Some(id) = self.groups.get(group).and_then(List::first)
        {
            self.note_popular(id);
            self.remove(id);
            self.counters.outdated += 1;
            removed += 1;
        }
        removed
    }

    /// A request that was asked for again enters the main queue at its next generation.
    fn note_popular(&mut self, id: NodeId) {
        let popular = self.slab.get(id).filter(|entry| entry.frequency > 0 || entry.in_main);
        if let Some(request) = popular.map(|entry| entry.key.request_hash()) {
            self.remember(request, self.slab.weight(id));
        }
    }

    fn remember(&mut self, request: u64, weight: u64) {
        let main_bytes = self.budget.bytes - self.small_budget();
        self.ghost.push(request, weight, self.table.len().max(64), main_bytes);
    }

    fn small_budget(&self) -> u64 {
        self.budget.bytes / 100 * SMALL_PERCENT
    }

    fn make_room(&mut self, tenant: u64, weight: u64) {
        if let Some(quota) = self.budget.tenant_bytes.filter(|_| tenant != 0) {
            while let Some(list) = self.tenants.get(&tenant)
                && list.bytes() + weight > quota
                && let Some(id) = list.first()
            {
                self.evict(id);
            }
        }
        while self.bytes() + weight > self.budget.bytes {
            let from_small = self.small.bytes() > self.small_budget() || self.main.len() == 0;
            let oldest = if from_small { self.small.first() } else { self.main.first() };
            let Some(id) = oldest else { return };
            self.pass(id);
        }
    }

    /// The end of a queue: out, or another round in the main queue.
    fn pass(&mut self, id: NodeId) {
        let Some(entry) = self.slab.get_mut(id) else { return };
        if entry.frequency == 0 {
            return self.evict(id);
        }
        if entry.in_main {
            entry.frequency -= 1;
            self.slab.unlink(Chain::Queue, &mut self.main, id);
        } else {
            entry.in_main = true;
            entry.frequency = 0;
            let (cost_us, weight) = (entry.cost_us, self.slab.weight(id));
            if self.is_dear(cost_us, weight)
                && let Some(entry) = self.slab.get_mut(id)
            {
                entry.frequency = 1;
            }
            self.slab.unlink(Chain::Queue, &mut self.small, id);
        }
        self.slab.push(Chain::Queue, &mut self.main, id);
    }

    fn is_dear(&self, cost_us: u64, weight: u64) -> bool {
        u128::from(cost_us) * u128::from(self.bytes()) > DEAR * self.cost_us * u128::from(weight)
    }

    fn evict(&mut self, id: NodeId) {
        let weight = self.slab.weight(id);
        if let Some(entry) = self.remove(id) {
            self.counters.evicted += 1;
            self.remember(entry.key.request_hash(), weight);
        }
    }

    fn find(&self, key: &Key) -> Option<NodeId> {
        let is_it = |id: &NodeId| self.slab.get(*id).is_some_and(|entry| entry.key == *key);
        self.table.find(key.hash(), is_it).copied()
    }

    fn link(&mut self, mut entry: Entry) {
        let weight = entry.weight();
        entry.in_main = self.ghost.remembers(entry.key.request_hash());
        entry.frequency = u8::from(entry.in_main && self.is_dear(entry.cost_us, weight));
        self.cost_us += u128::from(entry.cost_us);
        let (hash, slot, tenant) = (entry.key.hash(), self.slot_place(entry.slot), entry.tenant);
        let (group, in_main) = (Arc::clone(&entry.versions), entry.in_main);
        let bucket = entry.deadline_ms.map(|deadline| Self::bucket(deadline / WHEEL_TICK_MS));
        let Some(id) = self.slab.insert(entry, weight) else { return };
        let hash_of = |id: &NodeId| self.slab.get(*id).map_or(0, |entry| entry.key.hash());
        self.table.insert_unique(hash, id, hash_of);
        let queue = if in_main { &mut self.main } else { &mut self.small };
        self.slab.push(Chain::Queue, queue, id);
        self.slab.push(Chain::Slot, &mut self.slots[slot], id);
        if let Some(bucket) = bucket {
            self.slab.push(Chain::Wheel, &mut self.wheel[bucket], id);
        }
        let list = self.groups.entry(group).or_insert_with_key(|group| {
            self.group_turns.push_back(Arc::clone(group));
            List::default()
        });
        self.slab.push(Chain::Group, list, id);
        if tenant != 0 {
            self.slab.push(Chain::Tenant, self.tenants.entry(tenant).or_default(), id);
        }
    }

    fn remove(&mut self, id: NodeId) -> Option<Entry> {
        let entry = self.slab.get(id)?.clone();
        if let Ok(place) = self.table.find_entry(entry.key.hash(), |other| *other == id) {
            place.remove();
        }
        let queue = if entry.in_main { &mut self.main } else { &mut self.small };
        self.slab.unlink(Chain::Queue, queue, id);
        let slot = self.slot_place(entry.slot);
        self.slab.unlink(Chain::Slot, &mut self.slots[slot], id);
        if let Some(deadline) = entry.deadline_ms {
            let bucket = Self::bucket(deadline / WHEEL_TICK_MS);
            self.slab.unlink(Chain::Wheel, &mut self.wheel[bucket], id);
        }
        if let Some(list) = self.groups.get_mut(&entry.versions) {
            // An empty group is forgotten at its turn.
            self.slab.unlink(Chain::Group, list, id);
        }
        if let Some(list) = self.tenants.get_mut(&entry.tenant) {
            self.slab.unlink(Chain::Tenant, list, id);
            if list.len() == 0 {
                self.tenants.remove(&entry.tenant);
            }
        }
        self.cost_us -= u128::from(entry.cost_us);
        self.slab.remove(id)
    }

    fn slot_place(&self, slot: Slot) -> usize {
        usize::from(slot.number() - self.first_slot)
    }

    /// The bucket of the wheel for a tick.
    fn bucket(tick: u64) -> usize {
        usize::try_from(tick % WHEEL_BUCKETS as u64).unwrap_or_default()
    }

    /// What everything in it weighs.
    pub(crate) fn bytes(&self) -> u64 {
        self.small.bytes() + self.main.bytes()
    }

    /// How many entries.
    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    pub(crate) fn counters(&self) -> Counters {
        self.counters
    }

    /// The slots that hold something: number, entries, bytes.
    pub(crate) fn slots(&self) -> impl Iterator<Item = (u16, u32, u64)> {
        let used = (self.first_slot..).zip(&self.slots).filter(|(_, list)| list.len() > 0);
        used.map(|(number, list)| (number, list.len(), list.bytes()))
    }

    /// The entries of one of its slots, oldest first.
    pub(crate) fn slot_entries(&self, slot: Slot) -> impl Iterator<Item = &Entry> {
        let list = self.slots.get(self.slot_place(slot));
        list.into_iter().flat_map(|list| self.slab.iter(Chain::Slot, list))
    }

    /// Every block that has not expired, those that have lasted longest first.
    pub(crate) fn blocks(&self, now_ms: u64) -> Vec<Bytes> {
        let queues = [&self.main, &self.small];
        let entries = queues.into_iter().flat_map(|queue| self.slab.iter(Chain::Queue, queue));
        let live = entries.filter(|entry| !entry.is_expired(now_ms));
        live.map(|entry| entry.block.clone()).collect()
    }
}

#[cfg(test)]
mod tests;
