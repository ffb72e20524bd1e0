//! The rows of a published state. Documents are composed from them, and no search sees them: they are
//! for whoever proves that an index is what its source says.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use tantivy::index::SegmentReader;
use tantivy::schema::IndexRecordOption;
use tantivy::{BitSet, DocId, DocSet, TERMINATED, Term};

use super::{Segment, Snapshot, StoredDocument};
use crate::composition::{Composed, Row, Rows, compose, parse_row_id};
use crate::error::{Error, Result};
use crate::mapping::schema::{LINKS, SystemFields};

/// A segment with its living rows. Other living documents of it count too: ids tell them apart.
#[derive(Clone)]
pub struct RowSegment {
    segment: Segment,
    alive: Arc<BitSet>,
}

impl fmt::Debug for RowSegment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RowSegment").field("id", &self.segment.id()).finish_non_exhaustive()
    }
}

/// How a composed document fits the rows that it is made of.
#[derive(Debug)]
pub enum Fit {
    /// It is what they make.
    Fits,
    /// There is none, and they make one.
    Missing,
    /// It is not what they make.
    Different,
    /// There is one, and no row to name it.
    LeftOver,
    /// There is none, since they cannot make one.
    Impossible(Error),
}

impl RowSegment {
    pub(crate) fn new(reader: Arc<SegmentReader>, alive: Arc<BitSet>) -> Self {
        Self { segment: Segment::new(reader), alive }
    }

    pub(super) fn reader(&self) -> &SegmentReader {
        self.segment.reader()
    }

    pub(super) fn is_alive(&self, doc: DocId) -> bool {
        self.alive.contains(doc)
    }

    /// Calls `found` with the living documents that have a term, until it says `false`; whether it
    /// never did.
    fn each(&self, term: &Term, found: &mut dyn FnMut(DocId) -> Result<bool>) -> Result<bool> {
        let index = self.reader().inverted_index(term.field())?;
        let Some(mut postings) = index.read_postings(term, IndexRecordOption::Basic)? else {
            return Ok(true);
        };
        while postings.doc() != TERMINATED {
            if self.is_alive(postings.doc()) && !found(postings.doc())? {
                return Ok(false);
            }
            postings.advance();
        }
        Ok(true)
    }

    fn find(&self, id: &str) -> Result<Option<DocId>> {
        let mut found = None;
        self.each(&Term::from_field_text(SystemFields::FIXED.id, id), &mut |doc| {
            found = Some(doc);
            Ok(false)
        })?;
        Ok(found)
    }
}

impl Snapshot {
    /// A document, or a row that documents are composed from, by its id.
    pub fn stored(&self, id: &str) -> Result<Option<StoredDocument>> {
        if self.mapping().composition().is_none() || parse_row_id(id).is_none() {
            return self.document(id);
        }
        let Some((rows, doc)) = self.find_row(id)? else { return Ok(None) };
        let version = rows.segment.version(doc)?;
        Ok(Some(StoredDocument {
            id: id.to_owned(),
            source: rows.segment.source(doc)?,
            version: version.version,
            seq_no: version.seq_no,
            term: version.term,
        }))
    }

    /// How the document of a key fits the rows of this state; `None` where the index composes nothing.
    pub fn fit(&self, key: &str) -> Result<Option<Fit>> {
        let Some(composition) = self.mapping().composition().map(Arc::clone) else {
            return Ok(None);
        };
        let document = self.document(key)?;
        let fit = match (compose(&composition, self, key)?, document) {
            (Ok(Composed::Gone), None) => Fit::Fits,
            (Ok(Composed::Gone), Some(_)) => Fit::LeftOver,
            (Ok(Composed::Document(_)), None) => Fit::Missing,
            (Ok(Composed::Document(text)), Some(document)) if document.source == text => Fit::Fits,
            (Ok(Composed::Document(_)) | Err(_), Some(_)) => Fit::Different,
            (Err(error), None) => Fit::Impossible(error),
        };
        Ok(Some(fit))
    }

    pub(super) fn row_segments(&self) -> &[RowSegment] {
        &self.parts.rows
    }

    fn find_row(&self, id: &str) -> Result<Option<(&RowSegment, DocId)>> {
        for rows in self.parts.rows.iter().rev() {
            if let Some(doc) = rows.find(id)? {
                return Ok(Some((rows, doc)));
            }
        }
        Ok(None)
    }
}

impl Rows for Snapshot {
    fn row(&self, id: &str) -> Result<Option<Bytes>> {
        let found = self.find_row(id)?;
        found.map(|(rows, doc)| rows.segment.source(doc)).transpose()
    }

    fn each(&self, term: &str, found: &mut dyn FnMut(Row) -> Result<bool>) -> Result<()> {
        let Ok(links) = self.parts.schema.get_field(LINKS) else { return Ok(()) };
        let term = Term::from_field_text(links, term);
        for rows in &self.parts.rows {
            let goes_on = rows.each(&term, &mut |doc| {
                let segment = &rows.segment;
                found(Row { id: segment.document_id(doc)?, source: segment.source(doc)? })
            })?;
            if !goes_on {
                break;
            }
        }
        Ok(())
    }
}
