//! Columns of every kind, as queries find them: whether they were copied or streamed, and over HTTP.

use egret_tests::egret::{Egret, EgretOptions};
use egret_tests::poll;
use egret_tests::postgres::Database;
use serde_json::{Value, json};

/// A shop a row. Those of even numbers are copied, the others streamed.
const SHOPS: &str = "
    CREATE TYPE mood AS ENUM ('calm', 'busy');
    CREATE TYPE owner AS (name text, born date);
    CREATE TABLE shops (id int PRIMARY KEY, host inet, net cidr, place point, season daterange,
        ages int4range, visits tstzmultirange, opens time, closes timetz, words tsvector,
        price numeric, rating float8, seen timestamptz, feeling mood, tags text[], more jsonb,
        held_by owner, code char(5), key uuid, big int8, pays money, took interval, flags bit(3))";

const ROWS: [&str; 4] = [
    "(2, '10.1.2.3', '10.1.0.0/16', '(13.4,52.5)', '[2024-03-01,2024-06-01)', '[18,30)',
      '{[2024-01-01 00:00+00,2024-01-02 00:00+00),[2024-02-01 00:00+00,2024-02-02 00:00+00)}',
      '09:00', '17:00+00', to_tsvector('english', 'The quick brown foxes'), 1.10, 4.5,
      '2024-02-29 12:00+00', 'calm', '{red,blue}', '{\"a\": {\"b\": 5}}', ROW('Ann', '1980-05-05'), 'ab',
      'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 9007199254740993, 10.50, '1 day', B'101')",
    "(1, '10.1.2.4/24', '192.168.0.0/24', '(-0.1,51.5)', '[2024-07-01,)', '(,18)', '{}',
      '08:30:00.25', '17:00+05:30', to_tsvector('english', 'brown and quick'), 'NaN', 'Infinity',
      'infinity', 'busy', '{}', '[1, 2]', ROW(NULL, NULL), 'abc', NULL, 9007199254740992, -3, '2 mons', B'010')",
    "(4, '2001:db8::1', '2001:db8::/32', '(NaN,0)', 'empty', 'empty', '{(,)}', '24:00:00',
      '24:00:00+00', '', 100000000000000000000.5, '-0', '0044-03-15 00:00+00 BC', NULL, '{NULL}',
      'null', NULL, '', NULL, -1, 0, '0', B'000')",
    "(3)",
];

async fn hits(egret: &Egret, query: Value) -> Vec<i64> {
    let body = json!({"query": query, "sort": ["id"], "size": 10});
    let found = egret.search("shops", &body).await;
    let id = |hit: &Value| hit["_source"]["id"].as_i64().unwrap();
    found["hits"]["hits"].as_array().unwrap().iter().map(id).collect()
}

