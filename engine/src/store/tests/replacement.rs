//! Indexes that take the place of others, and crashes while they do.

use std::path::Path;

use egret_aof::disk::Disk;
use egret_aof::disk::sim::Fault;

use super::*;

fn definition() -> IndexDefinition {
    let mappings = json!({"properties": {"n": {"type": "keyword"}}});
    IndexDefinition { mappings, ..IndexDefinition::default() }
}

/// An index with one document.
fn old_index(engine: &Engine) -> Arc<Index> {
    let index = follow(engine, "a");
    let ops = vec![upsert("old", &json!({"n": 1}))];
    index.write(Batch { ops, checkpoint: Some(checkpoint(1)), ..Batch::default() }).unwrap();
    index.flush().unwrap();
    index
}

/// Fills a replacement and swaps it in.
fn replace(engine: &Engine) -> Result<()> {
    let new = engine.create_replacement("a", &definition())?;
    let ops = vec![upsert("new", &json!({"n": "one"}))];
    new.write(Batch { ops, checkpoint: Some(checkpoint(2)), ..Batch::default() })?;
    new.flush()?;
    engine.swap_in_replacement("a", None).map(drop)
}

fn folders(disk: &SimDisk) -> usize {
    disk.list(Path::new("/data/indexes")).unwrap().len()
}

#[test]
fn a_replacement_takes_the_place_of_its_index() {
    let disk = SimDisk::new();
    let engine = open(&disk);
    let missing = engine.create_replacement("a", &definition()).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::IndexNotFound);
    let old = old_index(&engine);
    let snapshot = old.snapshot();
    let missing = engine.swap_in_replacement("a", None).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::InvalidArgument);
    engine.create_replacement("a", &definition()).unwrap();
    engine.discard_replacement("a").unwrap();
    assert_eq!((engine.replacement("a").is_none(), folders(&disk)), (true, 1));
    engine.create_replacement("a", &definition()).unwrap();
    replace(&engine).unwrap();
    let new = engine.index("a").unwrap();
    assert_ne!(new.uuid(), old.uuid());
    assert_eq!((new.pipeline(), engine.indexes().len()), (Some("main"), 1));
    assert!(published(&new, "new").is_some() && published(&new, "old").is_none());
    // Whoever reads the old one reads on.
    assert!(snapshot.document("old").unwrap().is_some() && published(&old, "old").is_some());
    assert_eq!((engine.replacement("a").is_none(), folders(&disk)), (true, 1));
    let uuid = new.uuid().to_owned();
    drop((old, new, snapshot, engine));
    let engine = open(&disk);
    assert_eq!(engine.index("a").unwrap().uuid(), uuid);
    // With an index goes what would have replaced it.
    engine.create_replacement("a", &definition()).unwrap();
    engine.delete_index("a", true).unwrap();
    assert_eq!((engine.replacement("a").is_none(), folders(&disk)), (true, 0));
}

#[test]
fn a_replacement_survives_a_restart() {
    let disk = SimDisk::new();
    let engine = open(&disk);
    old_index(&engine);
    let new = engine.create_replacement("a", &definition()).unwrap();
    let copy_progress = Some("half".to_owned());
    let ops = vec![upsert("new", &json!({"n": "one"}))];
    new.write(Batch { ops, copy_progress, ..Batch::default() }).unwrap();
    new.flush().unwrap();
    drop((new, engine));
    let after = disk.power_cut(1);
    let engine = open(&after);
    assert!(published(&engine.index("a").unwrap(), "old").is_some());
    let new = engine.replacement("a").unwrap();
    assert_eq!(new.copy_progress().as_deref(), Some("half"));
    engine.swap_in_replacement("a", None).unwrap();
    assert!(published(&engine.index("a").unwrap(), "new").is_some());
}

#[test]
fn a_damaged_index_is_replaced() {
    let disk = SimDisk::new();
    let engine = open(&disk);
    let old = old_index(&engine);
    let commit = Path::new("/data/indexes").join(old.uuid()).join("commit.json");
    drop((old, engine));
    disk.damage(&commit, b"{").unwrap();
    let engine = open(&disk);
    assert_eq!(engine.damaged().len(), 1);
    replace(&engine).unwrap();
    assert_eq!((engine.damaged(), folders(&disk)), (Vec::new(), 1));
    assert!(published(&engine.index("a").unwrap(), "new").is_some());
}

/// A crash at this operation of the disk leaves the old index or the new one, whole. Says whether
/// the crash came too late to be one.
fn crash(at: u64, fault: Fault) -> bool {
    let disk = SimDisk::new();
    let engine = open(&disk);
    drop(old_index(&engine));
    disk.fail_from(disk.operations() + at, fault);
    let done = replace(&engine).is_ok();
    disk.heal();
    let power_cut = matches!(fault, Fault::PowerCut);
    let after = if power_cut { disk.power_cut(at) } else { disk.kill() };
    drop(engine);
    let engine = open(&after);
    let context = format!("{fault:?} at {at}");
    assert_eq!(engine.damaged(), [], "{context}");
    let index = engine.index("a").unwrap();
    let (old, new) = (published(&index, "old").is_some(), published(&index, "new").is_some());
    assert!(old != new, "{context}: old {old} new {new}");
    assert!(new || !done, "{context}: the swap was said to be done");
    let unfinished = usize::from(engine.replacement("a").is_some());
    assert_eq!(folders(&after), 1 + unfinished, "{context}");
    // Whatever was left, it can be done again.
    if old {
        replace(&engine).unwrap();
        assert!(published(&engine.index("a").unwrap(), "new").is_some(), "{context}");
    }
    done
}

