//! Operations that do not fit into memory, in a temporary file: written once, then read in order.
//!
//! One record of the [`Spool`] for each operation: a byte that says which it is, then its parts. A
//! text or document is its length, `u32` little-endian, and its bytes; a list its count, likewise,
//! and its elements; what may be absent is a byte, 0 or 1, and what it says is there.
//!
//! | byte | operation | parts |
//! |---|---|---|
//! | 0 | clear | |
//! | 1 | delete | id, condition |
//! | 2 | upsert | id, condition, source |
//! | 3 | patch that keeps | id, condition, previous id?, source, kept fields |
//! | 4 | patch that merges | id, condition, previous id?, source, upsert?, detect no-op (0 or 1) |
//! | 5 | clear rows | table, `u32` |
//!
//! A condition is a byte: 0 none, 1 absent, 2 last change (then its number and term, `u64`), 3 an
//! external version and 4 one that may be equal (then the version, `u64`). The file never outlives
//! its process, so the format has no version.

use std::path::Path;

use bytes::Bytes;
use egret_aof::disk::Disk;
use egret_aof::spool::{Spool, SpoolError, SpoolReader};

use super::{Condition, Patch, WriteOp};
use crate::error::{Error, ErrorKind, Result};
use crate::position::SeqNo;

const CLEAR: u8 = 0;
const DELETE: u8 = 1;
const UPSERT: u8 = 2;
const KEEP: u8 = 3;
const MERGE: u8 = 4;
const CLEAR_ROWS: u8 = 5;

/// Records larger than this are not kept as buffers for the next one.
const KEPT_BUFFER_BYTES: usize = 1 << 20;

/// Operations on their way into a temporary file.
#[derive(Debug)]
pub struct OpSpool {
    spool: Spool,
    record: Vec<u8>,
}

/// Operations in a temporary file, read from the first on. The file goes with this.
#[derive(Debug)]
pub struct SpooledOps {
    reader: SpoolReader,
    record: Vec<u8>,
}

impl OpSpool {
    /// Begins a file in a folder, for at most `limit` bytes.
    pub fn create(disk: &dyn Disk, folder: &Path, limit: u64) -> Result<Self> {
        Ok(Self { spool: Spool::create(disk, folder, limit)?, record: Vec::new() })
    }

    /// Adds an operation. One that goes past the limit is refused with `Full`.
    pub fn push(&mut self, op: &WriteOp) -> Result<()> {
        self.record.clear();
        encode(op, &mut self.record);
        self.spool.push(&self.record)?;
        shrink(&mut self.record);
        Ok(())
    }

    /// The bytes that the file holds.
    pub fn bytes(&self) -> u64 {
        self.spool.bytes()
    }

    /// How many operations it holds.
    pub fn count(&self) -> u64 {
        self.spool.records()
    }

    /// Ends writing.
    pub fn finish(self) -> Result<SpooledOps> {
        Ok(SpooledOps { reader: self.spool.into_reader()?, record: Vec::new() })
    }
}

impl SpooledOps {
    /// Reads the next operation; `None` after the last.
    pub fn next_op(&mut self) -> Result<Option<WriteOp>> {
        if !self.reader.next(&mut self.record)? {
            return Ok(None);
        }
        let mut rest = &self.record[..];
        let op = decode(&mut rest).filter(|_| rest.is_empty());
        let op = op.ok_or_else(|| Error::new(ErrorKind::Corrupt, "a spooled operation is cut"))?;
        shrink(&mut self.record);
        Ok(Some(op))
    }

    /// Goes back to the first operation.
    pub fn rewind(&mut self) -> Result<()> {
        Ok(self.reader.rewind()?)
    }

    /// How many operations there are, read or not.
    pub fn count(&self) -> u64 {
        self.reader.records()
    }
}

fn shrink(record: &mut Vec<u8>) {
    record.clear();
    record.shrink_to(KEPT_BUFFER_BYTES);
}

