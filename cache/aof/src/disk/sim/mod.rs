//! A simulated disk for tests: it keeps files in memory, knows what was synced, forgets the rest
//! at a power cut, and fails on demand.
//!
//! What a power cut leaves is everything that was synced and, of the rest, a seeded random subset:
//! - a file: its content at the last sync, with any later writes kept, lost, torn, kept by sectors,
//!   or replaced by zeroes of the same length (a preallocated or half-journalled tail);
//! - a folder: its names at the last [`Disk::sync_folder`], with any later creations, removals and
//!   renames kept or lost, in any combination; a rename inside one folder is kept or lost whole;
//! - a file or folder that no surviving name leads to is gone, synced or not.
//!
//! The same calls and the same seeds always give the same disk.
//!
//! ```
//! use std::io::Write;
//! use std::path::Path;
//! use egret_aof::disk::{Disk, sim::SimDisk};
//!
//! let disk = SimDisk::new();
//! let mut file = disk.create(Path::new("a")).unwrap();
//! file.write_all(b"kept").unwrap();
//! file.sync().unwrap();
//! disk.sync_folder(Path::new("/")).unwrap();
//! file.write_all(b" or not").unwrap();
//! let after = disk.power_cut(7);
//! assert!(after.read(Path::new("a")).unwrap().starts_with(b"kept"));
//! assert!(file.sync().is_err());
//! ```

mod fault;
mod node;
#[cfg(test)]
mod tests;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

pub use fault::Fault;
use fault::Operation;
use node::{Change, FileNode, Node, NodeId, State};

use super::{Disk, DiskFile, FileBytes};

/// A disk in memory. Clones share the same disk.
#[derive(Debug, Clone, Default)]
pub struct SimDisk {
    /// Guards the whole disk; nothing else is called under it.
    state: Arc<Mutex<State>>,
}

impl SimDisk {
    /// An empty disk: only the root folder `/`. Relative paths start there too.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cuts the power: every further use of this disk and of its open files fails; the returned
    /// disk holds what may have survived, chosen by the seed.
    #[must_use = "the disk itself is dead afterwards"]
    pub fn power_cut(&self, seed: u64) -> Self {
        let mut state = self.state.lock();
        state.dead = true;
        Self { state: Arc::new(Mutex::new(state.surviving(seed))) }
    }

    /// Kills the process that uses this disk: every further use of this disk and of its open files
    /// fails; the returned disk holds everything that was done, synced or not, as the page cache
    /// does. A later [`power_cut`](Self::power_cut) may still take what was not synced.
    #[must_use = "the disk itself is dead afterwards"]
    pub fn kill(&self) -> Self {
        let mut state = self.state.lock();
        state.dead = true;
        Self { state: Arc::new(Mutex::new(state.after_kill())) }
    }

    /// The number of operations so far: every call to a [`Disk`] or [`DiskFile`] method that
    /// reaches the disk is one.
    pub fn operations(&self) -> u64 {
        self.state.lock().operations
    }

    /// Lets the operation numbered `at` (the first is 0; or the first one after it that the fault
    /// fits) fail once.
    pub fn fail_at(&self, at: u64, fault: Fault) {
        self.state.lock().faults.push((at, fault, false));
    }

    /// Lets every operation that the fault fits fail, from operation `at` on, until
    /// [`heal`](Self::heal).
    pub fn fail_from(&self, at: u64, fault: Fault) {
        self.state.lock().faults.push((at, fault, true));
    }

    /// Forgets all faults that were asked for and not yet met.
    pub fn heal(&self) {
        self.state.lock().faults.clear();
    }

    /// Limits the sum of all file lengths; a write past it stops short and then fails with
    /// `StorageFull`.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state.lock().capacity = bytes;
    }

    /// Replaces a file's content as if it had been damaged on the disk (bit rot, a bad sector).
    pub fn damage(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let mut state = self.state.lock();
        let id = state.find(path)?;
        let file = state.file(id)?;
        *file = FileNode { current: content.to_vec(), durable: content.to_vec(), pending: vec![] };
        Ok(())
    }

    /// Runs one operation other than a write or a file's sync, minding faults.
    fn run<T>(
        &self,
        operation: Operation,
        work: impl FnOnce(&mut State) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut state = self.state.lock();
        match state.begin(operation)? {
            None => work(&mut state),
            Some(fault) => {
                if fault == Fault::PowerCut && state.coin() {
                    work(&mut state)?;
                }
                Err(fault.to_error())
            }
        }
    }

    fn handle(&self, id: NodeId) -> Box<dyn DiskFile> {
        Box::new(SimFile { disk: self.clone(), id })
    }
}

