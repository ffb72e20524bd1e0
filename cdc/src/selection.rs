//! Which tables a pipeline follows, and what their indexes are called.

use crate::config::{PipelineConfig, RelatedConfig};
use crate::error::{Error, ErrorKind, Result};

/// One entry of `tables`: a schema and a table, each exact or with stars.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern {
    text: String,
    schema: Part,
    table: Part,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Exact(String),
    Stars(String),
}

/// The patterns of a pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Selection(Vec<Pattern>);

impl Selection {
    /// Reads patterns: `*`, `schema.*`, `schema.table`, `table` of `public`.
    pub(crate) fn parse(texts: &[String]) -> Result<Self> {
        texts.iter().map(|text| Pattern::parse(text)).collect::<Result<_>>().map(Self)
    }

    /// What a pipeline follows: the tables of its patterns, and those that are declared.
    pub(crate) fn of(config: &PipelineConfig) -> Result<Self> {
        let mut patterns = Self::parse(&config.tables)?.0;
        for document in &config.documents {
            patterns.push(Pattern::parse(&document.table)?);
        }
        Ok(Self(patterns))
    }

    /// Those, and the tables that documents are composed from besides.
    pub(crate) fn reading(config: &PipelineConfig) -> Result<Self> {
        let mut patterns = Self::of(config)?.0;
        let related = config.documents.iter().flat_map(|document| &document.related);
        for table in related.flat_map(RelatedConfig::tables) {
            patterns.push(Pattern::parse(table)?);
        }
        Ok(Self(patterns))
    }

    /// Whether any pattern takes this table.
    pub(crate) fn takes(&self, schema: &str, table: &str) -> bool {
        self.0.iter().any(|pattern| pattern.takes(schema, table))
    }

    /// Whether a pattern without stars names this table: then it must be followed, or the reason
    /// be told.
    pub(crate) fn names(&self, schema: &str, table: &str) -> bool {
        self.0.iter().any(|pattern| pattern.is_exact() && pattern.takes(schema, table))
    }

    /// The one table that the only pattern names, where that is without stars.
    pub(crate) fn exact(&self) -> Option<(String, String)> {
        match self.0.as_slice() {
            [Pattern { schema: Part::Exact(schema), table: Part::Exact(table), .. }] => {
                Some((schema.clone(), table.clone()))
            }
            _ => None,
        }
    }

    /// Patterns without stars that take none of these tables.
    pub(crate) fn unmet<'a>(
        &'a self,
        tables: &'a [(String, String)],
    ) -> impl Iterator<Item = &'a str> {
        let met =
            |pattern: &&Pattern| !tables.iter().any(|(schema, table)| pattern.takes(schema, table));
        self.0.iter().filter(|pattern| pattern.is_exact()).filter(met).map(|one| one.text.as_str())
    }
}

impl Pattern {
    fn parse(text: &str) -> Result<Self> {
        let bad = || {
            let message =
                format!("table pattern [{text}] is not *, schema.*, schema.table or table");
            Error::new(ErrorKind::Invalid, message)
        };
        let mut parts = Vec::new();
        let mut rest = text;
        loop {
            let (part, after) = part(rest).ok_or_else(bad)?;
            parts.push(part);
            match after.strip_prefix('.') {
                Some(after) => rest = after,
                None if after.is_empty() => break,
                None => return Err(bad()),
            }
        }
        let any = || Part::Stars("*".to_owned());
        let (schema, table) = match <[Part; 2]>::try_from(parts) {
            Ok([schema, table]) => (schema, table),
            Err(parts) => match <[Part; 1]>::try_from(parts).map_err(|_| bad())? {
                [Part::Stars(star)] if star == "*" => (any(), any()),
                [table] => (Part::Exact("public".to_owned()), table),
            },
        };
        Ok(Self { text: text.to_owned(), schema, table })
    }

    fn takes(&self, schema: &str, table: &str) -> bool {
        self.schema.takes(schema) && self.table.takes(table)
    }

    fn is_exact(&self) -> bool {
        matches!((&self.schema, &self.table), (Part::Exact(_), Part::Exact(_)))
    }
}

