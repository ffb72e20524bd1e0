//! Tests of persistence: warm after a restart, never with what is outdated; failures, power cuts
//! and damage cost warmth alone.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use egret_aof::disk::sim::{Fault, SimDisk};

use super::*;
use crate::cache::ResultCache;
use crate::clock::SystemClock;
use crate::key::{Canonical, Generation};
use crate::store::{Fill, Request};

type Cache = ResultCache<String>;

const FOLDER: &str = "/cache";

fn options() -> Options {
    Options { log_retry: Duration::from_millis(1), ..Options::default() }
}

/// Opens the cache where every index is at this generation.
fn open_at(disk: &SimDisk, number: u64) -> Cache {
    open_with(disk, &options(), number)
}

fn open_with(disk: &SimDisk, options: &Options, number: u64) -> Cache {
    let clock = Arc::<SystemClock>::default();
    let current = |_| Some(Generation { term: 1, number });
    Cache::open(Arc::new(disk.clone()), Path::new(FOLDER), options, clock, current).unwrap()
}

fn request(cache: &Cache, place: usize, number: u64) -> Request {
    let generation = Generation { term: 1, number };
    let version = Version { index: Uuid::from_u128(1), generation };
    cache.request(Canonical::new([("query", place.to_string().as_bytes())]), [version])
}

fn value(place: usize) -> String {
    format!("answer {place} ").repeat(place % 7 + 1)
}

fn fill(cache: &Cache, places: std::ops::Range<usize>, number: u64) {
    for place in places {
        let request = request(cache, place, number);
        let fill = cache.fill(&request, value(place).as_bytes(), Duration::from_millis(1));
        assert_eq!(fill, Fill::Stored);
    }
}

/// How many of these are found; whatever is found is right.
fn found(cache: &Cache, places: std::ops::Range<usize>, number: u64) -> usize {
    places
        .filter(|&place| {
            let answer = cache.peek(&request(cache, place, number));
            answer.is_some_and(|answer| {
                assert_eq!(answer, value(place).as_bytes());
                true
            })
        })
        .count()
}

