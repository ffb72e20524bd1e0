//! A temporary file of records that do not fit into memory: written once, read back in order, gone
//! with its owner. It promises nothing after a crash; for that see [`log`](crate::log).
//!
//! Each record is its length and its CRC-32C, both `u32` little-endian, and its bytes. The file loses
//! its name as soon as it is open, so that nothing stays behind when the process is killed; what is
//! left of one that was killed between the two is removed by [`remove_leftovers`].
//!
//! ```
//! use egret_aof::disk::FileDisk;
//! use egret_aof::spool::Spool;
//!
//! # fn main() -> Result<(), egret_aof::spool::SpoolError> {
//! let mut spool = Spool::create(&FileDisk, &std::env::temp_dir(), 1 << 20)?;
//! spool.push(b"one")?;
//! spool.push(b"two")?;
//! let mut reader = spool.into_reader()?;
//! let mut record = Vec::new();
//! while reader.next(&mut record)? {
//!     println!("{}", String::from_utf8_lossy(&record));
//! }
//! # Ok(())
//! # }
//! ```

use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::disk::{Disk, DiskFile};

const SUFFIX: &str = ".spool";
const BUFFER_BYTES: usize = 128 << 10;
const FRAME_BYTES: usize = 8;

/// A failed operation on a spool.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpoolError {
    /// The file system refused an operation.
    #[error("cannot {action} spool {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The file system's error.
        source: io::Error,
    },
    /// The record does not fit any more. The spool is as it was before.
    #[error(
        "record of {record_bytes} bytes does not fit: spool holds {bytes} of at most {limit} bytes"
    )]
    Full {
        /// The size of the refused record.
        record_bytes: u64,
        /// What the spool holds.
        bytes: u64,
        /// The limit that it was created with.
        limit: u64,
    },
    /// What was read is not what was written.
    #[error("spool {} is damaged at byte {offset}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the damaged record begins.
        offset: u64,
    },
}

/// A spool that is being written.
#[derive(Debug)]
pub struct Spool {
    file: BufWriter<Box<dyn DiskFile>>,
    path: PathBuf,
    limit: u64,
    bytes: u64,
    records: u64,
    failed: bool,
}

impl Spool {
    /// Creates a spool in a folder, which must exist, for at most `limit` bytes with framing.
    pub fn create(disk: &dyn Disk, folder: &Path, limit: u64) -> Result<Self, SpoolError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!("{}-{number}{SUFFIX}", std::process::id()));
        let io = |action| {
            let path = path.clone();
            move |source| SpoolError::Io { action, path, source }
        };
        // Left by another process of this number.
        if disk.exists(&path).map_err(io("create"))? {
            disk.remove(&path).map_err(io("create"))?;
        }
        let file = disk.create(&path).map_err(io("create"))?;
        // The open file lives on without its name.
        disk.remove(&path).map_err(io("unlink"))?;
        let file = BufWriter::with_capacity(BUFFER_BYTES, file);
        Ok(Self { file, path, limit, bytes: 0, records: 0, failed: false })
    }

    /// Adds a record. One past the limit is refused and changes nothing; after a failed write the
    /// spool takes no more.
    pub fn push(&mut self, record: &[u8]) -> Result<(), SpoolError> {
        let record_bytes = record.len() as u64;
        let bytes = self.bytes + FRAME_BYTES as u64 + record_bytes;
        let (true, Ok(length)) = (bytes <= self.limit, u32::try_from(record.len())) else {
            return Err(SpoolError::Full { record_bytes, bytes: self.bytes, limit: self.limit });
        };
        if self.failed {
            let source = io::Error::other("an earlier write failed");
            return Err(SpoolError::Io { action: "write to", path: self.path.clone(), source });
        }
        let written = self
            .file
            .write_all(&length.to_le_bytes())
            .and_then(|()| self.file.write_all(&crc32c::crc32c(record).to_le_bytes()))
            .and_then(|()| self.file.write_all(record));
        written.map_err(|source| {
            self.failed = true;
            SpoolError::Io { action: "write to", path: self.path.clone(), source }
        })?;
        self.bytes = bytes;
        self.records += 1;
        Ok(())
    }

    /// The bytes pushed, with framing.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The number of records pushed.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Ends writing and reads from the first record on.
    pub fn into_reader(self) -> Result<SpoolReader, SpoolError> {
        let file = self.file.into_inner().map_err(|error| {
            let (path, source) = (self.path.clone(), error.into_error());
            SpoolError::Io { action: "write to", path, source }
        })?;
        let file = BufReader::with_capacity(BUFFER_BYTES, Positioned { file, offset: 0 });
        let (path, records) = (self.path, self.records);
        Ok(SpoolReader { file, path, offset: 0, left: records, records })
    }
}

