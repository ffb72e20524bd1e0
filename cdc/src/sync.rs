//! Bringing tables to where the stream is, beside it: PostgreSQL's own subscribers call it table
//! synchronization. One mechanism for a first copy, a new table, one that must be copied again, and
//! an index that comes back after a failure.
//!
//! A copy that was interrupted goes on: what it has read is first brought to a new snapshot by the
//! log, as [`resume`] says, and then what is left is read from that.
//!
//! 1. A temporary slot gives a snapshot S and the position C that agrees with it; the tables are
//!    copied from S. An index that merely missed the stream for a while skips this.
//! 2. A second temporary slot, a copy of the pipeline's own, sends the log again from where the
//!    pipeline's own stands: that one is held back at or before C, so the changes of the tables wait
//!    in the database's log and need no place of their own. Each index skips what it holds.
//! 3. Once this is no further back than the stream, the stream takes the tables over: it skips what
//!    they hold, so both may overlap, and neither waits for the other.

mod catch_up;
mod resume;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use egret_aof::failpoint;
use egret_engine::{Checkpoint, Lsn};
use pgwire_replication::ReplicationClient;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::catalog::Table;
use crate::config::PipelineConfig;
use crate::connect::{Control, Session, Source, quote_literal, within};
use crate::copy::throttle::Throttle;
use crate::copy::{self, Job, Snapshot};
use crate::document::RowFormat;
use crate::error::{Error, ErrorKind, Result};
use crate::feed::{Feed, Titles};
use crate::progress::ReturnedFrom;
use crate::receipts::{LetterBox, Outstanding};
use crate::sink::{Indexes, Sink, Target};
use crate::slot::{self, Server};
use crate::status::StatusBoard;
use crate::stream::Stream;
use crate::tables::given_up;
use crate::transaction::Gathering;

/// The longest name that PostgreSQL keeps, and the room for what is added to the slot's.
const MAX_NAME_BYTES: usize = 63;
const SUFFIX_BYTES: usize = 8;

/// Batches that may be without an answer: the stream waits for them when it takes over.
const MAX_UNANSWERED: usize = 256;

/// A table to bring to where the stream is.
#[derive(Clone)]
pub(crate) struct Task {
    /// Its place in the pipeline.
    pub(crate) place: usize,
    /// Its index's name.
    pub(crate) name: String,
    pub(crate) table: Arc<Table>,
    /// The index that goes on from where it is, and whether it takes another's place; none where a
    /// copy is needed.
    pub(crate) sink: Option<(Arc<dyn Sink>, bool)>,
    /// The log is kept from here on.
    pub(crate) floor: Lsn,
    /// Where its index is gone back to: the declaration that is gone back from.
    pub(crate) returns: Option<ReturnedFrom>,
}

/// An index that a copy fills.
struct Filling {
    task: Task,
    target: Target,
    /// The copies of the tables that its documents are composed from besides.
    related: Vec<Job>,
}

/// A table that the stream can take over.
pub(crate) struct Synced {
    pub(crate) place: usize,
    pub(crate) feed: Feed,
    /// Whether its index takes another's place now.
    pub(crate) replaces: bool,
}

/// What a synchronization says while it runs.
pub(crate) enum News {
    /// The UUID of a table's index, and the position of the copy in it: the log before that is not
    /// needed.
    Target { place: usize, uuid: String, floor: Lsn },
    /// The copy of a table is done.
    Copied { place: usize },
    /// A table failed; the others go on.
    Failed { place: usize, error: Error },
    /// It is as far as the stream was when it last looked.
    Caught,
}

/// The stream's end of a running synchronization. Dropping it ends that.
pub(crate) struct Handle {
    /// How far it is, once it is done copying.
    pub(crate) reached: watch::Receiver<Option<Lsn>>,
    /// Should it fail, its tables need the log from here on; zero where it has read none of it.
    pub(crate) synced: watch::Receiver<Lsn>,
    /// Asks it to hand over.
    pub(crate) stop: CancellationToken,
    /// What it hands over.
    pub(crate) done: oneshot::Receiver<Result<Vec<Synced>>>,
    _abort: tokio_util::sync::DropGuard,
}

/// What a synchronization works with.
#[derive(Clone)]
pub(crate) struct Sync {
    pub(crate) source: Source,
    pub(crate) config: PipelineConfig,
    pub(crate) indexes: Arc<dyn Indexes>,
    pub(crate) board: Arc<StatusBoard>,
    pub(crate) letters: LetterBox,
    pub(crate) threads: TaskTracker,
    pub(crate) gathering: Arc<Gathering>,
    pub(crate) server: Server,
    pub(crate) throttle: Arc<Throttle>,
    /// Tells apart those that run at the same time.
    pub(crate) number: usize,
}

