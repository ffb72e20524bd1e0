//! The documents that have any of several terms, all scored alike.
//!
//! They are gathered in a set of bits. Most lists of documents are short and go there whole; the
//! long ones are read a stretch of documents at a time, as the search comes to it. So a search that
//! has enough documents, or a filter beside a rarer clause, leaves most of them unread.

use std::cmp::Reverse;

use tantivy::index::InvertedIndexReader;
use tantivy::postings::{BlockSegmentPostings, TermInfo};
use tantivy::query::{ConstScorer, EmptyScorer, Scorer};
use tantivy::schema::IndexRecordOption;
use tantivy::{BitSet, DocId, DocSet, Score, SegmentReader, TERMINATED};

/// A list of more documents than one block has is long.
const SHORT: u32 = 128;

/// Long lists that are read as they are needed: each keeps a block, a kilobyte, in memory.
const MOST_OPEN: usize = 512;

/// Documents that are gathered at first, twice as many each time, and at most: whole words of a set.
const FIRST_STRETCH: DocId = 1 << 12;
const LONGEST_STRETCH: DocId = 1 << 18;

const WORD_BITS: DocId = 64;

/// Lists of documents of one segment, to be united.
pub(super) struct Union<'a> {
    index: &'a InvertedIndexReader,
    max_doc: DocId,
    lists: Lists,
}

enum Lists {
    None,
    One(TermInfo),
    /// What the short ones have, and the long ones.
    Many(BitSet, Vec<TermInfo>),
}

impl<'a> Union<'a> {
    pub(super) fn new(index: &'a InvertedIndexReader, reader: &SegmentReader) -> Self {
        Self { index, max_doc: reader.max_doc(), lists: Lists::None }
    }

    /// Of documents that are known already.
    pub(super) fn of(mut self, docs: BitSet) -> Self {
        self.lists = Lists::Many(docs, Vec::new());
        self
    }

    /// Adds the documents of a term.
    pub(super) fn add(&mut self, info: &TermInfo) -> tantivy::Result<()> {
        match &mut self.lists {
            Lists::None => {
                self.lists = Lists::One(info.clone());
                Ok(())
            }
            Lists::One(first) => {
                let first = first.clone();
                self.lists = Lists::Many(BitSet::with_max_value(self.max_doc), Vec::new());
                self.add(&first)?;
                self.add(info)
            }
            Lists::Many(docs, _) if info.doc_freq <= SHORT => gather(self.index, info, docs),
            Lists::Many(docs, long) => {
                long.push(info.clone());
                if long.len() < 2 * MOST_OPEN {
                    return Ok(());
                }
                keep_longest(self.index, docs, long)
            }
        }
    }

    /// How many documents there are that are not deleted.
    pub(super) fn count(self, reader: &SegmentReader) -> tantivy::Result<u32> {
        let alive = reader.alive_bitset();
        let docs = match self.lists {
            Lists::None => return Ok(0),
            Lists::One(info) if alive.is_none() => return Ok(info.doc_freq),
            Lists::One(info) => {
                let mut docs = BitSet::with_max_value(self.max_doc);
                gather(self.index, &info, &mut docs)?;
                docs
            }
            Lists::Many(mut docs, long) => {
                for info in &long {
                    gather(self.index, info, &mut docs)?;
                }
                docs
            }
        };
        Ok(count_alive(docs, reader))
    }

    pub(super) fn into_scorer(self, boost: Score) -> tantivy::Result<Box<dyn Scorer>> {
        let basic = IndexRecordOption::Basic;
        Ok(match self.lists {
            Lists::None => Box::new(EmptyScorer),
            Lists::One(info) => {
                let postings = self.index.read_postings_from_terminfo(&info, basic)?;
                Box::new(ConstScorer::new(postings, boost))
            }
            Lists::Many(mut docs, mut long) => {
                if long.len() > MOST_OPEN {
                    keep_longest(self.index, &mut docs, &mut long)?;
                }
                let open = |info| self.index.read_block_postings_from_terminfo(info, basic);
                let long = long.iter().map(open).collect::<Result<_, _>>()?;
                Box::new(ConstScorer::new(United::new(docs, long), boost))
            }
        })
    }
}

