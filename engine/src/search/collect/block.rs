//! Matching documents of one segment, a block at a time.

use tantivy::query::Scorer;
use tantivy::{COLLECT_BLOCK_BUFFER_LEN, DocId, TERMINATED};

use crate::snapshot::Segment;

/// Documents of one segment, in blocks.
pub(super) struct Block {
    pub(super) docs: [DocId; COLLECT_BLOCK_BUFFER_LEN],
    pub(super) scores: [f32; COLLECT_BLOCK_BUFFER_LEN],
    pub(super) len: usize,
}

impl Block {
    pub(super) fn new() -> Self {
        Self {
            docs: [0; COLLECT_BLOCK_BUFFER_LEN],
            scores: [0.0; COLLECT_BLOCK_BUFFER_LEN],
            len: 0,
        }
    }

    pub(super) fn docs(&self) -> &[DocId] {
        self.docs.get(..self.len).unwrap_or_default()
    }

    /// Takes the next documents; says whether they are the last.
    pub(super) fn fill(&mut self, scorer: &mut dyn Scorer, scored: bool) -> bool {
        if !scored {
            self.len = scorer.fill_buffer(&mut self.docs);
            return self.len < COLLECT_BLOCK_BUFFER_LEN;
        }
        self.len = 0;
        let mut doc = scorer.doc();
        for (slot, score) in self.docs.iter_mut().zip(&mut self.scores) {
            if doc == TERMINATED {
                return true;
            }
            *slot = doc;
            *score = scorer.score();
            self.len += 1;
            doc = scorer.advance();
        }
        doc == TERMINATED
    }

    /// Drops deleted documents and those that score too little.
    pub(super) fn retain_wanted(&mut self, segment: &Segment, min_score: Option<f32>) {
        let alive = segment.reader().alive_bitset();
        if alive.is_none() && min_score.is_none() {
            return;
        }
        let mut kept = 0;
        for place in 0..self.len {
            let (doc, score) = (self.docs[place], self.scores[place]);
            let wanted = alive.is_none_or(|alive| alive.is_alive(doc))
                && min_score.is_none_or(|least| score >= least);
            if wanted {
                self.docs[kept] = doc;
                self.scores[kept] = score;
                kept += 1;
            }
        }
        self.len = kept;
    }
}

/// Whether a document set has a document; asked in rising order.
pub(in crate::search) fn contains(docs: &mut dyn Scorer, doc: DocId) -> bool {
    if docs.doc() < doc {
        docs.seek(doc);
    }
    docs.doc() == doc
}
