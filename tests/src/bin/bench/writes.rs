//! One index as large as the corpus, written to over REST: how long until a write is found, what a
//! million updates do to queries, and how soon the index is back after `kill -9`.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use egret_tests::egret::{Egret, EgretOptions};
use egret_tests::process::anonymous_bytes;
use serde_json::{Value, json};

use crate::client::Client;
use crate::corpus::Corpus;
use crate::queries::{Class, Query};
use crate::rates::{BULK_DOCS, INDEX, load, port, settle};
use crate::report::{self, ms, quantile};

const WRITES_A_SECOND: u64 = 1_000;
const WRITERS: u64 = 8;
const SAMPLES_A_SECOND: u64 = 20;
const NOT_FOUND_DEADLINE: Duration = Duration::from_secs(30);
/// Updates jump through the index by so many documents, to touch all of it.
const STRIDE: usize = 7_919;
/// How often every query is asked before memory is looked at.
const SERVING_ROUNDS: usize = 3;
/// At most so many documents are replayed: a longer translog would be flushed meanwhile.
const REPLAYED_DOCS: usize = 150_000;

/// Runs the part.
pub(crate) fn run(corpus: &Corpus, queries: &[Query], seconds: u64) {
    report::heading("writes over REST to an index of the whole corpus");
    let mut egret = Egret::start(EgretOptions::default());
    let rate = corpus.docs.len() as f64 / load(port(&egret), corpus).as_secs_f64();
    settle(port(&egret), INDEX);
    freshness(port(&egret), seconds);
    settle(port(&egret), INDEX);
    updates(port(&egret), corpus, queries);
    restart(&mut egret, corpus, rate);
    serving(&mut egret, queries);
}

/// What the index takes in memory that no file backs while it answers queries, with a result cache as
/// small as it may be.
fn serving(egret: &mut Egret, queries: &[Query]) {
    settle(port(egret), INDEX);
    egret.terminate();
    egret.options_mut().configuration.push_str("[cache]\nbudget_bytes = 1\n");
    egret.resume();
    let started = anonymous_bytes(egret.pid()) >> 20;
    let mut client = Client::connect(port(egret));
    for _ in 0..SERVING_ROUNDS {
        ask_all(&mut client, queries);
    }
    let served = anonymous_bytes(egret.pid()) >> 20;
    report::line(&format!(
        "RssAnon with the smallest cache  {started} MiB after the start, {served} MiB after \
         {SERVING_ROUNDS} times every query (bar 256)"
    ));
}

/// Writes single documents at a steady rate, half of them updates, and samples how long it takes
/// until one is answered and until a search finds it, both from when it was sent.
fn freshness(port: u16, seconds: u64) {
    let stop = AtomicBool::new(false);
    let next = AtomicU64::new(1_000_000_000);
    let (mut answered, mut found) = (Vec::new(), Vec::new());
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (stop, next) = (&stop, &next);
            scope.spawn(move || background(port, writer, stop, next));
        }
        let mut client = Client::connect(port);
        let began = Instant::now();
        let mut due = began + Duration::from_secs(2);
        while began.elapsed() < Duration::from_secs(seconds + 2) {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            due += Duration::from_millis(1_000 / SAMPLES_A_SECOND);
            let word = format!("needle{}", next.fetch_add(1, Ordering::Relaxed));
            let sent = Instant::now();
            put(&mut client, &word, &word);
            answered.push(sent.elapsed());
            wait_for(&mut client, &word);
            found.push(sent.elapsed());
        }
        stop.store(true, Ordering::Relaxed);
    });
    for (what, samples) in [("answered", &mut answered), ("searchable", &mut found)] {
        report::line(&format!(
            "write to {what} at {WRITES_A_SECOND} writes/s  p50 {} ms  p99 {} ms  max {} ms  \
             ({} samples)",
            ms(quantile(samples, 0.5)),
            ms(quantile(samples, 0.99)),
            ms(quantile(samples, 1.0)),
            samples.len()
        ));
    }
}

fn background(port: u16, writer: u64, stop: &AtomicBool, next: &AtomicU64) {
    let mut client = Client::connect(port);
    let pause = Duration::from_micros(1_000_000 * WRITERS / WRITES_A_SECOND);
    let mut due = Instant::now() + pause * u32::try_from(writer).unwrap_or_default() / 8;
    let mut number = writer;
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        due += pause;
        number += WRITERS;
        let id = if number.is_multiple_of(2) {
            next.fetch_add(1, Ordering::Relaxed)
        } else {
            number * 7_919 % 100_000
        };
        put(&mut client, &id.to_string(), "load");
    }
}

fn put(client: &mut Client, id: &str, name: &str) {
    let body = json!({"name": name, "summary": "a document that is looked for"}).to_string();
    client.send("PUT", &format!("/{INDEX}/_doc/{id}"), "application/json", body.as_bytes());
}

