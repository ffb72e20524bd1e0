//! `aggs`: named aggregations, each with its own and within it others.

use egret_engine::search::request::{
    Aggregation, AggregationKind, BucketOrder, DateInterval, MetricField, TermsAggregation,
};
use serde_json::{Map, Value};

use super::json::{Field, did_you_mean, token};
use super::query::{QueryReader, unknown_field};
use super::time;
use crate::error::{Error, Result};

/// Aggregations may be nested so deep.
const MAX_DEPTH: usize = 16;
/// A request may have so many aggregations.
const MAX_AGGREGATIONS: usize = 1_000;
/// A `terms` aggregation may ask for so many buckets (`search.max_buckets`).
const MAX_BUCKETS: usize = 65_536;

const KINDS: &[&str] = &[
    "avg",
    "cardinality",
    "date_histogram",
    "filter",
    "filters",
    "histogram",
    "max",
    "min",
    "missing",
    "range",
    "stats",
    "sum",
    "terms",
    "value_count",
];

/// Reads named aggregations.
pub(crate) fn read(
    reader: &mut QueryReader<'_>,
    json: &Value,
) -> Result<Vec<(String, Aggregation)>> {
    let mut count = 0;
    named(reader, json, 0, &mut count)
}

fn named(
    reader: &mut QueryReader<'_>,
    json: &Value,
    depth: usize,
    count: &mut usize,
) -> Result<Vec<(String, Aggregation)>> {
    let object = Field::new("aggs", "aggs", json).object()?;
    *count += object.len();
    if depth == MAX_DEPTH || *count > MAX_AGGREGATIONS {
        return Err(Error::argument(format!(
            "aggregations are more than [{MAX_AGGREGATIONS}] or nest deeper than [{MAX_DEPTH}]"
        )));
    }
    let mut found = Vec::with_capacity(object.len());
    for (name, definition) in object {
        if name.is_empty() || name.contains(['[', ']', '>']) {
            return Err(Error::parsing(format!(
                "Invalid aggregation name [{name}]. Aggregation names can contain any character \
                 except '[', ']', and '>'"
            )));
        }
        let Value::Object(definition) = definition else {
            return Err(Error::parsing(format!(
                "Aggregation definition for [{name}] starts with a [{}], expected a \
                 [START_OBJECT].",
                token(definition)
            )));
        };
        found.push((name.clone(), one(reader, name, definition, depth, count)?));
    }
    Ok(found)
}

fn one(
    reader: &mut QueryReader<'_>,
    name: &str,
    definition: &Map<String, Value>,
    depth: usize,
    count: &mut usize,
) -> Result<Aggregation> {
    let mut found: Option<(&str, AggregationKind)> = None;
    let mut sub = Vec::new();
    for (key, value) in definition {
        if matches!(key.as_str(), "aggs" | "aggregations") {
            sub = named(reader, value, depth + 1, count)?;
            continue;
        }
        if let Some((first, _)) = found {
            return Err(Error::parsing(format!(
                "Found two aggregation type definitions in [{name}]: [{first}] and [{key}]"
            )));
        }
        if !KINDS.contains(&key.as_str()) {
            let offer = did_you_mean(key, KINDS);
            return Err(Error::parsing(format!("Unknown aggregation type [{key}]{offer}")));
        }
        found = Some((key, kind(reader, name, key, value)?));
    }
    let (written, kind) = found
        .ok_or_else(|| Error::parsing(format!("Missing definition for aggregation [{name}]")))?;
    let metric =
        matches!(written, "avg" | "cardinality" | "max" | "min" | "stats" | "sum" | "value_count");
    if metric && !sub.is_empty() {
        return Err(Error::argument(format!(
            "Aggregator [{name}] of type [{written}] cannot accept sub-aggregations"
        )));
    }
    Ok(Aggregation { kind, sub })
}

