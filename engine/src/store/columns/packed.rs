//! Numbers, packed bit by bit.
//!
//! ```text
//! u8    0: bits, 2: bits above lines
//! vint  the smallest value
//! vint  the greatest common divisor of all distances from it, 1 if there are none
//! vint  the largest distance, divided by that
//! vint  how many values there are
//! ```
//!
//! What is packed are the distances divided by the divisor, with as many bits as the largest one has
//! (64 if these are more than 56), from the lowest bit of the first byte on. Where it takes fewer
//! bytes, a line is laid through every [`BLOCK`] of them, only what lies above the line is packed,
//! with as many bits as that block needs, and the lines follow:
//!
//! ```text
//! for every block:
//!     vint  slope, times 2^32
//!     vint  height at the block's first value
//!     u8    bits
//! u32   length of these
//! ```
//!
//! Which of the two it is follows from tantivy's estimate, for which the lines are laid through the
//! values themselves.

use std::io;

use super::{length, push_vint, vint_bytes};

const BITS: u8 = 0;
const LINES: u8 = 2;

/// How many values have a line.
const BLOCK: usize = 512;

/// So far below a block's first value its lowest one is looked for, so that none wraps around.
const BELOW_FIRST: u64 = u32::MAX as u64;

/// Writes values in their order.
pub(super) fn write(values: &[u64], out: &mut Vec<u8>) -> io::Result<()> {
    let range = Range::of(values);
    let bits = bits(range.largest);
    let has_lines = range.lines_are_shorter(values, bits);
    out.push(if has_lines { LINES } else { BITS });
    push_vint(range.smallest, out);
    push_vint(range.divisor.number, out);
    push_vint(range.largest, out);
    push_vint(u64::from(length(values.len())?), out);
    if has_lines {
        return write_lines(&range, values, out);
    }
    if bits > 0 {
        let mut packer = Packer::new(out, values.len() * bits as usize / 8);
        for value in values {
            packer.push(range.reduced(*value), bits);
        }
        packer.end();
    }
    Ok(())
}

/// Writes what lies above the lines, and the lines.
fn write_lines(range: &Range, values: &[u64], out: &mut Vec<u8>) -> io::Result<()> {
    let mut packer = Packer::new(out, 0);
    let mut lines = Vec::new();
    let mut reduced = Vec::with_capacity(BLOCK);
    for block in values.chunks(BLOCK) {
        reduced.clear();
        reduced.extend(block.iter().map(|value| range.reduced(*value)));
        let (line, highest) = Line::below(&reduced);
        let bits = bits(highest);
        for (value, height) in reduced.iter().zip(line.heights()) {
            packer.push(value.wrapping_sub(height), bits);
        }
        push_vint(line.slope, &mut lines);
        push_vint(line.intercept, &mut lines);
        lines.extend(u8::try_from(bits));
    }
    packer.end();
    out.extend_from_slice(&lines);
    out.extend_from_slice(&length(lines.len())?.to_le_bytes());
    Ok(())
}

/// How many bits the numbers up to this one are packed with.
pub(super) fn bits(largest: u64) -> u32 {
    let bits = u64::BITS - largest.leading_zeros();
    // Readers look at eight bytes, of which the first has up to seven bits of other values.
    if bits > 56 { 64 } else { bits }
}

/// What all values have in common.
struct Range {
    smallest: u64,
    divisor: Divisor,
    /// The largest distance from the smallest value, divided.
    largest: u64,
}

impl Range {
    fn of(values: &[u64]) -> Self {
        let smallest = values.iter().min().copied().unwrap_or_default();
        let largest = values.iter().max().copied().unwrap_or_default();
        // That of the distances from any of the values divides those from all the others.
        let mut divisor = Divisor::new(largest - smallest);
        for value in values {
            if divisor.number <= 1 {
                break;
            }
            let distance = value - smallest;
            if !divisor.divides(distance) {
                divisor = Divisor::new(greatest_common_divisor(divisor.number, distance));
            }
        }
        let divisor = if divisor.number == 0 { Divisor::new(1) } else { divisor };
        Self { smallest, largest: divisor.exact_quotient(largest - smallest), divisor }
    }

    fn reduced(&self, value: u64) -> u64 {
        self.divisor.exact_quotient(value - self.smallest)
    }

    /// Whether tantivy would rather lay lines than pack with so many bits.
    fn lines_are_shorter(&self, values: &[u64], bits: u32) -> bool {
        let count = values.len() as u64;
        let limit = (count * u64::from(bits)).div_ceil(8) + self.divisor.bytes_saved(count);
        // Beside the lines, the length of them is written.
        let mut sum = 4;
        for block in values.chunks(BLOCK) {
            // A line has two numbers and its bits.
            if sum + 3 >= limit {
                return false;
            }
            let (line, highest) = Line::below(block);
            sum += vint_bytes(line.slope) + vint_bytes(line.intercept) + 1;
            sum += (block.len() as u64 * u64::from(self::bits(highest))).div_ceil(8);
        }
        sum < limit
    }
}

