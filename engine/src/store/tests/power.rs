//! Power cuts at every kind of operation of the disk, also in the middle of commits.

use egret_aof::disk::sim::Fault;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::model::{Model, Op, check, create_mapped};
use super::*;

/// How many operations of the disk the writes below take, about.
const OPERATIONS: u64 = 300;

/// Writes until the power fails, then looks at what is left.
fn run(seed: u64, followed: bool) {
    let context = format!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let disk = SimDisk::new();
    let engine = open(&disk);
    let index = create_mapped(&engine, followed);
    disk.fail_at(disk.operations() + random.random_range(0..OPERATIONS), Fault::PowerCut);
    // The model after each transaction; the last may be one that was not acknowledged.
    let mut models = vec![Model::default()];
    let mut acknowledged = 0;
    let mut last = None;
    for _ in 0..60 {
        let ops: Vec<Op> =
            (0..random.random_range(1..8)).map(|_| Op::random(&mut random)).collect();
        let mut batch = batch(ops.iter().map(Op::to_write).collect());
        batch.checkpoint = followed.then(|| checkpoint(10 * models.len() as u64));
        let outcome = index.write(batch);
        let mut model = models.last().unwrap().clone();
        let results = outcome.as_ref().ok().map(|outcome| &outcome.ops);
        model.apply_all(&ops, results.map(Vec::as_slice), followed);
        models.push(model);
        let Ok(outcome) = outcome else { break };
        acknowledged = models.len() - 1;
        last = outcome.ops.iter().flatten().map(|it| (it.term, it.seq_no)).max().or(last);
        if random.random_range(0..5) == 0 && index.flush().is_err() {
            break;
        }
    }
    let durable = index.positions().borrow().durable;
    let after = disk.power_cut(seed);
    drop((index, engine));
    let engine = open(&after);
    assert_eq!(engine.damaged(), [], "{context}");
    let index = engine.index("i").unwrap();
    if followed {
        let recovered = index.positions().borrow().durable;
        let lsn = |position: Option<Checkpoint>| position.map(|it| it.lsn);
        let model = |position: Option<Checkpoint>| {
            &models[position.map_or(0, |it| usize::try_from(it.lsn.0 / 10).unwrap())]
        };
        // What was durable may lie further by transactions that changed nothing.
        assert!(lsn(recovered) >= lsn(durable) || model(recovered) == model(durable), "{context}");
        check(&index, model(recovered), &context);
    } else {
        let first = write_one(&index, upsert("0", &json!({"number": 1}))).unwrap();
        // A number may come again if it changed nothing, but never under the same term.
        assert!(last.is_none_or(|last| (first.term, first.seq_no) > last), "{context}");
        index.refresh().unwrap();
        let possible = models[acknowledged..].iter().cloned().map(|mut model| {
            model.apply(&Op::Put("0".to_owned(), json!({"number": 1})));
            model
        });
        let found = possible.into_iter().filter(|model| model.is(&index)).count();
        assert!(found > 0, "{context}: {acknowledged} of {} acknowledged", models.len() - 1);
    }
}

#[test]
fn acknowledged_writes_survive() {
    campaign(200, |seed| run(seed, false));
}

#[test]
fn a_followed_index_is_a_prefix_of_its_source() {
    campaign(200, |seed| run(seed, true));
}
