//! The publication: which tables the database puts into the stream.
//!
//! It is made before the slot, so that the slot's first position already knows it, and each table
//! is added by a statement of its own, so that one that cannot be added stops no other. A table
//! without a usable replica identity is never added: PostgreSQL would then refuse its updates and
//! deletes to everyone.

mod filtered;

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use self::filtered::Part;
use crate::catalog::Table;
use crate::connect::{Control, quote_identifier};
use crate::error::{Error, ErrorKind, Result};
use crate::storage::is_published;

/// A publication as it is.
#[derive(Debug, Clone)]
struct Publication {
    all_tables: bool,
    via_root: bool,
    complete: bool,
}

/// Which tables are streamed, and why others are not.
#[derive(Debug, Default)]
pub(crate) struct Membership {
    /// OIDs of the tables that are streamed, and their place in the publication: another one after
    /// a table left it and came back, or the publication was altered.
    pub(crate) members: FxHashMap<u32, String>,
    /// OIDs of those that are not, with the reason.
    pub(crate) refused: Vec<(u32, String)>,
    /// OIDs of those whose place cannot be set or checked now, with the server's words: somebody else has
    /// locked them.
    pub(crate) locked: Vec<(u32, String)>,
}

/// Whoever has locked one table has often locked many, so that the others are not waited for as long; but
/// longer than `deadlock_timeout`, after which PostgreSQL has a vacuum of its own give way.
const WAIT_LESS: &str = "
    SELECT pg_catalog.set_config(name, least(setting::int8, 1500)::text, false)
    FROM pg_catalog.pg_settings WHERE name = 'lock_timeout'";
const WAIT_AS_BEFORE: &str = "RESET lock_timeout";

impl Membership {
    /// Takes note of a table whose place cannot be set now, since somebody else has locked it.
    async fn note_locked(&mut self, control: &Control, table: &Table, error: &Error) -> Result<()> {
        if self.locked.is_empty() {
            control.execute("waiting less for locks", WAIT_LESS).await?;
        }
        self.locked.push((table.oid, error.to_string()));
        Ok(())
    }

    /// Why the places of a table, and of those that its documents are composed from, cannot be set now.
    pub(crate) fn locked(&self, table: &Table) -> Option<&str> {
        let related = table.compound.iter().flat_map(|compound| &compound.related);
        let oids: Vec<u32> = related.map(|related| related.oid).chain([table.oid]).collect();
        self.locked.iter().find(|(oid, _)| oids.contains(oid)).map(|(_, reason)| &**reason)
    }

    /// Tells a table, and those that its documents are composed from, their places.
    pub(crate) fn place(&self, table: &mut Table) {
        if let Some(place) = self.members.get(&table.oid) {
            table.membership.clone_from(place);
        }
        let Some(compound) = &mut table.compound else { return };
        for related in &mut Arc::make_mut(compound).related {
            self.place(Arc::make_mut(related));
        }
    }
}

const READ: &str = "
    SELECT puballtables, pubviaroot, pubinsert AND pubupdate AND pubdelete AND pubtruncate
    FROM pg_catalog.pg_publication WHERE pubname = $1";

const MEMBERS: &str = concat!(
    "SELECT c.oid, concat_ws('.', p.oid, p.xmin, r.oid) FROM pg_catalog.pg_publication p
    JOIN pg_catalog.pg_class c ON c.relkind IN ('r', 'p') AND c.relpersistence = 'p'
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_catalog.pg_publication_rel r ON r.prpubid = p.oid AND r.prrelid = c.oid
    WHERE p.pubname = $1 AND (NOT c.relispartition OR r.oid IS NOT NULL) AND n.nspname NOT LIKE 'pg\\_%'
      AND n.nspname <> 'information_schema' AND ",
    is_published!()
);

/// Has a publication that an earlier version made hold stored generated columns too, as PostgreSQL 18 and
/// newer can. Says whether it does now.
pub(crate) async fn publish_generated(control: &Control, name: &str) -> Result<bool> {
    let quoted = quote_identifier(name);
    let alter = format!("ALTER PUBLICATION {quoted} SET (publish_generated_columns = stored)");
    match control.execute("publishing generated columns", &alter).await {
        // Somebody else's: its tables are followed without them.
        Err(error) if error.kind() == ErrorKind::Server => {
            tracing::warn!(%error, "generated columns are left out");
            Ok(false)
        }
        altered => altered.map(|()| true),
    }
}

/// Makes the publication hold `tables`, as far as the role may. One that is the pipeline's own
/// (`owned`) also loses tables that are no longer wanted.
pub(crate) async fn ensure(
    control: &Control,
    name: &str,
    owned: bool,
    tables: &[&Table],
    server_version: u32,
) -> Result<Membership> {
    let quoted = quote_identifier(name);
    let existing = read(control, name).await?;
    if existing.is_none() {
        let generated =
            if server_version >= 180_000 { ", publish_generated_columns = stored" } else { "" };
        let create = format!(
            "CREATE PUBLICATION {quoted} WITH (publish = 'insert, update, delete, truncate', \
             publish_via_partition_root = true{generated})"
        );
        control.execute("creating the publication", &create).await?;
    }
    let publication =
        existing.unwrap_or(Publication { all_tables: false, via_root: true, complete: true });
    if !publication.complete {
        let message = format!(
            "publication [{name}] does not publish all of insert, update, delete and truncate (ALTER \
             PUBLICATION {quoted} SET (publish = 'insert, update, delete, truncate'))"
        );
        return Err(Error::new(ErrorKind::Server, message));
    }
    let members = members(control, name).await?;
    let mut membership = Membership { members, ..Membership::default() };
    if server_version >= 150_000 {
        hold_back(control, name, owned, tables, &mut membership).await?;
    }
    if !publication.all_tables {
        adjust(control, name, owned, tables, &mut membership).await?;
    }
    if !membership.locked.is_empty() {
        control.execute("waiting for locks as before", WAIT_AS_BEFORE).await?;
    }
    for table in tables {
        let reason = if table.partitioned && !publication.via_root {
            "it is partitioned, and the publication lacks publish_via_partition_root"
        } else {
            continue;
        };
        if membership.members.remove(&table.oid).is_some() {
            membership.refused.push((table.oid, reason.to_owned()));
        }
    }
    Ok(membership)
}

