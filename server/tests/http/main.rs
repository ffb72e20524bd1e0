//! The API over a real engine in a temporary folder, through the router that the program serves.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod addresses;
mod contexts;
mod fairness;
mod places;
mod ranges;
mod rewrites;
mod stats;
mod support;

use std::sync::Arc;

use axum::body::Body;
use axum::http::Request;
use egret_aof::disk::sim::{Fault, SimDisk};
use egret_server::app::App;
use egret_server::config::Config;
use egret_server::routes::router;
use serde_json::{Value, json};

use self::support::{Answer, Server, check};

#[tokio::test]
async fn documents_are_put_read_changed_and_removed() {
    let server = Server::start().await;
    let put = server.put("/i/_doc/1", json!({"a": 1, "b": {"c": "x"}})).await;
    let created = json!({"_index": "i", "_id": "1", "_version": 1, "result": "created",
        "_seq_no": 0, "_shards": {"total": 1, "successful": 1, "failed": 0}});
    check(&put, 201, &created);
    assert_eq!(put.headers["location"], "/i/_doc/1");
    let term = put.json["_primary_term"].clone();
    let read = server.get("/i/_doc/1").await;
    check(&read, 200, &json!({"found": true, "_version": 1, "_source": {"a": 1, "b": {"c": "x"}}}));
    check(&server.get("/i/_doc/1?_source_includes=b.*").await, 200, &json!({"_source": {"b": {}}}));
    check(&server.get("/i/_source/1?_source=a").await, 200, &json!({"a": 1}));
    check(&server.get("/i/_doc/2").await, 404, &json!({"found": false, "_id": "2"}));
    assert_eq!(server.ask("HEAD", "/i/_doc/2", "").await.status, 404);
    assert_eq!(server.ask("HEAD", "/i/_doc/1", "").await.status, 200);
    let taken = server.put("/i/_create/1", json!({})).await;
    check(&taken, 409, &json!({"error": {"type": "version_conflict_engine_exception"}}));
    let again = server.put("/i/_doc/1", json!({"a": 2})).await;
    check(&again, 200, &json!({"result": "updated", "_version": 2, "_seq_no": 1}));
    let old = format!("/i/_doc/1?if_seq_no=0&if_primary_term={term}");
    check(&server.put(&old, json!({})).await, 409, &json!({"status": 409}));
    let patch = json!({"doc": {"c": 3}});
    let updated = server.ask("POST", "/i/_update/1", patch.to_string()).await;
    check(&updated, 200, &json!({"result": "updated", "_version": 3}));
    let same = server.ask("POST", "/i/_update/1", patch.to_string()).await;
    check(&same, 200, &json!({"result": "noop", "_version": 3}));
    check(&server.get("/i/_doc/1").await, 200, &json!({"_source": {"a": 2, "c": 3}}));
    let missing = server.ask("POST", "/i/_update/9", patch.to_string()).await;
    check(&missing, 404, &json!({"error": {"type": "document_missing_exception"}}));
    let ids = json!({"docs": [{"_id": "1"}, {"_id": "7"}, {"_id": "1", "_index": "j"}]});
    let several = server.ask("POST", "/i/_mget", ids.to_string()).await;
    let expected = json!({"docs": [{"found": true}, {"found": false},
        {"error": {"type": "index_not_found_exception"}}]});
    check(&several, 200, &expected);
    check(&server.ask("DELETE", "/i/_doc/1", "").await, 200, &json!({"result": "deleted"}));
    check(&server.ask("DELETE", "/i/_doc/1", "").await, 404, &json!({"result": "not_found"}));
    let made = server.ask("POST", "/i/_doc", "{\"a\":1}").await;
    assert_eq!(made.json["_id"].as_str().unwrap().len(), 22, "{}", made.text);
}

