//! The stream, beside PostgreSQL's own `pg_recvlogical` that writes what it receives to `/dev/null`:
//! both take the same log, through slots that are copies of each other, one after the other.
//!
//! Egret's time ends when everything is searchable, and PostgreSQL has been told that it is durable.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use egret_engine::Lsn;
use egret_tests::postgres::find_binaries;
use egret_tests::process::{anonymous_bytes, processor_time};
use serde_json::Value;

use crate::client::Client;
use crate::followed::{Followed, STREAMED, TABLE, wait_until};
use crate::rates::{port, settle};
use crate::report;

const ROUNDS: usize = 3;
/// The slot that `pg_recvlogical` reads.
const PEER: &str = "egret_bench_peer";
/// How often memory is looked at.
const SAMPLE: Duration = Duration::from_millis(20);

/// Transactions to stream.
struct Load {
    name: &'static str,
    rows: u64,
    /// What the table has before.
    before: String,
    /// What is streamed.
    statements: String,
    /// The part of `pg_recvlogical`'s rate that is asked for.
    bar: f64,
}

/// What one side took.
#[derive(Debug, Clone, Copy)]
struct Took {
    time: Duration,
    /// Processor time of the server's process that reads the log and sends the rows.
    walsender: Duration,
    /// Egret's own.
    egret: Duration,
    /// Anonymous bytes above those before.
    memory: u64,
}

/// Runs the part.
pub(crate) fn run(followed: &Followed) {
    let rows = followed.row(&format!("SELECT count(*) FROM {TABLE}")).get::<_, i64>(0) as u64;
    report::heading("stream: until durable, searchable and acknowledged, beside pg_recvlogical");
    for load in loads(rows) {
        let mut rounds: Vec<(Took, Took)> = Vec::new();
        for round in 0..ROUNDS {
            rounds.push(measure(followed, &load, round % 2 == 0));
        }
        // The round with the median ratio stands for all.
        let ratio =
            |(peer, egret): &(Took, Took)| peer.time.as_secs_f64() / egret.time.as_secs_f64();
        rounds.sort_by(|a, b| ratio(a).total_cmp(&ratio(b)));
        let (peer, egret) = rounds[ROUNDS / 2];
        let rate = |took: &Took| load.rows as f64 / took.time.as_secs_f64();
        let micros = |time: Duration| time.as_secs_f64() * 1e6 / load.rows as f64;
        report::line(&format!(
            "{:<28} pg_recvlogical {:>8.0} rows/s  egret {:>8.0} rows/s  ratio {:.2} (bar {})",
            load.name,
            rate(&peer),
            rate(&egret),
            ratio(&(peer, egret)),
            load.bar
        ));
        report::line(&format!(
            "{:<28} processor time a row: walsender {:.1} us, beside egret {:.1} us, egret {:.1} us; \
             memory {} MiB above idle",
            "",
            micros(peer.walsender),
            micros(egret.walsender),
            micros(egret.egret),
            rounds.iter().map(|(_, egret)| egret.memory).max().unwrap_or_default() >> 20
        ));
    }
}

fn loads(rows: u64) -> Vec<Load> {
    let few = rows / 10;
    let some = rows * 3 / 10;
    let copy = |from: &str, to: &str| {
        format!("INSERT INTO {STREAMED} SELECT * FROM {TABLE} WHERE id >= {from} AND id < {to}")
    };
    let by_thousands = |statement: &str| {
        format!(
            "DO $$ BEGIN FOR part IN 0..{} LOOP {statement}; COMMIT; END LOOP; END $$",
            some / 1_000 - 1
        )
    };
    let thousand = copy("part * 1000", "part * 1000 + 1000");
    vec![
        Load {
            name: "transactions of one row",
            rows: few,
            before: String::new(),
            statements: format!(
                "DO $$ BEGIN FOR part IN 0..{} LOOP {}; COMMIT; END LOOP; END $$",
                few - 1,
                copy("part", "part + 1")
            ),
            bar: 0.5,
        },
        Load {
            name: "transactions of 1,000 rows",
            rows: some / 1_000 * 1_000,
            before: String::new(),
            statements: by_thousands(&thousand),
            bar: 0.35,
        },
        Load {
            name: "updates, 1,000 each",
            rows: some / 1_000 * 1_000,
            before: copy("0", &some.to_string()),
            statements: by_thousands(&format!(
                "UPDATE {STREAMED} SET downloads = downloads + 1
                  WHERE id >= part * 1000 AND id < part * 1000 + 1000"
            )),
            bar: 0.35,
        },
        Load {
            name: "one transaction of all rows",
            rows,
            before: String::new(),
            statements: copy("0", &rows.to_string()),
            bar: 0.35,
        },
    ]
}

