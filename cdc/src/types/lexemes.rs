//! `tsvector`: its lexemes as a text that can be searched.

use super::BadValue;
use super::scalar::string;

/// Bytes up to which a lexeme is repeated for every place that it has, of which there may be 256 in three
/// bytes each: a longer one comes once, at its first.
const REPEATED_BYTES: usize = 64;

/// `'cat':3 'fat':2A,4` as `"fat cat fat"`: lexemes in the order of their places, so that phrases are found
/// where no stop word was left out. Those without a place come last, as they stand; weights are not kept.
pub(super) fn lexemes(text: &str, out: &mut Vec<u8>) -> Result<(), BadValue> {
    let mut placed = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (lexeme, after) = lexeme(rest).ok_or_else(|| BadValue::new("a tsvector", text))?;
        let end = after.find(' ').unwrap_or(after.len());
        let (places, after) = after.split_at(end);
        let mut found = places.strip_prefix(':').unwrap_or(places).split(',').map(place);
        let first = found.next().unwrap_or(usize::MAX);
        if lexeme.len() <= REPEATED_BYTES {
            placed.extend(found.map(|place| (place, lexeme.clone())));
        }
        placed.push((first, lexeme));
        rest = after.strip_prefix(' ').unwrap_or(after);
    }
    placed.sort_by_key(|(place, _)| *place);
    let words: Vec<String> = placed.into_iter().map(|(_, lexeme)| lexeme).collect();
    string(&words.join(" "), out);
    Ok(())
}

/// A lexeme, in which quotes and backslashes are doubled, and what follows it.
fn lexeme(text: &str) -> Option<(String, &str)> {
    let inner = text.strip_prefix('\'')?;
    let mut lexeme = String::new();
    let mut signs = inner.char_indices().peekable();
    while let Some((at, sign)) = signs.next() {
        let is_doubled =
            matches!(sign, '\'' | '\\') && signs.next_if(|(_, next)| *next == sign).is_some();
        if sign == '\'' && !is_doubled {
            return Some((lexeme, inner.get(at + 1..)?));
        }
        lexeme.push(sign);
    }
    None
}

/// `12B` is place 12; a lexeme without one comes after all others.
fn place(text: &str) -> usize {
    text.trim_end_matches(['A', 'B', 'C', 'D']).parse().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<String> {
        let mut out = Vec::new();
        lexemes(text, &mut out).ok()?;
        Some(String::from_utf8(out).unwrap())
    }

    #[test]
    fn lexemes_are_in_the_order_of_their_places() {
        for (text, expected) in [
            ("", ""),
            ("'a':1 'cat':3 'fat':2", "a fat cat"),
            ("'cat':3 'fat':2A,4", "fat cat fat"),
            ("'b' 'a':16383B 'c'", "a b c"),
            ("'it''s':2 'c:\\\\d e':1", r"c:\\d e it's"),
            ("' ':1 '''':2 '\\\\':3", r"  ' \\"),
            ("'é\"':1", r#"é\""#),
        ] {
            assert_eq!(read(text), Some(format!("\"{expected}\"")), "{text}");
        }
        let long = "x".repeat(65);
        assert_eq!(read(&format!("'{long}':1,3 'y':2")), Some(format!("\"{long} y\"")));
    }

    #[test]
    fn what_is_no_tsvector_is_refused() {
        for text in ["a", "'a", "'a''", "'a' b", " 'a'"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
