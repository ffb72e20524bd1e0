//! What happens to a run beside kills of Egret: networks that fail, databases that end, tables that
//! are redefined. Each says where it hit.

use std::fmt;
use std::time::Duration;

use egret_tests::egret::Egret;
use egret_tests::ledger::status;
use egret_tests::poll;
use egret_tests::postgres::{Database, Stop};
use egret_tests::proxy::{Flow, Proxy};
use rand::Rng;
use rand::rngs::StdRng;
use rustix::process::{Pid, Signal, kill_process};
use tokio::task::block_in_place;

/// The longest that a network says nothing, in milliseconds.
const LONGEST_STALL_MS: u64 = 1_500;

/// A fault, and what Egret was doing as last seen before it.
#[derive(Debug)]
pub(crate) struct Fault {
    what: String,
    state: String,
    /// Whether it has tables copied again.
    pub(crate) copies: bool,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, while {}", self.what, self.state)
    }
}

/// What a run's faults work on.
pub(crate) struct Ground<'a> {
    pub(crate) database: &'a mut Database,
    pub(crate) egret: &'a Egret,
    pub(crate) proxy: &'a Proxy,
    /// Columns that earlier faults have added, by number, and the next one's.
    pub(crate) columns: &'a mut Vec<u32>,
    pub(crate) next_column: &'a mut u32,
}

impl Ground<'_> {
    /// The kinds, of which a run has each in turn.
    pub(crate) const KINDS: u32 = 3;

    /// Something of this kind happens.
    pub(crate) async fn happens(&mut self, kind: u32, random: &mut StdRng) -> Fault {
        tokio::time::sleep(Duration::from_millis(random.random_range(0..400))).await;
        // It hits something that is underway.
        let is_connected = |status: &serde_json::Value| {
            matches!(status["state"].as_str(), Some("streaming" | "copying"))
        };
        let seen =
            poll::until("it is connected", async || status(self.egret).await.filter(is_connected))
                .await;
        let state = format!("{} at {}", seen["state"], seen["lsn"]["visible"]);
        let (what, copies) = match kind % Self::KINDS {
            0 => (self.network_fails(random).await, false),
            1 => (self.database_ends(random).await, false),
            _ => self.table_changes(random).await,
        };
        Fault { what, state, copies }
    }

    async fn network_fails(&self, random: &mut StdRng) -> String {
        match random.random_range(0..5) {
            0 => {
                self.proxy.reset();
                "connections were reset".to_owned()
            }
            1 => {
                self.proxy.half_open();
                "connections were half open".to_owned()
            }
            2 => {
                let bytes = random.random_range(1..200_000);
                self.proxy.cut_after(bytes);
                format!("connections are cut after {bytes} bytes")
            }
            flow => {
                let flow = if flow == 3 { Flow::Stalls } else { Flow::StallsToServer };
                let pause = Duration::from_millis(random.random_range(100..LONGEST_STALL_MS));
                self.proxy.set(flow);
                tokio::time::sleep(pause).await;
                self.proxy.set(Flow::Passes);
                format!("the network was {flow:?} for {pause:?}")
            }
        }
    }

    async fn database_ends(&mut self, random: &mut StdRng) -> String {
        let how = random.random_range(0..3);
        let what = if how == 2 {
            self.kill_a_wal_sender().await;
            "a WAL sender was killed".to_owned()
        } else {
            let how = if how == 0 { Stop::Fast } else { Stop::Immediate };
            let cluster = self.database.cluster().clone();
            block_in_place(|| cluster.restart(how));
            format!("PostgreSQL was stopped ({how:?}) and started")
        };
        self.database.reconnect().await;
        what
    }

    /// Whatever one process may have left in shared memory, PostgreSQL ends all of them and starts
    /// anew. Returns once it has noticed: a connection made before would end with the others.
    async fn kill_a_wal_sender(&self) {
        let client = self.database.client();
        let query = "SELECT pid FROM pg_stat_replication ORDER BY pid LIMIT 1";
        poll::until("PostgreSQL notices that a WAL sender was killed", async || {
            if let Ok(Some(row)) = client.query_opt(query, &[]).await {
                // One that ends by itself meanwhile is followed by another.
                let _ = kill_process(Pid::from_raw(row.get(0))?, Signal::KILL);
            }
            client.is_closed().then_some(())
        })
        .await;
    }

    /// Adds, drops and rewrites columns; whether that has the table copied again.
    async fn table_changes(&mut self, random: &mut StdRng) -> (String, bool) {
        let known = (!self.columns.is_empty()).then(|| random.random_range(0..self.columns.len()));
        let new = *self.next_column;
        let statement = match (random.random_range(0..5), known) {
            (0, Some(at)) => format!("ALTER TABLE accounts DROP extra_{}", self.columns.remove(at)),
            (1, Some(at)) => {
                let column = self.columns[at];
                format!(
                    "ALTER TABLE accounts ALTER extra_{column} TYPE text USING extra_{column} || '!'"
                )
            }
            (2, _) => "ALTER TABLE accounts ALTER weight TYPE double precision USING weight + 1"
                .to_owned(),
            (3, _) => {
                self.columns.push(new);
                format!(
                    "BEGIN; ALTER TABLE accounts ADD extra_{new} text DEFAULT 'default {new}';
                     UPDATE accounts SET extra_{new} = 'set' WHERE id % 100 = 0; COMMIT"
                )
            }
            _ => {
                self.columns.push(new);
                format!("ALTER TABLE accounts ADD extra_{new} text")
            }
        };
        *self.next_column += 1;
        let copies = !statement.ends_with("text");
        let copies_of = |status: serde_json::Value| status["copies"].as_u64();
        let before = status(self.egret).await.and_then(copies_of).unwrap_or_default();
        // Taken again where a deadlock with the load undid it.
        while self.database.client().batch_execute(&statement).await.is_err() {
            self.database.client().batch_execute("ROLLBACK").await.unwrap();
        }
        if copies {
            // What no row tells of is noticed a little later.
            poll::until("the change is noticed", async || {
                (status(self.egret).await.and_then(copies_of)? > before).then_some(())
            })
            .await;
        }
        (statement.split_whitespace().collect::<Vec<_>>().join(" "), copies)
    }
}
