//! The pipeline's attempts: connect, judge what is there, make the slot where there is none, follow.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use egret_aof::failpoint;
use egret_aof::spool;
use parking_lot::Mutex;
use pgwire_replication::ReplicationClient;
use rustc_hash::FxHashSet;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;

use crate::acknowledge::Acknowledgements;
use crate::backoff::Backoff;
use crate::connect::{Control, Session, within};
use crate::dead_letters::DeadLetters;
use crate::discovery::{Discovered, Discovery};
use crate::error::{Error, ErrorKind, Result};
use crate::follower::{Follower, FollowerParts, beginning};
use crate::history::History;
use crate::pipeline::Pipeline;
use crate::position::{Holds, Position};
use crate::receipts::{LetterBox, Outstanding};
use crate::selection::Selection;
use crate::slot::{self, Server, Slot, Verdict};
use crate::status::PipelineState;
use crate::stream::Stream;
use crate::transaction::Gathering;
use crate::watcher::{Watcher, check_retained};

/// The oldest server that sends logical messages, which the driver always asks for.
const OLDEST_SERVER: u32 = 140_000;

/// The first one that gives standbys the slots that are meant for it.
const FIRST_WITH_FAILOVER: u32 = 170_000;

/// Looks at a slot that an ending session still holds, and the pause between.
const FREE_ATTEMPTS: u32 = 50;
const FREE_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

/// One attempt's view of the database.
struct Connected {
    control: Arc<Control>,
    session: ReplicationClient,
    server: Server,
    /// The server's version.
    version: u32,
    /// What the file says, unless there is nothing to go on from.
    file: Option<Position>,
}

impl Pipeline {
    /// Follows the database until stopped, through every failure that may pass by itself.
    pub(crate) async fn follow(&self) {
        let mut backoff = Backoff::new(self.config.reconnect_max());
        loop {
            let began = Instant::now();
            let Err(error) = self.attempt().await else { continue };
            if self.is_interrupted() {
                return;
            }
            self.board.connection_failures.fetch_add(1, Ordering::Relaxed);
            if began.elapsed() > self.config.reconnect_max() {
                backoff.reset();
            }
            let reason = Some(error.to_string());
            match error.kind() {
                ErrorKind::Refused | ErrorKind::Invalid => {
                    tracing::error!(%error, pipeline = self.config.name, "change capture refuses to go on");
                    self.board.set_state(PipelineState::Refused, reason);
                    let reason = error.to_string();
                    tokio::select! {
                        () = self.interrupted() => {}
                        () = self.guard_source(PipelineState::Refused, &reason) => {}
                    }
                    return;
                }
                ErrorKind::ChangesLost => {
                    tracing::warn!(%error, pipeline = self.config.name, "the tables are copied again");
                    self.board.set_state(PipelineState::Resnapshot, reason);
                    self.forget().await;
                }
                _ => {
                    tracing::warn!(%error, pipeline = self.config.name, "change capture tries again");
                    self.board.set_state(PipelineState::Retrying, reason);
                    self.relieve_while_retrying(&error).await;
                }
            }
            tokio::select! {
                () = self.interrupted() => return,
                () = sleep(backoff.pause()) => {}
            }
        }
    }

    /// Opens what the pipeline keeps, once.
    pub(crate) fn open_letters(&self) -> Result<LetterBox> {
        let mut known = self.shared.letters.lock();
        if let Some(letters) = &*known {
            return Ok(letters.clone());
        }
        spool::remove_leftovers(&*self.disk, &self.folder)?;
        let letters = DeadLetters::open(&self.disk, &self.folder, self.config.max_dead_letters)?;
        self.board.dead_letters.store(letters.count() as u64, Ordering::Relaxed);
        let letters = Arc::new(Mutex::new(letters));
        Ok(known.insert(LetterBox { letters, board: Arc::clone(&self.board) }).clone())
    }

    /// Gives up the position and the slot, so that the next attempt copies. The file goes first: a
    /// crash in between leaves a slot, which a copy drops. What fails here is found and judged
    /// again by the next attempt.
    async fn forget(&self) {
        let forgetting = async {
            Position::remove(&*self.disk, &self.folder)?;
            let control = self.source.control().await?;
            slot::drop_slot(&control, &self.config.slot_name()).await
        };
        if let Err(error) = forgetting.await {
            tracing::warn!(%error, pipeline = self.config.name, "the slot is not dropped yet");
        }
    }

    /// One connection, from its beginning to its end.
    async fn attempt(&self) -> Result<()> {
        let begun = tokio::select! {
            () = self.interrupted() => {
                return Err(Error::new(ErrorKind::Stopped, "there is another order"));
            }
            begun = Box::pin(self.begin()) => begun?,
        };
        let (follower, found, _watching) = begun;
        Box::pin(follower.run(found)).await.map_err(publication_lost)
    }

