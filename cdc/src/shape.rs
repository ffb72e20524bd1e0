//! The shape of a declared document: a declaration held against what the catalog says of its table.
//! Which columns are streamed, which become fields and under what names, which key makes the `_id`,
//! which rows count.
//!
//! What cannot be served is told as the reason why the table is not followed, with what to do. A
//! condition or a list of columns that the log could not bear is never given to a publication:
//! PostgreSQL would then refuse the table's updates and deletes to everyone.

use std::sync::Arc;

use egret_engine::mapping::TOTAL_FIELDS_LIMIT;
use rustc_hash::{FxHashMap, FxHashSet};
use serde_json::{Map, Value, json};

use crate::catalog::Table;
use crate::config::DocumentConfig;
use crate::connect::Control;
use crate::error::Result;
use crate::selection::glob;
use crate::storage::partitions;

/// The first server whose publications have row filters and lists of columns.
const FIRST_WITH_FILTERS: u32 = 150_000;

/// Characters of a comment that a mapping keeps.
const MAX_COMMENT_CHARACTERS: usize = 500;

/// What a declaration makes of a table.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Shape {
    pub(crate) declaration: Arc<DocumentConfig>,
    /// The server's version.
    version: u32,
    /// Columns that may be streamed all the same, and are not taken.
    left_out: FxHashSet<String>,
    /// Columns that are streamed and are no fields.
    hidden: FxHashSet<String>,
    /// Whether the publication names the columns, so that the others never leave the database.
    lists_columns: bool,
    /// The columns by which the log names a row; none where it has whole rows.
    logged: Option<Vec<String>>,
}

impl Shape {
    /// The field that a column becomes, if any.
    pub(crate) fn field<'a>(&'a self, column: &'a str) -> Option<&'a str> {
        let absent = self.left_out.contains(column) || self.hidden.contains(column);
        let renamed = self.declaration.rename.get(column).map(String::as_str);
        (!absent).then(|| renamed.unwrap_or(column))
    }

    /// Whether a column that is streamed is to be left out.
    pub(crate) fn leaves_out(&self, column: &str) -> bool {
        self.left_out.contains(column)
    }

    /// The condition of its rows.
    pub(crate) fn filter(&self) -> Option<&str> {
        self.declaration.filter.as_deref()
    }

    /// The columns to name in the publication, sorted; none: all.
    pub(crate) fn listed(&self, table: &Table) -> Option<Vec<String>> {
        self.lists_columns.then(|| {
            let mut names: Vec<String> =
                table.columns.iter().map(|column| column.name.clone()).collect();
            names.sort_unstable();
            names
        })
    }

    /// The columns that a filter may name; none: all.
    pub(crate) fn logged(&self) -> Option<&[String]> {
        self.logged.as_deref()
    }

    /// What documents are made by, as an index remembers it.
    pub(crate) fn to_text(&self) -> String {
        serde_json::to_string(&*self.declaration).unwrap_or_default()
    }
}

/// The mapping of a table's index: by the types of its columns, their comments below `_meta`, and
/// what is declared over both. The columns of one that is wider than an index can be are mapped in
/// their order, as far as they go; the others are in `_source` alone.
pub(crate) fn mapping(table: &Table) -> Value {
    let mut properties = Map::new();
    let mut descriptions = Map::new();
    let shape = table.shape.as_deref();
    // The root is a field itself, and so are constants.
    let constants = shape.map_or(0, |shape| shape.declaration.constants.len());
    let mut left = (TOTAL_FIELDS_LIMIT - 1).saturating_sub(constants);
    let mut mapping = Map::new();
    for column in &table.columns {
        let Some(field) = shape.map_or(Some(column.name.as_str()), |it| it.field(&column.name))
        else {
            continue;
        };
        let of_column = crate::types::mapping(&column.kind);
        let Some(less) = left.checked_sub(fields_of(&of_column)) else {
            mapping.insert("dynamic".to_owned(), false.into());
            break;
        };
        left = less;
        properties.insert(field.to_owned(), of_column);
        if let Some(comment) = table.comments.get(&column.name) {
            descriptions.insert(field.to_owned(), comment.clone().into());
        }
    }
    if !descriptions.is_empty() {
        mapping.insert("_meta".to_owned(), json!({ "descriptions": descriptions }));
    }
    if let Some(shape) = shape {
        for (name, value) in &shape.declaration.constants {
            properties.insert(name.clone(), mapping_of(value));
        }
        for (name, value) in &shape.declaration.mappings {
            match (name.as_str(), value, mapping.get_mut(name)) {
                ("properties", Value::Object(own), _) => properties.extend(own.clone()),
                (_, Value::Object(own), Some(Value::Object(below))) => below.extend(own.clone()),
                _ => drop(mapping.insert(name.clone(), value.clone())),
            }
        }
    }
    if let Some(compound) = &table.compound {
        // What is declared goes before what the catalog gives.
        for (name, value) in &compound.properties {
            properties.entry(name.clone()).or_insert_with(|| value.clone());
        }
        let definition = serde_json::to_value(&compound.definition).unwrap_or_default();
        mapping.insert("_composition".to_owned(), definition);
    }
    mapping.insert("properties".to_owned(), properties.into());
    mapping.into()
}

