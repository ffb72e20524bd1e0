//! The same documents by tantivy's writer and by ours: the bytes are the same, or what readers see.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tantivy::TantivyDocument;
use tantivy::columnar::{
    Cardinality, ColumnarReader, DynamicColumn, MergeRowOrder, StackMergeOrder, merge_columnar,
};
use tantivy::fastfield::FastFieldsWriter;
use tantivy::schema::{FAST, Field, INDEXED, Schema, SchemaBuilder, TextOptions};

use super::ColumnsWriter;
use crate::error::ErrorKind;
use crate::mapping::schema::{ID, SEQ_NO, tokenizers};

type Documents = Vec<TantivyDocument>;

/// Adds a value to a document.
type Add = fn(&mut TantivyDocument, Field);

/// How many values a document has in a column.
type Counts = fn(&mut StdRng, usize, usize) -> usize;

fn raw() -> TextOptions {
    TextOptions::default().set_fast("raw")
}

/// A column of every type, and fields without a column between them.
fn schema() -> Schema {
    let mut schema = Schema::builder();
    schema.add_text_field(ID, raw());
    schema.add_u64_field(SEQ_NO, FAST);
    schema.add_u64_field("u64", FAST | INDEXED);
    schema.add_i64_field("a.long", FAST);
    schema.add_i64_field("a", FAST);
    schema.add_f64_field("a-f64", FAST);
    schema.add_text_field("no column", TextOptions::default());
    schema.add_bool_field("bool", FAST);
    schema.add_text_field("few", raw());
    schema.add_text_field("a.many", raw());
    schema.add_u64_field("steps", FAST);
    schema.add_u64_field("no column, too", INDEXED);
    schema.add_i64_field("with a \0 zero byte", FAST);
    schema.add_text_field("empty", raw());
    schema.add_bool_field("bool, empty", FAST);
    schema.build()
}

fn text(random: &mut StdRng) -> String {
    match random.random_range(0..3000) {
        0 => "x".repeat(random.random_range(0..65_000)),
        1 => (0..400).map(|_| char::from(random.random_range(33..127_u8))).collect(),
        2..60 => String::new(),
        60..90 => format!("{}\0{}", random.random_range(0..20), random.random_range(0..9)),
        90..300 => format!("Höhle {}", random.random_range(0..900)),
        300..400 => "\u{10ffff}".repeat(random.random_range(0..20)),
        400..700 => format!("{:x}", random.random::<u128>()),
        _ => random.random_range(0..60_000_u32).to_string(),
    }
}

fn i64(random: &mut StdRng) -> i64 {
    match random.random_range(0..2000) {
        0 => i64::MIN,
        1 => i64::MAX,
        2..500 => random.random(),
        _ => random.random_range(-500..500),
    }
}

fn f64(random: &mut StdRng) -> f64 {
    let special = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, 0.0, f64::MIN, f64::MAX, -1.5];
    match random.random_range(0..100) {
        at @ 0..8 => special[at],
        8..90 => f64::from(random.random_range(-3000..3000)) / 100.0,
        _ => random.random(),
    }
}

fn documents(schema: &Schema, count: usize, counts: Counts, random: &mut StdRng) -> Documents {
    let field = |name: &str| schema.get_field(name).unwrap();
    let document = |number: usize| {
        let mut document = TantivyDocument::default();
        document.add_text(field(ID), (number * 7919 % 100_003 % 90_000).to_string());
        document.add_u64(field(SEQ_NO), 1_000_000 + number as u64);
        let mut each = |random: &mut StdRng, name: &str, add: &dyn Fn(&mut StdRng, &mut _, _)| {
            for _ in 0..counts(random, number, count) {
                add(random, &mut document, field(name));
            }
        };
        let step = 1_700_000_000_000 + number as u64 / 9 * 1000;
        each(random, "u64", &|random, to: &mut TantivyDocument, field| {
            let shift = random.random_range(0..64);
            to.add_u64(field, random.random::<u64>() >> shift);
        });
        each(random, "a.long", &|random, to, field| to.add_i64(field, i64(random)));
        each(random, "a", &|random, to, field| to.add_i64(field, random.random_range(-9..9) * 60));
        each(random, "a-f64", &|random, to, field| to.add_f64(field, f64(random)));
        each(random, "no column", &|random, to, field| to.add_text(field, text(random)));
        each(random, "bool", &|random, to, field| to.add_bool(field, random.random()));
        each(random, "few", &|random, to, field| {
            to.add_text(field, ["red", "green", "blue"][random.random_range(0..3)]);
        });
        each(random, "a.many", &|random, to, field| to.add_text(field, text(random)));
        each(random, "steps", &|random, to, field| {
            to.add_u64(field, step + random.random_range(0..5) * 1000);
        });
        each(random, "with a \0 zero byte", &|_, to, field| to.add_i64(field, 7));
        document
    };
    (0..count).map(document).collect()
}

