//! A real PostgreSQL for tests: private clusters in temporary folders, on free loopback ports, run
//! by an unprivileged user, ended with the test.
//!
//! Most tests take a database of their own in a cluster that the tests of one program share
//! ([`Database::create`]). A test that stops the server, or changes its settings, starts a cluster
//! of its own ([`Cluster::start`]). A machine without PostgreSQL fails the tests and says what to
//! install; it never skips them.

use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use rand::Rng;
use rustix::process::Signal;
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

use crate::poll;
use crate::process::{Account, Guarded};

/// How long a server may take to start, recover or stop.
const SERVER_DEADLINE: Duration = Duration::from_secs(120);

/// Ports below the range from which Linux takes outgoing connections' own ports, so that a stopped
/// server's port is still free when it starts again.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// How often to try another port, and how often to try to connect to a busy server.
const TRIES: usize = 20;

/// The superuser, and the password of every role here.
const SUPERUSER: &str = "postgres";
const PASSWORD: &str = "only for tests";

/// A role that may replicate and read, and own nothing.
const FOLLOWER: &str = "follower";

/// The cluster that tests of this process share while at least one of them runs.
static SHARED: Mutex<Weak<Cluster>> = Mutex::new(Weak::new());

/// Numbers the databases of this process.
static DATABASES: AtomicU32 = AtomicU32::new(0);

/// How a cluster ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Connections are closed, open transactions undone, a checkpoint is written.
    Fast,
    /// As if the machine had lost its power: recovery follows at the next start.
    Immediate,
}

/// What a cluster is started with.
#[derive(Debug, Clone, Default)]
pub struct ClusterOptions {
    /// Whether commits wait for the disk. Off by default: tests kill the server, not the machine.
    pub fsync: bool,
    /// More settings, as `name=value`.
    pub settings: Vec<String>,
}

/// A private PostgreSQL server.
#[derive(Debug)]
pub struct Cluster {
    server: Mutex<Option<Guarded>>,
    binaries: PathBuf,
    account: Option<Account>,
    options: ClusterOptions,
    port: u16,
    folder: TempDir,
}

impl Cluster {
    /// The cluster that the tests of this process share; started if none of them has it now.
    pub fn shared() -> Arc<Self> {
        // Guards the start, so that it happens once; nothing is awaited under it.
        let mut shared = SHARED.lock();
        if let Some(cluster) = shared.upgrade() {
            return cluster;
        }
        let cluster = Arc::new(Self::start(ClusterOptions::default()));
        *shared = Arc::downgrade(&cluster);
        cluster
    }

    /// Makes and starts a cluster.
    pub fn start(options: ClusterOptions) -> Self {
        Self::begin(options, init_database)
    }

    /// Starts a copy of this cluster, which must be stopped: a restored backup.
    #[must_use]
    pub fn start_copy(&self, options: ClusterOptions) -> Self {
        assert!(self.server.lock().is_none(), "a running server's files are not a backup");
        Self::begin(options, |_, _, folder| copy_data(self.folder.path(), folder))
    }

    /// Starts a standby of this cluster, which is stopped for it and started again.
    #[must_use]
    pub fn start_standby(&self, name: &str, mut options: ClusterOptions) -> Self {
        let conninfo = format!(
            "primary_conninfo=host=127.0.0.1 port={} user={SUPERUSER} password='{PASSWORD}' \
             application_name={name} dbname={SUPERUSER}",
            self.port
        );
        options.settings.push(conninfo);
        self.stop(Stop::Fast);
        let data = tempfile::Builder::new().prefix("egret-pg-").tempdir().unwrap();
        copy_data(self.folder.path(), data.path());
        self.resume();
        Self::begin(options, |_, account, folder| {
            copy_data(data.path(), folder);
            let signal = folder.join("data/standby.signal");
            fs::write(&signal, "").unwrap();
            if let Some(account) = account {
                chown(&signal, Some(account.uid), Some(account.gid)).unwrap();
            }
        })
    }

