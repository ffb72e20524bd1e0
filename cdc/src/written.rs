//! What the operations of a batch write: ids, and the documents that dead letters are made of.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use egret_engine::batch::{Patch, WriteOp};
use egret_engine::composition::row_id;
use serde_json::{Map, Value};

use crate::document::MAX_RAW_BYTES;

/// What was written, for those operations that the engine may refuse: their ids in one text, and
/// their documents.
#[derive(Debug, Default)]
pub(crate) struct Written {
    ids: String,
    ends: Vec<usize>,
    sources: Vec<Option<Bytes>>,
    /// Of the few that have one.
    previous_ids: BTreeMap<usize, String>,
}

/// The id of what an operation writes or removes; none where that is all there is.
pub(crate) fn written_id(op: &WriteOp) -> Option<&str> {
    match op {
        WriteOp::Upsert { id, .. } | WriteOp::Patch { id, .. } | WriteOp::Delete { id, .. } => {
            Some(id)
        }
        WriteOp::ClearRows { .. } | WriteOp::Clear => None,
    }
}

/// The id that a row had before an operation gave it another.
pub(crate) fn previous_id(op: &WriteOp) -> Option<&str> {
    match op {
        WriteOp::Patch { previous_id, .. } => previous_id.as_deref(),
        _ => None,
    }
}

/// The id of an operation, none for all rows, and its document. All rows of one of several tables have
/// the id of a row without a key, which no row has.
pub(crate) fn parts(op: &WriteOp) -> (Option<Cow<'_, str>>, Option<&Bytes>) {
    match op {
        WriteOp::Upsert { id, source, .. }
        | WriteOp::Patch { id, patch: Patch::Keep { source, .. }, .. }
        | WriteOp::Patch { id, patch: Patch::Merge { source, .. }, .. } => {
            (Some(id.into()), Some(source))
        }
        WriteOp::Delete { id, .. } => (Some(id.into()), None),
        WriteOp::ClearRows { table } => (Some(row_id(*table, "").into()), None),
        WriteOp::Clear => (None, None),
    }
}

impl Written {
    /// Of a batch's operations, in their order.
    pub(crate) fn of(ops: &[WriteOp]) -> Self {
        let mut written = Self::default();
        for op in ops {
            let (id, source) = parts(op);
            written.ids.push_str(id.as_deref().unwrap_or_default());
            written.ends.push(written.ids.len());
            if let Some(previous) = previous_id(op) {
                written.previous_ids.insert(written.sources.len(), previous.to_owned());
            }
            written.sources.push(source.cloned());
        }
        written
    }

    /// The id that the row of an operation had before.
    pub(crate) fn previous_id(&self, at: usize) -> Option<&str> {
        self.previous_ids.get(&at).map(String::as_str)
    }

    /// An operation's id, which is never empty but for `Clear`, and its document.
    pub(crate) fn get(&self, at: usize) -> (Option<&str>, Option<&Bytes>) {
        let start = at.checked_sub(1).and_then(|before| self.ends.get(before)).copied();
        let end = self.ends.get(at).copied().unwrap_or_default();
        let id = self.ids.get(start.unwrap_or(0)..end).filter(|id| !id.is_empty());
        (id, self.sources.get(at).and_then(Option::as_ref))
    }
}

/// The values that a letter keeps; none where they are too many.
pub(crate) fn values(source: Option<&Bytes>) -> Map<String, Value> {
    let fits = |source: &&Bytes| source.len() <= MAX_RAW_BYTES;
    let read = |source: &Bytes| serde_json::from_slice(source).ok();
    source.filter(fits).and_then(read).unwrap_or_default()
}