impl From<SpoolError> for Error {
    fn from(source: SpoolError) -> Self {
        let kind = match source {
            SpoolError::Full { .. } => ErrorKind::Full,
            SpoolError::Damaged { .. } => ErrorKind::Corrupt,
            _ => ErrorKind::Io,
        };
        let cause = match &source {
            SpoolError::Io { source, .. } => format!(": {source}"),
            _ => String::new(),
        };
        Self::new(kind, format!("{source}{cause}")).with_source(source)
    }
}

fn encode(op: &WriteOp, out: &mut Vec<u8>) {
    match op {
        WriteOp::Clear => out.push(CLEAR),
        WriteOp::ClearRows { table } => {
            out.push(CLEAR_ROWS);
            put_length(*table, out);
        }
        WriteOp::Delete { id, condition } => begin(DELETE, id, *condition, out),
        WriteOp::Upsert { id, source, condition } => {
            begin(UPSERT, id, *condition, out);
            put_bytes(source, out);
        }
        WriteOp::Patch { id, previous_id, patch: Patch::Keep { source, keep }, condition } => {
            begin(KEEP, id, *condition, out);
            put_option(previous_id.as_deref().map(str::as_bytes), out);
            put_bytes(source, out);
            put_length(keep.len(), out);
            for field in keep {
                put_bytes(field.as_bytes(), out);
            }
        }
        WriteOp::Patch { id, previous_id, patch, condition } => {
            let Patch::Merge { source, upsert, detect_noop } = patch else { return };
            begin(MERGE, id, *condition, out);
            put_option(previous_id.as_deref().map(str::as_bytes), out);
            put_bytes(source, out);
            put_option(upsert.as_deref(), out);
            out.push(u8::from(*detect_noop));
        }
    }
}

fn begin(tag: u8, id: &str, condition: Condition, out: &mut Vec<u8>) {
    out.push(tag);
    put_bytes(id.as_bytes(), out);
    match condition {
        Condition::None => out.push(0),
        Condition::Absent => out.push(1),
        Condition::LastChange { seq_no, term } => {
            out.push(2);
            out.extend_from_slice(&seq_no.0.to_le_bytes());
            out.extend_from_slice(&term.to_le_bytes());
        }
        Condition::External { version, or_equal } => {
            out.push(if or_equal { 4 } else { 3 });
            out.extend_from_slice(&version.to_le_bytes());
        }
    }
}

/// The spool refuses a record of 4 GiB, so a length that does not fit is never read.
fn put_length(length: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
}

fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    put_length(bytes.len(), out);
    out.extend_from_slice(bytes);
}

fn put_option(bytes: Option<&[u8]>, out: &mut Vec<u8>) {
    out.push(u8::from(bytes.is_some()));
    if let Some(bytes) = bytes {
        put_bytes(bytes, out);
    }
}

fn decode(rest: &mut &[u8]) -> Option<WriteOp> {
    let tag = take_byte(rest)?;
    if tag == CLEAR {
        return Some(WriteOp::Clear);
    }
    if tag == CLEAR_ROWS {
        return Some(WriteOp::ClearRows { table: take_length(rest)? });
    }
    let id = take_text(rest)?;
    let condition = match take_byte(rest)? {
        0 => Condition::None,
        1 => Condition::Absent,
        2 => Condition::LastChange { seq_no: SeqNo(take_u64(rest)?), term: take_u64(rest)? },
        kind @ (3 | 4) => Condition::External { version: take_u64(rest)?, or_equal: kind == 4 },
        _ => return None,
    };
    match tag {
        DELETE => Some(WriteOp::Delete { id, condition }),
        UPSERT => {
            let source = Bytes::copy_from_slice(take_bytes(rest)?);
            Some(WriteOp::Upsert { id, source, condition })
        }
        KEEP | MERGE => {
            let previous_id = match take_byte(rest)? {
                0 => None,
                _ => Some(take_text(rest)?),
            };
            let source = Bytes::copy_from_slice(take_bytes(rest)?);
            let patch = if tag == KEEP {
                let count = take_length(rest)?;
                let keep = (0..count).map(|_| take_text(rest)).collect::<Option<_>>()?;
                Patch::Keep { source, keep }
            } else {
                let upsert = match take_byte(rest)? {
                    0 => None,
                    _ => Some(Bytes::copy_from_slice(take_bytes(rest)?)),
                };
                Patch::Merge { source, upsert, detect_noop: take_byte(rest)? != 0 }
            };
            Some(WriteOp::Patch { id, previous_id, patch, condition })
        }
        _ => None,
    }
}

