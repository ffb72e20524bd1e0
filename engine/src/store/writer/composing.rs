//! Composing documents after the rows that they are made from have changed: still within the batch
//! that changed them, so that one publication shows both.
//!
//! Documents are composed in pieces of bounded size, and what they make goes to disk as it grows, so
//! that a row that a hundred thousand documents share needs no more memory than one. What a large batch
//! concerns is composed on the way, before too much is remembered; a document that is concerned
//! again is composed again.

use std::sync::Arc;
use std::time::Instant;

use super::Writer;
use crate::batch::{Compose, Condition, DocId, WriteOp};
use crate::composition::{Affected, Composed, Composition, Rows, compose, parse_row_id};
use crate::error::{Error, ErrorKind, Result};
use crate::store::parallel;
use crate::store::plan::{AppliedBatch, Circumstances, ReadBefore, apply};
use crate::store::state::Store;

/// Documents and links that are remembered before they are composed.
const MOST_REMEMBERED: usize = if cfg!(test) { 5 } else { 50_000 };
/// Documents that are composed at once,
const PIECE_DOCUMENTS: usize = if cfg!(test) { 3 } else { 2048 };
/// or, in each of the parts that are worked on at the same time, so many bytes of them.
const PART_BYTES: usize = 2 << 20;
/// Documents of one batch that may be rejected.
const MOST_REJECTED: usize = 100_000;

/// What a batch does to composed documents.
pub(super) struct Composing {
    composition: Arc<Composition>,
    mode: Compose,
    affected: Affected,
    /// Whether all documents may be concerned.
    cleared: bool,
    circumstances: Circumstances,
    /// No flush knows the segments that are finished from here on.
    first_own: usize,
    pub(super) outcome: Vec<(DocId, Result<()>)>,
    rejected: usize,
    pub(super) wrote: bool,
    pub(super) grew: bool,
}

/// What becomes of one document.
enum Piece {
    /// It is what it was.
    Unchanged,
    Op(WriteOp),
    Rejected(Error),
}

impl Composing {
    /// For a batch whose circumstances these are; `None` where the index composes nothing.
    pub(super) fn new(store: &Store, mode: Compose, circumstances: Circumstances) -> Option<Self> {
        Some(Self {
            composition: Arc::clone(store.mapping.composition()?),
            mode,
            affected: Affected::default(),
            cleared: false,
            circumstances,
            first_own: store.segments.len(),
            outcome: Vec::new(),
            rejected: 0,
            wrote: false,
            grew: false,
        })
    }

    /// Takes note of the rows that operations are about to change, as they are.
    fn note_before(&mut self, store: &Store, ops: &[WriteOp]) -> Result<()> {
        for op in ops {
            let (id, previous) = match op {
                WriteOp::Upsert { id, .. } | WriteOp::Delete { id, .. } => (id, None),
                WriteOp::Patch { id, previous_id, .. } => (id, previous_id.as_ref()),
                // Whatever the rows were part of.
                WriteOp::Clear | WriteOp::ClearRows { .. } => {
                    self.cleared = true;
                    continue;
                }
            };
            if matches!(op, WriteOp::Delete { .. }) {
                self.affected.note_named(&self.composition, id);
            }
            [Some(id), previous].into_iter().flatten().try_for_each(|id| self.note(store, id))?;
        }
        Ok(())
    }

    /// Takes note of a row as it is.
    fn note(&mut self, store: &Store, id: &str) -> Result<()> {
        match store.row(id)? {
            Some(source) => self.affected.note(&self.composition, id, &source),
            None => Ok(()),
        }
    }

    /// Takes note of rows that operations have changed, as they are now.
    fn note_after(&mut self, store: &Store, ops: &[WriteOp]) -> Result<()> {
        for op in ops {
            match op {
                WriteOp::Upsert { id, .. } | WriteOp::Patch { id, .. } => self.note(store, id)?,
                WriteOp::Delete { .. } | WriteOp::Clear | WriteOp::ClearRows { .. } => {}
            }
        }
        Ok(())
    }

