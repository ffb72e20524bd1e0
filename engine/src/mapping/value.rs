//! A JSON scalar as a value of a field's type, with Elasticsearch's coercions and messages.

use std::borrow::Cow;

use super::field::{FieldKind, FieldMapping, FieldValue, Storage};

/// A JSON scalar as it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Raw<'a> {
    /// A text, unescaped.
    Text(&'a str),
    /// A number's own characters.
    Number(&'a str),
    /// `true` or `false`.
    Bool(bool),
}

impl<'a> Raw<'a> {
    /// Its characters.
    pub(crate) fn as_str(self) -> &'a str {
        match self {
            Raw::Text(text) | Raw::Number(text) => text,
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
        Raw::Text(text) | Raw::Number(text) => Err(format!(
            "Failed to parse value [{}] as only [true] or [false] are allowed.",
            shortened(text)
        )),
    }
}

fn date(field: &FieldMapping, raw: Raw<'_>) -> Result<i64, String> {
    let text = raw.as_str();
    let parsed = match raw {
        Raw::Bool(_) => None,
        Raw::Text(_) | Raw::Number(_) => field.format.parse(text),
    };
    let micros = parsed.ok_or_else(|| {
        format!("failed to parse date field [{}] with format [{}]", shortened(text), field.format)
    })?;
    super::date::in_range(micros).ok_or_else(|| {
        format!(
            "date [{}] is outside the range that can be indexed, 1677-09-21 to 2262-04-11",
            shortened(text)
        )
    })
}

/// The characters that make the number; `None` for an empty text under coercion.
fn number_text<'a>(field: &FieldMapping, raw: Raw<'a>) -> Result<Option<&'a str>, String> {
    match raw {
        Raw::Number(text) => Ok(Some(text)),
        Raw::Text(_) if !field.coerce => {
            Err(format!("{} value passed as String", capitalized(field.kind.name())))
        }
        Raw::Text(text) if text.trim().is_empty() => {
            if text.is_empty() {
                Ok(None)
            } else {
                Err("empty String".to_owned())
            }
        }
        Raw::Text(text) => Ok(Some(text.trim())),
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
