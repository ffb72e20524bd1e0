//! Ranges as values: `integer_range` to `ip_range`, and the terms that they are in the index.
//!
//! A term is the first value and the last, both included, in as many hexadecimal digits as keep their
//! order. So terms are in the order of where ranges begin, and a range is compared with another as text.

use serde_json::{Map, Value};
use tantivy::{f64_to_u64, i64_to_u64};

use super::date::{self, Reading};
use super::field::{FieldKind, FieldMapping, FieldValue, Storage};
use super::ip;
use super::value::{Raw, convert, shortened};

/// The first and the last value of a range, as numbers in the values' order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) first: u128,
    pub(crate) last: u128,
}

/// What ranges of a kind are of; `None` for all other kinds.
pub(crate) fn element(kind: FieldKind) -> Option<FieldKind> {
    Some(match kind {
        FieldKind::IntegerRange => FieldKind::Integer,
        FieldKind::LongRange => FieldKind::Long,
        FieldKind::FloatRange => FieldKind::Float,
        FieldKind::DoubleRange => FieldKind::Double,
        FieldKind::DateRange => FieldKind::Date,
        FieldKind::IpRange => FieldKind::Ip,
        _ => return None,
    })
}

/// A range's kind, and how its values are read.
pub(crate) struct Spans {
    element: FieldMapping,
}

impl Spans {
    /// Of a field; `None` where its values are no ranges.
    pub(crate) fn of(field: &FieldMapping) -> Option<Self> {
        let mut values = FieldMapping::new(field.path.clone(), element(field.kind)?);
        values.coerce = field.coerce;
        values.format.clone_from(&field.format);
        Some(Self { element: values })
    }

    /// The digits of one end.
    fn width(&self) -> usize {
        if self.element.kind == FieldKind::Ip { 32 } else { 16 }
    }

    /// A range's term.
    pub(crate) fn term(&self, span: Span) -> String {
        let width = self.width();
        format!("{:0width$x}{:0width$x}", span.first, span.last)
    }

    /// The digits of a value.
    pub(crate) fn digits(&self, value: u128) -> String {
        let width = self.width();
        format!("{value:0width$x}")
    }

    /// The least and the greatest value.
    pub(crate) fn all(&self) -> Span {
        let ends = |first: u64, last: u64| Span { first: first.into(), last: last.into() };
        match self.element.kind {
            FieldKind::Integer => ends(i64_to_u64(i32::MIN.into()), i64_to_u64(i32::MAX.into())),
            FieldKind::Date => {
                ends(i64_to_u64(*date::MICROS.start()), i64_to_u64(*date::MICROS.end()))
            }
            FieldKind::Float | FieldKind::Double => {
                ends(f64_to_u64(f64::NEG_INFINITY), f64_to_u64(f64::INFINITY))
            }
            FieldKind::Ip => Span { first: 0, last: u128::MAX },
            _ => ends(u64::MIN, u64::MAX),
        }
    }

    /// The values that a text or number stands for: one, or a date's whole day.
    pub(crate) fn value(&self, raw: Raw<'_>) -> Result<Span, String> {
        if self.element.kind == FieldKind::Date {
            let (first, last) = (self.date(raw, false)?, self.date(raw, true)?);
            return Ok(Span { first, last });
        }
        let value = convert(&self.element, raw)?.ok_or("an empty text is no value")?;
        let key = key(&value, self.element.kind.storage()).ok_or("no value of a range")?;
        Ok(Span { first: key, last: key })
    }

    fn date(&self, raw: Raw<'_>, round_up: bool) -> Result<u128, String> {
        let text = raw.as_str();
        let format = &self.element.format;
        let reading = Reading { round_up, ..Reading::default() };
        let micros = format.read(text, &reading).and_then(date::in_range).ok_or_else(|| {
            let text = shortened(text);
            format!("failed to parse date field [{text}] with format [{format}]")
        })?;
        Ok(i64_to_u64(micros).into())
    }

