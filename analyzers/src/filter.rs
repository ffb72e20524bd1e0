//! Token filters: each changes a token's text in place, or drops the token.

use rust_stemmers::{Algorithm, Stemmer};

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

/// Lucene's `EnglishAnalyzer.ENGLISH_STOP_WORDS_SET`, sorted.
const STOP_WORDS: [&str; 33] = [
    "a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "if", "in", "into", "is", "it",
    "no", "not", "of", "on", "or", "such", "that", "the", "their", "then", "there", "these",
    "they", "this", "to", "was", "will", "with",
];

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
    pub(crate) fn apply(self, text: &mut String) -> bool {
        match self {
            Self::Lowercase => lowercase(text),
            Self::Uppercase => uppercase(text),
            Self::Trim => trim(text),
            Self::Stop => return !is_stop_word(text),
            Self::EnglishPossessive => cut_possessive(text),
            Self::EnglishStemmer => stem(text),
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

fn is_stop_word(text: &str) -> bool {
    (1..=5).contains(&text.len()) && STOP_WORDS.binary_search(&text).is_ok()
}

fn cut_possessive(text: &mut String) {
    let stem = text.strip_suffix(['s', 'S']);
    let stem = stem.and_then(|stem| stem.strip_suffix(['\'', '\u{2019}', '\u{FF07}']));
    if let Some(length) = stem.map(str::len) {
        text.truncate(length);
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
        let kept = filter.apply(&mut changed);
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
        assert!(STOP_WORDS.is_sorted());
        for word in STOP_WORDS {
            check(TokenFilter::Stop, word, None);
        }
        check(TokenFilter::Stop, "egret", Some("egret"));
        check(TokenFilter::Stop, "The", Some("The"));
    }

    proptest! {
        #[test]
        fn stemming_never_panics(mut text in "\\PC{0,12}|[a-zé']{0,40}") {
            TokenFilter::EnglishStemmer.apply(&mut text);
        }
    }
}
