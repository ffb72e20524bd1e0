//! An index's settings: which there are, and what they mean.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::error::{Error, ErrorKind, Result};

/// How long the versions of deleted documents are remembered unless the index says otherwise.
const GC_DELETES: Duration = Duration::from_secs(60);

/// Bytes of an index's translog that ask for a flush unless the index says otherwise.
const FLUSH_THRESHOLD_BYTES: u64 = 256 << 20;

/// The largest index whose documents are written again for an addition to its mapping, unless the index
/// says otherwise.
const REWRITE_UP_TO_BYTES: u64 = 1 << 30;

/// When what is written becomes searchable without being asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefreshInterval {
    /// At once when idle; under load as often as its cost allows.
    Adaptive,
    /// At once when idle, but not more often than this.
    AtMostEvery(Duration),
    /// Only when asked for: by a refresh, or a write that waits for one. A flush makes what was
    /// written durable and reads by id see it, but searches do not. After a restart, or once a writer
    /// had to go back to what is durable, they see everything; and so they do after merges that were
    /// asked for, from the beginning of a rebuild, and once a copy has taken the index's place.
    Off,
}

/// When a write is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Before it is acknowledged.
    Request,
    /// Within about a second.
    Async,
}

/// What happens when a field is added to the mapping that documents have values for already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rewrite {
    /// They are written again in the background, so that they are found under it.
    Auto,
    /// It is left to a rebuild that somebody asks for.
    Manual,
}

/// The settings of an index.
#[derive(Debug, Clone, PartialEq)]
pub struct IndexSettings {
    /// `index.refresh_interval`.
    pub refresh_interval: RefreshInterval,
    /// `index.translog.durability`.
    pub durability: Durability,
    /// `index.translog.flush_threshold_size`: an index with a larger translog is flushed.
    pub flush_threshold_bytes: u64,
    /// `index.max_result_window`; `None`: what the server has for all.
    pub max_result_window: Option<u64>,
    /// `index.gc_deletes`: how long the versions of deleted documents are remembered.
    pub gc_deletes: Duration,
    /// `index.mapping.rewrite`.
    pub rewrite: Rewrite,
    /// `index.mapping.rewrite_up_to`: a larger index is not rewritten of itself, since it takes twice
    /// its space meanwhile.
    pub rewrite_up_to_bytes: u64,
    /// `index.hidden`: whether patterns leave it out unless they are told not to.
    pub hidden: bool,
    /// `index.blocks.*`: what clients may not do.
    pub blocks: Blocks,
    /// Every setting as it was given, by its name without `index.`.
    given: BTreeMap<String, Value>,
}

/// What clients may not do to an index. A pipeline goes on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a setting of its own")]
pub struct Blocks {
    /// `index.blocks.read_only`: neither documents nor metadata may change.
    pub read_only: bool,
    /// `index.blocks.read_only_allow_delete`: as `read_only`, but it may be deleted.
    pub read_only_allow_delete: bool,
    /// `index.blocks.read`: it may not be searched or read.
    pub read: bool,
    /// `index.blocks.write`: documents may not change.
    pub write: bool,
    /// `index.blocks.metadata`: metadata may be neither read nor changed.
    pub metadata: bool,
}

/// How an update of settings goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SettingsUpdate {
    /// Settings that an index has already stay as they are.
    pub preserve_existing: bool,
}

impl Default for IndexSettings {
    fn default() -> Self {
        Self {
            refresh_interval: RefreshInterval::Adaptive,
            durability: Durability::Request,
            flush_threshold_bytes: FLUSH_THRESHOLD_BYTES,
            max_result_window: None,
            gc_deletes: GC_DELETES,
            rewrite: Rewrite::Auto,
            rewrite_up_to_bytes: REWRITE_UP_TO_BYTES,
            hidden: false,
            blocks: Blocks::default(),
            given: BTreeMap::new(),
        }
    }
}

impl IndexSettings {
    /// Reads Elasticsearch's format: nested or dotted, with or without `index.`.
    pub fn from_json(settings: &Value) -> Result<Self> {
        // With nothing there yet, `null` only says that the default is meant.
        Self::default().updated(settings, SettingsUpdate::default())
    }

    fn from_given(given: BTreeMap<String, Value>) -> Result<Self> {
        let mut read = Self::default();
        for (name, value) in &given {
            read.set(name, value)?;
        }
        read.given = given;
        Ok(read)
    }

    /// These settings with a change; what the change has as `null` goes back to its default.
    pub fn updated(&self, change: &Value, options: SettingsUpdate) -> Result<Self> {
        let mut given = self.given.clone();
        for (name, value) in named(change)? {
            if value.is_null() {
                // A name that no index has is refused, as with a value.
                Self::default().check_name(&name)?;
                given.remove(&name);
            } else if !(options.preserve_existing && given.contains_key(&name)) {
                given.insert(name, value);
            }
        }
        Self::from_given(given)
    }

