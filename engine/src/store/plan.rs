//! Applying a batch to a [`Store`]: first every operation of a chunk is resolved and validated
//! against the documents as they are, then the chunk's outcome is carried out.
//!
//! Within a chunk the last operation on an id wins, so a document that is written a hundred times
//! is indexed once; each operation still gets its own result, number and version.

mod ahead;

use std::sync::Arc;

use bytes::Bytes;
use rustc_hash::FxHashMap;

use self::ahead::Ahead;
pub(crate) use self::ahead::ReadBefore;
use super::segment::Location;
use super::state::{Current, Put, Store, WasPut};
use super::tombstones::{Tombstone, now_ms};
use crate::batch::{Applied, Condition, DocId, OpResult, Patch, SpooledOutcome, WriteOp};
use crate::document::{Draft, ParsedDocument, check_id, patch};
use crate::error::{Error, ErrorKind, Result};
use crate::mapping::ignored::Origin;
use crate::mapping::schema::SystemValues;
use crate::position::SeqNo;

/// Operations are resolved and indexed in chunks, so that a large batch need not be parsed as a
/// whole in memory.
const CHUNK_OPS: usize = 4096;
const CHUNK_BYTES: usize = 16 << 20;

/// What an applied batch has changed, in order: what the translog keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// A document is there.
    Put { id: String, system: SystemValues, source: Bytes },
    /// A document is gone; what is remembered of it where its version is counted here.
    Delete { id: String, tombstone: Option<Tombstone> },
    /// A delete found nothing, but its version counts.
    Tombstone { id: String, tombstone: Tombstone },
    /// Every document is gone.
    Clear,
}

/// Where and when a batch happens.
#[derive(Debug, Clone, Copy)]
pub(super) struct Circumstances {
    /// Whether the index follows a source, whose rejected rows remove their older documents.
    pub(super) followed: bool,
    pub(super) term: u64,
    /// The LSN of the batch's documents; changes at or below a document's own are skipped.
    pub(super) lsn: Option<u64>,
    /// The number of the batch's first operation.
    pub(super) first: SeqNo,
    pub(super) tell_patched: bool,
}

/// What came of a batch.
pub(super) struct AppliedBatch {
    pub(super) results: Vec<Result<Applied>>,
    pub(super) changes: Vec<Change>,
    /// Whether the mapping grew.
    pub(super) grew: bool,
    /// What came of operations that were not in memory, whose results and changes are not above.
    pub(super) spooled: Option<SpooledOutcome>,
    /// What came of the documents that were composed.
    pub(super) composed: Vec<(DocId, Result<()>)>,
}

impl AppliedBatch {
    /// Why the first of its rejected operations or documents was.
    pub(super) fn first_rejected(&self) -> Option<Error> {
        let spooled = self.spooled.iter().flat_map(|spooled| &spooled.rejected);
        let spooled = spooled.map(|rejected| &rejected.error);
        let ops = self.results.iter().filter_map(|result| result.as_ref().err());
        let composed = self.composed.iter().filter_map(|(_, result)| result.as_ref().err());
        let first = spooled.chain(ops).chain(composed).next()?;
        Some(Error::new(first.kind(), first.message()))
    }
}

/// Applies operations of a batch, some of whose documents may have been read before. An error, other
/// than those of single operations, leaves the store in no state to be published.
pub(super) fn apply(
    store: &mut Store,
    ops: &[WriteOp],
    mut read: ReadBefore,
    circumstances: Circumstances,
    next_seq_no: &mut SeqNo,
) -> Result<AppliedBatch> {
    let mut applied = AppliedBatch {
        results: Vec::with_capacity(ops.len()),
        changes: Vec::new(),
        grew: false,
        spooled: None,
        composed: Vec::new(),
    };
    let mut rest = ops;
    while let Some((first, after)) = rest.split_first() {
        if matches!(first, WriteOp::Clear) {
            store.clear(circumstances.followed.then_some(circumstances.lsn).flatten())?;
            applied.changes.push(Change::Clear);
            applied.results.push(Ok(cleared(take(next_seq_no), circumstances)));
            read.next(1, &store.mapping);
            rest = after;
            continue;
        }
        if let WriteOp::ClearRows { table } = first {
            let applies = store.mapping.composition().map(|it| it.root_table() == *table);
            if let Some(documents) = applies {
                store.clear_rows(*table, documents, circumstances.lsn)?;
            }
            applied.changes.push(Change::Clear);
            applied.results.push(Ok(cleared(take(next_seq_no), circumstances)));
            read.next(1, &store.mapping);
            rest = after;
            continue;
        }
        let (chunk, after) = rest.split_at(chunk_length(rest));
        let read = read.next(chunk.len(), &store.mapping);
        apply_chunk(store, chunk, read, circumstances, next_seq_no, &mut applied)?;
        rest = after;
    }
    Ok(applied)
}

