//! How far the database may forget: the smallest position that is durable in every index that has
//! something unflushed, or from which a table is being brought to where the stream is, made durable
//! in the pipeline's own file before it is sent.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use egret_aof::disk::Disk;
use egret_aof::failpoint;
use egret_engine::{Checkpoint, Lsn};
use rustc_hash::FxHashSet;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::error::{Error, ErrorKind, Result};
use crate::feed::Feed;
use crate::position::{Hold, Holds, Position};
use crate::receipts::LetterBox;
use crate::sink::Sink;

/// So many rows are worth a flush of their own once nothing follows them: the database can forget a
/// burst when it ends. What trickles in waits for the interval.
const BURST_ROWS: u64 = 1_000;

/// A table that is out of the stream, and the log that it needs to come back.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    /// The UUID of its index; not known before a copy has chosen it.
    pub(crate) uuid: Option<String>,
    /// It needs the log from here on,
    pub(crate) floor: Lsn,
    /// or from where the synchronization that reads it says.
    pub(crate) synced: Option<watch::Receiver<Lsn>>,
    /// Whether dead letters of what its index holds may not be written down.
    pub(crate) is_unlisted: bool,
}

/// Collects durable positions and asks for flushes.
pub(crate) struct Acknowledgements {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    letters: LetterBox,
    slot: String,
    interval: Duration,
    /// What the file says, and the database has been told.
    confirmed: Lsn,
    /// What the joined indexes hold.
    streamed: Lsn,
    /// What the file says of indexes.
    holds: Holds,
    /// Flushes underway, by the UUID of the index.
    flushes: JoinSet<(usize, String, egret_engine::Result<()>)>,
    flushing: FxHashSet<String>,
    /// The position that is being made durable. The stream does not wait for the disk.
    storing: Option<JoinHandle<Result<Position>>>,
}

/// What has ended beside the stream.
pub(crate) enum Ended {
    /// A flush.
    Flushed,
    /// A flush that failed: the place of the table, its index, and why.
    Failed(usize, String, Error),
    /// A position is durable, and may be sent.
    Stored(Lsn),
}

