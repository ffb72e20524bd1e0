//! A new document from an old one and a change.
//!
//! What a change does not touch is copied verbatim, byte for byte, so that numbers and strings keep
//! the form they were written in.

use std::borrow::Cow;

use rustc_hash::{FxHashMap, FxHashSet};
use serde_json::Value;

use super::json::{JsonReader, Kind, line_and_column};
use crate::error::{Error, ErrorKind, Result};

/// The new document: `source`, and the top-level fields in `keep` from the old one where it has
/// them. A field that `source` has itself is not taken from the old one.
pub fn keep(old: &[u8], source: &[u8], keep: &[String]) -> Result<Vec<u8>> {
    let old = members(utf8(old)?)?;
    let mut new = members(utf8(source)?)?;
    let given: FxHashSet<&str> = new.iter().map(|member| member.key.as_ref()).collect();
    let wanted: FxHashSet<&str> = keep.iter().map(String::as_str).collect();
    let kept: Vec<Member<'_>> = old
        .into_iter()
        .filter(|member| wanted.contains(&*member.key) && !given.contains(&*member.key))
        .collect();
    new.extend(kept);
    let mut text = Vec::with_capacity(source.len() + 64);
    write(&mut text, new.iter().map(|member| (member.raw_key, Cow::Borrowed(member.value))));
    Ok(text)
}

/// The new document: `change` merged into the old one, objects recursively, all other values
/// replaced, as Elasticsearch's `_update` does. `None`: nothing changed, and `detect_noop` asked.
pub fn merge(old: &[u8], change: &[u8], detect_noop: bool) -> Result<Option<Vec<u8>>> {
    let mut text = Vec::with_capacity(old.len() + change.len());
    let changed = merge_objects(utf8(old)?, utf8(change)?, &mut text)?;
    Ok((changed || !detect_noop).then_some(text))
}

/// One field of an object, as it is written.
pub(crate) struct Member<'a> {
    /// The key with its quotes.
    pub(crate) raw_key: &'a str,
    pub(crate) key: Cow<'a, str>,
    pub(crate) value: &'a str,
}

/// Writes the merged object; tells whether it differs from the old one.
fn merge_objects(old: &str, change: &str, text: &mut Vec<u8>) -> Result<bool> {
    let old = members(old)?;
    let change = members(change)?;
    let places: FxHashMap<&str, usize> =
        old.iter().enumerate().map(|(place, member)| (&*member.key, place)).collect();
    let mut values: Vec<(&str, Cow<'_, str>)> =
        old.iter().map(|member| (member.raw_key, Cow::Borrowed(member.value))).collect();
    let mut changed = false;
    for member in &change {
        let before = places.get(&*member.key).and_then(|place| values.get_mut(*place));
        let Some((_, before)) = before else {
            values.push((member.raw_key, Cow::Borrowed(member.value)));
            changed = true;
            continue;
        };
        if before.starts_with('{') && member.value.starts_with('{') {
            let mut below = Vec::new();
            if merge_objects(before, member.value, &mut below)? {
                changed = true;
                *before = Cow::Owned(String::from_utf8_lossy(&below).into_owned());
            }
        } else if !same(before, member.value)? {
            changed = true;
            *before = Cow::Borrowed(member.value);
        }
    }
    write(text, values.into_iter());
    Ok(changed)
}

fn write<'a>(text: &mut Vec<u8>, members: impl Iterator<Item = (&'a str, Cow<'a, str>)>) {
    text.push(b'{');
    for (place, (key, value)) in members.enumerate() {
        if place > 0 {
            text.push(b',');
        }
        text.extend(key.bytes());
        text.push(b':');
        text.extend(value.bytes());
    }
    text.push(b'}');
}

/// Whether two values mean the same, however they are written.
fn same(old: &str, new: &str) -> Result<bool> {
    if old == new {
        return Ok(true);
    }
    let read = |text: &str| {
        serde_json::from_str::<Value>(text).map_err(|error| refused(&error.to_string()))
    };
    Ok(read(old)? == read(new)?)
}

/// The fields of an object.
pub(crate) fn members(text: &str) -> Result<Vec<Member<'_>>> {
    let mut reader = JsonReader::new(text);
    let mut read = || {
        let mut members = Vec::new();
        if reader.peek()? != Kind::Object {
            return Ok(None);
        }
        let mut object = reader.open_object()?;
        while let Some((raw_key, key)) = reader.next_raw_key(&mut object)? {
            let value = reader.skip()?;
            members.push(Member { raw_key, key, value });
        }
        reader.end()?;
        Ok(Some(members))
    };
    let members = read().map_err(|error: super::json::JsonError| {
        let (line, column) = line_and_column(text.as_bytes(), error.at);
        refused(&format!("[{line}:{column}] {error}"))
    })?;
    members.ok_or_else(|| refused("a document must be an object"))
}

