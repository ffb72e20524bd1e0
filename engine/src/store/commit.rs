//! `commit.json`: the only commit point of an index.
//!
//! One JSON object, UTF-8:
//!
//! ```text
//! {"format": 2,                      rises when an older Egret could not read it any more
//!  "crc32c": 305419896,              of the bytes of the value of "commit", exactly as written
//!  "commit": {
//!    "index_uuid": "…",              22 characters
//!    "term": 3,                      the last open; rises before that open publishes anything
//!    "generation": {"term": 2, "number": 17},   of the committed state
//!    "next_seq_no": 1042,
//!    "next_delete_stamp": 88,        names `<segment>.<stamp>.del` files, never used twice
//!    "checkpoint": {"system_identifier": 7…, "timeline": 1, "lsn": "0/16B3748"} or null,
//!    "copy_progress": "…" or null,
//!    "mapping": {…},                 Elasticsearch's format, fields in tantivy's order
//!    "mapping_number": 5,            of that mapping in the translog; left out where it is 0
//!    "ignored": ["", "o"],           objects in which unknown fields may have been ignored, by path
//!    "outstanding": {"fields": ["o.n"], "additions": 2},     what of the mapping was added after
//!                                    documents that may have it; left out where there is nothing
//!    "meta": {…},                    tantivy's meta.json
//!    "files": [{"name": "…", "length": 123, "crc32c": 456}, …]}}
//! ```
//!
//! It is replaced atomically after everything that it names is durable. Whatever lies beside it and
//! is not named is left over and removed at the next open. A newer format is refused, an older one
//! is read as long as this page says how: format 1 knew neither "ignored", so that anything may have been,
//! nor "outstanding".

use std::path::Path;

use egret_aof::disk::{Disk, replace_file};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::error::{Error, ErrorKind, Result};
use crate::mapping::Outstanding;
use crate::mapping::ignored::Ignored;
use crate::position::{Checkpoint, Generation, SeqNo};

/// Its name in the index's folder.
pub(crate) const COMMIT: &str = "commit.json";
const FORMAT: u32 = 2;
const OLDEST_FORMAT: u32 = 1;

/// What one commit holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Commit {
    pub(crate) index_uuid: String,
    pub(crate) term: u64,
    pub(crate) generation: Generation,
    pub(crate) next_seq_no: SeqNo,
    pub(crate) next_delete_stamp: u64,
    pub(crate) checkpoint: Option<Checkpoint>,
    pub(crate) copy_progress: Option<String>,
    pub(crate) mapping: Value,
    #[serde(default, skip_serializing_if = "is_first")]
    pub(crate) mapping_number: u64,
    /// `None` in format 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ignored: Option<Ignored>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) outstanding: Option<Outstanding>,
    pub(crate) meta: Box<RawValue>,
    pub(crate) files: Vec<CommittedFile>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_first(mapping_number: &u64) -> bool {
    *mapping_number == 0
}

/// A file that a commit names.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub(crate) struct CommittedFile {
    pub(crate) name: String,
    pub(crate) length: u64,
    pub(crate) crc32c: u32,
}

impl CommittedFile {
    /// Whether it says which documents of a segment are deleted.
    pub(crate) fn is_of_deletes(&self) -> bool {
        self.name.rsplit_once('.').is_some_and(|(_, extension)| extension == "del")
    }
}

#[derive(Deserialize)]
struct Version {
    format: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    format: u32,
    crc32c: u32,
    commit: Box<RawValue>,
}

impl Commit {
    /// Replaces the commit in a folder, durably.
    pub(crate) fn write(&self, disk: &dyn Disk, folder: &Path) -> Result<()> {
        replace_file(disk, &folder.join(COMMIT), &self.encode()?).map_err(Error::from)
    }

