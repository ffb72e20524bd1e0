//! Random histories, cut at random operations: what was promised is there, and nothing else.
//!
//! Each history appends, commits, rolls, trims, rewrites and meets faults, loses its power or is
//! killed at any operation (also while it opens), and goes on with what is left. Opening is always
//! strict: whatever a crash leaves must never look like damage.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use egret_aof::disk::sim::{Fault, SimDisk};
use egret_aof::log::{FsyncPolicy, Increment, Log, LogOptions};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const FOLDER: &str = "/data/a log";
/// The record of a base: it sums up everything up to the number in its payload.
const KIND_SUM: u8 = 7;
const KIND_DATA: u8 = 1;

/// What the owner knows it appended and was promised.
#[derive(Default)]
struct Model {
    /// Every record appended and not known to be lost, by sequence number.
    appended: BTreeMap<u64, Vec<u8>>,
    /// Of these, the ones that must survive.
    promised: Vec<u64>,
    /// Records up to here may be gone, since they were trimmed.
    trimmed: u64,
    /// The first record of each increment.
    increments: Vec<(Increment, u64)>,
    /// Whether records may be missing in the middle, after a failed sync.
    gaps: bool,
}

/// What a recovery replayed.
#[derive(Default)]
struct Replayed {
    summed: u64,
    records: Vec<(u64, Vec<u8>)>,
}

impl Model {
    fn last(&self) -> u64 {
        self.appended.keys().next_back().copied().unwrap_or(0)
    }

    fn promise_all(&mut self) {
        self.promised = self.appended.keys().copied().collect();
    }

    /// Holds what was replayed against what was promised, and adopts it.
    fn check(&mut self, replayed: Replayed, next_sequence: u64, context: &str) {
        let mut previous = 0;
        for (sequence, payload) in &replayed.records {
            assert!(*sequence > previous, "{context}: {sequence} after {previous}");
            let whole = previous == 0 || self.gaps || *sequence == previous + 1;
            assert!(whole, "{context}: hole between {previous} and {sequence}");
            assert_eq!(self.appended.get(sequence), Some(payload), "{context}: record {sequence}");
            previous = *sequence;
        }
        assert!(replayed.summed <= self.last(), "{context}: a sum of what never was");
        assert!(next_sequence > previous, "{context}");
        let found: BTreeMap<u64, Vec<u8>> = replayed.records.into_iter().collect();
        let covered = replayed.summed.max(self.trimmed);
        for sequence in &self.promised {
            let there = *sequence <= covered || found.contains_key(sequence);
            assert!(there, "{context}: record {sequence} of {} is lost", self.last());
        }
        self.appended.retain(|sequence, _| *sequence <= covered || found.contains_key(sequence));
        self.promise_all();
        self.increments.clear();
    }
}

fn options(policy: FsyncPolicy) -> LogOptions {
    LogOptions {
        fsync: policy,
        max_buffer_bytes: 2000,
        rewrite_backoff: Duration::ZERO,
        ..LogOptions::default()
    }
}

fn open(disk: &SimDisk, policy: FsyncPolicy) -> egret_aof::Result<(Log, Replayed, u64)> {
    let mut replayed = Replayed::default();
    let (log, report) =
        Log::open(Arc::new(disk.clone()), Path::new(FOLDER), options(policy), |r| {
            if r.kind == KIND_SUM {
                replayed.summed = u64::from_le_bytes(r.payload.try_into()?);
            } else {
                replayed.records.push((r.sequence, r.payload.to_vec()));
            }
            Ok(())
        })?;
    assert!(!report.manifest_rebuilt);
    Ok((log, replayed, report.next_sequence))
}

fn append(log: &Log, model: &mut Model, random: &mut StdRng) {
    let len = if random.random_ratio(1, 10) { 3000 } else { random.random_range(0..60) };
    let payload: Vec<u8> = (0..len).map(|_| random.random_range(0..3)).collect();
    if let Ok(sequence) = log.append(KIND_DATA, &payload) {
        assert!(sequence > model.last());
        model.appended.insert(sequence, payload);
    }
}

fn rewrite(log: &Log, model: &mut Model, random: &mut StdRng) {
    let rewritten = log.rewrite(|base| {
        // Appends go on between the beginning of a rewrite and the owner's look at its state.
        append(log, model, random);
        base.append(KIND_SUM, &model.last().to_le_bytes())?;
        Ok(())
    });
    if rewritten.is_ok() {
        model.promise_all();
    }
}

