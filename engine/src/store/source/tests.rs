//! Files of sources: written, read, merged, torn, damaged, and of the versions before.

use bytes::Bytes;
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tantivy::directory::OwnedBytes;
use tantivy::index::SegmentId;
use tantivy::schema::{FAST, STRING, Schema};
use tantivy::{BitSet, Index, SegmentReader, doc};

use super::format::{LONG_ID, RAW, VERSION, WITHOUT_IDS};
use super::frame::{Encoder, decompress};
use super::merge::{Input, merge};
use super::*;
use crate::ErrorKind;
use crate::mapping::schema::ID;
use crate::store::segment::alive_set;
use crate::store::segment_writer::SegmentWriter;

/// A document as a new segment has it.
type Document = (String, Vec<u8>);

/// Documents with the ids `first`, `first + 1` and so on.
fn numbered(first: usize, sources: impl IntoIterator<Item = Vec<u8>>) -> Vec<Document> {
    let sources = sources.into_iter().enumerate();
    sources.map(|(place, source)| (format!("id-{}", first + place), source)).collect()
}

/// Documents that have much in common.
fn birds(numbers: std::ops::Range<usize>) -> Vec<Document> {
    let one = |n: usize| {
        let family = ["Ardeidae", "Gruidae", "Anatidae"][n % 3];
        let source = format!(
            "{{\"title\":\"bird {n}\",\"family\":\"{family}\",\"wingspan_mm\":{},\
             \"habitat\":\"wetlands, rivers and lakes\",\"migrates\":{}}}",
            300 + n * 7 % 900,
            n.is_multiple_of(2)
        );
        source.into_bytes()
    };
    numbered(numbers.start, numbers.map(one))
}

/// A file as a new segment has it.
fn file(documents: &[Document]) -> Vec<u8> {
    let mut frames = Frames::new(Vec::new());
    for (id, source) in documents {
        frames.push(RAW, id, source).unwrap();
    }
    frames.finish(None).unwrap()
}

/// A file as earlier versions wrote it.
fn older(version: u32, documents: &[Document]) -> Vec<u8> {
    let mut frames = Frames::new(Vec::new());
    for (id, source) in documents {
        if version == WITHOUT_IDS {
            frames.push_parts(&[&[RAW], source]).unwrap();
        } else {
            frames.push(RAW, id, source).unwrap();
        }
    }
    let mut file = frames.finish(None).unwrap();
    let end = file.split_off(file.len() - 16);
    file.truncate(file.len() - 32);
    file.extend_from_slice(&end[..12]);
    file.extend_from_slice(&version.to_le_bytes());
    file
}

fn parse(file: Vec<u8>) -> Result<SourceReader> {
    SourceReader::parse(SegmentId::generate_random(), OwnedBytes::new(file))
}

/// A segment with these ids, of whose documents some are dead.
fn segment(documents: &[Document], dead: &[u32]) -> SegmentReader {
    let mut schema = Schema::builder();
    let id = schema.add_text_field(ID, STRING | FAST);
    let index = Index::builder().schema(schema.build()).register_plugin(plugin());
    let index = index.create_in_ram().unwrap();
    let segment = index.new_segment();
    let mut writer = SegmentWriter::new(segment.clone()).unwrap();
    for (text, source) in documents {
        writer.add(text, &doc!(id => text.as_str()), source).unwrap();
    }
    let segment = segment.with_max_doc(writer.max_doc());
    let mut alive = BitSet::with_max_value_and_full(writer.max_doc());
    for doc in dead {
        alive.remove(*doc);
    }
    writer.finish().unwrap();
    let alive = (!dead.is_empty()).then(|| alive_set(&alive).unwrap());
    SegmentReader::open_with_custom_alive_set(&segment, alive).unwrap()
}

fn input<'a>(sources: &SourceReader, reader: &'a SegmentReader) -> Input<'a> {
    Input { sources: sources.clone(), reader }
}

fn compressing(dictionary: Option<Dictionary>) -> Merging {
    Merging { compress: true, dictionary }
}

/// Merges files whose documents are all alive.
fn merged(files: &[(&SourceReader, &[Document])], merging: &Merging) -> SourceReader {
    let readers: Vec<_> = files.iter().map(|(_, documents)| segment(documents, &[])).collect();
    let inputs = files.iter().zip(&readers).map(|((sources, _), reader)| input(sources, reader));
    let inputs: Vec<_> = inputs.collect();
    parse(merge(&inputs, merging, Vec::new()).unwrap()).unwrap()
}