    /// Reads the commit of a folder.
    pub(crate) fn read(disk: &dyn Disk, folder: &Path) -> Result<Self> {
        let path = folder.join(COMMIT);
        let bytes = disk.read(&path).map_err(|source| {
            let message = format!("[{}] cannot be read: {source}", path.display());
            Error::new(ErrorKind::Corrupt, message).with_source(source)
        })?;
        Self::decode(&bytes).map_err(|error| {
            let message = format!("[{}] {}", path.display(), error.message());
            Error::new(error.kind(), message).with_source(error)
        })
    }

    fn encode(&self) -> Result<Vec<u8>> {
        let commit = serde_json::value::to_raw_value(self).map_err(unserializable)?;
        let crc32c = crc32c::crc32c(commit.get().as_bytes());
        serde_json::to_vec(&Envelope { format: FORMAT, crc32c, commit }).map_err(unserializable)
    }

    fn decode(bytes: &[u8]) -> Result<Self> {
        let corrupt = |source: serde_json::Error| {
            Error::new(ErrorKind::Corrupt, format!("is damaged: {source}")).with_source(source)
        };
        let Version { format } = serde_json::from_slice(bytes).map_err(corrupt)?;
        if !(OLDEST_FORMAT..=FORMAT).contains(&format) {
            let message = format!(
                "has format [{format}], which this version of Egret does not know (it reads \
                 [{OLDEST_FORMAT}] to [{FORMAT}]); a newer Egret wrote it"
            );
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        let envelope: Envelope = serde_json::from_slice(bytes).map_err(corrupt)?;
        let found = crc32c::crc32c(envelope.commit.get().as_bytes());
        if found != envelope.crc32c {
            let message =
                format!("is damaged: its checksum is [{found}] and not [{}]", envelope.crc32c);
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        serde_json::from_str(envelope.commit.get()).map_err(corrupt)
    }
}

fn unserializable(source: serde_json::Error) -> Error {
    Error::new(ErrorKind::Internal, format!("a commit cannot be written as JSON: {source}"))
        .with_source(source)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::Lsn;

    fn example() -> Commit {
        Commit {
            index_uuid: "AAAAAAAAAAAAAAAAAAAAAA".to_owned(),
            term: 3,
            generation: Generation { term: 2, number: 17 },
            next_seq_no: SeqNo(1042),
            next_delete_stamp: 88,
            checkpoint: Some(Checkpoint {
                system_identifier: u64::MAX,
                timeline: 1,
                lsn: Lsn(0x16_B374_D848),
            }),
            copy_progress: Some("{\"blocks\": [1, 2]}".to_owned()),
            mapping: serde_json::json!({"properties": {"a": {"type": "long"}}}),
            mapping_number: 5,
            ignored: Some(serde_json::from_str(r#"["", "o"]"#).unwrap()),
            outstanding: Some(Outstanding { fields: ["o.n".to_owned()].into(), additions: 2 }),
            meta: RawValue::from_string("{\"segments\": [ ]}".to_owned()).unwrap(),
            files: vec![CommittedFile { name: "a.idx".to_owned(), length: 5, crc32c: 7 }],
        }
    }

    #[test]
    fn comes_back_as_written() {
        let commit = example();
        let back = Commit::decode(&commit.encode().unwrap()).unwrap();
        assert_eq!(format!("{back:?}"), format!("{commit:?}"));
        assert_eq!(back.meta.get(), "{\"segments\": [ ]}");
    }

    #[test]
    fn damage_is_told() {
        let bytes = example().encode().unwrap();
        for at in 0..bytes.len() {
            assert_eq!(Commit::decode(&bytes[..at]).unwrap_err().kind(), ErrorKind::Corrupt);
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            match Commit::decode(&flipped) {
                Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt, "byte {at}"),
                Ok(commit) => panic!("byte {at} flipped went unseen: {commit:?}"),
            }
        }
    }

    #[test]
    fn a_newer_format_is_refused() {
        let error = Commit::decode(br#"{"format": 3, "shape": "unknown"}"#).unwrap_err();
        assert!(error.message().contains("format [3]"), "{error}");
    }
}
