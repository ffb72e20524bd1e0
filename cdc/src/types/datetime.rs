//! Days and moments. The session writes `2024-02-29`, `2024-02-29 12:34:56.789` and
//! `2024-02-29 12:34:56.789+00`, years of any length, and ` BC` behind those before the year 1. An
//! index wants ISO 8601, with a sign before a year that is negative or has more than four digits.

use std::borrow::Cow;

use super::BadValue;

/// The last year that an index holds wholly: it counts microseconds since 1970 in 64 bits.
const LAST_YEAR: u32 = 294_246;

/// A day.
pub(super) fn date(text: &str, out: &mut Vec<u8>) -> Result<(), BadValue> {
    convert(text, "a date", |rest| rest.is_empty().then_some([""; 4]), out)
}

/// A day and time without a zone.
pub(super) fn timestamp(text: &str, out: &mut Vec<u8>) -> Result<(), BadValue> {
    convert(text, "a timestamp", local, out)
}

/// A moment, as a day and time with its offset; `Z` where that is none.
pub(super) fn timestamp_tz(text: &str, out: &mut Vec<u8>) -> Result<(), BadValue> {
    convert(text, "a timestamp with time zone", zoned, out)
}

fn local(rest: &str) -> Option<[&str; 4]> {
    let time = rest.strip_prefix(' ')?;
    is_time(time.as_bytes()).then_some(["T", time, "", ""])
}

fn zoned(rest: &str) -> Option<[&str; 4]> {
    let rest = rest.strip_prefix(' ')?;
    let (time, offset) = rest.split_at(rest.find(['+', '-'])?);
    if !is_time(time.as_bytes()) {
        return None;
    }
    let digits = offset.bytes().skip(1).filter(u8::is_ascii_digit).count();
    match (offset, digits) {
        ("+00" | "-00" | "+00:00", _) => Some(["T", time, "Z", ""]),
        (_, 2) if offset.len() == 3 => Some(["T", time, offset, ":00"]),
        (_, 4) if offset.len() == 6 => Some(["T", time, offset, ""]),
        _ => None,
    }
}

/// Writes a value: its day, and what `clock` makes of all behind it. What is infinite, or too far
/// away for an index, becomes null.
fn convert<'a>(
    text: &'a str,
    expected: &'static str,
    clock: impl FnOnce(&'a str) -> Option<[&'a str; 4]>,
    out: &mut Vec<u8>,
) -> Result<(), BadValue> {
    if matches!(text, "infinity" | "-infinity") {
        null(out);
        return Ok(());
    }
    let bad = || BadValue::new(expected, text);
    let (moment, is_bc) = match text.strip_suffix(" BC") {
        Some(moment) => (moment, true),
        None => (text, false),
    };
    let (year, rest) = moment.split_at(moment.bytes().take_while(u8::is_ascii_digit).count());
    let (day, rest) = rest.split_at_checked(6).ok_or_else(bad)?;
    if !(4..=7).contains(&year.len()) || !matches(day.as_bytes(), b"-dd-dd") {
        return Err(bad());
    }
    let [separator, time, offset, minutes] = clock(rest).ok_or_else(bad)?;
    match iso_year(year, is_bc) {
        Some(year) => quoted(&[&year, day, separator, time, offset, minutes], out),
        None => null(out),
    }
    Ok(())
}

/// A year as ISO 8601 counts: 1 BC is 0. `None` if an index cannot hold it.
fn iso_year(digits: &str, is_bc: bool) -> Option<Cow<'_, str>> {
    let year: u32 = digits.parse().ok()?;
    match (is_bc, year) {
        (false, ..=9999) => Some(digits.into()),
        (false, ..=LAST_YEAR) => Some(format!("+{year}").into()),
        (true, 1) => Some("0000".into()),
        (true, 2..=LAST_YEAR) => Some(format!("-{:04}", year - 1).into()),
        _ => None,
    }
}

/// `dd:dd:dd`, and up to six decimals of a second.
fn is_time(text: &[u8]) -> bool {
    let (seconds, rest) = text.split_at_checked(8).unwrap_or((text, &[]));
    let decimals = match rest {
        [] => true,
        [b'.', digits @ ..] => {
            (1..=6).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit)
        }
        _ => false,
    };
    decimals && matches(seconds, b"dd:dd:dd")
}

/// Whether a text has digits where the pattern has `d`, and else the same.
fn matches(text: &[u8], pattern: &[u8]) -> bool {
    let same = |(&byte, &sign): (&u8, &u8)| match sign {
        b'd' => byte.is_ascii_digit(),
        sign => byte == sign,
    };
    text.len() == pattern.len() && text.iter().zip(pattern).all(same)
}

fn quoted(parts: &[&str], out: &mut Vec<u8>) {
    out.push(b'"');
    for part in parts {
        out.extend_from_slice(part.as_bytes());
    }
    out.push(b'"');
}

fn null(out: &mut Vec<u8>) {
    out.extend_from_slice(b"null");
}
