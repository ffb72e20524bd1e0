//! `refresh_interval: -1`: what is written is durable with a flush, and searched after a refresh.

use super::*;
use crate::index::ForceMerge;

fn held_back(engine: &Engine, pipeline: Option<&str>) -> Arc<Index> {
    let settings = json!({"refresh_interval": "-1"});
    let pipeline = pipeline.map(str::to_owned);
    let definition = IndexDefinition { settings, pipeline, ..IndexDefinition::default() };
    engine.create_index("i", definition).unwrap()
}

fn number(n: u32) -> Value {
    json!({"n": n})
}

fn newest(index: &Index, id: &str) -> Option<Value> {
    let found = index.document(id).unwrap()?;
    Some(serde_json::from_slice(&found.source).unwrap())
}

/// An index with one published document, and others that replace it, follow it and delete it; `flush`
/// makes them durable. What was searched before is, what is read by id is the newest.
fn check(limits: &Limits, flush: impl Fn(&Index)) {
    let disk = SimDisk::new();
    let engine = open_with(&disk, limits.clone()).unwrap();
    let index = held_back(&engine, None);
    let batch = batch(vec![upsert("a", &number(1)), upsert("gone", &number(1))]);
    index.write(Batch { refresh: Refresh::Now, ..batch }).unwrap();
    let before = index.snapshot().generation();
    for n in 2..20 {
        write(&index, vec![upsert("a", &number(n)), upsert(&n.to_string(), &number(n))]);
        if n == 2 {
            write_one(&index, delete("gone")).unwrap();
        }
        if n % 3 == 0 {
            flush(&index);
            assert!(!index.positions().borrow().unflushed);
        }
        let snapshot = index.snapshot();
        assert_eq!((snapshot.doc_count(), snapshot.generation()), (2, before));
        assert_eq!(published(&index, "a"), Some(number(1)));
        assert_eq!(published(&index, "gone"), Some(number(1)));
        assert_eq!(newest(&index, "a"), Some(number(n)));
        assert_eq!(newest(&index, "2"), Some(number(2)));
        assert_eq!(newest(&index, "gone"), None);
    }
    index.refresh().unwrap();
    let (count, after) = (index.snapshot().doc_count(), index.snapshot().generation());
    assert_eq!((count, published(&index, "a")), (19, Some(number(19))));
    // Whatever of it is flushed: nothing is lost, and no generation names two states.
    write_one(&index, upsert("b", &number(1))).unwrap();
    flush(&index);
    write_one(&index, upsert("c", &number(1))).unwrap();
    assert_eq!(published(&index, "b"), None);
    drop(index);
    for (number, disk) in [disk.kill(), disk.power_cut(1)].iter().enumerate() {
        let engine = open_with(disk, limits.clone()).unwrap();
        let index = engine.index("i").unwrap();
        assert_eq!(index.snapshot().doc_count(), 21, "{number}");
        assert!(index.snapshot().generation() > after, "{number}");
        assert_eq!(newest(&index, "b"), newest(&index, "c"), "{number}");
    }
}

#[test]
fn a_flush_shows_nothing_to_searches() {
    check(&Limits::default(), |index| index.flush().unwrap());
}

#[test]
fn a_flush_by_age_or_size_shows_nothing_to_searches() {
    let flushed = |index: &Index| {
        eventually("a flush", || !index.positions().borrow().unflushed);
    };
    let soon = Duration::from_millis(5);
    check(&Limits { flush_age: soon, ..Limits::default() }, flushed);
    check(&Limits { flush_operations: 0, ..Limits::default() }, flushed);
}

/// The name of a committed state that was never published is not given to another one.
#[test]
fn a_state_that_was_held_back_is_searched_after_a_restart() {
    let disk = SimDisk::new();
    let engine = open(&disk);
    let index = held_back(&engine, None);
    write_one(&index, upsert("a", &number(1))).unwrap();
    index.flush().unwrap();
    write_one(&index, upsert("b", &number(1))).unwrap();
    index.refresh().unwrap();
    let published = index.snapshot().generation();
    drop((index, engine));
    let disk = disk.kill();
    let engine = open(&disk);
    let index = engine.index("i").unwrap();
    assert_eq!(index.snapshot().doc_count(), 2);
    index.flush().unwrap();
    assert_ne!(index.snapshot().generation(), published);
    write_one(&index, upsert("c", &number(1))).unwrap();
    let before = index.snapshot().generation();
    engine.close().unwrap();
    drop((index, engine));
    let engine = open(&disk);
    let index = engine.index("i").unwrap();
    assert_eq!(index.snapshot().doc_count(), 3);
    assert!(index.snapshot().generation() > before);
}

