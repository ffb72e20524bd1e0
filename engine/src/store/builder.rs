//! The segment that is being built: documents go in, and at a publication (or when it is large) a
//! finished segment comes out.
//!
//! There is no `IndexWriter` of tantivy: no threads to join and no delete queue, so a commit of one
//! document costs about what its files cost, and the one writer decides by itself which documents
//! are alive.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use rustc_hash::FxHashMap;
use tantivy::index::SegmentId;
use tantivy::{BitSet, DocId, Index, Segment};

use super::directory::{SegmentFiles, StoreDirectory};
use super::segment::{LiveSegment, Location};
use super::segment_writer::SegmentWriter;
use crate::composition::Row;
use crate::document::IndexedDocument;
use crate::error::{Error, ErrorKind, Result};
use crate::mapping::schema::SystemValues;

/// A segment under construction.
pub(super) struct Builder {
    pub(super) id: SegmentId,
    writer: SegmentWriter,
    segment: Segment,
    files: Arc<SegmentFiles>,
    /// The living documents in it by id.
    entries: FxHashMap<String, Entry>,
    /// The documents in it that have been replaced or deleted since.
    dead: Vec<DocId>,
    source_bytes: usize,
    /// Rows by the terms that they are looked up by.
    rows: FxHashMap<String, Vec<(DocId, String)>>,
}

/// A document of the segment under construction.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) doc: DocId,
    pub(super) system: SystemValues,
    pub(super) source: Bytes,
}

impl Builder {
    pub(super) fn new(index: &Index, directory: &StoreDirectory) -> Result<Self> {
        let segment = index.new_segment();
        let files = directory.adopt(segment.id().uuid_string(), None);
        let writer = SegmentWriter::new(segment.clone())?;
        Ok(Self {
            id: segment.id(),
            writer,
            segment,
            files,
            entries: FxHashMap::default(),
            dead: Vec::new(),
            source_bytes: 0,
            rows: FxHashMap::default(),
        })
    }

    pub(super) fn doc_count(&self) -> u32 {
        self.writer.max_doc()
    }

    /// An estimate of what it holds in memory.
    pub(super) fn memory_bytes(&self) -> usize {
        let entries = self.entries.capacity() * (size_of::<(String, Entry)>() + 1);
        let dead = self.dead.capacity() * size_of::<DocId>();
        self.writer.memory_bytes() + self.source_bytes + entries + dead
    }

    pub(super) fn find(&self, id: &str) -> Option<(Location, &Entry)> {
        let entry = self.entries.get(id)?;
        Some((Location { segment: self.id, doc: entry.doc }, entry))
    }

    /// Its living documents, oldest first.
    pub(super) fn into_entries(self) -> Vec<(String, Entry)> {
        let mut entries: Vec<_> = self.entries.into_iter().collect();
        entries.sort_by_key(|(_, entry)| entry.doc);
        entries
    }

    /// Adds a document in place of one of its id that is here. After an error, or a panic in tantivy
    /// (which becomes one), the builder must be thrown away.
    pub(super) fn add(
        &mut self,
        id: String,
        document: &IndexedDocument,
        system: SystemValues,
        source: Bytes,
    ) -> Result<()> {
        let doc = self.writer.max_doc();
        let writer = &mut self.writer;
        guarded(|| writer.add(&id, document, &source))?;
        self.source_bytes += source.len() + id.len();
        if let Some(older) = self.entries.insert(id, Entry { doc, system, source }) {
            self.dead.push(older.doc);
        }
        Ok(())
    }

    /// Takes note of the terms by which the row that was added last is found.
    pub(super) fn link(&mut self, id: &str, terms: &[String]) {
        let Some(doc) = self.entries.get(id).map(|entry| entry.doc) else { return };
        for term in terms {
            self.source_bytes += term.len() + id.len() + 64;
            match self.rows.get_mut(term) {
                Some(rows) => rows.push((doc, id.to_owned())),
                None => drop(self.rows.insert(term.clone(), vec![(doc, id.to_owned())])),
            }
        }
    }

    /// The living rows that have a term.
    pub(super) fn rows<'a>(&'a self, term: &str) -> impl Iterator<Item = Row> + use<'a> {
        self.rows.get(term).into_iter().flatten().filter_map(|(doc, id)| {
            let entry = self.entries.get(id).filter(|entry| entry.doc == *doc)?;
            Some(Row { id: id.clone(), source: entry.source.clone() })
        })
    }

    /// Forgets a document by its id.
    pub(super) fn kill(&mut self, id: &str) {
        if let Some(entry) = self.entries.remove(id) {
            self.dead.push(entry.doc);
        }
    }

    /// Forgets the document of this id unless the change of this number made it.
    pub(super) fn kill_other(&mut self, id: &str, seq_no: u64) {
        if self.entries.get(id).is_some_and(|entry| entry.system.seq_no != seq_no) {
            self.kill(id);
        }
    }

    /// Forgets every document.
    pub(super) fn kill_all(&mut self) {
        self.dead.extend(self.entries.drain().map(|(_, entry)| entry.doc));
    }

    /// Writes the segment; `None` if nothing in it is alive.
    pub(super) fn finish(self, index: &Index) -> Result<Option<LiveSegment>> {
        let max_doc = self.writer.max_doc();
        if self.entries.is_empty() {
            return Ok(None);
        }
        let writer = self.writer;
        guarded(|| writer.finish())?;
        self.segment.meta().untrack_temp_docstore();
        let mut alive = BitSet::with_max_value_and_full(max_doc);
        for doc in self.dead {
            alive.remove(doc);
        }
        LiveSegment::open(index, self.files, self.id, max_doc, Some(alive)).map(Some)
    }
}

/// Runs something of tantivy's that may panic; the panic becomes an error.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
        Err(Error::new(ErrorKind::Internal, format!("indexing panicked: {text}")))
    })
}
