//! How fresh an answer is: `wait_for_lsn` before it, the position that it reflects with it.

use std::sync::Arc;
use std::time::Duration;

use egret_cdc::{LsnToken, WaitOutcome};
use egret_engine::{Checkpoint, Index, Snapshot};

use crate::app::App;
use crate::error::{Error, Kind, Result};
use crate::http::{Params, Reply};

/// Parameters of a read that waits.
pub(super) const PARAMS: &[&str] = &["wait_for_lsn", "wait_for_timeout"];

/// Waits until the indexes show everything up to the position that the request names, if any. One
/// that is replaced meanwhile gives way to its replacement.
pub(super) async fn wait(app: &App, params: &Params, indexes: &mut [Arc<Index>]) -> Result<()> {
    let Some(text) = params.filled("wait_for_lsn") else {
        return if params.has("wait_for_timeout") {
            Err(Error::argument("[wait_for_timeout] needs [wait_for_lsn]"))
        } else {
            Ok(())
        };
    };
    let token: LsnToken = text.parse().map_err(|error: egret_cdc::Error| {
        Error::argument(format!("[wait_for_lsn] {error}")).with_source(error)
    })?;
    let limits = &app.config.search;
    let timeout = params.duration("wait_for_timeout")?;
    let timeout = timeout.unwrap_or(Duration::from_millis(limits.wait_for_timeout_ms));
    let timeout = timeout.min(Duration::from_millis(limits.max_wait_for_timeout_ms));
    let without = |name: &str| {
        Error::argument(format!(
            "[wait_for_lsn] index [{name}] follows no pipeline that is running"
        ))
    };
    let Some(first) = indexes.first() else {
        return Err(Error::argument("[wait_for_lsn] there is no index to wait for"));
    };
    let pipeline = first.pipeline().and_then(|name| app.pipeline(name));
    let pipeline = pipeline.ok_or_else(|| without(first.name()))?;
    match pipeline.wait_for_lsn(indexes, token, timeout).await {
        WaitOutcome::Reached(_) => {
            for index in indexes {
                *index = app.engine.index(index.name())?;
            }
            Ok(())
        }
        WaitOutcome::NoPipeline => {
            let other = indexes.iter().find(|index| index.pipeline() != first.pipeline());
            Err(without(other.map_or(first.name(), |index| index.name())))
        }
        WaitOutcome::Mismatch { followed: (system, timeline) } => Err(Error::new(
            Kind::Conflict,
            format!(
                "[wait_for_lsn] [{token}] belongs to another history than the one followed, \
                 system [{system}] timeline [{timeline}]"
            ),
        )),
        WaitOutcome::Timeout(reached) => {
            let reached = reached.map_or_else(|| "nothing yet".to_owned(), |lsn| lsn.to_string());
            Err(Error::new(
                Kind::Timeout,
                format!(
                    "[wait_for_lsn] [{token}] was not reached within [{}ms], the indexes show \
                     [{reached}]",
                    timeout.as_millis()
                ),
            ))
        }
    }
}

/// The published states of indexes, each with the position that it reflects at least.
pub(super) fn snapshots(indexes: &[Arc<Index>]) -> (Vec<Arc<Snapshot>>, Vec<Option<Checkpoint>>) {
    let take = |index: &Arc<Index>| {
        // Read before the snapshot is taken: what was visible then is in it. It moves on also where
        // nothing concerns the index, without a new snapshot.
        let visible = index.positions().borrow().visible;
        let snapshot = index.snapshot();
        let own = snapshot.checkpoint();
        let newest = match (own, visible) {
            (Some(own), Some(visible)) if own.lsn >= visible.lsn => Some(own),
            (own, visible) => visible.or(own),
        };
        (snapshot, newest)
    };
    indexes.iter().map(take).unzip()
}

/// Adds the position that an answer reflects: `Egret-LSN`, and `Egret-Position` with the history
/// that it belongs to, ready for `wait_for_lsn`. Of several the smallest; of several databases,
/// whose positions cannot be compared, none.
pub(super) fn mark(reply: Reply, checkpoints: impl Iterator<Item = Option<Checkpoint>>) -> Reply {
    let mut smallest: Option<Checkpoint> = None;
    for checkpoint in checkpoints.flatten() {
        smallest = match smallest {
            Some(known)
                if (known.system_identifier, known.timeline)
                    != (checkpoint.system_identifier, checkpoint.timeline) =>
            {
                return reply;
            }
            Some(known) if known.lsn <= checkpoint.lsn => Some(known),
            _ => Some(checkpoint),
        };
    }
    match smallest {
        None => reply,
        Some(checkpoint) => reply
            .with("egret-lsn", &checkpoint.lsn.to_string())
            .with("egret-position", &LsnToken::from(checkpoint).to_string()),
    }
}