fn kind(
    reader: &mut QueryReader<'_>,
    name: &str,
    written: &str,
    value: &Value,
) -> Result<AggregationKind> {
    if written == "filter" {
        return reader.query(value).map(AggregationKind::Filter);
    }
    let body = Field::new(name, written, value).object()?;
    Ok(match written {
        "terms" => AggregationKind::Terms(terms(name, body)?),
        "histogram" => histogram(body)?,
        "date_histogram" => date_histogram(body)?,
        "range" => range(body)?,
        "filters" => filters(reader, body)?,
        "missing" => AggregationKind::Missing { field: only_field("missing", body)? },
        "avg" => AggregationKind::Avg(metric(name, written, body)?),
        "cardinality" => AggregationKind::Cardinality(metric(name, written, body)?),
        "max" => AggregationKind::Max(metric(name, written, body)?),
        "min" => AggregationKind::Min(metric(name, written, body)?),
        "sum" => AggregationKind::Sum(metric(name, written, body)?),
        "value_count" => AggregationKind::ValueCount(metric(name, written, body)?),
        _ => AggregationKind::Stats(metric(name, written, body)?),
    })
}

fn required(kind: &str, field: Option<String>) -> Result<String> {
    field.ok_or_else(|| {
        Error::argument(format!(
            "Required one of fields [field], but none were specified for [{kind}]"
        ))
    })
}

fn metric(name: &str, kind: &str, body: &Map<String, Value>) -> Result<MetricField> {
    let mut source = None;
    let mut missing = None;
    for (key, value) in body {
        let field = Field::new(kind, key, value);
        match key.as_str() {
            "field" => source = Some(field.text()?),
            "missing" => missing = Some(field.scalar()?),
            // A hint of what counting may cost; the engine's counts are as exact at any value.
            "precision_threshold" if kind == "cardinality" => precision_threshold(&field, name)?,
            _ => return Err(unknown_field(kind, key, &["field", "missing"])),
        }
    }
    Ok(MetricField { field: required(kind, source)?, missing })
}

fn precision_threshold(field: &Field<'_>, name: &str) -> Result<()> {
    let threshold = field.integer()?;
    if threshold >= 0 {
        return Ok(());
    }
    Err(Error::argument(format!(
        "[precisionThreshold] must be greater than or equal to 0. Found [{threshold}] in [{name}]"
    )))
}

fn only_field(kind: &str, body: &Map<String, Value>) -> Result<String> {
    let mut name = None;
    for (key, value) in body {
        match key.as_str() {
            "field" => name = Some(Field::new(kind, key, value).text()?),
            _ => return Err(unknown_field(kind, key, &["field"])),
        }
    }
    required(kind, name)
}

fn terms(name: &str, body: &Map<String, Value>) -> Result<TermsAggregation> {
    const KIND: &str = "terms";
    const KEYS: &[&str] = &[
        "field",
        "size",
        "min_doc_count",
        "order",
        "missing",
        "include",
        "exclude",
        "shard_size",
        "show_term_doc_count_error",
        "collect_mode",
        "execution_hint",
    ];
    let mut terms = TermsAggregation {
        field: String::new(),
        size: 10,
        min_doc_count: 1,
        order: vec![(BucketOrder::Count, true)],
        missing: None,
        include: None,
        exclude: None,
    };
    let mut source = None;
    for (key, value) in body {
        let field = Field::new(KIND, key, value);
        match key.as_str() {
            "field" => source = Some(field.text()?),
            "size" => terms.size = positive(&field, name)?.min(MAX_BUCKETS),
            "min_doc_count" => terms.min_doc_count = field.count()? as u64,
            "order" => terms.order = order(&field)?,
            "missing" => terms.missing = Some(field.scalar()?),
            "include" => terms.include = Some(exact_values(&field)?),
            "exclude" => terms.exclude = Some(exact_values(&field)?),
            // One shard counts exactly, so how many it offers makes no difference.
            "shard_size" => drop(positive(&field, name)?),
            "show_term_doc_count_error" if !field.boolean()? => {}
            "collect_mode" => one_of(&field, &["depth_first", "breadth_first"])?,
            "execution_hint" => one_of(&field, &["map", "global_ordinals"])?,
            _ => return Err(unknown_field(KIND, key, KEYS)),
        }
    }
    terms.field = required(KIND, source)?;
    Ok(terms)
}

