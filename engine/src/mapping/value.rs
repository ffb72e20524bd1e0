//! A JSON scalar as a value of a field's type, with Elasticsearch's coercions and messages.

use std::borrow::Cow;

use serde_json::Value;

use super::date::Reading;
use super::field::{FieldKind, FieldMapping, FieldValue, Storage};
use super::geo::Point;
use super::span::Spans;

/// A JSON scalar as it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Raw<'a> {
    /// A text, unescaped.
    Text(&'a str),
    /// A number's own characters.
    Number(&'a str),
    /// `true` or `false`.
    Bool(bool),
    /// An object, or an array that is one value, as JSON.
    Json(&'a str),
}

impl<'a> Raw<'a> {
    /// Its characters.
    pub(crate) fn as_str(self) -> &'a str {
        match self {
            Raw::Text(text) | Raw::Number(text) | Raw::Json(text) => text,
            Raw::Bool(true) => "true",
            Raw::Bool(false) => "false",
        }
    }
}

/// A text for a message: cut to a line's length.
pub(crate) fn shortened(text: &str) -> Cow<'_, str> {
    const LIMIT: usize = 200;
    match text.char_indices().nth(LIMIT) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()).into(),
        None => text.into(),
    }
}

/// Converts a scalar to a field's type. `None`: an empty text that is coerced to no number. The
/// error is the reason, for a message that names field and value.
pub(crate) fn convert(field: &FieldMapping, raw: Raw<'_>) -> Result<Option<FieldValue>, String> {
    match field.kind.storage() {
        Storage::Text => Ok(Some(FieldValue::Text(raw.as_str().to_owned()))),
        Storage::Ip => ip(raw).map(|term| Some(FieldValue::Text(term))),
        Storage::Span => {
            let spans = Spans::of(field).ok_or("no range")?;
            Ok(spans.read(raw)?.map(|span| FieldValue::Text(spans.term(span))))
        }
        Storage::Point => point(raw).map(|point| Some(FieldValue::U64(point.to_bits()))),
        Storage::Bool => boolean(raw).map(|value| Some(FieldValue::Bool(value))),
        Storage::Date => date(field, raw).map(|micros| Some(FieldValue::Date(micros))),
        Storage::I64 | Storage::U64 | Storage::F64 => {
            let Some(text) = number_text(field, raw)? else { return Ok(None) };
            number(field, text).map(Some)
        }
    }
}

fn boolean(raw: Raw<'_>) -> Result<bool, String> {
    match raw {
        Raw::Bool(value) => Ok(value),
        Raw::Text("true") => Ok(true),
        Raw::Text("false" | "") => Ok(false),
        Raw::Text(text) | Raw::Number(text) | Raw::Json(text) => Err(format!(
            "Failed to parse value [{}] as only [true] or [false] are allowed.",
            shortened(text)
        )),
    }
}

fn point(raw: Raw<'_>) -> Result<Point, String> {
    match raw {
        Raw::Text(text) => text.parse(),
        Raw::Json(text) => {
            let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
            Point::read(&value)
        }
        Raw::Number(_) | Raw::Bool(_) => Err("geo_point expected".to_owned()),
    }
}

fn ip(raw: Raw<'_>) -> Result<String, String> {
    let text = raw.as_str();
    let address = super::ip::read(text);
    let address =
        address.ok_or_else(|| format!("'{}' is not an IP string literal.", shortened(text)))?;
    Ok(super::ip::term(address))
}

fn date(field: &FieldMapping, raw: Raw<'_>) -> Result<i64, String> {
    let text = raw.as_str();
    let parsed = match raw {
        Raw::Bool(_) | Raw::Json(_) => None,
        Raw::Text(_) | Raw::Number(_) => field.format.read(text, &Reading::default()),
    };
    let micros = parsed.ok_or_else(|| {
        format!("failed to parse date field [{}] with format [{}]", shortened(text), field.format)
    })?;
    super::date::in_range(micros).ok_or_else(|| {
        format!(
            "date [{}] is outside the range that can be indexed, -290308-12-21 to +294247-01-10",
            shortened(text)
        )
    })
}

/// The characters that make the number; `None` for an empty text under coercion.
fn number_text<'a>(field: &FieldMapping, raw: Raw<'a>) -> Result<Option<&'a str>, String> {
    match raw {
        Raw::Text(_) if !field.coerce => {
            Err(format!("{} value passed as String", capitalized(field.kind.name())))
        }
        Raw::Text("") => Ok(None),
        // As in Java, white space is only allowed around floating-point numbers.
        Raw::Text(text) if field.kind.storage() == Storage::F64 => Ok(Some(text.trim())),
        Raw::Text(text) | Raw::Number(text) => Ok(Some(text)),
        Raw::Json(_) => Err("an object or an array is no number".to_owned()),
        Raw::Bool(value) => Err(format!(
            "Current token (VALUE_{}) not numeric, can not use numeric value accessors",
            if value { "TRUE" } else { "FALSE" }
        )),
    }
}

