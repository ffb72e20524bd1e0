//! Rebuilding an index under another mapping: a second folder is filled from what is published while
//! the writer hands on every change, and takes the first one's place with one write of the catalog.
//!
//! The first folder is kept for a while and still gets every change, so that going back to it loses
//! nothing. Sequence numbers and versions are those of the documents' last changes in both.
//!
//! A folder that is being filled is in no catalog: a crash leaves the index as it was, and the folder
//! goes at the next open. A kept folder that a crash leaves with fewer changes than the index has, or
//! with others, goes then, too: nobody was told that the rest is done, but it could not be gone back to
//! without a doubt.
//!
//! Invariant: a kept folder that nobody asked to remove goes only beside an index that is open. Where
//! the index cannot be opened, its kept folder may be all that there is of it.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use super::change::{Changing, new_uuid};
use super::model::{Catalog, IndexState, Kept};
use super::rewrite::given_way;
use super::{Engine, Handle, format, identity, not_found};
use crate::error::{Error, ErrorKind, Result};
use crate::index::Index;
use crate::mapping::Mapping;
use crate::snapshot::Snapshot;
use crate::store::mirror::{Copied, Mirror, Mirroring};
use crate::store::settings::IndexSettings;
use crate::store::shared::{Identity, Message};
use crate::store::writer;

/// Documents that are copied in one step,
const STEP_DOCUMENTS: usize = 1_000;
/// and bytes of their sources, about.
const STEP_BYTES: usize = 4 << 20;
/// So often a rebuild begins anew because its mapping has grown before it began.
const ATTEMPTS: usize = 10;

/// A rebuild that has begun. Dropped unfinished, it is given up, which blocks.
pub struct Rebuild {
    pub(super) engine: Arc<Engine>,
    pub(super) main: Arc<Index>,
    pub(super) new: Arc<Index>,
    snapshot: Arc<Snapshot>,
    /// The segment and the document to copy next.
    next: (usize, u32),
    finished: bool,
}

impl Rebuild {
    /// How many documents are to be copied.
    pub fn total(&self) -> u64 {
        self.snapshot.doc_count()
    }

    /// Copies the next documents; how many were looked at, or `None` where there are no more. One that
    /// has been changed since came with its change. An error says that the new mapping cannot take a
    /// document, or that the index is gone: it is best given up. Blocking.
    pub fn step(&mut self) -> Result<Option<u64>> {
        if self.has_given_way() {
            return Err(given_way(self.main.name()));
        }
        let documents = self.next_documents()?;
        if documents.is_empty() {
            return Ok(None);
        }
        let count = documents.len() as u64;
        let copy = |reply| Message::Mirroring(Mirroring::Copy(documents, reply));
        self.main.shared().ask(copy).map_err(|error| error.with_index(self.main.name()))?;
        Ok(Some(count))
    }

    fn next_documents(&mut self) -> Result<Vec<Copied>> {
        let (mut documents, mut bytes) = (Vec::new(), 0);
        while documents.len() < STEP_DOCUMENTS && bytes < STEP_BYTES {
            let Some((at, doc)) = self.next_place() else { break };
            let Some(segment) = self.snapshot.segments().get(at) else { break };
            let source = segment.source(doc)?;
            bytes += source.len();
            let seq_no = segment.version(doc)?.seq_no.0;
            documents.push(Copied { id: segment.document_id(doc)?, source, seq_no });
        }
        Ok(documents)
    }

    /// The segment and number of the next living document.
    fn next_place(&mut self) -> Option<(usize, u32)> {
        loop {
            let (at, from) = self.next;
            let reader = self.snapshot.segments().get(at)?.reader();
            if let Some(doc) = (from..reader.max_doc()).find(|&doc| !reader.is_deleted(doc)) {
                self.next = (at, doc + 1);
                return Some((at, doc));
            }
            self.next = (at + 1, 0);
        }
    }

    /// Puts the new folder in the place of the first one, which is kept until then (milliseconds
    /// since 1970), or removed at once. Writes wait meanwhile. Blocking.
    pub fn finish(mut self, keep_until_ms: Option<i64>) -> Result<Arc<Index>> {
        let finished = self.engine.swap_in_rebuilt(&self.main, &self.new, keep_until_ms);
        self.finished = finished.is_ok();
        finished.map_err(|error| error.with_index(self.main.name()))
    }
}

