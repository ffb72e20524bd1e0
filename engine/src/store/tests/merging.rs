//! Merges that are asked for, merges that are held back, and writes that wait for merges.

use crossbeam_channel::bounded;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::index::{ForceMerge, SegmentStats};
use crate::store::background::Lane;

/// Writes documents `n` of a range, each in a segment of its own.
fn spread(index: &Index, numbers: std::ops::Range<u32>) {
    for n in numbers {
        let ops = vec![upsert(&n.to_string(), &json!({"n": n}))];
        index.write(Batch { ops, refresh: Refresh::Now, ..Batch::default() }).unwrap();
    }
}

fn submit(index: &Index, id: &str) -> Result<()> {
    index.write(batch(vec![upsert(id, &json!({}))])).map(drop)
}

/// Holds up a lane until the sender goes.
pub(super) fn hold(engine: &Engine, lane: Lane) -> crossbeam_channel::Sender<()> {
    let (sender, receiver) = bounded::<()>(0);
    let (began, begins) = bounded(1);
    let wait = move || {
        began.send(()).unwrap();
        assert!(receiver.recv().is_err());
    };
    engine.background().run(lane, wait).unwrap();
    begins.recv().unwrap();
    sender
}

fn numbers(index: &Index) -> Vec<u64> {
    index.segments().iter().map(|segment| segment.number).collect()
}

#[test]
fn segments_are_merged_down_when_asked() {
    let disk = SimDisk::new();
    let engine = open(&disk);
    let index = create(&engine, "i");
    spread(&index, 0..4);
    assert_eq!(numbers(&index), [0, 1, 2, 3]);
    write_one(&index, upsert("0", &json!({"n": 100}))).unwrap();
    write_one(&index, delete("1")).unwrap();
    // What is not published yet is merged, too.
    index.force_merge(ForceMerge::Down(1)).unwrap();
    let segments = index.segments();
    let [SegmentStats { number: 5, doc_count: 3, deleted_count: 0, committed: false, .. }] =
        segments[..]
    else {
        panic!("{segments:?}")
    };
    let stats = index.stats();
    assert_eq!((stats.merges.total, stats.merges.total_docs, stats.merges.current), (1, 3, 0));
    let versions: Vec<u64> =
        ["0", "2", "3"].map(|id| index.snapshot().document(id).unwrap().unwrap().version).into();
    assert_eq!(versions, [2, 1, 1]);
    // A segment alone is merged only for its deletes, or as far as many are deleted.
    index.force_merge(ForceMerge::Down(1)).unwrap();
    assert_eq!(numbers(&index), [5]);
    write_one(&index, delete("0")).unwrap();
    index.force_merge(ForceMerge::Down(2)).unwrap();
    assert_eq!((numbers(&index), index.stats().deleted_count), (vec![5], 1));
    index.force_merge(ForceMerge::ExpungeDeletes).unwrap();
    assert_eq!((numbers(&index), index.stats().deleted_count), (vec![6], 0));
    spread(&index, 5..8);
    index.force_merge(ForceMerge::Down(2)).unwrap();
    assert_eq!((index.segments().len(), index.stats().doc_count), (2, 5));
    index.flush().unwrap();
    assert!(index.segments().iter().all(|segment| segment.committed));
    index.force_merge(ForceMerge::WhatIsWorthIt).unwrap();
    assert_eq!(index.segments().len(), 2);
    drop((index, engine));
    let engine = open(&disk.power_cut(1));
    let index = engine.index("i").unwrap();
    assert_eq!((numbers(&index), index.stats().doc_count), (vec![0, 1], 5));
    index.force_merge(ForceMerge::Down(1)).unwrap();
    assert_eq!((numbers(&index), index.snapshot().doc_count()), (vec![2], 5));
}

#[test]
fn requests_for_merges_take_turns() {
    let disk = SimDisk::new();
    let engine = open(&disk);
    let index = create(&engine, "i");
    let held = hold(&engine, Lane::SmallMerge);
    spread(&index, 0..4);
    std::thread::scope(|scope| {
        let index = &index;
        let first = scope.spawn(|| index.force_merge(ForceMerge::Down(3)));
        eventually("a merge runs", || index.stats().merges.current == 1);
        // Neither is done yet, and what is written meanwhile is not theirs.
        spread(index, 4..5);
        let second = scope.spawn(|| index.force_merge(ForceMerge::Down(1)));
        let third = scope.spawn(|| index.force_merge(ForceMerge::WhatIsWorthIt));
        assert!(!first.is_finished() && !second.is_finished());
        drop(held);
        for asked in [first, second, third] {
            asked.join().unwrap().unwrap();
        }
    });
    assert_eq!((index.segments().len(), index.stats().doc_count), (1, 5));
    // A request that a close overtakes is told so.
    let held = hold(&engine, Lane::SmallMerge);
    spread(&index, 5..7);
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| index.force_merge(ForceMerge::Down(1)));
        eventually("a merge runs", || index.stats().merges.current == 1);
        index.close(false).unwrap();
        assert_eq!(asked.join().unwrap().unwrap_err().kind(), ErrorKind::Closed);
    });
    drop(held);
}