#[tokio::test]
async fn a_bulk_gives_each_item_its_result() {
    let server = Server::start().await;
    let body = "{\"index\":{\"_index\":\"a\",\"_id\":\"1\",\"_type\":\"_doc\"}}\n{\"n\":1}\n\
                {\"create\":{\"_index\":\"b\",\"_id\":\"1\"}}\n{\"n\":1}\n\
                {\"create\":{\"_index\":\"b\",\"_id\":\"1\"}}\n{\"n\":2}\n\
                {\"update\":{\"_index\":\"a\",\"_id\":\"1\"}}\n{\"doc\":{\"n\":2}}\n\
                {\"delete\":{\"_index\":\"a\",\"_id\":\"2\"}}\n\
                {\"index\":{\"_index\":\"a\",\"_id\":\"3\"}}\n{\"n\":\"many\"}\n\
                {\"index\":{\"_index\":\"a\",\"_id\":\"4\"}}\nnot json\n";
    let answer = server.ask("POST", "/_bulk?refresh=true", body).await;
    let expected = json!({"errors": true, "items": [
        {"index": {"_index": "a", "_id": "1", "status": 201, "result": "created"}},
        {"create": {"_index": "b", "status": 201}},
        {"create": {"status": 409, "error": {"type": "version_conflict_engine_exception"}}},
        {"update": {"status": 200, "result": "updated"}},
        {"delete": {"status": 404, "result": "not_found"}},
        {"index": {"status": 400, "error": {"type": "document_parsing_exception"}}},
        {"index": {"status": 400, "error": {"type": "document_parsing_exception"}}},
    ]});
    check(&answer, 200, &expected);
    check(&server.get("/a/_count").await, 200, &json!({"count": 1}));
    check(&server.get("/a/_doc/1").await, 200, &json!({"_source": {"n": 2}}));
    let broken = server.ask("POST", "/_bulk", "{\"index\":{}}\n{}").await;
    check(&broken, 400, &json!({"error": {"type": "illegal_argument_exception"}}));
}

#[tokio::test]
async fn searches_answer_and_are_cached_until_something_changes() {
    let server = Server::start().await;
    // In one segment: several would be merged, which is a change.
    let birds = [(1, "white heron"), (2, "cattle egret"), (3, "white egret")].map(|(id, text)| {
        let document = json!({"name": text, "n": id});
        format!("{{\"index\":{{\"_id\":\"{id}\"}}}}\n{document}\n")
    });
    let written = server.ask("POST", "/birds/_bulk?refresh=true", birds.concat()).await;
    check(&written, 200, &json!({"errors": false}));
    let body = json!({"query": {"match": {"name": "egret"}}, "sort": [{"n": "desc"}],
        "aggs": {"n": {"stats": {"field": "n"}}}});
    let first = server.ask("POST", "/birds/_search", body.to_string()).await;
    let expected = json!({"timed_out": false, "_shards": {"total": 1, "failed": 0},
        "hits": {"total": {"value": 2, "relation": "eq"}, "max_score": null, "hits": [
            {"_index": "birds", "_id": "3", "_source": {"name": "white egret"}, "sort": [3]},
            {"_id": "2"}]},
        "aggregations": {"n": {"count": 2, "min": 2.0, "max": 3.0, "avg": 2.5, "sum": 5.0}}});
    check(&first, 200, &expected);
    assert_eq!(first.headers["egret-cache"], "miss");
    let spaced = serde_json::to_string_pretty(&body).unwrap();
    let second = server.ask("POST", "/birds/_search", spaced.as_str()).await;
    assert_eq!(second.headers["egret-cache"], "hit");
    let rest = |answer: &Answer| answer.text.split_once(',').unwrap().1.to_owned();
    assert_eq!(rest(&first), rest(&second));
    let bypass = server.ask("POST", "/birds/_search?request_cache=false", spaced).await;
    assert_eq!(bypass.headers["egret-cache"], "bypass");
    assert_eq!(rest(&first), rest(&bypass));
    server.put("/birds/_doc/4?refresh=true", json!({"name": "little egret", "n": 4})).await;
    let third = server.ask("POST", "/birds/_search", body.to_string()).await;
    assert_eq!(third.headers["egret-cache"], "miss");
    assert_eq!(third.json["hits"]["total"]["value"], 3);
    check(&server.get("/_cache/stats").await, 200, &json!({"hits": 1, "misses": 2, "bypassed": 1}));
    let by_line = server.get("/birds/_search?q=name:white+-egret&rest_total_hits_as_int").await;
    check(&by_line, 200, &json!({"hits": {"total": 1, "hits": [{"_id": "1"}]}}));
    let all = server.search("/_search?filter_path=hits.hits._id,took", json!({"size": 1})).await;
    assert_eq!(all["hits"]["hits"].as_array().unwrap().len(), 1, "{all}");
    assert_eq!(all["timed_out"], Value::Null);
}

