//! The key of a table as statements compare it: in the order of the index that has it, with the
//! operators that this index sorts by.

use egret_engine::Lsn;

use crate::catalog::Table;
use crate::connect::{Control, quote_identifier, quote_literal};
use crate::error::{Error, ErrorKind, Result};
use crate::slot;

/// Where PostgreSQL's own operators are, which a session finds by themselves.
const BUILT_IN: &str = "pg_catalog";

/// Keys that one statement asks for: of one column by a list, of several one by one.
const MOST_LISTED: usize = 1_000;
const MOST_CHAINED: usize = 100;

/// The values of a key, in the order of its index, as texts.
pub(super) type Key = Vec<String>;

/// The key of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Keys {
    columns: Vec<KeyColumn>,
    /// The place of each of these columns in the table's own key.
    places: Vec<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct KeyColumn {
    /// In quotes.
    name: String,
    /// The schema of its operators.
    schema: String,
}

/// Columns of unique indexes in their order, each with the schema of the operator that is "greater"
/// there. The primary key comes first.
const INDEXES: &str = "
    SELECT i.indexrelid, a.attname::text, n.nspname::text
    FROM pg_catalog.pg_index i
    CROSS JOIN LATERAL ROWS FROM (unnest(i.indkey::int2[]), unnest(i.indclass::oid[]))
      WITH ORDINALITY AS k (attnum, class, place)
    JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
    JOIN pg_catalog.pg_opclass c ON c.oid = k.class
    JOIN pg_catalog.pg_amop m ON m.amopfamily = c.opcfamily AND m.amoplefttype = c.opcintype
      AND m.amoprighttype = c.opcintype AND m.amopstrategy = 5
    JOIN pg_catalog.pg_operator o ON o.oid = m.amopopr
    JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace
    WHERE i.indrelid = $1 AND i.indisunique AND i.indisvalid AND i.indpred IS NULL
      AND i.indexprs IS NULL AND k.place <= i.indnkeyatts
    ORDER BY i.indisprimary DESC, i.indexrelid, k.place";

impl Keys {
    /// Of a table with a key.
    pub(super) async fn read(control: &Control, table: &Table) -> Result<Self> {
        let key = table.key.as_ref().map_err(|reason| {
            Error::new(ErrorKind::TableChanged, format!("table [{}]: {reason}", table.title()))
        })?;
        let mut indexes: Vec<(u32, Vec<(String, String)>)> = Vec::new();
        for row in control.rows("reading keys", INDEXES, &[&table.oid]).await? {
            let oid = row.try_get(0)?;
            if indexes.last().is_none_or(|(known, _)| *known != oid) {
                indexes.push((oid, Vec::new()));
            }
            if let Some((_, columns)) = indexes.last_mut() {
                columns.push((row.try_get(1)?, row.try_get(2)?));
            }
        }
        let same = |columns: &Vec<(String, String)>| {
            columns.len() == key.len() && columns.iter().all(|(name, _)| key.contains(name))
        };
        let found = indexes.into_iter().map(|(_, columns)| columns).find(same);
        // Without its index it is in no order that is quick to read, and still in one.
        let found = found.unwrap_or_else(|| {
            key.iter().map(|name| (name.clone(), BUILT_IN.to_owned())).collect()
        });
        Ok(Self::new(key, &found))
    }

    fn new(key: &[String], columns: &[(String, String)]) -> Self {
        let place = |(name, _): &(String, String)| key.iter().position(|known| known == name);
        let places = columns.iter().filter_map(place).collect();
        let column = |(name, schema): &(String, String)| KeyColumn {
            name: quote_identifier(name),
            schema: schema.clone(),
        };
        Self { columns: columns.iter().map(column).collect(), places }
    }

    /// The columns, separated by commas.
    pub(super) fn list(&self) -> String {
        let names: Vec<&str> = self.columns.iter().map(|column| &*column.name).collect();
        names.join(", ")
    }

    /// How many columns.
    pub(super) fn len(&self) -> usize {
        self.columns.len()
    }

    /// Values in the order of the table's own key, in this order.
    pub(super) fn ordered(&self, parts: &[String]) -> Option<Key> {
        self.places.iter().map(|&place| parts.get(place).cloned()).collect()
    }

    /// Rows past a key.
    pub(super) fn after(&self, key: &[String]) -> String {
        self.beyond(key, ">")
    }

    /// Rows up to a key, which is among them.
    pub(super) fn up_to(&self, key: &[String]) -> String {
        if self.is_built_in() {
            return format!("({}) <= ({})", self.list(), literals(key));
        }
        format!("({} OR ({}))", self.beyond(key, "<"), self.equal(key))
    }