/// What a running synchronization tells.
struct Telling {
    number: usize,
    news: mpsc::Sender<(usize, News)>,
    reached: watch::Sender<Option<Lsn>>,
    synced: watch::Sender<Lsn>,
    /// How many tables it began with.
    tables: usize,
    stop: CancellationToken,
}

impl Sync {
    /// Starts it on a thread of its own, since handing batches over may block.
    pub(crate) fn start(
        self,
        tasks: Vec<Task>,
        news: mpsc::Sender<(usize, News)>,
    ) -> Result<Handle> {
        let (send_reached, reached) = watch::channel(None);
        let (send_synced, synced) = watch::channel(Lsn::default());
        let (send_done, done) = oneshot::channel();
        let (stop, abort) = (CancellationToken::new(), CancellationToken::new());
        let number = self.number;
        let telling = Telling {
            number,
            news,
            reached: send_reached,
            synced: send_synced,
            tables: tasks.len(),
            stop: stop.clone(),
        };
        let aborted = abort.clone();
        let running = self.threads.token();
        let runtime = tokio::runtime::Handle::current();
        std::thread::Builder::new().name(format!("sync-{}", self.number)).spawn(move || {
            let work = async {
                tokio::select! {
                    () = aborted.cancelled() => {}
                    () = Box::pin(self.run(tasks, telling, send_done)) => {}
                }
            };
            runtime.block_on(work);
            drop(running);
        })?;
        Ok(Handle { reached, synced, stop, done, _abort: abort.drop_guard() })
    }

    async fn run(
        self,
        tasks: Vec<Task>,
        telling: Telling,
        done: oneshot::Sender<Result<Vec<Synced>>>,
    ) {
        let ended = match self.fill_and_follow(tasks, &telling).await {
            Ok((stream, synced)) => {
                let _ = done.send(Ok(synced));
                // The stream does not wait for the end of the session.
                if let Err(error) = stream.close().await {
                    tracing::debug!(%error, "a session did not end well");
                }
                return;
            }
            Err(error) => done.send(Err(error)),
        };
        // Wakes the stream, if it is still there.
        if ended.is_ok() {
            telling.tell(News::Caught).await;
        }
    }

    async fn fill_and_follow(
        &self,
        tasks: Vec<Task>,
        telling: &Telling,
    ) -> Result<(Stream, Vec<Synced>)> {
        let control = Arc::new(self.source.control().await?);
        let (new, known): (Vec<Task>, Vec<Task>) =
            tasks.into_iter().partition(|task| task.sink.is_none());
        let mut members: Vec<(Synced, Lsn)> = Vec::new();
        for task in known {
            let Some((sink, replaces)) = task.sink else { continue };
            let feed = self.feed(&task.name, task.table, Arc::clone(&sink));
            let (feed, start) = if let Some(from) = task.returns {
                self.begin_return(task.name, &*sink, from).await?;
                let start = feed.reached.max(task.floor);
                (Feed { returns: true, ..feed }, start)
            } else {
                // What it holds from there on is looked at once more.
                (feed.listed_to(task.floor), task.floor)
            };
            members.push((Synced { place: task.place, feed, replaces }, start));
        }
        if !new.is_empty() {
            self.board.copies.fetch_add(1, Ordering::Relaxed);
            let copied = self.copy(&control, new, telling).await?;
            members.extend(copied);
        }
        self.catch_up(control, members, telling).await
    }

    async fn begin_return(&self, name: String, sink: &dyn Sink, from: ReturnedFrom) -> Result<()> {
        let (indexes, uuid) = (Arc::clone(&self.indexes), sink.uuid().to_owned());
        failpoint::reach("return-begun");
        let begin = move || indexes.begin_return(&name, &uuid, from);
        tokio::task::spawn_blocking(begin).await.map_err(given_up)?
    }

    fn feed(&self, name: &str, table: Arc<Table>, sink: Arc<dyn Sink>) -> Feed {
        let counters = self.board.counters(&table.title());
        Feed::new(name, table, sink, counters)
    }

