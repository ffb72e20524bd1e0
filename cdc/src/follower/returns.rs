//! Ways back: which indexes from before are kept, what ends that, and how one takes its place again.

use std::sync::Arc;

use egret_aof::failpoint;
use egret_engine::Lsn;
use tokio::sync::oneshot;

use super::Follower;
use crate::acknowledge::Held;
use crate::discovery::{Found, Returned};
use crate::error::{Error, ErrorKind, Result};
use crate::feed::Feed;
use crate::members::{Member, Phase};
use crate::progress::ReturnedFrom;
use crate::sink::Standing;
use crate::sync::{Synced, Task};
use crate::tables::given_up;
use crate::way_back::{Returning, WayBack, declared};

/// What the database's log is allowed to hold for ways back is at most this part of what the slot is.
const PART_OF_RETAINED: u64 = 2;

impl Follower<'_> {
    /// Whether what was found of a table was found before another declaration began to count for it.
    pub(super) fn is_outdated(&mut self, place: usize, found: &Found) -> bool {
        let Some(member) = self.members.get_mut(place) else { return false };
        let is_current = matches!(found.standing, Ok(Standing::Current { .. }) | Err(_));
        let outdated =
            member.is_joined() && is_current && declared(&member.table) != declared(&found.table);
        self.wants_look |= outdated;
        outdated
    }

    /// Takes note of what a table could go back to. At first, what the pipeline's file says is held has
    /// its log from there on.
    pub(super) fn note_back(&mut self, place: usize, found: &mut Found, first: bool) {
        let confirmed = self.acknowledgements.confirmed();
        let keeps = self.pipeline.config.keep_replaced_ms > 0;
        let must_copy = matches!(found.standing, Ok(Standing::Copy(_)));
        let Some(back) = found.back.take() else { return };
        if let Some(uuid) = &back.ends {
            let reason = back.judged.as_ref().err().map_or("another copy begins", |reason| reason);
            self.end_way_back(place, uuid, reason);
        }
        let Some(member) = self.members.get_mut(place) else { return };
        let leaves = must_copy && member.is_joined();
        let is_known = member.back.as_ref().is_some_and(|known| known.sink.uuid() == back.uuid);
        let (sink, table) = match back.judged {
            Ok(judged) => judged,
            Err(reason) if back.is_kept => return self.end_way_back(place, &back.uuid, &reason),
            Err(reason) => {
                member.back.take_if(|_| is_known);
                // Once it leaves the stream, the first reason stands: later it has missed changes.
                if is_known || leaves || member.no_way_back.is_none() {
                    member.no_way_back = Some(reason);
                }
                return;
            }
        };
        if let Some(known) = member.back.as_mut().filter(|_| is_known) {
            if known.returning.is_none() {
                known.table = table;
            }
            return;
        }
        // It was found before another copy began, or what was not answered is not known of it.
        if member.back.is_some() || (member.has_failed() && !back.is_kept) {
            return;
        }
        let is_it = |held: &&Held| held.uuid.as_ref() == Some(&back.uuid) && !held.is_unlisted;
        let held = member.held.as_ref().filter(is_it);
        let floor = held.map(Held::lsn).or_else(|| first.then_some(confirmed));
        let Some(floor) = floor else {
            if back.is_kept {
                self.end_way_back(place, &back.uuid, "it has missed changes");
            }
            return;
        };
        let kept_until_ms = self.pipeline.indexes.kept_until_ms(&member.name, &back.uuid);
        if kept_until_ms.is_none() && !(keeps && self.is_without_letters(place)) {
            return;
        }
        let Some(member) = self.members.get_mut(place) else { return };
        member.back = Some(WayBack { kept_until_ms, ..WayBack::new(sink, table, floor) });
        member.no_way_back = None;
    }

    /// A copy clears what is listed, which could not be told of the older index any more.
    fn is_without_letters(&mut self, place: usize) -> bool {
        let Some(member) = self.members.get_mut(place) else { return false };
        let without = !self.letters.letters.lock().has_any_of(&member.name);
        if !without {
            member.no_way_back = Some("rows of it were dead letters when it was copied".to_owned());
        }
        without
    }

    /// The index that a table leaves the stream with is what it can go back to, once it is copied.
    pub(super) fn keep_back(&mut self, place: usize, feed: &Feed) {
        if let Some(member) = self.members.get_mut(place) {
            member.no_way_back = None;
        }
        let keeps = self.pipeline.config.keep_replaced_ms > 0 && self.is_without_letters(place);
        let Some(member) = self.members.get_mut(place) else { return };
        let (sink, table) = (Arc::clone(&feed.sink), Arc::clone(&member.table));
        let floor = feed.needed().max(self.acknowledgements.confirmed());
        member.back = keeps.then(|| WayBack::new(sink, table, floor));
    }

    /// There is no way back to this index any more, and why.
    pub(super) fn end_way_back(&mut self, place: usize, uuid: &str, reason: &str) {
        let Some(member) = self.members.get_mut(place) else { return };
        tracing::warn!(table = member.title, reason, "there is no way back from its copy any more");
        let back = member.back.take_if(|back| back.sink.uuid() == uuid);
        member.no_way_back = Some(reason.to_owned());
        let name = member.name.clone();
        if let Some(Returning { number, reply }) = back.and_then(|back| back.returning) {
            // Dropping it ends it.
            self.syncs.retain(|(known, _)| *known != number);
            let message = format!("[{name}] cannot go back: {reason}");
            // Who asked may be gone.
            let _ = reply.send(Err(Error::new(ErrorKind::Conflict, message)));
        }
        let (indexes, uuid) = (Arc::clone(&self.pipeline.indexes), uuid.to_owned());
        let running = self.pipeline.threads.token();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = indexes.drop_kept(&name, &uuid) {
                tracing::warn!(index = name, %error, "a kept index is not removed");
            }
            drop(running);
        });
        self.members.show(&self.pipeline.board);
    }

    /// Ends ways back whose time is over, or for which the database keeps too much log.
    pub(super) fn look_at_ways_back(&mut self) {
        let now_ms = jiff::Timestamp::now().as_millisecond();
        let config = &self.pipeline.config;
        let limit = config.max_copy_wal_bytes.min(config.max_retained_wal_bytes / PART_OF_RETAINED);
        let mut ended = Vec::new();
        for (place, member) in self.members.iter_mut() {
            let Some(back) = &member.back else { continue };
            let uuid = back.sink.uuid();
            let kept_bytes = self.acknowledgements.kept_for(std::slice::from_ref(&back.held));
            if kept_bytes > limit {
                let reason = format!(
                    "the database keeps {kept_bytes} bytes of log for it, more than the [{limit}] \
                     that max_copy_wal_bytes and max_retained_wal_bytes leave"
                );
                ended.push((place, uuid.to_owned(), reason));
            } else if let Some(until_ms) = back.kept_until_ms
                && back.returning.is_none()
                && (until_ms <= now_ms
                    || self.pipeline.indexes.kept_until_ms(&member.name, uuid).is_none())
            {
                ended.push((place, uuid.to_owned(), "its time is over".to_owned()));
            }
        }
        for (place, uuid, reason) in ended {
            self.end_way_back(place, &uuid, &reason);
        }
    }

    /// Begins to go back: the index from before is brought to where the stream is, which goes on
    /// writing to the newer one.
    pub(super) fn roll_back(
        &mut self,
        index: &str,
        reply: oneshot::Sender<Result<()>>,
    ) -> Result<()> {
        let number = self.free_number();
        match self.ready_to_return(index, number) {
            Ok((number, task)) => {
                if let Some(member) = self.members.get_mut(task.place)
                    && let Some(back) = &mut member.back
                {
                    let from = ReturnedFrom { declared: declared(&member.table) };
                    let task = Task { returns: Some(from), ..task };
                    back.returning = Some(Returning { number, reply });
                    self.start_sync(number, vec![task])?;
                }
            }
            // Who asked may be gone.
            Err(error) => drop(reply.send(Err(error))),
        }
        Ok(())
    }

    fn ready_to_return(&mut self, index: &str, number: Option<usize>) -> Result<(usize, Task)> {
        let named = self.members.iter_mut().find(|(_, member)| member.name == index);
        let Some((place, member)) = named else {
            let message = format!("index [{index}] is not followed by this pipeline");
            return Err(Error::new(ErrorKind::NotFound, message));
        };
        let conflict = |message: String| Error::new(ErrorKind::Conflict, message);
        let Some(back) = member.back.as_ref().filter(|back| back.kept_until_ms.is_some()) else {
            let reason = member.no_way_back.as_deref().map(|reason| format!(": {reason}"));
            let reason = reason.unwrap_or_default();
            let message = format!("no index is kept from before a copy of [{index}]{reason}");
            return Err(conflict(message));
        };
        if back.returning.is_some() {
            return Err(conflict(format!("[{index}] is being gone back with already")));
        }
        if !matches!(member.phase, Phase::Streaming) {
            return Err(conflict(format!("[{index}] is not followed now: try again later")));
        }
        let number = number.ok_or_else(|| {
            conflict("tables are being brought to the stream: try again later".to_owned())
        })?;
        let task = Task {
            place,
            name: member.name.clone(),
            table: Arc::clone(&back.table),
            sink: Some((Arc::clone(&back.sink), true)),
            floor: back.held.lsn(),
            returns: None,
        };
        Ok((number, task))
    }

    /// The place whose index the synchronization of this number goes back to.
    pub(super) fn returning(&mut self, number: usize) -> Option<(usize, &mut Member)> {
        let is_it = |back: &WayBack| back.returning.as_ref().is_some_and(|it| it.number == number);
        self.members.iter_mut().find(|(_, member)| member.back.as_ref().is_some_and(is_it))
    }

    /// Ends going back by the synchronization of this number, if it does that, and the way with it: what
    /// the older index was given last is not known.
    pub(super) fn end_return(&mut self, number: usize, reason: &str) -> bool {
        let returning = self.returning(number);
        let known = returning.and_then(|(place, member)| {
            Some((place, member.back.as_ref()?.sink.uuid().to_owned()))
        });
        let Some((place, uuid)) = known else { return false };
        self.end_way_back(place, &uuid, reason);
        true
    }

    /// It did not come to that; the way stays open. Nothing is written to the older index any more.
    pub(super) fn return_failed(&mut self, number: usize, error: Error) {
        let Some((_, member)) = self.returning(number) else { return };
        tracing::warn!(%error, table = member.title, "its index did not go back");
        let returning = member.back.as_mut().and_then(|back| back.returning.take());
        if let Some(Returning { reply, .. }) = returning {
            let _ = reply.send(Err(error.context("going back")));
        }
    }

    /// The older index is as far as the stream is, and takes the newer one's place.
    pub(super) async fn take_back(&mut self, number: usize, synced: Synced) -> Result<()> {
        let place = synced.place;
        let Some((_, member)) = self.returning(number) else { return Ok(()) };
        let (name, uuid) = (member.name.clone(), synced.feed.sink.uuid().to_owned());
        let indexes = Arc::clone(&self.pipeline.indexes);
        // From here on a restart goes on with it.
        failpoint::reach("return-ready");
        let taking = tokio::task::spawn_blocking(move || indexes.take_back(&name, &uuid));
        if let Err(error) = taking.await.map_err(given_up)? {
            self.return_failed(number, error);
            return Ok(());
        }
        failpoint::reach("return-taken");
        let Some((_, member)) = self.returning(number) else { return Ok(()) };
        let Some(back) = member.back.take() else { return Ok(()) };
        let differs = declared(&member.table) != declared(&back.table);
        member.returned = Some(Returned { differs });
        let index = member.name.clone();
        member.table = Arc::clone(&back.table);
        member.returned_reply = back.returning.map(|returning| returning.reply);
        self.stream.leave(place);
        // They are about the newer index: every row fits into this one.
        let position = Lsn(self.stream.position.lsn.0.saturating_add(1));
        self.letters.work(|letters| letters.clear(&index, None, position))?;
        let feed = Feed { returns: false, table: back.table, ..synced.feed };
        self.join(Synced { place, feed, replaces: true }).await?;
        self.wants_look = true;
        Ok(())
    }
}
