//! A `_search` or `_count` body into the engine's request.

use egret_engine::query::ast::Query;
use egret_engine::search::request::{SearchRequest, SourceFilter, TrackTotalHits};
use serde_json::{Map, Value};

use super::json::{Field, did_you_mean, token};
use super::query::{Fields, QueryReader};
use super::{aggregations, highlight, sort, source, time};
use crate::error::{Error, Result};

const KEYS: &[&str] = &[
    "aggregations",
    "aggs",
    "docvalue_fields",
    "explain",
    "from",
    "highlight",
    "min_score",
    "post_filter",
    "profile",
    "query",
    "search_after",
    "seq_no_primary_term",
    "size",
    "sort",
    "_source",
    "stored_fields",
    "terminate_after",
    "timeout",
    "track_scores",
    "track_total_hits",
    "version",
];

/// A request may read so many columns into its hits.
const MAX_DOCVALUE_FIELDS: usize = 100;

/// Reads a `_search` body.
pub(crate) fn read(body: &Map<String, Value>, fields: &dyn Fields) -> Result<SearchRequest> {
    let mut reader = QueryReader::new(fields);
    let mut request = SearchRequest::default();
    for (key, value) in body {
        let field = Field::new("search", key, value);
        if !queries(&mut reader, &field, &mut request)? && !options(&field, &mut request)? {
            return Err(unknown_key(key, value));
        }
    }
    // Who asks for stored fields gets the source only by name.
    if let Some(names) = body.get("stored_fields")
        && !body.contains_key("_source")
        && !stored_fields(&Field::new("search", "stored_fields", names).texts()?)?
    {
        request.source = SourceFilter::None;
    }
    Ok(request)
}

/// Reads a `_count` body: a query and nothing else.
pub(crate) fn read_count(body: &Map<String, Value>, fields: &dyn Fields) -> Result<Query> {
    let mut query = Query::MatchAll { boost: 1.0 };
    for (key, value) in body {
        match key.as_str() {
            "query" => query = QueryReader::new(fields).query(value)?,
            _ => return Err(Error::parsing(format!("request does not support [{key}]"))),
        }
    }
    Ok(query)
}

fn unknown_key(key: &str, value: &Value) -> Error {
    Error::parsing(format!(
        "Unknown key for a {} in [{key}].{}",
        token(value),
        did_you_mean(key, KEYS)
    ))
}

/// Parts of the body that hold queries; `false`: it is another.
fn queries(
    reader: &mut QueryReader<'_>,
    field: &Field<'_>,
    request: &mut SearchRequest,
) -> Result<bool> {
    match field.key {
        "query" => request.query = reader.query(field.value)?,
        "post_filter" => request.post_filter = Some(reader.query(field.value)?),
        "aggs" | "aggregations" => {
            if !request.aggregations.is_empty() {
                return Err(Error::parsing("found [aggs] and [aggregations] in one request"));
            }
            request.aggregations = aggregations::read(reader, field.value)?;
        }
        "highlight" => request.highlight = Some(highlight::read(reader, field.value)?),
        _ => return Ok(false),
    }
    Ok(true)
}

