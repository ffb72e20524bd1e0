//! When what was written is shown: at once by itself, or as often as the index is told.

use super::*;

/// An index with this `refresh_interval`, which has just shown its first document.
fn shows_one(settings: Value) -> (Engine, Arc<Index>, Instant) {
    let engine = open(&SimDisk::new());
    let definition = IndexDefinition { settings, ..IndexDefinition::default() };
    let index = engine.create_index("i", definition).unwrap();
    // The first one is shown at once, whatever the interval.
    let began = Instant::now();
    write_one(&index, upsert("0", &json!({"n": 0}))).unwrap();
    eventually("the first is shown", || published(&index, "0").is_some());
    (engine, index, began)
}

/// Until a further document is shown.
fn shown_after(index: &Index, id: u32) -> Duration {
    let began = Instant::now();
    write_one(index, upsert(&id.to_string(), &json!({"n": id}))).unwrap();
    eventually("it is shown", || published(index, &id.to_string()).is_some());
    began.elapsed()
}

#[test]
fn an_interval_is_kept() {
    const INTERVAL: Duration = Duration::from_millis(400);
    let (_engine, index, began) = shows_one(json!({"refresh_interval": "400ms"}));
    for id in 1..4 {
        shown_after(&index, id);
        // From one publication to the next, and the first came after the clock was begun.
        assert!(began.elapsed() >= INTERVAL * id, "{id} after {:?}", began.elapsed());
    }
}

#[test]
fn without_an_interval_it_is_at_once() {
    let (_engine, index, _) = shows_one(Value::Null);
    let quickest = (1..20).map(|id| shown_after(&index, id)).min().unwrap();
    // The interval that Elasticsearch has is a second.
    assert!(quickest < Duration::from_millis(500), "{quickest:?} at best");
}
