//! Scrolls and points in time: all hits, each once, as they were when it began.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use egret_tests::egret::{Egret, EgretOptions};
use reqwest::Method;
use serde_json::{Value, json};

/// Two indexes with documents `0..count` each, of few different sort values.
async fn numbers(count: usize) -> Egret {
    let egret = Egret::start(EgretOptions::default());
    let mut lines = Vec::new();
    for n in 0..count {
        for index in ["a", "b"] {
            lines.push(json!({"index": {"_index": index, "_id": n.to_string()}}));
            lines.push(json!({"n": n, "tie": n % 3, "text": "word ".repeat(n % 4 + 1)}));
        }
    }
    let answer = egret.bulk("/_bulk?refresh=true", &lines).await.ok();
    assert_eq!(answer["errors"], false, "{answer}");
    egret
}

fn names(answer: &Value) -> Vec<String> {
    let hits = answer["hits"]["hits"].as_array().unwrap();
    let name = |hit: &Value| format!("{}/{}", hit["_index"], hit["_id"]);
    hits.iter().map(name).collect()
}

/// Whether these are all documents of both indexes, each once.
fn are_all(mut found: Vec<String>, count: usize) {
    assert_eq!(found.len(), 2 * count);
    found.sort();
    found.dedup();
    assert_eq!(found.len(), 2 * count);
}

async fn rewrite(egret: &Egret, count: usize) {
    for n in 0..count {
        egret.put(&format!("/a/_doc/{n}"), &json!({"n": 0, "tie": 0})).await;
        egret.delete(&format!("/b/_doc/{n}")).await;
    }
    egret.post("/_refresh", &Value::Null).await.ok();
    egret.post("/_flush", &Value::Null).await.ok();
}

/// What a scroll gives after its first page.
async fn rest_of_scroll(egret: &Egret, id: &str) -> Vec<String> {
    let mut found = Vec::new();
    loop {
        let next = json!({"scroll": "10m", "scroll_id": id});
        let page = egret.post("/_search/scroll", &next).await.ok();
        assert_eq!(page["hits"]["total"]["value"], 60);
        let names = names(&page);
        if names.is_empty() {
            return found;
        }
        found.extend(names);
    }
}

/// All hits of a point in time in an order, page by page.
async fn pages(egret: &Egret, id: &str, sort: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let mut body = json!({"size": 7, "sort": sort, "pit": {"id": id, "keep_alive": "10m"}});
    loop {
        let page = egret.post("/_search", &body).await.ok();
        assert_eq!(page["pit_id"], id);
        let Some(last) = page["hits"]["hits"].as_array().unwrap().last() else { return found };
        body["search_after"] = last["sort"].clone();
        found.extend(names(&page));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scroll_gives_every_hit_once() {
    let egret = numbers(30).await;
    let bodies = [
        json!({"sort": "_doc"}),
        json!({"sort": [{"tie": "desc"}]}),
        json!({"query": {"match": {"text": "word"}}, "aggs": {"t": {"terms": {"field": "tie"}}}}),
    ];
    let mut open = Vec::new();
    for body in &bodies {
        let first = egret.post("/a,b/_search?scroll=10m&size=7", body).await.ok();
        assert_eq!(first["hits"]["total"], json!({"value": 60, "relation": "eq"}));
        assert_eq!(first.get("aggregations").is_some(), body.get("aggs").is_some());
        let keys = first["hits"]["hits"][0]["sort"].as_array().map(Vec::len);
        assert_eq!(keys, body.get("sort").map(|_| 1), "{first}");
        open.push((names(&first), first["_scroll_id"].as_str().unwrap().to_owned()));
    }
    // What changes meanwhile is not seen.
    rewrite(&egret, 30).await;
    for (mut found, id) in open {
        found.extend(rest_of_scroll(&egret, &id).await);
        are_all(found, 30);
        let body = json!({"scroll_id": [id]});
        let closed = egret.request(Method::DELETE, "/_search/scroll", &body).await.ok();
        assert_eq!(closed, json!({"succeeded": true, "num_freed": 1}));
        let next = json!({"scroll_id": id});
        let missing = egret.post("/_search/scroll", &next).await;
        let cause = &missing.body["error"]["root_cause"][0]["type"];
        assert_eq!((missing.status, cause), (404, &json!("search_context_missing_exception")));
    }
    let refused = egret.post("/a/_search?scroll=1m&from=3", &json!({})).await;
    assert_eq!(refused.status, 400, "{}", refused.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_point_in_time_stays_as_it_is() {
    let egret = numbers(30).await;
    let opened = egret.post("/a,b/_pit?keep_alive=10m", &Value::Null).await.ok();
    let id = opened["id"].as_str().unwrap().to_owned();
    rewrite(&egret, 30).await;
    for sort in [json!([{"tie": "desc"}]), json!(["_shard_doc"])] {
        let found = pages(&egret, &id, &sort).await;
        are_all(found, 30);
    }
    let named = json!({"pit": {"id": id}});
    assert_eq!(egret.post("/a/_search", &named).await.status, 400);
    assert_eq!(
        egret.get("/_search/point_in_time/_all").await.ok()["pits"][0]["pit_id"],
        id.as_str()
    );
    // Without its indexes it is nothing.
    egret.delete("/a").await.ok();
    assert_eq!(egret.post("/_search", &named).await.status, 404);
    let gone = egret.request(Method::DELETE, "/_pit", &json!({"id": id})).await;
    assert_eq!((gone.status, &gone.body["num_freed"]), (404, &json!(0)));
}
