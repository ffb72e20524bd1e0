//! Dates of queries: a date in a format, or Elasticsearch's date math (`now-1d/d`,
//! `2024-01-01||+1M`).

use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan, Unit, Zoned};

use super::compile::invalid;
use crate::error::Result;
use crate::mapping::date::{DateFormat, Reading};

/// The instant that a text means, in microseconds since 1970. `round_up` fills what is missing, or
/// rounded off, with the greatest values.
pub(super) fn instant(
    text: &str,
    format: &DateFormat,
    zone: Option<&TimeZone>,
    round_up: bool,
) -> Result<i64> {
    let (start, math) = if let Some(math) = text.strip_prefix("now") {
        (Timestamp::now().as_microsecond(), math)
    } else {
        let (date, math) = text.split_once("||").unwrap_or((text, ""));
        // With math behind it a date stands for its beginning.
        let reading = Reading { zone: zone.cloned(), round_up: round_up && math.is_empty() };
        let start = format.read(date, &reading).ok_or_else(|| unreadable(text, format))?;
        (start, math)
    };
    if math.is_empty() {
        return Ok(start);
    }
    let zone = zone.cloned().unwrap_or(TimeZone::UTC);
    let start = Timestamp::from_microsecond(start).map_err(|_| unreadable(text, format))?;
    let end = calculate(start.to_zoned(zone), math, round_up);
    end.map(|end| end.timestamp().as_microsecond()).ok_or_else(|| {
        invalid(format!("failed to parse date field [{text}]: invalid date math [{math}]"))
    })
}

fn unreadable(text: &str, format: &DateFormat) -> crate::error::Error {
    invalid(format!("failed to parse date field [{text}] with format [{format}]"))
}

/// Applies `+1d`, `-2M`, `/d` one after another.
fn calculate(mut at: Zoned, mut math: &str, round_up: bool) -> Option<Zoned> {
    while !math.is_empty() {
        let operator = math.chars().next()?;
        math = math.get(1..)?;
        let digits = math.bytes().take_while(u8::is_ascii_digit).count();
        let count: i64 = match math.get(..digits)? {
            "" => 1,
            digits => digits.parse().ok()?,
        };
        math = math.get(digits..)?;
        let unit = math.chars().next()?;
        math = math.get(unit.len_utf8()..)?;
        at = match operator {
            '+' => at.checked_add(span(unit, count)?).ok()?,
            '-' => at.checked_sub(span(unit, count)?).ok()?,
            '/' if count == 1 => round(&at, unit, round_up)?,
            _ => return None,
        };
    }
    Some(at)
}

fn span(unit: char, count: i64) -> Option<jiff::Span> {
    let span = jiff::Span::new();
    match unit {
        'y' => span.try_years(count).ok(),
        'M' => span.try_months(count).ok(),
        'w' => span.try_weeks(count).ok(),
        'd' => span.try_days(count).ok(),
        'h' | 'H' => span.try_hours(count).ok(),
        'm' => span.try_minutes(count).ok(),
        's' => span.try_seconds(count).ok(),
        _ => None,
    }
}

/// Rounds down to the unit's beginning, or up to the last microsecond before its end.
fn round(at: &Zoned, unit: char, up: bool) -> Option<Zoned> {
    let midnight = at.start_of_day().ok()?;
    let beginning = match unit {
        'y' => midnight.with().month(1).day(1).build().ok()?,
        'M' => midnight.with().day(1).build().ok()?,
        'w' => {
            let days = i64::from(midnight.weekday().to_monday_zero_offset());
            midnight.checked_sub(days.days()).ok()?
        }
        'd' => midnight,
        'h' | 'H' => at.round(floor(Unit::Hour)).ok()?,
        'm' => at.round(floor(Unit::Minute)).ok()?,
        's' => at.round(floor(Unit::Second)).ok()?,
        _ => return None,
    };
    if !up {
        return Some(beginning);
    }
    beginning.checked_add(span(unit, 1)?).ok()?.checked_sub(1.microsecond()).ok()
}

fn floor(unit: Unit) -> jiff::ZonedRound {
    jiff::ZonedRound::new().smallest(unit).mode(jiff::RoundMode::Floor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_and_math() {
        let check = |text: &str, zone: Option<&str>, round_up, expected: &str| {
            let zone = zone.map(|name| TimeZone::get(name).unwrap());
            let micros = instant(text, &DateFormat::default(), zone.as_ref(), round_up).unwrap();
            let expected: Timestamp = expected.parse().unwrap();
            assert_eq!(Timestamp::from_microsecond(micros).unwrap(), expected, "{text}");
        };
        check("2024-01", None, false, "2024-01-01T00:00:00Z");
        check("2024-01", None, true, "2024-01-31T23:59:59.999999Z");
        check("2024-01-15||/M", None, false, "2024-01-01T00:00:00Z");
        check("2024-01-15||/M", None, true, "2024-01-31T23:59:59.999999Z");
        check("2024-01-31||+1M", None, false, "2024-02-29T00:00:00Z");
        check("2024-01-01||+1M-1d/d", None, false, "2024-01-31T00:00:00Z");
        check("2024-01-01||-90m", None, true, "2023-12-31T22:30:00Z");
        check("2024-01-17T15:04:05||/w", None, false, "2024-01-15T00:00:00Z");
        check("2024-07-01T15:34:05||/h", None, true, "2024-07-01T15:59:59.999999Z");
        check("2024-07-01", Some("Europe/Berlin"), false, "2024-06-30T22:00:00Z");
    }

    #[test]
    fn now_is_now() {
        let now = || instant("now", &DateFormat::default(), None, false).unwrap();
        let (first, hour_ago) = (now(), instant("now-1h", &DateFormat::default(), None, false));
        let passed = first - hour_ago.unwrap();
        assert!((3_599_000_000..=3_600_000_000).contains(&passed), "{passed}");
    }

    #[test]
    fn what_is_no_date_is_refused() {
        for text in ["foo", "now+", "now+1", "now+1x", "now/2d", "2024-01-01||*1d", "2024||+é"] {
            let result = instant(text, &DateFormat::default(), None, false);
            assert!(result.is_err(), "{text}");
        }
    }
}
