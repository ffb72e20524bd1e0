//! Mappings: which fields an index has, their types, and how it grows.
//!
//! A mapping is written and read in Elasticsearch's format, since that is also how the catalog
//! keeps it.

use serde_json::Value;

use crate::error::Result;

/// The fields of an index.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Mapping {}

impl Mapping {
    /// Reads Elasticsearch's format: `{"dynamic": …, "properties": {…}}`. An unknown type or
    /// parameter is refused.
    pub fn from_json(json: &Value) -> Result<Self> {
        let _ = json;
        todo!()
    }

    /// Writes Elasticsearch's format.
    pub fn to_json(&self) -> Value {
        todo!()
    }
}
