//! Verifying a data folder: each room looks at its own files through a [`Check`], which counts them,
//! gathers what is found, and says whether to repair it. What is repaired, and how, is the room's
//! decision; a log is verified and repaired here.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{Disk, FileBytes};
use crate::log::{Log, LogOptions, Lost, Record, Recovery, RecoveryReport};
use crate::{BoxError, Error, ErrorKind};

/// What became of something that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// As a crash leaves it: the next start puts it right, and nothing acknowledged is missing.
    Harmless,
    /// It is wrong, and was left as it is.
    Damaged,
    /// It was wrong, and is put right as far as that is possible.
    Repaired,
}

/// Something in a data folder that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What became of it.
    pub state: State,
    /// Whose file it is, as `index [name]`.
    pub owner: String,
    /// What the file is for, as `translog`.
    pub part: &'static str,
    /// The file or folder.
    pub file: PathBuf,
    /// What is wrong.
    pub problem: String,
    /// What was done about it, or what can be done.
    pub remedy: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { state, owner, part, file, problem, remedy } = self;
        let state = match state {
            State::Harmless => "harmless",
            State::Damaged => "DAMAGED",
            State::Repaired => "repaired",
        };
        write!(f, "{state}: {owner}, {part}, {}: {problem}; {remedy}", file.display())
    }
}

/// What a whole check says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Files read.
    pub files: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Everything found, in the order of reading.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Whether nothing is damaged (any more).
    pub fn is_whole(&self) -> bool {
        self.findings.iter().all(|finding| finding.state != State::Damaged)
    }
}

/// A check under way.
pub struct Check<'a> {
    disk: Arc<dyn Disk>,
    repair: bool,
    progress: &'a mut dyn FnMut(&Path, u64),
    owner: String,
    report: Report,
}

impl<'a> Check<'a> {
    /// A check that changes nothing unless it is to `repair`. `progress` is told of every file that
    /// was read, with the bytes read of it.
    pub fn new(disk: Arc<dyn Disk>, repair: bool, progress: &'a mut dyn FnMut(&Path, u64)) -> Self {
        Self { disk, repair, progress, owner: String::new(), report: Report::default() }
    }

    /// Where the files are.
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// Says whose files come next.
    pub fn begin(&mut self, owner: impl Into<String>) {
        self.owner = owner.into();
    }

    /// Reads a file; one that cannot be read is found damaged.
    pub fn read(&mut self, part: &'static str, path: &Path) -> Option<FileBytes> {
        match self.disk.map(path) {
            Ok(bytes) => {
                self.count(path, bytes.len() as u64);
                Some(bytes)
            }
            Err(error) => {
                let missing = error.kind() == std::io::ErrorKind::NotFound;
                let problem = if missing {
                    "is missing".to_owned()
                } else {
                    format!("cannot be read: {error}")
                };
                self.damaged(part, path, problem, "not repaired");
                None
            }
        }
    }

    /// Says that a file was read.
    pub fn count(&mut self, path: &Path, bytes: u64) {
        self.report.files += 1;
        self.report.bytes += bytes;
        (self.progress)(path, bytes);
    }

    /// Says that something is wrong and stays so; `remedy` tells what can be done.
    pub fn damaged(
        &mut self,
        part: &'static str,
        file: &Path,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.find(State::Damaged, part, file, problem.into(), remedy.into());
    }

    /// Says that a crash has left something that does no harm.
    pub fn harmless(&mut self, part: &'static str, file: &Path, problem: impl Into<String>) {
        let remedy = "the next start puts it right".to_owned();
        self.find(State::Harmless, part, file, problem.into(), remedy);
    }

    /// How much was found until now, for [`Check::settle`].
    pub fn mark(&self) -> usize {
        self.report.findings.len()
    }

    /// Does what puts everything right that was found damaged since the mark, where there is any and
    /// this check repairs; `remedy` says what that is.
    pub fn settle(
        &mut self,
        mark: usize,
        remedy: &str,
        repair: impl FnOnce(&dyn Disk) -> std::io::Result<()>,
    ) {
        let since = self.report.findings.iter_mut().skip(mark);
        let mut damaged = since.filter(|finding| finding.state == State::Damaged).peekable();
        if damaged.peek().is_none() {
            return;
        }
        let repaired = self.repair.then(|| repair(self.disk.as_ref()));
        for finding in damaged {
            finding.remedy = match &repaired {
                None => format!("with --repair, {remedy}"),
                Some(Ok(())) => remedy.to_owned(),
                Some(Err(error)) => format!("not repaired: {error}"),
            };
            if let Some(Ok(())) = repaired {
                finding.state = State::Repaired;
            }
        }
    }

    fn find(
        &mut self,
        state: State,
        part: &'static str,
        file: &Path,
        problem: String,
        remedy: String,
    ) {
        let (owner, file) = (self.owner.clone(), file.to_path_buf());
        self.report.findings.push(Finding { state, owner, part, file, problem, remedy });
    }

    /// Reads a log to its end, each record through `replay`. Damage is repaired by skipping it, and
    /// what that loses is said.
    pub fn log(
        &mut self,
        part: &'static str,
        folder: &Path,
        mut replay: impl FnMut(Record<'_>) -> Result<(), BoxError>,
    ) {
        let disk = Arc::clone(&self.disk);
        match Log::inspect(disk.as_ref(), folder, Recovery::Strict, &mut replay) {
            Ok(report) => {
                self.count(folder, report.bytes);
                self.note_tails(part, &report);
                for lost in &report.lost {
                    self.harmless(
                        part,
                        &lost.file,
                        format!("{}, as an earlier start said", lost_text(lost)),
                    );
                }
            }
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                self.damaged_log(part, folder, &error);
            }
            Err(error) => self.damaged(part, folder, reason(&error), "not repaired"),
        }
    }

