//! A pipeline over a database of its own, and what its indexes hold.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use egret_aof::disk::sim::SimDisk;
use egret_aof::disk::{Disk, FileDisk};
use egret_cdc::status::{TableState, TableStatus};
use egret_cdc::{
    LsnToken, Pipeline, PipelineConfig, PipelineHandle, PipelineState, PipelineStatus, WaitOutcome,
};
use egret_engine::batch::Batch;
use egret_engine::{Engine, EngineOptions, Index, Lsn};
use egret_tests::poll;
use egret_tests::postgres::Database;
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::block_in_place;

/// How long what was committed may take to be seen.
const WAIT: Duration = Duration::from_secs(300);

/// How often the tables are looked at.
pub(crate) const WATCH_INTERVAL: Duration = Duration::from_millis(200);

/// An engine and the pipeline that writes to it.
struct Running {
    engine: Arc<Engine>,
    pipeline: PipelineHandle,
}

/// A database that is followed.
pub(crate) struct Following {
    pub(crate) database: Database,
    pub(crate) config: PipelineConfig,
    running: Option<Running>,
    machine: Machine,
    folder: TempDir,
}

/// What the engine runs on.
pub(crate) struct Machine {
    /// Where files are.
    pub(crate) disk: Arc<dyn Disk>,
    /// Memory for young segments.
    pub(crate) indexing_budget_bytes: usize,
}

impl Default for Machine {
    fn default() -> Self {
        Self { disk: Arc::new(FileDisk), indexing_budget_bytes: 64 << 20 }
    }
}

impl Following {
    /// Makes a database with `tables`, and follows all of them until the copy is done.
    pub(crate) async fn start(tables: &str) -> Self {
        let database = Database::create().await;
        database.execute(tables).await;
        let following = Self::follow(database, |_| {});
        following.streams().await;
        following
    }

    /// Follows a database, with changes to the configuration.
    pub(crate) fn follow(database: Database, change: impl FnOnce(&mut PipelineConfig)) -> Self {
        Self::follow_on(Machine::default(), database, change)
    }

    /// The same, on a machine of the test's own.
    pub(crate) fn follow_on(
        machine: Machine,
        database: Database,
        change: impl FnOnce(&mut PipelineConfig),
    ) -> Self {
        let mut config = PipelineConfig {
            url: database.url(),
            slot: Some(format!("egret_{}", database.name())),
            acknowledge_interval_ms: 50,
            watch_interval_ms: WATCH_INTERVAL.as_millis().try_into().unwrap(),
            reconnect_max_ms: 1000,
            ..PipelineConfig::default()
        };
        change(&mut config);
        let folder = tempfile::tempdir().unwrap();
        let running = Some(run(folder.path(), &machine, &config));
        Self { database, config, running, machine, folder }
    }

    /// Ends the pipeline and the engine.
    pub(crate) async fn stop(&mut self) {
        self.end().await.unwrap();
    }

    /// Cuts the power of a simulated disk that it runs on. What may have survived, chosen by the seed, is
    /// what it starts from again.
    pub(crate) async fn cut_power(&mut self, disk: &SimDisk, seed: u64) -> SimDisk {
        let left = disk.power_cut(seed);
        // A closed engine would have flushed, which cannot be any more.
        drop(self.end().await);
        self.machine.disk = Arc::new(left.clone());
        left
    }

    async fn end(&mut self) -> egret_engine::Result<()> {
        let running = self.running.take().unwrap();
        let Running { pipeline, engine } = running;
        pipeline.stop().await;
        let closed = block_in_place(|| engine.close());
        drop(pipeline);
        // Tasks that were aborted let go of it in their own time, and it of its folder.
        poll::until("nobody has the engine", async || {
            (Arc::strong_count(&engine) == 1).then_some(())
        })
        .await;
        closed
    }

    /// Starts again after [`Following::stop`], from what is on disk.
    pub(crate) fn resume(&mut self) {
        self.running = Some(run(self.folder.path(), &self.machine, &self.config));
    }

    /// The pipeline.
    pub(crate) fn pipeline(&self) -> &PipelineHandle {
        &self.running.as_ref().unwrap().pipeline
    }

    fn index(&self, name: &str) -> Arc<Index> {
        self.running.as_ref().unwrap().engine.index(name).unwrap()
    }

    /// Waits until the log is followed.
    pub(crate) async fn streams(&self) {
        self.reaches(PipelineState::Streaming).await;
    }

    /// Waits until an attempt has failed, and says why in all of these words.
    pub(crate) async fn fails_with(&self, expected: &[&str]) {
        self.comes_to(&format!("{expected:?}"), |status| {
            let says = |error: &String| expected.iter().all(|words| error.contains(words));
            status.state != PipelineState::Streaming && status.last_error.as_ref().is_some_and(says)
        })
        .await;
    }

