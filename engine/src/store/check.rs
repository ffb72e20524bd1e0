//! Verifying the files of one index that nobody has open: every byte that its commit names, every
//! document's source, every operation in its translog.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use egret_aof::check::Check;
use egret_aof::log::Log;
use serde::de::IgnoredAny;

pub(crate) use super::commit::COMMIT;
use super::commit::{Commit, CommittedFile};
use super::source::SourceReader;
use super::state::Store;
use super::translog;
use super::writer::TRANSLOG;
use crate::error::Result;

const UNREPAIRED: &str = "not repaired: its documents are in no other place; bring the folder back from \
                          a copy, or delete the index";

/// Verifies the folder of an index.
pub(crate) fn check_index(check: &mut Check<'_>, folder: &Path, uuid: &str, followed: bool) {
    let mark = check.mark();
    let path = folder.join(COMMIT);
    let disk = Arc::clone(check.disk());
    match Commit::read(&*disk, folder) {
        Ok(commit) if commit.index_uuid != uuid => {
            let problem = format!("belongs to the index [{}], not to [{uuid}]", commit.index_uuid);
            check.damaged("commit", &path, problem, UNREPAIRED);
        }
        Ok(commit) => {
            check.count(&path, disk.len(&path).unwrap_or_default());
            commit.files.iter().for_each(|file| check_file(check, folder, file));
            if check.mark() == mark {
                check_store(check, folder, &commit);
            }
            note_strangers(check, folder, &commit);
        }
        Err(error) => check.damaged("commit", &path, error.to_string(), UNREPAIRED),
    }
    if !followed {
        check_translog(check, &folder.join(TRANSLOG));
    }
}

/// Compares a file with what the commit says of it.
fn check_file(check: &mut Check<'_>, folder: &Path, file: &CommittedFile) {
    let part = if file.is_of_deletes() { "deleted documents" } else { "segment" };
    let path = folder.join(&file.name);
    let Some(bytes) = check.read(part, &path) else { return };
    if bytes.len() as u64 != file.length {
        let problem = format!("has [{}] bytes, not the committed [{}]", bytes.len(), file.length);
        return check.damaged(part, &path, problem, UNREPAIRED);
    }
    let found = crc32c::crc32c(&bytes);
    if found != file.crc32c {
        let problem = format!("its checksum is [{found}] and not [{}]", file.crc32c);
        check.damaged(part, &path, problem, UNREPAIRED);
    }
}

/// Opens files that are as they were written, to see whether that was right.
fn check_store(check: &mut Check<'_>, folder: &Path, commit: &Commit) {
    let disk = Arc::clone(check.disk());
    let mut store = match Store::open(disk, folder.to_owned(), commit) {
        Ok(store) => store,
        Err(error) => {
            return check.damaged("segment", folder, error.to_string(), UNREPAIRED);
        }
    };
    for file in commit.files.iter().filter(|file| !file.is_of_deletes()) {
        if !store.has_valid_footer(&file.name) {
            let problem = "its footer has another checksum";
            check.damaged("segment", &folder.join(&file.name), problem, UNREPAIRED);
        }
    }
    if let Err(error) = read_sources(&mut store) {
        check.damaged("sources", folder, error.to_string(), UNREPAIRED);
    }
}

/// Reads every living document.
fn read_sources(store: &mut Store) -> Result<()> {
    for reader in store.readers()? {
        let sources = SourceReader::open(&reader)?;
        for doc in reader.doc_ids_alive() {
            let source = sources.read(doc)?;
            serde_json::from_slice::<IgnoredAny>(&source).map_err(|error| {
                let segment = reader.segment_id().uuid_string();
                let message =
                    format!("document [{doc}] of segment [{segment}] is no JSON: {error}");
                crate::Error::new(crate::ErrorKind::Corrupt, message).with_source(error)
            })?;
        }
    }
    Ok(())
}

fn note_strangers(check: &mut Check<'_>, folder: &Path, commit: &Commit) {
    let mut named: HashSet<&str> = commit.files.iter().map(|file| file.name.as_str()).collect();
    named.extend([COMMIT, TRANSLOG]);
    for name in check.disk().list(folder).unwrap_or_default() {
        if !named.contains(name.as_str()) {
            check.harmless("left over", &folder.join(name), "is named by no commit");
        }
    }
}

fn check_translog(check: &mut Check<'_>, folder: &Path) {
    if !Log::exists(check.disk().as_ref(), folder).unwrap_or_default() {
        let remedy = "not repaired: what was written since the last commit is lost with it; an empty \
                      folder with the translog of a copy can take its place";
        return check.damaged("translog", folder, "is missing", remedy);
    }
    check.log("translog", folder, |record| Ok(translog::check_record(record)?));
}
