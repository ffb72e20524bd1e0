//! Child processes that never outlive the test: ended by their pid when dropped, also while a test
//! panics, and by a watchdog when the test's own process is killed.

use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::poll;

/// Reads one word from its standard input. When the input ends without the word `done`, the test's
/// process has died: then it ends process `$1` with signal `$2` and removes folder `$3`.
const WATCHDOG: &str = r#"
trap '' INT TERM HUP
read -r word
[ "$word" = done ] && exit 0
kill -"$2" "$1" 2>/dev/null
tries=0
while kill -0 "$1" 2>/dev/null && [ $tries -lt 50 ]; do sleep 0.1; tries=$((tries + 1)); done
[ -n "$3" ] && rm -rf "$3"
"#;

/// A user and group that a child runs as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

impl Account {
    /// Makes a command run as this account.
    pub fn apply(self, command: &mut Command) {
        command.uid(self.uid).gid(self.gid);
    }
}

/// Bytes of a process's memory that no file backs (`RssAnon`); 0 where the kernel does not say.
pub fn anonymous_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kilobytes =
        line.and_then(|rest| rest.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1024
}

/// Processor time that a process has used, in user and kernel mode, all its threads together; zero
/// where there is no such process.
pub fn processor_time(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name, in parentheses, may have blanks of its own. Linux counts hundredths of a second here,
    // whatever the tick of its kernel is.
    let fields = stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ')).into_iter().flatten();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

/// A running child and its watchdog.
#[derive(Debug)]
pub struct Guarded {
    child: Child,
    watchdog: Child,
    last_resort: Signal,
}

impl Guarded {
    /// Starts `command` in a process group of its own. `last_resort` is the signal that ends it
    /// when nobody asked for another; `folder` is removed if this process dies before the child.
    pub fn spawn(mut command: Command, last_resort: Signal, folder: &Path) -> io::Result<Self> {
        let child = command.process_group(0).spawn()?;
        let watchdog = Command::new("/bin/sh")
            .args(["-c", WATCHDOG, "watchdog"])
            .arg(child.id().to_string())
            .arg(last_resort.as_raw().to_string())
            .arg(folder)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self { child, watchdog, last_resort })
    }

    /// The child, to take its output from.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// The child's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal, unless the child has already ended.
    pub fn signal(&mut self, signal: Signal) -> io::Result<()> {
        if self.child.try_wait()?.is_some() {
            return Ok(());
        }
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.ok_or_else(|| io::Error::other("pid out of range"))?, signal)?;
        Ok(())
    }

    /// The exit status, once it has ended.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Waits for the end; `None` when it has not come by the deadline.
    pub fn wait(&mut self, deadline: Duration) -> Option<ExitStatus> {
        poll::until_blocking(deadline, || self.child.try_wait().ok().flatten())
    }

    /// Sends a signal and waits for the end.
    pub fn end(&mut self, signal: Signal, deadline: Duration) -> Option<ExitStatus> {
        self.signal(signal).ok()?;
        self.wait(deadline)
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if self.end(self.last_resort, Duration::from_secs(10)).is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if let Some(mut input) = self.watchdog.stdin.take() {
            let _ = input.write_all(b"done\n");
        }
        let _ = self.watchdog.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper() -> Command {
        let mut command = Command::new("sleep");
        command.arg("1000");
        command
    }

    fn runs(pid: u32) -> bool {
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        !state.is_empty() && !state.contains(") Z ")
    }

    #[test]
    fn dropping_ends_the_child() {
        let guarded = Guarded::spawn(sleeper(), Signal::KILL, Path::new("")).unwrap();
        let pid = guarded.pid();
        assert!(runs(pid));
        drop(guarded);
        assert!(!runs(pid));
    }

    #[test]
    fn the_watchdog_ends_the_child_and_removes_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("file"), "x").unwrap();
        let mut guarded = Guarded::spawn(sleeper(), Signal::KILL, folder.path()).unwrap();
        drop(guarded.watchdog.stdin.take());
        let status = guarded.wait(poll::DEADLINE).expect("the watchdog should have ended it");
        assert!(!status.success());
        let gone = || (!folder.path().exists()).then_some(());
        assert!(poll::until_blocking(poll::DEADLINE, gone).is_some(), "the folder remains");
    }
}
