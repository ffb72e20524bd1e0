//! Documents from several tables: a declaration's related tables held against what the catalog says.
//! The outcome is a composition, which the engine keeps and carries out; here is decided which
//! columns pair rows, which are shown, and which are kept for that.
//!
//! A table whose documents are compound has its related tables with it, so that whoever follows it
//! follows them too: they are copied from one snapshot into one index, and their changes in one
//! transaction are one batch. What cannot be served is told as the reason why the table is not
//! followed.

use std::sync::Arc;

use egret_engine::composition::{
    Aggregate, Columns, Composition, Definition, Function, Join, Order, Relation, RelationKind,
    Shape, Through,
};
use rustc_hash::FxHashSet;
use serde_json::{Map, Value, json};

use crate::catalog::{Column, Table};
use crate::config::{PipelineConfig, RelatedConfig, RelatedKind, exact};
use crate::connect::Control;
use crate::error::Result;
use crate::selection::glob;
use crate::types::{Kind, mapping};

/// What a table's documents are composed of.
#[derive(Debug, Clone)]
pub(crate) struct Compound {
    pub(crate) definition: Definition,
    /// The other tables, from the definition's second on.
    pub(crate) related: Vec<Arc<Table>>,
    /// The mapping of the fields that come from them.
    pub(crate) properties: Map<String, Value>,
}

impl Compound {
    /// What documents are made by, as an index remembers it: with the tables as they are.
    pub(crate) fn to_text(&self) -> String {
        let column = |column: &Column| (column.name.clone(), column.type_oid);
        let table = |table: &Arc<Table>| {
            let columns: Vec<_> = table.columns.iter().map(column).collect();
            json!([table.oid, columns, table.key.clone().unwrap_or_default()])
        };
        let tables: Vec<Value> = self.related.iter().map(table).collect();
        json!([serde_json::to_value(&self.definition).unwrap_or_default(), tables]).to_string()
    }
}

/// How rows of a table are kept in the index of compound documents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RowsOf {
    /// The table's place in the composition.
    pub(crate) table: usize,
    /// The columns that are kept.
    pub(crate) columns: FxHashSet<String>,
}

/// A foreign key: pairs of columns.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ForeignKey {
    oid: u32,
    from: u32,
    to: u32,
    columns: Vec<String>,
    referenced: Vec<String>,
}

const FOREIGN_KEYS: &str = "
    SELECT c.oid, c.conrelid, c.confrelid, a.attname::text, f.attname::text
    FROM pg_catalog.pg_constraint c
    CROSS JOIN LATERAL ROWS FROM (unnest(c.conkey), unnest(c.confkey))
      WITH ORDINALITY AS k (own, other, place)
    JOIN pg_catalog.pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.own
    JOIN pg_catalog.pg_attribute f ON f.attrelid = c.confrelid AND f.attnum = k.other
    WHERE c.contype = 'f' AND c.conrelid = ANY($1) AND c.confrelid = ANY($1)
    ORDER BY c.oid, k.place";

/// Gives tables whose declarations have related tables what their documents are composed of. One
/// that cannot be served has the reason in the place of its key.
pub(crate) async fn assemble(
    control: &Control,
    tables: &mut [Table],
    config: &PipelineConfig,
) -> Result<()> {
    if config.documents.iter().all(|document| document.related.is_empty()) {
        return Ok(());
    }
    let keys = foreign_keys(control, tables).await?;
    let all = tables.to_vec();
    for table in tables {
        let declared = table.shape.as_ref().map(|shape| Arc::clone(&shape.declaration));
        let Some(declared) = declared.filter(|it| !it.related.is_empty()) else { continue };
        if table.key.is_err() {
            continue;
        }
        let builder = Builder {
            all: &all,
            keys: &keys,
            tables: vec![table.clone()],
            used: vec![FxHashSet::default()],
        };
        match builder.build(&declared.related, config) {
            Ok((compound, rows)) => {
                table.compound = Some(Arc::new(compound));
                table.rows_of = Some(Arc::new(rows));
            }
            Err(reason) => table.key = Err(reason),
        }
    }
    Ok(())
}