    /// Whether operations are only on rows.
    fn check(&self, ops: &[WriteOp]) -> Result<()> {
        let tables = self.composition.definition().tables.len();
        let is_row = |id: &String| parse_row_id(id).is_some_and(|(table, _)| table < tables);
        let fits = ops.iter().all(|op| match op {
            WriteOp::Upsert { id, .. } | WriteOp::Delete { id, .. } => is_row(id),
            WriteOp::Patch { id, previous_id, .. } => {
                is_row(id) && previous_id.as_ref().is_none_or(is_row)
            }
            WriteOp::ClearRows { table } => *table < tables,
            WriteOp::Clear => true,
        });
        if fits {
            return Ok(());
        }
        let message = "documents of this index are composed from rows, and cannot be written";
        Err(Error::new(ErrorKind::InvalidArgument, message))
    }

    fn note_outcome(&mut self, id: DocId, result: Result<()>) -> Result<()> {
        self.rejected += usize::from(result.is_err());
        if self.rejected > MOST_REJECTED {
            let message = format!("more than [{MOST_REJECTED}] composed documents are rejected");
            return Err(Error::new(ErrorKind::Full, message));
        }
        let few = matches!(self.mode, Compose::Affected | Compose::PartOf(_)) && !self.cleared;
        if result.is_err() || few {
            self.outcome.push((id, result));
        }
        Ok(())
    }
}

impl Writer {
    /// Applies operations, and counts what came of them.
    pub(super) fn apply_ops(
        &mut self,
        ops: &[WriteOp],
        read: ReadBefore,
        circumstances: Circumstances,
        composing: Option<&mut Composing>,
    ) -> Result<AppliedBatch> {
        let began = Instant::now();
        let applied = self.apply_noting(ops, read, circumstances, composing)?;
        self.activity().applied(&applied.results, began.elapsed());
        Ok(applied)
    }

    /// Applies operations; where they change rows, takes note of what is to be composed.
    fn apply_noting(
        &mut self,
        ops: &[WriteOp],
        read: ReadBefore,
        circumstances: Circumstances,
        composing: Option<&mut Composing>,
    ) -> Result<AppliedBatch> {
        let Some(composing) = composing else {
            return apply(&mut self.store, ops, read, circumstances, &mut self.next_seq_no);
        };
        composing.check(ops)?;
        if composing.mode == Compose::Affected {
            composing.note_before(&self.store, ops)?;
        }
        let applied = apply(&mut self.store, ops, read, circumstances, &mut self.next_seq_no)?;
        if composing.mode == Compose::Affected {
            composing.note_after(&self.store, ops)?;
            if composing.affected.len() > MOST_REMEMBERED {
                self.compose_affected(composing)?;
            }
        }
        Ok(applied)
    }

    /// Composes what the batch asks for. Nothing of it is published before.
    pub(super) fn compose(&mut self, composing: &mut Composing) -> Result<()> {
        match &mut composing.mode {
            Compose::Later => Ok(()),
            Compose::PartOf(ids) => {
                for id in std::mem::take(ids) {
                    composing.note(&self.store, &id)?;
                }
                self.compose_affected(composing)
            }
            Compose::Affected => {
                self.compose_affected(composing)?;
                if composing.cleared { self.compose_all(composing) } else { Ok(()) }
            }
            Compose::All => self.compose_all(composing),
        }
    }

    fn compose_affected(&mut self, composing: &mut Composing) -> Result<()> {
        let composition = Arc::clone(&composing.composition);
        let roots = composing.affected.resolve(&composition, &self.store)?;
        self.compose_documents(composing, roots)
    }

    /// Composes the document of every row that one is named by.
    fn compose_all(&mut self, composing: &mut Composing) -> Result<()> {
        self.store.seal()?;
        let table = composing.composition.root_table();
        // Documents go into later segments; these stay as they are.
        for place in 0..self.store.segments.len() {
            self.compose_segment(composing, place, table)?;
        }
        Ok(())
    }

