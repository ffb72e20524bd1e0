//! Documents composed from rows, against a naive join of the same rows in memory.

use std::collections::BTreeMap;
use std::path::Path;

use egret_aof::disk::sim::Fault;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use super::*;
use crate::batch::{Compose, OpSpool, Spooled};
use crate::composition::tests::{Tables, shop, shop_row};
use crate::composition::{parse_row_id, row_id};
use crate::query::ast::Query;

pub(super) fn shop_index(engine: &Engine, definition: &Value) -> Arc<Index> {
    let mappings = json!({
        "_composition": definition,
        "properties": {"id": {"type": "long"}, "price": {"type": "long"}},
    });
    let pipeline = Some("main".to_owned());
    let definition = IndexDefinition { mappings, pipeline, ..IndexDefinition::default() };
    engine.create_index("i", definition).unwrap()
}

/// One random change of the tables, and the operation that says it.
fn change(random: &mut StdRng, tables: &mut Tables) -> WriteOp {
    let (table, key) = (random.random_range(0..6), random.random_range(0..6_u8));
    let at = (table, key.to_string());
    let id = row_id(table, &at.1);
    if random.random_range(0..40) == 0 {
        tables.rows.retain(|(of, _), _| *of != table);
        return WriteOp::ClearRows { table };
    }
    if random.random_range(0..4) == 0 {
        tables.rows.remove(&at);
        return delete(&id);
    }
    let values =
        [0; 3].map(|_| (random.random_range(0..8) > 0).then(|| random.random_range(0..6_u8)));
    let mut row = shop_row(table, key, values);
    if let Some(before) = tables.rows.get(&at)
        && random.random_range(0..3) == 0
        && let Some(fields) = row.as_object_mut()
    {
        // As an unchanged value that the log does not bring.
        fields.remove("a");
        let source = Bytes::from(row.to_string());
        let kept = before["a"].clone();
        row["a"] = kept;
        tables.rows.insert(at, row);
        let patch = Patch::Keep { source, keep: vec!["a".to_owned()] };
        return WriteOp::Patch { id, previous_id: None, patch, condition: Condition::None };
    }
    let op = upsert(&id, &row);
    tables.rows.insert(at, row);
    op
}

/// A transaction of some changes, of which a part is in a file.
pub(super) fn transaction(
    random: &mut StdRng,
    disk: &SimDisk,
    tables: &mut Tables,
    lsn: u64,
) -> Batch {
    let ops: Vec<WriteOp> =
        (0..random.random_range(1..30)).map(|_| change(random, tables)).collect();
    let (mut batch, cut) = (batch(ops), random.random_range(0..30));
    batch.checkpoint = Some(checkpoint(lsn));
    if random.random_range(0..3) == 0 {
        let after = batch.ops.split_off(cut.min(batch.ops.len()));
        let mut spool = OpSpool::create(disk, Path::new("/"), u64::MAX).unwrap();
        batch.ops.iter().for_each(|op| spool.push(op).unwrap());
        batch.spooled = Some(Spooled { ops: spool.finish().unwrap(), max_rejected: 9 });
        batch.ops = after;
    }
    batch
}

/// Searches see the joined documents, and nothing else.
fn check(index: &Index, expected: &BTreeMap<String, Value>, context: &str) {
    index.refresh().unwrap();
    let snapshot = index.snapshot();
    for key in 0..6 {
        let key = key.to_string();
        assert_eq!(published(index, &key).as_ref(), expected.get(&key), "{context}: {key}");
        for table in 0..6 {
            assert_eq!(published(index, &row_id(table, &key)), None, "{context}");
        }
    }
    assert_eq!(snapshot.doc_count(), expected.len() as u64, "{context}");
    let all =
        crate::search::count(&[Arc::clone(&snapshot)], &Query::MatchAll { boost: 1.0 }).unwrap();
    assert_eq!(all, expected.len() as u64, "{context}");
    assert_eq!(index.stats().doc_count, expected.len() as u64, "{context}");
    for segment in snapshot.segments() {
        for doc in segment.reader().doc_ids_alive() {
            assert!(parse_row_id(&segment.document_id(doc).unwrap()).is_none(), "{context}");
        }
    }
}

fn run(seed: u64) {
    let context = format!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let disk = SimDisk::new();
    let mut engine = open(&disk);
    let mut index = shop_index(&engine, &shop());
    let mut tables = Tables::new(&shop());
    for number in 1..12 {
        let outcome = index.write(transaction(&mut random, &disk, &mut tables, 10 * number));
        let outcome = outcome.unwrap();
        assert!(outcome.composed.iter().all(|(_, result)| result.is_ok()), "{context}");
        match random.random_range(0..4) {
            0 => check(&index, &tables.joined(), &context),
            1 => index.flush().unwrap(),
            2 if random.random() => {
                index.flush().unwrap();
                drop((index, engine));
                engine = open(&disk);
                index = engine.index("i").unwrap();
            }
            _ => {}
        }
    }
    check(&index, &tables.joined(), &context);
}

#[test]
fn documents_are_what_a_join_gives() {
    campaign(20, run);
}

