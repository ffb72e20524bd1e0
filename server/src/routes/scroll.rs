//! `scroll`: all hits of a search, page by page, as they were when it began.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use egret_engine::Control;
use egret_engine::search::request::{SearchRequest, Sort, SortBy, TrackTotalHits};
use serde_json::json;

use super::freshness;
use super::pit::{alive, by_place};
use super::search::{self, Ask, Found, opened};
use super::tasks::opaque_id;
use crate::app::App;
use crate::cached_search::CacheUse;
use crate::contexts::{self, Held, Point, Scroll};
use crate::dialect::json::{Field, parse_object};
use crate::dialect::response::{self, Shape};
use crate::dialect::time;
use crate::error::{Error, Result};
use crate::http::{Call, Params, Reply};
use crate::searches::{self, Asked};

/// Begins a scroll and gives its first page.
pub(super) async fn begin(
    app: &App,
    ask: &Ask<'_>,
    point: Point,
    mut request: SearchRequest,
    started: Instant,
) -> Result<Found> {
    let params = ask.params;
    check(params, &request)?;
    search::check(app, &request, &point.indexes, true)?;
    let keep_alive = params.duration("scroll")?;
    let keep_alive = keep_alive.ok_or_else(|| Error::argument("[scroll] must be a time"))?;
    let shown_keys = request.sort.len();
    arrange(&mut request);
    request.track_total_hits = TrackTotalHits::Exact;
    let shape = Shape {
        typed_keys: params.is_true("typed_keys")?,
        total_as_int: params.is_true("rest_total_hits_as_int")?,
    };
    let checkpoints = point.checkpoints.clone();
    let mut scroll = Scroll { point, request, shown_keys, total: None, shape };
    let rest = page(app, &ask.asked(), &mut scroll).await?;
    let held = Held::Scroll(Arc::new(tokio::sync::Mutex::new(scroll)));
    let id = app.contexts.hold(held, keep_alive)?;
    let body = opened(Some(("_scroll_id", id)), started, &rest);
    Ok(Found { body, cache: CacheUse::Bypass, checkpoints })
}

/// Refuses what would lose or repeat hits from page to page.
fn check(params: &Params, request: &SearchRequest) -> Result<()> {
    if request.from > 0 {
        return Err(Error::validation("using [from] is not allowed in a scroll context"));
    }
    if request.size == 0 {
        return Err(Error::validation("[size] cannot be [0] in a scroll context"));
    }
    if request.search_after.is_some() {
        return Err(Error::validation("[search_after] cannot be used in a scroll context"));
    }
    if params.is_true("request_cache")? {
        return Err(Error::validation("[request_cache] cannot be used in a scroll context"));
    }
    if request.timeout.is_some() || request.terminate_after.is_some() {
        return Err(Error::validation(
            "[timeout] and [terminate_after] cannot be used in a scroll context",
        ));
    }
    match request.track_total_hits {
        TrackTotalHits::Off => Err(Error::validation(
            "disabling [track_total_hits] is not allowed in a scroll context",
        )),
        TrackTotalHits::Exact | TrackTotalHits::UpTo(_) => Ok(()),
    }
}

/// Gives every hit a place of its own in the order.
fn arrange(request: &mut SearchRequest) {
    match request.sort.as_slice() {
        [] => {
            request.sort.push(Sort { by: SortBy::Score, descending: true, ..by_place() });
            request.track_scores = true;
        }
        // The order of the documents, which is read from where the last page ended.
        [only] if only.by == SortBy::Doc && !only.descending => request.sort.clear(),
        _ => {}
    }
    request.sort.push(by_place());
}