    fn check_name(&mut self, name: &str) -> Result<()> {
        match self.set(name, &json!("")) {
            Err(error) if error.message().starts_with(UNKNOWN) => Err(error),
            _ => Ok(()),
        }
    }

    fn set(&mut self, name: &str, value: &Value) -> Result<()> {
        let text = match as_text(value) {
            Value::String(text) => text,
            other => return Err(wrong(name, &other.to_string(), "a single value is expected")),
        };
        match name {
            // An index has one shard, and no other node has a copy; these only say what was wanted.
            "number_of_shards" | "number_of_routing_shards" => {
                count(name, &text, 1..=1024).map(drop)
            }
            "number_of_replicas" => count(name, &text, 0..=1024).map(drop),
            "max_result_window" => {
                self.max_result_window = Some(count(name, &text, 1..=u64::from(u32::MAX))?);
                Ok(())
            }
            "refresh_interval" => {
                self.refresh_interval = refresh_interval(name, &text)?;
                Ok(())
            }
            "gc_deletes" => {
                self.gc_deletes = duration(name, &text)?;
                Ok(())
            }
            "translog.durability" => {
                self.durability = match text.to_ascii_lowercase().as_str() {
                    "request" => Durability::Request,
                    "async" => Durability::Async,
                    _ => return Err(wrong(name, &text, "[request] or [async] is expected")),
                };
                Ok(())
            }
            "translog.flush_threshold_size" => {
                self.flush_threshold_bytes = byte_size(name, &text)?;
                Ok(())
            }
            "mapping.rewrite" => {
                self.rewrite = match text.to_ascii_lowercase().as_str() {
                    "auto" => Rewrite::Auto,
                    "manual" => Rewrite::Manual,
                    _ => return Err(wrong(name, &text, "[auto] or [manual] is expected")),
                };
                Ok(())
            }
            "mapping.rewrite_up_to" => {
                self.rewrite_up_to_bytes = byte_size(name, &text)?;
                Ok(())
            }
            "hidden" => set_flag(&mut self.hidden, name, &text),
            "blocks.read_only" => set_flag(&mut self.blocks.read_only, name, &text),
            "blocks.read_only_allow_delete" => {
                set_flag(&mut self.blocks.read_only_allow_delete, name, &text)
            }
            "blocks.read" => set_flag(&mut self.blocks.read, name, &text),
            "blocks.write" => set_flag(&mut self.blocks.write, name, &text),
            "blocks.metadata" => set_flag(&mut self.blocks.metadata, name, &text),
            _ => Err(invalid(format!(
                "{UNKNOWN} [index.{name}] please check that any required plugins are \
                 installed, or check the breaking changes documentation for removed settings"
            ))),
        }
    }

    /// The settings nested below `index`, each a text as Elasticsearch gives them.
    pub fn to_json(&self) -> Value {
        let mut index = Map::new();
        for (name, value) in &self.given {
            nest(&mut index, name, value.clone());
        }
        index.entry("number_of_shards").or_insert_with(|| json!("1"));
        index.entry("number_of_replicas").or_insert_with(|| json!("0"));
        json!({ "index": index })
    }

