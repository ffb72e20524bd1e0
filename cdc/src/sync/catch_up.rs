//! Reading the log beside the stream, until that takes the tables over.

use std::sync::Arc;

use futures_util::FutureExt;

use super::{News, Telling};
use crate::acknowledge::acknowledgeable;
use crate::error::{Error, ErrorKind, Result};
use crate::feed::Feed;
use crate::stream::Stream;
use crate::tables::given_up;

/// Events after which indexes are told how far the log was read, even while it never pauses.
const EVENTS_BETWEEN_LOOKS: u32 = 256;

/// Reads the log into the indexes, and says how far it is, until asked to stop.
pub(super) async fn follow(
    stream: &mut Stream,
    places: &[(usize, bool)],
    telling: &Telling,
) -> Result<()> {
    let mut since_look = 0;
    loop {
        let ready = stream.client.recv().now_or_never();
        since_look += 1;
        let is_between = stream.is_between_transactions();
        if ready.is_none() || (is_between && since_look >= EVENTS_BETWEEN_LOOKS) {
            // Only a look between transactions tells how far the log was read: pauses within them,
            // of which a busy log has many, do not put that off.
            if is_between {
                since_look = 0;
            }
            look(stream, places, telling).await?;
        }
        let event = if let Some(event) = ready {
            event?
        } else {
            tokio::select! {
                biased;
                () = telling.stop.cancelled() => break,
                event = stream.client.recv() => event?,
            }
        };
        if telling.stop.is_cancelled() {
            // What was just received comes again on the stream.
            break;
        }
        let Some(event) = event else {
            return Err(Error::new(ErrorKind::Unavailable, "the server ended the stream"));
        };
        stream.handle(event).await?;
    }
    stream.outstanding.settle_all().await?;
    tell_failures(stream, places, telling).await;
    Ok(())
}

/// Takes answers, tells indexes how far the log was read, and says so to the stream where it could
/// take over. Batches without an answer are no obstacle: they are few, and waited for. Under a load
/// that an index can just bear there are always some.
async fn look(stream: &mut Stream, places: &[(usize, bool)], telling: &Telling) -> Result<()> {
    stream.advance_all();
    stream.outstanding.settle_ready()?;
    let position = stream.position.lsn;
    for (at, (place, _)) in places.iter().enumerate() {
        let awaits = |feed: &Feed| feed.truncation.as_ref().map(|truncation| truncation.before);
        let before = stream.feeds.get(at).and_then(Option::as_ref).and_then(awaits);
        if before.is_some_and(|before| position >= before) && stream.is_between_transactions() {
            stream.leave(at);
            let message = "the table was rewritten while it was copied";
            let error = Error::new(ErrorKind::TableChanged, message);
            telling.tell(News::Failed { place: *place, error }).await;
        }
    }
    flush_ended(stream).await?;
    tell_failures(stream, places, telling).await;
    tell_synced(stream, telling);
    let awaits = |feed: &Feed| feed.truncation.is_some() || position < feed.unlisted.end;
    let awaits = stream.feeds.iter().flatten().any(awaits);
    if stream.is_between_transactions() && !awaits {
        telling.reached.send_replace(Some(position));
        // Wakes a stream that has nothing to do; one that has looks by itself.
        let _ = telling.news.try_send((telling.number, News::Caught));
    }
    Ok(())
}

/// Says from where on the log is needed, should the synchronization fail. It stays where it is once a
/// table has failed, also in its copy, which may need all of that.
fn tell_synced(stream: &Stream, telling: &Telling) {
    let feeds = stream.feeds.iter().flatten();
    if feeds.clone().count() < telling.tables {
        return;
    }
    let positions = feeds.map(|feed| (feed.submitted, feed.durable()));
    telling.synced.send_modify(|synced| {
        let oldest = stream.outstanding.oldest();
        *synced = acknowledgeable(*synced, stream.position.lsn, oldest, positions);
    });
}

/// Makes durable what the log ended a copy with, before its table may count as followed.
async fn flush_ended(stream: &mut Stream) -> Result<()> {
    for place in 0..stream.feeds.len() {
        let feed = stream.feeds.get_mut(place).and_then(Option::as_mut);
        let Some(feed) = feed.filter(|feed| feed.ended_unflushed) else { continue };
        feed.ended_unflushed = false;
        let sink = Arc::clone(&feed.sink);
        let flushed = tokio::task::spawn_blocking(move || sink.flush()).await.map_err(given_up)?;
        if let Err(error) = flushed {
            stream.fail(place, error.into());
        }
    }
    Ok(())
}

async fn tell_failures(stream: &mut Stream, places: &[(usize, bool)], telling: &Telling) {
    for (at, _, error) in stream.take_failures() {
        if let Some((place, _)) = places.get(at) {
            telling.tell(News::Failed { place: *place, error }).await;
        }
    }
}
