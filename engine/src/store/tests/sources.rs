//! Sources in the life of an index: compressed by merges, read after them, upgraded, damaged.

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use egret_aof::check::{Check, Report};
use egret_aof::disk::{Disk, create_folder_durably, replace_file};

use super::*;
use crate::catalog::check::DataFolder;
use crate::index::ForceMerge;
use crate::store::source::SourceReader;

/// A data folder whose sources have version 2, as it was written then: paths and contents.
const FOLDER_2: &[u8] = include_bytes!("folders/sources_2.json.zst");

fn bird(n: u32) -> Value {
    let family = ["Ardeidae", "Gruidae", "Anatidae"][(n % 3) as usize];
    json!({
        "title": format!("bird {n}"), "family": family, "wingspan_mm": 300 + n * 7 % 900,
        "habitat": "wetlands, rivers and lakes of the lowlands", "migrates": n.is_multiple_of(2),
    })
}

/// What the folder holds.
fn birds_2() -> BTreeMap<String, Value> {
    let mut birds: BTreeMap<_, _> = (0..200).map(|n| (format!("b{n}"), bird(n))).collect();
    for n in [3, 50, 150] {
        birds.remove(&format!("b{n}"));
    }
    birds.insert("b7".to_owned(), bird(7007));
    birds
}

fn unpack(packed: &[u8]) -> SimDisk {
    let disk = SimDisk::new();
    let files = zstd::decode_all(packed).unwrap();
    let files: BTreeMap<String, String> = serde_json::from_slice(&files).unwrap();
    for (path, content) in files {
        let path = Path::new("/data").join(path);
        create_folder_durably(&disk, path.parent().unwrap()).unwrap();
        replace_file(&disk, &path, &STANDARD.decode(content).unwrap()).unwrap();
    }
    disk
}

fn expect(index: &Index, expected: &BTreeMap<String, Value>) {
    let snapshot = index.snapshot();
    let mut found = BTreeMap::new();
    for segment in snapshot.segments() {
        for doc in segment.reader().doc_ids_alive() {
            let source = serde_json::from_slice(&segment.source(doc).unwrap()).unwrap();
            found.insert(segment.document_id(doc).unwrap(), source);
        }
    }
    assert_eq!(&found, expected);
    for (id, source) in expected.iter().take(20) {
        assert_eq!(published(index, id).as_ref(), Some(source));
    }
}

/// The versions of the source files of what is published.
fn versions(index: &Index) -> Vec<u32> {
    let snapshot = index.snapshot();
    let version = |segment: &crate::snapshot::Segment| {
        SourceReader::open(segment.reader()).unwrap().version()
    };
    snapshot.segments().iter().map(version).collect()
}

fn check(disk: &SimDisk) -> Report {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let mut progress = |_: &Path, _| ();
    let mut check = Check::new(Arc::clone(&disk), false, &mut progress);
    DataFolder::lock(disk, Path::new("/data")).unwrap().check(&mut check);
    check.finish()
}

#[test]
fn a_folder_with_older_sources_is_served_and_brought_up_to_date() {
    let disk = unpack(FOLDER_2);
    assert!(check(&disk).is_whole());
    let engine = open(&disk);
    let index = engine.index("birds").unwrap();
    let mut expected = birds_2();
    expect(&index, &expected);
    assert_eq!(versions(&index), [2; 5]);
    // New segments beside old ones, and a change of an old document.
    write_one(&index, upsert("b300", &bird(300))).unwrap();
    write_one(&index, patch("b8", &json!({"seen": true}))).unwrap();
    index.flush().unwrap();
    expected.insert("b300".to_owned(), bird(300));
    expected.get_mut("b8").unwrap()["seen"] = json!(true);
    expect(&index, &expected);
    index.force_merge(ForceMerge::Down(1)).unwrap();
    expect(&index, &expected);
    assert_eq!(versions(&index), [3]);
    write_one(&index, delete("b9")).unwrap();
    expected.remove("b9");
    index.flush().unwrap();
    drop((index, engine));
    let disk = disk.power_cut(1);
    assert!(check(&disk).is_whole());
    let engine = open(&disk);
    let index = engine.index("birds").unwrap();
    expect(&index, &expected);
    assert_eq!(versions(&index), [3]);
}

fn source_bytes(index: &Index) -> u64 {
    index.segments().iter().map(|segment| segment.files["source"]).sum()
}

#[test]
fn merges_compress_sources_and_damage_to_them_is_noticed() {
    let disk = SimDisk::new();
    let engine = open(&disk);
    let index = create(&engine, "i");
    let mut expected = BTreeMap::new();
    for part in 0..2 {
        let numbers = part * 500..(part + 1) * 500;
        write(&index, numbers.clone().map(|n| upsert(&n.to_string(), &bird(n))).collect());
        expected.extend(numbers.map(|n| (n.to_string(), bird(n))));
        index.flush().unwrap();
    }
    let raw_bytes = source_bytes(&index);
    index.force_merge(ForceMerge::Down(1)).unwrap();
    let compressed = source_bytes(&index);
    assert!(compressed * 2 < raw_bytes, "{compressed} of {raw_bytes}");
    expect(&index, &expected);
    // What the writer reads by itself is compressed, too.
    write_one(&index, patch("17", &json!({"seen": 1}))).unwrap();
    index.flush().unwrap();
    expected.get_mut("17").unwrap()["seen"] = json!(1);
    expect(&index, &expected);
    let file = format!("{}.source", index.segments()[0].uuid);
    let path = Path::new("/data/indexes").join(index.uuid()).join(file);
    drop((index, engine));
    let disk = disk.power_cut(1);
    assert!(check(&disk).is_whole());
    let content = disk.read(&path).unwrap();
    for at in (0..content.len()).step_by(content.len() / 40) {
        let mut damaged = content.clone();
        damaged[at] ^= 0x10;
        disk.damage(&path, &damaged).unwrap();
        let report = check(&disk);
        assert!(report.findings.iter().any(|finding| finding.file == path), "{at}: {report:?}");
        // Whatever is read of it: no panic, and all else is served.
        let engine = open(&disk);
        let index = engine.index("i").unwrap();
        for id in expected.keys() {
            drop(index.document(id));
        }
        assert_eq!(published(&index, "17").as_ref(), expected.get("17"));
    }
    disk.damage(&path, &content).unwrap();
    let engine = open(&disk);
    expect(&engine.index("i").unwrap(), &expected);
}
