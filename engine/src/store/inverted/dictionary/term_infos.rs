//! The second part of a dictionary: a `TermInfo` for each ordinal, packed in blocks of 256.
//!
//! ```text
//! u64          the length of the block heads, in bytes
//! u64          the number of terms
//! heads        39 bytes for each block:
//!   u64          where its packed bits begin, from the end of the heads
//!   u32          the first term's number of documents
//!   u64, u32     the first term's postings: where they begin, how many bytes
//!   u64, u32     the first term's positions, likewise
//!   u8, u8, u8   the widths in bits of a number of documents, a postings and a positions offset
//! packed bits  for each block, for each term but the first: where its postings begin, where its
//!              positions begin (both from the first term's), and its number of documents; then
//!              where the last term's postings and positions end; filled up to a whole byte
//! ```
//!
//! Where a term's postings end is not written: it is where the next one's begin.

use std::io;
use std::ops::Range;

use tantivy::postings::TermInfo;

use super::invalid;

const BLOCK_TERMS: usize = 256;

/// The reader takes at most 56 bits at once, and so does `BitWriter`.
const MAX_PUT_BITS: u32 = 56;
const MAX_OFFSET: usize = (1 << MAX_PUT_BITS) - 1;

/// Collects the terms' infos.
#[derive(Debug)]
pub(super) struct TermInfoWriter {
    heads: Vec<u8>,
    packed: Vec<u8>,
    /// The terms since the last full block.
    block: Vec<TermInfo>,
    terms: u64,
    postings_end: usize,
    positions_end: usize,
}

impl TermInfoWriter {
    pub(super) fn new(expected_terms: usize) -> Self {
        Self {
            heads: Vec::new(),
            packed: Vec::new(),
            block: Vec::with_capacity(expected_terms.min(BLOCK_TERMS)),
            terms: 0,
            postings_end: 0,
            positions_end: 0,
        }
    }

    /// Whether the format can hold this as the next term's.
    #[inline]
    pub(super) fn check(&self, info: &TermInfo) -> io::Result<()> {
        let TermInfo { postings_range, positions_range, .. } = info;
        let follows = self.terms == 0
            || postings_range.start == self.postings_end
                && positions_range.start == self.positions_end;
        if follows && fits(postings_range) && fits(positions_range) {
            return Ok(());
        }
        Err(self.not_held(info))
    }

    /// Adds the next term's, which has been checked.
    #[inline]
    pub(super) fn push(&mut self, info: &TermInfo) {
        self.terms += 1;
        self.postings_end = info.postings_range.end;
        self.positions_end = info.positions_range.end;
        self.block.push(info.clone());
        if self.block.len() == BLOCK_TERMS {
            self.end_block();
        }
    }

    pub(super) fn append_to(mut self, bytes: &mut Vec<u8>) {
        self.end_block();
        bytes.reserve(self.heads.len() + self.packed.len() + 32);
        bytes.extend_from_slice(&(self.heads.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&self.terms.to_le_bytes());
        bytes.extend_from_slice(&self.heads);
        bytes.extend_from_slice(&self.packed);
    }

    fn end_block(&mut self) {
        let Some((first, others)) = self.block.split_first() else { return };
        let postings_start = first.postings_range.start;
        let positions_start = first.positions_range.start;
        let postings_end = (self.postings_end - postings_start) as u64;
        let positions_end = (self.positions_end - positions_start) as u64;
        let all_doc_freqs = others.iter().fold(0, |bits, info| bits | info.doc_freq);
        let doc_freq_bits = u64::BITS - u64::from(all_doc_freqs).leading_zeros();
        let postings_bits = u64::BITS - postings_end.leading_zeros();
        let positions_bits = u64::BITS - positions_end.leading_zeros();

        self.heads.extend_from_slice(&(self.packed.len() as u64).to_le_bytes());
        self.heads.extend_from_slice(&first.doc_freq.to_le_bytes());
        put_range(&mut self.heads, &first.postings_range);
        put_range(&mut self.heads, &first.positions_range);
        self.heads.extend(
            [doc_freq_bits, postings_bits, positions_bits].map(|bits| bits.to_le_bytes()[0]),
        );

        let mut packed = BitWriter { bytes: &mut self.packed, pending: 0, filled: 0 };
        for info in others {
            let postings = (info.postings_range.start - postings_start) as u64;
            let positions = (info.positions_range.start - positions_start) as u64;
            let doc_freq = u64::from(info.doc_freq);
            if postings_bits + positions_bits + doc_freq_bits <= MAX_PUT_BITS {
                let later = positions | doc_freq << positions_bits;
                let all = postings | later << postings_bits;
                packed.put(all, postings_bits + positions_bits + doc_freq_bits);
            } else {
                packed.put(postings, postings_bits);
                packed.put(positions, positions_bits);
                packed.put(doc_freq, doc_freq_bits);
            }
        }
        packed.put(postings_end, postings_bits);
        packed.put(positions_end, positions_bits);
        packed.finish();
        self.block.clear();
    }

    #[cold]
    fn not_held(&self, info: &TermInfo) -> io::Error {
        let TermInfo { postings_range, positions_range, .. } = info;
        invalid(format!(
            "term {} cannot have postings at {postings_range:?} and positions at \
             {positions_range:?} after postings to {} and positions to {}",
            self.terms, self.postings_end, self.positions_end
        ))
    }
}

fn fits(range: &Range<usize>) -> bool {
    range.start <= range.end && range.end <= MAX_OFFSET && u32::try_from(range.len()).is_ok()
}

fn put_range(bytes: &mut Vec<u8>, range: &Range<usize>) {
    bytes.extend_from_slice(&(range.start as u64).to_le_bytes());
    // `check` has seen that four bytes are enough.
    bytes.extend_from_slice(&(range.len() as u64).to_le_bytes()[..4]);
}

/// Puts values of at most 56 bits one after the other, the lowest bit first.
struct BitWriter<'a> {
    bytes: &'a mut Vec<u8>,
    /// The bits that do not fill a byte yet: fewer than 8 between two calls.
    pending: u64,
    filled: u32,
}

impl BitWriter<'_> {
    /// `value` has no bits above `bits`.
    #[inline]
    fn put(&mut self, value: u64, bits: u32) {
        self.pending |= value << self.filled;
        self.filled += bits;
        let end = self.bytes.len() + (self.filled / 8) as usize;
        self.bytes.extend_from_slice(&self.pending.to_le_bytes());
        self.bytes.truncate(end);
        self.pending >>= self.filled & !7;
        self.filled &= 7;
    }

    fn finish(self) {
        if self.filled > 0 {
            self.bytes.push(self.pending.to_le_bytes()[0]);
        }
    }
}
