//! Pipelines over HTTP, with the real program: declared, watched, told what to do, dropped.

use egret_tests::egret::{Egret, EgretOptions};
use egret_tests::poll;
use egret_tests::postgres::Database;
use serde_json::{Value, json};

const BIRDS: &str = "CREATE TABLE birds (id int PRIMARY KEY, name text, n int);
    INSERT INTO birds SELECT n, 'bird ' || n, n FROM generate_series(1, 200) AS n";

/// Waits for a pipeline's state.
async fn reaches(egret: &Egret, pipeline: &str, state: &str) -> Value {
    poll::until(&format!("{pipeline} is {state}"), async || {
        let shown = egret.get(&format!("/_cdc/{pipeline}")).await.ok();
        (shown["state"] == state).then_some(shown)
    })
    .await
}

async fn counts(egret: &Egret, index: &str, count: u64) {
    poll::until(&format!("{index} has {count} documents"), async || {
        (egret.count(index).await == Some(count)).then_some(())
    })
    .await;
}

fn declaration(database: &Database, name: &str) -> Value {
    json!({
        "url": database.url(), "slot": format!("egret_{}_{name}", database.name()),
        "publication": null, "tables": [], "watch_interval_ms": 200, "acknowledge_interval_ms": 50,
        "documents": [{"table": "birds", "index": format!("birds-{name}"), "exclude": ["n"]}],
    })
}

