//! What scrolls and points in time keep in memory.

use egret_server::config::Config;
use serde_json::{Value, json};

use super::support::{Server, check};

/// An index with a segment that is not on disk.
async fn young(limit: u64) -> Server {
    let mut config = Config::default();
    config.search.max_context_memory_bytes = limit;
    let server = Server::start_in(tempfile::tempdir().unwrap(), config).await;
    check(&server.put("/i/_doc/1?refresh=true", json!({"n": 1})).await, 201, &json!({}));
    server
}

async fn kept(server: &Server) -> (Value, u64) {
    let stats = server.get("/_stats/search").await.json;
    let contexts = &stats["_all"]["open_contexts"];
    (contexts["current"].clone(), contexts["memory_in_bytes"].as_u64().unwrap())
}

#[tokio::test]
async fn the_memory_that_contexts_keep_is_told() {
    let server = young(1 << 30).await;
    let opened = server.ask("POST", "/i/_pit?keep_alive=1m", "").await;
    check(&opened, 200, &json!({}));
    let (open, bytes) = kept(&server).await;
    assert!(open == 1 && bytes > 0, "{open} {bytes}");
    // The same segment again.
    let scroll = server.search("/i/_search?scroll=1m", json!({})).await;
    assert_eq!(kept(&server).await, (json!(2), bytes));
    // The index has it on disk, and what is held has it in memory still.
    check(&server.ask("POST", "/i/_flush", "").await, 200, &json!({}));
    let stats = server.get("/i/_stats/segments").await.json;
    assert_eq!(stats["_all"]["total"]["segments"]["memory_in_bytes"], 0);
    assert_eq!(kept(&server).await, (json!(2), bytes));
    let id = json!({"id": opened.json["id"]}).to_string();
    check(&server.ask("DELETE", "/_pit", id).await, 200, &json!({"num_freed": 1}));
    assert_eq!(kept(&server).await, (json!(1), bytes));
    let id = json!({"scroll_id": scroll["_scroll_id"]}).to_string();
    check(&server.ask("DELETE", "/_search/scroll", id).await, 200, &json!({"num_freed": 1}));
    assert_eq!(kept(&server).await, (json!(0), 0));
}

#[tokio::test]
async fn where_contexts_would_keep_too_much_in_memory_the_index_is_flushed() {
    let server = young(0).await;
    let opened = server.ask("POST", "/i/_pit?keep_alive=1m", "").await;
    check(&opened, 200, &json!({}));
    assert_eq!(kept(&server).await, (json!(1), 0));
    let stats = server.get("/i/_stats/segments,flush").await.json;
    let total = &stats["_all"]["total"];
    assert_eq!(
        (&total["segments"]["memory_in_bytes"], &total["flush"]["total"]),
        (&json!(0), &json!(1))
    );
    check(&server.put("/i/_doc/2?refresh=true", json!({"n": 2})).await, 201, &json!({}));
    let scroll = server.search("/i/_search?scroll=1m", json!({})).await;
    assert_eq!(scroll["hits"]["total"]["value"], 2);
    assert_eq!(kept(&server).await, (json!(2), 0));
    let found = server.search("/_search", json!({"pit": {"id": opened.json["id"]}})).await;
    assert_eq!(found["hits"]["total"]["value"], 1);
}
