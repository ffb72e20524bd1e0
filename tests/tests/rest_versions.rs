//! Versions of documents and names of indexes over HTTP, as Elasticsearch's clients use them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use egret_tests::egret::{Answer, Egret, EgretOptions};
use serde_json::{Value, json};
use tokio::task::block_in_place;

fn egret() -> Egret {
    block_in_place(|| Egret::start(EgretOptions::default()))
}

fn is(answer: &Answer, status: u16, version: u64, seq_no: u64, result: &str) {
    let found = (&answer.body["_version"], &answer.body["_seq_no"], &answer.body["result"]);
    assert_eq!(found, (&json!(version), &json!(seq_no), &json!(result)), "{}", answer.text);
    assert_eq!(answer.status, status, "{}", answer.text);
}

fn conflicts(answer: &Answer) {
    assert_eq!(answer.status, 409, "{}", answer.text);
    assert_eq!(
        answer.body["error"]["type"], "version_conflict_engine_exception",
        "{}",
        answer.text
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_are_counted_or_given() {
    let mut egret = egret();
    let n = |n: u64| json!({"n": n});
    is(&egret.put("/i/_doc/1", &n(1)).await, 201, 1, 0, "created");
    is(&egret.put("/i/_doc/1", &n(2)).await, 200, 2, 1, "updated");
    for path in ["/i/_create/1", "/i/_doc/1?op_type=create"] {
        conflicts(&egret.put(path, &n(3)).await);
    }
    is(&egret.put("/i/_doc/2?op_type=create", &n(3)).await, 201, 1, 2, "created");
    conflicts(&egret.put("/i/_doc/1?if_seq_no=0&if_primary_term=1", &n(4)).await);
    conflicts(&egret.put("/i/_doc/1?if_seq_no=1&if_primary_term=2", &n(4)).await);
    is(&egret.put("/i/_doc/1?if_seq_no=1&if_primary_term=1", &n(4)).await, 200, 3, 3, "updated");
    conflicts(&egret.delete("/i/_doc/1?if_seq_no=1&if_primary_term=1").await);
    // The same once more changes nothing, unless it is not looked.
    is(&egret.post("/i/_update/1", &json!({"doc": n(4)})).await, 200, 3, 3, "noop");
    let anyway = json!({"doc": n(4), "detect_noop": false});
    is(&egret.post("/i/_update/1", &anyway).await, 200, 4, 4, "updated");

    is(
        &egret.put("/i/_doc/x?version=10&version_type=external", &n(1)).await,
        201,
        10,
        5,
        "created",
    );
    for path in ["version=10&version_type=external", "version=9&version_type=external_gte"] {
        conflicts(&egret.put(&format!("/i/_doc/x?{path}"), &n(2)).await);
    }
    let same = egret.put("/i/_doc/x?version=10&version_type=external_gte", &n(2)).await;
    is(&same, 200, 10, 6, "updated");
    conflicts(&egret.delete("/i/_doc/x?version=10&version_type=external").await);
    is(&egret.delete("/i/_doc/x?version=12&version_type=external").await, 200, 12, 7, "deleted");
    // What is deleted is not forgotten at once, nor by a crash.
    conflicts(&egret.put("/i/_doc/x?version=11&version_type=external", &n(3)).await);
    egret.kill();
    egret.resume();
    conflicts(&egret.put("/i/_doc/x?version=12&version_type=external", &n(3)).await);
    conflicts(&egret.put("/i/_doc/1?if_seq_no=3&if_primary_term=1", &n(5)).await);
    let found = egret.get("/i/_doc/1").await.ok();
    assert_eq!((&found["_version"], &found["_seq_no"]), (&json!(4), &json!(4)));
    let mixed = egret.put("/i/_doc/1?version=3&if_seq_no=4&if_primary_term=1", &n(5)).await;
    assert_eq!(mixed.status, 400, "{}", mixed.text);
    let internal = egret.put("/i/_doc/1?version=4", &n(5)).await;
    assert_eq!(internal.status, 400, "{}", internal.text);
}

async fn names(egret: &Egret, path: &str) -> Vec<String> {
    let found = egret.get(path).await.ok();
    let mut names: Vec<String> = found.as_object().unwrap().keys().cloned().collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn names_stand_for_open_closed_and_missing_indexes() {
    let egret = egret();
    for index in ["logs-1", "logs-2", "other"] {
        egret.put(&format!("/{index}/_doc/1"), &json!({"n": 1})).await.ok();
    }
    egret.post("/logs-2/_close", &Value::Null).await.ok();
    for (path, expected) in [
        ("/logs-*/_settings?expand_wildcards=open", vec!["logs-1"]),
        ("/logs-*/_settings?expand_wildcards=closed", vec!["logs-2"]),
        ("/logs-*/_settings?expand_wildcards=all", vec!["logs-1", "logs-2"]),
        ("/logs-*/_settings?expand_wildcards=open,closed", vec!["logs-1", "logs-2"]),
        ("/logs-*/_settings?expand_wildcards=none&allow_no_indices=true", vec![]),
        ("/*,-logs-*/_settings", vec!["other"]),
        ("/other,nothing/_settings?ignore_unavailable=true", vec!["other"]),
    ] {
        assert_eq!(names(&egret, path).await, expected, "{path}");
    }
    let hits = async |path: &str| egret.get(path).await.body["hits"]["total"]["value"].as_u64();
    egret.post("/_refresh", &Value::Null).await.ok();
    assert_eq!(hits("/logs-*/_search").await, Some(1));
    assert_eq!(hits("/nothing-*/_search").await, Some(0));
    assert_eq!(hits("/other,nothing/_search?ignore_unavailable=true").await, Some(1));
    for (path, status, kind) in [
        ("/nothing/_search", 404, "index_not_found_exception"),
        ("/other,nothing/_search", 404, "index_not_found_exception"),
        ("/nothing-*/_search?allow_no_indices=false", 404, "index_not_found_exception"),
        ("/logs-2/_search", 400, "index_closed_exception"),
        ("/logs-*/_search?expand_wildcards=all", 400, "index_closed_exception"),
        ("/logs-*/_search?expand_wildcards=some", 400, "illegal_argument_exception"),
    ] {
        let answer = egret.get(path).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.text);
        assert_eq!(answer.body["error"]["type"], kind, "{path}: {}", answer.text);
    }
}
