//! `_stats` as clients and exporters read it.

use serde_json::{Value, json};

use super::support::{Server, check};

#[tokio::test]
async fn what_is_done_is_counted_by_index_and_in_all() {
    let server = Server::start().await;
    let lines = "{\"index\":{\"_id\":\"1\"}}\n{\"n\":1}\n{\"index\":{\"_id\":\"2\"}}\n{\"n\":2}\n\
                 {\"index\":{\"_id\":\"3\"}}\n{\"n\":\"x\"}\n{\"delete\":{\"_id\":\"2\"}}\n\
                 {\"update\":{\"_id\":\"1\"}}\n{\"doc\":{\"n\":1}}\n";
    let mapping = json!({"mappings": {"properties": {"n": {"type": "long"}}}});
    check(&server.put("/a", mapping).await, 200, &json!({}));
    check(&server.ask("POST", "/a/_bulk", lines).await, 200, &json!({"errors": true}));
    check(&server.put("/b/_doc/1?refresh=true", json!({})).await, 201, &json!({}));
    check(&server.ask("POST", "/_flush", "").await, 200, &json!({}));
    server.get("/a/_doc/1").await;
    server.get("/a/_doc/1?realtime=false").await;
    server.get("/a/_doc/9").await;
    for _ in 0..2 {
        server.search("/a,b/_search", json!({"query": {"match_all": {}}})).await;
    }
    server.search("/b/_search", json!({"size": 0})).await;
    let stats = server.get("/_stats").await;
    let of_a = json!({
        "docs": {"count": 1},
        "indexing": {"index_total": 2, "delete_total": 1, "noop_update_total": 1, "index_failed": 1},
        "get": {"total": 3, "exists_total": 2, "missing_total": 1},
        // The second one came from the cache.
        "search": {"query_total": 1, "fetch_total": 1},
        "flush": {"total": 1},
        "translog": {"operations": 0, "uncommitted_operations": 0},
    });
    let of_b = json!({
        "indexing": {"index_total": 1, "delete_total": 0},
        "get": {"total": 0},
        "search": {"query_total": 2, "fetch_total": 1},
        "refresh": {"total": 1, "external_total": 1},
    });
    let all = json!({
        "indexing": {"index_total": 3},
        "search": {"query_total": 3, "fetch_total": 2},
        "request_cache": {"hit_count": 1, "miss_count": 2},
    });
    let both = |of: &Value| json!({"primaries": of, "total": of});
    let expected = json!({"_all": both(&all), "indices": {"a": both(&of_a), "b": both(&of_b)}});
    check(&stats, 200, &expected);
    let all = &stats.json["_all"]["total"];
    for (section, counter) in [
        ("indexing", "index_time_in_millis"),
        ("get", "time_in_millis"),
        ("search", "query_time_in_millis"),
        ("search", "fetch_time_in_millis"),
        ("refresh", "total_time_in_millis"),
        ("flush", "total_time_in_millis"),
        ("merges", "total_time_in_millis"),
        ("translog", "uncommitted_size_in_bytes"),
        ("store", "size_in_bytes"),
        ("segments", "memory_in_bytes"),
    ] {
        assert!(all[section][counter].is_u64(), "{section}.{counter} in {all}");
    }
    let some = server.get("/a/_stats/get,search").await.json;
    let sections: Vec<&String> = some["_all"]["total"].as_object().unwrap().keys().collect();
    assert_eq!(sections, ["get", "search"]);
    let unknown = server.get("/a/_stats/gets").await;
    check(&unknown, 400, &json!({"error": {"type": "illegal_argument_exception"}}));
    assert!(unknown.text.contains("unrecognized metric: [gets]"), "{}", unknown.text);
}
