//! Filling indexes: a slot gives a snapshot and the position that agrees with it, and the tables are
//! copied from there while the slot is watched.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use egret_engine::{Checkpoint, Lsn};
use pgwire_replication::ReplicationClient;
use tokio::time::sleep;

use crate::connect::Control;
use crate::copy::{self, Job, Snapshot};
use crate::error::{Error, ErrorKind, Result};
use crate::follow::Connected;
use crate::pipeline::Pipeline;
use crate::position::Position;
use crate::receipts::LetterBox;
use crate::slot::{self, Server};
use crate::status::{PipelineState, TableState};
use crate::tables::Followed;
use crate::watcher::check_retained;

/// The longest name that PostgreSQL keeps, and what marks a slot that lives for one copy.
const MAX_NAME_BYTES: usize = 63;
const COPY_SUFFIX: &str = "_copy";

/// Snapshots taken for one copy, where tables are truncated or rewritten while it runs.
const SNAPSHOT_ATTEMPTS: usize = 20;

/// A slot that a copy is made with.
enum CopySlot {
    /// The pipeline's own, just made.
    Own(String),
    /// One that ends with its session.
    Temporary(String),
}

impl Pipeline {
    /// Makes the slot, and copies every table as it stood then.
    pub(crate) async fn first_copy(
        &self,
        connected: &Connected,
        letters: &LetterBox,
    ) -> Result<Lsn> {
        let name = self.config.slot_name();
        let followed = connected.followed.clone();
        let slot = CopySlot::Own(name.clone());
        let checkpoint = self.copy_tables(connected, &slot, followed, letters).await?;
        Position::new(&name, checkpoint).store(&*self.disk, &self.folder)?;
        Ok(checkpoint.lsn)
    }

    /// Copies tables whose indexes are not filled, from a snapshot of their own. The stream waits
    /// meanwhile: it goes on from before that snapshot, and each new index skips what it holds.
    pub(crate) async fn copy_new_tables(
        &self,
        connected: &Connected,
        letters: &LetterBox,
    ) -> Result<bool> {
        let new = |followed: &&Followed| followed.index.needs_copy;
        let followed: Vec<Followed> = connected.followed.iter().filter(new).cloned().collect();
        if followed.is_empty() {
            return Ok(false);
        }
        let mut name = self.config.slot_name();
        name.truncate(MAX_NAME_BYTES - COPY_SUFFIX.len());
        name.push_str(COPY_SUFFIX);
        self.copy_tables(connected, &CopySlot::Temporary(name), followed, letters).await?;
        Ok(true)
    }

    async fn copy_tables(
        &self,
        connected: &Connected,
        slot: &CopySlot,
        followed: Vec<Followed>,
        letters: &LetterBox,
    ) -> Result<Checkpoint> {
        self.board.set_state(PipelineState::Copying, None);
        self.board.copies.fetch_add(1, Ordering::Relaxed);
        let jobs = self.jobs(followed);
        for _ in 0..SNAPSHOT_ATTEMPTS {
            match self.copy_once(connected, slot, jobs.clone(), letters).await {
                Err(error) if error.kind() == ErrorKind::TableRewritten => {
                    tracing::info!(%error, pipeline = self.config.name, "the copy begins anew");
                }
                copied => return copied,
            }
        }
        let message = "tables are truncated or rewritten so often that no copy can end";
        Err(Error::new(ErrorKind::Server, message))
    }

    /// Copies from one snapshot.
    async fn copy_once(
        &self,
        connected: &Connected,
        slot: &CopySlot,
        jobs: Vec<Job>,
        letters: &LetterBox,
    ) -> Result<Checkpoint> {
        let control = &connected.control;
        // The session keeps the snapshot while it lives.
        let (snapshot, _session) = self.make_slot(control, slot, connected.server).await?;
        let (source, config) = (&self.source, &self.config);
        let copying = copy::copy(source, config, &snapshot, jobs, letters, &self.threads);
        tokio::select! {
            copied = Box::pin(copying) => copied?,
            // A copy must not let the slot fill the database's disk.
            guarded = self.guard(control) => guarded?,
        }
        Ok(snapshot.checkpoint)
    }

    fn jobs(&self, followed: Vec<Followed>) -> Vec<Job> {
        let job = |Followed { table, index }: Followed| {
            let title = table.title();
            let format = table.row_format()?.with_max_bytes(self.config.max_document_bytes);
            let format = Arc::new(format);
            self.board.set_table_state(&title, TableState::Copying, None);
            let counters = self.board.counters(&title);
            Some(Job { table, title: title.into(), format, sink: index.sink, counters })
        };
        followed.into_iter().filter_map(job).collect()
    }

    /// Makes a slot on a session of its own, which keeps the snapshot while it lives.
    async fn make_slot(
        &self,
        control: &Control,
        slot: &CopySlot,
        server: Server,
    ) -> Result<(Snapshot, ReplicationClient)> {
        let (name, temporary) = match slot {
            CopySlot::Own(name) => (name, ""),
            CopySlot::Temporary(name) => (name, " TEMPORARY"),
        };
        slot::drop_slot(control, name).await?;
        let mut session = self.source.replication(Lsn::default()).await?;
        let create =
            format!("CREATE_REPLICATION_SLOT {name}{temporary} LOGICAL pgoutput EXPORT_SNAPSHOT");
        let rows = session.simple_query(&create).await?;
        let column = |at: usize| {
            let value = rows.first()?.get(at)?.as_ref()?;
            Some(String::from_utf8_lossy(value).into_owned())
        };
        let (Some(lsn), Some(snapshot)) = (column(1), column(2)) else {
            let message = format!("making slot [{name}] gave no position or no snapshot");
            return Err(Error::new(ErrorKind::Protocol, message));
        };
        let checkpoint = Checkpoint {
            system_identifier: server.system_identifier,
            timeline: server.timeline,
            lsn: slot::lsn(&lsn)?,
        };
        Ok((Snapshot { name: snapshot, checkpoint }, session))
    }

    /// Looks at the slot while a copy runs; returns only when the copy must not go on.
    async fn guard(&self, control: &Control) -> Result<()> {
        let name = self.config.slot_name();
        loop {
            sleep(self.config.watch_interval()).await;
            let (server, slot) = slot::read(control, &name).await?;
            self.board.server.store(server.0, Ordering::Relaxed);
            let Some(slot) = slot else {
                let message = format!("slot [{name}] is gone");
                return Err(Error::new(ErrorKind::ChangesLost, message));
            };
            self.board.set_wal_status(slot.wal_status.clone(), slot.retained_bytes);
            check_retained(&slot, &name, self.config.max_retained_wal_bytes)?;
        }
    }
}
