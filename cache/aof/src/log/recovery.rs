//! Opening what an earlier run left: reading every file, cutting a torn tail, repairing on demand.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};

use super::frame::{
    BadHeader, Frame, HEADER_BYTES, Header, KIND_COPIED, KIND_END, KIND_LOST, Role, VERSION,
};
use super::manifest::{MANIFEST, Manifest, file_name, parse_file_name};
use super::report::{Lost, RecoveryReport, TornTail};
use super::scan::{Scanned, Source, Tail, scan};
use super::{Record, Recovery, Size};
use crate::disk::{Disk, FileBytes, replace_file_with};
use crate::{BoxError, Error, Result};

/// What [`recover`] hands to the log.
pub(super) struct Recovered {
    pub(super) manifest: Manifest,
    /// By file number.
    pub(super) sizes: BTreeMap<u64, Size>,
    /// Larger than the number of any file in the folder.
    pub(super) next_number: u64,
    pub(super) report: RecoveryReport,
}

/// The owner's function that takes the records.
pub(super) type Replay<'a> = dyn FnMut(Record<'_>) -> Result<(), BoxError> + 'a;

struct Run<'a> {
    disk: &'a dyn Disk,
    folder: &'a Path,
    repair: bool,
    /// Whether files are only looked at.
    read_only: bool,
    replay: &'a mut Replay<'a>,
    report: RecoveryReport,
    sizes: BTreeMap<u64, Size>,
}

/// A file of the log, not read yet.
struct Found {
    role: Role,
    number: u64,
    path: PathBuf,
    bytes: FileBytes,
    header: Result<Header, &'static str>,
}

/// Reads the whole log in `folder`, which must be locked, and leaves it ready for appending.
pub(super) fn recover<'a>(
    disk: &'a dyn Disk,
    folder: &'a Path,
    recovery: Recovery,
    replay: &'a mut Replay<'a>,
) -> Result<Recovered> {
    let repair = recovery == Recovery::Repair;
    let mut run = Run::new(disk, folder, repair, replay);
    let names = disk.list(folder).map_err(Error::io("list", folder))?;
    let present: Vec<_> = names.iter().filter_map(|name| parse_file_name(name)).collect();
    let mut manifest = run.load_manifest(&names, &present)?;
    let files = run.find_files(&mut manifest)?;
    run.read_files(&files)?;
    drop(files);
    // A process that was killed may have renamed a file without reaching the sync of the folder.
    disk.sync_folder(folder).map_err(Error::io("sync", folder))?;
    if repair {
        manifest.store(disk, folder)?;
    }
    run.remove_strays(&names, &manifest);
    let next_number = present.iter().map(|(_, number)| number.saturating_add(1)).max().unwrap_or(1);
    Ok(Recovered { manifest, sizes: run.sizes, next_number, report: run.report })
}

/// Reads the whole log in `folder`, which must be locked, and changes nothing.
pub(super) fn inspect<'a>(
    disk: &'a dyn Disk,
    folder: &'a Path,
    recovery: Recovery,
    replay: &'a mut Replay<'a>,
) -> Result<RecoveryReport> {
    let mut run = Run::new(disk, folder, recovery == Recovery::Repair, replay);
    run.read_only = true;
    let names = disk.list(folder).map_err(Error::io("list", folder))?;
    let present: Vec<_> = names.iter().filter_map(|name| parse_file_name(name)).collect();
    let mut manifest = run.load_manifest(&names, &present)?;
    let files = run.find_files(&mut manifest)?;
    run.read_files(&files)?;
    Ok(run.report)
}

impl<'a> Run<'a> {
    fn new(disk: &'a dyn Disk, folder: &'a Path, repair: bool, replay: &'a mut Replay<'a>) -> Self {
        let report = RecoveryReport { next_sequence: 1, ..RecoveryReport::default() };
        Self { disk, folder, repair, read_only: false, replay, report, sizes: BTreeMap::new() }
    }

