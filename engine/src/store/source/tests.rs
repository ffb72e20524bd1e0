//! Files of sources: written, read, torn, and of the version before.

use tantivy::schema::{FAST, STRING, Schema};
use tantivy::{Index, IndexWriter, doc};

use super::*;

/// A file in which the id of the document at `n` is `n` times an x.
fn file(sources: &[Vec<u8>]) -> Vec<u8> {
    let mut frames = Frames::new(Vec::new());
    for (place, source) in sources.iter().enumerate() {
        frames.push(&"x".repeat(place), source).unwrap();
    }
    frames.finish().unwrap()
}

/// As version 1 wrote it.
fn file_without_ids(sources: &[&[u8]]) -> Vec<u8> {
    let mut frames = Frames::new(Vec::new());
    for source in sources {
        frames.push_frame(&[&[RAW], source]).unwrap();
    }
    let mut file = frames.finish().unwrap();
    let version = file.len() - 4;
    file[version..].copy_from_slice(&WITHOUT_IDS.to_le_bytes());
    file
}

#[test]
fn every_document_comes_back() {
    for count in [0, 1, 15, 16, 17, 100, 300] {
        let sources: Vec<Vec<u8>> = (0..count).map(|n| vec![b'x'; n * 7 % 50]).collect();
        let reader = SourceReader::parse(OwnedBytes::new(file(&sources))).unwrap();
        for (place, source) in sources.iter().enumerate() {
            let doc = u32::try_from(place).unwrap();
            assert_eq!(&reader.read(doc).unwrap()[..], &source[..]);
            assert_eq!(reader.id(doc).unwrap().map(str::len), Some(place));
        }
        assert!(reader.read(u32::try_from(count).unwrap()).is_err());
    }
}

#[test]
fn a_torn_file_is_an_error() {
    let whole = file(&(0..40).map(|n| vec![b'a'; n]).collect::<Vec<_>>());
    for length in 0..whole.len() {
        assert!(SourceReader::parse(OwnedBytes::new(whole[..length].to_vec())).is_err());
    }
}

#[test]
fn damaged_frames_and_newer_files_are_errors() {
    let mut longer = file(&[b"{}".to_vec()]);
    longer[1] = 200;
    let reader = SourceReader::parse(OwnedBytes::new(longer)).unwrap();
    assert!(reader.read(0).is_err());
    assert!(reader.id(0).is_err());
    let mut newer = file(&[b"{}".to_vec()]);
    let version = newer.len() - 4;
    newer[version..].copy_from_slice(&(VERSION + 1).to_le_bytes());
    let error = SourceReader::parse(OwnedBytes::new(newer)).unwrap_err();
    assert!(error.to_string().contains("newer than [2]"), "{error}");
}

#[test]
fn a_file_without_ids_is_read_and_brought_up_to_date() {
    let mut schema = Schema::builder();
    let id = schema.add_text_field(ID, STRING | FAST);
    let index = Index::create_in_ram(schema.build());
    let mut writer: IndexWriter = index.writer_with_num_threads(1, 15_000_000).unwrap();
    for text in ["b", "a", "c"] {
        writer.add_document(doc!(id => text)).unwrap();
    }
    writer.commit().unwrap();
    let searcher = index.reader().unwrap().searcher();
    let segment = searcher.segment_reader(0);
    let older = file_without_ids(&[b"{1}", b"{2}", b"{3}"]);
    let older = SourceReader::parse(OwnedBytes::new(older)).unwrap();
    assert_eq!(older.id(1).unwrap(), None);
    assert_eq!(&older.read(1).unwrap()[..], b"{2}");
    let mut frames = Frames::new(Vec::new());
    older.copy_to(segment, [0, 2].into_iter(), &mut frames).unwrap();
    let newer = SourceReader::parse(OwnedBytes::new(frames.finish().unwrap())).unwrap();
    assert_eq!(newer.id(0).unwrap(), Some("b"));
    assert_eq!(newer.id(1).unwrap(), Some("c"));
    assert_eq!(&newer.read(1).unwrap()[..], b"{3}");
}