    /// Starts the server on what `fill` puts into its folder.
    fn begin(options: ClusterOptions, fill: impl FnOnce(&Path, Option<Account>, &Path)) -> Self {
        let binaries = find_binaries();
        let account = unprivileged_account();
        let folder = tempfile::Builder::new().prefix("egret-pg-").tempdir().unwrap();
        if let Some(account) = account {
            chown(folder.path(), Some(account.uid), Some(account.gid)).unwrap();
        }
        fill(&binaries, account, folder.path());
        let server = Mutex::new(None);
        let mut cluster = Self { server, binaries, account, options, port: free_port(), folder };
        for _ in 0..TRIES {
            match cluster.launch() {
                Ok(()) => return cluster,
                Err(log) if log.contains("Address already in use") => {
                    fs::remove_file(cluster.log_path()).unwrap();
                    cluster.port = free_port();
                }
                Err(log) => panic!("PostgreSQL did not start:\n{log}"),
            }
        }
        panic!("no free port for PostgreSQL in {PORTS:?}")
    }

    /// Ends the server, and waits until it has ended.
    pub fn stop(&self, how: Stop) {
        let signal = match how {
            Stop::Fast => Signal::INT,
            Stop::Immediate => Signal::QUIT,
        };
        let mut server = self.server.lock().take().expect("the server is not running");
        let ended = server.end(signal, SERVER_DEADLINE);
        assert!(ended.is_some(), "PostgreSQL did not stop:\n{}", self.log());
    }

    /// Starts the server again after [`Cluster::stop`], on the same port and folder.
    pub fn resume(&self) {
        if let Err(log) = self.launch() {
            panic!("PostgreSQL did not start again:\n{log}");
        }
    }

    /// Stops and starts the server.
    pub fn restart(&self, how: Stop) {
        self.stop(how);
        self.resume();
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Writes a file into the server's data folder, for the server alone to read.
    pub fn write_file(&self, name: &str, content: &str) {
        let path = self.folder.path().join("data").join(name);
        // Made anew, since the server may hold another's to be unsafe.
        let mut file = tempfile::NamedTempFile::new_in(self.folder.path()).unwrap();
        file.write_all(content.as_bytes()).unwrap();
        if let Some(account) = self.account {
            chown(file.path(), Some(account.uid), Some(account.gid)).unwrap();
        }
        file.persist(path).unwrap();
    }

    /// Has the server read its configuration, access rules and certificates again; connections that
    /// are made afterwards know them.
    pub async fn reload(&self) {
        let client = self.connect(SUPERUSER).await;
        let read_at = async || -> String {
            let query = "SELECT pg_conf_load_time()::text";
            client.query_one(query, &[]).await.unwrap().get(0)
        };
        let before = read_at().await;
        client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
        // The one that takes connections has read it before it tells the others.
        poll::until("the configuration is read", async || {
            (read_at().await != before).then_some(())
        })
        .await;
    }

    /// The server's log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// A URL for the superuser.
    pub fn url(&self, database: &str) -> String {
        self.url_as(SUPERUSER, database)
    }

    /// The password of every role here, as statements have it.
    pub fn password() -> &'static str {
        PASSWORD
    }

    /// A URL for any role made with the harness's password.
    pub fn url_as(&self, role: &str, database: &str) -> String {
        let password = PASSWORD.replace(' ', "%20");
        format!("postgres://{role}:{password}@127.0.0.1:{}/{database}", self.port)
    }

    /// Connects as the superuser.
    pub async fn connect(&self, database: &str) -> Client {
        connect(&self.url(database)).await
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    fn launch(&self) -> Result<(), String> {
        let data = self.folder.path().join("data");
        // A folder of the unprivileged user, but a file of ours: opened here, written by the server.
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log_path()).unwrap();
        let mut command = Command::new(self.binaries.join("postgres"));
        command.arg("-D").arg(&data).stdin(Stdio::null()).stdout(log.try_clone().unwrap());
        command.stderr(log).env("LC_ALL", "C").current_dir(self.folder.path());
        for setting in self.settings() {
            command.arg("-c").arg(setting);
        }
        if let Some(account) = self.account {
            account.apply(&mut command);
        }
        let mut server = Guarded::spawn(command, Signal::QUIT, self.folder.path()).unwrap();
        let ready = poll::until_blocking(SERVER_DEADLINE, || {
            if server.try_wait().unwrap().is_some() {
                return Some(false);
            }
            is_ready(&data, server.pid()).then_some(true)
        });
        if ready != Some(true) {
            return Err(self.log());
        }
        *self.server.lock() = Some(server);
        Ok(())
    }

