//! Points in time: `_pit`, and `_search/point_in_time` as OpenSearch names them.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use egret_engine::ErrorKind;
use egret_engine::query::ast::{Bool, Query};
use egret_engine::search::request::{Missing, SearchRequest, Sort, SortBy};
use serde_json::{Map, Value, json};

use super::{freshness, search, targets};
use crate::app::App;
use crate::contexts::{self, Held, Listed, Point};
use crate::dialect::json::{Field, parse_object};
use crate::dialect::query::empty_bool;
use crate::dialect::time;
use crate::error::{Error, Kind, Result};
use crate::http::{Call, Reply};

/// A point in time that a search names.
pub(super) struct Named {
    pub(super) id: String,
    pub(super) point: Arc<Point>,
}

/// The point in time that a search's body names, taken out of it.
pub(super) fn held(
    app: &App,
    body: &mut Map<String, Value>,
    expression: &str,
) -> Result<Option<Named>> {
    let Some(value) = body.remove("pit") else { return Ok(None) };
    if expression != "_all" {
        return Err(Error::validation(
            "[indices] cannot be used with point in time. Do not specify any index with point in \
             time.",
        ));
    }
    let (mut id, mut keep_alive) = (None, None);
    for (key, value) in Field::new("pit", "pit", &value).object()? {
        let field = Field::new("pit", key, value);
        match key.as_str() {
            "id" => id = Some(field.text()?),
            "keep_alive" => keep_alive = time::duration(&field.text()?, "keep_alive")?,
            _ => return Err(Error::content(format!("[pit] unknown field [{key}]"))),
        }
    }
    let id = id.ok_or_else(|| Error::argument("Required [id]"))?;
    match app.contexts.use_again(&id, keep_alive)? {
        Held::Point(point) => {
            alive(app, &id, &point)?;
            Ok(Some(Named { id, point }))
        }
        Held::Scroll(_) => Err(contexts::missing(&id)),
    }
}

/// The query that finds only what was to be seen when the point in time was opened.
pub(super) fn restrict(query: Query, point: &Point) -> Query {
    let Some(filter) = &point.filter else { return query };
    let filter = vec![filter.clone()];
    Query::Bool(Bool { must: vec![query], filter, ..empty_bool() })
}

/// Lets go of what is held of an index that has been deleted since.
pub(super) fn alive(app: &App, id: &str, point: &Point) -> Result<()> {
    let is_gone = |name: &str| match app.engine.index(name) {
        Err(error) => error.kind() == ErrorKind::IndexNotFound,
        Ok(_) => false,
    };
    if point.indexes.iter().any(|index| is_gone(index.name())) {
        app.contexts.release(id);
        return Err(contexts::missing(id));
    }
    Ok(())
}

/// Sorted hits of a point in time are told apart by their place, so that pages neither repeat nor
/// lose any.
pub(super) fn break_ties(request: &mut SearchRequest, held: bool) -> Result<()> {
    let named = request.sort.iter().any(|sort| sort.by == SortBy::ShardDoc);
    if named && !held {
        return Err(Error::validation(
            "[_shard_doc] sort field cannot be used without [point in time]",
        ));
    }
    if held && !named && !request.sort.is_empty() {
        request.sort.push(by_place());
    }
    Ok(())
}

/// The order of places.
pub(super) fn by_place() -> Sort {
    Sort {
        by: SortBy::ShardDoc,
        descending: false,
        missing: Missing::Last,
        mode: None,
        unmapped_type: None,
    }
}

const PARAMS: &[&str] =
    &["keep_alive", "preference", "allow_partial_search_results", "allow_partial_pit_creation"];

