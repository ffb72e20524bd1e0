//! What is listed survives, and nothing else is.

use egret_aof::disk::FileDisk;
use egret_aof::disk::sim::{Fault, SimDisk};

use super::*;

fn letter(id: &str, lsn: u64) -> Letter {
    Letter {
        index: "t".to_owned(),
        table: "public.t".to_owned(),
        id: id.to_owned(),
        lsn: Lsn(lsn),
        reason: "bad".to_owned(),
        values: Map::new(),
        read_again: false,
    }
}

fn row(id: &str) -> RowName<'_> {
    RowName { index: "t", table: "public.t", id }
}

fn disk() -> Arc<dyn Disk> {
    Arc::new(FileDisk)
}

#[test]
fn letters_open_close_and_survive() {
    let folder = tempfile::tempdir().unwrap();
    let open = |limit| DeadLetters::open(&disk(), folder.path(), limit);
    let mut letters = open(10).unwrap();
    letters.add(letter("a", 5)).unwrap();
    letters.add(letter("a", 5)).unwrap();
    letters.add(letter("b", 6)).unwrap();
    letters.add(letter("c", 7)).unwrap();
    assert_eq!(letters.count(), 3);
    letters.close(row("a"), Lsn(5)).unwrap();
    assert_eq!(letters.count(), 3, "a replay closes nothing");
    letters.close(row("a"), Lsn(6)).unwrap();
    letters.close(row("x"), Lsn(6)).unwrap();
    letters.clear("t", Some("public.t"), Lsn(7)).unwrap();
    letters.sync().unwrap();
    assert_eq!(letters.count(), 1);
    drop(letters);

    let mut letters = open(2).unwrap();
    assert_eq!(letters.count(), 1);
    letters.add(letter("c", 7)).unwrap();
    letters.add(letter("d", 8)).unwrap();
    letters.renew(letter("x", 8)).unwrap();
    letters.check_limit().unwrap();
    letters.add(letter("e", 8)).unwrap();
    let error = letters.check_limit().unwrap_err();
    assert_eq!((error.kind(), letters.count()), (ErrorKind::Refused, 3));
}

#[test]
fn rows_are_read_again_until_something_is_known() {
    let folder = tempfile::tempdir().unwrap();
    let open = || DeadLetters::open(&disk(), folder.path(), 10).unwrap();
    let unread = |id: &str, lsn| Letter { read_again: true, ..letter(id, lsn) };
    let taken = |letters: &mut DeadLetters| {
        let mut ids: Vec<String> =
            letters.take_to_read(9, |_| true).into_iter().map(|key| key.id).collect();
        ids.sort();
        ids.concat()
    };
    let mut letters = open();
    for (id, lsn) in [("a", 5), ("b", 5), ("c", 5), ("d", 5)] {
        letters.add(unread(id, lsn)).unwrap();
    }
    letters.add(letter("e", 5)).unwrap();
    assert!(letters.take_to_read(9, |_| false).is_empty());
    letters.close(row("d"), Lsn(6)).unwrap();
    assert_eq!(taken(&mut letters), "abc");
    assert_eq!(taken(&mut letters), "", "each once");
    letters.renew(letter("a", 6)).unwrap();
    letters.close(row("b"), Lsn(6)).unwrap();
    letters.recall();
    assert_eq!(taken(&mut letters), "c");
    drop(letters);
    let mut letters = open();
    letters.recall();
    assert_eq!(taken(&mut letters), "c");
}

