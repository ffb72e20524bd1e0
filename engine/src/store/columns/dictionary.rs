//! Strings in their order, as tantivy's sstable: the texts of a column, or the list of all columns.
//!
//! ```text
//! for every block:
//!     u32  length of what follows
//!     u8   1 if the rest of the block is compressed with zstd
//!     of a list: how many offsets it has, and the offsets: the first, then how far each lies
//!         behind the one before
//!     for every string:
//!         u8     how many bytes it shares with the one before, and 16 times how many follow,
//!                if both are below 16; otherwise 1, then the two as numbers
//!         bytes  what it does not share
//! u32  0
//! of more than one block: see `block_index`
//! u64  length of the first part of that, 0 if there is none
//! u64  where that is
//! u64  how many strings there are
//! u32  version: 3
//! ```
//!
//! Numbers without a size have seven bits in a byte, the lowest first; the highest bit of every byte
//! but the last is set. A list has offsets in the file: each name's column lies between two of them.
//!
//! Tantivy's writer copies every string, makes a compressor for every block, and sets up 20,000
//! cells for the index of every dictionary with more than one.

use std::io;

use zstd::bulk::Compressor;
use zstd::zstd_safe::compress_bound;

use super::block_index::{self, Block};
use super::{length, low_bits};
use crate::error::Result;
use crate::store::inverted::terms::TermTable;

/// A block ends with the string that makes it longer.
const BLOCK_BYTES: usize = 4000;

/// Longer blocks are compressed.
const PLAIN_BYTES: usize = 2048;

const LEVEL: i32 = 3;

const VERSION: u32 = 3;

/// Writes a table's terms in their order, equal ones once, and gives the place of each by its number.
pub(super) fn write(
    table: &TermTable,
    compressor: &mut BlockCompressor,
    out: &mut Vec<u8>,
) -> Result<Vec<u32>> {
    let mut places = vec![0; table.len()];
    let mut writer = DictionaryWriter::new(compressor, out);
    let (mut place, mut last) = (0, None);
    for id in table.sorted() {
        let term = table.term(id);
        let shared = last.map(|last| shared_bytes(last, term));
        // A term that another one begins with comes before it.
        if shared != Some(term.len()) {
            place += u32::from(last.is_some());
            writer.push(shared.unwrap_or_default(), term)?;
        }
        last = Some(term);
        places[id as usize] = place;
    }
    writer.end(last.unwrap_or_default())?;
    Ok(places)
}

/// Writes a list of names in their order and where the column of each ends. Another one begins there.
pub(super) fn write_list(
    list: &[(Vec<u8>, u64)],
    compressor: &mut BlockCompressor,
    out: &mut Vec<u8>,
) -> io::Result<()> {
    let mut writer = DictionaryWriter::new(compressor, out);
    let (mut last, mut begin): (&[u8], _) = (&[], 0);
    for (name, end) in list {
        if writer.offsets.is_empty() {
            writer.offsets.push(begin);
        }
        writer.offsets.push(*end);
        writer.push(shared_bytes(last, name), name)?;
        (last, begin) = (name, *end);
    }
    writer.end(last)
}

/// What blocks are compressed with, made when it is needed.
#[derive(Default)]
pub(super) struct BlockCompressor {
    compressor: Option<Compressor<'static>>,
    compressed: Vec<u8>,
}

impl BlockCompressor {
    fn compress(&mut self, block: &[u8]) -> io::Result<&[u8]> {
        let compressor = match &mut self.compressor {
            Some(compressor) => compressor,
            none => none.insert(Compressor::new(LEVEL)?),
        };
        self.compressed.clear();
        self.compressed.reserve(compress_bound(block.len()));
        compressor.compress_to_buffer(block, &mut self.compressed)?;
        Ok(&self.compressed)
    }
}

struct DictionaryWriter<'a> {
    compressor: &'a mut BlockCompressor,
    out: &'a mut Vec<u8>,
    /// Where in `out` it begins.
    begin: usize,
    /// The strings of the block that is not ended yet,
    block: Vec<u8>,
    /// and its offsets, in a list.
    offsets: Vec<u64>,
    /// How many strings there are in all.
    strings: u64,
    /// How many there were when the block began.
    first_string: u64,
    ended: Vec<Block>,
}

