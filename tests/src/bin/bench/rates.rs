//! Indexing rates over HTTP, beside tantivy called directly.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use egret_tests::egret::{Egret, EgretOptions};
use egret_tests::process::anonymous_bytes;
use serde_json::{Value, json};

use crate::client::Client;
use crate::corpus::Corpus;
use crate::plain::Plain;
use crate::report;

/// The index that is filled.
pub(crate) const INDEX: &str = "catalogue";
pub(crate) const BULK_DOCS: usize = 5_000;
const CONNECTIONS: usize = 2;

/// Runs the part, and leaves the index for others.
pub(crate) fn run(corpus: &Corpus) -> Egret {
    report::heading("indexing: parse and index everything, two threads");
    let began = Instant::now();
    let plain = Plain::index(corpus);
    let direct = began.elapsed();
    let egret = Egret::start(EgretOptions::default());
    let port = port(&egret);
    let bulk = load(port, INDEX, &corpus.docs);
    let docs = corpus.docs.len() as f64;
    let rate = |time: Duration| docs / time.as_secs_f64();
    report::line(&format!("tantivy in process  {:>9.0} docs/s", rate(direct)));
    report::line(&format!(
        "egret over HTTP     {:>9.0} docs/s  ratio {:.2}",
        rate(bulk),
        rate(bulk) / rate(direct)
    ));
    settle(port, INDEX);
    let stats =
        Client::connect(port).json("GET", "/_cat/indices?format=json&bytes=b", &Value::Null);
    report::line(&format!("egret's index       {}", stats[0]));
    report::line(&format!(
        "egret's RssAnon     {} MiB; tantivy's segments {}",
        anonymous_bytes(egret.pid()) / (1 << 20),
        plain.segments()
    ));
    egret
}

/// The port of a running Egret.
pub(crate) fn port(egret: &Egret) -> u16 {
    let url = egret.url("");
    let port = url.trim_end_matches('/').rsplit(':').next().and_then(|port| port.parse().ok());
    port.expect("a port in Egret's address")
}

/// Indexes documents by `_bulk` and waits until all are searchable.
pub(crate) fn load(port: u16, index: &str, docs: &[String]) -> Duration {
    let mut client = Client::connect(port);
    let definition = json!({"mappings": Corpus::mapping()});
    client.json("PUT", &format!("/{index}"), &definition);
    let chunks: Vec<&[String]> = docs.chunks(BULK_DOCS).collect();
    let next = AtomicUsize::new(0);
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..CONNECTIONS {
            scope.spawn(|| send_chunks(port, index, &chunks, &next));
        }
    });
    client.json("POST", &format!("/{index}/_refresh"), &Value::Null);
    let time = began.elapsed();
    let count = client.json("GET", &format!("/{index}/_count"), &Value::Null);
    assert_eq!(count["count"], docs.len(), "every document must be searchable");
    time
}

/// One connection's share of the load: whichever chunk is next.
fn send_chunks(port: u16, index: &str, chunks: &[&[String]], next: &AtomicUsize) {
    let mut client = Client::connect(port);
    loop {
        let at = next.fetch_add(1, Ordering::Relaxed);
        let Some(chunk) = chunks.get(at) else { break };
        let body = bulk_body(at * BULK_DOCS, chunk);
        let path = format!("/{index}/_bulk?filter_path=errors");
        let answer = client.send("POST", &path, "application/x-ndjson", &body);
        let answer: Value = serde_json::from_slice(answer).expect("JSON");
        assert_eq!(answer["errors"], false, "a document was refused");
    }
}

fn bulk_body(first: usize, chunk: &[String]) -> Vec<u8> {
    let mut body = Vec::with_capacity(chunk.iter().map(|doc| doc.len() + 40).sum());
    for (number, doc) in chunk.iter().enumerate() {
        body.extend_from_slice(
            format!("{{\"index\":{{\"_id\":\"{}\"}}}}\n", first + number).as_bytes(),
        );
        body.extend_from_slice(doc.as_bytes());
        body.push(b'\n');
    }
    body
}

/// Waits until the index is flushed and its merges have caught up: its segments no longer change.
pub(crate) fn settle(port: u16, index: &str) {
    let mut client = Client::connect(port);
    client.json("POST", &format!("/{index}/_flush"), &Value::Null);
    let mut calm = 0;
    let mut last = Value::Null;
    for _ in 0..600 {
        let now = client.json("GET", "/_cat/indices?format=json&bytes=b", &Value::Null);
        let merges = client.json("GET", &format!("/{index}/_stats/merge"), &Value::Null);
        let is_merging = merges["_all"]["primaries"]["merges"]["current"] != 0;
        calm = if now == last && !is_merging { calm + 1 } else { 0 };
        if calm >= 40 {
            return;
        }
        last = now;
        std::thread::sleep(Duration::from_millis(100));
    }
}
