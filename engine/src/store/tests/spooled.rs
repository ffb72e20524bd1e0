//! Batches whose operations come from a file: the same as those in memory, at once or not at all.

use std::path::Path;

use egret_aof::disk::sim::Fault;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::model::{Model, Op, check, create_mapped};
use super::*;
use crate::batch::{BatchOutcome, OpSpool, Spooled};

fn spooled(disk: &SimDisk, ops: &[WriteOp], max_rejected: usize) -> Spooled {
    let mut spool = OpSpool::create(disk, Path::new("/"), u64::MAX).unwrap();
    for op in ops {
        spool.push(op).unwrap();
    }
    Spooled { ops: spool.finish().unwrap(), max_rejected }
}

/// A patch that moves a document, keeping a field of it.
fn moved(random: &mut StdRng) -> WriteOp {
    let [from, to] = [0, 0].map(|_: i32| random.random_range(0..40).to_string());
    let source = Bytes::from(json!({"number": random.random_range(0..9)}).to_string());
    let keep = vec!["text".to_owned(), "merged".to_owned()];
    let patch = Patch::Keep { source, keep };
    WriteOp::Patch { id: to, previous_id: Some(from), patch, condition: Condition::None }
}

/// The places of operations that were rejected, with the reasons.
fn rejected(outcome: &BatchOutcome) -> Vec<(u64, String)> {
    let spooled = outcome.spooled.iter().flat_map(|spooled| &spooled.rejected);
    let mut all: Vec<_> = spooled.map(|it| (it.place, it.error.to_string())).collect();
    let before = outcome.spooled.as_ref().map_or(0, |spooled| spooled.ops.count());
    for (place, result) in (before..).zip(&outcome.ops) {
        all.extend(result.as_ref().err().map(|error| (place, error.to_string())));
    }
    all
}

fn contents(index: &Index) -> Vec<(Option<Value>, Option<u64>)> {
    index.refresh().unwrap();
    let snapshot = index.snapshot();
    let one = |id: u32| {
        let document = snapshot.document(&id.to_string()).unwrap();
        (published(index, &id.to_string()), document.map(|document| document.seq_no.0))
    };
    (0..40).map(one).collect()
}

/// Several transactions, each with any part of its operations in a file, give what they give in
/// memory: the same documents under the same numbers, and the same rejections.
fn check_same(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let disks = [SimDisk::new(), SimDisk::new()];
    let engines = disks.each_ref().map(open);
    let indexes = engines.each_ref().map(|engine| create_mapped(engine, true));
    for transaction in 1..6 {
        let count = random.random_range(1..60);
        let ops: Vec<WriteOp> = (0..count)
            .map(|_| match random.random_range(0..6) {
                0 => moved(&mut random),
                _ => Op::random(&mut random).to_write(),
            })
            .collect();
        let cut = random.random_range(0..=ops.len());
        let at = Some(checkpoint(transaction * 10));
        let memory = Batch { ops: ops.clone(), checkpoint: at, ..Batch::default() };
        let spooled = Some(spooled(&disks[1], &ops[..cut], usize::MAX));
        let file = Batch { ops: ops[cut..].to_vec(), spooled, checkpoint: at, ..Batch::default() };
        let outcomes = [memory, file].map(Some);
        let mut outcomes = outcomes.into_iter().zip(&indexes);
        let [memory, file] =
            [(); 2].map(|()| outcomes.next().map(|(it, index)| index.write(it.unwrap()).unwrap()));
        let context = format!("seed {seed}, transaction {transaction}, {cut} of {count} in a file");
        assert_eq!(rejected(&memory.unwrap()), rejected(&file.unwrap()), "{context}");
        if random.random() {
            let [memory, file] = indexes.each_ref().map(|index| contents(index));
            assert_eq!(memory, file, "{context}");
        }
        if random.random_range(0..3) == 0 {
            indexes[1].flush().unwrap();
        }
    }
    let [memory, file] = indexes.each_ref().map(|index| contents(index));
    assert_eq!(memory, file, "seed {seed}");
    let mappings = indexes.each_ref().map(|index| index.mapping().to_json());
    assert_eq!(mappings[0], mappings[1], "seed {seed}");
}

#[test]
fn spooled_operations_are_like_those_in_memory() {
    (0..20).for_each(check_same);
}

