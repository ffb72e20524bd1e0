//! Rewrites: indexes whose older documents may have values for what was added to their mapping are
//! rebuilt in the background, so that these are found under it. One at a time, over all indexes.
//!
//! A rewrite that ends without success, or is cancelled, is not tried again before something else is
//! added to the mapping, or Egret starts anew; it is left to a rebuild by hand.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use egret_engine::Index;
use egret_engine::mapping::Outstanding;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::runtime::Handle;

use crate::app::App;
use crate::cached_search::uuid_of;
use crate::error::Result;
use crate::rebuilds::{self, ACTION, Course};
use crate::tasks::{Begin, Progress, Running, Task};

/// Nothing is kept for a way back, and other work goes first.
const COURSE: Course = Course { keep: Duration::ZERO, in_background: true };
/// So many of the fields are named in a task's description.
const FIELDS_NAMED: usize = 5;

/// Which index is rewritten, and which have been in vain.
#[derive(Debug, Default)]
pub(crate) struct Rewrites {
    /// Guards what it says; held for look-ups and changes of it.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The UUID of the index that is rewritten, and the task.
    running: Option<(String, Arc<Task>)>,
    /// By the indexes' UUIDs.
    ended: BTreeMap<String, Ended>,
    /// The name of the index that had the last turn: others come before it again.
    last: String,
    /// None begins any more.
    stopped: bool,
}

/// A rewrite that has ended without success.
#[derive(Debug)]
struct Ended {
    /// Of what is outstanding: whether something has been added since.
    additions: u64,
    task: u64,
    why: String,
}

impl Rewrites {
    /// Cancels the one that runs, and waits for its end.
    pub(crate) async fn stop(&self) {
        let running = {
            let mut state = self.state.lock();
            state.stopped = true;
            state.running.as_ref().map(|(_, task)| Arc::clone(task))
        };
        if let Some(task) = running {
            task.begin.progress.cancel("Egret stops");
            task.wait().await;
        }
    }

    /// What is outstanding in an index, and what comes of it; `null` where nothing is.
    pub(crate) fn shown(&self, app: &App, index: &Index) -> Value {
        let Some(outstanding) = index.outstanding() else { return Value::Null };
        let id = |task: u64| format!("{}:{task}", app.identity.node_id);
        let state = self.state.lock();
        let mut shown = match (&state.running, state.ended.get(index.uuid())) {
            (Some((uuid, task)), _) if uuid == index.uuid() => {
                json!({"state": "running", "task": id(task.number)})
            }
            (_, Some(ended)) if ended.additions == outstanding.additions => {
                json!({"state": "ended", "task": id(ended.task), "reason": ended.why})
            }
            (running, _) => match app.engine.rewrite_hindrance(index) {
                Some(hindrance) => {
                    let state = if hindrance.is_for_good() { "by_hand" } else { "waiting" };
                    json!({"state": state, "reason": hindrance.to_string()})
                }
                None if running.is_some() => {
                    json!({"state": "waiting", "reason": "another index is being rewritten"})
                }
                None => json!({"state": "waiting", "reason": "it is about to begin"}),
            },
        };
        if let Value::Object(shown) = &mut shown {
            shown.insert("fields".into(), json!(outstanding.fields));
        }
        shown
    }

    /// The index whose turn it is, and what is outstanding in it.
    fn next(&self, app: &App) -> Option<(Arc<Index>, Arc<Outstanding>)> {
        let indexes = app.engine.indexes();
        let mut state = self.state.lock();
        if state.stopped || state.running.is_some() {
            return None;
        }
        if !state.ended.is_empty() {
            // A closed index may come back.
            let catalog = app.engine.catalog();
            let uuids: HashSet<&str> =
                catalog.indexes.values().map(|entry| entry.uuid.as_str()).collect();
            state.ended.retain(|uuid, _| uuids.contains(uuid.as_str()));
        }
        let ready = |index: &Arc<Index>| {
            let outstanding = index.outstanding().filter(|_| index.pipeline().is_none())?;
            let ended = state.ended.get(index.uuid());
            let was_tried = ended.is_some_and(|it| it.additions == outstanding.additions);
            let is_ready = !was_tried && app.engine.rewrite_hindrance(index).is_none();
            is_ready.then(|| (Arc::clone(index), outstanding))
        };
        // They come by name.
        let (others, first): (Vec<_>, Vec<_>) =
            indexes.iter().partition(|index| index.name() <= state.last.as_str());
        first.into_iter().chain(others).find_map(ready)
    }
}

