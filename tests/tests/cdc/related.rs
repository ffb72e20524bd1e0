//! Documents composed from several tables: copied, streamed, and compared with what PostgreSQL joins
//! at the same position.

use egret_cdc::config::DocumentConfig;
use egret_cdc::{LetterFilter, PipelineConfig};
use egret_tests::postgres::Database;
use serde_json::{Value, json};

use crate::following::Following;

const SHOP: &str = "
    CREATE TABLE makers (id int PRIMARY KEY, name text, secret text);
    CREATE TABLE products (id int PRIMARY KEY, name text, maker int, price numeric(10, 2));
    CREATE TABLE people (login text PRIMARY KEY, age int);
    CREATE TABLE reviews (id bigint PRIMARY KEY, product int REFERENCES products ON DELETE CASCADE
      DEFERRABLE INITIALLY DEFERRED, author text, stars int, song text);
    ALTER TABLE reviews ALTER COLUMN song SET STORAGE EXTERNAL;
    CREATE TABLE shelves (code text PRIMARY KEY, floor int);
    CREATE TABLE placings (product int, shelf text, PRIMARY KEY (product, shelf));
    INSERT INTO makers SELECT n, 'maker ' || n, 'hush' FROM generate_series(1, 5) AS n;
    INSERT INTO products SELECT n, 'product ' || n, nullif(n % 6, 0), n * 1.25
      FROM generate_series(1, 40) AS n;
    INSERT INTO people SELECT 'p' || n, 20 + n FROM generate_series(1, 6) AS n;
    INSERT INTO reviews SELECT n, 1 + n % 30, 'p' || n % 8, n % 5, repeat('la', 2000)
      FROM generate_series(1, 120) AS n;
    INSERT INTO shelves SELECT 's' || n, n FROM generate_series(1, 7) AS n;
    INSERT INTO placings SELECT p, 's' || 1 + (p * s) % 9 FROM generate_series(1, 30) AS p,
      generate_series(1, 3) AS s ON CONFLICT DO NOTHING";

/// Every product as its index should have it.
const PRODUCTS: &str = "
    SELECT p.id::text, json_build_object(
      'id', p.id, 'name', p.name, 'price', p.price,
      'maker', (SELECT json_build_object('id', m.id, 'title', m.name) FROM makers m
                WHERE m.id = p.maker),
      'reviews', (SELECT coalesce(json_agg(json_build_object(
          'id', r.id, 'stars', r.stars, 'song', r.song,
          'author', (SELECT row_to_json(a) FROM people a WHERE a.login = r.author))
          ORDER BY r.stars DESC, r.id), '[]') FROM reviews r WHERE r.product = p.id),
      'review_count', (SELECT count(*) FROM reviews r WHERE r.product = p.id),
      'stars', (SELECT sum(stars) FROM reviews r WHERE r.product = p.id),
      'shelves', (SELECT coalesce(json_agg(row_to_json(s) ORDER BY s.code), '[]')
                  FROM placings l JOIN shelves s ON s.code = l.shelf WHERE l.product = p.id)
    )::text FROM products p";

fn products() -> Value {
    json!({
        "table": "products",
        "exclude": ["maker"],
        "related": [
            {"field": "maker", "table": "makers", "kind": "one", "foreign_key": ["maker"],
             "exclude": ["secret"], "rename": {"name": "title"}},
            {"field": "reviews", "table": "reviews", "include": ["id", "stars", "song"],
             "order_by": ["stars desc"],
             "aggregates": {"review_count": "count", "stars": "sum(stars)"},
             "related": [{"field": "author", "table": "people", "kind": "one",
                          "foreign_key": ["author"]}]},
            {"field": "shelves", "table": "shelves",
             "through": {"table": "placings", "parent_key": ["product"], "child_key": ["shelf"]}},
        ],
    })
}

/// Follows a database with a declared document.
fn declared(
    database: Database,
    document: Value,
    change: impl FnOnce(&mut PipelineConfig),
) -> Following {
    Following::follow(database, |config| {
        config.tables.clear();
        config.documents = vec![serde_json::from_value::<DocumentConfig>(document).unwrap()];
        change(config);
    })
}

