//! The pipeline's state machine: connect, judge what is there, copy what must be copied, follow.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use egret_aof::spool;
use egret_engine::{Checkpoint, Lsn};
use parking_lot::Mutex;
use pgwire_replication::ReplicationClient;
use rustc_hash::FxHashMap;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;

use crate::acknowledge::Acknowledgements;
use crate::backoff::Backoff;
use crate::catalog::{self, Fingerprint, Table};
use crate::connect::{Control, within};
use crate::dead_letters::DeadLetters;
use crate::error::{Error, ErrorKind, Result};
use crate::pipeline::Pipeline;
use crate::position::Position;
use crate::publication;
use crate::receipts::{LetterBox, Outstanding};
use crate::selection::Selection;
use crate::slot::{self, Server, Verdict};
use crate::status::{PipelineState, TableState};
use crate::stream::{Feed, Stream};
use crate::tables::{self, Followed, Skipped, candidates, given_up};
use crate::transaction::Gathering;
use crate::watcher::{Watcher, check_retained};

/// The oldest server that sends logical messages, which the driver always asks for.
const OLDEST_SERVER: u32 = 140_000;

/// Looks at a slot that an ending session still holds, and the pause between.
const FREE_ATTEMPTS: u32 = 50;
const FREE_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

/// One attempt's view of the database.
pub(crate) struct Connected {
    pub(crate) control: Arc<Control>,
    session: ReplicationClient,
    pub(crate) server: Server,
    verdict: Verdict,
    pub(crate) followed: Vec<Followed>,
    fingerprints: Vec<Fingerprint>,
}

impl Pipeline {
    /// Follows the database until stopped, through every failure that may pass by itself.
    pub(crate) async fn follow(&self) {
        let mut letters = None;
        let mut backoff = Backoff::new(self.config.reconnect_max());
        loop {
            let began = Instant::now();
            // Tables that came, went or changed are looked at again at once.
            let Err(error) = self.attempt(&mut letters).await else { continue };
            self.board.connection_failures.fetch_add(1, Ordering::Relaxed);
            if began.elapsed() > self.config.reconnect_max() {
                backoff.reset();
            }
            let reason = Some(error.to_string());
            match error.kind() {
                ErrorKind::Refused | ErrorKind::Invalid => {
                    tracing::error!(%error, pipeline = self.config.name, "change capture refuses to go on");
                    return self.board.set_state(PipelineState::Refused, reason);
                }
                ErrorKind::ChangesLost => {
                    tracing::warn!(%error, pipeline = self.config.name, "the tables are copied again");
                    self.board.set_state(PipelineState::Resnapshot, reason);
                    self.forget().await;
                }
                _ => {
                    tracing::warn!(%error, pipeline = self.config.name, "change capture tries again");
                    self.board.set_state(PipelineState::Retrying, reason);
                }
            }
            sleep(backoff.pause()).await;
        }
    }

