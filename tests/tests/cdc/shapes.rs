//! Declared documents: which columns and rows they take, under what names and ids, and what becomes
//! of a declaration that changes or cannot be served.

use egret_cdc::status::TableState;
use egret_cdc::{DocumentConfig, PipelineState};
use egret_tests::postgres::Database;
use serde_json::{Value, json};

use crate::following::Following;

/// A declaration from JSON, which reads as the configuration file does.
fn declared(document: Value) -> DocumentConfig {
    serde_json::from_value(document).unwrap()
}

/// A database whose server can hold back rows and columns; none where it is too old.
async fn with_filters() -> Option<Database> {
    let database = Database::create().await;
    (!database.lacks(15, "filters and column lists").await).then_some(database)
}

/// Follows what is declared, and no other table.
async fn follows(database: Database, tables: &str, documents: &[Value]) -> Following {
    database.execute(tables).await;
    let following = Following::follow(database, |config| {
        config.tables = Vec::new();
        config.documents = documents.iter().cloned().map(declared).collect();
    });
    following.streams().await;
    following
}

/// Declares otherwise, stopped meanwhile.
async fn declares(following: &mut Following, document: Value) {
    following.stop().await;
    following.config.documents = vec![declared(document)];
    following.resume();
}

/// The table is copied anew, once since the start, and streams.
async fn copies(following: &Following, title: &str) {
    following
        .comes_to("copied anew", |status| {
            let table = status.tables.iter().find(|table| table.table == title);
            status.copies == 1
                && status.state == PipelineState::Streaming
                && table.is_some_and(|table| table.state == TableState::Streaming)
        })
        .await;
}

const PRODUCTS: &str = "
    CREATE TABLE products (id int PRIMARY KEY, sku text NOT NULL, descr text, price int,
                           secret text DEFAULT 'hidden', big text);
    COMMENT ON COLUMN products.descr IS 'What it is';
    ALTER TABLE products ALTER COLUMN big SET STORAGE EXTERNAL;
    INSERT INTO products SELECT n, 'sku-' || n, 'product ' || n, n % 7, 'hidden', repeat('x', 3000)
    FROM generate_series(1, 300) AS n";

