//! How dates are written: Elasticsearch's named formats and Java's patterns, alternatives joined
//! by `||`.
//!
//! A format is compiled once into a small program; a missing part (the month of `2024`) is filled
//! with the least value. Where a range's end asks for it, a missing time of day is filled with the
//! greatest, and as in Elasticsearch only that: the end of `2024` is the end of its first day.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::{Arc, LazyLock};

use jiff::tz::TimeZone;

use self::calendar::Day;
use self::pattern::{Item, Part};

pub(crate) mod calendar;
mod pattern;

/// What can be indexed, in microseconds since 1970: from the year -290308 to 294247. It begins with
/// a whole millisecond.
pub const MICROS: RangeInclusive<i64> = i64::MIN / 1000 * 1000..=i64::MAX;

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
    /// Whether missing parts of the time of day are filled with their greatest values.
    pub round_up: bool,
    /// Whether microseconds are missing where a fraction has only milliseconds.
    pub by_milli: bool,
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
    /// UTC where it names no zone; `None` if it is none that can be indexed.
    pub fn parse(&self, text: &str) -> Option<i64> {
        self.read(text, &Reading::default()).and_then(in_range)
    }

    /// As [`parse`](Self::parse), with a say in what is missing, and for any instant.
    pub fn read(&self, text: &str, reading: &Reading) -> Option<i128> {
        let alternatives = &self.0.alternatives;
        // A negative number is a count, if it can be, rather than a year.
        let negative = text
            .strip_prefix('-')
            .is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
        let counts = negative
            && alternatives
                .iter()
                .any(|alternative| !matches!(alternative, Alternative::Pattern(_)));
        alternatives.iter().find_map(|alternative| match alternative {
            Alternative::EpochMillis => epoch(text, 3, reading.round_up),
            Alternative::EpochSecond => epoch(text, 0, reading.round_up),
            Alternative::Pattern(_) if counts => None,
            Alternative::Pattern(items) => {
                let mut parts = Parts::default();
                let rest = pattern::read(items, text.as_bytes(), &mut parts)?;
                if rest.is_empty() { parts.to_micros(reading) } else { None }
            }
        })
    }

    /// The instant in the first of the ways, in UTC.
    pub fn print(&self, micros: i64) -> String {
        self.print_parts(micros.div_euclid(1_000_000), micros.rem_euclid(1_000_000))
    }

    /// As [`print`](Self::print), for an instant in milliseconds.
    pub fn print_millis(&self, millis: i64) -> String {
        self.print_parts(millis.div_euclid(1000), millis.rem_euclid(1000) * 1000)
    }

    fn print_parts(&self, seconds: i64, micros: i64) -> String {
        match self.0.alternatives.first() {
            Some(Alternative::EpochMillis) => {
                (i128::from(seconds) * 1000 + i128::from(micros / 1000)).to_string()
            }
            Some(Alternative::EpochSecond) => seconds.to_string(),
            Some(Alternative::Pattern(items)) => pattern::print(items, &Parts::of(seconds, micros)),
            None => String::new(),
        }
    }
}

/// Keeps an instant that can be indexed.
pub fn in_range(micros: i128) -> Option<i64> {
    i64::try_from(micros).ok().filter(|micros| MICROS.contains(micros))
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
    /// Whether the fraction has no more than milliseconds.
    only_millis: bool,
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

    fn of(seconds: i64, micros: i64) -> Self {
        let Day { year, month, day_of_month } = Day::of(seconds.div_euclid(86_400));
        let second = seconds.rem_euclid(86_400);
        Self {
            year: Some(year),
            month: Some(month),
            day: Some(day_of_month),
            hour: Some(second / 3600),
            minute: Some(second / 60 % 60),
            second: Some(second % 60),
            micros: Some(micros),
            only_millis: false,
            offset_seconds: Some(0),
        }
    }

    fn to_micros(self, reading: &Reading) -> Option<i128> {
        let up = reading.round_up;
        let fill = |part: Option<i64>, least: i64, greatest: i64| {
            let value = part.unwrap_or(if up { greatest } else { least });
            (least..=greatest).contains(&value).then_some(value)
        };
        let year = self.year.unwrap_or(1970);
        let within = |part: i64, greatest: i64| (1..=greatest).contains(&part).then_some(part);
        let month = within(self.month.unwrap_or(1), 12)?;
        let days = calendar::days_in_month(year, month);
        let day_of_month = within(self.day.unwrap_or(1), days)?;
        let minutes = fill(self.hour, 0, 23)? * 60 + fill(self.minute, 0, 59)?;
        let second = fill(self.second, 0, 59)?;
        let mut micros = fill(self.micros, 0, 999_999)?;
        if up && reading.by_milli && self.only_millis {
            micros += 999;
        }
        let local = Day { year, month, day_of_month }.days() * 86_400 + minutes * 60 + second;
        let seconds = match (self.offset_seconds, &reading.zone) {
            (Some(offset), _) => local - offset,
            (None, None) => local,
            (None, Some(zone)) => calendar::instant_in(zone, local)?,
        };
        Some(i128::from(seconds) * 1_000_000 + i128::from(micros))
    }
}

