//! Token filters: each changes a token's text in place, or drops the token.

use rust_stemmers::{Algorithm, Stemmer};
use rustc_hash::FxHashMap;

/// What happens to each token after the tokenizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TokenFilter {
    /// Lower case, character by character.
    Lowercase,
    /// Upper case, character by character.
    Uppercase,
    /// Without white space around it.
    Trim,
    /// Lucene's 33 English stop words are dropped; the positions of others stay as they were.
    Stop,
    /// A final `'s` is cut off.
    EnglishPossessive,
    /// The English Snowball stemmer, also known as Porter 2 (<https://snowballstem.org>).
    EnglishStemmer,
}

impl TokenFilter {
    /// The filter of this name: `lowercase`, `uppercase`, `trim`, `stop`, `stemmer`, `snowball`
    /// (both English).
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "lowercase" => Some(Self::Lowercase),
            "uppercase" => Some(Self::Uppercase),
            "trim" => Some(Self::Trim),
            "stop" => Some(Self::Stop),
            "stemmer" | "snowball" => Some(Self::EnglishStemmer),
            _ => None,
        }
    }

    /// Changes the text; false drops the token.
    pub(crate) fn apply(self, text: &mut String, stems: Option<&mut StemCache>) -> bool {
        match self {
            Self::Lowercase => lowercase(text),
            Self::Uppercase => uppercase(text),
            Self::Trim => trim(text),
            Self::Stop => return !is_stop_word(text),
            Self::EnglishPossessive => cut_possessive(text),
            Self::EnglishStemmer => match stems {
                Some(stems) => stems.stem(text),
                None => stem(text),
            },
        }
        true
    }
}

/// As Lucene: one character becomes one, without regard to its neighbours.
pub(crate) fn lowercase(text: &mut String) {
    if text.is_ascii() {
        text.make_ascii_lowercase();
        return;
    }
    // Only the capital I with a dot has two characters in lower case; Lucene takes the first.
    let lower: String = text.chars().map(|c| c.to_lowercase().next().unwrap_or(c)).collect();
    *text = lower;
}

fn uppercase(text: &mut String) {
    if text.is_ascii() {
        text.make_ascii_uppercase();
        return;
    }
    let upper = |character: char| {
        let mut upper = character.to_uppercase();
        // A character whose upper case is several, as ß, stays as it is.
        if upper.len() == 1 { upper.next().unwrap_or(character) } else { character }
    };
    *text = text.chars().map(upper).collect();
}

fn trim(text: &mut String) {
    let trimmed = text.trim();
    if trimmed.len() < text.len() {
        *text = trimmed.to_owned();
    }
}

/// Lucene's `EnglishAnalyzer.ENGLISH_STOP_WORDS_SET`, by length.
fn is_stop_word(text: &str) -> bool {
    match text.len() {
        1 => text == "a",
        2 => matches!(
            text,
            "an" | "as"
                | "at"
                | "be"
                | "by"
                | "if"
                | "in"
                | "is"
                | "it"
                | "no"
                | "of"
                | "on"
                | "or"
                | "to"
        ),
        3 => matches!(text, "and" | "are" | "but" | "for" | "not" | "the" | "was"),
        4 => matches!(text, "into" | "such" | "that" | "then" | "they" | "this" | "will" | "with"),
        5 => matches!(text, "their" | "there" | "these"),
        _ => false,
    }
}

fn cut_possessive(text: &mut String) {
    let stem = text.strip_suffix(['s', 'S']);
    let stem = stem.and_then(|stem| stem.strip_suffix(['\'', '\u{2019}', '\u{FF07}']));
    if let Some(length) = stem.map(str::len) {
        text.truncate(length);
    }
}

/// Stems of words that were met before: stemming a word takes about ten times as long as finding it
/// here. One belongs to each field of a segment that is being written.
#[derive(Debug, Clone, Default)]
pub struct StemCache {
    stems: FxHashMap<Box<str>, Box<str>>,
}

