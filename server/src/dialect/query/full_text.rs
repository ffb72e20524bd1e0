//! `match`, `match_phrase`, `match_phrase_prefix`, `match_bool_prefix`, `multi_match`.

use egret_engine::query::ast::{
    Match, MatchPhrase, MultiMatch, MultiMatchKind, Operator, Query, Scalar, ZeroTerms,
};
use serde_json::{Map, Value};

use super::options::{fuzziness, minimum_should_match, only, operator, rewrite, zero_terms};
use super::{fields_with_boosts, single_field};
use crate::dialect::json::{Field, did_you_mean, scalar};
use crate::error::{Error, Result};

/// How many terms stand in for a prefix or a fuzzy term unless said otherwise.
pub(crate) const DEFAULT_MAX_EXPANSIONS: usize = 50;
/// The most that may be asked for.
const MAX_EXPANSIONS: usize = 1_024;

/// The rewrite of fuzzy terms that the engine builds.
const FUZZY_REWRITES: &[&str] = &["top_terms_blended_freqs_50", "constant_score"];

pub(super) fn match_query(body: &Map<String, Value>) -> Result<Query> {
    let mut options = default_match();
    read_match("match", body, &mut options, &[])?;
    Ok(Query::Match(options))
}

pub(super) fn match_bool_prefix(body: &Map<String, Value>) -> Result<Query> {
    let mut options = Match { prefix_last: true, ..default_match() };
    read_match("match_bool_prefix", body, &mut options, &["zero_terms_query", "lenient"])?;
    Ok(Query::Match(options))
}

/// A `match` with Elasticsearch's defaults.
pub(crate) fn default_match() -> Match {
    Match {
        field: String::new(),
        value: Scalar::Text(String::new()),
        operator: Operator::Or,
        minimum_should_match: None,
        fuzziness: None,
        prefix_length: 0,
        max_expansions: DEFAULT_MAX_EXPANSIONS,
        analyzer: None,
        zero_terms: ZeroTerms::None,
        lenient: false,
        prefix_last: false,
        boost: 1.0,
    }
}

fn read_match(
    clause: &str,
    body: &Map<String, Value>,
    options: &mut Match,
    lacking: &[&str],
) -> Result<()> {
    let (name, value) = single_field(clause, body)?;
    name.clone_into(&mut options.field);
    let Value::Object(entries) = value else {
        options.value = text_value(clause, name, value)?;
        return Ok(());
    };
    let mut given = false;
    for (key, value) in entries {
        let field = Field::new(clause, key, value);
        if lacking.contains(&key.as_str()) {
            return Err(field.unknown());
        }
        if key == "query" {
            options.value = text_value(clause, key, value)?;
            given = true;
        } else if !match_option(&field, options)? {
            return Err(field.unknown());
        }
    }
    if given { Ok(()) } else { Err(Error::argument("No text specified for text query")) }
}

/// Reads an option that `match` and `multi_match` have in common; `false`: it is none.
fn match_option(field: &Field<'_>, options: &mut Match) -> Result<bool> {
    match field.key {
        "operator" => options.operator = operator(field)?,
        "minimum_should_match" => {
            options.minimum_should_match = Some(minimum_should_match(field)?);
        }
        "fuzziness" => options.fuzziness = Some(fuzziness(field)?),
        "prefix_length" => options.prefix_length = field.count()?,
        "max_expansions" => options.max_expansions = max_expansions(field)?,
        "analyzer" => options.analyzer = Some(field.text()?),
        "zero_terms_query" => options.zero_terms = zero_terms(field)?,
        "lenient" => options.lenient = field.boolean()?,
        "boost" => options.boost = field.boost()?,
        "fuzzy_transpositions" => only(field, true)?,
        "fuzzy_rewrite" => rewrite(field, FUZZY_REWRITES)?,
        // Egret's analyzers make no synonyms of several words yet: either value is the same.
        "auto_generate_synonyms_phrase_query" => drop(field.boolean()?),
        _ => return Ok(false),
    }
    Ok(true)
}

/// A count of terms, from 1.
pub(super) fn max_expansions(field: &Field<'_>) -> Result<usize> {
    let count = field.count()?;
    if count == 0 || count > MAX_EXPANSIONS {
        return Err(Error::argument(format!(
            "[{}] [max_expansions] must be from 1 to {MAX_EXPANSIONS}, found [{count}]",
            field.clause
        )));
    }
    Ok(count)
}

fn text_value(clause: &str, key: &str, value: &Value) -> Result<Scalar> {
    if value.is_null() {
        return Err(Error::argument("No text specified for text query"));
    }
    scalar(value).ok_or_else(|| Field::new(clause, key, value).misplaced())
}

pub(super) fn match_phrase(body: &Map<String, Value>) -> Result<Query> {
    read_phrase("match_phrase", body, false).map(Query::MatchPhrase)
}

