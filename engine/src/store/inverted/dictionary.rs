//! Writes one field's term dictionary: which terms there are, in order, and where their postings
//! lie.
//!
//! The file is tantivy's own format (0.27, `TermDictionary::open`), so that tantivy reads, streams
//! and merges it. Only the writing is ours: tantivy's builder sets up 20,000 cells for every field
//! of every segment, which a small commit spends most of its time on.
//!
//! ```text
//! FST          see `fst`: the terms with their ordinals, 0, 1, 2, ... in the order of bytes
//! infos        see `term_infos`: a TermInfo for each ordinal
//! u64          the length of the infos, in bytes
//! u32          1, the version of the two parts above
//! u32          1, the kind of dictionary: an FST
//! ```
//!
//! All integers are little-endian. Nothing stands before the FST, whose addresses count from its
//! own first byte: in a composite file, each field's dictionary is found by its offset.

pub(in crate::store) mod fst;
mod node;
mod registry;
mod term_infos;
#[cfg(test)]
mod tests;

use std::io;

use fst::FstWriter;
use tantivy::postings::TermInfo;
use term_infos::TermInfoWriter;

const VERSION: u32 = 1;
const KIND_FST: u32 = 1;

/// Writes one field's dictionary in memory.
#[derive(Debug)]
pub(super) struct DictionaryWriter {
    fst: FstWriter,
    infos: TermInfoWriter,
}

impl DictionaryWriter {
    /// For about so many terms: this only sizes its tables.
    pub(super) fn new(expected_terms: usize) -> Self {
        Self { fst: FstWriter::new(expected_terms), infos: TermInfoWriter::new(expected_terms) }
    }

    /// Adds a term; its ordinal is the number of terms before it.
    ///
    /// Terms come in strictly increasing order of bytes, and their postings and positions lie one
    /// after the other without gaps, since the format keeps only where each begins. A term that
    /// breaks this is refused, and the dictionary stays as it was.
    pub(super) fn insert(&mut self, term: &[u8], info: &TermInfo) -> io::Result<()> {
        self.infos.check(info)?;
        self.fst.insert(term)?;
        self.infos.push(info);
        Ok(())
    }

    /// The whole dictionary's bytes.
    pub(super) fn finish(self) -> Vec<u8> {
        let mut bytes = self.fst.finish();
        let infos_start = bytes.len();
        self.infos.append_to(&mut bytes);
        let infos_length = (bytes.len() - infos_start) as u64;
        bytes.extend_from_slice(&infos_length.to_le_bytes());
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&KIND_FST.to_le_bytes());
        bytes
    }
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}
