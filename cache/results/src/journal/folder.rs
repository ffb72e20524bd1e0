//! The folder of a cache: its secret and its log.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use egret_aof::check::Check;
use egret_aof::disk::{Disk, replace_file};
use egret_aof::log::{Log, LogOptions, Record, Recovery};

use crate::key::Secret;
use crate::options::Options;

const SECRET: &str = "secret";
const LOG: &str = "log";

/// Where a cache is kept.
#[derive(Debug)]
pub(super) struct Folder {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    options: LogOptions,
    secret: Secret,
    /// Whether the secret is in its file.
    is_secret_kept: bool,
}

impl Folder {
    /// Reads the secret, or thinks of one where there is none that can be read.
    pub(super) fn new(disk: Arc<dyn Disk>, path: &Path, options: &Options) -> Self {
        let kept = read_secret(disk.as_ref(), &path.join(SECRET)).unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot read the result cache's secret, starting cold");
            None
        });
        let log_options = LogOptions {
            fsync: options.fsync,
            // Nothing here is worth refusing to start for.
            recovery: Recovery::Repair,
            max_record_bytes: usize::try_from(options.max_entry_bytes).unwrap_or(usize::MAX),
            rewrite_backoff: options.log_retry,
            ..LogOptions::default()
        };
        let is_secret_kept = kept.is_some();
        let secret = kept.unwrap_or_else(Secret::random);
        Self { disk, path: path.to_path_buf(), options: log_options, secret, is_secret_kept }
    }

    /// What requests are hashed with.
    pub(super) fn secret(&self) -> Secret {
        self.secret.clone()
    }

    /// Keeps the secret if it is not kept yet, and opens the log, created where there is none.
    pub(super) fn open_log(
        &mut self,
        mut replay: impl FnMut(Record<'_>),
    ) -> Result<Log, egret_aof::Error> {
        let path = self.path.join(SECRET);
        if !self.is_secret_kept {
            self.keep_secret(&path).map_err(|source| egret_aof::Error::Io {
                action: "write",
                path,
                source,
            })?;
        }
        let (disk, folder) = (Arc::clone(&self.disk), self.path.join(LOG));
        let (log, report) = Log::open(disk, &folder, self.options.clone(), |record| {
            replay(record);
            Ok(())
        })?;
        if !report.is_clean() {
            tracing::warn!(?report, "the result cache's log was not whole");
        }
        Ok(log)
    }

    fn keep_secret(&mut self, path: &Path) -> io::Result<()> {
        self.disk.create_folder(&self.path)?;
        let mut content = self.secret.as_bytes().to_vec();
        content.extend_from_slice(&crc32c::crc32c(&content).to_le_bytes());
        replace_file(self.disk.as_ref(), path, &content)?;
        self.is_secret_kept = true;
        Ok(())
    }
}

/// Verifies the files of a cache that nobody has open. Nothing in it is worth keeping damaged: a
/// repair removes a cache whose secret is gone, and skips damaged records of its log.
pub fn check(check: &mut Check<'_>, folder: &Path) {
    check.begin("result cache");
    let disk = Arc::clone(check.disk());
    if !disk.exists(folder).unwrap_or_default() {
        return;
    }
    let mark = check.mark();
    let path = folder.join(SECRET);
    if let Some(content) = check.read("secret", &path)
        && whole_secret(&content).is_none()
    {
        check.damaged("secret", &path, "its checksum is wrong", "");
    }
    check.settle(mark, "the cache is removed: it starts cold", |disk| disk.remove_folder(folder));
    let log = folder.join(LOG);
    if Log::exists(disk.as_ref(), &log).unwrap_or_default() {
        check.log("log", &log, |_| Ok(()));
    }
}

fn whole_secret(content: &[u8]) -> Option<Secret> {
    let (secret, checksum) = content.split_last_chunk()?;
    let is_whole = crc32c::crc32c(secret) == u32::from_le_bytes(*checksum);
    secret.try_into().ok().filter(|_| is_whole).map(Secret::from_bytes)
}

/// The secret in this file, if it exists and is whole.
fn read_secret(disk: &dyn Disk, path: &Path) -> io::Result<Option<Secret>> {
    if !disk.exists(path)? {
        return Ok(None);
    }
    let content = disk.read(path)?;
    let secret = whole_secret(&content);
    if secret.is_none() {
        tracing::warn!("the result cache's secret is damaged, starting cold");
    }
    Ok(secret)
}
