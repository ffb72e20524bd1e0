//! The inverted index of a segment that is merged from others, whose documents keep their order.
//!
//! All inputs' terms are gone through in order at once. What an input has of a term is read as it
//! stands in its files, its living documents are numbered anew, and the term is written as in a new
//! segment ([`postings`](super::postings)). The files are those that tantivy's merge would write but for
//! the dictionaries, which are as valid and much sooner written. Unlike tantivy's, an input may lack the
//! norms of a field that its mapping did not have: a document without a field has length zero.
//!
//! A term's postings are in memory as a whole, as is a field's dictionary, and every term is looked for
//! in every input: so this is for a few inputs that are bounded ([`is_fit`]).

use std::io;
use std::sync::Arc;

use bitpacking::{BitPacker as _, BitPacker4x};
use tantivy::directory::{CompositeFile, FileSlice, OwnedBytes};
use tantivy::fieldnorm::{FieldNormReader, FieldNormsSerializer};
use tantivy::index::SegmentComponent;
use tantivy::postings::TermInfo;
use tantivy::schema::{Field, FieldEntry, IndexRecordOption, Schema};
use tantivy::termdict::TermStreamer;
use tantivy::{InvertedIndexReader, Segment, SegmentReader};

use super::TermFiles;
use super::postings::{BLOCK, Occurrences, PostingsWriter};
use crate::error::{Error, ErrorKind, Result};
use crate::store::segment_writer::{open_read, open_write};

/// A segment whose living documents are taken in.
pub(in crate::store) struct Input {
    reader: SegmentReader,
    norms: CompositeFile,
    postings: CompositeFile,
    positions: CompositeFile,
    numbers: Numbers,
}

/// What an input's documents are numbered in the output.
enum Numbers {
    /// So many from the first number on.
    From { first: u32, docs: u32 },
    /// Each by itself; the dead have none.
    Each(Vec<Option<u32>>),
}

/// One field of an input.
struct FieldInput<'a> {
    numbers: &'a Numbers,
    inverted: Arc<InvertedIndexReader>,
    postings: OwnedBytes,
    positions: OwnedBytes,
}

impl Input {
    /// A segment, with its living documents; `first` is the number of the first of them in the output.
    pub(in crate::store) fn open(
        segment: &Segment,
        reader: SegmentReader,
        first: u32,
    ) -> Result<Self> {
        let open = |component| -> Result<CompositeFile> {
            Ok(CompositeFile::open(&open_read(segment, component)?)?)
        };
        let numbers = match reader.alive_bitset() {
            None => Numbers::From { first, docs: reader.max_doc() },
            Some(alive) => {
                let mut next = first..;
                let number = |doc| alive.is_alive(doc).then(|| next.next()).flatten();
                Numbers::Each((0..reader.max_doc()).map(number).collect())
            }
        };
        Ok(Self {
            norms: open(SegmentComponent::FieldNorms)?,
            postings: open(SegmentComponent::Postings)?,
            positions: open(SegmentComponent::Positions)?,
            numbers,
            reader,
        })
    }

    /// The segment as it is read.
    pub(in crate::store) fn reader(&self) -> &SegmentReader {
        &self.reader
    }

    /// A byte for each document, the dead included; `None` where its mapping had no such field.
    fn norms(&self, field: Field) -> Result<Option<OwnedBytes>> {
        let file = self.norms.open_read(field);
        let norms = file.map(|file| file.read_bytes()).transpose()?;
        let expected = self.reader.max_doc() as usize;
        match norms {
            Some(norms) if norms.len() != expected => Err(damaged("norms")),
            norms => Ok(norms),
        }
    }

    /// About how many terms the living documents have in a field, repetitions included.
    fn tokens(&self, field: Field) -> Result<u64> {
        let all = self.reader.inverted_index(field)?.total_num_tokens();
        if !self.reader.has_deletes() || all == 0 {
            return Ok(all);
        }
        if let Some(norms) = self.norms(field)? {
            let alive = self.reader.doc_ids_alive().filter_map(|doc| norms.get(doc as usize));
            return Ok(alive.map(|norm| u64::from(FieldNormReader::id_to_fieldnorm(*norm))).sum());
        }
        let (alive, docs) = (self.reader.num_docs(), self.reader.max_doc().max(1));
        let tokens = u128::from(all) * u128::from(alive) / u128::from(docs);
        Ok(u64::try_from(tokens).unwrap_or(all))
    }

    fn field(&self, field: Field) -> Result<FieldInput<'_>> {
        let bytes = |file: &CompositeFile| -> io::Result<OwnedBytes> {
            file.open_read(field).map_or_else(|| Ok(OwnedBytes::empty()), |file| file.read_bytes())
        };
        let mut postings = bytes(&self.postings)?;
        // The number of tokens stands before them.
        postings.advance(postings.len().min(size_of::<u64>()));
        Ok(FieldInput {
            numbers: &self.numbers,
            inverted: self.reader.inverted_index(field)?,
            postings,
            positions: bytes(&self.positions)?,
        })
    }
}

