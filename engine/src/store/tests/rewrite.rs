//! Additions to a mapping that documents from before may have values for: which are known as such, that
//! no crash forgets them, and that documents are found under them once they were written again.

use std::path::Path;

use egret_aof::disk::Disk;
use egret_aof::disk::sim::Fault;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::catalog::Hindrance;
use crate::mapping::Outstanding;
use crate::query::ast::Query;

fn made(engine: &Engine, name: &str, mappings: Value) -> Arc<Index> {
    let definition = IndexDefinition { mappings, ..IndexDefinition::default() };
    engine.create_index(name, definition).unwrap()
}

fn long(name: &str) -> Value {
    json!({"properties": {name: {"type": "long"}}})
}

/// What is outstanding, and how often something was added to that.
fn outstanding(index: &Index) -> (Vec<String>, u64) {
    let found = index.outstanding().map(|found| Outstanding::clone(&found)).unwrap_or_default();
    (found.fields.into_iter().collect(), found.additions)
}

fn expect(index: &Index, fields: &[&str], additions: u64, context: &str) {
    let fields = fields.iter().map(|&field| field.to_owned()).collect();
    assert_eq!(outstanding(index), (fields, additions), "{context}");
}

/// How many documents have a value for a field.
fn having(index: &Index, field: &str) -> u64 {
    let query = Query::Exists { field: field.to_owned(), boost: 1.0 };
    crate::search::count(&[index.snapshot()], &query).unwrap()
}

/// Writes what is outstanding again. Whether there was anything that could be.
fn rewrite(engine: &Arc<Engine>, name: &str) -> Result<bool> {
    let Some(mut rewrite) = engine.begin_rewrite(name)? else { return Ok(false) };
    while rewrite.step()?.is_some() {}
    rewrite.finish(None).map(|_| true)
}

#[test]
fn only_what_documents_may_have_is_outstanding() {
    let disk = SimDisk::new();
    let engine = Arc::new(open(&disk));
    // Nobody has written anything yet.
    let index = made(&engine, "a", json!({"dynamic": false}));
    index.put_mapping(&long("early")).unwrap();
    index.put_mapping(&json!({"dynamic": true})).unwrap();
    write_one(&index, upsert("1", &json!({"text": "word"}))).unwrap();
    expect(&index, &[], 0, "before any document");
    index.put_mapping(&long("n")).unwrap();
    expect(&index, &[], 0, "where fields are added");
    let raw = json!({"type": "text", "fields": {"keyword": {"type": "keyword", "ignore_above": 256},
        "raw": {"type": "keyword"}}});
    index.put_mapping(&json!({"properties": {"text": raw}})).unwrap();
    expect(&index, &["text.raw"], 1, "a multi-field of what is there");
    // The same again adds nothing.
    index.put_mapping(&json!({"properties": {"text": raw}})).unwrap();
    expect(&index, &["text.raw"], 1, "the same again");
    // What documents add is never outstanding, also where values were ignored.
    index.put_mapping(&json!({"dynamic": false})).unwrap();
    write_one(&index, upsert("2", &json!({"hidden": 1}))).unwrap();
    index.put_mapping(&json!({"dynamic": true})).unwrap();
    expect(&index, &["*", "text.raw"], 2, "values that were ignored");
    write_one(&index, upsert("3", &json!({"hidden": 2, "other": {"deep": 3}}))).unwrap();
    expect(&index, &["*", "text.raw"], 2, "after documents that add fields");
    assert!(rewrite(&engine, "a").unwrap());
    let index = engine.index("a").unwrap();
    expect(&index, &[], 0, "once it was rewritten");
    assert_eq!((having(&index, "hidden"), having(&index, "text.raw")), (2, 1));
    index.put_mapping(&long("later")).unwrap();
    expect(&index, &[], 0, "after that");
    assert!(!rewrite(&engine, "a").unwrap());
    // One that was followed is its pipeline's to copy.
    let followed = follow(&engine, "f");
    let ops = vec![upsert("1", &json!({"text": "word"}))];
    let checkpoint = Some(checkpoint(5));
    followed.write(Batch { ops, checkpoint, ..Batch::default() }).unwrap();
    followed.put_mapping(&json!({"properties": {"text": raw}})).unwrap();
    expect(&followed, &[], 0, "of a followed index");
    assert!(engine.begin_rewrite("f").unwrap().is_none());
}

