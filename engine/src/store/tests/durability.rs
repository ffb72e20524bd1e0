//! When a write survives a power cut: with its answer, at the cost of one sync for all that wait; or
//! a little later, where that is asked for.

use tokio::sync::oneshot;

use super::*;
use crate::batch::BatchOutcome;
use crate::store::plan::ReadBefore;
use crate::store::shared::{Message, Write};

fn put(id: u32) -> Batch {
    batch(vec![upsert(&id.to_string(), &json!({"n": id}))])
}

/// Has batches wait for their writer before it begins; how many operations of the disk they take, and
/// the answers.
fn at_once(disk: &SimDisk, index: &Index, ids: std::ops::Range<u32>) -> (u64, Vec<BatchOutcome>) {
    index.flush().unwrap();
    let shared = index.shared();
    eventually("the writer rests", || shared.is_parked());
    let before = disk.operations();
    let send = |id| {
        let batch = put(id);
        let mapping = Arc::clone(&shared.view.lock().mapping);
        let read = ReadBefore::new(&batch.ops, &mapping);
        let (reply, receipt) = oneshot::channel();
        assert!(shared.queue.reserve(1).unwrap().is_none());
        let write = Write { batch, read, bytes: 1, reply };
        shared.queue.send(Message::Write(Box::new(write))).unwrap();
        shared.queue.passed();
        receipt
    };
    let receipts: Vec<_> = ids.map(send).collect();
    shared.wake().unwrap();
    let answers = receipts.into_iter().map(|receipt| receipt.blocking_recv().unwrap().unwrap());
    let answers = answers.collect();
    (disk.operations() - before, answers)
}

#[test]
fn writes_that_wait_share_one_sync() {
    let disk = SimDisk::new();
    let engine = open(&disk);
    let index = create(&engine, "i");
    write_one(&index, upsert("0", &json!({"n": 0}))).unwrap();
    let (alone, _) = at_once(&disk, &index, 1..2);
    let (together, answers) = at_once(&disk, &index, 2..32);
    assert!(alone >= 2, "a write and a sync, not {alone}");
    assert!(together <= 2 * alone, "{together} operations of 30 writes, {alone} of one");
    assert!(answers.iter().all(|answer| answer.ops[0].is_ok()));
    let disk = disk.power_cut(7);
    let engine = open(&disk);
    let index = engine.index("i").unwrap();
    assert_eq!(index.snapshot().doc_count(), 32);
}

/// What the disk holds of one write, in how many of twenty power cuts after a pause.
fn kept(pause: Duration) -> usize {
    let keeps = |seed: &u64| {
        let disk = SimDisk::new();
        let engine = open(&disk);
        let settings = json!({"translog.durability": "async"});
        let definition = IndexDefinition { settings, ..IndexDefinition::default() };
        let index = engine.create_index("i", definition).unwrap();
        index.write(put(1)).unwrap();
        std::thread::sleep(pause);
        let disk = disk.power_cut(*seed);
        drop((index, engine));
        let engine = open(&disk);
        assert_eq!(engine.damaged(), []);
        engine.index("i").unwrap().snapshot().doc_count() == 1
    };
    std::thread::scope(|scope| {
        let cuts: Vec<_> = (0..20).map(|seed| scope.spawn(move || keeps(&seed))).collect();
        cuts.into_iter().map(|cut| usize::from(cut.join().unwrap())).sum()
    })
}

#[test]
fn what_is_not_waited_for_is_synced_a_little_later() {
    assert!(kept(Duration::ZERO) < 20, "nobody waits for a sync");
    assert_eq!(kept(Duration::from_secs(4)), 20);
}
