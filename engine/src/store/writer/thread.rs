//! The thread of a writer: begun by the first message, given back when there has been nothing to do
//! for a while.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, select};
use serde_json::Value;
use tokio::sync::oneshot;

use super::{Writer, tell};
use crate::batch::Batch;
use crate::error::{Error, ErrorKind, Result};
use crate::index::Receipt;
use crate::position::Checkpoint;
use crate::store::builder::guarded;
use crate::store::plan::ReadBefore;
use crate::store::scheduling::Schedule;
use crate::store::shared::{Event, Message, Shared, Write, closed, held_bytes};
use crate::store::translog::Translog;
use crate::store::writers::Turn;

/// A writer that has had nothing to do for so long gives its thread back.
const IDLE_BEFORE_PARKING: Duration =
    if cfg!(test) { Duration::from_millis(5) } else { Duration::from_secs(10) };
/// Where the writer of an index is.
pub(crate) enum Slot {
    /// Without a thread.
    Parked(Box<Writer>),
    /// On its thread.
    Running,
    /// Nowhere: the index is closed.
    Closed,
}

/// Whether a writer goes on.
pub(super) enum Then {
    Continue,
    /// It ends, and tells whoever asked for it once its files are free.
    End(Sender<Result<()>>, Result<()>),
}

impl Shared {
    /// Hands a message to the writer and sees that it runs.
    pub(crate) fn send(self: &Arc<Self>, message: Message) -> Result<()> {
        // Before: a full queue must be drained. After: the writer may have parked meanwhile.
        self.wake()?;
        self.queue.send(message)?;
        if let Err(error) = self.wake() {
            // It ended, with this message or without it: either way whoever asked has an answer.
            tracing::debug!(index = %self.identity.name, %error, "a message came with the close");
            Writer::refuse_the_rest(self);
        }
        Ok(())
    }

