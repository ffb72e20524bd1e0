//! Hundreds of indexes: their writers share a few threads and one budget.

use egret_aof::disk::{Disk, FileDisk};

use super::merging::hold;
use super::*;
use crate::store::background::Lane;
use crate::store::budget::BudgetStats;
use crate::store::shared::Message;
use crate::store::writers::WriterStats;

const INDEXES: usize = 300;
/// Of those on a real disk.
const AT_REST: usize = 60;
const WRITERS: usize = 16;

fn options(disk: Arc<dyn Disk>, folder: PathBuf, budget: usize, limits: Limits) -> EngineOptions {
    EngineOptions { disk, folder, indexing_budget_bytes: budget, limits }
}

fn limits(max_open_writers: usize, max_write_wait_ms: u64) -> Limits {
    let max_write_wait = Duration::from_millis(max_write_wait_ms);
    // Nothing is flushed for its age alone.
    let flush_age = Duration::from_secs(3600);
    Limits { max_open_writers, flush_age, max_write_wait, ..Limits::default() }
}

/// An index that publishes only when asked, and so holds on to memory.
fn quiet(engine: &Engine, name: &str) -> Arc<Index> {
    let settings = json!({"refresh_interval": "-1"});
    let mappings = json!({"dynamic": false});
    let definition = IndexDefinition { mappings, settings, ..IndexDefinition::default() };
    engine.create_index(name, definition).unwrap()
}

fn threads(name: &str) -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names =
        tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|comm| comm.starts_with(name)).count()
}

/// Kilobytes of anonymous memory.
fn anonymous_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn expect_all(engine: &Engine, count: usize, documents: u64) {
    assert_eq!(engine.damaged(), []);
    let indexes = engine.indexes();
    assert_eq!(indexes.len(), count);
    for index in indexes {
        assert_eq!(index.snapshot().doc_count(), documents, "{}", index.name());
    }
}

/// Writes to hundreds of indexes in turn, kills the engine, and opens it again.
fn write_in_turn(
    name: &'static str,
    max_open_writers: usize,
    budget_bytes: usize,
    rounds: usize,
) -> (WriterStats, BudgetStats) {
    let disk = SimDisk::new();
    let open = |disk: &SimDisk| {
        let limits = limits(max_open_writers, 60_000);
        let disk: Arc<dyn Disk> = Arc::new(disk.clone());
        Engine::open(options(disk, PathBuf::from("/data"), budget_bytes, limits)).unwrap()
    };
    let engine = open(&disk);
    let indexes: Vec<_> = (0..INDEXES).map(|n| quiet(&engine, &format!("{name}{n}"))).collect();
    // A thread's name is cut off at fifteen characters.
    let prefix = format!("egret-write-{name}");
    assert_eq!(threads(&prefix), 0);
    let text = "x".repeat(20_000);
    for round in 0..rounds {
        for index in &indexes {
            write_one(index, upsert(&round.to_string(), &json!({"text": text}))).unwrap();
        }
        // Those that have given their places back may be about to end.
        eventually("few threads", || threads(&prefix) <= max_open_writers);
    }
    let (writers, budget) = (engine.writers(), engine.budget());
    eprintln!("{INDEXES} indexes in turn: {writers:?}, {budget:?}");
    drop((indexes, engine));
    let engine = open(&disk.kill());
    // A thread gives its place back, and ends a little later.
    eventually("no thread is left", || threads(&prefix) == 0);
    expect_all(&engine, INDEXES, rounds as u64);
    (writers, budget)
}

#[test]
fn hundreds_of_indexes_share_a_few_threads() {
    let (writers, _) = write_in_turn("few", WRITERS, 256 << 20, 4);
    assert!(writers.most_open <= WRITERS + 1 && writers.asked > 0, "{writers:?}");
}

/// Its work was done before it could be woken for it.
#[test]
fn a_writer_with_nothing_to_do_gets_no_thread() {
    let engine = open(&SimDisk::new());
    create(&engine, "i").shared().wake().unwrap();
    assert_eq!(engine.writers().most_open, 0);
}

