//! How often one source is answered over UDP: a token bucket per source, for those whose address may be written into a query
//! by anybody. A bucket that is empty costs its source a truncated answer, so that a real client asks again over TCP, where
//! nobody can use another's address; of two only one is sent, so that little is reflected (response rate limiting).

use std::{
    hash::BuildHasher,
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

use crate::dns::wire::Pace;

/// Buckets of one worker, by a seeded hash of the source; a power of two. 12 octets each.
const BUCKETS: usize = 4096;

/// Tokens of a full bucket are those of two seconds: clients ask in bursts.
const BURST: u32 = 2;

/// Parts of a token, for rates that are no whole number of tokens a millisecond.
const PARTS: u32 = 1000;

/// The buckets of one worker, which nobody else reads or writes. Two sources of one hash share a bucket; the hash is seeded, so
/// that nobody can choose whom to share with.
pub(super) struct Rates {
    /// Queries per second and source; 0: as many as there are.
    rate: u32,
    began: Instant,
    seed: foldhash::fast::RandomState,
    buckets: Box<[Bucket]>,
}

#[derive(Clone, Copy)]
struct Bucket {
    /// In parts.
    tokens: u32,
    /// Milliseconds since the beginning.
    filled: u32,
    dropped_last: bool,
}

impl Rates {
    pub(super) fn new(rate: u32) -> Self {
        let full = Bucket { tokens: rate.saturating_mul(BURST * PARTS), filled: 0, dropped_last: true };
        // Nothing is held where nothing is limited.
        let count = if rate == 0 { 0 } else { BUCKETS };
        Self {
            rate,
            began: Instant::now(),
            seed: foldhash::fast::RandomState::default(),
            buckets: vec![full; count].into(),
        }
    }

    /// Takes a token of the source's bucket at `now`.
    pub(super) fn take(&mut self, source: IpAddr, now: Instant) -> Pace {
        if self.rate == 0 {
            return Pace::Answer;
        }
        let now = now.saturating_duration_since(self.began);
        let place = usize::try_from(self.seed.hash_one(network(source))).unwrap_or(usize::MAX) % BUCKETS;
        self.buckets[place].take(self.rate, now)
    }
}

impl Bucket {
    fn take(&mut self, rate: u32, now: Duration) -> Pace {
        // Wraps after 49 days, which fills no bucket more than a pause would.
        let now = u32::try_from(now.as_millis() & u128::from(u32::MAX)).unwrap_or_default();
        let full = u64::from(rate) * u64::from(BURST * PARTS);
        // One millisecond brings `rate` thousandths of a token.
        let filled = u64::from(self.tokens) + u64::from(now.wrapping_sub(self.filled)) * u64::from(rate);
        self.tokens = u32::try_from(filled.min(full)).unwrap_or(u32::MAX);
        self.filled = now;
        if self.tokens >= PARTS {
            self.tokens -= PARTS;
            return Pace::Answer;
        }
        self.dropped_last = !self.dropped_last;
        if self.dropped_last { Pace::Drop } else { Pace::Truncate }
    }
}

/// One client: an IPv4 address, or the network that a client of IPv6 usually has to itself.
fn network(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paces(rates: &mut Rates, source: &str, at: Duration, count: usize) -> Vec<Pace> {
        let now = rates.began + at;
        (0..count).map(|_| rates.take(source.parse().unwrap(), now)).collect()
    }

    #[test]
    fn a_source_has_its_burst_then_its_rate_and_beyond_that_half_of_its_queries_are_truncated() {
        let mut rates = Rates::new(10);
        assert_eq!(paces(&mut rates, "192.0.2.1", Duration::ZERO, 20), [Pace::Answer; 20]);
        let [t, d] = [Pace::Truncate, Pace::Drop];
        assert_eq!(paces(&mut rates, "192.0.2.1", Duration::ZERO, 4), [t, d, t, d]);
        assert_eq!(paces(&mut rates, "192.0.2.1", Duration::from_millis(99), 1), [t]);
        assert_eq!(paces(&mut rates, "192.0.2.1", Duration::from_millis(100), 2), [Pace::Answer, d]);
        // A bucket holds no more than its burst.
        let later = paces(&mut rates, "192.0.2.1", Duration::from_secs(3600), 21);
        assert_eq!(later.iter().filter(|pace| **pace == Pace::Answer).count(), 20);
    }

    #[test]
    fn what_one_source_spends_another_still_has() {
        let mut rates = Rates::new(1);
        paces(&mut rates, "192.0.2.1", Duration::ZERO, 100);
        // Of 50 sources at most a few share its bucket, one of 4,096.
        let others =
            (2..52).filter(|last| paces(&mut rates, &format!("192.0.2.{last}"), Duration::ZERO, 1) == [Pace::Answer]);
        assert!(others.count() >= 45);
    }

    #[test]
    fn a_client_of_ipv6_has_one_bucket_for_its_network() {
        let mut rates = Rates::new(1);
        assert_eq!(paces(&mut rates, "2001:db8::1", Duration::ZERO, 2), [Pace::Answer; 2]);
        assert_eq!(paces(&mut rates, "2001:db8::2", Duration::ZERO, 1), [Pace::Truncate]);
        assert_eq!(network("::ffff:192.0.2.1".parse().unwrap()), "192.0.2.1".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn no_rate_is_no_limit() {
        let mut rates = Rates::new(0);
        assert_eq!(paces(&mut rates, "192.0.2.1", Duration::ZERO, 1000), [Pace::Answer; 1000]);
        // The fastest that can be said does not overflow.
        let mut rates = Rates::new(u32::MAX);
        assert_eq!(paces(&mut rates, "192.0.2.1", Duration::from_secs(5), 10), [Pace::Answer; 10]);
    }
}