    fn load_manifest(&mut self, names: &[String], present: &[(Role, u64)]) -> Result<Manifest> {
        let path = self.folder.join(MANIFEST);
        let error = if names.iter().any(|name| name == MANIFEST) {
            let bytes = self.disk.read(&path).map_err(Error::io("read", &path))?;
            match Manifest::decode(&bytes, &path) {
                Ok(manifest) => return Ok(manifest),
                Err(error) => error,
            }
        } else if let Some((role, number)) = present.first() {
            Error::MissingManifest {
                folder: self.folder.to_path_buf(),
                example: file_name(*role, *number),
            }
        } else {
            // A new log. The manifest comes first, so that files without one are always damage.
            let salt = RandomState::new().build_hasher().finish();
            let manifest = Manifest { salt, ..Manifest::default() };
            if !self.read_only {
                manifest.store(self.disk, self.folder)?;
            }
            return Ok(manifest);
        };
        if !self.repair || matches!(error, Error::UnsupportedVersion { .. }) {
            return Err(error);
        }
        self.report.manifest_rebuilt = true;
        self.rebuild_manifest(present, error)
    }

    /// Guesses the manifest from the files: the newest whole base and the increments after it.
    fn rebuild_manifest(&self, present: &[(Role, u64)], error: Error) -> Result<Manifest> {
        let mut files = Vec::new();
        for (role, number) in present {
            files.push(self.find(*role, *number)?);
        }
        files.sort_by_key(|file| file.number);
        let headers = || files.iter().filter_map(|file| Some((file, file.header.ok()?)));
        let Some(salt) = headers().next().map(|(_, header)| header.salt) else {
            return Err(error);
        };
        let bases = || headers().filter(|(file, _)| file.role == Role::Base);
        let from_start = headers().any(|(_, h)| h.role == Role::Increment && h.first_sequence == 1);
        let base = bases()
            .rfind(|(file, header)| is_whole(file, *header))
            .or_else(|| bases().next_back().filter(|_| !from_start));
        let first = base.map_or(0, |(_, header)| header.first_sequence);
        let after_base = |file: &&Found| {
            let old = file.header.is_ok_and(|header| header.first_sequence < first);
            file.role == Role::Increment && !old
        };
        let increments = files.iter().filter(after_base).map(|file| file.number).collect();
        Ok(Manifest { salt, base: base.map(|(file, _)| file.number), increments })
    }

