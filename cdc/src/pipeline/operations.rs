//! What a running pipeline can be told: to stand still and go on, to copy a table again, to show, retry
//! and forget dead letters, to leave its database.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::oneshot;

use super::{PipelineHandle, Shared};
use crate::config::PipelineConfig;
use crate::connect::quote_identifier;
use crate::dead_letters::LetterFilter;
use crate::error::{Error, ErrorKind, Result};
use crate::kept::Kept;
use crate::orders::{DeadLetter, Followed, Request, Retried, RetryOutcome};
use crate::receipts::LetterBox;
use crate::slot;
use crate::status::{PipelineState, StatusBoard};
use crate::verify::{VerifyOptions, VerifyReport, Wanted};

/// How long the one that follows the log may take to take note of a request.
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);

/// Rows that are read again under one snapshot.
const ROUND_ROWS: usize = 500;

/// Failures that a summary names.
const MAX_FAILURES: usize = 100;

/// What a retry of dead letters did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RetrySummary {
    /// Rows that were read again.
    pub retried: usize,
    /// Rows that are indexed now.
    pub indexed: usize,
    /// Rows that are not there any more.
    pub gone: usize,
    /// Rows that were changed meanwhile, of which the log has the last word.
    pub changed: usize,
    /// Rows that still cannot be indexed.
    pub failed: usize,
    /// The first of these.
    pub failures: Vec<Retried>,
}

impl RetrySummary {
    fn add(&mut self, retried: Retried) {
        self.retried += 1;
        match retried.outcome {
            RetryOutcome::Indexed => self.indexed += 1,
            RetryOutcome::Gone => self.gone += 1,
            RetryOutcome::Changed => self.changed += 1,
            RetryOutcome::Failed => {
                self.failed += 1;
                if self.failures.len() < MAX_FAILURES {
                    self.failures.push(retried);
                }
            }
        }
    }
}

impl PipelineHandle {
    /// What it was made from.
    pub fn config(&self) -> &PipelineConfig {
        &self.shared.config
    }

    /// Whether it stands still until it is resumed.
    pub fn is_paused(&self) -> bool {
        self.shared.orders.borrow().paused
    }

    /// Stands still, also after a restart of the program, until resumed. The slot keeps the log for
    /// it, up to `max_retained_wal_bytes`: past that it is dropped, and the tables are copied when it
    /// goes on. When this returns nothing is written any more.
    pub async fn pause(&self) -> Result<()> {
        self.keep_paused(true).await?;
        self.order(true).await
    }

    /// Goes on where it stood.
    pub async fn resume(&self) -> Result<()> {
        self.keep_paused(false).await?;
        if self.is_paused() { self.order(false).await } else { Ok(()) }
    }

    /// Gives up its connections and begins anew from where its indexes stand, also where it refused to
    /// go on.
    pub async fn restart(&self) -> Result<()> {
        if self.is_paused() {
            let message = format!("pipeline [{}] is paused: resume it", self.name());
            return Err(Error::new(ErrorKind::Conflict, message));
        }
        self.order(false).await
    }

