//! Documents that have any of a misspelled word's terms, scored by the sum over the terms they have.
//!
//! A union of that many term scorers spends its time on keeping them in order. Here each segment's
//! lists are gone through one after another, the best term first. Nearly all documents have only
//! one of the terms, and score no better than their block's best; the few that have several are
//! found ahead. So after the best term's documents most blocks of the others are passed over.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use tantivy::fieldnorm::FieldNormReader;
use tantivy::index::{InvertedIndexReader, SegmentId};
use tantivy::postings::{BlockSegmentPostings, TermInfo};
use tantivy::query::{
    BitSetDocSet, Bm25Weight, EmptyScorer, EnableScoring, Explanation, Query, Scorer, Weight,
};
use tantivy::schema::{Field, IndexRecordOption};
use tantivy::{BitSet, DocId, DocSet, Score, SegmentReader, TantivyError};

/// Documents in a block that is not a list's last.
const FULL_BLOCK: usize = 128;

/// Terms of a text field under which each segment has them, as of one snapshot.
#[derive(Clone)]
pub(super) struct SimilarTerms {
    pub(super) field: Field,
    /// By segment, the terms that it has with what their scores are multiplied by; the best first.
    pub(super) lists: Arc<FxHashMap<SegmentId, Vec<(TermInfo, Score)>>>,
    /// The score of all of the terms.
    pub(super) scores: Bm25Weight,
}

impl std::fmt::Debug for SimilarTerms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { field, lists, .. } = self;
        f.debug_struct("SimilarTerms").field("field", field).field("lists", lists).finish()
    }
}

impl Query for SimilarTerms {
    fn weight(&self, _: EnableScoring<'_>) -> tantivy::Result<Box<dyn Weight>> {
        Ok(Box::new(self.clone()))
    }
}

impl Weight for SimilarTerms {
    fn scorer(&self, reader: &SegmentReader, boost: Score) -> tantivy::Result<Box<dyn Scorer>> {
        let Some(lists) = self.open(reader)? else { return Ok(Box::new(EmptyScorer)) };
        let mut docs = BitSet::with_max_value(reader.max_doc());
        let mut scores = vec![0.0; reader.max_doc() as usize];
        lists.for_each_block(IndexRecordOption::WithFreqs, |block, scored| {
            for (doc, score) in scored.all(block) {
                docs.insert(doc);
                add(&mut scores, doc as usize, score);
            }
        })?;
        Ok(Box::new(Summed { docs: BitSetDocSet::from(docs), scores, boost }))
    }

    fn explain(&self, reader: &SegmentReader, doc: DocId) -> tantivy::Result<Explanation> {
        let mut scorer = self.scorer(reader, 1.0)?;
        if scorer.doc() > doc || scorer.seek(doc) != doc {
            return Err(TantivyError::InvalidArgument(format!("document {doc} does not match")));
        }
        Ok(Explanation::new("SimilarTerms", scorer.score()))
    }

    fn count(&self, reader: &SegmentReader) -> tantivy::Result<u32> {
        let Some(lists) = self.open(reader)? else { return Ok(0) };
        let alive = reader.alive_bitset();
        if let ([(only, _)], None) = (lists.terms, alive) {
            return Ok(only.doc_freq);
        }
        let mut docs = BitSet::with_max_value(reader.max_doc());
        lists.for_each_block(IndexRecordOption::Basic, |block, _| {
            for &doc in block.docs() {
                docs.insert(doc);
            }
        })?;
        if let Some(alive) = alive {
            docs.intersect_update(alive.bitset());
        }
        Ok(u32::try_from(docs.len()).unwrap_or(u32::MAX))
    }

    /// Documents do not come in their order.
    fn for_each_pruning(
        &self,
        threshold: Score,
        reader: &SegmentReader,
        callback: &mut dyn FnMut(DocId, Score) -> Score,
    ) -> tantivy::Result<()> {
        let Some(lists) = self.open(reader)? else { return Ok(()) };
        let repeated = lists.repeated(reader.max_doc())?;
        let sums = vec![0.0; repeated.len()];
        let mut pruning = Pruning { repeated, sums, threshold, callback };
        lists.for_each_block(IndexRecordOption::WithFreqs, |block, scored| {
            pruning.take(block, scored);
        })?;
        pruning.end();
        Ok(())
    }
}

/// A search for the documents of a segment that score more than a threshold.
struct Pruning<'a> {
    /// The documents that have several of the terms, rising.
    repeated: Vec<DocId>,
    /// What they score by the lists so far.
    sums: Vec<Score>,
    threshold: Score,
    callback: &'a mut dyn FnMut(DocId, Score) -> Score,
}

