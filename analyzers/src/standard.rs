//! Words by Unicode's rules (UAX #29), as Lucene's `StandardTokenizer` takes them: segments with a
//! letter or digit, emoji, and unbroken runs of the scripts that write no spaces between words.
//!
//! White space in ASCII always separates words, so a text is looked at piece by piece, and a piece
//! in ASCII alone needs no tables.

use std::iter::Peekable;
use std::ops::Range;

use unicode_properties::{
    EmojiStatus, GeneralCategory, GeneralCategoryGroup, UnicodeEmoji, UnicodeGeneralCategory,
};
use unicode_segmentation::{UWordBoundIndices, UnicodeSegmentation};

use crate::tokenizer::TokenKind;

/// The byte ranges of a text's words.
#[derive(Debug)]
pub(crate) struct StandardSpans<'t> {
    text: &'t str,
    /// Where to go on.
    at: usize,
    /// The end of the piece in ASCII that `at` is in.
    ascii_end: usize,
    /// The piece with other characters, and where it begins.
    other: Option<(usize, Peekable<UWordBoundIndices<'t>>)>,
}

impl<'t> StandardSpans<'t> {
    pub(crate) fn new(text: &'t str) -> Self {
        Self { text, at: 0, ascii_end: 0, other: None }
    }

    /// Finds the next piece; false at the end of the text.
    fn next_piece(&mut self) -> bool {
        let bytes = self.text.as_bytes();
        let space = |byte: &u8| matches!(byte, b' ' | b'\n' | b'\r' | b'\t');
        let rest = bytes.get(self.at..).unwrap_or_default();
        let start = self.at + rest.iter().take_while(|byte| space(byte)).count();
        let rest = bytes.get(start..).unwrap_or_default();
        if rest.is_empty() {
            return false;
        }
        let end = start + rest.iter().position(space).unwrap_or(rest.len());
        self.at = start;
        let piece = self.text.get(start..end).unwrap_or_default();
        if piece.is_ascii() {
            self.ascii_end = end;
        } else {
            self.other = Some((start, piece.split_word_bound_indices().peekable()));
            self.at = end;
        }
        true
    }

    /// The next word of the piece in ASCII.
    fn next_ascii(&mut self) -> Option<Range<usize>> {
        let bytes = self.text.as_bytes().get(..self.ascii_end)?;
        while self.at < self.ascii_end {
            let start = self.at;
            let (end, is_word) = ascii_word(bytes, start);
            self.at = end.max(start + 1);
            if is_word {
                return Some(start..end);
            }
        }
        None
    }

    /// The next word of the piece with other characters.
    fn next_other(&mut self) -> Option<Range<usize>> {
        let (base, segments) = self.other.as_mut()?;
        while let Some((at, segment)) = segments.next() {
            let start = *base + at;
            let mut end = start + segment.len();
            let Some(first) = segment.chars().next() else { continue };
            if is_southeast_asian(first) {
                let joins = |next: &(usize, &str)| next.1.starts_with(is_southeast_asian);
                let joined = std::iter::from_fn(|| segments.next_if(joins));
                end += joined.map(|(_, next)| next.len()).sum::<usize>();
                return Some(start..end);
            }
            if segment.chars().any(is_word_character) || is_emoji(segment) {
                return Some(start..end);
            }
        }
        self.other = None;
        None
    }
}

impl Iterator for StandardSpans<'_> {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Range<usize>> {
        loop {
            let word = if self.other.is_some() { self.next_other() } else { self.next_ascii() };
            if word.is_some() {
                return word;
            }
            if !self.next_piece() {
                return None;
            }
        }
    }
}

/// The end of the run of letters, digits and underscores at `start`, and whether it is a word;
/// colons, full stops, quotes and commas belong to it where letters or digits are on both sides
/// (rules 5 to 13b).
fn ascii_word(bytes: &[u8], start: usize) -> (usize, bool) {
    let mut at = start;
    let mut is_word = false;
    let byte = |at: usize| bytes.get(at).copied().unwrap_or(b' ');
    loop {
        let here = byte(at);
        if here.is_ascii_alphanumeric() {
            is_word = true;
            at += 1;
        } else if here == b'_' {
            at += 1;
        } else {
            if at == start {
                return (at, false);
            }
            let (before, after) = (byte(at - 1), byte(at + 1));
            let letters = before.is_ascii_alphabetic() && after.is_ascii_alphabetic();
            let digits = before.is_ascii_digit() && after.is_ascii_digit();
            let joins = match here {
                b'.' | b'\'' => letters || digits,
                b':' => letters,
                b',' | b';' => digits,
                _ => false,
            };
            if !joins {
                return (at, is_word);
            }
            at += 1;
        }
    }
}

