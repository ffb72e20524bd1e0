//! Tests of the front: who computes, who waits, and what becomes of those who wait when a leader
//! fails, panics, is cancelled, or never ends.

use std::sync::atomic::AtomicUsize;

use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet, yield_now};

use super::*;
use crate::clock::SystemClock;
use crate::key::Generation;

type Cache = Arc<ResultCache<String>>;
type Answer = Result<(Bytes, Outcome), NoAnswer<String>>;

fn cache_with(options: &Options) -> Cache {
    Arc::new(ResultCache::in_memory(options, Arc::<SystemClock>::default()).unwrap())
}

fn cache() -> Cache {
    cache_with(&Options::default())
}

fn request(cache: &Cache, number: u64) -> Request {
    let generation = Generation { term: 1, number };
    let version = Version { index: Uuid::from_u128(1), generation };
    cache.request(Canonical::new([("query", b"a".as_slice())]), [version])
}

fn computed(text: &str) -> Computed {
    let bytes = Bytes::copy_from_slice(text.as_bytes());
    Computed { bytes, storable: true, cost: Duration::from_millis(1) }
}

#[expect(clippy::unnecessary_wraps, reason = "compared with results")]
fn served(text: &'static str, outcome: Outcome) -> Answer {
    Ok((Bytes::from_static(text.as_bytes()), outcome))
}

/// Asks in a task of its own, and computes after `gate` opens.
fn ask(
    cache: &Cache,
    request: &Request,
    gate: &Arc<Notify>,
    result: Result<Computed, Failure<String>>,
) -> JoinHandle<Answer> {
    let (cache, request, gate) = (Arc::clone(cache), request.clone(), Arc::clone(gate));
    tokio::spawn(async move {
        let compute = async || {
            gate.notified().await;
            result
        };
        cache.get_or_compute(&request, compute).await
    })
}

/// Lets every task that can run do so.
async fn settle() {
    for _ in 0..100 {
        yield_now().await;
    }
}

/// Asks in a task of its own, counting the computations.
async fn ask_counted(
    cache: Cache,
    number: u64,
    gate: Arc<Notify>,
    calls: Arc<AtomicUsize>,
) -> Answer {
    let compute = async || {
        calls.fetch_add(1, Ordering::Relaxed);
        gate.notified().await;
        Ok(computed("answer"))
    };
    cache.get_or_compute(&request(&cache, number), compute).await
}

async fn ask_and_panic(cache: Cache, request: Request, gate: Arc<Notify>) -> Answer {
    let compute = async || {
        gate.notified().await;
        panic!("on purpose")
    };
    cache.get_or_compute(&request, compute).await
}

