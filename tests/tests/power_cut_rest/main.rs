//! Power cuts and kills under indexes that are written over REST: an engine on the simulated disk,
//! several writers, refreshes, flushes, growing mappings, indexes made and deleted, and the end at
//! any operation of the disk, also while the engine opens.
//!
//! Whatever was answered is there, once; of the rest no batch is there by half. A seed gives the
//! same plan again, though not the same interleaving of threads. `POWER_RUNS` runs from `POWER_SEED`
//! on: `make powercut SEED=1 RUNS=2000`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod book;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use egret_aof::disk::Disk;
use egret_aof::disk::sim::{Fault, SimDisk};
use egret_engine::batch::{Batch, Condition, Patch, Refresh, WriteOp};
use egret_engine::{Engine, EngineOptions, ErrorKind, Index, IndexDefinition};
use egret_tests::seeds::{campaign, seeds};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use book::Book;

const NAMES: [&str; 3] = ["steady", "async", "fleeting"];
/// Few ids, so that writers meet.
const IDS: u32 = 24;
const WRITERS: u64 = 2;
/// Ends of one run.
const LIVES: usize = 6;
/// Power cuts that are tried after each kill.
const CUTS_AFTER_KILL: usize = 8;
/// Runs at a time: most of their time they wait for each other's threads.
const THREADS: u64 = 3;

/// Which index a name may stand for.
#[derive(Debug, Clone, Default)]
struct Named {
    /// The UUID of the last one that was surely made and not surely deleted.
    known: Option<String>,
    /// A deletion of it failed: it may be gone.
    maybe_gone: bool,
    /// A creation failed: there may be one that was never seen.
    maybe_new: bool,
}

/// Everything that a run knows.
struct Run {
    seed: u64,
    names: Mutex<BTreeMap<&'static str, Named>>,
    /// By UUID. Held while an answer is noted, never while one is waited for.
    books: Mutex<BTreeMap<String, Book>>,
    tags: AtomicU64,
    fields: AtomicU64,
}

fn open(disk: &SimDisk) -> egret_engine::Result<Engine> {
    Engine::open(EngineOptions {
        disk: Arc::new(disk.clone()),
        folder: PathBuf::from("/data/egret"),
        indexing_budget_bytes: 64 << 20,
        limits: egret_engine::Limits::default(),
    })
}

fn is_powered(disk: &SimDisk) -> bool {
    disk.exists(Path::new("/")).is_ok()
}

impl Run {
    fn new(seed: u64) -> Self {
        let names = NAMES.iter().map(|name| (*name, Named::default())).collect();
        Self {
            seed,
            names: Mutex::new(names),
            books: Mutex::default(),
            tags: AtomicU64::new(0),
            fields: AtomicU64::new(0),
        }
    }

    /// The same knowledge, for another future.
    fn fork(&self) -> Self {
        Self {
            seed: self.seed,
            names: Mutex::new(self.names.lock().clone()),
            books: Mutex::new(self.books.lock().clone()),
            tags: AtomicU64::new(self.tags.load(Ordering::Relaxed)),
            fields: AtomicU64::new(self.fields.load(Ordering::Relaxed)),
        }
    }

    /// Holds every index against what is known of it.
    fn check(&self, engine: &Engine, context: &str) {
        let mut names = self.names.lock();
        let mut books = self.books.lock();
        for index in engine.indexes() {
            assert!(NAMES.contains(&index.name()), "{context}: index {} is there", index.name());
        }
        for (name, named) in names.iter_mut() {
            let Ok(index) = engine.index(name) else {
                let gone = named.known.is_none() || named.maybe_gone;
                assert!(gone, "{context}: index {name} is lost: {named:?}");
                *named = Named::default();
                continue;
            };
            let uuid = index.uuid().to_owned();
            let known = named.known.as_ref() == Some(&uuid);
            let new = named.maybe_new && !books.contains_key(&uuid);
            assert!(known || new, "{context}: index {name} is {uuid}, not {named:?}");
            let book = books.entry(uuid.clone()).or_default();
            book.asynchronous = *name == "async";
            book.check(&index, &format!("{context}, index {name}"));
            *named = Named { known: Some(uuid), maybe_gone: false, maybe_new: false };
        }
    }

    fn create(&self, engine: &Engine, name: &'static str) {
        let durability = if name == "async" { "async" } else { "request" };
        let interval = if name == "steady" { json!("5ms") } else { Value::Null };
        let definition = IndexDefinition {
            mappings: Value::Null,
            settings: json!({"translog.durability": durability, "refresh_interval": interval}),
            ..IndexDefinition::default()
        };
        let created = engine.create_index(name, definition);
        let mut names = self.names.lock();
        let named = names.get_mut(name).unwrap();
        match created {
            Ok(index) => {
                let uuid = index.uuid().to_owned();
                let mut book = Book::default();
                book.asynchronous = name == "async";
                assert!(self.books.lock().insert(uuid.clone(), book).is_none(), "{uuid} again");
                *named = Named { known: Some(uuid), maybe_gone: false, maybe_new: false };
            }
            Err(error) if error.kind() == ErrorKind::IndexAlreadyExists => {}
            Err(_) => named.maybe_new = true,
        }
    }