/// Has the publication hold back of each table what is declared, and no more.
async fn hold_back(
    control: &Control,
    name: &str,
    owned: bool,
    tables: &[&Table],
    membership: &mut Membership,
) -> Result<()> {
    let parts = filtered::read(control, name).await?;
    let mut put = false;
    for table in tables {
        let (now, wanted) =
            (parts.get(&table.oid).cloned().unwrap_or_default(), Part::wanted(table));
        let is_member = membership.members.contains_key(&table.oid);
        // Which rows a filter takes is not compared here, but when it is put.
        let is_plain = wanted == Part::default();
        if (is_plain && !is_member) || (now == wanted && !wanted.has_filter) {
            continue;
        }
        let refusal = if !table.owned {
            Some(
                "the role does not own it, so that its part of the publication cannot be set"
                    .into(),
            )
        } else if table.shape.is_none() && !owned {
            let reason = "the publication has a row filter or column list for it, which is not \
                          declared as a document's";
            Some(reason.to_owned())
        } else {
            match filtered::put(control, name, table).await {
                Ok(refusal) => refusal,
                Err(error) if error.is_locked() => {
                    membership.note_locked(control, table, &error).await?;
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::Server => Some(error.to_string()),
                Err(error) => return Err(error),
            }
        };
        let Some(reason) = refusal else {
            put = true;
            continue;
        };
        // What cannot be followed must not hinder the table's writers.
        if membership.members.remove(&table.oid).is_some() && table.owned {
            let (name, table) = (quote_identifier(name), table.quoted());
            let drop = format!("ALTER PUBLICATION {name} DROP TABLE ONLY {table}");
            if let Err(error) = control.execute("removing it from the publication", &drop).await {
                tracing::warn!(%error, table, "a table stays in the publication");
            }
        }
        membership.refused.push((table.oid, reason));
    }
    if put {
        membership.members = members(control, name).await?;
        for (oid, _) in &membership.refused {
            membership.members.remove(oid);
        }
    }
    Ok(())
}

/// Adds what is missing and, from a publication of our own, removes what is not wanted.
async fn adjust(
    control: &Control,
    name: &str,
    owned: bool,
    tables: &[&Table],
    membership: &mut Membership,
) -> Result<()> {
    let quoted = quote_identifier(name);
    let mut added = false;
    for table in tables {
        let mut left_out = membership.refused.iter().chain(&membership.locked);
        let is_left_out = left_out.any(|(oid, _)| *oid == table.oid);
        if is_left_out || membership.members.contains_key(&table.oid) {
            continue;
        }
        if !table.owned {
            let reason = format!(
                "the role does not own it, and it is not in the publication (ALTER PUBLICATION {quoted} \
                 ADD TABLE {})",
                table.quoted()
            );
            membership.refused.push((table.oid, reason));
            continue;
        }
        let add = format!("ALTER PUBLICATION {quoted} ADD TABLE ONLY {}", table.quoted());
        match control.execute("adding it to the publication", &add).await {
            Ok(()) => added = true,
            Err(error) if error.is_locked() => {
                membership.note_locked(control, table, &error).await?;
            }
            Err(error) if error.kind() == ErrorKind::Server => {
                membership.refused.push((table.oid, error.to_string()));
            }
            Err(error) => return Err(error),
        }
    }
    if added {
        membership.members = members(control, name).await?;
    }
    let wanted: FxHashSet<u32> = tables.iter().map(|table| table.oid).collect();
    let unwanted: Vec<u32> =
        membership.members.keys().filter(|oid| !wanted.contains(oid)).copied().collect();
    for oid in unwanted {
        if owned {
            let name = "SELECT $1::oid::regclass::text";
            let row = control.row("naming a table", name, &[&oid]).await?;
            let drop = format!(
                "ALTER PUBLICATION {quoted} DROP TABLE ONLY {}",
                row.try_get::<_, String>(0)?
            );
            // A table that cannot be removed is merely streamed in vain.
            if let Err(error) = control.execute("removing it from the publication", &drop).await {
                tracing::warn!(%error, oid, "a table stays in the publication");
            }
        }
        membership.members.remove(&oid);
    }
    Ok(())
}

async fn read(control: &Control, name: &str) -> Result<Option<Publication>> {
    let rows = control.rows("reading the publication", READ, &[&name]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    Ok(Some(Publication {
        all_tables: row.try_get(0)?,
        via_root: row.try_get(1)?,
        complete: row.try_get(2)?,
    }))
}

async fn members(control: &Control, name: &str) -> Result<FxHashMap<u32, String>> {
    let rows = control.rows("reading the publication's tables", MEMBERS, &[&name]).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}
