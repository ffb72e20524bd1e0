//! Which block of a dictionary has a string, or the string of a place.
//!
//! ```text
//! FST    from each block's key to its number
//! u64    length of the heads
//! heads  for every 128 blocks:
//!     u64  where their bits begin, behind the heads
//!     u64  where the first block begins
//!     u64  the place of its first string
//!     u32  slope of the begins
//!     u32  slope of the places
//!     u8   bits of a place
//!     u8   bits of a begin
//!     u16  how many blocks there are, less one
//! bits   for every 128 blocks, from a whole byte on:
//!     for every block but the first: where it begins, the place of its first string
//!     where the last block ends
//! ```
//!
//! The numbers in the bits are counted from the first block's; what is written is how far each lies
//! above the slope times the block's number among these 128, and half of what the bits can say.

use std::io;

use super::packed::{Packer, bits};
use crate::store::inverted::dictionary::fst::FstWriter;

/// How many blocks have one head.
const GROUP: usize = 128;

/// About how many nodes the FST has for a key: with room for all of them, none are written twice.
const NODES_OF_A_KEY: usize = 16;

/// A block that has been written.
pub(super) struct Block {
    /// Its last string, or something between that and the next one.
    pub(super) key: Vec<u8>,
    /// The place of its first string.
    pub(super) first: u64,
    pub(super) begin: u64,
    pub(super) end: u64,
}

/// Writes the index of blocks, if they need one, and gives the length of the keys.
pub(super) fn write(blocks: &[Block], out: &mut Vec<u8>) -> io::Result<u64> {
    if blocks.len() < 2 {
        return Ok(0);
    }
    let mut keys = FstWriter::new(blocks.len() * NODES_OF_A_KEY);
    for block in blocks {
        keys.insert(&block.key)?;
    }
    let keys = keys.finish();
    let (mut heads, mut packed) = (Vec::new(), Vec::new());
    for group in blocks.chunks(GROUP) {
        write_group(group, &mut heads, &mut packed)?;
    }
    out.extend_from_slice(&keys);
    out.extend_from_slice(&(heads.len() as u64).to_le_bytes());
    out.extend_from_slice(&heads);
    out.extend_from_slice(&packed);
    Ok(keys.len() as u64)
}

fn write_group(group: &[Block], heads: &mut Vec<u8>, packed: &mut Vec<u8>) -> io::Result<()> {
    let ([reference, ..], Some(last)) = (group, group.last()) else { return Ok(()) };
    let mut begins = Vec::with_capacity(group.len());
    let mut places = Vec::with_capacity(group.len());
    for block in group.iter().skip(1) {
        begins.push(block.begin - reference.begin);
        places.push(block.first - reference.first);
    }
    begins.push(last.end - reference.begin);
    let (begin_slope, place_slope) = (Slope::of(&begins), Slope::of(&places));

    let head = [packed.len() as u64, reference.begin, reference.first].map(u64::to_le_bytes);
    heads.extend_from_slice(head.as_flattened());
    for slope in [begin_slope.slope, place_slope.slope] {
        heads.extend_from_slice(&u32::try_from(slope).map_err(io::Error::other)?.to_le_bytes());
    }
    heads.extend(u8::try_from(place_slope.bits));
    heads.extend(u8::try_from(begin_slope.bits));
    heads.extend(u16::try_from(group.len() - 1).unwrap_or_default().to_le_bytes());

    let mut packer = Packer::new(packed, 0);
    let mut places = places.into_iter();
    for (number, begin) in (1..).zip(begins) {
        packer.push(begin_slope.above(number, begin), begin_slope.bits);
        if let Some(place) = places.next() {
            packer.push(place_slope.above(number, place), place_slope.bits);
        }
    }
    packer.end();
    Ok(())
}

/// What comes near to numbers that rise.
struct Slope {
    slope: u64,
    /// How many bits the distances have, both ways.
    bits: u32,
}

impl Slope {
    /// For the first number, the second, and so on. What rises most steeply lies about as far above
    /// as what rises least does below, as in tantivy's writer.
    fn of(numbers: &[u64]) -> Self {
        let numbered = || (1..).zip(numbers.iter().copied());
        let steepness = |(at, number): &(u64, u64)| number / at;
        // The last ones of those that are equal.
        let steepest = numbered().max_by_key(steepness).unwrap_or((1, 0));
        let flattest = numbered().min_by_key(|point| (steepness(point), u64::MAX - point.0));
        let flattest = flattest.unwrap_or((1, 0));
        let length = steepest.0 + flattest.0;
        let slope = (steepest.1 + flattest.1 + length / 2) / length;
        let distance = numbered().map(|(at, number)| number.abs_diff(slope * at)).max();
        Self { slope, bits: bits(distance.unwrap_or_default()) + 1 }
    }

    /// How far a number lies above the slope, made positive.
    fn above(&self, at: u64, number: u64) -> u64 {
        (number + (1 << (self.bits - 1))).saturating_sub(self.slope * at)
    }
}
