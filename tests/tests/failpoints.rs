//! Egret is killed at each place that has a name, between two steps of which the first is durable and
//! the second is not, while rows are written all the time. Started again, the index holds what the
//! table holds, and what could not be indexed is listed, row for row.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use egret_aof::failpoint;
use egret_tests::egret::{Egret, EgretOptions};
use egret_tests::poll;
use egret_tests::postgres::Database;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::{JoinHandle, block_in_place};
use tokio_postgres::Row;

/// What is armed at each start, one after another, with a kill at the end of each.
const KILLS: [&[&str]; 30] = [
    &["slot-made=kill"],
    &["slot-noted=kill"],
    &["catalog-changing=kill"],
    &["catalog-changed=kill"],
    &["copy-begun=kill"],
    &["copy-batch-handed-over=kill:7"],
    &["copy-range-noted=kill:3"],
    &["copy-range-durable=kill:2"],
    &["copy-range-durable=kill:2", "copy-brought-up=kill"],
    &["copy-range-durable=kill:2", "copy-range-durable=kill:2", "copy-read=kill"],
    &["copy-range-durable=kill:2", "copy-brought-up=kill", "copy-range-durable=kill:2"],
    &["copy-whole=kill"],
    &["copy-durable=kill"],
    &["transaction-gathered=kill:20"],
    &["transaction-handed-over=kill:20"],
    &["flush-segments-written=kill:6"],
    &["flush-files-durable=kill:6"],
    &["flush-committed=kill:6"],
    &["merge-written=kill:2"],
    &["letters-durable=kill:5"],
    &["position-durable=kill:5"],
    &["position-confirmed=kill:5"],
    &["letter-written=kill:2"],
    &["retried-rows-durable=kill"],
    // Of the copy that is asked for.
    &["copy-durable=kill:2"],
    &["replacement-shown=kill"],
    &["replacement-swapped-in=kill"],
    &["return-begun=kill"],
    &["return-ready=kill"],
    &["return-taken=kill"],
];

/// How many of them are tried at once.
const AT_ONCE: usize = 3;

const ROWS: u32 = 3000;

/// Names longer than this make no document.
const MAX_DOCUMENT_BYTES: u32 = 8192;
const TOO_LONG: &str = "repeat('x', 9000)";

/// Birds, some with values that are stored apart from them, some with names that are too long.
async fn birds() -> Database {
    let database = Database::create().await;
    database
        .execute(&format!(
            "CREATE TABLE birds (id int PRIMARY KEY, name text, legs int, song text);
             ALTER TABLE birds ALTER COLUMN song SET STORAGE EXTERNAL;
             CREATE SEQUENCE ids START 1000001;
             INSERT INTO birds SELECT n, 'bird ' || n, 2, CASE WHEN n % 10 = 0 THEN repeat('la', 1500) END
               FROM generate_series(1, {ROWS}) AS n;
             UPDATE birds SET name = {TOO_LONG} WHERE id % 500 = 0"
        ))
        .await;
    database
}

/// There is no way back from a copy while rows are listed. The check comes first: its lock keeps names
/// from becoming too long until the others are short.
async fn shorten(database: &Database) {
    let no_longer = "ALTER TABLE birds ADD CHECK (length(name) < 1000) NOT VALID;
                     UPDATE birds SET name = 'short' WHERE length(name) > 1000";
    database.execute(no_longer).await;
}

fn following(database: &Database) -> EgretOptions {
    EgretOptions::following(database.url(), "birds")
        .with("copy_workers", "1")
        .with("copy_batch_bytes", "32768")
        .with("copy_range_blocks", "8")
        .with("copy_max_bytes_per_second", "1500000")
        .with("acknowledge_interval_ms", "50")
        .with("max_document_bytes", &MAX_DOCUMENT_BYTES.to_string())
}

/// Rows that are written until told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    writing: JoinHandle<()>,
}

impl Load {
    async fn start(database: &Database, seed: u64) -> Self {
        let (client, stop) = (database.connect().await, Arc::new(AtomicBool::new(false)));
        let (mut random, stopped) = (StdRng::seed_from_u64(seed), Arc::clone(&stop));
        let writing = tokio::spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                let id = random.random_range(1..=ROWS);
                let statements = match random.random_range(0..6) {
                    0 => "INSERT INTO birds VALUES (nextval('ids'), 'a young bird', 2)".to_owned(),
                    1 => format!("DELETE FROM birds WHERE id = {id}"),
                    2 => format!("UPDATE birds SET id = nextval('ids') WHERE id = {id}"),
                    3 => format!("UPDATE birds SET legs = legs + 1 WHERE id = {id}"),
                    4 => format!("UPDATE birds SET name = {TOO_LONG} WHERE id = {id} AND id % 7 = 0"),
                    _ => format!(
                        "BEGIN; UPDATE birds SET name = 'bird ' || id WHERE id BETWEEN {id} AND {id} + 20;
                         INSERT INTO birds VALUES (nextval('ids'), 'another one', 2); COMMIT"
                    ),
                };
                // Names may not be long any more.
                let _ = client.batch_execute(&statements).await;
                tokio::time::sleep(Duration::from_millis(4)).await;
            }
        });
        Self { stop, writing }
    }

    async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.writing.await.unwrap();
    }
}