    /// Reads `{"gte": …, "lt": …}`, or of addresses a network; `None` where no value lies within.
    pub(crate) fn read(&self, raw: Raw<'_>) -> Result<Option<Span>, String> {
        match raw {
            Raw::Json(text) => {
                let object: Map<String, Value> = serde_json::from_str(text)
                    .map_err(|_| "a range is an object with its ends".to_owned())?;
                self.of_object(&object)
            }
            Raw::Text(text) if self.element.kind == FieldKind::Ip => {
                let network = ip::read_network(text);
                let ends = network.or_else(|| ip::read(text).map(|address| (address, address)));
                let (first, last) = ends.ok_or_else(|| {
                    format!("'{}' is not an IP network nor an address", shortened(text))
                })?;
                Ok(Some(Span { first: first.into(), last: last.into() }))
            }
            _ => Err("a range is an object with its ends".to_owned()),
        }
    }

    fn of_object(&self, object: &Map<String, Value>) -> Result<Option<Span>, String> {
        let Span { mut first, mut last } = self.all();
        for (name, value) in object {
            let number;
            let raw = match value {
                Value::Null => continue,
                Value::String(text) => Raw::Text(text),
                Value::Number(value) => {
                    number = value.to_string();
                    Raw::Number(&number)
                }
                other => return Err(format!("[{name}] of a range is no value: {other}")),
            };
            let at = self.value(raw)?;
            let (end, value) = match name.as_str() {
                "gte" => (&mut first, Some(at.first)),
                "gt" => (&mut first, at.last.checked_add(1)),
                "lte" => (&mut last, Some(at.last)),
                "lt" => (&mut last, at.first.checked_sub(1)),
                _ => return Err(format!("error parsing field, unknown parameter [{name}]")),
            };
            let Some(value) = value else { return Ok(None) };
            *end = value;
        }
        Ok((first <= last).then_some(Span { first, last }))
    }
}

