//! Indexes are held against their tables: no false alarm whatever is written meanwhile, and each kind
//! of drift is found, named, repaired, and not found again.

use bytes::Bytes;
use egret_cdc::verify::{DriftKind, RoundState, VerifyReport};
use egret_cdc::{DocumentConfig, LetterFilter, PipelineConfig, VerifyOptions};
use egret_engine::batch::{Batch, Compose, Condition, WriteOp};
use egret_engine::composition::row_id;
use egret_tests::ledger::{self, Load};
use egret_tests::poll;
use egret_tests::postgres::Database;
use serde_json::{Value, json};
use tokio::task::block_in_place;

use crate::following::Following;

/// Follows a database whose tables are verified when that is asked for, as fast as that goes.
pub(crate) fn follow(database: Database, change: impl FnOnce(&mut PipelineConfig)) -> Following {
    Following::follow(database, |config| {
        config.verify.enabled = false;
        (config.verify.rows_per_second, config.verify.bytes_per_second) = (0, 0);
        config.verify.range_rows = 100;
        change(config);
    })
}

fn declared(documents: &[Value]) -> impl FnOnce(&mut PipelineConfig) {
    let read = |it: &Value| serde_json::from_value::<DocumentConfig>(it.clone()).unwrap();
    let documents = documents.iter().map(read).collect();
    move |config| {
        config.tables.clear();
        config.documents = documents;
    }
}

/// What a whole round has to say.
pub(crate) async fn verified(following: &Following, options: VerifyOptions) -> VerifyReport {
    let pipeline = following.pipeline();
    let number = pipeline.verify(options).await.unwrap();
    pipeline.verified(number).await;
    let report = pipeline.verification();
    let last = report.last_round.as_ref().unwrap();
    assert_eq!((last.number, last.state), (number, RoundState::Done), "{report:#?}");
    assert_eq!(last.unproven, [], "{report:#?} {:#?}", pipeline.status());
    report
}

pub(crate) fn repairing(repair: bool) -> VerifyOptions {
    VerifyOptions { repair, ..VerifyOptions::default() }
}

/// Differences of the last round, as `table id kind`, sorted; with a mark where they were repaired.
pub(crate) async fn found(following: &Following, repair: bool) -> Vec<String> {
    let report = verified(following, repairing(repair)).await;
    let last = report.last_round.unwrap();
    let before = report.differences.len() - usize::try_from(last.differences).unwrap();
    let differences = report.differences.into_iter().skip(before);
    let mut shown: Vec<String> = differences
        .map(|it| {
            let (table, id, kind) = (it.table, it.id, it.kind);
            let mark = if it.repaired { "!" } else { "" };
            format!("{table} {id} {kind:?}{mark}")
        })
        .collect();
    shown.sort();
    shown
}

/// These are found, stay without a repair, are repaired, and are not there any more.
pub(crate) async fn finds_and_repairs(following: &Following, expected: &[&str]) {
    assert_eq!(found(following, false).await, expected);
    assert_eq!(found(following, false).await, expected);
    let repaired: Vec<String> = expected.iter().map(|it| format!("{it}!")).collect();
    assert_eq!(found(following, true).await, repaired);
    assert_eq!(found(following, false).await, [""; 0]);
    assert_eq!(following.pipeline().status().dead_letters, 0);
}

pub(crate) fn upsert(id: &str, source: &Value) -> WriteOp {
    let source = Bytes::from(source.to_string());
    WriteOp::Upsert { id: id.to_owned(), source, condition: Condition::None }
}

pub(crate) fn delete(id: &str) -> WriteOp {
    WriteOp::Delete { id: id.to_owned(), condition: Condition::None }
}

/// Writes to an index behind the back of its pipeline.
pub(crate) async fn alter(following: &Following, index: &str, ops: Vec<WriteOp>, compose: Compose) {
    let row_lsn = Some(following.next_lsn().await);
    following.alter(index, Batch { ops, row_lsn, compose, ..Batch::default() });
}

