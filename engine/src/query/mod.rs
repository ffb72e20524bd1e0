//! Queries: a typed tree ([`ast`]) that knows neither JSON nor tantivy.

pub mod ast;
