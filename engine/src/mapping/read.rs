//! Elasticsearch's JSON read into a mapping, empty or not: creating and merging are one walk.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::field::{NullValue, Storage};
use super::value::{Raw, convert};
use super::{COPY_TO_LIMIT, Dynamic, FieldKind, FieldMapping, Mapping, Node, ROOT, invalid};
use crate::composition::Composition;
use crate::error::{Error, ErrorKind, Result};

/// Reads definitions into `mapping`.
pub(super) struct Reader<'a> {
    mapping: &'a mut Mapping,
    /// Whether it had fields before, so that a conflict is with them.
    merging: bool,
}

impl<'a> Reader<'a> {
    pub(super) fn new(mapping: &'a mut Mapping, merging: bool) -> Self {
        Self { mapping, merging }
    }

    pub(super) fn read_root(&mut self, json: &Value) -> Result<()> {
        let Value::Object(json) = json else {
            return if json.is_null() {
                Ok(())
            } else {
                Err(invalid(format!("a mapping must be an object, found [{}]", shown(json))))
            };
        };
        for (name, value) in json {
            match name.as_str() {
                "dynamic" => self.set_dynamic(ROOT, value)?,
                "properties" => {}
                "date_detection" => self.mapping.date_detection = boolean(name, "_doc", value)?,
                "numeric_detection" => {
                    self.mapping.numeric_detection = boolean(name, "_doc", value)?;
                }
                "_composition" => self.set_composition(value)?,
                "_meta" if value.is_object() => self.mapping.meta = Some(value.clone()),
                _ => {
                    return Err(invalid(format!(
                        "Root mapping definition has unsupported parameters:  [{name} : {}]",
                        shown(value)
                    )));
                }
            }
        }
        self.read_properties(ROOT, json.get("properties"))
    }

    /// Takes over how documents are composed, which never changes afterwards.
    fn set_composition(&mut self, value: &Value) -> Result<()> {
        let composition = Composition::from_json(value)?;
        match &self.mapping.composition {
            None if !self.merging => self.mapping.composition = Some(Arc::new(composition)),
            Some(known) if **known == composition => {}
            _ => return Err(invalid("[_composition] of an index cannot be changed")),
        }
        Ok(())
    }

    fn read_properties(&mut self, object: usize, properties: Option<&Value>) -> Result<()> {
        match properties {
            None => Ok(()),
            Some(Value::Object(properties)) => properties
                .iter()
                .try_for_each(|(name, definition)| self.read_property(object, name, definition)),
            Some(other) => Err(invalid(format!(
                "Expected map for property [properties] on field [{}] but got [{}]",
                self.path_of(object),
                shown(other)
            ))),
        }
    }

    fn read_property(&mut self, object: usize, name: &str, definition: &Value) -> Result<()> {
        let Value::Object(json) = definition else {
            return Err(invalid(format!(
                "Expected map for property [fields] on field [{name}] but got [{}]",
                shown(definition)
            )));
        };
        let (parent, name) = self.open_path(object, name)?;
        let kind = match json.get("type") {
            None if json.contains_key("properties") || is_object_like(json) => "object",
            None => {
                return Err(invalid(format!("No type specified for field [{name}]")));
            }
            Some(Value::String(kind)) => kind.as_str(),
            Some(other) => {
                return Err(invalid(format!(
                    "the type of field [{name}] must be a string, found [{}]",
                    shown(other)
                )));
            }
        };
        if kind == "object" {
            return self.read_object(parent, name, json);
        }
        self.read_field(parent, name, kind, json)
    }

