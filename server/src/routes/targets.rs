//! Which indexes a request names, as the catalog resolves it, and what may be done to them.

use std::borrow::Cow;
use std::sync::Arc;

use egret_engine::catalog::resolve::{self, Expansion};
use egret_engine::catalog::{Catalog, IndexEntry, date_name};
use egret_engine::query::ast::{Bool, Query, Scalar};
use egret_engine::store::settings::{Blocks, IndexSettings};
use egret_engine::{Engine, ErrorKind, Index, IndexDefinition, Snapshot};
use serde_json::Value;

use super::search::SnapshotFields;
use crate::app::App;
use crate::dialect::query::QueryReader;
use crate::error::{Error, Kind, Result};
use crate::http::Params;

/// Parameters that say how names and patterns are taken.
pub(super) const PARAMS: &[&str] = &["ignore_unavailable", "allow_no_indices", "expand_wildcards"];

/// For shows of metadata: closed indexes too where they are named.
pub(super) const METADATA: Expansion = Expansion { refuse_closed: false, ..Expansion::OPEN };

/// How a request takes names and patterns, where it does not say so as `defaults` does.
pub(super) fn expansion(params: &Params, defaults: Expansion) -> Result<Expansion> {
    let mut options = defaults;
    if let Some(ignore) = params.boolean("ignore_unavailable")? {
        options.ignore_unavailable = ignore;
    }
    if let Some(allow) = params.boolean("allow_no_indices")? {
        options.allow_no_indices = allow;
    }
    let wanted = params.list("expand_wildcards");
    if !wanted.is_empty() {
        (options.open, options.closed, options.hidden) = (false, false, false);
    }
    for name in wanted {
        match name.as_str() {
            "open" => options.open = true,
            "closed" => options.closed = true,
            "hidden" => options.hidden = true,
            "all" => (options.open, options.closed, options.hidden) = (true, true, true),
            "none" => (options.open, options.closed, options.hidden) = (false, false, false),
            _ => return Err(Error::argument(format!("No valid expand wildcard value [{name}]"))),
        }
    }
    Ok(options)
}

/// The indexes that a request's expression names, with the filters of the aliases that led to them.
pub(super) struct Targets {
    /// The indexes by name.
    pub(super) indexes: Vec<Arc<Index>>,
    /// For each index: the filters of which a document must match one.
    filters: Vec<Option<Vec<Value>>>,
}

impl Targets {
    /// The open indexes that an expression names, to be searched.
    pub(super) fn searched(app: &App, expression: &str, params: &Params) -> Result<Self> {
        let targets = Self::open(app, expression, params)?;
        for index in &targets.indexes {
            refuse_blocked(index.name(), index.blocks(), Access::Read)?;
        }
        Ok(targets)
    }

    /// The open indexes that an expression names.
    pub(super) fn open(app: &App, expression: &str, params: &Params) -> Result<Self> {
        let catalog = app.engine.catalog();
        let options = expansion(params, Expansion::OPEN)?;
        let (mut indexes, mut filters) = (Vec::new(), Vec::new());
        for named in limited(app, &catalog, expression, options)? {
            if is_passed_over(app, expression, named.name, named.entry) {
                continue;
            }
            match app.engine.index(named.name) {
                Ok(index) => indexes.push(index),
                // Closed or deleted since the catalog was taken.
                Err(error) if options.ignore_unavailable && is_unavailable(error.kind()) => {
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
            let own = named.filters();
            filters.push(own.map(|own| own.into_iter().cloned().collect()));
        }
        Ok(Self { indexes, filters })
    }

    /// The query that finds only what the aliases show. The filters go into the request, so the
    /// result cache cannot confuse its answers with those of other names.
    pub(super) fn restrict(&self, query: Query, snapshots: &[Arc<Snapshot>]) -> Result<Query> {
        if self.filters.iter().all(Option::is_none) {
            return Ok(query);
        }
        let mut alternatives = Vec::with_capacity(snapshots.len());
        for (snapshot, filters) in snapshots.iter().zip(&self.filters) {
            let mut all = vec![index_is(snapshot.index_name())];
            if let Some(filters) = filters {
                all.push(any_of(filters, snapshot)?);
            }
            alternatives.push(Query::Bool(Bool { filter: all, ..nothing() }));
        }
        // Where all indexes are under the same filter, it alone says so.
        let mut alike = alternatives.iter().filter_map(|alternative| match alternative {
            Query::Bool(group) => group.filter.get(1),
            _ => None,
        });
        let filter = match alike.next() {
            Some(first)
                if self.filters.iter().all(Option::is_some) && alike.all(|it| it == first) =>
            {
                first.clone()
            }
            _ => Query::Bool(Bool { should: alternatives, ..nothing() }),
        };
        Ok(Query::Bool(Bool { must: vec![query], filter: vec![filter], ..nothing() }))
    }
}

fn is_unavailable(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::IndexClosed | ErrorKind::IndexNotFound)
}

fn nothing() -> Bool {
    crate::dialect::query::empty_bool()
}

fn index_is(name: &str) -> Query {
    let value = Scalar::Text(name.to_owned());
    Query::Term { field: "_index".to_owned(), value, case_insensitive: false, boost: 1.0 }
}

fn any_of(filters: &[Value], snapshot: &Arc<Snapshot>) -> Result<Query> {
    let fields = SnapshotFields(std::slice::from_ref(snapshot));
    let mut reader = QueryReader::new(&fields);
    let mut queries =
        filters.iter().map(|filter| reader.query(filter)).collect::<Result<Vec<_>>>()?;
    match queries.pop() {
        Some(only) if queries.is_empty() => Ok(only),
        Some(last) => {
            queries.push(last);
            Ok(Query::Bool(Bool { should: queries, ..nothing() }))
        }
        None => Ok(Query::MatchNone),
    }
}

fn limited<'a>(
    app: &App,
    catalog: &'a Catalog,
    expression: &str,
    options: Expansion,
) -> Result<Vec<resolve::Named<'a>>> {
    let found = resolve::resolve(catalog, expression, options)?;
    let limit = app.config.search.max_indexes;
    if found.len() > limit {
        return Err(Error::argument(format!(
            "[{expression}] names [{}] indexes, more than [search.max_indexes] of [{limit}]",
            found.len()
        )));
    }
    Ok(found)
}

