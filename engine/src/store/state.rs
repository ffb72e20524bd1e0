//! The documents of one index as its writer sees them: finished segments, the one being built, the
//! schema. Knows no queue, no log and no publication.

mod building;
mod replay;
mod rows;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use egret_aof::disk::Disk;
use rustc_hash::FxHashMap;
use tantivy::directory::OwnedBytes;
use tantivy::fastfield::AliveBitSet;
use tantivy::index::{SegmentId, SegmentMeta};
use tantivy::schema::Schema;
use tantivy::store::Compressor;
use tantivy::tokenizer::TokenizerManager;
use tantivy::{BitSet, Index, IndexMeta, IndexSettings, SegmentReader};

pub(super) use self::building::{Put, WasPut};
use super::builder::Builder;
use super::commit::Commit;
use super::directory::{StoreDirectory, map};
use super::merge::{MergeInput, MergeTask, Merged};
use super::merge_policy::{choose, is_large};
use super::segment::{LiveSegment, Location};
use super::source::{self, Dictionary, Merging};
use super::tombstones::Tombstones;
use crate::document::SchemaFields;
use crate::error::{Error, ErrorKind, Result};
use crate::mapping::ignored::{Ignored, Origin};
use crate::mapping::schema::{self, SystemValues};
use crate::mapping::{Mapping, Outstanding};
use crate::position::SeqNo;
use crate::snapshot::RowSegment;

/// Documents pour in until so long after the last large batch.
const AFTER_POURING: Duration = Duration::from_millis(500);
/// While new ones do, large merges wait, unless there are so many segments.
const MOST_SEGMENTS_POURING: usize = 32;

/// The documents of an index.
pub(super) struct Store {
    pub(super) directory: StoreDirectory,
    pub(super) mapping: Arc<Mapping>,
    /// How many mappings have gone into the translog, ever.
    pub(super) mapping_number: u64,
    /// What mappings may have ignored in the documents.
    pub(super) ignored: Ignored,
    /// Additions to the mapping that documents from before may have values for.
    pub(super) outstanding: Option<Arc<Outstanding>>,
    /// Whether it has, or once had, any documents.
    had_documents: bool,
    pub(super) schema: Schema,
    /// The mapping's, in the schema.
    fields: Arc<SchemaFields>,
    pub(super) tokenizers: TokenizerManager,
    pub(super) segments: Vec<LiveSegment>,
    /// Of documents that are not there; none in a followed index. A living document comes first.
    pub(super) tombstones: Tombstones,
    index: Index,
    /// The segments under construction: one, or after large batches several.
    builders: Vec<Builder>,
    built: u32,
    /// How many segments have been numbered.
    numbered: u64,
    /// Whether a small and a large merge are running.
    merging: [bool; 2],
    /// When many documents were last put at once, and whether they replaced none.
    poured: Option<(Instant, bool)>,
}

/// A living document.
#[derive(Clone)]
pub(super) struct Current {
    /// Where it lies; a document of an operation that is not carried out yet lies nowhere.
    pub(super) location: Option<Location>,
    pub(super) system: SystemValues,
    /// Where it is at hand without reading.
    pub(super) source: Option<Bytes>,
}

impl Store {
    /// An empty store for a mapping.
    pub(super) fn create(disk: Arc<dyn Disk>, folder: PathBuf, mapping: Mapping) -> Result<Self> {
        let schema = schema::build(&mapping);
        let directory = StoreDirectory::new(disk, folder);
        directory.set_meta(meta_json(&schema, Vec::new())?.as_bytes());
        Self::assemble(directory, mapping, schema, Vec::new())
    }

