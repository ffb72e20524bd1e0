//! Rows that `COPY … FROM` brings: many of one commit, and over a crash.

use egret_tests::egret::{Egret, EgretOptions};
use egret_tests::poll;
use egret_tests::postgres::Database;
use futures_util::SinkExt;
use serde_json::json;

/// Loads rows of these ids by `COPY … FROM`, in one transaction with what comes besides.
async fn load(database: &Database, ids: std::ops::Range<u32>, besides: &str) {
    let client = database.connect().await;
    client.batch_execute("BEGIN").await.unwrap();
    let sink = client.copy_in("COPY birds FROM STDIN").await.unwrap();
    futures_util::pin_mut!(sink);
    for id in ids {
        let line = format!("{id}\tbird {id}\n");
        sink.send(bytes::Bytes::from(line)).await.unwrap();
    }
    sink.finish().await.unwrap();
    client.batch_execute(&format!("{besides}; COMMIT")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_one_copy_from_are_whole_after_a_crash() {
    let database = Database::create().await;
    database.execute("CREATE TABLE birds (id int PRIMARY KEY, name text)").await;
    let options = EgretOptions::following(database.url(), "birds");
    let mut egret = Egret::start(options.with("acknowledge_interval_ms", "600000"));
    poll::until("it is followed", async || (egret.count("birds").await == Some(0)).then_some(()))
        .await;
    load(&database, 0..20_000, "UPDATE birds SET name = 'first' WHERE id % 2 = 0").await;
    let shows = async |egret: &Egret, count: u64| {
        poll::until(&format!("{count} birds"), async || {
            let shown = egret.count("birds").await;
            // Whole transactions only, also while it comes again.
            assert!(
                [None, Some(0), Some(20_000), Some(39_999), Some(40_000)].contains(&shown),
                "{shown:?}"
            );
            (shown == Some(count)).then_some(())
        })
        .await;
    };
    shows(&egret, 20_000).await;
    // Nothing of it is acknowledged: all of it comes once more, and what the index lost with it.
    egret.kill();
    load(&database, 20_000..40_000, "DELETE FROM birds WHERE id = 7").await;
    database.execute("INSERT INTO birds VALUES (7, 'again')").await;
    egret.resume();
    shows(&egret, 40_000).await;
    let named = async |name: &str| {
        let query = json!({"query": {"match_phrase": {"name": name}}});
        egret.post("/birds/_count", &query).await.ok()["count"].as_u64()
    };
    assert_eq!(named("first").await, Some(10_000));
    assert_eq!(named("again").await, Some(1));
    assert_eq!(named("bird 7").await, Some(0));
    assert_eq!(named("bird 39999").await, Some(1));
}
