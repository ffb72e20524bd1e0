//! Templates: what new indexes whose names fit a pattern begin with.
//!
//! An index template applies alone, the one of the highest priority; it may be composed of component
//! templates. Templates of the older kind apply together, in their order, where no index template
//! fits. What a request says goes before any template; what a followed index's mapping has only by
//! inference from its table's columns goes behind.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::alias::Alias;
use super::model::Catalog;
use super::pattern::{matches, overlap};
use super::{Engine, name};
use crate::error::{Error, ErrorKind, Result};
use crate::mapping::Mapping;
use crate::store::settings::{IndexSettings, SettingsUpdate};

/// What an index begins with.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Template {
    /// Settings, nested below `index`; `null` for none.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub settings: Value,
    /// A mapping in Elasticsearch's format; `null` for none.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub mappings: Value,
    /// Aliases; `{index}` in a name stands for the index's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aliases: Option<BTreeMap<String, Alias>>,
}

/// A part of index templates.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ComponentTemplate {
    /// What it adds.
    pub template: Template,
    /// Its owner's number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<i64>,
    /// Its owner's notes.
    #[serde(default, rename = "_meta", skip_serializing_if = "Option::is_none")]
    pub meta: Option<Value>,
}

/// A template of indexes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexTemplate {
    /// The names it is for.
    pub index_patterns: Vec<String>,
    /// What it adds to its components.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<Template>,
    /// Names of component templates, later ones before earlier ones.
    #[serde(default)]
    pub composed_of: Vec<String>,
    /// Of these, the ones that may be missing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignore_missing_component_templates: Vec<String>,
    /// The greatest wins; unset is 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u64>,
    /// Its owner's number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<i64>,
    /// Its owner's notes.
    #[serde(default, rename = "_meta", skip_serializing_if = "Option::is_none")]
    pub meta: Option<Value>,
}

/// A template of the older kind.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LegacyTemplate {
    /// The names it is for.
    pub index_patterns: Vec<String>,
    /// Greater ones go before smaller ones.
    #[serde(default)]
    pub order: i64,
    /// Its owner's number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<i64>,
    /// Settings, nested below `index`; `null` for none.
    #[serde(default)]
    pub settings: Value,
    /// A mapping in Elasticsearch's format; `null` for none.
    #[serde(default)]
    pub mappings: Value,
    /// Aliases; `{index}` in a name stands for the index's.
    #[serde(default)]
    pub aliases: BTreeMap<String, Alias>,
}

/// Parts laid over each other, later ones before earlier ones.
#[derive(Debug, Default)]
pub(super) struct Layers {
    pub(super) settings: IndexSettings,
    pub(super) mappings: Value,
    pub(super) aliases: BTreeMap<String, Alias>,
}

impl Layers {
    pub(super) fn add_settings(&mut self, settings: &Value) -> Result<()> {
        self.settings = self.settings.updated(settings, SettingsUpdate::default())?;
        Ok(())
    }

    pub(super) fn add_mappings(&mut self, mappings: &Value) {
        merge_mappings(&mut self.mappings, mappings);
    }

    pub(super) fn add_aliases(&mut self, aliases: &BTreeMap<String, Alias>) {
        self.aliases.extend(aliases.iter().map(|(name, alias)| (name.clone(), alias.clone())));
    }

    fn add(&mut self, template: &Template) -> Result<()> {
        self.add_settings(&template.settings)?;
        self.add_mappings(&template.mappings);
        template.aliases.iter().for_each(|aliases| self.add_aliases(aliases));
        Ok(())
    }

    /// Whether an index could begin so.
    fn check(&self) -> Result<()> {
        Mapping::from_json(&self.mappings)?;
        self.aliases
            .keys()
            .try_for_each(|alias| name::check_alias_name(&alias.replace("{index}", "i")))
    }
}

/// Lays one mapping over another: fields over fields of the same path, whole; objects merge.
pub(super) fn merge_mappings(below: &mut Value, above: &Value) {
    let Value::Object(above) = above else { return };
    if !below.is_object() {
        *below = Value::Object(Map::new());
    }
    let Value::Object(below) = below else { return };
    for (key, value) in above {
        match (key.as_str(), below.get_mut(key), value) {
            ("properties", Some(Value::Object(below)), Value::Object(above)) => {
                merge_properties(below, above);
            }
            ("_meta", Some(Value::Object(below)), Value::Object(above)) => {
                below.extend(above.clone());
            }
            _ => {
                below.insert(key.clone(), value.clone());
            }
        }
    }
}

fn merge_properties(below: &mut Map<String, Value>, above: &Map<String, Value>) {
    for (name, field) in above {
        match below.get_mut(name) {
            Some(object) if is_object(object) && is_object(field) => merge_mappings(object, field),
            _ => {
                below.insert(name.clone(), field.clone());
            }
        }
    }
}

fn is_object(field: &Value) -> bool {
    field.get("properties").is_some() && field.get("type").is_none_or(|kind| kind == "object")
}

