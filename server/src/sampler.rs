//! The sampler: once a second, on whole seconds, it pulls the server's statistics into the metrics
//! store. It stores counts; rates and ratios are derived when asked.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use egret_metrics::{Metrics, Series, Snapshot};

use crate::app::App;
use crate::error::{Error, Kind, Result};
use crate::statistics::seconds;

/// The quantiles of latencies that are kept.
const QUANTILES: [(&str, f64); 3] = [("0.5", 0.5), ("0.9", 0.9), ("0.99", 0.99)];

/// Starts the sampler's thread, which ends when the app is gone.
pub(crate) fn start(app: &Arc<App>) -> Result<()> {
    let interval = app.config.metrics.interval_seconds;
    let app = Arc::downgrade(app);
    let run = move || run(&app, interval);
    let started = std::thread::Builder::new().name("sampler".into()).spawn(run);
    started.map(drop).map_err(|error| {
        Error::new(Kind::Internal, format!("cannot start the sampler: {error}")).with_source(error)
    })
}

fn run(app: &Weak<App>, interval: u64) {
    let mut before: Option<Snapshot> = None;
    loop {
        let now = since_1970();
        let next = (now.as_secs() / interval + 1) * interval;
        std::thread::sleep(Duration::from_secs(next).saturating_sub(now));
        let Some(app) = app.upgrade() else { return };
        let Some(metrics) = &app.metrics else { return };
        let searches = app.statistics.search_us.snapshot();
        let time = i64::try_from(next).unwrap_or(i64::MAX);
        sample(&app, metrics, time, &searches, before.as_ref());
        before = Some(searches);
    }
}

fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// One second's samples.
#[derive(Default)]
struct Samples(Vec<(Series, f64)>);

impl Samples {
    /// A name that no series may have, as an index's could be too long, is left out.
    fn add(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        if let Ok(series) = Series::new(name, labels.iter().copied()) {
            self.0.push((series, value));
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
    fn count(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        self.add(name, labels, value as f64);
    }
}

/// Takes one second's samples.
fn sample(app: &App, metrics: &Metrics, time: i64, searches: &Snapshot, before: Option<&Snapshot>) {
    let mut samples = Samples::default();
    let statistics = &app.statistics;
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    samples.count("search_total", &[], searches.count());
    samples.add("search_seconds_total", &[], seconds(searches.sum()));
    let gained = before.map_or_else(|| searches.clone(), |before| searches.since(before));
    for (name, quantile) in QUANTILES {
        if let Some(latency) = gained.quantile(quantile) {
            samples.add("search_latency_seconds", &[("quantile", name)], seconds(latency));
        }
    }
    samples.count("search_failures_total", &[], read(&statistics.search_failures));
    samples.count("write_operations_total", &[], read(&statistics.write_operations));
    samples.count("write_failures_total", &[], read(&statistics.write_failures));
    samples.count("cache_hits_total", &[], read(&statistics.cache_hits));
    samples.count("cache_misses_total", &[], read(&statistics.cache_misses));
    for pipeline in app.pipelines.all() {
        let status = pipeline.status();
        let labels = [("pipeline", status.name.as_str())];
        if let Some(bytes) = status.lag.bytes {
            samples.count("cdc_lag_bytes", &labels, bytes);
        }
        if let Some(seconds) = status.lag.seconds {
            samples.add("cdc_lag_seconds", &labels, seconds);
        }
        samples.count("cdc_rows_copied_total", &labels, status.rows_copied);
        samples.count("cdc_rows_streamed_total", &labels, status.rows_streamed);
    }
    for index in app.engine.indexes() {
        let stats = index.stats();
        let labels = [("index", index.name())];
        samples.count("documents", &labels, stats.doc_count);
        samples.count("index_bytes", &labels, stats.size_bytes);
    }
    let appended = metrics.append(time, samples.0.iter().map(|(series, value)| (series, *value)));
    if appended.over_limit > 0 {
        tracing::debug!(appended.over_limit, "series beyond the limit were not recorded");
    }
}
