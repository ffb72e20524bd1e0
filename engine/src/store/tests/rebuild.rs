//! Indexes that are rebuilt under another mapping while they are written, gone back to, and cut off by
//! crashes.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use egret_aof::disk::Disk;
use egret_aof::disk::sim::Fault;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::catalog::keep_until_ms;
use crate::index::ForceMerge;
use crate::query::ast::{Query, Scalar};
use crate::store::shared::QUEUE_BYTES;

/// What a rebuild changes in these tests.
fn changes() -> Value {
    json!({"properties": {"n": {"type": "keyword"}}})
}

fn hour() -> Option<i64> {
    keep_until_ms(Duration::from_secs(3_600))
}

fn shared(disk: &SimDisk) -> Arc<Engine> {
    Arc::new(open(disk))
}

/// Rebuilds an index; the folder before it is kept for an hour.
fn rebuild(engine: &Arc<Engine>, name: &str) -> Result<()> {
    let mut rebuild = engine.begin_rebuild(name, &changes())?;
    while rebuild.step()?.is_some() {}
    rebuild.finish(hour()).map(drop)
}

/// By id: number, term, version and source.
type Documents = BTreeMap<String, (u64, u64, u64, Value)>;

/// Every document of the published state with its numbers and version.
fn documents(index: &Index) -> Documents {
    let snapshot = index.snapshot();
    let mut all = BTreeMap::new();
    for segment in snapshot.segments() {
        let reader = segment.reader();
        for doc in (0..reader.max_doc()).filter(|&doc| !reader.is_deleted(doc)) {
            let id = segment.document_id(doc).unwrap();
            let found = snapshot.document(&id).unwrap().unwrap();
            let source = serde_json::from_slice(&found.source).unwrap();
            let known = (found.seq_no.0, found.term, found.version, source);
            assert!(all.insert(id, known).is_none());
        }
    }
    all
}

/// How many documents have this value as a term.
fn found(index: &Index, value: &str) -> u64 {
    let query = Query::Term {
        field: "n".to_owned(),
        value: Scalar::Text(value.to_owned()),
        case_insensitive: false,
        boost: 1.0,
    };
    crate::search::count(&[index.snapshot()], &query).unwrap()
}

fn folders(disk: &SimDisk) -> usize {
    disk.list(Path::new("/data/indexes")).unwrap().len()
}

fn kind(engine: &Engine, name: &str) -> String {
    engine.mapping(name).unwrap().to_json()["properties"]["n"]["type"].as_str().unwrap().to_owned()
}

#[test]
fn a_rebuild_keeps_every_document_with_its_versions() {
    let disk = SimDisk::new();
    let engine = shared(&disk);
    let index = create(&engine, "i");
    for n in 0..5 {
        write(&index, (0..700).map(|id| upsert(&id.to_string(), &json!({"n": id + n}))).collect());
    }
    write(&index, (0..50).map(|id| delete(&id.to_string())).collect());
    index.refresh().unwrap();
    let before = documents(&index);
    assert_eq!((before.len(), before["699"].2), (650, 5));
    let mut rebuild = engine.begin_rebuild("i", &changes()).unwrap();
    assert_eq!(rebuild.total(), 650);
    let again = engine.begin_rebuild("i", &changes()).unwrap_err();
    assert!(again.message().contains("is being rebuilt already"), "{again}");
    assert!(engine.close_index("i").unwrap_err().message().contains("is being rebuilt"));
    // Changed and gone before they are copied; new; and a field that is new.
    write(&index, vec![upsert("60", &json!({"n": 1, "more": "text"})), delete("61")]);
    write_one(&index, upsert("new", &json!({"n": 2}))).unwrap();
    let mut copied = 0;
    while let Some(count) = rebuild.step().unwrap() {
        copied += count;
    }
    assert_eq!(copied, 650);
    write_one(&index, delete("62")).unwrap();
    index.put_mapping(&json!({"properties": {"late": {"type": "date"}}})).unwrap();
    let refused = index
        .put_mapping(&json!({"properties": {"n": {"type": "long", "fields": {
        "raw": {"type": "keyword"}}}}}))
        .unwrap_err();
    assert!(refused.message().contains("is being rebuilt"), "{refused}");
    let new = rebuild.finish(hour()).unwrap();
    assert_eq!(
        (kind(&engine, "i"), engine.index("i").unwrap().uuid() == new.uuid()),
        ("keyword".to_owned(), true)
    );
    let after = documents(&new);
    assert_eq!(after.len(), 649);
    let unchanged = |(id, known): (&String, &(u64, u64, u64, Value))| {
        matches!(&**id, "60" | "61" | "62") || after.get(id) == Some(known)
    };
    assert!(before.iter().all(unchanged));
    assert_eq!((after["60"].2, &after["60"].3), (6, &json!({"n": 1, "more": "text"})));
    assert!(new.mapping().field("late").is_some() && new.mapping().field("more").is_some());
    assert_eq!(found(&new, "70"), after.values().filter(|it| it.3["n"] == 70).count() as u64);
    // A delete's version counts on, and numbers go on, for whoever holds the older handle, too.
    let applied = write_one(&index, upsert("0", &json!({"n": 0}))).unwrap();
    assert_eq!(applied.version, 7);
    assert!(applied.seq_no.0 > after.values().map(|it| it.0).max().unwrap());
    assert_eq!(new.document("0").unwrap().unwrap().version, 7);
}

