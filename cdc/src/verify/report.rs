//! What was proven of a pipeline's tables and when, what has drifted, and how far the present round is.

use std::collections::VecDeque;

use egret_engine::Lsn;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::compare::DriftKind;
use super::{VerifyOptions, now_ms};
use crate::config::VerifyConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::orders::Drifted;

/// The answer of `GET /_cdc/{pipeline}/verify`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct VerifyReport {
    /// Whether rounds begin by themselves.
    pub enabled: bool,
    /// Rounds that have begun or were asked for since the start: the highest number.
    pub rounds: u64,
    /// The round that goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub round: Option<RoundReport>,
    /// The last round that has ended since the start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_round: Option<RoundReport>,
    /// When the next one begins by itself, in milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_round_ms: Option<u64>,
    /// The tables, as they were last proven.
    pub tables: Vec<TableReport>,
    /// Differences found since the start, and how many of them were repaired.
    pub differences_total: u64,
    /// See `differences_total`.
    pub repaired_total: u64,
    /// The newest of them.
    pub differences: VecDeque<Difference>,
}

/// What a round is doing, or came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RoundState {
    /// It goes on.
    Running,
    /// It went through all of its tables, but for those that are `unproven`.
    Done,
    /// It ended early; `reason` says why.
    Failed,
}

/// One round through the tables.
#[derive(Debug, Clone, Serialize)]
pub struct RoundReport {
    /// Its number since the start.
    pub number: u64,
    /// What it is doing, or came to.
    pub state: RoundState,
    /// Why it ended early.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether it was asked for.
    pub requested: bool,
    /// The only table that it looks at, where it does not look at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// Whether it repairs what has drifted.
    pub repair: bool,
    /// When it began, in milliseconds since 1970.
    pub began_ms: u64,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_ms: Option<u64>,
    /// Tables that it is done with, and of how many.
    pub tables_done: usize,
    /// See `tables_done`.
    pub tables_total: usize,
    /// Rows that were held against their documents.
    pub rows: u64,
    /// Documents whose rows were looked for.
    pub documents: u64,
    /// Differences that it found.
    pub differences: u64,
    /// How many of them it repaired.
    pub repaired: u64,
    /// The table that it is at, as far as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub present: Option<TableReport>,
    /// Tables that it could not prove, and why.
    pub unproven: Vec<Unproven>,
}

/// A table that a round could not prove.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unproven {
    /// The table, as `schema.table`.
    pub table: String,
    /// Why.
    pub reason: String,
}

/// What was proven of one table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableReport {
    /// The table, as `schema.table`.
    pub table: String,
    /// Its index, or the one whose documents are composed from its rows too.
    pub index: String,
    /// The index's UUID: what takes its place was not proven.
    pub uuid: String,
    /// Rows, and how many the planner expects.
    pub rows: u64,
    /// See `rows`.
    pub rows_estimated: u64,
    /// Documents whose rows were looked for; rows that they are composed from count here.
    pub documents: u64,
    /// All of it was proven at this position or later ones.
    pub lsn: Option<Lsn>,
    /// And at this time or later, in milliseconds since 1970.
    pub proven_ms: Option<u64>,
    /// Differences that were found, and how many of them were repaired.
    pub differences: u64,
    /// See `differences`.
    pub repaired: u64,
    /// Ranges of the key, whose rows were held against their documents, in the key's order.
    pub ranges: Vec<Proven>,
    /// Ranges of ids, whose rows were looked for, in the order of their bytes.
    pub document_ranges: Vec<Proven>,
}

/// One range.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proven {
    /// After this key, by its columns; none for the first range.
    pub after: Option<Vec<String>>,
    /// Up to this key; none for the last range.
    pub to: Option<Vec<String>>,
    /// Its rows, or documents.
    pub count: u64,
    /// Everything that was committed before this position counts.
    pub lsn: Lsn,
    /// When that was, in milliseconds since 1970.
    pub proven_ms: u64,
    /// Differences that were found, and how many of them were repaired.
    pub differences: u64,
    /// See `differences`.
    pub repaired: u64,
}

/// A row and a document that are not each other's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The row's table, as `schema.table`.
    pub table: String,
    /// The index.
    pub index: String,
    /// The `_id`.
    pub id: String,
    /// In what way they differ.
    pub kind: DriftKind,
    /// It was so at this position.
    pub lsn: Lsn,
    /// When it was found, in milliseconds since 1970.
    pub found_ms: u64,
    /// Whether it was repaired.
    pub repaired: bool,
    /// Why it could not be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Which side of a table a range is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Rows,
    Documents,
}

/// Where the verifier writes down what it finds.
#[derive(Debug)]
pub(crate) struct Board {
    max_differences: usize,
    max_ranges: usize,
    /// Held to look or to take a note.
    report: Mutex<VerifyReport>,
    /// The number of the last round that was asked for or begun, and whether one is asked for.
    rounds: Mutex<(u64, bool)>,
    /// The number of the last round that has ended.
    ended: tokio::sync::watch::Sender<u64>,
}