fn capitalized(name: &str) -> String {
    let mut characters = name.chars();
    characters.next().map_or(String::new(), |first| {
        first.to_uppercase().collect::<String>() + characters.as_str()
    })
}

fn number(field: &FieldMapping, text: &str) -> Result<FieldValue, String> {
    let not_a_number = || format!("For input string: \"{}\"", shortened(text));
    if field.kind.storage() == Storage::F64 {
        let value = parse_f64(text).ok_or_else(not_a_number)?;
        return if value.is_finite() {
            Ok(FieldValue::F64(value))
        } else {
            Err(format!(
                "[{}] supports only finite values, but got [{}]",
                field.kind.name(),
                shortened(text)
            ))
        };
    }
    let whole = match text.parse::<i64>() {
        Ok(value) => Whole { value: i128::from(value), exact: true },
        Err(_) => Whole::parse(text).ok_or_else(not_a_number)?,
    };
    if !whole.exact && !field.coerce {
        return Err(format!("Value [{}] has a decimal part", shortened(text)));
    }
    let (least, greatest, name) = match field.kind {
        FieldKind::Integer => (i128::from(i32::MIN), i128::from(i32::MAX), "an integer"),
        FieldKind::Short => (i128::from(i16::MIN), i128::from(i16::MAX), "a short"),
        FieldKind::Byte => (i128::from(i8::MIN), i128::from(i8::MAX), "a byte"),
        FieldKind::UnsignedLong => (0, i128::from(u64::MAX), "an unsigned long"),
        _ => (i128::from(i64::MIN), i128::from(i64::MAX), "a long"),
    };
    let out_of_range = || format!("Value [{}] is out of range for {name}", shortened(text));
    if whole.value < least || whole.value > greatest {
        return Err(out_of_range());
    }
    let value = if field.kind == FieldKind::UnsignedLong {
        u64::try_from(whole.value).map(FieldValue::U64)
    } else {
        i64::try_from(whole.value).map(FieldValue::I64)
    };
    value.map_err(|_| out_of_range())
}

/// A decimal number in double precision: infinite where it is too large; `None` where it is none.
fn parse_f64(text: &str) -> Option<f64> {
    let bytes = text.bytes();
    let mut allowed =
        bytes.map(|byte| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E'));
    if allowed.all(|allowed| allowed) { text.parse().ok() } else { None }
}

/// The whole part of a decimal number, without going through floating point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Whole {
    /// Truncated towards zero; past 38 digits, some value far out of every range.
    pub(super) value: i128,
    /// Whether nothing was cut off.
    pub(super) exact: bool,
}

impl Whole {
    pub(super) fn parse(text: &str) -> Option<Self> {
        parse_f64(text)?;
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            // An exponent past i64 has a mantissa of zero or an extreme value, as its clamp has.
            Some((mantissa, exponent)) => (
                mantissa,
                exponent.parse().unwrap_or_else(|_| {
                    if exponent.starts_with('-') { i64::MIN / 2 } else { i64::MAX / 2 }
                }),
            ),
            None => (text, 0),
        };
        let (negative, digits) = match mantissa.as_bytes().first()? {
            b'-' => (true, mantissa.get(1..)?),
            b'+' => (false, mantissa.get(1..)?),
            _ => (false, mantissa),
        };
        let (before, after) = digits.split_once('.').unwrap_or((digits, ""));
        let point = i64::try_from(before.len()).ok()?.saturating_add(exponent);
        let mut value: i128 = 0;
        let mut exact = true;
        let mut significant = false;
        let mut place = 0;
        for digit in before.bytes().chain(after.bytes()) {
            significant |= digit != b'0';
            if place < point {
                value = value.saturating_mul(10).saturating_add(i128::from(digit - b'0'));
            } else {
                exact &= digit == b'0';
            }
            place += 1;
        }
        while significant && place < point && value < i128::MAX {
            value = value.saturating_mul(10);
            place += 1;
        }
        Some(Self { value: if negative { -value } else { value }, exact })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(kind: FieldKind, raw: Raw<'_>, expected: &Result<Option<FieldValue>, &str>) {
        let found = convert(&FieldMapping::new("x", kind), raw);
        assert_eq!(found.as_ref().map_err(String::as_str), expected.as_ref().map_err(|e| *e));
    }

