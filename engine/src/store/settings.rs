//! An index's settings: which there are, and what they mean.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::error::{Error, ErrorKind, Result};

/// The largest `from + size` of a search unless the index says otherwise.
const MAX_RESULT_WINDOW: u64 = 10_000;

/// When what is written becomes searchable without being asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefreshInterval {
    /// At once when idle; under load as often as its cost allows.
    Adaptive,
    /// At once when idle, but not more often than this.
    AtMostEvery(Duration),
    /// Only when asked for.
    Off,
}

/// When a write is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Before it is acknowledged.
    Request,
    /// Within about five seconds.
    Async,
}

/// The settings of an index.
#[derive(Debug, Clone, PartialEq)]
pub struct IndexSettings {
    /// `index.refresh_interval`.
    pub refresh_interval: RefreshInterval,
    /// `index.translog.durability`.
    pub durability: Durability,
    /// `index.max_result_window`.
    pub max_result_window: u64,
    /// Every setting as it was given, nested below `index`.
    given: Map<String, Value>,
}

impl IndexSettings {
    /// Reads Elasticsearch's format: nested or dotted, with or without `index.`.
    pub fn from_json(settings: &Value) -> Result<Self> {
        let mut flat = Vec::new();
        match settings {
            Value::Null => {}
            Value::Object(_) => flatten(settings, String::new(), &mut flat),
            other => return Err(invalid(format!("settings must be an object, not [{other}]"))),
        }
        let mut read = Self {
            refresh_interval: RefreshInterval::Adaptive,
            durability: Durability::Request,
            max_result_window: MAX_RESULT_WINDOW,
            given: Map::new(),
        };
        for (path, value) in flat {
            let name = path.strip_prefix("index.").unwrap_or(&path);
            read.set(name, &value)?;
            nest(&mut read.given, name, as_text(&value));
        }
        Ok(read)
    }

    fn set(&mut self, name: &str, value: &Value) -> Result<()> {
        let text = match as_text(value) {
            Value::String(text) => text,
            other => return Err(wrong(name, &other.to_string(), "a single value is expected")),
        };
        match name {
            "number_of_shards" => count(name, &text, 1..=1024).map(drop),
            "number_of_replicas" => count(name, &text, 0..=1024).map(drop),
            "max_result_window" => {
                self.max_result_window = count(name, &text, 1..=u64::from(u32::MAX))?;
                Ok(())
            }
            "refresh_interval" => {
                self.refresh_interval = refresh_interval(name, &text)?;
                Ok(())
            }
            "translog.durability" => {
                self.durability = match text.to_ascii_lowercase().as_str() {
                    "request" => Durability::Request,
                    "async" => Durability::Async,
                    _ => return Err(wrong(name, &text, "[request] or [async] is expected")),
                };
                Ok(())
            }
            _ => Err(invalid(format!(
                "unknown setting [index.{name}] please check that any required plugins are \
                 installed, or check the breaking changes documentation for removed settings"
            ))),
        }
    }

    /// The settings nested below `index`, each a text as Elasticsearch gives them, with the number
    /// of shards and replicas that there really are.
    pub fn to_json(&self) -> Value {
        let mut index = self.given.clone();
        index.insert("number_of_shards".to_owned(), json!("1"));
        index.entry("number_of_replicas").or_insert_with(|| json!("0"));
        json!({ "index": index })
    }
}

fn flatten(value: &Value, path: String, flat: &mut Vec<(String, Value)>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                flatten(value, path, flat);
            }
        }
        Value::Null => {}
        other => flat.push((path, other.clone())),
    }
}

fn nest(fields: &mut Map<String, Value>, name: &str, value: Value) {
    match name.split_once('.') {
        Some((first, rest)) => {
            let inner = fields.entry(first).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(inner) = inner {
                nest(inner, rest, value);
            }
        }
        None => {
            fields.insert(name.to_owned(), value);
        }
    }
}

fn as_text(value: &Value) -> Value {
    match value {
        Value::Number(number) => Value::String(number.to_string()),
        Value::Bool(flag) => Value::String(flag.to_string()),
        other => other.clone(),
    }
}

fn count(name: &str, text: &str, range: std::ops::RangeInclusive<u64>) -> Result<u64> {
    let parsed = text.parse::<u64>().map_err(|_| wrong(name, text, "a number is expected"))?;
    if range.contains(&parsed) {
        return Ok(parsed);
    }
    let expected = format!("it must lie between {} and {}", range.start(), range.end());
    Err(wrong(name, text, &expected))
}

fn refresh_interval(name: &str, text: &str) -> Result<RefreshInterval> {
    if text == "-1" {
        return Ok(RefreshInterval::Off);
    }
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = text.get(digits.len()..).unwrap_or_default();
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong(name, text, "a time with its unit is expected, as in [1s]")),
    };
    let ms = digits.parse::<u64>().ok().and_then(|count| count.checked_mul(unit_ms));
    match ms {
        Some(ms) => Ok(RefreshInterval::AtMostEvery(Duration::from_millis(ms))),
        None => Err(wrong(name, text, "a time with its unit is expected, as in [1s]")),
    }
}

fn wrong(name: &str, value: &str, why: &str) -> Error {
    invalid(format!("failed to parse value [{value}] for setting [index.{name}]: {why}"))
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidArgument, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(settings: &Value, expected: &Value) {
        let read = IndexSettings::from_json(settings).unwrap();
        assert_eq!(read.to_json()["index"], *expected, "{settings}");
    }

    #[test]
    fn settings_in_every_form() {
        let none = json!({"number_of_shards": "1", "number_of_replicas": "0"});
        check(&Value::Null, &none);
        check(&json!({}), &none);
        check(
            &json!({"number_of_shards": 5, "index.number_of_replicas": "2"}),
            &json!({
                "number_of_shards": "1", "number_of_replicas": "2",
            }),
        );
        check(
            &json!({"index": {"translog": {"durability": "async"}, "refresh_interval": -1}}),
            &json!({
                "translog": {"durability": "async"}, "refresh_interval": "-1",
                "number_of_shards": "1", "number_of_replicas": "0",
            }),
        );
        let read = |settings| IndexSettings::from_json(&settings).unwrap();
        let interval = read(json!({"index.refresh_interval": "200ms"})).refresh_interval;
        assert_eq!(interval, RefreshInterval::AtMostEvery(Duration::from_millis(200)));
        assert_eq!(read(json!({"refresh_interval": -1})).refresh_interval, RefreshInterval::Off);
    }

    #[test]
    fn what_is_refused() {
        let refused = |settings: Value, expected: &str| {
            let error = IndexSettings::from_json(&settings).unwrap_err();
            assert!(error.message().contains(expected), "{error}");
        };
        refused(json!({"codec": "best"}), "unknown setting [index.codec]");
        refused(json!({"number_of_shards": 0}), "[0] for setting [index.number_of_shards]");
        refused(json!({"refresh_interval": "1"}), "[1] for setting [index.refresh_interval]");
        refused(json!({"translog.durability": "maybe"}), "[maybe]");
        refused(json!({"number_of_replicas": [1]}), "a single value");
        refused(json!([1]), "must be an object");
    }
}
