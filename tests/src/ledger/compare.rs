//! The comparison: the index holds exactly what the tables hold, at one position, seen through
//! `_source`, through columns, through aggregations and through searches for single rows.
//!
//! Checksums of both sides are computed by PostgreSQL, from its own rows and from the values that
//! searches returned, so no representation of a value is compared with itself.

use serde_json::{Value, json};

use crate::egret::Egret;
use crate::postgres::Database;

/// Hits of one page.
const PAGE: usize = 2_000;

/// Rows that are searched for one by one.
const SAMPLE: i64 = 25;

/// Fields whose columns are read beside the source.
const COLUMNS: [&str; 8] =
    ["id", "balance", "changes", "kind.keyword", "weight", "serial", "active", "at"];

/// Panics where the index differs from the tables. Nothing may write meanwhile. Returns how many
/// rows were compared.
pub async fn compare(database: &Database, egret: &Egret) -> u64 {
    let lsn = database.flush_lsn().await;
    database.execute(include_str!("compare.sql")).await;
    database.execute("TRUNCATE pages").await;
    let sort = json!([{"id": "asc"}]);
    read_pages(database, egret, &lsn, "accounts", sort).await;
    read_pages(database, egret, &lsn, "journal", json!([{"day.keyword": "asc"}, {"line": "asc"}]))
        .await;
    let query = "SELECT side, key, problem FROM differences ORDER BY 1, 2 LIMIT 20";
    let rows = database.client().query(query, &[]).await.unwrap();
    let differences: Vec<_> = rows
        .iter()
        .map(|row| {
            let text = |at| row.get::<usize, String>(at);
            format!("{} {}: {}", text(0), text(1), text(2))
        })
        .collect();
    assert!(
        differences.is_empty(),
        "the index differs from the table:\n{}",
        differences.join("\n")
    );
    compare_groups(database, egret).await;
    compare_sample(database, egret).await;
    let query = "SELECT (SELECT count(*) FROM accounts) + (SELECT count(*) FROM journal)";
    let rows: i64 = database.client().query_one(query, &[]).await.unwrap().get(0);
    u64::try_from(rows).unwrap()
}

/// Pages through a whole index and hands the answers to PostgreSQL.
async fn read_pages(database: &Database, egret: &Egret, lsn: &str, index: &str, sort: Value) {
    let columns: &[&str] = if index == "accounts" { &COLUMNS } else { &[] };
    let mut after = Value::Null;
    loop {
        let mut body = json!({"size": PAGE, "sort": sort, "docvalue_fields": columns});
        if !after.is_null() {
            body["search_after"] = after;
        }
        let path = format!("/{index}/_search?wait_for_lsn={lsn}&wait_for_timeout=60s");
        let answer = egret.post(&path, &body).await;
        let text = answer.text.clone();
        let body = answer.ok();
        let hits = body["hits"]["hits"].as_array().unwrap();
        let insert = "INSERT INTO pages VALUES ($1, $2::text::jsonb)";
        database.client().execute(insert, &[&index, &text]).await.unwrap();
        if hits.len() < PAGE {
            return;
        }
        after = hits[hits.len() - 1]["sort"].clone();
    }
}

/// Counts and sums by kind: what aggregations see, against SQL.
async fn compare_groups(database: &Database, egret: &Egret) {
    let body = json!({"size": 0, "aggs": {"kinds": {
        "terms": {"field": "kind.keyword", "size": 100, "order": {"_key": "asc"}},
        "aggs": {"sum": {"sum": {"field": "balance"}}}}}});
    let answer = egret.search("accounts", &body).await;
    let buckets = answer["aggregations"]["kinds"]["buckets"].as_array().unwrap();
    #[expect(clippy::cast_possible_truncation, reason = "sums of whole numbers below 2^53")]
    let shown: Vec<_> = buckets
        .iter()
        .map(|bucket| {
            let sum = bucket["sum"]["value"].as_f64().unwrap() as i64;
            (bucket["key"].as_str().unwrap().to_owned(), bucket["doc_count"].as_i64().unwrap(), sum)
        })
        .collect();
    let query = "SELECT kind, count(*), sum(balance)::bigint FROM accounts WHERE kind IS NOT NULL
                 GROUP BY kind ORDER BY kind COLLATE \"C\"";
    let rows = database.client().query(query, &[]).await.unwrap();
    let expected: Vec<(String, i64, i64)> =
        rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    assert_eq!(shown, expected, "kinds");
}

/// Single rows, found by their key and by a word that only one version of a row has.
async fn compare_sample(database: &Database, egret: &Egret) {
    let query = "SELECT id, split_part(note, ' ', -1), array(
                     SELECT id::text FROM accounts AS other
                      WHERE split_part(other.note, ' ', -1) = split_part(accounts.note, ' ', -1)
                      ORDER BY id)
                   FROM accounts ORDER BY md5(id::text) LIMIT $1";
    for row in database.client().query(query, &[&SAMPLE]).await.unwrap() {
        let (id, word, with_word): (i32, String, Vec<String>) =
            (row.get(0), row.get(1), row.get(2));
        let by_key = (json!({"term": {"id": id}}), vec![id.to_string()]);
        let by_word = (json!({"match": {"note": word}}), with_word);
        for (query, expected) in [by_key, by_word] {
            let body = json!({"query": query, "sort": [{"id": "asc"}]});
            let answer = egret.search("accounts", &body).await;
            let hits = answer["hits"]["hits"].as_array().unwrap();
            let found: Vec<_> = hits.iter().map(|hit| hit["_id"].as_str().unwrap()).collect();
            assert_eq!(found, expected, "{query}");
        }
    }
}