    fn beyond(&self, key: &[String], operator: &str) -> String {
        if self.is_built_in() {
            return format!("({}) {operator} ({})", self.list(), literals(key));
        }
        // The index is found by the first condition; the others are exact.
        let mut ways = Vec::new();
        for at in 0..self.columns.len() {
            let mut conditions: Vec<String> =
                (0..at).filter_map(|before| self.one(before, "=", key)).collect();
            conditions.extend(self.one(at, operator, key));
            ways.push(conditions.join(" AND "));
        }
        let first = self.one(0, &format!("{operator}="), key).unwrap_or_default();
        format!("({first} AND ({}))", ways.join(" OR "))
    }

    fn equal(&self, key: &[String]) -> String {
        let all = (0..self.columns.len()).filter_map(|at| self.one(at, "=", key));
        all.collect::<Vec<_>>().join(" AND ")
    }

    fn one(&self, at: usize, operator: &str, key: &[String]) -> Option<String> {
        let KeyColumn { name, schema } = self.columns.get(at)?;
        let (schema, value) = (quote_identifier(schema), quote_literal(key.get(at)?));
        Some(format!("{name} OPERATOR({schema}.{operator}) {value}"))
    }

    /// How many keys [`Keys::among`] takes.
    pub(super) fn most_among(&self) -> usize {
        if self.is_listed() { MOST_LISTED } else { MOST_CHAINED }
    }

    /// The rows of these keys.
    pub(super) fn among(&self, keys: &[Key]) -> String {
        if self.is_listed() {
            let values = keys.iter().map(|key| literals(key));
            return format!("{} IN ({})", self.list(), values.collect::<Vec<_>>().join(", "));
        }
        let one = |key: &Key| format!("({})", self.equal(key));
        format!("({})", keys.iter().map(one).collect::<Vec<_>>().join(" OR "))
    }

    fn is_listed(&self) -> bool {
        self.columns.len() == 1 && self.is_built_in()
    }

    fn is_built_in(&self) -> bool {
        self.columns.iter().all(|column| column.schema == BUILT_IN)
    }
}

fn literals(key: &[String]) -> String {
    key.iter().map(|value| quote_literal(value)).collect::<Vec<_>>().join(", ")
}

/// Where the log ends now.
pub(super) async fn end_of_log(control: &Control) -> Result<Lsn> {
    const QUERY: &str = "SELECT pg_catalog.pg_current_wal_flush_lsn()::text";
    let row = control.row("asking where the log ends", QUERY, &[]).await?;
    slot::lsn(row.try_get(0)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(key: &[&str], columns: &[(&str, &str)]) -> Keys {
        let key: Vec<String> = key.iter().map(ToString::to_string).collect();
        let column = |&(name, schema): &(&str, &str)| (name.to_owned(), schema.to_owned());
        Keys::new(&key, &columns.iter().map(column).collect::<Vec<_>>())
    }

    fn texts(values: &[&str]) -> Vec<String> {
        values.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn conditions() {
        let one = keys(&["id"], &[("id", "pg_catalog")]);
        assert_eq!(one.after(&texts(&["5"])), r#"("id") > ('5')"#);
        assert_eq!(one.up_to(&texts(&["it's"])), r#"("id") <= ('it''s')"#);
        let two = [texts(&["1"]), texts(&["2"])];
        assert_eq!(one.among(&two), r#""id" IN ('1', '2')"#);

        // The index has them in another order than the declaration.
        let pair = keys(&["b", "a"], &[("a", "pg_catalog"), ("b", "pg_catalog")]);
        let key = pair.ordered(&texts(&["of b", "of a"])).unwrap();
        assert_eq!(pair.after(&key), r#"("a", "b") > ('of a', 'of b')"#);
        let among =
            r#"(("a" OPERATOR("pg_catalog".=) 'of a' AND "b" OPERATOR("pg_catalog".=) 'of b'))"#;
        assert_eq!(pair.among(&[key]), among);
        assert_eq!(pair.ordered(&texts(&["alone"])), None);

        let foreign = keys(&["n", "t"], &[("n", "public"), ("t", "pg_catalog")]);
        let key = texts(&["x", "1"]);
        let after = concat!(
            r#"("n" OPERATOR("public".>=) 'x' AND ("n" OPERATOR("public".>) 'x' OR "#,
            r#""n" OPERATOR("public".=) 'x' AND "t" OPERATOR("pg_catalog".>) '1'))"#
        );
        assert_eq!(foreign.after(&key), after);
        assert!(foreign.up_to(&key).ends_with(
            r#"OR ("n" OPERATOR("public".=) 'x' AND "t" OPERATOR("pg_catalog".=) '1'))"#
        ));
    }
}
