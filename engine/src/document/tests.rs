//! Documents against tables and a naive model.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};
use tantivy::schema::Document as _;

use super::*;
use crate::mapping::schema::{SYSTEM_FIELD_COUNT, SystemValues};

/// The values that the document gives, by path.
fn read(mapping: &Value, source: &str) -> std::result::Result<Vec<String>, String> {
    let mapping = Mapping::from_json(mapping).unwrap();
    let mut draft = Draft::new(Arc::new(mapping));
    let parsed = draft.parse("1", source.as_bytes()).map_err(|error| {
        use std::error::Error as _;
        let reason = error.source().map(|source| format!(" <- {source}"));
        format!("{error}{}", reason.unwrap_or_default())
    })?;
    Ok(shown(&parsed))
}

fn shown(parsed: &ParsedDocument) -> Vec<String> {
    let shown = parsed.values.iter().map(|(place, value)| {
        let path = &parsed.mapping.fields()[*place].path;
        match value {
            Parsed::Text { start, end } => format!("{path}={:?}", &parsed.texts[*start..*end]),
            Parsed::I64(value) => format!("{path}={value}"),
            Parsed::U64(value) => format!("{path}={value}u"),
            Parsed::F64(value) => format!("{path}={value:?}"),
            Parsed::Bool(value) => format!("{path}={value}"),
            Parsed::Date(micros) => format!("{path}=@{micros}"),
        }
    });
    shown.collect()
}

fn check(mapping: &Value, source: &str, expected: &[&str]) {
    assert_eq!(read(mapping, source).unwrap(), expected, "{source}");
}

fn refused(mapping: &Value, source: &str, expected: &str) {
    assert_eq!(read(mapping, source).unwrap_err(), expected, "{source}");
}

fn one(kind: &str) -> Value {
    json!({"properties": {"x": {"type": kind}}})
}

