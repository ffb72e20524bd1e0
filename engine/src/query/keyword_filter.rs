//! Documents of a query that also have certain keywords.
//!
//! A list that many documents are in is slow to follow: nearly all of it is decoded, to be searched
//! once for each document of the query. Where the query has fewer documents than a keyword, its
//! documents' keywords are looked up in the column instead, many at once, as Lucene's
//! `IndexOrDocValuesQuery` does. A segment where a document has several keep to the list.

use tantivy::columnar::{Cardinality, Column, ColumnType};
use tantivy::query::{
    EnableScoring, Explanation, Query, Scorer, TermQuery, Weight, intersect_scorers,
};
use tantivy::schema::{FieldType, Schema};
use tantivy::{
    COLLECT_BLOCK_BUFFER_LEN, DocId, DocSet, Score, SegmentReader, TERMINATED, TantivyError, Term,
};

use super::compile::Compiled;
use crate::mapping::digest;
use crate::snapshot::Segment;

/// For fewer documents the keyword's place in the column is not worth finding. Tests' segments are
/// small.
const LEAST_DOCS: u64 = if cfg!(test) { 8 } else { 128 };

/// A keyword that documents must have.
#[derive(Debug, Clone)]
pub(super) struct Keyword {
    query: TermQuery,
    path: String,
}

impl Keyword {
    /// The keyword that a clause asks for, if it asks for one that is in a column.
    pub(super) fn of(clause: &Compiled, schema: &Schema) -> Option<Self> {
        let query = clause.query.downcast_ref::<TermQuery>()?.clone();
        let entry = schema.get_field_entry(query.term().field());
        // Of a digest it is not known what the column has.
        let is_text = !digest::is_digest(query.term().serialized_value_bytes(), entry);
        let is_keyword =
            is_text && entry.is_fast() && matches!(entry.field_type(), FieldType::Str(_));
        is_keyword.then(|| Self { query, path: entry.name().to_owned() })
    }
}

/// The documents of a query that have all of the keywords; their scores are not told.
#[derive(Debug)]
pub(super) struct KeywordFilter {
    pub(super) query: Box<dyn Query>,
    pub(super) keywords: Vec<Keyword>,
    /// All that it may be run over.
    pub(super) segments: Vec<Segment>,
}

impl Clone for KeywordFilter {
    fn clone(&self) -> Self {
        Self {
            query: self.query.box_clone(),
            keywords: self.keywords.clone(),
            segments: self.segments.clone(),
        }
    }
}

impl Query for KeywordFilter {
    fn weight(&self, scoring: EnableScoring<'_>) -> tantivy::Result<Box<dyn Weight>> {
        let keywords = self.keywords.iter();
        let lists: tantivy::Result<_> =
            keywords.map(|keyword| keyword.query.weight(scoring)).collect();
        let query = self.query.weight(scoring)?;
        Ok(Box::new(FilterWeight { query, lists: lists?, filter: self.clone() }))
    }
}

struct FilterWeight {
    query: Box<dyn Weight>,
    /// Of each keyword.
    lists: Vec<Box<dyn Weight>>,
    filter: KeywordFilter,
}

impl Weight for FilterWeight {
    fn scorer(&self, reader: &SegmentReader, boost: Score) -> tantivy::Result<Box<dyn Scorer>> {
        let query = self.query.scorer(reader, boost)?;
        let cost = query.cost();
        let (mut scorers, mut columns) = (vec![query], Vec::new());
        for (keyword, list) in self.filter.keywords.iter().zip(&self.lists) {
            match self.filter.column(keyword, reader, cost)? {
                Some(column) => columns.push(column),
                None => scorers.push(list.scorer(reader, boost)?),
            }
        }
        let scorer = intersect_scorers(scorers, reader.num_docs());
        if columns.is_empty() {
            return Ok(scorer);
        }
        Ok(Box::new(Filtered::new(scorer, columns)))
    }

    fn explain(&self, reader: &SegmentReader, doc: DocId) -> tantivy::Result<Explanation> {
        let mut scorer = self.scorer(reader, 1.0)?;
        if scorer.doc() > doc || scorer.seek(doc) != doc {
            return Err(TantivyError::InvalidArgument(format!("document {doc} does not match")));
        }
        Ok(Explanation::new("KeywordFilter", 1.0))
    }
}

