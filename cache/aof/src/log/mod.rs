//! An append-only log that survives crashes, in the multi-part form of Redis 7: a base that sums up
//! the past, increments that follow it, and a manifest that names them.
//!
//! # Promises
//! - Records are replayed in the order in which they were appended, each once, without holes.
//! - What [`Log::commit`] returned for survives a killed process, and with [`FsyncPolicy::Always`]
//!   a power cut. Of later records any number may survive, always the first ones.
//! - A torn or zero-filled tail is cut and reported; damage elsewhere is never passed over silently.
//! - A file whose sync failed is never synced or written again: the kernel may have dropped its
//!   pages. The log is then *poisoned* until [`Log::reopen_after_failure`]. The next process cannot
//!   know of it and still sees those pages, so opening copies the last increment unless it is empty
//!   or such a copy itself: what was replayed is then durable beyond doubt.
//!
//! A call that failed leaves open whether its records will be replayed: those of a failed commit
//! stay in the buffer and are written by a later one, unless the log is reopened after a failure.
//!
//! # Files
//! All numbers are little-endian, all checksums CRC-32C (Castagnoli). The folder holds
//!
//! ```text
//! lock                        empty; locked by the process that has the log open
//! manifest                    text, replaced atomically
//! base-0000000003.aof         at most one
//! increment-0000000004.aof    ascending; the last one is appended to
//! ```
//!
//! Files of these names that the manifest does not name are left-overs and removed; other names
//! are never touched. The manifest (version 1; a newer one is refused):
//!
//! ```text
//! egret-aof manifest 1
//! salt 5d3f0a91c2e4b687       64 random bits of this log, part of every record's checksum
//! base 3
//! increment 4
//! increment 5
//! checksum 0c9a44d1           of all bytes above this line
//! ```
//!
//! A file begins with a header of 40 bytes (version 1; a newer one is refused):
//!
//! ```text
//! 0       8         10     11      12         16     24       32                40
//! | EGRETAOF | version | role | flags | checksum | salt | number | first sequence |
//!             1          1 base, 2 increment
//!                               1: records before this file may be missing
//! ```
//!
//! The checksum covers the 40 bytes with its own four as zero. The first sequence number is that of
//! an increment's first record; in a base it is that of the first record that it does not sum up.
//! Records follow:
//!
//! ```text
//! 0        4          8          16     17
//! | length | checksum | sequence | kind | payload ...
//! ```
//!
//! The length counts sequence, kind and payload, so it is never zero; the checksum covers the
//! salt, the length and what the length counts. Sequence numbers begin with 1 and rise by one
//! through all increments; in a base they begin with 1 again. Kinds below 240 are the owner's; the
//! log's own have no payload:
//!
//! ```text
//! 252 copied  the last record of a copy, synced as a whole before it got its name; also a mark
//! 253 end     the last record of a base; one without it is incomplete
//! 254 lost    in a repaired file: the records before this sequence number are lost
//! 255 mark    every record before this sequence number had been synced when this was written
//! ```
//!
//! Marks tell a torn tail from damage: pages reach a disk in any order, so after a power cut whole
//! records may follow a hole. Where a mark behind the hole says that the place had been synced, it
//! is damage; otherwise nobody was promised anything behind it, and the tail is cut there. Every
//! increment but the last, and every base, was synced before the manifest named what follows it.

mod frame;
mod increments;
mod manifest;
mod options;
mod recovery;
mod report;
mod rewrite;
mod scan;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use self::frame::{FIRST_RESERVED_KIND, FRAME_BYTES, Frame, KIND_MARK};
pub use self::increments::Increment;
use self::increments::Live;
use self::manifest::LOCK;
pub use self::options::{FsyncPolicy, LogOptions, Recovery};
pub use self::report::{Lost, RecoveryReport, TornTail};
pub use self::rewrite::BaseWriter;
use self::rewrite::Rewriting;
use crate::disk::{Disk, DiskFile, create_folder_durably};
use crate::{BoxError, Error, Result};

/// How often [`Log::sync_if_due`] syncs.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// One record, as it is replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// The number that [`Log::append`] returned. A record of the base has the number of the last
    /// record that the base sums up, or 0 if there was none.
    pub sequence: u64,
    /// What [`Log::append`] or [`BaseWriter::append`] was given.
    pub kind: u8,
    /// Likewise.
    pub payload: &'a [u8],
}

