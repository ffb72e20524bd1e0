//! Finding out what is to be followed: tables by the catalog, their place in the publication, and how
//! each one's index can go on.

use std::sync::Arc;

use rustc_hash::FxHashSet;
use tokio_util::task::TaskTracker;

use crate::access::Access;
use crate::catalog::{self, Fingerprint, Table};
use crate::compound;
use crate::config::PipelineConfig;
use crate::connect::{Control, Source, quote_identifier};
use crate::error::{ErrorKind, Result};
use crate::position::Holds;
use crate::progress::Progress;
use crate::publication::{self, Membership};
use crate::selection::Selection;
use crate::shape;
use crate::sink::{Indexes, Standing};
use crate::slot::{self, Server};
use crate::tables::{Skipped, candidates, given_up};
use crate::way_back::{self, Back, Before, Earlier};

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
    /// Whether a later declaration was gone back from.
    pub(crate) returned: Option<Returned>,
    /// What could be gone back to.
    pub(crate) back: Option<Back>,
}

/// That a declaration was gone back from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Returned {
    /// Whether it is another one than the table is followed by.
    pub(crate) differs: bool,
}

/// A table that could be followed, by which descriptions.
struct Candidate {
    index: String,
    table: Table,
    returned: Option<Returned>,
    /// As it is declared now, where a later declaration was gone back from.
    configured: Option<Table>,
    /// As the indexes were made that could be gone back to.
    before: Before,
}

/// What there is.
pub(crate) struct Discovered {
    pub(crate) tables: Vec<Found>,
    pub(crate) skipped: Vec<Skipped>,
    /// By which later changes are noticed.
    pub(crate) fingerprints: Vec<Fingerprint>,
    /// Whether tables were locked, so that it should be looked again.
    pub(crate) again: bool,
}

impl Discovery {
    /// Looks over a connection of its own, so that the stream's questions do not wait behind a statement
    /// that waits for whoever has locked a table. Where the server has none left, it is the stream's.
    pub(crate) async fn look_apart(
        mut self,
        source: &Source,
        holds: Holds,
        written: FxHashSet<String>,
    ) -> Result<Discovered> {
        match source.control().await {
            Ok(own) => self.control = Arc::new(own),
            Err(error) => {
                tracing::warn!(%error, "tables are looked at over the stream's connection");
            }
        }
        let found = self.look(holds, written).await;
        // One that failed may never answer, and is cut off.
        if found.is_ok()
            && let Some(own) = Arc::into_inner(self.control)
        {
            own.end();
        }
        found
    }

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
        let name = self.config.publication_name();
        let owned = self.config.publication.is_none();
        // Read first: what changes after it is noticed.
        let fingerprints = catalog::fingerprints(control, &name, takes).await?;
        let mut tables = self.tables(&name, takes).await?;
        let plain = tables.clone();
        let documents = &self.config.documents;
        shape::declare(control, &mut tables, documents, self.version).await?;
        compound::assemble(control, &mut tables, &self.config).await?;
        let found = candidates(tables, &selection);
        let mut skipped = found.skipped;
        let found = self.with_earlier(&plain, found.tables).await?;
        let mut wanted: Vec<&Table> = found.iter().map(|found| &found.table).collect();
        let compounds = found.iter().filter_map(|found| found.table.compound.as_ref());
        for related in compounds.flat_map(|compound| &compound.related) {
            if wanted.iter().all(|known| known.oid != related.oid) {
                wanted.push(related);
            }
        }
        let membership = publication::ensure(control, &name, owned, &wanted, self.version).await?;
        let (mut published, mut kept_out) = (Vec::new(), 0);
        for mut found in found {
            membership.place(&mut found.table);
            found.configured.iter_mut().for_each(|table| membership.place(table));
            let Before { live, kept } = &mut found.before;
            let earlier = live.iter_mut().chain(kept).flatten();
            earlier.for_each(|table| membership.place(Arc::make_mut(table)));
            let table = &found.table;
            let related = table.compound.iter().flat_map(|compound| &compound.related);
            let mut parts = std::iter::once(table).chain(related.map(|related| &**related));
            let absent = parts.find(|part| !membership.members.contains_key(&part.oid));
            let Some(absent) = absent.filter(|_| membership.locked(table).is_none()) else {
                published.push(found);
                continue;
            };
            // A star stands for the tables that the role may publish.
            if table.owned || selection.names(&table.schema, &table.name) {
                let reason = membership.refused.iter().find(|(oid, _)| *oid == absent.oid);
                let reason = reason.map_or("it is not in the publication", |(_, reason)| reason);
                let reason = told_of(table, absent, reason);
                let (title, index) = (table.title(), Some(found.index));
                skipped.push(Skipped { title, index, reason });
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
            skipped.push(Skipped { title: self.config.tables.join(", "), index: None, reason });
        }
        let (flushed, _) = slot::read(control, &self.config.slot_name()).await?;
        let server = Server { flushed, ..self.server.clone() };
        let mut tables = self.judge(published, server, holds, written).await?;
        self.refuse_copies(&mut tables, &membership).await?;
        let again = !membership.locked.is_empty();
        Ok(Discovered { tables, skipped, fingerprints, again })
    }

