//! What can be found out about operations before they are resolved in their order: their documents'
//! places in finished segments, and what their sources hold.
//!
//! Sources are read by whoever hands a batch to the writer, which meanwhile indexes the batches
//! before; what is missing then, by several threads at once for a large chunk. Nothing is decided
//! here. Places hold for the whole chunk, since finished segments change only after it; a source
//! that would let the mapping grow, or is wrong, is read again in its turn.

use std::sync::Arc;

use bytes::Bytes;

use crate::batch::{Patch, WriteOp};
use crate::document::{Draft, ParsedDocument};
use crate::error::Result;
use crate::mapping::Mapping;
use crate::store::parallel;
use crate::store::segment::LiveSegment;
use crate::store::state::{Current, Store, find_finished};

/// The documents of a batch's operations, in their order, as they were read before the writer had
/// them; `None` where that could not be. It may have fewer than there are operations.
#[derive(Default)]
pub(crate) struct ReadBefore(std::vec::IntoIter<Option<Box<ParsedDocument>>>);

impl ReadBefore {
    /// Reads documents against the mapping of the index as it is shown.
    pub(crate) fn new(ops: &[WriteOp], mapping: &Arc<Mapping>) -> Self {
        let read = |op| {
            let (id, source) = document_of(op)?;
            ParsedDocument::of_known_fields(mapping, id, source)
        };
        Self(ops.iter().map(read).collect::<Vec<_>>().into_iter())
    }

    /// Those of the next operations, none of them read against another mapping.
    pub(super) fn next(
        &mut self,
        ops: usize,
        mapping: &Arc<Mapping>,
    ) -> Vec<Option<Box<ParsedDocument>>> {
        let documents = self.0.by_ref().take(ops);
        documents.map(|document| document.filter(|document| document.fits(mapping))).collect()
    }
}

/// The id of an operation and the source of its document, where it brings the whole of it.
fn document_of(op: &WriteOp) -> Option<(&str, &Bytes)> {
    match op {
        WriteOp::Upsert { id, source, .. } => Some((id, source)),
        WriteOp::Patch { id, patch: Patch::Keep { source, keep }, .. } if keep.is_empty() => {
            Some((id, source))
        }
        WriteOp::Patch { .. }
        | WriteOp::Delete { .. }
        | WriteOp::Clear
        | WriteOp::ClearRows { .. } => None,
    }
}

/// What is known of an operation.
pub(super) struct Ahead<'a> {
    id: &'a str,
    current: Option<Current>,
    parsed: Option<(&'a Bytes, Box<ParsedDocument>)>,
}

impl<'a> Ahead<'a> {
    fn of(
        op: &'a WriteOp,
        read: Option<Box<ParsedDocument>>,
        segments: &[LiveSegment],
        mapping: &Arc<Mapping>,
    ) -> Result<Self> {
        let id = match op {
            WriteOp::Upsert { id, .. } | WriteOp::Patch { id, .. } | WriteOp::Delete { id, .. } => {
                id.as_str()
            }
            WriteOp::Clear | WriteOp::ClearRows { .. } => "",
        };
        let current = find_finished(segments, id)?;
        let parsed = document_of(op).and_then(|(id, source)| {
            let read = read.or_else(|| ParsedDocument::of_known_fields(mapping, id, source));
            Some((source, read?))
        });
        Ok(Self { id, current, parsed })
    }

    /// The document of the operation's id in the finished segments.
    pub(super) fn current(&self) -> Option<Current> {
        self.current.clone()
    }

    /// Whether it is of an operation on this id.
    pub(super) fn is_of(&self, id: &str) -> bool {
        self.id == id
    }

    /// The document that a source holds, if it was read and the mapping is still the same.
    pub(super) fn parsed(&mut self, source: &Bytes, draft: &Draft) -> Option<Box<ParsedDocument>> {
        let (_, parsed) = self.parsed.take_if(|(known, _)| known.as_ptr() == source.as_ptr())?;
        parsed.fits(draft.mapping()).then_some(parsed)
    }
}

/// Looks at the operations of a chunk, of which some documents are read already; empty where it is
/// not worth it.
pub(super) fn look_ahead<'a>(
    store: &Store,
    ops: &'a [WriteOp],
    read: Vec<Option<Box<ParsedDocument>>>,
) -> Result<Vec<Ahead<'a>>> {
    let ways = parallel::ways(ops.len());
    if ways < 2 && read.is_empty() {
        return Ok(Vec::new());
    }
    let mut read = read.into_iter();
    let parts = ops.chunks(ops.len().div_ceil(ways)).map(|ops| {
        let read: Vec<_> = read.by_ref().take(ops.len()).collect();
        (ops, read.into_iter())
    });
    let (segments, mapping) = (&store.segments[..], &store.mapping);
    let look = |(ops, mut read): (&'a [WriteOp], std::vec::IntoIter<_>)| -> Result<Vec<_>> {
        ops.iter().map(|op| Ahead::of(op, read.next().flatten(), segments, mapping)).collect()
    };
    let mut found = Vec::with_capacity(ops.len());
    for part in parallel::at_once(parts.collect(), look) {
        found.append(&mut part?);
    }
    Ok(found)
}
