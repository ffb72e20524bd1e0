//! Going on with a copy that was interrupted.
//!
//! An index has rows of some blocks, all as they were at one position A. A new snapshot S agrees with
//! a position C. The log from A to C is applied to what is there; then it is as S shows it, and the
//! blocks that are left are read from S. What this cannot bring are rows that had not been read, whose
//! change is in the log without those of their values that are stored apart: they are left out.
//! In the end each must have come with its block; one that has not has moved to blocks that were read
//! earlier, and is read by its key from the same snapshot. The index remembers which they are, lest
//! another interruption forget them. Before all of them are known it remembers that they are not, and
//! one that is interrupted there begins again.
//!
//! Of an index whose documents are composed from several tables, all have rows of some blocks as they
//! were at A, and all go through this together. Nothing is composed before the copy ends.

use std::collections::BTreeSet;
use std::sync::Arc;

use egret_aof::failpoint;
use egret_engine::composition::row_table;
use egret_engine::{Checkpoint, Lsn};
use pgwire_replication::ReplicationEvent;

use super::{Filling, News, Sync, Telling};
use crate::connect::Control;
use crate::copy::Job;
use crate::error::{Error, ErrorKind, Result};
use crate::feed::Feed;
use crate::progress::Progress;
use crate::stream::Stream;

/// Rows that may have been changed and not been there, before a copy rather begins again.
const MAX_MISSING: usize = 100_000;

/// As many of them are remembered, with every range that is read. Of a copy that lacks more, another
/// interruption makes one that begins again.
const MAX_REMEMBERED: usize = 10_000;

impl Sync {
    /// Brings what interrupted copies have read to where the snapshot is. Gives the jobs that did not
    /// fail.
    pub(super) async fn bring_up(
        &self,
        control: &Arc<Control>,
        jobs: Vec<(Job, Filling)>,
        snapshot: Checkpoint,
        telling: &Telling,
    ) -> Result<Vec<(Job, Filling)>> {
        let start = jobs.iter().filter_map(|(job, _)| Some(job.resumes.as_ref()?.lsn)).min();
        let Some(start) = start else { return Ok(jobs) };
        let mut stream = self.read_log(Arc::clone(control), start).await?;
        for (at, (job, filling)) in jobs.iter().enumerate() {
            let Some(resumes) = &job.resumes else { continue };
            let feed = self.feed(&filling.task.name, Arc::clone(&job.table), Arc::clone(&job.sink));
            let feed = Feed { reached: resumes.lsn, resumes: Some(resumes.clone()), ..feed };
            stream.join(at, feed).await?;
        }
        let followed = follow_to(&mut stream, snapshot.lsn).await;
        let failures = stream.take_failures();
        let told = stream.outstanding.take_missing();
        let closed = stream.close().await;
        followed.and(closed)?;
        failpoint::reach("copy-brought-up");
        let mut failed: Vec<Option<Error>> = jobs.iter().map(|_| None).collect();
        for (at, _, error) in failures {
            if let Some(place) = failed.get_mut(at) {
                *place = Some(error);
            }
        }
        // Those of an earlier interruption may still be missing.
        let before = |(job, _): &(Job, Filling)| {
            let resumes = job.resumes.iter();
            resumes.flat_map(|resumes| resumes.missing.iter().cloned()).collect()
        };
        let mut missing: Vec<BTreeSet<String>> = jobs.iter().map(before).collect();
        for (at, id) in told {
            let (Some((job, _)), Some(ids)) = (jobs.get(at), missing.get_mut(at)) else { continue };
            match id {
                Some(id) if ids.len() < MAX_MISSING => drop(ids.insert(id)),
                _ => forget(job, snapshot, failed.get_mut(at)).await?,
            }
        }
        let mut brought = Vec::new();
        for (((mut job, mut filling), failed), missing) in jobs.into_iter().zip(failed).zip(missing)
        {
            let place = filling.task.place;
            if let Some(error) = failed {
                telling.tell(News::Failed { place, error }).await;
                continue;
            }
            lacks(&mut job, &mut filling.related, missing);
            brought.push((job, filling));
        }
        Ok(brought)
    }
}

/// Takes note of the rows that an index lacks: each with the job of its table, and all of them to be
/// remembered.
fn lacks(own: &mut Job, related: &mut [Job], missing: BTreeSet<String>) {
    if let Some(resumes) = &mut own.resumes {
        resumes.unsettled = missing.len() > MAX_REMEMBERED;
        resumes.missing = missing.iter().take(MAX_REMEMBERED).cloned().collect();
    }
    let is_composed = own.format.rows_of().is_some();
    for id in missing {
        // An index that composes nothing has ids of one table alone.
        let part = if is_composed { row_table(&id).unwrap_or(0) } else { 0 };
        let job = std::iter::once(&mut *own).chain(&mut *related).nth(part);
        if let Some(job) = job {
            job.missing.push(id);
        }
    }
}

/// Has an index remember nothing of its copy, so that the next one begins again.
async fn forget(job: &Job, snapshot: Checkpoint, failed: Option<&mut Option<Error>>) -> Result<()> {
    let Some(failed @ None) = failed else { return Ok(()) };
    let progress = Progress::copying(&job.table, snapshot);
    crate::copy::begin(job, snapshot.lsn, &progress).await?;
    let message = "too many rows were changed while its copy was interrupted: it begins again";
    *failed = Some(Error::new(ErrorKind::TableChanged, message));
    Ok(())
}

/// Applies every transaction that the snapshot shows, and no other.
async fn follow_to(stream: &mut Stream, end: Lsn) -> Result<()> {
    while stream.position.lsn < end {
        let event = stream
            .client
            .recv()
            .await?
            .ok_or_else(|| Error::new(ErrorKind::Unavailable, "the server ended the stream"))?;
        match &event {
            ReplicationEvent::Begin { final_lsn, .. } if final_lsn.0 >= end.0 => break,
            _ => stream.handle(event).await?,
        };
        stream.outstanding.settle_ready()?;
    }
    stream.outstanding.settle_all().await
}