    /// The store that a commit names.
    pub(super) fn open(disk: Arc<dyn Disk>, folder: PathBuf, commit: &Commit) -> Result<Self> {
        let mapping = Mapping::from_json(&commit.mapping).map_err(|error| {
            Error::new(ErrorKind::Corrupt, format!("the committed mapping is damaged: {error}"))
                .with_source(error)
        })?;
        let directory = StoreDirectory::new(disk, folder);
        directory.set_meta(commit.meta.get().as_bytes());
        let metas = open_index(&directory)?.load_metas()?;
        let schema = metas.schema.clone();
        directory.set_meta(meta_json(&schema, Vec::new())?.as_bytes());
        let mut store = Self::assemble(directory, mapping, schema, Vec::new())?;
        store.mapping_number = commit.mapping_number;
        store.had_documents = commit.next_seq_no > SeqNo(0);
        let anywhere = || Ignored::anywhere(&store.mapping);
        store.ignored = commit.ignored.clone().unwrap_or_else(anywhere);
        store.outstanding = commit.outstanding.clone().map(Arc::new);
        let mut files = FxHashMap::<&str, Vec<_>>::default();
        for file in &commit.files {
            let segment = file.name.split_once('.').map_or("", |(segment, _)| segment);
            files.entry(segment).or_default().push(file);
        }
        for meta in &metas.segments {
            let name = meta.id().uuid_string();
            let named = files.get(name.as_str()).map_or(&[][..], Vec::as_slice);
            let segment = store.open_segment(meta, named)?;
            store.segments.push(segment);
        }
        Ok(store)
    }

    fn assemble(
        directory: StoreDirectory,
        mapping: Mapping,
        schema: Schema,
        segments: Vec<LiveSegment>,
    ) -> Result<Self> {
        let mapping = Arc::new(mapping);
        Ok(Self {
            index: open_index(&directory)?,
            directory,
            fields: Arc::new(SchemaFields::new(&schema, &mapping)),
            ignored: Ignored::under(&mapping),
            outstanding: None,
            had_documents: false,
            mapping,
            mapping_number: 0,
            schema,
            tokenizers: schema::tokenizers(),
            segments,
            tombstones: Tombstones::default(),
            builders: Vec::new(),
            built: 0,
            numbered: 0,
            merging: [false; 2],
            poured: None,
        })
    }

