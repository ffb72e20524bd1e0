//! The bytes of a file's header and of a record's frame. See the drawings in [`super`].

/// The size of a file's header.
pub(super) const HEADER_BYTES: usize = 40;
/// The size of a frame around an empty payload.
pub(super) const FRAME_BYTES: usize = 17;
/// The version that this code writes, and the newest that it reads.
pub(super) const VERSION: u16 = 1;
/// Kinds from here on belong to the log itself.
pub(super) const FIRST_RESERVED_KIND: u8 = 240;
/// Ends a copy that was synced, this record included, before the file got its name.
pub(super) const KIND_COPIED: u8 = 252;
/// Ends a base; its sequence number is that of the record that would follow.
pub(super) const KIND_END: u8 = 253;
/// Stands in a repaired file for lost records; its sequence number is that of the next record.
pub(super) const KIND_LOST: u8 = 254;
/// Says that every record below its sequence number had been synced when it was written.
pub(super) const KIND_MARK: u8 = 255;

const MAGIC: [u8; 8] = *b"EGRETAOF";
/// The sequence number and the kind, which the length counts beside the payload.
const COUNTED_BYTES: usize = 9;
const FLAG_GAP_BEFORE: u8 = 1;

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    Base,
    Increment,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) role: Role,
    /// Records before this file's first may be missing: the file before it failed or was lost.
    pub(super) gap_before: bool,
    pub(super) salt: u64,
    pub(super) number: u64,
    pub(super) first_sequence: u64,
}

/// Why a header cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BadHeader {
    Damaged(&'static str),
    Newer(u16),
}

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
        bytes[10] = if self.role == Role::Base { 1 } else { 2 };
        bytes[11] = if self.gap_before { FLAG_GAP_BEFORE } else { 0 };
        bytes[16..24].copy_from_slice(&self.salt.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.number.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.first_sequence.to_le_bytes());
        let checksum = crc32c::crc32c(&bytes);
        bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    pub(super) fn decode(file: &[u8]) -> Result<Self, BadHeader> {
        let bytes: [u8; HEADER_BYTES] =
            array_at(file, 0).ok_or(BadHeader::Damaged("the header is cut short"))?;
        if bytes[..8] != MAGIC {
            return Err(BadHeader::Damaged("this is no file of a log"));
        }
        let mut zeroed = bytes;
        zeroed[12..16].fill(0);
        if u32_at(&bytes, 12) != Some(crc32c::crc32c(&zeroed)) {
            return Err(BadHeader::Damaged("the header's checksum is wrong"));
        }
        let version = u16::from_le_bytes([bytes[8], bytes[9]]);
        if version > VERSION {
            return Err(BadHeader::Newer(version));
        }
        let role = match bytes[10] {
            1 => Role::Base,
            2 => Role::Increment,
            _ => return Err(BadHeader::Damaged("the header names an unknown role")),
        };
        if bytes[11] & !FLAG_GAP_BEFORE != 0 {
            return Err(BadHeader::Damaged("the header has an unknown flag"));
        }
        let number = |at| u64_at(&bytes, at).unwrap_or_default();
        Ok(Self {
            role,
            gap_before: bytes[11] & FLAG_GAP_BEFORE != 0,
            salt: number(16),
            number: number(24),
            first_sequence: number(32),
        })
    }
}

/// One record as it lies in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    pub(super) sequence: u64,
    pub(super) kind: u8,
    pub(super) payload: &'a [u8],
}

impl Frame<'_> {
    pub(super) fn len(&self) -> usize {
        FRAME_BYTES + self.payload.len()
    }

    /// Appends the frame. The payload must be shorter than 4 GiB, which the options see to.
    pub(super) fn encode(&self, salt: u64, out: &mut Vec<u8>) {
        let length = u32::try_from(self.payload.len() + COUNTED_BYTES).unwrap_or(u32::MAX);
        let mut counted = [0; COUNTED_BYTES];
        counted[..8].copy_from_slice(&self.sequence.to_le_bytes());
        counted[8] = self.kind;
        let checksum = crc32c::crc32c_append(checksum_start(salt, length), &counted);
        let checksum = crc32c::crc32c_append(checksum, self.payload);
        out.reserve(self.len());
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&checksum.to_le_bytes());
        out.extend_from_slice(&counted);
        out.extend_from_slice(self.payload);
    }
}

impl<'a> Frame<'a> {
    /// The frame at the beginning of the bytes, or what is wrong with it.
    pub(super) fn decode(bytes: &'a [u8], salt: u64) -> Result<Self, &'static str> {
        const CUT: &str = "the record is cut short";
        let length = u32_at(bytes, 0).ok_or(CUT)?;
        let checksum = u32_at(bytes, 4).ok_or(CUT)?;
        let sequence = u64_at(bytes, 8).ok_or(CUT)?;
        let kind = *bytes.get(16).ok_or(CUT)?;
        let end = usize::try_from(length).unwrap_or(usize::MAX).saturating_add(8);
        if end < FRAME_BYTES {
            return Err("the record's length is too small");
        }
        let counted = bytes.get(8..end).ok_or("the record's length points past the end")?;
        if crc32c::crc32c_append(checksum_start(salt, length), counted) != checksum {
            return Err("the record's checksum is wrong");
        }
        Ok(Self { sequence, kind, payload: counted.get(COUNTED_BYTES..).unwrap_or_default() })
    }
}

/// The sequence number that a frame at the beginning of the bytes would have.
pub(super) fn sequence_at(bytes: &[u8]) -> Option<u64> {
    u64_at(bytes, 8)
}

/// The salt, drawn for each log, keeps bytes of a payload from passing for a frame.
fn checksum_start(salt: u64, length: u32) -> u32 {
    let salted = crc32c::crc32c(&salt.to_le_bytes());
    crc32c::crc32c_append(salted, &length.to_le_bytes())
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array_at(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    array_at(bytes, at).map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_round_trips_and_any_flipped_bit_shows() {
        let header = Header {
            role: Role::Increment,
            gap_before: true,
            salt: 7,
            number: 8,
            first_sequence: 9,
        };
        let bytes = header.encode();
        assert_eq!(Header::decode(&bytes), Ok(header));
        for bit in 0..HEADER_BYTES * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::decode(&flipped).is_err(), "bit {bit}");
        }
        assert!(Header::decode(&bytes[..HEADER_BYTES - 1]).is_err());
        let mut newer = bytes;
        newer[8] = 2;
        newer[12..16].fill(0);
        let checksum = crc32c::crc32c(&newer);
        newer[12..16].copy_from_slice(&checksum.to_le_bytes());
        assert_eq!(Header::decode(&newer), Err(BadHeader::Newer(2)));
    }

    #[test]
    fn a_frame_has_the_documented_bytes() {
        let mut bytes = Vec::new();
        Frame { sequence: 0x0102, kind: 5, payload: b"ab" }.encode(1, &mut bytes);
        let checksum = crc32c::crc32c(b"\x01\0\0\0\0\0\0\0\x0b\0\0\0\x02\x01\0\0\0\0\0\0\x05ab");
        let mut expected = vec![11, 0, 0, 0];
        expected.extend(checksum.to_le_bytes());
        expected.extend(b"\x02\x01\0\0\0\0\0\0\x05ab");
        assert_eq!(bytes, expected);
        assert!(Frame::decode(&bytes, 2).is_err(), "another log's salt");
    }
}
