//! `/health/live`: the program answers. `/health/ready`: what it serves is as new as promised.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use egret_cdc::PipelineState;
use egret_cdc::status::{TableState, TableStatus};
use serde_json::{Value, json};

use crate::app::App;
use crate::error::Result;
use crate::http::{Call, Reply};

pub(super) async fn live(call: Call) -> Result<Reply> {
    call.params.allow(&[])?;
    Ok(Reply::ok(&json!({"live": true})))
}

/// Ready: every index opened and takes writes, and every pipeline follows its database with none of
/// its tables stale, or copied anew since it was, or skipped though an index shows it. Searches are
/// answered from what there is in any case.
pub(super) async fn ready(State(app): State<Arc<App>>, call: Call) -> Result<Reply> {
    call.params.allow(&[])?;
    let mut reasons: Vec<Value> = Vec::new();
    for (index, reason) in app.engine.damaged() {
        reasons.push(json!({"index": index, "state": "damaged", "reason": reason}));
    }
    for index in app.engine.indexes() {
        if let Some(reason) = index.refusal() {
            reasons.push(json!({"index": index.name(), "state": "read_only", "reason": &*reason}));
        }
    }
    for pipeline in app.pipelines.all() {
        let status = pipeline.status();
        if status.state != PipelineState::Streaming {
            reasons.push(json!({
                "pipeline": status.name,
                "state": status.state,
                "reason": status.reason.clone().or(status.last_error.clone()),
            }));
        }
        let stands_still = |table: &&TableStatus| match table.state {
            // Its index shows what was, and goes on doing so while another is made for it.
            _ if table.stale_since.is_some() => true,
            TableState::Stale => true,
            // What an index shows of it is not followed any more.
            TableState::Skipped => {
                let index = app.engine.index(&table.index).ok();
                index.is_some_and(|index| index.pipeline() == Some(&*status.name))
            }
            _ => false,
        };
        for table in status.tables.iter().filter(stands_still) {
            reasons.push(json!({
                "pipeline": status.name,
                "table": table.table,
                "index": table.index,
                "state": table.state,
                "stale_since": table.stale_since,
                "reason": table.reason,
            }));
        }
    }
    let ready = reasons.is_empty();
    let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Ok(Reply::json(code, &json!({"ready": ready, "reasons": reasons})))
}
