//! Phrases: with slop, with several terms at one place, and scored under Lucene's statistics.

use tantivy::fieldnorm::FieldNormReader;
use tantivy::postings::{Postings as _, SegmentPostings};
use tantivy::query::{EmptyScorer, EnableScoring, Explanation, Query, Scorer, Weight};
use tantivy::schema::{Field, IndexRecordOption};
use tantivy::{DocId, DocSet, Score, SegmentReader, TERMINATED, TantivyError, Term};

use super::sloppy::{PlacePositions, exact_frequency, sloppy_frequency};

const K1: Score = 1.2;
const B: Score = 0.75;

/// A place of the phrase: any of its terms may stand there.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    pub(super) position: usize,
    pub(super) terms: Vec<Term>,
}

impl Slot {
    /// The only term, with the place.
    pub(super) fn into_single(mut self) -> Option<(usize, Term)> {
        Some((self.position, self.terms.pop()?))
    }
}

/// A phrase of one field.
#[derive(Debug, Clone)]
pub(super) struct PhraseMatch {
    pub(super) field: Field,
    /// In the order of their places, two or more.
    pub(super) slots: Vec<Slot>,
    pub(super) slop: u32,
    /// The rarity of all terms, and the boost.
    pub(super) idf: Score,
    /// The field's average length.
    pub(super) average: Score,
}

impl Query for PhraseMatch {
    fn weight(&self, _: EnableScoring<'_>) -> tantivy::Result<Box<dyn Weight>> {
        Ok(Box::new(self.clone()))
    }
}

impl Weight for PhraseMatch {
    fn scorer(&self, reader: &SegmentReader, boost: Score) -> tantivy::Result<Box<dyn Scorer>> {
        let Some(places) = self.places(reader)? else { return Ok(Box::new(EmptyScorer)) };
        let norms = reader.fieldnorms_readers().get_field(self.field)?;
        let norms = norms.unwrap_or_else(|| FieldNormReader::constant(reader.max_doc(), 1));
        let mut scorer = PhraseScorer {
            positions: places.iter().map(|_| PlacePositions::default()).collect(),
            places,
            slop: self.slop,
            repeats: self.slop > 0 && self.has_repeats(),
            norms,
            weight: self.idf * boost * (1.0 + K1),
            average: self.average,
            doc: 0,
            frequency: 0.0,
        };
        scorer.settle(0);
        Ok(Box::new(scorer))
    }

    fn explain(&self, reader: &SegmentReader, doc: DocId) -> tantivy::Result<Explanation> {
        let mut scorer = self.scorer(reader, 1.0)?;
        if scorer.doc() > doc || scorer.seek(doc) != doc {
            return Err(TantivyError::InvalidArgument(format!("document {doc} does not match")));
        }
        Ok(Explanation::new("PhraseMatch", scorer.score()))
    }
}

impl PhraseMatch {
    fn places(&self, reader: &SegmentReader) -> tantivy::Result<Option<Vec<Place>>> {
        let index = reader.inverted_index(self.field)?;
        let mut places = Vec::with_capacity(self.slots.len());
        for slot in &self.slots {
            let mut postings = Vec::with_capacity(slot.terms.len());
            for term in &slot.terms {
                let option = IndexRecordOption::WithFreqsAndPositions;
                postings.extend(index.read_postings(term, option)?);
            }
            if postings.is_empty() {
                return Ok(None);
            }
            places.push(Place { postings, offset: slot.position });
        }
        Ok(Some(places))
    }

    fn has_repeats(&self) -> bool {
        self.slots.iter().enumerate().any(|(place, slot)| {
            let before = self.slots.iter().take(place);
            before.flat_map(|other| &other.terms).any(|term| slot.terms.contains(term))
        })
    }
}

/// The postings of one place's terms.
struct Place {
    postings: Vec<SegmentPostings>,
    offset: usize,
}

impl Place {
    /// The first document from `target` on that has one of the terms.
    fn seek(&mut self, target: DocId) -> DocId {
        let mut least = TERMINATED;
        for postings in &mut self.postings {
            let mut doc = postings.doc();
            if doc < target {
                doc = postings.seek(target);
            }
            least = least.min(doc);
        }
        least
    }

    fn read(&mut self, doc: DocId, buffer: &mut Vec<u32>, into: &mut PlacePositions) {
        into.shifted.clear();
        into.offset = i64::try_from(self.offset).unwrap_or(i64::MAX);
        let mut lists = 0;
        for postings in &mut self.postings {
            if postings.doc() == doc {
                postings.positions(buffer);
                let offset = into.offset;
                into.shifted.extend(buffer.iter().map(|position| i64::from(*position) - offset));
                lists += 1;
            }
        }
        if lists > 1 {
            into.shifted.sort_unstable();
            into.shifted.dedup();
        }
    }
}

struct PhraseScorer {
    places: Vec<Place>,
    positions: Vec<PlacePositions>,
    slop: u32,
    repeats: bool,
    norms: FieldNormReader,
    weight: Score,
    average: Score,
    doc: DocId,
    frequency: Score,
}

impl PhraseScorer {
    /// Goes to the first document from `target` on where the phrase occurs.
    fn settle(&mut self, mut target: DocId) -> DocId {
        let mut buffer = Vec::new();
        while target < TERMINATED {
            let later = self.places.iter_mut().map(|place| place.seek(target));
            if let Some(doc) = later.into_iter().find(|doc| *doc > target) {
                target = doc;
                continue;
            }
            for (place, positions) in self.places.iter_mut().zip(&mut self.positions) {
                place.read(target, &mut buffer, positions);
            }
            self.frequency = self.frequency();
            if self.frequency > 0.0 {
                self.doc = target;
                return target;
            }
            target += 1;
        }
        self.doc = TERMINATED;
        TERMINATED
    }

    fn frequency(&self) -> Score {
        if self.slop == 0 {
            super::compile::as_f32(exact_frequency(&self.positions).into())
        } else {
            sloppy_frequency(&self.positions, self.slop, self.repeats)
        }
    }
}

impl DocSet for PhraseScorer {
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
        let rarest = self.places.iter().map(|place| {
            place.postings.iter().map(DocSet::size_hint).fold(0_u32, u32::saturating_add)
        });
        rarest.min().unwrap_or(0)
    }

    fn cost(&self) -> u64 {
        // Positions are read for every candidate.
        u64::from(self.size_hint()) * 10
    }
}

impl Scorer for PhraseScorer {
    fn score(&mut self) -> Score {
        let length = self.norms.fieldnorm(self.doc);
        let norm = K1 * (1.0 - B + B * super::compile::as_f32(length.into()) / self.average);
        self.weight * self.frequency / (self.frequency + norm)
    }
}
