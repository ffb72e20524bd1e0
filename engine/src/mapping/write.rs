//! A mapping as Elasticsearch's JSON: what differs from the defaults.

use serde_json::{Map, Value, json};

use super::date::DateFormat;
use super::{Dynamic, FieldKind, FieldMapping, Mapping, Node, ROOT};

pub(super) fn write(mapping: &Mapping) -> Value {
    let mut root = Map::new();
    if let Some(meta) = &mapping.meta {
        root.insert("_meta".into(), meta.clone());
    }
    if !mapping.date_detection {
        root.insert("date_detection".into(), false.into());
    }
    if mapping.numeric_detection {
        root.insert("numeric_detection".into(), true.into());
    }
    if let Some(composition) = &mapping.composition {
        root.insert("_composition".into(), composition.to_json());
    }
    write_object(mapping, ROOT, &mut root);
    Value::Object(root)
}

fn write_object(mapping: &Mapping, place: usize, json: &mut Map<String, Value>) {
    let Some(object) = mapping.objects.get(place) else { return };
    if let Some(dynamic) = object.dynamic {
        // As Elasticsearch shows it: a text.
        let name = match dynamic {
            Dynamic::True => "true",
            Dynamic::False => "false",
            Dynamic::Strict => "strict",
        };
        json.insert("dynamic".into(), name.into());
    }
    if !object.enabled {
        json.insert("enabled".into(), false.into());
    }
    // An object without fields says that it is one.
    if object.names.is_empty() && place != ROOT {
        json.insert("type".into(), "object".into());
    }
    if object.names.is_empty() {
        return;
    }
    let mut properties = Map::new();
    for name in &object.names {
        let value = match object.children.get(name) {
            Some(Node::Object(child)) => {
                let mut below = Map::new();
                write_object(mapping, *child, &mut below);
                Value::Object(below)
            }
            Some(Node::Field(child)) => write_field(mapping, *child),
            None => continue,
        };
        properties.insert(name.clone(), value);
    }
    json.insert("properties".into(), Value::Object(properties));
}

fn write_field(mapping: &Mapping, place: usize) -> Value {
    let Some(field) = mapping.fields.get(place) else { return Value::Null };
    let mut json = write_parameters(field);
    let multi: Map<String, Value> = field
        .multi_fields
        .iter()
        .filter_map(|place| mapping.fields.get(*place))
        .map(|multi| (multi.name().to_owned(), Value::Object(write_parameters(multi))))
        .collect();
    if !multi.is_empty() {
        json.insert("fields".into(), Value::Object(multi));
    }
    Value::Object(json)
}

fn write_parameters(field: &FieldMapping) -> Map<String, Value> {
    let default = FieldMapping::new("", field.kind);
    let mut json = Map::new();
    json.insert("type".into(), field.kind.name().into());
    let flags = [
        ("index", field.index, default.index),
        ("norms", field.norms, default.norms),
        ("doc_values", field.doc_values, default.doc_values),
        ("coerce", field.coerce, default.coerce),
        ("ignore_malformed", field.ignore_malformed, default.ignore_malformed),
    ];
    for (name, value, default) in flags {
        if value != default {
            json.insert(name.into(), value.into());
        }
    }
    if field.kind == FieldKind::Text {
        // A search analyzer needs the analyzer beside it.
        if field.analyzer != default.analyzer || field.search_analyzer != field.analyzer {
            json.insert("analyzer".into(), json!(field.analyzer));
        }
        if field.search_analyzer != field.analyzer {
            json.insert("search_analyzer".into(), json!(field.search_analyzer));
        }
    }
    if let Some(characters) = field.ignore_above {
        json.insert("ignore_above".into(), json!(characters));
    }
    if let Some(null_value) = &field.null_value {
        json.insert("null_value".into(), null_value.json.clone());
    }
    if !field.copy_to.is_empty() {
        json.insert("copy_to".into(), json!(field.copy_to));
    }
    if matches!(field.kind, FieldKind::Date | FieldKind::DateRange)
        && field.format != DateFormat::default()
    {
        json.insert("format".into(), json!(field.format.to_string()));
    }
    json
}
