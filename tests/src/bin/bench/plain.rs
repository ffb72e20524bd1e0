//! tantivy called directly, in this process and in memory: the same fields, two indexing threads,
//! and the queries that its users would write.

use serde::Deserialize;
use tantivy::aggregation::agg_req::Aggregations;
use tantivy::aggregation::{AggContextParams, AggregationCollector};
use tantivy::collector::TopDocs;
use tantivy::merge_policy::NoMergePolicy;
use tantivy::query::{
    AllQuery, BooleanQuery, FuzzyTermQuery, Occur, PhraseQuery, Query as TantivyQuery, RegexQuery,
    TermQuery,
};
use tantivy::schema::{
    FAST, Field, INDEXED, IndexRecordOption, STORED, Schema, TextFieldIndexing, TextOptions, Value,
};
use tantivy::store::{Compressor, ZstdCompressor};
use tantivy::{
    DocAddress, Index, IndexReader, IndexSettings, IndexWriter, Order, Searcher, TantivyDocument,
    Term,
};

use crate::corpus::Corpus;
use crate::queries::{Class, Query};

/// The name of tantivy's default analyzer.
const TANTIVYS: &str = "default";
const THREADS: usize = 2;
const BUDGET_BYTES: usize = 200_000_000;
/// Enough that a segment is not split.
const SEGMENT_BUDGET_BYTES: usize = 3_000_000_000;

/// An index of tantivy's own making.
pub(crate) struct Plain {
    reader: IndexReader,
    fields: Fields,
    years: Aggregations,
}

#[derive(Debug, Clone, Copy)]
struct Fields {
    id: Field,
    number: Field,
    source: Field,
    name: Field,
    version: Field,
    month: Field,
    year: Field,
    downloads: Field,
    summary: Field,
    document: Field,
}

#[derive(Debug, Deserialize)]
struct Package {
    id: i64,
    source: String,
    name: String,
    version: String,
    month: String,
    year: i64,
    downloads: i64,
    summary: Option<String>,
}

/// Texts are cut by tantivy's default analyzer, or another.
fn schema(analyzer: &str) -> (Schema, Fields) {
    let positions = TextFieldIndexing::default()
        .set_tokenizer(analyzer)
        .set_index_option(IndexRecordOption::WithFreqsAndPositions);
    let text = TextOptions::default().set_indexing_options(positions);
    let raw = TextFieldIndexing::default()
        .set_tokenizer("raw")
        .set_fieldnorms(false)
        .set_index_option(IndexRecordOption::Basic);
    let keyword = TextOptions::default().set_indexing_options(raw.clone()).set_fast("raw");
    let mut schema = Schema::builder();
    let fields = Fields {
        id: schema.add_text_field("_id", TextOptions::default().set_indexing_options(raw)),
        number: schema.add_i64_field("id", INDEXED | FAST),
        source: schema.add_text_field("source", keyword.clone()),
        name: schema.add_text_field("name", text.clone()),
        version: schema.add_text_field("version", keyword.clone()),
        month: schema.add_text_field("month", keyword),
        year: schema.add_i64_field("year", INDEXED | FAST),
        downloads: schema.add_i64_field("downloads", INDEXED | FAST),
        summary: schema.add_text_field("summary", text),
        document: schema.add_bytes_field("_source", STORED),
    };
    (schema.build(), fields)
}

fn create(analyzer: &str) -> (Index, Fields) {
    let (schema, fields) = schema(analyzer);
    let settings = IndexSettings {
        docstore_compression: Compressor::Zstd(ZstdCompressor::default()),
        ..IndexSettings::default()
    };
    let mut index = Index::builder().schema(schema).settings(settings).create_in_ram().unwrap();
    if analyzer != TANTIVYS {
        index.set_tokenizers(egret_engine::mapping::schema::tokenizers());
    }
    (index, fields)
}

fn document(fields: &Fields, text: &str) -> TantivyDocument {
    let package: Package = serde_json::from_str(text).unwrap();
    let mut doc = TantivyDocument::default();
    doc.add_text(fields.id, package.id.to_string());
    doc.add_i64(fields.number, package.id);
    doc.add_text(fields.source, &package.source);
    doc.add_text(fields.name, &package.name);
    doc.add_text(fields.version, &package.version);
    doc.add_text(fields.month, &package.month);
    doc.add_i64(fields.year, package.year);
    doc.add_i64(fields.downloads, package.downloads);
    doc.add_text(fields.summary, package.summary.as_deref().unwrap_or_default());
    doc.add_bytes(fields.document, text.as_bytes());
    doc
}

