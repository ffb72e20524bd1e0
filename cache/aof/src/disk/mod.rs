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
use std::path::Path;
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
/// The folder's own name is synced even where it exists: a process that was killed may have created
/// it without reaching the sync.
pub fn create_folder_durably(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    let mut parents = Vec::new();
    for folder in path.ancestors() {
        let existed = disk.exists(folder)?;
        if let Some(parent) = folder.parent() {
            parents.push(parent);
        }
        if existed {
            break;
        }
    }
    disk.create_folder(path)?;
    parents.iter().rev().try_for_each(|parent| disk.sync_folder(parent))
}

/// Replaces a small file atomically and durably: a temporary file beside it is written and synced,
/// renamed over it, and the folder synced.
pub fn replace_file(disk: &dyn Disk, path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().ok_or_else(|| io::Error::other("path has no parent folder"))?;
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".tmp");
    let temporary = folder.join(name);
    if disk.exists(&temporary)? {
        disk.remove(&temporary)?;
    }
    let mut file = disk.create(&temporary)?;
    file.write_all(content)?;
    file.sync()?;
    drop(file);
    disk.rename(&temporary, path)?;
    disk.sync_folder(folder)
}
