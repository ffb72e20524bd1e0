//! Which indexes an expression names: `a`, `a,b*`, `_all`, `*,-c`, an alias, `<a-{now/d}>`.

use std::collections::{BTreeMap, BTreeSet};

use super::alias::Alias;
use super::date_name;
use super::model::{Catalog, IndexEntry, IndexState};
use super::pattern::matches;
use crate::error::{Error, ErrorKind, Result};

/// How names, patterns and aliases are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of Elasticsearch's API")]
pub struct Expansion {
    /// A name without an index is passed over.
    pub ignore_unavailable: bool,
    /// A pattern may stand for nothing, and so may the whole expression.
    pub allow_no_indices: bool,
    /// Patterns stand for open indexes.
    pub open: bool,
    /// Patterns stand for closed indexes.
    pub closed: bool,
    /// Patterns also stand for hidden indexes and aliases.
    pub hidden: bool,
    /// An alias stands for its indexes; otherwise its name is an error.
    pub aliases: bool,
    /// A closed index that is named is an error, or is passed over with `ignore_unavailable`.
    pub refuse_closed: bool,
}

impl Expansion {
    /// For what needs open indexes: searches, writes, refresh.
    pub const OPEN: Self = Self {
        ignore_unavailable: false,
        allow_no_indices: true,
        open: true,
        closed: false,
        hidden: false,
        aliases: true,
        refuse_closed: true,
    };
    /// For changes of metadata, of closed indexes too; an expression must stand for something.
    pub const OPEN_AND_CLOSED: Self = Self {
        allow_no_indices: false,
        closed: true,
        aliases: false,
        refuse_closed: false,
        ..Self::OPEN
    };
}

/// An index that an expression stands for.
#[derive(Debug, Clone, PartialEq)]
pub struct Named<'a> {
    /// Its name.
    pub name: &'a str,
    /// What the catalog says of it.
    pub entry: &'a IndexEntry,
    /// The aliases that led to it; `None` where it was named itself.
    pub through: Option<Vec<&'a Alias>>,
}

impl Named<'_> {
    /// The filters of which a document must match one; `None` where all are found.
    pub fn filters(&self) -> Option<Vec<&serde_json::Value>> {
        self.through.as_ref()?.iter().map(|alias| alias.filter.as_ref()).collect()
    }
}

/// The indexes that an expression stands for, in the order of their names.
pub fn resolve<'a>(
    catalog: &'a Catalog,
    expression: &str,
    options: Expansion,
) -> Result<Vec<Named<'a>>> {
    let mut found = Found { catalog, options, by: BTreeMap::new() };
    let expression = if expression.is_empty() { "_all" } else { expression };
    let mut seen_pattern = false;
    for part in expression.split(',').filter(|part| !part.is_empty()) {
        if let Some(excluded) = part.strip_prefix('-').filter(|_| seen_pattern) {
            found.exclude(&date_name::resolve(excluded)?);
        } else if part == "_all" || part.contains('*') {
            seen_pattern = true;
            let pattern = if part == "_all" { "*" } else { part };
            if !found.add_pattern(pattern) && !options.allow_no_indices {
                return Err(missing(part));
            }
        } else {
            found.add_name(&date_name::resolve(part)?)?;
        }
    }
    if found.by.is_empty() && !options.allow_no_indices {
        return Err(missing(expression));
    }
    Ok(found.named())
}

/// The names alone.
pub(super) fn concrete(
    catalog: &Catalog,
    expression: &str,
    options: Expansion,
) -> Result<Vec<String>> {
    let named = resolve(catalog, expression, options)?;
    Ok(named.into_iter().map(|named| named.name.to_owned()).collect())
}

/// No index of this name, in Elasticsearch's words. A name that begins with `_` is none that an
/// index could have.
pub fn missing(name: &str) -> Error {
    let (kind, message) = if name.starts_with(['_', '-', '+']) && name != "_all" {
        let reason = "must not start with '_', '-', or '+'";
        (ErrorKind::InvalidIndexName, format!("Invalid index name [{name}], {reason}"))
    } else {
        (ErrorKind::IndexNotFound, format!("no such index [{name}]"))
    };
    Error::new(kind, message).with_index(name)
}

