//! Elasticsearch's rules for names of indexes, aliases and templates.

use super::model::Catalog;
use crate::error::{Error, ErrorKind, Result};

/// How long a name may be.
const LIMIT_BYTES: usize = 255;

/// Checks the name of a new index.
pub(super) fn check_index(name: &str) -> Result<()> {
    let reason = problem(name)
        .or_else(|| (name.to_lowercase() != name).then(|| "must be lowercase".to_owned()));
    refuse(ErrorKind::InvalidIndexName, "index", name, reason)
}

/// Checks the name of an alias of indexes that are there.
pub(super) fn check_alias(name: &str, catalog: &Catalog) -> Result<()> {
    check_alias_name(name)?;
    let taken = catalog.indexes.contains_key(name);
    let reason = "an index or data stream exists with the same name as the alias";
    refuse(ErrorKind::InvalidAliasName, "alias", name, taken.then(|| reason.to_owned()))
}

/// Checks the name of an alias that no index has yet.
pub(super) fn check_alias_name(name: &str) -> Result<()> {
    let reason =
        if name == "_all" { Some("alias name cannot be [_all]".to_owned()) } else { problem(name) };
    refuse(ErrorKind::InvalidAliasName, "alias", name, reason)
}

/// Checks the name of a template.
pub(super) fn check_template(name: &str) -> Result<()> {
    let reason = if name.is_empty() {
        "must not be empty".to_owned()
    } else if name.contains(' ') {
        "must not contain a space".to_owned()
    } else if name.contains(',') {
        "must not contain a ','".to_owned()
    } else if name.contains('*') {
        "must not contain '*'".to_owned()
    } else if name.contains('#') {
        "must not contain a '#'".to_owned()
    } else if name.starts_with('_') {
        "must not start with '_'".to_owned()
    } else if name.to_lowercase() != name {
        "must be lower cased".to_owned()
    } else if name.len() > LIMIT_BYTES {
        format!("is too long, ({} > {LIMIT_BYTES})", name.len())
    } else {
        return Ok(());
    };
    Err(Error::new(ErrorKind::InvalidArgument, format!("template name [{name}] {reason}")))
}

fn refuse(kind: ErrorKind, what: &str, name: &str, reason: Option<String>) -> Result<()> {
    let Some(reason) = reason else { return Ok(()) };
    let message = format!("Invalid {what} name [{name}], {reason}");
    Err(Error::new(kind, message).with_index(name))
}

/// What is wrong with a name that an index or alias is to have.
fn problem(name: &str) -> Option<String> {
    const FORBIDDEN: [char; 10] = ['\\', '/', '*', '?', '"', '<', '>', '|', ' ', ','];
    Some(if name.is_empty() {
        "must not be empty".to_owned()
    } else if name.contains(FORBIDDEN) {
        "must not contain the following characters ['\\','/','*','?','\"','<','>','|',' ',',']"
            .to_owned()
    } else if name.contains('#') {
        "must not contain '#'".to_owned()
    } else if name.contains(':') {
        "must not contain ':'".to_owned()
    } else if name.starts_with(['_', '-', '+']) {
        "must not start with '_', '-', or '+'".to_owned()
    } else if name.len() > LIMIT_BYTES {
        format!("index name is too long, ({} > {LIMIT_BYTES})", name.len())
    } else if name == "." || name == ".." {
        "must not be '.' or '..'".to_owned()
    } else if name.chars().any(char::is_control) {
        "must not contain control characters".to_owned()
    } else {
        return None;
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_indexes() {
        for good in ["a", "logs-2024.01", "schema.table", "é", ".hidden", "1", &"x".repeat(255)] {
            assert!(check_index(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "A",
            "É",
            "a b",
            "a,b",
            "a*",
            "_a",
            "-a",
            "+a",
            "a/b",
            "..",
            "a:b",
            "a#b",
            "a\0",
            &"x".repeat(256),
        ] {
            let error = check_index(bad).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidIndexName, "{bad}");
        }
    }

    #[test]
    fn names_of_aliases_and_templates() {
        assert!(check_alias_name("Current").is_ok());
        for bad in ["", "_all", "a b", "a*", "-a"] {
            let error = check_alias_name(bad).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidAliasName, "{bad}");
        }
        assert!(check_template("logs@settings").is_ok());
        for bad in ["", "_a", "a*", "A", "a,b", "a b"] {
            assert!(check_template(bad).is_err(), "{bad}");
        }
    }
}
