//! Handing changes on to another index, and taking them.

use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::Sender;
use serde_json::Value;

use super::{Writer, tell};
use crate::error::{Error, ErrorKind, Result};
use crate::mapping::Mapping;
use crate::mapping::ignored::Origin;
use crate::position::SeqNo;
use crate::store::builder::guarded;
use crate::store::mirror::{Copied, Handed, Mirror, Mirroring};
use crate::store::plan::{AppliedBatch, Change};
use crate::store::shared::{Message, Shared};
use crate::store::translog::Translog;

impl Writer {
    pub(super) fn handle_mirroring(&mut self, shared: &Arc<Shared>, asked: Mirroring) {
        match asked {
            Mirroring::Attach { mirror, filling, reply } => {
                let result = self.attach(shared, mirror, filling.as_ref());
                tell(&reply, result);
            }
            Mirroring::Detach(reply) => {
                let lost = self.mirror_lost.take();
                let result = match (self.mirror.take(), lost) {
                    (Some(_), None) => Ok(()),
                    (_, lost) => Err(lacking(lost.as_deref())),
                };
                tell(&reply, result);
            }
            Mirroring::Copy(documents, reply) => self.copy(documents, &reply),
            Mirroring::Apply(Handed { changes, bytes, next_seq_no, reply }) => {
                shared.queue.release(bytes);
                let result = self.take_over(shared, &changes, next_seq_no);
                match (reply, result) {
                    (Some(reply), result) => tell(&reply, result),
                    (None, Err(error)) => {
                        tracing::debug!(index = %shared.identity.name, %error, "not mirrored");
                    }
                    (None, Ok(())) => {}
                }
            }
        }
    }

    fn attach(
        &mut self,
        shared: &Arc<Shared>,
        mirror: Mirror,
        filling: Option<&Arc<Mapping>>,
    ) -> Result<()> {
        if let Some(error) = self.refusal() {
            return Err(error);
        }
        if let Some(mapping) = filling {
            if !Arc::ptr_eq(mapping, &self.store.mapping) {
                let message = "the mapping has grown meanwhile";
                return Err(Error::new(ErrorKind::VersionConflict, message));
            }
            self.publish_or_recover(shared)?;
            let deletes = self.store.tombstones.iter().map(|(id, tombstone)| Change::Tombstone {
                id: id.to_owned(),
                tombstone: *tombstone,
            });
            mirror.send(deletes.collect(), self.next_seq_no, None)?;
        }
        (self.mirror, self.mirror_lost) = (Some(mirror), None);
        Ok(())
    }

    /// Hands on documents, in order with the changes of writes: those that are still what they were.
    fn copy(&mut self, documents: Vec<Copied>, reply: &Sender<Result<()>>) {
        let Some(mirror) = &self.mirror else {
            let lost = self.mirror_lost.as_deref();
            return tell(reply, Err(lacking(lost)));
        };
        let unchanged = |Copied { id, source, seq_no }: Copied| -> Result<Option<Change>> {
            let current = self.store.current(&id)?;
            let current = current.filter(|current| current.system.seq_no == seq_no);
            Ok(current.map(|current| Change::Put { id, system: current.system, source }))
        };
        let changes: Result<Vec<Option<Change>>> =
            guarded(|| documents.into_iter().map(unchanged).collect());
        let sent = changes.and_then(|changes| {
            let changes = changes.into_iter().flatten().collect();
            mirror.send(changes, self.next_seq_no, Some(reply.clone()))
        });
        if let Err(error) = sent {
            tell(reply, Err(error));
        }
    }

    /// Hands on what has just become durable in the translog.
    pub(super) fn hand_on(&mut self, shared: &Shared, done: &[&AppliedBatch]) {
        let Some(mirror) = &self.mirror else { return };
        let poisoned = self.log.as_ref().and_then(Translog::poisoned).map(str::to_owned);
        let result = if let Some(why) = poisoned {
            Err(Error::new(ErrorKind::ReadOnly, why))
        } else {
            let changes = done.iter().flat_map(|applied| applied.changes.iter().cloned());
            mirror.hand_on(changes.collect(), self.next_seq_no)
        };
        if let Err(error) = result {
            let index = &shared.identity.name;
            tracing::warn!(%index, %error, "its other folder does not get its changes any more");
            (self.mirror, self.mirror_lost) = (None, Some(error.to_string()));
        }
    }

    /// An addition to the mapping goes to both folders; one that is being filled may refuse it.
    pub(super) fn hand_on_mapping(&self, addition: &Value) -> Result<()> {
        let Some(mirror) = &self.mirror else { return Ok(()) };
        let added = mirror.shared.ask(|reply| Message::PutMapping(addition.clone(), reply));
        match added {
            Err(error) if !mirror.waits => {
                let message = format!("the index is being rebuilt: {}", error.message());
                Err(Error::new(error.kind(), message).with_source(error))
            }
            Err(error) => {
                // The older folder may have another idea of the field; its documents decide.
                tracing::debug!(%error, "the older folder has not got an addition to the mapping");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// The other end: changes under the numbers and versions that they have.
    fn take_over(
        &mut self,
        shared: &Arc<Shared>,
        changes: &[Change],
        next_seq_no: SeqNo,
    ) -> Result<()> {
        if let Some(error) = self.refusal() {
            self.lack(error.message());
            return Err(error);
        }
        self.store.tombstones.keep_for(shared.identity.settings.load().gc_deletes);
        let before = Arc::clone(&self.store.mapping);
        if let Err(error) = guarded(|| self.store.replay(changes.to_vec())) {
            // What was done of them is in no log, and nobody goes on from here.
            self.lack(error.message());
            return Err(error);
        }
        self.next_seq_no = self.next_seq_no.max(next_seq_no);
        let grew = !Arc::ptr_eq(&before, &self.store.mapping);
        if grew {
            shared.view.lock().mapping = Arc::clone(&self.store.mapping);
        }
        if grew {
            self.log_mapping(Origin::Document);
        }
        if let Some(log) = &mut self.log {
            log.append(changes, self.next_seq_no);
            log.commit();
        }
        self.changes += 1;
        self.changed_at = Some(Instant::now());
        self.flushing.note_change();
        self.publishing.note_written();
        self.share.set(self.store.building_bytes());
        self.share.budget().relieve();
        match self.log.as_ref().and_then(Translog::poisoned) {
            Some(why) => Err(Error::new(ErrorKind::ReadOnly, why)),
            None => Ok(()),
        }
    }
}

/// The other folder has not got every change.
fn lacking(why: Option<&str>) -> Error {
    let why = why.unwrap_or("no changes were handed on");
    Error::new(ErrorKind::InvalidArgument, format!("the other folder lacks changes: {why}"))
}
