//! What can go wrong.

/// Why something cannot be done with metrics.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A name, an option or a query that makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// A named limit is reached.
    #[error("{what}: {asked}, at most {limit}")]
    Full {
        /// What is limited.
        what: &'static str,
        /// How much was asked.
        asked: u64,
        /// The limit.
        limit: u64,
    },
}

impl Error {
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::Invalid(message.into())
    }
}