fn cleared(seq_no: SeqNo, circumstances: Circumstances) -> Applied {
    let (term, version) = (circumstances.term, circumstances.lsn.unwrap_or(1));
    Applied { id: String::new(), result: OpResult::Deleted, seq_no, term, version, source: None }
}

/// How many operations make the next chunk: at least one, up to a `Clear` or a limit.
fn chunk_length(ops: &[WriteOp]) -> usize {
    let mut bytes = 0;
    let fits = |op: &&WriteOp| {
        bytes += op.source_bytes();
        !matches!(op, WriteOp::Clear | WriteOp::ClearRows { .. }) && bytes <= CHUNK_BYTES
    };
    ops.iter().take(CHUNK_OPS).take_while(fits).count().max(1)
}

fn take(next: &mut SeqNo) -> SeqNo {
    let taken = *next;
    next.0 += 1;
    taken
}

fn apply_chunk(
    store: &mut Store,
    ops: &[WriteOp],
    read: Vec<Option<Box<ParsedDocument>>>,
    circumstances: Circumstances,
    next_seq_no: &mut SeqNo,
    applied: &mut AppliedBatch,
) -> Result<()> {
    let mut ahead = ahead::look_ahead(store, ops, read)?.into_iter();
    let mut plan = Plan {
        store,
        circumstances,
        draft: Draft::new(Arc::clone(&store.mapping)),
        next_seq_no,
        slots: Vec::new(),
        places: FxHashMap::default(),
        op: applied.results.len(),
        ahead: None,
        version: None,
    };
    for op in ops {
        plan.ahead = ahead.next();
        let result = plan.resolve(op)?;
        applied.results.push(result);
        plan.op += 1;
    }
    let Plan { draft, slots, .. } = plan;
    if let Some(grown) = draft.finish() {
        store.grow(grown, Origin::Document)?;
        applied.grew = true;
    }
    carry_out(store, slots, circumstances, applied)?;
    store.seal_if_large()
}

fn carry_out(
    store: &mut Store,
    slots: Vec<Slot<'_>>,
    circumstances: Circumstances,
    applied: &mut AppliedBatch,
) -> Result<()> {
    let mut puts = Vec::with_capacity(slots.len());
    let mut put_by = Vec::with_capacity(slots.len());
    for Slot { id, before, after, op } in slots {
        match after {
            After::Unchanged => {}
            After::Gone(tombstone) => {
                let id = id.to_owned();
                if let Some(tombstone) = tombstone {
                    store.tombstones.insert(id.clone(), tombstone);
                }
                if let Some(before) = before {
                    store.delete(before, &id);
                    applied.changes.push(Change::Delete { id, tombstone });
                } else if let Some(tombstone) = tombstone {
                    applied.changes.push(Change::Tombstone { id, tombstone });
                }
            }
            After::There(document) => {
                let NewDocument { parsed: document, system, source } = *document;
                puts.push(Put { before, id: id.to_owned(), document, system, source });
                put_by.push((op, before));
            }
        }
    }
    applied.changes.reserve(puts.len());
    let outcomes = store.put(puts)?;
    for ((op, before), WasPut { id, system, source, outcome }) in put_by.into_iter().zip(outcomes) {
        let Err(error) = outcome else {
            store.tombstones.remove(&id);
            applied.changes.push(Change::Put { id, system, source });
            continue;
        };
        if let Some(result) = applied.results.get_mut(op) {
            *result = Err(error);
        }
        if let Some(before) = before.filter(|_| circumstances.followed) {
            store.delete(before, &id);
            applied.changes.push(Change::Delete { id, tombstone: None });
        }
    }
    Ok(())
}

