//! Logs cut, flipped, zero-filled and mangled in every place: a prefix is recovered or the damage is
//! named, and repairing says what is lost.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use egret_aof::disk::sim::SimDisk;
use egret_aof::disk::{Disk, FileDisk};
use egret_aof::log::{Log, LogOptions, Recovery, RecoveryReport};
use egret_aof::{Error, ErrorKind};
use proptest::prelude::*;

type Records = Vec<(u64, u8, Vec<u8>)>;

fn options(recovery: Recovery) -> LogOptions {
    LogOptions { recovery, rewrite_backoff: Duration::ZERO, ..LogOptions::default() }
}

fn folder() -> &'static Path {
    Path::new("/a folder with spaces")
}

fn file(name: &str) -> PathBuf {
    folder().join(name)
}

fn open(disk: &dyn DiskLike, recovery: Recovery) -> Result<(Log, Records, RecoveryReport), Error> {
    let mut records = Vec::new();
    let (log, report) = Log::open(disk.shared(), folder(), options(recovery), |record| {
        records.push((record.sequence, record.kind, record.payload.to_vec()));
        Ok(())
    })?;
    Ok((log, records, report))
}

trait DiskLike {
    fn shared(&self) -> Arc<dyn Disk>;
}

impl DiskLike for SimDisk {
    fn shared(&self) -> Arc<dyn Disk> {
        Arc::new(self.clone())
    }
}

fn record(sequence: u64) -> (u64, u8, Vec<u8>) {
    let len = usize::try_from(sequence * 7 % 23).unwrap();
    (sequence, 1, vec![u8::try_from(sequence).unwrap(); len])
}

fn append(log: &Log, sequences: std::ops::RangeInclusive<u64>) {
    for sequence in sequences {
        let (_, kind, payload) = record(sequence);
        assert_eq!(log.append(kind, &payload).unwrap(), sequence);
        log.commit().unwrap();
    }
}

/// Records 1 to 12: a base sums up 1 to 4, an increment holds 5 to 8, another 9 to 12.
fn sample() -> SimDisk {
    let disk = SimDisk::new();
    let (log, ..) = open(&disk, Recovery::Strict).unwrap();
    append(&log, 1..=4);
    log.rewrite(|base| (1..=4).try_for_each(|n| Ok(base.append(2, &record(n).2)?))).unwrap();
    append(&log, 5..=8);
    log.roll().unwrap();
    append(&log, 9..=12);
    disk
}

const BASE: &str = "base-0000000003.aof";
const INNER: &str = "increment-0000000002.aof";
const LAST: &str = "increment-0000000004.aof";

/// What the sample replays, up to a record.
fn expected(last: u64) -> Records {
    let base = (1..=4).map(|n| (4, 2, record(n).2));
    base.chain((5..=last).map(record)).collect()
}

fn with_damage(name: &str, change: impl FnOnce(&mut Vec<u8>)) -> SimDisk {
    let disk = sample().power_cut(0);
    let mut bytes = disk.read(&file(name)).unwrap();
    change(&mut bytes);
    disk.damage(&file(name), &bytes).unwrap();
    disk
}

#[test]
fn the_sample_is_replayed_whole() {
    let disk = sample().power_cut(0);
    let (log, records, report) = open(&disk, Recovery::Strict).unwrap();
    assert_eq!(records, expected(12));
    assert!(report.is_clean());
    let names = ["base-0000000003.aof", INNER, LAST, "lock", "manifest"];
    assert_eq!(disk.list(folder()).unwrap(), names);
    let files = [BASE, INNER, LAST].map(|name| disk.len(&file(name)).unwrap());
    assert_eq!((log.records(), log.bytes()), (12, files.iter().sum()));
}

#[test]
fn a_log_cut_at_every_byte_recovers_a_prefix() {
    let whole = sample().power_cut(0);
    for name in [BASE, INNER, LAST] {
        for cut in 0..whole.len(&file(name)).unwrap() {
            let disk = with_damage(name, |bytes| bytes.truncate(usize::try_from(cut).unwrap()));
            let opened = open(&disk, Recovery::Strict);
            if name != LAST || cut < 40 {
                assert_eq!(opened.err().unwrap().kind(), ErrorKind::Corrupt, "{name} cut at {cut}");
                continue;
            }
            let (log, records, report) = opened.unwrap();
            let last = report.next_sequence - 1;
            assert_eq!(records, expected(last), "cut at {cut}");
            // Appending goes on after the cut, and the next recovery is clean.
            append(&log, last + 1..=last + 1);
            drop(log);
            let (_, records, report) = open(&disk, Recovery::Strict).unwrap();
            assert_eq!((records, report.is_clean()), (expected(last + 1), true), "cut at {cut}");
        }
    }
}

