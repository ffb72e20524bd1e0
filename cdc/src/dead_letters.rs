//! Rows that could not be indexed: listed durably before their transaction is acknowledged, so that
//! a row that is missing from an index is never missing silently.
//!
//! `dead_letters.jsonl`, one JSON value a line (the first of these is broken in two here):
//!
//! ```json
//! {"letter": {"table": "public.t", "id": "7", "lsn": "0/1A2B", "reason": "...", "values": {},
//!             "read_again": true}}
//! {"closed": {"table": "public.t", "id": "7", "lsn": "0/1A2C"}}
//! {"cleared": {"table": "public.t", "lsn": "0/1A2D"}}
//! "synced"
//! ```
//!
//! A letter is known by table and id; one at an LSN that is not above the known one's is a replay
//! and changes nothing. A later good change of the row, or its removal, closes it. A line
//! `"synced"` is written after every sync that others follow: what lies before it was durable, so a
//! line there that cannot be read is damage. Lines after the last of them may be lost to a power
//! cut in any places; they were never acknowledged and are cut from the first that cannot be read.
//! When opened, the file is rewritten to its open letters.

mod listing;

use std::collections::BTreeSet;
use std::collections::hash_map::Entry;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use egret_aof::check::Check;
use egret_aof::disk::{Disk, DiskFile, create_folder_durably, replace_file};
use egret_engine::Lsn;
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use self::listing::LetterFilter;
use crate::document::MAX_RAW_BYTES;
use crate::error::{Error, ErrorKind, Result};

/// The longest reason that a letter keeps, in bytes; a longer one is cut.
const MAX_REASON_BYTES: usize = 4 << 10;

/// The list's name in the pipeline's folder.
const FILE: &str = "dead_letters.jsonl";

/// A row that could not be indexed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Letter {
    /// The table, as `schema.table`.
    pub(crate) table: String,
    /// The row's `_id`, as far as it has one.
    pub(crate) id: String,
    /// The transaction's position, or that of the copy's snapshot.
    pub(crate) lsn: Lsn,
    /// What is wrong.
    pub(crate) reason: String,
    /// Its values; empty where they are too large to keep.
    pub(crate) values: Map<String, Value>,
    /// Whether the row is to be read again by itself, and only that tells what is wrong with it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) read_again: bool,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Line {
    Letter(Letter),
    Closed { table: String, id: String, lsn: Lsn },
    Cleared { table: String, lsn: Lsn },
    Synced,
}

/// The open letters of a pipeline.
#[derive(Debug)]
pub(crate) struct DeadLetters {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    file: Box<dyn DiskFile>,
    open: FxHashMap<String, FxHashMap<String, Open>>,
    count: usize,
    limit: usize,
    dirty: bool,
    /// Rows that are to be read again by themselves, and were not asked for since the last
    /// [`recall`](Self::recall).
    to_read: BTreeSet<(String, String)>,
    /// Whether there was a sync that no line says yet.
    unsaid: bool,
    /// Whether a write or a sync has failed: the file must not be used any more.
    broken: bool,
}

/// What is known of an open letter.
#[derive(Debug, Clone, Copy)]
struct Open {
    lsn: Lsn,
    read_again: bool,
}

impl DeadLetters {
    /// Opens the list in a folder, made if missing.
    pub(crate) fn open(disk: &Arc<dyn Disk>, folder: &Path, limit: usize) -> Result<Self> {
        create_folder_durably(&**disk, folder)?;
        let path: PathBuf = folder.join(FILE);
        let mut letters: FxHashMap<(String, String), Letter> = FxHashMap::default();
        if disk.exists(&path)? {
            for line in lines(&disk.read(&path)?, &path)? {
                apply(&mut letters, line);
            }
        }
        let mut content = Vec::new();
        let mut open: FxHashMap<String, FxHashMap<String, Open>> = FxHashMap::default();
        let count = letters.len();
        for letter in letters.into_values() {
            let Letter { table, id, lsn, read_again, .. } = &letter;
            let known = Open { lsn: *lsn, read_again: *read_again };
            open.entry(table.clone()).or_default().insert(id.clone(), known);
            append(&mut content, &Line::Letter(letter))?;
        }
        append(&mut content, &Line::Synced)?;
        replace_file(&**disk, &path, &content)?;
        let file = disk.open_append(&path)?;
        let (disk, folder) = (Arc::clone(disk), folder.to_owned());
        let (dirty, unsaid, broken) = (false, false, false);
        let to_read = BTreeSet::new();
        Ok(Self { disk, folder, file, open, count, limit, dirty, to_read, unsaid, broken })
    }

    /// After a failure: goes on with a new file of what can still be read. What is not in it was
    /// not acknowledged, and comes again.
    pub(crate) fn mend(&mut self) -> Result<()> {
        if self.broken {
            *self = Self::open(&self.disk, &self.folder, self.limit)?;
        }
        Ok(())
    }