/// A line through numbers that follow one another.
#[derive(Debug, Clone, Copy, Default)]
struct Line {
    /// Times 2^32.
    slope: u64,
    /// Its height at the first number.
    intercept: u64,
}

impl Line {
    /// The line from the first number to the last, moved down to where none lies below it, and how
    /// far the highest lies above it.
    fn below(numbers: &[u64]) -> (Self, u64) {
        let [first, .., last] = numbers else {
            return (Self::default(), numbers.first().copied().unwrap_or_default());
        };
        let line = Self { slope: slope(*first, *last, numbers.len() as u64 - 1), intercept: 0 };
        let base = first.wrapping_sub(BELOW_FIRST);
        let (mut lowest, mut highest) = (u64::MAX, 0);
        for (number, height) in numbers.iter().zip(line.heights()) {
            let above = number.wrapping_sub(height).wrapping_sub(base);
            lowest = lowest.min(above);
            highest = highest.max(above);
        }
        (Self { intercept: lowest.wrapping_add(base), ..line }, highest - lowest)
    }

    /// The heights of the line at one number after another. They wrap around as numbers do.
    fn heights(self) -> impl Iterator<Item = u64> {
        (0_u64..).map(move |at| {
            let rise = at.wrapping_mul(self.slope).cast_signed() >> 32;
            self.intercept.wrapping_add(rise.cast_unsigned())
        })
    }
}

/// How far the line from one number to another, so many steps on, rises with each, times 2^32.
fn slope(first: u64, last: u64, steps: u64) -> u64 {
    let rise = last.wrapping_sub(first);
    let falls = rise > 1 << 63;
    let distance = if falls { rise.wrapping_neg() } else { rise };
    if distance >= 1 << 31 {
        return 0;
    }
    let slope = (distance << 32) / steps;
    if falls { !slope } else { slope }
}

/// A divisor of numbers most of which it divides, with what makes that quick.
#[derive(Debug, Clone, Copy)]
struct Divisor {
    number: u64,
    /// It is this odd number times a power of two.
    odd: u64,
    power: u32,
    /// The number that makes 1 of `odd`, modulo 2^64.
    inverse: u64,
}

impl Divisor {
    fn new(number: u64) -> Self {
        let power = number.trailing_zeros() % u64::BITS;
        let odd = number >> power;
        // Newton's method: five bits are right, then twice as many with each step.
        let step =
            |inverse: u64| inverse.wrapping_mul(2_u64.wrapping_sub(odd.wrapping_mul(inverse)));
        let inverse = step(step(step(step(odd.wrapping_mul(3) ^ 2))));
        Self { number, odd, power, inverse }
    }

    /// The quotient of a number that this divides.
    fn exact_quotient(&self, number: u64) -> u64 {
        (number >> self.power).wrapping_mul(self.inverse)
    }

    fn divides(&self, number: u64) -> bool {
        let is_even_enough = number.trailing_zeros() >= self.power;
        is_even_enough && self.exact_quotient(number) <= u64::MAX / self.odd
    }

    /// What tantivy thinks that so many values are shorter by.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "its estimate is in floating point, and a file is to be the same"
    )]
    fn bytes_saved(&self, count: u64) -> u64 {
        if self.number <= 1 {
            return 0;
        }
        ((self.number as f32).log2().floor() * count as f32 / 8.0) as u64
    }
}

fn greatest_common_divisor(left: u64, right: u64) -> u64 {
    let (mut left, mut right) = (left, right);
    while right > 0 {
        (left, right) = (right, left % right);
    }
    left
}

/// Packs numbers of any bits one after another.
pub(super) struct Packer<'a> {
    out: &'a mut Vec<u8>,
    /// What does not fill eight bytes yet.
    word: u64,
    /// How many bits of that are taken: fewer than 64.
    taken: u32,
}

impl<'a> Packer<'a> {
    /// Behind what is there, with room for so many bytes.
    pub(super) fn new(out: &'a mut Vec<u8>, bytes: usize) -> Self {
        out.reserve(bytes + size_of::<u64>());
        Self { out, word: 0, taken: 0 }
    }

    /// Adds a number that has at most so many bits, and these are at most 64.
    pub(super) fn push(&mut self, number: u64, bits: u32) {
        self.word |= number << self.taken;
        let taken = self.taken + bits;
        if taken < u64::BITS {
            self.taken = taken;
            return;
        }
        self.out.extend_from_slice(&self.word.to_le_bytes());
        // Nothing is left of a number that began with the word.
        self.word = number.checked_shr(u64::BITS - self.taken).unwrap_or_default();
        self.taken = taken - u64::BITS;
    }

    pub(super) fn end(self) {
        let bytes = self.word.to_le_bytes().into_iter();
        self.out.extend(bytes.take(self.taken.div_ceil(8) as usize));
    }
}
