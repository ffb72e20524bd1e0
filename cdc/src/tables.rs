//! The tables of a pipeline and their indexes: which are followed, which are not and why, and which
//! must be copied first.

use std::sync::Arc;

use egret_engine::{Checkpoint, Engine, ErrorKind as EngineErrorKind, Index, IndexDefinition};
use rustc_hash::FxHashMap;
use serde_json::{Map, Value, json};

use crate::catalog::Table;
use crate::error::{Error, ErrorKind, Result};
use crate::progress::{CopyState, Drift, Progress};
use crate::selection::{Selection, index_name};
use crate::sink::{Indexes, Opened};
use crate::slot::Server;
use crate::status::{TableEntry, TableState};
use crate::types::mapping;

/// A table to follow, and its index.
#[derive(Clone)]
pub(crate) struct Followed {
    /// The table.
    pub(crate) table: Arc<Table>,
    /// Its index.
    pub(crate) index: Opened,
}

/// A table that is not followed.
#[derive(Debug, Clone)]
pub(crate) struct Skipped {
    /// The table as `schema.table`, or the pattern that found none.
    pub(crate) title: String,
    /// Why.
    pub(crate) reason: String,
}

/// Which tables could be followed, by index name, and which could not.
#[derive(Debug, Default)]
pub(crate) struct Candidates {
    pub(crate) tables: Vec<(String, Table)>,
    pub(crate) skipped: Vec<Skipped>,
}

/// Sorts out the tables that can be followed at all.
pub(crate) fn candidates(tables: Vec<Table>, selection: &Selection) -> Candidates {
    let mut found = Candidates::default();
    let names: Vec<(String, String)> =
        tables.iter().map(|table| (table.schema.clone(), table.name.clone())).collect();
    for pattern in selection.unmet(&names) {
        let reason = "there is no such table".to_owned();
        found.skipped.push(Skipped { title: pattern.to_owned(), reason });
    }
    let mut taken: FxHashMap<String, String> = FxHashMap::default();
    for table in tables {
        let title = table.title();
        if let Err(reason) = &table.key {
            found.skipped.push(Skipped { title, reason: reason.clone() });
            continue;
        }
        let index = index_name(&table.schema, &table.name);
        if let Some(other) = taken.get(&index) {
            let reason = format!("its index [{index}] already belongs to [{other}]");
            found.skipped.push(Skipped { title, reason });
            continue;
        }
        taken.insert(index.clone(), title);
        found.tables.push((index, table));
    }
    found
}

impl Indexes for Engine {
    fn open(
        &self,
        pipeline: &str,
        name: &str,
        table: &Table,
        server: Server,
    ) -> Result<std::result::Result<Opened, String>> {
        let create = || match self.create_index(name, definition(pipeline, table)) {
            Ok(index) => Ok(Ok(Opened { sink: index, needs_copy: true })),
            Err(error) if is_final(error.kind()) => {
                Ok(Err(format!("its index [{name}] cannot be made: {error}")))
            }
            Err(error) => Err(Error::from(error)),
        };
        let index = match self.index(name) {
            Ok(index) => index,
            Err(error) if error.kind() == EngineErrorKind::IndexNotFound => return create(),
            Err(error) => return Err(error.into()),
        };
        if index.pipeline() != Some(pipeline) {
            let owner = match index.pipeline() {
                Some(other) => format!("follows pipeline [{other}]"),
                None => "follows no pipeline".to_owned(),
            };
            return Ok(Err(format!("an index [{name}] exists and {owner}")));
        }
        // A writer that lost a batch waits for its pipeline to begin again from what is durable.
        index.resume()?;
        match check(&index, table, server)? {
            Ok(needs_copy) => Ok(Ok(Opened { sink: index, needs_copy })),
            Err(reason) => {
                tracing::info!(index = name, reason, "an index is made anew");
                self.delete_index(name, true)?;
                create()
            }
        }
    }
}

/// Whether an index that was made earlier must be filled again, or why it must be made anew.
fn check(
    index: &Index,
    table: &Table,
    server: Server,
) -> Result<std::result::Result<bool, String>> {
    let Some(progress) = index.copy_progress().and_then(|text| Progress::from_text(&text)) else {
        return Ok(Err("it was not filled".to_owned()));
    };
    let applied = index.positions().borrow().applied;
    if applied.is_some_and(|applied| !belongs_to(applied, server)) {
        return Ok(Err("its position belongs to another history".to_owned()));
    }
    let needs_copy = progress.state != CopyState::Done || applied.is_none();
    match progress.drift(table) {
        Drift::Changed(reason) => return Ok(Err(reason)),
        Drift::None => {}
        Drift::Grown => {
            if let Err(error) = index.put_mapping(&properties(table)) {
                return Ok(Err(error.to_string()));
            }
            if !needs_copy {
                remember_columns(index, table, &progress)?;
            }
        }
    }
    Ok(Ok(needs_copy))
}

/// Whether an error of the engine will be the same at every attempt.
fn is_final(kind: EngineErrorKind) -> bool {
    use EngineErrorKind as Kind;
    matches!(kind, Kind::InvalidIndexName | Kind::MappingParsing | Kind::InvalidArgument)
}

fn belongs_to(checkpoint: Checkpoint, server: Server) -> bool {
    checkpoint.system_identifier == server.system_identifier
        && checkpoint.timeline == server.timeline
        && checkpoint.lsn <= server.flushed
}

/// Notes that the index's documents now have the table's new columns.
fn remember_columns(index: &Index, table: &Table, progress: &Progress) -> Result<()> {
    let grown = Progress::done(table, progress.lsn);
    let batch = egret_engine::batch::Batch {
        copy_progress: Some(grown.to_text()),
        ..egret_engine::batch::Batch::default()
    };
    index.write(batch)?;
    Ok(())
}

/// What the index of a table is made from.
fn definition(pipeline: &str, table: &Table) -> IndexDefinition {
    IndexDefinition {
        mappings: properties(table),
        pipeline: Some(pipeline.to_owned()),
        ..IndexDefinition::default()
    }
}

/// The mapping of a table.
fn properties(table: &Table) -> Value {
    let column = |column: &crate::catalog::Column| (column.name.clone(), mapping(&column.kind));
    let properties: Map<String, Value> = table.columns.iter().map(column).collect();
    json!({ "properties": properties })
}

/// The tables as the status shows them.
pub(crate) fn entries(followed: &[(String, Arc<Table>)], skipped: &[Skipped]) -> Vec<TableEntry> {
    let entry = |(index, table): &(String, Arc<Table>)| TableEntry {
        table: table.title(),
        index: index.clone(),
        state: TableState::Waiting,
        reason: None,
        rows_estimated: table.rows_estimated,
        counters: Arc::default(),
    };
    let left_out = |skipped: &Skipped| TableEntry {
        table: skipped.title.clone(),
        index: String::new(),
        state: TableState::Skipped,
        reason: Some(skipped.reason.clone()),
        rows_estimated: 0,
        counters: Arc::default(),
    };
    followed.iter().map(entry).chain(skipped.iter().map(left_out)).collect()
}

/// An error for a task that was given up.
pub(crate) fn given_up(error: tokio::task::JoinError) -> Error {
    Error::new(ErrorKind::Stopped, "a task was given up").with_source(error)
}
