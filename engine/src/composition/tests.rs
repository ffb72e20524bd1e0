//! Composition against a naive join, and the way up against what has really changed.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;

/// Rows in memory.
#[derive(Debug, Clone)]
pub(crate) struct Tables {
    pub(crate) composition: Composition,
    pub(crate) rows: BTreeMap<(usize, String), Value>,
}

impl Rows for Tables {
    fn row(&self, id: &str) -> Result<Option<Bytes>> {
        let (table, key) = parse_row_id(id).unwrap();
        Ok(self.rows.get(&(table, key.to_owned())).map(|row| Bytes::from(row.to_string())))
    }

    fn each(&self, term: &str, found: &mut dyn FnMut(Row) -> Result<bool>) -> Result<()> {
        for ((table, key), row) in &self.rows {
            let source = Bytes::from(row.to_string());
            let terms = self.composition.terms(*table, &source)?;
            let row = Row { id: row_id(*table, key), source };
            if terms.iter().any(|own| own == term) && !found(row)? {
                return Ok(());
            }
        }
        Ok(())
    }
}

impl Tables {
    pub(crate) fn new(definition: &Value) -> Self {
        let composition = Composition::from_json(definition).unwrap();
        Self { composition, rows: BTreeMap::new() }
    }

    /// What the engine composes.
    fn composed(&self, key: &str) -> Option<Value> {
        match compose(&self.composition, self, key).unwrap().unwrap() {
            Composed::Gone => None,
            Composed::Document(text) => Some(serde_json::from_slice(&text).unwrap()),
        }
    }

    /// Every document, joined row by row.
    pub(crate) fn joined(&self) -> BTreeMap<String, Value> {
        let root = &self.composition.definition.root;
        let rows = self.rows.iter().filter(|((table, _), _)| *table == root.table);
        rows.map(|((_, key), row)| (key.clone(), self.join(root, row))).collect()
    }

    fn join(&self, shape: &Shape, row: &Value) -> Value {
        let mut object = Map::new();
        for (column, value) in row.as_object().unwrap() {
            let columns = &shape.columns;
            let wanted = columns.only.as_ref().is_none_or(|only| only.contains(column));
            if wanted && !columns.except.contains(column) {
                let name = columns.rename.get(column).unwrap_or(column);
                object.insert(name.clone(), value.clone());
            }
        }
        object.extend(shape.columns.constants.clone());
        for relation in &shape.relations {
            let mut found = self.related(relation, row);
            found.sort_by(|(one, a), (other, b)| {
                let key = |key: &String| key.parse::<i64>().unwrap();
                let mut columns = relation.order_by.iter().map(|order| compare(order, a, b));
                let by_columns = columns.find(|ordering| ordering.is_ne());
                by_columns.unwrap_or_else(|| key(one).cmp(&key(other)))
            });
            for Aggregate { field, function } in &relation.aggregates {
                let value = aggregate(function, &found);
                object.insert(field.clone(), value);
            }
            let Some(field) = &relation.field else { continue };
            let mut shown = found.iter().map(|(_, row)| self.join(&relation.shape, row));
            let value = match relation.kind {
                RelationKind::One => shown.next().unwrap_or_default(),
                RelationKind::Many => shown.collect(),
            };
            object.insert(field.clone(), value);
        }
        Value::Object(object)
    }

    fn related(&self, relation: &Relation, row: &Value) -> Vec<(String, Value)> {
        let Join { parent, child, through } = &relation.join;
        let Some(through) = through else {
            return self.equal(relation.shape.table, child, row, parent);
        };
        let pairs = self.equal(through.table, &through.parent, row, parent);
        let of = |(_, pair): &(String, Value)| {
            self.equal(relation.shape.table, child, pair, &through.child)
        };
        pairs.iter().flat_map(of).collect()
    }

    fn equal(
        &self,
        table: usize,
        columns: &[String],
        row: &Value,
        values: &[String],
    ) -> Vec<(String, Value)> {
        let same = |other: &Value| {
            columns
                .iter()
                .zip(values)
                .all(|(column, value)| !row[value].is_null() && other[column] == row[value])
        };
        let rows = self.rows.iter().filter(|((of, _), other)| *of == table && same(other));
        rows.map(|((_, key), other)| (key.clone(), other.clone())).collect()
    }
}

fn compare(Order { column, descending }: &Order, a: &Value, b: &Value) -> std::cmp::Ordering {
    let value = |row: &Value| row[column].as_i64().unwrap_or(i64::MAX);
    let ordering = value(a).cmp(&value(b));
    if *descending { ordering.reverse() } else { ordering }
}

fn aggregate(function: &Function, rows: &[(String, Value)]) -> Value {
    let Function::Sum(column) = function else { return json!(rows.len()) };
    let numbers: Vec<i64> = rows.iter().filter_map(|(_, row)| row[column].as_i64()).collect();
    (!numbers.is_empty()).then(|| numbers.iter().sum::<i64>()).into()
}

/// Products, each with a maker, reviews of people, and shelves through a table of pairs.
pub(crate) fn shop() -> Value {
    json!({
        "tables": ["products", "makers", "reviews", "people", "places", "shelves"],
        "root": {
            "table": 0,
            "columns": {"except": ["maker"], "rename": {"a": "price"},
                        "constants": {"shop": "main"}},
            "relations": [
                {"field": "maker", "kind": "one",
                 "join": {"parent": ["maker"], "child": ["id"]},
                 "shape": {"table": 1, "columns": {"only": ["a"]}}},
                {"field": "reviews", "kind": "many",
                 "join": {"parent": ["id"], "child": ["product"]},
                 "order_by": [{"column": "a", "descending": true}],
                 "aggregates": [{"field": "review_count", "function": "count"},
                                {"field": "review_sum", "function": {"sum": "a"}}],
                 "shape": {"table": 2, "relations": [
                     {"field": "by", "kind": "one",
                      "join": {"parent": ["person"], "child": ["id"]},
                      "shape": {"table": 3}},
                 ]}},
                {"field": "shelves", "kind": "many",
                 "join": {"parent": ["id"], "child": ["id"],
                          "through": {"table": 4, "parent": ["product"], "child": ["shelf"]}},
                 "shape": {"table": 5, "columns": {"except": ["id"]}}},
            ],
        },
    })
}

