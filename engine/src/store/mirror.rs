//! An index that gets every change of another one, under the same numbers and versions: the folder
//! that a rebuild fills, and afterwards the older one, so that a roll-back loses nothing.
//!
//! The writer of the one hands changes to the writer of the other in its own order. Only what is
//! durable in the first one's translog goes on to the second, so the second never holds what the
//! first one does not; and while it is kept for a roll-back, nobody is told that a write is done
//! before it is in both. So both hold the same where they count the same number of operations.

use std::sync::Arc;

use bytes::Bytes;
use crossbeam_channel::{Sender, bounded};

use super::plan::Change;
use super::shared::{Message, Shared, closed};
use crate::error::Result;
use crate::mapping::Mapping;
use crate::position::SeqNo;

/// Where a writer sends its changes to.
pub(crate) struct Mirror {
    pub(crate) shared: Arc<Shared>,
    /// Whether a write is answered only when it is in both. Otherwise a failure shows when more is
    /// asked of the other one.
    pub(crate) waits: bool,
}

/// A document of a published state, to be handed on unless it has been changed since.
pub(crate) struct Copied {
    pub(crate) id: String,
    pub(crate) source: Bytes,
    pub(crate) seq_no: u64,
}

/// What is asked of writers about mirrors.
pub(crate) enum Mirroring {
    /// Publishes, and from here on hands changes on; `filling`: to an index that has nothing yet
    /// and was made with this mapping, or else it is refused with `VersionConflict`.
    Attach { mirror: Mirror, filling: Option<Arc<Mapping>>, reply: Sender<Result<()>> },
    /// Ends that. An error says that the other one lacks something.
    Detach(Sender<Result<()>>),
    /// Hands on those that have not been changed since; answered when the other one has them.
    Copy(Vec<Copied>, Sender<Result<()>>),
    /// To the other one.
    Apply(Handed),
}

/// Changes, and the number after them.
pub(crate) struct Handed {
    pub(super) changes: Vec<Change>,
    /// What the queue counts for them.
    pub(super) bytes: usize,
    pub(super) next_seq_no: SeqNo,
    pub(super) reply: Option<Sender<Result<()>>>,
}

impl Mirroring {
    /// What the queue counts for it.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Apply(handed) => handed.bytes,
            Self::Attach { .. } | Self::Detach(_) | Self::Copy(..) => 0,
        }
    }

    /// Nobody will do it.
    pub(super) fn refuse(self) {
        let reply = match self {
            Self::Attach { reply, .. } | Self::Detach(reply) | Self::Copy(_, reply) => Some(reply),
            Self::Apply(handed) => handed.reply,
        };
        if let Some(reply) = reply
            && reply.send(Err(closed())).is_err()
        {
            tracing::trace!("nobody waits for this answer any more");
        }
    }
}

impl Mirror {
    /// Hands changes on, in order. Waits while the other one's queue is full, by messages or by bytes: an
    /// index is written no faster than its other folder can follow.
    pub(super) fn send(
        &self,
        changes: Vec<Change>,
        next_seq_no: SeqNo,
        reply: Option<Sender<Result<()>>>,
    ) -> Result<()> {
        let bytes = changes.iter().map(bytes_of).sum();
        self.shared.queue.reserve_for_changes(bytes)?;
        let handed = Handed { changes, bytes, next_seq_no, reply };
        let sent = self.shared.send(Message::Mirroring(Mirroring::Apply(handed)));
        if sent.is_err() {
            self.shared.queue.release(bytes);
        }
        sent
    }

    /// As `send`; returns once the other one has them, where that is wanted.
    pub(super) fn hand_on(&self, changes: Vec<Change>, next_seq_no: SeqNo) -> Result<()> {
        if !self.waits {
            return self.send(changes, next_seq_no, None);
        }
        let (reply, answer) = bounded(1);
        self.send(changes, next_seq_no, Some(reply))?;
        answer.recv().map_err(|_| closed())?
    }
}

/// About what a change holds in memory.
fn bytes_of(change: &Change) -> usize {
    let held = match change {
        Change::Put { id, source, .. } => id.len() + source.len(),
        Change::Delete { id, .. } | Change::Tombstone { id, .. } => id.len(),
        Change::Clear => 0,
    };
    size_of::<Change>() + held
}
