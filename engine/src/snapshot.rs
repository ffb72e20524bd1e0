//! A published state of one index: what a search reads, unchanged while it is held.
//!
//! Tantivy's own reader opens every segment again whenever one is added, and its searcher cannot be
//! built from outside. A snapshot is a list of segment readers, of which only new ones were opened;
//! what has been worked out about a segment lies in a cache that goes from snapshot to snapshot.
//!
//! Invariant: every segment reader was opened under the snapshot's schema.

mod listing;
mod rows;
mod segment;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use tantivy::index::{SegmentId, SegmentReader};
use tantivy::schema::{Field, IndexRecordOption, Schema};
use tantivy::tokenizer::TokenizerManager;
use tantivy::{DocId, DocSet, Index, ReloadPolicy, Searcher, TERMINATED, Term};

pub use self::listing::Listed;
pub use self::rows::{Fit, RowSegment};
pub use self::segment::{FieldStatistics, Segment};
use crate::activity::Activity;
use crate::error::{Error, ErrorKind, Result};
use crate::mapping::field::FieldMapping;
use crate::mapping::schema::ID;
use crate::mapping::{Mapping, digest};
use crate::position::{Checkpoint, Generation, Lsn, SeqNo};

/// What a snapshot is made from.
#[derive(Clone)]
pub struct SnapshotParts {
    /// The index's name.
    pub index_name: String,
    /// The index's UUID.
    pub uuid: String,
    /// The name of this state.
    pub generation: Generation,
    /// For a followed index, everything up to here is in this state.
    pub checkpoint: Option<Checkpoint>,
    /// The number of the last operation in this state.
    pub max_seq_no: Option<SeqNo>,
    /// The mapping.
    pub mapping: Arc<Mapping>,
    /// The schema that every segment was opened under.
    pub schema: Schema,
    /// Every analyzer that the mapping names.
    pub tokenizers: TokenizerManager,
    /// How many rows, which documents are composed from, are in the segments: hidden, as if deleted.
    pub row_count: u64,
    /// The same rows, for whoever asks for them.
    pub rows: Vec<RowSegment>,
    /// The segments, in the order that breaks ties between equal hits.
    pub segments: Vec<Arc<SegmentReader>>,
    /// Those of them, and of the rows, that are read from memory and not from disk, with their bytes.
    pub in_memory: Vec<(SegmentId, u64)>,
    /// What is counted of the index.
    pub activity: Arc<Activity>,
}

/// A published state of one index.
pub struct Snapshot {
    parts: SnapshotParts,
    segments: Vec<Segment>,
    doc_count: u64,
    searcher: Searcher,
}

impl fmt::Debug for SnapshotParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotParts")
            .field("index", &self.index_name)
            .field("generation", &self.generation)
            .field("segments", &self.segments.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("index", &self.parts.index_name)
            .field("generation", &self.parts.generation)
            .field("segments", &self.segments.len())
            .field("doc_count", &self.doc_count)
            .finish_non_exhaustive()
    }
}

/// A document found by its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredDocument {
    /// Its id.
    pub id: String,
    /// The document.
    pub source: Bytes,
    /// Its version.
    pub version: u64,
    /// Its last change.
    pub seq_no: SeqNo,
    /// The term of its last change.
    pub term: u64,
}

/// When a document was last changed, read from columns alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DocumentVersion {
    /// Its last change.
    pub seq_no: SeqNo,
    /// The term of its last change.
    pub term: u64,
    /// Its version.
    pub version: u64,
    /// The LSN of its last change; 0 where the index follows nothing.
    pub lsn: Lsn,
}

/// Where a document lies in a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DocumentAddress {
    /// The place of its segment in [`Snapshot::segments`].
    pub segment: usize,
    /// Its number within the segment.
    pub doc: DocId,
}

impl Snapshot {
    /// A state that nothing is known about yet.
    pub fn new(parts: SnapshotParts) -> Result<Self> {
        let searcher = empty_searcher(&parts.schema)?;
        Self::build(parts, searcher, |_| None)
    }

