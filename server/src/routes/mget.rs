//! `_mget`: several documents by id.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use egret_engine::Index;
use egret_engine::search::request::SourceFilter;
use serde_json::{Map, Value};

use super::{document, freshness, targets};
use crate::app::App;
use crate::dialect::json::{Field, parse_object};
use crate::dialect::source;
use crate::error::{Error, Result};
use crate::http::{Call, Reply};
use crate::searches::Assembled;

/// A request may ask for so many documents.
const MAX_DOCUMENTS: usize = 10_000;

pub(super) async fn mget(State(app): State<Arc<App>>, call: Call) -> Result<Reply> {
    run(&app, &call, None).await
}

pub(super) async fn mget_in(
    State(app): State<Arc<App>>,
    Path(index): Path<String>,
    call: Call,
) -> Result<Reply> {
    run(&app, &call, Some(&index)).await
}

/// One document that is asked for.
struct Wanted {
    index: String,
    id: String,
    filter: SourceFilter,
}

async fn run(app: &App, call: &Call, default_index: Option<&str>) -> Result<Reply> {
    const KNOWN: &[&str] =
        &["_source", "_source_includes", "_source_excludes", "realtime", "refresh", "preference"];
    call.params.allow(&[KNOWN, freshness::PARAMS].concat())?;
    let default_filter = document::source_filter(&call.params);
    let wanted = read(&parse_object(&call.body)?, default_index, &default_filter)?;
    let mut indexes: Vec<Arc<Index>> = Vec::new();
    for name in wanted.iter().map(|wanted| &wanted.index) {
        // What is not there is said where it is asked for.
        let Ok(index) = targets::single(app, name) else { continue };
        if !indexes.iter().any(|known| known.uuid() == index.uuid()) {
            indexes.push(index);
        }
    }
    freshness::wait(app, &call.params, &call.headers, &mut indexes).await?;
    // Taken before the documents are read, so that it promises no more than was seen.
    let (_, checkpoints) = freshness::snapshots(&indexes);
    let mut body = Assembled::new(&app.breaker, b"{\"docs\":[".to_vec());
    let memory = body.memory();
    for (at, Wanted { index: name, id, filter }) in wanted.iter().enumerate() {
        if at > 0 {
            body.push(b",");
        }
        let part = match targets::single(app, name) {
            Ok(index) => {
                let found = document::find(app, &index, id, &call.params).await?;
                document::written(index.name(), id, found.as_ref(), filter)?
            }
            Err(error) => document::failed(name, id, &error).to_string().into_bytes(),
        };
        memory.take(part.len() as u64)?;
        body.push(&part);
    }
    body.push(b"]}");
    let reply = Reply::raw_json(StatusCode::OK, body.into_bytes());
    Ok(freshness::mark(reply, checkpoints.into_iter()))
}

fn read(
    body: &Map<String, Value>,
    default_index: Option<&str>,
    default_filter: &SourceFilter,
) -> Result<Vec<Wanted>> {
    let index = |given: Option<String>| {
        let index = given.or_else(|| default_index.map(str::to_owned));
        index.ok_or_else(|| Error::validation("index is missing for doc 0"))
    };
    let mut wanted = Vec::new();
    for (key, value) in body {
        let field = Field::new("mget", key, value);
        match key.as_str() {
            "docs" => {
                for element in field.array()? {
                    let (given, id, filter) = one(element)?;
                    let filter = filter.unwrap_or_else(|| default_filter.clone());
                    wanted.push(Wanted { index: index(given)?, id, filter });
                }
            }
            "ids" => {
                for id in field.array()? {
                    let id = Field::new("mget", "ids", id).text()?;
                    wanted.push(Wanted { index: index(None)?, id, filter: default_filter.clone() });
                }
            }
            _ => {
                return Err(Error::parsing(format!("unknown key [{key}] in the body of [mget]")));
            }
        }
    }
    if wanted.is_empty() {
        return Err(Error::validation("no documents to get"));
    }
    if wanted.len() > MAX_DOCUMENTS {
        return Err(Error::argument(format!(
            "[mget] asks for [{}] documents, more than [{MAX_DOCUMENTS}]",
            wanted.len()
        )));
    }
    Ok(wanted)
}

type One = (Option<String>, String, Option<SourceFilter>);

fn one(element: &Value) -> Result<One> {
    if let Value::String(id) = element {
        return Ok((None, id.clone(), None));
    }
    let (mut index, mut id, mut filter) = (None, None, None);
    for (key, value) in Field::new("mget", "docs", element).object()? {
        let field = Field::new("mget", key, value);
        match key.as_str() {
            "_index" => index = Some(field.text()?),
            "_id" => id = Some(field.text()?),
            "_source" => filter = Some(source::read(value)?),
            _ => {
                return Err(Error::parsing(format!("unknown key [{key}] in a document of [mget]")));
            }
        }
    }
    let id = id.ok_or_else(|| Error::validation("id is missing for doc 0"))?;
    Ok((index, id, filter))
}