/// Whoever finds an index closed may open its files.
#[test]
fn a_closed_index_has_let_go_of_its_files() {
    for turn in 0..50 {
        let disk = SimDisk::new();
        let engine = open(&disk);
        let index = create(&engine, "i");
        write_one(&index, upsert("1", &json!({}))).unwrap();
        let shared = index.shared();
        let (reply, answer) = crossbeam_channel::bounded(1);
        shared.queue.send(Message::Close { flush: false, reply }).unwrap();
        while shared.wake().is_ok() {}
        let lock = format!("/data/indexes/{}/translog/lock", index.uuid());
        assert!(disk.lock(&PathBuf::from(lock)).is_ok(), "turn {turn}");
        answer.recv().unwrap().unwrap();
        assert_eq!(index.flush().unwrap_err().kind(), ErrorKind::Closed);
    }
}

#[test]
fn hundreds_of_indexes_share_one_budget() {
    const BUDGET_BYTES: usize = 8 << 20;
    let (writers, budget) = write_in_turn("mem", 2 * INDEXES, BUDGET_BYTES, 2);
    // Each takes some eighty kilobytes while it builds a segment, three times the budget in all; there
    // are threads enough.
    assert_eq!(writers.asked, 0, "{writers:?}");
    // Past twice the budget a write waits; one may have been on its way.
    let most = 2 * BUDGET_BYTES + (1 << 20);
    assert!((BUDGET_BYTES..=most).contains(&budget.most_bytes), "{budget:?}");
}

#[test]
fn indexes_at_rest_cost_no_threads_and_little_memory() {
    let folder = tempfile::tempdir().unwrap();
    let open = || {
        let folder = folder.path().to_owned();
        Engine::open(options(Arc::new(FileDisk), folder, 64 << 20, limits(WRITERS, 60_000)))
            .unwrap()
    };
    let before = anonymous_kb();
    let engine = open();
    let indexes: Vec<_> = (0..AT_REST).map(|n| create(&engine, &format!("rest{n}"))).collect();
    for index in &indexes {
        write_one(index, upsert("1", &json!({"title": "a heron", "n": 1}))).unwrap();
    }
    for index in &indexes {
        index.flush().unwrap();
    }
    eventually("the writers rest", || engine.writers().open == 0);
    eventually("their threads end", || threads("egret-write-res") == 0);
    assert_eq!(engine.budget().used_bytes, 0);
    let written = anonymous_kb().saturating_sub(before) / AT_REST as u64;
    // Other tests run beside this one: by itself it says what is true.
    eprintln!("{AT_REST} indexes at rest: {written} KB of anonymous memory each");
    drop((indexes, engine));
    let engine = open();
    assert_eq!((engine.writers().most_open, threads("egret-write-res")), (0, 0));
    expect_all(&engine, AT_REST, 1);
}

#[test]
fn a_write_waits_for_a_writer_to_leave_and_is_refused_in_the_end() {
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::new());
    let engine = Engine::open(options(disk, PathBuf::from("/data"), 64 << 20, limits(1, 50)));
    let engine = engine.unwrap();
    let (first, second) = (create(&engine, "first"), create(&engine, "second"));
    let followed = follow(&engine, "followed");
    let held = hold(&engine, Lane::Flush);
    write_one(&first, upsert("1", &json!({"n": 1}))).unwrap();
    // The only writer is told to leave, and cannot: what it has is not durable.
    let refused = second.write(batch(vec![upsert("1", &json!({"n": 1}))])).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Full);
    assert!(refused.message().contains("[engine.max_open_writers] of [1]"), "{refused}");
    assert_eq!(engine.writers().refused, 1);
    // A pipeline is let through in the end, and what is asked by hand at once.
    write_one(&followed, upsert("1", &json!({"n": 1}))).unwrap();
    second.refresh().unwrap();
    // One that has a thread takes more.
    write_one(&first, upsert("2", &json!({"n": 1}))).unwrap();
    drop(held);
    eventually("a turn comes", || second.write(batch(vec![upsert("1", &json!({}))])).is_ok());
    let all = [(&first, 2), (&second, 1), (&followed, 1)];
    for (index, documents) in all {
        index.flush().unwrap();
        assert_eq!(index.snapshot().doc_count(), documents);
    }
    eventually("those past the limit leave", || engine.writers().open <= 1);
}

