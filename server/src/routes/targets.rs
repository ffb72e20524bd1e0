//! Which indexes a path names: `a`, `a,b*`, `_all`, `*,-c`.

use std::sync::Arc;

use egret_engine::{Engine, ErrorKind, Index};

use crate::dialect::source::matches;
use crate::error::{Error, Kind, Result};
use crate::http::Params;

/// Parameters that say what to do about names without an index.
pub(super) const PARAMS: &[&str] = &["ignore_unavailable", "allow_no_indices", "expand_wildcards"];

/// What to do about names without an index.
#[derive(Debug, Clone, Copy)]
pub(super) struct Options {
    pub(super) ignore_unavailable: bool,
    pub(super) allow_no_indices: bool,
    pub(super) wildcards: bool,
}

impl Options {
    pub(super) fn read(params: &Params) -> Result<Self> {
        let mut wildcards = true;
        for name in params.list("expand_wildcards") {
            match name.as_str() {
                "all" | "open" | "hidden" => wildcards = true,
                // No index is ever closed: a pattern for closed ones alone matches nothing.
                "none" | "closed" => wildcards = false,
                _ => {
                    return Err(Error::argument(format!(
                        "No valid expand wildcard value [{name}]"
                    )));
                }
            }
        }
        Ok(Self {
            ignore_unavailable: params.is_true("ignore_unavailable")?,
            allow_no_indices: params.boolean("allow_no_indices")?.unwrap_or(true),
            wildcards,
        })
    }
}

/// The indexes that an expression names, in the order of their names, at most `limit`.
pub(super) fn resolve(
    engine: &Engine,
    expression: &str,
    options: Options,
    limit: usize,
) -> Result<Vec<Arc<Index>>> {
    let mut found: Vec<Arc<Index>> = Vec::new();
    let mut seen_pattern = false;
    for part in expression.split(',').filter(|part| !part.is_empty()) {
        if let Some(pattern) = part.strip_prefix('-').filter(|_| seen_pattern) {
            found.retain(|index| !matches(pattern, index.name()));
        } else if part == "_all" || part.contains('*') {
            seen_pattern = true;
            let pattern = if part == "_all" { "*" } else { part };
            let before = found.len();
            if options.wildcards {
                let indexes = engine.indexes().into_iter();
                found.extend(indexes.filter(|index| shown(pattern, index.name())));
            }
            if found.len() == before && !options.allow_no_indices {
                return Err(missing(part));
            }
        } else {
            match engine.index(part) {
                Ok(index) => found.push(index),
                Err(error)
                    if options.ignore_unavailable && error.kind() == ErrorKind::IndexNotFound => {}
                Err(error) if error.kind() == ErrorKind::IndexNotFound => {
                    return Err(missing(part));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
    found.sort_by(|a, b| a.name().cmp(b.name()));
    found.dedup_by(|a, b| a.name() == b.name());
    if found.len() > limit {
        return Err(Error::argument(format!(
            "[{expression}] names [{}] indexes, more than [search.max_indexes] of [{limit}]",
            found.len()
        )));
    }
    if found.is_empty() && !options.allow_no_indices {
        return Err(missing(expression));
    }
    Ok(found)
}

/// Whether a pattern finds a name: one that begins with a point only if the pattern does too.
fn shown(pattern: &str, name: &str) -> bool {
    matches(pattern, name) && (!name.starts_with('.') || pattern.starts_with('.'))
}

/// No index of this name. A name that begins with `_` is none that an index could have, rather a
/// resource that Egret lacks.
pub(super) fn missing(name: &str) -> Error {
    if name.starts_with('_') {
        let reason = format!("Invalid index name [{name}], must not start with '_', '-', or '+'");
        return Error::new(Kind::Engine(ErrorKind::InvalidIndexName), reason).with_index(name);
    }
    Error::new(Kind::Engine(ErrorKind::IndexNotFound), format!("no such index [{name}]"))
        .with_index(name)
}