impl Disk for SimDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let id =
            self.run(Operation::Create, |state| state.add(path, Node::File(FileNode::default())))?;
        Ok(self.handle(id))
    }

    fn open_append(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let id = self.run(Operation::Read, |state| {
            let id = state.find(path)?;
            state.file(id).map(|_| id)
        })?;
        Ok(self.handle(id))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.run(Operation::Read, |state| {
            let id = state.find(path)?;
            Ok(state.file(id)?.current.clone())
        })
    }

    fn map(&self, path: &Path) -> io::Result<FileBytes> {
        Ok(FileBytes::Memory(self.read(path)?.into()))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.run(Operation::Names, |state| state.rename(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.run(Operation::Names, |state| {
            let id = state.find(path)?;
            state.file(id)?;
            state.unlink(path)
        })
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        self.run(Operation::Names, |state| match state.find(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(id) => {
                state.empty_folder(id)?;
                state.unlink(path)
            }
        })
    }

    fn create_folder(&self, path: &Path) -> io::Result<()> {
        self.run(Operation::Create, |state| state.add_folders(path))
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        self.run(Operation::Read, |state| {
            let id = state.find(folder)?;
            Ok(state.folder(id)?.current.keys().cloned().collect())
        })
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.run(Operation::Read, |state| match state.find(path) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        })
    }

    fn len(&self, path: &Path) -> io::Result<u64> {
        self.run(Operation::Read, |state| {
            let id = state.find(path)?;
            Ok(state.file(id)?.current.len() as u64)
        })
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        self.run(Operation::SyncFolder, |state| {
            let id = state.find(folder)?;
            state.folder(id)?.sync();
            Ok(())
        })
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        self.run(Operation::Names, |state| {
            if state.find(path).is_err() {
                state.add(path, Node::File(FileNode::default()))?;
            }
            if !state.locks.insert(path.to_path_buf()) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Ok(())
        })?;
        Ok(Box::new(LockGuard { disk: self.clone(), path: path.to_path_buf() }))
    }
}

/// Gives a lock back when dropped.
struct LockGuard {
    disk: SimDisk,
    path: PathBuf,
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        self.disk.state.lock().locks.remove(&self.path);
    }
}

/// An open file. It stays usable when its name is removed, as on a real system.
#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    id: NodeId,
}

impl Write for SimFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.disk.state.lock();
        let fault = state.begin(Operation::Write)?;
        let some = state.random_below(bytes.len());
        let (taken, result) = match fault {
            None => {
                let taken = state.free_bytes().min(bytes.len());
                let full = taken == 0 && !bytes.is_empty();
                (taken, if full { Err(Fault::NoSpace.to_error()) } else { Ok(taken) })
            }
            // A short write takes at least a byte: none would mean the end of the file.
            Some(Fault::ShortWrite) => {
                let taken = some.max(1).min(bytes.len());
                (taken, Ok(taken))
            }
            Some(fault @ (Fault::TornWrite | Fault::PowerCut)) => (some, Err(fault.to_error())),
            Some(fault) => (0, Err(fault.to_error())),
        };
        let file = state.file(self.id)?;
        let offset = file.current.len();
        let written = bytes.get(..taken).unwrap_or_default().to_vec();
        file.change(Change::Write { offset, bytes: written });
        result
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl DiskFile for SimFile {
    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        match state.begin(Operation::SyncFile)? {
            None => {
                state.file(self.id)?.sync();
                Ok(())
            }
            Some(Fault::PowerCut) => Err(Fault::PowerCut.to_error()),
            Some(fault) => {
                // The kernel reports the error once and counts the pages as clean: some reached
                // the disk, the others never will.
                let mut random = state.random();
                state.file(self.id)?.lose_pages(&mut random);
                Err(fault.to_error())
            }
        }
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
        self.disk.run(Operation::Read, |state| {
            let content = &state.file(self.id)?.current;
            let from = usize::try_from(offset).map_or(content.len(), |at| at.min(content.len()));
            let found = content.get(from..).unwrap_or_default();
            let count = found.len().min(bytes.len());
            for (place, byte) in bytes.iter_mut().zip(found) {
                *place = *byte;
            }
            Ok(count)
        })
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).map_err(io::Error::other)?;
        let id = self.id;
        self.disk.run(Operation::Truncate, |state| {
            state.file(id)?.change(Change::Truncate(len));
            Ok(())
        })
    }

    fn len(&self) -> u64 {
        let mut state = self.disk.state.lock();
        state.file(self.id).map_or(0, |file| file.current.len() as u64)
    }
}