    /// Hands a batch to the writer. Waits while its queue is full.
    pub(crate) fn submit(self: &Arc<Self>, batch: Batch) -> Result<Receipt> {
        if batch.spooled.is_some() && self.identity.pipeline.is_none() {
            let message = "spooled operations are for an index that follows a pipeline";
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let bytes = held_bytes(&batch);
        let (to, turn) = self.enter(Some(bytes))?;
        let (reply, receipt) = oneshot::channel();
        let mapping = Arc::clone(&to.view.lock().mapping);
        // What cannot be read here, the writer refuses.
        let read = guarded(|| Ok(ReadBefore::new(&batch.ops, &mapping))).unwrap_or_default();
        let sent = to.send(Message::Write(Box::new(Write { batch, read, bytes, reply })));
        to.queue.passed();
        drop(turn);
        sent?;
        Ok(receipt)
    }

    /// The index that batches go to by now, with room for one of so many bytes; `Queue::passed` must
    /// follow.
    fn enter(self: &Arc<Self>, bytes: Option<usize>) -> Result<(Arc<Self>, Option<Turn>)> {
        let mut to = Arc::clone(self);
        loop {
            let turn = bytes.map(|_| to.admit()).transpose()?;
            match to.queue.reserve(bytes.unwrap_or_default())? {
                Some(moved) => to = moved,
                None => return Ok((to, turn)),
            }
        }
    }

    /// Waits as long as a batch has to.
    fn admit(&self) -> Result<Turn> {
        let refusable = self.identity.pipeline.is_none();
        self.pressure.admit(refusable)?;
        self.budget.admit(self.background.limits().max_write_wait, refusable)?;
        self.background.writers().turn(self, refusable)
    }

    /// For a followed index: nothing up to here. A writer without a thread needs none for it.
    pub(crate) fn advance(self: &Arc<Self>, checkpoint: Checkpoint) -> Result<()> {
        let mut slot = self.slot.lock();
        if let Slot::Parked(writer) = &mut *slot
            && self.queue.is_empty()
        {
            writer.advance(self, checkpoint);
            return Ok(());
        }
        drop(slot);
        self.send(Message::Advance(checkpoint))
    }

    /// Adds to the mapping, of the folder that batches go to.
    pub(crate) fn put_mapping(self: &Arc<Self>, addition: Value) -> Result<()> {
        let (to, _) = self.enter(None)?;
        let result = to.ask(|reply| Message::PutMapping(addition, reply));
        to.queue.passed();
        result
    }

    /// Sends a message that is answered, and waits.
    pub(crate) fn ask(
        self: &Arc<Self>,
        message: impl FnOnce(Sender<Result<()>>) -> Message,
    ) -> Result<()> {
        let (reply, answer) = crossbeam_channel::bounded(1);
        self.send(message(reply))?;
        answer.recv().map_err(|_| closed())?
    }

    /// Tells a writer that has a thread; another one need not know.
    pub(in crate::store) fn nudge(&self, event: Event) {
        if self.presence.is_running() && self.queue.events.0.send(event).is_err() {
            tracing::debug!(index = %self.identity.name, "an event came after the close");
        }
    }

    /// Tells the writer; it begins its thread for it.
    pub(in crate::store) fn tell(self: &Arc<Self>, event: Event) {
        // The receiver lives in the same structure; a closed index ignores what comes.
        if self.queue.events.0.send(event).is_ok() && self.wake().is_err() {
            tracing::debug!(index = %self.identity.name, "an event came after the close");
        }
    }

    #[cfg(test)]
    pub(in crate::store) fn is_parked(&self) -> bool {
        matches!(*self.slot.lock(), Slot::Parked(_))
    }

    /// Sees that the writer has a thread, if there is anything for it.
    pub(in crate::store) fn wake(self: &Arc<Self>) -> Result<()> {
        let mut slot = self.slot.lock();
        match std::mem::replace(&mut *slot, Slot::Running) {
            Slot::Running => Ok(()),
            Slot::Closed => {
                *slot = Slot::Closed;
                Err(closed())
            }
            // What it was told it has done, and rests again.
            Slot::Parked(writer) if self.queue.is_empty() => {
                *slot = Slot::Parked(writer);
                Ok(())
            }
            Slot::Parked(writer) => {
                let shared = Arc::clone(self);
                let name = format!("egret-write-{}", self.identity.name);
                let builder = std::thread::Builder::new().name(name);
                // Before: whoever finds it among those that have threads may tell it to leave.
                self.presence.set_running(true);
                let thread = self.background.writers().begin(self);
                let run = move || {
                    writer.run(&shared, thread.is_surplus);
                    drop(thread);
                };
                match builder.spawn(run) {
                    Ok(_) => Ok(()),
                    Err(error) => {
                        // The writer went with the closure; a reopened engine has it again.
                        tracing::error!(index = %self.identity.name, %error, "no thread for an index");
                        *slot = Slot::Closed;
                        self.queue.close();
                        self.pressure.close();
                        self.presence.set_running(false);
                        Err(Error::from(error))
                    }
                }
            }
        }
    }

    /// Ends the writer. Further messages are refused.
    pub(crate) fn close(self: &Arc<Self>, flush: bool) -> Result<()> {
        if !flush {
            let mut slot = self.slot.lock();
            if matches!(*slot, Slot::Parked(_)) {
                *slot = Slot::Closed;
                self.queue.close();
                self.pressure.close();
                return Ok(());
            }
        }
        match self.ask(|reply| Message::Close { flush, reply }) {
            Err(error) if error.kind() == ErrorKind::Closed => Ok(()),
            other => other,
        }
    }
}

impl Writer {
    /// Does what comes; `is_surplus`: only what is necessary.
    fn run(mut self: Box<Self>, shared: &Arc<Shared>, is_surplus: bool) {
        Schedule::LongSlices.take();
        self.leaving = is_surplus;
        let mut idle_since = Instant::now();
        loop {
            let deadline = self.deadline(shared, idle_since + IDLE_BEFORE_PARKING);
            let (receiver, events) = (&shared.queue.receiver, &shared.queue.events.1);
            let (mut message, mut event) = (None, None);
            select! {
                recv(receiver) -> received => message = received.ok(),
                recv(events) -> received => event = received.ok(),
                default(deadline.saturating_duration_since(Instant::now())) => {}
            }
            // A pipeline tells all its indexes how far it is.
            let advances = matches!(message, Some(Message::Advance(_)));
            if message.is_some() && !advances {
                shared.background.writers().note_use(shared);
            }
            if (message.is_some() && !advances) || event.is_some() {
                idle_since = Instant::now();
            }
            match guarded(|| Ok(self.step(shared, message, event))) {
                Ok(Then::Continue) => {}
                Ok(Then::End(reply, result)) => {
                    // Whoever finds it closed may open its files.
                    drop(self);
                    *shared.slot.lock() = Slot::Closed;
                    shared.presence.set_running(false);
                    shared.queue.close();
                    shared.pressure.close();
                    Self::refuse_the_rest(shared);
                    return tell(&reply, result);
                }
                Err(error) => self.fail(shared, &error.to_string()),
            }
            let idle = self.leaving || idle_since.elapsed() >= IDLE_BEFORE_PARKING;
            if !self.is_at_rest(shared) || !idle {
                continue;
            }
            let mut slot = shared.slot.lock();
            if shared.queue.is_empty() {
                shared.presence.set_running(false);
                *slot = Slot::Parked(self);
                return;
            }
        }
    }

