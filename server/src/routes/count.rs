//! `_count`.

use std::sync::Arc;

use axum::extract::{Path, State};
use egret_engine::Control;
use serde_json::json;

use super::freshness;
use super::search::{SnapshotFields, TEXT, text_query};
use super::targets::{self, Targets};
use super::tasks::opaque_id;
use crate::app::App;
use crate::dialect::json::parse_object;
use crate::dialect::search::read_count;
use crate::error::Result;
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
    params.allow(&[TEXT, targets::PARAMS, freshness::PARAMS, &["preference"]].concat())?;
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
    let count = move |_: &Control| Ok(egret_engine::search::count(&snapshots, &query)?);
    let count = searches::run(app, &asked, &names, count).await?;
    let reply = Reply::ok(&json!({
        "count": count,
        "_shards": {"total": shards, "successful": shards, "skipped": 0, "failed": 0},
    }));
    Ok(freshness::mark(reply, checkpoints.into_iter()))
}