    /// Makes the objects that the dots of a name stand for; returns the last one and the last part.
    fn open_path<'n>(&mut self, object: usize, name: &'n str) -> Result<(usize, &'n str)> {
        let Some((above, last)) = name.rsplit_once('.') else { return Ok((object, name)) };
        let mut at = object;
        for part in above.split('.') {
            at = match self.mapping.child(at, part) {
                Some(Node::Object(child)) => child,
                Some(Node::Field(field)) => return Err(self.not_an_object(field)),
                None => self.mapping.add_object(at, part).map_err(as_mapping_error)?,
            };
        }
        Ok((at, last))
    }

    fn read_object(&mut self, parent: usize, name: &str, json: &Map<String, Value>) -> Result<()> {
        let (place, is_new) = match self.mapping.child(parent, name) {
            Some(Node::Object(place)) => (place, false),
            Some(Node::Field(field)) => return Err(self.not_an_object(field)),
            None => (self.mapping.add_object(parent, name).map_err(as_mapping_error)?, true),
        };
        for (parameter, value) in json {
            match parameter.as_str() {
                "type" | "properties" => {}
                "dynamic" => self.set_dynamic(place, value)?,
                "enabled" => self.set_enabled(place, is_new, boolean(parameter, name, value)?)?,
                _ => {
                    return Err(invalid(format!(
                        "unknown parameter [{parameter}] on mapper [{}] of type [object]",
                        self.path_of(place)
                    )));
                }
            }
        }
        self.read_properties(place, json.get("properties"))
    }

    fn read_field(
        &mut self,
        parent: usize,
        name: &str,
        kind: &str,
        json: &Map<String, Value>,
    ) -> Result<()> {
        let field = read_parameters(name, kind, json)?;
        let place = match self.mapping.child(parent, name) {
            Some(Node::Object(object)) => {
                return Err(self.conflict(format!(
                    "can't merge a non object mapping [{}] with an object mapping",
                    self.path_of(object)
                )));
            }
            Some(Node::Field(place)) => {
                self.merge_field(place, &field)?;
                place
            }
            None => self.mapping.add_field(parent, name, field).map_err(as_mapping_error)?,
        };
        match json.get("fields") {
            None => Ok(()),
            Some(Value::Object(multi_fields)) => multi_fields
                .iter()
                .try_for_each(|(name, definition)| self.read_multi_field(place, name, definition)),
            Some(other) => Err(invalid(format!(
                "Expected map for property [fields] on field [{name}] but got [{}]",
                shown(other)
            ))),
        }
    }

    fn read_multi_field(&mut self, place: usize, name: &str, definition: &Value) -> Result<()> {
        let path = format!("{}.{name}", self.mapping.fields.get(place).map_or("", |f| &f.path));
        let (Value::Object(json), Some(Value::String(kind))) = (definition, definition.get("type"))
        else {
            return Err(invalid(format!("No type specified for field [{path}]")));
        };
        if name.contains('.') {
            return Err(invalid(format!("the name of multi-field [{path}] cannot contain [.]")));
        }
        if json.contains_key("fields") {
            return Err(invalid(format!("multi-field [{path}] cannot have multi-fields")));
        }
        let multi = read_parameters(&path, kind, json)?;
        if !multi.copy_to.is_empty() {
            return Err(invalid(format!("[copy_to] is not allowed on multi-field [{path}]")));
        }
        let existing = self.mapping.fields.get(place).and_then(|field| {
            let mut places = field.multi_fields.iter().copied();
            places.find(|place| self.mapping.fields.get(*place).is_some_and(|f| f.path == path))
        });
        if let Some(existing) = existing {
            return self.merge_field(existing, &multi);
        }
        self.mapping.add_multi_field(place, name, multi).map_err(as_mapping_error)?;
        Ok(())
    }

    /// Takes over what may change; refuses what may not.
    fn merge_field(&mut self, place: usize, new: &FieldMapping) -> Result<()> {
        let merging = self.merging;
        let Some(old) = self.mapping.fields.get_mut(place) else { return Ok(()) };
        if old.kind != new.kind {
            let message = format!(
                "mapper [{}] cannot be changed from type [{}] to [{}]",
                old.path,
                old.kind.name(),
                new.kind.name()
            );
            return Err(conflict(merging, message));
        }
        let null_value = |field: &FieldMapping| match &field.null_value {
            Some(null_value) => shown(&null_value.json),
            None => "null".to_owned(),
        };
        let fixed = [
            ("analyzer", old.analyzer.clone(), new.analyzer.clone()),
            ("index", old.index.to_string(), new.index.to_string()),
            ("doc_values", old.doc_values.to_string(), new.doc_values.to_string()),
            ("format", old.format.to_string(), new.format.to_string()),
            ("null_value", null_value(old), null_value(new)),
        ];
        let norms_added = (new.norms && !old.norms)
            .then(|| ("norms", old.norms.to_string(), new.norms.to_string()));
        let changed = fixed.into_iter().filter(|(_, old, new)| old != new).chain(norms_added);
        let changed: Vec<String> = changed
            .map(|(name, old, new)| {
                format!("Cannot update parameter [{name}] from [{old}] to [{new}]")
            })
            .collect();
        if !changed.is_empty() {
            let message = format!(
                "Mapper for [{}] conflicts with existing mapper:\n\t{}",
                old.path,
                changed.join("\n\t")
            );
            return Err(conflict(merging, message));
        }
        old.norms = new.norms;
        old.copy_to.clone_from(&new.copy_to);
        old.search_analyzer.clone_from(&new.search_analyzer);
        old.ignore_above = new.ignore_above;
        old.coerce = new.coerce;
        old.ignore_malformed = new.ignore_malformed;
        Ok(())
    }

    fn set_dynamic(&mut self, place: usize, value: &Value) -> Result<()> {
        let dynamic = match value {
            Value::Bool(true) => Dynamic::True,
            Value::Bool(false) => Dynamic::False,
            Value::String(text) if text == "true" => Dynamic::True,
            Value::String(text) if text == "false" => Dynamic::False,
            Value::String(text) if text == "strict" => Dynamic::Strict,
            other => {
                return Err(invalid(format!(
                    "[dynamic] must be [true], [false] or [strict], found [{}]",
                    shown(other)
                )));
            }
        };
        if let Some(object) = self.mapping.objects.get_mut(place) {
            object.dynamic = Some(dynamic);
        }
        Ok(())
    }

    fn set_enabled(&mut self, place: usize, is_new: bool, enabled: bool) -> Result<()> {
        let Some(object) = self.mapping.objects.get_mut(place) else { return Ok(()) };
        if !is_new && object.enabled != enabled {
            let message = format!(
                "the [enabled] parameter can't be updated for the object mapping [{}]",
                object.path
            );
            return Err(conflict(self.merging, message));
        }
        object.enabled = enabled;
        Ok(())
    }

    fn not_an_object(&self, field: usize) -> Error {
        let path = self.mapping.fields.get(field).map_or("", |field| &field.path);
        self.conflict(format!("can't merge a non object mapping [{path}] with an object mapping"))
    }

    fn conflict(&self, message: String) -> Error {
        conflict(self.merging, message)
    }

    fn path_of(&self, object: usize) -> String {
        let path = self.mapping.objects.get(object).map_or("", |object| &object.path);
        if path.is_empty() { "_doc".to_owned() } else { path.to_owned() }
    }
}