/// A count since 1970 in units of `10^-digits` seconds, perhaps with a fraction.
fn epoch(text: &str, digits: usize, round_up: bool) -> Option<i128> {
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
    let unit_micros: i128 = if digits == 3 { 1000 } else { 1_000_000 };
    let whole = i128::from(whole.parse::<i64>().ok()?) * unit_micros;
    let below = match fraction {
        None if round_up => unit_micros - 1,
        None => 0,
        Some(fraction) => {
            i128::from(pattern::micros_of(fraction.as_bytes())) * unit_micros / 1_000_000
        }
    };
    if negative && fraction.is_some() {
        return Some(-whole - below);
    }
    Some(if negative { -whole } else { whole } + below)
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
            ("hour_minute_second_fraction", "05:06:07.25", "1970-01-01T05:06:07.25Z"),
            ("time||time_no_millis", "05:06:07+05:45", "1969-12-31T23:21:07Z"),
            ("time||time_no_millis", "05:06:07.000001-02", "1970-01-01T07:06:07.000001Z"),
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
        let instant = |text| i128::from(instant(text));
        let up = Reading { round_up: true, ..Reading::default() };
        let by_milli = Reading { by_milli: true, ..up.clone() };
        for (text, expected) in [
            ("2024", "2024-01-01T23:59:59.999999Z"),
            ("2024-02", "2024-02-01T23:59:59.999999Z"),
            ("2024-02-03T04:05", "2024-02-03T04:05:59.999999Z"),
            ("2024-02-03T04:05:06", "2024-02-03T04:05:06.999999Z"),
            ("2024-02-03T04:05:06.7", "2024-02-03T04:05:06.7Z"),
            ("1700000000123", "2023-11-14T22:13:20.123999Z"),
        ] {
            assert_eq!(DateFormat::default().read(text, &up), Some(instant(expected)), "{text}");
        }
        for (text, expected) in [
            ("2024-02-03T04:05", "2024-02-03T04:05:59.999999Z"),
            ("2024-02-03T04:05:06.7", "2024-02-03T04:05:06.700999Z"),
            ("2024-02-03T04:05:06.7000", "2024-02-03T04:05:06.7Z"),
        ] {
            let found = DateFormat::default().read(text, &by_milli);
            assert_eq!(found, Some(instant(expected)), "{text}");
        }
        let berlin = TimeZone::get("Europe/Berlin").unwrap();
        let local = Reading { zone: Some(berlin), ..Reading::default() };
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

    /// Years of more than four digits have a sign, as have those before the year 0, which is 1 BC.
    #[test]
    fn years_of_any_length() {
        const DAY: i64 = 86_400_000_000;
        let check = |pattern: &str, text: &str, micros: i64| {
            let format = format(pattern);
            assert_eq!(format.parse(text), Some(micros), "{text}");
            assert_eq!(format.print(micros), text);
        };
        check(DEFAULT_FORMAT, "9999-12-31T00:00:00.000Z", 2_932_896 * DAY);
        check(DEFAULT_FORMAT, "+10000-01-01T00:00:00.000Z", 2_932_897 * DAY);
        check(DEFAULT_FORMAT, "0001-01-01T00:00:00.000Z", -719_162 * DAY);
        check(DEFAULT_FORMAT, "0000-12-31T00:00:00.000Z", -719_163 * DAY);
        check(DEFAULT_FORMAT, "-4712-01-01T00:00:00.000Z", -2_440_550 * DAY);
        check(DEFAULT_FORMAT, "-0043-03-15T12:00:00.000001Z", -735_160 * DAY + DAY / 2 + 1);
        check(DEFAULT_FORMAT, "+294247-01-10T04:00:54.775807Z", *MICROS.end());
        check(DEFAULT_FORMAT, "-290308-12-21T19:59:05.225Z", *MICROS.start());
        check("yyyyMMdd", "+100000101", 2_932_897 * DAY);
        check("yyyy", "+10000", 2_932_897 * DAY);
        check("d.M.y", "1.1.-4712", -2_440_550 * DAY);
        let read = |text| DateFormat::default().parse(text);
        assert_eq!(read("+010000-01-01"), Some(2_932_897 * DAY));
        assert_eq!(read("-000043-03-15"), read("-0043-03-15"));
        // A lone negative number counts milliseconds.
        assert_eq!(read("-2024"), Some(-2_024_000));
        for text in ["10000-01-01", "+2024-01-01", "-43-03-15", "+294247-01-11", "-290308-12-20"] {
            assert_eq!(read(text), None, "{text}");
        }
        let outside = DateFormat::default().read("+294247-01-11", &Reading::default());
        assert_eq!(outside, Some(106_751_992 * i128::from(DAY)));
        let berlin = TimeZone::get("Europe/Berlin").unwrap();
        let local = Reading { zone: Some(berlin), ..Reading::default() };
        let summer = DateFormat::default().read("+20024-07-01", &local);
        assert_eq!(summer, read("+20024-06-30T22:00:00Z").map(i128::from));
        assert_eq!(DateFormat::default().print_millis(i64::MIN), "-292275055-05-16T16:47:04.192Z");
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_the_same(micros in MICROS, text in "\\PC{0,20}") {
            let format = DateFormat::default();
            let printed = format.print(micros);
            prop_assert_eq!(format.parse(&printed), Some(micros));
            if let Ok(known) = printed.parse::<jiff::Timestamp>() {
                prop_assert_eq!(known.as_microsecond(), micros);
            }
            // Any pattern and any text may be refused, but never panic.
            if let Ok(odd) = text.parse::<DateFormat>() {
                odd.parse(&printed);
                odd.print(micros);
            }
            format.parse(&text);
        }
    }
}
