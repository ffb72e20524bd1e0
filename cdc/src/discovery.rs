//! Finding out what is to be followed: tables by the catalog, their place in the publication, and how
//! each one's index can go on.

use std::sync::Arc;

use rustc_hash::FxHashSet;
use tokio_util::task::TaskTracker;

use crate::access::Access;
use crate::catalog::{self, Fingerprint, Table};
use crate::compound;
use crate::config::PipelineConfig;
use crate::connect::{Control, quote_identifier};
use crate::error::{ErrorKind, Result};
use crate::position::Holds;
use crate::publication;
use crate::selection::Selection;
use crate::shape;
use crate::sink::{Indexes, Standing};
use crate::slot::{self, Server};
use crate::tables::{Skipped, candidates, given_up};

/// How to look.
#[derive(Debug, Clone)]
pub(crate) struct Discovery {
    pub(crate) config: PipelineConfig,
    pub(crate) indexes: Arc<dyn Indexes>,
    pub(crate) control: Arc<Control>,
    pub(crate) server: Server,
    /// The server's version.
    pub(crate) version: u32,
    /// Work that must have ended before the next attempt.
    pub(crate) threads: TaskTracker,
}

/// A table to follow.
#[derive(Clone)]
pub(crate) struct Found {
    /// Its index's name.
    pub(crate) name: String,
    pub(crate) table: Arc<Table>,
    /// How its index can go on.
    pub(crate) standing: Result<Standing, String>,
}

/// What there is.
pub(crate) struct Discovered {
    pub(crate) tables: Vec<Found>,
    pub(crate) skipped: Vec<Skipped>,
    /// By which later changes are noticed.
    pub(crate) fingerprints: Vec<Fingerprint>,
}

impl Discovery {
    /// Looks. Indexes in `written` are being written to, and left as they are.
    pub(crate) async fn look(
        &self,
        holds: Holds,
        written: FxHashSet<String>,
    ) -> Result<Discovered> {
        let control = &self.control;
        let selection = Selection::of(&self.config)?;
        let reading = Selection::reading(&self.config)?;
        let takes = |schema: &str, table: &str| reading.takes(schema, table);
        // Read first: what changes after it is noticed.
        let name = self.config.publication_name();
        let fingerprints = catalog::fingerprints(control, &name, takes).await?;
        let mut tables = catalog::tables(control, takes).await?;
        let documents = &self.config.documents;
        shape::declare(control, &mut tables, documents, self.version).await?;
        compound::assemble(control, &mut tables, &self.config).await?;
        let found = candidates(tables, &selection);
        let mut skipped = found.skipped;
        let mut wanted: Vec<&Table> = found.tables.iter().map(|(_, table)| table).collect();
        let compounds = found.tables.iter().filter_map(|(_, table)| table.compound.as_ref());
        for related in compounds.flat_map(|compound| &compound.related) {
            if wanted.iter().all(|known| known.oid != related.oid) {
                wanted.push(related);
            }
        }
        let owned = self.config.publication.is_none();
        let membership = publication::ensure(control, &name, owned, &wanted, self.version).await?;
        let (mut published, mut kept_out) = (Vec::new(), 0);
        for (index, mut table) in found.tables {
            membership.place(&mut table);
            let table = Arc::new(table);
            let parts = table.parts();
            let absent = parts.iter().find(|part| !membership.members.contains_key(&part.oid));
            let Some(absent) = absent else {
                published.push((index, table));
                continue;
            };
            // A star stands for the tables that the role may publish.
            if table.owned || selection.names(&table.schema, &table.name) {
                let reason = membership.refused.iter().find(|(oid, _)| *oid == absent.oid);
                let reason = reason.map_or("it is not in the publication", |(_, reason)| reason);
                let reason = told_of(&table, absent, reason);
                skipped.push(Skipped { title: table.title(), reason });
            } else {
                kept_out += 1;
            }
        }
        if published.is_empty() && skipped.is_empty() && kept_out > 0 {
            let reason = format!(
                "of the [{kept_out}] tables that it stands for the role owns none, and none is in \
                 publication [{name}] (ALTER PUBLICATION {} ADD TABLE ...)",
                quote_identifier(&name)
            );
            skipped.push(Skipped { title: self.config.tables.join(", "), reason });
        }
        let (flushed, _) = slot::read(control, &self.config.slot_name()).await?;
        let server = Server { flushed, ..self.server.clone() };
        let oids = published.iter().flat_map(|(_, table)| table.parts()).map(|part| part.oid);
        let access = Access::read(control, &oids.collect::<Vec<_>>()).await?;
        let mut tables = self.judge(published, server, holds, written).await?;
        for found in &mut tables {
            let refusal = || found.table.parts().iter().find_map(|part| access.refusal(part));
            // One that is followed is read no more.
            if matches!(found.standing, Ok(Standing::Copy(_)))
                && let Some(reason) = refusal()
            {
                found.standing = Err(reason);
            }
        }
        Ok(Discovered { tables, skipped, fingerprints })
    }

    async fn judge(
        &self,
        published: Vec<(String, Arc<Table>)>,
        server: Server,
        holds: Holds,
        written: FxHashSet<String>,
    ) -> Result<Vec<Found>> {
        let (this, running) = (self.clone(), self.threads.token());
        let judging = tokio::task::spawn_blocking(move || {
            let judge = |(name, table): (String, Arc<Table>)| {
                let resumes = !written.contains(&name);
                let (pipeline, indexes) = (&this.config.name, &this.indexes);
                let standing = indexes.judge(pipeline, &name, &table, &server, &holds, resumes);
                found(name, table, standing)
            };
            let judged = published.into_iter().map(judge).collect();
            drop(running);
            judged
        });
        judging.await.map_err(given_up)?
    }
}

/// What was judged of a table; a refusal is about the server, and so about all tables.
fn found(name: String, table: Arc<Table>, standing: Result<Standing>) -> Result<Found> {
    match standing {
        Err(error) if error.kind() == ErrorKind::Refused => Err(error),
        standing => {
            Ok(Found { name, table, standing: standing.map_err(|error| error.to_string()) })
        }
    }
}

/// Why a table is not followed: for a reason of its own, or of one that it needs.
fn told_of(table: &Table, absent: &Table, reason: &str) -> String {
    if absent.oid == table.oid {
        return reason.to_owned();
    }
    format!("related table [{}]: {reason}", absent.title())
}