    fn open_segment(
        &self,
        meta: &SegmentMeta,
        named: &[&super::commit::CommittedFile],
    ) -> Result<LiveSegment> {
        let id = meta.id().uuid_string();
        let files = self.directory.adopt(id.clone(), None);
        files.set_committed(true);
        let deletes = meta.delete_opstamp().map(|stamp| deletes_name(&id, stamp));
        let mut alive = None;
        for file in named {
            let path = self.directory.folder().join(&file.name);
            let damaged = |what: String| {
                Error::new(ErrorKind::Corrupt, format!("[{}] {what}", path.display()))
            };
            let bytes = map(self.directory.disk(), &path)
                .map_err(|error| damaged(format!("cannot be read: {error}")).with_source(error))?;
            if bytes.len() as u64 != file.length {
                let (found, named) = (bytes.len(), file.length);
                return Err(damaged(format!("has [{found}] bytes, not the committed [{named}]")));
            }
            if Some(&file.name) != deletes.as_ref() {
                files.register(&file.name, file.crc32c)?;
                continue;
            }
            if crc32c::crc32c(&bytes) != file.crc32c {
                return Err(damaged("is damaged: its checksum differs".to_owned()));
            }
            let set = read_alive(&bytes, meta.max_doc());
            alive = Some(set.ok_or_else(|| damaged("is no set of documents".to_owned()))?);
        }
        if deletes.is_some() != alive.is_some() {
            let message = format!("the commit does not name the deletes of segment [{id}]");
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        LiveSegment::open(&self.index, files, meta.id(), meta.max_doc(), alive)
    }

    /// The living document of this id.
    pub(super) fn current(&self, id: &str) -> Result<Option<Current>> {
        match self.building(id) {
            Some(current) => Ok(Some(current)),
            None => find_finished(&self.segments, id),
        }
    }

    /// The source of a document that [`Store::current`] found.
    pub(super) fn source(&self, current: &Current) -> Result<Bytes> {
        if let Some(source) = &current.source {
            return Ok(source.clone());
        }
        let segment = current.location.and_then(|location| {
            let segment = self.segments.iter().find(|segment| segment.id == location.segment)?;
            Some((segment, location.doc))
        });
        match segment {
            Some((segment, doc)) => segment.source(doc),
            None => Err(Error::new(ErrorKind::Internal, "a document's segment is gone")),
        }
    }

    /// Removes a document.
    pub(super) fn delete(&mut self, before: Location, id: &str) {
        if !self.kill_finished(before) {
            self.builders.iter_mut().for_each(|builder| builder.kill(id));
        }
    }

    /// Whether there is such a segment.
    fn kill_finished(&mut self, location: Location) -> bool {
        let found = self.segments.iter_mut().find(|segment| segment.id == location.segment);
        found.map(|segment| segment.kill(location.doc)).is_some()
    }

    /// Removes every document, or those whose LSN is not above a bound.
    pub(super) fn clear(&mut self, up_to_lsn: Option<u64>) -> Result<()> {
        self.tombstones.clear();
        if up_to_lsn.is_some() {
            self.seal()?;
        } else {
            self.builders.iter_mut().for_each(Builder::kill_all);
        }
        self.segments.iter_mut().try_for_each(|segment| segment.kill_up_to(up_to_lsn))
    }

    /// How many documents of a segment are alive.
    pub(super) fn committed_alive(&self, id: SegmentId) -> Option<u32> {
        Some(self.segments.iter().find(|segment| segment.id == id)?.alive_count())
    }

    /// Takes over a mapping that a translog names, unless it belongs to a time before this one. One
    /// without a number is later where it has more fields, which are only ever added. Whether it did.
    pub(super) fn take_if_later(
        &mut self,
        number: Option<u64>,
        mapping: Mapping,
        origin: Origin,
    ) -> Result<bool> {
        let later = match number {
            Some(number) => number > self.mapping_number,
            None => mapping.fields().len() > self.mapping.fields().len(),
        };
        if later {
            self.mapping_number = number.unwrap_or(self.mapping_number);
            self.grow(mapping, origin)?;
        }
        Ok(later)
    }

    /// Takes over a grown mapping.
    pub(super) fn grow(&mut self, mapping: Mapping, origin: Origin) -> Result<()> {
        self.note_ignored(&mapping, origin);
        let schema = schema::extend(&self.schema, &mapping);
        if schema != self.schema {
            self.seal()?;
            self.directory.set_meta(meta_json(&schema, Vec::new())?.as_bytes());
            self.index = open_index(&self.directory)?;
            self.built = 0;
            self.schema = schema;
            for segment in &mut self.segments {
                segment.mark_stale();
            }
        }
        self.mapping = Arc::new(mapping);
        self.fields = Arc::new(SchemaFields::new(&self.schema, &self.mapping));
        Ok(())
    }

    /// Before the mapping becomes this one.
    fn note_ignored(&mut self, grown: &Mapping, origin: Origin) {
        if !self.had_documents {
            self.ignored = Ignored::under(grown);
            return;
        }
        if origin == Origin::Request {
            let asked = self.ignored.asked_for(&self.mapping, grown);
            if !asked.is_empty() {
                let before = self.outstanding.as_deref().cloned().unwrap_or_default();
                self.outstanding = Some(Arc::new(before.with(asked)));
            }
        }
        self.ignored = self.ignored.after(&self.mapping, grown);
    }

    /// Finishes what is being built, drops what is wholly deleted, and opens what has changed: the
    /// readers of a publication.
    pub(super) fn readers(&mut self) -> Result<Vec<Arc<SegmentReader>>> {
        self.seal()?;
        self.segments.retain(|segment| segment.alive_count() > 0 || segment.merging);
        for segment in &mut self.segments {
            segment.renew(&self.index)?;
            if segment.number.is_none() {
                segment.number = Some(self.numbered);
                self.numbered += 1;
            }
        }
        let shown = self.segments.iter().filter(|segment| !segment.is_hidden());
        Ok(shown.map(|segment| Arc::clone(segment.reader())).collect())
    }

    /// Those of the segments that [`Store::readers`] gives which are read from memory, with their bytes.
    pub(super) fn in_memory(&self) -> Vec<(SegmentId, u64)> {
        let sizes = self.segments.iter().map(|segment| (segment.id, segment.memory_bytes()));
        sizes.filter(|(_, bytes)| *bytes > 0).collect()
    }

    /// How many rows are in the segments that [`Store::readers`] gives.
    pub(super) fn row_count(&self) -> u64 {
        let shown = self.segments.iter().filter(|segment| !segment.is_hidden());
        shown.map(LiveSegment::row_count).sum()
    }

    /// The rows of the segments that [`Store::readers`] has opened.
    pub(super) fn shown_rows(&self) -> Vec<RowSegment> {
        self.segments.iter().filter_map(LiveSegment::shown_rows).collect()
    }

    /// Whether many documents come at once.
    pub(super) fn is_pouring(&self) -> bool {
        self.poured.is_some_and(|(at, _)| at.elapsed() < AFTER_POURING)
    }

    /// Until when large merges wait: while new documents pour in, merges would take the processors
    /// from them, and segments are few enough for now.
    pub(super) fn large_merges_wait(&self) -> Option<Instant> {
        let (at, all_new) = self.poured?;
        let few = self.segments.len() < MOST_SEGMENTS_POURING;
        (all_new && few && self.is_pouring()).then_some(at + AFTER_POURING)
    }

    /// Marks the merge that is worth doing next as running; `idle`: nothing is written.
    pub(super) fn next_merge(&mut self, idle: bool) -> Option<MergeTask> {
        let [small, large] = self.merging;
        let busy = [small, large || self.large_merges_wait().is_some()];
        let (places, large) = choose(&self.segments, busy, idle)?;
        self.begin_merge(&places, large, large || idle)
    }

    /// As [`Self::next_merge`] for the segments at these places, unless a merge of that size runs.
    pub(super) fn merge_of(&mut self, places: &[usize]) -> Option<MergeTask> {
        let large = is_large(&self.segments, places);
        let busy = self.merging.get(usize::from(large)).copied().unwrap_or(true);
        if busy { None } else { self.begin_merge(places, large, true) }
    }

    /// `compress`: nobody waits for what it takes.
    fn begin_merge(&mut self, places: &[usize], large: bool, compress: bool) -> Option<MergeTask> {
        let mut inputs = Vec::with_capacity(places.len());
        for &place in places {
            let segment = self.segments.get_mut(place)?;
            segment.merging = true;
            inputs.push(MergeInput::of(segment));
        }
        if let Some(running) = self.merging.get_mut(usize::from(large)) {
            *running = true;
        }
        let (directory, index) = (self.directory.clone(), self.index.clone());
        let dictionary = if compress { self.dictionary_beside(places) } else { None };
        let sources = Merging { compress, dictionary };
        Some(MergeTask { directory, index, inputs, large, pace: None, sources })
    }

    /// The dictionary of the largest segment that has one, but for those at these places.
    fn dictionary_beside(&self, places: &[usize]) -> Option<Dictionary> {
        let others = self.segments.iter().enumerate().filter(|(place, _)| !places.contains(place));
        let mut others: Vec<&LiveSegment> = others.map(|(_, segment)| segment).collect();
        others.sort_by_key(|segment| std::cmp::Reverse(segment.max_doc));
        others.into_iter().find_map(|segment| segment.sources().ok()?.carried())
    }

    /// Puts a merge's output in place of its inputs, or lets the inputs go where it failed.
    pub(super) fn finish_merge(&mut self, task: FinishedMerge) -> Result<()> {
        if let Some(running) = self.merging.get_mut(usize::from(task.large)) {
            *running = false;
        }
        for segment in &mut self.segments {
            segment.merging &= !task.inputs.contains(&segment.id);
        }
        let Merged { inputs, files, id, max_doc } = task.result?;
        let mut merged = LiveSegment::open(&self.index, files, id, max_doc, None)?;
        // Where each merged document was, in the order that the merge kept.
        let places = inputs.iter().flat_map(|input| {
            let now = self.segments.iter().find(|segment| segment.id == input.id);
            let merged = (0..input.alive.max_value()).filter(|&doc| input.alive.contains(doc));
            merged.map(move |doc| (now, doc))
        });
        for (place, (now, doc)) in (0..).zip(places) {
            if now.is_none_or(|segment| !segment.alive().contains(doc)) {
                merged.kill(place);
            }
        }
        self.segments.retain(|segment| !task.inputs.contains(&segment.id));
        self.segments.insert(0, merged);
        self.segments.sort_by_key(|segment| std::cmp::Reverse(segment.max_doc));
        Ok(())
    }

    /// Keeps a segment from the usual merges.
    pub(super) fn reserve(&mut self, id: SegmentId) {
        if let Some(segment) = self.segments.iter_mut().find(|segment| segment.id == id) {
            segment.reserved = true;
        }
    }

    /// Leaves every segment to the usual merges.
    pub(super) fn release_reserved(&mut self) {
        self.segments.iter_mut().for_each(|segment| segment.reserved = false);
    }

    /// Whether a segment's file is what its own footer says.
    pub(super) fn has_valid_footer(&self, name: &str) -> bool {
        self.index.directory().validate_checksum(Path::new(name)).unwrap_or(false)
    }

    /// Whether merges are running.
    pub(super) fn is_merging(&self) -> bool {
        self.merging.contains(&true)
    }

    /// Tantivy's `meta.json` with the finished segments; `stamps` gives the stamp of each segment's
    /// deletes.
    pub(super) fn meta(&self, stamps: &FxHashMap<SegmentId, u64>) -> Result<String> {
        let metas = self.segments.iter().map(|segment| {
            let meta = self.index.new_segment_meta(segment.id, segment.max_doc);
            match stamps.get(&segment.id) {
                Some(&stamp) => {
                    meta.with_delete_meta(segment.max_doc - segment.alive_count(), stamp)
                }
                None => meta,
            }
        });
        meta_json(&self.schema, metas.collect())
    }
}

/// The living document of this id in finished segments.
pub(super) fn find_finished(segments: &[LiveSegment], id: &str) -> Result<Option<Current>> {
    for segment in segments.iter().rev() {
        if let Some(doc) = segment.find(id)? {
            let system = segment.system_values(doc)?;
            let location = Location { segment: segment.id, doc };
            return Ok(Some(Current { location: Some(location), system, source: None }));
        }
    }
    Ok(None)
}

/// What came of a merge.
pub(super) struct FinishedMerge {
    pub(super) epoch: u64,
    pub(super) inputs: Vec<SegmentId>,
    pub(super) large: bool,
    pub(super) result: Result<Merged>,
}

/// The name of the file of a segment's deletes.
pub(super) fn deletes_name(segment: &str, stamp: u64) -> String {
    format!("{segment}.{stamp}.del")
}

fn open_index(directory: &StoreDirectory) -> Result<Index> {
    let mut index = Index::open(directory.clone())?;
    index.register_plugin(source::plugin());
    index.set_tokenizers(schema::tokenizers());
    Ok(index)
}

fn meta_json(schema: &Schema, segments: Vec<SegmentMeta>) -> Result<String> {
    let meta = IndexMeta {
        index_settings: IndexSettings {
            docstore_compression: Compressor::None,
            docstore_compress_dedicated_thread: false,
            ..IndexSettings::default()
        },
        persisted_custom_extensions: source::extensions(),
        segments,
        schema: schema.clone(),
        opstamp: 0,
        payload: None,
    };
    serde_json::to_string(&meta).map_err(|source| {
        Error::new(ErrorKind::Internal, format!("the schema cannot be written: {source}"))
            .with_source(source)
    })
}

fn read_alive(bytes: &OwnedBytes, max_doc: u32) -> Option<BitSet> {
    let max_value = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?);
    let expected = 4 + 8 * (max_doc as usize).div_ceil(64);
    if max_value != max_doc || bytes.len() != expected {
        return None;
    }
    let mut alive = BitSet::with_max_value_and_full(max_doc);
    alive.intersect_update(AliveBitSet::open(bytes.clone()).bitset());
    Some(alive)
}
