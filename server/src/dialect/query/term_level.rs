//! `term`, `terms`, `range`, `prefix`, `wildcard`, `fuzzy`, `exists`, `ids`.

use egret_engine::query::ast::{Fuzziness, Query, Range, Relation, Scalar};
use serde_json::{Map, Value};

use super::full_text::{DEFAULT_MAX_EXPANSIONS, max_expansions};
use super::options::{fuzziness, rewrite};
use super::{MAX_TERMS, no_array, single_field, unknown_field};
use crate::dialect::json::{Field, scalar};
use crate::error::{Error, Result};

const PATTERN_REWRITES: &[&str] = &["constant_score", "constant_score_blended"];

pub(super) fn term(body: &Map<String, Value>) -> Result<Query> {
    let clause = "term";
    let (name, value) = single_field(clause, body)?;
    let mut given = None;
    let mut case_insensitive = false;
    let mut boost = 1.0;
    match value {
        Value::Object(entries) => {
            for (key, value) in entries {
                let field = Field::new(clause, key, value);
                match key.as_str() {
                    "value" => given = Some(term_value(value)?),
                    "case_insensitive" => case_insensitive = field.boolean()?,
                    "boost" => boost = field.boost()?,
                    _ => return Err(field.unknown()),
                }
            }
        }
        plain => given = Some(term_value(plain)?),
    }
    let value = given.ok_or_else(|| Error::argument("value cannot be null"))?;
    Ok(Query::Term { field: name.to_owned(), value, case_insensitive, boost })
}

fn term_value(value: &Value) -> Result<Scalar> {
    match value {
        Value::Null => Err(Error::argument("value cannot be null")),
        Value::Array(_) => Err(Error::parsing("[term] query does not support array of values")),
        other => scalar(other).ok_or_else(|| Field::new("term", "value", other).misplaced()),
    }
}

pub(super) fn terms(body: &Map<String, Value>) -> Result<Query> {
    const CLAUSE: &str = "terms";
    let mut found: Option<(&String, Vec<Scalar>)> = None;
    let mut boost = 1.0;
    for (key, value) in body {
        let field = Field::new(CLAUSE, key, value);
        match value {
            Value::Array(values) => {
                if let Some((first, _)) = found {
                    return Err(Error::parsing(format!(
                        "[{CLAUSE}] query does not support multiple fields, found [{first}] and \
                         [{key}]"
                    )));
                }
                found = Some((key, term_values(key, values)?));
            }
            Value::Object(_) => {
                return Err(Error::parsing(format!(
                    "[{CLAUSE}] query does not support a lookup of terms, found one for [{key}]"
                )));
            }
            _ if key == "boost" => boost = field.boost()?,
            _ => return Err(field.unknown()),
        }
    }
    let (field, values) = found.ok_or_else(|| {
        Error::parsing(
            "[terms] query requires a field name, followed by array of terms or a document \
             lookup specification",
        )
    })?;
    Ok(Query::Terms { field: field.clone(), values, boost })
}

fn term_values(key: &str, values: &[Value]) -> Result<Vec<Scalar>> {
    if values.len() > MAX_TERMS {
        return Err(Error::argument(format!(
            "The number of terms [{}] used in the Terms Query request has exceeded the allowed \
             maximum of [{MAX_TERMS}]. This maximum can be set by changing the \
             [index.max_terms_count] index level setting.",
            values.len()
        )));
    }
    let convert = |value: &Value| match value {
        Value::Null => Err(Error::parsing("No value specified for terms query")),
        other => scalar(other).ok_or_else(|| Field::new("terms", key, other).misplaced()),
    };
    values.iter().map(convert).collect()
}

pub(super) fn range(body: &Map<String, Value>) -> Result<Query> {
    const CLAUSE: &str = "range";
    let (name, value) = single_field(CLAUSE, body)?;
    let Value::Object(entries) = value else {
        return Err(Error::parsing(format!(
            "[{CLAUSE}] query malformed, no start_object after field [{name}]"
        )));
    };
    let mut range = Range {
        field: name.to_owned(),
        lower: None,
        upper: None,
        format: None,
        time_zone: None,
        relation: Relation::Intersects,
        boost: 1.0,
    };
    for (key, value) in entries {
        let field = Field::new(CLAUSE, key, value);
        match key.as_str() {
            "gte" => range.lower = bound(&field)?.map(|value| (value, true)),
            "gt" => range.lower = bound(&field)?.map(|value| (value, false)),
            "lte" => range.upper = bound(&field)?.map(|value| (value, true)),
            "lt" => range.upper = bound(&field)?.map(|value| (value, false)),
            "format" => range.format = Some(field.text()?),
            "time_zone" => range.time_zone = Some(field.text()?),
            "boost" => range.boost = field.boost()?,
            "relation" => range.relation = relation(&field)?,
            "from" | "to" | "include_lower" | "include_upper" => {}
            _ => return Err(field.unknown()),
        }
    }
    older_bounds(entries, &mut range)?;
    Ok(Query::Range(range))
}

fn bound(field: &Field<'_>) -> Result<Option<Scalar>> {
    if field.value.is_null() { Ok(None) } else { field.scalar().map(Some) }
}

fn relation(field: &Field<'_>) -> Result<Relation> {
    match field.text()?.to_ascii_uppercase().as_str() {
        "INTERSECTS" => Ok(Relation::Intersects),
        "CONTAINS" => Ok(Relation::Contains),
        "WITHIN" => Ok(Relation::Within),
        _ => Err(field.wrong("[intersects], [contains] or [within]")),
    }
}

