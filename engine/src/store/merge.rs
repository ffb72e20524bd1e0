//! Merging: which segments, and how.
//!
//! Tantivy's own merging is not used. The policy is tiered by living documents; a merge runs on a
//! background thread over the documents that were alive when it began, and the writer then marks
//! in its output what has been deleted meanwhile: documents keep their order, so the n-th living
//! document of the inputs is document n of the output.
//!
//! A mapping grows by fields appended to the schema, and tantivy refuses to merge a segment that
//! lacks the norms of an appended text field. So a merge reads such a segment through [`Overlay`],
//! where its norms are complete: a document without the field has length zero, as it would have
//! in a segment made today. No segment is ever indexed again because a field was added.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;
use tantivy::directory::error::{DeleteError, LockError, OpenReadError, OpenWriteError};
use tantivy::directory::{
    AntiCallToken, CompositeFile, CompositeWrite, Directory, DirectoryLock, FileHandle, Lock,
    OwnedBytes, TerminatingWrite, WatchCallback, WatchHandle, WritePtr,
};
use tantivy::index::{SegmentComponent, SegmentId};
use tantivy::indexer::merge_filtered_segments;
use tantivy::{BitSet, Index};

use super::builder::guarded;
use super::directory::{MergeOutput, SegmentFiles, StoreDirectory};
use super::merge_counts::Inputs;
use super::segment::{LiveSegment, alive_set};
use super::source::{self, Merging};
use super::throttle::Pace;
use crate::error::{Error, ErrorKind, Result};

/// Segments whose living documents lie within one power of this are of one tier.
const TIER_FACTOR: u32 = 6;
/// So many segments of one tier are merged.
const SEGMENTS_PER_TIER: usize = 6;
/// No merge makes a segment larger than about this.
const LARGEST_SEGMENT_BYTES: u64 = 5 << 30;
/// Merges of more than this go straight to disk, and wait for each other but not for small ones.
const LARGE_MERGE_BYTES: u64 = 8 << 20;
/// A segment with more than one in this many documents deleted is merged by itself,
const DELETED_SHARE: u32 = 5;
/// unless it is so small that its tier soon will be.
const SMALLEST_ALONE: u32 = 1000;
/// The same while nothing is written, when it costs nobody anything.
const DELETED_SHARE_IDLE: u32 = 20;
/// A segment with so many bytes of sources that are not compressed is merged by itself then.
const RAW_BYTES_IDLE: u64 = 1 << 20;
/// And so many segments are worth a merge then.
const FEWEST_TOGETHER: usize = 3;

/// What is merged, as of the merge's beginning.
pub(super) struct MergeTask {
    pub(super) directory: StoreDirectory,
    pub(super) index: Index,
    pub(super) inputs: Vec<MergeInput>,
    pub(super) large: bool,
    /// Of a large one.
    pub(super) pace: Option<Arc<Pace>>,
    /// What becomes of sources.
    pub(super) sources: Merging,
}

pub(super) struct MergeInput {
    /// Keeps the files in place.
    files: Arc<SegmentFiles>,
    pub(super) id: SegmentId,
    max_doc: u32,
    pub(super) alive: BitSet,
}

/// A finished merge.
pub(super) struct Merged {
    pub(super) inputs: Vec<MergeInput>,
    pub(super) files: Arc<SegmentFiles>,
    pub(super) id: SegmentId,
    pub(super) max_doc: u32,
}

