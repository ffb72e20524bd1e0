//! The tables of a pipeline and their indexes: which can be followed, how an index goes on, and which
//! one a copy fills.

use std::sync::Arc;

use egret_engine::batch::Batch;
use egret_engine::mapping::Mapping;
use egret_engine::{Checkpoint, Engine, ErrorKind as EngineErrorKind, Index, IndexDefinition, Lsn};
use rustc_hash::FxHashMap;
use serde_json::{Map, Value};

use crate::catalog::Table;
use crate::error::{Error, ErrorKind, Result};
use crate::position::{Hold, Holds};
use crate::progress::{CopyState, Drift, Progress, ReturnedFrom};
use crate::selection::{Selection, index_name};
use crate::shape::mapping;
use crate::sink::{Indexes, Standing, Target};
use crate::slot::Server;
use crate::way_back::{self, Back, Before, Earlier};

/// A table that is not followed.
#[derive(Debug, Clone)]
pub(crate) struct Skipped {
    /// The table as `schema.table`, or the pattern that found none.
    pub(crate) title: String,
    /// The index that would follow it.
    pub(crate) index: Option<String>,
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
        found.skipped.push(Skipped { title: pattern.to_owned(), index: None, reason });
    }
    let mut taken: FxHashMap<String, String> = FxHashMap::default();
    for table in tables {
        // Others only belong to documents of these.
        if !selection.takes(&table.schema, &table.name) {
            continue;
        }
        let title = table.title();
        let declared = table.shape.as_ref().and_then(|shape| shape.declaration.index.clone());
        let index = declared.unwrap_or_else(|| index_name(&table.schema, &table.name));
        if let Err(reason) = &table.key {
            found.skipped.push(Skipped { title, index: Some(index), reason: reason.clone() });
            continue;
        }
        // Nothing but another definition of the table, or a declaration, makes this good.
        if let Err(error) = Mapping::from_json(&mapping(&table)) {
            let reason = format!(
                "its documents cannot be mapped: {error}; [[pipelines.documents]] can exclude or rename \
                 a column"
            );
            found.skipped.push(Skipped { title, index: Some(index), reason });
            continue;
        }
        if let Some(other) = taken.get(&index) {
            let reason = format!("its index [{index}] already belongs to [{other}]");
            found.skipped.push(Skipped { title, index: None, reason });
            continue;
        }
        taken.insert(index.clone(), title);
        found.tables.push((index, table));
    }
    found
}

impl Indexes for Engine {
    fn judge(
        &self,
        pipeline: &str,
        name: &str,
        table: &Table,
        server: &Server,
        holds: &Holds,
        resumes: bool,
    ) -> Result<Standing> {
        let index = match self.index(name) {
            Ok(index) => index,
            Err(error) => match error.kind() {
                EngineErrorKind::IndexNotFound => {
                    return Ok(Standing::Copy("it is new".to_owned()));
                }
                EngineErrorKind::Corrupt | EngineErrorKind::Unavailable => {
                    return Ok(Standing::Copy(error.to_string()));
                }
                _ => return Err(error.into()),
            },
        };
        if index.pipeline() != Some(pipeline) {
            let owner = match index.pipeline() {
                Some(other) => format!("follows pipeline [{other}]"),
                None => "follows no pipeline".to_owned(),
            };
            return Ok(Standing::Refused(format!("an index [{name}] exists and {owner}")));
        }
        if let Some(new) = self.replacement(name)
            && check(&new, table, server, &holds.of_ways_back(), resumes)?.is_ok()
        {
            let joined = holds.of(new.uuid()) == Hold::Joined;
            return Ok(Standing::Current { sink: new, replaces: true, joined });
        }
        Ok(match check(&index, table, server, holds, resumes)? {
            Ok(()) => {
                let joined = holds.of(index.uuid()) == Hold::Joined;
                Standing::Current { sink: index, replaces: false, joined }
            }
            Err(reason) => Standing::Copy(reason),
        })
    }