/// Key changes, deletes, values stored out of line, truncated tables, undone parts.
#[tokio::test(flavor = "multi_thread")]
async fn a_hard_load_gives_no_false_alarm() {
    let database = Database::create().await;
    let size = ledger::Size { accounts: 1500, journal: 400 };
    ledger::create(&database, size).await;
    let following = follow(database, |config| {
        config.tables = ledger::TABLES.split(',').map(str::to_owned).collect();
        config.verify.range_rows = 500;
    });
    following.follows("public.accounts").await;
    following.follows("public.journal").await;
    let load = Load::start(&following.database, size.accounts, 7, 4).await;
    let (mut rows, mut documents) = (0, 0);
    for _ in 0..4 {
        let report = verified(&following, repairing(true)).await;
        assert_eq!(report.differences, [], "{report:#?}");
        let last = report.last_round.unwrap();
        (rows, documents) = (rows + last.rows, documents + last.documents);
    }
    let counts = load.stop().await;
    poll::report(&format!("{rows} rows and {documents} documents proven beside {counts}"));
    assert!(rows > 4 * 1500 && documents > 4 * 1500 && counts.committed > 20);
    assert_eq!(found(&following, false).await, [""; 0]);
    following.shows(&["accounts"]).await;
    let count = "SELECT count(*) FROM accounts";
    let count: i64 = following.database.client().query_one(count, &[]).await.unwrap().get(0);
    assert_eq!(following.count("accounts"), u64::try_from(count).unwrap());
}

pub(crate) const BIRDS: &str = "
    CREATE TABLE birds (id int PRIMARY KEY, name text, facts jsonb, song text);
    ALTER TABLE birds ALTER COLUMN song SET STORAGE EXTERNAL;
    INSERT INTO birds SELECT n, 'egret ' || n, '{\"a\": [1, 2.50]}', repeat('la', 1500)
      FROM generate_series(1, 350) AS n;
    CREATE TABLE nests (place text, number int, eggs numeric, PRIMARY KEY (place, number));
    INSERT INTO nests SELECT 'reed, \\' || n % 7, n, n / 3.0 FROM generate_series(1, 250) AS n";

/// What the publication leaves out for a while, the stream does not bring.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_past_the_publication_is_found_and_repaired() {
    let database = Database::create().await;
    database.execute(BIRDS).await;
    // Nobody looks whether the publication changes.
    let following = follow(database, |config| config.watch_interval_ms = 3_600_000);
    following.follows("public.birds").await;
    following.follows("public.nests").await;
    // By then it has looked at what there is.
    assert_eq!(found(&following, true).await, [""; 0]);
    let publish = |what: &str| format!("ALTER PUBLICATION egret_main SET (publish = '{what}')");
    for statements in [
        &publish("truncate"),
        "UPDATE birds SET name = 'unseen' WHERE id = 5; DELETE FROM birds WHERE id = 6;
         INSERT INTO birds VALUES (9000, 'unseen', NULL, repeat('do', 1500));
         UPDATE birds SET id = 9001 WHERE id = 7; DELETE FROM nests WHERE number = 8;
         UPDATE nests SET eggs = 0 WHERE number = 9",
        &publish("insert, update, delete, truncate"),
    ] {
        following.database.execute(statements).await;
    }
    following.shows(&["birds", "nests"]).await;
    let expected = [
        "public.birds 5 Different",
        "public.birds 6 LeftOver",
        "public.birds 7 LeftOver",
        "public.birds 9000 Missing",
        "public.birds 9001 Missing",
        r"public.nests reed\, \\1,8 LeftOver",
        r"public.nests reed\, \\2,9 Different",
    ];
    finds_and_repairs(&following, &expected).await;
    let birds = "SELECT id::text, row_to_json(birds)::text FROM birds";
    following.equals("birds", birds).await;
    // The stream goes on over what was repaired, also where it leaves values out.
    let changes = "UPDATE birds SET name = 'streamed' WHERE id IN (5, 9000, 9001)";
    following.execute(changes, &["birds"]).await;
    following.equals("birds", birds).await;
    let report = following.pipeline().verification();
    let table = report.tables.iter().find(|it| it.table == "public.birds").unwrap();
    assert_eq!((table.rows, table.documents, table.differences), (350, 350, 0), "{table:#?}");
    assert!(table.ranges.len() >= 4 && table.document_ranges.len() >= 4, "{table:#?}");
    assert!(table.lsn.is_some() && table.proven_ms.is_some());
}

