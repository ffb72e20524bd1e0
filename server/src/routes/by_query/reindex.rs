//! `_reindex`: documents of some indexes into another of this server.

use std::sync::Arc;

use axum::extract::State;
use egret_engine::search::request::SourceFilter;
use serde_json::{Map, Value};

use super::driver::{Action, Versions};
use super::options::{self, Options, without};
use super::{SnapshotFields, plan, run};
use crate::app::App;
use crate::dialect::bulk::{VersionType, op_type, version_type};
use crate::dialect::json::{Field, parse_object};
use crate::dialect::search as dialect;
use crate::error::{Error, Result};
use crate::http::{Call, Reply};
use crate::routes::targets::{self, Targets, WriteTo};

pub(in crate::routes) async fn reindex(State(app): State<Arc<App>>, call: Call) -> Result<Reply> {
    call.params.allow(options::PARAMS)?;
    let mut options = Options::read(&call.params)?;
    let body = parse_object(&call.body)?;
    let (mut source, mut dest) = (None, None);
    for (key, value) in &body {
        let field = Field::new("reindex", key, value);
        match key.as_str() {
            "source" => source = Some(read_source(field.object()?, &mut options)?),
            "dest" => dest = Some(read_dest(field.object()?)?),
            _ if options.take(key, value)? => {}
            _ => return Err(Error::content(format!("[reindex] unknown field [{key}]"))),
        }
    }
    options.check()?;
    let missing = |what: &str| Error::validation(format!("{what} is missing"));
    let source = source.ok_or_else(|| missing("source"))?;
    let (dest, versions) = dest.ok_or_else(|| missing("dest"))?;
    let expression = source.indexes.join(",");
    let targets = Targets::searched(&app, &expression, &call.params)?;
    let catalog = app.engine.catalog();
    let written = targets::behind(&catalog, &dest, WriteTo { create: true, require_alias: false })?;
    if targets.indexes.iter().any(|index| index.name() == written) {
        return Err(Error::validation(format!(
            "reindex cannot write into an index its reading from [{dest}]"
        )));
    }
    let snapshots: Vec<_> = targets.indexes.iter().map(|index| index.snapshot()).collect();
    let mut request = dialect::read(&source.search, &SnapshotFields(&snapshots))?;
    if request.source == SourceFilter::None {
        return Err(Error::argument("_source:false is not supported in this context"));
    }
    request.query = targets.restrict(request.query, &snapshots)?;
    let description = format!("reindex from [{expression}] to [{dest}]");
    let plan = plan(targets.indexes, request, Action::Copy { dest, versions }, &options);
    run(app, &call.headers, plan, &options, description).await
}

/// Where the documents come from.
struct Source {
    indexes: Vec<String>,
    /// The query, the order and the part of the source, as of a search.
    search: Map<String, Value>,
}

fn read_source(object: &Map<String, Value>, options: &mut Options) -> Result<Source> {
    let mut indexes = Vec::new();
    for (key, value) in object {
        let field = Field::new("source", key, value);
        match key.as_str() {
            "index" => indexes = field.texts()?,
            "size" => options.set_batch(field.count()?)?,
            "remote" => {
                return Err(Error::argument(
                    "[remote] is not supported: [_reindex] copies within this server",
                ));
            }
            "slice" => return Err(Error::argument("[slice] is not supported, [slices] is")),
            "from" => return Err(Error::argument("from is not supported in this context")),
            "query" | "sort" | "_source" => {}
            other => {
                let token = crate::dialect::json::token(value);
                return Err(Error::parsing(format!("Unknown key for a {token} in [{other}].")));
            }
        }
    }
    if indexes.is_empty() {
        return Err(Error::validation(
            "use _all if you really want to copy from all existing indexes",
        ));
    }
    Ok(Source { indexes, search: without(object, &["index", "size"]) })
}

fn read_dest(object: &Map<String, Value>) -> Result<(String, Versions)> {
    let mut index = None;
    let (mut create, mut kind) = (false, VersionType::Internal);
    for (key, value) in object {
        let field = Field::new("dest", key, value);
        match key.as_str() {
            "index" => index = Some(field.text()?),
            "op_type" => create = op_type(&field)?,
            "version_type" => kind = version_type(&field.text()?)?,
            // One shard has every document, whatever its routing would be.
            "routing" if matches!(value.as_str(), Some("keep" | "discard")) => {}
            "routing" | "pipeline" => {
                return Err(Error::argument(format!("[dest] [{key}] is not supported")));
            }
            _ => return Err(Error::content(format!("[dest] unknown field [{key}]"))),
        }
    }
    let index = index.ok_or_else(|| Error::validation("index must be specified"))?;
    let versions = match (create, kind) {
        (false, VersionType::Internal) => Versions::Replace,
        (true, VersionType::Internal) => Versions::Create,
        (false, VersionType::External) => Versions::External { or_equal: false },
        (false, VersionType::ExternalOrEqual) => Versions::External { or_equal: true },
        (true, _) => {
            return Err(Error::validation(
                "create operations only support internal versioning. use index instead",
            ));
        }
    };
    Ok((index, versions))
}
