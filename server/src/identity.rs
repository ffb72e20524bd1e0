//! Who this node is: names that stay the same over restarts, in `node.json` of the data folder.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use egret_aof::check::Check;
use egret_aof::disk::{Disk, create_folder_durably, replace_file};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::{Error, Kind, Result};

/// The version of Lucene that clients are told: the one of the Elasticsearch whose dialect is spoken.
pub(crate) const LUCENE_VERSION: &str = "9.12.1";

/// Its name in the data folder.
const FILE: &str = "node.json";

/// Who this node is. On disk as a JSON object of these fields; others are refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Identity {
    /// The format's version, 1.
    format: u32,
    /// The cluster's UUID, 22 characters.
    pub(crate) cluster_uuid: String,
    /// The node's id, 22 characters.
    pub(crate) node_id: String,
}

impl Identity {
    /// Reads a folder's identity, or makes one durably where there is none. Blocking.
    pub(crate) fn open(disk: &dyn Disk, folder: &Path) -> Result<Self> {
        let path = folder.join(FILE);
        let failed = |error: std::io::Error| {
            let reason = format!("cannot open {}: {error}", path.display());
            Error::new(Kind::Configuration, reason).with_source(error)
        };
        create_folder_durably(disk, folder).map_err(failed)?;
        if disk.exists(&path).map_err(failed)? {
            let content = disk.read(&path).map_err(failed)?;
            let identity: Self =
                serde_json::from_slice(&content).map_err(|error| failed(error.into()))?;
            if identity.format != 1 {
                let reason = format!("{}: unknown format [{}]", path.display(), identity.format);
                return Err(Error::new(Kind::Configuration, reason));
            }
            return Ok(identity);
        }
        let identity = Self { format: 1, cluster_uuid: new_id(), node_id: new_id() };
        let content = serde_json::to_vec(&identity).map_err(|error| failed(error.into()))?;
        replace_file(disk, &path, &content).map_err(failed)?;
        Ok(identity)
    }
}

/// Verifies a folder's identity; a repair removes a damaged one.
pub(crate) fn check(check: &mut Check<'_>, folder: &Path) {
    check.begin("node");
    let path = folder.join(FILE);
    if !check.disk().exists(&path).unwrap_or_default() {
        return;
    }
    let mark = check.mark();
    let Some(content) = check.read("identity", &path) else { return };
    match serde_json::from_slice::<Identity>(&content) {
        Ok(identity) if identity.format == 1 => {}
        Ok(identity) => {
            let problem = format!("has the unknown format [{}]", identity.format);
            return check.damaged("identity", &path, problem, "not repaired");
        }
        Err(error) => check.damaged("identity", &path, format!("is damaged: {error}"), ""),
    }
    check.settle(mark, "it is removed: the node gets new names", |disk| disk.remove(&path));
}

/// An id in 22 characters of URL-safe base64, rising with time so that neighbours lie together.
pub(crate) fn new_id() -> String {
    URL_SAFE_NO_PAD.encode(Uuid::now_v7().as_bytes())
}

#[cfg(test)]
mod tests {
    use egret_aof::disk::FileDisk;

    use super::*;

    #[test]
    fn an_identity_stays() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("a/b");
        let first = Identity::open(&FileDisk, &data).unwrap();
        assert_eq!(Identity::open(&FileDisk, &data).unwrap(), first);
        std::fs::write(data.join("node.json"), "{").unwrap();
        assert!(Identity::open(&FileDisk, &data).is_err());
    }
}
