//! Campaigns of seeded runs: `POWER_RUNS` of them, from `POWER_SEED` on.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::poll;

/// After so many runs a long campaign says how far it is.
const RUNS_BETWEEN_REPORTS: u64 = 100;

/// The seeds of a campaign that has `runs` by default.
pub fn seeds(runs: u64) -> Range<u64> {
    let setting = |name: &str, default: u64| {
        let text = std::env::var(name).unwrap_or_default();
        if text.is_empty() { default } else { text.parse().unwrap() }
    };
    let first = setting("POWER_SEED", 1);
    first..first + setting("POWER_RUNS", runs)
}

/// Runs every seed, `threads` at a time, and returns the sum of what the runs return.
pub fn campaign(seeds: Range<u64>, threads: u64, run: impl Fn(u64) -> u64 + Sync) -> u64 {
    let (next, total) = (AtomicU64::new(seeds.start), AtomicU64::new(0));
    let work = || {
        while let Some(seed) =
            Some(next.fetch_add(1, Ordering::Relaxed)).filter(|seed| seeds.contains(seed))
        {
            total.fetch_add(run(seed), Ordering::Relaxed);
            let done = seed + 1 - seeds.start;
            if done.is_multiple_of(RUNS_BETWEEN_REPORTS) {
                poll::report(&format!("{done} runs"));
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    total.into_inner()
}
