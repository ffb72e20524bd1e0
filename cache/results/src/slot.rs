//! Redis Cluster's slots: which of the 16,384 a key belongs to, so that the same keys can live in a
//! real Redis or Valkey Cluster. Which shard of this process owns a slot is not decided here.

use std::fmt;

/// How many slots there are.
pub const SLOT_COUNT: u16 = 16_384;

/// The number of a slot, below [`SLOT_COUNT`].
///
/// ```
/// use egret_results::Slot;
///
/// assert_eq!(Slot::of(b"123456789").number(), 12739);
/// assert_eq!(Slot::of(b"{user1000}.following"), Slot::of(b"{user1000}.followers"));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u16);

impl Slot {
    /// The slot of a key: CRC-16/XMODEM of its hash tag, modulo 16,384 (Redis Cluster
    /// specification, "Key distribution model" and "Hash tags").
    pub fn of(key: &[u8]) -> Self {
        Self(crc16(hash_tag(key)) % SLOT_COUNT)
    }

    /// The slot with this number, where there is one.
    pub fn from_number(number: u16) -> Option<Self> {
        (number < SLOT_COUNT).then_some(Self(number))
    }

    /// Its number.
    pub fn number(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What is between the first `{` and the first `}` after it; the whole key where either is missing
/// or nothing is between them.
fn hash_tag(key: &[u8]) -> &[u8] {
    let tag = || {
        let after_open = key.get(key.iter().position(|&byte| byte == b'{')? + 1..)?;
        after_open.get(..after_open.iter().position(|&byte| byte == b'}')?)
    };
    tag().filter(|tag| !tag.is_empty()).unwrap_or(key)
}

/// CRC-16/XMODEM: polynomial 0x1021, initial value 0, nothing reflected, no final XOR.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, &byte| {
        let index = crc.to_be_bytes()[0] ^ byte;
        (crc << 8) ^ CRC16_TABLE[usize::from(index)]
    })
}

const CRC16_TABLE: [u16; 256] = crc16_table();

const fn crc16_table() -> [u16; 256] {
    let mut table = [0; 256];
    let mut index = 0_u16;
    while index < 256 {
        let mut crc = index << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
            bit += 1;
        }
        table[index as usize] = crc;
        index += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keys_have_the_slots_that_redis_gives_them() {
        let check = |key: &str, expected: u16| {
            assert_eq!(Slot::of(key.as_bytes()).number(), expected, "key [{key}]");
        };
        check("123456789", 12739);
        check("foo{{bar}}zap", 4015);
        check("foo{}{bar}", 8363);
        check("{}", 15257);
        check("", 0);
        check("foo", 12182);
        check("{foo}", 12182);
        check("any{foo}thing", 12182);
        check("foo{bar}{zap}", 5061);
        check("bar", 5061);
    }

    #[test]
    fn a_tag_needs_both_braces_and_something_between_them() {
        let check = |key: &str, tag: &str| assert_eq!(hash_tag(key.as_bytes()), tag.as_bytes());
        check("a{b}c", "b");
        check("a{b}{c}", "b");
        check("}{b}", "b");
        check("a{{b}}", "{b");
        check("a{b", "a{b");
        check("a}b{", "a}b{");
        check("{}{b}", "{}{b}");
    }

    /// The CRC bit by bit, as its definition reads.
    fn crc16_by_bits(bytes: &[u8]) -> u16 {
        let mut crc = 0_u16;
        for bit in bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)) {
            let out = u16::from(bit) ^ (crc >> 15);
            crc = (crc << 1) ^ (out * 0x1021);
        }
        crc
    }

    proptest! {
        #[test]
        fn the_table_agrees_with_the_definition(bytes: Vec<u8>) {
            prop_assert_eq!(crc16(&bytes), crc16_by_bits(&bytes));
        }

        #[test]
        fn any_key_has_a_slot(bytes: Vec<u8>) {
            prop_assert!(Slot::of(&bytes).number() < SLOT_COUNT);
        }
    }
}
