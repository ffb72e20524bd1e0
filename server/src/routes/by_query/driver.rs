//! The work of `_update_by_query`, `_delete_by_query` and `_reindex`: page by page over the states
//! that were published when it began, each page written as one batch an index.
//!
//! A document that has been changed since is left alone and counted as a conflict, so nothing that
//! others write meanwhile is lost. Workers (`slices`) take their pages from one cursor.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use egret_engine::batch::{Batch, Condition, OpResult, WriteOp};
use egret_engine::search::request::{SearchRequest, TrackTotalHits};
use egret_engine::search::response::Hit;
use egret_engine::{Control, ErrorKind, Index, Snapshot};
use parking_lot::Mutex;
use serde_json::{Map, Value};

use crate::app::App;
use crate::error::{Error, Kind, Result};
use crate::http::errors;
use crate::routes::pit::by_place;
use crate::routes::targets::{self, WriteTo};
use crate::routes::write;
use crate::searches;
use crate::tasks::{Counts, Task};

/// Attempts again where there was no room: the first pause, doubled up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(10);
/// So many failures are told at most; the first one ends the work.
const MAX_FAILURES: usize = 1_000;

/// What is to be done.
#[derive(Debug)]
pub(super) struct Plan {
    /// Where the documents come from.
    pub(super) indexes: Vec<Arc<Index>>,
    /// Which documents, in which order, and so many at a time.
    pub(super) request: SearchRequest,
    pub(super) action: Action,
    /// So many documents at most.
    pub(super) max_docs: Option<u64>,
    /// Whether a conflict is counted only, rather than the end.
    pub(super) proceed: bool,
    /// Whether what was written is published at the end.
    pub(super) refresh: bool,
}

/// What happens to each document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// It is indexed again.
    Update,
    /// It is deleted.
    Delete,
    /// It is copied into the index of this name.
    Copy { dest: String, versions: Versions },
}

/// What a copy does about a document that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Versions {
    /// Takes its place.
    Replace,
    /// Conflicts.
    Create,
    /// Takes its place if its own version is higher, or perhaps equal.
    External { or_equal: bool },
}

/// The work while it is done.
pub(super) struct Work {
    app: Arc<App>,
    task: Arc<Task>,
    plan: Plan,
    cursor: tokio::sync::Mutex<Cursor>,
    /// Whether a failure has ended it.
    failed: AtomicBool,
    /// Guards what is told at the end.
    told: Mutex<Told>,
}

#[derive(Default)]
struct Told {
    failures: Vec<Value>,
    error: Option<Error>,
    written: Vec<Arc<Index>>,
}

/// Where the next page begins.
struct Cursor {
    snapshots: Vec<Arc<Snapshot>>,
    request: SearchRequest,
    /// So many more documents.
    left: u64,
    ended: bool,
}

impl Work {
    pub(super) fn new(app: Arc<App>, task: Arc<Task>, mut plan: Plan) -> Self {
        let snapshots = plan.indexes.iter().map(|index| index.snapshot()).collect();
        let mut request = std::mem::take(&mut plan.request);
        request.sort.push(by_place());
        request.track_total_hits = TrackTotalHits::Off;
        request.version = matches!(plan.action, Action::Copy { .. });
        request.seq_no_primary_term = !request.version;
        let left = plan.max_docs.unwrap_or(u64::MAX);
        let cursor = tokio::sync::Mutex::new(Cursor { snapshots, request, left, ended: false });
        let (failed, told) = (AtomicBool::new(false), Mutex::default());
        Self { app, task, plan, cursor, failed, told }
    }

    /// Does it, with as many workers as the task has; gives the answer.
    pub(super) async fn run(self: Arc<Self>) -> Result<Value> {
        self.count().await?;
        let workers = self.task.begin.progress.workers().len();
        let mut running = tokio::task::JoinSet::new();
        for at in 0..workers {
            let work = Arc::clone(&self);
            running.spawn(async move { work.worker(at).await });
        }
        while let Some(ended) = running.join_next().await {
            if let Err(error) = ended {
                let error = Error::new(Kind::Internal, format!("a worker ended early: {error}"));
                self.give_up(error);
            }
        }
        self.finish().await
    }

    /// How many documents there are to work on.
    async fn count(&self) -> Result<()> {
        let (snapshots, query) = {
            let cursor = self.cursor.lock().await;
            (cursor.snapshots.clone(), cursor.request.query.clone())
        };
        let (retries, progress) = (AtomicU64::new(0), &self.task.begin.progress);
        let count = || {
            let (snapshots, query) = (snapshots.clone(), query.clone());
            let count = move |_: &Control| Ok(egret_engine::search::count(&snapshots, &query)?);
            searches::within(&self.app, progress, count)
        };
        let total = match self.patiently(&retries, count).await {
            Err(_) if progress.cancelled().is_some() => return Ok(()),
            total => total?,
        };
        progress.set_total(total.min(self.plan.max_docs.unwrap_or(u64::MAX)));
        Ok(())
    }

