//! The server's one error: a kind for the HTTP layer's choice, a reason, and what caused it.
//!
//! `http/errors.rs` alone decides which status and Elasticsearch type a kind becomes.

use std::fmt;

/// The server's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of failure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The body is not JSON, repeats a key, or has a field that its object does not know.
    Content,
    /// A clause, an aggregation or an option that is unknown or misplaced.
    Parsing,
    /// A value that is wrong.
    Argument,
    /// A request that lacks something or contradicts itself.
    Validation,
    /// A query that cannot be run, found while it is read (`query_string` syntax).
    QueryShard,
    /// A `Content-Type` that is not spoken.
    MediaType,
    /// An `Accept` that cannot be served.
    NotAcceptable,
    /// A body past its limit.
    TooLarge,
    /// A pool, queue or memory budget is full.
    Rejected,
    /// No route for this path and method.
    NoHandler,
    /// A path that has other methods.
    MethodNotAllowed,
    /// Something named in the request is not there, other than an index or a document.
    NotFound,
    /// A scroll or point in time that is not open.
    ContextMissing,
    /// The request contradicts the state of a pipeline, as an LSN of another system.
    Conflict,
    /// What is asked for does not fit what a pipeline is, or is doing.
    State,
    /// A deadline passed.
    Timeout,
    /// Egret is not ready for it.
    Unavailable,
    /// The configuration is wrong.
    Configuration,
    /// The engine's failure.
    Engine(egret_engine::ErrorKind),
    /// A defect of Egret.
    Internal,
}

/// A failure of a request, or of starting.
pub struct Error(Box<Inner>);

struct Inner {
    kind: Kind,
    reason: String,
    index: Option<String>,
    cause: Option<Error>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// A failure of `kind`; the reason names the offending value and place.
    pub fn new(kind: Kind, reason: impl Into<String>) -> Self {
        let reason = reason.into();
        Self(Box::new(Inner { kind, reason, index: None, cause: None, source: None }))
    }

    pub(crate) fn parsing(reason: impl Into<String>) -> Self {
        Self::new(Kind::Parsing, reason)
    }

    pub(crate) fn content(reason: impl Into<String>) -> Self {
        Self::new(Kind::Content, reason)
    }

    pub(crate) fn argument(reason: impl Into<String>) -> Self {
        Self::new(Kind::Argument, reason)
    }

    /// A request that fails Elasticsearch's validation, in the words it uses for that.
    pub(crate) fn validation(problem: impl fmt::Display) -> Self {
        Self::new(Kind::Validation, format!("Validation Failed: 1: {problem};"))
    }

    /// Names the index that it happened in.
    #[must_use]
    pub fn with_index(mut self, index: impl Into<String>) -> Self {
        self.0.index = Some(index.into());
        self
    }

    /// Adds what caused it, shown as `caused_by`.
    #[must_use]
    pub fn caused_by(mut self, cause: Error) -> Self {
        self.0.cause = Some(cause);
        self
    }

    /// Keeps the error that caused it, for the log.
    #[must_use]
    pub fn with_source(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// What went wrong.
    pub fn reason(&self) -> &str {
        &self.0.reason
    }

    /// The index that it happened in.
    pub fn index(&self) -> Option<&str> {
        self.0.index.as_deref()
    }

    /// What caused it, where that is to be shown.
    pub fn cause(&self) -> Option<&Error> {
        self.0.cause.as_ref()
    }
}

/// The same failure for another who asked the same. What caused it inside stays with the first.
impl Clone for Error {
    fn clone(&self) -> Self {
        let Inner { kind, reason, index, cause, .. } = self.0.as_ref();
        let (kind, reason, index) = (*kind, reason.clone(), index.clone());
        Self(Box::new(Inner { kind, reason, index, cause: cause.clone(), source: None }))
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.0.kind, self.0.reason)?;
        match &self.0.source {
            Some(source) => write!(f, " ({source})"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.reason)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        let cause = self.0.cause.as_ref().map(|cause| cause as &dyn std::error::Error);
        cause.or_else(|| self.0.source.as_deref().map(|source| source as _))
    }
}

impl From<egret_cdc::Error> for Error {
    fn from(error: egret_cdc::Error) -> Self {
        use egret_cdc::ErrorKind as Cdc;
        let kind = match error.kind() {
            Cdc::Invalid => Kind::Argument,
            Cdc::NotFound => Kind::NotFound,
            Cdc::Conflict | Cdc::Refused => Kind::State,
            Cdc::Io | Cdc::Corrupt => Kind::Internal,
            _ => Kind::Unavailable,
        };
        Self::new(kind, error.to_string()).with_source(error)
    }
}

impl From<egret_engine::Error> for Error {
    fn from(error: egret_engine::Error) -> Self {
        let mut converted = Self::new(Kind::Engine(error.kind()), error.message());
        converted.0.index = error.index().map(str::to_owned);
        converted.with_source(error)
    }
}
