//! Documents that have any of many terms of one field, all scored alike: lists of values, prefixes,
//! patterns, intervals.
//!
//! Terms are looked up in each segment's dictionary as the query runs, so there is no cap: one term
//! is read as it is, several fill a bitset.

use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use tantivy::index::InvertedIndexReader;
use tantivy::postings::TermInfo;
use tantivy::query::{
    BitSetDocSet, ConstScorer, EmptyScorer, EnableScoring, Explanation, Query, Scorer, Weight,
};
use tantivy::schema::{Field, IndexRecordOption};
use tantivy::{BitSet, DocId, Score, SegmentReader, TantivyError};

use super::matcher::Matcher;
use super::texts::{Interval, Texts, beginning_with, end_of_prefix};
use crate::control::Ticks;

/// Which terms.
#[derive(Debug, Clone)]
pub(super) enum Selection {
    /// These, in the dictionary's bytes.
    List(Arc<[Vec<u8>]>),
    /// Those within bounds, in the dictionary's bytes.
    Within(Bound<Vec<u8>>, Bound<Vec<u8>>),
    /// Texts that fit.
    Matching(Arc<Matcher>),
}

/// Documents that have any of the terms.
#[derive(Debug, Clone)]
pub(super) struct TermSelection {
    pub(super) field: Field,
    pub(super) selection: Selection,
}

impl Query for TermSelection {
    fn weight(&self, _: EnableScoring<'_>) -> tantivy::Result<Box<dyn Weight>> {
        Ok(Box::new(self.clone()))
    }
}

impl Weight for TermSelection {
    fn scorer(&self, reader: &SegmentReader, boost: Score) -> tantivy::Result<Box<dyn Scorer>> {
        let index = reader.inverted_index(self.field)?;
        self.union(&index, reader)?.into_scorer(boost)
    }

    fn count(&self, reader: &SegmentReader) -> tantivy::Result<u32> {
        let index = reader.inverted_index(self.field)?;
        let mut docs = match self.union(&index, reader)?.state {
            State::Empty => return Ok(0),
            State::One(info) if reader.alive_bitset().is_none() => return Ok(info.doc_freq),
            State::One(info) => {
                let mut docs = BitSet::with_max_value(reader.max_doc());
                fill(&index, &info, &mut docs)?;
                docs
            }
            State::Many(docs) => docs,
        };
        if let Some(alive) = reader.alive_bitset() {
            docs.intersect_update(alive.bitset());
        }
        Ok(u32::try_from(docs.len()).unwrap_or(u32::MAX))
    }

    fn explain(&self, reader: &SegmentReader, doc: DocId) -> tantivy::Result<Explanation> {
        let mut scorer = self.scorer(reader, 1.0)?;
        if scorer.doc() > doc || scorer.seek(doc) != doc {
            return Err(TantivyError::InvalidArgument(format!("document {doc} does not match")));
        }
        Ok(Explanation::new("TermSelection", 1.0))
    }
}

impl TermSelection {
    fn union<'a>(
        &self,
        index: &'a InvertedIndexReader,
        reader: &SegmentReader,
    ) -> tantivy::Result<Union<'a>> {
        let max_doc = reader.max_doc();
        let mut union = Union { index, max_doc, state: State::Empty };
        match &self.selection {
            Selection::List(terms) => {
                let mut ticks = Ticks::default();
                for term in terms.iter() {
                    ticks.tick()?;
                    let info = index.terms().get(term)?;
                    info.as_ref().map_or(Ok(()), |info| union.add(info))?;
                }
            }
            Selection::Within(lower, upper) => {
                let interval = (as_slice(lower), as_slice(upper));
                union.add_within(&Texts::open(reader, self.field)?, interval)?;
            }
            Selection::Matching(matcher) => {
                let texts = Texts::open(reader, self.field)?;
                if let Matcher::Prefix { prefix, case_insensitive: false } = &**matcher {
                    let end = end_of_prefix(prefix.as_bytes());
                    union.add_within(&texts, beginning_with(prefix, end.as_deref()))?;
                } else {
                    let mut add =
                        |_: &str, info: &TermInfo| union.add(info).map(ControlFlow::Continue);
                    texts.for_each_match(matcher, &mut add)?;
                }
            }
        }
        Ok(union)
    }
}

fn as_slice(bound: &Bound<Vec<u8>>) -> Bound<&[u8]> {
    bound.as_ref().map(Vec::as_slice)
}

struct Union<'a> {
    index: &'a InvertedIndexReader,
    max_doc: DocId,
    state: State,
}

enum State {
    Empty,
    One(TermInfo),
    Many(BitSet),
}

impl Union<'_> {
    /// Adds the texts of an interval.
    fn add_within(&mut self, texts: &Texts, interval: Interval<'_>) -> tantivy::Result<()> {
        if let Some(docs) = texts.documents_within(interval, self.max_doc)? {
            self.state = State::Many(docs);
            return Ok(());
        }
        texts.for_each_within(interval, &mut |info| self.add(info))
    }

    fn add(&mut self, info: &TermInfo) -> tantivy::Result<()> {
        match &mut self.state {
            State::Empty => self.state = State::One(info.clone()),
            State::One(first) => {
                let mut docs = BitSet::with_max_value(self.max_doc);
                fill(self.index, first, &mut docs)?;
                fill(self.index, info, &mut docs)?;
                self.state = State::Many(docs);
            }
            State::Many(docs) => fill(self.index, info, docs)?,
        }
        Ok(())
    }

    fn into_scorer(self, boost: Score) -> tantivy::Result<Box<dyn Scorer>> {
        Ok(match self.state {
            State::Empty => Box::new(EmptyScorer),
            State::One(info) => {
                let postings =
                    self.index.read_postings_from_terminfo(&info, IndexRecordOption::Basic)?;
                Box::new(ConstScorer::new(postings, boost))
            }
            State::Many(docs) => Box::new(ConstScorer::new(BitSetDocSet::from(docs), boost)),
        })
    }
}

fn fill(index: &InvertedIndexReader, info: &TermInfo, docs: &mut BitSet) -> tantivy::Result<()> {
    let mut postings = index.read_block_postings_from_terminfo(info, IndexRecordOption::Basic)?;
    loop {
        let block = postings.docs();
        if block.is_empty() {
            return Ok(());
        }
        for &doc in block {
            docs.insert(doc);
        }
        postings.advance();
    }
}
