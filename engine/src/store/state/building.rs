//! The segments under construction: one, or after large batches several, which grow and are finished
//! at the same time.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tantivy::schema::Schema;

use super::{Current, Store};
use crate::document::{Draft, IndexedDocument, ParsedDocument, SchemaFields};
use crate::error::{Error, ErrorKind, Result};
use crate::mapping::schema::SystemValues;
use crate::store::builder::{Builder, Entry};
use crate::store::parallel;
use crate::store::segment::Location;

/// Tantivy's list of the files that it has made is forgotten after so many segments: it would grow
/// for ever, and is written out for every file.
const SEGMENTS_BETWEEN_CLEANINGS: u32 = 8;
/// The segments under construction are finished when they hold more than this.
const LARGEST_BUILDING_BYTES: usize = 64 << 20;

/// A document to put in place of `before`.
pub(in crate::store) struct Put {
    pub(in crate::store) before: Option<Location>,
    pub(in crate::store) id: String,
    pub(in crate::store) document: Box<ParsedDocument>,
    pub(in crate::store) system: SystemValues,
    pub(in crate::store) source: Bytes,
}

/// What came of a [`Put`]: after an error nothing has changed for its id.
pub(in crate::store) struct WasPut {
    pub(in crate::store) id: String,
    pub(in crate::store) system: SystemValues,
    pub(in crate::store) source: Bytes,
    pub(in crate::store) outcome: Result<()>,
}

/// A document that another was put in place of.
enum Replaced {
    Finished(Location),
    /// In whichever segment under construction it is by now.
    Building {
        id: String,
        seq_no: u64,
    },
}

/// One segment's part of the documents of a batch.
struct Part {
    builder: Builder,
    puts: std::vec::IntoIter<Put>,
    outcomes: Vec<WasPut>,
    /// Whether the last document has broken the builder.
    is_broken: bool,
}

impl Part {
    /// Adds its documents, up to one that breaks the builder.
    fn add(mut self, schema: &Schema, fields: &Arc<SchemaFields>) -> Self {
        let mut fields = Arc::clone(fields);
        for Put { id, document, system, source, .. } in self.puts.by_ref() {
            let links = document.links().to_vec();
            let document = IndexedDocument::new(document, schema, &mut fields, system);
            let outcome = self.builder.add(id.clone(), &document, system, source.clone());
            if outcome.is_ok() {
                self.builder.link(&id, &links);
            }
            let outcome = outcome.map_err(|error| {
                tracing::error!(%error, id, "a document cannot be indexed; the segment is rebuilt");
                let message = format!("failed to index document [{id}]: {error}");
                Error::new(ErrorKind::DocumentParsing, message).with_source(error)
            });
            self.is_broken = outcome.is_err();
            self.outcomes.push(WasPut { id, system, source, outcome });
            if self.is_broken {
                break;
            }
        }
        self
    }
}

impl Store {
    /// The living document of this id in the segments under construction.
    pub(in crate::store) fn building(&self, id: &str) -> Option<Current> {
        let (location, entry) = self.builders.iter().find_map(|builder| builder.find(id))?;
        let source = Some(entry.source.clone());
        Some(Current { location: Some(location), system: entry.system, source })
    }

    /// Puts documents, no two of one id. What came of each is in the same order; an error says that
    /// this document cannot be indexed.
    pub(in crate::store) fn put(&mut self, puts: Vec<Put>) -> Result<Vec<WasPut>> {
        if puts.is_empty() {
            return Ok(Vec::new());
        }
        self.had_documents = true;
        let ways = parallel::ways(puts.len());
        while self.builders.len() < ways {
            let builder = self.new_builder()?;
            self.builders.push(builder);
        }
        let replaced: Vec<_> = puts.iter().map(|put| self.replaced_by(put)).collect();
        if ways > 1 {
            self.poured = Some((Instant::now(), replaced.iter().all(Option::is_none)));
        }
        let share = puts.len().div_ceil(ways).max(1);
        let mut puts = puts.into_iter();
        let rest = self.builders.split_off(ways);
        let builders = std::mem::replace(&mut self.builders, rest);
        let parts = builders.into_iter().map(|builder| {
            let puts: Vec<Put> = puts.by_ref().take(share).collect();
            let outcomes = Vec::with_capacity(puts.len());
            Part { builder, puts: puts.into_iter(), outcomes, is_broken: false }
        });
        let (schema, fields) = (&self.schema, &self.fields);
        let parts = parallel::at_once(parts.collect(), |part: Part| part.add(schema, fields));
        let mut outcomes = Vec::with_capacity(replaced.len());
        for mut part in parts {
            while part.is_broken {
                let builder = self.rebuild(part.builder.into_entries())?;
                part = Part { builder, is_broken: false, ..part }.add(&self.schema, &self.fields);
            }
            outcomes.append(&mut part.outcomes);
            self.builders.push(part.builder);
        }
        for (replaced, put) in replaced.into_iter().zip(&outcomes) {
            match replaced.filter(|_| put.outcome.is_ok()) {
                Some(Replaced::Finished(location)) => drop(self.kill_finished(location)),
                Some(Replaced::Building { id, seq_no }) => {
                    self.builders.iter_mut().for_each(|builder| builder.kill_other(&id, seq_no));
                }
                None => {}
            }
        }
        Ok(outcomes)
    }

