//! The replication slot: what the server says of it, and whether the pipeline can go on from it.

use std::time::Duration;

use egret_engine::{Checkpoint, Lsn};
use tokio_postgres::error::SqlState;

use crate::connect::Control;
use crate::error::{Error, ErrorKind, Result};
use crate::history::History;
use crate::position::Position;

/// Attempts to drop a slot that a session which is just ending still holds, and the pause between.
const DROP_ATTEMPTS: u32 = 50;
const DROP_PAUSE: Duration = Duration::from_millis(100);

/// A slot as the server has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Slot {
    /// Whether a session holds it.
    pub(crate) active: bool,
    /// What decodes for it.
    pub(crate) plugin: Option<String>,
    /// The database that it belongs to.
    pub(crate) database: Option<String>,
    /// Everything before here was acknowledged, and is no longer sent.
    pub(crate) confirmed: Option<Lsn>,
    /// Whether the log that it needs is still there.
    pub(crate) wal_status: Option<String>,
    /// Bytes of log that it makes the server keep.
    pub(crate) retained_bytes: Option<u64>,
    /// Whether standbys are to have it too, from PostgreSQL 17 on.
    pub(crate) failover: bool,
    /// Whether it came to this server while that was a standby.
    pub(crate) synced: bool,
}

/// The server that answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    /// Its cluster.
    pub(crate) system_identifier: u64,
    /// Its timeline.
    pub(crate) timeline: u32,
    /// The end of its durable log.
    pub(crate) flushed: Lsn,
    /// What its timeline comes from.
    pub(crate) history: History,
}

impl Server {
    /// Whether its log has everything up to a position.
    pub(crate) fn has(&self, at: Checkpoint) -> bool {
        at.system_identifier == self.system_identifier
            && at.lsn <= self.flushed
            && (at.timeline == self.timeline || self.history.has(at))
    }

    /// Refuses a server whose log ends before a position in the same history, which is `whose`: it was
    /// put back to an earlier state.
    pub(crate) fn check_reaches(&self, at: Checkpoint, whose: &str) -> Result<()> {
        let Checkpoint { system_identifier, timeline, lsn } = at;
        let same = (system_identifier, timeline) == (self.system_identifier, self.timeline);
        if !same || lsn <= self.flushed {
            return Ok(());
        }
        let message = format!(
            "the database's log ends at [{}], before the position [{lsn}] of {whose}: a restored \
             backup",
            self.flushed
        );
        Err(Error::new(ErrorKind::Refused, message))
    }
}

/// How to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Copy the tables: nothing was followed yet.
    First,
    /// Go on from what the pipeline's file says.
    Continue,
}

const READ: &str = "
    SELECT pg_catalog.pg_current_wal_flush_lsn()::text, s.active, s.plugin::text, s.database::text,
           s.confirmed_flush_lsn::text, s.wal_status,
           pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_flush_lsn(), s.restart_lsn)::int8,
           coalesce((pg_catalog.to_jsonb(s) ->> 'failover')::bool, false),
           coalesce((pg_catalog.to_jsonb(s) ->> 'synced')::bool, false)
    FROM (SELECT 1) AS one LEFT JOIN pg_catalog.pg_replication_slots s ON s.slot_name = $1";

/// The end of the server's durable log, and the slot, where there is one.
pub(crate) async fn read(control: &Control, name: &str) -> Result<(Lsn, Option<Slot>)> {
    let row = control.row("reading the slot", READ, &[&name]).await?;
    let flushed = lsn(row.try_get(0)?)?;
    let Some(active) = row.try_get(1)? else { return Ok((flushed, None)) };
    let retained: Option<i64> = row.try_get(6)?;
    let confirmed: Option<&str> = row.try_get(4)?;
    let slot = Slot {
        active,
        plugin: row.try_get(2)?,
        database: row.try_get(3)?,
        confirmed: confirmed.map(lsn).transpose()?,
        wal_status: row.try_get(5)?,
        retained_bytes: retained.map(|bytes| u64::try_from(bytes).unwrap_or(0)),
        failover: row.try_get(7)?,
        synced: row.try_get(8)?,
    };
    Ok((flushed, Some(slot)))
}