    fn compose_segment(
        &mut self,
        composing: &mut Composing,
        place: usize,
        table: usize,
    ) -> Result<()> {
        let mut from = 0;
        loop {
            let keys = self.store.row_keys(place, table, from, PIECE_DOCUMENTS)?;
            let Some(&(last, _)) = keys.last() else { return Ok(()) };
            from = last + 1;
            let keys = keys.into_iter().map(|(_, key)| key).collect();
            self.compose_documents(composing, keys)?;
        }
    }

    fn compose_documents(&mut self, composing: &mut Composing, keys: Vec<String>) -> Result<()> {
        let mut keys = keys;
        while !keys.is_empty() {
            let rest = keys.split_off(keys.len().min(PIECE_DOCUMENTS));
            let mut left = self.compose_piece(composing, keys)?;
            left.extend(rest);
            keys = left;
            self.share.set(self.store.building_bytes());
            self.keep_small(composing.first_own)?;
        }
        Ok(())
    }

    /// Composes documents, and gives the keys that did not fit.
    fn compose_piece(
        &mut self,
        composing: &mut Composing,
        keys: Vec<String>,
    ) -> Result<Vec<String>> {
        let composition = Arc::clone(&composing.composition);
        let ways = parallel::ways(keys.len());
        let parts = if ways > 1 {
            self.store.seal()?;
            let Some(rows) = self.store.finished_rows() else { return Ok(Vec::new()) };
            let share = keys.len().div_ceil(ways);
            let parts: Vec<Vec<String>> = keys.chunks(share).map(<[String]>::to_vec).collect();
            parallel::at_once(parts, |keys| compose_part(&composition, &rows, keys))
        } else {
            vec![compose_part(&composition, &self.store, keys)]
        };
        let (mut ops, mut written, mut left) = (Vec::new(), Vec::new(), Vec::new());
        for part in parts {
            let (pieces, rest) = part?;
            left.extend(rest);
            for (key, piece) in pieces {
                let (op, error) = match piece {
                    Piece::Unchanged => (None, None),
                    Piece::Op(op) => (Some(op), None),
                    Piece::Rejected(error) => (Some(deletion(key.clone())), Some(error)),
                };
                let is_written = op.is_some();
                ops.extend(op);
                written.push((key, is_written, error));
            }
        }
        let circumstances = composing.circumstances;
        let read = ReadBefore::default();
        let applied = apply(&mut self.store, &ops, read, circumstances, &mut self.next_seq_no)?;
        composing.wrote |= !applied.changes.is_empty();
        composing.grew |= applied.grew;
        let mut results = applied.results.into_iter();
        for (key, is_written, error) in written {
            let result = if is_written { results.next() } else { None };
            let result = result.map_or(Ok(()), |result| result.map(drop));
            composing.note_outcome(key, error.map_or(result, Err))?;
        }
        Ok(left)
    }
}

/// Documents by their keys, and the keys that did not fit.
type Part = (Vec<(String, Piece)>, Vec<String>);

/// Composes documents up to a number of bytes, and gives the keys after these.
fn compose_part<R: Rows>(composition: &Composition, rows: &R, keys: Vec<String>) -> Result<Part> {
    let mut pieces = Vec::with_capacity(keys.len());
    let mut bytes = 0;
    let mut keys = keys.into_iter();
    while bytes < PART_BYTES
        && let Some(key) = keys.next()
    {
        // The document itself is under the key alone.
        let before = rows.row(&key)?;
        let piece = match compose(composition, rows, &key)? {
            Ok(Composed::Gone) if before.is_none() => Piece::Unchanged,
            Ok(Composed::Gone) => Piece::Op(deletion(key.clone())),
            Ok(Composed::Document(text)) => {
                bytes += text.len();
                let id = key.clone();
                match before {
                    Some(before) if before == text => Piece::Unchanged,
                    _ => Piece::Op(WriteOp::Upsert {
                        id,
                        source: text.into(),
                        condition: Condition::None,
                    }),
                }
            }
            Err(error) => Piece::Rejected(error),
        };
        pieces.push((key, piece));
    }
    Ok((pieces, keys.collect()))
}

fn deletion(id: DocId) -> WriteOp {
    WriteOp::Delete { id, condition: Condition::None }
}
