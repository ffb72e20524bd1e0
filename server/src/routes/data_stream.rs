//! Data streams, of which there are none: clients ask whether a name is one before they write to it.

use axum::extract::Path;
use egret_engine::catalog::resolve;
use serde_json::json;

use crate::error::Result;
use crate::http::{Call, Reply};

const PARAMS: &[&str] = &["expand_wildcards", "master_timeout"];

pub(super) async fn all(call: Call) -> Result<Reply> {
    call.params.allow(PARAMS)?;
    Ok(Reply::ok(&json!({"data_streams": []})))
}

pub(super) async fn named(Path(names): Path<String>, call: Call) -> Result<Reply> {
    call.params.allow(PARAMS)?;
    match names.split(',').find(|name| !name.contains('*') && *name != "_all") {
        Some(name) => Err(resolve::missing(name).into()),
        None => Ok(Reply::ok(&json!({"data_streams": []}))),
    }
}
