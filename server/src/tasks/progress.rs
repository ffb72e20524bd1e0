//! How far a task is, how fast it may go, and whether it is to stop.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tokio::sync::watch;

/// No pause is longer, whatever the rate: the rate is looked at again after it.
const LONGEST_PAUSE: Duration = Duration::from_secs(3_600);

/// What one worker of a task has done.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Documents that it has taken on.
    pub(crate) taken: AtomicU64,
    pub(crate) created: AtomicU64,
    pub(crate) updated: AtomicU64,
    pub(crate) deleted: AtomicU64,
    pub(crate) noops: AtomicU64,
    pub(crate) batches: AtomicU64,
    pub(crate) version_conflicts: AtomicU64,
    /// Attempts again after a pool was full.
    pub(crate) search_retries: AtomicU64,
    pub(crate) write_retries: AtomicU64,
    throttled_ms: AtomicU64,
    /// Until when it pauses.
    throttled_until: Mutex<Option<Instant>>,
}

/// The progress of a task.
#[derive(Debug)]
pub(crate) struct Progress {
    total: AtomicU64,
    workers: Vec<Counts>,
    /// Documents a second, of all workers together; infinite where there is no limit.
    rate: watch::Sender<f64>,
    cancelled: watch::Sender<Option<String>>,
}

impl Progress {
    /// Of so many workers at a rate.
    pub(crate) fn new(workers: usize, rate: f64) -> Self {
        Self {
            total: AtomicU64::new(0),
            workers: (0..workers.max(1)).map(|_| Counts::default()).collect(),
            rate: watch::Sender::new(rate),
            cancelled: watch::Sender::new(None),
        }
    }

    pub(crate) fn set_total(&self, total: u64) {
        self.total.store(total, Ordering::Relaxed);
    }

    pub(crate) fn workers(&self) -> &[Counts] {
        &self.workers
    }

    /// From now on, so many documents a second.
    pub(crate) fn set_rate(&self, rate: f64) {
        self.rate.send_replace(rate);
    }

    /// Asks the workers to stop after what they are at.
    pub(crate) fn cancel(&self, reason: &str) {
        self.cancelled.send_replace(Some(reason.to_owned()));
    }

    /// Why it is to stop.
    pub(crate) fn cancelled(&self) -> Option<String> {
        self.cancelled.borrow().clone()
    }

    /// Waits until it is asked to stop; gives the reason.
    pub(crate) async fn until_cancelled(&self) -> String {
        let mut cancelled = self.cancelled.subscribe();
        let seen = cancelled.wait_for(Option::is_some).await.ok().and_then(|seen| seen.clone());
        seen.unwrap_or_default()
    }

    /// Pauses for so long, or until it is asked to stop.
    pub(crate) async fn rest(&self, time: Duration) {
        tokio::select! {
            () = tokio::time::sleep(time) => {}
            _ = self.until_cancelled() => {}
        }
    }

    /// Pauses until a worker that has done so many documents since some time keeps to the rate.
    pub(crate) async fn throttle(&self, counts: &Counts, documents: usize, since: Instant) {
        let began = Instant::now();
        let (mut rate, mut cancelled) = (self.rate.subscribe(), self.cancelled.subscribe());
        #[expect(clippy::cast_precision_loss, reason = "batches are small")]
        let (documents, workers) = (documents as f64, self.workers.len() as f64);
        while cancelled.borrow_and_update().is_none() {
            let seconds = documents * workers / *rate.borrow_and_update();
            let wanted = Duration::try_from_secs_f64(seconds).unwrap_or(LONGEST_PAUSE);
            let due = since + wanted.min(began.elapsed().saturating_add(LONGEST_PAUSE));
            if due <= Instant::now() {
                break;
            }
            *counts.throttled_until.lock() = Some(due);
            tokio::select! {
                () = tokio::time::sleep_until(due.into()) => {}
                _ = rate.changed() => {}
                _ = cancelled.changed() => {}
            }
        }
        *counts.throttled_until.lock() = None;
        let ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        counts.throttled_ms.fetch_add(ms, Ordering::Relaxed);
    }

    /// As Elasticsearch shows it.
    pub(crate) fn to_json(&self) -> Value {
        let mut shown = self.counted(&self.workers, self.total.load(Ordering::Relaxed), 1);
        if self.workers.len() > 1 {
            let slice = |(at, counts): (usize, &Counts)| {
                let taken = counts.taken.load(Ordering::Relaxed);
                let parts = self.workers.len();
                let mut shown = self.counted(std::slice::from_ref(counts), taken, parts);
                shown.insert("slice_id".into(), at.into());
                Value::Object(shown)
            };
            let slices: Vec<Value> = self.workers.iter().enumerate().map(slice).collect();
            shown.insert("slices".into(), slices.into());
        }
        Value::Object(shown)
    }

    fn counted(&self, workers: &[Counts], total: u64, parts: usize) -> Map<String, Value> {
        let sum = |of: fn(&Counts) -> &AtomicU64| -> u64 {
            workers.iter().map(|counts| of(counts).load(Ordering::Relaxed)).sum()
        };
        let rate = *self.rate.borrow();
        #[expect(clippy::cast_precision_loss, reason = "slices are few")]
        let rate = if rate.is_finite() { rate / parts as f64 } else { -1.0 };
        let now = Instant::now();
        let pauses = workers.iter().filter_map(|counts| *counts.throttled_until.lock());
        let pause = pauses.map(|until| until.saturating_duration_since(now)).max();
        let pause = u64::try_from(pause.unwrap_or_default().as_millis()).unwrap_or(u64::MAX);
        let mut shown = Map::new();
        shown.insert("total".into(), total.into());
        shown.insert("updated".into(), sum(|counts| &counts.updated).into());
        shown.insert("created".into(), sum(|counts| &counts.created).into());
        shown.insert("deleted".into(), sum(|counts| &counts.deleted).into());
        shown.insert("batches".into(), sum(|counts| &counts.batches).into());
        shown.insert("version_conflicts".into(), sum(|counts| &counts.version_conflicts).into());
        shown.insert("noops".into(), sum(|counts| &counts.noops).into());
        let retries = json!({
            "bulk": sum(|counts| &counts.write_retries),
            "search": sum(|counts| &counts.search_retries),
        });
        shown.insert("retries".into(), retries);
        shown.insert("throttled_millis".into(), sum(|counts| &counts.throttled_ms).into());
        shown.insert("requests_per_second".into(), rate.into());
        if let Some(reason) = self.cancelled() {
            shown.insert("canceled".into(), reason.into());
        }
        shown.insert("throttled_until_millis".into(), pause.into());
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_slow_worker_waits_until_told_otherwise() {
        let progress = std::sync::Arc::new(Progress::new(1, 1e-6));
        let waiting = std::sync::Arc::clone(&progress);
        let worker = tokio::spawn(async move {
            waiting.throttle(&waiting.workers()[0], 10, Instant::now()).await;
        });
        tokio::task::yield_now().await;
        assert!(progress.to_json()["throttled_until_millis"].as_u64().unwrap() > 0);
        progress.set_rate(f64::INFINITY);
        worker.await.unwrap();
        assert_eq!(progress.to_json()["requests_per_second"], -1.0);
        assert_eq!(progress.to_json()["throttled_until_millis"], 0);
    }
}
