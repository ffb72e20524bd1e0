//! The real `egret` program under test: built once, started on a free port, killed, started again
//! on the same folder, and spoken to over HTTP.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use reqwest::Method;
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::names::Names;
use crate::poll;
use crate::postgres::tail;
use crate::process::Guarded;

/// What the program prints when it listens.
const LISTENING: &str = "egret listening on http://";

/// How long it may take to start or stop.
const PROGRAM_DEADLINE: Duration = Duration::from_secs(60);

/// What the program is started with.
#[derive(Debug, Clone, Default)]
pub struct EgretOptions {
    /// The configuration file, in TOML; empty: none.
    pub configuration: String,
    /// More arguments of `egret serve`.
    pub arguments: Vec<String>,
    /// Environment variables.
    pub environment: Vec<(String, String)>,
    /// Where its hosts are looked up, in the place of the machine's own file and of DNS.
    pub names: Option<Names>,
}

impl EgretOptions {
    /// Follows tables, separated by commas, of a database. The slot is named after the database,
    /// since slots belong to the whole cluster, which tests share.
    pub fn following(url: impl AsRef<str>, tables: &str) -> Self {
        let url = url.as_ref();
        let database = url.rsplit('/').next().unwrap_or_default();
        let tables: Vec<_> = tables.split(',').collect();
        let configuration = format!(
            "[[pipelines]]\nurl = {url:?}\ntables = {tables:?}\nslot = \"egret_{database}\"\n"
        );
        Self { configuration, ..Self::default() }
    }

    /// Adds an option of the pipeline, after [`EgretOptions::following`]: `copy_workers`, `1`.
    #[must_use]
    pub fn with(mut self, option: &str, value: &str) -> Self {
        self.configuration.extend([option, " = ", value, "\n"]);
        self
    }

    /// Adds an argument and its value.
    #[must_use]
    pub fn with_argument(mut self, argument: &str, value: &str) -> Self {
        self.arguments.extend([argument.to_owned(), value.to_owned()]);
        self
    }
}

/// A data folder and the program that serves it, or served it last.
#[derive(Debug)]
pub struct Egret {
    process: Option<Guarded>,
    options: EgretOptions,
    address: String,
    log: Arc<Mutex<String>>,
    /// The threads that read what it prints.
    readers: Vec<JoinHandle<()>>,
    client: reqwest::Client,
    folder: TempDir,
}

/// An answer over HTTP.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body as it came.
    pub text: String,
    /// The body as JSON; `Null` where it is none.
    pub body: Value,
}

impl Answer {
    /// The body of a successful answer.
    pub fn ok(self) -> Value {
        assert!((200..300).contains(&self.status), "{}: {}", self.status, self.text);
        self.body
    }

    /// A header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

impl Egret {
    /// Starts the program on a new folder.
    pub fn start(options: EgretOptions) -> Self {
        let mut egret = Self::prepared(options);
        egret.resume();
        egret
    }

    /// Starts the program on a folder whose subfolder `data` may already hold data.
    pub fn start_on(folder: TempDir, options: EgretOptions) -> Self {
        let mut egret = Self::not_started(folder, options);
        egret.resume();
        egret
    }

    /// A new folder for a program that is started later.
    pub fn prepared(options: EgretOptions) -> Self {
        let folder = tempfile::Builder::new().prefix("egret-data-").tempdir().unwrap();
        Self::not_started(folder, options)
    }

    fn not_started(folder: TempDir, options: EgretOptions) -> Self {
        let log = Arc::new(Mutex::new(String::new()));
        // Servers under test are on this machine: no proxy of the environment is asked.
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let (address, readers) = (String::new(), Vec::new());
        Self { process: None, options, address, log, readers, client, folder }
    }

    /// Waits until everything is read that a program printed which has ended.
    fn read_to_end(&mut self) {
        let readers = &self.readers;
        poll::until_blocking(PROGRAM_DEADLINE, || {
            readers.iter().all(JoinHandle::is_finished).then_some(())
        });
        self.readers.clear();
    }

