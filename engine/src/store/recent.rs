//! What has been written since the last publication, for reads by id that do not wait for one.
//!
//! Changes are only kept as they come, and found by id once somebody reads: a load of many
//! documents, of which nobody asks for any, does not pay for it.

use rustc_hash::FxHashMap;

use super::plan::Change;
use crate::position::SeqNo;
use crate::snapshot::StoredDocument;

/// Unpublished changes.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    /// What reads have found their way through; `None` is a deleted document.
    documents: FxHashMap<String, Option<StoredDocument>>,
    /// What has come since, in order.
    unread: Vec<Vec<Change>>,
    /// Whether everything published has been deleted.
    cleared: bool,
    bytes: usize,
}

/// What is known of a document without looking at what is published.
pub(crate) enum Known {
    There(StoredDocument),
    Deleted,
    Nothing,
}

impl Recent {
    /// What this knows of a document.
    pub(crate) fn document(&mut self, id: &str) -> Known {
        for change in std::mem::take(&mut self.unread).into_iter().flatten() {
            self.read(change);
        }
        match self.documents.get(id) {
            Some(Some(document)) => Known::There(document.clone()),
            Some(None) => Known::Deleted,
            None if self.cleared => Known::Deleted,
            None => Known::Nothing,
        }
    }

    fn read(&mut self, change: Change) {
        match change {
            Change::Put { id, system, source } => {
                let document = StoredDocument {
                    id: id.clone(),
                    source,
                    version: system.version,
                    seq_no: SeqNo(system.seq_no),
                    term: system.term,
                };
                self.documents.insert(id, Some(document));
            }
            Change::Delete { id, .. } => drop(self.documents.insert(id, None)),
            // Nothing was there.
            Change::Tombstone { .. } => {}
            Change::Clear => self.documents.clear(),
        }
    }

    /// Adds the changes of a batch.
    pub(super) fn push(&mut self, mut changes: Vec<Change>) {
        // They bring about no publication, and so would never be forgotten.
        changes.retain(|change| !matches!(change, Change::Tombstone { .. }));
        if changes.is_empty() {
            return;
        }
        for change in &changes {
            self.bytes += match change {
                Change::Put { id, source, .. } => id.len() + source.len(),
                Change::Delete { id, .. } => id.len(),
                Change::Tombstone { .. } => 0,
                Change::Clear => {
                    self.cleared = true;
                    0
                }
            };
        }
        self.unread.push(changes);
    }

    /// Bytes of the ids and sources that are held.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::mapping::schema::SystemValues;
    use crate::store::tombstones::Tombstone;

    fn put(id: &str, version: u64) -> Change {
        let system = SystemValues { version, ..SystemValues::default() };
        Change::Put { id: id.to_owned(), system, source: Bytes::from_static(b"{}") }
    }

    fn version(recent: &mut Recent, id: &str) -> Option<u64> {
        match recent.document(id) {
            Known::There(document) => Some(document.version),
            Known::Deleted => Some(0),
            Known::Nothing => None,
        }
    }

    #[test]
    fn reads_find_the_last_change_whenever_they_come() {
        let mut recent = Recent::default();
        recent.push(vec![put("a", 1), put("b", 1)]);
        assert_eq!(version(&mut recent, "a"), Some(1));
        recent.push(vec![put("a", 2), Change::Delete { id: "b".to_owned(), tombstone: None }]);
        recent.push(vec![put("a", 3)]);
        assert_eq!(version(&mut recent, "a"), Some(3));
        assert_eq!(version(&mut recent, "b"), Some(0));
        assert_eq!(version(&mut recent, "c"), None);
        assert_eq!(recent.bytes(), 3 + 3 + 3 + 1 + 3);
    }

    #[test]
    fn what_brings_about_no_publication_is_not_kept() {
        let mut recent = Recent::default();
        recent.push(Vec::new());
        let tombstone = Tombstone { seq_no: 1, term: 1, version: 1, at_ms: 0 };
        recent.push(vec![Change::Tombstone { id: "a".to_owned(), tombstone }]);
        assert!(recent.unread.is_empty());
        assert_eq!(version(&mut recent, "a"), None);
    }

    #[test]
    fn after_a_clear_nothing_is_there_but_what_follows() {
        let mut recent = Recent::default();
        recent.push(vec![put("a", 1)]);
        recent.push(vec![put("b", 1), Change::Clear, put("c", 1)]);
        assert_eq!(version(&mut recent, "a"), Some(0));
        assert_eq!(version(&mut recent, "b"), Some(0));
        assert_eq!(version(&mut recent, "c"), Some(1));
        assert_eq!(version(&mut recent, "elsewhere"), Some(0));
    }
}
