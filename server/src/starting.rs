//! What is answered before the data folder is open: an index that was killed replays its translog
//! first, which may take a while. `/health/live` is fine then, `/health/ready` says how far it is, and
//! everything else is unavailable for now.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::extract::Request;
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use egret_engine::store::replay::ReplayProgress;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::error::{Error, Kind};
use crate::http::Reply;

/// A program that starts.
#[derive(Default)]
pub(crate) struct Starting {
    /// What answers once it has.
    started: OnceLock<Router>,
    /// The indexes that replay their translogs. Held to note or show a state.
    replays: Mutex<BTreeMap<String, Value>>,
}

impl Starting {
    /// Answers requests: by itself at first, then by what [`Starting::finish`] was given.
    pub(crate) fn router(self: &Arc<Self>) -> Router {
        let this = Arc::clone(self);
        let answer = move |request: Request| {
            let this = Arc::clone(&this);
            async move { this.answer(request).await }
        };
        Router::new().fallback(answer)
    }

    /// From now on this one answers.
    pub(crate) fn finish(&self, router: Router) {
        // It starts once.
        let _ = self.started.set(router);
    }

    /// Takes note of how far a replay is.
    pub(crate) fn note(&self, progress: &ReplayProgress<'_>) {
        let ReplayProgress { index, operations, bytes, total_bytes, .. } = *progress;
        let mut replays = self.replays.lock();
        if progress.is_done {
            replays.remove(index);
            return;
        }
        let state = json!({
            "index": index,
            "state": "replaying",
            "operations": operations,
            "bytes": bytes,
            "total_bytes": total_bytes.max(bytes),
        });
        replays.insert(index.to_owned(), state);
    }

    async fn answer(&self, request: Request) -> Result<Response, Infallible> {
        if let Some(router) = self.started.get() {
            return router.clone().oneshot(request).await;
        }
        let mut response = match request.uri().path() {
            "/health/live" => Reply::ok(&json!({"live": true})).into_response(),
            "/health/ready" => {
                let mut reasons = vec![json!({"state": "starting"})];
                reasons.extend(self.replays.lock().values().cloned());
                let body = json!({"ready": false, "reasons": reasons});
                Reply::json(StatusCode::SERVICE_UNAVAILABLE, &body).into_response()
            }
            _ => {
                let reason = "egret is starting: GET /health/ready says how far it is";
                Error::new(Kind::Unavailable, reason).into_response()
            }
        };
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::body::Body;
    use axum::routing::get;
    use http_body_util::BodyExt;

    use super::*;

    async fn ask(router: &Router, path: &str) -> (StatusCode, String) {
        let request = Request::builder().uri(path).body(Body::empty()).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn what_is_not_open_yet_says_how_far_it_is() {
        let starting = Arc::new(Starting::default());
        let router = starting.router();
        let mut progress = ReplayProgress {
            index: "birds",
            operations: 7,
            bytes: 100,
            total_bytes: 400,
            elapsed: Duration::ZERO,
            is_done: false,
        };
        starting.note(&progress);
        let (status, body) = ask(&router, "/health/ready").await;
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        let replay = json!({"index": "birds", "state": "replaying", "operations": 7, "bytes": 100,
                            "total_bytes": 400});
        let reasons = json!([{"state": "starting"}, replay]);
        assert_eq!(body, json!({"ready": false, "reasons": reasons}));
        assert_eq!(ask(&router, "/health/live").await.0, StatusCode::OK);
        let (status, body) = ask(&router, "/birds/_search").await;
        assert!(
            status == StatusCode::SERVICE_UNAVAILABLE && body.contains("is starting"),
            "{body}"
        );
        progress.is_done = true;
        starting.note(&progress);
        let (_, body) = ask(&router, "/health/ready").await;
        assert!(!body.contains("birds"), "{body}");
        starting.finish(Router::new().route("/health/ready", get(|| async { "open" })));
        assert_eq!(ask(&router, "/health/ready").await, (StatusCode::OK, "open".to_owned()));
        assert_eq!(ask(&router, "/birds/_search").await.0, StatusCode::NOT_FOUND);
    }
}
