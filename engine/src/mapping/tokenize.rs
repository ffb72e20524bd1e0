//! What makes the terms of texts, under the names that schemas have for it: for queries as tantivy's
//! tokenizers, for new segments directly.

use std::sync::LazyLock;

use egret_analyzers::{Analyzer, POSITION_INCREMENT_GAP, StemCache, Tokens};
use tantivy::tokenizer::{
    MAX_TOKEN_LEN, RawTokenizer, Token, TokenStream, Tokenizer, TokenizerManager,
};

use super::digest::{self, DigestTokenizer};
use crate::error::{Error, ErrorKind, Result};

/// The tokenizer that keeps a text as one term, an empty one too.
pub(crate) const RAW: &str = "raw";

/// Every built-in analyzer under its name, `raw`, and what makes the terms of keywords: the same ones for
/// all indexes.
pub fn tokenizers() -> TokenizerManager {
    static TOKENIZERS: LazyLock<TokenizerManager> = LazyLock::new(make_tokenizers);
    TOKENIZERS.clone()
}

fn make_tokenizers() -> TokenizerManager {
    let manager = TokenizerManager::new();
    manager.register(RAW, RawTokenizer::default());
    manager.register(digest::NAME, DigestTokenizer::default());
    // Tantivy asks for a tokenizer of this name for every field that is not text, and never calls
    // it.
    manager.register("default", RawTokenizer::default());
    for name in Analyzer::names() {
        if let Ok(analyzer) = Analyzer::named(name) {
            let (token, stems) = (Token::default(), StemCache::default());
            manager.register(name, AnalyzerTokenizer { analyzer, token, stems });
        }
    }
    manager
}

/// Whether an analyzer has this name.
pub(crate) fn is_known(name: &str) -> bool {
    Analyzer::names().any(|known| known == name)
}

/// What makes the terms of a field's values.
pub(crate) struct Terms {
    kind: TermKind,
    term: String,
}

enum TermKind {
    Raw,
    Digest,
    Analyzed(Analyzer, StemCache),
}

impl Terms {
    /// By the name of a tokenizer in a schema.
    pub(crate) fn named(tokenizer: &str) -> Result<Self> {
        let unknown = |error| {
            let message = format!("there is no analyzer [{tokenizer}]");
            Error::new(ErrorKind::Internal, message).with_source(error)
        };
        let kind = match tokenizer {
            RAW => TermKind::Raw,
            digest::NAME => TermKind::Digest,
            name => {
                let analyzer = Analyzer::named(name).map_err(unknown)?;
                TermKind::Analyzed(analyzer, StemCache::default())
            }
        };
        Ok(Self { kind, term: String::new() })
    }

    /// The memory that it holds.
    pub(crate) fn memory_bytes(&self) -> usize {
        match &self.kind {
            TermKind::Analyzed(_, stems) => stems.memory_bytes(),
            TermKind::Raw | TermKind::Digest => 0,
        }
    }

    /// Whether each value is one term.
    pub(crate) fn is_one(&self) -> bool {
        !matches!(self.kind, TermKind::Analyzed(..))
    }

    /// The one term of a value, where each is one; `None` if it is too long to be a term.
    pub(crate) fn only<'a>(&'a mut self, text: &'a str) -> Option<&'a str> {
        let term = match self.kind {
            TermKind::Digest => digest::term_in(text, &mut self.term),
            _ => text,
        };
        (term.len() <= MAX_TOKEN_LEN).then_some(term)
    }

    /// Gives every term of a value, but too long ones, with its position and its length in positions.
    pub(crate) fn each(
        &mut self,
        text: &str,
        mut take: impl FnMut(&str, u32, u32) -> Result<()>,
    ) -> Result<()> {
        let Self { kind: TermKind::Analyzed(analyzer, stems), term } = self else {
            return self.only(text).map_or(Ok(()), |term| take(term, 0, 1));
        };
        let number = |number| u32::try_from(number).unwrap_or(u32::MAX);
        let mut tokens = analyzer.tokens_cached(text, stems);
        while let Some(token) = tokens.next_into(term) {
            if term.len() <= MAX_TOKEN_LEN {
                take(term, number(token.position), number(POSITION_INCREMENT_GAP))?;
            }
        }
        Ok(())
    }
}

#[derive(Clone)]
struct AnalyzerTokenizer {
    analyzer: Analyzer,
    token: Token,
    /// Tantivy gives each of its threads a clone.
    stems: StemCache,
}

impl Tokenizer for AnalyzerTokenizer {
    type TokenStream<'a> = AnalyzerStream<'a>;

    fn token_stream<'a>(&'a mut self, text: &'a str) -> AnalyzerStream<'a> {
        self.token.reset();
        // Tantivy lets the next value of a field begin past the lengths of this one's tokens: so
        // many positions lie between values as in Elasticsearch. Nothing else reads the length.
        self.token.position_length = POSITION_INCREMENT_GAP;
        let tokens = self.analyzer.tokens_cached(text, &mut self.stems);
        AnalyzerStream { tokens, token: &mut self.token }
    }
}

struct AnalyzerStream<'a> {
    tokens: Tokens<'a>,
    token: &'a mut Token,
}

impl TokenStream for AnalyzerStream<'_> {
    fn advance(&mut self) -> bool {
        let Some(token) = self.tokens.next_into(&mut self.token.text) else { return false };
        self.token.offset_from = token.start;
        self.token.offset_to = token.end;
        self.token.position = token.position;
        true
    }

    fn token(&self) -> &Token {
        self.token
    }

    fn token_mut(&mut self) -> &mut Token {
        self.token
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;
    use tantivy::Index;
    use tantivy::schema::IndexRecordOption;
    use tantivy::{DocSet as _, Term, postings::Postings as _};

    use crate::document::{Draft, SchemaFields};
    use crate::mapping::Mapping;
    use crate::mapping::schema::{self, SystemValues};

    #[test]
    fn values_are_a_hundred_positions_apart() {
        let mapping = json!({"properties": {"text": {"type": "text", "analyzer": "english"}}});
        let mapping = Arc::new(Mapping::from_json(&mapping).unwrap());
        let schema = schema::build(&mapping);
        let mut index = Index::create_in_ram(schema.clone());
        index.set_tokenizers(schema::tokenizers());
        let mut writer = index.writer_with_num_threads(1, 20_000_000).unwrap();
        let source = br#"{"text":["two birds","the bird"]}"#;
        let mut fields = Arc::new(SchemaFields::new(&schema, &mapping));
        let document = Draft::new(mapping).parse("1", source).unwrap();
        let document = document.into_indexed(&schema, &mut fields, SystemValues::default());
        writer.add_document(document).unwrap();
        writer.commit().unwrap();
        let searcher = index.reader().unwrap().searcher();
        let field = schema.get_field("text").unwrap();
        let inverted = searcher.segment_reader(0).inverted_index(field).unwrap();
        let term = Term::from_field_text(field, "bird");
        let mut postings = inverted
            .read_postings(&term, IndexRecordOption::WithFreqsAndPositions)
            .unwrap()
            .unwrap();
        let mut positions = Vec::new();
        assert_eq!(postings.doc(), 0);
        postings.positions(&mut positions);
        assert_eq!(positions, [1, 103]);
    }
}