#[test]
fn what_keeps_an_index_from_being_rewritten() {
    let engine = Arc::new(open(&SimDisk::new()));
    let index = made(&engine, "a", json!({"dynamic": false}));
    write_one(&index, upsert("1", &json!({"n": 1, "m": 2}))).unwrap();
    index.refresh().unwrap();
    index.put_mapping(&long("n")).unwrap();
    let hindered = |settings: Value, expected: Option<&str>| {
        let none = crate::store::settings::SettingsUpdate::default();
        engine.update_settings(&["a".to_owned()], &settings, none).unwrap();
        let index = engine.index("a").unwrap();
        let found = engine.rewrite_hindrance(&index).map(|found| found.to_string());
        assert_eq!(found.is_some(), expected.is_some(), "{settings}: {found:?}");
        let found = found.unwrap_or_default();
        assert!(found.contains(expected.unwrap_or_default()), "{settings}: {found}");
        if expected.is_some() {
            assert!(!rewrite(&engine, "a").unwrap(), "{settings}");
        }
    };
    hindered(json!({"mapping.rewrite": "manual"}), Some("is [manual]"));
    hindered(json!({"mapping.rewrite": null, "mapping.rewrite_up_to": "1b"}), Some("of [1]"));
    hindered(json!({"mapping.rewrite_up_to": null, "blocks.read_only": true}), Some("blocks"));
    hindered(json!({"blocks.read_only": null}), None);
    // Somebody rebuilds it, and can go back for a while.
    let mut rebuild = engine.begin_rebuild("a", &json!({})).unwrap();
    assert_eq!(engine.rewrite_hindrance(&index), Some(Hindrance::Rebuilt));
    assert!(!rewrite(&engine, "a").unwrap());
    // What is added meanwhile is outstanding in the folder that is filled, too.
    while rebuild.step().unwrap().is_some() {}
    index.put_mapping(&long("m")).unwrap();
    let kept = crate::catalog::keep_until_ms(Duration::from_secs(3_600));
    let rebuilt = rebuild.finish(kept).unwrap();
    expect(&rebuilt, &["m"], 1, "added during a rebuild");
    assert_eq!(engine.rewrite_hindrance(&rebuilt), Some(Hindrance::Kept));
    assert!(!rewrite(&engine, "a").unwrap());
    engine.drop_expired_folders(i64::MAX).unwrap();
    assert!(rewrite(&engine, "a").unwrap());
    let index = engine.index("a").unwrap();
    assert_eq!((having(&index, "n"), having(&index, "m")), (1, 1));
    expect(&index, &[], 0, "in the end");
}

#[test]
fn a_rewrite_gives_way_to_who_wants_something_else() {
    let disk = SimDisk::new();
    let engine = Arc::new(open(&disk));
    let index = made(&engine, "a", json!({"dynamic": false}));
    write_one(&index, upsert("1", &json!({"n": 1}))).unwrap();
    index.put_mapping(&long("n")).unwrap();
    let mut given_up = Vec::new();
    for _ in 0..2 {
        let rewrite = engine.begin_rewrite("a").unwrap().unwrap();
        assert!(!rewrite.has_given_way());
        engine.close_index("a").unwrap();
        engine.open_index("a").unwrap();
        given_up.push(rewrite);
    }
    given_up.push(engine.begin_rewrite("a").unwrap().unwrap());
    let mut rebuild = engine.begin_rebuild("a", &json!({})).unwrap();
    for mut one in given_up {
        assert!(one.has_given_way());
        assert!(one.step().unwrap_err().message().contains("was given up"));
        assert!(one.finish(None).is_err());
    }
    // Of two that somebody asks for, the second is refused, and none gives way to a rewrite.
    assert!(engine.begin_rebuild("a", &json!({})).is_err());
    assert!(!rewrite(&engine, "a").unwrap() && !rebuild.has_given_way());
    write_one(&engine.index("a").unwrap(), upsert("2", &json!({"n": 2}))).unwrap();
    while rebuild.step().unwrap().is_some() {}
    let rebuilt = rebuild.finish(None).unwrap();
    rebuilt.refresh().unwrap();
    assert_eq!((having(&rebuilt, "n"), rebuilt.outstanding()), (2, None));
    assert_eq!(disk.list(Path::new("/data/indexes")).unwrap().len(), 1);
}

