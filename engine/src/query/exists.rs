//! Documents that have a value in a field that has norms but no column: those whose length is not 0.

use tantivy::fieldnorm::FieldNormReader;
use tantivy::query::{ConstScorer, EmptyScorer, EnableScoring, Explanation, Query, Scorer, Weight};
use tantivy::schema::Field;
use tantivy::{DocId, DocSet, Score, SegmentReader, TERMINATED, TantivyError};

/// Documents whose field has terms.
#[derive(Debug, Clone)]
pub(super) struct HasNorm {
    pub(super) field: Field,
}

impl Query for HasNorm {
    fn weight(&self, _: EnableScoring<'_>) -> tantivy::Result<Box<dyn Weight>> {
        Ok(Box::new(self.clone()))
    }
}

impl Weight for HasNorm {
    fn scorer(&self, reader: &SegmentReader, boost: Score) -> tantivy::Result<Box<dyn Scorer>> {
        let Some(norms) = reader.fieldnorms_readers().get_field(self.field)? else {
            return Ok(Box::new(EmptyScorer));
        };
        let mut docs = NormDocSet { norms, doc: 0, max_doc: reader.max_doc() };
        docs.settle(0);
        Ok(Box::new(ConstScorer::new(docs, boost)))
    }

    fn explain(&self, reader: &SegmentReader, doc: DocId) -> tantivy::Result<Explanation> {
        let mut scorer = self.scorer(reader, 1.0)?;
        if scorer.doc() > doc || scorer.seek(doc) != doc {
            return Err(TantivyError::InvalidArgument(format!("document {doc} does not match")));
        }
        Ok(Explanation::new("HasNorm", 1.0))
    }
}

struct NormDocSet {
    norms: FieldNormReader,
    doc: DocId,
    max_doc: DocId,
}

impl NormDocSet {
    fn settle(&mut self, from: DocId) -> DocId {
        let found = (from..self.max_doc).find(|&doc| self.norms.fieldnorm_id(doc) > 0);
        self.doc = found.unwrap_or(TERMINATED);
        self.doc
    }
}

impl DocSet for NormDocSet {
    fn advance(&mut self) -> DocId {
        if self.doc == TERMINATED { TERMINATED } else { self.settle(self.doc + 1) }
    }

    fn seek(&mut self, target: DocId) -> DocId {
        if self.doc < target { self.settle(target) } else { self.doc }
    }

    fn doc(&self) -> DocId {
        self.doc
    }

    fn size_hint(&self) -> u32 {
        self.max_doc
    }
}