    fn begin_copy(
        &self,
        pipeline: &str,
        name: &str,
        table: &Table,
        floor: Lsn,
        snapshot: Checkpoint,
    ) -> Result<Target> {
        let serves = match self.index(name) {
            Ok(index) => progress(&index).is_some_and(|it| it.state == CopyState::Done),
            Err(error) => match error.kind() {
                EngineErrorKind::Corrupt | EngineErrorKind::Unavailable => true,
                EngineErrorKind::IndexNotFound => false,
                _ => return Err(error.into()),
            },
        };
        let begun = if serves { self.replacement(name) } else { self.index(name).ok() };
        if let Some(begun) = begun.filter(|begun| begun.pipeline() == Some(pipeline))
            && begun.resume().is_ok()
            && let Some(progress) = progress(&begun)
        {
            if progress.goes_on(table, floor, snapshot) {
                return Ok(Target { sink: begun, replaces: serves, resumes: Some(progress) });
            }
            if progress.has_read_any() {
                let (table, rows) = (table.title(), progress.rows_copied());
                tracing::info!(
                    table,
                    rows,
                    "a copy that was interrupted cannot go on: it begins again"
                );
            }
        }
        if serves {
            let sink = self.create_replacement(name, &definition(pipeline, table))?;
            return Ok(Target { sink, replaces: true, resumes: None });
        }
        // What was never filled is nobody's loss.
        match self.delete_index(name, true) {
            Err(error) if error.kind() != EngineErrorKind::IndexNotFound => Err(error)?,
            _ => {}
        }
        let sink = self.create_index(name, definition(pipeline, table))?;
        Ok(Target { sink, replaces: false, resumes: None })
    }

    fn swap_in(&self, name: &str, keep_until_ms: Option<i64>) -> Result<()> {
        self.swap_in_replacement(name, keep_until_ms)?;
        Ok(())
    }

    fn earlier(&self, name: &str) -> Earlier {
        let live = self.index(name).ok().and_then(|index| progress(&index));
        let next = match self.replacement(name) {
            Some(replacement) => progress(&replacement),
            None => live.clone(),
        };
        let kept = self.kept(name).and_then(|(index, _)| progress(&index));
        way_back::earlier(live, next, kept)
    }

    fn judge_back(
        &self,
        pipeline: &str,
        name: &str,
        before: &Before,
        server: &Server,
        holds: &Holds,
        standing: &Standing,
    ) -> Option<Back> {
        let kept = self.kept(name).map(|(index, _)| index);
        let (index, table, is_kept) = match (replaced(self, name, standing), &before.live) {
            (Some(index), Some(table)) => (index, table, false),
            _ => (kept.clone()?, before.kept.as_ref()?, true),
        };
        let ends = kept.filter(|_| !is_kept).map(|kept| kept.uuid().to_owned());
        if index.pipeline() != Some(pipeline) {
            return None;
        }
        let uuid = index.uuid().to_owned();
        let applied = index.positions().borrow().applied;
        let judged = table.clone().and_then(|table| {
            if applied.is_some_and(|applied| !server.has(applied)) {
                return Err("its position belongs to another history".to_owned());
            }
            check(&index, &table, server, &holds.of_ways_back(), false)
                .unwrap_or_else(|error| Err(error.to_string()))?;
            Ok((index as _, table))
        });
        Some(Back { uuid, is_kept, ends, judged })
    }

    fn kept_until_ms(&self, name: &str, uuid: &str) -> Option<i64> {
        let (_, kept) = self.kept(name)?;
        (kept.uuid == uuid).then_some(kept.until_ms)
    }

    fn begin_return(&self, name: &str, uuid: &str, from: ReturnedFrom) -> Result<()> {
        let (index, _) = self.kept(name).filter(|(_, kept)| kept.uuid == uuid).ok_or_else(gone)?;
        index.resume()?;
        let progress = progress(&index).ok_or_else(gone)?;
        remember(&index, &Progress { returned: Some(from), ..progress })
    }

    fn take_back(&self, name: &str, uuid: &str) -> Result<()> {
        self.replace_by_kept(name, uuid)?;
        Ok(())
    }

    fn drop_kept(&self, name: &str, uuid: &str) -> Result<()> {
        Ok(Self::drop_kept(self, name, uuid)?)
    }

