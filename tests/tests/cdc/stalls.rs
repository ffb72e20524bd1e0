//! Slow disks. An index that stands still, because its disk does, for longer than the server waits to
//! hear from whoever follows it: the session goes on, and nothing is acknowledged that is not durable.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use egret_aof::disk::{Disk, DiskFile, FileBytes, FileDisk};
use egret_cdc::PipelineStatus;
use egret_cdc::status::{TableState, TableStatus};
use egret_engine::Lsn;
use egret_tests::poll;
use egret_tests::postgres::{Cluster, ClusterOptions, Database};
use parking_lot::{Condvar, Mutex};
use tokio::task::spawn_blocking;

use crate::following::{Following, Machine};

/// How long the server waits before it gives up a silent session, in seconds, and so many times as
/// long stands the disk still.
const TIMEOUT_SECONDS: u32 = 2;
const TIMES_AS_LONG: u32 = 3;

/// Memory for young segments. Past twice as much, the pipeline waits for the disk.
const BUDGET_BYTES: usize = 1 << 20;

/// A disk on which nothing becomes durable while it stands still.
#[derive(Debug, Clone, Default)]
struct StallingDisk(Arc<Gate>);

#[derive(Debug, Default)]
struct Gate {
    /// Guards only that.
    stands_still: Mutex<bool>,
    goes_on: Condvar,
    /// How long it takes until something is durable.
    pause: Duration,
}

impl Gate {
    fn pass(&self) {
        std::thread::sleep(self.pause);
        let mut stands_still = self.stands_still.lock();
        while *stands_still {
            self.goes_on.wait(&mut stands_still);
        }
    }
}

/// A disk that stands still until this is dropped.
struct Stall(Arc<Gate>);

impl Drop for Stall {
    fn drop(&mut self) {
        *self.0.stands_still.lock() = false;
        self.0.goes_on.notify_all();
    }
}

impl StallingDisk {
    /// One that is always slow.
    fn slow(pause: Duration) -> Self {
        Self(Arc::new(Gate { pause, ..Gate::default() }))
    }

    fn stall(&self) -> Stall {
        *self.0.stands_still.lock() = true;
        Stall(Arc::clone(&self.0))
    }

    fn file(&self, file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        Box::new(StallingFile { file, gate: Arc::clone(&self.0) })
    }
}

#[derive(Debug)]
struct StallingFile {
    file: Box<dyn DiskFile>,
    gate: Arc<Gate>,
}

impl Disk for StallingDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.file(FileDisk.create(path)?))
    }

    fn open_append(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.file(FileDisk.open_append(path)?))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        FileDisk.read(path)
    }

    fn map(&self, path: &Path) -> io::Result<FileBytes> {
        FileDisk.map(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        FileDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        FileDisk.remove(path)
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        FileDisk.remove_folder(path)
    }

    fn create_folder(&self, path: &Path) -> io::Result<()> {
        FileDisk.create_folder(path)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        FileDisk.list(folder)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        FileDisk.exists(path)
    }

    fn len(&self, path: &Path) -> io::Result<u64> {
        FileDisk.len(path)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        self.0.pass();
        FileDisk.sync_folder(folder)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        FileDisk.lock(path)
    }
}

impl io::Write for StallingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl DiskFile for StallingFile {
    fn sync(&mut self) -> io::Result<()> {
        self.gate.pass();
        self.file.sync()
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(offset, bytes)
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.file.truncate(len)
    }

    fn len(&self) -> u64 {
        self.file.len()
    }
}

/// The session that the server has for the slot, what it has confirmed, and whether it was heard so
/// many seconds after a moment.
#[derive(Debug)]
struct Session {
    pid: i32,
    begun: String,
    confirmed: Lsn,
    was_heard: bool,
}

async fn session(following: &Following, moment: &str, seconds: u32) -> Option<Session> {
    let query = format!(
        "SELECT pid, backend_start::text, confirmed_flush_lsn::text,
                reply_time > '{moment}'::timestamptz + interval '{seconds} s'
         FROM pg_stat_replication JOIN pg_replication_slots ON active_pid = pid
         WHERE slot_name = $1"
    );
    let name = following.config.slot_name();
    let row = following.database.client().query_opt(&query, &[&name]).await.unwrap()?;
    let confirmed: String = row.get(2);
    let confirmed = confirmed.parse().unwrap();
    Some(Session { pid: row.get(0), begun: row.get(1), confirmed, was_heard: row.get(3) })
}

