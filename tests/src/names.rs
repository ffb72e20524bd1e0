//! Names of hosts that are what a test says, and nothing else: a program in a mount namespace of its
//! own, which sees other files in the place of `/etc/hosts` and `/etc/nsswitch.conf`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use tempfile::TempDir;

/// Puts `$1/hosts` and `$1/nsswitch.conf` in the place of the machine's, and becomes the rest.
const COVER: &str = r#"
for name in hosts nsswitch.conf; do mount --bind "$1/$name" "/etc/$name" || exit 125; done
shift
exec "$@"
"#;

/// The files that a program looks names up in, which may be changed while it runs.
#[derive(Debug, Clone)]
pub struct Names(Arc<TempDir>);

impl Names {
    /// No name but those that are given later. `None` where this machine lets nobody make a mount
    /// namespace.
    pub fn nobody() -> io::Result<Option<Self>> {
        let names = Self(Arc::new(tempfile::Builder::new().prefix("egret-names-").tempdir()?));
        fs::write(names.0.path().join("nsswitch.conf"), "hosts: files\n")?;
        names.set("")?;
        let mut probe = names.command(Path::new("true"));
        probe.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let works = probe.status().is_ok_and(|status| status.success());
        Ok(works.then_some(names))
    }

    /// The lines of `/etc/hosts` from now on.
    pub fn set(&self, hosts: &str) -> io::Result<()> {
        // Written in place: the file is mounted, not its name.
        fs::write(self.hosts(), hosts)
    }

    fn hosts(&self) -> PathBuf {
        self.0.path().join("hosts")
    }

    /// A program that sees these names; arguments may follow.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("unshare");
        if !rustix::process::geteuid().is_root() {
            command.arg("--map-root-user");
        }
        command.args(["--mount", "sh", "-c", COVER, "names"]).arg(self.0.path()).arg(program);
        command
    }
}