#[test]
fn a_flipped_bit_anywhere_is_noticed() {
    let whole = sample().power_cut(0);
    for name in [BASE, INNER, LAST, "manifest"] {
        for at in 0..usize::try_from(whole.len(&file(name)).unwrap()).unwrap() {
            let bit = 1 << (at % 8);
            match open(&with_damage(name, |bytes| bytes[at] ^= bit), Recovery::Strict) {
                Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt, "{name} byte {at}"),
                Ok((_, records, report)) => {
                    assert_eq!(name, LAST, "byte {at} of {name} passed");
                    // Only what no later mark vouches for can pass for a torn tail.
                    assert_eq!(report.torn_tails.len(), 1, "byte {at}");
                    assert_eq!((records, report.next_sequence), (expected(11), 12), "byte {at}");
                }
            }
        }
    }
}

#[test]
fn a_zero_filled_tail_is_a_clean_end() {
    for zeroes in [1, 16, 17, 40, 5000] {
        let disk = with_damage(LAST, |bytes| bytes.resize(bytes.len() + zeroes, 0));
        let (log, records, report) = open(&disk, Recovery::Strict).unwrap();
        assert_eq!((records, report.is_clean()), (expected(12), true));
        assert_eq!(report.zero_bytes, zeroes as u64);
        append(&log, 13..=13);
        drop(log);
        assert_eq!(open(&disk, Recovery::Strict).unwrap().1, expected(13));
    }
}

#[test]
fn damage_in_the_middle_is_refused_precisely_and_repaired_on_demand() {
    // Each frame of the last increment is 17 bytes and its payload, and a mark of 17 follows.
    let payload_of = |n: u64| record(n).2.len();
    let tenth = 40 + 17 + payload_of(9) + 17;
    let disk = with_damage(LAST, |bytes| bytes[tenth + 17] ^= 1);
    let error = open(&disk, Recovery::Strict).err().unwrap();
    let Error::Damaged { file: place, offset, sequence, reason } = &error else { unreachable!() };
    assert_eq!((place, *offset, *sequence), (&file(LAST), tenth as u64, 10));
    assert_eq!(reason, "the record's checksum is wrong");

    let (log, records, report) = open(&disk, Recovery::Repair).unwrap();
    let mut left = expected(12);
    left.retain(|(sequence, ..)| *sequence != 10);
    assert_eq!(records, left);
    let lost = &report.lost[0];
    assert_eq!((report.lost.len(), lost.first_sequence, lost.records), (1, 10, 1));
    assert_eq!(lost.offset, tenth as u64);
    // What is repaired opens strictly from then on.
    append(&log, 13..=13);
    drop(log);
    left.push(record(13));
    let (_, records, report) = open(&disk, Recovery::Strict).unwrap();
    assert_eq!((records, report.is_clean()), (left, true));
}

/// Repairs the sample after some damage and returns the numbers of the records still there.
fn repaired(disk: &SimDisk) -> (Vec<u64>, RecoveryReport) {
    assert_eq!(open(disk, Recovery::Strict).err().unwrap().kind(), ErrorKind::Corrupt);
    let (log, records, report) = open(disk, Recovery::Repair).unwrap();
    drop(log);
    let (_, again, _) = open(disk, Recovery::Strict).unwrap();
    assert_eq!(records, again, "a repair is for good");
    (records.into_iter().map(|(sequence, ..)| sequence).collect(), report)
}

#[test]
fn repair_keeps_what_can_be_read() {
    let check = |disk: SimDisk, sequences: &[u64]| {
        let (found, report) = repaired(&disk);
        assert_eq!(found, sequences, "{report:?}");
        assert!(!report.lost.is_empty());
    };
    let rest = [5, 6, 7, 8, 9, 10, 11, 12];
    let base_and = |rest: &[u64]| [&[4, 4, 4, 4], rest].concat();
    // A record of the base, the base's end, its header, the whole of it.
    check(with_damage(BASE, |bytes| bytes[60] ^= 1), &[&[4, 4, 4], &rest[..]].concat());
    check(with_damage(BASE, |bytes| bytes.truncate(bytes.len() - 3)), &base_and(&rest));
    check(with_damage(BASE, |bytes| bytes[3] ^= 1), &base_and(&rest));
    let disk = sample();
    disk.remove(&file(BASE)).unwrap();
    check(disk, &rest);
    // An increment: its end, its header, the whole of it.
    check(
        with_damage(INNER, |bytes| bytes.truncate(bytes.len() - 3)),
        &base_and(&[5, 6, 7, 9, 10, 11, 12]),
    );
    check(with_damage(INNER, |bytes| bytes[20] ^= 1), &base_and(&rest));
    check(with_damage(LAST, |bytes| bytes[20] ^= 1), &base_and(&rest));
    let disk = sample();
    disk.remove(&file(INNER)).unwrap();
    check(disk, &base_and(&[9, 10, 11, 12]));
}