fn tantivys(schema: &Schema, documents: &Documents) -> Vec<u8> {
    let mut writer =
        FastFieldsWriter::from_schema_and_tokenizer_manager(schema, tokenizers()).unwrap();
    for document in documents {
        writer.add_document(document).unwrap();
    }
    let mut bytes = Vec::new();
    writer.serialize(&mut bytes, None).unwrap();
    bytes
}

fn ours(schema: &Schema, documents: &Documents) -> Vec<u8> {
    let mut writer = ColumnsWriter::new(schema).unwrap();
    for (doc, document) in documents.iter().enumerate() {
        writer.add(u32::try_from(doc).unwrap(), document).unwrap();
    }
    assert_eq!(writer.memory_bytes() > 0, !documents.is_empty());
    let mut bytes = Vec::new();
    writer.write(u32::try_from(documents.len()).unwrap(), &mut bytes).unwrap();
    bytes
}

#[track_caller]
fn check(schema: &Schema, documents: &Documents, what: &str) {
    let (ours, tantivys) = (ours(schema, documents), tantivys(schema, documents));
    let first = ours.iter().zip(&tantivys).position(|(left, right)| left != right);
    let lengths = (ours.len(), tantivys.len());
    assert!(first.is_none() && lengths.0 == lengths.1, "{what}: from {first:?} on, of {lengths:?}");
}

/// Names and what they say about how many values a document of so many has.
const COUNTS: [(&str, Counts); 9] = [
    ("none", |_, _, _| 0),
    ("one", |_, _, _| 1),
    ("not the first", |_, doc, _| usize::from(doc > 0)),
    ("not the last", |_, doc, docs| usize::from(doc + 1 < docs)),
    ("not one in the middle", |_, doc, docs| usize::from(doc != docs / 2)),
    ("some", |random, _, _| usize::from(random.random_ratio(1, 30))),
    ("two at the end", |_, doc, docs| 1 + usize::from(doc + 1 == docs)),
    ("several", |random, _, _| random.random_range(0..3)),
    ("many of one", |_, doc, docs| if doc == docs / 3 { 700 } else { usize::from(doc % 7 == 1) }),
];

#[test]
fn files_are_the_same() {
    let (schema, mut random) = (schema(), StdRng::seed_from_u64(1));
    for (what, counts) in COUNTS {
        for count in [0, 1, 2, 3, 100, 511, 512, 513, 3000] {
            let documents = documents(&schema, count, counts, &mut random);
            check(&schema, &documents, &format!("{what}, {count} documents"));
        }
    }
}

/// More than one block of documents in the sets. With so many texts, keys may share other nodes in a
/// dictionary's index, so what readers see is compared.
#[test]
fn large_files_say_the_same() {
    let (schema, mut random) = (schema(), StdRng::seed_from_u64(2));
    for (what, counts) in COUNTS {
        let documents = documents(&schema, 70_000, counts, &mut random);
        let (ours, tantivys) = (ours(&schema, &documents), tantivys(&schema, &documents));
        assert!(ours.len().abs_diff(tantivys.len()) <= tantivys.len() / 10_000, "{what}");
        check_dictionaries(&ours);
        assert!(merged(vec![ours]) == merged(vec![tantivys]), "{what}");
    }
}

