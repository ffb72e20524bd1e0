//! Reading tables as they stand in one snapshot, whose position in the log PostgreSQL names.
//!
//! Rows are read by ranges of blocks, by several connections that share the snapshot, and carry its
//! position as their version. An index remembers which ranges it has, together with their rows. Only
//! when every range of every table is in does it get the position itself; where a crash came before,
//! the copy goes on with the ranges that are left, as [`sync`](crate::sync) says.
//!
//! A table or index that fails takes no other with it. A table that is truncated meanwhile is empty
//! as far as the snapshot shows it; the log brings the truncation, which empties the index too.

mod missing;
mod ranges;
pub(crate) mod text;
pub(crate) mod throttle;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use egret_aof::failpoint;
use egret_engine::batch::{Batch, BatchOutcome, Compose, Condition, WriteOp};
use egret_engine::{Checkpoint, Lsn};
use futures_util::{StreamExt, pin_mut};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::catalog::Table;
use crate::config::PipelineConfig;
use crate::connect::{Control, Source, quote_literal};
use crate::document::RowFormat;
use crate::error::{Error, ErrorKind, Result};
use crate::feed::{Titles, Truncation};
use crate::progress::Progress;
use crate::receipts::{Handover, LetterBox, Outstanding};
use crate::sink::Sink;
use crate::status::TableCounters;
use crate::transaction::RefusedRow;

use ranges::{Range, Ranges};
use text::{CopyRow, Lines};
use throttle::Throttle;

/// A snapshot of the database and the position in the log that agrees with it.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    /// Its exported name.
    pub(crate) name: String,
    /// What it holds: everything that was committed before here.
    pub(crate) checkpoint: Checkpoint,
}

/// One table to copy.
#[derive(Clone)]
pub(crate) struct Job {
    /// The place of the job that the index belongs to: itself, or one before it, whose documents are
    /// composed from this table too.
    pub(crate) owner: usize,
    /// The names of the index's tables.
    pub(crate) titles: Titles,
    /// The table.
    pub(crate) table: Arc<Table>,
    /// Its place among those that the index's documents are composed from.
    pub(crate) part: usize,
    /// The same, as `schema.table`.
    pub(crate) title: Arc<str>,
    /// How its rows become documents.
    pub(crate) format: Arc<RowFormat>,
    /// The index to fill.
    pub(crate) sink: Arc<dyn Sink>,
    /// Who counts.
    pub(crate) counters: Arc<TableCounters>,
    /// What is in already, of a copy that was interrupted: rows as they are in the snapshot. Known to the
    /// job that owns the index, for all of its tables.
    pub(crate) resumes: Option<Progress>,
    /// Rows of the table that the log has changed and that were not in, by their `_id`: each must come,
    /// or be read.
    pub(crate) missing: Vec<String>,
}

/// Everything that the readers of one copy share.
#[derive(Clone)]
struct Copying {
    source: Source,
    snapshot: Snapshot,
    jobs: Arc<[Job]>,
    ranges: Arc<Mutex<Ranges>>,
    /// What became of each job so far. Held for look-ups and notes.
    fates: Arc<Mutex<Vec<Fate>>>,
    throttle: Arc<Throttle>,
    letters: LetterBox,
    batch_bytes: usize,
    outstanding_bytes: usize,
    stop: CancellationToken,
}

/// What becomes of a job.
#[derive(Debug, Default)]
struct Fate {
    failure: Option<Error>,
    /// Its table was truncated or rewritten before here.
    rewritten: Option<Lsn>,
    /// What its index is told to remember, of all its tables; known of the job that owns it.
    progress: Option<Progress>,
    /// Whether it is being made durable.
    flushing: Arc<AtomicBool>,
}

