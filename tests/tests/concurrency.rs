//! Heavy searches: they starve nothing else, end when nobody waits for them, and are held to their
//! time and memory.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use egret_tests::egret::{Answer, Egret, EgretOptions};
use egret_tests::poll;
use reqwest::Method;
use serde_json::{Value, json};

/// What other requests may take while searches use all the threads that they have. On an idle
/// machine it is a few milliseconds; the searches would take minutes.
const BOUND: Duration = Duration::from_secs(20);

/// How soon the thread of a search that nobody waits for is free: milliseconds on an idle machine.
const FREED: Duration = Duration::from_secs(20);

async fn egret(configuration: &str, documents: usize) -> Egret {
    let options = EgretOptions { configuration: configuration.into(), ..EgretOptions::default() };
    let egret = Egret::start(options);
    let mut lines = Vec::new();
    for n in 0..documents {
        lines.push(json!({"index": {"_id": n.to_string()}}));
        lines.push(json!({"n": n, "tag": format!("a rather long tag {n}")}));
    }
    let answer = egret.bulk("/birds/_bulk?refresh=true", &lines).await.ok();
    assert_eq!(answer["errors"], false);
    egret
}

/// As many buckets within buckets as there may be, for every document.
fn filters(count: usize, within: Option<Value>) -> Value {
    let all: Vec<Value> = (0..count).map(|_| json!({"match_all": {}})).collect();
    let named: serde_json::Map<String, Value> =
        all.into_iter().enumerate().map(|(at, query)| (format!("f{at}"), query)).collect();
    let mut aggregation = json!({"filters": {"filters": named}});
    if let Some(within) = within {
        aggregation["aggs"] = json!({"within": within});
    }
    aggregation
}

/// A search that would take minutes; different numbers make different requests.
fn heavy(number: usize) -> Value {
    let deep = filters(90, Some(filters(90, Some(filters(90, None)))));
    json!({"size": number, "track_total_hits": true, "aggs": {"deep": deep}})
}

/// One that takes a second or so.
fn slow() -> Value {
    json!({"size": 0, "aggs": {"deep": filters(50, Some(filters(50, None)))}})
}

async fn metric(egret: &Egret, name: &str) -> u64 {
    let page = egret.get("/metrics").await.text;
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name}")).parse().unwrap()
}

async fn searches(egret: &Egret) -> (u64, u64) {
    let active = metric(egret, "egret_pool_active{pool=\"search\"}").await;
    (active, metric(egret, "egret_pool_waiting{pool=\"search\"}").await)
}

async fn until_searches(egret: &Egret, active: u64, waiting: u64) -> Duration {
    let begin = Instant::now();
    let wanted = (active, waiting);
    poll::until("so many searches", async || (searches(egret).await == wanted).then_some(())).await;
    begin.elapsed()
}

/// Sends a search without waiting for its answer.
fn ask(egret: &Egret, body: &Value) -> tokio::task::JoinHandle<Option<Answer>> {
    let request = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = request.post(egret.url("/birds/_search")).json(body);
    let request = request.header("x-opaque-id", "heavy");
    tokio::spawn(async move {
        let response = request.send().await.ok()?;
        let status = response.status().as_u16();
        let text = response.text().await.ok()?;
        let body = serde_json::from_str(&text).unwrap_or_default();
        Some(Answer { status, headers: Vec::new(), text, body })
    })
}