/// One change: a table, a key, and the new row's values, or none.
pub(crate) type RowChange = (usize, u8, Option<[Option<u8>; 3]>);

/// A row of a table of the shop.
pub(crate) fn shop_row(table: usize, key: u8, [one, other, a]: [Option<u8>; 3]) -> Value {
    match table {
        0 => json!({"id": key, "maker": one, "a": a}),
        2 => json!({"id": key, "product": one, "person": other, "a": a}),
        4 => json!({"id": key, "product": one, "shelf": other}),
        _ => json!({"id": key, "a": a}),
    }
}

pub(crate) fn changes() -> impl Strategy<Value = Vec<RowChange>> {
    let value = || prop::option::weighted(0.9, 0_u8..4);
    let row = [value(), value(), value()];
    prop::collection::vec((0_usize..6, 0_u8..4, prop::option::weighted(0.75, row)), 1..12)
}

proptest! {
    #[test]
    fn composes_as_the_naive_join(steps in prop::collection::vec(changes(), 1..6)) {
        let mut tables = Tables::new(&shop());
        let composition = tables.composition.clone();
        for step in steps {
            let before = tables.joined();
            let mut affected = Affected::default();
            let note = |tables: &Tables, affected: &mut Affected, table, key: &str| {
                let id = row_id(table, key);
                if let Some(source) = tables.row(&id).unwrap() {
                    affected.note(&composition, &id, &source).unwrap();
                }
            };
            for (table, key, row) in step {
                let id = key.to_string();
                note(&tables, &mut affected, table, &id);
                match row {
                    Some(row) => {
                        tables.rows.insert((table, id.clone()), shop_row(table, key, row));
                    }
                    None => drop(tables.rows.remove(&(table, id.clone()))),
                }
                note(&tables, &mut affected, table, &id);
            }
            let found = affected.resolve(&composition, &tables).unwrap();
            let after = tables.joined();
            for key in 0..4 {
                let key = key.to_string();
                prop_assert_eq!(tables.composed(&key), after.get(&key).cloned());
                let changed = before.get(&key) != after.get(&key);
                prop_assert!(!changed || found.contains(&key), "{} is not found", key);
            }
        }
    }
}

#[test]
fn too_many_rows_are_the_documents_own_fault() {
    let mut definition = shop();
    definition["max_nested_rows"] = json!(3);
    let mut tables = Tables::new(&definition);
    let row = |tables: &mut Tables, table, key: u8, values| {
        tables.rows.insert((table, key.to_string()), shop_row(table, key, values));
    };
    row(&mut tables, 0, 1, [None, None, None]);
    for key in 0..3 {
        row(&mut tables, 2, key, [Some(1), None, Some(key)]);
    }
    assert_eq!(tables.composed("1").unwrap()["review_count"], json!(3));
    row(&mut tables, 3, 1, [None; 3]);
    row(&mut tables, 2, 2, [Some(1), Some(1), None]);
    let error = compose(&tables.composition, &tables, "1").unwrap().unwrap_err();
    assert!(error.to_string().contains("max_nested_rows [3]"), "{error}");
}

#[test]
fn values_are_compared_by_what_they_mean() {
    let check = |one: &str, other: &str, same: bool| {
        let term = |value: &str| {
            let source = format!("{{\"k\":{value}}}");
            link_term(0, &members(&source).unwrap(), &["k".to_owned()])
        };
        let (one, other) = (term(one), term(other));
        assert_eq!(one.is_some() && one == other, same, "{one:?} {other:?}");
    };
    check("1", "1.00", true);
    check("1.50", "1.5", true);
    check("10", "1", false);
    check("\"a\\u0062\"", "\"ab\"", true);
    check("null", "null", false);
    check("true", "true", true);
}

#[test]
fn bad_definitions_are_refused() {
    let check = |change: fn(&mut Value), expected: &str| {
        let mut definition = shop();
        change(&mut definition);
        let error = Composition::from_json(&definition).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    };
    check(|it| it["tables"] = json!([]), "1 to 64 tables");
    check(|it| it["root"]["table"] = json!(9), "no table [9]");
    check(|it| it["max_nested_rows"] = json!(0), "max_nested_rows");
    check(|it| it["root"]["relations"][0]["field"] = json!("price"), "[price] is given twice");
    check(|it| it["root"]["relations"][0]["field"] = Value::Null, "neither a field");
    check(|it| it["root"]["relations"][0]["join"]["child"] = json!([]), "[makers]");
    check(|it| it["root"]["relations"][2]["join"]["through"]["table"] = json!(9), "table [9]");
    check(|it| it["root"]["unknown"] = json!(1), "unknown");
    let mut deep = json!({"table": 0});
    for _ in 0..=MAX_DEPTH {
        deep = json!({"table": 0, "relations": [{"field": "f", "kind": "many",
            "join": {"parent": ["a"], "child": ["b"]}, "shape": deep}]});
    }
    let error = Composition::from_json(&json!({"tables": ["t"], "root": deep})).unwrap_err();
    assert!(error.to_string().contains("8 deep"), "{error}");
    let composition = Composition::from_json(&shop()).unwrap();
    assert_eq!(Composition::from_json(&composition.to_json()).unwrap(), composition);
}
