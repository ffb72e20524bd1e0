//! The files of a new segment, from its documents.
//!
//! As tantivy's `SegmentWriter`, whose place it takes: the empty document store is written by tantivy's
//! part, the inverted index, the columns and the sources by ours.

use tantivy::Segment;
use tantivy::directory::{FileSlice, TerminatingWrite as _, WritePtr};
use tantivy::index::SegmentComponent;
use tantivy::schema::TantivyDocument;
use tantivy::schema::document::Document;
use tantivy::store::StoreWriter;

use super::columns::ColumnsWriter;
use super::inverted::InvertedIndexWriter;
use super::source::SourceWriter;
use crate::error::Result;

/// Collects the documents of a segment, and writes its files.
pub(crate) struct SegmentWriter {
    segment: Segment,
    docs: u32,
    inverted: InvertedIndexWriter,
    columns: ColumnsWriter,
    sources: SourceWriter,
}

impl SegmentWriter {
    /// For a segment whose schema has texts, numbers and truth values only, none of them stored.
    pub(crate) fn new(segment: Segment) -> Result<Self> {
        let schema = segment.schema();
        Ok(Self {
            docs: 0,
            inverted: InvertedIndexWriter::new(&schema)?,
            columns: ColumnsWriter::new(&schema)?,
            sources: SourceWriter::new(),
            segment,
        })
    }

    /// How many documents it has.
    pub(crate) fn max_doc(&self) -> u32 {
        self.docs
    }

    /// An estimate of the memory that it holds.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.inverted.memory_bytes() + self.columns.memory_bytes() + self.sources.memory_bytes()
    }

    /// Adds a document. After an error, or a panic in tantivy, the writer must be thrown away.
    pub(crate) fn add<D: Document>(&mut self, id: &str, document: &D, source: &[u8]) -> Result<()> {
        self.sources.push(id, source)?;
        self.inverted.add(self.docs, document)?;
        self.columns.add(self.docs, document)?;
        self.docs += 1;
        Ok(())
    }

    /// Writes the files.
    pub(crate) fn finish(self) -> Result<()> {
        let segment = &self.segment;
        self.inverted.write(segment, self.docs)?;
        let mut columns = open_write(segment, SegmentComponent::FastFields)?;
        self.columns.write(self.docs, &mut columns)?;
        columns.terminate()?;
        write_empty_store(segment, self.docs)?;
        self.sources.write(segment)
    }
}

/// Tantivy's merges read a document store of every segment.
pub(super) fn write_empty_store(segment: &Segment, docs: u32) -> Result<()> {
    let settings = segment.index().settings();
    let file = open_write(segment, SegmentComponent::Store)?;
    let (compression, block_size) = (settings.docstore_compression, settings.docstore_blocksize);
    let mut store = StoreWriter::new(file, compression, block_size, false)?;
    let (schema, empty) = (segment.schema(), TantivyDocument::default());
    for _ in 0..docs {
        store.store(&empty, &schema)?;
    }
    Ok(store.close()?)
}

/// A new file of a segment.
pub(super) fn open_write(
    segment: &Segment,
    component: SegmentComponent,
) -> tantivy::Result<WritePtr> {
    Ok(segment.open_write(component)?)
}

/// A file of a segment.
pub(super) fn open_read(
    segment: &Segment,
    component: SegmentComponent,
) -> tantivy::Result<FileSlice> {
    Ok(segment.open_read(component)?)
}
