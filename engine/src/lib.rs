//! The index: mappings, documents, a typed query tree, segments, refresh, flush, merge and search.
//!
//! Where to begin: [`Engine`] opens a data folder and names indexes; an [`Index`] takes
//! [`batch::Batch`]es and publishes [`Snapshot`]s; [`search::search`] answers a
//! [`search::request::SearchRequest`] over snapshots.
//!
//! This crate knows neither HTTP nor any JSON query dialect, neither PostgreSQL nor the result
//! cache.

mod activity;
pub mod batch;
pub mod catalog;
pub mod composition;
mod control;
pub mod document;
pub mod error;
pub mod index;
pub mod mapping;
pub mod position;
pub mod query;
pub mod search;
pub mod snapshot;
pub mod store;

pub use activity::{Activity, ActivityStats, Timed};
pub use catalog::{Engine, EngineOptions};
pub use control::{Breaker, Control};
pub use error::{Error, ErrorKind, Result};
pub use index::{Index, IndexDefinition};
pub use position::{Checkpoint, Generation, Lsn, SeqNo};
pub use snapshot::Snapshot;
pub use store::budget::BudgetStats;
pub use store::limits::Limits;
pub use store::writers::WriterStats;
