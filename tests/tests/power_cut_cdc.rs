//! Power cuts and kills under a followed index: transactions are handed to it as change capture
//! does, without a database, and the end comes at any operation of the disk.
//!
//! The index is always exactly the table as of its checkpoint: in every snapshot, and after every
//! cut. What `durable` has once said survives. A copy's rows are there as far as its progress says.
//! The same over a real PostgreSQL is `power_cut.rs`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use egret_aof::disk::Disk;
use egret_aof::disk::sim::{Fault, SimDisk};
use egret_engine::batch::{Batch, Condition, Patch, WriteOp};
use egret_engine::search::request::{SearchRequest, TrackTotalHits};
use egret_engine::search::search;
use egret_engine::{Checkpoint, Engine, EngineOptions, Index, IndexDefinition, Lsn, Snapshot};
use egret_tests::seeds::{campaign, seeds};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

/// Few rows, so that transactions meet.
const ROWS: u64 = 20;
/// Ends of one run.
const LIVES: usize = 6;
/// Parts that the copy reads the table in.
const RANGES: u64 = 4;
/// Runs at a time: most of their time they wait for each other's threads.
const THREADS: u64 = 3;

/// The table: each row with the LSN of its last change.
type Table = BTreeMap<String, (Value, u64)>;

/// One transaction of the source's log.
#[derive(Debug, Clone)]
struct Transaction {
    end: u64,
    ops: Vec<WriteOp>,
}

/// The source: what it has committed, and the table after each transaction.
#[derive(Debug, Default)]
struct Source {
    log: Vec<Transaction>,
    tables: BTreeMap<u64, Table>,
}

impl Source {
    fn table(&self, lsn: u64) -> &Table {
        self.tables.range(..=lsn).next_back().unwrap().1
    }

    /// Commits a transaction of a few changes.
    fn commit(&mut self, random: &mut StdRng) -> Transaction {
        let (&last, table) = self.tables.last_key_value().unwrap();
        let end = last + random.random_range(8..40);
        let mut table = table.clone();
        let count = random.random_range(1..8);
        let ops = (0..count).map(|_| change(&mut table, end, random)).collect();
        let transaction = Transaction { end, ops };
        self.log.push(transaction.clone());
        self.tables.insert(end, table);
        transaction
    }
}

/// A change of one row, made to the table too.
fn change(table: &mut Table, lsn: u64, random: &mut StdRng) -> WriteOp {
    let condition = Condition::None;
    let id = random.random_range(0..ROWS).to_string();
    let number = random.random_range(0..1_000_000);
    let row = json!({"number": number, "note": format!("words {}", number % 9)});
    match random.random_range(0..40) {
        0 => {
            table.clear();
            WriteOp::Clear
        }
        1..10 => {
            table.remove(&id);
            WriteOp::Delete { id, condition }
        }
        10..13 => {
            // The engine refuses it, and takes the older document away.
            table.remove(&id);
            let source = Bytes::from(json!({"number": {"no": "number"}}).to_string());
            WriteOp::Upsert { id, source, condition }
        }
        13..22 if !table.is_empty() => {
            // The key changes, and the note is not sent.
            let previous = table.keys().nth(random.random_range(0..table.len())).unwrap().clone();
            let (old, _) = table.remove(&previous).unwrap();
            let new = json!({"number": number, "note": old["note"]});
            table.insert(id.clone(), (new, lsn));
            let source = Bytes::from(json!({"number": number}).to_string());
            let patch = Patch::Keep { source, keep: vec!["note".to_owned()] };
            WriteOp::Patch { id, previous_id: Some(previous), patch, condition }
        }
        kind => {
            let mut row = row;
            if kind == 22 {
                row[format!("field_{}", number % 7)] = json!("a new field");
            }
            let source = Bytes::from(row.to_string());
            table.insert(id.clone(), (row, lsn));
            WriteOp::Upsert { id, source, condition }
        }
    }
}

