//! Analyzed texts, whose terms are kept with how often and where they are.

use std::io;

use super::super::postings::{Occurrences, PostingsWriter};
use super::super::terms::{TermTable, too_large};
use crate::error::Result;
use crate::mapping::tokenize::Terms;

/// In the list of tokens: the next number is a position, not a term.
const JUMP: u32 = u32::MAX;

/// Between the values of one field, beside the length of the last token.
const VALUE_GAP: u32 = 1;

/// Collects texts.
pub(super) struct Texts {
    terms: Terms,
    table: TermTable,
    /// The terms as they come. Each is one position after the one before, the first of a document at
    /// position 0, unless [`JUMP`] and another position come first.
    tokens: Vec<u32>,
    /// The documents that have values.
    docs: Vec<DocTokens>,
    /// Where the next token is without a jump,
    next_position: u32,
    /// and where the next value of this document begins.
    next_value: u32,
}

#[derive(Debug, Clone, Copy)]
struct DocTokens {
    doc: u32,
    /// Where in the list its tokens end.
    end: u32,
}

/// Where a term is.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    doc: u32,
    position: u32,
}

impl Texts {
    pub(super) fn new(terms: Terms) -> Self {
        Self {
            terms,
            table: TermTable::new(),
            tokens: Vec::new(),
            docs: Vec::new(),
            next_position: 0,
            next_value: 0,
        }
    }

    pub(super) fn term_count(&self) -> usize {
        self.table.len()
    }

    /// Adds a value, and says how many terms it has.
    pub(super) fn add(&mut self, doc: u32, text: &str) -> Result<u32> {
        if self.docs.last().is_none_or(|last| last.doc != doc) {
            self.docs.push(DocTokens { doc, end: 0 });
            (self.next_position, self.next_value) = (0, 0);
        }
        let Self { terms, table, tokens, next_position, next_value, .. } = self;
        let (begin, mut end, mut count) = (*next_value, *next_value, 0);
        terms.each(text, |term, position, length| {
            let position = begin.saturating_add(position);
            end = end.max(position.saturating_add(length));
            if position != *next_position {
                tokens.extend([JUMP, position]);
            }
            tokens.push(table.intern(term.as_bytes())?);
            *next_position = position.saturating_add(1);
            count += 1;
            Ok(())
        })?;
        *next_value = end.saturating_add(VALUE_GAP);
        let end = u32::try_from(tokens.len()).map_err(|_| too_large())?;
        if let Some(last) = self.docs.last_mut() {
            last.end = end;
        }
        Ok(count)
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.terms.memory_bytes()
            + self.table.memory_bytes()
            + self.tokens.capacity() * size_of::<u32>()
            + self.docs.capacity() * size_of::<DocTokens>()
    }

    /// Writes every term with its documents, frequencies and positions.
    pub(super) fn write(mut self, sink: &mut PostingsWriter<'_>) -> io::Result<()> {
        self.table.end();
        let order = self.table.sorted();
        let mut ends = vec![0; self.table.len()];
        self.each_token(|term, _| ends[term as usize] += 1);
        let mut sum = 0;
        for term in &order {
            let end = &mut ends[*term as usize];
            sum += std::mem::replace(end, sum);
        }
        // Each is where the term's next place goes, and in the end where the term ends.
        let mut places = vec![Place::default(); sum];
        self.each_token(|term, place| {
            let end = &mut ends[term as usize];
            places[*end] = place;
            *end += 1;
        });
        (self.tokens, self.docs) = (Vec::new(), Vec::new());
        let mut found = Occurrences::default();
        let mut begin = 0;
        for term in order {
            let end = ends[term as usize];
            collect(&places[begin..end], &mut found);
            sink.term(self.table.term(term), &found)?;
            begin = end;
        }
        Ok(())
    }

    fn each_token(&self, mut each: impl FnMut(u32, Place)) {
        let mut begin = 0;
        for DocTokens { doc, end } in &self.docs {
            let end = *end as usize;
            for (term, position) in places(&self.tokens[begin..end]) {
                each(term, Place { doc: *doc, position });
            }
            begin = end;
        }
    }
}

/// The terms of one document's tokens, with their positions.
fn places(tokens: &[u32]) -> impl Iterator<Item = (u32, u32)> {
    let mut tokens = tokens.iter().copied();
    let mut next_position = 0;
    std::iter::from_fn(move || {
        let mut term = tokens.next()?;
        if term == JUMP {
            (next_position, term) = (tokens.next()?, tokens.next()?);
        }
        let position = next_position;
        next_position = position.saturating_add(1);
        Some((term, position))
    })
}

/// What is written of a term that is at these places.
fn collect(places: &[Place], found: &mut Occurrences) {
    found.clear();
    for same in places.chunk_by(|left, right| left.doc == right.doc) {
        found.docs.extend(same.first().map(|place| place.doc));
        let (mut frequency, mut before) = (0, 0);
        for place in same {
            found.positions.push(place.position - before);
            before = place.position;
            frequency += 1;
        }
        found.frequencies.push(frequency);
    }
}
