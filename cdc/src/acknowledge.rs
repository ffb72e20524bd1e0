//! How far the database may forget: the smallest position that is durable in every index that has
//! something unflushed, made durable in the pipeline's own file before it is sent.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use egret_aof::disk::Disk;
use egret_engine::{Checkpoint, Lsn};
use rustc_hash::FxHashSet;
use tokio::task::JoinSet;

use crate::error::{Error, ErrorKind, Result};
use crate::position::Position;
use crate::receipts::LetterBox;
use crate::stream::Feed;

/// Collects durable positions and asks for flushes.
pub(crate) struct Acknowledgements {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    letters: LetterBox,
    slot: String,
    interval: Duration,
    /// What the file says, and the database has been told.
    confirmed: Lsn,
    /// Flushes underway, by the place of their feed.
    flushes: JoinSet<(usize, egret_engine::Result<()>)>,
    flushing: FxHashSet<usize>,
}

impl Acknowledgements {
    /// Goes on from `confirmed`.
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        folder: PathBuf,
        letters: LetterBox,
        slot: String,
        interval: Duration,
        confirmed: Lsn,
    ) -> Self {
        let (flushes, flushing) = (JoinSet::new(), FxHashSet::default());
        Self { disk, folder, letters, slot, interval, confirmed, flushes, flushing }
    }

    /// How often to take a step.
    pub(crate) fn interval(&self) -> Duration {
        self.interval
    }

    /// Waits for a flush to end; for ever where none is underway.
    pub(crate) async fn flushed(&mut self) -> Result<()> {
        let Some(ended) = self.flushes.join_next().await else {
            return std::future::pending().await;
        };
        let (place, result) = ended.map_err(|error| {
            Error::new(ErrorKind::Engine, "a flush was given up").with_source(error)
        })?;
        self.flushing.remove(&place);
        Ok(result?)
    }

    /// Asks indexes with something unflushed to flush it, and makes durable how far all of them
    /// are. Returns what may be sent, where it is news.
    pub(crate) fn step(
        &mut self,
        feeds: &[Feed],
        position: Checkpoint,
        oldest: Option<Lsn>,
    ) -> Result<Option<Lsn>> {
        let durable = |feed: &Feed| feed.positions.borrow().durable.map(|at| at.lsn);
        for (place, feed) in feeds.iter().enumerate() {
            let unflushed = feed.submitted > durable(feed) && feed.submitted.is_some();
            if unflushed && self.flushing.insert(place) {
                let sink = Arc::clone(&feed.sink);
                self.flushes.spawn_blocking(move || (place, sink.flush()));
            }
        }
        let lsn = acknowledgeable(
            self.confirmed,
            position.lsn,
            oldest,
            feeds.iter().map(|feed| (feed.submitted, durable(feed))),
        );
        if lsn <= self.confirmed {
            return Ok(None);
        }
        self.letters.sync()?;
        Position::new(&self.slot, Checkpoint { lsn, ..position })
            .store(&*self.disk, &self.folder)?;
        self.confirmed = lsn;
        Ok(Some(lsn))
    }
}

/// Everything up to here is durable in every index: the stream's position, but no further than what
/// is durable in each index that was given something later, nor than the beginning of the oldest
/// batch that is not answered (its dead letters are not known yet).
fn acknowledgeable(
    confirmed: Lsn,
    position: Lsn,
    oldest: Option<Lsn>,
    indexes: impl Iterator<Item = (Option<Lsn>, Option<Lsn>)>,
) -> Lsn {
    let mut lsn = position;
    if let Some(oldest) = oldest {
        lsn = lsn.min(oldest);
    }
    for (submitted, durable) in indexes {
        if submitted.is_some() && submitted > durable {
            lsn = lsn.min(durable.unwrap_or(confirmed));
        }
    }
    lsn.max(confirmed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_past_what_is_durable() {
        let at = |lsn: u64| (lsn > 0).then_some(Lsn(lsn));
        let check = |position, oldest, indexes: &[(u64, u64)], expected| {
            let indexes = indexes.iter().map(|&(submitted, durable)| (at(submitted), at(durable)));
            let found = acknowledgeable(Lsn(10), Lsn(position), at(oldest), indexes);
            assert_eq!(found, Lsn(expected));
        };
        // Nothing was handed over: all of it may be forgotten.
        check(50, 0, &[(0, 0), (0, 10)], 50);
        // What was handed over is durable.
        check(50, 0, &[(40, 40), (0, 10)], 50);
        check(50, 0, &[(40, 45)], 50);
        // Something is not: no further than what is.
        check(50, 0, &[(40, 30), (45, 35), (0, 10)], 30);
        check(50, 0, &[(40, 0)], 10);
        // A batch without an answer may still have dead letters.
        check(50, 38, &[(40, 40)], 38);
        // Never back.
        check(5, 0, &[], 10);
        check(50, 5, &[(40, 4)], 10);
    }
}
