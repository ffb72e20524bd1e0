//! Persistence. What is not yet in a partition's file is in the log, so a restart brings back every
//! sample that was synced. A disk that fails stops nothing: the store goes on in memory, says why,
//! and writes everything anew when it can.
//!
//! ```text
//! log/                             an egret-aof log, its records as records.rs draws them
//! partitions/001427162400.samples  the two hours from this second, as partition.rs draws them
//! ```
//!
//! The log is rewritten when a partition's file is durable, and then sums up the head alone. After a
//! crash between the two, samples that a partition holds are passed over in the log.

use std::collections::HashMap;
use std::error::Error as _;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use egret_aof::Error;
use egret_aof::disk::{Disk, FileBytes, create_folder_durably, replace_file};
use egret_aof::log::{Log, LogOptions, Recovery};
use parking_lot::RwLock;

use crate::database::Database;
use crate::options::Options;
use crate::partition::Partition;
use crate::records::{Numbers, replay};
use crate::series::Series;

pub(crate) const SUFFIX: &str = "samples";
/// The folder of the partitions.
pub(crate) const PARTITIONS: &str = "partitions";
/// The folder of the log.
pub(crate) const LOG: &str = "log";
/// The wait between attempts to use a disk that failed doubles up to this.
const MAX_RETRY: Duration = Duration::from_secs(60);

/// How the files of a store are doing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DiskStats {
    /// The length of the log's files.
    pub log_bytes: u64,
    /// Why nothing can be written at the moment, if so: samples are in memory alone.
    pub failure: Option<String>,
    /// How often the disk failed.
    pub failures: u64,
    /// Partitions whose files cannot be read.
    pub damaged_partitions: u64,
}

/// Where a store is kept.
#[derive(Debug)]
pub(crate) struct Keeper {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    log_options: LogOptions,
    rewrite_slack_bytes: u64,
    log: Option<Log>,
    numbers: Numbers,
    /// Whether a partition's file is durable that the log still sums up.
    is_log_behind: bool,
    retry: Option<Retry>,
    first_retry: Duration,
    stats: DiskStats,
}

#[derive(Debug, Clone, Copy)]
struct Retry {
    at: Instant,
    wait: Duration,
}

