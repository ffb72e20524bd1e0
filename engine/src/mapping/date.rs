//! How dates are written: Elasticsearch's named formats and Java's patterns, alternatives joined
//! by `||`.
//!
//! A format is compiled once into a small program; a missing part (the month of `2024`) is filled
//! with the least value, or with the greatest where a range's end asks for it.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::{Arc, LazyLock};

use jiff::civil;
use jiff::tz::TimeZone;

use self::pattern::{Item, Part};

mod pattern;

/// What can be indexed, in microseconds since 1970: tantivy counts nanoseconds in an `i64`.
pub const MICROS: RangeInclusive<i64> = i64::MIN / 1000..=i64::MAX / 1000;

/// The format of date fields that name none.
pub const DEFAULT_FORMAT: &str = "strict_date_optional_time||epoch_millis";

/// What strings that become dates without a mapping look like otherwise.
pub const SLASHED_FORMAT: &str = "yyyy/MM/dd HH:mm:ss||yyyy/MM/dd||epoch_millis";

/// One or several ways to write a date.
#[derive(Clone)]
pub struct DateFormat(Arc<Compiled>);

struct Compiled {
    text: String,
    alternatives: Vec<Alternative>,
}

enum Alternative {
    EpochMillis,
    EpochSecond,
    Pattern(Vec<Item>),
}

/// A format that is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidFormat(pub(crate) String);

/// What a text that lacks parts means.
#[derive(Debug, Clone, Default)]
pub struct Reading {
    /// The zone of a text that names none; `None` is UTC.
    pub zone: Option<TimeZone>,
    /// Whether missing parts are filled with their greatest values.
    pub round_up: bool,
}

impl FromStr for DateFormat {
    type Err = InvalidFormat;

    fn from_str(text: &str) -> Result<Self, InvalidFormat> {
        let alternatives: Result<Vec<_>, _> = text
            .split("||")
            .map(|name| match name {
                "epoch_millis" => Ok(Alternative::EpochMillis),
                "epoch_second" => Ok(Alternative::EpochSecond),
                _ => pattern::compile(name).map(Alternative::Pattern),
            })
            .collect();
        Ok(Self(Arc::new(Compiled { text: text.to_owned(), alternatives: alternatives? })))
    }
}

impl Default for DateFormat {
    fn default() -> Self {
        static DEFAULT: LazyLock<DateFormat> = LazyLock::new(|| {
            let named = |name| pattern::compile(name).unwrap_or_default();
            DateFormat(Arc::new(Compiled {
                text: DEFAULT_FORMAT.to_owned(),
                alternatives: vec![
                    Alternative::Pattern(named("strict_date_optional_time")),
                    Alternative::EpochMillis,
                ],
            }))
        });
        DEFAULT.clone()
    }
}

impl fmt::Display for DateFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.text)
    }
}

impl fmt::Debug for DateFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DateFormat({})", self.0.text)
    }
}

impl PartialEq for DateFormat {
    fn eq(&self, other: &Self) -> bool {
        self.0.text == other.0.text
    }
}

impl Eq for DateFormat {}

impl DateFormat {
    /// The instant that a text names, in microseconds since 1970, missing parts at their least and
    /// UTC where it names no zone. It may lie outside [`MICROS`].
    pub fn parse(&self, text: &str) -> Option<i64> {
        self.read(text, &Reading::default())
    }

    /// As [`parse`](Self::parse), with a say in what is missing.
    pub fn read(&self, text: &str, reading: &Reading) -> Option<i64> {
        self.0.alternatives.iter().find_map(|alternative| match alternative {
            Alternative::EpochMillis => epoch(text, 3, reading.round_up),
            Alternative::EpochSecond => epoch(text, 0, reading.round_up),
            Alternative::Pattern(items) => {
                let mut parts = Parts::default();
                let rest = pattern::read(items, text.as_bytes(), &mut parts)?;
                if rest.is_empty() { parts.to_micros(reading) } else { None }
            }
        })
    }

    /// The instant in the first of the ways, in UTC.
    pub fn print(&self, micros: i64) -> String {
        match self.0.alternatives.first() {
            Some(Alternative::EpochMillis) => micros.div_euclid(1000).to_string(),
            Some(Alternative::EpochSecond) => micros.div_euclid(1_000_000).to_string(),
            Some(Alternative::Pattern(items)) => pattern::print(items, &Parts::of(micros)),
            None => String::new(),
        }
    }
}

/// Keeps an instant that can be indexed.
pub fn in_range(micros: i64) -> Option<i64> {
    MICROS.contains(&micros).then_some(micros)
}

/// The parts of a date that a text gives.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Parts {
    year: Option<i64>,
    month: Option<i64>,
    day: Option<i64>,
    hour: Option<i64>,
    minute: Option<i64>,
    second: Option<i64>,
    micros: Option<i64>,
    offset_seconds: Option<i64>,
}

impl Parts {
    fn slot(&mut self, part: Part) -> &mut Option<i64> {
        match part {
            Part::Year => &mut self.year,
            Part::Month => &mut self.month,
            Part::Day => &mut self.day,
            Part::Hour => &mut self.hour,
            Part::Minute => &mut self.minute,
            Part::Second => &mut self.second,
        }
    }