    /// How many are open.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Whether any letter of a table is open.
    pub(crate) fn has_any_of(&self, table: &str) -> bool {
        self.open.get(table).is_some_and(|letters| !letters.is_empty())
    }

    /// Whether a row is listed.
    pub(crate) fn has(&self, table: &str, id: &str) -> bool {
        self.open.get(table).is_some_and(|letters| letters.contains_key(id))
    }

    /// Fails where more are open than may be: somebody must look. They are listed all the same, since
    /// the index has taken note of their transactions, which do not come again.
    pub(crate) fn check_limit(&self) -> Result<()> {
        if self.count <= self.limit {
            return Ok(());
        }
        let message = format!(
            "{} dead letters are open, more than max_dead_letters [{}]; mend the mapping or the rows \
             and retry them, purge them, or raise the limit, and restart the pipeline",
            self.count, self.limit
        );
        Err(Error::new(ErrorKind::Refused, message))
    }

    /// Changes what is said of a row that is listed, where nothing newer is.
    pub(crate) fn renew(&mut self, letter: Letter) -> Result<()> {
        let known = self.open.get(&letter.table).and_then(|of_table| of_table.get(&letter.id));
        if known.is_some() { self.add(letter) } else { Ok(()) }
    }

    /// Lists a row. Durable after the next `sync`.
    pub(crate) fn add(&mut self, mut letter: Letter) -> Result<()> {
        let of_table = self.open.entry(letter.table.clone()).or_default();
        let new = Open { lsn: letter.lsn, read_again: letter.read_again };
        match of_table.entry(letter.id.clone()) {
            Entry::Occupied(known) if known.get().lsn >= letter.lsn => return Ok(()),
            Entry::Occupied(mut known) => {
                known.insert(new);
            }
            Entry::Vacant(place) => {
                place.insert(new);
                self.count += 1;
            }
        }
        if letter.read_again {
            self.to_read.insert((letter.table.clone(), letter.id.clone()));
        }
        let size: usize =
            letter.values.values().map(|value| value.as_str().map_or(8, str::len)).sum();
        if size > MAX_RAW_BYTES {
            letter.values.clear();
        }
        let fits = |end: &usize| letter.reason.is_char_boundary(*end);
        let end = (0..=MAX_REASON_BYTES.min(letter.reason.len())).rev().find(fits);
        letter.reason.truncate(end.unwrap_or_default());
        self.write(&Line::Letter(letter))
    }

    /// Asks once more for all of which nothing is known yet.
    pub(crate) fn recall(&mut self) {
        self.to_read.clear();
        for (table, letters) in &self.open {
            let ids = letters.iter().filter(|(_, known)| known.read_again).map(|(id, _)| id);
            self.to_read.extend(ids.map(|id| (table.clone(), id.clone())));
        }
    }

    /// Rows to read again, at most so many, of tables that are followed. They stay listed.
    pub(crate) fn take_to_read(
        &mut self,
        limit: usize,
        is_followed: impl Fn(&str) -> bool,
    ) -> Vec<(String, String)> {
        let mut taken = Vec::new();
        let open = &self.open;
        self.to_read.retain(|(table, id)| {
            let known = open.get(table).and_then(|letters| letters.get(id));
            if !known.is_some_and(|known| known.read_again) {
                return false;
            }
            let takes = taken.len() < limit && is_followed(table);
            if takes {
                taken.push((table.clone(), id.clone()));
            }
            !takes
        });
        taken
    }

    /// Says that a row was written or removed as it should be.
    pub(crate) fn close(&mut self, table: &str, id: &str, lsn: Lsn) -> Result<()> {
        let Some(of_table) = self.open.get_mut(table) else { return Ok(()) };
        if of_table.get(id).is_none_or(|known| known.lsn >= lsn) {
            return Ok(());
        }
        of_table.remove(id);
        self.count -= 1;
        self.write(&Line::Closed { table: table.to_owned(), id: id.to_owned(), lsn })
    }

    /// Says that a table lost all its rows.
    pub(crate) fn clear(&mut self, table: &str, lsn: Lsn) -> Result<()> {
        let Some(of_table) = self.open.get_mut(table) else { return Ok(()) };
        let before = of_table.len();
        of_table.retain(|_, known| known.lsn >= lsn);
        let gone = before - of_table.len();
        if gone == 0 {
            return Ok(());
        }
        self.count -= gone;
        self.write(&Line::Cleared { table: table.to_owned(), lsn })
    }

    /// Makes durable what was written.
    pub(crate) fn sync(&mut self) -> Result<()> {
        if self.dirty {
            self.using(|file| file.sync())?;
            (self.dirty, self.unsaid) = (false, true);
        }
        Ok(())
    }