/// Elasticsearch takes a definition with only these for an object.
fn is_object_like(json: &Map<String, Value>) -> bool {
    !json.is_empty() && json.keys().all(|key| key == "dynamic" || key == "enabled")
}

/// Two definitions in one request are a bad mapping; one against what exists, a bad argument.
fn conflict(merging: bool, message: String) -> Error {
    let kind = if merging { ErrorKind::InvalidArgument } else { ErrorKind::MappingParsing };
    Error::new(kind, message)
}

/// A limit that a mapping breaks by itself makes it a bad mapping.
fn as_mapping_error(error: Error) -> Error {
    invalid(error.message()).with_source(error)
}

/// A field's definition but for its multi-fields.
fn read_parameters(name: &str, kind: &str, json: &Map<String, Value>) -> Result<FieldMapping> {
    let Some(kind) = FieldKind::from_name(kind) else {
        return Err(invalid(format!("No handler for type [{kind}] declared on field [{name}]")));
    };
    let mut field = FieldMapping::new(name, kind);
    let mut search_analyzer = None;
    let mut null_value = None;
    for (parameter, value) in json {
        match (parameter.as_str(), kind) {
            ("type" | "fields", _) => {}
            ("copy_to", _) => field.copy_to = copy_targets(name, value)?,
            ("index", _) => field.index = boolean(parameter, name, value)?,
            ("analyzer", FieldKind::Text) => field.analyzer = analyzer(name, value)?,
            ("search_analyzer", FieldKind::Text) => search_analyzer = Some(analyzer(name, value)?),
            ("norms", FieldKind::Text) => field.norms = boolean(parameter, name, value)?,
            ("ignore_above", FieldKind::Keyword) => {
                field.ignore_above = Some(count(parameter, name, value)?);
            }
            ("doc_values", kind)
                if !matches!(kind.storage(), Storage::Span | Storage::Point)
                    && kind != FieldKind::Text =>
            {
                field.doc_values = boolean(parameter, name, value)?;
            }
            ("coerce", kind) if kind.is_numeric() => {
                field.coerce = boolean(parameter, name, value)?;
            }
            ("ignore_malformed", kind) if kind != FieldKind::Text && kind != FieldKind::Keyword => {
                field.ignore_malformed = boolean(parameter, name, value)?;
            }
            ("format", FieldKind::Date | FieldKind::DateRange) => {
                let text = string(parameter, name, value)?;
                field.format = text.parse().map_err(|error| {
                    invalid(format!("Invalid format: [{text}] of field [{name}]: {error}"))
                })?;
            }
            ("null_value", kind) if kind != FieldKind::Text && kind.storage() != Storage::Span => {
                null_value = Some(value);
            }
            _ => check_fixed(parameter, kind, name, value)?,
        }
    }
    match search_analyzer {
        Some(_) if !json.contains_key("analyzer") => {
            return Err(invalid(format!(
                "analyzer on field [{name}] must be set when search_analyzer is set"
            )));
        }
        Some(search_analyzer) => field.search_analyzer = search_analyzer,
        None => field.search_analyzer.clone_from(&field.analyzer),
    }
    field.null_value = null_value.map(|json| read_null_value(&field, json)).transpose()?.flatten();
    Ok(field)
}