impl Drop for Rebuild {
    fn drop(&mut self) {
        if self.finished {
            self.engine.served.write().rewrites.remove(self.new.uuid());
        } else {
            self.engine.give_up_rebuild(&self.main, &self.new);
        }
    }
}

impl std::fmt::Debug for Rebuild {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rebuild").field("index", &self.main.name()).finish_non_exhaustive()
    }
}

impl Engine {
    /// Begins to rebuild an open index, under its mapping with these changes laid over it. Nobody sees
    /// anything of it before [`Rebuild::finish`]. A folder that an earlier rebuild has left is removed.
    /// Blocking.
    pub fn begin_rebuild(self: &Arc<Self>, name: &str, changes: &Value) -> Result<Rebuild> {
        let changing = self.changing.lock();
        let next = self.next()?;
        let entry = next.indexes.get(name).ok_or_else(|| not_found(name))?;
        let named = |error: Error| error.with_index(name);
        if let Some(pipeline) = &entry.pipeline {
            return Err(named(followed(name, pipeline)));
        }
        let main = self.index(name)?;
        self.give_way(&changing, name);
        if self.replacement(name).is_some() {
            let message = format!("index [{name}] is being rebuilt already");
            return Err(named(Error::new(ErrorKind::InvalidArgument, message)));
        }
        let created_ms = entry.created_ms;
        if entry.kept.is_some() {
            self.drop_kept_folder(&changing, name)?;
        }
        self.begin_beside(main, changes, created_ms)
    }

    /// Under the lock of changes: begins to fill a folder beside that of an index.
    pub(super) fn begin_beside(
        self: &Arc<Self>,
        main: Arc<Index>,
        changes: &Value,
        created_ms: i64,
    ) -> Result<Rebuild> {
        let name = main.name();
        let named = |error: Error| error.with_index(name);
        for _ in 0..ATTEMPTS {
            let new = match self.make_beside(&main, changes, created_ms) {
                Err(error) if error.kind() == ErrorKind::VersionConflict => continue,
                made => made.map_err(named)?,
            };
            self.served.write().replacements.insert(name.to_owned(), Arc::clone(&new));
            let (engine, snapshot) = (Arc::clone(self), main.snapshot());
            return Ok(Rebuild { engine, main, new, snapshot, next: (0, 0), finished: false });
        }
        let message = format!("the mapping of [{name}] grows too fast to be rebuilt now");
        Err(named(Error::new(ErrorKind::Timeout, message)))
    }

    /// An empty folder that gets every change of an index from here on; `VersionConflict` where the
    /// mapping has grown meanwhile.
    fn make_beside(&self, main: &Index, changes: &Value, created_ms: i64) -> Result<Arc<Index>> {
        let mapping = main.mapping();
        let mut json = mapping.to_json();
        lay_over(&mut json, changes);
        let rebuilt = Mapping::from_json(&json)?;
        let of_main = main.shared().identity.clone();
        let (uuid, activity) = (new_uuid(), Arc::default());
        let identity = Identity { uuid, created_ms, activity, ..of_main };
        let term = main.snapshot().generation().term;
        let home = self.home(&identity.uuid);
        let recovered = writer::create(home, &identity, rebuilt, &self.budget, term)?;
        let new = Arc::new(Index::new(identity, recovered, Arc::clone(&self.background)));
        if let Err(error) = attach(main, &new, Some(mapping)) {
            self.remove_index(Some(&new), new.uuid());
            return Err(error);
        }
        Ok(new)
    }

    fn give_up_rebuild(&self, main: &Index, new: &Arc<Index>) {
        let _changing = self.changing.lock();
        let name = main.name();
        {
            let mut served = self.served.write();
            served.rewrites.remove(new.uuid());
            let own = served.replacements.get(name).is_some_and(|known| Arc::ptr_eq(known, new));
            if !own {
                // It went with its index.
                return;
            }
            served.replacements.remove(name);
        }
        if let Err(error) = detach(main) {
            tracing::debug!(index = name, %error, "a rebuild that is given up had ended already");
        }
        self.remove_index(Some(new), new.uuid());
    }

