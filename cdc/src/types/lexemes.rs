//! `tsvector`: its lexemes as a text that can be searched.

use super::BadValue;
use super::scalar::string;

/// How many times as long as what is read the text may become before lexemes are not repeated any more:
/// one may have 256 places, in a few bytes each.
const MOST_GROWTH: usize = 4;

/// `'cat':3 'fat':2A,4` as `"fat cat fat"`: lexemes in the order of their places, so that phrases are found
/// where no stop word was left out. Those without a place come last, as they stand; weights are not kept.
pub(super) fn lexemes(text: &str, out: &mut Vec<u8>) -> Result<(), BadValue> {
    let (mut found, mut placed) = (Vec::new(), Vec::new());
    let (mut rest, mut bytes) = (text, 0);
    while !rest.is_empty() {
        let (lexeme, after) = lexeme(rest).ok_or_else(|| BadValue::new("a tsvector", text))?;
        let (places, after) = after.split_at(after.find(' ').unwrap_or(after.len()));
        for (nth, shown) in places.strip_prefix(':').unwrap_or(places).split(',').enumerate() {
            let longer = bytes + lexeme.len() + 1;
            if nth == 0 || longer <= MOST_GROWTH * text.len() {
                bytes = longer;
                placed.push((place(shown), found.len()));
            }
        }
        found.push(lexeme);
        rest = after.strip_prefix(' ').unwrap_or(after);
    }
    placed.sort_by_key(|(place, _)| *place);
    let words = placed.iter().filter_map(|(_, at)| found.get(*at).map(String::as_str));
    string(&words.collect::<Vec<_>>().join(" "), out);
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
fn place(text: &str) -> u16 {
    text.trim_end_matches(['A', 'B', 'C', 'D']).parse().unwrap_or(u16::MAX)
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
        // Bounded, whatever is repeated: the first place of each counts.
        let places: Vec<String> = (2..258).map(|place| place.to_string()).collect();
        let long = format!("'{}':{} 'y':1", "x".repeat(2000), places.join(","));
        let found = read(&long).unwrap();
        assert!(found.starts_with("\"y xxx") && found.len() <= MOST_GROWTH * long.len());
        assert_eq!(found.matches("x ").count(), 4);
    }

    #[test]
    fn what_is_no_tsvector_is_refused() {
        for text in ["a", "'a", "'a''", "'a' b", " 'a'"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