/// The segments that should be merged next, by their places in the list. `busy` says whether a
/// small and a large merge are running already, `idle` that nothing is written.
pub(super) fn choose(
    segments: &[LiveSegment],
    busy: [bool; 2],
    idle: bool,
) -> Option<(Vec<usize>, bool)> {
    let candidates: Vec<Candidate> = segments
        .iter()
        .enumerate()
        .filter(|(_, segment)| !(segment.merging || segment.reserved || segment.files.is_damaged()))
        .map(|(place, segment)| {
            let (alive, max_doc) = (segment.alive_count(), segment.max_doc);
            let (bytes, raw_bytes) = (living_bytes(segment), segment.raw_source_bytes);
            Candidate { place, alive, max_doc, bytes, raw_bytes }
        })
        .filter(|candidate| candidate.alive > 0 && candidate.bytes < LARGEST_SEGMENT_BYTES / 2)
        .collect();
    let mut plans = plan(&candidates);
    if idle {
        plans.extend(plan_idle(&candidates));
    }
    plans.into_iter().find_map(|chosen| {
        let bytes: u64 = chosen.iter().map(|candidate| candidate.bytes).sum();
        let large = bytes >= LARGE_MERGE_BYTES;
        let places = chosen.iter().map(|candidate| candidate.place).collect();
        (!busy[usize::from(large)]).then_some((places, large))
    })
}

/// Bytes of a segment, as if its deleted documents were gone.
fn living_bytes(segment: &LiveSegment) -> u64 {
    let (alive, max_doc) = (segment.alive_count(), segment.max_doc);
    segment.files.sizes().0 * u64::from(alive) / u64::from(max_doc.max(1))
}

/// Whether a merge of the segments at these places is a large one.
pub(super) fn is_large(segments: &[LiveSegment], places: &[usize]) -> bool {
    let chosen = places.iter().filter_map(|&place| segments.get(place));
    chosen.map(living_bytes).sum::<u64>() >= LARGE_MERGE_BYTES
}

/// How many segments merges could still join.
pub(super) fn backlog(segments: &[LiveSegment]) -> usize {
    let mergeable = |segment: &&LiveSegment| {
        !segment.files.is_damaged() && living_bytes(segment) < LARGEST_SEGMENT_BYTES / 2
    };
    segments.iter().filter(mergeable).count()
}

#[derive(Debug, Clone, Copy)]
struct Candidate {
    place: usize,
    alive: u32,
    max_doc: u32,
    bytes: u64,
    /// Of sources that no merge has tried to compress.
    raw_bytes: u64,
}

/// Merges worth doing, smallest tiers first.
fn plan(candidates: &[Candidate]) -> Vec<Vec<Candidate>> {
    let tier = |candidate: &Candidate| candidate.alive.max(1).ilog(TIER_FACTOR);
    let mut plans = Vec::new();
    let highest = candidates.iter().map(tier).max().unwrap_or_default();
    for level in 0..=highest {
        let members: Vec<Candidate> =
            candidates.iter().filter(|candidate| tier(candidate) == level).copied().collect();
        if members.len() < SEGMENTS_PER_TIER {
            continue;
        }
        let mut total = 0;
        let fitting = members.into_iter().take_while(|candidate| {
            total += candidate.bytes;
            total <= LARGEST_SEGMENT_BYTES
        });
        plans.push(fitting.collect());
    }
    plans.extend(wasteful(candidates, DELETED_SHARE));
    plans
}

/// Segments to merge by themselves, for what they have deleted.
fn wasteful(candidates: &[Candidate], share: u32) -> impl Iterator<Item = Vec<Candidate>> {
    let wasteful = move |candidate: &&Candidate| {
        candidate.max_doc >= SMALLEST_ALONE
            && candidate.max_doc - candidate.alive > candidate.max_doc / share
    };
    candidates.iter().filter(wasteful).map(|candidate| vec![*candidate])
}

