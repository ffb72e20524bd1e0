//! Transactions of every kind, from seeded tasks, until told to stop.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use crate::postgres::{Database, connect};

/// Deadlocks are part of the load.
const SETTING: &str = "SET deadlock_timeout = '20ms'";

/// The first id that the load itself gives out.
const NEW_IDS: i32 = 1_000_001;

/// How many new ids there may be: as far as picks among them look.
const NEW_ID_RANGE: i32 = 5_000;

/// About how many rows are deleted in a part of a transaction that is undone.
const UNDONE_ROWS: u32 = 200;

/// A task's shortest rest between two transactions: so the load does not run away from a debug build,
/// and what a test looks at is what it has just done. It rests so many times as long as a transaction
/// took at least: on a machine that is busy with other things, where all takes longer, nor does it.
const PACE: Duration = Duration::from_millis(12);
const REST_TIMES: u32 = 3;

/// Running transactions.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<Counts>>,
}

/// What a load did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Transactions that were committed.
    pub committed: u64,
    /// Transactions that were rolled back on purpose, or given up for a deadlock.
    pub undone: u64,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} transactions, {} undone", self.committed, self.undone)
    }
}

impl Load {
    /// Begins; the accounts' first ids are 1 to `accounts`.
    pub async fn start(database: &Database, accounts: u32, seed: u64, tasks: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (mut running, url) = (Vec::new(), database.url());
        for task in 0..tasks {
            let client = database.connect().await;
            let random = StdRng::seed_from_u64(seed.wrapping_mul(31).wrapping_add(task));
            running.push(tokio::spawn(work(
                url.clone(),
                client,
                random,
                accounts,
                Arc::clone(&stop),
            )));
        }
        Self { stop, tasks: running }
    }

    /// Ends it, and waits until its last transaction has ended.
    pub async fn stop(self) -> Counts {
        self.stop.store(true, Ordering::Relaxed);
        let mut sum = Counts::default();
        for task in self.tasks {
            let counts = task.await.unwrap();
            sum.committed += counts.committed;
            sum.undone += counts.undone;
        }
        sum
    }
}

async fn work(
    url: String,
    mut client: Client,
    mut random: StdRng,
    accounts: u32,
    stop: Arc<AtomicBool>,
) -> Counts {
    let (mut counts, mut took) = (Counts::default(), Duration::ZERO);
    // Where the server ends meanwhile, the next statement says so.
    let _ = client.batch_execute(SETTING).await;
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep(PACE.max(took * REST_TIMES)).await;
        let (statements, commits) = transaction(&mut random, accounts);
        let begun = Instant::now();
        let executed = client.batch_execute(&statements).await;
        took = begun.elapsed();
        // A deadlock with another task undoes the transaction, as in any application.
        match executed {
            Ok(()) if commits => counts.committed += 1,
            Ok(()) => counts.undone += 1,
            // The server has ended, and with it the transaction, or after it was committed.
            Err(error) if has_ended(&client, &error) => {
                client = connect(&url).await;
                let _ = client.batch_execute(SETTING).await;
                counts.undone += 1;
            }
            Err(error) => {
                let code = error.code().map_or("", |code| code.code());
                assert_eq!(code, "40P01", "{statements}: {error:?}");
                // An end of the server is met at the next transaction.
                let _ = client.batch_execute("ROLLBACK").await;
                counts.undone += 1;
            }
        }
    }
    counts
}

/// Whether a connection is gone, or about to go.
fn has_ended(client: &Client, error: &tokio_postgres::Error) -> bool {
    let code = error.code().map_or("", |code| code.code());
    client.is_closed() || error.is_closed() || code.is_empty() || code.starts_with("57P")
}

/// The statements of one transaction, and whether it ends with a commit.
fn transaction(random: &mut StdRng, accounts: u32) -> (String, bool) {
    let old = i32::try_from(accounts).unwrap_or(i32::MAX);
    let mut near = || match random.random_range(0..4) {
        0 => random.random_range(NEW_IDS..NEW_IDS + NEW_ID_RANGE),
        _ => random.random_range(1..=old),
    };
    let (one, two, three) = (near(), near(), near());
    let amount = random.random_range(1..500);
    let transfer = format!("SELECT transfer({one}, {two}, {amount});");
    let (body, commits) = match random.random_range(0..100) {
        0..50 => (transfer, true),
        50..62 => (format!("SELECT open_account({one}, {amount});"), true),
        62..70 => (format!("SELECT close_account({one}, {two});"), true),
        70..80 => (format!("SELECT rename_account({one});"), true),
        // Several steps in one transaction, also on rows that it has just made or moved.
        80..88 => (
            format!(
                "{transfer} SELECT open_account({two}, 5); SELECT rename_account({NEW_IDS}); \
                 SELECT close_account({NEW_IDS}, {three}); SELECT rename_account({one});"
            ),
            true,
        ),
        // A part that is undone inside a transaction that is not.
        88..92 => (
            format!(
                "{transfer} SAVEPOINT part; DELETE FROM accounts \
                 WHERE id BETWEEN {three} AND {three} + {UNDONE_ROWS}; \
                 ROLLBACK TO part; SELECT transfer({two}, {three}, 1);"
            ),
            true,
        ),
        92..95 => (format!("SELECT churn({});", random.random_range(50..400)), true),
        95..97 => (format!("SELECT rewrite_journal({});", random.random_range(0..1000)), true),
        _ => {
            (format!("UPDATE accounts SET balance = 0 WHERE id = {one}; TRUNCATE journal;"), false)
        }
    };
    let end = if commits { "COMMIT" } else { "ROLLBACK" };
    (format!("BEGIN; {body} {end}"), commits)
}

/// Commits one transaction that changes `rows` accounts; a position at or after its commit.
pub async fn big_transaction(client: &Client, rows: u32) -> String {
    // Taken again where a deadlock with the load undid it.
    while client.batch_execute(&format!("SELECT churn({rows})")).await.is_err() {}
    let query = "SELECT pg_current_wal_flush_lsn()::text";
    client.query_one(query, &[]).await.unwrap().get(0)
}
