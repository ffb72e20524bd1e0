//! What the database says of its tables: which there are, their columns and types, and the key by
//! which their rows are known.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use tokio_postgres::Row;

use crate::compound::{Compound, RowsOf};
use crate::connect::{Control, quote_identifier};
use crate::document::{RowColumn, RowFormat};
use crate::error::{Error, ErrorKind, Result};
use crate::shape::Shape;
use crate::storage::{self, Storage, partitions};
use crate::types::Kind;
use crate::types::resolve::{TypeRow, TypeRows, resolve};

/// Rounds of looking up types within types.
const MAX_TYPE_ROUNDS: usize = 32;

/// A table as the catalog has it.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    /// Its OID.
    pub(crate) oid: u32,
    /// Its schema.
    pub(crate) schema: String,
    /// Its name.
    pub(crate) name: String,
    /// Whether its rows lie in partitions.
    pub(crate) partitioned: bool,
    /// Whether the role may put it into a publication.
    pub(crate) owned: bool,
    /// Rows that the planner expects.
    pub(crate) rows_estimated: u64,
    /// Its columns as far as they are streamed: generated ones only where the log has them.
    pub(crate) columns: Vec<Column>,
    /// The stored generated columns that the log lacks.
    pub(crate) unpublished: Vec<String>,
    /// The names of the key's columns, or why it has no key to go by.
    pub(crate) key: std::result::Result<Vec<String>, String>,
    /// Whether its writers would be refused if it were published; `key` says why.
    pub(crate) is_hindered: bool,
    /// What lies behind its rows.
    pub(crate) storage: Storage,
    /// Its place in the publication: another one after it left and came back. Empty before it was
    /// looked up.
    pub(crate) membership: String,
    /// What is declared of it; its columns and key are then as declared too.
    pub(crate) shape: Option<Arc<Shape>>,
    /// What its documents are composed of besides its own rows.
    pub(crate) compound: Option<Arc<Compound>>,
    /// How its rows are kept, where documents are composed from them.
    pub(crate) rows_of: Option<Arc<RowsOf>>,
    /// Comments on its columns.
    pub(crate) comments: FxHashMap<String, String>,
}

/// A column as the catalog has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Column {
    /// Its name.
    pub(crate) name: String,
    /// Its type.
    pub(crate) type_oid: u32,
    /// How its values become JSON.
    pub(crate) kind: Kind,
    /// Whether it has a default: were it added, older rows would have it without being streamed.
    pub(crate) has_default: bool,
}

impl Table {
    /// A table of which no more is known than its name.
    fn unread(oid: u32, schema: &str, name: &str) -> Self {
        Self {
            oid,
            schema: schema.to_owned(),
            name: name.to_owned(),
            partitioned: false,
            owned: true,
            rows_estimated: 0,
            columns: Vec::new(),
            unpublished: Vec::new(),
            key: Err(String::new()),
            is_hindered: false,
            storage: Storage::default(),
            membership: String::new(),
            shape: None,
            compound: None,
            rows_of: None,
            comments: FxHashMap::default(),
        }
    }

    /// `schema.table`, as people read it.
    pub(crate) fn title(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }

    /// Whether the log has a column of this name.
    pub(crate) fn has_column(&self, name: &str) -> bool {
        self.columns.iter().any(|column| column.name == name)
    }

    /// As `quoted`, for a statement that reads its rows: those of tables that inherit from it are none
    /// of its own, those of its partitions are.
    pub(crate) fn rows(&self) -> String {
        format!("{}{}", if self.partitioned { "" } else { "ONLY " }, self.quoted())
    }

    /// `"schema"."table"`, as statements read it.
    pub(crate) fn quoted(&self) -> String {
        format!("{}.{}", quote_identifier(&self.schema), quote_identifier(&self.name))
    }

    /// How rows that have this table's columns in the catalog's order become documents.
    pub(crate) fn row_format(&self) -> Option<RowFormat> {
        let column =
            |column: &Column| RowColumn { name: column.name.clone(), kind: column.kind.clone() };
        let columns = self.columns.iter().map(column).collect();
        self.format_of(columns)
    }

