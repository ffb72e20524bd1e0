//! How many documents match terms, counted apart from the hits: looking at every match only to count
//! it would keep the search for the best from skipping any.

use tantivy::index::InvertedIndexReader;
use tantivy::postings::TermInfo;
use tantivy::query::Weight;
use tantivy::schema::IndexRecordOption;
use tantivy::{BitSet, COLLECT_BLOCK_BUFFER_LEN, DocId, SegmentReader, Term};

use crate::control;
use crate::error::Result;
use crate::query::compile::Shape;

/// A segment of fewer documents is counted in one go: that takes a millisecond or two.
const UNCHECKED_DOCS: DocId = 1 << 16;

/// How many living documents of a segment match.
pub(super) fn matches(weight: &dyn Weight, shape: Shape, reader: &SegmentReader) -> Result<u64> {
    control::go_on()?;
    // Everything else comes down to a length or to counting bits.
    if shape != Shape::Other || reader.max_doc() < UNCHECKED_DOCS {
        return Ok(weight.count(reader)?.into());
    }
    let (mut scorer, alive) = (weight.scorer(reader, 1.0)?, reader.alive_bitset());
    let mut docs = [0; COLLECT_BLOCK_BUFFER_LEN];
    let mut total = 0;
    loop {
        control::go_on()?;
        let found = scorer.fill_buffer(&mut docs);
        let block = docs.get(..found).unwrap_or_default();
        total += match alive {
            Some(alive) => block.iter().filter(|doc| alive.is_alive(**doc)).count() as u64,
            None => found as u64,
        };
        if found < COLLECT_BLOCK_BUFFER_LEN {
            return Ok(total);
        }
    }
}

/// Terms of a segment that some document has.
type Found = Vec<(std::sync::Arc<InvertedIndexReader>, TermInfo)>;

/// How many living documents of a segment have any of the terms.
pub(super) fn with_any(reader: &SegmentReader, terms: &[Term]) -> Result<u64> {
    let found = found(reader, terms)?;
    let alive = reader.alive_bitset();
    if let ([(_, only)], None) = (found.as_slice(), alive) {
        return Ok(u64::from(only.doc_freq));
    }
    if found.is_empty() {
        return Ok(0);
    }
    let mut docs = BitSet::with_max_value(reader.max_doc());
    for (index, info) in &found {
        for_each_block(index, info, |block| {
            for &doc in block {
                docs.insert(doc);
            }
        })?;
    }
    if let Some(alive) = alive {
        docs.intersect_update(alive.bitset());
    }
    Ok(docs.len() as u64)
}

/// How many living documents of a segment have all of the terms.
pub(super) fn with_all(reader: &SegmentReader, terms: &[Term]) -> Result<u64> {
    let mut found = found(reader, terms)?;
    if found.len() < terms.len() {
        return Ok(0);
    }
    found.sort_by_key(|(_, info)| info.doc_freq);
    let Some(((index, rarest), others)) = found.split_first() else { return Ok(0) };
    let mut docs: Vec<DocId> = Vec::with_capacity(rarest.doc_freq as usize);
    for_each_block(index, rarest, |block| docs.extend_from_slice(block))?;
    for (index, info) in others {
        keep_those_of(&mut docs, index, info)?;
    }
    if let Some(alive) = reader.alive_bitset() {
        docs.retain(|doc| alive.is_alive(*doc));
    }
    Ok(docs.len() as u64)
}

fn found(reader: &SegmentReader, terms: &[Term]) -> Result<Found> {
    let mut found = Vec::with_capacity(terms.len());
    for term in terms {
        let index = reader.inverted_index(term.field())?;
        if let Some(info) = index.get_term_info(term)? {
            found.push((index, info));
        }
    }
    Ok(found)
}

fn for_each_block(
    index: &InvertedIndexReader,
    info: &TermInfo,
    mut visit: impl FnMut(&[DocId]),
) -> Result<()> {
    let mut postings = index.read_block_postings_from_terminfo(info, IndexRecordOption::Basic)?;
    while !postings.docs().is_empty() {
        visit(postings.docs());
        postings.advance();
    }
    Ok(())
}

/// Keeps of rising documents those that a term occurs in.
fn keep_those_of(
    docs: &mut Vec<DocId>,
    index: &InvertedIndexReader,
    info: &TermInfo,
) -> Result<()> {
    let mut postings = index.read_block_postings_from_terminfo(info, IndexRecordOption::Basic)?;
    docs.retain(|&doc| {
        let place = postings.seek(doc);
        postings.docs().get(place) == Some(&doc)
    });
    Ok(())
}