#[tokio::test]
async fn answers_are_warm_after_a_restart() {
    let server = Server::start().await;
    server.put("/i/_doc/1?refresh=true", json!({"a": "b"})).await;
    check(&server.ask("POST", "/i/_flush", "").await, 200, &json!({"_shards": {"failed": 0}}));
    let first = server.get("/i/_search?q=b").await;
    assert_eq!(first.headers["egret-cache"], "miss", "{}", first.text);
    let folder = server.stop().await;
    let server = Server::start_in(folder, Config::default()).await;
    let again = server.get("/i/_search?q=b").await;
    assert_eq!(again.json["hits"], first.json["hits"]);
    assert_eq!(again.headers["egret-cache"], "hit", "{}", server.get("/_cache/stats").await.text);
}

#[tokio::test]
async fn indexes_are_made_shown_and_removed() {
    let server = Server::start().await;
    let made = json!({"settings": {"refresh_interval": "5s"},
        "mappings": {"properties": {"t": {"type": "text"}, "k": {"type": "keyword"}}}});
    let answer = server.put("/i", made).await;
    check(&answer, 200, &json!({"acknowledged": true, "shards_acknowledged": true, "index": "i"}));
    let shown = server.get("/i").await;
    let expected = json!({"i": {"aliases": {}, "mappings": {"properties": {"t": {"type": "text"}}},
        "settings": {"index": {"provided_name": "i", "refresh_interval": "5s"}}}});
    check(&shown, 200, &expected);
    let more = server.put("/i/_mapping", json!({"properties": {"n": {"type": "long"}}})).await;
    check(&more, 200, &json!({"acknowledged": true}));
    let mapping = json!({"i": {"mappings": {"properties": {"n": {"type": "long"}}}}});
    check(&server.get("/i*/_mapping").await, 200, &mapping);
    let taken = server.put("/i", json!({})).await;
    check(&taken, 400, &json!({"error": {"type": "resource_already_exists_exception"}}));
    assert_eq!(server.ask("HEAD", "/i", "").await.status, 200);
    check(&server.get("/_cat/indices?format=json").await, 200, &json!([{"index": "i"}]));
    let table = server.get("/_cat/indices?h=index,health&v").await;
    assert_eq!(table.text, "index health\ni     green\n");
    check(&server.ask("DELETE", "/i", "").await, 200, &json!({"acknowledged": true}));
    assert_eq!(server.ask("HEAD", "/i", "").await.status, 404);
    let missing = server.get("/i").await;
    check(
        &missing,
        404,
        &json!({"error": {"type": "index_not_found_exception", "index": "i",
        "reason": "no such index [i]"}, "status": 404}),
    );
    check(&server.put("/i", json!({"mapping": {}})).await, 400, &json!({"status": 400}));
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let server = Server::start().await;
    server.put("/i/_doc/1?refresh=true", json!({"n": 1})).await;
    let expect = async |method: &str, path: &str, body: &str, status: u16, part: &str| {
        let answer = server.ask(method, path, body).await;
        assert_eq!(answer.status.as_u16(), status, "{method} {path} {body}: {}", answer.text);
        assert!(answer.text.contains(part), "{method} {path} {body}: {}", answer.text);
    };
    expect("GET", "/_nothing/here/at/all", "", 400, "no handler found for uri").await;
    expect("DELETE", "/_search", "", 405, "Incorrect HTTP method").await;
    expect("GET", "/i/_search?sise=1", "", 400, "unrecognized parameter: [sise]").await;
    expect("GET", "/i/_search?size=x", "", 400, "[size] with value [x]").await;
    expect("POST", "/i/_search", "{", 400, "x_content_parse_exception").await;
    expect("POST", "/i/_search", "{\"size\":1,\"size\":2}", 400, "Duplicate field 'size'").await;
    expect("POST", "/i/_search", "[]", 400, "START_ARRAY").await;
    expect("GET", "/i/_search?q=a+AND", "", 400, "Failed to parse query [a AND]").await;
    let body = "{\"query\":{\"match\":{\"n\":\"x\"}}}";
    expect("POST", "/i/_search", body, 400, "query_shard_exception").await;
    expect("GET", "/j/_search", "", 404, "no such index [j]").await;
    expect("GET", "/j/_search?ignore_unavailable", "", 200, "\"total\":0").await;
    expect("GET", "/j*/_search?allow_no_indices=false", "", 404, "no such index [j*]").await;
    expect("POST", "/i/_count", "{\"size\":1}", 400, "request does not support [size]").await;
    expect("PUT", "/i/_doc/1", "", 400, "request body is required").await;
    expect("PUT", "/i/_doc/1?refresh=perhaps", "{}", 400, "[perhaps]").await;
    expect("GET", "/i/_search?wait_for_lsn=0/1", "", 400, "index [i] follows no pipeline").await;
    expect("GET", "/i/_search?format=yaml", "", 400, "format [yaml]").await;
    expect("POST", "/_analyze", "{\"text\":\"x\",\"analyzer\":\"y\"}", 400, "[y]").await;
    let form = Request::builder().method("POST").uri("/i/_search");
    let form = form.header("content-type", "application/x-www-form-urlencoded");
    let answer = server.send(form.body(Body::from("{}")).unwrap()).await;
    assert_eq!(answer.status, 406, "{}", answer.text);
}

