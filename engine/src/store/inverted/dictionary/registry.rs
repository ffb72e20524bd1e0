//! Which nodes of the FST are written already, so that equal ones are shared.
//!
//! Two tables of cells, each for the last node that hashed there: forgetting a node costs bytes in
//! the file, never correctness.

use super::node::{self, Transition};

const MIN_CELLS: usize = 64;
const MAX_CELLS: usize = 32_768;

const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

#[derive(Debug)]
pub(super) struct Registry {
    singles: Box<[SingleCell]>,
    branches: Box<[BranchCell]>,
    /// How far to shift a hash to the right for a cell's place.
    shift: u32,
}

/// A node with one transition, no output and no term's end.
#[derive(Clone, Copy, Debug, Default)]
struct SingleCell {
    /// Its whole content: see `single_key`.
    key: u64,
    /// Zero while the cell is empty: no node is written there.
    address: usize,
}

/// Any other node. Its content is not repeated here, since it stands in the file.
#[derive(Clone, Copy, Debug, Default)]
struct BranchCell {
    address: usize,
    /// How many bytes it has; zero while the cell is empty.
    length: u32,
    /// Bits of its hash that are not in the cell's place.
    tag: u32,
}

impl Registry {
    pub(super) fn new(expected_terms: usize) -> Self {
        let cells =
            expected_terms.saturating_mul(2).clamp(MIN_CELLS, MAX_CELLS).next_power_of_two();
        Self {
            singles: vec![SingleCell::default(); cells].into_boxed_slice(),
            branches: vec![BranchCell::default(); cells].into_boxed_slice(),
            shift: u64::BITS - cells.trailing_zeros(),
        }
    }

    /// The address of this node with one transition.
    #[inline]
    pub(super) fn single(&self, input: u8, target: usize) -> Option<usize> {
        let key = single_key(input, target);
        let cell = &self.singles[self.place(single_hash(key))];
        (cell.key == key && cell.address != 0).then_some(cell.address)
    }

    #[inline]
    pub(super) fn add_single(&mut self, input: u8, target: usize, address: usize) {
        let key = single_key(input, target);
        let place = self.place(single_hash(key));
        self.singles[place] = SingleCell { key, address };
    }

    /// The address of this other node, if `bytes`, the file so far, has it. `bytes` is the same
    /// afterwards.
    pub(super) fn branch(
        &self,
        hash: u64,
        is_final: bool,
        transitions: &[Transition],
        bytes: &mut Vec<u8>,
    ) -> Option<usize> {
        let cell = &self.branches[self.place(hash)];
        if cell.tag != tag(hash) || cell.length == 0 {
            return None;
        }
        let start = cell.address + 1 - cell.length as usize;
        let file_end = bytes.len();
        node::put_branch(bytes, start, is_final, transitions);
        let is_same = bytes[start..=cell.address] == bytes[file_end..];
        bytes.truncate(file_end);
        is_same.then_some(cell.address)
    }

    pub(super) fn add_branch(&mut self, hash: u64, address: usize, length: usize) {
        let place = self.place(hash);
        // A node has at most 256 transitions: its length is far from not fitting.
        let Ok(length) = u32::try_from(length) else { return };
        self.branches[place] = BranchCell { address, length, tag: tag(hash) };
    }

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the tables' length fits, so this does")]
    fn place(&self, hash: u64) -> usize {
        (hash >> self.shift) as usize
    }
}

/// For `branch` and `add_branch`.
pub(super) fn branch_hash(is_final: bool, transitions: &[Transition]) -> u64 {
    transitions.iter().fold(u64::from(is_final), |hash, transition| {
        let word = single_key(transition.input, transition.target);
        let word = word ^ transition.output.rotate_left(40);
        (hash.rotate_left(23) ^ word).wrapping_mul(MULTIPLIER)
    })
}

/// Different for different nodes: a file has fewer than 2 to the 56 bytes.
#[inline]
fn single_key(input: u8, target: usize) -> u64 {
    (target as u64) << 8 | u64::from(input)
}

#[inline]
fn single_hash(key: u64) -> u64 {
    key.wrapping_mul(MULTIPLIER)
}

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "only some of the bits are wanted")]
fn tag(hash: u64) -> u32 {
    (hash >> 16) as u32
}
