//! What the cache says about itself.

use crate::journal::LogStats;

/// Everything that is counted. Counters start at 0 when the cache is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stats {
    /// Answered from the store.
    pub hits: u64,
    /// Computed by whoever asked first.
    pub misses: u64,
    /// Answered by another's computation.
    pub joined: u64,
    /// Computed without regard to the cache.
    pub bypassed: u64,
    /// Answers stored, since opening or restored at opening.
    pub stored: u64,
    /// Answers not stored because they are larger than an entry may be.
    pub oversized: u64,
    /// Answers not stored because an index had moved on, or was gone, when they came.
    pub refused_outdated: u64,
    /// Entries removed to make room.
    pub evicted: u64,
    /// Entries removed because their time was over.
    pub expired: u64,
    /// Entries removed because an index moved on, or was deleted.
    pub outdated: u64,
    /// Entries whose bytes were damaged, noticed when read.
    pub corrupt: u64,
    /// Look-ups that found another request's answer under the same key.
    pub collisions: u64,
    /// Entries now.
    pub entries: u64,
    /// What they weigh.
    pub bytes: u64,
    /// What they may weigh.
    pub budget_bytes: u64,
    /// Requests being computed now.
    pub flights: u64,
    /// The log.
    pub log: LogStats,
    /// Each shard.
    pub shards: Vec<ShardStats>,
    /// The fullest slots, fullest first.
    pub fullest_slots: Vec<SlotStats>,
}

/// One shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardStats {
    /// The first of its slots.
    pub first_slot: u16,
    /// The last of its slots.
    pub last_slot: u16,
    /// Entries now.
    pub entries: u64,
    /// What they weigh.
    pub bytes: u64,
    /// Entries removed to make room.
    pub evicted: u64,
    /// Entries removed because their time was over.
    pub expired: u64,
    /// Entries removed because an index moved on, or was deleted.
    pub outdated: u64,
}

/// One slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotStats {
    /// Its number.
    pub slot: u16,
    /// Entries now.
    pub entries: u64,
    /// What they weigh.
    pub bytes: u64,
}