/// What a run knows.
struct Run {
    seed: u64,
    /// Guards the source's history; held for look-ups and commits.
    source: Mutex<Source>,
    /// The position of the last copy.
    copied: Mutex<Option<u64>>,
    /// The greatest durable position that was seen.
    durable: AtomicU64,
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

fn checkpoint(lsn: u64) -> Checkpoint {
    Checkpoint { system_identifier: 7, timeline: 1, lsn: Lsn(lsn) }
}

/// The documents of a snapshot, each with its version.
fn documents(snapshot: &Arc<Snapshot>) -> Table {
    let request = SearchRequest {
        size: 10_000,
        version: true,
        track_total_hits: TrackTotalHits::Exact,
        ..SearchRequest::default()
    };
    let response = search(&[Arc::clone(snapshot)], &request).unwrap();
    let found: Table = response
        .hits
        .iter()
        .map(|hit| {
            let source = serde_json::from_slice(hit.source.as_ref().unwrap()).unwrap();
            (hit.id.clone(), (source, hit.version.unwrap()))
        })
        .collect();
    assert_eq!(found.len(), response.hits.len(), "a row is there twice");
    assert_eq!(found.len() as u64, snapshot.doc_count());
    found
}

/// Which part of the copy a row is of.
fn range_of(id: &str) -> u64 {
    id.parse::<u64>().unwrap() % RANGES
}

impl Run {
    fn new(seed: u64, random: &mut StdRng) -> Self {
        let mut source = Source { log: Vec::new(), tables: BTreeMap::from([(100, Table::new())]) };
        for _ in 0..6 {
            source.commit(random);
        }
        let copied = Mutex::new(None);
        Self { seed, source: Mutex::new(source), copied, durable: AtomicU64::new(0) }
    }

    /// The snapshot is the table at its checkpoint, and before that the ranges that were copied.
    fn check_snapshot(&self, snapshot: &Arc<Snapshot>, context: &str) {
        let Some(checkpoint) = snapshot.checkpoint() else { return };
        let mut expected = self.source.lock().table(checkpoint.lsn.0).clone();
        // Copied rows carry the LSN of the copy's snapshot.
        let copied = self.copied.lock().unwrap_or_default();
        for (_, lsn) in expected.values_mut() {
            *lsn = copied.max(*lsn);
        }
        assert_eq!(documents(snapshot), expected, "{context}: not the table at {checkpoint:?}");
    }

    /// What an opening shows.
    fn check(&self, index: &Index, context: &str) {
        let positions = *index.positions().borrow();
        assert_eq!(positions.visible, positions.durable, "{context}");
        let survived = positions.durable.map_or(0, |at| at.lsn.0);
        let durable = self.durable.load(Ordering::Relaxed);
        if survived < durable {
            let source = self.source.lock();
            let same = survived > 0 && source.table(durable) == source.table(survived);
            assert!(same, "{context}: {durable} was durable, and {survived} survived");
        }
        self.check_snapshot(&index.snapshot(), context);
        if positions.durable.is_none() {
            let (lsn, ranges) = progress(index);
            let mut expected = self.source.lock().table(lsn).clone();
            expected.retain(|id, _| range_of(id) < ranges);
            for row in expected.values_mut() {
                row.1 = lsn;
            }
            assert_eq!(documents(&index.snapshot()), expected, "{context}: {ranges} at {lsn}");
        }
    }

    /// Copies what the progress leaves, under a snapshot of now.
    fn copy(&self, index: &Index) -> Option<()> {
        let (lsn, table) = {
            let source = self.source.lock();
            let (lsn, table) = source.tables.last_key_value().unwrap();
            (*lsn, table.clone())
        };
        // An unfinished copy begins again as a whole: rows may have gone since.
        let progress = |ranges| Some(format!("{lsn} {ranges}"));
        let (ops, copy_progress) = (vec![WriteOp::Clear], progress(0));
        index.write(Batch { ops, copy_progress, ..Batch::default() }).ok()?;
        *self.copied.lock() = Some(lsn);
        for range in 0..RANGES {
            let rows = table.iter().filter(|(id, _)| range_of(id) == range);
            let ops = rows.map(|(id, (row, _))| WriteOp::Upsert {
                id: id.clone(),
                source: Bytes::from(row.to_string()),
                condition: Condition::None,
            });
            let batch = Batch {
                ops: ops.collect(),
                row_lsn: Some(Lsn(lsn)),
                copy_progress: progress(range + 1),
                checkpoint: (range + 1 == RANGES).then(|| checkpoint(lsn)),
                ..Batch::default()
            };
            index.write(batch).ok()?;
        }
        Some(())
    }

