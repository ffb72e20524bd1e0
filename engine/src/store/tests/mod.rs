//! Tests of the whole store through the engine's public face, on a simulated disk.

mod composed;
mod durability;
mod faults;
mod flushing;
mod follower;
mod growth;
mod held_back;
mod many;
mod merging;
mod model;
mod power;
mod publication;
mod rebuild;
mod replacement;
mod replay;
mod rewrite;
mod rows_shown;
mod sources;
mod spooled;
mod storm;
mod twice;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use egret_aof::disk::sim::SimDisk;
use serde_json::{Value, json};

use crate::batch::{Applied, Batch, Condition, OpResult, Patch, Refresh, WriteOp};
use crate::error::{ErrorKind, Result};
use crate::index::{Index, IndexDefinition};
use crate::position::{Checkpoint, Lsn, SeqNo};
use crate::{Engine, EngineOptions, Limits};

/// A data folder on a simulated disk.
fn open(disk: &SimDisk) -> Engine {
    try_open(disk).unwrap()
}

fn try_open(disk: &SimDisk) -> Result<Engine> {
    open_with(disk, Limits::default())
}

fn open_with(disk: &SimDisk, limits: Limits) -> Result<Engine> {
    Engine::open(EngineOptions {
        disk: Arc::new(disk.clone()),
        folder: PathBuf::from("/data"),
        indexing_budget_bytes: 64 << 20,
        limits,
    })
}

fn create(engine: &Engine, name: &str) -> Arc<Index> {
    engine.create_index(name, IndexDefinition::default()).unwrap()
}

fn follow(engine: &Engine, name: &str) -> Arc<Index> {
    let pipeline = Some("main".to_owned());
    engine.create_index(name, IndexDefinition { pipeline, ..IndexDefinition::default() }).unwrap()
}

fn checkpoint(lsn: u64) -> Checkpoint {
    Checkpoint { system_identifier: 7, timeline: 1, lsn: Lsn(lsn) }
}

fn upsert(id: &str, source: &Value) -> WriteOp {
    let source = Bytes::from(source.to_string());
    WriteOp::Upsert { id: id.to_owned(), source, condition: Condition::None }
}

fn delete(id: &str) -> WriteOp {
    WriteOp::Delete { id: id.to_owned(), condition: Condition::None }
}

fn patch(id: &str, source: &Value) -> WriteOp {
    let source = Bytes::from(source.to_string());
    WriteOp::Patch {
        id: id.to_owned(),
        previous_id: None,
        patch: Patch::Merge { source, upsert: None, detect_noop: true },
        condition: Condition::None,
    }
}

fn batch(ops: Vec<WriteOp>) -> Batch {
    Batch { ops, ..Batch::default() }
}

/// Writes and gives each operation's result.
fn write(index: &Index, ops: Vec<WriteOp>) -> Vec<Result<Applied>> {
    index.write(batch(ops)).unwrap().ops
}

fn write_one(index: &Index, op: WriteOp) -> Result<Applied> {
    write(index, vec![op]).remove(0)
}

fn published(index: &Index, id: &str) -> Option<Value> {
    let document = index.snapshot().document(id).unwrap()?;
    Some(serde_json::from_slice(&document.source).unwrap())
}

/// Waits for a condition that background work brings about. It is looked at all the time at first, to
/// see also what soon passes; after a second the work has the processor to itself.
fn eventually(what: &str, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        match begun.elapsed() {
            waited if waited < Duration::from_secs(1) => std::thread::yield_now(),
            waited if waited < Duration::from_secs(120) => {
                std::thread::sleep(Duration::from_millis(1));
            }
            waited => panic!("not within {waited:?}: {what}"),
        }
    }
}

/// Says on a failure with which seed to see it again.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("to see it again: FAULT_SEED={} FAULT_RUNS=1", self.0);
        }
    }
}