    fn settings(&self) -> Vec<String> {
        let durable = if self.options.fsync { "on" } else { "off" };
        let mut settings = vec![
            format!("port={}", self.port),
            format!("fsync={durable}"),
            format!("full_page_writes={durable}"),
        ];
        settings.extend(
            [
                "listen_addresses=127.0.0.1",
                "unix_socket_directories=",
                "wal_level=logical",
                "max_connections=200",
                "max_wal_senders=100",
                "max_replication_slots=200",
                "shared_buffers=32MB",
                "max_wal_size=1GB",
                "log_min_messages=warning",
                "logging_collector=off",
            ]
            .map(str::to_owned),
        );
        settings.extend(self.options.settings.iter().cloned());
        settings
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.server.lock().take());
        if std::thread::panicking() {
            eprintln!("--- log of PostgreSQL on port {} ---\n{}", self.port, tail(&self.log(), 50));
        }
    }
}

/// A database of one test, on the shared cluster or on one of its own.
#[derive(Debug)]
pub struct Database {
    cluster: Arc<Cluster>,
    name: String,
    client: Client,
}

impl Database {
    /// Makes a database in the shared cluster.
    pub async fn create() -> Self {
        // Starting a cluster takes about a second: not on the runtime's own threads.
        let cluster = tokio::task::spawn_blocking(Cluster::shared).await.unwrap();
        Self::create_on(&cluster).await
    }

    /// Makes a database in a cluster. Its name is unique in this process, so that slots named
    /// after it are unique in the cluster.
    pub async fn create_on(cluster: &Arc<Cluster>) -> Self {
        let name = format!("test_{}", DATABASES.fetch_add(1, Ordering::Relaxed));
        let admin = cluster.connect(SUPERUSER).await;
        let role = format!(
            "DO $$ BEGIN
                 IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{FOLLOWER}') THEN
                     CREATE ROLE {FOLLOWER} LOGIN REPLICATION PASSWORD '{PASSWORD}';
                     GRANT pg_read_all_data TO {FOLLOWER};
                 END IF;
             EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
             END $$"
        );
        admin.batch_execute(&role).await.unwrap();
        // Waits for the template's other users where two tests begin at once.
        admin.batch_execute(&format!("CREATE DATABASE {name} TEMPLATE template0")).await.unwrap();
        let client = cluster.connect(&name).await;
        Self { cluster: Arc::clone(cluster), name, client }
    }