fn utf8(source: &[u8]) -> Result<&str> {
    std::str::from_utf8(source).map_err(|error| refused("invalid UTF-8").with_source(error))
}

fn refused(reason: &str) -> Error {
    Error::new(ErrorKind::DocumentParsing, format!("failed to parse: {reason}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Map;

    use super::*;

    #[test]
    fn fields_are_kept() {
        let check = |old: &str, source: &str, fields: &[&str], expected: &str| {
            let fields: Vec<String> = fields.iter().map(ToString::to_string).collect();
            let new = keep(old.as_bytes(), source.as_bytes(), &fields).unwrap();
            assert_eq!(String::from_utf8(new).unwrap(), expected);
        };
        check(
            r#"{"a":1.50,"b" : [ 1 ]}"#,
            r#"{"c":2}"#,
            &["b", "a"],
            r#"{"c":2,"a":1.50,"b":[ 1 ]}"#,
        );
        check(r#"{"a":1}"#, r#"{"a":2}"#, &["a"], r#"{"a":2}"#);
        check(r#"{"a":1}"#, "{}", &["b"], "{}");
        check(r#"{"\u0061\n":1}"#, "{ }", &["a\n"], r#"{"\u0061\n":1}"#);
    }

    #[test]
    fn documents_are_merged() {
        let check = |old: &str, change: &str, expected: Option<&str>| {
            let new = merge(old.as_bytes(), change.as_bytes(), true).unwrap();
            let new = new.map(|new| String::from_utf8(new).unwrap());
            assert_eq!(new.as_deref(), expected);
        };
        check(
            r#"{"a":1,"b":{"c":1.0,"d":2}}"#,
            r#"{"b":{"d":3}}"#,
            Some(r#"{"a":1,"b":{"c":1.0,"d":3}}"#),
        );
        check(r#"{"a":1}"#, r#"{"a":null}"#, Some(r#"{"a":null}"#));
        check(r#"{"a":1}"#, r#"{"b":[1]}"#, Some(r#"{"a":1,"b":[1]}"#));
        check(r#"{"a":{"b":1}}"#, r#"{"a":2}"#, Some(r#"{"a":2}"#));
        check(r#"{"a":[1, 2],"b":{"c":"x"}}"#, r#"{"a":[1,2],"b":{"c":"\u0078"}}"#, None);
        check(r#"{"a":1}"#, "{}", None);
        let same = merge(br#"{"a":1}"#, b"{}", false).unwrap().unwrap();
        assert_eq!(same, br#"{"a":1}"#);
        merge(br#"{"a":1}"#, b"[]", true).unwrap_err();
        keep(br#"{"a":1}"#, b"{\"a\":\xff}", &[]).unwrap_err();
    }

    fn naive(old: &mut Value, change: Value) {
        match (old, change) {
            (Value::Object(old), Value::Object(change)) => {
                for (key, value) in change {
                    naive(old.entry(key).or_insert(Value::Null), value);
                }
            }
            (old, change) => *old = change,
        }
    }

    fn objects() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (-3_i64..3).prop_map(Value::from),
            "[a\"\\\\é\n]{0,3}".prop_map(Value::from),
        ];
        let value = leaf.prop_recursive(3, 24, 4, |inner| {
            let key = "[abc\"]{1,1}";
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::Array),
                prop::collection::vec((key, inner), 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        });
        prop::collection::vec(("[abcd\"]{1,1}", value), 0..5)
            .prop_map(|members| Value::Object(members.into_iter().collect::<Map<_, _>>()))
    }

    proptest! {
        #[test]
        fn merges_as_the_naive_model(old in objects(), change in objects()) {
            let mut expected = old.clone();
            naive(&mut expected, change.clone());
            let new = merge(old.to_string().as_bytes(), change.to_string().as_bytes(), true).unwrap();
            let new = new.map(|new| serde_json::from_slice::<Value>(&new).unwrap());
            if expected == old {
                // Only an object put where there was none can be a change that changes nothing.
                prop_assert!(new.is_none());
            } else {
                prop_assert_eq!(new, Some(expected));
            }
        }
    }
}
