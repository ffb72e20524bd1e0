//! How fast documents are written and how soon they are found.
//!
//! ```text
//! cargo run --release --example writing -- FILE.jsonl.zst [FOLDER]
//! ```
//!
//! Writes every line of the file to an index that follows nothing and to one that follows a source,
//! then single rows at 100 and 1,000 a second to the second one while it holds everything, and
//! prints the time from each write to its publication.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a program for developers that prints its figures and stops at the first failure"
)]

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use egret_aof::disk::FileDisk;
use egret_engine::batch::{Batch, Condition, Refresh, WriteOp};
use egret_engine::{Checkpoint, Engine, EngineOptions, Index, IndexDefinition, Lsn};

const BATCH: usize = 1000;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let file = arguments.next().expect("a file of JSON lines, compressed with zstd");
    let folder = arguments.next().map_or_else(
        || std::env::temp_dir().join(format!("egret-writing-{}", std::process::id())),
        PathBuf::from,
    );
    let engine = Engine::open(EngineOptions {
        disk: Arc::new(FileDisk),
        folder: folder.clone(),
        indexing_budget_bytes: 256 << 20,
        limits: egret_engine::Limits::default(),
    })
    .unwrap();
    let lines = read(&file);
    println!("{} documents, {} MB", lines.len(), lines.iter().map(Bytes::len).sum::<usize>() >> 20);
    // Versions and months look like dates, now and then.
    let mappings = serde_json::json!({"date_detection": false});
    let definition = IndexDefinition { mappings, ..IndexDefinition::default() };
    let other = engine.create_index("translog", definition.clone()).unwrap();
    fill(&other, &lines, false);
    let pipeline = Some("bench".to_owned());
    let definition = IndexDefinition { pipeline, ..definition };
    let followed = engine.create_index("followed", definition).unwrap();
    fill(&followed, &lines, true);
    for rate in [100, 1000] {
        trickle(&followed, &lines, rate, true);
        trickle(&other, &lines, rate, false);
    }
    engine.close().unwrap();
    drop(engine);
    std::fs::remove_dir_all(folder).unwrap();
}

fn read(file: &str) -> Vec<Bytes> {
    let file = zstd::Decoder::new(std::fs::File::open(file).unwrap()).unwrap();
    BufReader::new(file).lines().map(|line| Bytes::from(line.unwrap())).collect()
}

fn upsert(id: usize, source: &Bytes) -> WriteOp {
    WriteOp::Upsert { id: id.to_string(), source: source.clone(), condition: Condition::None }
}

fn checkpoint(followed: bool, lsn: usize) -> Option<Checkpoint> {
    let lsn = Lsn(u64::try_from(lsn).unwrap());
    followed.then_some(Checkpoint { system_identifier: 1, timeline: 1, lsn })
}

fn fill(index: &Index, lines: &[Bytes], followed: bool) {
    let began = Instant::now();
    let mut receipts = Vec::new();
    for (number, chunk) in lines.chunks(BATCH).enumerate() {
        let ops = chunk.iter().enumerate().map(|(n, line)| upsert(number * BATCH + n, line));
        let checkpoint = checkpoint(followed, number + 1);
        let batch = Batch { ops: ops.collect(), checkpoint, ..Batch::default() };
        receipts.push(index.submit(batch).unwrap());
    }
    for receipt in receipts {
        let outcome = receipt.blocking_recv().unwrap().unwrap();
        outcome.ops.into_iter().for_each(|result| drop(result.unwrap()));
    }
    let written = began.elapsed();
    index.flush().unwrap();
    let stats = index.stats();
    println!(
        "{}: {} documents/s in batches of {BATCH}, flushed after {:.1} s, {} segments, {} MB",
        index.name(),
        lines.len() * 1000 / usize::try_from(written.as_millis()).unwrap().max(1),
        began.elapsed().as_secs_f64(),
        stats.segment_count,
        stats.size_bytes >> 20,
    );
}

fn trickle(index: &Index, lines: &[Bytes], rate: u32, followed: bool) {
    let (sender, receiver) = std::sync::mpsc::channel::<(Instant, egret_engine::index::Receipt)>();
    let collector = std::thread::spawn(move || {
        let took = receiver.into_iter().map(|(began, receipt)| {
            assert!(receipt.blocking_recv().unwrap().unwrap().published);
            began.elapsed()
        });
        took.collect::<Vec<Duration>>()
    });
    let began = Instant::now();
    let pause = Duration::from_secs(1) / rate;
    for n in 0..rate * 10 {
        let due = began + pause * n;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let id = (n as usize).wrapping_mul(7919) % lines.len();
        let checkpoint = checkpoint(followed, 1_000_000 + n as usize * rate as usize);
        let batch = Batch {
            ops: vec![upsert(id, &lines[id])],
            checkpoint,
            refresh: Refresh::WaitFor,
            ..Batch::default()
        };
        sender.send((Instant::now(), index.submit(batch).unwrap())).unwrap();
    }
    drop(sender);
    let mut took = collector.join().unwrap();
    took.sort();
    let percentile = |p: usize| took[(took.len() - 1) * p / 100].as_secs_f64() * 1000.0;
    println!(
        "{} at {rate}/s: p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms, {} segments, {} publications",
        index.name(),
        percentile(50),
        percentile(99),
        percentile(100),
        index.stats().segment_count,
        index.snapshot().generation().number,
    );
}
