//! Both disks against the same expectations, and what a power cut may and may not take.

use std::collections::BTreeSet;

use super::*;
use crate::disk::{FileDisk, create_folder_durably, replace_file};

fn write(disk: &dyn Disk, path: &Path, bytes: &[u8], sync: bool) {
    let mut file = disk.create(path).unwrap();
    file.write_all(bytes).unwrap();
    if sync {
        file.sync().unwrap();
    }
}

fn kind<T>(result: io::Result<T>) -> io::ErrorKind {
    result.err().unwrap().kind()
}

/// What any disk must do.
fn check_disk(disk: &dyn Disk, root: &Path) {
    let folder = root.join("a folder/inner");
    let [one, two] = [folder.join("one"), folder.join("two words")];
    create_folder_durably(disk, &folder).unwrap();
    create_folder_durably(disk, &folder).unwrap();
    assert!(disk.exists(&folder).unwrap() && !disk.exists(&one).unwrap());
    assert_eq!(kind(disk.read(&one)), io::ErrorKind::NotFound);
    assert_eq!(kind(disk.open_append(&one)), io::ErrorKind::NotFound);
    assert_eq!(kind(disk.list(&root.join("missing"))), io::ErrorKind::NotFound);

    let mut file = disk.create(&one).unwrap();
    assert!(disk.map(&one).unwrap().is_empty());
    assert_eq!(kind(disk.create(&one)), io::ErrorKind::AlreadyExists);
    file.write_all(b"hello").unwrap();
    file.truncate(2).unwrap();
    file.write_all(b"y").unwrap();
    file.sync().unwrap();
    assert_eq!((file.len(), disk.len(&one).unwrap()), (3, 3));
    let mut again = disk.open_append(&one).unwrap();
    again.write_all(b"!").unwrap();
    assert_eq!((again.len(), disk.read(&one).unwrap()), (4, b"hey!".to_vec()));
    assert_eq!(&*disk.map(&one).unwrap(), b"hey!");

    replace_file(disk, &two, b"first").unwrap();
    replace_file(disk, &two, b"second").unwrap();
    assert_eq!(disk.list(&folder).unwrap(), ["one", "two words"]);
    disk.rename(&one, &two).unwrap();
    assert_eq!((disk.list(&folder).unwrap().len(), disk.read(&two).unwrap()), (1, b"hey!".into()));

    let lock = folder.join("lock");
    let held = disk.lock(&lock).unwrap();
    assert_eq!(kind(disk.lock(&lock).map(drop)), io::ErrorKind::WouldBlock);
    drop(held);
    drop(disk.lock(&lock).unwrap());

    disk.remove(&two).unwrap();
    assert_eq!(kind(disk.remove(&two)), io::ErrorKind::NotFound);
    disk.sync_folder(&folder).unwrap();
    disk.remove_folder(&folder).unwrap();
    disk.remove_folder(&folder).unwrap();
    assert_eq!(disk.list(&root.join("a folder")).unwrap(), Vec::<String>::new());
}

#[test]
fn both_disks_do_the_same() {
    let root = tempfile::tempdir().unwrap();
    check_disk(&FileDisk, root.path());
    check_disk(&SimDisk::new(), Path::new("/"));
}

/// Runs one history under many seeds and collects the different outcomes.
fn outcomes<T: Ord>(history: impl Fn(&SimDisk), look: impl Fn(&SimDisk) -> T) -> BTreeSet<T> {
    (0..200)
        .map(|seed| {
            let disk = SimDisk::new();
            history(&disk);
            let (after, again) = (disk.power_cut(seed), disk.power_cut(seed));
            assert!(look(&after) == look(&again), "seed {seed} gives two different disks");
            look(&after)
        })
        .collect()
}

