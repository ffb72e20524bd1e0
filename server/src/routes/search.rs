//! `_search`: by a body, by `q=`, or both ways at once.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use egret_engine::mapping::{FieldKind as Kind, Mapping};
use egret_engine::query::ast::{Operator, Query};
use egret_engine::search::request::{SearchRequest, SourceFilter, TrackTotalHits};
use egret_engine::{Checkpoint, Index, Snapshot};
use serde_json::{Map, Value};

use super::targets::{self, Targets};
use super::tasks::opaque_id;
use super::{document, freshness, pit, scroll};
use crate::app::App;
use crate::cached_search::{self, CacheUse, Search};
use crate::contexts::Point;
use crate::dialect::json::{Field, parse_object};
use crate::dialect::lucene::{TextOptions, parse};
use crate::dialect::query::{FieldKind, Fields, QueryReader, operator};
use crate::dialect::response::Shape;
use crate::dialect::{search as dialect, sort};
use crate::error::{Error, Result};
use crate::http::{Call, Params, Reply};
use crate::searches::Asked;
use egret_engine::catalog::pattern::matches;

/// Parameters of `q=`.
pub(super) const TEXT: &[&str] =
    &["q", "df", "default_operator", "analyzer", "analyze_wildcard", "lenient"];

const KNOWN: &[&str] = &[
    "from",
    "size",
    "sort",
    "_source",
    "_source_includes",
    "_source_excludes",
    "stored_fields",
    "docvalue_fields",
    "track_total_hits",
    "track_scores",
    "timeout",
    "terminate_after",
    "version",
    "seq_no_primary_term",
    "explain",
    "typed_keys",
    "rest_total_hits_as_int",
    "request_cache",
    "scroll",
    "search_type",
    "allow_partial_search_results",
    // Of no consequence on one node, where every index has one shard.
    "preference",
    "batched_reduce_size",
    "ccs_minimize_roundtrips",
    "max_concurrent_shard_requests",
    "pre_filter_shard_size",
];

pub(super) async fn search_all(State(app): State<Arc<App>>, call: Call) -> Result<Reply> {
    counted(&app, &call, "_all").await
}

pub(super) async fn search(
    State(app): State<Arc<App>>,
    Path(index): Path<String>,
    call: Call,
) -> Result<Reply> {
    counted(&app, &call, &index).await
}

async fn counted(app: &Arc<App>, call: &Call, expression: &str) -> Result<Reply> {
    call.params.allow(&[KNOWN, TEXT, targets::PARAMS, freshness::PARAMS].concat())?;
    let ask = Ask { params: &call.params, headers: &call.headers, body: &call.body, expression };
    let found = run(app, &ask).await?;
    let reply = Reply::raw_json(StatusCode::OK, found.body).with("egret-cache", found.cache.name());
    Ok(freshness::mark(reply, found.checkpoints.into_iter()))
}

/// A search's answer.
pub(super) struct Found {
    /// The JSON.
    pub(super) body: Vec<u8>,
    pub(super) cache: CacheUse,
    pub(super) checkpoints: Vec<Option<Checkpoint>>,
}

/// A search as it is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ask<'a> {
    pub(super) params: &'a Params,
    pub(super) headers: &'a HeaderMap,
    pub(super) body: &'a Bytes,
    pub(super) expression: &'a str,
}

impl Ask<'_> {
    pub(super) fn asked(&self) -> Asked {
        Asked { opaque_id: opaque_id(self.headers), source: self.body.clone() }
    }
}

/// Runs a search and counts it.
pub(super) async fn run(app: &App, ask: &Ask<'_>) -> Result<Found> {
    let started = Instant::now();
    let answer = found(app, ask, started).await;
    app.statistics.searched(started.elapsed());
    if answer.is_err() {
        app.statistics.search_failures.fetch_add(1, Relaxed);
    }
    answer
}

