//! Dates of queries: a date in a format, or Elasticsearch's date math (`now-1d/d`,
//! `2024-01-01||+1M`).

use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan, Unit, Zoned};

use super::compile::invalid;
use crate::error::Result;
use crate::mapping::date::calendar::{CYCLE_SECONDS, known_cycle};
use crate::mapping::date::{DateFormat, Reading};

/// The instant that a text means, in microseconds since 1970; it may lie outside of what can be
/// indexed.
pub(super) fn instant(text: &str, format: &DateFormat, reading: &Reading) -> Result<i128> {
    let (start, math) = if let Some(math) = text.strip_prefix("now") {
        (Timestamp::now().as_microsecond().into(), math)
    } else {
        let (date, math) = text.split_once("||").unwrap_or((text, ""));
        // With math behind it a date stands for its beginning.
        let round_up = reading.round_up && math.is_empty();
        let start = format.read(date, &Reading { round_up, ..reading.clone() });
        let start = start.ok_or_else(|| {
            invalid(format!("failed to parse date field [{text}] with format [{format}]"))
        });
        (start?, math)
    };
    if math.is_empty() {
        return Ok(start);
    }
    let zone = reading.zone.clone().unwrap_or(TimeZone::UTC);
    calculate_from(start, zone, math, reading.round_up).ok_or_else(|| {
        invalid(format!("failed to parse date field [{text}]: invalid date math [{math}]"))
    })
}

/// Calculates at the same place of a cycle of years that jiff knows.
fn calculate_from(start: i128, zone: TimeZone, math: &str, round_up: bool) -> Option<i128> {
    let seconds = i64::try_from(start.div_euclid(1_000_000)).ok()?;
    let micros = i64::try_from(start.rem_euclid(1_000_000)).ok()?;
    let (known, moved) = known_cycle(seconds);
    let known = Timestamp::from_microsecond(known * 1_000_000 + micros).ok()?;
    let end = calculate(known.to_zoned(zone), math, round_up)?.timestamp().as_microsecond();
    Some(i128::from(end) + i128::from(moved) * i128::from(CYCLE_SECONDS) * 1_000_000)
}

/// What a text of math makes of an instant, seen in a zone; `None` where it is none.
pub(crate) fn after(start: Timestamp, zone: TimeZone, math: &str) -> Option<Zoned> {
    calculate(start.to_zoned(zone), math, false)
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
            let reading = Reading { zone, round_up, by_milli: false };
            let format = DateFormat::default();
            let micros = instant(text, &format, &reading).unwrap();
            assert_eq!(format.read(expected, &Reading::default()), Some(micros), "{text}");
        };
        check("2024-01", None, false, "2024-01-01T00:00:00Z");
        check("2024-01", None, true, "2024-01-01T23:59:59.999999Z");
        check("2024-01-15||/M", None, false, "2024-01-01T00:00:00Z");
        check("2024-01-15||/M", None, true, "2024-01-31T23:59:59.999999Z");
        check("2024-01-31||+1M", None, false, "2024-02-29T00:00:00Z");
        check("2024-01-01||+1M-1d/d", None, false, "2024-01-31T00:00:00Z");
        check("2024-01-01||-90m", None, true, "2023-12-31T22:30:00Z");
        check("2024-01-17T15:04:05||/w", None, false, "2024-01-15T00:00:00Z");
        check("2024-07-01T15:34:05||/h", None, true, "2024-07-01T15:59:59.999999Z");
        check("2024-07-01", Some("Europe/Berlin"), false, "2024-06-30T22:00:00Z");
        check("9999-12-31||+1d", None, false, "+10000-01-01T00:00:00Z");
        check("+12345-01-15||/M", None, true, "+12345-01-31T23:59:59.999999Z");
        check("-9999-01-01||-1y", None, false, "-10000-01-01T00:00:00Z");
    }

    #[test]
    fn now_is_now() {
        let read = |text| instant(text, &DateFormat::default(), &Reading::default()).unwrap();
        let clock = || i128::from(Timestamp::now().as_microsecond());
        let (before, now, hour_ago, after) = (clock(), read("now"), read("now-1h"), clock());
        let hour = 3_600_000_000;
        assert!((before..=after).contains(&now), "{before} <= {now} <= {after}");
        assert!((before - hour..=after - hour).contains(&hour_ago), "{hour_ago}");
    }

    #[test]
    fn what_is_no_date_is_refused() {
        for text in ["foo", "now+", "now+1", "now+1x", "now/2d", "2024-01-01||*1d", "2024||+é"] {
            let result = instant(text, &DateFormat::default(), &Reading::default());
            assert!(result.is_err(), "{text}");
        }
    }
}
