//! Publication: when it is due, and what it does.
//!
//! Under `refresh_interval: -1` what is written is held back from searches until somebody asks for it.
//! A flush, or much that only memory has, then finishes segments that reads by id see and searches do
//! not. Such a state has a generation of its own: it is what is searched after a restart.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Reply, Waiting, Writer, answer};
use crate::activity::Activity;
use crate::batch::BatchOutcome;
use crate::error::Result;
use crate::index::Positions;
use crate::position::{Checkpoint, Generation, SeqNo};
use crate::snapshot::SnapshotParts;
use crate::store::builder::guarded;
use crate::store::merge_policy::backlog;
use crate::store::segment::LiveSegment;
use crate::store::settings::RefreshInterval;
use crate::store::shared::{Identity, Shared, ShownSegment};
use crate::store::state::Store;
use crate::store::translog::Translog;

/// While the queue runs empty, a publication waits for this many times what one takes lately, but
/// no longer than that,
const WHEN_QUIET: (u32, Duration) = (2, Duration::from_millis(50));
/// and so much longer for every document that waits: what is published in small pieces is merged in
/// small pieces. So a few documents are shown at once, and of ten thousand a second each publication
/// has hundreds.
const EACH_DOCUMENT: Duration = Duration::from_micros(100);
/// While writes keep waiting or come in large batches, larger segments pay: each is indexed, sorted
/// and merged as a whole.
const UNDER_LOAD: (u32, Duration) = (8, Duration::from_secs(1));

/// What merges have made is published this long after the last one, where nothing is written: it
/// makes searches faster, but cached answers void.
const AFTER_MERGES: Duration = Duration::from_secs(2);

/// What is published, and what waits for it.
pub(super) struct Publishing {
    /// The number of the last publication in this term.
    pub(super) number: u64,
    /// Whether documents or the mapping have changed since,
    changed: bool,
    /// and whether that were documents.
    written: bool,
    /// The name of the state that was finished and held back, where nothing has changed since.
    held_back: Option<Generation>,
    /// When the last merge has ended since, if any.
    layout: Option<Instant>,
    urgency: Urgency,
    ended: Option<Instant>,
    /// What publications take lately.
    cost: Duration,
    waiting: Vec<Waiting>,
    /// What the published snapshot was made from.
    parts: SnapshotParts,
}

/// How much a publication is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Urgency {
    /// As the settings say.
    None,
    /// Somebody waits for it, at the settings' pace.
    Awaited,
    /// Now.
    Hurry,
}

impl Publishing {
    /// With a state that is published already; the next one is the first of its term.
    pub(super) fn new(parts: SnapshotParts) -> Self {
        Self {
            parts,
            number: 0,
            changed: false,
            written: false,
            held_back: None,
            layout: None,
            urgency: Urgency::None,
            ended: None,
            cost: Duration::ZERO,
            waiting: Vec::new(),
        }
    }

    /// Documents have changed.
    pub(super) fn note_written(&mut self) {
        (self.changed, self.written) = (true, true);
        self.held_back = None;
    }

    /// The mapping has changed.
    pub(super) fn note_mapping(&mut self) {
        self.changed = true;
        self.held_back = None;
    }

    /// A merge waits for the next publication, and only brings one about when nothing else does.
    pub(super) fn note_layout(&mut self) {
        self.layout = Some(Instant::now());
        self.held_back = None;
    }

    /// There is nothing to be published any more.
    pub(super) fn give_up(&mut self) {
        (self.changed, self.written) = (false, false);
        (self.layout, self.urgency) = (None, Urgency::None);
    }

    pub(super) fn hurry(&mut self) {
        self.urgency = Urgency::Hurry;
    }

    /// Whether anything written is not published.
    pub(super) fn is_pending(&self) -> bool {
        self.changed
    }

    /// Whether documents are not to be searched before somebody asks for it.
    fn is_held_back(&self, interval: RefreshInterval) -> bool {
        self.written && interval == RefreshInterval::Off && self.urgency == Urgency::None
    }

    /// The name of what was finished and held back, where nothing has changed since.
    pub(super) fn held_back(&self) -> Option<Generation> {
        self.held_back
    }

    /// The name of what is finished next: a state that was held back keeps its own, under which it may
    /// be committed.
    fn next(&self, term: u64) -> Generation {
        self.held_back.unwrap_or(Generation { term, number: self.number + 1 })
    }

    pub(super) fn has_layout(&self) -> bool {
        self.layout.is_some()
    }