/// So many terms of a field in all inputs, repetitions included, may be those of one: each takes four
/// bytes or more while it is merged.
const MOST_TOKENS: u64 = if cfg!(test) { 20_000 } else { 32 << 20 };
/// And of so many inputs it takes longer to find the next term than a heap of them would.
const MOST_INPUTS: usize = 16;

/// Whether these inputs should be merged here.
pub(in crate::store) fn is_fit(inputs: &[Input], schema: &Schema) -> Result<bool> {
    if inputs.len() > MOST_INPUTS {
        return Ok(false);
    }
    for (field, _) in schema.fields().filter(|(_, entry)| entry.is_indexed()) {
        let tokens = |input: &Input| -> Result<u64> {
            Ok(input.reader.inverted_index(field)?.total_num_tokens())
        };
        if inputs.iter().map(tokens).sum::<Result<u64>>()? > MOST_TOKENS {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Writes the terms and norms of the inputs' living documents, which are so many.
pub(in crate::store) fn merge(inputs: &[Input], target: &Segment, docs: u32) -> Result<()> {
    let schema = target.schema();
    let file = open_write(target, SegmentComponent::FieldNorms)?;
    let mut file = FieldNormsSerializer::from_write(file)?;
    let mut all_norms = Vec::new();
    for (field, entry) in schema.fields() {
        let mut norms = None;
        if entry.is_indexed() && entry.has_fieldnorms() {
            let bytes = merge_norms(inputs, field, docs)?;
            file.serialize_field(field, &bytes)?;
            norms = Some(FieldNormReader::open(FileSlice::from(bytes))?);
        }
        all_norms.push(norms);
    }
    file.close()?;
    let mut files = TermFiles::open(target)?;
    for ((field, entry), norms) in schema.fields().zip(all_norms) {
        if entry.is_indexed() {
            merge_field(inputs, (field, entry), norms, &mut files)?;
        }
    }
    files.close()
}

fn merge_norms(inputs: &[Input], field: Field, docs: u32) -> Result<Vec<u8>> {
    let mut merged = Vec::with_capacity(docs as usize);
    for input in inputs {
        let end = merged.len() + input.reader.num_docs() as usize;
        if let Some(norms) = input.norms(field)? {
            match &input.numbers {
                Numbers::From { .. } => merged.extend_from_slice(&norms),
                Numbers::Each(numbers) => {
                    let alive = norms.iter().zip(numbers).filter(|(_, number)| number.is_some());
                    merged.extend(alive.map(|(norm, _)| *norm));
                }
            }
        }
        merged.resize(end, 0);
    }
    Ok(merged)
}

fn merge_field(
    inputs: &[Input],
    (field, entry): (Field, &FieldEntry),
    norms: Option<FieldNormReader>,
    files: &mut TermFiles,
) -> Result<()> {
    let option = entry.field_type().index_record_option().unwrap_or_default();
    let tokens = inputs.iter().map(|input| input.tokens(field)).sum::<Result<u64>>()?;
    let fields = inputs.iter().map(|input| input.field(field)).collect::<Result<Vec<_>>>()?;
    let terms = fields.iter().map(|input| input.inverted.terms().num_terms()).sum();
    if terms == 0 {
        return Ok(());
    }
    files.write(field, |[postings, positions]| {
        let mut sink = PostingsWriter::new(option, tokens, norms, terms, [postings, positions])?;
        let mut cursors = Vec::with_capacity(fields.len());
        for input in &fields {
            let mut stream = input.inverted.terms().stream()?;
            if stream.advance() {
                cursors.push((input, stream));
            }
        }
        merge_terms(cursors, option, &mut sink)?;
        Ok(sink.finish()?)
    })
}

/// Goes through the terms of all inputs in order.
fn merge_terms(
    mut cursors: Vec<(&FieldInput<'_>, TermStreamer<'_>)>,
    option: IndexRecordOption,
    sink: &mut PostingsWriter<'_>,
) -> Result<()> {
    let (mut term, mut found) = (Vec::new(), Occurrences::default());
    while let Some(next) = cursors.iter().map(|(_, stream)| stream.key()).min() {
        term.clear();
        term.extend_from_slice(next);
        found.clear();
        let mut at = 0;
        while let Some((input, stream)) = cursors.get_mut(at) {
            if stream.key() != term {
                at += 1;
                continue;
            }
            input.read(stream.value(), option, &mut found)?;
            if stream.advance() {
                at += 1;
            } else {
                cursors.remove(at);
            }
        }
        if !found.docs.is_empty() {
            sink.term(&term, &found)?;
        }
    }
    Ok(())
}

impl FieldInput<'_> {
    /// Adds what the living documents have of a term.
    fn read(
        &self,
        info: &TermInfo,
        option: IndexRecordOption,
        found: &mut Occurrences,
    ) -> Result<()> {
        let start = (found.docs.len(), found.frequencies.len(), found.positions.len());
        if (info.doc_freq as usize) < BLOCK {
            let bytes = self.postings.get(info.postings_range.clone());
            let mut bytes = Integers(bytes.ok_or_else(|| damaged("postings"))?);
            read_few(&mut bytes, info.doc_freq, option, found)
                .ok_or_else(|| damaged("postings"))?;
        } else {
            let mut block = self.inverted.read_block_postings_from_terminfo(info, option)?;
            while block.block_len() > 0 {
                found.docs.extend_from_slice(block.docs());
                found.frequencies.extend_from_slice(block.freqs());
                block.advance();
            }
        }
        if option.has_positions() {
            let bytes = self.positions.get(info.positions_range.clone());
            let mut bytes = Integers(bytes.ok_or_else(|| damaged("positions"))?);
            let count = found.frequencies[start.1..].iter().map(|frequency| *frequency as usize);
            let count = count.sum();
            read_positions(&mut bytes, count, &mut found.positions)
                .ok_or_else(|| damaged("positions"))?;
        }
        self.numbers.assign(start, found).ok_or_else(|| damaged("postings"))
    }
}

impl Numbers {
    /// Numbers the documents anew that come from `start` on, and takes the dead out. `None` for one
    /// that the input does not have.
    fn assign(&self, start: (usize, usize, usize), found: &mut Occurrences) -> Option<()> {
        match self {
            Self::From { first, docs } => {
                let mut own = found.docs[start.0..].iter_mut();
                own.try_for_each(|doc| {
                    *doc = first.checked_add(*doc).filter(|_| *doc < *docs)?;
                    Some(())
                })
            }
            Self::Each(numbers) => keep_living(numbers, start, found),
        }
    }
}

/// Keeps what comes from `start` on of documents that have a number.
fn keep_living(
    numbers: &[Option<u32>],
    start: (usize, usize, usize),
    found: &mut Occurrences,
) -> Option<()> {
    let Occurrences { docs, frequencies, positions } = found;
    let number = |doc: u32| numbers.get(doc as usize).copied().flatten();
    if docs[start.0..].iter().any(|doc| *doc as usize >= numbers.len()) {
        return None;
    }
    let (mut from, mut to) = (start.2, start.2);
    for (doc, frequency) in docs[start.0..].iter().zip(&frequencies[start.1..]) {
        // Without positions there are none to move.
        let count = (*frequency as usize).min(positions.len() - from);
        if number(*doc).is_some() {
            positions.copy_within(from..from + count, to);
            to += count;
        }
        from += count;
    }
    positions.truncate(to);
    let alive = |at: usize| number(docs[start.0 + at]).is_some();
    keep(frequencies, start.1, |at, frequency| alive(at).then_some(frequency));
    keep(docs, start.0, |_, doc| number(doc));
    Some(())
}

/// Keeps of a list's elements from `start` on what `kept` makes of each.
fn keep(list: &mut Vec<u32>, start: usize, kept: impl Fn(usize, u32) -> Option<u32>) {
    let mut end = start;
    for at in start..list.len() {
        if let Some(value) = kept(at - start, list[at]) {
            list[end] = value;
            end += 1;
        }
    }
    list.truncate(end);
}

/// Reads fewer documents than fill a block. `None` where there is no more to read.
fn read_few(
    bytes: &mut Integers<'_>,
    docs: u32,
    option: IndexRecordOption,
    found: &mut Occurrences,
) -> Option<()> {
    let mut doc = 0_u32;
    for _ in 0..docs {
        doc = doc.checked_add(bytes.next()?)?;
        found.docs.push(doc);
    }
    if option.has_freq() {
        for _ in 0..docs {
            found.frequencies.push(bytes.next()?);
        }
    }
    Some(())
}

/// Reads so many positions, each as the difference from the one before.
fn read_positions(bytes: &mut Integers<'_>, count: usize, into: &mut Vec<u32>) -> Option<()> {
    let blocks = bytes.next()? as usize;
    let rest = count.checked_sub(blocks.checked_mul(BLOCK)?)?;
    let widths = bytes.take(blocks)?;
    let packer = BitPacker4x::new();
    for width in widths {
        let packed = bytes.take(usize::from(*width).checked_mul(BLOCK / 8)?)?;
        let begin = into.len();
        into.resize(begin + BLOCK, 0);
        packer.decompress(packed, &mut into[begin..], *width);
    }
    for _ in 0..rest {
        into.push(bytes.next()?);
    }
    Some(())
}

/// Bytes that variable-length integers are read from, and others.
struct Integers<'a>(&'a [u8]);

impl<'a> Integers<'a> {
    /// The lowest seven bits come first; the last byte has its highest bit set.
    #[inline]
    fn next(&mut self) -> Option<u32> {
        let (mut value, mut shift) = (0, 0);
        loop {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u32::from(byte & 127).checked_shl(shift)?;
            if byte & 128 != 0 {
                return Some(value);
            }
            shift += 7;
        }
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }
}

fn damaged(what: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("the {what} of a segment do not fit its terms"))
}
