//! The catalog: which indexes there are, in one data folder.

use std::path::PathBuf;
use std::sync::Arc;

use egret_aof::disk::Disk;

use crate::error::Result;
use crate::index::{Index, IndexDefinition};

/// How to open a data folder.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// Where durable files are.
    pub disk: Arc<dyn Disk>,
    /// The folder.
    pub folder: PathBuf,
    /// Memory that all open writers share, in bytes.
    pub indexing_budget_bytes: usize,
}

/// An open data folder and the indexes in it.
#[derive(Debug)]
pub struct Engine {}

impl Engine {
    /// Opens a folder, made if missing, and every index in it; replays translogs. Blocking. An
    /// index that is damaged is listed in `damaged`, and the others open.
    pub fn open(options: EngineOptions) -> Result<Self> {
        let _ = options;
        todo!()
    }

    /// Creates an index. Blocking.
    pub fn create_index(&self, name: &str, definition: IndexDefinition) -> Result<Arc<Index>> {
        let _ = (name, definition);
        todo!()
    }

    /// The index of this name.
    pub fn index(&self, name: &str) -> Result<Arc<Index>> {
        let _ = name;
        todo!()
    }

    /// All indexes by name.
    pub fn indexes(&self) -> Vec<Arc<Index>> {
        todo!()
    }

    /// Indexes that could not be opened, with the reason.
    pub fn damaged(&self) -> Vec<(String, String)> {
        todo!()
    }

    /// Deletes an index and its files. A followed index is refused unless `followed` is allowed.
    /// Blocking.
    pub fn delete_index(&self, name: &str, allow_followed: bool) -> Result<()> {
        let _ = (name, allow_followed);
        todo!()
    }

    /// Flushes every index and stops its writer. Blocking.
    pub fn close(&self) -> Result<()> {
        todo!()
    }
}
