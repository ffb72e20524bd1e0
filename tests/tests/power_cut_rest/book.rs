//! What a test knows of one index, and what it may find after a power cut.
//!
//! Every write of a document carries a tag of its own, so what is found tells which operation put
//! it there. A batch that was answered before the cut is *certain*; of any other it is open whether
//! it happened, but not whether half of it did.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use egret_engine::batch::{Applied, BatchOutcome, Condition, OpResult, Patch, WriteOp};
use egret_engine::search::request::{SearchRequest, TrackTotalHits};
use egret_engine::search::search;
use egret_engine::{Generation, Index, Snapshot};
use serde_json::Value;

/// A document as it is found.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Found {
    pub(crate) tag: u64,
    pub(crate) source: Value,
    pub(crate) seq_no: u64,
    pub(crate) term: u64,
    pub(crate) version: u64,
}

/// One operation that was sent.
#[derive(Debug, Clone)]
struct Sent {
    id: String,
    /// The tag of a document that is put; `None` for a delete.
    tag: Option<u64>,
    /// Whether it happens whatever is there before.
    unconditional: bool,
}

/// One batch that was sent.
#[derive(Debug, Clone)]
struct SentBatch {
    ops: Vec<Sent>,
    /// What was answered; `None` where nothing certain was.
    answer: Option<Vec<Option<Applied>>>,
}

/// What is known of one index.
#[derive(Debug, Default, Clone)]
pub(crate) struct Book {
    /// The documents as last found.
    base: BTreeMap<String, Found>,
    sent: Vec<SentBatch>,
    /// Whether nothing is certain while it lives: `translog.durability: async`.
    pub(crate) asynchronous: bool,
    /// Every sequence number up to here is used up.
    used_seq_no: Option<u64>,
    /// The highest term that was seen before this life.
    past_term: u64,
    /// What was published under each name.
    published: BTreeMap<(u64, u64), String>,
    /// Fields that were added and answered.
    pub(crate) fields: BTreeSet<String>,
}

/// The last certain change of a document.
#[derive(Debug, Clone, Copy)]
struct Certain<'a> {
    seq_no: Option<u64>,
    /// Of the document that is there.
    tag: Option<u64>,
    applied: Option<&'a Applied>,
}

impl Book {
    /// Takes note of a batch before it is sent, and says under which number.
    pub(crate) fn send(&mut self, ops: &[WriteOp]) -> usize {
        let ops = ops.iter().map(Sent::of).collect();
        self.sent.push(SentBatch { ops, answer: None });
        self.sent.len() - 1
    }

    /// Takes note of an answer.
    pub(crate) fn answered(&mut self, batch: usize, outcome: BatchOutcome) {
        let applied: Vec<Option<Applied>> = outcome.ops.into_iter().map(Result::ok).collect();
        for applied in applied.iter().flatten().filter(|it| it.result != OpResult::Noop) {
            let seq_no = applied.seq_no.0;
            assert!(self.used_seq_no.is_none_or(|used| seq_no > used), "used again: {applied:?}");
            assert!(applied.term > self.past_term, "the term did not rise: {applied:?}");
        }
        self.sent[batch].answer = Some(applied);
    }

    /// Looks at what is published now.
    pub(crate) fn look(&mut self, snapshot: &Arc<Snapshot>) {
        let mut digest = String::new();
        for (id, found) in documents(snapshot) {
            let Found { tag, seq_no, term, version, .. } = found;
            write!(digest, "{id}={tag}@{seq_no}.{term}v{version} ").unwrap();
        }
        let Generation { term, number } = snapshot.generation();
        let known = self.published.entry((term, number)).or_insert_with(|| digest.clone());
        assert_eq!(*known, digest, "generation {term}.{number} names two states");
    }

    /// Holds what is there after an opening against what is known, and goes on from there.
    pub(crate) fn check(&mut self, index: &Index, context: &str) {
        let snapshot = index.snapshot();
        let found = documents(&snapshot);
        self.check_documents(&found, context);
        self.check_atomicity(&found, context);
        let mapping = index.mapping();
        let used = found.values().flat_map(|found| found.source.as_object().unwrap().keys());
        for field in used.chain(&self.fields) {
            assert!(mapping.field(field).is_some(), "{context}: field {field} is not mapped");
        }
        let answered = self.sent.iter().filter_map(|batch| batch.answer.as_ref()).flatten();
        let certain =
            answered.flatten().filter(|it| it.result != OpResult::Noop && !self.asynchronous);
        let seq_nos = certain.map(|applied| applied.seq_no.0);
        let seq_nos = seq_nos.chain(found.values().map(|found| found.seq_no));
        self.used_seq_no = seq_nos.chain(self.used_seq_no).max();
        let seen = self.published.keys().map(|(term, _)| *term);
        let seen = seen.chain(found.values().map(|found| found.term));
        self.past_term = seen.chain([self.past_term]).max().unwrap_or_default();
        self.look(&snapshot);
        self.base = found;
        self.sent.clear();
    }

