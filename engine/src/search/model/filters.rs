//! Keywords that documents must have beside what finds them, in segments large enough that these
//! are looked up in columns.

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::checks::order;
use super::{Document, Draw};
use crate::query::ast::{Bool, Query};
use crate::search::request::{Missing, SearchRequest, Sort, SortBy, TrackTotalHits};
use crate::search::{count, search};

#[test]
fn filtered_documents_are_those_of_the_model_in_its_order() {
    for seed in 0..20 {
        check(&mut Draw { random: StdRng::seed_from_u64(2000 + seed) });
    }
}

fn all(must: Vec<Query>, filter: Vec<Query>, must_not: Vec<Query>) -> Query {
    let (should, minimum_should_match) = (Vec::new(), None);
    Query::Bool(Bool { must, filter, should, must_not, minimum_should_match, boost: 1.0 })
}

/// A filtered query, alone or as a part that others lead, seek or exclude.
fn filtered(draw: &mut Draw) -> Query {
    let keywords: Vec<Query> = (0..=draw.below(2)).map(|_| draw.keyword()).collect();
    let lead = if draw.chance(60) { draw.word_query() } else { draw.query(1) };
    let query = all(vec![lead], keywords, Vec::new());
    match draw.below(7) {
        0 | 1 => all(vec![query], vec![draw.query(0)], Vec::new()),
        2 => Query::DisMax { queries: vec![query, draw.query(0)], tie_breaker: 0.0, boost: 1.0 },
        3 => all(vec![draw.query(0)], Vec::new(), vec![query]),
        _ => query,
    }
}

fn check(draw: &mut Draw) {
    let (snapshot, model) = draw.index_of("a", 400);
    let snapshots = [snapshot];
    for _ in 0..20 {
        let query = filtered(draw);
        let sort = vec![Sort {
            by: SortBy::Field(["n", "price", "at", "on"][draw.below(4)].into()),
            descending: draw.chance(50),
            missing: if draw.chance(50) { Missing::First } else { Missing::Last },
            mode: None,
            unmapped_type: None,
        }];
        let mut expected: Vec<&Document> = model
            .documents
            .iter()
            .filter(|(document, alive)| *alive && model.matches(document, &query).is_some())
            .map(|(document, _)| document)
            .collect();
        expected.sort_by(|left, right| order(left, right, &sort));
        let total = expected.len() as u64;
        assert_eq!(count(&snapshots, &query).unwrap(), total, "{query:?}");
        for size in [draw.below(20), 10_000] {
            let request = SearchRequest {
                query: query.clone(),
                size,
                sort: sort.clone(),
                track_total_hits: TrackTotalHits::Exact,
                ..SearchRequest::default()
            };
            let found = search(&snapshots, &request).unwrap();
            let ids: Vec<&str> = found.hits.iter().map(|hit| hit.id.as_str()).collect();
            let best = expected.iter().take(size).map(|document| document.id.as_str());
            assert_eq!(ids, best.collect::<Vec<_>>(), "{request:?}");
            assert_eq!(found.total.map(|total| total.value), Some(total), "{request:?}");
        }
        // Asked of each document in turn.
        let request = SearchRequest {
            size: 0,
            track_total_hits: TrackTotalHits::Exact,
            post_filter: Some(query.clone()),
            ..SearchRequest::default()
        };
        let found = search(&snapshots, &request).unwrap();
        assert_eq!(found.total.map(|total| total.value), Some(total), "{request:?}");
    }
}