    fn of(micros: i64) -> Self {
        let date_time = civil_of(micros).unwrap_or_default();
        Self {
            year: Some(date_time.year().into()),
            month: Some(date_time.month().into()),
            day: Some(date_time.day().into()),
            hour: Some(date_time.hour().into()),
            minute: Some(date_time.minute().into()),
            second: Some(date_time.second().into()),
            micros: Some(micros.rem_euclid(1_000_000)),
            offset_seconds: Some(0),
        }
    }

    fn to_micros(self, reading: &Reading) -> Option<i64> {
        let up = reading.round_up;
        let fill = |part: Option<i64>, least: i64, greatest: i64| {
            part.unwrap_or(if up { greatest } else { least })
        };
        let year = i16::try_from(self.year.unwrap_or(1970)).ok()?;
        let month = i8::try_from(fill(self.month, 1, 12)).ok()?;
        let first = civil::Date::new(year, month, 1).ok()?;
        let day = i8::try_from(fill(self.day, 1, first.days_in_month().into())).ok()?;
        let time = civil::Time::new(
            i8::try_from(fill(self.hour, 0, 23)).ok()?,
            i8::try_from(fill(self.minute, 0, 59)).ok()?,
            i8::try_from(fill(self.second, 0, 59)).ok()?,
            0,
        )
        .ok()?;
        let date_time = civil::Date::new(year, month, day).ok()?.to_datetime(time);
        let micros = fill(self.micros, 0, 999_999);
        let seconds = match (self.offset_seconds, &reading.zone) {
            (Some(offset), _) => seconds_of(date_time) - offset,
            (None, None) => seconds_of(date_time),
            (None, Some(zone)) => {
                zone.to_ambiguous_timestamp(date_time).compatible().ok()?.as_second()
            }
        };
        Some(seconds * 1_000_000 + micros)
    }
}

/// The date and time in UTC; `None` far outside of what can be indexed.
pub(crate) fn civil_of(micros: i64) -> Option<civil::DateTime> {
    let timestamp = jiff::Timestamp::from_microsecond(micros).ok()?;
    Some(TimeZone::UTC.to_datetime(timestamp))
}

/// Seconds since 1970 of a date and time in UTC (H. Hinnant, "days from civil").
pub(crate) fn seconds_of(date_time: civil::DateTime) -> i64 {
    let (month, day) = (i64::from(date_time.month()), i64::from(date_time.day()));
    let year = i64::from(date_time.year()) - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = era * 146_097 + day_of_era - 719_468;
    let hours = days * 24 + i64::from(date_time.hour());
    (hours * 60 + i64::from(date_time.minute())) * 60 + i64::from(date_time.second())
}