/// Drops a slot, where there is one, waiting a little for a session of ours that is just ending.
pub(crate) async fn drop_slot(control: &Control, name: &str) -> Result<()> {
    const DROP: &str = "
        SELECT pg_catalog.pg_drop_replication_slot(slot_name)
        FROM pg_catalog.pg_replication_slots WHERE slot_name = $1";
    for attempt in 1.. {
        let dropped = control.client().execute(DROP, &[&name]).await;
        let Err(error) = dropped else { return Ok(()) };
        match error.code() {
            Some(&SqlState::UNDEFINED_OBJECT) => return Ok(()),
            Some(&SqlState::OBJECT_IN_USE) if attempt < DROP_ATTEMPTS => {
                tokio::time::sleep(DROP_PAUSE).await;
            }
            _ => return Err(Error::from(error).context(format!("dropping slot [{name}]"))),
        }
    }
    Ok(())
}

/// Decides from the pipeline's file, the server and the slot how to go on. Refuses by name what
/// could skip or mix changes.
pub(crate) fn judge(
    file: Option<&Position>,
    server: &Server,
    slot: Option<&Slot>,
    name: &str,
    database: &str,
) -> Result<Verdict> {
    let refused = |message: String| Err(Error::new(ErrorKind::Refused, message));
    let lost = |message: String| Err(Error::new(ErrorKind::ChangesLost, message));
    if let Some(slot) = slot {
        let plugin = slot.plugin.as_deref().unwrap_or("none, a physical slot");
        if plugin != "pgoutput" {
            return refused(format!("slot [{name}] decodes with [{plugin}], not with pgoutput"));
        }
        if slot.database.as_deref() != Some(database) {
            let other = slot.database.as_deref().unwrap_or_default();
            return refused(format!(
                "slot [{name}] belongs to database [{other}], not [{database}]"
            ));
        }
    }
    let Some(file) = file else { return Ok(Verdict::First) };
    if file.system_identifier != server.system_identifier {
        return refused(format!(
            "the database's system identifier is [{}], and the pipeline followed [{}]: another \
             cluster",
            server.system_identifier, file.system_identifier
        ));
    }
    if file.timeline != server.timeline {
        goes_on_from(file, server, slot, name)?;
    }
    let Position { system_identifier, lsn, .. } = *file;
    // Of another timeline it was found to have everything.
    let at = Checkpoint { system_identifier, timeline: server.timeline, lsn };
    server.check_reaches(at, "the pipeline")?;
    if file.slot != name {
        return lost(format!("the pipeline followed slot [{}], and now has [{name}]", file.slot));
    }
    let Some(slot) = slot else {
        return lost(format!("slot [{name}] is gone"));
    };
    if slot.wal_status.as_deref() == Some("lost") {
        return lost(format!("the database removed log that slot [{name}] needs"));
    }
    match slot.confirmed {
        Some(confirmed) if confirmed > file.lsn => lost(format!(
            "slot [{name}] was confirmed up to [{confirmed}], past the pipeline's position [{}]",
            file.lsn
        )),
        Some(_) => Ok(Verdict::Continue),
        None => lost(format!("slot [{name}] has no position")),
    }
}

/// Whether a server on another timeline than the pipeline followed is its older one's standby, which
/// was promoted, has all that the pipeline has, and its slot from before it was promoted.
fn goes_on_from(file: &Position, server: &Server, slot: Option<&Slot>, name: &str) -> Result<()> {
    let (now, before) = (server.timeline, file.timeline);
    let moved =
        format!("the database is on timeline [{now}], and the pipeline followed [{before}]");
    let Some(end) = server.history.end_of(before) else {
        let message = format!("{moved}, which it does not come from: a restored backup");
        return Err(Error::new(ErrorKind::Refused, message));
    };
    if !slot.is_some_and(|slot| slot.synced) {
        let message = format!(
            "{moved}: a promoted replica or a restored backup, to which slot [{name}] was not \
             synchronized (failover_slot, with sync_replication_slots on the standby). To follow it \
             with new copies of the tables, drop the pipeline and declare it anew"
        );
        return Err(Error::new(ErrorKind::Refused, message));
    }
    if file.streamed() > end {
        let message = format!(
            "{moved}, which was left at [{end}], before the pipeline's position [{}]: the standby had \
             not yet what was followed (synchronized_standby_slots on its primary prevents that)",
            file.streamed()
        );
        return Err(Error::new(ErrorKind::ChangesLost, message));
    }
    Ok(())
}

/// An LSN as the server writes it.
pub(crate) fn lsn(text: &str) -> Result<Lsn> {
    text.parse().map_err(|error: egret_engine::position::InvalidLsn| {
        Error::new(ErrorKind::Protocol, error.to_string())
    })
}