/// Further merges while nothing is written, that leave few segments and few deleted documents, and
/// compress what is not yet.
///
/// As many of the smallest are merged as can be without one that is larger than all others of
/// them: so the segments that are left at least double in size from one to the next, and a document
/// is in few such merges, however often writing begins and ends.
fn plan_idle(candidates: &[Candidate]) -> Vec<Vec<Candidate>> {
    let mut rising = candidates.to_vec();
    rising.sort_by_key(|candidate| candidate.bytes);
    let (mut total, mut count) = (0_u64, 0);
    for (place, candidate) in rising.iter().enumerate() {
        if candidate.bytes <= total {
            count = place + 1;
        }
        total += candidate.bytes;
        if total > LARGEST_SEGMENT_BYTES {
            count = count.min(place);
            break;
        }
    }
    rising.truncate(count);
    let together = (count >= FEWEST_TOGETHER).then_some(rising);
    let raw = candidates.iter().filter(|candidate| candidate.raw_bytes >= RAW_BYTES_IDLE);
    let alone = wasteful(candidates, DELETED_SHARE_IDLE).chain(raw.map(|one| vec![*one]));
    together.into_iter().chain(alone).collect()
}

impl MergeInput {
    pub(super) fn of(segment: &LiveSegment) -> Self {
        Self {
            files: Arc::clone(&segment.files),
            id: segment.id,
            max_doc: segment.max_doc,
            alive: segment.alive().clone(),
        }
    }
}

impl MergeTask {
    /// What it takes in.
    pub(super) fn counted(&self) -> Inputs {
        let docs = self.inputs.iter().map(|input| input.alive.len() as u64).sum();
        let bytes = self.inputs.iter().map(|input| input.files.sizes().0).sum();
        Inputs { docs, bytes }
    }

    /// Merges. Long, and uses one core.
    pub(super) fn run(self) -> Result<Merged> {
        // What a damaged file says must not come out under a checksum that fits it.
        self.inputs.iter().try_for_each(|input| input.files.verify())?;
        let overlay = Overlay::new(self.directory.clone());
        let mut view = Index::open(overlay.clone())?;
        view.register_plugin(source::merging(self.sources));
        let mut segments = Vec::with_capacity(self.inputs.len());
        let mut filters = Vec::with_capacity(self.inputs.len());
        for input in &self.inputs {
            let segment = view.segment(view.new_segment_meta(input.id, input.max_doc));
            complete_norms(&self.index, &view, &segment)?;
            segments.push(segment);
            let dead = input.alive.len() < input.max_doc as usize;
            filters.push(if dead { Some(alive_set(&input.alive)?) } else { None });
        }
        let output = MergeOutput::new(self.directory, self.pace);
        let settings = view.settings().clone();
        let target: Box<dyn Directory> = Box::new(output.clone());
        let merged =
            guarded(|| Ok(merge_filtered_segments(&segments, settings, filters, target)?))?;
        let metas = merged.searchable_segment_metas()?;
        let (meta, files) = metas.first().zip(output.into_segment()).ok_or_else(|| {
            Error::new(ErrorKind::Internal, "a merge of living documents has no output")
        })?;
        let expected: usize = self.inputs.iter().map(|input| input.alive.len()).sum();
        if meta.max_doc() as usize != expected {
            let message = format!(
                "a merge of [{expected}] living documents has [{}] in its output",
                meta.max_doc()
            );
            return Err(Error::new(ErrorKind::Internal, message));
        }
        Ok(Merged { inputs: self.inputs, files, id: meta.id(), max_doc: meta.max_doc() })
    }
}

/// Gives the view complete norms for a segment that lacks those of appended fields.
fn complete_norms(index: &Index, view: &Index, segment: &tantivy::Segment) -> tantivy::Result<()> {
    let path = segment.relative_path(SegmentComponent::FieldNorms);
    let norms = CompositeFile::open(&index.directory().open_read(&path)?)?;
    let schema = view.schema();
    let with_norms: Vec<_> = schema
        .fields()
        .filter(|(_, entry)| entry.is_indexed() && entry.has_fieldnorms())
        .map(|(field, _)| field)
        .collect();
    if with_norms.iter().all(|&field| norms.open_read(field).is_some()) {
        return Ok(());
    }
    let zeros = vec![0; segment.meta().max_doc() as usize];
    let mut completed = CompositeWrite::wrap(view.directory().open_write(&path)?);
    for field in with_norms {
        let stored = norms.open_read(field).map(|file| file.read_bytes()).transpose()?;
        let bytes = stored.as_ref().map_or(&zeros[..], OwnedBytes::as_slice);
        io::Write::write_all(completed.for_field(field), bytes)?;
    }
    Ok(completed.close()?)
}

