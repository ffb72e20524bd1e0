//! Tables that are rewritten, renamed and redefined: what changes rows without a word in the log is
//! copied, what merely moves them is not.

use egret_tests::postgres::Database;

use crate::following::Following;

const BIRDS: &str = "SELECT id::text, to_json(birds)::text FROM birds";

const TABLE: &str = "CREATE TABLE birds (id int PRIMARY KEY, name text, weight numeric(10,3));
    INSERT INTO birds SELECT n, 'bird ' || n, n / 7.0 FROM generate_series(1, 100) AS n";

/// Rewrites of rows that leave names and types as they are.
const REWRITES: &[&str] = &[
    "ALTER TABLE birds ALTER name TYPE text USING upper(name)",
    "ALTER TABLE birds ALTER weight TYPE numeric(10,1)",
    "CREATE DOMAIN colour AS text DEFAULT 'white'; ALTER TABLE birds ADD plumage colour",
    "BEGIN; ALTER TABLE birds ALTER name TYPE text USING name || '?';
     UPDATE birds SET name = name || '!' WHERE id < 5; COMMIT",
];

#[tokio::test(flavor = "multi_thread")]
async fn rewritten_rows_are_copied() {
    let mut following = Following::start(TABLE).await;
    for statements in REWRITES {
        let before = following.copies();
        following.database.execute(statements).await;
        following.copies_again(before).await;
        following.equals("birds", BIRDS).await;
    }
    following.stop().await;
    following.database.execute("ALTER TABLE birds ALTER name TYPE text USING lower(name)").await;
    following.resume();
    following.copies_again(0).await;
    following.equals("birds", BIRDS).await;
}

/// Runs statements one by one, while followed and while stopped; none of them has anything copied.
async fn copies_nothing(statements: &[&str], while_stopped: &str) {
    let mut following = Following::start(TABLE).await;
    for statement in statements {
        following.database.execute(statement).await;
        following.execute("UPDATE birds SET name = name || '.'", &["birds"]).await;
        following.equals("birds", BIRDS).await;
    }
    assert_eq!(following.copies(), 1);
    following.stop().await;
    following.database.execute(while_stopped).await;
    following.resume();
    following.streams().await;
    following.equals("birds", BIRDS).await;
    assert_eq!(following.copies(), 0);
}

