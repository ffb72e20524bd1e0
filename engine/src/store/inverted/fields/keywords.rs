//! Values that are one term each, of which only the documents are kept.

use std::io;

use super::super::postings::{Occurrences, PostingsWriter};
use super::super::terms::TermTable;
use crate::error::Result;
use crate::mapping::tokenize::Terms;

/// Collects keywords.
pub(super) struct Keywords {
    terms: Terms,
    /// Whether hardly a value is there twice, so that looking for it is in vain.
    are_unique: bool,
    table: TermTable,
    values: Vec<Keyword>,
}

#[derive(Debug, Clone, Copy)]
struct Keyword {
    term: u32,
    doc: u32,
}

impl Keywords {
    pub(super) fn new(terms: Terms, are_unique: bool) -> Self {
        Self { terms, are_unique, table: TermTable::new(), values: Vec::new() }
    }

    pub(super) fn term_count(&self) -> usize {
        self.table.len()
    }

    /// Adds a value, and says how many terms it has.
    pub(super) fn add(&mut self, doc: u32, text: &str) -> Result<u32> {
        let Self { terms, are_unique, table, .. } = self;
        let Some(term) = terms.only(text) else { return Ok(0) };
        let term = term.as_bytes();
        let term = if *are_unique { table.append(term)? } else { table.intern(term)? };
        self.values.push(Keyword { term, doc });
        Ok(1)
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.table.memory_bytes() + self.values.capacity() * size_of::<Keyword>()
    }

    /// Writes every term with its documents.
    pub(super) fn write(mut self, sink: &mut PostingsWriter<'_>) -> io::Result<()> {
        self.table.end();
        let order = self.table.sorted();
        let mut ends = vec![0; self.table.len()];
        self.values.iter().for_each(|value| ends[value.term as usize] += 1);
        let mut sum = 0;
        for term in &order {
            let end = &mut ends[*term as usize];
            sum += std::mem::replace(end, sum);
        }
        // Each is where the term's next document goes, and in the end where the term ends.
        let mut docs = vec![0; self.values.len()];
        for Keyword { term, doc } in self.values {
            let end = &mut ends[term as usize];
            docs[*end] = doc;
            *end += 1;
        }
        let mut found = Occurrences::default();
        let mut begin = 0;
        let mut order = order.into_iter().peekable();
        while let Some(id) = order.next() {
            let term = self.table.term(id);
            let is_same = order.peek().is_some_and(|next| self.table.term(*next) == term);
            if self.are_unique && is_same {
                continue;
            }
            let end = ends[id as usize];
            found.clear();
            found.docs.extend_from_slice(&docs[begin..end]);
            found.docs.dedup();
            sink.term(term, &found)?;
            begin = end;
        }
        Ok(())
    }
}
