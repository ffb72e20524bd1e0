//! Indexes that take the place of others: the pipeline's file names them first, and the catalog then.
//!
//! The other way round, whoever is killed in between finds an index under its name that the log has
//! not been kept for, as far as the file says, and copies its table anew.

use std::sync::Arc;

use egret_aof::failpoint;
use tokio::task::{JoinError, JoinSet};

use super::Follower;
use crate::error::Result;
use crate::position::Hold;
use crate::sink::{Indexes, Sink};

/// What has become of the swap of the table at a place.
pub(super) type Swapped = (usize, Result<()>);

/// Swaps that wait or are under way.
#[derive(Default)]
pub(super) struct Swaps {
    /// The pipeline's file does not name their indexes yet.
    waiting: Vec<Swap>,
    running: JoinSet<Swapped>,
}

/// A filled index, to be put in the place of the one that has its name.
pub(super) struct Swap {
    pub(super) place: usize,
    pub(super) name: String,
    pub(super) sink: Arc<dyn Sink>,
    /// Until when the other one is kept.
    pub(super) keep_until_ms: Option<i64>,
}

impl Swaps {
    /// Has an index take its place as soon as the pipeline's file names it.
    pub(super) fn wait(&mut self, swap: Swap) {
        self.waiting.retain(|waiting| waiting.place != swap.place);
        self.waiting.push(swap);
    }

    /// Waits for the next one that has ended; `None` where none is under way.
    pub(super) async fn next(&mut self) -> Option<std::result::Result<Swapped, JoinError>> {
        self.running.join_next().await
    }

    /// One that has ended.
    pub(super) fn try_next(&mut self) -> Option<std::result::Result<Swapped, JoinError>> {
        self.running.try_join_next()
    }
}

impl Follower<'_> {
    /// Begins the swaps whose indexes the pipeline's file names by now.
    pub(super) fn begin_swaps(&mut self) {
        for swap in std::mem::take(&mut self.swaps.waiting) {
            let feed = self.stream.feeds.get(swap.place).and_then(Option::as_ref);
            if feed.is_none_or(|feed| feed.sink.uuid() != swap.sink.uuid()) {
                // It has left the stream, and is brought back as the replacement that it still is.
                continue;
            }
            if self.acknowledgements.hold_of(swap.sink.uuid()) == Hold::None {
                self.swaps.waiting.push(swap);
                continue;
            }
            let indexes = Arc::clone(&self.pipeline.indexes);
            self.swaps.running.spawn_blocking(move || (swap.place, swap.run(&*indexes)));
        }
    }
}

impl Swap {
    /// What searches see must not go back: the replacement shows all it holds before it takes the name.
    fn run(&self, indexes: &dyn Indexes) -> Result<()> {
        self.sink.refresh()?;
        failpoint::reach("replacement-shown");
        indexes.swap_in(&self.name, self.keep_until_ms)?;
        failpoint::reach("replacement-swapped-in");
        Ok(())
    }
}