    async fn worker(&self, at: usize) {
        let progress = &self.task.begin.progress;
        let Some(counts) = progress.workers().get(at) else { return };
        let mut since = Instant::now();
        let mut before = 0;
        loop {
            let page = match self.page(counts).await {
                Ok(page) if page.is_empty() => return,
                Ok(page) => page,
                Err(_) if progress.cancelled().is_some() => return,
                Err(error) => return self.give_up(error),
            };
            if before > 0 {
                progress.throttle(counts, before, since).await;
            }
            if self.failed.load(Ordering::Relaxed) || progress.cancelled().is_some() {
                return;
            }
            since = Instant::now();
            before = page.len();
            counts.batches.fetch_add(1, Ordering::Relaxed);
            counts.taken.fetch_add(before as u64, Ordering::Relaxed);
            match self.write(counts, page).await {
                Err(_) if progress.cancelled().is_some() => return,
                Err(error) => return self.give_up(error),
                Ok(()) => {}
            }
            if self.failed.load(Ordering::Relaxed) || progress.cancelled().is_some() {
                return;
            }
        }
    }

    fn give_up(&self, error: Error) {
        self.failed.store(true, Ordering::Relaxed);
        self.told.lock().error.get_or_insert(error);
    }

    /// The next documents; none: that was all.
    async fn page(&self, counts: &Counts) -> Result<Vec<Hit>> {
        let mut cursor = self.cursor.lock().await;
        if cursor.ended || cursor.left == 0 {
            return Ok(Vec::new());
        }
        let mut request = cursor.request.clone();
        request.size = request.size.min(usize::try_from(cursor.left).unwrap_or(usize::MAX));
        let search = || {
            let (snapshots, request) = (cursor.snapshots.clone(), request.clone());
            let search = move |_: &Control| searches::search(&snapshots, &request);
            searches::within(&self.app, &self.task.begin.progress, search)
        };
        let found = self.patiently(&counts.search_retries, search).await?;
        match found.hits.last() {
            Some(last) => cursor.request.search_after = Some(last.sort.clone()),
            None => cursor.ended = true,
        }
        cursor.left -= cursor.left.min(found.hits.len() as u64);
        Ok(found.hits)
    }

    async fn write(&self, counts: &Counts, hits: Vec<Hit>) -> Result<()> {
        let mut groups: Vec<(Arc<Index>, Vec<WriteOp>)> = Vec::new();
        for hit in hits {
            let known = groups.iter_mut().find(|(index, _)| match &self.plan.action {
                Action::Copy { .. } => true,
                _ => index.name() == hit.index,
            });
            match known {
                Some((_, ops)) => ops.push(self.operation(hit)?),
                None => groups.push((self.target(counts, &hit).await?, vec![self.operation(hit)?])),
            }
        }
        for (index, ops) in groups {
            self.write_to(counts, index, &ops).await?;
        }
        Ok(())
    }

    async fn target(&self, counts: &Counts, hit: &Hit) -> Result<Arc<Index>> {
        let Action::Copy { dest, .. } = &self.plan.action else {
            let found = self.plan.indexes.iter().find(|index| index.name() == hit.index);
            let lost = || Error::new(Kind::Internal, format!("a hit of no index [{}]", hit.index));
            return found.cloned().ok_or_else(lost);
        };
        let to = WriteTo { create: true, require_alias: false };
        let make = || {
            let (engine, dest) = (Arc::clone(&self.app.engine), dest.clone());
            self.app.pools.write.run(move || targets::written(&engine, &dest, to))
        };
        self.patiently(&counts.write_retries, make).await
    }

    fn operation(&self, hit: Hit) -> Result<WriteOp> {
        let Hit { id, source, seq_no, version, .. } = hit;
        let unchanged =
            seq_no.map_or(Condition::None, |(seq_no, term)| Condition::LastChange { seq_no, term });
        let condition = match &self.plan.action {
            Action::Delete => return Ok(WriteOp::Delete { id, condition: unchanged }),
            Action::Update => unchanged,
            Action::Copy { versions: Versions::Replace, .. } => Condition::None,
            Action::Copy { versions: Versions::Create, .. } => Condition::Absent,
            Action::Copy { versions: Versions::External { or_equal }, .. } => {
                Condition::External { version: version.unwrap_or_default(), or_equal: *or_equal }
            }
        };
        let source = source.ok_or_else(|| Error::argument(format!("[{id}] has no _source")))?;
        Ok(WriteOp::Upsert { id, source, condition })
    }

