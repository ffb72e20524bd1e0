//! Random interleavings of everything an index does, against a plain map; and power cuts in them.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::index::ForceMerge;
use crate::store::settings::SettingsUpdate;

/// Few ids, so that operations meet.
const IDS: u32 = 40;

/// What an index should hold.
#[derive(Debug, Clone, Default)]
pub(super) struct Model {
    documents: BTreeMap<String, Value>,
    /// The last version of every id, deleted ones too.
    versions: BTreeMap<String, u64>,
    /// Number and term of every document's last change.
    changes: BTreeMap<String, (u64, u64)>,
}

/// By what can be read; what is remembered of deletes shows only with later writes.
impl PartialEq for Model {
    fn eq(&self, other: &Self) -> bool {
        self.documents == other.documents
    }
}

impl Model {
    /// Applies an operation that the index has accepted.
    pub(super) fn apply(&mut self, op: &Op) {
        match op {
            Op::Put(id, source) | Op::Create(id, source) | Op::IfLast(id, _, Some(source)) => {
                self.documents.insert(id.clone(), source.clone());
                self.count(id);
            }
            Op::Merge(id, change) => {
                let Some(Value::Object(fields)) = self.documents.get_mut(id) else { return };
                let before = fields.clone();
                fields.extend(change.as_object().unwrap().clone());
                let changed = *fields != before;
                *self.versions.entry(id.clone()).or_default() += u64::from(changed);
            }
            Op::Delete(id) | Op::IfLast(id, _, None) => {
                self.documents.remove(id);
                self.count(id);
            }
            Op::External(id, version, _, source) => {
                match source {
                    Some(source) => drop(self.documents.insert(id.clone(), source.clone())),
                    None => drop(self.documents.remove(id)),
                }
                self.versions.insert(id.clone(), *version);
            }
            Op::Clear => *self = Self::default(),
        }
    }

    fn count(&mut self, id: &str) {
        *self.versions.entry(id.to_owned()).or_default() += 1;
    }

    /// Whether an external version is not above the last, another change than the one named was, or a
    /// document is there that should not be.
    fn conflicts(&self, op: &Op) -> bool {
        match op {
            Op::External(id, version, or_equal, _) => {
                let allowed = version + u64::from(*or_equal);
                self.versions.get(id).is_some_and(|last| *last >= allowed)
            }
            Op::Create(id, _) => self.documents.contains_key(id),
            Op::IfLast(id, change, _) => self.changes.get(id) != Some(change),
            Op::Put(..) | Op::Merge(..) | Op::Delete(_) | Op::Clear => false,
        }
    }

    /// Takes note of the number of a change.
    fn number(&mut self, applied: &Applied) {
        match applied.result {
            OpResult::Created | OpResult::Updated => {
                let change = (applied.seq_no.0, applied.term);
                self.changes.insert(applied.id.clone(), change);
            }
            OpResult::Deleted | OpResult::NotFound => drop(self.changes.remove(&applied.id)),
            OpResult::Noop => {}
        }
    }

    /// What is known of an operation's result besides whether it was refused.
    fn check_version(&self, op: &Op, result: &Applied, context: &str) {
        if result.result != OpResult::Noop && !matches!(op, Op::Clear) {
            let expected = self.versions.get(&result.id);
            assert_eq!(Some(&result.version), expected, "{context}: {op:?}");
        }
    }

    /// Applies a batch by its results, or by what they must be where none came.
    pub(super) fn apply_all(
        &mut self,
        ops: &[Op],
        results: Option<&[Result<Applied>]>,
        followed: bool,
    ) {
        for (place, op) in ops.iter().enumerate() {
            let rejected = match results.and_then(|results| results.get(place)) {
                Some(result) => result.is_err(),
                None => self.rejects(op),
            };
            match op {
                op if !rejected => self.apply(op),
                Op::Put(id, _) if followed => drop(self.documents.remove(id)),
                Op::External(id, _, _, Some(_)) if followed && !self.conflicts(op) => {
                    self.documents.remove(id);
                }
                _ => {}
            }
        }
    }

