//! `query_string` and `simple_query_string`: their options; the text itself is read by
//! [`crate::dialect::lucene`].

use egret_engine::query::ast::{MultiMatchKind, Query};
use serde_json::{Map, Value};

use super::QueryReader;
use super::full_text::{max_expansions, multi_match_kind, slop};
use super::options::{fuzziness, minimum_should_match, only, operator, rewrite};
use crate::dialect::json::Field;
use crate::dialect::lucene::{Flags, TextOptions, parse, parse_simple};
use crate::error::{Error, Result};

/// `["title^2", "body"]`, or one of them.
pub(crate) fn fields_with_boosts(field: &Field<'_>) -> Result<Vec<(String, f32)>> {
    let read = |text: String| match text.split_once('^') {
        None => Ok((text, 1.0)),
        Some((name, boost)) => match boost.parse::<f32>() {
            Ok(boost) if boost.is_finite() && boost >= 0.0 => Ok((name.to_owned(), boost)),
            _ => Err(Error::argument(format!(
                "[{}] failed to parse the boost of [{text}]: [{boost}] is not a number from 0",
                field.clause
            ))),
        },
    };
    if field.value.as_array().is_some_and(|names| names.iter().any(Value::is_null)) {
        let clause = field.clause;
        let reason = format!("[{clause}] field name in [{}] cannot be null", field.key);
        return Err(Error::parsing(reason));
    }
    let fields: Vec<_> = field.texts()?.into_iter().map(read).collect::<Result<_>>()?;
    // `*` alone is what no fields at all mean.
    let everything =
        |(name, boost): &(String, f32)| name == "*" && boost.to_bits() == 1.0_f32.to_bits();
    Ok(if fields.len() == 1 && fields.iter().all(everything) { Vec::new() } else { fields })
}

pub(super) fn query_string(
    reader: &mut QueryReader<'_>,
    body: &Map<String, Value>,
) -> Result<Query> {
    let mut options = TextOptions::default();
    let mut text = None;
    let mut lenient = None;
    for (key, value) in body {
        let field = Field::new("query_string", key, value);
        match key.as_str() {
            "query" => text = Some(field.text()?),
            "default_field" | "fields" => options.fields = fields_with_boosts(&field)?,
            "default_operator" => options.operator = operator(&field)?,
            "analyzer" => options.analyzer = Some(field.text()?),
            "lenient" => lenient = Some(field.boolean()?),
            "type" => options.kind = multi_match_kind(&field)?,
            "tie_breaker" => options.tie_breaker = Some(field.boost()?),
            "phrase_slop" => options.phrase_slop = slop(&field)?,
            "fuzziness" => options.fuzziness = fuzziness(&field)?,
            "fuzzy_prefix_length" => options.fuzzy_prefix_length = field.count()?,
            "fuzzy_max_expansions" => options.fuzzy_max_expansions = max_expansions(&field)?,
            "fuzzy_transpositions" | "enable_position_increments" => only(&field, true)?,
            "fuzzy_rewrite" => rewrite(&field, &["top_terms_blended_freqs_50"])?,
            "rewrite" => rewrite(&field, &["constant_score", "constant_score_blended"])?,
            "allow_leading_wildcard" => options.allow_leading_wildcard = field.boolean()?,
            "analyze_wildcard" => only(&field, false)?,
            "auto_generate_synonyms_phrase_query" => drop(field.boolean()?),
            "minimum_should_match" => {
                options.minimum_should_match = Some(minimum_should_match(&field)?);
            }
            "time_zone" => options.time_zone = Some(field.text()?),
            "boost" => options.boost = field.boost()?,
            _ => return Err(field.unknown()),
        }
    }
    let text =
        text.ok_or_else(|| Error::parsing("[query_string] must be provided with a [query]"))?;
    options.lenient = lenient.unwrap_or(options.fields.is_empty());
    parse(reader, &text, &options)
}

pub(super) fn simple_query_string(
    reader: &mut QueryReader<'_>,
    body: &Map<String, Value>,
) -> Result<Query> {
    let mut options = TextOptions { kind: MultiMatchKind::BestFields, ..TextOptions::default() };
    let mut flags = Flags::ALL;
    let mut text = None;
    let mut lenient = None;
    for (key, value) in body {
        let field = Field::new("simple_query_string", key, value);
        match key.as_str() {
            "query" => text = Some(field.text()?),
            "fields" => options.fields = fields_with_boosts(&field)?,
            "default_operator" => options.operator = operator(&field)?,
            "analyzer" => options.analyzer = Some(field.text()?),
            "flags" => flags = Flags::read(&field)?,
            "lenient" => lenient = Some(field.boolean()?),
            "fuzzy_prefix_length" => options.fuzzy_prefix_length = field.count()?,
            "fuzzy_max_expansions" => options.fuzzy_max_expansions = max_expansions(&field)?,
            "fuzzy_transpositions" => only(&field, true)?,
            "analyze_wildcard" => only(&field, false)?,
            "auto_generate_synonyms_phrase_query" => drop(field.boolean()?),
            "minimum_should_match" => {
                options.minimum_should_match = Some(minimum_should_match(&field)?);
            }
            "boost" => options.boost = field.boost()?,
            _ => return Err(field.unknown()),
        }
    }
    let text = text.ok_or_else(|| Error::parsing("[simple_query_string] query text missing"))?;
    options.lenient = lenient.unwrap_or(options.fields.is_empty());
    parse_simple(reader, &text, &options, flags)
}
