//! The real `elasticsearch` and `opensearch-py` clients against a real Egret: create, the bulk
//! helper, search, delete. Their scripts are in `scripts/clients`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use egret_tests::egret::{Egret, EgretOptions};

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts")
}

/// The Python that has the clients, made at its first use.
fn python() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let mut ensure = Command::new(scripts().join("ensure-clients.sh"));
        let output = ensure.stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
    })
}

/// Runs a script with the address of a new Egret.
fn check(script: &str) {
    let egret = Egret::start(EgretOptions::default());
    let mut command = Command::new(python());
    command.arg(scripts().join("clients").join(script)).arg(egret.url(""));
    let output = command.stdin(Stdio::null()).output().unwrap();
    let (out, errors) = (output.stdout, String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out == b"done\n", "{script}: {errors}");
}

#[test]
fn the_elasticsearch_client() {
    check("elasticsearch_client.py");
}

#[test]
fn the_opensearch_client() {
    check("opensearch_client.py");
}
