//! Query JSON into the engine's query tree. One file for each family of clauses; every option is
//! either honoured or refused by name.

mod compound;
mod full_text;
mod options;
mod term_level;
mod text_syntax;

use egret_engine::query::ast::Query;
use serde_json::{Map, Value};

pub(crate) use compound::empty_bool;
pub(crate) use options::operator;
pub(crate) use text_syntax::fields_with_boosts;

use super::geo;
use super::json::{Field, did_you_mean, token};
use crate::error::{Error, Result};

/// Queries may be nested so deep (`indices.query.bool.max_nested_depth`).
pub(crate) const MAX_QUERY_DEPTH: usize = 30;
/// A request may have so many query clauses (`indices.query.bool.max_clause_count`).
pub(crate) const MAX_QUERY_CLAUSES: usize = 4_096;
/// A `terms` query may have so many values (`index.max_terms_count`).
pub(crate) const MAX_TERMS: usize = 65_536;

const CLAUSES: &[&str] = &[
    "bool",
    "constant_score",
    "dis_max",
    "exists",
    "geo_bounding_box",
    "geo_distance",
    "fuzzy",
    "ids",
    "match",
    "match_all",
    "match_bool_prefix",
    "match_none",
    "match_phrase",
    "match_phrase_prefix",
    "multi_match",
    "prefix",
    "query_string",
    "range",
    "simple_query_string",
    "term",
    "terms",
    "wildcard",
];

/// What kind of field a name is, as far as query syntax needs to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldKind {
    /// Analyzed: its terms are mostly lower case.
    Text,
    /// Exact text.
    Keyword,
    /// Anything else.
    Other,
}

/// The fields of the indexes that a request names.
pub trait Fields {
    /// The fields that a pattern (`*` for any characters) matches.
    fn matching(&self, pattern: &str) -> Vec<(String, FieldKind)>;
}

/// What tests read queries over that name no pattern.
#[cfg(test)]
pub(crate) struct NoFields;

#[cfg(test)]
impl Fields for NoFields {
    fn matching(&self, _: &str) -> Vec<(String, FieldKind)> {
        Vec::new()
    }
}

/// Reads one request's queries and keeps count of them.
pub(crate) struct QueryReader<'f> {
    pub(crate) fields: &'f dyn Fields,
    depth: usize,
    clauses: usize,
}

impl std::fmt::Debug for QueryReader<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QueryReader").field("clauses", &self.clauses).finish_non_exhaustive()
    }
}

impl<'f> QueryReader<'f> {
    pub(crate) fn new(fields: &'f dyn Fields) -> Self {
        Self { fields, depth: 0, clauses: 0 }
    }

    /// Reads `{"<clause>": {…}}`.
    pub(crate) fn query(&mut self, json: &Value) -> Result<Query> {
        let Value::Object(object) = json else {
            return Err(Error::parsing("[_na] query malformed, must start with start_object"));
        };
        let mut entries = object.iter();
        let Some((name, body)) = entries.next() else {
            return Err(Error::argument("query malformed, empty clause found"));
        };
        if let Some((second, _)) = entries.next() {
            return Err(Error::parsing(format!(
                "[{name}] malformed query, expected [END_OBJECT] but found [FIELD_NAME] [{second}]"
            )));
        }
        self.count_clauses(1)?;
        if self.depth == MAX_QUERY_DEPTH {
            return Err(Error::argument(format!(
                "The nested depth of the query exceeds the maximum nested depth for queries set \
                 in [indices.query.bool.max_nested_depth], [{MAX_QUERY_DEPTH}]"
            )));
        }
        self.depth += 1;
        let query = self.clause(name, body);
        self.depth -= 1;
        query
    }

    /// Counts clauses that text syntax made.
    pub(crate) fn count_clauses(&mut self, more: usize) -> Result<()> {
        self.clauses += more;
        if self.clauses > MAX_QUERY_CLAUSES {
            return Err(Error::argument(format!(
                "too_many_clauses: maxClauseCount is set to {MAX_QUERY_CLAUSES}"
            )));
        }
        Ok(())
    }

    fn clause(&mut self, name: &str, json: &Value) -> Result<Query> {
        if !CLAUSES.contains(&name) {
            let reason = format!("unknown query [{name}]{}", did_you_mean(name, CLAUSES));
            return Err(Error::parsing(reason));
        }
        let Value::Object(body) = json else {
            return Err(Error::parsing(format!(
                "[{name}] query malformed, no start_object after query name"
            )));
        };
        match name {
            "bool" => compound::bool(self, body),
            "constant_score" => compound::constant_score(self, body),
            "dis_max" => compound::dis_max(self, body),
            "exists" => term_level::exists(body),
            "geo_bounding_box" => geo::geo_bounding_box(body),
            "geo_distance" => geo::geo_distance(body),
            "fuzzy" => term_level::fuzzy(body),
            "ids" => term_level::ids(body),
            "match" => full_text::match_query(body),
            "match_all" => match_all(body),
            "match_bool_prefix" => full_text::match_bool_prefix(body),
            "match_none" => match_none(body),
            "match_phrase" => full_text::match_phrase(body),
            "match_phrase_prefix" => full_text::match_phrase_prefix(body),
            "multi_match" => full_text::multi_match(body),
            "prefix" => term_level::prefix(body),
            "query_string" => text_syntax::query_string(self, body),
            "range" => term_level::range(body),
            "simple_query_string" => text_syntax::simple_query_string(self, body),
            "term" => term_level::term(body),
            "terms" => term_level::terms(body),
            _ => term_level::wildcard(body),
        }
    }
}

fn match_all(body: &Map<String, Value>) -> Result<Query> {
    let mut boost = 1.0;
    for (key, value) in body {
        let field = Field::new("match_all", key, value);
        match key.as_str() {
            "boost" => boost = field.boost()?,
            _ => return Err(unknown_field("match_all", key, &["boost"])),
        }
    }
    Ok(Query::MatchAll { boost })
}

fn match_none(body: &Map<String, Value>) -> Result<Query> {
    for (key, value) in body {
        match key.as_str() {
            "boost" => drop(Field::new("match_none", key, value).boost()?),
            _ => return Err(unknown_field("match_none", key, &["boost"])),
        }
    }
    Ok(Query::MatchNone)
}

/// A field that an object does not know, as Elasticsearch's object parser says it.
pub(crate) fn unknown_field(object: &str, key: &str, known: &[&str]) -> Error {
    Error::content(format!("[{object}] unknown field [{key}]{}", did_you_mean(key, known)))
}

/// The one field of a clause like `{"<field>": …}` and what is said of it.
pub(crate) fn single_field<'a>(
    clause: &str,
    body: &'a Map<String, Value>,
) -> Result<(&'a str, &'a Value)> {
    let mut entries = body.iter();
    let Some((field, value)) = entries.next() else {
        return Err(Error::argument(format!("[{clause}] query requires a field")));
    };
    if field.is_empty() {
        return Err(Error::argument("field name is null or empty"));
    }
    match entries.next() {
        None => Ok((field, value)),
        Some((second, _)) => Err(Error::parsing(format!(
            "[{clause}] query doesn't support multiple fields, found [{field}] and [{second}]"
        ))),
    }
}

/// Refuses arrays where a clause takes one value.
pub(crate) fn no_array(clause: &str, key: &str, value: &Value) -> Result<()> {
    match value {
        Value::Array(_) => Err(Error::parsing(format!(
            "[{clause}] unknown token [{}] after [{key}]",
            token(value)
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
