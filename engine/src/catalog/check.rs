//! Verifying the indexes of a data folder that nobody has open.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use egret_aof::check::Check;
use egret_aof::disk::Disk;

use super::model::{Catalog, IndexEntry};
use super::{INDEXES, LOCK, format};
use crate::error::{Error, ErrorKind, Result};
use crate::store::check::{COMMIT, check_index};

/// What the findings call the catalog.
const PART: &str = "catalog";

/// A data folder, locked so that nobody opens it.
pub struct DataFolder {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    _lock: Box<dyn Send + Sync>,
}

impl DataFolder {
    /// Locks a data folder; refused where a server has it open, and where there is none.
    pub fn lock(disk: Arc<dyn Disk>, folder: &Path) -> Result<Self> {
        if !disk.exists(&folder.join(INDEXES))? {
            let message = format!("[{}] is no data folder of Egret", folder.display());
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let lock = disk.lock(&folder.join(LOCK)).map_err(|source| {
            let message = format!("the data folder [{}] is in use: {source}", folder.display());
            Error::new(ErrorKind::Io, message).with_source(source)
        })?;
        Ok(Self { disk, folder: folder.to_owned(), _lock: lock })
    }

    /// Verifies the catalog and every index. A repair drops followed indexes that are damaged, so
    /// that their tables are copied again, and skips damaged records of translogs; what else is
    /// damaged stays as it is.
    pub fn check(&self, check: &mut Check<'_>) {
        check.begin("catalog");
        let Some(catalog) = self.read_catalog(check) else { return };
        self.note_strangers(check, &catalog);
        for (name, entry) in &catalog.indexes {
            self.check_entry(check, name, entry);
        }
    }

    fn read_catalog(&self, check: &mut Check<'_>) -> Option<Catalog> {
        let path = self.folder.join(format::FILE);
        let read = format::read(&*self.disk, &self.folder).and_then(|catalog| match catalog {
            Some(catalog) => Ok(catalog),
            None => expect_no_index(&*self.disk, &self.folder).map(|()| Catalog::default()),
        });
        match read {
            Ok(catalog) => {
                check.count(&path, self.disk.len(&path).unwrap_or_default());
                Some(catalog)
            }
            Err(error) => {
                let remedy = "not repaired: nothing else says which index is which; bring it back \
                              from a copy of the folder";
                check.damaged(PART, &path, error.to_string(), remedy);
                None
            }
        }
    }

    fn note_strangers(&self, check: &mut Check<'_>, catalog: &Catalog) {
        let folder = self.folder.join(INDEXES);
        let replacements = catalog.indexes.values().filter_map(|entry| entry.replacement.as_ref());
        let replacements = replacements.map(|replacement| replacement.uuid.as_str());
        let entries = catalog.indexes.values().map(|entry| entry.uuid.as_str());
        let kept = catalog.indexes.values().filter_map(|entry| entry.kept.as_ref());
        let kept = kept.map(|kept| kept.uuid.as_str());
        let named: HashSet<&str> = entries.chain(replacements).chain(kept).collect();
        for name in self.disk.list(&folder).unwrap_or_default() {
            if !named.contains(name.as_str()) {
                check.harmless("folder", &folder.join(name), "belongs to no index");
            }
        }
    }

    fn check_entry(&self, check: &mut Check<'_>, name: &str, entry: &IndexEntry) {
        check.begin(format!("index [{name}]"));
        let mark = check.mark();
        let followed = entry.pipeline.is_some();
        let folder = self.folder.join(INDEXES).join(&entry.uuid);
        check_index(check, &folder, &entry.uuid, followed);
        if followed {
            let remedy =
                "the index is dropped, with its aliases: its pipeline copies the table again";
            check.settle(mark, remedy, |disk| {
                self.change(|catalog| drop(catalog.indexes.remove(name)))?;
                disk.remove_folder(&folder)
            });
        }
        if let Some(kept) = &entry.kept {
            check.begin(format!("index [{name}] from before its rebuild"));
            let mark = check.mark();
            let folder = self.folder.join(INDEXES).join(&kept.uuid);
            check_index(check, &folder, &kept.uuid, followed);
            check.settle(mark, "it is dropped: the rebuild cannot be rolled back", |_| {
                self.change(|catalog| forget_kept(catalog, name))
            });
        }
        let Some(replacement) = &entry.replacement else { return };
        check.begin(format!("replacement of index [{name}]"));
        let mark = check.mark();
        let folder = self.folder.join(INDEXES).join(&replacement.uuid);
        check_index(check, &folder, &replacement.uuid, followed);
        check.settle(mark, "it is dropped: filling it begins anew", |_| {
            self.change(|catalog| {
                catalog.indexes.entry(name.to_owned()).and_modify(|entry| entry.replacement = None);
            })
        });
    }

    /// Writes the catalog with a change.
    fn change(&self, change: impl FnOnce(&mut Catalog)) -> io::Result<()> {
        let read = format::read(&*self.disk, &self.folder).map_err(io::Error::other)?;
        let mut catalog = read.unwrap_or_default();
        change(&mut catalog);
        format::replace(&*self.disk, &self.folder, &catalog, &catalog)
            .map_err(|failure| io::Error::other(failure.error))
    }
}

fn forget_kept(catalog: &mut Catalog, name: &str) {
    if let Some(entry) = catalog.indexes.get_mut(name) {
        entry.kept = None;
    }
}

/// Refuses a folder that has indexes, as one without a catalog must not.
pub(super) fn expect_no_index(disk: &dyn Disk, folder: &Path) -> Result<()> {
    for name in disk.list(&folder.join(INDEXES))? {
        if disk.exists(&folder.join(INDEXES).join(&name).join(COMMIT))? {
            let message = format!(
                "[{}] is missing, but [{}] holds an index",
                folder.join(format::FILE).display(),
                folder.join(INDEXES).join(&name).display()
            );
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
    }
    Ok(())
}

impl fmt::Debug for DataFolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DataFolder({})", self.folder.display())
    }
}
