//! The same documents by tantivy's writer and by ours: what their readers say is the same.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tantivy::directory::{CompositeFile, Directory, FileSlice, RamDirectory};
use tantivy::index::{SegmentComponent, SegmentReader};
use tantivy::indexer::{AddOperation, SegmentWriter as TantivysWriter, merge_filtered_segments};
use tantivy::postings::{Postings as _, TermInfo};
use tantivy::schema::{
    FAST, Field, INDEXED, IndexRecordOption, NumericOptions, Schema, TextFieldIndexing, TextOptions,
};
use tantivy::termdict::TermDictionary;
use tantivy::{BitSet, DocSet as _, Index, Segment, TERMINATED, TantivyDocument};

use super::{Input, merge};
use crate::mapping::schema::{ID, tokenizers};
use crate::store::segment::{alive_set, open_living};
use crate::store::segment_writer::SegmentWriter;
use crate::store::source;

type Documents = Vec<TantivyDocument>;

/// A document with its frequency and its positions.
type Posting = (u32, u32, Vec<u32>);

fn text(tokenizer: &str, option: IndexRecordOption, norms: bool) -> TextOptions {
    let indexing = TextFieldIndexing::default().set_tokenizer(tokenizer);
    TextOptions::default()
        .set_indexing_options(indexing.set_index_option(option).set_fieldnorms(norms))
}

/// Every kind of field that a mapping makes, and some that older ones made.
fn schema() -> Schema {
    use IndexRecordOption::{Basic, WithFreqs, WithFreqsAndPositions};
    let mut schema = Schema::builder();
    schema.add_text_field(ID, text("raw", Basic, false).set_fast("raw"));
    schema.add_text_field("standard", text("standard", WithFreqsAndPositions, true));
    schema.add_text_field("english", text("english", WithFreqsAndPositions, true));
    schema.add_text_field("normless", text("whitespace", WithFreqsAndPositions, false));
    schema.add_text_field("frequencies", text("simple", WithFreqs, true));
    schema.add_text_field("basic", text("simple", Basic, true));
    schema.add_text_field("digest", text("digest", Basic, false).set_fast("raw"));
    schema.add_text_field("raw", text("raw", Basic, true));
    schema.add_text_field("one", text("raw", WithFreqsAndPositions, true));
    schema.add_i64_field("i64", INDEXED | FAST);
    schema.add_u64_field("u64", NumericOptions::default().set_indexed());
    schema.add_f64_field("f64", INDEXED);
    schema.add_bool_field("bool", INDEXED);
    schema.add_u64_field("column", FAST);
    schema.add_text_field("none", TextOptions::default());
    schema.add_text_field("never", text("standard", WithFreqsAndPositions, true));
    schema.build()
}

fn word(random: &mut StdRng) -> String {
    // Few words are frequent, and most are rare.
    let most = 1 << random.random_range(0..12);
    let rank = random.random_range(0..most);
    match rank % 7 {
        0 => format!("Höhle{rank}"),
        1 => format!("{rank}"),
        2 => "the".to_owned(),
        3 => format!("running{rank}"),
        _ => format!("w{}", rank * 7919 % 104_729),
    }
}

fn value(random: &mut StdRng) -> String {
    match random.random_range(0..40) {
        0 => String::new(),
        1 => "x".repeat(70_000),
        2 => format!("{} {} a", "y".repeat(66_000), word(random)),
        3 => "same ".repeat(random.random_range(1..400)),
        _ => {
            let words = random.random_range(0..14);
            (0..words).map(|_| word(random)).collect::<Vec<_>>().join(" ")
        }
    }
}