#[test]
fn a_power_cut_keeps_what_was_synced_and_a_subset_of_the_rest() {
    let root = Path::new("/");
    let (a, b) = (Path::new("a"), Path::new("b"));
    let synced = outcomes(
        |disk| {
            write(disk, a, b"one", true);
            disk.sync_folder(root).unwrap();
            disk.open_append(a).unwrap().write_all(b"two").unwrap();
        },
        |disk| disk.read(a).unwrap(),
    );
    for expected in [b"one".to_vec(), b"onetwo".to_vec(), b"onet".to_vec(), b"one\0\0\0".to_vec()] {
        assert!(synced.contains(&expected), "{expected:?} never happened");
    }
    assert!(synced.iter().all(|content| content.starts_with(b"one")));

    let names = outcomes(
        |disk| {
            write(disk, a, b"1", true);
            write(disk, b, b"2", true);
        },
        |disk| disk.list(root).unwrap(),
    );
    assert_eq!(names.len(), 4, "each unsynced name lives or dies alone: {names:?}");

    let renamed = outcomes(
        |disk| {
            write(disk, b, b"old", true);
            disk.sync_folder(root).unwrap();
            write(disk, a, b"new", true);
            disk.rename(a, b).unwrap();
        },
        |disk| (disk.read(b).unwrap(), disk.list(root).unwrap().len()),
    );
    let allowed = [(b"new".to_vec(), 1), (b"old".to_vec(), 1), (b"old".to_vec(), 2)];
    assert_eq!(renamed, BTreeSet::from(allowed), "a rename is whole or not at all");

    let unsynced_folder = outcomes(
        |disk| {
            disk.create_folder(Path::new("f")).unwrap();
            write(disk, Path::new("f/a"), b"x", true);
            disk.sync_folder(Path::new("f")).unwrap();
        },
        |disk| disk.exists(Path::new("f/a")).unwrap(),
    );
    assert_eq!(unsynced_folder, BTreeSet::from([false, true]));
}

#[test]
fn faults_strike_where_asked() {
    let path = Path::new("a");
    let check = |fault: Fault, expected: Option<io::ErrorKind>, len: std::ops::Range<u64>| {
        let disk = SimDisk::new();
        let mut file = disk.create(path).unwrap();
        disk.fail_at(disk.operations(), fault);
        let first = file.write(&[1; 100]);
        assert_eq!(first.as_ref().err().map(io::Error::kind), expected, "{fault:?}");
        assert!(
            len.contains(&disk.power_cut(0).len(path).unwrap_or(0)) || len.contains(&file.len())
        );
    };
    check(Fault::Io, Some(io::ErrorKind::Other), 0..1);
    check(Fault::NoSpace, Some(io::ErrorKind::StorageFull), 0..1);
    check(Fault::TornWrite, Some(io::ErrorKind::Other), 0..100);
    check(Fault::ShortWrite, None, 1..100);
    check(Fault::PowerCut, Some(io::ErrorKind::Other), 0..100);

    let disk = SimDisk::new();
    disk.set_capacity(Some(10));
    let mut file = disk.create(path).unwrap();
    assert_eq!(file.write(&[1; 100]).unwrap(), 10);
    assert_eq!(kind(file.write(&[1])), io::ErrorKind::StorageFull);
    disk.set_capacity(None);
    file.write_all(&[1]).unwrap();
}

#[test]
fn a_failed_sync_loses_pages_for_good() {
    let path = Path::new("a");
    let lost = (0..50).filter(|salt| {
        let disk = SimDisk::new();
        let mut file = disk.create(path).unwrap();
        disk.sync_folder(Path::new("/")).unwrap();
        (0..*salt).for_each(|_| drop(disk.exists(path)));
        file.write_all(b"lost?").unwrap();
        disk.fail_at(0, Fault::SyncFailure);
        assert!(file.sync().is_err());
        file.sync().unwrap();
        assert_eq!(disk.read(path).unwrap(), b"lost?", "the page cache still shows it");
        disk.power_cut(1).read(path).unwrap() != b"lost?"
    });
    assert!(lost.count() > 10);
}

#[test]
fn a_kill_keeps_what_a_power_cut_may_still_take() {
    let path = Path::new("/a");
    let mut lost = false;
    for seed in 0..50 {
        let disk = SimDisk::new();
        write(&disk, path, b"written", false);
        let _lock = disk.lock(Path::new("/lock")).unwrap();
        let killed = disk.kill();
        assert_eq!(kind(disk.read(path)), io::ErrorKind::Other);
        assert_eq!(killed.read(path).unwrap(), b"written");
        assert!(killed.lock(Path::new("/lock")).is_ok(), "locks end with their process");
        lost |= !killed.power_cut(seed).exists(path).unwrap();
    }
    assert!(lost);
}
