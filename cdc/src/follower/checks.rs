//! Rows that a verification found to differ from their documents, looked at once more, exactly.
//!
//! They are read under a snapshot, at a position that PostgreSQL names. Once the stream is past it
//! they are compared with what the index then shows. The stream notes meanwhile which of them it
//! changes: one that it has not changed from that position on, until this is decided, was to be found
//! as it was read, and has drifted where it was not. A repair is handed to the index before anything
//! that the stream brings after the decision: it is in the log's order, and overwrites nothing newer.

use std::sync::Arc;
use std::time::Duration;

use egret_engine::Lsn;
use egret_engine::batch::Batch;
use egret_engine::composition::row_table;
use rustc_hash::FxHashMap;
use tokio::task::JoinSet;

use super::Follower;
use super::requests::Writing;
use crate::connect::within;
use crate::error::{Error, ErrorKind, Result};
use crate::members::Phase;
use crate::orders::{Check, Drifted, Followed, Retried, RetryOutcome};
use crate::repair::{self, Found, Read, ReadRow, Reading};
use crate::sink::Sink;
use crate::sync::temporary_slot;
use crate::verify::{Checksum, DriftKind, Expected};

/// How long reading them may take. The snapshot waits for transactions that are under way.
const READING: Duration = Duration::from_secs(30);

/// At most one check, and how far it is.
#[derive(Default)]
pub(super) struct Checks {
    check: Option<Checking>,
    pub(super) steps: JoinSet<Step>,
    /// What was read at a position that the stream has not reached.
    ready: Option<Read>,
    /// What differs, before it is known what of it the stream has changed.
    compared: Option<Compared>,
}

/// A check that is under way.
struct Checking {
    place: usize,
    check: Check,
    /// Whether its repairs are being written.
    writes: bool,
}

/// What a check has come to.
pub(super) enum Step {
    Read(Result<Read>),
    Compared(Result<Compared>),
    Written(Vec<Drifted>, Vec<Retried>),
}

/// Rows that differ from what the index showed.
pub(super) struct Compared {
    lsn: Lsn,
    differing: Vec<(ReadRow, DriftKind)>,
}

