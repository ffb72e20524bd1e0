//! Verifying the files of a metrics store that nobody has open.

use std::path::Path;
use std::sync::Arc;

use egret_aof::check::Check;
use egret_aof::log::Log;

use crate::keeper::{LOG, PARTITIONS, SUFFIX};
use crate::partition::Partition;

/// Verifies every sealed partition and the log. A repair removes partitions that are damaged, two
/// hours of measurements each, and skips damaged records of the log.
pub fn check(check: &mut Check<'_>, folder: &Path) {
    check.begin("metrics");
    let disk = Arc::clone(check.disk());
    let partitions = folder.join(PARTITIONS);
    for name in disk.list(&partitions).unwrap_or_default() {
        if name.ends_with(SUFFIX) {
            check_partition(check, &partitions.join(name));
        }
    }
    let log = folder.join(LOG);
    if Log::exists(disk.as_ref(), &log).unwrap_or_default() {
        check.log("log", &log, |_| Ok(()));
    }
}

fn check_partition(check: &mut Check<'_>, path: &Path) {
    let mark = check.mark();
    let Some(bytes) = check.read("partition", path) else { return };
    let damage = match Partition::open(bytes, Arc::new) {
        Ok(partition) => partition
            .series()
            .find_map(|series| partition.chunk(series)?.err())
            .map(|it| it.to_string()),
        Err(error) => Some(error.to_string()),
    };
    if let Some(damage) = damage {
        check.damaged("partition", path, damage, "");
    }
    check.settle(mark, "its two hours of measurements are removed", |disk| disk.remove(path));
}
