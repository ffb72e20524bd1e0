//! Copies of documents of several tables that are interrupted go on too: each table where it was,
//! whatever has changed meanwhile in any of them, and without a document before all of it is in.

use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;

use egret_aof::disk::Disk;
use egret_aof::disk::sim::{Fault, SimDisk};
use egret_cdc::PipelineConfig;
use egret_cdc::status::{TableState, TableStatus};
use egret_tests::poll;
use egret_tests::postgres::Database;
use egret_tests::proxy::Proxy;
use egret_tests::seeds::seeds;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

use crate::following::{Following, Machine};

const MAKERS: u64 = 3000;
const PRODUCTS: u64 = 6000;
const REVIEWS: u64 = 12000;

/// Makers are read first, reviews last: the smaller table comes before the larger. Songs are stored
/// apart: an update of stars does not send them.
const SHOP: &str = "
    CREATE TABLE makers (id int PRIMARY KEY, name text);
    CREATE TABLE products (id int PRIMARY KEY, name text, maker int);
    CREATE TABLE reviews (id int PRIMARY KEY, product int, stars int, note text, song text);
    ALTER TABLE reviews ALTER song SET STORAGE EXTERNAL;
    CREATE INDEX ON reviews (product);
    INSERT INTO makers SELECT n, repeat('maker ', 15) || n FROM generate_series(1, 3000) AS n;
    INSERT INTO products SELECT n, repeat('thing ', 15) || n, 1 + n % 3000
      FROM generate_series(1, 6000) AS n;
    INSERT INTO reviews SELECT n, 1 + n % 6000, n % 5, repeat('good ', 15),
                               CASE WHEN n % 100 = 0 THEN repeat('la', 1500) END
      FROM generate_series(1, 12000) AS n;
    ANALYZE";

/// Every product as its index should have it.
const EXPECTED: &str = "
    SELECT p.id::text, json_build_object('id', p.id, 'name', p.name, 'maker',
      (SELECT json_build_object('id', m.id, 'name', m.name) FROM makers m WHERE m.id = p.maker),
      'reviews', (SELECT coalesce(json_agg(json_build_object('id', r.id, 'stars', r.stars,
        'note', r.note, 'song', r.song) ORDER BY r.id), '[]') FROM reviews r WHERE r.product = p.id),
      'review_count', (SELECT count(*) FROM reviews r WHERE r.product = p.id))::text
    FROM products p";

/// What happens while the copy is interrupted, to rows of all tables that were read and that were not.
const CHANGES: [&str; 16] = [
    "UPDATE makers SET name = 'changed ' || id WHERE id % 10 = 0",
    "UPDATE products SET name = 'changed ' || id WHERE id % 9 = 0",
    "UPDATE reviews SET stars = 9 WHERE id % 8 = 0",
    "INSERT INTO makers SELECT n, 'new' FROM generate_series(50001, 50020) AS n;
     INSERT INTO products SELECT n, 'new', n FROM generate_series(50001, 50040) AS n;
     INSERT INTO reviews SELECT n, 1 + n * 7 % 6000, 1, 'new', 'x' FROM generate_series(50001, 50200) AS n;
     INSERT INTO reviews SELECT n, n - 10000, 1, 'new', 'x' FROM generate_series(60001, 60040) AS n",
    "DELETE FROM reviews WHERE id % 7 = 0",
    "DELETE FROM products WHERE id % 13 = 0",
    "DELETE FROM makers WHERE id % 17 = 0",
    // Other parents.
    "UPDATE reviews SET product = 1 + product * 7 % 6000 WHERE id % 5 = 0",
    "UPDATE products SET maker = 1 + (maker + 1500) % 3000 WHERE id % 11 = 0",
    // Other keys, with and without their children.
    "UPDATE reviews SET id = id + 100000 WHERE id % 19 = 0",
    "UPDATE products SET id = id + 100000 WHERE id % 23 = 0",
    "UPDATE reviews SET product = product + 100000 WHERE product % 46 = 0",
    "UPDATE makers SET id = id + 100000 WHERE id % 29 = 0",
    // Gone and there again, in one transaction and in two.
    "DELETE FROM products WHERE id < 50; INSERT INTO products SELECT n, 'again', n
       FROM generate_series(1, 40) AS n",
    "DELETE FROM makers WHERE id > 2980 AND id < 3001",
    "INSERT INTO makers SELECT n, 'again' FROM generate_series(2985, 3000) AS n ON CONFLICT DO NOTHING",
];

/// Small ranges, read one after the other, no faster than this.
fn slowly(config: &mut PipelineConfig, bytes_per_second: u64) {
    (config.copy_workers, config.copy_range_blocks) = (1, 8);
    config.copy_batch_bytes = 16 << 10;
    config.copy_max_bytes_per_second = bytes_per_second;
}

