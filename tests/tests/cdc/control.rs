//! Pipelines that are told what to do while they run: to stand still, go on, begin anew, copy a table
//! again, leave their database.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use egret_cdc::status::TableState;
use egret_cdc::{ErrorKind, PipelineState};
use egret_tests::poll;
use egret_tests::postgres::{Cluster, ClusterOptions, Database};

use tokio_postgres::Client;

use crate::following::Following;

const BIRDS: &str = "SELECT id::text, to_json(birds)::text FROM birds";

const TABLE: &str = "CREATE TABLE birds (id int PRIMARY KEY, name text);
    INSERT INTO birds SELECT n, 'bird ' || n FROM generate_series(1, 1000) AS n;
    CREATE TABLE fish (id int PRIMARY KEY, name text); INSERT INTO fish VALUES (1, 'one')";

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_pipeline_goes_on_where_it_stood() {
    let mut following = Following::start(TABLE).await;
    following.pipeline().pause().await.unwrap();
    assert_eq!(following.pipeline().status().state, PipelineState::Paused);
    following.database.execute("UPDATE birds SET name = 'paused' WHERE id < 100").await;
    let error = following.pipeline().copy("public.birds").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert_eq!(following.pipeline().restart().await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(following.document("birds", "7").unwrap()["name"], "bird 7");
    // It stays so over a restart of the program.
    following.stop().await;
    following.resume();
    following.reaches(PipelineState::Paused).await;
    assert_eq!(following.document("birds", "7").unwrap()["name"], "bird 7");
    following.pipeline().resume().await.unwrap();
    following.streams().await;
    following.shows(&["birds"]).await;
    following.equals("birds", BIRDS).await;
    assert_eq!(following.pipeline().status().copies, 0, "nothing was copied again");
}

/// Changes birds until told to end; how many times.
async fn change_until(writer: Client, ended: Arc<AtomicBool>) -> u64 {
    let mut turn = 0;
    while !ended.load(Ordering::Relaxed) {
        let statements = format!(
            "BEGIN; UPDATE birds SET name = 'turn {turn}' WHERE id % 50 = {turn} % 50;
             INSERT INTO birds VALUES ({turn} + 5000, 'new'); COMMIT"
        );
        writer.batch_execute(&statements).await.unwrap();
        turn += 1;
    }
    turn
}

#[tokio::test(flavor = "multi_thread")]
async fn pausing_under_load_loses_nothing() {
    let following = Following::start(TABLE).await;
    let (writer, ended) = (following.database.connect().await, Arc::new(AtomicBool::new(false)));
    let writing = tokio::spawn(change_until(writer, Arc::clone(&ended)));
    for _ in 0..5 {
        following.pipeline().pause().await.unwrap();
        following.pipeline().resume().await.unwrap();
        following.streams().await;
        following.pipeline().restart().await.unwrap();
        following.streams().await;
    }
    ended.store(true, Ordering::Relaxed);
    assert!(writing.await.unwrap() > 5);
    following.shows(&["birds"]).await;
    following.equals("birds", BIRDS).await;
    assert_eq!(following.pipeline().status().copies, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_does_not_fill_the_databases_disk() {
    // Of its own: the log is the whole cluster's.
    let cluster = tokio::task::spawn_blocking(|| Cluster::start(ClusterOptions::default()));
    let database = Database::create_on(&Arc::new(cluster.await.unwrap())).await;
    database.execute(TABLE).await;
    let following = Following::follow(database, |config| config.max_retained_wal_bytes = 4 << 20);
    following.streams().await;
    following.pipeline().pause().await.unwrap();
    let slot = format!(
        "SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{}'",
        following.config.slot_name()
    );
    let fill =
        "INSERT INTO birds SELECT n, repeat('x', 1000) FROM generate_series(10001, 18000) AS n";
    following.database.execute(fill).await;
    poll::until("the slot is dropped", async || {
        let row = following.database.client().query_one(&slot, &[]).await.unwrap();
        (row.get::<_, i64>(0) == 0).then_some(())
    })
    .await;
    following
        .comes_to("the reason is told", |status| {
            let told = |reason: &String| reason.contains("max_retained_wal_bytes");
            status.state == PipelineState::Paused && status.reason.as_ref().is_some_and(told)
        })
        .await;
    following.pipeline().resume().await.unwrap();
    following
        .comes_to("copied again", |status| {
            status.copies == 2 && status.state == PipelineState::Streaming
        })
        .await;
    following.shows(&["birds"]).await;
    following.equals("birds", BIRDS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_table_is_copied_again_on_request() {
    let following = Following::start(TABLE).await;
    let copy = async |table: &str| following.pipeline().copy(table).await;
    assert_eq!(copy("public.none").await.unwrap_err().kind(), ErrorKind::NotFound);
    let folder = following.index_folder("birds");
    let fish = following.index_folder("fish");
    copy("public.birds").await.unwrap();
    following.execute("UPDATE fish SET name = 'meanwhile'", &["fish"]).await;
    following.database.execute("DELETE FROM birds WHERE id % 3 = 0").await;
    following
        .comes_to("copied again", |status| {
            let streams = status.tables.iter().all(|table| table.state == TableState::Streaming);
            status.copies == 2 && streams
        })
        .await;
    following.shows(&["birds"]).await;
    following.equals("birds", BIRDS).await;
    assert_ne!(following.index_folder("birds"), folder);
    assert_eq!(following.index_folder("fish"), fish);
}

#[tokio::test(flavor = "multi_thread")]
async fn leaving_a_database_leaves_nothing_there() {
    let following = Following::start(TABLE).await;
    let left = async || {
        let query = format!(
            "SELECT (SELECT count(*) FROM pg_replication_slots
                      WHERE slot_name = '{slot}' OR starts_with(slot_name, '{slot}_'))
                  + (SELECT count(*) FROM pg_publication)",
            slot = following.config.slot_name()
        );
        following.database.client().query_one(&query, &[]).await.unwrap().get::<_, i64>(0)
    };
    // The copy's session may be about to end, and its slot with it.
    poll::until("the slot and the publication", async || (left().await == 2).then_some(())).await;
    following.pipeline().leave_database().await.unwrap();
    assert_eq!(left().await, 0);
    assert_eq!(following.pipeline().status().state, PipelineState::Stopped);
    assert_eq!(following.count("birds"), 1000);
}
