//! Partitioned tables: partitions that come, go, are moved between and emptied, of which the log
//! tells only a part.

use egret_tests::poll;
use egret_tests::postgres::Database;

use crate::following::{Following, WATCH_INTERVAL};

const EVENTS: &str = "SELECT id || ',' || at, to_json(events)::text FROM events";

const TABLE: &str = "
    CREATE TABLE events (id int, at date, what text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
    CREATE TABLE events_22 PARTITION OF events FOR VALUES FROM ('2022-01-01') TO ('2023-01-01');
    CREATE TABLE events_23 PARTITION OF events FOR VALUES FROM ('2023-01-01') TO ('2024-01-01');
    INSERT INTO events SELECT n, '2022-05-05', 'old ' || n FROM generate_series(1, 50) AS n;
    INSERT INTO events SELECT n, '2023-05-05', 'new ' || n FROM generate_series(1, 50) AS n";

/// A table of two years that is filled before it is attached.
const FILLED: &str = "
    CREATE TABLE events_25 (id int, at date, what text, PRIMARY KEY (id, at))
        PARTITION BY RANGE (at);
    CREATE TABLE events_25a (LIKE events_25 INCLUDING ALL);
    INSERT INTO events_25a SELECT n, '2025-01-01', 'attached ' || n FROM generate_series(1, 30) AS n;
    ALTER TABLE events_25 ATTACH PARTITION events_25a
        FOR VALUES FROM ('2025-01-01') TO ('2025-07-01')";

const ATTACH: &str = "ALTER TABLE events ATTACH PARTITION events_25
    FOR VALUES FROM ('2025-01-01') TO ('2026-01-01')";

/// Runs statements of which the log does not tell all, and waits for the copy.
async fn changes(following: &Following, statements: &str) {
    let before = following.copies();
    following.database.execute(statements).await;
    following.copies_again(before).await;
    following.equals("events", EVENTS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_log_does_not_tell_of_partitions_is_copied() {
    let following = Following::start(TABLE).await;
    // A partition that begins empty is told of whole.
    following
        .execute(
            "CREATE TABLE events_24 PARTITION OF events FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
             INSERT INTO events VALUES (1, '2024-06-06', 'born here');
             UPDATE events SET at = '2024-07-07' WHERE at < '2023-01-01' AND id < 10",
            &["events"],
        )
        .await;
    following.equals("events", EVENTS).await;
    following.database.execute(FILLED).await;
    following.follows("public.events_25").await;
    assert_eq!(following.copies(), 2, "the new partition had the table copied");
    // From here on the table of its own is a part of another, and no longer followed by itself.
    changes(&following, ATTACH).await;
    assert!(following.table("public.events_25").is_none());
    changes(&following, "TRUNCATE events_23").await;
    changes(&following, "ALTER TABLE events DETACH PARTITION events_22").await;
    let again =
        "ALTER TABLE events DETACH PARTITION events_24; UPDATE events_24 SET what = 'apart';
         ALTER TABLE events ATTACH PARTITION events_24
             FOR VALUES FROM ('2024-01-01') TO ('2025-01-01')";
    changes(&following, again).await;
    let in_one_transaction = "BEGIN; CREATE TABLE events_26 (LIKE events INCLUDING ALL);
         INSERT INTO events_26 VALUES (1, '2026-01-01', 'quick');
         ALTER TABLE events ATTACH PARTITION events_26
             FOR VALUES FROM ('2026-01-01') TO ('2027-01-01'); COMMIT";
    changes(&following, in_one_transaction).await;
    changes(&following, "DROP TABLE events_24").await;
    // The log tells of this one.
    following.execute("TRUNCATE events", &["events"]).await;
    assert_eq!(following.count("events"), 0);
    following.execute("INSERT INTO events VALUES (9, '2026-02-02', 'last')", &["events"]).await;
    following.equals("events", EVENTS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_change_while_stopped() {
    let mut following = Following::start(&format!("{TABLE}; {FILLED}")).await;
    for statements in [
        ATTACH,
        "TRUNCATE events_23; INSERT INTO events VALUES (7, '2023-03-03', 'after')",
        "ALTER TABLE events DETACH PARTITION events_22; DROP TABLE events_22",
    ] {
        following.stop().await;
        following.database.execute(statements).await;
        following.resume();
        following.copies_again(0).await;
        following.equals("events", EVENTS).await;
    }
    // What is told of whole needs no copy.
    following.stop().await;
    let born = "CREATE TABLE events_27 PARTITION OF events
             FOR VALUES FROM ('2027-01-01') TO ('2028-01-01');
         INSERT INTO events VALUES (1, '2027-01-01', 'born here')";
    following.database.execute(born).await;
    following.resume();
    following.streams().await;
    following.equals("events", EVENTS).await;
    assert_eq!(following.copies(), 0);
}

/// A partition that is detached concurrently is no part of its table from the first half on, for which
/// queries need not end.
#[tokio::test(flavor = "multi_thread")]
async fn partitions_are_detached_concurrently() {
    let following = Following::start(TABLE).await;
    let copies = following.copies();
    let reader = following.database.connect().await;
    reader.batch_execute("BEGIN; SELECT FROM events").await.unwrap();
    let detaching = following.database.connect().await;
    let detached = tokio::spawn(async move {
        let detach = "ALTER TABLE events DETACH PARTITION events_23 CONCURRENTLY";
        detaching.batch_execute(detach).await.unwrap();
    });
    following.copies_again(copies).await;
    following
        .execute("INSERT INTO events VALUES (80, '2022-08-08', 'meanwhile')", &["events"])
        .await;
    following.equals("events", EVENTS).await;
    following.database.execute("INSERT INTO events_23 VALUES (501, '2023-05-05', 'apart')").await;
    following.equals("events", EVENTS).await;
    assert!(!detached.is_finished());
    let folder = following.index_folder("events");
    reader.batch_execute("COMMIT").await.unwrap();
    detached.await.unwrap();
    let write = "INSERT INTO events_23 VALUES (500, '2023-05-05', 'apart');
                 DELETE FROM events WHERE id = 80";
    following.execute(write, &["events"]).await;
    following.follows("public.events_23").await;
    following.equals("events", EVENTS).await;
    assert_eq!(following.index_folder("events"), folder, "copied once");
}

/// Nor is it published where its `_id` is declared: the partition's writers would be refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_declared_id_does_not_publish_what_must_not_be() {
    let database = Database::create().await;
    let odd =
        "ALTER TABLE events_22 REPLICA IDENTITY NOTHING; ALTER TABLE events REPLICA IDENTITY FULL";
    database.execute(&format!("{TABLE}; {odd}")).await;
    let following = Following::follow(database, |config| {
        let events = serde_json::json!({"table": "events", "id": ["at", "id"]});
        config.documents = vec![serde_json::from_value(events).unwrap()];
    });
    let reason = following.skips("public.events").await;
    assert!(reason.contains("REPLICA IDENTITY"), "{reason}");
    following.database.execute("UPDATE events SET what = 'written'").await;
}

/// That a table says FULL counts for none of its partitions, which the log names by their primary keys,
/// or not at all.
#[tokio::test(flavor = "multi_thread")]
async fn whole_rows_in_the_log_are_each_partitions_own() {
    let database = Database::create().await;
    let tables = "
        CREATE TABLE keyless (sku text NOT NULL, at date NOT NULL, UNIQUE (sku, at)) PARTITION BY RANGE (at);
        CREATE TABLE keyless_1 PARTITION OF keyless FOR VALUES FROM ('2022-01-01') TO ('2023-01-01');
        CREATE TABLE keyed (id int, at date, sku text NOT NULL, PRIMARY KEY (id, at), UNIQUE (sku, at))
            PARTITION BY RANGE (at);
        CREATE TABLE keyed_1 PARTITION OF keyed FOR VALUES FROM ('2022-01-01') TO ('2023-01-01');
        ALTER TABLE keyless REPLICA IDENTITY FULL; ALTER TABLE keyed REPLICA IDENTITY FULL;
        INSERT INTO keyless VALUES ('a', '2022-02-02'), ('b', '2022-02-02');
        INSERT INTO keyed VALUES (1, '2022-02-02', 'a'), (2, '2022-02-02', 'b')";
    database.execute(tables).await;
    let following = Following::follow(database, |config| {
        let keyed = serde_json::json!({"table": "keyed", "id": ["sku", "at"]});
        config.documents = vec![serde_json::from_value(keyed).unwrap()];
    });
    let reason = following.skips("public.keyless").await;
    assert!(reason.contains("partition") && reason.contains("FULL"), "{reason}");
    following.skips("public.keyed").await;
    let write =
        |n: u32| format!("UPDATE keyless SET sku = sku || {n}; UPDATE keyed SET sku = sku || {n}");
    following.database.execute(&write(1)).await;
    let full =
        "ALTER TABLE keyless_1 REPLICA IDENTITY FULL; ALTER TABLE keyed_1 REPLICA IDENTITY FULL";
    following.database.execute(full).await;
    following.follows("public.keyless").await;
    following.follows("public.keyed").await;
    following.database.execute(&write(2)).await;
    let delete = "DELETE FROM keyless WHERE sku = 'a12'; DELETE FROM keyed WHERE sku = 'a12'";
    following.execute(delete, &["keyless", "keyed"]).await;
    for table in ["keyless", "keyed"] {
        let rows = format!("SELECT sku || ',' || at, to_json({table})::text FROM {table}");
        following.equals(table, &rows).await;
        assert_eq!(following.count(table), 1);
    }
}

/// A table that became a partition of one that is not followed leaves the publication: its writers would
/// be refused for what is done to it later.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_becomes_a_partition_leaves() {
    let database = Database::create().await;
    let tables = "
        CREATE TABLE lone (id int PRIMARY KEY); CREATE TABLE birds (id int PRIMARY KEY);
        CREATE TABLE roots (id int PRIMARY KEY) PARTITION BY RANGE (id)";
    database.execute(tables).await;
    let tables = vec!["lone".to_owned(), "birds".to_owned()];
    let following = Following::follow(database, |config| config.tables = tables);
    following.streams().await;
    let attach = "ALTER TABLE roots ATTACH PARTITION lone FOR VALUES FROM (0) TO (100)";
    following.database.execute(attach).await;
    let published = "SELECT count(*) FROM pg_publication_rel WHERE prrelid = 'lone'::regclass";
    poll::until("it leaves the publication", async || {
        let row = following.database.client().query_one(published, &[]).await.unwrap();
        (row.get::<_, i64>(0) == 0).then_some(())
    })
    .await;
    let write = "ALTER TABLE lone REPLICA IDENTITY NOTHING; INSERT INTO birds VALUES (1);
                 INSERT INTO lone VALUES (1); UPDATE lone SET id = 2";
    following.execute(write, &["birds"]).await;
    assert_eq!(following.count("birds"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_whose_rows_are_named_otherwise_are_refused() {
    let following = Following::start(&format!(
        "{TABLE}; ALTER TABLE events_22 REPLICA IDENTITY NOTHING;
         CREATE TABLE others (id int PRIMARY KEY)"
    ))
    .await;
    for nothing in ["SELECT", "ALTER TABLE events_22 REPLICA IDENTITY NOTHING"] {
        following.database.execute(nothing).await;
        let reason = following.skips("public.events").await;
        assert!(reason.contains("REPLICA IDENTITY"), "{reason}");
        following.database.execute("UPDATE events SET what = 'not hindered'").await;
        // By now nothing else is seen to have changed: only this lets the tables be looked at again.
        tokio::time::sleep(3 * WATCH_INTERVAL).await;
        following.database.execute("ALTER TABLE events_22 REPLICA IDENTITY FULL").await;
        following.follows("public.events").await;
        following.execute("UPDATE events SET id = id + 100", &["events"]).await;
        following.equals("events", EVENTS).await;
    }
}
