//! Connections to the database: one to ask and read tables with, one to follow the log with. Both
//! use the same TLS and carry the same pinned session settings, since a database's own settings
//! would change how values are written, and differently in a copy than in the stream.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use egret_engine::Lsn;
use pgwire_replication::{PgWireError, ReplicationClient, ReplicationConfig, TlsConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::AbortHandle;
use tokio_postgres::config::Host;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, NoTls, Row};

use crate::config::PipelineConfig;
use crate::error::{Error, ErrorKind, Result, with_causes};
use crate::remedy::{Login, PasswordSource};
use crate::tls::Tls;

/// What a role or a database may be set to, and must not be here: settings that decide how values are
/// written as text, how names are read and who is asked; that rows which a policy hides are an error
/// rather than left out; and limits that would end a long copy, or a session that has nothing to say.
const SESSION_SETTINGS: &str = "-c DateStyle=ISO -c TimeZone=UTC -c IntervalStyle=iso_8601 \
    -c extra_float_digits=1 -c bytea_output=hex -c lc_monetary=C -c search_path=pg_catalog \
    -c row_security=off -c role=none -c default_transaction_read_only=off \
    -c default_transaction_isolation=read\\ committed -c idle_in_transaction_session_timeout=0";

/// A limit that must not end a long copy, and that short questions may have.
const PATIENCE: &str = "-c statement_timeout=0";

/// Likewise, where the server is one that has them: another would take no session with such options.
const UNLIMITED: &str = "
    SELECT pg_catalog.set_config(name, '0', false)
    FROM (VALUES ('transaction_timeout'), ('idle_session_timeout')) AS limits (name)
    WHERE pg_catalog.current_setting(name, true) <> '0'";

/// Has no statement of a session take longer than so many milliseconds.
const LIMIT: &str = "
    SELECT pg_catalog.set_config(name, $1, false) FROM pg_catalog.pg_settings
    WHERE name = 'statement_timeout' AND setting::int8 NOT BETWEEN 1 AND $1::text::int8";

/// How often a standby status may be sent, which is also the longest that a raised position waits.
const STATUS_INTERVAL: Duration = Duration::from_millis(100);

/// Events that may wait between the driver and us: few, since one may be a whole large row.
const BUFFERED_EVENTS: usize = 64;

/// The parameters of a URL that are the driver's to read.
const DRIVER_PARAMETERS: &[&str] =
    &["user", "password", "host", "port", "dbname", "options", "application_name"];

/// A session that follows the log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Session<'a> {
    /// The slot.
    pub(crate) slot: &'a str,
    /// Transactions that end at or below this are not sent.
    pub(crate) start: Lsn,
    /// What the server is told at first to be durable.
    pub(crate) acknowledged: Lsn,
}

/// Where the database is and how to sign in.
#[derive(Clone)]
pub(crate) struct Source {
    driver: tokio_postgres::Config,
    /// The session's options of those who only ask short questions.
    hurried: String,
    host: String,
    port: u16,
    login: Arc<Login>,
    tls: Tls,
    password: Option<String>,
    password_file: Option<PathBuf>,
    connect_timeout: Duration,
    max_message_bytes: usize,
    publication: String,
}

/// A connection to ask with; cut off when dropped.
pub(crate) struct Control {
    client: Client,
    connection: CutOff,
    timeout: Duration,
    login: Arc<Login>,
}

/// Ends the task of a connection.
struct CutOff(AbortHandle);