    /// How rows that have these columns become documents; `None` where the key is not among them.
    pub(crate) fn format_of(&self, columns: Vec<RowColumn>) -> Option<RowFormat> {
        let format = RowFormat::new(columns, self.key.as_ref().ok()?)?;
        Some(format.shaped(self.shape.as_deref()).kept_as(self.rows_of.as_deref()))
    }

    /// The table, and those that its documents are composed from besides.
    pub(crate) fn parts(self: &Arc<Self>) -> Vec<Arc<Self>> {
        let related = self.compound.as_ref().map_or(&[][..], |compound| &compound.related);
        std::iter::once(self).chain(related).map(Arc::clone).collect()
    }
}

#[cfg(test)]
impl Table {
    /// A table of texts, with their types and whether they have a default.
    pub(crate) fn example(columns: &[(&str, u32, bool)]) -> Self {
        let column = |&(name, type_oid, has_default): &(&str, u32, bool)| Column {
            name: name.to_owned(),
            type_oid,
            kind: Kind::Text,
            has_default,
        };
        Self {
            columns: columns.iter().map(column).collect(),
            key: Ok(vec!["id".to_owned()]),
            ..Self::unread(1, "public", "t")
        }
    }
}

/// Which generated columns are in the log: the stored ones, since PostgreSQL 18, of a publication that
/// says so. One that is still to be made will say so. `$1` is the publication's name.
macro_rules! published {
    () => {
        "(a.attgenerated = '' OR a.attgenerated = 's' AND coalesce(
             (SELECT to_jsonb(p) ->> 'pubgencols' IS NOT DISTINCT FROM 's'
              FROM pg_catalog.pg_publication p WHERE p.pubname = $1),
             current_setting('server_version_num')::int4 >= 180000))"
    };
}

const TABLES: &str = concat!(
    "SELECT c.oid, n.nspname::text, c.relname::text, c.relkind = 'p', c.relreplident::text,
           greatest(c.reltuples, 0)::int8, pg_has_role(c.relowner, 'USAGE'),
           current_setting('server_version_num')::int4 >= 180000
             AND EXISTS (
               SELECT FROM pg_catalog.pg_attribute a
               WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND NOT ",
    published!(),
    " AND (c.relreplident = 'f'
      OR EXISTS (SELECT FROM ",
    partitions!("c.oid"),
    " t JOIN pg_catalog.pg_class k ON k.oid = t.relid WHERE k.relreplident = 'f')
      OR EXISTS (SELECT FROM pg_catalog.pg_index i
                 WHERE i.indrelid = c.oid AND a.attnum = ANY(i.indkey::int2[])
                   AND CASE c.relreplident WHEN 'd' THEN i.indisprimary
                                           WHEN 'i' THEN i.indisreplident END)))
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence = 'p'
      AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%'
    ORDER BY 2, 3"
);

const COLUMNS: &str = concat!(
    "SELECT a.attrelid, a.attname::text, a.atttypid,
           a.atthasdef OR a.atthasmissing OR a.attidentity <> '', ",
    published!(),
    " FROM pg_catalog.pg_attribute a
    WHERE a.attrelid = ANY($2) AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated <> 'v'
    ORDER BY a.attrelid, a.attnum"
);

/// Columns of indexes that tell rows apart, in the key's order: primary keys, those chosen as
/// replica identity, and unique ones over columns that are never NULL. A deferrable one names no row
/// in the log.
const KEYS: &str = "
    SELECT i.indrelid, i.indexrelid, i.indisprimary AND i.indimmediate, i.indisreplident,
           i.indisunique AND i.indimmediate AND i.indisvalid AND i.indpred IS NULL
             AND i.indexprs IS NULL AND bool_and(a.attnotnull) OVER (PARTITION BY i.indexrelid),
           a.attname::text
    FROM pg_catalog.pg_index i
    CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, place)
    JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
    WHERE i.indrelid = ANY($1) AND (i.indisprimary OR i.indisreplident OR i.indisunique)
      AND k.place <= i.indnkeyatts
    ORDER BY i.indrelid, i.indnkeyatts, i.indexrelid, k.place";

