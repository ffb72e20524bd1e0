//! The text format of `COPY ... TO STDOUT`: a line a row, tabs between values, `\N` for NULL, and
//! backslashes before what would be mistaken.

use std::ops::Range;

use bytes::{Buf, Bytes, BytesMut};

use crate::document::{Row, Value};

/// Splits what the server sends into lines. A piece is nearly always one line, but nothing promises
/// that.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    begun: BytesMut,
}

impl Lines {
    /// Takes a piece, and calls back with every line that it completes.
    pub(crate) fn feed<E>(
        &mut self,
        mut piece: Bytes,
        mut each: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        while let Some(end) = piece.iter().position(|&byte| byte == b'\n') {
            let line = piece.split_to(end);
            piece.advance(1);
            if self.begun.is_empty() {
                each(&line)?;
            } else {
                self.begun.extend_from_slice(&line);
                each(&self.begun)?;
                self.begun.clear();
            }
        }
        self.begun.extend_from_slice(&piece);
        Ok(())
    }

    /// Whether the last line was whole.
    pub(crate) fn is_whole(&self) -> bool {
        self.begun.is_empty()
    }
}

/// A line taken apart; kept from line to line for its memory.
#[derive(Debug, Default)]
pub(crate) struct CopyRow {
    text: Vec<u8>,
    values: Vec<Option<Range<usize>>>,
}

impl CopyRow {
    /// Takes a line apart, and says how many values it has.
    pub(crate) fn parse(&mut self, line: &[u8]) -> usize {
        self.text.clear();
        self.values.clear();
        for field in line.split(|&byte| byte == b'\t') {
            if field == b"\\N" {
                self.values.push(None);
                continue;
            }
            let start = self.text.len();
            unescape(field, &mut self.text);
            self.values.push(Some(start..self.text.len()));
        }
        self.values.len()
    }
}

impl Row for CopyRow {
    fn value(&self, column: usize) -> Value<'_> {
        match self.values.get(column) {
            Some(Some(range)) => Value::Text(self.text.get(range.clone()).unwrap_or_default()),
            _ => Value::Null,
        }
    }
}

/// Undoes the escapes that the server writes.
fn unescape(mut field: &[u8], out: &mut Vec<u8>) {
    while let Some(at) = field.iter().position(|&byte| byte == b'\\') {
        let (plain, rest) = field.split_at(at);
        out.extend_from_slice(plain);
        let escaped = rest.get(1).copied().unwrap_or(b'\\');
        out.push(match escaped {
            b'b' => 0x08,
            b'f' => 0x0C,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'v' => 0x0B,
            other => other,
        });
        field = rest.get(2..).unwrap_or_default();
    }
    out.extend_from_slice(field);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn values(line: &[u8]) -> Vec<Option<Vec<u8>>> {
        let mut row = CopyRow::default();
        let count = row.parse(line);
        let value = |column| match row.value(column) {
            Value::Text(text) => Some(text.to_vec()),
            Value::Null | Value::Unchanged => None,
        };
        (0..count).map(value).collect()
    }

    #[test]
    fn rows() {
        let check = |line: &str, expected: &[Option<&str>]| {
            let expected: Vec<_> =
                expected.iter().map(|value| value.map(|text| text.as_bytes().to_vec())).collect();
            assert_eq!(values(line.as_bytes()), expected, "{line}");
        };
        check("a\t\\N\t", &[Some("a"), None, Some("")]);
        check("\\\\N\t\\t\\n\\\\\\b\\f\\v\\r", &[Some("\\N"), Some("\t\n\\\u{8}\u{c}\u{b}\r")]);
        check("", &[Some("")]);
        check("a\\", &[Some("a\\")]);
    }

    fn escape(value: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for &byte in value {
            match byte {
                b'\n' => out.extend_from_slice(b"\\n"),
                b'\t' => out.extend_from_slice(b"\\t"),
                b'\\' => out.extend_from_slice(b"\\\\"),
                byte => out.push(byte),
            }
        }
        out
    }

    proptest! {
        #[test]
        fn rows_survive_in_whatever_pieces(
            rows in prop::collection::vec(
                prop::collection::vec(
                    prop::option::of(prop::collection::vec(any::<u8>(), 0..6)),
                    1..4,
                ),
                0..6,
            ),
            size in 1_usize..9,
        ) {
            let mut sent = Vec::new();
            for row in &rows {
                let fields: Vec<Vec<u8>> = row
                    .iter()
                    .map(|value| value.as_deref().map_or_else(|| b"\\N".to_vec(), escape))
                    .collect();
                sent.extend_from_slice(&fields.join(&b'\t'));
                sent.push(b'\n');
            }
            let mut lines = Lines::default();
            let mut found = Vec::new();
            for piece in sent.chunks(size) {
                lines
                    .feed(Bytes::copy_from_slice(piece), |line| {
                        found.push(values(line));
                        Ok::<(), ()>(())
                    })
                    .unwrap();
            }
            prop_assert!(lines.is_whole());
            prop_assert_eq!(found, rows);
        }
    }
}
