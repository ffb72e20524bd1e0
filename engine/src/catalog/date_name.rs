//! Names that follow the calendar: `<logs-{now/d}>` is today's `logs-2024.03.22`.
//!
//! ```text
//! <static{math{format|zone}}static>
//! ```
//!
//! As Elasticsearch has them: `math` begins with `now`, `format` is `yyyy.MM.dd` and `zone` UTC where
//! they are left out, and a backslash takes the sign behind it as it is. No index can have a `<` in its
//! name, so nothing else is meant by one.

use std::borrow::Cow;
use std::iter::Peekable;
use std::str::{Chars, FromStr};

use jiff::Timestamp;
use jiff::fmt::temporal::DateTimeParser;
use jiff::tz::TimeZone;

use crate::error::{Error, ErrorKind, Result};
use crate::mapping::date::DateFormat;
use crate::query::date_math;

const DEFAULT_FORMAT: &str = "yyyy.MM.dd";

/// The name that an expression means now; a name that is no such expression is itself.
pub fn resolve(name: &str) -> Result<Cow<'_, str>> {
    resolve_at(name, Timestamp::now())
}

fn resolve_at(name: &str, now: Timestamp) -> Result<Cow<'_, str>> {
    let Some(inner) = name.strip_prefix('<').and_then(|rest| rest.strip_suffix('>')) else {
        return Ok(Cow::Borrowed(name));
    };
    let resolved = expand(inner, now).map_err(|reason| {
        let message = format!("invalid dynamic name expression [{inner}]. {reason}");
        Error::new(ErrorKind::InvalidArgument, message)
    })?;
    if resolved.is_empty() {
        return Err(Error::new(ErrorKind::InvalidArgument, "nothing captured"));
    }
    Ok(Cow::Owned(resolved))
}

fn expand(inner: &str, now: Timestamp) -> Result<String, String> {
    let mut name = String::new();
    let mut signs = inner.chars().peekable();
    while let Some(sign) = signs.next() {
        match sign {
            '\\' => name.push(signs.next().ok_or("a backslash has nothing behind it")?),
            '{' => name.push_str(&placeholder(&mut signs, now)?),
            '}' => return Err("missing opening brace: invalid character at a closing one".into()),
            _ => name.push(sign),
        }
    }
    Ok(name)
}

/// What stands for a placeholder whose opening brace has been read.
fn placeholder(signs: &mut Peekable<Chars<'_>>, now: Timestamp) -> Result<String, String> {
    let open = || "date math placeholder is open ended".to_owned();
    let math = until_brace(signs).ok_or_else(open)?;
    let (mut format, mut zone) = (DEFAULT_FORMAT.to_owned(), TimeZone::UTC);
    if math.ended_by == '{' {
        let inner = until_brace(signs).filter(|it| it.ended_by == '}').ok_or_else(open)?;
        if signs.next() != Some('}') {
            return Err(open());
        }
        let (pattern, named) = match inner.text.split_once('|') {
            Some((pattern, zone)) => (pattern, Some(zone)),
            None => (inner.text.as_str(), None),
        };
        if pattern.is_empty() {
            return Err("missing date format".to_owned());
        }
        pattern.clone_into(&mut format);
        if let Some(named) = named {
            zone = read_zone(named).ok_or_else(|| format!("unknown time zone [{named}]"))?;
        }
    }
    let text = math.text;
    let at = text.strip_prefix("now").and_then(|math| date_math::after(now, zone, math));
    let at = at.ok_or_else(|| format!("invalid date math [{text}]"))?;
    let format = DateFormat::from_str(&format).map_err(|error| error.to_string())?;
    // Printed in UTC: the clock on the wall there is taken for one in UTC.
    let wall = at.datetime().to_zoned(TimeZone::UTC).map_err(|error| error.to_string())?;
    Ok(format.print(wall.timestamp().as_microsecond()))
}

struct Part {
    text: String,
    ended_by: char,
}

fn until_brace(signs: &mut Peekable<Chars<'_>>) -> Option<Part> {
    let mut text = String::new();
    loop {
        match signs.next()? {
            ended_by @ ('{' | '}') => return Some(Part { text, ended_by }),
            sign => text.push(sign),
        }
    }
}

/// A zone by its name or as an offset, `+12:00`.
fn read_zone(text: &str) -> Option<TimeZone> {
    DateTimeParser::new().parse_time_zone(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(name: &str) -> Result<String> {
        let now: Timestamp = "2024-03-22T23:30:00Z".parse().unwrap();
        resolve_at(name, now).map(Cow::into_owned)
    }

    #[test]
    fn names_follow_the_calendar() {
        let check = |name: &str, expected: &str| assert_eq!(at(name).unwrap(), expected, "{name}");
        check("logs", "logs");
        check("logs-<a", "logs-<a");
        check("<logs>", "logs");
        check("<logs-{now/d}>", "logs-2024.03.22");
        check("<logs-{now/M}>", "logs-2024.03.01");
        check("<logs-{now/M{yyyy.MM}}>", "logs-2024.03");
        check("<logs-{now/M-1M{yyyy.MM}}>", "logs-2024.02");
        check("<logs-{now/d{yyyy.MM.dd|+12:00}}>", "logs-2024.03.23");
        check("<logs-{now/d{yyyy.MM.dd|Asia/Tokyo}}>", "logs-2024.03.23");
        check("<logs-{now/d{yyyy.MM.dd|-08:00}}-old>", "logs-2024.03.22-old");
        check("<{now/d{yyyy}}-{now+1y/y{yyyy}}>", "2024-2025");
        check(r"<elastic\{ON\}-{now/M}>", "elastic{ON}-2024.03.01");
    }

    #[test]
    fn what_is_no_expression_is_refused() {
        let check = |name: &str, part: &str| {
            let error = at(name).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(error.to_string().contains(part), "{name}: {error}");
        };
        check("<>", "nothing captured");
        check("<logs-{now/d>", "open ended");
        check("<logs-{now/d{yyyy}>", "open ended");
        check("<logs-{now/d{yyyy}x}>", "open ended");
        check("<logs-{now/d{}}>", "missing date format");
        check("<logs-{yesterday}>", "invalid date math [yesterday]");
        check("<logs-{now/x}>", "invalid date math [now/x]");
        check("<logs-{now/d{yyyy|Moon/Sea}}>", "unknown time zone [Moon/Sea]");
        check("<logs-}>", "missing opening brace");
        check(r"<logs\>", "nothing behind it");
    }
}
