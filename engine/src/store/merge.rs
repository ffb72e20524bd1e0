//! Merging: how it is done. Which segments are merged is the policy's (`merge_policy`).
//!
//! Tantivy's own merging is not used. A merge runs on a background thread over the documents that
//! were alive when it began, and the writer then marks in its output what has been deleted
//! meanwhile: documents keep their order, so the n-th living document of the inputs is document n of
//! the output.
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