    async fn keep_paused(&self, paused: bool) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        let keep = move || {
            let kept = Kept::load(&*shared.disk, &shared.folder)?;
            Kept { paused, ..kept }.store(&*shared.disk, &shared.folder)
        };
        tokio::task::spawn_blocking(keep).await.map_err(crate::tables::given_up)?
    }

    /// Gives an order, and waits until what went before it has ended.
    async fn order(&self, paused: bool) -> Result<()> {
        let mut number = 0;
        self.shared.orders.send_modify(|order| {
            (order.paused, order.number) = (paused, order.number + 1);
            number = order.number;
        });
        let (mut obeyed, mut ended) = (self.shared.obeyed.subscribe(), self.ended.clone());
        tokio::select! {
            biased;
            _ = obeyed.wait_for(|obeyed| *obeyed >= number) => Ok(()),
            _ = ended.wait_for(|ended| *ended) => {
                Err(Error::new(ErrorKind::Stopped, "the pipeline has ended"))
            }
        }
    }

    /// Copies a table again, `schema.table`, beside the index that searches see.
    pub async fn copy(&self, table: &str) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        self.ask(Request::Copy { table: table.to_owned(), reply }).await?;
        answered(answer, REPLY_TIMEOUT).await?
    }

    async fn ask(&self, request: Request) -> Result<()> {
        self.shared.ask(&self.board, request).await
    }

    /// What was proven of the tables and when, and what has drifted.
    pub fn verification(&self) -> VerifyReport {
        let mut report = self.shared.verification.report();
        // What has taken an index's place since was not proven.
        report.tables.retain(|table| {
            self.engine.index(&table.index).is_ok_and(|index| index.uuid() == table.uuid)
        });
        report
    }

    /// Goes back to the index from before the last copy of its table, which is first brought to where
    /// the log is, and waits until that is done. Where the pipeline is interrupted meanwhile it may
    /// have been done all the same.
    pub async fn roll_back(&self, index: &str) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        self.ask(Request::RollBack { index: index.to_owned(), reply }).await?;
        answer.await.unwrap_or_else(|_| Err(interrupted()))
    }

    /// Begins to hold rows and documents against each other; the number of the round. One that runs by
    /// itself gives way.
    pub async fn verify(&self, options: VerifyOptions) -> Result<u64> {
        let followed = self.shared.followed(&self.board).await?;
        if let Some(table) = &options.table
            && !followed.iter().any(|it| it.has(table))
        {
            let message = format!("table [{table}] is not followed by this pipeline now");
            return Err(Error::new(ErrorKind::NotFound, message));
        }
        let number = self.shared.verification.ask_for_round()?;
        let ended = |_| Error::new(ErrorKind::Stopped, "the pipeline has ended");
        self.shared.wanted.send(Wanted { number, options }).await.map_err(ended)?;
        Ok(number)
    }

    /// Waits until a round has ended.
    pub async fn verified(&self, number: u64) {
        self.shared.verification.wait_for(number).await;
    }

    fn letter_box(&self) -> Result<LetterBox> {
        let letters = self.shared.letters.lock().clone();
        letters.ok_or_else(|| {
            let message = format!("the dead letters of [{}] are not open yet", self.name());
            Error::new(ErrorKind::Unavailable, message)
        })
    }

    /// How many dead letters are meant, and a page of them, by table and id. Blocking.
    pub fn dead_letters(
        &self,
        filter: &LetterFilter,
        from: usize,
        size: usize,
    ) -> Result<(usize, Vec<DeadLetter>)> {
        self.letter_box()?.letters.lock().page(filter, from, size)
    }

    /// Forgets dead letters, though their rows are not in the index; how many. Blocking.
    pub fn purge(&self, filter: &LetterFilter) -> Result<usize> {
        self.letter_box()?.work(|letters| letters.purge(filter))
    }

    /// Reads the rows of dead letters again and indexes them as they are now. What the letters keep of
    /// them is never written.
    pub async fn retry(&self, filter: &LetterFilter) -> Result<RetrySummary> {
        let keys = self.letter_box()?.letters.lock().keys(filter);
        let mut summary = RetrySummary::default();
        for round in keys.chunks(ROUND_ROWS) {
            let (reply, answer) = oneshot::channel();
            self.ask(Request::Retry { letters: round.to_vec(), reply }).await?;
            let retried = answer.await.unwrap_or_else(|_| Err(interrupted()))?;
            for retried in retried {
                summary.add(retried);
            }
        }
        Ok(summary)
    }

    /// Stops for good, and takes its slot and its own publication out of the database. Indexes and
    /// files stay.
    pub async fn leave_database(&self) -> Result<()> {
        let control = self.shared.source.control().await?;
        self.stop().await;
        let config = &self.shared.config;
        slot::drop_slot(&control, &config.slot_name()).await?;
        if config.publication.is_none() {
            let publication = quote_identifier(&config.publication_name());
            let drop = format!("DROP PUBLICATION IF EXISTS {publication}");
            control.execute("dropping the publication", &drop).await?;
        }
        control.end();
        Ok(())
    }
}

impl Shared {
    /// Asks the one that follows the log.
    pub(crate) async fn ask(&self, board: &StatusBoard, request: Request) -> Result<()> {
        let state = board.state();
        if !matches!(state, PipelineState::Streaming | PipelineState::Copying) {
            let name = &self.config.name;
            let message = format!("pipeline [{name}] follows nothing now, it is {state:?}");
            return Err(Error::new(ErrorKind::Conflict, message.to_lowercase()));
        }
        let full = |_| Error::new(ErrorKind::Unavailable, "the pipeline does not answer");
        self.requests.send_timeout(request, REPLY_TIMEOUT).await.map_err(full)
    }

    /// The tables that the stream writes to.
    pub(crate) async fn followed(&self, board: &StatusBoard) -> Result<Vec<Followed>> {
        let (reply, answer) = oneshot::channel();
        self.ask(board, Request::Followed { reply }).await?;
        answered(answer, REPLY_TIMEOUT).await
    }
}

/// Waits for an answer.
pub(crate) async fn answered<T>(answer: oneshot::Receiver<T>, timeout: Duration) -> Result<T> {
    let late = |_| Error::new(ErrorKind::Unavailable, "the pipeline does not answer");
    let answered = tokio::time::timeout(timeout, answer).await.map_err(late)?;
    answered.map_err(|_| interrupted())
}

fn interrupted() -> Error {
    Error::new(ErrorKind::Unavailable, "the pipeline was interrupted before it was done")
}