/// The open indexes that an expression names, filtered or not.
pub(super) fn open(app: &App, expression: &str, params: &Params) -> Result<Vec<Arc<Index>>> {
    Ok(Targets::open(app, expression, params)?.indexes)
}

/// The indexes that an expression names, open or closed, as the catalog has them.
pub(super) fn entries(
    app: &App,
    expression: &str,
    params: &Params,
    defaults: Expansion,
) -> Result<Vec<(String, IndexEntry)>> {
    let catalog = app.engine.catalog();
    let found = limited(app, &catalog, expression, expansion(params, defaults)?)?;
    Ok(found.into_iter().map(|named| (named.name.to_owned(), named.entry.clone())).collect())
}

/// As [`entries`], to be read: an index whose metadata is blocked is refused.
pub(super) fn shown(
    app: &App,
    expression: &str,
    params: &Params,
) -> Result<Vec<(String, IndexEntry)>> {
    let mut entries = entries(app, expression, params, METADATA)?;
    entries.retain(|(name, entry)| !is_passed_over(app, expression, name, entry));
    for (name, entry) in &entries {
        refuse_blocked(name, blocks(entry), Access::ReadMetadata)?;
    }
    Ok(entries)
}

/// Whether only a pattern leads to an index, and it could not be opened: it keeps no others from answering.
/// Who names it is told, and so is who asks for the cluster's health.
fn is_passed_over(app: &App, expression: &str, name: &str, entry: &IndexEntry) -> bool {
    let mut parts = expression.split(',');
    !parts.any(|part| part == name || entry.aliases.contains_key(part))
        && app
            .engine
            .index(name)
            .is_err_and(|error| matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Unavailable))
}

/// As [`entries`], to be changed: an index whose metadata is blocked is refused.
pub(super) fn changed(
    app: &App,
    expression: &str,
    params: &Params,
    defaults: Expansion,
) -> Result<Vec<(String, IndexEntry)>> {
    let entries = entries(app, expression, params, defaults)?;
    for (name, entry) in &entries {
        refuse_blocked(name, blocks(entry), Access::WriteMetadata)?;
    }
    Ok(entries)
}

/// What the settings of an index, open or closed, forbid.
pub(super) fn blocks(entry: &IndexEntry) -> Blocks {
    IndexSettings::from_json(&entry.settings).map(|settings| settings.blocks).unwrap_or_default()
}

/// What a client wants of an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
    ReadMetadata,
    WriteMetadata,
    Delete,
}

/// Refuses what the settings of an index forbid.
pub(super) fn refuse_blocked(name: &str, blocks: Blocks, access: Access) -> Result<()> {
    use Access::{Delete, Read, ReadMetadata, Write, WriteMetadata};
    let all = [
        (blocks.read_only, &[Write, WriteMetadata, Delete][..], "5/index read-only (api)"),
        (blocks.read, &[Read], "7/index read (api)"),
        (blocks.write, &[Write], "8/index write (api)"),
        (blocks.metadata, &[ReadMetadata, WriteMetadata, Delete], "9/index metadata (api)"),
        (
            blocks.read_only_allow_delete,
            &[Write, WriteMetadata],
            "12/index read-only / allow delete (api)",
        ),
    ];
    let hit: Vec<String> = all
        .iter()
        .filter(|(set, forbidden, _)| *set && forbidden.contains(&access))
        .map(|(_, _, text)| format!("[FORBIDDEN/{text}];"))
        .collect();
    if hit.is_empty() {
        return Ok(());
    }
    let reason = format!("index [{name}] blocked by: {}", hit.join(""));
    Err(Error::new(Kind::Engine(ErrorKind::Forbidden), reason).with_index(name))
}