#[test]
fn dynamic_fields() {
    check(
        &json!({}),
        r#"{"a":"hi","b":1,"c":1.5,"d":true,"e":"2024-01-02","f":null,"g":[],"h":{"i":[null,2]}}"#,
        &[
            r#"a="hi""#,
            r#"a.keyword="hi""#,
            "b=1",
            "c=1.5",
            "d=true",
            "e=@1704153600000000",
            "h.i=2",
        ],
    );
    check(
        &json!({}),
        r#"{"a.b":1,"a":{"c":"2024"}}"#,
        &["a.b=1", r#"a.c="2024""#, r#"a.c.keyword="2024""#],
    );
}

#[test]
fn coerced_values() {
    check(
        &one("long"),
        r#"{"x":["12",12.7,-0.5,"1e3",9223372036854775807,"",1e2]}"#,
        &["x=12", "x=12", "x=0", "x=1000", "x=9223372036854775807", "x=100"],
    );
    check(&one("unsigned_long"), r#"{"x":18446744073709551615}"#, &["x=18446744073709551615u"]);
    check(
        &one("boolean"),
        r#"{"x":[true,"true","false",""]}"#,
        &["x=true", "x=true", "x=false", "x=false"],
    );
    check(
        &one("keyword"),
        r#"{"x":["a",1.10,true,1e2]}"#,
        &[r#"x="a""#, r#"x="1.10""#, r#"x="true""#, r#"x="1e2""#],
    );
    check(
        &one("date"),
        r#"{"x":["2024",1700000000000,"2024-01-01T00:00:00.123456+01:00"]}"#,
        &["x=@1704067200000000", "x=@1700000000000000", "x=@1704063600123456"],
    );
}

#[test]
fn refused_values() {
    refused(
        &one("long"),
        r#"{"x":"foo"}"#,
        "[1:6] failed to parse field [x] of type [long] in document with id '1'. Preview of \
         field's value: 'foo' <- For input string: \"foo\"",
    );
    refused(
        &one("byte"),
        r#"{"x":128}"#,
        "[1:6] failed to parse field [x] of type [byte] in document with id '1'. Preview of \
         field's value: '128' <- Value [128] is out of range for a byte",
    );
    refused(
        &json!({}),
        r#"{"a":1,"a":2}"#,
        "[1:8] failed to parse: Duplicate field 'a' <- Duplicate field 'a'",
    );
    refused(
        &json!({"dynamic": "strict"}),
        r#"{"a":1}"#,
        "[1:6] mapping set to strict, dynamic introduction of [a] within [_doc] is not allowed",
    );
    refused(
        &json!({"properties": {"a": {"properties": {}}}}),
        r#"{"a":1}"#,
        "[1:6] object mapping for [a] tried to parse field [a] as object, but found a concrete \
         value",
    );
}

#[test]
fn parameters_of_fields() {
    let mapping = json!({"dynamic": false, "properties": {
        "k": {"type": "keyword", "ignore_above": 3, "null_value": "none"},
        "n": {"type": "long", "ignore_malformed": true, "null_value": 7,
              "fields": {"k": {"type": "keyword"}}},
        "off": {"type": "long", "index": false, "doc_values": false},
        "raw": {"type": "object", "enabled": false},
        "o": {"dynamic": "strict", "properties": {"x": {"type": "long"}}}
    }});
    check(
        &mapping,
        r#"{"k":["abc","abcd","\ud83d\udca9xx",null,[]]}"#,
        &[r#"k="abc""#, r#"k="none""#],
    );
    check(
        &mapping,
        r#"{"n":["no",1,null,{"a":1}],"other":{"a":[1]}}"#,
        &[r#"n.k="no""#, "n=1", r#"n.k="1""#, "n=7"],
    );
    check(&mapping, r#"{"off":1,"raw":{"a":{"b":[1]}},"z.y":1}"#, &[]);
    check(
        &mapping,
        r#"{"raw":[1,"a",{"b":2}],"raw.x":1,"o":[{"x":1},{"x":[2]}],"o.x":"3"}"#,
        &["o.x=1", "o.x=2", "o.x=3"],
    );
    refused(
        &mapping,
        r#"{"off":"x"}"#,
        "[1:8] failed to parse field [off] of type [long] in document with id '1'. Preview of \
         field's value: 'x' <- For input string: \"x\"",
    );
    refused(
        &mapping,
        "{\"o\":\n{\"y\":1}}",
        "[2:6] mapping set to strict, dynamic introduction of [y] within [o] is not allowed",
    );
    refused(
        &mapping,
        r#"{"k.x":1}"#,
        "[1:8] Could not dynamically add mapping for field [k.x]. Existing mapping for [k] must be \
         of type object but found [keyword].",
    );
    refused(
        &mapping,
        r#"{"k":{"x":1}}"#,
        "[1:6] failed to parse field [k] of type [keyword] in document with id '1'. Preview of \
         field's value: '{\"x\":1}' <- found an object where a single value is expected",
    );
}

#[test]
fn values_are_copied() {
    let mapping = json!({"properties": {
        "a": {"type": "long", "copy_to": ["all", "new.x"]},
        "b": {"type": "text", "copy_to": "all"},
        "all": {"type": "text", "fields": {"k": {"type": "keyword"}}}
    }});
    check(
        &mapping,
        r#"{"a":[1,null],"b":"two"}"#,
        &[
            "a=1",
            r#"all="1""#,
            r#"all.k="1""#,
            "new.x=1",
            r#"b="two""#,
            r#"all="two""#,
            r#"all.k="two""#,
        ],
    );
    let strict =
        json!({"dynamic": "strict", "properties": {"a": {"type": "long", "copy_to": "b"}}});
    refused(
        &strict,
        r#"{"a":1}"#,
        "[1:7] mapping set to strict, dynamic introduction of [b] within [_doc] is not allowed",
    );
    let object =
        json!({"properties": {"a": {"type": "long", "copy_to": "b.c"}, "b.c.d": {"type": "long"}}});
    refused(&object, r#"{"a":1}"#, "[1:7] cannot copy to [b.c]: it is an object");
}

#[test]
fn wrong_documents_are_refused() {
    let parse = |source: &[u8]| {
        let mut draft = Draft::new(Arc::new(Mapping::default()));
        let error = draft.parse("1", source).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DocumentParsing);
        error.message().to_owned()
    };
    for (source, expected) in [
        (&b"[]"[..], "[1:1] failed to parse: a document must be an object"),
        (b"", "[1:1] failed to parse: unexpected end of input, expected a value"),
        (b"{\"a\":\xff}", "[1:6] failed to parse: invalid UTF-8"),
        (b"{} x", "[1:4] failed to parse: unexpected character [x], expected the end"),
        (
            b"{\"_id\":1}",
            "[1:8] Field [_id] is a metadata field and cannot be added inside a document. Use the \
             index API request parameters.",
        ),
        (
            b"{\"a.\":1}",
            "[1:7] field name cannot contain only whitespace, nor begin or end with a dot: [a.]",
        ),
        (b"{\"\":1}", "[1:6] field name cannot contain only whitespace: []"),
    ] {
        assert_eq!(parse(source), expected);
    }
    let nested = format!("{}1{}", "{\"a\":".repeat(25), "}".repeat(25));
    assert!(parse(nested.as_bytes()).contains("limit of mapping depth [20] has been exceeded"));
    let wide: Vec<String> = (0..501).map(|n| format!("\"f{n}\":\"x\"")).collect();
    let wide = format!("{{{}}}", wide.join(","));
    assert!(parse(wide.as_bytes()).ends_with("limit of total fields [1000] has been exceeded"));
    let immense = format!("{{\"a\":\"{}\"}}", "x".repeat(40_000));
    let keyword = json!({"properties": {"a": {"type": "keyword"}}});
    assert!(read(&keyword, &immense).unwrap_err().contains("immense term in field=\"a\""));
    let mut draft = Draft::new(Arc::new(Mapping::default()));
    for id in ["", &"i".repeat(513)] {
        assert_eq!(draft.parse(id, b"{}").unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
}

#[test]
fn rejected_documents_leave_no_trace() {
    let mut draft = Draft::new(Arc::new(Mapping::default()));
    draft.parse("1", br#"{"new":1,"bad":"#).unwrap_err();
    assert!(draft.mapping().field("new").is_none());
    assert!(draft.finish().is_none());
}

/// Dynamic fields as a naive model: a kind for each path, and values in the document's order.
#[derive(Default, Clone)]
struct Model {
    kinds: BTreeMap<String, &'static str>,
    values: Vec<String>,
}

impl Model {
    fn read(&mut self, path: &str, value: &Value) -> Option<()> {
        let above: Vec<&str> = path.match_indices('.').map(|(at, _)| &path[..at]).collect();
        if above.iter().any(|above| self.kinds.get(*above).is_some_and(|kind| *kind != "object")) {
            return None;
        }
        if value.is_null() {
            return Some(());
        }
        for above in above {
            self.kinds.insert(above.to_owned(), "object");
        }
        match value {
            Value::Array(values) => values.iter().try_for_each(|value| self.read(path, value)),
            Value::Object(members) => {
                let kind = *self.kinds.entry(path.to_owned()).or_insert("object");
                if kind != "object" {
                    return None;
                }
                members
                    .iter()
                    .try_for_each(|(key, value)| self.read(&format!("{path}.{key}"), value))
            }
            scalar => {
                let guess = match scalar {
                    Value::Bool(_) => "boolean",
                    Value::Number(number) if number.is_f64() => "float",
                    Value::Number(_) => "long",
                    Value::String(text) if text.contains('-') => "date",
                    _ => "text",
                };
                let kind = *self.kinds.entry(path.to_owned()).or_insert(guess);
                self.scalar(path, kind, scalar)
            }
        }
    }

    fn scalar(&mut self, path: &str, kind: &str, scalar: &Value) -> Option<()> {
        let text = scalar.as_str().map_or_else(|| scalar.to_string(), ToOwned::to_owned);
        let empty_text = scalar.as_str() == Some("");
        let number = if scalar.is_boolean() { None } else { text.parse::<f64>().ok() };
        let shown = match kind {
            "text" => {
                self.values.push(format!("{path}={text:?}"));
                format!("{path}.keyword={text:?}")
            }
            "boolean" if empty_text => format!("{path}=false"),
            "boolean" if text == "true" || text == "false" => format!("{path}={text}"),
            "long" | "float" if empty_text => return Some(()),
            "long" => format!("{path}={}", number?.trunc()).replace("=-0", "=0"),
            "float" => format!("{path}={:?}", number?),
            "date" if text == "2024-01-02" && !scalar.is_boolean() => {
                format!("{path}=@1704153600000000")
            }
            "date" => format!("{path}=@{}", number? * 1000.0),
            _ => return None,
        };
        self.values.push(shown);
        Some(())
    }
}

fn documents() -> impl Strategy<Value = Vec<Value>> {
    let texts = ["", "a b", "12", "1.5", "true", "2024-01-02"];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        prop::sample::select(vec![json!(3), json!(-2), json!(1.5), json!(-0.25)]),
        prop::sample::select(texts.to_vec()).prop_map(Value::from),
    ];
    let key = || prop::sample::select(vec!["a", "b", "c", "a.b", "b.c.a"]);
    let object = move |value: BoxedStrategy<Value>| {
        prop::collection::vec((key(), value), 0..4).prop_map(|members| {
            members.into_iter().map(|(key, value)| (key.to_owned(), value)).collect::<Value>()
        })
    };
    let value = leaf.boxed().prop_recursive(2, 10, 3, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::Array),
            object(inner)
        ]
    });
    let key = prop::sample::select(vec!["a", "b", "c", "d", "a.b"]);
    let document = prop::collection::vec((key, value), 0..4).prop_map(|members| {
        members.into_iter().map(|(key, value)| (key.to_owned(), value)).collect::<Value>()
    });
    prop::collection::vec(document, 1..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn no_document_panics(
        source in "(\\{\"[tkndbo.x]{1,4}\":)?[\\[\\]{}:,\"tkndbo1.e\\- \\\\u]{0,20}\\}?"
    ) {
        let mapping = json!({"properties": {
            "t": {"type": "text"}, "k": {"type": "keyword"}, "n": {"type": "double"},
            "d": {"type": "date"}, "b": {"type": "boolean"}, "o": {"properties": {}}
        }});
        let mut draft = Draft::new(Arc::new(Mapping::from_json(&mapping).unwrap()));
        let _ = draft.parse("1", source.as_bytes());
    }

    #[test]
    fn dynamic_documents_as_the_naive_model(documents in documents()) {
        let mut model = Model::default();
        let mut draft = Draft::new(Arc::new(Mapping::default()));
        let mut accepted = Vec::new();
        for document in &documents {
            let mut next = Model { kinds: model.kinds.clone(), values: Vec::new() };
            let fits = document.as_object().unwrap().iter().try_for_each(|(k, v)| next.read(k, v));
            let before = draft.mapping().clone();
            let parsed = draft.parse("1", document.to_string().as_bytes());
            prop_assert_eq!(parsed.is_ok(), fits.is_some(), "{}: {:?}", document, parsed);
            match parsed {
                Ok(parsed) => {
                    prop_assert_eq!(shown(&parsed), next.values.clone(), "{}", document);
                    accepted.push(parsed);
                    model.kinds = next.kinds;
                }
                // A rejected document leaves no trace.
                Err(_) => prop_assert!(Arc::ptr_eq(&before, draft.mapping())),
            }
        }
        let mapping = draft.finish().unwrap_or_default();
        for (path, kind) in &model.kinds {
            let found = mapping.field(path).map(|field| field.kind.name());
            prop_assert_eq!(found.unwrap_or("object"), *kind);
            prop_assert_eq!(mapping.has_object(path), *kind == "object");
        }
        prop_assert_eq!(&Mapping::from_json(&mapping.to_json()).unwrap(), &mapping);
        let schema = crate::mapping::schema::build(&mapping);
        let mut fields = Arc::new(SchemaFields::new(&schema, &Arc::new(mapping)));
        for parsed in accepted {
            let values = parsed.values.len();
            let document = parsed.into_indexed(&schema, &mut fields, SystemValues::default());
            let count = document.iter_fields_and_values().count();
            prop_assert_eq!(count, values + SYSTEM_FIELD_COUNT as usize);
        }
    }
}