/// `from`, `to`, `include_lower`, `include_upper`: the older way to write the ends.
fn older_bounds(entries: &Map<String, Value>, range: &mut Range) -> Result<()> {
    let read = |key: &'static str| entries.get(key).map(|value| Field::new("range", key, value));
    let included = |key| read(key).map_or(Ok(true), |field| field.boolean());
    let (lower, upper) = (included("include_lower")?, included("include_upper")?);
    if let Some(field) = read("from") {
        range.lower = bound(&field)?.map(|value| (value, lower));
    } else if let Some((_, inclusive)) = &mut range.lower {
        *inclusive &= lower;
    }
    if let Some(field) = read("to") {
        range.upper = bound(&field)?.map(|value| (value, upper));
    } else if let Some((_, inclusive)) = &mut range.upper {
        *inclusive &= upper;
    }
    Ok(())
}

/// What `prefix` and `wildcard` have in common.
struct Pattern {
    field: String,
    value: String,
    case_insensitive: bool,
    boost: f32,
}

fn pattern(clause: &str, body: &Map<String, Value>, value_keys: &[&str]) -> Result<Pattern> {
    let (name, value) = single_field(clause, body)?;
    no_array(clause, name, value)?;
    let mut given = None;
    let mut case_insensitive = false;
    let mut boost = 1.0;
    match value {
        Value::Object(entries) => {
            for (key, value) in entries {
                let field = Field::new(clause, key, value);
                match key.as_str() {
                    key if value_keys.contains(&key) => given = Some(field.text()?),
                    "case_insensitive" => case_insensitive = field.boolean()?,
                    "boost" => boost = field.boost()?,
                    "rewrite" => rewrite(&field, PATTERN_REWRITES)?,
                    _ => return Err(field.unknown()),
                }
            }
        }
        Value::Null => {}
        plain => given = Some(Field::new(clause, name, plain).text()?),
    }
    let value = given.ok_or_else(|| Error::argument("value cannot be null"))?;
    Ok(Pattern { field: name.to_owned(), value, case_insensitive, boost })
}

pub(super) fn prefix(body: &Map<String, Value>) -> Result<Query> {
    let Pattern { field, value, case_insensitive, boost } = pattern("prefix", body, &["value"])?;
    Ok(Query::Prefix { field, value, case_insensitive, boost })
}

pub(super) fn wildcard(body: &Map<String, Value>) -> Result<Query> {
    let Pattern { field, value, case_insensitive, boost } =
        pattern("wildcard", body, &["value", "wildcard"])?;
    Ok(Query::Wildcard { field, value, case_insensitive, boost })
}

pub(super) fn fuzzy(body: &Map<String, Value>) -> Result<Query> {
    const CLAUSE: &str = "fuzzy";
    let (name, value) = single_field(CLAUSE, body)?;
    no_array(CLAUSE, name, value)?;
    let mut given = None;
    let mut edits = Fuzziness::Auto { low: 3, high: 6 };
    let (mut prefix_length, mut expansions) = (0, DEFAULT_MAX_EXPANSIONS);
    let (mut transpositions, mut boost) = (true, 1.0);
    match value {
        Value::Object(entries) => {
            for (key, value) in entries {
                let field = Field::new(CLAUSE, key, value);
                match key.as_str() {
                    "value" => given = Some(field.text()?),
                    "fuzziness" => edits = fuzziness(&field)?,
                    "prefix_length" => prefix_length = field.count()?,
                    "max_expansions" => expansions = max_expansions(&field)?,
                    "transpositions" => transpositions = field.boolean()?,
                    "boost" => boost = field.boost()?,
                    "rewrite" => rewrite(&field, &["top_terms_blended_freqs_50"])?,
                    _ => return Err(field.unknown()),
                }
            }
        }
        Value::Null => {}
        plain => given = Some(Field::new(CLAUSE, name, plain).text()?),
    }
    Ok(Query::Fuzzy {
        field: name.to_owned(),
        value: given.ok_or_else(|| Error::argument("value cannot be null"))?,
        fuzziness: edits,
        prefix_length,
        max_expansions: expansions,
        transpositions,
        boost,
    })
}

pub(super) fn exists(body: &Map<String, Value>) -> Result<Query> {
    let mut name = None;
    let mut boost = 1.0;
    for (key, value) in body {
        let field = Field::new("exists", key, value);
        match key.as_str() {
            "field" => name = Some(field.text()?),
            "boost" => boost = field.boost()?,
            _ => return Err(field.unknown()),
        }
    }
    let field = name
        .filter(|name| !name.is_empty())
        .ok_or_else(|| Error::parsing("[exists] must be provided with a [field]"))?;
    Ok(Query::Exists { field, boost })
}

pub(super) fn ids(body: &Map<String, Value>) -> Result<Query> {
    let mut values = None;
    let mut boost = 1.0;
    for (key, value) in body {
        let field = Field::new("ids", key, value);
        match key.as_str() {
            "values" => values = Some(field.texts()?),
            "boost" => boost = field.boost()?,
            _ => return Err(unknown_field("ids", key, &["values", "boost"])),
        }
    }
    let values = values.ok_or_else(|| Error::argument("Required [values]"))?;
    if values.len() > MAX_TERMS {
        return Err(Error::argument(format!(
            "[ids] has [{}] values, more than the maximum of [{MAX_TERMS}]",
            values.len()
        )));
    }
    Ok(Query::Ids { values, boost })
}