    /// Hands over what the index does not hold yet, then what is committed meanwhile.
    fn follow(&self, index: &Index, random: &mut StdRng, transactions: usize) -> Option<()> {
        let reached = index.positions().borrow().applied.map_or(0, |at| at.lsn.0);
        let missing: Vec<Transaction> = {
            let source = self.source.lock();
            source.log.iter().filter(|it| it.end > reached).cloned().collect()
        };
        let mut receipts = Vec::new();
        for next in missing.into_iter().map(Some).chain((0..transactions).map(|_| None)) {
            let transaction = next.unwrap_or_else(|| self.source.lock().commit(random));
            let at = Some(checkpoint(transaction.end));
            let batch = Batch { ops: transaction.ops, checkpoint: at, ..Batch::default() };
            receipts.push(index.submit(batch).ok()?);
            match random.random_range(0..12) {
                0 => index.advance(checkpoint(transaction.end + 3)).ok()?,
                1 | 2 => index.flush().ok()?,
                3 => index.refresh().ok()?,
                _ => {}
            }
            let settled = if receipts.len() > 4 { receipts.len() } else { 0 };
            receipts.drain(..settled).try_for_each(|it| it.blocking_recv().ok()?.ok().map(drop))?;
        }
        Some(())
    }

    /// Looks at what is published, and at what is called durable, until told to stop.
    fn watch(&self, index: &Index, stop: &AtomicBool, context: &str) {
        let positions = index.positions();
        while !stop.load(Ordering::Relaxed) {
            self.check_snapshot(&index.snapshot(), context);
            let durable = positions.borrow().durable.map_or(0, |at| at.lsn.0);
            self.durable.fetch_max(durable, Ordering::Relaxed);
            std::thread::yield_now();
        }
    }

    /// One life; `true` where the index was there to be checked.
    fn live(&self, disk: &SimDisk, random: &mut StdRng, context: &str) -> bool {
        let Ok(engine) = open(disk) else { return false };
        let damaged = engine.damaged();
        if !damaged.is_empty() {
            assert!(!is_powered(disk), "{context}: damaged: {damaged:?}");
            return false;
        }
        let Some(index) = engine.index("table").ok().or_else(|| {
            assert_eq!(self.durable.load(Ordering::Relaxed), 0, "{context}: it is gone");
            // As of a table's columns: what is no number is refused from the first row on.
            let mappings = json!({"properties": {"number": {"type": "long"}}});
            let pipeline = Some("main".to_owned());
            let definition = IndexDefinition { pipeline, mappings, ..IndexDefinition::default() };
            engine.create_index("table", definition).ok()
        }) else {
            return false;
        };
        self.check(&index, context);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| self.watch(&index, &stop, context));
            let copied = progress(&index).1 == RANGES || self.copy(&index).is_some();
            let transactions = random.random_range(0..40);
            if copied && self.follow(&index, random, transactions).is_none() {
                assert!(!is_powered(disk), "{context}: the index gave up");
            }
            stop.store(true, Ordering::Relaxed);
        });
        if random.random_ratio(1, 8) {
            drop(engine.close());
        }
        true
    }

    fn run(&self, random: &mut StdRng) -> u64 {
        let mut disk = SimDisk::new();
        let mut checked = 0;
        for life in 0..LIVES {
            let context = format!("seed {}, life {life}", self.seed);
            let range = if random.random_ratio(1, 4) { 40 } else { 1200 };
            disk.fail_at(disk.operations() + random.random_range(0..range), Fault::PowerCut);
            checked += u64::from(self.live(&disk, random, &context));
            let killed = random.random_ratio(1, 3);
            disk = if killed { disk.kill() } else { disk.power_cut(random.random()) };
        }
        let context = format!("seed {}, at the end", self.seed);
        assert!(self.live(&disk, random, &context), "{context}: it does not open");
        let engine = open(&disk.power_cut(random.random())).unwrap();
        self.check(&engine.index("table").unwrap(), &context);
        checked
    }
}

/// The position of the copy, and how many of its ranges are done.
fn progress(index: &Index) -> (u64, u64) {
    let text = index.copy_progress().unwrap_or("100 0".to_owned());
    let (lsn, ranges) = text.split_once(' ').unwrap();
    (lsn.parse().unwrap(), ranges.parse().unwrap())
}

#[test]
fn a_followed_index_is_the_table_at_its_checkpoint() {
    let seeds = seeds(100);
    let checked = campaign(seeds.clone(), THREADS, |seed| {
        let mut random = StdRng::seed_from_u64(seed);
        Run::new(seed, &mut random).run(&mut random)
    });
    assert!(checked >= seeds.end - seeds.start, "hardly a life was long enough to check anything");
}
