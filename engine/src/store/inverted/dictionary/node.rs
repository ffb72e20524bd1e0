//! How a node of the FST is written.
//!
//! A node's address is that of its *last* byte, its state, from which the reader goes backwards.
//! Three kinds are told apart by the state's two highest bits:
//!
//! ```text
//! 11 next      [input] state                 one transition, to the node that ends just before
//! 10 single    delta sizes [input] state     one transition, to anywhere
//! 0f branch    [final output] outputs deltas inputs [index] sizes [count] state
//!                                            any number of transitions; f: a term ends here
//! ```
//!
//! The low six bits of `next` and `single` say which of 63 common bytes the input is; they are zero
//! if it is given before the state. Those of `branch` are the number of transitions; they are zero
//! if it is given before the state, where 1 stands for 256.
//!
//! - `sizes`: the bytes in a delta (high four bits) and in an output (low four bits, zero if no
//!   output is written because all are zero).
//! - `delta`: where the transition leads, counted back from the node's first byte; zero for the
//!   node that has no transitions and ends a term, which is not written at all.
//! - outputs, deltas and inputs are in falling order of the inputs. The final output is written if
//!   `f` is set and outputs are written; it is always zero here (see `fst`).
//! - `index`: only with more than 32 transitions: for each byte, which transition has it as its
//!   input in rising order, or 255.

/// The address of the node that ends a term and has no transitions.
pub(super) const END: usize = 0;

/// More transitions than this need an index.
const MAX_WITHOUT_INDEX: usize = 32;

/// The inputs that fit a state's six bits, as 1, 2, 3, ...
const COMMON: &[u8; 63] = b"te/oasripcnw.hlm-du012g=:bf3y5&_4v9678k%?xCDASFIBEjPTzRNM+LOqHG";

/// For each input its place in `COMMON`, counted from 1, or zero.
const COMMON_PLACES: [u8; 256] = {
    let mut places = [0; 256];
    let mut place = 0_u8;
    while (place as usize) < COMMON.len() {
        places[COMMON[place as usize] as usize] = place + 1;
        place += 1;
    }
    places
};

/// Where an input leads, and what it adds to the ordinal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Transition {
    pub(super) input: u8,
    pub(super) output: u64,
    pub(super) target: usize,
}

/// Writes a node that ends no term and has one transition without an output. Gives its address.
#[inline]
pub(super) fn put_single(bytes: &mut Vec<u8>, input: u8, target: usize) -> usize {
    let start = bytes.len();
    let kind = if target + 1 == start {
        0b1100_0000
    } else {
        let delta = delta(start, target);
        let delta_size = size(delta).max(1);
        bytes.extend_from_slice(&delta.to_le_bytes());
        bytes.truncate(start + delta_size);
        bytes.push(low_byte(delta_size << 4));
        0b1000_0000
    };
    let place = COMMON_PLACES[usize::from(input)];
    if place == 0 {
        bytes.push(input);
    }
    bytes.push(kind | place);
    bytes.len() - 1
}

/// Writes any other node as it looks with its first byte at `start`, which is the end of `bytes`
/// unless it is only for comparing. If a target is not before `start`, its delta wraps around,
/// which makes it another one than any written node has.
pub(super) fn put_branch(
    bytes: &mut Vec<u8>,
    start: usize,
    is_final: bool,
    transitions: &[Transition],
) {
    let count = transitions.len();
    let mut all_deltas = 0;
    let mut all_outputs = 0;
    for transition in transitions {
        all_deltas |= delta(start, transition.target);
        all_outputs |= transition.output;
    }
    let delta_size = size(all_deltas).max(usize::from(count > 0));
    let output_size = size(all_outputs);

    let outputs_at = bytes.len() + if is_final { output_size } else { 0 };
    let deltas_at = outputs_at + count * output_size;
    let inputs_at = deltas_at + count * delta_size;
    let end = inputs_at + count;
    // Each integer is stored with eight bytes, and what is too much is written over by the next.
    bytes.resize(end + 8, 0);
    if output_size > 0 {
        let outputs = transitions.iter().rev().map(|transition| transition.output);
        put_integers(&mut bytes[outputs_at..], output_size, outputs);
    }
    let deltas = transitions.iter().rev().map(|transition| delta(start, transition.target));
    put_integers(&mut bytes[deltas_at..], delta_size, deltas);
    for (place, transition) in bytes[inputs_at..end].iter_mut().zip(transitions.iter().rev()) {
        *place = transition.input;
    }
    bytes.truncate(end);

    if count > MAX_WITHOUT_INDEX {
        let mut index = [255; 256];
        for (place, transition) in transitions.iter().enumerate() {
            index[usize::from(transition.input)] = low_byte(place);
        }
        bytes.extend_from_slice(&index);
    }
    bytes.push(low_byte(delta_size << 4 | output_size));
    let count_in_state = if matches!(count, 1..=63) { low_byte(count) } else { 0 };
    if count_in_state == 0 {
        bytes.push(if count == 256 { 1 } else { low_byte(count) });
    }
    bytes.push(u8::from(is_final) << 6 | count_in_state);
}

/// Eight bytes must follow the place of the last one.
#[inline]
fn put_integers(bytes: &mut [u8], size: usize, values: impl Iterator<Item = u64>) {
    let mut at = 0;
    for value in values {
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        at += size;
    }
}

#[inline]
fn delta(start: usize, target: usize) -> u64 {
    if target == END { 0 } else { start.wrapping_sub(target) as u64 }
}

/// Of values that fit a byte.
#[inline]
fn low_byte(value: usize) -> u8 {
    value.to_le_bytes()[0]
}

/// How many bytes the value needs; none for zero.
#[inline]
fn size(value: u64) -> usize {
    (u64::BITS - value.leading_zeros()).div_ceil(8) as usize
}
