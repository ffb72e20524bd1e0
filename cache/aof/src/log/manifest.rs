//! The manifest: the small text file that names the files of a log. See the drawing in [`super`].

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::frame::Role;
use crate::disk::{Disk, write_temporary};
use crate::{Error, Result};

pub(super) const MANIFEST: &str = "manifest";
pub(super) const LOCK: &str = "lock";
const TITLE: &str = "egret-aof manifest ";
const VERSION: u32 = 1;

/// Which files a log consists of, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Manifest {
    pub(super) salt: u64,
    pub(super) base: Option<u64>,
    /// Ascending.
    pub(super) increments: Vec<u64>,
}

/// A manifest that is durable and not in force yet.
pub(super) struct Staged<'a> {
    disk: &'a dyn Disk,
    folder: &'a Path,
    path: PathBuf,
    temporary: PathBuf,
}

impl Staged<'_> {
    /// Puts the manifest in force. If this fails, a later recovery may find either.
    pub(super) fn publish(self) -> Result<()> {
        let Self { disk, folder, path, temporary } = self;
        let replaced = disk.rename(&temporary, &path).and_then(|()| disk.sync_folder(folder));
        replaced.map_err(Error::io("replace", &path))
    }
}

/// The name of a file of the log.
pub(super) fn file_name(role: Role, number: u64) -> String {
    match role {
        Role::Base => format!("base-{number:010}.aof"),
        Role::Increment => format!("increment-{number:010}.aof"),
    }
}

/// The reverse of [`file_name`]; none for names that are not ours.
pub(super) fn parse_file_name(name: &str) -> Option<(Role, u64)> {
    let stem = name.strip_suffix(".aof")?;
    let (role, digits) = match stem.strip_prefix("base-") {
        Some(digits) => (Role::Base, digits),
        None => (Role::Increment, stem.strip_prefix("increment-")?),
    };
    let number = digits.parse().ok()?;
    (file_name(role, number) == name).then_some((role, number))
}

impl Manifest {
    /// Every file, in the order in which it is to be read.
    pub(super) fn files(&self) -> impl Iterator<Item = (Role, u64)> {
        let base = self.base.map(|number| (Role::Base, number));
        base.into_iter().chain(self.increments.iter().map(|number| (Role::Increment, *number)))
    }

    pub(super) fn store(&self, disk: &dyn Disk, folder: &Path) -> Result<()> {
        self.stage(disk, folder)?.publish()
    }

    /// Writes the manifest beside the one in force, which is untouched if this fails.
    pub(super) fn stage<'a>(&self, disk: &'a dyn Disk, folder: &'a Path) -> Result<Staged<'a>> {
        let path = folder.join(MANIFEST);
        let temporary =
            write_temporary(disk, &path, |file| file.write_all(self.encode().as_bytes()))
                .map_err(Error::io("replace", &path))?;
        Ok(Staged { disk, folder, path, temporary })
    }

    fn encode(&self) -> String {
        let mut text = format!("{TITLE}{VERSION}\nsalt {:016x}\n", self.salt);
        for (role, number) in self.files() {
            let word = if role == Role::Base { "base" } else { "increment" };
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{word} {number}");
        }
        let checksum = crc32c::crc32c(text.as_bytes());
        let _ = writeln!(text, "checksum {checksum:08x}");
        text
    }

    /// Reads a manifest; `file` is for messages.
    pub(super) fn decode(bytes: &[u8], file: &Path) -> Result<Self> {
        let damaged = |line: usize, reason: String| Error::Manifest {
            file: file.to_path_buf(),
            line,
            reason,
        };
        let text = std::str::from_utf8(bytes)
            .map_err(|_| damaged(1, "it is not UTF-8 text".to_owned()))?;
        let mut reader = Reader { manifest: Self::default(), salted: false };
        let mut at = 0;
        for (index, line) in text.split_inclusive('\n').enumerate() {
            let number = index + 1;
            let body = line
                .strip_suffix('\n')
                .ok_or_else(|| damaged(number, format!("the line {line:?} is cut short")))?;
            let (before, after) = (&bytes[..at], &bytes[at + line.len()..]);
            at += line.len();
            match body.strip_prefix("checksum ") {
                _ if index == 0 => check_title(body, file)?,
                None => reader.read(body).map_err(|reason| damaged(number, reason))?,
                Some(checksum) => {
                    let finished = reader.finish(before, checksum, after);
                    return finished.map_err(|reason| damaged(number, reason));
                }
            }
        }
        Err(damaged(text.lines().count() + 1, "the checksum line is missing".to_owned()))
    }
}

fn check_title(line: &str, file: &Path) -> Result<()> {
    let version = line.strip_prefix(TITLE).and_then(|version| version.parse::<u32>().ok());
    match version {
        Some(VERSION) => Ok(()),
        Some(found) if found > VERSION => {
            Err(Error::UnsupportedVersion { file: file.to_path_buf(), found, supported: VERSION })
        }
        _ => Err(Error::Manifest {
            file: file.to_path_buf(),
            line: 1,
            reason: format!("{line:?} is not the title of a manifest"),
        }),
    }
}

