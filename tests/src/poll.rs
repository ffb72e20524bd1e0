//! Waiting for a condition with a deadline, in place of sleeping and hoping.

use std::fmt::Debug;
use std::future::Future;
use std::io::Write;
use std::ops::Range;
use std::time::{Duration, Instant};

use tokio::task::{JoinError, JoinSet};

/// How long tests wait for what should happen within a blink. Generous: a loaded CI machine with
/// two cores runs many tests at once.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// How long to rest between two looks: a part of the time that was waited so far, and within these
/// bounds. What comes soon is seen soon, and what takes long is not slowed down by being looked at.
const PART_OF_WAIT: u32 = 20;
const SHORTEST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// Looks until `look` gives a value, and returns it. Panics with `what` after [`DEADLINE`].
pub async fn until<T, F, Fut>(what: &str, look: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    until_deadline(what, DEADLINE, look).await
}

/// As [`until`], with a deadline of one's own.
pub async fn until_deadline<T, F, Fut>(what: &str, deadline: Duration, mut look: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let begin = Instant::now();
    loop {
        if let Some(value) = look().await {
            return value;
        }
        assert!(begin.elapsed() < deadline, "waited {deadline:?} in vain: {what}");
        tokio::time::sleep(pause(begin)).await;
    }
}

/// Looks until `look` gives a value; what it gives until then says how far it is. Panics with `what`
/// once that has not changed for [`DEADLINE`]: work that goes on may take as long as a slow machine
/// needs.
pub async fn until_stuck<T, P, F, Fut>(what: &str, mut look: F) -> T
where
    P: PartialEq + Debug,
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, P>>,
{
    let (mut last, mut begin) = (None, Instant::now());
    loop {
        match look().await {
            Ok(value) => return value,
            Err(progress) if last.as_ref() != Some(&progress) => {
                (last, begin) = (Some(progress), Instant::now());
            }
            Err(_) => {}
        }
        assert!(begin.elapsed() < DEADLINE, "stuck for {DEADLINE:?} at {last:#?}: {what}");
        tokio::time::sleep(pause(begin)).await;
    }
}

/// As [`until_deadline`] for blocking code. `None` after the deadline.
pub fn until_blocking<T>(deadline: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let begin = Instant::now();
    loop {
        if let Some(value) = look() {
            return Some(value);
        }
        if begin.elapsed() >= deadline {
            return None;
        }
        std::thread::sleep(pause(begin));
    }
}

/// The rest before the next look.
fn pause(begin: Instant) -> Duration {
    (begin.elapsed() / PART_OF_WAIT).clamp(SHORTEST_PAUSE, LONGEST_PAUSE)
}

/// Runs `run` for each of these seeds, so many at a time, and gathers what they return. Panics with the
/// seed of the first that fails.
pub async fn each_seed<T, F, Fut>(seeds: Range<u64>, at_once: usize, run: F) -> Vec<T>
where
    T: Send + 'static,
    F: Fn(u64) -> Fut,
    Fut: Future<Output = T> + Send + 'static,
{
    let mut running = JoinSet::new();
    let mut results = Vec::new();
    for seed in seeds {
        if running.len() >= at_once.max(1) {
            results.extend(running.join_next().await.map(finished));
        }
        let work = tokio::spawn(run(seed));
        running.spawn(async move { (seed, work.await) });
    }
    while let Some(ended) = running.join_next().await {
        results.push(finished(ended));
    }
    results
}

fn finished<T>(ended: Result<(u64, Result<T, JoinError>), JoinError>) -> T {
    let (seed, result) = ended.unwrap();
    result.unwrap_or_else(|error| panic!("seed {seed} failed: {error}"))
}

/// Prints a line at once, also where the test runner keeps what tests print to itself.
pub fn report(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
