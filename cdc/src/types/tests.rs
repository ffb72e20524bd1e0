//! Each type with its edge values, and texts that no type has.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::json;

use super::resolve::{TypeRow, TypeRows, resolve};
use super::*;

fn convert(kind: &Kind, text: &str) -> Result<String, BadValue> {
    let mut out = Vec::new();
    write_json(kind, text, &mut out)?;
    Ok(String::from_utf8(out).unwrap())
}

fn check(kind: &Kind, text: &str, expected: &str) {
    let found = convert(kind, text).unwrap();
    assert_eq!(found, expected, "{kind:?} {text}");
    serde_json::from_str::<serde_json::Value>(&found).unwrap();
}

fn refused(kind: &Kind, text: &str) {
    let error = convert(kind, text).unwrap_err().to_string();
    assert!(error.contains(" is not "), "{error}");
}

fn array_of(element: Kind) -> Kind {
    Kind::Array { element: Arc::new(element), delimiter: b',' }
}

#[test]
fn numbers() {
    check(&Kind::Integer, "-32768", "-32768");
    check(&Kind::Long, "9223372036854775807", "9223372036854775807");
    check(&Kind::Long, "4294967295", "4294967295");
    check(&Kind::Numeric, "1.10", "1.10");
    check(&Kind::Numeric, "-0.000000000000000000001", "-0.000000000000000000001");
    check(&Kind::Numeric, "NaN", "null");
    check(&Kind::Numeric, "-Infinity", "null");
    check(&Kind::Numeric, &"9".repeat(400), "null");
    check(&Kind::Numeric, &format!("0.{}", "1".repeat(400)), &format!("0.{}", "1".repeat(400)));
    check(&Kind::Float, "-0", "-0");
    check(&Kind::Float, "1e+20", "1e+20");
    check(&Kind::Float, "5e-324", "5e-324");
    check(&Kind::Float, "Infinity", "null");
    check(&Kind::Money, "$1,234.56", "1234.56");
    check(&Kind::Money, "-$92,233,720,368,547,758.08", "-92233720368547758.08");
    for bad in ["", "-", "1x", "0x1", "1,2"] {
        refused(&Kind::Long, bad);
    }
    for bad in ["", "-", "01", ".5", "1.", "1e", "1e+", "nan", "1 "] {
        refused(&Kind::Numeric, bad);
    }
}

#[test]
fn texts() {
    check(&Kind::Text, "a\"b\\c\n\t\r\u{1}é😀", "\"a\\\"b\\\\c\\n\\t\\r\\u0001é😀\"");
    check(&Kind::Text, "", "\"\"");
    check(&Kind::PaddedText, " ab   ", "\" ab\"");
    check(&Kind::Keyword, "24:00:00", "\"24:00:00\"");
    check(&Kind::Bool, "t", "true");
    check(&Kind::Bool, "f", "false");
    refused(&Kind::Bool, "x");
    check(&Kind::Bytea, "\\xdeadBEEF", "\"3q2+7w==\"");
    check(&Kind::Bytea, "\\x", "\"\"");
    refused(&Kind::Bytea, "\\xabc");
    refused(&Kind::Bytea, "abc");
}

