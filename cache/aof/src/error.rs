//! What can go wrong with a log, by name and place.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The result of an operation on a log.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the owner's own code, carried through.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A failed operation on a log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file system refused an operation.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried, as in "cannot {action} {path}".
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The file system's error.
        source: io::Error,
    },
    /// Another process, or another log of this one, has the folder open.
    #[error("log folder {} is in use by another process", folder.display())]
    Locked {
        /// The folder of the log.
        folder: PathBuf,
    },
    /// A file is damaged where a crash cannot have left it so.
    #[error("{} is damaged at byte {offset}, where record {sequence} is expected: {reason}", file.display())]
    Damaged {
        /// The damaged file.
        file: PathBuf,
        /// Where the damage begins, in bytes.
        offset: u64,
        /// The sequence number of the record expected there.
        sequence: u64,
        /// What is wrong.
        reason: String,
    },
    /// The manifest is damaged.
    #[error("{} is damaged at line {line}: {reason}", file.display())]
    Manifest {
        /// The manifest.
        file: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong, with the offending text.
        reason: String,
    },
    /// The folder holds files of a log but no manifest.
    #[error("log folder {} holds {example} but no manifest", folder.display())]
    MissingManifest {
        /// The folder of the log.
        folder: PathBuf,
        /// One of the files found there.
        example: String,
    },
    /// The manifest names a file that is not there.
    #[error("{} is missing, though the manifest names it", file.display())]
    MissingFile {
        /// The missing file.
        file: PathBuf,
    },
    /// A file was written by a newer version of this program.
    #[error("{} has format version {found}, newer than {supported}", file.display())]
    UnsupportedVersion {
        /// The file.
        file: PathBuf,
        /// Its version.
        found: u32,
        /// The newest version that this program reads.
        supported: u32,
    },
    /// A record is larger than the log accepts.
    #[error("record of {bytes} bytes is larger than the limit of {limit} bytes")]
    TooLarge {
        /// The size of the payload.
        bytes: usize,
        /// The limit, from the options.
        limit: usize,
    },
    /// The kinds from 240 on belong to the log itself.
    #[error("record kind {kind} is reserved: use one below 240")]
    ReservedKind {
        /// The refused kind.
        kind: u8,
    },
    /// A sync of this file failed earlier, so what it holds is unknown.
    #[error("{} cannot be written any more: an earlier failure left it in an unknown state", file.display())]
    Poisoned {
        /// The poisoned file.
        file: PathBuf,
    },
    /// [`Log::reopen_after_failure`](crate::log::Log::reopen_after_failure) was called on a log
    /// that has not failed.
    #[error("log in {} has not failed: there is nothing to reopen", folder.display())]
    NotPoisoned {
        /// The folder of the log.
        folder: PathBuf,
    },
    /// An increment that this log does not have (any more).
    #[error("log has no increment {number}")]
    UnknownIncrement {
        /// Its number.
        number: u64,
    },
    /// Another rewrite is under way.
    #[error("log in {} is being rewritten already", folder.display())]
    RewriteUnderWay {
        /// The folder of the log.
        folder: PathBuf,
    },
    /// Rewrites failed before, and the next is not due yet.
    #[error("rewrite failed {failures} times; the next may begin in {remaining:?}")]
    BackingOff {
        /// How many rewrites failed in a row.
        failures: u32,
        /// How long to wait.
        remaining: Duration,
    },
    /// The owner's function failed while the log was read.
    #[error("cannot replay record {sequence} at byte {offset} of {}", file.display())]
    Replay {
        /// The file that holds the record.
        file: PathBuf,
        /// Where the record begins.
        offset: u64,
        /// The record's sequence number.
        sequence: u64,
        /// The owner's error.
        source: BoxError,
    },
    /// The owner's function failed while it wrote a new base.
    #[error("cannot rewrite the log")]
    Rewrite {
        /// The owner's error.
        source: BoxError,
    },
}

/// What kind of error it is, for the caller's choice of what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The file system failed.
    Io,
    /// A limit is reached or the disk is full.
    Full,
    /// Somebody else is at it, or it is too early: try later.
    Busy,
    /// What is on the disk cannot be trusted.
    Corrupt,
    /// The call is wrong.
    Invalid,
    /// A sync failed earlier; see [`Error::Poisoned`].
    Poisoned,
    /// The owner's own function failed.
    Owner,
}

impl Error {
    /// The kind of this error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                ErrorKind::Full
            }
            Self::Io { .. } => ErrorKind::Io,
            Self::Locked { .. } | Self::RewriteUnderWay { .. } | Self::BackingOff { .. } => {
                ErrorKind::Busy
            }
            Self::Damaged { .. }
            | Self::Manifest { .. }
            | Self::MissingManifest { .. }
            | Self::MissingFile { .. }
            | Self::UnsupportedVersion { .. } => ErrorKind::Corrupt,
            Self::TooLarge { .. }
            | Self::ReservedKind { .. }
            | Self::NotPoisoned { .. }
            | Self::UnknownIncrement { .. } => ErrorKind::Invalid,
            Self::Poisoned { .. } => ErrorKind::Poisoned,
            Self::Replay { .. } | Self::Rewrite { .. } => ErrorKind::Owner,
        }
    }

    /// For `map_err`: an error of the file system, with what was tried on which path.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_path_buf(), source }
    }
}
