//! `egret check` over real folders: each kind of file is damaged, cut and removed, and what is said of
//! it is read.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use egret_aof::check::{Report, State};
use egret_aof::disk::FileDisk;
use egret_engine::batch::{Batch, Condition, WriteOp};
use egret_engine::{Checkpoint, Engine, EngineOptions, Index, IndexDefinition, Lsn};
use egret_server::app::App;
use egret_server::check::check;
use egret_server::config::Config;

fn open(folder: &Path) -> Engine {
    let open = || {
        Engine::open(EngineOptions {
            disk: Arc::new(FileDisk),
            folder: folder.to_owned(),
            indexing_budget_bytes: 1 << 20,
            limits: egret_engine::Limits::default(),
        })
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match open() {
            // What records statistics may hold a server's folder a moment longer.
            Err(error) if Instant::now() < deadline && error.to_string().contains("in use") => {
                std::thread::sleep(Duration::from_millis(1));
            }
            opened => return opened.unwrap(),
        }
    }
}

fn write(index: &Index, lsn: Option<u64>, ids: std::ops::Range<u32>, delete: Option<&str>) {
    let mut ops: Vec<WriteOp> = ids
        .map(|id| WriteOp::Upsert {
            id: id.to_string(),
            source: format!(r#"{{"n": {id}, "text": "word number {id}"}}"#).into(),
            condition: Condition::None,
        })
        .collect();
    let delete = delete.map(|id| WriteOp::Delete { id: id.to_owned(), condition: Condition::None });
    ops.extend(delete);
    let at = |lsn| Checkpoint { system_identifier: 7, timeline: 1, lsn: Lsn(lsn) };
    index.write(Batch { ops, checkpoint: lsn.map(at), ..Batch::default() }).unwrap();
}

const POSITION: &str =
    r#"{"format": 1, "system_identifier": 7, "timeline": 1, "slot": "s", "lsn": "0/5"}"#;
const LETTERS: &str = r#"{"letter": {"table": "public.t", "id": "7", "lsn": "0/5", "reason": "bad", "values": {}}}
{"letter": {"table": "public.t", "id": "8", "lsn": "0/5", "reason": "bad", "values": {}}}
"synced"
"#;

/// A data folder with a bit of everything.
fn fill(folder: &Path) {
    let config = Config { data: folder.to_owned(), ..Config::default() };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async { App::start(config).await.unwrap().stop().await.unwrap() });
    let engine = open(folder);
    let notes = engine.create_index("notes", IndexDefinition::default()).unwrap();
    let pipeline = Some("shop".to_owned());
    let definition = IndexDefinition { pipeline, ..IndexDefinition::default() };
    let table = engine.create_index("table", definition).unwrap();
    for (index, lsn) in [(&notes, None), (&table, Some(10))] {
        write(index, lsn, 0..5, None);
        index.flush().unwrap();
        write(index, lsn.map(|lsn| lsn + 10), 5..6, Some("1"));
        index.flush().unwrap();
    }
    (6..9).for_each(|id| write(&notes, None, id..id + 1, None));
    drop(engine);
    let pipeline = folder.join("pipelines/shop");
    std::fs::create_dir_all(&pipeline).unwrap();
    std::fs::write(pipeline.join("position.json"), POSITION).unwrap();
    std::fs::write(pipeline.join("dead_letters.jsonl"), LETTERS).unwrap();
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Every file below a folder, sorted.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { all.extend(files(&path)) } else { all.push(path) }
    }
    all.sort();
    all
}

#[derive(Debug, Clone, Copy)]
enum Damage {
    Flip,
    Cut,
    Remove,
}

impl Damage {
    fn apply(self, path: &Path) {
        let mut content = std::fs::read(path).unwrap();
        match self {
            Self::Flip => {
                let middle = content.len() / 2;
                content[middle] ^= 1;
                std::fs::write(path, content).unwrap();
            }
            Self::Cut => std::fs::write(path, &content[..content.len() / 2]).unwrap(),
            Self::Remove => std::fs::remove_file(path).unwrap(),
        }
    }
}

