//! `filter_path`: what of an answer its paths lead to, without what paths that begin with `-` lead to, as
//! Elasticsearch has it. Values are copied as they are written: a number keeps its digits.
//!
//! An answer is JSON that was made here, and is read once, from its beginning to its end. What is not JSON
//! comes out as something else, and ends too. Values within values, of which an answer has no more than a
//! document may have and a few of its own, are a call within a call.

use std::borrow::Cow;

use egret_engine::catalog::pattern::matches;

use super::Params;
use super::indent::end_of_string;
use crate::error::{Error, Result};

/// Of all paths together; as long as the first line of a request may be in Elasticsearch.
const MAX_BYTES: usize = 4096;

/// A path, key by key; `*` stands for any part of a key, `**` for any number of keys.
type Path = Vec<String>;

/// The paths of a request.
#[derive(Default)]
pub(super) struct FilterPath {
    include: Vec<Path>,
    exclude: Vec<Path>,
}

/// Whether a member of the answer may be left in it by `filter_path`: one that is not need not be
/// made.
pub(crate) fn may_show(params: &Params, member: &str) -> bool {
    let Ok(FilterPath { include, .. }) = FilterPath::read(params) else { return true };
    let leads_there =
        |path: &Path| path.first().is_some_and(|first| first == member || first.contains('*'));
    include.is_empty() || include.iter().any(leads_there)
}

impl FilterPath {
    /// What a request asks for.
    pub(super) fn read(params: &Params) -> Result<Self> {
        let paths = params.list("filter_path");
        let bytes: usize = paths.iter().map(String::len).sum();
        if bytes > MAX_BYTES {
            let message = format!("[filter_path] has [{bytes}] bytes, more than [{MAX_BYTES}]");
            return Err(Error::argument(message));
        }
        let mut read = Self::default();
        for path in &paths {
            let (list, path) = match path.strip_prefix('-') {
                Some(path) => (&mut read.exclude, path),
                None => (&mut read.include, path.as_str()),
            };
            let mut keys: Path = path.split('.').map(str::to_owned).collect();
            keys.dedup_by(|a, b| a == "**" && b == "**");
            list.push(keys);
        }
        Ok(read)
    }

    /// Whether everything is wanted.
    pub(super) fn is_everything(&self) -> bool {
        self.include.is_empty() && self.exclude.is_empty()
    }

    /// What is wanted of an answer.
    pub(super) fn apply(&self, json: &[u8]) -> Vec<u8> {
        let begin = |paths: &[Path]| (0..paths.len()).map(|path| Place { path, key: 0 }).collect();
        let include = Some(begin(&self.include)).filter(|_| !self.include.is_empty());
        let wanted = Wanted { paths: self, include, exclude: begin(&self.exclude) };
        let mut out = Vec::new();
        if !wanted.write(&mut Text { json, at: 0 }, &mut out) {
            out.extend_from_slice(b"{}");
        }
        out
    }
}

/// How far a path is gone: the number of the path, and of the key that comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    path: usize,
    key: usize,
}

/// What is wanted of a value.
struct Wanted<'p> {
    paths: &'p FilterPath,
    /// How far the paths are gone that lead into it; `None`: all of it is wanted.
    include: Option<Vec<Place>>,
    exclude: Vec<Place>,
}

impl Wanted<'_> {
    /// Writes what is wanted of the next value; false, and nothing written, where that is nothing.
    fn write(&self, from: &mut Text<'_>, out: &mut Vec<u8>) -> bool {
        let is_all = self.include.is_none() && self.exclude.is_empty();
        let (open, close) = match from.peek() {
            Some(b'{') if !is_all => (b'{', b'}'),
            Some(b'[') if !is_all => (b'[', b']'),
            _ => {
                let value = from.value();
                if self.include.is_none() {
                    out.extend_from_slice(value);
                }
                return self.include.is_none();
            }
        };
        from.at += 1;
        out.push(open);
        let begin = out.len();
        while let Some(byte) = from.peek().filter(|byte| *byte != close) {
            let (here, before) = (from.at, out.len());
            if byte == b',' {
                from.at += 1;
                continue;
            }
            if before > begin {
                out.push(b',');
            }
            let written =
                if open == b'{' { self.write_member(from, out) } else { self.write(from, out) };
            if !written {
                out.truncate(before);
            }
            if from.at == here {
                break;
            }
        }
        from.at += 1;
        if out.len() == begin && self.include.is_some() {
            out.truncate(begin - 1);
            return false;
        }
        out.push(close);
        true
    }

    /// The same for a member of an object.
    fn write_member(&self, from: &mut Text<'_>, out: &mut Vec<u8>) -> bool {
        let key = from.value();
        if from.peek() == Some(b':') {
            from.at += 1;
        }
        let Some(wanted) = self.of_member(&decoded(key)) else {
            from.value();
            return false;
        };
        out.extend_from_slice(key);
        out.push(b':');
        wanted.write(from, out)
    }

    /// What is wanted of a member, if anything.
    fn of_member(&self, key: &str) -> Option<Self> {
        let paths = self.paths;
        let exclude = step(&paths.exclude, &self.exclude, key)?;
        let include = match &self.include {
            Some(places) => step(&paths.include, places, key),
            None => None,
        };
        let leads_nowhere = include.as_ref().is_some_and(Vec::is_empty);
        (!leads_nowhere).then_some(Self { paths, include, exclude })
    }
}

