//! Where an index's segment files are: young ones in memory, committed ones mapped from disk.
//!
//! [`StoreDirectory`] is the `Directory` that tantivy sees. Files are grouped by segment
//! ([`SegmentFiles`]): whoever needs a segment (the writer's list, a reader inside a published
//! snapshot, a running merge or flush) holds its `Arc`, and the files go when the last holder lets
//! go, unless the durable `commit.json` names them. So tantivy's own garbage collection has
//! nothing to do here: its deletions are ignored, and `meta.json` and `.managed.json` never reach
//! the disk.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use egret_aof::disk::{Disk, DiskFile, FileBytes};
use parking_lot::{Mutex, RwLock};
use rustc_hash::FxHashMap;
use tantivy::HasLen;
use tantivy::directory::error::{DeleteError, LockError, OpenReadError, OpenWriteError};
use tantivy::directory::{
    AntiCallToken, Directory, DirectoryLock, FileHandle, Lock, OwnedBytes, TerminatingWrite,
    WatchCallback, WatchHandle, WritePtr,
};

use super::removal::remove_soon;
use super::throttle::Pace;
use crate::error::{Error, ErrorKind};

/// Tantivy's name for the list of segments.
pub(super) const META: &str = "meta.json";

/// The directory of one index.
#[derive(Clone)]
pub(crate) struct StoreDirectory(Arc<Home>);

struct Home {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    /// Segments by their id's 32 hexadecimal digits. Guards only the map; held for look-ups.
    segments: RwLock<FxHashMap<String, Weak<SegmentFiles>>>,
    /// What tantivy reads and writes as `meta.json`.
    meta: RwLock<Arc<[u8]>>,
}

/// The files of one segment. They are removed when the last `Arc` is dropped, unless committed.
pub(crate) struct SegmentFiles {
    id: String,
    home: Arc<Home>,
    /// New files are written straight to disk, at this pace: outputs of large merges.
    to_disk: Option<Arc<Pace>>,
    /// By full name. Guards only the map; nothing slow is done under it.
    files: RwLock<BTreeMap<String, StoredFile>>,
    /// Whether the `commit.json` on disk names these files.
    committed: AtomicBool,
    /// Whether a file was found not to be what its checksum says.
    damaged: AtomicBool,
}

/// One finished file.
#[derive(Clone, Debug)]
pub(crate) struct StoredFile {
    /// Its content, in memory or mapped.
    pub(crate) bytes: OwnedBytes,
    /// CRC-32C of the content.
    pub(crate) crc32c: u32,
    /// Whether the content is on disk and synced (the folder may not be yet).
    pub(crate) on_disk: bool,
}

impl StoreDirectory {
    pub(crate) fn new(disk: Arc<dyn Disk>, folder: PathBuf) -> Self {
        let (segments, meta) = (RwLock::default(), RwLock::new(Arc::from(&b""[..])));
        Self(Arc::new(Home { disk, folder, segments, meta }))
    }

    pub(crate) fn disk(&self) -> &dyn Disk {
        &*self.0.disk
    }

    /// Removes a file of the folder, soon.
    pub(super) fn remove_soon(&self, name: &str) {
        remove_soon(&self.0.disk, self.0.folder.join(name));
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.0.folder
    }

    pub(crate) fn set_meta(&self, meta: &[u8]) {
        *self.0.meta.write() = Arc::from(meta);
    }

    /// Makes room for a new segment's files; tantivy may write them from now on.
    pub(crate) fn adopt(&self, id: String, to_disk: Option<Arc<Pace>>) -> Arc<SegmentFiles> {
        let files = Arc::new(SegmentFiles {
            id: id.clone(),
            home: Arc::clone(&self.0),
            to_disk,
            files: RwLock::default(),
            committed: AtomicBool::new(false),
            damaged: AtomicBool::new(false),
        });
        self.0.segments.write().insert(id, Arc::downgrade(&files));
        files
    }

    fn segment_of(&self, path: &Path) -> Option<(Arc<SegmentFiles>, String)> {
        let name = path.to_str()?;
        let (id, _) = name.split_once('.')?;
        let segment = self.0.segments.read().get(id)?.upgrade()?;
        Some((segment, name.to_owned()))
    }
}

