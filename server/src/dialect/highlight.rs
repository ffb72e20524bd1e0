//! `highlight`.

use egret_engine::search::request::{Highlight, HighlightOptions};
use serde_json::{Map, Value};

use super::json::Field;
use super::query::QueryReader;
use crate::error::{Error, Result};

/// A field may ask for so many fragments, or characters of one.
const MAX_FRAGMENT: usize = 1_000_000;

/// Reads `{"fields": …}` with options for all fields beside it.
pub(crate) fn read(reader: &mut QueryReader<'_>, value: &Value) -> Result<Highlight> {
    let object = Field::new("highlight", "highlight", value).object()?;
    let mut defaults = HighlightOptions::default();
    for (key, value) in object.iter().filter(|(key, _)| *key != "fields") {
        read_option(reader, &Field::new("highlight", key, value), &mut defaults, "highlight")?;
    }
    let mut fields = Vec::new();
    if let Some(value) = object.get("fields") {
        read_fields(reader, value, &defaults, &mut fields)?;
    }
    Ok(Highlight { fields })
}

/// An object, or an array of objects with one field each.
fn read_fields(
    reader: &mut QueryReader<'_>,
    value: &Value,
    defaults: &HighlightOptions,
    fields: &mut Vec<(String, HighlightOptions)>,
) -> Result<()> {
    match value {
        Value::Object(object) => {
            for (name, options) in object {
                let options = Field::new("highlight_field", name, options).object()?;
                fields.push((name.clone(), field_options(reader, options, defaults)?));
            }
            Ok(())
        }
        Value::Array(elements) => elements.iter().try_for_each(|element| match element {
            Value::Object(_) => read_fields(reader, element, defaults, fields),
            other => Err(Field::new("highlight", "fields", other).misplaced()),
        }),
        other => Err(Field::new("highlight", "fields", other).misplaced()),
    }
}

fn field_options(
    reader: &mut QueryReader<'_>,
    object: &Map<String, Value>,
    defaults: &HighlightOptions,
) -> Result<HighlightOptions> {
    let mut options = defaults.clone();
    for (key, value) in object {
        let field = Field::new("highlight_field", key, value);
        read_option(reader, &field, &mut options, "highlight_field")?;
    }
    Ok(options)
}

fn read_option(
    reader: &mut QueryReader<'_>,
    field: &Field<'_>,
    options: &mut HighlightOptions,
    place: &str,
) -> Result<()> {
    let bounded = |count: usize| {
        if count > MAX_FRAGMENT {
            Err(field.wrong("within the maximum of 1000000"))
        } else {
            Ok(count)
        }
    };
    match field.key {
        "pre_tags" => options.pre_tag = one_tag(field)?,
        "post_tags" => options.post_tag = one_tag(field)?,
        "fragment_size" => options.fragment_size = bounded(field.count()?)?,
        "number_of_fragments" => options.number_of_fragments = bounded(field.count()?)?,
        "no_match_size" => options.no_match_size = bounded(field.count()?)?,
        "require_field_match" => options.require_field_match = field.boolean()?,
        "encoder" => options.encode_html = one_of(field, &["default", "html"])? == "html",
        "highlight_query" => options.query = Some(reader.query(field.value)?),
        // One highlighter; fragments end where it finds a sentence's or word's end.
        "type" => drop(one_of(field, &["unified"])?),
        "order" => drop(one_of(field, &["none"])?),
        _ => {
            return Err(Error::content(format!("[{place}] unknown field [{}]", field.key)));
        }
    }
    Ok(())
}

fn one_of(field: &Field<'_>, known: &[&str]) -> Result<String> {
    let text = field.text()?;
    if known.contains(&text.as_str()) {
        return Ok(text);
    }
    Err(Error::argument(format!(
        "[highlight] [{}] supports only [{}], but not [{text}]",
        field.key,
        known.join(", ")
    )))
}

/// Several tags mark matches by importance in another highlighter only.
fn one_tag(field: &Field<'_>) -> Result<String> {
    let mut tags = field.texts()?;
    match tags.len() {
        1 => Ok(tags.swap_remove(0)),
        count => Err(Error::argument(format!(
            "[highlight] [{}] supports one tag, found [{count}]",
            field.key
        ))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::dialect::query::NoFields;

    #[test]
    fn options_of_a_field_go_before_those_of_all() {
        let json = json!({"pre_tags": ["<b>"], "post_tags": "</b>", "fragment_size": 50,
            "fields": {"a": {}, "b*": {"fragment_size": 10, "number_of_fragments": 0}}});
        let highlight = read(&mut QueryReader::new(&NoFields), &json).unwrap();
        let base = HighlightOptions {
            pre_tag: "<b>".into(),
            post_tag: "</b>".into(),
            fragment_size: 50,
            ..HighlightOptions::default()
        };
        let second = HighlightOptions { fragment_size: 10, number_of_fragments: 0, ..base.clone() };
        assert_eq!(highlight.fields, [("a".into(), base), ("b*".into(), second)]);
    }

    #[test]
    fn unknown_options_are_refused() {
        let check = |json: Value, reason: &str| {
            let error = read(&mut QueryReader::new(&NoFields), &json).unwrap_err();
            assert_eq!(error.reason(), reason);
        };
        check(json!({"fields": {"a": {"x": 1}}}), "[highlight_field] unknown field [x]");
        check(json!({"x": 1}), "[highlight] unknown field [x]");
        check(json!({"type": "fvh"}), "[highlight] [type] supports only [unified], but not [fvh]");
        check(
            json!({"pre_tags": ["a", "b"]}),
            "[highlight] [pre_tags] supports one tag, found [2]",
        );
    }
}
