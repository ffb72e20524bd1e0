//! Egret's engine called directly, on the index that its server has filled.

use std::path::Path;
use std::sync::Arc;

use egret_aof::disk::FileDisk;
use egret_engine::query::ast::{
    Bool, Fuzziness, Match, MatchPhrase, Operator, Query as Clause, Scalar, ZeroTerms,
};
use egret_engine::search::request::{
    Aggregation, AggregationKind, BucketOrder, Missing, SearchRequest, Sort, SortBy,
    TermsAggregation, TrackTotalHits,
};
use egret_engine::{Engine, EngineOptions, Index};

use crate::queries::{Class, Query};

/// An engine with one index.
pub(crate) struct Direct {
    engine: Engine,
    index: Arc<Index>,
}

impl Direct {
    /// Opens the index in a data folder that no server has open.
    pub(crate) fn open(folder: &Path, index: &str) -> Self {
        let options = EngineOptions {
            disk: Arc::new(FileDisk),
            folder: folder.to_owned(),
            indexing_budget_bytes: 1 << 26,
            limits: egret_engine::Limits::default(),
        };
        let engine = Engine::open(options).unwrap();
        let index = engine.index(index).unwrap();
        Self { engine, index }
    }

    /// The ids of each segment's documents, as numbers, in their order.
    pub(crate) fn documents(&self) -> Vec<Vec<usize>> {
        let snapshot = self.index.snapshot();
        let segments = snapshot.segments().iter().map(|segment| {
            let ids = segment.reader().doc_ids_alive();
            ids.map(|doc| segment.document_id(doc).unwrap().parse().unwrap()).collect()
        });
        segments.collect()
    }

    /// Answers a request; gives how many hits and how many bytes of documents.
    pub(crate) fn search(&self, request: &SearchRequest) -> (usize, usize) {
        let snapshots = [self.index.snapshot()];
        let response = egret_engine::search::search(&snapshots, request).unwrap();
        std::hint::black_box(&response.aggregations);
        let sources = response.hits.iter().filter_map(|hit| hit.source.as_ref());
        (response.hits.len(), sources.map(bytes::Bytes::len).sum())
    }

    /// Ends the engine.
    pub(crate) fn close(self) {
        drop(self.index);
        self.engine.close().unwrap();
    }
}

/// A query as the engine takes it.
pub(crate) fn request(query: &Query, track_total_hits: TrackTotalHits) -> SearchRequest {
    let field = || "summary".to_owned();
    let text = query.words.join(" ");
    let first = query.words[0].clone();
    let words = |operator| {
        Clause::Match(Match {
            field: field(),
            value: Scalar::Text(text.clone()),
            operator,
            minimum_should_match: None,
            fuzziness: None,
            prefix_length: 0,
            max_expansions: 50,
            analyzer: None,
            zero_terms: ZeroTerms::None,
            lenient: false,
            prefix_last: false,
            boost: 1.0,
        })
    };
    let mut request = SearchRequest { track_total_hits, ..SearchRequest::default() };
    request.query = match query.class {
        Class::Term | Class::Or | Class::Aggregation => words(Operator::Or),
        Class::And => words(Operator::And),
        Class::Phrase => Clause::MatchPhrase(MatchPhrase {
            field: field(),
            value: Scalar::Text(text.clone()),
            slop: 0,
            analyzer: None,
            zero_terms: ZeroTerms::None,
            prefix_last: false,
            max_expansions: 50,
            boost: 1.0,
        }),
        Class::Prefix => {
            Clause::Prefix { field: field(), value: first, case_insensitive: false, boost: 1.0 }
        }
        Class::Fuzzy => Clause::Fuzzy {
            field: field(),
            value: first,
            fuzziness: Fuzziness::Edits(1),
            prefix_length: 0,
            max_expansions: 50,
            transpositions: true,
            boost: 1.0,
        },
        Class::FilterSort => Clause::Bool(Bool {
            must: vec![words(Operator::Or)],
            filter: vec![Clause::Term {
                field: "source".to_owned(),
                value: Scalar::Text(query.source.clone()),
                case_insensitive: false,
                boost: 1.0,
            }],
            should: Vec::new(),
            must_not: Vec::new(),
            minimum_should_match: None,
            boost: 1.0,
        }),
    };
    match query.class {
        Class::FilterSort => request.sort = vec![by_downloads()],
        Class::Aggregation => {
            request.size = 0;
            request.aggregations = vec![("years".to_owned(), by_year())];
        }
        _ => {}
    }
    request
}

fn by_downloads() -> Sort {
    Sort {
        by: SortBy::Field("downloads".to_owned()),
        descending: true,
        missing: Missing::Last,
        mode: None,
        unmapped_type: None,
    }
}

fn by_year() -> Aggregation {
    let terms = TermsAggregation {
        field: "year".to_owned(),
        size: 10,
        min_doc_count: 1,
        order: vec![(BucketOrder::Count, true)],
        missing: None,
        include: None,
        exclude: None,
    };
    Aggregation { kind: AggregationKind::Terms(terms), sub: Vec::new() }
}