fn documents(schema: &Schema, count: usize, random: &mut StdRng) -> Documents {
    let texts = ["standard", "english", "normless", "frequencies", "basic", "digest", "raw", "one"];
    let field = |name: &str| schema.get_field(name).unwrap();
    let document = |number: usize| {
        let mut document = TantivyDocument::default();
        document.add_text(field(ID), (number * 7919 % 10_007 % 9_000).to_string());
        for name in texts.into_iter().chain(["none"]) {
            for _ in 0..random.random_range(0..3) {
                document.add_text(field(name), value(random));
            }
        }
        for _ in 0..random.random_range(0..3) {
            document.add_i64(field("i64"), random.random_range(-5..500));
            document.add_u64(field("u64"), random.random());
            document.add_f64(field("f64"), f64::from(random.random_range(-3..3)) / 2.0);
            document.add_bool(field("bool"), random.random());
            document.add_u64(field("column"), 1);
        }
        document
    };
    (0..count).map(document).collect()
}

fn ours(schema: &Schema, documents: &Documents) -> SegmentReader {
    let index = Index::builder().schema(schema.clone()).tokenizers(tokenizers());
    let index = index.register_plugin(source::plugin()).create_in_ram().unwrap();
    let segment = index.new_segment();
    let mut writer = SegmentWriter::new(segment.clone()).unwrap();
    for document in documents {
        writer.add("1", document, b"{}").unwrap();
    }
    let max_doc = writer.max_doc();
    assert!(writer.memory_bytes() > 0 || documents.is_empty());
    writer.finish().unwrap();
    SegmentReader::open(&segment.with_max_doc(max_doc)).unwrap()
}

fn tantivys(schema: &Schema, documents: &Documents) -> SegmentReader {
    let index = Index::builder().schema(schema.clone()).tokenizers(tokenizers());
    let index = index.create_in_ram().unwrap();
    let segment = index.new_segment();
    let mut writer = TantivysWriter::for_segment(1_000_000, segment.clone()).unwrap();
    for document in documents {
        writer.add_document(AddOperation { opstamp: 0, document: document.clone() }).unwrap();
    }
    let max_doc = writer.max_doc();
    writer.finalize().unwrap();
    SegmentReader::open(&segment.with_max_doc(max_doc)).unwrap()
}

/// Every term of a field with its postings, read with all that the field has.
fn postings(reader: &SegmentReader, field: Field) -> BTreeMap<Vec<u8>, Vec<Posting>> {
    let inverted = reader.inverted_index(field).unwrap();
    let mut terms = BTreeMap::new();
    let mut stream = inverted.terms().stream().unwrap();
    while stream.advance() {
        let option = IndexRecordOption::WithFreqsAndPositions;
        let mut found = inverted.read_postings_from_terminfo(stream.value(), option).unwrap();
        let mut postings = Vec::new();
        while found.doc() != TERMINATED {
            let mut positions = Vec::new();
            found.positions(&mut positions);
            postings.push((found.doc(), found.term_freq(), positions));
            found.advance();
        }
        assert_eq!(postings.len(), stream.value().doc_freq as usize);
        terms.insert(stream.key().to_vec(), postings);
    }
    terms
}

fn check(documents: &Documents, schema: &Schema) {
    let (ours, tantivys) = (ours(schema, documents), tantivys(schema, documents));
    for (field, entry) in schema.fields() {
        let name = entry.name();
        if !entry.is_indexed() {
            continue;
        }
        let (our, their) = (postings(&ours, field), postings(&tantivys, field));
        assert!(our == their, "the postings of {name} differ");
        let total =
            |reader: &SegmentReader| reader.inverted_index(field).unwrap().total_num_tokens();
        assert_eq!(total(&ours), total(&tantivys), "{name}");
        if entry.has_fieldnorms() {
            let norms = |reader: &SegmentReader| {
                let norms = reader.get_fieldnorms_reader(field).unwrap();
                (0..reader.max_doc()).map(|doc| norms.fieldnorm_id(doc)).collect::<Vec<_>>()
            };
            assert_eq!(norms(&ours), norms(&tantivys), "{name}");
        }
        // Skip lists, and what may be skipped by scores.
        for (term, postings) in our.into_iter().filter(|(_, postings)| postings.len() >= 128) {
            let bounds = |reader: &SegmentReader| {
                let inverted = reader.inverted_index(field).unwrap();
                let info = inverted.terms().get(&term).unwrap().unwrap();
                let bytes = info.postings_range.len();
                let option = IndexRecordOption::WithFreqs;
                let mut found = inverted.read_postings_from_terminfo(&info, option).unwrap();
                let middle = postings[postings.len() / 2].0;
                (bytes, found.seek(middle), found.term_freq())
            };
            assert_eq!(bounds(&ours), bounds(&tantivys), "{name}");
        }
    }
}