#[cfg(test)]
mod tests {
    use egret_engine::Checkpoint;

    use super::*;
    use crate::position::Holds;

    fn server(timeline: u32, history: &str) -> Server {
        let history = History::parse(history.as_bytes()).unwrap();
        Server { system_identifier: 7, timeline, flushed: Lsn(100), history }
    }

    fn file(system_identifier: u64, timeline: u32, lsn: u64) -> Position {
        let at = Checkpoint { system_identifier, timeline, lsn: Lsn(lsn) };
        Position::new("s", at, Lsn(lsn), Holds::default())
    }

    fn slot(confirmed: u64, wal_status: &str) -> Slot {
        Slot {
            plugin: Some("pgoutput".to_owned()),
            database: Some("d".to_owned()),
            confirmed: Some(Lsn(confirmed)),
            wal_status: Some(wal_status.to_owned()),
            ..Slot::default()
        }
    }

    #[test]
    fn goes_on_only_where_nothing_is_lost() {
        let good = slot(90, "reserved");
        let judge = |file: Option<Position>, slot: Option<&Slot>| {
            judge(file.as_ref(), &server(1, ""), slot, "s", "d")
        };
        assert_eq!(judge(None, None).unwrap(), Verdict::First);
        assert_eq!(judge(None, Some(&good)).unwrap(), Verdict::First);
        for lsn in [90, 95, 100] {
            let verdict = judge(Some(file(7, 1, lsn)), Some(&good)).unwrap();
            assert_eq!(verdict, Verdict::Continue);
        }

        let check = |file: Position, slot: Option<&Slot>, kind: ErrorKind, expected: &str| {
            let error = judge(Some(file), slot).unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.to_string().contains(expected), "{error}");
        };
        let (lost, refused) = (ErrorKind::ChangesLost, ErrorKind::Refused);
        check(file(7, 1, 90), None, lost, "is gone");
        check(file(7, 1, 89), Some(&good), lost, "past the pipeline's position");
        check(file(7, 1, 95), Some(&slot(90, "lost")), lost, "removed log");
        check(file(8, 1, 95), Some(&good), refused, "another cluster");
        check(file(7, 2, 95), Some(&good), refused, "timeline");
        check(file(7, 1, 101), Some(&good), refused, "restored backup");
        let physical = Slot { plugin: None, ..good.clone() };
        check(file(7, 1, 95), Some(&physical), refused, "physical");
        let elsewhere = Slot { database: Some("other".to_owned()), ..good.clone() };
        check(file(7, 1, 95), Some(&elsewhere), refused, "database [other]");
    }

    #[test]
    fn a_promoted_standby_goes_on_only_where_it_has_everything() {
        let synced = |confirmed| Slot { synced: true, ..slot(confirmed, "reserved") };
        let judge = |file: &Position, history: &str, slot: &Slot| {
            judge(Some(file), &server(3, history), Some(slot), "s", "d")
        };
        // Of the position 90 everything up to 92 is in the joined indexes.
        let holds = Holds::default();
        let at = |timeline| Checkpoint { system_identifier: 7, timeline, lsn: Lsn(90) };
        let file = |timeline| Position::new("s", at(timeline), Lsn(92), holds.clone());
        let history = "1\t0/5C\tx\n2\t0/5F\tx\n";
        for (timeline, confirmed) in [(1, 80), (1, 90), (2, 90)] {
            let verdict = judge(&file(timeline), history, &synced(confirmed)).unwrap();
            assert_eq!(verdict, Verdict::Continue);
        }
        let check = |history: &str, slot: &Slot, kind: ErrorKind, expected: &str| {
            let error = judge(&file(1), history, slot).unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.to_string().contains(expected), "{error}");
        };
        let (lost, refused) = (ErrorKind::ChangesLost, ErrorKind::Refused);
        // It left the timeline at 91: from there on the log is another.
        check("1\t0/5B\tx\n", &synced(90), lost, "left at [0/5B]");
        check(history, &synced(91), lost, "past the pipeline's position");
        check(history, &slot(90, "reserved"), refused, "was not synchronized");
        check("2\t0/5F\tx\n", &synced(90), refused, "does not come from");
        let server = server(3, history);
        assert!(server.has(at(1)) && server.has(at(3)) && !server.has(at(4)));
        assert!(!server.has(Checkpoint { lsn: Lsn(93), ..at(1) }));
    }
}
