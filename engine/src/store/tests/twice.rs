//! A second failure strikes what a first one has left: every operation of a flush fails, and every
//! one of what comes after it.

use egret_aof::disk::Disk;
use egret_aof::disk::sim::Fault;

use super::*;

/// An index with two committed segments, deletes in one of them, and more of both not committed.
fn prepare(disk: &SimDisk) -> (Engine, Arc<Index>) {
    let engine = open(disk);
    let index = create(&engine, "i");
    let put = |ids: std::ops::Range<u32>| {
        write(&index, ids.map(|id| upsert(&id.to_string(), &json!({"n": id}))).collect());
    };
    put(0..5);
    index.flush().unwrap();
    put(5..8);
    write_one(&index, delete("0")).unwrap();
    index.flush().unwrap();
    put(8..10);
    write_one(&index, delete("1")).unwrap();
    index.refresh().unwrap();
    (engine, index)
}

/// Expects the documents of [`prepare`], now and after one more start.
fn expect_whole(disk: &SimDisk, context: &str) {
    let engine = open(disk);
    assert_eq!(engine.damaged(), [], "{context}");
    let index = engine.index("i").unwrap();
    let found = |id: u32| published(&index, &id.to_string()).is_some();
    let found: Vec<u32> = (0..12).filter(|&id| found(id)).collect();
    assert_eq!(found, (2..10).collect::<Vec<_>>(), "{context}");
    assert_eq!(index.snapshot().doc_count(), 8, "{context}");
    index.flush().unwrap();
    drop((index, engine));
    let engine = open(disk);
    assert_eq!(engine.damaged(), [], "{context}: opened again");
}

/// How many operations of the disk something takes.
fn operations(disk: &SimDisk, work: impl FnOnce()) -> u64 {
    let before = disk.operations();
    work();
    disk.operations() - before
}

/// The index's commit as programs see it, durable or not.
fn commit(disk: &SimDisk, uuid: &str) -> Vec<u8> {
    disk.read(&PathBuf::from(format!("/data/indexes/{uuid}/commit.json"))).unwrap()
}

/// Which operations of a flush to let fail for a second time, and with which seeds: all of them, and
/// several seeds, where the first failure left open which commit is the one on disk.
fn seconds(open: bool, first: u64, count: u64) -> impl Iterator<Item = (u64, u64)> {
    let (step, seeds) = if open { (1, 4) } else { (41, 1) };
    (first % step..count).step_by(usize::try_from(step).unwrap()).flat_map(move |second| {
        (0..seeds).map(move |seed| (second, 1000 * first + 10 * second + seed))
    })
}

/// Files of deletes that a failed flush has left may be those of the commit on disk.
#[test]
fn a_flush_after_a_failed_one_can_fail_anywhere() {
    let disk = SimDisk::new();
    let (_engine, index) = prepare(&disk);
    let count = operations(&disk, || index.flush().unwrap());
    let fail = |first: u64| {
        let disk = SimDisk::new();
        let (engine, index) = prepare(&disk);
        let before = commit(&disk, index.uuid());
        disk.fail_at(disk.operations() + first, Fault::Io);
        let failed = index.flush().is_err();
        disk.heal();
        let open = failed && commit(&disk, index.uuid()) != before;
        (disk, engine, index, open)
    };
    let mut found_open = false;
    for first in 0..count {
        let open = fail(first).3;
        found_open |= open;
        for (second, seed) in seconds(open, first, count) {
            let (disk, _engine, index, _) = fail(first);
            disk.fail_at(disk.operations() + second, Fault::PowerCut);
            drop(index.flush());
            let context = format!("operation {first}, then {second}, seed {seed}");
            expect_whole(&disk.power_cut(seed), &context);
        }
    }
    assert!(found_open);
}

/// A killed process may leave a commit whose name is not durable, and its successor removes what
/// that does not name.
#[test]
fn a_start_after_a_kill_can_fail_anywhere() {
    let disk = SimDisk::new();
    let (engine, index) = prepare(&disk);
    let count = operations(&disk, || index.flush().unwrap());
    drop((index, engine));
    let restart = operations(&disk, || drop(open(&disk)));
    let kill = |first: u64| {
        let disk = SimDisk::new();
        let (_engine, index) = prepare(&disk);
        let before = commit(&disk, index.uuid());
        disk.fail_at(disk.operations() + first, Fault::PowerCut);
        let killed = index.flush().is_err();
        let disk = disk.kill();
        let open = killed && commit(&disk, index.uuid()) != before;
        (disk, open)
    };
    let mut found_open = false;
    for first in 0..count {
        let open = kill(first).1;
        found_open |= open;
        for (second, seed) in seconds(open, first, restart) {
            let (disk, _) = kill(first);
            disk.fail_at(disk.operations() + second, Fault::PowerCut);
            drop(try_open(&disk));
            let context = format!("operation {first}, then {second}, seed {seed}");
            expect_whole(&disk.power_cut(seed), &context);
        }
    }
    assert!(found_open);
}