fn positive(field: &Field<'_>, name: &str) -> Result<usize> {
    match field.count()? {
        0 => Err(Error::argument(format!(
            "[{}] must be greater than 0. Found [0] in [{name}]",
            field.key
        ))),
        count => Ok(count),
    }
}

fn one_of(field: &Field<'_>, known: &[&str]) -> Result<()> {
    let text = field.text()?;
    if known.contains(&text.as_str()) {
        Ok(())
    } else {
        Err(field.wrong(&format!("one of [{}]", known.join(", "))))
    }
}

fn exact_values(field: &Field<'_>) -> Result<Vec<String>> {
    match field.value {
        Value::Array(_) => field.texts(),
        _ => Err(Error::parsing(format!(
            "[terms] [{}] takes an array of exact values, found [{}]",
            field.key,
            token(field.value)
        ))),
    }
}

/// `{"_count": "desc"}`, or an array of such.
fn order(field: &Field<'_>) -> Result<Vec<(BucketOrder, bool)>> {
    let elements = match field.value {
        Value::Array(elements) => elements.as_slice(),
        one => std::slice::from_ref(one),
    };
    let mut keys = Vec::new();
    for element in elements {
        let object = Field::new("terms", "order", element).object()?;
        let mut entries = object.iter();
        let (Some((by, direction)), None) = (entries.next(), entries.next()) else {
            return Err(Error::parsing("Must specify at least one and only one field for [order]"));
        };
        let by = match by.as_str() {
            "_count" => BucketOrder::Count,
            "_key" => BucketOrder::Key,
            path => BucketOrder::Metric(path.to_owned()),
        };
        let descending = match direction.as_str().map(str::to_ascii_lowercase).as_deref() {
            Some("asc") => false,
            Some("desc") => true,
            _ => {
                return Err(Error::parsing(format!("Unknown order direction [{direction}]")));
            }
        };
        keys.push((by, descending));
    }
    Ok(keys)
}

fn histogram(body: &Map<String, Value>) -> Result<AggregationKind> {
    const KIND: &str = "histogram";
    const KEYS: &[&str] = &["field", "interval", "offset", "min_doc_count", "keyed"];
    let (mut source, mut interval, mut offset, mut min_doc_count) = (None, None, 0.0, 0);
    for (key, value) in body {
        let field = Field::new(KIND, key, value);
        match key.as_str() {
            "field" => source = Some(field.text()?),
            "interval" => interval = Some(field.float()?),
            "offset" => offset = field.float()?,
            "min_doc_count" => min_doc_count = field.count()? as u64,
            "keyed" if !field.boolean()? => {}
            _ => return Err(unknown_field(KIND, key, KEYS)),
        }
    }
    let interval = interval
        .filter(|interval| *interval > 0.0)
        .ok_or_else(|| Error::argument("[interval] must be >0 for histogram aggregation"))?;
    Ok(AggregationKind::Histogram {
        field: required(KIND, source)?,
        interval,
        offset,
        min_doc_count,
    })
}

fn date_histogram(body: &Map<String, Value>) -> Result<AggregationKind> {
    const KIND: &str = "date_histogram";
    const KEYS: &[&str] =
        &["field", "fixed_interval", "calendar_interval", "min_doc_count", "time_zone", "keyed"];
    let (mut source, mut interval, mut min_doc_count) = (None, None, 0);
    for (key, value) in body {
        let field = Field::new(KIND, key, value);
        let read = match key.as_str() {
            "fixed_interval" => fixed_interval(&field)?,
            "calendar_interval" => calendar_interval(&field)?,
            "field" => {
                source = Some(field.text()?);
                continue;
            }
            "min_doc_count" => {
                min_doc_count = field.count()? as u64;
                continue;
            }
            "time_zone" => {
                one_of(&field, &["UTC", "Z", "+00:00"])?;
                continue;
            }
            "keyed" if !field.boolean()? => continue,
            _ => return Err(unknown_field(KIND, key, KEYS)),
        };
        if interval.replace(read).is_some() {
            return Err(Error::argument(
                "Cannot use [fixed_interval] with [calendar_interval] in one [date_histogram]",
            ));
        }
    }
    let interval = interval.ok_or_else(|| {
        Error::argument(
            "Invalid interval specified, must be non-null and non-empty: \
             [fixed_interval] or [calendar_interval]",
        )
    })?;
    Ok(AggregationKind::DateHistogram { field: required(KIND, source)?, interval, min_doc_count })
}