/// What a pipeline is given to do; each step ends as soon as the program is gone.
#[derive(Debug, Clone, Copy)]
enum Step {
    Stream,
    LargeTransaction,
    Retry,
    CopyAgain,
    GoBack,
}

const STEPS: [Step; 5] =
    [Step::Stream, Step::LargeTransaction, Step::Retry, Step::CopyAgain, Step::GoBack];

impl Step {
    async fn run(self, database: &Database, egret: &Egret) {
        match self {
            Self::Stream => until(egret, "/_cdc/main", streams).await,
            Self::LargeTransaction => {
                database.execute("UPDATE birds SET legs = legs + 1").await;
                let lsn = database.flush_lsn().await;
                let path = format!("/birds/_count?wait_for_lsn={lsn}&wait_for_timeout=30s");
                until(egret, &path, |_| true).await;
            }
            Self::Retry => {
                order(egret, "/_cdc/main/dead/_retry").await;
            }
            Self::CopyAgain => {
                shorten(database).await;
                await_letters(database, egret).await;
                order(egret, "/_cdc/main/_copy?table=public.birds").await;
                until(egret, "/_cdc/main", |status| {
                    streams(status) && status["tables"][0]["kept_until_in_millis"].is_u64()
                })
                .await;
            }
            Self::GoBack => {
                order(egret, "/birds/_rebuild?rollback=true").await;
                until(egret, "/_cdc/main", streams).await;
            }
        }
    }
}

/// Gives an order, once it can be taken, unless nobody answers.
async fn order(egret: &Egret, path: &str) {
    poll::until(path, async || {
        match egret.try_request(Method::POST, path, &Value::Null).await {
            // Something else is being done.
            Some(answer) if answer.status == 409 => None,
            Some(answer) => {
                answer.ok();
                Some(())
            }
            None => Some(()),
        }
    })
    .await;
}

/// Waits until an answer is as wanted, or nobody answers.
async fn until(egret: &Egret, path: &str, wanted: impl Fn(&Value) -> bool) {
    poll::until(path, async || match egret.try_request(Method::GET, path, &Value::Null).await {
        Some(answer) => (answer.status == 200 && wanted(&answer.body)).then_some(()),
        None => Some(()),
    })
    .await;
}

fn streams(status: &Value) -> bool {
    status["state"] == "streaming" && status["tables"][0]["state"] == "streaming"
}

/// Gives the program work until it is gone, or there is no more.
async fn work(database: &Database, egret: &mut Egret) {
    for step in STEPS {
        step.run(database, egret).await;
        if !egret.is_running() {
            return;
        }
    }
}

/// Starts the program with a plan, gives it work, and waits until the plan has killed it.
async fn kill_at(plan: &str, database: &Database, egret: &mut Egret) {
    egret.options_mut().environment = vec![(failpoint::VARIABLE.to_owned(), plan.to_owned())];
    // It may be killed before it listens.
    let started = block_in_place(|| egret.try_resume());
    if started.is_ok() {
        work(database, egret).await;
    }
    let status = started.err().unwrap_or_else(|| block_in_place(|| egret.wait_for_end()));
    assert_eq!(status.signal(), Some(9), "{plan}: {status}");
    let (point, _) = plan.split_once('=').unwrap();
    assert!(egret.log().contains(&format!("killed at [{point}]")), "{plan}");
}

/// Waits until those rows are listed that make no document, and no others, or until nobody answers. What
/// a transaction's answer says is listed a moment after it is searchable; a row that fits again, and
/// that came without what is stored apart from it, is listed until it has been read.
async fn await_letters(database: &Database, egret: &Egret) {
    let rows = format!("SELECT id::text FROM birds WHERE length(name) > {MAX_DOCUMENT_BYTES}");
    poll::until("the rows that make no document are listed, and no others", async || {
        let lsn = database.flush_lsn().await;
        let rows = database.client().query(&rows, &[]).await.unwrap();
        let expected: BTreeSet<String> = rows.iter().map(|row| row.get(0)).collect();
        let path = format!("/birds/_count?wait_for_lsn={lsn}&wait_for_timeout=30s");
        until(egret, &path, |_| true).await;
        let path = "/_cdc/main/dead?size=1000";
        let Some(answer) = egret.try_request(Method::GET, path, &Value::Null).await else {
            return Some(());
        };
        let dead = answer.ok();
        let ids = dead["dead_letters"].as_array().unwrap().iter();
        let ids: BTreeSet<_> = ids.map(|it| it["id"].as_str().unwrap().to_owned()).collect();
        (ids == expected).then_some(())
    })
    .await;
}

