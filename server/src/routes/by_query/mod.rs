//! `_update_by_query` and `_delete_by_query`: every document that a query finds; and what they
//! share with `_reindex`.

mod driver;
mod options;
mod reindex;

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use egret_engine::search::request::{SearchRequest, SourceFilter};
use serde_json::{Value, json};

use self::driver::{Action, Plan, Work};
use self::options::Options;
pub(super) use self::options::rate;
pub(super) use self::reindex::reindex;
use super::search;
use super::search::SnapshotFields;
use super::targets::{self, Targets, WriteTo};
use crate::app::App;
use crate::dialect::json::parse_object;
use crate::dialect::search as dialect;
use crate::error::{Error, Result};
use crate::http::{Call, Reply};
use crate::tasks::{Begin, Progress};

const PARAMS: &[&str] = &["conflicts", "preference", "scroll_size", "size", "sort"];

pub(super) async fn update(
    State(app): State<Arc<App>>,
    Path(expression): Path<String>,
    call: Call,
) -> Result<Reply> {
    by_query(app, &expression, &call, Action::Update).await
}

pub(super) async fn delete(
    State(app): State<Arc<App>>,
    Path(expression): Path<String>,
    call: Call,
) -> Result<Reply> {
    by_query(app, &expression, &call, Action::Delete).await
}

async fn by_query(app: Arc<App>, expression: &str, call: &Call, action: Action) -> Result<Reply> {
    call.params.allow(&[PARAMS, options::PARAMS, search::TEXT, targets::PARAMS].concat())?;
    let mut options = Options::read(&call.params)?;
    let mut body = parse_object(&call.body)?;
    if action == Action::Delete && !body.contains_key("query") && !call.params.has("q") {
        return Err(Error::validation("query is missing"));
    }
    let mut taken = Vec::new();
    for (key, value) in &body {
        if options.take(key, value)? {
            taken.push(key.clone());
        } else if !matches!(key.as_str(), "query" | "sort") {
            return Err(Error::parsing(format!("unknown key [{key}] in a request by query")));
        }
    }
    for key in taken {
        body.remove(&key);
    }
    options.check()?;
    let targets = Targets::searched(&app, expression, &call.params)?;
    for index in &targets.indexes {
        targets::written(&app.engine, index.name(), WriteTo::default())?;
    }
    let snapshots: Vec<_> = targets.indexes.iter().map(|index| index.snapshot()).collect();
    let fields = SnapshotFields(&snapshots);
    let mut request = dialect::read(&body, &fields)?;
    if let Some(query) = search::text_query(&call.params, &fields)? {
        request.query = query;
    }
    if let Some(sort) = call.params.filled("sort") {
        request.sort = crate::dialect::sort::read_parameter(sort)?;
    }
    if action == Action::Delete {
        request.source = SourceFilter::None;
    }
    let description = match action {
        Action::Delete => format!("delete-by-query [{expression}]"),
        _ => format!("update-by-query [{expression}]"),
    };
    request.query = targets.restrict(request.query, &snapshots)?;
    let plan = plan(targets.indexes, request, action, &options);
    run(app, &call.headers, plan, &options, description).await
}

fn plan(
    indexes: Vec<Arc<egret_engine::Index>>,
    request: SearchRequest,
    action: Action,
    options: &Options,
) -> Plan {
    let request = SearchRequest { size: options.batch, ..request };
    let Options { max_docs, proceed, refresh, .. } = *options;
    Plan { indexes, request, action, max_docs, proceed, refresh }
}

/// Does the work as a task, and waits for it where that is wanted. It goes on when whoever asked
/// goes away.
async fn run(
    app: Arc<App>,
    headers: &HeaderMap,
    plan: Plan,
    options: &Options,
    description: String,
) -> Result<Reply> {
    let action = match plan.action {
        Action::Update => "indices:data/write/update/byquery",
        Action::Delete => "indices:data/write/delete/byquery",
        Action::Copy { .. } => "indices:data/write/reindex",
    };
    let progress = Progress::new(options.slices, options.rate);
    let opaque_id = super::tasks::opaque_id(headers);
    let running =
        app.tasks.begin(Begin { action, description, opaque_id, progress, cancellable: true })?;
    let task = Arc::clone(&running.task);
    let work = Arc::new(Work::new(Arc::clone(&app), Arc::clone(&task), plan));
    tokio::spawn(async move {
        let result = work.run().await;
        running.end(result);
    });
    if !options.wait {
        let id = format!("{}:{}", app.identity.node_id, task.number);
        return Ok(Reply::ok(&json!({ "task": id })));
    }
    let answer = task.wait().await.result?;
    Ok(Reply::json(status(&answer), &answer))
}

/// The worst of the failures.
fn status(answer: &Value) -> StatusCode {
    let failures = answer.get("failures").and_then(Value::as_array).into_iter().flatten();
    let statuses = failures.filter_map(|failure| failure.get("status")?.as_u64());
    let worst = statuses.max().and_then(|status| u16::try_from(status).ok());
    worst.and_then(|status| StatusCode::from_u16(status).ok()).unwrap_or(StatusCode::OK)
}
