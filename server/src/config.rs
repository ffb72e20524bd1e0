//! The configuration: a TOML file, the command line and the environment into one checked value.
//!
//! `egret.default.toml` documents every option; a test holds it against [`Config::default`].

use std::path::{Path, PathBuf};
use std::time::Duration;

use egret_cdc::PipelineConfig;
use egret_engine::Limits;
use egret_results::{FsyncPolicy, Options};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};

/// The documented defaults, as a file.
pub const DEFAULT_FILE: &str = include_str!("../egret.default.toml");

/// Everything that can be set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The folder of everything that Egret keeps.
    pub data: PathBuf,
    /// Pipelines that may be declared in all.
    pub max_pipelines: usize,
    /// Requests and what they may weigh.
    pub http: HttpConfig,
    /// How much happens at once.
    pub pools: PoolsConfig,
    /// The engine's limits.
    pub engine: EngineConfig,
    /// The limits of searches.
    pub search: SearchConfig,
    /// The limits of tasks.
    pub tasks: TasksConfig,
    /// The result cache.
    pub cache: CacheConfig,
    /// The history of Egret's own statistics.
    pub metrics: MetricsConfig,
    /// Databases to follow.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pipelines: Vec<PipelineConfig>,
}

/// Requests and what they may weigh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpConfig {
    /// Where to listen.
    pub listen: String,
    /// The cluster's name.
    pub cluster_name: String,
    /// The node's name.
    pub node_name: String,
    /// Connections at once; others wait to be accepted.
    pub max_connections: usize,
    /// Bytes of one request's body.
    pub max_body_bytes: usize,
    /// Bytes of all bodies in progress.
    pub max_bodies_bytes: usize,
    /// How long a stop waits for requests in progress.
    pub shutdown_timeout_ms: u64,
}

/// How much happens at once, and how much may wait, by kind of work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PoolsConfig {
    /// Searches at once; 0: one a processor.
    pub search_threads: usize,
    /// Searches that may wait.
    pub search_queue: usize,
    /// Writes at once.
    pub write_threads: usize,
    /// Writes that may wait.
    pub write_queue: usize,
    /// Reads by id at once.
    pub read_threads: usize,
    /// Reads by id that may wait.
    pub read_queue: usize,
    /// Changes of indexes at once.
    pub manage_threads: usize,
    /// Changes of indexes that may wait.
    pub manage_queue: usize,
}

/// The engine's limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EngineConfig {
    /// Memory that all writers share.
    pub indexing_budget_bytes: usize,
    /// Merges of young segments at once, over all indexes.
    pub max_small_merges: usize,
    /// Merges of large segments at once, over all indexes.
    pub max_large_merges: usize,
    /// Bytes a second that large merges may write, all together; 0: as fast as they can.
    pub max_merge_bytes_per_second: u64,
    /// An index's segments that wait to be merged; past it writes to it wait.
    pub segments_before_wait: usize,
    /// Past this they are refused.
    pub segments_before_refusal: usize,
    /// Writers of indexes that have a thread at once.
    pub max_open_writers: usize,
    /// How long a write waits at most: for merges, for memory, for its index's writer.
    pub max_write_wait_ms: u64,
    /// How long the folder from before a rebuild is kept, unless the request says otherwise.
    pub keep_rebuilt_ms: u64,
    /// Deleting or closing indexes by a pattern or `_all` is refused
    /// (`action.destructive_requires_name`).
    pub destructive_requires_name: bool,
}

/// The limits of searches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SearchConfig {
    /// `from` + `size` may reach so far in an index without its own `index.max_result_window`.
    pub max_result_window: usize,
    /// The timeout of a search that names none; 0: none.
    pub default_timeout_ms: u64,
    /// Memory for the buckets and hits of all searches at once.
    pub max_memory_bytes: usize,
    /// Of which one search may take so much.
    pub max_request_memory_bytes: usize,
    /// How long `wait_for_lsn` waits unless told.
    pub wait_for_timeout_ms: u64,
    /// How long it may be told to wait.
    pub max_wait_for_timeout_ms: u64,
    /// A request may name so many indexes.
    pub max_indexes: usize,
    /// Scrolls and points in time that may be open.
    pub max_open_contexts: usize,
    /// Memory that the young segments of what they hold may take.
    pub max_context_memory_bytes: u64,
    /// How long one may be kept open without being used.
    pub max_keep_alive_ms: u64,
}

/// The limits of tasks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TasksConfig {
    /// Tasks at once.
    pub max_running: usize,
    /// Ended tasks whose results are kept.
    pub max_results: usize,
}

