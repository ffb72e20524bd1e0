//! What a published state shows of rows and of how documents fit them, against the tables in memory.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::composed::{shop_index, transaction};
use super::*;
use crate::batch::Compose;
use crate::composition::row_id;
use crate::composition::tests::{Tables, shop, shop_row};
use crate::index::ForceMerge;
use crate::snapshot::{Fit, Listed, Snapshot};

/// All ids, by pages.
fn listed(snapshot: &Snapshot, listed: Listed, page: usize) -> Vec<String> {
    let mut ids: Vec<String> = Vec::new();
    loop {
        let more = snapshot.ids_after(listed, ids.last().map(String::as_str), page).unwrap();
        if more.is_empty() {
            return ids;
        }
        assert!(more.len() <= page);
        ids.extend(more);
    }
}

fn without_nulls(mut row: Value) -> Value {
    row.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    row
}

fn check(index: &Index, tables: &Tables, page: usize, context: &str) {
    index.refresh().unwrap();
    let snapshot = index.snapshot();
    let joined: Vec<String> = tables.joined().into_keys().collect();
    assert_eq!(listed(&snapshot, Listed::Documents, page), joined, "{context}");
    for key in &joined {
        let fit = snapshot.fit(key).unwrap();
        assert!(matches!(fit, Some(Fit::Fits)), "{context}: {key}: {fit:?}");
    }
    for table in 0..6 {
        let mut expected: Vec<String> =
            tables.rows.keys().filter(|it| it.0 == table).map(|it| row_id(table, &it.1)).collect();
        expected.sort();
        assert_eq!(listed(&snapshot, Listed::Rows(table), page), expected, "{context}");
    }
    for ((table, key), row) in &tables.rows {
        let stored = snapshot.stored(&row_id(*table, key)).unwrap().unwrap();
        let source = serde_json::from_slice(&stored.source).unwrap();
        // The model says null of a value that there was none to keep of.
        assert_eq!(without_nulls(source), without_nulls(row.clone()), "{context}");
        assert!(stored.version > 0, "{context}");
    }
    assert_eq!(snapshot.stored(&row_id(0, "99")).unwrap(), None);
}

#[test]
fn rows_are_shown_as_they_are() {
    campaign(15, |seed| {
        let context = format!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let disk = SimDisk::new();
        let mut engine = open(&disk);
        let mut index = shop_index(&engine, &shop());
        let mut tables = Tables::new(&shop());
        for number in 1..10 {
            index.write(transaction(&mut random, &disk, &mut tables, 10 * number)).unwrap();
            match random.random_range(0..4) {
                0 => check(&index, &tables, 1, &context),
                1 => index.flush().unwrap(),
                2 => index.force_merge(ForceMerge::Down(1)).unwrap(),
                _ => {
                    index.flush().unwrap();
                    drop((index, engine));
                    engine = open(&disk);
                    index = engine.index("i").unwrap();
                }
            }
            check(&index, &tables, 4, &context);
        }
    });
}

#[test]
fn documents_that_do_not_fit_their_rows_are_told_and_mended() {
    let engine = open(&SimDisk::new());
    let mut definition = shop();
    definition["max_nested_rows"] = json!(2);
    let index = shop_index(&engine, &definition);
    let mut lsn = 0;
    let mut write = |ops: Vec<WriteOp>, compose: Compose| {
        lsn += 10;
        let batch = Batch { checkpoint: Some(checkpoint(lsn)), compose, ..batch(ops) };
        index.write(batch).unwrap();
        index.refresh().unwrap();
    };
    let row = |table, key: u8, values| {
        upsert(&row_id(table, &key.to_string()), &shop_row(table, key, values))
    };
    let gone = |table, key: u8| delete(&row_id(table, &key.to_string()));
    let shown = || {
        let fit = |key| index.snapshot().fit(key).unwrap().unwrap();
        ["1", "2", "3", "4", "5"].map(|key| match fit(key) {
            Fit::Impossible(error) => {
                assert!(error.to_string().contains("max_nested_rows [2]"), "{error}");
                "impossible"
            }
            Fit::Fits => "fits",
            Fit::Missing => "missing",
            Fit::Different => "different",
            Fit::LeftOver => "left over",
        })
    };
    let reviews =
        |product| (0..3).map(move |key| row(2, 10 * product + key, [Some(product), None, None]));
    write((1..4).map(|key| row(0, key, [None; 3])).collect(), Compose::Affected);
    assert_eq!(shown(), ["fits"; 5]);
    // Rows change, and the documents do not follow.
    let mut ops = vec![row(0, 1, [None, None, Some(7)]), gone(0, 2), row(0, 4, [None; 3])];
    ops.extend(reviews(5));
    ops.push(row(0, 5, [None; 3]));
    write(ops, Compose::Later);
    assert_eq!(shown(), ["different", "left over", "fits", "missing", "impossible"]);
    // Each is mended by its own row, one that is not there by its removal.
    write(
        vec![row(0, 1, [None, None, Some(7)]), gone(0, 2), row(0, 4, [None; 3])],
        Compose::Affected,
    );
    assert_eq!(shown(), ["fits", "fits", "fits", "fits", "impossible"]);
    // A document that its rows do not allow is no better for being there.
    write(reviews(3).collect(), Compose::Later);
    assert_eq!(shown(), ["fits", "fits", "different", "fits", "impossible"]);
    // What is wrong with documents is said once more of the rows that they are made from.
    let ids = ["30", "31", "777"].map(|key| row_id(2, key)).to_vec();
    let compose = Compose::PartOf(ids);
    let outcome = index.write(Batch { row_lsn: Some(Lsn(900)), compose, ..batch(vec![]) }).unwrap();
    let composed = outcome.composed;
    assert_eq!(composed.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["3"]);
    assert!(composed[0].1.as_ref().unwrap_err().to_string().contains("max_nested_rows [2]"));
    index.refresh().unwrap();
    assert_eq!(shown(), ["fits", "fits", "impossible", "fits", "impossible"]);
}

#[test]
fn an_index_without_rows_lists_its_documents() {
    let engine = open(&SimDisk::new());
    let index = engine.create_index("plain", IndexDefinition::default()).unwrap();
    write(&index, ["b", "a", "\u{0}x", "ü", "c"].map(|id| upsert(id, &json!({"id": id}))).to_vec());
    index.refresh().unwrap();
    write(&index, vec![delete("c"), upsert("a", &json!({"id": "again"}))]);
    index.refresh().unwrap();
    let snapshot = index.snapshot();
    for page in 1..6 {
        assert_eq!(listed(&snapshot, Listed::Documents, page), ["\u{0}x", "a", "b", "ü"]);
    }
    assert_eq!(listed(&snapshot, Listed::Rows(0), 5), [""; 0]);
    assert!(snapshot.fit("a").unwrap().is_none());
    assert!(snapshot.stored("a").unwrap().unwrap().source.ends_with(b"\"again\"}"));
}
