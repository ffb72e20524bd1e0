//! A search through the result cache: the canonical request at the generations of its indexes names
//! the answer.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use egret_engine::search::request::SearchRequest;
use egret_engine::{Control, Engine, ErrorKind, Index, Snapshot};
use egret_results::{Canonical, Computed, Failure, NoAnswer, Outcome, ResultCache, Version};
use uuid::Uuid;

use crate::app::App;
use crate::dialect::canonical;
use crate::dialect::response::{self, Shape};
use crate::error::{Error, Kind, Result};
use crate::searches::{self, Asked};

/// The server's result cache.
pub(crate) type Cache = ResultCache<Error>;

/// Belongs to the canonical form: answers of another dialect are not this one's.
const DIALECT: &str = concat!("egret ", env!("CARGO_PKG_VERSION"), " es 8");

/// A search that is ready to run.
#[derive(Debug)]
pub(crate) struct Search {
    pub(crate) indexes: Vec<Arc<Index>>,
    pub(crate) snapshots: Vec<Arc<Snapshot>>,
    pub(crate) request: SearchRequest,
    pub(crate) shape: Shape,
    pub(crate) asked: Asked,
    /// Whether what was found until its time was over will do (`allow_partial_search_results`).
    pub(crate) partial: bool,
}

/// What the cache did for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CacheUse {
    /// It had the answer, or another who asked the same has just computed it.
    Hit,
    /// The answer was computed for it.
    Miss,
    /// It was not asked.
    Bypass,
}

impl CacheUse {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Bypass => "bypass",
        }
    }
}

/// An index's UUID as the cache knows it.
pub(crate) fn index_uuid(index: &Index) -> Option<Uuid> {
    uuid_of(index.uuid())
}

/// The UUID behind the text that the engine knows an index by.
pub(crate) fn uuid_of(text: &str) -> Option<Uuid> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    Uuid::from_slice(&bytes).ok()
}

/// The state that an index has published last.
pub(crate) fn generation(snapshot: &Snapshot) -> egret_results::Generation {
    let generation = snapshot.generation();
    egret_results::Generation { term: generation.term, number: generation.number }
}

/// The generations that indexes have now, by their UUIDs.
pub(crate) fn current(engine: &Engine) -> Vec<Version> {
    let version = |index: &Arc<Index>| {
        let generation = generation(&index.snapshot());
        Some(Version { index: index_uuid(index)?, generation })
    };
    engine.indexes().iter().filter_map(version).collect()
}

/// Answers a search: its JSON without `took`, and what the cache did.
pub(crate) async fn answer(
    app: &App,
    search: Search,
    may_cache: bool,
) -> Result<(Bytes, CacheUse)> {
    let cache = app.cache.as_ref();
    let asked = may_cache && !canonical::depends_on_time(&search.request);
    let request = cache.filter(|_| asked).and_then(|cache| request(cache, &search));
    let (Some(cache), Some(request)) = (cache, request) else {
        if let Some(cache) = cache {
            cache.note_bypass();
        }
        let partial = search.partial;
        let computed = compute(app, search).await?;
        return Ok((whole(computed.bytes, partial)?, CacheUse::Bypass));
    };
    let partial = search.partial;
    let run = || async { compute(app, search).await.map_err(failure) };
    // Boxed: the computation makes a large future, and most answers are hits.
    let answered = Box::pin(cache.get_or_compute(&request, run)).await;
    let (bytes, outcome) = answered.map_err(|no_answer| match no_answer {
        NoAnswer::Failed(error) => error,
        NoAnswer::Full { .. } => Error::new(Kind::Rejected, no_answer.to_string()),
        NoAnswer::TimedOut(_) => Error::new(Kind::Timeout, no_answer.to_string()),
    })?;
    let statistics = &app.statistics;
    let (counter, cache) = match outcome {
        Outcome::Hit | Outcome::Joined => (Some(&statistics.cache_hits), CacheUse::Hit),
        Outcome::Miss => (Some(&statistics.cache_misses), CacheUse::Miss),
        Outcome::Bypass => (None, CacheUse::Bypass),
    };
    if let Some(counter) = counter {
        counter.fetch_add(1, Relaxed);
    }
    Ok((whole(bytes, partial)?, cache))
}

/// Refuses what is partial where that will not do. It may come from another who asked the same and
/// is content with it, so the answer itself is looked at, which begins so.
fn whole(bytes: Bytes, partial: bool) -> Result<Bytes> {
    if !partial && bytes.starts_with(response::TIMED_OUT) {
        return Err(Error::new(Kind::Timeout, "Time exceeded"));
    }
    Ok(bytes)
}

/// A full queue, memory that others have or a stop concern this caller alone; a wrong query everyone
/// who asks it.
fn failure(error: Error) -> Failure<Error> {
    match error.kind() {
        Kind::Rejected
        | Kind::Unavailable
        | Kind::Engine(ErrorKind::Cancelled | ErrorKind::CircuitBreaking { transient: true, .. }) => {
            Failure::Own(error)
        }
        _ => Failure::Shared(error),
    }
}

/// The cache's name for a search. Indexes go by the names that hits show, in the order of the
/// answer's ties.
fn request(cache: &Cache, search: &Search) -> Option<egret_results::Request> {
    let form = canonical::form(&search.request);
    let mut names = String::new();
    let mut versions = Vec::with_capacity(search.indexes.len());
    for (index, snapshot) in search.indexes.iter().zip(&search.snapshots) {
        names.push_str(index.name());
        names.push('/');
        versions.push(Version { index: index_uuid(index)?, generation: generation(snapshot) });
    }
    let Shape { typed_keys, total_as_int } = search.shape;
    let shape = [u8::from(typed_keys), u8::from(total_as_int)];
    let canonical = Canonical::new([
        ("dialect", DIALECT.as_bytes()),
        ("indexes", names.as_bytes()),
        ("request", form.as_bytes()),
        ("shape", &shape),
    ]);
    Some(cache.request(canonical, versions))
}

/// Asks the engine, on a thread that may block.
async fn compute(app: &App, search: Search) -> Result<Computed> {
    let asked = search.asked.clone();
    let indexes = search.indexes.clone();
    let names: Vec<&str> = indexes.iter().map(|index| index.name()).collect();
    let run = move |control: &Control| {
        let started = Instant::now();
        let response = searches::search(&search.snapshots, &search.request)?;
        let bytes = response::write(&search.request, &response, search.indexes.len(), search.shape);
        control.take(bytes.len() as u64)?;
        let storable = !response.timed_out && !response.terminated_early;
        Ok(Computed { bytes: bytes.into(), storable, cost: started.elapsed() })
    };
    searches::run(app, &asked, &names, run).await
}