const TYPES: &str = "
    SELECT t.oid, t.typname::text, t.typtype::text, t.typcategory::text,
           CASE WHEN t.typinput = 'pg_catalog.array_in'::regproc THEN t.typelem ELSE 0 END,
           t.typdelim::text, t.typbasetype, t.typrelid
    FROM pg_catalog.pg_type t WHERE t.oid = ANY($1)";

const PARTS: &str = "
    SELECT attrelid, attname::text, atttypid FROM pg_catalog.pg_attribute
    WHERE attrelid = ANY($1) AND attnum > 0 AND NOT attisdropped ORDER BY attrelid, attnum";

/// A table's name and whatever of it must not change unnoticed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    schema: String,
    name: String,
    oid: u32,
    shape: String,
}

/// The fingerprints of every table that `wanted` accepts by schema and name, sorted by these.
pub(crate) async fn fingerprints(
    control: &Control,
    publication: &str,
    wanted: impl Fn(&str, &str) -> bool,
) -> Result<Vec<Fingerprint>> {
    let mut found = Vec::new();
    for row in control.rows("watching tables", storage::FINGERPRINTS, &[&publication]).await? {
        let (schema, name): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        if wanted(&schema, &name) {
            found.push(Fingerprint { schema, name, oid: row.try_get(2)?, shape: row.try_get(3)? });
        }
    }
    Ok(found)
}

/// Every table that `wanted` accepts by schema and name, with the columns that the publication streams,
/// or would if it were made now.
pub(crate) async fn tables(
    control: &Control,
    publication: &str,
    wanted: impl Fn(&str, &str) -> bool,
) -> Result<Vec<Table>> {
    let mut tables = Vec::new();
    let mut identities = Vec::new();
    for row in control.rows("listing tables", TABLES, &[&publication]).await? {
        let (schema, name): (String, String) = (row.try_get(1)?, row.try_get(2)?);
        if !wanted(&schema, &name) {
            continue;
        }
        identities.push((first_byte(&row, 4)?, row.try_get::<_, bool>(7)?));
        tables.push(Table {
            partitioned: row.try_get(3)?,
            owned: row.try_get(6)?,
            rows_estimated: u64::try_from(row.try_get::<_, i64>(5)?).unwrap_or(0),
            ..Table::unread(row.try_get(0)?, &schema, &name)
        });
    }
    let oids: Vec<u32> = tables.iter().map(|table| table.oid).collect();
    let mut columns = columns(control, publication, &oids).await?;
    let keys = keys(control, &oids).await?;
    let mut storages = storage::read(control, &oids).await?;
    for (table, (identity, is_hindered)) in tables.iter_mut().zip(identities) {
        (table.columns, table.unpublished) = columns.remove(&table.oid).unwrap_or_default();
        table.storage = storages.remove(&table.oid).unwrap_or_default();
        table.is_hindered = is_hindered;
        settle_key(table, identity, keys.get(&table.oid));
    }
    Ok(tables)
}

/// Finds a table's key, and whether its writers would be refused if it were published.
fn settle_key(table: &mut Table, identity: u8, keys: Option<&Keys>) {
    let shown = char::from(identity).to_string();
    // What a table says of whole rows in the log does not count for its partitions.
    let by_primary_key = table.storage.part_by_primary_key().filter(|_| identity == b'f');
    let refusal = if table.is_hindered {
        "its replica identity has generated columns that the log lacks: published, the database would \
         refuse its updates (choose another REPLICA IDENTITY)"
            .to_owned()
    } else if let Some(part) = table.storage.foreign_identity(&shown) {
        format!(
            "the log does not name the rows of its partition [{part}] by its key: give the partition \
             the same REPLICA IDENTITY, or FULL"
        )
    } else if let Some(part) = by_primary_key.filter(|_| choose_key(b'd', keys).is_err()) {
        format!(
            "its partition [{part}] has no primary key by which the log could name its rows: give the \
             partition REPLICA IDENTITY FULL, too"
        )
    } else {
        table.key = choose_key(identity, keys).and_then(|key| {
            match key.iter().find(|name| !table.has_column(name)) {
                Some(name) => {
                    Err(format!("its key column [{name}] is generated, and not in the log"))
                }
                None => Ok(key),
            }
        });
        return;
    };
    (table.is_hindered, table.key) = (true, Err(refusal));
}

