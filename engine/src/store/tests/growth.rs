//! A mapping that grows while documents come and searches run: in the end every search, score and
//! aggregation is that of an index made with the final mapping in the first place.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use egret_aof::disk::sim::Fault;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::query::ast::{Match, Operator, Query, Scalar, ZeroTerms};
use crate::search::request::{
    Aggregation, AggregationKind, BucketOrder, MetricField, SearchRequest, TermsAggregation,
};
use crate::search::response::AggregationResult;
use crate::search::search;

/// In each phase documents may have the fields of one more number.
const PHASES: usize = 5;
const TOLERANCE: f32 = 1e-5;

fn words(random: &mut StdRng) -> String {
    let count = random.random_range(1..9);
    let words: Vec<String> =
        (0..count).map(|_| format!("w{}", random.random_range(0..6_u8))).collect();
    words.join(" ")
}

/// A document of a phase: any of the fields known by then.
fn document(random: &mut StdRng, phase: usize) -> Value {
    let mut source = json!({"all": words(random)});
    for field in 0..=phase {
        if random.random_bool(0.5) {
            source[format!("text_{field}")] = json!(words(random));
        }
        if random.random_bool(0.5) {
            source[format!("tag_{field}")] = json!(format!("t{}", random.random_range(0..4_u8)));
        }
        if random.random_bool(0.5) {
            source[format!("number_{field}")] = json!(random.random_range(-50..50_i64));
        }
    }
    source
}

fn matches(field: &str, text: &str) -> Query {
    Query::Match(Match {
        field: field.to_owned(),
        value: Scalar::Text(text.to_owned()),
        operator: Operator::Or,
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
}

fn queries(random: &mut StdRng) -> Vec<Query> {
    let mut queries = vec![matches("all", &words(random))];
    for field in 0..PHASES {
        let (text, tag) = (format!("text_{field}"), format!("tag_{field}.keyword"));
        let either = vec![matches(&text, &words(random)), matches("all", &words(random))];
        let value = Scalar::Text("t1".to_owned());
        queries.extend([
            matches(&text, "w1"),
            matches(&text, &words(random)),
            Query::Term { field: tag, value, case_insensitive: false, boost: 1.0 },
            Query::Exists { field: text, boost: 1.0 },
            Query::DisMax { queries: either, tie_breaker: 0.3, boost: 1.0 },
        ]);
    }
    queries
}

fn aggregations() -> Vec<(String, Aggregation)> {
    let by_field = |field: usize| {
        let terms = AggregationKind::Terms(TermsAggregation {
            field: format!("tag_{field}.keyword"),
            size: 10,
            min_doc_count: 1,
            order: vec![(BucketOrder::Count, true)],
            missing: None,
            include: None,
            exclude: None,
        });
        let number = MetricField { field: format!("number_{field}"), missing: None };
        let stats = Aggregation { kind: AggregationKind::Stats(number), sub: Vec::new() };
        let sub = vec![("stats".to_owned(), stats.clone())];
        [
            (format!("terms {field}"), Aggregation { kind: terms, sub }),
            (format!("stats {field}"), stats),
        ]
    };
    (0..PHASES).flat_map(by_field).collect()
}

/// Every hit's score by id, and the aggregations.
fn answer(index: &Index, query: &Query) -> (BTreeMap<String, f32>, Vec<AggregationResult>) {
    let request = SearchRequest {
        query: query.clone(),
        size: 1000,
        aggregations: aggregations(),
        ..SearchRequest::default()
    };
    let response = search(&[index.snapshot()], &request).unwrap();
    let descending = response.hits.windows(2).all(|pair| pair[0].score >= pair[1].score);
    assert!(descending, "hits come by score");
    let hits = response.hits.into_iter().map(|hit| (hit.id, hit.score.unwrap())).collect();
    (hits, response.aggregations.into_iter().map(|(_, result)| result).collect())
}

/// Writes documents in phases, each of which brings new fields, some of them mapped beforehand.
fn grow(index: &Index, random: &mut StdRng) -> Vec<(String, Value)> {
    let mut documents = Vec::new();
    for phase in 0..PHASES {
        if random.random_bool(0.5) {
            let keyword = json!({"keyword": {"type": "keyword", "ignore_above": 256}});
            let text = json!({"type": "text", "fields": keyword});
            let name = format!("text_{phase}");
            index.put_mapping(&json!({"properties": {name: text}})).unwrap();
        }
        for _ in 0..random.random_range(1..5) {
            let count = random.random_range(1..8);
            let new: Vec<(String, Value)> = (0..count)
                .map(|n| ((documents.len() + n).to_string(), document(random, phase)))
                .collect();
            write(index, new.iter().map(|(id, source)| upsert(id, source)).collect());
            documents.extend(new);
            index.refresh().unwrap();
            if random.random_bool(0.2) {
                index.flush().unwrap();
            }
        }
    }
    documents
}

/// Ends the searches, also where the writes fail.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn run(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let disk = SimDisk::new();
    let engine = open(&disk);
    let grown = create(&engine, "grown");
    let done = AtomicBool::new(false);
    let documents = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let (hits, _) = answer(&grown, &matches("all", "w1 w2"));
                assert!(hits.len() <= 1000);
                std::thread::yield_now();
            }
        });
        let _done = Done(&done);
        grow(&grown, &mut random)
    });
    check(&engine, &grown, &documents, &format!("seed {seed}"));
}

