//! Elasticsearch's JSON: requests into the engine's types, its answers back into JSON.
//!
//! Where to begin: [`search::read`] for a `_search` body, [`query`] for its clauses, [`response`]
//! for what goes back. Every option is honoured or refused; nothing here touches an index.

pub(crate) mod aggregations;
pub(crate) mod alias;
pub(crate) mod bulk;
pub(crate) mod canonical;
mod geo;
pub(crate) mod highlight;
pub(crate) mod json;
pub(crate) mod lucene;
pub mod query;
pub(crate) mod response;
pub(crate) mod search;
pub(crate) mod sort;
pub(crate) mod source;
pub(crate) mod template;
pub(crate) mod time;
