//! Ranges and multiranges: `[1,5)` as `{"gte":1,"lt":5}`, and `{[1,3),[5,7)}` as several.

use super::{BadValue, Kind, write_json};

/// One range. Null where it is empty; an end that is infinite is left out.
pub(super) fn range(element: &Kind, text: &str, out: &mut Vec<u8>) -> Result<(), BadValue> {
    if text == "empty" {
        out.extend_from_slice(b"null");
        return Ok(());
    }
    let mut rest = text.as_bytes();
    one(element, &mut rest, text, out)?;
    if rest.is_empty() { Ok(()) } else { Err(bad(text)) }
}

/// Several, in an array.
pub(super) fn multirange(element: &Kind, text: &str, out: &mut Vec<u8>) -> Result<(), BadValue> {
    let inner = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
    let mut rest = inner.ok_or_else(|| bad(text))?.as_bytes();
    out.push(b'[');
    while !rest.is_empty() {
        if out.last() != Some(&b'[') {
            rest = rest.strip_prefix(b",").ok_or_else(|| bad(text))?;
            out.push(b',');
        }
        one(element, &mut rest, text, out)?;
    }
    out.push(b']');
    Ok(())
}

/// The range that stands first.
fn one(element: &Kind, rest: &mut &[u8], text: &str, out: &mut Vec<u8>) -> Result<(), BadValue> {
    let first = match take(rest) {
        Some(b'[') => "gte",
        Some(b'(') => "gt",
        _ => return Err(bad(text)),
    };
    let (lower, sign) = end(rest).ok_or_else(|| bad(text))?;
    if sign != b',' {
        return Err(bad(text));
    }
    let (upper, sign) = end(rest).ok_or_else(|| bad(text))?;
    let last = match sign {
        b']' => "lte",
        b')' => "lt",
        _ => return Err(bad(text)),
    };
    out.push(b'{');
    let begin = out.len();
    for (name, value) in [(first, lower), (last, upper)] {
        let mut json = Vec::new();
        if let Some(value) = value {
            write_json(element, &value, &mut json)?;
        }
        if json.is_empty() || json == b"null" {
            continue;
        }
        if out.len() > begin {
            out.push(b',');
        }
        out.extend(format!("\"{name}\":").into_bytes());
        out.append(&mut json);
    }
    out.push(b'}');
    Ok(())
}

fn take(rest: &mut &[u8]) -> Option<u8> {
    let (&first, after) = rest.split_first()?;
    *rest = after;
    Some(first)
}

/// An end, none where there is nothing at all, and the sign after it. Quotes are doubled within quotes.
fn end(rest: &mut &[u8]) -> Option<(Option<String>, u8)> {
    let (mut value, mut quoted, mut any) = (Vec::new(), false, false);
    loop {
        match take(rest)? {
            b'"' if quoted && rest.first() == Some(&b'"') => value.push(take(rest)?),
            b'"' => quoted = !quoted,
            b'\\' => value.push(take(rest)?),
            sign @ (b',' | b')' | b']') if !quoted => {
                let value = String::from_utf8(value).ok()?;
                return Some((any.then_some(value), sign));
            }
            byte => value.push(byte),
        }
        any = true;
    }
}

fn bad(text: &str) -> BadValue {
    BadValue::new("a range", text)
}
