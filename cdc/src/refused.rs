//! What a pipeline that refuses to go on, is paused, or cannot begin, still does: it keeps its slot from
//! filling the database's disk, since nobody acknowledges anything any more.

use tokio::time::sleep;

use crate::connect::Control;
use crate::error::{Error, ErrorKind, Result};
use crate::pipeline::Pipeline;
use crate::position::Position;
use crate::slot::{self, Slot};
use crate::status::PipelineState;
use crate::watcher::check_retained;

impl Pipeline {
    /// Looks at the slot until it is gone, and drops it once it makes the database keep more log
    /// than it may. The pipeline's file stays: after a restart it says that changes are lost.
    pub(crate) async fn guard_source(&self, state: PipelineState, reason: &str) {
        loop {
            sleep(self.config.watch_interval()).await;
            match self.relieve_source(state, reason).await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => {
                    tracing::debug!(%error, pipeline = self.config.name, "the slot cannot be seen");
                }
            }
        }
    }

    /// The same once, between two attempts: one that fails before it has looked at the slot must not keep
    /// the log for ever.
    pub(crate) async fn relieve_while_retrying(&self, error: &Error) {
        if error.kind() == ErrorKind::Unavailable {
            return;
        }
        let reason = error.to_string();
        tokio::select! {
            () = self.interrupted() => {}
            relieved = self.relieve_source(PipelineState::Retrying, &reason) => {
                if let Err(error) = relieved {
                    tracing::debug!(%error, pipeline = self.config.name, "the slot cannot be seen");
                }
            }
        }
    }

    /// Drops the slot where it makes the database keep more log than it may. Whether nothing is left to
    /// look at.
    async fn relieve_source(&self, state: PipelineState, reason: &str) -> Result<bool> {
        let control = self.source.control().await?;
        let name = self.config.slot_name();
        let (_, Some(slot)) = slot::read(&control, &name).await? else { return Ok(true) };
        if slot.active {
            // Our own session may be just ending, or the server may not have noticed that it has.
            return Ok(false);
        }
        if !self.owns(&control, &slot).await? {
            return Ok(true);
        }
        self.board.set_wal_status(slot.wal_status.clone(), slot.retained_bytes);
        let limit = self.config.max_retained_wal_bytes;
        let Err(error) = check_retained(&slot, &name, limit) else { return Ok(false) };
        slot::drop_slot(&control, &name).await?;
        tracing::warn!(%error, pipeline = self.config.name, "the slot is dropped");
        let reason =
            format!("{reason}; {error}: it is dropped, and the tables must be copied again");
        self.board.set_state(state, Some(reason));
        Ok(true)
    }

    /// Whether the slot is this pipeline's, and not another cluster's.
    async fn owns(&self, control: &Control, slot: &Slot) -> Result<bool> {
        const SYSTEM: &str = "SELECT system_identifier FROM pg_catalog.pg_control_system()";
        let row = control.row("reading the system identifier", SYSTEM, &[]).await?;
        let system: i64 = row.try_get(0)?;
        // A file that cannot be read may be why the pipeline has stopped.
        let file = Position::load(&*self.disk, &self.folder).ok().flatten();
        let same_cluster = file.is_none_or(|file| file.system_identifier == system.cast_unsigned());
        let same_database = slot.database.as_deref() == Some(self.source.database());
        let decodes_for_us = slot.plugin.as_deref() == Some("pgoutput");
        Ok(same_cluster && same_database && decodes_for_us)
    }
}