/// Converted once, under the field's own format and coercion.
fn read_null_value(field: &FieldMapping, json: &Value) -> Result<Option<NullValue>> {
    let number;
    let raw = match json {
        Value::Null => return Ok(None),
        Value::Bool(value) => Raw::Bool(*value),
        Value::String(text) => Raw::Text(text),
        Value::Number(value) => {
            number = value.to_string();
            Raw::Number(&number)
        }
        other if field.kind == FieldKind::GeoPoint => {
            number = other.to_string();
            Raw::Json(&number)
        }
        other => {
            return Err(invalid(format!(
                "[null_value] of field [{}] must be a scalar, found [{}]",
                field.path,
                shown(other)
            )));
        }
    };
    let value = convert(field, raw).map_err(|reason| {
        invalid(format!("[null_value] of field [{}] does not fit: {reason}", field.path))
    })?;
    Ok(value.map(|value| NullValue { json: json.clone(), value }))
}

/// One path, or a list of them.
fn copy_targets(field: &str, value: &Value) -> Result<Vec<String>> {
    let values = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
    let target = |value| {
        let path = string("copy_to", field, value)?;
        if path.split('.').any(|part| part.trim().is_empty()) {
            return Err(invalid(format!("[copy_to] of field [{field}] names no field: [{path}]")));
        }
        Ok(path.to_owned())
    };
    if values.len() > COPY_TO_LIMIT {
        return Err(invalid(format!(
            "[copy_to] of field [{field}] names more than [{COPY_TO_LIMIT}] fields"
        )));
    }
    values.iter().map(target).collect()
}

fn analyzer(field: &str, value: &Value) -> Result<String> {
    let name = string("analyzer", field, value)?;
    if !super::tokenize::is_known(name) {
        return Err(invalid(format!(
            "analyzer [{name}] has not been configured in mappings, named by field [{field}]"
        )));
    }
    Ok(name.to_owned())
}

/// Parameters that are only accepted with the value that Egret has anyway.
const FIXED: [(&str, FieldKind, &str); 9] = [
    // What is asked of points is asked of their column.
    ("doc_values", FieldKind::GeoPoint, "true"),
    ("index_options", FieldKind::Text, "positions"),
    ("index_options", FieldKind::Keyword, "docs"),
    ("norms", FieldKind::Keyword, "false"),
    ("term_vector", FieldKind::Text, "no"),
    ("similarity", FieldKind::Text, "BM25"),
    ("similarity", FieldKind::Keyword, "BM25"),
    ("position_increment_gap", FieldKind::Text, "100"),
    ("fielddata", FieldKind::Text, "false"),
];

/// Refuses parameters that Egret does not know, and values that it does not honour.
fn check_fixed(parameter: &str, kind: FieldKind, field: &str, value: &Value) -> Result<()> {
    let fixed = FIXED.iter().find(|fixed| fixed.0 == parameter && fixed.1 == kind);
    let allowed = match fixed {
        Some(fixed) => fixed.2,
        None if parameter == "store" => "false",
        None => {
            return Err(invalid(format!(
                "unknown parameter [{parameter}] on mapper [{field}] of type [{}]",
                kind.name()
            )));
        }
    };
    let value = shown(value);
    if value == allowed {
        return Ok(());
    }
    Err(invalid(format!(
        "parameter [{parameter}] of field [{field}] can only be [{allowed}], found [{value}]"
    )))
}

fn boolean(parameter: &str, field: &str, value: &Value) -> Result<bool> {
    match value {
        Value::Bool(value) => Ok(*value),
        Value::String(text) if text == "true" => Ok(true),
        Value::String(text) if text == "false" => Ok(false),
        other => Err(invalid(format!(
            "Failed to parse value [{}] of [{parameter}] on field [{field}] as only [true] or \
             [false] are allowed.",
            shown(other)
        ))),
    }
}

fn count(parameter: &str, field: &str, value: &Value) -> Result<usize> {
    let number = match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    // Elasticsearch's are 32 bits, signed.
    let number = number.and_then(|number| i32::try_from(number).ok());
    number.and_then(|number| usize::try_from(number).ok()).ok_or_else(|| {
        invalid(format!(
            "[{parameter}] of field [{field}] must be a number from 0 to {}, found [{}]",
            i32::MAX,
            shown(value)
        ))
    })
}

fn string<'v>(parameter: &str, field: &str, value: &'v Value) -> Result<&'v str> {
    value.as_str().ok_or_else(|| {
        invalid(format!(
            "[{parameter}] of field [{field}] must be a string, found [{}]",
            shown(value)
        ))
    })
}

/// A value for a message: a text without its quotes, and never more than a line.
fn shown(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    super::value::shortened(&text).into_owned()
}