impl KeywordFilter {
    /// The column of a segment that tells whether a document has the keyword; `None` if its list is
    /// to be followed.
    fn column(
        &self,
        keyword: &Keyword,
        reader: &SegmentReader,
        cost: u64,
    ) -> tantivy::Result<Option<KeywordColumn>> {
        let term: &Term = keyword.query.term();
        if cost < LEAST_DOCS
            || u64::from(reader.inverted_index(term.field())?.doc_freq(term)?) < cost
        {
            return Ok(None);
        }
        let id = reader.segment_id();
        let Some(segment) = self.segments.iter().find(|segment| segment.id() == id) else {
            return Ok(None);
        };
        let opened = segment.column(&keyword.path, ColumnType::Str);
        let opened = opened.map_err(|error| TantivyError::InternalError(error.to_string()))?;
        let Some((values, Some(texts))) = opened else { return Ok(None) };
        if values.get_cardinality() == Cardinality::Multivalued {
            return Ok(None);
        }
        let ordinal = texts.dictionary().term_ord(term.serialized_value_bytes())?;
        Ok(ordinal.map(|ordinal| KeywordColumn { values, ordinal }))
    }
}

/// A column of at most one value a document, and the value wanted.
struct KeywordColumn {
    values: Column<u64>,
    ordinal: u64,
}

/// Invariant: `ahead` is not empty, or the scorer's document has the keywords, or there are no more.
struct Filtered {
    scorer: Box<dyn Scorer>,
    columns: Vec<KeywordColumn>,
    /// Documents that have the keywords and that the scorer has passed.
    ahead: Block,
}

/// Rising documents, from a place on.
struct Block {
    docs: [DocId; COLLECT_BLOCK_BUFFER_LEN],
    start: usize,
    end: usize,
}

impl Block {
    fn docs(&self) -> &[DocId] {
        self.docs.get(self.start..self.end).unwrap_or_default()
    }

    /// Leaves out what has other values; the block must begin at its start.
    fn retain(&mut self, column: &KeywordColumn) {
        let mut values = [None; COLLECT_BLOCK_BUFFER_LEN];
        let values = values.get_mut(..self.end).unwrap_or_default();
        column.values.first_vals(self.docs(), values);
        let mut kept = 0;
        for (place, value) in values.iter().enumerate() {
            self.docs[kept] = self.docs[place];
            kept += usize::from(*value == Some(column.ordinal));
        }
        self.end = kept;
    }
}

impl Filtered {
    fn new(scorer: Box<dyn Scorer>, columns: Vec<KeywordColumn>) -> Self {
        let ahead = Block { docs: [0; COLLECT_BLOCK_BUFFER_LEN], start: 0, end: 0 };
        let mut filtered = Self { scorer, columns, ahead };
        filtered.settle();
        filtered
    }

    /// Goes on to a document that has the keywords; none must be ahead.
    fn settle(&mut self) -> DocId {
        let mut doc = self.scorer.doc();
        let has = |column: &KeywordColumn, doc| column.values.first(doc) == Some(column.ordinal);
        while doc != TERMINATED && !self.columns.iter().all(|column| has(column, doc)) {
            doc = self.scorer.advance();
        }
        doc
    }

    /// Reads on in the scorer until there is a document ahead; none must be.
    fn read_ahead(&mut self) {
        while self.ahead.docs().is_empty() && self.scorer.doc() != TERMINATED {
            self.ahead.start = 0;
            self.ahead.end = self.scorer.fill_buffer(&mut self.ahead.docs);
            for column in &self.columns {
                self.ahead.retain(column);
            }
        }
    }
}

impl DocSet for Filtered {
    fn advance(&mut self) -> DocId {
        if self.ahead.docs().is_empty() {
            self.scorer.advance();
            return self.settle();
        }
        self.ahead.start += 1;
        match self.ahead.docs().first() {
            Some(doc) => *doc,
            None => self.settle(),
        }
    }

    fn seek(&mut self, target: DocId) -> DocId {
        if self.doc() >= target {
            return self.doc();
        }
        self.ahead.start += self.ahead.docs().partition_point(|doc| *doc < target);
        if let Some(doc) = self.ahead.docs().first() {
            return *doc;
        }
        if self.scorer.doc() < target {
            self.scorer.seek(target);
        }
        self.settle()
    }

