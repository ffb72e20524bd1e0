//! What a pipeline is told while it runs: to stand still, to go on, to begin anew; and what the one
//! that follows its log is asked to do.

use std::sync::Arc;

use egret_engine::Lsn;
use serde::Serialize;
use tokio::sync::oneshot;

use crate::catalog::Table;
use crate::dead_letters::LetterKey;
use crate::error::Result;
use crate::sink::Sink;
use crate::verify::DriftKind;

/// What it is to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Order {
    /// To stand still.
    pub(crate) paused: bool,
    /// Rises with each order.
    pub(crate) number: u64,
}

/// What a pipeline that follows its log is asked to do.
pub(crate) enum Request {
    /// To copy a table again, beside the index that searches see.
    Copy {
        /// As `schema.table`.
        table: String,
        reply: oneshot::Sender<Result<()>>,
    },
    /// To go back to the index from before the last copy.
    RollBack {
        /// The index's name.
        index: String,
        reply: oneshot::Sender<Result<()>>,
    },
    /// To read rows again whose letters are open.
    Retry { letters: Vec<LetterKey>, reply: oneshot::Sender<Result<Vec<Retried>>> },
    /// Which tables it follows.
    Followed { reply: oneshot::Sender<Vec<Followed>> },
    /// To look again at rows that differ from their documents.
    Check(Check),
}

/// A table that is followed, and its index.
pub(crate) struct Followed {
    /// The index's name.
    pub(crate) index: String,
    pub(crate) table: Arc<Table>,
    pub(crate) sink: Arc<dyn Sink>,
}

/// Rows that differ from their documents.
pub(crate) struct Check {
    /// The index's name.
    pub(crate) index: String,
    /// The ids that the index has them under.
    pub(crate) ids: Vec<String>,
    /// Whether what has drifted is repaired.
    pub(crate) repairs: bool,
    pub(crate) reply: oneshot::Sender<Result<Vec<Drifted>>>,
}

/// A row and a document that are not each other's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Drifted {
    /// The row's table, as `schema.table`, and the `_id` of its document.
    pub(crate) table: String,
    pub(crate) key: String,
    /// The id that the index has it under.
    pub(crate) id: String,
    pub(crate) kind: DriftKind,
    /// It was so at this position.
    pub(crate) lsn: Lsn,
    pub(crate) repaired: bool,
    /// Why it could not be repaired.
    pub(crate) reason: Option<String>,
}

/// What became of a row that was read again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Retried {
    /// The index.
    pub index: String,
    /// The table, as `schema.table`.
    pub table: String,
    /// The row's `_id`.
    pub id: String,
    /// What became of it.
    pub outcome: RetryOutcome,
    /// Why, where it is still not indexed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What became of a row that was read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RetryOutcome {
    /// It is indexed, and its letter closed.
    Indexed,
    /// There is no such row any more: its letter is closed.
    Gone,
    /// It was changed meanwhile: the log has the last word.
    Changed,
    /// It cannot be indexed still.
    Failed,
}

/// An open dead letter.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DeadLetter {
    /// The index that lacks the row.
    pub index: String,
    /// The table, as `schema.table`.
    pub table: String,
    /// The row's `_id`; empty where it has none.
    pub id: String,
    /// The position of its transaction, or of the copy.
    pub lsn: Lsn,
    /// What is wrong.
    pub reason: String,
    /// Its values as they came, where they are not too large.
    pub values: serde_json::Map<String, serde_json::Value>,
}
