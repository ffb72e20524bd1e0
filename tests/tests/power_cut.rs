//! Power cuts: capture and engine in this process, over the simulated disk, against a real
//! PostgreSQL. The power goes at any disk operation; what was not synced survives only by chance.
//!
//! After every cut, before anything is read from the database again: every transaction that was
//! acknowledged to the database is in the indexes, and the sums are right. At the end of a run the
//! indexes equal the tables. `POWER_RUNS` seeded runs from `POWER_SEED` on, `LIVES` cuts each.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use egret_aof::disk::Disk;
use egret_aof::disk::sim::{Fault, SimDisk};
use egret_cdc::status::TableState;
use egret_cdc::{Pipeline, PipelineConfig, PipelineHandle, PipelineState};
use egret_engine::search::request::{Aggregation, AggregationKind, MetricField, SearchRequest};
use egret_engine::search::response::AggregationResult;
use egret_engine::{Engine, EngineOptions, Lsn};
use egret_tests::ledger::{self, Size};
use egret_tests::poll;
use egret_tests::postgres::{Cluster, ClusterOptions, Database};
use egret_tests::seeds::seeds;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use tokio::task::block_in_place;

const SIZE: Size = Size { accounts: 300, journal: 20 };

const TABLES: [&str; 3] = ["accounts", "journal", "marks"];

