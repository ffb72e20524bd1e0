//! The file operations that durable state needs, as a trait, so that a test double can forget at a
//! power cut what was not synced.
//!
//! Rules that every implementation keeps and every caller relies on:
//! - bytes are durable after [`DiskFile::sync`]; a new, renamed or removed *name* is durable after
//!   [`Disk::sync_folder`] of its folder;
//! - a sync that failed says nothing about the bytes: the file must not be synced again;
//! - all paths are absolute or relative to the process; no implementation keeps a current folder.

mod real;
pub mod sim;

use std::fmt::Debug;
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use real::FileDisk;

/// A place for durable files: the real file system, or a simulated one in tests.
pub trait Disk: Send + Sync + Debug + 'static {
    /// Creates a new file for appending. Fails with `AlreadyExists` where the name is taken.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Opens an existing file for appending at its end.
    fn open_append(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// The whole content of a file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// The content of a file that will not change any more, mapped where the system can.
    fn map(&self, path: &Path) -> io::Result<FileBytes>;
    /// Atomically gives `from` the name `to`, replacing what `to` named.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes a folder and everything in it. A missing folder is no error.
    fn remove_folder(&self, path: &Path) -> io::Result<()>;
    /// Creates a folder and its missing parents.
    fn create_folder(&self, path: &Path) -> io::Result<()>;
    /// The names (not paths) of the files and folders in a folder, sorted. A name that is not UTF-8
    /// comes with replacement characters.
    fn list(&self, folder: &Path) -> io::Result<Vec<String>>;
    /// Whether a file or folder has this name.
    fn exists(&self, path: &Path) -> io::Result<bool>;
    /// The length of a file in bytes.
    fn len(&self, path: &Path) -> io::Result<u64>;
    /// Makes the names in a folder durable.
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;
    /// Takes an exclusive lock on a file, created if missing, until the guard is dropped or the
    /// process ends. Fails with `WouldBlock` where another holds it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>>;
}

/// A file open for appending.
pub trait DiskFile: io::Write + Send + Debug {
    /// Makes everything written so far durable (data and length).
    fn sync(&mut self) -> io::Result<()>;
    /// Reads from a position into `bytes`; how many came, 0 only at the end of the file.
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<usize>;
    /// Cuts the file to `len` bytes; later writes append there.
    fn truncate(&mut self, len: u64) -> io::Result<()>;
    /// The length in bytes, what was just written included.
    fn len(&self) -> u64;
    /// Whether the file has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The immutable bytes of one file.
#[derive(Debug)]
pub enum FileBytes {
    /// Mapped by the kernel: costs no anonymous memory.
    Mapped(memmap2::Mmap),
    /// A copy in memory.
    Memory(Arc<[u8]>),
}

impl Deref for FileBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Memory(bytes) => bytes,
        }
    }
}

/// Creates a folder and its missing parents and makes their names durable.
///
/// Works from the top down, each name durable before the next is made, so that only the lowest
/// existing folder can be one whose maker was stopped before the sync: its name is synced again.
pub fn create_folder_durably(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    let mut missing = Vec::new();
    for folder in path.ancestors() {
        if !disk.exists(folder)? {
            missing.push(folder);
            continue;
        }
        let synced = folder.parent().map_or(Ok(()), |parent| disk.sync_folder(parent));
        match synced {
            // Then we cannot have made it.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            other => other?,
        }
        break;
    }
    for folder in missing.into_iter().rev() {
        disk.create_folder(folder)?;
        folder.parent().map_or(Ok(()), |parent| disk.sync_folder(parent))?;
    }
    Ok(())
}

/// Replaces a small file atomically and durably: a temporary file beside it is written and synced,
/// renamed over it, and the folder synced.
pub fn replace_file(disk: &dyn Disk, path: &Path, content: &[u8]) -> io::Result<()> {
    replace_file_with(disk, path, |file| file.write_all(content))
}

/// As [`replace_file`], for content that is written piece by piece.
///
/// After a failure the old file is still in place, unless it is the rename or the sync of the
/// folder that failed: then either may be found after a power cut.
pub fn replace_file_with(
    disk: &dyn Disk,
    path: &Path,
    write: impl FnOnce(&mut dyn DiskFile) -> io::Result<()>,
) -> io::Result<()> {
    let temporary = write_temporary(disk, path, write)?;
    disk.rename(&temporary, path)?;
    disk.sync_folder(path.parent().unwrap_or(Path::new("")))
}

/// The first half of [`replace_file_with`]: writes and syncs the temporary file and returns its
/// path, which is that of the file with `.tmp` added.
pub fn write_temporary(
    disk: &dyn Disk,
    path: &Path,
    write: impl FnOnce(&mut dyn DiskFile) -> io::Result<()>,
) -> io::Result<PathBuf> {
    let mut temporary = path.as_os_str().to_os_string();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    if disk.exists(&temporary)? {
        disk.remove(&temporary)?;
    }
    let mut file = disk.create(&temporary)?;
    write(file.as_mut())?;
    file.sync()?;
    Ok(temporary)
}
