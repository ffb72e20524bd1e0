//! Networks that fail in every way that networks do, seen through a proxy.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use egret_cdc::PipelineState;
use egret_tests::poll;
use egret_tests::postgres::{Cluster, Database};
use egret_tests::proxy::{Flow, Proxy};
use tokio_postgres::Client;

use crate::following::Following;

const BIRDS: &str = "SELECT id::text, to_json(birds)::text FROM birds";

const TABLE: &str = "CREATE TABLE birds (id int PRIMARY KEY, name text);
    INSERT INTO birds SELECT n, 'bird ' || n FROM generate_series(1, 1000) AS n";

/// Follows a database through a proxy, and gives up early on what does not answer.
async fn through_proxy() -> (Following, Proxy) {
    let database = Database::create().await;
    database.execute(TABLE).await;
    let port = database.cluster().port();
    let proxy = Proxy::start(port).await;
    let url = proxy.url(&database.url(), port);
    let following = Following::follow(database, |config| {
        config.url = url;
        config.connect_timeout_ms = 2000;
        config.reconnect_max_ms = 500;
    });
    following.streams().await;
    (following, proxy)
}

/// Waits until another connection failed than those before.
async fn fails_again(following: &Following, before: u64) {
    following.comes_to("a failure", |status| status.connection_failures > before).await;
}

fn failures(following: &Following) -> u64 {
    following.pipeline().status().connection_failures
}

