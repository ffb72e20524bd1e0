//! Durable files: the small [`Disk`] trait under everything that Egret keeps, and a crash-safe
//! append-only [`log`](crate::log) on top of it.
//!
//! This crate knows how bytes survive a crash. It never knows what they mean.

pub mod disk;
