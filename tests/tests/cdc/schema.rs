//! Tables and columns that come, go and change.

use egret_cdc::PipelineState;
use egret_cdc::status::{TableState, TableStatus};
use egret_tests::poll;
use egret_tests::postgres::Database;

use crate::following::Following;

const BIRDS: &str = "SELECT id::text, to_json(birds)::text FROM birds";

const TABLE: &str = "CREATE TABLE birds (id int PRIMARY KEY, name text);
    INSERT INTO birds SELECT n, 'bird ' || n FROM generate_series(1, 100) AS n";

/// Waits until a table's columns have been taken note of, and the index equals the table.
async fn comes_to_equal(following: &Following, copies: u64) {
    following
        .comes_to("the change is noticed", |status| {
            let streams = |table: &TableStatus| table.state == TableState::Streaming;
            status.copies == copies
                && status.state == PipelineState::Streaming
                && status.tables.iter().all(streams)
        })
        .await;
    following.equals("birds", BIRDS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_change() {
    let following = Following::start(TABLE).await;
    // A column without a default, and a row with it in the same transaction.
    following
        .execute(
            "BEGIN; ALTER TABLE birds ADD wings int; INSERT INTO birds VALUES (200, 'new', 2); COMMIT",
            &["birds"],
        )
        .await;
    assert_eq!(following.document("birds", "200").unwrap()["wings"], 2);
    poll::until("the mapping grows", async || {
        let mapping = following.mapping("birds");
        (mapping["properties"]["wings"]["type"] == "integer").then_some(())
    })
    .await;
    following.execute("UPDATE birds SET wings = 3", &["birds"]).await;
    comes_to_equal(&following, 1).await;
    // Rows change without being streamed: they are copied again.
    following.database.execute("ALTER TABLE birds ADD legs int DEFAULT 2").await;
    comes_to_equal(&following, 2).await;
    following.database.execute("ALTER TABLE birds DROP wings").await;
    comes_to_equal(&following, 3).await;
    following.database.execute("ALTER TABLE birds RENAME name TO title").await;
    comes_to_equal(&following, 4).await;
    following
        .database
        .execute("ALTER TABLE birds ALTER legs TYPE text USING legs || ' legs'")
        .await;
    comes_to_equal(&following, 5).await;
    let both =
        "BEGIN; ALTER TABLE birds ADD seen bool DEFAULT true; UPDATE birds SET legs = 'many';
         INSERT INTO birds VALUES (300, 'late', 'none'); COMMIT";
    following.database.execute(both).await;
    comes_to_equal(&following, 6).await;
    // Rows are written under each of the names that a column has in one transaction.
    let many = "BEGIN; UPDATE birds SET title = 'before' WHERE id = 1; ALTER TABLE birds DROP seen;
         UPDATE birds SET title = 'between' WHERE id = 2; ALTER TABLE birds RENAME title TO name;
         INSERT INTO birds VALUES (400, 'after', 'two'); DELETE FROM birds WHERE id = 3; COMMIT";
    following.database.execute(many).await;
    comes_to_equal(&following, 7).await;
}

/// What an index has durable may lie before what the database was told, where nothing in between was for
/// it.
#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_comes_with_a_change_after_a_rest_needs_no_copy() {
    let database = Database::create().await;
    database.execute(&format!("{TABLE}; CREATE TABLE other (id int PRIMARY KEY)")).await;
    let following = Following::follow(database, |config| config.acknowledge_interval_ms = 1000);
    following.follows("public.birds").await;
    following.execute("UPDATE birds SET name = 'first' WHERE id = 1", &["birds"]).await;
    for turn in 0..3 {
        let before = following.pipeline().status().lsn.confirmed;
        following.database.execute(&format!("INSERT INTO other VALUES ({turn})")).await;
        poll::until("that is acknowledged", async || {
            (following.pipeline().status().lsn.confirmed > before).then_some(())
        })
        .await;
    }
    let change = "UPDATE birds SET name = 'second' WHERE id = 2; ALTER TABLE birds ADD wings int;
        UPDATE birds SET wings = id";
    for statement in change.split(';') {
        following.database.execute(statement).await;
    }
    following.execute("UPDATE birds SET wings = 2 WHERE id = 3", &["birds"]).await;
    comes_to_equal(&following, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_change_while_stopped() {
    let mut following = Following::start(TABLE).await;
    following.stop().await;
    following
        .database
        .execute(
            "INSERT INTO birds VALUES (200, 'before'); ALTER TABLE birds ADD wings int;
             INSERT INTO birds VALUES (201, 'between', 2); ALTER TABLE birds ADD legs int DEFAULT 2;
             INSERT INTO birds VALUES (202, 'after')",
        )
        .await;
    following.resume();
    comes_to_equal(&following, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_come_and_go() {
    let following = Following::start(TABLE).await;
    following
        .database
        .execute("CREATE TABLE fish (id int PRIMARY KEY); INSERT INTO fish VALUES (1), (2)")
        .await;
    following.follows("public.fish").await;
    following
        .execute(
            "BEGIN; INSERT INTO fish VALUES (3); DELETE FROM birds WHERE id > 5; COMMIT",
            &["fish", "birds"],
        )
        .await;
    assert_eq!((following.count("fish"), following.count("birds")), (3, 5));
    // A key makes a table followable.
    following.database.execute("CREATE TABLE logs (id int); INSERT INTO logs VALUES (1)").await;
    following.skips("public.logs").await;
    following.database.execute("ALTER TABLE logs ADD PRIMARY KEY (id)").await;
    following.follows("public.logs").await;
    assert_eq!(following.count("logs"), 1);
    // Dropped and made anew, it is another table.
    following
        .database
        .execute(
            "DROP TABLE fish; CREATE TABLE fish (id int PRIMARY KEY); INSERT INTO fish VALUES (9)",
        )
        .await;
    poll::until("the new table", async || {
        let copied = following.table("public.fish")?.state == TableState::Streaming;
        (copied && following.count_if_any("fish") == Some(1)).then_some(())
    })
    .await;
    assert!(following.document("fish", "9").is_some());
    following.equals("birds", BIRDS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partitioned_tables() {
    let following = Following::start(
        "CREATE TABLE events (id int, at date, what text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
         CREATE TABLE events_23 PARTITION OF events FOR VALUES FROM ('2023-01-01') TO ('2024-01-01');
         CREATE TABLE events_24 PARTITION OF events FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
         INSERT INTO events VALUES (1, '2023-05-05', 'a'), (2, '2024-05-05', 'b')",
    )
    .await;
    let events = "SELECT id || ',' || at, to_json(events)::text FROM events";
    following.equals("events", events).await;
    assert!(!following.has_index("events_23"));
    let changes = "BEGIN; INSERT INTO events VALUES (3, '2023-06-06', 'c');
         UPDATE events SET at = '2024-07-07' WHERE id = 1; DELETE FROM events WHERE id = 2; COMMIT";
    following.execute(changes, &["events"]).await;
    following.equals("events", events).await;
    following.execute("TRUNCATE events", &["events"]).await;
    assert_eq!(following.count("events"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_owns_nothing_follows_what_is_published() {
    let database = Database::create().await;
    database
        .execute(&format!(
            "{TABLE}; CREATE TABLE private (id int PRIMARY KEY);
             CREATE PUBLICATION shared FOR TABLE birds"
        ))
        .await;
    let url = database.follower_url();
    let following = Following::follow(database, |config| {
        config.url = url;
        config.publication = Some("shared".to_owned());
        config.tables = vec!["*".to_owned(), "missing".to_owned()];
    });
    following.streams().await;
    following.equals("birds", BIRDS).await;
    assert!(following.table("public.private").is_none());
    assert!(following.skips("missing").await.contains("no such table"));
    following.execute("DELETE FROM birds WHERE id = 1", &["birds"]).await;
    following.equals("birds", BIRDS).await;
}
