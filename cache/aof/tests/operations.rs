//! Rolling, trimming, rewriting, policies and failures of an open log.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use egret_aof::disk::sim::{Fault, SimDisk};
use egret_aof::disk::{Disk, FileDisk};
use egret_aof::log::{FsyncPolicy, Log, LogOptions};
use egret_aof::{Error, ErrorKind};

fn open_with(disk: &SimDisk, options: LogOptions) -> (Log, Vec<u64>) {
    let mut sequences = Vec::new();
    let (log, _) = Log::open(Arc::new(disk.clone()), Path::new("/log"), options, |record| {
        sequences.push(record.sequence);
        Ok(())
    })
    .unwrap();
    (log, sequences)
}

fn open(disk: &SimDisk) -> (Log, Vec<u64>) {
    open_with(disk, LogOptions { rewrite_backoff: Duration::ZERO, ..LogOptions::default() })
}

fn with_policy(fsync: FsyncPolicy) -> LogOptions {
    LogOptions { fsync, ..LogOptions::default() }
}

fn kind<T>(result: egret_aof::Result<T>) -> ErrorKind {
    result.err().unwrap().kind()
}

#[test]
fn trimming_drops_the_base_and_older_increments() {
    let disk = SimDisk::new();
    let (log, _) = open(&disk);
    log.append(1, b"1").unwrap();
    let second = log.roll().unwrap();
    log.rewrite(|base| Ok(base.append(1, b"sum")?)).unwrap();
    assert!(matches!(log.remove_before(second), Err(Error::UnknownIncrement { .. })));
    log.append(1, b"2").unwrap();
    let third = log.roll().unwrap();
    log.append(1, b"3").unwrap();
    log.commit().unwrap();
    assert_eq!(log.records(), 3);
    log.remove_before(third).unwrap();
    log.remove_before(third).unwrap();
    let names = disk.list(Path::new("/log")).unwrap();
    let third = format!("increment-{:010}.aof", third.number());
    assert_eq!(names, [third.as_str(), "lock", "manifest"]);
    let len = disk.len(&Path::new("/log").join(&third)).unwrap();
    assert_eq!((log.records(), log.bytes()), (1, len));
    drop(log);
    let (log, sequences) = open(&disk.power_cut(1));
    assert_eq!((sequences, log.append(1, b"4").unwrap()), (vec![3], 4));
}

#[test]
fn appends_go_on_during_a_rewrite() {
    let disk = SimDisk::new();
    let (log, _) = open(&disk);
    (0..10).for_each(|_| assert!(log.append(1, b"old").is_ok()));
    log.rewrite(|base| {
        base.append(2, b"sum of ten")?;
        log.append(1, b"new")?;
        log.commit()?;
        assert!(matches!(log.rewrite(|_| Ok(())), Err(Error::RewriteUnderWay { .. })));
        Ok(())
    })
    .unwrap();
    drop(log);
    assert_eq!(open(&disk.power_cut(0)).1, [10, 11]);
}

#[test]
fn a_failed_rewrite_changes_nothing_and_backs_off() {
    let disk = SimDisk::new();
    let patient =
        LogOptions { rewrite_backoff: Duration::from_secs(3600), ..LogOptions::default() };
    let (log, _) = open_with(&disk, patient);
    log.append(1, b"1").unwrap();
    let error = log.rewrite(|_| Err("no".into())).err().unwrap();
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (ErrorKind::Owner, "cannot rewrite the log")
    );
    let Err(Error::BackingOff { failures, remaining }) = log.rewrite(|_| Ok(())) else {
        unreachable!("the second attempt is too early")
    };
    assert_eq!((failures, remaining > Duration::from_secs(3000)), (1, true));
    log.append(1, b"2").unwrap();
    log.commit().unwrap();
    drop(log);
    assert_eq!(open(&disk.power_cut(0)).1, [1, 2]);

    // A base is never used after one of its writes failed, even if the owner does not notice.
    let disk = SimDisk::new();
    let (log, _) = open(&disk);
    let rewritten = log.rewrite(|base| {
        disk.fail_at(0, Fault::TornWrite);
        let _ = base.append(1, &vec![1; 300_000]);
        Ok(())
    });
    assert_eq!(kind(rewritten), ErrorKind::Poisoned);
    assert!(disk.list(Path::new("/log")).unwrap().iter().all(|name| !name.starts_with("base")));
    log.rewrite(|_| Ok(())).unwrap();
}

#[test]
fn policies_sync_when_they_say() {
    // What survives a power cut that takes whatever it may.
    let survivors = |policy: FsyncPolicy, work: fn(&Log)| {
        let least = (0..40).map(|seed| {
            let disk = SimDisk::new();
            let (log, _) = open_with(&disk, with_policy(policy));
            log.append(1, b"record").unwrap();
            work(&log);
            open(&disk.power_cut(seed)).1.len()
        });
        least.min().unwrap()
    };
    let commit = |log: &Log| log.commit().unwrap();
    let sync = |log: &Log| log.sync().unwrap();
    let early = |log: &Log| log.sync_if_due(Instant::now()).unwrap();
    let later = |log: &Log| log.sync_if_due(Instant::now() + Duration::from_secs(2)).unwrap();
    assert_eq!(survivors(FsyncPolicy::Always, commit), 1);
    assert_eq!(survivors(FsyncPolicy::EverySecond, commit), 0);
    assert_eq!(survivors(FsyncPolicy::EverySecond, early), 0);
    assert_eq!(survivors(FsyncPolicy::EverySecond, later), 1);
    assert_eq!(survivors(FsyncPolicy::No, later), 0);
    assert_eq!(survivors(FsyncPolicy::No, sync), 1);
}