async fn now(following: &Following) -> String {
    let query = "SELECT clock_timestamp()::text";
    following.database.client().query_one(query, &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_index_keeps_its_session() {
    let settings = vec![format!("wal_sender_timeout={TIMEOUT_SECONDS}s")];
    let options = ClusterOptions { settings, ..ClusterOptions::default() };
    let cluster = spawn_blocking(|| Cluster::start(options)).await.unwrap();
    let database = Database::create_on(&Arc::new(cluster)).await;
    database.execute("CREATE TABLE birds (id int PRIMARY KEY, song text)").await;
    let disk = StallingDisk::default();
    let machine = Machine { disk: Arc::new(disk.clone()), indexing_budget_bytes: BUDGET_BYTES };
    let following = Following::follow_on(machine, database, |config| {
        (config.outstanding_batches, config.outstanding_bytes) = (2, BUDGET_BYTES);
    });
    following.streams().await;
    following.execute("INSERT INTO birds VALUES (0, 'before')", &["birds"]).await;

    let before: Lsn = following.database.flush_lsn().await.parse().unwrap();
    let stall = disk.stall();
    for turn in 0..8 {
        // Songs that no dictionary makes small.
        let insert = format!(
            "INSERT INTO birds SELECT {turn} * 1000 + n,
                    (SELECT string_agg(md5(n || ' {turn} ' || part), ' ') FROM generate_series(1, 15) AS part)
             FROM generate_series(1, 1000) AS n"
        );
        following.database.execute(&insert).await;
    }
    let written: Lsn = following.database.flush_lsn().await.parse().unwrap();
    let moment = now(&following).await;
    let first = session(&following, &moment, 0).await.unwrap();
    poll::until("the server hears of the session all the time", async || {
        let session = session(&following, &moment, TIMEOUT_SECONDS * TIMES_AS_LONG).await?;
        assert_eq!((session.pid, &session.begun), (first.pid, &first.begun), "another session");
        let lsn = following.pipeline().status().lsn;
        assert!(lsn.received < Some(written), "nothing holds it up: {written} {lsn:?}");
        assert!(session.confirmed <= before, "{session:?} is past what is durable");
        session.was_heard.then_some(())
    })
    .await;
    let lsn = following.pipeline().status().lsn;
    assert!(lsn.visible < Some(written), "{lsn:?}");

    drop(stall);
    following.equals("birds", "SELECT id::text, to_json(birds)::text FROM birds").await;
    let last = poll::until("what is durable is confirmed", async || {
        session(&following, &moment, 0).await.filter(|session| session.confirmed >= written)
    })
    .await;
    assert_eq!((last.pid, last.begun), (first.pid, first.begun), "another session");
    let status = following.pipeline().status();
    assert_eq!((status.connection_failures, status.copies), (0, 1), "{status:#?}");
}

/// A table whose copy has met a truncation is whole once the log has brought that. A crash after it
/// counts as followed must not show less.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_the_log_has_ended_is_durable_before_its_table_streams() {
    let database = Database::create().await;
    database
        .execute(
            "CREATE TABLE ponds (id int PRIMARY KEY, name text);
             INSERT INTO ponds SELECT n, repeat('pond ', 20) FROM generate_series(1, 3000) AS n",
        )
        .await;
    let disk = StallingDisk::slow(Duration::from_millis(50));
    let machine = Machine { disk: Arc::new(disk), indexing_budget_bytes: 64 << 20 };
    let following = Following::follow_on(machine, database, |config| {
        (config.copy_workers, config.copy_range_blocks) = (1, 8);
        (config.copy_batch_bytes, config.copy_max_bytes_per_second) = (4 << 10, 200 << 10);
    });
    let table = |is: fn(&TableStatus) -> bool| {
        move |status: &PipelineStatus| status.tables.first().is_some_and(is)
    };
    following.comes_to("it is copied", table(|table| table.rows_copied > 0)).await;
    following
        .database
        .execute("BEGIN; TRUNCATE ponds; INSERT INTO ponds VALUES (1, 'one'); COMMIT")
        .await;
    let is_followed = table(|table| table.state == TableState::Streaming);
    following.comes_to("it is followed", is_followed).await;
    let durable = std::fs::read_to_string(following.index_folder("ponds").join("commit.json"));
    let durable = durable.unwrap();
    // A text within the file's.
    assert!(durable.contains(r#"\"state\":\"done\""#), "{durable}");
    assert!(following.pipeline().status().rows_copied < 3000, "it met no truncation");
    following.equals("ponds", "SELECT id::text, to_json(ponds)::text FROM ponds").await;
}
