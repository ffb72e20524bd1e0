//! Days and moments. The session writes `2024-02-29`, `2024-02-29 12:34:56.789` and
//! `2024-02-29 12:34:56.789+00`; an index wants ISO 8601.

use super::BadValue;

/// A day.
pub(super) fn date(text: &str, out: &mut Vec<u8>) -> Result<(), BadValue> {
    if is_out_of_range(text) {
        null(out);
        return Ok(());
    }
    if !is_day(text.as_bytes()) {
        return Err(BadValue::new("a date", text));
    }
    quoted(&[text], out);
    Ok(())
}

/// A day and time without a zone.
pub(super) fn timestamp(text: &str, out: &mut Vec<u8>) -> Result<(), BadValue> {
    if is_out_of_range(text) {
        null(out);
        return Ok(());
    }
    match text.split_once(' ') {
        Some((day, time)) if is_day(day.as_bytes()) && is_time(time.as_bytes()) => {
            quoted(&[day, "T", time], out);
            Ok(())
        }
        _ => Err(BadValue::new("a timestamp", text)),
    }
}

/// A moment, as a day and time with its offset; `Z` where that is none.
pub(super) fn timestamp_tz(text: &str, out: &mut Vec<u8>) -> Result<(), BadValue> {
    if is_out_of_range(text) {
        null(out);
        return Ok(());
    }
    let bad = || BadValue::new("a timestamp with time zone", text);
    let (day, rest) = text.split_once(' ').ok_or_else(bad)?;
    let sign = rest.find(['+', '-']).ok_or_else(bad)?;
    let (time, offset) = rest.split_at(sign);
    if !is_day(day.as_bytes()) || !is_time(time.as_bytes()) {
        return Err(bad());
    }
    let digits = offset.bytes().skip(1).filter(u8::is_ascii_digit).count();
    match (offset, digits) {
        ("+00" | "-00" | "+00:00", _) => quoted(&[day, "T", time, "Z"], out),
        (_, 2) if offset.len() == 3 => quoted(&[day, "T", time, offset, ":00"], out),
        (_, 4) if offset.len() == 6 => quoted(&[day, "T", time, offset], out),
        _ => return Err(bad()),
    }
    Ok(())
}

/// Whether ISO 8601 with four digits for the year cannot say it: infinite, before the year 1, or
/// past 9999.
fn is_out_of_range(text: &str) -> bool {
    let year = text.bytes().take_while(u8::is_ascii_digit).count();
    matches!(text, "infinity" | "-infinity") || text.ends_with(" BC") || year > 4
}

/// `dddd-dd-dd`.
fn is_day(text: &[u8]) -> bool {
    matches(text, b"dddd-dd-dd")
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
