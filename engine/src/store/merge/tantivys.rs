//! Merging as tantivy does it, part by part from input to output: for inputs that are too large for a
//! merge that has parts of them in memory.
//!
//! A mapping grows by fields appended to the schema, and tantivy refuses to merge a segment that
//! lacks the norms of an appended text field. So it reads such a segment through [`Overlay`], where its
//! norms are complete: a document without the field has length zero, as it would have in a segment made
//! today. No segment is ever indexed again because a field was added.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;
use tantivy::Index;
use tantivy::directory::error::{DeleteError, LockError, OpenReadError, OpenWriteError};
use tantivy::directory::{
    AntiCallToken, CompositeFile, CompositeWrite, Directory, DirectoryLock, FileHandle, Lock,
    OwnedBytes, TerminatingWrite, WatchCallback, WatchHandle, WritePtr,
};
use tantivy::index::SegmentComponent;
use tantivy::indexer::merge_filtered_segments;

use super::{MergeTask, Output};
use crate::error::{Error, ErrorKind, Result};
use crate::store::directory::{MergeOutput, StoreDirectory};
use crate::store::segment::alive_set;
use crate::store::source;

/// Merges the task's inputs.
pub(super) fn merge(task: &MergeTask) -> Result<Output> {
    let overlay = Overlay::new(task.directory.clone());
    let mut view = Index::open(overlay.clone())?;
    view.register_plugin(source::merging(task.sources.clone()));
    let mut segments = Vec::with_capacity(task.inputs.len());
    let mut filters = Vec::with_capacity(task.inputs.len());
    for input in &task.inputs {
        let segment = view.segment(view.new_segment_meta(input.id, input.max_doc));
        complete_norms(&task.index, &view, &segment)?;
        segments.push(segment);
        let dead = input.alive.len() < input.max_doc as usize;
        filters.push(if dead { Some(alive_set(&input.alive)?) } else { None });
    }
    let output = MergeOutput::new(task.directory.clone(), task.pace.clone());
    let settings = view.settings().clone();
    let target: Box<dyn Directory> = Box::new(output.clone());
    let merged = merge_filtered_segments(&segments, settings, filters, target)?;
    let metas = merged.searchable_segment_metas()?;
    let (meta, files) = metas.first().zip(output.into_segment()).ok_or_else(|| {
        Error::new(ErrorKind::Internal, "a merge of living documents has no output")
    })?;
    Ok(Output { id: meta.id(), max_doc: meta.max_doc(), files })
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