#[tokio::test]
async fn bodies_past_the_limit_are_refused() {
    let mut config = Config::default();
    config.http.max_body_bytes = 100;
    let server = Server::start_in(tempfile::tempdir().unwrap(), config).await;
    let large = server.put("/i/_doc/1", json!({"a": "x".repeat(100)})).await;
    check(&large, 413, &json!({"status": 413}));
    let without_length = Body::from_stream(futures_util::stream::iter(
        (0..20).map(|_| Ok::<_, std::io::Error>("0123456789")),
    ));
    let request = Request::builder().method("PUT").uri("/i/_doc/1").body(without_length).unwrap();
    check(&server.send(request).await, 413, &json!({"status": 413}));
}

#[tokio::test]
async fn clients_find_what_they_look_for() {
    let server = Server::start().await;
    let root = server.get("/").await;
    check(
        &root,
        200,
        &json!({"version": {"number": "8.19.0", "build_flavor": "default"},
        "tagline": "You Know, for Search"}),
    );
    let vendor = "application/vnd.elasticsearch+json; compatible-with=8";
    let request = Request::builder().uri("/").header("accept", vendor).body(Body::empty()).unwrap();
    let answer = server.send(request).await;
    let expected = "application/vnd.elasticsearch+json;compatible-with=8";
    assert_eq!(answer.headers["content-type"], expected);
    let request =
        Request::builder().uri("/").header("accept", "text/html").body(Body::empty()).unwrap();
    let page = server.send(request).await;
    assert!(page.text.starts_with("<!doctype html>"), "{}", page.text);
    assert_eq!(server.get("/favicon.ico").await.status, 204);
    assert!(server.get("/?pretty").await.text.contains("\n  \"name\""));
    check(&server.get("/_cluster/health").await, 200, &json!({"status": "green"}));
    check(&server.get("/health/live").await, 200, &json!({"live": true}));
    check(&server.get("/health/ready").await, 200, &json!({"ready": true}));
    check(&server.get("/_cdc").await, 200, &json!({"pipelines": []}));
    assert!(server.get("/metrics").await.text.contains("egret_search_seconds_count 0"));
    let tokens = server.ask("POST", "/_analyze", "{\"text\":\"The Egret\"}").await;
    let expected = json!({"tokens": [{"token": "the", "start_offset": 0, "end_offset": 3,
        "type": "<ALPHANUM>", "position": 0}, {"token": "egret"}]});
    check(&tokens, 200, &expected);
}

