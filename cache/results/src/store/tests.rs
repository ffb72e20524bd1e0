//! Tests of the store: what is served after damage, collisions, refreshes, purges, and time.

use super::*;
use crate::clock::HeldClock;
use crate::key::Generation;

impl Store {
    /// Puts another block where this request's is.
    fn replace_block(&self, request: &Request, block: Bytes) {
        let entry = Entry::new(request.key.clone(), Arc::clone(&request.versions), block);
        self.shard(entry.slot).lock().insert(entry, &self.generations, 0);
    }

    fn block(&self, request: &Request) -> Bytes {
        self.shard(request.key.slot()).lock().look_up(&request.key, 0).unwrap()
    }

    fn entries(&self) -> u64 {
        self.shard_stats().iter().map(|shard| shard.entries).sum()
    }
}

fn version(index: u128, number: u64) -> Version {
    Version { index: Uuid::from_u128(index), generation: Generation { term: 1, number } }
}

struct Bench {
    store: Store,
    clock: Arc<HeldClock>,
}

fn bench() -> Bench {
    bench_with(&Options::default())
}

fn bench_with(options: &Options) -> Bench {
    let clock = Arc::<HeldClock>::default();
    clock.step_to(Duration::from_secs(1_000_000));
    let secret = Secret::from_bytes([3; Secret::BYTES]);
    Bench { store: Store::new(options, secret, Arc::clone(&clock) as _), clock }
}

impl Bench {
    fn request(&self, text: &str, number: u64) -> Request {
        self.store.request(Canonical::new([("query", text.as_bytes())]), [version(1, number)])
    }

    fn fill(&self, request: &Request, value: &str) -> Fill {
        self.store.insert(request, value.as_bytes(), Duration::from_millis(1))
    }

    #[track_caller]
    fn check(&self, request: &Request, expected: Option<&str>) {
        let found = self.store.look_up(request);
        assert_eq!(found.as_deref(), expected.map(str::as_bytes));
    }
}

#[test]
fn an_answer_is_served_to_its_request_at_its_generation() {
    let bench = bench();
    let request = bench.request("a", 1);
    bench.check(&request, None);
    assert_eq!(bench.fill(&request, "answer"), Fill::Stored);
    bench.check(&request, Some("answer"));
    bench.check(&bench.request("b", 1), None);
    bench.check(&bench.request("a", 2), None);
    bench.fill(&request, "");
    bench.check(&request, Some(""));
}

#[test]
fn a_fill_that_comes_after_a_refresh_is_dropped() {
    let bench = bench();
    let (old, new) = (bench.request("a", 1), bench.request("a", 2));
    bench.store.observe(old.versions());
    bench.store.observe(new.versions());
    assert_eq!(bench.fill(&old, "old"), Fill::Outdated);
    bench.check(&old, None);
    bench.check(&new, None);
    assert_eq!(bench.fill(&new, "new"), Fill::Stored);
    bench.check(&new, Some("new"));
}

#[test]
fn a_deleted_index_stays_deleted_and_its_successor_is_another() {
    let bench = bench();
    let request = bench.request("a", 1);
    bench.fill(&request, "answer");
    let both = [version(1, 1), version(2, 1)];
    let joint = bench.store.request(request.canonical.clone(), both);
    bench.fill(&joint, "joint");
    bench.store.purge(Uuid::from_u128(1));
    bench.check(&request, None);
    bench.check(&joint, None);
    assert_eq!(bench.fill(&request, "answer"), Fill::Outdated);
    assert_eq!(bench.fill(&joint, "joint"), Fill::Outdated);
    assert_eq!(bench.store.entries(), 0);
    let successor = bench.store.request(request.canonical.clone(), [version(3, 1)]);
    bench.check(&successor, None);
    assert_eq!(bench.fill(&successor, "new"), Fill::Stored);
}

#[test]
fn a_flipped_bit_a_cut_and_anothers_block_are_misses_and_counted() {
    let bench = bench();
    let (request, other) = (bench.request("a", 1), bench.request("b", 1));
    bench.fill(&request, "answer");
    bench.fill(&other, "other answer");
    let (whole, others) = (bench.store.block(&request), bench.store.block(&other));
    let mut damaged: Vec<Bytes> = (0..whole.len()).map(|len| whole.slice(..len)).collect();
    damaged.extend((0..whole.len() * 8).map(|bit| {
        let mut bytes = whole.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        bytes.into()
    }));
    damaged.push(others);
    for (before, block) in damaged.into_iter().enumerate() {
        bench.store.replace_block(&request, block);
        bench.check(&request, None);
        assert_eq!(bench.store.counters.corrupt.load(Ordering::Relaxed), before as u64 + 1);
        assert_eq!(bench.store.entries(), 1, "the damaged entry is removed");
    }
    bench.check(&other, Some("other answer"));
}

