//! The search page in headless Chromium: results as you type, facets, marks, and a change in the
//! database that appears without a reload.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use egret_tests::egret::{Egret, EgretOptions};
use egret_tests::poll;
use egret_tests::postgres::Database;

const ANIMALS: &str = "
    CREATE TABLE animals (id int PRIMARY KEY, name text, place text, weight int, story text);
    INSERT INTO animals
    SELECT n,
           CASE n % 4 WHEN 0 THEN 'White heron' WHEN 1 THEN 'Cattle egret'
                      WHEN 2 THEN 'Black stork' ELSE 'Grey crane' END || ' ' || n,
           (ARRAY['delta', 'savanna', 'marsh'])[1 + n % 3],
           n,
           'Number ' || n || ' follows <img src=x onerror=alert(1)> elephants'
    FROM generate_series(1, 60) AS n;";

/// Where playwright-core is, installed on first use.
fn playwright_folder() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("page");
    if !folder.join("node_modules/playwright-core").exists() {
        let install = Command::new("npm")
            .args(["install", "--no-audit", "--no-fund", "--no-package-lock", "--silent"])
            .current_dir(&folder)
            .stdin(Stdio::null())
            .status();
        assert!(install.is_ok_and(|status| status.success()), "npm install failed");
    }
    folder
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_what_the_database_says() {
    let database = Database::create().await;
    database.client().batch_execute(ANIMALS).await.unwrap();
    let egret = Egret::start(EgretOptions::following(database.url(), "public.animals"));
    poll::until("60 animals", async || (egret.count("animals").await == Some(60)).then_some(()))
        .await;

    let folder = playwright_folder();
    let screenshot = egret.folder().join("page.png");
    let mut browser = Command::new("node")
        .arg(folder.join("page.mjs"))
        .arg(egret.url("").trim_end_matches('/'))
        .arg(&screenshot)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start node");
    let mut said = BufReader::new(browser.stdout.take().unwrap()).lines();
    let first = said.next().and_then(Result::ok);
    if first.as_deref() == Some("shown") {
        let rename = "UPDATE animals SET name = 'White heron, once a stork' WHERE id = 2";
        database.client().batch_execute(rename).await.unwrap();
        browser.stdin.take().unwrap().write_all(b"changed\n").unwrap();
    }
    let rest: Vec<String> = said.map_while(Result::ok).collect();
    let status = poll::until_blocking(Duration::from_secs(60), || browser.try_wait().unwrap());
    assert!(status.is_some_and(|status| status.success()), "the browser said {first:?} {rest:?}");
    assert_eq!(rest, ["done"]);
    assert!(screenshot.metadata().unwrap().len() > 10_000, "the screenshot shows something");
}