    fn delete(&self, engine: &Engine, name: &'static str) {
        let deleted = engine.delete_index(name, false);
        let mut names = self.names.lock();
        let named = names.get_mut(name).unwrap();
        match deleted {
            Ok(()) => *named = Named::default(),
            Err(error) if error.kind() == ErrorKind::IndexNotFound => {}
            Err(_) => named.maybe_gone = true,
        }
    }

    /// A document, now and then with a field that is new.
    fn source(&self, random: &mut StdRng) -> Bytes {
        let tag = self.tags.fetch_add(1, Ordering::Relaxed);
        let mut source = json!({"tag": tag, "text": format!("some words {}", tag % 7)});
        if random.random_ratio(1, 12) {
            let field = self.fields.fetch_add(1, Ordering::Relaxed);
            source[format!("field_{}", field % 40)] = json!("a new field");
        }
        Bytes::from(source.to_string())
    }

    fn op(&self, index: &Index, random: &mut StdRng) -> WriteOp {
        let id = random.random_range(0..IDS).to_string();
        let condition = match random.random_range(0..20) {
            0 => Condition::Absent,
            1 => match index.document(&id) {
                Ok(Some(it)) => Condition::LastChange { seq_no: it.seq_no, term: it.term },
                _ => Condition::None,
            },
            _ => Condition::None,
        };
        let source = self.source(random);
        match random.random_range(0..10) {
            0..6 => WriteOp::Upsert { id, source, condition },
            6..8 => {
                let upsert = Some(source.clone());
                let patch = Patch::Merge { source, upsert, detect_noop: false };
                WriteOp::Patch { id, previous_id: None, patch, condition: Condition::None }
            }
            _ => WriteOp::Delete { id, condition },
        }
    }

    /// Writes batch after batch, several of them underway, until the disk is gone.
    fn write(&self, engine: &Engine, disk: &SimDisk, seed: u64, batches: u32) {
        let mut random = StdRng::seed_from_u64(seed);
        let mut underway = Vec::new();
        for _ in 0..batches {
            let name = NAMES[random.random_range(0..NAMES.len())];
            let Ok(index) = engine.index(name) else { continue };
            let count = random.random_range(1..6);
            let ops: Vec<WriteOp> = (0..count).map(|_| self.op(&index, &mut random)).collect();
            let uuid = index.uuid().to_owned();
            let Some(number) = self.books.lock().get_mut(&uuid).map(|book| book.send(&ops)) else {
                continue;
            };
            let refresh = match random.random_range(0..10) {
                0 => Refresh::Now,
                1 => Refresh::WaitFor,
                _ => Refresh::Scheduled,
            };
            match index.submit(Batch { ops, refresh, ..Batch::default() }) {
                Ok(receipt) => underway.push((uuid, number, receipt)),
                Err(_) if is_powered(disk) => {}
                Err(_) => break,
            }
            if underway.len() >= random.random_range(1..5) {
                self.settle(&mut underway);
            }
        }
        self.settle(&mut underway);
    }

    fn settle(&self, underway: &mut Vec<(String, usize, egret_engine::index::Receipt)>) {
        for (uuid, number, receipt) in underway.drain(..) {
            if let Ok(Ok(outcome)) = receipt.blocking_recv() {
                self.books.lock().get_mut(&uuid).unwrap().answered(number, outcome);
            }
        }
    }

    /// Everything but writing.
    fn maintain(&self, engine: &Engine, disk: &SimDisk, seed: u64, steps: u32) {
        let mut random = StdRng::seed_from_u64(seed);
        for _ in 0..steps {
            let name = NAMES[random.random_range(0..NAMES.len())];
            let index = engine.index(name);
            match (random.random_range(0..10), index) {
                (0..4, Ok(index)) => drop(index.refresh()),
                (4..7, Ok(index)) => drop(index.flush()),
                (7, Ok(index)) => {
                    let field = format!("added_{}", random.random_range(0..9));
                    let addition = json!({"properties": {&field: {"type": "keyword"}}});
                    let added = index.put_mapping(&addition).is_ok().then_some(field);
                    let mut books = self.books.lock();
                    books.get_mut(index.uuid()).unwrap().fields.extend(added);
                }
                (8, Ok(_)) if name == "fleeting" => self.delete(engine, name),
                (_, Err(_)) => self.create(engine, name),
                _ => {}
            }
            if let Ok(index) = engine.index(name) {
                let snapshot = index.snapshot();
                self.books.lock().get_mut(index.uuid()).unwrap().look(&snapshot);
            }
            if !is_powered(disk) {
                return;
            }
        }
    }