/// The index of a dictionary finds its texts.
fn check_dictionaries(file: &[u8]) {
    for (_, column) in ColumnarReader::open(file.to_vec()).unwrap().list_columns().unwrap() {
        let DynamicColumn::Str(column) = column.open().unwrap() else { continue };
        let (dictionary, mut text) = (column.dictionary(), Vec::new());
        let (mut texts, mut place) = (dictionary.stream().unwrap(), 0);
        while texts.advance() {
            if place % 97 < 2 {
                assert_eq!(dictionary.term_ord(texts.key()).unwrap(), Some(place));
                assert!(dictionary.ord_to_term(place, &mut text).unwrap());
                assert!(text == texts.key());
            }
            place += 1;
        }
        assert_eq!(place, dictionary.num_terms() as u64);
    }
}

/// What tantivy's merge makes of files, one after another.
fn merged(files: Vec<Vec<u8>>) -> Vec<u8> {
    let readers: Vec<_> =
        files.into_iter().map(|file| ColumnarReader::open(file).unwrap()).collect();
    let readers: Vec<_> = readers.iter().collect();
    let order = MergeRowOrder::Stack(StackMergeOrder::stack(&readers));
    let mut bytes = Vec::new();
    merge_columnar(&readers, &[], order, &mut bytes).unwrap();
    bytes
}

/// Values of one field, in shapes that decide how they are packed.
#[test]
fn numbers_of_every_shape_are_the_same() {
    let mut builder = Schema::builder();
    let field = builder.add_u64_field("number", FAST);
    let schema = builder.build();
    let mut random = StdRng::seed_from_u64(3);
    for round in 0..600 {
        let most = 1 << random.random_range(1..13);
        let count = random.random_range(1..most);
        let (shift, step) = (random.random_range(0..64), 1 << random.random_range(0..20));
        let (steepness, start) = (random.random_range(0..64), random.random());
        let slope = random.random::<u64>() >> steepness;
        let step: u64 = step * random.random_range(1..8);
        let number = |at: u64, random: &mut StdRng| {
            let noise = random.random::<u64>() >> shift;
            let line = at.wrapping_mul(slope);
            match round % 6 {
                0 => noise,
                1 => u64::wrapping_add(start, line),
                2 => noise.wrapping_add(line),
                3 => (at * step).wrapping_sub(noise / step * step),
                4 => noise / step * step,
                _ => [0, u64::MAX, start, u64::MAX - 1][random.random_range(0..4)],
            }
        };
        let document = |at| {
            let mut document = TantivyDocument::default();
            document.add_u64(field, number(at, &mut random));
            document
        };
        check(&schema, &(0..count).map(document).collect(), &format!("round {round}"));
    }
}

/// As ids of one segment are, if a document was written again.
#[test]
fn equal_ids_are_one_text() {
    let mut builder = Schema::builder();
    let field = builder.add_text_field(ID, raw());
    let schema = builder.build();
    let mut random = StdRng::seed_from_u64(4);
    for most in [1, 3, 1000, 20_000] {
        let document = |_| {
            let mut document = TantivyDocument::default();
            document.add_text(field, random.random_range(0..most).to_string());
            document
        };
        check(&schema, &(0..3000).map(document).collect(), "ids");
    }
}

#[test]
fn merges_read_them() {
    let (schema, mut random) = (schema(), StdRng::seed_from_u64(5));
    let parts = COUNTS.map(|(_, counts)| documents(&schema, 300, counts, &mut random));
    let files = |write: fn(&Schema, &Documents) -> Vec<u8>| {
        parts.iter().map(|documents| write(&schema, documents)).collect()
    };
    assert!(merged(files(ours)) == merged(files(tantivys)));
}

/// More blocks than have one head, and keys that end with the largest byte or are long.
#[test]
fn indexes_of_many_blocks_find_texts() {
    let mut builder = Schema::builder();
    let field = builder.add_text_field("text", raw());
    let schema = builder.build();
    let mut random = StdRng::seed_from_u64(6);
    let mut document = TantivyDocument::default();
    for number in 0..60_000_u32 {
        let long = if random.random_ratio(1, 200) { 9000 } else { 30 };
        let tail = (0..random.random_range(0..long)).map(|_| ["z", "\u{10ffff}", "\0"]);
        let tail: String = tail.map(|any| any[random.random_range(0..3)]).collect();
        document.add_text(field, format!("{}{tail}", number / 3 * 7919 % 20_011));
    }
    let documents = vec![document];
    let (ours, tantivys) = (ours(&schema, &documents), tantivys(&schema, &documents));
    assert!(ours.len().abs_diff(tantivys.len()) <= tantivys.len() / 1000);
    check_dictionaries(&ours);
    assert!(merged(vec![ours]) == merged(vec![tantivys]));
}