/// A count since 1970 in units of `10^-digits` seconds, perhaps with a fraction.
fn epoch(text: &str, digits: usize, round_up: bool) -> Option<i64> {
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = match text.split_once('.') {
        Some((whole, fraction)) if !fraction.is_empty() => (whole, Some(fraction)),
        Some(_) => return None,
        None => (text, None),
    };
    let plain = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !plain(whole) || !fraction.is_none_or(plain) {
        return None;
    }
    let unit_micros = if digits == 3 { 1000 } else { 1_000_000 };
    let whole = whole.parse::<i64>().ok()?.checked_mul(unit_micros)?;
    let below = match fraction {
        None if round_up => unit_micros - 1,
        None => 0,
        Some(fraction) => pattern::micros_of(fraction.as_bytes()) * unit_micros / 1_000_000,
    };
    if negative && fraction.is_some() {
        return (-whole).checked_sub(below);
    }
    (if negative { -whole } else { whole }).checked_add(below)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn format(text: &str) -> DateFormat {
        text.parse().unwrap()
    }

    /// The instant as jiff reads it.
    fn instant(text: &str) -> i64 {
        text.parse::<jiff::Timestamp>().unwrap().as_microsecond()
    }

    #[test]
    fn dates_are_read() {
        for (pattern, text, expected) in [
            (DEFAULT_FORMAT, "2024", "2024-01-01T00:00:00Z"),
            (DEFAULT_FORMAT, "2024-03", "2024-03-01T00:00:00Z"),
            (DEFAULT_FORMAT, "2024-02-29", "2024-02-29T00:00:00Z"),
            (DEFAULT_FORMAT, "2024-02-29T", "2024-02-29T00:00:00Z"),
            (DEFAULT_FORMAT, "2024-02-29T05", "2024-02-29T05:00:00Z"),
            (DEFAULT_FORMAT, "2024-02-29T05:06Z", "2024-02-29T05:06:00Z"),
            (DEFAULT_FORMAT, "2024-02-29T05:06:07.1", "2024-02-29T05:06:07.1Z"),
            (DEFAULT_FORMAT, "2024-02-29T05:06:07,123456789+0130", "2024-02-29T03:36:07.123456Z"),
            (DEFAULT_FORMAT, "2024-02-29T05:06:07-08", "2024-02-29T13:06:07Z"),
            (DEFAULT_FORMAT, "1700000000123", "2023-11-14T22:13:20.123Z"),
            (DEFAULT_FORMAT, "-1", "1969-12-31T23:59:59.999Z"),
            (DEFAULT_FORMAT, "1700000000123.5", "2023-11-14T22:13:20.1235Z"),
            ("epoch_second", "1700000000", "2023-11-14T22:13:20Z"),
            ("epoch_second", "-1.5", "1969-12-31T23:59:58.5Z"),
            ("date_optional_time", "2024-3-5", "2024-03-05T00:00:00Z"),
            ("basic_date", "20240305", "2024-03-05T00:00:00Z"),
            ("yyyy/MM/dd HH:mm:ss", "2024/03/05 06:07:08", "2024-03-05T06:07:08Z"),
            ("d.M.uuuu", "5.12.2024", "2024-12-05T00:00:00Z"),
            (
                "yyyy-MM-dd'T'HH:mm:ss.SSSXXX",
                "2024-03-05T06:07:08.009+01:00",
                "2024-03-05T05:07:08.009Z",
            ),
            ("yyyyMMdd'at 'HH'o''clock'", "20240305at 06o'clock", "2024-03-05T06:00:00Z"),
            (SLASHED_FORMAT, "2024/03/05", "2024-03-05T00:00:00Z"),
        ] {
            assert_eq!(format(pattern).parse(text), Some(instant(expected)), "{text}");
        }
    }

    #[test]
    fn what_is_no_date_is_refused() {
        for (pattern, texts) in [
            (
                DEFAULT_FORMAT,
                vec![
                    "",
                    "foo",
                    "2024-",
                    "2024-13",
                    "2023-02-29",
                    "2024-01-01T24",
                    "2024-01-01T00:60",
                    "2024-1-1",
                    "2024-01-01 00:00",
                    "2024-01-01T00:00:60",
                    "20x",
                    "1.",
                    "--1",
                    " 2024",
                    "2024-01-01T00:00:00.",
                    "2024-01-01T00:00:00+19:00",
                    "2024-01-01T00:00:00+1",
                    "99999999999999999999",
                ],
            ),
            ("yyyy-MM-dd", vec!["2024", "2024-01-01T00", "24-01-01"]),
            ("epoch_second", vec!["2024-01-01", "", "-", "1e3"]),
        ] {
            for text in texts {
                assert_eq!(format(pattern).parse(text), None, "{text}");
            }
        }
        for pattern in ["", "QQQ", "yyyy[", "'T", "yyyy]", "||", "yyyy||", &"[".repeat(20)] {
            pattern.parse::<DateFormat>().unwrap_err();
        }
    }

    #[test]
    fn missing_parts_are_filled() {
        let up = Reading { round_up: true, ..Reading::default() };
        for (text, expected) in [
            ("2024", "2024-12-31T23:59:59.999999Z"),
            ("2024-02", "2024-02-29T23:59:59.999999Z"),
            ("2024-02-03T04:05", "2024-02-03T04:05:59.999999Z"),
            ("2024-02-03T04:05:06", "2024-02-03T04:05:06.999999Z"),
            ("2024-02-03T04:05:06.7", "2024-02-03T04:05:06.7Z"),
            ("1700000000123", "2023-11-14T22:13:20.123999Z"),
        ] {
            assert_eq!(DateFormat::default().read(text, &up), Some(instant(expected)), "{text}");
        }
        let berlin = TimeZone::get("Europe/Berlin").unwrap();
        let local = Reading { zone: Some(berlin), round_up: false };
        for (text, expected) in [
            ("2024-07-01", "2024-06-30T22:00:00Z"),
            ("2024-07-01T00:00:00Z", "2024-07-01T00:00:00Z"),
        ] {
            assert_eq!(DateFormat::default().read(text, &local), Some(instant(expected)), "{text}");
        }
    }

    #[test]
    fn dates_are_printed() {
        let micros = instant("2024-03-05T06:07:08.009Z");
        for (pattern, expected) in [
            (DEFAULT_FORMAT, "2024-03-05T06:07:08.009Z"),
            ("epoch_millis", "1709618828009"),
            ("epoch_second", "1709618828"),
            ("yyyy-MM-dd", "2024-03-05"),
            ("d.M.yyyy", "5.3.2024"),
            ("date_optional_time", "2024-03-05T06:07:08.009Z"),
            ("HH:mm:ss.SSSSSS", "06:07:08.009000"),
        ] {
            assert_eq!(format(pattern).print(micros), expected, "{pattern}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_the_same(micros in MICROS, text in "\\PC{0,20}") {
            let format = DateFormat::default();
            let printed = format.print(micros);
            prop_assert_eq!(format.parse(&printed), Some(micros));
            prop_assert_eq!(instant(&printed), micros);
            // Any pattern and any text may be refused, but never panic.
            if let Ok(odd) = text.parse::<DateFormat>() {
                odd.parse(&printed);
                odd.print(micros);
            }
            format.parse(&text);
        }
    }
}