/// How many fields a column's mapping makes: itself, and what is below or beside it.
fn fields_of(mapping: &Value) -> usize {
    let below = ["properties", "fields"].iter().filter_map(|name| mapping.get(name)?.as_object());
    1 + below.flat_map(Map::values).map(fields_of).sum::<usize>()
}

/// The mapping of a constant.
fn mapping_of(value: &Value) -> Value {
    let kind = match value {
        Value::Array(values) => return values.first().map_or_else(keyword, mapping_of),
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "double",
        Value::Number(_) => "long",
        _ => return keyword(),
    };
    json!({ "type": kind })
}

fn keyword() -> Value {
    json!({"type": "keyword"})
}

/// What the catalog says of a table besides its columns.
#[derive(Debug, Default)]
struct Facts {
    /// Its replica identity: `d`, `i`, `f` or `n`.
    identity: String,
    uniques: Vec<Unique>,
    /// Whether a partition's rows are named otherwise in the log than by the primary key.
    odd_parts: bool,
}

/// A unique key of plain columns.
#[derive(Debug, Default)]
struct Unique {
    oid: u32,
    index: String,
    is_primary: bool,
    is_identity: bool,
    columns: Vec<String>,
    nullable: Vec<String>,
}

const FACTS: &str = concat!(
    "SELECT c.oid, CASE WHEN c.relreplident = 'f' AND EXISTS (
        SELECT FROM ",
    partitions!("c.oid"),
    " t JOIN pg_catalog.pg_class p ON p.oid = t.relid
        WHERE p.relkind = 'r' AND p.relreplident = 'd') THEN 'd' ELSE c.relreplident::text END,
      c.relkind = 'p' AND EXISTS (
        SELECT FROM (SELECT c.oid AS relid UNION ALL ",
    partitions!("c.oid"),
    ") t JOIN pg_catalog.pg_class p ON p.oid = t.relid WHERE p.relreplident NOT IN ('d', 'f'))
    FROM pg_catalog.pg_class c WHERE c.oid = ANY($1)"
);

const UNIQUES: &str = "
    SELECT i.indrelid, i.indexrelid, x.relname::text, i.indisprimary, i.indisreplident,
           a.attname::text, a.attnotnull
    FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
    CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, place)
    JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
    WHERE i.indrelid = ANY($1) AND i.indisunique AND i.indimmediate AND i.indisvalid
      AND i.indpred IS NULL AND i.indexprs IS NULL AND k.place <= i.indnkeyatts
    ORDER BY i.indrelid, i.indexrelid, k.place";

const COMMENTS: &str = "
    SELECT d.objoid, a.attname::text, d.description FROM pg_catalog.pg_description d
    JOIN pg_catalog.pg_attribute a ON a.attrelid = d.objoid AND a.attnum = d.objsubid
    WHERE d.classoid = 'pg_catalog.pg_class'::regclass AND d.objsubid > 0 AND d.objoid = ANY($1)";

