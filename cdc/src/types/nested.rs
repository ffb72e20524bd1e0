//! Values that have named parts: composite types and `hstore`.

use super::{BadValue, Field, scalar, write_json};

/// `(1,"a ""b""",)` as an object.
pub(super) fn composite(fields: &[Field], text: &str, out: &mut Vec<u8>) -> Result<(), BadValue> {
    let bad = || BadValue::new("a composite value", text);
    let inside = text.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')).ok_or_else(bad)?;
    let mut rest = inside.as_bytes();
    out.push(b'{');
    for (at, field) in fields.iter().enumerate() {
        if at > 0 {
            rest = rest.strip_prefix(b",").ok_or_else(bad)?;
            out.push(b',');
        }
        scalar::string(&field.name, out);
        out.push(b':');
        match composite_field(&mut rest, bad)? {
            Some(value) => write_json(&field.kind, &value, out)?,
            None => out.extend_from_slice(b"null"),
        }
    }
    out.push(b'}');
    if rest.is_empty() { Ok(()) } else { Err(bad()) }
}

/// One part: nothing at all is NULL, and quotes may stand anywhere, doubled within themselves.
fn composite_field(
    rest: &mut &[u8],
    bad: impl Fn() -> BadValue,
) -> Result<Option<String>, BadValue> {
    let mut value = Vec::new();
    let mut within = false;
    let mut any = false;
    while let Some((&byte, after)) = rest.split_first() {
        if byte == b',' && !within {
            break;
        }
        any = true;
        *rest = after;
        match byte {
            b'"' if within && rest.first() == Some(&b'"') => {
                *rest = rest.get(1..).unwrap_or_default();
                value.push(b'"');
            }
            b'"' => within = !within,
            b'\\' => {
                let (&next, after) = rest.split_first().ok_or_else(&bad)?;
                *rest = after;
                value.push(next);
            }
            byte => value.push(byte),
        }
    }
    if within {
        return Err(bad());
    }
    any.then(|| String::from_utf8(value).map_err(|_| bad())).transpose()
}

/// `"a"=>"1", "b"=>NULL` as an object.
pub(super) fn hstore(text: &str, out: &mut Vec<u8>) -> Result<(), BadValue> {
    let bad = || BadValue::new("an hstore", text);
    let mut rest = text.as_bytes();
    let mut first = true;
    out.push(b'{');
    while !rest.is_empty() {
        if !first {
            rest = rest.strip_prefix(b", ").ok_or_else(bad)?;
            out.push(b',');
        }
        first = false;
        scalar::string(&hstore_text(&mut rest).ok_or_else(bad)?, out);
        rest = rest.strip_prefix(b"=>").ok_or_else(bad)?;
        out.push(b':');
        if let Some(after) = rest.strip_prefix(b"NULL") {
            rest = after;
            out.extend_from_slice(b"null");
        } else {
            scalar::string(&hstore_text(&mut rest).ok_or_else(bad)?, out);
        }
    }
    out.push(b'}');
    Ok(())
}

/// A text in quotes, in which a backslash takes the next byte as it is.
fn hstore_text(rest: &mut &[u8]) -> Option<String> {
    let mut value = Vec::new();
    let mut bytes = rest.strip_prefix(b"\"")?.iter();
    loop {
        match bytes.next()? {
            b'"' => break,
            b'\\' => value.push(*bytes.next()?),
            byte => value.push(*byte),
        }
    }
    *rest = bytes.as_slice();
    String::from_utf8(value).ok()
}
