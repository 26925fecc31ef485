//! What the forwarder counts. Hits of the cache are counted in it, so that its threads do not share a counter.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What the forwarder has done since it was made.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct ForwardCounts {
            $($(#[$doc])* pub $name: u64,)*
        }

        #[derive(Default)]
        pub(super) struct Counters {
            $(pub(super) $name: AtomicU64,)*
        }

        impl Counters {
            pub(super) fn counts(&self) -> ForwardCounts {
                ForwardCounts { $($name: self.$name.load(Relaxed),)* }
            }
        }
    };
}

counts! {
    /// Questions handed to it, and those to which it was said at once that nobody can be asked. Not those whose answer was known.
    asked,
    /// Answered, from an upstream or the cache.
    answered,
    /// SERVFAIL because every upstream failed, or had a moment ago.
    failed,
    /// REFUSED because there is no upstream.
    refused,
    /// Questions that must not leave, stopped here although nobody should have brought them.
    withheld,
    /// Denied here: names of the site that no upstream may be asked for.
    kept,
    /// Answered with what is older than it should be, because no upstream answered in time.
    stale,
    /// Handed on empty, or without what stood beside the answer, because that told of addresses inside networks.
    private,
    /// Waited for an answer that somebody else had asked for.
    coalesced,
    /// SERVFAIL, or an older answer, because too much was under way.
    over_cap,
    /// Times that some upstream was asked.
    attempts,
    /// Attempts that ended without a reply.
    timeouts,
    /// Replies that were not to our question: late, confused or forged.
    mismatched,
    /// Attempts that went on over TCP because so many replies were not to our question.
    besieged,
    /// Truncated replies fetched over TCP.
    over_tcp,
    /// Probes for loops that came back to us.
    loops,
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}