    /// Connects, and finds out what is to be followed.
    async fn begin(&self) -> Result<(Follower<'_>, Discovered, AbortOnDropHandle<()>)> {
        self.board.set_state(PipelineState::Connecting, None);
        // What was given up may still be handing over its last batch.
        self.threads.close();
        self.threads.wait().await;
        self.threads.reopen();
        let letters = self.open_letters()?;
        {
            let mut letters = letters.letters.lock();
            letters.mend()?;
            letters.check_limit()?;
        }
        let Connected { control, session, server, version, file } = self.connect().await?;
        let discovery = Discovery {
            config: self.config.clone(),
            indexes: Arc::clone(&self.indexes),
            control,
            server: server.clone(),
            version,
            threads: self.threads.clone(),
        };
        let (found, file, session) = if let Some(file) = file {
            (discovery.look(file.holds(), FxHashSet::default()).await?, file, session)
        } else {
            // The publication is made before the slot: what the slot sends is looked up in it.
            let nothing = Holds::nothing();
            let found = discovery.look(nothing, FxHashSet::default()).await?;
            let (file, session) = self.make_slot(&discovery.control, session, &server).await?;
            (found, file, session)
        };
        let (follower, watching) = self.follower(discovery, session, &file, letters).await?;
        Ok((follower, found, watching))
    }

    /// Connects, and finds out whether there is something to go on from.
    async fn connect(&self) -> Result<Connected> {
        let control = Arc::new(self.source.control().await?);
        let version = check_server(&control, self.config.failover_slot).await?;
        let file = Position::load(&*self.disk, &self.folder)?;
        let slot_name = self.config.slot_name();
        let mut session = self.source.replication(session_of(file.as_ref(), &slot_name)).await?;
        let limit = self.source.connect_timeout();
        let identify = async { Ok(session.identify_system().await?) };
        let identity = within(limit, "opening a replication session", identify).await?;
        let (flushed, slot) = slot::read(&control, &slot_name).await?;
        let system_identifier = identity.system_id.parse().map_err(|_| {
            let message = format!("system identifier [{}] is no number", identity.system_id);
            Error::new(ErrorKind::Protocol, message)
        })?;
        let timeline = identity.timeline;
        let history = async { history(&mut session, timeline).await };
        let history = within(limit, "reading the timeline's history", history).await?;
        let server = Server { system_identifier, timeline, flushed, history };
        let database = self.source.database();
        let verdict = slot::judge(file.as_ref(), &server, slot.as_ref(), &slot_name, database)?;
        if let (Verdict::Continue, Some(slot)) = (&verdict, &slot) {
            check_retained(slot, &slot_name, self.config.max_retained_wal_bytes)?;
        }
        self.board.set_system(server.system_identifier, server.timeline);
        self.board.server.store(flushed.0, Ordering::Relaxed);
        let mut file = file.filter(|_| verdict == Verdict::Continue);
        if let Some(older) = file.take_if(|file| file.timeline != timeline) {
            // Before anything of the new history reaches an index: there is no way back.
            let position = older.streamed();
            tracing::info!(pipeline = self.config.name, timeline, %position, "a promoted standby is followed");
            let newer = older.on_timeline(timeline);
            newer.store(&*self.disk, &self.folder)?;
            file = Some(newer);
        }
        Ok(Connected { control, session, server, version, file })
    }

    /// Makes the pipeline's slot, in the place of one that nothing is known of, and a session that
    /// begins there.
    async fn make_slot(
        &self,
        control: &Control,
        mut session: ReplicationClient,
        server: &Server,
    ) -> Result<(Position, ReplicationClient)> {
        let name = self.config.slot_name();
        slot::drop_slot(control, &name).await?;
        let options = if self.config.failover_slot {
            "(SNAPSHOT 'nothing', FAILOVER true)"
        } else {
            "NOEXPORT_SNAPSHOT"
        };
        let create = format!("CREATE_REPLICATION_SLOT {name} LOGICAL pgoutput {options}");
        let rows = session.simple_query(&create).await?;
        let lsn = rows.first().and_then(|row| row.get(1)?.as_ref());
        let lsn = lsn.map(|lsn| String::from_utf8_lossy(lsn).into_owned()).ok_or_else(|| {
            Error::new(ErrorKind::Protocol, format!("making slot [{name}] gave no position"))
        })?;
        let lsn = slot::lsn(&lsn)?;
        failpoint::reach("slot-made");
        let holds = Holds::nothing();
        let file = Position::new(&name, beginning(server, lsn), lsn, holds);
        file.store(&*self.disk, &self.folder)?;
        failpoint::reach("slot-noted");
        let session = self.source.replication(session_of(Some(&file), &name)).await?;
        Ok((file, session))
    }