#[test]
fn requests_with_the_same_key_do_not_get_each_others_answers() {
    let bench = bench();
    let request = bench.request("a", 1);
    bench.fill(&request, "answer");
    let collided = [
        Request { canonical: Canonical::new([("query", b"b".as_slice())]), ..request.clone() },
        Request { versions: sorted_versions([version(1, 2)]), ..request.clone() },
    ];
    for (before, other) in collided.iter().enumerate() {
        bench.check(other, None);
        assert_eq!(bench.store.counters.collisions.load(Ordering::Relaxed), before as u64 + 1);
    }
    bench.check(&request, Some("answer"));
    bench.fill(&collided[0], "other");
    bench.check(&collided[0], Some("other"));
    bench.check(&request, None);
}

#[test]
fn an_oversized_answer_is_refused_and_the_budget_holds() {
    let options = Options { budget_bytes: 1 << 20, max_entry_bytes: 8 << 10, ..Options::default() };
    let bench = bench_with(&options);
    assert_eq!(bench.fill(&bench.request("a", 1), &"x".repeat(9 << 10)), Fill::Oversized);
    for request in 0..1_000 {
        let request = bench.request(&request.to_string(), 1);
        assert_eq!(bench.fill(&request, &"x".repeat(7 << 10)), Fill::Stored);
        assert!(bench.store.bytes() <= options.budget_bytes);
    }
    assert!(bench.store.bytes() > options.budget_bytes / 2);
    let nothing = bench_with(&Options { budget_bytes: 0, ..Options::default() });
    assert_eq!(nothing.fill(&nothing.request("a", 1), ""), Fill::Oversized);
}

#[test]
fn answers_expire_at_different_times_that_the_calendar_has_no_say_in() {
    let ttl = Some(Duration::from_secs(1_000));
    let bench = bench_with(&Options { ttl, ttl_jitter_percent: 20, ..Options::default() });
    let requests: Vec<_> = (0..200).map(|place| bench.request(&place.to_string(), 1)).collect();
    for request in &requests {
        bench.fill(request, "answer");
    }
    let left = || requests.iter().filter(|request| bench.store.look_up(request).is_some()).count();
    bench.clock.step_to(Duration::from_secs(9_000_000));
    assert_eq!(left(), 200);
    bench.clock.step_to(Duration::ZERO);
    bench.clock.advance(Duration::from_secs(799));
    assert_eq!(left(), 200);
    bench.clock.advance(Duration::from_secs(100));
    assert!((50..150).contains(&left()), "{} left at half the jitter", left());
    bench.clock.advance(Duration::from_secs(101));
    assert_eq!(left(), 0);
    bench.store.clean();
    assert_eq!((bench.store.entries(), bench.store.bytes()), (0, 0));
}

#[test]
fn what_is_restored_keeps_its_age_whatever_the_clock_did() {
    let ttl = Some(Duration::from_secs(100));
    let options = Options { ttl, ttl_jitter_percent: 0, ..Options::default() };
    let first = bench_with(&options);
    let request = first.request("a", 1);
    first.fill(&request, "answer");
    let block = first.store.block(&request);
    let check = |restarted_at: u64, restored: bool, then_seconds: u64| {
        let bench = bench_with(&options);
        bench.clock.step_to(Duration::from_secs(restarted_at));
        assert_eq!(bench.store.restore(block.clone(), &|_| true), restored, "at {restarted_at}");
        if restored {
            bench.clock.advance(Duration::from_secs(then_seconds - 1));
            bench.check(&request, Some("answer"));
            bench.clock.advance(Duration::from_secs(1));
        }
        bench.check(&request, None);
    };
    check(1_000_000, true, 100);
    check(1_000_060, true, 40);
    check(1_000_100, false, 0);
    check(9_000_000, false, 0);
    check(0, true, 100);
}

#[test]
fn nothing_damaged_outdated_or_of_another_secret_is_restored() {
    let first = bench();
    let request = first.request("a", 1);
    first.fill(&request, "answer");
    let block = first.store.block(&request);
    let check = |prepare: &dyn Fn(&mut Store), block: &Bytes, restored: bool| {
        let mut bench = bench();
        prepare(&mut bench.store);
        assert_eq!(bench.store.restore(block.clone(), &|_| true), restored);
    };
    check(&|_| {}, &block, true);
    check(&|_| {}, &block.slice(1..), false);
    check(&|store| store.observe(&[version(1, 2)]), &block, false);
    check(&|store| store.purge(Uuid::from_u128(1)), &block, false);
    check(&|store| store.secret = Secret::random(), &block, false);
}

#[test]
fn slots_can_be_looked_into() {
    let bench = bench();
    let requests: Vec<_> = (0..50).map(|place| bench.request(&place.to_string(), 1)).collect();
    for request in &requests {
        bench.fill(request, "answer");
    }
    for request in &requests {
        let slot = request.key().slot();
        assert!(bench.store.slot_keys(slot, 10).contains(request.key()));
        let shard = &bench.store.shard_stats()[usize::from(slot.number()) / 1024];
        assert!((shard.first_slot..=shard.last_slot).contains(&slot.number()));
    }
    let fullest = bench.store.fullest_slots(5);
    assert_eq!(fullest.len(), 5);
    assert!(fullest.is_sorted_by(|a, b| a.bytes >= b.bytes));
}