/// Runs a campaign: `runs` seeds, or `FAULT_RUNS` from `FAULT_SEED` on.
fn campaign(runs: u64, run: impl Fn(u64)) {
    let setting = |name: &str, default: u64| {
        let text = std::env::var(name).unwrap_or_default();
        if text.is_empty() { default } else { text.parse().unwrap() }
    };
    let first = setting("FAULT_SEED", 1);
    for seed in first..first + setting("FAULT_RUNS", runs) {
        let _seed = Seed(seed);
        run(seed);
    }
}

#[test]
fn documents_are_written_read_and_found() {
    let disk = SimDisk::new();
    let engine = open(&disk);
    let index = create(&engine, "a");
    let first = write_one(&index, upsert("1", &json!({"title": "the elephant"}))).unwrap();
    assert_eq!((first.result, first.seq_no.0, first.version), (OpResult::Created, 0, 1));
    let second = write_one(&index, upsert("1", &json!({"title": "the egret", "n": 1}))).unwrap();
    assert_eq!((second.result, second.seq_no.0, second.version), (OpResult::Updated, 1, 2));
    // Read at once, published or not.
    let document = index.document("1").unwrap().unwrap();
    assert_eq!((document.version, document.seq_no.0), (2, 1));
    index.refresh().unwrap();
    assert_eq!(published(&index, "1"), Some(json!({"title": "the egret", "n": 1})));
    assert_eq!(index.snapshot().doc_count(), 1);
    assert!(index.mapping().field("title.keyword").is_some());
    assert_eq!(write_one(&index, delete("1")).unwrap().result, OpResult::Deleted);
    assert_eq!(write_one(&index, delete("1")).unwrap().result, OpResult::NotFound);
    assert_eq!(index.document("1").unwrap(), None);
    index.refresh().unwrap();
    assert_eq!(index.snapshot().doc_count(), 0);
}

#[test]
fn a_write_can_wait_for_its_publication() {
    let disk = SimDisk::new();
    let engine = open(&disk);
    let index = create(&engine, "a");
    for refresh in [Refresh::Now, Refresh::WaitFor] {
        for id in 0..20 {
            let ops = vec![upsert(&id.to_string(), &json!({"n": id}))];
            let outcome = index.write(Batch { ops, refresh, ..Batch::default() }).unwrap();
            assert!(outcome.published);
            assert_eq!(published(&index, &id.to_string()), Some(json!({"n": id})));
        }
    }
    // Without asking, it appears by itself.
    write_one(&index, upsert("x", &json!({}))).unwrap();
    eventually("publication", || published(&index, "x").is_some());
}

#[test]
fn operations_of_a_batch_on_one_document() {
    let disk = SimDisk::new();
    let engine = open(&disk);
    let index = create(&engine, "a");
    let results = write(
        &index,
        vec![
            upsert("1", &json!({"n": 1})),
            upsert("1", &json!({"n": "not a number"})),
            patch("1", &json!({"m": 2})),
            delete("2"),
            upsert("2", &json!({"n": 5})),
            delete("2"),
            patch("2", &json!({"n": 6})),
        ],
    );
    let shown: Vec<String> = results
        .iter()
        .map(|result| match result {
            Ok(Applied { result, version, .. }) => format!("{result:?} {version}"),
            Err(error) => format!("{:?}", error.kind()),
        })
        .collect();
    assert_eq!(
        shown,
        [
            "Created 1",
            "DocumentParsing",
            "Updated 2",
            "NotFound 1",
            // A delete counts, also one that finds nothing.
            "Created 2",
            "Deleted 3",
            "DocumentMissing"
        ]
    );
    index.refresh().unwrap();
    assert_eq!(published(&index, "1"), Some(json!({"n": 1, "m": 2})));
    assert_eq!(published(&index, "2"), None);
    assert_eq!(index.snapshot().doc_count(), 1);
}

