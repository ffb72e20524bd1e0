//! The campaign: Egret follows two tables under a load that moves amounts between rows, is killed
//! with `kill -9` in its copy, inside a large transaction and anywhere else, and started again on the
//! same folder. In between the network fails, PostgreSQL is stopped and killed, and columns come, go
//! and are rewritten. The sums asked of the index never change once the first copy is done, and at the
//! end the index equals the tables.
//!
//! `CHAOS_RUNS` seeded runs from `CHAOS_SEED` on, `CHAOS_AT_ONCE` of them at a time, three kills and
//! three faults each, of which every hit is printed; a failure names its seed.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod faults;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use egret_tests::egret::Egret;
use egret_tests::ledger::{self, Load, Prober, Size, big_transaction, compare, status};
use egret_tests::poll;
use egret_tests::postgres::{Cluster, ClusterOptions, Database, Stop};
use egret_tests::proxy::Proxy;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use tokio::task::block_in_place;

use self::faults::{Fault, Ground};

/// Large enough that the big transaction takes a while. The copy is slowed down.
const SIZE: Size = Size { accounts: 12_000, journal: 200 };

/// Bytes that the copy reads a second.
const COPY_RATE: &str = "1500000";

/// Rows that the big transaction changes.
const BIG: u32 = 10_000;

/// So many times smaller is one that tells how long it may take.
const SMALLER: u32 = 10;

/// Tries to hit the inside of a big transaction.
const TRIES: usize = 10;

/// Runs, and how many of them at once. A run often waits, so that there may be more than processors.
const RUNS: u64 = 50;
const RUNS_AT_ONCE: u64 = 3;

/// A server that is stopped, of which every run has a copy. The load's transactions wait for one
/// another; deadlocks are part of it.
fn template() -> Arc<Cluster> {
    let cluster = Cluster::start(ClusterOptions::default());
    cluster.stop(Stop::Fast);
    Arc::new(cluster)
}

/// Where a kill hit, as last seen before it.
#[derive(Debug)]
enum Hit {
    Copy { rows_copied: u64 },
    BigTransaction { handed_over: bool, after: Duration },
    Anywhere { after: Duration },
}

impl fmt::Display for Hit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Copy { rows_copied } => {
                write!(f, "in the copy, {rows_copied} of {} rows copied", SIZE.accounts)
            }
            Self::BigTransaction { handed_over, after } => {
                let part = if *handed_over { "applied" } else { "gathered" };
                write!(f, "inside a {BIG}-row transaction while it is {part}, ")?;
                write!(f, "{after:.0?} after its commit")
            }
            Self::Anywhere { after } => write!(f, "while following, after {after:?}"),
        }
    }
}

/// A position as a number, to be compared.
fn position(lsn: &str) -> u64 {
    let (high, low) = lsn.split_once('/').unwrap();
    u64::from_str_radix(high, 16).unwrap() << 32 | u64::from_str_radix(low, 16).unwrap()
}

/// Kills the server when a random part of the rows is copied.
async fn kill_in_copy(egret: &mut Egret, random: &mut StdRng) -> Hit {
    let wanted = random.random_range(0..SIZE.accounts * 3 / 4);
    let rows_copied = poll::until("the copy goes on", async || {
        let status = status(egret).await?;
        let tables = status["tables"].as_array()?;
        let table = tables.iter().find(|table| table["index"] == "accounts")?;
        assert_ne!(table["state"], "streaming", "the copy was over before {wanted} rows: {status}");
        let copied = table["rows_copied"].as_u64()?;
        (table["state"] == "copying" && copied >= u64::from(wanted)).then_some(copied)
    })
    .await;
    block_in_place(|| egret.kill());
    Hit::Copy { rows_copied }
}

/// Kills the server between the commit of a big transaction and its publication.
async fn kill_in_big_transaction(
    database: &Database,
    egret: &mut Egret,
    random: &mut StdRng,
) -> Hit {
    // How long one may take from its commit until it is seen, at the moment: a small one tells.
    let committed = big_transaction(database.client(), BIG / SMALLER).await;
    let begin = Instant::now();
    wait_until_visible(egret, &committed).await;
    let mut expected = begin.elapsed() * SMALLER;
    for _ in 0..TRIES {
        let pause = expected.mul_f64(random.random_range(0.0..0.9));
        let before = database.flush_lsn().await;
        wait_until_visible(egret, &before).await;
        let committed = big_transaction(database.client(), BIG).await;
        let begin = Instant::now();
        tokio::time::sleep(pause).await;
        let status = status(egret).await.unwrap();
        let lsn = |name: &str| position(status["lsn"][name].as_str().unwrap_or("0/0"));
        let seen = lsn("visible");
        // What came before it is seen, and it is not: Egret is inside it.
        if position(&before) <= seen && seen < position(&committed) {
            block_in_place(|| egret.kill());
            let handed_over = lsn("received") >= position(&committed);
            return Hit::BigTransaction { handed_over, after: begin.elapsed() };
        }
        wait_until_visible(egret, &committed).await;
        expected /= 2;
    }
    panic!("a {BIG}-row transaction was never caught in {TRIES} tries, the last in {expected:?}")
}

async fn wait_until_visible(egret: &Egret, lsn: &str) {
    poll::until("a big transaction is visible", async || {
        let status = status(egret).await?;
        let visible = status["lsn"]["visible"].as_str()?;
        (position(visible) >= position(lsn)).then_some(())
    })
    .await;
}

