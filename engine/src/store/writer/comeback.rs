//! A writer whose state in memory cannot be trusted any more goes back to what is durable: its last
//! commit and its translog. Where the disk does not allow that at once, it is tried again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Writer;
use crate::store::builder::guarded;
use crate::store::shared::Shared;

/// After an attempt that failed; twice as long after each further one.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// Why a writer takes no writes.
pub(super) struct Failed {
    pub(super) why: String,
    pub(super) until: Until,
}

/// What ends that.
#[derive(Clone, Copy)]
pub(super) enum Until {
    /// Whoever fills the index resumes: batches that it has already sent follow one that is lost.
    Resumed,
    /// The writer can go back to what is durable, which has everything that was acknowledged. When that
    /// is tried next, and how long it waited for that.
    Readable(Instant, Duration),
    /// Nothing: it lacks changes that another index has handed on.
    Removed,
}

impl Writer {
    /// Goes back to the last commit and the translog. A followed index then waits to be resumed, since
    /// batches that its pipeline has already sent follow one that is lost.
    pub(super) fn fail(&mut self, shared: &Arc<Shared>, why: &str) {
        let index = &shared.identity.name;
        tracing::error!(%index, why, "the writer goes back to its last commit");
        if self.failed.as_ref().is_some_and(|failed| matches!(failed.until, Until::Removed)) {
            return self.publishing.give_up();
        }
        let mirrored = self.mirror.is_some();
        let result = self.reset(shared);
        if mirrored {
            (self.mirror, self.mirror_lost) = (None, Some(why.to_owned()));
        }
        let followed = shared.identity.pipeline.is_some();
        if let Err(error) = result {
            let retry = Until::Readable(Instant::now() + FIRST_RETRY, FIRST_RETRY);
            let until = if followed { Until::Resumed } else { retry };
            self.failed = Some(Failed { why: format!("{why}; then: {error}"), until });
            // What is in memory is not to be seen, and merges of it are void.
            self.publishing.give_up();
            self.epoch += 1;
        } else if followed {
            self.failed = Some(Failed { why: why.to_owned(), until: Until::Resumed });
        }
        self.show_refusal(shared);
    }

    /// Takes no more changes from another index, since it lacks one.
    pub(super) fn lack(&mut self, why: &str) {
        let why = self.failed.take().map_or_else(|| why.to_owned(), |failed| failed.why);
        self.failed = Some(Failed { why, until: Until::Removed });
    }

    /// When it is next tried to go back to what is durable.
    pub(super) fn comeback_due(&self) -> Option<Instant> {
        match self.failed.as_ref()?.until {
            Until::Readable(due, _) => Some(due),
            Until::Resumed | Until::Removed => None,
        }
    }

    /// Goes back to what is durable, if only that is missing.
    pub(super) fn come_back(&mut self, shared: &Arc<Shared>) {
        let until = self.failed.as_ref().map(|failed| failed.until);
        let Some(Until::Readable(_, waited)) = until else { return };
        let index = &shared.identity.name;
        match guarded(|| self.reset(shared)) {
            Ok(()) => tracing::info!(%index, "the writer has gone back and takes writes again"),
            Err(error) => {
                tracing::warn!(%index, %error, "the writer cannot go back to its last commit yet");
                let wait = (waited * 2).min(LAST_RETRY);
                let until = Until::Readable(Instant::now() + wait, wait);
                self.failed = Some(Failed { why: error.to_string(), until });
            }
        }
        self.show_refusal(shared);
    }
}
