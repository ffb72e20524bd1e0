//! `egret pipeline`, as a user runs it against a server.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use egret_tests::command::{Ran, run};
use egret_tests::egret::{Egret, EgretOptions};
use egret_tests::poll;
use egret_tests::postgres::{Cluster, ClusterOptions, Database};
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

/// Copies that a pipeline has begun.
async fn copies(egret: &Egret, pipeline: &str) -> u64 {
    egret.get(&format!("/_cdc/{pipeline}")).await.body["copies"].as_u64().unwrap()
}

async fn copies_again(egret: &Egret, pipeline: &str, before: u64) {
    let more = async || (copies(egret, pipeline).await > before).then_some(());
    poll::until("another copy", more).await;
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
    let before = copies(&egret, "shop").await;
    assert!(succeeds(&egret, &["copy", "shop", "public.birds"]).contains("[public.birds] again"));
    copies_again(&egret, "shop", before).await;
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

/// Statements that were printed, with a password that the tests' URLs have.
fn statements(printed: &str) -> String {
    let (_, rest) = printed.split_once("in database [").unwrap();
    let (_, rest) = rest.split_once("\n\n").unwrap();
    let (statements, _) = rest.split_once("\n\n").unwrap();
    statements.replace("choose a password", "only for tests")
}

/// What is written and printed is enough: a role with nothing else follows, copies and verifies.
#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_and_a_role_are_made_from_a_database() {
    let database = Database::create().await;
    let tables =
        format!("{BIRDS}; CREATE TABLE \"Odd nests\" (\"Id\" int PRIMARY KEY, place text)");
    database.execute(&tables).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("egret.toml");
    let file = file.to_str().unwrap();
    let (url, role) = (database.url(), format!("role_of_{}", database.name()));
    let init = |more: &[&str]| {
        let all = ["init", "--postgres", &url, "--role", &role, "--output", file];
        let all: Vec<&str> = all.iter().chain(more).copied().collect();
        block_in_place(|| run(&all))
    };
    let checked = init(&["--check"]);
    assert!(!checked.succeeded && checked.printed.contains("public.eggs cannot"), "{checked:?}");
    assert!(!std::path::Path::new(file).exists());
    let checked = init(&["--check", "--tables", "birds"]);
    assert!(checked.succeeded && checked.printed.contains("known by (id)"), "{checked:?}");
    assert!(!init(&["--check", "--tables", "fish"]).succeeded);
    let made = init(&[]);
    assert!(made.succeeded, "{made:?}");
    assert!(!init(&[]).succeeded, "a file is not written over");

    database.execute(&statements(&made.printed)).await;
    let slot = format!("[[pipelines]]\nslot = \"egret_{}\"", database.name());
    let text = std::fs::read_to_string(file).unwrap();
    let configuration = text.replace("data = \"egret-data\"\n", "").replace("[[pipelines]]", &slot);
    let password = ("PGPASSWORD".to_owned(), "only for tests".to_owned());
    let options =
        EgretOptions { configuration, environment: vec![password], ..EgretOptions::default() };
    let egret = block_in_place(|| Egret::start(options));
    let both = async || {
        let status = egret.get("/_cdc/main").await.body;
        let tables = status["tables"].as_array()?;
        let streams = tables.iter().all(|table| table["state"] == "streaming");
        (tables.len() == 2 && streams).then_some(())
    };
    poll::until("both tables are followed", both).await;
    database.execute("UPDATE birds SET name = 'new'; INSERT INTO \"Odd nests\" VALUES (1)").await;
    poll::until("the changes come", async || {
        let bird = egret.get("/birds/_doc/1").await.body;
        (bird["_source"]["name"] == "new").then_some(())
    })
    .await;
    let before = copies(&egret, "main").await;
    assert!(succeeds(&egret, &["copy", "main", "public.birds"]).contains("again"));
    copies_again(&egret, "main", before).await;
    poll::until("both tables are followed again", both).await;
    let address = egret.url("");
    let verify = ["verify", "--server", &address, "--rows-per-second", "0", "--repair"];
    let ran = block_in_place(|| run(&verify));
    assert!(ran.succeeded && ran.printed.contains("public.birds in [birds]: 30 rows"), "{ran:?}");
}

/// A table that somebody has locked, for whatever takes long, is listed with the others.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_is_looked_at_while_a_table_is_locked() {
    let database = Database::create().await;
    database.execute("CREATE TABLE birds (id int PRIMARY KEY)").await;
    database.execute("CREATE TABLE fish (id int PRIMARY KEY)").await;
    let other = database.connect().await;
    other.batch_execute("BEGIN; LOCK TABLE birds IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let url = database.url();
    let ran = block_in_place(|| run(&["init", "--check", "--postgres", &url]));
    assert!(ran.succeeded, "{ran:?}");
    for (table, size) in [("birds", "size unknown (it was locked)"), ("fish", "8.00 KiB")] {
        let line = ran.printed.lines().find(|line| line.contains(table)).unwrap();
        assert!(line.contains(&format!("{size}, known by (id)")), "{line}");
    }
    other.batch_execute("COMMIT").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_lacks_is_named() {
    let settings = ["wal_level=replica", "max_replication_slots=2"].map(str::to_owned).to_vec();
    let options = ClusterOptions { settings, ..ClusterOptions::default() };
    let cluster = Arc::new(block_in_place(|| Cluster::start(options)));
    let database = Database::create_on(&cluster).await;
    database.execute(BIRDS).await;
    let url = database.url();
    let ran = block_in_place(|| run(&["init", "--check", "--postgres", &url]));
    assert!(!ran.succeeded, "{ran:?}");
    for expected in [
        "wal_level is [replica], and must be logical",
        "ALTER SYSTEM SET wal_level = 'logical'",
        "max_replication_slots is [2]",
        "public.eggs cannot be followed: it has no primary key",
    ] {
        assert!(ran.printed.contains(expected), "{expected}: {}", ran.printed);
    }
    let ran =
        block_in_place(|| run(&["init", "--check", "--postgres", "postgres://u@127.0.0.1:1/d"]));
    assert!(!ran.succeeded && ran.said.contains("127.0.0.1:1"), "{ran:?}");
}