#[test]
fn a_rebuild_is_rolled_back_without_a_loss() {
    let disk = SimDisk::new();
    let engine = shared(&disk);
    let index = create(&engine, "i");
    write(&index, (0..10).map(|id| upsert(&id.to_string(), &json!({"n": id}))).collect());
    assert!(engine.roll_back_rebuild("i").is_err());
    rebuild(&engine, "i").unwrap();
    assert_eq!(folders(&disk), 2);
    let new = engine.index("i").unwrap();
    write(&new, vec![upsert("5", &json!({"n": 50})), delete("6"), upsert("x", &json!({"n": 7}))]);
    new.refresh().unwrap();
    let expected = documents(&new);
    let old = engine.roll_back_rebuild("i").unwrap();
    assert_eq!((old.uuid(), kind(&engine, "i"), folders(&disk)), (index.uuid(), "long".into(), 1));
    assert_eq!(documents(&old), expected);
    // Whichever handle is written through.
    for (id, handle) in [("a", &index), ("b", &new), ("c", &old)] {
        write_one(handle, upsert(id, &json!({"n": 1}))).unwrap();
    }
    old.refresh().unwrap();
    assert_eq!(documents(&engine.index("i").unwrap()).len(), expected.len() + 3);
    assert!(engine.roll_back_rebuild("i").is_err());
    // The next rebuild, and the one after it, which removes what the first one has kept.
    rebuild(&engine, "i").unwrap();
    rebuild(&engine, "i").unwrap();
    assert_eq!(folders(&disk), 2);
    assert_eq!(engine.drop_expired_folders(hour().unwrap() - 7_200_000).unwrap(), [""; 0]);
    assert_eq!(engine.drop_expired_folders(hour().unwrap()).unwrap(), ["i"]);
    assert_eq!((folders(&disk), engine.roll_back_rebuild("i").is_err()), (1, true));
    rebuild(&engine, "i").unwrap();
    engine.delete_index("i", false).unwrap();
    assert_eq!(folders(&disk), 0);
}

#[test]
fn what_the_new_mapping_cannot_take_ends_a_rebuild() {
    let disk = SimDisk::new();
    let engine = shared(&disk);
    let index = create(&engine, "i");
    write_one(&index, upsert("word", &json!({"n": "one"}))).unwrap();
    let number = json!({"properties": {"n": {"type": "long"}}});
    let mut running = engine.begin_rebuild("i", &number).unwrap();
    let error = running.step().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DocumentParsing);
    assert!(error.message().contains("document with id 'word'"), "{error}");
    drop(running);
    assert_eq!((folders(&disk), engine.replacement("i").is_none()), (1, true));
    write_one(&index, upsert("two", &json!({"n": "two"}))).unwrap();
    // A write that comes meanwhile, too; the write itself is done.
    write_one(&index, delete("word")).unwrap();
    write_one(&index, upsert("two", &json!({"n": "2"}))).unwrap();
    index.refresh().unwrap();
    let mut running = engine.begin_rebuild("i", &number).unwrap();
    while running.step().unwrap().is_some() {}
    write_one(&index, upsert("three", &json!({"n": "three"}))).unwrap();
    let error = running.finish(hour()).unwrap_err();
    assert!(error.message().contains("three"), "{error}");
    index.refresh().unwrap();
    assert_eq!((documents(&index).len(), folders(&disk)), (2, 1));
    // The other way round: the rebuilt index takes what the older folder cannot.
    let other = create(&engine, "j");
    write_one(&other, upsert("1", &json!({"n": 1}))).unwrap();
    rebuild(&engine, "j").unwrap();
    let new = engine.index("j").unwrap();
    write_one(&new, upsert("word", &json!({"n": "word"}))).unwrap();
    let error = engine.roll_back_rebuild("j").unwrap_err();
    assert!(
        error.message().contains("lacks changes") && error.message().contains("word"),
        "{error}"
    );
    write_one(&new, upsert("more", &json!({"n": "more"}))).unwrap();
    new.refresh().unwrap();
    assert_eq!(documents(&new).len(), 3);
    assert!(engine.begin_rebuild("f", &number).is_err());
    follow(&engine, "f");
    let error = engine.begin_rebuild("f", &number).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Forbidden);
    assert!(error.message().contains("/_cdc/main/_copy"), "{error}");
}