/// Whether a character makes its segment a word: a letter (also one that is a symbol, as Ⓐ), or a
/// decimal digit.
fn is_word_character(character: char) -> bool {
    if character.is_ascii() {
        return character.is_ascii_alphanumeric();
    }
    let category = character.general_category();
    let is_mark = character.general_category_group() == GeneralCategoryGroup::Mark;
    category == GeneralCategory::DecimalNumber || (character.is_alphabetic() && !is_mark)
}

/// Whether a segment is shown as an emoji: by itself, as a flag, or because it says so.
fn is_emoji(segment: &str) -> bool {
    let Some(first) = segment.chars().next() else { return false };
    match first.emoji_status() {
        EmojiStatus::EmojiPresentation
        | EmojiStatus::EmojiPresentationAndModifierBase
        | EmojiStatus::EmojiPresentationAndModifierAndEmojiComponent
        | EmojiStatus::EmojiPresentationAndEmojiComponent => true,
        EmojiStatus::EmojiModifierBase
        | EmojiStatus::EmojiOther
        | EmojiStatus::EmojiOtherAndEmojiComponent => segment.contains('\u{FE0F}'),
        _ => false,
    }
}

/// Scripts whose words only a dictionary can tell apart (`Line_Break=Complex_Context`): a run is one
/// token.
fn is_southeast_asian(character: char) -> bool {
    matches!(character,
        '\u{0E01}'..='\u{0E3A}' | '\u{0E40}'..='\u{0E4E}' // Thai
        | '\u{0E81}'..='\u{0EBD}' | '\u{0EC0}'..='\u{0ECE}' | '\u{0EDC}'..='\u{0EDF}' // Lao
        | '\u{1000}'..='\u{103F}' | '\u{1050}'..='\u{108F}' | '\u{109A}'..='\u{109F}' // Myanmar
        | '\u{1780}'..='\u{17D3}' | '\u{17D7}' | '\u{17DC}' | '\u{17DD}' // Khmer
        | '\u{1950}'..='\u{19DF}' // Tai Le, New Tai Lue
        | '\u{1A20}'..='\u{1A7C}' | '\u{1AA0}'..='\u{1AAD}' // Tai Tham
        | '\u{A9E0}'..='\u{A9EF}' | '\u{A9FA}'..='\u{A9FE}' | '\u{AA60}'..='\u{AA7F}' // Myanmar
        | '\u{AA80}'..='\u{AADF}' // Tai Viet
        | '\u{11700}'..='\u{1172B}' | '\u{1173A}' | '\u{1173B}') // Ahom
        && !character.is_numeric()
}

