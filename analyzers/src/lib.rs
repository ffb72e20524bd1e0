//! Text in, tokens out: what Elasticsearch calls analyzers.
//!
//! Where to begin: [`Analyzer::named`] gives a built-in analyzer (`standard`, `simple`,
//! `whitespace`, `keyword`, `stop`, `english`), [`Analyzer::from_parts`] one made of a tokenizer
//! and token filters by name. [`Analyzer::tokens`] is for indexing: one token at a time into a
//! buffer of the caller's. [`Analyzer::analyze`] is for people: all tokens of some texts with their
//! types and offsets, as `_analyze` shows them.
//!
//! This crate knows nothing of indexes and HTTP.
//!
//! ```
//! use egret_analyzers::Analyzer;
//!
//! let english = Analyzer::named("english").unwrap();
//! let tokens = english.analyze(&["The Egret's wings"], 10).unwrap();
//! let texts: Vec<&str> = tokens.iter().map(|token| token.text.as_str()).collect();
//! assert_eq!(texts, ["egret", "wing"]);
//! assert_eq!((tokens[0].position, tokens[0].start_offset, tokens[0].end_offset), (1, 4, 11));
//! ```

mod analyzer;
mod error;
mod filter;
mod standard;
mod tokenizer;

pub use analyzer::{AnalyzedToken, Analyzer, POSITION_INCREMENT_GAP, Token, Tokens};
pub use error::Error;
pub use filter::{StemCache, TokenFilter};
pub use tokenizer::{TokenKind, Tokenizer};