#[test]
fn a_document_that_does_not_fit_is_named() {
    let engine = Arc::new(open(&SimDisk::new()));
    let number = json!({"dynamic": false, "properties": {"n": {"type": "long"}}});
    let strict = json!({"dynamic": "strict", "properties": {"n": {"type": "long"}}});
    for (name, addition, document) in [
        ("value", long("n"), json!({"n": "word"})),
        ("shape", json!({"properties": {"o": number}}), json!({"o": 5})),
        ("strict", json!({"properties": {"o": strict}}), json!({"o": {"n": 1, "m": 2}})),
    ] {
        let index = made(&engine, name, json!({"dynamic": false}));
        write_one(&index, upsert("good", &json!({"n": 1}))).unwrap();
        write_one(&index, upsert("odd-one", &document)).unwrap();
        index.put_mapping(&addition).unwrap();
        let error = rewrite(&engine, name).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DocumentParsing);
        assert!(error.message().contains("document [odd-one] does not fit"), "{error}");
        let serving = engine.index(name).unwrap();
        assert_eq!(serving.uuid(), index.uuid(), "{name}");
        assert!(serving.outstanding().is_some() && engine.replacement(name).is_none(), "{name}");
        write_one(&serving, upsert("odd-one", &json!({"n": 2, "o": {"n": 3}}))).unwrap();
        assert!(rewrite(&engine, name).unwrap());
        assert_eq!(engine.index(name).unwrap().snapshot().doc_count(), 2);
    }
}

/// Additions and documents, with a fault at this operation of the disk: whatever was added, also where
/// nobody was told so, is outstanding after it, and a rewrite brings every document. Whether the fault
/// came too late.
fn crash(at: u64, fault: Fault) -> bool {
    let disk = SimDisk::new();
    let engine = Arc::new(open(&disk));
    let index = made(&engine, "a", json!({"dynamic": false}));
    write_one(&index, upsert("1", &json!({"n": 1, "m": 2}))).unwrap();
    let begun = disk.operations();
    disk.fail_from(begun + at, fault);
    let mut done = index.put_mapping(&long("n")).is_ok();
    drop(index.write(batch(vec![upsert("2", &json!({"n": 1}))])));
    done &= index.put_mapping(&long("m")).is_ok();
    let rewritten = rewrite(&engine, "a").is_ok();
    let late = disk.operations() <= begun + at;
    assert!(!late || done && rewritten);
    disk.heal();
    let after = if fault == Fault::PowerCut { disk.power_cut(at) } else { disk.kill() };
    drop((index, engine));
    for round in 0..2 {
        let context = format!("{fault:?} at {at}, start {round}");
        let engine = Arc::new(open(&after));
        assert_eq!(engine.damaged(), [], "{context}");
        let index = engine.index("a").unwrap();
        let known = |field: &str| index.mapping().field(field).is_some();
        let all = [("n", index.snapshot().doc_count()), ("m", 1)];
        let (fields, _) = outstanding(&index);
        for (field, expected) in all.into_iter().filter(|(field, _)| known(field)) {
            let is_marked = fields.iter().any(|marked| marked == field);
            let found = having(&index, field) == expected;
            assert!(is_marked || found, "{context}: [{field}] is forgotten");
        }
        if round == 1 {
            assert_eq!(rewrite(&engine, "a").unwrap(), !fields.is_empty(), "{context}");
            let index = engine.index("a").unwrap();
            for (field, expected) in all.into_iter().filter(|(field, _)| known(field)) {
                assert_eq!(having(&index, field), expected, "{context}: {field}");
            }
        }
    }
    late
}

#[test]
fn no_crash_forgets_what_is_outstanding() {
    for fault in [Fault::PowerCut, Fault::NoSpace, Fault::Io] {
        let operations = (0..10_000).take_while(|&at| !crash(at, fault)).count();
        assert!(operations > 30, "only {operations} operations");
    }
}

