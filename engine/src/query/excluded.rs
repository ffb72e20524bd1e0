//! What `must_not` leaves out. Tantivy's exclusion asks for documents that the excluded set has
//! already passed, or of which the set has said that they come before its next one; its phrases do not
//! expect that (an assertion in debug builds). This wrapper answers for them.

use tantivy::query::{EnableScoring, Explanation, Query, Scorer, Weight};
use tantivy::{DocId, DocSet, Score, SeekDangerResult, SegmentReader};

/// A query whose document sets may be asked for documents that they have passed.
#[derive(Debug)]
pub(super) struct Excluded(pub(super) Box<dyn Query>);

impl Clone for Excluded {
    fn clone(&self) -> Self {
        Self(self.0.box_clone())
    }
}

impl Query for Excluded {
    fn weight(&self, scoring: EnableScoring<'_>) -> tantivy::Result<Box<dyn Weight>> {
        Ok(Box::new(ExcludedWeight(self.0.weight(scoring)?)))
    }
}

struct ExcludedWeight(Box<dyn Weight>);

impl Weight for ExcludedWeight {
    fn scorer(&self, reader: &SegmentReader, boost: Score) -> tantivy::Result<Box<dyn Scorer>> {
        let docs = self.0.scorer(reader, boost)?;
        Ok(Box::new(ExcludedDocs { not_before: docs.doc(), docs }))
    }

    fn explain(&self, reader: &SegmentReader, doc: DocId) -> tantivy::Result<Explanation> {
        self.0.explain(reader, doc)
    }
}

struct ExcludedDocs {
    docs: Box<dyn Scorer>,
    /// No document of the set that has not been asked for comes before this.
    not_before: DocId,
}

impl DocSet for ExcludedDocs {
    fn advance(&mut self) -> DocId {
        self.not_before = self.docs.advance();
        self.not_before
    }

    fn seek(&mut self, target: DocId) -> DocId {
        self.not_before = self.docs.seek(target);
        self.not_before
    }

    fn seek_danger(&mut self, target: DocId) -> SeekDangerResult {
        if target < self.not_before {
            return SeekDangerResult::SeekLowerBound(self.not_before);
        }
        let found = self.docs.seek_danger(target);
        self.not_before = match found {
            SeekDangerResult::Found => target,
            SeekDangerResult::SeekLowerBound(next) => next,
        };
        found
    }

    fn doc(&self) -> DocId {
        self.docs.doc()
    }

    fn size_hint(&self) -> u32 {
        self.docs.size_hint()
    }

    fn cost(&self) -> u64 {
        self.docs.cost()
    }
}

impl Scorer for ExcludedDocs {
    fn score(&mut self) -> Score {
        self.docs.score()
    }
}