async fn found(app: &App, ask: &Ask<'_>, started: Instant) -> Result<Found> {
    let Ask { params, expression, .. } = *ask;
    let limits = &app.config.search;
    let mut body = parse_object(ask.body)?;
    let held = pit::held(app, &mut body, expression)?;
    let (point, targets) = if let Some(held) = &held {
        freshness::is_held(params, ask.headers, &held.point)?;
        (Point::clone(&held.point), None)
    } else {
        let (point, targets) = if params.has("scroll") {
            published_to_hold(app, params, ask.headers, expression).await?
        } else {
            published(app, params, ask.headers, expression).await?
        };
        (point, Some(targets))
    };
    let mut request = read(&body, params, &SnapshotFields(&point.snapshots))?;
    request.query = match targets {
        Some(targets) => targets.restrict(request.query, &point.snapshots)?,
        None => pit::restrict(request.query, &point),
    };
    pit::break_ties(&mut request, held.is_some())?;
    if params.has("scroll") {
        return scroll::begin(app, ask, point, request, started).await;
    }
    let Point { indexes, snapshots, checkpoints, .. } = point;
    check(app, &request, &indexes, false)?;
    if request.timeout.is_none() {
        request.timeout = limits.default_timeout();
    }
    let shape = Shape {
        typed_keys: params.is_true("typed_keys")?,
        total_as_int: params.is_true("rest_total_hits_as_int")?,
    };
    // What is held is not what is published: its answers are nobody else's.
    let may_cache = params.boolean("request_cache")?.unwrap_or(true) && held.is_none();
    let partial = params.boolean("allow_partial_search_results")?.unwrap_or(true);
    let asked = ask.asked();
    let search = Search { indexes, snapshots, request, shape, asked, partial };
    let (rest, cache) = cached_search::answer(app, search, may_cache).await?;
    let id = held.map(|held| ("pit_id", held.id));
    Ok(Found { body: opened(id, started, &rest), cache, checkpoints })
}

/// Checks the whole request. Each index says how far it may reach, or the configuration for it.
pub(super) fn check(
    app: &App,
    request: &SearchRequest,
    indexes: &[Arc<Index>],
    scroll: bool,
) -> Result<()> {
    let default = app.config.search.max_result_window;
    if indexes.is_empty() {
        dialect::reach(request, default, scroll)?;
    }
    for index in indexes {
        let own = index.max_result_window().map(|own| usize::try_from(own).unwrap_or(usize::MAX));
        dialect::reach(request, own.unwrap_or(default), scroll)
            .map_err(|error| error.with_index(index.name()))?;
    }
    dialect::check(request)
}

/// The beginning of an answer, put before the rest.
pub(super) fn opened(id: Option<(&str, String)>, started: Instant, rest: &[u8]) -> Vec<u8> {
    let id = id.map_or(String::new(), |(key, id)| format!("\"{key}\":\"{id}\","));
    let mut body = format!("{{{id}\"took\":{},", started.elapsed().as_millis()).into_bytes();
    body.extend_from_slice(rest);
    body
}

/// What is published of the indexes that an expression names.
pub(super) async fn published(
    app: &App,
    params: &Params,
    headers: &HeaderMap,
    expression: &str,
) -> Result<(Point, Targets)> {
    let mut targets = Targets::searched(app, expression, params)?;
    freshness::wait(app, params, headers, &mut targets.indexes).await?;
    let indexes = targets.indexes.clone();
    let (snapshots, checkpoints) = freshness::snapshots(&indexes);
    Ok((Point { indexes, snapshots, checkpoints, filter: None, _memory: None }, targets))
}

/// As [`published`], to be held. Where it would keep too much in memory, the indexes are flushed, so that
/// it keeps files instead.
pub(super) async fn published_to_hold(
    app: &App,
    params: &Params,
    headers: &HeaderMap,
    expression: &str,
) -> Result<(Point, Targets)> {
    let (mut point, targets) = published(app, params, headers, expression).await?;
    let memory = &app.contexts.memory;
    let share = if let Ok(share) = memory.share(&point.snapshots) {
        share
    } else {
        let indexes = point.indexes.clone();
        let flush = move || {
            // Published again, what has been written meanwhile is read from the files, too.
            let flush = |index: &Arc<Index>| index.flush().and_then(|()| index.refresh());
            Ok(indexes.iter().try_for_each(flush)?)
        };
        app.pools.manage.run(flush).await?;
        (point.snapshots, point.checkpoints) = freshness::snapshots(&point.indexes);
        memory.share(&point.snapshots)?
    };
    Ok((Point { _memory: Some(Arc::new(share)), ..point }, targets))
}