    /// Starts the stream, and what watches beside it.
    async fn follower(
        &self,
        discovery: Discovery,
        mut client: ReplicationClient,
        file: &Position,
        letters: LetterBox,
    ) -> Result<(Follower<'_>, AbortOnDropHandle<()>)> {
        let control = Arc::clone(&discovery.control);
        let slot = wait_until_free(&control, &self.config.slot_name()).await?;
        if self.config.failover_slot && slot.is_some_and(|slot| !slot.failover) {
            let name = self.config.slot_name();
            let alter = format!("ALTER_REPLICATION_SLOT {name} (FAILOVER true)");
            let altering = async { Ok(client.simple_query(&alter).await?) };
            within(self.source.connect_timeout(), "setting the slot to failover", altering).await?;
        }
        client.start().await?;
        let started = async { Ok(client.wait_started().await?) };
        within(self.source.connect_timeout(), "starting the stream", started)
            .await
            .map_err(publication_lost)?;
        let (send, reports) = mpsc::channel(4);
        let (fingerprints, tables) = watch::channel(Vec::new());
        let watcher = Watcher {
            control: Arc::clone(&control),
            board: Arc::clone(&self.board),
            slot: self.config.slot_name(),
            publication: self.config.publication_name(),
            selection: Selection::reading(&self.config)?,
            tables,
            interval: self.config.watch_interval(),
            max_retained_wal_bytes: self.config.max_retained_wal_bytes,
            demand: self.demand.subscribe(),
        };
        let watching = AbortOnDropHandle::new(tokio::spawn(watcher.run(send)));
        let (batches, bytes) = (self.config.outstanding_batches, self.config.outstanding_bytes);
        let outstanding = Outstanding::new(batches, bytes, letters.clone());
        let position = beginning(&discovery.server, file.streamed());
        let (disk, folder) = (Arc::clone(&self.disk), self.folder.clone());
        let gathering = Arc::new(Gathering::new(disk, folder, &self.config));
        let stream = Stream::new(
            client,
            control,
            self.config.publication_name(),
            position,
            outstanding,
            Arc::clone(&gathering),
        );
        let acknowledgements = Acknowledgements::new(
            Arc::clone(&self.disk),
            self.folder.clone(),
            letters.clone(),
            self.config.acknowledge_interval(),
            file,
        );
        self.board.confirmed.store(file.lsn.0, Ordering::Relaxed);
        let parts = FollowerParts {
            discovery,
            stream,
            acknowledgements,
            letters,
            gathering,
            reports,
            fingerprints,
        };
        let follower = Follower::new(self, parts);
        Ok((follower, watching))
    }
}

/// The session that goes on from what the file says.
fn session_of<'a>(file: Option<&Position>, slot: &'a str) -> Session<'a> {
    let start = file.map(Position::streamed).unwrap_or_default();
    Session { slot, start, acknowledged: file.map(|file| file.lsn).unwrap_or_default() }
}

/// The server's version, where it is one that can be followed.
async fn check_server(control: &Control, failover_slot: bool) -> Result<u32> {
    const SETTINGS: &str =
        "SELECT current_setting('server_version_num')::int4, current_setting('wal_level')";
    let row = control.row("reading settings", SETTINGS, &[]).await?;
    let version = u32::try_from(row.try_get::<_, i32>(0)?).unwrap_or(0);
    if version < OLDEST_SERVER {
        let message =
            format!("the server's version is [{version}], and 14 is the oldest supported");
        return Err(Error::new(ErrorKind::Server, message));
    }
    let level: String = row.try_get(1)?;
    if level != "logical" {
        let message = format!(
            "wal_level is [{level}], and must be logical (ALTER SYSTEM SET wal_level = 'logical', \
             then restart the server)"
        );
        return Err(Error::new(ErrorKind::Server, message));
    }
    if failover_slot && version < FIRST_WITH_FAILOVER {
        let message = format!(
            "failover_slot needs PostgreSQL 17 or newer, and the server's version is [{version}]: \
             leave it out"
        );
        return Err(Error::new(ErrorKind::Server, message));
    }
    Ok(version)
}

/// Waits a little for a session of ours that is just ending; what holds the slot longer is told by
/// the server when the stream begins.
async fn wait_until_free(control: &Control, name: &str) -> Result<Option<Slot>> {
    for _ in 1..FREE_ATTEMPTS {
        match slot::read(control, name).await? {
            (_, Some(slot)) if slot.active => sleep(FREE_PAUSE).await,
            (_, slot) => return Ok(slot),
        }
    }
    Ok(slot::read(control, name).await?.1)
}

/// What the server's timeline comes from. One whose file is gone is taken to have no past.
async fn history(session: &mut ReplicationClient, timeline: u32) -> Result<History> {
    if timeline == 1 {
        return Ok(History::default());
    }
    match session.timeline_history(timeline).await {
        Ok(told) => History::parse(&told.content),
        Err(error) if error.is_server() => {
            tracing::warn!(%error, timeline, "the timeline's history cannot be read");
            Ok(History::default())
        }
        Err(error) => Err(error.into()),
    }
}

/// A publication that is missing at some point of the log can never be streamed past that point.
fn publication_lost(error: Error) -> Error {
    let text = error.to_string();
    if text.contains("publication") && text.contains("SQLSTATE 42704") {
        return Error::new(ErrorKind::ChangesLost, text).with_source(error);
    }
    error
}
