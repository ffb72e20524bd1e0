//! Fields that are added to a mapping after documents that have values for them: these are found under
//! them by and by, without anybody's doing, and it is seen what comes of it.

use std::time::{Duration, Instant};

use egret_server::config::Config;
use serde_json::{Value, json};

use super::support::{Answer, Server, check};

const PATIENCE: Duration = Duration::from_secs(300);
const DOCUMENTS: usize = 3_000;

/// Looks until it is there.
async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// An index that ignores what its mapping does not have, with so many documents that have a tag.
async fn tagged(server: &Server, name: &str, settings: Value, count: usize) {
    let mappings = json!({"dynamic": false, "properties": {"text": {"type": "text"}}});
    let definition = json!({"settings": settings, "mappings": mappings});
    let made = server.put(&format!("/{name}"), definition).await;
    check(&made, 200, &json!({"acknowledged": true}));
    let lines = (0..count).map(|n| {
        let document = json!({"text": "white heron", "tag": format!("t{}", n % 3)});
        format!("{{\"index\":{{\"_id\":\"{n}\"}}}}\n{document}\n")
    });
    let body: String = lines.collect();
    let answer = server.ask("POST", &format!("/{name}/_bulk?refresh=true"), body).await;
    check(&answer, 200, &json!({"errors": false}));
}

async fn add(server: &Server, name: &str, properties: Value) {
    let path = format!("/{name}/_mapping");
    let answer = server.put(&path, json!({"properties": properties})).await;
    check(&answer, 200, &json!({"acknowledged": true}));
}

fn tag() -> Value {
    json!({"tag": {"type": "keyword"}})
}

