//! A database that cannot be reached: Egret starts all the same, says so, keeps serving what it has,
//! and goes on by itself when the database is back.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use egret_tests::egret::{Egret, EgretOptions};
use egret_tests::ledger::status;
use egret_tests::poll;
use egret_tests::postgres::{Cluster, ClusterOptions, Database, Stop};
use tokio::task::block_in_place;

/// Waits until there are so many birds.
async fn wait_for_birds(egret: &Egret, number: u64) {
    let what = format!("{number} birds");
    poll::until(&what, async || (egret.count("birds").await == Some(number)).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn egret_outlives_its_database() {
    let cluster = Arc::new(block_in_place(|| Cluster::start(ClusterOptions::default())));
    let mut database = Database::create_on(&cluster).await;
    database
        .execute("CREATE TABLE birds (id int PRIMARY KEY); INSERT INTO birds VALUES (1), (2)")
        .await;
    let url = database.url();
    block_in_place(|| cluster.stop(Stop::Fast));

    // It starts without the database, and says what is missing.
    let options = EgretOptions::following(url, "birds").with("reconnect_max_ms", "500");
    let mut egret = block_in_place(|| Egret::start(options));
    assert_eq!(egret.get("/health/live").await.status, 200);
    let state = poll::until("the failure is told", async || {
        let status = status(&egret).await?;
        status["last_error"].is_string().then_some(status)
    })
    .await;
    assert!(matches!(state["state"].as_str(), Some("connecting" | "retrying")), "{state}");
    let ready = egret.get("/health/ready").await;
    assert_eq!((ready.status, &ready.body["ready"]), (503, &false.into()), "{}", ready.text);

    // It begins by itself.
    block_in_place(|| cluster.resume());
    wait_for_birds(&egret, 2).await;
    poll::until("ready", async || (egret.get("/health/ready").await.status == 200).then_some(()))
        .await;

    // It serves what it has while the database is away, also after a restart of its own.
    for how in [Stop::Fast, Stop::Immediate] {
        let before = egret.count("birds").await.unwrap();
        block_in_place(|| cluster.stop(how));
        poll::until("the loss is noticed", async || {
            (egret.get("/health/ready").await.status == 503).then_some(())
        })
        .await;
        assert_eq!(egret.count("birds").await, Some(before));
        assert!(block_in_place(|| egret.terminate()).success(), "{}", egret.log());
        block_in_place(|| egret.resume());
        assert_eq!(egret.count("birds").await, Some(before));
        block_in_place(|| cluster.resume());
        database.reconnect().await;
        database.execute("INSERT INTO birds SELECT max(id) + 1 FROM birds").await;
        wait_for_birds(&egret, before + 1).await;
    }
    let status = status(&egret).await.unwrap();
    assert_eq!(status["copies"], 0, "a restart copied again: {status}\n{}", egret.log());
}