    async fn write_to(&self, counts: &Counts, index: Arc<Index>, ops: &[WriteOp]) -> Result<()> {
        let bytes = ops.iter().map(WriteOp::source_bytes).sum();
        let submit = || {
            let (to, ops) = (Arc::clone(&index), ops.to_vec());
            let submit = move || Ok(to.submit(Batch { ops, ..Batch::default() })?);
            self.app.pools.write.run_for(index.name(), bytes, submit)
        };
        let receipt = self.patiently(&counts.write_retries, submit).await?;
        let outcome = write::said(receipt).await?;
        let failures = outcome.ops.iter().filter(|result| result.is_err()).count();
        write::count(&self.app.statistics, ops.len() as u64, failures as u64);
        let mut conflicts = 0;
        for (op, result) in ops.iter().zip(outcome.ops) {
            match result {
                Ok(applied) => counter(counts, applied.result).fetch_add(1, Ordering::Relaxed),
                Err(error) => {
                    let conflict = u64::from(error.kind() == ErrorKind::VersionConflict);
                    self.refused(&index, op, error);
                    conflicts += conflict;
                    counts.version_conflicts.fetch_add(conflict, Ordering::Relaxed)
                }
            };
        }
        if conflicts > 0 {
            // What was not done does not count against `max_docs`.
            let mut cursor = self.cursor.lock().await;
            cursor.left = cursor.left.saturating_add(conflicts);
        }
        let mut told = self.told.lock();
        if !told.written.iter().any(|known| known.uuid() == index.uuid()) {
            told.written.push(index);
        }
        Ok(())
    }

    /// Takes note of an operation that was refused, unless such conflicts are expected.
    fn refused(&self, index: &Index, op: &WriteOp, error: egret_engine::Error) {
        if error.kind() == ErrorKind::VersionConflict && self.plan.proceed {
            return;
        }
        self.failed.store(true, Ordering::Relaxed);
        let error = Error::from(error.with_index(index.name()));
        let status = errors::status(&error).as_u16();
        let mut told = self.told.lock();
        if told.failures.len() >= MAX_FAILURES {
            return;
        }
        let (WriteOp::Upsert { id, .. } | WriteOp::Patch { id, .. } | WriteOp::Delete { id, .. }) =
            op
        else {
            return;
        };
        let mut cause = errors::to_json(&error);
        cause.insert("index_uuid".into(), index.uuid().into());
        cause.insert("shard".into(), "0".into());
        let mut shown = Map::new();
        shown.insert("index".into(), index.name().into());
        shown.insert("id".into(), id.as_str().into());
        shown.insert("cause".into(), Value::Object(cause));
        shown.insert("status".into(), status.into());
        told.failures.push(Value::Object(shown));
    }

    /// Runs work in a pool, again and again while the pool is full or the engine has no room, unless
    /// the task is cancelled.
    async fn patiently<T, F: Future<Output = Result<T>>>(
        &self,
        retries: &AtomicU64,
        attempt: impl Fn() -> F,
    ) -> Result<T> {
        let mut pause = FIRST_PAUSE;
        loop {
            match attempt().await {
                Err(error)
                    if may_pass(error.kind())
                        && pause <= LAST_PAUSE
                        && self.task.begin.progress.cancelled().is_none() =>
                {
                    retries.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                done => return done,
            }
        }
    }

    /// Publishes where that is wanted, and says what was done.
    async fn finish(&self) -> Result<Value> {
        let Told { failures, error, written } = std::mem::take(&mut *self.told.lock());
        if self.plan.refresh {
            let refresh = move || Ok(written.iter().try_for_each(|index| index.refresh())?);
            self.app.pools.manage.run(refresh).await?;
        }
        if let Some(error) = error {
            return Err(error);
        }
        let took = u64::try_from(self.task.running_time().as_millis()).unwrap_or(u64::MAX);
        let mut answer = Map::new();
        answer.insert("took".into(), took.into());
        answer.insert("timed_out".into(), false.into());
        if let Value::Object(status) = self.task.begin.progress.to_json() {
            answer.extend(status);
        }
        let unheard_of: &[&str] = match self.plan.action {
            Action::Update => &["created"],
            Action::Delete => &["created", "updated"],
            Action::Copy { .. } => &[],
        };
        for key in unheard_of {
            answer.remove(*key);
        }
        answer.insert("failures".into(), failures.into());
        Ok(Value::Object(answer))
    }
}

/// What counts operations of a result.
fn counter(counts: &Counts, result: OpResult) -> &AtomicU64 {
    match result {
        OpResult::Created => &counts.created,
        OpResult::Updated => &counts.updated,
        OpResult::Deleted => &counts.deleted,
        OpResult::Noop | OpResult::NotFound => &counts.noops,
    }
}

/// Whether there may be room later.
fn may_pass(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Rejected
            | Kind::Engine(ErrorKind::Full | ErrorKind::CircuitBreaking { transient: true, .. })
    )
}
