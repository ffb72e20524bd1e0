//! Egret alone over REST: aliases, templates, settings, indexes that are closed, and names that stand
//! for several indexes.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use egret_tests::egret::{Answer, Egret, EgretOptions};
use reqwest::Method;
use serde_json::{Value, json};

/// Two indexes with three documents each, red and blue, and aliases with filters.
async fn colors() -> Egret {
    let egret = Egret::start(EgretOptions::default());
    for index in ["one", "two"] {
        let mut lines = Vec::new();
        for (id, color) in [("1", "red"), ("2", "red"), ("3", "blue")] {
            lines.push(json!({"index": {"_index": index, "_id": id}}));
            lines.push(json!({"color": color}));
        }
        egret.bulk("/_bulk?refresh=true", &lines).await.ok();
    }
    let filter = |color: &str| json!({"term": {"color": color}});
    let actions = json!({"actions": [
        {"add": {"indices": ["one", "two"], "alias": "red", "filter": filter("red")}},
        {"add": {"index": "one", "alias": "mixed", "filter": filter("blue")}},
        {"add": {"index": "two", "alias": "mixed"}},
    ]});
    egret.post("/_aliases", &actions).await.ok();
    egret
}

fn refused(answer: &Answer, status: u16, kind: &str) {
    assert_eq!(answer.status, status, "{}", answer.text);
    assert_eq!(answer.body["error"]["type"], kind, "{}", answer.text);
}