/// The keys that a table has.
#[derive(Debug, Default)]
struct Keys {
    primary: Vec<String>,
    identity: Vec<String>,
    /// The shortest key among the other unique indexes, and the index.
    unique: Vec<String>,
    unique_index: Option<u32>,
}

/// The columns by which the log names a row that is changed or removed.
fn choose_key(identity: u8, keys: Option<&Keys>) -> std::result::Result<Vec<String>, String> {
    let found = |columns: fn(&Keys) -> &Vec<String>| {
        keys.map(columns).filter(|columns| !columns.is_empty()).cloned()
    };
    let refusal = match identity {
        b'n' => {
            "its replica identity is NOTHING: changed and removed rows are not in the log (ALTER \
             TABLE ... REPLICA IDENTITY DEFAULT)"
        }
        b'i' => {
            let gone = "the index chosen as its replica identity is gone";
            return found(|keys| &keys.identity).ok_or_else(|| gone.to_owned());
        }
        // Whole rows are in the log: any key will do.
        b'f' => {
            let key = found(|keys| &keys.primary).or_else(|| found(|keys| &keys.unique));
            let refusal = "it has no primary key, and no unique index of NOT NULL columns alone, by \
                           which its rows could be told apart (add one)";
            return key.ok_or_else(|| refusal.to_owned());
        }
        _ => {
            if let Some(key) = found(|keys| &keys.primary) {
                return Ok(key);
            }
            "it has no primary key that is not deferrable (add one, or choose a unique index of NOT \
             NULL columns with ALTER TABLE ... REPLICA IDENTITY USING INDEX, or keep such an index \
             and say REPLICA IDENTITY FULL)"
        }
    };
    Err(refusal.to_owned())
}

/// The columns of tables that are in the log, and the names of those that are not.
async fn columns(
    control: &Control,
    publication: &str,
    oids: &[u32],
) -> Result<FxHashMap<u32, (Vec<Column>, Vec<String>)>> {
    let rows = control.rows("reading columns", COLUMNS, &[&publication, &oids]).await?;
    let mut types = Vec::new();
    for row in &rows {
        types.push(row.try_get::<_, u32>(2)?);
    }
    let kinds = kinds(control, &types).await?;
    let mut columns: FxHashMap<u32, (Vec<Column>, Vec<String>)> = FxHashMap::default();
    for row in rows {
        let (name, type_oid) = (row.try_get(1)?, row.try_get(2)?);
        let (published, unpublished) = columns.entry(row.try_get(0)?).or_default();
        if !row.try_get::<_, bool>(4)? {
            unpublished.push(name);
            continue;
        }
        published.push(Column {
            name,
            type_oid,
            kind: kinds.get(&type_oid).cloned().unwrap_or(Kind::Keyword),
            has_default: row.try_get(3)?,
        });
    }
    Ok(columns)
}

async fn keys(control: &Control, oids: &[u32]) -> Result<FxHashMap<u32, Keys>> {
    let mut keys: FxHashMap<u32, Keys> = FxHashMap::default();
    for row in control.rows("reading keys", KEYS, &[&oids]).await? {
        let entry = keys.entry(row.try_get(0)?).or_default();
        let index: u32 = row.try_get(1)?;
        let name: String = row.try_get(5)?;
        if row.try_get(3)? {
            entry.identity.push(name.clone());
        }
        if row.try_get(4)? && *entry.unique_index.get_or_insert(index) == index {
            entry.unique.push(name.clone());
        }
        if row.try_get(2)? {
            entry.primary.push(name);
        }
    }
    Ok(keys)
}

