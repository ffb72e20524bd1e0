//! Commands of the program, run as a user runs them.

use std::process::{Command, Stdio};

use crate::egret::program;

/// What a command came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    /// Whether its exit status was 0.
    pub succeeded: bool,
    /// What it printed.
    pub printed: String,
    /// What it said of itself, on the standard error.
    pub said: String,
}

/// Runs the program with arguments to its end. Blocking.
pub fn run(arguments: &[&str]) -> Ran {
    let mut command = Command::new(program());
    command.args(arguments).stdin(Stdio::null()).env_remove("EGRET_POSTGRES_URL");
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ran {
        succeeded: output.status.success(),
        printed: text(&output.stdout),
        said: text(&output.stderr),
    }
}