    /// Keeps an answer, which says that it is published, until it is.
    pub(super) fn wait(&mut self, now: bool, outcome: BatchOutcome, reply: Reply) {
        self.urgency = self.urgency.max(if now { Urgency::Hurry } else { Urgency::Awaited });
        self.waiting.push((outcome, reply));
    }

    pub(super) fn take_waiting(&mut self) -> Vec<Waiting> {
        std::mem::take(&mut self.waiting)
    }

    /// When the next one is due; `quiet` says that no write waits and that batches are small,
    /// `documents` how many it would show.
    pub(super) fn due(
        &self,
        interval: RefreshInterval,
        quiet: bool,
        documents: u32,
        now: Instant,
    ) -> Option<Instant> {
        if !self.changed {
            return self.layout.map(|ended| ended + AFTER_MERGES);
        }
        let Some(ended) = self.ended.filter(|_| self.urgency != Urgency::Hurry) else {
            let wanted = self.urgency != Urgency::None || interval != RefreshInterval::Off;
            return wanted.then_some(now);
        };
        match interval {
            RefreshInterval::Off => (self.urgency == Urgency::Awaited).then_some(now),
            RefreshInterval::AtMostEvery(interval) => Some(ended + interval),
            RefreshInterval::Adaptive => {
                let (times, longest) = if quiet { WHEN_QUIET } else { UNDER_LOAD };
                let wait = self.cost * times + EACH_DOCUMENT.saturating_mul(documents);
                Some(ended + wait.min(longest))
            }
        }
    }
}

/// The parts of a snapshot of the store as it is.
pub(super) fn parts(
    identity: &Identity,
    store: &mut Store,
    generation: Generation,
    checkpoint: Option<Checkpoint>,
    next_seq_no: SeqNo,
) -> Result<SnapshotParts> {
    Ok(SnapshotParts {
        index_name: identity.name.clone(),
        uuid: identity.uuid.clone(),
        generation,
        checkpoint,
        max_seq_no: next_seq_no.0.checked_sub(1).map(SeqNo),
        segments: store.readers()?,
        row_count: store.row_count(),
        rows: store.shown_rows(),
        in_memory: store.in_memory(),
        activity: Arc::clone(&identity.activity),
        mapping: Arc::clone(&store.mapping),
        schema: store.schema.clone(),
        tokenizers: store.tokenizers.clone(),
    })
}

/// The finished segments as they are shown.
pub(super) fn shown(store: &Store) -> Arc<[ShownSegment]> {
    let one = |segment: &LiveSegment| ShownSegment {
        number: segment.number.unwrap_or_default(),
        reader: Arc::clone(segment.reader()),
        row_count: segment.row_count(),
        files: Arc::clone(&segment.files),
    };
    store.segments.iter().map(one).collect()
}

impl Writer {
    /// Publishes if there is anything to; a failure goes back to the last commit.
    pub(super) fn publish_or_recover(&mut self, shared: &Arc<Shared>) -> Result<()> {
        let result = guarded(|| self.publish(shared));
        if let Err(error) = &result {
            self.fail(shared, &format!("publishing failed: {error}"));
        }
        result
    }

    fn publish(&mut self, shared: &Arc<Shared>) -> Result<()> {
        if !self.publishing.changed && !self.publishing.has_layout() {
            return Ok(());
        }
        let began = Instant::now();
        let next = self.publishing.next(self.term);
        let store = &mut self.store;
        let parts = parts(&shared.identity, store, next, self.applied, self.next_seq_no)?;
        self.swap(shared, parts)?;
        shared.view.lock().segments = shown(&self.store);
        self.finished(shared);
        let publishing = &mut self.publishing;
        publishing.number = next.number;
        (publishing.changed, publishing.written) = (false, false);
        (publishing.layout, publishing.held_back) = (None, None);
        publishing.urgency = Urgency::None;
        let ended = Instant::now();
        publishing.cost = (publishing.cost * 3 + (ended - began)) / 4;
        publishing.ended = Some(ended);
        shared.identity.activity.published.add(ended - began);
        let waiting = std::mem::take(&mut publishing.waiting);
        self.show(shared);
        for (outcome, reply) in waiting {
            answer(reply, Ok(outcome));
        }
        let (index, number) = (&shared.identity.name, next.number);
        tracing::debug!(%index, number, took = ?began.elapsed(), "published");
        self.start_merges(shared);
        Ok(())
    }

    /// Everything written is in finished segments that reads by id see.
    fn finished(&mut self, shared: &Shared) {
        // Before the writes are answered: whoever writes next is to know.
        shared.pressure.set(backlog(&self.store.segments));
        self.share.set(0);
        shared.forget_recent();
    }

