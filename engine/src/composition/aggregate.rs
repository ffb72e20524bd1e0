//! Counts and sums over the rows of a relation, one row at a time.

use super::Function;
use crate::document::patch::Member;

/// The largest scale at which sums are exact.
const MAX_SCALE: u32 = 30;

/// A value that is being worked out.
#[derive(Debug)]
pub(super) enum Fold<'a> {
    Count(u64),
    Sum(&'a str, Sum),
}

/// A sum of decimals: exact as long as it fits, then a double.
#[derive(Debug, Default)]
pub(super) struct Sum {
    any: bool,
    value: i128,
    scale: u32,
    /// Instead of the exact one, once that has become too large or a number is no decimal.
    double: Option<f64>,
}

impl<'a> Fold<'a> {
    pub(super) fn new(function: &'a Function) -> Self {
        match function {
            Function::Count => Self::Count(0),
            Function::Sum(column) => Self::Sum(column, Sum::default()),
        }
    }

    pub(super) fn add(&mut self, fields: &[Member<'_>]) {
        match self {
            Self::Count(count) => *count += 1,
            Self::Sum(column, sum) => {
                if let Some(field) = fields.iter().find(|field| field.key == *column) {
                    sum.add(field.value);
                }
            }
        }
    }

    /// The result as JSON.
    pub(super) fn result(&self) -> String {
        match self {
            Self::Count(count) => count.to_string(),
            Self::Sum(_, sum) => sum.result(),
        }
    }
}

impl Sum {
    fn add(&mut self, number: &str) {
        if number == "null" {
            return;
        }
        self.any = true;
        let exact = if self.double.is_none() { self.exactly(number) } else { None };
        if let Some((value, scale)) = exact {
            (self.value, self.scale) = (value, scale);
        } else {
            // What is no number at all makes the sum none.
            self.double = Some(self.as_f64() + number.parse().unwrap_or(f64::NAN));
        }
    }

    /// The exact sum with another number.
    fn exactly(&self, number: &str) -> Option<(i128, u32)> {
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let scale = u32::try_from(fraction.len()).ok().filter(|scale| *scale <= MAX_SCALE)?;
        let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
        let largest = scale.max(self.scale);
        let rescaled =
            |value: i128, from: u32| value.checked_mul(10_i128.checked_pow(largest - from)?);
        Some((rescaled(self.value, self.scale)?.checked_add(rescaled(digits, scale)?)?, largest))
    }

    #[expect(clippy::cast_precision_loss, reason = "a double is what is left")]
    fn as_f64(&self) -> f64 {
        self.double.unwrap_or_else(|| self.value as f64 / 10_f64.powf(f64::from(self.scale)))
    }

    fn result(&self) -> String {
        if !self.any {
            return "null".to_owned();
        }
        if let Some(double) = self.double {
            return serde_json::to_string(&double).unwrap_or_else(|_| "null".to_owned());
        }
        if self.scale == 0 {
            return self.value.to_string();
        }
        let sign = if self.value < 0 { "-" } else { "" };
        let width = self.scale as usize + 1;
        let digits = format!("{:0>width$}", self.value.unsigned_abs());
        let (whole, fraction) = digits.split_at(digits.len() - self.scale as usize);
        format!("{sign}{whole}.{fraction}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums() {
        let check = |numbers: &[&str], expected: &str| {
            let mut sum = Sum::default();
            for number in numbers {
                sum.add(number);
            }
            assert_eq!(sum.result(), expected, "{numbers:?}");
        };
        check(&[], "null");
        check(&["null"], "null");
        check(&["1", "null", "2"], "3");
        check(&["0.1", "0.2"], "0.3");
        check(&["1.50", "2"], "3.50");
        check(&["-0.05", "0.01"], "-0.04");
        check(&["-3.5", "1"], "-2.5");
        check(&["1e2", "1"], "101.0");
        check(&["\"NaN\"", "1"], "null");
        check(&[&"9".repeat(38), &"9".repeat(38)], "2e+38");
        check(&["9223372036854775807", "9223372036854775807"], "18446744073709551614");
    }
}
