//! Signing in: passwords from everywhere that they can come from, and everything that a server can
//! answer instead of letting a role in.

use std::sync::Arc;

use egret_tests::egret::{Egret, EgretOptions};
use egret_tests::poll;
use egret_tests::postgres::{Cluster, ClusterOptions, Database};
use tokio::task::block_in_place;

use crate::following::Following;

const BIRDS: &str = "SELECT id::text, to_json(birds)::text FROM birds";

const TABLE: &str = "CREATE TABLE birds (id int PRIMARY KEY, name text);
    INSERT INTO birds SELECT n, 'bird ' || n FROM generate_series(1, 100) AS n";

/// A password that a URL, a shell and SCRAM's preparation of texts could each spoil.
const PASSWORD: &str = "p%ä ß'@:/?#";

/// The same within a URL.
fn encoded() -> String {
    let byte = |byte: u8| format!("%{byte:02X}");
    PASSWORD.bytes().map(byte).collect()
}

/// A cluster of its own with the table, a role, and a publication for it.
async fn database_for(role: &str) -> Database {
    let cluster = Arc::new(block_in_place(|| Cluster::start(ClusterOptions::default())));
    let database = Database::create_on(&cluster).await;
    database.execute(TABLE).await;
    database.execute("CREATE PUBLICATION egret_main FOR TABLE birds").await;
    make(&database, role).await;
    database
}

/// Makes the role, with no more rights than it needs.
async fn make(database: &Database, role: &str) {
    let password = PASSWORD.replace('\'', "''");
    let statements = format!(
        "CREATE ROLE {role} LOGIN REPLICATION PASSWORD '{password}'; GRANT SELECT ON birds TO {role}"
    );
    database.execute(&statements).await;
}

/// A URL without a password, and perhaps with one.
fn url(database: &Database, role: &str, password: Option<&str>) -> String {
    let password = password.map(|password| format!(":{password}")).unwrap_or_default();
    format!(
        "postgres://{role}{password}@127.0.0.1:{}/{}",
        database.cluster().port(),
        database.name()
    )
}

