//! `GET /_cache/stats`: what the result cache holds and does.

use std::sync::Arc;

use axum::extract::State;
use egret_results::{LogState, ShardStats, SlotStats, Stats};
use serde_json::{Value, json};

use crate::app::App;
use crate::error::Result;
use crate::http::{Call, Reply};

pub(super) async fn stats(State(app): State<Arc<App>>, call: Call) -> Result<Reply> {
    call.params.allow(&[])?;
    let Some(cache) = &app.cache else {
        return Ok(Reply::ok(&json!({"enabled": false})));
    };
    Ok(Reply::ok(&shown(&cache.stats())))
}

fn shown(stats: &Stats) -> Value {
    let answered = stats.hits + stats.joined;
    let asked = answered + stats.misses;
    #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
    let ratio = (asked > 0).then(|| answered as f64 / asked as f64);
    let (state, reason) = match &stats.log.state {
        LogState::None => ("none", None),
        LogState::Writing => ("writing", None),
        LogState::Failed { reason } => ("failed", Some(reason)),
    };
    json!({
        "enabled": true,
        "hits": stats.hits,
        "misses": stats.misses,
        "joined": stats.joined,
        "bypassed": stats.bypassed,
        "hit_ratio": ratio,
        "entries": stats.entries,
        "bytes": stats.bytes,
        "budget_bytes": stats.budget_bytes,
        "flights": stats.flights,
        "stored": stats.stored,
        "evicted": stats.evicted,
        "expired": stats.expired,
        "outdated": stats.outdated,
        "oversized": stats.oversized,
        "refused_outdated": stats.refused_outdated,
        "corrupt": stats.corrupt,
        "collisions": stats.collisions,
        "log": {"state": state, "reason": reason},
        "shards": stats.shards.iter().map(shard).collect::<Vec<_>>(),
        "fullest_slots": stats.fullest_slots.iter().map(slot).collect::<Vec<_>>(),
    })
}

fn shard(shard: &ShardStats) -> Value {
    json!({
        "first_slot": shard.first_slot,
        "last_slot": shard.last_slot,
        "entries": shard.entries,
        "bytes": shard.bytes,
        "evicted": shard.evicted,
        "expired": shard.expired,
        "outdated": shard.outdated,
    })
}

fn slot(slot: &SlotStats) -> Value {
    json!({"slot": slot.slot, "entries": slot.entries, "bytes": slot.bytes})
}