async fn foreign_keys(control: &Control, tables: &[Table]) -> Result<Vec<ForeignKey>> {
    let oids: Vec<u32> = tables.iter().map(|table| table.oid).collect();
    let mut keys: Vec<ForeignKey> = Vec::new();
    for row in control.rows("reading foreign keys", FOREIGN_KEYS, &[&oids]).await? {
        let oid = row.try_get(0)?;
        if keys.last().is_none_or(|known| known.oid != oid) {
            let (from, to) = (row.try_get(1)?, row.try_get(2)?);
            let (columns, referenced) = (Vec::new(), Vec::new());
            keys.push(ForeignKey { oid, from, to, columns, referenced });
        }
        if let Some(key) = keys.last_mut() {
            key.columns.push(row.try_get(3)?);
            key.referenced.push(row.try_get(4)?);
        }
    }
    Ok(keys)
}

type Told<T> = std::result::Result<T, String>;

/// The columns of two tables whose values are equal: the referring ones and the referred ones.
type Pairing = (Vec<String>, Vec<String>);

struct Builder<'a> {
    all: &'a [Table],
    keys: &'a [ForeignKey],
    /// The tables that take part, by their place.
    tables: Vec<Table>,
    /// The columns of each that are needed.
    used: Vec<FxHashSet<String>>,
}

