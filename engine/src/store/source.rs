//! `_source`: each document's id and its JSON as it was given, in a segment file of our own.
//!
//! Tantivy's document store decompresses a block of neighbours for every document and keeps its
//! cache per reader, which is useless when readers change every few milliseconds; a column of ids
//! does the same with a block of its dictionary. Here a document is one slice of a mapped file. The
//! file `<segment>.source`, integers little-endian:
//!
//! ```text
//! frames   the documents, one after another: a tag byte, the id's length in bytes (u8; 255: a u32
//!          follows that has it), the id, then by the tag
//!            0  the document as it is
//! table    for every 16 documents: u64 where their first frame begins, then 16 times u32 where
//!          each frame ends, counted from there (0 past the last document)
//! footer   u64 where the table begins, u32 number of documents, u32 version, 2
//! ```
//!
//! Version 1 had no ids in its frames: they are read from the column of `_id`. Merges copy frames
//! and bring older ones up to date. Tantivy appends its own footer with a checksum.

use std::any::Any;
use std::io::{self, Write};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use tantivy::directory::{OwnedBytes, TerminatingWrite, WritePtr};
use tantivy::index::SegmentComponent;
use tantivy::indexer::doc_id_mapping::MappingType;
use tantivy::indexer::{DocIdMapping, SegmentWriter};
use tantivy::{
    DocId, PluginMergeContext, PluginWriter, PluginWriterContext, Segment, SegmentPlugin,
    SegmentReader,
};

use crate::error::{Error, ErrorKind, Result};
use crate::mapping::schema::ID;

/// The file's extension.
const EXTENSION: &str = "source";
const VERSION: u32 = 2;
/// The version whose frames have no ids.
const WITHOUT_IDS: u32 = 1;
const RAW: u8 = 0;
/// The length byte of an id whose length follows.
const LONG_ID: u8 = 255;
const GROUP: usize = 16;
const GROUP_BYTES: usize = 8 + 4 * GROUP;
const FOOTER_BYTES: usize = 16;

/// The document in a segment, as it was given.
pub fn read(reader: &SegmentReader, doc: DocId) -> Result<Bytes> {
    SourceReader::open(reader)?.read(doc)
}

/// The sources of one segment. Opening costs about a microsecond: keep it for several documents.
#[derive(Debug, Clone)]
pub struct SourceReader {
    data: OwnedBytes,
    table: usize,
    docs: u32,
    has_ids: bool,
}

/// One frame's parts, as places in the file.
struct Frame {
    tag: u8,
    id: Option<Range<usize>>,
    body: Range<usize>,
}

impl SourceReader {
    /// Opens the sources of a segment.
    pub fn open(reader: &SegmentReader) -> Result<Self> {
        let file = reader
            .open_read(SegmentComponent::Custom(EXTENSION.to_owned()))
            .map_err(|error| Error::from(tantivy::TantivyError::from(error)))?;
        Self::parse(file.read_bytes()?)
    }

    fn parse(data: OwnedBytes) -> Result<Self> {
        let (table, docs, version) = footer(&data).ok_or_else(|| damaged("has no footer"))?;
        if !(WITHOUT_IDS..=VERSION).contains(&version) {
            return Err(damaged(&format!("has version [{version}], newer than [{VERSION}]")));
        }
        let groups = (docs as usize).div_ceil(GROUP);
        let end = groups.checked_mul(GROUP_BYTES).and_then(|size| size.checked_add(table));
        if end.and_then(|end| end.checked_add(FOOTER_BYTES)) != Some(data.len()) {
            return Err(damaged("has a table of the wrong size"));
        }
        Ok(Self { data, table, docs, has_ids: version != WITHOUT_IDS })
    }

    /// The document as it was given.
    pub fn read(&self, doc: DocId) -> Result<Bytes> {
        let frame = self.frame(doc)?;
        match frame.tag {
            RAW => Ok(Bytes::from_owner(self.data.slice(frame.body))),
            tag => Err(damaged(&format!("has the frame tag [{tag}] for document [{doc}]"))),
        }
    }

