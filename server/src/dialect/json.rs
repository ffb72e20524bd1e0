//! Strict JSON: bodies are parsed once, into values whose objects never repeat a key, and read
//! with errors that name the place.

use std::fmt;

use egret_engine::query::ast::Scalar;
use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::error::{Error, Result};

/// Parses a body. Nesting is limited to 128 by the parser.
pub(crate) fn parse(body: &[u8]) -> Result<Value> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    let value = Strict.deserialize(&mut reader).map_err(|error| syntax(&error))?;
    reader.end().map_err(|error| syntax(&error))?;
    Ok(value)
}

/// Parses a body that must be an object; an empty one stands for an empty object.
pub(crate) fn parse_object(body: &[u8]) -> Result<Map<String, Value>> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Map::new());
    }
    match parse(body)? {
        Value::Object(object) => Ok(object),
        other => {
            Err(Error::parsing(format!("Expected [START_OBJECT] but found [{}]", token(&other))))
        }
    }
}

fn syntax(error: &serde_json::Error) -> Error {
    let text = error.to_string();
    let message = text.split(" at line ").next().unwrap_or(&text);
    Error::content(format!("[{}:{}] {message}", error.line(), error.column()))
}

struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        while let Some(element) = elements.next_element_seed(Strict)? {
            array.push(element);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if object.contains_key(&key) {
                return Err(serde::de::Error::custom(format_args!("Duplicate field '{key}'")));
            }
            let value = entries.next_value_seed(Strict)?;
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

/// What Elasticsearch calls the token that a value begins with.
pub(crate) fn token(value: &Value) -> &'static str {
    match value {
        Value::Null => "VALUE_NULL",
        Value::Bool(_) => "VALUE_BOOLEAN",
        Value::Number(_) => "VALUE_NUMBER",
        Value::String(_) => "VALUE_STRING",
        Value::Array(_) => "START_ARRAY",
        Value::Object(_) => "START_OBJECT",
    }
}

/// One option of a clause: its value, its name and the clause, for errors.
#[derive(Clone, Copy)]
pub(crate) struct Field<'a> {
    pub(crate) clause: &'a str,
    pub(crate) key: &'a str,
    pub(crate) value: &'a Value,
}

impl<'a> Field<'a> {
    pub(crate) fn new(clause: &'a str, key: &'a str, value: &'a Value) -> Self {
        Self { clause, key, value }
    }

    /// This option is not one that the clause has.
    pub(crate) fn unknown(&self) -> Error {
        Error::parsing(format!("[{}] query does not support [{}]", self.clause, self.key))
    }

    /// This option's value is of a wrong type.
    pub(crate) fn misplaced(&self) -> Error {
        let Self { clause, key, value } = self;
        Error::parsing(format!("[{clause}] unknown token [{}] after [{key}]", token(value)))
    }

    /// This option's value is wrong.
    pub(crate) fn wrong(&self, expected: &str) -> Error {
        let Self { clause, key, value } = self;
        let shown = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        Error::argument(format!("[{clause}] failed to parse [{key}]: [{shown}] is not {expected}"))
    }

    pub(crate) fn object(&self) -> Result<&'a Map<String, Value>> {
        self.value.as_object().ok_or_else(|| self.misplaced())
    }

    pub(crate) fn array(&self) -> Result<&'a Vec<Value>> {
        self.value.as_array().ok_or_else(|| self.misplaced())
    }

    /// A string; numbers and booleans give their text.
    pub(crate) fn text(&self) -> Result<String> {
        match self.value {
            Value::String(text) => Ok(text.clone()),
            Value::Number(number) => Ok(number.to_string()),
            Value::Bool(value) => Ok(value.to_string()),
            _ => Err(self.misplaced()),
        }
    }

    /// A string, or an array of strings.
    pub(crate) fn texts(&self) -> Result<Vec<String>> {
        match self.value {
            Value::Array(values) => {
                values.iter().map(|value| Self { value, ..*self }.text()).collect()
            }
            _ => Ok(vec![self.text()?]),
        }
    }

    /// A boolean, or its text.
    pub(crate) fn boolean(&self) -> Result<bool> {
        match self.value {
            Value::Bool(value) => Ok(*value),
            Value::String(text) if text == "true" => Ok(true),
            Value::String(text) if text == "false" => Ok(false),
            Value::String(_) | Value::Number(_) => Err(self.wrong("a boolean")),
            _ => Err(self.misplaced()),
        }
    }

    /// A finite number, or its text.
    pub(crate) fn float(&self) -> Result<f64> {
        let number = match self.value {
            Value::Number(number) => number.as_f64(),
            Value::String(text) => text.trim().parse().ok(),
            _ => return Err(self.misplaced()),
        };
        number.filter(|number| number.is_finite()).ok_or_else(|| self.wrong("a number"))
    }

    /// A whole number, or its text.
    pub(crate) fn integer(&self) -> Result<i64> {
        let number = match self.value {
            Value::Number(number) => number.as_i64().or_else(|| whole(number.as_f64()?)),
            Value::String(text) => text.trim().parse().ok(),
            _ => return Err(self.misplaced()),
        };
        number.ok_or_else(|| self.wrong("a whole number"))
    }

    /// A whole number from 0, or its text.
    pub(crate) fn count(&self) -> Result<usize> {
        let number = self.integer()?;
        usize::try_from(number).map_err(|_| {
            let Self { clause, key, .. } = self;
            Error::argument(format!("[{clause}] [{key}] cannot be negative, found [{number}]"))
        })
    }

    /// A score factor: a number that is not negative.
    pub(crate) fn boost(&self) -> Result<f32> {
        let boost = self.float()?;
        if boost.is_sign_negative() && boost != 0.0 {
            let clause = self.clause;
            return Err(Error::argument(format!(
                "negative [boost] are not allowed in [{clause}], found [{boost}]"
            )));
        }
        #[expect(clippy::cast_possible_truncation, reason = "scores are f32, as Lucene's")]
        let boost = boost as f32;
        if boost.is_finite() { Ok(boost) } else { Err(self.wrong("a number")) }
    }

    /// A value that is no object, array or null.
    pub(crate) fn scalar(&self) -> Result<Scalar> {
        scalar(self.value).ok_or_else(|| self.misplaced())
    }
}

