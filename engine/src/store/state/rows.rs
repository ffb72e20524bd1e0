//! The rows that documents are composed from: hidden documents of the same segments. Searches take
//! them for deleted ones; the writer finds them by their terms.

use tantivy::DocId;
use tantivy::schema::Field;

use super::Store;
use crate::composition::{Row, Rows, parse_row_id, table_term};
use crate::error::Result;
use crate::mapping::schema::LINKS;
use crate::store::segment::LiveSegment;

/// Rows in finished segments, to be looked up by several threads at once.
#[derive(Clone, Copy)]
pub(in crate::store) struct FinishedRows<'a> {
    pub(in crate::store) segments: &'a [LiveSegment],
    links: Field,
}

impl Store {
    /// The rows of finished segments; `None` where the index has none.
    pub(in crate::store) fn finished_rows(&self) -> Option<FinishedRows<'_>> {
        let links = self.schema.get_field(LINKS).ok()?;
        Some(FinishedRows { segments: &self.segments, links })
    }

    /// Keys of the living rows of a table in one finished segment, with their place in it: at most
    /// so many, from a place on.
    pub(in crate::store) fn row_keys(
        &self,
        segment: usize,
        table: usize,
        from: DocId,
        most: usize,
    ) -> Result<Vec<(DocId, String)>> {
        let segment = self.segments.get(segment).zip(self.schema.get_field(LINKS).ok());
        let Some((segment, links)) = segment else { return Ok(Vec::new()) };
        let docs = segment.living(links, &table_term(table), from, most)?;
        let key = |doc| {
            let id = segment.row_id(doc)?;
            Ok((doc, parse_row_id(&id).map(|(_, key)| key.to_owned()).unwrap_or_default()))
        };
        docs.into_iter().map(key).collect()
    }

    /// Removes the rows of a table whose LSN is not above a bound, and with `documents` everything
    /// that is no row too.
    pub(in crate::store) fn clear_rows(
        &mut self,
        table: usize,
        documents: bool,
        up_to_lsn: Option<u64>,
    ) -> Result<()> {
        self.seal()?;
        let Ok(links) = self.schema.get_field(LINKS) else { return Ok(()) };
        for segment in &mut self.segments {
            let mut doomed = segment.living(links, &table_term(table), 0, usize::MAX)?;
            if documents {
                doomed.extend(segment.documents());
            }
            for doc in doomed {
                segment.kill_if_up_to(doc, up_to_lsn)?;
            }
        }
        Ok(())
    }
}

impl Rows for Store {
    fn row(&self, id: &str) -> Result<Option<bytes::Bytes>> {
        self.current(id)?.map(|current| self.source(&current)).transpose()
    }

    fn each(&self, term: &str, found: &mut dyn FnMut(Row) -> Result<bool>) -> Result<()> {
        for row in self.builders.iter().flat_map(|builder| builder.rows(term)) {
            if !found(row)? {
                return Ok(());
            }
        }
        self.finished_rows().map_or(Ok(()), |rows| rows.each(term, found))
    }
}

impl Rows for FinishedRows<'_> {
    fn row(&self, id: &str) -> Result<Option<bytes::Bytes>> {
        for segment in self.segments.iter().rev() {
            if let Some(doc) = segment.find(id)? {
                return segment.source(doc).map(Some);
            }
        }
        Ok(None)
    }

    fn each(&self, term: &str, found: &mut dyn FnMut(Row) -> Result<bool>) -> Result<()> {
        for segment in self.segments {
            if !segment.each_row(self.links, term, found)? {
                return Ok(());
            }
        }
        Ok(())
    }
}
