//! How rounds of verification go: by themselves and over restarts, beside changes that they must not
//! overwrite, in short statements, over keys of every kind.

use egret_cdc::verify::RoundState;
use egret_cdc::{PipelineState, VerifyOptions};
use egret_engine::batch::{Compose, WriteOp};
use egret_tests::poll;
use egret_tests::postgres::Database;
use serde_json::json;

use crate::verify::{
    BIRDS, alter, delete, finds_and_repairs, follow, found, repairing, upsert, verified,
};

/// Rows that the stream changes while they are looked at are never put back.
#[tokio::test(flavor = "multi_thread")]
async fn repairs_overwrite_nothing_newer() {
    let database = Database::create().await;
    database.execute(BIRDS).await;
    let following = follow(database, |_| {});
    following.follows("public.birds").await;
    let writer = following.database.connect().await;
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let writing = tokio::spawn(async move {
        let mut turn = 0;
        while stopped.try_recv().is_err() {
            turn += 1;
            let statements = format!(
                "UPDATE birds SET name = 'turn {turn}' WHERE id = 1 + {turn} % 50;
                 DELETE FROM birds WHERE id = 51 + {turn} % 50;
                 INSERT INTO birds VALUES (51 + ({turn} + 25) % 50, 'turn {turn}')
                   ON CONFLICT (id) DO UPDATE SET name = 'turn {turn}';
                 SELECT pg_sleep(0.03)"
            );
            writer.batch_execute(&statements).await.unwrap();
        }
        turn
    });
    let mut repaired = 0;
    for turn in 0..8 {
        let ids = (1..=100).filter(|id| id % 8 == turn).map(|id: i32| id.to_string());
        let wrong = |id: String| upsert(&id, &json!({"name": "wrong"}));
        let gone = |id: String| delete(&id);
        let spoil: fn(String) -> WriteOp = if turn % 2 == 0 { wrong } else { gone };
        let ops = ids.map(spoil);
        alter(&following, "birds", ops.collect(), Compose::default()).await;
        repaired += verified(&following, repairing(true)).await.last_round.unwrap().repaired;
    }
    stop.send(()).unwrap();
    let turns = writing.await.unwrap();
    poll::report(&format!("{repaired} documents repaired beside {turns} transactions"));
    assert!(turns > 8);
    assert_eq!(found(&following, true).await, [""; 0]);
    following.equals("birds", "SELECT id::text, row_to_json(birds)::text FROM birds").await;
}

/// Of itself it goes round, repairs, and knows after a restart what it has proven.
#[tokio::test(flavor = "multi_thread")]
async fn it_goes_round_by_itself() {
    let database = Database::create().await;
    database.execute(BIRDS).await;
    let mut following = follow(database, |config| {
        (config.verify.enabled, config.verify.pause_ms) = (true, 300);
        config.verify.rows_per_second = 20_000;
    });
    following.follows("public.birds").await;
    following.follows("public.nests").await;
    alter(
        &following,
        "birds",
        vec![delete("3"), upsert("900", &json!({"id": 1}))],
        Compose::default(),
    )
    .await;
    let repaired = async || {
        let report = following.pipeline().verification();
        (report.repaired_total == 2).then_some(report)
    };
    let report = poll::until("both are repaired", repaired).await;
    assert_eq!(report.differences_total, 2, "{report:#?}");
    following.equals("birds", "SELECT id::text, row_to_json(birds)::text FROM birds").await;
    let rounds = || following.pipeline().verification().last_round.map_or(0, |last| last.number);
    let before = rounds();
    poll::until("more rounds", async || (rounds() > before + 1).then_some(())).await;
    // One that is asked for goes first.
    verified(&following, repairing(false)).await;
    following.stop().await;
    (following.config.verify.enabled, following.config.verify.pause_ms) = (true, 3_600_000);
    following.resume();
    following.reaches(PipelineState::Streaming).await;
    let proven = async || {
        let report = following.pipeline().verification();
        (report.tables.len() == 2 && report.next_round_ms.is_some()).then_some(report)
    };
    let report = poll::until("what was proven before the restart", proven).await;
    assert!(report.last_round.is_none(), "{report:#?}");
    assert!(report.tables.iter().all(|it| it.proven_ms.is_some() && !it.ranges.is_empty()));
    // Another index was not proven.
    following.pipeline().copy("public.birds").await.unwrap();
    following.comes_to("another copy", |status| status.copies == 1).await;
    following.follows("public.birds").await;
    poll::until("what took its place is not proven", async || {
        (following.pipeline().verification().tables.len() == 1).then_some(())
    })
    .await;
}