/// A failure at any operation of the disk leaves nothing of the batch, and the index can go on; so
/// does a power cut.
fn check_failure(seed: u64, fault: Fault) {
    let mut random = StdRng::seed_from_u64(seed);
    let disk = SimDisk::new();
    let engine = open(&disk);
    let index = create_mapped(&engine, true);
    let mut model = Model::default();
    let mut write = |lsn: u64, count: usize, model: &mut Model| {
        let ops: Vec<Op> = (0..count).map(|_| Op::random(&mut random)).collect();
        let writes: Vec<WriteOp> = ops.iter().map(Op::to_write).collect();
        let spooled = Some(spooled(&disk, &writes, usize::MAX));
        let batch = Batch { spooled, checkpoint: Some(checkpoint(lsn)), ..Batch::default() };
        model.apply_all(&ops, None, true);
        batch
    };
    let first = write(10, 50, &mut model);
    index.write(first).unwrap();
    index.flush().unwrap();
    let mut after = model.clone();
    let second = write(20, 100, &mut after);
    disk.fail_at(disk.operations() + seed, fault);
    let result = index.write(second);
    let context = format!("seed {seed}, {fault:?}: {:?}", result.as_ref().err());
    if fault == Fault::PowerCut {
        drop((index, engine));
        let engine = open(&disk.power_cut(seed));
        check(&engine.index("i").unwrap(), &model, &context);
        return;
    }
    disk.heal();
    index.resume().unwrap();
    index.refresh().unwrap();
    let failed = result.is_err();
    let expected = if failed { 10 } else { 20 };
    assert_eq!(index.positions().borrow().applied, Some(checkpoint(expected)), "{context}");
    check(&index, if failed { &model } else { &after }, &context);
    if failed {
        let again = write(20, 30, &mut model);
        index.write(again).unwrap();
        index.refresh().unwrap();
        check(&index, &model, &context);
    }
}

#[test]
fn failures_leave_nothing_of_a_batch() {
    for seed in 0..30 {
        check_failure(seed, if seed % 2 == 0 { Fault::Io } else { Fault::PowerCut });
    }
}

#[test]
fn a_reader_sees_all_of_it_or_nothing() {
    let disk = SimDisk::new();
    let engine = open(&disk);
    let index = create_mapped(&engine, true);
    let ops: Vec<WriteOp> =
        (0..2000).map(|id| upsert(&id.to_string(), &json!({"number": id}))).collect();
    let spooled = Some(spooled(&disk, &ops, 0));
    let at = Some(checkpoint(10));
    let mut receipt = index.submit(Batch { spooled, checkpoint: at, ..Batch::default() }).unwrap();
    eventually("an answer", || {
        let count = index.snapshot().doc_count();
        assert!(count == 0 || count == 2000, "{count} documents are seen");
        count == 2000
    });
    assert_eq!(receipt.try_recv().unwrap().unwrap().spooled.unwrap().rejected.len(), 0);
    // Positions are shown once the snapshot is there.
    eventually("its position", || index.positions().borrow().visible == at);
}

#[test]
fn what_is_refused() {
    let disk = SimDisk::new();
    let engine = open(&disk);
    let plain = create(&engine, "plain");
    let batch = |ops: &[WriteOp], max_rejected| Batch {
        spooled: Some(spooled(&disk, ops, max_rejected)),
        ..Batch::default()
    };
    let error = plain.write(batch(&[], 0)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);

    let followed = create_mapped(&engine, true);
    let bad = |id| upsert(id, &json!({"number": "none"}));
    let ops = [upsert("a", &json!({"number": 1})), bad("b"), bad("c")];
    let error = followed.write(batch(&ops, 1)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full, "{error}");
    followed.resume().unwrap();
    assert_eq!(followed.snapshot().doc_count(), 0);
    let outcome = followed.write(batch(&ops, 2)).unwrap();
    let places: Vec<u64> = rejected(&outcome).iter().map(|(place, _)| *place).collect();
    assert_eq!(places, [1, 2]);
    let mut again = outcome.spooled.unwrap().ops;
    let first = again.next_op().unwrap().unwrap();
    assert_eq!(format!("{first:?}"), format!("{:?}", ops[0]));
}