fn text(report: &Report) -> String {
    let lines: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

/// The folders of the two indexes by name.
fn index_folder(folder: &Path, name: &str) -> PathBuf {
    let engine = open(folder);
    let index = engine.index(name).unwrap();
    folder.join("indexes").join(index.uuid())
}

/// A filled folder to take copies of.
struct Template {
    folder: tempfile::TempDir,
    notes: PathBuf,
    table: PathBuf,
}

impl Template {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fill(folder.path());
        let of = |name| {
            let path = index_folder(folder.path(), name);
            path.strip_prefix(folder.path()).unwrap().to_owned()
        };
        let (notes, table) = (of("notes"), of("table"));
        Self { folder, notes, table }
    }

    fn copy(&self) -> tempfile::TempDir {
        let to = tempfile::tempdir().unwrap();
        copy(self.folder.path(), to.path());
        to
    }

    /// Damages the file of a folder whose name has this part, and expects one finding to name the
    /// file and `expected`; then repairs, and expects the rest to be damaged as `left` says.
    fn check(&self, below: &Path, part: &str, damage: Damage, expected: &str, left: bool) {
        let context = format!("{damage:?} {} {part}", below.display());
        let data = self.copy();
        let all = files(&data.path().join(below));
        let named = |path: &&PathBuf| path.to_string_lossy().contains(part);
        let file = all.iter().find(named).unwrap_or_else(|| panic!("{context}: {all:?}"));
        damage.apply(file);
        let report = check(data.path(), false, |_, _| {}).unwrap();
        let found = text(&report);
        assert!(!report.is_whole(), "{context}: {found}");
        assert!(found.contains(expected), "{context}: {found}");
        let damaged = report.findings.iter().filter(|finding| finding.state == State::Damaged);
        assert!(damaged.clone().all(|it| it.file.starts_with(file.parent().unwrap())), "{found}");
        let repaired = check(data.path(), true, |_, _| {}).unwrap();
        assert_eq!(repaired.is_whole(), !left, "{context}: {}", text(&repaired));
        let again = check(data.path(), false, |_, _| {}).unwrap();
        assert_eq!(again.is_whole(), !left, "{context}: {}", text(&again));
    }
}

#[test]
fn a_whole_folder_is_whole() {
    let template = Template::new();
    let data = template.copy();
    let mut read = 0;
    let report = check(data.path(), false, |_, bytes| read += bytes).unwrap();
    assert!(report.is_whole(), "{}", text(&report));
    assert!(report.files > 15 && read == report.bytes, "{report:?}");
    let engine = open(data.path());
    let error = check(data.path(), true, |_, _| {}).unwrap_err();
    assert!(error.reason().contains("is in use"), "{error}");
    drop(engine);
    let empty = tempfile::tempdir().unwrap();
    let error = check(empty.path(), false, |_, _| {}).unwrap_err();
    assert!(error.reason().contains("is no data folder of Egret"), "{error}");
}

#[test]
fn damage_in_an_index_is_told_and_never_papered_over() {
    use Damage::{Cut, Flip, Remove};
    let template = Template::new();
    let notes = &template.notes;
    for damage in [Flip, Cut, Remove] {
        template.check(notes, "commit.json", damage, "DAMAGED: index [notes], commit, ", true);
        for part in [".idx", ".term", ".fast", ".fieldnorm", ".source"] {
            template.check(notes, part, damage, "DAMAGED: index [notes], segment, ", true);
        }
        template.check(notes, ".del", damage, "index [notes], deleted documents, ", true);
    }
    template.check(notes, "manifest", Flip, "DAMAGED: index [notes], translog, ", false);
    template.check(notes, "increment", Flip, "lost, in [", false);
    template.check(notes, "increment", Remove, "the file is missing", false);
    let catalog = Path::new("");
    for damage in [Flip, Cut, Remove] {
        template.check(catalog, "catalog.json", damage, "DAMAGED: catalog, catalog, ", true);
    }
}

#[test]
fn what_can_be_made_again_is_dropped() {
    use Damage::{Cut, Flip, Remove};
    let template = Template::new();
    for damage in [Flip, Cut, Remove] {
        for part in ["commit.json", ".idx", ".del"] {
            let expected = "with --repair, the index is dropped";
            template.check(&template.table, part, damage, expected, false);
        }
    }
    let pipelines = Path::new("pipelines");
    let again = "the tables are copied again";
    template.check(pipelines, "position.json", Cut, again, false);
    template.check(pipelines, "dead_letters.jsonl", Flip, "lines are taken out", false);
    template.check(Path::new("cache"), "secret", Flip, "the cache is removed", false);
    template.check(Path::new("cache"), "manifest", Flip, "result cache, log, ", false);
    template.check(Path::new("metrics"), "manifest", Cut, "metrics, log, ", false);
    template.check(Path::new(""), "node.json", Cut, "the node gets new names", false);
}

/// A start refuses what a check calls damaged, rather than serve less than was acknowledged.
#[test]
fn a_start_does_not_take_missing_files_for_new_ones() {
    let template = Template::new();
    let data = template.copy();
    let translog = data.path().join(&template.notes).join("translog");
    std::fs::remove_dir_all(&translog).unwrap();
    let report = check(data.path(), true, |_, _| {}).unwrap();
    assert!(text(&report).contains("index [notes], translog, "), "{}", text(&report));
    let engine = open(data.path());
    assert!(engine.damaged()[0].1.contains("is missing"), "{:?}", engine.damaged());
    assert!(engine.index("table").is_ok());
    drop(engine);
    let data = template.copy();
    std::fs::remove_file(data.path().join("catalog.json")).unwrap();
    let options = EngineOptions {
        disk: Arc::new(FileDisk),
        folder: data.path().to_owned(),
        indexing_budget_bytes: 1 << 20,
        limits: egret_engine::Limits::default(),
    };
    let error = Engine::open(options).unwrap_err();
    assert!(error.message().contains("is missing, but"), "{error}");
    assert!(data.path().join(&template.notes).exists());
}
