//! The canonical form of a request: equal for requests that must have the same answer, and only
//! for those.
//!
//! It is written from the typed request, so white space, the order of JSON keys, spelled-out
//! defaults and escapes are gone already. What is left to settle here is the order of clauses that
//! neither score nor are reported. Rust's `Debug` of the whole value writes it: a new option cannot
//! be forgotten, floats are written so that they read back bit for bit, texts are quoted.

use egret_engine::query::ast::{Match, MatchPhrase, MultiMatch, Query, Range, Scalar};
use egret_engine::search::request::{Aggregation, AggregationKind, SearchRequest};

/// The canonical form of a request.
pub(crate) fn form(request: &SearchRequest) -> String {
    let mut request = request.clone();
    settle(&mut request.query);
    if let Some(filter) = &mut request.post_filter {
        settle(filter);
    }
    settle_aggregations(&mut request.aggregations);
    format!("{request:?}")
}

fn settle_aggregations(aggregations: &mut [(String, Aggregation)]) {
    for (_, aggregation) in aggregations {
        match &mut aggregation.kind {
            AggregationKind::Filter(query) => settle(query),
            AggregationKind::Filters(queries) => {
                for (_, query) in queries {
                    settle(query);
                }
            }
            _ => {}
        }
        settle_aggregations(&mut aggregation.sub);
    }
}

/// Puts clauses whose order nobody can see into one order. Scored clauses keep theirs: sums of
/// floats depend on it.
fn settle(query: &mut Query) {
    match query {
        Query::Bool(group) => {
            let lists =
                [&mut group.must, &mut group.should, &mut group.filter, &mut group.must_not];
            for list in lists {
                list.iter_mut().for_each(settle);
            }
            group.filter.sort_by_cached_key(|query| format!("{query:?}"));
            group.must_not.sort_by_cached_key(|query| format!("{query:?}"));
        }
        Query::ConstantScore { filter, .. } => settle(filter),
        Query::Boost { query, .. } => settle(query),
        Query::DisMax { queries, .. } => queries.iter_mut().for_each(settle),
        _ => {}
    }
}

/// Whether the answer depends on nothing but the request and the published state: no text in it
/// may be a date relative to now.
pub(crate) fn depends_on_time(request: &SearchRequest) -> bool {
    relative(&request.query)
        || request.post_filter.as_ref().is_some_and(relative)
        || aggregations_relative(&request.aggregations)
}

fn aggregations_relative(aggregations: &[(String, Aggregation)]) -> bool {
    aggregations.iter().any(|(_, aggregation)| {
        let own = match &aggregation.kind {
            AggregationKind::Filter(query) => relative(query),
            AggregationKind::Filters(queries) => queries.iter().any(|(_, query)| relative(query)),
            _ => false,
        };
        own || aggregations_relative(&aggregation.sub)
    })
}

/// Any field may turn out to be a date, so any text that begins like date math counts.
fn now(value: &Scalar) -> bool {
    matches!(value, Scalar::Text(text) if text.starts_with("now"))
}

fn relative(query: &Query) -> bool {
    match query {
        Query::Range(Range { lower, upper, .. }) => {
            [lower, upper].into_iter().flatten().any(|(value, _)| now(value))
        }
        Query::Term { value, .. }
        | Query::Match(Match { value, .. })
        | Query::MatchPhrase(MatchPhrase { value, .. })
        | Query::MultiMatch(MultiMatch { options: Match { value, .. }, .. }) => now(value),
        Query::Terms { values, .. } => values.iter().any(now),
        Query::Bool(group) => [&group.must, &group.should, &group.filter, &group.must_not]
            .into_iter()
            .flatten()
            .any(relative),
        Query::ConstantScore { filter: query, .. } | Query::Boost { query, .. } => relative(query),
        Query::DisMax { queries, .. } => queries.iter().any(relative),
        Query::MatchAll { .. }
        | Query::MatchNone
        | Query::Prefix { .. }
        | Query::Wildcard { .. }
        | Query::Fuzzy { .. }
        | Query::Exists { .. }
        | Query::WithinArea { .. }
        | Query::Ids { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::json::parse_object;
    use crate::dialect::query::NoFields;
    use crate::dialect::search;

    fn read(body: &str) -> SearchRequest {
        search::read(&parse_object(body.as_bytes()).unwrap(), &NoFields).unwrap()
    }

    #[test]
    fn requests_share_a_form_where_their_answers_are_the_same_and_only_there() {
        let check = |left: &str, right: &str, same: bool| {
            assert_eq!(form(&read(left)) == form(&read(right)), same, "{left} {right}");
        };
        check(r#"{"size":5,"from":1}"#, r#" { "from" : 1, "size" : 5 } "#, true);
        check("{}", r#"{"size":10,"from":0,"query":{"match_all":{}}}"#, true);
        check(
            r#"{"query":{"match":{"a":"\u0062"}}}"#,
            r#"{"query":{"match":{"a":{"query":"b"}}}}"#,
            true,
        );
        check(r#"{"min_score":1}"#, r#"{"min_score":1.0}"#, true);
        check(r#"{"min_score":0.0}"#, r#"{"min_score":-0.0}"#, false);
        check(r#"{"sort":["a","b"]}"#, r#"{"sort":["b","a"]}"#, false);
        check(r#"{"query":{"term":{"a":1}}}"#, r#"{"query":{"term":{"a":"1"}}}"#, false);
        check(
            "{\"query\":{\"term\":{\"a\":\"\u{e9}\"}}}",
            "{\"query\":{\"term\":{\"a\":\"e\u{301}\"}}}",
            false,
        );
        let group = |must: &str, filter: &str| {
            format!(r#"{{"query":{{"bool":{{"must":[{must}],"filter":[{filter}]}}}}}}"#)
        };
        let (a, b) = (r#"{"term":{"a":1}}"#, r#"{"term":{"b":1}}"#);
        check(&group("", &format!("{a},{b}")), &group("", &format!("{b},{a}")), true);
        check(&group(&format!("{a},{b}"), ""), &group(&format!("{b},{a}"), ""), false);
        check(&group(a, b), &group(b, a), false);
    }

    #[test]
    fn dates_relative_to_now_are_seen_wherever_they_are() {
        let check = |body: &str, expected: bool| {
            assert_eq!(depends_on_time(&read(body)), expected, "{body}");
        };
        check(r#"{"query":{"range":{"d":{"gte":"now-1d/d"}}}}"#, true);
        check(r#"{"query":{"range":{"d":{"gte":"2020-01-01"}}}}"#, false);
        check(r#"{"query":{"bool":{"must_not":{"range":{"d":{"lt":"now"}}}}}}"#, true);
        check(r#"{"aggs":{"a":{"filter":{"range":{"d":{"lt":"now"}}}}}}"#, true);
        check(r#"{"post_filter":{"term":{"d":"now"}}}"#, true);
    }
}
