//! What lies behind a table's rows: its file, the versions of its columns' descriptions, the labels of
//! its enum types, its partitions, and its place in the publication. By these a change of rows is
//! noticed that the log does not tell of: a rewriting `ALTER TABLE`, a label that is renamed, a
//! partition that is attached, detached or truncated alone, a table that left the publication for a
//! while.

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use crate::connect::Control;
use crate::error::Result;

/// What an index remembers of its table's storage, and what the catalog says of it now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Storage {
    /// The number of its file: another one after a rewrite, a truncation or `VACUUM FULL`.
    pub(crate) file: u32,
    /// A digest of the versions of its columns' descriptions. Whatever rewrites rows and changes
    /// them writes these anew; what merely moves rows does not.
    pub(crate) columns: String,
    /// A digest of the parts of composite types among its columns.
    pub(crate) types: String,
    /// The labels of enum types in its columns, however deep, by OID, which a rename keeps; none where
    /// an earlier version remembered it. One that came and was renamed between two looks is not told
    /// from one that came as it is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) labels: Vec<(u32, String)>,
    /// Its partitions, at any depth, by OID.
    pub(crate) parts: Vec<Part>,
}

/// A partition.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Part {
    oid: u32,
    /// The transaction that attached it.
    attached: String,
    /// The number of its file.
    file: u32,
    /// Whether it was made as a partition, and so began empty.
    #[serde(skip)]
    was_empty: bool,
    /// By what the log names its rows.
    #[serde(skip)]
    identity: String,
}

impl Storage {
    /// Why rows may have changed since `self` was remembered, where they may have.
    pub(crate) fn drift(&self, now: &Self) -> Option<String> {
        if self.file != now.file && self.columns != now.columns {
            return Some("it was rewritten by an ALTER TABLE".to_owned());
        }
        if self.types != now.types {
            return Some("a composite type among its columns changed".to_owned());
        }
        // A label that came is in no older row.
        let renamed = self.labels.iter().find_map(|(oid, before)| {
            let at = now.labels.binary_search_by_key(oid, |(oid, _)| *oid).ok()?;
            let (_, label) = now.labels.get(at).filter(|(_, label)| label != before)?;
            Some(format!("label [{before}] of an enum type was renamed to [{label}]"))
        });
        if renamed.is_some() {
            return renamed;
        }
        for part in &self.parts {
            let oid = part.oid;
            let Ok(at) = now.parts.binary_search_by_key(&oid, |now| now.oid) else {
                return Some(format!("its partition [{oid}] was detached or dropped"));
            };
            match now.parts.get(at) {
                Some(now) if now.attached != part.attached => {
                    return Some(format!("its partition [{oid}] was detached and attached again"));
                }
                Some(now) if now.file != part.file => {
                    return Some(format!("its partition [{oid}] was truncated or rewritten"));
                }
                _ => {}
            }
        }
        let is_new =
            |part: &&Part| self.parts.binary_search_by_key(&part.oid, |it| it.oid).is_err();
        let attached = now.parts.iter().filter(is_new).find(|part| !part.was_empty);
        attached.map(|part| format!("partition [{}] was attached to it", part.oid))
    }

    /// As an index remembers it: without what only a look can tell.
    pub(crate) fn remembered(&self) -> Self {
        let part = |part: &Part| Part {
            was_empty: false,
            identity: String::new(),
            attached: part.attached.clone(),
            ..*part
        };
        Self { parts: self.parts.iter().map(part).collect(), ..self.clone() }
    }

    /// A partition whose rows the log names by its primary key.
    pub(crate) fn part_by_primary_key(&self) -> Option<u32> {
        self.parts.iter().find(|part| part.identity == "d").map(|part| part.oid)
    }

    /// A partition whose rows the log would not name by the table's key.
    pub(crate) fn foreign_identity(&self, of_table: &str) -> Option<u32> {
        let differs = |part: &&Part| match part.identity.as_str() {
            // Partitioned themselves, or with whole rows in the log.
            "" | "f" => false,
            identity => identity == "n" || (identity == "i") != (of_table == "i"),
        };
        self.parts.iter().find(differs).map(|part| part.oid)
    }
}

/// The partitions of a table at any depth, as a subquery that gives their `relid`. The database's own
/// functions would wait for whoever has locked one of them; these are read here whatever is locked, so
/// that one table's trouble is no other's.
macro_rules! partitions {
    ($root:literal) => {
        concat!(
            "(WITH RECURSIVE part (relid) AS (
                SELECT ",
            $root,
            "::oid
              UNION ALL
                SELECT h.inhrelid FROM part JOIN pg_catalog.pg_inherits h ON h.inhparent = part.relid
                JOIN pg_catalog.pg_class k ON k.oid = h.inhrelid
                WHERE k.relispartition AND NOT h.inhdetachpending)
              SELECT relid FROM part WHERE relid <> ",
            $root,
            ")"
        )
    };
}
pub(crate) use partitions;