/// A spool that is being read. It can be read again from its beginning, as often as needed.
#[derive(Debug)]
pub struct SpoolReader {
    file: BufReader<Positioned>,
    path: PathBuf,
    offset: u64,
    left: u64,
    records: u64,
}

impl SpoolReader {
    /// Reads the next record into `record`, in place of what is there; false after the last.
    pub fn next(&mut self, record: &mut Vec<u8>) -> Result<bool, SpoolError> {
        record.clear();
        if self.left == 0 {
            return Ok(false);
        }
        let mut frame = [0; FRAME_BYTES];
        self.file.read_exact(&mut frame).map_err(|error| self.failed_read(error))?;
        let [a, b, c, d, checksum @ ..] = frame;
        let length = u64::from(u32::from_le_bytes([a, b, c, d]));
        // Not `read_exact`: a damaged length must not reserve four gigabytes.
        let read = self.file.by_ref().take(length).read_to_end(record);
        read.map_err(|error| self.failed_read(error))?;
        let whole = record.len() as u64 == length;
        if !whole || crc32c::crc32c(record) != u32::from_le_bytes(checksum) {
            return Err(SpoolError::Damaged { path: self.path.clone(), offset: self.offset });
        }
        self.offset += FRAME_BYTES as u64 + length;
        self.left -= 1;
        Ok(true)
    }

    /// Goes back to the first record.
    pub fn rewind(&mut self) -> Result<(), SpoolError> {
        self.file.rewind().map_err(|error| self.failed_read(error))?;
        (self.offset, self.left) = (0, self.records);
        Ok(())
    }

    /// The number of records, read or not.
    pub fn records(&self) -> u64 {
        self.records
    }

    fn failed_read(&self, source: io::Error) -> SpoolError {
        let path = self.path.clone();
        if source.kind() == io::ErrorKind::UnexpectedEof {
            return SpoolError::Damaged { path, offset: self.offset };
        }
        SpoolError::Io { action: "read", path, source }
    }
}

/// An open file, read from a position on.
#[derive(Debug)]
struct Positioned {
    file: Box<dyn DiskFile>,
    offset: u64,
}

impl Read for Positioned {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(self.offset, bytes)?;
        self.offset += read as u64;
        Ok(read)
    }
}

impl Seek for Positioned {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let from = |at: u64, by: i64| at.checked_add_signed(by).ok_or(io::ErrorKind::InvalidInput);
        self.offset = match to {
            SeekFrom::Start(offset) => offset,
            SeekFrom::Current(by) => from(self.offset, by)?,
            SeekFrom::End(by) => from(self.file.len(), by)?,
        };
        Ok(self.offset)
    }
}

