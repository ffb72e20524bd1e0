//! A translog that is replayed at the start, and what is told of it.

use parking_lot::Mutex;

use super::*;

/// Written in large batches and one by one, with updates and deletes among them.
#[test]
fn a_replay_brings_everything_back_and_tells_how_far_it_is() {
    let disk = SimDisk::new();
    let engine = open(&disk);
    let index = create(&engine, "a");
    let document = |number: usize, round: u64| {
        upsert(&number.to_string(), &json!({"title": format!("egret {number}"), "n": round}))
    };
    for round in 0..3 {
        let mut ops: Vec<WriteOp> = (0..200).map(|number| document(number, round)).collect();
        ops.push(delete("7"));
        ops.push(document(8, 100 + round));
        assert!(write(&index, ops).iter().all(Result::is_ok));
    }
    for number in 190..210 {
        write_one(&index, document(number, 9)).unwrap();
    }
    let expected: Vec<_> = (0..210).map(|number| index.document(&number.to_string())).collect();
    // Operations of one batch on the same document are one in the log.
    let operations = index.stats().translog_ops;
    assert_eq!(operations, 3 * 200 + 20);
    let disk = disk.kill();
    drop((index, engine));

    let told = Mutex::new(Vec::new());
    let options = EngineOptions {
        disk: Arc::new(disk),
        folder: PathBuf::from("/data"),
        indexing_budget_bytes: 64 << 20,
        limits: Limits::default(),
    };
    let engine = Engine::open_watched(options, &|progress| {
        assert_eq!(progress.index, "a");
        let state = (progress.operations, progress.bytes, progress.total_bytes, progress.is_done);
        told.lock().push(state);
    });
    let engine = engine.unwrap();
    let index = engine.index("a").unwrap();
    for (number, before) in expected.into_iter().enumerate() {
        let after = index.document(&number.to_string()).unwrap();
        assert_eq!(after, before.unwrap(), "{number}");
    }
    assert_eq!(index.snapshot().doc_count(), 209);

    let told = told.into_inner();
    assert!(told.is_sorted_by_key(|(operations, bytes, _, _)| (*operations, *bytes)), "{told:?}");
    let &(last, bytes, total_bytes, is_done) = told.last().unwrap();
    assert_eq!((last, is_done), (operations, true));
    assert!(bytes > total_bytes / 2 && bytes <= total_bytes, "{bytes} of {total_bytes}");
    assert_eq!(told.iter().filter(|(_, _, _, is_done)| *is_done).count(), 1);
    engine.close().unwrap();
}
