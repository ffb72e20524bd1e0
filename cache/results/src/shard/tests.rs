//! Tests of one shard: eviction, accounting, expiry, outdated groups.

use proptest::prelude::*;

use super::*;
use crate::key::{Generation, Secret};

const BLOCK_BYTES: usize = 1000;
const SLOTS: u16 = 16;
const WEIGHT: u64 = BLOCK_BYTES as u64 + ENTRY_OVERHEAD_BYTES;

fn shard(entries: u64) -> Shard {
    Shard::new(Budget { bytes: entries * WEIGHT, tenant_bytes: None }, 0, SLOTS)
}

fn versions(index: u128, number: u64) -> Arc<[Version]> {
    let generation = Generation { term: 1, number };
    Arc::new([Version { index: Uuid::from_u128(index), generation }])
}

fn key(request: u64, versions: &[Version]) -> Key {
    Key::new(&Secret::from_bytes([1; Secret::BYTES]), &request.to_le_bytes(), versions)
}

fn entry_at(request: u64, versions: &Arc<[Version]>) -> Entry {
    let block = Bytes::from(vec![0; BLOCK_BYTES]);
    let mut entry = Entry::new(key(request, versions), Arc::clone(versions), block);
    // Few slots, so that counting everything after every step stays cheap.
    entry.slot = Slot::from_number(entry.slot.number() % SLOTS).unwrap();
    entry
}

/// A shard, with what its methods need.
struct Bench {
    shard: Shard,
    generations: Generations,
    now_ms: u64,
}

impl Bench {
    fn new(entries: u64) -> Self {
        Self { shard: shard(entries), generations: Generations::default(), now_ms: 0 }
    }

    fn insert(&mut self, entry: Entry) {
        self.shard.insert(entry, &self.generations, self.now_ms);
        check_accounts(&self.shard);
    }

    fn ask(&mut self, request: u64) -> bool {
        self.ask_at(request, 1)
    }

    fn ask_at(&mut self, request: u64, number: u64) -> bool {
        self.shard.look_up(&key(request, &versions(1, number)), self.now_ms).is_some()
    }

    fn fill(&mut self, request: u64) {
        self.insert(entry_at(request, &versions(1, 1)));
    }
}

/// Everything that is counted while it changes, counted again from the start.
fn check_accounts(shard: &Shard) {
    assert!(shard.bytes() <= shard.budget.bytes, "{} bytes", shard.bytes());
    let all: Vec<_> = [&shard.small, &shard.main]
        .into_iter()
        .flat_map(|queue| shard.slab.iter(Chain::Queue, queue))
        .collect();
    let weight = all.iter().map(|entry| entry.weight()).sum::<u64>();
    assert_eq!((shard.len(), shard.bytes()), (all.len(), weight));
    assert_eq!(shard.cost_us, all.iter().map(|entry| u128::from(entry.cost_us)).sum());
    let in_slots: u64 = shard.slots().map(|(_, _, bytes)| bytes).sum();
    assert_eq!(in_slots, weight);
    let in_groups: u64 = shard.groups.values().map(List::bytes).sum();
    assert_eq!(in_groups, weight);
    assert_eq!(shard.groups.len(), shard.group_turns.len());
    let with_tenant = all.iter().filter(|entry| entry.tenant != 0).map(|entry| entry.weight());
    assert_eq!(shard.tenants.values().map(List::bytes).sum::<u64>(), with_tenant.sum());
    let expiring = all.iter().filter(|entry| entry.deadline_ms.is_some()).count();
    assert_eq!(shard.wheel.iter().map(|list| list.len() as usize).sum::<usize>(), expiring);
}

#[test]
fn a_flood_of_one_off_requests_does_not_evict_the_hot_ones() {
    let mut bench = Bench::new(100);
    for hot in 0..50 {
        bench.fill(hot);
        assert!(bench.ask(hot));
    }
    for one_off in 1_000..11_000 {
        bench.fill(one_off);
    }
    let kept = (0..50).filter(|&hot| bench.ask(hot)).count();
    assert_eq!(kept, 50);
    assert!(bench.shard.len() > 90);
}

#[test]
fn a_request_that_returns_soon_after_its_eviction_stays() {
    let mut bench = Bench::new(100);
    for request in 0..110 {
        bench.fill(request);
    }
    assert!(!bench.ask(5));
    bench.fill(5);
    for one_off in 1_000..1_500 {
        bench.fill(one_off);
    }
    assert!(bench.ask(5));
}

#[test]
fn a_dear_answer_outlives_cheap_ones() {
    let mut bench = Bench::new(100);
    for request in 0..80 {
        let mut entry = entry_at(request, &versions(1, 1));
        entry.cost_us = if request == 0 { 1_000_000 } else { 100 };
        bench.insert(entry);
        bench.ask(request);
    }
    // Enough popular newcomers to push each of the first out of the main queue once.
    for request in 1_000..1_095 {
        bench.fill(request);
        bench.ask(request);
    }
    assert!(bench.ask(0));
    assert!((1..20).all(|cheap| !bench.ask(cheap)));
}

