//! `_analyze`: the tokens of a text.

use std::sync::Arc;

use axum::extract::{Path, State};
use egret_analyzers::{AnalyzedToken, Analyzer};
use egret_engine::Index;
use serde_json::{Map, Value, json};

use super::targets;
use crate::app::App;
use crate::dialect::json::{Field, parse_object};
use crate::dialect::query::unknown_field;
use crate::error::{Error, Result};
use crate::http::{Call, Reply};

/// A request may make so many tokens (`index.analyze.max_token_count`).
const MAX_TOKENS: usize = 10_000;

const KEYS: &[&str] =
    &["analyzer", "char_filter", "explain", "field", "filter", "text", "tokenizer"];

pub(super) async fn analyze(State(app): State<Arc<App>>, call: Call) -> Result<Reply> {
    run(&app, &call, None).await
}

pub(super) async fn analyze_in(
    State(app): State<Arc<App>>,
    Path(index): Path<String>,
    call: Call,
) -> Result<Reply> {
    let index = targets::single(&app, &index)?;
    run(&app, &call, Some(&index)).await
}

/// What is to be analyzed, and how.
#[derive(Default)]
struct Wanted {
    texts: Vec<String>,
    analyzer: Option<String>,
    field: Option<String>,
    tokenizer: Option<String>,
    filters: Vec<String>,
}

async fn run(app: &App, call: &Call, index: Option<&Arc<Index>>) -> Result<Reply> {
    call.params.allow(&["index"])?;
    let wanted = read(&parse_object(&call.body)?)?;
    let analyzer = analyzer(&wanted, index)?;
    let analyze = move || {
        let texts: Vec<&str> = wanted.texts.iter().map(String::as_str).collect();
        analyzer.analyze(&texts, MAX_TOKENS).map_err(wrong)
    };
    let tokens = app.pools.read.run(analyze).await?;
    Ok(Reply::ok(&json!({"tokens": tokens.iter().map(shown).collect::<Vec<_>>()})))
}

fn wrong(error: egret_analyzers::Error) -> Error {
    Error::argument(error.to_string()).with_source(error)
}

fn read(body: &Map<String, Value>) -> Result<Wanted> {
    let mut wanted = Wanted::default();
    for (key, value) in body {
        let field = Field::new("analyze", key, value);
        match key.as_str() {
            "text" => wanted.texts = field.texts()?,
            "analyzer" => wanted.analyzer = Some(field.text()?),
            "field" => wanted.field = Some(field.text()?),
            "tokenizer" => wanted.tokenizer = Some(field.text()?),
            "filter" => wanted.filters = field.texts()?,
            "char_filter" if value.as_array().is_some_and(Vec::is_empty) => {}
            "explain" if !field.boolean()? => {}
            "char_filter" | "explain" => {
                return Err(Error::argument(format!("[{key}] of [_analyze] is not supported")));
            }
            _ => return Err(unknown_field("analyze", key, KEYS)),
        }
    }
    if wanted.texts.is_empty() {
        return Err(Error::validation("text is missing"));
    }
    Ok(wanted)
}

fn analyzer(wanted: &Wanted, index: Option<&Arc<Index>>) -> Result<Analyzer> {
    let filters: Vec<&str> = wanted.filters.iter().map(String::as_str).collect();
    let made = match (&wanted.analyzer, &wanted.tokenizer, &wanted.field) {
        (Some(_), Some(_), _) => {
            return Err(Error::validation("cannot define extra components on a named analyzer"));
        }
        (Some(_), None, _) if !filters.is_empty() => {
            return Err(Error::validation("cannot define extra components on a named analyzer"));
        }
        (Some(name), None, _) => Analyzer::named(name),
        (None, Some(tokenizer), _) => Analyzer::from_parts(tokenizer, &filters),
        (None, None, Some(field)) => {
            let index = index.ok_or_else(|| {
                Error::argument(format!("no index was given to look up the field [{field}]"))
            })?;
            let mapping = index.mapping();
            let name = mapping.field(field).map_or("standard", |field| field.analyzer.as_str());
            Analyzer::named(name)
        }
        (None, None, None) if filters.is_empty() => Analyzer::named("standard"),
        (None, None, None) => Analyzer::from_parts("keyword", &filters),
    };
    made.map_err(wrong)
}

fn shown(token: &AnalyzedToken) -> Value {
    json!({
        "token": token.text,
        "start_offset": token.start_offset,
        "end_offset": token.end_offset,
        "type": token.kind.name(),
        "position": token.position,
    })
}