/// Every row: its index, its id there, and what its document must have.
const ROWS: &str = r"
    SELECT 'accounts', id::text, jsonb_build_object('balance', balance, 'changes', changes,
           'kind', kind, 'note', note, 'payload', payload)::text FROM accounts
    UNION ALL
    SELECT 'journal', replace(replace(day, '\', '\\'), ',', '\,') || ',' || line,
           jsonb_build_object('amount', amount)::text FROM journal
    UNION ALL
    SELECT 'marks', n::text, jsonb_build_object('n', n)::text FROM marks";

/// Seeded runs at once: as many as CI has processors.
const SEEDS_AT_ONCE: usize = 2;

/// Cuts of one run.
const LIVES: usize = 10;
/// Of these, the ones before the copy must have ended.
const LIVES_AT_FIRST: usize = 3;

/// The longest life, where the copy or the fault's operation does not come.
const LONGEST_LIFE: Duration = Duration::from_secs(20);

/// Marks that may be committed and not seen in the index yet.
const MAX_AHEAD: usize = 500;

/// Transactions that each leave a mark, with a position at or after its commit.
#[derive(Debug, Default)]
struct Marks {
    /// Guards the list alone.
    committed: Mutex<Vec<Lsn>>,
    stop: AtomicBool,
    /// Whether the journal is not to be rewritten.
    calm: AtomicBool,
    /// How many have been seen in the index.
    seen: AtomicUsize,
}

impl Marks {
    fn count(&self) -> usize {
        self.committed.lock().len()
    }

    /// Takes note of how far the index is.
    fn see(&self, visible: Lsn) {
        let seen = self.committed.lock().partition_point(|&lsn| lsn <= visible);
        self.seen.fetch_max(seen, Ordering::Relaxed);
    }

    fn is_far_ahead(&self) -> bool {
        self.count() > self.seen.load(Ordering::Relaxed) + MAX_AHEAD
    }
}

/// Commits mark after mark, each with other changes that keep the sums.
async fn leave_marks(client: tokio_postgres::Client, marks: Arc<Marks>, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    while !marks.stop.load(Ordering::Relaxed) {
        // What follows may be slower than the database, and would never get there.
        if marks.is_far_ahead() {
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        }
        let mark = marks.count();
        let (one, two) = (random.random_range(1..=300), random.random_range(1..=300));
        let change = match random.random_range(0..10) {
            0 => format!("SELECT open_account({one}, 10)"),
            1 => format!("SELECT close_account({one}, {two})"),
            2 => format!("SELECT rename_account({one})"),
            3 if !marks.calm.load(Ordering::Relaxed) => {
                format!("SELECT rewrite_journal({mark})")
            }
            4 => "SELECT churn(100)".to_owned(),
            _ => format!("SELECT transfer({one}, {two}, 3)"),
        };
        let statements = format!("BEGIN; INSERT INTO marks VALUES ({mark}); {change}; COMMIT");
        client.batch_execute(&statements).await.unwrap();
        let query = "SELECT pg_current_wal_flush_lsn()::text";
        let lsn: String = client.query_one(query, &[]).await.unwrap().get(0);
        marks.committed.lock().push(lsn.parse().unwrap());
    }
}

type Followed = egret_cdc::Result<PipelineHandle>;

/// One run's database, and what is known of it.
struct Run {
    database: Database,
    marks: Arc<Marks>,
    /// The first mark that was committed after the copy had been seen to be done.
    first_streamed: Option<usize>,
    /// Whether a mark of the stream was acknowledged: from then on there is no copy any more.
    established: bool,
}

/// What one life ended with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    PowerCut,
    Opening,
}

impl Run {
    fn config(&self) -> PipelineConfig {
        PipelineConfig {
            url: self.database.url(),
            tables: TABLES.map(str::to_owned).to_vec(),
            slot: Some(format!("egret_{}", self.database.name())),
            copy_workers: 1,
            copy_batch_bytes: 8192,
            copy_range_blocks: 2,
            acknowledge_interval_ms: 10,
            reconnect_max_ms: 200,
            ..PipelineConfig::default()
        }
    }

    /// Follows the database on this disk until its power is cut.
    async fn live(&mut self, disk: &SimDisk) -> End {
        let Ok(engine) = open(disk) else { return End::Opening };
        self.check_survivors(&engine).await;
        let pipeline = match self.follow(disk, &engine) {
            Ok(pipeline) => pipeline,
            // The cut came as it opened its folder.
            Err(_) if disk.exists(Path::new("/")).is_err() => return End::Opening,
            Err(error) => panic!("not followed without a fault: {error}"),
        };
        let begin = Instant::now();
        while disk.exists(Path::new("/")).is_ok() && begin.elapsed() < LONGEST_LIFE {
            self.look(&pipeline);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        pipeline.stop().await;
        End::PowerCut
    }

    /// A life without a cut, until a mark that was streamed is acknowledged. Meanwhile the journal is
    /// not rewritten: a copy that meets that begins again.
    async fn settle_in(&mut self, disk: &SimDisk) {
        self.marks.calm.store(true, Ordering::Relaxed);
        let engine = open(disk).unwrap();
        self.check_survivors(&engine).await;
        let pipeline = self.follow(disk, &engine).unwrap();
        // On a slow machine there may be much to catch up with: it must not stand still.
        let (mut progress, mut since) = (None, Instant::now());
        while !self.established {
            self.look(&pipeline);
            self.check_survivors(&engine).await;
            let status = pipeline.status();
            let now = Some((status.rows_copied, status.rows_streamed, status.lsn.visible));
            if now != progress {
                (progress, since) = (now, Instant::now());
            }
            assert!(since.elapsed() < poll::DEADLINE, "not following: {status:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        pipeline.stop().await;
        self.marks.calm.store(false, Ordering::Relaxed);
    }

    fn follow(&self, disk: &SimDisk, engine: &Arc<Engine>) -> Followed {
        let disk: Arc<dyn Disk> = Arc::new(disk.clone());
        let folder = PathBuf::from("/data/pipelines/main");
        Pipeline::start(self.config(), Arc::clone(engine), disk, folder)
    }

    /// Notes when the copy is done, and that it is not done again.
    fn look(&mut self, pipeline: &PipelineHandle) {
        let status = pipeline.status();
        self.marks.see(status.lsn.visible.unwrap_or_default());
        assert_ne!(status.state, PipelineState::Resnapshot, "{:?}", status.reason);
        assert_ne!(status.state, PipelineState::Refused, "{:?}", status.reason);
        assert!(!self.established || status.copies == 0, "copied again: {status:?}");
        let streaming = status.state == PipelineState::Streaming
            && status.tables.len() == 3
            && status.tables.iter().all(|table| table.state == TableState::Streaming);
        if streaming && self.first_streamed.is_none() {
            // One mark may be underway.
            self.first_streamed = Some(self.marks.count() + 1);
        }
    }

    /// What was acknowledged is there, and the sums are right.
    async fn check_survivors(&mut self, engine: &Arc<Engine>) {
        let Some(acknowledged) = self.acknowledged().await else { return };
        let acknowledged: Vec<usize> = {
            let committed = self.marks.committed.lock();
            (0..committed.len()).filter(|&mark| committed[mark] <= acknowledged).collect()
        };
        let streamed = |first: usize| acknowledged.last().is_some_and(|&last| last >= first);
        self.established |= self.first_streamed.is_some_and(streamed);
        if !self.established {
            return;
        }
        block_in_place(|| {
            let snapshot = engine.index("marks").unwrap().snapshot();
            for mark in acknowledged {
                let found = snapshot.document(&mark.to_string()).unwrap();
                assert!(found.is_some(), "mark {mark} was acknowledged and is lost");
            }
            assert_eq!(sum(engine, "accounts", "balance"), SIZE.balances());
            assert_eq!(sum(engine, "journal", "amount"), SIZE.amounts());
        });
    }

    /// How far the slot was told that changes are durable.
    async fn acknowledged(&self) -> Option<Lsn> {
        let query = "SELECT confirmed_flush_lsn::text FROM pg_replication_slots
                      WHERE database = current_database() AND NOT temporary";
        let row = self.database.client().query_opt(query, &[]).await.unwrap()?;
        row.get::<_, Option<String>>(0).map(|lsn| lsn.parse().unwrap())
    }

    /// The last life: everything arrives, once.
    async fn finish(mut self, disk: &SimDisk) {
        let engine = open(disk).unwrap_or_else(|error| panic!("the disk does not open: {error}"));
        self.check_survivors(&engine).await;
        let pipeline = self.follow(disk, &engine).unwrap();
        self.marks.stop.store(true, Ordering::Relaxed);
        let lsn: Lsn = self.database.flush_lsn().await.parse().unwrap();
        poll::until_stuck("everything is visible", async || {
            let status = pipeline.status();
            let visible = status.lsn.visible.is_some_and(|visible| visible >= lsn);
            let progress = (status.state, status.reason, status.lsn.visible);
            if visible && progress.0 == PipelineState::Streaming { Ok(()) } else { Err(progress) }
        })
        .await;
        let rows = self.database.client().query(ROWS, &[]).await.unwrap();
        block_in_place(|| {
            let mut counts = [0_u64; 3];
            for row in &rows {
                let (index, id, expected): (&str, &str, &str) =
                    (row.get(0), row.get(1), row.get(2));
                counts[TABLES.iter().position(|table| *table == index).unwrap()] += 1;
                let found = engine.index(index).unwrap().snapshot().document(id).unwrap();
                let found = found.unwrap_or_else(|| panic!("{index} {id} is missing"));
                let mut shown: Value = serde_json::from_slice(&found.source).unwrap();
                let expected: Value = serde_json::from_str(expected).unwrap();
                let wanted = expected.as_object().unwrap();
                shown.as_object_mut().unwrap().retain(|field, _| wanted.contains_key(field));
                assert_eq!(shown, expected, "{index} {id}");
            }
            let held = TABLES.map(|index| engine.index(index).unwrap().snapshot().doc_count());
            assert_eq!(held, counts, "more than there should be");
            assert_eq!(sum(&engine, "accounts", "balance"), SIZE.balances());
        });
        pipeline.stop().await;
    }
}

fn open(disk: &SimDisk) -> egret_engine::Result<Arc<Engine>> {
    let options = EngineOptions {
        disk: Arc::new(disk.clone()),
        folder: PathBuf::from("/data"),
        indexing_budget_bytes: 32 << 20,
        limits: egret_engine::Limits::default(),
    };
    let engine = block_in_place(|| Engine::open(options))?;
    // Opening may have met the cut in one index only.
    let damaged = engine.damaged();
    if !damaged.is_empty() {
        assert!(disk.exists(Path::new("/")).is_err(), "damaged without a fault: {damaged:?}");
        return Err(egret_engine::Error::new(egret_engine::ErrorKind::Io, "the power is gone"));
    }
    Ok(Arc::new(engine))
}

/// The sum of a field, through search.
fn sum(engine: &Engine, index: &str, field: &str) -> i64 {
    let field = MetricField { field: field.to_owned(), missing: None };
    let kind = AggregationKind::Sum(field);
    let aggregations = vec![("sum".to_owned(), Aggregation { kind, sub: Vec::new() })];
    let request = SearchRequest { size: 0, aggregations, ..SearchRequest::default() };
    let snapshot = engine.index(index).unwrap().snapshot();
    let response = egret_engine::search::search(&[snapshot], &request).unwrap();
    match &response.aggregations[0].1 {
        #[expect(clippy::cast_possible_truncation, reason = "sums of whole numbers below 2^53")]
        AggregationResult::Value { value, .. } => value.unwrap_or_default() as i64,
        other => panic!("not a sum: {other:?}"),
    }
}

/// One run: as many cuts as it has lives, and the comparison.
async fn run(cluster: Arc<Cluster>, seed: u64) -> usize {
    let mut random = StdRng::seed_from_u64(seed);
    let database = Database::create_on(&cluster).await;
    ledger::create(&database, SIZE).await;
    database.execute("CREATE TABLE marks (n bigint PRIMARY KEY)").await;
    let marks = Arc::new(Marks::default());
    let writer = tokio::spawn(leave_marks(database.connect().await, Arc::clone(&marks), seed));
    let mut run = Run { database, marks, first_streamed: None, established: false };
    let mut disk = SimDisk::new();
    let mut cuts = 0;
    for life in 0..LIVES {
        // The first lives may end within the copy; the others follow.
        if life == LIVES_AT_FIRST {
            run.settle_in(&disk).await;
        }
        disk.fail_at(disk.operations() + random.random_range(1..1500), Fault::PowerCut);
        cuts += usize::from(run.live(&disk).await == End::PowerCut);
        // A killed process leaves everything in the page cache, for the next cut to take.
        let killed = random.random_ratio(1, 4);
        disk = if killed { disk.kill() } else { disk.power_cut(random.random()) };
    }
    run.marks.stop.store(true, Ordering::Relaxed);
    writer.await.unwrap();
    run.finish(&disk).await;
    cuts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_was_acknowledged_survives_power_cuts() {
    let seeds = seeds(8);
    let cluster = Arc::new(block_in_place(|| Cluster::start(ClusterOptions::default())));
    let cuts = poll::each_seed(seeds, SEEDS_AT_ONCE, |seed| run(Arc::clone(&cluster), seed)).await;
    let (runs, cuts) = (cuts.len(), cuts.into_iter().sum::<usize>());
    poll::report(&format!("{cuts} power cuts and kills while following, {runs} runs"));
}
