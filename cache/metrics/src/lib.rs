//! A store for time series: names with labels, a value a second, compressed as Gorilla does.

mod bits;
pub mod gorilla;
