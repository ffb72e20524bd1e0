//! The result cache: opaque answers under keys that name the request and the generation of every
//! index that was searched. It knows nothing of queries, indexes or HTTP.
//!
//! Begin with [`ResultCache`]. An answer is served only to the request that it was computed for,
//! compared byte for byte, at the generation that it was computed at, and only while its checksum
//! holds.

mod block;
mod cache;
mod clock;
mod error;
mod flight;
mod generations;
mod journal;
mod key;
mod options;
mod shard;
mod slot;
mod stats;
mod store;

pub use cache::{Computed, Outcome, ResultCache};
pub use clock::{Clock, SystemClock};
pub use egret_aof::log::FsyncPolicy;
pub use error::{Error, Failure, NoAnswer};
pub use journal::{LogState, LogStats, check};
pub use key::{Canonical, Generation, Key, MAX_KEY_BYTES, Secret, Version};
pub use options::Options;
pub use slot::{SLOT_COUNT, Slot};
pub use stats::{ShardStats, SlotStats, Stats};
pub use store::{Fill, Request};
