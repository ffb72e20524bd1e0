//! `_segments`: what an index's published state is made of.

use std::sync::Arc;

use axum::extract::{Path, State};
use egret_engine::index::SegmentStats;
use serde_json::{Map, Value, json};

use super::targets;
use crate::app::App;
use crate::error::Result;
use crate::http::{Call, Reply};
use crate::identity::LUCENE_VERSION;

pub(super) async fn all(State(app): State<Arc<App>>, call: Call) -> Result<Reply> {
    show(&app, &call, "_all")
}

pub(super) async fn of(
    State(app): State<Arc<App>>,
    Path(expression): Path<String>,
    call: Call,
) -> Result<Reply> {
    show(&app, &call, &expression)
}

fn show(app: &App, call: &Call, expression: &str) -> Result<Reply> {
    call.params.allow(&[targets::PARAMS, &["verbose"]].concat())?;
    call.params.boolean("verbose")?;
    let indexes = targets::open(app, expression, &call.params)?;
    let count = indexes.len();
    let mut shown = Map::new();
    for index in indexes {
        let segments = index.segments();
        let committed = segments.iter().filter(|segment| segment.committed).count();
        let by_name: Map<String, Value> =
            segments.iter().map(|segment| (name(segment), one(segment))).collect();
        let shard = json!({
            "routing": {"state": "STARTED", "primary": true, "node": app.identity.node_id},
            "num_committed_segments": committed,
            "num_search_segments": segments.len(),
            "segments": by_name,
        });
        shown.insert(index.name().to_owned(), json!({"shards": {"0": [shard]}}));
    }
    Ok(Reply::ok(&json!({
        "_shards": {"total": count, "successful": count, "failed": 0},
        "indices": shown,
    })))
}

/// A segment's name as Lucene would give it: `_` and its number with 36 as the base.
pub(super) fn name(segment: &SegmentStats) -> String {
    let mut digits = Vec::new();
    let mut rest = segment.number;
    loop {
        let digit = u32::try_from(rest % 36).unwrap_or_default();
        digits.push(char::from_digit(digit, 36).unwrap_or('0'));
        rest /= 36;
        if rest == 0 {
            break;
        }
    }
    std::iter::once('_').chain(digits.into_iter().rev()).collect()
}

fn one(segment: &SegmentStats) -> Value {
    json!({
        "generation": segment.number,
        "num_docs": segment.doc_count,
        "deleted_docs": segment.deleted_count,
        "size_in_bytes": segment.size_bytes,
        "memory_in_bytes": segment.memory_bytes,
        "committed": segment.committed,
        "search": true,
        "version": LUCENE_VERSION,
        "compound": false,
        "attributes": {"uuid": segment.uuid},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_named_as_lucene_does() {
        let check = |number, expected| {
            let segment = SegmentStats {
                number,
                uuid: String::new(),
                doc_count: 1,
                deleted_count: 0,
                size_bytes: 1,
                memory_bytes: 0,
                committed: true,
                files: std::collections::BTreeMap::new(),
            };
            assert_eq!(name(&segment), expected);
        };
        check(0, "_0");
        check(35, "_z");
        check(36, "_10");
        check(36 * 36 * 36 - 1, "_zzz");
    }
}
