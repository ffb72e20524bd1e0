//! One transaction far larger than what is gathered in memory, followed by the real program: seen
//! at once, whole after `kill -9` in its middle, and within a bound of memory.
//!
//! `LARGE_ROWS` sets its size; with `EGRET_BIN` it measures another build of the program.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::cell::Cell;
use std::path::Path;
use std::time::{Duration, Instant};

use egret_tests::egret::{Egret, EgretOptions};
use egret_tests::ledger::{status, streams};
use egret_tests::poll;
use egret_tests::postgres::Database;
use egret_tests::process::anonymous_bytes;
use serde_json::json;
use tokio::task::block_in_place;

/// Rows before the transaction.
const BEFORE: u64 = 100;

/// How far a large transaction may raise the program's anonymous memory.
const MEMORY_BYTES: u64 = 200 << 20;

/// How long one may take; a debug build on a loaded machine is slow.
const DEADLINE: Duration = Duration::from_secs(600);

fn rows() -> u64 {
    let text = std::env::var("LARGE_ROWS").unwrap_or_default();
    if text.is_empty() { 200_000 } else { text.parse().unwrap() }
}

async fn follow() -> (Database, Egret) {
    let database = Database::create().await;
    let tables = format!(
        "CREATE TABLE items (id int PRIMARY KEY, name text, body text);
         CREATE TABLE others (id int PRIMARY KEY);
         INSERT INTO items SELECT n, 'item ' || n, 'old' FROM generate_series(1, {BEFORE}) AS n"
    );
    database.execute(&tables).await;
    let options = EgretOptions::following(database.url(), "public.items,public.others")
        .with("acknowledge_interval_ms", "50")
        .with("reconnect_max_ms", "1000");
    let egret = block_in_place(|| Egret::start(options));
    poll::until("both tables are followed", async || {
        let streaming = streams(&status(&egret).await?);
        (streaming && egret.count("items").await? == BEFORE).then_some(())
    })
    .await;
    (database, egret)
}

/// Commits the transaction, and returns a position after it.
async fn commit(database: &Database) -> String {
    let to = BEFORE + rows();
    let transaction = format!(
        "BEGIN;
         INSERT INTO items SELECT n, 'item ' || n || ' of shelf ' || n % 1000,
             'a row of middling length, such as tables have, with the hash ' || md5(n::text)
             FROM generate_series({BEFORE} + 1, {to}) AS n;
         INSERT INTO others SELECT n FROM generate_series(1, 1000) AS n;
         UPDATE items SET body = 'new' WHERE id <= {BEFORE};
         COMMIT"
    );
    database.execute(&transaction).await;
    database.flush_lsn().await
}

/// How many items are seen: those before the transaction, or all.
async fn seen(egret: &Egret) -> Option<u64> {
    let count = egret.count("items").await?;
    let all = BEFORE + rows();
    assert!(count == BEFORE || count == all, "{count} of {all} rows are seen");
    Some(count)
}

async fn is_over(egret: &Egret) -> Option<()> {
    (seen(egret).await? > BEFORE).then_some(())
}

/// Whether a process holds a temporary file of a transaction open.
fn spools(pid: u32) -> bool {
    let Ok(open) = std::fs::read_dir(Path::new("/proc").join(pid.to_string()).join("fd")) else {
        return false;
    };
    let target = |entry: std::fs::DirEntry| std::fs::read_link(entry.path()).ok();
    let mut targets = open.filter_map(Result::ok).filter_map(target);
    targets.any(|path| path.to_string_lossy().contains(".spool"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_transaction_is_whole_after_kills() {
    let (database, mut egret) = follow().await;
    let committing = commit(&database).await;
    // In its beginning, and then later and later in it.
    for (kill, pause_ms) in [0, 400, 1600, 3200].into_iter().enumerate() {
        let inside = poll::until_deadline("a temporary file", DEADLINE, async || {
            let over = seen(&egret).await.is_some_and(|count| count > BEFORE);
            (over || spools(egret.pid())).then_some(!over)
        })
        .await;
        let begun = Instant::now();
        let pause = Duration::from_millis(pause_ms);
        poll::until_deadline("a pause", DEADLINE, async || {
            let over = seen(&egret).await.is_some_and(|count| count > BEFORE);
            (over || begun.elapsed() >= pause).then_some(())
        })
        .await;
        let over = seen(&egret).await.is_some_and(|count| count > BEFORE);
        let spooled = spools(egret.pid());
        block_in_place(|| egret.kill());
        poll::report(&format!(
            "kill {kill}: {pause_ms} ms after the first file; seen {over}, on disk {spooled}"
        ));
        assert!(kill > 0 || (inside && !over), "the first kill hits the inside");
        block_in_place(|| egret.resume());
    }
    poll::until_deadline("the transaction", DEADLINE, async || is_over(&egret).await).await;
    let path = format!("/others/_count?wait_for_lsn={committing}&wait_for_timeout=60s");
    assert_eq!(egret.get(&path).await.ok()["count"], 1000);
    let sum = json!({"size": 0, "aggs": {"ids": {"stats": {"field": "id"}}}});
    let stats = egret.search("items", &sum).await["aggregations"]["ids"].clone();
    let all = BEFORE + rows();
    let expected = all * (all + 1) / 2;
    assert_eq!(stats["sum"].as_f64().unwrap().to_string(), expected.to_string(), "{stats}");
    let new = json!({"query": {"term": {"body.keyword": "new"}}});
    assert_eq!(egret.search("items", &new).await["hits"]["total"]["value"], BEFORE);
    let left = std::fs::read_dir(egret.folder().join("pipelines/main")).unwrap();
    let names: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert!(!names.iter().any(|name| name.to_string_lossy().contains("spool")), "{names:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_transaction_needs_little_memory() {
    let (database, egret) = follow().await;
    let pid = egret.pid();
    let idle = anonymous_bytes(pid);
    let peak = Cell::new(idle);
    let look = || peak.set(peak.get().max(anonymous_bytes(pid)));
    let committed = commit(&database).await;
    let begun = Instant::now();
    poll::until_deadline("the transaction", DEADLINE, async || {
        look();
        is_over(&egret).await
    })
    .await;
    let visible = begun.elapsed();
    // What follows, merges and flushes, is part of it.
    let acknowledged = format!(
        "SELECT confirmed_flush_lsn >= '{committed}' FROM pg_replication_slots
         WHERE slot_name = 'egret_{}'",
        database.name()
    );
    poll::until_deadline("its acknowledgement", DEADLINE, async || {
        look();
        let row = database.client().query_one(&acknowledged, &[]).await.unwrap();
        row.get::<_, bool>(0).then_some(())
    })
    .await;
    let durable = begun.elapsed();
    let above = peak.get() - idle;
    poll::report(&format!(
        "{} rows in one transaction: seen {visible:.1?} after its commit, durable {durable:.1?}; \
         {} MiB of memory above the {} MiB before",
        rows(),
        above >> 20,
        idle >> 20
    ));
    assert!(above <= MEMORY_BYTES, "{above} bytes above idleness");
}
