//! Encrypted connections: every one of a pipeline's, held to what `sslmode` says; certificates that are
//! wrong, in each way, and put right while the pipeline tries again.

use std::path::PathBuf;
use std::sync::Arc;

use egret_tests::poll;
use egret_tests::postgres::{Cluster, ClusterOptions, Database};
use tempfile::TempDir;
use tokio::task::block_in_place;

use crate::certificates::{Authority, Identity, Valid};
use crate::following::Following;

const BIRDS: &str = "SELECT id::text, to_json(birds)::text FROM birds";

const TABLE: &str = "CREATE TABLE birds (id int PRIMARY KEY, name text);
    INSERT INTO birds SELECT n, 'bird ' || n FROM generate_series(1, 1000) AS n";

/// The role that is followed with.
const ROLE: &str = "sealed";

/// The harness's own connections, whatever the rules for the role are.
const OURS: &str = "host all postgres 127.0.0.1/32 scram-sha-256\n";

/// A database on a server with TLS, and the files of its client.
struct Sealed {
    cluster: Arc<Cluster>,
    authority: Authority,
    files: TempDir,
}

impl Sealed {
    /// A server that proves to be `localhost`, and asks the role for encryption and its password.
    async fn start() -> (Self, Database) {
        let settings = vec!["log_connections=on".to_owned()];
        let options = ClusterOptions { settings, ..ClusterOptions::default() };
        let cluster = Arc::new(block_in_place(|| Cluster::start(options)));
        let database = Database::create_on(&cluster).await;
        database.execute(TABLE).await;
        let role = format!(
            "CREATE ROLE {ROLE} LOGIN REPLICATION PASSWORD '{}'; GRANT SELECT ON birds TO {ROLE};
             CREATE PUBLICATION egret_main FOR TABLE birds",
            Cluster::password()
        );
        database.execute(&role).await;
        let authority = Authority::new("the authority");
        let files = tempfile::tempdir().unwrap();
        let sealed = Self { cluster, authority, files };
        sealed.cluster.write_file("ca.crt", &sealed.authority.certificate);
        sealed.write("ca.pem", &sealed.authority.certificate);
        sealed.install(&sealed.authority.server(&["localhost"], Valid::Now));
        sealed.rules("hostssl all sealed all scram-sha-256");
        for setting in ["ssl = on", "ssl_ca_file = 'ca.crt'"] {
            database.execute(&format!("ALTER SYSTEM SET {setting}")).await;
        }
        sealed.cluster.reload().await;
        (sealed, database)
    }

    /// Puts the server's certificate in place, for it to read.
    fn install(&self, server: &Identity) {
        self.cluster.write_file("server.key", &server.key);
        self.cluster.write_file("server.crt", &server.certificate);
    }

    /// Sets the rules for the role.
    fn rules(&self, rules: &str) {
        self.cluster.write_file("pg_hba.conf", &format!("{OURS}{rules}\n"));
    }

