//! `wait_for_lsn`: a search that waits for a position sees what was committed before it, and says
//! clearly when it cannot.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use egret_tests::egret::{Answer, Egret, EgretOptions};
use egret_tests::poll;
use egret_tests::postgres::Database;
use serde_json::json;
use tokio::task::block_in_place;

const TABLE: &str = "CREATE TABLE birds (id int PRIMARY KEY, name text);
                     INSERT INTO birds SELECT n, 'egret ' || n FROM generate_series(1, 100) AS n";

async fn following() -> (Database, Egret) {
    let database = Database::create().await;
    database.execute(TABLE).await;
    let egret = block_in_place(|| Egret::start(EgretOptions::following(database.url(), "birds")));
    poll::until("100 birds", async || (egret.count("birds").await == Some(100)).then_some(()))
        .await;
    (database, egret)
}

async fn search(egret: &Egret, index: &str, parameters: &str, id: i32) -> Answer {
    let body = json!({"query": {"term": {"id": id}}});
    egret.post(&format!("/{index}/_search?{parameters}"), &body).await
}

/// `<system identifier>/<timeline>/`: what comes before the LSN in a full token.
async fn history(database: &Database) -> String {
    let query = "SELECT system_identifier::text || '/' || timeline_id || '/'
                   FROM pg_control_system(), pg_control_checkpoint()";
    database.client().query_one(query, &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_is_seen_by_the_search_that_waits_for_it() {
    let (database, egret) = following().await;
    let history = history(&database).await;
    for turn in 0..40 {
        let id = 1000 + turn;
        database.execute(&format!("INSERT INTO birds VALUES ({id}, 'new')")).await;
        let lsn = database.flush_lsn().await;
        let token = if turn % 2 == 0 { lsn.clone() } else { format!("{history}{lsn}") };
        let answer = search(&egret, "birds", &format!("wait_for_lsn={token}"), id).await;
        let reflected = answer.header("egret-lsn").unwrap().to_owned();
        let position = answer.header("egret-position").unwrap().to_owned();
        let body = answer.ok();
        assert_eq!(body["hits"]["total"]["value"], 1, "turn {turn}, {token}: {body}");
        let compare = format!("SELECT '{reflected}'::pg_lsn >= '{lsn}'::pg_lsn");
        let at_least: bool = database.client().query_one(&compare, &[]).await.unwrap().get(0);
        assert!(at_least, "the answer reflects {reflected}, before {lsn}");
        assert_eq!(position, format!("{history}{reflected}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_that_cannot_wait_says_why() {
    let (database, egret) = following().await;
    egret.put("/alone/_doc/1", &json!({"id": 1})).await.ok();
    let lsn = database.flush_lsn().await;
    let check = async |index: &str, parameters: &str, status: u16, named: &str| {
        let answer = search(&egret, index, parameters, 1).await;
        assert_eq!(answer.status, status, "{parameters}: {}", answer.text);
        assert!(answer.text.contains(named), "{parameters}: {}", answer.text);
    };
    check("birds", &format!("wait_for_lsn={lsn}"), 200, "egret 1").await;
    check("birds", "wait_for_lsn=0/0", 200, "egret 1").await;
    check("alone", &format!("wait_for_lsn={lsn}"), 400, "alone").await;
    check("birds,alone", &format!("wait_for_lsn={lsn}"), 400, "alone").await;
    check("birds", "wait_for_lsn=tomorrow", 400, "tomorrow").await;
    check("birds", "wait_for_timeout=1s", 400, "wait_for_lsn").await;
    check("birds", &format!("wait_for_lsn=12345/1/{lsn}"), 409, "12345").await;
    let system = history(&database).await.split('/').next().unwrap().to_owned();
    check("birds", &format!("wait_for_lsn={system}/77/{lsn}"), 409, "77").await;
    let future = "wait_for_lsn=FFFFFFFF/0&wait_for_timeout=200ms";
    check("birds", future, 504, "200ms").await;
    // The position that was reached is named.
    let answer = search(&egret, "birds", future, 1).await;
    let system_high = lsn.split('/').next().unwrap();
    assert!(answer.text.contains(&format!("[{system_high}/")), "{}", answer.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_followed_index_refuses_writes() {
    let (_database, egret) = following().await;
    let check = |answer: Answer| {
        assert_eq!(answer.status, 403, "{}", answer.text);
        assert!(answer.text.contains("main"), "the pipeline is named: {}", answer.text);
    };
    check(egret.put("/birds/_doc/1", &json!({"name": "cuckoo"})).await);
    check(egret.delete("/birds/_doc/1").await);
    check(egret.delete("/birds").await);
    let lines = [json!({"index": {"_index": "birds", "_id": "1"}}), json!({"name": "cuckoo"})];
    let answer = egret.bulk("/_bulk", &lines).await.ok();
    assert_eq!(answer["items"][0]["index"]["status"], 403, "{answer}");
    assert_eq!(egret.count("birds").await, Some(100));
}
