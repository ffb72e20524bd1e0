//! Standbys that have the pipeline's slot, as PostgreSQL 17 and newer give it to them: one that is
//! promoted is followed on without a new copy where it has all that was followed, and only there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use egret_cdc::{LsnToken, PipelineState, WaitOutcome};
use egret_engine::Lsn;
use egret_tests::poll;
use egret_tests::postgres::{Cluster, ClusterOptions, Database, Stop};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, block_in_place};

use crate::following::Following;

const BIRDS: &str = "SELECT id::text, to_json(birds)::text FROM birds";
const FISH: &str = "SELECT id::text, to_json(fish)::text FROM fish";

const TABLE: &str = "CREATE TABLE birds (id int PRIMARY KEY, name text);
    INSERT INTO birds SELECT n, 'bird ' || n FROM generate_series(1, 1000) AS n;
    CREATE TABLE fish (id int PRIMARY KEY, name text); INSERT INTO fish VALUES (1, 'one')";

/// An address that moves from one server to another, as a name or a virtual address does.
struct Address {
    port: u16,
    /// The port of the server that it leads to.
    server: Arc<AtomicU16>,
    accepting: JoinHandle<()>,
}

impl Address {
    async fn of(server: &Cluster) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = Arc::new(AtomicU16::new(server.port()));
        let accepting = tokio::spawn(relay(listener, Arc::clone(&server)));
        Self { port, server, accepting }
    }

    fn moves_to(&self, server: &Cluster) {
        self.server.store(server.port(), Ordering::Relaxed);
    }
}

impl Drop for Address {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn relay(listener: TcpListener, server: Arc<AtomicU16>) {
    while let Ok((mut client, _)) = listener.accept().await {
        let port = server.load(Ordering::Relaxed);
        tokio::spawn(async move {
            if let Ok(mut server) = TcpStream::connect(("127.0.0.1", port)).await {
                // It ends with either of the two.
                let _ = copy_bidirectional(&mut client, &mut server).await;
            }
        });
    }
}

/// A primary, its standby, and a pipeline that follows the primary.
struct Pair {
    primary: Arc<Cluster>,
    standby: Arc<Cluster>,
    address: Address,
    following: Following,
}

/// Whether the pipeline is stopped while the standby is promoted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meanwhile {
    Runs,
    Stopped,
}

async fn own_database() -> Database {
    let cluster = Arc::new(block_in_place(|| Cluster::start(ClusterOptions::default())));
    let database = Database::create_on(&cluster).await;
    database.execute(TABLE).await;
    database
}

impl Pair {
    /// Nothing where the server is too old.
    async fn start() -> Option<Self> {
        let mut database = own_database().await;
        if database.lacks(17, "failover slots").await {
            return None;
        }
        let primary = Arc::clone(database.cluster());
        database.execute("SELECT pg_create_physical_replication_slot('of_standby')").await;
        let settings = ["primary_slot_name=of_standby", "hot_standby_feedback=on"];
        let settings = settings.into_iter().chain(["sync_replication_slots=on"]);
        let settings = settings.map(str::to_owned).collect();
        let options = ClusterOptions { settings, ..ClusterOptions::default() };
        let standby = Arc::new(block_in_place(|| primary.start_standby("standby", options)));
        database.reconnect().await;
        let address = Address::of(&primary).await;
        let following = Following::follow(database, |config| {
            let (direct, moving) = (format!(":{}/", primary.port()), format!(":{}/", address.port));
            config.url = config.url.replacen(&direct, &moving, 1);
            config.failover_slot = true;
        });
        following.streams().await;
        following.equals("birds", BIRDS).await;
        let pair = Self { primary, standby, address, following };
        pair.has_slot().await;
        Some(pair)
    }

    /// Waits until the standby has the pipeline's slot to stay.
    async fn has_slot(&self) {
        let replica = self.standby.connect("postgres").await;
        let name = self.following.config.slot_name();
        let query = "SELECT count(*) FROM pg_replication_slots
                     WHERE slot_name = $1 AND synced AND NOT temporary";
        poll::until("the standby has the slot", async || {
            // It stays once the primary's is no older than what the standby has.
            let snapshot = "SELECT pg_log_standby_snapshot()";
            self.following.database.client().batch_execute(snapshot).await.unwrap();
            let row = replica.query_one(query, &[&name]).await.unwrap();
            (row.get::<_, i64>(0) == 1).then_some(())
        })
        .await;
    }

