//! What the server counts. Each UDP worker writes to a shard of its own, so that counting never makes two cores wait
//! for one line of memory; everything else shares one more. Reading adds them up.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Something counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Counter {
    /// Packets that came over UDP.
    UdpQueries,
    /// Messages that came over TCP, with or without TLS.
    TcpQueries,
    /// Queries of sources that may not ask.
    NotPermitted,
    /// Packets that got no reply: no query, or from an address that nobody can be at.
    Dropped,
    /// Replies with TC set.
    Truncated,
    /// Answers that hold a part of the addresses that there are, as all do not fit.
    PartAnswers,
    /// Queries handed to the forwarder.
    Forwarded,
    /// Queries that waited for their asker to become known.
    Waited,
    /// Queries whose asker stayed unknown, or who may not ask yet, before Docker was listed: SERVFAIL.
    StayedUnknown,
    /// Queries over one of the caps on forwarding and waiting: SERVFAIL at once.
    OverCap,
    /// Queries beyond the rate of their source: truncated or dropped, unless they carry a cookie of ours.
    TooOften,
    /// Queries that the hot path leaves to the complete one, dropped because too many of them wait.
    OddOverCap,
    /// Panics while answering, caught: each is a bug.
    Panics,
    /// Replies that the kernel did not take.
    SendErrors,
    /// Errors of receiving or accepting.
    ReceiveErrors,
    /// TCP connections accepted.
    TcpConnections,
    /// TCP connections closed at once, over one of the caps.
    TcpOverCap,
    /// TCP connections closed because they were idle for longest while there was hardly room for new ones.
    TcpEvicted,
    /// TCP connections closed because their client was slow, or silent for too long.
    TcpTimeouts,
    /// Handshakes of TLS that were done.
    TlsHandshakes,
    /// Handshakes of TLS that failed, or were too slow.
    TlsFailures,
}

impl Counter {
    /// All of them, in order.
    pub const ALL: [Self; 21] = [
        Self::UdpQueries,
        Self::TcpQueries,
        Self::NotPermitted,
        Self::Dropped,
        Self::Truncated,
        Self::PartAnswers,
        Self::Forwarded,
        Self::Waited,
        Self::StayedUnknown,
        Self::OverCap,
        Self::TooOften,
        Self::OddOverCap,
        Self::Panics,
        Self::SendErrors,
        Self::ReceiveErrors,
        Self::TcpConnections,
        Self::TcpOverCap,
        Self::TcpEvicted,
        Self::TcpTimeouts,
        Self::TlsHandshakes,
        Self::TlsFailures,
    ];

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::UdpQueries => "udp_queries",
            Self::TcpQueries => "tcp_queries",
            Self::NotPermitted => "not_permitted",
            Self::Dropped => "dropped",
            Self::Truncated => "truncated",
            Self::PartAnswers => "part_answers",
            Self::Forwarded => "forwarded",
            Self::Waited => "waited",
            Self::StayedUnknown => "stayed_unknown",
            Self::OverCap => "over_cap",
            Self::TooOften => "too_often",
            Self::OddOverCap => "odd_over_cap",
            Self::Panics => "panics",
            Self::SendErrors => "send_errors",
            Self::ReceiveErrors => "receive_errors",
            Self::TcpConnections => "tcp_connections",
            Self::TcpOverCap => "tcp_over_cap",
            Self::TcpEvicted => "tcp_evicted",
            Self::TcpTimeouts => "tcp_timeouts",
            Self::TlsHandshakes => "tls_handshakes",
            Self::TlsFailures => "tls_failures",
        }
    }
}

/// The header has four bits for it; what EDNS adds is not told apart.
const RCODES: usize = 16;

/// All counters at one moment, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    counters: [u64; Counter::ALL.len()],
    rcodes: [u64; RCODES],
}

impl Counts {
    /// One counter.
    pub fn get(&self, counter: Counter) -> u64 {
        self.counters[counter as usize]
    }

    /// Replies by the response code in their header; the index is the code.
    pub fn rcodes(&self) -> &[u64; 16] {
        &self.rcodes
    }
}

