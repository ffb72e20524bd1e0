//! `sort` and `search_after`.

use egret_engine::search::request::{Distance, Missing, Sort, SortBy, SortMode, SortValue};
use serde_json::{Map, Value};

use super::geo;
use super::json::{Field, scalar};
use crate::error::{Error, Result};

/// A request may sort by so many keys.
const MAX_SORT_KEYS: usize = 64;

/// Reads `"field"`, `{"field": "desc"}`, `{"field": {…}}`, or an array of these. A sort by score
/// alone, best first, is no sort.
pub(crate) fn read(value: &Value) -> Result<Vec<Sort>> {
    let mut keys = Vec::new();
    match value {
        Value::Array(elements) => {
            for element in elements {
                read_element(element, &mut keys)?;
            }
        }
        other => read_element(other, &mut keys)?,
    }
    finish(keys)
}

/// Reads the parameter: `field`, `field:desc`, separated by commas.
pub(crate) fn read_parameter(text: &str) -> Result<Vec<Sort>> {
    let mut keys = Vec::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        match part.rsplit_once(':') {
            Some((field, order @ ("asc" | "desc"))) => {
                keys.push(key(field, Some(order == "desc")));
            }
            Some((_, order)) => {
                return Err(Error::argument(format!("Unknown SortOrder [{order}]")));
            }
            None => keys.push(key(part, None)),
        }
    }
    finish(keys)
}

fn finish(keys: Vec<Sort>) -> Result<Vec<Sort>> {
    if keys.len() > MAX_SORT_KEYS {
        return Err(Error::argument(format!(
            "[sort] has [{}] keys, more than the maximum of [{MAX_SORT_KEYS}]",
            keys.len()
        )));
    }
    match keys.as_slice() {
        [Sort { by: SortBy::Score, descending: true, .. }] => Ok(Vec::new()),
        _ => Ok(keys),
    }
}

fn read_element(value: &Value, keys: &mut Vec<Sort>) -> Result<()> {
    match value {
        Value::String(name) => keys.push(key(name, None)),
        Value::Object(object) => {
            for (name, options) in object {
                keys.push(read_key(name, options)?);
            }
        }
        other => {
            return Err(Error::argument(format!(
                "malformed sort format, within the sort array, an object, or an actual string \
                 are allowed, found [{other}]"
            )));
        }
    }
    Ok(())
}

fn key(name: &str, descending: Option<bool>) -> Sort {
    let by = match name {
        "_score" => SortBy::Score,
        "_doc" => SortBy::Doc,
        "_shard_doc" => SortBy::ShardDoc,
        field => SortBy::Field(field.to_owned()),
    };
    let descending = descending.unwrap_or(by == SortBy::Score);
    Sort { by, descending, missing: Missing::Last, mode: None, unmapped_type: None }
}

fn order(field: &Field<'_>) -> Result<bool> {
    let text = field.text()?;
    match text.to_ascii_lowercase().as_str() {
        "asc" => Ok(false),
        "desc" => Ok(true),
        _ => Err(Error::argument(format!("Unknown SortOrder [{text}]"))),
    }
}

fn read_key(name: &str, value: &Value) -> Result<Sort> {
    let field = Field::new("sort", name, value);
    match value {
        Value::String(_) => Ok(key(name, Some(order(&field)?))),
        Value::Object(options) => read_options(name, options),
        _ => Err(field.misplaced()),
    }
}

fn read_options(name: &str, options: &Map<String, Value>) -> Result<Sort> {
    if name == "_script" {
        return Err(Error::parsing(format!("sort by [{name}] is not supported")));
    }
    if name == "_geo_distance" {
        return by_distance(options);
    }
    let mut sort = key(name, None);
    for (option, value) in options {
        let field = Field::new("field_sort", option, value);
        let of_field = matches!(sort.by, SortBy::Field(_));
        match option.as_str() {
            "order" => sort.descending = order(&field)?,
            "missing" if of_field => sort.missing = missing(&field)?,
            "mode" if of_field => sort.mode = Some(mode(&field)?),
            "unmapped_type" if of_field => sort.unmapped_type = Some(field.text()?),
            _ => {
                return Err(Error::content(format!(
                    "[field_sort] unknown field [{option}] of the sort by [{name}]"
                )));
            }
        }
    }
    Ok(sort)
}

