//! A load whose transactions move amounts between rows, so that the sum of a table never changes,
//! and the comparison of an index with its table.
//!
//! [`create`] makes the tables, [`Load`] changes them in every way that a table can be changed,
//! [`Prober`] asks the index for the sums throughout, and [`compare`] holds it against the table.

mod compare;
mod load;
mod prober;

pub use compare::compare;
pub use load::{Load, big_transaction};
pub use prober::Prober;

use std::time::Duration;

use crate::egret::{Answer, Egret, EgretOptions};
use crate::poll;
use crate::postgres::Database;

/// How long the tables may take to be followed, under a load that goes on, on a machine that has other
/// things to do.
const FOLLOWED_DEADLINE: Duration = Duration::from_secs(300);

/// The tables that are followed.
pub const TABLES: &str = "public.accounts,public.journal";

/// Rows of the two tables at first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Accounts, each with 1,000.
    pub accounts: u32,
    /// Lines of the journal, an even number, each pair with 10.
    pub journal: u32,
}

impl Size {
    /// The sum of all balances.
    pub fn balances(self) -> i64 {
        i64::from(self.accounts) * 1000
    }

    /// The sum of all amounts.
    pub fn amounts(self) -> i64 {
        i64::from(self.journal / 2) * 10
    }
}

/// Makes and fills the tables.
pub async fn create(database: &Database, size: Size) {
    database.execute(include_str!("schema.sql")).await;
    let fill = format!("SELECT fill({}, {}); ANALYZE", size.accounts, size.journal);
    database.execute(&fill).await;
}

/// Options to follow the tables with a copy in many small steps.
pub fn following(database: &Database) -> EgretOptions {
    following_at(&database.url())
}

/// The same, for a database that is reached by another URL.
pub fn following_at(url: &str) -> EgretOptions {
    EgretOptions::following(url, TABLES)
        .with("copy_workers", "1")
        .with("copy_batch_bytes", "65536")
        .with("copy_range_blocks", "16")
        .with("acknowledge_interval_ms", "50")
        .with("reconnect_max_ms", "1000")
}

/// The first pipeline's part of `GET /_cdc`; `None` where there is no answer.
pub async fn status(egret: &Egret) -> Option<serde_json::Value> {
    let null = serde_json::Value::Null;
    let answer = egret.try_request(reqwest::Method::GET, "/_cdc", &null).await?;
    first_pipeline(&answer)
}

fn first_pipeline(answer: &Answer) -> Option<serde_json::Value> {
    answer.body["pipelines"].get(0).cloned()
}

/// Whether every table of a status is followed, its copy done.
pub fn streams(status: &serde_json::Value) -> bool {
    let tables = status["tables"].as_array();
    let streaming = |table: &serde_json::Value| table["state"] == "streaming";
    tables.is_some_and(|tables| tables.len() == 2 && tables.iter().all(streaming))
}

/// Waits until the copies are done and the stream has caught up with them. PostgreSQL shows a table
/// that was truncated as empty even to older snapshots, so a copy may have read nothing from the
/// journal; the stream then brings its rows.
pub async fn wait_until_streaming(database: &Database, egret: &Egret) {
    poll::until_deadline("the tables are followed", FOLLOWED_DEADLINE, async || {
        status(egret).await.filter(streams).map(|_| ())
    })
    .await;
    let lsn = database.flush_lsn().await;
    for index in ["accounts", "journal"] {
        let path = format!("/{index}/_search?size=0&wait_for_lsn={lsn}&wait_for_timeout=10s");
        poll::until_deadline("the stream has caught up", FOLLOWED_DEADLINE, async || {
            (egret.get(&path).await.status == 200).then_some(())
        })
        .await;
    }
}
