//! What can be found out about the operations of a large chunk before they are resolved in their
//! order, by several threads at once: their documents' places in finished segments, and what their
//! sources hold.
//!
//! Nothing is decided here. What was found holds for the whole chunk, since finished segments change
//! only after it; a source that would let the mapping grow, or is wrong, is read again in its turn.

use std::sync::Arc;

use bytes::Bytes;

use crate::batch::WriteOp;
use crate::document::{Draft, ParsedDocument};
use crate::error::Result;
use crate::mapping::Mapping;
use crate::store::parallel;
use crate::store::segment::LiveSegment;
use crate::store::state::{Current, Store, find_finished};

/// What is known of an operation.
pub(super) struct Ahead<'a> {
    id: &'a str,
    current: Option<Current>,
    parsed: Option<(&'a Bytes, ParsedDocument)>,
}

impl<'a> Ahead<'a> {
    fn of(op: &'a WriteOp, segments: &[LiveSegment], mapping: &Arc<Mapping>) -> Result<Self> {
        let (id, source) = match op {
            WriteOp::Upsert { id, source, .. } => (id.as_str(), Some(source)),
            WriteOp::Patch { id, .. } | WriteOp::Delete { id, .. } => (id.as_str(), None),
            WriteOp::Clear | WriteOp::ClearRows { .. } => ("", None),
        };
        let current = find_finished(segments, id)?;
        let parsed = source.and_then(|source| {
            Some((source, ParsedDocument::of_known_fields(mapping, id, source)?))
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
    pub(super) fn parsed(&mut self, source: &Bytes, draft: &Draft) -> Option<ParsedDocument> {
        let (_, parsed) = self.parsed.take_if(|(known, _)| known.as_ptr() == source.as_ptr())?;
        parsed.fits(draft.mapping()).then_some(parsed)
    }
}

/// Looks at the operations of a chunk; empty where it is not worth it.
pub(super) fn look_ahead<'a>(store: &Store, ops: &'a [WriteOp]) -> Result<Vec<Ahead<'a>>> {
    let ways = parallel::ways(ops.len());
    if ways < 2 {
        return Ok(Vec::new());
    }
    let parts: Vec<&[WriteOp]> = ops.chunks(ops.len().div_ceil(ways)).collect();
    let (segments, mapping) = (&store.segments[..], &store.mapping);
    let look = |part: &'a [WriteOp]| -> Result<Vec<Ahead<'a>>> {
        part.iter().map(|op| Ahead::of(op, segments, mapping)).collect()
    };
    let mut found = Vec::with_capacity(ops.len());
    for part in parallel::at_once(parts, look) {
        found.append(&mut part?);
    }
    Ok(found)
}