fn options(field: &Field<'_>, request: &mut SearchRequest) -> Result<bool> {
    match field.key {
        "from" => request.from = window(field)?,
        "size" => request.size = window(field)?,
        "sort" => request.sort = sort::read(field.value)?,
        "track_scores" => request.track_scores = field.boolean()?,
        "search_after" => request.search_after = Some(sort::search_after(field.value)?),
        "track_total_hits" => request.track_total_hits = track_total_hits(field)?,
        "min_score" => request.min_score = Some(min_score(field)?),
        "_source" => request.source = source::read(field.value)?,
        "docvalue_fields" => request.docvalue_fields = docvalue_fields(field)?,
        "version" => request.version = field.boolean()?,
        "seq_no_primary_term" => request.seq_no_primary_term = field.boolean()?,
        "timeout" => request.timeout = time::duration(&field.text()?, "timeout")?,
        "terminate_after" => {
            let count = field.count()?;
            request.terminate_after = (count > 0).then_some(count as u64);
        }
        "stored_fields" => drop(stored_fields(&field.texts()?)?),
        "explain" | "profile" => {
            if field.boolean()? {
                return Err(Error::argument(format!("[{}] is not supported", field.key)));
            }
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn window(field: &Field<'_>) -> Result<usize> {
    let number = field.integer()?;
    usize::try_from(number).map_err(|_| {
        Error::argument(format!("[{}] parameter cannot be negative, found [{number}]", field.key))
    })
}

#[expect(clippy::cast_possible_truncation, reason = "scores are f32, as Lucene's")]
fn min_score(field: &Field<'_>) -> Result<f32> {
    Ok(field.float()? as f32)
}

/// `true`, `false`, or up to how many.
pub(crate) fn track_total_hits(field: &Field<'_>) -> Result<TrackTotalHits> {
    match field.text()?.as_str() {
        "true" => Ok(TrackTotalHits::Exact),
        "false" => Ok(TrackTotalHits::Off),
        _ => match field.integer()? {
            -1 => Ok(TrackTotalHits::Off),
            limit if limit >= i64::from(i32::MAX) => Ok(TrackTotalHits::Exact),
            limit => u64::try_from(limit).map(TrackTotalHits::UpTo).map_err(|_| {
                Error::argument(format!(
                    "[track_total_hits] parameter must be positive or equals to -1, got {limit}"
                ))
            }),
        },
    }
}

/// Names, or `{"field": name}` in the field's own format.
fn docvalue_fields(field: &Field<'_>) -> Result<Vec<String>> {
    let read = |value: &Value| match value {
        Value::String(name) => Ok(name.clone()),
        Value::Object(object) => {
            let mut name = None;
            for (key, value) in object {
                match key.as_str() {
                    "field" => name = Some(Field::new("docvalue_fields", key, value).text()?),
                    "format" if value == "use_field_mapping" => {}
                    _ => {
                        return Err(Error::content(format!(
                            "[docvalue_fields] unknown field [{key}]"
                        )));
                    }
                }
            }
            name.ok_or_else(|| Error::argument("[docvalue_fields] requires a [field]"))
        }
        other => Err(Field::new("search", "docvalue_fields", other).misplaced()),
    };
    let elements = match field.value {
        Value::Array(elements) => elements.as_slice(),
        one => std::slice::from_ref(one),
    };
    if elements.len() > MAX_DOCVALUE_FIELDS {
        return Err(Error::argument(format!(
            "Trying to retrieve too many docvalue_fields. Must be less than or equal to: \
             [{MAX_DOCVALUE_FIELDS}] but was [{}].",
            elements.len()
        )));
    }
    elements.iter().map(read).collect()
}

/// Whether the source is among the stored fields that are asked for. Egret stores nothing beside it:
/// `*` and `_none_` find nothing else.
pub(crate) fn stored_fields(names: &[String]) -> Result<bool> {
    let unknown = names.iter().find(|name| !matches!(name.as_str(), "*" | "_source" | "_none_"));
    if let Some(name) = unknown {
        return Err(Error::argument(format!(
            "[stored_fields] [{name}] is not stored, only [_source] is"
        )));
    }
    Ok(names.iter().any(|name| name == "_source"))
}

/// Refuses a request that reaches further than `limit`, or a scroll's page that does.
pub(crate) fn reach(request: &SearchRequest, limit: usize, scroll: bool) -> Result<()> {
    let window = request.from.saturating_add(request.size);
    if window <= limit {
        return Ok(());
    }
    Err(Error::argument(if scroll {
        format!(
            "Batch size is too large, size must be less than or equal to: [{limit}] but was \
             [{window}]. Scroll batch sizes cost as much memory as result windows so they are \
             controlled by the [index.max_result_window] index level setting."
        )
    } else {
        format!(
            "Result window is too large, from + size must be less than or equal to: [{limit}] but \
             was [{window}]. See the scroll api for a more efficient way to request large data \
             sets. This limit can be set by changing the [index.max_result_window] index level \
             setting."
        )
    }))
}

/// Checks what only the whole request can tell, once parameters are merged into it.
pub(crate) fn check(request: &SearchRequest) -> Result<()> {
    if let Some(after) = &request.search_after {
        if request.from > 0 {
            return Err(Error::validation(
                "`from` parameter must be set to 0 when `search_after` is used",
            ));
        }
        if request.sort.is_empty() {
            return Err(Error::argument("Sort must contain at least one field."));
        }
        if after.len() != request.sort.len() {
            return Err(Error::argument(format!(
                "search_after has {} value(s) but sort has {}.",
                after.len(),
                request.sort.len()
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::dialect::query::NoFields;

    fn request(json: &Value) -> Result<SearchRequest> {
        let request = read(json.as_object().unwrap(), &NoFields)?;
        reach(&request, 10_000, false)?;
        check(&request)?;
        Ok(request)
    }

    #[test]
    fn bodies_are_read() {
        let json = json!({
            "query": {"match_all": {"boost": 2}}, "from": 5, "size": "3",
            "track_total_hits": true, "min_score": 0.5, "timeout": "2s", "version": true,
            "_source": ["a.*"], "stored_fields": "*", "docvalue_fields": ["x", {"field": "y"}],
            "terminate_after": 9
        });
        let expected = SearchRequest {
            query: Query::MatchAll { boost: 2.0 },
            from: 5,
            size: 3,
            track_total_hits: TrackTotalHits::Exact,
            min_score: Some(0.5),
            timeout: Some(Duration::from_secs(2)),
            version: true,
            source: SourceFilter::Paths { includes: vec!["a.*".into()], excludes: Vec::new() },
            docvalue_fields: vec!["x".into(), "y".into()],
            terminate_after: Some(9),
            ..SearchRequest::default()
        };
        assert_eq!(request(&json).unwrap(), expected);
        assert_eq!(request(&json!({})).unwrap(), SearchRequest::default());
    }

    #[test]
    fn wrong_bodies_name_what_is_wrong() {
        let check = |json: Value, reason: &str| {
            assert_eq!(request(&json).unwrap_err().reason(), reason, "{json}");
        };
        check(
            json!({"quer": {}}),
            "Unknown key for a START_OBJECT in [quer]. did you mean [query]?",
        );
        check(json!({"knn": []}), "Unknown key for a START_ARRAY in [knn].");
        check(json!({"from": -1}), "[from] parameter cannot be negative, found [-1]");
        check(json!({"size": "x"}), "[search] failed to parse [size]: [x] is not a whole number");
        check(json!({"search_after": [1]}), "Sort must contain at least one field.");
        check(
            json!({"search_after": [1, 2], "sort": "a"}),
            "search_after has 2 value(s) but sort has 1.",
        );
        check(json!({"explain": true}), "[explain] is not supported");
        assert!(
            request(&json!({"from": 9_999, "size": 2}))
                .unwrap_err()
                .reason()
                .contains("less than or equal to: [10000] but was [10001]")
        );
    }
}