/// Whether publication `p` publishes table `c`, which is no partition: by name, which row `r` says, with
/// its schema `n`, or with all others. Likewise without a lock. PostgreSQL 14 publishes no schemas.
macro_rules! is_published {
    () => {
        "(p.puballtables OR r.oid IS NOT NULL OR (p.oid, n.oid) IN (
            SELECT d.refobjid, e.refobjid FROM pg_catalog.pg_depend d
            JOIN pg_catalog.pg_depend e ON (e.classid, e.objid) = (d.classid, d.objid)
            WHERE d.classid = to_regclass('pg_catalog.pg_publication_namespace')
              AND d.refclassid = 'pg_catalog.pg_publication'::regclass
              AND e.refclassid = 'pg_catalog.pg_namespace'::regclass))"
    };
}
pub(crate) use is_published;

/// The digests of one table `c`, as parts of a query.
macro_rules! digests {
    () => {
        "coalesce((SELECT md5(string_agg(a.attnum || ':' || a.xmin, ',' ORDER BY a.attnum))
             FROM pg_catalog.pg_attribute a
             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), ''),
         coalesce((SELECT md5(string_agg(concat(p.attname, ':', p.atttypid), ','
                                         ORDER BY a.attnum, p.attnum))
             FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
             LEFT JOIN pg_catalog.pg_type e ON e.oid = t.typelem
             JOIN pg_catalog.pg_attribute p ON p.attrelid IN (t.typrelid, e.typrelid)
             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
               AND p.attnum > 0 AND NOT p.attisdropped), '')"
    };
}

const STORAGE: &str = concat!(
    "SELECT c.oid, c.relfilenode, ",
    digests!(),
    " FROM pg_catalog.pg_class c WHERE c.oid = ANY($1)"
);

/// Partitions. One that was made as such has a column whose description is as old as those of its
/// system columns, which nothing changes; attaching writes every column's description anew.
const PARTS: &str = concat!(
    "SELECT r.oid, t.relid, i.xmin::text, k.relfilenode,
           CASE WHEN k.relkind = 'r' THEN k.relreplident::text ELSE '' END,
           EXISTS (SELECT FROM pg_catalog.pg_attribute u JOIN pg_catalog.pg_attribute s
                     ON s.attrelid = u.attrelid AND s.attnum = -1
                   WHERE u.attrelid = t.relid AND u.attnum > 0
                     AND u.xmin = s.xmin AND u.cmin = s.cmin)
    FROM unnest($1::oid[]) AS r (oid)
    CROSS JOIN LATERAL ",
    partitions!("r.oid"),
    " t JOIN pg_catalog.pg_inherits i ON i.inhrelid = t.relid
    JOIN pg_catalog.pg_class k ON k.oid = t.relid
    ORDER BY 1, 2"
);

/// Labels of the enum types that the columns of tables are made of: as they are, in arrays, domains,
/// composites and ranges.
const LABELS: &str = "
    WITH RECURSIVE types (root, oid) AS (
        SELECT a.attrelid, a.atttypid FROM pg_catalog.pg_attribute a
        WHERE a.attrelid = ANY($1) AND a.attnum > 0 AND NOT a.attisdropped
      UNION
        SELECT f.root, part.oid FROM types f JOIN pg_catalog.pg_type t ON t.oid = f.oid
        CROSS JOIN LATERAL (
            SELECT t.typelem WHERE t.typelem <> 0
            UNION ALL SELECT t.typbasetype WHERE t.typbasetype <> 0
            UNION ALL SELECT a.atttypid FROM pg_catalog.pg_attribute a
                WHERE t.typrelid <> 0 AND a.attrelid = t.typrelid AND a.attnum > 0
                  AND NOT a.attisdropped
            UNION ALL SELECT r.rngsubtype FROM pg_catalog.pg_range r
                WHERE t.oid IN (r.rngtypid, r.rngmultitypid)) AS part (oid))
    SELECT f.root, e.oid, e.enumlabel::text
    FROM types f JOIN pg_catalog.pg_enum e ON e.enumtypid = f.oid
    ORDER BY 1, 2";

/// Whatever of the tables must not change unnoticed, as text to be compared: identity, keys,
/// columns, files, partitions, and their place in the publication `$1`. The labels of all enum types
/// are in each: they are few, and seldom change.
pub(crate) const FINGERPRINTS: &str = concat!(
    "SELECT n.nspname::text, c.relname::text, c.oid, concat_ws('|', c.relreplident,
       (SELECT string_agg(i.indexrelid::text, ',' ORDER BY i.indexrelid)
          FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indisvalid
           AND (i.indisprimary OR i.indisreplident OR i.indisunique)), ",
    digests!(),
    ", CASE c.relkind WHEN 'r' THEN c.relfilenode::text ELSE
         (SELECT md5(string_agg(concat_ws(':', t.relid, i.xmin, k.relfilenode,
                                           k.relreplident), ','
                                ORDER BY t.relid))
          FROM ",
    partitions!("c.oid"),
    " t JOIN pg_catalog.pg_inherits i ON i.inhrelid = t.relid
          JOIN pg_catalog.pg_class k ON k.oid = t.relid) END,
       (SELECT md5(string_agg(e.oid || e.enumlabel, ',' ORDER BY e.oid))
          FROM pg_catalog.pg_enum e),
       p.oid IS NOT NULL AND ",
    is_published!(),
    ", p.oid, p.xmin, r.oid, pg_catalog.pg_has_role(c.relowner, 'USAGE'))
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_catalog.pg_publication p ON p.pubname = $1
    LEFT JOIN pg_catalog.pg_publication_rel r ON r.prpubid = p.oid AND r.prrelid = c.oid
    WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence = 'p'
      AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%'
    ORDER BY 1, 2"
);

