//! What a pipeline is told: where the database is, which tables to follow, and its limits. Every
//! limit has a name and a default; an unknown option is refused.

mod documents;
mod related;
mod verify;

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::documents::DocumentConfig;
pub(crate) use self::related::exact;
pub use self::related::{RelatedConfig, RelatedKind, ThroughConfig};
pub use self::verify::VerifyConfig;
use crate::error::{Error, ErrorKind, Result};

/// The configuration of one pipeline: one database, one slot, any number of tables.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PipelineConfig {
    /// The pipeline's name: lower-case letters, digits and `_`. Also part of the names of its
    /// slot and publication, and of its folder.
    pub name: String,
    /// `postgres://user:password@host:port/database?sslmode=...`. Beside the driver's parameters
    /// `sslmode` (disable, prefer, require, verify-ca, verify-full), `sslrootcert`, `sslcert` and
    /// `sslkey` are understood.
    pub url: String,
    /// The password, where the URL has none.
    pub password: Option<String>,
    /// A file whose first line is the password, read at each connection.
    pub password_file: Option<PathBuf>,
    /// Which tables: `*`, `schema.*`, `schema.table` or `table` (of `public`). A star stands for
    /// any characters but a dot; a part in double quotes is taken verbatim.
    pub tables: Vec<String>,
    /// What the rows of single tables become. These tables are followed besides those of `tables`,
    /// which may then be empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub documents: Vec<DocumentConfig>,
    /// The replication slot; `egret_<name>` where not given.
    pub slot: Option<String>,
    /// Whether standbys get the slot too, so that one that is promoted can be followed without a new
    /// copy. PostgreSQL 17 and newer.
    pub failover_slot: bool,
    /// The publication; `egret_<name>` where not given. One that exists is used and adjusted.
    pub publication: Option<String>,
    /// How many connections read tables during a copy.
    pub copy_workers: usize,
    /// About how many bytes of documents go into one batch of a copy.
    pub copy_batch_bytes: usize,
    /// Blocks of 8 KiB that one range of a copy covers.
    pub copy_range_blocks: u32,
    /// Bytes of rows that copies read a second, all together; 0 for as many as they can.
    pub copy_max_bytes_per_second: u64,
    /// Bytes of documents that may be with the engine, submitted and not yet applied.
    pub outstanding_bytes: usize,
    /// Batches that may be with the engine, submitted and not yet applied.
    pub outstanding_batches: usize,
    /// Bytes of a transaction's documents that are gathered in memory. What is more waits in a
    /// temporary file in the pipeline's folder.
    pub transaction_buffer_bytes: usize,
    /// Bytes that a transaction's documents may have in all. Past it the tables are copied again,
    /// rather than fill this machine's disk.
    pub max_transaction_bytes: u64,
    /// The largest document. A larger row goes to the dead letters.
    pub max_document_bytes: usize,
    /// Rows of related tables that one document may have. One with more goes to the dead letters.
    pub max_nested_rows: usize,
    /// The largest message that the server may send: one row, whole. PostgreSQL's own limit is
    /// 1 GiB.
    pub max_message_bytes: usize,
    /// How often durable positions are collected and acknowledged to the database, in
    /// milliseconds. The end of a burst is acknowledged sooner, after a fifth of it.
    pub acknowledge_interval_ms: u64,
    /// How often the slot is looked at and the catalog is searched for new tables, in milliseconds.
    pub watch_interval_ms: u64,
    /// How long one attempt to connect may take, in milliseconds.
    pub connect_timeout_ms: u64,
    /// The longest pause between two attempts to connect, in milliseconds. The first is a hundredth
    /// of it, each further one twice the last, all with jitter.
    pub reconnect_max_ms: u64,
    /// The log that the slot may make the database keep. Past it the slot is dropped and the
    /// tables are copied again, rather than fill the database's disk.
    pub max_retained_wal_bytes: u64,
    /// The part of it that tables which are copied beside the stream may make the database keep.
    /// Past it their copy is given up and tried again later; the other tables are not concerned.
    pub max_copy_wal_bytes: u64,
    /// How long the index from before a copy is kept to go back to, in milliseconds; 0 for not at all.
    /// The database keeps the log since then, up to `max_copy_wal_bytes` and no more than half of
    /// `max_retained_wal_bytes`.
    pub keep_replaced_ms: u64,
    /// Open dead letters past which the pipeline stops rather than lose more rows.
    pub max_dead_letters: usize,
    /// How it proves that its indexes are what their tables say.
    pub verify: VerifyConfig,
}

impl Default for PipelineConfig {
    fn default() -> Self {
        Self {
            name: "main".to_owned(),
            url: String::new(),
            password: None,
            password_file: None,
            tables: vec!["*".to_owned()],
            documents: Vec::new(),
            slot: None,
            failover_slot: false,
            publication: None,
            copy_workers: 2,
            copy_batch_bytes: 4 << 20,
            copy_range_blocks: 8192,
            copy_max_bytes_per_second: 0,
            outstanding_bytes: 64 << 20,
            outstanding_batches: 4096,
            transaction_buffer_bytes: 32 << 20,
            max_transaction_bytes: 16 << 30,
            max_document_bytes: 32 << 20,
            max_nested_rows: 10_000,
            max_message_bytes: 1 << 30,
            acknowledge_interval_ms: 1000,
            watch_interval_ms: 5000,
            connect_timeout_ms: 10_000,
            reconnect_max_ms: 30_000,
            max_retained_wal_bytes: 10 << 30,
            max_copy_wal_bytes: 8 << 30,
            keep_replaced_ms: 600_000,
            max_dead_letters: 100_000,
            verify: VerifyConfig::default(),
        }
    }
}