/// Removes the spools that killed processes have left in a folder; one that is missing has none.
/// No spool of the folder may be in the making meanwhile.
pub fn remove_leftovers(disk: &dyn Disk, folder: &Path) -> io::Result<()> {
    if !disk.exists(folder)? {
        return Ok(());
    }
    for name in disk.list(folder)?.iter().filter(|name| name.ends_with(SUFFIX)) {
        disk.remove(&folder.join(name))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;

    use super::*;
    use crate::disk::FileDisk;
    use crate::disk::sim::{Fault, SimDisk};

    fn read_all(reader: &mut SpoolReader) -> Vec<Vec<u8>> {
        let (mut all, mut record) = (Vec::new(), Vec::new());
        while reader.next(&mut record).unwrap() {
            all.push(record.clone());
        }
        all
    }

    #[test]
    fn records_come_back_in_order_and_the_file_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        for count in [0, 1, 5, 3000] {
            let records: Vec<Vec<u8>> =
                (0..count).map(|n| vec![u8::try_from(n % 251).unwrap(); n * 37 % 900]).collect();
            let mut spool = Spool::create(&FileDisk, folder.path(), u64::MAX).unwrap();
            for record in &records {
                spool.push(record).unwrap();
            }
            let bytes: usize = records.iter().map(|record| record.len() + 8).sum();
            assert_eq!((spool.records(), spool.bytes()), (count as u64, bytes as u64));
            let mut reader = spool.into_reader().unwrap();
            assert_eq!(read_all(&mut reader), records);
            reader.rewind().unwrap();
            assert_eq!(read_all(&mut reader), records);
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_record_past_the_limit_is_refused_and_the_others_stay() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = Spool::create(&FileDisk, folder.path(), 30).unwrap();
        spool.push(b"0123456789").unwrap();
        let error = spool.push(b"abcde").unwrap_err();
        assert!(matches!(error, SpoolError::Full { record_bytes: 5, bytes: 18, limit: 30 }));
        let text = "record of 5 bytes does not fit: spool holds 18 of at most 30 bytes";
        assert_eq!(error.to_string(), text);
        spool.push(b"abcd").unwrap();
        let records = read_all(&mut spool.into_reader().unwrap());
        assert_eq!(records, [b"0123456789".to_vec(), b"abcd".to_vec()]);
    }

    /// A file whose bytes do not come back as they were written.
    #[derive(Debug)]
    struct Damaged(Box<dyn DiskFile>, u64);

    impl Write for Damaged {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            self.0.flush()
        }
    }

    impl DiskFile for Damaged {
        fn sync(&mut self) -> io::Result<()> {
            self.0.sync()
        }

        fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
            let read = self.0.read_at(offset, bytes)?;
            for (at, byte) in (offset..).zip(bytes.iter_mut()) {
                *byte ^= u8::from(at == self.1) << 2;
            }
            Ok(read)
        }

        fn truncate(&mut self, len: u64) -> io::Result<()> {
            self.0.truncate(len)
        }

        fn len(&self) -> u64 {
            self.0.len()
        }
    }

    #[test]
    fn a_changed_byte_is_noticed() {
        for at in 0..11 {
            let disk = SimDisk::new();
            let mut spool = Spool::create(&disk, Path::new("/"), 100).unwrap();
            spool.push(b"abc").unwrap();
            let file = spool.file.into_inner().unwrap();
            spool.file = BufWriter::new(Box::new(Damaged(file, at)));
            let error = spool.into_reader().unwrap().next(&mut Vec::new()).unwrap_err();
            assert!(matches!(error, SpoolError::Damaged { offset: 0, .. }), "byte {at}: {error}");
        }
    }

    #[test]
    fn a_full_disk_is_an_error_and_no_more_is_taken() {
        let disk = SimDisk::new();
        let mut spool = Spool::create(&disk, Path::new("/"), u64::MAX).unwrap();
        disk.fail_from(disk.operations(), Fault::NoSpace);
        let record = vec![7; BUFFER_BYTES];
        for _ in 0..2 {
            let error = spool.push(&record).unwrap_err().to_string();
            assert!(error.starts_with("cannot write to spool"), "{error}");
            disk.heal();
        }
    }

    /// A process killed, or a power cut, at every operation leaves nothing for ever.
    #[test]
    fn leftovers_are_removed() {
        for at in 0..6 {
            let sim = SimDisk::new();
            let disk: Arc<dyn Disk> = Arc::new(sim.clone());
            disk.create_folder(Path::new("/data")).unwrap();
            sim.fail_at(sim.operations() + at, Fault::PowerCut);
            let made = Spool::create(&*disk, Path::new("/data"), 100);
            drop(made.and_then(|mut spool| {
                spool.push(b"x")?;
                spool.into_reader()
            }));
            for after in [sim.kill(), sim.power_cut(at)] {
                remove_leftovers(&after, Path::new("/data")).unwrap();
                // The folder's own name may be lost.
                let names = after.list(Path::new("/data")).unwrap_or_default();
                assert_eq!(names, [""; 0], "operation {at}");
            }
        }
    }

    #[test]
    fn a_missing_folder_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error =
            Spool::create(&FileDisk, &folder.path().join("missing"), 1).unwrap_err().to_string();
        assert!(error.contains("cannot create spool") && error.contains("missing"), "{error}");
    }
}