/// One table alone is verified where that is asked for, and what is asked for wrongly is refused.
#[tokio::test(flavor = "multi_thread")]
async fn one_table_alone() {
    let database = Database::create().await;
    database.execute(BIRDS).await;
    let following = follow(database, |_| {});
    following.follows("public.birds").await;
    following.follows("public.nests").await;
    alter(&following, "birds", vec![delete("3")], Compose::default()).await;
    alter(&following, "nests", vec![upsert("no key", &json!({}))], Compose::default()).await;
    let table = Some("public.birds".to_owned());
    let options = VerifyOptions { table, rows_per_second: Some(100_000), ..repairing(true) };
    let report = verified(&following, options).await;
    assert_eq!(report.differences.len(), 1, "{report:#?}");
    assert_eq!(report.tables.len(), 1);
    let difference = &report.differences[0];
    assert_eq!((&*difference.id, difference.kind), ("3", DriftKind::Missing));
    // An id that is none of the key's texts belongs to no row.
    assert_eq!(found(&following, true).await, ["public.nests no key LeftOver!"]);
    let other = VerifyOptions { table: Some("public.no".to_owned()), ..repairing(true) };
    let error = following.pipeline().verify(other).await.unwrap_err();
    assert!(error.to_string().contains("[public.no] is not followed"), "{error}");
    following.pipeline().pause().await.unwrap();
    let error = following.pipeline().verify(repairing(true)).await.unwrap_err();
    assert!(error.to_string().contains("paused"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn declared_documents_with_filters_and_soft_deletes() {
    let database = Database::create().await;
    if database.lacks(15, "filters").await {
        return;
    }
    database
        .execute(
            "CREATE TABLE goods (id int PRIMARY KEY, sku text NOT NULL, shop int NOT NULL, descr text,
                                 price int, gone timestamptz, secret text, UNIQUE (shop, sku));
             ALTER TABLE goods REPLICA IDENTITY FULL;
             INSERT INTO goods SELECT n, 'sku,' || n, n % 3, 'd' || n, n % 10,
                 CASE WHEN n % 7 = 0 THEN now() END, 'hush' FROM generate_series(1, 400) AS n",
        )
        .await;
    // Its key in another order than that of its index.
    let document = json!({
        "table": "goods", "id": ["sku", "shop"], "filter": "price > 3", "soft_delete": "gone",
        "exclude": ["secret", "gone"], "rename": {"descr": "description"}, "constants": {"a": 1},
    });
    let following = follow(database, declared(&[document]));
    following.follows("public.goods").await;
    assert_eq!(found(&following, true).await, [""; 0]);
    following
        .execute(
            "UPDATE goods SET price = (price + 3) % 10 WHERE id % 3 = 0;
             UPDATE goods SET gone = CASE WHEN gone IS NULL THEN now() END WHERE id % 11 = 0;
             UPDATE goods SET sku = 'new ' || sku WHERE id % 13 = 0",
            &["goods"],
        )
        .await;
    assert_eq!(found(&following, true).await, [""; 0]);
    following
        .database
        .execute("UPDATE goods SET price = 5, gone = NULL WHERE id IN (1, 2, 4); UPDATE goods SET price = 5,
                  gone = now() WHERE id = 5; UPDATE goods SET price = 0, gone = NULL WHERE id = 8")
        .await;
    following.shows(&["goods"]).await;
    let row =
        |id: i32| json!({"id": id, "sku": "s", "shop": 1, "description": "d", "price": 5, "a": 1});
    let ops = vec![
        upsert(r"sku\,1,1", &json!({"id": 1, "description": "other", "a": 1})),
        delete(r"sku\,2,2"),
        // Rows that count as deleted, or are not among those that are taken.
        upsert(r"sku\,5,2", &row(5)),
        upsert(r"sku\,8,2", &row(8)),
        upsert(r"never,1", &row(9)),
    ];
    alter(&following, "goods", ops, Compose::default()).await;
    let expected = [
        r"public.goods never,1 LeftOver",
        r"public.goods sku\,1,1 Different",
        r"public.goods sku\,2,2 Missing",
        r"public.goods sku\,5,2 LeftOver",
        r"public.goods sku\,8,2 LeftOver",
    ];
    finds_and_repairs(&following, &expected).await;
    let goods = r"SELECT replace(sku, ',', '\,') || ',' || shop, json_build_object('id', id, 'sku', sku,
        'shop', shop, 'description', descr, 'price', price, 'a', 1)::text FROM goods
        WHERE price > 3 AND gone IS NULL";
    following.equals("goods", goods).await;
}

const SHOP: &str = "
    CREATE TABLE makers (id int PRIMARY KEY, name text);
    CREATE TABLE products (id int PRIMARY KEY, name text, maker int);
    CREATE TABLE reviews (id bigint PRIMARY KEY, product int, stars int);
    INSERT INTO makers SELECT n, 'maker ' || n FROM generate_series(1, 5) AS n;
    INSERT INTO products SELECT n, 'product ' || n, n % 6 FROM generate_series(1, 150) AS n;
    INSERT INTO reviews SELECT n, n % 160, n % 5 FROM generate_series(1, 500) AS n";

const PRODUCTS: &str = "
    SELECT p.id::text, json_build_object('id', p.id, 'name', p.name,
      'maker', (SELECT row_to_json(m) FROM makers m WHERE m.id = p.maker),
      'reviews', (SELECT coalesce(json_agg(json_build_object('id', r.id, 'stars', r.stars)
                  ORDER BY r.id), '[]') FROM reviews r WHERE r.product = p.id))::text FROM products p";

fn products() -> Value {
    json!({"table": "products", "exclude": ["maker"], "related": [
        {"field": "maker", "table": "makers", "kind": "one", "foreign_key": ["maker"]},
        {"field": "reviews", "table": "reviews", "foreign_key": ["product"],
         "include": ["id", "stars"]},
    ]})
}

/// Rows of tables that inherit from another are none of its own: the log tells of them apart.
#[tokio::test(flavor = "multi_thread")]
async fn tables_that_inherit() {
    let database = Database::create().await;
    let tables = "
        CREATE TABLE parent (id int PRIMARY KEY, name text);
        CREATE TABLE child (PRIMARY KEY (id), extra text) INHERITS (parent);
        CREATE TABLE other () INHERITS (parent);
        INSERT INTO parent SELECT n, 'parent ' || n FROM generate_series(1, 150) AS n;
        INSERT INTO child SELECT n, 'child ' || n, 'x' FROM generate_series(100, 300) AS n;
        INSERT INTO other VALUES (7, 'other'), (1007, 'other')";
    database.execute(tables).await;
    let has_filters = database.version().await >= 15;
    let mut following = follow(database, |config| {
        config.tables = vec!["child".to_owned()];
        let filter = if has_filters { json!({"filter": "id < 2000"}) } else { json!({}) };
        let mut document = json!({"table": "parent", "constants": {"kind": "parent"}});
        document.as_object_mut().unwrap().extend(filter.as_object().unwrap().clone());
        config.documents = vec![serde_json::from_value(document).unwrap()];
    });
    following.follows("public.parent").await;
    following.follows("public.child").await;
    let write =
        "UPDATE parent SET name = name || '!' WHERE id % 3 = 0; DELETE FROM child WHERE id = 120;
                 UPDATE child SET id = 5000 WHERE id = 300";
    following.execute(write, &["parent", "child"]).await;
    let parent =
        "SELECT id::text, json_build_object('id', id, 'name', name, 'kind', 'parent')::text
                  FROM ONLY parent";
    let child = "SELECT id::text, to_json(child)::text FROM child";
    assert_eq!(found(&following, true).await, [""; 0]);
    following.equals("parent", parent).await;
    following.equals("child", child).await;
    // A drifted row is repaired from the table's own.
    let drifted = vec![upsert("110", &json!({"id": 110, "name": "other"})), delete("111")];
    alter(&following, "parent", drifted, Compose::Affected).await;
    let expected = ["public.parent 110 Different!", "public.parent 111 Missing!"];
    assert_eq!(found(&following, true).await, expected);
    following.equals("parent", parent).await;
    // What leaves the publication takes nothing with it.
    following.stop().await;
    following.config.documents.clear();
    following.resume();
    following.follows("public.child").await;
    let published = "SELECT string_agg(prrelid::regclass::text, ',') FROM pg_publication_rel";
    let row = following.database.client().query_one(published, &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "child");
    following.execute("UPDATE child SET extra = 'y' WHERE id < 110", &["child"]).await;
    following.equals("child", child).await;
    assert_eq!(following.copies(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn related_tables() {
    let database = Database::create().await;
    database.execute(SHOP).await;
    let following = follow(database, declared(&[products()]));
    following.follows("public.products").await;
    assert_eq!(found(&following, true).await, [""; 0]);
    let writing = "UPDATE reviews SET product = (product + 7) % 160 WHERE id % 9 = 0;
        DELETE FROM products WHERE id % 17 = 0; UPDATE makers SET name = name || '!';
        TRUNCATE makers; INSERT INTO makers SELECT n, 'again ' || n FROM generate_series(1, 4) AS n";
    following.execute(writing, &["products"]).await;
    assert_eq!(found(&following, true).await, [""; 0]);
    // The table and its rows, by their place: what is composed follows only the last ones.
    let rows = vec![
        upsert(&row_id(1, "2"), &json!({"id": 2, "name": "other"})),
        delete(&row_id(2, "5")),
        upsert(&row_id(2, "9999"), &json!({"id": 9999, "product": 3, "stars": 1})),
    ];
    alter(&following, "products", rows, Compose::Affected).await;
    let rows = vec![
        delete(&row_id(0, "20")),
        upsert(&row_id(0, "21"), &json!({"id": 21, "name": "other", "maker": 3})),
        upsert(&row_id(0, "7777"), &json!({"id": 7777, "name": "nobody's"})),
        upsert(&row_id(2, "6"), &json!({"id": 6, "product": 6, "stars": 77})),
    ];
    alter(&following, "products", rows, Compose::Later).await;
    let expected = [
        "public.makers 2 Different",
        "public.products 20 Missing",
        "public.products 21 Different",
        // Its document lacks what one of its rows now says.
        "public.products 6 Different",
        "public.products 7777 LeftOver",
        "public.reviews 5 Missing",
        "public.reviews 6 Different",
        "public.reviews 9999 LeftOver",
    ];
    assert_eq!(found(&following, false).await, expected);
    let repaired: Vec<String> = expected.iter().map(|it| format!("{it}!")).collect();
    assert_eq!(found(&following, true).await, repaired);
    assert_eq!(found(&following, false).await, [""; 0]);
    following.equals("products", PRODUCTS).await;
    let report = following.pipeline().verification();
    let tables: Vec<&str> = report.tables.iter().map(|it| it.table.as_str()).collect();
    assert_eq!(tables, ["public.products", "public.makers", "public.reviews"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_no_drift() {
    let database = Database::create().await;
    database
        .execute(
            "CREATE TABLE notes (id int PRIMARY KEY, code text, body text);
             INSERT INTO notes SELECT n, CASE WHEN n % 10 = 0 THEN 'x' ELSE n::text END, 'b'
             FROM generate_series(1, 100) AS n;
             INSERT INTO notes VALUES (101, '1', repeat('x', 5000))",
        )
        .await;
    let document = json!({"table": "notes",
        "mappings": {"properties": {"code": {"type": "integer"}}}});
    let following = follow(database, |config| {
        declared(&[document])(config);
        config.max_document_bytes = 4096;
    });
    following.streams().await;
    following.lists(11).await;
    assert_eq!(found(&following, true).await, [""; 0]);
    let change =
        "UPDATE notes SET code = 'y' WHERE id = 5; UPDATE notes SET code = '5' WHERE id = 10";
    following.execute(change, &["notes"]).await;
    following.lists(11).await;
    assert_eq!(found(&following, true).await, [""; 0]);
    // A letter that was thrown away says nothing of its row any more: it is missing, and listed again.
    let (table, id) = (Some("public.notes".to_owned()), Some("20".to_owned()));
    let filter = LetterFilter { index: None, table, id };
    assert_eq!(block_in_place(|| following.pipeline().purge(&filter)).unwrap(), 1);
    assert_eq!(found(&following, false).await, ["public.notes 20 Missing"]);
    following.lists(10).await;
    let report = verified(&following, repairing(true)).await;
    let difference = report.differences.back().unwrap();
    assert!(!difference.repaired, "{difference:?}");
    assert!(difference.reason.as_ref().unwrap().contains("code"), "{difference:?}");
    following.lists(11).await;
    assert_eq!(found(&following, true).await, [""; 0]);
    // A document that its row could not make is worse than none.
    alter(&following, "notes", vec![upsert("101", &json!({"id": 101}))], Compose::default()).await;
    assert_eq!(found(&following, true).await, ["public.notes 101 Different!"]);
    assert_eq!(following.document("notes", "101"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions() {
    let following = {
        let database = Database::create().await;
        database
            .execute(
                "CREATE TABLE events (id int, at date, what text, PRIMARY KEY (id, at))
                   PARTITION BY RANGE (at);
                 CREATE TABLE events_22 PARTITION OF events
                   FOR VALUES FROM ('2022-01-01') TO ('2023-01-01');
                 CREATE TABLE events_23 PARTITION OF events
                   FOR VALUES FROM ('2023-01-01') TO ('2024-01-01');
                 INSERT INTO events SELECT n, date '2022-12-20' + n % 30, 'e' || n
                   FROM generate_series(1, 300) AS n",
            )
            .await;
        follow(database, |_| {})
    };
    following.follows("public.events").await;
    let change = "UPDATE events SET at = at + 5 WHERE id % 4 = 0 AND at < '2023-01-01'";
    following.execute(change, &["events"]).await;
    assert_eq!(found(&following, true).await, [""; 0]);
    let ops = vec![
        delete("1,2022-12-21"),
        upsert("2,2022-12-22", &json!({"id": 2})),
        upsert("2,2023-12-22", &json!({"id": 2})),
        upsert("3,2033-12-22", &json!({"id": 3})),
    ];
    alter(&following, "events", ops, Compose::default()).await;
    let expected = [
        "public.events 1,2022-12-21 Missing",
        "public.events 2,2022-12-22 Different",
        "public.events 2,2023-12-22 LeftOver",
        "public.events 3,2033-12-22 LeftOver",
    ];
    finds_and_repairs(&following, &expected).await;
    let events = "SELECT id || ',' || at, to_json(events)::text FROM events";
    following.equals("events", events).await;
}
