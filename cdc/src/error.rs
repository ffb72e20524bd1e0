//! The crate's one error: a kind that decides what the pipeline does next, a message, and a source.

use std::fmt;

use tokio_postgres::error::SqlState;

/// This crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of failure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// A configuration or an argument that is wrong in itself.
    Invalid,
    /// The database cannot be reached, or the connection broke. Retried.
    Unavailable,
    /// The database answered with an error. Retried, since an administrator may mend it.
    Server,
    /// The source is not what the pipeline's file says (another system, another timeline, behind
    /// it). Never retried by itself: going on could skip or mix changes.
    Refused,
    /// The slot lost changes that the indexes need: the tables must be copied again.
    ChangesLost,
    /// A table is no longer what it was when its copy or its stream began: it is looked at again.
    TableChanged,
    /// Bytes from the server that do not follow the protocol.
    Protocol,
    /// The engine refused something that it should have taken.
    Engine,
    /// The operating system refused an operation on the pipeline's own files.
    Io,
    /// The pipeline's own files are damaged.
    Corrupt,
    /// The pipeline was asked to stop.
    Stopped,
    /// Something named is not there.
    NotFound,
    /// What is asked for does not fit what the pipeline is doing.
    Conflict,
}

/// A failure of change capture.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// A failure of `kind`; the message is lower case, without a full stop, and names the value.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
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

    /// Says what was being done.
    #[must_use]
    pub fn context(mut self, doing: impl fmt::Display) -> Self {
        self.message = format!("{doing}: {}", self.message);
        self
    }

    /// Says what to do about it.
    #[must_use]
    pub(crate) fn followed_by(mut self, remedy: &str) -> Self {
        self.message = format!("{}; {remedy}", self.message);
        self
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The server's code, where it is the server's error.
    pub(crate) fn sql_state(&self) -> Option<&SqlState> {
        self.source.as_deref()?.downcast_ref::<tokio_postgres::Error>()?.code()
    }

    /// The server's code by its text, whichever driver it came through: the one that follows the log
    /// has it in its message.
    pub(crate) fn code(&self) -> Option<&str> {
        if let Some(state) = self.sql_state() {
            return Some(state.code());
        }
        let source = self.source.as_deref()?.downcast_ref::<pgwire_replication::PgWireError>()?;
        let pgwire_replication::PgWireError::Server(message) = source else { return None };
        message.rsplit_once("(SQLSTATE ")?.1.get(..5)
    }

    /// Whether somebody else has locked what a statement needs.
    pub(crate) fn is_locked(&self) -> bool {
        self.sql_state() == Some(&SqlState::LOCK_NOT_AVAILABLE)
    }

    /// Whether a statement had a value that its type does not take, or an expression without one.
    pub(crate) fn is_bad_value(&self) -> bool {
        self.sql_state().is_some_and(|code| code.code().starts_with("22"))
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

impl From<tokio_postgres::Error> for Error {
    fn from(source: tokio_postgres::Error) -> Self {
        let (kind, message) = match source.as_db_error() {
            Some(error) => (
                ErrorKind::Server,
                format!("{} (SQLSTATE {})", error.message(), error.code().code()),
            ),
            None => (ErrorKind::Unavailable, with_causes(&source)),
        };
        Self::new(kind, message).with_source(source)
    }
}

impl From<pgwire_replication::PgWireError> for Error {
    fn from(source: pgwire_replication::PgWireError) -> Self {
        use pgwire_replication::PgWireError as Wire;
        let kind = match &source {
            Wire::Server(_) | Wire::Auth(_) => ErrorKind::Server,
            Wire::Protocol(_) | Wire::MessageTooLarge { .. } => ErrorKind::Protocol,
            _ => ErrorKind::Unavailable,
        };
        Self::new(kind, source.to_string()).with_source(source)
    }
}

impl From<egret_engine::Error> for Error {
    fn from(source: egret_engine::Error) -> Self {
        let place = source.index().map(|index| format!("index [{index}]: ")).unwrap_or_default();
        Self::new(ErrorKind::Engine, format!("{place}{source}")).with_source(source)
    }
}

impl From<std::io::Error> for Error {
    fn from(source: std::io::Error) -> Self {
        Self::new(ErrorKind::Io, source.to_string()).with_source(source)
    }
}

/// An error's message with those of its causes, since drivers put the reason in the cause.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.contains(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        cause = error.source();
    }
    text
}