fn follow(database: Database, change: impl FnOnce(&mut PipelineConfig)) -> Following {
    follow_on(Machine::default(), database, change)
}

fn follow_on(
    machine: Machine,
    database: Database,
    change: impl FnOnce(&mut PipelineConfig),
) -> Following {
    let document = json!({"table": "products", "exclude": ["maker"], "related": [
        {"field": "maker", "table": "makers", "kind": "one", "foreign_key": ["maker"],
         "include": ["id", "name"]},
        {"field": "reviews", "table": "reviews", "kind": "many", "foreign_key": ["product"],
         "include": ["id", "stars", "note", "song"], "aggregates": {"review_count": "count"}}]});
    Following::follow_on(machine, database, |config| {
        config.tables.clear();
        config.documents = vec![serde_json::from_value(document).unwrap()];
        slowly(config, 500_000);
        change(config);
    })
}

async fn shop() -> Database {
    let database = Database::create().await;
    database.execute(SHOP).await;
    database
}

fn products(following: &Following) -> TableStatus {
    following.table("public.products").unwrap()
}

/// Waits until so many rows of all tables are read, and stops.
async fn stop_after(following: &mut Following, rows: u64) {
    following
        .comes_to("rows are copied", |status| {
            let table = status.tables.iter().find(|it| it.table == "public.products");
            table.is_some_and(|it| it.state == TableState::Copying && it.rows_copied > rows)
        })
        .await;
    following.stop().await;
}

/// Goes on, as fast as it can. Searches see no document before they see all.
async fn go_on(following: &mut Following) {
    let query = "SELECT count(*) FROM products";
    let all: i64 = following.database.client().query_one(query, &[]).await.unwrap().get(0);
    following.config.copy_max_bytes_per_second = 0;
    following.resume();
    poll::until("the copy is done", async || {
        let seen = following.count_if_any("products").unwrap_or_default();
        assert!(seen == 0 || seen == u64::try_from(all).unwrap(), "{seen} of {all} are seen");
        (following.table("public.products")?.state == TableState::Streaming).then_some(())
    })
    .await;
}

async fn interrupted(rows: u64) -> Following {
    let mut following = follow(shop().await, |_| {});
    stop_after(&mut following, rows).await;
    following
}

/// Each in a transaction of its own.
async fn execute_all(following: &Following, all: impl IntoIterator<Item = &str>) {
    for statements in all {
        following.database.execute(statements).await;
    }
}

async fn change(following: &Following) {
    execute_all(following, CHANGES).await;
    following.database.execute("BEGIN; UPDATE makers SET name = 'never'; ROLLBACK").await;
}

