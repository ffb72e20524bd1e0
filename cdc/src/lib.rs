//! Change capture from PostgreSQL: copies tables, follows the write-ahead log, and keeps an index
//! for each table as new as the last commit.
//!
//! Where to begin: [`Pipeline::start`] takes a [`PipelineConfig`] and gives a [`PipelineHandle`],
//! whose [`PipelineHandle::status`] says where it stands and whose
//! [`PipelineHandle::wait_for_lsn`] lets a reader see its own writes.
//!
//! This crate knows PostgreSQL and the engine's write surface. It knows neither HTTP nor how an
//! index is laid out.

mod access;
mod acknowledge;
mod backoff;
mod catalog;
pub mod check;
mod compound;
pub mod config;
mod connect;
mod copied;
mod copy;
mod dead_letters;
mod decode;
mod discovery;
mod document;
mod envelope;
pub mod error;
mod feed;
mod follow;
mod follower;
mod held;
mod history;
pub mod inspect;
pub mod kept;
mod log_end;
mod members;
mod orders;
pub mod pipeline;
mod position;
mod progress;
mod publication;
mod receipts;
mod refused;
mod remedy;
mod repair;
mod selection;
mod shape;
mod sink;
mod slot;
pub mod status;
mod storage;
mod stream;
mod sync;
mod tables;
mod tls;
mod transaction;
mod types;
pub mod verify;
pub mod wait;
mod watcher;
mod way_back;
mod written;

pub use config::{DocumentConfig, PipelineConfig};
pub use dead_letters::LetterFilter;
pub use error::{Error, ErrorKind, Result};
pub use orders::{DeadLetter, Retried, RetryOutcome};
pub use pipeline::{Pipeline, PipelineHandle, RetrySummary};
pub use status::{PipelineState, PipelineStatus};
pub use verify::{VerifyOptions, VerifyReport};
pub use wait::{LsnToken, WaitOutcome};