    /// The document's id; `None` where the file is of a version without.
    pub fn id(&self, doc: DocId) -> Result<Option<&str>> {
        let Some(id) = self.frame(doc)?.id else { return Ok(None) };
        let id = self.data.get(id).and_then(|id| std::str::from_utf8(id).ok());
        let broken = || damaged(&format!("has an id of document [{doc}] that is no text"));
        id.map(Some).ok_or_else(broken)
    }

    fn frame(&self, doc: DocId) -> Result<Frame> {
        let (start, end) = self.frame_bounds(doc)?;
        let frame = || {
            let tag = *self.data.get(start)?;
            if !self.has_ids {
                return Some(Frame { tag, id: None, body: start + 1..end });
            }
            let (length, id) = match *self.data.get(start + 1)? {
                LONG_ID => (u32_at(&self.data, start + 2)? as usize, start + 6),
                length => (usize::from(length), start + 2),
            };
            let body = id.checked_add(length).filter(|body| *body <= end)?;
            Some(Frame { tag, id: Some(id..body), body: body..end })
        };
        frame().ok_or_else(|| damaged(&format!("has a frame without end for document [{doc}]")))
    }

    /// The frames of all documents in `docs`, as they are in a file of the newest version.
    fn copy_to<W: Write>(
        &self,
        reader: &SegmentReader,
        docs: impl Iterator<Item = DocId>,
        into: &mut Frames<W>,
    ) -> Result<()> {
        if self.has_ids {
            for doc in docs {
                let (start, end) = self.frame_bounds(doc)?;
                let frame = self.data.get(start..end);
                into.push_frame(&[frame.ok_or_else(|| damaged("has a frame outside of it"))?])?;
            }
            return Ok(());
        }
        let ids = reader.fast_fields().str(ID)?;
        let ids = ids.ok_or_else(|| damaged("has no ids, and neither has the segment"))?;
        let mut id = String::new();
        for doc in docs {
            let ordinal = ids.ords().first(doc);
            let known = ordinal.map(|ordinal| ids.ord_to_str(ordinal, &mut id)).transpose()?;
            if known != Some(true) {
                return Err(damaged(&format!("has document [{doc}], which has no id")));
            }
            into.push(&id, &self.read(doc)?)?;
        }
        Ok(())
    }

    fn frame_bounds(&self, doc: DocId) -> Result<(usize, usize)> {
        let bounds = || {
            let group = self.table + doc as usize / GROUP * GROUP_BYTES;
            let base = usize::try_from(u64_at(&self.data, group)?).ok()?;
            let ends = |index: usize| {
                u32_at(&self.data, group + 8 + 4 * index).map(|end| base + end as usize)
            };
            let index = doc as usize % GROUP;
            let start = if index == 0 { base } else { ends(index - 1)? };
            let end = ends(index)?;
            (doc < self.docs && start < end && end <= self.table).then_some((start, end))
        };
        bounds().ok_or_else(|| damaged(&format!("has no frame for document [{doc}]")))
    }
}

fn footer(data: &[u8]) -> Option<(usize, u32, u32)> {
    let at = data.len().checked_sub(FOOTER_BYTES)?;
    let table = usize::try_from(u64_at(data, at)?).ok()?;
    Some((table, u32_at(data, at + 8)?, u32_at(data, at + 12)?))
}