pub(super) fn match_phrase_prefix(body: &Map<String, Value>) -> Result<Query> {
    read_phrase("match_phrase_prefix", body, true).map(Query::MatchPhrase)
}

fn read_phrase(clause: &str, body: &Map<String, Value>, prefix_last: bool) -> Result<MatchPhrase> {
    let (name, value) = single_field(clause, body)?;
    let mut phrase = MatchPhrase {
        field: name.to_owned(),
        value: Scalar::Text(String::new()),
        slop: 0,
        analyzer: None,
        zero_terms: ZeroTerms::None,
        prefix_last,
        max_expansions: DEFAULT_MAX_EXPANSIONS,
        boost: 1.0,
    };
    let Value::Object(entries) = value else {
        phrase.value = text_value(clause, name, value)?;
        return Ok(phrase);
    };
    let mut given = false;
    for (key, value) in entries {
        let field = Field::new(clause, key, value);
        match key.as_str() {
            "query" => {
                phrase.value = text_value(clause, key, value)?;
                given = true;
            }
            "slop" => phrase.slop = slop(&field)?,
            "analyzer" => phrase.analyzer = Some(field.text()?),
            "zero_terms_query" => phrase.zero_terms = zero_terms(&field)?,
            "max_expansions" if prefix_last => phrase.max_expansions = max_expansions(&field)?,
            "boost" => phrase.boost = field.boost()?,
            _ => return Err(field.unknown()),
        }
    }
    if given { Ok(phrase) } else { Err(Error::argument("No text specified for text query")) }
}

/// A number of positions.
pub(super) fn slop(field: &Field<'_>) -> Result<u32> {
    u32::try_from(field.integer()?)
        .map_err(|_| Error::argument(format!("No negative slop allowed in [{}]", field.clause)))
}

const KINDS: &[(&str, MultiMatchKind)] = &[
    ("best_fields", MultiMatchKind::BestFields),
    ("most_fields", MultiMatchKind::MostFields),
    ("cross_fields", MultiMatchKind::CrossFields),
    ("phrase", MultiMatchKind::Phrase),
    ("phrase_prefix", MultiMatchKind::PhrasePrefix),
    ("bool_prefix", MultiMatchKind::BoolPrefix),
];

/// `type` of `multi_match` and `query_string`.
pub(super) fn multi_match_kind(field: &Field<'_>) -> Result<MultiMatchKind> {
    let text = field.text()?;
    let found = KINDS.iter().find(|(name, _)| *name == text);
    found.map(|(_, kind)| *kind).ok_or_else(|| {
        let names: Vec<&str> = KINDS.iter().map(|(name, _)| *name).collect();
        Error::parsing(format!(
            "failed to parse [{}] query type [{text}]. unknown type.{}",
            field.clause,
            did_you_mean(&text, &names)
        ))
    })
}

pub(super) fn multi_match(body: &Map<String, Value>) -> Result<Query> {
    const CLAUSE: &str = "multi_match";
    let mut query = MultiMatch {
        fields: Vec::new(),
        kind: MultiMatchKind::BestFields,
        tie_breaker: None,
        options: default_match(),
        slop: 0,
    };
    let mut given = false;
    let mut slop_given = false;
    let mut lenient_given = false;
    for (key, value) in body {
        let field = Field::new(CLAUSE, key, value);
        match key.as_str() {
            "query" => {
                query.options.value = text_value(CLAUSE, key, value)?;
                given = true;
            }
            "fields" => query.fields = fields_with_boosts(&field)?,
            "type" => query.kind = multi_match_kind(&field)?,
            "tie_breaker" => query.tie_breaker = Some(field.boost()?),
            "slop" => {
                query.slop = slop(&field)?;
                slop_given = true;
            }
            "lenient" => {
                query.options.lenient = field.boolean()?;
                lenient_given = true;
            }
            _ if match_option(&field, &mut query.options)? => {}
            _ => return Err(field.unknown()),
        }
    }
    if !given {
        return Err(Error::argument("No text specified for multi_match query"));
    }
    if query.fields.is_empty() && !lenient_given {
        query.options.lenient = true;
    }
    check_kind(&query, slop_given)?;
    Ok(Query::MultiMatch(query))
}

/// Refuses options that a kind has no use for.
fn check_kind(query: &MultiMatch, slop_given: bool) -> Result<()> {
    let name = KINDS.iter().find(|(_, kind)| *kind == query.kind).map_or("", |(name, _)| name);
    let takes_fuzziness = matches!(
        query.kind,
        MultiMatchKind::BestFields | MultiMatchKind::MostFields | MultiMatchKind::BoolPrefix
    );
    if query.options.fuzziness.is_some() && !takes_fuzziness {
        return Err(Error::parsing(format!("Fuzziness not allowed for type [{name}]")));
    }
    if slop_given && query.kind == MultiMatchKind::BoolPrefix {
        return Err(Error::parsing(format!("[slop] not allowed for type [{name}]")));
    }
    Ok(())
}