#[test]
fn conditions() {
    let disk = SimDisk::new();
    let engine = open(&disk);
    let index = create(&engine, "a");
    let put = |condition| {
        let source = Bytes::from_static(b"{}");
        write_one(&index, WriteOp::Upsert { id: "1".to_owned(), source, condition })
    };
    let conflict = |result: Result<Applied>, expected: &str| {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::VersionConflict);
        assert_eq!(error.message(), expected);
    };
    let seq_no = SeqNo(5);
    conflict(
        put(Condition::LastChange { seq_no, term: 1 }),
        "[1]: version conflict, required seqNo [5], primary term [1]. but no document was found",
    );
    let first = put(Condition::Absent).unwrap();
    conflict(
        put(Condition::Absent),
        "[1]: version conflict, document already exists (current version [1])",
    );
    index.refresh().unwrap();
    let now = Condition::LastChange { seq_no: first.seq_no, term: first.term };
    put(now).unwrap();
    conflict(
        put(now),
        "[1]: version conflict, required seqNo [0], primary term [1]. current document has seqNo \
         [1] and primary term [1]",
    );
}

/// Versions counted elsewhere; a delete's is remembered, also over restarts and flushes.
#[test]
fn external_versions_only_rise() {
    let mut disk = SimDisk::new();
    let mut engine = open(&disk);
    create(&engine, "a");
    let put = |index: &Index, version, or_equal| {
        let condition = Condition::External { version, or_equal };
        let source = Bytes::from_static(b"{}");
        let op = WriteOp::Upsert { id: "1".to_owned(), source, condition };
        write_one(index, op).map(|applied| applied.version)
    };
    let conflict = |result: Result<u64>, expected: &str| {
        assert_eq!(result.unwrap_err().message(), format!("[1]: version conflict, {expected}"));
    };
    let index = engine.index("a").unwrap();
    assert_eq!(put(&index, 5, false).unwrap(), 5);
    let reason = "current version [5] is higher or equal to the one provided [5]";
    conflict(put(&index, 5, false), reason);
    assert_eq!(put(&index, 5, true).unwrap(), 5);
    conflict(put(&index, 4, true), "current version [5] is higher than the one provided [4]");
    let condition = Condition::External { version: 9, or_equal: false };
    let gone = WriteOp::Delete { id: "1".to_owned(), condition };
    assert_eq!(write_one(&index, gone).unwrap().version, 9);
    for flush in [false, true, true] {
        let index = engine.index("a").unwrap();
        let reason = "current version [9] is higher or equal to the one provided [8]";
        conflict(put(&index, 8, false), reason);
        if flush {
            write_one(&index, upsert("2", &json!({}))).unwrap();
            index.flush().unwrap();
        }
        let after = disk.power_cut(1);
        drop((index, engine));
        disk = after;
        engine = open(&disk);
    }
    let index = engine.index("a").unwrap();
    assert_eq!(write_one(&index, upsert("1", &json!({}))).unwrap().version, 10);
}

/// Without a time to remember deletes, a deleted document begins anew.
#[test]
fn deletes_are_forgotten_when_told() {
    let disk = SimDisk::new();
    let engine = open(&disk);
    let settings = json!({"index.gc_deletes": "0"});
    let definition = IndexDefinition { settings, ..IndexDefinition::default() };
    let index = engine.create_index("a", definition).unwrap();
    let result = |op| write_one(&index, op).unwrap();
    assert_eq!(result(upsert("1", &json!({}))).version, 1);
    assert_eq!(result(delete("1")).version, 2);
    assert_eq!(result(upsert("1", &json!({}))).version, 1);
}

#[test]
fn what_is_acknowledged_survives_a_power_cut() {
    let disk = SimDisk::new();
    let engine = open(&disk);
    let index = create(&engine, "a");
    for n in 0..50 {
        write_one(&index, upsert(&n.to_string(), &json!({"n": n, "text": "word"}))).unwrap();
        if n == 20 {
            index.flush().unwrap();
        }
    }
    let after = disk.power_cut(1);
    drop((index, engine));
    let engine = open(&after);
    let index = engine.index("a").unwrap();
    assert_eq!(index.snapshot().doc_count(), 50);
    let document = index.document("49").unwrap().unwrap();
    assert_eq!((document.seq_no.0, document.version), (49, 1));
    assert_eq!(write_one(&index, upsert("new", &json!({}))).unwrap().seq_no.0, 50);
}