    fn rejects(&self, op: &Op) -> bool {
        match op {
            Op::Put(_, source) => source["number"].is_object(),
            Op::Merge(id, _) => !self.documents.contains_key(id),
            Op::Create(_, source) => self.conflicts(op) || source["number"].is_object(),
            Op::External(_, _, _, source) | Op::IfLast(_, _, source) => {
                self.conflicts(op) || source.as_ref().is_some_and(|it| it["number"].is_object())
            }
            Op::Delete(_) | Op::Clear => false,
        }
    }

    /// What can be read of an index by id, published or not.
    pub(super) fn read(index: &Index) -> Self {
        let read = |id: u32| {
            let document = index.document(&id.to_string()).unwrap()?;
            Some((document.id, serde_json::from_slice(&document.source).unwrap()))
        };
        Self { documents: (0..IDS).filter_map(read).collect(), ..Self::default() }
    }

    /// How many documents have a field.
    pub(super) fn with_field(&self, field: &str) -> u64 {
        self.documents.values().filter(|source| source.get(field).is_some()).count() as u64
    }

    /// Whether an index shows just this.
    pub(super) fn is(&self, index: &Index) -> bool {
        let all = (0..IDS).map(|id| id.to_string());
        index.snapshot().doc_count() == self.documents.len() as u64
            && all.into_iter().all(|id| published(index, &id).as_ref() == self.documents.get(&id))
    }
}

#[derive(Debug, Clone)]
pub(super) enum Op {
    Put(String, Value),
    Merge(String, Value),
    Delete(String),
    /// With an external version, and whether the same is fine too; without a source a delete.
    External(String, u64, bool, Option<Value>),
    /// Only where there is no document.
    Create(String, Value),
    /// Only where this was the document's last change, by number and term; without a source a delete.
    IfLast(String, (u64, u64), Option<Value>),
    Clear,
}

impl Op {
    pub(super) fn random(random: &mut StdRng) -> Self {
        let id = random.random_range(0..IDS).to_string();
        match random.random_range(0..100) {
            0..60 => Self::Put(id, source(random)),
            60..75 => Self::Merge(id, json!({"merged": random.random_range(0..5)})),
            75..98 => Self::Delete(id),
            _ => Self::Clear,
        }
    }

    /// As `random`, now and then with an external version, which is often too old, or another condition,
    /// which often does not hold: by what is known of the documents.
    fn random_conditional(random: &mut StdRng, model: &Model) -> Self {
        let kind = random.random_range(0..8);
        let id = random.random_range(0..IDS).to_string();
        let put = random.random_bool(0.6);
        match kind {
            0 => {
                let source = put.then(|| source(random));
                Self::External(id, random.random_range(0..12), random.random(), source)
            }
            1 => Self::Create(id, source(random)),
            2 => {
                let other = (random.random_range(0..100), 1);
                let last = model.changes.get(&id).filter(|_| random.random_bool(0.8));
                Self::IfLast(id, last.copied().unwrap_or(other), put.then(|| source(random)))
            }
            _ => Self::random(random),
        }
    }

    pub(super) fn to_write(&self) -> WriteOp {
        match self {
            Self::Put(id, source) => upsert(id, source),
            Self::Merge(id, change) => patch(id, change),
            Self::Delete(id) => delete(id),
            Self::External(id, version, or_equal, source) => {
                let condition = Condition::External { version: *version, or_equal: *or_equal };
                conditional(id, source.as_ref(), condition)
            }
            Self::Create(id, source) => conditional(id, Some(source), Condition::Absent),
            Self::IfLast(id, (seq_no, term), source) => {
                let condition = Condition::LastChange { seq_no: SeqNo(*seq_no), term: *term };
                conditional(id, source.as_ref(), condition)
            }
            Self::Clear => WriteOp::Clear,
        }
    }
}

/// A put, or without a source a delete.
fn conditional(id: &str, source: Option<&Value>, condition: Condition) -> WriteOp {
    let id = id.to_owned();
    match source {
        Some(source) => WriteOp::Upsert { id, source: Bytes::from(source.to_string()), condition },
        None => WriteOp::Delete { id, condition },
    }
}

/// A document, now and then with a field that nobody has seen before, or one that is refused.
fn source(random: &mut StdRng) -> Value {
    let mut source = json!({
        "number": random.random_range(0..1000),
        "text": format!("some words number {}", random.random_range(0..20)),
    });
    match random.random_range(0..30) {
        0 => source[format!("text_{}", random.random_range(0..6))] = json!("a new text"),
        1 => source[format!("number_{}", random.random_range(0..6))] = json!(1),
        2 => source["number"] = json!({"no": "number"}),
        _ => {}
    }
    source
}

