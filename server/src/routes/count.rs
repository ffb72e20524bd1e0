//! `_count`.

use std::sync::Arc;

use axum::extract::{Path, State};
use egret_engine::search::request::{SearchRequest, TrackTotalHits};
use egret_engine::{Control, Snapshot};
use serde_json::json;

use super::freshness;
use super::search::{SnapshotFields, TEXT, text_query};
use super::targets::{self, Targets};
use super::tasks::opaque_id;
use crate::app::App;
use crate::dialect::json::parse_object;
use crate::dialect::search::read_count;
use crate::error::{Error, Kind, Result};
use crate::http::{Call, Reply};
use crate::searches::{self, Asked};

pub(super) async fn count_all(State(app): State<Arc<App>>, call: Call) -> Result<Reply> {
    run(&app, &call, "_all").await
}

pub(super) async fn count(
    State(app): State<Arc<App>>,
    Path(index): Path<String>,
    call: Call,
) -> Result<Reply> {
    run(&app, &call, &index).await
}

async fn run(app: &App, call: &Call, expression: &str) -> Result<Reply> {
    let params = &call.params;
    let known: &[&str] = &["preference", "terminate_after"];
    params.allow(&[TEXT, targets::PARAMS, freshness::PARAMS, known].concat())?;
    let terminate_after = params.count("terminate_after")?.filter(|count| *count > 0);
    let mut targets = Targets::searched(app, expression, params)?;
    freshness::wait(app, params, &call.headers, &mut targets.indexes).await?;
    let (snapshots, checkpoints) = freshness::snapshots(&targets.indexes);
    let fields = SnapshotFields(&snapshots);
    let mut query = read_count(&parse_object(&call.body)?, &fields)?;
    if let Some(text) = text_query(params, &fields)? {
        query = text;
    }
    let query = targets.restrict(query, &snapshots)?;
    let shards = snapshots.len();
    let asked = Asked { opaque_id: opaque_id(&call.headers), source: call.body.clone() };
    let names: Vec<&str> = targets.indexes.iter().map(|index| index.name()).collect();
    let request = SearchRequest {
        query,
        size: 0,
        track_total_hits: TrackTotalHits::Exact,
        terminate_after: terminate_after.map(|count| count as u64),
        timeout: app.config.search.default_timeout(),
        ..SearchRequest::default()
    };
    let count = move |_: &Control| counted(&snapshots, &request);
    let (count, terminated_early) = searches::run(app, &asked, &names, count).await?;
    let mut answer = json!({
        "count": count,
        "_shards": {"total": shards, "successful": shards, "skipped": 0, "failed": 0},
    });
    if terminate_after.is_some() {
        answer["terminated_early"] = terminated_early.into();
    }
    Ok(freshness::mark(Reply::ok(&answer), checkpoints.into_iter()))
}

/// How many documents there are, and whether it looked for no more. What is counted until the time is
/// over is no count.
fn counted(snapshots: &[Arc<Snapshot>], request: &SearchRequest) -> Result<(u64, bool)> {
    if request.terminate_after.is_none() && request.timeout.is_none() {
        return Ok((egret_engine::search::count(snapshots, &request.query)?, false));
    }
    let found = searches::search(snapshots, request)?;
    if found.timed_out {
        return Err(Error::new(Kind::Timeout, "Time exceeded"));
    }
    Ok((found.total.map_or(0, |total| total.value), found.terminated_early))
}
