//! Ids of a published state in their order, a page at a time: nothing is held between two pages.

use tantivy::index::SegmentReader;
use tantivy::postings::TermInfo;
use tantivy::schema::IndexRecordOption;
use tantivy::termdict::TermStreamer;
use tantivy::{DocId, DocSet, InvertedIndexReader, TERMINATED};

use super::Snapshot;
use crate::composition::row_id;
use crate::error::Result;
use crate::mapping::schema::SystemFields;

/// Which ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listed {
    /// Those of documents.
    Documents,
    /// Those of the rows of a table that documents are composed from, by its place.
    Rows(usize),
}

/// No id of a row begins with this, nor with anything after it.
const AFTER_ROWS: &str = "\u{1}";

/// The terms of one segment, from where a page begins.
struct Cursor<'a> {
    terms: TermStreamer<'a>,
    index: &'a InvertedIndexReader,
    is_alive: Box<dyn Fn(DocId) -> bool + 'a>,
    is_done: bool,
}

impl Cursor<'_> {
    fn advance(&mut self, prefix: &[u8]) {
        self.is_done = !self.terms.advance() || !self.terms.key().starts_with(prefix);
    }

    /// Whether the term it stands at belongs to a living document.
    fn is_living(&self) -> Result<bool> {
        let info: &TermInfo = self.terms.value();
        let mut postings =
            self.index.read_postings_from_terminfo(info, IndexRecordOption::Basic)?;
        while postings.doc() != TERMINATED {
            if (self.is_alive)(postings.doc()) {
                return Ok(true);
            }
            postings.advance();
        }
        Ok(false)
    }
}

impl Snapshot {
    /// At most so many ids in the order of their bytes, after this one or from the first on.
    pub fn ids_after(
        &self,
        listed: Listed,
        after: Option<&str>,
        most: usize,
    ) -> Result<Vec<String>> {
        let field = SystemFields::FIXED.id;
        let is_composed = self.mapping().composition().is_some();
        let (prefix, sources) = match listed {
            Listed::Documents => {
                let segments = self.segments().iter().map(|segment| {
                    let reader = segment.reader();
                    let is_alive = move |doc| !reader.is_deleted(doc);
                    (reader, Box::new(is_alive) as Box<dyn Fn(DocId) -> bool>)
                });
                (String::new(), segments.collect::<Vec<(&SegmentReader, _)>>())
            }
            Listed::Rows(table) => {
                let segments = self.row_segments().iter().map(|rows| {
                    let is_alive = move |doc| rows.is_alive(doc);
                    (rows.reader(), Box::new(is_alive) as Box<dyn Fn(DocId) -> bool>)
                });
                (row_id(table, ""), segments.collect())
            }
        };
        let indexes = sources.iter().map(|(reader, _)| reader.inverted_index(field));
        let indexes = indexes.collect::<tantivy::Result<Vec<_>>>()?;
        // Rows' ids come before all others.
        let first = match listed {
            Listed::Documents if is_composed => AFTER_ROWS,
            _ => &prefix,
        };
        let mut cursors = Vec::with_capacity(indexes.len());
        for (index, (_, is_alive)) in indexes.iter().zip(sources) {
            let terms = index.terms().range();
            let terms = match after {
                Some(after) => terms.gt(after),
                None => terms.ge(first),
            };
            let terms = terms.into_stream()?;
            let mut cursor = Cursor { terms, index, is_alive, is_done: false };
            cursor.advance(prefix.as_bytes());
            cursors.push(cursor);
        }
        merge(cursors, prefix.as_bytes(), most)
    }
}

/// The first living ids of all segments. One that was changed is in several of them, and lives in one.
fn merge(mut cursors: Vec<Cursor<'_>>, prefix: &[u8], most: usize) -> Result<Vec<String>> {
    let mut ids = Vec::new();
    while ids.len() < most {
        let there = cursors.iter().filter(|cursor| !cursor.is_done);
        let Some(next) = there.map(|cursor| cursor.terms.key()).min().map(<[u8]>::to_vec) else {
            break;
        };
        let mut is_living = false;
        for cursor in &mut cursors {
            if !cursor.is_done && cursor.terms.key() == next {
                is_living = is_living || cursor.is_living()?;
                cursor.advance(prefix);
            }
        }
        if is_living {
            ids.push(String::from_utf8_lossy(&next).into_owned());
        }
    }
    Ok(ids)
}