    fn write(&mut self, line: &Line) -> Result<()> {
        let mut content = Vec::new();
        if std::mem::take(&mut self.unsaid) {
            append(&mut content, &Line::Synced)?;
        }
        append(&mut content, line)?;
        self.dirty = true;
        self.using(|file| file.write_all(&content))
    }

    /// A file of which a write or a sync has failed is never synced again: its pages may be gone.
    fn using(&mut self, work: impl FnOnce(&mut dyn DiskFile) -> std::io::Result<()>) -> Result<()> {
        if self.broken {
            let message = "the list of dead letters is not in use since a failure of the disk";
            return Err(std::io::Error::other(message).into());
        }
        let result = work(&mut *self.file);
        self.broken = result.is_err();
        Ok(result?)
    }
}

fn append(content: &mut Vec<u8>, line: &Line) -> Result<()> {
    serde_json::to_writer(&mut *content, line).map_err(std::io::Error::other)?;
    content.push(b'\n');
    Ok(())
}

fn apply(letters: &mut FxHashMap<(String, String), Letter>, line: Line) {
    match line {
        Line::Letter(letter) => {
            letters.insert((letter.table.clone(), letter.id.clone()), letter);
        }
        Line::Closed { table, id, .. } => {
            letters.remove(&(table, id));
        }
        Line::Cleared { table, lsn } => {
            letters.retain(|_, letter| letter.table != table || letter.lsn >= lsn);
        }
        Line::Synced => {}
    }
}

/// Verifies the list of a pipeline; a repair keeps the lines that can be read.
pub(crate) fn check(check: &mut Check<'_>, folder: &Path) {
    let path = folder.join(FILE);
    if !check.disk().exists(&path).unwrap_or_default() {
        return;
    }
    let mark = check.mark();
    let Some(content) = check.read("dead letters", &path) else { return };
    if let Err(error) = lines(&content, &path) {
        check.damaged("dead letters", &path, error.to_string(), "");
    }
    let readable = |line: &&[u8]| serde_json::from_slice::<Line>(line).is_ok();
    let all = content.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    let kept: Vec<&[u8]> = all.clone().filter(readable).collect();
    let lost = all.count() - kept.len();
    let remedy = format!(
        "[{lost}] lines are taken out: as many rows may be missing from an index without being listed"
    );
    check.settle(mark, &remedy, |disk| {
        replace_file(disk, &path, &[kept.join(&b'\n'), b"\n".to_vec()].concat())
    });
}

/// The lines of a file, without those that a power cut has damaged and those after them.
fn lines(content: &[u8], path: &Path) -> Result<Vec<Line>> {
    let Some(end) = content.iter().rposition(|&byte| byte == b'\n') else { return Ok(Vec::new()) };
    let whole = content.get(..end).unwrap_or_default();
    let mut lines = Vec::new();
    let mut torn = None;
    for (number, line) in whole.split(|&byte| byte == b'\n').enumerate() {
        match (serde_json::from_slice(line), &torn) {
            (Ok(Line::Synced), Some((number, error))) => {
                let message = format!("[{}] line {number} is damaged: {error}", path.display());
                return Err(Error::new(ErrorKind::Refused, message));
            }
            (Ok(line), None) => lines.push(line),
            (Err(error), None) => torn = Some((number + 1, error)),
            (_, Some(_)) => {}
        }
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use egret_aof::disk::FileDisk;
    use egret_aof::disk::sim::{Fault, SimDisk};

    use super::*;

    fn letter(id: &str, lsn: u64) -> Letter {
        Letter {
            table: "public.t".to_owned(),
            id: id.to_owned(),
            lsn: Lsn(lsn),
            reason: "bad".to_owned(),
            values: Map::new(),
            read_again: false,
        }
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
        letters.close("public.t", "a", Lsn(5)).unwrap();
        assert_eq!(letters.count(), 3, "a replay closes nothing");
        letters.close("public.t", "a", Lsn(6)).unwrap();
        letters.close("public.t", "x", Lsn(6)).unwrap();
        letters.clear("public.t", Lsn(7)).unwrap();
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
                letters.take_to_read(9, |_| true).into_iter().map(|(_, id)| id).collect();
            ids.sort();
            ids.concat()
        };
        let mut letters = open();
        for (id, lsn) in [("a", 5), ("b", 5), ("c", 5), ("d", 5)] {
            letters.add(unread(id, lsn)).unwrap();
        }
        letters.add(letter("e", 5)).unwrap();
        assert!(letters.take_to_read(9, |_| false).is_empty());
        letters.close("public.t", "d", Lsn(6)).unwrap();
        assert_eq!(taken(&mut letters), "abc");
        assert_eq!(taken(&mut letters), "", "each once");
        letters.renew(letter("a", 6)).unwrap();
        letters.close("public.t", "b", Lsn(6)).unwrap();
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
}
