//! What sources take on disk, and how long they take to read and to merge, as they are given and
//! compressed.
//!
//! ```text
//! cargo run --release --example sources -- FILE.jsonl.zst [DOCUMENTS]
//! ```
//!
//! Writes the lines of the file to an index that indexes nothing of them but their ids, so that
//! merges have little else to do; reads ten documents at a time from all over it; merges it into one
//! segment, which compresses it; reads again; deletes a document and merges again, which copies.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a program for developers that prints its figures and stops at the first failure"
)]

use std::io::{BufRead, BufReader};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use egret_aof::disk::FileDisk;
use egret_engine::batch::{Batch, Condition, WriteOp};
use egret_engine::index::ForceMerge;
use egret_engine::snapshot::Snapshot;
use egret_engine::{Engine, EngineOptions, Index, IndexDefinition, Limits};

const BATCH: usize = 1000;
const FETCHES: usize = 20_000;
const TOP: usize = 10;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let file = arguments.next().expect("a file of JSON lines, compressed with zstd");
    let most = arguments.next().map_or(usize::MAX, |most| most.parse().unwrap());
    let folder = std::env::temp_dir().join(format!("egret-sources-{}", std::process::id()));
    let engine = Engine::open(EngineOptions {
        disk: Arc::new(FileDisk),
        folder: folder.clone(),
        indexing_budget_bytes: 256 << 20,
        limits: Limits { max_merge_bytes_per_second: 0, ..Limits::default() },
    })
    .unwrap();
    let file = zstd::Decoder::new(std::fs::File::open(file).unwrap()).unwrap();
    let lines = BufReader::new(file).lines().take(most).map(|line| Bytes::from(line.unwrap()));
    let lines: Vec<Bytes> = lines.collect();
    let given: usize = lines.iter().map(Bytes::len).sum();
    println!("{} documents, {} bytes each as given", lines.len(), given / lines.len());
    let mappings = serde_json::json!({"dynamic": false});
    let definition = IndexDefinition { mappings, ..IndexDefinition::default() };
    let index = engine.create_index("sources", definition).unwrap();
    fill(&index, &lines);
    // Taken before merges that run from now on are published.
    let raw = index.snapshot();
    describe(&index, "as given", lines.len());
    fetch(&raw, "as given", &lines);
    drop(raw);
    let merge = |what: &str| {
        let began = Instant::now();
        index.force_merge(ForceMerge::Down(1)).unwrap();
        let took = began.elapsed();
        println!("{what}: {:.1} s, {:.0} MB of documents a second", took.as_secs_f64(), {
            mb(given) / took.as_secs_f64()
        });
    };
    merge("merged, compressing");
    describe(&index, "compressed", lines.len());
    fetch(&index.snapshot(), "compressed", &lines);
    let op = WriteOp::Delete { id: "0".to_owned(), condition: Condition::None };
    index.write(Batch { ops: vec![op], ..Batch::default() }).unwrap();
    merge("merged again, copying");
    engine.close().unwrap();
    drop((index, engine));
    std::fs::remove_dir_all(folder).unwrap();
}

#[expect(clippy::cast_precision_loss, reason = "it is printed without decimals")]
fn mb(bytes: usize) -> f64 {
    bytes as f64 / 1e6
}

fn fill(index: &Index, lines: &[Bytes]) {
    let began = Instant::now();
    let mut receipts = Vec::new();
    for (number, chunk) in lines.chunks(BATCH).enumerate() {
        let ops = chunk.iter().zip(number * BATCH..).map(|(line, id)| WriteOp::Upsert {
            id: id.to_string(),
            source: line.clone(),
            condition: Condition::None,
        });
        let batch = Batch { ops: ops.collect(), ..Batch::default() };
        receipts.push(index.submit(batch).unwrap());
    }
    for receipt in receipts {
        drop(receipt.blocking_recv().unwrap().unwrap());
    }
    println!("written in {:.1} s", began.elapsed().as_secs_f64());
    index.refresh().unwrap();
}

fn describe(index: &Index, what: &str, documents: usize) {
    let segments = index.segments();
    let bytes: u64 = segments.iter().map(|segment| segment.files["source"]).sum();
    let each = usize::try_from(bytes).unwrap() / documents;
    println!("{what}: {} segments, {bytes} bytes of sources, {each} a document", segments.len());
}

/// Reads ten documents and their ids at a time, as a search does of its hits.
fn fetch(snapshot: &Snapshot, what: &str, lines: &[Bytes]) {
    let places: Vec<(usize, u32)> = (0..)
        .zip(snapshot.segments())
        .flat_map(|(segment, read)| read.reader().doc_ids_alive().map(move |doc| (segment, doc)))
        .collect();
    let mut next = 0_usize;
    let mut took: Vec<Duration> = (0..FETCHES)
        .map(|_| {
            let chosen: Vec<(usize, u32)> = (0..TOP)
                .map(|_| {
                    next = next.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695);
                    places[(next >> 16) % places.len()]
                })
                .collect();
            let began = Instant::now();
            let hits: Vec<(String, Bytes)> = chosen
                .into_iter()
                .map(|(segment, doc)| {
                    let segment = &snapshot.segments()[segment];
                    (segment.document_id(doc).unwrap(), segment.source(doc).unwrap())
                })
                .collect();
            let took = began.elapsed();
            for (id, source) in hits {
                assert_eq!(source, lines[id.parse::<usize>().unwrap()]);
            }
            took
        })
        .collect();
    took.sort();
    let at = |part: usize| took[(FETCHES - 1) * part / 100].as_nanos();
    println!("{what}: top {TOP} in {} ns at p50, {} at p99", at(50), at(99));
}