#[tokio::test(flavor = "multi_thread")]
async fn columns_names_and_constants() {
    let Some(database) = with_filters().await else { return };
    let document = json!({
        "table": "products", "index": "goods", "exclude": ["secret"], "filter": "id < 1000",
        "rename": {"descr": "description"}, "constants": {"shop": "main", "rank": 7},
        "settings": {"index": {"refresh_interval": "50ms"}},
        "mappings": {"properties": {"sku": {"type": "keyword"}}},
    });
    let following = follows(database, PRODUCTS, &[document]).await;
    let goods = "SELECT id::text, json_build_object('id', id, 'sku', sku, 'description', descr,
        'price', price, 'big', big, 'shop', 'main', 'rank', 7)::text FROM products WHERE id < 1000";
    following.equals("goods", goods).await;
    assert!(!following.has_index("products"));
    let mapping = following.mapping("goods");
    assert_eq!(mapping["properties"]["sku"], json!({"type": "keyword"}));
    assert_eq!(mapping["properties"]["shop"]["type"], "keyword");
    assert_eq!(mapping["_meta"]["descriptions"]["description"], "What it is");
    assert_eq!(following.settings("goods")["index"]["refresh_interval"], "50ms");
    for statements in [
        "UPDATE products SET price = price + 1 WHERE id % 3 = 0",
        "UPDATE products SET secret = 'other'",
        "UPDATE products SET id = id + 1000 WHERE id BETWEEN 10 AND 20",
        "DELETE FROM products WHERE id % 10 = 5",
        "INSERT INTO products VALUES (500, 'new', NULL, 1), (5000, 'outside', NULL, 1)",
        // Values stored out of line come along where the row comes in whole.
        "UPDATE products SET id = id - 1000, big = repeat('y', 3000) WHERE id BETWEEN 1010 AND 1020",
        "TRUNCATE products; INSERT INTO products VALUES (1, 'one', 'x', 1), (2000, 'two', 'y', 2)",
    ] {
        following.execute(&format!("BEGIN; {statements}; COMMIT"), &["goods"]).await;
        following.equals("goods", goods).await;
    }
    // The database itself holds back what is not wanted.
    let published = "SELECT attnames::text, rowfilter FROM pg_publication_tables
                     WHERE tablename = 'products'";
    let row = following.database.client().query_one(published, &[]).await.unwrap();
    assert_eq!(row.get::<_, String>(0), "{id,sku,descr,price,big}");
    assert_eq!(row.get::<_, String>(1), "(id < 1000)");
    assert_eq!(following.pipeline().status().dead_letters, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_enter_and_leave_the_filter() {
    let Some(database) = with_filters().await else { return };
    let document = json!({"table": "products", "filter": "price > 3 AND descr <> 'it''s; (no'",
                          "exclude": ["secret"]});
    let tables = format!("{PRODUCTS}; ALTER TABLE products REPLICA IDENTITY FULL");
    let following = follows(database, &tables, &[document]).await;
    let products = "SELECT id::text, json_build_object('id', id, 'sku', sku, 'descr', descr,
        'price', price, 'big', big)::text FROM products
        WHERE price > 3 AND descr <> 'it''s; (no'";
    following.equals("products", products).await;
    for statements in [
        "UPDATE products SET price = (price + 3) % 7",
        "UPDATE products SET price = 0 WHERE id < 100",
        "UPDATE products SET price = 6 WHERE id < 50",
        "UPDATE products SET descr = 'it''s; (no' WHERE id < 20",
        "UPDATE products SET id = id + 1000, price = 9 - price WHERE id % 4 = 0",
        "DELETE FROM products WHERE id % 3 = 0",
    ] {
        following.execute(&format!("BEGIN; {statements}; COMMIT"), &["products"]).await;
        following.equals("products", products).await;
    }
    assert_eq!(following.pipeline().status().dead_letters, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_the_log_cannot_bear_hinders_nobody() {
    let Some(database) = with_filters().await else { return };
    let document = json!({"table": "products", "filter": "price > 3"});
    let following = follows(database, PRODUCTS, &[document]).await;
    let reason = following.skips("public.products").await;
    assert!(reason.contains("[price]") && reason.contains("REPLICA IDENTITY FULL"), "{reason}");
    let database = &following.database;
    database
        .execute("UPDATE products SET price = 5 WHERE id = 7; DELETE FROM products WHERE id = 8")
        .await;
    // What is to be done is noticed when it is done.
    database.execute("ALTER TABLE products REPLICA IDENTITY FULL").await;
    following.follows("public.products").await;
    let products = "SELECT id::text, to_json(products)::text FROM products WHERE price > 3";
    following.equals("products", products).await;
    // And so is its contrary, which would otherwise stop the table's writers.
    database.execute("ALTER TABLE products REPLICA IDENTITY DEFAULT").await;
    following.skips("public.products").await;
    database.execute("UPDATE products SET price = 1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn soft_deletes() {
    let tables = "
        CREATE TABLE notes (id int PRIMARY KEY, body text, gone_at timestamptz);
        CREATE TABLE tags (id int PRIMARY KEY, tag text, gone bool);
        INSERT INTO notes SELECT n, 'note ' || n, CASE WHEN n % 3 = 0 THEN now() END
        FROM generate_series(1, 90) AS n;
        INSERT INTO tags SELECT n, 'tag ' || n, (ARRAY[true, false, NULL])[n % 3 + 1]
        FROM generate_series(1, 90) AS n";
    let documents = [
        json!({"table": "notes", "include": ["body"], "soft_delete": "gone_at"}),
        json!({"table": "tags", "soft_delete": "gone"}),
    ];
    let following = follows(Database::create().await, tables, &documents).await;
    let notes = "SELECT id::text, json_build_object('id', id, 'body', body)::text FROM notes
                 WHERE gone_at IS NULL";
    let tags = "SELECT id::text, to_json(tags)::text FROM tags WHERE gone IS NOT TRUE";
    for statements in [
        "SELECT 1",
        "UPDATE notes SET gone_at = now() WHERE id < 10; UPDATE tags SET gone = true WHERE id < 10",
        "UPDATE notes SET gone_at = NULL WHERE id < 6; UPDATE tags SET gone = NULL WHERE id < 6",
        "UPDATE notes SET id = id + 100, gone_at = now() WHERE id BETWEEN 20 AND 25;
         UPDATE tags SET id = id + 100, gone = NOT gone WHERE id BETWEEN 20 AND 25",
        "INSERT INTO notes VALUES (500, 'x', now()), (501, 'y', NULL);
         INSERT INTO tags VALUES (500, 'x', true), (501, 'y', false)",
        "DELETE FROM notes WHERE id % 2 = 0; DELETE FROM tags WHERE id % 2 = 0",
    ] {
        let transaction = format!("BEGIN; {statements}; COMMIT");
        following.execute(&transaction, &["notes", "tags"]).await;
        following.equals("notes", notes).await;
        following.equals("tags", tags).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_from_any_unique_key() {
    let tables = "
        CREATE TABLE chosen (id int PRIMARY KEY, sku text NOT NULL, n int);
        CREATE UNIQUE INDEX by_sku ON chosen (sku);
        ALTER TABLE chosen REPLICA IDENTITY USING INDEX by_sku;
        CREATE TABLE whole (a int NOT NULL, b text NOT NULL, n int, UNIQUE (a, b));
        ALTER TABLE whole REPLICA IDENTITY FULL;
        CREATE TABLE part (tenant int, slug text NOT NULL UNIQUE, n int, PRIMARY KEY (tenant, slug));
        CREATE TABLE unknown (id int PRIMARY KEY, sku text NOT NULL UNIQUE);
        INSERT INTO chosen SELECT n, 'c' || n, n FROM generate_series(1, 50) AS n;
        INSERT INTO whole SELECT n, 'w' || n, n FROM generate_series(1, 50) AS n;
        INSERT INTO part SELECT n % 5, 'p' || n, n FROM generate_series(1, 50) AS n";
    let documents = [
        json!({"table": "chosen", "id": ["sku"]}),
        json!({"table": "whole", "id": ["b", "a"]}),
        json!({"table": "part", "id": ["slug"], "exclude": ["tenant"]}),
        json!({"table": "unknown", "id": ["sku"]}),
    ];
    let following = follows(Database::create().await, tables, &documents).await;
    let reason = following.skips("public.unknown").await;
    assert!(reason.contains("REPLICA IDENTITY USING INDEX unknown_sku_key"), "{reason}");
    following.database.execute("INSERT INTO unknown VALUES (1, 'a'); DELETE FROM unknown").await;
    let chosen = "SELECT sku, to_json(chosen)::text FROM chosen";
    let whole = "SELECT b || ',' || a, to_json(whole)::text FROM whole";
    let part = "SELECT slug, json_build_object('slug', slug, 'n', n)::text FROM part";
    for statements in [
        "SELECT 1",
        "UPDATE chosen SET id = id + 1000; UPDATE whole SET n = 0 WHERE a < 9; UPDATE part SET n = 1",
        "UPDATE chosen SET sku = 'x' || sku WHERE id % 2 = 0; UPDATE whole SET b = 'x' || b, a = -a
         WHERE a % 2 = 0; UPDATE part SET slug = 'x' || slug WHERE tenant = 2",
        "UPDATE part SET tenant = 9 WHERE tenant = 3",
        "DELETE FROM chosen WHERE id < 1020; DELETE FROM whole WHERE a > 20; DELETE FROM part WHERE
         tenant = 1",
    ] {
        let transaction = format!("BEGIN; {statements}; COMMIT");
        following.execute(&transaction, &["chosen", "whole", "part"]).await;
        following.equals("chosen", chosen).await;
        following.equals("whole", whole).await;
        following.equals("part", part).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_declaration_is_copied_beside_the_live_index() {
    let Some(database) = with_filters().await else { return };
    let tables = format!("{PRODUCTS}; ALTER TABLE products REPLICA IDENTITY FULL");
    let mut following =
        follows(database, &tables, &[json!({"table": "products", "filter": "price > 3"})]).await;
    following
        .equals(
            "products",
            "SELECT id::text, to_json(products)::text FROM products WHERE price > 3",
        )
        .await;
    let title = "public.products";
    let all = ", 'secret', secret, 'big', big";
    let changes = [
        (json!({"table": "products", "filter": "price > 1"}), all, "WHERE price > 1"),
        (
            json!({"table": "products", "filter": "price > 1", "constants": {"rank": 1}}),
            ", 'secret', secret, 'big', big, 'rank', 1",
            "WHERE price > 1",
        ),
        (
            json!({"table": "products", "filter": "price > 2", "exclude": ["secret", "big"]}),
            "",
            "WHERE price > 2",
        ),
        (json!({"table": "products"}), all, ""),
    ];
    for (document, columns, rows) in changes {
        following.database.execute("UPDATE products SET price = (price + 5) % 7").await;
        declares(&mut following, document).await;
        // The older documents are there until the new ones are.
        assert!(following.has_index("products") && following.count("products") > 0);
        copies(&following, title).await;
        following.execute("UPDATE products SET price = (price + 2) % 7", &["products"]).await;
        let expected = format!(
            "SELECT id::text, json_build_object('id', id, 'sku', sku, 'descr', descr, 'price',
             price{columns})::text FROM products {rows}"
        );
        following.equals("products", &expected).await;
    }
    // The same declaration again copies nothing.
    declares(&mut following, json!({"table": "products"})).await;
    following.streams().await;
    following.execute("UPDATE products SET price = 1 WHERE id = 3", &["products"]).await;
    assert_eq!(following.pipeline().status().copies, 0);
    // Settings and mappings are the new index's.
    let document = json!({"table": "products", "settings": {"index.refresh_interval": "70ms"},
        "mappings": {"properties": {"descr": {"type": "keyword"}}}});
    declares(&mut following, document).await;
    copies(&following, title).await;
    assert_eq!(following.mapping("products")["properties"]["descr"]["type"], "keyword");
    assert_eq!(following.settings("products")["index"]["refresh_interval"], "70ms");
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_that_come_are_taken_or_left_out_as_declared() {
    let Some(database) = with_filters().await else { return };
    let following =
        follows(database, PRODUCTS, &[json!({"table": "products", "exclude": ["secret*"]})]).await;
    let database = &following.database;
    database
        .execute("ALTER TABLE products ADD secret2 text; UPDATE products SET secret2 = 'x'")
        .await;
    following.shows(&["products"]).await;
    let without = "SELECT id::text, json_build_object('id', id, 'sku', sku, 'descr', descr,
        'price', price, 'big', big)::text FROM products";
    following.equals("products", without).await;
    // One that the publication did not name is copied, whatever happened to it before that.
    database
        .execute(
            "BEGIN; ALTER TABLE products ADD color text; UPDATE products SET color = 'red'; COMMIT",
        )
        .await;
    following
        .comes_to("the column is copied", |status| {
            let streams =
                |table: &egret_cdc::status::TableStatus| table.state == TableState::Streaming;
            status.copies == 2 && status.tables.iter().all(streams)
        })
        .await;
    following.execute("UPDATE products SET color = 'blue' WHERE id < 9", &["products"]).await;
    let with = without.replace("'big', big", "'big', big, 'color', color");
    following.equals("products", &with).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partitioned_tables_are_declared_too() {
    let Some(database) = with_filters().await else { return };
    let tables = "
        CREATE TABLE events (id int, at date, what text, secret text, PRIMARY KEY (id, at))
            PARTITION BY RANGE (at);
        CREATE TABLE events_23 PARTITION OF events FOR VALUES FROM ('2023-01-01') TO ('2024-01-01');
        CREATE TABLE events_24 PARTITION OF events FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
        INSERT INTO events SELECT n, '2023-01-01'::date + n, 'event', 's' FROM generate_series(1, 600) AS n";
    let document =
        json!({"table": "events", "exclude": ["secret"], "filter": "at >= '2023-06-01'"});
    let following = follows(database, tables, &[document]).await;
    let events = "SELECT id || ',' || at, json_build_object('id', id, 'at', at, 'what', what)::text
                  FROM events WHERE at >= '2023-06-01'";
    following.equals("events", events).await;
    for statements in [
        "UPDATE events SET at = at + 100 WHERE id BETWEEN 100 AND 200",
        "UPDATE events SET at = '2023-02-02', what = 'back' WHERE id BETWEEN 250 AND 260",
        "DELETE FROM events WHERE id % 2 = 0",
    ] {
        following.execute(statements, &["events"]).await;
        following.equals("events", events).await;
    }
}
