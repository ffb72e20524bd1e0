//! The front of the crate: append a second's samples, ask for a span of time.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use egret_aof::disk::Disk;
use parking_lot::{Mutex, RwLock};

use crate::database::{Database, Refusal};
use crate::error::Error;
use crate::gorilla::Sample;
use crate::keeper::{DiskStats, Keeper};
use crate::options::Options;
use crate::query::{Query, Range};
use crate::series::Series;

/// A store of time series in a folder.
///
/// ```
/// use std::{path::Path, sync::Arc};
/// use egret_aof::disk::sim::SimDisk;
/// use egret_metrics::{Aggregation, Metrics, Options, Query, Series};
///
/// let metrics = Metrics::open(Arc::new(SimDisk::new()), Path::new("/metrics"), &Options::default())?;
/// let searches = Series::new("search_total", [("index", "packages")])?;
/// for second in 0..60 {
///     metrics.append(1_700_000_000 + second, [(&searches, second as f64 * 20.0)]);
/// }
/// let query = Query {
///     name: "search_total".to_owned(),
///     matchers: Vec::new(),
///     from: 1_700_000_000,
///     to: 1_700_000_059,
///     step: 60,
///     aggregation: Aggregation::Rate,
/// };
/// assert_eq!(metrics.query(&query)?[0].points[0].value, 20.0);
/// # Ok::<_, egret_metrics::Error>(())
/// ```
#[derive(Debug)]
pub struct Metrics {
    /// Guards the files, and the order of appending. Taken before the other.
    keeper: Mutex<Keeper>,
    /// Guards what is in memory. Nothing is read from or written to a disk under it but mapped files.
    database: RwLock<Database>,
    options: Options,
    damaged_chunks: AtomicU64,
}

/// What became of samples.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Appended {
    /// How many were taken.
    pub taken: usize,
    /// How many were not after the last one of their series, or lie in two hours that are sealed.
    pub out_of_order: usize,
    /// How many were of series beyond the limit.
    pub over_limit: usize,
}

/// What the store says about itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Stats {
    /// Series that are written now.
    pub head_series: usize,
    /// Samples of all series.
    pub samples: u64,
    /// What holds them, in the partitions and in memory.
    pub bytes: u64,
    /// Partitions.
    pub partitions: usize,
    /// Chunks that a query found damaged.
    pub damaged_chunks: u64,
    /// The files.
    pub disk: DiskStats,
}

impl Stats {
    /// How many bytes hold a sample, on average.
    #[expect(clippy::cast_precision_loss, reason = "a mean for people")]
    pub fn bytes_per_sample(&self) -> f64 {
        if self.samples == 0 { 0.0 } else { self.bytes as f64 / self.samples as f64 }
    }
}

impl Metrics {
    /// Opens the store in this folder, created if missing. Blocks while it reads.
    ///
    /// A folder that cannot be read or written is no error: the store then works in memory, says why
    /// in its statistics, and tries again.
    pub fn open(disk: Arc<dyn Disk>, folder: &Path, options: &Options) -> Result<Self, Error> {
        options.check()?;
        let mut database = Database::new(options.max_series);
        let keeper = Keeper::open(disk, folder, options, &mut database);
        Ok(Self {
            keeper: Mutex::new(keeper),
            database: RwLock::new(database),
            options: options.clone(),
            damaged_chunks: AtomicU64::default(),
        })
    }

    /// Appends samples of one second, seconds since 1970. Blocks on the disk, and more so every two
    /// hours, so not for an async runtime's threads.
    pub fn append<'a>(
        &self,
        time: i64,
        samples: impl IntoIterator<Item = (&'a Series, f64)>,
    ) -> Appended {
        let mut keeper = self.keeper.lock();
        let (mut taken, mut appended) = (Vec::new(), Appended::default());
        let dropped = {
            let mut database = self.database.write();
            for (series, value) in samples {
                match database.push(series, Sample { time, value }) {
                    Ok(series) => taken.push((series, value)),
                    Err(Refusal::OutOfOrder) => appended.out_of_order += 1,
                    Err(Refusal::TooManySeries) => appended.over_limit += 1,
                }
            }
            appended.taken = taken.len();
            let oldest = time.saturating_sub(self.options.retention_seconds());
            if taken.is_empty() { Vec::new() } else { database.drop_before(oldest) }
        };
        keeper.append(time, &taken, &self.database);
        keeper.remove(&dropped);
        appended
    }

    /// The points of every series that the query asks for, sorted by series. May read from the disk.
    pub fn query(&self, query: &Query) -> Result<Vec<Range>, Error> {
        query.check(self.options.max_points)?;
        let sources = self.database.read().sources(query);
        if sources.len() > self.options.max_query_series {
            let (asked, limit) = (sources.len() as u64, self.options.max_query_series as u64);
            return Err(Error::Full { what: "series of a query", asked, limit });
        }
        let mut damaged = 0;
        let ranges = sources.iter().map(|source| source.evaluate(query, &mut damaged));
        let ranges = ranges.filter(|range| !range.points.is_empty()).collect();
        self.damaged_chunks.fetch_add(damaged, Ordering::Relaxed);
        Ok(ranges)
    }

    /// Every series that has samples, sorted.
    pub fn series(&self) -> Vec<Arc<Series>> {
        self.database.read().series()
    }

    /// What the store says about itself.
    pub fn stats(&self) -> Stats {
        let disk = self.keeper.lock().stats();
        let database = self.database.read();
        let size = database.size();
        Stats {
            head_series: database.head().count(),
            samples: size.samples,
            bytes: size.bytes + size.head_bytes,
            partitions: size.partitions,
            damaged_chunks: self.damaged_chunks.load(Ordering::Relaxed),
            disk,
        }
    }

    /// Makes everything appended so far durable, or says in the statistics why not. Blocks.
    pub fn flush(&self) {
        self.keeper.lock().sync();
    }
}

impl Drop for Metrics {
    fn drop(&mut self) {
        self.flush();
    }
}

#[cfg(test)]
mod tests;