impl Builder<'_> {
    fn build(
        mut self,
        related: &[RelatedConfig],
        config: &PipelineConfig,
    ) -> Told<(Compound, RowsOf)> {
        let root = self.table(0)?;
        let shape = root.shape.clone().ok_or("it is not declared")?;
        let shown = |column: &&Column| shape.field(&column.name).is_some();
        let only: Vec<String> =
            root.columns.iter().filter(shown).map(|column| column.name.clone()).collect();
        let columns = Columns {
            only: Some(only.clone()),
            rename: shape.declaration.rename.clone(),
            constants: shape.declaration.constants.clone(),
            ..Columns::default()
        };
        let mut fields: Vec<String> =
            only.iter().filter_map(|name| shape.field(name)).map(str::to_owned).collect();
        fields.extend(columns.constants.keys().cloned());
        self.note(0, &only);
        let mut properties = Map::new();
        let relations = self.relations(0, related, &mut fields, &mut properties)?;
        let definition = Definition {
            tables: self.tables.iter().map(Table::title).collect(),
            max_nested_rows: config.max_nested_rows,
            max_document_bytes: config.max_document_bytes,
            root: Shape { table: 0, columns, relations },
        };
        Composition::new(definition.clone()).map_err(|error| error.to_string())?;
        let mut rows = self.used.into_iter().enumerate();
        let mut next = || rows.next().map(|(table, columns)| RowsOf { table, columns });
        let own = next().ok_or("it has no columns")?;
        let kept = |table: Table| Arc::new(Table { rows_of: next().map(Arc::new), ..table });
        let related = self.tables.into_iter().skip(1).map(kept).collect();
        Ok((Compound { definition, related, properties }, own))
    }

    fn table(&self, place: usize) -> Told<Table> {
        self.tables.get(place).cloned().ok_or_else(|| "a table is missing".to_owned())
    }

    /// The place of a table by its name, taken in where it is new.
    fn place(&mut self, name: &str) -> Told<usize> {
        let (schema, table) = exact(name).map_err(|error| error.to_string())?;
        let same = |known: &&Table| (&known.schema, &known.name) == (&schema, &table);
        if let Some(place) = self.tables.iter().position(|known| same(&known)) {
            return Ok(place);
        }
        let found = self.all.iter().find(same);
        let found = found.ok_or_else(|| format!("there is no related table [{name}]"))?;
        if let Err(reason) = &found.key {
            return Err(format!("related table [{name}]: {reason}"));
        }
        if found.shape.is_some() {
            return Err(format!(
                "related table [{name}] is declared as a document of its own, whose rows and columns \
                 need not be all"
            ));
        }
        self.tables.push(found.clone());
        self.used.push(FxHashSet::default());
        Ok(self.tables.len() - 1)
    }

    fn note(&mut self, place: usize, columns: &[String]) {
        if let Some(used) = self.used.get_mut(place) {
            used.extend(columns.iter().cloned());
        }
    }

    fn relations(
        &mut self,
        parent: usize,
        configs: &[RelatedConfig],
        fields: &mut Vec<String>,
        properties: &mut Map<String, Value>,
    ) -> Told<Vec<Relation>> {
        let mut relations = Vec::with_capacity(configs.len());
        for config in configs {
            let relation = self.relation(parent, config, properties);
            let relation = relation.map_err(|reason| format!("[{}]: {reason}", config.table))?;
            fields.extend(relation.field.clone());
            fields.extend(relation.aggregates.iter().map(|aggregate| aggregate.field.clone()));
            relations.push(relation);
        }
        let mut known = FxHashSet::default();
        match fields.iter().find(|field| !known.insert(field.as_str())) {
            Some(twice) => Err(format!("two fields are named [{twice}]")),
            None => Ok(relations),
        }
    }

    fn relation(
        &mut self,
        parent: usize,
        config: &RelatedConfig,
        properties: &mut Map<String, Value>,
    ) -> Told<Relation> {
        let place = self.place(&config.table)?;
        let table = self.table(place)?;
        let join = self.join(parent, place, config)?;
        let order_by =
            config.order_by.iter().map(|text| order(&table, text)).collect::<Told<Vec<_>>>()?;
        let mut aggregates = Vec::new();
        for (field, text) in &config.aggregates {
            let (function, kind) = function(&table, text)?;
            if let Function::Sum(column) = &function {
                self.note(place, std::slice::from_ref(column));
            }
            properties.insert(field.clone(), json!({"type": kind}));
            aggregates.push(Aggregate { field: field.clone(), function });
        }
        let order_columns: Vec<String> =
            order_by.iter().map(|order| order.column.clone()).collect();
        self.note(place, &order_columns);
        let (columns, mut own_fields, mut own) = shown(&table, config)?;
        if config.field.is_some() {
            self.note(place, columns.only.as_deref().unwrap_or_default());
        }
        let relations = self.relations(place, &config.related, &mut own_fields, &mut own)?;
        if let Some(field) = &config.field {
            properties.insert(field.clone(), json!({"properties": own}));
        }
        Ok(Relation {
            field: config.field.clone(),
            kind: match config.kind {
                RelatedKind::One => RelationKind::One,
                RelatedKind::Many => RelationKind::Many,
            },
            join,
            order_by,
            aggregates,
            shape: Shape { table: place, columns, relations },
        })
    }

    /// Which rows belong together.
    fn join(&mut self, parent: usize, child: usize, config: &RelatedConfig) -> Told<Join> {
        let Some(through) = &config.through else {
            let many = config.kind == RelatedKind::Many;
            let (from, to) = if many { (child, parent) } else { (parent, child) };
            let (own, other) = self.pairing(from, to, &config.foreign_key, "foreign_key")?;
            let (parent, child) = if many { (other, own) } else { (own, other) };
            return Ok(Join { parent, child, through: None });
        };
        let between = self.place(&through.table)?;
        let (up, parent) = self.pairing(between, parent, &through.parent_key, "parent_key")?;
        let (down, child) = self.pairing(between, child, &through.child_key, "child_key")?;
        let through = Through { table: between, parent: up, child: down };
        Ok(Join { parent, child, through: Some(through) })
    }

    /// The columns by which rows of one table name a row of another: as given, by its key, or the
    /// only foreign key between them.
    fn pairing(&mut self, from: usize, to: usize, given: &[String], option: &str) -> Told<Pairing> {
        let (referring, referred) = (self.table(from)?, self.table(to)?);
        let pairing = if given.is_empty() {
            let between = |key: &&ForeignKey| (key.from, key.to) == (referring.oid, referred.oid);
            let mut keys = self.keys.iter().filter(between);
            let (Some(key), None) = (keys.next(), keys.next()) else {
                return Err(format!(
                    "{option} is not given, and there is not just one foreign key from [{}] to [{}]",
                    referring.title(),
                    referred.title()
                ));
            };
            (key.columns.clone(), key.referenced.clone())
        } else {
            (given.to_vec(), referred.key.clone()?)
        };
        if pairing.0.len() != pairing.1.len() {
            let title = referred.title();
            return Err(format!("{option} has not as many columns as the key of [{title}]"));
        }
        pairing.0.iter().try_for_each(|name| has(&referring, name))?;
        pairing.1.iter().try_for_each(|name| has(&referred, name))?;
        self.note(from, &pairing.0);
        self.note(to, &pairing.1);
        Ok(pairing)
    }
}

