//! How much may be sent over UDP to an address that may be forged: what its queries do not pay for by their own length.
//!
//! Load balancers and metrics servers elsewhere ask over UDP for whole answers and never over TCP, so a cap of three octets
//! for one takes their service away as it grows. Instead each address has an allowance by the second, and so has its network,
//! for an attacker may write any address of a victim's network into queries. All workers share the buckets: an attacker
//! chooses which of them he meets.

use std::{
    hash::BuildHasher,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

/// Buckets of a table, by a seeded hash; a power of two. 8 octets each.
const BUCKETS: usize = 4096;

/// What may be sent beyond what is fair, in octets a second.
pub(super) struct Allowance {
    began: Instant,
    addresses: Table,
    networks: Table,
}

/// Buckets that hold the octets of one second when they are full. Two sources of one hash share a bucket; the hash is seeded,
/// so that none can choose with whom.
struct Table {
    per_second: u32,
    seed: foldhash::fast::RandomState,
    /// Octets that are left in the upper half, milliseconds since the beginning in the lower.
    buckets: Box<[AtomicU64]>,
}

impl Allowance {
    pub(super) fn new(per_address: u32, per_network: u32) -> Self {
        Self { began: Instant::now(), addresses: Table::new(per_address), networks: Table::new(per_network) }
    }

    /// Takes so many octets, if both the address and its network have them left at `now`.
    pub(super) fn take(&self, address: IpAddr, octets: usize, now: Instant) -> bool {
        let Ok(octets) = u32::try_from(octets) else { return false };
        let now = now.saturating_duration_since(self.began).as_millis();
        // Wraps after 49 days, which fills no bucket more than a pause would.
        let now = u32::try_from(now & u128::from(u32::MAX)).unwrap_or_default();
        let (address, network) = (address.to_canonical(), network(address));
        if !self.addresses.take(address, octets, now) {
            return false;
        }
        let has = self.networks.take(network, octets, now);
        if !has {
            self.addresses.give_back(address, octets);
        }
        has
    }
}

impl Table {
    fn new(per_second: u32) -> Self {
        let buckets = (0..BUCKETS).map(|_| AtomicU64::new(u64::from(per_second) << 32)).collect();
        Self { per_second, seed: foldhash::fast::RandomState::default(), buckets }
    }

    fn bucket(&self, address: IpAddr) -> &AtomicU64 {
        &self.buckets[usize::try_from(self.seed.hash_one(address)).unwrap_or(usize::MAX) % BUCKETS]
    }

    fn take(&self, address: IpAddr, octets: u32, now: u32) -> bool {
        let taken = self.bucket(address).fetch_update(Ordering::Relaxed, Ordering::Relaxed, |bucket| {
            let (left, filled) = halves(bucket);
            // One that is newer was filled by a worker whose batch came later.
            let since = now.wrapping_sub(filled);
            let since = if since > u32::MAX / 2 { 0 } else { since };
            let came = u64::from(since) * u64::from(self.per_second) / 1000;
            let full = (u64::from(left) + came).min(self.per_second.into());
            let rest = full.checked_sub(octets.into())?;
            // A pause that brought nothing yet is not forgotten.
            let filled = if came == 0 { filled } else { filled.wrapping_add(since) };
            Some(rest << 32 | u64::from(filled))
        });
        taken.is_ok()
    }

    fn give_back(&self, address: IpAddr, octets: u32) {
        let back = |bucket| {
            let (left, filled) = halves(bucket);
            let left = left.saturating_add(octets).min(self.per_second);
            Some(u64::from(left) << 32 | u64::from(filled))
        };
        let _always = self.bucket(address).fetch_update(Ordering::Relaxed, Ordering::Relaxed, back);
    }
}

fn halves(bucket: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = bucket.to_be_bytes();
    (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]))
}

/// The network that an attack on its line is aimed at: /24 of IPv4, /56 of IPv6, which is what a site has at least.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            IpAddr::V4(Ipv4Addr::new(a, b, c, 0))
        }
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from(u128::from(ip) >> 72 << 72)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const KIB: usize = 1024;

    fn at(allowance: &Allowance, milliseconds: u64) -> Instant {
        allowance.began + Duration::from_millis(milliseconds)
    }

    /// How many replies with a KiB each beyond what is fair go to an address.
    fn sent(allowance: &Allowance, address: &str, milliseconds: u64) -> usize {
        let now = at(allowance, milliseconds);
        (0..1000).take_while(|_| allowance.take(address.parse().unwrap(), KIB, now)).count()
    }

    #[test]
    fn an_address_has_its_second_at_once_and_then_what_time_brings() {
        let allowance = Allowance::new(128 * 1024, 512 * 1024);
        assert_eq!(sent(&allowance, "192.0.2.1", 0), 128);
        assert_eq!(sent(&allowance, "192.0.2.1", 100), 12);
        // Of a hundred looks a millisecond apart none loses what came meanwhile.
        let late = (101..=1100).map(|now| sent(&allowance, "192.0.2.1", now)).sum::<usize>();
        assert!((127..=129).contains(&late), "{late}");
        assert_eq!(sent(&allowance, "192.0.2.1", 3_600_000), 128, "a bucket holds no more than a second's");
    }

    #[test]
    fn a_network_has_less_than_all_its_addresses() {
        let allowance = Allowance::new(128 * 1024, 512 * 1024);
        let all: usize = (1..=100).map(|last| sent(&allowance, &format!("192.0.2.{last}"), 0)).sum();
        assert_eq!(all, 512);
        assert_eq!(sent(&allowance, "198.51.100.1", 0), 128, "another network has its own");
        let all: usize = (0..100).map(|last| sent(&allowance, &format!("2001:db8:0:1{last:02}::1"), 0)).sum();
        assert_eq!(all, 512, "one /56");
    }

    #[test]
    fn what_the_network_does_not_have_is_given_back_to_the_address() {
        let allowance = Allowance::new(128 * 1024, 128 * 1024);
        assert_eq!(sent(&allowance, "192.0.2.1", 0), 128);
        assert_eq!(sent(&allowance, "192.0.2.2", 0), 0);
        let (left, _) = halves(allowance.addresses.bucket("192.0.2.2".parse().unwrap()).load(Ordering::Relaxed));
        assert_eq!(left, 128 * 1024);
    }

    #[test]
    fn nothing_is_no_allowance_and_the_most_does_not_overflow() {
        let allowance = Allowance::new(0, 0);
        assert_eq!(sent(&allowance, "192.0.2.1", 5000), 0);
        let allowance = Allowance::new(u32::MAX, u32::MAX);
        assert_eq!(sent(&allowance, "192.0.2.1", 5_000_000), 1000);
        assert!(!allowance.take("192.0.2.1".parse().unwrap(), usize::MAX, at(&allowance, 0)));
    }

    /// Whatever workers take at once, none gets what another has.
    #[test]
    fn workers_share_the_allowance() {
        let allowance = Allowance::new(128 * 1024, 512 * 1024);
        let all: usize = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4).map(|_| scope.spawn(|| sent(&allowance, "192.0.2.1", 0))).collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).sum()
        });
        assert_eq!(all, 128);
    }
}
