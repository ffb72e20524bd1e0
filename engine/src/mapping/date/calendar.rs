//! The proleptic Gregorian calendar in whole numbers, for years far beyond what time libraries know
//! (H. Hinnant, "chrono-compatible low-level date algorithms"). It repeats every 400 years.

use jiff::civil;
use jiff::tz::TimeZone;

/// Days in 400 years; whole weeks.
const CYCLE_DAYS: i64 = 146_097;

/// Seconds in 400 years.
pub(crate) const CYCLE_SECONDS: i64 = CYCLE_DAYS * 86_400;

/// Cycles since 1970 whose instants jiff knows, with room for an offset and for counting on.
const KNOWN_CYCLES: std::ops::RangeInclusive<i64> = -28..=18;

/// A day of a year that may be negative; 0 is 1 BC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_field_names, reason = "`of_month` alone would not say what is counted")]
pub(crate) struct Day {
    pub(crate) year: i64,
    /// From 1.
    pub(crate) month: i64,
    /// From 1.
    pub(crate) day_of_month: i64,
}

impl Day {
    /// The day that lies so many days after 1970-01-01.
    pub(crate) fn of(days: i64) -> Self {
        let days = days + 719_468;
        let era = days.div_euclid(CYCLE_DAYS);
        let day_of_era = days.rem_euclid(CYCLE_DAYS);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted = (5 * day_of_year + 2) / 153;
        let month = (shifted + 2) % 12 + 1;
        Self {
            year: year_of_era + era * 400 + i64::from(month <= 2),
            month,
            day_of_month: day_of_year - (153 * shifted + 2) / 5 + 1,
        }
    }

    /// How many days after 1970-01-01 it lies.
    pub(crate) fn days(self) -> i64 {
        let year = self.year - i64::from(self.month <= 2);
        let era = year.div_euclid(400);
        let year_of_era = year.rem_euclid(400);
        let day_of_year = (153 * ((self.month + 9) % 12) + 2) / 5 + self.day_of_month - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        era * CYCLE_DAYS + day_of_era - 719_468
    }
}

/// How many days a month has.
pub(crate) fn days_in_month(year: i64, month: i64) -> i64 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// An instant at the same place of a cycle that jiff knows, and by how many cycles it was moved.
pub(crate) fn known_cycle(seconds: i64) -> (i64, i64) {
    let cycle = seconds.div_euclid(CYCLE_SECONDS);
    let moved = cycle - cycle.clamp(*KNOWN_CYCLES.start(), *KNOWN_CYCLES.end());
    (seconds - moved * CYCLE_SECONDS, moved)
}

/// The instant, in seconds since 1970, at which a zone's clocks show a time, given as if it was
/// UTC. Far from now a zone's rules are those of the nearest years that are known.
pub(crate) fn instant_in(zone: &TimeZone, local_seconds: i64) -> Option<i64> {
    let (seconds, moved) = known_cycle(local_seconds);
    let Day { year, month, day_of_month } = Day::of(seconds.div_euclid(86_400));
    let second = seconds.rem_euclid(86_400);
    let small = |value: i64| i8::try_from(value).ok();
    let date =
        civil::Date::new(i16::try_from(year).ok()?, small(month)?, small(day_of_month)?).ok()?;
    let (hour, minute) = (small(second / 3600)?, small(second / 60 % 60)?);
    let time = civil::Time::new(hour, minute, small(second % 60)?, 0).ok()?;
    let instant = zone.to_ambiguous_timestamp(date.to_datetime(time)).compatible().ok()?;
    Some(instant.as_second() + moved * CYCLE_SECONDS)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn days_of_any_year() {
        let check = |year, month, day, days| {
            let date = Day { year, month, day_of_month: day };
            assert_eq!((date.days(), Day::of(days)), (days, date));
        };
        check(1970, 1, 1, 0);
        check(1969, 12, 31, -1);
        check(0, 3, 1, -719_468);
        check(9999, 12, 31, 2_932_896);
        check(10_000, 1, 1, 2_932_897);
        check(-4712, 1, 1, -2_440_550);
        check(294_247, 1, 10, 106_751_991);
    }

    proptest! {
        #[test]
        fn days_as_in_jiff(days in -4_371_587_i64..=2_932_896) {
            let epoch = civil::date(1970, 1, 1);
            let date = epoch.checked_add(jiff::Span::new().days(days)).unwrap();
            let day = Day::of(days);
            prop_assert_eq!(
                (day.year, day.month, day.day_of_month),
                (date.year().into(), date.month().into(), date.day().into())
            );
            prop_assert_eq!(day.days(), days);
            prop_assert_eq!(days_in_month(day.year, day.month), i64::from(date.days_in_month()));
        }

        #[test]
        fn days_of_all_years(days in -400_000_000_000_i64..400_000_000_000) {
            let day = Day::of(days);
            prop_assert_eq!(day.days(), days);
            prop_assert!((1..=12).contains(&day.month));
            prop_assert!((1..=days_in_month(day.year, day.month)).contains(&day.day_of_month));
            let (seconds, moved) = known_cycle(days * 86_400);
            prop_assert!(jiff::Timestamp::from_second(seconds).is_ok());
            prop_assert_eq!(seconds + moved * CYCLE_SECONDS, days * 86_400);
        }
    }
}
