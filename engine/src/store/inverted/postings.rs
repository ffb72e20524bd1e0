//! The postings of one field, term by term, in tantivy's format.
//!
//! A term's postings are its documents' numbers, each as the difference from the one before, then (if
//! the field has them) its frequencies: up to 127 of them as variable-length integers, more in blocks
//! with a list to skip by, which tantivy's own serializer writes. Its positions are differences
//! within a document: the number of packed blocks, the bits of each, the blocks, and the rest as
//! variable-length integers. Such an integer has seven bits a byte, the lowest first; the last byte has
//! its highest bit set.

use std::io;

use bitpacking::{BitPacker as _, BitPacker4x};
use tantivy::fieldnorm::FieldNormReader;
use tantivy::postings::TermInfo;
use tantivy::postings::serializer::PostingsSerializer;
use tantivy::schema::IndexRecordOption;

use super::dictionary::DictionaryWriter;

/// Numbers in a packed block.
const BLOCK: usize = BitPacker4x::BLOCK_LEN;

/// Where a term was found. The documents rise; with frequencies there are as many of them as
/// documents, and as many positions as their sum.
#[derive(Debug, Default)]
pub(super) struct Occurrences {
    pub(super) docs: Vec<u32>,
    pub(super) frequencies: Vec<u32>,
    pub(super) positions: Vec<u32>,
}

impl Occurrences {
    pub(super) fn clear(&mut self) {
        self.docs.clear();
        self.frequencies.clear();
        self.positions.clear();
    }
}

/// Writes one field.
pub(super) struct PostingsWriter {
    option: IndexRecordOption,
    norms: Option<FieldNormReader>,
    average_norm: f32,
    packer: BitPacker4x,
    written: Written,
    dictionary: DictionaryWriter,
}

/// The parts of the field's files.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub(super) dictionary: Vec<u8>,
    pub(super) postings: Vec<u8>,
    pub(super) positions: Vec<u8>,
}

impl PostingsWriter {
    /// For a field that has so many tokens, and about so many terms.
    pub(super) fn new(
        option: IndexRecordOption,
        tokens: u64,
        norms: Option<FieldNormReader>,
        terms: usize,
    ) -> Self {
        Self {
            option,
            average_norm: norms.as_ref().map_or(0.0, |norms| average(tokens, norms.num_docs())),
            norms,
            packer: BitPacker4x::new(),
            written: Written::default(),
            dictionary: DictionaryWriter::new(terms),
        }
    }

    /// Adds a term; they come in the order of their bytes.
    pub(super) fn term(&mut self, term: &[u8], found: &Occurrences) -> io::Result<()> {
        let doc_freq = u32::try_from(found.docs.len()).map_err(io::Error::other)?;
        let begin = (self.written.postings.len(), self.written.positions.len());
        if found.docs.len() < BLOCK {
            self.few(found);
        } else {
            self.many(doc_freq, found)?;
        }
        if self.option.has_positions() {
            self.positions(&found.positions)?;
        }
        let info = TermInfo {
            doc_freq,
            postings_range: begin.0..self.written.postings.len(),
            positions_range: begin.1..self.written.positions.len(),
        };
        self.dictionary.insert(term, &info)
    }

    /// Ends the field.
    pub(super) fn finish(self) -> Written {
        Written { dictionary: self.dictionary.finish(), ..self.written }
    }

    fn few(&mut self, found: &Occurrences) {
        let mut before = 0;
        for doc in &found.docs {
            push_integer(&mut self.written.postings, doc - before);
            before = *doc;
        }
        if self.option.has_freq() {
            for frequency in &found.frequencies {
                push_integer(&mut self.written.postings, *frequency);
            }
        }
    }

    fn many(&mut self, doc_freq: u32, found: &Occurrences) -> io::Result<()> {
        // It begins every term with what the one before has left, so each has its own.
        let norms = self.norms.clone();
        let mut serializer = PostingsSerializer::new(self.average_norm, self.option, norms);
        serializer.new_term(doc_freq, self.option.has_freq());
        if self.option.has_freq() {
            for (doc, frequency) in found.docs.iter().zip(&found.frequencies) {
                serializer.write_doc(*doc, *frequency);
            }
        } else {
            found.docs.iter().for_each(|doc| serializer.write_doc(*doc, 0));
        }
        serializer.close_term(doc_freq, &mut self.written.postings)
    }

    fn positions(&mut self, positions: &[u32]) -> io::Result<()> {
        let into = &mut self.written.positions;
        let blocks = positions.chunks_exact(BLOCK);
        let rest = blocks.remainder();
        push_integer(into, u32::try_from(blocks.len()).map_err(io::Error::other)?);
        into.extend(blocks.clone().map(|block| self.packer.num_bits(block)));
        for block in blocks {
            let begin = into.len();
            into.resize(begin + BLOCK * size_of::<u32>(), 0);
            let bits = self.packer.num_bits(block);
            let length = self.packer.compress(block, &mut into[begin..], bits);
            into.truncate(begin + length);
        }
        for position in rest {
            push_integer(into, *position);
        }
        Ok(())
    }
}

/// In as few bits as tantivy reckons with.
#[expect(clippy::cast_precision_loss, reason = "scores are no more exact than that")]
fn average(tokens: u64, docs: u32) -> f32 {
    tokens as f32 / docs as f32
}

fn push_integer(into: &mut Vec<u8>, mut value: u32) {
    while value >= 128 {
        into.push((value & 127) as u8);
        value >>= 7;
    }
    into.push((value & 127) as u8 | 128);
}
