//! One finished segment in the writer's list: its files, which of its documents are alive, and a
//! reader.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use tantivy::columnar::Column;
use tantivy::directory::OwnedBytes;
use tantivy::fastfield::AliveBitSet;
use tantivy::index::{InvertedIndexReader, SegmentId};
use tantivy::schema::{Field, IndexRecordOption};
use tantivy::termdict::TermDictionary;
use tantivy::{BitSet, DocId, DocSet, Index, Segment, SegmentReader, TERMINATED};

use super::directory::SegmentFiles;
use super::source::{self, PreparedDictionary, SourceReader};
use crate::composition::{ANY_ROW, Row};
use crate::error::{Error, ErrorKind, Result};
use crate::mapping::schema::{LINKS, LSN, SEQ_NO, SystemFields, SystemValues, TERM, VERSION};
use crate::snapshot::RowSegment;

/// Where a document is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Location {
    pub(super) segment: SegmentId,
    pub(super) doc: DocId,
}

/// A finished segment. Only the writer changes it.
pub(super) struct LiveSegment {
    pub(super) files: Arc<SegmentFiles>,
    pub(super) id: SegmentId,
    pub(super) max_doc: u32,
    /// Whether a merge that includes it is running.
    pub(super) merging: bool,
    /// Whether merges that were asked for keep it from the usual ones.
    pub(super) reserved: bool,
    /// Its number in the order in which segments were first published since the index was opened.
    pub(super) number: Option<u64>,
    alive: BitSet,
    /// What searches see of it, where it has rows: the documents alone.
    visible: Option<BitSet>,
    /// What was alive as of the last publication, where it has rows.
    shown: Option<Arc<BitSet>>,
    /// As of the last publication; its set of living documents may be older than `alive`.
    reader: Arc<SegmentReader>,
    /// Whether the reader must be opened again before it is published.
    stale: bool,
    /// Bytes of files that the reader holds in memory.
    memory_bytes: u64,
    ids: Arc<InvertedIndexReader>,
    /// Rows come in the order of their keys mostly, and then few segments can have an id.
    range: Option<IdRange>,
    columns: OnceLock<Columns>,
    /// Bytes of sources that no merge has tried to compress.
    pub(super) raw_source_bytes: u64,
    /// Held from the first source that is read on: readers come and go with publications.
    dictionary: OnceLock<Option<Arc<PreparedDictionary>>>,
}

/// The first and the last id of a segment, in the order of their bytes.
struct IdRange {
    first: Vec<u8>,
    last: Vec<u8>,
}

impl IdRange {
    /// `None` where there are no ids.
    fn of(ids: &TermDictionary) -> Result<Option<Self>> {
        let Some(end) = (ids.num_terms() as u64).checked_sub(1) else { return Ok(None) };
        let mut range = Self { first: Vec::new(), last: Vec::new() };
        ids.ord_to_term(0, &mut range.first)?;
        ids.ord_to_term(end, &mut range.last)?;
        Ok(Some(range))
    }

    fn contains(&self, id: &str) -> bool {
        (self.first.as_slice()..=self.last.as_slice()).contains(&id.as_bytes())
    }
}

struct Columns {
    seq_no: Column<u64>,
    term: Column<u64>,
    version: Column<u64>,
    lsn: Column<u64>,
}

