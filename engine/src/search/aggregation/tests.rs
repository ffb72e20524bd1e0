//! Aggregations against a naive evaluation of the same request over the model's documents.

use std::collections::BTreeSet;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::Value;

use crate::query::ast::{Query, Scalar};
use crate::search::model::{Document, Draw, Model};
use crate::search::request::{
    Aggregation, AggregationKind, BucketOrder, DateInterval, MetricField, SearchRequest, SortValue,
    TermsAggregation,
};
use crate::search::response::{AggregationResult, Bucket};
use crate::search::search;
use crate::search::sort_key::compare_values;

/// A document and the index that it is in: queries match by the index's statistics.
type Row<'a> = (&'a Model, &'a Document);

fn midnight(text: &str) -> i64 {
    let date: Date = text.parse().unwrap();
    date.to_zoned(TimeZone::UTC).unwrap().timestamp().as_millisecond()
}

/// A document's different values, as keys.
fn keys(document: &Document, field: &str) -> Vec<SortValue> {
    let key = |value: &Value| match value {
        Value::String(text) if field == "at" => SortValue::I64(midnight(text)),
        Value::String(text) => SortValue::Text(text.clone()),
        Value::Bool(value) => SortValue::Bool(*value),
        Value::Number(number) if field == "n" => SortValue::I64(number.as_i64().unwrap()),
        other => SortValue::F64(other.as_f64().unwrap()),
    };
    let mut keys: Vec<SortValue> = document.values(field).into_iter().map(key).collect();
    keys.sort_by(compare_values);
    keys.dedup();
    keys
}

/// All values as numbers, repetitions included.
fn numbers(document: &Document, field: &str) -> Vec<f64> {
    document
        .values(field)
        .into_iter()
        .map(|value| match value {
            #[expect(clippy::cast_precision_loss, reason = "small")]
            Value::String(text) => midnight(text) as f64,
            Value::Bool(value) => f64::from(u8::from(*value)),
            other => other.as_f64().unwrap(),
        })
        .collect()
}

