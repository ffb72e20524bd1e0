//! The harness of Egret's whole-system tests: a real PostgreSQL ([`postgres`]), the real `egret`
//! program ([`egret`]), a load with sums that never change ([`ledger`]), bounded waiting
//! ([`poll`]), and child processes that never outlive their test ([`process`]).
//!
//! It is no place for product code, nor for tests of one room: those stand beside what they test.
//! Begin with [`postgres::Database::create`] and [`egret::Egret::start`].

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a harness ends a test by panicking"
)]

pub mod command;
pub mod egret;
pub mod ledger;
pub mod names;
pub mod poll;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod seeds;
