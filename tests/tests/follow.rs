//! Following without any failure: the copy while writes go on, every kind of change, whole
//! transactions at once, and an index that equals its table. An index goes with its table, and not before.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use egret_tests::egret::{Egret, EgretOptions};
use egret_tests::ledger::{self, Load, Prober, Size, big_transaction, compare};
use egret_tests::poll;
use egret_tests::postgres::Database;
use tokio::task::block_in_place;

const SIZE: Size = Size { accounts: 5_000, journal: 200 };

#[tokio::test(flavor = "multi_thread")]
async fn the_index_equals_the_tables_under_load() {
    let database = Database::create().await;
    ledger::create(&database, SIZE).await;
    let load = Load::start(&database, SIZE.accounts, 7, 2).await;
    let egret = block_in_place(|| Egret::start(ledger::following(&database)));
    ledger::wait_until_streaming(&database, &egret).await;
    let prober = Prober::start(SIZE);
    prober.watch(&egret);
    for _ in 0..3 {
        big_transaction(database.client(), 4_000).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let counts = load.stop().await;
    let rows = compare(&database, &egret).await;
    let probes = prober.stop().await;
    assert!(probes > 0 && rows > 5_000 && counts.committed > 100, "{probes} {rows} {counts}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_is_deleted_once_its_table_is_gone() {
    let database = Database::create().await;
    let tables = "CREATE TABLE birds (id int PRIMARY KEY); CREATE TABLE fish (id int PRIMARY KEY)";
    database.execute(tables).await;
    let egret = block_in_place(|| Egret::start(EgretOptions::following(database.url(), "*")));
    poll::until("it is followed", async || egret.count("birds").await).await;
    assert_eq!(egret.delete("/birds").await.status, 403, "a followed index was deleted");
    database.execute("DROP TABLE birds").await;
    poll::until("it goes", async || (egret.delete("/birds").await.status == 200).then_some(()))
        .await;
    assert_eq!(egret.get("/birds").await.status, 404);
    database.execute("CREATE TABLE birds (id int PRIMARY KEY); INSERT INTO birds VALUES (1)").await;
    poll::until("it is back", async || (egret.count("birds").await == Some(1)).then_some(())).await;
}
