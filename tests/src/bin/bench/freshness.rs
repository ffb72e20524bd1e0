//! From a commit in PostgreSQL to the search that finds the row, on an index as large as the
//! corpus, while rows are committed at a steady rate.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::Client;
use crate::followed::{Followed, TABLE};
use crate::rates::port;
use crate::report::{self, ms, quantile};

const RATES: [u64; 2] = [100, 1_000];
const SAMPLES_A_SECOND: u64 = 20;
const NOT_FOUND_DEADLINE: Duration = Duration::from_secs(30);

/// Runs the part.
pub(crate) fn run(followed: &Followed, seconds: u64) {
    report::heading("freshness: from COMMIT in PostgreSQL until a search finds the row");
    for rate in RATES {
        let mut found = measure(followed, rate, seconds);
        report::line(&format!(
            "commit to searchable at {rate:>5} rows/s  p50 {} ms  p99 {} ms  max {} ms  ({} samples)",
            ms(quantile(&mut found, 0.5)),
            ms(quantile(&mut found, 0.99)),
            ms(quantile(&mut found, 1.0)),
            found.len()
        ));
    }
}

/// Commits single-row updates and inserts at `rate` and samples how long each sampled one takes
/// from COMMIT's return until a search finds it.
fn measure(followed: &Followed, rate: u64, seconds: u64) -> Vec<Duration> {
    let Followed { runtime, database, .. } = followed;
    let stop = Arc::new(AtomicBool::new(false));
    let next = Arc::new(AtomicU64::new(rate * 10_000_000));
    let load =
        runtime.spawn(background(database.url(), rate, Arc::clone(&stop), Arc::clone(&next)));
    let mut client = Client::connect(port(followed.egret()));
    let writer = runtime.block_on(database.connect());
    let insert = format!("INSERT INTO {TABLE} (id, name, summary) VALUES ($1, $2, $3)");
    let insert = runtime.block_on(writer.prepare(&insert)).expect("prepare");
    let mut found = Vec::new();
    let began = Instant::now();
    let mut due = began + Duration::from_secs(2);
    while began.elapsed() < Duration::from_secs(seconds + 2) {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        due += Duration::from_millis(1_000 / SAMPLES_A_SECOND);
        let id = i64::try_from(next.fetch_add(1, Ordering::Relaxed)).expect("a small number");
        let word = format!("needle{id}");
        runtime
            .block_on(writer.execute(&insert, &[&id, &word, &"a row that is looked for"]))
            .expect("insert a row");
        found.push(until_found(&mut client, &word));
    }
    stop.store(true, Ordering::Relaxed);
    runtime.block_on(load).expect("the load");
    found
}

fn until_found(client: &mut Client, word: &str) -> Duration {
    let committed = Instant::now();
    let body = json!({"query": {"match": {"name": word}}, "size": 1}).to_string();
    loop {
        let path = format!("/{TABLE}/_search");
        let answer = client.send("POST", &path, "application/json", body.as_bytes());
        let answer: Value = serde_json::from_slice(answer).expect("JSON");
        if answer["hits"]["total"]["value"] == 1 {
            return committed.elapsed();
        }
        assert!(committed.elapsed() < NOT_FOUND_DEADLINE, "{word} is never found");
    }
}

/// Half updates of rows all over the table, half inserts; each a transaction of its own.
async fn background(url: String, rate: u64, stop: Arc<AtomicBool>, next: Arc<AtomicU64>) {
    let (client, connection) =
        tokio_postgres::connect(&url, tokio_postgres::NoTls).await.expect("connect");
    let driver = tokio::spawn(connection);
    let insert =
        format!("INSERT INTO {TABLE} (id, name, summary) VALUES ($1, 'load', 'a new row')");
    let insert = client.prepare(&insert).await.expect("prepare");
    let update = format!("UPDATE {TABLE} SET downloads = coalesce(downloads, 0) + 1 WHERE id = $1");
    let update = client.prepare(&update).await.expect("prepare");
    let mut ticks = tokio::time::interval(Duration::from_micros(1_000_000 / rate));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    let mut number: i64 = 0;
    while !stop.load(Ordering::Relaxed) {
        ticks.tick().await;
        number += 1;
        let done = if number % 2 == 0 {
            let id = i64::try_from(next.fetch_add(1, Ordering::Relaxed)).expect("a small number");
            client.execute(&insert, &[&id]).await
        } else {
            client.execute(&update, &[&(number * 7_919 % 100_000)]).await
        };
        done.expect("a transaction of the load");
    }
    drop(client);
    driver.await.expect("the connection's task").expect("the connection");
}
