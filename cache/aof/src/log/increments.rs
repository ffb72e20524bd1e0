//! The set of files: starting a new increment, dropping old ones, going on after a failure.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::frame::{Header, Role};
use super::manifest::{Manifest, file_name};
use super::{Log, RecoveryReport, Size, Syncer, Writer};
use crate::disk::{Disk, DiskFile};
use crate::{Error, Result};

/// Names one increment of a log, as [`Log::roll`] returned it. Later ones are greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Increment(pub(super) u64);

/// The files of an open log.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) manifest: Manifest,
    /// Of every file but the current increment, by number.
    pub(super) sizes: BTreeMap<u64, Size>,
    next_number: u64,
}

impl Live {
    pub(super) fn new(manifest: Manifest, sizes: BTreeMap<u64, Size>, next_number: u64) -> Self {
        Self { manifest, sizes, next_number }
    }

    /// A number that no file has had, whether or not its creation succeeds.
    pub(super) fn take_number(&mut self) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        number
    }
}

/// Where the files lie.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) disk: &'a dyn Disk,
    pub(super) folder: &'a Path,
}

impl Place<'_> {
    /// Creates a file with its header; neither is durable yet.
    pub(super) fn create(&self, header: &Header) -> Result<(PathBuf, Box<dyn DiskFile>)> {
        let path = self.folder.join(file_name(header.role, header.number));
        let mut file = self.disk.create(&path).map_err(Error::io("create", &path))?;
        if let Err(source) = file.write_all(&header.encode()) {
            self.discard(&path);
            return Err(Error::Io { action: "write to", path, source });
        }
        Ok((path, file))
    }

    /// Creates an increment, makes it durable and opens it for writing and for syncing. No
    /// manifest names it yet.
    fn create_increment(&self, header: &Header) -> Result<(Writer, Syncer)> {
        let (path, mut file) = self.create(header)?;
        let durable = file
            .sync()
            .and_then(|()| self.disk.sync_folder(self.folder))
            .and_then(|()| self.disk.open_append(&path));
        match durable {
            Ok(second) => {
                Ok(open_files(file, second, path, header.first_sequence, header.first_sequence))
            }
            Err(source) => {
                self.discard(&path);
                Err(Error::Io { action: "sync", path, source })
            }
        }
    }

    /// Opens the last increment after a recovery, which has synced it; creates one if there is
    /// none.
    pub(super) fn open_last(
        &self,
        live: &mut Live,
        report: &RecoveryReport,
    ) -> Result<(Writer, Syncer)> {
        let next = report.next_sequence;
        if let Some(number) = live.manifest.increments.last() {
            let path = self.folder.join(file_name(Role::Increment, *number));
            let open = || self.disk.open_append(&path).map_err(Error::io("open", &path));
            let (file, second) = (open()?, open()?);
            let records = live.sizes.remove(number).unwrap_or_default().records;
            return Ok(open_files(file, second, path, next.saturating_sub(records), next));
        }
        let header = Header {
            role: Role::Increment,
            gap_before: live.manifest.base.is_some() || !report.lost.is_empty(),
            salt: live.manifest.salt,
            number: live.take_number(),
            first_sequence: next,
        };
        let opened = self.create_increment(&header)?;
        live.manifest.increments.push(header.number);
        live.manifest.store(self.disk, self.folder)?;
        Ok(opened)
    }

    /// Removes a file that nothing needs. If that fails, the next opening tries again.
    pub(super) fn discard(&self, path: &Path) {
        if let Err(error) = self.disk.remove(path) {
            tracing::warn!(file = %path.display(), %error, "cannot remove a file of the log");
        }
    }
}

/// Two handles of a file whose records before `next_sequence` are all synced.
fn open_files(
    file: Box<dyn DiskFile>,
    second: Box<dyn DiskFile>,
    path: PathBuf,
    first_sequence: u64,
    next_sequence: u64,
) -> (Writer, Syncer) {
    let writer = Writer {
        len: file.len(),
        file,
        path,
        first_sequence,
        next_sequence,
        durable_next: next_sequence,
        marked_next: first_sequence,
        spare: Vec::new(),
    };
    (writer, Syncer { file: second, durable_next: next_sequence, last_sync: Instant::now() })
}

impl Log {
    /// Starts a new increment: what was appended before this call is in older files, what is
    /// appended after it returns is in the new one. The older files are durable then.
    ///
    /// If the manifest is written and cannot be put in force, the log is poisoned, since it is unknown which
    /// increment a later recovery would end with.
    pub fn roll(&self) -> Result<Increment> {
        self.roll_under(&mut self.live.lock())
    }