/// Fills the indexes of `jobs`, which are empty, from the snapshot. The results are those of the jobs
/// that own an index. When this returns, those that did not fail hold it durably; one whose rows
/// vanished meanwhile waits for a truncation. Must run on a thread that may block.
pub(crate) async fn copy(
    source: &Source,
    config: &PipelineConfig,
    snapshot: &Snapshot,
    jobs: Vec<Job>,
    (letters, throttle): (&LetterBox, &Arc<Throttle>),
    threads: &TaskTracker,
) -> Result<Vec<Result<Option<Truncation>>>> {
    let control = source.control().await?;
    import(&control, &snapshot.name).await?;
    let (ranges, mut fates) = plan(&control, &jobs, config.copy_range_blocks).await?;
    control.execute("ending the measurement", "COMMIT").await?;
    control.end();
    // What was listed while interrupted copies were brought up is durable before these go on.
    letters.sync()?;
    for (place, job) in jobs.iter().enumerate() {
        let Some(fate) = fates.get_mut(place).filter(|_| job.owner == place) else { continue };
        let progress = match &job.resumes {
            Some(resumes) => resumes.at(snapshot.checkpoint.lsn),
            None => Progress::copying(&job.table, snapshot.checkpoint),
        };
        if fate.failure.is_none() {
            fate.failure = begin(job, snapshot.checkpoint.lsn, &progress).await.err();
        }
        fate.progress = Some(progress);
    }
    failpoint::reach("copy-begun");
    let stop = CancellationToken::new();
    let _stop_when_dropped = stop.clone().drop_guard();
    let workers = config.copy_workers.min(ranges.len()).max(1);
    let copying = Copying {
        source: source.clone(),
        snapshot: snapshot.clone(),
        jobs: jobs.into(),
        ranges: Arc::new(Mutex::new(ranges)),
        fates: Arc::new(Mutex::new(fates)),
        letters: letters.clone(),
        throttle: Arc::clone(throttle),
        batch_bytes: config.copy_batch_bytes,
        outstanding_bytes: config.outstanding_bytes / workers,
        stop,
    };
    run_workers(&copying, workers, threads).await?;
    copying.letters.sync()?;
    failpoint::reach("copy-read");
    let fates = std::mem::take(&mut *copying.fates.lock());
    let mut results = Vec::with_capacity(fates.len());
    for (place, (job, fate)) in copying.jobs.iter().zip(fates).enumerate() {
        if job.owner != place {
            continue;
        }
        let of = (&*copying.jobs, place);
        let result = match fate.failure {
            Some(failure) => Err(failure),
            None => match missing::read(source, config, snapshot, of, letters).await {
                Ok(()) => finish(job, snapshot.checkpoint, fate.rewritten, letters).await,
                Err(failure) => Err(failure),
            },
        };
        results.push(result);
    }
    Ok(results)
}

impl Copying {
    fn has_failed(&self, job: usize) -> bool {
        self.fates.lock().get(job).is_none_or(|fate| fate.failure.is_some())
    }

    fn note(&self, job: usize, note: impl FnOnce(&mut Fate)) {
        if let Some(fate) = self.fates.lock().get_mut(job) {
            note(fate);
        }
    }

    /// Has an index remember that it holds a range, whose batches are answered, and makes that durable
    /// beside the copy. Whatever table the range is of: all rows of an index go through its writer in
    /// one order, so that a commit that has this has them.
    fn finish_range(&self, job: &Job, range: &Range, rows: u64) -> Result<()> {
        // Dead letters of the range are durable before the range is.
        self.letters.sync()?;
        let mut fates = self.fates.lock();
        let Some(fate) = fates.get_mut(job.owner) else { return Ok(()) };
        let Some(progress) = fate.progress.as_mut().filter(|_| fate.rewritten.is_none()) else {
            return Ok(());
        };
        if let Some(copied) = progress.copied_mut(job.part) {
            range.note(copied, rows);
        }
        // Under the lock: of two ranges that end at once the later text has both.
        let batch = Batch {
            row_lsn: Some(self.snapshot.checkpoint.lsn),
            copy_progress: Some(progress.to_text()),
            ..Batch::default()
        };
        let submitted = job.sink.submit(batch);
        let flushing = Arc::clone(&fate.flushing);
        drop(fates);
        // Its answer is that of the batches before it: an index that fails has failed those to come.
        submitted?;
        failpoint::reach("copy-range-noted");
        if !flushing.swap(true, Ordering::AcqRel) {
            let sink = Arc::clone(&job.sink);
            tokio::task::spawn_blocking(move || {
                let flushed = sink.flush();
                failpoint::reach("copy-range-durable");
                flushing.store(false, Ordering::Release);
                // The copy's end flushes again, and says what is wrong.
                flushed.inspect_err(|error| tracing::debug!(%error, "a copy is not durable yet"))
            });
        }
        Ok(())
    }

    fn note_failures(&self, outstanding: &mut Outstanding) {
        for failed in outstanding.take_failures() {
            self.note(failed.place, |fate| fate.failure = Some(failed.error));
        }
    }
}

/// Cuts all tables into ranges. Whose table cannot be measured has failed.
async fn plan(control: &Control, jobs: &[Job], blocks: u32) -> Result<(Ranges, Vec<Fate>)> {
    let mut ranges = Ranges::default();
    let mut fates = Vec::with_capacity(jobs.len());
    for (place, job) in jobs.iter().enumerate() {
        let resumes = jobs.get(job.owner).and_then(|own| own.resumes.as_ref());
        let copied = resumes.and_then(|resumes| resumes.copied(job.part));
        control.execute("measuring the table", "SAVEPOINT range").await?;
        let planned = ranges::plan(control, &job.table, place, blocks, copied, &mut ranges).await;
        fates.push(Fate::default());
        match planned {
            Err(error) if !matches!(error.kind(), ErrorKind::TableChanged | ErrorKind::Server) => {
                return Err(error);
            }
            // Of several tables that an index needs, the first that fails counts.
            planned => {
                if let Some(fate) = fates.get_mut(job.owner) {
                    fate.failure = fate.failure.take().or(planned.err());
                }
            }
        }
        Range::unlock(control).await?;
    }
    ranges.sort();
    Ok((ranges, fates))
}