/// Has the log written while nobody reads it, then read by both.
fn measure(followed: &Followed, load: &Load, peer_first: bool) -> (Took, Took) {
    followed.execute(&format!("TRUNCATE {STREAMED}"));
    if !load.before.is_empty() {
        followed.execute(&load.before);
    }
    followed.execute("CHECKPOINT");
    let slot = slot(followed);
    let before = flushed(followed);
    wait_until("everything before is acknowledged", || confirmed(followed, &slot) >= before);
    for index in [TABLE, STREAMED] {
        settle(port(followed.egret()), index);
    }
    order(followed, "_pause");
    wait_until("nobody reads the slot", || walsender(followed, &slot).is_none());
    followed
        .execute(&format!("SELECT pg_copy_logical_replication_slot('{slot}', '{PEER}', false)"));
    // What the log says is the same, and the load does not wait for the disk.
    followed.execute("SET synchronous_commit = off");
    followed.execute(&load.statements);
    followed.execute("SET synchronous_commit = on");
    followed.execute(&format!("UPDATE {TABLE} SET year = year WHERE id = 0"));
    let end = flushed(followed);
    // A record after the last, so that both know that there is no more.
    followed.execute("SELECT pg_logical_emit_message(true, 'egret', 'end')");
    let (peer, egret) = if peer_first {
        let peer = receive(followed, end);
        (peer, stream(followed, &slot, end))
    } else {
        let egret = stream(followed, &slot, end);
        (receive(followed, end), egret)
    };
    followed.execute(&format!("SELECT pg_drop_replication_slot('{PEER}')"));
    let count = followed.row(&format!("SELECT count(*) FROM {STREAMED}")).get::<_, i64>(0);
    let path = format!("/{STREAMED}/_count");
    let found = Client::connect(port(followed.egret())).json("GET", &path, &Value::Null);
    assert_eq!(found["count"], count, "every row is searchable");
    (peer, egret)
}

/// `pg_recvlogical` reads until there.
fn receive(followed: &Followed, end: Lsn) -> Took {
    let publication: String = followed.row("SELECT pubname::text FROM pg_publication").get(0);
    let began = Instant::now();
    let mut command = Command::new(find_binaries().join("pg_recvlogical"));
    command
        .args(["--dbname", &followed.database.url(), "--slot", PEER, "--start", "--no-loop"])
        .args(["--endpos", &end.to_string(), "--file", "/dev/null"])
        .args(["--option", "proto_version=1"])
        .arg("--option")
        .arg(format!("publication_names=\"{publication}\""))
        .stdin(Stdio::null());
    let mut child = command.spawn().expect("run pg_recvlogical, which comes with PostgreSQL");
    let mut walsender_time = Duration::ZERO;
    let mut pid = None;
    let status = loop {
        if let Some(status) = child.try_wait().expect("wait for pg_recvlogical") {
            break status;
        }
        pid = pid.or_else(|| walsender(followed, PEER));
        // Its last moments are not seen.
        walsender_time = walsender_time.max(pid.map(processor_time).unwrap_or_default());
        std::thread::sleep(Duration::from_millis(5));
    };
    let time = began.elapsed();
    assert!(status.success(), "pg_recvlogical ended with {status}");
    Took { time, walsender: walsender_time, egret: Duration::ZERO, memory: 0 }
}

/// Egret reads until there.
fn stream(followed: &Followed, slot: &str, end: Lsn) -> Took {
    let pid = followed.egret().pid();
    let (memory_before, time_before) = (anonymous_bytes(pid), processor_time(pid));
    let (peak, done) = (AtomicU64::new(0), AtomicBool::new(false));
    let (time, walsender) = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                peak.fetch_max(anonymous_bytes(pid), Ordering::Relaxed);
                std::thread::sleep(SAMPLE);
            }
        });
        let began = Instant::now();
        order(followed, "_resume");
        wait_until("everything is acknowledged", || confirmed(followed, slot) >= end);
        wait_until("everything is searchable", || {
            let visible = followed.status()["lsn"]["visible"].as_str().map(str::parse::<Lsn>);
            visible.is_some_and(|lsn| lsn.is_ok_and(|lsn| lsn >= end))
        });
        let time = began.elapsed();
        done.store(true, Ordering::Relaxed);
        (time, walsender(followed, slot).map(processor_time).unwrap_or_default())
    });
    Took {
        time,
        walsender,
        egret: processor_time(pid).saturating_sub(time_before),
        memory: peak.into_inner().saturating_sub(memory_before),
    }
}

/// Egret's slot.
fn slot(followed: &Followed) -> String {
    let query = "SELECT slot_name::text FROM pg_replication_slots
                  WHERE database = current_database() AND NOT temporary";
    followed.row(query).get(0)
}

/// The server's process that serves a slot.
fn walsender(followed: &Followed, slot: &str) -> Option<u32> {
    let query =
        format!("SELECT max(active_pid) FROM pg_replication_slots WHERE slot_name = '{slot}'");
    let pid: Option<i32> = followed.row(&query).get(0);
    pid.and_then(|pid| u32::try_from(pid).ok())
}

/// What was acknowledged.
fn confirmed(followed: &Followed, slot: &str) -> Lsn {
    let query = format!(
        "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = '{slot}'"
    );
    followed.row(&query).get::<_, String>(0).parse().expect("an LSN")
}

/// The end of the log.
fn flushed(followed: &Followed) -> Lsn {
    followed
        .row("SELECT pg_current_wal_flush_lsn()::text")
        .get::<_, String>(0)
        .parse()
        .expect("LSN")
}

/// Tells the pipeline what to do.
fn order(followed: &Followed, order: &str) {
    let name = followed.status()["name"].as_str().expect("a name").to_owned();
    let mut client = Client::connect(port(followed.egret()));
    client.json("POST", &format!("/_cdc/{name}/{order}"), &Value::Null);
}
