//! `_mapping/field`: the definitions of fields, one by one.

use std::sync::Arc;

use axum::extract::{Path, State};
use egret_engine::catalog::pattern::matches;
use serde_json::{Map, Value, json};

use super::index::{PATIENCE, patience};
use super::targets;
use crate::app::App;
use crate::error::Result;
use crate::http::{Call, Reply};

pub(super) async fn read_all(
    State(app): State<Arc<App>>,
    Path(fields): Path<String>,
    call: Call,
) -> Result<Reply> {
    show(&app, &call, "_all", &fields)
}

pub(super) async fn read(
    State(app): State<Arc<App>>,
    Path((expression, fields)): Path<(String, String)>,
    call: Call,
) -> Result<Reply> {
    show(&app, &call, &expression, &fields)
}

fn show(app: &App, call: &Call, expression: &str, fields: &str) -> Result<Reply> {
    let known = ["include_defaults", "local"];
    call.params.allow(&[PATIENCE, targets::PARAMS, &known].concat())?;
    patience(&call.params)?;
    let with_defaults = call.params.is_true("include_defaults")?;
    let wanted = |path: &str| fields.split(',').any(|pattern| matches(pattern, path));
    let mut all = Map::new();
    for (name, _) in targets::shown(app, expression, &call.params)? {
        let mapping = app.engine.mapping(&name)?;
        let json = mapping.to_json();
        let mut found = Map::new();
        for field in mapping.fields().iter().filter(|field| wanted(&field.path)) {
            let (Some(mut definition), Some(leaf)) =
                (definition(&json, &field.path), field.path.rsplit('.').next())
            else {
                continue;
            };
            if let Value::Object(definition) = &mut definition
                && with_defaults
                && definition.get("type").is_some_and(|kind| kind == "text")
            {
                // The index's own, as nobody has named another.
                definition.entry("analyzer").or_insert_with(|| "default".into());
            }
            let shown = json!({"full_name": field.path, "mapping": {leaf: definition}});
            found.insert(field.path.clone(), shown);
        }
        all.insert(name, json!({"mappings": found}));
    }
    Ok(Reply::ok(&all))
}

/// What a mapping says of the field of a path.
fn definition(mapping: &Value, path: &str) -> Option<Value> {
    let mut at = mapping;
    for part in path.split('.') {
        let below = |key: &str| at.get(key).and_then(|fields| fields.get(part));
        at = below("properties").or_else(|| below("fields"))?;
    }
    Some(at.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_in_objects_and_below_fields() {
        let mapping = json!({"properties": {"a": {"properties": {
            "b": {"type": "text", "fields": {"raw": {"type": "keyword"}}},
        }}}});
        let kind = |path| definition(&mapping, path).map(|field| field["type"].clone());
        assert_eq!(kind("a.b"), Some(json!("text")));
        assert_eq!(kind("a.b.raw"), Some(json!("keyword")));
        assert_eq!(kind("a.c"), None);
    }
}
