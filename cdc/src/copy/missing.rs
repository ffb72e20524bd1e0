//! Rows that the log has changed while a copy was interrupted, and that no block which was left has
//! brought: they have moved to blocks that were read before they did. Their whole values are nowhere
//! but in the table, which is asked for them by their keys, in the snapshot.

use egret_engine::Lsn;
use egret_engine::batch::{Batch, Compose, Condition, Patch, WriteOp};

use super::{Gathered, Job, Snapshot, begin, import, submit_and_wait};
use crate::config::PipelineConfig;
use crate::connect::Source;
use crate::error::{Error, ErrorKind, Result};
use crate::progress::Progress;
use crate::receipts::{LetterBox, Outstanding};
use crate::repair::{self, Found, Reading};

/// Reads the rows that are missing of an index, whose jobs are the one at `owner` and those of its
/// related tables. Where that cannot be done the copy begins again.
pub(super) async fn read(
    source: &Source,
    config: &PipelineConfig,
    snapshot: &Snapshot,
    (jobs, owner): (&[Job], usize),
    letters: &LetterBox,
) -> Result<()> {
    for job in jobs.iter().filter(|job| job.owner == owner) {
        let unreadable = read_of(source, config, snapshot, job, letters).await?;
        if let (Some(reason), Some(own)) = (unreadable, jobs.get(owner)) {
            return begin_again(own, snapshot, &reason).await;
        }
    }
    Ok(())
}

/// Reads those of one table. Gives why one cannot be.
async fn read_of(
    source: &Source,
    config: &PipelineConfig,
    snapshot: &Snapshot,
    job: &Job,
    letters: &LetterBox,
) -> Result<Option<String>> {
    let place = job.owner;
    let lsn = snapshot.checkpoint.lsn;
    let ids = absent(job, lsn).await?;
    if ids.is_empty() {
        return Ok(None);
    }
    let (table, rows) = (&*job.title, ids.len());
    tracing::info!(table, rows, "rows that have moved are read by their keys");
    let control = source.control().await?;
    import(&control, &snapshot.name).await?;
    let format = job.format.as_ref().clone();
    let reading = Reading { place, table: job.table.clone(), format, ids };
    let mut outstanding = Outstanding::new(usize::MAX, config.outstanding_bytes, letters.clone());
    let mut gathered = Gathered::default();
    for id in &reading.ids {
        match repair::read_one(&control, &reading, id).await? {
            Found::Document(source) => gathered.add(id.clone(), source),
            // It is deleted later in the log, or its filter no longer takes it.
            Found::Nothing => {}
            Found::Refused(row) => gathered.refuse(row),
            Found::Unreadable(reason) => return Ok(Some(reason)),
        }
        if gathered.bytes >= config.copy_batch_bytes {
            let full = std::mem::take(&mut gathered);
            full.submit(job, place, lsn, &mut outstanding).await?;
            outstanding.settle_ready()?;
        }
    }
    control.execute("ending the reading of rows", "COMMIT").await?;
    control.end();
    gathered.submit(job, place, lsn, &mut outstanding).await?;
    outstanding.settle_all().await?;
    // Those of them that do not fit are listed durably before the copy counts as done.
    letters.sync()?;
    outstanding.take_failures().into_iter().next().map_or(Ok(None), |failed| Err(failed.error))
}

/// Those that have not come with their blocks.
async fn absent(job: &Job, lsn: Lsn) -> Result<Vec<String>> {
    if job.missing.is_empty() {
        return Ok(Vec::new());
    }
    let nothing = |id: &String| WriteOp::Patch {
        id: id.clone(),
        previous_id: None,
        patch: Patch::Merge { source: "{}".into(), upsert: None, detect_noop: true },
        condition: Condition::None,
    };
    let ops = job.missing.iter().map(nothing).collect();
    // Nothing is composed before all rows are in.
    let compose = Compose::Later;
    let batch = Batch { ops, row_lsn: Some(lsn), compose, ..Batch::default() };
    let results = submit_and_wait(job, batch).await?.ops;
    let absent = job.missing.iter().zip(results).filter(|(_, result)| result.is_err());
    Ok(absent.map(|(id, _)| id.clone()).collect())
}

async fn begin_again(job: &Job, snapshot: &Snapshot, reason: &str) -> Result<()> {
    let checkpoint = snapshot.checkpoint;
    begin(job, checkpoint.lsn, &Progress::copying(&job.table, checkpoint)).await?;
    let message = format!(
        "rows moved while its copy was interrupted, and one cannot be read by its key ({reason}): it \
         begins again"
    );
    Err(Error::new(ErrorKind::TableChanged, message))
}
