//! One index: takes batches, publishes snapshots.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use serde_json::Value;
use tokio::sync::{oneshot, watch};

use crate::activity::ActivityStats;
use crate::batch::{Batch, BatchOutcome};
use crate::catalog::Alias;
use crate::error::Result;
use crate::mapping::{Mapping, Outstanding};
use crate::position::{Checkpoint, Generation};
use crate::snapshot::{Snapshot, StoredDocument};
use crate::store::background::Background;
pub use crate::store::forced::ForceMerge;
pub use crate::store::merge_counts::MergeStats;
pub use crate::store::pressure::PressureStats;
use crate::store::recent::Known;
use crate::store::settings::{Blocks, IndexSettings};
use crate::store::shared::{Identity, Message, Shared, ShownSegment, closed};
use crate::store::writer::Recovered;

/// What an index is made from, over what templates give it.
#[derive(Debug, Clone, Default)]
pub struct IndexDefinition {
    /// Its mapping in Elasticsearch's format; `Value::Null` for an empty dynamic one. It goes before
    /// what templates say.
    pub mappings: Value,
    /// What is known of its fields from elsewhere, as a table's columns: templates go before it.
    pub inferred: Value,
    /// Its settings in Elasticsearch's format (nested or dotted); `Value::Null` for defaults.
    pub settings: Value,
    /// Its aliases.
    pub aliases: BTreeMap<String, Alias>,
    /// The pipeline that it follows, where it follows one.
    pub pipeline: Option<String>,
}

/// A handle to an index. Cheap to clone through its `Arc`.
pub struct Index {
    shared: Arc<Shared>,
}

/// What a writer says of a batch: awaited, or waited for with `blocking_recv`.
pub type Receipt = oneshot::Receiver<Result<BatchOutcome>>;

/// Where an index stands. LSNs are those of a followed index.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Positions {
    /// The published generation.
    pub generation: Generation,
    /// Everything up to here has been given to the writer and applied.
    pub applied: Option<Checkpoint>,
    /// Everything up to here is published.
    pub visible: Option<Checkpoint>,
    /// Everything up to here survives a power cut (in `commit.json`).
    pub durable: Option<Checkpoint>,
    /// Whether anything is applied that is not yet durable.
    pub unflushed: bool,
}

/// Sizes and counts, for `_stats` and `_cat`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IndexStats {
    /// Live documents.
    pub doc_count: u64,
    /// Deleted documents that merges have not removed yet.
    pub deleted_count: u64,
    /// Segments of the published snapshot.
    pub segment_count: u64,
    /// Bytes of its segments, in memory and on disk.
    pub size_bytes: u64,
    /// Of these, bytes that are only in memory.
    pub memory_bytes: u64,
    /// Bytes in the translog.
    pub translog_bytes: u64,
    /// Operations in the translog.
    pub translog_ops: u64,
    /// Memory of the segments under construction, in bytes.
    pub building_bytes: u64,
    /// What merges do and have done.
    pub merges: MergeStats,
    /// Whether and how much writes had to wait for merges.
    pub pressure: PressureStats,
    /// What has been done with it.
    pub activity: ActivityStats,
}

/// A segment of the published state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentStats {
    /// Its number, in the order in which segments were published since the index was opened.
    pub number: u64,
    /// Its own name, never used again: that of its files.
    pub uuid: String,
    /// Living documents.
    pub doc_count: u64,
    /// Deleted documents that a merge has not removed yet.
    pub deleted_count: u64,
    /// Bytes of its files.
    pub size_bytes: u64,
    /// Of these, bytes that are only in memory.
    pub memory_bytes: u64,
    /// Whether a flush has made it durable.
    pub committed: bool,
    /// Bytes of its files by their names' endings.
    pub files: BTreeMap<String, u64>,
}

