//! One segment of a snapshot, and what has been worked out about it.

use std::ops::AddAssign;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::RwLock;
use rustc_hash::FxHashMap;
use tantivy::columnar::{Cardinality, Column, ColumnIndex, ColumnType, StrColumn};
use tantivy::index::{SegmentId, SegmentReader};
use tantivy::postings::TermInfo;
use tantivy::schema::{Field, IndexRecordOption};
use tantivy::{BitSet, DocId};

use super::DocumentVersion;
use crate::error::{Error, ErrorKind, Result};
use crate::mapping::schema::{ID, LSN, SEQ_NO, TERM, VERSION};
use crate::position::{Lsn, SeqNo};
use crate::store::source::{PreparedDictionary, SourceReader};

/// How often and in how many documents a field occurs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FieldStatistics {
    /// Documents that have the field.
    pub doc_count: u64,
    /// Its terms in all documents, repetitions counted.
    pub token_count: u64,
}

impl AddAssign for FieldStatistics {
    fn add_assign(&mut self, other: Self) {
        self.doc_count += other.doc_count;
        self.token_count += other.token_count;
    }
}

/// One segment of a snapshot.
#[derive(Debug, Clone)]
pub struct Segment {
    reader: Arc<SegmentReader>,
    cache: Arc<SegmentCache>,
    opened: Arc<Opened>,
}

/// What was opened under one reader. Not kept from reader to reader: it would hold on to files that
/// have gone to disk meanwhile.
#[derive(Debug, Default)]
struct Opened {
    sources: OnceLock<SourceReader>,
    /// By path; held only to look up or insert. Opening one reads the heads of all its blocks.
    columns: RwLock<FxHashMap<String, Option<OpenColumn>>>,
}

/// A column's values, and their texts where they are ordinals.
pub(crate) type OpenColumn = (Column<u64>, Option<StrColumn>);

/// What does not change while a segment lives, deletes or not.
#[derive(Debug, Default)]
struct SegmentCache {
    /// By field; held only to look up or insert.
    statistics: RwLock<FxHashMap<Field, FieldStatistics>>,
    versions: OnceLock<VersionColumns>,
    /// Only for segments whose sources are of the version without ids.
    ids: OnceLock<StrColumn>,
    /// Of the sources; held from the first one that is read on.
    dictionary: OnceLock<Option<Arc<PreparedDictionary>>>,
    /// By field; held only to look up or insert.
    first_characters: RwLock<FxHashMap<Field, Arc<[char]>>>,
}

#[derive(Debug)]
struct VersionColumns {
    seq_no: Column<u64>,
    term: Column<u64>,
    version: Column<u64>,
    lsn: Column<u64>,
}

impl Segment {
    pub(super) fn new(reader: Arc<SegmentReader>) -> Self {
        Self { reader, cache: Arc::default(), opened: Arc::default() }
    }

    /// The same segment under a newer reader (more deletes, or a longer schema).
    pub(super) fn reopened(&self, reader: Arc<SegmentReader>) -> Self {
        Self { reader, cache: Arc::clone(&self.cache), opened: Arc::default() }
    }

    /// Names the segment.
    pub fn id(&self) -> SegmentId {
        self.reader.segment_id()
    }

    /// Its reader.
    pub fn reader(&self) -> &SegmentReader {
        &self.reader
    }

    /// How often and in how many of its documents a field occurs, deleted ones included.
    pub fn field_statistics(&self, field: Field) -> Result<FieldStatistics> {
        if let Some(known) = self.cache.statistics.read().get(&field) {
            return Ok(*known);
        }
        let statistics = self.count_field(field)?;
        self.cache.statistics.write().insert(field, statistics);
        Ok(statistics)
    }

    fn count_field(&self, field: Field) -> Result<FieldStatistics> {
        let entry = self.reader.schema().get_field_entry(field);
        if let Some(norms) = self.reader.fieldnorms_readers().get_field(field)? {
            let doc_count =
                (0..norms.num_docs()).filter(|&doc| norms.fieldnorm_id(doc) > 0).count();
            let token_count = self.reader.inverted_index(field)?.total_num_tokens();
            return Ok(FieldStatistics { doc_count: doc_count as u64, token_count });
        }
        if entry.has_fieldnorms() {
            return Ok(FieldStatistics::default());
        }
        if entry.is_fast() {
            let column = self.reader.fast_fields().u64_lenient(entry.name())?;
            return Ok(column.map_or_else(FieldStatistics::default, |(column, _)| {
                FieldStatistics {
                    doc_count: documents_with_a_value(&column),
                    token_count: u64::from(column.values.num_vals()),
                }
            }));
        }
        self.count_postings(field)
    }

    /// The slow way, for a field that has neither norms nor a column.
    fn count_postings(&self, field: Field) -> Result<FieldStatistics> {
        let index = self.reader.inverted_index(field)?;
        let mut docs = BitSet::with_max_value(self.reader.max_doc());
        let mut token_count = index.total_num_tokens();
        let mut posting_count = 0;
        let mut terms = index.terms().stream()?;
        while terms.advance() {
            let info: &TermInfo = terms.value();
            posting_count += u64::from(info.doc_freq);
            let mut postings =
                index.read_block_postings_from_terminfo(info, IndexRecordOption::Basic)?;
            while !postings.docs().is_empty() {
                insert_all(&mut docs, postings.docs());
                postings.advance();
            }
        }
        token_count = token_count.max(posting_count);
        Ok(FieldStatistics { doc_count: docs.len() as u64, token_count })
    }

