//! A partition: the samples of all series within two hours, sealed, in one file that never changes.
//! Retention removes whole files.
//!
//! ```text
//! offset  size  all numbers little endian
//!      0     8  "EGRETMET"
//!      8     2  version, 1; a newer one is not read
//!     10     2  zero
//!     12     4  number of series
//!     16     8  where its two hours begin, seconds since 1970
//!     24     4  length of the directory
//!     28     4  CRC32C of bytes 0 to 28 and the directory
//!     32        directory, for each series, sorted:
//!                    its name and labels, as series.rs writes them
//!                 1  codec of its chunk: 1 Gorilla, as gorilla.rs draws it
//!                 4  number of samples
//!                 4  length of its chunk
//!                 4  CRC32C of its chunk
//!               then the chunks in the order of the directory
//! ```

use std::ops::Range;
use std::sync::Arc;

use egret_aof::disk::FileBytes;

use crate::gorilla::{self, CHUNK_SECONDS, Chunk, Damaged, Sample};
use crate::series::Series;

const MAGIC: &[u8; 8] = b"EGRETMET";
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 32;
const CODEC_GORILLA: u8 = 1;

/// A partition, its directory in memory.
#[derive(Debug)]
pub(crate) struct Partition {
    start: i64,
    /// Sorted by series.
    directory: Vec<Column>,
    bytes: FileBytes,
    samples: u64,
}

#[derive(Debug)]
struct Column {
    series: Arc<Series>,
    chunk: Range<usize>,
    checksum: u32,
}

/// Writes a partition of these chunks, which are sorted by series and of the same two hours.
/// `None` where a length does not fit.
pub(crate) fn write(start: i64, chunks: &[(&Series, &Chunk)]) -> Option<Vec<u8>> {
    let (mut directory, mut body) = (Vec::new(), Vec::new());
    for (series, chunk) in chunks {
        let bytes = chunk.to_bytes();
        series.write(&mut directory);
        directory.push(CODEC_GORILLA);
        directory.extend_from_slice(&chunk.count().to_le_bytes());
        directory.extend_from_slice(&u32::try_from(bytes.len()).ok()?.to_le_bytes());
        directory.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        body.extend_from_slice(&bytes);
    }
    let mut file = Vec::with_capacity(HEADER_BYTES + directory.len() + body.len());
    file.extend_from_slice(MAGIC);
    file.extend_from_slice(&VERSION.to_le_bytes());
    file.extend_from_slice(&[0, 0]);
    file.extend_from_slice(&u32::try_from(chunks.len()).ok()?.to_le_bytes());
    file.extend_from_slice(&start.to_le_bytes());
    file.extend_from_slice(&u32::try_from(directory.len()).ok()?.to_le_bytes());
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&file), &directory);
    file.extend_from_slice(&checksum.to_le_bytes());
    file.extend_from_slice(&directory);
    file.extend_from_slice(&body);
    Some(file)
}

impl Partition {
    /// Reads the directory of a partition. `intern` gives the shared name of a series.
    pub(crate) fn open(
        bytes: FileBytes,
        mut intern: impl FnMut(Series) -> Arc<Series>,
    ) -> Result<Self, Damaged> {
        let (start, count, directory) = read_header(&bytes)?;
        let mut left = directory;
        let (mut columns, mut samples) = (Vec::new(), 0);
        let mut end = HEADER_BYTES + directory.len();
        for _ in 0..count {
            let bad = Damaged("its directory is malformed");
            let series = Series::read(&mut left).ok_or(bad)?;
            let codec = *left.split_off_first().ok_or(bad)?;
            if codec != CODEC_GORILLA {
                return Err(Damaged("it has a chunk of an unknown codec"));
            }
            let mut number = || take(&mut left).map(u32::from_le_bytes).ok_or(bad);
            let (chunk_samples, length, checksum) = (number()?, number()?, number()?);
            samples += u64::from(chunk_samples);
            let begin = end;
            end = begin.checked_add(usize::try_from(length).map_err(|_| bad)?).ok_or(bad)?;
            columns.push(Column { series: intern(series), chunk: begin..end, checksum });
        }
        if !left.is_empty() || end != bytes.len() {
            return Err(Damaged("its length is not what its directory says"));
        }
        if !columns.is_sorted_by(|one, other| one.series < other.series) {
            return Err(Damaged("its series are not sorted"));
        }
        Ok(Self { start, directory: columns, bytes, samples })
    }

    /// Where its two hours begin.
    pub(crate) fn start(&self) -> i64 {
        self.start
    }

    /// Where they end.
    pub(crate) fn end(&self) -> i64 {
        self.start + CHUNK_SECONDS
    }

