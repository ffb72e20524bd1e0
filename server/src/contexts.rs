//! Scrolls and points in time: published states that are held for those who page through them.
//!
//! What is held keeps its segments' files in place, so there may be only so many, and one that has
//! not been used for its time is let go. What of it is in memory is counted and bounded.

mod memory;

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use egret_engine::query::ast::Query;
use egret_engine::search::request::SearchRequest;
use egret_engine::search::response::Total;
use egret_engine::{Checkpoint, Index, Snapshot};
use parking_lot::Mutex;

pub(crate) use self::memory::{Memory, Share};
use crate::config::SearchConfig;
use crate::dialect::response::Shape;
use crate::error::{Error, Kind, Result};
use crate::identity::new_id;

/// How often those whose time is over are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

/// The open scrolls and points in time.
#[derive(Debug)]
pub(crate) struct Contexts {
    max_open: usize,
    max_keep_alive: Duration,
    /// Guards the table; held for look-ups and changes of it.
    open: Mutex<HashMap<String, Context>>,
    /// What they keep in memory.
    pub(crate) memory: Arc<Memory>,
}

/// One of them.
#[derive(Debug)]
struct Context {
    keep_alive: Duration,
    expires: Instant,
    created_ms: i64,
    held: Held,
}

/// What is held.
#[derive(Debug, Clone)]
pub(crate) enum Held {
    Point(Arc<Point>),
    /// Guards its place; held while a page is read, so that pages come one after another.
    Scroll(Arc<tokio::sync::Mutex<Scroll>>),
}

/// The published states of some indexes.
#[derive(Debug, Clone)]
pub(crate) struct Point {
    pub(crate) indexes: Vec<Arc<Index>>,
    pub(crate) snapshots: Vec<Arc<Snapshot>>,
    pub(crate) checkpoints: Vec<Option<Checkpoint>>,
    /// What the aliases that led to them show of them.
    pub(crate) filter: Option<Query>,
    /// What it keeps in memory, where it is to be held.
    pub(crate) _memory: Option<Arc<Share>>,
}

/// A search that is read page by page.
#[derive(Debug)]
pub(crate) struct Scroll {
    pub(crate) point: Point,
    /// The next page's.
    pub(crate) request: SearchRequest,
    /// How many of a hit's sort values the request knows of.
    pub(crate) shown_keys: usize,
    /// Counted for the first page.
    pub(crate) total: Option<Total>,
    pub(crate) shape: Shape,
}

/// An open point in time, as it is listed.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) id: String,
    pub(crate) created_ms: i64,
    pub(crate) keep_alive: Duration,
}

impl Contexts {
    /// None yet; those whose time is over are let go until this is dropped.
    pub(crate) fn open(config: &SearchConfig) -> Arc<Self> {
        let contexts = Arc::new(Self {
            max_open: config.max_open_contexts,
            max_keep_alive: Duration::from_millis(config.max_keep_alive_ms),
            open: Mutex::default(),
            memory: Memory::new(config.max_context_memory_bytes),
        });
        tokio::spawn(sweep(Arc::downgrade(&contexts)));
        contexts
    }

    /// Holds something for a time after each use; gives its id.
    pub(crate) fn hold(&self, held: Held, keep_alive: Duration) -> Result<String> {
        self.check(keep_alive)?;
        let now = Instant::now();
        let mut open = self.open.lock();
        if open.len() >= self.max_open {
            open.retain(|_, context| context.expires > now);
        }
        if open.len() >= self.max_open {
            let limit = self.max_open;
            return Err(Error::new(
                Kind::Rejected,
                format!(
                    "Trying to create too many scroll contexts. Must be less than or equal to: \
                     [{limit}]. This limit can be set by changing the [search.max_open_contexts] \
                     setting."
                ),
            ));
        }
        let id = new_id();
        let created_ms = jiff::Timestamp::now().as_millisecond();
        let context = Context { keep_alive, expires: now + keep_alive, created_ms, held };
        open.insert(id.clone(), context);
        Ok(id)
    }