impl Drop for CutOff {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Source {
    /// Reads the connection URL.
    pub(crate) fn parse(config: &PipelineConfig) -> Result<Self> {
        if !config.url.starts_with("postgres://") && !config.url.starts_with("postgresql://") {
            return Err(invalid("the connection URL must begin with postgres://"));
        }
        let (url, tls) = Tls::split(&config.url)?;
        refuse_unheeded(&url)?;
        let mut driver: tokio_postgres::Config =
            url.parse().map_err(|error: tokio_postgres::Error| {
                let reason = with_causes(&error);
                let message = format!("the connection URL is not understood: {reason}");
                Error::new(ErrorKind::Invalid, message).with_source(error)
            })?;
        let host = match driver.get_hosts() {
            [Host::Tcp(host)] => host.clone(),
            [Host::Unix(path)] => path.to_string_lossy().into_owned(),
            [] => "localhost".to_owned(),
            _ => return Err(invalid("the connection URL names more than one host")),
        };
        let port = match driver.get_ports() {
            [] => 5432,
            [port] => *port,
            _ => return Err(invalid("the connection URL names more than one port")),
        };
        let user = driver.get_user().ok_or_else(|| invalid("the connection URL names no user"))?;
        let user = user.to_owned();
        let database = driver.get_dbname().unwrap_or(&user).to_owned();
        let in_url = driver.get_password().map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        let own = driver.get_options().map(|own| format!("{own} ")).unwrap_or_default();
        // What another has locked for longer is that table's trouble alone: where the server said
        // nothing, the whole session would be given up.
        let lock_timeout = config.connect_timeout_ms;
        let options = format!("{own}{SESSION_SETTINGS} -c lock_timeout={lock_timeout}");
        let from = match (&config.password_file, &in_url, &config.password) {
            (Some(file), _, _) => PasswordSource::File(file.clone()),
            (_, Some(_), _) => PasswordSource::Url,
            (_, _, Some(_)) => PasswordSource::Configuration,
            _ => PasswordSource::Nowhere,
        };
        let login = Login { user, database: database.clone(), password: from };
        if driver.get_application_name().is_none() {
            driver.application_name(format!("egret {}", config.name));
        }
        driver
            .dbname(&database)
            .options(format!("{options} {PATIENCE}"))
            .ssl_mode(tokio_postgres::config::SslMode::Disable);
        Ok(Self {
            hurried: options,
            driver,
            host,
            port,
            login: Arc::new(login),
            tls,
            password: in_url.or_else(|| config.password.clone()),
            password_file: config.password_file.clone(),
            connect_timeout: config.connect_timeout(),
            max_message_bytes: config.max_message_bytes,
            publication: config.publication_name(),
        })
    }

    /// Connects to ask.
    pub(crate) async fn control(&self) -> Result<Control> {
        self.control_with(&self.driver).await
    }

    /// Connects to ask questions that may each take so long, or less where the role or the database
    /// are told so.
    pub(crate) async fn hurried_control(&self, longest: Duration) -> Result<Control> {
        let mut driver = self.driver.clone();
        driver.options(&self.hurried);
        let control = self.control_with(&driver).await?;
        let millis = longest.as_millis().to_string();
        control.rows("limiting the time of statements", LIMIT, &[&millis]).await?;
        Ok(control)
    }

    async fn control_with(&self, driver: &tokio_postgres::Config) -> Result<Control> {
        let connecting = async { self.open(driver).await.map_err(|error| self.told(error)) };
        let (client, connection) =
            within(self.connect_timeout, "connecting", Box::pin(connecting)).await?;
        let control = Control {
            client,
            connection: CutOff(connection),
            timeout: self.connect_timeout.saturating_mul(3),
            login: Arc::clone(&self.login),
        };
        control.rows("connecting", UNLIMITED, &[]).await?;
        Ok(control)
    }

    /// Says where a connection failed, and what to do about it.
    fn told(&self, error: Error) -> Error {
        let Self { host, port, login, .. } = self;
        let Login { user, database, .. } = &**login;
        let place = format!("connecting to [{host}:{port}] as [{user}], database [{database}]");
        login.explain(error.context(place))
    }

    async fn open(&self, driver: &tokio_postgres::Config) -> Result<(Client, AbortHandle)> {
        let mut driver = driver.clone();
        if let Some(password) = self.current_password()? {
            driver.password(password);
        }
        if self.host.starts_with('/') {
            if self.tls.mode.requires_tls() {
                return Err(invalid("sslmode asks for TLS, which a Unix socket does not have"));
            }
            let path = format!("{}/.s.PGSQL.{}", self.host, self.port);
            let stream = UnixStream::connect(&path).await.map_err(|error| {
                Error::new(ErrorKind::Unavailable, format!("cannot connect to [{path}]: {error}"))
            })?;
            return handshake(&driver, stream).await;
        }
        let stream =
            TcpStream::connect((self.host.as_str(), self.port)).await.map_err(|error| {
                let place = format!("{}:{}", self.host, self.port);
                Error::new(ErrorKind::Unavailable, format!("cannot connect to [{place}]: {error}"))
            })?;
        stream.set_nodelay(true)?;
        let stream = self.tls.upgrade(stream, &self.host).await?;
        handshake(&driver, stream).await
    }

