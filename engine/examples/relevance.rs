//! Relevance on a judged collection: nDCG at 10 (linear gain) and recall at 100.
//!
//! `cargo run --release --example relevance -- FOLDER ANALYZER`, where the folder has `docs.jsonl`
//! (`id`, `title`, `text`), `queries.tsv` (id, text) and `qrels.txt` (query, 0, document, grade).
//! Title and text are indexed as one field.

use std::collections::HashMap;
use std::error::Error;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use egret_engine::document::{Draft, SchemaFields};
use egret_engine::mapping::Mapping;
use egret_engine::mapping::schema::{self, SystemValues};
use egret_engine::position::Generation;
use egret_engine::query::ast::{Match, Operator, Query, Scalar, ZeroTerms};
use egret_engine::search::request::{SearchRequest, SourceFilter};
use egret_engine::search::search;
use egret_engine::snapshot::{Snapshot, SnapshotParts};
use serde_json::{Value, json};
use tantivy::Index;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// The grades of each query's documents.
type Judgements = HashMap<String, HashMap<String, f64>>;

#[expect(clippy::print_stdout, reason = "printing is what this example is for")]
fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, analyzer] = arguments.as_slice() else {
        return Err("usage: relevance FOLDER ANALYZER".into());
    };
    let folder = Path::new(folder);
    let snapshot = index(folder, analyzer)?;
    let judgements = judgements(folder)?;
    let (mut ndcg, mut recall, mut count) = (0.0, 0.0, 0.0);
    for line in fs::read_to_string(folder.join("queries.tsv"))?.lines() {
        let (id, text) = line.split_once('\t').ok_or("a query without a tab")?;
        let Some(grades) = judgements.get(id) else { continue };
        let found = top(&snapshot, text)?;
        ndcg += gain(&found, grades, 10);
        recall += recalled(&found, grades);
        count += 1.0;
    }
    println!("{analyzer}: nDCG@10 {:.4}, recall@100 {:.4}", ndcg / count, recall / count);
    Ok(())
}

fn index(folder: &Path, analyzer: &str) -> Outcome<Arc<Snapshot>> {
    let mapping = json!({"properties": {"all": {"type": "text", "analyzer": analyzer}}});
    let mut draft = Draft::new(Arc::new(Mapping::from_json(&mapping)?));
    let schema = schema::build(draft.mapping());
    let tokenizers = schema::tokenizers();
    let mut index = Index::create_in_ram(schema.clone());
    index.set_tokenizers(tokenizers.clone());
    let mut fields = Arc::new(SchemaFields::new(&schema, draft.mapping()));
    let mut writer = index.writer_with_num_threads(1, 50_000_000)?;
    for line in fs::read_to_string(folder.join("docs.jsonl"))?.lines() {
        let document: Value = serde_json::from_str(line)?;
        let text = |name: &str| document[name].as_str().unwrap_or_default().to_owned();
        let source = json!({"all": format!("{} {}", text("title"), text("text"))}).to_string();
        let parsed = draft.parse(&text("id"), source.as_bytes())?;
        writer.add_document(parsed.into_indexed(&schema, &mut fields, SystemValues::default()))?;
    }
    writer.commit()?;
    let segments = index.reader()?.searcher().segment_readers().to_vec();
    Ok(Arc::new(Snapshot::new(SnapshotParts {
        index_name: "collection".into(),
        uuid: "collection".into(),
        generation: Generation::default(),
        checkpoint: None,
        max_seq_no: None,
        mapping: Arc::clone(draft.mapping()),
        schema,
        tokenizers,
        segments: segments.into_iter().map(Arc::new).collect(),
        row_count: 0,
        rows: Vec::new(),
        in_memory: Vec::new(),
        activity: Arc::default(),
    })?))
}

fn judgements(folder: &Path) -> Outcome<Judgements> {
    let mut judgements = Judgements::new();
    for line in fs::read_to_string(folder.join("qrels.txt"))?.lines() {
        let parts: Vec<&str> = line.split_whitespace().collect();
        let [query, _, document, grade] = parts.as_slice() else {
            return Err(format!("not a judgement: {line}").into());
        };
        let grade: f64 = grade.parse()?;
        if grade > 0.0 {
            let grades = judgements.entry((*query).to_owned()).or_default();
            grades.insert((*document).to_owned(), grade);
        }
    }
    Ok(judgements)
}

/// The ids of the best hundred.
fn top(snapshot: &Arc<Snapshot>, text: &str) -> Outcome<Vec<String>> {
    let query = Query::Match(Match {
        field: "all".into(),
        value: Scalar::Text(text.into()),
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
    });
    let request =
        SearchRequest { query, size: 100, source: SourceFilter::None, ..SearchRequest::default() };
    let hits = search(std::slice::from_ref(snapshot), &request)?.hits;
    Ok(hits.into_iter().map(|hit| hit.id).collect())
}

fn gain(found: &[String], grades: &HashMap<String, f64>, depth: usize) -> f64 {
    let discounted = |grades: &mut dyn Iterator<Item = f64>| -> f64 {
        grades.take(depth).zip(2_u32..).map(|(grade, rank)| grade / f64::from(rank).log2()).sum()
    };
    let actual = |id: &String| grades.get(id).copied().unwrap_or(0.0);
    let mut best: Vec<f64> = grades.values().copied().collect();
    best.sort_by(|left, right| right.total_cmp(left));
    discounted(&mut found.iter().map(actual)) / discounted(&mut best.into_iter())
}

#[expect(clippy::cast_precision_loss, reason = "small counts")]
fn recalled(found: &[String], grades: &HashMap<String, f64>) -> f64 {
    found.iter().filter(|id| grades.contains_key(*id)).count() as f64 / grades.len() as f64
}
