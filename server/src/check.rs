//! `egret check`: has every room verify its files in a data folder, and tells what was found.

use std::fmt::Write;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use egret_aof::check::{Check, Finding, Report, State};
use egret_aof::disk::{Disk, FileDisk};
use egret_engine::catalog::check::DataFolder;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::cli::{CheckFolder, print};
use crate::error::{Error, Kind, Result};
use crate::identity;

/// Runs the command. Fails where anything is damaged and stays so.
pub fn run(options: &CheckFolder) -> Result<()> {
    let bar = bar(&options.data);
    let report = check(&options.data, options.repair, |path, bytes| {
        bar.inc(bytes);
        bar.set_message(path.display().to_string());
    })?;
    bar.finish_and_clear();
    print(&if options.json { to_json(&report) } else { to_text(&report) })?;
    if report.is_whole() {
        return Ok(());
    }
    let reason = format!("[{}] is damaged", options.data.display());
    Err(Error::new(Kind::Engine(egret_engine::ErrorKind::Corrupt), reason))
}

/// Has every room verify its files, and repair them if wanted. `progress` is told of each file and
/// the bytes read of it. Refused where a server has the folder open.
pub fn check(folder: &Path, repair: bool, mut progress: impl FnMut(&Path, u64)) -> Result<Report> {
    let folder = std::path::absolute(folder).map_err(|error| {
        let reason = format!("cannot open {}: {error}", folder.display());
        Error::new(Kind::Configuration, reason).with_source(error)
    })?;
    let disk: Arc<dyn Disk> = Arc::new(FileDisk);
    let data = DataFolder::lock(Arc::clone(&disk), &folder)?;
    let mut check = Check::new(Arc::clone(&disk), repair, &mut progress);
    data.check(&mut check);
    let pipelines = folder.join("pipelines");
    for name in disk.list(&pipelines).unwrap_or_default() {
        check.begin(format!("pipeline [{name}]"));
        egret_cdc::check::check(&mut check, &pipelines.join(name));
    }
    egret_results::check(&mut check, &folder.join("cache"));
    egret_metrics::check(&mut check, &folder.join("metrics"));
    identity::check(&mut check, &folder);
    Ok(check.finish())
}

/// What was found, a line for each finding and one for the whole.
fn to_text(report: &Report) -> String {
    let mut text = String::new();
    for finding in &report.findings {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{finding}");
    }
    let count = |state| report.findings.iter().filter(|finding| finding.state == state).count();
    let Report { files, bytes, .. } = report;
    let _ = write!(text, "{files} files, {} read: ", HumanBytes(*bytes));
    let (damaged, repaired) = (count(State::Damaged), count(State::Repaired));
    let _ = match (damaged, repaired) {
        (0, 0) => writeln!(text, "nothing is damaged"),
        (0, _) => writeln!(text, "{repaired} damages repaired, none left"),
        (_, 0) => writeln!(text, "{damaged} damages"),
        _ => writeln!(text, "{repaired} damages repaired, {damaged} left"),
    };
    text
}

fn to_json(report: &Report) -> String {
    let finding = |finding: &Finding| -> Value {
        let Finding { state, owner, part, file, problem, remedy } = finding;
        let state = match state {
            State::Harmless => "harmless",
            State::Damaged => "damaged",
            State::Repaired => "repaired",
        };
        let file = file.display().to_string();
        json!({"state": state, "owner": owner, "part": part, "file": file, "problem": problem,
               "remedy": remedy})
    };
    let findings: Vec<Value> = report.findings.iter().map(finding).collect();
    let Report { files, bytes, .. } = report;
    let whole = report.is_whole();
    format!("{}\n", json!({"files": files, "bytes": bytes, "whole": whole, "findings": findings}))
}

/// A bar in a terminal, nothing elsewhere.
fn bar(folder: &Path) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let template =
        "checking {bar:30} {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left {wide_msg}";
    let style = ProgressStyle::with_template(template);
    ProgressBar::new(size(folder))
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Bytes of all files in a folder; for a bar only, so what cannot be read counts nothing.
fn size(folder: &Path) -> u64 {
    let mut folders: Vec<PathBuf> = vec![folder.to_owned()];
    let mut bytes = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => folders.push(entry.path()),
                Ok(metadata) => bytes += metadata.len(),
                Err(_) => {}
            }
        }
    }
    bytes
}