/// Numbers of operations that left nothing behind: a missing document was deleted, or a new one.
#[test]
fn a_sequence_number_is_not_used_again_after_a_power_cut() {
    let disk = SimDisk::new();
    let engine = open(&disk);
    let index = create(&engine, "i");
    write(&index, vec![upsert("a", &json!({"n": 1})), delete("a")]);
    let last = write_one(&index, delete("missing")).unwrap();
    assert_eq!((last.result, last.seq_no), (OpResult::NotFound, SeqNo(2)));
    let disk = disk.power_cut(1);
    drop(engine);
    let engine = open(&disk);
    let index = engine.index("i").unwrap();
    assert_eq!(write_one(&index, upsert("b", &json!({"n": 2}))).unwrap().seq_no, SeqNo(3));
}

#[test]
fn a_clean_restart_keeps_the_generation() {
    let disk = SimDisk::new();
    let engine = open(&disk);
    let index = create(&engine, "a");
    write_one(&index, upsert("1", &json!({"n": 1}))).unwrap();
    engine.close().unwrap();
    let generation = index.snapshot().generation();
    assert_eq!(index.write(batch(vec![delete("1")])).unwrap_err().kind(), ErrorKind::Closed);
    drop((index, engine));
    let engine = open(&disk);
    let index = engine.index("a").unwrap();
    assert_eq!(index.snapshot().generation(), generation);
    write_one(&index, upsert("2", &json!({"n": 1}))).unwrap();
    index.refresh().unwrap();
    assert!(index.snapshot().generation() > generation);
    assert!(index.snapshot().generation().term > generation.term);
}

#[test]
fn a_followed_index_remembers_how_far_it_is() {
    let disk = SimDisk::new();
    // Nothing is flushed for its age alone.
    let limits = Limits { followed_flush_age: Duration::from_secs(3600), ..Limits::default() };
    let engine = open_with(&disk, limits).unwrap();
    let index = follow(&engine, "t");
    let write = |lsn: u64, ops: Vec<WriteOp>| {
        let checkpoint = Some(checkpoint(lsn));
        index.write(Batch { ops, checkpoint, ..Batch::default() }).unwrap().ops
    };
    let positions = index.positions();
    let applied = write(100, vec![upsert("1", &json!({"n": 1}))]).remove(0).unwrap();
    assert_eq!(applied.version, 100);
    assert_eq!(positions.borrow().applied, Some(checkpoint(100)));
    assert_eq!(positions.borrow().durable, None);
    eventually("visible", || positions.borrow().visible == Some(checkpoint(100)));
    assert_eq!(index.snapshot().checkpoint(), Some(checkpoint(100)));
    index.advance(checkpoint(150)).unwrap();
    eventually("advanced", || positions.borrow().visible == Some(checkpoint(150)));
    index.flush().unwrap();
    assert_eq!(positions.borrow().durable, Some(checkpoint(150)));
    assert!(!positions.borrow().unflushed);
    index.advance(checkpoint(160)).unwrap();
    eventually("durable without a flush", || positions.borrow().durable == Some(checkpoint(160)));
    // Changes that the document has seen already are skipped; a bad row removes its document.
    assert_eq!(write(100, vec![delete("1")]).remove(0).unwrap().result, OpResult::Noop);
    let results = write(200, vec![upsert("1", &json!({"n": {}})), upsert("2", &json!({}))]);
    assert_eq!(results[0].as_ref().unwrap_err().kind(), ErrorKind::DocumentParsing);
    assert_eq!(results[1].as_ref().unwrap().result, OpResult::Created);
    index.refresh().unwrap();
    assert_eq!((published(&index, "1"), published(&index, "2")), (None, Some(json!({}))));
    let after = disk.power_cut(3);
    drop((index, engine));
    let engine = open(&after);
    let index = engine.index("t").unwrap();
    assert_eq!(index.positions().borrow().durable, Some(checkpoint(150)));
    assert_eq!(published(&index, "1"), Some(json!({"n": 1})));
    assert_eq!(published(&index, "2"), None);
    let error = engine.delete_index("t", false).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Forbidden);
    engine.delete_index("t", true).unwrap();
    assert_eq!(engine.index("t").unwrap_err().kind(), ErrorKind::IndexNotFound);
}
