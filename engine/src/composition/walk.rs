//! From changed rows up to the documents that they are, or were, part of.

use rustc_hash::FxHashSet;

use super::{Composition, Rows, link_term, parse_row_id, utf8};
use crate::document::patch::members;
use crate::error::Result;

/// What a write concerns: documents by their key, and links still to be followed up.
#[derive(Debug, Default)]
pub(crate) struct Affected {
    /// Places whose rows with a term are to be looked up.
    links: FxHashSet<(usize, String)>,
    roots: FxHashSet<String>,
}

impl Affected {
    /// About how many things it remembers.
    pub(crate) fn len(&self) -> usize {
        self.links.len() + self.roots.len()
    }

    /// Takes note of a row, as it was or as it is.
    pub(crate) fn note(
        &mut self,
        composition: &Composition,
        id: &str,
        source: &[u8],
    ) -> Result<()> {
        let Some((table, key)) = parse_row_id(id) else { return Ok(()) };
        for (place, there) in composition.places.iter().enumerate() {
            if there.table == table {
                self.step(composition, place, key, source, &mut Vec::new())?;
            }
        }
        Ok(())
    }

    /// Takes note of the document that a row of this id is, or was, named by: also where there is no
    /// such row, and its document was left over.
    pub(crate) fn note_named(&mut self, composition: &Composition, id: &str) {
        if let Some((table, key)) = parse_row_id(id)
            && table == composition.root_table()
        {
            self.roots.insert(key.to_owned());
        }
    }

    /// The documents that all rows noted so far belong to. What is noted afterwards begins anew.
    pub(crate) fn resolve(
        &mut self,
        composition: &Composition,
        rows: &impl Rows,
    ) -> Result<Vec<String>> {
        let mut next: Vec<(usize, String)> = self.links.iter().cloned().collect();
        while let Some((place, term)) = next.pop() {
            rows.each(&term, &mut |row| {
                let key = parse_row_id(&row.id).map_or("", |(_, key)| key);
                self.step(composition, place, key, &row.source, &mut next)?;
                Ok(true)
            })?;
        }
        self.links.clear();
        let mut roots: Vec<String> = self.roots.drain().collect();
        // In an order of their own, whatever the hashes are.
        roots.sort_unstable();
        Ok(roots)
    }

    /// From a row at a place one step up.
    fn step(
        &mut self,
        composition: &Composition,
        place: usize,
        key: &str,
        source: &[u8],
        next: &mut Vec<(usize, String)>,
    ) -> Result<()> {
        let Some(up) = composition.places.get(place).and_then(|place| place.up.as_ref()) else {
            if !self.roots.contains(key) {
                self.roots.insert(key.to_owned());
            }
            return Ok(());
        };
        let fields = members(utf8(source)?)?;
        if let Some(term) = link_term(up.link, &fields, &up.columns)
            && self.links.insert((up.to, term.clone()))
        {
            next.push((up.to, term));
        }
        Ok(())
    }
}
