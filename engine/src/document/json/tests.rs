//! The reader against `serde_json`.

use proptest::prelude::*;
use serde_json::{Map, Value};

use super::*;

fn value(reader: &mut JsonReader<'_>) -> Result<Value> {
    Ok(match reader.peek()? {
        Kind::Null => reader.null().map(|()| Value::Null)?,
        Kind::Bool => reader.boolean()?.into(),
        Kind::Number => serde_json::from_str(reader.number()?).unwrap(),
        Kind::Text => reader.string()?.into(),
        Kind::Array => {
            let mut values = Vec::new();
            let mut array = reader.open_array()?;
            while reader.next_element(&mut array)? {
                values.push(value(reader)?);
            }
            values.into()
        }
        Kind::Object => {
            let mut members = Map::new();
            let mut object = reader.open_object()?;
            while let Some(key) = reader.next_key(&mut object)? {
                members.insert(key.into(), value(reader)?);
            }
            members.into()
        }
    })
}

fn read(text: &str) -> Result<Value> {
    let mut reader = JsonReader::new(text);
    let value = value(&mut reader)?;
    reader.end()?;
    let mut skipping = JsonReader::new(text);
    assert_eq!(skipping.skip(), Ok(text.trim_matches([' ', '\n', '\t', '\r'])));
    Ok(value)
}

/// Reads as `serde_json` does, but for keys that occur twice.
fn check(text: &str) {
    let model = serde_json::from_str::<Value>(text);
    match read(text) {
        Ok(value) => assert_eq!(Some(value), model.ok(), "{text}"),
        Err(error) if error.reason.starts_with("Duplicate") => {}
        Err(error) => assert!(model.is_err(), "{text}: {error:?}"),
    }
}

#[test]
fn reads_as_serde_json() {
    for text in [
        r#"{"a":[1,-0,0.5,1e3,1E-3,true,false,null,"x"],"b":{}}"#,
        r#""\u00e9\uD83D\uDCA9\n\"\\\/""#,
        r#""\uD83D""#,
        r#""\uDCA9\uD83D""#,
        r#""\uD83D\u0041""#,
        r#""\u+123""#,
        r#""\x""#,
        "\"a\u{1}b\"",
        "1e999",
        "-1e-999",
        "01",
        "-",
        "1.",
        ".5",
        "1e",
        "+1",
        "tru",
        "nulls",
        "[1,]",
        "[,1]",
        "{,}",
        "{\"a\":1,}",
        "{\"a\"}",
        "{a:1}",
        "[1 2]",
        "[",
        "",
        " 1 ",
        "1 1",
        "\u{a0}1",
    ] {
        check(text);
    }
}

#[test]
fn keys_occur_once() {
    let many: Vec<String> = (0..40).map(|n| format!("\"k{n}\":{{\"k{n}\":1}},")).collect();
    let many = many.concat();
    let object = |last: &str| format!("{{{many}\"{last}\":1}}");
    read(&object("k40")).unwrap();
    for (text, key) in [
        (object("k3"), "k3"),
        (object("k39"), "k39"),
        (r#"{"a":{"b":1,"\u0062":2}}"#.to_owned(), "b"),
    ] {
        let error = JsonReader::new(&text).skip().unwrap_err();
        assert_eq!(error.reason, format!("Duplicate field '{key}'"));
    }
}

#[test]
fn nesting_is_limited() {
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    JsonReader::new(&nested(NESTING_LIMIT)).skip().unwrap();
    let error = JsonReader::new(&nested(NESTING_LIMIT + 1)).skip().unwrap_err();
    assert_eq!(error.at, NESTING_LIMIT);
}

#[test]
fn places_are_counted_from_one() {
    assert_eq!(line_and_column(b"{\n  x", 4), (2, 3));
    assert_eq!(line_and_column(b"", 0), (1, 1));
    assert_eq!(line_and_column(b"a", 9), (1, 2));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn any_text_as_serde_json(text in "[\\[\\]{}:,\"\\\\u0a1D8ce.+ \\-ntrf\n\u{e9}]{0,24}") {
        check(&text);
    }
}
