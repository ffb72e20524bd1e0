//! Egret alone, without a database, over REST: what Elasticsearch's users expect of indexes,
//! documents, searches and errors, and that nothing acknowledged is lost at a `kill -9`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use egret_tests::egret::{Egret, EgretOptions};
use egret_tests::poll::until;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use reqwest::Method;
use serde_json::{Value, json};

/// An index of birds, refreshed.
async fn birds() -> Egret {
    let egret = Egret::start(EgretOptions::default());
    let mappings = json!({"mappings": {"properties": {
        "name": {"type": "text", "fields": {"keyword": {"type": "keyword"}}},
        "order": {"type": "keyword"},
        "weight": {"type": "double"},
        "seen": {"type": "date"},
        "wader": {"type": "boolean"},
        "eggs": {"type": "integer"},
    }}});
    let created = egret.put("/birds", &mappings).await.ok();
    assert_eq!(created["acknowledged"], true);
    assert_eq!(created["index"], "birds");
    let bird = |name: &str, order: &str, weight: f64, seen: &str, wader: bool, eggs: i64| {
        json!({"name": name, "order": order, "weight": weight, "seen": seen, "wader": wader,
               "eggs": eggs})
    };
    let documents = [
        bird("Cattle egret", "Pelecaniformes", 0.36, "2024-01-05", true, 4),
        bird("Great white egret", "Pelecaniformes", 1.0, "2024-02-01", true, 4),
        bird("White stork", "Ciconiiformes", 3.5, "2024-03-10", true, 5),
        bird("Grey heron", "Pelecaniformes", 1.5, "2024-04-20", true, 4),
        bird("Common swift", "Apodiformes", 0.04, "2024-05-30", false, 2),
    ];
    let mut lines = Vec::new();
    for (at, document) in documents.into_iter().enumerate() {
        lines.push(json!({"index": {"_index": "birds", "_id": (at + 1).to_string()}}));
        lines.push(document);
    }
    let answer = egret.bulk("/_bulk?refresh=true", &lines).await.ok();
    assert_eq!(answer["errors"], false, "{answer}");
    assert_eq!(answer["items"].as_array().unwrap().len(), 5);
    assert_eq!(answer["items"][0]["index"]["status"], 201);
    egret
}