#[test]
fn segments_are_as_tantivy_writes_them() {
    let schema = schema();
    for (seed, count) in [0, 1, 2, 30, 127, 128, 129, 700, 3000].into_iter().enumerate() {
        let mut random = StdRng::seed_from_u64(seed as u64);
        check(&documents(&schema, count, &mut random), &schema);
    }
}

#[test]
fn files_of_postings_and_positions_are_tantivys_to_the_byte() {
    use tantivy::index::SegmentComponent::{FieldNorms, Positions, Postings};
    let schema = schema();
    let mut random = StdRng::seed_from_u64(42);
    let documents = documents(&schema, 500, &mut random);
    let (ours, tantivys) = (ours(&schema, &documents), tantivys(&schema, &documents));
    for component in [Postings, Positions, FieldNorms] {
        let bytes = |reader: &SegmentReader| {
            let file = reader.open_read(component.clone()).unwrap();
            file.read_bytes().unwrap().as_slice().to_vec()
        };
        assert!(bytes(&ours) == bytes(&tantivys), "{component:?} differs");
    }
}

/// A field's part of a segment's file.
fn part(segment: &Segment, component: SegmentComponent, field: Field) -> Option<FileSlice> {
    CompositeFile::open(&segment.open_read(component).unwrap()).unwrap().open_read(field)
}

fn bytes(segment: &Segment, component: SegmentComponent, field: Field) -> Vec<u8> {
    let part = part(segment, component, field);
    part.map_or_else(Vec::new, |part| part.read_bytes().unwrap().to_vec())
}

fn terms(segment: &Segment, field: Field) -> Vec<(Vec<u8>, TermInfo)> {
    let mut terms = Vec::new();
    let Some(part) = part(segment, SegmentComponent::Terms, field) else { return terms };
    let dictionary = TermDictionary::open(part).unwrap();
    let mut stream = dictionary.stream().unwrap();
    while stream.advance() {
        terms.push((stream.key().to_vec(), stream.value().clone()));
    }
    terms
}

/// The number of tokens, and the postings behind it.
fn split(bytes: &[u8]) -> (u64, &[u8]) {
    let (tokens, postings) = bytes.split_at(8.min(bytes.len()));
    (tokens.try_into().map_or(0, u64::from_le_bytes), postings)
}

/// A segment of an index, and which of its documents are not deleted. It may lack most fields, as one
/// from before they were added.
fn segment(
    index: &Index,
    count: usize,
    deleted: f64,
    lacking: bool,
    random: &mut StdRng,
) -> (Segment, BitSet) {
    let segment = index.new_segment();
    let mut writer = SegmentWriter::new(segment.clone()).unwrap();
    for document in documents(&index.schema(), count, random) {
        let mut kept = TantivyDocument::default();
        let has = |field: Field| !lacking || field.field_id() < 5;
        for (field, value) in document.field_values().filter(|(field, _)| has(*field)) {
            kept.add_field_value(field, value);
        }
        writer.add("1", &kept, b"{}").unwrap();
    }
    let max_doc = writer.max_doc();
    writer.finish().unwrap();
    let mut alive = BitSet::with_max_value(max_doc);
    for doc in (0..max_doc).filter(|_| !random.random_bool(deleted)) {
        alive.insert(doc);
    }
    (segment.with_max_doc(max_doc), alive)
}