/// Writes random documents until told to stop; what is there in the end.
fn write_until(index: &Index, stop: &AtomicBool, seed: u64) -> BTreeMap<String, Value> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut expected = BTreeMap::new();
    while !stop.load(Ordering::Relaxed) {
        let id = format!("{seed}-{}", random.random_range(0..200));
        if random.random_bool(0.2) {
            write_one(index, delete(&id)).unwrap();
            expected.remove(&id);
        } else {
            let source = json!({"n": random.random_range(0..1_000)});
            write_one(index, upsert(&id, &source)).unwrap();
            expected.insert(id.clone(), source);
        }
        // What has just been written is read, wherever it went.
        let read = index.serving_document(&id).map(|document| document.source);
        let read = read.map(|source| serde_json::from_slice::<Value>(&source).unwrap());
        assert_eq!(read.as_ref(), expected.get(&id), "{id}");
    }
    expected
}

#[test]
fn writers_lose_nothing_while_an_index_is_rebuilt_and_rolled_back() {
    let disk = SimDisk::new();
    let engine = shared(&disk);
    let index = create(&engine, "i");
    write(&index, (0..3_000).map(|id| upsert(&id.to_string(), &json!({"n": id}))).collect());
    index.refresh().unwrap();
    let stop = AtomicBool::new(false);
    let written = std::thread::scope(|scope| {
        let (index, stop) = (&index, &stop);
        let writers = [1, 2].map(|seed| scope.spawn(move || write_until(index, stop, seed)));
        for round in 0..4 {
            rebuild(&engine, "i").unwrap();
            if round % 2 == 0 {
                engine.roll_back_rebuild("i").unwrap();
            }
        }
        stop.store(true, Ordering::Relaxed);
        writers.map(|writer| writer.join().unwrap())
    });
    let index = engine.index("i").unwrap();
    index.force_merge(ForceMerge::Down(1)).unwrap();
    let found = documents(&index);
    let expected: BTreeMap<String, Value> = written.into_iter().flatten().collect();
    assert_eq!(found.len(), 3_000 + expected.len());
    assert!(expected.iter().all(|(id, source)| found[id].3 == *source));
    drop(index);
    engine.close().unwrap();
    drop(engine);
    let engine = open(&disk.power_cut(3));
    assert_eq!(documents(&engine.index("i").unwrap()), found);
}

/// A rebuild, writes, a roll-back and writes, with a crash at this operation of the disk: every write
/// that was acknowledged is there, whichever folder serves. Whether the crash came too late to be one.
fn crash(at: u64, fault: Fault) -> bool {
    let disk = SimDisk::new();
    let engine = shared(&disk);
    let index = create(&engine, "i");
    write_one(&index, upsert("old", &json!({"n": 1}))).unwrap();
    index.flush().unwrap();
    disk.fail_from(disk.operations() + at, fault);
    let mut done = vec!["old".to_owned()];
    let mut put = |id: &str| {
        let Ok(index) = engine.index("i") else { return };
        let outcome = index.write(batch(vec![upsert(id, &json!({"n": 2}))]));
        if outcome.is_ok_and(|outcome| outcome.ops.iter().all(Result::is_ok)) {
            done.push(id.to_owned());
        }
    };
    let rebuilt = rebuild(&engine, "i").is_ok();
    put("between");
    let back = rebuilt && engine.roll_back_rebuild("i").is_ok();
    put("after");
    let whole = back && done.len() == 3;
    disk.heal();
    let after = if fault == Fault::PowerCut { disk.power_cut(at) } else { disk.kill() };
    drop((index, engine));
    let context = format!("{fault:?} at {at}");
    let expect = |engine: &Engine, done: &[String], state: &str| {
        assert_eq!(engine.damaged(), [], "{context}");
        let index = engine.index("i").unwrap();
        let there = documents(&index);
        let lost: Vec<_> = done.iter().filter(|id| !there.contains_key(*id)).collect();
        assert!(lost.is_empty(), "{context}: {lost:?} lost {state}");
    };
    let engine = shared(&after);
    expect(&engine, &done, "at once");
    let kept = engine.catalog().indexes["i"].kept.is_some();
    assert_eq!(folders(&after), 1 + usize::from(kept), "{context}");
    write_one(&engine.index("i").unwrap(), upsert("late", &json!({"n": 3}))).unwrap();
    done.push("late".to_owned());
    if kept {
        engine.roll_back_rebuild("i").unwrap();
        expect(&engine, &done, "by the roll-back");
    }
    // Whatever was left, it can be done again.
    rebuild(&engine, "i").unwrap();
    expect(&engine, &done, "by another rebuild");
    whole
}