impl Board {
    pub(crate) fn new(config: &VerifyConfig) -> Self {
        let report = VerifyReport { enabled: config.enabled, ..VerifyReport::default() };
        Self {
            max_differences: config.max_differences,
            max_ranges: config.max_ranges,
            report: Mutex::new(report),
            rounds: Mutex::new((0, false)),
            ended: tokio::sync::watch::Sender::new(0),
        }
    }

    pub(crate) fn report(&self) -> VerifyReport {
        let rounds = self.rounds.lock().0;
        VerifyReport { rounds, ..self.report.lock().clone() }
    }

    /// The number of a round that is asked for, unless one is already.
    pub(crate) fn ask_for_round(&self) -> Result<u64> {
        let mut rounds = self.rounds.lock();
        if rounds.1 {
            let message = "a verification that was asked for is running";
            return Err(Error::new(ErrorKind::Conflict, message));
        }
        *rounds = (rounds.0 + 1, true);
        Ok(rounds.0)
    }

    /// The number of a round that begins by itself.
    pub(super) fn own_round(&self) -> u64 {
        let mut rounds = self.rounds.lock();
        rounds.0 += 1;
        rounds.0
    }

    /// Waits until a round has ended.
    pub(crate) async fn wait_for(&self, number: u64) {
        let mut ended = self.ended.subscribe();
        // The sender lives as long as this.
        let _ = ended.wait_for(|ended| *ended >= number).await;
    }

    /// What was proven before the start.
    pub(super) fn remember(&self, tables: Vec<TableReport>) {
        self.report.lock().tables = tables;
    }

    pub(super) fn set_next(&self, next_ms: Option<u64>) {
        self.report.lock().next_round_ms = next_ms;
    }

    pub(super) fn begin(&self, number: u64, requested: bool, options: &VerifyOptions) {
        let mut report = self.report.lock();
        report.next_round_ms = None;
        report.round = Some(RoundReport {
            number,
            state: RoundState::Running,
            reason: None,
            requested,
            table: options.table.clone(),
            repair: options.repair,
            began_ms: now_ms(),
            ended_ms: None,
            tables_done: 0,
            tables_total: 0,
            rows: 0,
            documents: 0,
            differences: 0,
            repaired: 0,
            present: None,
            unproven: Vec::new(),
        });
    }

    /// The round has ended.
    pub(super) fn end(&self, failure: Option<String>) {
        let ended = {
            let mut report = self.report.lock();
            let Some(mut round) = report.round.take() else { return };
            round.state = if failure.is_some() { RoundState::Failed } else { RoundState::Done };
            (round.reason, round.ended_ms, round.present) = (failure, Some(now_ms()), None);
            let ended = (round.number, round.requested);
            report.last_round = Some(round);
            ended
        };
        if ended.1 {
            self.rounds.lock().1 = false;
        }
        self.ended.send_replace(ended.0);
    }

    /// No round begins any more: nobody need wait for one.
    pub(super) fn close_for_good(&self) {
        self.end(Some("the pipeline was stopped".to_owned()));
        self.rounds.lock().1 = false;
        self.ended.send_replace(u64::MAX);
    }

    fn round(&self, note: impl FnOnce(&mut RoundReport)) {
        self.report.lock().round.as_mut().map(note);
    }

    pub(super) fn set_total(&self, tables: usize) {
        self.round(|round| round.tables_total = tables);
    }

    /// A table is being looked at from its beginning.
    pub(super) fn open(&self, table: TableReport) {
        self.round(|round| round.present = Some(table));
    }

    /// The table that is being looked at is done with; the tables so far.
    pub(super) fn close(&self) -> Vec<TableReport> {
        let mut report = self.report.lock();
        let present = report.round.as_mut().and_then(|round| {
            round.tables_done += 1;
            round.present.take()
        });
        if let Some(present) = present {
            let same =
                |it: &TableReport| (&it.table, &it.index) == (&present.table, &present.index);
            match report.tables.iter_mut().find(|it| same(it)) {
                Some(known) => *known = present,
                None => report.tables.push(present),
            }
        }
        report.tables.clone()
    }

    /// Only these tables of an index are there any more.
    pub(super) fn keep(&self, is_there: impl Fn(&TableReport) -> bool) {
        self.report.lock().tables.retain(is_there);
    }

    pub(super) fn unproven(&self, table: String, reason: String) {
        self.round(|round| {
            round.present = None;
            round.unproven.push(Unproven { table, reason });
        });
    }

    pub(super) fn proven(&self, side: Side, proven: Proven) {
        let max_ranges = self.max_ranges;
        self.round(|round| {
            match side {
                Side::Rows => round.rows += proven.count,
                Side::Documents => round.documents += proven.count,
            }
            if let Some(table) = &mut round.present {
                table.add(side, proven, max_ranges);
            }
        });
    }