    /// Connects to follow the log; nothing is sent before the caller starts it.
    pub(crate) async fn replication(&self, session: Session<'_>) -> Result<ReplicationClient> {
        let publication = quote_identifier(&self.publication);
        // A new slot waits for every transaction that runs.
        let options = self.driver.get_options().unwrap_or(&self.hurried);
        let options = format!("{options} -c lock_timeout=0");
        let config = ReplicationConfig::new(
            &self.host,
            &self.login.user,
            self.current_password()?.unwrap_or_default(),
            &self.login.database,
            session.slot,
            publication.as_str(),
        )
        .with_port(self.port)
        .with_tls(if self.host.starts_with('/') {
            TlsConfig::disabled()
        } else {
            self.tls.for_driver(&self.host)
        })
        .with_start_lsn(pgwire_replication::Lsn(session.start.0))
        .with_ack_lsn(pgwire_replication::Lsn(session.acknowledged.0))
        .with_status_interval(STATUS_INTERVAL)
        .with_buffer_size(BUFFERED_EVENTS)
        .with_max_message_size(self.max_message_bytes)
        .with_options(options)
        .with_application_name(self.driver.get_application_name().unwrap_or("egret"));
        if self.host.starts_with('/') && self.tls.mode.requires_tls() {
            return Err(invalid("sslmode asks for TLS, which a Unix socket does not have"));
        }
        let doing = "opening a replication session";
        let opening = async {
            let opened = async {
                let mut client = ReplicationClient::connect_gated(config).await?;
                client.simple_query(UNLIMITED).await?;
                Ok(client)
            };
            opened.await.map_err(|error: PgWireError| Error::from(error).context(doing))
        };
        let opened = within(self.connect_timeout, doing, opening).await;
        opened.map_err(|error| self.told(error))
    }

    /// How long an attempt to connect may take.
    pub(crate) fn connect_timeout(&self) -> Duration {
        self.connect_timeout
    }

    /// The database's name.
    pub(crate) fn database(&self) -> &str {
        &self.login.database
    }

    fn current_password(&self) -> Result<Option<String>> {
        let Some(path) = &self.password_file else { return Ok(self.password.clone()) };
        let text = std::fs::read_to_string(path).map_err(|error| {
            let place = path.display();
            Error::new(ErrorKind::Io, format!("cannot read password_file [{place}]: {error}"))
        })?;
        Ok(text.lines().next().map(str::to_owned))
    }
}

impl Control {
    /// The driver's client.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// The role that asks.
    pub(crate) fn user(&self) -> &str {
        &self.login.user
    }

    /// The rows of a query.
    pub(crate) async fn rows(
        &self,
        doing: &str,
        query: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>> {
        self.ask(doing, self.client.query(query, parameters)).await
    }

    /// The one row of a query.
    pub(crate) async fn row(
        &self,
        doing: &str,
        query: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Row> {
        self.ask(doing, self.client.query_one(query, parameters)).await
    }

    /// Runs statements that answer nothing.
    pub(crate) async fn execute(&self, doing: &str, statements: &str) -> Result<()> {
        self.ask(doing, self.client.batch_execute(statements)).await
    }

    /// Takes leave in the protocol's way, which the server's log does not mention.
    pub(crate) fn end(self) {
        drop(self.client);
        std::mem::forget(self.connection);
    }

    /// Awaits an answer, but not for ever: a half-open connection never answers.
    pub(crate) async fn ask<T>(
        &self,
        doing: &str,
        answer: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T> {
        let told = |error| self.login.explain(Error::from(error).context(doing));
        let answer = async { answer.await.map_err(told) };
        within(self.timeout, doing, answer).await
    }
}

/// Shows where, never the password.
impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("login", &self.login)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").finish_non_exhaustive()
    }
}

/// Gives up on what takes longer than `limit`.
pub(crate) async fn within<T>(
    limit: Duration,
    doing: &str,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
        let message = format!("{doing}: no answer within {} ms", limit.as_millis());
        Err(Error::new(ErrorKind::Unavailable, message))
    })
}

