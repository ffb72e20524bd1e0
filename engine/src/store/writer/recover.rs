//! Beginnings: a new index, an index opened from its folder, and a writer that goes back to its
//! last commit after something went wrong.

use std::collections::{HashSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use egret_aof::disk::{Disk, create_folder_durably};
use egret_aof::log::Log;
use rustc_hash::FxHashMap;
use tantivy::index::SegmentId;

use super::flush::Flushing;
use super::publish::{Publishing, parts, shown};
use super::{Writer, answer};
use crate::error::{Error, ErrorKind, Result};
use crate::index::{IndexStats, Positions};
use crate::mapping::Mapping;
use crate::position::{Generation, SeqNo};
use crate::snapshot::Snapshot;
use crate::store::budget::{Budget, Share};
use crate::store::commit::{COMMIT, Commit, CommittedFile};
use crate::store::directory::{SegmentFiles, remove_strangers};
use crate::store::replay::{self, ReplayWatch};
use crate::store::shared::{Event, Identity, Shared, View};
use crate::store::state::Store;
use crate::store::translog::Translog;

/// The translog's folder in the index's folder.
pub(in crate::store) const TRANSLOG: &str = "translog";

/// Where an index is kept.
#[derive(Debug, Clone)]
pub(crate) struct Home {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) folder: PathBuf,
}

/// An index that is ready: its writer, and what it shows first.
pub(crate) struct Recovered {
    pub(crate) writer: Box<Writer>,
    pub(crate) snapshot: Snapshot,
    pub(crate) view: View,
    pub(crate) positions: Positions,
}

/// Makes the folder of a new index, whose first term comes after this one.
pub(crate) fn create(
    home: Home,
    identity: &Identity,
    mapping: Mapping,
    budget: &Arc<Budget>,
    term: u64,
) -> Result<Recovered> {
    let Home { disk, folder } = &home;
    create_folder_durably(&**disk, folder)?;
    let store = Store::create(Arc::clone(disk), folder.clone(), mapping)?;
    let meta = store.meta(&FxHashMap::default())?;
    let commit = Commit {
        index_uuid: identity.uuid.clone(),
        term,
        generation: Generation { term: term + 1, number: 0 },
        next_seq_no: SeqNo(0),
        next_delete_stamp: 1,
        checkpoint: None,
        copy_progress: None,
        mapping: store.mapping.to_json(),
        mapping_number: 0,
        ignored: Some(store.ignored.clone()),
        outstanding: None,
        meta: super::flush::raw(meta)?,
        files: Vec::new(),
    };
    drop(store);
    commit.write(&**disk, folder)?;
    open_with(home, identity, budget, (Translogs::Made, &|_| ()))
}

/// What is to be thought of an index without a translog.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Translogs {
    /// It is new.
    Made,
    /// What was acknowledged since the last commit is lost.
    Expected,
}

/// The mapping that an index had at its last commit.
pub(crate) fn committed_mapping(home: &Home) -> Result<Mapping> {
    Mapping::from_json(&Commit::read(&*home.disk, &home.folder)?.mapping)
}

/// Opens an index under a higher term. `watch` is told how far the replay of its translog is.
pub(crate) fn open(
    home: Home,
    identity: &Identity,
    budget: &Arc<Budget>,
    watch: ReplayWatch<'_>,
) -> Result<Recovered> {
    open_with(home, identity, budget, (Translogs::Expected, watch))
}

