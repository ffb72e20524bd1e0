//! Indexes that could not be opened: what is damaged stays so, and what only lacked something that the
//! system may have by now is tried again.

use std::io;

use super::{Engine, Handle};
use crate::error::{Error, ErrorKind};

/// Why an index could not be opened.
pub(super) struct Unopened {
    pub(super) reason: String,
    may_pass: bool,
}

impl Unopened {
    pub(super) fn new(error: &Error) -> Self {
        Self { reason: error.to_string(), may_pass: may_pass(error) }
    }

    /// It is not to be opened unless somebody says so.
    pub(super) fn abandoned(reason: &str) -> Self {
        Self { reason: reason.to_owned(), may_pass: false }
    }

    /// What whoever asks for the index is told.
    pub(super) fn error(&self, name: &str) -> Error {
        let reason = &self.reason;
        let (kind, message) = if self.may_pass {
            let message = format!("index [{name}] could not be opened yet: {reason}");
            (ErrorKind::Unavailable, message)
        } else {
            (ErrorKind::Corrupt, format!("index [{name}] could not be opened: {reason}"))
        };
        Error::new(kind, message).with_index(name)
    }
}

impl Engine {
    /// Tries again to open the indexes for which the system lacked something (space, files, memory);
    /// says which ones it could open. Blocking.
    pub fn open_again(&self) -> Vec<String> {
        let mut opened = Vec::new();
        for name in self.passing() {
            let changing = self.changing.lock();
            // Others may have been faster.
            if !self.passing().contains(&name) {
                continue;
            }
            let catalog = self.catalog();
            let Some(entry) = catalog.indexes.get(&name) else { continue };
            let handle = self.handle(&name, entry, &|_| ()).unwrap_or_else(|error| {
                tracing::warn!(index = %name, %error, "an index cannot be opened yet");
                Handle::Damaged(Unopened::new(&error))
            });
            if let Some(index) = handle.running()
                && index.pipeline().is_none()
            {
                self.open_kept_of(&changing, index);
            }
            if !matches!(handle, Handle::Damaged(_)) {
                tracing::info!(index = %name, "an index could be opened by now");
                opened.push(name.clone());
            }
            self.served.write().handles.insert(name, handle);
        }
        opened
    }

    /// Indexes that may be opened by now.
    fn passing(&self) -> Vec<String> {
        let served = self.served.read();
        let may_pass = |handle: &Handle| matches!(handle, Handle::Damaged(why) if why.may_pass);
        let passing = served.handles.iter().filter(|(_, handle)| !served.ended && may_pass(handle));
        passing.map(|(name, _)| name.clone()).collect()
    }

    /// Whether [`Engine::open_again`] has anything to do.
    pub fn has_unavailable(&self) -> bool {
        !self.passing().is_empty()
    }
}

/// Whether the system refused something that it may allow later.
fn may_pass(error: &Error) -> bool {
    let mut at: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = at {
        at = error.source();
        if let Some(error) = error.downcast_ref::<io::Error>() {
            if lacks_something(error) {
                return true;
            }
            // Its own source is only that of what it wraps.
            at = error.get_ref().map(|inner| inner as _);
        }
    }
    false
}

fn lacks_something(error: &io::Error) -> bool {
    /// Too many open files, of the system and of the process; the library has no names for them.
    const FILES: [i32; 2] = [23, 24];
    let of_kind = matches!(
        error.kind(),
        io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::OutOfMemory
            | io::ErrorKind::WouldBlock
            | io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::PermissionDenied
    );
    of_kind || error.raw_os_error().is_some_and(|code| FILES.contains(&code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_is_told_from_damage() {
        let check =
            |error: Error, expected: bool| assert_eq!(may_pass(&error), expected, "{error}");
        let wrapped =
            |error: io::Error| Error::new(ErrorKind::Corrupt, "wrapped").with_source(error);
        check(io::Error::from_raw_os_error(24).into(), true);
        check(wrapped(io::Error::from(io::ErrorKind::StorageFull)), true);
        check(wrapped(io::Error::other(io::Error::from_raw_os_error(23))), true);
        check(wrapped(io::Error::other(wrapped(io::ErrorKind::QuotaExceeded.into()))), true);
        check(wrapped(io::ErrorKind::NotFound.into()), false);
        check(wrapped(io::Error::other("an input/output error")), false);
        check(Error::new(ErrorKind::Corrupt, "its checksum differs"), false);
    }
}