/// Changes all rows, one transaction after the other; each adds one to every row.
async fn change_until(client: Client, ended: Arc<AtomicBool>) -> u64 {
    let mut changes = 0;
    while !ended.load(Ordering::Relaxed) {
        let turn = format!(
            "UPDATE birds SET name = 'turn {changes}' WHERE id % 10 = {changes} % 10;
             UPDATE birds SET id = -id WHERE id = {changes} % 1000 + 1"
        );
        client.batch_execute(&turn).await.unwrap();
        changes += 1;
    }
    changes
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_reset_under_load() {
    let (following, proxy) = through_proxy().await;
    let ended = Arc::new(AtomicBool::new(false));
    let writer = following.database.connect().await;
    let writing = tokio::spawn(change_until(writer, Arc::clone(&ended)));
    for bytes in [0, 10_000, 60_000, 200_000, 0, 30_000, 5_000] {
        let before = failures(&following);
        if bytes == 0 {
            proxy.reset();
        } else {
            proxy.cut_after(bytes);
        }
        fails_again(&following, before).await;
        following.streams().await;
    }
    ended.store(true, Ordering::Relaxed);
    assert!(writing.await.unwrap() > 1);
    following.equals("birds", BIRDS).await;
    assert!(proxy.cuts() >= 5, "{} cuts", proxy.cuts());
    assert_eq!(following.copies(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_part_of_a_transaction_that_is_cut_is_seen() {
    let (following, proxy) = through_proxy().await;
    let insert = "INSERT INTO birds SELECT n, 'bulk' FROM generate_series(1001, 41000) AS n";
    for bytes in [50_000, 900_000, 2_000_000] {
        let before = failures(&following);
        proxy.cut_after(bytes);
        following.database.execute(insert).await;
        let begun = Instant::now();
        let mut seen = following.count("birds");
        while seen != 41_000 {
            assert_eq!(seen, 1000, "a part of a transaction was seen");
            assert!(begun.elapsed() < poll::DEADLINE, "{:#?}", following.pipeline().status());
            tokio::time::sleep(Duration::from_millis(1)).await;
            seen = following.count("birds");
        }
        assert!(failures(&following) > before, "it was cut after {bytes} bytes");
        following.execute("DELETE FROM birds WHERE id > 1000", &["birds"]).await;
        following.equals("birds", BIRDS).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_says_nothing_is_noticed() {
    let (following, proxy) = through_proxy().await;
    let before = failures(&following);
    proxy.set(Flow::Stalls);
    following.database.execute("DELETE FROM birds WHERE id < 100").await;
    fails_again(&following, before).await;
    // It is told as it is, and not as following.
    following
        .comes_to("the state is told", |status| {
            matches!(status.state, PipelineState::Retrying | PipelineState::Connecting)
                && status.last_error.as_ref().is_some_and(|error| error.contains("no answer"))
                && status.lag.seconds.is_some_and(|seconds| seconds > 0.0)
        })
        .await;
    // What was indexed is served meanwhile.
    assert_eq!(following.count("birds"), 1000);
    proxy.set(Flow::Passes);
    proxy.reset();
    following.streams().await;
    following.equals("birds", BIRDS).await;
    assert_eq!(following.copies(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn half_open_connections_are_noticed() {
    let (following, proxy) = through_proxy().await;
    for turn in 0..2 {
        let before = failures(&following);
        proxy.half_open();
        let change = format!("UPDATE birds SET name = 'half {turn}' WHERE id % 2 = {turn}");
        following.database.execute(&change).await;
        fails_again(&following, before).await;
        following.streams().await;
        following.equals("birds", BIRDS).await;
    }
    assert_eq!(following.copies(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_network_is_no_failure() {
    let (following, proxy) = through_proxy().await;
    proxy.set(Flow::Delays(Duration::from_millis(30)));
    for turn in 0..5 {
        let change = format!("UPDATE birds SET name = 'slow {turn}' WHERE id % 5 = {turn}");
        following.execute(&change, &["birds"]).await;
        following.equals("birds", BIRDS).await;
    }
    assert_eq!(failures(&following), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_never_confirmed_is_applied_once_in_effect() {
    let (mut following, proxy) = through_proxy().await;
    let is_confirmed = async |following: &Following, lsn: &str| {
        let query = "SELECT confirmed_flush_lsn > $2::text::pg_lsn
                     FROM pg_replication_slots WHERE slot_name = $1";
        let name = following.config.slot_name();
        let row = following.database.client().query_one(query, &[&name, &lsn]).await.unwrap();
        row.get::<_, bool>(0)
    };
    for turn in 1..4 {
        following
            .execute("INSERT INTO birds SELECT max(id) + 1, 'before' FROM birds", &["birds"])
            .await;
        proxy.set(Flow::StallsToServer);
        // What was on its way confirms nothing that comes later.
        let before = following.database.flush_lsn().await;
        let writes = [
            format!("UPDATE birds SET id = id + 100000000 * {turn} WHERE id = {turn}"),
            "INSERT INTO birds SELECT min(id) - 1, 'x' FROM birds; DELETE FROM birds WHERE id = 50"
                .to_owned(),
            format!(
                "DELETE FROM birds WHERE id = {turn} + 200; INSERT INTO birds VALUES ({turn} + 200, 'again')"
            ),
        ];
        for write in &writes {
            following.database.execute(write).await;
        }
        // They arrive and are seen, and the server is never told.
        let again = format!("{}", turn + 200);
        poll::until("the changes are seen", async || {
            (following.document("birds", &again)?["name"] == "again").then_some(())
        })
        .await;
        assert!(!is_confirmed(&following, &before).await);
        following.stop().await;
        proxy.reset();
        proxy.set(Flow::Passes);
        following.resume();
        following.streams().await;
        following.equals("birds", BIRDS).await;
        assert_eq!(following.copies(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_to_connect_become_rare() {
    let (following, proxy) = through_proxy().await;
    proxy.set(Flow::Refuses);
    proxy.reset();
    fails_again(&following, 0).await;
    let (begun, before) = (Instant::now(), proxy.accepted());
    fails_again(&following, 12).await;
    // Ten doubled pauses come before the longest one, of which each is at least the half.
    let attempts = proxy.accepted() - before;
    let longest = following.config.reconnect_max_ms / 2;
    let most = 10 + begun.elapsed().as_millis() / u128::from(longest.max(1));
    assert!(u128::from(attempts) <= most, "{attempts} attempts in {:?}", begun.elapsed());
    assert_eq!(following.count("birds"), 1000);
    proxy.set(Flow::Passes);
    following.streams().await;
    following.equals("birds", BIRDS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_goes_on_after_its_connections_were_cut() {
    let database = Database::create().await;
    database
        .execute(
            "CREATE TABLE birds (id int PRIMARY KEY, name text);
             INSERT INTO birds SELECT n, repeat('bird ', 20) || n FROM generate_series(1, 30000) AS n",
        )
        .await;
    let port = database.cluster().port();
    let proxy = Proxy::start(port).await;
    let url = proxy.url(&database.url(), port);
    proxy.cut_after(1_500_000);
    let following = Following::follow(database, |config| {
        (config.url, config.reconnect_max_ms) = (url, 500);
        (config.copy_range_blocks, config.copy_batch_bytes) = (16, 64 << 10);
    });
    poll::until("the copy is cut", async || (proxy.cuts() == 1).then_some(())).await;
    following.database.execute("DELETE FROM birds WHERE id % 10 = 3").await;
    following.follows("public.birds").await;
    following.equals("birds", BIRDS).await;
}

/// Follows a server that is stopped and started in every way.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_and_starts() {
    use egret_tests::postgres::{ClusterOptions, Stop};
    let cluster = tokio::task::spawn_blocking(|| Cluster::start(ClusterOptions::default()));
    let cluster = Arc::new(cluster.await.unwrap());
    let database = Database::create_on(&cluster).await;
    database.execute(TABLE).await;
    let mut following = Following::follow(database, |config| config.reconnect_max_ms = 500);
    following.streams().await;
    for (turn, how) in
        [Stop::Fast, Stop::Immediate, Stop::Fast, Stop::Immediate].into_iter().enumerate()
    {
        let change = format!("UPDATE birds SET name = 'turn {turn}' WHERE id % 4 = {turn}");
        following.database.execute(&change).await;
        tokio::task::block_in_place(|| cluster.stop(how));
        following
            .comes_to("the loss is told", |status| {
                matches!(status.state, PipelineState::Retrying | PipelineState::Connecting)
            })
            .await;
        tokio::task::block_in_place(|| cluster.resume());
        following.database.reconnect().await;
        following.streams().await;
        following.equals("birds", BIRDS).await;
    }
    assert_eq!(following.copies(), 1);
}
