//! Egret's server: HTTP, Elasticsearch's dialect, configuration and the wiring of the rooms.
//!
//! Where to begin: [`dialect`] turns requests into the engine's types and answers into JSON.

#[allow(dead_code, reason = "the routes that call it follow")]
pub mod dialect;
pub mod error;
