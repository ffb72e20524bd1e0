//! Storage: from batches to published snapshots and durable commits.
//!
//! Where to begin: [`writer`] is the thread that everything goes through; it applies batches by
//! [`plan`] to the documents in [`state`], which are [`segment`]s finished by a [`builder`] in the
//! [`directory`]; [`commit`] is what survives a crash, with [`translog`] for what came after it.
//!
//! Tantivy's `IndexWriter` is not used. It is made for several producers and its own commit points;
//! here one thread decides everything, so there are no threads to join at each commit, no delete
//! queue, and a version check and a delete are one look-up. New segments are written by a
//! [`segment_writer`] of our own, in tantivy's format; tantivy's parts read and merge them.
//!
//! Invariant: only the writer's thread changes an index's documents; background threads get copies
//! and report back.

pub(crate) mod background;
pub(crate) mod budget;
mod builder;
pub(crate) mod check;
mod columns;
mod commit;
mod directory;
pub(crate) mod forced;
mod inverted;
pub mod limits;
mod merge;
pub(crate) mod merge_counts;
mod merge_policy;
pub(crate) mod mirror;
mod parallel;
mod plan;
pub(crate) mod pressure;
pub(crate) mod recent;
mod removal;
pub mod replay;
mod scheduling;
pub(crate) mod segment;
pub(crate) mod segment_writer;
pub mod settings;
pub(crate) mod shared;
pub mod source;
mod state;
mod throttle;
mod tombstones;
mod translog;
pub(crate) mod writer;
pub(crate) mod writers;

#[cfg(test)]
mod tests;