impl<'a> DictionaryWriter<'a> {
    fn new(compressor: &'a mut BlockCompressor, out: &'a mut Vec<u8>) -> Self {
        let begin = out.len();
        let (block, offsets, ended) = (Vec::with_capacity(1024), Vec::new(), Vec::new());
        Self { compressor, out, begin, block, offsets, strings: 0, first_string: 0, ended }
    }

    /// Adds a string that shares so many bytes with the last one.
    fn push(&mut self, mut shared: usize, string: &[u8]) -> io::Result<()> {
        if self.block.is_empty() {
            if let Some(block) = self.ended.last_mut() {
                shorten(&mut block.key, string);
            }
            shared = 0;
        }
        let rest = string.get(shared..).unwrap_or_default();
        if shared < 16 && rest.len() < 16 {
            self.block.push(low_bits(shared as u64) | low_bits(rest.len() as u64) << 4);
        } else {
            self.block.push(1);
            push_number(shared as u64, &mut self.block);
            push_number(rest.len() as u64, &mut self.block);
        }
        self.block.extend_from_slice(rest);
        self.strings += 1;
        if self.block.len() > BLOCK_BYTES {
            self.end_block(string)?;
        }
        Ok(())
    }

    /// Writes the block, of which this is the last string.
    fn end_block(&mut self, last: &[u8]) -> io::Result<()> {
        self.put_offsets();
        let begin = self.position();
        let compressed = if self.block.len() > PLAIN_BYTES {
            Some(self.compressor.compress(&self.block)?)
        } else {
            None
        };
        let shorter = compressed.filter(|compressed| compressed.len() < self.block.len());
        let content = shorter.unwrap_or(&self.block);
        self.out.extend_from_slice(&length(content.len() + 1)?.to_le_bytes());
        self.out.push(u8::from(shorter.is_some()));
        self.out.extend_from_slice(content);
        self.block.clear();
        let (key, first, end) = (last.to_vec(), self.first_string, self.position());
        self.ended.push(Block { key, first, begin, end });
        self.first_string = self.strings;
        Ok(())
    }

    /// Puts the offsets before the block.
    fn put_offsets(&mut self) {
        if self.offsets.is_empty() {
            return;
        }
        let (mut numbers, mut last) = (Vec::new(), 0);
        push_number(self.offsets.len() as u64, &mut numbers);
        for offset in self.offsets.drain(..) {
            push_number(offset - last, &mut numbers);
            last = offset;
        }
        self.block.splice(..0, numbers);
    }

    fn end(mut self, last: &[u8]) -> io::Result<()> {
        if !self.block.is_empty() {
            self.end_block(last)?;
        }
        self.out.extend_from_slice(&[0; 4]);
        let index = self.position();
        let keys_bytes = block_index::write(&self.ended, self.out)?;
        let numbers = [keys_bytes, index, self.strings].map(u64::to_le_bytes);
        self.out.extend_from_slice(numbers.as_flattened());
        self.out.extend_from_slice(&VERSION.to_le_bytes());
        Ok(())
    }

    /// How many bytes have been written.
    fn position(&self) -> u64 {
        (self.out.len() - self.begin) as u64
    }
}

/// Makes a block's key shorter where a shorter one is still below the next string.
fn shorten(key: &mut Vec<u8>, next: &[u8]) {
    let shared = shared_bytes(key, next);
    let mut after = key.iter().enumerate().skip(shared + 1);
    let Some((at, byte)) = after.find(|(_, byte)| **byte < u8::MAX) else { return };
    let byte = byte + 1;
    key.truncate(at);
    key.push(byte);
}

/// How many bytes both begin with.
fn shared_bytes(left: &[u8], right: &[u8]) -> usize {
    let words = left.as_chunks::<8>().0.iter().zip(right.as_chunks::<8>().0);
    let shared = words.take_while(|(left, right)| left == right).count() * 8;
    let bytes = left.iter().zip(right).skip(shared);
    shared + bytes.take_while(|(left, right)| left == right).count()
}

fn push_number(mut number: u64, out: &mut Vec<u8>) {
    while number >= 128 {
        out.push(low_bits(number) | 128);
        number >>= 7;
    }
    out.push(low_bits(number));
}
