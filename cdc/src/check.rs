//! Verifying the files of a pipeline that nobody has open.

use std::path::Path;
use std::sync::Arc;

use egret_aof::check::Check;

use crate::dead_letters;
use crate::kept;
use crate::position::{self, Position};
use crate::verify::remembered;

/// Verifies the position and the dead letters of a pipeline. A repair removes a damaged position, so
/// that the tables are copied again, and takes damaged lines out of the list of dead letters.
pub fn check(check: &mut Check<'_>, folder: &Path) {
    let disk = Arc::clone(check.disk());
    let path = position::path(folder);
    if disk.exists(&path).unwrap_or_default() {
        let mark = check.mark();
        check.count(&path, disk.len(&path).unwrap_or_default());
        if let Err(error) = Position::load(disk.as_ref(), folder) {
            check.damaged("position", &path, error.to_string(), "");
        }
        let remedy = "the position is removed: the tables are copied again";
        check.settle(mark, remedy, |disk| {
            Position::remove(disk, folder).map_err(std::io::Error::other)
        });
    }
    dead_letters::check(check, folder);
    kept::check(check, folder);
    remembered::check(check, folder);
}
