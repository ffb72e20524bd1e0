//! When an index is flushed by itself: by age, by operations, by bytes of its translog and of memory.

use super::*;
use crate::store::settings::SettingsUpdate;

const NEVER: Duration = Duration::from_secs(3_600);
const SOON: Duration = Duration::from_millis(5);

/// Without any reason to flush.
fn limits() -> Limits {
    Limits { flush_age: NEVER, followed_flush_age: NEVER, ..Limits::default() }
}

fn is_flushed(index: &Index) -> bool {
    !index.positions().borrow().unflushed
}

fn put(index: &Index, id: u32, bytes: usize) {
    let source = json!({"text": "x".repeat(bytes)});
    let ops = vec![upsert(&id.to_string(), &source)];
    index.write(Batch { ops, refresh: Refresh::Now, ..Batch::default() }).unwrap();
}

/// So many documents of so many bytes are no reason, one more is.
fn check(limits: &Limits, settings: Value, documents: u32, bytes: usize) {
    let engine = open_with(&SimDisk::new(), limits.clone()).unwrap();
    let mappings = json!({"dynamic": false});
    let definition = IndexDefinition { mappings, settings, ..IndexDefinition::default() };
    let index = engine.create_index("i", definition).unwrap();
    for round in 0..3 {
        (0..documents).for_each(|id| put(&index, id, bytes));
        assert!(!is_flushed(&index), "{limits:?}: round {round}");
        put(&index, documents, bytes);
        eventually("a flush", || is_flushed(&index));
    }
}

#[test]
fn many_operations_are_flushed() {
    check(&Limits { flush_operations: 10, ..limits() }, Value::Null, 10, 1);
}

#[test]
fn a_large_translog_is_flushed() {
    check(&limits(), json!({"translog.flush_threshold_size": "105kb"}), 10, 10_000);
}

#[test]
fn much_in_memory_is_flushed() {
    let limits = Limits { flush_young_bytes: 1_060_000, ..limits() };
    let engine = open_with(&SimDisk::new(), limits).unwrap();
    let index = create(&engine, "i");
    index.put_mapping(&json!({"dynamic": false})).unwrap();
    (0..10).for_each(|id| put(&index, id, 100_000));
    assert!(!is_flushed(&index));
    put(&index, 10, 100_000);
    eventually("a flush", || is_flushed(&index));
}

#[test]
fn a_threshold_holds_at_once() {
    let engine = open_with(&SimDisk::new(), limits()).unwrap();
    let index = create(&engine, "i");
    (0..10).for_each(|id| put(&index, id, 10_000));
    assert!(!is_flushed(&index));
    let change = json!({"index": {"translog": {"flush_threshold_size": "50kb"}}});
    engine.update_settings(&["i".to_owned()], &change, SettingsUpdate::default()).unwrap();
    eventually("a flush", || is_flushed(&index));
}

#[test]
fn what_is_old_is_flushed() {
    for (is_followed, limits) in [
        (false, Limits { flush_age: SOON, ..limits() }),
        (true, Limits { followed_flush_age: SOON, ..limits() }),
    ] {
        let engine = open_with(&SimDisk::new(), limits).unwrap();
        let (index, other) = if is_followed {
            (follow(&engine, "i"), create(&engine, "j"))
        } else {
            (create(&engine, "i"), follow(&engine, "j"))
        };
        put(&index, 1, 1);
        put(&other, 1, 1);
        eventually("a flush", || is_flushed(&index));
        assert!(!is_flushed(&other));
    }
}
