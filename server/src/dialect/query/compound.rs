//! `bool`, `constant_score`, `dis_max`.

use egret_engine::query::ast::{Bool, Query};
use serde_json::{Map, Value};

use super::options::{minimum_should_match, only};
use super::{QueryReader, unknown_field};
use crate::dialect::json::Field;
use crate::error::{Error, Result};

const BOOL_FIELDS: &[&str] = &[
    "must",
    "filter",
    "should",
    "must_not",
    "minimum_should_match",
    "boost",
    "adjust_pure_negative",
];

pub(super) fn bool(reader: &mut QueryReader<'_>, body: &Map<String, Value>) -> Result<Query> {
    let mut query = empty_bool();
    for (key, value) in body {
        let field = Field::new("bool", key, value);
        match key.as_str() {
            "must" => query.must = clauses(reader, &field)?,
            "filter" => query.filter = clauses(reader, &field)?,
            "should" => query.should = clauses(reader, &field)?,
            "must_not" | "mustNot" => query.must_not = clauses(reader, &field)?,
            "minimum_should_match" => {
                query.minimum_should_match = Some(minimum_should_match(&field)?);
            }
            "boost" => query.boost = field.boost()?,
            "adjust_pure_negative" => only(&field, true)?,
            _ => return Err(unknown_field("bool", key, BOOL_FIELDS)),
        }
    }
    let empty = query.must.is_empty()
        && query.filter.is_empty()
        && query.should.is_empty()
        && query.must_not.is_empty();
    Ok(if empty { Query::MatchAll { boost: query.boost } } else { Query::Bool(query) })
}

/// A `bool` of nothing.
pub(crate) fn empty_bool() -> Bool {
    Bool {
        must: Vec::new(),
        filter: Vec::new(),
        should: Vec::new(),
        must_not: Vec::new(),
        minimum_should_match: None,
        boost: 1.0,
    }
}

/// One query or an array of them.
fn clauses(reader: &mut QueryReader<'_>, field: &Field<'_>) -> Result<Vec<Query>> {
    match field.value {
        Value::Array(queries) => queries.iter().map(|query| reader.query(query)).collect(),
        Value::Object(_) => Ok(vec![reader.query(field.value)?]),
        _ => Err(field.misplaced()),
    }
}

pub(super) fn constant_score(
    reader: &mut QueryReader<'_>,
    body: &Map<String, Value>,
) -> Result<Query> {
    let mut filter = None;
    let mut boost = 1.0;
    for (key, value) in body {
        let field = Field::new("constant_score", key, value);
        match key.as_str() {
            "filter" if value.is_array() => {
                return Err(Error::parsing("unexpected token [START_ARRAY]"));
            }
            "filter" => filter = Some(reader.query(value)?),
            "boost" => boost = field.boost()?,
            _ => return Err(field.unknown()),
        }
    }
    let filter =
        filter.ok_or_else(|| Error::parsing("[constant_score] requires a 'filter' element"))?;
    Ok(Query::ConstantScore { filter: Box::new(filter), boost })
}

pub(super) fn dis_max(reader: &mut QueryReader<'_>, body: &Map<String, Value>) -> Result<Query> {
    let mut queries = Vec::new();
    let mut tie_breaker = 0.0;
    let mut boost = 1.0;
    for (key, value) in body {
        let field = Field::new("dis_max", key, value);
        match key.as_str() {
            "queries" => queries = clauses(reader, &field)?,
            "tie_breaker" => tie_breaker = field.boost()?,
            "boost" => boost = field.boost()?,
            _ => return Err(field.unknown()),
        }
    }
    if queries.is_empty() {
        return Err(Error::parsing("[dis_max] requires 'queries' field with at least one clause"));
    }
    Ok(Query::DisMax { queries, tie_breaker, boost })
}
