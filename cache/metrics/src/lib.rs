//! A store for time series: names with labels, a value a second, compressed as Gorilla does.

mod bits;
mod error;
pub mod gorilla;
mod histogram;
mod series;

pub use error::Error;
pub use histogram::{Histogram, Snapshot};
pub use series::{MAX_LABELS, MAX_TEXT_BYTES, Matcher, Series};