/// The chunk's outcome for one id.
struct Slot<'a> {
    id: &'a str,
    /// The document before the chunk.
    before: Option<Location>,
    after: After,
    /// The operation that decided it, by its place in the batch.
    op: usize,
}

enum After {
    Unchanged,
    /// Deleted; without a tombstone where a rejected row removed its older document.
    Gone(Option<Tombstone>),
    There(Box<NewDocument>),
}

struct NewDocument {
    parsed: Box<ParsedDocument>,
    system: SystemValues,
    source: Bytes,
}

/// Of operations that live for `'o`.
struct Plan<'s, 'o> {
    store: &'s Store,
    circumstances: Circumstances,
    draft: Draft,
    next_seq_no: &'s mut SeqNo,
    slots: Vec<Slot<'o>>,
    /// Places in `slots` by id.
    places: FxHashMap<&'o str, usize>,
    /// The place in the batch of the operation being resolved.
    op: usize,
    /// What is known of that operation already.
    ahead: Option<Ahead<'o>>,
    /// The version that the operation being resolved brings along.
    version: Option<u64>,
}

impl<'o> Plan<'_, 'o> {
    /// Resolves one operation. The outer error is not the operation's fault.
    fn resolve(&mut self, op: &'o WriteOp) -> Result<Result<Applied>> {
        let (id, condition) = match op {
            WriteOp::Upsert { id, condition, .. }
            | WriteOp::Patch { id, condition, .. }
            | WriteOp::Delete { id, condition } => (id, *condition),
            WriteOp::Clear | WriteOp::ClearRows { .. } => {
                return Err(Error::new(ErrorKind::Internal, "a clear is no part of a chunk"));
            }
        };
        if let Err(error) = check_id(id) {
            return Ok(Err(error));
        }
        let (place, current) = self.look_up(id)?;
        if let WriteOp::Patch { patch: Patch::Merge { upsert: None, .. }, .. } = op
            && current.is_none()
        {
            // Whatever the condition: there is nothing that it could be about.
            return Ok(Err(missing(id)));
        }
        let (on, current_on) = match op {
            WriteOp::Patch { previous_id: Some(previous), .. } => self.look_up(previous)?,
            _ => (place, current.clone()),
        };
        let last = self.last_version(on, id, current_on.as_ref());
        if let Err(error) = check_condition(id, condition, current_on.as_ref(), last) {
            return Ok(Err(error));
        }
        if let Some(current) = current.as_ref().filter(|current| self.is_newer(current)) {
            return Ok(Ok(applied(id, OpResult::Noop, current.system)));
        }
        self.version = match condition {
            Condition::External { version, .. } => Some(version),
            _ => None,
        };
        match op {
            WriteOp::Upsert { source, .. } => {
                Ok(self.put(place, id, current.as_ref(), source.clone()))
            }
            WriteOp::Delete { .. } => Ok(Ok(self.delete(place, id, current.as_ref()))),
            WriteOp::Patch { previous_id, patch, .. } => {
                let previous = previous_id.as_ref().filter(|previous| *previous != id);
                self.patch(place, id, current.as_ref(), previous, patch)
            }
            WriteOp::Clear | WriteOp::ClearRows { .. } => {
                Err(Error::new(ErrorKind::Internal, "a clear is no part of a chunk"))
            }
        }
    }

    /// The slot of an id, and its document as earlier operations of the chunk have left it.
    fn look_up(&mut self, id: &'o str) -> Result<(usize, Option<Current>)> {
        let known = self.places.get(id).and_then(|&place| Some((place, self.slots.get(place)?)));
        if let Some((place, slot)) = known {
            return match &slot.after {
                After::There(document) => {
                    let (system, source) = (document.system, Some(document.source.clone()));
                    Ok((place, Some(Current { location: slot.before, system, source })))
                }
                After::Gone(_) => Ok((place, None)),
                After::Unchanged => Ok((place, self.current(id)?)),
            };
        }
        let current = self.current(id)?;
        let place = self.slots.len();
        let before = current.as_ref().and_then(|current| current.location);
        self.places.insert(id, place);
        self.slots.push(Slot { id, before, after: After::Unchanged, op: self.op });
        Ok((place, current))
    }

    /// The document of an id before the chunk.
    fn current(&self, id: &str) -> Result<Option<Current>> {
        if let Some(current) = self.store.building(id) {
            return Ok(Some(current));
        }
        match self.ahead.as_ref().filter(|ahead| ahead.is_of(id)) {
            Some(ahead) => Ok(ahead.current()),
            None => self.store.current(id),
        }
    }

    /// Whether a document of a followed index already holds this change or a later one. What this
    /// batch has written itself is older than the batch's later operations.
    fn is_newer(&self, current: &Current) -> bool {
        let Circumstances { followed, lsn, first, .. } = self.circumstances;
        let held = lsn.is_some_and(|lsn| current.system.lsn >= lsn);
        followed && held && current.system.seq_no < first.0
    }

    fn set(&mut self, place: usize, after: After) {
        if let Some(slot) = self.slots.get_mut(place) {
            slot.after = after;
            slot.op = self.op;
        }
    }

    /// The last version of an id: of its document, or of a delete that is remembered.
    fn last_version(&self, place: usize, id: &str, current: Option<&Current>) -> Option<u64> {
        if let Some(current) = current {
            return Some(current.system.version);
        }
        match self.slots.get(place).map(|slot| &slot.after) {
            Some(After::Gone(tombstone)) => tombstone.map(|tombstone| tombstone.version),
            _ => self.store.tombstones.find(id).map(|tombstone| tombstone.version),
        }
    }

    /// The system values of the change that is made now.
    fn next_system(&mut self, place: usize, id: &str, current: Option<&Current>) -> SystemValues {
        let Circumstances { followed, term, lsn, .. } = self.circumstances;
        let last = self.last_version(place, id, current);
        let counted = self.version.unwrap_or(last.map_or(1, |last| last.saturating_add(1)));
        let version = if followed { lsn.unwrap_or(counted) } else { counted };
        SystemValues { seq_no: take(self.next_seq_no).0, term, version, lsn: lsn.unwrap_or(0) }
    }

    fn put(
        &mut self,
        place: usize,
        id: &str,
        current: Option<&Current>,
        source: Bytes,
    ) -> Result<Applied> {
        let ahead = self.ahead.as_mut().and_then(|ahead| ahead.parsed(&source, &self.draft));
        let parsed = match ahead.map_or_else(|| self.draft.parse(id, &source).map(Box::new), Ok) {
            Ok(parsed) => parsed,
            Err(error) => {
                self.reject(place);
                return Err(error);
            }
        };
        let system = self.next_system(place, id, current);
        self.set(place, After::There(Box::new(NewDocument { parsed, system, source })));
        let result = if current.is_some() { OpResult::Updated } else { OpResult::Created };
        Ok(applied(id, result, system))
    }

    /// In a followed index a rejected row removes its older document.
    fn reject(&mut self, place: usize) {
        if self.circumstances.followed {
            self.set(place, After::Gone(None));
        }
    }

    fn delete(&mut self, place: usize, id: &str, current: Option<&Current>) -> Applied {
        let system = self.next_system(place, id, current);
        self.set(place, After::Gone(self.tombstone(system)));
        let result = if current.is_some() { OpResult::Deleted } else { OpResult::NotFound };
        applied(id, result, system)
    }

    /// What is to be remembered of a delete. A followed index takes its versions from its source.
    fn tombstone(&self, system: SystemValues) -> Option<Tombstone> {
        let SystemValues { seq_no, term, version, .. } = system;
        let tombstone = Tombstone { seq_no, term, version, at_ms: now_ms() };
        (!self.circumstances.followed).then_some(tombstone)
    }

    fn patch(
        &mut self,
        place: usize,
        id: &str,
        current: Option<&Current>,
        previous: Option<&'o String>,
        patch: &Patch,
    ) -> Result<Result<Applied>> {
        let from = match previous {
            Some(previous) => {
                let (place, old) = self.look_up(previous)?;
                let old = old.filter(|old| !self.is_newer(old));
                old.map(|old| (Some(place), old))
            }
            None => current.cloned().map(|current| (None, current)),
        };
        let old = match &from {
            Some((_, old)) => Some(self.store.source(old)?),
            None => None,
        };
        let old_id = previous.map_or(id, String::as_str);
        let source = match patched(old_id, old.as_ref(), patch) {
            Ok(Some(source)) => source,
            Ok(None) => {
                let system = from.map(|(_, old)| old.system).unwrap_or_default();
                let source = old.filter(|_| self.circumstances.tell_patched);
                return Ok(Ok(Applied { source, ..applied(id, OpResult::Noop, system) }));
            }
            Err(error) => {
                self.reject(place);
                if let Some((Some(previous), _)) = from {
                    self.reject(previous);
                }
                return Ok(Err(error));
            }
        };
        let told = self.circumstances.tell_patched.then(|| source.clone());
        let result = self.put(place, id, current, source);
        let result = result.map(|applied| Applied { source: told, ..applied });
        if let Some((Some(previous), _)) = from {
            match result {
                Ok(_) => self.set(previous, After::Gone(None)),
                Err(_) => self.reject(previous),
            }
        }
        Ok(result)
    }
}

