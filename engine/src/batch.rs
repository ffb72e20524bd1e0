//! What is written to an index: operations, gathered into batches that become visible as a whole,
//! and what came of them.

mod spooled;

use bytes::Bytes;

pub use self::spooled::{OpSpool, SpooledOps};
use crate::error::Error;
use crate::position::{Checkpoint, Lsn, SeqNo};

/// A document's `_id`: 1 to 512 bytes of UTF-8.
pub type DocId = String;

/// One operation on one document, or on all.
#[derive(Debug, Clone)]
pub enum WriteOp {
    /// Puts a document in place of whatever has its id.
    Upsert {
        /// The document's id.
        id: DocId,
        /// The document: the bytes of a JSON object, kept verbatim as `_source`.
        source: Bytes,
        /// What must hold for it to happen.
        condition: Condition,
    },
    /// Changes part of a document. The writer reads the old one; the caller never does.
    Patch {
        /// The document's id after the change.
        id: DocId,
        /// Its id before, where the change moves it.
        previous_id: Option<DocId>,
        /// How the new document comes from the old.
        patch: Patch,
        /// What must hold for it to happen.
        condition: Condition,
    },
    /// Removes a document. One that is not there is no error.
    Delete {
        /// The document's id.
        id: DocId,
        /// What must hold for it to happen.
        condition: Condition,
    },
    /// Removes every document that earlier operations have put.
    Clear,
    /// Removes every row of a table that documents are composed from; of the table that the
    /// documents are named by, the documents too. Only for an index with a composition.
    ClearRows {
        /// The table's place in the composition.
        table: usize,
    },
}

impl WriteOp {
    /// The bytes of documents that it carries.
    pub fn source_bytes(&self) -> usize {
        match self {
            Self::Patch { patch: Patch::Merge { source, upsert, .. }, .. } => {
                source.len() + upsert.as_ref().map_or(0, Bytes::len)
            }
            Self::Upsert { source, .. } | Self::Patch { patch: Patch::Keep { source, .. }, .. } => {
                source.len()
            }
            Self::Delete { .. } | Self::Clear | Self::ClearRows { .. } => 0,
        }
    }
}

/// How a patch makes the new document.
#[derive(Debug, Clone)]
pub enum Patch {
    /// `source` is the whole new document but for the top-level fields in `keep`, which are taken
    /// from the old one (PostgreSQL's unchanged TOAST values). Without an old document the
    /// operation is rejected with `DocumentMissing`.
    Keep {
        /// The bytes of a JSON object.
        source: Bytes,
        /// Top-level fields to take from the old document.
        keep: Vec<String>,
    },
    /// `source` is merged into the old document, objects recursively, as Elasticsearch's `_update`.
    Merge {
        /// The bytes of a JSON object.
        source: Bytes,
        /// The document to put where there is no old one; without it that is `DocumentMissing`.
        upsert: Option<Bytes>,
        /// A patch that changes nothing is a no-op.
        detect_noop: bool,
    },
}

/// What must hold for an operation to happen; otherwise it is a `VersionConflict`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Condition {
    /// Nothing.
    #[default]
    None,
    /// The document must not exist (`op_type=create`).
    Absent,
    /// The document's last change must have been this one (`if_seq_no`, `if_primary_term`).
    LastChange {
        /// Sequence number of the last change.
        seq_no: SeqNo,
        /// Term of the last change.
        term: u64,
    },
    /// The document's version is counted elsewhere (`version_type=external`): the last one, also
    /// that of a delete within `index.gc_deletes`, must be below the new one.
    External {
        /// The new version.
        version: u64,
        /// Whether the last one may also be equal (`external_gte`).
        or_equal: bool,
    },
}

/// When the writer should publish what a batch wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Refresh {
    /// As the index's settings say: at once when idle, at most every `refresh_interval` under load.
    #[default]
    Scheduled,
    /// As scheduled, but the receipt waits for it (`refresh=wait_for`).
    WaitFor,
    /// Now, and the receipt waits for it (`refresh=true`).
    Now,
}

