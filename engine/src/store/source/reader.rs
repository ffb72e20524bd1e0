//! Reading the sources of one segment.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use tantivy::directory::OwnedBytes;
use tantivy::index::{SegmentComponent, SegmentId};
use tantivy::{DocId, SegmentReader};

use super::EXTENSION;
use super::dictionary::{Dictionary, PreparedDictionary};
use super::format::{
    ALONE, Footer, INCOMPRESSIBLE, LONG_ID, RAW, VERSION, WITH_DICTIONARY, WITHOUT_IDS, u32_at,
};
use super::frame::decompress;
use crate::error::{Error, ErrorKind, Result};

/// The sources of one segment. Opening costs about a microsecond, unless it has a dictionary that
/// nobody else reads with: keep it for several documents.
#[derive(Debug, Clone)]
pub struct SourceReader {
    segment: SegmentId,
    data: OwnedBytes,
    footer: Footer,
    dictionary: Option<Arc<PreparedDictionary>>,
}

/// One frame's parts, as places in the file.
pub(super) struct Frame {
    pub(super) tag: u8,
    id: Option<Range<usize>>,
    body: Range<usize>,
}

impl SourceReader {
    /// Opens the sources of a segment.
    pub fn open(reader: &SegmentReader) -> Result<Self> {
        let segment = reader.segment_id();
        let (data, footer) = open(reader)?;
        if footer.docs != reader.max_doc() {
            let what = format!("has [{}] documents and not [{}]", footer.docs, reader.max_doc());
            return Err(damaged(segment, &what));
        }
        Self::assemble(segment, data, footer)
    }

    #[cfg(test)]
    pub(super) fn parse(segment: SegmentId, data: OwnedBytes) -> Result<Self> {
        let footer = Footer::read(&data).map_err(|what| damaged(segment, &what))?;
        Self::assemble(segment, data, footer)
    }

    fn assemble(segment: SegmentId, data: OwnedBytes, footer: Footer) -> Result<Self> {
        let mut dictionary = None;
        if !footer.dictionary().is_empty() {
            let bytes = data.get(footer.dictionary()).unwrap_or_default();
            let prepared =
                PreparedDictionary::new(footer.dictionary_hash, bytes).ok_or_else(|| {
                    damaged(segment, "has a dictionary that is not what it should be")
                })?;
            dictionary = Some(prepared);
        }
        Ok(Self { segment, data, footer, dictionary })
    }

    /// The document as it was given.
    pub fn read(&self, doc: DocId) -> Result<Bytes> {
        let frame = self.frame(doc)?;
        let dictionary = match frame.tag {
            RAW | INCOMPRESSIBLE => return Ok(Bytes::from_owner(self.data.slice(frame.body))),
            ALONE => None,
            // A frame's tag is one of those here, and this one needs what it says.
            _ => Some(self.dictionary.as_deref().ok_or_else(|| {
                self.damaged(doc, "is compressed against a dictionary that is not there")
            })?),
        };
        let document = decompress(self.body(&frame), dictionary);
        document.map(Bytes::from).map_err(|what| self.damaged(doc, &what))
    }

    /// The document's id; `None` where the file is of a version without.
    pub fn id(&self, doc: DocId) -> Result<Option<&str>> {
        self.id_of(doc, &self.frame(doc)?)
    }

    pub(super) fn id_of(&self, doc: DocId, frame: &Frame) -> Result<Option<&str>> {
        let Some(id) = frame.id.clone() else { return Ok(None) };
        let id = self.data.get(id).and_then(|id| std::str::from_utf8(id).ok());
        id.map(Some).ok_or_else(|| self.damaged(doc, "has an id that is no text"))
    }

    /// The bytes of the document as they lie in the file.
    pub(super) fn body(&self, frame: &Frame) -> &[u8] {
        self.data.get(frame.body.clone()).unwrap_or_default()
    }

    pub(super) fn frame(&self, doc: DocId) -> Result<Frame> {
        let Range { start, end } = self
            .footer
            .frame(&self.data, doc)
            .ok_or_else(|| self.damaged(doc, "has no place in the file"))?;
        let frame = || {
            let tag = *self.data.get(start)?;
            if self.footer.version == WITHOUT_IDS {
                return Some(Frame { tag, id: None, body: start + 1..end });
            }
            let (length, id) = match *self.data.get(start + 1)? {
                LONG_ID => (u32_at(&self.data, start + 2)? as usize, start + 6),
                length => (usize::from(length), start + 2),
            };
            let body = id.checked_add(length).filter(|body| *body <= end)?;
            Some(Frame { tag, id: Some(id..body), body: body..end })
        };
        let frame = frame().ok_or_else(|| self.damaged(doc, "has a frame without end"))?;
        match frame.tag {
            RAW => Ok(frame),
            WITH_DICTIONARY | ALONE | INCOMPRESSIBLE if self.footer.version == VERSION => Ok(frame),
            tag => Err(self.damaged(doc, &format!("has the frame tag [{tag}]"))),
        }
    }

    /// The dictionary as it lies in the file.
    pub(in crate::store) fn carried(&self) -> Option<Dictionary> {
        let prepared = self.dictionary.as_ref()?;
        let bytes = self.data.get(self.footer.dictionary())?;
        let ratio = self.footer.dictionary_ratio;
        Some(Dictionary::new(prepared.hash(), Bytes::copy_from_slice(bytes), ratio))
    }

    /// The dictionary, to be held.
    pub(crate) fn dictionary(&self) -> Option<&Arc<PreparedDictionary>> {
        self.dictionary.as_ref()
    }

    /// Bytes of the frames, ids included.
    pub(super) fn frame_bytes(&self) -> usize {
        self.footer.frames_end
    }

    /// What its documents came to under its dictionary when that was trained, in thousandths.
    pub(super) fn ratio(&self) -> u32 {
        if self.dictionary.is_some() { self.footer.dictionary_ratio.max(1) } else { 1000 }
    }

    pub(super) fn has_ids(&self) -> bool {
        self.footer.version != WITHOUT_IDS
    }

    #[cfg(test)]
    pub(in crate::store) fn version(&self) -> u32 {
        self.footer.version
    }

    #[cfg(test)]
    pub(super) fn raw_bytes(&self) -> u64 {
        self.footer.raw_bytes
    }

    pub(super) fn docs(&self) -> u32 {
        self.footer.docs
    }

    pub(super) fn damaged(&self, doc: DocId, what: &str) -> Error {
        damaged(self.segment, &format!("has document [{doc}], which {what}"))
    }
}

/// Bytes of documents that no merge has tried to compress; 0 for a file that cannot be read, which
/// says so when it is.
pub(in crate::store) fn raw_bytes(reader: &SegmentReader) -> u64 {
    open(reader).map_or(0, |(_, footer)| footer.raw_bytes)
}

fn open(reader: &SegmentReader) -> Result<(OwnedBytes, Footer)> {
    let file = reader
        .open_read(SegmentComponent::Custom(EXTENSION.to_owned()))
        .map_err(|error| Error::from(tantivy::TantivyError::from(error)))?;
    let data = file.read_bytes()?;
    let footer = Footer::read(&data).map_err(|what| damaged(reader.segment_id(), &what))?;
    Ok((data, footer))
}

fn damaged(segment: SegmentId, what: &str) -> Error {
    let segment = segment.uuid_string();
    Error::new(ErrorKind::Corrupt, format!("the source file of segment [{segment}] {what}"))
}
