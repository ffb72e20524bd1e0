//! How many different hashes: exactly for a few thousand, beyond that by `HyperLogLog` with Ertl's
//! estimator ("New cardinality estimation algorithms for `HyperLogLog` sketches", 2017, algorithm 6),
//! whose error here is about 0.8 %.

use rustc_hash::FxHashSet;

/// How many hashes are kept exactly (`precision_threshold`).
const EXACT: usize = 4096;
const BITS: u32 = 14;
const REGISTERS: usize = 1 << BITS;
/// The greatest value of a register but one.
const RANKS: usize = 64 - BITS as usize;

/// A set of hashes of which only the size is asked.
#[derive(Debug)]
pub(super) enum HashCounter {
    Exact(FxHashSet<u64>),
    Registers(Vec<u8>),
}

impl Default for HashCounter {
    fn default() -> Self {
        Self::Exact(FxHashSet::default())
    }
}

impl HashCounter {
    pub(super) fn insert(&mut self, hash: u64) {
        match self {
            Self::Exact(hashes) => {
                hashes.insert(hash);
                if hashes.len() > EXACT {
                    *self = Self::Registers(registers(hashes));
                }
            }
            Self::Registers(registers) => record(registers, hash),
        }
    }

    /// What it takes on the heap.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Exact(hashes) => hashes.capacity() * (size_of::<u64>() + 1),
            Self::Registers(registers) => registers.len(),
        }
    }

    pub(super) fn count(&self) -> u64 {
        match self {
            Self::Exact(hashes) => hashes.len() as u64,
            Self::Registers(registers) => estimate(registers),
        }
    }
}

fn registers(hashes: &FxHashSet<u64>) -> Vec<u8> {
    let mut registers = vec![0; REGISTERS];
    for hash in hashes {
        record(&mut registers, *hash);
    }
    registers
}

fn record(registers: &mut [u8], hash: u64) {
    let place = usize::try_from(hash >> (64 - BITS)).unwrap_or(0);
    let rank = ((hash << BITS) | (1 << (BITS - 1))).leading_zeros() + 1;
    if let Some(register) = registers.get_mut(place) {
        *register = (*register).max(u8::try_from(rank).unwrap_or(u8::MAX));
    }
}

#[expect(clippy::cast_precision_loss, reason = "an estimate")]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive, rounded")]
fn estimate(registers: &[u8]) -> u64 {
    let mut counts = [0_u32; RANKS + 2];
    for register in registers {
        if let Some(count) = counts.get_mut(usize::from(*register)) {
            *count += 1;
        }
    }
    let size = REGISTERS as f64;
    let share = |rank: usize| f64::from(counts.get(rank).copied().unwrap_or(0)) / size;
    let mut sum = size * tau(1.0 - share(RANKS + 1));
    for rank in (1..=RANKS).rev() {
        sum = 0.5 * (sum + share(rank) * size);
    }
    sum += size * sigma(share(0));
    (size * size / (2.0 * std::f64::consts::LN_2 * sum)).round() as u64
}

fn sigma(mut x: f64) -> f64 {
    if x >= 1.0 {
        return f64::INFINITY;
    }
    let (mut y, mut z) = (1.0, x);
    loop {
        x *= x;
        let before = z;
        z += x * y;
        y += y;
        if (z - before).abs() <= f64::EPSILON * z {
            return z;
        }
    }
}

fn tau(mut x: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return 0.0;
    }
    let (mut y, mut z) = (1.0, 1.0 - x);
    loop {
        x = x.sqrt();
        let before = z;
        y *= 0.5;
        z -= (1.0 - x).powi(2) * y;
        if (z - before).abs() <= f64::EPSILON * z {
            return z / 3.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_are_counted_exactly_and_many_nearly() {
        for count in [0_u64, 1, 100, 4096, 5000, 20_000, 60_000, 300_000] {
            let mut counter = HashCounter::default();
            for number in (0..count).chain(0..count) {
                counter.insert(xxhash_rust::xxh3::xxh3_64(&number.to_le_bytes()));
            }
            let off = counter.count().abs_diff(count);
            assert!(off * 1000 <= count * 25, "{count}: {}", counter.count());
            assert!(count > EXACT as u64 || off == 0, "{count}: {}", counter.count());
        }
    }
}