impl SegmentFiles {
    /// Registers a file that a commit names, mapped from disk.
    pub(crate) fn register(&self, name: &str, crc32c: u32) -> io::Result<()> {
        let bytes = map(&*self.home.disk, &self.home.folder.join(name))?;
        let file = StoredFile { bytes, crc32c, on_disk: true };
        self.files.write().insert(name.to_owned(), file);
        Ok(())
    }

    /// The finished files by name.
    pub(crate) fn files(&self) -> BTreeMap<String, StoredFile> {
        self.files.read().clone()
    }

    /// Bytes of all files, and of those that are only in memory.
    pub(crate) fn sizes(&self) -> (u64, u64) {
        let files = self.files.read();
        let size = |file: &StoredFile| file.bytes.len() as u64;
        let memory = files.values().filter(|file| !file.on_disk).map(size).sum();
        (files.values().map(size).sum(), memory)
    }

    /// Whether the `commit.json` on disk names these files.
    pub(crate) fn is_committed(&self) -> bool {
        self.committed.load(Ordering::Acquire)
    }

    /// Says whether the durable commit names these files.
    pub(crate) fn set_committed(&self, committed: bool) {
        self.committed.store(committed, Ordering::Release);
    }

    /// Reads every file that is on disk as a whole and compares it with its checksum.
    pub(crate) fn verify(&self) -> crate::Result<()> {
        for (name, file) in self.files() {
            if !file.on_disk || crc32c::crc32c(&file.bytes) == file.crc32c {
                continue;
            }
            self.damaged.store(true, Ordering::Release);
            let path = self.home.folder.join(&name);
            let message = format!("[{}] is damaged: its checksum differs", path.display());
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        Ok(())
    }

    /// Whether [`SegmentFiles::verify`] has found damage.
    pub(crate) fn is_damaged(&self) -> bool {
        self.damaged.load(Ordering::Acquire)
    }

    /// Writes and syncs the files that are only in memory, and maps them. The folder is not synced.
    pub(crate) fn persist(&self) -> io::Result<()> {
        for (name, file) in self.files() {
            if file.on_disk {
                continue;
            }
            let path = self.home.folder.join(&name);
            write_synced(&*self.home.disk, &path, &file.bytes)?;
            self.register(&name, file.crc32c)?;
        }
        Ok(())
    }

    fn finish(&self, name: String, file: StoredFile) {
        self.files.write().insert(name, file);
    }
}

impl Drop for SegmentFiles {
    fn drop(&mut self) {
        self.home.segments.write().remove(&self.id);
        if self.committed.load(Ordering::Acquire) {
            return;
        }
        for (name, file) in self.files.get_mut() {
            if file.on_disk {
                remove_soon(&self.home.disk, self.home.folder.join(name));
            }
        }
    }
}

/// Writes a file anew and syncs it. What an earlier failed attempt left is replaced.
pub(super) fn write_synced(disk: &dyn Disk, path: &Path, content: &[u8]) -> io::Result<()> {
    if disk.exists(path)? {
        disk.remove(path)?;
    }
    let mut file = disk.create(path)?;
    file.write_all(content)?;
    file.sync()
}

pub(super) fn map(disk: &dyn Disk, path: &Path) -> io::Result<OwnedBytes> {
    Ok(match disk.map(path)? {
        FileBytes::Mapped(map) => OwnedBytes::new(map),
        FileBytes::Memory(bytes) => OwnedBytes::new(bytes),
    })
}

/// A finished file as tantivy holds it; keeps the segment's files in place meanwhile.
struct PinnedFile {
    bytes: OwnedBytes,
    segment: Arc<SegmentFiles>,
}

impl FileHandle for PinnedFile {
    fn read_bytes(&self, range: Range<usize>) -> io::Result<OwnedBytes> {
        if range.start > range.end || range.end > self.bytes.len() {
            let message =
                format!("range {range:?} is outside a file of segment {:?}", self.segment);
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
        }
        Ok(self.bytes.slice(range))
    }
}

impl HasLen for PinnedFile {
    fn len(&self) -> usize {
        self.bytes.len()
    }
}

/// What is written in pieces comes in smaller ones.
const WHOLE_BYTES: usize = 8 << 10;

/// A file being written by tantivy.
struct FileWriter {
    segment: Arc<SegmentFiles>,
    name: String,
    crc32c: u32,
    sink: Sink,
}

enum Sink {
    Memory(Vec<u8>),
    /// The mutex only makes it `Sync`, as tantivy's writers must be.
    Disk(Mutex<Box<dyn DiskFile>>),
    Finished,
}

impl Write for FileWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = match &mut self.sink {
            Sink::Memory(buffer) => {
                // A part that was made as a whole, with room for what is small after it.
                if buffer.is_empty() && bytes.len() >= WHOLE_BYTES {
                    buffer.reserve_exact(bytes.len() + WHOLE_BYTES);
                }
                buffer.write(bytes)?
            }
            Sink::Disk(file) => {
                let written = file.get_mut().write(bytes)?;
                if let Some(pace) = &self.segment.to_disk {
                    pace.wrote(written);
                }
                written
            }
            Sink::Finished => return Err(io::Error::other("the file is finished")),
        };
        self.crc32c = crc32c::crc32c_append(self.crc32c, bytes.get(..written).unwrap_or(bytes));
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.sink {
            Sink::Disk(file) => file.get_mut().flush(),
            Sink::Memory(_) | Sink::Finished => Ok(()),
        }
    }
}

