//! Documents of several tables through the whole program: declared in the file, read over HTTP while
//! transactions move rows between them and the program is killed, and never a trace of the rows that
//! they are made from.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use egret_tests::egret::{Egret, EgretOptions};
use egret_tests::ledger::status;
use egret_tests::poll;
use egret_tests::postgres::Database;
use serde_json::{Value, json};
use tokio::task::block_in_place;

const TABLES: &str = "
    CREATE TABLE makers (id int PRIMARY KEY, turn int);
    CREATE TABLE products (id int PRIMARY KEY, maker int REFERENCES makers);
    CREATE TABLE reviews (id int PRIMARY KEY, product int REFERENCES products, stars int);
    INSERT INTO makers SELECT n, 0 FROM generate_series(1, 3) AS n;
    INSERT INTO products SELECT n, 1 + n % 3 FROM generate_series(1, 30) AS n;
    INSERT INTO reviews SELECT n, 1 + n % 30, n % 5 FROM generate_series(1, 300) AS n";

const DECLARED: &str = r#"
tables = []

[[pipelines.documents]]
table = "public.products"

[[pipelines.documents.related]]
field = "maker"
table = "public.makers"
kind = "one"

[[pipelines.documents.related]]
field = "reviews"
table = "public.reviews"
exclude = ["product"]
aggregates = { review_count = "count", stars = "sum(stars)" }
"#;

const PRODUCTS: &str = "
    SELECT p.id::text, json_build_object('id', p.id,
      'maker', (SELECT row_to_json(m) FROM makers m WHERE m.id = p.maker),
      'maker_id', NULL,
      'reviews', (SELECT coalesce(json_agg(json_build_object('id', r.id, 'stars', r.stars)
                  ORDER BY r.id), '[]') FROM reviews r WHERE r.product = p.id),
      'review_count', (SELECT count(*) FROM reviews r WHERE r.product = p.id),
      'stars', (SELECT sum(stars) FROM reviews r WHERE r.product = p.id))::text
    FROM products p";

fn start(database: &Database) -> Egret {
    start_with(database, "")
}

/// With more options of the pipeline.
fn start_with(database: &Database, options: &str) -> Egret {
    let url = database.url();
    let configuration = format!(
        "[[pipelines]]\nurl = {url:?}\nslot = \"egret_{}\"\n{options}{}",
        database.name(),
        DECLARED.replace(
            "table = \"public.products\"",
            "table = \"public.products\"\nrename = { maker = \"maker_id\" }"
        )
    );
    Egret::start(EgretOptions { configuration, ..EgretOptions::default() })
}

async fn everything(egret: &Egret) -> Option<Vec<Value>> {
    let body = json!({"size": 1000, "sort": ["id"]});
    let answer = egret.try_request(reqwest::Method::POST, "/products/_search", &body).await?;
    let hits = answer.body["hits"]["hits"].as_array()?.clone();
    Some(hits.into_iter().map(|hit| hit["_source"].clone()).collect())
}

/// Every answer shows whole transactions: each moves reviews between products and gives a maker's
/// products a new turn.
fn check(products: &[Value]) {
    assert_eq!(products.len(), 30);
    let sum: u64 = products.iter().map(|it| it["review_count"].as_u64().unwrap()).sum();
    let shown: usize = products.iter().map(|it| it["reviews"].as_array().unwrap().len()).sum();
    assert_eq!((sum, shown), (300, 300));
    for maker in 1..=3 {
        let of_maker = products.iter().filter(|product| product["maker"]["id"] == maker);
        let mut turns: Vec<i64> =
            of_maker.map(|product| product["maker"]["turn"].as_i64().unwrap()).collect();
        turns.dedup();
        // Products change their maker; at times one has none.
        assert!(turns.len() <= 1, "maker {maker} has the turns {turns:?}");
    }
}

/// Whether the index is what the tables are.
async fn equals(database: &Database, egret: &Egret) -> bool {
    let rows = database.client().query(PRODUCTS, &[]).await.unwrap();
    let mut expected: Vec<Value> = rows
        .iter()
        .map(|row| serde_json::from_str(row.get::<_, String>(1).as_str()).unwrap())
        .collect();
    expected.sort_by_key(|product: &Value| product["id"].as_i64());
    let Some(mut found) = everything(egret).await else { return false };
    for (expected, found) in expected.iter_mut().zip(&mut found) {
        // The column has a name of its own, since the field is the row that it names.
        expected["maker_id"] = expected["maker"]["id"].clone();
        assert!(found["reviews"].is_array());
    }
    expected == found
}