/// A closed index takes no reads or writes.
pub fn closed(name: &str) -> Error {
    Error::new(ErrorKind::IndexClosed, "closed").with_index(name)
}

/// What has been found so far: the names of indexes, and which names led to each (its own or an
/// alias's).
struct Found<'a> {
    catalog: &'a Catalog,
    options: Expansion,
    by: BTreeMap<&'a str, BTreeSet<&'a str>>,
}

impl<'a> Found<'a> {
    /// Adds what fits a pattern; whether anything does.
    fn add_pattern(&mut self, pattern: &str) -> bool {
        let options = self.options;
        let mut any = false;
        for (index, entry) in &self.catalog.indexes {
            let wanted = match entry.state {
                IndexState::Open => options.open,
                IndexState::Closed => options.closed,
            };
            if !wanted {
                continue;
            }
            let shown = |name: &str, hidden: bool| {
                !hidden || options.hidden || (pattern.starts_with('.') && name.starts_with('.'))
            };
            if matches(pattern, index) && shown(index, entry.is_hidden()) {
                any = true;
                self.by.entry(index).or_default().insert(index);
            }
            // Everything is every index that is shown, not what aliases lead to besides.
            let aliases = entry.aliases.iter().filter(|_| options.aliases && pattern != "*");
            let fitting = aliases.filter(|(alias, what)| {
                matches(pattern, alias) && shown(alias, what.is_hidden == Some(true))
            });
            for (alias, _) in fitting {
                any = true;
                self.by.entry(index).or_default().insert(alias);
            }
        }
        any
    }

    fn exclude(&mut self, pattern: &str) {
        let (catalog, aliases) = (self.catalog, self.options.aliases);
        self.by.retain(|index, _| {
            let entry = catalog.indexes.get(*index);
            let mut names = entry.into_iter().flat_map(|entry| entry.aliases.keys());
            let by_alias = aliases && names.any(|alias| matches(pattern, alias));
            !(matches(pattern, index) || by_alias)
        });
    }

    fn add_name(&mut self, name: &str) -> Result<()> {
        let (catalog, options) = (self.catalog, self.options);
        if let Some((index, entry)) = catalog.indexes.get_key_value(name) {
            return self.add_named(index, index, entry.state);
        }
        let mut known = false;
        for (index, entry) in &catalog.indexes {
            let Some((alias, _)) = entry.aliases.get_key_value(name) else { continue };
            known = true;
            if options.aliases {
                self.add_named(index, alias, entry.state)?;
            }
        }
        match known {
            true if options.aliases || options.ignore_unavailable => Ok(()),
            true => Err(Error::new(
                ErrorKind::InvalidArgument,
                format!(
                    "The provided expression [{name}] matches an alias, specify the corresponding \
                     concrete indices instead."
                ),
            )),
            false if options.ignore_unavailable => Ok(()),
            false => Err(missing(name)),
        }
    }

    fn add_named(&mut self, index: &'a str, by: &'a str, state: IndexState) -> Result<()> {
        if state == IndexState::Closed && self.options.refuse_closed {
            return if self.options.ignore_unavailable { Ok(()) } else { Err(closed(index)) };
        }
        self.by.entry(index).or_default().insert(by);
        Ok(())
    }

    fn named(self) -> Vec<Named<'a>> {
        let catalog = self.catalog;
        let named = |(name, by): (&'a str, BTreeSet<&'a str>)| {
            let entry = catalog.indexes.get(name)?;
            let through = (!by.contains(name))
                .then(|| by.iter().filter_map(|alias| entry.aliases.get(*alias)).collect());
            Some(Named { name, entry, through })
        };
        self.by.into_iter().filter_map(named).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// Names with their state, settings and aliases.
    fn catalog() -> Catalog {
        let entry = |state: &str, hidden: bool, aliases: Value| {
            let json = json!({
                "uuid": "u", "pipeline": null, "created_ms": 0, "state": state,
                "settings": {"index": {"hidden": hidden.to_string()}}, "aliases": aliases,
            });
            serde_json::from_value::<IndexEntry>(json).unwrap()
        };
        let red = json!({"filter": {"term": {"color": "red"}}});
        let indexes = [
            ("ant", entry("open", false, json!({"insects": {}, "red": red}))),
            ("bee", entry("open", false, json!({"insects": {}, "secret": {"is_hidden": true}}))),
            ("cat", entry("closed", false, json!({"pets": {}}))),
            (".dog", entry("open", true, json!({"pets": {}}))),
        ];
        let indexes = indexes.into_iter().map(|(name, entry)| (name.to_owned(), entry)).collect();
        Catalog { indexes, ..Catalog::default() }
    }

