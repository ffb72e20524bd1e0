//! `_source`: which parts of a document come back.

use egret_engine::catalog::pattern::matches;
use egret_engine::search::request::SourceFilter;
use serde_json::{Map, Value};

use super::json::{Field, parse};
use super::query::unknown_field;
use crate::error::Result;

/// `true`, `false`, a pattern, several, or `{"includes": …, "excludes": …}`.
pub(crate) fn read(value: &Value) -> Result<SourceFilter> {
    let field = Field::new("_source", "_source", value);
    match value {
        Value::Bool(true) => Ok(SourceFilter::All),
        Value::Bool(false) => Ok(SourceFilter::None),
        Value::Object(object) => read_object(object),
        _ => Ok(paths(field.texts()?, Vec::new())),
    }
}

fn read_object(object: &Map<String, Value>) -> Result<SourceFilter> {
    let (mut includes, mut excludes) = (Vec::new(), Vec::new());
    for (key, value) in object {
        let field = Field::new("_source", key, value);
        match key.as_str() {
            "includes" | "include" => includes = field.texts()?,
            "excludes" | "exclude" => excludes = field.texts()?,
            _ => return Err(unknown_field("_source", key, &["includes", "excludes"])),
        }
    }
    Ok(paths(includes, excludes))
}

/// A filter from what it keeps and leaves out.
pub(crate) fn paths(includes: Vec<String>, excludes: Vec<String>) -> SourceFilter {
    if includes.is_empty() && excludes.is_empty() {
        SourceFilter::All
    } else {
        SourceFilter::Paths { includes, excludes }
    }
}

/// Filters a document's bytes for `_doc`, `_source`, `_mget`; `None`: nothing is to be shown.
pub(crate) fn apply(filter: &SourceFilter, source: &bytes::Bytes) -> Result<Option<bytes::Bytes>> {
    match filter {
        SourceFilter::All => Ok(Some(source.clone())),
        SourceFilter::None => Ok(None),
        SourceFilter::Paths { includes, excludes } => {
            let mut value = parse(source)?;
            if let Value::Object(object) = &mut value {
                prune(object, "", includes, excludes);
            }
            Ok(Some(value.to_string().into_bytes().into()))
        }
    }
}

fn prune(object: &mut Map<String, Value>, prefix: &str, includes: &[String], excludes: &[String]) {
    object.retain(|key, value| {
        let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        if excludes.iter().any(|pattern| covers(pattern, &path)) {
            return false;
        }
        let included = includes.is_empty() || includes.iter().any(|pattern| covers(pattern, &path));
        let inner: &[String] = if included { &[] } else { includes };
        let leads_on = included || includes.iter().any(|pattern| leads_to(pattern, &path));
        if !leads_on {
            return false;
        }
        match value {
            Value::Object(object) => {
                prune(object, &path, inner, excludes);
                included || !object.is_empty()
            }
            Value::Array(elements) => {
                elements.retain_mut(|element| match element {
                    Value::Object(object) => {
                        prune(object, &path, inner, excludes);
                        included || !object.is_empty()
                    }
                    _ => included,
                });
                included || !elements.is_empty()
            }
            _ => included,
        }
    });
}

/// Whether a pattern matches the path or an object above it.
fn covers(pattern: &str, path: &str) -> bool {
    matches(pattern, path) || path.match_indices('.').any(|(at, _)| matches(pattern, &path[..at]))
}

/// Whether a pattern may match something below the path.
fn leads_to(pattern: &str, path: &str) -> bool {
    let head = pattern.split('*').next().unwrap_or_default();
    pattern.strip_prefix(path).is_some_and(|rest| rest.starts_with('.'))
        || (head.len() < pattern.len()
            && (path.starts_with(head) || head.starts_with(&format!("{path}."))))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn sources_are_filtered() {
        let document = json!({"a": 1, "b": {"c": 2, "d": {"e": 3}}, "f": [{"g": 1, "h": 2}, 5]});
        let check = |filter: Value, expected: Value| {
            let filter = read(&filter).unwrap();
            let source = bytes::Bytes::from(document.to_string());
            let found = apply(&filter, &source).unwrap().unwrap();
            assert_eq!(serde_json::from_slice::<Value>(&found).unwrap(), expected);
        };
        check(json!("a"), json!({"a": 1}));
        check(json!(["b.c"]), json!({"b": {"c": 2}}));
        check(json!("b"), json!({"b": {"c": 2, "d": {"e": 3}}}));
        check(json!("b.*"), json!({"b": {"c": 2, "d": {"e": 3}}}));
        check(json!("*.e"), json!({"b": {"d": {"e": 3}}}));
        check(
            json!({"excludes": ["b.d", "f.g"]}),
            json!({"a": 1, "b": {"c": 2}, "f": [{"h": 2}, 5]}),
        );
        check(json!({"includes": "b.*", "excludes": "*.e"}), json!({"b": {"c": 2, "d": {}}}));
        check(json!("f.h"), json!({"f": [{"h": 2}]}));
        assert!(read(&json!({"inclodes": []})).is_err());
    }
}
