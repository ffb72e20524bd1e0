//! Threads that help writers with large batches: documents are read and segments built by several
//! at once, while the writer's own thread waits for them, so that it alone decides everything.

use std::sync::OnceLock;

use rayon::{ThreadPool, ThreadPoolBuilder};

use super::scheduling::Schedule;

/// At most so many work on one batch, the writer included. Each builds a segment of its own.
const MOST_WAYS: usize = 4;
/// So many pieces of work are worth waking others for; in tests nearly any, to see it at work.
const WORTH_SHARING: usize = if cfg!(test) { 3 } else { 256 };

/// The helpers of all writers, begun when they are first needed.
fn helpers() -> Option<&'static ThreadPool> {
    static HELPERS: OnceLock<Option<ThreadPool>> = OnceLock::new();
    let start = || {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = processors.min(MOST_WAYS) - 1;
        if threads == 0 {
            return None;
        }
        let builder = ThreadPoolBuilder::new().num_threads(threads);
        let builder = builder.start_handler(|_| Schedule::LongSlices.take());
        let pool = builder.thread_name(|number| format!("egret-build-{number}")).build();
        pool.map_err(|error| tracing::warn!(%error, "writers have no helpers")).ok()
    };
    HELPERS.get_or_init(start).as_ref()
}

/// Into how many parts so many pieces of work are best divided.
pub(super) fn ways(pieces: usize) -> usize {
    if pieces < WORTH_SHARING {
        return 1;
    }
    helpers().map_or(1, |pool| pool.current_num_threads() + 1)
}

/// Works on all parts at once, one of them on this thread, and returns when all are done. A panic
/// of one comes out of here.
pub(super) fn at_once<T: Send, R: Send>(parts: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    let pool = if parts.len() > 1 { helpers() } else { None };
    let Some(pool) = pool else { return parts.into_iter().map(work).collect() };
    let mut results: Vec<Option<R>> = parts.iter().map(|_| None).collect();
    pool.in_place_scope(|scope| {
        let work = &work;
        let mut pairs = parts.into_iter().zip(&mut results);
        let own = pairs.next();
        for (part, result) in pairs {
            scope.spawn(move |_| *result = Some(work(part)));
        }
        if let Some((part, result)) = own {
            *result = Some(work(part));
        }
    });
    results.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_the_order_of_the_parts() {
        for count in [0, 1, 2, 7] {
            let parts: Vec<usize> = (0..count).collect();
            let doubled: Vec<usize> = parts.iter().map(|part| part * 2).collect();
            assert_eq!(at_once(parts, |part| part * 2), doubled);
        }
    }

    #[test]
    fn a_panic_comes_out() {
        let result = crate::store::builder::guarded(|| {
            at_once(vec![1, 2], |part| assert_eq!(part, 1));
            Ok(())
        });
        assert!(result.is_err());
    }
}
