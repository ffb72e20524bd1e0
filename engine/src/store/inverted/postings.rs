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
pub(super) const BLOCK: usize = BitPacker4x::BLOCK_LEN;

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

/// So many bytes of a field's file are handed over at once.
pub(super) const HANDED_OVER: usize = 256 << 10;

/// Writes one field.
pub(super) struct PostingsWriter<'a> {
    option: IndexRecordOption,
    norms: Option<FieldNormReader>,
    average_norm: f32,
    packer: BitPacker4x,
    postings: Part<'a>,
    positions: Part<'a>,
    dictionary: DictionaryWriter,
}

/// The field's part of a file.
struct Part<'a> {
    file: &'a mut dyn io::Write,
    /// What is not handed over yet,
    bytes: Vec<u8>,
    /// and the bytes before it.
    before: usize,
}

impl<'a> Part<'a> {
    fn new(file: &'a mut dyn io::Write) -> Self {
        Self { file, bytes: Vec::new(), before: 0 }
    }

    fn end(&self) -> usize {
        self.before + self.bytes.len()
    }

    /// Hands over what there is, if that is worth it.
    fn hand_over(&mut self, at_least: usize) -> io::Result<()> {
        if self.bytes.len() >= at_least {
            self.file.write_all(&self.bytes)?;
            self.before += self.bytes.len();
            self.bytes.clear();
        }
        Ok(())
    }
}

impl<'a> PostingsWriter<'a> {
    /// For a field that has so many tokens, and about so many terms; writes to its parts of the files
    /// of postings and of positions.
    pub(super) fn new(
        option: IndexRecordOption,
        tokens: u64,
        norms: Option<FieldNormReader>,
        terms: usize,
        [postings, positions]: [&'a mut dyn io::Write; 2],
    ) -> io::Result<Self> {
        // Places are counted from behind it.
        postings.write_all(&tokens.to_le_bytes())?;
        Ok(Self {
            option,
            average_norm: norms.as_ref().map_or(0.0, |norms| average(tokens, norms.num_docs())),
            norms,
            packer: BitPacker4x::new(),
            postings: Part::new(postings),
            positions: Part::new(positions),
            dictionary: DictionaryWriter::new(terms),
        })
    }

    /// Adds a term; they come in the order of their bytes.
    pub(super) fn term(&mut self, term: &[u8], found: &Occurrences) -> io::Result<()> {
        let doc_freq = u32::try_from(found.docs.len()).map_err(io::Error::other)?;
        let begin = (self.postings.end(), self.positions.end());
        if found.docs.len() < BLOCK {
            self.few(found);
        } else {
            self.many(doc_freq, found)?;
        }
        if self.option.has_positions() {
            self.put_positions(&found.positions)?;
        }
        let info = TermInfo {
            doc_freq,
            postings_range: begin.0..self.postings.end(),
            positions_range: begin.1..self.positions.end(),
        };
        self.postings.hand_over(HANDED_OVER)?;
        self.positions.hand_over(HANDED_OVER)?;
        self.dictionary.insert(term, &info)
    }

    /// Ends the field, and gives its dictionary.
    pub(super) fn finish(mut self) -> io::Result<Vec<u8>> {
        self.postings.hand_over(0)?;
        self.positions.hand_over(0)?;
        Ok(self.dictionary.finish())
    }

    fn few(&mut self, found: &Occurrences) {
        let mut before = 0;
        for doc in &found.docs {
            push_integer(&mut self.postings.bytes, doc - before);
            before = *doc;
        }
        if self.option.has_freq() {
            for frequency in &found.frequencies {
                push_integer(&mut self.postings.bytes, *frequency);
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
        serializer.close_term(doc_freq, &mut self.postings.bytes)
    }

    fn put_positions(&mut self, positions: &[u32]) -> io::Result<()> {
        let into = &mut self.positions.bytes;
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
