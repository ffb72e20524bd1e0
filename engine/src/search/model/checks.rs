//! The engine against the model.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::sync::Arc;

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::{Document, Draw, Model};
use crate::query::ast::{Query, Scalar};
use crate::search::request::{
    Missing, SearchRequest, Sort, SortBy, SortMode, SortValue, TrackTotalHits,
};
use crate::search::response::Hit;
use crate::search::sort_key::{compare, compare_values};
use crate::search::{count, search};
use crate::snapshot::Snapshot;

pub(super) fn close(left: f32, right: f32) -> bool {
    (left - right).abs() <= 1e-5 * left.abs().max(right.abs()).max(1.0)
}

fn place(model: &Model, id: &str) -> usize {
    model.documents.iter().position(|(document, _)| document.id == id).unwrap()
}

fn check_query(snapshot: &Arc<Snapshot>, model: &Model, query: &Query, size: usize) {
    let snapshots = [Arc::clone(snapshot)];
    let expected = model.search(query);
    let all = SearchRequest {
        query: query.clone(),
        size: 1000,
        track_total_hits: TrackTotalHits::Exact,
        ..SearchRequest::default()
    };
    let response = search(&snapshots, &all).unwrap();
    let ids = |hits: &[Hit]| -> BTreeSet<usize> {
        hits.iter().map(|hit| place(model, &hit.id)).collect()
    };
    let expected_ids: BTreeSet<usize> = expected.iter().map(|(place, _)| *place).collect();
    assert_eq!(ids(&response.hits), expected_ids, "{query:?}");
    assert_eq!(response.total.unwrap().value, expected.len() as u64, "{query:?}");
    assert_eq!(count(&snapshots, query).unwrap(), expected.len() as u64, "{query:?}");
    for hit in &response.hits {
        let place = place(model, &hit.id);
        let (_, score) = expected.iter().find(|(other, _)| *other == place).unwrap();
        let actual = hit.score.unwrap();
        assert!(close(actual, *score), "{} of {query:?}: {actual} not {score}", hit.id);
    }
    // The best few, which may be pruned, are a prefix of the whole.
    for track_total_hits in [TrackTotalHits::Off, TrackTotalHits::UpTo(3), TrackTotalHits::Exact] {
        let few = SearchRequest { size, track_total_hits, ..all.clone() };
        let few = search(&snapshots, &few).unwrap();
        let head = response.hits.iter().take(size);
        for (actual, expected) in few.hits.iter().zip(head) {
            assert!(close(actual.score.unwrap(), expected.score.unwrap()), "{query:?}");
        }
        assert_eq!(few.hits.len(), response.hits.len().min(size), "{query:?}");
        let limit = match track_total_hits {
            TrackTotalHits::UpTo(limit) => limit,
            _ => u64::MAX,
        };
        if let Some(total) = few.total {
            assert_eq!(total.value, (expected.len() as u64).min(limit), "{query:?}");
            assert_eq!(total.exact, expected.len() as u64 <= limit, "{query:?}");
        }
    }
}

#[test]
fn random_queries_match_and_score_as_the_model_says() {
    for seed in 0..40 {
        let mut draw = Draw { random: StdRng::seed_from_u64(seed) };
        let (snapshot, model) = draw.index("a");
        for _ in 0..25 {
            let query = draw.query(3);
            check_query(&snapshot, &model, &query, 1 + draw.below(5));
        }
    }
}