/// What each of these types is.
pub(crate) async fn kinds(control: &Control, oids: &[u32]) -> Result<FxHashMap<u32, Kind>> {
    let mut rows = TypeRows::default();
    for _ in 0..MAX_TYPE_ROUNDS {
        let mut missing: Vec<u32> =
            oids.iter().filter_map(|&oid| resolve(oid, &rows).err()).flatten().collect();
        missing.sort_unstable();
        missing.dedup();
        if missing.is_empty() {
            break;
        }
        let found = type_rows(control, &missing).await?;
        for oid in missing {
            // A type dropped meanwhile: its values are taken as they are.
            let gone = || TypeRow {
                name: String::new(),
                class: b'p',
                category: b'X',
                element: 0,
                delimiter: b',',
                base: 0,
                fields: Vec::new(),
            };
            rows.insert(oid, found.get(&oid).cloned().unwrap_or_else(gone));
        }
    }
    let kind = |&oid: &u32| (oid, resolve(oid, &rows).unwrap_or(Kind::Keyword));
    Ok(oids.iter().map(kind).collect())
}

async fn type_rows(control: &Control, oids: &[u32]) -> Result<TypeRows> {
    let mut rows = TypeRows::default();
    let mut composites: FxHashMap<u32, u32> = FxHashMap::default();
    for row in control.rows("reading types", TYPES, &[&oids]).await? {
        let oid = row.try_get(0)?;
        let relation: u32 = row.try_get(7)?;
        if relation != 0 {
            composites.insert(relation, oid);
        }
        let found = TypeRow {
            name: row.try_get(1)?,
            class: first_byte(&row, 2)?,
            category: first_byte(&row, 3)?,
            element: row.try_get(4)?,
            delimiter: first_byte(&row, 5)?,
            base: row.try_get(6)?,
            fields: Vec::new(),
        };
        rows.insert(oid, found);
    }
    let relations: Vec<u32> = composites.keys().copied().collect();
    if relations.is_empty() {
        return Ok(rows);
    }
    for row in control.rows("reading composite types", PARTS, &[&relations]).await? {
        let relation: u32 = row.try_get(0)?;
        let part = (row.try_get(1)?, row.try_get(2)?);
        let oid = composites.get(&relation);
        if let Some(found) = oid.and_then(|oid| rows.get_mut(oid)) {
            found.fields.push(part);
        }
    }
    Ok(rows)
}

/// A value of type "char", which is asked for as text.
fn first_byte(row: &Row, column: usize) -> Result<u8> {
    let text: String = row.try_get(column)?;
    let message = || Error::new(ErrorKind::Protocol, format!("empty catalog column {column}"));
    text.bytes().next().ok_or_else(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_follow_the_replica_identity() {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let keys = Keys { primary: names(&["a", "b"]), identity: names(&["c"]), ..Keys::default() };
        let check = |identity: u8, keys: Option<&Keys>, expected: &str| {
            let shown = match choose_key(identity, keys) {
                Ok(key) => key.join(","),
                Err(reason) => reason,
            };
            assert!(shown.starts_with(expected), "{shown}");
        };
        check(b'd', Some(&keys), "a,b");
        check(b'f', Some(&keys), "a,b");
        check(b'i', Some(&keys), "c");
        check(b'n', Some(&keys), "its replica identity is NOTHING");
        check(b'd', None, "it has no primary key");
        check(b'i', Some(&Keys { primary: names(&["a"]), ..Keys::default() }), "the index");
        let unique = Keys { unique: names(&["d"]), ..Keys::default() };
        check(b'f', Some(&unique), "d");
        check(b'd', Some(&unique), "it has no primary key");
        check(b'f', None, "it has no primary key, and no unique index");
    }
}
