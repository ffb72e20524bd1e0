//! What can go wrong, and with which operation.

use std::io;

/// A failure that a test asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The operation fails with an input/output error and has no effect (a file's sync behaves as
    /// with [`Fault::SyncFailure`]).
    Io,
    /// A file or folder cannot be read, as from a bad sector.
    ReadFailure,
    /// A write takes only a part of its bytes and says so.
    ShortWrite,
    /// A write takes a part of its bytes and fails.
    TornWrite,
    /// No space is left for a write or a new name.
    NoSpace,
    /// A sync fails. Of the bytes that a file's sync should have made durable some are on the disk,
    /// and no later sync brings the others there.
    SyncFailure,
    /// The power fails during the operation: it may or may not have happened, and everything after
    /// it fails. Call [`SimDisk::power_cut`](super::SimDisk::power_cut) for what is left.
    PowerCut,
}

/// A kind of operation, as far as faults tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Create,
    Read,
    Names,
    Write,
    Truncate,
    SyncFile,
    SyncFolder,
}

impl Fault {
    pub(super) fn fits(self, operation: Operation) -> bool {
        match self {
            Self::Io | Self::PowerCut => true,
            Self::ReadFailure => operation == Operation::Read,
            Self::ShortWrite | Self::TornWrite => operation == Operation::Write,
            Self::NoSpace => matches!(operation, Operation::Write | Operation::Create),
            Self::SyncFailure => {
                matches!(operation, Operation::SyncFile | Operation::SyncFolder)
            }
        }
    }

    pub(super) fn to_error(self) -> io::Error {
        match self {
            Self::NoSpace => io::Error::new(io::ErrorKind::StorageFull, "simulated full disk"),
            Self::PowerCut => io::Error::other("simulated power cut"),
            Self::SyncFailure => io::Error::other("simulated failure of a sync"),
            Self::Io | Self::ReadFailure | Self::ShortWrite | Self::TornWrite => {
                io::Error::other("simulated input/output error")
            }
        }
    }
}