    /// When a document was last changed.
    pub fn version(&self, doc: DocId) -> Result<DocumentVersion> {
        let columns = self.version_columns()?;
        let value = |column: &Column<u64>| column.first(doc).unwrap_or(0);
        Ok(DocumentVersion {
            seq_no: SeqNo(value(&columns.seq_no)),
            term: value(&columns.term),
            version: value(&columns.version),
            lsn: Lsn(value(&columns.lsn)),
        })
    }

    fn version_columns(&self) -> Result<&VersionColumns> {
        if let Some(columns) = self.cache.versions.get() {
            return Ok(columns);
        }
        let fast = self.reader.fast_fields();
        let columns = VersionColumns {
            seq_no: fast.u64(SEQ_NO)?,
            term: fast.u64(TERM)?,
            version: fast.u64(VERSION)?,
            lsn: fast.u64(LSN)?,
        };
        Ok(self.cache.versions.get_or_init(|| columns))
    }

    /// A document's id.
    pub fn document_id(&self, doc: DocId) -> Result<String> {
        if let Some(id) = self.sources()?.id(doc)? {
            return Ok(id.to_owned());
        }
        let ids = if let Some(ids) = self.cache.ids.get() {
            ids
        } else {
            let ids = self.reader.fast_fields().str(ID)?.ok_or_else(|| self.lacks_id(doc))?;
            self.cache.ids.get_or_init(|| ids)
        };
        let ordinal = ids.ords().first(doc).ok_or_else(|| self.lacks_id(doc))?;
        let mut id = String::new();
        if !ids.ord_to_str(ordinal, &mut id)? {
            return Err(self.lacks_id(doc));
        }
        Ok(id)
    }

    fn lacks_id(&self, doc: DocId) -> Error {
        let segment = self.id();
        Error::new(ErrorKind::Corrupt, format!("document {doc} of segment {segment} has no id"))
    }

    /// A document's `_source`.
    pub fn source(&self, doc: DocId) -> Result<Bytes> {
        self.sources()?.read(doc)
    }

    fn sources(&self) -> Result<&SourceReader> {
        if let Some(sources) = self.opened.sources.get() {
            return Ok(sources);
        }
        let sources = SourceReader::open(&self.reader)?;
        self.cache.dictionary.get_or_init(|| sources.dictionary().cloned());
        Ok(self.opened.sources.get_or_init(|| sources))
    }

    /// The column of a path, of the type that its field has; `None` if no document has a value.
    pub(crate) fn column(&self, path: &str, kind: ColumnType) -> Result<Option<OpenColumn>> {
        if let Some(known) = self.opened.columns.read().get(path) {
            return Ok(known.clone());
        }
        let fast = self.reader.fast_fields();
        let opened = if kind == ColumnType::Str {
            fast.str(path)?.map(|texts| (texts.clone().into_parts().1, Some(texts)))
        } else {
            let column = fast.u64_lenient_for_type(Some(&[kind]), path)?;
            column.map(|(column, _)| (column, None))
        };
        self.opened.columns.write().insert(path.to_owned(), opened.clone());
        Ok(opened)
    }

    /// What the terms of a field begin with, each character once, rising.
    pub(crate) fn first_characters(&self, field: Field) -> Result<Arc<[char]>> {
        if let Some(known) = self.cache.first_characters.read().get(&field) {
            return Ok(Arc::clone(known));
        }
        let index = self.reader.inverted_index(field)?;
        let mut found = Vec::new();
        let mut next = Vec::new();
        loop {
            let mut terms = index.terms().range().ge(&next).into_stream()?;
            if !terms.advance() {
                break;
            }
            let text = std::str::from_utf8(terms.key()).unwrap_or_default();
            found.extend(text.chars().next());
            next = beyond(terms.key());
        }
        let found: Arc<[char]> = found.into();
        self.cache.first_characters.write().insert(field, Arc::clone(&found));
        Ok(found)
    }
}

/// What comes after a term and all that begin with the same character.
fn beyond(term: &[u8]) -> Vec<u8> {
    let first = std::str::from_utf8(term).ok().and_then(|text| text.chars().next());
    match first.and_then(|first| (first..=char::MAX).nth(1)) {
        // Characters are in the order of their bytes.
        Some(after) => after.to_string().into_bytes(),
        // The last character, the empty term, or one that is no text.
        None => [term, &[0]].concat(),
    }
}

fn insert_all(into: &mut BitSet, docs: &[DocId]) {
    for &doc in docs {
        into.insert(doc);
    }
}

fn documents_with_a_value(column: &Column<u64>) -> u64 {
    match &column.index {
        ColumnIndex::Empty { .. } => 0,
        ColumnIndex::Full => u64::from(column.num_docs()),
        ColumnIndex::Optional(optional) => u64::from(optional.num_non_nulls()),
        ColumnIndex::Multivalued(_) => {
            debug_assert_eq!(column.get_cardinality(), Cardinality::Multivalued);
            (0..column.num_docs()).filter(|&doc| column.index.has_value(doc)).count() as u64
        }
    }
}