#[tokio::test]
async fn statistics_are_recorded_once_a_second() {
    let server = Server::start().await;
    server.put("/i/_doc/1?refresh=true", json!({"a": 1})).await;
    server.get("/i/_search").await;
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let path = "/_metrics/query?name=documents&labels=index:i&aggregation=last&step=3600";
    loop {
        let answer = server.get(path).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        // Before the document it may have been recorded that there is none.
        let points = answer.json["series"][0]["points"].as_array();
        if points.and_then(|points| points.last()).is_some_and(|point| point[1] == 1.0) {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "nothing was recorded: {}", answer.text);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let names = server.get("/_metrics/series").await;
    for name in ["search_total", "cache_hits_total", "documents{index=\\\"i\\\"}"] {
        assert!(names.text.contains(name), "{} lacks {name}", names.text);
    }
    let expect = async |query: &str, part: &str| {
        let answer = server.get(&format!("/_metrics/query?{query}")).await;
        assert_eq!(answer.status, 400, "{}", answer.text);
        assert!(answer.text.contains(part), "{}", answer.text);
    };
    expect("", "[name] is missing").await;
    expect("name=x&aggregation=most", "[most]").await;
    expect("name=x&step=0", "step is 0").await;
    expect("name=x&labels=a", "expected [label:value]").await;
}

#[tokio::test]
async fn how_far_a_search_reaches_is_a_setting_of_each_index() {
    let mut config = Config::default();
    config.search.max_result_window = 20_000;
    let server = Server::start_in(tempfile::tempdir().unwrap(), config).await;
    for (index, window) in [("near", json!(50)), ("far", json!(50_000)), ("plain", Value::Null)] {
        let settings = json!({"settings": {"max_result_window": window}});
        let made = server.put(&format!("/{index}"), settings).await;
        check(&made, 200, &json!({"acknowledged": true}));
        server.put(&format!("/{index}/_doc/1?refresh=true"), json!({"n": 1})).await;
    }
    let far = server.search("/far/_search", json!({"from": 20_000, "size": 30_000})).await;
    assert_eq!(far["hits"]["total"]["value"], 1, "{far}");
    server.search("/near/_search", json!({"from": 40, "size": 10})).await;
    server.search("/plain,far/_search?from=19990", json!({})).await;
    let refused = async |path: &str, index: &str, part: &str| {
        let answer = server.get(path).await;
        let cause = json!({"type": "illegal_argument_exception", "index": index});
        check(&answer, 400, &json!({"error": {"root_cause": [cause]}}));
        assert!(answer.text.contains(part), "{path}: {}", answer.text);
    };
    let window = |limit, was| {
        format!("from + size must be less than or equal to: [{limit}] but was [{was}]")
    };
    refused("/near/_search?from=41", "near", &window(50, 51)).await;
    refused("/far/_search?from=49991", "far", &window(50_000, 50_001)).await;
    refused("/plain/_search?size=20001", "plain", &window(20_000, 20_001)).await;
    refused("/far,near,plain/_search?size=51", "near", &window(50, 51)).await;
    let batch = "Batch size is too large, size must be less than or equal to: [50] but was [51]";
    refused("/near/_search?scroll=1m&size=51", "near", batch).await;
    // What was found, and is kept, does not outlive the setting. One that is taken back is as
    // configured, which is also what is shown.
    let lower = server.put("/far/_settings", json!({"max_result_window": 49_999})).await;
    check(&lower, 200, &json!({"acknowledged": true}));
    refused("/far/_search?from=20000&size=30000", "far", &window(49_999, 50_000)).await;
    server.put("/far/_settings", json!({"max_result_window": null})).await;
    refused("/far/_search?from=20000", "far", &window(20_000, 20_010)).await;
    let shown = server.get("/far/_settings?include_defaults=true").await;
    let expected = json!({"far": {"defaults": {"index": {"max_result_window": "20000"}}}});
    check(&shown, 200, &expected);
}

/// One index may be written to at once, and no batch waits for its turn for longer than the writer of
/// another needs to leave: the first one is refused.
#[tokio::test]
async fn a_copy_goes_on_after_the_engine_refused_a_write() {
    let mut config = Config::default();
    config.engine.max_open_writers = 1;
    config.engine.max_write_wait_ms = 1;
    let server = Server::start_in(tempfile::tempdir().unwrap(), config).await;
    server.put("/from/_doc/1?refresh=true", json!({"n": 1})).await;
    let copy = json!({"source": {"index": "from"}, "dest": {"index": "to"}});
    let copied = server.ask("POST", "/_reindex", copy.to_string()).await;
    check(&copied, 200, &json!({"created": 1, "failures": []}));
}

/// Each document and each answer is well within the limit, all that are asked for are not.
#[tokio::test]
async fn answers_of_many_parts_are_held_to_the_memory_of_searches() {
    let mut config = Config::default();
    config.search.max_request_memory_bytes = 1_000_000;
    let server = Server::start_in(tempfile::tempdir().unwrap(), config).await;
    server.put("/i/_doc/1?refresh=true", json!({"a": "x".repeat(200_000)})).await;
    let reason = "limit of [1000000b]. This limit can be set by changing the \
                  [search.max_request_memory_bytes] setting";
    let few = server.ask("POST", "/i/_mget", json!({"ids": vec!["1"; 4]}).to_string()).await;
    check(&few, 200, &json!({"docs": vec![json!({"found": true}); 4]}));
    let many = server.ask("POST", "/i/_mget", json!({"ids": vec!["1"; 5]}).to_string()).await;
    let refused = json!({"type": "circuit_breaking_exception", "bytes_limit": 1_000_000});
    check(&many, 429, &json!({"error": refused}));
    assert!(many.text.contains(reason), "{}", many.text);
    let searches = server.ask("POST", "/i/_msearch", "{}\n{}\n".repeat(5)).await;
    assert_eq!(searches.status, 200, "{}", searches.text);
    let statuses = searches.json["responses"].as_array().unwrap().iter();
    let statuses: Vec<_> = statuses.map(|answer| answer["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [200, 200, 200, 200, 429]);
    assert_eq!(searches.json["responses"][4]["error"]["type"], "circuit_breaking_exception");
    assert!(searches.text.contains(reason), "{}", searches.text);
    assert!(searches.json["took"].is_u64());
}

#[tokio::test]
async fn a_mapping_is_added_to_all_indexes_or_to_none() {
    let server = Server::start().await;
    for (index, kind) in [("a", "keyword"), ("b", "long"), ("c", "keyword")] {
        let mappings = json!({"mappings": {"properties": {"taken": {"type": kind}}}});
        check(&server.put(&format!("/{index}"), mappings).await, 200, &json!({}));
    }
    let fields =
        |kind: &str| json!({"properties": {"taken": {"type": kind}, "new": {"type": "date"}}});
    let refused = server.put("/a,b,c/_mapping", fields("keyword")).await;
    check(&refused, 400, &json!({"error": {"type": "illegal_argument_exception", "index": "b"}}));
    let shown = server.get("/_mapping").await;
    assert!(!shown.text.contains("date"), "{}", shown.text);
    check(&server.put("/a,c/_mapping", fields("keyword")).await, 200, &json!({}));
    let added = json!({"mappings": {"properties": {"new": {"type": "date"}}}});
    check(&server.get("/_mapping").await, 200, &json!({"a": added, "c": added}));
}

/// A disk that syncs nothing any more: what is there is read, and nothing is written.
#[tokio::test]
async fn an_index_that_takes_no_writes_is_told_of_everywhere() {
    let disk = SimDisk::new();
    let folder = tempfile::tempdir().unwrap();
    let config = Config { data: folder.path().to_owned(), ..Config::default() };
    let app = App::start_on(config, Arc::new(disk.clone())).await.unwrap();
    let server = Server { router: router(Arc::clone(&app)), app, folder };
    for index in ["a", "b"] {
        server.put(&format!("/{index}/_doc/1?refresh=true"), json!({"n": 1})).await;
    }
    check(&server.get("/health/ready").await, 200, &json!({"ready": true}));
    // It has nothing to flush while no file can be made durable.
    check(&server.ask("POST", "/b/_flush", "").await, 200, &json!({"_shards": {"failed": 0}}));
    disk.fail_from(disk.operations(), Fault::SyncFailure);
    check(&server.put("/a/_doc/2", json!({"n": 2})).await, 503, &json!({"status": 503}));
    let ready = server.get("/health/ready").await;
    let reason = json!({"index": "a", "state": "read_only"});
    check(&ready, 503, &json!({"ready": false, "reasons": [reason]}));
    assert!(ready.text.contains("read-only until a flush has succeeded"), "{}", ready.text);
    let health = server.get("/_cluster/health?level=indices").await;
    let expected = json!({"status": "yellow", "active_shards": 2, "indices": {
        "a": {"status": "yellow", "active_shards": 1}, "b": {"status": "green"}}});
    check(&health, 200, &expected);
    check(&server.get("/_cluster/health/b").await, 200, &json!({"status": "green"}));
    check(&server.get("/_cluster/health?wait_for_status=yellow").await, 200, &json!({}));
    check(&server.get("/_cluster/health?wait_for_status=green").await, 408, &json!({}));
    check(&server.get("/_cluster/stats").await, 200, &json!({"status": "yellow"}));
    let stats = json!({"indices": {"a": {"health": "yellow"}, "b": {"health": "green"}}});
    check(&server.get("/_stats").await, 200, &stats);
    assert_eq!(
        server.get("/_cat/indices?h=index,health&s=index").await.text,
        "a yellow\nb green\n"
    );
    assert_eq!(server.get("/_cat/health?h=status").await.text, "yellow\n");
    // What the refused write would have written may be seen already.
    assert_eq!(server.search("/a/_search?q=n:1", json!({})).await["hits"]["total"]["value"], 1);
    disk.heal();
    check(&server.ask("POST", "/a/_flush", "").await, 200, &json!({"_shards": {"failed": 0}}));
    check(&server.get("/health/ready").await, 200, &json!({"ready": true}));
    check(&server.get("/_cluster/health").await, 200, &json!({"status": "green"}));
}

#[tokio::test]
async fn counts_end_early_as_they_are_told() {
    let mut config = Config::default();
    config.search.default_timeout_ms = 1;
    let (patient, hasty) =
        (Server::start().await, Server::start_in(tempfile::tempdir().unwrap(), config).await);
    let documents =
        (0..5_000).map(|n| format!("{{\"index\":{{}}}}\n{{\"k\":\"key of number {n}\"}}\n"));
    let body: String = documents.collect();
    for server in [&patient, &hasty] {
        let mapping = json!({"mappings": {"properties": {"k": {"type": "keyword"}}}});
        check(&server.put("/i", mapping).await, 200, &json!({}));
        let answer = server.ask("POST", "/i/_bulk?refresh=true", body.clone()).await;
        check(&answer, 200, &json!({"errors": false}));
    }
    let few = patient.get("/i/_count?terminate_after=7").await;
    check(&few, 200, &json!({"count": 7, "terminated_early": true}));
    let all = patient.get("/i/_count?terminate_after=9000").await;
    check(&all, 200, &json!({"count": 5_000, "terminated_early": false}));
    let plain = patient.get("/i/_count?terminate_after=0").await;
    check(&plain, 200, &json!({"count": 5_000}));
    assert_eq!(plain.json["terminated_early"], Value::Null);
    check(&patient.get("/i/_count?terminate_after=x").await, 400, &json!({"status": 400}));
    // It takes longer than a millisecond to look for these.
    let slow = |n: usize| json!({"wildcard": {"k": format!("*e*o*n*m*e*{n}*")}});
    let slow = json!({"query": {"bool": {"should": (0..20).map(slow).collect::<Vec<_>>()}}});
    let whole = patient.ask("POST", "/i/_count", slow.to_string()).await;
    check(&whole, 200, &json!({"count": 5_000}));
    let late = hasty.ask("POST", "/i/_count", slow.to_string()).await;
    check(&late, 504, &json!({"status": 504}));
}

#[tokio::test]
async fn an_update_tells_the_document_where_it_is_asked_to() {
    let server = Server::start().await;
    server.put("/i/_doc/1", json!({"a": 1, "b": {"c": 2, "d": 3}})).await;
    let update = async |path: &str, body: Value| {
        let answer = server.ask("POST", &format!("/i/_update/{path}"), body.to_string()).await;
        assert!(answer.status.is_success(), "{path} {body}: {}", answer.text);
        answer.json
    };
    let change = json!({"a": 2});
    let plain = update("1", json!({"doc": {"a": 5}, "_source": false})).await;
    assert_eq!(plain["get"], Value::Null);
    let whole = update("1?_source=true", json!({"doc": &change})).await;
    let document = json!({"a": 2, "b": {"c": 2, "d": 3}});
    let get = json!({"_seq_no": whole["_seq_no"], "_primary_term": whole["_primary_term"],
        "found": true, "_source": document});
    assert_eq!(whole["get"], get);
    // One that changes nothing tells it, too, as it has been since.
    let same = update("1", json!({"doc": &change, "_source": true})).await;
    assert_eq!((&same["result"], &same["get"]), (&json!("noop"), &get));
    for (path, asked, expected) in [
        ("1", json!("b.*"), json!({"b": {"c": 2, "d": 3}})),
        ("1", json!(["a", "b.c"]), json!({"a": 2, "b": {"c": 2}})),
        ("1", json!({"excludes": "b"}), json!({"a": 2})),
        ("1?_source=b", json!({"includes": "a"}), json!({"a": 2})),
    ] {
        let told = update(path, json!({"doc": &change, "_source": asked})).await;
        assert_eq!(told["get"]["_source"], expected, "{path} {asked}");
    }
    let told = update("1?_source_includes=b&_source_excludes=b.c", json!({"doc": {}})).await;
    assert_eq!(told["get"]["_source"], json!({"b": {"d": 3}}));
    let upsert = json!({"doc": {"a": 1}, "doc_as_upsert": true, "_source": true});
    let made = update("2", upsert).await;
    assert_eq!((&made["result"], &made["get"]["_source"]), (&json!("created"), &json!({"a": 1})));
    let script = json!({"script": "ctx._source.a = 1"}).to_string();
    let refused = server.ask("POST", "/i/_update/1", script).await;
    check(&refused, 400, &json!({"error": {"type": "x_content_parse_exception"}}));
    assert!(refused.text.contains("[script]"), "{}", refused.text);
    let line = "{\"update\":{\"_id\":\"1\"}}\n{\"doc\":{},\"_source\":true}\n";
    let bulk = server.ask("POST", "/i/_bulk", line).await;
    assert!(bulk.text.contains("[_source] of [_bulk] is not supported"), "{}", bulk.text);
}
