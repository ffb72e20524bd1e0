//! An analyzer: a tokenizer and the filters after it.

use crate::error::Error;
use crate::filter::{StemCache, TokenFilter};
use crate::standard::kind_of;
use crate::tokenizer::{Spans, TokenKind, Tokenizer};

/// How many positions lie between the values of one field, so that no phrase matches across them.
pub const POSITION_INCREMENT_GAP: usize = 100;

/// A tokenizer and the filters after it. Cheap to clone; may be used by many threads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Analyzer {
    tokenizer: Tokenizer,
    filters: Vec<TokenFilter>,
}

/// Where a token lies; its text is in the caller's buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// The byte that it begins at.
    pub start: usize,
    /// The byte after its last.
    pub end: usize,
    /// Its number in the text, from 0, counting tokens that a filter dropped.
    pub position: usize,
}

/// A token as `_analyze` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnalyzedToken {
    /// The text after all filters.
    pub text: String,
    /// Where it begins, in UTF-16 units, as Elasticsearch counts.
    pub start_offset: usize,
    /// Where it ends, in UTF-16 units.
    pub end_offset: usize,
    /// Its number, from 0.
    pub position: usize,
    /// What it is.
    pub kind: TokenKind,
}

/// The built-in analyzers.
const BUILT_IN: [(&str, Tokenizer, &[TokenFilter]); 6] = [
    ("standard", Tokenizer::Standard, &[TokenFilter::Lowercase]),
    ("simple", Tokenizer::Lowercase, &[]),
    ("whitespace", Tokenizer::Whitespace, &[]),
    ("keyword", Tokenizer::Keyword, &[]),
    ("stop", Tokenizer::Lowercase, &[TokenFilter::Stop]),
    (
        "english",
        Tokenizer::Standard,
        &[
            TokenFilter::EnglishPossessive,
            TokenFilter::Lowercase,
            TokenFilter::Stop,
            TokenFilter::EnglishStemmer,
        ],
    ),
];

impl Analyzer {
    /// A built-in analyzer: one of [`names`](Self::names).
    pub fn named(name: &str) -> Result<Self, Error> {
        let built_in = BUILT_IN.iter().find(|built_in| built_in.0 == name);
        let built_in = built_in.ok_or_else(|| Error::UnknownAnalyzer(name.to_owned()))?;
        Ok(Self::new(built_in.1, built_in.2))
    }

    /// The names of the built-in analyzers.
    pub fn names() -> impl Iterator<Item = &'static str> {
        BUILT_IN.iter().map(|built_in| built_in.0)
    }

    /// An analyzer of a tokenizer and filters by name, in the order that they are applied in.
    pub fn from_parts(tokenizer: &str, filters: &[&str]) -> Result<Self, Error> {
        let tokenizer = Tokenizer::named(tokenizer)
            .ok_or_else(|| Error::UnknownTokenizer(tokenizer.to_owned()))?;
        let filters: Result<Vec<TokenFilter>, Error> = filters
            .iter()
            .map(|name| {
                TokenFilter::named(name).ok_or_else(|| Error::UnknownFilter((*name).to_owned()))
            })
            .collect();
        Ok(Self::new(tokenizer, &filters?))
    }

    /// An analyzer of a tokenizer and filters.
    pub fn new(tokenizer: Tokenizer, filters: &[TokenFilter]) -> Self {
        let lowercase = (tokenizer == Tokenizer::Lowercase).then_some(TokenFilter::Lowercase);
        let filters = lowercase.into_iter().chain(filters.iter().copied()).collect();
        Self { tokenizer, filters }
    }

    /// The tokens of a text, one after another.
    pub fn tokens<'t>(&'t self, text: &'t str) -> Tokens<'t> {
        let spans = self.tokenizer.spans(text);
        Tokens { text, spans, filters: &self.filters, stems: None, next_position: 0 }
    }

    /// As [`tokens`](Self::tokens), for many texts: stems are looked up first among those of the
    /// texts before.
    pub fn tokens_cached<'t>(&'t self, text: &'t str, stems: &'t mut StemCache) -> Tokens<'t> {
        Tokens { stems: Some(stems), ..self.tokens(text) }
    }

    /// All tokens of some values of one field, as `_analyze` shows them: positions and offsets go
    /// on from value to value. More than `limit` is an error.
    pub fn analyze(&self, values: &[&str], limit: usize) -> Result<Vec<AnalyzedToken>, Error> {
        let mut found = Vec::new();
        let (mut position, mut offset) = (0, 0);
        for value in values {
            let before = found.len();
            let past = self.analyze_one(value, limit, &mut found)?;
            for token in found.iter_mut().skip(before) {
                token.position += position;
                token.start_offset += offset;
                token.end_offset += offset;
            }
            position += past + POSITION_INCREMENT_GAP;
            // As Lucene: one between the values.
            offset += value.encode_utf16().count() + 1;
        }
        Ok(found)
    }

    /// Adds a value's tokens; returns the position after the last.
    fn analyze_one(
        &self,
        value: &str,
        limit: usize,
        found: &mut Vec<AnalyzedToken>,
    ) -> Result<usize, Error> {
        let mut tokens = self.tokens(value);
        let mut buffer = String::new();
        let mut units = Utf16 { text: value, bytes: 0, units: 0 };
        while let Some(token) = tokens.next_into(&mut buffer) {
            if found.len() >= limit {
                return Err(Error::TooManyTokens(limit));
            }
            found.push(AnalyzedToken {
                text: buffer.clone(),
                start_offset: units.at(token.start),
                end_offset: units.at(token.end),
                position: token.position,
                kind: self.kind(value.get(token.start..token.end).unwrap_or_default()),
            });
        }
        Ok(tokens.next_position)
    }

    fn kind(&self, word: &str) -> TokenKind {
        if self.tokenizer == Tokenizer::Standard { kind_of(word) } else { TokenKind::Word }
    }
}