async fn shop(change: impl FnOnce(&mut PipelineConfig)) -> Following {
    let database = Database::create().await;
    database.execute(SHOP).await;
    let following = declared(database, products(), change);
    following.streams().await;
    following.follows("public.products").await;
    following
}

/// What happens to any of the tables.
const CHANGES: [&str; 22] = [
    "INSERT INTO reviews VALUES (1000, 1, 'p1', 5, 'new'), (1001, 40, 'p2', 4, repeat('do', 3000))",
    // An unchanged value that is stored out of line is not in the log.
    "UPDATE reviews SET stars = 9 WHERE id IN (3, 33, 63)",
    "UPDATE reviews SET product = 2 WHERE product = 3",
    "DELETE FROM reviews WHERE id = 1000",
    "UPDATE makers SET name = 'renamed' WHERE id = 2",
    "UPDATE products SET maker = 3 WHERE maker = 2",
    "DELETE FROM makers WHERE id = 4",
    "UPDATE products SET maker = NULL WHERE id = 9",
    // A child before its parent, in one transaction and in two.
    "INSERT INTO reviews VALUES (2000, 500, 'p3', 1, ''); INSERT INTO products VALUES (500, 'late', 4, 1)",
    "INSERT INTO makers VALUES (4, 'again', '')",
    "INSERT INTO people VALUES ('p7', 99)",
    "UPDATE people SET age = age + 1",
    "UPDATE people SET login = 'q1' WHERE login = 'p1'",
    "UPDATE shelves SET floor = 0 WHERE code = 's3'",
    "INSERT INTO shelves VALUES ('s8', 8)",
    "UPDATE placings SET shelf = 's8' WHERE product = 5 AND shelf = (SELECT min(shelf) FROM placings
       WHERE product = 5)",
    "DELETE FROM placings WHERE product = 6",
    // A parent goes, and its children with it; another's key changes.
    "DELETE FROM products WHERE id = 7",
    "INSERT INTO products VALUES (600, 'moved', 1, 2); UPDATE reviews SET product = 600 WHERE product = 8;
     UPDATE products SET id = 8000 WHERE id = 8",
    "SAVEPOINT s; DELETE FROM reviews; ROLLBACK TO s; UPDATE reviews SET stars = stars + 1 WHERE id < 20",
    "TRUNCATE placings; INSERT INTO placings VALUES (1, 's1')",
    "SET CONSTRAINTS ALL IMMEDIATE; TRUNCATE reviews; INSERT INTO reviews VALUES (1, 1, 'p2', 3, 'x')",
];

#[tokio::test(flavor = "multi_thread")]
async fn documents_are_joined_as_postgresql_joins_them() {
    let mut following = shop(|_| {}).await;
    following.equals("products", PRODUCTS).await;
    for (at, statements) in CHANGES.iter().enumerate() {
        following.execute(&format!("BEGIN; {statements}; COMMIT"), &["products"]).await;
        following.equals("products", PRODUCTS).await;
        if at % 7 == 3 {
            // What was committed meanwhile is caught up with.
            following.stop().await;
            following.database.execute("UPDATE makers SET name = name || '!'").await;
            following.resume();
            following.follows("public.products").await;
            following.equals("products", PRODUCTS).await;
        }
    }
    following.execute("TRUNCATE makers, products, reviews", &["products"]).await;
    following.equals("products", PRODUCTS).await;
    let status = following.pipeline().status();
    assert_eq!((status.dead_letters, status.connection_failures), (0, 0));
    // Rows of other tables are not indexes, and what is not shown is not kept.
    assert!(!following.has_index("reviews"));
    let mapping = following.mapping("products");
    assert_eq!(mapping["properties"]["reviews"]["properties"]["stars"]["type"], "integer");
    assert_eq!(mapping["properties"]["review_count"]["type"], "long");
}

