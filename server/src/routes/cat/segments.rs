//! `_cat/segments`: the segments of indexes.

use std::sync::Arc;

use axum::extract::{Path, State};

use super::table::{Column, PARAMS, Table, size};
use crate::app::App;
use crate::error::Result;
use crate::http::{Call, Reply};
use crate::identity::LUCENE_VERSION;
use crate::routes::{segments, targets};

const SEGMENTS: &[Column] = &[
    Column::new("index", "i,idx", "index name"),
    Column::number("shard", "s,sh", "shard name"),
    Column::new("prirep", "p,pr,primaryOrReplica", "primary or replica"),
    Column::new("ip", "", "ip of node where it lives"),
    Column::new("id", "", "unique id of node where it lives").hidden(),
    Column::new("segment", "seg", "segment name"),
    Column::number("generation", "g,gen", "segment generation"),
    Column::number("docs.count", "dc,docsCount", "number of docs in segment"),
    Column::number("docs.deleted", "dd,docsDeleted", "number of deleted docs in segment"),
    Column::number("size", "si", "segment size in bytes"),
    Column::number("size.memory", "sm,sizeMemory", "segment memory in bytes"),
    Column::new("committed", "ic,isCommitted", "is segment committed"),
    Column::new("searchable", "is,isSearchable", "is segment searched"),
    Column::new("version", "v,ver", "version"),
    Column::new("compound", "ico,isCompound", "is segment compound"),
];

pub(in crate::routes) async fn segments_all(
    State(app): State<Arc<App>>,
    call: Call,
) -> Result<Reply> {
    show(&app, &call, "_all")
}

pub(in crate::routes) async fn segments(
    State(app): State<Arc<App>>,
    Path(expression): Path<String>,
    call: Call,
) -> Result<Reply> {
    show(&app, &call, &expression)
}

fn show(app: &App, call: &Call, expression: &str) -> Result<Reply> {
    call.params.allow(&[PARAMS, targets::PARAMS, &["bytes"]].concat())?;
    let ip = app.config.http.listen.rsplit_once(':').map_or("127.0.0.1", |(ip, _)| ip);
    let mut table = Table::new(SEGMENTS);
    for index in targets::open(app, expression, &call.params)? {
        for segment in index.segments() {
            table.row([
                index.name().to_owned(),
                "0".to_owned(),
                "p".to_owned(),
                ip.to_owned(),
                app.identity.node_id.clone(),
                segments::name(&segment),
                segment.number.to_string(),
                segment.doc_count.to_string(),
                segment.deleted_count.to_string(),
                size(segment.size_bytes, &call.params)?,
                // As Elasticsearch has it: without a unit.
                segment.memory_bytes.to_string(),
                segment.committed.to_string(),
                "true".to_owned(),
                LUCENE_VERSION.to_owned(),
                "false".to_owned(),
            ]);
        }
    }
    table.answer(call)
}
