//! What is collected of one field until its segment is written.

mod keywords;
mod numbers;
mod texts;

use std::io;

use tantivy::fieldnorm::FieldNormReader;
use tantivy::schema::document::ReferenceValueLeaf;
use tantivy::schema::{FieldEntry, FieldType, IndexRecordOption};

use self::keywords::Keywords;
use self::numbers::Numbers;
use self::texts::Texts;
use super::postings::PostingsWriter;
use crate::error::{Error, ErrorKind, Result};
use crate::mapping::schema::ID;
use crate::mapping::tokenize::Terms;

/// Collects one field.
pub(super) struct FieldWriter {
    kind: Kind,
    /// How many terms the documents have, repetitions included.
    tokens: u64,
    norms: Option<Norms>,
}

enum Kind {
    Texts(Box<Texts>),
    Keywords(Box<Keywords>),
    Numbers(Numbers),
}

/// How many terms each document has, in tantivy's one byte.
#[derive(Debug, Default)]
struct Norms {
    bytes: Vec<u8>,
    /// The document that is being counted, and what it has so far.
    current: Option<(u32, u32)>,
}

impl FieldWriter {
    /// For an indexed field.
    pub(super) fn new(entry: &FieldEntry) -> Result<Self> {
        let kind = match entry.field_type() {
            FieldType::Str(options) => {
                let indexing = options.get_indexing_options();
                let indexing = indexing.ok_or_else(|| unsupported(entry))?;
                let terms = Terms::named(indexing.tokenizer())?;
                if terms.is_one() && indexing.index_option() == IndexRecordOption::Basic {
                    Kind::Keywords(Box::new(Keywords::new(terms, entry.name() == ID)))
                } else {
                    Kind::Texts(Box::new(Texts::new(terms)))
                }
            }
            FieldType::U64(_) | FieldType::I64(_) | FieldType::F64(_) | FieldType::Bool(_) => {
                Kind::Numbers(Numbers::new(entry.field_type().value_type()))
            }
            _ => return Err(unsupported(entry)),
        };
        Ok(Self { kind, tokens: 0, norms: entry.has_fieldnorms().then(Norms::default) })
    }

    /// Adds a value of a document; documents rise.
    pub(super) fn add(&mut self, doc: u32, value: ReferenceValueLeaf<'_>) -> Result<()> {
        let tokens = match (&mut self.kind, value) {
            (Kind::Texts(texts), ReferenceValueLeaf::Str(text)) => texts.add(doc, text)?,
            (Kind::Keywords(keywords), ReferenceValueLeaf::Str(text)) => keywords.add(doc, text)?,
            (Kind::Numbers(numbers), value) => numbers.add(doc, value)?,
            _ => return Err(wrong_type()),
        };
        self.tokens += u64::from(tokens);
        if let Some(norms) = &mut self.norms {
            norms.count(doc, tokens);
        }
        Ok(())
    }

    /// Whether it has no terms at all.
    pub(super) fn is_empty(&self) -> bool {
        self.tokens == 0
    }

    /// How many terms the documents have, repetitions included.
    pub(super) fn tokens(&self) -> u64 {
        self.tokens
    }

    /// About how many different terms there are.
    pub(super) fn term_count(&self) -> usize {
        match &self.kind {
            Kind::Texts(texts) => texts.term_count(),
            Kind::Keywords(keywords) => keywords.term_count(),
            Kind::Numbers(numbers) => numbers.term_count(),
        }
    }

    /// A byte for each of so many documents, if the field has norms.
    pub(super) fn take_norms(&mut self, docs: u32) -> Option<Vec<u8>> {
        let mut norms = self.norms.take()?;
        norms.end();
        norms.bytes.resize(docs as usize, 0);
        Some(norms.bytes)
    }

    /// The memory that it holds.
    pub(super) fn memory_bytes(&self) -> usize {
        let norms = self.norms.as_ref().map_or(0, |norms| norms.bytes.capacity());
        norms
            + match &self.kind {
                Kind::Texts(texts) => texts.memory_bytes(),
                Kind::Keywords(keywords) => keywords.memory_bytes(),
                Kind::Numbers(numbers) => numbers.memory_bytes(),
            }
    }

    /// Writes every term.
    pub(super) fn write(self, sink: &mut PostingsWriter<'_>) -> io::Result<()> {
        match self.kind {
            Kind::Texts(texts) => texts.write(sink),
            Kind::Keywords(keywords) => keywords.write(sink),
            Kind::Numbers(numbers) => numbers.write(sink),
        }
    }
}

impl Norms {
    fn count(&mut self, doc: u32, tokens: u32) {
        let counted = self.current.take_if(|(current, _)| *current == doc);
        self.end();
        let before = counted.map_or(0, |(_, before)| before);
        self.current = Some((doc, before.saturating_add(tokens)));
    }

    fn end(&mut self) {
        if let Some((doc, tokens)) = self.current.take() {
            self.bytes.resize(doc as usize, 0);
            self.bytes.push(FieldNormReader::fieldnorm_to_id(tokens));
        }
    }
}

fn unsupported(entry: &FieldEntry) -> Error {
    let message = format!("field [{}] has a type that is not indexed here", entry.name());
    Error::new(ErrorKind::Internal, message)
}

fn wrong_type() -> Error {
    Error::new(ErrorKind::Internal, "a value has another type than its field")
}
