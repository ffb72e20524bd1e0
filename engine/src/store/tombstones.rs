//! What is remembered of deleted documents: their versions, for `index.gc_deletes`.
//!
//! A document written again within that time goes on from the version of its delete, and a write
//! with an older external version stays refused although nothing is there to compare it with.
//! Tombstones outlive a restart in the translog, which begins with those that are alive whenever
//! it is rolled.

use std::collections::VecDeque;
use std::time::Duration;

use rustc_hash::FxHashMap;

/// So many are remembered at most; the oldest go first.
const MAX_TOMBSTONES: usize = 1 << 18;

/// A delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tombstone {
    pub(super) seq_no: u64,
    pub(super) term: u64,
    pub(super) version: u64,
    /// Milliseconds since 1970.
    pub(super) at_ms: u64,
}

/// The tombstones of one index.
#[derive(Debug, Default)]
pub(super) struct Tombstones {
    by_id: FxHashMap<String, Tombstone>,
    /// Ids by the time of their deletes; one that was written or deleted again since stays here
    /// until it is due, and says nothing.
    by_age: VecDeque<(String, Tombstone)>,
    retention_ms: u64,
}

impl Tombstones {
    /// Each is kept for so long, none where that is zero.
    pub(super) fn keep_for(&mut self, retention: Duration) {
        self.retention_ms = u64::try_from(retention.as_millis()).unwrap_or(u64::MAX);
    }

    /// Notes a delete.
    pub(super) fn insert(&mut self, id: String, tombstone: Tombstone) {
        let now = now_ms();
        if self.is_over(&tombstone, now) {
            self.by_id.remove(&id);
            return;
        }
        self.by_age.push_back((id.clone(), tombstone));
        self.by_id.insert(id, tombstone);
        while let Some((_, oldest)) = self.by_age.front()
            && (self.by_age.len() > MAX_TOMBSTONES || self.is_over(oldest, now))
        {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((id, oldest)) = self.by_age.pop_front()
            && self.by_id.get(&id) == Some(&oldest)
        {
            self.by_id.remove(&id);
        }
    }

    /// The document is there again.
    pub(super) fn remove(&mut self, id: &str) {
        if !self.by_id.is_empty() {
            self.by_id.remove(id);
        }
    }

    /// Every document begins anew.
    pub(super) fn clear(&mut self) {
        self.by_id.clear();
        self.by_age.clear();
    }

    /// The delete of an id, as long as it is remembered.
    pub(super) fn find(&self, id: &str) -> Option<&Tombstone> {
        let found = self.by_id.get(id)?;
        (!self.is_over(found, now_ms())).then_some(found)
    }

    /// Those that are alive.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Tombstone)> {
        let now = now_ms();
        let alive = self.by_id.iter().filter(move |(_, it)| !self.is_over(it, now));
        alive.map(|(id, it)| (id.as_str(), it))
    }

    fn is_over(&self, tombstone: &Tombstone, now: u64) -> bool {
        now.saturating_sub(tombstone.at_ms) >= self.retention_ms
    }
}

/// Milliseconds since 1970.
pub(super) fn now_ms() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tombstone(version: u64, age_ms: u64) -> Tombstone {
        Tombstone { seq_no: version, term: 1, version, at_ms: now_ms() - age_ms }
    }

    fn kept_for(retention: Duration) -> Tombstones {
        let mut tombstones = Tombstones::default();
        tombstones.keep_for(retention);
        tombstones
    }

    fn version(tombstones: &Tombstones, id: &str) -> Option<u64> {
        tombstones.find(id).map(|it| it.version)
    }

    #[test]
    fn deletes_are_remembered_for_their_time() {
        let hour = Duration::from_hours(1);
        let mut tombstones = kept_for(hour);
        tombstones.insert("a".to_owned(), tombstone(1, 0));
        tombstones.insert("b".to_owned(), tombstone(2, 3_600_001));
        assert_eq!((version(&tombstones, "a"), version(&tombstones, "b")), (Some(1), None));
        tombstones.insert("a".to_owned(), tombstone(3, 0));
        assert_eq!(version(&tombstones, "a"), Some(3));
        assert_eq!(tombstones.iter().count(), 1);
        tombstones.remove("a");
        assert_eq!(version(&tombstones, "a"), None);
        let mut none = kept_for(Duration::ZERO);
        none.insert("a".to_owned(), tombstone(1, 0));
        assert_eq!(version(&none, "a"), None);
    }

    #[test]
    fn past_the_limit_the_oldest_go() {
        let mut tombstones = kept_for(Duration::from_hours(1));
        for number in 0..=MAX_TOMBSTONES as u64 {
            tombstones.insert(number.to_string(), tombstone(number, 0));
        }
        assert_eq!((version(&tombstones, "0"), version(&tombstones, "1")), (None, Some(1)));
        assert_eq!(tombstones.iter().count(), MAX_TOMBSTONES);
    }
}
