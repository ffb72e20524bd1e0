//! Rewriting: a new base written from the owner's memory while appends go on.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::frame::{Frame, HEADER_BYTES, Header, KIND_END, Role};
use super::{Increment, Log, LogOptions, Size, check_record};
use crate::disk::DiskFile;
use crate::{BoxError, Error, Result};

/// How much of a base is gathered before it is written.
const BUFFER_BYTES: usize = 256 << 10;
/// The longest back-off is 2 to this power times the shortest.
const MAX_BACKOFF_DOUBLINGS: u32 = 6;

/// How rewrites have been going.
#[derive(Debug, Default)]
pub(super) struct Rewriting {
    failures: u32,
    not_before: Option<Instant>,
}

/// Takes the records of a new base.
#[derive(Debug)]
pub struct BaseWriter {
    file: Box<dyn DiskFile>,
    path: PathBuf,
    salt: u64,
    options: LogOptions,
    buffer: Vec<u8>,
    size: Size,
    /// A write failed, so the file's end is unknown and the base must not be used.
    failed: bool,
}

impl BaseWriter {
    /// Adds a record to the base.
    pub fn append(&mut self, kind: u8, payload: &[u8]) -> Result<()> {
        check_record(&self.options, kind, payload)?;
        self.size.records += 1;
        self.push(kind, payload)
    }

    fn push(&mut self, kind: u8, payload: &[u8]) -> Result<()> {
        let sequence = self.size.records + u64::from(kind == KIND_END);
        Frame { sequence, kind, payload }.encode(self.salt, &mut self.buffer);
        if self.buffer.len() >= BUFFER_BYTES { self.write_out() } else { Ok(()) }
    }

    fn write_out(&mut self) -> Result<()> {
        if self.failed {
            return Err(Error::Poisoned { file: self.path.clone() });
        }
        if let Err(source) = self.file.write_all(&self.buffer) {
            self.failed = true;
            return Err(Error::Io { action: "write to", path: self.path.clone(), source });
        }
        self.size.bytes += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn finish(mut self) -> Result<Size> {
        self.push(KIND_END, &[])?;
        self.write_out()?;
        self.file.sync().map_err(Error::io("sync", &self.path))?;
        Ok(self.size)
    }
}

impl Log {
    /// Replaces all records so far by those that `write` adds to a new base, which must sum them up.
    ///
    /// A new increment begins first, then `write` runs, without any lock held that appends need.
    /// What the owner appends meanwhile is replayed after the base, so where the base has it
    /// already, replaying it again must do no harm. The old files go once the new base is durable;
    /// if anything fails they stay, and the next attempt is refused with [`Error::BackingOff`]
    /// until some time has passed, longer after each failure.
    pub fn rewrite(
        &self,
        write: impl FnOnce(&mut BaseWriter) -> Result<(), BoxError>,
    ) -> Result<()> {
        let Some(mut rewriting) = self.rewriting.try_lock() else {
            return Err(Error::RewriteUnderWay { folder: self.folder.clone() });
        };
        self.appender.lock().check_usable()?;
        let remaining = rewriting.not_before.map_or(Duration::ZERO, |not_before| {
            not_before.saturating_duration_since(Instant::now())
        });
        if !remaining.is_zero() {
            return Err(Error::BackingOff { failures: rewriting.failures, remaining });
        }
        let result = self.rewrite_now(write);
        if result.is_ok() {
            *rewriting = Rewriting::default();
        } else {
            let doublings = rewriting.failures.min(MAX_BACKOFF_DOUBLINGS);
            rewriting.failures = rewriting.failures.saturating_add(1);
            let delay = self.options.rewrite_backoff.saturating_mul(1 << doublings);
            rewriting.not_before = Instant::now().checked_add(delay);
        }
        result
    }

    fn rewrite_now(
        &self,
        write: impl FnOnce(&mut BaseWriter) -> Result<(), BoxError>,
    ) -> Result<()> {
        let (first, number, first_sequence) = {
            let mut live = self.live.lock();
            let first = self.roll_under(&mut live)?;
            let first_sequence = self.writer.lock().first_sequence;
            (first, live.take_number(), first_sequence)
        };
        let (gap_before, salt) = (false, self.salt);
        let header = Header { role: Role::Base, gap_before, salt, number, first_sequence };
        let (path, file) = self.place().create(&header)?;
        let size = match self.write_base(path.clone(), file, write) {
            Ok(size) => size,
            Err(error) => {
                self.place().discard(&path);
                return Err(error);
            }
        };
        let mut live = self.live.lock();
        if !live.manifest.increments.contains(&first.0) {
            // The owner has dropped meanwhile what this base sums up.
            self.place().discard(&path);
            return Ok(());
        }
        // A base stays even if this fails: the manifest on the disk may name it already.
        self.install(&mut live, Some((number, size)), first)
    }

    fn write_base(
        &self,
        path: PathBuf,
        file: Box<dyn DiskFile>,
        write: impl FnOnce(&mut BaseWriter) -> Result<(), BoxError>,
    ) -> Result<Size> {
        let mut base = BaseWriter {
            file,
            path,
            salt: self.salt,
            options: self.options.clone(),
            buffer: Vec::with_capacity(BUFFER_BYTES),
            size: Size { bytes: HEADER_BYTES as u64, records: 0 },
            failed: false,
        };
        write(&mut base).map_err(|source| Error::Rewrite { source })?;
        let size = base.finish()?;
        // The base may sum up records appended a moment ago. They must not be lost when it is not,
        // or their numbers would be given out again.
        self.sync()?;
        self.disk.sync_folder(&self.folder).map_err(Error::io("sync", &self.folder))?;
        Ok(size)
    }
}

impl Increment {
    /// The number in the increment's file name, for messages.
    pub fn number(self) -> u64 {
        self.0
    }
}