impl Pruning<'_> {
    fn take(&mut self, block: &mut BlockSegmentPostings, scored: &Scored<'_>) {
        let is_low = block.docs().len() == FULL_BLOCK && scored.best(block) <= self.threshold;
        match (is_any_within(&self.repeated, block.docs()), is_low) {
            (true, _) => self.take_mixed(block, scored),
            (false, true) => {}
            (false, false) => scored.all(block).for_each(|(doc, score)| self.offer(doc, score)),
        }
    }

    /// A block some of whose documents have other terms, too.
    fn take_mixed(&mut self, block: &BlockSegmentPostings, scored: &Scored<'_>) {
        for (doc, score) in scored.all(block) {
            match self.repeated.binary_search(&doc) {
                Ok(place) => add(&mut self.sums, place, score),
                Err(_) => self.offer(doc, score),
            }
        }
    }

    fn offer(&mut self, doc: DocId, score: Score) {
        if score > self.threshold {
            self.threshold = (self.callback)(doc, score);
        }
    }

    fn end(mut self) {
        let repeated = std::mem::take(&mut self.repeated).into_iter();
        for (doc, sum) in repeated.zip(std::mem::take(&mut self.sums)) {
            self.offer(doc, sum);
        }
    }
}

fn add(sums: &mut [Score], place: usize, score: Score) {
    if let Some(sum) = sums.get_mut(place) {
        *sum += score;
    }
}

impl SimilarTerms {
    fn open(&self, reader: &SegmentReader) -> tantivy::Result<Option<Lists<'_>>> {
        let Some(terms) = self.lists.get(&reader.segment_id()) else { return Ok(None) };
        let norms = reader.fieldnorms_readers().get_field(self.field)?;
        let norms = norms.unwrap_or_else(|| FieldNormReader::constant(reader.max_doc(), 1));
        let index = reader.inverted_index(self.field)?;
        Ok(Some(Lists { terms, index, norms, scores: &self.scores }))
    }
}

/// One segment's lists.
struct Lists<'a> {
    terms: &'a [(TermInfo, Score)],
    index: Arc<InvertedIndexReader>,
    norms: FieldNormReader,
    scores: &'a Bm25Weight,
}

/// How the documents of one list are scored.
struct Scored<'a> {
    norms: &'a FieldNormReader,
    scores: Bm25Weight,
}

impl Scored<'_> {
    /// A block's documents with their scores.
    fn all(&self, block: &BlockSegmentPostings) -> impl Iterator<Item = (DocId, Score)> {
        block.docs().iter().zip(block.freqs()).map(|(&doc, &frequency)| {
            (doc, self.scores.score(self.norms.fieldnorm_id(doc), frequency))
        })
    }

    /// The best score in a block, or more.
    fn best(&self, block: &mut BlockSegmentPostings) -> Score {
        block.block_max_score(self.norms, &self.scores)
    }
}

impl Lists<'_> {
    /// Visits every block of every list, the best term's first.
    fn for_each_block(
        &self,
        option: IndexRecordOption,
        mut visit: impl FnMut(&mut BlockSegmentPostings, &Scored<'_>),
    ) -> tantivy::Result<()> {
        let mut opened: Option<BlockSegmentPostings> = None;
        for (info, boost) in self.terms {
            let scored = Scored { norms: &self.norms, scores: self.scores.boost_by(*boost) };
            let block = match &mut opened {
                Some(block) => {
                    self.index.reset_block_postings_from_terminfo(info, block)?;
                    block
                }
                None => opened.insert(self.index.read_block_postings_from_terminfo(info, option)?),
            };
            while !block.docs().is_empty() {
                visit(block, &scored);
                block.advance();
            }
        }
        Ok(())
    }

    /// The documents that have several of the terms, rising.
    fn repeated(&self, max_doc: DocId) -> tantivy::Result<Vec<DocId>> {
        let mut repeated = Vec::new();
        if self.terms.len() < 2 {
            return Ok(repeated);
        }
        let mut seen = BitSet::with_max_value(max_doc);
        self.for_each_block(IndexRecordOption::Basic, |block, _| {
            let docs = block.docs().iter().copied();
            repeated.extend(docs.filter(|&doc| !seen.insert(doc)));
        })?;
        repeated.sort_unstable();
        repeated.dedup();
        Ok(repeated)
    }
}

/// Whether any of some rising documents lies between the ends of a block.
fn is_any_within(docs: &[DocId], block: &[DocId]) -> bool {
    let (Some(first), Some(last)) = (block.first(), block.last()) else { return false };
    let place = docs.partition_point(|doc| doc < first);
    docs.get(place).is_some_and(|doc| doc <= last)
}

/// Documents with scores that have been added up.
struct Summed {
    docs: BitSetDocSet,
    scores: Vec<Score>,
    boost: Score,
}

impl DocSet for Summed {
    fn advance(&mut self) -> DocId {
        self.docs.advance()
    }

    fn seek(&mut self, target: DocId) -> DocId {
        self.docs.seek(target)
    }

    fn doc(&self) -> DocId {
        self.docs.doc()
    }

    fn size_hint(&self) -> u32 {
        self.docs.size_hint()
    }
}

impl Scorer for Summed {
    fn score(&mut self) -> Score {
        self.scores.get(self.docs.doc() as usize).map_or(0.0, |score| score * self.boost)
    }
}