async fn tasks(egret: &Egret) -> Vec<(String, Value)> {
    let listed = egret.get("/_tasks?actions=*search*&detailed&group_by=parents").await.ok();
    let tasks = listed["tasks"].as_object().unwrap().clone();
    tasks.into_iter().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn heavy_searches_starve_nothing_else_and_end_when_their_clients_leave() {
    let egret = egret("[pools]\nsearch_threads = 1\nsearch_queue = 2\n", 5_000).await;
    let heavies: Vec<_> = (1..=3).map(|number| ask(&egret, &heavy(number))).collect();
    until_searches(&egret, 1, 2).await;
    let refused = egret.post("/birds/_search", &heavy(4)).await;
    assert_eq!(refused.status, 429, "{}", refused.text);
    assert_eq!(refused.body["error"]["type"], "es_rejected_execution_exception");
    assert!(refused.text.contains("pool [search]"), "{}", refused.text);
    let mut slowest = Duration::ZERO;
    for turn in 0..20 {
        let document = json!({"n": turn});
        for (method, path, body) in [
            (Method::GET, "/birds/_doc/7", &Value::Null),
            (Method::GET, "/health/ready", &Value::Null),
            (Method::PUT, "/birds/_doc/new", &document),
        ] {
            let begin = Instant::now();
            let answer = egret.request(method, path, body).await;
            answer.ok();
            let took = begin.elapsed();
            assert!(took < BOUND, "{path} took {took:?}");
            slowest = slowest.max(took);
        }
    }
    assert_eq!(searches(&egret).await, (1, 2), "the searches went on all the while");
    heavies.iter().for_each(tokio::task::JoinHandle::abort);
    let freed = until_searches(&egret, 0, 0).await;
    println!("slowest of the others {slowest:?}, thread free after {freed:?}");
    assert!(freed < FREED, "the thread is free only after {freed:?}");
    assert_eq!(metric(&egret, "egret_search_memory_bytes").await, 0);
    egret.search("birds", &json!({"query": {"match_all": {}}})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_is_a_task_that_can_be_cancelled() {
    let egret = egret("[pools]\nsearch_threads = 1\n", 5_000).await;
    let (running, queued) = (ask(&egret, &heavy(1)), ask(&egret, &heavy(2)));
    until_searches(&egret, 1, 1).await;
    let listed = tasks(&egret).await;
    assert_eq!(listed.len(), 2);
    for (_, task) in &listed {
        assert_eq!(task["action"], "indices:data/read/search");
        assert_eq!(task["cancellable"], true);
        assert_eq!(task["headers"]["X-Opaque-Id"], "heavy");
        assert!(task["description"].as_str().unwrap().starts_with("indices[birds]"), "{task}");
    }
    for (id, _) in &listed {
        egret.post(&format!("/_tasks/{id}/_cancel"), &Value::Null).await.ok();
    }
    for asked in [running, queued] {
        let answer = asked.await.unwrap().unwrap();
        assert_eq!(answer.status, 400, "{}", answer.text);
        assert_eq!(answer.body["error"]["type"], "task_cancelled_exception");
        assert!(answer.text.contains("by user request"), "{}", answer.text);
    }
    until_searches(&egret, 0, 0).await;
    assert!(tasks(&egret).await.is_empty());
    let (id, _) = &listed[0];
    assert_eq!(egret.get(&format!("/_tasks/{id}")).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_the_same_answer_takes_over_when_the_first_leaves() {
    let egret = egret("[pools]\nsearch_threads = 2\n", 5_000).await;
    let body = slow();
    let first = ask(&egret, &body);
    until_searches(&egret, 1, 0).await;
    let led = tasks(&egret).await;
    let second = ask(&egret, &body);
    // The second asks nothing of the engine: it waits for the first.
    poll::until("both asked", async || {
        let flights = egret.get("/_cache/stats").await.ok()["flights"].clone();
        (flights == 1).then_some(())
    })
    .await;
    assert_eq!(searches(&egret).await, (1, 0));
    first.abort();
    let answer = second.await.unwrap().unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(answer.body["timed_out"], false);
    let buckets = &answer.body["aggregations"]["deep"]["buckets"];
    assert_eq!(buckets["f49"]["within"]["buckets"]["f49"]["doc_count"], 5_000);
    assert_eq!(led.len(), 1);
    // The whole answer is the one that is kept.
    let again = egret.post("/birds/_search", &body).await;
    assert_eq!(again.header("egret-cache"), Some("hit"));
    assert_eq!(&again.ok()["aggregations"]["deep"]["buckets"], buckets);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_search_finds_in_its_time_is_answered_and_never_kept() {
    let egret = egret("", 20_000).await;
    let mut body = slow();
    body["timeout"] = "5ms".into();
    for _ in 0..2 {
        let answer = egret.post("/birds/_search", &body).await;
        assert_eq!(answer.header("egret-cache"), Some("miss"));
        let answer = answer.ok();
        assert_eq!(answer["timed_out"], true);
        assert_eq!(answer["hits"]["total"]["relation"], "gte");
        let count = &answer["aggregations"]["deep"]["buckets"]["f0"]["doc_count"];
        assert!(count.as_u64().unwrap() < 20_000, "{count}");
    }
    let path = "/birds/_search?allow_partial_search_results=false";
    let refused = egret.post(path, &body).await;
    assert_eq!(refused.status, 504, "{}", refused.text);
    let few = json!({"terminate_after": 5, "query": {"match_all": {}}});
    for _ in 0..2 {
        let answer = egret.post("/birds/_search", &few).await;
        assert_eq!(answer.header("egret-cache"), Some("miss"));
        assert_eq!(answer.ok()["terminated_early"], true);
    }
    assert_eq!(egret.get("/_cache/stats").await.ok()["stored"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_is_limited_and_the_limit_named() {
    let limits = "[search]\nmax_request_memory_bytes = 1000000\nmax_memory_bytes = 3000000\n";
    let egret = egret(limits, 10_000).await;
    let buckets = json!({"size": 0, "aggs": {"tags": {"terms": {"field": "tag.keyword"}}}});
    let hits = json!({"size": 10_000});
    for body in [&buckets, &hits, &buckets] {
        let answer = egret.post("/birds/_search", body).await;
        assert_eq!(answer.status, 429, "{}", answer.text);
        let error = &answer.body["error"];
        assert_eq!(error["type"], "circuit_breaking_exception");
        assert_eq!(error["root_cause"][0]["type"], "circuit_breaking_exception");
        assert_eq!(error["bytes_limit"], 1_000_000);
        assert!(error["bytes_wanted"].as_u64().unwrap() > 1_000_000, "{error}");
        assert_eq!(error["durability"], "PERMANENT");
        let reason = error["reason"].as_str().unwrap();
        assert!(reason.contains("[search.max_request_memory_bytes]"), "{reason}");
    }
    assert_eq!(metric(&egret, "egret_search_memory_bytes").await, 0);
    assert_eq!(metric(&egret, "egret_search_memory_refused_total").await, 3);
    let pages = egret.search("birds", &json!({"size": 100})).await;
    assert_eq!(pages["hits"]["hits"].as_array().unwrap().len(), 100);
}