/// The index's directory as a merge reads it: what is written to it hides files, in memory.
#[derive(Clone)]
struct Overlay {
    directory: StoreDirectory,
    hiding: Arc<RwLock<HashMap<PathBuf, OwnedBytes>>>,
}

impl Overlay {
    fn new(directory: StoreDirectory) -> Self {
        Self { directory, hiding: Arc::default() }
    }
}

struct OverlayWriter {
    overlay: Overlay,
    path: PathBuf,
    bytes: Vec<u8>,
}

impl io::Write for OverlayWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl TerminatingWrite for OverlayWriter {
    fn terminate_ref(&mut self, _: AntiCallToken) -> io::Result<()> {
        let bytes = OwnedBytes::new(std::mem::take(&mut self.bytes));
        self.overlay.hiding.write().insert(self.path.clone(), bytes);
        Ok(())
    }
}

impl Directory for Overlay {
    fn get_file_handle(&self, path: &Path) -> Result<Arc<dyn FileHandle>, OpenReadError> {
        match self.hiding.read().get(path) {
            Some(bytes) => Ok(Arc::new(bytes.clone())),
            None => self.directory.get_file_handle(path),
        }
    }

    fn delete(&self, _: &Path) -> Result<(), DeleteError> {
        Ok(())
    }

    fn exists(&self, path: &Path) -> Result<bool, OpenReadError> {
        self.directory.exists(path)
    }

    fn open_write(&self, path: &Path) -> Result<WritePtr, OpenWriteError> {
        let writer =
            OverlayWriter { overlay: self.clone(), path: path.to_owned(), bytes: Vec::new() };
        Ok(io::BufWriter::new(Box::new(writer)))
    }

    fn atomic_read(&self, path: &Path) -> Result<Vec<u8>, OpenReadError> {
        self.directory.atomic_read(path)
    }