#[test]
fn a_crash_of_a_rebuild_loses_nothing() {
    for fault in [Fault::PowerCut, Fault::NoSpace] {
        let operations = (0..10_000).take_while(|&at| !crash(at, fault)).count();
        assert!(operations > 30, "only {operations} operations");
    }
}

/// An index of ten documents, rebuilt, and one more document: all of it, and the files of what serves.
fn rebuilt_and_written(disk: &SimDisk) -> (Documents, PathBuf) {
    let engine = shared(disk);
    let index = create(&engine, "i");
    write(&index, (0..10).map(|id| upsert(&id.to_string(), &json!({"n": id}))).collect());
    rebuild(&engine, "i").unwrap();
    let new = engine.index("i").unwrap();
    write_one(&new, upsert("later", &json!({"n": 7}))).unwrap();
    new.refresh().unwrap();
    let commit = Path::new("/data/indexes").join(new.uuid()).join("commit.json");
    let all = documents(&new);
    engine.close().unwrap();
    (all, commit)
}

#[test]
fn the_folder_from_before_outlives_damage_to_the_rebuilt_one() {
    let disk = SimDisk::new();
    let (all, commit) = rebuilt_and_written(&disk);
    disk.damage(&commit, b"{").unwrap();
    for _ in 0..2 {
        let engine = shared(&disk);
        assert_eq!((engine.damaged().len(), folders(&disk)), (1, 2));
        assert!(engine.catalog().indexes["i"].kept.is_some());
        // Neither its time nor an attempt to close the index takes the only good copy away.
        assert_eq!(engine.drop_expired_folders(i64::MAX).unwrap(), [""; 0]);
        assert_eq!(engine.close_index("i").unwrap_err().kind(), ErrorKind::Corrupt);
        assert!(engine.begin_rebuild("i", &changes()).is_err());
        assert_eq!(folders(&disk), 2);
    }
    let engine = shared(&disk);
    let back = engine.roll_back_rebuild("i").unwrap();
    assert_eq!((engine.damaged(), folders(&disk)), (Vec::new(), 1));
    assert_eq!(documents(&back), all);
    assert!(engine.roll_back_rebuild("i").is_err());
    write_one(&back, upsert("after", &json!({"n": 8}))).unwrap();
    drop((back, engine));
    let engine = shared(&disk.power_cut(1));
    assert_eq!(documents(&engine.index("i").unwrap()).len(), all.len() + 1);
}

#[test]
fn an_index_that_is_well_again_feeds_the_folder_from_before() {
    let disk = SimDisk::new();
    let (all, commit) = rebuilt_and_written(&disk);
    let content = disk.read(&commit).unwrap();
    disk.damage(&commit, b"{").unwrap();
    let engine = shared(&disk);
    assert_eq!(engine.open_index("i").unwrap_err().kind(), ErrorKind::Corrupt);
    disk.damage(&commit, &content).unwrap();
    engine.open_index("i").unwrap();
    write_one(&engine.index("i").unwrap(), upsert("after", &json!({"n": 8}))).unwrap();
    let back = engine.roll_back_rebuild("i").unwrap();
    back.refresh().unwrap();
    assert_eq!(documents(&back).len(), all.len() + 1);
}