/// The storage of tables, by OID.
pub(crate) async fn read(control: &Control, oids: &[u32]) -> Result<FxHashMap<u32, Storage>> {
    let mut found: FxHashMap<u32, Storage> = FxHashMap::default();
    for row in control.rows("reading files", STORAGE, &[&oids]).await? {
        let (file, columns, types) = (row.try_get(1)?, row.try_get(2)?, row.try_get(3)?);
        let (labels, parts) = (Vec::new(), Vec::new());
        found.insert(row.try_get(0)?, Storage { file, columns, types, labels, parts });
    }
    for row in control.rows("reading labels", LABELS, &[&oids]).await? {
        if let Some(storage) = found.get_mut(&row.try_get::<_, u32>(0)?) {
            storage.labels.push((row.try_get(1)?, row.try_get(2)?));
        }
    }
    for row in control.rows("reading partitions", PARTS, &[&oids]).await? {
        let part = Part {
            oid: row.try_get(1)?,
            attached: row.try_get(2)?,
            file: row.try_get(3)?,
            identity: row.try_get(4)?,
            was_empty: row.try_get(5)?,
        };
        if let Some(storage) = found.get_mut(&row.try_get::<_, u32>(0)?) {
            storage.parts.push(part);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(oid: u32, attached: &str, file: u32, was_empty: bool) -> Part {
        Part { oid, attached: attached.to_owned(), file, was_empty, identity: "d".to_owned() }
    }

    fn storage(file: u32, columns: &str, parts: &[Part]) -> Storage {
        let (columns, parts) = (columns.to_owned(), parts.to_vec());
        Storage { file, columns, parts, ..Storage::default() }
    }

    #[test]
    fn what_changes_rows_is_told_from_what_moves_them() {
        let check = |before: &Storage, now: &Storage, expected: &str| {
            let found = before.drift(now).unwrap_or_default();
            assert!(found.contains(expected) && found.is_empty() == expected.is_empty(), "{found}");
        };
        let before = storage(1, "a", &[]);
        check(&before, &before, "");
        check(&before, &storage(2, "a", &[]), "");
        check(&before, &storage(1, "b", &[]), "");
        check(&before, &storage(2, "b", &[]), "rewritten by an ALTER TABLE");
        check(&before, &Storage { types: "t".to_owned(), ..before.clone() }, "composite");

        let before = storage(0, "a", &[part(5, "700", 5, false), part(7, "701", 7, false)]);
        let with = |parts: &[Part]| storage(0, "a", parts);
        let (five, seven) = (part(5, "700", 5, false), part(7, "701", 7, false));
        check(&before, &with(&[five.clone(), seven.clone()]), "");
        check(&before, &with(std::slice::from_ref(&seven)), "[5] was detached or dropped");
        check(&before, &with(&[five.clone(), part(7, "800", 7, true)]), "attached again");
        check(&before, &with(&[five.clone(), part(7, "701", 8, true)]), "[7] was truncated");
        let new = |was_empty| with(&[five.clone(), part(6, "900", 6, was_empty), seven.clone()]);
        check(&before, &new(true), "");
        check(&before, &new(false), "partition [6] was attached");
    }

    #[test]
    fn labels_may_come_and_not_change() {
        let with = |labels: &[(u32, &str)]| {
            let labels = labels.iter().map(|&(oid, label)| (oid, label.to_owned())).collect();
            Storage { labels, ..Storage::default() }
        };
        let before = with(&[(3, "fine"), (5, "sad")]);
        assert_eq!(before.drift(&with(&[(3, "fine"), (4, "so so"), (5, "sad")])), None);
        // Of a type that no column has any more.
        assert_eq!(before.drift(&with(&[])), None);
        assert_eq!(Storage::default().drift(&before), None);
        let renamed = before.drift(&with(&[(3, "fine"), (5, "blue")])).unwrap();
        assert!(renamed.contains("[sad]") && renamed.contains("[blue]"), "{renamed}");
    }

    #[test]
    fn partitions_must_name_rows_as_the_table_does() {
        let check = |table: &str, part_identity: &str, differs: bool| {
            let identity = part_identity.to_owned();
            let storage = storage(0, "", &[Part { identity, ..part(5, "1", 1, true) }]);
            assert_eq!(
                storage.foreign_identity(table).is_some(),
                differs,
                "{table} {part_identity}"
            );
        };
        check("d", "d", false);
        check("d", "f", false);
        check("i", "i", false);
        check("d", "", false);
        check("d", "n", true);
        check("d", "i", true);
        check("i", "d", true);
    }
}