    fn check(&self, keep_alive: Duration) -> Result<()> {
        if keep_alive <= self.max_keep_alive {
            return Ok(());
        }
        let (wanted, limit) = (keep_alive.as_millis(), self.max_keep_alive.as_millis());
        Err(Error::argument(format!(
            "Keep alive for request ({wanted}ms) is too large. It must be less than ({limit}ms). \
             This limit can be set by changing the [search.max_keep_alive_ms] setting."
        )))
    }

    /// What an id stands for; its time begins anew, perhaps another one.
    pub(crate) fn use_again(&self, id: &str, keep_alive: Option<Duration>) -> Result<Held> {
        keep_alive.map_or(Ok(()), |keep_alive| self.check(keep_alive))?;
        let now = Instant::now();
        let mut open = self.open.lock();
        let context = open.get_mut(id).filter(|context| context.expires > now);
        let context = context.ok_or_else(|| missing(id))?;
        context.keep_alive = keep_alive.unwrap_or(context.keep_alive);
        context.expires = now + context.keep_alive;
        Ok(context.held.clone())
    }

    /// Lets go of one; whether it was there.
    pub(crate) fn release(&self, id: &str) -> bool {
        self.open.lock().remove(id).is_some_and(|context| context.expires > Instant::now())
    }

    /// How many are open.
    pub(crate) fn count(&self) -> usize {
        let now = Instant::now();
        self.open.lock().values().filter(|context| context.expires > now).count()
    }

    /// The open points in time, or the scrolls.
    pub(crate) fn list(&self, points: bool) -> Vec<Listed> {
        let now = Instant::now();
        let open = self.open.lock();
        let wanted = open.iter().filter(|(_, context)| {
            context.expires > now && matches!(context.held, Held::Point(_)) == points
        });
        let listed = wanted.map(|(id, Context { created_ms, keep_alive, .. })| Listed {
            id: id.clone(),
            created_ms: *created_ms,
            keep_alive: *keep_alive,
        });
        listed.collect()
    }
}

/// No scroll or point in time of this id is open.
pub(crate) fn missing(id: &str) -> Error {
    Error::new(Kind::ContextMissing, format!("No search context found for id [{id}]"))
}

async fn sweep(contexts: Weak<Contexts>) {
    let mut ticks = tokio::time::interval(SWEEP_INTERVAL);
    loop {
        ticks.tick().await;
        let Some(contexts) = contexts.upgrade() else { return };
        let now = Instant::now();
        let over: Vec<Context> = {
            let mut open = contexts.open.lock();
            let over = open.iter().filter(|(_, context)| context.expires <= now);
            let over: Vec<String> = over.map(|(id, _)| id.clone()).collect();
            over.iter().filter_map(|id| open.remove(id)).collect()
        };
        // Letting go may remove files, which blocks.
        if !over.is_empty() {
            drop(tokio::task::spawn_blocking(move || drop(over)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point() -> Held {
        let (indexes, snapshots, checkpoints) = (Vec::new(), Vec::new(), Vec::new());
        Held::Point(Arc::new(Point {
            indexes,
            snapshots,
            checkpoints,
            filter: None,
            _memory: None,
        }))
    }

    #[tokio::test]
    async fn what_is_held_is_bounded_in_number_and_age() {
        let config = SearchConfig {
            max_open_contexts: 2,
            max_keep_alive_ms: 60_000,
            ..SearchConfig::default()
        };
        let contexts = Contexts::open(&config);
        let minute = Duration::from_secs(60);
        let first = contexts.hold(point(), minute).unwrap();
        contexts.hold(point(), Duration::ZERO).unwrap();
        // The second's time is over already: there is room for a third, but for no fourth.
        contexts.hold(point(), minute).unwrap();
        assert_eq!(contexts.hold(point(), minute).unwrap_err().kind(), Kind::Rejected);
        let long = Duration::from_secs(61);
        assert_eq!(contexts.hold(point(), long).unwrap_err().kind(), Kind::Argument);
        assert!(contexts.use_again(&first, None).is_ok());
        assert!(contexts.release(&first) && !contexts.release(&first));
        assert_eq!(contexts.use_again(&first, None).unwrap_err().kind(), Kind::ContextMissing);
        assert_eq!((contexts.list(true).len(), contexts.list(false).len()), (1, 0));
    }
}