/// How far paths are gone once a key is passed; `None` where one is at its end.
fn step(paths: &[Path], places: &[Place], key: &str) -> Option<Vec<Place>> {
    let mut passed = Vec::new();
    for &(mut place) in places {
        let keys = paths.get(place.path)?;
        // Any depth: the path may stay, or go on with what follows.
        if keys.get(place.key).is_some_and(|next| next == "**") {
            passed.push(place);
            place.key += 1;
            if place.key == keys.len() {
                return None;
            }
        }
        if keys.get(place.key).is_some_and(|next| matches(next, key)) {
            place.key += 1;
            if place.key == keys.len() {
                return None;
            }
            passed.push(place);
        }
    }
    // Two ways may lead to one place.
    passed.sort_unstable();
    passed.dedup();
    Some(passed)
}

/// A key without its quotes and escapes.
fn decoded(key: &[u8]) -> Cow<'_, str> {
    if key.contains(&b'\\') {
        return Cow::Owned(serde_json::from_slice(key).unwrap_or_default());
    }
    String::from_utf8_lossy(key.get(1..key.len().saturating_sub(1)).unwrap_or_default())
}

/// JSON, read up to a place.
struct Text<'j> {
    json: &'j [u8],
    at: usize,
}

impl<'j> Text<'j> {
    /// The next byte that is no space.
    fn peek(&mut self) -> Option<u8> {
        let rest = self.json.get(self.at..)?;
        self.at += rest.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        self.json.get(self.at).copied()
    }

    /// The text of the next value, which is passed.
    fn value(&mut self) -> &'j [u8] {
        self.peek();
        let (begin, mut depth) = (self.at, 0_usize);
        while let Some(&byte) = self.json.get(self.at) {
            match byte {
                b'"' => self.at = end_of_string(self.json, self.at),
                b'{' | b'[' => (self.at, depth) = (self.at + 1, depth + 1),
                // Of what it is within.
                b'}' | b']' | b',' | b':' if depth == 0 => break,
                b'}' | b']' => (self.at, depth) = (self.at + 1, depth - 1),
                byte if depth == 0 && byte.is_ascii_whitespace() => break,
                _ => self.at += 1,
            }
            if depth == 0 && matches!(byte, b'"' | b'}' | b']') {
                break;
            }
        }
        self.json.get(begin..self.at).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    use super::*;

    fn read(paths: &str) -> Result<FilterPath> {
        FilterPath::read(&Params::read("/", &format!("filter_path={paths}")).unwrap())
    }

    fn check(answer: &str, paths: &str, expected: &str) {
        let filtered = read(paths).unwrap().apply(answer.as_bytes());
        assert_eq!(String::from_utf8(filtered).unwrap(), expected, "{paths}");
    }

    #[test]
    fn what_no_path_leads_to_need_not_be_made() {
        let shows = |paths: &str| {
            let params = Params::read("/_bulk", &format!("filter_path={paths}")).unwrap();
            may_show(&params, "items")
        };
        for paths in ["", "items", "took,items.*.error", "**.error", "it*", "-took"] {
            assert!(shows(paths), "{paths}");
        }
        assert!(shows("-items.index._id"));
        assert!(!shows("errors"));
        assert!(!shows("took,errors,-took"));
    }