    /// The database of this name, which a standby has from its primary.
    pub async fn of_standby(standby: &Arc<Cluster>, name: &str) -> Self {
        let client = standby.connect(name).await;
        Self { cluster: Arc::clone(standby), name: name.to_owned(), client }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The cluster that it is in.
    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    /// A URL for the superuser.
    pub fn url(&self) -> String {
        self.cluster.url(&self.name)
    }

    /// A URL for a role that may replicate and read all tables, but owns nothing: a publication
    /// must be made for it.
    pub fn follower_url(&self) -> String {
        self.cluster.url_as(FOLLOWER, &self.name)
    }

    /// The superuser's connection.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Another connection as the superuser.
    pub async fn connect(&self) -> Client {
        self.cluster.connect(&self.name).await
    }

    /// Connects anew, after the cluster was stopped.
    pub async fn reconnect(&mut self) {
        self.client = self.connect().await;
    }

    /// Runs statements; several are one transaction.
    pub async fn execute(&self, statements: &str) {
        if let Err(error) = self.client.batch_execute(statements).await {
            panic!("{statements}: {error:?}");
        }
    }

    /// The server's major version.
    pub async fn version(&self) -> i32 {
        let query = "SELECT current_setting('server_version_num')::int4 / 10000";
        self.client.query_one(query, &[]).await.unwrap().get(0)
    }

    /// Whether the server is older than the first version that has what a test needs. Says so where
    /// it is.
    pub async fn lacks(&self, first: i32, what: &str) -> bool {
        let version = self.version().await;
        if version < first {
            poll::report(&format!(
                "skipped: {what} need PostgreSQL {first}, and this is {version}"
            ));
        }
        version < first
    }

    /// The position that a search waits for to see everything committed so far.
    pub async fn flush_lsn(&self) -> String {
        let query = "SELECT pg_current_wal_flush_lsn()::text";
        self.client.query_one(query, &[]).await.unwrap().get(0)
    }
}

/// Connects to a URL; its work goes on in the background until the client is dropped.
pub async fn connect(url: &str) -> Client {
    let (client, connection) = poll::until(&format!("connecting to {url}"), || async {
        tokio_postgres::connect(url, NoTls).await.ok()
    })
    .await;
    tokio::spawn(async move {
        // An error here is the end of a server that a test stopped.
        let _ = connection.await;
    });
    client
}

/// The folder of `initdb` and `postgres`.
pub fn find_binaries() -> PathBuf {
    let complete = |folder: &PathBuf| {
        ["initdb", "postgres"].iter().all(|program| folder.join(program).is_file())
    };
    if let Some(folder) = std::env::var_os("EGRET_PG_BIN").map(PathBuf::from) {
        assert!(complete(&folder), "EGRET_PG_BIN={} has no initdb", folder.display());
        return folder;
    }
    let version = |folder: &PathBuf| {
        folder.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok()).unwrap_or(0)
    };
    let installed = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut folders: Vec<_> = installed.map(|entry| entry.path()).collect();
    folders.sort_by_key(version);
    let newest_first = folders.into_iter().rev().map(|folder| folder.join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    newest_first.chain(std::env::split_paths(&path)).find(complete).expect(
        "PostgreSQL's server programs are missing: run scripts/ensure-postgres.sh, or install the \
         package postgresql, or set EGRET_PG_BIN to the folder of initdb and postgres",
    )
}

/// The account that PostgreSQL runs as where this process is root, which PostgreSQL refuses.
fn unprivileged_account() -> Option<Account> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let accounts = fs::read_to_string("/etc/passwd").unwrap();
    let find = |name: &str| {
        let line = accounts.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut numbers = line.split(':').skip(2).map(|number| number.parse().ok());
        Some(Account { uid: numbers.next()??, gid: numbers.next()?? })
    };
    Some(find("postgres").or_else(|| find("nobody")).expect("no user postgres or nobody"))
}

fn init_database(binaries: &Path, account: Option<Account>, folder: &Path) {
    let password = folder.join("password");
    fs::write(&password, PASSWORD).unwrap();
    let mut command = Command::new(binaries.join("initdb"));
    command.arg("-D").arg(folder.join("data")).arg("--pwfile").arg(&password);
    command.args(["--no-sync", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8"]);
    command.arg(format!("--username={SUPERUSER}"));
    command.env("LC_ALL", "C").current_dir(folder).stdin(Stdio::null());
    if let Some(account) = account {
        chown(&password, Some(account.uid), Some(account.gid)).unwrap();
        account.apply(&mut command);
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
}

/// Copies a stopped server's files, with their owner.
fn copy_data(from: &Path, to: &Path) {
    let mut command = Command::new("cp");
    command.arg("-a").arg(from.join("data")).arg(to.join("data")).stdin(Stdio::null());
    assert!(command.status().unwrap().success(), "cp -a {}", from.display());
}

/// The postmaster says in the eighth line of its pid file when it takes connections.
fn is_ready(data: &Path, pid: u32) -> bool {
    let file = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
    let ours = file.lines().next() == Some(&pid.to_string());
    let status = file.lines().nth(7).map(str::trim);
    ours && matches!(status, Some("ready" | "standby"))
}

fn free_port() -> u16 {
    for _ in 0..TRIES * TRIES {
        let port = rand::rng().random_range(PORTS);
        let taken = TcpStream::connect(("127.0.0.1", port)).is_ok();
        if !taken && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port in {PORTS:?}")
}

/// The last lines of a log.
pub fn tail(log: &str, lines: usize) -> String {
    let all: Vec<_> = log.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
