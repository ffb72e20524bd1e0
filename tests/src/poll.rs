//! Waiting for a condition with a deadline, in place of sleeping and hoping.

use std::future::Future;
use std::io::Write;
use std::time::{Duration, Instant};

/// How long tests wait for what should happen within a blink. Generous: a loaded CI machine with
/// two cores runs many tests at once.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// How long to rest between two looks.
const PAUSE: Duration = Duration::from_millis(10);

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
        tokio::time::sleep(PAUSE).await;
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
        std::thread::sleep(PAUSE);
    }
}

/// Prints a line at once, also where the test runner keeps what tests print to itself.
pub fn report(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
