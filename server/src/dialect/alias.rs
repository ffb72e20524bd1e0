//! Aliases: what an alias says, and the actions of `_aliases`.

use std::collections::BTreeMap;

use egret_engine::catalog::{Alias, AliasAction};
use serde_json::{Map, Value};

use super::json::{Field, did_you_mean};
use super::query::{FieldKind, Fields, QueryReader};
use crate::error::{Error, Result};

const KEYS: &[&str] =
    &["filter", "index_routing", "is_hidden", "is_write_index", "routing", "search_routing"];

/// A filter is read before anybody knows which fields there will be.
struct NoFields;

impl Fields for NoFields {
    fn matching(&self, _: &str) -> Vec<(String, FieldKind)> {
        Vec::new()
    }
}

/// Reads one option of an alias; whether it is one.
fn option(alias: &mut Alias, field: &Field<'_>) -> Result<bool> {
    match field.key {
        "filter" if field.value.is_null() => alias.filter = None,
        "filter" => {
            QueryReader::new(&NoFields).query(field.value)?;
            alias.filter = Some(field.value.clone());
        }
        "routing" => {
            // What is said of one kind alone goes before it.
            let routing = field.text()?;
            alias.index_routing.get_or_insert_with(|| routing.clone());
            alias.search_routing.get_or_insert(routing);
        }
        "index_routing" | "indexRouting" | "index-routing" => {
            alias.index_routing = Some(field.text()?);
        }
        "search_routing" | "searchRouting" | "search-routing" => {
            alias.search_routing = Some(field.text()?);
        }
        "is_write_index" => alias.is_write_index = Some(field.boolean()?),
        "is_hidden" => alias.is_hidden = Some(field.boolean()?),
        _ => return Ok(false),
    }
    Ok(true)
}

/// Reads what an alias says: `{"filter": …, "routing": …}`.
pub(crate) fn read(body: &Map<String, Value>) -> Result<Alias> {
    let mut alias = Alias::default();
    for (key, value) in body {
        if !option(&mut alias, &Field::new("alias", key, value))? {
            let offer = did_you_mean(key, KEYS);
            return Err(Error::content(format!("[alias] unknown field [{key}]{offer}")));
        }
    }
    Ok(alias)
}

/// Reads `{"<alias>": {…}, …}`.
pub(crate) fn read_all(field: &Field<'_>) -> Result<BTreeMap<String, Alias>> {
    let mut aliases = BTreeMap::new();
    for (name, value) in field.object()? {
        let alias = match value {
            Value::Null => Alias::default(),
            value => read(Field::new(field.clause, name, value).object()?)?,
        };
        aliases.insert(name.clone(), alias);
    }
    Ok(aliases)
}

/// Reads the body of `_aliases`: `{"actions": [{"add": {…}}, …]}`.
pub(crate) fn actions(body: &Map<String, Value>) -> Result<Vec<AliasAction>> {
    let mut actions = Vec::new();
    for (key, value) in body {
        let field = Field::new("aliases", key, value);
        if key != "actions" {
            return Err(Error::content(format!("[aliases] unknown field [{key}]")));
        }
        for entry in field.array()? {
            for (kind, value) in Field::new("aliases", "actions", entry).object()? {
                actions.push(action(kind, &Field::new("aliases", kind, value))?);
            }
        }
    }
    if actions.is_empty() {
        return Err(Error::argument("No action specified"));
    }
    Ok(actions)
}

fn action(kind: &str, field: &Field<'_>) -> Result<AliasAction> {
    let (mut indexes, mut aliases) = (Vec::new(), Vec::new());
    let (mut alias, mut must_exist) = (Alias::default(), None);
    for (key, value) in field.object()? {
        let own = Field::new(kind, key, value);
        match (kind, key.as_str()) {
            (_, "index" | "indices") => indexes.extend(own.texts()?),
            ("add" | "remove", "alias" | "aliases") => aliases.extend(own.texts()?),
            ("add" | "remove", "must_exist") => must_exist = Some(own.boolean()?),
            ("add", _) if option(&mut alias, &own)? => {}
            _ => return Err(Error::content(format!("[{kind}] unknown field [{key}]"))),
        }
    }
    if indexes.iter().all(String::is_empty) {
        return Err(Error::argument(format!("[{kind}] One of [index] or [indices] is required")));
    }
    let indexes = indexes.join(",");
    if kind != "remove_index" && aliases.iter().all(String::is_empty) {
        return Err(Error::argument(format!("[{kind}] One of [alias] or [aliases] is required")));
    }
    match kind {
        "add" => Ok(AliasAction::Add { indexes, aliases, alias }),
        "remove" => Ok(AliasAction::Remove { indexes, aliases, must_exist }),
        "remove_index" => Ok(AliasAction::RemoveIndex { indexes }),
        _ => Err(Error::content(format!("[aliases] unknown field [{kind}]"))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: &Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap()
    }

    #[test]
    fn what_an_alias_says() {
        let alias = read(&object(&json!({
            "filter": {"term": {"a": 1}}, "routing": 5, "is_write_index": true,
        })));
        let expected = Alias {
            filter: Some(json!({"term": {"a": 1}})),
            index_routing: Some("5".to_owned()),
            search_routing: Some("5".to_owned()),
            is_write_index: Some(true),
            is_hidden: None,
        };
        assert_eq!(alias.unwrap(), expected);
        for bad in [json!({"filtre": {}}), json!({"filter": {"no": {}}}), json!({"is_hidden": 3})] {
            assert!(read(&object(&bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn actions_name_indexes_and_aliases() {
        let all = actions(&object(&json!({"actions": [
            {"add": {"indices": ["a", "b*"], "alias": "x", "is_hidden": true}},
            {"remove": {"index": "c", "aliases": ["y", "z"], "must_exist": true}},
            {"remove_index": {"index": "d"}},
        ]})));
        let alias = Alias { is_hidden: Some(true), ..Alias::default() };
        let texts = |all: &[&str]| all.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            all.unwrap(),
            [
                AliasAction::Add { indexes: "a,b*".into(), aliases: texts(&["x"]), alias },
                AliasAction::Remove {
                    indexes: "c".into(),
                    aliases: texts(&["y", "z"]),
                    must_exist: Some(true),
                },
                AliasAction::RemoveIndex { indexes: "d".into() },
            ]
        );
        let refused = |body: Value, expected: &str| {
            let error = actions(&object(&body)).unwrap_err();
            assert!(error.reason().contains(expected), "{}", error.reason());
        };
        refused(json!({}), "No action");
        refused(json!({"actions": [{"add": {"index": "a"}}]}), "[alias] or [aliases]");
        refused(json!({"actions": [{"add": {"alias": "a"}}]}), "[index] or [indices]");
        refused(json!({"actions": [{"ad": {"index": "a", "alias": "b"}}]}), "[ad]");
        refused(json!({"actions": [{"remove_index": {"index": "a", "alias": "b"}}]}), "[alias]");
    }
}