/// One writer's counters, on cache lines of their own (128 octets: the adjacent line is fetched along).
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Shard {
    counters: [AtomicU64; Counter::ALL.len()],
    rcodes: [AtomicU64; RCODES],
}

impl Shard {
    pub(super) fn count(&self, counter: Counter) {
        self.counters[counter as usize].fetch_add(1, Relaxed);
    }

    /// Adds what was counted in a batch.
    pub(super) fn add(&self, tally: &Tally) {
        let Counts { counters, rcodes } = &tally.0;
        let sums = self.counters.iter().zip(counters).chain(self.rcodes.iter().zip(rcodes));
        for (sum, counted) in sums.filter(|(_, counted)| **counted > 0) {
            sum.fetch_add(*counted, Relaxed);
        }
    }

    /// Counts a reply by what its header says.
    pub(super) fn count_reply(&self, reply: &[u8]) {
        let [_, _, flags, more, ..] = reply else { return };
        self.rcodes[usize::from(more & 0x0f)].fetch_add(1, Relaxed);
        if flags & 0b10 != 0 {
            self.count(Counter::Truncated);
        }
    }
}

/// What a worker counted in one batch, added to its shard at the end of it.
#[derive(Debug, Default)]
pub(super) struct Tally(Counts);

impl Tally {
    pub(super) fn count(&mut self, counter: Counter) {
        self.0.counters[counter as usize] += 1;
    }

    /// Counts a reply by what its header says.
    pub(super) fn count_reply(&mut self, reply: &[u8]) {
        let [_, _, flags, more, ..] = reply else { return };
        self.0.rcodes[usize::from(more & 0x0f)] += 1;
        if flags & 0b10 != 0 {
            self.count(Counter::Truncated);
        }
    }
}

/// The shards: one per worker, then that of the complete path, the last for all tasks.
#[derive(Debug)]
pub(super) struct Metrics {
    shards: Box<[Shard]>,
}

impl Metrics {
    pub(super) fn new(workers: usize) -> Self {
        Self { shards: (0..workers + 2).map(|_| Shard::default()).collect() }
    }

    /// The shard of one worker.
    pub(super) fn worker(&self, index: usize) -> &Shard {
        &self.shards[index.min(self.shards.len() - 1)]
    }

    /// The shard of the complete path's thread.
    pub(super) fn odd(&self) -> &Shard {
        &self.shards[self.shards.len() - 2]
    }

    /// The shard of everything that is no worker.
    pub(super) fn tasks(&self) -> &Shard {
        self.worker(usize::MAX)
    }

    pub(super) fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for shard in &self.shards {
            for (sum, counter) in counts.counters.iter_mut().zip(&shard.counters) {
                *sum += counter.load(Relaxed);
            }
            for (sum, rcode) in counts.rcodes.iter_mut().zip(&shard.rcodes) {
                *sum += rcode.load(Relaxed);
            }
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_shards_counted_adds_up() {
        let metrics = Metrics::new(2);
        metrics.worker(0).count(Counter::UdpQueries);
        metrics.worker(1).count(Counter::UdpQueries);
        metrics.tasks().count(Counter::TcpTimeouts);
        metrics.worker(1).count_reply(&[0, 0, 0x82, 0x83]);
        metrics.worker(1).count_reply(&[0, 0]);
        let mut tally = Tally::default();
        tally.count(Counter::UdpQueries);
        tally.count(Counter::Dropped);
        tally.count_reply(&[0, 0, 0x84, 0x80]);
        metrics.worker(0).add(&tally);
        metrics.odd().count(Counter::UdpQueries);
        let counts = metrics.counts();
        assert_eq!(counts.get(Counter::UdpQueries), 4);
        assert_eq!(counts.get(Counter::Dropped), 1);
        assert_eq!(counts.get(Counter::TcpTimeouts), 1);
        assert_eq!(counts.get(Counter::Truncated), 1);
        assert_eq!((counts.rcodes()[3], counts.rcodes().iter().sum::<u64>()), (1, 2));
    }

    #[test]
    fn every_counter_is_listed_in_its_place() {
        for (place, counter) in Counter::ALL.into_iter().enumerate() {
            assert_eq!(counter as usize, place, "{}", counter.name());
        }
    }
}
