//! What the kernel's scheduler is told of the threads that write: that they work in long stretches,
//! and that large merges take what others leave.
//!
//! A search is short, and wakes several threads in turn. Where all processors are busy, each of them
//! waits until a slice of somebody's time is over. Linux lets a thread that wakes with a shorter slice
//! go first (EEVDF, from 6.12 on). Writers, flushes and merges ask for long slices: their share of the
//! time stays what it was, and they are interrupted by what is short. Older kernels ignore it.

/// How a thread is scheduled that works for as long as there is something to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Schedule {
    /// With its share, in long slices.
    LongSlices,
    /// Where nobody else wants the processor.
    Leftovers,
}

/// The lowest priority there is.
const LEFTOVERS_NICENESS: i32 = 19;

impl Schedule {
    /// Has the calling thread scheduled so. Where the system refuses, it stays as it was.
    pub(super) fn take(self) {
        // On Linux niceness belongs to the calling thread.
        if self == Self::Leftovers
            && let Err(error) = rustix::process::setpriority_process(None, LEFTOVERS_NICENESS)
        {
            tracing::debug!(%error, "merges run at normal priority");
        }
        #[cfg(target_os = "linux")]
        if let Err(error) = lengthen_slices() {
            tracing::debug!(%error, "a writing thread keeps usual slices");
        }
    }
}

/// Asks for long slices for the calling thread, see `sched_setattr(2)`.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "no crate has this call but for real-time threads")]
fn lengthen_slices() -> std::io::Result<()> {
    const SLICE_NANOS: u64 = 30_000_000;
    let attributes = libc::sched_attr {
        size: u32::try_from(size_of::<libc::sched_attr>()).unwrap_or_default(),
        sched_policy: 0,
        // Who started the program may have chosen another.
        sched_flags: u64::from(libc::SCHED_FLAG_KEEP_POLICY.unsigned_abs()),
        // It is set with the rest: it stays as it is.
        sched_nice: rustix::process::getpriority_process(None)?,
        sched_priority: 0,
        sched_runtime: SLICE_NANOS,
        sched_deadline: 0,
        sched_period: 0,
    };
    let calling_thread: libc::pid_t = 0;
    let flags: libc::c_uint = 0;
    // SAFETY: the kernel reads `size` bytes of `attributes`, which live until the call returns.
    let result = unsafe {
        libc::syscall(libc::SYS_sched_setattr, calling_thread, &raw const attributes, flags)
    };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_may_ask_for_it_and_keep_their_niceness() {
        let taken = |schedule: Schedule| {
            let thread = std::thread::spawn(move || {
                schedule.take();
                rustix::process::getpriority_process(None).unwrap()
            });
            thread.join().unwrap()
        };
        let before = rustix::process::getpriority_process(None).unwrap();
        assert_eq!(taken(Schedule::LongSlices), before);
        assert_eq!(taken(Schedule::Leftovers), LEFTOVERS_NICENESS);
        #[cfg(target_os = "linux")]
        if let Err(error) = lengthen_slices() {
            // A sandbox may refuse it.
            use std::io::ErrorKind::{PermissionDenied, Unsupported};
            assert!(matches!(error.kind(), PermissionDenied | Unsupported), "{error}");
        }
    }
}
