//! Words by Unicode's rules (UAX #29), as Lucene's `StandardTokenizer` takes them: segments with a
//! letter or digit, emoji, and unbroken runs of the scripts that write no spaces between words.
//!
//! Most words are in ASCII and are found with a small table. Where one touches another character,
//! the rest up to the next white space is left to `unicode-segmentation`: such a place is always
//! between two words, so that nothing before it matters.

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
    /// A piece with other characters, and where it begins.
    other: Option<(usize, Peekable<UWordBoundIndices<'t>>)>,
}

/// What the bytes are to the rules.
const LETTER: u8 = 1;
const DIGIT: u8 = 2;
const UNDERSCORE: u8 = 4;
/// Joins letters.
const MID_LETTER: u8 = 8;
/// Joins digits.
const MID_NUMBER: u8 = 16;
const NOT_ASCII: u8 = 32;
const IN_WORD: u8 = LETTER | DIGIT | UNDERSCORE;

static CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0_u8;
    loop {
        classes[byte as usize] = match byte {
            b'a'..=b'z' | b'A'..=b'Z' => LETTER,
            b'0'..=b'9' => DIGIT,
            b'_' => UNDERSCORE,
            b':' => MID_LETTER,
            b'.' | b'\'' => MID_LETTER | MID_NUMBER,
            b',' | b';' => MID_NUMBER,
            0x80.. => NOT_ASCII,
            _ => 0,
        };
        if byte == u8::MAX {
            break classes;
        }
        byte += 1;
    }
};

impl<'t> StandardSpans<'t> {
    pub(crate) fn new(text: &'t str) -> Self {
        Self { text, at: 0, other: None }
    }

    /// What the byte at a place is; 0 past the end.
    fn class(&self, at: usize) -> u8 {
        self.text.as_bytes().get(at).map_or(0, |byte| CLASSES[usize::from(*byte)])
    }

    /// The next word in ASCII: a run of letters, digits and underscores; colons, full stops, quotes
    /// and commas belong to it where letters or digits are on both sides (rules 5 to 13b). `None`
    /// at the end of the text, or before a piece with other characters.
    fn next_ascii(&mut self) -> Option<Range<usize>> {
        loop {
            let rest = self.text.as_bytes().get(self.at..)?;
            let outside = |byte: &u8| CLASSES[usize::from(*byte)] & (IN_WORD | NOT_ASCII) == 0;
            let start = self.at + rest.iter().take_while(|byte| outside(byte)).count();
            let (end, classes) = self.ascii_word(start);
            if classes & NOT_ASCII != 0 {
                self.begin_other(start);
                return None;
            }
            self.at = end;
            if classes & (LETTER | DIGIT) != 0 {
                return Some(start..end);
            }
            if end == start {
                return None;
            }
        }
    }

    /// The end of the word at `start`, and the classes of what is in it; with `NOT_ASCII`, it may
    /// reach further.
    fn ascii_word(&self, start: usize) -> (usize, u8) {
        let (mut at, mut classes) = (start, 0);
        loop {
            let mut before = 0;
            let mut here = self.class(at);
            while here & IN_WORD != 0 {
                before = here;
                classes |= here;
                at += 1;
                here = self.class(at);
            }
            if here & NOT_ASCII != 0 {
                return (at, NOT_ASCII);
            }
            let may_join = (here & MID_LETTER != 0 && before == LETTER)
                || (here & MID_NUMBER != 0 && before == DIGIT);
            let after = if may_join { self.class(at + 1) } else { 0 };
            if after & NOT_ASCII != 0 {
                return (at, NOT_ASCII);
            }
            if after != before || before == 0 {
                return (at, classes);
            }
            at += 1;
        }
    }

    /// Leaves what lies between here and the next white space to Unicode's tables.
    fn begin_other(&mut self, start: usize) {
        let rest = self.text.get(start..).unwrap_or_default();
        let length = rest.find([' ', '\n', '\r', '\t']).unwrap_or(rest.len());
        let piece = rest.get(..length).unwrap_or_default();
        self.other = Some((start, piece.split_word_bound_indices().peekable()));
        self.at = start + length;
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
            // A piece with other characters has ended or begins.
            if word.is_some() || (self.other.is_none() && self.at >= self.text.len()) {
                return word;
            }
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
