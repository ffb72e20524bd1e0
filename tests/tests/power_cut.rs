//! Power cuts: capture and engine in this process, over the simulated disk, against a real
//! PostgreSQL. The power goes at any disk operation; what was not synced survives only by chance.
//!
//! After every cut, before anything is read from the database again: every transaction that was
//! acknowledged to the database is in the indexes, and the sums are right. At the end of a run the
//! indexes equal the tables. `POWER_RUNS` seeded runs from `POWER_SEED` on, `LIVES` cuts each.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::block_in_place;

const SIZE: Size = Size { accounts: 300, journal: 20 };

/// Cuts of one run.
const LIVES: usize = 10;

/// The longest life, where the copy or the fault's operation does not come.
const LONGEST_LIFE: Duration = Duration::from_secs(20);

/// Transactions that each leave a mark, with a position at or after its commit.
#[derive(Debug, Default)]
struct Marks {
    /// Guards the list alone.
    committed: Mutex<Vec<Lsn>>,
    stop: AtomicBool,
}

impl Marks {
    fn count(&self) -> usize {
        self.committed.lock().len()
    }
}

/// Commits mark after mark, each with other changes that keep the sums.
async fn leave_marks(client: tokio_postgres::Client, marks: Arc<Marks>, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    while !marks.stop.load(Ordering::Relaxed) {
        let mark = marks.count();
        let (one, two) = (random.random_range(1..=300), random.random_range(1..=300));
        let change = match random.random_range(0..10) {
            0 => format!("SELECT open_account({one}, 10)"),
            1 => format!("SELECT close_account({one}, {two})"),
            2 => format!("SELECT rename_account({one})"),
            3 => format!("SELECT rewrite_journal({mark})"),
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
            tables: ["accounts", "journal", "marks"].map(str::to_owned).to_vec(),
            slot: Some(format!("egret_{}", self.database.name())),
            copy_workers: 1,
            copy_batch_bytes: 8192,
            copy_range_blocks: 2,
            acknowledge_interval_ms: 10,
            reconnect_max_ms: 200,
            ..PipelineConfig::default()
        }
    }

    /// Follows the database on this disk until its power is cut, `operations` of the disk after the
    /// beginning, or after the stream has begun.
    async fn live(&mut self, disk: &SimDisk, operations: u64, at_once: bool) -> End {
        let cut = |disk: &SimDisk| {
            disk.fail_at(disk.operations() + operations, Fault::PowerCut);
            true
        };
        let mut armed = at_once && cut(disk);
        let Ok(engine) = open(disk) else { return End::Opening };
        self.check_survivors(&engine).await;
        let pipeline = self.follow(disk, &engine);
        let mut begin = Instant::now();
        while disk.exists(Path::new("/")).is_ok() && begin.elapsed() < LONGEST_LIFE {
            self.look(&pipeline);
            if !armed && self.first_streamed.is_some() {
                armed = cut(disk);
                begin = Instant::now();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        pipeline.stop().await;
        End::PowerCut
    }

    fn follow(&self, disk: &SimDisk, engine: &Arc<Engine>) -> PipelineHandle {
        let disk: Arc<dyn Disk> = Arc::new(disk.clone());
        let folder = PathBuf::from("/data/pipelines/main");
        Pipeline::start(self.config(), Arc::clone(engine), disk, folder).unwrap()
    }

    /// Notes when the copy is done, and that it is not done again.
    fn look(&mut self, pipeline: &PipelineHandle) {
        let status = pipeline.status();
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
        let pipeline = self.follow(disk, &engine);
        self.marks.stop.store(true, Ordering::Relaxed);
        let lsn: Lsn = self.database.flush_lsn().await.parse().unwrap();
        poll::until("everything is visible", async || {
            let status = pipeline.status();
            (status.lsn.visible? >= lsn && status.state == PipelineState::Streaming).then_some(())
        })
        .await;
        let query = "SELECT 'accounts', id::text, md5(balance || note) FROM accounts UNION ALL
                     SELECT 'marks', n::text, md5(n::text) FROM marks";
        let rows = self.database.client().query(query, &[]).await.unwrap();
        block_in_place(|| {
            let mut counts = [0_u64; 2];
            for row in &rows {
                let (index, id): (&str, &str) = (row.get(0), row.get(1));
                counts[usize::from(index == "marks")] += 1;
                let found = engine.index(index).unwrap().snapshot().document(id).unwrap();
                assert!(found.is_some(), "{index} {id} is missing");
            }
            let held = |index| engine.index(index).unwrap().snapshot().doc_count();
            assert_eq!([held("accounts"), held("marks")], counts, "more than there should be");
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
        // The first lives may end within the copy; one then lasts until the stream has begun.
        let at_once = life < 3 || run.first_streamed.is_some();
        let operations = random.random_range(1..1500);
        cuts += usize::from(run.live(&disk, operations, at_once).await == End::PowerCut);
        disk = disk.power_cut(random.random());
    }
    assert!(run.established, "no life was long enough to follow");
    run.marks.stop.store(true, Ordering::Relaxed);
    writer.await.unwrap();
    run.finish(&disk).await;
    cuts
}

fn setting(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).unwrap_or_default();
    if text.is_empty() { default } else { text.parse().unwrap() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_was_acknowledged_survives_power_cuts() {
    let (first, runs) = (setting("POWER_SEED", 1), setting("POWER_RUNS", 20));
    let cluster = Arc::new(block_in_place(|| Cluster::start(ClusterOptions::default())));
    let cuts = poll::each_seed(first..first + runs, |seed| run(Arc::clone(&cluster), seed)).await;
    let cuts: usize = cuts.into_iter().sum();
    poll::report(&format!("{cuts} power cuts while following, {runs} runs"));
}