impl LiveSegment {
    /// Opens a segment; `alive` is `None` where all of its documents are.
    pub(super) fn open(
        index: &Index,
        files: Arc<SegmentFiles>,
        id: SegmentId,
        max_doc: u32,
        alive: Option<BitSet>,
    ) -> Result<Self> {
        let alive = alive.unwrap_or_else(|| BitSet::with_max_value_and_full(max_doc));
        if alive.max_value() != max_doc {
            let message = format!(
                "segment [{}] has [{max_doc}] documents, but [{}] are marked alive or not",
                id.uuid_string(),
                alive.max_value()
            );
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        let mut reader = Arc::new(open_reader(index, id, max_doc, &alive)?);
        let rows = rows(&reader)?;
        let mut visible = (!rows.is_empty()).then(|| alive.clone());
        if let Some(visible) = &mut visible {
            for doc in rows {
                visible.remove(doc);
            }
            reader = Arc::new(open_reader(index, id, max_doc, visible)?);
        }
        let ids = reader.inverted_index(SystemFields::FIXED.id)?;
        let range = IdRange::of(ids.terms())?;
        let shown = visible.is_some().then(|| Arc::new(alive.clone()));
        Ok(Self {
            memory_bytes: files.sizes().1,
            raw_source_bytes: source::raw_bytes(&reader),
            files,
            id,
            max_doc,
            merging: false,
            reserved: false,
            number: None,
            alive,
            visible,
            shown,
            reader,
            stale: false,
            ids,
            range,
            columns: OnceLock::new(),
            dictionary: OnceLock::new(),
        })
    }

    pub(super) fn alive_count(&self) -> u32 {
        u32::try_from(self.alive.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn alive(&self) -> &BitSet {
        &self.alive
    }

    /// The living document of this id.
    pub(super) fn find(&self, id: &str) -> Result<Option<DocId>> {
        let may_be_here = self.range.as_ref().is_some_and(|range| range.contains(id));
        if self.alive.len() == 0 || !may_be_here {
            return Ok(None);
        }
        let Some(info) = self.ids.terms().get(id.as_bytes())? else { return Ok(None) };
        let mut postings = self.ids.read_postings_from_terminfo(&info, IndexRecordOption::Basic)?;
        let mut doc = postings.doc();
        while doc != TERMINATED {
            if self.alive.contains(doc) {
                return Ok(Some(doc));
            }
            doc = postings.advance();
        }
        Ok(None)
    }

    /// The system values of a document.
    pub(super) fn system_values(&self, doc: DocId) -> Result<SystemValues> {
        let columns = self.columns()?;
        let value = |column: &Column<u64>| column.first(doc).unwrap_or_default();
        Ok(SystemValues {
            seq_no: value(&columns.seq_no),
            term: value(&columns.term),
            version: value(&columns.version),
            lsn: value(&columns.lsn),
        })
    }

    fn columns(&self) -> Result<&Columns> {
        if let Some(columns) = self.columns.get() {
            return Ok(columns);
        }
        let column = |name| self.reader.fast_fields().u64(name);
        let columns = Columns {
            seq_no: column(SEQ_NO)?,
            term: column(TERM)?,
            version: column(VERSION)?,
            lsn: column(LSN)?,
        };
        Ok(self.columns.get_or_init(|| columns))
    }

    /// The source of a document.
    pub(super) fn source(&self, doc: DocId) -> Result<Bytes> {
        self.sources()?.read(doc)
    }

    /// The sources of its documents.
    pub(super) fn sources(&self) -> Result<SourceReader> {
        let sources = SourceReader::open(&self.reader)?;
        self.dictionary.get_or_init(|| sources.dictionary().cloned());
        Ok(sources)
    }

    /// Whether searches would find nothing in it but rows.
    pub(super) fn is_hidden(&self) -> bool {
        self.visible.as_ref().is_some_and(|visible| visible.len() == 0)
    }

    fn visible(&self) -> &BitSet {
        self.visible.as_ref().unwrap_or(&self.alive)
    }

    /// How many living rows it has.
    pub(super) fn row_count(&self) -> u64 {
        (self.alive.len() - self.visible().len()) as u64
    }

    /// Its living documents that are no rows.
    pub(super) fn documents(&self) -> impl Iterator<Item = DocId> {
        (0..self.max_doc).filter(|&doc| self.visible().contains(doc))
    }

    /// The id of a row.
    pub(super) fn row_id(&self, doc: DocId) -> Result<String> {
        let id = self.sources()?.id(doc)?.map(str::to_owned);
        id.ok_or_else(|| Error::new(ErrorKind::Corrupt, format!("row [{doc}] has no id")))
    }

    /// Living documents that have a term of a field: at most so many, from one on.
    pub(super) fn living(
        &self,
        field: Field,
        term: &str,
        from: DocId,
        most: usize,
    ) -> Result<Vec<DocId>> {
        let mut found = Vec::new();
        let index = self.reader.inverted_index(field)?;
        let Some(info) = index.terms().get(term.as_bytes())? else { return Ok(found) };
        let mut postings = index.read_postings_from_terminfo(&info, IndexRecordOption::Basic)?;
        let mut doc = postings.doc();
        if doc < from {
            doc = postings.seek(from);
        }
        while doc != TERMINATED && found.len() < most {
            if self.alive.contains(doc) {
                found.push(doc);
            }
            doc = postings.advance();
        }
        Ok(found)
    }

    /// Calls `found` with every row that has a term, until it says `false`; whether it never did.
    pub(super) fn each_row(
        &self,
        field: Field,
        term: &str,
        found: &mut dyn FnMut(Row) -> Result<bool>,
    ) -> Result<bool> {
        if self.visible.is_none() {
            return Ok(true);
        }
        let index = self.reader.inverted_index(field)?;
        let Some(info) = index.terms().get(term.as_bytes())? else { return Ok(true) };
        let mut postings = index.read_postings_from_terminfo(&info, IndexRecordOption::Basic)?;
        let sources = self.sources()?;
        let mut doc = postings.doc();
        let mut goes_on = true;
        while doc != TERMINATED && goes_on {
            if self.alive.contains(doc) {
                let id = sources.id(doc)?.unwrap_or_default().to_owned();
                goes_on = found(Row { id, source: sources.read(doc)? })?;
            }
            doc = postings.advance();
        }
        Ok(goes_on)
    }

    /// Marks a document as deleted; whether it was alive.
    pub(super) fn kill(&mut self, doc: DocId) -> bool {
        if doc >= self.max_doc || !self.alive.contains(doc) {
            return false;
        }
        self.alive.remove(doc);
        if let Some(visible) = &mut self.visible {
            visible.remove(doc);
        }
        self.stale = true;
        true
    }

    /// Marks as deleted every document whose LSN is not above a bound, or all without one.
    pub(super) fn kill_up_to(&mut self, lsn: Option<u64>) -> Result<()> {
        (0..self.max_doc).try_for_each(|doc| self.kill_if_up_to(doc, lsn))
    }

    /// Marks a document as deleted whose LSN is not above a bound, or whatever it is without one.
    pub(super) fn kill_if_up_to(&mut self, doc: DocId, lsn: Option<u64>) -> Result<()> {
        let hit = match lsn {
            Some(lsn) => self.alive.contains(doc) && self.system_values(doc)?.lsn <= lsn,
            None => true,
        };
        if hit {
            self.kill(doc);
        }
        Ok(())
    }

    /// Says that the schema has grown or that the files have gone to disk.
    pub(super) fn mark_stale(&mut self) {
        self.stale = true;
    }

    /// Whether the reader holds in memory what is on disk by now.
    pub(super) fn is_outlived(&self) -> bool {
        self.memory_bytes > 0 && self.files.sizes().1 == 0
    }

    /// Bytes that the reader holds in memory, on disk by now or not.
    pub(super) fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    /// The reader as of the last [`LiveSegment::renew`].
    pub(super) fn reader(&self) -> &Arc<SegmentReader> {
        &self.reader
    }

    /// Its rows as of the last [`LiveSegment::renew`], where it has any.
    pub(super) fn shown_rows(&self) -> Option<RowSegment> {
        let alive = Arc::clone(self.shown.as_ref()?);
        Some(RowSegment::new(Arc::clone(&self.reader), alive))
    }

    /// Opens the reader again if anything has changed since.
    pub(super) fn renew(&mut self, index: &Index) -> Result<()> {
        if self.stale {
            self.memory_bytes = self.files.sizes().1;
            self.reader = Arc::new(open_reader(index, self.id, self.max_doc, self.visible())?);
            self.ids = self.reader.inverted_index(SystemFields::FIXED.id)?;
            self.columns = OnceLock::new();
            self.shown = self.visible.is_some().then(|| Arc::new(self.alive.clone()));
            self.stale = false;
        }
        Ok(())
    }
}

/// Every row of a segment, living or not.
fn rows(reader: &SegmentReader) -> Result<Vec<DocId>> {
    let mut rows = Vec::new();
    let Ok(field) = reader.schema().get_field(LINKS) else { return Ok(rows) };
    let index = reader.inverted_index(field)?;
    let Some(info) = index.terms().get(ANY_ROW.as_bytes())? else { return Ok(rows) };
    let mut postings = index.read_postings_from_terminfo(&info, IndexRecordOption::Basic)?;
    while postings.doc() != TERMINATED {
        rows.push(postings.doc());
        postings.advance();
    }
    Ok(rows)
}

/// Tantivy's form of a set of living documents, in bytes as in a `.del` file without its footer.
pub(super) fn alive_bytes(alive: &BitSet) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(4 + alive.max_value() as usize / 8 + 8);
    tantivy::fastfield::write_alive_bitset(alive, &mut bytes)?;
    Ok(bytes)
}

pub(crate) fn alive_set(alive: &BitSet) -> Result<AliveBitSet> {
    Ok(AliveBitSet::open(OwnedBytes::new(alive_bytes(alive)?)))
}

fn open_reader(
    index: &Index,
    id: SegmentId,
    max_doc: u32,
    alive: &BitSet,
) -> Result<SegmentReader> {
    open_living(&index.segment(index.new_segment_meta(id, max_doc)), alive)
}

/// Reads a segment's living documents.
pub(super) fn open_living(segment: &Segment, alive: &BitSet) -> Result<SegmentReader> {
    let dead = alive.len() < segment.meta().max_doc() as usize;
    let alive = if dead { Some(alive_set(alive)?) } else { None };
    Ok(SegmentReader::open_with_custom_alive_set(segment, alive)?)
}
