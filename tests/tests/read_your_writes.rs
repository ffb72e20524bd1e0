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

/// A slow machine may need longer than reads wait of themselves.
const PATIENTLY: &str = "wait_for_timeout=60s";

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
        let answer =
            search(&egret, "birds", &format!("wait_for_lsn={token}&{PATIENTLY}"), id).await;
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

#[tokio::test(flavor = "multi_thread")]
async fn a_hit_names_the_commit_that_wrote_it() {
    let (database, egret) = following().await;
    let before = number(&database, &database.flush_lsn().await).await;
    database.execute("INSERT INTO birds VALUES (1000, 'new')").await;
    let lsn = database.flush_lsn().await;
    let parameters =
        format!("wait_for_lsn={lsn}&{PATIENTLY}&version=true&seq_no_primary_term=true");
    let hit = search(&egret, "birds", &parameters, 1000).await.ok()["hits"]["hits"][0].clone();
    let version = hit["_version"].as_u64().unwrap();
    let after = number(&database, &lsn).await;
    assert!(before < version && version <= after, "{before} < {version} <= {after}");
    assert!(hit["_seq_no"].is_u64() && hit["_primary_term"].is_u64(), "{hit}");
    let document = egret.get("/birds/_doc/1000").await.ok();
    assert_eq!(document["_version"], version);
}

