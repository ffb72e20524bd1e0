//! Declared documents: what the rows of one table become, where that is not simply all columns under
//! their own names with the primary key as `_id`.
//!
//! This file knows what is wrong in a declaration by itself; whether a table can serve it is found
//! out against the catalog, when tables are looked for.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::related::RelatedConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::selection::Selection;

/// The longest row filter, in bytes.
const MAX_FILTER_BYTES: usize = 4096;

/// How one table's rows become documents: `[[pipelines.documents]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DocumentConfig {
    /// The table: `schema.table`, or `table` of `public`; a part in double quotes is taken verbatim.
    pub table: String,
    /// The index; named after the table where not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<String>,
    /// The columns of the unique key that makes the `_id`; the primary key where not given.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub id: Vec<String>,
    /// The columns to take; a star stands for any characters. Those of the key always are.
    pub include: Vec<String>,
    /// Of these, the columns to leave out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// Columns whose fields are named otherwise: `column = "field"`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub rename: BTreeMap<String, String>,
    /// Fields that every document has, with their values.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub constants: Map<String, Value>,
    /// The rows to take, as PostgreSQL's condition of a publication.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// A column that says that its row counts as deleted: true, or of another type and not NULL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub soft_delete: Option<String>,
    /// Settings of the index, in Elasticsearch's format.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub settings: Map<String, Value>,
    /// A mapping of the index, in Elasticsearch's format, laid over what the catalog gives: a field
    /// in `properties` is replaced as a whole.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub mappings: Map<String, Value>,
    /// Rows of other tables that belong to each row.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub related: Vec<RelatedConfig>,
}

impl Default for DocumentConfig {
    fn default() -> Self {
        Self {
            table: String::new(),
            index: None,
            id: Vec::new(),
            include: vec!["*".to_owned()],
            exclude: Vec::new(),
            rename: BTreeMap::new(),
            constants: Map::new(),
            filter: None,
            soft_delete: None,
            settings: Map::new(),
            mappings: Map::new(),
            related: Vec::new(),
        }
    }
}

impl DocumentConfig {
    /// The schema and name of the table.
    pub fn table_name(&self) -> Result<(String, String)> {
        Selection::parse(std::slice::from_ref(&self.table))?
            .exact()
            .ok_or_else(|| self.refuse("must name one table, without stars"))
    }

    /// Refuses what is wrong in itself, with the option's name.
    pub fn validate(&self) -> Result<()> {
        self.table_name()?;
        if self.index.as_ref().is_some_and(String::is_empty) {
            return Err(self.refuse("index is empty"));
        }
        if self.include.is_empty() {
            return Err(self.refuse("include is empty: name columns, or leave it out for all"));
        }
        for (option, columns) in
            [("id", &self.id), ("include", &self.include), ("exclude", &self.exclude)]
        {
            let repeated =
                |(at, name): (usize, &String)| columns.iter().take(at).any(|it| it == name);
            if columns.iter().any(String::is_empty) || columns.iter().enumerate().any(repeated) {
                return Err(self.refuse(&format!("{option} has an empty or repeated column")));
            }
        }
        let mut fields: Vec<&str> = self.rename.values().map(String::as_str).collect();
        fields.extend(self.constants.keys().map(String::as_str));
        fields.sort_unstable();
        if let Some(twice) = fields.windows(2).find(|pair| pair.first() == pair.last()) {
            return Err(self.refuse(&format!("two fields are named {twice:?}")));
        }
        if let Some(bad) = fields.iter().find(|name| name.is_empty() || name.starts_with('_')) {
            return Err(self.refuse(&format!("[{bad}] is no name for a field")));
        }
        if let Some((name, _)) = self.constants.iter().find(|(_, value)| !is_plain(value)) {
            let reason =
                format!("constants: [{name}] is neither text, number, boolean nor a list of them");
            return Err(self.refuse(&reason));
        }
        for name in self.mappings.keys() {
            if name != "properties" && name != "dynamic" && name != "_meta" {
                let reason = format!("mappings: [{name}] is not properties, dynamic or _meta");
                return Err(self.refuse(&reason));
            }
        }
        for related in &self.related {
            related.check().map_err(|reason| self.refuse(&reason))?;
        }
        self.filter.as_deref().map_or(Ok(()), |filter| {
            check_filter(filter)
                .map_err(|reason| self.refuse(&format!("filter [{filter}] {reason}")))
        })
    }

    fn refuse(&self, reason: &str) -> Error {
        Error::new(ErrorKind::Invalid, format!("document of [{}]: {reason}", self.table))
    }
}