#[test]
fn a_lost_or_damaged_manifest_is_refused_and_can_be_rebuilt() {
    let missing = sample();
    missing.remove(&file("manifest")).unwrap();
    let error = open(&missing, Recovery::Strict).err().unwrap();
    let text = error.to_string();
    assert!(
        text.contains("/a folder with spaces holds base-0000000003.aof but no manifest"),
        "{text}"
    );
    let damaged = with_damage("manifest", |bytes| bytes[30] ^= 1);
    for disk in [missing, damaged] {
        let (log, records, report) = open(&disk, Recovery::Repair).unwrap();
        assert!(report.manifest_rebuilt && !report.is_clean());
        assert_eq!(records, expected(12));
        drop(log);
        assert_eq!(open(&disk, Recovery::Strict).unwrap().1, expected(12));
    }
}

#[test]
fn a_named_file_that_is_missing_is_refused_by_name() {
    for name in [BASE, INNER, LAST] {
        let disk = sample();
        disk.remove(&file(name)).unwrap();
        let error = open(&disk, Recovery::Strict).err().unwrap().to_string();
        assert_eq!(
            error,
            format!("{} is missing, though the manifest names it", file(name).display())
        );
    }
}

#[test]
fn a_file_of_another_log_is_refused() {
    let (disk, other) = (sample().power_cut(0), sample().power_cut(0));
    disk.damage(&file(INNER), &other.read(&file(INNER)).unwrap()).unwrap();
    let error = open(&disk, Recovery::Strict).err().unwrap().to_string();
    assert!(error.contains("belongs to another log"), "{error}");
    let disk = sample().power_cut(0);
    disk.damage(&file(INNER), &disk.read(&file(LAST)).unwrap()).unwrap();
    let error = open(&disk, Recovery::Strict).err().unwrap().to_string();
    assert!(error.contains("the header is that of another file"), "{error}");
}

#[test]
fn left_overs_go_and_foreign_files_stay() {
    let disk = sample();
    let strays = [
        "base-0000000009.aof",
        "increment-0000000001.aof",
        "manifest.tmp",
        "base-0000000007.aof.tmp",
    ];
    for name in strays.iter().chain(&["my notes.txt", "increment-1.aof"]) {
        disk.create(&file(name)).unwrap().write_all(b"anything").unwrap();
    }
    let (log, records, _) = open(&disk, Recovery::Strict).unwrap();
    assert_eq!(records, expected(12));
    let names = [BASE, INNER, LAST, "increment-1.aof", "lock", "manifest", "my notes.txt"];
    assert_eq!(disk.list(folder()).unwrap(), names);
    // A number is never used twice, not even that of a left-over.
    assert_eq!(log.roll().unwrap().number(), 10);
}

#[test]
fn the_owners_error_carries_the_place() {
    let disk = sample();
    let opened = Log::open(disk.shared(), folder(), LogOptions::default(), |record| {
        if record.sequence == 6 { Err("no such kind".into()) } else { Ok(()) }
    });
    let error = opened.err().unwrap();
    assert!(error.to_string().starts_with("cannot replay record 6 at byte "), "{error}");
    assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "no such kind");
    assert_eq!(error.kind(), ErrorKind::Owner);
}

#[test]
fn a_second_opener_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let open = || Log::open(Arc::new(FileDisk), root.path(), LogOptions::default(), |_| Ok(()));
    let first = open().unwrap();
    let error = open().err().unwrap();
    assert!(matches!(error, Error::Locked { .. }) && error.kind() == ErrorKind::Busy);
    drop(first);
    open().unwrap();
}

proptest! {
    /// Any bytes in the place of any file: an error or a report, never a panic or a made-up record.
    #[test]
    fn arbitrary_bytes_never_panic(
        which in 0..4_usize,
        at in 0..200_usize,
        junk in prop::collection::vec(any::<u8>(), 1..80),
        repair: bool,
    ) {
        let disk = with_damage([BASE, INNER, LAST, "manifest"][which], |bytes| {
            let at = at.min(bytes.len());
            let end = (at + junk.len()).min(bytes.len());
            bytes.splice(at..end, junk.iter().copied());
        });
        let recovery = if repair { Recovery::Repair } else { Recovery::Strict };
        if let Ok((_, records, _)) = open(&disk, recovery) {
            let known = expected(12);
            prop_assert!(records.iter().all(|record| known.contains(record)));
        }
    }

    /// The log against a vector.
    #[test]
    fn what_is_appended_is_replayed(
        payloads in prop::collection::vec((0..240_u8, prop::collection::vec(any::<u8>(), 0..300)), 0..60),
        reopen_every in 1..20_usize,
    ) {
        let disk = SimDisk::new();
        let (mut log, ..) = open(&disk, Recovery::Strict).unwrap();
        let mut model: Records = Vec::new();
        for (index, (kind, payload)) in payloads.iter().enumerate() {
            let sequence = log.append(*kind, payload).unwrap();
            model.push((sequence, *kind, payload.clone()));
            if index % reopen_every == 0 {
                log.commit().unwrap();
                drop(log);
                let (opened, records, report) = open(&disk, Recovery::Strict).unwrap();
                prop_assert_eq!(&records, &model);
                prop_assert!(report.is_clean());
                log = opened;
            }
        }
    }
}