/// Operations that become visible together, or not at all.
#[derive(Debug, Default)]
pub struct Batch {
    /// The operations, in order. Of several on one id the last wins.
    pub ops: Vec<WriteOp>,
    /// Operations that come before `ops`, where there are more than memory should hold. Only for a
    /// followed index: a translog would need them in memory.
    pub spooled: Option<Spooled>,
    /// For a followed index, where the source's log stands after this batch. Its LSN is also the
    /// version of the batch's documents unless `row_lsn` says otherwise.
    pub checkpoint: Option<Checkpoint>,
    /// For copied rows, the LSN that the copy's snapshot agrees with.
    pub row_lsn: Option<Lsn>,
    /// The copy's progress after this batch, opaque to the engine, committed atomically with the
    /// documents. `None` leaves it as it is.
    pub copy_progress: Option<String>,
    /// Whether a single operation or document that is rejected fails the batch as a whole. For a
    /// followed index, which then goes back to its last commit.
    pub must_fit: bool,
    /// When to publish.
    pub refresh: Refresh,
    /// Whether what came of patches is told with the documents as they are then. All of them are held
    /// until the batch is answered.
    pub tell_patched: bool,
    /// For an index with a composition: which documents are composed from its rows.
    pub compose: Compose,
}

/// Which documents a batch composes, in an index whose documents are made from rows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Compose {
    /// Those that its operations on rows concern.
    #[default]
    Affected,
    /// Those that these rows are part of, and that its operations do not concern.
    PartOf(Vec<DocId>),
    /// None: a later batch composes all of them.
    Later,
    /// All.
    All,
}

/// Operations in a file, and how many of them may be rejected.
#[derive(Debug)]
pub struct Spooled {
    /// The operations.
    pub ops: SpooledOps,
    /// Past so many rejected operations the batch fails as a whole, with `Full`.
    pub max_rejected: usize,
}

/// What an operation did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpResult {
    /// A document was put where there was none.
    Created,
    /// A document was put in place of another.
    Updated,
    /// A document was removed.
    Deleted,
    /// There was nothing to remove.
    NotFound,
    /// Nothing changed.
    Noop,
}

/// An operation that was applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// The document's id.
    pub id: DocId,
    /// What it did.
    pub result: OpResult,
    /// Its sequence number.
    pub seq_no: SeqNo,
    /// The term that it was written in.
    pub term: u64,
    /// The document's version: for a followed index the LSN, otherwise a count from 1.
    pub version: u64,
    /// The document as a patch has left it, where the batch asked for it.
    pub source: Option<Bytes>,
}

/// What came of a batch.
#[derive(Debug)]
pub struct BatchOutcome {
    /// The result of each of [`Batch::ops`], in their order; a rejected one has changed nothing,
    /// but in a followed index has removed the older document of its id.
    pub ops: Vec<Result<Applied, Error>>,
    /// What came of [`Batch::spooled`].
    pub spooled: Option<SpooledOutcome>,
    /// For an index with a composition: the documents that were composed or removed, where not all
    /// were, and those that could not be. Such a one is removed.
    pub composed: Vec<(DocId, Result<(), Error>)>,
    /// Whether the batch was published when this was sent (always for `Refresh::Now`, `WaitFor`).
    pub published: bool,
}

/// What came of spooled operations: all but the rejected ones were applied.
#[derive(Debug)]
pub struct SpooledOutcome {
    /// The operations, to be read again from the first.
    pub ops: SpooledOps,
    /// The rejected ones, in their order.
    pub rejected: Vec<Rejected>,
}

/// A spooled operation that was rejected.
#[derive(Debug)]
pub struct Rejected {
    /// Its place among the spooled operations, from 0.
    pub place: u64,
    /// Why.
    pub error: Error,
}
