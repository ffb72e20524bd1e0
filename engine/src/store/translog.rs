//! The translog: what has been written to an index since its last commit, on egret-aof's log.
//!
//! Payloads, integers little-endian. Kinds 1 and 2 hold changes; a batch is as many records of
//! kind 1 as it needs and one of kind 2, and is replayed only as a whole:
//!
//! ```text
//! u64  next sequence number after the batch
//! then for each change a tag byte:
//!   1  put     u64 sequence number, u64 term, u64 version, u64 LSN, u16 length and id,
//!              u32 length and source
//!   2  delete  u16 length and id (of an Egret that did not keep their versions)
//!   3  clear
//!   4  delete  u64 sequence number, u64 term, u64 version, u64 milliseconds since 1970,
//!              u16 length and id
//!   5  tombstone, as 4: a delete that found nothing, or one of an earlier file
//! ```
//!
//! Kind 6 is the mapping, written before the first batch that needs it: a u64 number, which rises by one
//! with each, and JSON. Kind 7 is the same where somebody asked for what was added. Those are passed over whose number is not above that of the commit. Kind 3 is
//! JSON alone (of an Egret that did not number them), and counts where it has more fields. Kind 4, without a
//! payload, says that records of kind 1 before it are of a batch that a crash has cut short. Kind 5
//! begins a file: the tombstones that are alive, in the same form as changes, but with a count from
//! 0 of its records in place of the number. They replace those of earlier files.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use egret_aof::disk::Disk;
use egret_aof::log::{FsyncPolicy, Increment, Log, LogOptions};
use serde_json::Value;

use super::plan::Change;
use super::settings::Durability;
use super::tombstones::{Tombstone, Tombstones};
use crate::error::{Error, ErrorKind, Result};
use crate::mapping::Mapping;
use crate::mapping::ignored::Origin;
use crate::mapping::schema::SystemValues;
use crate::position::SeqNo;

const PART: u8 = 1;
const LAST_PART: u8 = 2;
const MAPPING: u8 = 3;
const CUT_SHORT: u8 = 4;
const TOMBSTONES: u8 = 5;
const NUMBERED_MAPPING: u8 = 6;
const REQUESTED_MAPPING: u8 = 7;
const PUT: u8 = 1;
const DELETE: u8 = 2;
const CLEAR: u8 = 3;
const VERSIONED_DELETE: u8 = 4;
const TOMBSTONE: u8 = 5;
/// A record is ended when it is longer than this.
const PART_BYTES: usize = 4 << 20;
/// An index keeps no more than this for the next batch.
const KEPT_BYTES: usize = 256 << 10;
/// With `async` durability, how long what is written may be lost to a power cut.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// What is replayed.
#[derive(Debug)]
pub(super) enum Record {
    /// A whole batch.
    Changes { changes: Vec<Change>, next_seq_no: SeqNo },
    /// The mapping from here on, and its number.
    Mapping { number: Option<u64>, mapping: Value, origin: Origin },
    /// Deletes that lie before, and that are still remembered; `first`: all others are forgotten.
    Tombstones { changes: Vec<Change>, first: bool },
}

/// The translog of one index.
pub(super) struct Translog {
    log: Log,
    durability: Durability,
    ops: u64,
    /// Operations before the last roll.
    ops_before_roll: u64,
    /// When the first write was made that is not synced yet.
    unsynced: Option<Instant>,
    /// Why nothing more may be written until a flush has succeeded.
    broken: Option<String>,
    /// What the last batch was written from: memory that is faster than fresh one.
    payload: Vec<u8>,
}