    /// The last certain change of every document.
    fn certain(&self) -> BTreeMap<&str, Certain<'_>> {
        let mut last: BTreeMap<&str, Certain<'_>> = BTreeMap::new();
        for (id, found) in &self.base {
            let (seq_no, tag) = (Some(found.seq_no), Some(found.tag));
            last.insert(id, Certain { seq_no, tag, applied: None });
        }
        let sent = self.sent.iter().filter(|_| !self.asynchronous);
        let answered = sent.filter_map(|batch| Some((&batch.ops, batch.answer.as_ref()?)));
        for (op, applied) in answered.flat_map(|(ops, answer)| ops.iter().zip(answer)) {
            let Some(applied) = applied.as_ref().filter(|it| it.result.changes()) else { continue };
            let seq_no = Some(applied.seq_no.0);
            if last.get(op.id.as_str()).is_none_or(|last| last.seq_no < seq_no) {
                let certain = Certain { seq_no, tag: op.tag, applied: Some(applied) };
                last.insert(&op.id, certain);
            }
        }
        last
    }

    /// Operations of which it is open whether they happened.
    fn open(&self) -> impl Iterator<Item = &SentBatch> {
        self.sent.iter().filter(|batch| self.asynchronous || batch.answer.is_none())
    }

    fn open_ops(&self, id: &str) -> impl Iterator<Item = &Sent> {
        self.open().flat_map(|batch| &batch.ops).filter(move |op| op.id == id)
    }

    fn check_documents(&self, found: &BTreeMap<String, Found>, context: &str) {
        let certain = self.certain();
        for (id, last) in &certain {
            let Some(found) = found.get(*id) else {
                let deleted = last.tag.is_none() || self.open_ops(id).any(|op| op.tag.is_none());
                assert!(deleted, "{context}: document {id} is lost: {last:?}");
                continue;
            };
            if last.tag == Some(found.tag) {
                let applied = last.applied.map(|it| (it.seq_no.0, it.term, it.version));
                let known = self.base.get(*id).map(|it| (it.seq_no, it.term, it.version));
                let there = (found.seq_no, found.term, found.version);
                assert_eq!(applied.or(known), Some(there), "{context}: {id} has changed");
            } else {
                assert!(
                    last.seq_no < Some(found.seq_no),
                    "{context}: {id} is {found:?}, not {last:?}"
                );
            }
        }
        for (id, found) in found {
            if certain.get(id.as_str()).is_some_and(|last| last.tag == Some(found.tag)) {
                continue;
            }
            let sent = self.open_ops(id).any(|op| op.tag == Some(found.tag));
            assert!(sent, "{context}: {id} is {found:?}, not {:?}", certain.get(id.as_str()));
        }
    }

    /// A batch that shows in one document shows in all of its own, or they changed after it.
    fn check_atomicity(&self, found: &BTreeMap<String, Found>, context: &str) {
        let certain = self.certain();
        for batch in self.open() {
            let shown = batch.ops.iter().enumerate().find_map(|(at, op)| {
                let there = found.get(&op.id)?;
                // Each operation before it has taken at most one number.
                (Some(there.tag) == op.tag).then(|| there.seq_no.saturating_sub(at as u64))
            });
            let Some(from) = shown else { continue };
            let last_ops: BTreeMap<&str, &Sent> =
                batch.ops.iter().map(|op| (op.id.as_str(), op)).collect();
            for (id, op) in last_ops.into_iter().filter(|(_, op)| op.unconditional) {
                let later = certain.get(id).is_some_and(|last| last.seq_no >= Some(from));
                let may_be_gone =
                    op.tag.is_none() || later || self.open_ops(id).any(|other| other.tag.is_none());
                let whole = found.get(id).map_or(may_be_gone, |there| there.seq_no >= from);
                assert!(whole, "{context}: {id} is not of the batch: {batch:?}, {found:?}");
            }
        }
    }
}

impl Sent {
    fn of(op: &WriteOp) -> Self {
        let (id, condition, tag, patch) = match op {
            WriteOp::Upsert { id, source, condition } => {
                (id, condition, Some(tag_of(&serde_json::from_slice(source).unwrap())), false)
            }
            WriteOp::Patch { id, patch, condition, .. } => {
                let Patch::Merge { source, .. } = patch else { panic!("only merges are sent") };
                (id, condition, Some(tag_of(&serde_json::from_slice(source).unwrap())), true)
            }
            WriteOp::Delete { id, condition } => (id, condition, None, false),
            WriteOp::Clear | WriteOp::ClearRows { .. } => panic!("no clear is sent"),
        };
        let unconditional = *condition == Condition::None && !patch;
        Self { id: id.clone(), tag, unconditional }
    }
}

/// Whether an operation changed anything.
trait Changes {
    fn changes(&self) -> bool;
}

impl Changes for OpResult {
    fn changes(&self) -> bool {
        matches!(self, Self::Created | Self::Updated | Self::Deleted)
    }
}

fn tag_of(source: &Value) -> u64 {
    source["tag"].as_u64().unwrap()
}

/// Every document of a snapshot, once.
pub(crate) fn documents(snapshot: &Arc<Snapshot>) -> BTreeMap<String, Found> {
    let request = SearchRequest {
        size: 10_000,
        version: true,
        seq_no_primary_term: true,
        track_total_hits: TrackTotalHits::Exact,
        ..SearchRequest::default()
    };
    let response = search(&[Arc::clone(snapshot)], &request).unwrap();
    let mut documents = BTreeMap::new();
    for hit in &response.hits {
        let source: Value = serde_json::from_slice(hit.source.as_ref().unwrap()).unwrap();
        let (seq_no, term) = hit.seq_no.unwrap();
        let (tag, version) = (tag_of(&source), hit.version.unwrap());
        let found = Found { tag, source, seq_no: seq_no.0, term, version };
        let before = documents.insert(hit.id.clone(), found);
        assert!(before.is_none(), "{} is there twice", hit.id);
    }
    assert_eq!(response.total.unwrap().value, snapshot.doc_count());
    assert_eq!(documents.len() as u64, snapshot.doc_count());
    documents
}