#[test]
fn a_crash_leaves_the_old_index_or_the_new_one() {
    for fault in [Fault::PowerCut, Fault::NoSpace] {
        let operations = (0..10_000).take_while(|&at| !crash(at, fault)).count();
        assert!(operations > 10, "only {operations} operations");
    }
}

/// The replacement is swapped in, and the index from before kept.
fn kept(disk: &SimDisk) -> Engine {
    let engine = open(disk);
    drop(old_index(&engine));
    let new = engine.create_replacement("a", &definition()).unwrap();
    let ops = vec![upsert("new", &json!({"n": "one"}))];
    new.write(Batch { ops, checkpoint: Some(checkpoint(2)), ..Batch::default() }).unwrap();
    new.flush().unwrap();
    engine.swap_in_replacement("a", Some(9_000)).unwrap();
    engine
}

#[test]
fn the_index_from_before_replaces_the_newer_one() {
    let disk = SimDisk::new();
    let engine = kept(&disk);
    let forbidden = engine.roll_back_rebuild("a").unwrap_err();
    assert_eq!(forbidden.kind(), ErrorKind::Forbidden, "nobody has brought it up to date");
    drop(engine);
    let engine = open(&disk);
    let (old, known) = engine.kept("a").unwrap();
    assert_eq!((known.until_ms, folders(&disk)), (9_000, 2));
    let ops = vec![upsert("later", &json!({"n": 2}))];
    old.write(Batch { ops, checkpoint: Some(checkpoint(3)), ..Batch::default() }).unwrap();
    old.flush().unwrap();
    let other = engine.replace_by_kept("a", "another").unwrap_err();
    assert_eq!(other.kind(), ErrorKind::InvalidArgument);
    engine.replace_by_kept("a", &known.uuid).unwrap();
    assert!(engine.kept("a").is_none());
    // It is as after any copy: a crash leaves both.
    drop((old, engine));
    let engine = open(&disk);
    assert!(published(&engine.index("a").unwrap(), "new").is_some());
    engine.swap_in_replacement("a", None).unwrap();
    let index = engine.index("a").unwrap();
    assert_eq!((index.uuid(), folders(&disk)), (known.uuid.as_str(), 1));
    assert!(published(&index, "old").is_some() && published(&index, "later").is_some());
}

#[test]
fn one_index_from_before_is_kept_and_for_its_time() {
    let disk = SimDisk::new();
    let engine = kept(&disk);
    let (_, first) = engine.kept("a").unwrap();
    engine.create_replacement("a", &definition()).unwrap();
    assert!(engine.kept("a").is_none());
    engine.swap_in_replacement("a", Some(9_000)).unwrap();
    let (_, second) = engine.kept("a").unwrap();
    assert_ne!(first.uuid, second.uuid);
    engine.drop_kept("a", &first.uuid).unwrap();
    assert_eq!((engine.kept("a").is_some(), folders(&disk)), (true, 2));
    assert_eq!(engine.drop_expired_folders(8_999).unwrap(), [""; 0]);
    assert_eq!(engine.drop_expired_folders(9_000).unwrap(), ["a"]);
    assert_eq!((engine.kept("a").is_none(), folders(&disk)), (true, 1));
}

#[test]
fn a_batch_that_must_fit_leaves_nothing_of_itself() {
    let disk = SimDisk::new();
    let engine = open(&disk);
    let index = old_index(&engine);
    let batch = |must_fit, lsn| Batch {
        ops: vec![upsert("good", &json!({"n": 2})), upsert("old", &json!({"n": "none"}))],
        checkpoint: Some(checkpoint(lsn)),
        must_fit,
        ..Batch::default()
    };
    let error = index.write(batch(true, 2)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DocumentParsing, "{error}");
    // Answered once the writer has gone back.
    index.refresh().unwrap();
    assert!(index.refusal().unwrap().starts_with("the index takes no writes"));
    index.resume().unwrap();
    assert_eq!(index.refusal(), None);
    index.flush().unwrap();
    assert!(published(&index, "good").is_none() && published(&index, "old").is_some());
    assert_eq!(index.positions().borrow().applied, Some(checkpoint(1)));
    let outcome = index.write(batch(false, 2)).unwrap();
    assert!(outcome.ops[0].is_ok() && outcome.ops[1].is_err());
    index.flush().unwrap();
    assert!(published(&index, "good").is_some() && published(&index, "old").is_none());
}