impl Translog {
    /// Opens or makes it, and replays every whole batch.
    pub(super) fn open(
        disk: &Arc<dyn Disk>,
        folder: &Path,
        durability: Durability,
        mut replay: impl FnMut(Record) -> Result<()>,
    ) -> Result<Self> {
        // When to sync is decided here, since it may change.
        let options = LogOptions { fsync: FsyncPolicy::No, ..LogOptions::default() };
        let mut pending = Vec::new();
        let mut ops = 0;
        let replayed = |record: egret_aof::log::Record<'_>| -> Result<()> {
            let (kind, payload) = (record.kind, record.payload);
            if let Some((number, json)) = mapping_in(kind, payload)? {
                let mapping = serde_json::from_slice(json).map_err(damaged)?;
                return replay(Record::Mapping { number, mapping, origin: origin_of(kind) });
            }
            if kind == CUT_SHORT {
                pending.clear();
                return Ok(());
            }
            let cut_short = || damaged(format!("record {} is cut short", record.sequence));
            if kind == TOMBSTONES {
                let mut changes = Vec::new();
                let part = decode(payload, &mut changes).ok_or_else(cut_short)?;
                return replay(Record::Tombstones { changes, first: part == SeqNo(0) });
            }
            let next_seq_no = decode(payload, &mut pending).ok_or_else(cut_short)?;
            match kind {
                PART => Ok(()),
                LAST_PART => {
                    ops += pending.len() as u64;
                    replay(Record::Changes { changes: std::mem::take(&mut pending), next_seq_no })
                }
                kind => Err(damaged(format!("record {} has kind {kind}", record.sequence))),
            }
        };
        let mut replayed = replayed;
        let (log, report) =
            Log::open(Arc::clone(disk), folder, options, |record| Ok(replayed(record)?))
                .map_err(log_error)?;
        for tail in &report.torn_tails {
            tracing::warn!(file = %tail.file.display(), bytes = tail.bytes, "the translog ended half-written; nothing acknowledged was there");
        }
        if !pending.is_empty() {
            // Or else they would be taken for the beginning of the next batch.
            log.append(CUT_SHORT, &[]).map_err(log_error)?;
            log.sync().map_err(log_error)?;
        }
        let (unsynced, broken) = (None, None);
        let payload = Vec::new();
        Ok(Self { log, durability, ops, ops_before_roll: 0, unsynced, broken, payload })
    }

    /// From here on, writes are as safe as this says; what was written before becomes so too.
    pub(super) fn set_durability(&mut self, durability: Durability) {
        self.durability = durability;
        if durability == Durability::Request {
            self.sync();
        }
    }

    /// Why it takes no more writes.
    pub(super) fn poisoned(&self) -> Option<&str> {
        self.broken.as_deref()
    }

    /// Appends a batch: its changes, of which there may be none, and the number after it. It is safe
    /// after [`Translog::commit`].
    pub(super) fn append(&mut self, changes: &[Change], next_seq_no: SeqNo) {
        let mut payload = std::mem::take(&mut self.payload);
        begin_in(&mut payload, next_seq_no);
        for change in changes {
            if payload.len() > PART_BYTES {
                self.append_record(PART, &payload);
                begin_in(&mut payload, next_seq_no);
            }
            encode(change, &mut payload);
        }
        self.append_record(LAST_PART, &payload);
        self.ops += changes.len() as u64;
        payload.clear();
        payload.shrink_to(KEPT_BYTES);
        self.payload = payload;
    }

    /// Appends a mapping that has changed, under the next number.
    pub(super) fn append_mapping(&mut self, number: u64, mapping: &Mapping, origin: Origin) {
        let mut payload = number.to_le_bytes().to_vec();
        payload.extend_from_slice(mapping.to_json().to_string().as_bytes());
        let kind = match origin {
            Origin::Request => REQUESTED_MAPPING,
            Origin::Document => NUMBERED_MAPPING,
        };
        self.append_record(kind, &payload);
    }

    fn append_record(&mut self, kind: u8, payload: &[u8]) {
        if self.broken.is_none() {
            let result = self.log.append(kind, payload);
            self.note(result.map(drop));
        }
    }

    fn note(&mut self, result: egret_aof::Result<()>) {
        if let Err(error) = result {
            tracing::error!(%error, "the translog cannot be written");
            self.broken = Some(error.to_string());
        }
    }

    /// Makes what was appended safe, as the index's durability says. Afterwards
    /// [`Translog::poisoned`] tells whether that succeeded.
    pub(super) fn commit(&mut self) {
        if self.broken.is_none() {
            let result = match self.durability {
                Durability::Request => self.log.sync(),
                Durability::Async => self.log.commit(),
            };
            self.note(result);
            if self.durability == Durability::Async {
                self.unsynced.get_or_insert_with(Instant::now);
            }
        }
    }

    /// When [`Translog::sync`] is due.
    pub(super) fn sync_due(&self) -> Option<Instant> {
        self.unsynced.map(|since| since + SYNC_INTERVAL)
    }

    /// Makes what was committed survive a power cut.
    pub(super) fn sync(&mut self) {
        if self.unsynced.take().is_some() && self.broken.is_none() {
            let result = self.log.sync();
            self.note(result);
        }
    }

    /// Begins a new file with the tombstones; what was appended before lies before the returned
    /// mark. `None` where the log is broken: then a flush that succeeds makes all of it superfluous.
    pub(super) fn roll(&mut self, tombstones: &Tombstones) -> Option<Increment> {
        if self.broken.is_some() {
            return None;
        }
        match self.log.roll() {
            Ok(increment) => {
                self.ops_before_roll = self.ops;
                self.append_tombstones(tombstones);
                self.broken.is_none().then_some(increment)
            }
            Err(error) => {
                self.note(Err(error));
                None
            }
        }
    }

    /// After a flush of everything up to the mark: forgets what lies before it. A log that was broken
    /// when the flush began, and so gave no mark, is whole again afterwards; one that broke since
    /// then needs another flush, for what could not be written lies after the mark.
    pub(super) fn trim(&mut self, mark: Option<Increment>, tombstones: &Tombstones) -> Result<()> {
        let Some(mark) = mark else { return self.begin_anew(tombstones) };
        self.log.remove_before(mark).map_err(log_error)?;
        self.ops -= std::mem::take(&mut self.ops_before_roll).min(self.ops);
        Ok(())
    }

    fn begin_anew(&mut self, tombstones: &Tombstones) -> Result<()> {
        let mark = if self.log.is_poisoned() {
            self.log.reopen_after_failure().map_err(log_error)?
        } else {
            self.log.roll().map_err(log_error)?
        };
        self.write_tombstones(tombstones).map_err(log_error)?;
        self.log.remove_before(mark).map_err(log_error)?;
        (self.ops, self.ops_before_roll) = (0, 0);
        self.broken = None;
        Ok(())
    }

    fn append_tombstones(&mut self, tombstones: &Tombstones) {
        let result = self.write_tombstones(tombstones);
        self.note(result);
    }

    /// Writes them durably: the files before this one may be removed next.
    fn write_tombstones(&mut self, tombstones: &Tombstones) -> egret_aof::Result<()> {
        let mut part = SeqNo(0);
        let mut payload = begin(part);
        for (id, tombstone) in tombstones.iter() {
            encode_delete(TOMBSTONE, id, tombstone, &mut payload);
            if payload.len() > PART_BYTES {
                self.log.append(TOMBSTONES, &payload)?;
                part.0 += 1;
                payload = begin(part);
            }
        }
        self.log.append(TOMBSTONES, &payload)?;
        self.log.sync()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.log.bytes()
    }

    pub(super) fn ops(&self) -> u64 {
        self.ops
    }
}

