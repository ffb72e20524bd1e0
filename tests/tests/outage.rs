//! A database that cannot be reached: Egret starts all the same, says so, keeps serving what it has,
//! and goes on by itself when the database is back.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use egret_tests::egret::{Egret, EgretOptions};
use egret_tests::ledger::status;
use egret_tests::names::Names;
use egret_tests::poll;
use egret_tests::postgres::{Cluster, ClusterOptions, Database, Stop};
use serde_json::Value;
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

/// The longest pause between two attempts, in milliseconds, and so many failures until it is reached.
const LONGEST_PAUSE_MS: u64 = 400;
const FAILURES_UNTIL_RARE: u64 = 9;

/// A database that is reached by a name, and another that is no part of its misfortune.
async fn by_name(names: &Names) -> (Database, Database, Egret) {
    let (lost, well) = (Database::create().await, Database::create().await);
    let birds = "CREATE TABLE birds (id int PRIMARY KEY); INSERT INTO birds VALUES (1), (2)";
    lost.execute(birds).await;
    well.execute("CREATE TABLE fish (id int PRIMARY KEY); INSERT INTO fish VALUES (1)").await;
    let pipeline = |name: &str, url: String, table: &str| {
        format!(
            "[[pipelines]]\nname = \"{name}\"\nurl = \"{url}\"\ntables = [\"{table}\"]\n\
             slot = \"egret_{name}_{}\"\nreconnect_max_ms = {LONGEST_PAUSE_MS}\n",
            std::process::id()
        )
    };
    let named = lost.url().replace("@127.0.0.1:", "@db.invalid:");
    let configuration = pipeline("lost", named, "birds") + &pipeline("well", well.url(), "fish");
    let options =
        EgretOptions { configuration, names: Some(names.clone()), ..EgretOptions::default() };
    let egret = block_in_place(|| Egret::start(options));
    (lost, well, egret)
}

/// What `GET /_cdc` says of a pipeline.
async fn pipeline(egret: &Egret, name: &str) -> Value {
    let body = egret.get("/_cdc").await.ok();
    let pipelines = body["pipelines"].as_array().unwrap();
    pipelines.iter().find(|pipeline| pipeline["name"] == name).unwrap().clone()
}

/// Waits until it is told that the host is not known.
async fn is_told(egret: &Egret) {
    poll::until("the failure is told", async || {
        let lost = pipeline(egret, "lost").await;
        let is_apart = matches!(lost["state"].as_str(), Some("connecting" | "retrying"));
        let error = lost["last_error"].as_str()?;
        (is_apart && error.contains("[db.invalid:") && error.contains("lookup")).then_some(())
    })
    .await;
    let ready = egret.get("/health/ready").await;
    assert_eq!(ready.status, 503, "{}", ready.text);
    assert!(ready.text.contains("lost") && !ready.text.contains("well"), "{}", ready.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_not_known() {
    let Some(names) = Names::nobody().unwrap() else {
        poll::report(
            "nobody may make a mount namespace here: hosts that are not known are not tested",
        );
        return;
    };
    let (lost, well, egret) = by_name(&names).await;
    poll::until("the other begins", async || {
        let is_followed = pipeline(&egret, "well").await["state"] == "streaming";
        (is_followed && egret.count("fish").await == Some(1)).then_some(())
    })
    .await;
    is_told(&egret).await;
    let failures = async || pipeline(&egret, "lost").await["connection_failures"].as_u64();
    let fails = async |times: u64| {
        poll::until("it fails", async || (failures().await? >= times).then_some(())).await;
    };
    fails(FAILURES_UNTIL_RARE).await;
    let (begun, before) = (Instant::now(), failures().await.unwrap());
    fails(before + 6).await;
    let least = Duration::from_millis(LONGEST_PAUSE_MS / 2) * 5;
    assert!(begun.elapsed() >= least, "6 more attempts in {:?}", begun.elapsed());

    // Of two addresses nobody listens at one, whichever comes first.
    for (rows, addresses) in [(2, ["127.0.0.2", "127.0.0.1"]), (3, ["127.0.0.1", "127.0.0.2"])] {
        names.set(&addresses.map(|address| format!("{address} db.invalid\n")).concat()).unwrap();
        wait_for_birds(&egret, rows).await;
        poll::until("it is told that all is well", async || {
            let is_ready = egret.get("/health/ready").await.status == 200;
            (is_ready && pipeline(&egret, "lost").await["state"] == "streaming").then_some(())
        })
        .await;
        names.set("").unwrap();
        let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                   WHERE application_name LIKE 'egret %' AND datname = current_database()";
        lost.execute(cut).await;
        is_told(&egret).await;
        lost.execute("INSERT INTO birds SELECT max(id) + 1 FROM birds").await;
        well.execute("INSERT INTO fish SELECT max(id) + 1 FROM fish").await;
        poll::until("the other goes on", async || {
            (egret.count("fish").await == Some(rows)).then_some(())
        })
        .await;
        assert_eq!(egret.count("birds").await, Some(rows), "what it has is served");
    }
    names.set("127.0.0.1 db.invalid\n").unwrap();
    wait_for_birds(&egret, 4).await;
    assert_eq!(pipeline(&egret, "lost").await["copies"], 1);
}