    fn swap_in_rebuilt(
        &self,
        main: &Arc<Index>,
        new: &Arc<Index>,
        keep_until_ms: Option<i64>,
    ) -> Result<Arc<Index>> {
        let changing = self.changing.lock();
        let name = main.name();
        let mut next = self.next()?;
        let entry = next.indexes.get_mut(name).ok_or_else(|| not_found(name))?;
        if entry.uuid != main.uuid() || entry.state != IndexState::Open {
            let message = format!("index [{name}] has been closed or replaced meanwhile");
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        if self.replacement(name).is_none_or(|known| !Arc::ptr_eq(&known, new)) {
            return Err(given_way(name));
        }
        let kept = keep_until_ms.map(|until_ms| Kept {
            uuid: entry.uuid.clone(),
            created_ms: entry.created_ms,
            until_ms,
            settings: None,
        });
        (entry.uuid, entry.kept) = (new.uuid().to_owned(), kept);
        // Most of it, before writes have to wait.
        new.flush_folder()?;
        main.shared().queue.shut();
        let written = detach(main)
            .and_then(|()| new.refresh_folder())
            .and_then(|()| new.flush_folder())
            .and_then(|()| main.flush_folder());
        let written = written.map_err(|error| format::Failure { error, in_doubt: false });
        if let Err(failure) = written.and_then(|()| self.write(&changing, &next)) {
            return Err(self.keep_as_it_was(main, failure));
        }
        self.moved(main, new, next, keep_until_ms.is_some());
        Ok(Arc::clone(new))
    }

    /// After a swap that failed: writes go on to where they went before, unless a crash might undo it.
    fn keep_as_it_was(&self, main: &Index, failure: format::Failure) -> Error {
        let format::Failure { error, in_doubt } = failure;
        if in_doubt {
            self.abandon(&std::iter::once(main.name().to_owned()).collect());
        }
        main.shared().queue.open();
        error
    }

    /// Shows what the catalog on disk says by now: another folder serves an index.
    fn moved(&self, from: &Arc<Index>, to: &Arc<Index>, next: Catalog, keep: bool) {
        let name = from.name();
        if keep && let Err(error) = attach(to, from, None) {
            tracing::warn!(index = name, %error, "the older folder cannot be gone back to");
        }
        {
            let mut served = self.served.write();
            served.catalog = Arc::new(next);
            served.replacements.remove(name);
            served.kept.remove(name);
            if keep {
                served.kept.insert(name.to_owned(), Arc::clone(from));
            }
            served.handles.insert(name.to_owned(), Handle::Open(Arc::clone(to)));
        }
        from.shared().queue.move_to(to.shared());
        if !keep {
            self.remove_index(Some(from), from.uuid());
        }
    }

    /// Goes back to the folder from before the last rebuild, which has got every change since; what
    /// the rebuild made is removed, also where it is damaged. Writes wait meanwhile. Blocking.
    pub fn roll_back_rebuild(&self, name: &str) -> Result<Arc<Index>> {
        let changing = self.changing.lock();
        let mut next = self.next()?;
        let named = |error: Error| error.with_index(name);
        let entry = next.indexes.get_mut(name).ok_or_else(|| not_found(name))?;
        if let Some(pipeline) = &entry.pipeline {
            let message = format!("only pipeline [{pipeline}] can go back with index [{name}]");
            return Err(named(Error::new(ErrorKind::Forbidden, message)));
        }
        let current = match self.index(name) {
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                return self.put_kept_for_damaged(&changing, name, next).map_err(named);
            }
            current => current?,
        };
        let kept = self.served.read().kept.get(name).cloned();
        if kept.is_none() && entry.kept.is_some() {
            let message = format!(
                "the folder from before the rebuild of index [{name}] could not be opened, as the \
                 log says; it is tried again at the next start"
            );
            return Err(named(Error::new(ErrorKind::InvalidArgument, message)));
        }
        let (Some(old), Some(Kept { uuid, .. })) = (kept, entry.kept.take()) else {
            return Err(named(nothing_kept(name)));
        };
        entry.uuid = uuid;
        let settings = identity(name, entry)?.settings.load_full();
        current.shared().queue.shut();
        let written = detach(&current).and_then(|()| old.refresh_folder());
        if let Err(error) = written.and_then(|()| old.flush_folder()) {
            current.shared().queue.open();
            return Err(named(error));
        }
        if let Err(failure) = self.write(&changing, &next) {
            if !failure.in_doubt
                && let Err(error) = attach(&current, &old, None)
            {
                tracing::warn!(index = name, %error, "the older folder cannot be gone back to");
            }
            return Err(named(self.keep_as_it_was(&current, failure)));
        }
        old.shared().queue.open();
        old.set_settings(IndexSettings::clone(&settings))?;
        self.moved(&current, &old, next, false);
        Ok(old)
    }