impl Keeper {
    /// Opens the folder and reads what it holds into the database. What cannot be read or written is
    /// said in the statistics.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        folder: &Path,
        options: &Options,
        database: &mut Database,
    ) -> Self {
        let log_options = LogOptions {
            fsync: options.fsync,
            // What is whole is worth more than a refusal to start.
            recovery: Recovery::Repair,
            rewrite_backoff: options.retry,
            ..LogOptions::default()
        };
        let mut keeper = Self {
            disk,
            folder: folder.to_path_buf(),
            log_options,
            rewrite_slack_bytes: options.rewrite_slack_bytes,
            log: None,
            numbers: Numbers::default(),
            is_log_behind: false,
            retry: None,
            first_retry: options.retry,
            stats: DiskStats::default(),
        };
        if let Err(error) = keeper.load(database) {
            keeper.fail(&error);
        }
        keeper
    }

    /// Reads the folder into an empty database, and opens the log for writing.
    fn load(&mut self, database: &mut Database) -> Result<(), Error> {
        self.stats.damaged_partitions = 0;
        self.read_partitions(database)?;
        self.open_log(database)
    }

    /// Writes one second's samples, as the database took them, and looks after the files.
    pub(crate) fn append(
        &mut self,
        time: i64,
        samples: &[(Arc<Series>, f64)],
        database: &RwLock<Database>,
    ) {
        match self.retry {
            None => {
                if let Err(error) =
                    self.write_samples(time, samples).and_then(|()| self.maintain(database))
                {
                    self.fail(&error);
                }
            }
            // A rewrite has all samples, these too.
            Some(retry) if retry.at <= Instant::now() => self.recover(database),
            Some(_) => {}
        }
    }

    /// Makes everything durable that was appended.
    pub(crate) fn sync(&mut self) {
        if self.retry.is_none()
            && let Some(Err(error)) = self.log.as_ref().map(Log::sync)
        {
            self.fail(&error);
        }
    }

    /// Removes the files of partitions that were dropped.
    pub(crate) fn remove(&mut self, starts: &[i64]) {
        for start in starts {
            let path = self.partition_path(*start);
            match self.disk.remove(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(path = %path.display(), %error, "cannot remove old metrics");
                }
                _ => {}
            }
        }
    }

    pub(crate) fn stats(&self) -> DiskStats {
        DiskStats { log_bytes: self.log.as_ref().map_or(0, Log::bytes), ..self.stats.clone() }
    }

    fn partitions_folder(&self) -> PathBuf {
        self.folder.join(PARTITIONS)
    }

    fn partition_path(&self, start: i64) -> PathBuf {
        self.partitions_folder().join(format!("{start:012}.{SUFFIX}"))
    }

    fn read_partitions(&mut self, database: &mut Database) -> Result<(), Error> {
        let folder = self.partitions_folder();
        let failed = |action, path: &Path| {
            let path = path.to_path_buf();
            move |source| Error::Io { action, path, source }
        };
        create_folder_durably(self.disk.as_ref(), &folder).map_err(failed("create", &folder))?;
        for name in self.disk.list(&folder).map_err(failed("list", &folder))? {
            let path = folder.join(&name);
            match name.rsplit_once('.') {
                // Left by a crash while it was written.
                Some((_, "tmp")) => {
                    self.disk.remove(&path).map_err(failed("remove", &path))?;
                }
                Some((_, SUFFIX)) => {
                    let bytes = self.disk.map(&path).map_err(failed("map", &path))?;
                    self.read_partition(&path, bytes, database);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn read_partition(&mut self, path: &Path, bytes: FileBytes, database: &mut Database) {
        match Partition::open(bytes, |series| database.intern(series)) {
            Ok(partition) if self.partition_path(partition.start()) == path => {
                database.add_kept(partition);
            }
            Ok(partition) => {
                self.stats.damaged_partitions += 1;
                tracing::warn!(path = %path.display(), start = partition.start(), "misnamed metrics left out");
            }
            Err(error) => {
                self.stats.damaged_partitions += 1;
                tracing::warn!(path = %path.display(), %error, "metrics left out");
            }
        }
    }

    fn open_log(&mut self, database: &mut Database) -> Result<(), Error> {
        let mut names = HashMap::new();
        let disk = Arc::clone(&self.disk);
        let (folder, options) = (self.folder.join(LOG), self.log_options.clone());
        let (log, report) = Log::open(disk, &folder, options, |record| {
            if replay(record, &mut names, database).is_none() {
                tracing::warn!(kind = record.kind, sequence = record.sequence, "record left out");
            }
            Ok(())
        })?;
        if !report.is_clean() {
            tracing::warn!(?report, "the metrics log was not whole");
        }
        self.numbers = Numbers::from_names(names);
        self.log = Some(log);
        Ok(())
    }

    fn write_samples(&mut self, time: i64, samples: &[(Arc<Series>, f64)]) -> Result<(), Error> {
        let Some(log) = &self.log else { return Ok(()) };
        self.numbers
            .write_samples(time, samples, |kind, record| log.append(kind, record).map(drop))?;
        log.commit()?;
        log.sync_if_due(Instant::now())
    }

    /// Writes files for sealed partitions and rewrites the log where it is due.
    fn maintain(&mut self, database: &RwLock<Database>) -> Result<(), Error> {
        // Not within the loop's head: the lock would be held throughout the loop.
        let not_kept = database.read().not_kept();
        for partition in not_kept {
            self.keep(&partition, database)?;
        }
        let held = database.read().size().head_bytes;
        let is_long = |log: &Log| log.bytes() > 2 * held + self.rewrite_slack_bytes;
        if self.is_log_behind || self.log.as_ref().is_some_and(is_long) {
            match self.rewrite(database) {
                Err(Error::BackingOff { .. }) => {}
                other => return other,
            }
        }
        Ok(())
    }

    fn keep(&mut self, partition: &Partition, database: &RwLock<Database>) -> Result<(), Error> {
        let path = self.partition_path(partition.start());
        let failed = |action| {
            let path = path.clone();
            move |source| Error::Io { action, path, source }
        };
        replace_file(self.disk.as_ref(), &path, partition.as_bytes()).map_err(failed("write"))?;
        self.is_log_behind = true;
        let bytes = self.disk.map(&path).map_err(failed("map"))?;
        let mut database = database.write();
        match Partition::open(bytes, |series| database.intern(series)) {
            Ok(partition) => {
                database.replace_by_kept(partition);
                Ok(())
            }
            Err(damaged) => Err(failed("read back")(io::Error::other(damaged))),
        }
    }

    /// Makes the log sum up what no partition's file holds.
    fn rewrite(&mut self, database: &RwLock<Database>) -> Result<(), Error> {
        let Some(log) = &self.log else { return Ok(()) };
        let (sealed, head) = {
            let database = database.read();
            let head = database.head().map(|(series, chunk)| (Arc::clone(series), chunk.clone()));
            (database.not_kept(), head.collect::<Vec<_>>())
        };
        let sealed = sealed.iter().flat_map(|partition| {
            let chunks = partition.series().map(|series| (series, partition.chunk(series)));
            chunks.filter_map(|(series, chunk)| Some((series, chunk?.ok()?.to_vec())))
        });
        let head = head.iter().map(|(series, chunk)| (series, chunk.to_bytes()));
        let mut numbers = self.numbers.to_empty();
        log.rewrite(|base| {
            for (series, chunk) in sealed.chain(head) {
                numbers.write_chunk(series, &chunk, |kind, record| base.append(kind, record))?;
            }
            Ok(())
        })?;
        self.numbers = numbers;
        self.is_log_behind = false;
        Ok(())
    }

    /// Tries the disk again after a failure: new files from memory.
    fn recover(&mut self, database: &RwLock<Database>) {
        match self.start_again(database) {
            Ok(()) => {
                self.retry = None;
                self.stats.failure = None;
                tracing::info!("metrics are written again");
            }
            Err(error) => self.fail(&error),
        }
    }

    fn start_again(&mut self, database: &RwLock<Database>) -> Result<(), Error> {
        match &self.log {
            Some(log) if log.is_poisoned() => log.reopen_after_failure().map(drop)?,
            Some(_) => {}
            None => {
                // It could not be read when the store was opened: what was measured since follows.
                let mut whole = database.read().to_empty();
                self.load(&mut whole)?;
                let mut database = database.write();
                whole.absorb(&database);
                *database = whole;
            }
        }
        self.rewrite(database)?;
        self.maintain(database)
    }

    fn fail(&mut self, error: &Error) {
        let wait = self.retry.map_or(self.first_retry, |retry| (retry.wait * 2).min(MAX_RETRY));
        self.retry = Some(Retry { at: Instant::now() + wait, wait });
        let mut reason = error.to_string();
        let mut cause = error.source();
        while let Some(deeper) = cause {
            reason.push_str(": ");
            reason.push_str(&deeper.to_string());
            cause = deeper.source();
        }
        tracing::warn!(reason, "metrics go on in memory, the disk failed");
        self.stats.failures += 1;
        self.stats.failure = Some(reason);
    }
}
