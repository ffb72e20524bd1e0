//! A pull reader over one JSON text: strings are borrowed where they have no escapes, numbers keep
//! their own characters, and every error knows its line and column.
//!
//! `serde_json` is used everywhere else; here, on the hot path of indexing, it would lose numbers'
//! characters (which keyword fields index) or read every value twice.

use std::borrow::Cow;
use std::fmt;

/// How deep arrays and objects may lie in each other; also the limit of `serde_json`.
pub(crate) const NESTING_LIMIT: usize = 120;

/// Why a text is not JSON, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JsonError {
    pub(crate) reason: String,
    pub(crate) at: usize,
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for JsonError {}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Object,
    Array,
    Text,
    Number,
    Bool,
    Null,
}

type Result<T> = std::result::Result<T, JsonError>;

/// The reader, always before a value, a key, or the end of a container.
#[derive(Debug)]
pub(crate) struct JsonReader<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    /// The keys of all open objects, innermost last.
    keys: Vec<Cow<'a, str>>,
}

/// An object that is being read.
#[derive(Debug)]
pub(crate) struct OpenObject<'a> {
    /// Where its keys begin among the reader's.
    first_key: usize,
    /// Its keys, once there are so many that looking at each is slow.
    seen: rustc_hash::FxHashSet<Cow<'a, str>>,
    is_first: bool,
}

/// An array that is being read.
#[derive(Debug)]
pub(crate) struct OpenArray {
    is_first: bool,
}

/// A number of so many characters without an exponent is finite.
const DIGITS_OF_EVERY_DOUBLE: usize = 300;

/// Up to here duplicates are looked for one by one.
const FEW_KEYS: usize = 16;

