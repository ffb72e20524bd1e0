//! Roles that may do less than they must, in each way: what is said, that other tables go on, and that
//! it goes on by itself once the privilege is there. And what a role or a database may be set to.

use std::sync::Arc;

use egret_cdc::status::TableState;
use egret_cdc::verify::RoundState;
use egret_cdc::{DocumentConfig, PipelineConfig, VerifyOptions};
use egret_tests::poll;
use egret_tests::postgres::{Cluster, ClusterOptions, Database};
use serde_json::json;
use tokio::task::block_in_place;

use crate::following::Following;
use crate::verify::{follow as follow_unverified, verified};

const BIRDS: &str = "SELECT id::text, to_json(birds)::text FROM birds";
const FISH: &str = "SELECT id::text, to_json(fish)::text FROM fish";

const TABLES: &str = "CREATE TABLE birds (id int PRIMARY KEY, name text);
    INSERT INTO birds SELECT n, 'bird ' || n FROM generate_series(1, 500) AS n;
    CREATE TABLE fish (id int PRIMARY KEY, name text);
    INSERT INTO fish SELECT n, 'fish ' || n FROM generate_series(1, 100) AS n";

/// Roles are the whole cluster's.
fn role(database: &Database) -> String {
    format!("limited_{}", database.name())
}

/// Runs statements with the role's name in the place of `LIMITED`.
async fn run(database: &Database, statements: &str) {
    database.execute(&statements.replace("LIMITED", &role(database))).await;
}

/// A database with the tables, and a role that may sign in and replicate.
async fn limited(database: Database, statements: &str) -> Database {
    let role = format!("CREATE ROLE LIMITED LOGIN REPLICATION PASSWORD '{}'", Cluster::password());
    run(&database, &role).await;
    run(&database, TABLES).await;
    run(&database, statements).await;
    database
}

/// Follows as that role.
fn follow(database: Database, change: impl FnOnce(&mut PipelineConfig)) -> Following {
    let url = database.cluster().url_as(&role(&database), database.name());
    follow_unverified(database, |config| {
        config.url = url;
        config.publication = Some("egret_main".to_owned());
        config.tables = vec!["birds".to_owned(), "fish".to_owned()];
        change(config);
    })
}