fn open_with(
    home: Home,
    identity: &Identity,
    budget: &Arc<Budget>,
    (translogs, watch): (Translogs, ReplayWatch<'_>),
) -> Result<Recovered> {
    let loaded = load(&home, identity, translogs, watch)?;
    let Loaded { mut store, log, commit, next_seq_no, replayed, committed, delete_stamps } = loaded;
    let mut generation = commit.generation;
    let mut number = 0;
    if replayed {
        number = 1;
        generation = Generation { term: commit.term, number };
    }
    let parts = parts(identity, &mut store, generation, commit.checkpoint, next_seq_no)?;
    let snapshot = Snapshot::new(parts.clone())?;
    let changes = u64::from(replayed);
    let (durable, deletes) = (commit.checkpoint, deletes_of(&commit));
    let mut flushing = Flushing::new(commit.next_seq_no, durable, committed, deletes);
    if replayed {
        flushing.note_change();
    }
    let mut publishing = Publishing::new(parts);
    publishing.number = number;
    let view = View {
        mapping: Arc::clone(&store.mapping),
        outstanding: store.outstanding.clone(),
        copy_progress: commit.copy_progress.clone(),
        stats: IndexStats::default(),
        segments: shown(&store),
        refusal: None,
    };
    let positions = Positions {
        generation,
        applied: commit.checkpoint,
        visible: commit.checkpoint,
        durable: commit.checkpoint,
        unflushed: replayed,
    };
    let writer = Writer {
        delete_stamps,
        home,
        store,
        log,
        term: commit.term,
        epoch: 0,
        next_seq_no,
        next_delete_stamp: commit.next_delete_stamp,
        applied: commit.checkpoint,
        copy_progress: commit.copy_progress,
        changes,
        publishing,
        flushing,
        share: Share::of(budget),
        merges_due: None,
        forced: VecDeque::new(),
        changed_at: Some(Instant::now()),
        mirror: None,
        mirror_lost: None,
        failed: None,
        leaving: false,
    };
    Ok(Recovered { writer: Box::new(writer), snapshot, view, positions })
}

struct Loaded {
    store: Store,
    log: Option<Translog>,
    /// With the new term.
    commit: Commit,
    next_seq_no: SeqNo,
    /// Whether the translog had more than the commit.
    replayed: bool,
    /// As of the commit, without what was replayed.
    committed: Vec<Arc<SegmentFiles>>,
    delete_stamps: FxHashMap<SegmentId, (u64, u32)>,
}

fn load(
    home: &Home,
    identity: &Identity,
    translogs: Translogs,
    watch: ReplayWatch<'_>,
) -> Result<Loaded> {
    let Home { disk, folder } = home;
    // A killed process may have replaced the commit and not synced the folder: the one before it,
    // whose files are removed here as strangers, must not come back.
    disk.sync_folder(folder)?;
    let mut commit = Commit::read(&**disk, folder)?;
    if commit.index_uuid != identity.uuid {
        let message = format!(
            "[{}] belongs to the index [{}], not to [{}]",
            folder.display(),
            commit.index_uuid,
            identity.uuid
        );
        return Err(Error::new(ErrorKind::Corrupt, message));
    }
    let mut store = Store::open(Arc::clone(disk), folder.clone(), &commit)?;
    let mut keep: HashSet<&str> = commit.files.iter().map(|file| file.name.as_str()).collect();
    keep.insert(COMMIT);
    remove_strangers(&**disk, folder, &keep, &[TRANSLOG])?;
    commit.term += 1;
    commit.write(&**disk, folder)?;
    let committed = store.segments.iter().map(|segment| Arc::clone(&segment.files)).collect();
    let delete_stamps = delete_stamps(&store, &commit);
    let mut next_seq_no = commit.next_seq_no;
    let mut replayed = false;
    let mut log = None;
    if identity.pipeline.is_none() {
        let path = folder.join(TRANSLOG);
        if translogs == Translogs::Expected && !Log::exists(&**disk, &path)? {
            let message = format!("the translog [{}] is missing", path.display());
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        let settings = identity.settings.load();
        store.tombstones.keep_for(settings.gc_deletes);
        let (durability, index) = (settings.durability, identity.name.as_str());
        let source = replay::Source { disk, folder: &path, durability, index };
        let outcome = replay::replay(&mut store, &source, next_seq_no, watch)?;
        (next_seq_no, replayed) = (outcome.next_seq_no, outcome.replayed);
        log = Some(outcome.log);
    }
    Ok(Loaded { store, log, commit, next_seq_no, replayed, committed, delete_stamps })
}

fn deletes_of(commit: &Commit) -> Vec<CommittedFile> {
    commit.files.iter().filter(|file| stamp_of(&file.name).is_some()).cloned().collect()
}

/// The segment and stamp in the name of a file of deletes.
fn stamp_of(name: &str) -> Option<(&str, u64)> {
    let (segment, stamp) = name.strip_suffix(".del")?.split_once('.')?;
    Some((segment, stamp.parse().ok()?))
}

fn delete_stamps(store: &Store, commit: &Commit) -> FxHashMap<SegmentId, (u64, u32)> {
    let named = commit.files.iter().filter_map(|file| {
        let (name, stamp) = stamp_of(&file.name)?;
        let id = SegmentId::from_uuid_string(name).ok()?;
        Some((id, (stamp, store.committed_alive(id)?)))
    });
    named.collect()
}

impl Writer {
    /// Goes back to the last commit and the translog, under a new term.
    pub(super) fn reset(&mut self, shared: &Arc<Shared>) -> Result<()> {
        self.wait_for_flush(shared);
        for (_, reply) in self.publishing.take_waiting() {
            let message = "the writer went back to its last commit before the write was published";
            answer(reply, Err(Error::new(ErrorKind::Internal, message)));
        }
        self.fail_flush_waiters();
        self.fail_forced();
        self.log = None;
        let home = self.home.clone();
        let Recovered { writer, snapshot, view, .. } =
            open(home, &shared.identity, self.share.budget(), &|_| ())?;
        let (epoch, leaving) = (self.epoch + 1, self.leaving);
        *self = *writer;
        (self.epoch, self.leaving) = (epoch, leaving);
        self.belongs_to(shared);
        shared.show(Arc::new(snapshot));
        shared.forget_recent();
        *shared.view.lock() = view;
        self.show(shared);
        Ok(())
    }

    /// Waits until no flush runs: it may be replacing the commit, and whoever opens the folder next
    /// removes what the commit of then does not name.
    pub(super) fn wait_for_flush(&mut self, shared: &Shared) {
        while self.flushing.is_running() {
            match shared.queue.events.1.recv() {
                Ok(Event::Flushed(finished)) => self.flushing.abandon(finished),
                // What was merged belongs to a state that is gone.
                Ok(Event::Merged(_) | Event::Flush) => {}
                Ok(Event::Leave) => self.leaving = true,
                Err(_) => return,
            }
        }
    }
}