struct Reader {
    manifest: Manifest,
    salted: bool,
}

impl Reader {
    /// Takes the checksum line, with what stands before and after it.
    fn finish(self, before: &[u8], checksum: &str, after: &[u8]) -> Result<Manifest, String> {
        let expected = format!("{:08x}", crc32c::crc32c(before));
        if checksum != expected {
            return Err(format!("checksum {checksum:?} is not {expected}"));
        }
        if !after.is_empty() {
            return Err("lines follow the checksum".to_owned());
        }
        if !self.salted {
            return Err("the salt line is missing".to_owned());
        }
        Ok(self.manifest)
    }

    /// Takes one line between the title and the checksum.
    fn read(&mut self, line: &str) -> Result<(), String> {
        let unknown = || format!("unknown line {line:?}");
        let (word, value) = line.split_once(' ').ok_or_else(unknown)?;
        if word == "salt" {
            if self.salted {
                return Err(format!("duplicate line {line:?}"));
            }
            self.salted = true;
            self.manifest.salt = u64::from_str_radix(value, 16).map_err(|_| unknown())?;
            return Ok(());
        }
        let number: u64 = value.parse().map_err(|_| unknown())?;
        match word {
            "base" if self.manifest.base.is_some() => Err(format!("second base in {line:?}")),
            "base" if !self.manifest.increments.is_empty() => {
                Err(format!("base after an increment in {line:?}"))
            }
            "base" => {
                self.manifest.base = Some(number);
                Ok(())
            }
            "increment" => match self.manifest.increments.last() {
                Some(last) if *last == number => Err(format!("duplicate line {line:?}")),
                Some(last) if *last > number => Err(format!("out of order after {last}: {line:?}")),
                _ => {
                    self.manifest.increments.push(number);
                    Ok(())
                }
            },
            _ => Err(unknown()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_checksum(text: &str) -> String {
        format!("{text}checksum {:08x}\n", crc32c::crc32c(text.as_bytes()))
    }

    fn check_refused(text: &str, expected: &str) {
        let error = Manifest::decode(text.as_bytes(), Path::new("m")).unwrap_err();
        assert!(error.to_string().contains(expected), "{text:?}: {error}");
    }

    #[test]
    fn a_manifest_round_trips_and_any_changed_byte_shows() {
        let manifest = Manifest { salt: 0xabc, base: Some(7), increments: vec![8, 12] };
        let text = manifest.encode();
        assert!(text.starts_with(
            "egret-aof manifest 1\nsalt 0000000000000abc\nbase 7\nincrement 8\nincrement 12\n"
        ));
        assert_eq!(Manifest::decode(text.as_bytes(), Path::new("m")).unwrap(), manifest);
        for at in 0..text.len() {
            for flip in [1, 0x20, 0x80] {
                let mut bytes = text.clone().into_bytes();
                bytes[at] ^= flip;
                assert!(Manifest::decode(&bytes, Path::new("m")).is_err(), "byte {at} ^ {flip}");
            }
            assert!(Manifest::decode(&text.as_bytes()[..at], Path::new("m")).is_err(), "cut {at}");
        }
    }

    #[test]
    fn wrong_lines_are_refused_by_name() {
        let title = "egret-aof manifest 1\nsalt 01\n";
        let check = |lines: &str, expected: &str| {
            check_refused(&with_checksum(&format!("{title}{lines}")), expected);
        };
        check("increment 8\nincrement 8\n", "line 4: duplicate line \"increment 8\"");
        check("increment 8\nincrement 7\n", "line 4: out of order after 8: \"increment 7\"");
        check("base 1\nbase 2\n", "line 4: second base");
        check("increment 1\nbase 2\n", "line 4: base after an increment");
        check("incremental 1\n", "line 3: unknown line \"incremental 1\"");
        check("increment one\n", "line 3: unknown line \"increment one\"");
        check("\n", "line 3: unknown line \"\"");
        check("salt 02\n", "line 3: duplicate line");
        check_refused(&with_checksum("egret-aof manifest 1\n"), "the salt line is missing");
        check_refused(&with_checksum("egret-aof manifest 2\n"), "format version 2, newer than 1");
        check_refused("", "line 1: the checksum line is missing");
        check_refused(title, "line 3: the checksum line is missing");
        check_refused(&format!("{}x\n", with_checksum(title)), "lines follow the checksum");
        check_refused("file base.rdb seq 1 type b\n", "is not the title of a manifest");
    }

    #[test]
    fn names_of_files() {
        assert_eq!(file_name(Role::Base, 12), "base-0000000012.aof");
        for (role, number) in [(Role::Base, 0), (Role::Increment, u64::MAX)] {
            assert_eq!(parse_file_name(&file_name(role, number)), Some((role, number)));
        }
        for foreign in ["manifest", "increment-1.aof", "increment-0000000001.aof.tmp", "a b.aof"] {
            assert_eq!(parse_file_name(foreign), None, "{foreign}");
        }
    }
}
