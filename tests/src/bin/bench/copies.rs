//! The first copy of a table, beside Egret's engine called directly with the same rows, and beside
//! what it takes PostgreSQL to give them out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use egret_aof::disk::FileDisk;
use egret_engine::batch::{Batch, Condition, WriteOp};
use egret_engine::{Checkpoint, Engine, EngineOptions, IndexDefinition, Limits, Lsn};
use serde_json::Value;
use tempfile::TempDir;

use crate::client::Client;
use crate::corpus::Corpus;
use crate::followed::{Followed, TABLE};
use crate::rates::port;
use crate::report;

/// As `egret serve` has it where nothing is configured.
const BUDGET_BYTES: usize = 256 << 20;
const BATCH_BYTES: usize = 4 << 20;

/// Runs the part; without rounds only what others need. Leaves Egret following the table.
pub(crate) fn run(followed: &mut Followed, corpus: &Corpus, rounds: usize) {
    let mut copies = vec![followed.follow()];
    if rounds == 0 {
        return;
    }
    report::heading("copy: one table, until all of it is searchable");
    let path = format!("/{TABLE}/_mapping");
    let mapping = Client::connect(port(followed.egret())).json("GET", &path, &Value::Null);
    let mappings = &mapping[TABLE]["mappings"];
    let (mut direct, mut given_out) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        given_out.push(give_out(followed));
        direct.push(index(corpus, mappings));
        if round > 0 {
            copies.push(followed.follow());
        }
    }
    let rows = corpus.docs.len() as f64;
    let rate = |times: &mut Vec<Duration>| rows / report::quantile(times, 0.5).as_secs_f64();
    let (engine, copy) = (rate(&mut direct), rate(&mut copies));
    report::line(&format!("COPY TO STDOUT       {:>9.0} rows/s", rate(&mut given_out)));
    report::line(&format!("engine, in process   {engine:>9.0} rows/s"));
    let ratio = copy / engine;
    report::line(&format!("egret, from its start{copy:>9.0} rows/s  ratio {ratio:.2} (bar 0.75)"));
}

/// How long PostgreSQL takes to give out the rows.
fn give_out(followed: &Followed) -> Duration {
    let began = Instant::now();
    let bytes = followed.runtime.block_on(async {
        use futures_util::TryStreamExt as _;
        let copy = format!("COPY {TABLE} TO STDOUT");
        let pieces = followed.database.client().copy_out(&copy).await.expect("begin to copy");
        pieces.try_fold(0, async |sum, piece| Ok(sum + piece.len())).await.expect("copy")
    });
    assert!(bytes > 0, "the table is empty");
    began.elapsed()
}

/// How long the engine takes to index the same documents, in batches as a copy makes them, in an
/// index as a copy fills it.
fn index(corpus: &Corpus, mappings: &Value) -> Duration {
    let folder = TempDir::new().expect("a temporary folder");
    let engine = Engine::open(EngineOptions {
        disk: Arc::new(FileDisk),
        folder: folder.path().to_owned(),
        indexing_budget_bytes: BUDGET_BYTES,
        limits: Limits::default(),
    });
    let engine = engine.expect("open a data folder");
    let began = Instant::now();
    let definition = IndexDefinition {
        mappings: mappings.clone(),
        pipeline: Some("bench".to_owned()),
        ..IndexDefinition::default()
    };
    let index = engine.create_index(TABLE, definition).expect("make an index");
    let (row_lsn, mut receipts) = (Some(Lsn(1)), Vec::new());
    let (mut ops, mut bytes) = (Vec::new(), 0);
    let mut submit = |ops| {
        let batch = Batch { ops, row_lsn, ..Batch::default() };
        receipts.push(index.submit(batch).expect("hand over a batch"));
    };
    for (id, document) in corpus.docs.iter().enumerate() {
        let source = Bytes::copy_from_slice(document.as_bytes());
        bytes += source.len();
        ops.push(WriteOp::Upsert { id: id.to_string(), source, condition: Condition::None });
        if bytes >= BATCH_BYTES {
            bytes = 0;
            submit(std::mem::take(&mut ops));
        }
    }
    submit(ops);
    for receipt in receipts {
        receipt.blocking_recv().expect("an answer").expect("a batch");
    }
    let checkpoint = Checkpoint { system_identifier: 1, timeline: 1, lsn: Lsn(2) };
    index.advance(checkpoint).expect("a position");
    index.flush().expect("flush");
    let time = began.elapsed();
    assert_eq!(index.stats().doc_count, corpus.docs.len() as u64, "every row is searchable");
    engine.close().expect("close");
    time
}
