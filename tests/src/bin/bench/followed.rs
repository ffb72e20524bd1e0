//! A table of PostgreSQL with the corpus as its rows, and an Egret that follows it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use egret_tests::egret::{Egret, EgretOptions};
use egret_tests::postgres::{Cluster, ClusterOptions, Database};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::client::Client;
use crate::corpus::Corpus;
use crate::rates::port;

/// The table with the corpus, and its index.
pub(crate) const TABLE: &str = "packages";

/// A table of the same columns, empty at first, and its index.
pub(crate) const STREAMED: &str = "streamed";

/// How long a copy or a stream may take.
const DEADLINE: Duration = Duration::from_secs(900);

/// A database, and who follows it.
pub(crate) struct Followed {
    pub(crate) runtime: Runtime,
    pub(crate) database: Database,
    egret: Option<Egret>,
    rows: usize,
}

impl Followed {
    /// Makes the database.
    pub(crate) fn fill(corpus: &Corpus) -> Self {
        let runtime = Runtime::new().expect("start a runtime");
        // As in production, commits wait for the disk.
        let cluster = Cluster::start(ClusterOptions { fsync: true, settings: Vec::new() });
        let database = runtime.block_on(Database::create_on(&Arc::new(cluster)));
        runtime.block_on(fill(&database, corpus));
        Self { runtime, database, egret: None, rows: corpus.docs.len() }
    }

    /// Who follows it.
    pub(crate) fn egret(&self) -> &Egret {
        self.egret.as_ref().expect("nobody follows the table")
    }

    /// Follows it from the beginning; how long that took, until every row was searchable.
    pub(crate) fn follow(&mut self) -> Duration {
        self.leave();
        let tables = format!("public.{TABLE},public.{STREAMED}");
        let began = Instant::now();
        let egret = Egret::start(EgretOptions::following(self.database.url(), &tables));
        wait_for_count(port(&egret), TABLE, self.rows);
        let time = began.elapsed();
        self.egret = Some(egret);
        time
    }

    /// Ends what follows it, with all that it has left in the database.
    fn leave(&mut self) {
        let Some(mut egret) = self.egret.take() else { return };
        egret.terminate();
        self.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
              WHERE database = current_database()",
        );
    }

    /// Runs statements.
    pub(crate) fn execute(&self, statements: &str) {
        self.runtime.block_on(self.database.execute(statements));
    }

    /// The first row of what a query gives.
    pub(crate) fn row(&self, query: &str) -> tokio_postgres::Row {
        let row = self.runtime.block_on(self.database.client().query_one(query, &[]));
        row.unwrap_or_else(|error| panic!("{query}: {error}"))
    }

    /// The pipeline's part of `GET /_cdc`.
    pub(crate) fn status(&self) -> Value {
        let mut client = Client::connect(port(self.egret()));
        client.json("GET", "/_cdc", &Value::Null)["pipelines"][0].take()
    }
}

async fn fill(database: &Database, corpus: &Corpus) {
    const CHUNK: usize = 10_000;
    let client = database.client();
    let create = format!(
        "CREATE TABLE {TABLE} (id bigint PRIMARY KEY, source text, name text, version text,
             month text, year int, downloads bigint, summary text);
         CREATE TABLE {STREAMED} (LIKE {TABLE} INCLUDING ALL)"
    );
    client.batch_execute(&create).await.expect("create the tables");
    let insert = format!(
        "INSERT INTO {TABLE}
         SELECT r.* FROM jsonb_populate_recordset(NULL::{TABLE}, $1::text::jsonb) AS r"
    );
    let insert = client.prepare(&insert).await.expect("prepare");
    for chunk in corpus.docs.chunks(CHUNK) {
        let rows = format!("[{}]", chunk.join(",")).replace("\\u0000", "");
        client.execute(&insert, &[&rows]).await.expect("insert rows");
    }
    client.batch_execute(&format!("VACUUM ANALYZE {TABLE}")).await.expect("vacuum");
}

/// Waits until an index has so many documents.
fn wait_for_count(port: u16, index: &str, rows: usize) {
    let mut client = Client::connect(port);
    wait_until(&format!("[{index}] has {rows} documents"), || {
        let indexes = client.json("GET", "/_cat/indices?format=json", &Value::Null);
        let named = |indexes: &Vec<Value>| indexes.iter().any(|it| it["index"] == index);
        indexes.as_array().is_some_and(named)
            && client.json("GET", &format!("/{index}/_count"), &Value::Null)["count"] == rows
    });
}

/// Looks over and over.
pub(crate) fn wait_until(what: &str, mut look: impl FnMut() -> bool) {
    let began = Instant::now();
    while !look() {
        assert!(began.elapsed() < DEADLINE, "waited {DEADLINE:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
