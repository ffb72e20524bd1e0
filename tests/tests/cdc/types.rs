//! Types: what the copy makes of a value, the stream makes of it too, whatever the database's own
//! settings are.

use egret_cdc::VerifyOptions;
use egret_tests::poll;
use egret_tests::postgres::Database;
use serde_json::json;

use crate::following::Following;
use crate::verify::{follow, verified};

/// A column's type, a value as an SQL expression, and the field that it becomes.
const VALUES: &[(&str, &str, &str)] = &[
    ("int2", "'-32768'", "-32768"),
    ("int4", "'2147483647'", "2147483647"),
    ("int8", "'9223372036854775807'", "9223372036854775807"),
    ("int8", "'-9223372036854775808'", "-9223372036854775808"),
    ("int8", "'9007199254740993'", "9007199254740993"),
    ("oid", "'4294967295'", "4294967295"),
    ("numeric", "'1.10'", "1.10"),
    ("numeric", "'NaN'", "null"),
    ("numeric(1000,0)", "repeat('9', 400)::numeric", "null"),
    ("numeric", "'-Infinity'", "null"),
    ("numeric(10,3)", "'-0.5'", "-0.500"),
    ("numeric", "'Infinity'", "null"),
    ("numeric", "'-0.00'", "0.00"),
    ("numeric", "'1e-30'", "0.000000000000000000000000000001"),
    ("float4", "'3.4028235e38'", "3.4028235e+38"),
    ("float4", "'-Infinity'", "null"),
    ("float8", "'1.7976931348623157e308'", "1.7976931348623157e+308"),
    ("float8", "'5e-324'", "5e-324"),
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
    ("text", "E'\\u0001 \\U0001F426'", "\"\\u0001 \u{1F426}\""),
    ("varchar(3)", "'a  '", r#""a  ""#),
    ("char(5)", "'  a'", r#""  a""#),
    ("char(3)", "''", r#""""#),
    ("char(5)", "'ab'", r#""ab""#),
    ("\"char\"", "'x'", r#""x""#),
    ("bool", "true", "true"),
    ("bool", "NULL", "null"),
    ("date", "'2024-02-29'", r#""2024-02-29""#),
    ("date", "'infinity'", "null"),
    ("date", "'0044-03-15 BC'", r#""-0043-03-15""#),
    ("date", "'0001-12-31 BC'", r#""0000-12-31""#),
    ("date", "'10000-01-01'", r#""+10000-01-01""#),
    ("date", "'5874897-12-31'", "null"),
    ("date", "'-infinity'", "null"),
    ("timestamp", "'2024-02-29 23:59:59.999999'", r#""2024-02-29T23:59:59.999999""#),
    ("timestamp", "'294276-12-31 23:59:59'", "null"),
    ("timestamp", "'-infinity'", "null"),
    ("timestamp", "'4713-01-01 00:00:00 BC'", r#""-4712-01-01T00:00:00""#),
    ("timestamptz", "'294276-12-31 23:59:59+00'", "null"),
    ("timestamptz", "'294246-12-31 23:59:59.9+00'", r#""+294246-12-31T23:59:59.9Z""#),
    ("timestamptz", "'0044-03-15 23:00:00-05:30 BC'", r#""-0043-03-16T04:30:00Z""#),
    ("timestamptz", "'infinity'", "null"),
    ("timestamptz", "'2024-02-29 12:00:00+05:30'", r#""2024-02-29T06:30:00Z""#),
    ("timestamptz", "'-infinity'", "null"),
    ("time", "'24:00:00'", r#""24:00:00""#),
    ("timetz", "'12:00:00.5+02'", r#""12:00:00.5+02""#),
    ("timetz", "'23:59:59.999999-15:59:59'", r#""23:59:59.999999-15:59:59""#),
    ("timetz", "'00:00:00+05:45'", r#""00:00:00+05:45""#),
    ("timetz", "'24:00:00+00'", r#""24:00:00+00""#),
    ("interval", "'1 mon -2 days 03:04:05.6'", r#""P1M-2DT3H4M5.6S""#),
    ("interval", "'13 mons 40 days 36:00:00'", r#""P1Y1M40DT36H""#),
    ("interval", "'-1 years +3 days -04:05:06.000001'", r#""P-1Y3DT-4H-5M-6.000001S""#),
    ("interval", "'0'", r#""PT0S""#),
    ("uuid", "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'", r#""a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11""#),
    ("json", "'{\"a\": 1, \"a\":  2}'", r#"{"a":2}"#),
    ("json", "'[{\"a\": {\"b\": 1, \"b\": [2.50]}}]'", r#"[{"a":{"b":[2.50]}}]"#),
    ("json", "'\"text\"'", r#"{"value":"text"}"#),
    ("json", "'[true, null]'", r#"{"value":[true, null]}"#),
    ("jsonb", "'{\"n\": 0.1234567890123456789012345}'", r#"{"n": 0.1234567890123456789012345}"#),
    ("jsonb", "'{}'", "{}"),
    ("jsonb", "'[]'", "[]"),
    ("jsonb", "'false'", r#"{"value":false}"#),
    ("jsonb", "'{\"b\": [1, 2.50]}'", r#"{"b": [1, 2.50]}"#),
    ("jsonb", "'[{\"c\": 1}]'", r#"[{"c": 1}]"#),
    ("jsonb", "'7'", r#"{"value":7}"#),
    ("jsonb", "'null'", "null"),
    ("int4[]", "'[0:2]={1,NULL,3}'", "[1,null,3]"),
    ("int4[]", "'{}'", "[]"),
    ("int4[]", "'[0:1]={7,8}'", "[7,8]"),
    ("text[]", "'[2:3][-1:0]={{a,b},{c,NULL}}'", r#"[["a","b"],["c",null]]"#),
    ("numeric[]", "'{NaN,1.10}'", "[null,1.10]"),
    ("bool[]", "'{t,NULL,f}'", "[true,null,false]"),
    ("date[]", "'{infinity,0044-03-15 BC}'", r#"[null,"-0043-03-15"]"#),
    ("bytea[]", "ARRAY['\\xDE'::bytea, '']", r#"["3g==",""]"#),
    ("int4range[]", "'{\"[1,5)\",empty,NULL}'", r#"[{"gte":1,"lt":5},null,null]"#),
    ("text[]", "ARRAY['a', NULL, 'NULL', 'b,\"c\\', '']", r#"["a",null,"NULL","b,\"c\\",""]"#),
    ("text[]", "ARRAY[['a', 'b'], ['c', 'd']]", r#"[["a","b"],["c","d"]]"#),
    ("timestamptz[]", "ARRAY['2024-02-29 12:00+00'::timestamptz]", r#"["2024-02-29T12:00:00Z"]"#),
    ("bytea", "'\\xDEADBEEF'", r#""3q2+7w==""#),
    ("mood", "'so so'", r#""so so""#),
    ("mood[]", "ARRAY['so so', 'fine']::mood[]", r#"["so so","fine"]"#),
    ("positive", "'5.50'", "5.50"),
    ("positive[]", "'{1.50,2}'", "[1.50,2]"),
    ("tags", "'{a,NULL,\"NULL\"}'", r#"["a",null,"NULL"]"#),
    ("tags", "'[0:0]={b}'", r#"["b"]"#),
    ("more_tags", "'{{a,b},{c,d}}'", r#"[["a","b"],["c","d"]]"#),
    ("pair", "ROW(1, 'a \"b\", c', NULL)::pair", r#"{"n":1,"t":"a \"b\", c","d":null}"#),
    ("pair[]", "ARRAY[ROW(2, '', '2024-01-01')::pair]", r#"[{"n":2,"t":"","d":"2024-01-01"}]"#),
    ("pair", "ROW(NULL, NULL, NULL)::pair", r#"{"n":null,"t":null,"d":null}"#),
    (
        "nest",
        "ROW(ROW(1, 'x\"(y),', 'infinity'), ARRAY[ROW(2, NULL, NULL)::pair, NULL], 'fine')::nest",
        r#"{"p":{"n":1,"t":"x\"(y),","d":null},"l":[{"n":2,"t":null,"d":null},null],"m":"fine"}"#,
    ),
    ("nest", "ROW(NULL, '{}', NULL)::nest", r#"{"p":null,"l":[],"m":null}"#),
    ("money", "'-1234.56'", "-1234.56"),
    ("money", "'92233720368547758.07'", "92233720368547758.07"),
    ("money", "'0'", "0.00"),
    ("inet", "'192.168.0.1/24'", r#""192.168.0.1/24""#),
    ("cidr", "'10.0.0.0/8'", r#""10.0.0.0/8""#),
    ("macaddr", "'08:00:2b:01:02:03'", r#""08:00:2b:01:02:03""#),
    ("inet", "'::ffff:1.2.3.4/96'", r#""::ffff:1.2.3.4/96""#),
    ("inet", "'10.0.0.1/32'", r#""10.0.0.1""#),
    ("cidr", "'10.0.0.1/32'", r#""10.0.0.1/32""#),
    ("cidr", "'2001:db8::/32'", r#""2001:db8::/32""#),
    ("macaddr8", "'08:00:2b:01:02:03:04:05'", r#""08:00:2b:01:02:03:04:05""#),
    ("int4range", "'[1,5)'", r#"{"gte":1,"lt":5}"#),
    ("tstzrange", "'empty'", "null"),
    ("int4range", "'(,5]'", r#"{"lt":6}"#),
    ("int8range", "'(,)'", "{}"),
    ("numrange", "'(1.5,2.50]'", r#"{"gt":1.5,"lte":2.50}"#),
    ("daterange", "'[2024-01-01,infinity)'", r#"{"gte":"2024-01-01"}"#),
    ("tstzrange", "'[2024-02-29 12:00+00,)'", r#"{"gte":"2024-02-29T12:00:00Z"}"#),
    (
        "tsrange",
        "'(2024-02-29 12:00,2024-03-01 00:00:00.5]'",
        r#"{"gt":"2024-02-29T12:00:00","lte":"2024-03-01T00:00:00.5"}"#,
    ),
    ("tsrange", "'[-infinity,0044-03-15 BC)'", r#"{"lt":"-0043-03-15T00:00:00"}"#),
    ("int4multirange", "'{}'", "[]"),
    (
        "datemultirange",
        "'{[2024-01-01,2024-01-02]}'",
        r#"[{"gte":"2024-01-01","lt":"2024-01-03"}]"#,
    ),
    ("tsmultirange", "'{[2024-01-01 01:00,)}'", r#"[{"gte":"2024-01-01T01:00:00"}]"#),
    (
        "tstzmultirange",
        "'{(,2024-01-01 01:00+01),[2024-01-02 00:00+00,2024-01-02 00:00+00]}'",
        r#"[{"lt":"2024-01-01T00:00:00Z"},{"gte":"2024-01-02T00:00:00Z","lte":"2024-01-02T00:00:00Z"}]"#,
    ),
    ("nummultirange", "'{(,1.5],[2,2],empty}'", r#"[{"lte":1.5},{"gte":2,"lte":2}]"#),
    ("int4multirange", "'{[1,3),[5,7)}'", r#"[{"gte":1,"lt":3},{"gte":5,"lt":7}]"#),
    ("bit(3)", "B'101'", r#""101""#),
    ("varbit", "B''", r#""""#),
    ("bit(8)", "B'00000001'", r#""00000001""#),
    ("varbit(9)", "B'010'", r#""010""#),
    ("xml", "'<a>b</a>'", r#""<a>b</a>""#),
    ("xml", "'<?xml version=\"1.0\"?><a b=\"c\">&amp;é</a>'", r#""<a b=\"c\">&amp;é</a>""#),
    ("xml", "'no element'", r#""no element""#),
    ("tsvector", "'a:1 fat:2 cat:3'::tsvector", r#""a fat cat""#),
    ("tsvector", "'fat:2A,4 cat:3'::tsvector", r#""fat cat fat""#),
    ("tsvector", "to_tsvector('english', 'The fat cats sat on a mat')", r#""fat cat sat mat""#),
    ("tsvector", "strip('b:1 a:2'::tsvector)", r#""a b""#),
    ("tsvector", "$$'it''s' 'c:\\\\d e':1B$$::tsvector", r#""c:\\d e it's""#),
    ("tsvector", "''::tsvector", r#""""#),
    ("tsvector[]", "ARRAY['b:1 a:2'::tsvector, NULL]", r#"["b a",null]"#),
    ("tsquery", "'fat & !cat'::tsquery", r#""'fat' & !'cat'""#),
    ("point", "'(1.5,-2)'", r#"{"lat":-2,"lon":1.5}"#),
    ("point", "'(NaN,-Infinity)'", "null"),
    ("point", "'(1e300,1e-300)'", r#"{"lat":1e-300,"lon":1e+300}"#),
    ("point[]", "ARRAY['(1,2)'::point, NULL]", r#"[{"lat":2,"lon":1},null]"#),
    ("box[]", "ARRAY['(1,1),(0,0)'::box, '(3,3),(2,2)']", r#"["(1,1),(0,0)","(3,3),(2,2)"]"#),
    ("pg_lsn", "'16/B374D848'", r#""16/B374D848""#),
];

const TYPES: &str = "
    CREATE TYPE mood AS ENUM ('so so', 'fine');
    CREATE DOMAIN positive AS numeric CHECK (value > 0);
    CREATE DOMAIN tags AS text[];
    CREATE DOMAIN more_tags AS tags CHECK (cardinality(value) > 1);
    CREATE TYPE pair AS (n int, t text, d date);
    CREATE TYPE nest AS (p pair, l pair[], m mood);";

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
        "lc_monetary = 'de_DE.UTF-8'",
    ] {
        database.execute(&format!("ALTER DATABASE {name} SET {setting}")).await;
    }
    let columns: Vec<String> =
        VALUES.iter().enumerate().map(|(at, (kind, ..))| format!("c{at} {kind}")).collect();
    let values: Vec<&str> = VALUES.iter().map(|(_, value, _)| *value).collect();
    let insert = |id: u32| format!("INSERT INTO every VALUES ({id}, {})", values.join(", "));
    // Nothing is stored apart: what a key change left out would come last in the document.
    let create = format!(
        "{TYPES} CREATE TABLE every (id int PRIMARY KEY, {}) WITH (toast_tuple_target = 8160)",
        columns.join(", ")
    );
    database.execute(&create).await;
    database.execute(&insert(1)).await;
    let following = follow(database, |_| {});
    following.streams().await;
    expect_values(&following, 1, "copied");
    following.execute(&insert(2), &["every"]).await;
    expect_values(&following, 2, "streamed");
    following
        .execute(
            "UPDATE every SET id = 3 WHERE id = 1; INSERT INTO every (id) VALUES (4)",
            &["every"],
        )
        .await;
    expect_values(&following, 3, "with another key");
    assert_eq!(following.document("every", "4").unwrap()["c0"], json!(null));
    // What is read to verify them says the same.
    let report = verified(&following, VerifyOptions::default()).await;
    assert_eq!((report.tables[0].rows, report.differences.len()), (3, 0), "{report:#?}");
}

/// Expects the document of each value to be what it should, letter for letter.
fn expect_values(following: &Following, id: u32, how: &str) {
    let status = following.pipeline().status();
    assert_eq!(status.dead_letters, 0, "{how}: {}", following.letters());
    let field =
        |(at, (.., expected)): (usize, &(&str, &str, &str))| format!("\"c{at}\":{expected}");
    let fields: Vec<String> = VALUES.iter().enumerate().map(field).collect();
    let found = following.source("every", &id.to_string()).unwrap();
    for (field, (kind, value, _)) in fields.iter().zip(VALUES) {
        assert!(found.contains(field), "{how}: {kind} {value}: no {field} in {found}");
    }
    assert_eq!(found, format!("{{\"id\":{id},{}}}", fields.join(",")), "{how}");
}

#[tokio::test(flavor = "multi_thread")]
async fn mappings_come_from_the_catalog() {
    let following = Following::start(&format!(
        "{TYPES} CREATE TABLE every (
             id int8 PRIMARY KEY, small int2, price numeric, name text, code char(3), id2 uuid,
             feeling mood, ok bool, at timestamptz, host inet, hosts inet[], net cidr, place point,
             during tstzrange, numbers int8range, prices nummultirange, tags text[], doc jsonb, raw bytea,
             p positive, lexemes tsvector, opens time, closes timetz)"
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
    check("host", "ip");
    check("hosts", "ip");
    check("net", "ip_range");
    check("during", "date_range");
    check("numbers", "long_range");
    check("prices", "double_range");
    check("place", "geo_point");
    check("lexemes", "text");
    check("opens", "keyword");
    check("closes", "keyword");
    assert_eq!(field("opens")["fields"]["time"]["type"], "date");
    assert_eq!(field("closes")["fields"]["time"]["type"], "date");
    assert_eq!(field("host")["fields"]["keyword"]["type"], "keyword");
    assert_eq!(field("name")["fields"]["keyword"]["type"], "keyword");
    assert_eq!(field("raw")["index"], false);
}

/// Numbers of more digits than a double has: what one cannot hold is null, all others stay digit by
/// digit. Larger ones within JSON are no document of any index: their rows are listed.
#[tokio::test(flavor = "multi_thread")]
async fn numbers_of_many_digits() {
    const ROWS: &str = "SELECT * FROM (VALUES
        (1, repeat('9', 131072)::numeric, NULL::json),
        (2, ('-' || repeat('9', 131072) || '.' || repeat('1', 16383))::numeric, NULL),
        (3, ('0.' || repeat('7', 16383))::numeric, NULL),
        (4, repeat('1', 300)::numeric, NULL),
        (5, 0, '{\"exact\": 0.10000000000000000000000000000000001, \"e\": 1E+2}'),
        (6, 0, '{\"large\": 1e400}')) AS rows (id, number, document)";
    // What is past a double, written out: 10^308 is not.
    const EXPECTED: &str = "SELECT id::text, json_build_object('id', id,
            'number', CASE WHEN abs(number) < 1e308 THEN number END, 'document', document)::text
        FROM numbers WHERE id % 10 < 6";
    let create = "CREATE TABLE numbers (id int PRIMARY KEY, number numeric, document json)";
    let following = Following::start(&format!("{create}; INSERT INTO numbers {ROWS}")).await;
    following.lists(1).await;
    let insert = format!("INSERT INTO numbers SELECT id + 10, number, document FROM ({ROWS}) AS r");
    following.execute(&insert, &["numbers"]).await;
    following.equals("numbers", EXPECTED).await;
    following.lists(2).await;
    assert_eq!(following.letters().matches("number out of range").count(), 2);
    let exact = r#""document":{"exact": 0.10000000000000000000000000000000001, "e": 1E+2}"#;
    for (id, field) in [(5, exact.to_owned()), (3, format!("\"number\":0.{}", "7".repeat(16_383)))]
    {
        for id in [id, id + 10] {
            let source = following.source("numbers", &id.to_string()).unwrap();
            assert!(source.contains(&field), "{id}: {source:.200}");
        }
    }
}

/// Types of extensions, whose OIDs are others in every database.
#[tokio::test(flavor = "multi_thread")]
async fn types_of_extensions() {
    const VALUES: &str =
        "('Käse', '{A,NULL}', 'a=>1, \"b \\\"c\\\"\"=>NULL, NULL=>\"NULL\", c=>\"\"')";
    let query = "SELECT count(*) FROM pg_available_extensions WHERE name IN ('citext', 'hstore')";
    let mut oids = Vec::new();
    for others in ["", "CREATE TYPE first AS ENUM (); CREATE TYPE second AS (a int);"] {
        let database = Database::create().await;
        let client = database.client();
        if client.query_one(query, &[]).await.unwrap().get::<_, i64>(0) < 2 {
            poll::report("this PostgreSQL comes without citext and hstore: they are not tested");
            return;
        }
        let create = format!(
            "{others} CREATE EXTENSION citext; CREATE EXTENSION hstore;
             CREATE TABLE extended (id serial PRIMARY KEY, c citext, l citext[], h hstore);
             INSERT INTO extended (c, l, h) VALUES {VALUES}, ('', '{{}}', '')"
        );
        database.execute(&create).await;
        let query = "SELECT array['citext', '_citext', 'hstore']::regtype[]::oid[]";
        oids.push(client.query_one(query, &[]).await.unwrap().get::<_, Vec<u32>>(0));
        let following = Following::follow(database, |_| {});
        following.streams().await;
        let insert = format!("INSERT INTO extended (c, l, h) VALUES {VALUES}, ('', '{{}}', '')");
        following.execute(&insert, &["extended"]).await;
        let full =
            r#""c":"Käse","l":["A",null],"h":{"a":"1","c":"","NULL":"NULL","b \"c\"":null}}"#;
        let empty = r#""c":"","l":[],"h":{}}"#;
        for (id, expected) in [(1, full), (2, empty), (3, full), (4, empty)] {
            let found = following.source("extended", &id.to_string());
            assert_eq!(found, Some(format!("{{\"id\":{id},{expected}")));
        }
        for name in ["c", "l"] {
            assert_eq!(following.mapping("extended")["properties"][name]["type"], "text");
        }
        assert_eq!(following.pipeline().status().dead_letters, 0, "{}", following.letters());
    }
    assert!(
        oids[0].iter().zip(&oids[1]).all(|(one, other)| one != other),
        "the same OIDs: {oids:?}"
    );
}

/// PostGIS's own geometries: points in degrees can be searched, all others are as PostGIS writes them.
#[tokio::test(flavor = "multi_thread")]
async fn geometries_of_postgis() {
    const ROWS: &str = "VALUES
        (1, ST_SetSRID(ST_MakePoint(13.4, 52.5), 4326), 'POINT(-0.125 51.5)'::geography),
        (2, ST_MakePoint(1, -2, 3), 'SRID=4326;POINTZ(1e-7 -90 5)'),
        (3, 'POINT EMPTY', NULL),
        (4, 'SRID=3857;POINT(1491681 6891041)', 'LINESTRING(0 0, 1 1)'),
        (5, 'SRID=4326;MULTIPOINT((1 2), (3 4))', 'POLYGON((0 0, 1 0, 1 1, 0 0))')";
    // What is no point in degrees is as it is written.
    const EXPECTED: &str = "SELECT id::text, json_build_object('id', id,
        'shape', CASE WHEN kind < 3 THEN json_build_object('lat', ST_Y(shape), 'lon', ST_X(shape))
                      WHEN kind > 3 THEN to_json(shape::text) END,
        'place', CASE WHEN kind < 3 THEN json_build_object('lat', ST_Y(place::geometry),
                                                         'lon', ST_X(place::geometry))
                      WHEN kind > 3 THEN to_json(place::text) END)::text
        FROM (SELECT id % 10 AS kind, id, shape, place FROM places) AS all_places";
    let database = Database::create().await;
    let query = "SELECT count(*) FROM pg_available_extensions WHERE name = 'postgis'";
    if database.client().query_one(query, &[]).await.unwrap().get::<_, i64>(0) == 0 {
        return poll::report("this PostgreSQL comes without PostGIS: its types are not tested");
    }
    let create = "CREATE EXTENSION postgis;
        CREATE TABLE places (id int PRIMARY KEY, shape geometry, place geography)";
    database.execute(&format!("{create}; INSERT INTO places {ROWS}")).await;
    let following = Following::follow(database, |config| config.tables = vec!["places".to_owned()]);
    following.streams().await;
    let insert = "INSERT INTO places SELECT id + 10, shape, place FROM places";
    following.execute(insert, &["places"]).await;
    following.equals("places", EXPECTED).await;
    for field in ["shape", "place"] {
        assert_eq!(following.mapping("places")["properties"][field]["type"], "geo_point");
    }
    let report = verified(&following, VerifyOptions::default()).await;
    assert_eq!(report.differences.len(), 0, "{report:#?}");
    assert_eq!(following.pipeline().status().dead_letters, 0, "{}", following.letters());
}

/// Labels that come while the table is followed, in a column, an array and a composite.
#[tokio::test(flavor = "multi_thread")]
async fn labels_that_come_while_the_log_is_followed() {
    let create = "CREATE TABLE felt (id int PRIMARY KEY, m mood, l mood[], n nest);
        INSERT INTO felt VALUES (1, 'fine', '{so so}', ROW(NULL, NULL, 'fine')::nest)";
    let following = Following::start(&format!("{TYPES} {create}")).await;
    following.database.execute("ALTER TYPE mood ADD VALUE 'very, \"sad\"' BEFORE 'so so'").await;
    let sad = "'very, \"sad\"'";
    let write = format!(
        "INSERT INTO felt VALUES (2, {sad}, ARRAY[{sad}]::mood[], ROW(NULL, NULL, {sad})::nest);
         UPDATE felt SET m = {sad} WHERE id = 1"
    );
    following.execute(&write, &["felt"]).await;
    let label = r#""very, \"sad\"""#;
    let document = |id: u32, m: &str, l: &str, n: &str| {
        format!(r#"{{"id":{id},"m":{m},"l":[{l}],"n":{{"p":null,"l":null,"m":{n}}}}}"#)
    };
    let first = document(1, label, r#""so so""#, r#""fine""#);
    assert_eq!(following.source("felt", "1"), Some(first));
    assert_eq!(following.source("felt", "2"), Some(document(2, label, label, label)));
    assert_eq!(following.copies(), 1, "a new label is no reason to copy");
}
