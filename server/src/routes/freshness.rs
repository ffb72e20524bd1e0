//! How fresh an answer is: what it waits for before it, the position that it reflects with it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, HeaderValue};
use egret_cdc::{LsnToken, PipelineHandle, WaitOutcome};
use egret_engine::{Checkpoint, Index, Snapshot};
use futures_util::future::try_join_all;

use crate::app::App;
use crate::contexts::Point;
use crate::error::{Error, Kind, Result};
use crate::http::{Params, Reply};

/// Parameters of a read that waits.
pub(super) const PARAMS: &[&str] = &["wait_for_lsn", "wait_for_timeout"];

/// The header of a read that waits for everything committed before it, without naming a position.
const CONSISTENCY: &str = "egret-consistency";

/// What a read waits for.
enum Until {
    /// A position.
    Position(LsnToken),
    /// Where the database's log ends when it asks.
    Session,
}

impl Until {
    fn read(params: &Params, headers: &HeaderMap) -> Result<Option<Self>> {
        let token = params.filled("wait_for_lsn").map(|text| {
            text.parse().map_err(|error: egret_cdc::Error| {
                Error::argument(format!("[wait_for_lsn] {error}")).with_source(error)
            })
        });
        let session = match headers.get(CONSISTENCY).map(HeaderValue::as_bytes) {
            None => false,
            Some(b"session") => true,
            Some(other) => {
                let other = String::from_utf8_lossy(other);
                return Err(Error::argument(format!(
                    "[Egret-Consistency] has no [{other}], it may be [session]"
                )));
            }
        };
        match (token.transpose()?, session) {
            (Some(_), true) => {
                Err(Error::argument("[wait_for_lsn] and [Egret-Consistency] exclude each other"))
            }
            (Some(token), false) => Ok(Some(Self::Position(token))),
            (None, true) => Ok(Some(Self::Session)),
            (None, false) if params.has("wait_for_timeout") => Err(Error::argument(
                "[wait_for_timeout] needs [wait_for_lsn] or [Egret-Consistency]",
            )),
            (None, false) => Ok(None),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Position(_) => "[wait_for_lsn]",
            Self::Session => "[Egret-Consistency]",
        }
    }
}

/// Waits until the indexes show everything that the request wants to see, if it says so. One that is
/// replaced meanwhile gives way to its replacement.
pub(super) async fn wait(
    app: &App,
    params: &Params,
    headers: &HeaderMap,
    indexes: &mut [Arc<Index>],
) -> Result<()> {
    let Some(until) = Until::read(params, headers)? else { return Ok(()) };
    let limits = &app.config.search;
    let timeout = params.duration("wait_for_timeout")?;
    let timeout = timeout.unwrap_or(Duration::from_millis(limits.wait_for_timeout_ms));
    let timeout = timeout.min(Duration::from_millis(limits.max_wait_for_timeout_ms));
    let wait = Wait { name: until.name(), begun: Instant::now(), timeout };
    let pipelines = by_pipeline(app, &wait, indexes)?;
    let (first, others) =
        pipelines.split_first().ok_or_else(|| wait.error("there is no index to wait for"))?;
    match until {
        Until::Position(token) => {
            if let Some((_, other)) = others.first() {
                return Err(wait.without(other));
            }
            wait.reach(&first.0, &first.1, token).await?;
        }
        Until::Session => {
            let one = async |(pipeline, indexes): &Followed| {
                let token = wait.end_of_log(pipeline).await?;
                wait.reach(pipeline, indexes, token).await
            };
            try_join_all(pipelines.iter().map(one)).await?;
        }
    }
    for index in indexes {
        *index = app.engine.index(index.name())?;
    }
    Ok(())
}