    fn find(&self, role: Role, number: u64) -> Result<Found> {
        let path = self.folder.join(file_name(role, number));
        let bytes = match self.disk.map(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::MissingFile { file: path });
            }
            other => other.map_err(Error::io("read", &path))?,
        };
        let header = match Header::decode(&bytes) {
            Ok(header) if (header.role, header.number) != (role, number) => {
                Err("the header is that of another file")
            }
            Ok(header) => Ok(header),
            Err(BadHeader::Damaged(reason)) => Err(reason),
            Err(BadHeader::Newer(found)) => {
                let (found, supported) = (u32::from(found), u32::from(VERSION));
                return Err(Error::UnsupportedVersion { file: path, found, supported });
            }
        };
        Ok(Found { role, number, path, bytes, header })
    }

    /// Opens every file that the manifest names; when repairing, takes missing ones out of it.
    fn find_files(&mut self, manifest: &mut Manifest) -> Result<Vec<Found>> {
        let mut files = Vec::new();
        for (role, number) in manifest.files().collect::<Vec<_>>() {
            match self.find(role, number) {
                Ok(mut file) => {
                    file.header = file.header.and_then(|header| match header.salt {
                        salt if salt == manifest.salt => Ok(header),
                        _ => Err("the file belongs to another log"),
                    });
                    files.push(file);
                }
                Err(Error::MissingFile { file }) if self.repair => {
                    self.report.lost.push(lost_at(&file, 0, 0, "the file is missing"));
                    manifest.base = manifest.base.filter(|base| *base != number);
                    manifest.increments.retain(|increment| *increment != number);
                }
                Err(error) => return Err(error),
            }
        }
        // Files with a damaged header are read with the salt that the manifest remembers.
        for file in files.iter_mut().filter(|file| self.repair && file.header.is_err()) {
            let reason = file.header.err().unwrap_or_default();
            let first = file.bytes.get(HEADER_BYTES..).unwrap_or_default();
            let first = Frame::decode(first, manifest.salt).map_or(1, |frame| frame.sequence);
            self.report.lost.push(lost_at(&file.path, 0, 0, reason));
            self.rewrite_header(file, manifest.salt, first)?;
        }
        Ok(files)
    }

    /// Puts a new header on a file whose own is damaged.
    fn rewrite_header(&self, file: &mut Found, salt: u64, first_sequence: u64) -> Result<()> {
        let (role, number) = (file.role, file.number);
        let header = Header { role, gap_before: true, salt, number, first_sequence };
        if self.read_only {
            file.header = Ok(header);
            return Ok(());
        }
        let body = file.bytes.get(HEADER_BYTES..).unwrap_or_default();
        replace_file_with(self.disk, &file.path, |out| {
            out.write_all(&header.encode())?;
            out.write_all(body)
        })
        .map_err(Error::io("repair", &file.path))?;
        *file = self.find(role, number)?;
        Ok(())
    }

    fn read_files(&mut self, files: &[Found]) -> Result<()> {
        let mut expected = None;
        for (index, file) in files.iter().enumerate() {
            let next = files.get(index + 1);
            let next_header = next.and_then(|next| next.header.ok());
            let mut header = file.header.map_err(|reason| damaged(file, expected, reason))?;
            if header.role == Role::Base && header.gap_before {
                // The header of the base was lost: the next file says where it ends.
                header.first_sequence = next_header.map_or(1, |next| next.first_sequence);
                header.gap_before = false;
            }
            if let Some(expected) = expected {
                header = self.join(file, header, expected)?;
            }
            let tail = match (file.role, next_header) {
                (Role::Increment, Some(next)) if next.gap_before => Tail::Open,
                (Role::Increment, None) if next.is_none() => Tail::Open,
                _ => Tail::Durable,
            };
            let next_sequence = self.read_file(file, header, tail)?;
            expected = Some(next_sequence);
            self.report.next_sequence = next_sequence;
        }
        Ok(())
    }

    /// Checks that a file begins where the one before it ends, at record `expected`.
    fn join(&mut self, file: &Found, mut header: Header, expected: u64) -> Result<Header> {
        if header.first_sequence == expected {
            return Ok(header);
        }
        let known = header.gap_before && header.first_sequence > expected;
        if !known && !self.repair {
            let reason = format!("the file begins with record {}", header.first_sequence);
            return Err(damaged(file, Some(expected), &reason));
        }
        let missing = header.first_sequence.saturating_sub(expected);
        let reason = "records before this file are missing";
        self.report.lost.push(lost_at(&file.path, expected, missing, reason));
        header.gap_before = true;
        header.first_sequence = header.first_sequence.max(expected);
        Ok(header)
    }

    /// Replays one file and repairs its end; returns the number of the record after it.
    fn read_file(&mut self, file: &Found, header: Header, tail: Tail) -> Result<u64> {
        let is_base = header.role == Role::Base;
        let expected = if is_base { 1 } else { header.first_sequence };
        let (bytes, repair, path) = (&*file.bytes, self.repair, file.path.as_path());
        let source = Source { path, bytes, header, tail, expected, repair };
        let scanned = scan(&source, |offset, frame| {
            let sequence =
                if is_base { header.first_sequence.saturating_sub(1) } else { frame.sequence };
            let record = Record { sequence, kind: frame.kind, payload: frame.payload };
            (self.replay)(record).map_err(|source| {
                let file = file.path.clone();
                Error::Replay { file, offset, sequence, source }
            })
        })?;
        let read = if is_base { &mut self.report.base_records } else { &mut self.report.records };
        *read += scanned.records;
        self.report.files += 1;
        self.report.bytes += scanned.end.saturating_sub(HEADER_BYTES) as u64;
        self.report.zero_bytes += scanned.zero_bytes as u64;
        if scanned.torn_bytes > 0 {
            self.report.torn_tails.push(TornTail {
                file: file.path.clone(),
                offset: scanned.end as u64,
                bytes: scanned.torn_bytes as u64,
                sequence: scanned.next_sequence,
            });
        }
        self.report.lost.extend(scanned.lost.iter().cloned());
        let repaired = !scanned.lost.is_empty() || file.header != Ok(header);
        // The owner is about to rely on what it was given, and others on the file's end, so both
        // have to be durable. A sync of this file would not do: one that failed before may have
        // dropped pages that are still seen here. Only a new file says what reaches the disk.
        if !self.read_only && (repaired || (tail == Tail::Open && !scanned.proven)) {
            self.copy_file(file, header, &scanned)?;
        }
        let bytes = self.disk.len(&file.path).map_err(Error::io("read", &file.path))?;
        self.sizes.insert(file.number, Size { bytes, records: scanned.records });
        Ok(if is_base { header.first_sequence } else { scanned.next_sequence })
    }

    /// Puts a synced copy in the place of a file: the good parts, and between them how much is lost.
    fn copy_file(&self, file: &Found, header: Header, scanned: &Scanned) -> Result<()> {
        let control = |kind, sequence| {
            let mut bytes = Vec::new();
            Frame { sequence, kind, payload: &[] }.encode(header.salt, &mut bytes);
            bytes
        };
        let end = match header.role {
            Role::Base if scanned.ended => Vec::new(),
            Role::Base => control(KIND_END, scanned.next_sequence),
            Role::Increment => control(KIND_COPIED, scanned.next_sequence),
        };
        replace_file_with(self.disk, &file.path, |out| {
            out.write_all(&header.encode())?;
            for (range, after_loss) in &scanned.pieces {
                let lost = after_loss.map(|next| control(KIND_LOST, next)).unwrap_or_default();
                out.write_all(&lost)?;
                out.write_all(file.bytes.get(range.clone()).unwrap_or_default())?;
            }
            out.write_all(&end)
        })
        .map_err(Error::io("copy", &file.path))
    }

    /// Removes what interrupted rewrites and failed rolls left behind. A name that is not ours
    /// stays; a removal that fails is tried again at the next opening.
    fn remove_strays(&self, names: &[String], manifest: &Manifest) {
        let live: Vec<_> = manifest.files().collect();
        for name in names {
            let whole = name.strip_suffix(".tmp").unwrap_or(name);
            let temporary = whole.len() < name.len();
            let stray = match parse_file_name(whole) {
                Some(file) => temporary || !live.contains(&file),
                None => temporary && whole == MANIFEST,
            };
            let path = self.folder.join(name);
            if let Err(error) = if stray { self.disk.remove(&path) } else { Ok(()) } {
                tracing::warn!(file = %path.display(), %error, "cannot remove a left-over file");
            }
        }
    }
}

fn damaged(file: &Found, expected: Option<u64>, reason: &str) -> Error {
    let (file, reason) = (file.path.clone(), reason.to_owned());
    Error::Damaged { file, offset: 0, sequence: expected.unwrap_or(1), reason }
}

fn lost_at(file: &Path, first_sequence: u64, records: u64, reason: &str) -> Lost {
    let (file, reason) = (file.to_path_buf(), reason.to_owned());
    Lost { file, offset: 0, bytes: 0, first_sequence, records, reason }
}

/// Whether a base was written to its end.
fn is_whole(file: &Found, header: Header) -> bool {
    let (path, bytes) = (file.path.as_path(), &*file.bytes);
    let source = Source { path, bytes, header, tail: Tail::Durable, expected: 1, repair: false };
    scan(&source, |_, _| Ok(())).is_ok()
}