/// The index holds the rows that make documents, and the others are listed.
async fn compare(plans: &[&str], database: &Database, egret: &Egret) {
    until(egret, "/_cdc/main", streams).await;
    await_letters(database, egret).await;
    let rows = format!(
        "SELECT id::text, to_json(birds)::text FROM birds WHERE length(name) <= {MAX_DOCUMENT_BYTES}"
    );
    let rows = database.client().query(&rows, &[]).await.unwrap();
    let row = |row: &Row| (row.get(0), serde_json::from_str(row.get(1)).unwrap());
    let documents: BTreeMap<String, Value> = rows.iter().map(row).collect();
    let (mut found, mut after) = (BTreeMap::new(), Value::Null);
    loop {
        let mut body = json!({"size": 1000, "sort": [{"id": "asc"}]});
        if !after.is_null() {
            body["search_after"] = after;
        }
        let mut answer = egret.post("/birds/_search", &body).await.ok();
        let hits = std::mem::take(answer["hits"]["hits"].as_array_mut().unwrap());
        let Some(last) = hits.last() else { break };
        after = last["sort"].clone();
        for hit in hits {
            let known =
                found.insert(hit["_id"].as_str().unwrap().to_owned(), hit["_source"].clone());
            assert_eq!(known, None, "{plans:?}");
        }
    }
    for (id, document) in &documents {
        let found = found.remove(id);
        assert!(found.as_ref() == Some(document), "{plans:?}: {id} is {found:?}, not {document}");
    }
    assert_eq!(found, BTreeMap::new(), "{plans:?}");
}

async fn run(number: u64) {
    let plans = KILLS[usize::try_from(number).unwrap()];
    let database = birds().await;
    let load = Load::start(&database, number).await;
    let mut egret = Egret::prepared(following(&database));
    for plan in plans {
        kill_at(plan, &database, &mut egret).await;
    }
    egret.options_mut().environment.clear();
    block_in_place(|| egret.resume());
    until(&egret, "/_cdc/main", streams).await;
    load.stop().await;
    compare(plans, &database, &egret).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_index_equals_the_table_wherever_it_was_killed() {
    poll::each_seed(0..KILLS.len() as u64, AT_ONCE, run).await;
}

/// What the server was never told must do no harm when it sends all of it again.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_was_never_confirmed_comes_twice_and_counts_once() {
    let database = birds().await;
    let mut egret = Egret::prepared(following(&database));
    block_in_place(|| egret.resume());
    until(&egret, "/_cdc/main", streams).await;
    let confirmed = async || {
        let query =
            "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE database = $1";
        let rows = database.client().query(query, &[&database.name()]).await.unwrap();
        rows.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>()
    };
    block_in_place(|| egret.terminate());
    let held = "letters-durable=hold:600000".to_owned();
    egret.options_mut().environment = vec![(failpoint::VARIABLE.to_owned(), held)];
    block_in_place(|| egret.resume());
    until(&egret, "/_cdc/main", streams).await;
    let status = egret.get("/_cdc/main").await.ok();
    let before = vec![status["lsn"]["confirmed"].as_str().unwrap().to_owned()];
    poll::until("the server is told", async || (confirmed().await == before).then_some(())).await;
    let load = Load::start(&database, 7).await;
    for step in [Step::LargeTransaction, Step::Retry, Step::LargeTransaction] {
        step.run(&database, &egret).await;
    }
    load.stop().await;
    let lsn = database.flush_lsn().await;
    let path = format!("/birds/_count?wait_for_lsn={lsn}&wait_for_timeout=30s");
    until(&egret, &path, |_| true).await;
    egret.post("/birds/_flush", &Value::Null).await.ok();
    assert_eq!(confirmed().await, before);
    block_in_place(|| egret.kill());
    egret.options_mut().environment.clear();
    block_in_place(|| egret.resume());
    compare(&["hold"], &database, &egret).await;
    poll::until("the server is told", async || (confirmed().await != before).then_some(())).await;
    let status = egret.get("/_cdc/main").await.ok();
    assert_eq!(status["copies"], 0, "{status}");
}

/// Names of places in the sources of a folder.
fn places(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            places(&path, found);
        } else if path.extension().is_some_and(|it| it == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let calls = text.split("failpoint::reach(\"").skip(1);
            found.extend(calls.filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())));
        }
    }
}

#[test]
fn every_place_that_has_a_name_is_tried() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut known = BTreeSet::new();
    for folder in ["cache", "cdc/src", "engine/src", "server/src"] {
        places(&workspace.join(folder), &mut known);
    }
    let tried =
        KILLS.iter().copied().flatten().map(|plan| plan.split_once('=').unwrap().0.to_owned());
    assert_eq!(tried.collect::<BTreeSet<_>>(), known);
}
