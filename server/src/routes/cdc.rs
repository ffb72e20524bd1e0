//! `/_cdc`: where pipelines stand, and what they are told: declared, paused, resumed, restarted,
//! dropped, to copy a table again; and their dead letters.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use egret_cdc::{LetterFilter, PipelineConfig, PipelineHandle};
use serde_json::{Value, json};

use crate::app::App;
use crate::dialect::json::parse_object;
use crate::error::{Error, Result};
use crate::http::{Call, Params, Reply};
use crate::pipelines::DropOptions;

/// Dead letters that an answer has unless told, and the most that it can be told.
const PAGE: usize = 100;
const MAX_PAGE: usize = 1_000;

/// What stands in the place of a password.
const HIDDEN: &str = "********";

pub(super) async fn status(State(app): State<Arc<App>>, call: Call) -> Result<Reply> {
    call.params.allow(&[])?;
    let pipelines = app.pipelines.all();
    let pipelines: Vec<_> = pipelines.iter().map(|pipeline| pipeline.status()).collect();
    Ok(Reply::ok(&json!({"pipelines": pipelines})))
}

pub(super) async fn read(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    call: Call,
) -> Result<Reply> {
    call.params.allow(&[])?;
    let pipeline = app.pipelines.named(&name)?;
    let mut shown = json!(pipeline.status());
    shown["declared_in"] = if app.pipelines.is_in_file(&name) { "file" } else { "api" }.into();
    shown["configuration"] = configuration(&pipeline);
    Ok(Reply::ok(&shown))
}

/// The configuration without its credentials.
fn configuration(pipeline: &PipelineHandle) -> Value {
    let mut shown = json!(pipeline.config());
    shown["url"] = without_password(&pipeline.config().url).into();
    if pipeline.config().password.is_some() {
        shown["password"] = HIDDEN.into();
    }
    shown
}

/// A URL whose password, in its authority or its parameters, is hidden.
fn without_password(url: &str) -> String {
    let (base, query) = url.split_once('?').unwrap_or((url, ""));
    let mut shown = match base.split_once("://").and_then(|(scheme, rest)| {
        let (user, place) = rest.rsplit_once('@')?;
        let (user, _) = user.split_once(':')?;
        Some(format!("{scheme}://{user}:{HIDDEN}@{place}"))
    }) {
        Some(shown) => shown,
        None => base.to_owned(),
    };
    for (at, pair) in query.split('&').filter(|pair| !pair.is_empty()).enumerate() {
        shown.push(if at == 0 { '?' } else { '&' });
        match pair.split_once('=') {
            Some((name, _)) if name.contains("password") => {
                shown.extend([name, "=", HIDDEN]);
            }
            _ => shown.push_str(pair),
        }
    }
    shown
}

pub(super) async fn declare(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    call: Call,
) -> Result<Reply> {
    call.params.allow(&[])?;
    let mut body = parse_object(&call.body)?;
    let named = body.insert("name".to_owned(), name.clone().into());
    if named.is_some_and(|named| named != *name) {
        return Err(Error::argument(format!("the name in the body is not [{name}]")));
    }
    let pipeline: PipelineConfig = serde_json::from_value(body.into()).map_err(|error| {
        Error::argument(format!("pipeline [{name}]: {error}")).with_source(error)
    })?;
    let is_new = app.pipelines.declare(pipeline).await?;
    let code = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok(Reply::json(code, &json!({"acknowledged": true, "pipeline": name})))
}

pub(super) async fn delete(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    call: Call,
) -> Result<Reply> {
    call.params.allow(&["force", "delete_indexes"])?;
    let force = call.params.is_true("force")?;
    let deletes_indexes = call.params.is_true("delete_indexes")?;
    app.pipelines.drop(&name, DropOptions { force, deletes_indexes }).await?;
    Ok(acknowledged())
}

pub(super) async fn pause(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    call: Call,
) -> Result<Reply> {
    call.params.allow(&[])?;
    app.pipelines.named(&name)?.pause().await?;
    Ok(acknowledged())
}

pub(super) async fn resume(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    call: Call,
) -> Result<Reply> {
    call.params.allow(&[])?;
    app.pipelines.named(&name)?.resume().await?;
    Ok(acknowledged())
}

pub(super) async fn restart(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    call: Call,
) -> Result<Reply> {
    call.params.allow(&[])?;
    app.pipelines.named(&name)?.restart().await?;
    Ok(acknowledged())
}

pub(super) async fn copy(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    call: Call,
) -> Result<Reply> {
    call.params.allow(&["table"])?;
    let table = call.params.filled("table");
    let table = table.ok_or_else(|| Error::argument("[table] is missing: schema.table"))?;
    app.pipelines.named(&name)?.copy(table).await?;
    Ok(acknowledged())
}

fn acknowledged() -> Reply {
    Reply::ok(&json!({"acknowledged": true}))
}

/// Which letters a request means. One is named by its index, its table and its `_id`.
fn filter(params: &Params) -> Result<LetterFilter> {
    let text = |key: &str| params.text(key).map(str::to_owned);
    let (index, table, id) = (text("index"), text("table"), text("id"));
    if id.is_some() && table.is_none() {
        return Err(Error::argument("[id] needs [table]: schema.table"));
    }
    Ok(LetterFilter { index, table, id })
}

pub(super) async fn letters(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    call: Call,
) -> Result<Reply> {
    call.params.allow(&["index", "table", "id", "from", "size"])?;
    let pipeline = app.pipelines.named(&name)?;
    let filter = filter(&call.params)?;
    let from = call.params.count("from")?.unwrap_or_default();
    let size = call.params.count("size")?.unwrap_or(PAGE);
    if size > MAX_PAGE {
        return Err(Error::argument(format!("[size] [{size}] is above [{MAX_PAGE}]")));
    }
    let page = move || Ok(pipeline.dead_letters(&filter, from, size)?);
    let (total, letters) = app.pools.read.run(page).await?;
    Ok(Reply::ok(&json!({"total": total, "dead_letters": letters})))
}

pub(super) async fn retry(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    call: Call,
) -> Result<Reply> {
    call.params.allow(&["index", "table", "id"])?;
    let summary = app.pipelines.named(&name)?.retry(&filter(&call.params)?).await?;
    Ok(Reply::ok(&summary))
}

pub(super) async fn purge(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    call: Call,
) -> Result<Reply> {
    call.params.allow(&["index", "table", "id"])?;
    let pipeline = app.pipelines.named(&name)?;
    let filter = filter(&call.params)?;
    let purged = app.pools.manage.run(move || Ok(pipeline.purge(&filter)?)).await?;
    Ok(Reply::ok(&json!({"purged": purged})))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_hidden() {
        let check = |url: &str, expected: &str| assert_eq!(without_password(url), expected);
        check("postgres://u:p%40ss@h:5/d", "postgres://u:********@h:5/d");
        check("postgres://u@h/d?sslmode=require", "postgres://u@h/d?sslmode=require");
        check("postgres://u:a:b@c@h/d", "postgres://u:********@h/d");
        check("postgres://h/d?user=u&password=x", "postgres://h/d?user=u&password=********");
    }
}
