//! One stored answer with everything that it is checked by, in one allocation: what the table holds
//! and what the log holds are the same bytes.
//!
//! ```text
//! offset  size  all numbers little endian
//!      0     1  format, 1; a block of another format is not read
//!      1     1  length of the key
//!      2     2  zero
//!      4     4  number of versions
//!      8     4  length of the canonical request
//!     12     4  length of the value
//!     16     8  stored at, milliseconds since 1970
//!     24     8  kept for, milliseconds; all ones for ever
//!     32     8  cost of computing it again, microseconds
//!     40     8  hash of the tenant, 0 for none
//!     48        key, versions (32 each: UUID, term, number), canonical request, value
//!   last     4  CRC32C of everything before
//! ```

use std::ops::Range;

use bytes::Bytes;
use uuid::Uuid;

use crate::key::{Generation, Version};

const FORMAT: u8 = 1;
const HEADER_BYTES: usize = 48;
const CHECKSUM_BYTES: usize = 4;
const FOR_EVER: u64 = u64::MAX;

/// What is written into a block.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Content<'a> {
    pub(crate) key: &'a str,
    pub(crate) versions: &'a [Version],
    pub(crate) canonical: &'a [u8],
    pub(crate) value: &'a [u8],
    pub(crate) times: Times,
    pub(crate) cost_us: u64,
    pub(crate) tenant: u64,
}

/// When a value was stored, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Times {
    /// Milliseconds since 1970.
    pub(crate) stored_at_ms: u64,
    /// `None` for ever.
    pub(crate) kept_ms: Option<u64>,
}

impl Times {
    /// How much longer the value may be served, by the calendar; 0 where it may not. `None` for ever.
    /// A clock that was stepped back does not lengthen its life beyond what it was given.
    pub(crate) fn left_ms(self, now_ms: u64) -> Option<u64> {
        let age = now_ms.saturating_sub(self.stored_at_ms);
        self.kept_ms.map(|kept| kept.saturating_sub(age))
    }
}

/// How long the block of this content is, where its parts fit at all.
pub(crate) fn block_len(content: &Content<'_>) -> Option<usize> {
    let parts = [content.key.len(), content.canonical.len(), content.value.len()];
    u8::try_from(content.key.len()).ok()?;
    u32::try_from(content.canonical.len()).ok()?;
    u32::try_from(content.value.len()).ok()?;
    u32::try_from(content.versions.len()).ok()?;
    let versions = content.versions.len().checked_mul(Version::BYTES)?;
    parts
        .into_iter()
        .try_fold(HEADER_BYTES + CHECKSUM_BYTES, usize::checked_add)?
        .checked_add(versions)
}

/// Writes a block; `None` where a part is too long for its length field.
pub(crate) fn write(content: &Content<'_>) -> Option<Bytes> {
    let mut block = Vec::with_capacity(block_len(content)?);
    block.extend_from_slice(&[FORMAT, u8::try_from(content.key.len()).ok()?, 0, 0]);
    for length in [content.versions.len(), content.canonical.len(), content.value.len()] {
        block.extend_from_slice(&u32::try_from(length).ok()?.to_le_bytes());
    }
    let Times { stored_at_ms, kept_ms } = content.times;
    for number in [stored_at_ms, kept_ms.unwrap_or(FOR_EVER), content.cost_us, content.tenant] {
        block.extend_from_slice(&number.to_le_bytes());
    }
    block.extend_from_slice(content.key.as_bytes());
    for version in content.versions {
        block.extend_from_slice(&version.to_bytes());
    }
    block.extend_from_slice(content.canonical);
    block.extend_from_slice(content.value);
    block.extend_from_slice(&crc32c::crc32c(&block).to_le_bytes());
    Some(block.into())
}

/// A block whose checksum and lengths are right.
#[derive(Debug)]
pub(crate) struct Block<'a> {
    pub(crate) key: &'a str,
    pub(crate) canonical: &'a [u8],
    pub(crate) times: Times,
    pub(crate) cost_us: u64,
    pub(crate) tenant: u64,
    versions: &'a [u8],
    value: Range<usize>,
}

