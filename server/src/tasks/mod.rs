//! Tasks: work that goes on whether or not the request that began it is still waiting.
//!
//! So many may run at once; what came of the last ones is kept until newer ones take their place,
//! or Egret stops.

mod progress;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tokio::sync::watch;

pub(crate) use self::progress::{Counts, Progress};
use crate::config::TasksConfig;
use crate::error::{Error, Kind, Result};

/// The tasks of this node.
#[derive(Debug)]
pub(crate) struct Tasks {
    limits: TasksConfig,
    next: AtomicU64,
    /// Guards the lists; held for look-ups and changes of them.
    lists: Mutex<Lists>,
}

#[derive(Debug, Default)]
struct Lists {
    running: BTreeMap<u64, Arc<Task>>,
    /// These are bounded by their pool, and nothing is kept of them.
    searches: BTreeMap<u64, Arc<Task>>,
    ended: VecDeque<Arc<Task>>,
}

/// What a task is begun with.
#[derive(Debug)]
pub(crate) struct Begin {
    /// As Elasticsearch names it.
    pub(crate) action: &'static str,
    pub(crate) description: String,
    /// `X-Opaque-Id` of the request.
    pub(crate) opaque_id: Option<String>,
    pub(crate) progress: Progress,
    /// Whether it counts what it does and can be stopped; one that is a single step does not.
    pub(crate) cancellable: bool,
}

/// A task.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) number: u64,
    pub(crate) begin: Begin,
    /// Whether it is a search, whose answer goes to who asked alone.
    is_search: bool,
    started: Timestamp,
    since: Instant,
    ended: watch::Sender<Option<Ended>>,
}

/// What came of a task.
#[derive(Debug, Clone)]
pub(crate) struct Ended {
    pub(crate) result: Result<Value>,
    ran: Duration,
}

/// A running task in the hands of who does its work. Dropped early, it has failed.
#[derive(Debug)]
pub(crate) struct Running {
    tasks: Arc<Tasks>,
    pub(crate) task: Arc<Task>,
}

impl Tasks {
    pub(crate) fn new(limits: &TasksConfig) -> Arc<Self> {
        let limits = limits.clone();
        Arc::new(Self { limits, next: AtomicU64::new(1), lists: Mutex::default() })
    }

    /// A number that no other task of this process has.
    pub(crate) fn next_number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Begins a task, unless too many run.
    pub(crate) fn begin(self: &Arc<Self>, begin: Begin) -> Result<Running> {
        let mut lists = self.lists.lock();
        let limit = self.limits.max_running;
        if lists.running.len() >= limit {
            return Err(Error::new(
                Kind::Rejected,
                format!("rejected execution: [tasks.max_running] of [{limit}] tasks run already"),
            ));
        }
        let task = self.task(begin, false);
        lists.running.insert(task.number, Arc::clone(&task));
        Ok(Running { tasks: Arc::clone(self), task })
    }

    /// Begins a search.
    pub(crate) fn begin_search(self: &Arc<Self>, begin: Begin) -> Running {
        let task = self.task(begin, true);
        self.lists.lock().searches.insert(task.number, Arc::clone(&task));
        Running { tasks: Arc::clone(self), task }
    }

    fn task(&self, begin: Begin, is_search: bool) -> Arc<Task> {
        let (number, ended) = (self.next_number(), watch::Sender::new(None));
        let (started, since) = (Timestamp::now(), Instant::now());
        Arc::new(Task { number, begin, is_search, started, since, ended })
    }

    /// A task that runs, or that has ended lately.
    pub(crate) fn find(&self, number: u64) -> Option<Arc<Task>> {
        let lists = self.lists.lock();
        let running = lists.running.get(&number).or_else(|| lists.searches.get(&number));
        running.or_else(|| lists.ended.iter().find(|task| task.number == number)).cloned()
    }

    /// The tasks that run.
    pub(crate) fn running(&self) -> Vec<Arc<Task>> {
        let lists = self.lists.lock();
        lists.running.values().chain(lists.searches.values()).cloned().collect()
    }
}

impl Running {
    /// The work is done.
    pub(crate) fn end(self, result: Result<Value>) {
        self.settle(result);
    }