/// Begins the next rewrite, where one is due and none runs.
pub(crate) fn begin_next(app: &Arc<App>) {
    let Some((index, outstanding)) = app.rewrites.next(app) else { return };
    let begin = Begin {
        action: ACTION,
        description: format!("rewrite [{}] for [{}]", index.name(), named(&outstanding)),
        opaque_id: None,
        progress: Progress::new(1, f64::INFINITY),
        cancellable: true,
    };
    let running = match app.tasks.begin(begin) {
        Ok(running) => running,
        // It is tried again.
        Err(error) => return tracing::debug!(%error, "a rewrite waits for other tasks"),
    };
    {
        let mut state = app.rewrites.state.lock();
        if state.stopped {
            return;
        }
        state.running = Some((index.uuid().to_owned(), Arc::clone(&running.task)));
        index.name().clone_into(&mut state.last);
    }
    let number = running.task.number;
    let turn = Turn { app: Arc::clone(app), index, outstanding, number, running: Some(running) };
    let runtime = Handle::current();
    // On a thread of its own, of which there is one.
    tokio::task::spawn_blocking(move || turn.run(&runtime));
}

/// The first few fields.
fn named(outstanding: &Outstanding) -> String {
    let fields = &outstanding.fields;
    let mut named = fields.iter().take(FIELDS_NAMED).cloned().collect::<Vec<_>>().join(", ");
    if fields.len() > FIELDS_NAMED {
        named.push_str(", ...");
    }
    named
}

/// The rewrite of an index. Dropped early, it has ended in vain.
struct Turn {
    app: Arc<App>,
    index: Arc<Index>,
    outstanding: Arc<Outstanding>,
    /// Of the task.
    number: u64,
    running: Option<Running>,
}

impl Turn {
    /// Blocking, for as long as it takes.
    fn run(mut self, runtime: &Handle) {
        let Some(running) = self.running.take() else { return };
        let task = Arc::clone(&running.task);
        let result = self.rewrite(&task, runtime);
        let name = self.index.name();
        let why = match &result {
            Ok(true) => {
                tracing::info!(index = name, fields = %named(&self.outstanding), "older documents are found under added fields");
                None
            }
            Ok(false) => {
                task.begin.progress.cancelled().map(|reason| format!("cancelled: {reason}"))
            }
            Err(error) => {
                tracing::warn!(
                    index = name, %error,
                    "older documents are not found under added fields: they could not be rewritten"
                );
                Some(error.reason().to_owned())
            }
        };
        self.settle(why);
        let answer = result.map(|is_done| rebuilds::answer(&self.app, &task, name, is_done));
        // Whoever waits for the task finds what came of it.
        running.end(answer);
    }

    /// Whether it was done; it is not where it was cancelled, or something came in between.
    fn rewrite(&self, task: &Task, runtime: &Handle) -> Result<bool> {
        let (app, name) = (&self.app, self.index.name());
        let Some(rebuild) = app.engine.begin_rewrite(name)? else { return Ok(false) };
        let is_done = rebuilds::carry_out(task, rebuild, COURSE, runtime)?;
        if is_done && let (Some(cache), Some(uuid)) = (&app.cache, uuid_of(self.index.uuid())) {
            cache.purge(uuid);
        }
        Ok(is_done)
    }

    /// Gives the turn back; `why` it was in vain, where it was.
    fn settle(&self, why: Option<String>) {
        // One that was closed, or came again under its name, has its turn once it is open.
        let serving = self.app.engine.index(self.index.name());
        let is_same = serving.is_ok_and(|serving| Arc::ptr_eq(&serving, &self.index));
        let mut state = self.app.rewrites.state.lock();
        if let Some(why) = why.filter(|_| is_same) {
            let (additions, task) = (self.outstanding.additions, self.number);
            let ended = Ended { additions, task, why };
            state.ended.insert(self.index.uuid().to_owned(), ended);
        }
        state.running = None;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let is_running = {
            let state = self.app.rewrites.state.lock();
            state.running.as_ref().is_some_and(|(_, task)| task.number == self.number)
        };
        if is_running {
            self.settle(Some("it was broken off".to_owned()));
        }
    }
}