#[test]
fn dates() {
    check(&Kind::Date, "2024-02-29", "\"2024-02-29\"");
    check(&Kind::Timestamp, "2024-02-29 12:34:56", "\"2024-02-29T12:34:56\"");
    check(&Kind::Timestamp, "2024-02-29 12:34:56.789", "\"2024-02-29T12:34:56.789\"");
    check(&Kind::TimestampTz, "2024-02-29 12:34:56.1+00", "\"2024-02-29T12:34:56.1Z\"");
    check(&Kind::TimestampTz, "2024-02-29 12:34:56-05", "\"2024-02-29T12:34:56-05:00\"");
    check(&Kind::TimestampTz, "2024-02-29 12:34:56+05:30", "\"2024-02-29T12:34:56+05:30\"");
    check(&Kind::Date, "0001-01-01", "\"0001-01-01\"");
    check(&Kind::Date, "9999-12-31", "\"9999-12-31\"");
    check(&Kind::Date, "10000-01-01", "\"+10000-01-01\"");
    check(&Kind::Date, "0044-03-15 BC", "\"-0043-03-15\"");
    check(&Kind::Date, "4714-11-24 BC", "\"-4713-11-24\"");
    check(&Kind::Timestamp, "294246-12-31 23:59:59.9", "\"+294246-12-31T23:59:59.9\"");
    check(&Kind::TimestampTz, "0001-01-01 00:00:00+00 BC", "\"0000-01-01T00:00:00Z\"");
    for (kind, outside) in [
        (Kind::Date, "infinity"),
        (Kind::Date, "-infinity"),
        (Kind::Date, "5874897-12-31"),
        (Kind::Timestamp, "294276-12-31 23:59:59"),
        (Kind::TimestampTz, "294247-01-01 00:00:00+00"),
        (Kind::TimestampTz, "infinity"),
    ] {
        check(&kind, outside, "null");
    }
    refused(&Kind::Date, "29/02/2024");
    refused(&Kind::Date, "2024-02-29 12:34:56");
    refused(&Kind::Date, "24-02-29");
    refused(&Kind::Date, "0044-03-15 AC");
    refused(&Kind::Timestamp, "2024-02-29");
    refused(&Kind::TimestampTz, "2024-02-29 12:34:56");
}

#[test]
fn json_values() {
    check(&Kind::Json, " {\"a\" : 1.10}\n", "{\"a\" : 1.10}");
    check(&Kind::Json, "[{\"a\":1},{\"a\":2}]", "[{\"a\":1},{\"a\":2}]");
    check(&Kind::Json, "[ ]", "[ ]");
    check(&Kind::Json, "null", "null");
    check(&Kind::Json, "[1, 2]", "{\"value\":[1, 2]}");
    check(&Kind::Json, "\"text\"", "{\"value\":\"text\"}");
    check(&Kind::Json, "12", "{\"value\":12}");
    refused(&Kind::Json, " ");

    let repeats = Kind::JsonWithRepeats;
    check(&repeats, " {\"a\" : 1.10, \"b\": [ {} ]}", "{\"a\" : 1.10, \"b\": [ {} ]}");
    check(&repeats, "{\"a\":1,\"b\":2,\"\\u0061\": 3}", "{\"a\":3,\"b\":2}");
    check(&repeats, "[{\"a\": {\"x\":1,\"x\":1.50}}, {}]", "[{\"a\":{\"x\":1.50}},{}]");
    check(&repeats, "[1, 2]", "{\"value\":[1, 2]}");
    refused(&repeats, "{\"a\":}");
    refused(&repeats, &"[".repeat(500));
    refused(&repeats, &format!("{}{}", "[".repeat(500), "]".repeat(500)));
}

#[test]
fn arrays() {
    let texts = array_of(Kind::Text);
    check(&texts, "{}", "[]");
    check(&texts, "{a,NULL,\"NULL\",\"a,\\\"b\\\\\"}", "[\"a\",null,\"NULL\",\"a,\\\"b\\\\\"]");
    check(&array_of(Kind::Integer), "[0:1]={5,6}", "[5,6]");
    check(&array_of(Kind::Integer), "{{1,2},{3,4}}", "[[1,2],[3,4]]");
    check(&array_of(Kind::Json), "{\"{\\\"a\\\": 1}\"}", "[{\"a\": 1}]");
    let boxes = Kind::Array { element: Arc::new(Kind::Keyword), delimiter: b';' };
    check(&boxes, "{(1,1),(0,0);(2,2),(1,1)}", "[\"(1,1),(0,0)\",\"(2,2),(1,1)\"]");
    for bad in ["", "{", "{a", "{a,}x", "a", "{\"a}", "{a}b", "[0:1]", &"{".repeat(100)] {
        refused(&texts, bad);
    }
}

