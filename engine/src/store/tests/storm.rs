//! Lives of an index with a translog on a disk that fails in every way, between crashes: whatever was
//! acknowledged is there, whatever was refused is not, and once the disk is well the index takes
//! writes again.

use std::collections::BTreeSet;

use egret_aof::disk::sim::Fault;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::model::{Model, Op, create_mapped};
use super::*;
use crate::index::ForceMerge;
use crate::query::ast::Query;

const STEPS: usize = 50;
pub(super) const FAULTS: [Fault; 6] = [
    Fault::Io,
    Fault::ReadFailure,
    Fault::ShortWrite,
    Fault::TornWrite,
    Fault::NoSpace,
    Fault::SyncFailure,
];

/// Lets the disk fail soon: once, until it is healed, or for want of space.
pub(super) fn fail_soon(disk: &SimDisk, random: &mut StdRng) {
    let at = disk.operations() + random.random_range(0..40);
    let fault = FAULTS[random.random_range(0..FAULTS.len())];
    match random.random_range(0..8) {
        0..5 => disk.fail_at(at, fault),
        5..7 => disk.fail_from(at, fault),
        _ => disk.set_capacity(Some(random.random_range(1000..60_000))),
    }
}

/// Kills the process or cuts the power, and lets some of the next starts meet faults, too.
pub(super) fn crash(disk: &SimDisk, random: &mut StdRng) -> SimDisk {
    let next = |disk: &SimDisk, random: &mut StdRng| {
        if random.random_bool(0.3) { disk.kill() } else { disk.power_cut(random.random()) }
    };
    let mut disk = next(disk, random);
    disk.heal();
    disk.set_capacity(None);
    while random.random_bool(0.3) {
        let fault = if random.random_bool(0.5) {
            Fault::PowerCut
        } else {
            FAULTS[random.random_range(0..FAULTS.len())]
        };
        disk.fail_at(disk.operations() + random.random_range(0..40), fault);
        drop(try_open(&disk));
        disk = next(&disk, random);
    }
    disk
}

struct Storm {
    random: StdRng,
    disk: SimDisk,
    engine: Option<Engine>,
    index: Arc<Index>,
    /// What the index may hold: more than one after writes whose end is unknown.
    states: Vec<Model>,
    /// Fields whose addition was acknowledged.
    fields: BTreeSet<String>,
    /// Term and number of the last acknowledged operation.
    last: (u64, u64),
}

impl Storm {
    fn new(seed: u64) -> Self {
        let disk = SimDisk::new();
        let engine = open(&disk);
        let index = create_mapped(&engine, false);
        Self {
            random: StdRng::seed_from_u64(seed),
            disk,
            engine: Some(engine),
            index,
            states: vec![Model::default()],
            fields: BTreeSet::new(),
            last: (0, 0),
        }
    }

    fn step(&mut self) {
        match self.random.random_range(0..100) {
            0..55 => drop(self.write()),
            55..68 => {
                if self.index.refresh().is_ok() {
                    self.check();
                }
            }
            68..76 => {
                if self.index.flush().is_ok() {
                    self.settle();
                }
            }
            76..78 => self.put_mapping(),
            78..79 => {
                if self.index.force_merge(ForceMerge::Down(1)).is_ok() {
                    self.check();
                }
            }
            79..87 => fail_soon(&self.disk, &mut self.random),
            87..93 => self.heal(),
            93..95 => self.restart(),
            _ => self.crash(),
        }
    }

    fn write(&mut self) -> Result<()> {
        let count = self.random.random_range(1..12);
        let ops: Vec<Op> = (0..count).map(|_| Op::random(&mut self.random)).collect();
        let refresh = if self.random.random_bool(0.1) { Refresh::Now } else { Refresh::Scheduled };
        let ops_to_write = ops.iter().map(Op::to_write).collect();
        let result = self.index.write(Batch { refresh, ..batch(ops_to_write) });
        match &result {
            Ok(outcome) => {
                for state in &mut self.states {
                    state.apply_all(&ops, Some(&outcome.ops), false);
                }
                self.settle();
                for applied in outcome.ops.iter().flatten() {
                    let now = (applied.term, applied.seq_no.0 + 1);
                    assert!(applied.result == OpResult::Noop || now > self.last, "{applied:?}");
                    self.last = self.last.max(now);
                }
            }
            // Refused before anything was done.
            Err(error) if error.message().contains("takes no writes") => {}
            Err(error) if error.message().contains("is read-only until a flush") => {}
            Err(_) => self.leave_open(&ops),
        }
        result.map(drop)
    }

    /// Whether these were carried out is not known.
    fn leave_open(&mut self, ops: &[Op]) {
        for mut state in self.states.clone() {
            state.apply_all(ops, None, false);
            if !self.states.contains(&state) {
                self.states.push(state);
            }
        }
    }

    /// Something was acknowledged, so what was open before is decided.
    fn settle(&mut self) {
        let found = Model::read(&self.index);
        assert!(self.states.contains(&found), "{found:?} is none of {:?}", self.states);
        self.states = vec![found];
    }

    /// What is published is one of the possible states, and is found by its fields.
    fn check(&self) {
        let state = self.states.iter().find(|state| state.is(&self.index));
        let state = state.expect("what is published is none of the possible states");
        for field in ["text", "number", "text_1", "number_1", "merged"] {
            let query = Query::Exists { field: field.to_owned(), boost: 1.0 };
            let found = crate::search::count(&[self.index.snapshot()], &query).unwrap();
            assert_eq!(found, state.with_field(field), "{field}");
        }
    }

    fn put_mapping(&mut self) {
        let number = self.random.random_range(0..4);
        let (name, kind) = (format!("mapped_{number}"), ["text", "keyword"][number % 2]);
        let addition = json!({"properties": {name.clone(): {"type": kind}}});
        if self.index.put_mapping(&addition).is_ok() {
            self.fields.insert(name);
        }
    }

    /// The disk is well again, and so is the index.
    fn heal(&mut self) {
        self.disk.heal();
        self.disk.set_capacity(None);
        self.index.flush().unwrap();
        self.settle();
        self.write().unwrap();
    }

    fn restart(&mut self) {
        let closed = self.engine.take().unwrap().close();
        if closed.is_ok() {
            self.disk.heal();
            self.disk.set_capacity(None);
            self.reopen();
        } else {
            self.crash();
        }
    }

    fn crash(&mut self) {
        let after = crash(&self.disk, &mut self.random);
        self.disk = after;
        self.reopen();
    }

    fn reopen(&mut self) {
        drop(self.engine.take());
        let engine = open(&self.disk);
        assert_eq!(engine.damaged(), []);
        self.index = engine.index("i").unwrap();
        self.engine = Some(engine);
        self.check();
        self.settle();
        let mapping = self.index.mapping();
        for name in &self.fields {
            assert!(mapping.field(name).is_some(), "{name} was mapped");
        }
    }
}

fn run(seed: u64) {
    let mut storm = Storm::new(seed);
    (0..STEPS).for_each(|_| storm.step());
    storm.heal();
    storm.crash();
}

#[test]
fn acknowledged_writes_outlive_every_fault() {
    campaign(40, run);
}
