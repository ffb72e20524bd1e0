//! Tables whose rows or columns the publication holds back, as PostgreSQL 15 and newer can: made so,
//! checked, and changed back.

use rustc_hash::FxHashMap;
use tokio_postgres::Row;

use crate::catalog::Table;
use crate::connect::{Control, quote_identifier, quote_literal};
use crate::error::Result;

/// What a publication holds back of a table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Part {
    /// Whether some rows are.
    pub(super) has_filter: bool,
    /// The columns that are not, sorted, where only some are streamed.
    pub(super) columns: Option<Vec<String>>,
}

const PARTS: &str = "
    SELECT r.prrelid, r.prqual IS NOT NULL, (
        SELECT array_agg(a.attname::text ORDER BY a.attname COLLATE \"C\")
        FROM pg_catalog.pg_attribute a
        WHERE a.attrelid = r.prrelid AND a.attnum = ANY(r.prattrs::int2[]))
    FROM pg_catalog.pg_publication_rel r
    JOIN pg_catalog.pg_publication p ON p.oid = r.prpubid WHERE p.pubname = $1";

/// What the publication holds back, by table.
pub(super) async fn read(control: &Control, name: &str) -> Result<FxHashMap<u32, Part>> {
    let part = |row: &Row| {
        Ok((row.try_get(0)?, Part { has_filter: row.try_get(1)?, columns: row.try_get(2)? }))
    };
    let rows = control.rows("reading the publication's filters", PARTS, &[&name]).await?;
    rows.iter().map(part).collect()
}

impl Part {
    /// What is to be held back of a table.
    pub(super) fn wanted(table: &Table) -> Self {
        let shape = table.shape.as_deref();
        Self {
            has_filter: shape.is_some_and(|shape| shape.filter().is_some()),
            columns: shape.and_then(|shape| shape.listed(table)),
        }
    }
}

/// Puts a table into the publication as it is declared, in one transaction. Gives the reason where it
/// must not be: a filter that names columns by which the log does not know rows would have PostgreSQL
/// refuse the table's updates and deletes. One that is there as declared is left alone.
pub(super) async fn put(control: &Control, name: &str, table: &Table) -> Result<Option<String>> {
    control.execute("setting a table's part of the publication", &statement(name, table)).await?;
    let outcome = "SELECT pg_catalog.current_setting('egret.outcome', true)";
    let row = control.row("setting a table's part of the publication", outcome, &[]).await?;
    let uncovered: Option<String> = row.try_get(0)?;
    Ok(uncovered.filter(|names| !names.is_empty()).map(|names| {
        format!(
            "its filter names [{names}], by which the log does not know changed and removed rows \
             ({})",
            if table.partitioned {
                "of a partitioned table it may name columns of the primary key alone".to_owned()
            } else {
                format!("ALTER TABLE {} REPLICA IDENTITY FULL", table.quoted())
            }
        )
    }))
}

/// A block that tries the filter alone, to see which columns it names, then puts the whole, and goes
/// back where that changes nothing.
fn statement(name: &str, table: &Table) -> String {
    let shape = table.shape.as_deref();
    let (publication, relation) = (quote_identifier(name), table.quoted());
    let filter = shape.and_then(|shape| shape.filter());
    let filter = filter.map(|filter| format!(" WHERE ({filter})")).unwrap_or_default();
    let quoted = |names: Vec<String>| {
        let names: Vec<String> = names.iter().map(|name| quote_identifier(name)).collect();
        format!(" ({})", names.join(", "))
    };
    let columns = shape.and_then(|shape| shape.listed(table)).map(quoted).unwrap_or_default();
    let covered = match shape.and_then(|shape| shape.logged()) {
        Some(logged) => {
            let names: Vec<String> = logged.iter().map(|name| quote_literal(name)).collect();
            format!("a.attname::text = ANY(ARRAY[{}]::text[])", names.join(", "))
        }
        None => "true".to_owned(),
    };
    let part = format!(
        "FROM pg_catalog.pg_publication_rel r JOIN pg_catalog.pg_publication p ON p.oid = r.prpubid
         WHERE p.pubname = {} AND r.prrelid = {}",
        quote_literal(name),
        table.oid
    );
    let body = format!(
        "DECLARE before text; after text; uncovered text;
         BEGIN
             SELECT pg_catalog.concat(r.prattrs, ' ', pg_catalog.pg_get_expr(r.prqual, r.prrelid))
             INTO before {part};
             IF FOUND THEN ALTER PUBLICATION {publication} DROP TABLE ONLY {relation}; END IF;
             ALTER PUBLICATION {publication} ADD TABLE ONLY {relation}{filter};
             SELECT pg_catalog.string_agg(a.attname::text, ', ' ORDER BY a.attname) INTO uncovered
             FROM pg_catalog.pg_depend d
             JOIN pg_catalog.pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
             WHERE d.classid = 'pg_catalog.pg_publication_rel'::regclass AND d.refobjid = {oid}
               AND d.refobjsubid > 0 AND NOT ({covered}) AND d.objid = (SELECT r.oid {part});
             IF uncovered IS NULL THEN
                 ALTER PUBLICATION {publication} DROP TABLE ONLY {relation};
                 ALTER PUBLICATION {publication} ADD TABLE ONLY {relation}{columns}{filter};
                 SELECT pg_catalog.concat(r.prattrs, ' ', pg_catalog.pg_get_expr(r.prqual, r.prrelid))
                 INTO after {part};
             END IF;
             IF uncovered IS NOT NULL OR before = after THEN
                 RAISE EXCEPTION USING ERRCODE = 'EG001';
             END IF;
             PERFORM pg_catalog.set_config('egret.outcome', '', false);
         EXCEPTION WHEN SQLSTATE 'EG001' THEN
             PERFORM pg_catalog.set_config('egret.outcome', coalesce(uncovered, ''), false);
         END",
        oid = table.oid
    );
    format!("DO {}", quote_literal(&body).trim_start())
}
