//! The best hits so far, by score or by sort keys, in bounded heaps.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use tantivy::DocId;

use super::request::SortValue;
use super::sort_key::{Key, KeyColumn, SortPlan, compare};
use crate::control;
use crate::error::Result;
use crate::search::request::Sort;

/// A hit that may be returned.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Candidate {
    pub(super) address: Address,
    pub(super) score: Option<f32>,
    pub(super) sort: Vec<SortValue>,
}

/// Where a document lies; the order breaks ties.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Address {
    pub(super) snapshot: usize,
    pub(super) segment: usize,
    pub(super) doc: DocId,
}

/// The best by score; of equals, those with the first addresses.
pub(super) struct ScoreTop {
    limit: usize,
    heap: BinaryHeap<Scored>,
    /// For so many the search's memory has been taken.
    charged: usize,
}

/// Greater is worse.
struct Scored {
    score: f32,
    address: Address,
}

impl PartialEq for Scored {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Scored {}

impl PartialOrd for Scored {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scored {
    fn cmp(&self, other: &Self) -> Ordering {
        other.score.total_cmp(&self.score).then_with(|| self.address.cmp(&other.address))
    }
}

impl ScoreTop {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, heap: BinaryHeap::with_capacity(limit.min(1024)), charged: 0 }
    }

    /// Takes memory for what has been kept since the last call.
    pub(super) fn charge(&mut self) -> Result<()> {
        let each = size_of::<Scored>() + size_of::<Candidate>();
        charge(self.heap.len(), &mut self.charged, each)
    }

    pub(super) fn offer(&mut self, score: f32, address: Address) {
        let offered = Scored { score, address };
        if self.heap.len() < self.limit {
            self.heap.push(offered);
        } else if let Some(mut worst) = self.heap.peek_mut()
            && offered < *worst
        {
            *worst = offered;
        }
    }

    /// The score that a further document must exceed, or have with a lower address; `None` while any
    /// will do.
    pub(super) fn threshold(&self) -> Option<f32> {
        if self.heap.len() < self.limit {
            return None;
        }
        Some(self.heap.peek().map_or(f32::INFINITY, |worst| worst.score))
    }

    pub(super) fn into_candidates(self) -> Vec<Candidate> {
        let hits = self.heap.into_sorted_vec().into_iter();
        hits.map(|hit| Candidate { address: hit.address, score: Some(hit.score), sort: Vec::new() })
            .collect()
    }
}

/// The best of one segment by sort keys. Documents must be offered in their order.
pub(super) struct SortTop<'a> {
    limit: usize,
    columns: &'a [KeyColumn],
    after: Option<&'a [(Key, Ordering)]>,
    heap: BinaryHeap<Keyed>,
    /// For so many the search's memory has been taken.
    charged: usize,
}

/// Greater is worse.
#[derive(PartialEq)]
struct Keyed {
    first: Key,
    rest: Vec<Key>,
    doc: DocId,
    score: f32,
}

impl Eq for Keyed {}

impl PartialOrd for Keyed {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Keyed {
    fn cmp(&self, other: &Self) -> Ordering {
        let first = self.first.cmp(&other.first);
        first.then_with(|| self.rest.cmp(&other.rest)).then_with(|| self.doc.cmp(&other.doc))
    }
}

impl<'a> SortTop<'a> {
    pub(super) fn new(
        limit: usize,
        columns: &'a [KeyColumn],
        after: Option<&'a [(Key, Ordering)]>,
    ) -> Self {
        Self { limit, columns, after, heap: BinaryHeap::new(), charged: 0 }
    }

    /// Takes memory for what has been kept since the last call.
    pub(super) fn charge(&mut self) -> Result<()> {
        let each = self.bytes_of_one();
        charge(self.heap.len(), &mut self.charged, each)
    }

    fn bytes_of_one(&self) -> usize {
        size_of::<Keyed>() + self.columns.len().saturating_sub(1) * size_of::<Key>()
    }

