//! Other histories than the one that was followed: standbys that were promoted, backups that were
//! restored, logs that were removed; and standbys that commits wait for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use egret_cdc::PipelineState;
use egret_cdc::status::TableState;
use egret_tests::poll;
use egret_tests::postgres::{Cluster, ClusterOptions, Database};
use tokio::task::block_in_place;
use tokio_postgres::Client;

use crate::following::Following;
use crate::slots::drop_slot;

const BIRDS: &str = "SELECT id::text, to_json(birds)::text FROM birds";

const TABLE: &str = "CREATE TABLE birds (id int PRIMARY KEY, name text);
    INSERT INTO birds SELECT n, 'bird ' || n FROM generate_series(1, 1000) AS n";

/// A database in a cluster of its own.
async fn own_cluster(settings: &[&str]) -> (Arc<Cluster>, Database) {
    let settings = settings.iter().map(|&setting| setting.to_owned()).collect();
    let options = ClusterOptions { settings, ..ClusterOptions::default() };
    let cluster = Arc::new(block_in_place(|| Cluster::start(options)));
    let database = Database::create_on(&cluster).await;
    (cluster, database)
}

/// Follows from another server, and expects to be refused for this reason.
async fn refuses(following: &mut Following, url: String, expected: &str) {
    following.config.url = url;
    following.resume();
    following.reaches(PipelineState::Refused).await;
    let reason = following.pipeline().status().reason.unwrap();
    assert!(reason.contains(expected), "{reason}");
    // What was indexed is still served.
    assert_eq!(following.count("birds"), 1000);
    following.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_standby_is_refused() {
    let (cluster, mut database) = own_cluster(&[]).await;
    database.execute(TABLE).await;
    let standby = block_in_place(|| cluster.start_standby("standby", ClusterOptions::default()));
    database.reconnect().await;
    let mut following = Following::follow(database, |_| {});
    following.streams().await;
    following.execute("UPDATE birds SET name = 'seen' WHERE id < 10", &["birds"]).await;
    let target = following.database.flush_lsn().await;
    following.stop().await;
    let replica = standby.connect(following.database.name()).await;
    poll::until("the standby has it all", async || {
        let query = format!("SELECT pg_last_wal_replay_lsn() >= '{target}'::pg_lsn");
        replica.query_one(&query, &[]).await.unwrap().get::<_, bool>(0).then_some(())
    })
    .await;
    replica.batch_execute("SELECT pg_promote()").await.unwrap();
    replica.batch_execute("UPDATE birds SET name = 'another history'").await.unwrap();
    let url = standby.url(following.database.name());
    refuses(&mut following, url, "timeline").await;
    // The one that was followed goes on.
    following.config.url = following.database.url();
    following.resume();
    following.streams().await;
    following.equals("birds", BIRDS).await;
}

/// Follows the older of two states of a server, after the newer one.
async fn is_refused_after_a_restore(acknowledge_interval_ms: u64) {
    let (cluster, database) = own_cluster(&[]).await;
    database.execute(TABLE).await;
    let mut following = Following::follow(database, |config| {
        config.acknowledge_interval_ms = acknowledge_interval_ms;
    });
    following.streams().await;
    following.stop().await;
    let backup = block_in_place(|| {
        cluster.stop(egret_tests::postgres::Stop::Fast);
        let backup = cluster.start_copy(ClusterOptions::default());
        cluster.resume();
        backup
    });
    following.database.reconnect().await;
    following.resume();
    following.streams().await;
    let more = "UPDATE birds SET name = 'after the backup'; SELECT pg_switch_wal()";
    following.database.execute(more).await;
    following.execute("UPDATE birds SET name = 'later'", &["birds"]).await;
    following.stop().await;
    let url = backup.url(following.database.name());
    refuses(&mut following, url, "restored backup").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_backup_is_refused() {
    is_refused_after_a_restore(10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_backup_is_refused_where_only_an_index_is_past_it() {
    is_refused_after_a_restore(600_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn log_that_the_database_removed_has_the_tables_copied_again() {
    let (_cluster, database) =
        own_cluster(&["max_slot_wal_keep_size=16MB", "max_wal_size=64MB"]).await;
    database.execute(TABLE).await;
    let mut following = Following::follow(database, |_| {});
    following.streams().await;
    following.stop().await;
    let bulk =
        "CREATE TABLE bulk AS SELECT n, repeat('x', 200) FROM generate_series(1, 300000) AS n;
         DELETE FROM birds WHERE id < 500";
    following.database.execute(bulk).await;
    following.database.execute("SELECT pg_switch_wal()").await;
    following.database.execute("CHECKPOINT").await;
    let query = "SELECT wal_status FROM pg_replication_slots WHERE slot_name = $1";
    let name = following.config.slot_name();
    poll::until("the log is removed", async || {
        let row = following.database.client().query_one(query, &[&name]).await.unwrap();
        following.database.execute("CHECKPOINT").await;
        (row.get::<_, Option<String>>(0).as_deref() == Some("lost")).then_some(())
    })
    .await;
    following.resume();
    following.copies_again(0).await;
    following.equals("birds", BIRDS).await;
    let error = following.pipeline().status().last_error.unwrap_or_default();
    assert!(error.contains("removed log"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_is_lost_while_tables_are_copied() {
    let database = Database::create().await;
    database
        .execute(
            "CREATE TABLE birds (id int PRIMARY KEY, name text);
             INSERT INTO birds SELECT n, repeat('bird ', 20) || n FROM generate_series(1, 60000) AS n",
        )
        .await;
    let following = Following::follow(database, |config| {
        (config.copy_workers, config.copy_range_blocks) = (1, 8);
        config.copy_batch_bytes = 4 << 10;
    });
    following
        .comes_to("rows are copied", |status| {
            status.tables.iter().any(|it| it.state == TableState::Copying && it.rows_copied > 0)
        })
        .await;
    drop_slot(&following).await;
    following.database.execute("DELETE FROM birds WHERE id % 7 = 1").await;
    following.copies_again(1).await;
    following.equals("birds", BIRDS).await;
}

/// Deletes rows for good, inserts rows that live for one transaction, and deletes and inserts at once; how
/// many times.
async fn write_until(client: Client, writer: u64, ended: Arc<AtomicBool>) -> u64 {
    let mut turn = 0;
    while !ended.load(Ordering::Relaxed) {
        turn += 1;
        let id = (turn * 7919 + writer * 101) % 20000 + 1;
        let fresh = 1_000_000 + 10 * turn + writer;
        let replaced = format!(
            "BEGIN; DELETE FROM birds WHERE id = {id};
             INSERT INTO birds VALUES ({id}, 'x {turn}')
                 ON CONFLICT (id) DO UPDATE SET name = 'y {turn}';
             UPDATE birds SET name = 'z' WHERE id = {id} + 1; COMMIT"
        );
        let transactions = match turn % 3 {
            0 => vec![replaced],
            1 => vec![format!("DELETE FROM birds WHERE id = {id}")],
            _ => vec![
                format!("INSERT INTO birds VALUES ({fresh}, 'for a moment')"),
                format!("DELETE FROM birds WHERE id = {fresh}"),
            ],
        };
        for transaction in transactions {
            // A deadlock with another writer.
            if client.batch_execute(&transaction).await.is_err() {
                client.batch_execute("ROLLBACK").await.unwrap();
            }
        }
    }
    turn
}

/// A commit that waits for a standby is in the log and streamed long before any snapshot shows it.
#[tokio::test(flavor = "multi_thread")]
async fn commits_wait_for_a_standby_while_tables_are_copied() {
    let (cluster, mut database) = own_cluster(&[]).await;
    database
        .execute(
            "CREATE TABLE birds (id int PRIMARY KEY, name text);
             INSERT INTO birds SELECT n, repeat('bird ', 20) || n FROM generate_series(1, 20000) AS n",
        )
        .await;
    let standby = block_in_place(|| cluster.start_standby("waited_for", ClusterOptions::default()));
    database.reconnect().await;
    for setting in ["synchronous_standby_names = waited_for", "synchronous_commit = remote_apply"] {
        database.execute(&format!("ALTER SYSTEM SET {setting}")).await;
    }
    database.execute("SELECT pg_reload_conf()").await;
    let ended = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for writer in 0..3 {
        let (client, ended) = (database.connect().await, Arc::clone(&ended));
        writers.push(tokio::spawn(write_until(client, writer, ended)));
    }
    // The standby now and then applies nothing.
    let replica = standby.connect(database.name()).await;
    let (pausing, pauses) = (Arc::clone(&ended), Duration::from_millis(100));
    let pauser = tokio::spawn(async move {
        while !pausing.load(Ordering::Relaxed) {
            replica.batch_execute("SELECT pg_wal_replay_pause()").await.unwrap();
            tokio::time::sleep(pauses).await;
            replica.batch_execute("SELECT pg_wal_replay_resume()").await.unwrap();
            tokio::time::sleep(pauses / 4).await;
        }
    });
    let following = Following::follow(database, |config| {
        (config.copy_range_blocks, config.copy_batch_bytes) = (16, 16 << 10);
    });
    following.follows("public.birds").await;
    following
        .database
        .execute("CREATE TABLE fish AS SELECT * FROM birds; ALTER TABLE fish ADD PRIMARY KEY (id)")
        .await;
    following.follows("public.fish").await;
    ended.store(true, Ordering::Relaxed);
    pauser.await.unwrap();
    let mut turns = 0;
    for writer in writers {
        turns += writer.await.unwrap();
    }
    assert!(turns > 9, "written {turns} times");
    following.equals("birds", BIRDS).await;
    following.equals("fish", "SELECT id::text, to_json(fish)::text FROM fish").await;
}