    /// Takes note of what has drifted; how much of it was repaired.
    pub(super) fn drifted(&self, index: &str, drifted: &[Drifted]) -> u64 {
        let repaired = drifted.iter().filter(|it| it.repaired).count() as u64;
        let mut report = self.report.lock();
        report.differences_total += drifted.len() as u64;
        report.repaired_total += repaired;
        if let Some(round) = &mut report.round {
            round.differences += drifted.len() as u64;
            round.repaired += repaired;
        }
        for it in drifted {
            if report.differences.len() >= self.max_differences {
                report.differences.pop_front();
            }
            report.differences.push_back(Difference {
                table: it.table.clone(),
                index: index.to_owned(),
                id: it.key.clone(),
                kind: it.kind,
                lsn: it.lsn,
                found_ms: now_ms(),
                repaired: it.repaired,
                reason: it.reason.clone(),
            });
        }
        repaired
    }
}

impl TableReport {
    fn add(&mut self, side: Side, proven: Proven, max_ranges: usize) {
        let Proven { proven_ms, lsn, .. } = proven;
        self.proven_ms = Some(self.proven_ms.map_or(proven_ms, |known| known.min(proven_ms)));
        self.lsn = Some(self.lsn.map_or(lsn, |known| known.min(lsn)));
        self.differences += proven.differences;
        self.repaired += proven.repaired;
        let ranges = match side {
            Side::Rows => {
                self.rows += proven.count;
                &mut self.ranges
            }
            Side::Documents => {
                self.documents += proven.count;
                &mut self.document_ranges
            }
        };
        ranges.push(proven);
        if ranges.len() > max_ranges {
            join_neighbours(ranges);
        }
    }
}

/// Makes one range of every two: what is told is true of both.
fn join_neighbours(ranges: &mut Vec<Proven>) {
    let mut joined: Vec<Proven> = Vec::with_capacity(ranges.len() / 2 + 1);
    for (at, range) in ranges.drain(..).enumerate() {
        match joined.last_mut() {
            Some(last) if at % 2 == 1 => {
                last.to = range.to;
                last.count += range.count;
                last.lsn = last.lsn.min(range.lsn);
                last.proven_ms = last.proven_ms.min(range.proven_ms);
                last.differences += range.differences;
                last.repaired += range.repaired;
            }
            _ => joined.push(range),
        }
    }
    *ranges = joined;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proven(number: u64) -> Proven {
        let key = |number: u64| vec![number.to_string()];
        Proven {
            after: number.checked_sub(1).map(key),
            to: Some(key(number)),
            count: 10,
            lsn: Lsn(100 + number),
            proven_ms: 1000 + number,
            differences: u64::from(number == 3),
            repaired: 0,
        }
    }

    #[test]
    fn ranges_are_bounded_and_without_a_gap() {
        for max_ranges in [1, 2, 5, 8] {
            let mut table = TableReport::default();
            for number in 0..50 {
                table.add(Side::Rows, proven(number), max_ranges);
                assert!(table.ranges.len() <= max_ranges.max(1));
                assert_eq!(table.ranges[0].after, None);
                assert_eq!(table.ranges.last().unwrap().to, proven(number).to);
                assert!(table.ranges.windows(2).all(|pair| pair[0].to == pair[1].after));
                let count: u64 = table.ranges.iter().map(|range| range.count).sum();
                assert_eq!((count, table.rows), (10 * (number + 1), 10 * (number + 1)));
            }
            assert_eq!((table.lsn, table.proven_ms), (Some(Lsn(100)), Some(1000)));
            assert_eq!(table.differences, 1);
            assert_eq!(table.ranges.iter().map(|range| range.differences).sum::<u64>(), 1);
        }
    }

    #[test]
    fn differences_are_bounded_and_rounds_told_apart() {
        let config = VerifyConfig { max_differences: 3, ..VerifyConfig::default() };
        let board = Board::new(&config);
        let number = board.ask_for_round().unwrap();
        assert_eq!(board.ask_for_round().unwrap_err().kind(), ErrorKind::Conflict);
        board.begin(number, true, &VerifyOptions::default());
        for at in 0..5 {
            let drifted = Drifted {
                table: "public.t".to_owned(),
                key: at.to_string(),
                id: at.to_string(),
                kind: DriftKind::Missing,
                lsn: Lsn(at),
                repaired: at % 2 == 0,
                reason: None,
            };
            board.drifted("t", &[drifted]);
        }
        board.end(None);
        let report = board.report();
        let ids: Vec<&str> = report.differences.iter().map(|it| it.id.as_str()).collect();
        assert_eq!(ids, ["2", "3", "4"]);
        assert_eq!((report.differences_total, report.repaired_total), (5, 3));
        let last = report.last_round.unwrap();
        assert_eq!((last.number, last.state, last.differences), (number, RoundState::Done, 5));
        assert_eq!(board.ask_for_round().unwrap(), number + 1);
    }
}
