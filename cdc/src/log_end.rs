//! Where the database's log ends now: what a reader waits for who wants to see everything that was
//! committed before it asked, and knows no position.
//!
//! One question answers all who wait at the moment it is sent. Who comes while it is under way
//! waits for the next one: its commit may be younger than the answer.

use std::time::Duration;

use egret_engine::Lsn;
use tokio::sync::{mpsc, oneshot};

use crate::connect::{Control, Source};
use crate::error::{Error, ErrorKind, Result};
use crate::slot;

/// Readers that may wait for one question, and as many for the next.
const MAX_READERS: usize = 4_096;

/// A connection that nobody has used for so long is closed.
const IDLE: Duration = Duration::from_secs(60);

/// Asks on behalf of all who want to know.
#[derive(Debug)]
pub(crate) struct LogEnd(mpsc::Sender<Reader>);

/// One who wants to know.
type Reader = oneshot::Sender<Result<Lsn>>;

/// The question.
trait Ask: Send {
    /// Where the log ends.
    fn ask(&mut self) -> impl Future<Output = Result<Lsn>> + Send;
    /// Nobody has asked for a while.
    fn rest(&mut self);
}

impl LogEnd {
    /// Connects when somebody asks first. Ends when this is dropped.
    pub(crate) fn of(source: Source) -> Self {
        Self::asking(Database { source, control: None })
    }

    fn asking(whom: impl Ask + 'static) -> Self {
        let (send, readers) = mpsc::channel(MAX_READERS);
        tokio::spawn(answer(whom, readers));
        Self(send)
    }

    /// Where the database's log ends, asked for after this was called.
    pub(crate) async fn ask(&self) -> Result<Lsn> {
        let (send, answer) = oneshot::channel();
        let stopped = || Error::new(ErrorKind::Stopped, "the pipeline has stopped");
        self.0.send(send).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

async fn answer(mut whom: impl Ask, mut readers: mpsc::Receiver<Reader>) {
    let mut waiting: Vec<Reader> = Vec::new();
    loop {
        let next = readers.recv_many(&mut waiting, MAX_READERS);
        match tokio::time::timeout(IDLE, next).await {
            Ok(0) => return,
            Ok(_) => {}
            Err(_idle) => {
                whom.rest();
                continue;
            }
        }
        // Who has given up does not count.
        waiting.retain(|reader| !reader.is_closed());
        if waiting.is_empty() {
            continue;
        }
        let answer = whom.ask().await;
        for reader in waiting.drain(..) {
            let _ = reader.send(match &answer {
                Ok(lsn) => Ok(*lsn),
                Err(error) => Err(Error::new(error.kind(), error.to_string())),
            });
        }
    }
}

/// A database, and the connection to it while there is one.
struct Database {
    source: Source,
    control: Option<Control>,
}

impl Database {
    async fn try_ask(&mut self) -> Result<Lsn> {
        // Not where it is durable: a commit that did not wait for the disk may lie after that.
        const QUERY: &str = "SELECT pg_current_wal_insert_lsn()::text";
        let control = match &self.control {
            Some(control) => control,
            None => self.control.insert(self.source.control().await?),
        };
        let row = control.row("asking where the log ends", QUERY, &[]).await?;
        slot::lsn(row.try_get(0)?)
    }
}

impl Ask for Database {
    async fn ask(&mut self) -> Result<Lsn> {
        let was_connected = self.control.is_some();
        let mut answer = self.try_ask().await;
        if answer.is_err() && was_connected {
            // A connection that had broken meanwhile says nothing about the database.
            self.control = None;
            answer = self.try_ask().await;
        }
        if answer.is_err() {
            self.control = None;
        }
        answer
    }

    fn rest(&mut self) {
        if let Some(control) = self.control.take() {
            control.end();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::Semaphore;

    use super::*;

    /// Answers how often it was asked, when it is allowed to.
    struct Counting {
        asked: u64,
        allowed: Arc<Semaphore>,
    }

    impl Ask for Counting {
        async fn ask(&mut self) -> Result<Lsn> {
            self.asked += 1;
            self.allowed.acquire().await.unwrap().forget();
            Ok(Lsn(self.asked))
        }

        fn rest(&mut self) {}
    }

    async fn asked(position: Arc<LogEnd>) -> Lsn {
        position.ask().await.unwrap()
    }

    #[tokio::test]
    async fn one_question_answers_all_who_wait_and_none_who_came_after_it() {
        let allowed = Arc::new(Semaphore::new(0));
        let position = LogEnd::asking(Counting { asked: 0, allowed: Arc::clone(&allowed) });
        let position = Arc::new(position);
        let ask = || tokio::spawn(asked(Arc::clone(&position)));
        let first = ask();
        // The first question is under way once everyone else has nothing left to do.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        let later: Vec<_> = (0..50).map(|_| ask()).collect();
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        allowed.add_permits(1);
        assert_eq!(first.await.unwrap(), Lsn(1));
        allowed.add_permits(1);
        for reader in later {
            assert_eq!(reader.await.unwrap(), Lsn(2));
        }
    }
}
