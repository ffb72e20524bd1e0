//! Progress of the first copy, and of translogs that are replayed at the start: a bar in a terminal,
//! a line now and then elsewhere.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use egret_cdc::status::TableState;
use egret_cdc::{PipelineState, PipelineStatus};
use egret_engine::store::replay::ReplayProgress;
use indicatif::{ProgressBar, ProgressStyle};
use parking_lot::Mutex;

use crate::app::App;

/// How often a bar moves.
const BAR_INTERVAL: Duration = Duration::from_millis(250);
/// How often a line is written where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// How often a line is written about a replay.
const REPLAY_LINE_INTERVAL: Duration = Duration::from_secs(1);

/// Shows how far replays of translogs are, one index after another.
#[derive(Default)]
pub(crate) struct Replays {
    /// Held to show one state.
    shown: Mutex<ShownReplay>,
}

#[derive(Default)]
struct ShownReplay {
    bar: Option<ProgressBar>,
    last_line: Option<Instant>,
}

impl Replays {
    /// Takes the next state.
    pub(crate) fn show(&self, progress: &ReplayProgress<'_>) {
        let mut shown = self.shown.lock();
        if std::io::stderr().is_terminal() {
            let bar = shown.bar.get_or_insert_with(|| replay_bar(progress.index));
            bar.set_length(progress.total_bytes.max(progress.bytes));
            bar.set_position(progress.bytes);
            if progress.is_done {
                bar.finish_and_clear();
            }
        }
        let due = shown.last_line.is_none_or(|last| last.elapsed() >= REPLAY_LINE_INTERVAL);
        if progress.is_done || due && shown.bar.is_none() {
            let ReplayProgress { index, operations, bytes, total_bytes, .. } = *progress;
            let a_second = rate(operations, progress.elapsed);
            let what = if progress.is_done { "replayed" } else { "replaying" };
            let left_bytes = total_bytes.saturating_sub(bytes);
            tracing::info!(index, operations, a_second, left_bytes, "{what} the translog");
            shown.last_line = Some(Instant::now());
        }
        if progress.is_done {
            *shown = ShownReplay::default();
        }
    }
}

fn rate(operations: u64, elapsed: Duration) -> u64 {
    let ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
    operations.saturating_mul(1000) / ms
}

fn replay_bar(index: &str) -> ProgressBar {
    let template = "{prefix} {bar:30} {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left";
    let style = ProgressStyle::with_template(template);
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(0).with_style(style).with_prefix(format!("replaying {index}"))
}

/// Shows the copies of all pipelines until the app is gone.
pub(crate) fn watch(app: &Arc<App>) {
    tokio::spawn(watch_all(Arc::downgrade(app)));
}

async fn watch_all(app: Weak<App>) {
    let mut ticks = tokio::time::interval(BAR_INTERVAL);
    let mut shown: BTreeMap<String, Shown> = BTreeMap::new();
    loop {
        ticks.tick().await;
        let Some(app) = app.upgrade() else { return };
        let pipelines = app.pipelines.all();
        shown.retain(|name, _| pipelines.iter().any(|pipeline| pipeline.name() == name));
        for pipeline in pipelines {
            shown.entry(pipeline.name().to_owned()).or_default().update(&pipeline.status());
        }
    }
}

/// What is being shown of one pipeline.
#[derive(Default)]
struct Shown {
    bar: Option<ProgressBar>,
    last_line: Option<Instant>,
    state: Option<PipelineState>,
}

impl Shown {
    fn update(&mut self, status: &PipelineStatus) {
        if status.state == PipelineState::Copying {
            self.copying(status);
        } else if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        if self.state != Some(status.state) {
            self.state = Some(status.state);
            let PipelineStatus { name, reason, rows_copied, .. } = status;
            if let Some(reason) = reason {
                tracing::warn!(pipeline = name, "{:?}: {reason}", status.state);
            } else {
                tracing::info!(pipeline = name, rows_copied, "{:?}", status.state);
            }
        }
    }

    fn copying(&mut self, status: &PipelineStatus) {
        let copied: u64 = status.tables.iter().map(|table| table.rows_copied).sum();
        let expected: u64 =
            status.tables.iter().map(|table| table.rows_estimated.max(table.rows_copied)).sum();
        let table = status.tables.iter().find(|table| table.state == TableState::Copying);
        let table = table.map(|table| table.table.as_str());
        // What is copied and not yet followed.
        let doing = if table.is_some() { "copying" } else { "catching up with the log" };
        if std::io::stderr().is_terminal() {
            let bar = self.bar.get_or_insert_with(|| bar(&status.name));
            bar.set_length(expected);
            bar.set_position(copied);
            bar.set_message(table.unwrap_or(doing).to_owned());
        } else if self.last_line.is_none_or(|last| last.elapsed() >= LINE_INTERVAL) {
            self.last_line = Some(Instant::now());
            tracing::info!(pipeline = status.name, table, copied, expected, "{doing}");
        }
    }
}

fn bar(name: &str) -> ProgressBar {
    let template = "{prefix} {bar:30} {human_pos}/{human_len} rows, {per_sec}, {eta} left {msg}";
    let style = ProgressStyle::with_template(template);
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(0).with_style(style).with_prefix(format!("copying {name}"))
}