fn take_byte(rest: &mut &[u8]) -> Option<u8> {
    let (&byte, after) = rest.split_first()?;
    *rest = after;
    Some(byte)
}

fn take_u64(rest: &mut &[u8]) -> Option<u64> {
    let (bytes, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(u64::from_le_bytes(*bytes))
}

fn take_length(rest: &mut &[u8]) -> Option<usize> {
    let (bytes, after) = rest.split_first_chunk()?;
    *rest = after;
    usize::try_from(u32::from_le_bytes(*bytes)).ok()
}

fn take_bytes<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = take_length(rest)?;
    let (bytes, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(bytes)
}

fn take_text(rest: &mut &[u8]) -> Option<String> {
    String::from_utf8(take_bytes(rest)?.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use egret_aof::disk::sim::SimDisk;
    use proptest::prelude::*;

    use super::*;

    fn op() -> impl Strategy<Value = WriteOp> {
        let condition = prop_oneof![
            Just(Condition::None),
            Just(Condition::Absent),
            (any::<u64>(), any::<u64>())
                .prop_map(|(seq_no, term)| Condition::LastChange { seq_no: SeqNo(seq_no), term }),
        ];
        let source = || prop::collection::vec(any::<u8>(), 0..30).prop_map(Bytes::from);
        let patch = prop_oneof![
            (source(), prop::collection::vec(".{0,5}", 0..4))
                .prop_map(|(source, keep)| Patch::Keep { source, keep }),
            (source(), prop::option::of(source()), any::<bool>()).prop_map(
                |(source, upsert, detect_noop)| Patch::Merge { source, upsert, detect_noop }
            ),
        ];
        let parts = (".{0,20}", condition, source(), prop::option::of(".{0,5}"), patch);
        (0..5, parts).prop_map(|(which, (id, condition, source, previous_id, patch))| match which {
            0 => WriteOp::Clear,
            4 => WriteOp::ClearRows { table: id.len() },
            1 => WriteOp::Delete { id, condition },
            2 => WriteOp::Upsert { id, source, condition },
            _ => WriteOp::Patch { id, previous_id, patch, condition },
        })
    }

    proptest! {
        #[test]
        fn operations_come_back(ops in prop::collection::vec(op(), 0..20)) {
            let mut spool = OpSpool::create(&SimDisk::new(), Path::new("/"), u64::MAX).unwrap();
            for op in &ops {
                spool.push(op).unwrap();
            }
            prop_assert_eq!(spool.count(), ops.len() as u64);
            let mut read = spool.finish().unwrap();
            for _ in 0..2 {
                for op in &ops {
                    let again = read.next_op().unwrap().unwrap();
                    prop_assert_eq!(format!("{again:?}"), format!("{op:?}"));
                }
                prop_assert!(read.next_op().unwrap().is_none());
                read.rewind().unwrap();
            }
        }

        #[test]
        fn a_cut_record_is_no_operation(op in op()) {
            let mut whole = Vec::new();
            encode(&op, &mut whole);
            for length in 0..whole.len() {
                prop_assert!(decode(&mut &whole[..length]).is_none());
            }
        }
    }

    #[test]
    fn a_limit_is_named() {
        let mut spool = OpSpool::create(&SimDisk::new(), Path::new("/"), 30).unwrap();
        spool.push(&WriteOp::Clear).unwrap();
        let condition = Condition::None;
        let error = spool.push(&WriteOp::Delete { id: "x".repeat(30), condition }).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Full);
        assert_eq!((spool.count(), spool.bytes()), (1, 9));
    }
}