#[test]
fn composites_and_hstores() {
    let field = |name: &str, kind| Field { name: name.to_owned(), kind };
    let inner = Kind::Composite(vec![field("x", Kind::Integer)].into());
    let kind = Kind::Composite(
        vec![field("n", Kind::Integer), field("t", Kind::Text), field("c", inner)].into(),
    );
    check(&kind, "(1,\"a, \"\"b\"\"\",(2))", "{\"n\":1,\"t\":\"a, \\\"b\\\"\",\"c\":{\"x\":2}}");
    check(&kind, "(,\"\",)", "{\"n\":null,\"t\":\"\",\"c\":null}");
    for bad in ["", "(", "(1,2)", "(1,2,(3),4)", "(1,\"a,)"] {
        refused(&kind, bad);
    }
    check(&Kind::Hstore, "", "{}");
    check(&Kind::Hstore, "\"a\"=>\"1\", \"b\\\"\"=>NULL", "{\"a\":\"1\",\"b\\\"\":null}");
    refused(&Kind::Hstore, "a=>1");
}

#[test]
fn types_from_the_catalog() {
    let row = |name: &str, class, category, element, base| TypeRow {
        name: name.to_owned(),
        class,
        category,
        element,
        delimiter: b',',
        base,
        fields: Vec::new(),
    };
    let mut rows = TypeRows::default();
    rows.insert(1007, row("_int4", b'b', b'A', 23, 0));
    rows.insert(20_000, row("mood", b'e', b'E', 0, 0));
    rows.insert(20_001, row("_mood", b'b', b'A', 20_000, 0));
    rows.insert(20_002, row("positive", b'd', b'N', 0, 1700));
    rows.insert(20_003, row("citext", b'b', b'S', 0, 0));
    rows.insert(20_004, row("loop", b'd', b'S', 0, 20_004));
    let mut pair = row("pair", b'c', b'C', 0, 0);
    pair.fields = vec![("a".to_owned(), 20_002), ("b".to_owned(), 20_009)];
    rows.insert(20_005, pair);

    let check = |oid, expected: Result<Kind, Vec<u32>>| assert_eq!(resolve(oid, &rows), expected);
    check(23, Ok(Kind::Integer));
    check(1007, Ok(array_of(Kind::Integer)));
    check(20_001, Ok(array_of(Kind::Keyword)));
    check(20_002, Ok(Kind::Numeric));
    check(20_003, Ok(Kind::Text));
    check(20_004, Ok(Kind::Keyword));
    check(20_005, Err(vec![20_009]));
    check(99, Err(vec![99]));
}

#[test]
fn geometries() {
    // As ST_AsEWKB has points: in degrees of WGS 84, without a system, big end first, with a height.
    let point = r#"{"lat":47.5,"lon":8.25}"#;
    for digits in [
        "0101000020E610000000000000008020400000000000C04740",
        "010100000000000000008020400000000000C04740",
        "000000000140208000000000004047C00000000000",
        "01010000A0E610000000000000008020400000000000C047400000000000807940",
    ] {
        check(&Kind::Geometry, digits, point);
    }
    // Metres of a national grid; a line; no point at all.
    let grid = "010100002008080000000000000080204000000000000C0474";
    check(&Kind::Geometry, grid, &format!("\"{grid}\""));
    let line = "010200000001000000000000000080204000000000000C0474";
    check(&Kind::Geometry, line, &format!("\"{line}\""));
    check(&Kind::Geometry, "0101000000000000000000F87F000000000000F87F", "null");
    check(&Kind::Geometry, "0101", "\"0101\"");
    refused(&Kind::Geometry, "01z1");
    refused(&Kind::Geometry, "010");
    check(&Kind::Point, "(8.25,47.5)", point);
    check(&Kind::Point, "(Infinity,1)", "null");
    refused(&Kind::Point, "8.25,47.5");
    refused(&Kind::Point, "(8.25)");
}