impl Index {
    pub(crate) fn new(
        identity: Identity,
        recovered: Recovered,
        background: Arc<Background>,
    ) -> Self {
        Self { shared: Shared::new(identity, recovered, background) }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The newest state of a document in whatever serves this index by now.
    #[cfg(test)]
    pub(crate) fn serving_document(&self, id: &str) -> Option<StoredDocument> {
        Self { shared: self.serving() }.document(id).ok()?
    }

    /// What serves this index by now: a rebuild may have put another folder in its place.
    fn serving(&self) -> Arc<Shared> {
        let mut serving = Arc::clone(&self.shared);
        while let Some(other) = serving.queue.moved() {
            serving = other;
        }
        serving
    }

    /// Ends the writer.
    pub(crate) fn close(&self, flush: bool) -> Result<()> {
        self.named(self.shared.close(flush))
    }

    fn named<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|error| error.with_index(self.name()))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.shared.identity.name
    }

    /// Its UUID in 22 characters of URL-safe base64, never used again.
    pub fn uuid(&self) -> &str {
        &self.shared.identity.uuid
    }

    /// The pipeline that it follows.
    pub fn pipeline(&self) -> Option<&str> {
        self.shared.identity.pipeline.as_deref()
    }

    /// Milliseconds since 1970 when it was made.
    pub fn created_ms(&self) -> i64 {
        self.shared.identity.created_ms
    }

    /// Its settings, nested, in Elasticsearch's format.
    pub fn settings(&self) -> Value {
        self.shared.identity.settings.load().to_json()
    }

    /// The largest `from + size` of a search, where the index has its own.
    pub fn max_result_window(&self) -> Option<u64> {
        self.serving().identity.settings.load().max_result_window
    }

    /// What clients may not do to it.
    pub fn blocks(&self) -> Blocks {
        self.shared.identity.settings.load().blocks
    }

    /// Goes on under other settings. Blocking.
    pub(crate) fn set_settings(&self, settings: IndexSettings) -> Result<()> {
        let serving = self.serving();
        serving.identity.settings.store(Arc::new(settings));
        self.named(serving.ask(Message::Settings))
    }

    /// Its mapping now.
    pub fn mapping(&self) -> Arc<Mapping> {
        Arc::clone(&self.shared.view.lock().mapping)
    }

    /// Additions to the mapping that documents from before may have values for, until these are written
    /// again: by a rebuild, or of themselves.
    pub fn outstanding(&self) -> Option<Arc<Outstanding>> {
        self.shared.view.lock().outstanding.clone()
    }

    /// Adds fields and multi-fields. What would change an existing field's type is refused.
    /// Returns when the mapping is durable. Blocking.
    pub fn put_mapping(&self, addition: &Value) -> Result<()> {
        let addition = addition.clone();
        self.named(self.shared.put_mapping(addition))
    }

    /// Hands a batch to the writer, which applies batches in the order of these calls. Waits while
    /// the writer's queue is full; the receipt comes when the batch is applied and, where the index
    /// has a translog, durable in it.
    ///
    /// A receipt that is an error says that nothing of the batch is visible; whether it comes back
    /// with a restart is open (as after any error of a disk). A followed index takes no more writes
    /// after one: see [`Index::resume`].
    pub fn submit(&self, batch: Batch) -> Result<Receipt> {
        self.named(self.shared.submit(batch))
    }

    /// As `submit`, and waits for the receipt. Blocking.
    pub fn write(&self, batch: Batch) -> Result<BatchOutcome> {
        let receipt = self.submit(batch)?;
        self.named(receipt.blocking_recv().unwrap_or_else(|_| Err(closed())))
    }

    /// For a followed index: nothing for it between its last batch and here. In order with
    /// `submit`; never blocks on disk.
    pub fn advance(&self, checkpoint: Checkpoint) -> Result<()> {
        self.named(self.shared.advance(checkpoint))
    }

    /// For a followed index whose writer had to go back to its last commit: takes writes again,
    /// which must begin at `durable` of [`Index::positions`]. Where nothing was wrong, it does
    /// nothing. Blocking.
    pub fn resume(&self) -> Result<()> {
        self.named(self.shared.ask(Message::Resume))
    }

    /// Publishes what was applied before this call. Blocking.
    pub fn refresh(&self) -> Result<()> {
        self.named(self.serving().ask(Message::Refresh))
    }

    /// Makes durable what was applied before this call; publishes it too, unless only a refresh does
    /// ([`RefreshInterval::Off`](crate::store::settings::RefreshInterval::Off)). Blocking.
    pub fn flush(&self) -> Result<()> {
        self.named(self.serving().ask(Message::Flush))
    }

    /// As [`Self::flush`], of this folder whether or not it serves the index.
    pub(crate) fn flush_folder(&self) -> Result<()> {
        self.named(self.shared.ask(Message::Flush))
    }

    /// As [`Self::refresh`], of this folder: it is about to serve the index.
    pub(crate) fn refresh_folder(&self) -> Result<()> {
        self.named(self.shared.ask(Message::Refresh))
    }

    /// Merges the segments that there are now, as is asked; publishes the outcome. Returns when that
    /// is done. Blocking, for as long as the merges take.
    pub fn force_merge(&self, how: ForceMerge) -> Result<()> {
        self.named(self.serving().ask(|reply| Message::ForceMerge(how, reply)))
    }

    /// The published state.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.snapshot.load_full()
    }

    /// A document by id: the newest, published or not, where the index has a translog; the
    /// published one where it is followed. Blocking.
    pub fn document(&self, id: &str) -> Result<Option<StoredDocument>> {
        self.counted(|| {
            let recent = self.shared.recent.lock().document(id);
            match recent {
                Known::There(document) => Ok(Some(document)),
                Known::Deleted => Ok(None),
                Known::Nothing => self.shared.newest.load().document(id),
            }
        })
    }

    /// As [`Self::document`], as searches see it now. Blocking.
    pub fn published_document(&self, id: &str) -> Result<Option<StoredDocument>> {
        self.counted(|| self.snapshot().document(id))
    }

    /// Reads a document by id and counts that.
    fn counted(
        &self,
        read: impl FnOnce() -> Result<Option<StoredDocument>>,
    ) -> Result<Option<StoredDocument>> {
        let (began, activity) = (Instant::now(), &self.shared.identity.activity);
        let document = self.named(read())?;
        let counter = if document.is_some() { &activity.found } else { &activity.missing };
        counter.add(began.elapsed());
        Ok(document)
    }

    /// Where the index stands; the receiver is told of every change.
    pub fn positions(&self) -> watch::Receiver<Positions> {
        self.shared.positions.subscribe()
    }

    /// The copy's progress as last given in a batch that was applied.
    pub fn copy_progress(&self) -> Option<String> {
        self.shared.view.lock().copy_progress.clone()
    }

    /// Why the index takes no writes now, where that is so: a sync of its translog has failed and no
    /// flush has succeeded since, or its writer cannot go on. It is read all the same.
    pub fn refusal(&self) -> Option<Arc<str>> {
        self.serving().view.lock().refusal.clone()
    }

    /// Sizes and counts of the published state.
    pub fn stats(&self) -> IndexStats {
        let stats = self.shared.view.lock().stats;
        let (merges, pressure) = (self.shared.merges.stats(), self.shared.pressure.stats());
        let activity = self.shared.identity.activity.stats();
        IndexStats { merges, pressure, activity, ..stats }
    }

    /// The segments of the published state, the largest first.
    pub fn segments(&self) -> Vec<SegmentStats> {
        let segments = Arc::clone(&self.shared.view.lock().segments);
        segments.iter().map(stats_of).collect()
    }
}

fn stats_of(segment: &ShownSegment) -> SegmentStats {
    let mut files = BTreeMap::new();
    for (name, file) in segment.files.files() {
        let ending = name.rsplit_once('.').map_or(&*name, |(_, ending)| ending);
        *files.entry(ending.to_owned()).or_default() += file.bytes.len() as u64;
    }
    let (size_bytes, memory_bytes) = segment.files.sizes();
    SegmentStats {
        number: segment.number,
        uuid: segment.reader.segment_id().uuid_string(),
        doc_count: segment.reader.num_docs().into(),
        deleted_count: u64::from(segment.reader.num_deleted_docs())
            .saturating_sub(segment.row_count),
        size_bytes,
        memory_bytes,
        committed: segment.files.is_committed(),
        files,
    }
}

impl std::fmt::Debug for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.shared.fmt(f)
    }
}