/// Waits for something that the thread does by and by.
fn until(cache: &Cache, done: impl Fn(&LogStats) -> bool) -> LogStats {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let stats = cache.stats().log;
        if done(&stats) {
            return stats;
        }
        assert!(Instant::now() < deadline, "it does not happen: {stats:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn is_failed(stats: &LogStats) -> bool {
    matches!(stats.state, LogState::Failed { .. })
}

#[test]
fn a_cache_is_warm_after_a_restart() {
    let disk = SimDisk::new();
    let cache = open_at(&disk, 1);
    assert_eq!(cache.stats().log.state, LogState::Writing);
    fill(&cache, 0..100, 1);
    drop(cache);
    let cache = open_at(&disk, 1);
    assert_eq!(found(&cache, 0..100, 1), 100);
    let log = cache.stats().log;
    assert_eq!((log.restored, log.not_restored, log.skipped), (100, 0, 0));
}

#[test]
fn an_older_generation_is_not_revived() {
    let disk = SimDisk::new();
    let cache = open_at(&disk, 1);
    fill(&cache, 0..20, 1);
    fill(&cache, 0..10, 2);
    drop(cache);
    let check = |now: u64, restored: u64| {
        let cache = open_at(&disk.clone(), now);
        assert_eq!(cache.stats().log.restored, restored, "at generation {now}");
        let all: usize = (1..=3).map(|number| found(&cache, 0..20, number)).sum();
        assert_eq!(all as u64, restored);
    };
    check(2, 10);
    check(3, 0);
}

#[test]
fn a_purged_index_is_not_revived_even_where_the_owner_says_so() {
    let disk = SimDisk::new();
    let cache = open_at(&disk, 1);
    fill(&cache, 0..20, 1);
    cache.purge(Uuid::from_u128(1));
    drop(cache);
    let cache = open_at(&disk, 1);
    assert_eq!(found(&cache, 0..20, 1), 0);
}

#[test]
fn a_power_cut_costs_only_what_was_not_synced() {
    for seed in 0..100 {
        let disk = SimDisk::new();
        let cache = open_at(&disk, 1);
        fill(&cache, 0..20, 1);
        cache.flush();
        fill(&cache, 20..40, 1);
        let after = disk.power_cut(seed);
        drop(cache);
        let cache = open_at(&after, 1);
        assert_eq!(found(&cache, 0..20, 1), 20, "seed {seed}");
        found(&cache, 20..40, 1);
        fill(&cache, 40..50, 1);
        drop(cache);
        assert_eq!(found(&open_at(&after, 1), 40..50, 1), 10, "seed {seed}");
    }
}

#[test]
fn a_log_that_fails_stops_nothing_and_returns_from_memory() {
    for fault in [Fault::SyncFailure, Fault::NoSpace, Fault::TornWrite, Fault::Io] {
        let disk = SimDisk::new();
        let cache = open_at(&disk, 1);
        fill(&cache, 0..10, 1);
        cache.flush();
        disk.fail_from(disk.operations(), fault);
        fill(&cache, 10..20, 1);
        cache.flush();
        let stats = until(&cache, is_failed);
        let LogState::Failed { reason } = stats.state else { unreachable!("it has failed") };
        assert!(reason.contains("/cache/log/"), "{reason}");
        fill(&cache, 20..30, 1);
        assert_eq!(found(&cache, 0..30, 1), 30);
        disk.heal();
        until(&cache, |stats| stats.state == LogState::Writing);
        fill(&cache, 30..40, 1);
        drop(cache);
        assert_eq!(found(&open_at(&disk, 1), 0..40, 1), 40, "{fault:?}");
    }
}

#[test]
fn a_folder_that_cannot_be_opened_leaves_a_cache_in_memory() {
    let disk = SimDisk::new();
    disk.fail_from(0, Fault::NoSpace);
    let cache = open_at(&disk, 1);
    assert!(is_failed(&cache.stats().log));
    fill(&cache, 0..10, 1);
    assert_eq!(found(&cache, 0..10, 1), 10);
    disk.heal();
    until(&cache, |stats| stats.state == LogState::Writing);
    drop(cache);
    assert_eq!(found(&open_at(&disk, 1), 0..10, 1), 10);
}

#[test]
fn two_caches_cannot_share_a_log() {
    let disk = SimDisk::new();
    let first = open_at(&disk, 1);
    let second = open_at(&disk, 1);
    assert!(is_failed(&second.stats().log));
    fill(&second, 0..10, 1);
    assert_eq!(found(&second, 0..10, 1), 10);
    drop(first);
    until(&second, |stats| stats.state == LogState::Writing);
}

#[test]
fn a_log_that_grew_too_long_is_rewritten() {
    let disk = SimDisk::new();
    let options = Options { rewrite_slack_bytes: 100_000, ..options() };
    let cache = open_with(&disk, &options, 1);
    for _ in 0..100 {
        fill(&cache, 0..20, 1);
        cache.flush();
    }
    // Where it rests depends on when the thread looked at it; a hundred fills of each are 250 KB.
    let limit = 2 * cache.stats().bytes + options.rewrite_slack_bytes;
    let stats = until(&cache, |stats| stats.rewrites > 0 && stats.bytes <= limit);
    assert_eq!((stats.failures, stats.skipped), (0, 0));
    drop(cache);
    assert_eq!(found(&open_at(&disk, 1), 0..20, 1), 20);
}

#[test]
fn damaged_files_cost_warmth_alone() {
    let disk = SimDisk::new();
    let cache = open_at(&disk, 1);
    fill(&cache, 0..20, 1);
    drop(cache);
    for (file, whole) in files(&disk) {
        for place in (0..whole.len()).step_by(whole.len() / 20 + 1) {
            let mut damaged = whole.clone();
            damaged[place] ^= 0x10;
            let disk = copy(&disk);
            disk.damage(&file, &damaged).unwrap();
            let cache = open_at(&disk, 1);
            let kept = found(&cache, 0..20, 1);
            assert!(!file.ends_with("secret") || kept == 0, "{} at {place}", file.display());
            fill(&cache, 20..30, 1);
            until(&cache, |stats| stats.state == LogState::Writing);
            drop(cache);
            let again = found(&open_at(&disk, 1), 20..30, 1);
            assert_eq!(again, 10, "{} at {place}", file.display());
        }
    }
}

/// Every file of a cache with its content.
fn files(disk: &SimDisk) -> Vec<(PathBuf, Vec<u8>)> {
    let log = Path::new(FOLDER).join("log");
    let names = disk.list(&log).unwrap().into_iter().map(|name| log.join(name));
    let paths = names.chain([Path::new(FOLDER).join("secret")]);
    paths.map(|path| (path.clone(), disk.read(&path).unwrap())).collect()
}

fn copy(disk: &SimDisk) -> SimDisk {
    let copy = SimDisk::new();
    copy.create_folder(&Path::new(FOLDER).join("log")).unwrap();
    for (path, content) in files(disk) {
        copy.create(&path).unwrap().write_all(&content).unwrap();
    }
    copy
}

#[test]
fn what_the_thread_cannot_take_in_time_is_skipped_and_counted() {
    let disk = SimDisk::new();
    let cache = open_with(&disk, &Options { max_queued_bytes: 0, ..options() }, 1);
    fill(&cache, 0..10, 1);
    assert_eq!((found(&cache, 0..10, 1), cache.stats().log.skipped), (10, 10));
}