#[test]
fn a_failed_sync_poisons_under_each_policy() {
    for policy in [FsyncPolicy::Always, FsyncPolicy::EverySecond, FsyncPolicy::No] {
        let disk = SimDisk::new();
        let (log, _) = open_with(&disk, with_policy(policy));
        assert!(matches!(log.reopen_after_failure(), Err(Error::NotPoisoned { .. })));
        log.append(1, b"1").unwrap();
        log.sync().unwrap();
        log.append(1, b"2").unwrap();
        disk.fail_at(0, Fault::SyncFailure);
        assert_eq!(kind(log.sync()), ErrorKind::Io);
        assert!(log.is_poisoned());
        // The disk would sync again, and lose what it has dropped: nobody may ask it to.
        let operations = disk.operations();
        for refused in [
            log.commit(),
            log.sync(),
            log.append(1, b"3").map(drop),
            log.roll().map(drop),
            log.rewrite(|_| Ok(())),
        ] {
            assert_eq!(kind(refused), ErrorKind::Poisoned);
        }
        assert_eq!(disk.operations(), operations, "{policy:?} touched the disk");

        log.reopen_after_failure().unwrap();
        log.rewrite(|base| Ok(base.append(1, b"both")?)).unwrap();
        assert_eq!(log.append(1, b"3").unwrap(), 3);
        log.sync().unwrap();
        drop(log);
        assert_eq!(open(&disk.power_cut(3)).1, [2, 3], "{policy:?}");
    }
}

#[test]
fn a_full_disk_is_said_and_left_behind() {
    let disk = SimDisk::new();
    let (log, _) = open(&disk);
    log.append(1, b"1").unwrap();
    log.commit().unwrap();
    disk.set_capacity(Some(0));
    log.append(1, &[2; 100]).unwrap();
    assert_eq!(kind(log.commit()), ErrorKind::Full);
    assert_eq!(kind(log.roll()), ErrorKind::Full);
    assert_eq!(kind(log.rewrite(|_| Ok(()))), ErrorKind::Full);
    assert!(!log.is_poisoned());
    disk.set_capacity(None);
    log.append(1, b"3").unwrap();
    log.commit().unwrap();
    log.roll().unwrap();
    drop(log);
    assert_eq!(open(&disk.power_cut(0)).1, [1, 2, 3]);
}

#[test]
fn a_full_disk_bounds_the_buffer() {
    let disk = SimDisk::new();
    let options = LogOptions { max_buffer_bytes: 1000, ..LogOptions::default() };
    let (log, _) = open_with(&disk, options);
    disk.set_capacity(Some(0));
    let appended = (0..100).take_while(|_| log.append(1, &[0; 83]).is_ok()).count();
    assert_eq!(appended, 10);
    disk.set_capacity(None);
    log.commit().unwrap();
    assert_eq!(open(&disk.power_cut(0)).1.len(), 10);
}

#[test]
fn wrong_records_are_refused() {
    let options = LogOptions { max_record_bytes: 10, ..LogOptions::default() };
    let (log, _) = open_with(&SimDisk::new(), options);
    let check = |kind: u8, len: usize, expected: Option<&str>| {
        let error = log.append(kind, &vec![0; len]).err().map(|error| error.to_string());
        assert_eq!(error.as_deref(), expected);
    };
    check(239, 10, None);
    check(240, 10, Some("record kind 240 is reserved: use one below 240"));
    check(255, 0, Some("record kind 255 is reserved: use one below 240"));
    check(0, 11, Some("record of 11 bytes is larger than the limit of 10 bytes"));
    assert_eq!(log.append(0, b"").unwrap(), 2, "a refused record takes no number");
}

fn append_and_commit(log: &Log, thread: u8, number: u32) {
    log.append(thread, &number.to_le_bytes()).unwrap();
    log.commit().unwrap();
}

/// Many threads on a real disk: every acknowledged record is there, each thread's in its order.
#[test]
fn commits_of_many_threads_share_syncs() {
    const THREADS: u8 = 8;
    const EACH: u32 = 50;
    let root = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(FileDisk);
    let (log, _) = Log::open(disk.clone(), root.path(), LogOptions::default(), |_| Ok(())).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let log = &log;
            scope
                .spawn(move || (0..EACH).for_each(|number| append_and_commit(log, thread, number)));
        }
        log.roll().unwrap();
    });
    drop(log);
    let mut next = [0; THREADS as usize];
    let (_, report) = Log::open(disk, root.path(), LogOptions::default(), |record| {
        let expected = &mut next[usize::from(record.kind)];
        assert_eq!(record.payload, u32::to_le_bytes(*expected));
        *expected += 1;
        Ok(())
    })
    .unwrap();
    assert_eq!((next, report.is_clean()), ([EACH; THREADS as usize], true));
}
