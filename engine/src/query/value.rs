//! A scalar of a query as a value of a field's type.

use std::net::Ipv6Addr;

use tantivy::Term;
use tantivy::schema::Field;

use super::ast::Scalar;
use super::compile::invalid;
use crate::error::Result;
use crate::mapping::field::{FieldMapping, Storage};
use crate::mapping::ip;
use crate::mapping::value::shortened;

/// A number before its field's type is known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Number {
    /// A whole number.
    Whole(i128),
    /// Any other; may be infinite, never NaN.
    Fraction(f64),
}

/// A scalar's text, as a term.
pub(super) fn text(scalar: &Scalar) -> String {
    match scalar {
        Scalar::Bool(value) => value.to_string(),
        Scalar::I64(value) => value.to_string(),
        Scalar::U64(value) => value.to_string(),
        Scalar::F64(value) => {
            // Java writes a whole double with a fraction.
            if value.fract() == 0.0 && value.abs() < 1e7 {
                format!("{value:.1}")
            } else {
                value.to_string()
            }
        }
        Scalar::Text(value) => value.clone(),
    }
}

/// A scalar as a number.
pub(super) fn number(scalar: &Scalar) -> Result<Number> {
    match scalar {
        Scalar::I64(value) => Ok(Number::Whole((*value).into())),
        Scalar::U64(value) => Ok(Number::Whole((*value).into())),
        Scalar::F64(value) => Number::of(*value).ok_or_else(|| not_a_number("NaN")),
        Scalar::Bool(value) => Err(not_a_number(&value.to_string())),
        Scalar::Text(text) => {
            if let Ok(whole) = text.parse() {
                return Ok(Number::Whole(whole));
            }
            text.parse().ok().and_then(Number::of).ok_or_else(|| not_a_number(text))
        }
    }
}

fn not_a_number(text: &str) -> crate::error::Error {
    invalid(format!("failed to create query: For input string: \"{text}\""))
}

/// A scalar as a boolean.
pub(super) fn boolean(scalar: &Scalar) -> Result<bool> {
    match scalar {
        Scalar::Bool(value) => Ok(*value),
        Scalar::Text(text) if text == "true" => Ok(true),
        Scalar::Text(text) if text == "false" || text.is_empty() => Ok(false),
        other => Err(invalid(format!(
            "failed to create query: Can't parse boolean value [{}], expected [true] or [false]",
            text(other)
        ))),
    }
}

impl Number {
    #[expect(clippy::cast_possible_truncation, reason = "whole and within range")]
    fn of(value: f64) -> Option<Self> {
        if value.is_nan() {
            return None;
        }
        if value.fract() == 0.0 && value.abs() < 1e30 {
            return Some(Self::Whole(value as i128));
        }
        Some(Self::Fraction(value))
    }

    /// In double precision.
    #[expect(clippy::cast_precision_loss, reason = "that is what double precision means")]
    pub(super) fn to_f64(self) -> f64 {
        match self {
            Self::Whole(value) => value as f64,
            Self::Fraction(value) => value,
        }
    }

    /// The least whole number that is not below it, or above it where `above`.
    fn at_least(self, above: bool) -> i128 {
        match self {
            Self::Whole(value) => value.saturating_add(i128::from(above)),
            Self::Fraction(value) => saturate(value.ceil()),
        }
    }