/// The one index that a name stands for, for reads by id.
pub(super) fn single(app: &App, name: &str) -> Result<Arc<Index>> {
    let catalog = app.engine.catalog();
    let name = &date_name::resolve(name)?;
    let index = catalog.single_index(name)?.ok_or_else(|| resolve::missing(name))?;
    let index = app.engine.index(index)?;
    refuse_blocked(index.name(), index.blocks(), Access::Read)?;
    Ok(index)
}

/// How a name to write to is taken.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct WriteTo {
    /// Where there is no such index, it is made.
    pub(super) create: bool,
    /// The name must be an alias's.
    pub(super) require_alias: bool,
}

/// The name of the index that writes to a name go to, which may have to be made.
pub(super) fn behind<'a>(catalog: &'a Catalog, name: &'a str, to: WriteTo) -> Result<Cow<'a, str>> {
    let name = date_name::resolve(name)?;
    if to.require_alias && !catalog.has_alias(&name) {
        let reason = format!(
            "no such index [{name}] and [require_alias] request flag is [true] and [{name}] is not \
             an alias"
        );
        return Err(Error::new(Kind::Engine(ErrorKind::IndexNotFound), reason).with_index(&*name));
    }
    match catalog.write_index(&name)? {
        Some(index) => Ok(Cow::Borrowed(index)),
        None if to.create => Ok(name),
        None => Err(resolve::missing(&name).into()),
    }
}

/// The index that writes to a name go to; a followed index takes none. Blocking.
pub(super) fn written(engine: &Engine, name: &str, to: WriteTo) -> Result<Arc<Index>> {
    let catalog = engine.catalog();
    let name = &*behind(&catalog, name, to)?;
    let index = match engine.index(name) {
        Err(error) if error.kind() == ErrorKind::IndexNotFound && to.create => {
            match engine.create_index(name, IndexDefinition::default()) {
                // Another request was faster.
                Err(error) if error.kind() == ErrorKind::IndexAlreadyExists => {
                    engine.index(name)?
                }
                made => made?,
            }
        }
        found => found?,
    };
    refuse_followed(&index)?;
    refuse_blocked(index.name(), index.blocks(), Access::Write)?;
    Ok(index)
}

/// Refuses writes to an index whose documents come from a database.
fn refuse_followed(index: &Index) -> Result<()> {
    match index.pipeline() {
        None => Ok(()),
        Some(pipeline) => Err(Error::new(
            Kind::Engine(ErrorKind::Forbidden),
            format!(
                "index [{}] follows pipeline [{pipeline}] and takes its documents from PostgreSQL \
                 alone: change the table instead",
                index.name()
            ),
        )
        .with_index(index.name())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_expand_as_the_request_says() {
        let check = |query: &str, expected: (bool, bool, bool)| {
            let params = Params::read("/", query).unwrap();
            let found = expansion(&params, Expansion::OPEN).unwrap();
            assert_eq!((found.open, found.closed, found.hidden), expected, "{query}");
        };
        check("", (true, false, false));
        check("expand_wildcards=closed", (false, true, false));
        check("expand_wildcards=open,hidden", (true, false, true));
        check("expand_wildcards=all", (true, true, true));
        check("expand_wildcards=none", (false, false, false));
        let params = Params::read("/", "expand_wildcards=some").unwrap();
        assert!(expansion(&params, Expansion::OPEN).is_err());
    }

    #[test]
    fn blocks_forbid_what_they_name() {
        let check = |blocks: Blocks, access, expected: &str| {
            let refused = refuse_blocked("i", blocks, access);
            let reason = refused.err().map(|error| error.reason().to_owned()).unwrap_or_default();
            assert_eq!(reason, expected);
        };
        let write = Blocks { write: true, ..Blocks::default() };
        check(write, Access::Write, "index [i] blocked by: [FORBIDDEN/8/index write (api)];");
        check(write, Access::Read, "");
        let both = Blocks { read_only: true, ..write };
        let expected = "index [i] blocked by: [FORBIDDEN/5/index read-only (api)];\
                        [FORBIDDEN/8/index write (api)];";
        check(both, Access::Write, expected);
        let full = Blocks { read_only_allow_delete: true, ..Blocks::default() };
        check(full, Access::Delete, "");
    }
}