    /// The state that follows this one: what this one knows about segments that both have is kept.
    pub fn succeeded_by(&self, parts: SnapshotParts) -> Result<Self> {
        let searcher = if parts.schema == self.parts.schema {
            self.searcher.clone()
        } else {
            empty_searcher(&parts.schema)?
        };
        Self::build(parts, searcher, |id| self.segments.iter().find(|known| known.id() == id))
    }

    fn build<'a>(
        parts: SnapshotParts,
        searcher: Searcher,
        known: impl Fn(SegmentId) -> Option<&'a Segment>,
    ) -> Result<Self> {
        let field_count = parts.schema.num_fields();
        let mut segments = Vec::with_capacity(parts.segments.len());
        for reader in &parts.segments {
            if reader.schema().num_fields() != field_count {
                let id = reader.segment_id().uuid_string();
                let message = format!("segment {id} was opened under another schema");
                return Err(Error::new(ErrorKind::Internal, message).with_index(&parts.index_name));
            }
            segments.push(match known(reader.segment_id()) {
                Some(segment) => segment.reopened(Arc::clone(reader)),
                None => Segment::new(Arc::clone(reader)),
            });
        }
        let doc_count = segments.iter().map(|segment| u64::from(segment.reader().num_docs())).sum();
        Ok(Self { parts, segments, doc_count, searcher })
    }

    /// The name of this state.
    pub fn generation(&self) -> Generation {
        self.parts.generation
    }

    /// For a followed index, everything up to here is in this state.
    pub fn checkpoint(&self) -> Option<Checkpoint> {
        self.parts.checkpoint
    }

    /// The number of the last operation in this state.
    pub fn max_seq_no(&self) -> Option<SeqNo> {
        self.parts.max_seq_no
    }

    /// How many documents.
    pub fn doc_count(&self) -> u64 {
        self.doc_count
    }

    /// How many deleted documents merges have not removed yet.
    pub fn deleted_count(&self) -> u64 {
        let deleted = |segment: &Segment| u64::from(segment.reader().num_deleted_docs());
        let dead: u64 = self.segments.iter().map(deleted).sum();
        dead.saturating_sub(self.parts.row_count)
    }

    /// The mapping of this state.
    pub fn mapping(&self) -> &Mapping {
        &self.parts.mapping
    }

    /// The mapping of this state, to share.
    pub fn shared_mapping(&self) -> &Arc<Mapping> {
        &self.parts.mapping
    }

    /// The index's name.
    pub fn index_name(&self) -> &str {
        &self.parts.index_name
    }

    /// The index's UUID.
    pub fn uuid(&self) -> &str {
        &self.parts.uuid
    }

    /// The schema that every segment was opened under.
    pub fn schema(&self) -> &Schema {
        &self.parts.schema
    }

    /// The analyzers under their names.
    pub fn tokenizers(&self) -> &TokenizerManager {
        &self.parts.tokenizers
    }

    /// The segments.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The segments that it keeps in memory, also where they are on disk by now, with their bytes.
    pub fn in_memory(&self) -> impl Iterator<Item = (String, u64)> {
        self.parts.in_memory.iter().map(|(id, bytes)| (id.uuid_string(), *bytes))
    }

    /// What is counted of the index.
    pub(crate) fn activity(&self) -> &Activity {
        &self.parts.activity
    }

    /// A searcher without segments: what tantivy's weights ask for beside statistics.
    pub(crate) fn searcher(&self) -> &Searcher {
        &self.searcher
    }

    /// A mapped field and its place in the schema.
    pub fn field(&self, path: &str) -> Option<(Field, &FieldMapping)> {
        let mapping = self.parts.mapping.field(path)?;
        Some((self.parts.schema.get_field(path).ok()?, mapping))
    }

    /// The term that documents with this text, or with this word of an analyzed one, have in a field.
    pub(crate) fn text_term(&self, field: Field, text: &str) -> Term {
        let entry = self.parts.schema.get_field_entry(field);
        let has_digests = digest::has_digests(entry);
        let text = if has_digests { digest::term(text) } else { Cow::Borrowed(text) };
        Term::from_field_text(field, &text)
    }

    /// How often and in how many documents a field occurs. Deleted documents count until a merge
    /// removes them, as in Lucene.
    pub fn field_statistics(&self, field: Field) -> Result<FieldStatistics> {
        let mut total = FieldStatistics::default();
        for segment in &self.segments {
            total += segment.field_statistics(field)?;
        }
        Ok(total)
    }

    /// How many documents have a term; deleted ones count as in [`Self::field_statistics`].
    pub fn doc_freq(&self, term: &Term) -> Result<u64> {
        let mut total = 0;
        for segment in &self.segments {
            total += u64::from(segment.reader().inverted_index(term.field())?.doc_freq(term)?);
        }
        Ok(total)
    }

    /// A document by its id.
    pub fn document(&self, id: &str) -> Result<Option<StoredDocument>> {
        let Some(address) = self.find(id)? else { return Ok(None) };
        let Some(segment) = self.segments.get(address.segment) else { return Ok(None) };
        let version = segment.version(address.doc)?;
        Ok(Some(StoredDocument {
            id: id.to_owned(),
            source: segment.source(address.doc)?,
            version: version.version,
            seq_no: version.seq_no,
            term: version.term,
        }))
    }

    /// When the document of this id was last changed.
    pub fn version_of(&self, id: &str) -> Result<Option<DocumentVersion>> {
        Ok(self.versions_of(&[id])?.pop().flatten())
    }

    /// When the documents of these ids were last changed, in their order.
    pub fn versions_of<S: AsRef<str>>(&self, ids: &[S]) -> Result<Vec<Option<DocumentVersion>>> {
        let mut versions = vec![None; ids.len()];
        let id_field = self.parts.schema.get_field(ID)?;
        for segment in self.segments.iter().rev() {
            let lookup = IdLookup::open(segment.reader(), id_field)?;
            let pairs = ids.iter().zip(&mut versions);
            for (id, version) in pairs.filter(|(_, version)| version.is_none()) {
                let doc = lookup.find(id.as_ref())?;
                *version = doc.map(|doc| segment.version(doc)).transpose()?;
            }
        }
        Ok(versions)
    }

    /// Where the document of this id lies.
    pub fn find(&self, id: &str) -> Result<Option<DocumentAddress>> {
        let id_field = self.parts.schema.get_field(ID)?;
        for (ordinal, segment) in self.segments.iter().enumerate().rev() {
            if let Some(doc) = IdLookup::open(segment.reader(), id_field)?.find(id)? {
                return Ok(Some(DocumentAddress { segment: ordinal, doc }));
            }
        }
        Ok(None)
    }
}

/// Looks for living documents by id in one segment.
struct IdLookup<'a> {
    reader: &'a SegmentReader,
    index: Arc<tantivy::index::InvertedIndexReader>,
    field: Field,
}

impl<'a> IdLookup<'a> {
    fn open(reader: &'a SegmentReader, field: Field) -> Result<Self> {
        Ok(Self { reader, index: reader.inverted_index(field)?, field })
    }

    fn find(&self, id: &str) -> Result<Option<DocId>> {
        let term = Term::from_field_text(self.field, id);
        let Some(mut postings) = self.index.read_postings(&term, IndexRecordOption::Basic)? else {
            return Ok(None);
        };
        let mut doc = postings.doc();
        while doc != TERMINATED && self.reader.is_deleted(doc) {
            doc = postings.advance();
        }
        Ok((doc != TERMINATED).then_some(doc))
    }
}

fn empty_searcher(schema: &Schema) -> Result<Searcher> {
    let index = Index::create_in_ram(schema.clone());
    let reader = index.reader_builder().reload_policy(ReloadPolicy::Manual).try_into()?;
    Ok(reader.searcher())
}