    /// What settings are that nobody gives, by their names without `index.`, but for those that the
    /// server has for all. How often an index refreshes by itself then depends on what it costs.
    pub fn defaults() -> [(&'static str, String); 14] {
        let no = || "false".to_owned();
        [
            ("blocks.metadata", no()),
            ("blocks.read", no()),
            ("blocks.read_only", no()),
            ("blocks.read_only_allow_delete", no()),
            ("blocks.write", no()),
            ("gc_deletes", "60s".to_owned()),
            ("hidden", no()),
            ("mapping.rewrite", "auto".to_owned()),
            ("mapping.rewrite_up_to", "1gb".to_owned()),
            ("number_of_replicas", "0".to_owned()),
            ("number_of_shards", "1".to_owned()),
            ("refresh_interval", "1s".to_owned()),
            ("translog.durability", "REQUEST".to_owned()),
            ("translog.flush_threshold_size", "256mb".to_owned()),
        ]
    }

    /// The settings that were given and no others, nested below `index`; `null` for none.
    pub fn given(&self) -> Value {
        if self.given.is_empty() {
            return Value::Null;
        }
        let mut index = Map::new();
        for (name, value) in &self.given {
            nest(&mut index, name, value.clone());
        }
        json!({ "index": index })
    }
}

/// The settings that only a closed index, or none, may change.
pub(crate) fn fixed(change: &Value) -> Result<Vec<String>> {
    const FIXED: [&str; 2] = ["number_of_shards", "number_of_routing_shards"];
    let names = named(change)?.into_keys();
    Ok(names.filter(|name| FIXED.contains(&name.as_str())).collect())
}

/// The setting that no index may change once it is there.
pub(crate) const FINAL: &str = "number_of_shards";

/// How the message about an unknown setting begins.
const UNKNOWN: &str = "unknown setting";

/// Settings by their names without `index.`, scalars as texts.
fn named(settings: &Value) -> Result<BTreeMap<String, Value>> {
    let mut flat = Vec::new();
    match settings {
        Value::Null => {}
        Value::Object(_) => flatten(settings, String::new(), &mut flat),
        other => return Err(invalid(format!("settings must be an object, not [{other}]"))),
    }
    let short = |name: String| name.strip_prefix("index.").map(str::to_owned).unwrap_or(name);
    Ok(flat.into_iter().map(|(name, value)| (short(name), as_text(&value))).collect())
}

fn set_flag(flag: &mut bool, name: &str, text: &str) -> Result<()> {
    *flag = match text {
        "true" => true,
        "false" => false,
        _ => return Err(wrong(name, text, "only [true] or [false] are allowed")),
    };
    Ok(())
}

fn flatten(value: &Value, path: String, flat: &mut Vec<(String, Value)>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                flatten(value, path, flat);
            }
        }
        other => flat.push((path, other.clone())),
    }
}

fn nest(fields: &mut Map<String, Value>, name: &str, value: Value) {
    match name.split_once('.') {
        Some((first, rest)) => {
            let inner = fields.entry(first).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(inner) = inner {
                nest(inner, rest, value);
            }
        }
        None => {
            fields.insert(name.to_owned(), value);
        }
    }
}

fn as_text(value: &Value) -> Value {
    match value {
        Value::Number(number) => Value::String(number.to_string()),
        Value::Bool(flag) => Value::String(flag.to_string()),
        other => other.clone(),
    }
}

fn count(name: &str, text: &str, range: std::ops::RangeInclusive<u64>) -> Result<u64> {
    let parsed = text.parse::<u64>().map_err(|_| wrong(name, text, "a number is expected"))?;
    if range.contains(&parsed) {
        return Ok(parsed);
    }
    let expected = format!("it must lie between {} and {}", range.start(), range.end());
    Err(wrong(name, text, &expected))
}

fn refresh_interval(name: &str, text: &str) -> Result<RefreshInterval> {
    if text == "-1" {
        return Ok(RefreshInterval::Off);
    }
    duration(name, text).map(RefreshInterval::AtMostEvery)
}

/// Bytes from a number with its unit, as Elasticsearch writes sizes: powers of 1024.
fn byte_size(name: &str, text: &str) -> Result<u64> {
    const EXPECTED: &str = "a size above 0 with its unit is expected, as in [512mb]";
    let lower = text.to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let power = match lower.get(digits.len()..).unwrap_or_default() {
        "b" => 0,
        "k" | "kb" => 1,
        "m" | "mb" => 2,
        "g" | "gb" => 3,
        "t" | "tb" => 4,
        "p" | "pb" => 5,
        _ => return Err(wrong(name, text, EXPECTED)),
    };
    let bytes = digits.parse::<u64>().ok().and_then(|count| count.checked_mul(1024_u64.pow(power)));
    bytes.filter(|&bytes| bytes > 0).ok_or_else(|| wrong(name, text, EXPECTED))
}

fn duration(name: &str, text: &str) -> Result<Duration> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = text.get(digits.len()..).unwrap_or_default();
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong(name, text, "a time with its unit is expected, as in [1s]")),
    };
    let ms = digits.parse::<u64>().ok().and_then(|count| count.checked_mul(unit_ms));
    match ms {
        Some(ms) => Ok(Duration::from_millis(ms)),
        None => Err(wrong(name, text, "a time with its unit is expected, as in [1s]")),
    }
}

