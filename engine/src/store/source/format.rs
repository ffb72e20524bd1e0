//! The layout of a file of sources: its footer, its table, and the writing of both.

use std::io::{self, Write};
use std::ops::Range;

use super::dictionary::Dictionary;

pub(super) const VERSION: u32 = 3;
/// The version whose frames have no ids.
pub(super) const WITHOUT_IDS: u32 = 1;

/// The document as it is.
pub(super) const RAW: u8 = 0;
/// Compressed against the file's dictionary.
pub(super) const WITH_DICTIONARY: u8 = 1;
/// Compressed without one.
pub(super) const ALONE: u8 = 2;
/// The document as it is, which is no longer than it would be compressed.
pub(super) const INCOMPRESSIBLE: u8 = 3;

/// The length byte of an id whose length follows.
pub(super) const LONG_ID: u8 = 255;
pub(super) const GROUP: usize = 16;
pub(super) const GROUP_BYTES: usize = 8 + 4 * GROUP;
/// The footer of the versions before dictionaries, and the end of a newer one.
const SHORT_FOOTER_BYTES: usize = 16;
const FOOTER_BYTES: usize = 48;

/// What a file says of itself.
#[derive(Debug, Clone)]
pub(super) struct Footer {
    pub(super) version: u32,
    pub(super) docs: u32,
    /// Where the frames end.
    pub(super) frames_end: usize,
    /// Where the table begins.
    pub(super) table: usize,
    pub(super) dictionary_hash: u128,
    pub(super) dictionary_ratio: u32,
    /// Bytes of the documents that no merge has tried to compress.
    pub(super) raw_bytes: u64,
}

impl Footer {
    /// Reads the footer of a file; what is wrong with it otherwise.
    pub(super) fn read(data: &[u8]) -> Result<Self, String> {
        let short = data.len().checked_sub(SHORT_FOOTER_BYTES);
        let read =
            |at: usize| Some((u64_at(data, at)?, u32_at(data, at + 8)?, u32_at(data, at + 12)?));
        let (table, docs, version) = short.and_then(read).ok_or("has no footer")?;
        if !(WITHOUT_IDS..=VERSION).contains(&version) {
            return Err(format!("has version [{version}], newer than [{VERSION}]"));
        }
        let table = usize::try_from(table).map_err(|_| "has a table outside of it")?;
        let bytes = if version < VERSION { SHORT_FOOTER_BYTES } else { FOOTER_BYTES };
        let groups = (docs as usize).div_ceil(GROUP);
        let end = groups.checked_mul(GROUP_BYTES).and_then(|size| size.checked_add(table));
        if end.and_then(|end| end.checked_add(bytes)) != Some(data.len()) {
            return Err("has a table of the wrong size".to_owned());
        }
        let mut footer = Self {
            version,
            docs,
            frames_end: table,
            table,
            dictionary_hash: 0,
            dictionary_ratio: 0,
            raw_bytes: table as u64,
        };
        if version == VERSION {
            footer.read_dictionary(data).ok_or("has a dictionary of the wrong size")?;
        }
        Ok(footer)
    }

    fn read_dictionary(&mut self, data: &[u8]) -> Option<()> {
        let at = data.len().checked_sub(FOOTER_BYTES)?;
        self.dictionary_hash = u128::from_le_bytes(data.get(at..at + 16)?.try_into().ok()?);
        self.frames_end = self.table.checked_sub(u32_at(data, at + 16)? as usize)?;
        self.dictionary_ratio = u32_at(data, at + 20)?;
        self.raw_bytes = u64_at(data, at + 24)?;
        (self.dictionary().is_empty() == (self.dictionary_hash == 0)).then_some(())
    }

    /// Where the dictionary lies; empty without one.
    pub(super) fn dictionary(&self) -> Range<usize> {
        self.frames_end..self.table
    }

    /// Where a document's frame lies.
    pub(super) fn frame(&self, data: &[u8], doc: u32) -> Option<Range<usize>> {
        let group = self.table + doc as usize / GROUP * GROUP_BYTES;
        let base = usize::try_from(u64_at(data, group)?).ok()?;
        let end = |index: usize| {
            u32_at(data, group + 8 + 4 * index).and_then(|end| base.checked_add(end as usize))
        };
        let index = doc as usize % GROUP;
        let start = if index == 0 { base } else { end(index - 1)? };
        let end = end(index)?;
        (doc < self.docs && start < end && end <= self.frames_end).then_some(start..end)
    }
}

pub(super) fn u64_at(data: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(data.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

pub(super) fn u32_at(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(data.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// Writes frames, then the dictionary, the table and the footer.
pub(super) struct Frames<W> {
    sink: W,
    position: u64,
    docs: u32,
    base: u64,
    raw_bytes: u64,
    table: Vec<u8>,
}

impl<W: Write> Frames<W> {
    pub(super) fn new(sink: W) -> Self {
        Self { sink, position: 0, docs: 0, base: 0, raw_bytes: 0, table: Vec::new() }
    }

    /// Adds a document; `body` is what the tag says.
    pub(super) fn push(&mut self, tag: u8, id: &str, body: &[u8]) -> io::Result<()> {
        if tag == RAW {
            self.raw_bytes += body.len() as u64;
        }
        if let Some(length) = u8::try_from(id.len()).ok().filter(|length| *length < LONG_ID) {
            return self.push_parts(&[&[tag, length], id.as_bytes(), body]);
        }
        let length = u32::try_from(id.len()).map_err(|_| io::Error::other("an id is too long"))?;
        self.push_parts(&[&[tag, LONG_ID], &length.to_le_bytes(), id.as_bytes(), body])
    }

    pub(super) fn push_parts(&mut self, parts: &[&[u8]]) -> io::Result<()> {
        if (self.docs as usize).is_multiple_of(GROUP) {
            self.base = self.position;
            self.table.extend_from_slice(&self.base.to_le_bytes());
        }
        for part in parts {
            self.sink.write_all(part)?;
            self.position += part.len() as u64;
        }
        let end = u32::try_from(self.position - self.base)
            .map_err(|_| io::Error::other("sixteen sources are longer than 4 GiB together"))?;
        self.table.extend_from_slice(&end.to_le_bytes());
        self.docs += 1;
        Ok(())
    }

    /// Ends the file; it carries the dictionary that its documents are compressed against.
    pub(super) fn finish(mut self, dictionary: Option<&Dictionary>) -> io::Result<W> {
        let groups = (self.docs as usize).div_ceil(GROUP);
        self.table.resize(groups * GROUP_BYTES, 0);
        let (hash, bytes, ratio) = dictionary.map_or((0, &[][..], 0), Dictionary::parts);
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        self.sink.write_all(bytes)?;
        self.sink.write_all(&self.table)?;
        self.sink.write_all(&hash.to_le_bytes())?;
        self.sink.write_all(&length.to_le_bytes())?;
        self.sink.write_all(&ratio.to_le_bytes())?;
        self.sink.write_all(&self.raw_bytes.to_le_bytes())?;
        self.sink.write_all(&(self.position + bytes.len() as u64).to_le_bytes())?;
        self.sink.write_all(&self.docs.to_le_bytes())?;
        self.sink.write_all(&VERSION.to_le_bytes())?;
        Ok(self.sink)
    }
}

impl Frames<Vec<u8>> {
    /// Bytes that it holds in memory.
    pub(super) fn capacity(&self) -> usize {
        self.sink.capacity() + self.table.capacity()
    }
}