/// A position as a number.
async fn number(database: &Database, lsn: &str) -> u64 {
    let query = format!("SELECT ('{lsn}'::pg_lsn - '0/0'::pg_lsn)::text");
    let text: String = database.client().query_one(&query, &[]).await.unwrap().get(0);
    text.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_read_waits_and_says_how_fresh_it_is() {
    let (database, egret) = following().await;
    for turn in 0..10 {
        let id = 1000 + turn;
        database.execute(&format!("INSERT INTO birds VALUES ({id}, 'new')")).await;
        let lsn = database.flush_lsn().await;
        let least = number(&database, &lsn).await;
        let query = json!({"query": {"term": {"id": id}}});
        let wait = format!("wait_for_lsn={lsn}&{PATIENTLY}");
        let lines = [json!({"index": "birds"}), query.clone(), json!({}), query.clone()];
        let reads = [
            egret.post(&format!("/birds/_count?{wait}"), &query).await,
            egret.get(&format!("/birds/_doc/{id}?{wait}")).await,
            egret.get(&format!("/birds/_source/{id}?{wait}")).await,
            egret.post(&format!("/birds/_mget?{wait}"), &json!({"ids": [id.to_string()]})).await,
            egret.bulk(&format!("/birds/_msearch?{wait}"), &lines).await,
        ];
        for answer in &reads {
            assert_eq!(answer.status, 200, "{}", answer.text);
            let reflected = number(&database, answer.header("egret-lsn").unwrap()).await;
            assert!(reflected >= least, "{reflected} before {least}: {}", answer.text);
        }
        let [count, _, _, many, searches] = reads;
        assert_eq!(count.body["count"], 1);
        assert_eq!(many.body["docs"][0]["found"], true, "{}", many.text);
        for found in searches.body["responses"].as_array().unwrap() {
            assert_eq!(found["hits"]["total"]["value"], 1, "{found}");
        }
    }
    // A deadline holds for each of them, and what may not wait says why.
    let never = "wait_for_lsn=FFFFFFFF/0&wait_for_timeout=50ms";
    let ids = json!({"ids": ["1"]});
    assert_eq!(egret.get(&format!("/birds/_count?{never}")).await.status, 504);
    assert_eq!(egret.get(&format!("/birds/_doc/1?{never}")).await.status, 504);
    assert_eq!(egret.post(&format!("/birds/_mget?{never}"), &ids).await.status, 504);
    let lines = [json!({}), json!({})];
    let answer = egret.bulk(&format!("/birds/_msearch?{never}"), &lines).await.ok();
    assert_eq!(answer["responses"][0]["status"], 504, "{answer}");
    egret.put("/alone/_doc/1", &json!({"id": 1})).await.ok();
    let apart = json!({"docs": [{"_index": "birds", "_id": "1"}, {"_index": "alone", "_id": "1"}]});
    let answer = egret.post("/_mget?wait_for_lsn=0/0", &apart).await;
    assert_eq!(answer.status, 400, "{}", answer.text);
    assert!(answer.text.contains("alone"), "{}", answer.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_sees_its_writes_without_knowing_positions() {
    let (database, egret) = following().await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let get = async |path: String, consistency: &str| {
        let request = client.get(egret.url(&path)).header("egret-consistency", consistency);
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        (status, response.text().await.unwrap())
    };
    for id in 1000..1040 {
        // Every other one does not wait for the disk, and is in the log all the same.
        let waits = if id % 2 == 0 { "on" } else { "off" };
        let insert = format!("INSERT INTO birds VALUES ({id}, 'new')");
        database.execute(&format!("SET synchronous_commit = {waits}; {insert}")).await;
        let (found, document, count) = tokio::join!(
            get(format!("/birds/_search?q=id:{id}&rest_total_hits_as_int=true"), "session"),
            get(format!("/birds/_doc/{id}"), "session"),
            get(format!("/birds/_count?q=id:{id}"), "session"),
        );
        assert_eq!((found.0, document.0, count.0), (200, 200, 200), "{id}");
        assert!(found.1.contains("\"total\":1"), "{id}: {}", found.1);
        assert!(count.1.contains("\"count\":1"), "{id}: {}", count.1);
    }
    let refused = async |path: &str, consistency: &str, status: u16, named: &str| {
        let answer = get(path.to_owned(), consistency).await;
        assert_eq!(answer.0, status, "{}", answer.1);
        assert!(answer.1.contains(named), "{}", answer.1);
    };
    egret.put("/alone/_doc/1", &json!({"id": 1})).await.ok();
    refused("/birds/_search", "tomorrow", 400, "tomorrow").await;
    refused("/alone/_search", "session", 400, "alone").await;
    refused("/birds/_search?wait_for_lsn=0/0", "session", 400, "exclude each other").await;
    // All who ask at once share a connection, and few questions.
    let query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                 AND query LIKE 'SELECT pg_current_wal_insert_lsn()%' AND pid <> pg_backend_pid()";
    let connections: i64 = database.client().query_one(query, &[]).await.unwrap().get(0);
    assert_eq!(connections, 1);
}

/// A point in time shows what it showed when it was opened, so it has a position or never will.
#[tokio::test(flavor = "multi_thread")]
async fn a_point_in_time_has_a_position_or_says_that_it_never_will() {
    let (database, egret) = following().await;
    let open = async |path: String| {
        let opened = egret.post(&path, &json!(null)).await.ok();
        opened["id"].as_str().unwrap().to_owned()
    };
    let before = database.flush_lsn().await;
    let id = open(format!("/birds/_pit?keep_alive=1m&wait_for_lsn={before}")).await;
    database.execute("INSERT INTO birds VALUES (1000, 'new')").await;
    let after = database.flush_lsn().await;
    let wait = format!("wait_for_lsn={after}&{PATIENTLY}");
    assert_eq!(search(&egret, "birds", &wait, 1000).await.status, 200);
    let history = history(&database).await;
    let system = history.split('/').next().unwrap();
    let check = async |id: &str, parameters: String, status: u16, named: &str| {
        let body = json!({"pit": {"id": id}, "size": 0, "track_total_hits": true});
        let answer = egret.post(&format!("/_search?{parameters}"), &body).await;
        assert_eq!(answer.status, status, "{parameters}: {}", answer.text);
        assert!(answer.text.contains(named), "{parameters}: {}", answer.text);
    };
    check(&id, format!("wait_for_lsn={before}"), 200, "\"value\":100").await;
    check(&id, format!("wait_for_lsn={history}{before}&wait_for_timeout=1s"), 200, "100").await;
    check(&id, format!("wait_for_lsn={after}"), 409, "open another one").await;
    check(&id, format!("wait_for_lsn={system}/77/{before}"), 409, "another history").await;
    check(&id, "wait_for_lsn=tomorrow".to_owned(), 400, "tomorrow").await;
    check(&id, "wait_for_timeout=1s".to_owned(), 400, "needs [wait_for_lsn]").await;
    egret.put("/alone/_doc/1?refresh=true", &json!({"id": 1})).await.ok();
    for path in ["/alone/_pit?keep_alive=1m", "/birds,alone/_pit?keep_alive=1m"] {
        let apart = open(path.to_owned()).await;
        check(&apart, format!("wait_for_lsn={before}"), 400, "alone").await;
    }
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = client.post(egret.url("/_search")).header("egret-consistency", "session");
    let answer = request.json(&json!({"pit": {"id": id}})).send().await.unwrap();
    assert_eq!(answer.status(), 400);
    assert!(answer.text().await.unwrap().contains("opens a point in time"));
}