/// One transaction of all changes, with what does not fit into memory on disk.
#[tokio::test(flavor = "multi_thread")]
async fn large_transactions_and_tables_of_their_own() {
    let database = Database::create().await;
    database.execute(SHOP).await;
    let following = declared(database, products(), |config| {
        config.tables = vec!["*".to_owned()];
        (config.transaction_buffer_bytes, config.copy_range_blocks) = (2000, 1);
    });
    following.streams().await;
    following.follows("public.products").await;
    following.follows("public.reviews").await;
    following.execute(&format!("BEGIN; {}; COMMIT", CHANGES.join("; ")), &["products"]).await;
    following.equals("products", PRODUCTS).await;
    let reviews = "SELECT id::text, row_to_json(reviews)::text FROM reviews";
    following.equals("reviews", reviews).await;
    assert!(following.pipeline().status().spooled_transactions > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_while_the_copy_runs() {
    let database = Database::create().await;
    database.execute(SHOP).await;
    database
        .execute(
            "INSERT INTO reviews SELECT n, 1 + n % 30, 'p' || n % 8, n % 5, 'x'
             FROM generate_series(1001, 3000) AS n",
        )
        .await;
    let writer = database.connect().await;
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let writing = tokio::spawn(async move {
        let mut turn = 0;
        while stopped.try_recv().is_err() {
            turn += 1;
            let statements = format!(
                "BEGIN; UPDATE reviews SET product = 1 + ({turn} + id) % 30 WHERE id % 500 = {turn} % 500;
                 DELETE FROM reviews WHERE id = 2000 + {turn};
                 UPDATE makers SET name = 'turn {turn}' WHERE id = 1 + {turn} % 5; COMMIT;
                 SELECT pg_sleep(0.1)"
            );
            writer.batch_execute(&statements).await.unwrap();
        }
        turn
    });
    let following = declared(database, products(), |config| {
        (config.copy_range_blocks, config.copy_batch_bytes) = (4, 4 << 10);
    });
    following.streams().await;
    following.follows("public.products").await;
    stop.send(()).unwrap();
    assert!(writing.await.unwrap() > 1);
    following.equals("products", PRODUCTS).await;
    assert_eq!(following.pipeline().status().copies, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_declaration_or_table_is_copied_again() {
    let mut following = shop(|_| {}).await;
    following.equals("products", PRODUCTS).await;
    // A related table gets a column, which belongs to documents of people.
    following.database.execute("ALTER TABLE people ADD COLUMN town text DEFAULT 'Rome'").await;
    following.comes_to("another copy", |status| status.copies == 2).await;
    following.follows("public.products").await;
    following.equals("products", PRODUCTS).await;
    following.stop().await;
    following.config.documents[0].related.truncate(1);
    following.resume();
    following.comes_to("a copy as declared", |status| status.copies == 1).await;
    following.follows("public.products").await;
    let query = "SELECT p.id::text, json_build_object('id', p.id, 'name', p.name, 'price', p.price,
        'maker', (SELECT json_build_object('id', m.id, 'title', m.name) FROM makers m
                  WHERE m.id = p.maker))::text FROM products p";
    following.equals("products", query).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_that_cannot_be_are_listed() {
    let following = shop(|config| config.max_nested_rows = 30).await;
    following.equals("products", PRODUCTS).await;
    let many = "INSERT INTO reviews SELECT n, 1, NULL, 1, '' FROM generate_series(5000, 5030) AS n";
    following.execute(many, &["products"]).await;
    following.lists(1).await;
    assert_eq!(following.document("products", "1"), None);
    let letters = following.letters();
    assert!(letters.contains("max_nested_rows [30]"), "{letters}");
    assert!(letters.contains("public.products"), "{letters}");
    following.execute("DELETE FROM reviews WHERE id >= 5000", &["products"]).await;
    following.lists(0).await;
    following.equals("products", PRODUCTS).await;
}

/// Letters of documents and of rows are retried by the rows, and closed by what is composed then.
#[tokio::test(flavor = "multi_thread")]
async fn documents_of_several_tables_are_retried() {
    let mut document = products();
    document["mappings"] = json!({"properties": {"name": {"type": "integer"}}});
    let database = Database::create().await;
    database.execute(SHOP).await;
    let following = declared(database, document, |_| {});
    following.streams().await;
    following.follows("public.products").await;
    following.lists(40).await;
    let all = LetterFilter::default();
    let summary = following.pipeline().retry(&all).await.unwrap();
    assert_eq!((summary.retried, summary.failed), (40, 40), "{summary:?}");
    following.lists(40).await;
    let lenient = json!({"properties": {"name": {"type": "integer", "ignore_malformed": true}}});
    following.put_mapping("products", &lenient);
    let (table, id) = (Some("public.products".to_owned()), Some("7".to_owned()));
    let one = LetterFilter { index: Some("products".to_owned()), table, id };
    let summary = following.pipeline().retry(&one).await.unwrap();
    assert_eq!((summary.retried, summary.indexed), (1, 1), "{summary:?}");
    following.lists(39).await;
    let summary = following.pipeline().retry(&all).await.unwrap();
    assert_eq!((summary.retried, summary.indexed), (39, 39), "{summary:?}");
    following.lists(0).await;
    following.equals("products", PRODUCTS).await;
}

/// A row that is too large, of another table than the documents.
#[tokio::test(flavor = "multi_thread")]
async fn rows_of_related_tables_are_retried() {
    let following = shop(|config| config.max_document_bytes = 100_000).await;
    let all = LetterFilter::default();
    let large = "INSERT INTO reviews VALUES (9000, 1, 'p1', 1, repeat('x', 200000))";
    following.execute(large, &["products"]).await;
    following.lists(1).await;
    assert!(following.letters().contains("public.reviews"), "{}", following.letters());
    let summary = following.pipeline().retry(&all).await.unwrap();
    assert_eq!((summary.retried, summary.failed), (1, 1), "{summary:?}");
    following.lists(1).await;
    following.execute("TRUNCATE placings", &["products"]).await;
    following.lists(1).await;
    following.execute("UPDATE reviews SET song = 'short' WHERE id = 9000", &["products"]).await;
    following.lists(0).await;
    following.equals("products", PRODUCTS).await;
}

/// A table has an index of its own, and is part of the documents of another, which leave out what is too
/// large for the first.
#[tokio::test(flavor = "multi_thread")]
async fn letters_are_known_by_their_index() {
    let mut document = products();
    document["related"][1]["include"] = json!(["id", "stars"]);
    let database = Database::create().await;
    database.execute(SHOP).await;
    let following = declared(database, document, |config| {
        (config.tables, config.max_document_bytes) = (vec!["public.reviews".to_owned()], 100_000);
    });
    following.streams().await;
    following.follows("public.products").await;
    following.follows("public.reviews").await;
    let large = "INSERT INTO reviews VALUES (9000, 1, 'p1', 1, repeat('x', 200000))";
    following.execute(large, &["products", "reviews"]).await;
    following.lists(1).await;
    assert_eq!(following.document("products", "1").unwrap()["review_count"], 5);
    // What becomes of the other index says nothing of this one.
    let copies = following.copies();
    following.pipeline().copy("public.products").await.unwrap();
    following.copies_again(copies).await;
    following.follows("public.products").await;
    following.execute("UPDATE makers SET name = 'other' WHERE id = 1", &["products"]).await;
    following.lists(1).await;
    let of =
        |index: &str| LetterFilter { index: Some(index.to_owned()), ..LetterFilter::default() };
    let summary = following.pipeline().retry(&of("products")).await.unwrap();
    assert_eq!(summary.retried, 0, "{summary:?}");
    let summary = following.pipeline().retry(&of("reviews")).await.unwrap();
    assert_eq!((summary.retried, summary.failed), (1, 1), "{summary:?}");
    let failure = &summary.failures[0];
    assert_eq!((&*failure.index, &*failure.table), ("reviews", "public.reviews"));
    assert!(failure.reason.as_ref().unwrap().contains("100000"), "{failure:?}");
    following.execute("UPDATE reviews SET song = 'short' WHERE id = 9000", &["reviews"]).await;
    following.lists(0).await;
    let reviews = "SELECT id::text, row_to_json(reviews)::text FROM reviews";
    following.equals("reviews", reviews).await;
}

/// What changes the rows of a related table without a word in the log.
#[tokio::test(flavor = "multi_thread")]
async fn related_tables_that_change_unseen_are_copied_again() {
    let mut following = shop(|_| {}).await;
    let name = following.config.publication_name();
    let unseen = |stars: u32| {
        format!(
            "ALTER PUBLICATION {name} DROP TABLE reviews; UPDATE reviews SET stars = {stars};
             ALTER PUBLICATION {name} ADD TABLE reviews"
        )
    };
    let rewritten =
        |function: &str| format!("ALTER TABLE makers ALTER name TYPE text USING {function}(name)");
    for [followed, stopped] in [[rewritten("upper"), rewritten("lower")], [unseen(3), unseen(4)]] {
        let before = following.copies();
        following.database.execute(&followed).await;
        following.copies_again(before).await;
        following.equals("products", PRODUCTS).await;
        following.stop().await;
        following.database.execute(&stopped).await;
        following.resume();
        following.copies_again(0).await;
        following.equals("products", PRODUCTS).await;
    }
    // What merely moves rows is none of it.
    let before = following.copies();
    following.database.execute("VACUUM FULL makers").await;
    following.execute("UPDATE makers SET name = name || '.'", &["products"]).await;
    following.stop().await;
    following.database.execute("VACUUM FULL reviews").await;
    following.resume();
    following.streams().await;
    following.equals("products", PRODUCTS).await;
    assert_eq!((before, following.copies()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_related_is_told() {
    let check = async |related: Value, expected: &str| {
        let database = Database::create().await;
        database.execute(SHOP).await;
        database.execute("CREATE TABLE keyless (product int)").await;
        let document = json!({"table": "products", "related": [related]});
        let following = declared(database, document, |_| {});
        let reason = following.skips("public.products").await;
        assert!(reason.contains(expected), "{reason}");
    };
    check(json!({"field": "f", "table": "nothing"}), "no related table [nothing]").await;
    check(json!({"field": "f", "table": "keyless", "foreign_key": ["product"]}), "primary key")
        .await;
    check(json!({"field": "f", "table": "makers"}), "not just one foreign key").await;
    check(
        json!({"field": "f", "table": "makers", "foreign_key": ["maker"]}),
        "table [public.makers] has no column [maker]",
    )
    .await;
    check(json!({"field": "price", "table": "reviews"}), "two fields are named [price]").await;
    let sum = json!({"aggregates": {"n": "sum(song)"}, "table": "reviews"});
    check(sum, "column [song] is no number").await;
}

/// Rows that very many documents share, and a document of very many rows.
#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_children() {
    let database = Database::create().await;
    database
        .execute(
            "CREATE TABLE towns (id int PRIMARY KEY, name text);
             CREATE TABLE people (id int PRIMARY KEY, town int REFERENCES towns, points int);
             INSERT INTO towns VALUES (1, 'Rome'), (2, 'Oslo');
             INSERT INTO people SELECT n, 1, n FROM generate_series(1, 100000) AS n",
        )
        .await;
    let mut towns = serde_json::from_value::<DocumentConfig>(json!({"table": "towns", "related": [
        {"table": "people", "aggregates": {"people": "count", "points": "sum(points)"}}]}))
    .unwrap();
    towns.index = Some("towns".to_owned());
    let people = json!({"table": "people", "index": "people", "exclude": ["town"], "related": [
        {"field": "town", "table": "towns", "kind": "one"}]});
    // Each is declared, so neither can be related in one pipeline: one after the other.
    let following = declared(database, people, |_| {});
    following.follows("public.people").await;
    following.shows(&["people"]).await;
    assert_eq!(following.count("people"), 100_000);
    following.execute("UPDATE towns SET name = 'Roma' WHERE id = 1", &["people"]).await;
    for id in ["1", "50000", "100000"] {
        assert_eq!(following.document("people", id).unwrap()["town"]["name"], "Roma");
    }
    let mut following = following;
    following.stop().await;
    following.config.documents = vec![towns];
    following.resume();
    following.follows("public.towns").await;
    following.shows(&["towns"]).await;
    let of = |following: &Following, id: &str| {
        let document = following.document("towns", id).unwrap();
        (document["people"].as_u64().unwrap(), document["points"].clone())
    };
    assert_eq!(of(&following, "1"), (100_000, json!(5_000_050_000_u64)));
    let moved = "UPDATE people SET town = 2 WHERE id > 99990";
    following.execute(moved, &["towns"]).await;
    assert_eq!(of(&following, "1").0, 99_990);
    assert_eq!(of(&following, "2"), (10, json!(999_955)));
}