impl<'a> JsonReader<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, at: 0, depth: 0, keys: Vec::new() }
    }

    /// The byte that comes next, as an offset into the text.
    pub(crate) fn position(&self) -> usize {
        self.at
    }

    /// The text between two positions.
    pub(crate) fn slice(&self, from: usize, to: usize) -> &'a str {
        self.text.get(from..to).unwrap_or_default()
    }

    /// What kind of value comes next.
    pub(crate) fn peek(&mut self) -> Result<Kind> {
        self.skip_space();
        match self.byte() {
            Some(b'{') => Ok(Kind::Object),
            Some(b'[') => Ok(Kind::Array),
            Some(b'"') => Ok(Kind::Text),
            Some(b'-' | b'0'..=b'9') => Ok(Kind::Number),
            Some(b't' | b'f') => Ok(Kind::Bool),
            Some(b'n') => Ok(Kind::Null),
            _ => Err(self.unexpected("a value")),
        }
    }

    pub(crate) fn open_object(&mut self) -> Result<OpenObject<'a>> {
        self.open(b'{')?;
        let seen = rustc_hash::FxHashSet::default();
        Ok(OpenObject { first_key: self.keys.len(), seen, is_first: true })
    }

    /// The next key, its value coming next; `None`: the object has ended. A key that the object has
    /// had before is an error.
    pub(crate) fn next_key(&mut self, object: &mut OpenObject<'a>) -> Result<Option<Cow<'a, str>>> {
        Ok(self.next_raw_key(object)?.map(|(_, key)| key))
    }

    /// As [`next_key`](Self::next_key), and the key as it is written, quotes included.
    pub(crate) fn next_raw_key(
        &mut self,
        object: &mut OpenObject<'a>,
    ) -> Result<Option<(&'a str, Cow<'a, str>)>> {
        self.skip_space();
        if self.byte() == Some(b'}') {
            self.at += 1;
            self.depth -= 1;
            self.keys.truncate(object.first_key);
            return Ok(None);
        }
        if !object.is_first {
            self.expect(b',', "a comma or the end of the object")?;
            self.skip_space();
        }
        object.is_first = false;
        let start = self.at;
        if self.byte() != Some(b'"') {
            return Err(self.unexpected("a field name in quotes"));
        }
        let key = self.string()?;
        let raw_key = self.slice(start, self.at);
        if !self.note_key(object, key.clone()) {
            let key = crate::mapping::value::shortened(&key).into_owned();
            return Err(JsonError { reason: format!("Duplicate field '{key}'"), at: start });
        }
        self.skip_space();
        self.expect(b':', "a colon")?;
        Ok(Some((raw_key, key)))
    }

    /// Remembers a key; false if the object had it.
    fn note_key(&mut self, object: &mut OpenObject<'a>, key: Cow<'a, str>) -> bool {
        let own = self.keys.get(object.first_key..).unwrap_or_default();
        if own.len() < FEW_KEYS {
            let is_new = !own.contains(&key);
            self.keys.push(key);
            return is_new;
        }
        if object.seen.is_empty() {
            object.seen.extend(own.iter().cloned());
        }
        object.seen.insert(key)
    }

    pub(crate) fn open_array(&mut self) -> Result<OpenArray> {
        self.open(b'[')?;
        Ok(OpenArray { is_first: true })
    }

    /// Whether another element comes next; otherwise the array has ended.
    pub(crate) fn next_element(&mut self, array: &mut OpenArray) -> Result<bool> {
        self.skip_space();
        if self.byte() == Some(b']') {
            self.at += 1;
            self.depth -= 1;
            return Ok(false);
        }
        if !array.is_first {
            self.expect(b',', "a comma or the end of the array")?;
        }
        array.is_first = false;
        Ok(true)
    }

    /// A string, after [`peek`](Self::peek) said so.
    pub(crate) fn string(&mut self) -> Result<Cow<'a, str>> {
        let start = self.at + 1;
        let mut at = start;
        let bytes = self.text.as_bytes();
        while let Some(byte) = bytes.get(at) {
            match byte {
                b'"' => {
                    self.at = at + 1;
                    return Ok(Cow::Borrowed(self.slice(start, at)));
                }
                b'\\' => return self.escaped(start, at).map(Cow::Owned),
                0..=0x1F => return Err(self.control_character(at)),
                _ => at += 1,
            }
        }
        Err(error("unexpected end of input in a string", start - 1))
    }

    /// The rest of a string whose first escape is at `at`.
    fn escaped(&mut self, start: usize, at: usize) -> Result<String> {
        let mut text = String::with_capacity(2 * (at - start) + 16);
        let (mut from, mut at) = (start, at);
        let bytes = self.text.as_bytes();
        while let Some(byte) = bytes.get(at) {
            match byte {
                b'"' => {
                    text.push_str(self.slice(from, at));
                    self.at = at + 1;
                    return Ok(text);
                }
                b'\\' => {
                    text.push_str(self.slice(from, at));
                    let (character, after) = self.escape(at)?;
                    text.push(character);
                    (from, at) = (after, after);
                }
                0..=0x1F => return Err(self.control_character(at)),
                _ => at += 1,
            }
        }
        Err(error("unexpected end of input in a string", start - 1))
    }

    /// The character of the escape at `at`, and where it ends.
    fn escape(&self, at: usize) -> Result<(char, usize)> {
        let character = match self.text.as_bytes().get(at + 1) {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode_escape(at),
            _ => return Err(error("unrecognized character escape", at)),
        };
        Ok((character, at + 2))
    }

    fn unicode_escape(&self, at: usize) -> Result<(char, usize)> {
        let bytes = self.text.as_bytes();
        let unit = |at: usize| {
            let digits = self.text.get(at + 2..at + 6)?;
            let plain = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
            let escape = bytes.get(at..at + 2) == Some(b"\\u");
            if plain && escape { u32::from_str_radix(digits, 16).ok() } else { None }
        };
        let first = unit(at).ok_or_else(|| error("a \\u escape needs four hex digits", at))?;
        if let Some(character) = char::from_u32(first) {
            return Ok((character, at + 6));
        }
        // A surrogate: the second half must follow.
        let second = unit(at + 6).filter(|unit| (0xDC00..0xE000).contains(unit));
        second
            .filter(|_| first < 0xDC00)
            .and_then(|second| {
                char::from_u32(0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00))
            })
            .map(|character| (character, at + 12))
            .ok_or_else(|| error("a \\u escape is half of a surrogate pair", at))
    }

    /// A number's characters, after [`peek`](Self::peek) said so.
    pub(crate) fn number(&mut self) -> Result<&'a str> {
        let start = self.at;
        let bytes = self.text.as_bytes();
        let digits = |from: usize| {
            let rest = bytes.get(from..).unwrap_or_default();
            from + rest.iter().take_while(|byte| byte.is_ascii_digit()).count()
        };
        let whole = start + usize::from(bytes.get(start) == Some(&b'-'));
        let mut at = digits(whole);
        let leading_zero = bytes.get(whole) == Some(&b'0') && at > whole + 1;
        if at == whole || leading_zero {
            return Err(error("a number must have digits and no leading zeros", start));
        }
        if bytes.get(at) == Some(&b'.') {
            let end = digits(at + 1);
            if end == at + 1 {
                return Err(error("a decimal point must be followed by a digit", at));
            }
            at = end;
        }
        if matches!(bytes.get(at), Some(b'e' | b'E')) {
            let sign = usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
            let end = digits(at + 1 + sign);
            if end == at + 1 + sign {
                return Err(error("an exponent must have a digit", at));
            }
            at = end;
        }
        // What no double can hold, other readers of the same document refuse.
        let text = self.slice(start, at);
        let may_be_large = text.len() > DIGITS_OF_EVERY_DOUBLE || text.contains(['e', 'E']);
        if may_be_large && !text.parse::<f64>().is_ok_and(f64::is_finite) {
            return Err(error("number out of range", start));
        }
        self.at = at;
        Ok(text)
    }

    /// `true` or `false`, after [`peek`](Self::peek) said so.
    pub(crate) fn boolean(&mut self) -> Result<bool> {
        if self.byte() == Some(b't') {
            self.word("true").map(|()| true)
        } else {
            self.word("false").map(|()| false)
        }
    }

    /// `null`, after [`peek`](Self::peek) said so.
    pub(crate) fn null(&mut self) -> Result<()> {
        self.word("null")
    }

    /// Reads a value of any kind and returns its characters.
    pub(crate) fn skip(&mut self) -> Result<&'a str> {
        let kind = self.peek()?;
        let start = self.at;
        match kind {
            Kind::Text => drop(self.string()?),
            Kind::Number => drop(self.number()?),
            Kind::Bool => drop(self.boolean()?),
            Kind::Null => self.null()?,
            Kind::Array => {
                let mut array = self.open_array()?;
                while self.next_element(&mut array)? {
                    self.skip()?;
                }
            }
            Kind::Object => {
                let mut object = self.open_object()?;
                while self.next_key(&mut object)?.is_some() {
                    self.skip()?;
                }
            }
        }
        Ok(self.slice(start, self.at))
    }

    /// Nothing but white space may be left.
    pub(crate) fn end(&mut self) -> Result<()> {
        self.skip_space();
        if self.at == self.text.len() { Ok(()) } else { Err(self.unexpected("the end")) }
    }

    fn open(&mut self, bracket: u8) -> Result<()> {
        self.skip_space();
        if self.depth >= NESTING_LIMIT {
            let reason = format!("document nesting is deeper than the limit [{NESTING_LIMIT}]");
            return Err(JsonError { reason, at: self.at });
        }
        self.expect(bracket, "an opening bracket")?;
        self.depth += 1;
        Ok(())
    }

    fn word(&mut self, word: &str) -> Result<()> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        if !rest.starts_with(word) {
            return Err(self.unexpected("'true', 'false' or 'null'"));
        }
        self.at += word.len();
        Ok(())
    }

    fn expect(&mut self, byte: u8, what: &str) -> Result<()> {
        if self.byte() != Some(byte) {
            return Err(self.unexpected(what));
        }
        self.at += 1;
        Ok(())
    }

    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.byte() {
            self.at += 1;
        }
    }

    fn unexpected(&self, expected: &str) -> JsonError {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let reason = match rest.chars().next() {
            Some(found) => format!("unexpected character [{found}], expected {expected}"),
            None => format!("unexpected end of input, expected {expected}"),
        };
        JsonError { reason, at: self.at }
    }

    fn control_character(&self, at: usize) -> JsonError {
        let code = self.text.as_bytes().get(at).copied().unwrap_or_default();
        let reason = format!("illegal unquoted character (control code {code}) in a string");
        JsonError { reason, at }
    }
}

fn error(reason: &str, at: usize) -> JsonError {
    JsonError { reason: reason.to_owned(), at }
}

/// Line and column of an offset, both from 1; the column counts bytes.
pub(crate) fn line_and_column(source: &[u8], at: usize) -> (usize, usize) {
    let before = source.get(..at).unwrap_or(source);
    let line = before.split(|byte| *byte == b'\n').count();
    let column = before.iter().rev().take_while(|byte| **byte != b'\n').count() + 1;
    (line, column)
}

#[cfg(test)]
mod tests;
