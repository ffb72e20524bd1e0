//! What becomes of single tables: how they go on, when the stream takes them, why they leave it.

use std::sync::Arc;
use std::time::Duration;

use egret_engine::catalog::keep_until_ms;
use rustc_hash::FxHashSet;
use tokio::time::Instant;

use super::Follower;
use super::swaps::Swap;
use crate::acknowledge::Held;
use crate::discovery::{Discovered, Found};
use crate::error::{Error, ErrorKind, Result};
use crate::feed::Feed;
use crate::members::Phase;
use crate::sink::Standing;
use crate::sync::Synced;

/// Older servers stream a partition that is attached later only over a new session, where they had
/// met it before.
const FIRST_TO_NOTICE_PARTITIONS: u32 = 150_000;

impl Follower<'_> {
    /// A table has left the stream. The log from what its index holds is kept until it is back.
    pub(super) fn left(&mut self, place: usize, feed: Option<Feed>, error: &Error) {
        let Some(member) = self.members.get_mut(place) else { return };
        member.no_way_back = None;
        // What is acknowledged is durable, also where nothing of it was for this index.
        let confirmed = self.acknowledgements.confirmed();
        let held = feed.map(|feed| Held {
            is_unlisted: feed.unanswered.is_some(),
            ..Held::of(&*feed.sink, feed.needed().max(confirmed))
        });
        if error.kind() == ErrorKind::TableChanged {
            member.change(error.to_string(), held);
        } else {
            tracing::warn!(%error, table = member.title, "an index left the stream");
            member.stale_since = held.as_ref().map(Held::lsn).or(member.stale_since);
            member.fail(error.to_string(), held, self.pipeline.config.reconnect_max());
        }
        let returning = member.back.as_ref().filter(|back| back.returning.is_some());
        if let Some(uuid) = returning.map(|back| back.sink.uuid().to_owned()) {
            self.end_way_back(place, &uuid, "its table left the stream meanwhile");
        }
        self.members.show(&self.pipeline.board);
    }

    pub(super) fn flush_failed(&mut self, place: usize, uuid: &str, error: &Error) {
        let feed = self.stream.feeds.get(place).and_then(Option::as_ref);
        if feed.is_some_and(|feed| feed.sink.uuid() == uuid) {
            let feed = self.stream.leave(place);
            self.left(place, feed, error);
        }
    }

    /// Asks what there is, beside the stream.
    pub(super) fn begin_to_look(&mut self) {
        self.wants_look = false;
        self.members.look_again = None;
        let now = Instant::now();
        let mut written = FxHashSet::default();
        for (_, member) in self.members.iter_mut() {
            if member.is_written() {
                written.insert(member.name.clone());
            } else if matches!(member.phase, Phase::Stale(due) if due <= now) {
                member.phase = Phase::Judging;
            }
        }
        let joined = self.stream.feeds.iter().flatten().map(|feed| feed.sink.uuid().to_owned());
        let holds = self.members.holds(joined.collect());
        let (discovery, source) = (self.discovery.clone(), self.pipeline.source.clone());
        self.looking.spawn(async move { discovery.look_apart(&source, holds, written).await });
    }

    /// Takes note of what there is. At first, what the pipeline's file says is joined goes on.
    pub(super) async fn discovered(&mut self, found: Discovered, first: bool) -> Result<()> {
        let Discovered { tables, skipped, fingerprints, again } = found;
        let pause = self.pipeline.config.reconnect_max();
        self.members.look_again = again.then(|| Instant::now() + pause);
        self.fingerprints.send_replace(fingerprints);
        for place in self.members.keep(&tables, skipped) {
            self.stream.leave(place);
        }
        for mut found in tables {
            let place = self.members.place_of(&found);
            if self.is_outdated(place, &found) {
                continue;
            }
            self.note_back(place, &mut found, first);
            if let Err(reason) = self.judged(place, found, first).await? {
                self.stream.outstanding.settle_all().await?;
                let feed = self.stream.leave(place);
                self.left(place, feed, &Error::new(ErrorKind::TableChanged, reason));
            }
        }
        self.members.show_all(&self.pipeline.board);
        self.show_state();
        self.begin_to_sync()
    }

    /// Decides how a table goes on. The inner error is why one that is followed must leave the
    /// stream.
    pub(super) async fn judged(
        &mut self,
        place: usize,
        found: Found,
        first: bool,
    ) -> Result<Result<(), String>> {
        let confirmed = self.acknowledgements.confirmed();
        let pause = self.pipeline.config.reconnect_max();
        let forgets = self.discovery.version < FIRST_TO_NOTICE_PARTITIONS;
        let Some(member) = self.members.get_mut(place) else { return Ok(Ok(())) };
        member.table = Arc::clone(&found.table);
        member.returned = found.returned;
        if member.is_joined() {
            if let Some(Some(feed)) = self.stream.feeds.get_mut(place) {
                feed.table = found.table;
            }
            let parts_changed = forgets && member.table.partitioned;
            return Ok(match found.standing {
                Ok(Standing::Copy(reason)) if parts_changed => {
                    let message = format!("the stream is begun anew: [{}]: {reason}", member.title);
                    return Err(Error::new(ErrorKind::Unavailable, message));
                }
                Ok(Standing::Copy(reason) | Standing::Refused(reason)) => Err(reason),
                Ok(Standing::Current { .. }) | Err(_) => Ok(()),
            });
        }
        if !matches!(member.phase, Phase::Judging | Phase::Refused) {
            return Ok(Ok(()));
        }
        match found.standing {
            Ok(Standing::Current { sink, replaces, joined: true }) if first => {
                let counters = self.pipeline.board.counters(&member.title);
                let feed = Feed::new(&found.name, found.table, sink, counters);
                let feed = feed.listed_to(self.stream.position.lsn);
                self.join(Synced { place, feed, replaces }).await?;
            }
            // The log that it needs may have been let go while it was looked at.
            Ok(Standing::Current { sink, replaces, .. })
                if !member.fails_again() && (first || member.held.is_some()) =>
            {
                let floor = member.held.take().map_or(confirmed, |held| held.lsn());
                member.held = Some(Held::of(&*sink, floor));
                member.phase = Phase::Waiting(Some((sink, replaces)));
            }
            Ok(Standing::Current { .. }) => {
                // The reason stays what it failed with.
                (member.held, member.phase) = (None, Phase::Waiting(None));
            }
            Ok(Standing::Copy(reason)) => {
                tracing::info!(table = member.title, reason, "a table is to be copied");
                member.refuse_return(&reason);
                // After a failure the log stays for the attempt that follows at once.
                if !member.has_failed() {
                    member.held = None;
                }
                member.reason = Some(reason);
                member.phase = Phase::Waiting(None);
            }
            Ok(Standing::Refused(reason)) => {
                member.refuse_return(&reason);
                (member.held, member.reason) = (None, Some(reason));
                member.phase = Phase::Refused;
            }
            Err(reason) => {
                let held = member.keep_once();
                member.fail(reason, held, pause);
            }
        }
        Ok(Ok(()))
    }

    /// The stream takes a table over.
    pub(super) async fn join(&mut self, synced: Synced) -> Result<()> {
        let Synced { place, feed, replaces } = synced;
        let Some(member) = self.members.get_mut(place) else { return Ok(()) };
        member.join(replaces);
        if !replaces {
            // One that was to be replaced is followed as before.
            member.back.take_if(|back| back.kept_until_ms.is_none());
        }
        if replaces {
            let keep = Duration::from_millis(self.pipeline.config.keep_replaced_ms);
            let back = member.back.as_ref().filter(|back| back.kept_until_ms.is_none());
            let keep_until_ms = back.and_then(|_| keep_until_ms(keep));
            let (name, sink) = (member.name.clone(), Arc::clone(&feed.sink));
            self.swaps.wait(Swap { place, name, sink, keep_until_ms });
        }
        // Until the pipeline's file says so, a failure would have it brought up once more.
        self.next_acknowledgement = Instant::now();
        self.stream.join(place, feed).await?;
        self.begin_swaps();
        Ok(())
    }

    pub(super) fn swapped(&mut self, place: usize, swapped: Result<()>) {
        let Some(member) = self.members.get_mut(place) else { return };
        match swapped {
            Ok(()) => {
                if matches!(member.phase, Phase::Swapping) {
                    member.phase = Phase::Streaming;
                }
                if let Some(mut back) = member.back.take() {
                    let uuid = back.sink.uuid();
                    back.kept_until_ms = self.pipeline.indexes.kept_until_ms(&member.name, uuid);
                    member.no_way_back = match back.kept_until_ms {
                        Some(_) => None,
                        None => Some("its index was not kept".to_owned()),
                    };
                    member.back = Some(back).filter(|back| back.kept_until_ms.is_some());
                }
                if let Some(reply) = member.returned_reply.take() {
                    // Who asked may be gone.
                    let _ = reply.send(Ok(()));
                }
            }
            Err(error) => {
                let feed = self.stream.leave(place);
                self.left(place, feed, &error);
            }
        }
        self.members.show(&self.pipeline.board);
        self.show_state();
    }
}
