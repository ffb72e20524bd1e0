//! One index as large as the corpus, written to over REST: how long until a write is found, what a
//! million updates do to queries, and how soon the index is back after `kill -9`.

use std::collections::BTreeMap;
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
/// An index that is as the other was before its updates.
const UNTOUCHED: &str = "untouched";
/// How often every query is asked of both.
const ROUNDS: usize = 5;
/// How often the server is killed with a full translog.
const RESTARTS: usize = 3;
/// An index that is filled to know the rate.
const FILLED: &str = "filled";
/// How often every query is asked before memory is looked at.
const SERVING_ROUNDS: usize = 3;
/// At most so many documents are replayed: a longer translog would be flushed meanwhile.
const REPLAYED_DOCS: usize = 150_000;

/// Runs the part.
pub(crate) fn run(corpus: &Corpus, queries: &[Query], seconds: u64) {
    report::heading("writes over REST to an index of the whole corpus");
    let mut egret = Egret::start(EgretOptions::default());
    load(port(&egret), INDEX, &corpus.docs);
    settle(port(&egret), INDEX);
    freshness(port(&egret), seconds);
    settle(port(&egret), INDEX);
    updates(port(&egret), corpus, queries);
    restart(&mut egret, corpus);
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
        Times::default().ask(&mut client, INDEX, queries);
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

/// Updates every document once, jumping through the index, while queries are asked; and asks them of
/// an index beside it that is not updated.
fn updates(port: u16, corpus: &Corpus, queries: &[Query]) {
    load(port, UNTOUCHED, &corpus.docs);
    settle(port, UNTOUCHED);
    let mut client = Client::connect(port);
    let before = ask_both(&mut client, queries);
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
            let mut times = Times::default();
            times.ask(&mut client, INDEX, queries);
            rounds.push(times.medians());
        }
        rounds.sort_by_key(sum);
        let median = rounds.swap_remove(rounds.len() / 2);
        (median, sender.join().expect("the sender of updates"))
    });
    settle(port, INDEX);
    let after = ask_both(&mut client, queries);
    client.json("DELETE", &format!("/{UNTOUCHED}"), &Value::Null);
    report::line(&format!(
        "{} updates, one after another, {:.0} docs/s; medians of the query classes, summed:",
        corpus.docs.len(),
        corpus.docs.len() as f64 / time.as_secs_f64()
    ));
    let line = |when: &str, [updated, other]: [Duration; 2], beside: &str| {
        let ratio = updated.as_secs_f64() / other.as_secs_f64();
        report::line(&format!(
            "  {when:<26} {} ms, {beside} {} ms  {ratio:.2} times",
            ms(updated),
            ms(other)
        ));
    };
    line("before them", before.each_ref().map(sum), "the untouched index");
    line("during them", [&during, &before[0]].map(sum), "before");
    classes(&during, &before[0]);
    line("once merges have caught up", after.each_ref().map(sum), "the untouched index");
    classes(&after[0], &after[1]);
}

/// How the classes of queries compare.
fn classes(these: &Medians, those: &Medians) {
    let ratios = these.iter().zip(those).map(|((class, these), (_, those))| {
        format!("{class} {:.2}", these.as_secs_f64() / those.as_secs_f64())
    });
    report::line(&format!(
        "  by class                   {}",
        ratios.collect::<Vec<_>>().join("  ")
    ));
}

/// Asks both indexes every query, in turns, after once for nothing.
fn ask_both(client: &mut Client, queries: &[Query]) -> [Medians; 2] {
    let mut times = [INDEX, UNTOUCHED].map(|index| (index, Times::default()));
    for round in 0..=ROUNDS {
        for query in queries {
            for (index, times) in &mut times {
                times.ask(client, index, std::slice::from_ref(query));
            }
        }
        if round == 0 {
            times = times.map(|(index, _)| (index, Times::default()));
        }
    }
    times.map(|(_, mut times)| times.medians())
}

fn sum(medians: &Medians) -> Duration {
    medians.values().sum()
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

/// The medians of the classes.
type Medians = BTreeMap<Class, Duration>;

/// How long answers took, by the class of the query.
#[derive(Default)]
struct Times(BTreeMap<Class, Vec<Duration>>);

impl Times {
    /// Asks every query once, past the cache.
    fn ask(&mut self, client: &mut Client, index: &str, queries: &[Query]) {
        let path = format!("/{index}/_search?request_cache=false");
        for query in queries {
            let body = query.body().to_string();
            let began = Instant::now();
            client.send("POST", &path, "application/json", body.as_bytes());
            self.0.entry(query.class).or_default().push(began.elapsed());
        }
    }

    fn medians(&mut self) -> Medians {
        self.0.iter_mut().map(|(class, times)| (*class, quantile(times, 0.5))).collect()
    }
}

/// Kills the server with an empty translog and with a full one, and starts it again.
fn restart(egret: &mut Egret, corpus: &Corpus) {
    let start = |egret: &mut Egret| {
        egret.kill();
        let began = Instant::now();
        egret.resume();
        let count =
            Client::connect(port(egret)).json("GET", &format!("/{INDEX}/_count"), &Value::Null);
        assert!(count["count"].as_u64().is_some_and(|count| count >= corpus.docs.len() as u64));
        began.elapsed()
    };
    let docs = REPLAYED_DOCS.min(corpus.docs.len());
    let rate = |count: usize, time: Duration| count as f64 / time.as_secs_f64();
    let (mut empty, mut replays, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..RESTARTS {
        let filled = &corpus.docs[..corpus.docs.len() / RESTARTS];
        let bulk = rate(filled.len(), load(port(egret), FILLED, filled));
        Client::connect(port(egret)).json("DELETE", &format!("/{FILLED}"), &Value::Null);
        settle(port(egret), INDEX);
        let at_once = start(egret);
        send_updates(port(egret), corpus, round * docs, docs);
        let replay = rate(docs, start(egret).saturating_sub(at_once));
        empty.push(at_once);
        replays.push(replay);
        ratios.push(replay / bulk);
    }
    report::line(&format!(
        "start after kill -9, empty translog  {} ms",
        ms(quantile(&mut empty, 0.5))
    ));
    replays.sort_unstable_by(f64::total_cmp);
    ratios.sort_unstable_by(f64::total_cmp);
    report::line(&format!(
        "replay of {docs} updates after kill -9  {:.0} docs/s  ratio to bulk indexing {:.2} \
         ({:.2} to {:.2})",
        replays[RESTARTS / 2],
        ratios[RESTARTS / 2],
        ratios[0],
        ratios[RESTARTS - 1]
    ));
}
