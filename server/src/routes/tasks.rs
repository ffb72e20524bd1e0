//! `_tasks`: what runs, how far it is, and how to stop or slow it.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::HeaderMap;
use egret_engine::catalog::pattern::matches;
use serde_json::{Map, Value, json};

use super::by_query::rate;
use crate::app::App;
use crate::error::{Error, Kind, Result};
use crate::http::{Call, Params, Reply, errors};
use crate::tasks::Task;

const FILTERS: &[&str] = &["actions", "nodes", "node_id", "parent_task_id"];
/// How long a look at a task waits for its end, unless told.
const WAIT: Duration = Duration::from_secs(30);

/// `X-Opaque-Id`: how a client names its requests.
pub(super) fn opaque_id(headers: &HeaderMap) -> Option<String> {
    headers.get("x-opaque-id")?.to_str().ok().map(str::to_owned)
}

pub(super) async fn list(State(app): State<Arc<App>>, call: Call) -> Result<Reply> {
    let known = ["detailed", "group_by", "wait_for_completion", "timeout"];
    call.params.allow(&[FILTERS, &known].concat())?;
    let timeout = call.params.duration("timeout")?.unwrap_or(WAIT);
    let tasks = chosen(&app, &call.params)?;
    if call.params.is_true("wait_for_completion")? {
        let all = async {
            for task in &tasks {
                task.wait().await;
            }
        };
        // What has not ended by then is shown as it is.
        let _ = tokio::time::timeout(timeout, all).await;
    }
    let detailed = call.params.is_true("detailed")?;
    let mut shown = grouped(&app, &tasks, detailed);
    if let Some(own) = own(&app, &call) {
        shown.push(own);
    }
    answer(&app, &call.params, shown)
}

/// The look itself is a task too.
fn own(app: &App, call: &Call) -> Option<(String, Value)> {
    let action = "cluster:monitor/tasks/lists";
    let patterns = call.params.list("actions");
    if !(patterns.is_empty() || patterns.iter().any(|pattern| matches(pattern, action))) {
        return None;
    }
    let number = app.tasks.next_number();
    let headers = opaque_id(&call.headers).map_or(json!({}), |id| json!({ "X-Opaque-Id": id }));
    let node = &app.identity.node_id;
    let shown = json!({
        "node": node, "id": number, "type": "transport", "action": action,
        "start_time_in_millis": jiff::Timestamp::now().as_millisecond(),
        "running_time_in_nanos": 0, "cancellable": false, "headers": headers,
    });
    Some((format!("{node}:{number}"), shown))
}

/// The running tasks that the parameters choose.
pub(super) fn chosen(app: &App, params: &Params) -> Result<Vec<Arc<Task>>> {
    let (actions, mut nodes) = (params.list("actions"), params.list("nodes"));
    nodes.extend(params.list("node_id"));
    let node = [app.identity.node_id.as_str(), app.config.http.node_name.as_str()];
    let here = |wanted: &String| {
        matches!(wanted.as_str(), "_all" | "_local" | "_master" | "*")
            || node.iter().any(|name| matches(wanted, name))
    };
    if !nodes.is_empty() && !nodes.iter().any(here) {
        return Ok(Vec::new());
    }
    // Slices are workers of their task, not tasks of their own: no task has children.
    if params.filled("parent_task_id").map(|id| number(app, id)).transpose()?.is_some() {
        return Ok(Vec::new());
    }
    let wanted = |task: &Arc<Task>| {
        actions.is_empty() || actions.iter().any(|pattern| matches(pattern, task.begin.action))
    };
    Ok(app.tasks.running().into_iter().filter(wanted).collect())
}

fn grouped(app: &App, tasks: &[Arc<Task>], detailed: bool) -> Vec<(String, Value)> {
    let node = &app.identity.node_id;
    let one = |task: &Arc<Task>| {
        (format!("{node}:{}", task.number), Value::Object(task.to_json(node, detailed)))
    };
    tasks.iter().map(one).collect()
}

