//! Copies that are interrupted go on where they were, whatever has changed meanwhile; and how fast
//! they may be.

use std::time::{Duration, Instant};

use egret_cdc::PipelineConfig;
use egret_cdc::status::{TableState, TableStatus};
use egret_tests::poll;
use egret_tests::postgres::Database;
use egret_tests::proxy::Proxy;

use crate::following::Following;

const BIRDS: &str = "SELECT id::text, to_json(birds)::text FROM birds";

/// Songs are stored apart: an update of a name does not send them.
const TABLE: &str = "CREATE TABLE birds (id int PRIMARY KEY, name text, song text);
    ALTER TABLE birds ALTER song SET STORAGE EXTERNAL;
    INSERT INTO birds SELECT n, repeat('bird ', 20) || n,
                             CASE WHEN n % 500 = 0 THEN repeat('la', 2000) END
      FROM generate_series(1, 20000) AS n";

/// What happens while the copy is interrupted: to rows that were read, to rows that were not, and to
/// some that move between them.
const CHANGES: &str = "UPDATE birds SET name = 'changed' WHERE id % 10 = 0;
    DELETE FROM birds WHERE id % 7 = 0;
    UPDATE birds SET id = id + 100000 WHERE id % 11 = 0;
    DELETE FROM birds WHERE id % 13 = 0; INSERT INTO birds SELECT n, 'new', 'x'
        FROM generate_series(13, 20000, 13) AS n ON CONFLICT DO NOTHING;
    BEGIN; DELETE FROM birds WHERE id = 5; INSERT INTO birds VALUES (5, 'again', NULL); COMMIT;
    BEGIN; UPDATE birds SET name = 'never'; ROLLBACK";

/// Small ranges, read one after the other, no faster than this.
fn slowly(config: &mut PipelineConfig, bytes_per_second: u64) {
    (config.copy_workers, config.copy_range_blocks) = (1, 32);
    config.copy_batch_bytes = 32 << 10;
    config.copy_max_bytes_per_second = bytes_per_second;
}

fn birds(following: &Following) -> TableStatus {
    following.table("public.birds").unwrap()
}

/// Waits until a good part of the rows is read, and stops.
async fn stop_in_copy(following: &mut Following) {
    following
        .comes_to("rows are copied", |status| {
            let table = status.tables.iter().find(|it| it.table == "public.birds");
            table.is_some_and(|it| it.state == TableState::Copying && it.rows_copied > 4000)
        })
        .await;
    following.stop().await;
}

/// Goes on, as fast as it can.
async fn go_on(following: &mut Following) {
    following.config.copy_max_bytes_per_second = 0;
    following.resume();
    following.follows("public.birds").await;
}