    fn check(expression: &str, options: Expansion, expected: Result<&str, ErrorKind>) {
        let catalog = catalog();
        let found = resolve(&catalog, expression, options)
            .map(|named| named.iter().map(|named| named.name).collect::<Vec<_>>().join(" "));
        let found = found.map_err(|error| error.kind());
        assert_eq!(found.as_deref().map_err(|kind| *kind), expected, "{expression} {options:?}");
    }

    #[test]
    fn names_patterns_and_aliases() {
        let open = Expansion::OPEN;
        check("", open, Ok("ant bee"));
        check("_all", open, Ok("ant bee"));
        check("*", Expansion { hidden: true, ..open }, Ok(".dog ant bee"));
        check("*", Expansion { closed: true, ..open }, Ok("ant bee cat"));
        check("*", Expansion { open: false, closed: true, ..open }, Ok("cat"));
        check("*", Expansion { open: false, ..open }, Ok(""));
        check(".d*", open, Ok(".dog"));
        check("bee,ant", open, Ok("ant bee"));
        check("insects", open, Ok("ant bee"));
        check("insects,-ant", open, Err(ErrorKind::InvalidIndexName));
        check("i*,-ant", open, Ok("bee"));
        check("*,-insects", open, Ok(""));
        check("*,-red,-x*", open, Ok("bee"));
        check("sec*", open, Ok(""));
        check("secret", open, Ok("bee"));
        check("_x", open, Err(ErrorKind::InvalidIndexName));
    }

    #[test]
    fn what_is_not_there() {
        let open = Expansion::OPEN;
        let ignore = Expansion { ignore_unavailable: true, ..open };
        let strict = Expansion { allow_no_indices: false, ..open };
        check("elk", open, Err(ErrorKind::IndexNotFound));
        check("elk,ant", ignore, Ok("ant"));
        check("elk", ignore, Ok(""));
        check("e*", open, Ok(""));
        check("e*", strict, Err(ErrorKind::IndexNotFound));
        check("ant,e*", strict, Err(ErrorKind::IndexNotFound));
        check(
            "elk",
            Expansion { ignore_unavailable: true, ..strict },
            Err(ErrorKind::IndexNotFound),
        );
        check("cat", open, Err(ErrorKind::IndexClosed));
        check("pets", open, Err(ErrorKind::IndexClosed));
        check("cat,ant", ignore, Ok("ant"));
        check("cat", Expansion { refuse_closed: false, ..open }, Ok("cat"));
        let changes = Expansion::OPEN_AND_CLOSED;
        check("cat,ant", changes, Ok("ant cat"));
        check("insects", changes, Err(ErrorKind::InvalidArgument));
        check("in*", changes, Err(ErrorKind::IndexNotFound));
        let lenient = Expansion { ignore_unavailable: true, allow_no_indices: true, ..changes };
        check("insects", lenient, Ok(""));
    }

    #[test]
    fn filters_hold_unless_another_name_leads_there() {
        let catalog = catalog();
        let filters = |expression: &str| {
            let found = resolve(&catalog, expression, Expansion::OPEN).unwrap();
            let shown =
                found.iter().map(|named| (named.name, named.filters().map(|all| all.len())));
            shown.collect::<Vec<_>>()
        };
        assert_eq!(filters("red"), [("ant", Some(1))]);
        assert_eq!(filters("r*"), [("ant", Some(1))]);
        assert_eq!(filters("red,ant"), [("ant", None)]);
        assert_eq!(filters("red,insects"), [("ant", None), ("bee", None)]);
        assert_eq!(filters("red,bee"), [("ant", Some(1)), ("bee", None)]);
    }
}