    fn atomic_write(&self, _: &Path, _: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn sync_directory(&self) -> io::Result<()> {
        Ok(())
    }

    fn acquire_lock(&self, _: &Lock) -> Result<DirectoryLock, LockError> {
        Ok(DirectoryLock::from(Box::new(())))
    }

    fn watch(&self, _: WatchCallback) -> tantivy::Result<WatchHandle> {
        Ok(WatchHandle::empty())
    }
}

impl fmt::Debug for Overlay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Overlay({:?})", self.directory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(segments: &[(u32, u32)], expected: &[&[usize]]) {
        let candidates: Vec<Candidate> = segments
            .iter()
            .enumerate()
            .map(|(place, &(alive, max_doc))| Candidate {
                place,
                alive,
                max_doc,
                bytes: u64::from(alive) * 100,
                raw_bytes: 0,
            })
            .collect();
        let plans: Vec<Vec<usize>> = plan(&candidates)
            .iter()
            .map(|plan| plan.iter().map(|candidate| candidate.place).collect())
            .collect();
        assert_eq!(plans, expected, "{segments:?}");
    }

    #[test]
    fn tiers_are_merged_when_full() {
        check(&[], &[]);
        check(&[(1, 1); 5], &[]);
        check(&[(1, 1); 6], &[&[0, 1, 2, 3, 4, 5]]);
        check(
            &[(1, 1), (2, 2), (3, 3), (100_000, 100_000), (4, 4), (5, 5), (1, 1)],
            &[&[0, 1, 2, 4, 5, 6]],
        );
        check(&[(7900, 10_000)], &[&[0]]);
        check(&[(8000, 10_000)], &[]);
        check(&[(6, 10)], &[]);
    }

    fn check_idle(segments: &[(u32, u32)], expected: &[&[u64]]) {
        let candidates: Vec<Candidate> = segments
            .iter()
            .map(|&(alive, max_doc)| Candidate {
                place: 0,
                alive,
                max_doc,
                bytes: alive.into(),
                raw_bytes: 0,
            })
            .collect();
        let plans: Vec<Vec<u64>> = plan_idle(&candidates)
            .iter()
            .map(|plan| plan.iter().map(|candidate| candidate.bytes).collect())
            .collect();
        assert_eq!(plans, expected, "{segments:?}");
    }

    #[test]
    fn idle_merges_leave_sizes_that_double() {
        check_idle(&[], &[]);
        check_idle(&[(9, 9)], &[]);
        check_idle(&[(9, 9), (9, 9)], &[]);
        check_idle(&[(9, 9), (9, 9), (9, 9)], &[&[9, 9, 9]]);
        check_idle(&[(9, 9), (8, 8), (7, 7)], &[&[7, 8, 9]]);
        check_idle(&[(20, 20), (8, 8), (7, 7)], &[]);
        check_idle(&[(100, 100), (5, 5), (3, 3), (2, 2)], &[&[2, 3, 5]]);
        check_idle(&[(100, 100), (7, 7), (3, 3), (1, 1)], &[]);
        check_idle(&[(100, 100), (1, 1), (1, 1), (50, 50), (50, 50)], &[&[1, 1, 50, 50, 100]]);
        check_idle(&[(9400, 10_000)], &[&[9400]]);
        check_idle(&[(9600, 10_000), (4, 40)], &[]);
        let most = u32::MAX;
        check_idle(&[(most, most), (most, most), (most, most)], &[]);
    }

    #[test]
    fn what_is_not_compressed_is_merged_when_idle() {
        let one = |place, alive: u32, raw_bytes| Candidate {
            place,
            alive,
            max_doc: alive,
            bytes: alive.into(),
            raw_bytes,
        };
        let most = RAW_BYTES_IDLE;
        let plans = plan_idle(&[one(0, 100, most), one(1, 40, most - 1), one(2, 20, 2 * most)]);
        let places = |plan: &Vec<Candidate>| plan.iter().map(|one| one.place).collect::<Vec<_>>();
        assert_eq!(plans.iter().map(places).collect::<Vec<_>>(), [vec![0], vec![2]]);
        // Together with others comes first: it compresses, too.
        let plans = plan_idle(&[one(0, 30, most), one(1, 20, 0), one(2, 20, 0)]);
        assert_eq!(plans.iter().map(places).collect::<Vec<_>>(), [vec![1, 2, 0], vec![0]]);
    }

    fn sized(bytes: u64) -> Candidate {
        Candidate { place: 0, alive: 1, max_doc: 1, bytes, raw_bytes: 0 }
    }

    /// Merges once and says how many bytes; nothing where nothing is to do.
    fn merge_once(sizes: &mut Vec<u64>) -> Option<u64> {
        let candidates: Vec<Candidate> = sizes.iter().copied().map(sized).collect();
        let plan = plan_idle(&candidates).pop()?;
        for candidate in &plan {
            let place = sizes.iter().position(|&size| size == candidate.bytes)?;
            sizes.swap_remove(place);
        }
        let total = plan.iter().map(|candidate| candidate.bytes).sum();
        sizes.push(total);
        Some(total)
    }

    /// Writes that come in spells, each so small, leave few segments and are merged few times.
    #[test]
    fn spells_of_writing_are_merged_few_times() {
        let (mut sizes, mut merged) = (Vec::new(), 0);
        for _ in 0..1000 {
            sizes.push(10);
            merged += std::iter::from_fn(|| merge_once(&mut sizes)).sum::<u64>();
            assert!(sizes.len() <= 12, "{sizes:?}");
        }
        assert_eq!(sizes.iter().sum::<u64>(), 10_000);
        assert!(merged <= 10 * 10_000, "{merged} bytes were merged");
    }
}