/// A value's place in the order of values.
fn key(value: &FieldValue, storage: Storage) -> Option<u128> {
    Some(match value {
        FieldValue::I64(value) => i64_to_u64(*value).into(),
        // One zero.
        FieldValue::F64(value) => f64_to_u64(*value + 0.0).into(),
        FieldValue::Text(term) if storage == Storage::Ip => ip::of_term(term)?.into(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    use serde_json::json;

    use super::*;
    use crate::query::ast::{Query, Range, Relation, Scalar};
    use crate::search::request::SearchRequest;
    use crate::search::{fixture, search};

    fn read(kind: FieldKind, value: &Value) -> Result<Option<Span>, String> {
        let spans = Spans::of(&FieldMapping::new("x", kind)).unwrap();
        let text = value.to_string();
        match value {
            Value::String(text) => spans.read(Raw::Text(text)),
            Value::Number(_) => spans.read(Raw::Number(&text)),
            _ => spans.read(Raw::Json(&text)),
        }
    }

    #[test]
    fn ends_are_included_or_not() {
        use FieldKind::{DateRange, DoubleRange, IntegerRange, IpRange, LongRange};
        let same = |kind, left: Value, right: Value| {
            assert_eq!(read(kind, &left).unwrap(), read(kind, &right).unwrap(), "{left} {right}");
            assert!(read(kind, &left).unwrap().is_some(), "{left}");
        };
        let none = |kind, value: Value| assert_eq!(read(kind, &value), Ok(None), "{value}");
        same(IntegerRange, json!({"gt": 1, "lt": 5}), json!({"gte": 2, "lte": 4}));
        same(IntegerRange, json!({}), json!({"gte": i32::MIN, "lte": i32::MAX, "lt": null}));
        same(LongRange, json!({"gte": "7"}), json!({"gt": 6, "lte": i64::MAX}));
        same(DateRange, json!({"lte": "2024-02"}), json!({"lt": "2024-02-02"}));
        same(DateRange, json!({"gt": "2024-02"}), json!({"gte": "2024-02-02"}));
        same(IpRange, json!("10.0.0.0/8"), json!({"gte": "10.0.0.0", "lt": "11.0.0.0"}));
        same(IpRange, json!("10.0.0.1"), json!({"gte": "10.0.0.1", "lte": "10.0.0.1"}));
        same(DoubleRange, json!({"gte": -0.0}), json!({"gte": 0}));
        none(IntegerRange, json!({"gt": 1, "lt": 2}));
        none(IntegerRange, json!({"gt": i32::MAX}));
        none(LongRange, json!({"gt": i64::MAX}));
        none(LongRange, json!({"lt": i64::MIN}));
        none(DoubleRange, json!({"gt": 1, "lt": 1}));
        none(IpRange, json!({"gt": "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"}));
        for (kind, wrong) in [
            (IntegerRange, json!({"gte": 3_000_000_000_u64})),
            (IntegerRange, json!({"from": 1})),
            (IntegerRange, json!({"gte": true})),
            (IntegerRange, json!({"gte": "x"})),
            (IntegerRange, json!({"gte": ""})),
            (IntegerRange, json!("1-2")),
            (IntegerRange, json!(5)),
            (DoubleRange, json!({"gte": "NaN"})),
            (DateRange, json!({"gte": "once"})),
            (IpRange, json!("10.0.0.0/99")),
        ] {
            assert!(read(kind, &wrong).is_err(), "{wrong}");
        }
    }

    /// A range of small numbers, its ends included.
    fn drawn(random: &mut StdRng) -> Ends {
        let first = random.random_range(-20..20);
        let last = first + random.random_range(0..15);
        (random.random_bool(0.9).then_some(first), random.random_bool(0.9).then_some(last))
    }

    /// Numbers, dates, addresses: what they are makes no difference to how they lie.
    fn value(kind: FieldKind, number: i64) -> String {
        match kind {
            FieldKind::DateRange => format!("{:04}-06-01", 1970 + number),
            FieldKind::IpRange => format!("10.0.{}.1", 100 + number),
            FieldKind::DoubleRange | FieldKind::FloatRange => format!("{number}.5"),
            _ => number.to_string(),
        }
    }

    /// A range, its ends included; none where it has no end.
    type Ends = (Option<i64>, Option<i64>);

    fn fits(relation: Relation, (first, last): Ends, (from, to): Ends) -> bool {
        let least = |end: Option<i64>| end.unwrap_or(i64::MIN);
        let most = |end: Option<i64>| end.unwrap_or(i64::MAX);
        match relation {
            Relation::Intersects => least(first) <= most(to) && most(last) >= least(from),
            Relation::Contains => least(first) <= least(from) && most(last) >= most(to),
            Relation::Within => least(first) >= least(from) && most(last) <= most(to),
        }
    }

    fn check(kind: FieldKind, random: &mut StdRng) {
        let ranges = |random: &mut StdRng| -> Vec<Ends> {
            (0..random.random_range(0..3)).map(|_| drawn(random)).collect()
        };
        let all: Vec<Vec<Ends>> = (0..300).map(|_| ranges(random)).collect();
        let object = |&(first, last): &Ends| {
            let mut object = Map::new();
            object.extend(first.map(|it| ("gte".to_owned(), json!(value(kind, it)))));
            object.extend(last.map(|it| ("lte".to_owned(), json!(value(kind, it)))));
            Value::Object(object)
        };
        let document =
            |ranges: &Vec<Ends>| json!({"r": ranges.iter().map(object).collect::<Vec<_>>()});
        let documents: Vec<_> = all.iter().map(document).collect();
        let mapping = json!({"properties": {"r": {"type": kind.name()}}});
        let snapshot = fixture::one_segment(&mapping, &documents);
        for round in 0..60 {
            let asked = drawn(random);
            let relation = [Relation::Intersects, Relation::Contains, Relation::Within][round % 3];
            let end = |end: Option<i64>| end.map(|it| (Scalar::Text(value(kind, it)), true));
            let query = Query::Range(Range {
                field: "r".into(),
                lower: end(asked.0),
                upper: end(asked.1),
                format: None,
                time_zone: None,
                relation,
                boost: 1.0,
            });
            let request = SearchRequest { query, size: 300, ..SearchRequest::default() };
            let hits = search(&[Arc::clone(&snapshot)], &request).unwrap().hits;
            let mut found: Vec<usize> = hits.iter().map(|hit| hit.id.parse().unwrap()).collect();
            found.sort_unstable();
            let has_one = |at: &usize| all[at - 1].iter().any(|ends| fits(relation, *ends, asked));
            let expected: Vec<usize> = (1..=all.len()).filter(has_one).collect();
            assert_eq!(found, expected, "{kind:?} {relation:?} {asked:?}");
        }
    }

    #[test]
    fn ranges_lie_to_one_another_as_a_model_has_them() {
        let mut random = StdRng::seed_from_u64(11);
        for kind in [
            FieldKind::IntegerRange,
            FieldKind::LongRange,
            FieldKind::FloatRange,
            FieldKind::DoubleRange,
            FieldKind::DateRange,
            FieldKind::IpRange,
        ] {
            check(kind, &mut random);
        }
    }
}