/// Every answer of an index is that of one made with its mapping in the first place.
fn check(engine: &Engine, grown: &Index, documents: &[(String, Value)], context: &str) {
    let mappings = grown.mapping().to_json();
    let definition = IndexDefinition { mappings, ..IndexDefinition::default() };
    let whole = engine.create_index("whole", definition).unwrap();
    write(&whole, documents.iter().map(|(id, source)| upsert(id, source)).collect());
    whole.refresh().unwrap();
    let mut random = StdRng::seed_from_u64(documents.len() as u64);
    for query in queries(&mut random) {
        let (found, expected) = (answer(grown, &query), answer(&whole, &query));
        let context = format!("{context}: {query:?}");
        assert_eq!(found.1, expected.1, "{context}");
        assert!(found.0.keys().eq(expected.0.keys()), "{context}: {found:?} {expected:?}");
        for (id, score) in &found.0 {
            let other = expected.0[id];
            assert!((score - other).abs() <= TOLERANCE * other.max(1.0), "{context}: {id}");
        }
    }
}

/// Fields are added, and multi-fields to fields, that documents from before have values for: those
/// answer for newer documents alone until a rebuild without any other change.
fn added_later(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let engine = Arc::new(open(&SimDisk::new()));
    let mappings = json!({"dynamic": false, "properties": {"all": {"type": "text"}}});
    let definition = IndexDefinition { mappings, ..IndexDefinition::default() };
    let index = engine.create_index("added", definition).unwrap();
    let keyword = json!({"keyword": {"type": "keyword"}});
    let mut documents = Vec::new();
    for phase in 0..PHASES {
        for n in 0..random.random_range(2..20) {
            let id = (100 * phase + n).to_string();
            let source = document(&mut random, PHASES - 1);
            write(&index, vec![upsert(&id, &source)]);
            documents.push((id, source));
        }
        let (text, tag) = (format!("text_{phase}"), format!("tag_{phase}"));
        let properties = json!({
            text: {"type": "text"}, format!("number_{phase}"): {"type": "long"},
            tag.clone(): {"type": "text"},
        });
        index.put_mapping(&json!({"properties": properties})).unwrap();
        write(&index, documents.iter().take(3).map(|(id, it)| upsert(id, it)).collect());
        let multi = json!({tag: {"type": "text", "fields": keyword.clone()}});
        index.put_mapping(&json!({"properties": multi})).unwrap();
    }
    index.refresh().unwrap();
    let known = |field: &str| {
        let query = Query::Exists { field: field.to_owned(), boost: 1.0 };
        answer(&engine.index("added").unwrap(), &query).0.len()
    };
    let last = format!("tag_{}.keyword", PHASES - 1);
    assert_eq!(known(&last), 0, "seed {seed}");
    // By itself, or as somebody asks for it.
    let mut rebuild = match seed % 2 {
        0 => engine.begin_rewrite("added").unwrap().unwrap(),
        _ => engine.begin_rebuild("added", &json!({})).unwrap(),
    };
    while rebuild.step().unwrap().is_some() {}
    let rebuilt = rebuild.finish(None).unwrap();
    assert_eq!(rebuilt.outstanding(), None);
    assert!(known(&last) > 0 || documents.len() < 20, "seed {seed}");
    check(&engine, &rebuilt, &documents, &format!("seed {seed}, added"));
}

