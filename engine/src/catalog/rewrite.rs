//! Rewriting: a rebuild under the mapping as it is, for documents that were written before a field was
//! added to it and may have a value for it. It is begun by whoever looks after the engine, and gives way
//! to a rebuild that somebody asks for, and to whoever closes the index.

use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::change::Changing;
use super::rebuild::detach;
use super::{Engine, Rebuild, not_found};
use crate::error::{Error, ErrorKind, Result};
use crate::index::Index;
use crate::store::settings::{Blocks, IndexSettings, Rewrite};

/// Why an index that has something outstanding is not rewritten now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hindrance {
    /// `index.mapping.rewrite` is `manual`.
    Manual,
    /// It is larger than `index.mapping.rewrite_up_to`.
    TooLarge {
        /// What it has.
        size_bytes: u64,
        /// What the setting says.
        up_to_bytes: u64,
    },
    /// `index.blocks` let nobody change it.
    Blocked,
    /// A folder from before a rebuild is kept, which another rebuild would remove.
    Kept,
    /// It is being rebuilt.
    Rebuilt,
}

impl Hindrance {
    /// Whether the index is left to a rebuild by hand.
    pub fn is_for_good(self) -> bool {
        matches!(self, Self::Manual | Self::TooLarge { .. })
    }
}

impl fmt::Display for Hindrance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Manual => f.write_str("[index.mapping.rewrite] is [manual]"),
            Self::TooLarge { size_bytes, up_to_bytes } => write!(
                f,
                "the index has [{size_bytes}] bytes, more than [index.mapping.rewrite_up_to] of \
                 [{up_to_bytes}]"
            ),
            Self::Blocked => f.write_str("[index.blocks] keep the index as it is"),
            Self::Kept => f.write_str("the folder from before its last rebuild is still kept"),
            Self::Rebuilt => f.write_str("the index is being rebuilt"),
        }
    }
}

impl Rebuild {
    /// The UUID of the folder that it fills.
    fn uuid(&self) -> &str {
        self.new.uuid()
    }

    /// Whether it cannot go on since it had to make way for something else, or went with its index.
    pub fn has_given_way(&self) -> bool {
        let known = self.engine.replacement(self.main.name());
        known.is_none_or(|known| !Arc::ptr_eq(&known, &self.new))
    }
}

/// What the rebuild of an index ends with that had to make way.
pub(super) fn given_way(name: &str) -> Error {
    Error::new(ErrorKind::Closed, format!("the rebuild of index [{name}] was given up"))
}

impl Engine {
    /// What keeps an index from being rewritten.
    pub fn rewrite_hindrance(&self, index: &Index) -> Option<Hindrance> {
        let settings = index.shared().identity.settings.load();
        let IndexSettings { rewrite, rewrite_up_to_bytes: up_to_bytes, blocks, .. } = **settings;
        let size_bytes = index.stats().size_bytes;
        let Blocks { read_only, read_only_allow_delete, metadata, .. } = blocks;
        let catalog = self.catalog();
        let is_kept = catalog.indexes.get(index.name()).is_some_and(|entry| entry.kept.is_some());
        if rewrite == Rewrite::Manual {
            Some(Hindrance::Manual)
        } else if size_bytes > up_to_bytes {
            Some(Hindrance::TooLarge { size_bytes, up_to_bytes })
        } else if read_only || read_only_allow_delete || metadata {
            Some(Hindrance::Blocked)
        } else if is_kept {
            Some(Hindrance::Kept)
        } else {
            self.replacement(index.name()).map(|_| Hindrance::Rebuilt)
        }
    }

    /// Begins to write the documents of an open index again, under its mapping as it is; `None` where
    /// nothing is outstanding, or something keeps it from that. Blocking.
    pub fn begin_rewrite(self: &Arc<Self>, name: &str) -> Result<Option<Rebuild>> {
        let _changing = self.changing.lock();
        let next = self.next()?;
        let entry = next.indexes.get(name).ok_or_else(|| not_found(name))?;
        let main = self.index(name)?;
        let is_wanted = entry.pipeline.is_none() && main.outstanding().is_some();
        if !is_wanted || self.rewrite_hindrance(&main).is_some() {
            return Ok(None);
        }
        let rewrite = self.begin_beside(main, &Value::Object(Map::new()), entry.created_ms)?;
        self.served.write().rewrites.insert(rewrite.uuid().to_owned());
        Ok(Some(rewrite))
    }

    /// Gives up the rewrite of an index, where one runs: somebody wants something else of it.
    pub(super) fn give_way(&self, _changing: &Changing<'_>, name: &str) {
        let given_up = {
            let mut served = self.served.write();
            let running = served.replacements.get(name).map(|it| it.uuid().to_owned());
            let is_rewrite = running.is_some_and(|uuid| served.rewrites.remove(&uuid));
            if is_rewrite { served.replacements.remove(name) } else { None }
        };
        let Some(given_up) = given_up else { return };
        if let Err(error) = self.index(name).and_then(|main| detach(&main)) {
            tracing::debug!(index = name, %error, "a rewrite that is given up had ended already");
        }
        self.remove_index(Some(&given_up), given_up.uuid());
    }
}
