//! \[IO\] How soon a thread of ours runs once it has been woken: a word to Linux's scheduler.
//!
//! A container that starts keeps processors busy at the very moment that its answer is waited for. Linux (since 6.6) lets
//! whoever runs finish a slice before another one has its turn, 1.4 ms on two processors and up to 2.8 ms on larger machines, and
//! a nice value does not help: it counts among the processes of one session only (autogroups, sched(7)). Since 6.12 a thread may ask for
//! a shorter slice (`sched_runtime` in sched_setattr(2)); then it runs at once when it is woken, before those with longer ones,
//! and gets no more time than before, so that nobody starves and no right is needed.
#![expect(unsafe_code, reason = "nobody wraps sched_setattr")]

use std::{io, mem};

use nix::libc::{
    SCHED_FLAG_RESET_ON_FORK, SCHED_OTHER, SYS_sched_getattr, SYS_sched_setattr, c_long, sched_attr, syscall,
};
use tracing::debug;

/// The shortest slice that there is, in nanoseconds (100 µs). What our threads do for one event or one batch of questions
/// fits into it.
const SLICE: u64 = 100_000;

/// From now on this thread runs soon after it is woken, where Linux knows how; elsewhere everything stays as it is. So it
/// does for threads that were given another policy, such as a real-time one.
pub fn run_soon() {
    if let Err(error) = ask_for(SLICE) {
        debug!(%error, "this thread waits for its turn like all others");
    }
}

fn ask_for(slice: u64) -> io::Result<()> {
    let mut attributes = attributes()?;
    if i64::from(attributes.sched_policy) == i64::from(SCHED_OTHER) {
        attributes.sched_runtime = slice;
        // What a thread of ours starts beside is nothing that anybody waits for.
        attributes.sched_flags |= SCHED_FLAG_RESET_ON_FORK as u64;
        // SAFETY: it reads one structure, of the size that it says it has.
        check(unsafe { syscall(SYS_sched_setattr, OURSELVES, &raw const attributes, NO_FLAGS) })?;
    }
    Ok(())
}

/// The calling thread.
const OURSELVES: c_long = 0;
const NO_FLAGS: c_long = 0;

/// What the scheduler knows of this thread.
fn attributes() -> io::Result<sched_attr> {
    const SIZE: c_long = size_of::<sched_attr>() as c_long;
    // SAFETY: it consists of numbers.
    let mut attributes: sched_attr = unsafe { mem::zeroed() };
    // SAFETY: it writes one structure, at most of the size that it is told.
    check(unsafe { syscall(SYS_sched_getattr, OURSELVES, &raw mut attributes, SIZE, NO_FLAGS) })?;
    Ok(attributes)
}

fn check(result: c_long) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first Linux that has slices of threads' own.
    const KNOWS_SLICES: (u32, u32) = (6, 12);

    #[test]
    fn a_thread_has_a_shorter_slice_and_is_otherwise_as_it_was() {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let mut numbers = release.split(['.', '-']).map_while(|text| text.parse::<u32>().ok());
        let linux = (numbers.next().unwrap(), numbers.next().unwrap());
        let (before, after, child) = std::thread::spawn(|| {
            let before = attributes().unwrap();
            ask_for(SLICE).unwrap();
            (before, attributes().unwrap(), std::thread::spawn(|| attributes().unwrap()).join().unwrap())
        })
        .join()
        .unwrap();
        assert_eq!((after.sched_policy, after.sched_nice), (before.sched_policy, before.sched_nice));
        assert_ne!(before.sched_runtime, SLICE, "or this test is void");
        let expected = if linux >= KNOWS_SLICES { SLICE } else { before.sched_runtime };
        assert_eq!(after.sched_runtime, expected, "on Linux {release}");
        assert_eq!((child.sched_runtime, child.sched_policy), (before.sched_runtime, before.sched_policy));
    }
}