async fn handshake<S>(driver: &tokio_postgres::Config, stream: S) -> Result<(Client, AbortHandle)>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (client, connection) = driver.connect_raw(stream, NoTls).await?;
    let task = tokio::spawn(async move {
        // A broken connection shows at the next question.
        let _ = connection.await;
    });
    Ok((client, task.abort_handle()))
}

/// An identifier in double quotes, safe in any statement.
pub(crate) fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text in single quotes, safe in any statement whatever `standard_conforming_strings` says.
pub(crate) fn quote_literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') {
        return format!(" E'{}'", quoted.replace('\\', "\\\\"));
    }
    format!("'{quoted}'")
}

/// The driver knows more parameters, which both connections would not heed alike.
fn refuse_unheeded(url: &str) -> Result<()> {
    let query = url.split_once('?').map_or("", |(_, query)| query);
    let names = query.split('&').map(|pair| pair.split_once('=').map_or(pair, |(name, _)| name));
    match names.filter(|name| !name.is_empty()).find(|name| !DRIVER_PARAMETERS.contains(name)) {
        Some(name) => {
            let message = format!("the connection URL's parameter [{name}] is not understood");
            Err(invalid(&message))
        }
        None => Ok(()),
    }
}

fn invalid(message: &str) -> Error {
    Error::new(ErrorKind::Invalid, message)
}

#[cfg(test)]
mod tests {
    use pgwire_replication::SslMode;

    use super::*;

    fn parse(url: &str) -> Result<Source> {
        Source::parse(&PipelineConfig { url: url.to_owned(), ..PipelineConfig::default() })
    }

    #[test]
    fn urls() {
        let source = parse(
            "postgres://ada:pa%20ss@db.example:5433/shop?sslmode=verify-full&sslrootcert=/a%20b",
        )
        .unwrap();
        assert_eq!(
            (source.host.as_str(), source.port, source.login.user.as_str(), source.database()),
            ("db.example", 5433, "ada", "shop")
        );
        assert_eq!(source.password.as_deref(), Some("pa ss"));
        assert_eq!(source.tls.mode, SslMode::VerifyFull);
        assert!(source.driver.get_options().unwrap().contains("TimeZone=UTC"));

        let named =
            |url: &str| parse(url).unwrap().driver.get_application_name().map(str::to_owned);
        assert_eq!(named("postgres://a@b/c").as_deref(), Some("egret main"));
        assert_eq!(named("postgres://a@b/c?application_name=bird").as_deref(), Some("bird"));

        let source = parse("postgresql://ada@%2Frun%2Fpg/").unwrap();
        assert_eq!((source.host.as_str(), source.database()), ("/run/pg", "ada"));
        assert_eq!(source.tls.mode, SslMode::Prefer);
    }

    #[test]
    fn bad_urls_are_refused() {
        let check = |url: &str, expected: &str| {
            let error = parse(url).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.to_string().contains(expected), "{url}: {error}");
        };
        check("mysql://a@b/c", "postgres://");
        check("postgres://b/c", "no user");
        check("postgres://a@b,c/d", "more than one host");
        check("postgres://a@b/c?sslmode=maybe", "sslmode [maybe]");
        check("postgres://a@b/c?sslcert=x", "sslkey");
        check("postgres://a@b:1,d:2/c", "more than one host");
        check("postgres://a@b/c?host=d", "more than one host");
        check("postgres://a@b:1/c?port=2", "more than one port");
        for (name, value) in [
            ("colour", "red"),
            ("hostaddr", "127.0.0.1"),
            ("target_session_attrs", "read-write"),
            ("load_balance_hosts", "random"),
            ("connect_timeout", "1"),
            ("channel_binding", "require"),
        ] {
            let expected = format!("parameter [{name}] is not understood");
            check(&format!("postgres://a@b/c?{name}={value}"), &expected);
        }
    }

    #[test]
    fn quoting() {
        assert_eq!(quote_identifier("a\"B c"), "\"a\"\"B c\"");
        assert_eq!(quote_literal("it's"), "'it''s'");
        assert_eq!(quote_literal("a\\b'"), " E'a\\\\b'''");
    }
}
