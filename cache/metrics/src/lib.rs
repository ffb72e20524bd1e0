//! A store for time series: names with labels, a value a second, compressed as Gorilla does, kept for
//! a while. It never knows who measures what.
//!
//! Begin with [`Metrics`]. [`Histogram`] turns many measurements a second into the few values that a
//! series can hold.

mod bits;
mod check;
mod database;
mod error;
pub mod gorilla;
mod histogram;
mod keeper;
mod metrics;
mod options;
mod partition;
mod query;
mod records;
mod series;

pub use check::check;
pub use egret_aof::log::FsyncPolicy;
pub use error::Error;
pub use gorilla::Sample;
pub use histogram::{Histogram, Snapshot};
pub use keeper::DiskStats;
pub use metrics::{Appended, Metrics, Stats};
pub use options::Options;
pub use query::{Aggregation, MAX_RATE_GAP_SECONDS, Query, Range};
pub use series::{MAX_LABELS, MAX_TEXT_BYTES, Matcher, Series};