    /// Opens what the pipeline keeps, once.
    fn open_letters(&self) -> Result<LetterBox> {
        spool::remove_leftovers(&*self.disk, &self.folder)?;
        let letters = DeadLetters::open(&self.disk, &self.folder, self.config.max_dead_letters)?;
        self.board.dead_letters.store(letters.count() as u64, Ordering::Relaxed);
        let letters = Arc::new(Mutex::new(letters));
        Ok(LetterBox { letters, board: Arc::clone(&self.board) })
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
    async fn attempt(&self, letters: &mut Option<LetterBox>) -> Result<()> {
        self.board.set_state(PipelineState::Connecting, None);
        let letters = match letters {
            Some(letters) => letters,
            None => letters.insert(self.open_letters()?),
        };
        letters.letters.lock().mend()?;
        let connected = self.connect().await?;
        let (start, copied) = match connected.verdict {
            Verdict::First => (self.first_copy(&connected, letters).await?, true),
            Verdict::Continue(lsn) => (lsn, self.copy_new_tables(&connected, letters).await?),
        };
        let Connected { control, mut session, server, followed, fingerprints, .. } = connected;
        if copied {
            // The session was opened for another position, or has been idle for long.
            session = self.source.replication(start).await?;
        }
        let position = Checkpoint {
            system_identifier: server.system_identifier,
            timeline: server.timeline,
            lsn: start,
        };
        self.stream(&control, session, position, followed, fingerprints, letters).await
    }

    /// Connects, and finds out what there is.
    async fn connect(&self) -> Result<Connected> {
        let control = Arc::new(self.source.control().await?);
        let version = check_server(&control).await?;
        let file = Position::load(&*self.disk, &self.folder)?;
        let start = file.as_ref().map(|file| file.lsn).unwrap_or_default();
        let mut session = self.source.replication(start).await?;
        let limit = self.source.connect_timeout();
        let identify = async { Ok(session.identify_system().await?) };
        let identity = within(limit, "opening a replication session", identify).await?;
        let slot_name = self.config.slot_name();
        let (flushed, slot) = slot::read(&control, &slot_name).await?;
        let system_identifier = identity.system_id.parse().map_err(|_| {
            let message = format!("system identifier [{}] is no number", identity.system_id);
            Error::new(ErrorKind::Protocol, message)
        })?;
        let server = Server { system_identifier, timeline: identity.timeline, flushed };
        let database = self.source.database();
        let verdict = slot::judge(file.as_ref(), server, slot.as_ref(), &slot_name, database)?;
        if let (Verdict::Continue(_), Some(slot)) = (&verdict, &slot) {
            check_retained(slot, &slot_name, self.config.max_retained_wal_bytes)?;
        }
        self.board.set_system(server.system_identifier, server.timeline);
        self.board.server.store(flushed.0, Ordering::Relaxed);

        let selection = Selection::parse(&self.config.tables)?;
        let takes = |schema: &str, table: &str| selection.takes(schema, table);
        // Read first: what changes after it is noticed.
        let fingerprints = catalog::fingerprints(&control, takes).await?;
        let found = candidates(catalog::tables(&control, takes).await?, &selection);
        let mut skipped = found.skipped;
        let wanted: Vec<&Table> = found.tables.iter().map(|(_, table)| table).collect();
        let owned = self.config.publication.is_none();
        let name = self.config.publication_name();
        let membership = publication::ensure(&control, &name, owned, &wanted, version).await?;
        let mut published = Vec::new();
        for (index, table) in found.tables {
            if membership.members.contains(&table.oid) {
                published.push((index, Arc::new(table)));
                continue;
            }
            // A star stands for the tables that the role may publish.
            if table.owned || selection.names(&table.schema, &table.name) {
                let reason = membership.refused.iter().find(|(oid, _)| *oid == table.oid);
                let reason = reason.map_or("it is not in the publication", |(_, reason)| reason);
                skipped.push(Skipped { title: table.title(), reason: reason.to_owned() });
            }
        }
        let followed = self.open_indexes(published, skipped, server).await?;
        Ok(Connected { control, session, server, verdict, followed, fingerprints })
    }

    async fn open_indexes(
        &self,
        published: Vec<(String, Arc<Table>)>,
        mut skipped: Vec<Skipped>,
        server: Server,
    ) -> Result<Vec<Followed>> {
        let (indexes, pipeline) = (Arc::clone(&self.indexes), self.config.name.clone());
        let opening = tokio::task::spawn_blocking(move || {
            let open = |(name, table): (String, Arc<Table>)| {
                let opened = indexes.open(&pipeline, &name, &table, server)?;
                Ok((name, table, opened))
            };
            published.into_iter().map(open).collect::<Result<Vec<_>>>()
        });
        let mut followed = Vec::new();
        let mut shown = Vec::new();
        for (name, table, opened) in opening.await.map_err(given_up)?? {
            match opened {
                Ok(index) => {
                    shown.push((name, Arc::clone(&table)));
                    followed.push(Followed { table, index });
                }
                Err(reason) => skipped.push(Skipped { title: table.title(), reason }),
            }
        }
        self.board.set_tables(tables::entries(&shown, &skipped));
        Ok(followed)
    }

    /// Follows from `position` on.
    async fn stream(
        &self,
        control: &Arc<Control>,
        mut client: ReplicationClient,
        position: Checkpoint,
        followed: Vec<Followed>,
        tables: Vec<Fingerprint>,
        letters: &LetterBox,
    ) -> Result<()> {
        wait_until_free(control, &self.config.slot_name()).await?;
        client.start().await?;
        let started = async { Ok(client.wait_started().await?) };
        within(self.source.connect_timeout(), "starting the stream", started)
            .await
            .map_err(publication_lost)?;
        let (send, reports) = mpsc::channel(4);
        let watcher = Watcher {
            control: Arc::clone(control),
            board: Arc::clone(&self.board),
            slot: self.config.slot_name(),
            selection: Selection::parse(&self.config.tables)?,
            tables,
            interval: self.config.watch_interval(),
            max_retained_wal_bytes: self.config.max_retained_wal_bytes,
            demand: self.demand.subscribe(),
        };
        let _watching = AbortOnDropHandle::new(tokio::spawn(watcher.run(send)));
        let feed = |Followed { table, index }: Followed| {
            let title = table.title();
            self.board.set_table_state(&title, TableState::Streaming, None);
            Feed::new(table, index.sink, self.board.counters(&title))
        };
        let (batches, bytes) = (self.config.outstanding_batches, self.config.outstanding_bytes);
        let stream = Stream {
            client,
            control,
            reports,
            feeds: followed.into_iter().map(feed).collect(),
            position,
            outstanding: Outstanding::new(batches, bytes, letters.clone()),
            acknowledgements: Acknowledgements::new(
                Arc::clone(&self.disk),
                self.folder.clone(),
                letters.clone(),
                self.config.slot_name(),
                self.config.acknowledge_interval(),
                position.lsn,
            ),
            board: Arc::clone(&self.board),
            relations: FxHashMap::default(),
            gathering: Arc::new(Gathering::new(
                Arc::clone(&self.disk),
                self.folder.clone(),
                &self.config,
            )),
            transaction: None,
            advanced: Lsn::default(),
            looks_inactive: 0,
        };
        self.board.confirmed.store(position.lsn.0, Ordering::Relaxed);
        self.board.set_state(PipelineState::Streaming, None);
        Box::pin(stream.run()).await.map_err(publication_lost)
    }
}

/// The server's version, where it is one that can be followed.
async fn check_server(control: &Control) -> Result<u32> {
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
        let message = format!("wal_level is [{level}], and must be logical");
        return Err(Error::new(ErrorKind::Server, message));
    }
    Ok(version)
}

/// Waits a little for a session of ours that is just ending; what holds the slot longer is told by
/// the server when the stream begins.
async fn wait_until_free(control: &Control, name: &str) -> Result<()> {
    for _ in 0..FREE_ATTEMPTS {
        match slot::read(control, name).await? {
            (_, Some(slot)) if slot.active => sleep(FREE_PAUSE).await,
            _ => break,
        }
    }
    Ok(())
}

/// A publication that is missing at some point of the log can never be streamed past that point.
fn publication_lost(error: Error) -> Error {
    let text = error.to_string();
    if text.contains("publication") && text.contains("SQLSTATE 42704") {
        return Error::new(ErrorKind::ChangesLost, text).with_source(error);
    }
    error
}