/// The ids of a search's hits, in their order.
fn ids(answer: &Value) -> Vec<&str> {
    let hits = answer["hits"]["hits"].as_array().unwrap();
    hits.iter().map(|hit| hit["_id"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_clause_finds_what_it_should() {
    let egret = birds().await;
    let check = async |query: Value, expected: &[&str]| {
        let body = json!({"query": query, "sort": [{"weight": "asc"}]});
        let answer = egret.search("birds", &body).await;
        assert_eq!(ids(&answer), expected, "{query}");
        let total = json!({"value": expected.len(), "relation": "eq"});
        assert_eq!(answer["hits"]["total"], total, "{query}");
    };
    check(json!({"match_all": {}}), &["5", "1", "2", "4", "3"]).await;
    check(json!({"match": {"name": "white heron"}}), &["2", "4", "3"]).await;
    check(json!({"match": {"name": {"query": "white egret", "operator": "and"}}}), &["2"]).await;
    check(json!({"match_phrase": {"name": "white egret"}}), &["2"]).await;
    check(json!({"match_phrase": {"name": "egret white"}}), &[]).await;
    check(json!({"multi_match": {"query": "stork", "fields": ["name", "order"]}}), &["3"]).await;
    check(json!({"term": {"order": "Apodiformes"}}), &["5"]).await;
    check(json!({"term": {"name.keyword": "Cattle egret"}}), &["1"]).await;
    check(json!({"terms": {"eggs": [2, 5]}}), &["5", "3"]).await;
    check(json!({"range": {"weight": {"gte": 1.0, "lt": 3.5}}}), &["2", "4"]).await;
    check(json!({"range": {"seen": {"gt": "2024-03-10"}}}), &["5", "4"]).await;
    check(json!({"prefix": {"name": "gr"}}), &["2", "4"]).await;
    check(json!({"exists": {"field": "eggs"}}), &["5", "1", "2", "4", "3"]).await;
    check(json!({"ids": {"values": ["4", "1", "nothing"]}}), &["1", "4"]).await;
    check(
        json!({"bool": {
            "must": [{"match": {"name": "egret"}}],
            "filter": [{"term": {"wader": true}}],
            "must_not": [{"range": {"weight": {"gte": 1}}}],
        }}),
        &["1"],
    )
    .await;
    check(json!({"bool": {"must_not": [{"term": {"wader": true}}]}}), &["5"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_have_the_parts_that_were_asked_for() {
    let egret = birds().await;
    let body = json!({
        "query": {"match": {"name": "egret"}},
        "_source": ["name"],
        "highlight": {"fields": {"name": {}}},
        "aggs": {
            "orders": {"terms": {"field": "order"}, "aggs": {"w": {"stats": {"field": "weight"}}}},
        },
        "from": 1,
        "size": 1,
    });
    let answer = egret.search("birds", &body).await;
    assert_eq!(ids(&answer), ["2"], "the shorter name scores higher and is left out");
    let hit = &answer["hits"]["hits"][0];
    assert_eq!(hit["_source"], json!({"name": "Great white egret"}));
    assert_eq!(hit["highlight"]["name"], json!(["Great white <em>egret</em>"]));
    let bucket = &answer["aggregations"]["orders"]["buckets"][0];
    assert_eq!((&bucket["key"], &bucket["doc_count"]), (&json!("Pelecaniformes"), &json!(2)));
    assert_eq!(bucket["w"]["count"], 2);
    assert!((bucket["w"]["sum"].as_f64().unwrap() - 1.36).abs() < 1e-9, "{bucket}");
    assert!(
        answer["took"].is_u64() && answer["timed_out"] == false && answer["_shards"].is_object()
    );

    let by_line = egret.get("/birds/_search?q=name:stork").await.ok();
    assert_eq!(ids(&by_line), ["3"]);
    assert_eq!(egret.count("birds").await, Some(5));
    let tokens = json!({"analyzer": "standard", "text": "The Egret's way"});
    let tokens = egret.post("/_analyze", &tokens).await.ok();
    assert_eq!(tokens["tokens"][1]["token"], "egret's");
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_come_change_and_go() {
    let egret = birds().await;
    let put = egret.put("/birds/_doc/6", &json!({"name": "Marsh harrier"})).await;
    assert_eq!(
        (put.status, &put.body["result"], &put.body["_version"]),
        (201, &json!("created"), &json!(1))
    );
    let again = egret.put("/birds/_doc/6", &json!({"name": "Hen harrier"})).await;
    assert_eq!(
        (again.status, &again.body["result"], &again.body["_version"]),
        (200, &json!("updated"), &json!(2))
    );
    // Realtime: read before any refresh.
    let read = egret.get("/birds/_doc/6").await.ok();
    assert_eq!((&read["found"], &read["_source"]["name"]), (&json!(true), &json!("Hen harrier")));
    let made = egret.post("/birds/_doc?refresh=true", &json!({"name": "Osprey"})).await;
    assert_eq!((made.status, egret.count("birds").await), (201, Some(7)));
    let gone = egret.delete("/birds/_doc/6?refresh=true").await;
    assert_eq!((gone.status, &gone.body["result"]), (200, &json!("deleted")));
    let missing = egret.get("/birds/_doc/6").await;
    assert_eq!((missing.status, &missing.body["found"]), (404, &json!(false)));
    assert_eq!(egret.delete("/birds/_doc/6").await.status, 404);
    assert_eq!(egret.count("birds").await, Some(6));

    // A field that the mapping did not know.
    egret.put("/birds/_doc/7?refresh=true", &json!({"call": "kek kek kek"})).await.ok();
    let answer = egret.search("birds", &json!({"query": {"match": {"call": "kek"}}})).await;
    assert_eq!(ids(&answer), ["7"]);
    let mapping = egret.get("/birds/_mapping").await.ok();
    assert_eq!(mapping["birds"]["mappings"]["properties"]["call"]["type"], "text");

    assert_eq!(egret.request(Method::HEAD, "/birds", &Value::Null).await.status, 200);
    egret.delete("/birds").await.ok();
    assert_eq!(egret.request(Method::HEAD, "/birds", &Value::Null).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_index_is_merged_into_few_segments() {
    let egret = Egret::start(EgretOptions::default());
    // No more than are merged: of more, the first could be merged before the last have come.
    for n in 0..3 {
        egret.put(&format!("/notes/_doc/{n}?refresh=true"), &json!({"n": n})).await.ok();
    }
    let one = async || {
        let shown = egret.get("/notes/_segments").await.ok();
        let segments = &shown["indices"]["notes"]["shards"]["0"][0]["segments"];
        (segments.as_object().unwrap().len() == 1).then_some(())
    };
    until("the segments are one", one).await;
    assert_eq!(egret.get("/notes/_count").await.ok()["count"], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn segments_are_shown_and_merged_when_asked() {
    let egret = Egret::start(EgretOptions::default());
    // Three at once would be merged of themselves.
    for n in 0..3 {
        egret.put(&format!("/notes/_doc/{n}?refresh=true"), &json!({"n": n})).await.ok();
        if n == 1 {
            egret.delete("/notes/_doc/0?refresh=true").await.ok();
        }
    }
    let shown = egret.get("/notes/_segments").await.ok();
    assert_eq!(shown["_shards"], json!({"total": 1, "successful": 1, "failed": 0}));
    let shard = &shown["indices"]["notes"]["shards"]["0"][0];
    assert_eq!(shard["routing"]["primary"], true);
    assert_eq!(shard["segments"].as_object().unwrap().len(), 2, "{shard}");
    let segment = &shard["segments"]["_1"];
    assert_eq!((&segment["num_docs"], &segment["committed"]), (&json!(1), &json!(false)));
    let table = egret.get("/_cat/segments/notes?h=index,segment,docs.count&s=segment").await.text;
    assert_eq!(table, "notes _1 1\nnotes _2 1\n");

    let path = "/notes/_forcemerge?max_num_segments=1&wait_for_completion=false";
    let id = egret.post(path, &Value::Null).await.ok()["task"].as_str().unwrap().to_owned();
    let ended = egret.get(&format!("/_tasks/{id}?wait_for_completion=true")).await.ok();
    assert_eq!(ended["completed"], true, "{ended}");
    assert_eq!(ended["response"]["_shards"]["successful"], 1, "{ended}");
    assert_eq!(ended["task"]["action"], "indices:admin/forcemerge");
    assert_eq!(
        ended["task"]["description"],
        "Force-merge indices [notes], maxSegments[1], onlyExpungeDeletes[false], flush[true], \
         primaryOnly[false]"
    );
    assert_eq!((&ended["task"]["cancellable"], ended["task"].get("status")), (&json!(false), None));
    let cancelled = egret.post(&format!("/_tasks/{id}/_cancel"), &Value::Null).await;
    assert_eq!(cancelled.status, 400, "{}", cancelled.text);
    let shown = egret.get("/_segments").await.ok();
    let shard = &shown["indices"]["notes"]["shards"]["0"][0];
    assert_eq!(shard["num_committed_segments"], 1, "{shard}");
    let segments = shard["segments"].as_object().unwrap();
    let [segment] = segments.values().collect::<Vec<_>>()[..] else { panic!("{segments:?}") };
    assert_eq!((&segment["num_docs"], &segment["deleted_docs"]), (&json!(2), &json!(0)));
    let stats = egret.get("/notes/_stats/merge,segments?include_segment_file_sizes").await.ok();
    let total = &stats["_all"]["total"];
    assert_eq!((&total["merges"]["total"], &total["merges"]["total_docs"]), (&json!(1), &json!(2)));
    assert_eq!(total["segments"]["file_sizes"]["store"]["count"], 1, "{total}");

    let both = "/notes/_forcemerge?max_num_segments=2&only_expunge_deletes=true";
    let both = egret.post(both, &Value::Null).await;
    assert!(both.header("warning").unwrap().contains("is deprecated"), "{}", both.text);
    let unknown = egret.post("/notes/_forcemerge?max_segments=1", &Value::Null).await;
    assert_eq!(unknown.status, 400, "{}", unknown.text);
    egret.post("/notes/_close", &Value::Null).await.ok();
    assert_eq!(egret.get("/notes/_segments").await.status, 400);
    assert_eq!(
        egret.get("/notes/_segments?ignore_unavailable=true").await.ok()["indices"],
        json!({})
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn statistics_count_documents_and_bytes() {
    let egret = birds().await;
    egret.put("/nests/_doc/1?refresh=true", &json!({"twigs": 40})).await.ok();
    egret.delete("/birds/_doc/5?refresh=true").await.ok();
    let all = egret.get("/_stats").await.ok();
    assert_eq!(all["_shards"], json!({"total": 2, "successful": 2, "failed": 0}));
    assert_eq!(all["_all"]["total"], all["_all"]["primaries"]);
    assert_eq!(all["_all"]["total"]["docs"]["count"], 5);
    // Both are written to, each by a thread of its own.
    let (writers, budget) = (&all["_all"]["writers"], &all["_all"]["indexing_budget"]);
    assert_eq!((&writers["open"], &writers["max_open"]), (&json!(2), &json!(32)));
    assert!(budget["used_in_bytes"].as_u64().unwrap() > 0, "{budget}");
    assert_eq!(egret.get("/_stats/docs").await.ok()["_all"]["writers"], json!(null));
    let of = |name: &str, metric: &str, key: &str| {
        all["indices"][name]["total"][metric][key].as_u64().unwrap()
    };
    assert_eq!((of("birds", "docs", "count"), of("nests", "docs", "count")), (4, 1));
    assert_eq!((of("nests", "segments", "count"), of("nests", "translog", "operations")), (1, 1));
    // Nothing is flushed yet: all of it is in memory.
    assert!(of("nests", "store", "size_in_bytes") > 0);
    assert_eq!(of("nests", "segments", "memory_in_bytes"), of("nests", "store", "size_in_bytes"));
    egret.post("/nests/_flush", &json!({})).await.ok();
    let one = egret.get("/nests/_stats/docs,segments?level=shards").await.ok();
    let sections = json!({"docs": {"count": 1, "deleted": 0},
                          "segments": {"count": 1, "memory_in_bytes": 0,
                                       "index_writer_memory_in_bytes": 0}});
    assert_eq!(one["indices"]["nests"]["total"], sections);
    assert_eq!(one["indices"]["nests"]["shards"]["0"][0]["docs"], sections["docs"]);
    assert!(egret.get("/_stats?level=cluster").await.ok()["indices"].is_null());
    for (path, status, named) in [
        ("/_stats/doc", 400, "unrecognized metric: [doc]"),
        ("/_stats?level=shard", 400, "but was [shard]"),
        ("/none/_stats", 404, "no such index [none]"),
    ] {
        let answer = egret.get(path).await;
        assert_eq!(answer.status, status, "{path}");
        assert!(answer.body["error"]["reason"].as_str().unwrap().contains(named), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_named() {
    let egret = birds().await;
    let check = async |path: &str, body: &str, status: u16, kind: &str, named: &str| {
        let answer = egret.send(Method::POST, path, "application/json", body.to_owned()).await;
        assert_eq!(answer.status, status, "{path} {body}: {}", answer.text);
        assert_eq!(answer.body["status"], status, "{path} {body}: {}", answer.text);
        assert_eq!(answer.body["error"]["type"], kind, "{path} {body}: {}", answer.text);
        assert!(answer.text.contains(named), "{path} {body}: {}", answer.text);
    };
    let search = "/birds/_search";
    check("/nothing/_search", "{}", 404, "index_not_found_exception", "nothing").await;
    check(search, r#"{"query": {"mtach": {"name": "x"}}}"#, 400, "parsing_exception", "mtach")
        .await;
    check(
        search,
        r#"{"query": {"match": {"name": {"query": "x", "opreator": "and"}}}}"#,
        400,
        "parsing_exception",
        "opreator",
    )
    .await;
    check(search, r#"{"szie": 1}"#, 400, "parsing_exception", "szie").await;
    check(search, r#"{"from": 9999, "size": 10}"#, 400, "illegal_argument_exception", "10000")
        .await;
    check("/birds/_doc", r#"{"eggs": "many"}"#, 400, "document_parsing_exception", "eggs").await;
    check("/birds/_doc", "[1]", 400, "document_parsing_exception", "").await;
    let broken = egret.send(Method::POST, search, "application/json", "{\"query\": ".into()).await;
    assert_eq!(broken.status, 400, "{}", broken.text);
    let taken = egret.put("/birds", &json!({})).await;
    assert_eq!(taken.status, 400);
    assert_eq!(taken.body["error"]["type"], "resource_already_exists_exception");
    let named = egret.put("/Birds", &json!({})).await;
    assert_eq!(named.body["error"]["type"], "invalid_index_name_exception", "{}", named.text);

    // One bad line of a bulk request harms no other.
    let lines = [
        json!({"index": {"_index": "birds", "_id": "8"}}),
        json!({"eggs": "none"}),
        json!({"index": {"_index": "birds", "_id": "9"}}),
        json!({"eggs": 1}),
        json!({"create": {"_index": "birds", "_id": "1"}}),
        json!({"eggs": 1}),
    ];
    let answer = egret.bulk("/_bulk", &lines).await.ok();
    assert_eq!(answer["errors"], true);
    let statuses = answer["items"].as_array().unwrap().iter();
    let statuses =
        statuses.map(|item| item.as_object().unwrap().values().next().unwrap()["status"].clone());
    assert_eq!(statuses.collect::<Vec<_>>(), [400, 201, 409]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_past_the_limit_is_refused() {
    let configuration = "[http]\nmax_body_bytes = 1000\n".to_owned();
    let egret = Egret::start(EgretOptions { configuration, ..EgretOptions::default() });
    let body = json!({"text": "x".repeat(2000)});
    let answer = egret.put("/birds/_doc/1", &body).await;
    assert_eq!(answer.status, 413, "{}", answer.text);
    assert_eq!(egret.put("/birds/_doc/1", &json!({"text": "x"})).await.status, 201);
}

/// Writes documents numbered from 1, one after the other, until told to stop or the server is gone.
/// The last number that was acknowledged; `begun` is set once there is one.
async fn write_until_killed(
    client: reqwest::Client,
    base: String,
    writer: usize,
    begun: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
) -> u64 {
    let mut acknowledged = 0;
    while !stop.load(Ordering::Relaxed) {
        let number = acknowledged + 1;
        let body = json!({"writer": writer, "number": number});
        // Every other one through _bulk.
        let request = if number % 2 == 0 {
            client.put(format!("{base}/log/_doc/{writer}-{number}")).json(&body)
        } else {
            let id = format!("{writer}-{number}");
            let lines = format!("{}\n{body}\n", json!({"index": {"_id": id}}));
            let request = client.post(format!("{base}/log/_bulk")).body(lines);
            request.header("content-type", "application/x-ndjson")
        };
        match request.send().await {
            Ok(answer) if answer.status().is_success() => acknowledged = number,
            Ok(answer) => panic!("{}", answer.text().await.unwrap_or_default()),
            Err(_) => break,
        }
        begun.store(true, Ordering::Relaxed);
    }
    acknowledged
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_writes_survive_kill_9() {
    const WRITERS: usize = 4;
    let mut random = StdRng::seed_from_u64(9);
    let mut egret = Egret::start(EgretOptions::default());
    let mappings = json!({"mappings": {"properties": {
        "writer": {"type": "long"}, "number": {"type": "long"}}}});
    for round in 0..5 {
        egret.put("/log", &mappings).await.ok();
        let (begun, stop) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let client = reqwest::Client::builder().no_proxy().build().unwrap();
                let (begun, stop) = (Arc::clone(&begun), Arc::clone(&stop));
                tokio::spawn(write_until_killed(client, egret.url(""), writer, begun, stop))
            })
            .collect();
        until("a write is acknowledged", async || begun.load(Ordering::Relaxed).then_some(()))
            .await;
        tokio::time::sleep(Duration::from_millis(random.random_range(50..800))).await;
        egret.kill();
        stop.store(true, Ordering::Relaxed);
        let mut acknowledged = Vec::new();
        for writer in writers {
            acknowledged.push(writer.await.unwrap());
        }
        assert!(acknowledged.iter().sum::<u64>() > 0, "round {round}: nothing was written");
        egret.resume();
        egret.post("/log/_refresh", &Value::Null).await.ok();
        for (writer, last) in acknowledged.iter().enumerate() {
            let found = numbers_of(&egret, writer).await;
            let expected: Vec<u64> = (1..=*last).collect();
            // One more may have arrived without its answer.
            let extra = found.len() == expected.len() + 1 && found.starts_with(&expected);
            assert!(
                found == expected || extra,
                "round {round}, writer {writer}, {last}: {found:?}"
            );
        }
        egret.delete("/log").await.ok();
    }
}

/// The numbers of one writer that a search finds, in order.
async fn numbers_of(egret: &Egret, writer: usize) -> Vec<u64> {
    let body = json!({"query": {"term": {"writer": writer}}, "sort": [{"number": "asc"}],
                      "size": 10_000});
    let answer = egret.search("log", &body).await;
    let hits = answer["hits"]["hits"].as_array().unwrap();
    hits.iter().map(|hit| hit["_source"]["number"].as_u64().unwrap()).collect()
}

/// Hundreds of indexes have more files open than the 1,024 that many systems begin with.
#[tokio::test(flavor = "multi_thread")]
async fn as_many_files_may_be_open_as_the_system_allows() {
    let egret = Egret::start(EgretOptions::default());
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", egret.pid())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let limits: Vec<&str> = line.split_whitespace().skip(3).take(2).collect();
    assert_eq!(limits[0], limits[1], "{line}");
}