    fn forget_return(&self, name: &str) -> Result<()> {
        let index = self.index(name)?;
        match progress(&index) {
            Some(progress) => remember(&index, &Progress { returned: None, ..progress }),
            None => Ok(()),
        }
    }
}

/// The index that a copy replaces, or has filled the replacement of.
fn replaced(engine: &Engine, name: &str, standing: &Standing) -> Option<Arc<Index>> {
    let is_replaced = match standing {
        Standing::Copy(_) => true,
        Standing::Current { replaces, .. } => *replaces,
        Standing::Refused(_) => false,
    };
    let replacing = engine.replacement(name).and_then(|index| progress(&index));
    let returns = replacing.is_some_and(|progress| progress.returned.is_some());
    let index = engine.index(name).ok()?;
    let is_whole = progress(&index)?.state == CopyState::Done;
    (is_replaced && !returns && is_whole).then_some(index)
}

/// Has an index remember this of its table, durably. Blocking.
fn remember(index: &Index, progress: &Progress) -> Result<()> {
    let copy_progress = Some(progress.to_text());
    index.write(Batch { copy_progress, ..Batch::default() })?;
    index.flush()?;
    Ok(())
}

fn gone() -> Error {
    Error::new(ErrorKind::Conflict, "the index from before is not kept any more")
}

fn progress(index: &Index) -> Option<Progress> {
    Progress::from_text(&index.copy_progress()?)
}

/// Whether an index can go on from where it is, or why it must be filled again.
fn check(
    index: &Index,
    table: &Table,
    server: &Server,
    holds: &Holds,
    resumes: bool,
) -> Result<std::result::Result<(), String>> {
    if resumes {
        // A writer that lost a batch waits for its pipeline to begin again from what is durable.
        match index.resume() {
            Ok(()) => {}
            Err(error) if error.kind() == EngineErrorKind::Closed => return Err(error.into()),
            Err(error) => return Ok(Err(format!("it cannot go on: {error}"))),
        }
    }
    let Some(progress) = progress(index) else {
        return Ok(Err("it was not filled".to_owned()));
    };
    let Some(applied) = index.positions().borrow().applied else {
        return Ok(Err("it was not filled".to_owned()));
    };
    if progress.state != CopyState::Done {
        return Ok(Err("its copy did not end".to_owned()));
    }
    // One that is written to belongs to what is followed, and may be past what the server said.
    if resumes && !server.has(applied) {
        // The pipeline's own position is written now and then only, and may be older.
        server.check_reaches(applied, &format!("index [{}]", index.name()))?;
        return Ok(Err("its position belongs to another history".to_owned()));
    }
    if holds.of(index.uuid()) == Hold::None {
        return Ok(Err("it has missed changes".to_owned()));
    }
    match progress.drift(table) {
        Drift::Changed(reason) => return Ok(Err(reason)),
        Drift::None => {}
        Drift::Grown => {
            if let Err(error) = index.put_mapping(&mapping(table)) {
                return Ok(Err(error.to_string()));
            }
            remember_columns(index, table, &progress)?;
        }
    }
    Ok(Ok(()))
}

/// Notes that the index's documents now have the table's new columns.
fn remember_columns(index: &Index, table: &Table, progress: &Progress) -> Result<()> {
    let returned = progress.returned.clone();
    let grown = Progress { returned, ..Progress::done(table, progress.lsn) };
    index.write(Batch { copy_progress: Some(grown.to_text()), ..Batch::default() })?;
    Ok(())
}

/// What the index of a table is made from.
fn definition(pipeline: &str, table: &Table) -> IndexDefinition {
    let declared = table.shape.as_ref().map(|shape| &shape.declaration);
    let object = |of: &Map<String, Value>| Value::Object(of.clone());
    IndexDefinition {
        inferred: mapping(table),
        mappings: declared.map_or(Value::Null, |declared| object(&declared.mappings)),
        settings: declared.map_or(Value::Null, |declared| object(&declared.settings)),
        pipeline: Some(pipeline.to_owned()),
        ..IndexDefinition::default()
    }
}

/// An error for a task that was given up.
pub(crate) fn given_up(error: tokio::task::JoinError) -> Error {
    Error::new(ErrorKind::Stopped, "a task was given up").with_source(error)
}
