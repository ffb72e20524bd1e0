//! Durable files: the small [`Disk`](disk::Disk) trait under everything that Egret keeps.
//!
//! This crate knows how bytes survive a crash. It never knows what they mean.

pub mod disk;
