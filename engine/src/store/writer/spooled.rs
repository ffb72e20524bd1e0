//! Spooled operations: applied in chunks, with what they make going to disk as it grows, so that a
//! batch of any size needs bounded memory.
//!
//! All of it happens within one message to the writer: nothing is published and no flush begins
//! between two chunks. After an error the writer goes back to its last commit, which names nothing
//! of it.

use super::Writer;
use super::composing::Composing;
use crate::batch::{Rejected, Spooled, SpooledOps, SpooledOutcome, WriteOp};
use crate::error::{Error, ErrorKind, Result};
use crate::store::plan::{Circumstances, ReadBefore};

/// So many operations are read at once,
const CHUNK_OPS: usize = if cfg!(test) { 7 } else { 4096 };
/// or, after the first, so many bytes of documents.
const CHUNK_BYTES: usize = 4 << 20;
/// A segment under construction is finished past this, earlier than within other batches: there,
/// few follow each other without a publication.
const BUILDING_BYTES: usize = if cfg!(test) { 0 } else { 32 << 20 };
/// Finished segments of the batch that are in memory go to disk past this.
const YOUNG_BYTES: u64 = if cfg!(test) { 20_000 } else { 8 << 20 };

/// What came of the spooled operations of a batch.
pub(super) struct WroteSpooled {
    pub(super) outcome: SpooledOutcome,
    /// Whether any document was written or removed.
    pub(super) wrote: bool,
    /// Whether the mapping grew.
    pub(super) grew: bool,
}

impl Writer {
    /// Applies the operations in their order, as the beginning of a batch.
    pub(super) fn write_spooled(
        &mut self,
        spooled: Spooled,
        circumstances: Circumstances,
        mut composing: Option<&mut Composing>,
    ) -> Result<WroteSpooled> {
        let Spooled { mut ops, max_rejected } = spooled;
        // No flush knows the segments that are finished from here on.
        let first_own = self.store.segments.len();
        let (mut rejected, mut wrote, mut grew) = (Vec::new(), false, false);
        let mut place = 0;
        loop {
            let chunk = next_chunk(&mut ops)?;
            if chunk.is_empty() {
                break;
            }
            let read = ReadBefore::default();
            let applied = self.apply_ops(&chunk, read, circumstances, composing.as_deref_mut())?;
            wrote |= !applied.changes.is_empty();
            grew |= applied.grew;
            for result in applied.results {
                rejected.extend(result.err().map(|error| Rejected { place, error }));
                place += 1;
            }
            if rejected.len() > max_rejected {
                let message = format!("more than [{max_rejected}] operations are rejected");
                return Err(Error::new(ErrorKind::Full, message));
            }
            self.share.set(self.store.building_bytes());
            self.keep_small(first_own)?;
        }
        ops.rewind()?;
        Ok(WroteSpooled { outcome: SpooledOutcome { ops, rejected }, wrote, grew })
    }

    /// Sees that what a batch makes does not grow in memory; no flush may know the segments from
    /// `first_own` on.
    pub(super) fn keep_small(&mut self, first_own: usize) -> Result<()> {
        if self.share.is_exceeded() || self.store.building_bytes() > BUILDING_BYTES {
            self.store.seal()?;
        }
        self.store.persist_from(first_own, YOUNG_BYTES)
    }
}

fn next_chunk(ops: &mut SpooledOps) -> Result<Vec<WriteOp>> {
    let mut chunk = Vec::new();
    let mut bytes = 0;
    while chunk.len() < CHUNK_OPS && bytes < CHUNK_BYTES {
        let Some(op) = ops.next_op()? else { break };
        bytes += op.source_bytes();
        chunk.push(op);
    }
    Ok(chunk)
}
