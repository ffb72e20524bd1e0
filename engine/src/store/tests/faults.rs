//! Disks that fail, folders that are damaged, mappings that grow, readers that look all the time.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use egret_aof::disk::Disk;
use egret_aof::disk::sim::Fault;

use super::*;
use crate::index::ForceMerge;
use crate::query::ast::Query;
use crate::snapshot::Snapshot;

#[test]
fn a_failed_sync_makes_the_index_read_only_until_a_flush_succeeds() {
    let disk = SimDisk::new();
    let engine = open(&disk);
    let index = create(&engine, "a");
    write_one(&index, upsert("1", &json!({"n": 1}))).unwrap();
    index.flush().unwrap();
    assert_eq!(index.refusal(), None);
    disk.fail_from(disk.operations(), Fault::SyncFailure);
    let error = index.write(batch(vec![upsert("2", &json!({"n": 2}))])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReadOnly, "{error}");
    let refusal = index.refusal().unwrap();
    assert!(refusal.contains("read-only until a flush has succeeded"), "{refusal}");
    let error = index.write(batch(vec![upsert("3", &json!({"n": 3}))])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReadOnly, "{error}");
    assert!(index.document("1").unwrap().is_some());
    disk.heal();
    eventually("writes are taken again", || {
        index.write(batch(vec![upsert("4", &json!({"n": 4}))])).is_ok()
    });
    assert_eq!(index.refusal(), None);
    let after = disk.power_cut(5);
    drop((index, engine));
    let engine = open(&after);
    let index = engine.index("a").unwrap();
    assert!(index.document("1").unwrap().is_some());
    assert!(index.document("3").unwrap().is_none());
    assert!(index.document("4").unwrap().is_some());
}

#[test]
fn a_full_disk_is_survived() {
    let disk = SimDisk::new();
    let engine = open(&disk);
    let index = create(&engine, "a");
    write_one(&index, upsert("1", &json!({"n": 1}))).unwrap();
    disk.fail_from(disk.operations(), Fault::NoSpace);
    assert!(index.write(batch(vec![upsert("2", &json!({"n": 2}))])).is_err());
    assert!(index.flush().is_err());
    disk.heal();
    eventually("writes are taken again", || {
        index.write(batch(vec![upsert("3", &json!({"n": 3}))])).is_ok()
    });
    index.flush().unwrap();
    engine.close().unwrap();
    drop((index, engine));
    let engine = open(&disk);
    assert!(engine.index("a").unwrap().document("3").unwrap().is_some());
}

/// Damages one file of an index and expects the others to open.
fn damaged(file: impl Fn(&str) -> bool, content: &[u8], expected: &str) {
    let disk = SimDisk::new();
    let engine = open(&disk);
    let bad = create(&engine, "bad");
    create(&engine, "good");
    write(&bad, vec![upsert("1", &json!({"n": 1})), upsert("2", &json!({"n": 1}))]);
    bad.flush().unwrap();
    write_one(&bad, delete("1")).unwrap();
    bad.flush().unwrap();
    let folder = Path::new("/data/indexes").join(bad.uuid());
    engine.close().unwrap();
    drop((bad, engine));
    let name = disk.list(&folder).unwrap().into_iter().find(|name| file(name)).unwrap();
    disk.damage(&folder.join(name), content).unwrap();
    let engine = open(&disk);
    assert_eq!(engine.index("good").unwrap().name(), "good");
    let reasons = engine.damaged();
    assert_eq!(reasons.len(), 1);
    assert!(reasons[0].1.contains(expected), "{reasons:?}");
    assert_eq!(engine.index("bad").unwrap_err().kind(), ErrorKind::Corrupt);
    let error = engine.create_index("bad", IndexDefinition::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::IndexAlreadyExists);
    engine.delete_index("bad", false).unwrap();
    assert!(!disk.exists(&folder).unwrap());
    create(&engine, "bad");
}

