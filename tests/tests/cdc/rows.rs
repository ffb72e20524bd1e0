//! What happens to rows: inserts, updates, deletes, truncates, keys that change, values that are
//! stored out of line, and all of it while the copy runs.

use egret_tests::postgres::Database;

use crate::following::Following;

/// Every row of `birds` as its index should have it.
const BIRDS: &str =
    "SELECT id::text, json_build_object('id', id, 'name', name, 'song', song)::text FROM birds";

const TABLE: &str = "
    CREATE TABLE birds (id int PRIMARY KEY, name text, song text);
    ALTER TABLE birds ALTER COLUMN song SET STORAGE EXTERNAL;
    INSERT INTO birds SELECT n, 'bird ' || n, repeat('la', 3000) FROM generate_series(1, 200) AS n";

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_rows() {
    let following = Following::start(TABLE).await;
    following.equals("birds", BIRDS).await;
    for statements in [
        "INSERT INTO birds VALUES (1000, 'new', NULL), (1001, 'quote \" \\ \u{1F426}', '')",
        "UPDATE birds SET name = 'renamed' WHERE id BETWEEN 10 AND 20",
        "UPDATE birds SET song = repeat('do', 4000) WHERE id = 11",
        "DELETE FROM birds WHERE id BETWEEN 30 AND 39",
        // The key alone changes: the song is not in the log.
        "UPDATE birds SET id = id + 2000 WHERE id BETWEEN 40 AND 49",
        // Back and forth, and over each other.
        "UPDATE birds SET id = -1 WHERE id = 50; UPDATE birds SET id = 50 WHERE id = 51;
         UPDATE birds SET id = 51 WHERE id = -1",
        "DELETE FROM birds WHERE id = 60; INSERT INTO birds VALUES (60, 'again', 'other')",
        "INSERT INTO birds VALUES (3000, 'short-lived', 'x'); DELETE FROM birds WHERE id = 3000",
        "UPDATE birds SET name = name || '!'; UPDATE birds SET id = id + 10000",
        "SAVEPOINT s; INSERT INTO birds VALUES (4000, 'never', ''); ROLLBACK TO s;
         INSERT INTO birds VALUES (4001, 'ever', '')",
        "TRUNCATE birds",
        "INSERT INTO birds VALUES (1, 'one', 'x'); TRUNCATE birds; INSERT INTO birds VALUES (2, 'two', 'y')",
    ] {
        following.execute(&format!("BEGIN; {statements}; COMMIT"), &["birds"]).await;
        following.equals("birds", BIRDS).await;
    }
    let status = following.pipeline().status();
    assert_eq!((status.copies, status.dead_letters, status.connection_failures), (1, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_while_the_copy_runs() {
    let database = Database::create().await;
    database
        .execute(
            "CREATE TABLE birds (id int PRIMARY KEY, name text, song text);
             INSERT INTO birds SELECT n, 'bird ' || n, repeat('la', 50)
             FROM generate_series(1, 30000) AS n",
        )
        .await;
    let writer = database.connect().await;
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let writing = tokio::spawn(async move {
        let mut turn = 0;
        while stopped.try_recv().is_err() {
            let at = turn * 7919 % 30000;
            let statements = format!(
                "BEGIN; UPDATE birds SET name = 'turn {turn}' WHERE id % 3000 = {at} % 3000;
                 DELETE FROM birds WHERE id = {at}; INSERT INTO birds VALUES ({at}, 'back', 'x');
                 INSERT INTO birds VALUES ({turn} + 100000, 'new', 'y');
                 UPDATE birds SET id = id + 1000000 WHERE id = {at} + 1; COMMIT"
            );
            writer.batch_execute(&statements).await.unwrap();
            turn += 1;
        }
        turn
    });
    let change = |config: &mut egret_cdc::PipelineConfig| {
        (config.copy_range_blocks, config.copy_batch_bytes) = (16, 16 << 10);
    };
    let following = Following::follow(database, change);
    following.streams().await;
    following.shows(&["birds"]).await;
    stop.send(()).unwrap();
    assert!(writing.await.unwrap() > 1);
    following.equals("birds", BIRDS).await;
    assert_eq!(following.pipeline().status().copies, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn truncates_while_the_copy_runs() {
    let database = Database::create().await;
    database
        .execute(
            "CREATE TABLE birds (id int PRIMARY KEY, name text, song text);
             INSERT INTO birds SELECT n, 'bird ' || n, repeat('la', 50)
             FROM generate_series(1, 20000) AS n;
             CREATE TABLE nests (id int PRIMARY KEY, turn int);
             INSERT INTO nests SELECT n, 0 FROM generate_series(1, 100) AS n",
        )
        .await;
    let writer = database.connect().await;
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let writing = tokio::spawn(async move {
        let mut turn = 0;
        while stopped.try_recv().is_err() {
            turn += 1;
            let statements = format!(
                "BEGIN; UPDATE birds SET name = 'turn {turn}' WHERE id = {turn}; TRUNCATE nests;
                 INSERT INTO nests SELECT n, {turn} FROM generate_series(1, 100) AS n; COMMIT;
                 SELECT pg_sleep(0.05)"
            );
            writer.batch_execute(&statements).await.unwrap();
        }
    });
    let following = Following::follow(database, |config| config.copy_range_blocks = 16);
    following.streams().await;
    following.shows(&["nests"]).await;
    stop.send(()).unwrap();
    writing.await.unwrap();
    following.equals("birds", BIRDS).await;
    following.equals("nests", "SELECT id::text, to_json(nests)::text FROM nests").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_several_columns_and_odd_names() {
    let following = Following::start(
        "CREATE SCHEMA \"Odd, Schema\";
         CREATE TABLE \"Odd, Schema\".\"Select \"\"Käse\"\"\" (
             \"From\" text, code char(4), n int, \"a.b\" text, PRIMARY KEY (n, \"From\", code));
         INSERT INTO \"Odd, Schema\".\"Select \"\"Käse\"\"\" VALUES ('a,b', 'x', 1, 'dot'),
             ('a', 'y', 1, NULL), ('\\', 'z', 2, '')",
    )
    .await;
    let index = "odd__schema.select__käse_";
    let table = "\"Odd, Schema\".\"Select \"\"Käse\"\"\"";
    assert_eq!(following.count(index), 3);
    let source = following.source(index, "1,a\\,b,x").unwrap();
    assert_eq!(source, r#"{"From":"a,b","code":"x","n":1,"a.b":"dot"}"#);
    assert!(following.document(index, "2,\\\\,z").is_some());
    let changes = format!(
        "BEGIN; UPDATE {table} SET code = 'w' WHERE \"From\" = 'a'; DELETE FROM {table} WHERE n = 2;
         UPDATE {table} SET \"a.b\" = 'new' WHERE \"From\" = 'a,b'; COMMIT"
    );
    following.execute(&changes, &[index]).await;
    assert_eq!(following.count(index), 2);
    assert_eq!(following.document(index, "1,a,w").unwrap()["code"], "w");
    assert_eq!(following.document(index, "1,a\\,b,x").unwrap()["a.b"], "new");
}

#[tokio::test(flavor = "multi_thread")]
async fn replica_identities() {
    let following = Following::start(
        "CREATE TABLE full_row (id int PRIMARY KEY, big text, n int);
         ALTER TABLE full_row REPLICA IDENTITY FULL, ALTER COLUMN big SET STORAGE EXTERNAL;
         INSERT INTO full_row VALUES (1, repeat('x', 5000), 1), (2, NULL, 2);
         CREATE TABLE by_index (code text NOT NULL, n int);
         CREATE UNIQUE INDEX by_code ON by_index (code) INCLUDE (n);
         ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_code;
         INSERT INTO by_index VALUES ('a', 1), ('b', 2);
         CREATE TABLE nothing (id int PRIMARY KEY); ALTER TABLE nothing REPLICA IDENTITY NOTHING;
         CREATE TABLE no_key (id int)",
    )
    .await;
    assert!(following.skips("public.nothing").await.contains("NOTHING"));
    assert!(following.skips("public.no_key").await.contains("no primary key"));
    // What is not followed must not be hindered: these would fail were they published.
    following.database.execute("INSERT INTO no_key VALUES (1); UPDATE no_key SET id = 2").await;
    let changes = "BEGIN; UPDATE full_row SET n = 7 WHERE id = 1; UPDATE full_row SET id = 3 WHERE id = 2;
         UPDATE by_index SET code = 'c', n = 5 WHERE code = 'a'; DELETE FROM by_index WHERE code = 'b';
         COMMIT";
    following.execute(changes, &["full_row", "by_index"]).await;
    let full = "SELECT id::text, to_json(full_row)::text FROM full_row";
    following.equals("full_row", full).await;
    let by_index = "SELECT code, to_json(by_index)::text FROM by_index";
    following.equals("by_index", by_index).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_transaction_is_seen_whole() {
    let following = Following::start(TABLE).await;
    let insert = "INSERT INTO birds SELECT n, 'bulk', NULL FROM generate_series(1001, 51000) AS n";
    let database = following.database.connect().await;
    let writing = tokio::spawn(async move { database.batch_execute(insert).await.unwrap() });
    let mut seen = following.count("birds");
    while seen != 50_200 {
        assert_eq!(seen, 200, "part of a transaction was seen");
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        seen = following.count("birds");
    }
    writing.await.unwrap();
    following.equals("birds", BIRDS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_cannot_be_indexed_are_listed_and_removed() {
    let following = Following::start(
        "CREATE TABLE notes (id text PRIMARY KEY, body jsonb);
         INSERT INTO notes VALUES ('good', '{\"n\": {\"m\": 1}}'), (repeat('x', 600), '{}')",
    )
    .await;
    // Too long a key, from the copy.
    assert_eq!(following.count("notes"), 1);
    following.lists(1).await;
    assert_eq!(following.table("public.notes").unwrap().rows_rejected, 1);
    // An object where the mapping has one is fine; a number there is not.
    let bad = "BEGIN; INSERT INTO notes VALUES ('fine', '{\"n\": {\"m\": 2}}');
         UPDATE notes SET body = '{\"n\": 3}' WHERE id = 'good'; COMMIT";
    following.execute(bad, &["notes"]).await;
    following.lists(2).await;
    assert!(following.document("notes", "good").is_none(), "a stale document misleads");
    assert!(following.document("notes", "fine").is_some());
    // A good change closes the letter, a delete does so too.
    following
        .execute("UPDATE notes SET body = '{\"n\": {\"m\": 4}}' WHERE id = 'good'", &["notes"])
        .await;
    assert_eq!(following.document("notes", "good").unwrap()["body"]["n"]["m"], 4);
    following.lists(1).await;
}
