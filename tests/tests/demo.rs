//! `make demo`, doing by itself the three things that it proposes: the real script, from the package
//! catalogue to the search after a `kill -9`. It leaves nothing behind.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use egret_tests::egret::program;

/// Runs the demo in a temporary folder of its own; what it printed.
fn demo(arguments: &[&Path], environment: &[(&str, &str)]) -> String {
    let folder = tempfile::tempdir().unwrap();
    // PostgreSQL's unprivileged user must be able to pass.
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711)).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/demo.sh");
    let mut command = Command::new(script);
    command.args(arguments).stdin(Stdio::null());
    command.env("DEMO_ONCE", "1").env("EGRET_BIN", program()).env("TMPDIR", folder.path());
    command.envs(environment.iter().copied());
    let output = command.output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{printed}\n{errors}", output.status);
    let left: Vec<PathBuf> = folder.path().read_dir().unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(left, Vec::<PathBuf>::new(), "files remain");
    assert_eq!(processes_naming(folder.path()), Vec::<String>::new(), "processes remain");
    printed
}

/// The command lines of processes that name a folder.
fn processes_naming(folder: &Path) -> Vec<String> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.contains(folder.to_str().unwrap())).collect()
}

#[test]
fn the_demo_searches_this_machines_packages() {
    let printed = demo(&[], &[]);
    assert!(printed.contains("3. after kill -9 and a restart"), "{printed}");
}

#[test]
fn the_demo_searches_a_file_of_ones_own() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("birds.jsonl");
    let lines = [
        r#"{"id": "a", "title": "White heron", "weight": 1, "tags": ["tall"], "shy": true}"#,
        "",
        r#"{"id": "b", "title": "Cattle egret, the \"buff-backed\" heron \\ Bubulcus", "weight": 0.4}"#,
        r#"{"id": "c", "title": "Grey crane", "weight": null, "nested": {"legs": 2}}"#,
    ];
    fs::write(&file, lines.join("\n")).unwrap();
    // The port that it would take of itself is the other's, which runs at the same time.
    let printed = demo(&[&file], &[("LISTEN", "127.0.0.1:0")]);
    assert!(printed.contains("1. a search for \"egret\" finds 1"), "{printed}");
    assert!(printed.contains("still finds 2 among 3"), "{printed}");
}
