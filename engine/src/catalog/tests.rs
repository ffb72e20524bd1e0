//! Changes of the catalog on a simulated disk, cut short anywhere.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use egret_aof::disk::sim::{Fault, SimDisk};
use serde_json::{Value, json};

use super::*;
use crate::batch::{Batch, Condition, WriteOp};
use crate::index::IndexDefinition;
use crate::store::settings::SettingsUpdate;

fn try_open(disk: &SimDisk) -> Result<Engine> {
    Engine::open(EngineOptions {
        disk: Arc::new(disk.clone()),
        folder: PathBuf::from("/data"),
        indexing_budget_bytes: 64 << 20,
        limits: Limits::default(),
    })
}

fn create(engine: &Engine, name: &str) -> Result<Arc<Index>> {
    engine.create_index(name, IndexDefinition::default())
}

fn write(index: &Index, id: &str) -> Result<()> {
    let source = Bytes::from_static(b"{\"n\": 1}");
    let ops = vec![WriteOp::Upsert { id: id.to_owned(), source, condition: Condition::None }];
    index.write(Batch { ops, ..Batch::default() })?.ops.remove(0).map(drop)
}

fn add(indexes: &str, alias: &str) -> AliasAction {
    let (indexes, aliases) = (indexes.to_owned(), vec![alias.to_owned()]);
    AliasAction::Add { indexes, aliases, alias: Alias::default() }
}

fn update(engine: &Engine, name: &str, change: &Value) -> Result<()> {
    engine.update_settings(&[name.to_owned()], change, SettingsUpdate::default())
}

/// What there is, without what differs from run to run.
fn shown(engine: &Engine) -> String {
    let mut catalog = Catalog::clone(&engine.catalog());
    for entry in catalog.indexes.values_mut() {
        (entry.uuid, entry.created_ms) = (String::new(), 0);
    }
    format!("{catalog:?}")
}

/// The changes of the test below, in their order.
fn changes() -> Vec<fn(&Engine) -> Result<()>> {
    vec![
        |engine| create(engine, "a").map(drop),
        |engine| write(&*engine.index("a")?, "1"),
        |engine| engine.update_aliases(&[add("a", "x")]),
        |engine| {
            let template = IndexTemplate {
                index_patterns: vec!["b*".to_owned()],
                template: Some(Template {
                    aliases: Some([("x".to_owned(), Alias::default())].into()),
                    ..Template::default()
                }),
                ..IndexTemplate::default()
            };
            engine.put_index_template("t", template, false)
        },
        |engine| create(engine, "b").map(drop),
        |engine| engine.close_index("a"),
        |engine| update(engine, "a", &json!({"hidden": true})),
        |engine| engine.open_index("a"),
        |engine| {
            let swap = AliasAction::RemoveIndex { indexes: "b".to_owned() };
            engine.update_aliases(&[swap, add("a", "b")])
        },
        |engine| engine.delete_index("a", false),
    ]
}

/// Cuts the power at every disk operation of a life: what is found is the state before the change
/// that was under way or the one after it, and what was written is there as long as its index is.
#[test]
fn a_crash_leaves_a_change_undone_or_done() {
    let mut states = vec![shown(&try_open(&SimDisk::new()).unwrap())];
    let disk = SimDisk::new();
    let engine = try_open(&disk).unwrap();
    for change in changes() {
        change(&engine).unwrap();
        states.push(shown(&engine));
    }
    drop(engine);
    for at in (0..disk.operations()).step_by(3) {
        let disk = SimDisk::new();
        disk.fail_at(at, Fault::PowerCut);
        let mut done = 0;
        if let Ok(engine) = try_open(&disk) {
            done = changes().iter().take_while(|change| change(&engine).is_ok()).count();
        }
        let after = disk.power_cut(at);
        let engine = try_open(&after).unwrap();
        let found = shown(&engine);
        let next = states.get(done + 1).unwrap_or(&states[done]);
        assert!(found == states[done] || found == *next, "cut at {at}, {done} done: {found}");
        assert_eq!(engine.damaged(), [], "cut at {at}");
        if done >= 2 && engine.catalog().indexes.contains_key("a") {
            engine.open_index("a").unwrap();
            let index = engine.index("a").unwrap();
            assert!(index.document("1").unwrap().is_some(), "cut at {at}, {done} done");
        }
    }
}

/// Whatever operation of a deletion fails, alone or with all that follow: afterwards the index takes
/// no writes, or keeps those that it has acknowledged.
#[test]
fn a_deletion_that_fails_half_way_loses_nothing_that_is_acknowledged() {
    let faults = [Fault::SyncFailure, Fault::Io];
    let cases = faults.iter().flat_map(|fault| (0..8).map(move |skip| (*fault, skip)));
    for (fault, skip) in cases {
        for seed in 0..6 {
            deletion_that_fails(fault, skip, seed % 2 == 0, seed);
        }
    }
}