fn bucket(key: SortValue, rows: &[Row<'_>], sub: &[(String, Aggregation)]) -> Bucket {
    let key_as_string = None;
    let sub = evaluate_all(rows, sub);
    Bucket { key, key_as_string, from: None, to: None, doc_count: rows.len() as u64, sub }
}

fn grouped<'a>(
    rows: &[Row<'a>],
    keys: impl Fn(&Document) -> Vec<SortValue>,
) -> Vec<(SortValue, Vec<Row<'a>>)> {
    let mut groups: Vec<(SortValue, Vec<Row<'a>>)> = Vec::new();
    for row in rows {
        for key in keys(row.1) {
            match groups.iter_mut().find(|group| group.0 == key) {
                Some(group) => group.1.push(*row),
                None => groups.push((key, vec![*row])),
            }
        }
    }
    groups.sort_by(|left, right| compare_values(&left.0, &right.0));
    groups
}

fn evaluate_all(
    rows: &[Row<'_>],
    aggregations: &[(String, Aggregation)],
) -> Vec<(String, AggregationResult)> {
    let evaluate =
        |(name, own): &(String, Aggregation)| (name.clone(), evaluate(rows, &own.kind, &own.sub));
    aggregations.iter().map(evaluate).collect()
}

fn evaluate(
    rows: &[Row<'_>],
    kind: &AggregationKind,
    sub: &[(String, Aggregation)],
) -> AggregationResult {
    let matching = |query: &Query| -> Vec<Row<'_>> {
        let matches = |row: &&Row<'_>| row.0.matches(row.1, query).is_some();
        rows.iter().filter(matches).copied().collect()
    };
    match kind {
        AggregationKind::Terms(options) => terms(rows, options, sub),
        AggregationKind::Filter(query) => {
            AggregationResult::Single(bucket(SortValue::Null, &matching(query), sub))
        }
        AggregationKind::Filters(queries) => AggregationResult::Buckets {
            buckets: queries
                .iter()
                .map(|(name, query)| bucket(SortValue::Text(name.clone()), &matching(query), sub))
                .collect(),
            keyed: true,
        },
        AggregationKind::Missing { field } => {
            let without = |row: &&Row<'_>| row.1.values(field).is_empty();
            let rows: Vec<Row<'_>> = rows.iter().filter(without).copied().collect();
            AggregationResult::Single(bucket(SortValue::Null, &rows, sub))
        }
        AggregationKind::Range { field, ranges, keyed } => {
            let buckets = ranges.iter().map(|(_, from, to)| {
                let inside = |value: &f64| {
                    from.is_none_or(|from| *value >= from) && to.is_none_or(|to| *value < to)
                };
                let fits = |row: &&Row<'_>| numbers(row.1, field).iter().any(inside);
                let rows: Vec<Row<'_>> = rows.iter().filter(fits).copied().collect();
                let show = |end: &Option<f64>| end.map_or("*".into(), |end| format!("{end:?}"));
                let key = SortValue::Text(format!("{}-{}", show(from), show(to)));
                Bucket { from: *from, to: *to, ..bucket(key, &rows, sub) }
            });
            AggregationResult::Buckets { buckets: buckets.collect(), keyed: *keyed }
        }
        AggregationKind::Histogram { field, interval, offset, min_doc_count } => {
            histogram(rows, field, (*interval, *offset), *min_doc_count, sub)
        }
        AggregationKind::DateHistogram { field, interval, .. } => {
            let groups = grouped(rows, |document| {
                let days = document.values(field);
                let start =
                    |day: &Value| start_of(day.as_str().unwrap().parse().unwrap(), *interval);
                let starts: BTreeSet<i64> = days.into_iter().map(start).collect();
                starts.into_iter().map(SortValue::I64).collect()
            });
            let buckets = groups.into_iter().map(|(start, rows)| {
                let SortValue::I64(millis) = start else { unreachable!() };
                let shown = jiff::Timestamp::from_millisecond(millis).unwrap();
                let key_as_string = Some(shown.strftime("%Y-%m-%dT%H:%M:%S.000Z").to_string());
                Bucket { key_as_string, ..bucket(start, &rows, sub) }
            });
            AggregationResult::Buckets { buckets: buckets.collect(), keyed: false }
        }
        metric => evaluate_metric(rows, metric),
    }
}

fn histogram(
    rows: &[Row<'_>],
    field: &str,
    (interval, offset): (f64, f64),
    min_doc_count: u64,
    sub: &[(String, Aggregation)],
) -> AggregationResult {
    let groups = grouped(rows, |document| {
        let start = |value: &f64| ((value - offset) / interval).floor() * interval + offset;
        let mut starts: Vec<f64> = numbers(document, field).iter().map(start).collect();
        starts.sort_by(f64::total_cmp);
        starts.dedup();
        starts.into_iter().map(SortValue::F64).collect()
    });
    let mut buckets = Vec::new();
    let mut next: Option<f64> = None;
    for (key, rows) in groups {
        let SortValue::F64(start) = key else { unreachable!() };
        while min_doc_count == 0 && next.is_some_and(|next| next < start) {
            buckets.push(bucket(SortValue::F64(next.unwrap()), &[], sub));
            next = next.map(|next| next + interval);
        }
        if rows.len() as u64 >= min_doc_count {
            buckets.push(bucket(key, &rows, sub));
            next = Some(start + interval);
        }
    }
    AggregationResult::Buckets { buckets, keyed: false }
}

fn start_of(date: Date, interval: DateInterval) -> i64 {
    let day = match interval {
        DateInterval::Week => {
            let mut day = date;
            while day.weekday() != jiff::civil::Weekday::Monday {
                day = day.yesterday().unwrap();
            }
            day
        }
        DateInterval::Month => date.first_of_month(),
        DateInterval::Quarter => Date::new(date.year(), (date.month() - 1) / 3 * 3 + 1, 1).unwrap(),
        DateInterval::Year => date.first_of_year(),
        DateInterval::Fixed(_) => unreachable!("not drawn"),
    };
    midnight(&day.to_string())
}

#[expect(clippy::cast_precision_loss, reason = "small")]
fn evaluate_metric(rows: &[Row<'_>], kind: &AggregationKind) -> AggregationResult {
    let values = |field: &MetricField| -> Vec<f64> {
        rows.iter().flat_map(|row| numbers(row.1, &field.field)).collect()
    };
    let least = |values: &[f64]| values.iter().copied().reduce(f64::min);
    let greatest = |values: &[f64]| values.iter().copied().reduce(f64::max);
    let mean = |values: &[f64]| {
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    };
    let one = |field: &MetricField, value: Option<f64>| {
        let is_date = field.field == "at";
        AggregationResult::Value { value, is_date }
    };
    match kind {
        AggregationKind::Stats(field) => {
            let values = values(field);
            AggregationResult::Stats {
                count: values.len() as u64,
                min: least(&values),
                max: greatest(&values),
                avg: mean(&values),
                sum: values.iter().sum(),
            }
        }
        AggregationKind::Min(field) => one(field, least(&values(field))),
        AggregationKind::Max(field) => one(field, greatest(&values(field))),
        AggregationKind::Sum(field) => one(field, Some(values(field).iter().sum())),
        AggregationKind::Avg(field) => one(field, mean(&values(field))),
        AggregationKind::ValueCount(field) => {
            let count = rows.iter().map(|row| row.1.values(&field.field).len()).sum::<usize>();
            AggregationResult::Value { value: Some(count as f64), is_date: false }
        }
        AggregationKind::Cardinality(field) => {
            let groups = grouped(rows, |document| keys(document, &field.field));
            AggregationResult::Value { value: Some(groups.len() as f64), is_date: false }
        }
        other => unreachable!("{other:?}"),
    }
}

fn terms(
    rows: &[Row<'_>],
    options: &TermsAggregation,
    sub: &[(String, Aggregation)],
) -> AggregationResult {
    let missing = options.missing.as_ref().map(|missing| match missing {
        Scalar::Text(text) => SortValue::Text(text.clone()),
        Scalar::I64(value) => SortValue::I64(*value),
        other => unreachable!("{other:?}"),
    });
    let groups = grouped(rows, |document| {
        let keys = keys(document, &options.field);
        if keys.is_empty() { missing.iter().cloned().collect() } else { keys }
    });
    let mut buckets: Vec<Bucket> = groups
        .into_iter()
        .filter(|(_, rows)| rows.len() as u64 >= options.min_doc_count)
        .map(|(key, rows)| {
            let key_as_string = match (&key, options.field.as_str()) {
                (SortValue::Bool(value), _) => Some(value.to_string()),
                (SortValue::I64(millis), "at") => {
                    let shown = jiff::Timestamp::from_millisecond(*millis).unwrap();
                    Some(shown.strftime("%Y-%m-%dT%H:%M:%S.000Z").to_string())
                }
                _ => None,
            };
            Bucket { key_as_string, ..bucket(key, &rows, sub) }
        })
        .collect();
    // Buckets are in the order of their keys: a stable sort leaves ties so.
    for (order, descending) in options.order.iter().rev() {
        buckets.sort_by(|left, right| {
            let order = match order {
                BucketOrder::Count => left.doc_count.cmp(&right.doc_count),
                BucketOrder::Key => compare_values(&left.key, &right.key),
                BucketOrder::Metric(_) => match (metric(left), metric(right)) {
                    (Some(left), Some(right)) => left.total_cmp(&right),
                    (left, right) => return right.is_some().cmp(&left.is_some()),
                },
            };
            if *descending { order.reverse() } else { order }
        });
    }
    if options.order.is_empty() {
        buckets.sort_by_key(|bucket| std::cmp::Reverse(bucket.doc_count));
    }
    let others = buckets.split_off(options.size.min(buckets.len()));
    AggregationResult::Terms {
        buckets,
        sum_other_doc_count: others.iter().map(|bucket| bucket.doc_count).sum(),
        doc_count_error_upper_bound: 0,
    }
}

/// Orders by metric are drawn with `price`, the mean price, as the first within.
fn metric(bucket: &Bucket) -> Option<f64> {
    match bucket.sub.first() {
        Some((_, AggregationResult::Value { value, .. })) => *value,
        other => unreachable!("{other:?}"),
    }
}

fn metric_field(field: &str) -> MetricField {
    MetricField { field: field.into(), missing: None }
}

fn draw_aggregation(draw: &mut Draw, depth: usize) -> Aggregation {
    let number = ["n", "price", "at", "on"][draw.below(4)];
    let kind = match draw.below(if depth == 0 { 7 } else { 15 }) {
        0 => AggregationKind::Stats(metric_field("n")),
        1 => AggregationKind::Min(metric_field(number)),
        2 => AggregationKind::Max(metric_field(number)),
        3 => AggregationKind::Sum(metric_field("price")),
        4 => AggregationKind::Avg(metric_field("price")),
        5 => AggregationKind::ValueCount(metric_field("tag")),
        6 => AggregationKind::Cardinality(metric_field(["tag", "n", "at"][draw.below(3)])),
        7 => AggregationKind::Histogram {
            field: "n".into(),
            interval: 4.0,
            offset: 1.0,
            min_doc_count: draw.below(3) as u64,
        },
        8 => AggregationKind::DateHistogram {
            field: "at".into(),
            interval: [
                DateInterval::Week,
                DateInterval::Month,
                DateInterval::Quarter,
                DateInterval::Year,
            ][draw.below(4)],
            min_doc_count: 1,
        },
        9 => AggregationKind::Range {
            field: ["n", "price"][draw.below(2)].into(),
            ranges: vec![
                (None, None, Some(2.0)),
                (None, Some(0.0), Some(7.5)),
                (None, Some(7.5), None),
            ],
            keyed: draw.chance(50),
        },
        10 => AggregationKind::Filter(draw.query(1)),
        11 => {
            AggregationKind::Filters(vec![("a".into(), draw.query(1)), ("b".into(), draw.leaf())])
        }
        12 => AggregationKind::Missing { field: ["tag", "n", "on"][draw.below(3)].into() },
        _ => return draw_terms(draw, depth),
    };
    let is_metric = matches!(
        kind,
        AggregationKind::Stats(_)
            | AggregationKind::Min(_)
            | AggregationKind::Max(_)
            | AggregationKind::Sum(_)
            | AggregationKind::Avg(_)
            | AggregationKind::ValueCount(_)
            | AggregationKind::Cardinality(_)
    );
    let sub = if is_metric { Vec::new() } else { draw_subs(draw, depth - 1) };
    Aggregation { kind, sub }
}

fn draw_subs(draw: &mut Draw, depth: usize) -> Vec<(String, Aggregation)> {
    (0..draw.below(3)).map(|place| (format!("s{place}"), draw_aggregation(draw, depth))).collect()
}

fn draw_terms(draw: &mut Draw, depth: usize) -> Aggregation {
    let field = ["tag", "tag", "n", "on", "at"][draw.below(5)];
    let by_metric = draw.chance(25);
    let mut sub = draw_subs(draw, depth - 1);
    let order = if by_metric {
        let price = AggregationKind::Avg(metric_field("price"));
        sub.insert(0, ("price".into(), Aggregation { kind: price, sub: Vec::new() }));
        vec![(BucketOrder::Metric("price".into()), draw.chance(50))]
    } else {
        match draw.below(3) {
            0 => vec![(BucketOrder::Key, draw.chance(50))],
            1 => vec![(BucketOrder::Count, false), (BucketOrder::Key, true)],
            _ => Vec::new(),
        }
    };
    let missing = match (draw.below(3), field) {
        (0, "tag") => Some(Scalar::Text("none".into())),
        (0, "n") => Some(Scalar::I64(3)),
        _ => None,
    };
    let options = TermsAggregation {
        field: field.into(),
        size: 1 + draw.below(6),
        min_doc_count: 1 + draw.below(2) as u64,
        order,
        missing,
        include: None,
        exclude: None,
    };
    Aggregation { kind: AggregationKind::Terms(options), sub }
}

#[test]
fn random_aggregations_agree_with_the_model() {
    for seed in 0..80 {
        let mut draw = Draw { random: StdRng::seed_from_u64(2000 + seed) };
        let (first, first_model) = draw.index("a");
        let (second, second_model) = draw.index("b");
        let snapshots = [first, second];
        for _ in 0..6 {
            let aggregations: Vec<(String, Aggregation)> = (0..=draw.below(2))
                .map(|place| (format!("t{place}"), draw_aggregation(&mut draw, 2)))
                .collect();
            let query = draw.query(1);
            let mut rows: Vec<Row<'_>> = Vec::new();
            for model in [&first_model, &second_model] {
                let living = model.documents.iter().filter(|(_, alive)| *alive);
                let matching =
                    living.filter(|(document, _)| model.matches(document, &query).is_some());
                rows.extend(matching.map(|(document, _)| (model, document)));
            }
            let request = SearchRequest {
                query,
                size: draw.below(3),
                aggregations: aggregations.clone(),
                ..SearchRequest::default()
            };
            let response = search(&snapshots, &request).unwrap();
            let expected = evaluate_all(&rows, &aggregations);
            assert_eq!(response.aggregations, expected, "{seed}: {request:#?}");
        }
    }
}
