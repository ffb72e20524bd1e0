//! Documents that have any of many terms of one field, all scored alike: lists of values, prefixes,
//! patterns, intervals.
//!
//! Terms are looked up in each segment's dictionary as the query runs, so there is no cap.

use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use tantivy::index::InvertedIndexReader;
use tantivy::postings::TermInfo;
use tantivy::query::{EnableScoring, Explanation, Query, Scorer, Weight};
use tantivy::schema::Field;
use tantivy::{DocId, Score, SegmentReader, TantivyError};

use super::ast::Relation;
use super::matcher::Matcher;
use super::texts::{Interval, Texts, beginning_with, end_of_prefix};
use super::union::Union;
use crate::control::Ticks;
use crate::mapping::span::{Span, Spans};

/// Which terms.
#[derive(Debug, Clone)]
pub(super) enum Selection {
    /// These, in the dictionary's bytes.
    List(Arc<[Vec<u8>]>),
    /// Those within bounds, in the dictionary's bytes.
    Within(Bound<Vec<u8>>, Bound<Vec<u8>>),
    /// Texts that fit.
    Matching(Arc<Matcher>),
    /// Those between any of these, both included, in the dictionary's bytes; in order and apart.
    Intervals(Arc<[(Vec<u8>, Vec<u8>)]>),
    /// Ranges that lie so to any of others.
    Spans(Arc<[SpanSelection]>),
}

/// [Ranges](crate::mapping::span) that lie so to one whose ends have these digits.
#[derive(Debug, Clone)]
pub(super) struct SpanSelection {
    first: String,
    last: String,
    relation: Relation,
}

impl SpanSelection {
    pub(super) fn new(spans: &Spans, span: Span, relation: Relation) -> Self {
        Self { first: spans.digits(span.first), last: spans.digits(span.last), relation }
    }

    /// Where their terms are, which are in the order of where ranges begin.
    fn begin_within(&self) -> (Bound<&[u8]>, Bound<Vec<u8>>) {
        // After all terms that begin with these digits.
        let after = |digits: &String| Bound::Excluded([digits.as_bytes(), b"g"].concat());
        match self.relation {
            Relation::Intersects => (Bound::Unbounded, after(&self.last)),
            Relation::Contains => (Bound::Unbounded, after(&self.first)),
            Relation::Within => (Bound::Included(self.first.as_bytes()), after(&self.last)),
        }
    }

    /// Whether a term that begins so ends so, too.
    fn takes(&self, term: &[u8]) -> bool {
        let end = term.get(self.last.len()..).unwrap_or_default();
        match self.relation {
            Relation::Intersects => end >= self.first.as_bytes(),
            Relation::Contains => end >= self.last.as_bytes(),
            Relation::Within => end <= self.last.as_bytes(),
        }
    }
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
        self.union(&index, reader)?.count(reader)
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
        let mut union = Union::new(index, reader);
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
                return within(union, &Texts::open(reader, self.field)?, interval, reader);
            }
            Selection::Intervals(intervals) => {
                let texts = Texts::open(reader, self.field)?;
                let mut ticks = Ticks::default();
                for (first, last) in intervals.iter() {
                    ticks.tick()?;
                    let interval = (Bound::Included(&**first), Bound::Included(&**last));
                    texts.for_each_within(interval, &mut |info| union.add(info))?;
                }
            }
            Selection::Spans(spans) => {
                let texts = Texts::open(reader, self.field)?;
                for span in spans.iter() {
                    add_spans(&mut union, &texts, span)?;
                }
            }
            Selection::Matching(matcher) => {
                let texts = Texts::open(reader, self.field)?;
                if let Matcher::Prefix { prefix, case_insensitive: false } = &**matcher {
                    let end = end_of_prefix(prefix.as_bytes());
                    return within(union, &texts, beginning_with(prefix, end.as_deref()), reader);
                }
                let mut add = |_: &str, info: &TermInfo| union.add(info).map(ControlFlow::Continue);
                texts.for_each_match(matcher, &mut add)?;
            }
        }
        Ok(union)
    }
}

fn as_slice(bound: &Bound<Vec<u8>>) -> Bound<&[u8]> {
    bound.as_ref().map(Vec::as_slice)
}

/// The union of the texts of an interval.
fn within<'a>(
    mut union: Union<'a>,
    texts: &Texts,
    interval: Interval<'_>,
    reader: &SegmentReader,
) -> tantivy::Result<Union<'a>> {
    if let Some(docs) = texts.documents_within(interval, reader.max_doc())? {
        return Ok(union.of(docs));
    }
    texts.for_each_within(interval, &mut |info| union.add(info))?;
    Ok(union)
}

/// Adds the ranges that lie so to another.
fn add_spans(union: &mut Union<'_>, texts: &Texts, span: &SpanSelection) -> tantivy::Result<()> {
    let (lower, upper) = span.begin_within();
    texts.for_each_term_within((lower, as_slice(&upper)), &mut |term, info| {
        if span.takes(term) { union.add(info) } else { Ok(()) }
    })
}