/// In the first table, in the second, and in the last.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_goes_on_wherever_it_was() {
    for (rows, whole) in [
        (MAKERS / 2, 0),
        (MAKERS + PRODUCTS / 2, MAKERS),
        (MAKERS + PRODUCTS + REVIEWS / 3, MAKERS + PRODUCTS),
    ] {
        let mut following = interrupted(rows).await;
        change(&following).await;
        go_on(&mut following).await;
        following.equals("products", EXPECTED).await;
        let table = products(&following);
        assert!(table.rows_resumed > whole, "{rows}: {table:?}");
        assert!(table.rows_estimated > MAKERS + PRODUCTS + REVIEWS / 2, "{rows}: {table:?}");
        // What was read is not read again, though more is there by now.
        let left = MAKERS + PRODUCTS + REVIEWS - table.rows_resumed;
        assert!(table.rows_copied - table.rows_resumed < left + 3500, "{rows}: {table:?}");
        assert_eq!((table.rows_rejected, following.copies()), (0, 1), "{table:?}");
        let change =
            "UPDATE reviews SET song = note WHERE id < 100; DELETE FROM makers WHERE id < 9";
        following.execute(change, &["products"]).await;
        following.equals("products", EXPECTED).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_goes_on_after_each_of_several_interruptions() {
    let mut following = interrupted(MAKERS + 1000).await;
    change(&following).await;
    following.resume();
    stop_after(&mut following, MAKERS + PRODUCTS + 1000).await;
    following
        .database
        .execute(
            "UPDATE reviews SET product = 1 + product * 11 % 6000 WHERE id % 6 = 0;
             UPDATE products SET id = id + 200000 WHERE id % 31 = 0;
             DELETE FROM makers WHERE id % 37 = 0; DELETE FROM reviews WHERE id % 41 = 0",
        )
        .await;
    go_on(&mut following).await;
    following.equals("products", EXPECTED).await;
    let table = products(&following);
    assert!(table.rows_resumed > MAKERS + PRODUCTS - 1500, "{table:?}");
    assert_eq!((table.rows_rejected, following.copies()), (0, 1), "{table:?}");
}

/// Rows move to blocks that were read before they did, and the log does not have all of them: they are
/// not forgotten where the copy is interrupted once more.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_moved_behind_a_copy_are_read_by_their_keys() {
    for again in [false, true] {
        let mut following = interrupted(MAKERS + PRODUCTS + 4000).await;
        following.database.execute("DELETE FROM reviews WHERE id < 2000").await;
        following.vacuum("reviews").await;
        let moved = "UPDATE reviews SET stars = 7 WHERE id > 11000";
        following.database.execute(moved).await;
        let moved = "UPDATE reviews SET id = id + 1000000 WHERE id > 11700";
        following.database.execute(moved).await;
        let first = "SELECT (ctid::text::point)[0] < 40 FROM reviews WHERE id = 1012000";
        let row = following.database.client().query_one(first, &[]).await.unwrap();
        assert!(row.get::<_, bool>(0), "the row has not moved to the first blocks");
        if again {
            following.resume();
            stop_after(&mut following, MAKERS + PRODUCTS + 6000).await;
            following.database.execute("UPDATE reviews SET stars = 8 WHERE id = 11100").await;
            following.database.execute("DELETE FROM reviews WHERE id = 11200").await;
        }
        go_on(&mut following).await;
        following.equals("products", EXPECTED).await;
        let table = products(&following);
        assert!(table.rows_resumed > MAKERS + PRODUCTS, "{table:?}");
        assert_eq!((following.pipeline().status().dead_letters, following.copies()), (0, 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_begins_again_where_one_of_its_tables_is_another() {
    for change in [
        "TRUNCATE reviews; INSERT INTO reviews VALUES (1, 1, 1, 'one', NULL)",
        "VACUUM FULL makers",
        "ALTER TABLE products ALTER name TYPE text USING upper(name)",
        "ALTER TABLE reviews ADD mood int",
        "CLUSTER reviews USING reviews_pkey",
    ] {
        let mut following = interrupted(MAKERS + PRODUCTS + 3000).await;
        following.database.execute("DELETE FROM reviews WHERE id % 5 = 0").await;
        execute_all(&following, change.split(';')).await;
        go_on(&mut following).await;
        following.equals("products", EXPECTED).await;
        assert_eq!(products(&following).rows_resumed, 0, "{change}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_goes_on_over_another_connection() {
    let database = shop().await;
    let port = database.cluster().port();
    let proxy = Proxy::start(port).await;
    let url = proxy.url(&database.url(), port);
    let following = follow(database, |config| {
        (config.copy_max_bytes_per_second, config.url) = (0, url);
        config.reconnect_max_ms = 200;
    });
    proxy.cut_after(1_200_000);
    poll::until("the copy is cut", async || (proxy.cuts() > 0).then_some(())).await;
    let change =
        "UPDATE reviews SET product = 1 WHERE id % 900 = 1; DELETE FROM makers WHERE id = 7";
    following.database.execute(change).await;
    following.follows("public.products").await;
    following.equals("products", EXPECTED).await;
    assert!(products(&following).rows_resumed > 0, "{:?}", products(&following));
}

/// Beside an older index, which is searched until the new one is whole.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_beside_the_stream_goes_on_too() {
    let mut following = follow(shop().await, |config| slowly(config, 0));
    following.streams().await;
    following.follows("public.products").await;
    following.stop().await;
    following.config.copy_max_bytes_per_second = 500_000;
    following.database.execute("ALTER TABLE reviews ADD mood int DEFAULT 2").await;
    following.resume();
    stop_after(&mut following, MAKERS + PRODUCTS + 3000).await;
    following.database.execute("DELETE FROM reviews WHERE id % 7 = 0").await;
    following.database.execute("UPDATE products SET id = id + 100000 WHERE id % 23 = 0").await;
    following.database.execute("DELETE FROM products WHERE id % 50 = 0").await;
    following.config.copy_max_bytes_per_second = 0;
    following.resume();
    let all = PRODUCTS - PRODUCTS / 50;
    poll::until("the copy is done", async || {
        let seen = following.count("products");
        assert!(seen == PRODUCTS || seen >= all - 10, "{seen} are seen");
        (following.table("public.products")?.state == TableState::Streaming).then_some(())
    })
    .await;
    following.equals("products", EXPECTED).await;
    assert!(products(&following).rows_resumed > MAKERS + PRODUCTS, "{:?}", products(&following));
}

/// Rows that do not fit are listed though their blocks are not read again, and documents that cannot be
/// once all is in.
#[tokio::test(flavor = "multi_thread")]
async fn letters_outlive_an_interruption() {
    let database = shop().await;
    let large = "UPDATE makers SET name = repeat('x', 30000) WHERE id IN (1, 2, 3);
                 UPDATE reviews SET product = 4 WHERE id BETWEEN 500 AND 540";
    database.execute(large).await;
    database.execute("VACUUM FULL makers").await;
    let mut following = follow(database, |config| {
        (config.max_document_bytes, config.max_nested_rows) = (20_000, 30);
    });
    stop_after(&mut following, MAKERS + 1000).await;
    // One is mended, one is removed, and one is new.
    let database = &following.database;
    database.execute("UPDATE makers SET name = 'short' WHERE id = 2").await;
    database.execute("DELETE FROM makers WHERE id = 3").await;
    database.execute("UPDATE makers SET name = repeat('y', 30000) WHERE id = 5").await;
    go_on_with_letters(&mut following).await;
    let letters = following.letters();
    for expected in ["max_document_bytes [20000]", "public.makers", "max_nested_rows [30]"] {
        assert!(letters.contains(expected), "no [{expected}] in {letters}");
    }
    assert!(products(&following).rows_resumed > MAKERS / 2, "{:?}", products(&following));
    let mend = "UPDATE makers SET name = 'short' WHERE id IN (1, 5);
                DELETE FROM reviews WHERE id BETWEEN 520 AND 540";
    following.execute(mend, &["products"]).await;
    following.lists(0).await;
    following.equals("products", EXPECTED).await;
}

/// Two makers do not fit, and a product has too many reviews.
async fn go_on_with_letters(following: &mut Following) {
    following.config.copy_max_bytes_per_second = 0;
    following.resume();
    following.follows("public.products").await;
    following.shows(&["products"]).await;
    following.lists(3).await;
    assert_eq!(following.document("products", "4"), None);
    assert_eq!(following.count("products"), PRODUCTS - 1);
}

/// What happens to all tables, by a number.
fn changes(turn: usize) -> String {
    format!(
        "UPDATE reviews SET stars = stars + 1 WHERE id % 6 = {turn} % 6;
         UPDATE makers SET name = name || '.' WHERE id % 9 = {turn} % 9;
         UPDATE reviews SET product = 1 + product * 7 % 6000 WHERE id % 11 = {turn};
         UPDATE products SET id = id + 10000 WHERE id % 23 = {turn};
         UPDATE makers SET id = id + 10000 WHERE id % 29 = {turn};
         DELETE FROM reviews WHERE id % 31 = {turn}; DELETE FROM products WHERE id % 37 = {turn};
         INSERT INTO reviews SELECT n, 1 + n % 6000, 1, 'new', 'x'
           FROM generate_series(1000000 + 1000 * {turn}, 1000100 + 1000 * {turn}) AS n;
         UPDATE reviews SET id = id + 10000000 WHERE id % 19 = {turn} AND id < 10000000"
    )
}

/// Lets the power go at a later operation of the disk. Whether the copy had gone on by then.
async fn goes_on_until_the_power_goes(
    following: &Following,
    disk: &SimDisk,
    operations: u64,
) -> bool {
    disk.fail_at(disk.operations() + operations, Fault::PowerCut);
    let went_on = Cell::new(false);
    poll::until("the power is cut", async || {
        let table = following.table("public.products");
        went_on.set(went_on.get() || table.as_ref().is_some_and(|it| it.rows_resumed > 0));
        let streams = table.is_some_and(|it| it.state == TableState::Streaming);
        (streams || disk.exists(Path::new("/")).is_err()).then_some(())
    })
    .await;
    went_on.get()
}

/// The power goes at any operation of the disk, while rows are read and while the log is applied to
/// those that were: no range is said to be read whose rows are not there, and no row is forgotten.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_goes_on_after_power_cuts() {
    let mut went_on = false;
    for seed in seeds(2) {
        let mut random = StdRng::seed_from_u64(seed);
        let mut disk = SimDisk::new();
        let machine = Machine { disk: Arc::new(disk.clone()), ..Machine::default() };
        let mut following = follow_on(machine, shop().await, |config| slowly(config, 1_000_000));
        // At first until something is read.
        for (turn, least) in [150, 20, 20, 20].into_iter().enumerate() {
            let operations = random.random_range(least..1000);
            went_on |= goes_on_until_the_power_goes(&following, &disk, operations).await;
            disk = following.cut_power(&disk, random.random()).await;
            execute_all(&following, changes(turn).split(';')).await;
            following.resume();
        }
        following.follows("public.products").await;
        following.equals("products", EXPECTED).await;
        assert_eq!(following.pipeline().status().dead_letters, 0, "seed {seed}");
        let rows = products(&following).rows_resumed;
        poll::report(&format!("seed {seed}: the copy went on after {rows} rows"));
    }
    assert!(went_on, "no copy ever went on");
}
