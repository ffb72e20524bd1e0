//! Updates, deletes and copies by query: what they do, that they are tasks, and that nothing that
//! others write meanwhile is lost.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::sync::atomic::{AtomicBool, Ordering};

use egret_tests::egret::{Egret, EgretOptions};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

/// Documents `0..count` with a number `n` each, refreshed.
async fn numbers(count: usize) -> Egret {
    let egret = Egret::start(EgretOptions::default());
    let mut lines = Vec::new();
    for n in 0..count {
        lines.push(json!({"index": {"_id": n.to_string()}}));
        lines.push(json!({"n": n, "old": true}));
    }
    let answer = egret.bulk("/numbers/_bulk?refresh=true", &lines).await.ok();
    assert_eq!(answer["errors"], false, "{answer}");
    egret
}

/// The documents of an index, by their ids.
async fn documents(egret: &Egret, index: &str) -> std::collections::BTreeMap<String, (u64, Value)> {
    egret.post(&format!("/{index}/_refresh"), &Value::Null).await.ok();
    let answer = egret.search(index, &json!({"size": 10_000, "version": true})).await;
    let hits = answer["hits"]["hits"].as_array().unwrap().clone();
    let one = |hit: &Value| {
        let version = hit["_version"].as_u64().unwrap();
        (hit["_id"].as_str().unwrap().to_owned(), (version, hit["_source"].clone()))
    };
    hits.iter().map(one).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_are_updated_copied_and_deleted() {
    let egret = numbers(25).await;
    let some = json!({"query": {"range": {"n": {"lt": 10}}}});
    let updated =
        egret.post("/numbers/_update_by_query?scroll_size=4&refresh=true", &some).await.ok();
    let shown = (&updated["total"], &updated["updated"], &updated["batches"]);
    assert_eq!(shown, (&json!(10), &json!(10), &json!(3)), "{updated}");
    assert_eq!((&updated["failures"], updated.get("created")), (&json!([]), None));
    assert_eq!(egret.get("/numbers/_doc/3").await.ok()["_version"], 2);
    assert_eq!(egret.get("/numbers/_doc/12").await.ok()["_version"], 1);

    let copy = json!({
        "source": {"index": "numbers", "query": {"range": {"n": {"gte": 5}}}, "_source": ["n"]},
        "dest": {"index": "copy", "version_type": "external"}, "max_docs": 20});
    let copied = egret.post("/_reindex?refresh=true&slices=3", &copy).await.ok();
    assert_eq!((&copied["created"], &copied["total"]), (&json!(20), &json!(20)), "{copied}");
    assert_eq!(copied["slices"].as_array().unwrap().len(), 3);
    let copies = documents(&egret, "copy").await;
    assert_eq!(copies["7"], (2, json!({"n": 7})));
    assert_eq!(copies["12"], (1, json!({"n": 12})));
    // The same versions are there already.
    let again = egret.post("/_reindex", &copy).await;
    assert_eq!((again.status, &again.body["created"]), (409, &json!(0)), "{}", again.text);
    assert_eq!(again.body["failures"][0]["cause"]["type"], "version_conflict_engine_exception");
    let create = json!({
        "conflicts": "proceed", "source": {"index": "numbers"},
        "dest": {"index": "copy", "op_type": "create"}});
    let created = egret.post("/_reindex?refresh", &create).await.ok();
    let shown = (&created["created"], &created["version_conflicts"]);
    assert_eq!(shown, (&json!(5), &json!(20)), "{created}");

    let few = egret.post("/numbers/_update_by_query?max_docs=3", &Value::Null).await.ok();
    assert_eq!((&few["updated"], &few["total"]), (&json!(3), &json!(3)), "{few}");
    egret.post("/numbers/_refresh", &Value::Null).await.ok();

    let deleted = egret.post("/numbers/_delete_by_query?q=n:[0%20TO%2019]&refresh", &Value::Null);
    let deleted = deleted.await.ok();
    assert_eq!((&deleted["deleted"], deleted.get("updated")), (&json!(20), None));
    assert_eq!(egret.count("numbers").await, Some(5));
    assert_eq!(egret.count("copy").await, Some(25));
}

/// What an alias leaves out is neither read nor changed through it.
#[tokio::test(flavor = "multi_thread")]
async fn a_filtered_alias_bounds_what_is_done_by_query() {
    let egret = numbers(30).await;
    let low = json!({"filter": {"range": {"n": {"lt": 10}}}});
    egret.put("/numbers/_alias/low", &low).await.ok();
    let all = json!({"query": {"match_all": {}}});
    let updated = egret.post("/low/_update_by_query?refresh=true&slices=2", &all).await.ok();
    assert_eq!(updated["updated"], 10, "{updated}");
    assert_eq!(egret.get("/numbers/_doc/3").await.ok()["_version"], 2);
    assert_eq!(egret.get("/numbers/_doc/10").await.ok()["_version"], 1);
    let copy = json!({"source": {"index": "low"}, "dest": {"index": "copy"}});
    let copied = egret.post("/_reindex?refresh=true", &copy).await.ok();
    assert_eq!(copied["created"], 10, "{copied}");
    let some = json!({"query": {"range": {"n": {"gte": 5}}}});
    let deleted = egret.post("/low/_delete_by_query?refresh=true&slices=3", &some).await.ok();
    assert_eq!(deleted["deleted"], 5, "{deleted}");
    let left = documents(&egret, "numbers").await;
    let expected = (0..5).chain(10..30).map(|n: u32| n.to_string()).collect();
    assert_eq!(left.into_keys().collect::<std::collections::BTreeSet<_>>(), expected);
    assert_eq!(egret.count("copy").await, Some(10));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_is_made_or_changed_by_updates_at_once() {
    let egret = Egret::start(EgretOptions::default());
    let path = "/counters/_update/1?retry_on_conflict=3";
    let change = json!({"doc": {"b": 2}, "upsert": {"a": 1}});
    let made = egret.post(path, &change).await;
    assert_eq!((made.status, &made.body["result"]), (201, &json!("created")), "{}", made.text);
    assert_eq!(egret.get("/counters/_source/1").await.ok(), json!({"a": 1}));
    assert_eq!(egret.post(path, &change).await.ok()["result"], "updated");
    assert_eq!(egret.get("/counters/_source/1").await.ok(), json!({"a": 1, "b": 2}));
    let missing = egret.post("/counters/_update/2", &json!({"doc": {"b": 2}})).await;
    assert_eq!(missing.status, 404, "{}", missing.text);
    // None of many at once is lost, nor refused.
    let field = |n: u32| {
        let (egret, body) = (&egret, json!({"doc": {format!("f{n}"): n}}));
        async move { egret.post(path, &body).await.ok() }
    };
    futures_util::future::join_all((0..40).map(field)).await;
    let document = egret.get("/counters/_doc/1").await.ok();
    assert_eq!(document["_version"], 42);
    assert_eq!(document["_source"].as_object().unwrap().len(), 42, "{document}");
    let lines = [json!({"update": {"_id": "3", "retry_on_conflict": 2}}), change];
    let bulk = egret.bulk("/counters/_bulk", &lines).await.ok();
    assert_eq!(bulk["items"][0]["update"]["status"], 201, "{bulk}");
    assert_eq!(egret.get("/counters/_source/3").await.ok(), json!({"a": 1}));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_done_is_refused_by_name() {
    let egret = numbers(3).await;
    let check = async |path: &str, body: Value, part: &str| {
        let answer = egret.post(path, &body).await;
        assert_eq!(answer.status, 400, "{path}: {}", answer.text);
        let reason = answer.body["error"]["reason"].as_str().unwrap().to_owned();
        assert!(reason.contains(part), "{path}: {reason}");
    };
    let all = json!({"query": {"match_all": {}}});
    check("/numbers/_delete_by_query", json!({}), "query is missing").await;
    check("/numbers/_update_by_query", json!({"script": "x"}), "[script] is not supported").await;
    check("/numbers/_update_by_query", json!({"quer": {}}), "unknown key [quer]").await;
    check("/numbers/_update_by_query?slices=0", all.clone(), "[slices] must be").await;
    check("/numbers/_update_by_query?pipeline=x", all, "[pipeline]").await;
    let reindex = |source: Value, dest: Value| json!({"source": source, "dest": dest});
    let numbers = json!({"index": "numbers"});
    check("/_reindex", reindex(numbers.clone(), numbers.clone()), "its reading from").await;
    check("/_reindex", reindex(numbers.clone(), json!({})), "index must be specified").await;
    let remote = json!({"remote": {"host": "http://x:9200"}, "index": "numbers"});
    check("/_reindex", reindex(remote, json!({"index": "x"})), "[remote]").await;
    let dest = json!({"index": "x", "op_type": "create", "version_type": "external"});
    check("/_reindex", reindex(numbers, dest), "create operations only support").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_are_watched_slowed_and_cancelled() {
    let egret = numbers(20).await;
    let all = json!({"query": {"match_all": {}}});
    let path = "/numbers/_delete_by_query?wait_for_completion=false&scroll_size=5";
    let slow = format!("{path}&requests_per_second=0.001");
    let begin =
        async |path: &str| egret.post(path, &all).await.ok()["task"].as_str().unwrap().to_owned();
    let task = begin(&slow).await;
    let listed = egret.get("/_tasks?actions=*byquery&group_by=none&detailed").await.ok();
    assert_eq!(listed["tasks"][0]["action"], "indices:data/write/delete/byquery", "{listed}");
    assert_eq!(listed["tasks"][0]["description"], "delete-by-query [numbers]");
    let seen = egret.get(&format!("/_tasks/{task}")).await.ok();
    assert_eq!(seen["completed"], false, "{seen}");
    let faster = format!("/_delete_by_query/{task}/_rethrottle?requests_per_second=-1");
    egret.post(&faster, &Value::Null).await.ok();
    let ended = egret.get(&format!("/_tasks/{task}?wait_for_completion=true")).await.ok();
    assert_eq!((&ended["completed"], &ended["response"]["deleted"]), (&json!(true), &json!(20)));

    // Of the second, one batch at most is done before it is told to stop.
    egret.post("/numbers/_refresh", &Value::Null).await.ok();
    for n in 0..20 {
        egret.put(&format!("/numbers/_doc/{n}"), &json!({"n": n})).await;
    }
    egret.post("/numbers/_refresh", &Value::Null).await.ok();
    let task = begin(&slow).await;
    egret.post(&format!("/_tasks/{task}/_cancel"), &Value::Null).await.ok();
    let ended = egret.get(&format!("/_tasks/{task}?wait_for_completion=true")).await.ok();
    assert_eq!(ended["response"]["canceled"], "by user request", "{ended}");
    assert!(ended["response"]["deleted"].as_u64().unwrap() <= 5, "{ended}");
    assert_eq!(egret.get("/_tasks/nobody:1").await.status, 404);
    assert_eq!(egret.get("/_tasks?actions=*byquery").await.ok(), json!({"nodes": {}}));
}

/// Writers rewrite every document while others update, delete and copy by query: what a writer was
/// answered is there in the end.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_others_write_is_lost() {
    const DOCUMENTS: usize = 60;
    let egret = numbers(DOCUMENTS).await;
    let (egret, done) = (&egret, &AtomicBool::new(false));
    let writer = async |seed: u64| {
        let mut random = StdRng::seed_from_u64(seed);
        // Each at least once, and some again.
        let again: Vec<usize> = (0..DOCUMENTS).map(|_| random.random_range(0..DOCUMENTS)).collect();
        for (at, n) in (0..DOCUMENTS).chain(again).enumerate() {
            let document = json!({"n": n, "round": [seed, at]});
            let answer = egret.put(&format!("/numbers/_doc/{n}"), &document).await;
            assert!(answer.status < 300, "{}", answer.text);
        }
    };
    let repeat = async |path: &str, body: Value| {
        while !done.load(Ordering::Relaxed) {
            egret.post(path, &body).await.ok();
        }
    };
    let delete = json!({"query": {"term": {"old": true}}});
    let copy = json!({"conflicts": "proceed", "source": {"index": "numbers"},
        "dest": {"index": "copy", "version_type": "external"}});
    let writers = async {
        tokio::join!(writer(0), writer(1));
        done.store(true, Ordering::Relaxed);
    };
    tokio::join!(
        writers,
        repeat("/numbers/_delete_by_query?conflicts=proceed&scroll_size=20", delete),
        repeat("/numbers/_update_by_query?conflicts=proceed&slices=2&scroll_size=7", Value::Null),
        repeat("/_reindex?refresh", copy.clone()),
    );
    let found = documents(egret, "numbers").await;
    assert_eq!(found.len(), DOCUMENTS);
    assert!(found.values().all(|(_, source)| source.get("round").is_some()), "{found:?}");
    egret.post("/_reindex?refresh", &copy).await.ok();
    assert_eq!(documents(egret, "copy").await, found);
}