#[test]
fn all_who_wait_get_their_turn() {
    const THREADS: usize = 8;
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::new());
    let engine = Engine::open(options(disk, PathBuf::from("/data"), 64 << 20, limits(2, 60_000)));
    let engine = engine.unwrap();
    let indexes: Vec<_> = (0..12).map(|n| create(&engine, &format!("turn{n}"))).collect();
    let write = &|thread: usize| {
        for n in 0..24 {
            let op = upsert(&format!("{thread}-{n}"), &json!({"n": n}));
            write_one(&indexes[(n * 5 + thread) % 12], op).unwrap();
        }
    };
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || write(thread));
        }
    });
    let mut documents = 0;
    for index in &indexes {
        index.refresh().unwrap();
        documents += index.snapshot().doc_count();
    }
    assert_eq!(documents, (THREADS * 24) as u64);
    let writers = engine.writers();
    assert!(writers.waiting == 0 && writers.refused == 0 && writers.asked > 0, "{writers:?}");
}

#[test]
fn the_index_that_holds_most_memory_is_flushed_first() {
    const BUDGET_BYTES: usize = 64 << 20;
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::new());
    let limits = limits(WRITERS, 60_000);
    let engine = Engine::open(options(disk, PathBuf::from("/data"), BUDGET_BYTES, limits)).unwrap();
    let (large, small) = (quiet(&engine, "large"), quiet(&engine, "small"));
    let text = "x".repeat(100_000);
    let document = |n: u32| upsert(&n.to_string(), &json!({"text": text}));
    write_one(&small, document(0)).unwrap();
    let held = |index: &Index| {
        let stats = index.stats();
        usize::try_from(stats.building_bytes + stats.memory_bytes).unwrap()
    };
    let mut n = 0;
    while held(&large) < BUDGET_BYTES * 2 / 3 {
        n += 1;
        write_one(&large, document(n)).unwrap();
    }
    let before = [held(&large), held(&small)];
    assert!(before[1] > 0 && before[0] > 3 * before[1], "{before:?}");
    assert!(engine.budget().used_bytes < BUDGET_BYTES, "{:?}", engine.budget());
    // What makes it too much is written to the small one.
    while engine.budget().most_bytes <= BUDGET_BYTES {
        n += 1;
        write_one(&small, document(n)).unwrap();
    }
    eventually("the large one is on disk", || held(&large) == 0);
    assert!(held(&small) > before[1] && small.segments().is_empty(), "{:?}", small.stats());
    assert!(engine.budget().used_bytes < BUDGET_BYTES);
}

#[test]
fn a_write_that_finds_no_memory_is_refused_in_the_end() {
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::new());
    let engine = Engine::open(options(disk, PathBuf::from("/data"), 1, limits(WRITERS, 50)));
    let engine = engine.unwrap();
    let (index, other) = (create(&engine, "i"), create(&engine, "j"));
    let followed = follow(&engine, "f");
    let held = hold(&engine, Lane::Flush);
    write_one(&index, upsert("1", &json!({"n": 1}))).unwrap();
    index.refresh().unwrap();
    let refused = other.write(batch(vec![upsert("1", &json!({"n": 1}))])).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Full);
    assert!(refused.message().contains("[engine.indexing_budget_bytes] of [1]"), "{refused}");
    // A pipeline is only slowed down.
    write_one(&followed, upsert("1", &json!({"n": 1}))).unwrap();
    drop(held);
    eventually("memory is given back", || {
        other.write(batch(vec![upsert("1", &json!({"n": 1}))])).is_ok()
    });
}

#[test]
fn a_position_needs_no_thread() {
    let engine = open(&SimDisk::new());
    let index = follow(&engine, "f");
    index.advance(checkpoint(10)).unwrap();
    assert_eq!(engine.writers().most_open, 0);
    let positions = *index.positions().borrow();
    assert_eq!(
        (positions.visible, positions.durable),
        (Some(checkpoint(10)), Some(checkpoint(10)))
    );
    write_one(&index, upsert("1", &json!({"n": 1}))).unwrap();
    index.advance(checkpoint(20)).unwrap();
    index.flush().unwrap();
    assert_eq!(index.positions().borrow().durable, Some(checkpoint(20)));
    // Positions that go on coming do not keep the writer from resting.
    let mut lsn = 20;
    eventually("the writer rests", || engine.writers().open == 0);
    lsn += 1;
    index.advance(checkpoint(lsn)).unwrap();
    assert_eq!(engine.writers().open, 0);
    assert_eq!(index.snapshot().checkpoint(), Some(checkpoint(lsn)));
}