impl Follower<'_> {
    /// The tables that the stream writes to, whose indexes searches see.
    pub(super) fn followed(&mut self) -> Vec<Followed> {
        let Self { members, stream, .. } = self;
        let followed = members.iter_mut().filter_map(|(place, member)| {
            let feed = stream.feeds.get(place)?.as_ref()?;
            matches!(member.phase, Phase::Streaming).then(|| Followed {
                index: member.name.clone(),
                table: Arc::clone(&member.table),
                sink: Arc::clone(&feed.sink),
            })
        });
        followed.collect()
    }

    /// Begins a check. One that nobody waits for any more gives way.
    pub(super) fn check(&mut self, check: Check) {
        let known = self.checks.check.as_ref();
        if known.is_some_and(|known| known.writes || !known.check.reply.is_closed()) {
            let message = "rows are being checked already";
            let _ = check.reply.send(Err(Error::new(ErrorKind::Conflict, message)));
            return;
        }
        self.checks = Checks::default();
        let (place, readings) = match self.readings(&check) {
            Ok(found) => found,
            Err(error) => return drop(check.reply.send(Err(error))),
        };
        let slot = temporary_slot(&self.pipeline.config, "check");
        let (source, server) = (self.pipeline.source.clone(), self.discovery.server.clone());
        self.checks.check = Some(Checking { place, check, writes: false });
        let reading = repair::read(source, slot, server, readings);
        self.checks.steps.spawn(async move {
            Step::Read(within(READING, "reading rows that differ", reading).await)
        });
    }

    /// What to read for a check; from now on it is noted which of its rows are changed.
    fn readings(&mut self, check: &Check) -> Result<(usize, Vec<Reading>)> {
        let Self { members, stream, .. } = self;
        let named = members.iter_mut().find(|(_, member)| member.name == check.index);
        let feed = named.and_then(|(place, member)| {
            let feed = stream.feeds.get_mut(place)?.as_mut()?;
            matches!(member.phase, Phase::Streaming).then_some((place, &member.table, feed))
        });
        let (place, table, feed) = feed.ok_or_else(left)?;
        let mut readings = Vec::new();
        for table in table.parts() {
            let format = table.row_format().ok_or_else(left)?;
            let format = format.with_max_bytes(self.pipeline.config.max_document_bytes);
            let of = |id: &&String| row_table(id) == format.rows_of();
            let ids: Vec<String> = check.ids.iter().filter(of).cloned().collect();
            if !ids.is_empty() {
                readings.push(Reading { place, table, format, ids });
            }
        }
        let unchanged = |id: &String| (id.clone(), Lsn::default());
        feed.watched.checked = Some(check.ids.iter().map(unchanged).collect());
        Ok((place, readings))
    }

    /// Takes note of what a check has come to.
    pub(super) fn checked(&mut self, step: Step) {
        match step {
            Step::Read(Ok(read)) => self.checks.ready = Some(read),
            Step::Compared(Ok(compared)) => self.checks.compared = Some(compared),
            Step::Read(Err(error)) | Step::Compared(Err(error)) => self.end_check(Err(error)),
            Step::Written(drifted, written) => self.end_check(Ok(told(drifted, written))),
        }
        self.go_on_checking();
    }

    /// Compares what was read once the stream is past it, and decides once every batch from before is
    /// answered: only then is known which rows are listed as dead letters.
    pub(super) fn go_on_checking(&mut self) {
        let position = self.stream.position.lsn;
        if self.checks.ready.as_ref().is_some_and(|read| read.lsn <= position)
            && self.stream.is_between_transactions()
            && let Some(read) = self.checks.ready.take()
        {
            let Some(sink) = self.checked_sink() else { return self.end_check(Err(left())) };
            self.checks.steps.spawn_blocking(move || Step::Compared(compare(&*sink, read)));
        }
        // Asked for only where it counts: this is on the stream's way.
        let oldest = self.checks.compared.as_ref().and_then(|_| self.stream.outstanding.oldest());
        let is_answered =
            |compared: &mut Compared| oldest.is_none_or(|oldest| oldest >= compared.lsn);
        if let Some(compared) = self.checks.compared.take_if(is_answered) {
            self.decide(compared);
        }
    }

    fn checked_sink(&self) -> Option<Arc<dyn Sink>> {
        let place = self.checks.check.as_ref()?.place;
        let feed = self.stream.feeds.get(place)?.as_ref()?;
        // One that has left and come back has not noted what changed.
        feed.watched.checked.as_ref().map(|_| Arc::clone(&feed.sink))
    }

    fn decide(&mut self, compared: Compared) {
        let Some(Checking { place, check, .. }) = &self.checks.check else { return };
        let (place, repairs) = (*place, check.repairs);
        let titles = self.members.get_mut(place).map(|member| member.titles());
        let feed = self.stream.feeds.get_mut(place).and_then(Option::as_mut);
        let watched =
            feed.and_then(|feed| Some((feed.watched.checked.take()?, Arc::clone(&feed.sink))));
        let (Some(titles), Some((watched, sink))) = (titles, watched) else {
            return self.end_check(Err(left()));
        };
        let lsn = compared.lsn;
        let mut writing = Writing::listing(titles.clone(), lsn);
        let mut drifted = Vec::new();
        for (row, kind) in compared.differing {
            let changed = watched.get(&row.id).is_none_or(|last| *last >= lsn);
            let name = titles.find(&row.id);
            let is_listed = kind == DriftKind::Missing && self.letters.letters.lock().has(name);
            if changed || is_listed {
                continue;
            }
            let (table, key) = (name.table.to_owned(), name.id.to_owned());
            let id = row.id.clone();
            drifted.push(Drifted { table, key, id, kind, lsn, repaired: false, reason: None });
            writing.take(row, false);
        }
        if drifted.is_empty() || !repairs {
            return self.end_check(Ok(drifted));
        }
        if let Some(checking) = &mut self.checks.check {
            checking.writes = true;
        }
        let ops = std::mem::take(&mut writing.ops);
        let receipt = sink.submit(Batch { ops, row_lsn: Some(lsn), ..Batch::default() });
        let receipt = receipt.map_err(|error| error.to_string());
        let letters = self.letters.clone();
        self.checks.steps.spawn(async move {
            Step::Written(drifted, writing.finish(sink, receipt, letters).await)
        });
    }

    fn end_check(&mut self, outcome: Result<Vec<Drifted>>) {
        let Some(Checking { place, check, .. }) = self.checks.check.take() else { return };
        if let Some(Some(feed)) = self.stream.feeds.get_mut(place) {
            feed.watched.checked = None;
        }
        self.checks = Checks::default();
        // Who asked may be gone.
        let _ = check.reply.send(outcome);
    }
}

/// Holds rows against what the index shows, which is at least what it was given so far. Blocking.
fn compare(sink: &dyn Sink, read: Read) -> Result<Compared> {
    sink.refresh()?;
    let Read { lsn, rows } = read;
    let ids: Vec<String> = rows.iter().map(|row| row.id.clone()).collect();
    let mut differing = Vec::new();
    for (row, shown) in rows.into_iter().zip(sink.shown(&ids)?) {
        let expected = match &row.found {
            Found::Document(source) => Expected::Document(Checksum::of(source)),
            Found::Nothing => Expected::Nothing,
            Found::Refused(_) => Expected::Unfit,
            Found::Unreadable(reason) => {
                tracing::warn!(id = row.id, reason, "a row that differs cannot be read again");
                continue;
            }
        };
        differing.extend(shown.differs(expected).map(|kind| (row, kind)));
    }
    Ok(Compared { lsn, differing })
}

/// What has drifted, with what became of its repair.
fn told(mut drifted: Vec<Drifted>, written: Vec<Retried>) -> Vec<Drifted> {
    let written: FxHashMap<(String, String), (RetryOutcome, Option<String>)> =
        written.into_iter().map(|it| ((it.table, it.id), (it.outcome, it.reason))).collect();
    for drifted in &mut drifted {
        let outcome = written.get(&(drifted.table.clone(), drifted.key.clone())).cloned();
        let (outcome, reason) = outcome.unwrap_or((RetryOutcome::Failed, None));
        drifted.repaired = matches!(outcome, RetryOutcome::Indexed | RetryOutcome::Gone);
        drifted.reason = reason;
    }
    drifted
}

fn left() -> Error {
    Error::new(ErrorKind::Unavailable, "its table is not followed now")
}
