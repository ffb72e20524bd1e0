//! Removing files that nothing needs any more, on a thread of its own: on some file systems it takes
//! as long as a sync, and the last to let go of a file may be a writer or a search.
//!
//! What is not removed when the process ends is removed when the index is opened: no commit names it.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use egret_aof::disk::Disk;

/// Files that wait; beyond them the caller removes its own.
const QUEUE_FILES: usize = 4096;

/// A file that nothing needs.
struct Unneeded {
    disk: Arc<dyn Disk>,
    path: PathBuf,
}

impl Unneeded {
    fn remove(self) {
        match self.disk.remove(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                tracing::debug!(%error, path = %self.path.display(), "a file is left over");
            }
            _ => {}
        }
    }
}

/// Removes a file, soon.
pub(super) fn remove_soon(disk: &Arc<dyn Disk>, path: PathBuf) {
    let unneeded = Unneeded { disk: Arc::clone(disk), path };
    // The engine's own tests look at once what is left.
    let refused = match remover().filter(|_| !cfg!(test)) {
        Some(remover) => remover.try_send(unneeded).err().map(TrySendError::into_inner),
        None => Some(unneeded),
    };
    if let Some(unneeded) = refused {
        unneeded.remove();
    }
}

/// The thread that removes files, begun when it is first needed; it lives as long as the process.
fn remover() -> Option<&'static Sender<Unneeded>> {
    static REMOVER: OnceLock<Option<Sender<Unneeded>>> = OnceLock::new();
    let start = || {
        let (sender, receiver): (_, Receiver<Unneeded>) = bounded(QUEUE_FILES);
        let thread = std::thread::Builder::new().name("egret-remove".to_owned());
        let started = thread.spawn(move || receiver.iter().for_each(Unneeded::remove));
        started.ok().map(|_| sender)
    };
    REMOVER.get_or_init(start).as_ref()
}