async fn slots(database: &Database) -> i64 {
    let query = format!(
        "SELECT (SELECT count(*) FROM pg_replication_slots
                 WHERE slot_name = 'egret_{0}' OR starts_with(slot_name, 'egret_{0}_'))
              + (SELECT count(*) FROM pg_publication)",
        database.name()
    );
    database.client().query_one(&query, &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelines_of_several_databases_are_declared_and_dropped() {
    let (one, two) = (Database::create().await, Database::create().await);
    one.execute(BIRDS).await;
    two.execute(BIRDS).await;
    two.execute("DELETE FROM birds WHERE id > 150").await;
    let mut egret = Egret::start(EgretOptions::following(one.url(), "birds"));
    reaches(&egret, "main", "streaming").await;
    let answer = egret.put("/_cdc/second", &declaration(&two, "second")).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    reaches(&egret, "second", "streaming").await;
    counts(&egret, "birds", 200).await;
    counts(&egret, "birds-second", 150).await;
    // Both are there again after a crash.
    egret.kill();
    egret.resume();
    let shown = reaches(&egret, "second", "streaming").await;
    assert_eq!((&shown["declared_in"], &shown["copies"]), (&json!("api"), &json!(0)));
    assert_eq!(reaches(&egret, "main", "streaming").await["declared_in"], "file");
    let url = shown["configuration"]["url"].as_str().unwrap();
    assert!(url.contains("********") && !url.contains("only"), "{url}");
    one.execute("DELETE FROM birds WHERE id = 1").await;
    two.execute("DELETE FROM birds WHERE id = 1").await;
    counts(&egret, "birds", 199).await;
    counts(&egret, "birds-second", 149).await;
    // Declared otherwise, it is copied anew beside the index.
    let mut changed = declaration(&two, "second");
    changed["documents"][0]["exclude"] = json!(["name"]);
    assert_eq!(egret.put("/_cdc/second", &changed).await.status, 200);
    poll::until("the other column is there", async || {
        let query = json!({"query": {"exists": {"field": "n"}}});
        let found = egret.post("/birds-second/_count", &query).await;
        (found.status == 200 && found.body["count"] == 149).then_some(())
    })
    .await;
    if two.version().await >= 15 {
        changed["documents"][0]["filter"] = "id <= 100".into();
        assert_eq!(egret.put("/_cdc/second", &changed).await.status, 200);
        counts(&egret, "birds-second", 99).await;
    }
    // What would leave a slot behind is refused.
    changed["slot"] = "egret_other".into();
    assert_eq!(egret.put("/_cdc/second", &changed).await.status, 409);
    // The slots of a copy go with their sessions, which nobody waits for.
    poll::until("one slot and one publication", async || (slots(&two).await == 2).then_some(()))
        .await;
    egret.delete("/_cdc/second?delete_indexes=true").await.ok();
    assert_eq!(slots(&two).await, 0);
    assert_eq!(egret.get("/_cdc/second").await.status, 404);
    assert_eq!(egret.get("/birds-second").await.status, 404);
    assert_eq!(egret.count("birds").await, Some(199));
    egret.kill();
    egret.resume();
    assert_eq!(egret.get("/_cdc").await.ok()["pipelines"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_declared_is_refused_by_name() {
    let database = Database::create().await;
    database.execute(BIRDS).await;
    let options = EgretOptions::following(database.url(), "birds");
    let options = EgretOptions {
        configuration: format!("max_pipelines = 2\n{}", options.configuration),
        ..options
    };
    let mut egret = Egret::start(options);
    reaches(&egret, "main", "streaming").await;
    let good = declaration(&database, "second");
    let with = |key: &str, value: Value| {
        let mut body = good.clone();
        body[key] = value;
        body
    };
    let cases = [
        ("main", good.clone(), 409, "configuration file"),
        ("Bad", good.clone(), 400, "name [Bad]"),
        ("second", with("tabels", json!(["x"])), 400, "tabels"),
        ("second", with("name", json!("third")), 400, "name in the body"),
        ("second", with("url", json!("mysql://x")), 400, "postgres://"),
        ("second", with("documents", json!([{"table": "a", "filter": "b) OR (c"}])), 400, "filter"),
        ("second", json!({"url": database.url(), "tables": []}), 400, "tables is empty"),
    ];
    for (name, body, status, reason) in cases {
        let answer = egret.put(&format!("/_cdc/{name}"), &body).await;
        assert_eq!(answer.status, status, "{}", answer.text);
        assert!(answer.text.contains(reason), "{reason}: {}", answer.text);
    }
    assert_eq!(egret.delete("/_cdc/main").await.status, 409);
    for path in ["/_cdc/none", "/_cdc/none/dead"] {
        assert_eq!(egret.get(path).await.status, 404, "{path}");
    }
    // Nothing of them is left behind.
    egret.kill();
    egret.resume();
    assert_eq!(egret.get("/_cdc/second").await.status, 404);
    egret.put("/_cdc/second", &good).await.ok();
    let unheeded = with("url", json!(format!("{}?sslmode=foo", database.url())));
    assert_eq!(egret.put("/_cdc/second", &unheeded).await.status, 400);
    let third = egret.put("/_cdc/third", &declaration(&database, "third")).await;
    assert!(third.status == 409 && third.text.contains("max_pipelines"), "{}", third.text);
    reaches(&egret, "second", "streaming").await;
    // An index whose pipeline is gone can be deleted.
    assert_eq!(egret.delete("/birds-second").await.status, 403);
    egret.delete("/_cdc/second").await.ok();
    assert_eq!(egret.count("birds-second").await, Some(200));
    egret.delete("/birds-second").await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_and_dead_letters_over_http() {
    let database = Database::create().await;
    database.execute(BIRDS).await;
    let options =
        EgretOptions::following(database.url(), "birds").with("max_document_bytes", "4096");
    let mut egret = Egret::start(options);
    reaches(&egret, "main", "streaming").await;
    egret.post("/_cdc/main/_pause", &Value::Null).await.ok();
    assert_eq!(egret.get("/health/ready").await.status, 503);
    database.execute("UPDATE birds SET name = repeat('x', 9000) WHERE id < 6").await;
    assert_eq!(egret.post("/_cdc/main/_copy?table=public.birds", &Value::Null).await.status, 409);
    egret.post("/_cdc/main/_resume", &Value::Null).await.ok();
    reaches(&egret, "main", "streaming").await;
    counts(&egret, "birds", 195).await;
    // They are listed before their transaction is acknowledged; the index may show it sooner.
    let dead = poll::until("the rows are listed", async || {
        let dead = egret.get("/_cdc/main/dead?size=2&from=1").await.ok();
        (dead["total"] == 5).then_some(dead)
    })
    .await;
    assert_eq!(dead["dead_letters"][0]["id"], "2");
    assert!(dead["dead_letters"][0]["reason"].as_str().unwrap().contains("max_document_bytes"));
    assert_eq!(egret.get("/_cdc/main/dead?table=public.fish").await.ok()["total"], 0);
    for (path, expected) in [
        ("/_cdc/main/dead?id=1", "[id] needs [table]"),
        ("/_cdc/main/dead?size=5000", "[size]"),
        ("/_cdc/main/dead?colour=red", "colour"),
    ] {
        let answer = egret.get(path).await;
        assert!(answer.status == 400 && answer.text.contains(expected), "{}", answer.text);
    }
    let summary = egret.post("/_cdc/main/dead/_retry", &Value::Null).await.ok();
    assert_eq!((&summary["retried"], &summary["failed"]), (&json!(5), &json!(5)));
    let one = "/_cdc/main/dead?table=public.birds&id=1";
    assert_eq!(egret.delete(one).await.ok()["purged"], 1);
    // What was acknowledged does not come again.
    poll::until("the change is acknowledged", async || {
        let lsn = &egret.get("/_cdc/main").await.ok()["lsn"];
        (lsn["confirmed"] == lsn["received"]).then_some(())
    })
    .await;
    // With the limit raised the rows fit.
    egret.terminate();
    let configuration = &mut egret.options_mut().configuration;
    *configuration = configuration.replace("4096", "65536");
    egret.resume();
    reaches(&egret, "main", "streaming").await;
    let summary = egret.post("/_cdc/main/dead/_retry?table=public.birds", &Value::Null).await.ok();
    assert_eq!(summary["indexed"], 4, "{summary}");
    counts(&egret, "birds", 199).await;
    // The purged row comes with a copy.
    egret.post("/_cdc/main/_copy?table=public.birds", &Value::Null).await.ok();
    counts(&egret, "birds", 200).await;
    assert_eq!(egret.post("/_cdc/main/_copy", &Value::Null).await.status, 400);
    assert_eq!(egret.post("/_cdc/main/_copy?table=public.no", &Value::Null).await.status, 404);
    egret.post("/_cdc/main/_restart", &Value::Null).await.ok();
    reaches(&egret, "main", "streaming").await;
    assert_eq!(egret.get("/_cdc/main/dead").await.ok()["total"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_names_an_index_that_is_not_followed_any_more() {
    let database = Database::create().await;
    database.execute(BIRDS).await;
    database.execute("CREATE TABLE nests (place text)").await;
    let egret = Egret::start(EgretOptions::following(database.url(), "*"));
    reaches(&egret, "main", "streaming").await;
    counts(&egret, "birds", 200).await;
    // A table that no index shows is no reason.
    assert_eq!(egret.get("/health/ready").await.status, 200);
    database.execute("ALTER TABLE birds DROP CONSTRAINT birds_pkey").await;
    let answer = poll::until("it is not ready", async || {
        Some(egret.get("/health/ready").await).filter(|answer| answer.status == 503)
    })
    .await;
    let reasons = serde_json::from_str::<Value>(&answer.text).unwrap()["reasons"].take();
    let named = json!([reasons[0]["table"], reasons[0]["index"], reasons[0]["state"]]);
    assert_eq!(named, json!(["public.birds", "birds", "skipped"]), "{reasons}");
    assert_eq!(reasons.as_array().unwrap().len(), 1, "{reasons}");
    assert_eq!(egret.count("birds").await, Some(200));
    database.execute("ALTER TABLE birds ADD PRIMARY KEY (id)").await;
    poll::until("it is ready again", async || {
        (egret.get("/health/ready").await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_names_an_index_that_fails() {
    let database = Database::create().await;
    let fish =
        "CREATE TABLE fish (id int PRIMARY KEY, name text); INSERT INTO fish VALUES (1, 'eel')";
    database.execute(&format!("{BIRDS}; {fish}")).await;
    let egret = Egret::start(EgretOptions::following(database.url(), "*"));
    reaches(&egret, "main", "streaming").await;
    counts(&egret, "birds", 200).await;
    let settings = egret.get("/birds/_settings").await.ok();
    let uuid = settings["birds"]["settings"]["index"]["uuid"].as_str().unwrap();
    // It is made anew once its table can be read again.
    let locking = database.connect().await;
    std::fs::remove_dir_all(egret.folder().join("indexes").join(uuid)).unwrap();
    let write = "BEGIN; UPDATE birds SET n = 0 WHERE id = 1; COMMIT; BEGIN; LOCK TABLE birds";
    locking.batch_execute(write).await.unwrap();
    let named = async |state: &str| {
        poll::until(&format!("it is not ready: birds are {state}"), async || {
            let answer = egret.get("/health/ready").await;
            let reasons = answer.body["reasons"].as_array().unwrap();
            let is_birds = reasons.len() == 1 && reasons[0]["table"] == "public.birds";
            (answer.status == 503 && is_birds && reasons[0]["state"] == state).then_some(())
        })
        .await;
    };
    // What it shows is old until the copy that waits for the table is done.
    named("copying").await;
    database.execute("INSERT INTO fish VALUES (2, 'ray')").await;
    counts(&egret, "fish", 2).await;
    named("copying").await;
    locking.batch_execute("COMMIT").await.unwrap();
    poll::until("it is ready again", async || {
        (egret.get("/health/ready").await.status == 200).then_some(())
    })
    .await;
    let found = egret.search("birds", &json!({"query": {"term": {"n": 0}}})).await;
    assert_eq!(found["hits"]["hits"][0]["_id"], "1", "{found}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pipelines_follow_one_database() {
    let database = Database::create().await;
    database.execute(BIRDS).await;
    let egret = Egret::start(EgretOptions::following(database.url(), "birds"));
    reaches(&egret, "main", "streaming").await;
    let answer = egret.put("/_cdc/second", &declaration(&database, "second")).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    reaches(&egret, "second", "streaming").await;
    counts(&egret, "birds-second", 200).await;
    // Each knows its own slot and publication, and both read the same log. Those of a copy go with their
    // sessions, which nobody waits for.
    poll::until("two slots and publications", async || (slots(&database).await == 4).then_some(()))
        .await;
    database.execute("DELETE FROM birds WHERE id <= 50").await;
    counts(&egret, "birds", 150).await;
    counts(&egret, "birds-second", 150).await;
    egret.post("/_cdc/second/_pause", &Value::Null).await.ok();
    database.execute("DELETE FROM birds WHERE id <= 60").await;
    counts(&egret, "birds", 140).await;
    assert_eq!(egret.count("birds-second").await, Some(150));
    egret.delete("/_cdc/second").await.ok();
    assert_eq!(slots(&database).await, 2);
    database.execute("DELETE FROM birds WHERE id <= 70").await;
    counts(&egret, "birds", 130).await;
}