/// Whether a record can be read.
pub(super) fn check_record(record: egret_aof::log::Record<'_>) -> Result<()> {
    if let Some((_, json)) = mapping_in(record.kind, record.payload)? {
        let mapping: Value = serde_json::from_slice(json).map_err(damaged)?;
        return Mapping::from_json(&mapping).map(drop);
    }
    match record.kind {
        CUT_SHORT => Ok(()),
        PART | LAST_PART | TOMBSTONES if decode(record.payload, &mut Vec::new()).is_some() => {
            Ok(())
        }
        kind => Err(damaged(format!("record {} of kind {kind} cannot be read", record.sequence))),
    }
}

/// Where a mapping of this kind came from.
fn origin_of(kind: u8) -> Origin {
    if kind == REQUESTED_MAPPING { Origin::Request } else { Origin::Document }
}

/// The number and the JSON of a mapping, where it is one.
fn mapping_in(kind: u8, payload: &[u8]) -> Result<Option<(Option<u64>, &[u8])>> {
    match kind {
        MAPPING => Ok(Some((None, payload))),
        NUMBERED_MAPPING | REQUESTED_MAPPING => {
            let parts = payload.split_first_chunk();
            let (number, json) = parts.ok_or_else(|| damaged("a mapping has no number"))?;
            Ok(Some((Some(u64::from_le_bytes(*number)), json)))
        }
        _ => Ok(None),
    }
}