    /// Waits for a state.
    pub(crate) async fn reaches(&self, state: PipelineState) {
        self.comes_to(&format!("{state:?}"), |status| status.state == state).await;
    }

    /// Waits until the status is as it should be; shows it where it never is.
    pub(crate) async fn comes_to(&self, what: &str, is: impl Fn(&PipelineStatus) -> bool) {
        let begun = std::time::Instant::now();
        loop {
            let status = self.pipeline().status();
            if is(&status) {
                return;
            }
            assert!(begun.elapsed() < WAIT, "waited in vain: {what}: {status:#?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Runs statements as one transaction, and waits until every index of `indexes` shows them.
    pub(crate) async fn execute(&self, statements: &str, indexes: &[&str]) {
        self.database.execute(statements).await;
        self.shows(indexes).await;
    }

    /// Waits until indexes show everything that was committed.
    pub(crate) async fn shows(&self, indexes: &[&str]) {
        let token: LsnToken = self.database.flush_lsn().await.parse().unwrap();
        let indexes: Vec<Arc<Index>> = indexes.iter().map(|name| self.index(name)).collect();
        let outcome = self.pipeline().wait_for_lsn(&indexes, token, WAIT).await;
        let status = self.pipeline().status();
        assert!(matches!(outcome, WaitOutcome::Reached(_)), "{token}: {outcome:?} {status:#?}");
    }

    /// Has the room of a table's deleted rows used again, which is not before the sessions of a copy that
    /// was interrupted have ended, nor while a slot is made anywhere in the cluster.
    pub(crate) async fn vacuum(&self, table: &str) {
        let dead = "SELECT n_dead_tup FROM pg_stat_user_tables WHERE relid = $1::text::regclass";
        poll::until("nobody needs deleted rows", async || {
            self.database.execute(&format!("VACUUM {table}")).await;
            let row = self.database.client().query_one(dead, &[&table]).await.unwrap();
            (row.get::<_, i64>(0) == 0).then_some(())
        })
        .await;
    }

    /// What becomes of a reader of an index that waits for a position.
    pub(crate) async fn waits(&self, index: &str, token: LsnToken) -> WaitOutcome {
        self.pipeline().wait_for_lsn(&[self.index(index)], token, WAIT).await
    }

    /// A document.
    pub(crate) fn document(&self, index: &str, id: &str) -> Option<Value> {
        let index = self.index(index);
        let document = block_in_place(|| index.document(id)).unwrap()?;
        Some(serde_json::from_slice(&document.source).unwrap())
    }

    /// The text of a document.
    pub(crate) fn source(&self, index: &str, id: &str) -> Option<String> {
        let index = self.index(index);
        let document = block_in_place(|| index.document(id)).unwrap()?;
        Some(String::from_utf8(document.source.to_vec()).unwrap())
    }

    /// The same, on a thread that may block.
    pub(crate) fn source_now(&self, index: &str, id: &str) -> Option<String> {
        let document = self.index(index).document(id).unwrap()?;
        Some(String::from_utf8(document.source.to_vec()).unwrap())
    }

    /// Where an index's files are.
    pub(crate) fn index_folder(&self, index: &str) -> PathBuf {
        self.index_folder_if_any(index).unwrap()
    }

    /// The same, where there is such an index.
    pub(crate) fn index_folder_if_any(&self, index: &str) -> Option<PathBuf> {
        let index = self.running.as_ref().unwrap().engine.index(index).ok()?;
        Some(self.folder.path().join("indexes/indexes").join(index.uuid()))
    }

    /// How many documents an index shows.
    pub(crate) fn count(&self, index: &str) -> u64 {
        self.index(index).snapshot().doc_count()
    }

    /// The same, where there is such an index.
    pub(crate) fn count_if_any(&self, index: &str) -> Option<u64> {
        let index = self.running.as_ref().unwrap().engine.index(index).ok()?;
        Some(index.snapshot().doc_count())
    }

    /// Waits until so many rows are listed as dead letters.
    pub(crate) async fn lists(&self, letters: u64) {
        let what = format!("{letters} dead letters");
        poll::until(&what, async || {
            (self.pipeline().status().dead_letters == letters).then_some(())
        })
        .await;
    }

    /// Whether there is such an index.
    pub(crate) fn has_index(&self, index: &str) -> bool {
        self.running.as_ref().unwrap().engine.index(index).is_ok()
    }

    /// The mapping of an index.
    pub(crate) fn mapping(&self, index: &str) -> Value {
        self.index(index).mapping().to_json()
    }

    /// Waits until what an index remembers of its table has this text in it.
    pub(crate) async fn remembers(&self, index: &str, text: &str) {
        poll::until(&format!("[{index}] remembers [{text}]"), async || {
            self.index(index).copy_progress().filter(|progress| progress.contains(text))
        })
        .await;
    }

    /// Writes to an index what its pipeline knows nothing of.
    pub(crate) fn alter(&self, index: &str, batch: Batch) {
        let index = self.index(index);
        let outcome = block_in_place(|| index.write(batch)).unwrap();
        assert!(outcome.ops.iter().all(Result::is_ok), "{outcome:?}");
        block_in_place(|| index.refresh()).unwrap();
    }

    /// A position behind everything that was committed.
    pub(crate) async fn next_lsn(&self) -> Lsn {
        self.database.execute("SELECT pg_logical_emit_message(true, 'test', '')").await;
        self.database.flush_lsn().await.parse().unwrap()
    }

    /// Adds to the mapping of an index.
    pub(crate) fn put_mapping(&self, index: &str, addition: &Value) {
        let index = self.index(index);
        block_in_place(|| index.put_mapping(addition)).unwrap();
    }

    /// The settings of an index.
    pub(crate) fn settings(&self, index: &str) -> Value {
        self.index(index).settings()
    }

    /// What the status says of a table.
    pub(crate) fn table(&self, title: &str) -> Option<TableStatus> {
        self.pipeline().status().tables.into_iter().find(|table| table.table == title)
    }

    /// The list of rows that could not be indexed, as it is on disk.
    pub(crate) fn letters(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("pipeline/dead_letters.jsonl")).unwrap()
    }

    /// Whether the pipeline holds a temporary file of a transaction open.
    pub(crate) fn spools(&self) -> bool {
        let folder = self.folder.path().join("pipeline");
        let open = std::fs::read_dir("/proc/self/fd").unwrap();
        // Another thread may close a file meanwhile.
        let target = |entry: std::fs::DirEntry| std::fs::read_link(entry.path()).ok();
        let mut targets = open.filter_map(Result::ok).filter_map(target);
        targets.any(|path| path.starts_with(&folder) && path.to_string_lossy().contains(".spool"))
    }

    /// Waits until a table is followed.
    pub(crate) async fn follows(&self, title: &str) {
        self.comes_to(title, |status| {
            let table = status.tables.iter().find(|table| table.table == title);
            table.is_some_and(|table| table.state == TableState::Streaming)
        })
        .await;
    }

    /// Waits until a table is not followed, and says why.
    pub(crate) async fn skips(&self, title: &str) -> String {
        poll::until(title, async || {
            self.table(title).filter(|table| table.state == TableState::Skipped)?.reason
        })
        .await
    }

    /// Waits until the tables have been copied again, and all of them are followed.
    pub(crate) async fn copies_again(&self, before: u64) {
        self.comes_to("a new copy", |status| {
            let rests =
                |it: &TableStatus| matches!(it.state, TableState::Streaming | TableState::Skipped);
            status.copies > before
                && status.state == PipelineState::Streaming
                && status.tables.iter().all(rests)
        })
        .await;
    }

    /// Copies begun since the pipeline was started.
    pub(crate) fn copies(&self) -> u64 {
        self.pipeline().status().copies
    }

    /// Asserts that an index holds what a query gives as `(id, document)`, no more and no less.
    /// The expected documents are compared as JSON values.
    pub(crate) async fn equals(&self, index: &str, query: &str) {
        self.shows(&[index]).await;
        let rows = self.database.client().query(query, &[]).await.unwrap();
        assert_eq!(self.count(index), rows.len() as u64, "documents of {index}");
        for row in rows {
            let (id, expected): (String, String) = (row.get(0), row.get(1));
            let expected: Value = serde_json::from_str(&expected).unwrap();
            assert_eq!(self.document(index, &id), Some(expected), "{index} {id}");
        }
    }
}

fn run(folder: &Path, machine: &Machine, config: &PipelineConfig) -> Running {
    let disk = Arc::clone(&machine.disk);
    let options = EngineOptions {
        disk: Arc::clone(&disk),
        folder: folder.join("indexes"),
        indexing_budget_bytes: machine.indexing_budget_bytes,
        limits: egret_engine::Limits::default(),
    };
    let engine = Arc::new(block_in_place(|| Engine::open(options)).unwrap());
    let pipelines = folder.join("pipeline");
    let pipeline = Pipeline::start(config.clone(), Arc::clone(&engine), disk, pipelines).unwrap();
    Running { engine, pipeline }
}
