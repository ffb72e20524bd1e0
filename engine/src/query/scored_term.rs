//! A term scored by BM25 under statistics that are given.
//!
//! Tantivy counts all documents of an index, Lucene those that have the field. Tantivy's own term
//! scorer is kept underneath, since only that one is pruned by block-max WAND.

use tantivy::query::{
    Bm25StatisticsProvider, EnableScoring, Explanation, PhraseQuery, Query, Scorer, TermQuery,
    Weight,
};
use tantivy::schema::{Field, IndexRecordOption};
use tantivy::{DocId, Score, SegmentReader, Term};

use super::compile::as_f32;

/// What a term's score depends on beside the document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TermStatistics {
    /// Documents that have the field.
    pub(super) doc_count: u64,
    /// The field's length in all documents.
    pub(super) token_count: u64,
    /// Documents that have the term; at most `doc_count`.
    pub(super) doc_freq: u64,
}

impl Bm25StatisticsProvider for TermStatistics {
    fn total_num_tokens(&self, _: Field) -> tantivy::Result<u64> {
        Ok(self.token_count)
    }

    fn total_num_docs(&self) -> tantivy::Result<u64> {
        Ok(self.doc_count)
    }

    fn doc_freq(&self, _: &Term) -> tantivy::Result<u64> {
        Ok(self.doc_freq)
    }
}

impl TermStatistics {
    /// How rare the term is.
    pub(super) fn idf(&self) -> Score {
        let (all, having) = (as_f32(self.doc_count), as_f32(self.doc_freq));
        (1.0 + (all - having + 0.5) / (having + 0.5)).ln()
    }
}

/// A term of a text field.
#[derive(Debug, Clone)]
pub(super) struct ScoredTerm {
    pub(super) term: Term,
    pub(super) statistics: TermStatistics,
    pub(super) boost: Score,
}

impl Query for ScoredTerm {
    fn weight(&self, scoring: EnableScoring<'_>) -> tantivy::Result<Box<dyn Weight>> {
        let query = TermQuery::new(self.term.clone(), IndexRecordOption::WithFreqs);
        let EnableScoring::Enabled { searcher, .. } = scoring else {
            return query.weight(scoring);
        };
        let statistics = &self.statistics;
        let weight =
            query.weight(EnableScoring::enabled_from_statistics_provider(statistics, searcher))?;
        if (self.boost - 1.0).abs() < f32::EPSILON {
            return Ok(weight);
        }
        Ok(Box::new(Boosted { weight, boost: self.boost }))
    }

    fn query_terms<'a>(&'a self, visitor: &mut dyn FnMut(&'a Term, bool)) {
        visitor(&self.term, false);
    }
}

/// A phrase without slop or alternatives, scored by BM25 under statistics that are given.
#[derive(Debug, Clone)]
pub(super) struct ScoredPhrase {
    /// The terms with their places.
    pub(super) terms: Vec<(usize, Term)>,
    /// The statistics of each term.
    pub(super) statistics: Vec<(Term, TermStatistics)>,
    pub(super) boost: Score,
}

impl Bm25StatisticsProvider for ScoredPhrase {
    fn total_num_tokens(&self, _: Field) -> tantivy::Result<u64> {
        Ok(self.statistics.first().map_or(0, |(_, statistics)| statistics.token_count))
    }

    fn total_num_docs(&self) -> tantivy::Result<u64> {
        let counts = self.statistics.iter().map(|(_, statistics)| statistics.doc_count);
        Ok(counts.max().unwrap_or(0))
    }

    fn doc_freq(&self, term: &Term) -> tantivy::Result<u64> {
        let known = self.statistics.iter().find(|(known, _)| known == term);
        Ok(known.map_or(0, |(_, statistics)| statistics.doc_freq))
    }
}

impl Query for ScoredPhrase {
    fn weight(&self, scoring: EnableScoring<'_>) -> tantivy::Result<Box<dyn Weight>> {
        let query = PhraseQuery::new_with_offset(self.terms.clone());
        let EnableScoring::Enabled { searcher, .. } = scoring else {
            return query.weight(scoring);
        };
        let weight =
            query.weight(EnableScoring::enabled_from_statistics_provider(self, searcher))?;
        Ok(Box::new(Boosted { weight, boost: self.boost }))
    }
}

/// A weight whose scores are multiplied; unlike tantivy's it can still be pruned.
struct Boosted {
    weight: Box<dyn Weight>,
    boost: Score,
}

impl Weight for Boosted {
    fn scorer(&self, reader: &SegmentReader, boost: Score) -> tantivy::Result<Box<dyn Scorer>> {
        self.weight.scorer(reader, boost * self.boost)
    }

    fn explain(&self, reader: &SegmentReader, doc: DocId) -> tantivy::Result<Explanation> {
        self.weight.explain(reader, doc)
    }

    fn count(&self, reader: &SegmentReader) -> tantivy::Result<u32> {
        self.weight.count(reader)
    }

    fn for_each_no_score(
        &self,
        reader: &SegmentReader,
        callback: &mut dyn FnMut(&[DocId]),
    ) -> tantivy::Result<()> {
        self.weight.for_each_no_score(reader, callback)
    }

    fn for_each_pruning(
        &self,
        threshold: Score,
        reader: &SegmentReader,
        callback: &mut dyn FnMut(DocId, Score) -> Score,
    ) -> tantivy::Result<()> {
        let boost = self.boost;
        if boost <= 0.0 {
            return self.each_above(threshold, reader, callback);
        }
        self.weight.for_each_pruning(threshold / boost, reader, &mut |doc, score| {
            callback(doc, score * boost) / boost
        })
    }
}

impl Boosted {
    /// Without pruning, for a boost of 0, which bounds cannot be divided by.
    fn each_above(
        &self,
        threshold: Score,
        reader: &SegmentReader,
        callback: &mut dyn FnMut(DocId, Score) -> Score,
    ) -> tantivy::Result<()> {
        let mut least = threshold;
        self.weight.for_each(reader, &mut |doc, score| {
            let score = score * self.boost;
            if score > least {
                least = callback(doc, score);
            }
        })
    }
}