    /// Copies tables from one snapshot. Gives those that did not fail, with where they need the log from.
    async fn copy(
        &self,
        control: &Arc<Control>,
        tasks: Vec<Task>,
        telling: &Telling,
    ) -> Result<Vec<(Synced, Lsn)>> {
        // The session keeps the snapshot while it lives.
        let name = self.slot_name("copy");
        let (snapshot, _session) = snapshot(&self.source, control, &name, &self.server).await?;
        let lsn = snapshot.checkpoint.lsn;
        let mut jobs = Vec::new();
        for task in tasks {
            let begun = self.target(&task, snapshot.checkpoint).await;
            let (target, formats) = match begun {
                Ok(begun) => begun,
                Err(error) => {
                    telling.tell(News::Failed { place: task.place, error }).await;
                    continue;
                }
            };
            let counters = self.board.counters(&task.table.title());
            let uuid = target.sink.uuid().to_owned();
            let floor = target.resumes.as_ref().map_or(lsn, |resumes| resumes.lsn);
            telling.tell(News::Target { place: task.place, uuid, floor }).await;
            let titles = Titles::of(&task.name, &task.table);
            let job = |(part, (table, format)): (usize, (Arc<Table>, RowFormat))| Job {
                owner: 0,
                part,
                title: table.title().into(),
                table,
                titles: titles.clone(),
                counters: Arc::clone(&counters),
                format: Arc::new(format),
                sink: Arc::clone(&target.sink),
                resumes: None,
                missing: Vec::new(),
            };
            let mut parts = task.table.parts().into_iter().zip(formats).enumerate().map(job);
            let Some(own) = parts.next() else { continue };
            let related = parts.collect();
            let own = Job { resumes: target.resumes.clone(), ..own };
            jobs.push((own, Filling { task, target, related }));
        }
        let brought = self.bring_up(control, jobs, snapshot.checkpoint, telling).await?;
        let (jobs, fillings) = with_related(brought);
        let (source, config, threads) = (&self.source, &self.config, &self.threads);
        let boxes = (&self.letters, &self.throttle);
        let results = copy::copy(source, config, &snapshot, jobs, boxes, threads).await?;
        let mut copied = Vec::new();
        for (Filling { task, target, .. }, result) in fillings.into_iter().zip(results) {
            let place = task.place;
            match result {
                Ok(truncation) => {
                    // What was listed before the copy began is in it, or listed anew.
                    let resumes = target.resumes.as_ref().and_then(|it| it.copied.as_ref());
                    let began = resumes.map_or(lsn, |copied| copied.began);
                    self.letters.work(|letters| letters.clear(&task.name, None, began))?;
                    let feed = self.feed(&task.name, task.table, target.sink);
                    let feed = Feed { truncation, ..feed };
                    let start = feed.reached.max(lsn);
                    copied.push((Synced { place, feed, replaces: target.replaces }, start));
                    telling.tell(News::Copied { place }).await;
                }
                Err(error) => telling.tell(News::Failed { place, error }).await,
            }
        }
        Ok(copied)
    }

    /// The index that a table is copied into, and how its rows, and those that its documents are
    /// composed from, become documents there.
    async fn target(&self, task: &Task, snapshot: Checkpoint) -> Result<(Target, Vec<RowFormat>)> {
        let mut formats = Vec::new();
        for table in task.table.parts() {
            let format = table.row_format().ok_or_else(|| {
                let message = format!("table [{}] has no key", table.title());
                Error::new(ErrorKind::TableChanged, message)
            })?;
            formats.push(format.with_max_bytes(self.config.max_document_bytes));
        }
        let (indexes, table) = (Arc::clone(&self.indexes), Arc::clone(&task.table));
        let (pipeline, name, floor) = (self.config.name.clone(), task.name.clone(), task.floor);
        let beginning = tokio::task::spawn_blocking(move || {
            indexes.begin_copy(&pipeline, &name, &table, floor, snapshot)
        });
        Ok((beginning.await.map_err(given_up)??, formats))
    }

    fn slot_name(&self, what: &str) -> String {
        temporary_slot(&self.config, &format!("{what}{}", self.number))
    }

    /// Reads the log from where the pipeline's own slot stands until the stream takes over.
    async fn catch_up(
        &self,
        control: Arc<Control>,
        members: Vec<(Synced, Lsn)>,
        telling: &Telling,
    ) -> Result<(Stream, Vec<Synced>)> {
        if members.is_empty() {
            return Err(Error::new(ErrorKind::TableChanged, "no table is left to follow"));
        }
        let start = members.iter().map(|(_, start)| *start).min();
        let mut stream = self.read_log(control, start.unwrap_or_default()).await?;
        let mut places = Vec::new();
        for (at, (member, _)) in members.into_iter().enumerate() {
            stream.join(at, member.feed).await?;
            places.push((member.place, member.replaces));
        }
        catch_up::follow(&mut stream, &places, telling).await?;
        let mut synced = Vec::new();
        for (at, (place, replaces)) in places.into_iter().enumerate() {
            let feed = stream.leave(at).map(Feed::all_listed);
            synced.extend(feed.map(|feed| Synced { place, feed, replaces }));
        }
        Ok((stream, synced))
    }

