//! Egret's server: HTTP, Elasticsearch's dialect, configuration and the wiring of the rooms.
//!
//! Where to begin: [`cli`] reads what to do, [`app`] starts and stops it, [`routes`] has one file
//! for each resource, [`dialect`] turns requests into the engine's types and answers into JSON.
//!
//! This crate knows neither how a segment is laid out nor how PostgreSQL's stream is decoded.

pub mod app;
mod cached_search;
pub mod check;
pub mod cli;
pub mod client;
pub mod config;
mod contexts;
pub mod dialect;
pub mod error;
mod http;
mod identity;
pub mod init;
pub mod pipeline;
mod pipelines;
mod pools;
mod progress;
mod rebuilds;
mod rewrites;
pub mod routes;
mod sampler;
mod searches;
mod starting;
mod statistics;
mod tasks;
mod upkeep;
pub mod verify;