/// The next page, without the beginning of its JSON.
async fn page(app: &App, asked: &Asked, scroll: &mut Scroll) -> Result<Vec<u8>> {
    let (snapshots, request) = (scroll.point.snapshots.clone(), scroll.request.clone());
    let (known, shown_keys, shape) = (scroll.total, scroll.shown_keys, scroll.shape);
    let search = move |control: &Control| {
        let mut found = searches::search(&snapshots, &request)?;
        found.total = known.or(found.total);
        let last = found.hits.last().map(|hit| hit.sort.clone());
        found.hits.iter_mut().for_each(|hit| hit.sort.truncate(shown_keys));
        let written = response::write(&request, &found, snapshots.len(), shape);
        control.take(written.len() as u64)?;
        Ok((written, found.total, last))
    };
    let indexes: Vec<&str> = scroll.point.indexes.iter().map(|index| index.name()).collect();
    let (written, total, last) = searches::run(app, asked, &indexes, search).await?;
    scroll.total = total;
    scroll.request.track_total_hits = TrackTotalHits::Off;
    scroll.request.aggregations.clear();
    if last.is_some() {
        scroll.request.search_after = last;
    }
    Ok(written)
}

const PARAMS: &[&str] = &["scroll", "scroll_id", "rest_total_hits_as_int"];

pub(super) async fn next(State(app): State<Arc<App>>, call: Call) -> Result<Reply> {
    go_on(&app, &call, None).await
}

pub(super) async fn next_of(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    call: Call,
) -> Result<Reply> {
    go_on(&app, &call, Some(id)).await
}

async fn go_on(app: &App, call: &Call, id: Option<String>) -> Result<Reply> {
    let started = Instant::now();
    call.params.allow(PARAMS)?;
    let mut id = id.or_else(|| call.params.filled("scroll_id").map(str::to_owned));
    let mut keep_alive = call.params.duration("scroll")?;
    for (key, value) in &parse_object(&call.body)? {
        let field = Field::new("scroll", key, value);
        match key.as_str() {
            "scroll_id" => id = Some(field.text()?),
            "scroll" => keep_alive = time::duration(&field.text()?, "scroll")?,
            _ => {
                return Err(Error::argument(format!(
                    "Unknown parameter [{key}] in request body or parameter is of the wrong type"
                )));
            }
        }
    }
    let id = id.ok_or_else(|| Error::validation("scrollId is missing"))?;
    let Held::Scroll(scroll) = app.contexts.use_again(&id, keep_alive)? else {
        return Err(contexts::missing(&id));
    };
    let mut scroll = scroll.lock().await;
    alive(app, &id, &scroll.point)?;
    scroll.shape.total_as_int = call.params.is_true("rest_total_hits_as_int")?;
    let asked = Asked { opaque_id: opaque_id(&call.headers), source: call.body.clone() };
    let read = page(app, &asked, &mut scroll).await;
    app.statistics.searched(started.elapsed());
    let body = opened(Some(("_scroll_id", id)), started, &read?);
    let reply = Reply::raw_json(StatusCode::OK, body);
    Ok(freshness::mark(reply, scroll.point.checkpoints.iter().copied()))
}

pub(super) async fn close(State(app): State<Arc<App>>, call: Call) -> Result<Reply> {
    call.params.allow(&["scroll_id"])?;
    let mut ids = call.params.list("scroll_id");
    for (key, value) in &parse_object(&call.body)? {
        if key != "scroll_id" {
            return Err(Error::argument(format!(
                "Unknown parameter [{key}] in request body or parameter is of the wrong type"
            )));
        }
        ids = Field::new("scroll", key, value).texts()?;
    }
    release(&app, ids)
}

pub(super) async fn close_one(
    State(app): State<Arc<App>>,
    Path(ids): Path<String>,
    call: Call,
) -> Result<Reply> {
    call.params.allow(&[])?;
    let named = parse_object(&call.body)?;
    let ids = match named.get("scroll_id") {
        Some(ids) => Field::new("scroll", "scroll_id", ids).texts()?,
        None => ids.split(',').map(str::to_owned).collect(),
    };
    release(&app, ids)
}

fn release(app: &App, mut ids: Vec<String>) -> Result<Reply> {
    if ids.is_empty() {
        return Err(Error::validation("no scroll ids specified"));
    }
    let all = ids == ["_all"];
    if all {
        ids = app.contexts.list(false).into_iter().map(|listed| listed.id).collect();
    }
    let freed = ids.iter().filter(|id| app.contexts.release(id)).count();
    let status = if freed > 0 || all { StatusCode::OK } else { StatusCode::NOT_FOUND };
    Ok(Reply::json(status, &json!({"succeeded": true, "num_freed": freed})))
}