    pub(super) fn roll_under(&self, live: &mut Live) -> Result<Increment> {
        let mut syncer = self.syncer.lock();
        let target = self.appender.lock().next_sequence;
        self.sync_before(&mut syncer, target)?;
        let mut writer = self.writer.lock();
        // What was appended since goes to the old file, too, or else the sequence would have a hole.
        self.drain(&mut writer)?;
        if writer.next_sequence > syncer.durable_next {
            if let Err(source) = syncer.file.sync() {
                self.poison(&writer.path);
                return Err(Error::Io { action: "sync", path: writer.path.clone(), source });
            }
            syncer.durable_next = writer.next_sequence;
            writer.durable_next = writer.next_sequence;
        }
        self.switch(live, &mut syncer, &mut writer, false)
    }

    /// Replaces the current increment by a new one. The caller has dealt with the old one.
    fn switch(
        &self,
        live: &mut Live,
        syncer: &mut Syncer,
        writer: &mut Writer,
        gap_before: bool,
    ) -> Result<Increment> {
        let header = Header {
            role: Role::Increment,
            gap_before,
            salt: self.salt,
            number: live.take_number(),
            first_sequence: writer.next_sequence,
        };
        let (new_writer, new_syncer) = self.place().create_increment(&header)?;
        let old = live.manifest.increments.last().copied();
        let mut manifest = live.manifest.clone();
        manifest.increments.push(header.number);
        let staged = manifest.stage(self.disk.as_ref(), &self.folder).inspect_err(|_| {
            self.place().discard(&new_writer.path);
        })?;
        staged.publish().inspect_err(|_| self.poison(&writer.path))?;
        live.manifest = manifest;
        if let Some(old) = old {
            live.sizes.insert(old, writer.size());
        }
        self.bytes.fetch_add(new_writer.len, Ordering::Relaxed);
        (*writer, *syncer) = (new_writer, new_syncer);
        Ok(Increment(header.number))
    }

    /// Drops the base and every increment before this one: the owner has what they hold elsewhere.
    pub fn remove_before(&self, increment: Increment) -> Result<()> {
        let mut live = self.live.lock();
        if !live.manifest.increments.contains(&increment.0) {
            return Err(Error::UnknownIncrement { number: increment.0 });
        }
        self.install(&mut live, None, increment)
    }

    /// Makes the log consist of the base, if any, and the increments from this one on.
    pub(super) fn install(
        &self,
        live: &mut Live,
        base: Option<(u64, Size)>,
        first: Increment,
    ) -> Result<()> {
        let mut manifest = live.manifest.clone();
        manifest.base = base.map(|(number, _)| number);
        manifest.increments.retain(|number| *number >= first.0);
        if manifest == live.manifest {
            return Ok(());
        }
        manifest.store(self.disk.as_ref(), &self.folder)?;
        let old = std::mem::replace(&mut live.manifest, manifest);
        if let Some((number, size)) = base {
            live.sizes.insert(number, size);
            self.bytes.fetch_add(size.bytes, Ordering::Relaxed);
            self.records.fetch_add(size.records, Ordering::Relaxed);
        }
        for (role, number) in old.files() {
            if live.manifest.files().all(|file| file != (role, number)) {
                let size = live.sizes.remove(&number).unwrap_or_default();
                self.bytes.fetch_sub(size.bytes, Ordering::Relaxed);
                self.records.fetch_sub(size.records, Ordering::Relaxed);
                self.place().discard(&self.folder.join(file_name(role, number)));
            }
        }
        Ok(())
    }

    /// Ends the poisoned state with a new increment. For owners that hold their whole state in
    /// memory: what the failed file lost is not in the log, so [`rewrite`](Self::rewrite) next.
    ///
    /// Records that were appended and never committed successfully are dropped.
    pub fn reopen_after_failure(&self) -> Result<Increment> {
        let mut live = self.live.lock();
        let mut syncer = self.syncer.lock();
        let mut writer = self.writer.lock();
        {
            let appender = self.appender.lock();
            if appender.poisoned.is_none() {
                return Err(Error::NotPoisoned { folder: self.folder.clone() });
            }
            // Nothing is appended while the log is poisoned, so this stays the next number.
            writer.next_sequence = appender.next_sequence;
        }
        let increment = self.switch(&mut live, &mut syncer, &mut writer, true)?;
        let mut appender = self.appender.lock();
        appender.buffer.clear();
        appender.poisoned = None;
        Ok(increment)
    }

    pub(super) fn place(&self) -> Place<'_> {
        Place { disk: self.disk.as_ref(), folder: &self.folder }
    }
}