/// What one file, or the whole log, holds.
#[derive(Debug, Clone, Copy, Default)]
struct Size {
    bytes: u64,
    records: u64,
}

/// An open log. All methods take `&self`; share it in an `Arc`.
///
/// Dropping it closes the log without writing what was appended and not committed. A clean shutdown
/// calls [`sync`](Self::sync) first.
///
/// ```
/// use std::path::Path;
/// use std::sync::Arc;
/// use egret_aof::disk::sim::SimDisk;
/// use egret_aof::log::{Log, LogOptions};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let disk = Arc::new(SimDisk::new());
/// let folder = Path::new("/log");
/// let (log, _) = Log::open(disk.clone(), folder, LogOptions::default(), |_| Ok(()))?;
/// log.append(1, b"hello")?;
/// log.commit()?;
/// drop(log);
///
/// let disk = Arc::new(disk.power_cut(42));
/// let mut seen = Vec::new();
/// let (_log, report) = Log::open(disk, folder, LogOptions::default(), |record| {
///     seen.push((record.sequence, record.payload.to_vec()));
///     Ok(())
/// })?;
/// assert_eq!(seen, [(1, b"hello".to_vec())]);
/// assert!(report.is_clean());
/// # Ok(())
/// # }
/// ```
pub struct Log {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    options: LogOptions,
    salt: u64,
    /// Bytes and records of all live files and the buffer.
    bytes: AtomicU64,
    records: AtomicU64,
    // The locks are taken in this order; any may be left out.
    /// Guards rewriting; held throughout a rewrite, only ever tried.
    rewriting: Mutex<Rewriting>,
    /// Guards the manifest and the set of files; held while these change on the disk.
    live: Mutex<Live>,
    /// Guards syncing: the one who holds it syncs for all who wait.
    syncer: Mutex<Syncer>,
    /// Guards writing to the current increment.
    writer: Mutex<Writer>,
    /// Guards the buffer and the numbering; no input or output is done under it.
    appender: Mutex<Appender>,
    /// Held as long as the log is open.
    _lock: Box<dyn Send + Sync>,
}

struct Appender {
    buffer: Vec<u8>,
    next_sequence: u64,
    /// The file whose state is unknown since a failure.
    poisoned: Option<PathBuf>,
}

struct Writer {
    file: Box<dyn DiskFile>,
    path: PathBuf,
    /// Bytes of the file that hold whole records.
    len: u64,
    first_sequence: u64,
    /// The first record that is not written yet.
    next_sequence: u64,
    /// Every record before this one is synced.
    durable_next: u64,
    /// What the last mark in the file says.
    marked_next: u64,
    /// An empty buffer, kept for its memory.
    spare: Vec<u8>,
}

struct Syncer {
    /// A second handle of the writer's file, so that a sync does not keep others from writing.
    file: Box<dyn DiskFile>,
    /// Every record before this one is synced.
    durable_next: u64,
    last_sync: Instant,
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log")
            .field("folder", &self.folder)
            .field("bytes", &self.bytes())
            .field("records", &self.records())
            .finish_non_exhaustive()
    }
}