/// A label that is renamed changes every row that has it, and writes none of them.
#[tokio::test(flavor = "multi_thread")]
async fn rows_whose_labels_are_renamed_are_copied() {
    let table = "CREATE TYPE mood AS ENUM ('sad', 'fine'); CREATE DOMAIN felt AS mood;
        CREATE TYPE day AS (moods felt[]); CREATE TABLE other (id int PRIMARY KEY);
        CREATE TABLE birds (id int PRIMARY KEY, now mood, days day);
        INSERT INTO birds VALUES (1, 'sad', ROW('{sad,fine}')), (2, 'fine', NULL)";
    let mut following = Following::start(table).await;
    let before = following.copies();
    following.database.execute("ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'").await;
    following.copies_again(before).await;
    following.equals("birds", BIRDS).await;
    let before = following.copies();
    following.execute("ALTER TYPE mood ADD VALUE 'so so'", &["birds"]).await;
    following.remembers("birds", "so so").await;
    following.execute("INSERT INTO birds VALUES (3, 'so so', ROW('{so so}'))", &["birds"]).await;
    following.equals("birds", BIRDS).await;
    assert_eq!(following.copies(), before, "a label that comes is in no older row");
    following.database.execute("ALTER TYPE mood RENAME VALUE 'so so' TO 'well'").await;
    following.copies_again(before).await;
    following.equals("birds", BIRDS).await;
    following.stop().await;
    following.database.execute("ALTER TYPE mood RENAME VALUE 'fine' TO 'good'").await;
    following.resume();
    following.copies_again(0).await;
    following.equals("birds", BIRDS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_merely_moved_are_not_copied() {
    let again = "INSERT INTO birds VALUES (1, 'again', 1)";
    let moves = ["VACUUM FULL birds", "CLUSTER birds USING birds_pkey", "TRUNCATE birds", again];
    copies_nothing(&moves, "VACUUM FULL birds").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_that_are_merely_described_anew_are_not_copied() {
    let describes = [
        "ALTER TABLE birds ALTER name SET DEFAULT 'none'",
        "ALTER TABLE birds ALTER name SET NOT NULL",
        "CREATE INDEX ON birds (name)",
        "ANALYZE birds",
    ];
    copies_nothing(&describes, "ALTER TABLE birds ALTER name SET STATISTICS 500").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_are_dropped_renamed_and_retyped_while_stopped() {
    let mut following = Following::start(TABLE).await;
    for statements in [
        "UPDATE birds SET name = 'before' WHERE id < 5; ALTER TABLE birds DROP weight;
         UPDATE birds SET name = 'after' WHERE id < 3",
        "UPDATE birds SET name = 'before' WHERE id < 5; ALTER TABLE birds RENAME name TO title;
         UPDATE birds SET title = 'after' WHERE id < 3",
        "INSERT INTO birds VALUES (1000, '5'); UPDATE birds SET title = id;
         ALTER TABLE birds ALTER title TYPE int USING title::int; DELETE FROM birds WHERE id = 7",
        "BEGIN; ALTER TABLE birds RENAME id TO number; ALTER TABLE birds ADD id int;
         UPDATE birds SET id = number; COMMIT; DELETE FROM birds WHERE number = 8",
    ] {
        following.stop().await;
        following.database.execute(statements).await;
        following.resume();
        following.copies_again(0).await;
        following.equals("birds", BIRDS).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_table_is_another_index() {
    let mut following =
        Following::start(&format!("{TABLE}; CREATE TABLE fish (id int PRIMARY KEY)")).await;
    following
        .database
        .execute("ALTER TABLE birds RENAME TO fowl; DELETE FROM fowl WHERE id < 50")
        .await;
    following.follows("public.fowl").await;
    following.execute("UPDATE fowl SET name = 'renamed'", &["fowl"]).await;
    following.equals("fowl", "SELECT id::text, to_json(fowl)::text FROM fowl").await;
    assert!(following.table("public.birds").is_none());
    // The older index stands still, and holds nothing up.
    let caught_up = |status: &egret_cdc::PipelineStatus| status.lsn.visible >= status.lsn.server;
    following.database.execute("INSERT INTO fish VALUES (1)").await;
    following.comes_to("nothing is behind", caught_up).await;
    // Another one takes the name: nothing of the older one is left.
    following
        .database
        .execute(
            "BEGIN; ALTER TABLE fowl RENAME TO poultry; CREATE TABLE birds (id int PRIMARY KEY);
             INSERT INTO birds VALUES (7); COMMIT",
        )
        .await;
    following.follows("public.birds").await;
    following.equals("birds", BIRDS).await;
    // Two change places, while stopped too.
    let swap = "BEGIN; ALTER TABLE birds RENAME TO other; ALTER TABLE poultry RENAME TO birds;
         ALTER TABLE other RENAME TO poultry; COMMIT; DELETE FROM birds WHERE id = 60;
         INSERT INTO poultry VALUES (8)";
    for stopped in [false, true] {
        let before = if stopped { 0 } else { following.copies() };
        if stopped {
            following.stop().await;
        }
        following.database.execute(&swap.replace("60", if stopped { "8" } else { "60" })).await;
        if stopped {
            following.resume();
        }
        following.copies_again(before).await;
        following.equals("birds", BIRDS).await;
        let poultry = "SELECT id::text, to_json(poultry)::text FROM poultry";
        following.equals("poultry", poultry).await;
        if !stopped {
            following.database.execute("INSERT INTO poultry VALUES (9)").await;
            following.database.execute("DELETE FROM poultry WHERE id = 8").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn types_grow_while_they_are_used() {
    let following = Following::start(
        "CREATE TYPE mood AS ENUM ('fine'); CREATE TYPE pair AS (n int);
         CREATE TABLE birds (id int PRIMARY KEY, mood mood, pair pair, pairs pair[]);
         INSERT INTO birds VALUES (1, 'fine', ROW(1), ARRAY[ROW(1)::pair])",
    )
    .await;
    following.database.execute("ALTER TYPE mood ADD VALUE 'so so'").await;
    following.execute("INSERT INTO birds VALUES (2, 'so so', ROW(2))", &["birds"]).await;
    following.equals("birds", BIRDS).await;
    assert_eq!(following.copies(), 1);
    following.database.execute("ALTER TYPE pair ADD ATTRIBUTE t text").await;
    following.copies_again(1).await;
    following
        .execute(
            "INSERT INTO birds VALUES (3, 'fine', ROW(3, 'x'), ARRAY[ROW(4, 'y')::pair])",
            &["birds"],
        )
        .await;
    following.equals("birds", BIRDS).await;
    assert_eq!(following.pipeline().status().dead_letters, 0);
}

const GENERATED: &str = "
    CREATE TABLE birds (id int PRIMARY KEY, a int, twice int GENERATED ALWAYS AS (a * 2) STORED,
                        b text);
    INSERT INTO birds (id, a, b) VALUES (1, 1, 'x'), (2, 2, 'y');
    CREATE TABLE whole (LIKE birds INCLUDING ALL); ALTER TABLE whole REPLICA IDENTITY FULL;
    INSERT INTO whole (id, a, b) VALUES (1, 1, 'x');
    CREATE TABLE by_generated (a int, id int GENERATED ALWAYS AS (a + 1) STORED PRIMARY KEY);
    INSERT INTO by_generated (a) VALUES (7)";

/// Documents without what is generated.
const PLAIN: &str = "SELECT id::text, json_build_object('id', id, 'a', a, 'b', b)::text FROM ";

const WRITE_GENERATED: &str =
    "INSERT INTO birds (id, a, b) VALUES (3, 3, 'z'); UPDATE birds SET a = 5 WHERE id = 1;
     UPDATE whole SET a = 7; INSERT INTO by_generated (a) VALUES (1);
     UPDATE by_generated SET a = a + 1";

/// The log of PostgreSQL before 18 has no generated columns, and so has no copy.
#[tokio::test(flavor = "multi_thread")]
async fn generated_columns_are_left_out_where_the_log_lacks_them() {
    let following = Following::start(GENERATED).await;
    if following.database.version().await >= 18 {
        return generated_columns_of_someone_elses_publication(following).await;
    }
    let reason = following.skips("public.by_generated").await;
    assert!(reason.contains("[id] is generated"), "{reason}");
    following.execute(WRITE_GENERATED, &["birds", "whole"]).await;
    for table in ["birds", "whole"] {
        following.equals(table, &format!("{PLAIN}{table}")).await;
        assert!(following.mapping(table)["properties"]["twice"].is_null());
    }
    // A plain column from now on, of which every row has a value.
    let copies = following.copies();
    following.database.execute("ALTER TABLE birds ALTER twice DROP EXPRESSION").await;
    following.copies_again(copies).await;
    following.execute("UPDATE birds SET twice = 7 WHERE id = 2", &["birds"]).await;
    following.equals("birds", BIRDS).await;
    assert_eq!(following.pipeline().status().dead_letters, 0);
}

/// A publication that says nothing of generated columns is followed without them.
async fn generated_columns_of_someone_elses_publication(mut following: Following) {
    following.stop().await;
    following.database.execute("CREATE PUBLICATION theirs FOR TABLE birds").await;
    following.config.publication = Some("theirs".to_owned());
    following.resume();
    following.copies_again(0).await;
    following.execute(WRITE_GENERATED, &["birds"]).await;
    following.equals("birds", &format!("{PLAIN}birds")).await;
    // Whole rows in the log would have to have them.
    let reason = following.skips("public.whole").await;
    assert!(reason.contains("generated columns"), "{reason}");
    // Once it publishes them they are there.
    let copies = following.copies();
    let alter = "ALTER PUBLICATION theirs SET (publish_generated_columns = stored)";
    following.database.execute(alter).await;
    following.copies_again(copies).await;
    following.equals("birds", "SELECT id::text, to_json(birds)::text FROM birds").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn generated_columns_are_as_any_other_where_the_log_has_them() {
    let database = Database::create().await;
    if database.lacks(18, "generated columns in the log").await {
        return;
    }
    let computed = "CREATE TABLE computed (id int PRIMARY KEY, a int, b int GENERATED ALWAYS AS (a * 2) VIRTUAL);
        INSERT INTO computed (id, a) VALUES (1, 1);
        CREATE TABLE whole_computed (LIKE computed INCLUDING ALL);
        ALTER TABLE whole_computed REPLICA IDENTITY FULL;
        CREATE TABLE named (LIKE whole_computed INCLUDING ALL);
        ALTER TABLE named REPLICA IDENTITY FULL, ALTER a SET NOT NULL, ADD UNIQUE (a);
        INSERT INTO named (id, a) VALUES (1, 1)";
    // As an earlier version made it.
    let publication = "CREATE PUBLICATION egret_main WITH (publish_via_partition_root)";
    database.execute(&format!("{GENERATED}; {computed}; {publication}")).await;
    let mut following = Following::follow(database, |config| {
        let named = serde_json::json!({"table": "named", "id": ["a"]});
        config.documents = vec![serde_json::from_value(named).unwrap()];
    });
    following.streams().await;
    let tables = ["birds", "whole", "by_generated"];
    let equal = async |following: &Following| {
        for table in tables {
            let rows = format!("SELECT id::text, to_json({table})::text FROM {table}");
            following.equals(table, &rows).await;
        }
    };
    equal(&following).await;
    following.execute(WRITE_GENERATED, &tables).await;
    equal(&following).await;
    assert_eq!(following.mapping("birds")["properties"]["twice"]["type"], "integer");
    // Computed when they are read, others are nowhere.
    following.database.execute("UPDATE computed SET a = 2").await;
    following
        .equals(
            "computed",
            "SELECT id::text, json_build_object('id', id, 'a', a)::text FROM computed",
        )
        .await;
    for table in ["whole_computed", "named"] {
        let reason = following.skips(&format!("public.{table}")).await;
        assert!(reason.contains("generated columns"), "{reason}");
        following.database.execute(&format!("UPDATE {table} SET a = 2")).await;
    }
    let copies = following.copies();
    following.database.execute("ALTER TABLE birds ALTER twice SET EXPRESSION AS (a * 3)").await;
    following.copies_again(copies).await;
    following.execute("UPDATE birds SET a = 9 WHERE id = 2", &["birds"]).await;
    equal(&following).await;
    assert_eq!(following.pipeline().status().dead_letters, 0);
    // Once somebody had the log lack them, documents are as their rows again.
    following.stop().await;
    let alter = "ALTER PUBLICATION egret_main SET (publish_generated_columns = none)";
    following.database.execute(alter).await;
    following.database.execute("UPDATE birds SET a = a + 1").await;
    following.resume();
    following.copies_again(0).await;
    equal(&following).await;
}