#[test]
fn a_rebuild_brings_older_documents_under_added_fields() {
    campaign(8, added_later);
}

#[test]
fn a_grown_mapping_is_like_one_from_the_start() {
    campaign(8, run);
}

/// Changes so many of a mapping's parameters, to and fro, with documents that need what holds then, with a
/// fault at this operation of the disk: what was acknowledged is there. Whether the fault came too late.
fn parameters(count: usize, at: u64, fault: Fault) -> bool {
    let disk = SimDisk::new();
    let engine = open(&disk);
    let numeric = |more: Value| {
        let mut field = json!({"type": "long"});
        field.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"properties": {"n": field}})
    };
    let mut mappings = numeric(json!({"coerce": false}));
    mappings["dynamic"] = json!("strict");
    let index =
        engine.create_index("a", IndexDefinition { mappings, ..IndexDefinition::default() });
    let index = index.unwrap();
    let begun = disk.operations();
    match fault {
        Fault::PowerCut => disk.fail_from(begun + at, fault),
        _ => disk.fail_at(begun + at, fault),
    }
    let mut acknowledged = Vec::new();
    let mut dynamic = vec!["strict"];
    let steps = [
        (json!({"dynamic": "false"}), Some("false"), json!({"n": 1, "other": 2})),
        (numeric(json!({"ignore_malformed": true})), None, json!({"n": "word"})),
        (numeric(json!({"coerce": true})), None, json!({"n": "5"})),
        (json!({"dynamic": "strict"}), Some("strict"), json!({"n": 6})),
    ];
    for (number, (addition, value, document)) in steps.into_iter().take(count).enumerate() {
        let done = index.put_mapping(&addition).is_ok();
        if let Some(value) = value {
            if done {
                dynamic.clear();
            }
            dynamic.push(value);
        }
        let id = number.to_string();
        let written = index.write(batch(vec![upsert(&id, &document)]));
        if written.is_ok_and(|outcome| outcome.ops.iter().all(Result::is_ok)) {
            acknowledged.push(id);
        }
    }
    let late = disk.operations() <= begun + at;
    let after = if fault == Fault::PowerCut { disk.power_cut(at) } else { disk.kill() };
    drop((index, engine));
    // What the next start says is what the one after it finds.
    for round in 0..2 {
        let context = format!("{count} with {fault:?} at {at}, start {round}");
        let engine = open(&after);
        assert_eq!(engine.damaged(), [], "{context}");
        let index = engine.index("a").unwrap();
        for id in &acknowledged {
            assert!(index.document(id).unwrap().is_some(), "{context}: [{id}] is lost");
        }
        let mapping = index.mapping().to_json();
        let found = mapping["dynamic"].as_str().unwrap();
        assert!(dynamic.contains(&found), "{context}: [{found}] is none of {dynamic:?}");
    }
    late
}

#[test]
fn changed_parameters_are_there_for_the_documents_that_need_them() {
    for fault in [Fault::Io, Fault::SyncFailure, Fault::PowerCut] {
        for count in 1..=4 {
            let operations = (0..10_000).take_while(|&at| !parameters(count, at, fault)).count();
            assert!(operations > 5 * count, "only {operations} operations");
        }
    }
}
