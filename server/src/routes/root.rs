//! `GET /`: who answers; for browsers the search page.

use std::sync::Arc;

use axum::extract::State;
use serde_json::json;

use super::page;
use crate::app::App;
use crate::error::Result;
use crate::http::media::{Wanted, wanted};
use crate::http::{Call, Reply};
use crate::identity::LUCENE_VERSION;

/// The version of Elasticsearch whose API is spoken: clients look at it before their first request.
pub(super) const API_VERSION: &str = "8.19.0";

pub(super) async fn root(State(app): State<Arc<App>>, call: Call) -> Result<Reply> {
    call.params.allow(&[])?;
    if wanted(&call.headers)? == Wanted::Html && !call.params.has("format") {
        return Ok(page::page());
    }
    Ok(Reply::ok(&json!({
        "name": app.config.http.node_name,
        "cluster_name": app.config.http.cluster_name,
        "cluster_uuid": app.identity.cluster_uuid,
        "version": {
            "number": API_VERSION,
            "build_flavor": "default",
            "build_type": "egret",
            "build_hash": "unknown",
            "build_date": "2026-01-01T00:00:00.000Z",
            "build_snapshot": false,
            "lucene_version": LUCENE_VERSION,
            "minimum_wire_compatibility_version": "7.17.0",
            "minimum_index_compatibility_version": "7.0.0",
            "egret": env!("CARGO_PKG_VERSION"),
        },
        "tagline": "You Know, for Search",
    })))
}
