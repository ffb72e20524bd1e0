//! Templates: bodies of `_index_template`, `_component_template` and `_template`.

use egret_engine::catalog::{ComponentTemplate, IndexTemplate, LegacyTemplate, Template};
use serde_json::{Map, Value};

use super::alias;
use super::json::{Field, did_you_mean};
use crate::error::{Error, Result};

/// Reads what an index begins with.
fn template(field: &Field<'_>) -> Result<Template> {
    let mut template = Template::default();
    for (key, value) in field.object()? {
        let own = Field::new("template", key, value);
        match key.as_str() {
            "settings" => template.settings = value.clone(),
            "mappings" => template.mappings = mappings(&own)?,
            "aliases" => template.aliases = Some(alias::read_all(&own)?),
            _ => return Err(unknown("template", key, &["aliases", "mappings", "settings"])),
        }
    }
    Ok(template)
}

/// A mapping: its fields are read where it is used.
fn mappings(field: &Field<'_>) -> Result<Value> {
    match field.value {
        Value::Null | Value::Object(_) => Ok(field.value.clone()),
        _ => Err(field.misplaced()),
    }
}

/// Reads a component template.
pub(crate) fn component(body: &Map<String, Value>) -> Result<ComponentTemplate> {
    let mut read = ComponentTemplate::default();
    let mut given = false;
    for (key, value) in body {
        let field = Field::new("component_template", key, value);
        match key.as_str() {
            "template" => {
                read.template = template(&field)?;
                given = true;
            }
            "version" => read.version = Some(field.integer()?),
            "_meta" => read.meta = Some(Value::Object(field.object()?.clone())),
            _ => return Err(unknown("component_template", key, &["_meta", "template", "version"])),
        }
    }
    if !given {
        return Err(Error::argument("Required [template]"));
    }
    Ok(read)
}

/// Reads an index template.
pub(crate) fn index(body: &Map<String, Value>) -> Result<IndexTemplate> {
    const KEYS: &[&str] = &[
        "_meta",
        "composed_of",
        "ignore_missing_component_templates",
        "index_patterns",
        "priority",
        "template",
        "version",
    ];
    let mut read = IndexTemplate::default();
    for (key, value) in body {
        let field = Field::new("index_template", key, value);
        match key.as_str() {
            "index_patterns" => read.index_patterns = field.texts()?,
            "template" => read.template = Some(template(&field)?),
            "composed_of" => read.composed_of = field.texts()?,
            "ignore_missing_component_templates" => {
                read.ignore_missing_component_templates = field.texts()?;
            }
            "priority" => read.priority = Some(field.count()? as u64),
            "version" => read.version = Some(field.integer()?),
            "_meta" => read.meta = Some(Value::Object(field.object()?.clone())),
            _ => return Err(unknown("index_template", key, KEYS)),
        }
    }
    if read.index_patterns.is_empty() {
        return Err(Error::argument("Required [index_patterns]"));
    }
    Ok(read)
}

/// Reads a template of the older kind.
pub(crate) fn legacy(body: &Map<String, Value>) -> Result<LegacyTemplate> {
    const KEYS: &[&str] =
        &["aliases", "index_patterns", "mappings", "order", "settings", "version"];
    let mut read = LegacyTemplate::default();
    for (key, value) in body {
        let field = Field::new("template", key, value);
        match key.as_str() {
            "index_patterns" => read.index_patterns = field.texts()?,
            "order" => read.order = field.integer()?,
            "version" => read.version = Some(field.integer()?),
            "settings" => read.settings = value.clone(),
            "mappings" => read.mappings = mappings(&field)?,
            "aliases" => read.aliases = alias::read_all(&field)?,
            _ => return Err(unknown("put_template", key, KEYS)),
        }
    }
    if read.index_patterns.is_empty() {
        return Err(Error::validation("index patterns are missing"));
    }
    Ok(read)
}

fn unknown(object: &str, key: &str, known: &[&str]) -> Error {
    Error::content(format!("[{object}] unknown field [{key}]{}", did_you_mean(key, known)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn bodies_are_read_or_refused_by_name() {
        let body = |value: Value| value.as_object().cloned().unwrap();
        let read = index(&body(json!({
            "index_patterns": "a*", "composed_of": ["c"], "priority": 3,
            "template": {"settings": {"hidden": true}, "aliases": {"x": {}}},
        })));
        let read = read.unwrap();
        assert_eq!((read.index_patterns, read.priority), (vec!["a*".to_owned()], Some(3)));
        assert!(read.template.unwrap().aliases.unwrap().contains_key("x"));
        let refused = |error: Error, expected: &str| {
            assert!(error.reason().contains(expected), "{}", error.reason());
        };
        let stream = json!({"index_patterns": ["a"], "data_stream": {}});
        refused(index(&body(stream)).unwrap_err(), "[data_stream]");
        refused(index(&body(json!({}))).unwrap_err(), "[index_patterns]");
        refused(component(&body(json!({"template": {"x": 1}}))).unwrap_err(), "[x]");
        refused(component(&body(json!({}))).unwrap_err(), "[template]");
        refused(legacy(&body(json!({"order": 1}))).unwrap_err(), "patterns are missing");
        refused(legacy(&body(json!({"template": "a*"}))).unwrap_err(), "[template]");
    }
}