    fn path(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    /// Writes a file of the client's.
    fn write(&self, name: &str, content: &str) {
        std::fs::write(self.path(name), content).unwrap();
    }

    /// Writes the client's certificate and key.
    fn carry(&self, client: &Identity) {
        self.write("client.pem", &client.certificate);
        self.write("client.key", &client.key);
    }

    /// The role's URL, by the name that the server proves.
    fn url(&self, database: &str, parameters: &str) -> String {
        let url = self.cluster.url_as(ROLE, database).replace("127.0.0.1", "localhost");
        format!("{url}?{parameters}")
    }

    /// `sslrootcert` and further parameters.
    fn verified(&self, database: &str, mode: &str) -> String {
        let roots = self.path("ca.pem");
        self.url(database, &format!("sslmode={mode}&sslrootcert={}", roots.display()))
    }

    /// The parameters of a client with a certificate.
    fn known(&self, database: &str) -> String {
        let (certificate, key) = (self.path("client.pem"), self.path("client.key"));
        let url = self.verified(database, "verify-full");
        format!("{url}&sslcert={}&sslkey={}", certificate.display(), key.display())
    }
}

/// Follows with another URL, which is refused with these words while the index serves on; then the
/// cause is gone, and it goes on by itself.
async fn passes(
    following: &mut Following,
    url: String,
    expected: &[&str],
    cure: impl AsyncFnOnce(),
) {
    following.stop().await;
    following.config.url = url;
    following.resume();
    following.fails_with(expected).await;
    assert_eq!(following.count("birds"), 1000);
    cure().await;
    following.streams().await;
    following.execute("UPDATE birds SET name = name || '.' WHERE id % 7 = 0", &["birds"]).await;
    following.equals("birds", BIRDS).await;
}

/// Follows with another URL.
async fn follows_with(following: &mut Following, url: String) {
    following.stop().await;
    following.config.url = url;
    following.resume();
    following.streams().await;
    following.equals("birds", BIRDS).await;
}

/// Sessions of the role, each with what it is and whether it is encrypted.
async fn sessions(following: &Following) -> Vec<(String, bool, Option<String>)> {
    let query = "SELECT a.backend_type, s.ssl, s.client_dn
                 FROM pg_stat_activity a JOIN pg_stat_ssl s USING (pid) WHERE a.usename = $1";
    let rows = following.database.client().query(query, &[&ROLE]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
}

async fn all_are_encrypted(following: &Following) {
    let sessions = sessions(following).await;
    let kinds: Vec<&str> = sessions.iter().map(|(kind, _, _)| kind.as_str()).collect();
    assert!(kinds.contains(&"walsender") && kinds.contains(&"client backend"), "{kinds:?}");
    assert!(sessions.iter().all(|(_, ssl, _)| *ssl), "{sessions:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_connection_is_encrypted() {
    let (sealed, database) = Sealed::start().await;
    let name = database.name().to_owned();
    let url = sealed.verified(&name, "verify-full");
    let mut following = Following::follow(database, |config| {
        config.url = url;
        config.publication = Some("egret_main".to_owned());
        config.tables = vec!["birds".to_owned()];
    });
    following.streams().await;
    following.follows("public.birds").await;
    following.equals("birds", BIRDS).await;
    all_are_encrypted(&following).await;
    for mode in ["prefer", "require", "verify-ca"] {
        let url = match mode {
            "verify-ca" => sealed.verified(&name, mode),
            _ => sealed.url(&name, &format!("sslmode={mode}")),
        };
        follows_with(&mut following, url).await;
        all_are_encrypted(&following).await;
    }
    // Those of copies, looks and reads of the log as well, which are gone by now.
    following.pipeline().copy("public.birds").await.unwrap();
    following.copies_again(0).await;
    let log = sealed.cluster.log();
    let authorized = |line: &&str| line.contains("authorized: user=sealed");
    let lines: Vec<&str> = log.lines().filter(authorized).collect();
    let streams = lines.iter().filter(|line| line.contains("replication connection")).count();
    assert!(streams > 6 && lines.len() > streams + 6, "{lines:#?}");
    for line in lines {
        assert!(line.contains("SSL enabled"), "{line}");
    }
    // An address that the certificate has is as good as a name.
    sealed.install(&sealed.authority.server(&["127.0.0.1"], Valid::Now));
    sealed.cluster.reload().await;
    let url = sealed.verified(&name, "verify-full").replace("localhost", "127.0.0.1");
    follows_with(&mut following, url).await;
    all_are_encrypted(&following).await;
    // Nothing is encrypted where that is asked for.
    sealed.rules("hostnossl all sealed all scram-sha-256");
    sealed.cluster.reload().await;
    let url = sealed.url(&name, "sslmode=disable");
    follows_with(&mut following, url).await;
    // Those from before end in their own time.
    poll::until("no session is encrypted", async || {
        let sessions = sessions(&following).await;
        (!sessions.is_empty() && sessions.iter().all(|(_, ssl, _)| !ssl)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_who_it_should_be() {
    let (sealed, database) = Sealed::start().await;
    let name = database.name().to_owned();
    let url = sealed.verified(&name, "verify-full");
    let mut following = Following::follow(database, |config| {
        config.url.clone_from(&url);
        config.publication = Some("egret_main".to_owned());
        config.tables = vec!["birds".to_owned()];
    });
    following.streams().await;
    following.equals("birds", BIRDS).await;
    let (cluster, authority) = (&sealed.cluster, &sealed.authority);
    let install = async |names: &[&str], valid| {
        sealed.install(&authority.server(names, valid));
        cluster.reload().await;
    };
    // Another authority; the file is put right where it lies. `require` with a file verifies too.
    for mode in ["verify-full", "verify-ca", "require"] {
        sealed.write("ca.pem", &Authority::new("another").certificate);
        let cure = async || sealed.write("ca.pem", &authority.certificate);
        let url = sealed.verified(&name, mode);
        let expected = ["ca.pem", "no authority of sslrootcert", "signed the server's certificate"];
        passes(&mut following, url, &expected, cure).await;
    }
    following.stop().await;
    following.config.url = sealed.url(&name, "sslmode=verify-full");
    following.resume();
    following.fails_with(&["no authority that browsers know", "sslrootcert"]).await;
    // Another name.
    install(&["db.elsewhere.example", "*.wild.example"], Valid::Now).await;
    follows_with(&mut following, sealed.verified(&name, "verify-ca")).await;
    all_are_encrypted(&following).await;
    let expected = ["not valid for name", "elsewhere.example", "verify-ca"];
    passes(&mut following, url.clone(), &expected, async || {
        install(&["localhost"], Valid::Now).await;
    })
    .await;
    install(&["*.wild.example"], Valid::Now).await;
    follows_with(&mut following, sealed.verified(&name, "verify-ca")).await;
    // Too old, for whoever looks.
    install(&["localhost"], Valid::NoLonger).await;
    follows_with(&mut following, sealed.url(&name, "sslmode=require")).await;
    passes(&mut following, url.clone(), &["certificate expired", "renewed"], async || {
        install(&["localhost"], Valid::Now).await;
    })
    .await;
    // No TLS at all.
    let set = async |value: &str| {
        let client = cluster.connect("postgres").await;
        client.batch_execute(&format!("ALTER SYSTEM SET ssl = {value}")).await.unwrap();
        cluster.reload().await;
    };
    set("off").await;
    for mode in ["require", "verify-full"] {
        let url = sealed.url(&name, &format!("sslmode={mode}"));
        following.stop().await;
        following.config.url = url;
        following.resume();
        following.fails_with(&["the server has no TLS", "ssl = on", "sslmode=disable"]).await;
    }
    set("on").await;
    follows_with(&mut following, url).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_the_server_does_not_know() {
    let (sealed, database) = Sealed::start().await;
    let name = database.name().to_owned();
    sealed.rules("hostssl all sealed all cert");
    sealed.cluster.reload().await;
    sealed.carry(&sealed.authority.client(ROLE, Valid::Now));
    let url = sealed.known(&name);
    let mut following = Following::follow(database, |config| {
        config.url.clone_from(&url);
        config.publication = Some("egret_main".to_owned());
        config.tables = vec!["birds".to_owned()];
    });
    following.streams().await;
    following.equals("birds", BIRDS).await;
    let sessions = sessions(&following).await;
    let proven = |dn: &Option<String>| dn.as_deref().is_some_and(|dn| dn.contains("CN=sealed"));
    assert!(sessions.iter().all(|(_, ssl, dn)| *ssl && proven(dn)), "{sessions:?}");
    let renewed = async || sealed.carry(&sealed.authority.client(ROLE, Valid::Now));
    // Expired, and replaced where it lies.
    sealed.carry(&sealed.authority.client(ROLE, Valid::NoLonger));
    let refused = ["does not accept the client certificate", "ssl_ca_file"];
    passes(&mut following, url.clone(), &refused, renewed).await;
    // Of another authority.
    sealed.carry(&Authority::new("another").client(ROLE, Valid::Now));
    passes(&mut following, url.clone(), &refused, renewed).await;
    // Another role's.
    sealed.carry(&sealed.authority.client("somebody", Valid::Now));
    let expected = ["certificate authentication failed", "common name", "[sealed]"];
    passes(&mut following, url.clone(), &expected, renewed).await;
    // No key, or none that fits.
    std::fs::remove_file(sealed.path("client.key")).unwrap();
    let expected = ["cannot read sslkey", "client.key", "No such file"];
    passes(&mut following, url.clone(), &expected, renewed).await;
    sealed.write("client.key", "no key");
    let expected = ["cannot read sslkey", "client.key", "no such PEM section"];
    passes(&mut following, url.clone(), &expected, renewed).await;
    let other = sealed.authority.client(ROLE, Valid::Now).key;
    sealed.write("client.key", &other);
    passes(&mut following, url.clone(), &["sslcert and sslkey do not go together"], renewed).await;
    // None at all.
    let without = sealed.verified(&name, "verify-full");
    let expected = ["valid client certificate", "sslcert and sslkey"];
    passes(&mut following, without, &expected, async || {
        sealed.rules("hostssl all sealed all scram-sha-256");
        sealed.cluster.reload().await;
    })
    .await;
    // A server that asks for both.
    sealed.rules("hostssl all sealed all scram-sha-256 clientcert=verify-full");
    sealed.cluster.reload().await;
    follows_with(&mut following, url).await;
}
