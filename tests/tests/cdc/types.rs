//! Types: what the copy makes of a value, the stream makes of it too, whatever the database's own
//! settings are.

use egret_tests::postgres::Database;
use serde_json::json;

use crate::following::Following;

/// A column's type, a value as an SQL expression, and the field that it becomes.
const VALUES: &[(&str, &str, &str)] = &[
    ("int2", "'-32768'", "-32768"),
    ("int4", "'2147483647'", "2147483647"),
    ("int8", "'9223372036854775807'", "9223372036854775807"),
    ("oid", "'4294967295'", "4294967295"),
    ("numeric", "'1.10'", "1.10"),
    ("numeric", "'NaN'", "null"),
    ("numeric(1000,0)", "repeat('9', 400)::numeric", "null"),
    ("numeric", "'-Infinity'", "null"),
    ("numeric(10,3)", "'-0.5'", "-0.500"),
    ("float4", "'1.1'", "1.1"),
    ("float8", "'-0'", "-0"),
    ("float8", "'1e-300'", "1e-300"),
    ("float8", "'0.1'", "0.1"),
    ("float8", "'NaN'", "null"),
    ("float8", "'Infinity'", "null"),
    ("text", "E'tab\\tnew\\nline \"quoted\" \\\\N'", r#""tab\tnew\nline \"quoted\" \\N""#),
    ("text", "''", r#""""#),
    ("text", "'\\N'", r#""\\N""#),
    ("varchar(5)", "'käse'", r#""käse""#),
    ("name", "'somebody'", r#""somebody""#),
    ("char(5)", "'ab'", r#""ab""#),
    ("\"char\"", "'x'", r#""x""#),
    ("bool", "true", "true"),
    ("bool", "NULL", "null"),
    ("date", "'2024-02-29'", r#""2024-02-29""#),
    ("date", "'infinity'", "null"),
    ("date", "'0044-03-15 BC'", r#""-0043-03-15""#),
    ("timestamp", "'2024-02-29 23:59:59.999999'", r#""2024-02-29T23:59:59.999999""#),
    ("timestamp", "'294276-12-31 23:59:59'", "null"),
    ("timestamptz", "'2024-02-29 12:00:00+05:30'", r#""2024-02-29T06:30:00Z""#),
    ("timestamptz", "'-infinity'", "null"),
    ("time", "'24:00:00'", r#""24:00:00""#),
    ("timetz", "'12:00:00.5+02'", r#""12:00:00.5+02""#),
    ("interval", "'1 mon -2 days 03:04:05.6'", r#""P1M-2DT3H4M5.6S""#),
    ("uuid", "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'", r#""a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11""#),
    ("json", "'{\"a\": 1, \"a\":  2}'", r#"{"a":2}"#),
    ("jsonb", "'{\"b\": [1, 2.50]}'", r#"{"b": [1, 2.50]}"#),
    ("jsonb", "'[{\"c\": 1}]'", r#"[{"c": 1}]"#),
    ("jsonb", "'7'", r#"{"value":7}"#),
    ("jsonb", "'null'", "null"),
    ("int4[]", "'[0:2]={1,NULL,3}'", "[1,null,3]"),
    ("int4[]", "'{}'", "[]"),
    ("text[]", "ARRAY['a', NULL, 'NULL', 'b,\"c\\', '']", r#"["a",null,"NULL","b,\"c\\",""]"#),
    ("text[]", "ARRAY[['a', 'b'], ['c', 'd']]", r#"[["a","b"],["c","d"]]"#),
    ("timestamptz[]", "ARRAY['2024-02-29 12:00+00'::timestamptz]", r#"["2024-02-29T12:00:00Z"]"#),
    ("bytea", "'\\xDEADBEEF'", r#""3q2+7w==""#),
    ("mood", "'so so'", r#""so so""#),
    ("mood[]", "ARRAY['so so', 'fine']::mood[]", r#"["so so","fine"]"#),
    ("positive", "'5.50'", "5.50"),
    ("pair", "ROW(1, 'a \"b\", c', NULL)::pair", r#"{"n":1,"t":"a \"b\", c","d":null}"#),
    ("pair[]", "ARRAY[ROW(2, '', '2024-01-01')::pair]", r#"[{"n":2,"t":"","d":"2024-01-01"}]"#),
    ("money", "'-1234.56'", "-1234.56"),
    ("inet", "'192.168.0.1/24'", r#""192.168.0.1/24""#),
    ("cidr", "'10.0.0.0/8'", r#""10.0.0.0/8""#),
    ("macaddr", "'08:00:2b:01:02:03'", r#""08:00:2b:01:02:03""#),
    ("int4range", "'[1,5)'", r#""[1,5)""#),
    ("tstzrange", "'empty'", r#""empty""#),
    ("int4multirange", "'{[1,3),[5,7)}'", r#""{[1,3),[5,7)}""#),
    ("bit(3)", "B'101'", r#""101""#),
    ("varbit", "B''", r#""""#),
    ("xml", "'<a>b</a>'", r#""<a>b</a>""#),
    ("tsvector", "'a:1 fat:2 cat:3'::tsvector", r#""'a':1 'cat':3 'fat':2""#),
    ("point", "'(1.5,-2)'", r#""(1.5,-2)""#),
    ("box[]", "ARRAY['(1,1),(0,0)'::box, '(3,3),(2,2)']", r#"["(1,1),(0,0)","(3,3),(2,2)"]"#),
    ("pg_lsn", "'16/B374D848'", r#""16/B374D848""#),
];

const TYPES: &str = "
    CREATE TYPE mood AS ENUM ('so so', 'fine');
    CREATE DOMAIN positive AS numeric CHECK (value > 0);
    CREATE TYPE pair AS (n int, t text, d date);";

#[tokio::test(flavor = "multi_thread")]
async fn copy_and_stream_make_the_same_documents() {
    let database = Database::create().await;
    // Settings that would change how values are written.
    let name = database.name();
    for setting in [
        "DateStyle = 'German, DMY'",
        "TimeZone = 'Asia/Kolkata'",
        "IntervalStyle = sql_standard",
        "bytea_output = escape",
        "extra_float_digits = -3",
    ] {
        database.execute(&format!("ALTER DATABASE {name} SET {setting}")).await;
    }
    let columns: Vec<String> =
        VALUES.iter().enumerate().map(|(at, (kind, ..))| format!("c{at} {kind}")).collect();
    let values: Vec<&str> = VALUES.iter().map(|(_, value, _)| *value).collect();
    let insert = |id: u32| format!("INSERT INTO every VALUES ({id}, {})", values.join(", "));
    let create = format!("{TYPES} CREATE TABLE every (id int PRIMARY KEY, {})", columns.join(", "));
    database.execute(&create).await;
    database.execute(&insert(1)).await;
    let following = Following::follow(database, |_| {});
    following.streams().await;
    following.execute(&insert(2), &["every"]).await;
    following
        .execute(
            "UPDATE every SET id = 3 WHERE id = 1; INSERT INTO every (id) VALUES (4)",
            &["every"],
        )
        .await;

    let fields: Vec<String> = VALUES
        .iter()
        .enumerate()
        .map(|(at, (.., expected))| format!("\"c{at}\":{expected}"))
        .collect();
    let status = following.pipeline().status();
    assert_eq!(status.dead_letters, 0, "{}", following.letters());
    for id in [2, 3] {
        let expected = format!("{{\"id\":{id},{}}}", fields.join(","));
        let found = following.source("every", &id.to_string()).unwrap();
        for (at, (kind, value, expected)) in VALUES.iter().enumerate() {
            let field = format!("\"c{at}\":{expected}");
            assert!(found.contains(&field), "{id} {kind} {value}: no {field} in {found}");
        }
        assert_eq!(found, expected);
    }
    assert_eq!(following.document("every", "4").unwrap()["c0"], json!(null));
}

#[tokio::test(flavor = "multi_thread")]
async fn mappings_come_from_the_catalog() {
    let following = Following::start(&format!(
        "{TYPES} CREATE TABLE every (
             id int8 PRIMARY KEY, small int2, price numeric, name text, code char(3), id2 uuid,
             feeling mood, ok bool, at timestamptz, tags text[], doc jsonb, raw bytea, p positive)"
    ))
    .await;
    let mapping = following.mapping("every");
    let field = |name: &str| mapping["properties"][name].clone();
    let check = |name: &str, expected: &str| assert_eq!(field(name)["type"], expected, "{name}");
    check("id", "long");
    check("small", "integer");
    check("price", "double");
    check("p", "double");
    check("name", "text");
    check("tags", "text");
    check("code", "text");
    check("id2", "keyword");
    check("feeling", "keyword");
    check("ok", "boolean");
    check("at", "date");
    assert_eq!(field("name")["fields"]["keyword"]["type"], "keyword");
    assert_eq!(field("raw")["index"], false);
}
