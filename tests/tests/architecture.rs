//! The house rules that a compiler does not check: which crate may import which, how long a source
//! file may be, and that each says at its top what it is.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use cargo_metadata::{DependencyKind, MetadataCommand};

/// Which crates of the workspace each may import. The tests may import all.
const ALLOWED: &[(&str, &[&str])] = &[
    ("egret-analyzers", &[]),
    ("egret-aof", &[]),
    ("egret-results", &["egret-aof"]),
    ("egret-metrics", &["egret-aof"]),
    ("egret-engine", &["egret-analyzers", "egret-aof"]),
    ("egret-cdc", &["egret-aof", "egret-engine"]),
    (
        "egret-server",
        &[
            "egret-analyzers",
            "egret-aof",
            "egret-cdc",
            "egret-engine",
            "egret-metrics",
            "egret-results",
        ],
    ),
];

/// Crates that stand for knowledge which only one room has: the search library, HTTP, PostgreSQL.
const ONE_ROOM: &[(&str, &str)] = &[
    ("tantivy", "egret-engine"),
    ("axum", "egret-server"),
    ("tower-http", "egret-server"),
    ("tokio-postgres", "egret-cdc"),
    ("pgwire-replication", "egret-cdc"),
];

/// The crate that may use everything.
const TESTS: &str = "egret-tests";

/// A file fits one sitting: about 500 lines, with a little room.
const MAX_LINES: usize = 550;

/// A crate and what it imports outside its tests.
type Imports = BTreeMap<String, Vec<String>>;

fn imports_of_workspace() -> Imports {
    let mut command = MetadataCommand::new();
    let metadata = command.manifest_path(root().join("Cargo.toml")).no_deps().exec().unwrap();
    let packages = metadata.packages;
    let imports = packages.into_iter().map(|package| {
        let dependencies = package.dependencies.iter();
        let outside_tests = dependencies.filter(|d| d.kind != DependencyKind::Development);
        (package.name.to_string(), outside_tests.map(|d| d.name.clone()).collect())
    });
    imports.collect()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// What breaks the rules for imports.
fn forbidden(imports: &Imports) -> Vec<String> {
    let mut found = Vec::new();
    for (name, imported) in imports.iter().filter(|(name, _)| *name != TESTS) {
        let Some((_, allowed)) = ALLOWED.iter().find(|(known, _)| known == name) else {
            found.push(format!("{name} is not in the table of rooms"));
            continue;
        };
        for other in imported {
            let of_workspace = imports.contains_key(other);
            let elsewhere = ONE_ROOM.iter().any(|(crate_, room)| crate_ == other && room != name);
            if (of_workspace && !allowed.contains(&other.as_str())) || elsewhere {
                found.push(format!("{name} must not import {other}"));
            }
        }
    }
    found
}

/// What is wrong with a source file.
fn ill_formed(path: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let lines = text.lines().count();
    if lines > MAX_LINES {
        found.push(format!("{} has {lines} lines, more than {MAX_LINES}", path.display()));
    }
    if !text.starts_with("//!") {
        found.push(format!("{} does not begin with //!", path.display()));
    }
    found
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') && name != "node_modules" {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn crates_import_only_what_the_design_allows() {
    let imports = imports_of_workspace();
    for (name, _) in ALLOWED {
        assert!(imports.contains_key(*name), "{name} is missing from the workspace");
    }
    assert_eq!(forbidden(&imports), Vec::<String>::new());
}

#[test]
fn sources_are_short_and_say_what_they_are() {
    let mut paths = Vec::new();
    sources(&root(), &mut paths);
    assert!(paths.len() > ALLOWED.len(), "sources were not found: {paths:?}");
    let found = paths.iter().flat_map(|path| ill_formed(path, &fs::read_to_string(path).unwrap()));
    assert_eq!(found.collect::<Vec<_>>(), Vec::<String>::new());
}

#[test]
fn a_forbidden_import_is_found() {
    let check = |name: &str, import: &str, expected: &[&str]| {
        let mut imports = imports_of_workspace();
        imports.entry(name.to_owned()).or_default().push(import.to_owned());
        assert_eq!(forbidden(&imports), expected, "{name} -> {import}");
    };
    check("egret-engine", "egret-server", &["egret-engine must not import egret-server"]);
    check("egret-aof", "egret-results", &["egret-aof must not import egret-results"]);
    check("egret-server", "tantivy", &["egret-server must not import tantivy"]);
    check("egret-extra", "serde", &["egret-extra is not in the table of rooms"]);
    check("egret-cdc", "egret-engine", &[]);
    check("egret-tests", "tantivy", &[]);
}

#[test]
fn an_ill_formed_source_is_found() {
    let path = Path::new("x.rs");
    assert_eq!(ill_formed(path, "//! What it is.\n"), Vec::<String>::new());
    assert_eq!(ill_formed(path, "fn f() {}\n"), ["x.rs does not begin with //!"]);
    let long = format!("//! Long.\n{}", "\n".repeat(MAX_LINES));
    assert_eq!(ill_formed(path, &long), ["x.rs has 551 lines, more than 550"]);
}
