//! Reads big-endian fields from a message; every read past the end names the field.

use bytes::Bytes;

use super::DecodeError;

/// A place in a message.
pub(super) struct Reader<'a> {
    data: &'a Bytes,
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(data: &'a Bytes) -> Self {
        Self { data, at: 0 }
    }

    pub(super) fn remaining(&self) -> usize {
        self.data.len().saturating_sub(self.at)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], DecodeError> {
        let rest = self.data.get(self.at..).unwrap_or_default();
        let found = rest.first_chunk::<N>().ok_or(DecodeError::Truncated(field))?;
        self.at += N;
        Ok(*found)
    }

    pub(super) fn u8(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        self.array::<1>(field).map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self, field: &'static str) -> Result<u16, DecodeError> {
        self.array(field).map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        self.array(field).map(u32::from_be_bytes)
    }

    pub(super) fn i32(&mut self, field: &'static str) -> Result<i32, DecodeError> {
        self.array(field).map(i32::from_be_bytes)
    }

    pub(super) fn u64(&mut self, field: &'static str) -> Result<u64, DecodeError> {
        self.array(field).map(u64::from_be_bytes)
    }

    pub(super) fn i64(&mut self, field: &'static str) -> Result<i64, DecodeError> {
        self.array(field).map(i64::from_be_bytes)
    }

    /// A count or length, which is never negative.
    pub(super) fn length(&mut self, field: &'static str) -> Result<usize, DecodeError> {
        let value = self.i32(field)?;
        usize::try_from(value).map_err(|_| DecodeError::Unknown { field, value: value.into() })
    }

    /// So many bytes, as a slice of the message.
    pub(super) fn bytes(
        &mut self,
        length: usize,
        field: &'static str,
    ) -> Result<Bytes, DecodeError> {
        if self.remaining() < length {
            return Err(DecodeError::Truncated(field));
        }
        let found = self.data.slice(self.at..self.at + length);
        self.at += length;
        Ok(found)
    }

    /// A text that ends with a zero byte.
    pub(super) fn text(&mut self, field: &'static str) -> Result<String, DecodeError> {
        let rest = self.data.get(self.at..).unwrap_or_default();
        let length =
            rest.iter().position(|&byte| byte == 0).ok_or(DecodeError::Truncated(field))?;
        let (text, _) = rest.split_at(length);
        let text = std::str::from_utf8(text).map_err(|_| DecodeError::NotUtf8(field))?;
        self.at += length + 1;
        Ok(text.to_owned())
    }
}