impl Acknowledgements {
    /// Goes on from what the file says.
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        folder: PathBuf,
        letters: LetterBox,
        interval: Duration,
        file: &Position,
    ) -> Self {
        let (slot, confirmed, streamed) = (file.slot.clone(), file.lsn, file.streamed());
        let (holds, flushes, flushing) = (file.holds(), JoinSet::new(), FxHashSet::default());
        Self {
            disk,
            folder,
            letters,
            slot,
            interval,
            confirmed,
            streamed,
            holds,
            flushes,
            flushing,
            storing: None,
        }
    }

    /// How often to take a step.
    pub(crate) fn interval(&self) -> Duration {
        self.interval
    }

    /// The database keeps the log from here on.
    pub(crate) fn confirmed(&self) -> Lsn {
        self.confirmed
    }

    /// What the file says of an index.
    pub(crate) fn hold_of(&self, uuid: &str) -> Hold {
        self.holds.of(uuid)
    }

    /// Bytes of log that the database keeps for tables that are out of the stream.
    pub(crate) fn kept_for(&self, held: &[Held]) -> u64 {
        let oldest = held.iter().map(Held::lsn).min();
        oldest.map_or(0, |oldest| self.streamed.0.saturating_sub(oldest.0))
    }

    /// Waits for a flush to end, or for a position to be durable. For ever where nothing is underway.
    pub(crate) async fn ended(&mut self) -> Result<Ended> {
        tokio::select! {
            biased;
            stored = join(&mut self.storing) => Ok(Ended::Stored(self.stored(stored)?)),
            Some(ended) = self.flushes.join_next() => {
                let (place, uuid, result) = ended.map_err(given_up)?;
                self.flushing.remove(&uuid);
                Ok(match result {
                    Ok(()) => Ended::Flushed,
                    Err(error) => Ended::Failed(place, uuid, error.into()),
                })
            }
            else => std::future::pending().await,
        }
    }

    /// Whether any index has a burst that is not being flushed.
    pub(crate) fn has_burst(&self, feeds: &[Option<Feed>]) -> bool {
        joined(feeds).any(|(_, feed)| is_burst(feed) && !self.flushing.contains(feed.sink.uuid()))
    }

    /// Asks indexes with something unflushed to flush it; `bursts`: only those that have a burst.
    pub(crate) fn ask_for_flushes(&mut self, feeds: &mut [Option<Feed>], bursts: bool) {
        let joined = feeds.iter_mut().enumerate();
        for (place, feed) in joined.filter_map(|(place, feed)| Some((place, feed.as_mut()?))) {
            if !is_unflushed(feed) {
                feed.unflushed_rows = 0;
                continue;
            }
            let uuid = feed.sink.uuid();
            if (!bursts || is_burst(feed)) && !self.flushing.contains(uuid) {
                self.flushing.insert(uuid.to_owned());
                feed.unflushed_rows = 0;
                let (sink, uuid) = (Arc::clone(&feed.sink), uuid.to_owned());
                self.flushes.spawn_blocking(move || (place, uuid, sink.flush()));
            }
        }
    }

    /// Begins to make durable how far all indexes are, and which ones that is said for, where it is
    /// news and nothing is underway. The log is kept for tables out of the stream, and for indexes
    /// that were replaced.
    pub(crate) fn step(
        &mut self,
        feeds: &[Option<Feed>],
        (held, replaced): (&[Held], &[Held]),
        position: Checkpoint,
        oldest: Option<Lsn>,
    ) {
        if self.storing.is_some() {
            return;
        }
        let positions = joined(feeds).map(|(_, feed)| (feed.submitted, feed.durable()));
        // It goes back where a table has joined that has not flushed what it was brought up with.
        let streamed = acknowledgeable(self.confirmed, position.lsn, oldest, positions);
        let all = held.iter().chain(replaced);
        let lsn = all.map(Held::lsn).fold(streamed, Lsn::min).max(self.confirmed);
        let uuids =
            |held: &[Held]| held.iter().filter_map(|held| held.uuid.clone()).collect::<Vec<_>>();
        let holds = Holds {
            joined: Some(joined(feeds).map(|(_, feed)| feed.sink.uuid().to_owned()).collect()),
            held: uuids(held),
            replaced: uuids(replaced),
        };
        if (lsn, streamed) == (self.confirmed, self.streamed) && holds == self.holds {
            return;
        }
        let (disk, folder) = (Arc::clone(&self.disk), self.folder.clone());
        let letters = self.letters.clone();
        let file = Position::new(&self.slot, Checkpoint { lsn, ..position }, streamed, holds);
        self.storing = Some(tokio::task::spawn_blocking(move || {
            letters.sync()?;
            failpoint::reach("letters-durable");
            file.store(&*disk, &folder)?;
            failpoint::reach("position-durable");
            Ok(file)
        }));
    }

    /// Waits until nothing is being written: the next connection writes the same file.
    pub(crate) async fn settle(&mut self) -> Result<()> {
        if self.storing.is_some() {
            let stored = join(&mut self.storing).await;
            self.stored(stored)?;
        }
        Ok(())
    }

    /// Takes note of what is durable.
    fn stored(&mut self, stored: Result<Position>) -> Result<Lsn> {
        self.storing = None;
        let file = stored?;
        (self.confirmed, self.streamed, self.holds) = (file.lsn, file.streamed(), file.holds());
        Ok(self.confirmed)
    }
}

/// Waits for a position to be durable; for ever where none is being written.
async fn join(storing: &mut Option<JoinHandle<Result<Position>>>) -> Result<Position> {
    match storing {
        Some(storing) => storing.await.map_err(given_up)?,
        None => std::future::pending().await,
    }
}

fn given_up(error: tokio::task::JoinError) -> Error {
    Error::new(ErrorKind::Engine, "a flush was given up").with_source(error)
}

/// Whether an index was given so much that it should be flushed once the stream is quiet; or has flushed
/// it of itself, which nobody was told.
fn is_burst(feed: &Feed) -> bool {
    feed.unflushed_rows >= BURST_ROWS
}

