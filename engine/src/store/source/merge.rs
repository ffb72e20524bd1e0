//! Merging sources: what is compressed is copied, what is not may be compressed now.
//!
//! Compressing takes some two microseconds a document, about a fifth of what indexing it takes. So
//! it is left to merges that run while nobody waits for the processor: the large ones, which give
//! way to everything else, those of an index that nobody writes to, and those that are asked for.
//!
//! The output has one dictionary: that of the input that has most under it, or the one that the rest of
//! the index uses, as long as it serves; else a new one, where there is enough to train it on. So
//! an index keeps its dictionary until its documents change their character, or have become many
//! times more, and most frames are copied as they are.

use std::cell::OnceCell;
use std::io::Write;

use bytes::Bytes;
use tantivy::{DocId, SegmentReader};
use zstd::dict::EncoderDictionary;

use super::dictionary::{Dictionary, sample_bytes};
use super::format::{ALONE, Frames, INCOMPRESSIBLE, RAW, WITH_DICTIONARY};
use super::frame::Encoder;
use super::reader::SourceReader;
use crate::error::Result;
use crate::mapping::schema::ID;

/// A dictionary is measured on so many bytes of documents.
const MEASURED_BYTES: usize = 128 << 10;
/// No more of a document is trained on or measured.
const MOST_OF_A_SAMPLE: usize = 16 << 10;

/// How a merge treats sources.
#[derive(Debug, Clone, Default)]
pub(in crate::store) struct Merging {
    /// Whether documents are compressed that are not yet.
    pub(in crate::store) compress: bool,
    /// A dictionary that other segments of the index use.
    pub(in crate::store) dictionary: Option<Dictionary>,
}

/// The sources of a segment that is merged.
pub(super) struct Input<'a> {
    pub(super) sources: SourceReader,
    pub(super) reader: &'a SegmentReader,
}

impl<'a> Input<'a> {
    pub(super) fn open(reader: &'a SegmentReader) -> Result<Self> {
        Ok(Self { sources: SourceReader::open(reader)?, reader })
    }

    /// About how many bytes its living documents take in the file.
    fn living_bytes(&self) -> u64 {
        let bytes = self.sources.frame_bytes() as u64;
        let (alive, all) = (u64::from(self.reader.num_docs()), u64::from(self.sources.docs()));
        bytes.saturating_mul(alive) / all.max(1)
    }

    fn hash(&self) -> Option<u128> {
        Some(self.sources.dictionary()?.hash())
    }
}

/// Writes the living documents of all inputs, in their order.
pub(super) fn merge<W: Write>(inputs: &[Input<'_>], merging: &Merging, sink: W) -> Result<W> {
    let dictionary = choose(inputs, merging)?;
    let prepared = OnceCell::new();
    let mut output = Output {
        frames: Frames::new(sink),
        dictionary: dictionary.as_ref(),
        compress: merging.compress,
        prepared: &prepared,
        encoder: None,
    };
    inputs.iter().try_for_each(|input| output.take(input))?;
    Ok(output.frames.finish(dictionary.as_ref())?)
}

/// The dictionary of the output.
fn choose(inputs: &[Input<'_>], merging: &Merging) -> Result<Option<Dictionary>> {
    let mut known: Vec<(u128, u64, &Input<'_>)> = Vec::new();
    for input in inputs {
        let Some(hash) = input.hash() else { continue };
        match known.iter_mut().find(|(other, ..)| *other == hash) {
            Some((_, bytes, _)) => *bytes += input.living_bytes(),
            None => known.push((hash, input.living_bytes(), input)),
        }
    }
    let largest = known.iter().max_by_key(|(_, bytes, _)| *bytes);
    let largest = largest.and_then(|(.., input)| input.sources.carried());
    if !merging.compress {
        return Ok(largest);
    }
    let samples = Samples::new(inputs);
    let Some(sample_bytes) = sample_bytes(samples.document_bytes) else { return Ok(None) };
    let measured = samples.take(MEASURED_BYTES, 1)?;
    let document_bytes = samples.document_bytes;
    let kept = largest.into_iter().chain(merging.dictionary.clone());
    let mut kept = kept.filter(|dictionary| dictionary.serves(document_bytes, &measured));
    if let Some(kept) = kept.next() {
        return Ok(Some(kept));
    }
    Ok(Dictionary::train(document_bytes, &samples.take(sample_bytes, 0)?, &measured))
}

/// Living documents from all over the inputs.
struct Samples<'a> {
    inputs: &'a [Input<'a>],
    /// About how many bytes the living documents have as they were given.
    document_bytes: u64,
}

impl<'a> Samples<'a> {
    fn new(inputs: &'a [Input<'a>]) -> Self {
        let mut document_bytes = 0_u64;
        for input in inputs {
            // What is compressed is taken for what it was when its dictionary was trained.
            let bytes = input.living_bytes();
            let ratio = input.sources.ratio();
            document_bytes =
                document_bytes.saturating_add(bytes.saturating_mul(1000) / u64::from(ratio));
        }
        Self { inputs, document_bytes }
    }

    /// About so many bytes of documents, evenly spread; other ones for every `turn`.
    fn take(&self, bytes: usize, turn: usize) -> Result<Vec<Bytes>> {
        let every = usize::try_from(self.document_bytes / bytes as u64).unwrap_or(usize::MAX);
        let every = every.max(1);
        // Half a step further for the second turn: with a step of one, the same ones.
        let first = turn * every / 2;
        let mut left = bytes;
        let mut taken = Vec::new();
        let living = self
            .inputs
            .iter()
            .flat_map(|input| input.reader.doc_ids_alive().map(move |doc| (input, doc)));
        for (input, doc) in living.skip(first).step_by(every) {
            let mut document = input.sources.read(doc)?;
            document.truncate(MOST_OF_A_SAMPLE);
            if document.is_empty() {
                continue;
            }
            let Some(rest) = left.checked_sub(document.len()) else { break };
            left = rest;
            taken.push(document);
        }
        Ok(taken)
    }
}