    /// Starts the program again after it ended. Its address changes.
    pub fn resume(&mut self) {
        if let Err(status) = self.try_resume() {
            panic!("egret ended with {status} before it listened:\n{}", self.log());
        }
    }

    /// As [`Egret::resume`], for a start that may be refused: then its exit status.
    pub fn try_resume(&mut self) -> Result<(), ExitStatus> {
        assert!(self.process.is_none(), "egret is still running");
        let mut command = match &self.options.names {
            Some(names) => names.command(program()),
            None => Command::new(program()),
        };
        command.arg("serve").arg("--data").arg(self.folder());
        command.args(["--listen", "127.0.0.1:0"]);
        if !self.options.configuration.is_empty() {
            let file = self.folder.path().join("egret.toml");
            std::fs::write(&file, &self.options.configuration).unwrap();
            command.arg("--config").arg(file);
        }
        command.args(&self.options.arguments).envs(self.options.environment.iter().cloned());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = Guarded::spawn(command, Signal::KILL, self.folder.path()).unwrap();
        let address = Arc::new(OnceLock::new());
        let output = process.child().stdout.take().unwrap();
        self.capture(output, Some(Arc::clone(&address)));
        let errors = process.child().stderr.take().unwrap();
        self.capture(errors, None);
        let started = poll::until_blocking(PROGRAM_DEADLINE, || {
            let ended = process.try_wait().unwrap().map(Err);
            address.get().cloned().map(Ok).or(ended)
        });
        match started {
            Some(Ok(address)) => self.address = address,
            Some(Err(status)) => {
                self.read_to_end();
                return Err(status);
            }
            None => panic!("egret does not listen after {PROGRAM_DEADLINE:?}:\n{}", self.log()),
        }
        self.process = Some(process);
        Ok(())
    }

    /// Ends the program with `kill -9`.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("egret is not running");
        process.end(Signal::KILL, PROGRAM_DEADLINE).expect("SIGKILL ends a process");
        self.read_to_end();
    }

    /// Asks the program to end (SIGTERM), and returns its exit status.
    pub fn terminate(&mut self) -> ExitStatus {
        let mut process = self.process.take().expect("egret is not running");
        let ended = process.end(Signal::TERM, PROGRAM_DEADLINE);
        let ended = ended.unwrap_or_else(|| panic!("egret ignores SIGTERM:\n{}", self.log()));
        self.read_to_end();
        ended
    }

    /// Waits until it has ended by itself, and returns its exit status.
    pub fn wait_for_end(&mut self) -> ExitStatus {
        let mut process = self.process.take().expect("egret is not running");
        let ended = process.wait(PROGRAM_DEADLINE);
        let ended = ended.unwrap_or_else(|| panic!("egret does not end:\n{}", self.log()));
        self.read_to_end();
        ended
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("egret is not running").pid()
    }