    /// Has the primary told only now and then what is durable. The standby has the slot by then, which it
    /// gets only from one that moves.
    async fn acknowledges_seldom(&mut self) {
        self.following.stop().await;
        self.following.config.acknowledge_interval_ms = 600_000;
        self.following.resume();
        self.following.streams().await;
    }

    /// Waits until the standby has everything that was committed.
    async fn is_level(&self) {
        let target = self.following.database.flush_lsn().await;
        let replica = self.standby.connect("postgres").await;
        let query = format!("SELECT pg_last_wal_replay_lsn() >= '{target}'::pg_lsn");
        poll::until("the standby has it all", async || {
            replica.query_one(&query, &[]).await.unwrap().get::<_, bool>(0).then_some(())
        })
        .await;
    }

    /// Promotes the standby, to which the address moves.
    async fn fail_over(&mut self, meanwhile: Meanwhile) {
        if meanwhile == Meanwhile::Stopped {
            self.following.stop().await;
        }
        let name = self.following.database.name().to_owned();
        let replica = Database::of_standby(&self.standby, &name).await;
        replica.execute("SELECT pg_promote()").await;
        replica.execute("UPDATE birds SET name = 'after it' WHERE id % 100 = 0").await;
        self.following.database = replica;
        self.address.moves_to(&self.standby);
        if meanwhile == Meanwhile::Stopped {
            self.following.resume();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_standby_that_has_everything_is_followed_on() {
    let Some(mut pair) = Pair::start().await else { return };
    let following = &pair.following;
    following.execute("UPDATE birds SET name = 'seen' WHERE id < 500", &["birds"]).await;
    following.execute("DELETE FROM birds WHERE id < 50", &["birds"]).await;
    let status = following.pipeline().status();
    let (system, before) = (status.system_identifier.unwrap(), status.timeline.unwrap());
    let lsn = following.database.flush_lsn().await;
    pair.is_level().await;
    block_in_place(|| pair.primary.stop(Stop::Immediate));
    pair.fail_over(Meanwhile::Stopped).await;
    let following = &pair.following;
    following.streams().await;
    following.execute("DELETE FROM birds WHERE id > 900", &["birds"]).await;
    following.execute("INSERT INTO fish VALUES (2, 'two')", &["fish"]).await;
    following.equals("birds", BIRDS).await;
    following.equals("fish", FISH).await;
    let status = following.pipeline().status();
    assert_eq!((status.copies, status.timeline), (0, Some(before + 1)), "{status:#?}");
    // What the older primary gave to readers says nothing of this one.
    let token: LsnToken = format!("{system}/{before}/{lsn}").parse().unwrap();
    let outcome = following.waits("birds", token).await;
    let followed = (system, before + 1);
    assert!(matches!(outcome, WaitOutcome::Mismatch { followed: it } if it == followed));
    // It is its own primary from now on, also over a restart.
    pair.following.stop().await;
    pair.following.database.execute("DELETE FROM birds WHERE id > 800").await;
    pair.following.resume();
    pair.following.streams().await;
    pair.following.equals("birds", BIRDS).await;
    pair.following.equals("fish", FISH).await;
    assert_eq!(pair.following.copies(), 0);
    // The older one goes on in a history that this pipeline has left.
    pair.following.stop().await;
    block_in_place(|| pair.primary.resume());
    pair.address.moves_to(&pair.primary);
    pair.following.resume();
    pair.following.reaches(PipelineState::Refused).await;
    let reason = pair.following.pipeline().status().reason.unwrap();
    assert!(reason.contains("does not come from"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_moves_to_the_promoted_standby() {
    let Some(mut pair) = Pair::start().await else { return };
    pair.following.execute("DELETE FROM birds WHERE id < 50", &["birds"]).await;
    let before = pair.following.pipeline().status().timeline.unwrap();
    pair.is_level().await;
    block_in_place(|| pair.primary.stop(Stop::Immediate));
    pair.following.reaches(PipelineState::Retrying).await;
    pair.address.moves_to(&pair.standby);
    pair.following.fails_with(&["it is a standby", "once it is promoted"]).await;
    pair.fail_over(Meanwhile::Runs).await;
    pair.following
        .comes_to("the standby is followed", |status| {
            status.state == PipelineState::Streaming && status.timeline == Some(before + 1)
        })
        .await;
    pair.following.execute("DELETE FROM birds WHERE id > 900", &["birds"]).await;
    pair.following.equals("birds", BIRDS).await;
    pair.following.equals("fish", FISH).await;
    assert_eq!(pair.following.copies(), 1, "the first alone");
}

/// The pipeline sees what the standby never gets, and the primary is lost.
async fn loses_its_primary(pair: &mut Pair, is_acknowledged: bool, meanwhile: Meanwhile) {
    pair.is_level().await;
    // Nothing holds the pipeline back: `synchronized_standby_slots` is not set.
    block_in_place(|| pair.standby.stop(Stop::Fast));
    pair.following.execute("UPDATE birds SET name = 'never was' WHERE id < 500", &["birds"]).await;
    assert_eq!(pair.following.document("birds", "7").unwrap()["name"], "never was");
    if is_acknowledged {
        let end: Lsn = pair.following.database.flush_lsn().await.parse().unwrap();
        pair.following.comes_to("it is durable", |status| status.lsn.confirmed >= Some(end)).await;
    }
    block_in_place(|| pair.primary.stop(Stop::Immediate));
    block_in_place(|| pair.standby.resume());
    pair.fail_over(meanwhile).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_standby_that_lagged_is_copied_anew() {
    let Some(mut pair) = Pair::start().await else { return };
    loses_its_primary(&mut pair, true, Meanwhile::Stopped).await;
    pair.following.copies_again(0).await;
    pair.following.equals("birds", BIRDS).await;
    pair.following.equals("fish", FISH).await;
    assert_eq!(pair.following.document("birds", "7").unwrap()["name"], "bird 7");
    let status = pair.following.pipeline().status();
    let error = status.last_error.unwrap_or_default();
    assert!(
        error.contains("which was left at") && error.contains("synchronized_standby"),
        "{error}"
    );
    let copied: Vec<u64> = status.tables.iter().map(|table| table.rows_copied).collect();
    assert_eq!(copied, [1000, 1]);
}

/// What the pipeline's file says is in the standby, and an index is ahead of it.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_is_ahead_of_a_promoted_standby_is_copied_anew() {
    let Some(mut pair) = Pair::start().await else { return };
    pair.acknowledges_seldom().await;
    loses_its_primary(&mut pair, false, Meanwhile::Stopped).await;
    pair.following.copies_again(0).await;
    pair.following.equals("birds", BIRDS).await;
    pair.following.equals("fish", FISH).await;
    assert_eq!(pair.following.document("birds", "7").unwrap()["name"], "bird 7");
    let status = pair.following.pipeline().status();
    assert_eq!(status.last_error, None, "{status:#?}");
    // The other index may have been told that it is as far, or not.
    assert_eq!(status.tables[0].rows_copied, 1000, "{status:#?}");
}

/// The same while it runs: what its indexes show counts, not what they have on disk.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_shows_what_a_promoted_standby_lacks_is_copied_anew() {
    let Some(mut pair) = Pair::start().await else { return };
    pair.acknowledges_seldom().await;
    loses_its_primary(&mut pair, false, Meanwhile::Runs).await;
    pair.following.copies_again(0).await;
    pair.following.equals("birds", BIRDS).await;
    pair.following.equals("fish", FISH).await;
    assert_eq!(pair.following.document("birds", "7").unwrap()["name"], "bird 7");
}

/// Whether standbys get the slot.
async fn is_for_standbys(following: &Following) -> bool {
    let query = "SELECT (to_jsonb(s) ->> 'failover')::bool FROM pg_replication_slots s
                 WHERE slot_name = $1";
    let name = following.config.slot_name();
    let row = following.database.client().query_one(query, &[&name]).await.unwrap();
    row.get::<_, Option<bool>>(0).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_is_there_becomes_one_for_standbys() {
    let mut following = Following::start(TABLE).await;
    assert!(!is_for_standbys(&following).await);
    following.stop().await;
    following.config.failover_slot = true;
    following.resume();
    if following.database.version().await >= 17 {
        following.streams().await;
        assert!(is_for_standbys(&following).await);
        following.equals("birds", BIRDS).await;
        assert_eq!(following.copies(), 0);
    } else {
        following.fails_with(&["failover_slot needs PostgreSQL 17", "leave it out"]).await;
    }
}
