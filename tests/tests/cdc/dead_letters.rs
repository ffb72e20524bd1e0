//! Rows that could not be indexed: listed, retried, purged, and what becomes of the pipeline where they
//! are too many.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use egret_cdc::{LetterFilter, PipelineState};
use egret_tests::egret::{Egret, EgretOptions};
use egret_tests::poll;
use egret_tests::postgres::Database;
use serde_json::{Value, json};
use tokio::task::block_in_place;
use tokio_postgres::Client;

use crate::following::Following;

const NOTES: &str = "SELECT id::text, to_json(notes)::text FROM notes";

fn of(table: &str, id: &str) -> LetterFilter {
    LetterFilter { index: None, table: Some(table.to_owned()), id: Some(id.to_owned()) }
}

/// Notes whose codes must be numbers for the index, and are text in the database.
async fn notes(change: impl FnOnce(&mut egret_cdc::PipelineConfig)) -> Following {
    let database = Database::create().await;
    database
        .execute(
            "CREATE TABLE notes (id int PRIMARY KEY, code text, body text);
             ALTER TABLE notes ALTER COLUMN body SET STORAGE EXTERNAL;
             INSERT INTO notes SELECT n, CASE WHEN n % 10 = 0 THEN 'x' || n ELSE n::text END,
                 repeat('la', 2000) FROM generate_series(1, 100) AS n",
        )
        .await;
    let declared = json!({"table": "notes",
        "mappings": {"properties": {"code": {"type": "integer"}}}});
    Following::follow(database, |config| {
        config.documents = vec![serde_json::from_value(declared).unwrap()];
        change(config);
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_listed_retried_and_closed() {
    let following = notes(|_| {}).await;
    following.streams().await;
    following.lists(10).await;
    let pipeline = following.pipeline();
    let page = |filter: &LetterFilter, from, size| {
        let (count, page) = block_in_place(|| pipeline.dead_letters(filter, from, size)).unwrap();
        let ids: Vec<String> = page.iter().map(|letter| letter.id.clone()).collect();
        (count, ids.join(","))
    };
    let all = LetterFilter::default();
    assert_eq!(page(&all, 0, 3), (10, "10,100,20".to_owned()));
    assert_eq!(page(&all, 9, 3), (10, "90".to_owned()));
    assert_eq!(page(&of("public.notes", "20"), 0, 3), (1, "20".to_owned()));
    assert_eq!(page(&of("public.other", "20"), 0, 3).0, 0);
    let (_, letters) =
        block_in_place(|| pipeline.dead_letters(&of("public.notes", "20"), 0, 1)).unwrap();
    assert!(letters[0].reason.contains("code"), "{:?}", letters[0]);
    assert_eq!(letters[0].values["code"], "x20");

    // Nothing has changed: nothing is indexed, and the letters stay.
    let summary = pipeline.retry(&all).await.unwrap();
    assert_eq!((summary.retried, summary.failed, summary.failures.len()), (10, 10, 10));
    following.lists(10).await;
    // After a change of the mapping the rows are indexed as they are.
    let lenient = json!({"properties": {"code": {"type": "integer", "ignore_malformed": true}}});
    following.put_mapping("notes", &lenient);
    let summary = pipeline.retry(&of("public.notes", "20")).await.unwrap();
    assert_eq!((summary.retried, summary.indexed), (1, 1));
    following.lists(9).await;
    let summary = pipeline.retry(&all).await.unwrap();
    assert_eq!((summary.retried, summary.indexed, summary.failed), (9, 9, 0), "{summary:?}");
    following.lists(0).await;
    following.shows(&["notes"]).await;
    following.equals("notes", NOTES).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn later_changes_close_letters_and_purged_ones_are_forgotten() {
    let mut following = notes(|_| {}).await;
    following.streams().await;
    following.lists(10).await;
    let changes =
        "BEGIN; UPDATE notes SET code = '7' WHERE id = 10; DELETE FROM notes WHERE id = 20; COMMIT";
    following.execute(changes, &["notes"]).await;
    following.lists(8).await;
    let purge =
        |filter: &LetterFilter| block_in_place(|| following.pipeline().purge(filter)).unwrap();
    assert_eq!(purge(&of("public.notes", "30")), 1);
    assert_eq!(purge(&of("public.notes", "30")), 0);
    following.stop().await;
    following.resume();
    following.streams().await;
    following.lists(7).await;
    let purged = block_in_place(|| following.pipeline().purge(&LetterFilter::default())).unwrap();
    assert_eq!(purged, 7);
    following.lists(0).await;
    let good = format!("{NOTES} WHERE code !~ 'x'");
    following.equals("notes", &good).await;
}

/// Mends, breaks and removes the notes that had letters, until told to end; how many changes.
async fn change_until(writer: Client, ended: Arc<AtomicBool>) -> u64 {
    let mut turn = 0;
    while !ended.load(Ordering::Relaxed) {
        let id = turn % 10 * 10 + 10;
        let code = ["'bad'", "'12'", "'34'"][usize::try_from(turn % 3).unwrap()];
        let statement = if turn % 7 == 6 {
            format!("DELETE FROM notes WHERE id = {id}")
        } else {
            format!(
                "INSERT INTO notes VALUES ({id}, {code}, 'turn {turn}')
                 ON CONFLICT (id) DO UPDATE SET code = {code}, body = 'turn {turn}'"
            )
        };
        writer.batch_execute(&statement).await.unwrap();
        turn += 1;
    }
    turn
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_under_load_never_bring_back_an_older_row() {
    let following = notes(|_| {}).await;
    following.streams().await;
    following.lists(10).await;
    let writer = following.database.connect().await;
    let ended = Arc::new(AtomicBool::new(false));
    let writing = tokio::spawn(change_until(writer, Arc::clone(&ended)));
    let mut retried = 0;
    for _ in 0..20 {
        retried += following.pipeline().retry(&LetterFilter::default()).await.unwrap().retried;
    }
    ended.store(true, Ordering::Relaxed);
    assert!(writing.await.unwrap() > 20 && retried > 0);
    following.shows(&["notes"]).await;
    let bad = "SELECT count(*) FROM notes WHERE code !~ '^[0-9]+$'";
    let bad: i64 = following.database.client().query_one(bad, &[]).await.unwrap().get(0);
    following.lists(u64::try_from(bad).unwrap()).await;
    following.equals("notes", &format!("{NOTES} WHERE code ~ '^[0-9]+$'")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_letters_stop_the_pipeline_until_somebody_has_looked() {
    let following = notes(|config| config.max_dead_letters = 11).await;
    following.streams().await;
    following.lists(10).await;
    following.execute("UPDATE notes SET code = 'bad' WHERE id = 1", &["notes"]).await;
    following.lists(11).await;
    following.database.execute("UPDATE notes SET code = 'bad' WHERE id = 2").await;
    following.reaches(PipelineState::Refused).await;
    let reason = following.pipeline().status().reason.unwrap();
    assert!(reason.contains("max_dead_letters"), "{reason}");
    following.lists(12).await;
    following.pipeline().restart().await.unwrap();
    following.reaches(PipelineState::Refused).await;
    // Nothing is lost by going on once there is room again.
    let purged = block_in_place(|| following.pipeline().purge(&of("public.notes", "10"))).unwrap();
    assert_eq!(purged, 1);
    following.pipeline().restart().await.unwrap();
    following.streams().await;
    following.shows(&["notes"]).await;
    following.lists(11).await;
    assert!(following.document("notes", "2").is_none());
    following.execute("UPDATE notes SET code = '1', body = 'new'", &["notes"]).await;
    following.lists(0).await;
    following.equals("notes", NOTES).await;
}

/// Values that are stored out of line and did not change are not in the log.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_come_back_are_read_whole() {
    let database = Database::create().await;
    database
        .execute(
            "CREATE TABLE notes (id int PRIMARY KEY, gone bool, body text);
             ALTER TABLE notes ALTER COLUMN body SET STORAGE EXTERNAL;
             INSERT INTO notes SELECT n, n % 2 = 0, repeat('la', 3000) FROM generate_series(1, 40) AS n",
        )
        .await;
    let following = Following::follow(database, |config| {
        let declared = json!({"table": "notes", "soft_delete": "gone", "exclude": ["gone"]});
        config.documents = vec![serde_json::from_value(declared).unwrap()];
    });
    following.streams().await;
    let notes = "SELECT id::text, json_build_object('id', id, 'body', body)::text FROM notes
                 WHERE gone IS NOT TRUE";
    following.equals("notes", notes).await;
    following.execute("UPDATE notes SET gone = NOT gone", &["notes"]).await;
    following
        .comes_to("the rows are read again", |status| {
            status.dead_letters == 0 && following.count("notes") == 20
        })
        .await;
    following.equals("notes", notes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_row_with_too_long_a_key_has_its_letter() {
    let database = Database::create().await;
    database
        .execute(
            "CREATE TABLE names (name text PRIMARY KEY, n int);
             INSERT INTO names SELECT repeat(n || 'x', 400), n FROM generate_series(1, 3) AS n;
             INSERT INTO names VALUES ('short', 4), (repeat('y', 9000), 8)",
        )
        .await;
    let following = Following::follow(database, |_| {});
    following.streams().await;
    following.lists(4).await;
    let change =
        "INSERT INTO names SELECT repeat(n || 'x', 400), n FROM generate_series(5, 7) AS n;
        UPDATE names SET name = 'shorter' WHERE n = 5; DELETE FROM names WHERE n IN (1, 6)";
    following.execute(change, &["names"]).await;
    following.lists(4).await;
    let summary = following.pipeline().retry(&LetterFilter::default()).await.unwrap();
    assert_eq!((summary.retried, summary.failed), (4, 4), "{summary:?}");
    following.execute("DELETE FROM names WHERE n IN (2, 3, 7, 8)", &["names"]).await;
    following.lists(0).await;
    following.equals("names", "SELECT name, to_json(names)::text FROM names").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_move_with_their_rows() {
    let following = notes(|_| {}).await;
    following.streams().await;
    following.lists(10).await;
    following.execute("UPDATE notes SET id = id + 1000 WHERE id % 10 < 2", &["notes"]).await;
    let expected: Vec<i32> = (101..=110).map(|tens| tens * 10).collect();
    poll::until("all rows are read", async || {
        let all = LetterFilter::default();
        let (_, letters) =
            block_in_place(|| following.pipeline().dead_letters(&all, 0, 20)).unwrap();
        let mut ids: Vec<i32> = letters.iter().map(|letter| letter.id.parse().unwrap()).collect();
        ids.sort_unstable();
        let is_known = letters.iter().all(|letter| letter.reason.contains("code"));
        (ids == expected && is_known).then_some(())
    })
    .await;
}

/// Takes away what of the list may not have reached the disk when the power is cut.
fn cut(egret: &Egret) {
    let path = egret.folder().join("pipelines/second/dead_letters.jsonl");
    let lines = std::fs::read_to_string(&path).unwrap();
    let synced = "\"synced\"\n";
    let durable = lines.rfind(synced).unwrap() + synced.len();
    assert!(lines[durable..].contains("letter"), "{lines}");
    std::fs::write(path, &lines[..durable]).unwrap();
}

/// A pipeline of its own that follows birds, whose dates must be dates for the index and are text in
/// the database. After the copy it acknowledges nothing for ten minutes: the next time is long after
/// the crash.
async fn birds(settings: Value) -> (Database, Egret) {
    birds_and("", settings).await
}

/// The same in a database that has more.
async fn birds_and(more: &str, settings: Value) -> (Database, Egret) {
    let database = Database::create().await;
    database
        .execute(
            "CREATE TABLE birds (id int PRIMARY KEY, seen text, body text);
             ALTER TABLE birds ALTER COLUMN body SET STORAGE EXTERNAL;
             INSERT INTO birds SELECT n, '2026-01-01' FROM generate_series(1, 100) AS n",
        )
        .await;
    database.execute(more).await;
    let egret = Egret::start(EgretOptions::default());
    let mappings = json!({"properties": {"seen": {"type": "date"}}});
    let mut declaration = json!({
        "url": database.url(), "slot": format!("egret_{}_second", database.name()), "tables": [],
        "acknowledge_interval_ms": 600_000,
        "documents": [{"table": "birds", "index": "birds", "mappings": mappings}],
    });
    declaration.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
    egret.put("/_cdc/second", &declaration).await.ok();
    poll::until("the copy is acknowledged, and nothing after it", async || {
        let read =
            || std::fs::read_to_string(egret.folder().join("pipelines/second/position.json"));
        let before = read().ok()?;
        let file: Value = serde_json::from_str(&before).unwrap();
        let has_joined =
            file["position"]["joined"].as_array().is_some_and(|joined| !joined.is_empty());
        tokio::time::sleep(Duration::from_millis(300)).await;
        (has_joined && read().ok()? == before).then_some(())
    })
    .await;
    assert_eq!(egret.count("birds").await, Some(100));
    (database, egret)
}

/// As where the crash came while the index of birds was being brought to the stream.
fn catches_up(egret: &Egret) {
    let path = egret.folder().join("pipelines/second/position.json");
    let mut file: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let position = &mut file["position"];
    let joined = std::mem::replace(&mut position["joined"], json!([]));
    assert_eq!(joined.as_array().unwrap().len(), 1);
    position["held"] = joined;
    let crc32c = crc32c::crc32c(position.to_string().as_bytes());
    let text = format!(r#"{{"format": 2, "crc32c": {crc32c}, "position": {position}}}"#);
    std::fs::write(path, text).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_that_a_power_cut_took_are_found_again() {
    power_cut_takes_letters(|_| {}).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_that_a_power_cut_took_are_found_again_by_an_index_that_catches_up() {
    power_cut_takes_letters(catches_up).await;
}

async fn power_cut_takes_letters(and: impl FnOnce(&Egret)) {
    let (database, mut egret) = birds(json!({"max_document_bytes": 4096})).await;
    let dead = async |egret: &Egret, count: usize| {
        poll::until(&format!("{count} dead letters"), async || {
            // They are opened a moment after the program answers.
            let dead = egret.get("/_cdc/second/dead").await.body;
            (dead["total"] == count).then(|| dead["dead_letters"].as_array().unwrap().clone())
        })
        .await
    };
    database
        .execute(
            "BEGIN; UPDATE birds SET seen = 'never' WHERE id = 1; DELETE FROM birds WHERE id = 3;
             INSERT INTO birds VALUES (200, 'soon'); COMMIT;
             UPDATE birds SET seen = repeat('x', 9000) WHERE id = 2;
             UPDATE birds SET seen = 'later' WHERE id IN (4, 5)",
        )
        .await;
    database.execute("UPDATE birds SET seen = '2026-02-01' WHERE id = 5").await;
    let before = dead(&egret, 4).await;
    egret.post("/birds/_flush", &Value::Null).await.ok();
    egret.kill();
    cut(&egret);
    and(&egret);
    egret.resume();
    let after = poll::until("they say why", async || {
        let after = dead(&egret, 4).await;
        let is_known = |letter: &Value| !letter["reason"].as_str().unwrap().contains("crash");
        after.iter().all(is_known).then_some(after)
    })
    .await;
    let ids = |letters: &[Value]| letters.iter().map(|it| it["id"].clone()).collect::<Vec<_>>();
    assert_eq!(ids(&after), [json!("1"), json!("2"), json!("200"), json!("4")]);
    assert_eq!(ids(&before), ids(&after));
    assert_eq!(egret.count("birds").await, Some(96));
    database.execute("UPDATE birds SET seen = '2026-03-01' WHERE id < 10").await;
    assert_eq!(ids(&dead(&egret, 1).await), [json!("200")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_were_removed_before_a_crash_are_no_letters() {
    crash_after_removals(|_| {}, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_were_removed_before_an_index_caught_up_are_no_letters() {
    crash_after_removals(catches_up, 1).await;
}

async fn crash_after_removals(and: impl FnOnce(&Egret), streamed: u64) {
    let (database, mut egret) = birds(json!({"max_dead_letters": 10})).await;
    for statement in [
        "INSERT INTO birds SELECT n, 'soon' FROM generate_series(3001, 3009) AS n",
        "DELETE FROM birds WHERE id > 3001",
        "UPDATE birds SET seen = '2026-01-03' WHERE id < 50",
        "TRUNCATE birds",
        "INSERT INTO birds SELECT n, '2026-01-04' FROM generate_series(1, 10) AS n",
        "INSERT INTO birds SELECT n, '2026-01-02', repeat('la', 2000)
         FROM generate_series(1001, 1050) AS n",
        // What is stored out of line goes along without being streamed.
        "UPDATE birds SET id = id + 1000 WHERE id > 1000",
        "DELETE FROM birds WHERE id > 2000",
    ] {
        database.execute(statement).await;
    }
    // Rows that are streamed, rejected, and listed.
    let comes_to = async |egret: &Egret, expected: [u64; 3]| {
        poll::until_stuck(&format!("{expected:?}"), async || {
            let shown = egret.get("/_cdc/second").await.ok();
            let table = &shown["tables"][0];
            let counts =
                json!([table["rows_streamed"], table["rows_rejected"], shown["dead_letters"]]);
            let is_there = shown["state"] == "streaming" && counts == json!(expected);
            is_there.then_some(()).ok_or_else(|| shown.to_string())
        })
        .await;
    };
    comes_to(&egret, [227, 9, 0]).await;
    egret.post("/birds/_flush", &Value::Null).await.ok();
    egret.kill();
    and(&egret);
    egret.resume();
    // The row that comes after them finds them looked at.
    database.execute("UPDATE birds SET seen = '2026-01-05' WHERE id = 1").await;
    comes_to(&egret, [streamed, 0, 0]).await;
    assert_eq!(egret.count("birds").await, Some(10));
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_can_be_looked_at_after_a_crash_is_copied_anew() {
    let (database, mut egret) = birds(json!({"max_dead_letters": 10})).await;
    // Keys that do not shrink: what is not there is remembered by them.
    database
        .execute(
            "ALTER TABLE birds ALTER COLUMN id TYPE text;
             INSERT INTO birds VALUES ('last', '2026-01-02')",
        )
        .await;
    poll::until("the table is copied", async || {
        (egret.count("birds").await == Some(101)).then_some(())
    })
    .await;
    for statement in [
        "INSERT INTO birds SELECT string_agg(md5(n || '-' || m), ''), '2026-01-03'
         FROM generate_series(1, 65000) AS n, generate_series(1, 15) AS m GROUP BY n",
        "DELETE FROM birds WHERE length(id) > 100",
        "UPDATE birds SET seen = '2026-01-04' WHERE id = 'last'",
    ] {
        database.execute(statement).await;
    }
    let shows_last = async |egret: &Egret| {
        let long = Duration::from_secs(300);
        poll::until_deadline("the last row is shown", long, async || {
            let last = egret.get("/birds/_doc/last").await.ok();
            (last["_source"]["seen"] == "2026-01-04").then_some(())
        })
        .await;
    };
    shows_last(&egret).await;
    egret.post("/birds/_flush", &Value::Null).await.ok();
    egret.kill();
    egret.resume();
    poll::until_stuck("it is followed", async || {
        let shown = egret.get("/_cdc/second").await.ok();
        let is_there = shown["state"] == "streaming"
            && shown["dead_letters"] == 0
            && shown["rows_copied"].as_u64() == Some(101);
        is_there.then_some(()).ok_or_else(|| shown.to_string())
    })
    .await;
    shows_last(&egret).await;
    assert_eq!(egret.count("birds").await, Some(101));
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_that_related_rows_made_impossible_are_found_again() {
    let eggs = "
        CREATE TABLE eggs (id int PRIMARY KEY, bird int REFERENCES birds);
        INSERT INTO eggs SELECT n, n FROM generate_series(1, 100) AS n";
    let related = json!([{"field": "eggs", "table": "eggs"}]);
    let document = json!({"table": "birds", "index": "birds", "related": related});
    let settings = json!({"max_nested_rows": 3, "documents": [document]});
    let (database, mut egret) = birds_and(eggs, settings).await;
    database.execute("INSERT INTO eggs SELECT n, 7 FROM generate_series(201, 203) AS n").await;
    let dead = async |egret: &Egret| {
        poll::until("the letter of the bird with too many eggs", async || {
            // They are opened a moment after the program answers.
            let dead = egret.get("/_cdc/second/dead").await.body;
            let letter = &dead["dead_letters"][0];
            let is_it = (dead["total"].as_u64(), letter["id"].as_str()) == (Some(1), Some("7"));
            (is_it && letter["reason"].as_str()?.contains("max_nested_rows")).then_some(())
        })
        .await;
    };
    dead(&egret).await;
    egret.post("/birds/_flush", &Value::Null).await.ok();
    egret.kill();
    cut(&egret);
    egret.resume();
    dead(&egret).await;
    assert_eq!(egret.count("birds").await, Some(99));
    database.execute("DELETE FROM eggs WHERE id > 200").await;
    poll::until("it is there", async || (egret.count("birds").await == Some(100)).then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_to_be_read_again_is_not_forgotten() {
    let (database, mut egret) = birds(json!({})).await;
    database.execute("INSERT INTO birds VALUES (200, 'soon')").await;
    let dead = async |egret: &Egret, expected: &[&str]| {
        poll::until_stuck(&format!("{expected:?}"), async || {
            let answer = egret.get("/_cdc/second/dead").await;
            // They are opened a moment after the program answers.
            let letters =
                answer.body["dead_letters"].as_array().ok_or_else(|| answer.text.clone())?;
            let ids: Vec<&str> = letters.iter().map(|it| it["id"].as_str().unwrap()).collect();
            // Those of the crash go one by one.
            let are_read = ids == expected && !answer.text.contains("a crash");
            are_read.then_some(()).ok_or_else(|| answer.text.clone())
        })
        .await;
    };
    dead(&egret, &["200"]).await;
    egret.kill();
    // As where it was killed before it had read them.
    let path = egret.folder().join("pipelines/second/dead_letters.jsonl");
    let mut lines = std::fs::read_to_string(&path).unwrap();
    for id in ["7", "200", "777"] {
        let letter = json!({"table": "public.birds", "id": id, "lsn": "0/1", "reason": "a crash",
            "values": {}, "read_again": true});
        lines += &json!({"letter": letter}).to_string();
        lines.push('\n');
    }
    std::fs::write(&path, lines).unwrap();
    egret.resume();
    dead(&egret, &["200"]).await;
}