/// An index that knows the fields that every document has.
pub(super) fn create_mapped(engine: &Engine, followed: bool) -> Arc<Index> {
    let mappings = json!({"properties": {"number": {"type": "long"}, "text": {"type": "text"}}});
    let pipeline = followed.then(|| "main".to_owned());
    let settings = json!({"gc_deletes": "1h"});
    let definition = IndexDefinition { mappings, settings, pipeline, ..IndexDefinition::default() };
    engine.create_index("i", definition).unwrap()
}

/// Everything published is as the model says, and found by its words.
pub(super) fn check(index: &Index, model: &Model, context: &str) {
    let snapshot = index.snapshot();
    let mut listed = Vec::new();
    for segment in snapshot.segments() {
        for doc in segment.reader().doc_ids_alive() {
            listed.push(segment.document_id(doc).unwrap());
        }
    }
    listed.sort();
    assert_eq!(listed, model.documents.keys().cloned().collect::<Vec<_>>(), "{context}");
    assert_eq!(snapshot.doc_count(), model.documents.len() as u64, "{context}");
    for id in 0..IDS {
        let id = id.to_string();
        let expected = model.documents.get(&id);
        assert_eq!(published(index, &id).as_ref(), expected, "{context}: document {id}");
    }
}

/// One index and what it should hold.
struct Trial {
    random: StdRng,
    disk: SimDisk,
    engine: Option<Engine>,
    index: Arc<Index>,
    model: Model,
    /// What searches should see, where they see only what they are asked to.
    shown: Option<Model>,
    /// For a followed index: the model after each transaction, by its LSN.
    history: Option<BTreeMap<u64, Model>>,
    lsn: u64,
}

impl Trial {
    fn new(seed: u64, followed: bool, held_back: bool) -> Self {
        let disk = SimDisk::new();
        let engine = open(&disk);
        let index = create_mapped(&engine, followed);
        if held_back {
            let settings = json!({"refresh_interval": "-1"});
            let options = SettingsUpdate::default();
            engine.update_settings(&["i".to_owned()], &settings, options).unwrap();
        }
        let history = followed.then(|| BTreeMap::from([(0, Model::default())]));
        let random = StdRng::seed_from_u64(seed);
        let model = Model::default();
        let shown = held_back.then(Model::default);
        Self { random, disk, engine: Some(engine), index, model, shown, history, lsn: 0 }
    }

    /// Searches see everything.
    fn show(&mut self) {
        self.shown = self.shown.is_some().then(|| self.model.clone());
    }

    fn write(&mut self, context: &str) {
        let count = self.random.random_range(1..12);
        let followed = self.history.is_some();
        let random = |random: &mut StdRng| {
            if followed { Op::random(random) } else { Op::random_conditional(random, &self.model) }
        };
        let ops: Vec<Op> = (0..count).map(|_| random(&mut self.random)).collect();
        let mut batch = batch(ops.iter().map(Op::to_write).collect());
        if self.history.is_some() {
            self.lsn += 10;
            batch.checkpoint = Some(checkpoint(self.lsn));
        }
        let results = self.index.write(batch).unwrap().ops;
        for (op, result) in ops.iter().zip(&results) {
            let conflicts = self.model.conflicts(op);
            let expected = match op {
                _ if conflicts => ErrorKind::VersionConflict,
                Op::External(..) | Op::Create(..) | Op::IfLast(..) | Op::Put(..) => {
                    ErrorKind::DocumentParsing
                }
                Op::Merge(..) => ErrorKind::DocumentMissing,
                Op::Delete(_) | Op::Clear => ErrorKind::Internal,
            };
            if let Err(error) = result {
                assert_eq!(error.kind(), expected, "{context}: {op:?}: {error}");
            }
            assert!(!conflicts || result.is_err(), "{context}: {op:?} does not hold");
            self.model.apply_all(
                std::slice::from_ref(op),
                Some(std::slice::from_ref(result)),
                followed,
            );
            if let (Ok(applied), false) = (result, followed) {
                self.model.check_version(op, applied, context);
                self.model.number(applied);
            }
        }
        if let Some(history) = &mut self.history {
            history.insert(self.lsn, self.model.clone());
        } else {
            for id in 0..IDS {
                let id = id.to_string();
                let found = self.index.document(&id).unwrap();
                let found = found.map(|it| serde_json::from_slice::<Value>(&it.source).unwrap());
                assert_eq!(found.as_ref(), self.model.documents.get(&id), "{context}: get {id}");
            }
        }
    }