impl StemCache {
    /// How many words are kept; when they are more, all are forgotten.
    const WORDS_LIMIT: usize = 16_384;
    /// Longer words are not kept.
    const WORD_LIMIT_BYTES: usize = 32;

    /// About the memory that it holds.
    pub fn memory_bytes(&self) -> usize {
        /// Two texts, for each of which the allocator takes about so much.
        const TEXTS_BYTES: usize = 2 * 16;
        self.stems.capacity() * (size_of::<(Box<str>, Box<str>)>() + 1)
            + self.stems.len() * TEXTS_BYTES
    }

    fn stem(&mut self, text: &mut String) {
        if let Some(stem) = self.stems.get(text.as_str()) {
            text.clear();
            text.push_str(stem);
            return;
        }
        if text.len() > Self::WORD_LIMIT_BYTES {
            return stem(text);
        }
        let word = Box::from(text.as_str());
        stem(text);
        if self.stems.len() >= Self::WORDS_LIMIT {
            self.stems.clear();
        }
        self.stems.insert(word, Box::from(text.as_str()));
    }
}

fn stem(text: &mut String) {
    let stemmer = Stemmer::create(Algorithm::English);
    let stemmed = stemmer.stem(text);
    if *stemmed != **text {
        let stemmed = stemmed.into_owned();
        *text = stemmed;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(filter: TokenFilter, text: &str, expected: Option<&str>) {
        let mut changed = text.to_owned();
        let kept = filter.apply(&mut changed, None);
        assert_eq!(kept.then_some(changed.as_str()), expected, "{filter:?} of {text:?}");
    }

    #[test]
    fn filters_change_tokens() {
        for (text, expected) in [
            ("ABC", "abc"),
            ("ÀÉ", "àé"),
            ("ΣΑΣ", "σασ"),
            ("\u{130}", "i"),
            ("ǅ", "ǆ"),
            ("İSTANBUL", "istanbul"),
        ] {
            check(TokenFilter::Lowercase, text, Some(expected));
        }
        check(TokenFilter::Uppercase, "straße", Some("STRAßE"));
        check(TokenFilter::Trim, " a b ", Some("a b"));
        for (text, expected) in [
            ("bird's", "bird"),
            ("bird\u{2019}S", "bird"),
            ("birds", "birds"),
            ("'s", ""),
            ("s", "s"),
        ] {
            check(TokenFilter::EnglishPossessive, text, Some(expected));
        }
        for (text, expected) in [
            ("running", "run"),
            ("generously", "generous"),
            ("skies", "sky"),
            ("dying", "die"),
            ("über", "über"),
            ("", ""),
        ] {
            check(TokenFilter::EnglishStemmer, text, Some(expected));
        }
    }

    #[test]
    fn stop_words_are_dropped() {
        let words = "a an and are as at be but by for if in into is it no not of on or such that \
                     the their then there these they this to was will with";
        assert_eq!(words.split(' ').count(), 33);
        for word in words.split(' ') {
            check(TokenFilter::Stop, word, None);
        }
        check(TokenFilter::Stop, "egret", Some("egret"));
        check(TokenFilter::Stop, "The", Some("The"));
    }

    #[test]
    fn a_full_cache_forgets() {
        let mut stems = StemCache::default();
        for word in 0..=StemCache::WORDS_LIMIT {
            stems.stem(&mut word.to_string());
        }
        assert_eq!(stems.stems.len(), 1);
    }

    proptest! {
        #[test]
        fn stemming_never_panics(mut text in "\\PC{0,12}|[a-zé']{0,40}") {
            let cached = text.clone();
            let mut stems = StemCache::default();
            TokenFilter::EnglishStemmer.apply(&mut text, None);
            for _ in 0..2 {
                let mut again = cached.clone();
                TokenFilter::EnglishStemmer.apply(&mut again, Some(&mut stems));
                prop_assert_eq!(&again, &text);
            }
        }
    }
}