    fn note_tails(&mut self, part: &'static str, report: &RecoveryReport) {
        for tail in &report.torn_tails {
            let problem = format!(
                "ends in [{}] half-written bytes at byte [{}]: nothing acknowledged was there",
                tail.bytes, tail.offset
            );
            self.harmless(part, &tail.file, problem);
        }
    }

    fn damaged_log(&mut self, part: &'static str, folder: &Path, error: &Error) {
        let inspected = Log::inspect(self.disk.as_ref(), folder, Recovery::Repair, |_| Ok(()));
        let report = match inspected {
            Ok(report) => report,
            Err(second) => return self.damaged(part, folder, reason(error), reason(&second)),
        };
        self.count(folder, report.bytes);
        let repaired = if self.repair {
            let options = LogOptions { recovery: Recovery::Repair, ..LogOptions::default() };
            Log::open(Arc::clone(&self.disk), folder, options, |_| Ok(())).map(drop)
        } else {
            Ok(())
        };
        let (state, remedy) = match repaired {
            Ok(()) if self.repair => {
                (State::Repaired, "skipped; the records after it are kept".to_owned())
            }
            Ok(()) => {
                (State::Damaged, "--repair skips it and keeps the records after it".to_owned())
            }
            Err(error) => (State::Damaged, format!("not repaired: {}", reason(&error))),
        };
        if report.manifest_rebuilt {
            self.find(state, part, folder, reason(error), remedy.clone());
        }
        for lost in &report.lost {
            self.find(state, part, &lost.file, lost_text(lost), remedy.clone());
        }
        if report.lost.is_empty() && !report.manifest_rebuilt {
            self.find(state, part, folder, reason(error), remedy);
        }
    }

    /// Ends the check.
    pub fn finish(self) -> Report {
        self.report
    }
}

impl fmt::Debug for Check<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Check").field("report", &self.report).finish_non_exhaustive()
    }
}

fn lost_text(lost: &Lost) -> String {
    let Lost { offset, bytes, first_sequence, records, reason, .. } = lost;
    let last = first_sequence.saturating_add(*records).saturating_sub(1);
    let which = match records {
        0 => format!("what followed record [{}]", first_sequence.saturating_sub(1)),
        1 => format!("record [{first_sequence}]"),
        _ => format!("records [{first_sequence}] to [{last}]"),
    };
    format!("{reason} at byte [{offset}]: {which} lost, in [{bytes}] bytes")
}

/// An error with everything that led to it.
fn reason(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(deeper) = cause {
        text.push_str(": ");
        text.push_str(&deeper.to_string());
        cause = deeper.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::sim::SimDisk;

    fn write(disk: &SimDisk) -> PathBuf {
        let folder = Path::new("/log");
        let (log, _) =
            Log::open(Arc::new(disk.clone()), folder, LogOptions::default(), |_| Ok(())).unwrap();
        for n in 0..10_u8 {
            log.append(1, &[n; 20]).unwrap();
            log.commit().unwrap();
        }
        folder.join("increment-0000000001.aof")
    }

    fn checked(disk: &SimDisk, repair: bool) -> (Report, usize) {
        let mut ignored = |_: &Path, _| {};
        let mut records = 0;
        let mut check = Check::new(Arc::new(disk.clone()), repair, &mut ignored);
        check.begin("a log");
        check.log("log", Path::new("/log"), |_| {
            records += 1;
            Ok(())
        });
        (check.finish(), records)
    }

    fn check(damage: impl Fn(&mut Vec<u8>), expected: &str, whole: bool, kept: usize) {
        let disk = SimDisk::new();
        let file = write(&disk);
        let mut content = disk.read(&file).unwrap();
        damage(&mut content);
        disk.damage(&file, &content).unwrap();
        let (report, _) = checked(&disk, false);
        let text = report.findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        assert!(text.contains(expected), "{text}");
        assert_eq!(report.is_whole(), whole, "{text}");
        assert_eq!(disk.read(&file).unwrap(), content, "a check changes nothing");
        assert!(checked(&disk, true).0.is_whole());
        let (after, records) = checked(&disk, false);
        assert!(after.is_whole(), "{after:?}");
        let kept_now = if whole { disk_records(&disk) } else { records };
        assert_eq!(kept_now, kept, "{text}");
    }

    fn disk_records(disk: &SimDisk) -> usize {
        checked(disk, false).1
    }

    #[test]
    fn damage_in_a_log_is_told_and_skipped() {
        check(|_| {}, "", true, 10);
        check(|content| content.truncate(content.len() - 3), "half-written bytes", true, 9);
        check(|content| content[100] ^= 1, "lost", false, 9);
        check(|content| content[3] ^= 1, "this is no file of a log", false, 10);
    }

    #[test]
    fn missing_files_of_a_log_are_told() {
        let disk = SimDisk::new();
        let file = write(&disk);
        disk.remove(&file).unwrap();
        let (report, _) = checked(&disk, false);
        assert!(report.findings[0].to_string().contains("the file is missing"), "{report:?}");
        assert!(!report.is_whole());
        let disk = SimDisk::new();
        write(&disk);
        disk.remove(Path::new("/log/manifest")).unwrap();
        let (report, _) = checked(&disk, false);
        assert!(report.findings[0].problem.contains("but no manifest"), "{report:?}");
        let (report, _) = checked(&disk, true);
        assert!(report.is_whole(), "{report:?}");
        assert_eq!(checked(&disk, false), (Report { files: 1, ..checked(&disk, false).0 }, 10));
    }
}
