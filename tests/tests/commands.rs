//! `egret pipeline`, as a user runs it against a server.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use egret_tests::command::{Ran, run};
use egret_tests::egret::{Egret, EgretOptions};
use egret_tests::poll;
use egret_tests::postgres::Database;
use serde_json::Value;
use tokio::task::block_in_place;

const BIRDS: &str = "
    CREATE TABLE birds (id int PRIMARY KEY, name text);
    INSERT INTO birds SELECT n, 'egret ' || n FROM generate_series(1, 30) AS n;
    CREATE TABLE eggs (size int)";

fn pipeline(egret: &Egret, arguments: &[&str]) -> Ran {
    let address = egret.url("");
    let server = ["--server", &address];
    let all: Vec<&str> = ["pipeline"].iter().chain(arguments).chain(&server).copied().collect();
    block_in_place(|| run(&all))
}

fn succeeds(egret: &Egret, arguments: &[&str]) -> String {
    let ran = pipeline(egret, arguments);
    assert!(ran.succeeded, "{arguments:?}: {ran:?}");
    ran.printed
}

fn fails(egret: &Egret, arguments: &[&str], reason: &str) {
    let ran = pipeline(egret, arguments);
    assert!(!ran.succeeded && ran.said.contains(reason), "{arguments:?}: {ran:?}");
}

/// Waits until what a command prints has this in it.
async fn shows(egret: &Egret, arguments: &[&str], expected: &str) -> String {
    let what = format!("{arguments:?} shows [{expected}]");
    poll::until(&what, async || {
        Some(succeeds(egret, arguments)).filter(|printed| printed.contains(expected))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_is_declared_told_what_to_do_and_dropped() {
    let database = Database::create().await;
    database.execute(BIRDS).await;
    let egret = block_in_place(|| Egret::start(EgretOptions::default()));
    assert_eq!(succeeds(&egret, &["list"]).lines().count(), 1);
    let file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    let slot = format!("slot = \"egret_{}\"\ntables = [\"*\"]\n", database.name());
    std::fs::write(file.path(), slot).unwrap();
    let file = file.path().to_str().unwrap();
    let url = database.url();
    let create = ["create", "shop", "--file", file, "--postgres", &url];
    assert!(succeeds(&egret, &create).contains("[shop] is declared"));
    let printed = shows(&egret, &["show", "shop"], "public.birds  birds  streaming  30").await;
    assert!(printed.contains("public.eggs") && printed.contains("primary key"), "{printed}");
    assert!(printed.contains("********") && !printed.contains("only"), "{printed}");
    let listed = succeeds(&egret, &["list"]);
    assert!(listed.contains("shop      streaming  2"), "{listed}");
    let listed: Value = serde_json::from_str(&succeeds(&egret, &["list", "--json"])).unwrap();
    assert_eq!(listed["pipelines"][0]["name"], "shop");

    assert!(succeeds(&egret, &["pause", "shop"]).contains("stands still"));
    shows(&egret, &["show", "shop"], "paused").await;
    fails(&egret, &["copy", "shop", "public.birds"], "paused");
    assert!(succeeds(&egret, &["resume", "shop"]).contains("goes on"));
    shows(&egret, &["list"], "streaming").await;
    assert!(succeeds(&egret, &["copy", "shop", "public.birds"]).contains("[public.birds] again"));
    poll::until("another copy", async || {
        (egret.get("/_cdc/shop").await.body["copies"] == 1).then_some(())
    })
    .await;
    assert!(succeeds(&egret, &["restart", "shop"]).contains("begins anew"));
    shows(&egret, &["list"], "streaming").await;

    fails(&egret, &["copy", "shop", "public.no"], "[public.no]");
    fails(&egret, &["show", "none"], "none");
    fails(&egret, &["create", "Bad", "--postgres", &url], "name [Bad]");
    fails(&egret, &["create", "other", "--file", "/nowhere.toml"], "/nowhere.toml");
    assert!(succeeds(&egret, &["delete", "shop", "--delete-indexes"]).contains("is gone"));
    assert_eq!(egret.get("/birds").await.status, 404);
    let slots = "SELECT (SELECT count(*) FROM pg_publication)";
    let left: i64 = database.client().query_one(slots, &[]).await.unwrap().get(0);
    assert_eq!(left, 0);
    fails(&egret, &["delete", "shop"], "shop");
}