fn has(table: &Table, name: &str) -> Told<()> {
    if table.has_column(name) {
        return Ok(());
    }
    Err(format!("table [{}] has no column [{name}], or it is generated", table.title()))
}

/// What a configuration shows of a table: its columns, fields, and mapping.
fn shown(
    table: &Table,
    config: &RelatedConfig,
) -> Told<(Columns, Vec<String>, Map<String, Value>)> {
    let fits = |patterns: &[String], name: &str| patterns.iter().any(|it| glob(it, name));
    for pattern in config.include.iter().chain(&config.exclude) {
        if !table.columns.iter().any(|column| glob(pattern, &column.name)) {
            return Err(format!("no column fits [{pattern}]"));
        }
    }
    config.rename.keys().try_for_each(|name| has(table, name))?;
    let taken = table.columns.iter().filter(|column| {
        fits(&config.include, &column.name) && !fits(&config.exclude, &column.name)
    });
    let (mut only, mut fields, mut properties) = (Vec::new(), Vec::new(), Map::new());
    for column in taken {
        let field = config.rename.get(&column.name).unwrap_or(&column.name);
        only.push(column.name.clone());
        fields.push(field.clone());
        properties.insert(field.clone(), mapping(&column.kind));
    }
    let columns = Columns { only: Some(only), rename: config.rename.clone(), ..Columns::default() };
    Ok((columns, fields, properties))
}

/// `column`, `column asc` or `column desc`.
fn order(table: &Table, text: &str) -> Told<Order> {
    let (column, descending) = match text.rsplit_once(' ') {
        Some((column, "desc")) => (column, true),
        Some((column, "asc")) => (column, false),
        _ => (text, false),
    };
    has(table, column)?;
    Ok(Order { column: column.to_owned(), descending })
}

/// `count` or `sum(column)`, and the type of what it gives.
fn function(table: &Table, text: &str) -> Told<(Function, &'static str)> {
    if text == "count" {
        return Ok((Function::Count, "long"));
    }
    let column = text.strip_prefix("sum(").and_then(|rest| rest.strip_suffix(')'));
    let column = column.ok_or_else(|| format!("aggregate [{text}] is not count or sum(column)"))?;
    has(table, column)?;
    let kind = table.columns.iter().find(|known| known.name == column).map(|it| &it.kind);
    let kind = match kind {
        Some(Kind::Integer | Kind::Long) => "long",
        Some(Kind::Numeric | Kind::Money | Kind::Float) => "double",
        _ => return Err(format!("column [{column}] is no number, and has no sum")),
    };
    Ok((Function::Sum(column.to_owned()), kind))
}
