//! `/_cdc/{pipeline}/verify` and `egret verify`, as a user meets them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use egret_tests::command::{Ran, run};
use egret_tests::egret::{Egret, EgretOptions};
use egret_tests::poll;
use egret_tests::postgres::Database;
use serde_json::{Value, json};
use tokio::task::block_in_place;

const TABLES: &str = "
    CREATE TABLE birds (id int PRIMARY KEY, name text);
    INSERT INTO birds SELECT n, 'egret ' || n FROM generate_series(1, 300) AS n;
    CREATE TABLE nests (place text, number int, PRIMARY KEY (place, number));
    INSERT INTO nests SELECT 'reed', n FROM generate_series(1, 50) AS n";

/// A server that follows both tables, and looks for changes of the publication only at first.
async fn following() -> (Database, Egret) {
    let database = Database::create().await;
    database.execute(TABLES).await;
    let options = EgretOptions::following(database.url(), "birds,nests")
        .with("watch_interval_ms", "3600000")
        .with("verify.enabled", "false")
        .with("verify.rows_per_second", "0")
        .with("verify.max_differences", "3");
    let egret = block_in_place(|| Egret::start(options));
    poll::until("both tables are followed", async || {
        let status = egret.get("/_cdc/main").await.body;
        let tables = status["tables"].as_array()?;
        let streams = tables.iter().all(|table| table["state"] == "streaming");
        (tables.len() == 2 && streams).then_some(())
    })
    .await;
    (database, egret)
}

/// Changes that no stream brings.
async fn past_the_publication(database: &Database, statements: &str) {
    let publish = |what: &str| format!("ALTER PUBLICATION egret_main SET (publish = '{what}')");
    database.execute(&publish("truncate")).await;
    database.execute(statements).await;
    database.execute(&publish("insert, update, delete, truncate")).await;
}

fn verify(egret: &Egret, arguments: &[&str]) -> Ran {
    let address = egret.url("");
    let all: Vec<&str> =
        ["verify", "--server", &address].iter().chain(arguments).copied().collect();
    block_in_place(|| run(&all))
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http_and_from_the_command_line() {
    let (database, egret) = following().await;
    let report = egret.get("/_cdc/main/verify").await.ok();
    assert_eq!((&report["enabled"], &report["tables"]), (&json!(false), &json!([])));
    let ran = verify(&egret, &[]);
    assert!(ran.succeeded && ran.printed.contains("0 differences, 0 repaired"), "{ran:?}");
    assert!(ran.printed.contains("public.birds in [birds]: 300 rows and 300 documents"), "{ran:?}");

    let changes =
        "UPDATE birds SET name = 'unseen' WHERE id IN (5, 7); DELETE FROM birds WHERE id = 6;
        INSERT INTO birds VALUES (900, 'unseen'); DELETE FROM nests WHERE number = 8";
    past_the_publication(&database, changes).await;
    let path = "/_cdc/main/verify?wait_for_completion=true";
    let report = egret.post(path, &Value::Null).await.ok();
    let last = &report["last_round"];
    assert_eq!((&last["state"], &last["differences"]), (&json!("done"), &json!(5)), "{report}");
    assert_eq!((&report["differences_total"], &last["repaired"]), (&json!(5), &json!(0)));
    // The list is bounded.
    assert_eq!(report["differences"].as_array().unwrap().len(), 3);
    let nest = report["differences"].as_array().unwrap().last().unwrap();
    assert_eq!((&nest["table"], &nest["id"]), (&json!("public.nests"), &json!("reed,8")));
    assert_eq!((&nest["kind"], &nest["repaired"]), (&json!("left_over"), &json!(false)));
    let birds = &report["tables"][0];
    assert_eq!(birds["table"], "public.birds");
    assert!(birds["proven_ms"].is_u64() && birds["lsn"].is_string(), "{birds}");
    assert!(birds["ranges"][0]["lsn"].is_string(), "{birds}");

    let ran = verify(&egret, &["--pipeline", "main", "--table", "public.nests"]);
    assert!(
        !ran.succeeded && ran.printed.contains("public.nests [reed,8]: left over\n"),
        "{ran:?}"
    );
    assert!(ran.said.contains("[1] documents differ"), "{ran:?}");
    let ran = verify(&egret, &["--repair", "--json", "--rows-per-second", "0"]);
    let printed: Value = serde_json::from_str(&ran.printed).unwrap();
    let last = &printed["pipelines"][0]["last_round"];
    assert!(ran.succeeded, "{ran:?}");
    assert_eq!((&last["differences"], &last["repaired"]), (&json!(5), &json!(5)));
    assert_eq!(egret.get("/birds/_doc/5").await.ok()["_source"]["name"], "unseen");
    assert_eq!(egret.get("/birds/_doc/6").await.status, 404);
    assert_eq!(egret.get("/birds/_doc/900").await.ok()["_source"]["name"], "unseen");
    let file = tempfile::NamedTempFile::new().unwrap();
    let address = egret.url("");
    let listen = address.trim_start_matches("http://");
    std::fs::write(file.path(), format!("[http]\nlisten = \"{listen}\"")).unwrap();
    let config = file.path().to_str().unwrap();
    let ran = block_in_place(|| run(&["verify", "--config", config]));
    assert!(ran.succeeded && ran.printed.contains("0 differences"), "{ran:?}");
    // The stream goes on over what was repaired.
    database.execute("UPDATE birds SET name = 'streamed' WHERE id IN (5, 900)").await;
    let lsn = database.flush_lsn().await;
    for id in [5, 900] {
        let path = format!("/birds/_doc/{id}?wait_for_lsn={lsn}&wait_for_timeout=60s");
        assert_eq!(egret.get(&path).await.ok()["_source"]["name"], "streamed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_for_wrongly_is_refused() {
    let (_database, egret) = following().await;
    for (path, status, reason) in [
        ("/_cdc/none/verify", 404, "none"),
        ("/_cdc/main/verify?tabel=x", 400, "tabel"),
        ("/_cdc/main/verify?table=", 400, "[table] is empty"),
        ("/_cdc/main/verify?table=public.no", 404, "[public.no]"),
        ("/_cdc/main/verify?repair=maybe", 400, "maybe"),
        ("/_cdc/main/verify?rows_per_second=-1", 400, "rows_per_second"),
    ] {
        let answer = egret.post(path, &Value::Null).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.text);
        assert!(answer.text.contains(reason), "{path}: {}", answer.text);
    }
    egret.post("/_cdc/main/_pause", &Value::Null).await.ok();
    let answer = egret.post("/_cdc/main/verify", &Value::Null).await;
    assert!(answer.status == 409 && answer.text.contains("paused"), "{}", answer.text);
    let ran = verify(&egret, &[]);
    assert!(!ran.succeeded && ran.said.contains("paused"), "{ran:?}");
    let ran = verify(&egret, &["--pipeline", "other"]);
    assert!(!ran.succeeded && ran.said.contains("[other]"), "{ran:?}");
    let ran = block_in_place(|| run(&["verify", "--server", "127.0.0.1:1"]));
    assert!(!ran.succeeded && ran.said.contains("127.0.0.1:1"), "{ran:?}");
}