/// The tasks, grouped as the request wants them.
fn answer(app: &App, params: &Params, shown: Vec<(String, Value)>) -> Result<Reply> {
    match params.filled("group_by") {
        None | Some("nodes") => {
            let node = &app.identity.node_id;
            if shown.is_empty() {
                return Ok(Reply::ok(&json!({ "nodes": {} })));
            }
            let tasks: Map<String, Value> = shown.into_iter().collect();
            let address = &app.config.http.listen;
            Ok(Reply::ok(&json!({"nodes": { node: {
                "name": app.config.http.node_name, "transport_address": address, "host": address,
                "ip": address, "roles": ["data", "ingest", "master"], "tasks": tasks,
            }}})))
        }
        Some("parents") => {
            let tasks: Map<String, Value> = shown.into_iter().collect();
            Ok(Reply::ok(&json!({ "tasks": tasks })))
        }
        Some("none") => {
            let tasks: Vec<Value> = shown.into_iter().map(|(_, task)| task).collect();
            Ok(Reply::ok(&json!({ "tasks": tasks })))
        }
        Some(other) => Err(Error::argument(format!("[group_by] has no [{other}]"))),
    }
}

/// The number in a task's id.
fn number(app: &App, id: &str) -> Result<u64> {
    let wrong = || Error::argument(format!("malformed task id {id}"));
    let (node, number) = id.rsplit_once(':').ok_or_else(wrong)?;
    let number = number.parse().map_err(|_| wrong())?;
    if node != app.identity.node_id {
        return Err(missing(id));
    }
    Ok(number)
}

fn missing(id: &str) -> Error {
    Error::new(Kind::NotFound, format!("task [{id}] isn't running and hasn't stored its results"))
}

fn find(app: &App, id: &str) -> Result<Arc<Task>> {
    app.tasks.find(number(app, id)?).ok_or_else(|| missing(id))
}

pub(super) async fn read(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    call: Call,
) -> Result<Reply> {
    call.params.allow(&["wait_for_completion", "timeout"])?;
    let timeout = call.params.duration("timeout")?.unwrap_or(WAIT);
    let task = find(&app, &id)?;
    if call.params.is_true("wait_for_completion")? {
        // What has not ended by then is shown as it is.
        let _ = tokio::time::timeout(timeout, task.wait()).await;
    }
    let ended = task.ended();
    let mut shown = json!({
        "completed": ended.is_some(),
        "task": task.to_json(&app.identity.node_id, true),
    });
    if let (Some(ended), Value::Object(shown)) = (ended, &mut shown) {
        match ended.result {
            Ok(response) => shown.insert("response".into(), response),
            Err(error) => shown.insert("error".into(), Value::Object(errors::to_json(&error))),
        };
    }
    Ok(Reply::ok(&shown))
}

pub(super) async fn cancel(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    call: Call,
) -> Result<Reply> {
    call.params.allow(&["wait_for_completion", "timeout"])?;
    let task = find(&app, &id)?;
    if !task.begin.cancellable {
        return Err(Error::argument(format!("task [{id}] doesn't support cancellation")));
    }
    stop(&app, &call.params, vec![task]).await
}

pub(super) async fn cancel_all(State(app): State<Arc<App>>, call: Call) -> Result<Reply> {
    call.params.allow(&[FILTERS, &["wait_for_completion", "timeout"]].concat())?;
    let mut tasks = chosen(&app, &call.params)?;
    tasks.retain(|task| task.begin.cancellable);
    stop(&app, &call.params, tasks).await
}

async fn stop(app: &App, params: &Params, tasks: Vec<Arc<Task>>) -> Result<Reply> {
    let running: Vec<_> = tasks.into_iter().filter(|task| task.ended().is_none()).collect();
    for task in &running {
        task.begin.progress.cancel("by user request");
    }
    if params.is_true("wait_for_completion")? {
        for task in &running {
            task.wait().await;
        }
    }
    answer(app, &Params::default(), grouped(app, &running, true))
}

pub(super) async fn rethrottle(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    call: Call,
) -> Result<Reply> {
    call.params.allow(&["requests_per_second", "group_by"])?;
    let rate = rate(&call.params)?
        .ok_or_else(|| Error::argument("requests_per_second is a required parameter"))?;
    let task = find(&app, &id)?;
    let running = if task.ended().is_none() { vec![task] } else { Vec::new() };
    for task in &running {
        task.begin.progress.set_rate(rate);
    }
    answer(&app, &call.params, grouped(&app, &running, true))
}