/// The tokens of a text, one after another.
#[derive(Debug)]
pub struct Tokens<'t> {
    text: &'t str,
    spans: Spans<'t>,
    filters: &'t [TokenFilter],
    stems: Option<&'t mut StemCache>,
    next_position: usize,
}

impl Tokens<'_> {
    /// Puts the next token's text into `buffer`, whatever was there, and says where it lies;
    /// `None` after the last.
    pub fn next_into(&mut self, buffer: &mut String) -> Option<Token> {
        loop {
            let span = self.spans.next()?;
            let position = self.next_position;
            self.next_position += 1;
            buffer.clear();
            buffer.push_str(self.text.get(span.clone()).unwrap_or_default());
            let mut filters = self.filters.iter();
            if filters.all(|filter| filter.apply(buffer, self.stems.as_deref_mut())) {
                return Some(Token { start: span.start, end: span.end, position });
            }
        }
    }
}

/// Byte offsets in rising order as UTF-16 offsets.
struct Utf16<'t> {
    text: &'t str,
    bytes: usize,
    units: usize,
}

impl Utf16<'_> {
    fn at(&mut self, bytes: usize) -> usize {
        let between = self.text.get(self.bytes..bytes).unwrap_or_default();
        self.units += between.chars().map(char::len_utf16).sum::<usize>();
        self.bytes = self.bytes.max(bytes);
        self.units
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(name: &str, text: &str, expected: &[(&str, usize)]) {
        let analyzer = Analyzer::named(name).unwrap();
        let tokens = analyzer.analyze(&[text], 1000).unwrap();
        let found: Vec<(&str, usize)> =
            tokens.iter().map(|token| (token.text.as_str(), token.position)).collect();
        assert_eq!(found, expected, "{name} of {text:?}");
    }

    #[test]
    fn built_in_analyzers() {
        let text = "The 2 QUICK Brown-Foxes' dog's bone";
        check(
            "standard",
            text,
            &[
                ("the", 0),
                ("2", 1),
                ("quick", 2),
                ("brown", 3),
                ("foxes", 4),
                ("dog's", 5),
                ("bone", 6),
            ],
        );
        check(
            "simple",
            text,
            &[
                ("the", 0),
                ("quick", 1),
                ("brown", 2),
                ("foxes", 3),
                ("dog", 4),
                ("s", 5),
                ("bone", 6),
            ],
        );
        check(
            "whitespace",
            text,
            &[("The", 0), ("2", 1), ("QUICK", 2), ("Brown-Foxes'", 3), ("dog's", 4), ("bone", 5)],
        );
        check("keyword", text, &[(text, 0)]);
        check(
            "stop",
            text,
            &[("quick", 1), ("brown", 2), ("foxes", 3), ("dog", 4), ("s", 5), ("bone", 6)],
        );
        check(
            "english",
            text,
            &[("2", 1), ("quick", 2), ("brown", 3), ("fox", 4), ("dog", 5), ("bone", 6)],
        );
    }

    #[test]
    fn offsets_count_utf16_and_go_on() {
        let standard = Analyzer::named("standard").unwrap();
        let tokens = standard.analyze(&["é 💩 x", "y"], 10).unwrap();
        let found: Vec<_> = tokens
            .iter()
            .map(|t| (t.text.as_str(), t.start_offset, t.end_offset, t.position, t.kind.name()))
            .collect();
        assert_eq!(
            found,
            [
                ("é", 0, 1, 0, "<ALPHANUM>"),
                ("💩", 2, 4, 1, "<EMOJI>"),
                ("x", 5, 6, 2, "<ALPHANUM>"),
                ("y", 7, 8, 103, "<ALPHANUM>"),
            ]
        );
        assert_eq!(standard.analyze(&["a b c"], 2), Err(Error::TooManyTokens(2)));
    }

    #[test]
    fn parts_by_name() {
        let made = Analyzer::from_parts("whitespace", &["lowercase", "stop"]).unwrap();
        let tokens = made.analyze(&["The X-Ray"], 10).unwrap();
        assert_eq!(tokens.len(), 1);
        assert_eq!((tokens[0].text.as_str(), tokens[0].position), ("x-ray", 1));
        let message = |result: Result<Analyzer, Error>| result.unwrap_err().to_string();
        assert_eq!(message(Analyzer::named("x")), "failed to find global analyzer [x]");
        assert_eq!(
            message(Analyzer::from_parts("x", &[])),
            "failed to find global tokenizer under [x]"
        );
        assert_eq!(
            message(Analyzer::from_parts("standard", &["x"])),
            "failed to find global filter under [x]"
        );
    }

    proptest! {
        #[test]
        fn tokens_lie_in_order(text in "\\PC{0,60}", name in prop::sample::select(vec![
            "standard", "simple", "whitespace", "keyword", "stop", "english",
        ])) {
            let analyzer = Analyzer::named(name).unwrap();
            let mut tokens = analyzer.tokens(&text);
            let mut buffer = String::new();
            let (mut end, mut next_position) = (0, 0);
            while let Some(token) = tokens.next_into(&mut buffer) {
                prop_assert!(token.start >= end && token.end > token.start);
                prop_assert!(text.get(token.start..token.end).is_some());
                prop_assert!(token.position >= next_position);
                (end, next_position) = (token.end, token.position + 1);
            }
        }
    }
}
