//! Carrying out what a translog says. Nothing is decided here: numbers and versions are in it.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;

use super::building::Put;
use super::{Current, Store, find_finished};
use crate::document::{Draft, ParsedDocument};
use crate::error::{Error, Result};
use crate::mapping::ignored::Origin;
use crate::mapping::schema::SystemValues;
use crate::store::parallel;
use crate::store::plan::Change;
use crate::store::tombstones::Tombstone;

/// So many documents at most are put at once,
const MOST_AT_ONCE: usize = 8192;
/// or so many bytes of them and one.
const MOST_BYTES_AT_ONCE: usize = 8 << 20;

/// A document that a translog puts.
struct Logged {
    id: String,
    system: SystemValues,
    source: Bytes,
}

/// Documents to put at once, no two of one id.
#[derive(Default)]
struct Run {
    logged: Vec<Logged>,
    ids: HashSet<String>,
    bytes: usize,
}

/// What was found out about one ahead.
struct Ahead {
    logged: Logged,
    current: Option<Current>,
    /// `None` if the mapping must grow for it.
    document: Option<Box<ParsedDocument>>,
}

impl Run {
    fn is_full(&self) -> bool {
        self.logged.len() >= MOST_AT_ONCE || self.bytes >= MOST_BYTES_AT_ONCE
    }

    fn push(&mut self, logged: Logged) {
        self.ids.insert(logged.id.clone());
        self.bytes += logged.source.len();
        self.logged.push(logged);
    }

    fn take(&mut self) -> Vec<Logged> {
        self.ids.clear();
        self.bytes = 0;
        std::mem::take(&mut self.logged)
    }
}

impl Store {
    /// Puts and removes documents as a translog says.
    pub(in crate::store) fn replay(&mut self, changes: Vec<Change>) -> Result<()> {
        let mut run = Run::default();
        for change in changes {
            let comes_after = match &change {
                Change::Put { id, .. } => run.is_full() || run.ids.contains(id),
                Change::Delete { id, .. } | Change::Tombstone { id, .. } => run.ids.contains(id),
                Change::Clear => true,
            };
            if comes_after {
                self.put_logged(run.take())?;
            }
            match change {
                Change::Put { id, system, source } => run.push(Logged { id, system, source }),
                Change::Delete { id, tombstone } => self.delete_logged(id, tombstone)?,
                Change::Tombstone { id, tombstone } => {
                    self.tombstones.insert(id, tombstone);
                }
                Change::Clear => self.clear(None)?,
            }
        }
        self.put_logged(run.take())
    }

    fn delete_logged(&mut self, id: String, tombstone: Option<Tombstone>) -> Result<()> {
        let before = self.current(&id)?.and_then(|current| current.location);
        if let Some(before) = before {
            self.delete(before, &id);
        }
        if let Some(tombstone) = tombstone {
            self.tombstones.insert(id, tombstone);
        }
        Ok(())
    }

    /// Takes over tombstones as a translog says; the first of a file take the place of all others.
    pub(in crate::store) fn recall(&mut self, tombstones: Vec<Change>, first: bool) -> Result<()> {
        if first {
            self.tombstones.clear();
        }
        self.replay(tombstones)
    }

    /// Puts documents, no two of one id: they are looked up and read by several threads at once.
    fn put_logged(&mut self, run: Vec<Logged>) -> Result<()> {
        let mut puts = Vec::with_capacity(run.len());
        let mut all = self.look_ahead(run)?.into_iter();
        for ahead in all.by_ref() {
            let Ahead { logged, current, document: Some(document) } = ahead else {
                self.put_all(std::mem::take(&mut puts))?;
                self.put_growing(ahead.logged)?;
                break;
            };
            let Logged { id, system, source } = logged;
            let before = self.building(&id).or(current).and_then(|current| current.location);
            self.tombstones.remove(&id);
            puts.push(Put { before, id, document, system, source });
        }
        self.put_all(puts)?;
        // The segments and the mapping are no longer those that were looked at.
        all.try_for_each(|ahead| self.put_growing(ahead.logged))
    }

    fn look_ahead(&self, run: Vec<Logged>) -> Result<Vec<Ahead>> {
        let (segments, mapping) = (&self.segments[..], &self.mapping);
        let look = |logged: Logged| -> Result<Ahead> {
            let current = find_finished(segments, &logged.id)?;
            let document = ParsedDocument::of_known_fields(mapping, &logged.id, &logged.source);
            Ok(Ahead { logged, current, document })
        };
        let count = run.len();
        let share = count.div_ceil(parallel::ways(count)).max(1);
        let mut run = run.into_iter();
        let parts = std::iter::from_fn(|| {
            let part: Vec<Logged> = run.by_ref().take(share).collect();
            (!part.is_empty()).then_some(part)
        });
        let look_at = |part: Vec<Logged>| part.into_iter().map(look).collect::<Result<Vec<_>>>();
        let mut found = Vec::with_capacity(count);
        for part in parallel::at_once(parts.collect(), look_at) {
            found.append(&mut part?);
        }
        Ok(found)
    }

    /// Puts a document for which the mapping may have to grow.
    fn put_growing(&mut self, logged: Logged) -> Result<()> {
        let Logged { id, system, source } = logged;
        let mut draft = Draft::new(Arc::clone(&self.mapping));
        let document = draft.parse(&id, &source).map_err(|error| {
            let message = format!("document [{id}] does not fit: {}", error.message());
            Error::new(error.kind(), message).with_source(error)
        })?;
        if let Some(grown) = draft.finish() {
            self.grow(grown, Origin::Document)?;
        }
        let before = self.current(&id)?.and_then(|current| current.location);
        self.tombstones.remove(&id);
        let document = Box::new(document);
        self.put_all(vec![Put { before, id, document, system, source }])
    }

    fn put_all(&mut self, puts: Vec<Put>) -> Result<()> {
        self.put(puts)?.into_iter().try_for_each(|put| put.outcome)?;
        self.seal_if_large()
    }
}