impl Part {
    fn takes(&self, name: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == name,
            Self::Stars(pattern) => glob(pattern, name),
        }
    }
}

/// One part of a pattern and what follows it.
fn part(text: &str) -> Option<(Part, &str)> {
    if let Some(quoted) = text.strip_prefix('"') {
        let mut name = String::new();
        let mut rest = quoted;
        loop {
            let (before, after) = rest.split_once('"')?;
            name.push_str(before);
            match after.strip_prefix('"') {
                Some(after) => {
                    name.push('"');
                    rest = after;
                }
                None => return (!name.is_empty()).then_some((Part::Exact(name), after)),
            }
        }
    }
    let end = text.find('.').unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let part = if name.contains('*') { Part::Stars } else { Part::Exact };
    (!name.is_empty() && !name.contains('"')).then(|| (part(name.to_owned()), rest))
}

/// Whether a name has the pattern's pieces in order, from its beginning to its end.
pub(crate) fn glob(pattern: &str, name: &str) -> bool {
    let Some((first, pieces)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let mut pieces = pieces.split('*').peekable();
    while let Some(piece) = pieces.next() {
        if pieces.peek().is_none() {
            return rest.ends_with(piece);
        }
        let Some(at) = rest.find(piece) else { return false };
        rest = rest.get(at + piece.len()..).unwrap_or_default();
    }
    true
}

/// The index that follows a table: its name, with its schema before it unless that is `public`, in
/// lower case and with what no index name may have replaced by underscores.
pub(crate) fn index_name(schema: &str, table: &str) -> String {
    let full = if schema == "public" { table.to_owned() } else { format!("{schema}.{table}") };
    let allowed = |sign: char| {
        let sign = if " \"*\\<>|,/?#:".contains(sign) || sign.is_control() { '_' } else { sign };
        sign.to_lowercase()
    };
    let name: String = full.chars().flat_map(allowed).collect();
    let safe = name.trim_start_matches(['_', '-', '+', '.']);
    if safe.is_empty() { format!("table{name}") } else { safe.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selection(texts: &[&str]) -> Selection {
        let texts: Vec<String> = texts.iter().map(|&text| text.to_owned()).collect();
        Selection::parse(&texts).unwrap()
    }

    #[test]
    fn patterns() {
        let check = |pattern: &str, taken: &[(&str, &str)], left: &[(&str, &str)]| {
            let selection = selection(&[pattern]);
            for (schema, table) in taken {
                assert!(selection.takes(schema, table), "{pattern} {schema}.{table}");
            }
            for (schema, table) in left {
                assert!(!selection.takes(schema, table), "{pattern} {schema}.{table}");
            }
        };
        check("*", &[("public", "a"), ("Other", "b.c")], &[]);
        check("public.*", &[("public", "a")], &[("publico", "a")]);
        check("a", &[("public", "a")], &[("other", "a"), ("public", "A"), ("public", "ab")]);
        check("s.log_*_x", &[("s", "log_1_x"), ("s", "log__x")], &[("s", "log_x"), ("s", "log_1")]);
        check("\"a.b\".\"c\"\"*\"", &[("a.b", "c\"*")], &[("a.b", "c\"x")]);
    }

    #[test]
    fn bad_patterns_are_refused() {
        for bad in ["", ".", "a.", ".a", "a.b.c", "\"a", "\"\"", "\"a\"b", "a\"b"] {
            let error = Selection::parse(&[bad.to_owned()]).unwrap_err();
            assert!(error.to_string().contains(bad), "{error}");
        }
    }

    #[test]
    fn what_is_named_and_missing_is_told() {
        let selection = selection(&["a", "b", "s.*"]);
        assert!(selection.names("public", "a") && !selection.names("s", "x"));
        let tables = [("public".to_owned(), "a".to_owned())];
        assert_eq!(selection.unmet(&tables).collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn index_names() {
        let check = |schema: &str, table: &str, expected: &str| {
            assert_eq!(index_name(schema, table), expected);
        };
        check("public", "packages", "packages");
        check("shop", "Orders", "shop.orders");
        check("public", "a b/c", "a_b_c");
        check("public", "_hidden", "hidden");
        check("public", "___", "table___");
        check("public", "KÄSE", "käse");
    }
}
