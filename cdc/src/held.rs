//! Transactions that an index held when its pipeline came back, and whose dead letters were not durable
//! yet.
//!
//! An index becomes durable by itself, whenever it has enough. Of a row that did not fit it keeps
//! nothing; that is listed once the batch is answered, and durable before the transaction is
//! acknowledged. A crash between the two leaves an index without the row and no letter, and the
//! index skips the transaction when it comes again. So the last transactions before a crash are looked at
//! once more: a row that they wrote and that is not there is listed, and read again, which tells
//! whether it fits.

use egret_engine::batch::{
    Applied, Batch, BatchOutcome, OpResult, Rejected, SpooledOps, SpooledOutcome, WriteOp,
};
use egret_engine::snapshot::Fit;
use egret_engine::{Error, ErrorKind, Lsn, Result, SeqNo};

use crate::receipts::written_id;
use crate::sink::Sink;

/// How many operations are looked up at a time.
const AT_ONCE: usize = 1000;

/// What was answered to a batch that an index holds, as far as that can be told from what it shows.
/// Blocking.
pub(crate) fn outcome(sink: &dyn Sink, batch: Batch, end: Lsn) -> Result<BatchOutcome> {
    sink.refresh()?;
    let spooled = batch.spooled.map(|spooled| of_spooled(sink, spooled.ops)).transpose()?;
    let mut ops = Vec::with_capacity(batch.ops.len());
    for some in batch.ops.chunks(AT_ONCE) {
        for (op, is_there) in some.iter().zip(are_there(sink, some)?) {
            ops.push(if is_there { Ok(applied(op, end)) } else { Err(unknown()) });
        }
    }
    Ok(BatchOutcome { ops, spooled, composed: Vec::new(), published: true })
}

fn of_spooled(sink: &dyn Sink, mut ops: SpooledOps) -> Result<SpooledOutcome> {
    let (mut rejected, mut place) = (Vec::new(), 0);
    loop {
        let mut some = Vec::with_capacity(AT_ONCE);
        while some.len() < AT_ONCE
            && let Some(op) = ops.next_op()?
        {
            some.push(op);
        }
        if some.is_empty() {
            break;
        }
        let there = are_there(sink, &some)?;
        let places = (place..).zip(there).filter(|(_, is_there)| !is_there);
        rejected.extend(places.map(|(place, _)| Rejected { place, error: unknown() }));
        place += some.len() as u64;
    }
    ops.rewind()?;
    Ok(SpooledOutcome { ops, rejected })
}

/// Whether what operations wrote is there; nothing is missing of one that removed.
fn are_there(sink: &dyn Sink, ops: &[WriteOp]) -> Result<Vec<bool>> {
    let writes = |op: &WriteOp| matches!(op, WriteOp::Upsert { .. } | WriteOp::Patch { .. });
    let id = |op: &WriteOp| written_id(op).unwrap_or_default().to_owned();
    let ids: Vec<String> = ops.iter().filter(|op| writes(op)).map(id).collect();
    let mut shown = sink.shown(&ids)?.into_iter();
    let is_there = |op| {
        let Some(shown) = writes(op).then(|| shown.next()).flatten() else { return true };
        let composed = !matches!(shown.composed, Some(Fit::Missing | Fit::Impossible(_)));
        shown.document.is_some() && composed
    };
    Ok(ops.iter().map(is_there).collect())
}

/// As for a row whose older document is missing, which is read again, too.
fn unknown() -> Error {
    let message = "its transaction was applied before a crash without this row, and why it did not \
                   fit was not written down: it is read again";
    Error::new(ErrorKind::DocumentMissing, message)
}

fn applied(op: &WriteOp, end: Lsn) -> Applied {
    let id = written_id(op).unwrap_or_default().to_owned();
    Applied { id, result: OpResult::Noop, seq_no: SeqNo(0), term: 0, version: end.0 }
}
