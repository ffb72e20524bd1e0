//! The server as tests ask it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{Request, StatusCode};
use egret_server::app::App;
use egret_server::config::Config;
use egret_server::routes::router;
use http_body_util::BodyExt;
use serde_json::Value;
use tempfile::TempDir;
use tower::Service;

/// The API.
pub(crate) struct Server {
    pub(crate) app: Arc<App>,
    pub(crate) router: axum::Router,
    pub(crate) folder: TempDir,
}

/// An answer: status, headers, text and, where it is some, JSON.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: axum::http::HeaderMap,
    pub(crate) text: String,
    pub(crate) json: Value,
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), Config::default()).await
    }

    pub(crate) async fn start_in(folder: TempDir, mut config: Config) -> Self {
        config.data = folder.path().to_owned();
        let deadline = Instant::now() + Duration::from_secs(60);
        let app = loop {
            match App::start(config.clone()).await {
                // What records statistics may hold the folder a moment longer than the server before.
                Err(error) if Instant::now() < deadline && error.to_string().contains("in use") => {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                started => break started.unwrap(),
            }
        };
        Self { router: router(Arc::clone(&app)), app, folder }
    }

    pub(crate) async fn stop(self) -> TempDir {
        self.app.stop().await.unwrap();
        self.folder
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().call(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let text = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8(text.to_vec()).unwrap();
        let json = serde_json::from_str(&text).unwrap_or(Value::Null);
        Answer { status: parts.status, headers: parts.headers, text, json }
    }

    pub(crate) async fn ask(&self, method: &str, path: &str, body: impl Into<String>) -> Answer {
        let request = Request::builder().method(method).uri(path);
        let request = request.header("content-type", "application/json");
        self.send(request.body(Body::from(body.into())).unwrap()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "").await
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> Answer {
        self.ask("PUT", path, body.to_string()).await
    }

    pub(crate) async fn search(&self, path: &str, body: Value) -> Value {
        let answer = self.ask("POST", path, body.to_string()).await;
        assert_eq!(answer.status, 200, "{path} {body}: {}", answer.text);
        answer.json
    }
}

/// Whether `actual` has everything that `expected` has.
pub(crate) fn contains(actual: &Value, expected: &Value) -> bool {
    match (actual, expected) {
        (Value::Object(actual), Value::Object(expected)) => expected
            .iter()
            .all(|(key, value)| actual.get(key).is_some_and(|found| contains(found, value))),
        (Value::Array(actual), Value::Array(expected)) => {
            actual.len() == expected.len()
                && actual.iter().zip(expected).all(|(actual, expected)| contains(actual, expected))
        }
        (actual, expected) => actual == expected,
    }
}

#[track_caller]
pub(crate) fn check(answer: &Answer, status: u16, expected: &Value) {
    assert_eq!(answer.status.as_u16(), status, "{}", answer.text);
    assert!(contains(&answer.json, expected), "{} lacks {expected}", answer.text);
    assert_eq!(answer.headers["x-elastic-product"], "Elasticsearch");
}
