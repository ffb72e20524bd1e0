//! Arrays: `{1,NULL,"a \"b\""}`, nested in braces, with bounds before them where they do not begin
//! at 1.

use super::{BadValue, Kind, MAX_DEPTH, write_json};

/// Appends a JSON array.
pub(super) fn array(
    element: &Kind,
    delimiter: u8,
    text: &str,
    out: &mut Vec<u8>,
) -> Result<(), BadValue> {
    let bad = || BadValue::new("an array", text);
    let body = match text.strip_prefix('[') {
        Some(_) => text.split_once('=').ok_or_else(bad)?.1,
        None => text,
    };
    let mut parser = Parser { text: body, at: 0, element, delimiter };
    parser.braces(0, out)?;
    if parser.at == body.len() { Ok(()) } else { Err(bad()) }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    element: &'a Kind,
    delimiter: u8,
}

impl Parser<'_> {
    fn bad(&self) -> BadValue {
        BadValue::new("an array", self.text)
    }

    fn peek(&self) -> Result<u8, BadValue> {
        self.text.as_bytes().get(self.at).copied().ok_or_else(|| self.bad())
    }

    /// One pair of braces and what is between them.
    fn braces(&mut self, depth: usize, out: &mut Vec<u8>) -> Result<(), BadValue> {
        if depth > MAX_DEPTH || self.peek()? != b'{' {
            return Err(self.bad());
        }
        self.at += 1;
        out.push(b'[');
        if self.peek()? == b'}' {
            self.at += 1;
            out.push(b']');
            return Ok(());
        }
        loop {
            match self.peek()? {
                b'{' => self.braces(depth + 1, out)?,
                b'"' => {
                    let value = self.quoted()?;
                    write_json(self.element, &value, out)?;
                }
                _ => self.plain(out)?,
            }
            let sign = self.peek()?;
            self.at += 1;
            if sign == b'}' {
                out.push(b']');
                return Ok(());
            }
            if sign != self.delimiter {
                return Err(self.bad());
            }
            out.push(b',');
        }
    }

    /// A value without quotes; `NULL` among these is SQL's.
    fn plain(&mut self, out: &mut Vec<u8>) -> Result<(), BadValue> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let ends = |byte: u8| byte == self.delimiter || byte == b'}';
        let length = rest.bytes().position(ends).ok_or_else(|| self.bad())?;
        let value = rest.get(..length).unwrap_or_default();
        self.at += length;
        if value.eq_ignore_ascii_case("NULL") {
            out.extend_from_slice(b"null");
            return Ok(());
        }
        write_json(self.element, value, out)
    }

    /// A value in quotes, in which a backslash takes the next byte as it is.
    fn quoted(&mut self) -> Result<String, BadValue> {
        self.at += 1;
        let mut value = Vec::new();
        loop {
            let byte = self.peek()?;
            self.at += 1;
            match byte {
                b'"' => break,
                b'\\' => {
                    value.push(self.peek()?);
                    self.at += 1;
                }
                byte => value.push(byte),
            }
        }
        String::from_utf8(value).map_err(|_| self.bad())
    }
}