    /// Begins to read the log from here on once more, by a copy of the pipeline's own slot.
    async fn read_log(&self, control: Arc<Control>, start: Lsn) -> Result<Stream> {
        let name = self.slot_name("sync");
        slot::drop_slot(&control, &name).await?;
        let session = Session { slot: &name, start, acknowledged: start };
        let mut client = self.source.replication(session).await?;
        let copy = format!(
            "SELECT lsn FROM pg_catalog.pg_copy_logical_replication_slot({}, {}, true)",
            quote_literal(&self.config.slot_name()),
            quote_literal(&name),
        );
        let row = first_row(client.simple_query(&copy).await?);
        let from = row.first().cloned().flatten().map(|lsn| slot::lsn(&lsn)).transpose()?;
        if from.is_none_or(|from| from > start) {
            let message = format!("the log from [{start}] on is not kept any more");
            return Err(Error::new(ErrorKind::ChangesLost, message));
        }
        client.start().await?;
        let started = async { Ok(client.wait_started().await?) };
        within(self.source.connect_timeout(), "starting to catch up", started).await?;
        let Server { system_identifier, timeline, .. } = self.server;
        let position = Checkpoint { system_identifier, timeline, lsn: start };
        let batches = self.config.outstanding_batches.min(MAX_UNANSWERED);
        let bytes = self.config.outstanding_bytes;
        let outstanding = Outstanding::new(batches, bytes, self.letters.clone());
        let gathering = Arc::clone(&self.gathering);
        let publication = self.config.publication_name();
        Ok(Stream::new(client, control, publication, position, outstanding, gathering))
    }
}

/// The name of a slot that lives as long as its session.
pub(crate) fn temporary_slot(config: &PipelineConfig, what: &str) -> String {
    let mut name = config.slot_name();
    name.truncate(MAX_NAME_BYTES - SUFFIX_BYTES);
    format!("{name}_{what}")
}

/// Makes a temporary slot on a session of its own, for its snapshot, which lives as long.
pub(crate) async fn snapshot(
    source: &Source,
    control: &Control,
    slot: &str,
    server: &Server,
) -> Result<(Snapshot, ReplicationClient)> {
    slot::drop_slot(control, slot).await?;
    let mut session = source.replication(Session::new(slot)).await?;
    let create =
        format!("CREATE_REPLICATION_SLOT {slot} TEMPORARY LOGICAL pgoutput EXPORT_SNAPSHOT");
    let row = first_row(session.simple_query(&create).await?);
    let column = |at: usize| row.get(at).cloned().flatten();
    let (Some(lsn), Some(snapshot)) = (column(1), column(2)) else {
        let message = format!("making slot [{slot}] gave no position or no snapshot");
        return Err(Error::new(ErrorKind::Protocol, message));
    };
    let Server { system_identifier, timeline, .. } = *server;
    let checkpoint = Checkpoint { system_identifier, timeline, lsn: slot::lsn(&lsn)? };
    Ok((Snapshot { name: snapshot, checkpoint }, session))
}

/// All jobs of a copy: each that owns an index is followed by those of its related tables.
fn with_related(brought: Vec<(Job, Filling)>) -> (Vec<Job>, Vec<Filling>) {
    let (mut jobs, mut fillings) = (Vec::new(), Vec::with_capacity(brought.len()));
    for (own, mut filling) in brought {
        let owner = jobs.len();
        let related = std::mem::take(&mut filling.related);
        jobs.extend(std::iter::once(own).chain(related).map(|job| Job { owner, ..job }));
        fillings.push(filling);
    }
    (jobs, fillings)
}

impl Telling {
    async fn tell(&self, news: News) {
        // Nobody listens any more once it was given up.
        let _ = self.news.send((self.number, news)).await;
    }
}

impl<'a> Session<'a> {
    /// One that is not started.
    fn new(slot: &'a str) -> Self {
        Self { slot, start: Lsn::default(), acknowledged: Lsn::default() }
    }
}

/// The first row of an answer, as text.
fn first_row(rows: Vec<pgwire_replication::QueryRow>) -> Vec<Option<String>> {
    let text = |value: Option<bytes::Bytes>| {
        value.map(|value| String::from_utf8_lossy(&value).into_owned())
    };
    rows.into_iter().next().unwrap_or_default().into_iter().map(text).collect()
}