async fn hold(app: &App, expression: &str, call: &Call) -> Result<(String, usize)> {
    call.params.allow(&[PARAMS, targets::PARAMS, freshness::PARAMS].concat())?;
    let keep_alive = call.params.duration("keep_alive")?;
    let keep_alive =
        keep_alive.ok_or_else(|| Error::validation("[keep_alive] is not specified"))?;
    let (mut point, targets) =
        search::published_to_hold(app, &call.params, &call.headers, expression).await?;
    let everything = Query::MatchAll { boost: 1.0 };
    let shown = targets.restrict(everything.clone(), &point.snapshots)?;
    point.filter = (shown != everything).then_some(shown);
    let count = point.indexes.len();
    Ok((app.contexts.hold(Held::Point(Arc::new(point)), keep_alive)?, count))
}

fn shards(count: usize) -> Value {
    json!({"total": count, "successful": count, "skipped": 0, "failed": 0})
}

pub(super) async fn open(
    State(app): State<Arc<App>>,
    Path(expression): Path<String>,
    call: Call,
) -> Result<Reply> {
    let (id, count) = hold(&app, &expression, &call).await?;
    Ok(Reply::ok(&json!({"id": id, "_shards": shards(count)})))
}

pub(super) async fn open_point(
    State(app): State<Arc<App>>,
    Path(expression): Path<String>,
    call: Call,
) -> Result<Reply> {
    let (id, count) = hold(&app, &expression, &call).await?;
    let created = jiff::Timestamp::now().as_millisecond();
    Ok(Reply::ok(&json!({"pit_id": id, "_shards": shards(count), "creation_time": created})))
}

pub(super) async fn close(State(app): State<Arc<App>>, call: Call) -> Result<Reply> {
    call.params.allow(&[])?;
    let body = parse_object(&call.body)?;
    let id = body.get("id").map(|id| Field::new("pit", "id", id).text()).transpose()?;
    let id = id.filter(|_| body.len() == 1).ok_or_else(|| Error::validation("id is required"))?;
    let freed = app.contexts.release(&id);
    let status = if freed { StatusCode::OK } else { StatusCode::NOT_FOUND };
    Ok(Reply::json(status, &json!({"succeeded": true, "num_freed": u8::from(freed)})))
}

pub(super) async fn close_points(State(app): State<Arc<App>>, call: Call) -> Result<Reply> {
    call.params.allow(&[])?;
    let body = parse_object(&call.body)?;
    let ids = body.get("pit_id").map(|ids| Field::new("pit", "pit_id", ids).texts()).transpose()?;
    let ids = ids.filter(|_| body.len() == 1);
    let ids = ids.ok_or_else(|| Error::validation("pit ids are required"))?;
    let closed: Vec<Value> = ids
        .iter()
        .map(|id| json!({"pit_id": id, "successful": app.contexts.release(id)}))
        .collect();
    if closed.iter().all(|one| one["successful"] == false) && !closed.is_empty() {
        let reason = format!("No point in time found for ids [{}]", ids.join(","));
        return Err(Error::new(Kind::NotFound, reason));
    }
    Ok(Reply::ok(&json!({ "pits": closed })))
}

pub(super) async fn close_all(State(app): State<Arc<App>>, call: Call) -> Result<Reply> {
    call.params.allow(&[])?;
    let release = |listed: Listed| {
        let successful = app.contexts.release(&listed.id);
        json!({"pit_id": listed.id, "successful": successful})
    };
    let closed: Vec<Value> = app.contexts.list(true).into_iter().map(release).collect();
    Ok(Reply::ok(&json!({ "pits": closed })))
}

pub(super) async fn list(State(app): State<Arc<App>>, call: Call) -> Result<Reply> {
    call.params.allow(&[])?;
    let show = |listed: &Listed| {
        let keep_alive = u64::try_from(listed.keep_alive.as_millis()).unwrap_or(u64::MAX);
        json!({"pit_id": listed.id, "creation_time": listed.created_ms, "keep_alive": keep_alive})
    };
    let open: Vec<Value> = app.contexts.list(true).iter().map(show).collect();
    Ok(Reply::ok(&json!({ "pits": open })))
}