#[test]
fn one_damaged_index_does_not_stop_the_others() {
    damaged(|name| name == "commit.json", b"{", "commit.json] is damaged");
    damaged(|name| name == "commit.json", br#"{"format": 99}"#, "has format [99]");
    let ends = |end: &'static str| move |name: &str| name.ends_with(end);
    damaged(ends(".idx"), b"short", "bytes, not the committed");
    damaged(ends(".del"), &[0; 12], "checksum differs");
}

/// A merge would give what a damaged file says a checksum that fits it.
#[test]
fn damaged_segments_are_not_merged() {
    let disk = SimDisk::new();
    let engine = open(&disk);
    let index = create(&engine, "a");
    let one = |index: &Index, n: u32| {
        write_one(index, upsert(&n.to_string(), &json!({"n": n}))).unwrap();
        index.flush().unwrap();
    };
    (0..5).for_each(|n| one(&index, n));
    let folder = Path::new("/data/indexes").join(index.uuid());
    engine.close().unwrap();
    drop((index, engine));
    let names = disk.list(&folder).unwrap();
    let path = folder.join(names.iter().find(|name| name.ends_with(".source")).unwrap());
    let mut content = disk.read(&path).unwrap();
    content[3] ^= 1;
    disk.damage(&path, &content).unwrap();
    let engine = open(&disk);
    let index = engine.index("a").unwrap();
    (5..11).for_each(|n| one(&index, n));
    eventually("the others are merged", || {
        index.flush().unwrap();
        index.stats().segment_count <= 6
    });
    let error = index.force_merge(ForceMerge::Down(1)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert_eq!(index.snapshot().doc_count(), 11);
    assert_eq!(disk.read(&path).unwrap(), content, "the damaged file is where it was");
}

#[test]
fn mappings_are_durable_and_what_is_deleted_is_gone() {
    let disk = SimDisk::new();
    let engine = open(&disk);
    let index = create(&engine, "a");
    index.put_mapping(&json!({"properties": {"tag": {"type": "keyword"}}})).unwrap();
    let error = index.put_mapping(&json!({"properties": {"tag": {"type": "long"}}})).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    create(&engine, "b");
    engine.delete_index("b", false).unwrap();
    let after = disk.power_cut(9);
    drop((index, engine));
    let engine = open(&after);
    assert!(engine.index("a").unwrap().mapping().field("tag").is_some());
    assert_eq!(engine.indexes().len(), 1);
    assert_eq!(after.list(Path::new("/data/indexes")).unwrap().len(), 1);
}

#[test]
fn segments_with_and_without_a_field_are_searched_and_merged() {
    let disk = SimDisk::new();
    let engine = open(&disk);
    let index = create(&engine, "a");
    let exists = |field: &str| {
        let query = Query::Exists { field: field.to_owned(), boost: 1.0 };
        crate::search::count(&[index.snapshot()], &query).unwrap()
    };
    for n in 0..60 {
        let field = format!("text_{}", n / 10);
        let ops = vec![upsert(&n.to_string(), &json!({field: "some words", "all": n}))];
        index.write(Batch { ops, refresh: Refresh::Now, ..Batch::default() }).unwrap();
        assert_eq!(exists("all"), n + 1);
        assert_eq!(exists(&format!("text_{}", n / 10)), n % 10 + 1);
    }
    eventually("merges", || {
        index.write(batch(vec![delete("none")])).unwrap();
        index.flush().unwrap();
        index.stats().segment_count < 12
    });
    (0..6).for_each(|k| assert_eq!(exists(&format!("text_{k}")), 10, "text_{k}"));
}

fn amount(snapshot: &Snapshot, id: &str) -> i64 {
    let document = snapshot.document(id).unwrap().unwrap();
    let source: Value = serde_json::from_slice(&document.source).unwrap();
    source["amount"].as_i64().unwrap()
}

#[test]
fn transactions_are_seen_whole() {
    let disk = SimDisk::new();
    let engine = open(&disk);
    let index = follow(&engine, "ledger");
    let row = |id: &str, amount: i64| upsert(id, &json!({"amount": amount}));
    let write = |lsn: u64, a: i64| {
        let ops = vec![row("a", a), row("b", 1000 - a)];
        let checkpoint = Some(checkpoint(lsn));
        index.submit(Batch { ops, checkpoint, ..Batch::default() }).unwrap()
    };
    write(1, 0).blocking_recv().unwrap().unwrap();
    index.refresh().unwrap();
    let (looks, done) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut last = 0;
            while !done.load(Ordering::Relaxed) {
                let snapshot = index.snapshot();
                let (a, b) = (amount(&snapshot, "a"), amount(&snapshot, "b"));
                assert_eq!(a + b, 1000);
                let lsn = snapshot.checkpoint().unwrap().lsn.0;
                assert!(lsn >= last);
                assert_eq!(a.unsigned_abs(), lsn - 1);
                last = lsn;
                looks.fetch_add(1, Ordering::Relaxed);
            }
        });
        eventually("somebody looks", || looks.load(Ordering::Relaxed) > 0);
        let receipts: Vec<_> = (1..800_i64).map(|n| write(n.unsigned_abs() + 1, n)).collect();
        for receipt in receipts {
            receipt.blocking_recv().unwrap().unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
}

/// An index whose writer met a damaged document and then could not go back, since the disk was full.
fn lost() -> (SimDisk, Engine, Arc<Index>) {
    let disk = SimDisk::new();
    let engine = open(&disk);
    let index = create(&engine, "a");
    write_one(&index, upsert("damaged", &json!({"n": 1}))).unwrap();
    index.flush().unwrap();
    let folder = Path::new("/data/indexes").join(index.uuid());
    engine.close().unwrap();
    drop((index, engine));
    let names = disk.list(&folder).unwrap();
    let path = folder.join(names.iter().find(|name| name.ends_with(".source")).unwrap());
    let mut content = disk.read(&path).unwrap();
    for byte in &mut content {
        *byte ^= 1;
    }
    disk.damage(&path, &content).unwrap();
    let engine = open(&disk);
    let index = engine.index("a").unwrap();
    write_one(&index, upsert("logged", &json!({"n": 2}))).unwrap();
    disk.fail_from(disk.operations(), Fault::NoSpace);
    assert!(index.write(batch(vec![patch("damaged", &json!({"n": 3}))])).is_err());
    let error = index.write(batch(vec![delete("none")])).unwrap_err();
    assert!(error.message().contains("takes no writes"), "{error}");
    (disk, engine, index)
}

/// What was acknowledged is there, and writes are taken, now and after a power cut.
fn is_whole(disk: &SimDisk, engine: Engine) {
    let index = engine.index("a").unwrap();
    index.refresh().unwrap();
    assert_eq!(published(&index, "logged"), Some(json!({"n": 2})));
    write_one(&index, upsert("later", &json!({"n": 4}))).unwrap();
    let after = disk.power_cut(5);
    drop((index, engine));
    let engine = open(&after);
    let index = engine.index("a").unwrap();
    assert_eq!(published(&index, "logged"), Some(json!({"n": 2})));
    assert_eq!(published(&index, "later"), Some(json!({"n": 4})));
    assert_eq!(index.snapshot().doc_count(), 3);
}

#[test]
fn a_writer_that_could_not_go_back_comes_back_with_a_flush() {
    let (disk, engine, index) = lost();
    assert!(index.flush().is_err());
    disk.heal();
    index.flush().unwrap();
    is_whole(&disk, engine);
}

#[test]
fn a_writer_that_could_not_go_back_comes_back_of_itself() {
    let (disk, engine, index) = lost();
    disk.heal();
    eventually("writes are taken again", || index.write(batch(vec![delete("none")])).is_ok());
    is_whole(&disk, engine);
}

#[test]
fn an_index_whose_writer_could_not_go_back_is_closed_and_opened() {
    let (disk, engine, _) = lost();
    assert!(engine.close_index("a").is_err());
    disk.heal();
    engine.close_index("a").unwrap();
    engine.open_index("a").unwrap();
    is_whole(&disk, engine);
}

#[test]
fn a_start_on_a_full_disk_is_made_good_once_there_is_space() {
    let disk = SimDisk::new();
    let engine = open(&disk);
    for name in ["a", "b"] {
        write_one(&create(&engine, name), upsert("logged", &json!({"n": 1}))).unwrap();
    }
    create(&engine, "closed");
    engine.close_index("closed").unwrap();
    let disk = disk.kill();
    drop(engine);
    disk.fail_from(disk.operations(), Fault::NoSpace);
    let engine = open(&disk);
    assert_eq!(engine.damaged().len(), 2);
    assert!(engine.has_unavailable());
    for name in ["a", "b"] {
        let error = engine.index(name).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.message().contains("full disk"), "{error}");
    }
    assert_eq!(engine.open_again(), [""; 0]);
    disk.heal();
    assert_eq!(engine.open_again(), ["a", "b"]);
    assert_eq!((engine.damaged(), engine.has_unavailable()), (Vec::new(), false));
    for name in ["a", "b"] {
        let index = engine.index(name).unwrap();
        assert!(index.document("logged").unwrap().is_some());
        write_one(&index, upsert("later", &json!({"n": 2}))).unwrap();
    }
    assert_eq!(engine.index("closed").unwrap_err().kind(), ErrorKind::IndexClosed);
}
