//! `_source`: each document's id and its JSON as it was given, in a segment file of our own.
//!
//! Tantivy's document store decompresses a block of neighbours for every document and keeps its
//! cache per reader, which is useless when readers change every few milliseconds; a column of ids
//! does the same with a block of its dictionary. Here a document is one slice of a mapped file, and
//! where it is compressed, it is so by itself, against a dictionary that knows what the documents of
//! the index have in common. The file `<segment>.source`, integers little-endian:
//!
//! ```text
//! frames      the documents, one after another: a tag byte, the id's length in bytes (u8; 255: a
//!             u32 follows that has it), the id, then by the tag
//!               0  the document as it is
//!               1  a zstd frame of it without magic number, checksum and dictionary's id, but with
//!                  the document's size, against the dictionary of this file
//!               2  likewise, without a dictionary
//!               3  the document as it is: compressing it was of no use
//! dictionary  its bytes, if there is one
//! table       for every 16 documents: u64 where their first frame begins, then 16 times u32 where
//!             each frame ends, counted from there (0 past the last document)
//! footer      u128 XXH3 of the dictionary's bytes and u32 their number (0 without one), u32 what
//!             documents came to under it when it was trained, in thousandths, u64 bytes of the
//!             documents with tag 0, u64 where the table begins, u32 number of documents, u32
//!             version, 3
//! ```
//!
//! Version 2 has tag 0 alone, no dictionary, and no more in its footer than the last three; version 1
//! has no ids in its frames either: they are read from the column of `_id`. Merges bring older files up
//! to date. Tantivy appends its own footer with a checksum.
//!
//! New segments are written with tag 0: nobody who writes waits for a compressor. Merges that nobody
//! waits for compress: see [`Merging`]. Invariant: a file is read without any other.

mod dictionary;
mod format;
mod frame;
mod merge;
mod reader;

use std::io::{self, Write};
use std::sync::Arc;

use tantivy::directory::TerminatingWrite;
use tantivy::index::SegmentComponent;
use tantivy::indexer::doc_id_mapping::MappingType;
use tantivy::{
    PluginMergeContext, PluginWriter, PluginWriterContext, Segment, SegmentPlugin, SegmentReader,
};

pub(super) use self::dictionary::Dictionary;
pub(crate) use self::dictionary::PreparedDictionary;
use self::format::Frames;
pub(super) use self::merge::Merging;
pub use self::reader::SourceReader;
pub(super) use self::reader::raw_bytes;
use super::segment_writer::open_write;
use crate::error::Result;

/// The file's extension.
const EXTENSION: &str = "source";

/// The plugin that every index is opened with.
pub(crate) fn plugin() -> Arc<dyn SegmentPlugin> {
    merging(Merging::default())
}

/// The plugin of an index that is opened for one merge.
pub(super) fn merging(merging: Merging) -> Arc<dyn SegmentPlugin> {
    Arc::new(SourcePlugin { merging })
}

/// The extensions that `meta.json` must name for it.
pub(super) fn extensions() -> Vec<String> {
    vec![EXTENSION.to_owned()]
}

struct SourcePlugin {
    merging: Merging,
}

impl SegmentPlugin for SourcePlugin {
    fn extensions(&self) -> &[&str] {
        &[EXTENSION]
    }

    fn create_writer(&self, _: &PluginWriterContext) -> tantivy::Result<Box<dyn PluginWriter>> {
        Err(io::Error::other("new segments are not written by tantivy").into())
    }

    fn merge(&self, ctx: PluginMergeContext) -> tantivy::Result<()> {
        if ctx.doc_id_mapping.mapping_type() == MappingType::Shuffled {
            return Err(io::Error::other("sources cannot be reordered").into());
        }
        let merged = merge_into(ctx.target_segment, ctx.readers.iter(), &self.merging);
        Ok(merged.map_err(io::Error::other)?)
    }
}

/// Writes the sources of the readers' living documents, in their order.
pub(super) fn merge_into<'a>(
    target: &Segment,
    readers: impl Iterator<Item = &'a SegmentReader>,
    merging: &Merging,
) -> Result<()> {
    let inputs = readers.map(merge::Input::open).collect::<Result<Vec<_>>>()?;
    let file = open_write(target, component())?;
    Ok(merge::merge(&inputs, merging, file)?.terminate()?)
}

fn component() -> SegmentComponent {
    SegmentComponent::Custom(EXTENSION.to_owned())
}

/// Writes the sources of a new segment.
pub(super) struct SourceWriter {
    frames: Frames<Vec<u8>>,
}

impl SourceWriter {
    pub(super) fn new() -> Self {
        Self { frames: Frames::new(Vec::new()) }
    }

    /// Adds the next document.
    pub(super) fn push(&mut self, id: &str, source: &[u8]) -> Result<()> {
        Ok(self.frames.push(format::RAW, id, source)?)
    }

    /// The memory that it holds.
    pub(super) fn memory_bytes(&self) -> usize {
        self.frames.capacity()
    }

    /// Writes the file.
    pub(super) fn write(self, segment: &Segment) -> Result<()> {
        let mut file = open_write(segment, component())?;
        file.write_all(&self.frames.finish(None)?)?;
        Ok(file.terminate()?)
    }
}

#[cfg(test)]
mod tests;
