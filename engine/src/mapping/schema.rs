//! A mapping as a tantivy schema.
//!
//! Fields are appended and never moved: [`extend`] keeps the order of the schema that it is given,
//! so after a restart the schema on disk, not the mapping's JSON, says which field has which
//! number. Look fields up by name.

use tantivy::schema::{
    Field, IndexRecordOption, NumericOptions, Schema, TextFieldIndexing, TextOptions,
};

use super::Mapping;
use super::field::{FieldKind, FieldMapping, Storage};

use super::tokenize::RAW;

pub use super::tokenize::tokenizers;

/// A document's id: one term.
pub const ID: &str = "_id";
/// The document's last change.
pub const SEQ_NO: &str = "_seq_no";
/// The term of the last change.
pub const TERM: &str = "_term";
/// The document's version.
pub const VERSION: &str = "_version";
/// The LSN of the document's last change.
pub const LSN: &str = "_lsn";
/// The terms of a row that documents are composed from.
pub const LINKS: &str = "_links";

/// How many fields every schema begins with.
pub const SYSTEM_FIELD_COUNT: u32 = 5;

/// The fields that every document has beside its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SystemFields {
    /// [`ID`].
    pub id: Field,
    /// [`SEQ_NO`].
    pub seq_no: Field,
    /// [`TERM`].
    pub term: Field,
    /// [`VERSION`].
    pub version: Field,
    /// [`LSN`].
    pub lsn: Field,
}

impl SystemFields {
    /// Their places, the same in every schema that [`build`] or [`extend`] made.
    pub const FIXED: Self = Self {
        id: Field::from_field_id(0),
        seq_no: Field::from_field_id(1),
        term: Field::from_field_id(2),
        version: Field::from_field_id(3),
        lsn: Field::from_field_id(4),
    };

    /// Their places in this schema; `None` if it has been made by something else.
    pub fn of(schema: &Schema) -> Option<Self> {
        let field = |name| schema.get_field(name).ok();
        Some(Self {
            id: field(ID)?,
            seq_no: field(SEQ_NO)?,
            term: field(TERM)?,
            version: field(VERSION)?,
            lsn: field(LSN)?,
        })
    }
}

/// The values of the system fields but for the id, which the document knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SystemValues {
    /// The number of the change.
    pub seq_no: u64,
    /// The term of the change.
    pub term: u64,
    /// The document's version.
    pub version: u64,
    /// The LSN of the change; 0 where the index follows nothing.
    pub lsn: u64,
}

/// A schema for a new index: the system fields, then the mapping's fields in order.
pub fn build(mapping: &Mapping) -> Schema {
    let mut builder = Schema::builder();
    // The column says which document a hit is.
    builder.add_text_field(ID, indexing(RAW).set_fast(RAW));
    for name in [SEQ_NO, TERM, VERSION, LSN] {
        builder.add_u64_field(name, NumericOptions::default().set_fast());
    }
    for field in mapping.fields() {
        add(&mut builder, field);
    }
    // Last, so that fields mostly lie where they are looked for first.
    if mapping.composition().is_some() {
        builder.add_text_field(LINKS, indexing(RAW));
    }
    builder.build()
}

/// The schema with the mapping's fields that it lacks appended; what it has stays as it is.
pub fn extend(schema: &Schema, mapping: &Mapping) -> Schema {
    let mut builder = Schema::builder();
    for (_, entry) in schema.fields() {
        builder.add_field(entry.clone());
    }
    for field in mapping.fields() {
        if schema.get_field(&field.path).is_err() {
            add(&mut builder, field);
        }
    }
    builder.build()
}

/// Whether a field keeps norms: only analyzed text that is indexed. Appending such a field starts
/// a new schema generation, since segments without its norms cannot be merged.
pub fn has_norms(field: &FieldMapping) -> bool {
    field.kind == FieldKind::Text && field.index && field.norms
}

/// One term a value, no frequencies and no norms.
fn indexing(tokenizer: &str) -> TextOptions {
    TextOptions::default().set_indexing_options(
        TextFieldIndexing::default()
            .set_tokenizer(tokenizer)
            .set_index_option(IndexRecordOption::Basic)
            .set_fieldnorms(false),
    )
}

fn add(builder: &mut tantivy::schema::SchemaBuilder, field: &FieldMapping) {
    let name = field.path.as_str();
    let mut numeric = NumericOptions::default();
    if field.index {
        numeric = numeric.set_indexed();
    }
    if field.doc_values {
        numeric = numeric.set_fast();
    }
    match field.kind.storage() {
        Storage::Text | Storage::Ip | Storage::Span => {
            builder.add_text_field(name, text_options(field))
        }
        // Dates are microseconds: tantivy's own have nanoseconds in 64 bits, too few centuries.
        Storage::I64 | Storage::Date => builder.add_i64_field(name, numeric),
        Storage::U64 => builder.add_u64_field(name, numeric),
        // What is asked of points is asked of their column.
        Storage::Point => builder.add_u64_field(name, NumericOptions::default().set_fast()),
        Storage::F64 => builder.add_f64_field(name, numeric),
        Storage::Bool => builder.add_bool_field(name, numeric),
    };
}

fn text_options(field: &FieldMapping) -> TextOptions {
    if field.kind == FieldKind::Text {
        let indexing = TextFieldIndexing::default()
            .set_tokenizer(&field.analyzer)
            .set_index_option(IndexRecordOption::WithFreqsAndPositions)
            .set_fieldnorms(field.norms);
        return if field.index {
            TextOptions::default().set_indexing_options(indexing)
        } else {
            TextOptions::default()
        };
    }
    // Terms of addresses are short, and in their order.
    let digests = field.doc_values && field.kind == FieldKind::Keyword;
    let tokenizer = if digests { super::digest::NAME } else { RAW };
    let options = if field.index { indexing(tokenizer) } else { TextOptions::default() };
    if field.doc_values { options.set_fast(RAW) } else { options }
}