/// Refuses a read of a point in time that wants to see more than that shows, since it never will.
pub(super) fn is_held(params: &Params, headers: &HeaderMap, point: &Point) -> Result<()> {
    let Some(until) = Until::read(params, headers)? else { return Ok(()) };
    params.duration("wait_for_timeout")?;
    let name = until.name();
    let Until::Position(token) = until else {
        return Err(Error::argument(format!(
            "{name} belongs to the request that opens a point in time, which shows what was \
             published then"
        )));
    };
    let (Some(first), Some(smallest)) = (
        point.indexes.first(),
        point
            .checkpoints
            .iter()
            .min_by_key(|checkpoint| checkpoint.map(|checkpoint| checkpoint.lsn)),
    ) else {
        return Err(Error::argument(format!("{name} there is no index to wait for")));
    };
    let stranger = point
        .indexes
        .iter()
        .find(|index| index.pipeline().is_none() || index.pipeline() != first.pipeline());
    if let Some(stranger) = stranger {
        return Err(without(name, std::slice::from_ref(stranger)));
    }
    let followed = smallest.map(|shown| (shown.system_identifier, shown.timeline));
    if let (Some(system), Some(followed)) = (token.system, followed)
        && system != followed
    {
        return Err(elsewhere(name, token, followed));
    }
    let shown = match smallest {
        Some(shown) if shown.lsn >= token.lsn => return Ok(()),
        Some(shown) => shown.lsn.to_string(),
        None => "nothing yet".to_owned(),
    };
    Err(Error::new(
        Kind::Conflict,
        format!(
            "{name} [{token}] is past what the point in time shows, [{shown}], and it will never \
             show it: open another one"
        ),
    ))
}

/// A pipeline with the indexes that follow it.
type Followed = (Arc<PipelineHandle>, Vec<Arc<Index>>);

/// The indexes by the pipelines that they follow.
fn by_pipeline(app: &App, wait: &Wait, indexes: &[Arc<Index>]) -> Result<Vec<Followed>> {
    let mut pipelines: Vec<Followed> = Vec::new();
    for index in indexes {
        let pipeline = index.pipeline().and_then(|name| app.pipeline(name));
        let pipeline = pipeline.ok_or_else(|| wait.without(std::slice::from_ref(index)))?;
        match pipelines.iter_mut().find(|(known, _)| known.name() == pipeline.name()) {
            Some((_, same)) => same.push(Arc::clone(index)),
            None => pipelines.push((pipeline, vec![Arc::clone(index)])),
        }
    }
    Ok(pipelines)
}

/// A wait under way.
struct Wait {
    /// Who asked for it, as errors name it.
    name: &'static str,
    begun: Instant,
    timeout: Duration,
}

impl Wait {
    fn error(&self, reason: &str) -> Error {
        Error::argument(format!("{} {reason}", self.name))
    }

    fn without(&self, indexes: &[Arc<Index>]) -> Error {
        without(self.name, indexes)
    }

    fn left(&self) -> Duration {
        self.timeout.saturating_sub(self.begun.elapsed())
    }

    fn late(&self, reason: &str) -> Error {
        let ms = self.timeout.as_millis();
        Error::new(Kind::Timeout, format!("{} {reason} within [{ms}ms]", self.name))
    }

    /// Where the log of a pipeline's database ends now.
    async fn end_of_log(&self, pipeline: &PipelineHandle) -> Result<LsnToken> {
        let asked = tokio::time::timeout(self.left(), pipeline.end_of_log()).await;
        let lsn = asked.map_err(|_| self.late("the database gave no position"))?;
        let lsn = lsn.map_err(|error| {
            let reason = format!("{} the database gave no position: {error}", self.name);
            Error::new(Kind::Unavailable, reason).with_source(error)
        })?;
        Ok(LsnToken { system: None, lsn })
    }

    /// Waits until the indexes of a pipeline show everything up to a position.
    async fn reach(
        &self,
        pipeline: &PipelineHandle,
        indexes: &[Arc<Index>],
        token: LsnToken,
    ) -> Result<()> {
        let name = self.name;
        match pipeline.wait_for_lsn(indexes, token, self.left()).await {
            WaitOutcome::Reached(_) => Ok(()),
            WaitOutcome::NoPipeline => Err(self.without(indexes)),
            WaitOutcome::Mismatch { followed } => Err(elsewhere(name, token, followed)),
            WaitOutcome::Timeout(reached) => {
                let reached =
                    reached.map_or_else(|| "nothing yet".to_owned(), |lsn| lsn.to_string());
                let late = self.late(&format!("[{token}] was not reached"));
                Err(Error::new(
                    Kind::Timeout,
                    format!("{}, the indexes show [{reached}]", late.reason()),
                ))
            }
        }
    }
}

fn without(name: &str, indexes: &[Arc<Index>]) -> Error {
    let index = indexes.first().map_or("", |index| index.name());
    let reason = format!("index [{index}] follows no pipeline that is running, or another one");
    Error::argument(format!("{name} {reason}"))
}

fn elsewhere(name: &str, token: LsnToken, (system, timeline): (u64, u32)) -> Error {
    Error::new(
        Kind::Conflict,
        format!(
            "{name} [{token}] belongs to another history than the one followed, system [{system}] \
             timeline [{timeline}]"
        ),
    )
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