    /// The greatest whole number that is not above it, or below it where `below`.
    fn at_most(self, below: bool) -> i128 {
        match self {
            Self::Whole(value) => value.saturating_sub(i128::from(below)),
            Self::Fraction(value) => saturate(value.floor()),
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "casts of floats saturate")]
fn saturate(value: f64) -> i128 {
    value as i128
}

/// An interval of whole numbers, ends included; `None` if it is empty within `least..=greatest`.
pub(super) fn whole_interval(
    lower: Option<(Number, bool)>,
    upper: Option<(Number, bool)>,
    least: i128,
    greatest: i128,
) -> Option<(i128, i128)> {
    let lower = lower.map_or(least, |(number, included)| number.at_least(!included)).max(least);
    let upper = upper.map_or(greatest, |(number, included)| number.at_most(!included));
    let upper = upper.min(greatest);
    (lower <= upper).then_some((lower, upper))
}

fn no_exact_points(mapping: &FieldMapping) -> crate::error::Error {
    invalid(format!(
        "failed to create query: Geometry fields do not support exact searching, use dedicated \
         geometry queries instead: [{}]",
        mapping.path
    ))
}

/// The address that a scalar is.
pub(super) fn address(scalar: &Scalar) -> Result<Ipv6Addr> {
    let text = text(scalar);
    ip::read(&text).ok_or_else(|| {
        let text = shortened(&text);
        invalid(format!("failed to create query: '{text}' is not an IP string literal."))
    })
}

/// The term of an exact value; `None` where no document can have it. Not for dates, which are
/// intervals, and of a text as its column has it.
pub(super) fn exact_term(
    field: Field,
    mapping: &FieldMapping,
    scalar: &Scalar,
) -> Result<Option<Term>> {
    let term = match mapping.kind.storage() {
        Storage::Text => Some(Term::from_field_text(field, &text(scalar))),
        Storage::Bool => Some(Term::from_field_bool(field, boolean(scalar)?)),
        Storage::F64 => Some(Term::from_field_f64(field, number(scalar)?.to_f64())),
        Storage::I64 => match number(scalar)? {
            Number::Whole(value) => {
                i64::try_from(value).ok().map(|value| Term::from_field_i64(field, value))
            }
            Number::Fraction(_) => None,
        },
        Storage::U64 => match number(scalar)? {
            Number::Whole(value) => {
                u64::try_from(value).ok().map(|value| Term::from_field_u64(field, value))
            }
            Number::Fraction(_) => None,
        },
        Storage::Ip => Some(Term::from_field_text(field, &ip::term(address(scalar)?))),
        Storage::Point => return Err(no_exact_points(mapping)),
        Storage::Date | Storage::Span => None,
    };
    Ok(term)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_elasticsearch_reads_them() {
        let read = |text: &str| number(&Scalar::Text(text.into())).ok();
        let cases = [
            ("5", Some(Number::Whole(5))),
            ("5.0", Some(Number::Whole(5))),
            ("-2.5", Some(Number::Fraction(-2.5))),
            ("1e3", Some(Number::Whole(1000))),
            ("18446744073709551615", Some(Number::Whole(18_446_744_073_709_551_615))),
            ("foo", None),
            ("", None),
            ("NaN", None),
        ];
        for (text, expected) in cases {
            assert_eq!(read(text), expected, "{text}");
        }
        let message = number(&Scalar::Text("foo".into())).unwrap_err();
        assert_eq!(message.message(), "failed to create query: For input string: \"foo\"");
    }

    #[test]
    fn intervals_of_whole_numbers() {
        let whole = |value: i128| Number::Whole(value);
        let interval = |lower, upper| whole_interval(lower, upper, -10, 10);
        assert_eq!(interval(None, None), Some((-10, 10)));
        assert_eq!(interval(Some((whole(3), true)), None), Some((3, 10)));
        assert_eq!(interval(Some((whole(3), false)), None), Some((4, 10)));
        assert_eq!(interval(Some((Number::Fraction(3.5), false)), None), Some((4, 10)));
        assert_eq!(interval(None, Some((Number::Fraction(3.5), false))), Some((-10, 3)));
        assert_eq!(interval(None, Some((Number::Fraction(-3.5), true))), Some((-10, -4)));
        assert_eq!(interval(Some((whole(11), true)), None), None);
        assert_eq!(interval(Some((whole(3), false)), Some((whole(4), false))), None);
        assert_eq!(interval(Some((Number::Fraction(f64::INFINITY), true)), None), None);
        assert_eq!(interval(None, Some((Number::Fraction(f64::INFINITY), true))), Some((-10, 10)));
    }
}
