//! One round's way through the tables: ranges of rows, then ranges of documents, each proven before
//! the next is read. What fails for a while is tried again from the same place.

use std::sync::Arc;
use std::time::Duration;

use egret_engine::Lsn;
use egret_engine::snapshot::Listed;
use tokio::sync::oneshot;

use super::compare::{DriftKind, Expected};
use super::keys::{Key, end_of_log};
use super::reader::{Part, Reader, is_too_long};
use super::report::{Proven, Side, TableReport};
use super::{Verifier, VerifyOptions, now_ms};
use crate::backoff::Backoff;
use crate::catalog::Table;
use crate::copy::throttle::Throttle;
use crate::dead_letters::RowName;
use crate::error::{Error, ErrorKind, Result};
use crate::orders::{Check, Drifted, Followed, Request};
use crate::pipeline::answered;
use crate::sink::Sink;
use crate::wait::{LsnToken, WaitOutcome, wait_for_positions};

/// Rows that are read under one snapshot at most.
const MOST_CHECKED: usize = 500;

/// Bytes of rows that one statement should read. A range begins small, and grows as rows allow.
const RANGE_BYTES: usize = 8 << 20;
const FIRST_ROWS: usize = 100;
const GROWTH: usize = 4;

/// Failures in a row after which a table is left unproven.
const MOST_FAILURES: u32 = 8;

/// How often the one that follows the log hears what is waited for.
const DEMAND_INTERVAL: Duration = Duration::from_millis(50);

/// How long a check may take besides the waiting for its position.
const CHECKING: Duration = Duration::from_secs(60);

/// A round that goes on.
pub(super) struct Round<'a> {
    verifier: &'a Verifier,
    options: &'a VerifyOptions,
    reader: Reader,
    rows: Throttle,
    bytes: Throttle,
}

/// A table of one index, as far as it is proven.
struct Pass {
    index: String,
    uuid: String,
    sink: Arc<dyn Sink>,
    part: Part,
    /// The place of the table among those of the index.
    at: usize,
    next: Next,
    /// Rows that the next range has.
    rows: usize,
}

/// What comes next.
enum Next {
    /// Rows after this key.
    Rows(Option<Key>),
    /// Documents, or the rows that they are composed from, after this id.
    Listed(Listed, Option<String>),
    Nothing,
}

impl<'a> Round<'a> {
    pub(super) async fn begin(verifier: &'a Verifier, options: &'a VerifyOptions) -> Result<Self> {
        let config = &verifier.shared.config.verify;
        let reader = connect(verifier).await?;
        let rows = Throttle::new(options.rows_per_second.unwrap_or(config.rows_per_second));
        let bytes = match options.rows_per_second {
            Some(0) => 0,
            _ => config.bytes_per_second,
        };
        Ok(Self { verifier, options, reader, rows, bytes: Throttle::new(bytes) })
    }

    /// Goes through a table, and those that its documents are composed from.
    pub(super) async fn table(&mut self, followed: &Followed) {
        for (at, table) in followed.table.parts().into_iter().enumerate() {
            let Err(error) = self.part(followed, at).await else { continue };
            tracing::warn!(%error, table = table.title(), "a table is not proven");
            self.verifier.board().unproven(table.title(), error.to_string());
        }
    }

    async fn part(&mut self, followed: &Followed, at: usize) -> Result<()> {
        let mut backoff = Backoff::new(self.verifier.shared.config.reconnect_max());
        let mut failures = 0;
        let mut pass: Option<Pass> = None;
        loop {
            let ended = match &mut pass {
                Some(pass) => self.go_on(pass, &mut failures).await,
                None => match self.open(followed, at).await {
                    Ok(opened) => {
                        pass = Some(opened);
                        continue;
                    }
                    Err(error) => Err(error),
                },
            };
            let Err(error) = ended else {
                self.verifier.board().close();
                return Ok(());
            };
            failures += 1;
            if failures > MOST_FAILURES {
                return Err(error);
            }
            tracing::debug!(%error, index = followed.index, "verifying goes on after a pause");
            self.verifier.rest(backoff.pause()).await;
            match self.again(followed, at, &mut pass).await {
                Ok(()) => {}
                // What is not there any more cannot be proven.
                Err(error) if error.kind() == ErrorKind::NotFound => return Err(error),
                Err(error) => tracing::debug!(%error, "verifying does not go on yet"),
            }
        }
    }

    /// Connects anew; where the table or its index is not what it was, it is begun with anew too.
    async fn again(
        &mut self,
        followed: &Followed,
        at: usize,
        pass: &mut Option<Pass>,
    ) -> Result<()> {
        self.reader = connect(self.verifier).await?;
        let verifier = self.verifier;
        let now = verifier.shared.followed(&verifier.status).await?;
        let found = now.into_iter().find(|it| it.index == followed.index);
        let found = found.filter(|it| at < it.table.parts().len()).ok_or_else(|| {
            let message = format!("table [{}] is not followed now", followed.table.title());
            Error::new(ErrorKind::NotFound, message)
        })?;
        let is_same = |pass: &Pass| {
            let table = found.table.parts().into_iter().nth(at);
            pass.uuid == found.sink.uuid() && table.is_some_and(|it| same(&pass.part.table, &it))
        };
        if pass.as_ref().is_none_or(|pass| !is_same(pass)) {
            *pass = Some(self.open(&found, at).await?);
        }
        Ok(())
    }

