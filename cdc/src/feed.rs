//! A table as a stream writes it: its index, and how far that is.

use std::ops::Range;
use std::sync::Arc;

use egret_engine::Lsn;
use egret_engine::composition::parse_row_id;
use egret_engine::index::Positions;
use rustc_hash::FxHashMap;
use tokio::sync::watch;

use crate::catalog::Table;
use crate::dead_letters::RowName;
use crate::held::{MissingRows, RelatedRows, Unlisted};
use crate::progress::Progress;
use crate::sink::Sink;
use crate::status::TableCounters;

/// A table that is followed, and its index.
pub(crate) struct Feed {
    /// The table as the catalog had it when it was last looked at.
    pub(crate) table: Arc<Table>,
    /// What dead letters call its rows.
    pub(crate) titles: Titles,
    /// Its index.
    pub(crate) sink: Arc<dyn Sink>,
    /// Where the index stands.
    pub(crate) positions: watch::Receiver<Positions>,
    /// Who counts.
    pub(crate) counters: Arc<TableCounters>,
    /// Everything that ends at or below this is in the index: what it was opened with, and since
    /// then the last batch or advance.
    pub(crate) reached: Lsn,
    /// The end of the last transaction that was handed over.
    pub(crate) submitted: Option<Lsn>,
    /// Rows that were handed over since a flush was last asked for.
    pub(crate) unflushed_rows: u64,
    /// The truncation that its copy met and that the log must bring.
    pub(crate) truncation: Option<Truncation>,
    /// Whether a transaction that ended its copy may not be durable yet. A crash would go back into the
    /// copy.
    pub(crate) ended_unflushed: bool,
    /// What an interrupted copy has read of the table and of those that its documents are composed from,
    /// where the log is applied to that alone.
    pub(crate) resumes: Option<Progress>,
    /// Whether it is an index that is being gone back to, which must take every row.
    pub(crate) returns: bool,
    /// Its index held what begins here when it was opened, though the dead letters of that may not have
    /// been written down.
    pub(crate) unlisted: Range<Lsn>,
    /// Where the oldest transaction begins whose dead letters were not known when it left the stream.
    pub(crate) unanswered: Option<Lsn>,
    /// Rows that somebody wants to know the changes of.
    pub(crate) watched: Watched,
}

/// Rows, each with the beginning of the last commit that changed it.
type Rows = FxHashMap<String, Lsn>;

/// Rows that somebody wants to know the changes of.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    /// Those that are being read again.
    pub(crate) retried: Option<Rows>,
    /// Those that are being held against their documents.
    pub(crate) checked: Option<Rows>,
}

impl Watched {
    /// All of them.
    pub(crate) fn all_mut(&mut self) -> impl Iterator<Item = &mut Rows> {
        self.retried.iter_mut().chain(&mut self.checked)
    }
}

/// Names of an index and of the tables that it is fed from, by which dead letters are known.
#[derive(Debug, Clone)]
pub(crate) struct Titles {
    index: Arc<str>,
    tables: Arc<[Arc<str>]>,
}

impl Titles {
    /// Those of an index, of the table whose documents it has, and of the tables that these are composed
    /// from.
    pub(crate) fn of(index: &str, table: &Arc<Table>) -> Self {
        let tables = table.parts().iter().map(|part| part.title().into()).collect();
        Self { index: index.into(), tables }
    }

    /// The index.
    pub(crate) fn index(&self) -> &str {
        &self.index
    }

    /// A row of the table whose documents the index has, by its key.
    pub(crate) fn own<'a>(&'a self, key: &'a str) -> RowName<'a> {
        let table = self.tables.first().map_or("", |title| title);
        RowName { index: &self.index, table, id: key }
    }

    /// The row that has this id in the index.
    pub(crate) fn find<'a>(&'a self, id: &'a str) -> RowName<'a> {
        let row = parse_row_id(id).and_then(|(table, key)| Some((self.tables.get(table)?, key)));
        let of_table = |(table, id): (&'a Arc<str>, _)| RowName { index: &self.index, table, id };
        row.map_or_else(|| self.own(id), of_table)
    }
}

#[cfg(test)]
impl From<&str> for Titles {
    fn from(title: &str) -> Self {
        Self { index: title.into(), tables: std::iter::once(title.into()).collect() }
    }
}

/// A table's rows vanished while they were copied. Where that was a truncation, the log says so, and
/// empties the index; otherwise the table was rewritten, and the copy is worth nothing.
#[derive(Debug, Clone)]
pub(crate) struct Truncation {
    /// The log has it before here.
    pub(crate) before: Lsn,
    /// What the index then remembers of its copy.
    pub(crate) progress: String,
}

impl Feed {
    /// A feed that goes on from where the index of this name is.
    pub(crate) fn new(
        name: &str,
        table: Arc<Table>,
        sink: Arc<dyn Sink>,
        counters: Arc<TableCounters>,
    ) -> Self {
        let positions = sink.positions();
        let Positions { applied, durable, .. } = *positions.borrow();
        let reached = applied.map(|at| at.lsn).unwrap_or_default();
        // What an earlier connection handed over may not be durable yet.
        let submitted = applied.map(|at| at.lsn).filter(|_| applied != durable);
        let titles = Titles::of(name, &table);
        Self {
            table,
            titles,
            sink,
            positions,
            counters,
            reached,
            submitted,
            unflushed_rows: 0,
            truncation: None,
            ended_unflushed: false,
            resumes: None,
            returns: false,
            unlisted: Lsn::default()..Lsn::default(),
            unanswered: None,
            watched: Watched::default(),
        }
    }

    /// One whose dead letters are written down for what ends before here, and may not be for the rest of
    /// what its index holds.
    pub(crate) fn listed_to(self, listed: Lsn) -> Self {
        Self { unlisted: listed..self.reached, ..self }
    }

    /// One whose dead letters are all written down.
    pub(crate) fn all_listed(self) -> Self {
        Self { unlisted: self.reached..self.reached, unanswered: None, ..self }
    }

    /// What is to be listed of transactions that its index holds, from the one on that begins here.
    pub(crate) fn unlisted(&self, begin: Lsn) -> Unlisted {
        Unlisted {
            begin,
            until: self.unlisted.end,
            sink: Arc::clone(&self.sink),
            titles: self.titles.clone(),
            counters: Arc::clone(&self.counters),
            rows: MissingRows::default(),
            related: RelatedRows::default(),
        }
    }

    /// What the index of a copy that goes on is to remember with a transaction that ends here. What that
    /// does to it may not be known before its answer.
    pub(crate) fn brought_to(&mut self, end: Lsn, unsettles: bool) -> Option<String> {
        let resumes = self.resumes.as_mut()?;
        resumes.unsettled |= unsettles;
        Some(resumes.at(end).to_text())
    }

    /// The log that its index needs to come back to the stream.
    pub(crate) fn needed(&self) -> Lsn {
        let durable = self.durable();
        // What was handed over and is not durable is lost with a failure.
        let held = if self.submitted > durable { durable } else { Some(self.reached) };
        let held = held.unwrap_or_default();
        self.unanswered.map_or(held, |unanswered| held.min(unanswered))
    }

    /// What its index holds durably.
    pub(crate) fn durable(&self) -> Option<Lsn> {
        self.positions.borrow().durable.map(|at| at.lsn)
    }
}