#[tokio::test]
async fn a_thousand_identical_misses_are_one_computation() {
    let (cache, gate, calls) = (cache(), Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
    let mut tasks = JoinSet::new();
    for _ in 0..1_000 {
        let (gate, calls) = (Arc::clone(&gate), Arc::clone(&calls));
        tasks.spawn(ask_counted(Arc::clone(&cache), 1, gate, calls));
    }
    settle().await;
    gate.notify_one();
    let answers = tasks.join_all().await;
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    let of =
        |outcome| answers.iter().filter(|answer| **answer == served("answer", outcome)).count();
    assert_eq!((of(Outcome::Miss), of(Outcome::Joined)), (1, 999));
    let stats = cache.stats();
    assert_eq!((stats.misses, stats.joined, stats.hits, stats.flights), (1, 999, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_threads_compute_each_request_once() {
    let (cache, calls) = (cache(), Arc::new(AtomicUsize::new(0)));
    let mut tasks = JoinSet::new();
    for place in 0..2_000 {
        let gate = Arc::new(Notify::new());
        gate.notify_one();
        tasks.spawn(ask_counted(Arc::clone(&cache), place / 4, gate, Arc::clone(&calls)));
    }
    let answers = tasks.join_all().await;
    assert!(answers.iter().all(|answer| answer.as_ref().is_ok_and(|(bytes, _)| bytes == "answer")));
    // One that lags behind may find its generation outdated: its answer is not stored.
    let stats = cache.stats();
    assert_eq!(stats.hits + stats.misses + stats.joined, 2_000);
    assert_eq!(stats.misses, calls.load(Ordering::Relaxed) as u64);
    assert!(stats.misses - 500 <= stats.refused_outdated, "{stats:?}");
}

#[tokio::test]
async fn a_fill_begun_before_a_refresh_is_never_served_after_it() {
    let (cache, gate) = (cache(), Arc::new(Notify::new()));
    let (old, new) = (request(&cache, 1), request(&cache, 2));
    let leader = ask(&cache, &old, &gate, Ok(computed("old")));
    settle().await;
    cache.advance(new.versions()[0]);
    // One who comes after the refresh does not wait for the older flight.
    let later = cache.get_or_compute(&new, async || Ok(computed("new"))).await;
    assert_eq!(later, served("new", Outcome::Miss));
    gate.notify_one();
    assert_eq!(leader.await.unwrap(), served("old", Outcome::Miss));
    assert_eq!((cache.peek(&old), cache.peek(&new)), (None, Some(Bytes::from_static(b"new"))));
    assert_eq!(cache.stats().refused_outdated, 1);
}

#[tokio::test]
async fn an_index_deleted_during_a_flight_does_not_come_back() {
    let (cache, gate) = (cache(), Arc::new(Notify::new()));
    let request = request(&cache, 1);
    let leader = ask(&cache, &request, &gate, Ok(computed("answer")));
    settle().await;
    cache.purge(request.versions()[0].index);
    gate.notify_one();
    leader.await.unwrap().unwrap();
    assert_eq!((cache.peek(&request), cache.stats().entries), (None, 0));
}

#[tokio::test]
async fn those_who_wait_go_on_when_a_leader_is_cancelled_panics_or_fails_alone() {
    for end in ["cancelled", "panics", "fails"] {
        let (cache, gate, never) = (cache(), Arc::new(Notify::new()), Arc::new(Notify::new()));
        let request = request(&cache, 1);
        let leader = match end {
            "cancelled" => ask(&cache, &request, &never, Ok(computed("never"))),
            "fails" => ask(&cache, &request, &gate, Err(Failure::Own("too late".to_owned()))),
            _ => {
                let (cache, request) = (Arc::clone(&cache), request.clone());
                tokio::spawn(ask_and_panic(cache, request, Arc::clone(&gate)))
            }
        };
        settle().await;
        let opened = Arc::new(Notify::new());
        let waiters: Vec<_> =
            (0..10).map(|_| ask(&cache, &request, &opened, Ok(computed("answer")))).collect();
        settle().await;
        if end == "cancelled" {
            leader.abort();
        } else {
            gate.notify_one();
        }
        match leader.await {
            Err(stopped) => assert_ne!(end, "fails", "{stopped}"),
            Ok(answer) => assert_eq!(answer, Err(NoAnswer::Failed("too late".to_owned()))),
        }
        opened.notify_one();
        let mut joined = 0;
        for waiter in waiters {
            let (bytes, outcome) = waiter.await.unwrap().unwrap();
            assert_eq!(bytes, "answer");
            joined += usize::from(outcome == Outcome::Joined);
        }
        assert_eq!((joined, cache.stats().flights), (9, 0), "after the leader {end}");
    }
}

#[tokio::test]
async fn an_error_that_all_share_reaches_all_and_is_not_stored() {
    let (cache, gate) = (cache(), Arc::new(Notify::new()));
    let request = request(&cache, 1);
    let failure = || Err(Failure::Shared("no such field".to_owned()));
    let tasks: Vec<_> = (0..10).map(|_| ask(&cache, &request, &gate, failure())).collect();
    settle().await;
    gate.notify_one();
    for task in tasks {
        assert_eq!(task.await.unwrap(), Err(NoAnswer::Failed("no such field".to_owned())));
    }
    let later = cache.get_or_compute(&request, async || Ok(computed("answer"))).await;
    assert_eq!(later, served("answer", Outcome::Miss));
}

#[tokio::test]
async fn what_may_not_be_stored_is_not() {
    let cache = cache();
    let request = request(&cache, 1);
    for _ in 0..2 {
        let partial = async || Ok(Computed { storable: false, ..computed("partial") });
        let answer = cache.get_or_compute(&request, partial).await;
        assert_eq!(answer, served("partial", Outcome::Miss));
    }
    assert_eq!(cache.stats().entries, 0);
}

#[tokio::test]
async fn one_who_comes_after_a_landing_does_not_join_it() {
    let (cache, gate) = (cache(), Arc::new(Notify::new()));
    let request = request(&cache, 1);
    let partial = || Ok(Computed { storable: false, ..computed("partial") });
    let leader = ask(&cache, &request, &gate, partial());
    settle().await;
    // This one is aboard, and is not polled when the flight lands.
    let mut waiter = Box::pin(cache.get_or_compute(&request, async || Ok(computed("own"))));
    assert!(tokio::time::timeout(Duration::ZERO, &mut waiter).await.is_err());
    gate.notify_one();
    leader.await.unwrap().unwrap();
    let later = cache.get_or_compute(&request, async || Ok(computed("later"))).await;
    assert_eq!(later, served("later", Outcome::Miss));
    assert_eq!(waiter.await, served("partial", Outcome::Joined));
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_never_ends_holds_nobody_for_ever() {
    let (cache, never) = (cache(), Arc::new(Notify::new()));
    let request = request(&cache, 1);
    let leader = ask(&cache, &request, &never, Ok(computed("never")));
    settle().await;
    let gate = Arc::new(Notify::new());
    let waiters: Vec<_> =
        (0..100).map(|_| ask(&cache, &request, &gate, Ok(computed("answer")))).collect();
    settle().await;
    gate.notify_one();
    // Paused time leaps to the time limit of those who wait, as nothing else is left to do.
    let mut misses = 0;
    for waiter in waiters {
        let (bytes, outcome) = waiter.await.unwrap().unwrap();
        assert_eq!(bytes, "answer");
        misses += usize::from(outcome == Outcome::Miss);
    }
    assert_eq!(misses, 1);
    never.notify_one();
    assert_eq!(leader.await.unwrap(), served("never", Outcome::Miss));
}

#[tokio::test(start_paused = true)]
async fn waiting_ends_even_where_every_leader_hangs() {
    let (cache, never) = (cache(), Arc::new(Notify::new()));
    let request = request(&cache, 1);
    let tasks: Vec<_> =
        (0..5).map(|_| ask(&cache, &request, &never, Ok(computed("never")))).collect();
    let mut late = 0;
    for task in tasks {
        match tokio::time::timeout(Duration::from_secs(60), task).await {
            Ok(answer) => {
                assert!(matches!(answer.unwrap(), Err(NoAnswer::TimedOut(_))));
                late += 1;
            }
            Err(_still_leading) => {}
        }
    }
    assert_eq!(late, 2, "one leads after each of three waits");
}

#[tokio::test]
async fn waiters_and_flights_are_bounded() {
    let options = Options { max_waiters: 3, max_flights: 1, ..Options::default() };
    let (cache, gate) = (cache_with(&options), Arc::new(Notify::new()));
    let (full, other) = (request(&cache, 1), request(&cache, 2));
    let aboard: Vec<_> = (0..3).map(|_| ask(&cache, &full, &gate, Ok(computed("a")))).collect();
    settle().await;
    let refused = cache.get_or_compute(&full, async || Ok(computed("a"))).await;
    assert_eq!(refused, Err(NoAnswer::Full { waiters: 3 }));
    let alone = cache.get_or_compute(&other, async || Ok(computed("b"))).await;
    assert_eq!(alone, served("b", Outcome::Bypass));
    gate.notify_one();
    for task in aboard {
        assert_eq!(task.await.unwrap().unwrap().0, "a");
    }
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let check = |options: Options, expected: &str| {
        let error = ResultCache::<String>::in_memory(&options, Arc::<SystemClock>::default());
        assert_eq!(error.unwrap_err().to_string(), expected);
    };
    let default = Options::default;
    check(Options { shards: 8, ..default() }, "shards is 8, expected 16, 32 or 64");
    check(Options { shards: 48, ..default() }, "shards is 48, expected 16, 32 or 64");
    let jitter = Options { ttl_jitter_percent: 101, ..default() };
    check(jitter, "ttl_jitter_percent is 101, expected at most 100");
    check(Options { max_waiters: 0, ..default() }, "max_waiters is 0, expected at least 1");
}

/// The server answers from a multi-threaded runtime.
#[test]
fn the_future_can_move_between_threads() {
    fn check<F: Future + Send>(_: F) {}
    let cache = cache();
    let request = request(&cache, 1);
    check(cache.get_or_compute(&request, || async { Ok(computed("a")) }));
}