impl TerminatingWrite for FileWriter {
    fn terminate_ref(&mut self, _: AntiCallToken) -> io::Result<()> {
        let home = &self.segment.home;
        let (bytes, on_disk) = match &mut self.sink {
            Sink::Memory(buffer) => {
                let mut buffer = std::mem::take(buffer);
                // It may take a copy.
                if buffer.capacity() - buffer.len() > buffer.len() / 32 {
                    buffer.shrink_to_fit();
                }
                (OwnedBytes::new(buffer), false)
            }
            Sink::Disk(file) => {
                file.get_mut().sync()?;
                (map(&*home.disk, &home.folder.join(&self.name))?, true)
            }
            Sink::Finished => return Err(io::Error::other("the file is finished")),
        };
        self.sink = Sink::Finished;
        let file = StoredFile { bytes, crc32c: self.crc32c, on_disk };
        self.segment.finish(self.name.clone(), file);
        Ok(())
    }
}

impl Drop for FileWriter {
    fn drop(&mut self) {
        if matches!(self.sink, Sink::Disk(_)) {
            let path = self.segment.home.folder.join(&self.name);
            if let Err(error) = self.segment.home.disk.remove(&path) {
                tracing::debug!(%error, file = %self.name, "an unfinished file is left");
            }
        }
    }
}

impl Directory for StoreDirectory {
    fn get_file_handle(&self, path: &Path) -> Result<Arc<dyn FileHandle>, OpenReadError> {
        let missing = || OpenReadError::FileDoesNotExist(path.to_owned());
        let (segment, name) = self.segment_of(path).ok_or_else(missing)?;
        let bytes = segment.files.read().get(&name).map(|file| file.bytes.clone());
        let bytes = bytes.ok_or_else(missing)?;
        Ok(Arc::new(PinnedFile { bytes, segment }))
    }

    fn delete(&self, _: &Path) -> Result<(), DeleteError> {
        Ok(())
    }

    fn exists(&self, path: &Path) -> Result<bool, OpenReadError> {
        let segment = self.segment_of(path);
        let known = segment.is_some_and(|(files, name)| files.files.read().contains_key(&name));
        Ok(known || path == Path::new(META))
    }

    fn open_write(&self, path: &Path) -> Result<WritePtr, OpenWriteError> {
        let failed = |error| OpenWriteError::wrap_io_error(error, path.to_owned());
        let (segment, name) = self
            .segment_of(path)
            .ok_or_else(|| failed(io::Error::other("the file belongs to no open segment")))?;
        let sink = if segment.to_disk.is_some() {
            let file = self.0.disk.create(&self.0.folder.join(&name)).map_err(failed)?;
            Sink::Disk(Mutex::new(file))
        } else {
            Sink::Memory(Vec::new())
        };
        let writer = FileWriter { segment, name, crc32c: 0, sink };
        Ok(io::BufWriter::new(Box::new(writer)))
    }

    fn atomic_read(&self, path: &Path) -> Result<Vec<u8>, OpenReadError> {
        if path == Path::new(META) {
            return Ok(self.0.meta.read().to_vec());
        }
        Err(OpenReadError::FileDoesNotExist(path.to_owned()))
    }

