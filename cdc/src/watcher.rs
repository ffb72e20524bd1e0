//! What is looked at beside the stream: the slot and what it makes the server keep, the server's
//! end, tables that come and go, and readers that wait for a position which the log has not
//! reached.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use egret_engine::Lsn;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::catalog::{self, Fingerprint};
use crate::connect::Control;
use crate::error::{Error, ErrorKind, Result};
use crate::selection::Selection;
use crate::slot;
use crate::status::StatusBoard;

/// The shortest time between two messages written into the log for waiting readers.
const NUDGE_INTERVAL: Duration = Duration::from_millis(100);

/// Writes a message into the log, whose commit flushes it, where the log is filled up to the
/// position but not flushed up to it. A position that the log has not reached at all is not helped.
const NUDGE: &str = "
    SELECT pg_catalog.pg_logical_emit_message(true, 'egret', '')::text
    WHERE pg_catalog.pg_current_wal_flush_lsn() < $1::text::pg_lsn
      AND pg_catalog.pg_current_wal_insert_lsn() >= $1::text::pg_lsn";

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Report {
    /// Whether the server has a session for the slot.
    pub(crate) slot_active: bool,
    /// Whether the tables to follow are no longer the same.
    pub(crate) tables_changed: bool,
}

/// What to look at.
pub(crate) struct Watcher {
    pub(crate) control: Arc<Control>,
    pub(crate) board: Arc<StatusBoard>,
    pub(crate) slot: String,
    pub(crate) publication: String,
    pub(crate) selection: Selection,
    /// The tables as they were last looked at.
    pub(crate) tables: watch::Receiver<Vec<Fingerprint>>,
    pub(crate) interval: Duration,
    pub(crate) max_retained_wal_bytes: u64,
    /// The furthest position that a reader waits for.
    pub(crate) demand: watch::Receiver<Lsn>,
}

impl Watcher {
    /// Looks until nobody listens or a look fails.
    pub(crate) async fn run(mut self, reports: mpsc::Sender<Result<Report>>) {
        let mut ticks = interval(self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut next_nudge = Instant::now();
        loop {
            let looked = tokio::select! {
                _ = ticks.tick() => self.look().await.map(Some),
                changed = self.demand.changed() => match changed {
                    Ok(()) => {
                        tokio::time::sleep_until(next_nudge).await;
                        next_nudge = Instant::now() + NUDGE_INTERVAL;
                        self.nudge().await.map(|()| None)
                    }
                    Err(_) => return,
                },
            };
            let Some(report) = looked.transpose() else { continue };
            let failed = report.is_err();
            if reports.send(report).await.is_err() || failed {
                return;
            }
        }
    }

    async fn look(&self) -> Result<Report> {
        let (server, slot) = slot::read(&self.control, &self.slot).await?;
        self.board.server.store(server.0, Ordering::Relaxed);
        self.board.note_heard();
        let Some(slot) = slot else {
            let message = format!("slot [{}] is gone", self.slot);
            return Err(Error::new(ErrorKind::ChangesLost, message));
        };
        self.board.set_wal_status(slot.wal_status.clone(), slot.retained_bytes);
        check_retained(&slot, &self.slot, self.max_retained_wal_bytes)?;
        let selection = &self.selection;
        let wanted = |schema: &str, table: &str| selection.takes(schema, table);
        let tables = catalog::fingerprints(&self.control, &self.publication, wanted).await?;
        Ok(Report { slot_active: slot.active, tables_changed: tables != *self.tables.borrow() })
    }

    async fn nudge(&mut self) -> Result<()> {
        let lsn = self.demand.borrow_and_update().to_string();
        match self.control.rows("writing a message into the log", NUDGE, &[&lsn]).await {
            Err(error) if error.kind() == ErrorKind::Server => {
                tracing::warn!(%error, "a waiting reader cannot be helped");
                Ok(())
            }
            asked => asked.map(|_| ()),
        }
    }
}

/// Whether the slot's log is there and within its limit.
pub(crate) fn check_retained(slot: &slot::Slot, name: &str, limit: u64) -> Result<()> {
    let lost = |message: String| Err(Error::new(ErrorKind::ChangesLost, message));
    if slot.wal_status.as_deref() == Some("lost") {
        return lost(format!("the database removed log that slot [{name}] needs"));
    }
    match slot.retained_bytes {
        Some(bytes) if bytes > limit => lost(format!(
            "slot [{name}] makes the database keep {bytes} bytes of log, more than \
             max_retained_wal_bytes [{limit}]"
        )),
        _ => Ok(()),
    }
}
