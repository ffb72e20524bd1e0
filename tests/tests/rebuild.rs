//! `_rebuild` over HTTP: a changed mapping under constant writes and reads, and the way back.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use egret_tests::egret::{Egret, EgretOptions};
use serde_json::{Value, json};

const DOCUMENTS: usize = 4_000;

async fn codes() -> Egret {
    let egret = Egret::start(EgretOptions::default());
    let mut lines = Vec::new();
    for n in 0..DOCUMENTS {
        lines.push(json!({"index": {"_id": n.to_string()}}));
        lines.push(json!({"code": n, "note": "kept as it is"}));
    }
    let answer = egret.bulk("/codes/_bulk?refresh=true", &lines).await.ok();
    assert_eq!(answer["errors"], false, "{answer}");
    egret
}

fn keyword() -> Value {
    json!({"mappings": {"properties": {"code": {"type": "keyword"}}}})
}

/// Writes one document after the other, reads each back, and searches, until told to stop; what was
/// written last, with its version.
async fn use_it(egret: &Egret, worker: usize, stop: &AtomicBool) -> BTreeMap<String, (u64, u64)> {
    let mut written = BTreeMap::new();
    for round in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let id = format!("w{worker}-{}", round % 20);
        let path = format!("/codes/_doc/{id}");
        let answer = egret.put(&path, &json!({"code": round})).await.ok();
        let version = answer["_version"].as_u64().unwrap();
        assert_eq!(version, round / 20 + 1, "{answer}");
        let read = egret.get(&path).await.ok();
        assert_eq!(read["_source"]["code"], round, "{read}");
        let found = egret.search("codes", &json!({"query": {"ids": {"values": ["7"]}}})).await;
        assert_eq!(found["hits"]["total"]["value"], 1, "{found}");
        written.insert(id, (version, round));
    }
    written
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_is_rebuilt_and_rolled_back_under_constant_use() {
    let mut egret = codes().await;
    let stop = AtomicBool::new(false);
    let administer = async {
        let id = egret.post("/codes/_rebuild?wait_for_completion=false", &keyword()).await.ok();
        let id = id["task"].as_str().unwrap().to_owned();
        let ended = egret.get(&format!("/_tasks/{id}?wait_for_completion=true&timeout=10m")).await;
        let ended = ended.ok();
        let response = &ended["response"];
        assert_eq!(response["acknowledged"], true, "{ended}");
        assert!(response["total"].as_u64().unwrap() >= DOCUMENTS as u64, "{ended}");
        assert_eq!(ended["task"]["status"]["created"], response["total"], "{ended}");
        let mapping = egret.get("/codes/_mapping").await.ok();
        assert_eq!(mapping["codes"]["mappings"]["properties"]["code"]["type"], "keyword");
        let status = egret.get("/codes/_rebuild").await.ok();
        assert_eq!(status["codes"]["rebuilding"], false);
        assert_eq!(status["codes"]["kept"]["uuid"], response["kept"]["uuid"], "{status}");
        egret.post("/codes/_rebuild?rollback=true", &Value::Null).await.ok();
        let mapping = egret.get("/codes/_mapping").await.ok();
        assert_eq!(mapping["codes"]["mappings"]["properties"]["code"]["type"], "long");
        egret.post("/codes/_rebuild", &keyword()).await.ok();
        stop.store(true, Ordering::Relaxed);
    };
    let (first, second, ()) =
        tokio::join!(use_it(&egret, 1, &stop), use_it(&egret, 2, &stop), administer);
    let written: BTreeMap<_, _> = first.into_iter().chain(second).collect();
    assert!(!written.is_empty());
    egret.kill();
    egret.resume();
    egret.post("/codes/_refresh", &Value::Null).await.ok();
    assert_eq!(egret.count("codes").await, Some((DOCUMENTS + written.len()) as u64));
    for (id, (version, code)) in &written {
        let read = egret.get(&format!("/codes/_doc/{id}")).await.ok();
        let shown = (read["_version"].as_u64(), read["_source"]["code"].as_u64());
        assert_eq!(shown, (Some(*version), Some(*code)), "{read}");
    }
    // The way back has survived the kill, and what is written now comes along.
    egret.put("/codes/_doc/late", &json!({"code": 1})).await.ok();
    egret.post("/codes/_rebuild?rollback=true", &Value::Null).await.ok();
    assert_eq!(egret.count("codes").await, Some((DOCUMENTS + written.len() + 1) as u64));
    let again = egret.post("/codes/_rebuild?rollback=true", &Value::Null).await;
    assert_eq!(again.status, 400, "{}", again.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_is_a_task_that_can_be_stopped() {
    let egret = codes().await;
    let path = "/codes/_rebuild?wait_for_completion=false&requests_per_second=1";
    let id = egret.post(path, &keyword()).await.ok()["task"].as_str().unwrap().to_owned();
    let running = || async { egret.get(&format!("/_tasks/{id}")).await.ok() };
    let batches = AtomicU64::new(0);
    while batches.load(Ordering::Relaxed) == 0 {
        let shown = running().await;
        assert_eq!((&shown["completed"], shown.get("error")), (&json!(false), None), "{shown}");
        assert_eq!(shown["task"]["action"], "indices:admin/rebuild");
        let done = shown["task"]["status"]["batches"].as_u64().unwrap();
        batches.store(done, Ordering::Relaxed);
    }
    assert_eq!(egret.get("/codes/_rebuild").await.ok()["codes"]["rebuilding"], true);
    let second = egret.post("/codes/_rebuild", &keyword()).await;
    assert_eq!(second.status, 400, "{}", second.text);
    let cancel = format!("/_tasks/{id}/_cancel?wait_for_completion=true");
    egret.post(&cancel, &Value::Null).await.ok();
    let shown = running().await;
    let response = &shown["response"];
    assert_eq!((&response["acknowledged"], &response["created"]), (&json!(false), &json!(1_000)));
    assert_eq!(response["canceled"], "by user request", "{shown}");
    assert_eq!(egret.get("/codes/_rebuild").await.ok()["codes"]["rebuilding"], false);
    for (path, body, named) in [
        ("/codes/_rebuild", json!({"settings": {}}), "unknown key [settings]"),
        ("/codes/_rebuild?keep=soon", json!({}), "keep"),
        ("/codes/_rebuild?rollback=true", json!({}), "no folder is kept"),
        (
            "/codes/_rebuild",
            json!({"mappings": {"properties": {"note": {"type": "long"}}}}),
            "note",
        ),
    ] {
        let answer = egret.post(path, &body).await;
        assert_eq!(answer.status, 400, "{path}: {}", answer.text);
        assert!(answer.text.contains(named), "{path}: {}", answer.text);
    }
    // Without a wish to go back nothing is kept, and what is kept goes in time.
    let done = egret.post("/codes/_rebuild?keep=0s", &keyword()).await.ok();
    assert_eq!(done["kept"], Value::Null, "{done}");
    let done = egret.post("/codes/_rebuild?keep=1ms", &json!({})).await.ok();
    assert_eq!(done["acknowledged"], true, "{done}");
    egret_tests::poll::until("the older folder goes", || async {
        egret.get("/codes/_rebuild").await.ok()["codes"]["kept"].is_null().then_some(())
    })
    .await;
    assert_eq!(egret.count("codes").await, Some(DOCUMENTS as u64));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuilt_index_that_is_damaged_is_rolled_back() {
    let mut egret = codes().await;
    egret.post("/codes/_rebuild?keep=1h", &keyword()).await.ok();
    egret.put("/codes/_doc/late", &json!({"code": 1})).await.ok();
    let shown = egret.get("/codes/_settings").await.ok();
    let uuid = shown["codes"]["settings"]["index"]["uuid"].as_str().unwrap().to_owned();
    for _ in 0..2 {
        egret.kill();
        let commit = egret.folder().join("indexes").join(&uuid).join("commit.json");
        std::fs::write(commit, "{").unwrap();
        egret.resume();
        assert_eq!(egret.get("/codes/_count").await.status, 500);
        assert!(!egret.get("/codes/_rebuild").await.ok()["codes"]["kept"].is_null());
    }
    let answer = egret.post("/codes/_rebuild?rollback=true", &Value::Null).await.ok();
    assert_eq!(answer["acknowledged"], true, "{answer}");
    egret.post("/codes/_refresh", &Value::Null).await.ok();
    assert_eq!(egret.get("/codes/_count").await.ok()["count"], DOCUMENTS + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_are_rewritten_for_an_added_field_also_after_a_kill() {
    let mut egret = Egret::start(EgretOptions::default());
    let hidden = json!({"mappings": {"dynamic": false, "properties": {"code": {"type": "long"}}}});
    egret.put("/notes", &hidden).await.ok();
    let documents = 8 * DOCUMENTS;
    for part in 0..8 {
        let mut lines = Vec::new();
        for n in part * DOCUMENTS..(part + 1) * DOCUMENTS {
            lines.push(json!({"index": {"_id": n.to_string()}}));
            lines.push(json!({"code": n, "note": "older than its mapping"}));
        }
        let answer = egret.bulk("/notes/_bulk?refresh=true", &lines).await.ok();
        assert_eq!(answer["errors"], false, "{answer}");
    }
    let note = json!({"properties": {"note": {"type": "text"}}});
    egret.put("/notes/_mapping", &note).await.ok();
    egret_tests::poll::until("the rewrite runs", || async {
        let shown = egret.get("/notes/_rebuild").await.ok();
        assert!(!shown["notes"]["outstanding"].is_null(), "too fast to be killed: {shown}");
        (shown["notes"]["rebuilding"] == true).then_some(())
    })
    .await;
    egret.kill();
    egret.resume();
    // What is left of it is gone, and it begins again of itself.
    let rewritten = Duration::from_secs(300);
    egret_tests::poll::until_deadline("the documents are found", rewritten, || async {
        let exists = json!({"query": {"exists": {"field": "note"}}, "track_total_hits": true});
        let found = egret.search("notes", &exists).await;
        (found["hits"]["total"]["value"] == documents).then_some(())
    })
    .await;
    let shown = egret.get("/notes/_rebuild").await.ok();
    let nothing = json!({"rebuilding": false, "kept": null, "outstanding": null});
    assert_eq!(shown["notes"], nothing);
    egret_tests::poll::until("one folder is left", || async {
        let folders = std::fs::read_dir(egret.folder().join("indexes")).unwrap();
        (folders.count() == 1).then_some(())
    })
    .await;
}
