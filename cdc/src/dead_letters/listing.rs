//! Looking at the open letters, and taking some out.

use std::io::{BufRead, BufReader, Read};

use egret_aof::disk::DiskFile;
use rustc_hash::FxHashMap;

use super::{DeadLetters, Letter, LetterKey, Line, Open, RowName, rows};
use crate::error::Result;
use crate::orders::DeadLetter;

/// Which letters are meant: all, those of an index or a table, or one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LetterFilter {
    /// The index.
    pub index: Option<String>,
    /// The table, as `schema.table`.
    pub table: Option<String>,
    /// The row's `_id`.
    pub id: Option<String>,
}

impl LetterFilter {
    fn takes(&self, row: &RowName<'_>) -> bool {
        let is = |wanted: &Option<String>, it| wanted.as_deref().is_none_or(|wanted| wanted == it);
        is(&self.index, row.index) && is(&self.table, row.table) && is(&self.id, row.id)
    }
}

impl DeadLetters {
    /// What the letters that are meant are known by, sorted.
    pub(crate) fn keys(&self, filter: &LetterFilter) -> Vec<LetterKey> {
        let meant = rows(&self.open).map(|(row, _)| row).filter(|row| filter.takes(row));
        let mut keys: Vec<LetterKey> = meant.map(RowName::to_key).collect();
        keys.sort_unstable();
        keys
    }

    /// How many letters are meant, and some of them in the order of indexes, tables and ids. Reads the file,
    /// of which it keeps no more than is asked for.
    pub(crate) fn page(
        &self,
        filter: &LetterFilter,
        from: usize,
        size: usize,
    ) -> Result<(usize, Vec<DeadLetter>)> {
        let keys = self.keys(filter);
        let wanted: FxHashMap<&LetterKey, usize> = keys
            .iter()
            .skip(from)
            .take(size)
            .enumerate()
            .map(|(place, key)| (key, place))
            .collect();
        let mut found: Vec<Option<DeadLetter>> = vec![None; wanted.len()];
        let mut lines = BufReader::new(FileReader { file: &*self.file, at: 0 });
        let mut line = Vec::new();
        while !wanted.is_empty() && lines.read_until(b'\n', &mut line)? > 0 {
            // A line that is half written, or damaged, is not what is open.
            let read = serde_json::from_slice(&line);
            line.clear();
            let Ok(Line::Letter(letter)) = read else { continue };
            let place = wanted.get(&letter.row().to_key()).and_then(|&place| found.get_mut(place));
            if let Some(place) = place {
                let Letter { index, table, id, lsn, reason, values, .. } = letter;
                *place = Some(DeadLetter { index, table, id, lsn, reason, values });
            }
        }
        let page = found.into_iter().flatten().collect();
        Ok((keys.len(), page))
    }

    /// Takes letters out, whatever became of their rows; how many.
    pub(crate) fn purge(&mut self, filter: &LetterFilter) -> Result<usize> {
        let keys = self.keys(filter);
        let count = keys.len();
        for key in keys {
            let Some(Open { lsn, .. }) = self.remove(key.row()) else { continue };
            let LetterKey { index, table, id } = key;
            self.write(&Line::Closed { index, table, id, lsn })?;
        }
        self.sync()?;
        Ok(count)
    }
}

/// Reads a file from its beginning.
struct FileReader<'a> {
    file: &'a dyn DiskFile,
    at: u64,
}

impl Read for FileReader<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        let read = self.file.read_at(self.at, bytes)?;
        self.at += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use egret_aof::disk::Disk;
    use egret_aof::disk::sim::SimDisk;
    use egret_engine::Lsn;
    use serde_json::Map;

    use super::*;

    fn letter(table: &str, id: &str, lsn: u64, reason: &str) -> Letter {
        let (table, id, reason) = (table.to_owned(), id.to_owned(), reason.to_owned());
        let (index, values) = ("i".to_owned(), Map::new());
        Letter { index, table, id, lsn: Lsn(lsn), reason, values, read_again: false }
    }

    fn of(table: &str, id: Option<&str>) -> LetterFilter {
        let (table, id) = (Some(table.to_owned()), id.map(str::to_owned));
        LetterFilter { index: None, table, id }
    }

    #[test]
    fn pages_and_purges() {
        let disk: Arc<dyn Disk> = Arc::new(SimDisk::new());
        let open = || DeadLetters::open(&disk, Path::new("/p"), 100).unwrap();
        let mut letters = open();
        for (at, id) in ["d", "b", "a", "c"].iter().enumerate() {
            letters.add(letter("public.t", id, at as u64 + 1, "old")).unwrap();
        }
        letters.add(letter("public.u", "x", 5, "other")).unwrap();
        letters.add(letter("public.t", "b", 6, "new")).unwrap();
        letters.close(RowName { index: "i", table: "public.t", id: "c" }, Lsn(7)).unwrap();
        let shown = |letters: &DeadLetters, filter: &LetterFilter, from, size| {
            let (count, page) = letters.page(filter, from, size).unwrap();
            let page: Vec<String> =
                page.iter().map(|it| format!("{} {} {}", it.id, it.lsn, it.reason)).collect();
            format!("{count}: {}", page.join(", "))
        };
        let all = LetterFilter::default();
        assert_eq!(shown(&letters, &all, 0, 10), "4: a 0/3 old, b 0/6 new, d 0/1 old, x 0/5 other");
        assert_eq!(shown(&letters, &all, 1, 2), "4: b 0/6 new, d 0/1 old");
        assert_eq!(shown(&letters, &all, 9, 2), "4: ");
        assert_eq!(shown(&letters, &of("public.t", Some("b")), 0, 9), "1: b 0/6 new");
        assert_eq!(letters.purge(&of("public.t", Some("c"))).unwrap(), 0);
        assert_eq!(letters.purge(&of("public.t", Some("b"))).unwrap(), 1);
        assert_eq!(letters.purge(&of("public.u", None)).unwrap(), 1);
        drop(letters);
        assert_eq!(shown(&open(), &all, 0, 10), "2: a 0/3 old, d 0/1 old");
    }
}
