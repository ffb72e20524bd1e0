//! Lives of a followed index on a disk that fails in every way, between crashes: a pipeline sends its
//! transactions, and after each failure again those that the index has forgotten. The index always
//! shows the source as of the position that it names.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::model::{Model, Op, check, create_mapped};
use super::storm::{crash, fail_soon};
use super::*;

const STEPS: usize = 60;

struct Follower {
    random: StdRng,
    disk: SimDisk,
    engine: Option<Engine>,
    index: Arc<Index>,
    /// The source's transactions, each with the state after it; number n, from 1 on, has LSN 10 n.
    source: Vec<(Vec<Op>, Model)>,
    /// How many of them have been sent.
    sent: usize,
}

fn lsn(position: Option<Checkpoint>) -> u64 {
    position.map_or(0, |position| position.lsn.0)
}

impl Follower {
    fn new(seed: u64) -> Self {
        let disk = SimDisk::new();
        let engine = open(&disk);
        let index = create_mapped(&engine, true);
        Self {
            random: StdRng::seed_from_u64(seed),
            disk,
            engine: Some(engine),
            index,
            source: Vec::new(),
            sent: 0,
        }
    }

    /// The source as of a position.
    fn model(&self, lsn: u64) -> Model {
        let count = usize::try_from(lsn / 10).unwrap();
        let last = count.checked_sub(1).map(|last| self.source[last].1.clone());
        last.unwrap_or_default()
    }

    fn step(&mut self, context: &str) {
        match self.random.random_range(0..100) {
            0..60 => self.send(context),
            60..68 => {
                if self.index.refresh().is_ok() {
                    self.check(context);
                }
            }
            68..76 => {
                if self.index.flush().is_err() {
                    self.resume(context);
                }
            }
            76..80 => {
                let applied = checkpoint(10 * self.sent as u64 + self.random.random_range(1..10));
                self.index.advance(applied).unwrap();
            }
            80..90 => fail_soon(&self.disk, &mut self.random),
            90..94 => {
                self.disk.heal();
                self.disk.set_capacity(None);
            }
            _ => self.crash(context),
        }
    }

    fn send(&mut self, context: &str) {
        if self.sent == self.source.len() {
            let count = self.random.random_range(0..10);
            let ops: Vec<Op> = (0..count).map(|_| Op::random(&mut self.random)).collect();
            let mut model = self.model(10 * self.sent as u64);
            model.apply_all(&ops, None, true);
            self.source.push((ops, model));
        }
        let ops = self.source[self.sent].0.iter().map(Op::to_write).collect();
        let position = Some(checkpoint(10 * (self.sent as u64 + 1)));
        match self.index.write(Batch { checkpoint: position, ..batch(ops) }) {
            Ok(_) => self.sent += 1,
            Err(_) => self.resume(context),
        }
    }

    /// What is published is the source as of the position that it names.
    fn check(&self, context: &str) {
        let visible = self.index.snapshot().checkpoint();
        check(&self.index, &self.model(lsn(visible)), context);
        assert!(lsn(visible) < 10 * (self.sent as u64 + 1), "{context}");
    }

    /// After a failure: goes on from where the index stands.
    fn resume(&mut self, context: &str) {
        let durable = self.index.positions().borrow().durable;
        let failed = self.index.resume().is_err();
        if failed {
            self.disk.heal();
            self.disk.set_capacity(None);
            self.index.resume().unwrap();
        }
        self.go_on_after(durable, context);
    }

    /// The index may have forgotten what was not durable, and nothing else.
    fn go_on_after(&mut self, durable: Option<Checkpoint>, context: &str) {
        let positions = *self.index.positions().borrow();
        let now = lsn(positions.durable);
        let kept = now >= lsn(durable) || self.model(now) == self.model(lsn(durable));
        assert!(kept, "{context}: {durable:?} was durable, and now {now}");
        // Transactions that the index holds are not sent again.
        self.sent = usize::try_from(lsn(positions.applied) / 10).unwrap();
    }

    fn crash(&mut self, context: &str) {
        let durable = self.index.positions().borrow().durable;
        let after = crash(&self.disk, &mut self.random);
        drop(self.engine.take());
        self.disk = after;
        let engine = open(&self.disk);
        assert_eq!(engine.damaged(), []);
        self.index = engine.index("i").unwrap();
        self.engine = Some(engine);
        self.go_on_after(durable, context);
        let positions = *self.index.positions().borrow();
        assert_eq!(positions.visible, positions.durable, "{context}");
        self.check(context);
    }
}

fn run(seed: u64) {
    let mut follower = Follower::new(seed);
    (0..STEPS).for_each(|step| follower.step(&format!("seed {seed}, step {step}")));
    let context = format!("seed {seed}, at the end");
    follower.crash(&context);
    while follower.sent < follower.source.len() {
        follower.send(&context);
    }
    follower.index.refresh().unwrap();
    let last = follower.source.len() as u64;
    check(&follower.index, &follower.model(10 * last), &context);
}

#[test]
fn a_followed_index_outlives_every_fault() {
    campaign(25, run);
}