fn deletion_that_fails(fault: Fault, skip: u64, lasting: bool, seed: u64) {
    let context = format!("{fault:?} after {skip}, lasting: {lasting}, seed {seed}");
    let disk = SimDisk::new();
    let engine = try_open(&disk).unwrap();
    let index = create(&engine, "a").unwrap();
    write(&index, "1").unwrap();
    index.flush().unwrap();
    let at = disk.operations() + skip;
    if lasting {
        disk.fail_from(at, fault);
    } else {
        disk.fail_at(at, fault);
    }
    let deleted = engine.delete_index("a", false).is_ok();
    disk.heal();
    if !deleted && seed >= 4 && engine.index("a").is_err() {
        // Out of service until it is opened, which settles it.
        assert_eq!(engine.damaged().len(), 1, "{context}");
        engine.open_index("a").unwrap();
        assert!(engine.index("a").is_ok(), "{context}");
    }
    let acknowledged = engine.index("a").is_ok_and(|index| write(&index, "2").is_ok());
    assert!(!(deleted && acknowledged), "{context}");
    let after = disk.power_cut(seed);
    drop((index, engine));
    let engine = try_open(&after).unwrap();
    assert_eq!(engine.damaged(), [], "{context}");
    if acknowledged {
        let index = engine.index("a").unwrap_or_else(|error| panic!("{context}: {error}"));
        assert!(index.document("2").unwrap().is_some(), "{context}");
    }
}

/// A folder as version 0.1.0 left it, with a catalog of format 1.
#[test]
fn a_folder_of_the_first_format_opens() {
    let disk = SimDisk::new();
    let engine = try_open(&disk).unwrap();
    let index = create(&engine, "old").unwrap();
    write(&index, "1").unwrap();
    let first = json!({"format": 1, "indexes": [{
        "name": "old", "uuid": index.uuid(), "pipeline": null, "created_ms": 5,
        "settings": {"index": {"number_of_shards": "1", "number_of_replicas": "0"}},
    }]});
    engine.close().unwrap();
    drop((index, engine));
    disk.damage(Path::new("/data/catalog.json"), first.to_string().as_bytes()).unwrap();
    let engine = try_open(&disk).unwrap();
    let index = engine.index("old").unwrap();
    assert_eq!(index.created_ms(), 5);
    assert!(index.document("1").unwrap().is_some());
    engine.update_aliases(&[add("old", "new")]).unwrap();
    drop((index, engine));
    assert!(try_open(&disk).unwrap().catalog().has_alias("new"));
}

