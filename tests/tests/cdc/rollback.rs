//! The way back from a copy: the index from before takes the newer one's place again, and nothing that
//! was committed meanwhile is missing or stale in it.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use egret_aof::failpoint;
use egret_cdc::status::TableState;
use egret_cdc::{DocumentConfig, ErrorKind};
use egret_engine::Lsn;
use egret_tests::egret::{Egret, EgretOptions};
use egret_tests::poll;
use egret_tests::postgres::Database;
use reqwest::Method;
use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::following::Following;

const TABLE: &str = "CREATE TABLE birds (id int PRIMARY KEY, name text, legs int);
    INSERT INTO birds SELECT n, 'bird ' || n, 2 FROM generate_series(1, 1000) AS n";

const BIRDS: &str = "SELECT id::text, to_json(birds)::text FROM birds";
const RENAMED: &str =
    "SELECT id::text, json_build_object('id', id, 'title', name, 'legs', legs)::text FROM birds";

fn declared(document: Value) -> Vec<DocumentConfig> {
    vec![serde_json::from_value(document).unwrap()]
}

fn renames() -> Vec<DocumentConfig> {
    declared(json!({"table": "birds", "rename": {"name": "title"}}))
}

/// Follows the table, and declares its documents otherwise.
async fn declared_otherwise(documents: Vec<DocumentConfig>) -> Following {
    let mut following = Following::start(TABLE).await;
    declares(&mut following, documents).await;
    kept(&following).await;
    following
}

/// Declares otherwise, stopped meanwhile.
async fn declares(following: &mut Following, documents: Vec<DocumentConfig>) {
    following.stop().await;
    following.config.documents = documents;
    following.resume();
}

/// Waits until the table was copied and can be gone back with.
async fn kept(following: &Following) {
    following
        .comes_to("kept", |status| {
            let birds = status.tables.iter().find(|table| table.table == "public.birds");
            birds.is_some_and(|birds| {
                birds.state == TableState::Streaming && birds.kept_until_in_millis.is_some()
            })
        })
        .await;
}

/// Waits until there is no way back, for a reason with these words, and its folder is gone.
async fn ended(following: &Following, folder: &Path, words: &str) {
    following
        .comes_to(words, |status| {
            let birds = status.tables.iter().find(|table| table.table == "public.birds");
            let reason = birds.and_then(|birds| birds.no_way_back.as_ref());
            reason.is_some_and(|reason| reason.contains(words)) && !folder.exists()
        })
        .await;
    let error = following.pipeline().roll_back("birds").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert!(error.to_string().contains(words), "{error}");
}

/// Changes birds in every way until told to end; how many times.
async fn change_until(writer: Client, ended: Arc<AtomicBool>) -> u64 {
    let mut turn = 0;
    while !ended.load(Ordering::Relaxed) {
        let statements = format!(
            "BEGIN; UPDATE birds SET name = 'turn {turn}' WHERE id % 50 = {turn} % 50;
             INSERT INTO birds VALUES ({turn} + 5000, 'new', {turn}); COMMIT;
             DELETE FROM birds WHERE id = {turn} % 900 + 10"
        );
        writer.batch_execute(&statements).await.unwrap();
        turn += 1;
    }
    turn
}