impl Plain {
    /// Parses and indexes the corpus; tantivy's own policy merges.
    pub(crate) fn index(corpus: &Corpus) -> Self {
        let (index, fields) = create(TANTIVYS);
        let mut writer: IndexWriter = index.writer_with_num_threads(THREADS, BUDGET_BYTES).unwrap();
        for text in &corpus.docs {
            writer.add_document(document(&fields, text)).unwrap();
        }
        writer.commit().unwrap();
        writer.wait_merging_threads().unwrap();
        Self::open(&index, fields)
    }

    /// Indexes the corpus in segments of exactly these documents, with Egret's tokens: queries find
    /// the same on both sides.
    pub(crate) fn in_segments(corpus: &Corpus, segments: &[Vec<usize>]) -> Self {
        let (index, fields) = create("standard");
        let mut writer: IndexWriter =
            index.writer_with_num_threads(1, SEGMENT_BUDGET_BYTES).unwrap();
        writer.set_merge_policy(Box::new(NoMergePolicy));
        for segment in segments {
            for &place in segment {
                writer.add_document(document(&fields, &corpus.docs[place])).unwrap();
            }
            writer.commit().unwrap();
        }
        let plain = Self::open(&index, fields);
        assert_eq!(plain.segments(), segments.len(), "a segment must fit the budget");
        plain
    }

    fn open(index: &Index, fields: Fields) -> Self {
        let years = serde_json::json!({"years": {"terms": {"field": "year", "size": 10}}});
        let years = serde_json::from_value(years).unwrap();
        Self { reader: index.reader().unwrap(), fields, years }
    }

    /// How many segments the index has.
    pub(crate) fn segments(&self) -> usize {
        self.reader.searcher().segment_readers().len()
    }

    /// Answers a query with the documents as they were stored; gives how many and their bytes.
    pub(crate) fn search(&self, query: &Query) -> (usize, usize) {
        let searcher = self.reader.searcher();
        let compiled = self.compile(query);
        match query.class {
            Class::Aggregation => {
                let collector = AggregationCollector::from_aggs(
                    self.years.clone(),
                    AggContextParams::default(),
                );
                let result = searcher.search(&compiled, &collector).unwrap();
                (0, serde_json::to_string(&result).unwrap().len())
            }
            Class::FilterSort => {
                let top =
                    TopDocs::with_limit(10).order_by_fast_field::<i64>("downloads", Order::Desc);
                let hits = searcher.search(&compiled, &top).unwrap();
                self.fetch(&searcher, hits.into_iter().map(|(_, address)| address))
            }
            _ => {
                let hits =
                    searcher.search(&compiled, &TopDocs::with_limit(10).order_by_score()).unwrap();
                self.fetch(&searcher, hits.into_iter().map(|(_, address)| address))
            }
        }
    }

    fn fetch(
        &self,
        searcher: &Searcher,
        hits: impl ExactSizeIterator<Item = DocAddress>,
    ) -> (usize, usize) {
        let count = hits.len();
        let bytes = hits.map(|address| {
            let doc: TantivyDocument = searcher.doc(address).unwrap();
            let stored = doc.get_first(self.fields.document);
            stored.and_then(|value| value.as_bytes()).map_or(0, <[u8]>::len)
        });
        (count, bytes.sum())
    }

    fn compile(&self, query: &Query) -> Box<dyn TantivyQuery> {
        let summary = self.fields.summary;
        let terms: Vec<Term> =
            query.words.iter().map(|word| Term::from_field_text(summary, word)).collect();
        let all = |occur: Occur| {
            let clause = |term: &Term| -> (Occur, Box<dyn TantivyQuery>) {
                (occur, Box::new(TermQuery::new(term.clone(), IndexRecordOption::WithFreqs)))
            };
            BooleanQuery::new(terms.iter().map(clause).collect())
        };
        match query.class {
            Class::Term | Class::Aggregation if terms.len() == 1 => {
                Box::new(TermQuery::new(terms[0].clone(), IndexRecordOption::WithFreqs))
            }
            Class::Term | Class::Or | Class::Aggregation => Box::new(all(Occur::Should)),
            Class::Phrase if terms.len() > 1 => Box::new(PhraseQuery::new(terms)),
            Class::And | Class::Phrase => Box::new(all(Occur::Must)),
            Class::Prefix => {
                let pattern = format!("{}.*", query.words[0]);
                RegexQuery::from_pattern(&pattern, summary)
                    .map_or_else(|_| Box::new(AllQuery) as Box<dyn TantivyQuery>, |q| Box::new(q))
            }
            Class::Fuzzy => Box::new(FuzzyTermQuery::new(terms[0].clone(), 1, true)),
            Class::FilterSort => {
                let source = Term::from_field_text(self.fields.source, &query.source);
                let source = TermQuery::new(source, IndexRecordOption::Basic);
                Box::new(BooleanQuery::new(vec![
                    (Occur::Must, Box::new(all(Occur::Should))),
                    (Occur::Must, Box::new(source)),
                ]))
            }
        }
    }
}
