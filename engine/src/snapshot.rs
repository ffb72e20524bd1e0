//! A published state of one index: what a search reads, unchanged while it is held.

use bytes::Bytes;

use crate::error::Result;
use crate::mapping::Mapping;
use crate::position::{Checkpoint, Generation, SeqNo};

/// A published state of one index.
#[derive(Debug)]
pub struct Snapshot {}

/// A document found by its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredDocument {
    /// Its id.
    pub id: String,
    /// The document.
    pub source: Bytes,
    /// Its version.
    pub version: u64,
    /// Its last change.
    pub seq_no: SeqNo,
    /// The term of its last change.
    pub term: u64,
}

impl Snapshot {
    /// The name of this state.
    pub fn generation(&self) -> Generation {
        todo!()
    }

    /// For a followed index, everything up to here is in this state.
    pub fn checkpoint(&self) -> Option<Checkpoint> {
        todo!()
    }

    /// How many documents.
    pub fn doc_count(&self) -> u64 {
        todo!()
    }

    /// The mapping of this state.
    pub fn mapping(&self) -> &Mapping {
        todo!()
    }

    /// The index's name.
    pub fn index_name(&self) -> &str {
        todo!()
    }

    /// A document by its id.
    pub fn document(&self, id: &str) -> Result<Option<StoredDocument>> {
        let _ = id;
        todo!()
    }
}