fn begin(next_seq_no: SeqNo) -> Vec<u8> {
    next_seq_no.0.to_le_bytes().to_vec()
}

fn begin_in(payload: &mut Vec<u8>, next_seq_no: SeqNo) {
    payload.clear();
    payload.extend_from_slice(&next_seq_no.0.to_le_bytes());
}

fn encode(change: &Change, out: &mut Vec<u8>) {
    match change {
        Change::Put { id, system, source } => {
            out.push(PUT);
            for value in [system.seq_no, system.term, system.version, system.lsn] {
                out.extend_from_slice(&value.to_le_bytes());
            }
            encode_id(id, out);
            let length = u32::try_from(source.len()).unwrap_or(u32::MAX);
            out.extend_from_slice(&length.to_le_bytes());
            out.extend_from_slice(source);
        }
        Change::Delete { id, tombstone: None } => {
            out.push(DELETE);
            encode_id(id, out);
        }
        Change::Delete { id, tombstone: Some(tombstone) } => {
            encode_delete(VERSIONED_DELETE, id, tombstone, out);
        }
        Change::Tombstone { id, tombstone } => encode_delete(TOMBSTONE, id, tombstone, out),
        Change::Clear => out.push(CLEAR),
    }
}

fn encode_delete(tag: u8, id: &str, tombstone: &Tombstone, out: &mut Vec<u8>) {
    let Tombstone { seq_no, term, version, at_ms } = *tombstone;
    out.push(tag);
    for value in [seq_no, term, version, at_ms] {
        out.extend_from_slice(&value.to_le_bytes());
    }
    encode_id(id, out);
}

/// Ids are at most 512 bytes long.
fn encode_id(id: &str, out: &mut Vec<u8>) {
    let length = u16::try_from(id.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(id.as_bytes());
}

/// Reads the changes of a record and returns the next sequence number.
fn decode(mut bytes: &[u8], changes: &mut Vec<Change>) -> Option<SeqNo> {
    let next_seq_no = SeqNo(u64_of(&mut bytes)?);
    while let Some((&tag, rest)) = bytes.split_first() {
        bytes = rest;
        changes.push(match tag {
            PUT => {
                let seq_no = u64_of(&mut bytes)?;
                let term = u64_of(&mut bytes)?;
                let version = u64_of(&mut bytes)?;
                let lsn = u64_of(&mut bytes)?;
                let id = id_of(&mut bytes)?;
                let length = u32::from_le_bytes(take(&mut bytes, 4)?.try_into().ok()?);
                let source = Bytes::copy_from_slice(take(&mut bytes, length as usize)?);
                Change::Put { id, system: SystemValues { seq_no, term, version, lsn }, source }
            }
            DELETE => Change::Delete { id: id_of(&mut bytes)?, tombstone: None },
            VERSIONED_DELETE => {
                let tombstone = Some(tombstone_of(&mut bytes)?);
                Change::Delete { id: id_of(&mut bytes)?, tombstone }
            }
            TOMBSTONE => {
                let tombstone = tombstone_of(&mut bytes)?;
                Change::Tombstone { id: id_of(&mut bytes)?, tombstone }
            }
            CLEAR => Change::Clear,
            _ => return None,
        });
    }
    Some(next_seq_no)
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

fn u64_of(bytes: &mut &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(take(bytes, 8)?.try_into().ok()?))
}

fn tombstone_of(bytes: &mut &[u8]) -> Option<Tombstone> {
    let (seq_no, term) = (u64_of(bytes)?, u64_of(bytes)?);
    let (version, at_ms) = (u64_of(bytes)?, u64_of(bytes)?);
    Some(Tombstone { seq_no, term, version, at_ms })
}

fn id_of(bytes: &mut &[u8]) -> Option<String> {
    let length = u16::from_le_bytes(take(bytes, 2)?.try_into().ok()?);
    String::from_utf8(take(bytes, usize::from(length))?.to_vec()).ok()
}

fn damaged(what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Corrupt, format!("the translog is damaged: {what}"))
}