fn follow(database: Database, url: String) -> Following {
    Following::follow(database, |config| {
        config.url = url;
        config.publication = Some("egret_main".to_owned());
        config.tables = vec!["birds".to_owned()];
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_from_everywhere() {
    let database = database_for("reader").await;
    let right = url(&database, "reader", Some(&encoded()));
    let bare = url(&database, "reader", None);
    let mut following = follow(database, right);
    following.streams().await;
    following.equals("birds", BIRDS).await;
    // From the configuration, where the environment's goes.
    following.stop().await;
    following.config.url.clone_from(&bare);
    following.config.password = Some(PASSWORD.to_owned());
    following.resume();
    following.streams().await;
    // From a file, which is read at each connection.
    following.stop().await;
    following.config.password = None;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    following.config.password_file = Some(file.clone());
    following.resume();
    following.fails_with(&["cannot read password_file", "password", "No such file"]).await;
    std::fs::write(&file, "an older one\n").unwrap();
    let expected = ["password authentication failed", "28P01", "password_file", "is wrong"];
    following.fails_with(&expected).await;
    std::fs::write(&file, format!("{PASSWORD}\nmore lines\n")).unwrap();
    following.streams().await;
    // Stored as older servers do it.
    let md5 = format!(
        "SET password_encryption = md5; ALTER ROLE reader PASSWORD '{}'",
        PASSWORD.replace('\'', "''")
    );
    following.database.execute(&md5).await;
    let port = following.database.cluster().port();
    let cluster = Arc::clone(following.database.cluster());
    cluster.write_file(
        "pg_hba.conf",
        "host all postgres 127.0.0.1/32 scram-sha-256\nhost all reader 127.0.0.1/32 md5\n",
    );
    cluster.reload().await;
    following.stop().await;
    following.resume();
    following.streams().await;
    following.execute("DELETE FROM birds WHERE id < 10", &["birds"]).await;
    following.equals("birds", BIRDS).await;
    // None, and a wrong one.
    following.stop().await;
    following.config.password_file = None;
    following.resume();
    following.fails_with(&["the password of [reader]", "PGPASSWORD", "password_file"]).await;
    following.stop().await;
    following.config.url = bare.replace("reader@", "reader:wrong@");
    following.resume();
    let place = format!("connecting to [127.0.0.1:{port}] as [reader]");
    following.fails_with(&["password authentication failed", "in the URL is wrong", &place]).await;
    assert_eq!(following.count("birds"), 91);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_environment_has_the_password() {
    let database = database_for("reader").await;
    let bare = url(&database, "reader", None);
    let mut options = EgretOptions::following(bare, "birds");
    options.environment.push(("PGPASSWORD".to_owned(), "wrong".to_owned()));
    let egret = Egret::start(options.clone());
    let reason = poll::until("a reason", async || {
        let shown = egret.get("/_cdc").await.ok().to_string();
        shown.contains("password authentication failed").then_some(shown)
    })
    .await;
    assert!(reason.contains("from PGPASSWORD or the option password is wrong"), "{reason}");
    assert_eq!(egret.get("/").await.status, 200);
    drop(egret);
    options.environment.retain(|(name, _)| name != "PGPASSWORD");
    options.environment.push(("PGPASSWORD".to_owned(), PASSWORD.to_owned()));
    let egret = Egret::start(options);
    poll::until("the documents", async || (egret.count("birds").await == Some(100)).then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_answers_instead_of_letting_a_role_in() {
    let database = database_for("reader").await;
    let right = url(&database, "reader", Some(&encoded()));
    let cluster = Arc::clone(database.cluster());
    let mut following = follow(database, right.clone());
    following.streams().await;
    let admin = cluster.connect("postgres").await;
    let run = async |statements: &str| admin.batch_execute(statements).await.unwrap();
    let again = async |following: &mut Following, url: &str, expected: &[&str]| {
        following.stop().await;
        following.config.url = url.to_owned();
        following.resume();
        following.fails_with(expected).await;
        assert_eq!(following.count("birds"), 100);
    };
    // A role that is not there cannot be told from a wrong password: that is the server's intent.
    let stranger = right.replace("reader", "stranger");
    again(&mut following, &stranger, &["28P01", "there is no role [stranger]"]).await;
    make(&following.database, "stranger").await;
    following.streams().await;
    run("ALTER ROLE reader NOLOGIN").await;
    again(&mut following, &right, &["not permitted to log in", "ALTER ROLE \"reader\" LOGIN"])
        .await;
    run("ALTER ROLE reader LOGIN").await;
    following.streams().await;
    run("ALTER ROLE reader CONNECTION LIMIT 0").await;
    again(&mut following, &right, &["too many connections for role", "connection limit"]).await;
    run("ALTER ROLE reader CONNECTION LIMIT -1").await;
    following.streams().await;
    let name = following.database.name().to_owned();
    let elsewhere = right.replace(&name, "nowhere");
    again(&mut following, &elsewhere, &["\"nowhere\" does not exist", "in the URL"]).await;
    run(&format!("REVOKE CONNECT ON DATABASE {name} FROM PUBLIC")).await;
    let expected = ["permission denied for database", "GRANT CONNECT ON DATABASE"];
    again(&mut following, &right, &expected).await;
    run(&format!("GRANT CONNECT ON DATABASE {name} TO reader")).await;
    following.streams().await;
    let ours = "host all postgres 127.0.0.1/32 scram-sha-256\n";
    cluster.write_file("pg_hba.conf", ours);
    cluster.reload().await;
    let expected = ["no pg_hba.conf entry", "add a line", "pg_hba.conf, and reload"];
    again(&mut following, &right, &expected).await;
    cluster.write_file("pg_hba.conf", &format!("{ours}host all all all scram-sha-256\n"));
    cluster.reload().await;
    following.streams().await;
    following.equals("birds", BIRDS).await;
    assert_eq!(following.copies(), 0);
}
