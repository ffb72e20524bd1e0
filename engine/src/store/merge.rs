//! Merging: how it is done. Which segments are merged is the policy's (`merge_policy`).
//!
//! A merge runs on a background thread over the documents that were alive when it began, and the writer
//! then marks in its output what has been deleted meanwhile: documents keep their order, so the n-th
//! living document of the inputs is document n of the output.
//!
//! Most merges are of small segments, and what tantivy sets up for each weighs more than what they
//! move. So terms are merged by our own ([`inverted`]), which has the largest term's postings and a
//! field's dictionary in memory; inputs that are too many or too large for that are merged by tantivy
//! ([`tantivys`]).

mod tantivys;

use std::sync::Arc;

use tantivy::columnar::{
    ColumnarReader, MergeRowOrder, RowAddr, ShuffleMergeOrder, StackMergeOrder,
};
use tantivy::directory::TerminatingWrite as _;
use tantivy::index::{SegmentComponent, SegmentId};
use tantivy::{BitSet, Index, Segment, SegmentReader};

use super::builder::guarded;
use super::columns;
use super::directory::{SegmentFiles, StoreDirectory};
use super::inverted;
use super::merge_counts::Inputs;
use super::segment::{LiveSegment, open_living};
use super::segment_writer::{open_read, open_write, write_empty_store};
use super::source::{self, Merging};
use super::throttle::Pace;
use crate::error::{Error, ErrorKind, Result};

/// Inputs that take more together are merged by tantivy.
const IN_MEMORY_BYTES: u64 = if cfg!(test) { 48 << 10 } else { 256 << 20 };

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

/// A segment that has been written.
struct Output {
    id: SegmentId,
    max_doc: u32,
    files: Arc<SegmentFiles>,
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
        let Output { id, max_doc, files } = guarded(|| {
            let opened = self.open_for_memory()?;
            opened.map_or_else(|| tantivys::merge(&self), |opened| self.merge_in_memory(&opened))
        })?;
        let expected: usize = self.inputs.iter().map(|input| input.alive.len()).sum();
        if max_doc as usize != expected {
            let message =
                format!("a merge of [{expected}] living documents has [{max_doc}] in its output");
            return Err(Error::new(ErrorKind::Internal, message));
        }
        Ok(Merged { inputs: self.inputs, files, id, max_doc })
    }

    /// Opens the inputs, unless they are too large or too many to be merged in memory.
    fn open_for_memory(&self) -> Result<Option<Opened>> {
        if self.counted().bytes > IN_MEMORY_BYTES {
            return Ok(None);
        }
        let mut opened = Opened { inputs: Vec::new(), columns: Vec::new(), docs: 0 };
        for input in &self.inputs {
            let meta = self.index.new_segment_meta(input.id, input.max_doc);
            let segment = self.index.segment(meta);
            let reader = open_living(&segment, &input.alive)?;
            let (alive, first) = (reader.num_docs(), opened.docs);
            let columns = open_read(&segment, SegmentComponent::FastFields)?;
            opened.columns.push(ColumnarReader::open(columns)?);
            opened.inputs.push(inverted::Input::open(&segment, reader, first)?);
            opened.docs = first.checked_add(alive).ok_or_else(|| {
                Error::new(ErrorKind::Internal, "a merge would have 2^32 documents")
            })?;
        }
        let is_fit = inverted::is_fit(&opened.inputs, &self.index.schema())?;
        Ok(is_fit.then_some(opened))
    }

    fn merge_in_memory(&self, opened: &Opened) -> Result<Output> {
        let Opened { inputs, columns, docs } = opened;
        let target = self.index.new_segment();
        let files = self.directory.adopt(target.id().uuid_string(), self.pace.clone());
        inverted::merge(inputs, &target, *docs)?;
        merge_columns(inputs, columns, &target)?;
        write_empty_store(&target, *docs)?;
        let readers = inputs.iter().map(inverted::Input::reader);
        source::merge_into(&target, readers, &self.sources)?;
        Ok(Output { id: target.id(), max_doc: *docs, files })
    }
}

/// The inputs as they are read.
struct Opened {
    inputs: Vec<inverted::Input>,
    columns: Vec<ColumnarReader>,
    /// Living ones of all inputs.
    docs: u32,
}

/// Writes the columns of the inputs' living documents.
fn merge_columns(
    inputs: &[inverted::Input],
    columns: &[ColumnarReader],
    target: &Segment,
) -> Result<()> {
    let columns: Vec<&ColumnarReader> = columns.iter().collect();
    let readers = || inputs.iter().map(inverted::Input::reader);
    let order = if readers().any(SegmentReader::has_deletes) {
        let rows = (0..).zip(readers()).flat_map(|(segment_ord, reader)| {
            reader.doc_ids_alive().map(move |row_id| RowAddr { segment_ord, row_id })
        });
        let alive = readers().map(|reader| Some(reader.alive_bitset()?.bitset().clone()));
        MergeRowOrder::Shuffled(ShuffleMergeOrder {
            new_row_id_to_old_row_id: rows.collect(),
            alive_bitsets: alive.collect(),
        })
    } else {
        MergeRowOrder::Stack(StackMergeOrder::stack(&columns))
    };
    let required = columns::of(&target.schema())?;
    let mut file = open_write(target, SegmentComponent::FastFields)?;
    tantivy::columnar::merge_columnar(&columns, &required, order, &mut file)?;
    Ok(file.terminate()?)
}