/// Runs the readers, each on a thread of its own; the first failure stops the others.
async fn run_workers(copying: &Copying, workers: usize, threads: &TaskTracker) -> Result<()> {
    let (done, mut results) = tokio::sync::mpsc::channel(workers);
    for worker in 0..workers {
        let (copying, done) = (copying.clone(), done.clone());
        let running = threads.token();
        let runtime = tokio::runtime::Handle::current();
        std::thread::Builder::new().name(format!("copy-{worker}")).spawn(move || {
            let work = async {
                tokio::select! {
                    () = copying.stop.cancelled() => Err(stopped()),
                    result = read_ranges(&copying) => result,
                }
            };
            let result = runtime.block_on(work);
            // Nobody listens any more once the copy was given up.
            let _ = done.blocking_send(result);
            drop(running);
        })?;
    }
    drop(done);
    let mut first_failure = None;
    while let Some(result) = results.recv().await {
        if let Err(error) = result {
            copying.stop.cancel();
            first_failure.get_or_insert(error);
        }
    }
    first_failure.map_or(Ok(()), Err)
}

/// One reader: takes ranges until there are none.
async fn read_ranges(copying: &Copying) -> Result<()> {
    let control = copying.source.control().await?;
    import(&control, &copying.snapshot.name).await?;
    let mut outstanding =
        Outstanding::new(usize::MAX, copying.outstanding_bytes, copying.letters.clone());
    loop {
        let range = copying.ranges.lock().next();
        let Some(range) = range else { break };
        let Some(job) = copying.jobs.get(range.job) else { continue };
        let at = job.owner;
        if copying.has_failed(at) {
            continue;
        }
        let read = read_range(copying, &control, job, range, &mut outstanding).await;
        copying.note_failures(&mut outstanding);
        let Err(error) = read else { continue };
        let error = error.context(format!("copying [{}]", job.title));
        if error.kind() != ErrorKind::Server {
            return Err(error);
        }
        // The table's fault: the others go on, where the session still does.
        Range::unlock(&control).await?;
        copying.note(at, |fate| fate.failure = Some(error));
    }
    control.execute("ending the copy", "COMMIT").await?;
    control.end();
    let settled = outstanding.settle_all().await;
    copying.note_failures(&mut outstanding);
    settled
}

/// Reads one range into batches.
async fn read_range(
    copying: &Copying,
    control: &Control,
    job: &Job,
    mut range: Range,
    outstanding: &mut Outstanding,
) -> Result<()> {
    if let Some(before) = range.lock(control).await? {
        copying.ranges.lock().drop_rest(&range);
        copying.note(job.owner, |fate| fate.rewritten = fate.rewritten.max(Some(before)));
    }
    let (lsn, at) = (copying.snapshot.checkpoint.lsn, job.owner);
    let statement = range.statement(&job.table);
    let pieces = control.ask("beginning to copy", control.client().copy_out(&statement)).await?;
    pin_mut!(pieces);
    let mut lines = Lines::default();
    let mut row = CopyRow::default();
    let mut gathered = Gathered::default();
    let mut rows = 0;
    while let Some(piece) = pieces.next().await {
        let piece = piece?;
        copying.throttle.pay(piece.len()).await;
        lines.feed(piece, |line| {
            rows += 1;
            gathered.take(job, line, &mut row)
        })?;
        if gathered.bytes >= copying.batch_bytes {
            let full = std::mem::take(&mut gathered);
            full.submit(job, at, lsn, outstanding).await?;
            outstanding.settle_ready()?;
        }
    }
    if !lines.is_whole() {
        return Err(Error::new(ErrorKind::Protocol, "the copy ended within a row"));
    }
    Range::unlock(control).await?;
    gathered.submit(job, at, lsn, outstanding).await?;
    outstanding.settle_all().await?;
    copying.note_failures(outstanding);
    if copying.has_failed(at) { Ok(()) } else { copying.finish_range(job, &range, rows) }
}

/// Rows on their way into a batch.
#[derive(Default)]
struct Gathered {
    ops: Vec<WriteOp>,
    refused: Vec<RefusedRow>,
    bytes: usize,
}