/// What a word of the standard tokenizer is.
pub(crate) fn kind_of(word: &str) -> TokenKind {
    if word.is_ascii() {
        let has_letter = word.bytes().any(|byte| byte.is_ascii_alphabetic());
        return if has_letter { TokenKind::Alphanumeric } else { TokenKind::Number };
    }
    let Some(first) = word.chars().find(|c| is_word_character(*c)) else {
        let southeast_asian = word.starts_with(is_southeast_asian);
        return if southeast_asian { TokenKind::SoutheastAsian } else { TokenKind::Emoji };
    };
    if word.contains('\u{20E3}') {
        return TokenKind::Emoji;
    }
    match first {
        '\u{2E80}'..='\u{2FDF}'
        | '\u{3005}'
        | '\u{3007}'
        | '\u{3021}'..='\u{3029}'
        | '\u{3038}'..='\u{303B}'
        | '\u{3400}'..='\u{4DBF}'
        | '\u{4E00}'..='\u{9FFF}'
        | '\u{F900}'..='\u{FAFF}'
        | '\u{20000}'..='\u{3FFFF}' => TokenKind::Ideographic,
        '\u{3041}'..='\u{309F}' | '\u{1B001}'..='\u{1B11F}' | '\u{1F200}' => TokenKind::Hiragana,
        '\u{30A0}'..='\u{30FF}' | '\u{31F0}'..='\u{31FF}' | '\u{FF66}'..='\u{FF9F}' => {
            TokenKind::Katakana
        }
        '\u{1100}'..='\u{11FF}'
        | '\u{3130}'..='\u{318F}'
        | '\u{A960}'..='\u{A97F}'
        | '\u{AC00}'..='\u{D7FF}'
        | '\u{FFA0}'..='\u{FFDC}' => TokenKind::Hangul,
        _ if is_southeast_asian(first) => TokenKind::SoutheastAsian,
        _ if !word.chars().any(char::is_alphabetic) => TokenKind::Number,
        _ => TokenKind::Alphanumeric,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(text: &str) -> Vec<&str> {
        StandardSpans::new(text).map(|span| &text[span]).collect()
    }

    #[test]
    fn words_as_lucene_takes_them() {
        for (text, expected) in [
            ("The 2 QUICK Brown-Foxes", vec!["The", "2", "QUICK", "Brown", "Foxes"]),
            ("dog's bone.", vec!["dog's", "bone"]),
            ("3.14 1,000 a.b a:b 1:2 x,y", vec!["3.14", "1,000", "a.b", "a:b", "1", "2", "x", "y"]),
            ("_ __ _a a_1 a__b", vec!["_a", "a_1", "a__b"]),
            ("can't. 'quoted' e-mail@x.org", vec!["can't", "quoted", "e", "mail", "x.org"]),
            ("Ünë naïve\u{2019}s", vec!["Ünë", "naïve\u{2019}s"]),
            ("我是中国人", vec!["我", "是", "中", "国", "人"]),
            ("ひらカタカナ", vec!["ひ", "ら", "カタカナ"]),
            ("안녕하세요 한글", vec!["안녕하세요", "한글"]),
            ("การที่ได้ต้อง test", vec!["การที่ได้ต้อง", "test"]),
            ("½ ² ① Ⓐ Ⅷ ٣", vec!["Ⓐ", "Ⅷ", "٣"]),
            ("💩 💩💩 🇺🇸 ☀ ☀\u{FE0F}", vec!["💩", "💩", "💩", "🇺🇸", "☀\u{FE0F}"]),
            ("👩\u{200D}❤\u{FE0F}\u{200D}👩 x", vec!["👩\u{200D}❤\u{FE0F}\u{200D}👩", "x"]),
            ("… — « » €", vec![]),
        ] {
            assert_eq!(words(text), expected, "{text:?}");
        }
    }

    #[test]
    fn kinds() {
        for (word, expected) in [
            ("a1", TokenKind::Alphanumeric),
            ("1,000", TokenKind::Number),
            ("٣", TokenKind::Number),
            ("Ünë", TokenKind::Alphanumeric),
            ("中", TokenKind::Ideographic),
            ("ひ", TokenKind::Hiragana),
            ("カタカナ", TokenKind::Katakana),
            ("한글", TokenKind::Hangul),
            ("การ", TokenKind::SoutheastAsian),
            ("💩", TokenKind::Emoji),
            ("3\u{FE0F}\u{20E3}", TokenKind::Emoji),
        ] {
            assert_eq!(kind_of(word), expected, "{word:?}");
        }
    }

    #[test]
    fn every_character_is_taken_or_left() {
        for character in '\0'..=char::MAX {
            let text = format!("a {character} b");
            assert!(StandardSpans::new(&text).all(|span| text.is_char_boundary(span.end)));
        }
    }

    /// The whole text at once, without the runs of southeast Asian scripts.
    fn naive(text: &str) -> Vec<&str> {
        let is_word = |segment: &&str| segment.chars().any(is_word_character) || is_emoji(segment);
        text.split_word_bounds().filter(is_word).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn as_the_naive_model(text in "[ab1_.,:;' \\-\n\u{e9}\u{301}\u{2019}\u{5d0}\"中カ💩\u{200d}\u{fe0f}\u{00ad}]{0,24}") {
            prop_assert_eq!(words(&text), naive(&text));
        }

        #[test]
        fn ascii_as_the_naive_model(text in "[ -~\t\n]{0,40}") {
            prop_assert_eq!(words(&text), naive(&text));
        }
    }
}