impl Log {
    /// Opens the log in `folder`, creating both where they are missing, and replays every record.
    ///
    /// Everything replayed is durable when this returns. Fails with [`Error::Locked`] where
    /// another has the log open, and with an error of kind
    /// [`Corrupt`](crate::ErrorKind::Corrupt) on damage, unless told to repair.
    pub fn open(
        disk: Arc<dyn Disk>,
        folder: &Path,
        options: LogOptions,
        mut replay: impl FnMut(Record<'_>) -> Result<(), BoxError>,
    ) -> Result<(Self, RecoveryReport)> {
        create_folder_durably(disk.as_ref(), folder).map_err(Error::io("create", folder))?;
        let lock_path = folder.join(LOCK);
        let lock = disk.lock(&lock_path).map_err(|source| match source.kind() {
            std::io::ErrorKind::WouldBlock => Error::Locked { folder: folder.to_path_buf() },
            _ => Error::Io { action: "lock", path: lock_path, source },
        })?;
        let recovered = recovery::recover(disk.as_ref(), folder, options.recovery, &mut replay)?;
        let report = recovered.report;
        let mut live = Live::new(recovered.manifest, recovered.sizes, recovered.next_number);
        let place = increments::Place { disk: disk.as_ref(), folder };
        let (writer, syncer) = place.open_last(&mut live, &report)?;
        let mut size = writer.size();
        for closed in live.sizes.values() {
            size.bytes += closed.bytes;
            size.records += closed.records;
        }
        let appender =
            Appender { buffer: Vec::new(), next_sequence: report.next_sequence, poisoned: None };
        let log = Self {
            folder: folder.to_path_buf(),
            salt: live.manifest.salt,
            bytes: AtomicU64::new(size.bytes),
            records: AtomicU64::new(size.records),
            rewriting: Mutex::new(Rewriting::default()),
            live: Mutex::new(live),
            syncer: Mutex::new(syncer),
            writer: Mutex::new(writer),
            appender: Mutex::new(appender),
            _lock: lock,
            disk,
            options,
        };
        Ok((log, report))
    }

    /// Whether there is a log in `folder`, or was before its manifest was lost.
    pub fn exists(disk: &dyn Disk, folder: &Path) -> std::io::Result<bool> {
        Ok(disk.exists(folder)?
            && disk.list(folder)?.iter().any(|name| {
                name == manifest::MANIFEST || manifest::parse_file_name(name).is_some()
            }))
    }

    /// Reads the log in `folder` without changing anything in it: `replay` gets every record. Nobody
    /// may have it open.
    ///
    /// With [`Recovery::Strict`] damage is an error, as for [`open`](Self::open); with
    /// [`Recovery::Repair`] the report says what a repair would lose.
    pub fn inspect(
        disk: &dyn Disk,
        folder: &Path,
        recovery: Recovery,
        mut replay: impl FnMut(Record<'_>) -> Result<(), BoxError>,
    ) -> Result<RecoveryReport> {
        recovery::inspect(disk, folder, recovery, &mut replay)
    }

    /// Appends a record to the buffer and returns its number. The order of calls is the order in
    /// the log. It is not safe before [`commit`](Self::commit).
    pub fn append(&self, kind: u8, payload: &[u8]) -> Result<u64> {
        check_record(&self.options, kind, payload)?;
        let frame_bytes = FRAME_BYTES + payload.len();
        loop {
            let mut appender = self.appender.lock();
            appender.check_usable()?;
            let full = appender.buffer.len() + frame_bytes > self.options.max_buffer_bytes;
            if full && !appender.buffer.is_empty() {
                drop(appender);
                self.drain(&mut self.writer.lock())?;
                continue;
            }
            let sequence = appender.next_sequence;
            appender.next_sequence += 1;
            Frame { sequence, kind, payload }.encode(self.salt, &mut appender.buffer);
            drop(appender);
            self.records.fetch_add(1, Ordering::Relaxed);
            self.bytes.fetch_add(frame_bytes as u64, Ordering::Relaxed);
            return Ok(sequence);
        }
    }

    /// Hands every record appended so far to the system and, with [`FsyncPolicy::Always`], syncs.
    /// One sync serves everybody whose records were written before it.
    pub fn commit(&self) -> Result<()> {
        if self.options.fsync == FsyncPolicy::Always {
            return self.sync();
        }
        self.drain(&mut self.writer.lock())
    }

    /// Makes every record appended so far durable, whatever the policy.
    pub fn sync(&self) -> Result<()> {
        let target = {
            let appender = self.appender.lock();
            appender.check_usable()?;
            appender.next_sequence
        };
        let mut syncer = self.syncer.lock();
        self.sync_before(&mut syncer, target)
    }

    /// With [`FsyncPolicy::EverySecond`], syncs what was committed if the last sync is a second
    /// old; with others does nothing. For the owner's timer.
    pub fn sync_if_due(&self, now: Instant) -> Result<()> {
        if self.options.fsync != FsyncPolicy::EverySecond {
            return Ok(());
        }
        let mut syncer = self.syncer.lock();
        if now.saturating_duration_since(syncer.last_sync) < SYNC_INTERVAL {
            return Ok(());
        }
        syncer.last_sync = now;
        let target = {
            let appender = self.appender.lock();
            appender.check_usable()?;
            appender.next_sequence
        };
        self.sync_before(&mut syncer, target)
    }

    /// The bytes of all files and of the buffer.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The records in all files and in the buffer.
    pub fn records(&self) -> u64 {
        self.records.load(Ordering::Relaxed)
    }

    /// Whether an earlier failure keeps the log from being written; see
    /// [`reopen_after_failure`](Self::reopen_after_failure).
    pub fn is_poisoned(&self) -> bool {
        self.appender.lock().poisoned.is_some()
    }

    /// Makes the records before `target` durable, unless another has done so meanwhile.
    fn sync_before(&self, syncer: &mut Syncer, target: u64) -> Result<()> {
        if syncer.durable_next >= target {
            return Ok(());
        }
        let (written_next, path) = {
            let mut writer = self.writer.lock();
            self.drain(&mut writer)?;
            (writer.next_sequence, writer.path.clone())
        };
        // Others may append and write meanwhile.
        if let Err(source) = syncer.file.sync() {
            self.poison(&path);
            return Err(Error::Io { action: "sync", path, source });
        }
        syncer.durable_next = written_next;
        self.writer.lock().durable_next = written_next;
        Ok(())
    }

    /// Writes the buffer to the current increment. If that fails, the file is cut back to its last
    /// whole record and the buffer keeps its records.
    fn drain(&self, writer: &mut Writer) -> Result<()> {
        let (mut bytes, next_sequence) = {
            let mut appender = self.appender.lock();
            appender.check_usable()?;
            if appender.buffer.is_empty() {
                return Ok(());
            }
            let spare = std::mem::take(&mut writer.spare);
            (std::mem::replace(&mut appender.buffer, spare), appender.next_sequence)
        };
        let marked = writer.write_mark(self.salt);
        let result = marked.and_then(|()| writer.file.write_all(&bytes));
        if let Err(source) = result {
            let path = writer.path.clone();
            if writer.file.truncate(writer.len).is_err() {
                self.poison(&path);
            }
            let mut appender = self.appender.lock();
            bytes.append(&mut appender.buffer);
            appender.buffer = bytes;
            return Err(Error::Io { action: "write to", path, source });
        }
        let len = writer.file.len();
        let mark_bytes = (len - writer.len).saturating_sub(bytes.len() as u64);
        self.bytes.fetch_add(mark_bytes, Ordering::Relaxed);
        writer.len = len;
        writer.next_sequence = next_sequence;
        writer.marked_next = writer.durable_next;
        bytes.clear();
        if bytes.capacity() <= self.options.max_buffer_bytes {
            writer.spare = bytes;
        }
        Ok(())
    }

    fn poison(&self, path: &Path) {
        let mut appender = self.appender.lock();
        appender.poisoned.get_or_insert_with(|| path.to_path_buf());
    }
}

impl Appender {
    fn check_usable(&self) -> Result<()> {
        match &self.poisoned {
            None => Ok(()),
            Some(file) => Err(Error::Poisoned { file: file.clone() }),
        }
    }
}

impl Writer {
    fn size(&self) -> Size {
        let records = self.next_sequence.saturating_sub(self.first_sequence);
        Size { bytes: self.len, records }
    }

    /// Writes a mark if more is synced than the last one says.
    fn write_mark(&mut self, salt: u64) -> std::io::Result<()> {
        if self.durable_next <= self.marked_next {
            return Ok(());
        }
        let mut mark = Vec::new();
        Frame { sequence: self.durable_next, kind: KIND_MARK, payload: &[] }
            .encode(salt, &mut mark);
        self.file.write_all(&mark)
    }
}

/// Refuses records that could not be read back.
fn check_record(options: &LogOptions, kind: u8, payload: &[u8]) -> Result<()> {
    if kind >= FIRST_RESERVED_KIND {
        return Err(Error::ReservedKind { kind });
    }
    let format_limit = u32::MAX as usize - FRAME_BYTES;
    let limit = options.max_record_bytes.min(format_limit);
    if payload.len() > limit {
        return Err(Error::TooLarge { bytes: payload.len(), limit });
    }
    Ok(())
}