fn log_error(source: egret_aof::Error) -> Error {
    let kind = match source.kind() {
        egret_aof::ErrorKind::Corrupt => ErrorKind::Corrupt,
        _ => ErrorKind::Io,
    };
    Error::new(kind, format!("the translog: {source}")).with_source(source)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Vec<Change> {
        let system = SystemValues { seq_no: 1, term: 2, version: 3, lsn: u64::MAX };
        let source = Bytes::from_static(b"{\"a\": 1}");
        let tombstone = Tombstone { seq_no: 4, term: 5, version: 6, at_ms: 7 };
        vec![
            Change::Put { id: "é".to_owned(), system, source },
            Change::Clear,
            Change::Delete { id: "x".repeat(512), tombstone: None },
            Change::Delete { id: "y".to_owned(), tombstone: Some(tombstone) },
            Change::Tombstone { id: "z".to_owned(), tombstone },
        ]
    }

    #[test]
    fn changes_come_back_and_torn_ones_are_seen() {
        let mut payload = begin(SeqNo(7));
        let mut ends = vec![payload.len()];
        for change in example() {
            encode(&change, &mut payload);
            ends.push(payload.len());
        }
        for length in 0..=payload.len() {
            let mut changes = Vec::new();
            let read = decode(&payload[..length], &mut changes);
            match ends.iter().position(|&end| end == length) {
                Some(count) => {
                    assert_eq!(read, Some(SeqNo(7)));
                    assert_eq!(changes, example()[..count]);
                }
                None => assert_eq!(read, None, "{length} bytes"),
            }
        }
    }

    /// A write fails while a flush runs that does not hold it.
    #[test]
    fn only_a_flush_of_everything_mends_a_broken_log() {
        let sim = egret_aof::disk::sim::SimDisk::new();
        let disk: Arc<dyn Disk> = Arc::new(sim.clone());
        let mut log =
            Translog::open(&disk, Path::new("/t"), Durability::Request, |_| Ok(())).unwrap();
        let none = Tombstones::default();
        log.append(&example(), SeqNo(3));
        log.commit();
        let mark = log.roll(&none);
        sim.fail_at(sim.operations(), egret_aof::disk::sim::Fault::SyncFailure);
        log.append(&example(), SeqNo(6));
        log.commit();
        assert!(log.poisoned().is_some());
        log.trim(mark, &none).unwrap();
        assert!(log.poisoned().is_some(), "the failed write is in no commit");
        let mark = log.roll(&none);
        assert!(mark.is_none());
        log.trim(mark, &none).unwrap();
        assert_eq!((log.poisoned(), log.ops()), (None, 0));
        log.append(&example(), SeqNo(9));
        log.commit();
        assert_eq!((log.poisoned(), log.ops()), (None, example().len() as u64));
    }

    /// What a crash left of a batch in several records is not taken for a part of the next one.
    #[test]
    fn a_batch_that_is_cut_short_is_forgotten() {
        let disk: Arc<dyn Disk> = Arc::new(egret_aof::disk::sim::SimDisk::new());
        let folder = Path::new("/translog");
        let open = || {
            let mut batches = Vec::new();
            let log = Translog::open(&disk, folder, Durability::Request, |record| {
                batches.push(format!("{record:?}"));
                Ok(())
            });
            (log.unwrap(), batches)
        };
        let (mut log, _) = open();
        let mut part = begin(SeqNo(3));
        encode(&Change::Delete { id: "half".to_owned(), tombstone: None }, &mut part);
        log.append_record(PART, &part);
        log.commit();
        drop(log);
        let (mut log, batches) = open();
        assert_eq!(batches, [""; 0]);
        log.append(&example(), SeqNo(3));
        log.commit();
        drop(log);
        let whole = Record::Changes { changes: example(), next_seq_no: SeqNo(3) };
        assert_eq!(open().1, [format!("{whole:?}")]);
    }
}
