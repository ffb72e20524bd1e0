//! A rebuild as the work of a task: document after document at its pace, until it is done or told to stop.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use egret_engine::ErrorKind;
use egret_engine::catalog::{Kept, Rebuild, keep_until_ms};
use serde_json::{Map, Value, json};
use tokio::runtime::Handle;

use crate::app::App;
use crate::error::{Error, Kind, Result};
use crate::tasks::Task;

/// What tasks for rebuilds are called.
pub(crate) const ACTION: &str = "indices:admin/rebuild";

/// How a rebuild goes on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Course {
    /// How long the folder from before it is kept.
    pub(crate) keep: Duration,
    /// Whether nobody waits for it: it rests after each step for as long as the step took, and ends
    /// quietly where it had to give way.
    pub(crate) in_background: bool,
}

/// Carries out a rebuild that has begun; whether it is done. Blocking, for as
/// long as it takes.
pub(crate) fn carry_out(
    task: &Task,
    mut rebuild: Rebuild,
    course: Course,
    runtime: &Handle,
) -> Result<bool> {
    let progress = &task.begin.progress;
    let Some(counts) = progress.workers().first() else {
        return Err(Error::new(Kind::Internal, "a task without a worker"));
    };
    progress.set_total(rebuild.total());
    let mut since = Instant::now();
    while progress.cancelled().is_none() {
        let step = rebuild.step();
        if course.in_background && rebuild.has_given_way() {
            return Ok(false);
        }
        let Some(copied) = step? else { break };
        counts.taken.fetch_add(copied, Ordering::Relaxed);
        counts.created.fetch_add(copied, Ordering::Relaxed);
        counts.batches.fetch_add(1, Ordering::Relaxed);
        let (documents, took) = (usize::try_from(copied).unwrap_or(usize::MAX), since.elapsed());
        runtime.block_on(progress.throttle(counts, documents, since));
        if course.in_background {
            runtime.block_on(progress.rest(took));
        }
        since = Instant::now();
    }
    if progress.cancelled().is_some() {
        // It is given up.
        return Ok(false);
    }
    match rebuild.finish(keep_until_ms(course.keep)) {
        // It had to give way at last.
        Err(error) if course.in_background && error.kind() == ErrorKind::Closed => Ok(false),
        finished => Ok(finished.map(|_| true)?),
    }
}

/// What the task answers.
pub(crate) fn answer(app: &App, task: &Task, name: &str, is_done: bool) -> Value {
    let mut answer = Map::new();
    answer.insert("acknowledged".into(), is_done.into());
    answer.insert("index".into(), name.into());
    let took = u64::try_from(task.running_time().as_millis()).unwrap_or(u64::MAX);
    answer.insert("took".into(), took.into());
    answer.insert("kept".into(), kept(app, name));
    if let Value::Object(status) = task.begin.progress.to_json() {
        answer.extend(status);
    }
    Value::Object(answer)
}

/// The folder that an index can go back to.
pub(crate) fn kept(app: &App, name: &str) -> Value {
    let catalog = app.engine.catalog();
    let kept = catalog.indexes.get(name).and_then(|entry| entry.kept.as_ref());
    kept.map_or(
        Value::Null,
        |Kept { uuid, until_ms, .. }| json!({"uuid": uuid, "until_in_millis": until_ms}),
    )
}