/// How many documents of a set are not deleted.
pub(super) fn count_alive(mut docs: BitSet, reader: &SegmentReader) -> u32 {
    if let Some(alive) = reader.alive_bitset() {
        docs.intersect_update(alive.bitset());
    }
    u32::try_from(docs.len()).unwrap_or(u32::MAX)
}

/// Gathers all but the longest lists.
fn keep_longest(
    index: &InvertedIndexReader,
    docs: &mut BitSet,
    long: &mut Vec<TermInfo>,
) -> tantivy::Result<()> {
    long.select_nth_unstable_by_key(MOST_OPEN, |info| Reverse(info.doc_freq));
    long.drain(MOST_OPEN..).try_for_each(|info| gather(index, &info, docs))
}

fn gather(index: &InvertedIndexReader, info: &TermInfo, docs: &mut BitSet) -> tantivy::Result<()> {
    let mut postings = index.read_block_postings_from_terminfo(info, IndexRecordOption::Basic)?;
    gather_until(&mut postings, TERMINATED, docs);
    Ok(())
}

/// Gathers the blocks that begin before a document; says whether others are left.
fn gather_until(postings: &mut BlockSegmentPostings, end: DocId, docs: &mut BitSet) -> bool {
    loop {
        let block = postings.docs();
        match block.first() {
            None => return false,
            Some(first) if *first >= end => return true,
            Some(_) => block.iter().for_each(|&doc| _ = docs.insert(doc)),
        }
        postings.advance();
    }
}

/// The documents of a set and of long lists, in their order.
struct United {
    /// Complete below `gathered`, where documents before the present one are of no interest.
    docs: BitSet,
    gathered: DocId,
    /// What they have from `gathered` on is not in the set, but for a block that begins before it.
    long: Vec<BlockSegmentPostings>,
    /// How many documents were gathered last.
    stretch: DocId,
    /// How many documents there are, some of them counted more than once.
    size: u32,
    /// What is left of the present document's word.
    word: u64,
    doc: DocId,
}

impl United {
    fn new(docs: BitSet, long: Vec<BlockSegmentPostings>) -> Self {
        let sizes = long.iter().map(|list| u64::from(list.doc_freq()));
        let size = u32::try_from(docs.len() as u64 + sizes.sum::<u64>()).unwrap_or(u32::MAX);
        let size = size.min(docs.max_value());
        let (gathered, stretch) = if long.is_empty() {
            (docs.max_value(), FIRST_STRETCH)
        } else {
            (0, FIRST_STRETCH / 2)
        };
        let mut united = Self { docs, gathered, long, stretch, size, word: 0, doc: 0 };
        united.find(0);
        united
    }

    /// Gathers the next stretch of documents.
    fn gather_more(&mut self) {
        self.stretch = (self.stretch * 2).min(LONGEST_STRETCH);
        self.gathered = self.gathered.saturating_add(self.stretch).min(self.docs.max_value());
        let (docs, end) = (&mut self.docs, self.gathered);
        self.long.retain_mut(|list| gather_until(list, end, docs));
        if self.long.is_empty() {
            self.gathered = self.docs.max_value();
        }
    }

    /// Goes to the first document that is not before a place.
    fn find(&mut self, from: DocId) -> DocId {
        let max_doc = self.docs.max_value();
        let mut from = from;
        while from < max_doc {
            if from >= self.gathered {
                self.gather_more();
            }
            let (mut place, end) = (from / WORD_BITS, self.gathered.div_ceil(WORD_BITS));
            let mut word = word(&self.docs, place) & (u64::MAX << (from % WORD_BITS));
            while word == 0 && place + 1 < end {
                place += 1;
                word = self::word(&self.docs, place);
            }
            if word != 0 {
                return self.stand_at(place * WORD_BITS, word);
            }
            from = self.gathered;
        }
        self.word = 0;
        self.doc = TERMINATED;
        TERMINATED
    }

