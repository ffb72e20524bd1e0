//! Which part of a document's source a hit returns.

use bytes::Bytes;
use serde_json::{Map, Value};

use super::request::SourceFilter;
use crate::error::{Error, ErrorKind, Result};
use crate::query::matcher::Matcher;

/// A filter that is ready to use.
pub(super) enum PreparedFilter {
    All,
    None,
    Paths { includes: Vec<PathPattern>, excludes: Vec<PathPattern> },
}

/// One pattern of a path.
pub(super) struct PathPattern {
    pattern: String,
    matcher: Matcher,
}

impl PreparedFilter {
    pub(super) fn new(filter: &SourceFilter) -> Self {
        let patterns =
            |patterns: &[String]| patterns.iter().map(|path| PathPattern::new(path)).collect();
        match filter {
            SourceFilter::All => Self::All,
            SourceFilter::None => Self::None,
            SourceFilter::Paths { includes, excludes }
                if includes.is_empty() && excludes.is_empty() =>
            {
                Self::All
            }
            SourceFilter::Paths { includes, excludes } => {
                Self::Paths { includes: patterns(includes), excludes: patterns(excludes) }
            }
        }
    }

    /// What is left of a document: verbatim where nothing is left out.
    pub(super) fn apply(&self, source: &Bytes) -> Result<Option<Bytes>> {
        let (includes, excludes) = match self {
            Self::All => return Ok(Some(source.clone())),
            Self::None => return Ok(None),
            Self::Paths { includes, excludes } => (includes, excludes),
        };
        let document: Map<String, Value> = serde_json::from_slice(source).map_err(|error| {
            Error::new(ErrorKind::Corrupt, "a stored document is not a JSON object")
                .with_source(error)
        })?;
        let kept = filter_object(document, "", includes.is_empty(), includes, excludes);
        let bytes = serde_json::to_vec(&kept.unwrap_or_default()).map_err(|error| {
            Error::new(ErrorKind::Internal, "cannot write a document").with_source(error)
        })?;
        Ok(Some(bytes.into()))
    }
}

impl PathPattern {
    fn new(pattern: &str) -> Self {
        Self { pattern: pattern.to_owned(), matcher: Matcher::wildcard(pattern, false) }
    }

    fn matches(&self, path: &str) -> bool {
        self.matcher.matches(path)
    }

    /// Whether something below an object may match.
    fn may_match_below(&self, path: &str) -> bool {
        let below = format!("{path}.");
        let literal = self.pattern.split('*').next().unwrap_or_default();
        let wild = literal.len() < self.pattern.len();
        literal.starts_with(&below) || wild && below.starts_with(literal)
    }
}

/// Keeps the members that are included, directly or by an object above, and not excluded. `None`
/// where nothing is left of an object that is not included itself.
fn filter_object(
    object: Map<String, Value>,
    parent: &str,
    included: bool,
    includes: &[PathPattern],
    excludes: &[PathPattern],
) -> Option<Map<String, Value>> {
    let mut kept = Map::new();
    for (name, value) in object {
        let path = if parent.is_empty() { name.clone() } else { format!("{parent}.{name}") };
        if excludes.iter().any(|pattern| pattern.matches(&path)) {
            continue;
        }
        let included = included || includes.iter().any(|pattern| pattern.matches(&path));
        let below = includes.iter().any(|pattern| pattern.may_match_below(&path));
        if !included && !below {
            continue;
        }
        if let Some(value) = filter_value(value, &path, included, includes, excludes) {
            kept.insert(name, value);
        }
    }
    (included || !kept.is_empty()).then_some(kept)
}

fn filter_value(
    value: Value,
    path: &str,
    included: bool,
    includes: &[PathPattern],
    excludes: &[PathPattern],
) -> Option<Value> {
    match value {
        Value::Object(object) => {
            filter_object(object, path, included, includes, excludes).map(Value::Object)
        }
        Value::Array(values) => {
            let kept: Vec<Value> = values
                .into_iter()
                .filter_map(|value| filter_value(value, path, included, includes, excludes))
                .collect();
            (included || !kept.is_empty()).then_some(Value::Array(kept))
        }
        scalar => included.then_some(scalar),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_filtered_as_in_elasticsearch() {
        let source = r#"{"a":1,"b":{"c":2,"d":{"e":3}},"list":[{"x":1,"y":2},{"y":3}],"bc":4}"#;
        let check = |includes: &[&str], excludes: &[&str], expected: &str| {
            let owned = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect();
            let filter =
                SourceFilter::Paths { includes: owned(includes), excludes: owned(excludes) };
            let kept = PreparedFilter::new(&filter).apply(&Bytes::from_static(source.as_bytes()));
            let kept = String::from_utf8(kept.unwrap().unwrap().to_vec()).unwrap();
            assert_eq!(kept, expected, "{includes:?} without {excludes:?}");
        };
        check(&[], &[], source);
        check(&["a"], &[], r#"{"a":1}"#);
        check(&["b"], &[], r#"{"b":{"c":2,"d":{"e":3}}}"#);
        check(&["b*"], &[], r#"{"b":{"c":2,"d":{"e":3}},"bc":4}"#);
        check(&["b.c"], &[], r#"{"b":{"c":2}}"#);
        check(&["b.*"], &["b.d"], r#"{"b":{"c":2}}"#);
        check(&["*.e"], &[], r#"{"b":{"d":{"e":3}}}"#);
        check(&["list.x"], &[], r#"{"list":[{"x":1}]}"#);
        check(&[], &["b", "list"], r#"{"a":1,"bc":4}"#);
        check(&[], &["*c"], r#"{"a":1,"b":{"d":{"e":3}},"list":[{"x":1,"y":2},{"y":3}]}"#);
        check(&["nothing"], &[], "{}");
    }
}
