//! Names of every kind, tables as wide as they can be, and rows told apart without a primary key.

use egret_tests::postgres::Database;
use serde_json::json;

use crate::following::Following;

/// As long as a name can be: 63 bytes, of which some are a half of a letter.
fn longest(first: &str) -> String {
    let mut name = format!("{first}Größe Ω \u{1F426} ");
    while name.len() < 63 {
        name.push('n');
    }
    name
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_every_kind() {
    let (schema, table, column) = (longest("S"), longest("T"), longest("C"));
    let database = Database::create().await;
    database
        .execute(&format!(
            "CREATE SCHEMA \"{schema}\";
             CREATE TABLE \"{schema}\".\"{table}\" (\"select\" int, \"{column}\" text,
                 PRIMARY KEY (\"select\"));
             INSERT INTO \"{schema}\".\"{table}\" VALUES (1, 'one');
             CREATE TABLE \"table\" (\"from\" int PRIMARY KEY, \"WHERE\" text, \"_id\" text);
             CREATE TABLE \"user\" (\"order\" int PRIMARY KEY, \"group\" text);
             INSERT INTO \"user\" VALUES (1, 'a')"
        ))
        .await;
    let following = Following::follow(database, |config| {
        config.slot = Some(format!("{}{}", "s".repeat(50), config.slot.clone().unwrap()));
        config.slot.as_mut().unwrap().truncate(63);
        config.publication = Some("Größe\"of'Things".to_owned());
    });
    following.follows("public.user").await;
    following.follows(&format!("{schema}.{table}")).await;
    let index = format!("{schema}.{table}").to_lowercase().replace(' ', "_");
    let changes = format!(
        "BEGIN; INSERT INTO \"{schema}\".\"{table}\" VALUES (2, 'two');
         UPDATE \"{schema}\".\"{table}\" SET \"{column}\" = 'changed' WHERE \"select\" = 1;
         UPDATE \"user\" SET \"group\" = 'b'; COMMIT"
    );
    following.execute(&changes, &[&index, "user"]).await;
    let query =
        format!("SELECT \"select\"::text, to_json(t)::text FROM \"{schema}\".\"{table}\" AS t");
    following.equals(&index, &query).await;
    following.equals("user", "SELECT \"order\"::text, to_json(u)::text FROM \"user\" AS u").await;
    // What an index cannot have is told, with the name, and holds up no other.
    let reason = following.skips("public.table").await;
    assert!(reason.contains("field [_id] is a metadata field"), "{reason}");
    following.database.execute("ALTER TABLE \"table\" RENAME \"_id\" TO old_id").await;
    following.follows("public.table").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_1600_columns() {
    let columns: Vec<String> = (1..1600).map(|n| format!("c{n} text")).collect();
    let following = Following::start(&format!(
        "CREATE TABLE wide (id int PRIMARY KEY, {}); INSERT INTO wide (id, c1, c1599) VALUES (1, 'a', 'z')",
        columns.join(", ")
    ))
    .await;
    following.execute("INSERT INTO wide (id, c2, c1598) VALUES (2, 'b', 'y')", &["wide"]).await;
    let document = following.document("wide", "2").unwrap();
    assert_eq!((&document["c2"], &document["c1598"]), (&json!("b"), &json!("y")));
    let rows = "SELECT id::text, to_jsonb(wide)::text FROM wide";
    assert_eq!(following.count("wide"), 2);
    let query = rows.replace(
        "to_jsonb(wide)",
        "(SELECT jsonb_object_agg(key, value) FROM
        jsonb_each(to_jsonb(wide)))",
    );
    following.equals("wide", &query).await;
    let properties = following.mapping("wide")["properties"].as_object().unwrap().len();
    assert!((400..1000).contains(&properties), "{properties} columns are searched");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_told_apart_by_a_unique_index() {
    let following = Following::start(
        "CREATE TABLE readings (sensor text NOT NULL, at timestamp NOT NULL, note text,
                                serial int NOT NULL, value float, spare int UNIQUE);
         CREATE UNIQUE INDEX partial ON readings (serial) WHERE value > 0;
         CREATE UNIQUE INDEX long_key ON readings (sensor, at, serial);
         CREATE UNIQUE INDEX key ON readings (sensor, at);
         ALTER TABLE readings REPLICA IDENTITY FULL;
         ALTER TABLE readings ALTER note SET STORAGE EXTERNAL;
         INSERT INTO readings SELECT 's' || n % 3, '2024-01-01'::timestamp + n * interval '1 h',
             repeat(n::text, 3000), n, n FROM generate_series(1, 50) AS n;
         CREATE TABLE hopeless (id int, name text UNIQUE);
         ALTER TABLE hopeless REPLICA IDENTITY FULL;
         CREATE TABLE deferred (id int PRIMARY KEY DEFERRABLE, n int)",
    )
    .await;
    let readings = "SELECT sensor || ',' || to_char(at, 'YYYY-MM-DD HH24:MI:SS'),
                           to_json(readings)::text FROM readings";
    for statements in [
        "UPDATE readings SET value = 0 WHERE serial < 10",
        "UPDATE readings SET at = at + interval '1 year' WHERE serial < 20",
        "DELETE FROM readings WHERE serial > 40",
        "INSERT INTO readings VALUES ('s9', '2020-01-01', NULL, 0, 7)",
        "UPDATE readings SET note = 'x' WHERE serial = 5; DELETE FROM readings WHERE serial = 0",
    ] {
        following.execute(&format!("BEGIN; {statements}; COMMIT"), &["readings"]).await;
        following.equals("readings", readings).await;
    }
    let reason = following.skips("public.hopeless").await;
    assert!(reason.contains("no unique index of NOT NULL columns"), "{reason}");
    let reason = following.skips("public.deferred").await;
    assert!(reason.contains("REPLICA IDENTITY USING INDEX"), "{reason}");
    // Were they published, the database would refuse these to everyone.
    following
        .database
        .execute(
            "INSERT INTO hopeless VALUES (1); DELETE FROM hopeless;
             INSERT INTO deferred VALUES (1, 1); UPDATE deferred SET n = 2; DELETE FROM deferred",
        )
        .await;
    // The index goes: the next best one takes its place, until there is none.
    let copies = following.copies();
    following.database.execute("DROP INDEX key").await;
    following.copies_again(copies).await;
    following.equals("readings", &readings.replace("SS')", "SS') || ',' || serial")).await;
    following.database.execute("DROP INDEX long_key").await;
    let reason = following.skips("public.readings").await;
    assert!(reason.contains("no unique index"), "{reason}");
}