async fn kill_anywhere(egret: &mut Egret, random: &mut StdRng) -> Hit {
    let after = Duration::from_millis(random.random_range(0..1500));
    tokio::time::sleep(after).await;
    block_in_place(|| egret.kill());
    Hit::Anywhere { after }
}

/// One run: three kills and as many faults, and the comparison.
async fn run(template: Arc<Cluster>, seed: u64) -> (Vec<Hit>, Vec<Fault>) {
    let mut random = StdRng::seed_from_u64(seed);
    let cluster = block_in_place(|| Arc::new(template.start_copy(ClusterOptions::default())));
    let mut database = Database::create_on(&cluster).await;
    ledger::create(&database, SIZE).await;
    let load = Load::start(&database, SIZE.accounts, seed, 2).await;
    let proxy = Proxy::start(cluster.port()).await;
    let url = proxy.url(&database.url(), cluster.port());
    let options = ledger::following_at(&url)
        .with("copy_max_bytes_per_second", COPY_RATE)
        .with("watch_interval_ms", "200")
        .with("connect_timeout_ms", "2000");
    let mut egret = block_in_place(|| Egret::start(options));
    let mut hits = Vec::new();
    note(seed, &mut hits, kill_in_copy(&mut egret, &mut random).await);
    block_in_place(|| egret.resume());
    ledger::wait_until_streaming(&database, &egret).await;
    let resumed = rows_resumed(&egret).await;
    poll::report(&format!("seed {seed}: the copy went on after {resumed} rows"));
    let prober = Prober::start(SIZE);
    prober.watch(&egret);
    let (mut columns, mut next_column, mut happened) = (Vec::new(), 0, Vec::new());
    let mut steps: Vec<Step> = (0..Ground::KINDS).map(Step::Fault).collect();
    steps.extend([Step::KillInside, Step::KillAnywhere]);
    steps.shuffle(&mut random);
    for step in steps {
        let hit = match step {
            Step::Fault(kind) => {
                let (columns, next_column) = (&mut columns, &mut next_column);
                let (database, egret, proxy) = (&mut database, &egret, &proxy);
                let mut ground = Ground { database, egret, proxy, columns, next_column };
                let fault = ground.happens(kind, &mut random).await;
                poll::report(&format!("seed {seed}: {fault}"));
                happened.push(fault);
                continue;
            }
            Step::KillInside => {
                ledger::wait_until_streaming(&database, &egret).await;
                kill_in_big_transaction(&database, &mut egret, &mut random).await
            }
            Step::KillAnywhere => kill_anywhere(&mut egret, &mut random).await,
        };
        note(seed, &mut hits, hit);
        block_in_place(|| egret.resume());
        prober.watch(&egret);
    }
    let counts = load.stop().await;
    ledger::wait_until_streaming(&database, &egret).await;
    let rows = compare(&database, &egret).await;
    let probes = prober.stop().await;
    assert!(probes > 0, "the sums were never asked for");
    let status = status(&egret).await.unwrap();
    if !happened.iter().any(|fault| fault.copies) {
        assert_eq!(status["copies"], 0, "a restart after the copy copies again: {status}");
    }
    let dead = egret.get("/_cdc/main/dead").await.ok();
    assert_eq!(dead["total"], 0, "{dead} {status}");
    poll::report(&format!(
        "seed {seed}: {counts}; the sums were right {probes} times; {rows} rows are equal"
    ));
    (hits, happened)
}

/// Rows of the larger table that were not read again after the kill in the copy.
async fn rows_resumed(egret: &Egret) -> u64 {
    let status = status(egret).await.unwrap();
    let tables = status["tables"].as_array().unwrap();
    tables.iter().filter_map(|table| table["rows_resumed"].as_u64()).sum()
}

/// A step of a run.
#[derive(Debug, Clone, Copy)]
enum Step {
    Fault(u32),
    KillInside,
    KillAnywhere,
}

/// Says where a kill hit, and keeps it.
fn note(seed: u64, hits: &mut Vec<Hit>, hit: Hit) {
    hits.push(hit);
    let hit = &hits[hits.len() - 1];
    poll::report(&format!("seed {seed}, kill {}: {hit}", hits.len()));
}

fn setting(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).unwrap_or_default();
    if text.is_empty() { default } else { text.parse().unwrap() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_index_equals_the_tables_after_every_kill() {
    let (first, runs) = (setting("CHAOS_SEED", 1), setting("CHAOS_RUNS", RUNS));
    let at_once = usize::try_from(setting("CHAOS_AT_ONCE", RUNS_AT_ONCE)).unwrap();
    let template = block_in_place(template);
    let begun = Instant::now();
    let run = |seed| run(Arc::clone(&template), seed);
    let runs = poll::each_seed(first..first + runs, at_once, run).await;
    let (number, took) = (runs.len(), begun.elapsed());
    let (hits, faults): (Vec<_>, Vec<_>) = runs.into_iter().unzip();
    let hits: Vec<Hit> = hits.into_iter().flatten().collect();
    let faults: Vec<Fault> = faults.into_iter().flatten().collect();
    let copies = hits.iter().filter(|hit| matches!(hit, Hit::Copy { .. })).count();
    let inside = hits.iter().filter(|hit| matches!(hit, Hit::BigTransaction { .. })).count();
    let (all, others) = (hits.len(), faults.len());
    poll::report(&format!(
        "{number} runs in {took:.0?}: {all} kills, {copies} in the copy, {inside} inside a transaction; \
         {others} other faults"
    ));
    assert!(copies * 3 >= all && inside * 3 >= all && others >= all);
}