async fn count(server: &Server, name: &str, query: Value) -> u64 {
    let body = json!({ "query": query }).to_string();
    let answer = server.ask("POST", &format!("/{name}/_count"), body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json["count"].as_u64().unwrap()
}

async fn exist(server: &Server, name: &str, field: &str) -> u64 {
    count(server, name, json!({"exists": {"field": field}})).await
}

async fn status(server: &Server, name: &str) -> Value {
    let answer = server.get(&format!("/{name}/_rebuild")).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json[name].clone()
}

async fn ended(server: &Server, name: &str) -> Value {
    until("the rewrite ends", async || {
        let shown = status(server, name).await;
        (shown["outstanding"]["state"] == "ended").then_some(shown)
    })
    .await
}

/// Where looks would have begun something, had anything been due: another index is rewritten meanwhile.
async fn let_others_pass(server: &Server, name: &str) {
    tagged(server, name, json!({}), 10).await;
    add(server, name, tag()).await;
    until("another index is rewritten", async || {
        (exist(server, name, "tag").await == 10).then_some(())
    })
    .await;
}

fn rewrites(tasks: &Answer) -> usize {
    tasks.json["tasks"].as_array().unwrap().len()
}

#[tokio::test]
async fn older_documents_are_found_under_an_added_field() {
    let server = Server::start().await;
    tagged(&server, "birds", json!({}), DOCUMENTS).await;
    check(&server.get("/birds/_rebuild").await, 200, &json!({"birds": {"outstanding": null}}));
    let uuid = || async {
        let settings = server.get("/birds/_settings").await.json;
        settings["birds"]["settings"]["index"]["uuid"].as_str().unwrap().to_owned()
    };
    let before = uuid().await;
    add(&server, "birds", tag()).await;
    let (mut written, mut was_seen) = (0, false);
    until("every document has its tag", async || {
        // Nothing that is written or read meanwhile is lost or refused.
        let path = format!("/birds/_doc/new-{written}?refresh=true");
        let put = server.put(&path, json!({"text": "egret", "tag": "new"})).await;
        check(&put, 201, &json!({"result": "created", "_version": 1}));
        written += 1;
        let read = server.get(path.split_once('?').unwrap().0).await;
        check(&read, 200, &json!({"_source": {"tag": "new"}}));
        let all = count(&server, "birds", json!({"match": {"text": "heron egret"}})).await;
        assert_eq!(all, DOCUMENTS as u64 + written);
        assert_eq!(count(&server, "birds", json!({"term": {"tag": "new"}})).await, written);
        let tasks = "/_tasks?actions=indices:admin/rebuild&detailed&group_by=none";
        let tasks = server.get(tasks).await;
        if rewrites(&tasks) > 0 {
            was_seen = true;
            let description = "rewrite [birds] for [tag]";
            let task = json!({"action": "indices:admin/rebuild", "description": description,
                "cancellable": true});
            check(&tasks, 200, &json!({ "tasks": [task] }));
        }
        (exist(&server, "birds", "tag").await == DOCUMENTS as u64 + written).then_some(())
    })
    .await;
    assert!(was_seen, "the task has not been seen");
    let shown = until("nothing is outstanding", async || {
        let shown = status(&server, "birds").await;
        shown["outstanding"].is_null().then_some(shown)
    })
    .await;
    assert_eq!(shown, json!({"rebuilding": false, "kept": null, "outstanding": null}));
    let after = uuid().await;
    assert_ne!(before, after);
    let folders = server.folder.path().join("indexes");
    until("the older folder is gone", async || {
        let names = std::fs::read_dir(&folders).unwrap().map(|it| it.unwrap().file_name());
        (names.collect::<Vec<_>>() == [after.as_str()]).then_some(())
    })
    .await;
    // Multi-fields come as well, and what can be nowhere asks for nothing.
    let raw = json!({"text": {"type": "text", "fields": {"raw": {"type": "keyword"}}}});
    add(&server, "birds", raw).await;
    let all = DOCUMENTS as u64 + written;
    until("the multi-field", async || {
        (exist(&server, "birds", "text.raw").await == all).then_some(())
    })
    .await;
}

#[tokio::test]
async fn it_is_left_to_who_wants_it_so() {
    let server = Server::start().await;
    tagged(&server, "manual", json!({"index.mapping.rewrite": "manual"}), 10).await;
    tagged(&server, "large", json!({"index": {"mapping": {"rewrite_up_to": "1b"}}}), 10).await;
    tagged(&server, "kept", json!({}), 10).await;
    check(&server.ask("POST", "/kept/_rebuild?keep=1h", "").await, 200, &json!({}));
    for name in ["manual", "large", "kept"] {
        add(&server, name, tag()).await;
    }
    let_others_pass(&server, "z").await;
    for (name, state, reason) in [
        ("manual", "by_hand", "[index.mapping.rewrite] is [manual]"),
        ("large", "by_hand", "more than [index.mapping.rewrite_up_to] of [1]"),
        ("kept", "waiting", "is still kept"),
    ] {
        let shown = status(&server, name).await;
        let outstanding = &shown["outstanding"];
        assert_eq!(outstanding["state"], state, "{name}: {shown}");
        assert_eq!(outstanding["fields"], json!(["tag"]), "{name}: {shown}");
        assert!(outstanding["reason"].as_str().unwrap().contains(reason), "{name}: {shown}");
        assert_eq!(exist(&server, name, "tag").await, 0, "{name}");
    }
    let settings = server.get("/manual/_settings").await;
    let expected = json!({"manual": {"settings": {"index": {"mapping": {"rewrite": "manual"}}}}});
    check(&settings, 200, &expected);
    let settings = server.get("/manual/_settings?include_defaults&flat_settings").await;
    let expected = json!({"manual": {"defaults": {"index.mapping.rewrite_up_to": "1gb"}}});
    check(&settings, 200, &expected);
    let refused = server.put("/manual/_settings", json!({"index.mapping.rewrite": "often"})).await;
    check(&refused, 400, &json!({"error": {"type": "illegal_argument_exception"}}));
    assert!(refused.text.contains("[auto] or [manual] is expected"), "{}", refused.text);
    // It may be wanted otherwise at any time, and a rebuild by hand does it as well.
    let auto = server.put("/manual/_settings", json!({"index.mapping.rewrite": null})).await;
    check(&auto, 200, &json!({"acknowledged": true}));
    check(&server.ask("POST", "/large/_rebuild?keep=0s", "").await, 200, &json!({}));
    assert_eq!(status(&server, "large").await["outstanding"], Value::Null);
    assert_eq!(exist(&server, "large", "tag").await, 10);
    until("it is rewritten", async || (exist(&server, "manual", "tag").await == 10).then_some(()))
        .await;
}

#[tokio::test]
async fn a_document_that_does_not_fit_leaves_the_index_as_it_is() {
    let server = Server::start().await;
    tagged(&server, "birds", json!({}), 10).await;
    let odd = json!({"text": "grey heron", "size": "unknown"});
    check(&server.put("/birds/_doc/odd-one?refresh=true", odd).await, 201, &json!({}));
    add(&server, "birds", json!({"size": {"type": "long"}})).await;
    let shown = ended(&server, "birds").await;
    let reason = shown["outstanding"]["reason"].as_str().unwrap();
    assert!(reason.contains("document [odd-one] does not fit"), "{shown}");
    assert!(reason.contains("[size] of type [long]"), "{shown}");
    assert_eq!(shown["rebuilding"], false, "{shown}");
    let task = shown["outstanding"]["task"].as_str().unwrap().to_owned();
    let task = server.get(&format!("/_tasks/{task}")).await;
    check(&task, 200, &json!({"completed": true}));
    assert!(task.json["error"].to_string().contains("odd-one"), "{}", task.text);
    // It serves as before, and nothing is tried again, also not once it would fit,
    assert_eq!(count(&server, "birds", json!({"match": {"text": "heron"}})).await, 11);
    let fits = json!({"text": "grey heron", "size": 5, "tag": "t1"});
    check(&server.put("/birds/_doc/odd-one?refresh=true", fits).await, 200, &json!({}));
    let_others_pass(&server, "other").await;
    assert_eq!(status(&server, "birds").await, shown);
    // before something else is added.
    add(&server, "birds", tag()).await;
    until("both are there", async || (exist(&server, "birds", "tag").await == 11).then_some(()))
        .await;
    assert_eq!(exist(&server, "birds", "size").await, 1);
    assert_eq!(status(&server, "birds").await["outstanding"], Value::Null);
}

#[tokio::test]
async fn a_rewrite_is_cancelled_and_not_begun_again_before_the_next_start() {
    let server = Server::start().await;
    tagged(&server, "birds", json!({}), 30_000).await;
    add(&server, "birds", tag()).await;
    let task = until("it runs", async || {
        let shown = status(&server, "birds").await["outstanding"].clone();
        assert_ne!(shown["state"], Value::Null, "it was too fast to be cancelled");
        (shown["state"] == "running").then(|| shown["task"].as_str().unwrap().to_owned())
    })
    .await;
    let slowed = format!("/_tasks/{task}/_rethrottle?requests_per_second=1");
    drop(server.ask("POST", &slowed, "").await);
    let cancel = format!("/_tasks/{task}/_cancel?wait_for_completion=true");
    check(&server.ask("POST", &cancel, "").await, 200, &json!({}));
    let shown = ended(&server, "birds").await;
    assert_eq!(shown["outstanding"]["reason"], "cancelled: by user request", "{shown}");
    let_others_pass(&server, "other").await;
    assert_eq!(status(&server, "birds").await, shown);
    assert_eq!(exist(&server, "birds", "tag").await, 0);
    let folder = server.stop().await;
    let server = Server::start_in(folder, Config::default()).await;
    until("it begins again", async || {
        (exist(&server, "birds", "tag").await == 30_000).then_some(())
    })
    .await;
}

#[tokio::test]
async fn one_index_at_a_time_is_rewritten() {
    let server = Server::start().await;
    let names = ["a", "b", "c", "d"];
    for name in names {
        tagged(&server, name, json!({}), DOCUMENTS).await;
    }
    for name in names {
        add(&server, name, tag()).await;
    }
    let (mut waited, mut most) = (false, 0);
    until("all are rewritten", async || {
        let tasks = "/_tasks?actions=indices:admin/rebuild&detailed&group_by=none";
        most = most.max(rewrites(&server.get(tasks).await));
        let mut left = 0;
        for name in names {
            let outstanding = status(&server, name).await["outstanding"].clone();
            waited |= outstanding["reason"] == "another index is being rewritten";
            left += usize::from(!outstanding.is_null());
        }
        (left == 0).then_some(())
    })
    .await;
    assert!(waited && most == 1, "most of [{most}] at once");
    for name in names {
        assert_eq!(exist(&server, name, "tag").await, DOCUMENTS as u64, "{name}");
    }
}

#[tokio::test]
async fn a_rewrite_gives_way_to_who_closes_or_rebuilds_the_index() {
    let server = Server::start().await;
    tagged(&server, "birds", json!({}), 30_000).await;
    add(&server, "birds", tag()).await;
    until("it runs", async || {
        let shown = status(&server, "birds").await["outstanding"].clone();
        assert_ne!(shown["state"], Value::Null, "it was too fast to be closed");
        (shown["state"] == "running").then_some(())
    })
    .await;
    let before = status(&server, "birds").await;
    check(&server.ask("POST", "/birds/_close", "").await, 200, &json!({"acknowledged": true}));
    let_others_pass(&server, "other").await;
    assert_eq!(status(&server, "birds").await["rebuilding"], false);
    check(&server.ask("POST", "/birds/_open", "").await, 200, &json!({"acknowledged": true}));
    until("it is rewritten", async || {
        (exist(&server, "birds", "tag").await == 30_000).then_some(())
    })
    .await;
    let task = before["outstanding"]["task"].as_str().unwrap().to_owned();
    let task = server.get(&format!("/_tasks/{task}")).await;
    check(&task, 200, &json!({"completed": true, "response": {"acknowledged": false}}));
    // A rebuild by hand is not refused either, and leaves nothing to do.
    add(
        &server,
        "birds",
        json!({"text": {"type": "text", "fields": {"raw": {"type": "keyword"}}}}),
    )
    .await;
    until("it runs again", async || {
        let shown = status(&server, "birds").await["outstanding"].clone();
        assert_ne!(shown["state"], Value::Null, "it was too fast for a rebuild");
        (shown["state"] == "running").then_some(())
    })
    .await;
    let rebuilt = server.ask("POST", "/birds/_rebuild?keep=0s", "").await;
    check(&rebuilt, 200, &json!({"acknowledged": true}));
    assert_eq!(exist(&server, "birds", "text.raw").await, 30_000);
    assert_eq!(status(&server, "birds").await["outstanding"], Value::Null);
}