    fn step(&mut self, context: &str) {
        match self.random.random_range(0..100) {
            0..70 => self.write(context),
            70..88 => {
                self.index.refresh().unwrap();
                self.show();
                check(&self.index, &self.model, context);
            }
            88..91 => self.index.flush().unwrap(),
            91..93 => {
                self.index.force_merge(ForceMerge::Down(2)).unwrap();
                self.show();
            }
            93..96 => {
                if let Some(history) = &mut self.history {
                    self.lsn += 5;
                    self.index.advance(checkpoint(self.lsn)).unwrap();
                    history.insert(self.lsn, self.model.clone());
                }
            }
            96..98 => self.restart(context),
            _ => self.cut(context),
        }
        if let Some(shown) = &self.shown {
            check(&self.index, shown, context);
        }
    }

    fn restart(&mut self, context: &str) {
        let engine = self.engine.take().unwrap();
        engine.close().unwrap();
        let generation = self.index.snapshot().generation();
        drop(engine);
        self.reopen();
        let now = self.index.snapshot().generation();
        let as_shown = self.shown.as_ref().is_none_or(|shown| *shown == self.model);
        let context = format!("{context}: {generation:?}, then {now:?}");
        let has_name_of_its_own = self.shown.is_some() && now > generation;
        assert!((now == generation && as_shown) || has_name_of_its_own, "{context}");
        self.show();
        check(&self.index, &self.model, &context);
    }

    fn cut(&mut self, context: &str) {
        let generation = self.index.snapshot().generation();
        let durable = self.index.positions().borrow().durable.map_or(0, |it| it.lsn.0);
        let after = self.disk.power_cut(self.random.random());
        drop(self.engine.take());
        self.disk = after;
        self.reopen();
        if let Some(history) = &self.history {
            let positions = *self.index.positions().borrow();
            let recovered = positions.durable.map_or(0, |it| it.lsn.0);
            assert_eq!(positions.visible, positions.durable, "{context}");
            let model = |lsn: u64| {
                let known = history.range(..=lsn).next_back();
                known.map(|(_, model)| model.clone()).unwrap()
            };
            self.model = model(recovered);
            assert!(
                recovered >= durable || model(durable) == self.model,
                "{context}: {durable} was durable, but only {recovered} survived"
            );
            self.lsn = self.lsn.max(recovered);
            self.history = Some(BTreeMap::from([(0, self.model.clone())]));
        }
        self.show();
        check(&self.index, &self.model, &format!("{context}: after a power cut"));
        let now = self.index.snapshot().generation();
        let was_published = now <= generation;
        assert!(now.term > generation.term || was_published || self.shown.is_some(), "{context}");
    }

    fn reopen(&mut self) {
        let engine = open(&self.disk);
        assert_eq!(engine.damaged(), []);
        self.index = engine.index("i").unwrap();
        self.engine = Some(engine);
    }
}

fn run(seed: u64, steps: usize, followed: bool, held_back: bool) {
    let mut trial = Trial::new(seed, followed, held_back);
    for step in 0..steps {
        trial.step(&format!("seed {seed}, step {step}"));
    }
    trial.cut(&format!("seed {seed}, at the end"));
}

#[test]
fn an_index_with_a_translog_is_like_a_map() {
    campaign(60, |seed| run(seed, 40, false, false));
}

#[test]
fn a_followed_index_is_like_a_map() {
    campaign(60, |seed| run(seed, 40, true, false));
}

/// Under `refresh_interval: -1`.
#[test]
fn what_is_held_back_is_like_a_map_for_reads_by_id_alone() {
    campaign(60, |seed| run(seed, 40, false, true));
    campaign(60, |seed| run(seed, 40, true, true));
}

#[test]
fn long_lives() {
    run(2000, 1500, false, false);
    run(3000, 1500, true, false);
    run(4000, 1500, false, true);
}