impl<'a> Block<'a> {
    /// Checks and takes apart. `None` says that the bytes are damaged, or of another format.
    pub(crate) fn read(block: &'a [u8]) -> Option<Self> {
        let (body, checksum) = block.split_last_chunk()?;
        if crc32c::crc32c(body) != u32::from_le_bytes(*checksum) {
            return None;
        }
        let mut left = body;
        let [format, key_len, 0, 0] = take(&mut left)? else { return None };
        if format != FORMAT {
            return None;
        }
        let mut length = || usize::try_from(u32::from_le_bytes(take(&mut left)?)).ok();
        let (versions_len, canonical_len, value_len) = (length()?, length()?, length()?);
        let mut number = || take(&mut left).map(u64::from_le_bytes);
        let (stored_at_ms, kept_ms, cost_us, tenant) = (number()?, number()?, number()?, number()?);
        let mut part = |len| left.split_off(..len);
        let key = std::str::from_utf8(part(key_len.into())?).ok()?;
        let versions = part(versions_len.checked_mul(Version::BYTES)?)?;
        let canonical = part(canonical_len)?;
        part(value_len)?;
        let kept_ms = (kept_ms != FOR_EVER).then_some(kept_ms);
        let times = Times { stored_at_ms, kept_ms };
        let value = body.len() - value_len..body.len();
        left.is_empty().then_some(Self { key, canonical, times, cost_us, tenant, versions, value })
    }

    /// The indexes and generations that it was made from.
    pub(crate) fn versions(&self) -> impl Iterator<Item = Version> {
        self.versions.as_chunks::<{ Version::BYTES }>().0.iter().filter_map(|bytes| {
            let mut left = bytes.as_slice();
            let index = Uuid::from_bytes(take(&mut left)?);
            let term = u64::from_le_bytes(take(&mut left)?);
            let number = u64::from_le_bytes(take(&mut left)?);
            Some(Version { index, generation: Generation { term, number } })
        })
    }

    /// Where in the block the value is.
    pub(crate) fn value_range(&self) -> Range<usize> {
        self.value.clone()
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*first)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMES: Times = Times { stored_at_ms: 1_000, kept_ms: Some(500) };

    fn versions() -> [Version; 2] {
        [(1, 2, 3), (u128::MAX, u64::MAX, 0)].map(|(index, term, number)| Version {
            index: Uuid::from_u128(index),
            generation: Generation { term, number },
        })
    }

    fn block() -> Bytes {
        let (key, canonical, value) = ("key", b"request".as_slice(), b"answer".as_slice());
        let versions = &versions();
        let content =
            Content { key, versions, canonical, value, times: TIMES, cost_us: 7, tenant: 9 };
        write(&content).unwrap()
    }

    #[test]
    fn a_block_comes_back_as_it_was_written() {
        let bytes = block();
        let read = Block::read(&bytes).unwrap();
        assert_eq!(read.versions().collect::<Vec<_>>(), versions());
        assert_eq!(&bytes[read.value_range()], b"answer");
        assert_eq!((read.key, read.canonical), ("key", &b"request"[..]));
        assert_eq!((read.times, read.cost_us, read.tenant), (TIMES, 7, 9));
    }

    #[test]
    fn any_flipped_bit_and_any_cut_is_noticed() {
        let whole = block();
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Block::read(&bytes).is_none(), "bit {bit}");
        }
        for len in 0..whole.len() {
            assert!(Block::read(&whole[..len]).is_none(), "length {len}");
        }
    }

    #[test]
    fn lengths_are_checked_even_where_the_checksum_is_right() {
        for place in 0..HEADER_BYTES {
            let mut bytes = block().to_vec();
            bytes[place] ^= 0x80;
            let body = bytes.len() - CHECKSUM_BYTES;
            let checksum = crc32c::crc32c(&bytes[..body]).to_le_bytes();
            bytes[body..].copy_from_slice(&checksum);
            assert_eq!(Block::read(&bytes).is_some(), place >= 16, "offset {place}");
        }
    }

    #[test]
    fn a_stepped_clock_neither_revives_nor_lengthens() {
        let check = |kept_ms, now_ms, left| {
            assert_eq!(Times { stored_at_ms: 1_000, kept_ms }.left_ms(now_ms), left, "{now_ms}");
        };
        check(Some(500), 1_000, Some(500));
        check(Some(500), 1_499, Some(1));
        check(Some(500), 1_500, Some(0));
        check(Some(500), u64::MAX, Some(0));
        check(Some(500), 0, Some(500));
        check(None, u64::MAX, None);
    }
}