/// The request of a body and the parameters beside it, which go before it.
fn read(body: &Map<String, Value>, params: &Params, fields: &dyn Fields) -> Result<SearchRequest> {
    let mut request = dialect::read(body, fields)?;
    if let Some(query) = text_query(params, fields)? {
        request.query = query;
    }
    if let Some(from) = params.count("from")? {
        request.from = from;
    }
    if let Some(size) = params.count("size")? {
        request.size = size;
    }
    if let Some(sort) = params.filled("sort") {
        request.sort = sort::read_parameter(sort)?;
    }
    if ["_source", "_source_includes", "_source_excludes"].iter().any(|key| params.has(key)) {
        request.source = document::source_filter(params);
    }
    if let Some(scores) = params.boolean("track_scores")? {
        request.track_scores = scores;
    }
    if let Some(version) = params.boolean("version")? {
        request.version = version;
    }
    if let Some(seq_no) = params.boolean("seq_no_primary_term")? {
        request.seq_no_primary_term = seq_no;
    }
    if let Some(timeout) = params.duration("timeout")? {
        request.timeout = Some(timeout);
    }
    if let Some(count) = params.count("terminate_after")? {
        request.terminate_after = (count > 0).then_some(count as u64);
    }
    let stored = params.list("stored_fields");
    if !dialect::stored_fields(&stored)? && !stored.is_empty() && !params.has("_source") {
        request.source = SourceFilter::None;
    }
    request.docvalue_fields.extend(params.list("docvalue_fields"));
    if params.is_true("explain")? {
        return Err(Error::argument("[explain] is not supported"));
    }
    search_type(params)?;
    total_hits(body, params, &mut request)?;
    Ok(request)
}

fn search_type(params: &Params) -> Result<()> {
    for key in ["batched_reduce_size", "max_concurrent_shard_requests", "pre_filter_shard_size"] {
        if params.integer(key)?.is_some_and(|number| number < 1) {
            return Err(Error::argument(format!("[{key}] must be >= 1")));
        }
    }
    params.boolean("ccs_minimize_roundtrips")?;
    match params.filled("search_type") {
        None | Some("query_then_fetch" | "dfs_query_then_fetch") => Ok(()),
        Some(other) => Err(Error::argument(format!("No search type for [{other}]"))),
    }
}

/// `track_total_hits`, which must be exact where the total is to be a plain number.
fn total_hits(
    body: &Map<String, Value>,
    params: &Params,
    request: &mut SearchRequest,
) -> Result<()> {
    let given = params.filled("track_total_hits").map(Value::from);
    if let Some(value) = &given {
        let field = Field::new("search", "track_total_hits", value);
        request.track_total_hits = dialect::track_total_hits(&field)?;
    }
    if !params.is_true("rest_total_hits_as_int")? {
        return Ok(());
    }
    let TrackTotalHits::UpTo(limit) = request.track_total_hits else { return Ok(()) };
    if given.is_some() || body.contains_key("track_total_hits") {
        return Err(Error::argument(format!(
            "[rest_total_hits_as_int] cannot be used if the tracking of total hits is not \
             accurate, got {limit}"
        )));
    }
    request.track_total_hits = TrackTotalHits::Exact;
    Ok(())
}

/// The query of `q=`.
pub(super) fn text_query(params: &Params, fields: &dyn Fields) -> Result<Option<Query>> {
    let Some(text) = params.text("q") else {
        for key in TEXT {
            if params.has(key) {
                return Err(Error::argument(format!("[{key}] needs [q]")));
            }
        }
        return Ok(None);
    };
    if params.is_true("analyze_wildcard")? {
        return Err(Error::argument("[analyze_wildcard] is not supported"));
    }
    let default_fields = params.filled("df").filter(|field| *field != "*");
    let default_fields: Vec<_> =
        default_fields.map(|field| (field.to_owned(), 1.0)).into_iter().collect();
    let combine = params.filled("default_operator").map(Value::from);
    let options = TextOptions {
        lenient: params.boolean("lenient")?.unwrap_or(default_fields.is_empty()),
        fields: default_fields,
        operator: combine.map_or(Ok(Operator::Or), |value| {
            operator(&Field::new("query_string", "default_operator", &value))
        })?,
        analyzer: params.filled("analyzer").map(str::to_owned),
        ..TextOptions::default()
    };
    parse(&mut QueryReader::new(fields), text, &options).map(Some)
}

/// The fields of the indexes that are searched.
pub(super) struct SnapshotFields<'s>(pub(super) &'s [Arc<Snapshot>]);

impl Fields for SnapshotFields<'_> {
    fn matching(&self, pattern: &str) -> Vec<(String, FieldKind)> {
        let mut found: Vec<(String, FieldKind)> = Vec::new();
        let mappings = self.0.iter().map(|snapshot| snapshot.mapping());
        let fields = mappings.flat_map(Mapping::fields);
        for field in fields.filter(|field| matches(pattern, &field.path)) {
            let kind = match field.kind {
                Kind::Text => FieldKind::Text,
                Kind::Keyword => FieldKind::Keyword,
                _ => FieldKind::Other,
            };
            if !found.iter().any(|(path, _)| *path == field.path) {
                found.push((field.path.clone(), kind));
            }
        }
        found
    }
}