impl Gathered {
    fn take(&mut self, job: &Job, line: &[u8], row: &mut CopyRow) -> Result<()> {
        let columns = job.format.columns().len();
        let found = row.parse(line);
        if found != columns {
            let message = format!("a copied row has {found} values, and {columns} were asked for");
            return Err(Error::new(ErrorKind::Protocol, message));
        }
        if job.format.is_deleted(row) {
            return Ok(());
        }
        let document = job.format.id(row).and_then(|id| Ok((id, job.format.document(row)?.source)));
        match document {
            Ok((id, source)) => self.add(id, source),
            Err(error) => {
                self.bytes += line.len();
                self.refuse(RefusedRow {
                    id: job.format.letter_id(row).unwrap_or_default(),
                    reason: error.to_string(),
                    raw: job.format.raw(row),
                });
            }
        }
        Ok(())
    }

    fn add(&mut self, id: String, source: Bytes) {
        self.bytes += id.len() + source.len() + size_of::<WriteOp>();
        self.ops.push(WriteOp::Upsert { id, source, condition: Condition::None });
    }

    fn refuse(&mut self, row: RefusedRow) {
        self.refused.push(row);
    }

    async fn submit(
        self,
        job: &Job,
        place: usize,
        lsn: Lsn,
        outstanding: &mut Outstanding,
    ) -> Result<()> {
        let rows = (self.ops.len() + self.refused.len()) as u64;
        if rows == 0 {
            return Ok(());
        }
        let compose = if is_composed(job) { Compose::Later } else { Compose::default() };
        let batch = Batch { ops: self.ops, row_lsn: Some(lsn), compose, ..Batch::default() };
        let handover = Handover {
            place,
            batch,
            titles: job.titles.clone(),
            begin: lsn,
            end: lsn,
            refused: self.refused,
            gone: Vec::new(),
            bytes: self.bytes,
            counters: Arc::clone(&job.counters),
            may_miss: false,
            must_fit: false,
        };
        outstanding.submit(&*job.sink, handover).await?;
        failpoint::reach("copy-batch-handed-over");
        job.counters.copied.fetch_add(rows, Ordering::Relaxed);
        Ok(())
    }
}

/// Makes a session read in the snapshot.
pub(crate) async fn import(control: &Control, snapshot: &str) -> Result<()> {
    let begin = format!(
        "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY; \
         SET TRANSACTION SNAPSHOT {}",
        quote_literal(snapshot)
    );
    control.execute("importing the snapshot", &begin).await
}

/// Marks an index as being copied.
pub(crate) async fn begin(job: &Job, lsn: Lsn, progress: &Progress) -> Result<()> {
    let rows = progress.rows_copied();
    job.counters.copied.store(rows, Ordering::Relaxed);
    job.counters.resumed.store(rows, Ordering::Relaxed);
    let copy_progress = Some(progress.to_text());
    let batch = Batch { row_lsn: Some(lsn), copy_progress, ..Batch::default() };
    submit_and_wait(job, batch).await.map(drop)
}

/// Gives an index the snapshot's position, and makes all of it durable. One whose rows vanished is
/// not done before the log has shown why.
async fn finish(
    job: &Job,
    checkpoint: Checkpoint,
    rewritten: Option<Lsn>,
    letters: &LetterBox,
) -> Result<Option<Truncation>> {
    if is_composed(job) && rewritten.is_some() {
        let message = "a table that its documents are composed from was truncated or rewritten while \
                       it was copied";
        return Err(Error::new(ErrorKind::TableChanged, message));
    }
    let progress = Progress::done(&job.table, checkpoint.lsn).to_text();
    let batch = Batch {
        row_lsn: Some(checkpoint.lsn),
        checkpoint: Some(checkpoint),
        copy_progress: rewritten.is_none().then(|| progress.clone()),
        compose: Compose::All,
        ..Batch::default()
    };
    let outcome = submit_and_wait(job, batch).await?;
    letters.list_composed(&job.titles, checkpoint.lsn, outcome.composed, &job.counters)?;
    let sink = Arc::clone(&job.sink);
    failpoint::reach("copy-whole");
    let flushed = tokio::task::spawn_blocking(move || sink.flush()).await;
    flushed.map_err(|_| stopped())??;
    failpoint::reach("copy-durable");
    Ok(rewritten.map(|before| Truncation { before, progress }))
}

async fn submit_and_wait(job: &Job, batch: Batch) -> Result<BatchOutcome> {
    let receipt = job.sink.submit(batch)?;
    let closed = |_| Error::new(ErrorKind::Engine, format!("index of [{}] closed", job.title));
    Ok(receipt.await.map_err(closed)??)
}

/// Whether documents are composed from the rows of a job.
fn is_composed(job: &Job) -> bool {
    job.table.rows_of.is_some()
}

fn stopped() -> Error {
    Error::new(ErrorKind::Stopped, "the copy was given up")
}
