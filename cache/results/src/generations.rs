//! The newest generation known of every index: what decides whether a fill is kept. Serving needs
//! none of this, since the generation is in the key.

use std::collections::VecDeque;

use hashbrown::{HashMap, HashSet};
use parking_lot::RwLock;
use uuid::Uuid;

use crate::key::{Generation, Version};

/// How many deleted indexes are remembered. A fill for one that is forgotten again would be kept
/// until it is evicted, under a UUID that nobody asks for any more.
const MAX_DELETED: usize = 4096;

/// Whether an answer may be stored, or a stored one kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Made from the newest known generation of each index.
    Current,
    /// An index has a newer generation, or is deleted.
    Outdated,
}

#[derive(Debug, Default)]
struct Known {
    newest: HashMap<Uuid, Generation>,
    deleted: HashSet<Uuid>,
    deleted_order: VecDeque<Uuid>,
}

/// What is known of the indexes.
///
/// The lock guards the table alone and is never held while another is taken, so it may be taken
/// under a shard's.
#[derive(Debug, Default)]
pub(crate) struct Generations(RwLock<Known>);

impl Generations {
    /// Notes that these generations exist. Older ones and those of deleted indexes change nothing.
    pub(crate) fn observe(&self, versions: &[Version]) {
        let is_news = |known: &Known, version: &Version| {
            known.newest.get(&version.index).is_none_or(|newest| *newest < version.generation)
                && !known.deleted.contains(&version.index)
        };
        {
            let known = self.0.read();
            if !versions.iter().any(|version| is_news(&known, version)) {
                return;
            }
        }
        let mut known = self.0.write();
        for version in versions {
            if is_news(&known, version) {
                known.newest.insert(version.index, version.generation);
            }
        }
    }

    /// Notes that an index is gone: nothing is stored for its UUID ever again.
    pub(crate) fn delete(&self, index: Uuid) {
        let mut known = self.0.write();
        known.newest.remove(&index);
        if known.deleted.insert(index) {
            known.deleted_order.push_back(index);
        }
        if known.deleted_order.len() > MAX_DELETED
            && let Some(oldest) = known.deleted_order.pop_front()
        {
            known.deleted.remove(&oldest);
        }
    }

    /// How these versions stand now.
    pub(crate) fn standing(&self, versions: &[Version]) -> Standing {
        let known = self.0.read();
        let outdated = versions.iter().any(|Version { index, generation }| {
            known.newest.get(index).is_some_and(|newest| newest > generation)
                || known.deleted.contains(index)
        });
        if outdated { Standing::Outdated } else { Standing::Current }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(index: u128, number: u64) -> Version {
        Version { index: Uuid::from_u128(index), generation: Generation { term: 1, number } }
    }

    #[test]
    fn the_newest_of_every_index_must_hold() {
        let generations = Generations::default();
        generations.observe(&[version(1, 5), version(2, 1)]);
        generations.observe(&[version(1, 4)]);
        let check = |versions: &[Version], standing| {
            assert_eq!(generations.standing(versions), standing, "{versions:?}");
        };
        check(&[version(1, 5)], Standing::Current);
        check(&[version(1, 4)], Standing::Outdated);
        check(&[version(1, 6)], Standing::Current);
        check(&[version(1, 5), version(2, 1)], Standing::Current);
        check(&[version(1, 5), version(2, 0)], Standing::Outdated);
        check(&[version(3, 0)], Standing::Current);
        check(&[], Standing::Current);
    }

    #[test]
    fn a_deleted_index_does_not_come_back_and_what_is_remembered_is_bounded() {
        let generations = Generations::default();
        generations.observe(&[version(1, 5)]);
        generations.delete(Uuid::from_u128(1));
        generations.observe(&[version(1, 6)]);
        assert_eq!(generations.standing(&[version(1, 6)]), Standing::Outdated);
        for index in 0..10_000 {
            generations.delete(Uuid::from_u128(index));
        }
        let known = generations.0.read();
        assert_eq!(known.deleted.len(), MAX_DELETED);
        assert!(known.newest.is_empty());
    }
}
