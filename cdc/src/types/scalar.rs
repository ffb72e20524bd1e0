//! Values that are one thing.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::BadValue;

/// Digits from which on a decimal number may be past the range of a double.
const SURELY_FINITE_DIGITS: usize = 300;

/// Appends a JSON string.
pub(super) fn string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut plain = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(bytes.get(plain..at).unwrap_or_default());
        plain = at + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            control => out.extend_from_slice(format!("\\u{control:04x}").as_bytes()),
        }
    }
    out.extend_from_slice(bytes.get(plain..).unwrap_or_default());
    out.push(b'"');
}

pub(super) fn boolean(text: &str, out: &mut Vec<u8>) -> Result<(), BadValue> {
    out.extend_from_slice(match text {
        "t" | "true" => b"true",
        "f" | "false" => b"false",
        _ => return Err(BadValue::new("a boolean", text)),
    });
    Ok(())
}

pub(super) fn integer(text: &str, out: &mut Vec<u8>) -> Result<(), BadValue> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || digits.len() > 20 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(BadValue::new("an integer", text));
    }
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

/// A number with its text kept, so that `1.10` stays `1.10`.
pub(super) fn number(text: &str, out: &mut Vec<u8>) -> Result<(), BadValue> {
    if matches!(text, "NaN" | "Infinity" | "-Infinity") {
        out.extend_from_slice(b"null");
        return Ok(());
    }
    if !is_json_number(text.as_bytes()) {
        return Err(BadValue::new("a number", text));
    }
    let finite = text.len() < SURELY_FINITE_DIGITS || text.parse().is_ok_and(f64::is_finite);
    out.extend_from_slice(if finite { text.as_bytes() } else { b"null" });
    Ok(())
}

/// Whether this is a number as RFC 8259 writes it.
fn is_json_number(text: &[u8]) -> bool {
    let digits = |text: &[u8]| text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let mut rest = text.strip_prefix(b"-").unwrap_or(text);
    let whole = digits(rest);
    if whole == 0 || (whole > 1 && rest.first() == Some(&b'0')) {
        return false;
    }
    rest = rest.get(whole..).unwrap_or_default();
    if let Some(fraction) = rest.strip_prefix(b".") {
        let count = digits(fraction);
        if count == 0 {
            return false;
        }
        rest = fraction.get(count..).unwrap_or_default();
    }
    if let Some(exponent) = rest.strip_prefix(b"e").or_else(|| rest.strip_prefix(b"E")) {
        let sign = exponent.strip_prefix(b"+").or_else(|| exponent.strip_prefix(b"-"));
        let exponent = sign.unwrap_or(exponent);
        let count = digits(exponent);
        return count > 0 && count == exponent.len();
    }
    rest.is_empty()
}

/// `-$1,234.56` as -1234.56.
pub(super) fn money(text: &str, out: &mut Vec<u8>) -> Result<(), BadValue> {
    let digits: String =
        text.chars().filter(|sign| sign.is_ascii_digit() || matches!(sign, '-' | '.')).collect();
    number(&digits, out).map_err(|_| BadValue::new("an amount of money", text))
}

/// `\xDEADBEEF` as base64.
pub(super) fn bytea(text: &str, out: &mut Vec<u8>) -> Result<(), BadValue> {
    let bad = || BadValue::new("a bytea in hex", text);
    let bytes = text.strip_prefix("\\x").and_then(hex).ok_or_else(bad)?;
    out.push(b'"');
    out.extend_from_slice(STANDARD.encode(bytes).as_bytes());
    out.push(b'"');
    Ok(())
}

/// The bytes of hexadecimal digits.
pub(super) fn hex(digits: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    let digit = |byte: u8| u8::try_from(char::from(byte).to_digit(16)?).ok();
    let byte = |&[high, low]: &[u8; 2]| Some(digit(high)? << 4 | digit(low)?);
    rest.is_empty().then(|| pairs.iter().map(byte).collect())?
}