/// The same body through several names, twice: the result cache must not confuse them.
#[tokio::test(flavor = "multi_thread")]
async fn aliases_show_what_their_filters_let_through() {
    let egret = colors().await;
    let all = json!({"query": {"match_all": {}}});
    for _ in 0..2 {
        for (name, expected) in
            [("one", 3), ("red", 4), ("mixed", 4), ("red,one", 5), ("r*", 4), ("mixed,two", 4)]
        {
            let found = egret.search(name, &all).await;
            assert_eq!(found["hits"]["total"]["value"], expected, "{name}");
            assert_eq!(egret.count(name).await, Some(expected), "{name}");
            let size = found["hits"]["hits"].as_array().unwrap();
            assert!(size.iter().all(|hit| hit["_score"] == 1.0), "{name}: {found}");
        }
    }
    let aggregation = json!({"size": 0, "aggs": {"c": {"terms": {"field": "color.keyword"}}}});
    let found = egret.search("red", &aggregation).await;
    let buckets = found["aggregations"]["c"]["buckets"].as_array().unwrap();
    assert_eq!((buckets.len(), &buckets[0]["doc_count"]), (1, &json!(4)));
    let lines = [json!({"index": "red"}), all.clone(), json!({"index": "mixed"}), all];
    let answers = egret.bulk("/_msearch", &lines).await.ok();
    for answer in answers["responses"].as_array().unwrap() {
        assert_eq!(answer["hits"]["total"]["value"], 4, "{answer}");
    }
    // A filter that changes is seen at once.
    let blue = json!({"filter": {"term": {"color": "blue"}}});
    egret.put("/one,two/_alias/red", &blue).await.ok();
    assert_eq!(egret.count("red").await, Some(2));
    refused(&egret.get("/red/_doc/1").await, 400, "illegal_argument_exception");
    refused(&egret.delete("/red").await, 400, "illegal_argument_exception");
    let bad = json!({"filter": {"no_such_query": {}}});
    refused(&egret.put("/one/_alias/bad", &bad).await, 400, "parsing_exception");
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_go_to_the_write_index() {
    let egret = Egret::start(EgretOptions::default());
    let aliases = json!({"aliases": {"log": {"is_write_index": true}}});
    egret.put("/log-1", &aliases).await.ok();
    egret.put("/log-2", &json!({"aliases": {"log": {}}})).await.ok();
    let made = egret.post("/log/_doc", &json!({"n": 1})).await.ok();
    assert_eq!(made["_index"], "log-1");
    // Both names in one request: the operations on a document stay in their order.
    let lines = [
        json!({"index": {"_index": "log", "_id": "x"}}),
        json!({"n": 1}),
        json!({"index": {"_index": "log-1", "_id": "x"}}),
        json!({"n": 2}),
        json!({"index": {"_index": "log", "_id": "x"}}),
        json!({"n": 3}),
    ];
    let answer = egret.bulk("/_bulk?require_alias=false", &lines).await.ok();
    let versions: Vec<_> = answer["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| (item["index"]["_index"].clone(), item["index"]["_version"].clone()))
        .collect();
    assert_eq!(versions, [1, 2, 3].map(|version| (json!("log-1"), json!(version))));
    assert_eq!(egret.get("/log-1/_doc/x").await.ok()["_source"]["n"], 3);
    let swap = json!({"actions": [
        {"remove": {"index": "log-1", "alias": "log"}},
        {"add": {"index": "log-2", "alias": "log", "is_write_index": false}},
    ]});
    egret.post("/_aliases", &swap).await.ok();
    let answer = egret.post("/log/_doc", &json!({})).await;
    refused(&answer, 400, "illegal_argument_exception");
    let lines = [json!({"index": {"_index": "fresh"}}), json!({"n": 1})];
    let answer = egret.bulk("/_bulk?require_alias=true", &lines).await.ok();
    assert_eq!(answer["items"][0]["index"]["status"], 404, "{answer}");
    assert_eq!(egret.get("/fresh").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_index_opens_with_what_it_had() {
    let mut egret = colors().await;
    egret.post("/one/_close", &Value::Null).await.ok();
    for _ in 0..2 {
        refused(&egret.get("/one/_search").await, 400, "index_closed_exception");
        refused(&egret.get("/mixed/_search").await, 400, "index_closed_exception");
        refused(&egret.get("/one/_doc/1").await, 400, "index_closed_exception");
        let write = egret.put("/one/_doc/1", &json!({})).await;
        refused(&write, 400, "index_closed_exception");
        let answer = egret.get("/one,two/_count?ignore_unavailable=true").await.ok();
        assert_eq!(answer["count"], 3);
        assert_eq!(egret.get("/*/_count").await.ok()["count"], 3);
        let shown = egret.get("/one").await.ok();
        assert!(shown["one"]["mappings"]["properties"]["color"].is_object(), "{shown}");
        let table = egret.get("/_cat/indices?h=index,status&s=index").await.text;
        assert_eq!(table, "one close\ntwo open\n");
        // A kill finds it closed as well.
        egret.kill();
        egret.resume();
    }
    let fixed = json!({"index": {"number_of_routing_shards": 4}});
    let answer = egret.put("/two/_settings", &fixed).await;
    assert_eq!(answer.status, 400);
    assert!(answer.text.contains("Can't update non dynamic settings"), "{}", answer.text);
    egret.put("/one/_settings", &fixed).await.ok();
    egret.post("/one/_open", &Value::Null).await.ok();
    assert_eq!(egret.count("one").await, Some(3));
    assert_eq!(egret.get("/one/_doc/1").await.ok()["_source"]["color"], "red");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_index_keeps_no_others_from_answering() {
    let mut egret = colors().await;
    let shown = egret.get("/one/_settings").await.ok();
    let uuid = shown["one"]["settings"]["index"]["uuid"].as_str().unwrap().to_owned();
    egret.kill();
    let commit = egret.folder().join("indexes").join(uuid).join("commit.json");
    std::fs::write(commit, "{").unwrap();
    egret.resume();
    for path in ["/_count", "/*/_count", "/two/_count", "/t*/_count"] {
        assert_eq!(egret.get(path).await.ok()["count"], 3, "{path}");
    }
    for path in ["/one/_count", "/red/_count", "/one/_mapping"] {
        refused(&egret.get(path).await, 500, "corrupt_index_exception");
    }
    let shown = egret.get("/_mapping").await.ok();
    assert_eq!(shown.as_object().unwrap().keys().collect::<Vec<_>>(), ["two"]);
    let health = egret.get("/_cluster/health?level=indices").await.ok();
    let shown = (&health["status"], &health["indices"]["one"], &health["indices"]["two"]);
    assert_eq!((shown.0, &shown.1["status"]), (&json!("red"), &json!("red")), "{health}");
    assert_eq!((&shown.2["status"], &health["unassigned_shards"]), (&json!("green"), &json!(1)));
    assert_eq!(egret.get("/_cluster/health/two").await.ok()["status"], "green");
    let table = egret.get("/_cat/indices?h=index,health&s=index").await.text;
    assert_eq!(table, "one red\ntwo green\n");
    egret.delete("/one").await.ok();
    assert_eq!(egret.get("/_cluster/health").await.ok()["status"], "green");
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_and_blocks() {
    let egret = colors().await;
    let change = json!({"index": {"refresh_interval": "7s", "blocks.write": true}});
    egret.put("/one/_settings", &change).await.ok();
    let kept = json!({"refresh_interval": "9s", "max_result_window": 50});
    egret.put("/one/_settings?preserve_existing=true", &kept).await.ok();
    let shown = egret.get("/one/_settings/index.re*,*window?flat_settings=true").await.ok();
    let expected = json!({"index.refresh_interval": "7s", "index.max_result_window": "50"});
    assert_eq!(shown["one"]["settings"], expected);
    let shown = egret.get("/two/_settings?include_defaults=true").await.ok();
    assert_eq!(shown["two"]["defaults"]["index"]["max_result_window"], "10000");
    refused(&egret.put("/one/_doc/1", &json!({})).await, 403, "cluster_block_exception");
    assert_eq!(egret.count("one").await, Some(3));
    egret.put("/one/_settings", &json!({"blocks": {"write": null}})).await.ok();
    egret.put("/one/_doc/1", &json!({})).await.ok();
    egret.put("/one/_block/read_only", &Value::Null).await.ok();
    refused(&egret.delete("/one").await, 403, "cluster_block_exception");
    let field = json!({"properties": {"n": {"type": "long"}}});
    refused(&egret.put("/one/_mapping", &field).await, 403, "cluster_block_exception");
    egret.put("/one/_settings", &json!({"blocks.read_only": false})).await.ok();
    egret.delete("/one").await.ok();
    let unknown = json!({"index.codec": "best_compression"});
    let answer = egret.put("/two/_settings", &unknown).await;
    assert!(answer.text.contains("unknown setting [index.codec]"), "{}", answer.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn templates_apply_to_indexes_that_a_write_makes() {
    let mut egret = Egret::start(EgretOptions::default());
    let component = json!({"template": {"mappings": {"properties": {"n": {"type": "keyword"}}}}});
    egret.put("/_component_template/numbers", &component).await.ok();
    let template = json!({
        "index_patterns": ["log-*"], "composed_of": ["numbers"], "priority": 3,
        "template": {"settings": {"refresh_interval": "2s"}, "aliases": {"logs": {}}},
    });
    egret.put("/_index_template/log", &template).await.ok();
    let older = json!({"index_patterns": ["*"], "settings": {"refresh_interval": "3s"}});
    egret.put("/_template/older", &older).await.ok();
    egret.kill();
    egret.resume();
    egret.put("/log-1/_doc/1?refresh=true", &json!({"n": 5})).await.ok();
    let made = egret.get("/log-1").await.ok();
    assert_eq!(made["log-1"]["mappings"]["properties"]["n"]["type"], "keyword");
    assert_eq!(made["log-1"]["settings"]["index"]["refresh_interval"], "2s");
    assert_eq!(egret.count("logs").await, Some(1));
    egret.put("/other", &Value::Null).await.ok();
    let made = egret.get("/other/_settings").await.ok();
    assert_eq!(made["other"]["settings"]["index"]["refresh_interval"], "3s");
    let shown = egret.post("/_index_template/_simulate_index/log-9", &Value::Null).await.ok();
    assert_eq!(shown["template"]["mappings"]["properties"]["n"]["type"], "keyword");
    assert_eq!(shown["overlapping"][0]["name"], "older");
    let used = egret.delete("/_component_template/numbers").await;
    refused(&used, 400, "illegal_argument_exception");
    refused(&egret.get("/_index_template/no").await, 404, "resource_not_found_exception");
    refused(&egret.delete("/_index_template/no").await, 404, "index_template_missing_exception");
    egret.delete("/_index_template/log").await.ok();
    egret.delete("/_component_template/numbers").await.ok();
    egret.delete("/_template/older").await.ok();
    assert_eq!(egret.request(Method::HEAD, "/_template/older", &Value::Null).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn deletions_by_pattern_may_be_forbidden() {
    let configuration = "[engine]\ndestructive_requires_name = true\n".to_owned();
    let egret = Egret::start(EgretOptions { configuration, ..EgretOptions::default() });
    for index in ["a", "b"] {
        egret.put(&format!("/{index}"), &Value::Null).await.ok();
    }
    for path in ["/_all", "/*", "/a,b*"] {
        refused(&egret.delete(path).await, 400, "illegal_argument_exception");
    }
    refused(&egret.delete("/a,c").await, 404, "index_not_found_exception");
    assert_eq!(egret.get("/a").await.status, 200);
    egret.delete("/a,b").await.ok();
    assert_eq!(egret.get("/_resolve/index/*").await.ok()["indices"], json!([]));
}

/// Encoded as clients do it. A millennium, so that midnight does not come between.
#[tokio::test(flavor = "multi_thread")]
async fn names_follow_the_calendar_wherever_an_index_is_named() {
    let egret = Egret::start(EgretOptions::default());
    let name = "<logs-{now/y{yyyy}}>";
    let path = "%3Clogs-%7Bnow%2Fy%7Byyyy%7D%7D%3E";
    let made = egret.put(&format!("/{path}"), &json!({})).await.ok();
    let index = made["index"].as_str().unwrap().to_owned();
    assert_eq!((index.len(), &index[..6]), ("logs-yyyy".len(), "logs-2"), "{made}");
    let written = egret.put(&format!("/{path}/_doc/1"), &json!({"a": 1})).await.ok();
    assert_eq!(written["_index"], *index);
    let lines = [json!({"index": {"_index": name, "_id": "2"}}), json!({"a": 2})];
    let bulk = egret.bulk("/_bulk?refresh=true", &lines).await.ok();
    assert_eq!(bulk["items"][0]["index"]["_index"], *index, "{bulk}");
    assert_eq!(egret.get(&format!("/{path}/_doc/2")).await.ok()["_index"], *index);
    assert_eq!(egret.count(path).await, Some(2));
    let alias = json!({"actions": [{"add": {"index": name, "alias": "current"}}]});
    egret.post("/_aliases", &alias).await.ok();
    assert_eq!(egret.count("current").await, Some(2));
    // Written to before it is there.
    let other = "%3Cnew-%7Bnow%2Fy%7Byyyy%7D%7D%3E";
    let made = egret.put(&format!("/{other}/_doc/1"), &json!({"a": 1})).await.ok();
    assert_eq!(made["_index"].as_str().unwrap().len(), "new-yyyy".len());
    refused(
        &egret.get("/%3Clogs-%7Bnow%2Fx%7D%3E/_search").await,
        400,
        "illegal_argument_exception",
    );
    let missing = egret.get("/%3Cgone-%7Bnow%2Fy%7Byyyy%7D%7D%3E/_search").await;
    refused(&missing, 404, "index_not_found_exception");
    assert!(missing.text.contains("no such index [gone-2"), "{}", missing.text);
    assert_eq!(egret.delete(&format!("/{path}")).await.ok()["acknowledged"], true);
}
