//! Durable files: the small [`Disk`](disk::Disk) trait under everything that Egret keeps, and a
//! crash-safe append-only [`Log`](log::Log) on top of it.
//!
//! The [`spool`] beside it is the opposite: a temporary file that nobody expects to survive.
//!
//! This crate knows how bytes survive a crash. It never knows what they mean.
//!
//! [`failpoint`] names places where a test has the process killed.
//!
//! [`check`] gathers what the rooms find when they verify their files.
//!
//! Begin with [`log`] for the format and the promises, and with [`disk::sim`] for the test double
//! that forgets at a power cut whatever was not synced.

pub mod check;
pub mod disk;
mod error;
pub mod failpoint;
pub mod log;
pub mod spool;

pub use error::{BoxError, Error, ErrorKind, Result};