/// The result cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CacheConfig {
    /// Whether there is one.
    pub enabled: bool,
    /// Memory for it.
    pub budget_bytes: u64,
    /// The largest answer that is kept, with its request.
    pub max_entry_bytes: u64,
    /// How long an answer is kept, in seconds; 0: until its room is needed.
    pub ttl_seconds: u64,
    /// When its log is made durable.
    pub fsync: Fsync,
}

/// When a log is made durable. Losing some of the cache's loses warmth alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fsync {
    /// Before a write counts as done.
    Always,
    /// Once a second.
    EverySec,
    /// When the system likes.
    No,
}

impl CacheConfig {
    /// These as the cache takes them.
    pub(crate) fn options(&self) -> Options {
        let ttl = (self.ttl_seconds > 0).then(|| Duration::from_secs(self.ttl_seconds));
        let fsync = match self.fsync {
            Fsync::Always => FsyncPolicy::Always,
            Fsync::EverySec => FsyncPolicy::EverySecond,
            Fsync::No => FsyncPolicy::No,
        };
        let (budget_bytes, max_entry_bytes) = (self.budget_bytes, self.max_entry_bytes);
        Options { budget_bytes, max_entry_bytes, ttl, fsync, ..Options::default() }
    }
}

/// The history of Egret's own statistics.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsConfig {
    /// Whether there is one.
    pub enabled: bool,
    /// How often it is added to, on whole seconds.
    pub interval_seconds: u64,
    /// How long it goes back.
    pub retention_hours: u64,
    /// How many series there may be.
    pub max_series: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data: PathBuf::from("egret-data"),
            max_pipelines: 64,
            http: HttpConfig::default(),
            pools: PoolsConfig::default(),
            engine: EngineConfig::default(),
            search: SearchConfig::default(),
            tasks: TasksConfig::default(),
            cache: CacheConfig::default(),
            metrics: MetricsConfig::default(),
            pipelines: Vec::new(),
        }
    }
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:9200".into(),
            cluster_name: "egret".into(),
            node_name: "egret-1".into(),
            max_connections: 10_000,
            max_body_bytes: 100 << 20,
            max_bodies_bytes: 512 << 20,
            shutdown_timeout_ms: 10_000,
        }
    }
}

impl Default for PoolsConfig {
    fn default() -> Self {
        Self {
            search_threads: 0,
            search_queue: 1_000,
            write_threads: 16,
            write_queue: 10_000,
            read_threads: 8,
            read_queue: 1_000,
            manage_threads: 4,
            manage_queue: 1_000,
        }
    }
}

impl Default for EngineConfig {
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            indexing_budget_bytes: 256 << 20,
            max_small_merges: limits.max_small_merges,
            max_large_merges: limits.max_large_merges,
            max_merge_bytes_per_second: limits.max_merge_bytes_per_second,
            segments_before_wait: limits.segments_before_wait,
            segments_before_refusal: limits.segments_before_refusal,
            max_open_writers: limits.max_open_writers,
            max_write_wait_ms: 30_000,
            keep_rebuilt_ms: 3_600_000,
            destructive_requires_name: false,
        }
    }
}

impl Default for SearchConfig {
    fn default() -> Self {
        Self {
            max_result_window: 10_000,
            default_timeout_ms: 0,
            max_memory_bytes: 512 << 20,
            max_request_memory_bytes: 256 << 20,
            wait_for_timeout_ms: 5_000,
            max_wait_for_timeout_ms: 60_000,
            max_indexes: 1_000,
            max_open_contexts: 500,
            max_context_memory_bytes: 256 << 20,
            max_keep_alive_ms: 86_400_000,
        }
    }
}

impl Default for TasksConfig {
    fn default() -> Self {
        Self { max_running: 32, max_results: 256 }
    }
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            budget_bytes: 256 << 20,
            max_entry_bytes: 4 << 20,
            ttl_seconds: 3_600,
            fsync: Fsync::EverySec,
        }
    }
}

impl Default for MetricsConfig {
    fn default() -> Self {
        Self { enabled: true, interval_seconds: 1, retention_hours: 168, max_series: 10_000 }
    }
}

impl MetricsConfig {
    /// These as the store takes them.
    pub(crate) fn options(&self) -> egret_metrics::Options {
        egret_metrics::Options {
            retention: Duration::from_secs(self.retention_hours.saturating_mul(3_600)),
            max_series: self.max_series,
            ..egret_metrics::Options::default()
        }
    }
}

