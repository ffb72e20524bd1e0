//! Why there is no such analyzer, or no answer.

/// A name that is not known, or a limit that is reached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No analyzer has this name.
    #[error("failed to find global analyzer [{0}]")]
    UnknownAnalyzer(String),
    /// No tokenizer has this name.
    #[error("failed to find global tokenizer under [{0}]")]
    UnknownTokenizer(String),
    /// No token filter has this name.
    #[error("failed to find global filter under [{0}]")]
    UnknownFilter(String),
    /// A text gives more tokens than are allowed.
    #[error(
        "The number of tokens produced by calling _analyze has exceeded the allowed maximum of \
         [{0}]. This limit can be set by changing the [index.analyze.max_token_count] index level \
         setting."
    )]
    TooManyTokens(usize),
}