    fn settle(&self, result: Result<Value>) {
        let Self { tasks, task } = self;
        let mut lists = tasks.lists.lock();
        let known = lists.searches.remove(&task.number).is_some();
        if !known && lists.running.remove(&task.number).is_none() {
            return;
        }
        task.ended.send_replace(Some(Ended { result, ran: task.since.elapsed() }));
        if task.is_search {
            return;
        }
        lists.ended.push_back(Arc::clone(task));
        if lists.ended.len() > tasks.limits.max_results {
            lists.ended.pop_front();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.settle(Err(Error::new(Kind::Internal, "the task was broken off")));
    }
}

impl Task {
    /// What came of it, if it has ended.
    pub(crate) fn ended(&self) -> Option<Ended> {
        self.ended.borrow().clone()
    }

    /// Waits for its end.
    pub(crate) async fn wait(&self) -> Ended {
        let mut ended = self.ended.subscribe();
        let seen = ended.wait_for(Option::is_some).await.ok().and_then(|ended| ended.clone());
        seen.unwrap_or_else(|| Ended {
            result: Err(Error::new(Kind::Internal, "the task was broken off")),
            ran: self.since.elapsed(),
        })
    }

    /// Milliseconds since 1970 when it began.
    pub(crate) fn started_ms(&self) -> i64 {
        self.started.as_millisecond()
    }

    /// How long it has run.
    pub(crate) fn running_time(&self) -> Duration {
        self.ended().map_or_else(|| self.since.elapsed(), |ended| ended.ran)
    }

    /// As Elasticsearch shows it, with its description and status where these are asked for.
    pub(crate) fn to_json(&self, node: &str, detailed: bool) -> Map<String, Value> {
        let Begin { action, description, opaque_id, progress, cancellable } = &self.begin;
        let mut shown = Map::new();
        shown.insert("node".into(), node.into());
        shown.insert("id".into(), self.number.into());
        shown.insert("type".into(), "transport".into());
        shown.insert("action".into(), (*action).into());
        if detailed {
            if *cancellable && !self.is_search {
                shown.insert("status".into(), progress.to_json());
            }
            shown.insert("description".into(), description.as_str().into());
        }
        let nanos = u64::try_from(self.running_time().as_nanos()).unwrap_or(u64::MAX);
        shown.insert("start_time_in_millis".into(), self.started_ms().into());
        shown.insert("running_time_in_nanos".into(), nanos.into());
        shown.insert("cancellable".into(), (*cancellable).into());
        if *cancellable {
            shown.insert("cancelled".into(), progress.cancelled().is_some().into());
        }
        let headers = opaque_id.as_ref().map_or(json!({}), |id| json!({"X-Opaque-Id": id}));
        shown.insert("headers".into(), headers);
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(tasks: &Arc<Tasks>) -> Result<Running> {
        let (description, progress) = (String::new(), Progress::new(1, f64::INFINITY));
        let opaque_id = None;
        tasks.begin(Begin { action: "test", description, opaque_id, progress, cancellable: true })
    }

    #[tokio::test]
    async fn tasks_and_their_results_are_bounded() {
        let tasks = Tasks::new(&TasksConfig { max_running: 2, max_results: 1 });
        let first = begin(&tasks).unwrap();
        let second = begin(&tasks).unwrap();
        assert_eq!(begin(&tasks).unwrap_err().kind(), Kind::Rejected);
        let (one, two) = (Arc::clone(&first.task), Arc::clone(&second.task));
        first.end(Ok(json!(5)));
        assert_eq!(tasks.find(one.number).unwrap().wait().await.result.unwrap(), json!(5));
        drop(second);
        assert_eq!(two.wait().await.result.unwrap_err().kind(), Kind::Internal);
        assert!(tasks.find(one.number).is_none() && tasks.find(two.number).is_some());
        assert!(tasks.running().is_empty());
        // Searches are not counted with them, nor kept.
        let search = Progress::new(1, f64::INFINITY);
        let search = Begin {
            action: "s",
            description: String::new(),
            opaque_id: None,
            progress: search,
            cancellable: true,
        };
        let search = tasks.begin_search(search);
        assert_eq!(tasks.running().len(), 1);
        let (_one, _two) = (begin(&tasks).unwrap(), begin(&tasks).unwrap());
        let number = search.task.number;
        search.end(Ok(Value::Null));
        assert!(tasks.find(number).is_none());
    }
}