#[test]
fn writes_wait_for_merges_and_are_refused_past_them() {
    let disk = SimDisk::new();
    let limits =
        Limits { segments_before_wait: 6, segments_before_refusal: 6, ..Limits::default() };
    let engine = open_with(&disk, limits).unwrap();
    let index = create(&engine, "i");
    let held = hold(&engine, Lane::SmallMerge);
    spread(&index, 0..7);
    let refused = submit(&index, "x").unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Full);
    assert!(refused.message().contains("[engine.segments_before_refusal] of [6]"), "{refused}");
    let pressure = index.stats().pressure;
    assert_eq!((pressure.is_throttled, pressure.refused), (true, 1));
    // Another index is not concerned.
    spread(&create(&engine, "j"), 0..1);
    drop(held);
    eventually("merges have caught up", || !index.stats().pressure.is_throttled);
    spread(&index, 7..8);

    let limits = Limits { segments_before_wait: 6, ..Limits::default() };
    drop((index, engine));
    let disk = SimDisk::new();
    let engine = open_with(&disk, limits).unwrap();
    let index = create(&engine, "i");
    let held = hold(&engine, Lane::SmallMerge);
    spread(&index, 0..7);
    std::thread::scope(|scope| {
        let write = scope.spawn(|| submit(&index, "x"));
        eventually("the write waits", || index.stats().pressure.waiting == 1);
        drop(held);
        write.join().unwrap().unwrap();
    });
    assert_eq!((index.stats().pressure.waiting, index.stats().pressure.refused), (0, 0));
    // Nobody waits for an index that is closed.
    let held = hold(&engine, Lane::SmallMerge);
    let piled_up = |n: &u32| {
        spread(&index, *n..n + 1);
        index.stats().pressure.is_throttled
    };
    assert!((10..30).any(|n| piled_up(&n)));
    std::thread::scope(|scope| {
        let write = scope.spawn(|| submit(&index, "y"));
        eventually("the write waits", || index.stats().pressure.waiting == 1);
        index.close(false).unwrap();
        assert_eq!(write.join().unwrap().unwrap_err().kind(), ErrorKind::Closed);
    });
    drop(held);
}

#[test]
fn a_write_waits_only_so_long_and_a_pipeline_is_not_refused() {
    let disk = SimDisk::new();
    let limits = Limits {
        segments_before_wait: 3,
        segments_before_refusal: 4,
        max_write_wait: Duration::from_millis(1),
        ..Limits::default()
    };
    let engine = open_with(&disk, limits).unwrap();
    let held = hold(&engine, Lane::SmallMerge);
    let index = create(&engine, "i");
    spread(&index, 0..4);
    let refused = submit(&index, "x").unwrap_err();
    assert!(refused.message().contains("[engine.max_write_wait_ms] of [1]"), "{refused}");
    let followed = follow(&engine, "f");
    spread(&followed, 0..8);
    let pressure = followed.stats().pressure;
    assert_eq!((pressure.is_throttled, pressure.refused), (true, 0));
    drop(held);
}

/// Writes documents that are not indexed, each of ten thousand bytes that cannot be compressed much,
/// in two segments.
fn fill(index: &Index, count: u32) {
    index.put_mapping(&json!({"dynamic": false})).unwrap();
    let mut random = StdRng::seed_from_u64(1);
    let mut text = || (0..10_000).map(|_| char::from(random.random_range(35..91))).collect();
    for half in [0..count / 2, count / 2..count] {
        let document = |text: String| json!({"text": text});
        let ops = half.map(|n| upsert(&n.to_string(), &document(text()))).collect();
        index.write(Batch { ops, refresh: Refresh::Now, ..Batch::default() }).unwrap();
    }
}

#[test]
fn large_merges_keep_to_their_rate() {
    let merge = |bytes_per_second| {
        let limits = Limits { max_merge_bytes_per_second: bytes_per_second, ..Limits::default() };
        let engine = open_with(&SimDisk::new(), limits).unwrap();
        let index = create(&engine, "i");
        fill(&index, 1_000);
        let size = index.stats().size_bytes;
        assert!(size > 9 << 20, "{size} bytes are no large merge");
        index.force_merge(ForceMerge::Down(1)).unwrap();
        let stats = index.stats();
        assert_eq!(stats.doc_count, 1_000);
        (stats.merges, stats.size_bytes)
    };
    let (free, _) = merge(0);
    assert_eq!(free.throttled_ms, 0);
    let rate = 4 << 20;
    let (merges, written) = merge(rate);
    // All that is left is what the merge wrote, and at once the rate allows a tenth of a second,
    // and the shortest waits are saved up.
    let shortest_ms = written * 1_000 / rate - 110;
    assert!(written > 7 << 20, "{written} bytes are no large merge");
    assert!(merges.total_ms >= shortest_ms, "{merges:?} for {written} bytes");
    assert!(merges.throttled_ms <= merges.total_ms, "{merges:?}");
    // Where the machine is itself about as slow, there is little to wait for.
    let is_slow = free.total_ms * 2 > shortest_ms;
    assert!(merges.throttled_ms > 0 || is_slow, "{merges:?}, and {free:?} without a rate");
}

#[test]
fn the_end_does_not_wait_for_slow_merges() {
    let limits = Limits { max_merge_bytes_per_second: 1, ..Limits::default() };
    let engine = open_with(&SimDisk::new(), limits).unwrap();
    let index = create(&engine, "i");
    fill(&index, 1_000);
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| index.force_merge(ForceMerge::Down(1)));
        eventually("a merge runs", || index.stats().merges.current == 1);
        engine.close().unwrap();
        // Once nobody waits, it may be quicker than the end.
        let told = asked.join().unwrap();
        assert!(told.is_err() || index.stats().merges.total == 1);
    });
    eventually("the merge ends", || index.stats().merges.current == 0);
}