fn by_distance(options: &Map<String, Value>) -> Result<Sort> {
    let (mut from, mut unit, mut ignore_unmapped) = (None, 1.0, false);
    let (mut descending, mut chosen) = (false, None);
    for (option, value) in options {
        let field = Field::new("_geo_distance", option, value);
        match option.as_str() {
            "order" => descending = order(&field)?,
            "mode" => chosen = Some(mode(&field)?),
            "unit" => unit = geo::unit_metres(&field.text()?)?,
            "distance_type" => geo::distance_type(&field)?,
            "ignore_unmapped" => ignore_unmapped = field.boolean()?,
            _ if from.is_some() => return Err(field.unknown()),
            _ => from = Some(geo::distance_from(option, value)?),
        }
    }
    if chosen == Some(SortMode::Sum) {
        return Err(Error::argument("sort_mode [sum] isn't supported for sorting by geo distance"));
    }
    let distance =
        from.ok_or_else(|| Error::parsing("[_geo_distance] requires a field and a point"))?;
    let by = SortBy::Distance(Distance { unit_metres: unit, ignore_unmapped, ..distance });
    Ok(Sort { by, descending, missing: Missing::Last, mode: chosen, unmapped_type: None })
}

fn missing(field: &Field<'_>) -> Result<Missing> {
    match field.value.as_str() {
        Some("_last") => Ok(Missing::Last),
        Some("_first") => Ok(Missing::First),
        _ => field.scalar().map(Missing::Value),
    }
}

fn mode(field: &Field<'_>) -> Result<SortMode> {
    let text = field.text()?;
    match text.to_ascii_lowercase().as_str() {
        "min" => Ok(SortMode::Min),
        "max" => Ok(SortMode::Max),
        "sum" => Ok(SortMode::Sum),
        "avg" => Ok(SortMode::Avg),
        "median" => Ok(SortMode::Median),
        _ => Err(Error::argument(format!("Unknown SortMode [{text}]"))),
    }
}

/// Reads `search_after`.
pub(crate) fn search_after(value: &Value) -> Result<Vec<SortValue>> {
    let field = Field::new("search_after", "search_after", value);
    let read = |value: &Value| {
        use egret_engine::query::ast::Scalar;
        if value.is_null() {
            return Ok(SortValue::Null);
        }
        Ok(match scalar(value) {
            Some(Scalar::Bool(value)) => SortValue::Bool(value),
            Some(Scalar::I64(value)) => SortValue::I64(value),
            Some(Scalar::U64(value)) => SortValue::U64(value),
            Some(Scalar::F64(value)) => SortValue::F64(value),
            Some(Scalar::Text(value)) => SortValue::Text(value),
            None => return Err(Field::new("search_after", "search_after", value).misplaced()),
        })
    };
    let values: Vec<_> = field.array()?.iter().map(read).collect::<Result<_>>()?;
    if values.is_empty() {
        return Err(Error::argument("Values must contains at least one value."));
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use egret_engine::query::ast::Scalar;
    use serde_json::json;

    use super::*;

    #[test]
    fn sorts_are_read() {
        let check = |json: Value, expected: &[Sort]| {
            assert_eq!(read(&json).unwrap(), expected, "{json}");
        };
        check(json!("_score"), &[]);
        check(json!(["a", {"b": "desc"}]), &[key("a", None), key("b", Some(true))]);
        check(
            json!([{"a": {"order": "asc", "missing": 7, "mode": "max", "unmapped_type": "long"}}]),
            &[Sort {
                missing: Missing::Value(Scalar::I64(7)),
                mode: Some(SortMode::Max),
                unmapped_type: Some("long".into()),
                ..key("a", None)
            }],
        );
        check(json!(["_score", "_doc"]), &[key("_score", Some(true)), key("_doc", Some(false))]);
        assert_eq!(read_parameter("a:desc,b").unwrap(), [key("a", Some(true)), key("b", None)]);
    }

    #[test]
    fn wrong_sorts_are_refused_by_name() {
        let check = |json: Value, reason: &str| {
            assert_eq!(read(&json).unwrap_err().reason(), reason);
        };
        check(json!({"a": "up"}), "Unknown SortOrder [up]");
        check(json!({"a": {"mode": "best"}}), "Unknown SortMode [best]");
        check(
            json!({"a": {"nested": {}}}),
            "[field_sort] unknown field [nested] of the sort by [a]",
        );
        check(json!({"_script": {}}), "sort by [_script] is not supported");
        assert_eq!(read_parameter("a:up").unwrap_err().reason(), "Unknown SortOrder [up]");
    }
}