/// Checks every answer for so long; how many there were.
async fn check_for(egret: &Egret, time: Duration) -> usize {
    let until = Instant::now() + time;
    let mut answers = 0;
    while Instant::now() < until {
        let Some(products) = everything(egret).await else { continue };
        check(&products);
        answers += 1;
    }
    answers
}

#[tokio::test(flavor = "multi_thread")]
async fn whole_transactions_over_http_and_through_kills() {
    let database = Database::create().await;
    database.execute(TABLES).await;
    let mut egret = block_in_place(|| start(&database));
    let ready = async || equals(&database, &egret).await.then_some(());
    poll::until("the first copy", ready).await;
    let writer = database.connect().await;
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let writing = tokio::spawn(async move {
        let mut turn = 0;
        while stopped.try_recv().is_err() {
            turn += 1;
            let statements = format!(
                "BEGIN; UPDATE reviews SET product = 1 + (product + {turn}) % 30 WHERE id % 40 = {turn} % 40;
                 UPDATE makers SET turn = {turn} WHERE id = 1 + {turn} % 3;
                 UPDATE products SET maker = 1 + (maker + {turn}) % 3 WHERE id = 1 + {turn} % 30; COMMIT;
                 SELECT pg_sleep(0.02)"
            );
            writer.batch_execute(&statements).await.unwrap();
        }
        turn
    });
    let mut answers = 0;
    for _ in 0..3 {
        answers += check_for(&egret, Duration::from_secs(2)).await;
        egret.kill();
        block_in_place(|| egret.resume());
    }
    stop.send(()).unwrap();
    let turns = writing.await.unwrap();
    assert!(answers > 20 && turns > 20, "{answers} answers, {turns} transactions");
    poll::until("the end", async || equals(&database, &egret).await.then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_never_seen() {
    let database = Database::create().await;
    database.execute(TABLES).await;
    let egret = block_in_place(|| start(&database));
    poll::until("the copy", async || equals(&database, &egret).await.then_some(())).await;
    database.execute("UPDATE reviews SET stars = stars + 1").await;
    poll::until("the update", async || equals(&database, &egret).await.then_some(())).await;
    assert_eq!(egret.count("products").await, Some(30));
    let everything = json!({"size": 0, "track_total_hits": true, "aggs": {
        "ids": {"value_count": {"field": "id"}},
        "stars": {"sum": {"field": "stars"}},
        "none": {"missing": {"field": "id"}}}});
    let answer = egret.search("products", &everything).await;
    assert_eq!(answer["hits"]["total"]["value"], 30);
    assert_eq!(answer["aggregations"]["ids"]["value"], 30.0);
    for query in [
        json!({"match_all": {}}),
        json!({"bool": {"must_not": {"exists": {"field": "nothing"}}}}),
        json!({"range": {"id": {"lte": 30}}}),
        json!({"exists": {"field": "reviews.id"}}),
        json!({"exists": {"field": "maker.turn"}}),
    ] {
        let answer = egret.post("/products/_count", &json!({"query": query})).await.ok();
        assert_eq!(answer["count"], 30, "{query}");
    }
    let ids = json!({"ids": {"values": ["\u{0}0\u{0}1", "\u{0}2\u{0}1", "1"]}});
    let answer = egret.post("/products/_count", &json!({"query": ids})).await.ok();
    assert_eq!(answer["count"], 1);
    for id in ["%000%001", "%002%001"] {
        assert_eq!(egret.get(&format!("/products/_doc/{id}")).await.status, 404);
    }
    let mut scrolled = 0;
    let mut page = egret.post("/products/_search?scroll=1m", &json!({"size": 7})).await.ok();
    loop {
        let hits = page["hits"]["hits"].as_array().unwrap().len();
        if hits == 0 {
            break;
        }
        scrolled += hits;
        let scroll = json!({"scroll": "1m", "scroll_id": page["_scroll_id"]});
        page = egret.post("/_search/scroll", &scroll).await.ok();
    }
    assert_eq!(scrolled, 30);
    let stats = egret.get("/products/_stats").await.ok();
    assert_eq!(stats["indices"]["products"]["primaries"]["docs"]["count"], 30);
    let cat = egret.get("/_cat/indices/products?format=json").await.ok();
    assert_eq!(cat[0]["docs.count"], "30");
    // What they are made of is the pipeline's.
    assert_eq!(egret.put("/products/_doc/1", &json!({"id": 1})).await.status, 403);
}

/// What the status says of the table.
async fn table(egret: &Egret) -> Option<Value> {
    Some(status(egret).await?["tables"][0].clone())
}

/// Waits until so many rows of all tables are copied, while more are.
async fn copies(egret: &Egret, rows: u64) {
    poll::until("rows are copied", async || {
        let table = table(egret).await?;
        (table["state"] == "copying" && table["rows_copied"].as_u64()? > rows).then_some(())
    })
    .await;
}

/// Waits until what is copied now is durable: one flush may be under way, the next holds it.
async fn is_flushed(egret: &Egret) {
    let flushes = async || {
        let stats = egret.get("/products/_stats/flush").await.ok();
        stats["_all"]["total"]["flush"]["total"].as_u64()
    };
    let before = flushes().await.unwrap();
    poll::until("flushes", async || (flushes().await? >= before + 2).then_some(())).await;
}

/// Killed in the copy of the first table, and in that of the last, with changes to all of them before it
/// is started again.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_goes_on_through_kills() {
    let database = Database::create().await;
    database.execute(TABLES).await;
    // Makers are read first: the smaller table comes before the larger.
    let more = "INSERT INTO makers SELECT n, 0 FROM generate_series(4, 4000) AS n;
        INSERT INTO reviews SELECT n, 1 + n % 30, n % 5 FROM generate_series(301, 12000) AS n";
    database.execute(more).await;
    let slow = "copy_workers = 1\ncopy_range_blocks = 2\ncopy_batch_bytes = 4096\n\
                copy_max_bytes_per_second = 12000\n";
    let mut egret = block_in_place(|| start_with(&database, slow));
    let mut resumed = 0;
    // Rows of all tables: those of two are 4030.
    for (turn, rows) in [1500, 7000].into_iter().enumerate() {
        copies(&egret, rows - 1000).await;
        is_flushed(&egret).await;
        copies(&egret, rows).await;
        assert_eq!(egret.count("products").await, Some(0), "an incomplete document is seen");
        block_in_place(|| egret.kill());
        let changes = format!(
            "BEGIN; UPDATE makers SET turn = turn + 1 WHERE id % 3 = {turn};
             UPDATE makers SET id = id + 100000 WHERE id > 3 AND id % 5 = {turn}; COMMIT;
             UPDATE products SET maker = NULL WHERE id % 7 = {turn};
             UPDATE products SET maker = (SELECT max(id) FROM makers) WHERE id % 11 = {turn};
             UPDATE reviews SET product = 1 + product * 7 % 30 WHERE id % 3 = {turn};
             UPDATE reviews SET id = id + 100000 WHERE id % 13 = {turn};
             DELETE FROM reviews WHERE id % 17 = {turn};
             INSERT INTO reviews SELECT n, 1 + n % 30, 5
               FROM generate_series(50000 + 1000 * {turn}, 50500 + 1000 * {turn}) AS n"
        );
        for statement in changes.split(';') {
            database.execute(statement).await;
        }
        if rows > 4030 {
            let configuration = &mut egret.options_mut().configuration;
            *configuration = configuration.replace("= 12000", "= 0");
        }
        block_in_place(|| egret.resume());
        let before = resumed;
        resumed = poll::until("the copy goes on", async || {
            table(&egret).await?["rows_resumed"].as_u64().filter(|rows| *rows > 0)
        })
        .await;
        assert!(resumed > before && (rows < 4030 || resumed > 4030), "{before}, then {resumed}");
    }
    poll::until("the copy", async || equals(&database, &egret).await.then_some(())).await;
    let status = status(&egret).await.unwrap();
    assert_eq!((&status["copies"], &status["dead_letters"]), (&json!(1), &json!(0)), "{status}");
}