    /// One life: opens, checks, writes until the end. `true` where the check took place.
    fn live(&self, disk: &SimDisk, random: &mut StdRng, context: &str) -> bool {
        let Ok(engine) = open(disk) else { return false };
        let damaged = engine.damaged();
        if !damaged.is_empty() {
            assert!(!is_powered(disk), "{context}: damaged: {damaged:?}");
            return false;
        }
        self.check(&engine, context);
        for name in NAMES {
            self.create(&engine, name);
        }
        let batches = random.random_range(0..16);
        let seeds: Vec<u64> = (0..=WRITERS).map(|_| random.random()).collect();
        std::thread::scope(|scope| {
            for seed in &seeds[1..] {
                scope.spawn(|| self.write(&engine, disk, *seed, batches));
            }
            self.maintain(&engine, disk, seeds[0], batches);
        });
        if random.random_ratio(1, 8) {
            drop(engine.close());
        }
        true
    }

    fn run(&self) -> u64 {
        let mut random = StdRng::seed_from_u64(self.seed);
        let mut disk = SimDisk::new();
        let mut checked = 0;
        for life in 0..LIVES {
            let context = format!("seed {}, life {life}", self.seed);
            let range = if random.random_ratio(1, 3) { 40 } else { 900 };
            disk.fail_at(disk.operations() + random.random_range(0..range), Fault::PowerCut);
            checked += u64::from(self.live(&disk, &mut random, &context));
            // A killed process leaves everything in the page cache, for the next cut to take.
            let killed = random.random_ratio(1, 3);
            disk = if killed { disk.kill() } else { disk.power_cut(random.random()) };
        }
        let context = format!("seed {}, at the end", self.seed);
        // What is seen once after a kill is there for good.
        for killed in [true, false] {
            disk = if killed { disk.kill() } else { disk.power_cut(random.random()) };
            let engine = open(&disk).map_err(|error| format!("{context}: {error}")).unwrap();
            assert_eq!(engine.damaged(), [], "{context}");
            self.check(&engine, &context);
        }
        checked
    }
}

#[test]
fn what_was_answered_survives_and_no_batch_by_half() {
    let seeds = seeds(120);
    let checked = campaign(seeds.clone(), THREADS, |seed| Run::new(seed).run());
    assert!(checked >= seeds.end - seeds.start, "hardly a life was long enough to check anything");
}

/// A short life with one of everything, one after the other.
fn history(run: &Run, disk: &SimDisk) {
    let Ok(engine) = open(disk) else { return };
    run.create(&engine, "steady");
    for round in 0..3 {
        run.write(&engine, disk, round, 3);
        run.maintain(&engine, disk, round + 7, 2);
        if let Ok(index) = engine.index("steady") {
            drop(index.flush());
        }
    }
    run.create(&engine, "fleeting");
    run.write(&engine, disk, 9, 2);
    run.delete(&engine, "fleeting");
    run.create(&engine, "async");
}

/// The same history, killed at every operation, and its disk's power cut while, or after, the next
/// process opens it: what that process has seen stays.
#[test]
fn a_power_cut_soon_after_a_kill() {
    let first = seeds(1).start;
    let disk = SimDisk::new();
    history(&Run::new(0), &disk);
    let mut random = StdRng::seed_from_u64(first);
    for at in 0..disk.operations() {
        let (disk, run) = (SimDisk::new(), Run::new(first));
        disk.fail_at(at, Fault::PowerCut);
        history(&run, &disk);
        let context = format!("seed {first}, killed at {at}");
        for _ in 0..CUTS_AFTER_KILL {
            cut_after_kill(&run.fork(), &disk.kill(), &mut random, &context);
        }
    }
}

fn cut_after_kill(run: &Run, disk: &SimDisk, random: &mut StdRng, context: &str) {
    // Opening takes about as many operations.
    disk.fail_at(disk.operations() + random.random_range(0..120), Fault::PowerCut);
    if let Ok(engine) = open(disk) {
        assert!(engine.damaged().is_empty() || !is_powered(disk), "{context}");
        if engine.damaged().is_empty() {
            run.check(&engine, context);
            run.create(&engine, "steady");
            run.write(&engine, disk, random.random(), 2);
        }
    }
    let disk = disk.power_cut(random.random());
    let engine = open(&disk).map_err(|error| format!("{context}: {error}")).unwrap();
    assert_eq!(engine.damaged(), [], "{context}");
    run.check(&engine, &format!("{context}, then cut"));
}