#[test]
fn a_newer_format_is_refused() {
    let disk = SimDisk::new();
    drop(create(&try_open(&disk).unwrap(), "a"));
    disk.damage(Path::new("/data/catalog.json"), br#"{"format": 3}"#).unwrap();
    let error = try_open(&disk).unwrap_err();
    assert!(error.message().contains("has format [3]"), "{error}");
}

#[test]
fn a_closed_index_keeps_its_files_and_nothing_else() {
    let disk = SimDisk::new();
    let engine = try_open(&disk).unwrap();
    let index = create(&engine, "a").unwrap();
    write(&index, "1").unwrap();
    engine.close_index("a").unwrap();
    engine.close_index("a").unwrap();
    assert_eq!(write(&index, "2").unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(Arc::strong_count(&index), 1);
    drop(index);
    assert_eq!(engine.index("a").unwrap_err().kind(), ErrorKind::IndexClosed);
    assert!(engine.mapping("a").unwrap().field("n").is_some());
    drop(engine);
    let engine = try_open(&disk).unwrap();
    assert!(engine.indexes().is_empty());
    assert!(engine.mapping("a").unwrap().field("n").is_some());
    update(&engine, "a", &json!({"number_of_routing_shards": 4})).unwrap();
    engine.open_index("a").unwrap();
    engine.open_index("a").unwrap();
    let index = engine.index("a").unwrap();
    assert!(index.document("1").unwrap().is_some());
    write(&index, "2").unwrap();
    assert_eq!(index.settings()["index"]["number_of_routing_shards"], "4");
    for missing in [engine.close_index("b"), engine.open_index("b")] {
        assert_eq!(missing.unwrap_err().kind(), ErrorKind::IndexNotFound);
    }
}

#[test]
fn settings_change_in_place() {
    let disk = SimDisk::new();
    let engine = try_open(&disk).unwrap();
    let index = create(&engine, "a").unwrap();
    update(&engine, "a", &json!({"refresh_interval": "-1", "max_result_window": 5})).unwrap();
    assert_eq!(index.max_result_window(), Some(5));
    write(&index, "1").unwrap();
    assert_eq!(index.snapshot().doc_count(), 0);
    update(&engine, "a", &json!({"refresh_interval": null})).unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(120);
    while index.snapshot().doc_count() == 0 {
        assert!(std::time::Instant::now() < deadline, "not published");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    // What is written with less care is safe once the setting is back.
    update(&engine, "a", &json!({"translog.durability": "async"})).unwrap();
    write(&index, "2").unwrap();
    update(&engine, "a", &json!({"translog.durability": "request"})).unwrap();
    let error = update(&engine, "a", &json!({"number_of_shards": 2})).unwrap_err();
    let expected = format!(
        "Can't update non dynamic settings [[index.number_of_shards]] for open indices [[a/{}]]",
        index.uuid()
    );
    assert_eq!(error.message(), expected);
    assert!(update(&engine, "a", &json!({"codec": "best"})).is_err());
    let after = disk.power_cut(3);
    drop((index, engine));
    let engine = try_open(&after).unwrap();
    let index = engine.index("a").unwrap();
    assert!(index.document("2").unwrap().is_some());
    assert_eq!(index.max_result_window(), Some(5));
}

#[test]
fn aliases_change_together_or_not_at_all() {
    let disk = SimDisk::new();
    let engine = try_open(&disk).unwrap();
    for name in ["a", "b", "c"] {
        create(&engine, name).unwrap();
    }
    let remove = |indexes: &str, alias: &str, must_exist| AliasAction::Remove {
        indexes: indexes.to_owned(),
        aliases: vec![alias.to_owned()],
        must_exist,
    };
    let check = |actions: &[AliasAction], expected: Result<&str, ErrorKind>| {
        let before = engine.catalog();
        let result = engine.update_aliases(actions).map_err(|error| error.kind());
        let catalog = engine.catalog();
        let all = catalog.indexes.iter().flat_map(|(index, entry)| {
            entry.aliases.keys().map(move |alias| format!("{alias}={index}"))
        });
        let shown = all.collect::<Vec<_>>().join(" ");
        assert_eq!(result.map(|()| shown.as_str()), expected, "{actions:?}");
        assert!(expected.is_ok() || *before == *catalog);
    };
    check(&[add("a,b", "x")], Ok("x=a x=b"));
    check(&[remove("*", "x", None), add("c", "x")], Ok("x=c"));
    check(&[remove("a", "x", None)], Err(ErrorKind::AliasNotFound));
    check(&[remove("a", "x", Some(false))], Ok("x=c"));
    check(&[add("a", "y"), remove("a", "x", Some(true))], Err(ErrorKind::AliasNotFound));
    check(&[add("a", "y"), add("d", "y")], Err(ErrorKind::IndexNotFound));
    check(&[add("a", "b")], Err(ErrorKind::InvalidAliasName));
    check(&[add("a", "no good")], Err(ErrorKind::InvalidAliasName));
    check(&[add("x", "y")], Err(ErrorKind::InvalidArgument));
    let writing = Alias { is_write_index: Some(true), ..Alias::default() };
    let write_to = |indexes: &str| AliasAction::Add {
        indexes: indexes.to_owned(),
        aliases: vec!["w".to_owned()],
        alias: writing.clone(),
    };
    check(&[write_to("a,b")], Err(ErrorKind::InvalidArgument));
    check(&[write_to("a"), add("b", "w")], Ok("w=a w=b x=c"));
    assert_eq!(engine.catalog().write_index("w").unwrap(), Some("a"));
    assert!(engine.catalog().single_index("w").is_err());
    assert_eq!(engine.catalog().single_index("x").unwrap(), Some("c"));
    let gone = AliasAction::RemoveIndex { indexes: "c".to_owned() };
    check(&[add("a", "c"), gone], Ok("c=a w=a w=b"));
    assert_eq!(engine.index("c").unwrap_err().kind(), ErrorKind::IndexNotFound);
    assert_eq!(create(&engine, "c").unwrap_err().kind(), ErrorKind::InvalidIndexName);
}

#[test]
fn a_followed_index_stays_but_may_have_aliases_and_settings() {
    let disk = SimDisk::new();
    let engine = try_open(&disk).unwrap();
    let pipeline = Some("main".to_owned());
    let definition = IndexDefinition { pipeline, ..IndexDefinition::default() };
    engine.create_index("t", definition).unwrap();
    engine.update_aliases(&[add("t", "x")]).unwrap();
    update(&engine, "t", &json!({"refresh_interval": "1s"})).unwrap();
    let gone = AliasAction::RemoveIndex { indexes: "t".to_owned() };
    for refused in [
        engine.close_index("t"),
        engine.delete_index("t", false),
        engine.delete_indexes(&["t".to_owned()]),
        engine.update_aliases(&[gone]),
    ] {
        let error = refused.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Forbidden);
        assert!(error.message().contains("[main]"), "{error}");
    }
}

#[test]
fn templates_go_before_what_is_inferred_and_behind_what_is_declared() {
    let engine = try_open(&SimDisk::new()).unwrap();
    let field = |kind: &str| json!({"properties": {"n": {"type": kind}}});
    let template = json!({"index_patterns": ["t*"], "template": {"mappings": field("keyword")}});
    let template = serde_json::from_value::<IndexTemplate>(template).unwrap();
    engine.put_index_template("t", template, true).unwrap();
    let definition = |mappings: Value| IndexDefinition {
        mappings,
        inferred: json!({"properties": {"n": {"type": "date"}, "seen": {"type": "date"}}}),
        pipeline: Some("main".to_owned()),
        ..IndexDefinition::default()
    };
    let types = |index: &Index| {
        let shown = index.mapping().to_json();
        ["n", "seen"].map(|field| shown["properties"][field]["type"].as_str().unwrap().to_owned())
    };
    let inferred = engine.create_index("t1", definition(Value::Null)).unwrap();
    assert_eq!(types(&inferred), ["keyword", "date"]);
    let declared = engine.create_replacement("t1", &definition(field("long"))).unwrap();
    assert_eq!(types(&declared), ["long", "date"]);
    let declared = engine.create_index("t2", definition(field("long"))).unwrap();
    assert_eq!(types(&declared), ["long", "date"]);
}

#[test]
fn new_indexes_begin_with_their_templates() {
    let disk = SimDisk::new();
    let engine = try_open(&disk).unwrap();
    let component = |json: Value| serde_json::from_value::<ComponentTemplate>(json).unwrap();
    let index = |json: Value| serde_json::from_value::<IndexTemplate>(json).unwrap();
    let settings = component(json!({"template": {
        "settings": {"refresh_interval": "5s", "max_result_window": 7},
        "mappings": {"properties": {
            "n": {"type": "keyword"}, "o": {"properties": {"p": {"type": "long"}}},
        }},
    }}));
    engine.put_component_template("base", settings, true).unwrap();
    let template = index(json!({
        "index_patterns": ["logs-*"], "composed_of": ["base"], "priority": 5,
        "template": {
            "settings": {"index.max_result_window": 9},
            "mappings": {"properties": {"o": {"properties": {"q": {"type": "date"}}}}},
            "aliases": {"{index}-all": {}},
        },
    }));
    engine.put_index_template("logs", template, true).unwrap();
    let legacy = serde_json::from_value::<LegacyTemplate>(json!({
        "index_patterns": ["*"], "order": 1, "settings": {"refresh_interval": "9s"},
    }));
    engine.put_legacy_template("all", legacy.unwrap(), true).unwrap();
    let definition = IndexDefinition {
        mappings: json!({"properties": {"n": {"type": "long"}}}),
        settings: json!({"refresh_interval": "1s"}),
        ..IndexDefinition::default()
    };
    let made = engine.create_index("logs-1", definition).unwrap();
    let own = &made.settings()["index"];
    assert_eq!((&own["refresh_interval"], &own["max_result_window"]), (&json!("1s"), &json!("9")));
    let shown = made.mapping().to_json();
    assert_eq!(shown["properties"]["n"]["type"], "long");
    assert_eq!(shown["properties"]["o"]["properties"].as_object().unwrap().len(), 2);
    assert!(engine.catalog().has_alias("logs-1-all"));
    // No index template fits: the older kind applies.
    let made = create(&engine, "other").unwrap();
    assert_eq!(made.settings()["index"]["refresh_interval"], "9s");
    let refused = |result: Result<()>, expected: &str| {
        let error = result.unwrap_err();
        assert!(error.message().contains(expected), "{error}");
    };
    let base = ["base".to_owned()];
    refused(engine.delete_component_templates(&base), "still in use by index templates [logs]");
    let rival = index(json!({"index_patterns": ["*-1"], "priority": 5}));
    refused(engine.put_index_template("rival", rival.clone(), true), "the same priority [5]");
    refused(engine.put_index_template("logs", rival, true), "index template [logs] already exists");
    let orphan = index(json!({"index_patterns": ["o*"], "composed_of": ["none"]}));
    refused(engine.put_index_template("o", orphan, true), "component templates [none] that do not");
    let bad = component(json!({"template": {"mappings": {"properties": {"n": {"type": "x"}}}}}));
    refused(engine.put_component_template("base", bad, false), "[x]");
    let bad = component(json!({"template": {"settings": {"codec": "best"}}}));
    refused(engine.put_component_template("base", bad, false), "unknown setting [index.codec]");
    refused(engine.delete_index_templates(&["no".to_owned()]), "index_template [no] missing");
    engine.delete_index_templates(&["lo*".to_owned()]).unwrap();
    engine.delete_component_templates(&base).unwrap();
    engine.delete_legacy_templates(&["all".to_owned()]).unwrap();
}
