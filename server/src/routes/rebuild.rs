//! `_rebuild`: an index under another mapping, beside the one that serves meanwhile; and the way back.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use egret_engine::catalog::resolve;
use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::by_query::rate;
use super::targets::{self, Access};
use super::{index, tasks};
use crate::app::App;
use crate::cached_search::uuid_of;
use crate::dialect::json::parse_object;
use crate::error::{Error, Result};
use crate::http::{Call, Reply};
use crate::rebuilds::{self, ACTION, Course};
use crate::tasks::{Begin, Progress, Task};

/// What is to be done.
struct Plan {
    name: String,
    mappings: Value,
    keep: Duration,
}

pub(super) async fn rebuild(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    call: Call,
) -> Result<Reply> {
    let known = ["rollback", "wait_for_completion", "requests_per_second", "keep"];
    call.params.allow(&known)?;
    let rolls_back = call.params.is_true("rollback")?;
    let name = found(&app, &name, Access::WriteMetadata)?;
    if !rolls_back {
        app.engine.index(&name)?;
    }
    let body = parse_object(&call.body)?;
    if let Some(key) = body.keys().find(|key| *key != "mappings") {
        return Err(Error::parsing(format!("unknown key [{key}] for a rebuild")));
    }
    let wait = call.params.boolean("wait_for_completion")?.unwrap_or(true);
    let rate = rate(&call.params)?.unwrap_or(f64::INFINITY);
    let default = Duration::from_millis(app.config.engine.keep_rebuilt_ms);
    let keep = call.params.duration("keep")?.unwrap_or(default);
    if rolls_back {
        if !body.is_empty() {
            return Err(Error::validation("a rollback takes no mappings"));
        }
        return roll_back(&app, name).await;
    }
    let mappings = body.get("mappings").cloned().unwrap_or_else(|| json!({}));
    let begin = Begin {
        action: ACTION,
        description: format!("rebuild [{name}]"),
        opaque_id: tasks::opaque_id(&call.headers),
        progress: Progress::new(1, rate),
        cancellable: true,
    };
    let running = app.tasks.begin(begin)?;
    let task = Arc::clone(&running.task);
    let id = format!("{}:{}", app.identity.node_id, task.number);
    let (work, plan) = (Arc::clone(&task), Plan { name, mappings, keep });
    let runtime = Handle::current();
    // On a thread of its own, of which there are no more than tasks.
    tokio::task::spawn_blocking(move || running.end(run(&app, &work, &plan, &runtime)));
    if !wait {
        return Ok(Reply::ok(&json!({ "task": id })));
    }
    Ok(Reply::ok(&task.wait().await.result?))
}

/// The one index that a name stands for, also where it is damaged.
fn found(app: &App, name: &str, access: Access) -> Result<String> {
    let catalog = app.engine.catalog();
    let found = catalog.single_index(name)?.ok_or_else(|| resolve::missing(name))?;
    let entry = catalog.indexes.get(found).ok_or_else(|| resolve::missing(name))?;
    targets::refuse_blocked(found, targets::blocks(entry), access)?;
    Ok(found.to_owned())
}

/// Blocking, for as long as it takes.
fn run(app: &App, task: &Task, plan: &Plan, runtime: &Handle) -> Result<Value> {
    let rebuild = app.engine.begin_rebuild(&plan.name, &plan.mappings)?;
    let course = Course { keep: plan.keep, in_background: false };
    let is_done = rebuilds::carry_out(task, rebuild, course, runtime)?;
    Ok(rebuilds::answer(app, task, &plan.name, is_done))
}

async fn roll_back(app: &Arc<App>, name: String) -> Result<Reply> {
    let catalog = app.engine.catalog();
    let entry = catalog.indexes.get(&name).ok_or_else(|| resolve::missing(&name))?;
    if let Some(pipeline) = &entry.pipeline {
        // Nobody has brought it up to date: its pipeline does that first.
        app.pipelines.named(pipeline)?.roll_back(&name).await?;
        index::purge(app, uuid_of(&entry.uuid).into_iter());
        return Ok(Reply::ok(&json!({"acknowledged": true, "index": name})));
    }
    let (engine, rolled) = (Arc::clone(&app.engine), name.clone());
    let back = move || {
        // One that is damaged can be gone back from, too; what is purged is of what there was.
        let rebuilt = engine.catalog().indexes.get(&rolled).map(|entry| entry.uuid.clone());
        engine.roll_back_rebuild(&rolled)?;
        Ok(rebuilt)
    };
    let rebuilt = app.pools.manage.run(back).await?;
    index::purge(app, rebuilt.as_deref().and_then(uuid_of).into_iter());
    Ok(Reply::ok(&json!({"acknowledged": true, "index": name})))
}

pub(super) async fn status(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    call: Call,
) -> Result<Reply> {
    call.params.allow(&[])?;
    let name = found(&app, &name, Access::ReadMetadata)?;
    let catalog = app.engine.catalog();
    let followed = catalog.indexes.get(&name).is_some_and(|entry| entry.pipeline.is_some());
    let running = !followed && app.engine.replacement(&name).is_some();
    // Of one that is closed or damaged it is not known.
    let index = app.engine.index(&name).ok();
    let outstanding = index.map_or(Value::Null, |index| app.rewrites.shown(&app, &index));
    let kept = rebuilds::kept(&app, &name);
    let shown = json!({"rebuilding": running, "kept": kept, "outstanding": outstanding});
    Ok(Reply::ok(&json!({ name: shown })))
}
