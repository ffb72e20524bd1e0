//! An index whose writes are held back takes no more than its share: others are written and read.

use std::sync::Arc;
use std::time::Duration;

use egret_server::config::Config;
use serde_json::{Value, json};

use super::support::{Answer, Server};

/// What takes longer was waiting for an index that is held back.
const SOON: Duration = Duration::from_secs(10);

async fn soon(server: &Server, method: &str, path: &str, body: &str) -> Answer {
    let asked = tokio::time::timeout(SOON, server.ask(method, path, body)).await;
    asked.unwrap_or_else(|_| panic!("{method} {path} waits"))
}

async fn eventually(server: &Server, path: &str, holds: impl Fn(&Value) -> bool) {
    let deadline = tokio::time::Instant::now() + SOON;
    loop {
        let answer = soon(server, "GET", path, "").await;
        if holds(&answer.json) {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{path} stays at {}", answer.text);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn an_index_that_is_held_back_keeps_no_other_from_its_turn() {
    let mut config = Config::default();
    // Two segments are too few to be merged, and too many to write on.
    config.engine.segments_before_wait = 1;
    config.engine.max_write_wait_ms = 30_000;
    config.pools.write_queue = 80;
    let server = Arc::new(Server::start_in(tempfile::tempdir().unwrap(), config).await);
    for path in ["/slow/_doc/1", "/slow/_doc/2", "/other/_doc/1"] {
        let made = soon(&server, "PUT", &format!("{path}?refresh=true"), "{}").await;
        assert_eq!(made.status, 201, "{path}");
    }
    let alias = soon(&server, "PUT", "/slow/_alias/s", "").await;
    assert_eq!(alias.status, 200, "{}", alias.text);
    let begin = |method: &'static str, path: String, body: &'static str| {
        let server = Arc::clone(&server);
        tokio::spawn(async move { server.ask(method, &path, body).await })
    };
    let held: Vec<_> = (0..80)
        .map(|n| {
            let name = if n % 2 == 0 { "slow" } else { "s" };
            begin("PUT", format!("/{name}/_doc/more{n}"), "{}")
        })
        .collect();
    eventually(&server, "/slow/_stats/indexing", |stats| {
        stats["_all"]["total"]["indexing"]["waiting_for_segments"] == 4
    })
    .await;

    // A bulk waits for one of its indexes, and writes to the other.
    let lines = "{\"index\":{\"_index\":\"slow\",\"_id\":\"b\"}}\n{}\n\
                 {\"index\":{\"_index\":\"third\",\"_id\":\"b\"}}\n{}\n";
    let both = begin("POST", "/_bulk".into(), lines);
    eventually(&server, "/third/_doc/b", |read| read["found"] == true).await;
    assert_eq!(soon(&server, "PUT", "/other/_doc/2", "{}").await.status, 201);
    assert_eq!(soon(&server, "GET", "/other/_doc/2", "").await.status, 200);
    assert_eq!(soon(&server, "GET", "/slow/_doc/1", "").await.status, 200);

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
    assert_eq!(refused.len(), 80 - 4 - 20);
    for answer in refused {
        let error = &answer.json["error"];
        assert_eq!(
            (answer.status.as_u16(), &error["type"]),
            (429, &json!("es_rejected_execution_exception"))
        );
        assert!(answer.text.contains("[4] at work for index [slow]"), "{}", answer.text);
    }
    server.app.stop().await.unwrap();
}
