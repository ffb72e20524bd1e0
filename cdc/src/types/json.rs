//! JSON values. An index refuses an object with a key twice, which `jsonb` never has but `json` may:
//! as in PostgreSQL, the last one counts. Otherwise the text stays as it is.

use std::borrow::Cow;
use std::fmt;

use rustc_hash::FxHashMap;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{BadValue, scalar};

/// Depth of objects and arrays within each other: more than any index takes.
const MAX_JSON_DEPTH: usize = 128;

/// Objects, arrays of objects and null verbatim; anything else as `{"value": ...}`, since a field
/// of an index is either an object or a value, never now one and now the other.
pub(super) fn json(text: &str, out: &mut Vec<u8>) -> Result<(), BadValue> {
    let text = text.trim_matches([' ', '\t', '\n', '\r']);
    let is_object = match text.as_bytes() {
        [] => return Err(BadValue::new("JSON", text)),
        [b'{', ..] => true,
        [b'[', inside @ ..] => {
            let first = inside.iter().find(|byte| !byte.is_ascii_whitespace());
            matches!(first, Some(b'{' | b']'))
        }
        _ => text == "null",
    };
    if is_object {
        out.extend_from_slice(text.as_bytes());
    } else {
        out.extend_from_slice(b"{\"value\":");
        out.extend_from_slice(text.as_bytes());
        out.push(b'}');
    }
    Ok(())
}

/// As [`json`], with the last of several equal keys.
pub(super) fn json_with_repeats(text: &str, out: &mut Vec<u8>) -> Result<(), BadValue> {
    let unique = without_repeats(text, 0).map_err(|_| BadValue::new("JSON", text))?;
    json(&unique, out)
}

/// Keys and values of an object, in order, repeats included.
struct Pairs<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

struct PairsVisitor;

impl<'de> Visitor<'de> for PairsVisitor {
    type Value = Pairs<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs<'de>, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = map.next_entry::<Cow<'de, str>, &'de RawValue>()? {
            pairs.push(pair);
        }
        Ok(Pairs(pairs))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Pairs<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(PairsVisitor)
    }
}

/// The text itself where no object in it has a key twice.
fn without_repeats(text: &str, depth: usize) -> Result<Cow<'_, str>, serde_json::Error> {
    if depth > MAX_JSON_DEPTH {
        return Err(serde::de::Error::custom("nested too deeply"));
    }
    let trimmed = text.trim_start();
    if trimmed.starts_with('[') {
        let values: Vec<&RawValue> = serde_json::from_str(trimmed)?;
        let unique: Vec<Cow<'_, str>> = values
            .into_iter()
            .map(|value| without_repeats(value.get(), depth + 1))
            .collect::<Result<_, _>>()?;
        if unique.iter().all(|value| matches!(value, Cow::Borrowed(_))) {
            return Ok(Cow::Borrowed(text));
        }
        return Ok(Cow::Owned(format!("[{}]", unique.join(","))));
    }
    if !trimmed.starts_with('{') {
        return Ok(Cow::Borrowed(text));
    }
    let Pairs(pairs) = serde_json::from_str(trimmed)?;
    let count = pairs.len();
    let mut places: FxHashMap<Cow<'_, str>, usize> = FxHashMap::default();
    let mut unique: Vec<(Cow<'_, str>, Cow<'_, str>)> = Vec::with_capacity(count);
    let mut changed = false;
    for (key, value) in pairs {
        let value = without_repeats(value.get(), depth + 1)?;
        changed |= matches!(value, Cow::Owned(_));
        if let Some(known) = places.get(&key).and_then(|&place| unique.get_mut(place)) {
            known.1 = value;
        } else {
            places.insert(key.clone(), unique.len());
            unique.push((key, value));
        }
    }
    if unique.len() == count && !changed {
        return Ok(Cow::Borrowed(text));
    }
    let mut out = Vec::with_capacity(text.len());
    for (key, value) in unique {
        out.push(if out.is_empty() { b'{' } else { b',' });
        scalar::string(&key, &mut out);
        out.push(b':');
        out.extend_from_slice(value.as_bytes());
    }
    out.push(b'}');
    Ok(Cow::Owned(String::from_utf8_lossy(&out).into_owned()))
}
