//! Whether the role may read what is to be copied, asked before a copy makes slots and snapshots for
//! it; and what to type where it may not.

use rustc_hash::FxHashMap;
use tokio_postgres::Row;

use crate::catalog::Table;
use crate::connect::{Control, quote_identifier};
use crate::error::Result;
use crate::storage::partitions;

/// Of each table, and of each partition that holds rows of one: whether the role may look into its
/// schema, may read all of it, which columns it may not read, and whether a policy hides rows from it.
/// What it may do everything with is left out.
const ACCESS: &str = concat!(
    "SELECT * FROM (
        SELECT r.oid AS root, n.nspname::text, c.relname::text,
               pg_catalog.has_schema_privilege(n.oid, 'USAGE') AS may_look,
               pg_catalog.has_table_privilege(c.oid, 'SELECT') AS may_read,
               pg_catalog.row_security_active(c.oid) AS hides,
               ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a
                     WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                       AND NOT pg_catalog.has_column_privilege(c.oid, a.attnum, 'SELECT')) AS hidden
        FROM unnest($1::oid[]) AS r (oid)
        CROSS JOIN LATERAL (
            SELECT r.oid AS relid UNION ALL ",
    partitions!("r.oid"),
    ") AS t
        JOIN pg_catalog.pg_class c ON c.oid = t.relid
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE c.oid = r.oid OR c.relkind = 'r') AS found
    WHERE NOT (may_look AND may_read) OR hides
    ORDER BY 1, 2, 3"
);

/// What the role may not do with a relation.
#[derive(Debug)]
struct Relation {
    schema: String,
    name: String,
    may_look: bool,
    may_read: bool,
    hides: bool,
    hidden: Vec<String>,
}

/// What the role may not read.
#[derive(Debug, Default)]
pub(crate) struct Access {
    by_table: FxHashMap<u32, Vec<Relation>>,
    /// The role.
    role: String,
}

impl Access {
    /// Asks for these tables.
    pub(crate) async fn read(control: &Control, oids: &[u32]) -> Result<Self> {
        let mut by_table: FxHashMap<u32, Vec<Relation>> = FxHashMap::default();
        for row in control.rows("asking for privileges", ACCESS, &[&oids]).await? {
            by_table.entry(row.try_get(0)?).or_default().push(relation(&row)?);
        }
        Ok(Self { by_table, role: quote_identifier(control.user()) })
    }

    /// Why a table cannot be copied, and what to do about it.
    pub(crate) fn refusal(&self, table: &Table) -> Option<String> {
        let relations = self.by_table.get(&table.oid)?;
        relations.iter().find_map(|relation| relation.refusal(table, &self.role))
    }
}

impl Relation {
    fn refusal(&self, table: &Table, role: &str) -> Option<String> {
        let title = format!("{}.{}", self.schema, self.name);
        let (schema, name) = (quote_identifier(&self.schema), quote_identifier(&self.name));
        if !self.may_look {
            return Some(format!(
                "the role may not look into schema [{}] (GRANT USAGE ON SCHEMA {schema} TO {role})",
                self.schema
            ));
        }
        let names = || table.columns.iter().map(|column| &column.name);
        let hidden: Vec<&String> = names().filter(|name| self.hidden.contains(name)).collect();
        if !self.may_read && hidden.len() == table.columns.len() {
            return Some(format!(
                "the role may not read [{title}] (GRANT SELECT ON {schema}.{name} TO {role})"
            ));
        }
        if !self.may_read && !hidden.is_empty() {
            let quoted: Vec<String> = hidden.iter().map(|name| quote_identifier(name)).collect();
            let plain: Vec<&str> = hidden.iter().map(|name| name.as_str()).collect();
            return Some(format!(
                "the role may not read [{}] of [{title}] (GRANT SELECT ({}) ON {schema}.{name} TO \
                 {role}, or leave them out with exclude in [[pipelines.documents]])",
                plain.join(", "),
                quoted.join(", ")
            ));
        }
        self.hides.then(|| {
            format!(
                "row level security hides rows of [{title}] from the role, which its copy would lack \
                 (ALTER ROLE {role} BYPASSRLS)"
            )
        })
    }
}

fn relation(row: &Row) -> Result<Relation> {
    Ok(Relation {
        schema: row.try_get(1)?,
        name: row.try_get(2)?,
        may_look: row.try_get(3)?,
        may_read: row.try_get(4)?,
        hides: row.try_get(5)?,
        hidden: row.try_get(6)?,
    })
}