/// A power cut at any operation of the disk leaves whole transactions: rows and documents agree.
fn cut(seed: u64) {
    let context = format!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let disk = SimDisk::new();
    let engine = open(&disk);
    let index = shop_index(&engine, &shop());
    disk.fail_at(disk.operations() + random.random_range(0..250), Fault::PowerCut);
    let mut states = vec![Tables::new(&shop())];
    for number in 1..40 {
        let mut tables = states.last().unwrap().clone();
        // What is in a file is on a disk of its own.
        let batch = transaction(&mut random, &SimDisk::new(), &mut tables, 10 * number);
        states.push(tables);
        if index.write(batch).is_err() || (random.random_range(0..4) == 0 && index.flush().is_err())
        {
            break;
        }
    }
    let durable = index.positions().borrow().durable.map(|it| it.lsn);
    let after = disk.power_cut(seed);
    drop((index, engine));
    let engine = open(&after);
    assert_eq!(engine.damaged(), [], "{context}");
    let index = engine.index("i").unwrap();
    let recovered = index.positions().borrow().durable.map(|it| it.lsn);
    let number = |lsn: Option<Lsn>| lsn.map_or(0, |lsn| usize::try_from(lsn.0 / 10).unwrap());
    // What was durable may lie further by transactions that changed nothing.
    let same = states[number(recovered)].rows == states[number(durable)].rows;
    assert!(recovered >= durable || same, "{context}: {durable:?} was durable, now {recovered:?}");
    let number = number(recovered);
    check(&index, &states[number].joined(), &context);
    // And it goes on from there.
    let mut tables = states.swap_remove(number);
    let lsn = 10 * (number as u64 + 1);
    index.write(transaction(&mut random, &SimDisk::new(), &mut tables, lsn)).unwrap();
    check(&index, &tables.joined(), &context);
}

#[test]
fn rows_and_documents_survive_power_cuts_together() {
    campaign(25, cut);
}

/// Rows in any order, then all documents at once.
#[test]
fn a_copy_composes_at_its_end() {
    campaign(20, |seed| {
        let context = format!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let engine = open(&SimDisk::new());
        let index = shop_index(&engine, &shop());
        let mut tables = Tables::new(&shop());
        (0..60).for_each(|_| drop(change(&mut random, &mut tables)));
        let rows = tables.rows.iter().map(|((table, key), row)| upsert(&row_id(*table, key), row));
        let mut rows: Vec<WriteOp> = rows.collect();
        rows.shuffle(&mut random);
        for some in rows.chunks(7) {
            let (row_lsn, compose) = (Some(Lsn(50)), Compose::Later);
            index.write(Batch { row_lsn, compose, ..batch(some.to_vec()) }).unwrap();
        }
        check(&index, &BTreeMap::new(), &context);
        let end = Batch {
            checkpoint: Some(checkpoint(50)),
            row_lsn: Some(Lsn(50)),
            compose: Compose::All,
            ..Batch::default()
        };
        index.write(end).unwrap();
        check(&index, &tables.joined(), &context);
    });
}

#[test]
fn a_document_that_cannot_be_indexed_is_told_and_removed() {
    let disk = SimDisk::new();
    let engine = open(&disk);
    let mut definition = shop();
    definition["max_nested_rows"] = json!(2);
    let index = shop_index(&engine, &definition);
    let mut lsn = 0;
    let mut write = |ops: Vec<WriteOp>| {
        lsn += 10;
        let batch = Batch { checkpoint: Some(checkpoint(lsn)), ..batch(ops) };
        let composed = index.write(batch).unwrap().composed;
        index.refresh().unwrap();
        let shown = composed.into_iter().map(|(key, result)| {
            format!("{key}: {}", result.map_or_else(|error| error.to_string(), |()| "ok".into()))
        });
        shown.collect::<Vec<_>>().join("; ")
    };
    let product = |price: &Value| upsert(&row_id(0, "1"), &json!({"id": 1, "a": price}));
    let review = |key: u8| {
        let row = shop_row(2, key, [Some(1), None, Some(key)]);
        upsert(&row_id(2, &key.to_string()), &row)
    };
    assert_eq!(write(vec![product(&json!(5)), review(1), review(2)]), "1: ok");
    assert!(published(&index, "1").is_some());
    let told = write(vec![review(3)]);
    assert!(told.contains("more related rows than max_nested_rows [2]"), "{told}");
    assert_eq!(published(&index, "1"), None);
    assert_eq!(write(vec![delete(&row_id(2, "3"))]), "1: ok");
    let told = write(vec![product(&json!("cheap"))]);
    assert!(told.contains("price"), "{told}");
    assert_eq!(published(&index, "1"), None);
    assert_eq!(write(vec![product(&json!(6))]), "1: ok");
    assert_eq!(published(&index, "1").unwrap()["review_count"], json!(2));
    assert_eq!(write(vec![delete(&row_id(0, "1"))]), "1: ok");
    assert_eq!(index.snapshot().doc_count(), 0);
    // Documents themselves are nobody's to write.
    let error = index.write(batch(vec![upsert("1", &json!({}))])).unwrap_err();
    assert!(error.to_string().contains("composed from rows"), "{error}");
}

#[test]
fn only_followed_indexes_are_composed() {
    let engine = open(&SimDisk::new());
    let mappings = json!({"_composition": shop()});
    let definition = IndexDefinition { mappings, ..IndexDefinition::default() };
    let error = engine.create_index("i", definition).unwrap_err();
    assert!(error.to_string().contains("follow a pipeline"), "{error}");
}