    #[test]
    fn numbers_keep_their_range() {
        use FieldKind::{Byte, Double, Float, Integer, Long, Short, UnsignedLong};
        let whole = |value| Ok(Some(FieldValue::I64(value)));
        for (kind, text, expected) in [
            (Long, "9223372036854775807", whole(i64::MAX)),
            (Long, "-9223372036854775808", whole(i64::MIN)),
            (Long, "9223372036854775807.9", whole(i64::MAX)),
            (Long, "922337203685477580.7e1", whole(i64::MAX)),
            (
                Long,
                "9223372036854775808",
                Err("Value [9223372036854775808] is out of range for a long"),
            ),
            (Long, "1e19", Err("Value [1e19] is out of range for a long")),
            (Long, "1e300", Err("Value [1e300] is out of range for a long")),
            (Long, "1e-300", whole(0)),
            (Long, "0e99999999999999999999", whole(0)),
            (Long, "-1.5e0", whole(-1)),
            (Integer, "2147483648", Err("Value [2147483648] is out of range for an integer")),
            (Short, "-32768", whole(-32768)),
            (Short, "-32769", Err("Value [-32769] is out of range for a short")),
            (Byte, "127.99", whole(127)),
            (Byte, "128", Err("Value [128] is out of range for a byte")),
            (UnsignedLong, "-1", Err("Value [-1] is out of range for an unsigned long")),
            (UnsignedLong, "1e19", Ok(Some(FieldValue::U64(10_000_000_000_000_000_000)))),
            (Double, "1e-400", Ok(Some(FieldValue::F64(0.0)))),
            (Float, "1e300", Ok(Some(FieldValue::F64(1e300)))),
        ] {
            check(kind, Raw::Number(text), &expected);
            check(kind, Raw::Text(text), &expected);
        }
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for text in ["foo", "1_0", "1e", "e1", "-", "+", ".", "0x10", "NaN", "inf", "1 2", "١"] {
            for kind in [FieldKind::Long, FieldKind::Double] {
                let expected = format!("For input string: \"{text}\"");
                check(kind, Raw::Text(text), &Err(&expected));
            }
        }
        check(FieldKind::Long, Raw::Text(" 1"), &Err("For input string: \" 1\""));
        check(FieldKind::Double, Raw::Text(" 1 "), &Ok(Some(FieldValue::F64(1.0))));
        check(FieldKind::Double, Raw::Text(""), &Ok(None));
        check(
            FieldKind::Double,
            Raw::Text("1e999"),
            &Err("[double] supports only finite values, but got [1e999]"),
        );
        check(
            FieldKind::Long,
            Raw::Bool(true),
            &Err("Current token (VALUE_TRUE) not numeric, can not use numeric value accessors"),
        );
        let strict = FieldMapping { coerce: false, ..FieldMapping::new("x", FieldKind::Long) };
        let refused = |raw| convert(&strict, raw).unwrap_err();
        assert_eq!(refused(Raw::Text("1")), "Long value passed as String");
        assert_eq!(refused(Raw::Number("1.5")), "Value [1.5] has a decimal part");
        assert_eq!(convert(&strict, Raw::Number("1.0")), Ok(Some(FieldValue::I64(1))));
    }

    #[test]
    fn other_kinds() {
        check(FieldKind::Boolean, Raw::Text(""), &Ok(Some(FieldValue::Bool(false))));
        check(
            FieldKind::Boolean,
            Raw::Number("1"),
            &Err("Failed to parse value [1] as only [true] or [false] are allowed."),
        );
        let keyword = Ok(Some(FieldValue::Text("1.10".into())));
        check(FieldKind::Keyword, Raw::Number("1.10"), &keyword);
        check(
            FieldKind::Date,
            Raw::Number("2024"),
            &Ok(Some(FieldValue::Date(1_704_067_200_000_000))),
        );
        check(
            FieldKind::Date,
            Raw::Bool(true),
            &Err("failed to parse date field [true] with format \
                 [strict_date_optional_time||epoch_millis]"),
        );
        check(
            FieldKind::Date,
            Raw::Text("+294248-01-01"),
            &Err("date [+294248-01-01] is outside the range that can be indexed, -290308-12-21 \
                 to +294247-01-10"),
        );
        check(
            FieldKind::Date,
            Raw::Number("9223372036854775807"),
            &Err("date [9223372036854775807] is outside the range that can be indexed, \
                 -290308-12-21 to +294247-01-10"),
        );
    }

    proptest! {
        /// The number is written with its point moved, and the whole part computed in integers.
        #[test]
        fn whole_parts_as_in_integers(value in any::<i64>(), places in 0_u32..22, shift in -3_i64..3) {
            let digits = format!("{:0width$}", value.unsigned_abs(), width = places as usize + 1);
            let (before, after) = digits.split_at(digits.len() - places as usize);
            let sign = if value < 0 { "-" } else { "" };
            let text = format!("{sign}{before}.{after}0e{shift}");
            let scale = i64::from(places) - shift;
            let (numerator, divisor) = if scale < 0 {
                (i128::from(value) * 10_i128.pow(u32::try_from(-scale).unwrap()), 1)
            } else {
                (i128::from(value), 10_i128.pow(u32::try_from(scale).unwrap()))
            };
            let expected = Whole { value: numerator / divisor, exact: numerator % divisor == 0 };
            prop_assert_eq!(Whole::parse(&text), Some(expected), "{}", text);
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,12}|[-+0-9.eE]{0,12}") {
            for kind in [FieldKind::Long, FieldKind::UnsignedLong, FieldKind::Double, FieldKind::Date] {
                let field = FieldMapping::new("x", kind);
                let _ = (convert(&field, Raw::Text(&text)), convert(&field, Raw::Number(&text)));
            }
        }
    }
}
