//! Skipping low scores, by block-max WAND or of misspelled terms, against looking at everything.

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};

use super::checks::close;
use crate::query::ast::{Bool, Fuzziness, Query, Scalar};
use crate::search::request::{SearchRequest, TrackTotalHits};
use crate::search::{fixture, search};

fn word(random: &mut StdRng) -> String {
    let spread: f64 = random.random();
    format!("w{}", (12.0 * spread * spread).floor())
}

/// A few words, or many of which one is repeated often.
fn title(random: &mut StdRng) -> String {
    let long = random.random_ratio(1, 40);
    let length = random.random_range(if long { 30..50 } else { 1..3 });
    let repeated = if long { random.random_range(length / 4..length) } else { 0 };
    let mut words = vec![word(random); repeated];
    words.extend((repeated..length).map(|_| word(random)));
    words.join(" ")
}

/// Thousands of documents, so that postings have many blocks. Most lack the field, so that the
/// segments' own average lengths, by which block maxima are chosen, are far from Lucene's: by them
/// short texts look better than long ones with many occurrences.
#[test]
fn pruning_loses_no_hit() {
    for seed in 0..4 {
        check(StdRng::seed_from_u64(seed));
    }
}

fn check(mut random: StdRng) {
    let segments: Vec<Vec<(String, Value)>> = (0..2)
        .map(|segment| {
            let document = |number: usize| {
                let title = title(&mut random);
                let has = number.is_multiple_of(6);
                let source = if has { json!({"title": title}) } else { json!({}) };
                (format!("{segment}-{number}"), source)
            };
            (0..6000).map(document).collect()
        })
        .collect();
    let mapping = json!({"properties": {"title": {"type": "text"}}});
    let deleted = ["0-0".to_owned(), "1-6".to_owned()];
    for deleted in [&[][..], &deleted[..]] {
        let snapshots = [fixture::snapshot("a", &mapping, &segments, deleted)];
        for round in 0..60 {
            let terms = (0..=round % 3).map(|_| word(&mut random)).collect();
            let is_fuzzy = round % 3 == 2;
            let query = match round % 3 {
                2 => misspelled(word(&mut random)),
                _ => all_or_any(terms, round % 2 == 0),
            };
            let best = |track_total_hits, min_score| -> Vec<(String, f32)> {
                let (query, size) = (query.clone(), 1 + round % 4);
                let request = SearchRequest {
                    query,
                    size,
                    track_total_hits,
                    min_score,
                    ..SearchRequest::default()
                };
                let hits = search(&snapshots, &request).unwrap().hits;
                hits.into_iter().filter_map(|hit| Some((hit.id, hit.score?))).collect()
            };
            // Where there is a least score, nothing is skipped.
            let exhaustive = best(TrackTotalHits::Exact, Some(0.0));
            let same = |pruned: Vec<(String, f32)>| are_same(&pruned, &exhaustive, is_fuzzy);
            assert!(same(best(TrackTotalHits::Off, None)), "{query:?}");
            assert!(same(best(TrackTotalHits::UpTo(50), None)), "{query:?}");
        }
    }
}

/// Whether hits score alike, and are of the same documents where terms are added up in one order.
fn are_same(pruned: &[(String, f32)], all: &[(String, f32)], in_one_order: bool) -> bool {
    let mut hits = pruned.iter().zip(all);
    let equal = |(left, right): (&(String, f32), &(String, f32))| {
        close(left.1, right.1) && (!in_one_order || left.0 == right.0)
    };
    pruned.len() == all.len() && hits.all(equal)
}

/// The word, and all others that are as long.
fn misspelled(value: String) -> Query {
    Query::Fuzzy {
        field: "title".into(),
        value,
        fuzziness: Fuzziness::Edits(1),
        prefix_length: 0,
        max_expansions: 50,
        transpositions: true,
        boost: 1.5,
    }
}

fn all_or_any(terms: Vec<String>, all: bool) -> Query {
    let term = |term| Query::Term {
        field: "title".into(),
        value: Scalar::Text(term),
        case_insensitive: false,
        boost: 1.0,
    };
    let clauses = terms.into_iter().map(term).collect();
    let (must, should) = if all { (clauses, Vec::new()) } else { (Vec::new(), clauses) };
    let (filter, must_not, minimum_should_match) = (Vec::new(), Vec::new(), None);
    Query::Bool(Bool { must, filter, should, must_not, minimum_should_match, boost: 1.0 })
}