#[test]
fn torn_lines_are_cut_and_damage_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dead_letters.jsonl");
    let mut letters = DeadLetters::open(&disk(), folder.path(), 10).unwrap();
    letters.add(letter("a", 5)).unwrap();
    letters.add(letter("b", 5)).unwrap();
    letters.sync().unwrap();
    let unsaid = std::fs::read(&path).unwrap();
    letters.add(letter("c", 5)).unwrap();
    drop(letters);
    let content = std::fs::read(&path).unwrap();
    let check = |content: &[u8], expected: usize, context: usize| {
        std::fs::write(&path, content).unwrap();
        let letters = DeadLetters::open(&disk(), folder.path(), 10).unwrap();
        assert_eq!(letters.count(), expected, "{context}");
    };
    let whole = |content: &[u8]| {
        let text = String::from_utf8_lossy(content);
        let (lines, _) = text.rsplit_once('\n').unwrap_or_default();
        lines.lines().filter(|line| line.contains("letter")).count()
    };
    for cut in 0..content.len() {
        check(&content[..cut], whole(&content[..cut]), cut);
    }
    for hole in 0..unsaid.len() {
        let mut torn = unsaid.clone();
        torn[hole] = 0;
        let before = unsaid[..hole].split(|&byte| byte == b'\n').count() - 1;
        // The first line says that nothing before it is damaged.
        check(&torn, before.saturating_sub(1), hole);
    }
    let mut damaged = content.clone();
    let first = content.iter().position(|&byte| byte == b'\n').unwrap() + 1;
    damaged[first] = b'?';
    std::fs::write(&path, damaged).unwrap();
    let error = DeadLetters::open(&disk(), folder.path(), 10).unwrap_err();
    assert!(error.to_string().contains("line 2 is damaged"), "{error}");
}

/// Whatever was synced survives, and whatever was not is never mistaken for damage.
fn check_power_cut(seed: u64) {
    let sim = SimDisk::new();
    let folder = Path::new("/data/pipelines/main");
    let open = |disk: &SimDisk| {
        let disk: Arc<dyn Disk> = Arc::new(disk.clone());
        DeadLetters::open(&disk, folder, 1000).unwrap()
    };
    let mut letters = open(&sim);
    let mut synced = 0;
    for lsn in 1..seed % 40 {
        letters.add(letter(&lsn.to_string(), lsn)).unwrap();
        if lsn % 7 == seed % 5 {
            letters.sync().unwrap();
            synced = letters.count();
        }
    }
    let after = sim.power_cut(seed);
    assert!(after.exists(&folder.join("dead_letters.jsonl")).unwrap(), "seed {seed}");
    assert!(open(&after).count() >= synced, "seed {seed}");
}

#[test]
fn power_cuts() {
    (0..300).for_each(check_power_cut);
}

#[test]
fn a_failed_sync_is_not_tried_again() {
    let sim = SimDisk::new();
    let disk: Arc<dyn Disk> = Arc::new(sim.clone());
    let mut letters = DeadLetters::open(&disk, Path::new("/data"), 10).unwrap();
    letters.add(letter("a", 5)).unwrap();
    sim.fail_at(sim.operations(), Fault::SyncFailure);
    letters.sync().unwrap_err();
    letters.sync().unwrap_err();
    letters.add(letter("b", 6)).unwrap_err();
    letters.mend().unwrap();
    letters.add(letter("b", 6)).unwrap();
    letters.sync().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(sim.power_cut(1));
    assert_eq!(DeadLetters::open(&disk, Path::new("/data"), 10).unwrap().count(), 2);
}

#[test]
fn letters_of_an_earlier_version_are_of_the_index_that_their_table_has() {
    let folder = tempfile::tempdir().unwrap();
    let lines = r#"{"letter":{"table":"public.T","id":"7","lsn":"0/5","reason":"bad","values":{}}}
{"letter":{"table":"shop.u","id":"8","lsn":"0/5","reason":"bad","values":{}}}
{"letter":{"table":"public.T","id":"9","lsn":"0/5","reason":"bad","values":{}}}
{"closed":{"table":"public.T","id":"9","lsn":"0/6"}}
"#;
    std::fs::write(folder.path().join(FILE), lines).unwrap();
    let letters = DeadLetters::open(&disk(), folder.path(), 10).unwrap();
    let keys = letters.keys(&LetterFilter::default());
    let keys: Vec<_> = keys.iter().map(|key| (&*key.index, &*key.table, &*key.id)).collect();
    assert_eq!(keys, [("shop.u", "shop.u", "8"), ("t", "public.T", "7")]);
}
