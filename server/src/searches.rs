//! What searches runs here: on the searches' pool, within their memory, as a task that `_tasks` shows
//! and cancels. It ends early when nobody waits for it any more.

use std::sync::Arc;

use bytes::Bytes;
use egret_engine::search::request::SearchRequest;
use egret_engine::search::response::SearchResponse;
use egret_engine::search::{SearchLimits, search_within};
use egret_engine::{Breaker, Control, ErrorKind, Snapshot};
use serde_json::Value;

use crate::app::App;
use crate::error::{Error, Kind, Result};
use crate::tasks::{Begin, Progress};

/// Of a request's body, so many characters are shown.
const SHOWN_CHARACTERS: usize = 1_000;

/// Who asks, and what.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asked {
    /// `X-Opaque-Id` of the request.
    pub(crate) opaque_id: Option<String>,
    /// The request's body.
    pub(crate) source: Bytes,
}

impl Asked {
    fn begin(&self, indexes: &[&str]) -> Begin {
        let source = String::from_utf8_lossy(&self.source);
        let source: String = source.chars().take(SHOWN_CHARACTERS).collect();
        Begin {
            action: "indices:data/read/search",
            description: format!(
                "indices[{}], search_type[QUERY_THEN_FETCH], source[{source}]",
                indexes.join(",")
            ),
            opaque_id: self.opaque_id.clone(),
            progress: Progress::new(1, f64::INFINITY),
            cancellable: true,
        }
    }
}

/// Asks the engine. How far a request may reach is a setting of the indexes, of which their
/// snapshots know nothing: it has been looked at before.
pub(crate) fn search(
    snapshots: &[Arc<Snapshot>],
    request: &SearchRequest,
) -> Result<SearchResponse> {
    let limits = SearchLimits { max_result_window: usize::MAX, ..SearchLimits::default() };
    Ok(search_within(snapshots, request, &limits)?)
}

/// Runs a search as a task of its own.
pub(crate) async fn run<T: Send + 'static>(
    app: &App,
    asked: &Asked,
    indexes: &[&str],
    search: impl FnOnce(&Control) -> Result<T> + Send + 'static,
) -> Result<T> {
    let running = app.tasks.begin_search(asked.begin(indexes));
    let task = Arc::clone(&running.task);
    let search = move |control: &Control| {
        let found = search(control);
        running.end(Ok(Value::Null));
        found
    };
    within(app, &task.begin.progress, search).await
}

/// Runs a search that is part of a task. It ends when the task is cancelled, when nobody waits for
/// it, or when it would take too much memory.
pub(crate) async fn within<T: Send + 'static>(
    app: &App,
    task: &Progress,
    search: impl FnOnce(&Control) -> Result<T> + Send + 'static,
) -> Result<T> {
    let control = app.breaker.control();
    let _left = Left(Arc::clone(&control));
    let search = move || control.run(|| search(&control));
    tokio::select! {
        found = app.pools.search.run(search) => found,
        reason = task.until_cancelled() => Err(Error::new(
            Kind::Engine(ErrorKind::Cancelled),
            format!("task cancelled [{reason}]"),
        )),
    }
}

/// An answer that is put together from several: it counts as memory of searches until it is sent.
#[derive(Debug)]
pub(crate) struct Assembled {
    body: Vec<u8>,
    memory: Arc<Control>,
}

impl Assembled {
    pub(crate) fn new(breaker: &Arc<Breaker>, head: Vec<u8>) -> Self {
        Self { body: head, memory: breaker.control() }
    }

    /// What its parts are counted by. One that waits for those before it counts already.
    pub(crate) fn memory(&self) -> Arc<Control> {
        Arc::clone(&self.memory)
    }

    /// Adds a part that has been counted.
    pub(crate) fn push(&mut self, counted: &[u8]) {
        self.body.extend_from_slice(counted);
    }

    /// The whole, which counts until it is dropped.
    pub(crate) fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Assembled {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

/// Cancels a search when dropped: who waited for it has its answer, or has left.
struct Left(Arc<Control>);

impl Drop for Left {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_together_counts_until_it_is_sent() {
        let breaker = Breaker::new(1 << 30, 1 << 20);
        let mut answer = Assembled::new(&breaker, b"[".to_vec());
        answer.memory().take(1 << 20).unwrap();
        answer.push(b"1]");
        let body = answer.into_bytes();
        let part = body.slice(1..);
        drop(body);
        assert_eq!((&part[..], breaker.taken_bytes()), (&b"1]"[..], 1 << 20));
        drop(part);
        assert_eq!(breaker.taken_bytes(), 0);
    }
}