/// A start with one fault at this operation of the disk, and one without: whether the fault came too
/// late.
fn start_with(at: u64, fault: Fault) -> bool {
    let disk = SimDisk::new();
    let (all, _) = rebuilt_and_written(&disk);
    let begun = disk.operations();
    disk.fail_at(begun + at, fault);
    drop(try_open(&disk));
    let late = disk.operations() <= begun + at;
    disk.heal();
    let engine = shared(&disk);
    let context = format!("{fault:?} at {at}");
    assert_eq!(documents(&engine.index("i").unwrap()), all, "{context}");
    let back = engine.roll_back_rebuild("i").unwrap_or_else(|error| panic!("{context}: {error}"));
    assert_eq!(documents(&back), all, "{context}");
    late
}

#[test]
fn a_fault_at_the_start_leaves_the_way_back_open() {
    for fault in [Fault::Io, Fault::ReadFailure, Fault::NoSpace] {
        let operations = (0..10_000).take_while(|&at| !start_with(at, fault)).count();
        assert!(operations > 20, "only {operations} operations");
    }
}

/// A rebuild with writes during which one sync fails, at this operation of the disk: where it is
/// finished all the same, it has every write that was acknowledged. Whether the fault came too late.
fn rebuild_with(at: u64) -> bool {
    let disk = SimDisk::new();
    let engine = shared(&disk);
    let index = create(&engine, "i");
    write_one(&index, upsert("old", &json!({"n": 1}))).unwrap();
    index.refresh().unwrap();
    let mut rebuild = engine.begin_rebuild("i", &changes()).unwrap();
    let begun = disk.operations();
    disk.fail_at(begun + at, Fault::SyncFailure);
    let mut done = vec!["old".to_owned()];
    let put = |id: &str, done: &mut Vec<String>| {
        if index.write(batch(vec![upsert(id, &json!({"n": 2}))])).is_ok() {
            done.push(id.to_owned());
        }
    };
    for id in ["a", "b", "c"] {
        put(id, &mut done);
    }
    let copied = std::iter::from_fn(|| rebuild.step().transpose()).all(|step| step.is_ok());
    for id in ["d", "e"] {
        put(id, &mut done);
    }
    let finished = copied && rebuild.finish(None).is_ok();
    let late = disk.operations() <= begun + at;
    let serving = engine.index("i").unwrap();
    assert_eq!(kind(&engine, "i") == "keyword", finished, "at {at}");
    eventually("a sync that failed is made good", || serving.flush().is_ok());
    let there = documents(&serving);
    let lost: Vec<_> = done.iter().filter(|id| !there.contains_key(*id)).collect();
    assert!(lost.is_empty(), "at {at}: {lost:?} lost");
    late
}

#[test]
fn a_sync_that_fails_in_a_rebuild_loses_nothing() {
    let operations = (0..10_000).take_while(|&at| !rebuild_with(at)).count();
    assert!(operations > 10, "only {operations} operations");
}

/// A folder that is filled slower than its index is written holds it up: what waits is bounded by bytes.
#[test]
fn what_waits_for_the_other_folder_is_bounded() {
    const WRITES: usize = 100;
    let engine = shared(&SimDisk::new());
    let index = create(&engine, "i");
    index.put_mapping(&json!({"dynamic": false})).unwrap();
    let mut rebuild = engine.begin_rebuild("i", &json!({})).unwrap();
    let new = engine.replacement("i").unwrap();
    let queue = &new.shared().queue;
    let text = "x".repeat(1 << 20);
    let written = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        // What its writer shows is held, and so it waits with its first publication.
        let held = new.shared().view.lock();
        scope.spawn(|| {
            for n in 0..WRITES {
                write_one(&index, upsert(&n.to_string(), &json!({"text": text}))).unwrap();
                written.fetch_add(1, Ordering::Relaxed);
            }
        });
        eventually("the queue is full, or takes everything", || {
            let full = queue.bytes() + text.len() > QUEUE_BYTES;
            full || written.load(Ordering::Relaxed) == WRITES
        });
        // It would take no time to write the rest.
        let until = Instant::now() + Duration::from_secs(1);
        while Instant::now() < until {
            assert!(queue.bytes() <= QUEUE_BYTES, "{} bytes", queue.bytes());
            std::thread::yield_now();
        }
        assert!(written.load(Ordering::Relaxed) < WRITES);
        drop(held);
    });
    while rebuild.step().unwrap().is_some() {}
    let serving = rebuild.finish(None).unwrap();
    assert_eq!((serving.snapshot().doc_count(), queue.bytes()), (WRITES as u64, 0));
}