    /// Begins with a table.
    async fn open(&self, followed: &Followed, at: usize) -> Result<Pass> {
        let parts = followed.table.parts();
        let table = parts.into_iter().nth(at).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "a related table is not there any more")
        })?;
        let max_bytes = self.verifier.shared.config.max_document_bytes;
        let rows_estimated = table.rows_estimated;
        let part = self.reader.part(table, max_bytes).await?;
        let (index, sink) = (followed.index.clone(), Arc::clone(&followed.sink));
        let uuid = sink.uuid().to_owned();
        self.verifier.board().open(TableReport {
            table: part.title.clone(),
            index: index.clone(),
            uuid: uuid.clone(),
            rows_estimated,
            ..TableReport::default()
        });
        let rows = FIRST_ROWS.min(self.verifier.shared.config.verify.range_rows);
        Ok(Pass { index, uuid, sink, part, at, next: Next::Rows(None), rows })
    }

    /// Goes on to the end, or to the next failure.
    async fn go_on(&mut self, pass: &mut Pass, failures: &mut u32) -> Result<()> {
        loop {
            match &pass.next {
                Next::Rows(after) => {
                    let after = after.clone();
                    self.rows(pass, after.as_ref()).await?;
                }
                Next::Listed(listed, after) => {
                    let (listed, after) = (*listed, after.clone());
                    self.listed(pass, listed, after).await?;
                }
                Next::Nothing => return Ok(()),
            }
            *failures = 0;
        }
    }

    /// From the table to the index: the rows of one range.
    async fn rows(&self, pass: &mut Pass, after: Option<&Key>) -> Result<()> {
        let to = self.reader.bound(&pass.part, after, pass.rows).await?;
        let read = match self.reader.range(&pass.part, after, to.as_ref()).await {
            Err(error) if is_too_long(&error) && pass.rows > 1 => {
                pass.rows = (pass.rows / GROWTH).max(1);
                return Ok(());
            }
            read => read?,
        };
        let lsn = self.passed(pass).await?;
        let count = read.rows.len();
        let differing = self.differing(pass, &read.rows, None)?;
        let (differences, repaired) = self.settle(pass, differing).await?;
        self.verifier.board().proven(
            Side::Rows,
            Proven {
                after: after.cloned(),
                to: to.clone(),
                count: count as u64,
                lsn,
                proven_ms: now_ms(),
                differences,
                repaired,
            },
        );
        pass.next = match to {
            Some(to) => Next::Rows(Some(to)),
            None => pass.first_listed(),
        };
        let fitting = RANGE_BYTES / (read.bytes / count.max(1)).max(1);
        let most = self.verifier.shared.config.verify.range_rows;
        pass.rows = fitting.clamp(1, most).min(pass.rows.saturating_mul(GROWTH));
        self.pay(count, read.bytes).await;
        Ok(())
    }

    /// From the index to the table: documents, or rows that it keeps, of which there may be no row.
    async fn listed(&self, pass: &mut Pass, listed: Listed, after: Option<String>) -> Result<()> {
        let most = self.verifier.shared.config.verify.range_rows;
        let ids = pass.sink.listed(listed, after.as_deref(), most)?;
        let Some(last) = ids.last().cloned() else {
            pass.next = pass.listed_after(listed);
            return Ok(());
        };
        let rows: Vec<String> = match listed {
            Listed::Documents => ids.iter().map(|id| pass.part.row_of(id)).collect(),
            Listed::Rows(_) => ids,
        };
        let (present, bytes) = self.reader.present(&pass.part, &rows).await?;
        let lsn = end_of_log(&self.reader.control).await?;
        let count = rows.len();
        let absent = rows.into_iter().filter(|id| !present.contains(id)).collect();
        let (differences, repaired) = self.settle(pass, absent).await?;
        let shown = |id: &String| vec![pass.part.key(id).to_owned()];
        self.verifier.board().proven(
            Side::Documents,
            Proven {
                after: after.as_ref().map(shown),
                to: Some(shown(&last)),
                count: count as u64,
                lsn,
                proven_ms: now_ms(),
                differences,
                repaired,
            },
        );
        pass.next = Next::Listed(listed, Some(last));
        self.pay(count, bytes).await;
        Ok(())
    }

    /// Looks a second time at what differs, and has what still does be looked at exactly. Gives how
    /// much has drifted, and how much of that was repaired.
    async fn settle(&self, pass: &Pass, ids: Vec<String>) -> Result<(u64, u64)> {
        let (mut differences, mut repaired) = (0, 0);
        for ids in ids.chunks(MOST_CHECKED) {
            let before = end_of_log(&self.reader.control).await?;
            let (rows, bytes) = self.reader.of(&pass.part, ids).await?;
            self.passed(pass).await?;
            let still = self.differing(pass, &rows, Some(before))?;
            self.pay(rows.len(), bytes).await;
            if still.is_empty() {
                continue;
            }
            let drifted = self.check(pass, still).await?;
            differences += drifted.len() as u64;
            repaired += self.verifier.board().drifted(&pass.index, &drifted);
            tell(pass, &drifted);
        }
        Ok((differences, repaired))
    }

    async fn check(&self, pass: &Pass, ids: Vec<String>) -> Result<Vec<Drifted>> {
        let (reply, answer) = oneshot::channel();
        let (index, repairs) = (pass.index.clone(), self.options.repair);
        let check = Request::Check(Check { index, ids, repairs, reply });
        let Verifier { shared, status, .. } = self.verifier;
        shared.ask(status, check).await?;
        answered(answer, shared.config.verify.wait().saturating_add(CHECKING)).await?
    }

    /// Ids of rows that are not in the index as they were read, but for those that are listed as dead
    /// letters, and those that were changed after a position. Blocking.
    fn differing(
        &self,
        pass: &Pass,
        rows: &[(String, Expected)],
        unchanged_since: Option<Lsn>,
    ) -> Result<Vec<String>> {
        let ids: Vec<String> = rows.iter().map(|(id, _)| id.clone()).collect();
        let shown = pass.sink.shown(&ids)?;
        let letters = self.verifier.shared.letters.lock().clone();
        let is_listed = |id: &String| {
            let (index, table, id) = (&*pass.index, &*pass.part.title, pass.part.key(id));
            let row = RowName { index, table, id };
            letters.as_ref().is_some_and(|it| it.letters.lock().has(row))
        };
        let mut differing = Vec::new();
        for ((id, expected), shown) in rows.iter().zip(shown) {
            let Some(kind) = shown.differs(*expected) else { continue };
            let is_newer = unchanged_since.is_some_and(|lsn| shown.is_newer_than(lsn));
            if is_newer || (kind == DriftKind::Missing && is_listed(id)) {
                continue;
            }
            differing.push(id.clone());
        }
        Ok(differing)
    }

    /// The log's end now, once the index shows everything before it.
    async fn passed(&self, pass: &Pass) -> Result<Lsn> {
        let lsn = end_of_log(&self.reader.control).await?;
        let config = &self.verifier.shared.config.verify;
        let token = LsnToken { system: None, lsn };
        let passing = wait_for_positions(vec![pass.sink.positions()], token, config.wait());
        let demanding = async {
            loop {
                tokio::time::sleep(DEMAND_INTERVAL).await;
                self.verifier.demand.send_replace(lsn);
            }
        };
        let outcome = tokio::select! {
            biased;
            outcome = passing => outcome,
            never = demanding => never,
        };
        if matches!(outcome, WaitOutcome::Reached(_)) {
            return Ok(lsn);
        }
        let (index, millis) = (&pass.index, config.wait_ms);
        let message = format!("index [{index}] did not reach [{lsn}] within {millis} ms");
        Err(Error::new(ErrorKind::Unavailable, message))
    }

    /// Waits until what was read is paid for.
    async fn pay(&self, rows: usize, bytes: usize) {
        self.rows.pay(rows).await;
        self.bytes.pay(bytes).await;
    }
}