fn wait_for(client: &mut Client, word: &str) {
    let began = Instant::now();
    let body = json!({"query": {"match": {"name": word}}, "size": 1}).to_string();
    loop {
        let path = format!("/{INDEX}/_search");
        let answer = client.send("POST", &path, "application/json", body.as_bytes());
        let answer: Value = serde_json::from_slice(answer).expect("JSON");
        if answer["hits"]["total"]["value"] == 1 {
            return;
        }
        assert!(began.elapsed() < NOT_FOUND_DEADLINE, "{word} is never found");
    }
}

/// Updates every document once, jumping through the index, while queries are asked.
fn updates(port: u16, corpus: &Corpus, queries: &[Query]) {
    let mut client = Client::connect(port);
    ask_all(&mut client, queries);
    let fresh = ask_all(&mut client, queries);
    let done = AtomicBool::new(false);
    let (during, time) = std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let began = Instant::now();
            send_updates(port, corpus, 0, corpus.docs.len());
            done.store(true, Ordering::Relaxed);
            began.elapsed()
        });
        let mut rounds = Vec::new();
        while !done.load(Ordering::Relaxed) {
            rounds.push(ask_all(&mut client, queries));
        }
        rounds.sort_unstable();
        (rounds[rounds.len() / 2], sender.join().expect("the sender of updates"))
    });
    settle(port, INDEX);
    ask_all(&mut client, queries);
    let after = ask_all(&mut client, queries);
    let ratio = |time: Duration| time.as_secs_f64() / fresh.as_secs_f64();
    report::line(&format!(
        "{} updates, one after another, {:.0} docs/s; medians of the query classes, summed:",
        corpus.docs.len(),
        corpus.docs.len() as f64 / time.as_secs_f64()
    ));
    report::line(&format!("  before them                {} ms", ms(fresh)));
    report::line(&format!(
        "  during them                {} ms  {:.2} times",
        ms(during),
        ratio(during)
    ));
    report::line(&format!(
        "  once merges have caught up {} ms  {:.2} times",
        ms(after),
        ratio(after)
    ));
}

/// Updates documents from the `first` of the jumping order on.
fn send_updates(port: u16, corpus: &Corpus, first: usize, count: usize) {
    let docs = &corpus.docs;
    let mut client = Client::connect(port);
    let mut number = first;
    while number < first + count {
        let mut body = Vec::new();
        for at in number..(number + BULK_DOCS).min(first + count) {
            let id = at * STRIDE % docs.len();
            body.extend_from_slice(format!("{{\"index\":{{\"_id\":\"{id}\"}}}}\n").as_bytes());
            body.extend_from_slice(docs[(id + 1) % docs.len()].as_bytes());
            body.push(b'\n');
        }
        let path = format!("/{INDEX}/_bulk?filter_path=errors");
        let answer = client.send("POST", &path, "application/x-ndjson", &body);
        let answer: Value = serde_json::from_slice(answer).expect("JSON");
        assert_eq!(answer["errors"], false, "an update was refused");
        number += BULK_DOCS;
    }
}

/// Asks every query once, past the cache; the sum of the classes' medians.
fn ask_all(client: &mut Client, queries: &[Query]) -> Duration {
    let path = format!("/{INDEX}/_search?request_cache=false");
    let medians = Class::ALL.into_iter().map(|class| {
        let of_class = queries.iter().filter(|query| query.class == class);
        let mut times: Vec<Duration> = of_class
            .map(|query| {
                let body = query.body().to_string();
                let began = Instant::now();
                client.send("POST", &path, "application/json", body.as_bytes());
                began.elapsed()
            })
            .collect();
        quantile(&mut times, 0.5)
    });
    medians.sum()
}

/// Kills the server with an empty translog and with a full one, and starts it again.
fn restart(egret: &mut Egret, corpus: &Corpus, bulk_rate: f64) {
    let start = |egret: &mut Egret| {
        egret.kill();
        let began = Instant::now();
        egret.resume();
        let count =
            Client::connect(port(egret)).json("GET", &format!("/{INDEX}/_count"), &Value::Null);
        assert!(count["count"].as_u64().is_some_and(|count| count >= corpus.docs.len() as u64));
        began.elapsed()
    };
    let empty = start(egret);
    report::line(&format!("start after kill -9, empty translog  {} ms", ms(empty)));
    let docs = REPLAYED_DOCS.min(corpus.docs.len());
    send_updates(port(egret), corpus, 0, docs);
    let time = start(egret).saturating_sub(empty);
    let rate = docs as f64 / time.as_secs_f64();
    report::line(&format!(
        "replay of {docs} updates after kill -9  {} ms, {rate:.0} docs/s  ratio to bulk indexing {:.2}",
        ms(time),
        rate / bulk_rate
    ));
}
