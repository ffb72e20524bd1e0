//! Durations (`500ms`, `5s`, `1m`) as Elasticsearch writes them.

use std::time::Duration;

use crate::error::{Error, Result};

/// Milliseconds in a unit.
fn unit_ms(unit: &str) -> Option<f64> {
    Some(match unit {
        "nanos" => 1e-6,
        "micros" => 1e-3,
        "ms" => 1.0,
        "s" => 1e3,
        "m" => 6e4,
        "h" => 3.6e6,
        "d" => 8.64e7,
        _ => return None,
    })
}

/// Reads a duration; `-1` (no limit) is `None`. `setting` names it in errors.
pub(crate) fn duration(text: &str, setting: &str) -> Result<Option<Duration>> {
    let failed = || {
        Error::argument(format!(
            "failed to parse setting [{setting}] with value [{text}] as a time value: unit is \
             missing or unrecognized"
        ))
    };
    if text == "-1" {
        return Ok(None);
    }
    if text == "0" {
        return Ok(Some(Duration::ZERO));
    }
    let digits = text.find(|character: char| character.is_ascii_alphabetic()).ok_or_else(failed)?;
    let (number, unit) = text.split_at(digits);
    let unit = unit_ms(unit).ok_or_else(failed)?;
    let number: f64 = number.trim().parse().map_err(|_| failed())?;
    Duration::try_from_secs_f64(number * unit / 1e3).map(Some).map_err(|_| failed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        let check = |text: &str, ms: Option<u64>| {
            assert_eq!(duration(text, "timeout").unwrap(), ms.map(Duration::from_millis), "{text}");
        };
        check("500ms", Some(500));
        check("1.5s", Some(1_500));
        check("2m", Some(120_000));
        check("0", Some(0));
        check("-1", None);
        for text in ["", "5", "5x", "s", "-2s", "1e400s"] {
            assert!(duration(text, "timeout").is_err(), "{text}");
        }
    }
}