/// Tantivy would cut it.
#[test]
fn thousands_of_columns_are_listed() {
    let mut builder = Schema::builder();
    let name = |number: usize| format!("object{}.property with a long name {number}", number % 7);
    let fields: Vec<Field> =
        (0..3000).map(|number| builder.add_u64_field(&name(number), FAST)).collect();
    let schema = builder.build();
    let mut document = TantivyDocument::default();
    for (value, field) in (0..).zip(&fields) {
        document.add_u64(*field, value);
    }
    let file = ours(&schema, &vec![document]);
    let reader = ColumnarReader::open(file).unwrap();
    assert_eq!(reader.num_columns(), fields.len());
    for number in 0..fields.len() {
        let columns = reader.read_columns(&name(number)).unwrap();
        let [column] = columns.as_slice() else { panic!("{number} has {columns:?}") };
        let DynamicColumn::U64(column) = column.open().unwrap() else { panic!("{number}") };
        assert_eq!(column.first(0), Some(number as u64));
    }
}

#[test]
fn a_long_text_is_kept() {
    let mut builder = Schema::builder();
    let field = builder.add_text_field("text", raw());
    let schema = builder.build();
    let mut document = TantivyDocument::default();
    let long = "ö".repeat(40_000);
    document.add_text(field, &long);
    let reader = ColumnarReader::open(ours(&schema, &vec![document])).unwrap();
    let columns = reader.read_columns("text").unwrap();
    let DynamicColumn::Str(column) = columns[0].open().unwrap() else { panic!("no texts") };
    assert_eq!(column.ords().get_cardinality(), Cardinality::Full);
    let mut text = String::new();
    assert!(column.ord_to_str(0, &mut text).unwrap());
    assert!(text == long);
}

#[test]
fn other_columns_are_refused() {
    let refused = |add: fn(&mut SchemaBuilder) -> Field| {
        let mut builder = Schema::builder();
        add(&mut builder);
        let error = ColumnsWriter::new(&builder.build()).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Internal);
    };
    refused(|to| to.add_text_field("text", TextOptions::default().set_fast("standard")));
    refused(|to| to.add_date_field("date", FAST));
    refused(|to| to.add_bytes_field("bytes", FAST));
    refused(|to| to.add_ip_addr_field("address", FAST));
    refused(|to| to.add_json_field("object", FAST));
}

#[test]
fn other_values_and_documents_are_refused() {
    let schema = schema();
    let field = |name| schema.get_field(name).unwrap();
    let values: [(&str, Add); 6] = [
        ("u64", |to, field| to.add_i64(field, 1)),
        ("a", |to, field| to.add_u64(field, 1)),
        ("a-f64", |to, field| to.add_u64(field, 1)),
        ("bool", |to, field| to.add_u64(field, 1)),
        ("few", |to, field| to.add_u64(field, 1)),
        ("u64", |to, field| to.add_text(field, "1")),
    ];
    for (name, add) in values {
        let mut document = TantivyDocument::default();
        add(&mut document, field(name));
        let error = ColumnsWriter::new(&schema).unwrap().add(0, &document).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Internal, "{name}");
    }
    let mut document = TantivyDocument::default();
    document.add_u64(field("u64"), 1);
    let mut writer = ColumnsWriter::new(&schema).unwrap();
    writer.add(3, &document).unwrap();
    assert_eq!(writer.add(2, &document).unwrap_err().kind(), ErrorKind::Internal);
    let mut writer = ColumnsWriter::new(&schema).unwrap();
    writer.add(3, &document).unwrap();
    assert_eq!(writer.write(3, &mut Vec::new()).unwrap_err().kind(), ErrorKind::Internal);
}
