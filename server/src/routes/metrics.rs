//! `/_metrics`: the history of Egret's own statistics.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::State;
use egret_metrics::{Aggregation, Matcher, Metrics, Query, Range, Sample, Series};
use serde_json::{Map, Value, json};

use crate::app::App;
use crate::error::{Error, Kind, Result};
use crate::http::{Call, Params, Reply};

/// About how many points a query that names no step has.
const DEFAULT_POINTS: u64 = 300;
/// How long a span is that has no beginning, in seconds.
const DEFAULT_SPAN: i64 = 3_600;
/// The share of answers that came from the cache, derived from two counters.
const HIT_RATIO: &str = "cache_hit_ratio";

const AGGREGATIONS: &[(&str, Aggregation)] = &[
    ("avg", Aggregation::Average),
    ("min", Aggregation::Minimum),
    ("max", Aggregation::Maximum),
    ("sum", Aggregation::Sum),
    ("count", Aggregation::Count),
    ("last", Aggregation::Last),
    ("rate", Aggregation::Rate),
];

fn store(app: &App) -> Result<&Metrics> {
    let off = || Error::new(Kind::NotFound, "metrics are off: [metrics.enabled] is [false]");
    app.metrics.as_ref().ok_or_else(off)
}

pub(super) async fn series(State(app): State<Arc<App>>, call: Call) -> Result<Reply> {
    call.params.allow(&[])?;
    let store = store(&app)?;
    let names: Vec<String> = store.series().iter().map(ToString::to_string).collect();
    let stats = store.stats();
    Ok(Reply::ok(&json!({
        "series": names,
        "samples": stats.samples,
        "bytes": stats.bytes,
        "bytes_per_sample": stats.bytes_per_sample(),
        "partitions": stats.partitions,
        "damaged_chunks": stats.damaged_chunks,
    })))
}

pub(super) async fn query(State(app): State<Arc<App>>, call: Call) -> Result<Reply> {
    call.params.allow(&["name", "labels", "from", "to", "step", "aggregation"])?;
    store(&app)?;
    let (query, aggregation) = read(&call.params)?;
    let asked = query.clone();
    let of_app = Arc::clone(&app);
    let run = move || {
        let metrics = store(&of_app)?;
        if asked.name == HIT_RATIO { hit_ratio(metrics, &asked) } else { ask(metrics, &asked) }
    };
    let ranges = app.pools.read.run(run).await?;
    Ok(Reply::ok(&json!({
        "name": query.name,
        "from": query.from,
        "to": query.to,
        "step": query.step,
        "aggregation": aggregation,
        "series": ranges.iter().map(shown).collect::<Vec<_>>(),
    })))
}

fn ask(metrics: &Metrics, query: &Query) -> Result<Vec<Range>> {
    metrics.query(query).map_err(|error| Error::argument(error.to_string()).with_source(error))
}

fn shown(range: &Range) -> Value {
    let labels = range.series.labels();
    let labels: Map<String, Value> =
        labels.map(|(label, value)| (label.to_owned(), value.into())).collect();
    let points: Vec<Value> =
        range.points.iter().map(|point| json!([point.time, point.value])).collect();
    json!({"name": range.series.name(), "labels": labels, "points": points})
}

/// A query, and what its aggregation is called. Times are seconds since 1970.
fn read(params: &Params) -> Result<(Query, &'static str)> {
    let name = params.filled("name").ok_or_else(|| Error::argument("[name] is missing"))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let to = params.integer("to")?.unwrap_or(now);
    let from = params.integer("from")?.unwrap_or(to.saturating_sub(DEFAULT_SPAN));
    let step = match params.count("step")? {
        Some(step) => u32::try_from(step)
            .map_err(|_| Error::argument(format!("[step] of [{step}] seconds is too long")))?,
        None => u32::try_from(to.abs_diff(from) / DEFAULT_POINTS + 1).unwrap_or(u32::MAX),
    };
    // What counts up is asked for by its growth.
    let usual = if name.ends_with("_total") { "rate" } else { "avg" };
    let wanted = params.filled("aggregation").unwrap_or(usual);
    let found = AGGREGATIONS.iter().find(|(known, _)| *known == wanted);
    let (aggregation_name, aggregation) = *found.ok_or_else(|| {
        let known: Vec<&str> = AGGREGATIONS.iter().map(|(known, _)| *known).collect();
        Error::argument(format!("[aggregation] of [{wanted}] is none of [{}]", known.join(", ")))
    })?;
    let matchers = params.list("labels").iter().map(|text| matcher(text)).collect::<Result<_>>()?;
    let query = Query { name: name.to_owned(), matchers, from, to, step, aggregation };
    Ok((query, aggregation_name))
}

/// `label:value`.
fn matcher(text: &str) -> Result<Matcher> {
    let (label, value) = text
        .split_once(':')
        .ok_or_else(|| Error::argument(format!("[labels] has [{text}], expected [label:value]")))?;
    Ok(Matcher::Is(label.to_owned(), value.to_owned()))
}

/// The ratio of what two counters gained in each step.
fn hit_ratio(metrics: &Metrics, query: &Query) -> Result<Vec<Range>> {
    let counter = |name: &str| {
        let (name, aggregation) = (name.to_owned(), Aggregation::Rate);
        let ranges = ask(metrics, &Query { name, aggregation, ..query.clone() })?;
        Ok::<_, Error>(ranges.into_iter().next().map_or_else(Vec::new, |range| range.points))
    };
    let hits = counter("cache_hits_total")?;
    let misses: HashMap<i64, f64> =
        counter("cache_misses_total")?.into_iter().map(|point| (point.time, point.value)).collect();
    let ratio = |hits: &Sample| {
        let asked = hits.value + misses.get(&hits.time)?;
        (asked > 0.0).then(|| Sample { time: hits.time, value: hits.value / asked })
    };
    let points: Vec<Sample> = hits.iter().filter_map(ratio).collect();
    let series = Series::new(HIT_RATIO, [])
        .map_err(|error| Error::new(Kind::Internal, error.to_string()).with_source(error))?;
    Ok(vec![Range { series: Arc::new(series), points }])
}