fn is_unflushed(feed: &Feed) -> bool {
    feed.submitted.is_some() && feed.submitted > feed.durable()
}

/// The tables that the stream writes to, with their places.
fn joined(feeds: &[Option<Feed>]) -> impl Iterator<Item = (usize, &Feed)> {
    feeds.iter().enumerate().filter_map(|(place, feed)| Some((place, feed.as_ref()?)))
}

impl Held {
    /// The log of an index from here on.
    pub(crate) fn of(sink: &dyn Sink, floor: Lsn) -> Self {
        let uuid = Some(sink.uuid().to_owned());
        Self { uuid, floor, synced: None, is_unlisted: false }
    }

    pub(crate) fn lsn(&self) -> Lsn {
        self.synced.as_ref().map_or(self.floor, |synced| self.floor.max(*synced.borrow()))
    }
}

/// Everything up to here is durable in every index: the stream's position, but no further than what
/// is durable in each index that was given something later, nor than the beginning of the oldest
/// batch that is not answered (its dead letters are not known yet).
pub(crate) fn acknowledgeable(
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
    use egret_aof::disk::sim::SimDisk;
    use egret_engine::batch::Batch;
    use egret_engine::index::{Positions, Receipt};
    use parking_lot::Mutex;

    use super::*;
    use crate::catalog::Table;
    use crate::dead_letters::DeadLetters;
    use crate::status::StatusBoard;

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

    /// An index that stands still.
    struct Still(watch::Sender<Positions>);

    impl Sink for Still {
        fn uuid(&self) -> &'static str {
            "still"
        }

        fn submit(&self, _: Batch) -> egret_engine::Result<Receipt> {
            Ok(tokio::sync::oneshot::channel().1)
        }

        fn advance(&self, _: Checkpoint) -> egret_engine::Result<()> {
            Ok(())
        }

        fn refresh(&self) -> egret_engine::Result<()> {
            Ok(())
        }

        fn flush(&self) -> egret_engine::Result<()> {
            Ok(())
        }

        fn positions(&self) -> watch::Receiver<Positions> {
            self.0.subscribe()
        }

        fn shown(&self, _: &[String]) -> egret_engine::Result<Vec<crate::verify::Shown>> {
            Ok(Vec::new())
        }

        fn listed(
            &self,
            _: egret_engine::snapshot::Listed,
            _: Option<&str>,
            _: usize,
        ) -> egret_engine::Result<Vec<String>> {
            Ok(Vec::new())
        }
    }

    #[tokio::test]
    async fn a_table_that_joins_brings_what_it_has_not_flushed() {
        let disk: Arc<dyn Disk> = Arc::new(SimDisk::new());
        let folder = PathBuf::from("/");
        let letters = DeadLetters::open(&disk, &folder, 9).unwrap();
        let board = Arc::new(StatusBoard::new("n", "s".to_owned(), "p".to_owned()));
        let letters = LetterBox { letters: Arc::new(Mutex::new(letters)), board };
        let at = |lsn| Checkpoint { system_identifier: 7, timeline: 1, lsn: Lsn(lsn) };
        let held = Holds { held: vec!["still".to_owned()], ..Holds::nothing() };
        // The stream went on to 50 without the table, whose log was kept from 10 on.
        let file = Position::new("s", at(10), Lsn(50), held);
        let mut acknowledgements = Acknowledgements::new(
            Arc::clone(&disk),
            folder.clone(),
            letters,
            Duration::from_secs(1),
            &file,
        );
        let (applied, durable) = (Some(at(60)), Some(at(20)));
        let positions = Positions { applied, durable, ..Positions::default() };
        let sink = Arc::new(Still(watch::Sender::new(positions)));
        let feed = Feed::new("t", Arc::new(Table::example(&[])), sink, Arc::default());
        acknowledgements.step(&[Some(feed)], (&[], &[]), at(60), None);
        acknowledgements.settle().await.unwrap();
        let file = Position::load(&*disk, &folder).unwrap().unwrap();
        assert_eq!((file.lsn, file.streamed()), (Lsn(20), Lsn(20)));
        assert_eq!(file.holds().joined, Some(vec!["still".to_owned()]));
    }
}