fn applied(id: &str, result: OpResult, system: SystemValues) -> Applied {
    let SystemValues { seq_no, term, version, .. } = system;
    Applied { id: id.to_owned(), result, seq_no: SeqNo(seq_no), term, version, source: None }
}

/// The new document, or `None` where nothing changes.
fn patched(id: &str, old: Option<&Bytes>, change: &Patch) -> Result<Option<Bytes>> {
    match (change, old) {
        (Patch::Keep { source, keep }, _) if keep.is_empty() => Ok(Some(source.clone())),
        (Patch::Keep { source, keep }, Some(old)) => {
            patch::keep(old, source, keep).map(|new| Some(Bytes::from(new)))
        }
        (Patch::Merge { source, detect_noop, .. }, Some(old)) => {
            let new = patch::merge(old, source, *detect_noop)?;
            Ok(new.map(Bytes::from))
        }
        (Patch::Merge { upsert: Some(upsert), .. }, None) => Ok(Some(upsert.clone())),
        (Patch::Keep { .. } | Patch::Merge { upsert: None, .. }, None) => Err(missing(id)),
    }
}

fn missing(id: &str) -> Error {
    Error::new(ErrorKind::DocumentMissing, format!("[{id}]: document missing"))
}

/// Whether a condition holds for a document and the last version of its id.
fn check_condition(
    id: &str,
    condition: Condition,
    current: Option<&Current>,
    last: Option<u64>,
) -> Result<()> {
    let conflict = |what: String| {
        Err(Error::new(ErrorKind::VersionConflict, format!("[{id}]: version conflict, {what}")))
    };
    match (condition, current) {
        (Condition::None, _) | (Condition::Absent, None) => Ok(()),
        (Condition::External { version, or_equal }, _) => match last {
            Some(last) if last > version && or_equal => conflict(format!(
                "current version [{last}] is higher than the one provided [{version}]"
            )),
            Some(last) if last >= version && !or_equal => conflict(format!(
                "current version [{last}] is higher or equal to the one provided [{version}]"
            )),
            _ => Ok(()),
        },
        (Condition::Absent, Some(current)) => conflict(format!(
            "document already exists (current version [{}])",
            current.system.version
        )),
        (Condition::LastChange { seq_no, term }, None) => conflict(format!(
            "required seqNo [{}], primary term [{term}]. but no document was found",
            seq_no.0
        )),
        (Condition::LastChange { seq_no, term }, Some(current)) => {
            let found = current.system;
            if (found.seq_no, found.term) == (seq_no.0, term) {
                return Ok(());
            }
            conflict(format!(
                "required seqNo [{}], primary term [{term}]. current document has seqNo [{}] and \
                 primary term [{}]",
                seq_no.0, found.seq_no, found.term
            ))
        }
    }
}
