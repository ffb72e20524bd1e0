//! `GET /metrics`: the server's counters in Prometheus's text format.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use axum::extract::State;
use axum::http::StatusCode;

use crate::app::App;
use crate::error::Result;
use crate::http::{Call, Reply};
use crate::pools::Pool;
use crate::statistics::seconds;

pub(super) async fn metrics(State(app): State<Arc<App>>, call: Call) -> Result<Reply> {
    call.params.allow(&[])?;
    let mut page = Page::default();
    server(&app, &mut page);
    indexes(&app, &mut page);
    pipelines(&app, &mut page);
    let media_type = "text/plain; version=0.0.4; charset=utf-8";
    Ok(Reply::of_type(StatusCode::OK, media_type, page.0))
}

/// A page of metrics.
#[derive(Default)]
struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a text cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        self.0.push_str(name);
        for (at, (key, value)) in labels.iter().enumerate() {
            let escaped = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let open = if at == 0 { '{' } else { ',' };
            let _ = write!(self.0, "{open}{key}=\"{escaped}\"");
        }
        let close = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{close} {value}");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
        self.head(name, kind, help);
        self.sample(name, &[], value);
    }
}

fn server(app: &App, page: &mut Page) {
    let statistics = &app.statistics;
    let uptime = app.started.elapsed().as_secs_f64();
    page.one("egret_uptime_seconds", "gauge", "Seconds since the start.", uptime);
    let searches = statistics.search_us.snapshot();
    page.head("egret_search_seconds", "summary", "Searches and how long they took.");
    for (name, quantile) in [("0.5", 0.5), ("0.9", 0.9), ("0.99", 0.99)] {
        if let Some(latency) = searches.quantile(quantile) {
            page.sample("egret_search_seconds", &[("quantile", name)], seconds(latency));
        }
    }
    page.sample("egret_search_seconds_sum", &[], seconds(searches.sum()));
    page.sample("egret_search_seconds_count", &[], searches.count());
    for (name, help, counter) in [
        ("egret_search_failures_total", "Searches that failed.", &statistics.search_failures),
        ("egret_write_operations_total", "Document writes.", &statistics.write_operations),
        ("egret_write_failures_total", "Document writes that failed.", &statistics.write_failures),
        ("egret_cache_hits_total", "Answers from the result cache.", &statistics.cache_hits),
        ("egret_cache_misses_total", "Answers computed for it.", &statistics.cache_misses),
    ] {
        page.one(name, "counter", help, counter.load(Relaxed));
    }
    let bodies = app.bodies.bytes();
    page.one("egret_http_bodies_bytes", "gauge", "Bytes of bodies in progress.", bodies);
    let (taken, tripped) = (app.breaker.taken_bytes(), app.breaker.tripped());
    page.one("egret_search_memory_bytes", "gauge", "Bytes of buckets and hits.", taken);
    let help = "Searches that were refused memory.";
    page.one("egret_search_memory_refused_total", "counter", help, tripped);
    let (writers, budget) = (app.engine.writers(), app.engine.budget());
    for (name, kind, help, value) in [
        ("egret_writers_open", "gauge", "Indexes that are written to.", writers.open as u64),
        ("egret_writers_waiting", "gauge", "Writes that wait for it.", writers.waiting as u64),
        ("egret_writers_asked_total", "counter", "Writers that made room.", writers.asked),
        ("egret_indexing_bytes", "gauge", "Bytes of young segments.", budget.used_bytes as u64),
    ] {
        page.one(name, kind, help, value);
    }
    let pools = &app.pools;
    let pools = [&pools.search, &pools.write, &pools.read, &pools.manage, &pools.merge];
    let pools = pools.map(Pool::statistics);
    page.head("egret_pool_active", "gauge", "Work in progress.");
    for (name, active, ..) in pools {
        page.sample("egret_pool_active", &[("pool", name)], active);
    }
    page.head("egret_pool_waiting", "gauge", "Work that waits.");
    for (name, _, waiting, _) in pools {
        page.sample("egret_pool_waiting", &[("pool", name)], waiting);
    }
    page.head("egret_pool_rejected_total", "counter", "Work that was refused.");
    for (name, .., rejected) in pools {
        page.sample("egret_pool_rejected_total", &[("pool", name)], rejected);
    }
}

fn indexes(app: &App, page: &mut Page) {
    let all: Vec<_> =
        app.engine.indexes().into_iter().map(|index| (index.stats(), index)).collect();
    page.head("egret_index_documents", "gauge", "Live documents.");
    for (stats, index) in &all {
        page.sample("egret_index_documents", &[("index", index.name())], stats.doc_count);
    }
    page.head("egret_index_bytes", "gauge", "Bytes of segments, in memory and on disk.");
    for (stats, index) in &all {
        page.sample("egret_index_bytes", &[("index", index.name())], stats.size_bytes);
    }
    page.head("egret_index_segments", "gauge", "Segments of the published state.");
    for (stats, index) in &all {
        page.sample("egret_index_segments", &[("index", index.name())], stats.segment_count);
    }
    page.head("egret_index_translog_bytes", "gauge", "Bytes in the translog.");
    for (stats, index) in &all {
        page.sample("egret_index_translog_bytes", &[("index", index.name())], stats.translog_bytes);
    }
}

fn pipelines(app: &App, page: &mut Page) {
    let all = app.pipelines.all();
    let all: Vec<_> = all.iter().map(|pipeline| pipeline.status()).collect();
    page.head("egret_cdc_lag_bytes", "gauge", "Bytes of log that are not visible yet.");
    for status in &all {
        if let Some(bytes) = status.lag.bytes {
            page.sample("egret_cdc_lag_bytes", &[("pipeline", &status.name)], bytes);
        }
    }
    page.head("egret_cdc_lag_seconds", "gauge", "How old what is visible is.");
    for status in &all {
        if let Some(lag) = status.lag.seconds {
            page.sample("egret_cdc_lag_seconds", &[("pipeline", &status.name)], lag);
        }
    }
    page.head("egret_cdc_rows_total", "counter", "Rows by how they came.");
    for status in &all {
        let rows = [("copied", status.rows_copied), ("streamed", status.rows_streamed)];
        for (way, count) in rows {
            page.sample("egret_cdc_rows_total", &[("pipeline", &status.name), ("way", way)], count);
        }
    }
    page.head("egret_cdc_dead_letters", "gauge", "Rows that could not be indexed.");
    for status in &all {
        let name = &status.name;
        page.sample("egret_cdc_dead_letters", &[("pipeline", name)], status.dead_letters);
    }
}