/// Shows everything but the credentials.
impl std::fmt::Debug for PipelineConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PipelineConfig")
            .field("name", &self.name)
            .field("tables", &self.tables)
            .field("slot", &self.slot_name())
            .field("publication", &self.publication_name())
            .finish_non_exhaustive()
    }
}

impl PipelineConfig {
    /// The slot's name.
    pub fn slot_name(&self) -> String {
        self.slot.clone().unwrap_or_else(|| format!("egret_{}", self.name))
    }

    /// The publication's name.
    pub fn publication_name(&self) -> String {
        self.publication.clone().unwrap_or_else(|| format!("egret_{}", self.name))
    }

    /// Refuses what cannot work, with the option's name.
    pub fn validate(&self) -> Result<()> {
        let refuse = |message: String| Err(Error::new(ErrorKind::Invalid, message));
        check_identifier("name", &self.name)?;
        check_identifier("slot", &self.slot_name())?;
        let publication = self.publication_name();
        // PostgreSQL passes publications to the stream as one comma-separated list.
        let bad = |byte: char| byte == ',' || byte.is_whitespace() || byte.is_control();
        if publication.is_empty() || publication.len() > 63 || publication.contains(bad) {
            return refuse(format!(
                "publication [{publication}] is empty, too long, or has a comma or white space"
            ));
        }
        documents::validate_all(&self.documents)?;
        if self.tables.is_empty() && self.documents.is_empty() {
            return refuse("tables is empty: name tables, or `*` for all".to_owned());
        }
        let positive = [
            ("copy_workers", self.copy_workers as u64),
            ("copy_batch_bytes", self.copy_batch_bytes as u64),
            ("copy_range_blocks", u64::from(self.copy_range_blocks)),
            ("outstanding_bytes", self.outstanding_bytes as u64),
            ("outstanding_batches", self.outstanding_batches as u64),
            ("transaction_buffer_bytes", self.transaction_buffer_bytes as u64),
            ("max_transaction_bytes", self.max_transaction_bytes),
            ("max_document_bytes", self.max_document_bytes as u64),
            ("max_nested_rows", self.max_nested_rows as u64),
            ("max_message_bytes", self.max_message_bytes as u64),
            ("acknowledge_interval_ms", self.acknowledge_interval_ms),
            ("watch_interval_ms", self.watch_interval_ms),
            ("connect_timeout_ms", self.connect_timeout_ms),
            ("reconnect_max_ms", self.reconnect_max_ms),
            ("max_retained_wal_bytes", self.max_retained_wal_bytes),
            ("max_copy_wal_bytes", self.max_copy_wal_bytes),
        ];
        for (name, value) in positive.into_iter().chain(self.verify.positive()) {
            if value == 0 {
                return refuse(format!("{name} must be above 0"));
            }
        }
        Ok(())
    }

    pub(crate) fn acknowledge_interval(&self) -> Duration {
        Duration::from_millis(self.acknowledge_interval_ms)
    }

    pub(crate) fn watch_interval(&self) -> Duration {
        Duration::from_millis(self.watch_interval_ms)
    }

    pub(crate) fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.connect_timeout_ms)
    }

    pub(crate) fn reconnect_max(&self) -> Duration {
        Duration::from_millis(self.reconnect_max_ms)
    }
}

/// Names that stand unquoted in replication commands: what PostgreSQL allows for slots.
fn check_identifier(option: &str, value: &str) -> Result<()> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if (1..=63).contains(&value.len()) && value.bytes().all(allowed) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Invalid,
        format!("{option} [{value}] must be 1 to 63 lower-case letters, digits and underscores"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_cannot_work() {
        let check = |change: fn(&mut PipelineConfig), expected: &str| {
            let mut config = PipelineConfig::default();
            change(&mut config);
            let error = config.validate().unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        };
        check(|config| config.name = "Main".to_owned(), "name [Main]");
        check(|config| config.name.clear(), "name []");
        check(|config| config.slot = Some("a-b".to_owned()), "slot [a-b]");
        check(|config| config.publication = Some("a,b".to_owned()), "publication [a,b]");
        check(|config| config.tables.clear(), "tables");
        check(|config| config.copy_workers = 0, "copy_workers");
        check(|config| config.verify.range_rows = 0, "verify.range_rows");
        PipelineConfig::default().validate().unwrap();
    }

    #[test]
    fn unknown_options_are_refused() {
        let error = serde_json::from_str::<PipelineConfig>(r#"{"tabels": ["a"]}"#).unwrap_err();
        assert!(error.to_string().contains("tabels"), "{error}");
    }

    #[test]
    fn debug_shows_no_credentials() {
        let config = PipelineConfig {
            url: "postgres://u:hunter2@h/d".to_owned(),
            password: Some("hunter2".to_owned()),
            ..PipelineConfig::default()
        };
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