#[test]
fn ranges() {
    let of = |element: Kind| Kind::Range(Arc::new(element));
    check(&of(Kind::Integer), "[1,5)", r#"{"gte":1,"lt":5}"#);
    check(&of(Kind::Integer), "(,6]", r#"{"lte":6}"#);
    check(&of(Kind::Integer), "(,)", "{}");
    check(&of(Kind::Integer), "empty", "null");
    check(&of(Kind::Numeric), "(1.5,Infinity]", r#"{"gt":1.5}"#);
    let quoted = r#"["2024-02-29 12:00:00+00","2024-03-01 00:00:00+00"]"#;
    let both = r#"{"gte":"2024-02-29T12:00:00Z","lte":"2024-03-01T00:00:00Z"}"#;
    check(&of(Kind::TimestampTz), quoted, both);
    let several = Kind::MultiRange(Arc::new(Kind::Integer));
    check(&several, "{}", "[]");
    check(&several, "{[1,3),[5,7)}", r#"[{"gte":1,"lt":3},{"gte":5,"lt":7}]"#);
    for wrong in ["", "[1,5", "1,5)", "[1)", "[1,2,3)", "[1,5) ", "[\"1,5)", "[x,5)"] {
        refused(&of(Kind::Integer), wrong);
    }
    for wrong in ["{", "{[1,3)[5,7)}", "{[1,3),}", "[1,3)"] {
        refused(&several, wrong);
    }
    assert_eq!(mapping(&of(Kind::Date)), json!({"type": "date_range"}));
    assert_eq!(mapping(&several), json!({"type": "integer_range"}));
}

#[test]
fn mappings() {
    assert_eq!(mapping(&array_of(Kind::Long)), json!({"type": "long"}));
    let text = mapping(&Kind::Text);
    assert_eq!(text["fields"]["keyword"]["ignore_above"], 256);
    let field = Field { name: "x".to_owned(), kind: Kind::Bool };
    let composite = mapping(&Kind::Composite(vec![field].into()));
    assert_eq!(composite, json!({"properties": {"x": {"type": "boolean"}}}));
}

fn any_kind() -> impl Strategy<Value = Kind> {
    let field = |kind| Field { name: "f".to_owned(), kind };
    prop::sample::select(vec![
        Kind::Bool,
        Kind::Long,
        Kind::Numeric,
        Kind::Money,
        Kind::Text,
        Kind::Date,
        Kind::Timestamp,
        Kind::TimestampTz,
        Kind::Bytea,
        Kind::Hstore,
        array_of(Kind::Text),
        array_of(Kind::Integer),
        Kind::Composite(vec![field(Kind::Text), field(Kind::Long)].into()),
    ])
}

proptest! {
    #[test]
    fn whatever_is_taken_is_json(
        kind in any_kind(),
        text in "[-{}()\\[\\]\"\\\\,.:;=>$+ 0-9a-zNUL\u{e9}\u{1}]{0,24}",
    ) {
        if let Ok(found) = convert(&kind, &text) {
            prop_assert!(serde_json::from_str::<serde_json::Value>(&found).is_ok(), "{}", found);
        }
    }

    #[test]
    fn texts_survive(text in any::<String>()) {
        let found = convert(&Kind::Text, &text).unwrap();
        prop_assert_eq!(serde_json::from_str::<String>(&found).unwrap(), text);
    }

    #[test]
    fn arrays_of_texts_survive(texts in prop::collection::vec(any::<String>(), 1..5)) {
        let quote = |text: &String| {
            format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
        };
        let quoted: Vec<String> = texts.iter().map(quote).collect();
        let found = convert(&array_of(Kind::Text), &format!("{{{}}}", quoted.join(","))).unwrap();
        prop_assert_eq!(serde_json::from_str::<Vec<String>>(&found).unwrap(), texts);
    }
}