    fn fill_buffer(&mut self, buffer: &mut [DocId; COLLECT_BLOCK_BUFFER_LEN]) -> usize {
        let mut filled = 0;
        loop {
            let (docs, rest) = (self.ahead.docs(), &mut buffer[filled..]);
            let count = docs.len().min(rest.len());
            rest[..count].copy_from_slice(&docs[..count]);
            filled += count;
            self.ahead.start += count;
            self.read_ahead();
            if filled == buffer.len() || self.ahead.docs().is_empty() {
                return filled;
            }
        }
    }

    fn doc(&self) -> DocId {
        self.ahead.docs().first().copied().unwrap_or_else(|| self.scorer.doc())
    }

    fn size_hint(&self) -> u32 {
        self.scorer.size_hint()
    }

    fn cost(&self) -> u64 {
        self.scorer.cost()
    }
}

impl Scorer for Filtered {
    fn score(&mut self) -> Score {
        1.0
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng as _, SeedableRng as _};
    use serde_json::{Value, json};

    use super::*;
    use crate::query::QueryLimits;
    use crate::query::ast::{Bool, Query as Clause, Scalar};
    use crate::query::compile::compile_filter;
    use crate::search::fixture;

    fn term(field: &str, text: &str) -> Clause {
        let (field, value) = (field.to_owned(), Scalar::Text(text.to_owned()));
        Clause::Term { field, value, case_insensitive: false, boost: 1.0 }
    }

    #[test]
    fn it_is_walked_through_as_a_list_is() {
        let mut random = StdRng::seed_from_u64(7);
        let wanted: Vec<(bool, bool)> =
            (0..3000).map(|_| (random.random_bool(0.4), random.random_bool(0.6))).collect();
        let document = |&(word, keyword): &(bool, bool)| -> Value {
            let text = if word { "apple" } else { "fig" };
            if keyword { json!({"text": text, "kind": "a"}) } else { json!({"text": text}) }
        };
        let documents: Vec<Value> = wanted.iter().map(document).collect();
        let mapping = json!({"properties":
            {"text": {"type": "text"}, "kind": {"type": "keyword"}}});
        let snapshot = fixture::one_segment(&mapping, &documents);
        let clause = Bool {
            must: vec![term("text", "apple")],
            filter: vec![term("kind", "a")],
            should: Vec::new(),
            must_not: Vec::new(),
            minimum_should_match: None,
            boost: 1.0,
        };
        let limits = QueryLimits::default();
        let compiled = compile_filter(&snapshot, &Clause::Bool(clause), &limits).unwrap();
        let weight = compiled.weight(&snapshot, false).unwrap();
        let numbered = (0..).zip(&wanted).filter(|(_, (word, keyword))| *word && *keyword);
        let expected: Vec<DocId> = numbered.map(|(doc, _)| doc).collect();
        for _ in 0..200 {
            let docs = weight.scorer(snapshot.segments()[0].reader(), 1.0).unwrap();
            assert!(docs.is::<Filtered>());
            walk(docs, &expected, &mut random);
        }
    }

    fn walk(mut docs: Box<dyn Scorer>, mut expected: &[DocId], random: &mut StdRng) {
        let mut buffer = [0; COLLECT_BLOCK_BUFFER_LEN];
        while let Some(&doc) = expected.first() {
            assert_eq!(docs.doc(), doc);
            let passed = match random.random_range(0..3) {
                0 => {
                    docs.advance();
                    1
                }
                1 => {
                    let target = doc + random.random_range(0..200);
                    docs.seek(target);
                    expected.partition_point(|doc| *doc < target)
                }
                _ => {
                    let filled = docs.fill_buffer(&mut buffer);
                    assert_eq!(filled, expected.len().min(buffer.len()));
                    assert_eq!(buffer[..filled], expected[..filled]);
                    filled
                }
            };
            expected = &expected[passed..];
        }
        assert_eq!((docs.doc(), docs.advance()), (TERMINATED, TERMINATED));
        assert_eq!(docs.fill_buffer(&mut buffer), 0);
    }
}