    /// The length of the file.
    pub(crate) fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    /// The whole file.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How many samples it holds.
    pub(crate) fn samples(&self) -> u64 {
        self.samples
    }

    /// Its series, sorted.
    pub(crate) fn series(&self) -> impl Iterator<Item = &Arc<Series>> {
        self.directory.iter().map(|column| &column.series)
    }

    /// The chunk of a series as it lies in the file; `None` where it has none.
    pub(crate) fn chunk(&self, series: &Series) -> Option<Result<&[u8], Damaged>> {
        let place = self.directory.binary_search_by(|column| (*column.series).cmp(series)).ok()?;
        let column = self.directory.get(place)?;
        let chunk = self.bytes.get(column.chunk.clone()).unwrap_or_default();
        let is_whole = crc32c::crc32c(chunk) == column.checksum;
        Some(is_whole.then_some(chunk).ok_or(Damaged("its checksum is wrong")))
    }

    /// The samples of a series, none where it has none.
    pub(crate) fn read(&self, series: &Series) -> Result<Vec<Sample>, Damaged> {
        match self.chunk(series) {
            Some(chunk) => gorilla::decode(chunk?)?.collect(),
            None => Ok(Vec::new()),
        }
    }
}

/// Where the two hours begin, how many series there are, and the directory.
fn read_header(bytes: &[u8]) -> Result<(i64, u32, &[u8]), Damaged> {
    let short = Damaged("it ends within its header");
    let mut left = bytes;
    if take(&mut left).ok_or(short)? != *MAGIC {
        return Err(Damaged("it does not begin as a partition does"));
    }
    if take(&mut left).map(u16::from_le_bytes).ok_or(short)? != VERSION {
        return Err(Damaged("it has another version"));
    }
    let [0, 0] = take(&mut left).ok_or(short)? else {
        return Err(Damaged("its header is malformed"));
    };
    let count = take(&mut left).map(u32::from_le_bytes).ok_or(short)?;
    let start = take(&mut left).map(i64::from_le_bytes).ok_or(short)?;
    let length = take(&mut left).map(u32::from_le_bytes).ok_or(short)?;
    let checksum = take(&mut left).map(u32::from_le_bytes).ok_or(short)?;
    let directory = usize::try_from(length).ok().and_then(|length| left.get(..length));
    let directory = directory.ok_or(Damaged("it ends within its directory"))?;
    let header = bytes.get(..HEADER_BYTES - 4).ok_or(short)?;
    if crc32c::crc32c_append(crc32c::crc32c(header), directory) != checksum {
        return Err(Damaged("the checksum of its directory is wrong"));
    }
    if start != Chunk::start_of(start) || !gorilla::TIMES.contains(&start) {
        return Err(Damaged("it begins at an impossible time"));
    }
    Ok((start, count, directory))
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(name: &str) -> Series {
        Series::new(name, [("index", "packages")]).unwrap()
    }

    fn file() -> Vec<u8> {
        let mut chunks = [Chunk::starting_at(7200), Chunk::starting_at(7200)];
        for (time, place) in (7200..7300).zip([0, 1].into_iter().cycle()) {
            let value = f64::from(i32::try_from(time).unwrap());
            chunks[place].append(Sample { time, value }).unwrap();
        }
        write(7200, &[(&series("a"), &chunks[0]), (&series("b"), &chunks[1])]).unwrap()
    }

    fn open(bytes: Vec<u8>) -> Result<Partition, Damaged> {
        Partition::open(FileBytes::Memory(bytes.into()), Arc::new)
    }

    #[test]
    fn a_partition_comes_back_as_it_was_written() {
        let partition = open(file()).unwrap();
        assert_eq!((partition.start(), partition.end(), partition.samples()), (7200, 14400, 100));
        assert_eq!(partition.series().map(|series| series.name()).collect::<Vec<_>>(), ["a", "b"]);
        let times = |name: &str| -> Vec<i64> {
            partition.read(&series(name)).unwrap().iter().map(|sample| sample.time).collect()
        };
        assert_eq!(times("a"), (7200..7300).step_by(2).collect::<Vec<_>>());
        assert_eq!(times("b"), (7201..7300).step_by(2).collect::<Vec<_>>());
        assert_eq!(times("c"), [0; 0]);
    }

    #[test]
    fn any_flipped_bit_and_any_cut_is_noticed() {
        let whole = file();
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            if let Ok(partition) = open(bytes) {
                let read = ["a", "b"].map(|name| partition.read(&series(name)).is_ok());
                assert_ne!(read, [true, true], "bit {bit}");
                assert_ne!(read, [false, false], "bit {bit} harms one chunk");
            }
        }
        for length in 0..whole.len() {
            assert!(open(whole[..length].to_vec()).is_err(), "length {length}");
        }
    }
}
