//! Partitioned tables: partitions that come, go, are moved between and emptied, of which the log
//! tells only a part.

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
    assert!(!detached.is_finished());
    reader.batch_execute("COMMIT").await.unwrap();
    detached.await.unwrap();
    let write = "INSERT INTO events_23 VALUES (500, '2023-05-05', 'apart');
                 DELETE FROM events WHERE id = 80";
    following.execute(write, &["events"]).await;
    following.follows("public.events_23").await;
    following.equals("events", EVENTS).await;
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
