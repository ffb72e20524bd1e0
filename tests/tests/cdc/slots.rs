//! Connections that break, stops and starts, and slots that are lost.

use std::sync::Arc;
use std::time::{Duration, Instant};

use egret_cdc::status::TableState;
use egret_cdc::{PipelineState, PipelineStatus};
use egret_engine::Lsn;
use egret_tests::poll;
use egret_tests::postgres::{Cluster, ClusterOptions, Database};

use crate::following::Following;

const BIRDS: &str = "SELECT id::text, to_json(birds)::text FROM birds";

const TABLE: &str = "CREATE TABLE birds (id int PRIMARY KEY, name text);
    INSERT INTO birds SELECT n, 'bird ' || n FROM generate_series(1, 1000) AS n";

/// What the server says was confirmed, and whether the slot is held.
async fn slot(following: &Following) -> Option<(String, bool)> {
    let name = following.config.slot_name();
    let query = "SELECT confirmed_flush_lsn::text, active FROM pg_replication_slots
                 WHERE slot_name = $1";
    let row = following.database.client().query_opt(query, &[&name]).await.unwrap()?;
    Some((row.get(0), row.get(1)))
}

/// Ends the sessions that hold the slot, and drops it.
pub(crate) async fn drop_slot(following: &Following) {
    let name = following.config.slot_name();
    poll::until("the slot is dropped", async || {
        let end = format!(
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots
             WHERE slot_name = '{name}' AND active"
        );
        following.database.execute(&end).await;
        let drop = format!("SELECT pg_drop_replication_slot('{name}')");
        following.database.client().batch_execute(&drop).await.ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_goes_on_without_a_copy() {
    let mut following = Following::start(TABLE).await;
    for turn in 0..3 {
        following
            .execute(
                &format!("UPDATE birds SET name = 'turn {turn}' WHERE id % 3 = {turn}"),
                &["birds"],
            )
            .await;
        following.stop().await;
        let missed = format!(
            "DELETE FROM birds WHERE id = {turn} + 1; INSERT INTO birds VALUES (-{turn}, 'x')"
        );
        following.database.execute(&missed).await;
        following.resume();
        following.streams().await;
        following.equals("birds", BIRDS).await;
        let status = following.pipeline().status();
        // Rows missed while it was stopped count as streamed too, and nothing was copied.
        assert_eq!((status.copies, status.rows_streamed >= 2), (0, true), "{status:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_connections_are_made_again() {
    let following = Following::start(TABLE).await;
    let name = following.config.slot_name();
    for turn in 0..5 {
        let end = if turn % 2 == 0 {
            format!(
                "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots
                     WHERE slot_name = '{name}' AND active"
            )
        } else {
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE application_name = 'egret main' AND datname = current_database()"
                .to_owned()
        };
        following.database.execute(&end).await;
        following
            .execute(
                &format!("UPDATE birds SET name = 'turn {turn}' WHERE id % 5 = {turn}"),
                &["birds"],
            )
            .await;
        following.equals("birds", BIRDS).await;
        following.streams().await;
    }
    let status = following.pipeline().status();
    assert_eq!(status.copies, 1);
    assert!(status.connection_failures >= 5, "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_durable_is_acknowledged_also_when_idle() {
    let following = Following::start(TABLE).await;
    following.execute("DELETE FROM birds WHERE id < 10", &["birds"]).await;
    let catches_up = async |what: &str| {
        let target = following.database.flush_lsn().await;
        poll::until(what, async || {
            let (confirmed, _) = slot(&following).await?;
            let compare = format!("SELECT '{confirmed}'::pg_lsn >= '{target}'::pg_lsn");
            let row = following.database.client().query_one(&compare, &[]).await.unwrap();
            row.get::<_, bool>(0).then_some(())
        })
        .await;
    };
    catches_up("a change is acknowledged").await;
    // Another database is busy; the followed tables are not.
    let other = Database::create_on(following.database.cluster()).await;
    other.execute("CREATE TABLE busy AS SELECT n FROM generate_series(1, 100000) AS n").await;
    catches_up("an idle slot advances").await;
    let status = following.pipeline().status();
    assert_eq!(status.lsn.confirmed.is_some(), status.retained_wal_bytes.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_burst_is_acknowledged_before_the_interval_is_over() {
    const BURST: &str = "INSERT INTO birds SELECT n, repeat(md5(n::text), 4) FROM generate_series(2001, 32000) AS n";
    let interval = Duration::from_secs(50);
    // Every commit of the cluster is heard of.
    let cluster = tokio::task::spawn_blocking(|| Cluster::start(ClusterOptions::default()));
    let database = Database::create_on(&Arc::new(cluster.await.unwrap())).await;
    database.execute(TABLE).await;
    let following = Following::follow(database, |config| {
        config.acknowledge_interval_ms = interval.as_millis().try_into().unwrap();
    });
    following.streams().await;
    let begun = Instant::now();
    let confirmed =
        async || slot(&following).await.map(|(lsn, _)| lsn.parse::<Lsn>().unwrap()).unwrap();
    following.execute("DELETE FROM birds WHERE id < 10", &["birds"]).await;
    let before: Lsn = following.database.flush_lsn().await.parse().unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(confirmed().await < before, "what trickles in waits for the interval");
    following.execute(BURST, &["birds"]).await;
    poll::until("the burst is acknowledged", async || {
        (confirmed().await > Lsn(before.0 + (4 << 20))).then_some(())
    })
    .await;
    assert!(begun.elapsed() < interval / 2, "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_slot_is_noticed_and_the_tables_are_copied_again() {
    let mut following = Following::start(TABLE).await;
    // While it runs.
    drop_slot(&following).await;
    following.database.execute("DELETE FROM birds WHERE id < 100").await;
    poll::until("copied again", async || (following.pipeline().status().copies == 2).then_some(()))
        .await;
    following.streams().await;
    following.equals("birds", BIRDS).await;
    // While it is stopped; dropped and made anew, it looks healthy.
    following.stop().await;
    drop_slot(&following).await;
    following.database.execute("DELETE FROM birds WHERE id < 200").await;
    let name = following.config.slot_name();
    following
        .database
        .execute(&format!("SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')"))
        .await;
    following.resume();
    poll::until("copied again", async || (following.pipeline().status().copies == 1).then_some(()))
        .await;
    following.streams().await;
    following.equals("birds", BIRDS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retained_log_is_capped() {
    // The server's retained log moves on only now and then: a cluster of its own, and a cap well
    // above that.
    let cluster = tokio::task::spawn_blocking(|| Cluster::start(ClusterOptions::default()));
    let database = Database::create_on(&Arc::new(cluster.await.unwrap())).await;
    database.execute(TABLE).await;
    let mut following = Following::follow(database, |config| {
        config.max_retained_wal_bytes = 32 << 20;
    });
    following.streams().await;
    following.stop().await;
    // More than the cap while nobody reads.
    following
        .database
        .execute(
            "CREATE TABLE bulk AS SELECT n, repeat('x', 100) FROM generate_series(1, 500000) AS n;
             DELETE FROM birds WHERE id < 500",
        )
        .await;
    following.resume();
    poll::until("copied again", async || (following.pipeline().status().copies == 1).then_some(()))
        .await;
    following.streams().await;
    following.equals("birds", BIRDS).await;
    let status = following.pipeline().status();
    assert!(status.last_error.unwrap_or_default().contains("max_retained_wal_bytes"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_pipeline_keeps_the_cap() {
    let cluster = tokio::task::spawn_blocking(|| Cluster::start(ClusterOptions::default()));
    let database = Database::create_on(&Arc::new(cluster.await.unwrap())).await;
    database.execute("CREATE TABLE notes (id int PRIMARY KEY, note jsonb)").await;
    database.execute("INSERT INTO notes VALUES (0, '{\"a\": 1}')").await;
    let following = Following::follow(database, |config| {
        config.max_retained_wal_bytes = 32 << 20;
        config.max_dead_letters = 10;
    });
    following.streams().await;
    following
        .database
        .execute(
            "INSERT INTO notes SELECT n, '{\"a\": {\"b\": 1}}' FROM generate_series(1, 50) AS n",
        )
        .await;
    following.reaches(PipelineState::Refused).await;
    assert!(slot(&following).await.is_some());
    following
        .database
        .execute(
            "CREATE TABLE bulk AS SELECT n, repeat('x', 100) FROM generate_series(1, 500000) AS n",
        )
        .await;
    poll::until("the slot dropped", async || slot(&following).await.is_none().then_some(())).await;
    poll::until("the reason", async || {
        let reason = following.pipeline().status().reason.unwrap_or_default();
        (reason.contains("max_dead_letters") && reason.contains("max_retained_wal_bytes"))
            .then_some(())
    })
    .await;
    tokio::time::timeout(Duration::from_secs(10), following.pipeline().stop()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_cluster_is_refused() {
    let mut following = Following::start(TABLE).await;
    following.stop().await;
    let cluster = tokio::task::spawn_blocking(|| Cluster::start(ClusterOptions::default()));
    let other = Database::create_on(&Arc::new(cluster.await.unwrap())).await;
    other.execute(TABLE).await;
    following.config.url = other.url();
    following.resume();
    following.reaches(PipelineState::Refused).await;
    let reason = following.pipeline().status().reason.unwrap();
    assert!(reason.contains("system identifier"), "{reason}");
    // What was indexed is still served.
    assert_eq!(following.count("birds"), 1000);
    tokio::time::timeout(Duration::from_secs(10), following.pipeline().stop()).await.unwrap();
}

/// Whether the status shows how far the copy of fish is, and how long the rest of so many rows takes.
fn shows_its_end(status: &PipelineStatus, rows: u64) -> bool {
    let fish = status.tables.iter().find(|table| table.table == "public.fish");
    let Some((fish, rate)) = fish.and_then(|fish| Some((fish, fish.rows_per_second?))) else {
        return false;
    };
    let left = |seconds: u64| {
        let rows = fish.rows_estimated - fish.rows_copied;
        seconds.abs_diff(rows / rate) <= 1
    };
    fish.state == TableState::Copying
        && fish.rows_estimated == rows
        && (1..rows).contains(&fish.rows_copied)
        && rate > 0
        && fish.seconds_left.is_some_and(left)
}

/// Writes again and again until something has come: what is given up is tried again soon, so that it may be
/// seen only the next time.
async fn meanwhile(write: impl AsyncFn(), comes: impl Future<Output = ()>) {
    let writes = async {
        loop {
            write().await;
        }
    };
    tokio::select! {
        () = writes => {}
        () = comes => {}
    }
}

/// The first copy, too, ends rather than have the log of a busy database kept; how far it is and how long it
/// will take is shown meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_first_copy_does_not_fill_the_databases_disk() {
    // What others write would count.
    let cluster = tokio::task::spawn_blocking(|| Cluster::start(ClusterOptions::default()));
    let database = Database::create_on(&Arc::new(cluster.await.unwrap())).await;
    let tables = "CREATE TABLE fish (id int PRIMARY KEY, name text); CREATE TABLE other (id int);
        INSERT INTO fish SELECT n, repeat('fish ', 20) || n FROM generate_series(1, 20000) AS n;
        ANALYZE fish";
    database.execute(tables).await;
    let mut following = Following::follow(database, |config| {
        config.max_copy_wal_bytes = 4 << 20;
        config.copy_max_bytes_per_second = 100_000;
        config.copy_range_blocks = 8;
    });
    // 2.4 MB at 100 kB a second.
    following.comes_to("a slow copy with an end in sight", |it| shows_its_end(it, 20_000)).await;
    let given_up = following.comes_to("the copy is given up", |status| {
        let fish = status.tables.iter().find(|table| table.table == "public.fish");
        let reason = fish.and_then(|fish| fish.reason.as_deref());
        reason.is_some_and(|reason| reason.contains("max_copy_wal_bytes [4194304]"))
    });
    let write = "INSERT INTO other SELECT n FROM generate_series(1, 40000) AS n";
    meanwhile(async || following.database.execute(write).await, given_up).await;
    following.stop().await;
    following.config.copy_max_bytes_per_second = 0;
    following.resume();
    following.follows("public.fish").await;
    following.equals("fish", "SELECT id::text, to_json(fish)::text FROM fish").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_does_not_fill_the_databases_disk() {
    let mut following = Following::start(&format!("{TABLE}; CREATE TABLE other (id int)")).await;
    following.stop().await;
    following.config.max_copy_wal_bytes = 4 << 20;
    following.config.copy_max_bytes_per_second = 20_000;
    following.resume();
    following.streams().await;
    let fish = "CREATE TABLE fish (id int PRIMARY KEY, name text);
        INSERT INTO fish SELECT n, repeat('fish ', 20) || n FROM generate_series(1, 20000) AS n";
    following.database.execute(fish).await;
    let is = |status: &PipelineStatus, state: TableState| {
        let fish = status.tables.iter().find(|table| table.table == "public.fish");
        fish.filter(|fish| fish.state == state).map(|fish| fish.reason.clone().unwrap_or_default())
    };
    following.comes_to("a slow copy", |it| is(it, TableState::Copying).is_some()).await;
    let confirmed = following.pipeline().status().lsn.confirmed;
    let given_up = |status: &PipelineStatus| {
        let reason = is(status, TableState::Stale).or_else(|| is(status, TableState::Copying));
        reason.is_some_and(|reason| reason.contains("max_copy_wal_bytes [4194304]"))
    };
    let write = "INSERT INTO other SELECT n FROM generate_series(1, 40000) AS n;
                 UPDATE birds SET name = 'written' WHERE id < 10";
    let write = async || following.execute(write, &["birds"]).await;
    meanwhile(write, following.comes_to("the copy is given up", given_up)).await;
    poll::until("the log is let go", async || {
        (following.pipeline().status().lsn.confirmed > confirmed).then_some(())
    })
    .await;
    following.equals("birds", BIRDS).await;
    assert_eq!(following.pipeline().status().connection_failures, 0);
    following.stop().await;
    following.config.copy_max_bytes_per_second = 0;
    following.resume();
    following.follows("public.fish").await;
    following.equals("fish", "SELECT id::text, to_json(fish)::text FROM fish").await;
}