/// What is visible is what is searched; what is durable is more, and PostgreSQL may forget it.
#[test]
fn a_followed_index_is_durable_past_what_is_visible() {
    let disk = SimDisk::new();
    let engine = open(&disk);
    let index = held_back(&engine, Some("main"));
    let write = |lsn: u64| {
        let checkpoint = Some(checkpoint(lsn));
        let ops = vec![upsert(&lsn.to_string(), &json!({}))];
        index.write(Batch { ops, checkpoint, ..Batch::default() }).unwrap();
    };
    let at = |checkpoint: Option<Checkpoint>| checkpoint.map(|it| it.lsn.0);
    let positions = || {
        let positions = *index.positions().borrow();
        (at(positions.visible), at(positions.durable))
    };
    write(10);
    index.refresh().unwrap();
    write(20);
    index.flush().unwrap();
    index.advance(checkpoint(25)).unwrap();
    index.flush().unwrap();
    assert_eq!((positions(), index.snapshot().doc_count()), ((Some(10), Some(25)), 1));
    assert_eq!(at(index.snapshot().checkpoint()), Some(10));
    // What is read by id is what is published, as in every followed index.
    assert_eq!(index.document("20").unwrap(), None);
    index.refresh().unwrap();
    assert_eq!((positions(), index.snapshot().doc_count()), ((Some(25), Some(25)), 2));
    write(30);
    index.flush().unwrap();
    drop(index);
    let engine = open(&disk.kill());
    let index = engine.index("i").unwrap();
    let positions = *index.positions().borrow();
    assert_eq!((at(positions.visible), at(positions.durable)), (Some(30), Some(30)));
    assert_eq!(index.snapshot().doc_count(), 3);
}

/// Much that only memory has becomes segments on disk, of which merges make fewer; its thread is given
/// back meanwhile, and whoever waits for a write to be searched is not held up.
#[test]
fn much_that_is_held_back_does_not_stay_in_memory() {
    let disk = SimDisk::new();
    let limits = Limits { flush_young_bytes: 64 << 10, ..Limits::default() };
    let engine = open_with(&disk, limits).unwrap();
    let index = held_back(&engine, None);
    let text = "word ".repeat(2_000);
    for n in 0..1_000_u32 {
        write_one(&index, upsert(&n.to_string(), &json!({"text": text, "n": n}))).unwrap();
    }
    assert_eq!(index.snapshot().doc_count(), 0);
    assert!((0..1_000).all(|n: u32| newest(&index, &n.to_string()).unwrap()["n"] == json!(n)));
    assert!(index.shared().recent.lock().bytes() < 2 << 20);
    eventually("a merge", || index.stats().merges.total > 0);
    index.flush().unwrap();
    eventually("its thread is given back", || index.shared().is_parked());
    assert_eq!(index.snapshot().doc_count(), 0);
    let ops = vec![upsert("last", &json!({}))];
    index.write(Batch { ops, refresh: Refresh::WaitFor, ..Batch::default() }).unwrap();
    assert_eq!(index.snapshot().doc_count(), 1_001);
    index.force_merge(ForceMerge::Down(1)).unwrap();
    assert_eq!(index.segments().len(), 1);
}

/// A field that is added is known to searches at once, as long as no document waits for a refresh.
#[test]
fn an_added_field_is_not_held_back() {
    let engine = open(&SimDisk::new());
    let index = held_back(&engine, None);
    index.put_mapping(&json!({"properties": {"n": {"type": "long"}}})).unwrap();
    assert!(index.snapshot().mapping().field("n").is_some());
}

/// A rebuilt folder has everything when it takes the index's place.
#[test]
fn a_rebuild_shows_everything() {
    let engine = Arc::new(open(&SimDisk::new()));
    let index = held_back(&engine, None);
    write_one(&index, upsert("a", &number(1))).unwrap();
    let changes = json!({"properties": {"n": {"type": "keyword"}}});
    let mut rebuild = engine.begin_rebuild("i", &changes).unwrap();
    while rebuild.step().unwrap().is_some() {}
    write_one(&index, upsert("b", &number(2))).unwrap();
    let index = rebuild.finish(None).unwrap();
    assert_eq!(index.snapshot().doc_count(), 2);
    assert_eq!(engine.index("i").unwrap().snapshot().doc_count(), 2);
}