    /// The tables as the catalog has them. A publication of an earlier Egret is made to hold generated
    /// columns too, where the server can and any table has such.
    async fn tables(
        &self,
        publication: &str,
        takes: impl Fn(&str, &str) -> bool,
    ) -> Result<Vec<Table>> {
        let control = &self.control;
        let tables = catalog::tables(control, publication, &takes).await?;
        let lacks_columns = tables.iter().any(|table| !table.unpublished.is_empty());
        let may_alter = self.config.publication.is_none() && self.version >= 180_000;
        if may_alter
            && lacks_columns
            && publication::publish_generated(control, publication).await?
        {
            return catalog::tables(control, publication, takes).await;
        }
        Ok(tables)
    }

    /// Finds tables that are to be copied and cannot be read, or published, now. One that is followed is
    /// read no more, and is in the publication already.
    async fn refuse_copies(&self, tables: &mut [Found], membership: &Membership) -> Result<()> {
        let oids = tables.iter().flat_map(|found| found.table.parts()).map(|part| part.oid);
        let access = Access::read(&self.control, &oids.collect::<Vec<_>>()).await?;
        for found in tables {
            let refusal = || found.table.parts().iter().find_map(|part| access.refusal(part));
            let locked = || membership.locked(&found.table).map(str::to_owned);
            if matches!(found.standing, Ok(Standing::Copy(_)))
                && let Some(reason) = locked().or_else(refusal)
            {
                found.standing = Err(reason);
            }
        }
        Ok(())
    }

    /// Takes note of other declarations that tables are or could be followed by. `plain` are all tables
    /// without any.
    async fn with_earlier(
        &self,
        plain: &[Table],
        tables: Vec<(String, Table)>,
    ) -> Result<Vec<Candidate>> {
        let mut candidates = Vec::with_capacity(tables.len());
        for (index, mut table) in tables {
            let Earlier { returned, live, kept } = self.indexes.earlier(&index);
            let plain = plain.iter().find(|plain| plain.oid == table.oid);
            let by = async |declared: &Option<String>| match plain {
                Some(plain) => {
                    let declared = declared.as_deref();
                    way_back::redeclared(&self.control, plain, declared, self.version).await
                }
                None => Ok(Err("it is gone".to_owned())),
            };
            let now = way_back::declared(&table);
            let returned = returned.filter(|(from, _)| *from == now);
            let differs = returned.as_ref().is_some_and(|(_, to)| *to != now);
            let (mut configured, mut is_returned) = (None, returned.is_some());
            if let Some((_, to)) = returned.filter(|_| differs) {
                match by(&to).await? {
                    Ok(older) => configured = Some(std::mem::replace(&mut table, older)),
                    // It is copied as it is declared now.
                    Err(_) => is_returned = false,
                }
            }
            let returned = is_returned.then_some(Returned { differs });
            let followed = async |progress: Option<Progress>| match progress {
                Some(it) if it.declared == way_back::declared(&table) => {
                    Ok(Some(Ok(Arc::new(table.clone()))))
                }
                Some(it) => by(&it.declared).await.map(|told| Some(told.map(Arc::new))),
                None => Ok(None),
            };
            let before = Before { live: followed(live).await?, kept: followed(kept).await? };
            candidates.push(Candidate { index, table, returned, configured, before });
        }
        Ok(candidates)
    }

    async fn judge(
        &self,
        published: Vec<Candidate>,
        server: Server,
        holds: Holds,
        written: FxHashSet<String>,
    ) -> Result<Vec<Found>> {
        let (this, running) = (self.clone(), self.threads.token());
        let judging = tokio::task::spawn_blocking(move || {
            let judge = |candidate: Candidate| this.judge_one(candidate, &server, &holds, &written);
            let judged = published.into_iter().map(judge).collect();
            drop(running);
            judged
        });
        judging.await.map_err(given_up)?
    }

    /// How the index of a table can go on. A refusal is about the server, and so about all tables.
    /// Blocking.
    fn judge_one(
        &self,
        candidate: Candidate,
        server: &Server,
        holds: &Holds,
        written: &FxHashSet<String>,
    ) -> Result<Found> {
        let Candidate { index: name, table, mut returned, configured, before } = candidate;
        let (pipeline, indexes) = (&self.config.name, &self.indexes);
        let resumes = !written.contains(&name);
        let mut table = Arc::new(table);
        let mut standing = indexes.judge(pipeline, &name, &table, server, holds, resumes);
        // What must be copied is copied as it is declared now.
        if let (Ok(Standing::Copy(_)), Some(configured)) = (&standing, configured) {
            (table, returned) = (Arc::new(configured), None);
            standing = indexes.judge(pipeline, &name, &table, server, holds, resumes);
        }
        let standing = match standing {
            Err(error) if error.kind() == ErrorKind::Refused => return Err(error),
            standing => standing.map_err(|error| error.to_string()),
        };
        let back = standing.as_ref().ok();
        let back = back.and_then(|standing| {
            indexes.judge_back(pipeline, &name, &before, server, holds, standing)
        });
        Ok(Found { name, table, standing, returned, back })
    }
}

/// Why a table is not followed: for a reason of its own, or of one that it needs.
fn told_of(table: &Table, absent: &Table, reason: &str) -> String {
    if absent.oid == table.oid {
        return reason.to_owned();
    }
    format!("related table [{}]: {reason}", absent.title())
}