/// A commit of format 1 does not say what was ignored: then nothing is ruled out, until the documents
/// were written again.
#[test]
fn an_older_folder_may_have_ignored_anything() {
    let disk = SimDisk::new();
    let engine = open(&disk);
    let index = made(&engine, "a", json!({}));
    write_one(&index, upsert("1", &json!({"n": 1}))).unwrap();
    engine.close().unwrap();
    let path = Path::new("/data/indexes").join(index.uuid()).join("commit.json");
    drop((index, engine));
    let written: Value = serde_json::from_slice(&disk.read(&path).unwrap()).unwrap();
    assert_eq!((&written["format"], &written["commit"]["ignored"]), (&json!(2), &json!([])));
    let mut commit = written["commit"].clone();
    commit.as_object_mut().unwrap().remove("ignored");
    let text = commit.to_string();
    let crc32c = crc32c::crc32c(text.as_bytes());
    let older = format!(r#"{{"format": 1, "crc32c": {crc32c}, "commit": {text}}}"#);
    disk.damage(&path, older.as_bytes()).unwrap();
    for addition in ["m", "k"] {
        let engine = Arc::new(open(&disk));
        let index = engine.index("a").unwrap();
        index.put_mapping(&long(addition)).unwrap();
        let is_first = addition == "m";
        assert_eq!(index.outstanding().is_some(), is_first, "{addition}");
        assert_eq!(rewrite(&engine, "a").unwrap(), is_first);
    }
}

/// Any addition to a mapping.
fn addition(random: &mut StdRng) -> Value {
    let dynamic = ["true", "false", "strict"][random.random_range(0..3)];
    let name = ["a", "b", "c", "o.a", "o.b", "o.p.a"][random.random_range(0..6)];
    let target = ["all", "o.all"][random.random_range(0..2)];
    let field = match random.random_range(0..5) {
        0 => json!({"type": "long"}),
        1 => json!({"type": "long", "null_value": 7}),
        2 => json!({"type": "long", "copy_to": target}),
        _ => json!({"type": "long", "fields": {"raw": {"type": "keyword"}}}),
    };
    match random.random_range(0..5) {
        0 => json!({"dynamic": dynamic}),
        1 => json!({"properties": {"o": {"dynamic": dynamic}}}),
        2 => json!({"properties": {"o": {"properties": {"p": {"dynamic": dynamic}}}}}),
        _ => json!({"properties": {name: field}}),
    }
}

/// Any document of fields that mappings may know, or not.
fn any_document(random: &mut StdRng) -> Value {
    let mut value = || match random.random_range(0..6) {
        0 => Value::Null,
        1 => json!([]),
        2 => json!([null, 3]),
        number => json!(number),
    };
    let inner = json!({"a": value(), "b": value()});
    let all = [
        ("a", value()),
        ("b", value()),
        ("c", value()),
        ("o", inner),
        ("o.p.a", value()),
        ("o", json!({"p": {"a": value()}})),
    ];
    let mut document = json!({});
    let share = [0.15, 0.5][random.random_range(0..2)];
    for (name, value) in all {
        if random.random_bool(share) {
            document[name] = value;
        }
    }
    document
}

/// How many documents have a value for each field of a mapping, and for each of them what.
fn everything(index: &Index) -> Vec<(String, u64, u64)> {
    let mut all: Vec<_> = index.mapping().fields().iter().map(|it| it.path.clone()).collect();
    all.sort();
    let counted = all.into_iter().map(|field| {
        let value = crate::query::ast::Scalar::Text("3".to_owned());
        let of_field = field.clone();
        let query = Query::Term { field: of_field, value, case_insensitive: false, boost: 1.0 };
        let threes = crate::search::count(&[index.snapshot()], &query).unwrap();
        let exist = having(index, &field);
        (field, exist, threes)
    });
    counted.collect()
}

/// Additions and documents in any order, with restarts: where nothing is outstanding in the end, or once
/// it was written again, everything is as in an index that had its mapping from the beginning. Whether
/// that could be compared, and whether anything was outstanding.
fn any_additions(seed: u64) -> (bool, bool) {
    let mut random = StdRng::seed_from_u64(seed);
    let disk = SimDisk::new();
    let mut engine = Arc::new(open(&disk));
    made(&engine, "a", addition(&mut random));
    let mut documents = Vec::new();
    for step in 0..random.random_range(2..10) {
        let index = engine.index("a").unwrap();
        if random.random_bool(0.4) {
            // Some are refused.
            drop(index.put_mapping(&addition(&mut random)));
            continue;
        }
        let (id, document) = (step.to_string(), any_document(&mut random));
        if write_one(&index, upsert(&id, &document)).is_ok() {
            documents.push((id, document));
        }
        if random.random_bool(0.1) {
            if random.random_bool(0.5) {
                engine.close().unwrap();
            }
            drop((index, engine));
            engine = Arc::new(open(&disk));
        }
    }
    let index = engine.index("a").unwrap();
    let whole = made(&engine, "whole", index.mapping().to_json());
    let fit = documents.iter().all(|(id, it)| write_one(&whole, upsert(id, it)).is_ok());
    let is_outstanding = index.outstanding().is_some();
    if !fit {
        return (false, is_outstanding);
    }
    assert_eq!(rewrite(&engine, "a").unwrap(), is_outstanding, "seed {seed}");
    let index = engine.index("a").unwrap();
    index.refresh().unwrap();
    whole.refresh().unwrap();
    let context = format!("seed {seed}: {} {documents:?}", index.mapping().to_json());
    assert_eq!(everything(&index), everything(&whole), "{context}");
    (true, is_outstanding)
}

#[test]
fn what_is_not_outstanding_is_found() {
    let runs: Vec<(bool, bool)> = (0..300).map(any_additions).collect();
    let compared = |outstanding| runs.iter().filter(|&&run| run == (true, outstanding)).count();
    assert!(compared(true) > 20 && compared(false) > 20, "{runs:?}");
}