    /// Puts the kept folder in the place of one that cannot be opened. It has every change, but for what
    /// came after one that it could not take.
    fn put_kept_for_damaged(
        &self,
        changing: &Changing<'_>,
        name: &str,
        mut next: Catalog,
    ) -> Result<Arc<Index>> {
        let entry = next.indexes.get_mut(name).ok_or_else(|| not_found(name))?;
        let kept = entry.kept.take().ok_or_else(|| nothing_kept(name))?;
        let damaged = std::mem::replace(&mut entry.uuid, kept.uuid);
        let old = self.open_folder(name, entry, &|_| ())?;
        if let Err(failure) = self.write(changing, &next) {
            old.close(false)?;
            return Err(failure.error);
        }
        {
            let mut served = self.served.write();
            served.catalog = Arc::new(next);
            served.handles.insert(name.to_owned(), Handle::Open(Arc::clone(&old)));
        }
        self.remove_index(None, &damaged);
        Ok(old)
    }

    /// Removes the folders from before rebuilds whose time is over; says of which indexes. That of an
    /// index that could not be opened stays. Blocking.
    pub fn drop_expired_folders(&self, now_ms: i64) -> Result<Vec<String>> {
        let mut dropped = Vec::new();
        let catalog = self.catalog();
        for (name, entry) in &catalog.indexes {
            let is_over = entry.kept.as_ref().is_some_and(|kept| kept.until_ms <= now_ms);
            if is_over && !self.is_damaged(name) {
                let changing = self.changing.lock();
                self.drop_kept_folder(&changing, name)?;
                dropped.push(name.clone());
            }
        }
        Ok(dropped)
    }

    /// Removes the folder from before a rebuild of an index, where there is one.
    pub(super) fn drop_kept_folder(&self, changing: &Changing<'_>, name: &str) -> Result<()> {
        let mut next = self.next()?;
        let entry = next.indexes.get_mut(name).ok_or_else(|| not_found(name))?;
        let Some(kept) = entry.kept.take() else { return Ok(()) };
        self.write(changing, &next).map_err(|failure| failure.error)?;
        let old = {
            let mut served = self.served.write();
            served.catalog = Arc::new(next);
            served.kept.remove(name)
        };
        if let Ok(current) = self.index(name)
            && let Err(error) = detach(&current)
        {
            tracing::debug!(index = name, %error, "the older folder was not fed any more");
        }
        self.remove_index(old.as_deref(), &kept.uuid);
        Ok(())
    }

    /// Opens the folders that are kept from before rebuilds and replacements. For the start, which goes
    /// on whatever comes of it.
    pub(super) fn open_kept(&self) {
        let changing = self.changing.lock();
        for (name, entry) in &self.catalog().indexes {
            let Some(kept) = &entry.kept else { continue };
            if entry.pipeline.is_none() {
                match self.index(name) {
                    Ok(current) => self.open_kept_of(&changing, &current),
                    Err(error) => tracing::error!(
                        index = %name, %error,
                        "the folder from before its rebuild stays: see [POST /{name}/_rebuild?rollback]"
                    ),
                }
                continue;
            }
            match self.open_folder(name, &entry.kept_in(kept), &|_| ()) {
                Ok(old) => drop(self.served.write().kept.insert(name.clone(), old)),
                Err(error) => could_not_open(name, &error),
            }
        }
    }

    /// Opens the folder that is kept beside an index that has just been opened and that nobody writes to
    /// yet, and has it get every change from here on. One that has other changes goes.
    pub(super) fn open_kept_of(&self, changing: &Changing<'_>, current: &Arc<Index>) {
        let (name, catalog) = (current.name(), self.catalog());
        let Some(entry) = catalog.indexes.get(name) else { return };
        let Some(kept) = &entry.kept else { return };
        let old = match self.open_folder(name, &entry.kept_in(kept), &|_| ()) {
            Ok(old) => old,
            Err(error) => return could_not_open(name, &error),
        };
        if current.snapshot().max_seq_no() == old.snapshot().max_seq_no() {
            match attach(current, &old, None) {
                Ok(()) => {
                    old.shared().queue.move_to(current.shared());
                    self.served.write().kept.insert(name.to_owned(), old);
                }
                Err(error) => could_not_open(name, &error),
            }
            return;
        }
        tracing::warn!(
            index = name,
            "a crash has left the folder from before a rebuild with other changes"
        );
        let dropped = old.close(false).and_then(|()| self.drop_kept_folder(changing, name));
        if let Err(error) = dropped {
            tracing::warn!(index = name, %error, "a folder that cannot be gone back to is not removed");
        }
    }
}

