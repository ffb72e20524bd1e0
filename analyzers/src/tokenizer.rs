//! Tokenizers: where in a text its tokens lie.

use std::ops::Range;

use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};

use crate::standard::StandardSpans;

/// How a text is cut into tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tokenizer {
    /// Words by Unicode's rules (UAX #29), as Lucene's `StandardTokenizer`.
    Standard,
    /// Runs of letters.
    Letter,
    /// Runs of letters, in lower case.
    Lowercase,
    /// Runs of anything but white space.
    Whitespace,
    /// The whole text.
    Keyword,
}

/// What a token is, as `_analyze` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TokenKind {
    /// `<ALPHANUM>`
    Alphanumeric,
    /// `<NUM>`
    Number,
    /// `<IDEOGRAPHIC>`
    Ideographic,
    /// `<HIRAGANA>`
    Hiragana,
    /// `<KATAKANA>`
    Katakana,
    /// `<HANGUL>`
    Hangul,
    /// `<SOUTHEAST_ASIAN>`
    SoutheastAsian,
    /// `<EMOJI>`
    Emoji,
    /// `word`: of every tokenizer but `standard`.
    Word,
}

impl TokenKind {
    /// The name in `_analyze`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Alphanumeric => "<ALPHANUM>",
            Self::Number => "<NUM>",
            Self::Ideographic => "<IDEOGRAPHIC>",
            Self::Hiragana => "<HIRAGANA>",
            Self::Katakana => "<KATAKANA>",
            Self::Hangul => "<HANGUL>",
            Self::SoutheastAsian => "<SOUTHEAST_ASIAN>",
            Self::Emoji => "<EMOJI>",
            Self::Word => "word",
        }
    }
}

/// Longer tokens are cut into pieces of so many UTF-16 units, as Lucene does.
pub(crate) const MAX_TOKEN_LENGTH: usize = 255;

impl Tokenizer {
    /// The tokenizer of this name.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "standard" => Some(Self::Standard),
            "letter" => Some(Self::Letter),
            "lowercase" => Some(Self::Lowercase),
            "whitespace" => Some(Self::Whitespace),
            "keyword" => Some(Self::Keyword),
            _ => None,
        }
    }

    pub(crate) fn spans(self, text: &str) -> Spans<'_> {
        let segments = match self {
            Self::Standard => Segments::Standard(StandardSpans::new(text)),
            Self::Letter | Self::Lowercase => Segments::Runs { of: is_letter, at: 0 },
            Self::Whitespace => Segments::Runs { of: is_not_space, at: 0 },
            Self::Keyword => Segments::Whole { done: false },
        };
        Spans { text, segments, rest: 0..0 }
    }
}

/// The byte ranges of a text's tokens, in order.
#[derive(Debug)]
pub(crate) struct Spans<'t> {
    text: &'t str,
    segments: Segments<'t>,
    /// What is left of a token that is too long.
    rest: Range<usize>,
}

#[derive(Debug)]
enum Segments<'t> {
    Standard(StandardSpans<'t>),
    Runs { of: fn(char) -> bool, at: usize },
    Whole { done: bool },
}

impl Iterator for Spans<'_> {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Range<usize>> {
        let span = if self.rest.is_empty() {
            match &mut self.segments {
                Segments::Standard(spans) => spans.next()?,
                Segments::Runs { of, at } => {
                    let span = run(self.text, *at, *of)?;
                    *at = span.end;
                    span
                }
                Segments::Whole { done } if *done || self.text.is_empty() => return None,
                Segments::Whole { done } => {
                    *done = true;
                    return Some(0..self.text.len());
                }
            }
        } else {
            self.rest.clone()
        };
        // Bytes are never fewer than UTF-16 units.
        if span.len() <= MAX_TOKEN_LENGTH {
            self.rest = 0..0;
            return Some(span);
        }
        let end = span.start + first_piece(self.text.get(span.clone()).unwrap_or_default());
        self.rest = end..span.end;
        Some(span.start..end)
    }
}

/// How many bytes the longest piece takes that is not too long.
fn first_piece(text: &str) -> usize {
    let mut units = 0;
    for (at, character) in text.char_indices() {
        units += character.len_utf16();
        if units > MAX_TOKEN_LENGTH {
            return at;
        }
    }
    text.len()
}

/// The next run of characters that are `of` a kind.
fn run(text: &str, at: usize, of: fn(char) -> bool) -> Option<Range<usize>> {
    let rest = text.get(at..)?;
    let start = at + rest.find(of)?;
    let tail = text.get(start..)?;
    let end = tail.find(|character| !of(character)).map_or(text.len(), |length| start + length);
    Some(start..end)
}

/// Java's `Character.isLetter`.
fn is_letter(character: char) -> bool {
    if character.is_ascii() {
        return character.is_ascii_alphabetic();
    }
    character.general_category_group() == GeneralCategoryGroup::Letter
}

/// Java's `Character.isWhitespace`: no-break spaces are none.
fn is_not_space(character: char) -> bool {
    !matches!(character,
        '\t'..='\r' | '\u{1C}'..=' ' | '\u{1680}' | '\u{2000}'..='\u{2006}'
        | '\u{2008}'..='\u{200A}' | '\u{2028}' | '\u{2029}' | '\u{205F}' | '\u{3000}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(tokenizer: Tokenizer, text: &str, expected: &[&str]) {
        let found: Vec<&str> = tokenizer.spans(text).map(|span| &text[span]).collect();
        assert_eq!(found, expected, "{tokenizer:?} of {text:?}");
    }

    #[test]
    fn texts_are_cut() {
        check(Tokenizer::Letter, "I'll be 2 b4 Ünë", &["I", "ll", "be", "b", "Ünë"]);
        check(Tokenizer::Whitespace, " a-b\u{a0}c\t d\n", &["a-b\u{a0}c", "d"]);
        check(Tokenizer::Keyword, " a b ", &[" a b "]);
        for tokenizer in [
            Tokenizer::Standard,
            Tokenizer::Letter,
            Tokenizer::Lowercase,
            Tokenizer::Whitespace,
            Tokenizer::Keyword,
        ] {
            check(tokenizer, "", &[]);
        }
    }

    #[test]
    fn long_tokens_are_cut_into_pieces() {
        let long = "x".repeat(600);
        for tokenizer in [Tokenizer::Standard, Tokenizer::Letter, Tokenizer::Whitespace] {
            check(tokenizer, &long, &[&long[..255], &long[..255], &long[..90]]);
        }
        check(Tokenizer::Keyword, &long, &[&long]);
        // 130 characters of two UTF-16 units each.
        let wide = "\u{10400}".repeat(130);
        check(Tokenizer::Letter, &wide, &[&wide[..127 * 4], &wide[..3 * 4]]);
        let narrow = "é".repeat(255);
        check(Tokenizer::Letter, &narrow, &[&narrow]);
    }
}