impl EngineConfig {
    /// These as the engine takes them.
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            max_small_merges: self.max_small_merges,
            max_large_merges: self.max_large_merges,
            max_merge_bytes_per_second: self.max_merge_bytes_per_second,
            segments_before_wait: self.segments_before_wait,
            segments_before_refusal: self.segments_before_refusal,
            max_open_writers: self.max_open_writers,
            max_write_wait: Duration::from_millis(self.max_write_wait_ms),
            ..Limits::default()
        }
    }
}

impl SearchConfig {
    /// The timeout of a search that names none.
    pub fn default_timeout(&self) -> Option<Duration> {
        (self.default_timeout_ms > 0).then(|| Duration::from_millis(self.default_timeout_ms))
    }
}

impl Config {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self> {
        let wrong = |problem: &dyn std::fmt::Display| {
            Error::new(Kind::Configuration, format!("{}: {problem}", path.display()))
        };
        let text = std::fs::read_to_string(path).map_err(|error| wrong(&error))?;
        Self::parse(&text).map_err(|error| wrong(&error))
    }

    /// Parses a file's text.
    pub fn parse(text: &str) -> Result<Self> {
        toml::from_str(text).map_err(|error| {
            Error::new(Kind::Configuration, error.to_string().trim_end().to_owned())
        })
    }

    /// Refuses what cannot work, with the option's name.
    pub fn validate(&self) -> Result<()> {
        let positive = [
            ("http.max_connections", self.http.max_connections),
            ("http.max_body_bytes", self.http.max_body_bytes),
            ("http.max_bodies_bytes", self.http.max_bodies_bytes),
            ("pools.write_threads", self.pools.write_threads),
            ("pools.read_threads", self.pools.read_threads),
            ("pools.manage_threads", self.pools.manage_threads),
            ("engine.indexing_budget_bytes", self.engine.indexing_budget_bytes),
            ("engine.max_small_merges", self.engine.max_small_merges),
            ("engine.max_large_merges", self.engine.max_large_merges),
            ("engine.segments_before_wait", self.engine.segments_before_wait),
            ("engine.max_open_writers", self.engine.max_open_writers),
            ("search.max_result_window", self.search.max_result_window),
            ("search.max_indexes", self.search.max_indexes),
            ("search.max_memory_bytes", self.search.max_memory_bytes),
            ("search.max_request_memory_bytes", self.search.max_request_memory_bytes),
            ("tasks.max_running", self.tasks.max_running),
            ("tasks.max_results", self.tasks.max_results),
            ("cache.budget_bytes", usize::from(self.cache.budget_bytes > 0)),
            ("metrics.interval_seconds", usize::from(self.metrics.interval_seconds > 0)),
        ];
        let refuse = |reason: String| Err(Error::new(Kind::Configuration, reason));
        if self.pipelines.len() > self.max_pipelines {
            return refuse(format!("more than max_pipelines [{}] pipelines", self.max_pipelines));
        }
        for (name, value) in positive {
            if value == 0 {
                return refuse(format!("{name} must be above 0"));
            }
        }
        if self.http.max_body_bytes > self.http.max_bodies_bytes {
            return refuse("http.max_body_bytes is above http.max_bodies_bytes".into());
        }
        if self.engine.segments_before_wait > self.engine.segments_before_refusal {
            return refuse(
                "engine.segments_before_wait is above engine.segments_before_refusal".into(),
            );
        }
        for (at, pipeline) in self.pipelines.iter().enumerate() {
            if self.pipelines.iter().take(at).any(|other| other.name == pipeline.name) {
                return refuse(format!("two pipelines are named [{}]", pipeline.name));
            }
            pipeline.validate().map_err(|error| {
                let reason = format!("pipeline [{}]: {error}", pipeline.name);
                Error::new(Kind::Configuration, reason).with_source(error)
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_file_is_the_defaults() {
        assert_eq!(Config::parse(DEFAULT_FILE).unwrap(), Config::default());
        let written = toml::to_string(&Config::default()).unwrap();
        for line in written.lines().filter(|line| !line.is_empty()) {
            assert!(DEFAULT_FILE.lines().any(|known| known == line), "{line} is not documented");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |text: &str, part: &str| {
            let error = Config::parse(text).and_then(|config| config.validate()).unwrap_err();
            assert!(error.reason().contains(part), "{text}: {error}");
        };
        check("dota = 1", "dota");
        check("[http]\nlisen = 1", "lisen");
        check("[http]\nmax_body_bytes = 0", "http.max_body_bytes must be above 0");
        check("[http]\nmax_body_bytes = \"x\"", "max_body_bytes");
        check("[[pipelines]]\nurl = \"x\"\nslto = 1", "slto");
        let twice = "[[pipelines]]\nurl = \"postgres://h/d\"\n".repeat(2);
        check(&twice, "two pipelines are named [main]");
    }
}