/// No statement waits longer than it may, and a table that is locked for a while is proven afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn statements_are_short() {
    let database = Database::create().await;
    database.execute(BIRDS).await;
    let following = follow(database, |config| {
        config.verify.statement_timeout_ms = 50;
        config.reconnect_max_ms = 500;
    });
    following.follows("public.birds").await;
    let locker = following.database.connect().await;
    locker.batch_execute("BEGIN; LOCK TABLE birds IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let table = Some("public.birds".to_owned());
    let options = VerifyOptions { table, ..repairing(true) };
    let number = following.pipeline().verify(options).await.unwrap();
    let cluster = following.database.cluster();
    let timeout = "canceling statement due to statement timeout";
    poll::until("a statement gives up", async || cluster.log().contains(timeout).then_some(()))
        .await;
    locker.batch_execute("COMMIT").await.unwrap();
    following.pipeline().verified(number).await;
    let last = following.pipeline().verification().last_round.unwrap();
    assert_eq!((last.state, last.rows, last.differences), (RoundState::Done, 350, 0), "{last:#?}");
    assert_eq!(last.unproven, []);
}

/// Keys of types whose order and operators are their own.
#[tokio::test(flavor = "multi_thread")]
async fn keys_of_every_kind() {
    let database = Database::create().await;
    database
        .execute(
            "CREATE TYPE mood AS ENUM ('zesty', 'calm', 'angry');
             CREATE DOMAIN code AS varchar(20) CHECK (VALUE <> '');
             CREATE TABLE moods (m mood, n numeric, PRIMARY KEY (m, n));
             INSERT INTO moods SELECT m, (n / 4.0)::numeric(9, 2) FROM unnest(enum_range(NULL::mood)) AS m,
               generate_series(1, 100) AS n;
             CREATE TABLE codes (c code PRIMARY KEY, f float8);
             INSERT INTO codes SELECT 'Ä' || n, n FROM generate_series(1, 150) AS n;
             CREATE TABLE padded (c char(8) PRIMARY KEY);
             INSERT INTO padded SELECT 'p' || n FROM generate_series(1, 150) AS n;
             CREATE TABLE floats (f float8 PRIMARY KEY);
             INSERT INTO floats SELECT n / 3.0 FROM generate_series(1, 150) AS n;
             INSERT INTO floats VALUES ('NaN'), ('-Infinity'), ('1e-300');
             CREATE TABLE days (d timestamptz PRIMARY KEY);
             INSERT INTO days SELECT timestamptz '2024-01-01 00:00:00.123+03' + n * interval '7 hours'
               FROM generate_series(1, 150) AS n;
             CREATE TABLE arrays (a int[] PRIMARY KEY);
             INSERT INTO arrays SELECT ARRAY[n % 12, n] FROM generate_series(1, 150) AS n;
             CREATE TABLE uuids (u uuid PRIMARY KEY);
             INSERT INTO uuids SELECT md5(n::text)::uuid FROM generate_series(1, 150) AS n",
        )
        .await;
    let following = follow(database, |config| config.verify.range_rows = 40);
    for table in ["moods", "codes", "padded", "floats", "days", "arrays", "uuids"] {
        following.follows(&format!("public.{table}")).await;
    }
    assert_eq!(found(&following, true).await, [""; 0]);
    let report = following.pipeline().verification();
    let rows: Vec<u64> = report.tables.iter().map(|it| it.rows).collect();
    assert_eq!(rows.iter().sum::<u64>(), 300 + 5 * 150 + 153, "{report:#?}");
    assert!(report.tables.iter().all(|it| it.rows == it.documents && it.ranges.len() >= 3));
    for (index, id) in
        [("moods", "calm,0.25"), ("padded", "p7"), ("floats", "NaN"), ("codes", "Ä9")]
    {
        alter(
            &following,
            index,
            vec![delete(id), upsert("nonsense", &json!({}))],
            Compose::default(),
        )
        .await;
    }
    let expected = [
        "public.codes nonsense LeftOver",
        "public.codes Ä9 Missing",
        "public.floats NaN Missing",
        "public.floats nonsense LeftOver",
        "public.moods calm,0.25 Missing",
        "public.moods nonsense LeftOver",
        "public.padded nonsense LeftOver",
        "public.padded p7 Missing",
    ];
    finds_and_repairs(&following, &expected).await;
}
