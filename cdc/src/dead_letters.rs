//! Rows that could not be indexed: listed durably before their transaction is acknowledged, so that
//! a row that is missing from an index is never missing silently.
//!
//! `dead_letters.jsonl`, one JSON value a line (the first of these is broken in two here):
//!
//! ```json
//! {"letter": {"index": "t", "table": "public.t", "id": "7", "lsn": "0/1A2B", "reason": "...",
//!             "values": {}, "read_again": true}}
//! {"closed": {"index": "t", "table": "public.t", "id": "7", "lsn": "0/1A2C"}}
//! {"cleared": {"index": "t", "table": "public.t", "lsn": "0/1A2D"}}
//! {"cleared": {"index": "t", "lsn": "0/1A2E"}}
//! "synced"
//! ```
//!
//! A letter is known by index, table and id: one index may take a row that another one cannot. One at
//! an LSN that is not above the known one's is a replay and changes nothing. A later good change of the row, or its removal, closes it. A line
//! `"synced"` is written after every sync that others follow: what lies before it was durable, so a
//! line there that cannot be read is damage. Lines after the last of them may be lost to a power
//! cut in any places; they were never acknowledged and are cut from the first that cannot be read.
//! When opened, the file is rewritten to its open letters.

mod listing;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::collections::hash_map::Entry;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use egret_aof::check::Check;
use egret_aof::disk::{Disk, DiskFile, create_folder_durably, replace_file};
use egret_aof::failpoint;
use egret_engine::Lsn;
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use self::listing::LetterFilter;
use crate::document::MAX_RAW_BYTES;
use crate::error::{Error, ErrorKind, Result};
use crate::selection::index_name;

/// The longest reason that a letter keeps, in bytes; a longer one is cut.
const MAX_REASON_BYTES: usize = 4 << 10;

/// The list's name in the pipeline's folder.
const FILE: &str = "dead_letters.jsonl";

/// A row that could not be indexed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Letter {
    /// The index that lacks the row.
    #[serde(default)]
    pub(crate) index: String,
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
    Closed {
        #[serde(default)]
        index: String,
        table: String,
        id: String,
        lsn: Lsn,
    },
    Cleared {
        #[serde(default)]
        index: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        table: Option<String>,
        lsn: Lsn,
    },
    Synced,
}

/// What a letter is known by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LetterKey {
    /// The index.
    pub(crate) index: String,
    /// The table, as `schema.table`.
    pub(crate) table: String,
    /// The row's `_id`.
    pub(crate) id: String,
}

/// The same, borrowed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RowName<'a> {
    pub(crate) index: &'a str,
    pub(crate) table: &'a str,
    pub(crate) id: &'a str,
}

/// The open letters of an index, by table and id.
type OfIndex = FxHashMap<String, FxHashMap<String, Open>>;