/// What a document is sorted by, in the model.
fn sort_value(document: &Document, sort: &Sort) -> SortValue {
    let SortBy::Field(field) = &sort.by else { return SortValue::Null };
    let mode = sort.mode.unwrap_or(if sort.descending { SortMode::Max } else { SortMode::Min });
    let values = document.values(field);
    let numbers = || values.iter().filter_map(|value| value.as_f64()).map(SortValue::F64);
    let mut values: Vec<SortValue> = match field.as_str() {
        "tag" => document.texts("tag").into_iter().map(SortValue::Text).collect(),
        "n" => values.iter().filter_map(|value| value.as_i64()).map(SortValue::I64).collect(),
        "on" => values.iter().filter_map(|value| value.as_bool()).map(SortValue::Bool).collect(),
        "at" => document
            .texts("at")
            .iter()
            .map(|text| {
                let date: jiff::civil::Date = text.parse().unwrap();
                let midnight = date.to_zoned(jiff::tz::TimeZone::UTC).unwrap();
                SortValue::I64(midnight.timestamp().as_millisecond())
            })
            .collect(),
        _ => numbers().collect(),
    };
    values.sort_by(compare_values);
    let chosen = if mode == SortMode::Max { values.pop() } else { values.first().cloned() };
    match (chosen, &sort.missing) {
        (Some(value), _) => value,
        (None, Missing::Value(Scalar::I64(value))) => SortValue::I64(*value),
        (None, Missing::Value(Scalar::Text(value))) => SortValue::Text(value.clone()),
        (None, _) => SortValue::Null,
    }
}

/// The order of two documents in the model, but for their places.
pub(super) fn order(left: &Document, right: &Document, sort: &[Sort]) -> Ordering {
    let orders = sort.iter().map(|sort| {
        let (left, right) = (sort_value(left, sort), sort_value(right, sort));
        compare(sort, &left, &right)
    });
    orders.fold(Ordering::Equal, Ordering::then)
}

#[test]
fn random_sorts_page_through_what_the_model_orders() {
    for seed in 0..60 {
        let mut draw = Draw { random: StdRng::seed_from_u64(1000 + seed) };
        let (first, first_model) = draw.index("a");
        let (second, second_model) = draw.index("b");
        let query = draw.query(1);
        let sort: Vec<Sort> = (0..=draw.below(2))
            .map(|_| {
                let field = ["tag", "n", "price", "on", "at"][draw.below(5)];
                let missing = match (draw.below(3), field) {
                    (0, _) => Missing::First,
                    (1, "n") => Missing::Value(Scalar::I64(4)),
                    (1, "tag") => Missing::Value(Scalar::Text("m".into())),
                    _ => Missing::Last,
                };
                Sort {
                    by: SortBy::Field(field.into()),
                    descending: draw.chance(50),
                    missing,
                    mode: draw.chance(30).then_some(SortMode::Max),
                    unmapped_type: None,
                }
            })
            .collect();
        let mut expected: Vec<(String, Vec<SortValue>)> = Vec::new();
        for model in [&first_model, &second_model] {
            let living = model.documents.iter().filter(|(_, alive)| *alive);
            let matching = living.filter(|(document, _)| model.matches(document, &query).is_some());
            expected.extend(matching.map(|(document, _)| {
                let values = sort.iter().map(|sort| sort_value(document, sort)).collect();
                (document.id.clone(), values)
            }));
        }
        expected.sort_by(|left, right| {
            let keys = sort.iter().zip(left.1.iter().zip(&right.1));
            keys.map(|(sort, (left, right))| compare(sort, left, right))
                .find(|order| order.is_ne())
                .unwrap_or(Ordering::Equal)
        });
        let snapshots = [first, second];
        let size = 1 + draw.below(7);
        let mut request = SearchRequest { query, size, sort, ..SearchRequest::default() };
        let window: Vec<_> = expected.iter().take(size).cloned().collect();
        let hits = |request: &SearchRequest| -> Vec<(String, Vec<SortValue>)> {
            let response = search(&snapshots, request).unwrap();
            response.hits.into_iter().map(|hit| (hit.id, hit.sort)).collect()
        };
        assert_eq!(hits(&request), window, "{seed}: {request:?}");
        request.from = size;
        let window: Vec<_> = expected.iter().skip(size).take(size).cloned().collect();
        assert_eq!(hits(&request), window, "{seed}: {request:?}");
        // After the values of a hit come all hits with later values.
        request.from = 0;
        request.size = 1000;
        if let Some((_, after)) = expected.get(draw.below(expected.len().max(1))) {
            request.search_after = Some(after.clone());
            let later: Vec<_> = expected
                .iter()
                .skip_while(|(_, values)| values != after)
                .filter(|(_, values)| values != after)
                .cloned()
                .collect();
            assert_eq!(hits(&request), later, "{seed}: {request:?}");
        }
    }
}
