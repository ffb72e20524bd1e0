//! Queries on one index: Egret in process and over HTTP, beside tantivy called directly on segments
//! of the same documents in the same order.
//!
//! A class's rate is its number of queries by the sum of their times, each the median of its rounds.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use egret_engine::search::request::{SearchRequest, TrackTotalHits};
use egret_tests::egret::Egret;

use crate::client::Client;
use crate::corpus::Corpus;
use crate::engine::{Direct, request};
use crate::plain::Plain;
use crate::queries::{Class, Query};
use crate::rates::{INDEX, port};
use crate::report::{self, ms, quantile};

/// Runs the part on the index of a server, which is stopped meanwhile.
pub(crate) fn run(egret: &mut Egret, corpus: &Corpus, queries: &[Query], rounds: usize) {
    egret.terminate();
    let direct = Direct::open(&egret.folder(), INDEX);
    let documents = direct.documents();
    let plain = Plain::in_segments(corpus, &documents);
    let mut largest: Vec<usize> = documents.iter().map(Vec::len).collect();
    largest.sort_unstable_by(|a, b| b.cmp(a));
    report::heading("top-10 queries, documents returned, on one thread or connection");
    report::line(&format!(
        "segments of both sides: {}, the largest of {:?} documents",
        largest.len(),
        largest.iter().take(3).collect::<Vec<_>>()
    ));
    in_process(&direct, &plain, queries, rounds);
    direct.close();
    egret.resume();
    over_http(port(egret), &plain, queries, rounds);
}

/// Asks a side of a comparison a query.
type Ask<'a> = Box<dyn FnMut() -> usize + 'a>;

fn in_process<'a>(direct: &'a Direct, plain: &'a Plain, queries: &[Query], rounds: usize) {
    report::heading(
        "in process: tantivy plainly used, egret (totals not counted; counted to 10,000)",
    );
    compare(queries, rounds, ["egret", "with totals"], |query| -> [Ask<'a>; 3] {
        let same: SearchRequest = request(query, TrackTotalHits::Off);
        let counting = request(query, TrackTotalHits::UpTo(10_000));
        let (hits, bytes) = plain.search(query);
        let found = direct.search(&same);
        if query.class == Class::Aggregation {
            assert!(bytes > 0, "an empty aggregation");
        } else {
            assert_eq!(hits, found.0, "both sides must find as many hits of {query:?}");
        }
        let query = query.clone();
        [
            Box::new(move || plain.search(&query).1),
            Box::new(move || direct.search(&same).1),
            Box::new(move || direct.search(&counting).1),
        ]
    });
}

fn over_http(port: u16, plain: &Plain, queries: &[Query], rounds: usize) {
    let client = RefCell::new(Client::connect(port));
    report::heading("over HTTP: tantivy in process, egret with its cache off, and from the cache");
    let ask = |path: String, query: &Query| {
        let body = query.body().to_string();
        let client = &client;
        move || client.borrow_mut().send("POST", &path, "application/json", body.as_bytes()).len()
    };
    compare(queries, rounds, ["cache off", "cached"], |query| -> [Ask<'_>; 3] {
        let asked = query.clone();
        [
            Box::new(move || plain.search(&asked).1),
            Box::new(ask(format!("/{INDEX}/_search?request_cache=false"), query)),
            Box::new(ask(format!("/{INDEX}/_search"), query)),
        ]
    });
}

/// Times of three sides: of each query its median.
#[derive(Debug, Default)]
struct Times([Vec<Duration>; 3]);

impl Times {
    fn line(&mut self, name: &str) {
        let totals = self.0.each_ref().map(|times| times.iter().sum::<Duration>());
        let [plain, first, second] = self.0.each_mut().map(|times| ms(quantile(times, 0.5)));
        let ratio = |side: usize| totals[0].as_secs_f64() / totals[side].as_secs_f64();
        let count = self.0[0].len();
        let rate = |side: usize| count as f64 / totals[side].as_secs_f64();
        report::line(&format!(
            "{name:<11} {count:>4} {:>8.0} {plain:>7} {:>8.0} {first:>7} {:>6.2} {:>8.0} {second:>7} \
             {:>6.2}",
            rate(0),
            rate(1),
            ratio(1),
            rate(2),
            ratio(2),
        ));
    }
}

/// Asks three sides the same queries in turn, in rounds of which the first only warms.
fn compare<'a>(
    queries: &[Query],
    rounds: usize,
    names: [&str; 2],
    mut sides: impl FnMut(&Query) -> [Ask<'a>; 3],
) {
    let [first, second] = names;
    report::line(&format!(
        "{:<11} {:>4} {:>8} {:>7} {first:>16} {:>6} {second:>16} {:>6}",
        "per second", "", "tantivy", "ms", "ratio", "ratio"
    ));
    let mut all = Times::default();
    for class in Class::ALL {
        let mut asks: Vec<[Ask<'a>; 3]> =
            queries.iter().filter(|query| query.class == class).map(&mut sides).collect();
        let mut samples = vec![[const { Vec::new() }; 3]; asks.len()];
        for round in 0..=rounds {
            for side in 0..3 {
                measure(side, &mut asks, &mut samples, round > 0);
            }
        }
        let mut times = Times::default();
        for samples in &mut samples {
            for (side, samples) in samples.iter_mut().enumerate() {
                let median = quantile(samples, 0.5);
                times.0[side].push(median);
                all.0[side].push(median);
            }
        }
        times.line(&class.to_string());
    }
    all.line("all");
}

/// Asks one side every query once, so that each finds the caches as its own last query left them.
fn measure(side: usize, asks: &mut [[Ask<'_>; 3]], samples: &mut [[Vec<Duration>; 3]], keep: bool) {
    for (asks, samples) in asks.iter_mut().zip(samples) {
        let began = Instant::now();
        std::hint::black_box(asks[side]());
        let took = began.elapsed();
        if keep {
            samples[side].push(took);
        }
    }
}