/// The open letters of a pipeline.
#[derive(Debug)]
pub(crate) struct DeadLetters {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    file: Box<dyn DiskFile>,
    open: FxHashMap<String, OfIndex>,
    count: usize,
    limit: usize,
    dirty: bool,
    /// Rows that are to be read again by themselves, and were not asked for since the last
    /// [`recall`](Self::recall).
    to_read: BTreeSet<LetterKey>,
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
        let mut letters: FxHashMap<LetterKey, Letter> = FxHashMap::default();
        if disk.exists(&path)? {
            for line in lines(&disk.read(&path)?, &path)? {
                apply(&mut letters, line);
            }
        }
        let mut content = Vec::new();
        let mut open: FxHashMap<String, OfIndex> = FxHashMap::default();
        let count = letters.len();
        for (LetterKey { index, table, id }, letter) in letters {
            let known = Open { lsn: letter.lsn, read_again: letter.read_again };
            open.entry(index).or_default().entry(table).or_default().insert(id, known);
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

    /// Whether any letter of an index is open.
    pub(crate) fn has_any_of(&self, index: &str) -> bool {
        let tables = self.open.get(index);
        tables.is_some_and(|tables| tables.values().any(|letters| !letters.is_empty()))
    }

    /// Whether a row is listed.
    pub(crate) fn has(&self, row: RowName<'_>) -> bool {
        self.known(row).is_some()
    }

    fn known(&self, RowName { index, table, id }: RowName<'_>) -> Option<&Open> {
        self.open.get(index)?.get(table)?.get(id)
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
        if self.has(letter.row()) { self.add(letter) } else { Ok(()) }
    }

    /// Lists a row. Durable after the next `sync`.
    pub(crate) fn add(&mut self, mut letter: Letter) -> Result<()> {
        let of_index = self.open.entry(letter.index.clone()).or_default();
        let of_table = of_index.entry(letter.table.clone()).or_default();
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
            self.to_read.insert(letter.row().to_key());
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
        let unread = rows(&self.open).filter(|(_, known)| known.read_again);
        self.to_read.extend(unread.map(|(row, _)| row.to_key()));
    }

    /// Rows to read again, at most so many, of indexes that are followed. They stay listed.
    pub(crate) fn take_to_read(
        &mut self,
        limit: usize,
        is_followed: impl Fn(&str) -> bool,
    ) -> Vec<LetterKey> {
        let mut taken = Vec::new();
        for key in std::mem::take(&mut self.to_read) {
            if !self.known(key.row()).is_some_and(|known| known.read_again) {
                continue;
            }
            if taken.len() < limit && is_followed(&key.index) {
                taken.push(key);
            } else {
                self.to_read.insert(key);
            }
        }
        taken
    }

    /// Says that a row was written or removed as it should be.
    pub(crate) fn close(&mut self, row: RowName<'_>, lsn: Lsn) -> Result<()> {
        if self.known(row).is_none_or(|known| known.lsn >= lsn) {
            return Ok(());
        }
        self.remove(row);
        let LetterKey { index, table, id } = row.to_key();
        self.write(&Line::Closed { index, table, id, lsn })
    }

    fn remove(&mut self, RowName { index, table, id }: RowName<'_>) -> Option<Open> {
        let removed = self.open.get_mut(index)?.get_mut(table)?.remove(id)?;
        self.count -= 1;
        Some(removed)
    }

    /// Says that an index lost all rows that it had of a table; of all tables where none is named.
    pub(crate) fn clear(&mut self, index: &str, table: Option<&str>, lsn: Lsn) -> Result<()> {
        let Some(tables) = self.open.get_mut(index) else { return Ok(()) };
        let mut gone = 0;
        for (of, letters) in tables {
            let before = letters.len();
            letters.retain(|_, known| table.is_some_and(|table| table != of) || known.lsn >= lsn);
            gone += before - letters.len();
        }
        if gone == 0 {
            return Ok(());
        }
        self.count -= gone;
        let (index, table) = (index.to_owned(), table.map(str::to_owned));
        self.write(&Line::Cleared { index, table, lsn })
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
        self.using(|file| file.write_all(&content))?;
        failpoint::reach("letter-written");
        Ok(())
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

impl RowName<'_> {
    /// A letter of the row, of which it is known what is wrong.
    pub(crate) fn letter(self, lsn: Lsn, reason: String, values: Map<String, Value>) -> Letter {
        let LetterKey { index, table, id } = self.to_key();
        Letter { index, table, id, lsn, reason, values, read_again: false }
    }

    pub(crate) fn to_key(self) -> LetterKey {
        let [index, table, id] = [self.index, self.table, self.id].map(str::to_owned);
        LetterKey { index, table, id }
    }
}

impl LetterKey {
    fn row(&self) -> RowName<'_> {
        RowName { index: &self.index, table: &self.table, id: &self.id }
    }
}

impl Letter {
    fn row(&self) -> RowName<'_> {
        RowName { index: &self.index, table: &self.table, id: &self.id }
    }
}

/// All open letters.
fn rows(open: &FxHashMap<String, OfIndex>) -> impl Iterator<Item = (RowName<'_>, &Open)> {
    open.iter().flat_map(|(index, tables)| {
        tables.iter().flat_map(move |(table, letters)| {
            letters.iter().map(move |(id, known)| (RowName { index, table, id }, known))
        })
    })
}

fn append(content: &mut Vec<u8>, line: &Line) -> Result<()> {
    serde_json::to_writer(&mut *content, line).map_err(std::io::Error::other)?;
    content.push(b'\n');
    Ok(())
}

fn apply(letters: &mut FxHashMap<LetterKey, Letter>, line: Line) {
    match line {
        Line::Letter(letter) => {
            letters.insert(letter.row().to_key(), letter);
        }
        Line::Closed { index, table, id, .. } => {
            letters.remove(&LetterKey { index, table, id });
        }
        Line::Cleared { index, table, lsn } => {
            let other = |key: &LetterKey| {
                key.index != index || table.as_ref().is_some_and(|table| *table != key.table)
            };
            letters.retain(|key, letter| other(key) || letter.lsn >= lsn);
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

/// Lines of an earlier version name no index: they are of the one that their table has by itself.
fn of_an_index(mut line: Line) -> Line {
    if let Line::Letter(Letter { index, table, .. })
    | Line::Closed { index, table, .. }
    | Line::Cleared { index, table: Some(table), .. } = &mut line
        && index.is_empty()
    {
        *index = index_name("public", table.strip_prefix("public.").unwrap_or(table));
    }
    line
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
            (Ok(line), None) => lines.push(of_an_index(line)),
            (Err(error), None) => torn = Some((number + 1, error)),
            (_, Some(_)) => {}
        }
    }
    Ok(lines)
}