/// Segments of one index, some of whose documents are deleted, merged by tantivy and by ours.
fn check_merge(counts: &[usize], deleted: f64, lacking: bool, random: &mut StdRng) {
    use tantivy::index::SegmentComponent::{FieldNorms, Positions, Postings};
    let schema = schema();
    let index = Index::builder().schema(schema.clone()).tokenizers(tokenizers());
    let index = index.register_plugin(source::plugin()).create_in_ram().unwrap();
    let (mut segments, mut filters, mut inputs, mut docs) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for (place, count) in counts.iter().enumerate() {
        let (segment, alive) = segment(&index, *count, deleted, lacking && place == 0, random);
        let is_whole = alive.len() == segment.meta().max_doc() as usize;
        filters.push((!is_whole).then(|| alive_set(&alive).unwrap()));
        let reader = open_living(&segment, &alive).unwrap();
        let first = docs;
        docs += reader.num_docs();
        inputs.push(Input::open(&segment, reader, first).unwrap());
        segments.push(segment);
    }
    let ours = index.new_segment();
    merge(&inputs, &ours, docs).unwrap();
    if docs == 0 {
        return;
    }
    let theirs: Box<dyn Directory> = Box::new(RamDirectory::create());
    let theirs =
        merge_filtered_segments(&segments, index.settings().clone(), filters, theirs).unwrap();
    let theirs = theirs.searchable_segments().unwrap().remove(0);
    assert_eq!(theirs.meta().max_doc(), docs);
    for (field, entry) in schema.fields() {
        let name = entry.name();
        for component in [Positions, FieldNorms] {
            let differ =
                bytes(&ours, component.clone(), field) != bytes(&theirs, component.clone(), field);
            assert!(!differ, "{component:?} of {name} differ");
        }
        let [our, their] = [&ours, &theirs].map(|segment| bytes(segment, Postings, field));
        let ((tokens, our), (their_tokens, their)) = (split(&our), split(&their));
        assert!(our == their, "the postings of {name} differ");
        // Where documents are dead and norms do not tell, tantivy reckons their tokens in floats.
        let most = if entry.has_fieldnorms() { 0 } else { counts.len() as u64 };
        assert!(tokens.abs_diff(their_tokens) <= most, "{tokens} tokens of {name}");
        if entry.is_indexed() {
            assert!(terms(&ours, field) == terms(&theirs, field), "the terms of {name} differ");
        }
    }
}

#[test]
fn merges_are_as_tantivy_makes_them() {
    let mut random = StdRng::seed_from_u64(7);
    for counts in [&[0, 3][..], &[1, 1, 1], &[30, 127, 128, 129], &[700, 1, 300], &[2000, 900]] {
        for deleted in [0.0, 0.01, 0.5, 0.95, 1.0] {
            check_merge(counts, deleted, false, &mut random);
            check_merge(counts, deleted, true, &mut random);
        }
    }
}

#[test]
fn a_value_of_another_type_is_refused() {
    let schema = schema();
    let index = Index::builder().schema(schema.clone()).tokenizers(tokenizers());
    let index = index.register_plugin(source::plugin()).create_in_ram().unwrap();
    let add = |name: &str, add: &dyn Fn(&mut TantivyDocument, Field)| {
        let mut document = TantivyDocument::default();
        add(&mut document, schema.get_field(name).unwrap());
        SegmentWriter::new(index.new_segment()).unwrap().add("1", &document, b"{}")
    };
    assert!(add("i64", &|document, field| document.add_i64(field, 1)).is_ok());
    assert!(add("i64", &|document, field| document.add_text(field, "1")).is_err());
    assert!(add("u64", &|document, field| document.add_i64(field, 1)).is_err());
    assert!(add("standard", &|document, field| document.add_u64(field, 1)).is_err());
    assert!(add("digest", &|document, field| document.add_bool(field, true)).is_err());
}
