//! Which document has which values of a column.
//!
//! ```text
//! u8  0: each document has one value; nothing follows
//!     1: none or one: the documents that have one
//!     2: any number: the documents that have any, where the values of each begin (packed numbers,
//!        and where the last ones end), u32 length of the documents
//! ```
//!
//! A set of documents is cut into blocks of 65,536, of which empty ones are left out:
//!
//! ```text
//! vint  how many documents there are
//! for every block, if fewer than 5,120 documents of it are in the set:
//!     u16 each
//! otherwise, for every 64 documents of the block:
//!     u64  a bit for each
//!     u16  how many of the block come before
//! for every block:
//!     u16  its number
//!     u16  how many documents it has, less one
//! u16   how many blocks there are
//! ```

use std::io;

use tantivy::columnar::column_values::{CodecType, serialize_u64_based_column_values};

use super::{length, push_vint};
use crate::error::{Error, ErrorKind, Result};

/// How many documents make a block, as a shift.
const BLOCK_SHIFT: u32 = 16;

/// A block of as many documents has bits.
const DENSE_FROM: usize = 5120;

/// How many documents have their bits in one number.
const WORD_BITS: u16 = 64;

/// The documents of the values, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Rows {
    /// How many documents have one value each, from the first on, as long as there is no list.
    dense: u32,
    /// The document of each value. Empty, and nothing allocated, in the usual case.
    docs: Vec<u32>,
    /// Whether a document has two values.
    are_several: bool,
}

impl Rows {
    /// Adds a value of a document; documents rise.
    pub(super) fn push(&mut self, doc: u32) -> Result<()> {
        if self.docs.is_empty() {
            if doc == self.dense {
                self.dense += 1;
                return Ok(());
            }
            self.docs.extend(0..self.dense);
        }
        match self.docs.last() {
            Some(last) if *last > doc => {
                return Err(Error::new(ErrorKind::Internal, "a column's documents do not rise"));
            }
            Some(last) if *last == doc => self.are_several = true,
            _ => {}
        }
        self.docs.push(doc);
        Ok(())
    }

    /// The memory that it holds.
    pub(super) fn memory_bytes(&self) -> usize {
        self.docs.capacity() * size_of::<u32>()
    }

    /// Writes which of so many documents have which values.
    pub(super) fn write(mut self, docs: u32, out: &mut Vec<u8>) -> Result<()> {
        if self.docs.is_empty() {
            if self.dense == docs {
                out.push(0);
                return Ok(());
            }
            self.docs.extend(0..self.dense);
        }
        if self.docs.last().is_some_and(|last| *last >= docs) {
            return Err(Error::new(ErrorKind::Internal, "a column has more documents than all"));
        }
        if self.are_several {
            out.push(2);
            return Ok(write_several(&self.docs, docs, out)?);
        }
        out.push(1);
        Ok(write_set(&self.docs, docs, out)?)
    }
}

/// Writes the documents and where the values of each begin.
fn write_several(values: &[u32], docs: u32, out: &mut Vec<u8>) -> io::Result<()> {
    let (mut with_values, mut begins) = (Vec::new(), vec![0]);
    for same in values.chunk_by(|left, right| left == right) {
        with_values.extend(same.first());
        let begin = begins.last().copied().unwrap_or_default();
        begins.push(begin + length(same.len())?);
    }
    let begin = out.len();
    write_set(&with_values, docs, out)?;
    let bytes = length(out.len() - begin)?;
    // Rare enough for tantivy's own.
    let codecs = [CodecType::Bitpacked, CodecType::Linear];
    serialize_u64_based_column_values(&&begins[..], &codecs, out)?;
    out.extend_from_slice(&bytes.to_le_bytes());
    Ok(())
}

/// Writes a set of documents, which rise.
fn write_set(set: &[u32], docs: u32, out: &mut Vec<u8>) -> io::Result<()> {
    push_vint(u64::from(docs), out);
    let mut blocks = Vec::new();
    for block in set.chunk_by(|left, right| left >> BLOCK_SHIFT == right >> BLOCK_SHIFT) {
        let Some(first) = block.first() else { continue };
        let (number, count) = (low_half(first >> BLOCK_SHIFT), low_half(length(block.len() - 1)?));
        blocks.extend([number.to_le_bytes(), count.to_le_bytes()].as_flattened());
        if block.len() < DENSE_FROM {
            out.extend(block.iter().flat_map(|doc| low_half(*doc).to_le_bytes()));
        } else {
            write_bits(block, out);
        }
    }
    out.extend_from_slice(&blocks);
    let count = low_half(length(blocks.len() / 4)?);
    out.extend_from_slice(&count.to_le_bytes());
    Ok(())
}

/// Writes a bit for each document of a block.
fn write_bits(block: &[u32], out: &mut Vec<u8>) {
    let mut before = 0_u16;
    let mut rest = block.iter().map(|doc| low_half(*doc)).peekable();
    for word in 0..=u16::MAX / WORD_BITS {
        let mut bits = 0_u64;
        while let Some(doc) = rest.next_if(|doc| doc / WORD_BITS == word) {
            bits |= 1 << (doc % WORD_BITS);
        }
        out.extend_from_slice(&bits.to_le_bytes());
        out.extend_from_slice(&before.to_le_bytes());
        // All of a full block would be too many, but nothing comes after them.
        before = before.wrapping_add(low_half(bits.count_ones()));
    }
}

/// The lowest sixteen bits.
fn low_half(number: u32) -> u16 {
    (number & 0xffff) as u16
}