/// A value that is no object, array or null.
pub(crate) fn scalar(value: &Value) -> Option<Scalar> {
    match value {
        Value::Bool(value) => Some(Scalar::Bool(*value)),
        Value::String(text) => Some(Scalar::Text(text.clone())),
        Value::Number(number) => number
            .as_i64()
            .map(Scalar::I64)
            .or_else(|| number.as_u64().map(Scalar::U64))
            .or_else(|| number.as_f64().map(Scalar::F64)),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// A float without a fraction as a whole number, where it is exact.
fn whole(number: f64) -> Option<i64> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    #[expect(clippy::cast_possible_truncation, reason = "exact within this interval")]
    let exact = || number as i64;
    (number.fract() == 0.0 && number.abs() <= EXACT).then(exact)
}

/// Of `known` the names that are close to `name`, in Elasticsearch's words: ` did you mean [a]?`
/// or nothing.
pub(crate) fn did_you_mean(name: &str, known: &[&str]) -> String {
    let mut close: Vec<(usize, &str)> = known
        .iter()
        .map(|candidate| (distance(name, candidate), *candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len().min(name.len()) / 4)
        .collect();
    close.sort_unstable();
    match close.as_slice() {
        [] => String::new(),
        [(_, only)] => format!(" did you mean [{only}]?"),
        several => {
            let names: Vec<&str> = several.iter().take(5).map(|(_, name)| *name).collect();
            format!(" did you mean any of [{}]?", names.join(", "))
        }
    }
}

/// Levenshtein's distance; a name past 64 bytes is far from everything.
fn distance(left: &str, right: &str) -> usize {
    if left.len() > 64 || right.len() > 64 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=right.chars().count()).collect();
    for (i, a) in left.chars().enumerate() {
        let mut diagonal = i;
        let mut last = i + 1;
        for (cell, b) in row.iter_mut().skip(1).zip(right.chars()) {
            let above = *cell;
            *cell = (diagonal + usize::from(a != b)).min(above + 1).min(last + 1);
            diagonal = above;
            last = *cell;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bodies_that_are_no_json_are_refused_with_their_place() {
        let check = |body: &str, reason: &str| {
            assert_eq!(parse(body.as_bytes()).unwrap_err().reason(), reason, "{body}");
        };
        check("{", "[1:1] EOF while parsing an object");
        check("{\"a\":1,\n\"a\":2}", "[2:3] Duplicate field 'a'");
        check("{} x", "[1:4] trailing characters");
        check("{\"a\":{\"b\":1,\"b\":1}}", "[1:15] Duplicate field 'b'");
        check("{\"a\":1e999}", "[1:10] number out of range");
        assert!(parse("[".repeat(1000).as_bytes()).is_err());
        assert!(parse(b"\xff").is_err());
    }

    #[test]
    fn names_close_by_are_offered() {
        let known = ["match", "match_all", "term", "terms"];
        assert_eq!(did_you_mean("mach", &known), " did you mean [match]?");
        assert_eq!(did_you_mean("termz", &known), " did you mean any of [term, terms]?");
        assert_eq!(did_you_mean("xyz", &known), "");
    }

    proptest! {
        #[test]
        fn strict_parsing_equals_serde_json_where_no_key_repeats(value in arbitrary_json()) {
            let body = serde_json::to_vec(&value).unwrap();
            prop_assert_eq!(parse(&body).unwrap(), value);
        }

        #[test]
        fn no_bytes_panic(body in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = parse(&body);
        }
    }

    fn arbitrary_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            ".*".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                proptest::collection::btree_map(".{0,4}", inner, 0..5)
                    .prop_map(|entries| Value::Object(entries.into_iter().collect())),
            ]
        })
    }
}