    /// Whether it runs.
    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| matches!(process.try_wait(), Ok(None)))
    }

    /// The arguments of the next start.
    pub fn options_mut(&mut self) -> &mut EgretOptions {
        &mut self.options
    }

    /// The data folder.
    pub fn folder(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Everything that it printed since it was first started.
    pub fn log(&self) -> String {
        self.log.lock().clone()
    }

    /// A URL of a path, which begins with a slash.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Sends a request; `None` where no answer came.
    pub async fn try_request(&self, method: Method, path: &str, body: &Value) -> Option<Answer> {
        let request = self.client.request(method, self.url(path));
        let request = if body.is_null() { request } else { request.json(body) };
        self.answer(request).await
    }

    /// Sends a request with a body as it is.
    pub async fn send(&self, method: Method, path: &str, kind: &str, body: String) -> Answer {
        let request = self.client.request(method.clone(), self.url(path));
        let request = request.header("content-type", kind).body(body);
        let answer = self.answer(request).await;
        answer.unwrap_or_else(|| panic!("no answer to {method} {path}"))
    }

    /// Sends a request with a JSON body, or none where it is `Null`.
    pub async fn request(&self, method: Method, path: &str, body: &Value) -> Answer {
        let answer = self.try_request(method.clone(), path, body).await;
        answer.unwrap_or_else(|| panic!("no answer to {method} {path}"))
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Answer {
        self.request(Method::GET, path, &Value::Null).await
    }

    /// PUT.
    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.request(Method::PUT, path, body).await
    }

    /// POST.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.request(Method::POST, path, body).await
    }

    /// DELETE.
    pub async fn delete(&self, path: &str) -> Answer {
        self.request(Method::DELETE, path, &Value::Null).await
    }

    /// `_bulk` with the given lines.
    pub async fn bulk(&self, path: &str, lines: &[Value]) -> Answer {
        let mut body = String::new();
        for line in lines {
            body.push_str(&line.to_string());
            body.push('\n');
        }
        self.send(Method::POST, path, "application/x-ndjson", body).await
    }

    /// A search that must succeed.
    pub async fn search(&self, index: &str, body: &Value) -> Value {
        self.post(&format!("/{index}/_search"), body).await.ok()
    }

    /// How many documents an index has; `None` where it is not there.
    pub async fn count(&self, index: &str) -> Option<u64> {
        let path = format!("/{index}/_count");
        let answer = self.try_request(Method::GET, &path, &Value::Null).await?;
        if answer.status == 200 { answer.body["count"].as_u64() } else { None }
    }

    async fn answer(&self, request: reqwest::RequestBuilder) -> Option<Answer> {
        let response = request.send().await.ok()?;
        let status = response.status().as_u16();
        let text_of = |value: &reqwest::header::HeaderValue| {
            String::from_utf8_lossy(value.as_bytes()).into_owned()
        };
        let headers = response.headers();
        let headers = headers.iter().map(|(k, v)| (k.as_str().to_owned(), text_of(v))).collect();
        let text = response.text().await.ok()?;
        let body = serde_json::from_str(&text).unwrap_or_default();
        Some(Answer { status, headers, text, body })
    }

    /// Gathers what the program prints, and tells its address when it appears.
    fn capture(
        &mut self,
        output: impl Read + Send + 'static,
        address: Option<Arc<OnceLock<String>>>,
    ) {
        let log = Arc::clone(&self.log);
        let keep = move |line: String| {
            if let (Some(address), Some((_, rest))) = (&address, line.split_once(LISTENING)) {
                let _ = address.set(rest.trim().to_owned());
            }
            // Guards the text alone; nothing else is done under it.
            log.lock().extend([line.as_str(), "\n"]);
        };
        self.readers.push(std::thread::spawn(move || {
            BufReader::new(output).lines().map_while(Result::ok).for_each(keep);
        }));
    }
}

impl Drop for Egret {
    fn drop(&mut self) {
        drop(self.process.take());
        if std::thread::panicking() {
            eprintln!("--- log of egret ---\n{}", tail(&self.log(), 100));
        }
    }
}

/// The program of the tests' own build profile, built at its first use. `EGRET_BIN` names another.
pub fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        if let Some(path) = std::env::var_os("EGRET_BIN") {
            return PathBuf::from(path);
        }
        // A test is <target>/<profile>/deps/<name>, a program <target>/<profile>/<name>.
        let this = std::env::current_exe().unwrap();
        let folder = this.parent().unwrap();
        let in_deps = folder.ends_with("deps");
        let profile_folder = if in_deps { folder.parent().unwrap() } else { folder }.to_owned();
        let name = profile_folder.file_name().unwrap();
        let profile = if name == "debug" { "dev".into() } else { name.to_owned() };
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
        let mut build = Command::new(cargo);
        // The whole workspace's features, as `cargo test --workspace` has built them.
        build.args(["build", "--locked", "--workspace", "--bin", "egret"]);
        build.arg("--profile").arg(profile).arg("--target-dir");
        build.arg(profile_folder.parent().unwrap());
        // What cargo tells a test of its package would make build scripts that look at it run anew,
        // and with them everything that depends on their crates.
        let of_package = |name: &str| {
            ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|prefix| name.starts_with(prefix))
        };
        for (name, _) in std::env::vars().filter(|(name, _)| of_package(name)) {
            build.env_remove(name);
        }
        build.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).stdin(Stdio::null());
        let output = build.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        profile_folder.join("egret")
    })
}