fn wrong(name: &str, value: &str, why: &str) -> Error {
    invalid(format!("failed to parse value [{value}] for setting [index.{name}]: {why}"))
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidArgument, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(settings: &Value, expected: &Value) {
        let read = IndexSettings::from_json(settings).unwrap();
        assert_eq!(read.to_json()["index"], *expected, "{settings}");
    }

    #[test]
    fn settings_in_every_form() {
        let none = json!({"number_of_shards": "1", "number_of_replicas": "0"});
        check(&Value::Null, &none);
        check(&json!({}), &none);
        check(
            &json!({"number_of_shards": 5, "index.number_of_replicas": "2"}),
            &json!({
                "number_of_shards": "5", "number_of_replicas": "2",
            }),
        );
        check(
            &json!({"index": {"translog": {"durability": "async"}, "refresh_interval": -1}}),
            &json!({
                "translog": {"durability": "async"}, "refresh_interval": "-1",
                "number_of_shards": "1", "number_of_replicas": "0",
            }),
        );
        let read = |settings| IndexSettings::from_json(&settings).unwrap();
        let interval = read(json!({"index.refresh_interval": "200ms"})).refresh_interval;
        assert_eq!(interval, RefreshInterval::AtMostEvery(Duration::from_millis(200)));
        assert_eq!(read(json!({"refresh_interval": -1})).refresh_interval, RefreshInterval::Off);
        let size = |size: Value| {
            read(json!({"translog": {"flush_threshold_size": size}})).flush_threshold_bytes
        };
        assert_eq!(size(json!(null)), 256 << 20);
        assert_eq!(
            [size(json!("1b")), size(json!("5KB")), size(json!("512mb"))],
            [1, 5 << 10, 512 << 20]
        );
        let rewritten = read(json!({"mapping": {"rewrite": "manual", "rewrite_up_to": "2mb"}}));
        assert_eq!(rewritten.rewrite, Rewrite::Manual);
        assert_eq!(rewritten.rewrite_up_to_bytes, 2 << 20);
        assert_eq!([size(json!("2g")), size(json!("1tb"))], [2 << 30, 1 << 40]);
    }

    #[test]
    fn updates() {
        let check = |settings: Value, change: Value, preserve_existing, expected: Value| {
            let settings = IndexSettings::from_json(&settings).unwrap();
            let updated = settings.updated(&change, SettingsUpdate { preserve_existing }).unwrap();
            assert_eq!(updated.given()["index"], expected, "{change}");
            let again = IndexSettings::from_json(&updated.to_json()).unwrap();
            assert_eq!((again.hidden, again.blocks), (updated.hidden, updated.blocks));
        };
        let one = json!({"refresh_interval": "1s"});
        check(
            one.clone(),
            json!({"hidden": true}),
            false,
            json!({
                "refresh_interval": "1s", "hidden": "true",
            }),
        );
        check(
            one.clone(),
            json!({"index.refresh_interval": "2s"}),
            false,
            json!({
                "refresh_interval": "2s",
            }),
        );
        check(
            one.clone(),
            json!({"refresh_interval": "2s", "blocks.write": true}),
            true,
            json!({
                "refresh_interval": "1s", "blocks": {"write": "true"},
            }),
        );
        let both = json!({"refresh_interval": "1s", "blocks": {"read": true, "write": true}});
        check(
            both,
            json!({"index": {"refresh_interval": null, "blocks.read": null}}),
            false,
            json!({
                "blocks": {"write": "true"},
            }),
        );
        let settings = IndexSettings::from_json(&one).unwrap();
        for bad in [json!({"codec": null}), json!({"hidden": "x"}), json!({"hidden": ""})] {
            assert!(settings.updated(&bad, SettingsUpdate::default()).is_err(), "{bad}");
        }
        assert_eq!(
            fixed(&json!({"index": {"number_of_shards": 2}, "hidden": 1})).unwrap(),
            [FINAL]
        );
    }

    #[test]
    fn what_is_refused() {
        let refused = |settings: Value, expected: &str| {
            let error = IndexSettings::from_json(&settings).unwrap_err();
            assert!(error.message().contains(expected), "{error}");
        };
        refused(json!({"codec": "best"}), "unknown setting [index.codec]");
        refused(json!({"number_of_shards": 0}), "[0] for setting [index.number_of_shards]");
        refused(json!({"refresh_interval": "1"}), "[1] for setting [index.refresh_interval]");
        refused(json!({"translog.durability": "maybe"}), "[maybe]");
        refused(
            json!({"index": {"mapping": {"rewrite": "sometimes"}}}),
            "[sometimes] for setting [index.mapping.rewrite]: [auto] or [manual] is expected",
        );
        refused(json!({"mapping.rewrite_up_to": "much"}), "[index.mapping.rewrite_up_to]: a size");
        refused(json!({"mapping.rewrites": "auto"}), "unknown setting [index.mapping.rewrites]");
        refused(json!({"number_of_replicas": [1]}), "a single value");
        for size in ["", "5", "0b", "-1", "1.5gb", "mb", "1 mb", "1eb", "99999999pb"] {
            refused(
                json!({"translog.flush_threshold_size": size}),
                "for setting [index.translog.flush_threshold_size]: a size above 0",
            );
        }
        refused(json!([1]), "must be an object");
    }
}