/// A pipeline that was stopped in the middle of its first copy.
async fn interrupted(table: &str) -> Following {
    let database = Database::create().await;
    database.execute(table).await;
    let mut following = Following::follow(database, |config| slowly(config, 300_000));
    stop_in_copy(&mut following).await;
    following
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_goes_on_after_a_restart() {
    let mut following = interrupted(TABLE).await;
    following.database.execute(CHANGES).await;
    // Once more, before it has read all that is left.
    following.resume();
    following
        .comes_to("it goes on", |status| {
            let table = status.tables.iter().find(|it| it.table == "public.birds");
            table.is_some_and(|it| it.rows_resumed > 0 && it.rows_copied > it.rows_resumed + 3000)
        })
        .await;
    let resumed = birds(&following).rows_resumed;
    following.stop().await;
    following.database.execute("UPDATE birds SET name = name || '!' WHERE id % 3 = 0").await;
    go_on(&mut following).await;
    following.equals("birds", BIRDS).await;
    let table = birds(&following);
    assert!(table.rows_resumed > resumed, "{resumed} rows, then {table:?}");
    assert_eq!((table.rows_rejected, following.copies()), (0, 1), "{table:?}");
    following.execute("UPDATE birds SET song = name WHERE id < 100", &["birds"]).await;
    following.equals("birds", BIRDS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_beside_the_stream_goes_on_too() {
    let database = Database::create().await;
    database.execute(&format!("{TABLE}; CREATE TABLE fish (id int PRIMARY KEY)")).await;
    let mut following = Following::follow(database, |config| slowly(config, 0));
    following.streams().await;
    following.follows("public.birds").await;
    following.stop().await;
    following.config.copy_max_bytes_per_second = 300_000;
    following.database.execute("ALTER TABLE birds ADD legs int DEFAULT 2").await;
    following.resume();
    stop_in_copy(&mut following).await;
    following.database.execute(&CHANGES.replace("'x'", "'x', 3")).await;
    following.database.execute("INSERT INTO fish VALUES (1)").await;
    following.resume();
    following.shows(&["fish"]).await;
    // What is searched is the older index, whole, until the new one is.
    assert_eq!(following.count("birds"), 20000);
    stop_in_copy(&mut following).await;
    go_on(&mut following).await;
    following.equals("birds", BIRDS).await;
    assert!(birds(&following).rows_resumed > 3000, "{:?}", birds(&following));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_goes_on_over_another_connection() {
    let database = Database::create().await;
    database.execute(TABLE).await;
    let port = database.cluster().port();
    let proxy = Proxy::start(port).await;
    let url = proxy.url(&database.url(), port);
    let following = Following::follow(database, |config| {
        slowly(config, 0);
        (config.url, config.reconnect_max_ms) = (url, 200);
    });
    proxy.cut_after(1_200_000);
    poll::until("the copy is cut", async || (proxy.cuts() > 0).then_some(())).await;
    let change = "UPDATE birds SET name = name || '.' WHERE id % 9 = 0 AND song IS NULL";
    following.database.execute(change).await;
    following.follows("public.birds").await;
    following.equals("birds", BIRDS).await;
    assert!(birds(&following).rows_resumed > 0, "{:?}", birds(&following));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_a_table_that_is_another_begins_again() {
    for change in [
        "ALTER TABLE birds ALTER name TYPE text USING upper(name)",
        "ALTER TABLE birds ADD legs int",
        "TRUNCATE birds; INSERT INTO birds VALUES (1, 'one', NULL)",
        "VACUUM FULL birds",
        "DROP TABLE birds; CREATE TABLE birds (id int PRIMARY KEY); INSERT INTO birds VALUES (8)",
    ] {
        let mut following = interrupted(TABLE).await;
        following.database.execute("DELETE FROM birds WHERE id % 5 = 0").await;
        for statement in change.split(';') {
            following.database.execute(statement).await;
        }
        go_on(&mut following).await;
        following.equals("birds", BIRDS).await;
        assert_eq!(birds(&following).rows_resumed, 0, "{change}");
    }
}

/// Rows move to blocks that were read before they moved, and the log does not have all of them: nor
/// where their transaction was too large for memory.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_moved_behind_a_copy_are_read_by_their_keys() {
    for memory in [None, Some(4 << 10)] {
        let mut following = interrupted(TABLE).await;
        following.database.execute("DELETE FROM birds WHERE id < 3000").await;
        following.vacuum("birds").await;
        let moved = "UPDATE birds SET name = name || ' moved' WHERE id > 18500";
        following.database.execute(moved).await;
        let first = "SELECT (ctid::text::point)[0] < 100 FROM birds WHERE id = 20000";
        let row = following.database.client().query_one(first, &[]).await.unwrap();
        assert!(row.get::<_, bool>(0), "the row has not moved to the first blocks");
        following.database.execute("DELETE FROM birds WHERE id = 19500").await;
        following.config.transaction_buffer_bytes =
            memory.unwrap_or(following.config.transaction_buffer_bytes);
        go_on(&mut following).await;
        following.equals("birds", BIRDS).await;
        let table = birds(&following);
        assert!(table.rows_resumed > 3000, "{table:?}");
        assert_eq!((following.pipeline().status().dead_letters, following.copies()), (0, 1));
        // One as large as that which moved the rows.
        let again = "UPDATE birds SET name = name || '!' WHERE id > 18500";
        following.execute(again, &["birds"]).await;
        let spooled = following.pipeline().status().spooled_transactions;
        assert_eq!(spooled > 0, memory.is_some(), "{memory:?}");
    }
}

/// The same where the copy is interrupted once more before it comes to them.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_moved_are_not_forgotten_over_another_interruption() {
    let mut following = interrupted(TABLE).await;
    following.database.execute("DELETE FROM birds WHERE id < 3000").await;
    following.vacuum("birds").await;
    let moved = "UPDATE birds SET name = name || ' moved' WHERE id > 18500";
    following.database.execute(moved).await;
    let first = "SELECT (ctid::text::point)[0] < 100 FROM birds WHERE id = 20000";
    let row = following.database.client().query_one(first, &[]).await.unwrap();
    assert!(row.get::<_, bool>(0), "the row has not moved to the first blocks");
    following.resume();
    following
        .comes_to("it goes on", |status| {
            let table = status.tables.iter().find(|it| it.table == "public.birds");
            table.is_some_and(|it| it.rows_resumed > 0 && it.rows_copied > it.rows_resumed + 3000)
        })
        .await;
    let resumed = birds(&following).rows_resumed;
    following.stop().await;
    go_on(&mut following).await;
    following.equals("birds", BIRDS).await;
    let table = birds(&following);
    assert!(table.rows_resumed > resumed, "{resumed} rows, then {table:?}");
    assert_eq!((following.pipeline().status().dead_letters, following.copies()), (0, 1));
}

/// Rows have moved, and their key's type has no equality that a session with a pinned search path
/// finds: what cannot be read by its key is read once more with all others.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_begins_again_where_a_moved_row_cannot_be_read_by_its_key() {
    let database = Database::create().await;
    if let Err(error) = database.client().batch_execute("CREATE EXTENSION hstore").await {
        poll::report(&format!("keys that cannot be compared are not tested: {error}"));
        return;
    }
    let table =
        TABLE.replace("id int", "id hstore").replace("SELECT n,", "SELECT hstore('n', n::text),");
    database.execute(&table).await;
    let mut following = Following::follow(database, |config| slowly(config, 300_000));
    stop_in_copy(&mut following).await;
    following.database.execute("DELETE FROM birds WHERE (id->'n')::int < 3000").await;
    following.vacuum("birds").await;
    let moved = "UPDATE birds SET name = name || ' moved' WHERE (id->'n')::int > 18500";
    following.database.execute(moved).await;
    go_on(&mut following).await;
    following.equals("birds", BIRDS).await;
    let table = birds(&following);
    assert_eq!((table.rows_resumed, table.rows_rejected), (0, 0), "{table:?}");
    assert_eq!(following.copies(), 2, "it did not begin again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_no_faster_than_it_may_be() {
    let database = Database::create().await;
    database.execute(TABLE).await;
    let query = "SELECT sum(length(name) + coalesce(length(song), 2)) FROM birds";
    let bytes: i64 = database.client().query_one(query, &[]).await.unwrap().get(0);
    let begun = Instant::now();
    let following = Following::follow(database, |config| {
        (config.copy_workers, config.copy_max_bytes_per_second) = (2, 1_000_000);
    });
    following
        .comes_to("the progress is told", |status| {
            let table = status.tables.iter().find(|it| it.table == "public.birds");
            table.is_some_and(|it| it.rows_per_second.is_some_and(|rate| rate > 0))
        })
        .await;
    following.follows("public.birds").await;
    let least = Duration::from_micros(u64::try_from(bytes).unwrap());
    // A last piece may be owed.
    assert!(begun.elapsed() > least * 9 / 10, "{bytes} bytes in {:?}", begun.elapsed());
}