    fn atomic_write(&self, path: &Path, data: &[u8]) -> io::Result<()> {
        if path == Path::new(META) {
            self.set_meta(data);
        }
        Ok(())
    }

    fn sync_directory(&self) -> io::Result<()> {
        Ok(())
    }

    fn acquire_lock(&self, _: &Lock) -> Result<DirectoryLock, LockError> {
        Ok(DirectoryLock::from(Box::new(())))
    }

    fn watch(&self, _: WatchCallback) -> tantivy::Result<WatchHandle> {
        Ok(WatchHandle::empty())
    }
}

/// What a merge writes to: segment files go to the index's directory, under an id that tantivy
/// chooses; the `meta.json` of the throw-away index around them stays here.
#[derive(Clone)]
pub(super) struct MergeOutput {
    directory: StoreDirectory,
    to_disk: Option<Arc<Pace>>,
    state: Arc<Mutex<MergeState>>,
}

#[derive(Default)]
struct MergeState {
    meta: Option<Vec<u8>>,
    segment: Option<Arc<SegmentFiles>>,
}

impl MergeOutput {
    pub(super) fn new(directory: StoreDirectory, to_disk: Option<Arc<Pace>>) -> Self {
        Self { directory, to_disk, state: Arc::default() }
    }

    /// The segment that was written.
    pub(super) fn into_segment(self) -> Option<Arc<SegmentFiles>> {
        self.state.lock().segment.take()
    }
}

impl Directory for MergeOutput {
    fn get_file_handle(&self, path: &Path) -> Result<Arc<dyn FileHandle>, OpenReadError> {
        self.directory.get_file_handle(path)
    }

    fn delete(&self, _: &Path) -> Result<(), DeleteError> {
        Ok(())
    }

    fn exists(&self, path: &Path) -> Result<bool, OpenReadError> {
        if path == Path::new(META) {
            return Ok(self.state.lock().meta.is_some());
        }
        self.directory.exists(path)
    }

    fn open_write(&self, path: &Path) -> Result<WritePtr, OpenWriteError> {
        let name = path.to_string_lossy();
        let id = name.split_once('.').map_or(&*name, |(id, _)| id);
        let mut state = self.state.lock();
        if state.segment.as_ref().is_none_or(|segment| segment.id != id) {
            state.segment = Some(self.directory.adopt(id.to_owned(), self.to_disk.clone()));
        }
        drop(state);
        self.directory.open_write(path)
    }

    fn atomic_read(&self, path: &Path) -> Result<Vec<u8>, OpenReadError> {
        let meta = (path == Path::new(META)).then(|| self.state.lock().meta.clone()).flatten();
        meta.ok_or_else(|| OpenReadError::FileDoesNotExist(path.to_owned()))
    }

    fn atomic_write(&self, path: &Path, data: &[u8]) -> io::Result<()> {
        if path == Path::new(META) {
            self.state.lock().meta = Some(data.to_vec());
        }
        Ok(())
    }

    fn sync_directory(&self) -> io::Result<()> {
        Ok(())
    }

    fn acquire_lock(&self, _: &Lock) -> Result<DirectoryLock, LockError> {
        Ok(DirectoryLock::from(Box::new(())))
    }

    fn watch(&self, _: WatchCallback) -> tantivy::Result<WatchHandle> {
        Ok(WatchHandle::empty())
    }
}

/// Removes every file of the folder that is not in `keep`; folders stay.
pub(super) fn remove_strangers(
    disk: &dyn Disk,
    folder: &Path,
    keep: &HashSet<&str>,
    folders: &[&str],
) -> io::Result<()> {
    for name in disk.list(folder)? {
        if keep.contains(name.as_str()) || folders.contains(&name.as_str()) {
            continue;
        }
        tracing::info!(file = %name, "removing a file that the commit does not name");
        match disk.remove(&folder.join(&name)) {
            // An index that was open before in this process was about to remove it as well.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => removed?,
        }
    }
    Ok(())
}

impl fmt::Debug for StoreDirectory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreDirectory({})", self.0.folder.display())
    }
}

impl fmt::Debug for MergeOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MergeOutput({:?})", self.directory)
    }
}

impl fmt::Debug for SegmentFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id)
    }
}

impl fmt::Debug for PinnedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PinnedFile({:?}, {} bytes)", self.segment, self.bytes.len())
    }
}