    fn replaced_by(&self, put: &Put) -> Option<Replaced> {
        let before = put.before?;
        if self.builders.iter().any(|builder| builder.id == before.segment) {
            return Some(Replaced::Building { id: put.id.clone(), seq_no: put.system.seq_no });
        }
        Some(Replaced::Finished(before))
    }

    /// Finishes the segments under construction once they are large.
    pub(in crate::store) fn seal_if_large(&mut self) -> Result<()> {
        if self.building_bytes() > LARGEST_BUILDING_BYTES { self.seal() } else { Ok(()) }
    }

    /// How many documents the segments under construction have.
    pub(in crate::store) fn building_docs(&self) -> u32 {
        self.builders.iter().map(Builder::doc_count).sum()
    }

    /// What the segments under construction hold in memory.
    pub(in crate::store) fn building_bytes(&self) -> usize {
        self.builders.iter().map(Builder::memory_bytes).sum()
    }

    /// Finishes the segments under construction.
    pub(in crate::store) fn seal(&mut self) -> Result<()> {
        let mut builders = std::mem::take(&mut self.builders);
        builders.retain(|builder| builder.doc_count() > 0);
        let index = &self.index;
        for segment in parallel::at_once(builders, |builder| builder.finish(index)) {
            self.segments.extend(segment?);
        }
        Ok(())
    }

    /// Writes the finished segments from the `first` on to disk, once more than this of them is in
    /// memory. No flush may know them yet: it would write the same files.
    pub(in crate::store) fn persist_from(
        &mut self,
        first: usize,
        max_memory_bytes: u64,
    ) -> Result<()> {
        let young = self.segments.get_mut(first..).unwrap_or_default();
        let memory: u64 = young.iter().map(|segment| segment.files.sizes().1).sum();
        if memory <= max_memory_bytes {
            return Ok(());
        }
        for segment in young.iter_mut().filter(|segment| segment.files.sizes().1 > 0) {
            segment.files.persist()?;
            segment.mark_stale();
            segment.renew(&self.index)?;
        }
        Ok(())
    }

    fn new_builder(&mut self) -> Result<Builder> {
        self.built += 1;
        if self.built.is_multiple_of(SEGMENTS_BETWEEN_CLEANINGS) {
            self.index.directory_mut().garbage_collect(HashSet::new)?;
        }
        Builder::new(&self.index, &self.directory)
    }

    /// Builds a segment anew that a document has broken.
    fn rebuild(&mut self, entries: Vec<(String, Entry)>) -> Result<Builder> {
        self.build(entries).map_err(|error| {
            Error::new(ErrorKind::Internal, format!("a segment was lost: {error}"))
                .with_source(error)
        })
    }

    fn build(&mut self, entries: Vec<(String, Entry)>) -> Result<Builder> {
        let mut builder = self.new_builder()?;
        let mut draft = Draft::new(Arc::clone(&self.mapping));
        let mut fields = Arc::clone(&self.fields);
        for (id, entry) in entries {
            let parsed = draft.parse(&id, &entry.source)?;
            let links = parsed.links().to_vec();
            let document = parsed.into_indexed(&self.schema, &mut fields, entry.system);
            builder.add(id.clone(), &document, entry.system, entry.source)?;
            builder.link(&id, &links);
        }
        Ok(builder)
    }
}