/// It may be that this passes: it stays until its time is over.
fn could_not_open(name: &str, error: &Error) {
    tracing::warn!(index = name, %error, "the folder from before a rebuild cannot be opened");
}

fn nothing_kept(name: &str) -> Error {
    let message = format!("no folder is kept from before a rebuild of index [{name}]");
    Error::new(ErrorKind::InvalidArgument, message)
}

fn attach(to: &Index, mirror: &Index, filling: Option<Arc<Mapping>>) -> Result<()> {
    let waits = filling.is_none();
    let mirror = Mirror { shared: Arc::clone(mirror.shared()), waits };
    let message = |reply| Message::Mirroring(Mirroring::Attach { mirror, filling, reply });
    to.shared().ask(message)
}

pub(super) fn detach(from: &Index) -> Result<()> {
    from.shared().ask(|reply| Message::Mirroring(Mirroring::Detach(reply)))
}

fn followed(name: &str, pipeline: &str) -> Error {
    let message = format!(
        "index [{name}] follows pipeline [{pipeline}], which fills it from its table: have the table \
         copied again with [POST /_cdc/{pipeline}/_copy?table=...], after a change of templates or of \
         the pipeline's configuration"
    );
    Error::new(ErrorKind::Forbidden, message)
}

/// Lays changes over a mapping: a field that they give is taken as they give it, whatever it was,
/// fields within objects one by one; what they do not give stays.
fn lay_over(mapping: &mut Value, changes: &Value) {
    let (Value::Object(mapping), Value::Object(changes)) = (mapping, changes) else { return };
    for (key, change) in changes {
        if key != "properties" {
            mapping.insert(key.clone(), change.clone());
            continue;
        }
        let fields = mapping.entry("properties").or_insert_with(|| Value::Object(Map::new()));
        let (Value::Object(fields), Value::Object(changed)) = (fields, change) else { continue };
        for (name, field) in changed {
            match fields.get_mut(name) {
                Some(known) if is_object(known) && is_object(field) => lay_over(known, field),
                _ => drop(fields.insert(name.clone(), field.clone())),
            }
        }
    }
}

/// Whether a definition is of an object rather than of a field.
fn is_object(field: &Value) -> bool {
    field.get("properties").is_some()
}

/// Until when a folder is kept from now on; `None` where it is not.
pub fn keep_until_ms(keep: Duration) -> Option<i64> {
    let now = jiff::Timestamp::now().as_millisecond();
    let keep = i64::try_from(keep.as_millis()).unwrap_or(i64::MAX);
    (keep > 0).then(|| now.saturating_add(keep))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn changes_are_laid_over_a_mapping() {
        let check = |changes: Value, expected: Value| {
            let mut mapping = json!({"dynamic": "true", "properties": {
                "a": {"type": "text", "fields": {"raw": {"type": "keyword"}}},
                "o": {"properties": {"x": {"type": "long"}, "y": {"type": "long"}}}}});
            lay_over(&mut mapping, &changes);
            assert_eq!(mapping["properties"], expected, "{changes}");
        };
        let object = json!({"properties": {"x": {"type": "long"}, "y": {"type": "long"}}});
        let text = json!({"type": "text", "fields": {"raw": {"type": "keyword"}}});
        check(json!({}), json!({"a": text, "o": object}));
        check(
            json!({"properties": {"a": {"type": "keyword"}}}),
            json!({"a": {"type": "keyword"}, "o": object}),
        );
        check(
            json!({"properties": {"o": {"properties": {"x": {"type": "keyword"}}}}}),
            json!({"a": text,
                "o": {"properties": {"x": {"type": "keyword"}, "y": {"type": "long"}}}}),
        );
        check(
            json!({"properties": {"o": {"type": "keyword"}, "b": {"type": "date"}}}),
            json!({"a": text, "o": {"type": "keyword"}, "b": {"type": "date"}}),
        );
    }
}
