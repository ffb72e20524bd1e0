//! The memory that scrolls and points in time keep: young segments of the states that they hold, which
//! their indexes may have put on disk or merged away long since.

use std::collections::HashMap;
use std::sync::Arc;

use egret_engine::Snapshot;
use parking_lot::Mutex;

use crate::error::{Error, Kind, Result};

/// What all of them keep.
#[derive(Debug)]
pub(crate) struct Memory {
    limit: u64,
    /// Guards what is kept; held for look-ups and changes of it.
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    /// Segments by their names, with how many shares each is in and its bytes.
    segments: HashMap<String, (usize, u64)>,
    bytes: u64,
}

/// What one of them keeps, given back when dropped.
#[derive(Debug)]
pub(crate) struct Share {
    memory: Arc<Memory>,
    segments: Vec<String>,
}

impl Memory {
    pub(super) fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { limit, kept: Mutex::default() })
    }

    /// What is kept, and what may be.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        (self.kept.lock().bytes, self.limit)
    }

    /// Counts what these states keep in memory, each segment once.
    pub(crate) fn share(self: &Arc<Self>, snapshots: &[Arc<Snapshot>]) -> Result<Share> {
        self.take(snapshots.iter().flat_map(|snapshot| snapshot.in_memory()).collect())
    }

    fn take(self: &Arc<Self>, segments: Vec<(String, u64)>) -> Result<Share> {
        let mut kept = self.kept.lock();
        let new = segments.iter().filter(|(name, _)| !kept.segments.contains_key(name));
        let new: u64 = new.map(|(_, bytes)| bytes).sum();
        let (before, limit) = (kept.bytes, self.limit);
        if new > 0 && before.saturating_add(new) > limit {
            return Err(Error::new(
                Kind::Rejected,
                format!(
                    "rejected execution: scrolls and points in time keep [{before}] bytes of segments \
                     in memory, and [{new}] more are past [search.max_context_memory_bytes] of \
                     [{limit}]"
                ),
            ));
        }
        kept.bytes += new;
        let mut names = Vec::with_capacity(segments.len());
        for (name, bytes) in segments {
            kept.segments.entry(name.clone()).or_insert((0, bytes)).0 += 1;
            names.push(name);
        }
        drop(kept);
        Ok(Share { memory: Arc::clone(self), segments: names })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut kept = self.memory.kept.lock();
        for name in &self.segments {
            let Some((shares, bytes)) = kept.segments.get_mut(name) else { continue };
            *shares -= 1;
            let (last, bytes) = (*shares == 0, *bytes);
            if last {
                kept.segments.remove(name);
                kept.bytes -= bytes;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_count_once_and_until_nobody_has_them() {
        let memory = Memory::new(100);
        let take = |segments: &[(&str, u64)]| {
            memory.take(segments.iter().map(|(name, bytes)| ((*name).to_owned(), *bytes)).collect())
        };
        let first = take(&[("a", 60), ("b", 30)]).unwrap();
        let second = take(&[("a", 60)]).unwrap();
        assert_eq!(memory.bytes(), (90, 100));
        let refused = take(&[("a", 60), ("c", 11)]).unwrap_err();
        assert_eq!(refused.kind(), Kind::Rejected);
        assert!(refused.reason().contains("[search.max_context_memory_bytes] of [100]"));
        drop(take(&[("c", 10)]).unwrap());
        drop(first);
        assert_eq!(memory.bytes().0, 60);
        drop(second);
        assert_eq!(memory.bytes().0, 0);
        assert!(memory.kept.lock().segments.is_empty());
    }
}
