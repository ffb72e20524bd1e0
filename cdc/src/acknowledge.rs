//! How far the database may forget: the smallest position that is durable in every index that has
//! something unflushed, made durable in the pipeline's own file before it is sent.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use egret_aof::disk::Disk;
use egret_engine::{Checkpoint, Lsn};
use rustc_hash::FxHashSet;
use tokio::task::{JoinHandle, JoinSet};

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
    /// The position that is being made durable. The stream does not wait for the disk.
    storing: Option<JoinHandle<Result<Lsn>>>,
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
        let storing = None;
        Self { disk, folder, letters, slot, interval, confirmed, flushes, flushing, storing }
    }

    /// How often to take a step.
    pub(crate) fn interval(&self) -> Duration {
        self.interval
    }

    /// Waits for a flush to end, or for a position to be durable: that may be sent. For ever where
    /// nothing is underway.
    pub(crate) async fn ended(&mut self) -> Result<Option<Lsn>> {
        tokio::select! {
            biased;
            stored = join(&mut self.storing) => {
                self.storing = None;
                self.confirmed = stored?;
                Ok(Some(self.confirmed))
            }
            Some(ended) = self.flushes.join_next() => {
                let (place, result) = ended.map_err(given_up)?;
                self.flushing.remove(&place);
                result?;
                Ok(None)
            }
            else => std::future::pending().await,
        }
    }

    /// Asks indexes with something unflushed to flush it.
    pub(crate) fn ask_for_flushes(&mut self, feeds: &[Feed]) {
        for (place, feed) in feeds.iter().enumerate() {
            let unflushed = feed.submitted > durable(feed) && feed.submitted.is_some();
            if unflushed && self.flushing.insert(place) {
                let sink = Arc::clone(&feed.sink);
                self.flushes.spawn_blocking(move || (place, sink.flush()));
            }
        }
    }

    /// Begins to make durable how far all indexes are, where it is news and none is underway.
    pub(crate) fn step(&mut self, feeds: &[Feed], position: Checkpoint, oldest: Option<Lsn>) {
        let lsn = acknowledgeable(
            self.confirmed,
            position.lsn,
            oldest,
            feeds.iter().map(|feed| (feed.submitted, durable(feed))),
        );
        if self.storing.is_some() || lsn <= self.confirmed {
            return;
        }
        let (disk, folder) = (Arc::clone(&self.disk), self.folder.clone());
        let letters = self.letters.clone();
        let file = Position::new(&self.slot, Checkpoint { lsn, ..position });
        self.storing = Some(tokio::task::spawn_blocking(move || {
            letters.sync()?;
            file.store(&*disk, &folder)?;
            Ok(lsn)
        }));
    }

    /// Waits until nothing is being written: the next connection writes the same file.
    pub(crate) async fn settle(&mut self) -> Result<()> {
        if self.storing.is_some() {
            let stored = join(&mut self.storing).await;
            self.storing = None;
            self.confirmed = stored?;
        }
        Ok(())
    }
}

/// Waits for a position to be durable; for ever where none is being written.
async fn join(storing: &mut Option<JoinHandle<Result<Lsn>>>) -> Result<Lsn> {
    match storing {
        Some(storing) => storing.await.map_err(given_up)?,
        None => std::future::pending().await,
    }
}

fn given_up(error: tokio::task::JoinError) -> Error {
    Error::new(ErrorKind::Engine, "a flush was given up").with_source(error)
}

fn durable(feed: &Feed) -> Option<Lsn> {
    feed.positions.borrow().durable.map(|at| at.lsn)
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