impl Pass {
    /// What is listed once all rows are read.
    fn first_listed(&self) -> Next {
        match self.part.place() {
            Some(place) => Next::Listed(Listed::Rows(place), None),
            None => Next::Listed(Listed::Documents, None),
        }
    }

    /// What is listed after that.
    fn listed_after(&self, listed: Listed) -> Next {
        // The first table is the one that documents are named by.
        match listed {
            Listed::Rows(_) if self.at == 0 => Next::Listed(Listed::Documents, None),
            _ => Next::Nothing,
        }
    }
}

fn tell(pass: &Pass, drifted: &[Drifted]) {
    for Drifted { key, kind, repaired, reason, .. } in drifted {
        let (table, index) = (&pass.part.title, &pass.index);
        tracing::warn!(table, index, id = key, ?kind, repaired, reason, "a document has drifted");
    }
}

async fn connect(verifier: &Verifier) -> Result<Reader> {
    let longest = verifier.shared.config.verify.statement_timeout();
    let control = verifier.shared.source.hurried_control(longest).await?;
    Ok(Reader { control, longest })
}

/// Whether a table is still read in the same way.
fn same(before: &Table, now: &Table) -> bool {
    let columns = |table: &Table| -> Vec<(String, u32)> {
        table.columns.iter().map(|column| (column.name.clone(), column.type_oid)).collect()
    };
    before.oid == now.oid && before.key == now.key && columns(before) == columns(now)
}