impl Catalog {
    /// The index template for a name: of those that fit, the one of the highest priority.
    pub fn index_template(&self, index: &str) -> Option<(&str, &IndexTemplate)> {
        let fitting = self.index_templates.iter().filter(|(_, template)| {
            template.index_patterns.iter().any(|pattern| matches(pattern, index))
        });
        let best = fitting.max_by_key(|(_, template)| template.priority.unwrap_or(0));
        best.map(|(name, template)| (name.as_str(), template))
    }

    /// Templates of the older kind for a name, in the order in which they apply.
    pub fn legacy_templates(&self, index: &str) -> Vec<(&str, &LegacyTemplate)> {
        let fitting = self.legacy_templates.iter().filter(|(_, template)| {
            template.index_patterns.iter().any(|pattern| matches(pattern, index))
        });
        let mut fitting: Vec<_> = fitting.map(|(name, it)| (name.as_str(), it)).collect();
        fitting.sort_by_key(|(_, template)| template.order);
        fitting
    }

    /// Templates, other than `except`, that fit some of the names that `patterns` fit, with their
    /// patterns: index templates and those of the older kind.
    pub fn overlapping(&self, patterns: &[String], except: &str) -> Vec<(&str, &[String])> {
        let index = self.index_templates.iter().map(|(name, it)| (name, &it.index_patterns));
        let legacy = self.legacy_templates.iter().map(|(name, it)| (name, &it.index_patterns));
        let all = index.filter(|(name, _)| *name != except).chain(legacy);
        let shares = |others: &[String]| {
            patterns.iter().any(|pattern| others.iter().any(|other| overlap(pattern, other)))
        };
        let all = all.filter(|(_, others)| shares(others));
        all.map(|(name, others)| (name.as_str(), others.as_slice())).collect()
    }

    /// What an index template comes to with its components.
    pub fn composed(&self, template: &IndexTemplate) -> Result<Template> {
        let layers = self.layers(template)?;
        Ok(Template {
            settings: layers.settings.given(),
            mappings: layers.mappings,
            aliases: Some(layers.aliases),
        })
    }

    fn layers(&self, template: &IndexTemplate) -> Result<Layers> {
        let mut layers = Layers::default();
        for name in &template.composed_of {
            if let Some(component) = self.component_templates.get(name) {
                layers.add(&component.template)?;
            }
        }
        template.template.iter().try_for_each(|own| layers.add(own))?;
        Ok(layers)
    }

    /// What templates give a new index of this name.
    pub(super) fn layers_for(&self, index: &str) -> Result<Layers> {
        let mut layers = if let Some((_, template)) = self.index_template(index) {
            self.layers(template)?
        } else {
            let mut layers = Layers::default();
            for (_, template) in self.legacy_templates(index) {
                layers.add_settings(&template.settings)?;
                layers.add_mappings(&template.mappings);
                layers.add_aliases(&template.aliases);
            }
            layers
        };
        let aliases = std::mem::take(&mut layers.aliases).into_iter();
        layers.aliases =
            aliases.map(|(name, alias)| (name.replace("{index}", index), alias)).collect();
        Ok(layers)
    }

    /// Checks an index template against the others.
    pub fn check_index_template(&self, name: &str, template: &IndexTemplate) -> Result<()> {
        let absent: Vec<&str> = template
            .composed_of
            .iter()
            .filter(|it| !self.component_templates.contains_key(*it))
            .filter(|it| !template.ignore_missing_component_templates.contains(it))
            .map(String::as_str)
            .collect();
        if !absent.is_empty() {
            let problem = format!(
                "index template [{name}] specifies component templates [{}] that do not exist",
                absent.join(", ")
            );
            return Err(invalid(format!("index template [{name}] invalid, cause [{problem}]")));
        }
        let priority = template.priority.unwrap_or(0);
        let rivals = self.index_templates.iter().filter(|(other, rival)| {
            *other != name
                && rival.priority.unwrap_or(0) == priority
                && template
                    .index_patterns
                    .iter()
                    .any(|own| rival.index_patterns.iter().any(|other| overlap(own, other)))
        });
        let rivals: Vec<_> = rivals.collect();
        if !rivals.is_empty() {
            let names: Vec<&str> = rivals.iter().map(|(name, _)| name.as_str()).collect();
            let patterns: Vec<String> = rivals
                .iter()
                .map(|(name, rival)| format!("{name} => [{}]", rival.index_patterns.join(", ")))
                .collect();
            return Err(invalid(format!(
                "index template [{name}] has index patterns [{}] matching patterns from existing \
                 templates [{}] with patterns ({}) that have the same priority [{priority}], \
                 multiple index templates may not match during index creation, please use a \
                 different priority",
                template.index_patterns.join(", "),
                names.join(","),
                patterns.join(","),
            )));
        }
        self.layers(template)?.check()
    }

    fn put_component(&mut self, name: &str, mut it: ComponentTemplate, create: bool) -> Result<()> {
        name::check_template(name)?;
        if create && self.component_templates.contains_key(name) {
            return Err(invalid(format!("component template [{name}] already exists")));
        }
        normalize(&mut it.template.settings)?;
        let mut alone = Layers::default();
        alone.add(&it.template)?;
        alone.check()?;
        self.component_templates.insert(name.to_owned(), it);
        let used = |template: &&IndexTemplate| template.composed_of.iter().any(|it| it == name);
        let mut users = self.index_templates.values().filter(used);
        users.try_for_each(|template| self.layers(template)?.check())
    }