    fn step(
        &mut self,
        shared: &Arc<Shared>,
        message: Option<Message>,
        event: Option<Event>,
    ) -> Then {
        if let Some(event) = event {
            self.handle_event(shared, event);
        }
        if self.comeback_due().is_some_and(|due| due <= Instant::now()) {
            self.come_back(shared);
        }
        let then = message.map_or(Then::Continue, |message| self.handle(shared, message));
        if matches!(then, Then::Continue) {
            self.do_what_is_due(shared);
        }
        then
    }

    /// Answers what came after the close.
    fn refuse_the_rest(shared: &Arc<Shared>) {
        for message in shared.queue.receiver.try_iter() {
            match message {
                Message::Write(write) => {
                    shared.queue.release(write.bytes);
                    super::answer(write.reply, Err(closed()));
                }
                Message::Advance(_) => {}
                Message::Mirroring(asked) => {
                    shared.queue.release(asked.bytes());
                    asked.refuse();
                }
                Message::PutMapping(_, reply)
                | Message::Settings(reply)
                | Message::Refresh(reply)
                | Message::Flush(reply)
                | Message::ForceMerge(_, reply)
                | Message::Resume(reply)
                | Message::Close { reply, .. } => tell(&reply, Err(closed())),
            }
        }
    }

    fn deadline(&self, shared: &Shared, parking: Instant) -> Instant {
        let publish = self.publication_due(shared, Instant::now());
        let flush = self.flush_due(shared);
        let sync = self.log.as_ref().and_then(Translog::sync_due);
        let merges = self.merges_due.into_iter().chain(self.tidying_due());
        let due = publish.into_iter().chain(flush).chain(sync).chain(merges);
        let due = due.chain(self.comeback_due()).min();
        if self.is_at_rest(shared) {
            due.map_or(parking, |due| due.min(parking))
        } else {
            due.unwrap_or_else(|| Instant::now() + IDLE_BEFORE_PARKING)
        }
    }

    fn publication_due(&self, shared: &Shared, now: Instant) -> Option<Instant> {
        let quiet = shared.queue.is_empty() && !self.store.is_pouring();
        let interval = shared.identity.settings.load().refresh_interval;
        self.publishing.due(interval, quiet, self.store.building_docs(), now)
    }

    fn is_at_rest(&self, shared: &Shared) -> bool {
        self.publication_due(shared, Instant::now()).is_none()
            && (self.leaving || self.merges_due.is_none())
            && self.forced.is_empty()
            && !self.flushing.is_running()
            // Their end brings the writer back.
            && (self.leaving || !self.store.is_merging())
            && self.log.as_ref().is_none_or(|log| log.sync_due().is_none())
            && (self.changes == self.flushing.flushed_changes || self.failed.is_some())
            && (self.leaving || self.comeback_due().is_none())
    }

    fn do_what_is_due(&mut self, shared: &Arc<Shared>) {
        let now = Instant::now();
        if self.publication_due(shared, now).is_some_and(|due| due <= now) {
            // A failure has been told to whoever waits, and the writer has begun anew.
            drop(self.publish_or_recover(shared));
        }
        if let Some(log) =
            self.log.as_mut().filter(|log| log.sync_due().is_some_and(|due| due <= now))
        {
            log.sync();
        }
        let idle = self.tidying_due().is_some_and(|due| due <= now);
        if idle {
            self.changed_at = None;
        }
        if idle || self.merges_due.is_some_and(|due| due <= now) {
            self.start_merges(shared);
        }
        if self.flush_due(shared).is_some_and(|due| due <= now) {
            self.start_flush(shared);
        }
    }
}
