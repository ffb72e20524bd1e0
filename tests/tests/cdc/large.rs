//! Transactions that do not fit into memory, and rows that do not: whole or not at all, whatever
//! happens meanwhile.

use egret_cdc::{PipelineConfig, PipelineState};
use egret_tests::poll;
use egret_tests::postgres::Database;

use crate::following::Following;

const BIRDS: &str =
    "SELECT id::text, json_build_object('id', id, 'name', name, 'song', song)::text FROM birds";
const EGGS: &str = "SELECT id::text, json_build_object('id', id, 'bird', bird)::text FROM eggs";

const TABLES: &str = "
    CREATE TABLE birds (id int PRIMARY KEY, name text, song text);
    ALTER TABLE birds ALTER COLUMN song SET STORAGE EXTERNAL;
    INSERT INTO birds SELECT n, 'bird ' || n, repeat('la', 2000) FROM generate_series(1, 50) AS n;
    CREATE TABLE eggs (id int PRIMARY KEY, bird int)";

fn small_buffer(config: &mut PipelineConfig) {
    config.transaction_buffer_bytes = 64 << 10;
}

async fn follow(tables: &str, change: impl FnOnce(&mut PipelineConfig)) -> Following {
    let database = Database::create().await;
    database.execute(tables).await;
    let following = Following::follow(database, change);
    following.streams().await;
    following
}

/// Several tables, values that are kept, keys that move, a savepoint, and rows that come and go,
/// all within one transaction.
#[tokio::test(flavor = "multi_thread")]
async fn everything_in_one_large_transaction() {
    let following = follow(TABLES, small_buffer).await;
    let statements = "
        BEGIN;
        INSERT INTO birds SELECT n, 'bird ' || n, repeat('di', 2000 * (n % 100 / 99))
            FROM generate_series(51, 9000) AS n;
        INSERT INTO eggs SELECT n, n % 100 FROM generate_series(1, 3000) AS n;
        SAVEPOINT s;
        INSERT INTO eggs SELECT n, 0 FROM generate_series(10001, 15000) AS n;
        DELETE FROM birds;
        ROLLBACK TO s;
        UPDATE birds SET name = 'renamed' WHERE id % 99 = 0;
        UPDATE birds SET id = id + 100000 WHERE id % 99 = 0;
        DELETE FROM birds WHERE id BETWEEN 20 AND 30 OR id BETWEEN 8000 AND 8500;
        TRUNCATE eggs;
        INSERT INTO eggs SELECT n, n % 7 FROM generate_series(1, 4000) AS n;
        UPDATE eggs SET bird = -bird WHERE id % 3 = 0;
        COMMIT";
    following.execute(statements, &["birds", "eggs"]).await;
    following.equals("birds", BIRDS).await;
    following.equals("eggs", EGGS).await;
    let status = following.pipeline().status();
    assert_eq!((status.spooled_transactions, status.dead_letters), (1, 0), "{status:#?}");
    assert_eq!((status.copies, status.connection_failures), (1, 0), "{status:#?}");
    assert!(!following.spools(), "the temporary file is gone");
}

/// A reader that polls sees all rows at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_transaction_is_seen_at_once() {
    let following = follow(TABLES, small_buffer).await;
    let insert = "INSERT INTO eggs SELECT n, n FROM generate_series(1, 30000) AS n";
    following.database.execute(insert).await;
    poll::until("the transaction", async || {
        let count = following.count("eggs");
        assert!(count == 0 || count == 30000, "{count} rows are seen");
        (count == 30000).then_some(())
    })
    .await;
    assert_eq!(following.pipeline().status().spooled_transactions, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_cut_in_a_large_transaction() {
    let following = follow(TABLES, small_buffer).await;
    let slot = following.pipeline().status().slot;
    let cut = format!(
        "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots
         WHERE slot_name = '{slot}'"
    );
    let mut cuts = 0;
    for turn in 0..20 {
        let rows = 30000;
        let insert = format!(
            "INSERT INTO eggs SELECT n, {turn} FROM generate_series({turn} * {rows} + 1,
             ({turn} + 1) * {rows}) AS n"
        );
        let failures = following.pipeline().status().connection_failures;
        let before = following.count("eggs");
        let database = following.database.connect().await;
        let inserting = tokio::spawn(async move { database.batch_execute(&insert).await });
        poll::until("a temporary file", async || {
            // It may have come and gone.
            (following.spools() || following.count("eggs") > before).then_some(())
        })
        .await;
        following.database.execute(&cut).await;
        inserting.await.unwrap().unwrap();
        following.shows(&["eggs"]).await;
        assert_eq!(following.count("eggs"), before + rows);
        cuts += following.pipeline().status().connection_failures - failures;
        if cuts >= 2 {
            break;
        }
    }
    assert!(cuts >= 2, "no connection was cut while a transaction came");
    following.equals("birds", BIRDS).await;
}