    /// Goes to the first document of what is left of a word.
    fn stand_at(&mut self, first: DocId, word: u64) -> DocId {
        self.word = word & (word - 1);
        self.doc = first + word.trailing_zeros();
        self.doc
    }
}

/// A set's word.
fn word(docs: &BitSet, place: u32) -> u64 {
    u64::from_le_bytes(docs.tinyset(place).into_bytes())
}

impl DocSet for United {
    fn advance(&mut self) -> DocId {
        if self.doc == TERMINATED {
            return TERMINATED;
        }
        let first = self.doc - self.doc % WORD_BITS;
        if self.word != 0 {
            return self.stand_at(first, self.word);
        }
        self.find(first + WORD_BITS)
    }

    fn seek(&mut self, target: DocId) -> DocId {
        if target <= self.doc {
            return self.doc;
        }
        if target >= self.gathered && target < self.docs.max_value() {
            for list in &mut self.long {
                list.seek(target);
            }
            self.gathered = target - target % WORD_BITS;
            self.stretch = FIRST_STRETCH / 2;
        }
        self.find(target)
    }

    fn doc(&self) -> DocId {
        self.doc
    }

    fn size_hint(&self) -> u32 {
        self.size
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Bound;

    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    use serde_json::json;
    use tantivy::query::Weight;

    use super::*;
    use crate::query::term_selection::{Selection, TermSelection};
    use crate::search::fixture;

    const DOCUMENTS: u32 = 20_000;

    /// Texts of documents with words, and which of them have any: some words are much more frequent
    /// than others, and long stretches have none.
    fn texts(random: &mut StdRng, words: u32, each: u32) -> (Vec<serde_json::Value>, Vec<DocId>) {
        let mut having = Vec::new();
        let document = |number: u32| {
            let most = if number / 3000 % 3 == 1 { 0 } else { each };
            let mut text = "other".to_owned();
            for _ in 0..random.random_range(0..=most) {
                let least = random.random_range(0..words);
                text.extend([" w", &random.random_range(least..words).to_string()]);
            }
            if text.len() > "other".len() {
                having.push(number);
            }
            json!({"text": text})
        };
        ((0..DOCUMENTS).map(document).collect(), having)
    }

    /// Documents come in order, each once, however far a search goes at a time.
    fn check(seed: u64, words: u32, each: u32) {
        let mut random = StdRng::seed_from_u64(seed);
        let (documents, having) = texts(&mut random, words, each);
        let mapping = json!({"properties": {"text": {"type": "text"}}});
        let snapshot = fixture::one_segment(&mapping, &documents);
        let (field, _) = snapshot.field("text").unwrap();
        let reader = snapshot.segments()[0].reader();
        let selection = Selection::Within(Bound::Included(b"w".into()), Bound::Unbounded);
        let selection = TermSelection { field, selection };
        assert_eq!(selection.count(reader).unwrap() as usize, having.len());
        for farthest in [1, 3, 100, 5000, DOCUMENTS] {
            let mut scorer = selection.scorer(reader, 1.0).unwrap();
            assert!(scorer.size_hint() as usize >= having.len());
            walk(&mut *scorer, &having, || random.random_range(1..=farthest));
        }
    }

    /// Goes through the documents, some steps at a time.
    fn walk(scorer: &mut dyn Scorer, having: &[DocId], mut step: impl FnMut() -> DocId) {
        let mut from = 0;
        while let Some(doc) = having.iter().copied().find(|doc| *doc >= from) {
            assert_eq!(scorer.doc(), doc);
            from = doc + step();
            if from == doc + 1 {
                scorer.advance()
            } else {
                scorer.seek(from)
            };
        }
        assert_eq!((scorer.doc(), scorer.advance()), (TERMINATED, TERMINATED));
    }

    #[test]
    fn long_and_short_lists_are_united() {
        check(1, 2, 1);
        check(2, 40, 4);
        check(3, 300, 1);
        check(4, 3000, 3);
        // More long lists than are kept open.
        check(5, 2 * u32::try_from(MOST_OPEN).unwrap() + 300, 24);
    }
}