/// A table waits, and its reason has all of these words.
async fn says(following: &Following, title: &str, expected: &[&str]) {
    following
        .comes_to(&format!("{title}: {expected:?}"), |status| {
            let table = status.tables.iter().find(|table| table.table == title);
            let reason = table.and_then(|table| table.reason.as_ref());
            reason.is_some_and(|reason| expected.iter().all(|words| reason.contains(words)))
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_may_not_replicate() {
    let grants = "ALTER ROLE LIMITED NOREPLICATION; GRANT SELECT ON birds, fish TO LIMITED;
        CREATE PUBLICATION egret_main FOR TABLE birds, fish";
    let following = follow(limited(Database::create().await, grants).await, |_| {});
    let remedy = format!("ALTER ROLE \"{}\" REPLICATION", role(&following.database));
    following.fails_with(&["opening a replication session", "42501", &remedy]).await;
    run(&following.database, "ALTER ROLE LIMITED REPLICATION").await;
    following.follows("public.birds").await;
    following.equals("birds", BIRDS).await;
}

/// Seven tables, of which the role may read some, and of others some columns.
async fn half_open() -> Database {
    let more = "CREATE TABLE people (id int PRIMARY KEY, name text, secret text);
        INSERT INTO people VALUES (1, 'ada', 'x'), (2, 'bob', 'y');
        CREATE TABLE staff (id int PRIMARY KEY, name text, pay int);
        INSERT INTO staff VALUES (1, 'cyd', 7);
        CREATE SCHEMA vault; CREATE TABLE vault.gold (id int PRIMARY KEY, bars int);
        INSERT INTO vault.gold VALUES (1, 7);
        CREATE TABLE notes (id int PRIMARY KEY, reader text);
        INSERT INTO notes VALUES (1, 'all'), (2, 'nobody');
        ALTER TABLE notes ENABLE ROW LEVEL SECURITY;
        CREATE POLICY mine ON notes USING (reader = 'all');
        CREATE TABLE sales (id int PRIMARY KEY, n int) PARTITION BY RANGE (id);
        CREATE TABLE sales_1 PARTITION OF sales FOR VALUES FROM (0) TO (10);
        INSERT INTO sales VALUES (1, 1);
        GRANT SELECT ON birds, vault.gold, notes, sales TO LIMITED;
        GRANT SELECT (id, name) ON people, staff TO LIMITED";
    let database = limited(Database::create().await, more).await;
    let people = if database.version().await >= 15 { "people (id, name)" } else { "people" };
    let publication = format!(
        "CREATE PUBLICATION egret_main FOR TABLE birds, fish, {people}, staff, vault.gold, notes, sales
         WITH (publish_via_partition_root = true)"
    );
    run(&database, &publication).await;
    database
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_may_not_be_read() {
    let database = half_open().await;
    let following = follow(database, |config| {
        let tables = ["birds", "fish", "staff", "vault.gold", "notes", "sales"];
        config.tables = tables.map(str::to_owned).to_vec();
        let people = json!({"table": "people", "exclude": ["secret"]});
        config.documents = vec![serde_json::from_value::<DocumentConfig>(people).unwrap()];
    });
    let role = role(&following.database);
    says(
        &following,
        "public.fish",
        &[&format!("GRANT SELECT ON \"public\".\"fish\" TO \"{role}\"")],
    )
    .await;
    let column = format!("GRANT SELECT (\"pay\") ON \"public\".\"staff\" TO \"{role}\"");
    says(&following, "public.staff", &["[pay]", &column, "exclude"]).await;
    let usage = format!("GRANT USAGE ON SCHEMA \"vault\" TO \"{role}\"");
    says(&following, "vault.gold", &[&usage]).await;
    says(&following, "public.notes", &["row level security", "BYPASSRLS"]).await;
    let partition = format!("GRANT SELECT ON \"public\".\"sales_1\" TO \"{role}\"");
    says(&following, "public.sales", &[&partition]).await;
    // The others go on, one of them by the columns that may be read.
    following.follows("public.birds").await;
    following.follows("public.people").await;
    following
        .execute("DELETE FROM birds WHERE id < 10; DELETE FROM people WHERE id = 2", &["birds"])
        .await;
    following.equals("birds", BIRDS).await;
    let people = "SELECT id::text, json_build_object('id', id, 'name', name)::text FROM people";
    following.equals("people", people).await;
    assert!(!following.has_index("notes"), "half of its rows is worse than none");
    let statements = [&column, &usage, &partition, "GRANT SELECT ON fish TO LIMITED"];
    for statement in statements {
        run(&following.database, statement).await;
    }
    let tables = [
        ("staff", "public.staff"),
        ("vault.gold", "vault.gold"),
        ("sales", "public.sales"),
        ("fish", "public.fish"),
    ];
    for (index, title) in tables {
        following.follows(title).await;
        let query = format!("SELECT id::text, to_json(t)::text FROM {title} AS t");
        following.equals(index, &query).await;
    }
    run(&following.database, "ALTER TABLE notes DISABLE ROW LEVEL SECURITY").await;
    following.follows("public.notes").await;
    assert_eq!(following.count("notes"), 2);
    following
        .comes_to("all are followed", |status| {
            status.tables.iter().all(|table| table.state == TableState::Streaming)
        })
        .await;
    let report = verified(&following, VerifyOptions::default()).await;
    assert_eq!((report.tables.len(), report.differences.len()), (7, 0), "{report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_privilege_that_is_taken_away_and_given_back() {
    let grants = "GRANT SELECT ON birds, fish TO LIMITED;
        CREATE PUBLICATION egret_main FOR TABLE birds, fish";
    let following = follow(limited(Database::create().await, grants).await, |_| {});
    following.follows("public.birds").await;
    following.follows("public.fish").await;
    run(&following.database, "REVOKE SELECT ON fish FROM LIMITED").await;
    // What is followed needs it no more.
    following.execute("UPDATE fish SET name = 'x' WHERE id < 50", &["fish"]).await;
    following.equals("fish", FISH).await;
    // What reads the table says so, and proves the others.
    let pipeline = following.pipeline();
    let number = pipeline.verify(VerifyOptions::default()).await.unwrap();
    pipeline.verified(number).await;
    let report = pipeline.verification();
    let round = report.last_round.unwrap();
    assert_eq!((round.state, round.unproven.len()), (RoundState::Done, 1), "{round:?}");
    assert_eq!(round.unproven[0].table, "public.fish");
    assert!(round.unproven[0].reason.contains("permission denied"), "{round:?}");
    // A copy has to wait, and searches see the older index.
    pipeline.copy("public.fish").await.unwrap();
    says(&following, "public.fish", &["may not read [public.fish]", "GRANT SELECT ON"]).await;
    assert_eq!(following.count("fish"), 100);
    following
        .execute("DELETE FROM birds WHERE id < 10; DELETE FROM fish WHERE id < 10", &["birds"])
        .await;
    following.equals("birds", BIRDS).await;
    run(&following.database, "GRANT SELECT ON fish TO LIMITED").await;
    following.follows("public.fish").await;
    following.equals("fish", FISH).await;
    verified(&following, VerifyOptions::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn publications_that_a_role_cannot_make() {
    let grants = "GRANT SELECT ON birds, fish TO LIMITED";
    let following = follow(limited(Database::create().await, grants).await, |config| {
        config.publication = None;
    });
    let (role, name) = (role(&following.database), following.database.name().to_owned());
    let grant = format!("GRANT CREATE ON DATABASE \"{name}\" TO \"{role}\"");
    following.fails_with(&["creating the publication", "42501", &grant]).await;
    run(&following.database, &grant).await;
    // It is made, and of tables that are not its own it may put none in.
    for title in ["public.birds", "public.fish"] {
        let reason = following.skips(title).await;
        assert!(
            reason.contains("does not own it") && reason.contains("ALTER PUBLICATION"),
            "{reason}"
        );
    }
    run(&following.database, "ALTER PUBLICATION egret_main ADD TABLE birds").await;
    following.follows("public.birds").await;
    following.equals("birds", BIRDS).await;
    run(&following.database, "ALTER TABLE fish OWNER TO LIMITED").await;
    following.follows("public.fish").await;
    following.equals("fish", FISH).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_star_that_stands_for_no_table() {
    let grants = "GRANT SELECT ON birds, fish TO LIMITED; CREATE PUBLICATION egret_main";
    let following = follow(limited(Database::create().await, grants).await, |config| {
        config.tables = vec!["*".to_owned()];
    });
    let reason = following.skips("*").await;
    assert!(
        reason.contains("[2] tables") && reason.contains("publication [egret_main]"),
        "{reason}"
    );
    run(&following.database, "ALTER PUBLICATION egret_main ADD TABLE birds").await;
    following.follows("public.birds").await;
    following.equals("birds", BIRDS).await;
    let tables = following.pipeline().status().tables;
    assert_eq!(tables.len(), 1, "{tables:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_that_leaves_something_out() {
    let grants = "GRANT SELECT ON birds, fish TO LIMITED;
        CREATE PUBLICATION egret_main FOR TABLE birds, fish WITH (publish = 'insert, update')";
    let following = follow(limited(Database::create().await, grants).await, |_| {});
    let remedy = "SET (publish = 'insert, update, delete, truncate')";
    following.fails_with(&["[egret_main]", "does not publish all", remedy]).await;
    run(&following.database, &format!("ALTER PUBLICATION egret_main {remedy}")).await;
    following.follows("public.birds").await;
    following.equals("birds", BIRDS).await;
}

/// Everything that would end a copy, or change what is read.
const SETTINGS: [&str; 12] = [
    "statement_timeout = 1000",
    "lock_timeout = 1",
    "idle_in_transaction_session_timeout = 1000",
    "idle_session_timeout = 1000",
    "transaction_timeout = 1000",
    "default_transaction_read_only = on",
    "default_transaction_isolation = serializable",
    "search_path = nowhere",
    "row_security = off",
    "role = nobody",
    "DateStyle = 'German'",
    "TimeZone = 'Asia/Kathmandu'",
];

/// Sets them for new sessions.
async fn set_all(database: &Database, whose: &str) {
    for setting in SETTINGS {
        let known = "SELECT count(*) FROM pg_settings WHERE name = $1";
        let (option, _) = setting.split_once(' ').unwrap();
        let row = database.client().query_one(known, &[&option]).await.unwrap();
        // PostgreSQL 17 has one more of them, and the role is no setting that is listed.
        if row.get::<_, i64>(0) == 1 || option == "role" {
            run(database, &format!("ALTER {whose} SET {setting}")).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_role_or_a_database_is_set_to() {
    for whose in ["ROLE LIMITED", "DATABASE HERE"] {
        let grants = "ALTER TABLE birds OWNER TO LIMITED; ALTER TABLE fish OWNER TO LIMITED;
            ALTER TABLE birds ADD seen timestamptz; UPDATE birds SET seen = '2024-02-03 04:05:06+00';
            INSERT INTO birds SELECT n, repeat('x', 5000), now()
                FROM generate_series(1000, 5000) AS n";
        let database = limited(Database::create().await, grants).await;
        let name = database.name().to_owned();
        run(&database, &format!("GRANT CREATE ON DATABASE {name} TO LIMITED")).await;
        run(
            &database,
            "DO $$ BEGIN CREATE ROLE nobody; EXCEPTION WHEN duplicate_object OR unique_violation THEN
             NULL; END $$",
        )
        .await;
        run(&database, "GRANT nobody TO LIMITED").await;
        set_all(&database, &whose.replace("HERE", &name)).await;
        // The copy, and the one statement that it is, take longer than any of the limits, also beyond what
        // the connection takes at once.
        let following = follow(database, |config| {
            config.publication = None;
            config.copy_max_bytes_per_second = 4 << 20;
            (config.copy_range_blocks, config.copy_batch_bytes) = (4096, 64 << 10);
        });
        following.follows("public.birds").await;
        following.follows("public.fish").await;
        following.execute("UPDATE fish SET name = 'later' WHERE id < 50", &["fish", "birds"]).await;
        following.equals("fish", FISH).await;
        assert_eq!(following.count("birds"), 4501);
        assert_eq!(following.document("birds", "7").unwrap()["seen"], "2024-02-03T04:05:06Z");
        let status = following.pipeline().status();
        assert_eq!((status.copies, status.connection_failures), (1, 0), "{status:#?}");
        verified(&following, VerifyOptions::default()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verification_keeps_to_a_smaller_limit_of_the_role() {
    let cluster = Arc::new(block_in_place(|| Cluster::start(ClusterOptions::default())));
    let grants =
        "GRANT SELECT ON birds, fish TO LIMITED; CREATE PUBLICATION egret_main FOR TABLE birds;
        UPDATE birds SET name = repeat(name, 100000) WHERE id <= 60";
    let following = follow(limited(Database::create_on(&cluster).await, grants).await, |config| {
        config.tables = vec!["birds".to_owned()];
    });
    following.follows("public.birds").await;
    run(&following.database, "ALTER ROLE LIMITED SET statement_timeout = 150").await;
    let report = verified(&following, VerifyOptions::default()).await;
    assert_eq!((report.tables[0].rows, report.differences.len()), (500, 0), "{report:#?}");
    let timeout = "canceling statement due to statement timeout";
    poll::until("a statement gave up", async || cluster.log().contains(timeout).then_some(()))
        .await;
}
