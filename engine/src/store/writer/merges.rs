//! Merges as the writer sees them: started after a publication, finished as an event.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use egret_aof::failpoint;
use tantivy::index::SegmentId;

use super::{Failed, Writer, tell};
use crate::error::{Error, ErrorKind, Result};
use crate::store::background::Lane;
use crate::store::builder::guarded;
use crate::store::forced::{ForceMerge, Forced, Step};
use crate::store::merge::MergeTask;
use crate::store::merge_policy::backlog;
use crate::store::shared::{Event, Shared};
use crate::store::state::FinishedMerge;
use crate::store::throttle::Pace;

/// An index that has not changed for so long is tidied up.
const IDLE_BEFORE_TIDYING: Duration = Duration::from_secs(if cfg!(test) { 600 } else { 1 });

impl Shared {
    /// Tells the writer of a merge that has ended. Where that begins the writer's thread, this must not
    /// be one that takes what others leave: threads have the priority of who begins them.
    fn merged(self: Arc<Self>, finished: FinishedMerge) {
        if !finished.large {
            return self.tell(Event::Merged(finished));
        }
        let (owner, background) = (Arc::clone(&self), Arc::clone(&self.background));
        let tell = move || owner.tell(Event::Merged(finished));
        if let Err(error) = background.run(Lane::SmallMerge, tell) {
            // The engine ends, and nobody waits for it.
            tracing::debug!(%error, "the end of a merge is not told");
        }
    }
}

impl Writer {
    /// Merges what there is now as is asked, and answers when that is done and published.
    pub(super) fn force_merge(
        &mut self,
        shared: &Arc<Shared>,
        how: ForceMerge,
        reply: Sender<Result<()>>,
    ) {
        self.come_back(shared);
        if let Some(Failed { why, .. }) = &self.failed {
            let message = format!("the index cannot be merged: {why}");
            return tell(&reply, Err(Error::new(ErrorKind::Internal, message)));
        }
        if let Err(error) = self.publish_or_recover(shared) {
            return tell(&reply, Err(error));
        }
        let forced = Forced::new(how, &mut self.store.segments, reply);
        self.forced.push_back(forced);
        self.start_merges(shared);
    }

    /// Starts the merges that are asked for, and those that are worth doing.
    pub(super) fn start_merges(&mut self, shared: &Arc<Shared>) {
        self.merges_due = None;
        if self.comeback_due().is_some() {
            return;
        }
        while let Some(forced) = self.forced.front()
            && !forced.is_usual()
        {
            match forced.step(&self.store.segments) {
                Step::Merge(places) => match self.store.merge_of(&places) {
                    Some(task) => self.start_merge(shared, task),
                    // Another merge of its size runs.
                    None => break,
                },
                Step::Wait => break,
                Step::Done => self.end_forced(shared, Ok(())),
            }
        }
        let idle = self.changed_at.is_none();
        while let Some(task) = self.store.next_merge(idle) {
            self.start_merge(shared, task);
        }
        self.merges_due = self.store.large_merges_wait();
        let usual = self.forced.front().is_some_and(Forced::is_usual);
        if usual && !self.store.is_merging() && self.merges_due.is_none() {
            self.end_forced(shared, Ok(()));
        }
        shared.pressure.set(backlog(&self.store.segments));
    }

    /// When the merges are due that wait for idleness.
    pub(super) fn tidying_due(&self) -> Option<Instant> {
        Some(self.changed_at? + IDLE_BEFORE_TIDYING)
    }

    fn start_merge(&mut self, shared: &Arc<Shared>, mut task: MergeTask) {
        let lane = if task.large { Lane::LargeMerge } else { Lane::SmallMerge };
        let (large, epoch, owner) = (task.large, self.epoch, Arc::clone(shared));
        let pace = Pace::new(shared.background.throttle());
        task.pace = large.then(|| Arc::clone(&pace));
        let counted = task.counted();
        let inputs = task.inputs.iter().map(|input| input.id).collect();
        shared.merges.began(counted);
        let started = shared.background.run(lane, move || {
            let began = Instant::now();
            let result = guarded(|| task.run());
            let took = began.elapsed();
            owner.merges.ended(counted, took, pace.waited());
            let index = &owner.identity.name;
            tracing::debug!(%index, large, ?took, "merged");
            owner.merged(FinishedMerge { epoch, inputs, large, result });
        });
        if let Err(error) = started {
            // Only at the end of the engine.
            shared.merges.withdrew(counted);
            tracing::debug!(%error, "no merge could be started");
        }
    }

    pub(super) fn finish_merge(&mut self, shared: &Arc<Shared>, finished: FinishedMerge) {
        if finished.epoch != self.epoch {
            return;
        }
        let asked = self.forced.front().is_some_and(|forced| forced.concerns(&finished.inputs));
        let inputs = finished.inputs.clone();
        let output = finished.result.as_ref().ok().map(|merged| merged.id);
        failpoint::reach("merge-written");
        match guarded(|| self.store.finish_merge(finished)) {
            Ok(()) => {
                if let Some(output) = output {
                    self.note_merged(&inputs, output);
                }
                self.publishing.note_layout();
                self.flushing.note_layout();
                self.start_merges(shared);
            }
            Err(error) => {
                // Its inputs stay as they are; the next publication tries again.
                tracing::warn!(index = %shared.identity.name, %error, "a merge failed");
                if asked {
                    self.end_forced(shared, Err(error));
                }
            }
        }
    }

    /// Requests about the inputs go on with the output.
    fn note_merged(&mut self, inputs: &[SegmentId], output: SegmentId) {
        for forced in self.forced.iter_mut().filter(|forced| forced.concerns(inputs)) {
            forced.merged(inputs, output);
            self.store.reserve(output);
        }
    }

    /// Answers the request that was being done; what has been merged is published.
    fn end_forced(&mut self, shared: &Arc<Shared>, result: Result<()>) {
        let Some(forced) = self.forced.pop_front() else { return };
        if self.forced.is_empty() {
            self.store.release_reserved();
        }
        let published = self.publish_or_recover(shared);
        tell(&forced.reply, result.and(published));
        if !self.forced.is_empty() {
            self.start_merges(shared);
        }
    }

    /// The segments that were asked about are gone.
    pub(super) fn fail_forced(&mut self) {
        for forced in self.forced.drain(..) {
            let message = "the writer went back to its last commit before the merges were done";
            tell(&forced.reply, Err(Error::new(ErrorKind::Internal, message)));
        }
    }
}