/// Gives declared tables their shape, and every table its columns' comments. One that cannot be
/// served has the reason in the place of its key.
pub(crate) async fn declare(
    control: &Control,
    tables: &mut [Table],
    documents: &[DocumentConfig],
    version: u32,
) -> Result<()> {
    let oids: Vec<u32> = tables.iter().map(|table| table.oid).collect();
    for row in control.rows("reading comments", COMMENTS, &[&oids]).await? {
        let (oid, column, comment): (u32, String, String) =
            (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        let comment = comment.chars().take(MAX_COMMENT_CHARACTERS).collect();
        if let Some(table) = tables.iter_mut().find(|table| table.oid == oid) {
            table.comments.insert(column, comment);
        }
    }
    let mut declared: Vec<(&mut Table, &DocumentConfig)> = Vec::new();
    // One whose writers would be refused stays out whatever is declared of it.
    for table in tables.iter_mut().filter(|table| !table.is_hindered) {
        for document in documents {
            if document.table_name()? == (table.schema.clone(), table.name.clone()) {
                declared.push((table, document));
                break;
            }
        }
    }
    if declared.is_empty() {
        return Ok(());
    }
    let oids: Vec<u32> = declared.iter().map(|(table, _)| table.oid).collect();
    let mut facts = facts(control, &oids).await?;
    for (table, declaration) in declared {
        let facts = facts.remove(&table.oid).unwrap_or_default();
        if let Err(reason) = apply(table, &facts, declaration, version) {
            table.key = Err(reason);
        }
    }
    Ok(())
}

async fn facts(control: &Control, oids: &[u32]) -> Result<FxHashMap<u32, Facts>> {
    let mut facts: FxHashMap<u32, Facts> = FxHashMap::default();
    for row in control.rows("reading replica identities", FACTS, &[&oids]).await? {
        let (identity, odd_parts) = (row.try_get(1)?, row.try_get(2)?);
        facts.insert(row.try_get(0)?, Facts { identity, odd_parts, uniques: Vec::new() });
    }
    for row in control.rows("reading unique keys", UNIQUES, &[&oids]).await? {
        let Some(facts) = facts.get_mut(&row.try_get::<_, u32>(0)?) else { continue };
        let oid = row.try_get(1)?;
        if facts.uniques.last().is_none_or(|known| known.oid != oid) {
            facts.uniques.push(Unique {
                oid,
                index: row.try_get(2)?,
                is_primary: row.try_get(3)?,
                is_identity: row.try_get(4)?,
                ..Unique::default()
            });
        }
        let Some(unique) = facts.uniques.last_mut() else { continue };
        let name: String = row.try_get(5)?;
        if !row.try_get::<_, bool>(6)? {
            unique.nullable.push(name.clone());
        }
        unique.columns.push(name);
    }
    Ok(facts)
}

/// Lays a declaration over a table, or says why it cannot be served and what to do.
fn apply(
    table: &mut Table,
    facts: &Facts,
    declaration: &DocumentConfig,
    version: u32,
) -> Result<(), String> {
    check_columns(table, declaration)?;
    if declaration.filter.is_some() && version < FIRST_WITH_FILTERS {
        return Err("a row filter needs PostgreSQL 15 or newer".to_owned());
    }
    let logged = logged(facts);
    let key = key(table, facts, declaration, logged.as_deref())?;
    let taken = |name: &str| {
        let any = |patterns: &[String]| patterns.iter().any(|pattern| glob(pattern, name));
        any(&declaration.include) && !any(&declaration.exclude)
    };
    let is_key = |name: &String| key.contains(name);
    // What the log must have for any row that it names, a list of columns must name too.
    let is_needed = |name: &String| {
        logged.as_ref().is_some_and(|logged| logged.contains(name))
            || declaration.soft_delete.as_ref() == Some(name)
    };
    let (mut left_out, mut hidden) = (FxHashSet::default(), FxHashSet::default());
    table.columns.retain(|column| {
        let name = &column.name;
        if taken(name) || is_key(name) {
            return true;
        }
        // Related rows may be named by any column.
        let stays = is_needed(name) || !declaration.related.is_empty();
        if stays { &mut hidden } else { &mut left_out }.insert(name.clone());
        stays
    });
    table.key = Ok(key);
    // A partition may have an identity of its own, now or later, that a list would have to hold.
    let lists_columns = version >= FIRST_WITH_FILTERS
        && !left_out.is_empty()
        && logged.is_some()
        && !table.partitioned;
    let logged = if table.partitioned { Some(primary(facts)) } else { logged };
    if declaration.filter.is_some() && table.partitioned && facts.odd_parts {
        return Err(
            "a row filter needs partitions whose replica identity is DEFAULT or FULL".into()
        );
    }
    let declaration = Arc::new(declaration.clone());
    let shape = Shape { declaration, version, left_out, hidden, lists_columns, logged };
    check_fields(table, &shape)?;
    table.shape = Some(Arc::new(shape));
    Ok(())
}

/// The columns by which the log names a row; none where it has whole rows.
fn logged(facts: &Facts) -> Option<Vec<String>> {
    match facts.identity.as_str() {
        "f" => None,
        "i" => {
            let identity = facts.uniques.iter().find(|unique| unique.is_identity);
            Some(identity.map(|unique| unique.columns.clone()).unwrap_or_default())
        }
        _ => Some(primary(facts)),
    }
}

fn primary(facts: &Facts) -> Vec<String> {
    let primary = facts.uniques.iter().find(|unique| unique.is_primary);
    primary.map(|unique| unique.columns.clone()).unwrap_or_default()
}

/// The key's columns.
fn key(
    table: &Table,
    facts: &Facts,
    declaration: &DocumentConfig,
    logged: Option<&[String]>,
) -> Result<Vec<String>, String> {
    let id = &declaration.id;
    if id.is_empty() {
        return table.key.clone();
    }
    if facts.identity == "n" {
        return table.key.clone().and(Ok(id.clone()));
    }
    let shown = id.join(", ");
    let same = |unique: &&Unique| {
        unique.columns.len() == id.len() && id.iter().all(|name| unique.columns.contains(name))
    };
    let quoted = table.quoted();
    let unique = facts.uniques.iter().find(same).ok_or_else(|| {
        format!(
            "its id [{shown}] is no unique key (CREATE UNIQUE INDEX ON {quoted} ({shown}), neither \
             partial nor deferrable)"
        )
    })?;
    if let Some(name) = unique.nullable.first() {
        return Err(format!(
            "its id's column [{name}] may be NULL (ALTER TABLE {quoted} ALTER COLUMN {name} SET NOT \
             NULL)"
        ));
    }
    let in_log = logged.is_none_or(|logged| id.iter().all(|name| logged.contains(name)));
    if !in_log {
        return Err(format!(
            "the log does not name its changed and removed rows by its id [{shown}] (ALTER TABLE \
             {quoted} REPLICA IDENTITY USING INDEX {}, or REPLICA IDENTITY FULL)",
            unique.index
        ));
    }
    Ok(id.clone())
}

/// Refuses columns that the table has not.
fn check_columns(table: &Table, declaration: &DocumentConfig) -> Result<(), String> {
    let has = |name: &str| table.has_column(name);
    let fits = |pattern: &str| table.columns.iter().any(|column| glob(pattern, &column.name));
    let DocumentConfig { id, include, exclude, rename, soft_delete, .. } = declaration;
    let exact = id.iter().map(|name| ("id", name));
    let exact = exact.chain(rename.keys().map(|name| ("rename", name)));
    let exact = exact.chain(soft_delete.iter().map(|name| ("soft_delete", name)));
    for (option, name) in exact {
        if !has(name) {
            return Err(format!(
                "{option} names column [{name}], which the table has not, or which is generated"
            ));
        }
    }
    let patterns = include.iter().map(|name| ("include", name));
    for (option, pattern) in patterns.chain(exclude.iter().map(|name| ("exclude", name))) {
        if !fits(pattern) {
            return Err(format!("{option} names [{pattern}], which no column of the table fits"));
        }
    }
    Ok(())
}

/// Refuses two fields of one name.
fn check_fields(table: &Table, shape: &Shape) -> Result<(), String> {
    let columns = table.columns.iter().filter_map(|column| shape.field(&column.name));
    let constants = shape.declaration.constants.keys().map(String::as_str);
    let mut known = FxHashSet::default();
    match columns.chain(constants).find(|field| !known.insert(*field)) {
        Some(field) => Err(format!("two of its fields are named [{field}]")),
        None => Ok(()),
    }
}

/// Gives a table that was looked up anew the shape that another description of it has.
pub(crate) async fn redeclare(control: &Control, now: &mut [Table], before: &Table) -> Result<()> {
    let Some(shape) = &before.shape else { return Ok(()) };
    declare(control, now, std::slice::from_ref(&shape.declaration), shape.version).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Column;

    fn table(columns: &[&str]) -> Table {
        let columns: Vec<_> = columns.iter().map(|&name| (name, 25, false)).collect();
        Table::example(&columns)
    }

    fn facts(identity: &str) -> Facts {
        let unique = |index: &str, columns: &[&str]| Unique {
            index: index.to_owned(),
            is_primary: index == "pk",
            is_identity: identity == "i" && index == "by_sku",
            columns: columns.iter().map(|&name| name.to_owned()).collect(),
            ..Unique::default()
        };
        let uniques = vec![unique("pk", &["id"]), unique("by_sku", &["sku"])];
        Facts { identity: identity.to_owned(), uniques, odd_parts: false }
    }

    fn declared(text: &str) -> DocumentConfig {
        serde_json::from_str(text).unwrap()
    }

    /// Columns as they are taken, hidden ones in parentheses, then what is listed.
    fn shown(facts: &Facts, text: &str, version: u32) -> String {
        let mut table = table(&["id", "sku", "secret", "gone"]);
        if let Err(reason) = apply(&mut table, facts, &declared(text), version) {
            return reason;
        }
        let shape = table.shape.clone().unwrap();
        let field = |column: &Column| match shape.field(&column.name) {
            Some(field) => field.to_owned(),
            None => format!("({})", column.name),
        };
        let fields: Vec<String> = table.columns.iter().map(field).collect();
        let listed = shape.listed(&table).map(|names| names.join(","));
        format!("{} by {} {listed:?}", fields.join(","), table.key.unwrap().join(","))
    }

    #[test]
    fn shapes() {
        let check = |identity: &str, text: &str, expected: &str| {
            assert_eq!(shown(&facts(identity), text, 150_000), expected, "{text}");
        };
        check("d", "{}", "id,sku,secret,gone by id None");
        check("d", r#"{"exclude": ["s*"]}"#, r#"id,gone by id Some("gone,id")"#);
        check(
            "d",
            r#"{"include": ["sku"], "soft_delete": "gone", "rename": {"sku": "code"}}"#,
            r#"id,code,(gone) by id Some("gone,id,sku")"#,
        );
        // Whole rows bear no list; what the log needs is streamed and no field.
        check("f", r#"{"id": ["sku"], "exclude": ["secret"]}"#, "id,sku,gone by sku None");
        check(
            "i",
            r#"{"id": ["sku"], "include": ["secret"]}"#,
            r#"sku,secret by sku Some("secret,sku")"#,
        );
        check("d", r#"{"id": ["id"], "filter": "id > 0"}"#, "id,sku,secret,gone by id None");
    }

    #[test]
    fn what_cannot_be_served_is_refused_by_name() {
        let check = |identity: &str, text: &str, version: u32, expected: &str| {
            let shown = shown(&facts(identity), text, version);
            assert!(shown.contains(expected), "{text}: {shown}");
        };
        check("d", r#"{"id": ["sku"]}"#, 150_000, "REPLICA IDENTITY USING INDEX by_sku");
        check("d", r#"{"id": ["gone"]}"#, 150_000, "is no unique key");
        check("d", r#"{"id": ["id", "sku"]}"#, 150_000, "is no unique key");
        check("d", r#"{"rename": {"x": "y"}}"#, 150_000, "rename names column [x]");
        check("d", r#"{"rename": {"sku": "gone"}}"#, 150_000, "two of its fields are named [gone]");
        check("d", r#"{"constants": {"sku": 1}}"#, 150_000, "two of its fields are named [sku]");
        check("d", r#"{"exclude": ["x*"]}"#, 150_000, "exclude names [x*]");
        check("d", r#"{"filter": "id > 0"}"#, 140_000, "needs PostgreSQL 15");
        assert_eq!(
            shown(&facts("d"), r#"{"exclude": ["secret"]}"#, 140_000),
            "id,sku,gone by id None"
        );
        let mut facts = facts("f");
        facts.uniques[1].nullable.push("sku".to_owned());
        assert!(shown(&facts, r#"{"id": ["sku"]}"#, 150_000).contains("SET NOT NULL"));
    }

    #[test]
    fn mappings() {
        let mut table = table(&["id", "sku"]);
        table.comments.insert("sku".to_owned(), "stock keeping unit".to_owned());
        let text = r#"{"rename": {"sku": "code"}, "constants": {"shop": "main", "n": [1]},
            "mappings": {"dynamic": false, "_meta": {"by": "me"},
                         "properties": {"id": {"type": "keyword"}}}}"#;
        apply(&mut table, &facts("d"), &declared(text), 150_000).unwrap();
        let found = mapping(&table);
        assert_eq!(found["properties"]["id"], json!({"type": "keyword"}));
        assert_eq!(found["properties"]["code"]["type"], "text");
        assert_eq!(found["properties"]["n"], json!({"type": "long"}));
        assert_eq!(found["properties"]["shop"], json!({"type": "keyword"}));
        let meta = json!({"descriptions": {"code": "stock keeping unit"}, "by": "me"});
        assert_eq!((&found["_meta"], &found["dynamic"]), (&meta, &json!(false)));
    }
}