fn expect(sources: &SourceReader, documents: &[Document]) {
    for (doc, (id, source)) in (0..).zip(documents) {
        assert_eq!(sources.id(doc).unwrap(), Some(id.as_str()));
        assert_eq!(&sources.read(doc).unwrap()[..], &source[..], "document {doc}");
    }
    let past = u32::try_from(documents.len()).unwrap();
    assert_eq!(sources.read(past).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn every_document_comes_back() {
    for count in [0, 1, 15, 16, 17, 100, 300] {
        let documents: Vec<Document> =
            (0..count).map(|n| ("x".repeat(n), vec![b'x'; n * 7 % 50])).collect();
        expect(&parse(file(&documents)).unwrap(), &documents);
        expect(&parse(older(2, &documents)).unwrap(), &documents);
        expect(
            &merged(&[(&parse(file(&documents)).unwrap(), &documents)], &compressing(None)),
            &documents,
        );
    }
}

#[test]
fn a_torn_file_is_an_error() {
    let documents = numbered(0, (0..40).map(|n| vec![b'a'; n]));
    for whole in [file(&documents), older(2, &documents), older(1, &documents)] {
        for length in 0..whole.len() {
            assert!(parse(whole[..length].to_vec()).is_err(), "{length}");
        }
    }
}

#[test]
fn damaged_frames_and_newer_files_are_errors() {
    let whole = file(&numbered(0, [b"{}".to_vec()]));
    let check = |at: usize, byte: u8, expected: &str| {
        let mut file = whole.clone();
        file[at] = byte;
        let read = parse(file).and_then(|sources| sources.read(0));
        let error = read.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains(expected), "{error}");
    };
    check(1, 200, "has document [0], which has a frame without end");
    check(1, LONG_ID, "has document [0], which has a frame without end");
    check(0, 9, "has document [0], which has the frame tag [9]");
    check(0, 1, "has document [0], which is compressed against a dictionary that is not there");
    check(0, 2, "has document [0], which does not say how long it is");
    check(whole.len() - 4, 4, "has version [4], newer than [3]");
    check(whole.len() - 32, 1, "has a dictionary of the wrong size");
}

#[test]
fn a_frame_that_promises_too_much_gets_no_memory() {
    let mut encoder = Encoder::new(None).unwrap();
    let document = b"egret ".repeat(100);
    let frame = encoder.compress(&document).unwrap().unwrap().to_vec();
    assert_eq!(decompress(&frame, None).unwrap(), document);
    // One segment, and eight bytes for its size.
    let mut promises = vec![0b1110_0000];
    promises.extend_from_slice(&(1_u64 << 40).to_le_bytes());
    promises.extend_from_slice(&frame[3..]);
    let error = decompress(&promises, None).unwrap_err();
    assert_eq!(error, format!("says that it has [{}] bytes", 1_u64 << 40));
    promises[1..9].copy_from_slice(&1000_u64.to_le_bytes());
    assert!(decompress(&promises, None).is_err());
    promises[1..9].copy_from_slice(&600_u64.to_le_bytes());
    assert_eq!(decompress(&promises, None).unwrap(), document);
}

#[test]
fn a_file_without_ids_is_read_and_brought_up_to_date() {
    let documents = numbered(5, [b"{1}".to_vec(), b"{2}".to_vec(), b"{3}".to_vec()]);
    let sources = parse(older(WITHOUT_IDS, &documents)).unwrap();
    assert_eq!(sources.id(1).unwrap(), None);
    assert_eq!(&sources.read(1).unwrap()[..], b"{2}");
    let reader = segment(&documents, &[1]);
    for merging in [Merging::default(), compressing(None)] {
        let newer = merge(&[input(&sources, &reader)], &merging, Vec::new()).unwrap();
        let newer = parse(newer).unwrap();
        assert_eq!(newer.version(), VERSION);
        expect(&newer, &[documents[0].clone(), documents[2].clone()]);
    }
}

#[test]
fn a_dictionary_is_trained_once_and_kept() {
    let (first, second) = (birds(0..3000), birds(3000..3800));
    let (raw, other) = (parse(file(&first)).unwrap(), parse(file(&second)).unwrap());
    let whole = merged(&[(&raw, &first)], &compressing(None));
    expect(&whole, &first);
    let dictionary = whole.carried().unwrap();
    let bytes = |sources: &SourceReader| sources.frame_bytes() + dictionary.parts().1.len();
    assert!(bytes(&whole) * 2 < bytes(&raw), "{} of {}", bytes(&whole), bytes(&raw));
    // What was compressed is copied, what was not is compressed under the same dictionary.
    let both = merged(&[(&whole, &first), (&other, &second)], &compressing(None));
    let all: Vec<Document> = first.iter().chain(&second).cloned().collect();
    expect(&both, &all);
    assert_eq!(both.carried().unwrap().hash(), dictionary.hash());
    for doc in 0..3000 {
        let frames = [&whole, &both].map(|sources| sources.body(&sources.frame(doc).unwrap()));
        assert_eq!(frames[0], frames[1]);
    }
    // One is prepared for all that carry it.
    assert!(Arc::ptr_eq(whole.dictionary().unwrap(), both.dictionary().unwrap()));
    // A merge on the way of writes compresses nothing, but keeps what is.
    let kept = merged(&[(&other, &second), (&whole, &first)], &Merging::default());
    expect(&kept, &second.iter().chain(&first).cloned().collect::<Vec<_>>());
    assert_eq!(kept.carried().unwrap().hash(), dictionary.hash());
    let raw_bytes: usize = second.iter().map(|(_, source)| source.len()).sum();
    assert_eq!(kept.raw_bytes(), raw_bytes as u64);
    assert_eq!((both.raw_bytes(), whole.raw_bytes()), (0, 0));
    // A segment of its own takes that of its neighbours.
    let beside = merged(&[(&other, &second)], &compressing(Some(dictionary.clone())));
    assert_eq!(beside.carried().unwrap().hash(), dictionary.hash());
    expect(&beside, &second);
}

#[test]
fn a_dictionary_that_no_longer_serves_is_replaced() {
    let old = birds(0..1000);
    let words = ["kernel", "socket", "buffer", "thread", "signal", "vector", "module", "symbol"];
    let line = |n: usize| {
        let word = |by: usize| words[n / by % words.len()];
        format!("<package><of>{}</of><needs>{}</needs><at>{n:08x}</at></package>", word(1), word(8))
    };
    let new = numbered(5000, (0..6000).map(|n| line(n).into_bytes()));
    let whole = merged(&[(&parse(file(&old)).unwrap(), &old)], &compressing(None));
    let before = whole.carried().unwrap();
    let both = merged(&[(&whole, &old), (&parse(file(&new)).unwrap(), &new)], &compressing(None));
    assert_ne!(both.carried().unwrap().hash(), before.hash());
    expect(&both, &old.iter().chain(&new).cloned().collect::<Vec<_>>());
    // Where two differ, the one with more documents under it stays.
    let other = merged(&[(&parse(file(&new)).unwrap(), &new)], &compressing(None));
    let joined = merged(&[(&whole, &old), (&other, &new)], &Merging::default());
    assert_eq!(joined.carried().unwrap().hash(), other.carried().unwrap().hash());
    expect(&joined, &old.iter().chain(&new).cloned().collect::<Vec<_>>());
}

#[test]
fn what_cannot_be_compressed_stays_as_it_is() {
    let mut random = StdRng::seed_from_u64(1);
    let mut noise = || (0..300).map(|_| random.random()).collect::<Vec<u8>>();
    let documents = numbered(0, (0..500).map(|_| noise()));
    let raw = parse(file(&documents)).unwrap();
    let tried = merged(&[(&raw, &documents)], &compressing(None));
    expect(&tried, &documents);
    assert!(tried.carried().is_none());
    assert_eq!((tried.raw_bytes(), tried.frame_bytes()), (0, raw.frame_bytes()));
}

/// A file of a few documents with a dictionary, and those documents.
fn small_file() -> (Vec<u8>, Vec<Document>) {
    let documents = birds(0..700);
    let whole = merged(&[(&parse(file(&documents)).unwrap(), &documents)], &compressing(None));
    let dead: Vec<u32> = (20..700).collect();
    let reader = segment(&documents, &dead);
    let small = merge(&[input(&whole, &reader)], &Merging::default(), Vec::new()).unwrap();
    (small, documents[..20].to_vec())
}

#[test]
fn a_damaged_byte_anywhere_is_an_error_or_the_right_answer_or_in_a_document() {
    let (small, documents) = small_file();
    let sources = parse(small.clone()).unwrap();
    assert!(sources.carried().is_some() && sources.docs() == 20);
    expect(&sources, &documents);
    let frames = sources.frame_bytes();
    let table = small.len() - 48 - 2 * (8 + 4 * 16);
    // Nobody holds it any more: it is prepared again, or refused.
    drop(sources);
    let longest = documents.iter().map(|(_, source)| source.len()).max().unwrap();
    for (at, flip) in (0..small.len()).flat_map(|at| [1, 0x80, 0xFF].map(|flip| (at, flip))) {
        let mut file = small.clone();
        file[at] ^= flip;
        let sources = match parse(file) {
            Ok(sources) => sources,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Corrupt);
                continue;
            }
        };
        assert!(!(frames..table).contains(&at), "a damaged dictionary is taken");
        for (doc, (_, source)) in (0..).zip(&documents) {
            match sources.read(doc) {
                Ok(read) if at < frames => assert!(read.len() <= 4 * longest, "{at}: {read:?}"),
                // The table is damaged: another part of the frames may be a frame, too.
                Ok(read) => assert!(read == source[..] || at < small.len() - 48, "{at}"),
                Err(error) => {
                    let text = error.to_string();
                    assert!(text.contains(&format!("has document [{doc}], which")), "{text}");
                    assert!(text.contains("the source file of segment ["), "{text}");
                }
            }
            drop(sources.id(doc));
        }
    }
}

