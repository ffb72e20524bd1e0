//! An index whose writes are held back takes no more than its share: others are written and read.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use egret_server::app::App;
use egret_server::config::Config;
use egret_server::routes::router;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::Service;

/// What takes longer was waiting for an index that is held back.
const SOON: Duration = Duration::from_secs(10);

async fn ask(router: &Router, method: &str, path: &str, body: String) -> (u16, Value) {
    let request = Request::builder().method(method).uri(path);
    let request = request.header("content-type", "application/json").body(Body::from(body));
    let response = router.clone().call(request.unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    let text = body.collect().await.unwrap().to_bytes();
    (parts.status.as_u16(), serde_json::from_slice(&text).unwrap_or_default())
}

async fn soon(router: &Router, method: &str, path: &str, body: &str) -> (u16, Value) {
    let asked = ask(router, method, path, body.to_owned());
    tokio::time::timeout(SOON, asked).await.unwrap_or_else(|_| panic!("{method} {path} waits"))
}

async fn eventually(router: &Router, path: &str, holds: impl Fn(&Value) -> bool) {
    let deadline = tokio::time::Instant::now() + SOON;
    loop {
        let (_, body) = soon(router, "GET", path, "").await;
        if holds(&body) {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{path} stays at {body}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn an_index_that_is_held_back_keeps_no_other_from_its_turn() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = Config { data: folder.path().to_owned(), ..Config::default() };
    // Two segments are too few to be merged, and too many to write on.
    config.engine.segments_before_wait = 1;
    config.engine.max_write_wait_ms = 30_000;
    config.pools.write_queue = 80;
    let app = App::start(config).await.unwrap();
    let router = router(Arc::clone(&app));
    for path in ["/slow/_doc/1", "/slow/_doc/2", "/other/_doc/1"] {
        let (status, _) = soon(&router, "PUT", &format!("{path}?refresh=true"), "{}").await;
        assert_eq!(status, 201, "{path}");
    }
    soon(
        &router,
        "POST",
        "/_aliases",
        &json!({"actions": [{"add": {"index": "slow", "alias": "s"}}]}).to_string(),
    )
    .await;
    let held: Vec<_> = (0..80)
        .map(|n| {
            let router = router.clone();
            let name = if n % 2 == 0 { "slow" } else { "s" };
            tokio::spawn(async move {
                ask(&router, "PUT", &format!("/{name}/_doc/more{n}"), "{}".into()).await
            })
        })
        .collect();
    eventually(&router, "/slow/_stats", |stats| {
        stats["indices"]["slow"]["total"]["indexing"]["is_throttled"] == true
    })
    .await;

    // A bulk waits for one of its indexes, and writes to the other.
    let lines = "{\"index\":{\"_index\":\"slow\",\"_id\":\"b\"}}\n{}\n\
                 {\"index\":{\"_index\":\"third\",\"_id\":\"b\"}}\n{}\n";
    let both = {
        let router = router.clone();
        tokio::spawn(async move { ask(&router, "POST", "/_bulk", lines.into()).await })
    };
    eventually(&router, "/third/_doc/b", |read| read["found"] == true).await;
    assert_eq!(soon(&router, "PUT", "/other/_doc/2", "{}").await.0, 201);
    assert_eq!(soon(&router, "GET", "/other/_doc/2", "").await.0, 200);
    assert_eq!(soon(&router, "GET", "/slow/_doc/1", "").await.0, 200);

    // Four are at work, a quarter of the queue waits, and the others were told.
    let mut refused = Vec::new();
    for asked in held {
        if asked.is_finished() {
            refused.push(asked.await.unwrap());
        } else {
            asked.abort();
        }
    }
    both.abort();
    assert!(refused.len() >= 80 - 4 - 20, "{} were refused", refused.len());
    for (status, body) in refused {
        assert_eq!(
            (status, &body["error"]["type"]),
            (429, &json!("es_rejected_execution_exception"))
        );
        let reason = body["error"]["reason"].as_str().unwrap();
        assert!(reason.contains("[4] at work for index [slow]"), "{reason}");
    }
    app.stop().await.unwrap();
}