    /// Whether what is written is not to be searched before somebody asks for it.
    pub(super) fn is_held_back(&self, shared: &Shared) -> bool {
        self.publishing.is_held_back(shared.identity.settings.load().refresh_interval)
    }

    /// Publishes what may be, or finishes what is held back; a failure goes back to the last commit.
    pub(super) fn finish_or_recover(&mut self, shared: &Arc<Shared>) -> Result<()> {
        if !self.is_held_back(shared) {
            return self.publish_or_recover(shared);
        }
        let result = guarded(|| self.hold_back(shared));
        if let Err(error) = &result {
            self.fail(shared, &format!("finishing a segment failed: {error}"));
        }
        result
    }

    /// As a publication, but for reads by id alone, and those of a followed index are of what is
    /// published.
    fn hold_back(&mut self, shared: &Arc<Shared>) -> Result<()> {
        let next = self.publishing.next(self.term);
        let store = &mut self.store;
        let parts = parts(&shared.identity, store, next, self.applied, self.next_seq_no)?;
        if self.log.is_some() {
            let newest = shared.newest.load().succeeded_by(parts)?;
            shared.newest.store(Arc::new(newest));
        }
        self.finished(shared);
        (self.publishing.number, self.publishing.held_back) = (next.number, Some(next));
        self.show(shared);
        self.start_merges(shared);
        Ok(())
    }

    /// Puts readers of the same state in place of the published ones, as files have gone to disk.
    pub(super) fn renew_published(&mut self, shared: &Shared) -> Result<()> {
        let mut parts = self.publishing.parts.clone();
        parts.segments = self.store.readers()?;
        parts.rows = self.store.shown_rows();
        parts.in_memory = self.store.in_memory();
        self.swap(shared, parts)?;
        shared.view.lock().segments = shown(&self.store);
        Ok(())
    }

    /// What is counted of the index.
    pub(super) fn activity(&self) -> &Activity {
        &self.publishing.parts.activity
    }

    /// The one swap that makes a state what searches see.
    fn swap(&mut self, shared: &Shared, parts: SnapshotParts) -> Result<()> {
        let snapshot = shared.snapshot.load().succeeded_by(parts.clone())?;
        shared.show(Arc::new(snapshot));
        self.publishing.parts = parts;
        Ok(())
    }

    /// The source stands further, and nothing that was written before is unpublished: the
    /// published state is that of the new position.
    pub(super) fn advanced(&mut self, shared: &Shared) {
        if self.publishing.is_pending() || self.publishing.parts.checkpoint == self.applied {
            return;
        }
        let parts = SnapshotParts { checkpoint: self.applied, ..self.publishing.parts.clone() };
        if let Err(error) = self.swap(shared, parts) {
            // The segments have been published before under the same schema.
            tracing::error!(index = %shared.identity.name, %error, "a position cannot be shown");
        }
    }

    /// Shows where the index stands.
    pub(in crate::store) fn show(&mut self, shared: &Shared) {
        let (size_bytes, memory_bytes) = self.sizes();
        self.share.set_young(usize::try_from(memory_bytes).unwrap_or(usize::MAX));
        let snapshot = shared.snapshot.load();
        let unflushed = self.changes != self.flushing.flushed_changes;
        let positions = Positions {
            generation: snapshot.generation(),
            applied: self.applied,
            visible: snapshot.checkpoint(),
            durable: if unflushed { self.flushing.durable } else { self.applied },
            unflushed,
        };
        shared.positions.send_if_modified(|shown| {
            let changed = *shown != positions;
            *shown = positions;
            changed
        });
        self.show_refusal(shared);
        let mut view = shared.view.lock();
        let stats = &mut view.stats;
        (stats.doc_count, stats.deleted_count) = (snapshot.doc_count(), snapshot.deleted_count());
        stats.segment_count = snapshot.segments().len() as u64;
        stats.building_bytes = self.share.bytes() as u64;
        (stats.size_bytes, stats.memory_bytes) = (size_bytes, memory_bytes);
        let log = self.log.as_ref();
        stats.translog_bytes = log.map_or(0, Translog::bytes);
        stats.translog_ops = log.map_or(0, Translog::ops);
    }

    /// Shows why no writes are taken, where they are not.
    pub(super) fn show_refusal(&self, shared: &Shared) {
        let refusal = self.refusal().map(|error| error.message().into());
        shared.view.lock().refusal = refusal;
    }

    /// Bytes of the finished segments, and of those only in memory.
    pub(super) fn sizes(&self) -> (u64, u64) {
        let sizes = self.store.segments.iter().map(|segment| segment.files.sizes());
        sizes.fold((0, 0), |(all, memory), (bytes, young)| (all + bytes, memory + young))
    }
}