/// Documents of every kind.
fn documents() -> impl Strategy<Value = Vec<Document>> {
    let source = prop_oneof![
        3 => (0..100_000_usize).prop_map(|n| birds(n..n + 1).remove(0).1),
        1 => prop::collection::vec(any::<u8>(), 0..600),
        1 => (any::<u8>(), 0..40_000_usize).prop_map(|(byte, count)| vec![byte; count]),
        1 => Just(Vec::new()),
    ];
    let id = prop_oneof![4 => "[a-z]{0,8}", 1 => "[a-z]{254,257}"];
    prop::collection::vec((id, source), 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn merges_of_all_versions_lose_nothing(
        parts in prop::collection::vec((documents(), 1..=5_u32, any::<u64>()), 1..5),
        compress in any::<bool>(),
    ) {
        let common = birds(0..800);
        let known = merged(&[(&parse(file(&common)).unwrap(), &common)], &compressing(None));
        let known = known.carried();
        let mut expected = Vec::new();
        let mut opened = Vec::new();
        for (documents, kind, dead) in parts {
            let dead = (0..).zip(&documents).map(|(doc, _)| doc).filter(|doc| dead >> doc & 1 == 1);
            let dead: Vec<u32> = dead.collect();
            let raw = parse(file(&documents)).unwrap();
            let sources = match kind {
                1 | 2 => parse(older(kind, &documents)).unwrap(),
                3 => raw,
                4 => merged(&[(&raw, &documents)], &compressing(None)),
                // With a dictionary, whatever it is worth.
                _ => {
                    let many: Vec<Document> = common.iter().chain(&documents).cloned().collect();
                    let whole = merged(&[(&parse(file(&many)).unwrap(), &many)], &compressing(None));
                    let first: Vec<u32> = (0..800).collect();
                    let reader = segment(&many, &first);
                    let input = input(&whole, &reader);
                    parse(merge(&[input], &Merging::default(), Vec::new()).unwrap()).unwrap()
                }
            };
            let living = (0..).zip(&documents).filter(|(doc, _)| !dead.contains(doc));
            expected.extend(living.map(|(_, document)| document.clone()));
            opened.push((sources, segment(&documents, &dead)));
        }
        let inputs: Vec<_> = opened.iter().map(|(sources, reader)| input(sources, reader)).collect();
        let output = merge(&inputs, &Merging { compress, dictionary: known }, Vec::new()).unwrap();
        let output = parse(output).unwrap();
        prop_assert_eq!(output.version(), VERSION);
        expect(&output, &expected);
        // All that is written again is compressed or has been tried.
        prop_assert!(!compress || output.raw_bytes() == 0);
    }
}

#[test]
fn what_a_file_holds_is_not_copied_to_be_read() {
    let documents = birds(0..3);
    let sources = parse(file(&documents)).unwrap();
    let (one, again): (Bytes, Bytes) = (sources.read(1).unwrap(), sources.read(1).unwrap());
    assert_eq!(one.as_ptr(), again.as_ptr());
}