struct Output<'a, W> {
    frames: Frames<W>,
    dictionary: Option<&'a Dictionary>,
    compress: bool,
    /// Made when it is needed first: many merges only copy.
    prepared: &'a OnceCell<EncoderDictionary<'static>>,
    encoder: Option<Encoder<'a>>,
}

impl<W: Write> Output<'_, W> {
    fn take(&mut self, input: &Input<'_>) -> Result<()> {
        let same = input.hash() == self.dictionary.map(Dictionary::hash);
        let mut ids = Ids::new(input)?;
        for doc in input.reader.doc_ids_alive() {
            let frame = input.sources.frame(doc)?;
            let id = match input.sources.id_of(doc, &frame)? {
                Some(id) => id,
                None => ids.of(doc)?,
            };
            let stays = match frame.tag {
                RAW => !self.compress,
                WITH_DICTIONARY => same,
                _ => same || !self.compress,
            };
            if stays {
                self.frames.push(frame.tag, id, input.sources.body(&frame))?;
            } else {
                self.push(id, &input.sources.read(doc)?)?;
            }
        }
        Ok(())
    }

    /// Adds a document, compressed if that is worth it.
    fn push(&mut self, id: &str, document: &[u8]) -> Result<()> {
        if self.encoder.is_none() {
            let dictionary = self.dictionary;
            let prepared =
                dictionary.map(|dictionary| self.prepared.get_or_init(|| dictionary.encoder()));
            self.encoder = Some(Encoder::new(prepared)?);
        }
        let tag = if self.dictionary.is_some() { WITH_DICTIONARY } else { ALONE };
        let frame = match &mut self.encoder {
            Some(encoder) => encoder.compress(document)?,
            None => None,
        };
        match frame {
            Some(frame) => self.frames.push(tag, id, frame)?,
            None => self.frames.push(INCOMPRESSIBLE, id, document)?,
        }
        Ok(())
    }
}

/// The ids of a segment whose sources are of the version without.
struct Ids<'a> {
    input: &'a Input<'a>,
    column: Option<tantivy::columnar::StrColumn>,
    id: String,
}

impl<'a> Ids<'a> {
    fn new(input: &'a Input<'a>) -> Result<Self> {
        let without = !input.sources.has_ids();
        let column = without.then(|| input.reader.fast_fields().str(ID)).transpose()?.flatten();
        Ok(Self { input, column, id: String::new() })
    }

    fn of(&mut self, doc: DocId) -> Result<&str> {
        self.id.clear();
        let ordinal = self.column.as_ref().and_then(|column| column.ords().first(doc));
        let known = match (&self.column, ordinal) {
            (Some(column), Some(ordinal)) => column.ord_to_str(ordinal, &mut self.id)?,
            _ => false,
        };
        if known { Ok(&self.id) } else { Err(self.input.sources.damaged(doc, "has no id")) }
    }
}