    #[test]
    fn answers_are_filtered_by_paths() {
        let check = |paths, expected| {
            let answer = r#"{"took": 1, "hits": {"total": 2, "hits": [
                {"_id": "1", "_source": {"a":1,"b":2}}, {"_id": "2", "_source": {"b":3}}]}}"#;
            check(answer, paths, expected);
        };
        check("took", r#"{"took":1}"#);
        check("hits.hits._id", r#"{"hits":{"hits":[{"_id":"1"},{"_id":"2"}]}}"#);
        check("hits.hits._source.a", r#"{"hits":{"hits":[{"_source":{"a":1}}]}}"#);
        check("**.a", r#"{"hits":{"hits":[{"_source":{"a":1}}]}}"#);
        check("t*,hits.total", r#"{"took":1,"hits":{"total":2}}"#);
        check("-hits", r#"{"took":1}"#);
        let without_sources = r#"{"hits":{"total":2,"hits":[{"_id":"1"},{"_id":"2"}]}}"#;
        check("hits,-hits.hits._source", without_sources);
        check(
            "hits.hits,-**.b,-**._id",
            r#"{"hits":{"hits":[{"_source":{"a":1}},{"_source":{}}]}}"#,
        );
        check("-hits.hits.*,-took", r#"{"hits":{"total":2,"hits":[{},{}]}}"#);
        check("nothing", "{}");
        check("took.nothing", "{}");
    }

    #[test]
    fn values_stay_as_they_are_written() {
        let answer = r#"{"a": {"price": 12.50, "id": 12345678901234567890.10, "n\u0022\n": [ 1E+2 , null ]}}"#;
        check(answer, "**.price", r#"{"a":{"price":12.50}}"#);
        check(
            answer,
            "a.id,a.n%22*",
            r#"{"a":{"id":12345678901234567890.10,"n\u0022\n":[ 1E+2 , null ]}}"#,
        );
        check(answer, "-**.n*", r#"{"a":{"price":12.50,"id":12345678901234567890.10}}"#);
    }

    #[test]
    fn any_answer_can_be_filtered() {
        for answer in ["7", "null", "\"a\"", "[]", "{}", "[[1], {\"a\": 2}]"] {
            check(answer, "b", "{}");
        }
        check("[[1],{\"a\":2}]", "a", "[{\"a\":2}]");
        check("[[1],{\"a\":2}]", "-a", "[[1],{}]");
        check(" 7 ", "-a", "7");
        for broken in ["", "{", "{]", "[}", "{\"a", "{\"a\":", "{:,:}", "]", "[1,,]", "{\"\\\":"] {
            for paths in ["a", "-a", "**", "-b,a"] {
                read(paths).unwrap().apply(broken.as_bytes());
            }
        }
    }

    #[test]
    fn paths_are_bounded() {
        let refused = read(&"a.".repeat(3000)).err().unwrap().to_string();
        assert!(refused.contains("[filter_path] has [6000] bytes, more than [4096]"), "{refused}");
        // Each would lead to each place in many ways.
        let mut answer = json!({"a": 1, "b": 2});
        for _ in 0..100 {
            answer = json!({"a": answer, "b": 2});
        }
        let answer = answer.to_string();
        for path in ["**.".repeat(1000), "**.a.".repeat(800)] {
            for paths in [format!("{path}z"), format!("-{path}z")] {
                read(&paths).unwrap().apply(answer.as_bytes());
            }
        }
    }

    /// What is left of a path behind a key, in all the ways that there are.
    fn behind<'p>(path: &'p [String], key: &str) -> Vec<&'p [String]> {
        match path {
            [any, rest @ ..] if any == "**" => {
                let mut left = vec![path];
                left.extend(if rest.is_empty() { vec![rest] } else { behind(rest, key) });
                left
            }
            [first, rest @ ..] if matches(first, key) => vec![rest],
            _ => Vec::new(),
        }
    }

    fn behind_all<'p>(paths: &[&'p [String]], key: &str) -> Vec<&'p [String]> {
        paths.iter().flat_map(|path| behind(path, key)).collect()
    }

    fn without(value: &mut Value, paths: &[&[String]]) {
        match value {
            Value::Object(members) => members.retain(|key, value| {
                let left = behind_all(paths, key);
                without(value, &left);
                left.iter().all(|path| !path.is_empty())
            }),
            Value::Array(elements) => elements.iter_mut().for_each(|it| without(it, paths)),
            _ => {}
        }
    }

    fn only(value: &Value, paths: &[&[String]]) -> Option<Value> {
        if paths.iter().any(|path| path.is_empty()) {
            return Some(value.clone());
        }
        match value {
            Value::Object(members) => {
                let only = |(key, value): (&String, &Value)| {
                    Some((key.clone(), only(value, &behind_all(paths, key))?))
                };
                let kept: Map<String, Value> = members.iter().filter_map(only).collect();
                (!kept.is_empty()).then_some(Value::Object(kept))
            }
            Value::Array(elements) => {
                let kept: Vec<Value> = elements.iter().filter_map(|it| only(it, paths)).collect();
                (!kept.is_empty()).then_some(Value::Array(kept))
            }
            _ => None,
        }
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<i32>().prop_map(Value::from),
            "[a\\\\\",:{}\\[\\] ]{0,3}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 30, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec(("[ab\"]{1,2}", inner), 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_left_is_what_the_paths_mean(
            answer in any_value(),
            paths in prop::collection::vec("-?(a|b|aa|a\\*|\\*|\\*\\*)(\\.(a|b|\\*b|\\*|\\*\\*)){0,3}", 1..4),
        ) {
            let paths = read(&paths.join(",")).unwrap();
            let include: Vec<&[String]> = paths.include.iter().map(Vec::as_slice).collect();
            let exclude: Vec<&[String]> = paths.exclude.iter().map(Vec::as_slice).collect();
            let mut expected = answer.clone();
            without(&mut expected, &exclude);
            if !include.is_empty() {
                expected = only(&expected, &include).unwrap_or_else(|| json!({}));
            }
            for json in [answer.to_string(), serde_json::to_string_pretty(&answer).unwrap()] {
                let filtered = paths.apply(json.as_bytes());
                let filtered: Value = serde_json::from_slice(&filtered).unwrap();
                prop_assert_eq!(&filtered, &expected);
            }
        }
    }
}
