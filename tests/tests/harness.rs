//! The harness itself: a database of one's own, a role with few rights, a server that stops and
//! comes back.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use egret_tests::ledger::{self, Load, Size, big_transaction};
use egret_tests::poll;
use egret_tests::postgres::{Cluster, ClusterOptions, Database, Stop, connect};

#[tokio::test(flavor = "multi_thread")]
async fn databases_are_apart() {
    let one = Database::create().await;
    let two = Database::create().await;
    one.execute("CREATE TABLE apart (id int PRIMARY KEY); INSERT INTO apart VALUES (1)").await;
    let query = "SELECT count(*) FROM pg_class WHERE relname = 'apart'";
    let count: i64 = two.client().query_one(query, &[]).await.unwrap().get(0);
    assert_eq!(count, 0);
    assert_eq!(one.cluster().port(), two.cluster().port());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_follower_reads_and_writes_nothing() {
    let database = Database::create().await;
    database.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await;
    let follower = connect(&database.follower_url()).await;
    assert_eq!(follower.query("SELECT id FROM t", &[]).await.unwrap().len(), 1);
    assert!(follower.batch_execute("INSERT INTO t VALUES (2)").await.is_err());
    assert!(follower.batch_execute("CREATE PUBLICATION p FOR TABLE t").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_comes_back_with_its_data() {
    let cluster = Arc::new(Cluster::start(ClusterOptions::default()));
    let mut database = Database::create_on(&cluster).await;
    database.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await;
    for how in [Stop::Fast, Stop::Immediate] {
        cluster.restart(how);
        database.reconnect().await;
        database.execute("UPDATE t SET id = id + 1").await;
    }
    let id: i32 = database.client().query_one("SELECT id FROM t", &[]).await.unwrap().get(0);
    assert_eq!(id, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_load_changes_everything_but_the_sums() {
    let database = Database::create().await;
    let size = Size { accounts: 500, journal: 100 };
    ledger::create(&database, size).await;
    let load = Load::start(&database, size.accounts, 1, 2).await;
    let query = "SELECT sum(balance)::bigint, count(*) FILTER (WHERE id > 1000000),
                        (SELECT sum(amount)::bigint FROM journal), (SELECT count(*) FROM journal),
                        (SELECT max(amount) FROM journal)
                   FROM accounts";
    poll::until("every kind of change", async || {
        let row = database.client().query_one(query, &[]).await.unwrap();
        assert_eq!(row.get::<_, i64>(0), size.balances());
        assert_eq!(row.get::<_, i64>(2), size.amounts());
        assert_eq!(row.get::<_, i64>(3), i64::from(size.journal));
        (row.get::<_, i64>(1) > 20 && row.get::<_, i64>(4) > 10).then_some(())
    })
    .await;
    big_transaction(database.client(), 400).await;
    let counts = load.stop().await;
    assert!(counts.committed > 0, "{counts}");
    let row = database.client().query_one(query, &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), size.balances(), "{counts}");
}