/// Queries, and the ids of what they find.
fn queries() -> Vec<(Value, Vec<i64>)> {
    vec![
        (json!({"term": {"host": "10.1.2.3"}}), vec![2]),
        // An address with a netmask is in its keyword.
        (json!({"term": {"host": "10.1.2.0/24"}}), vec![2]),
        (json!({"term": {"host.keyword": "10.1.2.4/24"}}), vec![1]),
        (json!({"term": {"host": "2001:db8::/16"}}), vec![4]),
        (json!({"term": {"net": "10.1.200.1"}}), vec![2]),
        (json!({"term": {"net": "2001:db8:5::1"}}), vec![4]),
        (json!({"term": {"net.keyword": "192.168.0.0/24"}}), vec![1]),
        (
            json!({"geo_distance": {"distance": "100km", "place": {"lat": 52.4, "lon": 13}}}),
            vec![2],
        ),
        (
            json!({"geo_bounding_box": {"place": {"top_left": [-1, 52], "bottom_right": [1, 51]}}}),
            vec![1],
        ),
        (json!({"term": {"season": "2024-05-31"}}), vec![2]),
        (json!({"term": {"season": "2024-06-01"}}), vec![]),
        (json!({"term": {"season": "2999-01-01"}}), vec![1]),
        (json!({"range": {"season": {"gte": "2024-05-01", "lte": "2024-08-01"}}}), vec![1, 2]),
        (
            json!({"range": {"season": {"gte": "2024-02-01", "lte": "2024-08-01",
                                        "relation": "within"}}}),
            vec![2],
        ),
        (json!({"term": {"ages": 17}}), vec![1]),
        (json!({"term": {"ages": 18}}), vec![2]),
        (json!({"term": {"visits": "2024-02-01T12:00:00Z"}}), vec![2, 4]),
        (json!({"term": {"visits": "2024-01-15"}}), vec![4]),
        (json!({"range": {"opens.time": {"gte": "08:30:00.25", "lt": "09:00:00"}}}), vec![1]),
        (json!({"range": {"opens.time": {"gt": "08:30:00.25"}}}), vec![2]),
        (json!({"term": {"opens": "24:00:00"}}), vec![4]),
        // The same hour elsewhere is earlier.
        (json!({"range": {"closes.time": {"lt": "17:00:00+00:00"}}}), vec![1]),
        (json!({"range": {"closes.time": {"gte": "12:00:00+01:00"}}}), vec![1, 2]),
        (json!({"match_phrase": {"words": "quick brown"}}), vec![2]),
        (json!({"match": {"words": "brown"}}), vec![1, 2]),
        (json!({"range": {"price": {"gte": 1.1, "lte": 1.1}}}), vec![2]),
        (json!({"range": {"price": {"gt": 1e19}}}), vec![4]),
        (json!({"range": {"rating": {"gt": -1}}}), vec![2, 4]),
        (json!({"range": {"seen": {"lt": "2024-02-29T12:00:00.000001Z"}}}), vec![2, 4]),
        (json!({"range": {"seen": {"lt": "0001-01-01"}}}), vec![4]),
        (json!({"term": {"feeling": "busy"}}), vec![1]),
        (json!({"term": {"tags.keyword": "blue"}}), vec![2]),
        (json!({"exists": {"field": "tags"}}), vec![2]),
        (json!({"term": {"more.a.b": 5}}), vec![2]),
        (json!({"term": {"more.value": 2}}), vec![1]),
        (json!({"range": {"held_by.born": {"lte": "1980-05-05"}}}), vec![2]),
        (json!({"term": {"code.keyword": "ab"}}), vec![2]),
        (json!({"term": {"key": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"}}), vec![2]),
        (json!({"term": {"big": 9_007_199_254_740_993_i64}}), vec![2]),
        (json!({"range": {"big": {"lt": 9_007_199_254_740_993_i64}}}), vec![1, 4]),
        (json!({"range": {"pays": {"lt": 0}}}), vec![1]),
        (json!({"term": {"took": "P2M"}}), vec![1]),
        (json!({"prefix": {"flags": "0"}}), vec![1, 4]),
        (json!({"bool": {"must_not": {"exists": {"field": "place"}}}}), vec![3, 4]),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_are_found_by_what_they_are() {
    let database = Database::create().await;
    let insert = |row: &str| match row {
        "(3)" => "INSERT INTO shops (id) VALUES (3);".to_owned(),
        row => format!("INSERT INTO shops VALUES {row};"),
    };
    database.execute(&format!("{SHOPS}; {}{}", insert(ROWS[0]), insert(ROWS[2]))).await;
    let egret = Egret::start(EgretOptions::following(database.url(), "shops"));
    poll::until("the table is copied", async || {
        let shown = egret.get("/_cdc/main").await.ok();
        (shown["state"] == "streaming").then_some(())
    })
    .await;
    database.execute(&format!("{}{}", insert(ROWS[1]), insert(ROWS[3]))).await;
    let lsn = database.flush_lsn().await;
    egret.get(&format!("/shops/_search?wait_for_lsn={lsn}&wait_for_timeout=60s")).await.ok();
    for (query, expected) in queries() {
        assert_eq!(hits(&egret, query.clone()).await, expected, "{query}");
    }
    let body = json!({"size": 0, "aggs": {"by_hour": {
        "date_histogram": {"field": "opens.time", "fixed_interval": "1h"}}}});
    let found = egret.search("shops", &body).await;
    let buckets = found["aggregations"]["by_hour"]["buckets"].as_array().unwrap();
    let hours: Vec<&str> = buckets.iter().map(|it| it["key_as_string"].as_str().unwrap()).collect();
    assert_eq!(hours, ["08:00:00.000", "09:00:00.000"]);
}
