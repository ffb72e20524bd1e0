//! The engine's one error: a kind for the caller's choice, a message, the index, and a source.

use std::fmt;

/// The engine's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of failure it is. The server maps kinds to HTTP statuses; nothing else does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// No index of this name.
    IndexNotFound,
    /// An index of this name exists.
    IndexAlreadyExists,
    /// An index name that is not allowed.
    InvalidIndexName,
    /// The index is closed: it takes no reads or writes until it is opened.
    IndexClosed,
    /// An alias name that is not allowed.
    InvalidAliasName,
    /// No alias of this name.
    AliasNotFound,
    /// No template of this name.
    TemplateNotFound,
    /// A condition on sequence number, version or `op_type=create` does not hold.
    VersionConflict,
    /// The document of a patch or update does not exist.
    DocumentMissing,
    /// A document that does not fit the mapping, or is not a JSON object.
    DocumentParsing,
    /// A mapping that is wrong in itself.
    MappingParsing,
    /// A query that cannot be run against this mapping.
    InvalidQuery,
    /// Any other argument that is wrong.
    InvalidArgument,
    /// A named limit is reached: a queue, a body, a memory budget.
    Full,
    /// The index refuses this, as one that is followed refuses document writes.
    Forbidden,
    /// The index is read-only after a failed fsync, until a flush has succeeded.
    ReadOnly,
    /// A deadline passed.
    Timeout,
    /// It was asked to stop.
    Cancelled,
    /// A search would take more memory than it may.
    CircuitBreaking {
        /// So many bytes.
        wanted: u64,
        /// So many are allowed.
        limit: u64,
        /// Whether others have taken what it wants: it may have it later.
        transient: bool,
    },
    /// The index or engine is closed.
    Closed,
    /// The index could not be opened for want of space, files or memory; it is tried again.
    Unavailable,
    /// Data on disk is damaged.
    Corrupt,
    /// The operating system refused an operation.
    Io,
    /// A defect of Egret.
    Internal,
}

/// A failure of the engine.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    index: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// A failure of `kind`; the message is lower case, without a full stop, and names the value.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), index: None, source: None }
    }

    /// Names the index that it happened in.
    #[must_use]
    pub fn with_index(mut self, index: impl Into<String>) -> Self {
        self.index = Some(index.into());
        self
    }

    /// Keeps the error that caused it.
    #[must_use]
    pub fn with_source(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The message without the source.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The index that it happened in, where one is known.
    pub fn index(&self) -> Option<&str> {
        self.index.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

impl From<std::io::Error> for Error {
    fn from(source: std::io::Error) -> Self {
        Self::new(ErrorKind::Io, source.to_string()).with_source(source)
    }
}

impl From<tantivy::TantivyError> for Error {
    fn from(source: tantivy::TantivyError) -> Self {
        if let Some(stop) = crate::control::stop_in(&source) {
            return stop.into();
        }
        Self::new(ErrorKind::Internal, source.to_string()).with_source(source)
    }
}
