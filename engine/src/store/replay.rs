//! Replaying a translog: a thread reads it while another, with the helpers of large batches, puts what
//! it says, and tells how far it is.
//!
//! Small batches are gathered, so that single writes are replayed as fast as bulk ones.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use egret_aof::disk::Disk;

use super::plan::Change;
use super::settings::Durability;
use super::state::Store;
use super::translog::{Record, Translog};
use crate::error::{Error, ErrorKind, Result};
use crate::mapping::Mapping;
use crate::position::SeqNo;

/// Changes are carried out once there are so many,
const GATHERED_CHANGES: usize = 8192;
/// or so many bytes of documents.
const GATHERED_BYTES: usize = 8 << 20;
/// Batches that are read ahead: each is in memory whole anyway, and most are small.
const BATCHES_AHEAD: usize = 16;
/// How often a watcher is told how far it is.
const TELL_INTERVAL: Duration =
    if cfg!(test) { Duration::ZERO } else { Duration::from_millis(250) };

/// How far the replay of a translog is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplayProgress<'a> {
    /// The index's name.
    pub index: &'a str,
    /// Operations carried out.
    pub operations: u64,
    /// Bytes of the translog that these were in, about.
    pub bytes: u64,
    /// Bytes of the translog's files.
    pub total_bytes: u64,
    /// Since its beginning.
    pub elapsed: Duration,
    /// Whether it has ended.
    pub is_done: bool,
}

/// Who is told how far replays are.
pub type ReplayWatch<'a> = &'a (dyn Fn(&ReplayProgress<'_>) + Sync);

/// Where a translog is and what is known of it.
pub(super) struct Source<'a> {
    pub(super) disk: &'a Arc<dyn Disk>,
    pub(super) folder: &'a Path,
    pub(super) durability: Durability,
    /// The index's name.
    pub(super) index: &'a str,
}

/// What a replay has brought.
pub(super) struct Outcome {
    pub(super) log: Translog,
    pub(super) next_seq_no: SeqNo,
    /// Whether the translog had more than the store.
    pub(super) replayed: bool,
}

/// Opens a translog and carries out what it has beyond a number.
pub(super) fn replay(
    store: &mut Store,
    source: &Source<'_>,
    next_seq_no: SeqNo,
    watch: ReplayWatch<'_>,
) -> Result<Outcome> {
    let mut replay = Replay {
        store,
        next_seq_no,
        replayed: false,
        gathered: Vec::new(),
        gathered_bytes: 0,
        progress: ReplayProgress {
            index: source.index,
            operations: 0,
            bytes: 0,
            total_bytes: bytes_of(source),
            elapsed: Duration::ZERO,
            is_done: false,
        },
        began: Instant::now(),
        told: None,
        watch,
    };
    let (sender, records) = bounded(BATCHES_AHEAD);
    let log = std::thread::scope(|scope| {
        let gone = || Error::new(ErrorKind::Closed, "the replay has ended");
        let thread = std::thread::Builder::new().name("egret-replay".to_owned());
        let reader = thread.spawn_scoped(scope, move || {
            let Source { disk, folder, durability, .. } = source;
            let each = |record| sender.send(record).map_err(|_| gone());
            Translog::open(disk, folder, *durability, each)
        })?;
        let outcome = replay.run(records);
        let log = reader.join().unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Internal, "reading the translog panicked"))
        });
        outcome.and(log)
    })?;
    let Replay { next_seq_no, replayed, .. } = replay;
    Ok(Outcome { log, next_seq_no, replayed })
}

fn bytes_of(source: &Source<'_>) -> u64 {
    let names = source.disk.list(source.folder).unwrap_or_default();
    names.iter().filter_map(|name| source.disk.len(&source.folder.join(name)).ok()).sum()
}

struct Replay<'a> {
    store: &'a mut Store,
    next_seq_no: SeqNo,
    replayed: bool,
    gathered: Vec<Change>,
    gathered_bytes: usize,
    progress: ReplayProgress<'a>,
    began: Instant,
    /// When the watcher was last told.
    told: Option<Instant>,
    watch: ReplayWatch<'a>,
}

impl Replay<'_> {
    /// Takes the records until there are no more. After an error the reader ends too.
    fn run(&mut self, records: Receiver<Record>) -> Result<()> {
        for record in records {
            self.take(record)?;
        }
        self.carry_out()?;
        if self.told.is_some() {
            self.progress.is_done = true;
            self.tell();
        }
        Ok(())
    }

    fn take(&mut self, record: Record) -> Result<()> {
        match record {
            Record::Changes { changes, next_seq_no } if next_seq_no > self.next_seq_no => {
                self.next_seq_no = next_seq_no;
                self.replayed = true;
                self.gathered_bytes += changes.iter().map(bytes).sum::<usize>();
                self.gathered.extend(changes);
                let many = self.gathered.len() >= GATHERED_CHANGES;
                if many || self.gathered_bytes >= GATHERED_BYTES {
                    self.carry_out()?;
                }
            }
            Record::Changes { changes, .. } => {
                self.progress.bytes += changes.iter().map(bytes).sum::<usize>() as u64;
            }
            Record::Mapping { number, mapping, origin } => {
                self.carry_out()?;
                let mapping = Mapping::from_json(&mapping)?;
                self.replayed |= self.store.take_if_later(number, mapping, origin)?;
            }
            Record::Tombstones { changes, first } => {
                self.carry_out()?;
                self.store.recall(changes, first)?;
            }
        }
        Ok(())
    }

    fn carry_out(&mut self) -> Result<()> {
        let changes = std::mem::take(&mut self.gathered);
        let bytes = std::mem::take(&mut self.gathered_bytes);
        self.progress.operations += changes.len() as u64;
        self.progress.bytes += bytes as u64;
        self.store.replay(changes)?;
        // Nobody need hear of a replay that is over at once.
        let since = self.told.unwrap_or(self.began);
        if since.elapsed() >= TELL_INTERVAL {
            self.told = Some(Instant::now());
            self.tell();
        }
        Ok(())
    }

    fn tell(&mut self) {
        self.progress.elapsed = self.began.elapsed();
        (self.watch)(&self.progress);
    }
}

/// What a change takes in the log.
fn bytes(change: &Change) -> usize {
    const NUMBERS: usize = 35;
    NUMBERS
        + match change {
            Change::Put { id, source, .. } => 4 + id.len() + source.len(),
            Change::Delete { id, .. } | Change::Tombstone { id, .. } => id.len(),
            Change::Clear => 0,
        }
}