fn step(log: &Log, model: &mut Model, policy: FsyncPolicy, random: &mut StdRng) {
    match random.random_range(0..24) {
        0..12 => append(log, model, random),
        12..18 if log.commit().is_ok() && policy == FsyncPolicy::Always => model.promise_all(),
        18 if log.sync().is_ok() => model.promise_all(),
        19 | 20 => {
            let next = model.last() + 1;
            if let Ok(increment) = log.roll() {
                model.increments.push((increment, next));
                model.promise_all();
            }
        }
        21 if !model.increments.is_empty() => {
            let chosen = random.random_range(0..model.increments.len());
            let (increment, first) = model.increments[chosen];
            // Also one that fails may have removed them.
            let known = log.remove_before(increment);
            let trims = !matches!(known, Err(egret_aof::Error::UnknownIncrement { .. }));
            model.trimmed = if trims { model.trimmed.max(first - 1) } else { model.trimmed };
        }
        22 => rewrite(log, model, random),
        _ if log.is_poisoned() && log.reopen_after_failure().is_ok() => {
            assert!(!log.is_poisoned());
            model.gaps = true;
            rewrite(log, model, random);
        }
        _ => {}
    }
}

fn plan_fault(disk: &SimDisk, random: &mut StdRng) {
    let at = disk.operations() + random.random_range(0..60);
    match random.random_range(0..8) {
        0 => disk.fail_at(at, Fault::Io),
        1 => disk.fail_at(at, Fault::TornWrite),
        2 => disk.fail_at(at, Fault::ShortWrite),
        3 => disk.fail_at(at, Fault::NoSpace),
        4 => disk.fail_at(at, Fault::SyncFailure),
        5 => disk.set_capacity(Some(random.random_range(200..20_000))),
        _ => disk.fail_at(at, Fault::PowerCut),
    }
}

fn run(seed: u64, policy: FsyncPolicy) -> u64 {
    let mut random = StdRng::seed_from_u64(seed);
    let mut disk = SimDisk::new();
    let mut model = Model::default();
    let mut operations = 0;
    for life in 0..6 {
        let context = format!("seed {seed}, {policy:?}, life {life}");
        plan_fault(&disk, &mut random);
        if let Ok((log, replayed, next_sequence)) = open(&disk, policy) {
            model.check(replayed, next_sequence, &context);
            for _ in 0..random.random_range(0..80) {
                step(&log, &mut model, policy, &mut random);
            }
        }
        operations += disk.operations();
        disk.heal();
        disk.set_capacity(None);
        // A killed process leaves everything in the page cache: the same disk goes on.
        if disk.is_powered() && random.random_ratio(1, 4) {
            continue;
        }
        disk = disk.power_cut(random.random());
    }
    let disk = disk.power_cut(random.random());
    let opened = open(&disk, policy).map_err(|error| format!("seed {seed}: {error}"));
    let (_, replayed, next_sequence) = opened.unwrap();
    model.check(replayed, next_sequence, &format!("seed {seed}, {policy:?}, at the end"));
    operations
}

/// Whether the power is still on.
trait Alive {
    fn is_powered(&self) -> bool;
}

impl Alive for SimDisk {
    fn is_powered(&self) -> bool {
        use egret_aof::disk::Disk;
        self.exists(Path::new("/")).is_ok()
    }
}

#[test]
fn what_was_promised_survives_and_nothing_else() {
    for seed in 0..600 {
        for policy in [FsyncPolicy::Always, FsyncPolicy::EverySecond, FsyncPolicy::No] {
            run(seed, policy);
        }
    }
}

/// The same small history, cut at every single operation and under several seeds each.
#[test]
fn a_cut_at_every_operation_keeps_the_promises() {
    let history = |disk: &SimDisk, model: &mut Model| {
        let Ok((log, ..)) = open(disk, FsyncPolicy::Always) else { return };
        let mut random = StdRng::seed_from_u64(1);
        for round in 0..6 {
            append(&log, model, &mut random);
            append(&log, model, &mut random);
            if log.commit().is_ok() {
                model.promise_all();
            }
            match round {
                1 | 3 => drop(log.roll()),
                4 => rewrite(&log, model, &mut random),
                _ => {}
            }
        }
    };
    let disk = SimDisk::new();
    history(&disk, &mut Model::default());
    for cut in 0..disk.operations() {
        for seed in 0..20 {
            let (disk, mut model) = (SimDisk::new(), Model::default());
            disk.fail_at(cut, Fault::PowerCut);
            history(&disk, &mut model);
            let context = format!("cut at {cut}, seed {seed}");
            let opened = open(&disk.power_cut(seed), FsyncPolicy::Always);
            let (_, replayed, next) = opened.map_err(|e| format!("{context}: {e}")).unwrap();
            model.check(replayed, next, &context);
        }
    }
}
