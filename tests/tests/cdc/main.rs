//! Change capture against a real PostgreSQL, with the engine in this process: what tables hold,
//! their indexes hold, whatever the tables, their types, their changes and their slots are.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod api;
mod beside;
mod bulk_load;
mod certificates;
mod control;
mod credentials;
mod dead_letters;
mod failover;
mod following;
mod histories;
mod large;
mod membership;
mod names;
mod network;
mod partitions;
mod privileges;
mod related;
mod resumed;
mod resumed_related;
mod rewrites;
mod rollback;
mod rows;
mod schema;
mod searched;
mod shapes;
mod slots;
mod stalls;
mod tls;
mod types;
mod verify;
mod verify_rounds;
