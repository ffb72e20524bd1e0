//! `_msearch`: several searches in one request, each with its own answer.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use bytes::Bytes;
use egret_engine::{Checkpoint, Control};
use futures_util::StreamExt;
use serde_json::Value;

use super::search::{Ask, Found, run};
use super::{freshness, targets};
use crate::app::App;
use crate::dialect::bulk::Lines;
use crate::dialect::json::{Field, parse_object};
use crate::error::{Error, Result};
use crate::http::{Call, Params, Reply, errors};
use crate::searches::Assembled;

/// A request may hold so many searches.
const MAX_SEARCHES: usize = 1_000;
/// So many of them run at once unless the request wants fewer.
const CONCURRENT: usize = 8;

const KNOWN: &[&str] = &[
    "typed_keys",
    "rest_total_hits_as_int",
    "max_concurrent_searches",
    "search_type",
    "ccs_minimize_roundtrips",
    "max_concurrent_shard_requests",
    "pre_filter_shard_size",
];

/// What a search's first line may say.
const HEADER: &[&str] = &[
    "search_type",
    "preference",
    "request_cache",
    "ignore_unavailable",
    "allow_no_indices",
    "expand_wildcards",
    "allow_partial_search_results",
    "ccs_minimize_roundtrips",
    "wait_for_lsn",
    "wait_for_timeout",
];

pub(super) async fn msearch(State(app): State<Arc<App>>, call: Call) -> Result<Reply> {
    answer(&app, &call, "_all").await
}

pub(super) async fn msearch_in(
    State(app): State<Arc<App>>,
    Path(index): Path<String>,
    call: Call,
) -> Result<Reply> {
    answer(&app, &call, &index).await
}

/// One search: where, with which parameters, its body.
struct Item {
    expression: String,
    params: Params,
    body: Bytes,
}

async fn answer(app: &App, call: &Call, expression: &str) -> Result<Reply> {
    let started = Instant::now();
    call.params.allow(&[KNOWN, targets::PARAMS, freshness::PARAMS].concat())?;
    let wanted = call.params.count("max_concurrent_searches")?.unwrap_or(CONCURRENT);
    if wanted == 0 {
        return Err(Error::argument("maxConcurrentSearchRequests must be positive"));
    }
    let items = read(call, expression)?;
    let mut body = Assembled::new(&app.breaker, b"{\"responses\":[".to_vec());
    let memory = body.memory();
    let one = async |item: Item| {
        let Item { expression, params, body } = &item;
        let found = run(app, &Ask { params, headers: &call.headers, body, expression }).await;
        // A search that is one too many fails alone: the others have their answers.
        match found.and_then(|found| counted(&memory, found)) {
            Ok(found) => (written(Ok(found.body)), found.checkpoints),
            Err(error) => (written(Err(error)), Vec::new()),
        }
    };
    let answers = futures_util::stream::iter(items).map(one).buffered(wanted.min(CONCURRENT));
    let mut answers = std::pin::pin!(answers);
    let mut checkpoints: Vec<Option<Checkpoint>> = Vec::new();
    let mut separator: &[u8] = b"";
    while let Some((answer, shown)) = answers.next().await {
        body.push(separator);
        body.push(&answer);
        checkpoints.extend(shown);
        separator = b",";
    }
    body.push(format!("],\"took\":{}}}", started.elapsed().as_millis()).as_bytes());
    let reply = Reply::raw_json(StatusCode::OK, body.into_bytes());
    Ok(freshness::mark(reply, checkpoints.into_iter()))
}

/// Counts an answer that is kept until all are there.
fn counted(memory: &Control, found: Found) -> Result<Found> {
    memory.take(found.body.len() as u64)?;
    Ok(found)
}

/// One answer, with its status.
fn written(found: Result<Vec<u8>>) -> Vec<u8> {
    match found {
        Ok(mut body) => {
            body.pop();
            body.extend_from_slice(b",\"status\":200}");
            body
        }
        Err(error) => errors::body(&error).to_string().into_bytes(),
    }
}

fn read(call: &Call, expression: &str) -> Result<Vec<Item>> {
    let body = &call.body;
    if body.last().is_some_and(|last| *last != b'\n') {
        return Err(Error::argument("The msearch request must be terminated by a newline [\\n]"));
    }
    let mut lines = Lines::of(body);
    let mut items = Vec::new();
    while let Some(head) = lines.next() {
        let Some(body) = lines.next() else {
            return Err(Error::argument("the last search of [_msearch] has no body"));
        };
        if items.len() == MAX_SEARCHES {
            return Err(Error::argument(format!(
                "[_msearch] has more than [{MAX_SEARCHES}] searches"
            )));
        }
        let (expression, params) = header(&head, expression, &call.params)?;
        items.push(Item { expression, params, body });
    }
    if items.is_empty() {
        return Err(Error::validation("no requests added"));
    }
    Ok(items)
}

/// A search's first line, over what the URL says for all.
fn header(head: &[u8], expression: &str, all: &Params) -> Result<(String, Params)> {
    let mut expression = expression.to_owned();
    let mut pairs: Vec<(String, String)> = KNOWN
        .iter()
        .chain(targets::PARAMS)
        .chain(freshness::PARAMS)
        .filter_map(|key| Some(((*key).to_owned(), all.text(key)?.to_owned())))
        .collect();
    for (key, value) in parse_object(head)? {
        let field = Field::new("msearch", &key, &value);
        match key.as_str() {
            "index" | "indices" if value.is_null() => {}
            "index" | "indices" => expression = field.texts()?.join(","),
            known if HEADER.contains(&known) => {
                let text = match &value {
                    Value::Array(_) => field.texts()?.join(","),
                    _ => field.text()?,
                };
                pairs.push((key, text));
            }
            _ => {
                let reason = format!("key [{key}] is not supported in the metadata section");
                return Err(Error::argument(reason));
            }
        }
    }
    if expression.is_empty() {
        "_all".clone_into(&mut expression);
    }
    Ok((expression, Params::of("/_msearch", pairs)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn headers_go_before_the_url() {
        let all = Params::read("/_msearch", "ignore_unavailable=false&typed_keys").unwrap();
        let head = json!({"index": ["a", "b*"], "ignore_unavailable": true}).to_string();
        let (expression, params) = header(head.as_bytes(), "c", &all).unwrap();
        assert_eq!(expression, "a,b*");
        assert_eq!(params.boolean("ignore_unavailable").unwrap(), Some(true));
        assert_eq!(params.boolean("typed_keys").unwrap(), Some(true));
        assert_eq!(header(b"", "c", &all).unwrap().0, "c");
        assert!(header(b"{\"x\":1}", "c", &all).unwrap_err().reason().contains("[x]"));
    }
}