/// Reads until told to end; how many times. No read fails, and none finds less than there always is.
fn read_until(following: &Following, ended: &AtomicBool) -> u64 {
    let mut reads = 0;
    while !ended.load(Ordering::Relaxed) {
        assert!(following.source_now("birds", "1").is_some(), "read {reads}");
        reads += 1;
    }
    reads
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_declaration_is_gone_back_from_while_writes_go_on() {
    let mut following = Following::start(TABLE).await;
    let before = following.index_folder("birds");
    let ended = Arc::new(AtomicBool::new(false));
    let writer = following.database.connect().await;
    let writing = tokio::spawn(change_until(writer, Arc::clone(&ended)));
    declares(&mut following, renames()).await;
    kept(&following).await;
    let newer = following.index_folder("birds");
    let following = Arc::new(following);
    let reading = {
        let (following, ended) = (Arc::clone(&following), Arc::clone(&ended));
        tokio::task::spawn_blocking(move || read_until(&following, &ended))
    };
    following.pipeline().roll_back("birds").await.unwrap();
    assert_eq!(following.index_folder("birds"), before);
    following.database.execute("UPDATE birds SET legs = 3 WHERE id = 1").await;
    ended.store(true, Ordering::Relaxed);
    let (turns, reads) = (writing.await.unwrap(), reading.await.unwrap());
    assert!(turns > 3 && reads > 3, "{turns} changes, {reads} reads");
    following.equals("birds", BIRDS).await;
    poll::until("the newer folder is gone", async || (!newer.exists()).then_some(())).await;
    let table = following.table("public.birds").unwrap();
    assert!(table.reason.is_some_and(|reason| reason.contains("an earlier declaration")));
    assert_eq!((table.kept_until_in_millis, table.rows_rejected), (None, 0));
    // It is asked once, and there is nothing left to go back to.
    let error = following.pipeline().roll_back("birds").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_way_back_outlives_restarts() {
    let mut following = declared_otherwise(renames()).await;
    following.execute("UPDATE birds SET name = 'seen' WHERE id < 100", &["birds"]).await;
    following.equals("birds", RENAMED).await;
    following.stop().await;
    following.database.execute("DELETE FROM birds WHERE id > 900").await;
    following.resume();
    kept(&following).await;
    following.execute("UPDATE birds SET name = 'later' WHERE id < 50", &["birds"]).await;
    following.pipeline().roll_back("birds").await.unwrap();
    following.equals("birds", BIRDS).await;
    // Nothing is copied again, whatever happens, as long as the same is declared.
    following.stop().await;
    following.database.execute("INSERT INTO birds VALUES (3000, 'while it stood', 2)").await;
    following.resume();
    following.follows("public.birds").await;
    following.execute("UPDATE birds SET name = 'still' WHERE id < 20", &["birds"]).await;
    following.equals("birds", BIRDS).await;
    following.database.execute("ALTER TABLE birds ADD wings int").await;
    following.execute("UPDATE birds SET wings = 2 WHERE id < 10", &["birds"]).await;
    assert_eq!(following.copies(), 0);
    following.stop().await;
    following.resume();
    following.follows("public.birds").await;
    assert_eq!(following.copies(), 0, "what it went back from is remembered");
    // A copy that is asked for takes up what is declared.
    following.pipeline().copy("public.birds").await.unwrap();
    following.copies_again(0).await;
    kept(&following).await;
    let wings = "SELECT id::text, json_build_object('id', id, 'title', name, 'legs', legs,
                 'wings', wings)::text FROM birds";
    following.equals("birds", wings).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_declaration_is_taken_up_after_a_way_back() {
    let mut following = declared_otherwise(renames()).await;
    following.pipeline().roll_back("birds").await.unwrap();
    let third = json!({"table": "birds", "constants": {"kind": "bird"}});
    declares(&mut following, declared(third)).await;
    following.copies_again(0).await;
    let birds = "SELECT id::text, json_build_object('id', id, 'name', name, 'legs', legs,
                 'kind', 'bird')::text FROM birds";
    following.equals("birds", birds).await;
    assert_eq!(following.copies(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_was_asked_for_is_gone_back_from() {
    let following = Following::start(TABLE).await;
    let (before, copies) = (following.index_folder("birds"), following.copies());
    following.pipeline().copy("public.birds").await.unwrap();
    kept(&following).await;
    assert_ne!(following.index_folder("birds"), before);
    following.execute("UPDATE birds SET name = 'seen' WHERE id < 100", &["birds"]).await;
    following.pipeline().roll_back("birds").await.unwrap();
    assert_eq!(following.index_folder("birds"), before);
    following.execute("DELETE FROM birds WHERE id % 3 = 0", &["birds"]).await;
    following.equals("birds", BIRDS).await;
    assert_eq!(following.copies(), copies + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn its_time_is_over() {
    let mut following = Following::start(TABLE).await;
    let before = following.index_folder("birds");
    following.config.keep_replaced_ms = 1;
    declares(&mut following, renames()).await;
    ended(&following, &before, "its time is over").await;
    following.equals("birds", RENAMED).await;
    // Nothing is kept where that is not wanted.
    following.config.keep_replaced_ms = 0;
    let newer = following.index_folder("birds");
    declares(&mut following, Vec::new()).await;
    following.copies_again(0).await;
    poll::until("the folder is gone", async || (!newer.exists()).then_some(())).await;
    let error = following.pipeline().roll_back("birds").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    following.equals("birds", BIRDS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_that_the_database_keeps_for_it_is_bounded() {
    let mut following = Following::start(&format!("{TABLE}; CREATE TABLE other (id int)")).await;
    let before = following.index_folder("birds");
    following.config.max_copy_wal_bytes = 4 << 20;
    declares(&mut following, renames()).await;
    kept(&following).await;
    for _ in 0..4 {
        let write = "INSERT INTO other SELECT n FROM generate_series(1, 40000) AS n;
                     UPDATE birds SET legs = legs + 1 WHERE id < 10";
        following.execute(write, &["birds"]).await;
    }
    ended(&following, &before, "bytes of log").await;
    following.equals("birds", RENAMED).await;
    assert_eq!(following.pipeline().status().connection_failures, 0);
    let written: Lsn = following.database.flush_lsn().await.parse().unwrap();
    poll::until("the log is let go", async || {
        (following.pipeline().status().lsn.confirmed? >= written).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_only_the_newer_index_takes_ends_it() {
    let strict = json!({"table": "birds", "mappings": {"properties": {"name": {"type": "date"}}}});
    let database = Database::create().await;
    database
        .execute(
            "CREATE TABLE birds (id int PRIMARY KEY, name text, legs int);
             INSERT INTO birds SELECT n, '2026-01-01', 2 FROM generate_series(1, 100) AS n",
        )
        .await;
    let mut following = Following::follow(database, |config| config.documents = declared(strict));
    following.streams().await;
    let before = following.index_folder("birds");
    declares(&mut following, Vec::new()).await;
    kept(&following).await;
    following.execute("UPDATE birds SET name = 'seven' WHERE id = 7", &["birds"]).await;
    let error = following.pipeline().roll_back("birds").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert!(error.to_string().contains("[name]"), "{error}");
    ended(&following, &before, "[name]").await;
    following.equals("birds", BIRDS).await;
    assert_eq!(following.pipeline().status().dead_letters, 0);
}

/// Of declarations that change one after another the last one can be gone back from.
#[tokio::test(flavor = "multi_thread")]
async fn a_declaration_that_changes_twice_is_gone_back_from_once() {
    let mut following = Following::start(TABLE).await;
    let first = following.index_folder("birds");
    let mut before = first.clone();
    for kind in ["first", "second", "third"] {
        let document = json!({"table": "birds", "constants": {"kind": kind}});
        declares(&mut following, declared(document)).await;
        following.copies_again(0).await;
        kept(&following).await;
        assert!(before.exists(), "{kind}");
        let write = "UPDATE birds SET legs = legs + 1 WHERE id % 3 = 0";
        following.execute(write, &["birds"]).await;
        before = following.index_folder("birds");
    }
    assert!(!first.exists());
    following.pipeline().roll_back("birds").await.unwrap();
    following
        .equals(
            "birds",
            "SELECT id::text, json_build_object('id', id, 'name', name, 'legs', legs,
             'kind', 'second')::text FROM birds",
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_log_does_not_tell_of_has_no_way_back() {
    let mut following = Following::start(TABLE).await;
    for (change, words) in [
        ("ALTER TABLE birds ALTER legs TYPE text USING legs || ' legs'", "changed its type"),
        ("ALTER TABLE birds ADD wings int DEFAULT 2", "added with a default"),
        ("ALTER TABLE birds DROP wings", "dropped or renamed"),
    ] {
        let (before, copies) = (following.index_folder("birds"), following.copies());
        following.database.execute(change).await;
        following.copies_again(copies).await;
        ended(&following, &before, words).await;
    }
    // A column that the stream has been without.
    let before = following.index_folder("birds");
    declares(&mut following, declared(json!({"table": "birds", "exclude": ["legs"]}))).await;
    following.copies_again(0).await;
    // The log of PostgreSQL 14 always has all of them.
    let has_lists = following.database.version().await >= 15;
    if has_lists {
        ended(&following, &before, "out of the publication").await;
    } else {
        kept(&following).await;
    }
    // What is kept ends with such a change too.
    let without = json!({"table": "birds", "exclude": ["legs"], "constants": {"kind": "bird"}});
    let before = following.index_folder("birds");
    declares(&mut following, declared(without)).await;
    kept(&following).await;
    following.database.execute("ALTER TABLE birds ADD tail int DEFAULT 1").await;
    following.copies_again(1).await;
    let words = if has_lists { "out of the publication" } else { "added with a default" };
    ended(&following, &before, words).await;
    // Nor is any log kept for it.
    let (lsn, write) = (following.next_lsn().await, "UPDATE birds SET legs = 'none' WHERE id = 1");
    following.execute(write, &["birds"]).await;
    following
        .comes_to("the log is let go", |it| it.lsn.confirmed.is_some_and(|at| at >= lsn))
        .await;
    following
        .equals(
            "birds",
            "SELECT id::text, json_build_object('id', id, 'name', name,
        'tail', tail, 'kind', 'bird')::text FROM birds",
        )
        .await;
}

/// What the index holds, once it shows everything that was committed.
async fn documents(egret: &Egret, database: &Database) -> BTreeMap<String, Value> {
    let lsn = database.flush_lsn().await;
    let path = format!("/back/_search?size=1000&wait_for_lsn={lsn}&wait_for_timeout=60s");
    let found = egret.get(&path).await.ok();
    let hits = found["hits"]["hits"].as_array().unwrap().iter();
    hits.map(|hit| (hit["_id"].as_str().unwrap().to_owned(), hit["_source"].clone())).collect()
}

async fn rows(database: &Database) -> BTreeMap<String, Value> {
    let rows = database.client().query(BIRDS, &[]).await.unwrap();
    let row = |row: &tokio_postgres::Row| {
        (row.get(0), serde_json::from_str(&row.get::<_, String>(1)).unwrap())
    };
    rows.iter().map(row).collect()
}

/// Waits until the table streams; until when the index from before is kept.
async fn streams(egret: &Egret) -> Value {
    poll::until("the table streams", async || {
        let shown = egret.get("/_cdc/second").await.ok();
        (shown["tables"][0]["state"] == "streaming").then_some(())
    })
    .await;
    egret.get("/back/_rebuild").await.ok()["back"]["kept"].clone()
}

/// A pipeline in a process of its own, and the UUID of an index that it can go back to.
async fn can_go_back() -> (Database, Egret, String) {
    let database = Database::create().await;
    database.execute(TABLE).await;
    let mut declaration = json!({
        "url": database.url(), "slot": format!("egret_{}_back", database.name()),
        "watch_interval_ms": 200, "acknowledge_interval_ms": 50, "reconnect_max_ms": 1000,
        "tables": [],
        "documents": [{"table": "birds", "index": "back"}],
    });
    let egret = Egret::start(EgretOptions::default());
    egret.put("/_cdc/second", &declaration).await.ok();
    streams(&egret).await;
    assert_eq!(documents(&egret, &database).await, rows(&database).await);
    declaration["documents"][0]["rename"] = json!({"name": "title"});
    egret.put("/_cdc/second", &declaration).await.ok();
    let uuid = poll::until("the index from before is kept", async || {
        streams(&egret).await["uuid"].as_str().map(str::to_owned)
    })
    .await;
    (database, egret, uuid)
}

/// Starts it again: nothing has to be copied. What can be gone back to.
async fn goes_on(egret: &mut Egret) -> Value {
    egret.resume();
    let kept = streams(egret).await;
    assert_eq!(egret.get("/_cdc/second").await.ok()["copies"], 0);
    kept
}

/// Expects the index of this UUID under the name, with all rows, and no other one.
async fn has_gone_back(egret: &Egret, database: &Database, uuid: &str) {
    assert_eq!(documents(egret, database).await, rows(database).await);
    let shown = egret.get("/_cdc/second").await.ok();
    assert_eq!((&shown["copies"], &shown["dead_letters"]), (&json!(0), &json!(0)));
    assert!(shown["tables"][0]["reason"].as_str().unwrap().contains("earlier declaration"));
    let settings = egret.get("/back/_settings").await.ok();
    assert_eq!(settings["back"]["settings"]["index"]["uuid"], json!(uuid), "{settings}");
    let error = egret.post("/back/_rebuild?rollback=true", &Value::Null).await;
    assert_eq!(error.status, 409, "{}", error.text);
    assert!(error.text.contains("no index is kept from before a copy of [back]"), "{}", error.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_before_and_while_it_goes_back() {
    let (database, mut egret, uuid) = can_go_back().await;
    for (turn, within_ms) in [0, 1, 5, 20, 80, 300].into_iter().enumerate() {
        let change = format!(
            "UPDATE birds SET name = 'turn {turn}' WHERE id % 3 = {turn} % 3;
             DELETE FROM birds WHERE id = {turn} + 500;
             INSERT INTO birds VALUES (2000 + {turn}, 'new', 1)"
        );
        database.execute(&change).await;
        // However far it came.
        let back = egret.post("/back/_rebuild?rollback=true", &Value::Null);
        let _ = tokio::time::timeout(Duration::from_millis(within_ms), back).await;
        egret.kill();
        database.execute("UPDATE birds SET legs = legs + 1 WHERE id % 7 = 0").await;
        if goes_on(&mut egret).await.is_null() {
            break;
        }
    }
    if !streams(&egret).await.is_null() {
        egret.post("/back/_rebuild?rollback=true", &Value::Null).await.ok();
    }
    has_gone_back(&egret, &database, &uuid).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_when_it_has_just_gone_back() {
    let (database, mut egret, uuid) = can_go_back().await;
    egret.kill();
    // The pipeline's file takes long to be written.
    let plan = "letters-durable=hold:3000;replacement-swapped-in=kill";
    egret.options_mut().environment = vec![(failpoint::VARIABLE.to_owned(), plan.to_owned())];
    goes_on(&mut egret).await;
    let path = "/back/_rebuild?rollback=true";
    assert!(egret.try_request(Method::POST, path, &Value::Null).await.is_none());
    assert_eq!(egret.wait_for_end().signal(), Some(9), "{}", egret.log());
    database.execute("UPDATE birds SET legs = legs + 1 WHERE id % 7 = 0").await;
    egret.options_mut().environment.clear();
    assert!(goes_on(&mut egret).await.is_null());
    has_gone_back(&egret, &database, &uuid).await;
}