fn fixed_interval(field: &Field<'_>) -> Result<DateInterval> {
    let duration = time::duration(&field.text()?, "date_histogram.fixed_interval")?;
    let milliseconds = duration.and_then(|duration| i64::try_from(duration.as_millis()).ok());
    match milliseconds {
        Some(milliseconds) if milliseconds > 0 => Ok(DateInterval::Fixed(milliseconds)),
        _ => Err(field.wrong("an interval of at least a millisecond")),
    }
}

fn calendar_interval(field: &Field<'_>) -> Result<DateInterval> {
    Ok(match field.text()?.as_str() {
        "minute" | "1m" => DateInterval::Fixed(60_000),
        "hour" | "1h" => DateInterval::Fixed(3_600_000),
        "day" | "1d" => DateInterval::Fixed(86_400_000),
        "week" | "1w" => DateInterval::Week,
        "month" | "1M" => DateInterval::Month,
        "quarter" | "1q" => DateInterval::Quarter,
        "year" | "1y" => DateInterval::Year,
        other => {
            return Err(Error::argument(format!(
                "The supplied interval [{other}] could not be parsed as a calendar interval."
            )));
        }
    })
}

fn range(body: &Map<String, Value>) -> Result<AggregationKind> {
    const KIND: &str = "range";
    let (mut source, mut ranges, mut keyed) = (None, Vec::new(), false);
    for (key, value) in body {
        let field = Field::new(KIND, key, value);
        match key.as_str() {
            "field" => source = Some(field.text()?),
            "keyed" => keyed = field.boolean()?,
            "ranges" => ranges = field.array()?.iter().map(one_range).collect::<Result<_>>()?,
            _ => return Err(unknown_field(KIND, key, &["field", "keyed", "ranges"])),
        }
    }
    if ranges.is_empty() {
        return Err(Error::argument("No [ranges] specified for the [range] aggregation"));
    }
    Ok(AggregationKind::Range { field: required(KIND, source)?, ranges, keyed })
}

type NamedRange = (Option<String>, Option<f64>, Option<f64>);

fn one_range(value: &Value) -> Result<NamedRange> {
    let mut range = (None, None, None);
    for (key, value) in Field::new("range", "ranges", value).object()? {
        let field = Field::new("range", key, value);
        match key.as_str() {
            "key" => range.0 = Some(field.text()?),
            "from" | "to" if value.is_null() => {}
            "from" => range.1 = Some(field.float()?),
            "to" => range.2 = Some(field.float()?),
            _ => return Err(unknown_field("range", key, &["key", "from", "to"])),
        }
    }
    Ok(range)
}

fn filters(reader: &mut QueryReader<'_>, body: &Map<String, Value>) -> Result<AggregationKind> {
    let mut named = Vec::new();
    for (key, value) in body {
        let field = Field::new("filters", key, value);
        match key.as_str() {
            "filters" if value.as_array().is_some_and(Vec::is_empty) => {}
            "filters" => {
                for (name, query) in field.object()? {
                    named.push((name.clone(), reader.query(query)?));
                }
            }
            _ => return Err(unknown_field("filters", key, &["filters"])),
        }
    }
    if named.is_empty() {
        return Err(Error::argument("[filters] cannot be empty."));
    }
    Ok(AggregationKind::Filters(named))
}

#[cfg(test)]
#[path = "aggregations_tests.rs"]
mod tests;