/// Rows that the engine rejects, in transactions that are not in memory.
#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_of_large_transactions() {
    let table = "CREATE TABLE notes (id int PRIMARY KEY, note jsonb);
                 INSERT INTO notes VALUES (0, '{\"a\": 1}')";
    let following = follow(table, small_buffer).await;
    let bad = |ids: &str| {
        format!("UPDATE notes SET note = '{{\"a\": {{\"b\": 1}}}}' WHERE id IN ({ids});")
    };
    let fill = |from: u32| {
        let to = from + 4999;
        format!(
            "INSERT INTO notes SELECT n, json_build_object('a', n) \
             FROM generate_series({from}, {to}) AS n;"
        )
    };
    let mended = "UPDATE notes SET note = '{\"a\": 2}' WHERE id IN (7, 4000);";
    let first =
        format!("BEGIN; {} {} {} {mended} COMMIT", fill(1), bad("7, 8, 9, 4000"), fill(5001));
    following.execute(&first, &["notes"]).await;
    following.lists(2).await;
    assert_eq!(following.count("notes"), 10001 - 2);
    assert_eq!((following.document("notes", "8"), following.document("notes", "9")), (None, None));
    assert!(following.document("notes", "7").is_some());
    assert!(following.letters().contains(r#""id":"8""#), "{}", following.letters());

    let second = format!("BEGIN; {} DELETE FROM notes WHERE id = 9; COMMIT", fill(20001));
    following.execute(&second, &["notes"]).await;
    following.lists(1).await;
    let third = format!("BEGIN; {} {} TRUNCATE notes; {} COMMIT", fill(30001), bad("7"), fill(1));
    following.execute(&third, &["notes"]).await;
    following.lists(0).await;
    assert_eq!(following.count("notes"), 5000);
    assert_eq!(following.pipeline().status().spooled_transactions, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_dead_letters_than_there_may_be_stop_the_pipeline() {
    let table = "CREATE TABLE notes (id int PRIMARY KEY, note jsonb);
                 INSERT INTO notes VALUES (0, '{\"a\": 1}')";
    let following = follow(table, |config| {
        small_buffer(config);
        config.max_dead_letters = 10;
    })
    .await;
    let bad =
        "INSERT INTO notes SELECT n, '{\"a\": {\"b\": 1}}' FROM generate_series(1, 5000) AS n";
    following.database.execute(bad).await;
    following.reaches(PipelineState::Refused).await;
    let reason = following.pipeline().status().reason.unwrap();
    assert!(reason.contains("max_dead_letters"), "{reason}");
    assert_eq!(following.count("notes"), 1);
}

/// Past the limit of a transaction the tables are copied again.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_past_its_limit_has_the_tables_copied_again() {
    let following = follow(TABLES, |config| {
        small_buffer(config);
        config.max_transaction_bytes = 256 << 10;
    })
    .await;
    let insert = "INSERT INTO eggs SELECT n, n FROM generate_series(1, 20000) AS n";
    following.database.execute(insert).await;
    poll::until("a second copy", async || {
        let status = following.pipeline().status();
        (status.copies == 2 && status.state == PipelineState::Streaming).then_some(())
    })
    .await;
    following.equals("eggs", EGGS).await;
    following.equals("birds", BIRDS).await;
}

/// Rows up to the limit are documents, also after a change that does not tell their largest value.
#[tokio::test(flavor = "multi_thread")]
async fn large_rows() {
    let scan = |id: u32, name: &str, word: &str| {
        let page = format!("repeat(repeat('{word}', 50) || ' ', 100000)");
        format!("INSERT INTO scans VALUES ({id}, '{name}', {page}, NULL)")
    };
    let table = "CREATE TABLE scans (id int PRIMARY KEY, name text, page text, raw bytea);
        ALTER TABLE scans ALTER page SET STORAGE EXTERNAL";
    let following = follow(&format!("{table}; {}", scan(1, "copied", "bird")), |_| {}).await;
    let scans = "SELECT id::text, to_json(scans)::text FROM scans WHERE raw IS NULL";
    following.equals("scans", scans).await;
    following.execute(&scan(2, "streamed", "fish"), &["scans"]).await;
    following.execute("UPDATE scans SET name = 'renamed'", &["scans"]).await;
    following.equals("scans", scans).await;
    following.database.execute("ALTER TABLE scans REPLICA IDENTITY FULL").await;
    following.execute("UPDATE scans SET name = 'in full'", &["scans"]).await;
    following.equals("scans", scans).await;
    // What a document has of bytes is longer than they are, and what counts.
    let bytes =
        "INSERT INTO scans VALUES (3, 'raw', NULL, convert_to(repeat('x', 30 << 20), 'UTF8'))";
    following.execute(bytes, &["scans"]).await;
    following.lists(1).await;
    assert!(following.letters().contains("max_document_bytes"), "{}", following.letters());
    assert_eq!(following.count("scans"), 2);
}

/// Rows of 140 MiB, in the copy and in the stream, are dead letters; the others go on.
#[tokio::test(flavor = "multi_thread")]
async fn huge_rows() {
    let huge = |id: u32| format!("INSERT INTO birds VALUES ({id}, 'huge', repeat('x', 140 << 20))");
    let tables = format!("{TABLES}; {}", huge(100));
    let following = follow(&tables, |config| config.max_document_bytes = 1 << 20).await;
    following.lists(1).await;
    assert_eq!(following.count("birds"), 50);
    following.execute("INSERT INTO birds VALUES (102, 'next', 'x')", &["birds"]).await;
    following.execute(&huge(101), &["birds"]).await;
    following.execute("INSERT INTO birds VALUES (103, 'next', 'x')", &["birds"]).await;
    following.lists(2).await;
    let letters = following.letters();
    assert!(letters.len() < 4096 && letters.contains("max_document_bytes [1048576]"), "{letters}");
    assert!(letters.contains(r#""name":"huge""#), "the other values are kept: {letters}");
    following.execute("DELETE FROM birds WHERE name = 'huge'", &["birds"]).await;
    following.lists(0).await;
    following.equals("birds", BIRDS).await;
}
