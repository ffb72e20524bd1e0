//! The inverted index of a new segment: which documents have a term, how often and where.
//!
//! Tantivy's writer keeps one hash table for all fields and a chain of small blocks for each term,
//! and calls through an interface for every token. Here a field has a table of its own
//! ([`terms`]), and what was found is one list of numbers in the order of the documents
//! ([`fields`]); when the segment is finished, the terms are sorted once and the list is dealt out to
//! them ([`postings`], [`dictionary`]). The files are tantivy's, and what reads them is, too. Segments
//! are merged term by term ([`merge`](mod@merge)).
//!
//! Invariant: a segment has the same terms, documents, frequencies, positions and norms as if tantivy
//! had written it (`tests` compare them).

pub(super) mod dictionary;
mod fields;
mod merge;
mod postings;
pub(super) mod terms;

#[cfg(test)]
mod tests;

use std::io::{self, Write as _};

use tantivy::Segment;
use tantivy::directory::{CompositeWrite, FileSlice, WritePtr};
use tantivy::fieldnorm::{FieldNormReader, FieldNormsSerializer};
use tantivy::index::SegmentComponent;
use tantivy::schema::document::{Document, ReferenceValue, Value as _};
use tantivy::schema::{Field, FieldEntry, Schema};

use self::fields::FieldWriter;
pub(super) use self::merge::{Input, is_fit, merge};
use self::postings::{HANDED_OVER, PostingsWriter};
use super::segment_writer::open_write;
use crate::error::{Error, ErrorKind, Result};

/// Collects documents, and writes their terms.
pub(super) struct InvertedIndexWriter {
    /// By the fields' numbers; `None` for those that are not indexed.
    fields: Vec<Option<FieldWriter>>,
}

impl InvertedIndexWriter {
    /// For the documents of a schema. An analyzer that is not known is an error.
    pub(super) fn new(schema: &Schema) -> Result<Self> {
        let writer =
            |entry: &FieldEntry| entry.is_indexed().then(|| FieldWriter::new(entry)).transpose();
        let fields: Result<_> = schema.fields().map(|(_, entry)| writer(entry)).collect();
        Ok(Self { fields: fields? })
    }

    /// Adds a document; their numbers rise. After an error nothing else may be asked of this.
    pub(super) fn add<D: Document>(&mut self, doc: u32, document: &D) -> Result<()> {
        for (field, value) in document.iter_fields_and_values() {
            let writer =
                self.fields.get_mut(field.field_id() as usize).ok_or_else(unknown_field)?;
            let Some(writer) = writer else { continue };
            let ReferenceValue::Leaf(value) = value.as_value() else {
                return Err(Error::new(ErrorKind::Internal, "a value of a field is no leaf"));
            };
            writer.add(doc, value)?;
        }
        Ok(())
    }

    /// An estimate of the memory that it holds.
    pub(super) fn memory_bytes(&self) -> usize {
        self.fields.iter().flatten().map(FieldWriter::memory_bytes).sum()
    }

    /// Writes the files of a segment with so many documents.
    pub(super) fn write(mut self, segment: &Segment, docs: u32) -> Result<()> {
        let norms = self.write_norms(segment, docs)?;
        let mut files = TermFiles::open(segment)?;
        let schema = segment.schema();
        let writers = self.fields.into_iter().zip(norms).zip(schema.fields());
        for ((writer, norms), (field, entry)) in writers {
            let Some(writer) = writer.filter(|writer| !writer.is_empty()) else { continue };
            let (tokens, terms) = (writer.tokens(), writer.term_count());
            let option = entry.field_type().index_record_option().unwrap_or_default();
            files.write(field, |parts| {
                let mut sink = PostingsWriter::new(option, tokens, norms, terms, parts)?;
                writer.write(&mut sink)?;
                Ok(sink.finish()?)
            })?;
        }
        files.close()
    }

    /// Writes the norms of every field that has any, and gives them back for the postings.
    fn write_norms(
        &mut self,
        segment: &Segment,
        docs: u32,
    ) -> Result<Vec<Option<FieldNormReader>>> {
        let mut file =
            FieldNormsSerializer::from_write(open_write(segment, SegmentComponent::FieldNorms)?)?;
        let schema = segment.schema();
        let mut readers = Vec::with_capacity(self.fields.len());
        for (writer, (field, _)) in self.fields.iter_mut().zip(schema.fields()) {
            let norms = writer.as_mut().and_then(|writer| writer.take_norms(docs));
            if let Some(norms) = &norms {
                file.serialize_field(field, norms)?;
            }
            let reader = norms.map(|norms| FieldNormReader::open(FileSlice::from(norms)));
            readers.push(reader.transpose()?);
        }
        file.close()?;
        Ok(readers)
    }
}

/// The files that terms and their postings are written to, field by field.
struct TermFiles {
    dictionaries: CompositeWrite<WritePtr>,
    postings: CompositeWrite<WritePtr>,
    positions: CompositeWrite<WritePtr>,
}

impl TermFiles {
    fn open(segment: &Segment) -> Result<Self> {
        let open = |component| -> Result<CompositeWrite<WritePtr>> {
            Ok(CompositeWrite::wrap(open_write(segment, component)?))
        };
        Ok(Self {
            dictionaries: open(SegmentComponent::Terms)?,
            postings: open(SegmentComponent::Postings)?,
            positions: open(SegmentComponent::Positions)?,
        })
    }

    /// Writes a field: `write` is given its parts of the files of postings and of positions, and gives
    /// its dictionary.
    fn write(
        &mut self,
        field: Field,
        write: impl FnOnce([&mut dyn io::Write; 2]) -> Result<Vec<u8>>,
    ) -> Result<()> {
        let parts: [&mut dyn io::Write; 2] =
            [self.postings.for_field(field), self.positions.for_field(field)];
        let dictionary = write(parts)?;
        let file = self.dictionaries.for_field(field);
        // In pieces: what writes to disk may be held back between them.
        dictionary.chunks(HANDED_OVER).try_for_each(|piece| file.write_all(piece))?;
        Ok(())
    }

    fn close(self) -> Result<()> {
        self.dictionaries.close()?;
        self.postings.close()?;
        Ok(self.positions.close()?)
    }
}

/// What says that a document was made for another schema than its segment.
pub(super) fn unknown_field() -> Error {
    Error::new(ErrorKind::Internal, "a document has a field that its segment does not know")
}