fn u64_at(data: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(data.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

fn u32_at(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(data.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn damaged(what: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("a source file {what}"))
}

/// The plugin that every index is opened with.
pub(crate) fn plugin() -> Arc<dyn SegmentPlugin> {
    Arc::new(SourcePlugin)
}

/// The extensions that `meta.json` must name for it.
pub(super) fn extensions() -> Vec<String> {
    vec![EXTENSION.to_owned()]
}

/// Gives id and source of the document that is added next, or was added last, to a segment.
pub(crate) fn push(writer: &mut SegmentWriter, id: &str, source: &[u8]) -> Result<()> {
    let sources = writer
        .custom_plugin_writer_mut(EXTENSION)
        .and_then(|plugin| plugin.as_any_mut().downcast_mut::<SourceWriter>());
    match sources {
        Some(sources) => Ok(sources.frames.push(id, source)?),
        None => Err(Error::new(ErrorKind::Internal, "the index was opened without its sources")),
    }
}

struct SourcePlugin;

impl SegmentPlugin for SourcePlugin {
    fn extensions(&self) -> &[&str] {
        &[EXTENSION]
    }

    fn create_writer(&self, _: &PluginWriterContext) -> tantivy::Result<Box<dyn PluginWriter>> {
        Ok(Box::new(SourceWriter { frames: Frames::new(Vec::new()) }))
    }

    fn merge(&self, ctx: PluginMergeContext) -> tantivy::Result<()> {
        if ctx.doc_id_mapping.mapping_type() == MappingType::Shuffled {
            return Err(io::Error::other("sources cannot be reordered").into());
        }
        let mut frames = Frames::new(open_write(ctx.target_segment)?);
        for reader in ctx.readers {
            let source = SourceReader::open(reader).map_err(io::Error::other)?;
            let copied = source.copy_to(reader, reader.doc_ids_alive(), &mut frames);
            copied.map_err(io::Error::other)?;
        }
        Ok(frames.finish()?.terminate()?)
    }
}

fn open_write(segment: &Segment) -> tantivy::Result<WritePtr> {
    Ok(segment.open_write(SegmentComponent::Custom(EXTENSION.to_owned()))?)
}

/// Writes frames, then the table and the footer.
struct Frames<W> {
    sink: W,
    position: u64,
    docs: u32,
    base: u64,
    table: Vec<u8>,
}

impl<W: Write> Frames<W> {
    fn new(sink: W) -> Self {
        Self { sink, position: 0, docs: 0, base: 0, table: Vec::new() }
    }

    fn push(&mut self, id: &str, source: &[u8]) -> io::Result<()> {
        if let Some(length) = u8::try_from(id.len()).ok().filter(|length| *length < LONG_ID) {
            return self.push_frame(&[&[RAW, length], id.as_bytes(), source]);
        }
        let length = u32::try_from(id.len()).map_err(|_| io::Error::other("an id is too long"))?;
        self.push_frame(&[&[RAW, LONG_ID], &length.to_le_bytes(), id.as_bytes(), source])
    }

    fn push_frame(&mut self, parts: &[&[u8]]) -> io::Result<()> {
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

    fn finish(mut self) -> io::Result<W> {
        let groups = (self.docs as usize).div_ceil(GROUP);
        self.table.resize(groups * GROUP_BYTES, 0);
        self.sink.write_all(&self.table)?;
        self.sink.write_all(&self.position.to_le_bytes())?;
        self.sink.write_all(&self.docs.to_le_bytes())?;
        self.sink.write_all(&VERSION.to_le_bytes())?;
        Ok(self.sink)
    }
}

struct SourceWriter {
    frames: Frames<Vec<u8>>,
}

impl PluginWriter for SourceWriter {
    fn serialize(
        self: Box<Self>,
        segment: &Segment,
        doc_id_map: Option<&DocIdMapping>,
    ) -> tantivy::Result<()> {
        if doc_id_map.is_some() {
            return Err(io::Error::other("sources cannot be reordered").into());
        }
        let mut file = open_write(segment)?;
        file.write_all(&self.frames.finish()?)?;
        Ok(file.terminate()?)
    }

    fn mem_usage(&self) -> usize {
        self.frames.sink.capacity() + self.frames.table.capacity()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

#[cfg(test)]
mod tests;