    pub(super) fn is_full(&self) -> bool {
        self.heap.len() >= self.limit
    }

    pub(super) fn offer(&mut self, doc: DocId, score: f32) {
        let Some((first_column, others)) = self.columns.split_first() else { return };
        let first = first_column.key(doc, score);
        if self.limit == 0
            || self.after.is_some_and(|after| !self.is_after(after, first, doc, score))
        {
            return;
        }
        if self.heap.len() < self.limit {
            let rest = others.iter().map(|column| column.key(doc, score)).collect();
            self.heap.push(Keyed { first, rest, doc, score });
            return;
        }
        let Some(mut worst) = self.heap.peek_mut() else { return };
        if first > worst.first {
            return;
        }
        if first == worst.first {
            let keys = others.iter().map(|column| column.key(doc, score));
            // Of equals, the one that came first stays.
            if keys.cmp(worst.rest.iter().copied()).is_ge() {
                return;
            }
        }
        let mut rest = std::mem::take(&mut worst.rest);
        rest.clear();
        rest.extend(others.iter().map(|column| column.key(doc, score)));
        *worst = Keyed { first, rest, doc, score };
    }

    fn is_after(&self, after: &[(Key, Ordering)], first: Key, doc: DocId, score: f32) -> bool {
        for (place, ((limit, exact), column)) in after.iter().zip(self.columns).enumerate() {
            let key = if place == 0 { first } else { column.key(doc, score) };
            // `exact` says where the wanted value lies against the limit that stands for it.
            match key.cmp(limit).then(exact.reverse()) {
                Ordering::Less => return false,
                Ordering::Greater => return true,
                Ordering::Equal => {}
            }
        }
        false
    }

    /// The hits with their values; `scored` says whether scores were computed.
    pub(super) fn into_candidates(
        self,
        snapshot: usize,
        segment: usize,
        scored: bool,
    ) -> Result<Vec<Candidate>> {
        let columns = self.columns;
        let kept = self.charged * self.bytes_of_one();
        let each = size_of::<Candidate>() + columns.len() * size_of::<SortValue>();
        control::take(self.heap.len() * each)?;
        let hits = self.heap.into_sorted_vec().into_iter();
        let candidates = hits.map(|hit| {
            let keys = std::iter::once(hit.first).chain(hit.rest);
            let sort: Result<Vec<_>> =
                columns.iter().zip(keys).map(|(column, key)| column.value(key)).collect();
            Ok(Candidate {
                address: Address { snapshot, segment, doc: hit.doc },
                score: scored.then_some(hit.score),
                sort: sort?,
            })
        });
        let candidates = candidates.collect();
        control::give_back(kept);
        candidates
    }
}

fn charge(kept: usize, charged: &mut usize, each: usize) -> Result<()> {
    if kept > *charged {
        control::take((kept - *charged) * each)?;
        *charged = kept;
    }
    Ok(())
}

/// Puts the hits of several segments and indexes in order and keeps the best.
pub(super) fn merge_sorted(
    mut hits: Vec<Candidate>,
    order: &[Sort],
    limit: usize,
) -> Vec<Candidate> {
    hits.sort_by(|left, right| {
        let keys = order.iter().zip(left.sort.iter().zip(&right.sort));
        keys.map(|(sort, (left, right))| compare(sort, left, right))
            .find(|order| order.is_ne())
            .unwrap_or_else(|| left.address.cmp(&right.address))
    });
    hits.truncate(limit);
    hits
}

/// The limits of `search_after` in one segment.
pub(super) fn limits(
    plans: &[SortPlan<'_>],
    columns: &[KeyColumn],
    after: &[SortValue],
) -> Result<Vec<(Key, Ordering)>> {
    debug_assert_eq!(plans.len(), after.len(), "checked with the request");
    columns.iter().zip(after).map(|(column, value)| column.limit(value)).collect()
}