/// Refuses two declarations of one table, or into one index.
pub(super) fn validate_all(documents: &[DocumentConfig]) -> Result<()> {
    for (at, document) in documents.iter().enumerate() {
        document.validate()?;
        let table = document.table_name()?;
        for other in documents.iter().take(at) {
            if other.table_name()? == table {
                return Err(document.refuse("the table is declared twice"));
            }
            if other.index.is_some() && other.index == document.index {
                return Err(document.refuse("another declaration has the same index"));
            }
        }
    }
    Ok(())
}

fn is_plain(value: &Value) -> bool {
    match value {
        Value::String(_) | Value::Number(_) | Value::Bool(_) => true,
        Value::Array(values) => values.iter().all(|value| !value.is_array() && is_plain(value)),
        Value::Null | Value::Object(_) => false,
    }
}

/// Whether a text is one expression that stands within parentheses and ends there: what is written
/// in it goes into statements. PostgreSQL says whether it is a condition.
fn check_filter(filter: &str) -> Result<(), &'static str> {
    if filter.trim().is_empty() {
        return Err("is empty");
    }
    if filter.len() > MAX_FILTER_BYTES {
        return Err("is too long");
    }
    // A backslash may or may not escape a quote, as the database is set.
    if filter.contains(['\\', '\0']) {
        return Err("has a backslash, which is not understood here");
    }
    let mut depth = 0_usize;
    let mut signs = filter.chars().peekable();
    while let Some(sign) = signs.next() {
        match sign {
            // Doubled quotes end and begin a text again, which comes to the same.
            '\'' | '"' if !signs.any(|end| end == sign) => {
                return Err("has a quote without an end");
            }
            '(' => depth += 1,
            ')' => depth = depth.checked_sub(1).ok_or("has a parenthesis without a beginning")?,
            ';' | '$' => return Err("has a semicolon or a dollar sign outside of quotes"),
            '-' if signs.peek() == Some(&'-') => return Err("has a comment"),
            '/' if signs.peek() == Some(&'*') => return Err("has a comment"),
            _ => {}
        }
    }
    if depth == 0 { Ok(()) } else { Err("has a parenthesis without an end") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(change: impl FnOnce(&mut DocumentConfig)) -> DocumentConfig {
        let mut document = DocumentConfig { table: "t".to_owned(), ..DocumentConfig::default() };
        change(&mut document);
        document
    }

    #[test]
    fn refuses_what_is_wrong_in_itself() {
        let check = |change: fn(&mut DocumentConfig), expected: &str| {
            let error = document(change).validate().unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(|it| it.table.clear(), "table pattern []");
        check(|it| it.table = "a.*".to_owned(), "without stars");
        check(|it| it.index = Some(String::new()), "index is empty");
        check(|it| it.include.clear(), "include is empty");
        check(|it| it.id = vec!["a".to_owned(), "a".to_owned()], "id has an empty or repeated");
        check(
            |it| {
                it.rename.insert("a".to_owned(), "x".to_owned());
                it.constants.insert("x".to_owned(), Value::from(1));
            },
            "two fields are named",
        );
        check(|it| drop(it.rename.insert("a".to_owned(), "_id".to_owned())), "[_id]");
        check(|it| drop(it.constants.insert("a".to_owned(), Value::Null)), "constants: [a]");
        check(|it| drop(it.mappings.insert("_source".to_owned(), Value::Null)), "[_source]");
        check(|it| it.filter = Some("a > 0)".to_owned()), "filter [a > 0)]");
        document(|_| {}).validate().unwrap();
        let twice = [document(|_| {}), document(|it| it.table = "public.t".to_owned())];
        assert!(validate_all(&twice).unwrap_err().to_string().contains("declared twice"));
    }

    #[test]
    fn filters_are_one_expression() {
        for good in ["a > 0", "(a)", "a = 'it''s; -- $'", "\"A\"\"(\" IS NULL", "a - -1 > 0 / 2"] {
            assert_eq!(check_filter(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            " ",
            "a)",
            "(a",
            "a) OR (b",
            "a; b",
            "a -- b",
            "a /* b",
            "a = 'b",
            "a = $1",
            "a = E'\\'",
            "\"a",
        ] {
            assert!(check_filter(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn reads_what_the_file_says() {
        let text = r#"{"table": "shop.products", "rename": {"descr": "description"},
            "constants": {"shop": "main"}, "filter": "price > 0", "soft_delete": "deleted_at"}"#;
        let read: DocumentConfig = serde_json::from_str(text).unwrap();
        read.validate().unwrap();
        assert_eq!(read.table_name().unwrap(), ("shop".to_owned(), "products".to_owned()));
        assert_eq!(read.include, ["*"]);
        let error = serde_json::from_str::<DocumentConfig>(r#"{"tabel": "x"}"#).unwrap_err();
        assert!(error.to_string().contains("tabel"), "{error}");
    }
}
