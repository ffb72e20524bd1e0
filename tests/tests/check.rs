//! `egret check`, and a server over a folder that is damaged: whatever is lost, the others serve, and
//! nothing that is missing is taken for nothing.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

use egret_tests::command::{Ran, run};
use egret_tests::egret::{Egret, EgretOptions};
use egret_tests::poll;
use egret_tests::postgres::Database;
use serde_json::{Value, json};
use tokio::task::block_in_place;

fn check(egret: &Egret, arguments: &[&str]) -> Ran {
    let folder = egret.folder();
    let all: Vec<&str> =
        ["check", "--data", folder.to_str().unwrap()].iter().chain(arguments).copied().collect();
    block_in_place(|| run(&all))
}

/// What `--json` says was found that is not harmless.
fn found(ran: &Ran) -> Vec<Value> {
    let report: Value = serde_json::from_str(&ran.printed).unwrap();
    let findings = report["findings"].as_array().unwrap().iter();
    findings.filter(|finding| finding["state"] != "harmless").cloned().collect()
}

/// The files of a folder and its subfolders that satisfy a condition.
fn files(folder: &Path, is: &dyn Fn(&Path) -> bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, is));
        } else if is(&path) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Ends the server, and gives the files with this extension that an index's commit names: others may be
/// left, which go at the next start.
async fn files_left(egret: &mut Egret, index: &str, extension: &str) -> Vec<PathBuf> {
    let settings = egret.get(&format!("/{index}/_settings")).await.ok();
    let uuid = settings[index]["settings"]["index"]["uuid"].as_str().unwrap();
    assert!(block_in_place(|| egret.terminate()).success());
    let is_named = |path: &Path| {
        let commit = std::fs::read_to_string(path.with_file_name("commit.json")).unwrap();
        commit.contains(path.file_name().unwrap().to_str().unwrap())
    };
    let files = files(&egret.folder(), &|path| {
        let of_index = path.parent().is_some_and(|folder| folder.ends_with(uuid));
        of_index && path.extension().is_some_and(|it| it == extension) && is_named(path)
    });
    assert!(!files.is_empty(), "index [{index}] has no [{extension}]");
    files
}

fn flip_a_byte(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

async fn reads(egret: &Egret, index: &str, count: u64) {
    poll::until(&format!("{count} in {index}"), async || {
        (egret.count(index).await == Some(count)).then_some(())
    })
    .await;
}

/// A followed table, and two indexes that are written to over HTTP.
async fn filled() -> (Database, Egret) {
    let database = Database::create().await;
    let birds = "CREATE TABLE birds (id int PRIMARY KEY, name text);
        INSERT INTO birds SELECT n, 'egret ' || n FROM generate_series(1, 300) AS n";
    database.execute(birds).await;
    let egret = block_in_place(|| Egret::start(EgretOptions::following(database.url(), "birds")));
    reads(&egret, "birds", 300).await;
    for index in ["notes", "others"] {
        for n in 1..=20 {
            egret
                .put(&format!("/{index}/_doc/{n}"), &json!({"text": format!("note {n}")}))
                .await
                .ok();
        }
        egret.post(&format!("/{index}/_flush"), &json!({})).await.ok();
    }
    egret.post("/birds/_flush", &json!({})).await.ok();
    (database, egret)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_folder_is_said_to_be_whole() {
    let (_database, mut egret) = filled().await;
    // Its files change while it is served.
    let ran = check(&egret, &[]);
    assert!(!ran.succeeded && ran.said.contains("in use"), "{ran:?}");
    assert!(block_in_place(|| egret.terminate()).success());
    let ran = check(&egret, &[]);
    assert!(ran.succeeded && ran.printed.contains("nothing is damaged"), "{ran:?}");
    assert_eq!(found(&check(&egret, &["--json"])), [Value::Null; 0]);
    // What `kill -9` leaves is whole, too.
    egret.resume();
    egret.put("/notes/_doc/21", &json!({"text": "unflushed"})).await.ok();
    egret.kill();
    assert_eq!(found(&check(&egret, &["--json"])), [Value::Null; 0]);
    egret.resume();
    reads(&egret, "notes", 21).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_of_a_followed_index_is_found_and_its_table_copied_again() {
    let (_database, mut egret) = filled().await;
    let segments = files_left(&mut egret, "birds", "idx").await;
    flip_a_byte(&segments[0]);
    let ran = check(&egret, &["--json"]);
    assert!(!ran.succeeded, "{ran:?}");
    let findings = found(&ran);
    assert_eq!(findings.len(), 1, "{findings:?}");
    let finding = &findings[0];
    assert_eq!(
        (&finding["state"], &finding["owner"]),
        (&json!("damaged"), &json!("index [birds]"))
    );
    assert_eq!(finding["file"], segments[0].to_str().unwrap());
    assert!(finding["problem"].as_str().unwrap().contains("checksum"), "{finding}");
    let ran = check(&egret, &["--repair"]);
    assert!(ran.succeeded && ran.printed.contains("none left"), "{ran:?}");
    let ran = check(&egret, &[]);
    assert!(ran.succeeded && ran.printed.contains("nothing is damaged"), "{ran:?}");
    // A server over what was repaired has everything.
    egret.resume();
    reads(&egret, "birds", 300).await;
    reads(&egret, "notes", 20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_without_one_of_its_files_is_refused_and_the_others_serve() {
    let (database, mut egret) = filled().await;
    let lost = files_left(&mut egret, "notes", "term").await;
    let kept = egret.folder().join("../kept");
    std::fs::rename(&lost[0], &kept).unwrap();
    let ran = check(&egret, &["--json", "--repair"]);
    let findings = found(&ran);
    assert!(!ran.succeeded && findings.len() == 1, "{ran:?}");
    assert_eq!(findings[0]["owner"], "index [notes]");
    assert_eq!(findings[0]["file"], lost[0].to_str().unwrap());
    assert!(findings[0]["remedy"].as_str().unwrap().contains("not repaired"), "{findings:?}");
    egret.resume();
    reads(&egret, "others", 20).await;
    reads(&egret, "birds", 300).await;
    database.execute("INSERT INTO birds VALUES (301, 'new')").await;
    reads(&egret, "birds", 301).await;
    egret.put("/others/_doc/21", &json!({"text": "written"})).await.ok();
    // Never zero hits of what should have some.
    for path in ["/notes/_search", "/notes/_count", "/notes/_doc/1"] {
        let answer = egret.get(path).await;
        assert!(answer.status >= 500, "{path}: {}", answer.text);
        assert!(answer.text.contains("notes") && answer.text.contains("term"), "{}", answer.text);
    }
    let write = egret.put("/notes/_doc/99", &json!({})).await;
    assert!(write.status >= 500, "{}", write.text);
    let ready = egret.get("/health/ready").await;
    assert!(ready.status == 503 && ready.text.contains("notes"), "{}", ready.text);
    // Brought back it is whole again.
    block_in_place(|| egret.terminate());
    std::fs::rename(&kept, &lost[0]).unwrap();
    assert!(check(&egret, &[]).succeeded);
    egret.resume();
    reads(&egret, "notes", 20).await;
}