#[test]
fn a_tenant_keeps_to_its_quota_and_evicts_only_its_own() {
    let mut bench = Bench::new(100);
    bench.shard.budget.tenant_bytes = Some(10 * WEIGHT);
    bench.fill(0);
    for request in 1..50 {
        let mut entry = entry_at(request, &versions(1, 1));
        entry.tenant = 7;
        bench.insert(entry);
        assert!(bench.shard.tenants[&7].bytes() <= 10 * WEIGHT);
    }
    assert_eq!(bench.shard.len(), 11);
    assert!(bench.ask(0) && bench.ask(49) && !bench.ask(39));
}

#[test]
fn what_expired_is_not_served_and_is_removed_without_being_asked_for() {
    let mut bench = Bench::new(100);
    for request in 0..40 {
        let mut entry = entry_at(request, &versions(1, 1));
        entry.deadline_ms = Some(request * 1_000 + 500);
        bench.insert(entry);
    }
    bench.now_ms = 10_500;
    assert!(!bench.ask(10) && bench.ask(11));
    bench.shard.expire(bench.now_ms, usize::MAX);
    check_accounts(&bench.shard);
    assert!(bench.shard.len() < 34, "{} left", bench.shard.len());
    // The clock of the wheel leaps over several turns.
    bench.now_ms = 100 * WHEEL_TICK_MS * WHEEL_BUCKETS as u64;
    bench.shard.expire(bench.now_ms, 3);
    assert!(bench.shard.len() > 0);
    bench.shard.expire(bench.now_ms, usize::MAX);
    assert_eq!(bench.shard.len(), 0);
    assert_eq!(bench.shard.counters().expired, 40);
}

#[test]
fn older_generations_go_little_by_little_and_popular_requests_are_known_again() {
    let mut bench = Bench::new(300);
    for request in 0..200 {
        bench.fill(request);
    }
    bench.ask(7);
    bench.generations.observe(&versions(1, 2));
    let mut before = bench.shard.len();
    for request in 1_000..1_015 {
        bench.insert(entry_at(request, &versions(1, 2)));
        assert!(before < bench.shard.len() + CLEANED_BY_INSERTION);
        before = bench.shard.len();
    }
    assert_eq!(bench.shard.len(), 15);
    bench.insert(entry_at(7, &versions(1, 2)));
    assert_eq!(bench.shard.main.len(), 1);
    assert_eq!(bench.shard.groups.len(), 1);
}

#[test]
fn purging_takes_every_entry_that_an_index_has_a_part_in() {
    let mut bench = Bench::new(100);
    let both: Arc<[Version]> = versions(1, 1).iter().chain(&*versions(2, 1)).copied().collect();
    for request in 0..10 {
        bench.fill(request);
        bench.insert(entry_at(request, &versions(2, 1)));
        bench.insert(entry_at(request, &both));
    }
    assert!(!bench.shard.purge(Uuid::from_u128(1), 15));
    assert!(bench.shard.purge(Uuid::from_u128(1), 15));
    assert_eq!(bench.shard.len(), 10);
    check_accounts(&bench.shard);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Against a map that forgets nothing: what is found is what was stored last, and the accounts
    /// are right after every step.
    #[test]
    fn any_sequence_keeps_the_accounts(
        steps in prop::collection::vec((0..6_u8, 0..40_u64, 0..3_u64, 0..3_usize), 1..150),
    ) {
        let mut bench = Bench::new(12);
        bench.shard.budget.tenant_bytes = Some(4 * WEIGHT);
        let mut stored = std::collections::HashMap::new();
        for (step, request, number, size) in steps {
            match step {
                0..=2 => {
                    let mut entry = entry_at(request, &versions(1, number));
                    entry.block = Bytes::from(vec![0; BLOCK_BYTES * (size + 1)]);
                    entry.tenant = request % 3;
                    entry.cost_us = request;
                    entry.deadline_ms = (size == 0).then(|| bench.now_ms + 5_000 * (request + 1));
                    stored.insert((request, number), entry.block.clone());
                    bench.insert(entry);
                }
                3 => {
                    let key = key(request, &versions(1, number));
                    if let Some(block) = bench.shard.look_up(&key, bench.now_ms) {
                        prop_assert_eq!(block.as_ptr(), stored[&(request, number)].as_ptr());
                    }
                }
                4 => bench.now_ms += request * 1_000,
                _ => bench.generations.observe(&versions(1, number)),
            }
            check_accounts(&bench.shard);
        }
    }
}