    fn put_index(&mut self, name: &str, mut it: IndexTemplate, create: bool) -> Result<()> {
        name::check_template(name)?;
        if create && self.index_templates.contains_key(name) {
            return Err(invalid(format!("index template [{name}] already exists")));
        }
        check_patterns(&it.index_patterns)?;
        it.template.iter_mut().try_for_each(|own| normalize(&mut own.settings))?;
        self.check_index_template(name, &it)?;
        self.index_templates.insert(name.to_owned(), it);
        Ok(())
    }

    fn put_legacy(&mut self, name: &str, mut it: LegacyTemplate, create: bool) -> Result<()> {
        name::check_template(name)?;
        if create && self.legacy_templates.contains_key(name) {
            return Err(invalid(format!("index_template [{name}] already exists")));
        }
        check_patterns(&it.index_patterns)?;
        normalize(&mut it.settings)?;
        let mut alone = Layers::default();
        alone.add_mappings(&it.mappings);
        alone.add_aliases(&it.aliases);
        alone.check()?;
        self.legacy_templates.insert(name.to_owned(), it);
        Ok(())
    }

    fn remove_components(&mut self, names: &[String]) -> Result<()> {
        let gone = remove(&mut self.component_templates, names)?;
        let users: Vec<&str> = self
            .index_templates
            .iter()
            .filter(|(_, template)| template.composed_of.iter().any(|it| gone.contains(it)))
            .map(|(name, _)| name.as_str())
            .collect();
        if users.is_empty() {
            return Ok(());
        }
        Err(invalid(format!(
            "component templates [{}] cannot be removed as they are still in use by index \
             templates [{}]",
            gone.join(", "),
            users.join(", ")
        )))
    }
}

/// Takes away what fits the names and patterns; a name that is not there is an error.
fn remove<T>(templates: &mut BTreeMap<String, T>, names: &[String]) -> Result<Vec<String>> {
    let mut gone = Vec::new();
    for name in names {
        let fitting: Vec<String> =
            templates.keys().filter(|it| matches(name, it)).cloned().collect();
        if fitting.is_empty() && !gone.contains(name) && name != "*" {
            let message = format!("index_template [{name}] missing");
            return Err(Error::new(ErrorKind::TemplateNotFound, message));
        }
        for name in fitting {
            templates.remove(&name);
            gone.push(name);
        }
    }
    Ok(gone)
}

fn check_patterns(patterns: &[String]) -> Result<()> {
    if patterns.is_empty() {
        return Err(invalid("index patterns are missing".to_owned()));
    }
    for pattern in patterns {
        let reason = if pattern.is_empty() {
            "must not be empty"
        } else if pattern.starts_with('_') {
            "must not start with '_'"
        } else if pattern.contains([' ', ',', '#', ':', '\\', '/', '?', '"', '<', '>', '|']) {
            "must not contain the following characters [' ',',','#',':','\\','/','?','\"','<','>','|']"
        } else {
            continue;
        };
        return Err(invalid(format!("index_pattern [{pattern}] {reason}")));
    }
    Ok(())
}

/// Settings as they are kept: checked, nested below `index`, values as texts.
fn normalize(settings: &mut Value) -> Result<()> {
    *settings = IndexSettings::from_json(settings)?.given();
    Ok(())
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidArgument, message)
}

/// Changes of templates. Each is on the disk when it returns, and blocks until then; `create`
/// refuses a name that is there already, and names to delete may be patterns.
impl Engine {
    /// Puts a component template.
    pub fn put_component_template(
        &self,
        name: &str,
        template: ComponentTemplate,
        create: bool,
    ) -> Result<()> {
        self.change(|catalog| catalog.put_component(name, template, create))
    }

    /// Puts an index template.
    pub fn put_index_template(
        &self,
        name: &str,
        template: IndexTemplate,
        create: bool,
    ) -> Result<()> {
        self.change(|catalog| catalog.put_index(name, template, create))
    }

    /// Puts a template of the older kind.
    pub fn put_legacy_template(
        &self,
        name: &str,
        template: LegacyTemplate,
        create: bool,
    ) -> Result<()> {
        self.change(|catalog| catalog.put_legacy(name, template, create))
    }

    /// Deletes component templates that no index template needs.
    pub fn delete_component_templates(&self, names: &[String]) -> Result<()> {
        self.change(|catalog| catalog.remove_components(names))
    }

    /// Deletes index templates.
    pub fn delete_index_templates(&self, names: &[String]) -> Result<()> {
        self.change(|catalog| remove(&mut catalog.index_templates, names).map(drop))
    }

    /// Deletes templates of the older kind.
    pub fn delete_legacy_templates(&self, names: &[String]) -> Result<()> {
        self.change(|catalog| remove(&mut catalog.legacy_templates, names).map(drop))
    }
}
